//! The keys that sign links in messages: the present one, and the one before it, so that links that are under way
//! outlive a change of keys.

use rand::RngCore as _;
use serde::{Deserialize, Serialize};
use watchfire_model::{Duration, Timestamp};

use crate::Store;
use crate::db::to_json;
use crate::error::StoreError;

/// The setting that holds them. A backup has it: links stay good after a restore.
const SETTING: &str = "links.keys";

#[derive(Serialize, Deserialize)]
struct Key {
    bytes: [u8; 32],
    made_at: Timestamp,
}

impl Store {
    /// The keys that sign links, the present one first: made where there is none, and changed where the present one is
    /// older than `age`. At most two.
    pub async fn link_keys(&self, now: Timestamp, age: Duration) -> Result<Vec<[u8; 32]>, StoreError> {
        let kept = self.setting(SETTING).await?;
        // What cannot be read signs nothing: links that it signed are not taken any more, which is what they say then.
        let mut keys: Vec<Key> = kept.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        if keys.first().is_none_or(|key| key.made_at + age <= now) {
            let mut bytes = [0; 32];
            rand::rng().fill_bytes(&mut bytes);
            keys.insert(0, Key { bytes, made_at: now });
            keys.truncate(2);
            self.set_setting(SETTING, Some(&to_json(&keys))).await?;
        }
        Ok(keys.into_iter().map(|key| key.bytes).collect())
    }
}
