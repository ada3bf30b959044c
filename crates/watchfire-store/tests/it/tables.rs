use std::sync::Arc;

use watchfire_log::ManualClock;
use watchfire_model::{
    Actor, DeviceHandle, DeviceSpec, Digest, Epoch, PartitionId, Position, RuleSpec, Timestamp,
};
use watchfire_store::{
    AuditFilter, AuditRow, Checked, DeadLetterBounds, DeadLetterFilter, DeviceFilter, ModuleRow,
    NewDeadLetter, NewToken, Revoked, Role, RuleState, RuleVersionRow, Store, StoreError,
};

const START: Timestamp = Timestamp(1_767_225_600_000_000);

struct Place {
    folder: tempfile::TempDir,
    clock: Arc<ManualClock>,
    store: Store,
}

async fn place() -> Place {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(START));
    let store = Store::open(&folder.path().join("watchfire.db"), clock.clone()).await.unwrap();
    Place { folder, clock, store }
}

#[tokio::test]
async fn tokens_work_until_they_expire_or_are_revoked() {
    let Place { clock, store, folder: _folder } = place().await;
    assert!(store.no_tokens().await.unwrap());
    let hour = watchfire_model::Duration::from_secs(3600);
    let new = NewToken {
        name: "ci".into(),
        role: Role::Author,
        by: "admin".into(),
        expires_at: Some(START + hour),
    };
    let (row, secret) = store.create_token(&new).await.unwrap();
    let found = store.verify_token(secret.expose()).await.unwrap().unwrap();
    assert_eq!((found.id, found.role), (row.id.clone(), Role::Author));
    assert_eq!(store.tokens().await.unwrap()[0].last_used, Some(START));
    let mut wrong = secret.expose().to_string();
    wrong.pop();
    for bad in [wrong.as_str(), "", "wf_x", &format!("{wrong}g")] {
        assert_eq!(store.verify_token(bad).await.unwrap(), None, "{bad}");
    }
    clock.advance(hour.to_std());
    assert_eq!(store.verify_token(secret.expose()).await.unwrap(), None);
    let (row, secret) = store.create_token(&NewToken { expires_at: None, ..new }).await.unwrap();
    let revoked = store.revoke_token(&row.id).await.unwrap();
    assert_eq!(store.revoke_token(&row.id).await.unwrap(), revoked);
    assert_eq!(store.verify_token(secret.expose()).await.unwrap(), None);
    assert!(!store.no_tokens().await.unwrap());
}

#[tokio::test]
async fn devices_prove_themselves() {
    let Place { folder, store, .. } = place().await;
    assert!(!store.verify_device("press-1", "").await.unwrap());
    store.set_device_password("press-1", "s3cret").await.unwrap();
    assert!(store.verify_device("press-1", "s3cret").await.unwrap());
    assert!(store.verify_device("press-1", "s3cret").await.unwrap());
    assert!(!store.verify_device("press-1", "other").await.unwrap());
    assert!(!store.verify_device("press-2", "s3cret").await.unwrap());
    store.set_device_password("press-1", "other").await.unwrap();
    assert!(!store.verify_device("press-1", "s3cret").await.unwrap());
    let (row, token) = store.create_device_token("press-1").await.unwrap();
    assert!(store.verify_device("press-1", token.expose()).await.unwrap());
    assert!(!store.verify_device("press-2", token.expose()).await.unwrap());
    assert_eq!(store.verify_device_token(token.expose()).await.unwrap().as_deref(), Some("press-1"));
    assert_eq!(store.credentials("press-1").await.unwrap().len(), 2);
    assert!(store.remove_credential("press-1", &row.id).await.unwrap());
    assert!(!store.verify_device("press-1", token.expose()).await.unwrap());
    store.close().await;
    // What is kept is not what was given.
    let bytes = std::fs::read(folder.path().join("watchfire.db")).unwrap();
    for secret in ["s3cret", token.expose()] {
        assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()));
    }
}

fn letter(id: u64, size: usize) -> NewDeadLetter {
    NewDeadLetter {
        id: format!("1/0/{id}/0"),
        at: Timestamp(START.0 + id as i64),
        kind: "decode".into(),
        source: "mqtt".into(),
        address: "devices/a/telemetry".into(),
        device: Some(format!("press-{}", id % 2)),
        code: "not-json".into(),
        reason: "expected value".into(),
        payload: vec![b'x'; size],
        position: format!("1/0/{id}"),
        ..NewDeadLetter::default()
    }
}

