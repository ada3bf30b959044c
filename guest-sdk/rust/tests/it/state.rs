use watchfire_rule::{Debounce, Ewma, State, TumblingWindow, bytes_of, slot_of, state, state_of};

state! {
    struct Inner { flag: bool, small: u16 }
}

state! {
    /// One of each kind.
    struct Everything {
        number: f64,
        integer: i64,
        flag: bool,
        past: [f64; 2],
        inner: Inner,
        several: [Inner; 2],
        usual: Ewma,
    }
}

#[test]
fn fields_lie_in_their_order_without_gaps() {
    assert_eq!(Everything::SIZE, 8 + 8 + 1 + 16 + 3 + 6 + 24);
    let state = Everything {
        number: 1.0,
        integer: -2,
        flag: true,
        past: [0.0, 0.5],
        inner: Inner { flag: false, small: 0x0102 },
        several: [Inner { flag: true, small: 3 }, Inner::default()],
        usual: Ewma { mean: 2.0, variance: 0.0, count: 1 },
    };
    let mut expected = vec![0, 0, 0, 0, 0, 0, 0xf0, 0x3f];
    expected.extend([0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    expected.push(1);
    expected.extend([0; 8]);
    expected.extend([0, 0, 0, 0, 0, 0, 0xe0, 0x3f]);
    expected.extend([0, 2, 1, 1, 3, 0, 0, 0, 0]);
    expected.extend([0, 0, 0, 0, 0, 0, 0, 0x40]);
    expected.extend([0; 8]);
    expected.extend([1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes_of(&state), expected);
    assert_eq!(state_of::<Everything>(&expected), Some(state));
}

#[test]
fn what_is_all_zero_is_not_stored() {
    assert!(bytes_of(&Everything::default()).is_empty());
    // -0 equals 0, and is another value all the same.
    let negative = Everything { number: -0.0, ..Everything::default() };
    assert_eq!(negative, Everything::default());
    assert!(!State::same(&negative, &Everything::default()));
    assert_eq!(bytes_of(&negative)[7], 0x80);
}

#[test]
fn nan_is_the_same_as_itself() {
    let nan = Everything { past: [f64::NAN, 0.0], ..Everything::default() };
    assert!(State::same(&nan, &nan));
}

#[test]
fn a_blob_of_another_size_is_no_state() {
    assert_eq!(state_of::<Inner>(&[1, 2]), None);
    assert_eq!(state_of::<Inner>(&[1, 2, 0, 0]), None);
    assert_eq!(state_of::<Inner>(&[1, 2, 0]), Some(Inner { flag: true, small: 2 }));
}

#[test]
fn a_long_array_has_a_default_too() {
    state! {
        struct Day { minutes: [f64; 60] }
    }
    assert_eq!((Day::SIZE, Day::default().minutes[59]), (480, 0.0));
}

#[test]
fn sizes_of_the_helpers_are_those_of_every_language() {
    assert_eq!((Ewma::SIZE, Debounce::SIZE, TumblingWindow::SIZE), (24, 9, 40));
    assert_eq!((watchfire_rule::RateOfChange::SIZE, watchfire_rule::Hysteresis::SIZE), (17, 1));
}

#[test]
fn slots_are_fnv_1a() {
    assert_eq!(slot_of(""), 0x811c_9dc5);
    assert_eq!(slot_of("a"), 0xe40c_292c);
    assert_eq!(slot_of("foobar"), 0xbf9c_f968);
}
