//! Topics to publish to.

/// Says what is wrong with a topic that may hold these names in braces, and no others (MQTT 5, section 4.7).
pub fn check_topic(topic: &str, names: &[&str]) -> Result<(), String> {
    if topic.is_empty() || topic.len() > 1024 {
        return Err("is of 1 to 1024 bytes".into());
    }
    if topic.contains(['+', '#', '\0']) || topic.starts_with('$') {
        return Err("is a topic to publish to: without + and #, and not beginning with $".into());
    }
    let bare = names.iter().fold(topic.to_string(), |topic, name| topic.replace(name, ""));
    if bare.contains(['{', '}']) {
        return Err(format!("knows {} and nothing else in braces", names.join(" and ")));
    }
    Ok(())
}

/// A name as one level of a topic: what would be more than that, or a wildcard, is escaped as in an URL (RFC 3986, section
/// 2.1). Ids of devices have none of it; it is for what may come.
pub fn level(name: &str) -> String {
    let mut level = String::with_capacity(name.len());
    for (place, c) in name.char_indices() {
        if matches!(c, '/' | '+' | '#' | '%') || c.is_ascii_control() || (place == 0 && c == '$') {
            level.push_str(&format!("%{:02X}", c as u32));
        } else {
            level.push(c);
        }
    }
    level
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_level() {
        assert_eq!(level("press-7.ä b"), "press-7.ä b");
        assert_eq!(level("a/b+c#d%"), "a%2Fb%2Bc%23d%25");
        assert_eq!(level("$SYS$"), "%24SYS$");
        assert_eq!(level("a\0"), "a%00");
    }
}