#[tokio::test]
async fn rows_of_a_rule_are_found_by_their_devices_and_used_once() {
    let Place { store, folder: _folder, .. } = place().await;
    let rows = |id: u64, names: &[&str]| {
        let line = |name: &&str| format!("{{\"device\":{},\"metrics\":{{}}}}", serde_json::json!(name));
        NewDeadLetter {
            id: format!("1/0/9/{id}"),
            kind: "rule".into(),
            source: "readings".into(),
            device: (names.len() == 1).then(|| names[0].into()),
            rule: Some("hot".into()),
            position: "1/0/8".into(),
            payload: names.iter().map(line).collect::<Vec<_>>().join("\n").into_bytes(),
            rows: names.len() as u64,
            handles: (0..names.len() as u32).map(|i| i + 10 * id as u32).collect(),
            ..letter(id, 0)
        }
    };
    let none = NewDeadLetter { handles: Vec::new(), payload: Vec::new(), ..rows(3, &["a", "b"]) };
    let letters = [rows(0, &["a", "b\"ü", "c"]), rows(1, &["b"]), rows(2, &["ca", "b"]), none, letter(5, 9)];
    store.add_dead_letters(&letters).await.unwrap();
    let found = async |device: &str| {
        let filter = DeadLetterFilter { device: Some(device.into()), ..DeadLetterFilter::default() };
        let items = store.dead_letters(&filter).await.unwrap().items;
        items.into_iter().rev().map(|row| row.id.rsplit('/').next().unwrap().to_string()).collect::<String>()
    };
    for (device, expected) in
        [("a", "0"), ("b", "12"), ("b\"ü", "0"), ("c", "0"), ("ca", "2"), ("d", ""), ("press-1", "0")]
    {
        assert_eq!(found(device).await, expected, "{device}");
    }
    let used = async || {
        let (mut behind, mut handles, mut ids) = (0, Vec::new(), Vec::new());
        while let Some(kept) = store.kept_rows("hot", "1/0/8", behind).await.unwrap() {
            assert_eq!((kept.source.as_str(), kept.payload.is_empty()), ("readings", false));
            behind = kept.sequence;
            handles.extend(kept.handles);
            ids.push(kept.id);
        }
        (handles, ids)
    };
    let (handles, ids) = used().await;
    assert_eq!(handles, [0, 1, 2, 10, 20, 21]);
    // What came after the last one that was used is not marked with it.
    let mark = async |upto: &str| store.mark_record_replayed("hot", "1/0/8", upto, "anna", START).await;
    assert_eq!(mark(&ids[ids.len() - 2]).await.unwrap(), 2);
    assert_eq!(used().await.0, [20, 21]);
    assert_eq!(mark(&ids[ids.len() - 1]).await.unwrap(), 1);
    assert_eq!(mark("1/0/8/no-letter").await.unwrap(), 0);
    assert_eq!(used().await, (Vec::new(), Vec::new()));
    assert_eq!(store.dead_letter("1/0/9/2").await.unwrap().rows, 2);
}

