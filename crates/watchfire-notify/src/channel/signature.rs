//! The signature of a webhook, by which its receiver knows who sent it and when: Standard Webhooks 1.0
//! (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>), for which receivers
//! have libraries. HMAC-SHA256 (RFC 2104) of `{id}.{seconds since 1970}.{body}`.

use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use watchfire_model::{Secret, Timestamp};

/// The id of the message: that of the delivery, the same on every attempt.
pub const ID: &str = "webhook-id";
/// When the attempt was made, so that a receiver can refuse what somebody recorded and sends again.
pub const TIMESTAMP: &str = "webhook-timestamp";
/// `v1,` and the signature in base64.
pub const SIGNATURE: &str = "webhook-signature";

/// What stands before the key.
const PREFIX: &str = "whsec_";
/// Bytes of a key: what the specification allows.
const KEY: std::ops::RangeInclusive<usize> = 24..=64;

/// Signs with one key. A key that stands in a file can be changed there.
#[derive(Clone)]
pub struct Signer {
    secret: Secret,
    key: Arc<RwLock<hmac::Key>>,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").finish_non_exhaustive()
    }
}

/// The key of a secret. An error does not repeat the text.
fn key(secret: &Secret) -> Result<hmac::Key, String> {
    let text = secret.read().map_err(|error| format!("signing_secret: {error}"))?;
    let text = text.strip_prefix(PREFIX).ok_or_else(|| format!("signing_secret: begins with {PREFIX}"))?;
    let key = STANDARD.decode(text).map_err(|_| format!("signing_secret: is no base64 behind {PREFIX}"))?;
    if !KEY.contains(&key.len()) {
        let (least, most) = (KEY.start(), KEY.end());
        return Err(format!(
            "signing_secret: the key has {least} to {most} bytes, this one {} bytes",
            key.len()
        ));
    }
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &key))
}

/// Says what is wrong with a secret, if anything is.
pub fn check(secret: &Secret) -> Result<(), String> {
    key(secret).map(drop)
}

impl Signer {
    /// Reads the key.
    pub fn new(secret: &Secret) -> Result<Self, String> {
        Ok(Self { secret: secret.clone(), key: Arc::new(RwLock::new(key(secret)?)) })
    }

    /// The values of [`TIMESTAMP`] and [`SIGNATURE`] for an attempt at `now`.
    pub fn sign(&self, id: &str, body: &str, now: Timestamp) -> (String, String) {
        let seconds = now.0.div_euclid(1_000_000).to_string();
        let mut context = hmac::Context::with_key(&self.key.read().unwrap_or_else(PoisonError::into_inner));
        for part in [id, ".", &seconds, ".", body] {
            context.update(part.as_bytes());
        }
        let signature = format!("v1,{}", STANDARD.encode(context.sign()));
        (seconds, signature)
    }

    /// After an attempt that failed: reads a key that stands in a file anew. Where it cannot be read, or is none, the one
    /// before counts on.
    pub fn read_anew(&self) {
        if self.secret.file().is_some()
            && let Ok(key) = key(&self.secret)
        {
            *self.key.write().unwrap_or_else(PoisonError::into_inner) = key;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_767_225_600_999_999);

    /// The expected value is that of Python's `hmac` over the same bytes.
    #[test]
    fn the_signature_is_that_of_others() {
        let signer = Signer::new(&"whsec_d2F0Y2hmaXJlIHNpZ25zIHdoYXQgaXQgc2VuZHM=".into()).unwrap();
        let (seconds, signature) = signer.sign("01J-delivery", r#"{"version":"4"}"#, NOW);
        assert_eq!(seconds, "1767225600");
        assert_eq!(signature, "v1,brixsIk6hAO4g4zDdA5VYZ0uYonrT2M/0ilZbLJO1KA=");
        for (id, body) in [("01J-deliverz", r#"{"version":"4"}"#), ("01J-delivery", r#"{"version":"5"}"#)] {
            assert_ne!(signer.sign(id, body, NOW).1, signature);
        }
        assert_ne!(signer.sign("01J-delivery", r#"{"version":"4"}"#, Timestamp(NOW.0 + 1)).1, signature);
    }

    #[test]
    fn what_is_no_key_is_refused_without_being_repeated() {
        let short = STANDARD.encode([1; 23]);
        let long = STANDARD.encode([1; 65]);
        for (text, part) in [
            ("d2F0Y2hmaXJlIHNpZ25zIHdoYXQgaXQgc2VuZHM=", "begins with whsec_"),
            ("whsec_%s3cr3t%", "no base64"),
            (&format!("whsec_{short}"), "23 bytes"),
            (&format!("whsec_{long}"), "65 bytes"),
        ] {
            let fault = check(&text.into()).unwrap_err();
            assert!(fault.contains(part), "{fault:?} does not say {part:?}");
            assert!(!fault.contains(text.trim_start_matches(PREFIX)), "{fault:?} repeats the secret");
        }
        assert!(check(&Secret::in_file("/nowhere/key")).unwrap_err().contains("/nowhere/key"));
    }
}
