use std::collections::BTreeMap;
use std::sync::Arc;

use watchfire_log::ManualClock;
use watchfire_model::{Duration, Timestamp};
use watchfire_store::{ForgottenAfter, NewSilence, SilenceMatcher, SilenceState, Store, StoreError};

const START: Timestamp = Timestamp(1_767_225_600_000_000);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

async fn place() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(START));
    let store = Store::open(&folder.path().join("watchfire.db"), clock).await.unwrap();
    (folder, store)
}

fn of(value: &str, starts_at: Timestamp, ends_at: Timestamp) -> NewSilence {
    let (name, value) = ("site".to_string(), value.to_string());
    NewSilence {
        id: None,
        matchers: vec![SilenceMatcher { name, value, is_regex: false, is_equal: true }],
        starts_at,
        ends_at,
        created_by: "anna".into(),
        comment: "works".into(),
        annotations: BTreeMap::from([("ticket".to_string(), "7".to_string())]),
        until_resolved: false,
        matches: false,
    }
}

#[tokio::test]
async fn a_change_that_would_rewrite_the_past_makes_another_silence() {
    let (_folder, store) = place().await;
    let mut changes = store.subscribe_silences();
    let first = store.set_silence(&of("oslo", START, START + HOUR), START).await.unwrap();
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    let later = START + Duration::from_secs(60);
    let id = Some(first.id.clone());

    // Its end and its comment do not rewrite anything.
    let longer = NewSilence { id: id.clone(), comment: "more".into(), ..of("oslo", START, START + DAY) };
    let changed = store.set_silence(&longer, later).await.unwrap();
    assert_eq!((&changed.id, changed.ends_at, changed.updated_at), (&first.id, START + DAY, later));
    assert_eq!(store.silences().await.unwrap(), std::slice::from_ref(&changed));

    // Other matchers do: the old one ends, and both are there.
    let other = NewSilence { id, ..of("lyon", START, START + DAY) };
    let replaced = store.set_silence(&other, later).await.unwrap();
    assert_ne!(replaced.id, first.id);
    assert_eq!((replaced.starts_at, replaced.state(later)), (later, SilenceState::Active));
    let old = store.silence(&first.id).await.unwrap().silence;
    assert_eq!(
        (old.state(later), old.ends_at, &old.matchers),
        (SilenceState::Expired, later, &first.matchers)
    );
    assert_eq!(store.silences().await.unwrap().len(), 2);

    // One that ended is not woken: that is another silence again, and the history stays.
    let again = NewSilence { id: Some(first.id.clone()), ..of("oslo", START, START + DAY) };
    let again = store.set_silence(&again, later).await.unwrap();
    assert!(again.id != first.id && again.id != replaced.id);
    assert_eq!(store.silence(&first.id).await.unwrap().silence, old);
    let unknown = NewSilence { id: Some("nothing".into()), ..of("oslo", START, START + DAY) };
    assert!(matches!(store.set_silence(&unknown, later).await, Err(StoreError::NotFound { .. })));
    for (starts_at, ends_at) in [(later, later), (later, START), (START, START + Duration(1))] {
        let refused = store.set_silence(&of("oslo", starts_at, ends_at), later).await;
        assert!(matches!(refused, Err(StoreError::Refused(_))), "{starts_at} {ends_at}");
    }
}

#[tokio::test]
async fn silences_begin_hold_and_end_and_are_removed_after_a_while() {
    let (folder, store) = place().await;
    let now = store.set_silence(&of("oslo", START, START + HOUR), START).await.unwrap();
    let soon = store.set_silence(&of("lyon", START + HOUR, START + DAY), START).await.unwrap();
    assert_eq!((now.state(START), soon.state(START)), (SilenceState::Active, SilenceState::Pending));
    assert_eq!(now.state(START + HOUR), SilenceState::Expired, "the end is not part of it");
    // One that has not begun may begin at another time, but not before now.
    let moved = NewSilence { id: Some(soon.id.clone()), ..of("lyon", START + HOUR + HOUR, START + DAY) };
    assert_eq!(store.set_silence(&moved, START).await.unwrap().id, soon.id);
    // It ends before it began: then it never held.
    let ended = store.expire_silence(&soon.id, START).await.unwrap();
    assert_eq!((ended.starts_at, ended.ends_at), (START, START));
    assert_eq!(store.expire_silence(&soon.id, START + HOUR).await.unwrap(), ended);
    assert!(matches!(store.expire_silence("x", START).await, Err(StoreError::NotFound { .. })));
    let current = |at| {
        let store = store.clone();
        async move { store.current_silences(at).await.unwrap().len() }
    };
    assert_eq!((current(START).await, current(START + HOUR).await), (1, 0));
    // They are there after a restart, and gone once nobody asks for them any more.
    let before = store.silences().await.unwrap();
    store.close().await;
    let clock = Arc::new(ManualClock::new(START));
    let store = Store::open(&folder.path().join("watchfire.db"), clock).await.unwrap();
    assert_eq!(store.silences().await.unwrap(), before);
    assert_eq!(store.remove_silences(START + HOUR).await.unwrap(), 1);
    assert_eq!(store.silences().await.unwrap(), [now]);
}

#[tokio::test]
async fn what_ends_soon_and_what_was_forgotten_is_found() {
    let (_folder, store) = place().await;
    let short = store.set_silence(&of("oslo", START, START + HOUR), START).await.unwrap();
    let long = NewSilence { matches: true, ..of("lyon", START, START + Duration::from_secs(30 * 86_400)) };
    let long = store.set_silence(&long, START).await.unwrap();
    let ending = async |at, least| store.ending_silences(at, HOUR, least).await.unwrap();
    assert_eq!(ending(START, Duration::ZERO).await, std::slice::from_ref(&short));
    assert_eq!(ending(START, HOUR).await, [], "it holds for no longer than that");
    // Prolonged, it ends at another time.
    let prolonged = NewSilence { id: Some(short.id.clone()), ..of("oslo", START, START + HOUR + HOUR) };
    let short = store.set_silence(&prolonged, START).await.unwrap();
    assert_eq!(ending(START, HOUR).await, []);
    assert_eq!(ending(START + HOUR, HOUR).await, [short]);

    let after = ForgottenAfter::default();
    let forgotten = |at| {
        let store = store.clone();
        async move {
            let found = store.forgotten_silences(at, after).await.unwrap();
            found.into_iter().map(|one| one.silence.id).collect::<Vec<_>>()
        }
    };
    let none: [String; 0] = [];
    assert_eq!(forgotten(START + HOUR).await, none);
    // It has matched nothing for more than a day ...
    let (day, week) = (START + DAY + HOUR, START + Duration::from_secs(7 * 86_400) + HOUR);
    assert_eq!(forgotten(day).await, [long.id.as_str()]);
    store.note_silence_matches(std::slice::from_ref(&long.id), day).await.unwrap();
    assert_eq!(store.silence(&long.id).await.unwrap().matched_at, Some(day));
    assert_eq!(forgotten(day).await, none);
    // ... or it holds for more than a week, whatever it matches.
    store.note_silence_matches(std::slice::from_ref(&long.id), week).await.unwrap();
    assert_eq!(forgotten(week).await, [long.id.as_str()]);
}
