//! What sources need from the rest of the engine, and what they are told who is there.

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;

use tokio::sync::broadcast;
use watchfire_model::device::Registries;

/// A future of a trait that is used as an object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What someone shows to be let in.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Credential {
    /// A device id or a user's name, with its password.
    Password {
        /// The device id or the user's name.
        user: String,
        /// The secret.
        password: String,
    },
    /// A token.
    Token(String),
    /// A certificate that names this device, and was verified in the handshake.
    Certificate(String),
    /// Nothing was shown.
    None,
}

impl fmt::Debug for Credential {
    /// Without the secret: this may end up in a log line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password { user, .. } => {
                f.debug_struct("Password").field("user", user).finish_non_exhaustive()
            }
            Self::Token(_) => f.write_str("Token(…)"),
            Self::Certificate(device) => f.debug_tuple("Certificate").field(device).finish(),
            Self::None => f.write_str("None"),
        }
    }
}

/// What a user may do; each role includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Sees everything.
    Viewer,
    /// Sends commands and telemetry.
    Operator,
    /// Changes rules.
    Author,
    /// Everything.
    Admin,
}

/// Who is there. It comes from the connection, never from a payload or a topic.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Principal {
    /// A device: speaks for itself.
    Device(String),
    /// A device that also speaks for those of a list, in which `*` stands for any run of characters.
    Gateway {
        /// Its id.
        name: String,
        /// The other devices.
        devices: Vec<String>,
    },
    /// A person or a program.
    User {
        /// Its name.
        name: String,
        /// What it may do.
        role: Role,
    },
    /// Nobody in particular, on a listener that lets that in: everything that sources offer.
    Anonymous,
}

impl Principal {
    /// A device, as the registry has it now: one that may speak for others is a gateway.
    pub fn device(registries: &Registries, id: &str) -> Self {
        let found = registries
            .find(id)
            .and_then(|(partition, handle)| registries.0.get(usize::from(partition.0))?.get(handle));
        match found {
            Some(device) if !device.spec.speaks_for.is_empty() => {
                Self::Gateway { name: id.into(), devices: device.spec.speaks_for.clone() }
            }
            _ => Self::Device(id.into()),
        }
    }

    /// Whether it may send readings of a device.
    pub fn may_send_for(&self, device: &str) -> bool {
        match self {
            Self::Device(id) => id == device,
            Self::Gateway { name, devices } => {
                name == device || devices.iter().any(|pattern| matches_pattern(pattern, device))
            }
            Self::User { role, .. } => *role >= Role::Operator,
            Self::Anonymous => true,
        }
    }

    /// Whether it may send readings of whichever device they name.
    pub fn may_send_for_all(&self) -> bool {
        match self {
            Self::Device(_) => false,
            Self::Gateway { devices, .. } => devices.iter().any(|pattern| pattern == "*"),
            Self::User { role, .. } => *role >= Role::Operator,
            Self::Anonymous => true,
        }
    }

    /// Its kind and name: what a session belongs to, and who sent a dead letter. A gateway is named as the device that
    /// it is: what it may send for changes, and is looked up where it counts.
    pub fn name(&self) -> String {
        match self {
            Self::Device(id) | Self::Gateway { name: id, .. } => format!("device:{id}"),
            Self::User { name, .. } => format!("user:{name}"),
            Self::Anonymous => "anonymous".into(),
        }
    }
}

/// Whether a text matches a pattern in which `*` stands for any run of characters.
pub fn matches_pattern(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let Some(last) = pattern.contains('*').then(|| parts.next_back()).flatten() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// Why someone was not let in.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Denied {
    /// The credential is not known, revoked, or not of the kind that is wanted here.
    #[error("the credential was not accepted")]
    NotAccepted,
    /// Whether it is known could not be found out.
    #[error("credentials cannot be checked now: {0}")]
    Unavailable(String),
}

