use watchfire_rule::{
    Debounce, Edge, Ewma, Hysteresis, RateOfChange, SlidingWindow, TumblingWindow, Window, seconds,
};

#[test]
fn ewma_begins_with_the_first_value() {
    let mut ewma = Ewma::default();
    ewma.update(10.0, 0.1);
    assert_eq!((ewma.mean, ewma.variance, ewma.count), (10.0, 0.0, 1));
    assert_eq!(ewma.deviation(99.0), 0.0);
    ewma.update(20.0, 0.1);
    assert_eq!((ewma.mean, ewma.variance, ewma.count), (11.0, 9.0, 2));
    assert_eq!(ewma.deviation(17.0), 2.0);
    ewma.update(11.3, 0.1);
    // In the order written: a fused operation, or delta squared first, would end in other digits.
    let delta: f64 = 11.3 - 11.0;
    assert_eq!(ewma.mean.to_bits(), (11.0 + 0.1 * delta).to_bits());
    assert_eq!(ewma.variance.to_bits(), ((1.0 - 0.1) * (9.0 + (0.1 * delta) * delta)).to_bits());
}

#[test]
fn a_rate_needs_two_values_in_order() {
    let mut rate = RateOfChange::default();
    assert_eq!(rate.update(seconds(10.0), 5.0), None);
    assert_eq!(rate.update(seconds(12.0), 8.0), Some(1.5));
    // Not later: left aside, also as a memory.
    assert_eq!(rate.update(seconds(12.0), 100.0), None);
    assert_eq!(rate.update(seconds(11.0), 100.0), None);
    assert_eq!(rate.update(seconds(12.5), 8.0), Some(0.0));
    assert_eq!(rate.update(seconds(13.5), 7.0), Some(-1.0));
}

#[test]
fn the_first_value_of_a_rate_may_be_from_before_1970() {
    let mut rate = RateOfChange::default();
    assert_eq!(rate.update(-5, 1.0), None);
    assert_eq!((rate.value, rate.time, rate.known), (1.0, -5, true));
}

fn edges(on: f64, off: f64, values: &[f64]) -> Vec<Edge> {
    let mut hysteresis = Hysteresis::default();
    values.iter().map(|&x| hysteresis.update(x, on, off)).collect()
}

#[test]
fn hysteresis_works_both_ways() {
    use Edge::{Falling, Rising, Unchanged};
    let high = edges(80.0, 75.0, &[80.0, 80.1, 90.0, 75.0, 74.9, 74.0, 81.0]);
    assert_eq!(high, [Unchanged, Rising, Unchanged, Unchanged, Falling, Unchanged, Rising]);
    let low = edges(10.0, 15.0, &[10.0, 9.9, 5.0, 15.0, 15.1, 16.0, 9.0]);
    assert_eq!(low, [Unchanged, Rising, Unchanged, Unchanged, Falling, Unchanged, Rising]);
    assert_eq!(edges(10.0, 10.0, &[10.0, 11.0, 10.0, 9.0]), [Unchanged, Rising, Unchanged, Falling]);
    assert_eq!(edges(1.0, 0.0, &[f64::NAN]), [Unchanged]);
}

#[test]
fn debounce_counts_from_where_the_condition_began() {
    let mut debounce = Debounce::default();
    let mut at = |condition, time| debounce.update(condition, seconds(time), seconds(30.0));
    assert!(!at(true, 0.0));
    assert!(!at(true, 29.0));
    assert!(at(true, 30.0));
    // A late reading is judged at its own time.
    assert!(!at(true, 10.0));
    assert!(at(true, 31.0));
    assert!(!at(false, 32.0));
    assert!(!at(true, 70.0));
    assert!(at(true, 100.0));
    assert!(Debounce::default().update(true, 5, 0));
}

#[test]
fn a_tumbling_window_is_given_when_the_next_begins() {
    let mut window = TumblingWindow::default();
    let span = seconds(60.0);
    let mut add = |time, x| window.add(seconds(time), x, span);
    assert_eq!(add(0.0, 5.0), None);
    assert_eq!(add(59.0, 1.0), None);
    let first = Window { start: 0, end: span, count: 2, sum: 6.0, min: 1.0, max: 5.0, mean: 3.0 };
    assert_eq!(add(60.0, 7.0), Some(first));
    // Of a window that is over.
    assert_eq!(add(30.0, 100.0), None);
    let second = Window { start: span, end: 2 * span, count: 1, sum: 7.0, min: 7.0, max: 7.0, mean: 7.0 };
    assert_eq!(add(600.0, 8.0), Some(second));
}

#[test]
fn windows_before_1970_are_cut_downwards() {
    let mut window = TumblingWindow::default();
    assert_eq!(window.add(-1, 1.0, 10), None);
    let closed = window.add(0, 2.0, 10).unwrap();
    assert_eq!((closed.start, closed.end, closed.sum), (-10, 0, 1.0));
}

#[test]
#[should_panic(expected = "does not fall into 6 pieces")]
fn a_sliding_window_has_pieces_of_some_length() {
    SlidingWindow::new(0, 6, 5);
}
