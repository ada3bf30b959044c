//! Secrets that are made here and shown once, and how given ones are checked.
//!
//! A made secret has 256 random bits, so that one SHA-256 is enough to keep it: nobody guesses it however
//! fast the hash. A password is chosen by people and is kept as argon2id.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

use argon2::password_hash::{PasswordHash, PasswordHasher as _, PasswordVerifier as _, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use rand::RngCore as _;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::error::StoreError;

/// A secret that is shown once. Printing it for debugging hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The secret itself, for the one answer that shows it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// `{prefix}_{id}_{random}`: the id finds the row, the random part proves.
    pub(crate) fn make(prefix: &str, id: &str) -> Self {
        Self(format!("{prefix}_{id}_{}", random_hex::<32>()))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Random bytes as hex digits.
pub(crate) fn random_hex<const N: usize>() -> String {
    let mut bytes = [0; N];
    rand::rng().fill_bytes(&mut bytes);
    hex(&bytes)
}

/// The id within a secret of this prefix.
pub(crate) fn id_of<'a>(secret: &'a str, prefix: &str) -> Option<&'a str> {
    let rest = secret.strip_prefix(prefix)?.strip_prefix('_')?;
    let (id, random) = rest.split_once('_')?;
    (id.len() == 12 && random.len() == 64 && rest.is_ascii()).then_some(id)
}

/// What is kept of a made secret.
pub(crate) fn digest(secret: &str) -> String {
    hex(&Sha256::digest(secret.as_bytes()))
}

/// Compares in time that does not tell how much fits.
pub(crate) fn same(a: &str, b: &str) -> bool {
    a.as_bytes().ct_eq(b.as_bytes()).into()
}

/// argon2id with what OWASP recommends as a minimum: 19 MiB, two passes, one lane.
fn argon() -> Argon2<'static> {
    Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(19_456, 2, 1, None).unwrap_or_default())
}

/// What is kept of a password. Takes some tens of milliseconds: not on a thread that serves others.
pub(crate) fn hash_password(password: &str) -> Result<String, StoreError> {
    let mut salt = [0; 16];
    rand::rng().fill_bytes(&mut salt);
    let salt = SaltString::encode_b64(&salt).map_err(|error| StoreError::Refused(error.to_string()))?;
    argon()
        .hash_password(password.as_bytes(), &salt)
        .map(|hash| hash.to_string())
        .map_err(|error| StoreError::Refused(format!("the password cannot be used: {error}")))
}

/// Checks a password against what is kept of it; as slow as [`hash_password`].
pub(crate) fn check_password(password: &str, hash: &str) -> bool {
    PasswordHash::new(hash).is_ok_and(|hash| argon().verify_password(password.as_bytes(), &hash).is_ok())
}

/// Passwords that were right lately, so that a fleet that reconnects does not cost an argon2 each. Keeps a
/// keyed hash of hash and password, under a key of this process: a changed password does not fit any more.
#[derive(Debug)]
pub(crate) struct Verified {
    key: [u8; 32],
    known: Mutex<HashMap<[u8; 32], ()>>,
}

/// As many as a large fleet has devices.
const VERIFIED: usize = 100_000;

impl Default for Verified {
    fn default() -> Self {
        let mut key = [0; 32];
        rand::rng().fill_bytes(&mut key);
        Self { key, known: Mutex::default() }
    }
}

impl Verified {
    fn entry(&self, password: &str, hash: &str) -> [u8; 32] {
        let mut sha = Sha256::new();
        sha.update(self.key);
        sha.update((hash.len() as u64).to_le_bytes());
        sha.update(hash);
        sha.update(password);
        sha.finalize().into()
    }

    pub(crate) fn contains(&self, password: &str, hash: &str) -> bool {
        let entry = self.entry(password, hash);
        self.known.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&entry)
    }

    pub(crate) fn insert(&self, password: &str, hash: &str) {
        let entry = self.entry(password, hash);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= VERIFIED {
            known.clear();
        }
        known.insert(entry, ());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_secret_names_its_row_and_hides_itself() {
        let id = random_hex::<6>();
        let secret = Secret::make("wf", &id);
        assert_eq!(id_of(secret.expose(), "wf"), Some(id.as_str()));
        assert_eq!(id_of(secret.expose(), "wfd"), None);
        assert!(!format!("{secret:?}").contains(&id));
        for bad in ["", "wf_", "wf_a_b", "wf__", "wf_é"] {
            assert_eq!(id_of(bad, "wf"), None, "{bad}");
        }
    }

    #[test]
    fn passwords_are_kept_salted() {
        let hash = hash_password("s3cret").unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        assert!(check_password("s3cret", &hash) && !check_password("secret", &hash));
        assert!(!check_password("s3cret", "not a hash"));
        let verified = Verified::default();
        assert!(!verified.contains("s3cret", &hash));
        verified.insert("s3cret", &hash);
        assert!(verified.contains("s3cret", &hash) && !verified.contains("other", &hash));
    }
}
