//! Who subscribed to what: filters as a tree, a level of a topic a step.

use std::collections::HashMap;
use std::sync::Arc;

use super::session::Session;

/// What a subscription asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) qos: u8,
    /// Not what the session published itself.
    pub(crate) no_local: bool,
    /// The retain flag as it was published.
    pub(crate) keep_retain: bool,
}

/// A session that hears a topic.
#[derive(Clone)]
pub(crate) struct Hearer {
    pub(crate) session: Arc<Session>,
    pub(crate) grant: Grant,
}

/// All filters of all sessions. A filter without sessions leaves nothing behind.
#[derive(Default)]
pub(crate) struct Tree {
    root: Node,
    len: usize,
}

#[derive(Default)]
struct Node {
    /// Levels that are a text.
    named: HashMap<Box<str>, Node>,
    /// The level `+`.
    any: Option<Box<Node>>,
    /// Filters that end here.
    here: HashMap<u64, Hearer>,
    /// Filters that end here with `#`.
    rest: HashMap<u64, Hearer>,
}

impl Node {
    fn is_empty(&self) -> bool {
        self.named.is_empty() && self.any.is_none() && self.here.is_empty() && self.rest.is_empty()
    }
}

impl Tree {
    /// Filters, each counted once for each of its sessions.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Adds a filter, or replaces what it asks for.
    pub(crate) fn insert(&mut self, filter: &str, hearer: Hearer) {
        let mut node = &mut self.root;
        let mut here = true;
        for level in filter.split('/') {
            match level {
                "#" => here = false,
                "+" => node = node.any.get_or_insert_default(),
                _ => node = node.named.entry(level.into()).or_default(),
            }
        }
        let filters = if here { &mut node.here } else { &mut node.rest };
        self.len += usize::from(filters.insert(hearer.session.id, hearer).is_none());
    }

    /// Takes a filter away.
    pub(crate) fn remove(&mut self, filter: &str, session: u64) {
        let levels: Vec<&str> = filter.split('/').collect();
        self.len -= usize::from(remove(&mut self.root, &levels, session));
    }

    /// The sessions that hear a topic, each once, with the most that their filters ask for.
    pub(crate) fn hearers(&self, topic: &str) -> Vec<Hearer> {
        let levels: Vec<&str> = topic.split('/').collect();
        let mut found = Vec::new();
        collect(&self.root, &levels, &mut found);
        if found.len() > 1 {
            found.sort_unstable_by_key(|hearer| hearer.session.id);
            found.dedup_by(|next, kept| {
                let same = next.session.id == kept.session.id;
                if same {
                    kept.grant.qos = kept.grant.qos.max(next.grant.qos);
                    kept.grant.no_local &= next.grant.no_local;
                    kept.grant.keep_retain |= next.grant.keep_retain;
                }
                same
            });
        }
        found
    }
}

fn remove(node: &mut Node, levels: &[&str], session: u64) -> bool {
    let Some((level, below)) = levels.split_first() else { return node.here.remove(&session).is_some() };
    match *level {
        "#" => node.rest.remove(&session).is_some(),
        "+" => {
            let Some(next) = &mut node.any else { return false };
            let removed = remove(next, below, session);
            if next.is_empty() {
                node.any = None;
            }
            removed
        }
        level => {
            let Some(next) = node.named.get_mut(level) else { return false };
            let removed = remove(next, below, session);
            if next.is_empty() {
                node.named.remove(level);
            }
            removed
        }
    }
}

/// `a/#` hears `a` as well (section 4.7.1.2).
fn collect(node: &Node, levels: &[&str], found: &mut Vec<Hearer>) {
    found.extend(node.rest.values().cloned());
    let Some((level, below)) = levels.split_first() else {
        found.extend(node.here.values().cloned());
        return;
    };
    if let Some(next) = node.named.get(*level) {
        collect(next, below, found);
    }
    if let Some(next) = &node.any {
        collect(next, below, found);
    }
}

/// Whether a topic matches a filter.
pub(crate) fn matches(filter: &str, topic: &str) -> bool {
    let mut levels = topic.split('/');
    for part in filter.split('/') {
        match (part, levels.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (part, Some(level)) if part == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_hear_what_they_match() {
        let filters = ["#", "a", "a/#", "a/+", "+/b", "a/b", "a/+/c", "+", "+/+", "/", "a//b", "b/#"];
        let topics = ["a", "a/b", "a/b/c", "b", "b/b", "/", "a//b", "a/", "x/y/z"];
        let mut tree = Tree::default();
        let sessions: Vec<_> = (0..).map(Session::for_test).take(filters.len()).collect();
        let grant = Grant { qos: 1, no_local: false, keep_retain: false };
        for (filter, session) in filters.iter().zip(&sessions) {
            tree.insert(filter, Hearer { session: session.clone(), grant });
            tree.insert(filter, Hearer { session: session.clone(), grant });
        }
        assert_eq!(tree.len(), filters.len());
        for topic in topics {
            let found: Vec<&str> =
                tree.hearers(topic).iter().map(|hearer| filters[hearer.session.id as usize]).collect();
            let expected: Vec<&str> = filters.into_iter().filter(|filter| matches(filter, topic)).collect();
            assert_eq!(found, expected, "{topic}");
        }
        assert!(matches("a/#", "a") && !matches("a/#", "ab") && !matches("a/+", "a") && matches("a/+", "a/"));
        for (filter, session) in filters.iter().zip(&sessions) {
            tree.remove(filter, session.id);
            tree.remove(filter, session.id);
        }
        assert!(tree.root.is_empty() && tree.len() == 0);
    }

    #[test]
    fn overlapping_filters_of_a_session_are_one_message() {
        let mut tree = Tree::default();
        let session = Session::for_test(7);
        for (filter, qos) in [("a/+", 0), ("a/b", 1), ("#", 0)] {
            let grant = Grant { qos, no_local: false, keep_retain: false };
            tree.insert(filter, Hearer { session: session.clone(), grant });
        }
        let found = tree.hearers("a/b");
        assert_eq!((found.len(), found[0].grant.qos), (1, 1));
    }
}
