//! Links that act on one alert without a login: signed, for a time, for one receiver.
//!
//! A token is, in base64url without padding (RFC 4648, section 5):
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version: 1 |
//! | 1 | what it allows: 1 acknowledge, 2 shelve for an hour |
//! | 8 | when it ends, in seconds since the Unix epoch, big endian |
//! | 1, n | the length of the id of the alert, and the id |
//! | 2, n | the length of the name of the receiver, and the name |
//! | 32 | HMAC-SHA256 (RFC 2104) over everything before it |

use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use subtle::ConstantTimeEq as _;
use watchfire_log::clock::Clock;
use watchfire_model::{Duration, Timestamp};
use watchfire_notify::Links;
use watchfire_store::{Store, StoreError};

const VERSION: u8 = 1;
const ACKNOWLEDGE: u8 = 1;
const SHELVE: u8 = 2;
const SIGNATURE: usize = 32;

/// A key signs for so long before the next start makes another. The one before it is good until that one is changed:
/// longer than any link lives.
const KEY_AGE: Duration = Duration::from_secs(30 * 24 * 3600);

/// What makes a signature of one kind useless as one of another.
const OF_LINK: &[u8] = b"watchfire link 1\0";
const OF_FORM: &[u8] = b"watchfire form 1\0";

/// A page is good for an answer for one to two of these.
const FORM_SECONDS: i64 = 3600;

/// What an operator may choose of links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkOptions {
    /// A link is good for so long; at most 30 days, as long as a key.
    pub lifetime: Duration,
    /// Links also shelve an alert for an hour.
    pub shelve: bool,
}

impl Default for LinkOptions {
    fn default() -> Self {
        Self { lifetime: Duration::from_secs(7 * 24 * 3600), shelve: true }
    }
}

/// Makes and reads links.
pub struct SignedLinks {
    keys: Vec<[u8; 32]>,
    options: LinkOptions,
    base: RwLock<Option<String>>,
    clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for SignedLinks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SignedLinks").field("options", &self.options).finish_non_exhaustive()
    }
}

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The alert.
    pub alert: String,
    /// Whose message it was in.
    pub receiver: String,
    /// Until when it is good.
    pub until: Timestamp,
    /// It also shelves.
    pub shelve: bool,
}

/// Why a token is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkFault {
    /// Nothing that was made here.
    #[error("this link was not made here, or lost a part on its way")]
    Wrong,
    /// Its time is over.
    #[error("this link was good until {0}")]
    Expired(Timestamp),
}

impl SignedLinks {
    /// With the keys that the store keeps; makes them where there are none. Fails where the store does.
    pub async fn open(
        store: &Store,
        base: Option<String>,
        options: LinkOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StoreError> {
        let keys = store.link_keys(clock.wall(), KEY_AGE).await?;
        let options = LinkOptions { lifetime: options.lifetime.min(KEY_AGE), ..options };
        Ok(Self { keys, options, base: RwLock::new(base), clock })
    }

    /// Where this installation is reached from now on.
    pub fn set_base(&self, base: Option<String>) {
        *self.base.write().unwrap_or_else(PoisonError::into_inner) = base;
    }

    /// A token for an alert; `None` where a name is longer than it can hold.
    pub fn token(&self, alert: &str, receiver: &str) -> Option<String> {
        let until = (self.clock.wall() + self.options.lifetime).0 / 1_000_000;
        let rights = ACKNOWLEDGE | if self.options.shelve { SHELVE } else { 0 };
        let mut bytes = vec![VERSION, rights];
        bytes.extend(until.to_be_bytes());
        bytes.push(u8::try_from(alert.len()).ok()?);
        bytes.extend(alert.as_bytes());
        bytes.extend(u16::try_from(receiver.len()).ok()?.to_be_bytes());
        bytes.extend(receiver.as_bytes());
        let signature = hmac_sha256(self.keys.first()?, &[OF_LINK, &bytes]);
        bytes.extend(signature);
        Some(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// What a token says, if it was made here and its time is not over.
    pub fn read(&self, token: &str) -> Result<Link, LinkFault> {
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| LinkFault::Wrong)?;
        let split = bytes.len().checked_sub(SIGNATURE).ok_or(LinkFault::Wrong)?;
        let (said, signature) = bytes.split_at(split);
        if !self.signed(&[OF_LINK, said], signature) {
            return Err(LinkFault::Wrong);
        }
        let link = parse(said).ok_or(LinkFault::Wrong)?;
        match link.until > self.clock.wall() {
            true => Ok(link),
            false => Err(LinkFault::Expired(link.until)),
        }
    }

    fn signed(&self, parts: &[&[u8]], signature: &[u8]) -> bool {
        self.keys.iter().any(|key| hmac_sha256(key, parts).ct_eq(signature).into())
    }

    fn form_hour(&self) -> i64 {
        self.clock.wall().0 / 1_000_000 / FORM_SECONDS
    }

    /// What the page of a token says back, so that only somebody who saw the page acts: whatever follows links, such
    /// as a scanner of mail, does not.
    pub fn form(&self, token: &str) -> Option<String> {
        let hour = self.form_hour().to_be_bytes();
        let key = self.keys.first()?;
        Some(URL_SAFE_NO_PAD.encode(hmac_sha256(key, &[OF_FORM, &hour, token.as_bytes()])))
    }

    /// Whether a page of this token was seen within the last hour or two.
    pub fn form_is_good(&self, token: &str, form: &str) -> bool {
        let Ok(form) = URL_SAFE_NO_PAD.decode(form) else { return false };
        let now = self.form_hour();
        [now, now - 1]
            .iter()
            .any(|hour| self.signed(&[OF_FORM, &hour.to_be_bytes(), token.as_bytes()], &form))
    }
}

impl Links for SignedLinks {
    fn acknowledge(&self, alert_id: &str, receiver: &str) -> Option<String> {
        let base = self.base.read().unwrap_or_else(PoisonError::into_inner).clone()?;
        Some(format!("{}/a/{}", base.trim_end_matches('/'), self.token(alert_id, receiver)?))
    }
}

fn parse(said: &[u8]) -> Option<Link> {
    let (head, rest) = said.split_first_chunk::<10>()?;
    let [version, rights, until @ ..] = *head;
    if version != VERSION || rights & ACKNOWLEDGE == 0 {
        return None;
    }
    let (length, rest) = rest.split_first()?;
    let (alert, rest) = rest.split_at_checked(usize::from(*length))?;
    let (length, rest) = rest.split_first_chunk::<2>()?;
    let (receiver, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
    rest.is_empty().then_some(())?;
    Some(Link {
        alert: text(alert)?,
        receiver: text(receiver)?,
        until: Timestamp(i64::from_be_bytes(until).checked_mul(1_000_000)?),
        shelve: rights & SHELVE != 0,
    })
}

/// RFC 2104 with SHA-256, over the parts one after another.
fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; SIGNATURE] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    parts.iter().for_each(|part| context.update(part));
    let mut signature = [0; SIGNATURE];
    signature.copy_from_slice(context.sign().as_ref());
    signature
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_those_of_rfc_4231() {
        let hex = |bytes: [u8; 32]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(
            hex(hmac_sha256(b"Jefe", &[b"what do ya want ", b"for nothing?"])),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert_eq!(
            hex(hmac_sha256(&[0x0b; 20], &[b"Hi There"])),
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
        );
    }
}
