use watchfire_rule::{Migrated, States, migrate_each, state, state_of};

state! {
    struct Old { count: i64 }
}

state! {
    struct New { count: i64, total: f64 }
}

fn one(blob: &[u8]) -> Result<Migrated, String> {
    let old: Old = state_of(blob).ok_or("no old state")?;
    Ok(New { count: old.count, total: old.count as f64 }.into())
}

fn states(blobs: &[&[u8]]) -> States {
    States { lengths: blobs.iter().map(|blob| blob.len() as u32).collect(), data: blobs.concat() }
}

#[test]
fn blobs_are_migrated_one_by_one() {
    let two = [2, 0, 0, 0, 0, 0, 0, 0];
    let new = migrate_each(&states(&[&two, &[0; 8], &two]), one).unwrap();
    // What is nothing now is not stored.
    assert_eq!(new.lengths, [16, 0, 16]);
    assert_eq!(new.data[..16], [2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x40]);
    assert_eq!(new.data[16..], new.data[..16]);
}

#[test]
fn one_that_cannot_be_migrated_fails_all() {
    let text = |states| migrate_each(&states, one).err();
    assert_eq!(text(states(&[&[0; 8], &[1, 2]])), Some("no old state".into()));
    assert_eq!(text(States { lengths: vec![8], data: vec![0; 7] }), Some("the states are cut short".into()));
}
