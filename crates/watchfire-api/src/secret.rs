//! Secrets of tokens and devices. They are made here, from 256 random bits, shown once, and kept only as
//! SHA-256: there is nothing in them to guess, so a slow password hash would only slow the reconnect of a
//! fleet.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::RngCore as _;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// A new secret: `prefix_` and 43 characters of base64url. The prefix tells people, and scanners of leaked
/// secrets, what they look at.
pub fn generate(prefix: &str) -> String {
    let mut bytes = [0_u8; 32];
    rand::rng().fill_bytes(&mut bytes);
    format!("{prefix}_{}", URL_SAFE_NO_PAD.encode(bytes))
}

/// What is stored of a secret: 64 hex digits.
pub fn hash(secret: &str) -> String {
    Sha256::digest(secret.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a secret is the one that this hash was made of; takes the same time wherever they differ.
pub fn matches(secret: &str, stored: &str) -> bool {
    hash(secret).as_bytes().ct_eq(stored.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_matches_its_own_hash_only() {
        let (one, two) = (generate("wft"), generate("wft"));
        assert!(one.starts_with("wft_") && one.len() == 47 && one != two);
        assert!(matches(&one, &hash(&one)) && !matches(&two, &hash(&one)) && !matches(&one, ""));
    }
}
