//! Calls in which the process dies. A guest that brings the process down would bring it down again in every replay,
//! and nobody could deploy anything better. So a replay notes, in a file, the call that it is about to make; a start
//! that finds the same call there for the third time skips it, as one that failed.
//!
//! Only a replay pays for it: what dies while it is live dies in the replay too, or is gone. But for tries of a rule that
//! is out: nothing of them is in the log before they are over, so they are noted while they are live. The files are not
//! synced: they have to survive the process, not the machine.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use watchfire_model::{Offset, PartitionId, RuleVersion};

use crate::error::EngineError;

/// The process may die in one call so many times.
const DEATHS: u32 = 3;

/// Is told of calls.
pub(crate) trait CallWatch: Send {
    /// A call is about to be made. An error says why it must not be.
    fn begin(&mut self, offset: Offset, rule: &str, callback: u32) -> Result<(), String>;
    /// It is over.
    fn end(&mut self);
}

/// A call in which the process died.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Death {
    pub offset: Offset,
    pub callback: u32,
    pub rule: String,
    /// How often.
    pub times: u32,
}

impl Death {
    /// Whether that was too often.
    pub fn is_enough(&self) -> bool {
        self.times >= DEATHS
    }
}

/// The note of one partition. It goes away with the replay.
pub(crate) struct Deaths {
    path: PathBuf,
    file: File,
    last: Option<Death>,
}

impl Deaths {
    /// Opens the note of a partition.
    pub fn open(folder: &Path, partition: PartitionId) -> Result<Self, EngineError> {
        let path = folder.join(format!("partition-{partition}.replaying"));
        let file = File::options().create(true).truncate(false).read(true).write(true).open(&path);
        let file = file.map_err(|error| EngineError::Checkpoint {
            path: path.display().to_string(),
            what: error.to_string(),
        })?;
        let mut text = String::new();
        // What cannot be read is as good as nothing: then the replay makes the call once more.
        let _ = std::io::Read::read_to_string(&mut &file, &mut text);
        let last = parse(&text);
        Ok(Self { path, file, last })
    }

    /// The call in which the process died last.
    pub fn last(&self) -> Option<&Death> {
        self.last.as_ref()
    }

    fn write(&self, text: &str) {
        // Padded, so that nothing of what stood there is left.
        if let Err(error) = self.file.write_all_at(format!("{text:<320}\n").as_bytes(), 0) {
            tracing::debug!(%error, "the call of a replay could not be noted");
        }
    }
}

fn parse(text: &str) -> Option<Death> {
    let mut words = text.trim_end().splitn(4, ' ');
    let (offset, callback, times) = (words.next()?, words.next()?, words.next()?);
    let (offset, callback, times) = (offset.parse().ok()?, callback.parse().ok()?, times.parse().ok()?);
    Some(Death { offset, callback, times, rule: words.next()?.to_string() })
}

impl CallWatch for Deaths {
    fn begin(&mut self, offset: Offset, rule: &str, callback: u32) -> Result<(), String> {
        let same = self
            .last
            .as_ref()
            .filter(|last| (last.offset, last.callback, last.rule.as_str()) == (offset, callback, rule));
        if let Some(death) = same.filter(|death| death.is_enough()) {
            return Err(format!("the process ended {} times in this call", death.times));
        }
        let times = same.map_or(0, |last| last.times) + 1;
        self.write(&format!("{offset} {callback} {times} {rule}"));
        Ok(())
    }

    fn end(&mut self) {
        self.write("");
    }
}

impl Drop for Deaths {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Tries of rules that are out of one partition: those under way, and those in which the process died.
pub(crate) struct Tries {
    path: PathBuf,
    /// By rule: the version, and how often it was begun and not ended.
    begun: BTreeMap<String, (RuleVersion, u32)>,
}

impl Tries {
    /// Opens the note of a partition.
    pub fn open(folder: &Path, partition: PartitionId) -> Self {
        let path = folder.join(format!("partition-{partition}.trying"));
        // What is not there or cannot be read is as good as nothing: then the try is made once more.
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let entry = |line: &str| {
            let mut words = line.splitn(3, ' ');
            let (version, times) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            Some((words.next()?.to_string(), (version, times)))
        };
        Self { path, begun: text.lines().filter_map(entry).collect() }
    }

    /// A version is about to be tried. An error says why it must not be.
    pub fn begin(&mut self, rule: &str, version: RuleVersion) -> Result<(), String> {
        let known = self.begun.get(rule).filter(|(other, _)| *other == version);
        let times = known.map_or(0, |(_, times)| *times);
        if times >= DEATHS {
            return Err(format!(
                "the process ended {times} times while it was tried: deploy another version"
            ));
        }
        self.begun.insert(rule.to_string(), (version, times + 1));
        self.write();
        Ok(())
    }

    /// The try is over, whatever came of it.
    pub fn end(&mut self, rule: &str) {
        self.begun.remove(rule);
        self.write();
    }

    fn write(&self) {
        let line =
            |(rule, (version, times)): (&String, &(RuleVersion, u32))| format!("{version} {times} {rule}\n");
        let text: String = self.begun.iter().map(line).collect();
        // In one step, since the process may end at any.
        let new = self.path.with_extension("new");
        let written = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &self.path));
        if let Err(error) = written {
            tracing::warn!(path = %self.path.display(), %error, "the try of a rule could not be noted");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_that_ended_the_process_three_times_is_not_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Tries::open(folder.path(), PartitionId(1));
        for _ in 0..3 {
            let mut tries = open();
            tries.begin("other one", 7).unwrap();
            tries.end("other one");
            tries.begin("a rule", 2).unwrap();
        }
        let mut tries = open();
        assert!(tries.begin("a rule", 2).unwrap_err().contains("3 times"));
        tries.begin("other one", 7).unwrap();
        tries.begin("a rule", 3).unwrap();
        tries.end("a rule");
        assert_eq!(open().begun.keys().collect::<Vec<_>>(), ["other one"]);
    }

    #[test]
    fn a_call_is_known_by_its_place_and_counted_while_it_is_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Deaths::open(folder.path(), PartitionId(1)).unwrap();
        // Forgotten, as when the process dies: nothing is dropped.
        for times in 1..=3 {
            let mut note = open();
            note.begin(6, "other one", 0).unwrap();
            note.end();
            note.begin(7, "a rule", 2).unwrap();
            std::mem::forget(note);
            let note = open();
            let death = Death { offset: 7, callback: 2, rule: "a rule".into(), times };
            assert_eq!(note.last(), Some(&death));
            assert_eq!(death.is_enough(), times == 3);
            std::mem::forget(note);
        }
        let mut note = open();
        assert!(note.begin(7, "a rule", 2).unwrap_err().contains("3 times"));
        note.begin(8, "a rule", 2).unwrap();
        std::mem::forget(note);
        assert_eq!(open().last().unwrap().times, 1);
        assert_eq!(open().last(), None, "a replay that ended leaves nothing");
    }
}