/// Checks credentials. Slow hashes run off the network threads, and answers are cached: that is the
/// implementation's part.
pub trait Authenticator: Send + Sync + 'static {
    /// Who shows this credential. [`Credential::None`] is [`Principal::Anonymous`] where that is let in. `from`: the
    /// address of who shows it, so that guesses are bounded for each.
    fn authenticate(
        &self,
        credential: Credential,
        from: Option<IpAddr>,
    ) -> BoxFuture<'_, Result<Principal, Denied>>;

    /// What is taken back from now on: connections that were let in with it are closed. `None`: nothing ever is.
    fn revocations(&self) -> Option<broadcast::Receiver<Revocation>> {
        None
    }
}

/// Something that somebody was let in with is no longer good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Revocation {
    /// One of this principal's credentials ([`Principal::name`]), or something that it was allowed. Which of its
    /// connections came in with that one is not kept: all are closed, and those with another come back.
    Of(String),
    /// It is not known whose.
    Unknown,
}

/// Devices could not be registered.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum RegisterError {
    /// Something that passes: try again later.
    #[error("devices cannot be registered now: {0}")]
    Unavailable(String),
    /// It was refused, for instance because there are as many devices as there may be.
    #[error("the devices were not registered: {0}")]
    Refused(String),
}

/// Registers devices that a source met for the first time.
pub trait Registrar: Send + Sync + 'static {
    /// Registers these devices: returns once that is durable, and visible in the directory that sources look
    /// devices up in. Ids that are registered by then are no error.
    fn register(&self, ids: Vec<String>) -> BoxFuture<'_, Result<(), RegisterError>>;
}

/// Lets everybody in as [`Principal::Anonymous`]: for listeners on loopback.
#[derive(Clone, Copy, Debug, Default)]
pub struct AllowAnonymous;

impl Authenticator for AllowAnonymous {
    fn authenticate(&self, _: Credential, _: Option<IpAddr>) -> BoxFuture<'_, Result<Principal, Denied>> {
        Box::pin(async { Ok(Principal::Anonymous) })
    }
}

/// A listener would let everybody in from other machines.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "{listener} would listen on {address} without authentication: whoever reaches this machine could send readings \
     in the name of every device. Listen on 127.0.0.1, turn authentication on, or say that it is meant \
     (allow_anonymous_remote = true)"
)]
pub struct OpenListener {
    /// Which listener.
    pub listener: String,
    /// Where it would listen.
    pub address: std::net::SocketAddr,
}

/// Refuses a listener that lets everybody in from other machines, unless the configuration says that it is meant.
pub fn check_listener(
    listener: &str,
    address: std::net::SocketAddr,
    authenticates: bool,
    allow_anonymous_remote: bool,
) -> Result<(), OpenListener> {
    if address.ip().to_canonical().is_loopback() || authenticates || allow_anonymous_remote {
        return Ok(());
    }
    Err(OpenListener { listener: listener.into(), address })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateways_speak_for_the_devices_of_their_list() {
        let check = |pattern, device, expected| {
            assert_eq!(matches_pattern(pattern, device), expected, "{pattern} {device}")
        };
        check("press-1", "press-1", true);
        check("press-1", "press-10", false);
        check("press-*", "press-10", true);
        check("press-*", "pres-10", false);
        check("*", "", true);
        check("*-a-*", "x-a-y", true);
        check("a*a", "a", false);
        check("a*b*c", "axxbyyc", true);
        check("a*b*c", "axxbyyd", false);
        check("**", "x", true);
    }

    #[test]
    fn open_listeners_are_refused_unless_meant() {
        let check = |address: &str, authenticates, meant| {
            check_listener("mqtt", address.parse().unwrap(), authenticates, meant).is_ok()
        };
        assert!(check("127.0.0.1:1883", false, false));
        assert!(check("[::1]:1883", false, false));
        assert!(check("[::ffff:127.0.0.1]:1883", false, false));
        assert!(!check("0.0.0.0:1883", false, false));
        assert!(!check("192.168.0.1:1883", false, false));
        assert!(check("0.0.0.0:1883", true, false));
        assert!(check("0.0.0.0:1883", false, true));
    }

    #[test]
    fn secrets_are_not_printed() {
        let shown = format!(
            "{:?} {:?}",
            Credential::Token("s3cret".into()),
            Credential::Password { user: "u".into(), password: "s3cret".into() }
        );
        assert!(!shown.contains("s3cret"), "{shown}");
    }
}
