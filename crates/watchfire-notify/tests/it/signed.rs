use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use watchfire_model::Secret;

use crate::receiver::{Behave, Place, Receiver, Seen, config, notify, raise, submit};

/// Checks a request as a receiver does: with the key that it has, over what came.
fn verified(seen: &Seen, key: &[u8]) -> bool {
    let header = |name: &str| seen.headers[name].to_str().unwrap().to_string();
    assert_eq!(header("webhook-id"), seen.id);
    let seconds: i64 = header("webhook-timestamp").parse().unwrap();
    let age = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs() as i64 - seconds;
    assert!((0..60).contains(&age), "{age}");
    let signature = STANDARD.decode(header("webhook-signature").strip_prefix("v1,").unwrap()).unwrap();
    let message = format!("{}.{seconds}.{}", seen.id, seen.text);
    hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, key), message.as_bytes(), &signature).is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_attempt_is_signed_and_a_new_key_counts_after_one_that_failed() {
    let (place, receiver) = (Place::new(), Receiver::start().await);
    let store = place.open().await;
    let file = place.folder.path().join("key");
    let write = |key: &[u8]| std::fs::write(&file, format!("whsec_{}\n", STANDARD.encode(key))).unwrap();
    let (old, new) = ([1_u8; 32], [2_u8; 32]);
    write(&old);
    let mut config = config(&receiver.url, "");
    config.receivers[0].webhook.as_mut().unwrap().signing_secret = Some(Secret::in_file(&file));
    let notifier = notify(&store, config).await;
    write(&new);
    receiver.next([Behave::Answer(401)]);
    submit(&store, vec![raise("a", 1)]).await;
    receiver.wait_taken(1).await;
    let seen = receiver.seen();
    assert_eq!(seen.len(), 2);
    assert_eq!((seen[0].id.as_str(), seen[0].text.as_str()), (seen[1].id.as_str(), seen[1].text.as_str()));
    assert_eq!((verified(&seen[0], &old), verified(&seen[0], &new)), (true, false));
    assert_eq!((verified(&seen[1], &old), verified(&seen[1], &new)), (false, true));
    notifier.stop().await;
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_key_nothing_is_signed() {
    let (place, receiver) = (Place::new(), Receiver::start().await);
    let store = place.open().await;
    let notifier = notify(&store, config(&receiver.url, "")).await;
    submit(&store, vec![raise("a", 1)]).await;
    let seen = receiver.wait_taken(1).await;
    assert!(seen[0].headers.keys().all(|name| !name.as_str().starts_with("webhook-")));
    notifier.stop().await;
    store.close().await;
}