#[tokio::test]
async fn dead_letters_are_kept_whole_within_bounds_and_counted() {
    let Place { store, folder: _folder, .. } = place().await;
    store.set_dead_letter_bounds(DeadLetterBounds { letters: 10, bytes: 5000 });
    let letters: Vec<_> = (0..8).map(|id| letter(id, 100)).collect();
    store.add_dead_letters(&letters).await.unwrap();
    store.add_dead_letters(&letters).await.unwrap();
    let totals = store.dead_letter_totals().await.unwrap();
    assert_eq!((totals.letters, totals.bytes, totals.dropped), (8, 800, 0));
    store.add_dead_letters(&[letter(8, 100), letter(9, 100), letter(10, 100)]).await.unwrap();
    let totals = store.dead_letter_totals().await.unwrap();
    assert_eq!((totals.letters, totals.dropped), (10, 1));
    store.add_dead_letters(&[letter(11, 4500)]).await.unwrap();
    let totals = store.dead_letter_totals().await.unwrap();
    assert_eq!((totals.letters, totals.bytes, totals.dropped), (6, 5000, 6));
    assert!(matches!(store.dead_letter("1/0/0/0").await, Err(StoreError::NotFound { .. })));
    let whole = store.dead_letter("1/0/11/0").await.unwrap();
    assert_eq!((whole.payload.len(), whole.size), (4500, 4500));
    let filter = DeadLetterFilter { device: Some("press-1".into()), ..DeadLetterFilter::default() };
    let listed = store.dead_letters(&filter).await.unwrap().items;
    assert_eq!(listed.iter().map(|row| row.payload.len()).collect::<Vec<_>>(), [1024, 100, 100]);
    assert!(store.mark_replayed("1/0/11/0", "anna", START).await.unwrap());
    assert!(!store.mark_replayed("1/0/11/0", "anna", START).await.unwrap());
    let filter = DeadLetterFilter { replayed: Some(true), ..DeadLetterFilter::default() };
    assert_eq!(store.dead_letters(&filter).await.unwrap().items.len(), 1);
    assert!(store.delete_dead_letter("1/0/11/0").await.unwrap());
    assert!(!store.delete_dead_letter("1/0/11/0").await.unwrap());
    assert_eq!(store.dead_letter_totals().await.unwrap().bytes, 500);
}

#[tokio::test]
async fn devices_are_projected() {
    let Place { store, folder: _folder, .. } = place().await;
    let device = |id: &str, site: &str| {
        let spec = DeviceSpec { id: id.into(), site: site.into(), ..DeviceSpec::default() };
        (spec, PartitionId(0), DeviceHandle(0))
    };
    let many: Vec<_> = (0..1500).map(|i| device(&format!("d-{i:04}"), "oslo")).collect();
    store.put_devices(&many, START).await.unwrap();
    store.put_devices(&[device("d-0001", "lyon")], Timestamp(START.0 + 1)).await.unwrap();
    let row = store.device("d-0001").await.unwrap();
    assert_eq!((row.spec.site.as_str(), row.created_at), ("lyon", START));
    let filter = DeviceFilter { site: Some("oslo".into()), limit: 1000, ..DeviceFilter::default() };
    let page = store.devices(&filter).await.unwrap();
    let rest = store.devices(&DeviceFilter { cursor: page.next.clone(), ..filter }).await.unwrap();
    assert_eq!((page.items.len(), rest.items.len(), rest.next), (1000, 499, None));
    store.set_device_password("d-0001", "x").await.unwrap();
    store.delete_device("d-0001", Timestamp(START.0 + 2)).await.unwrap();
    assert!(store.device("d-0001").await.unwrap().deleted_at.is_some());
    assert!(store.credentials("d-0001").await.unwrap().is_empty());
    store.put_devices(&[device("d-0001", "rome")], Timestamp(START.0 + 3)).await.unwrap();
    let again = store.device("d-0001").await.unwrap();
    assert_eq!((again.deleted_at, again.created_at), (None, Timestamp(START.0 + 3)));
}

#[tokio::test]
async fn modules_are_files_that_are_checked_when_read() {
    let Place { store, folder: _folder, .. } = place().await;
    let bytes = b"\0asm component".to_vec();
    let row = ModuleRow {
        digest: Digest::of(&bytes),
        name: "threshold".into(),
        version: "0.1.0".into(),
        language: "rust".into(),
        size: bytes.len() as u64,
        report: serde_json::json!({"metrics": []}),
        created_at: START,
        created_by: "anna".into(),
    };
    assert!(store.add_module(&row, bytes.clone()).await.unwrap());
    assert!(!store.add_module(&row, bytes.clone()).await.unwrap());
    assert!(store.add_module(&row, b"other".to_vec()).await.is_err());
    assert_eq!(store.module(&row.digest).await.unwrap(), row);
    assert_eq!(store.module_bytes(&row.digest).unwrap(), bytes);
    let path = store.modules_folder().join(format!("{}.wasm", row.digest.hex()));
    std::fs::write(path, b"damaged").unwrap();
    assert!(store.module_bytes(&row.digest).unwrap_err().to_string().contains("damaged"));
    assert!(store.delete_module(&row.digest).await.unwrap());
    assert!(matches!(store.module_bytes(&row.digest), Err(StoreError::NotFound { .. })));
    assert!(!store.delete_module(&row.digest).await.unwrap());
}

