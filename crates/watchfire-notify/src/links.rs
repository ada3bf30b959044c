//! Links with which people act on an alert from within a message.

/// Makes them. The message holds a link from when it is made, so that every attempt sends the same.
pub trait Links: std::fmt::Debug + Send + Sync {
    /// Where somebody who got the message acknowledges the alert; `None`: nothing can be reached from outside.
    fn acknowledge(&self, alert_id: &str, receiver: &str) -> Option<String>;
}