#[tokio::test]
async fn rules_keep_every_version() {
    let Place { store, folder: _folder, .. } = place().await;
    let version = |version: u32, rolled_back_to| RuleVersionRow {
        name: "hot".into(),
        version,
        spec: serde_json::from_value::<RuleSpec>(serde_json::json!({
            "name": "hot", "module": Digest::of(&[version as u8]).to_string()
        }))
        .unwrap(),
        state: RuleState::Deployed,
        by: Actor { name: "anna".into(), reason: Some("why not".into()), request: None },
        created_at: Timestamp(START.0 + i64::from(version)),
        rolled_back_to,
        refusal: None,
        positions: Default::default(),
    };
    for row in [version(1, None), version(2, None), version(2, None), version(3, Some(1))] {
        store.put_rule_version(&row).await.unwrap();
    }
    let position = Position { epoch: Epoch(1), partition: PartitionId(3), offset: 9 };
    store.record_activation("hot", 3, position).await.unwrap();
    store.record_activation("hot", 3, position).await.unwrap();
    store.set_rule_state("hot", None, RuleState::Paused, None, START).await.unwrap();
    store.set_rule_state("hot", Some(1), RuleState::Refused, Some("no start"), START).await.unwrap();
    let rule = store.rule("hot").await.unwrap();
    assert_eq!((rule.version, rule.state), (3, RuleState::Paused));
    let versions = store.rule_versions("hot").await.unwrap();
    let states: Vec<_> = versions.iter().map(|row| (row.version, row.state)).collect();
    assert_eq!(states, [(3, RuleState::Paused), (2, RuleState::RolledBack), (1, RuleState::Refused)]);
    assert_eq!(versions[0].positions[&3], position);
    assert_eq!(versions[2].refusal.as_deref(), Some("no start"));
    assert!(store.record_activation("hot", 9, position).await.is_err());
    assert!(store.set_rule_state("cold", None, RuleState::Paused, None, START).await.is_err());
}

#[tokio::test]
async fn audit_cursors_and_settings() {
    let Place { store, folder: _folder, .. } = place().await;
    for (i, action) in ["rule.deploy", "rule.remove", "token.create"].into_iter().enumerate() {
        let row = AuditRow {
            sequence: 0,
            at: Timestamp(START.0 + i as i64),
            actor: "anna".into(),
            action: action.into(),
            subject: "hot".into(),
            request: None,
            outcome: "done".into(),
            detail: None,
        };
        assert_eq!(store.add_audit(&row).await.unwrap(), i as i64 + 1);
    }
    let filter = AuditFilter { action: Some("rule".into()), ..AuditFilter::default() };
    assert_eq!(store.audit(&filter).await.unwrap().items.len(), 2);
    store.set_cursor("projector", PartitionId(1), 5).await.unwrap();
    store.set_cursor("projector", PartitionId(1), 7).await.unwrap();
    assert_eq!(store.cursors("projector").await.unwrap(), [(PartitionId(1), 7)]);
    store.set_setting("epoch", Some("2")).await.unwrap();
    assert_eq!(store.setting("epoch").await.unwrap().as_deref(), Some("2"));
    store.set_setting("epoch", None).await.unwrap();
    assert_eq!(store.setting("epoch").await.unwrap(), None);
}

#[tokio::test]
async fn a_backup_is_taken_while_running_and_a_later_format_is_refused() {
    let Place { folder, clock, store } = place().await;
    store.set_setting("a", Some("b")).await.unwrap();
    let copy = folder.path().join("copy.db");
    store.backup(&copy).await.unwrap();
    assert!(matches!(store.backup(&copy).await, Err(StoreError::Refused(_))));
    let second = Store::open(&copy, clock.clone()).await.unwrap();
    assert_eq!(second.setting("a").await.unwrap().as_deref(), Some("b"));
    second.close().await;
    store.close().await;

    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&copy);
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    sqlx::query("INSERT INTO format (version) VALUES (999)").execute(&pool).await.unwrap();
    pool.close().await;
    let error = Store::open(&copy, clock).await.unwrap_err();
    assert!(matches!(error, StoreError::Newer { found: 999, .. }));
    assert!(error.to_string().contains("a later release"), "{error}");
}

#[tokio::test]
async fn a_full_disk_is_an_error_and_passes() {
    let Place { store, folder: _folder, .. } = place().await;
    // SQLite's own limit of pages behaves as a full disk does: SQLITE_FULL.
    store.limit_pages_for_tests(Some(1)).await;
    let letters: Vec<_> = (0..20).map(|id| letter(id, 100_000)).collect();
    let error = store.add_dead_letters(&letters).await.unwrap_err();
    assert!(matches!(error, StoreError::DiskFull { .. }), "{error:?}");
    store.limit_pages_for_tests(None).await;
    store.add_dead_letters(&letters).await.unwrap();
    assert_eq!(store.dead_letter_totals().await.unwrap().letters, 20);
}

#[tokio::test]
async fn whoever_loses_a_credential_is_announced() {
    let Place { store, folder: _folder, .. } = place().await;
    let mut revoked = store.revocations();
    let device = || Revoked::Device("a".into());
    store.set_device_password("a", "first").await.unwrap();
    assert!(revoked.try_recv().is_err(), "there was none before");
    store.set_device_password("a", "second").await.unwrap();
    assert_eq!(revoked.try_recv(), Ok(device()));
    let (row, _) = store.create_device_token("a").await.unwrap();
    assert!(store.remove_credential("a", &row.id).await.unwrap());
    assert_eq!(revoked.try_recv(), Ok(device()));
    assert!(!store.remove_credential("a", &row.id).await.unwrap());
    assert!(revoked.try_recv().is_err());
    store.delete_device("a", store.wall()).await.unwrap();
    assert_eq!(revoked.try_recv(), Ok(device()));
    let token = NewToken { name: "ops".into(), role: Role::Operator, by: "t".into(), expires_at: None };
    let (row, _) = store.create_token(&token).await.unwrap();
    store.revoke_token(&row.id).await.unwrap();
    assert_eq!(revoked.try_recv(), Ok(Revoked::Token("ops".into())));
}

#[tokio::test]
async fn guesses_from_one_address_do_not_keep_others_out() {
    let Place { store, folder: _folder, .. } = place().await;
    for device in ["a", "b"] {
        store.set_device_password(device, "s3cret").await.unwrap();
    }
    let (evil, good) = (Some([10, 0, 0, 1].into()), Some([10, 0, 0, 2].into()));
    let mut seen = Vec::new();
    for i in 0..8 {
        seen.push(store.check_device("a", &format!("guess {i}"), evil).await.unwrap());
    }
    assert_eq!(seen[..5], [Checked::Wrong; 5]);
    assert_eq!(seen[6..], [Checked::Later; 2], "no hash for these");
    assert_eq!(store.check_device("a", "s3cret", evil).await.unwrap(), Checked::Later);
    // The device itself is let in from where it is, and from there on by the cache, whatever others do.
    assert_eq!(store.check_device("a", "s3cret", good).await.unwrap(), Checked::Right);
    assert_eq!(store.check_device("a", "s3cret", evil).await.unwrap(), Checked::Right);
    assert_eq!(store.check_device("b", "s3cret", evil).await.unwrap(), Checked::Right);
    // A check that nobody waits for any more is not in vain.
    store.set_device_password("b", "other").await.unwrap();
    let given_up =
        tokio::time::timeout(std::time::Duration::from_millis(1), store.check_device("b", "other", good));
    let _ = given_up.await;
    assert_eq!(store.check_device("b", "other", good).await.unwrap(), Checked::Right);
}

#[tokio::test]
async fn of_the_times_that_a_rule_was_out_the_latest_are_kept() {
    use watchfire_store::outages::{KEPT, OutageRow};
    let Place { store, folder: _folder, .. } = place().await;
    let out = |rule: &str, time: u32| OutageRow {
        position: format!("1/0/{rule}{time}"),
        rule: rule.into(),
        opened_at: START + watchfire_model::Duration::from_secs(time.into()),
        ..OutageRow::default()
    };
    store.add_outage(&out("other", 0)).await.unwrap();
    for time in 0..KEPT + 3 {
        store.add_outage(&out("hot", time)).await.unwrap();
    }
    let kept = store.outages("hot", 1000).await.unwrap();
    assert_eq!(kept.len() as u32, KEPT);
    assert_eq!(kept.last(), Some(&out("hot", 3)));
    assert_eq!(store.outages("other", 10).await.unwrap().len(), 1);
}
