use proptest::prelude::*;
use watchfire_model::alert::{AlertId, Chatter, ConditionOptions, ResolveReason};
use watchfire_model::{Duration, Severity, Timestamp};

use crate::{Condition, Moment, Phase, Step, Trigger};

#[derive(Clone, Copy, Debug)]
enum Event {
    Trigger(u8),
    Clear,
    Reset(bool),
    Remove,
    Nothing,
}

/// Events at times of the device's clock, in order.
type Story = Vec<(i64, Event)>;

fn story() -> impl Strategy<Value = Story> {
    let event = prop_oneof![
        4 => (0..3_u8).prop_map(Event::Trigger),
        4 => Just(Event::Clear),
        1 => any::<bool>().prop_map(Event::Reset),
        1 => Just(Event::Remove),
        4 => Just(Event::Nothing),
    ];
    proptest::collection::vec((0..20_i64, event), 1..120).prop_map(|steps| {
        let mut now = 0;
        steps
            .into_iter()
            .map(|(span, event)| {
                now += span;
                (now, event)
            })
            .collect()
    })
}

fn options() -> impl Strategy<Value = ConditionOptions> {
    let span = || prop_oneof![Just(0_u64), 1..40_u64];
    let chatter = proptest::option::of((1..4_u32, 1..60_u64));
    let realarm = proptest::option::of(1..50_u64);
    let repeat = prop_oneof![2 => Just(0_u32), 1 => 1..5_u32];
    let pause = proptest::option::of(0..60_u64);
    let begin = (span(), repeat, pause);
    (begin, span(), any::<bool>(), chatter, realarm).prop_map(|(begin, off, latched, chatter, realarm)| {
        let (on, repeat, pause) = begin;
        ConditionOptions {
            on_delay: Duration(on),
            minimum_repeat: repeat,
            repeat_within: pause.map(Duration),
            off_delay: Duration(off),
            latched,
            chatter: chatter.map(|(count, window)| Chatter { count, window: Duration(window) }),
            realarm: realarm.map(Duration),
        }
    })
}

fn trigger(severity: u8) -> Trigger {
    let severity = Severity::ALL[usize::from(severity)];
    Trigger { severity, summary: format!("{severity}"), details: vec![] }
}

fn apply(condition: &mut Condition, options: &ConditionOptions, now: i64, event: Event, out: &mut Vec<Step>) {
    let moment = Moment { clock: Timestamp(now), at: Timestamp(now) };
    while let Some(step) = condition.advance(options, moment.clock) {
        out.push(step);
    }
    out.extend(match event {
        Event::Trigger(severity) => condition.trigger(options, moment, trigger(severity)),
        Event::Clear => condition.clear(options, moment),
        Event::Reset(force) => condition.reset(force, moment.at),
        Event::Remove => condition.remove(ResolveReason::Deselected, moment.at),
        Event::Nothing => None,
    });
    if condition.is_raised() && condition.alert().is_none() {
        condition.set_alert(AlertId("a".into()));
    }
}

fn run(options: &ConditionOptions, story: &Story) -> (Condition, Vec<Step>) {
    let (mut condition, mut steps) = (Condition::default(), Vec::new());
    for &(now, event) in story {
        apply(&mut condition, options, now, event, &mut steps);
    }
    (condition, steps)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn raises_and_resolves_alternate_and_times_do_not_go_back(options in options(), story in story()) {
        let (condition, steps) = run(&options, &story);
        let (mut raised, mut last) = (false, Timestamp(i64::MIN));
        for step in steps {
            prop_assert!(step.at() >= last, "{step:?} before {last:?}");
            last = step.at();
            match step {
                Step::Raised(_) => { prop_assert!(!raised); raised = true }
                Step::Resolved { .. } => { prop_assert!(raised); raised = false }
                Step::SeverityChanged { .. } | Step::Realarmed(_) => prop_assert!(raised),
                Step::Cleared(_) => prop_assert!(raised && options.latched),
            }
        }
        prop_assert_eq!(raised, condition.is_raised());
    }

    #[test]
    fn the_severity_of_what_is_raised_is_the_one_that_was_told(options in options(), story in story()) {
        let (mut condition, mut told, mut latest) = (Condition::default(), None, None);
        for &(now, event) in &story {
            // What is due first, apart: each step tells the severity that the condition has right behind it.
            for event in [Event::Nothing, event] {
                if let Event::Trigger(severity) = event {
                    latest = Some(trigger(severity).severity);
                }
                let mut steps = Vec::new();
                apply(&mut condition, &options, now, event, &mut steps);
                for step in steps {
                    match step {
                        Step::Raised(_) => told = Some(condition.severity()),
                        Step::SeverityChanged { from, .. } => {
                            prop_assert_eq!(Some(from), told);
                            told = Some(condition.severity());
                            prop_assert_ne!(Some(from), told);
                        }
                        Step::Resolved { .. } => told = None,
                        Step::Cleared(_) | Step::Realarmed(_) => {}
                    }
                }
                prop_assert_eq!(told, condition.is_raised().then(|| condition.severity()));
                if condition.phase() == Phase::Active {
                    prop_assert_eq!(told, latest, "who is told knows how bad it is");
                }
            }
        }
    }

    #[test]
    fn pieces_with_serialisation_between_give_the_same(options in options(), story in story()) {
        let (whole, steps) = run(&options, &story);
        let (mut condition, mut pieces) = (Condition::default(), Vec::new());
        for &(now, event) in &story {
            apply(&mut condition, &options, now, event, &mut pieces);
            condition = serde_json::from_str(&serde_json::to_string(&condition).unwrap()).unwrap();
        }
        prop_assert_eq!(&pieces, &steps);
        prop_assert_eq!(condition, whole);
    }

    #[test]
    fn looking_at_every_due_time_changes_nothing_but_realarms(options in options(), story in story()) {
        let (_, steps) = run(&options, &story);
        let (mut condition, mut eager) = (Condition::default(), Vec::new());
        for &(now, event) in &story {
            while let Some(due) = condition.due(&options).filter(|due| due.0 < now) {
                apply(&mut condition, &options, due.0, Event::Nothing, &mut eager);
            }
            apply(&mut condition, &options, now, event, &mut eager);
        }
        let plain = |steps: &[Step]| {
            steps.iter().copied().filter(|step| !matches!(step, Step::Realarmed(_))).collect::<Vec<_>>()
        };
        prop_assert_eq!(plain(&eager), plain(&steps));
    }

    #[test]
    fn what_is_latched_is_told_again_as_what_is_new_is_raised(options in options(), story in story()) {
        // Once it is clear: a condition that is latched and one that is not hear the same from then on.
        let options = ConditionOptions { latched: true, chatter: None, realarm: None, off_delay: Duration(0), ..options };
        let (mut latched, mut fresh) = (Condition::default(), Condition::default());
        let mut steps = Vec::new();
        for _ in 0..options.minimum_repeat.max(1) {
            apply(&mut latched, &options, 0, Event::Trigger(0), &mut steps);
        }
        let begin = options.on_delay.0 as i64;
        apply(&mut latched, &options, begin, Event::Clear, &mut steps);
        prop_assert_eq!(latched.phase(), Phase::Latched { again: None });
        for (now, event) in story {
            let event = if let Event::Trigger(severity) = event { Event::Trigger(severity) } else { Event::Nothing };
            let (mut again, mut raised) = (Vec::new(), Vec::new());
            apply(&mut latched, &options, begin + now, event, &mut again);
            apply(&mut fresh, &options, begin + now, event, &mut raised);
            let stood = |steps: &[Step]| steps.first().map(Step::at);
            prop_assert_eq!(stood(&again), stood(&raised));
            if fresh.is_raised() {
                break;
            }
        }
    }

    #[test]
    fn what_is_said_and_not_said_again_is_forgotten(options in options(), story in story()) {
        let (mut condition, _) = run(&options, &story);
        let last = story.last().map_or(0, |(now, _)| *now);
        let over = last + options.longest_pause().0.max(options.on_delay.0) as i64 + 1;
        apply(&mut condition, &options, over, Event::Nothing, &mut Vec::new());
        let waits = matches!(condition.phase(), Phase::Pending { .. } | Phase::Latched { again: Some(_) });
        prop_assert!(!waits, "{:?}", condition.phase());
    }

    #[test]
    fn delays_are_exact(mut options in options(), story in story()) {
        // Against a second telling of the same: how long did the trigger stand when it was raised?
        (options.latched, options.chatter) = (false, None);
        let (mut condition, mut standing, mut cleared) = (Condition::default(), None, None);
        // When it was said often enough, counted apart, and when it was said last.
        let (mut said, mut often): (u32, Option<i64>) = (0, None);
        let mut heard: i64 = 0;
        for &(now, event) in &story {
            let before = condition.phase();
            if said > 0 && often.is_none() && now - heard > options.longest_pause().0 as i64 {
                (standing, said) = (None, 0);
            }
            let mut steps = Vec::new();
            apply(&mut condition, &options, now, Event::Nothing, &mut steps);
            for step in &steps {
                match *step {
                    Step::Raised(at) => {
                        let since: i64 = standing.unwrap();
                        let stood = since + options.on_delay.0 as i64;
                        prop_assert_eq!(at.0, stood.max(often.unwrap()), "{:?}", before);
                    }
                    Step::Resolved { at, .. } => {
                        let since: i64 = cleared.unwrap();
                        prop_assert_eq!(at.0, since + options.off_delay.0 as i64);
                    }
                    _ => {}
                }
            }
            // Whatever is due by now was taken.
            prop_assert!(condition.due(&options).is_none_or(|due| due.0 > now));
            let told = steps.len();
            apply(&mut condition, &options, now, event, &mut steps);
            match event {
                Event::Trigger(_) => {
                    standing = standing.or(Some(now));
                    cleared = None;
                    heard = now;
                    said += 1;
                    if said >= options.minimum_repeat {
                        often = often.or(Some(now));
                    }
                    // With the trigger itself, where the delay was over before.
                    if let Some(Step::Raised(at)) = steps.get(told) {
                        prop_assert_eq!((at.0, often), (now, Some(now)));
                        prop_assert!(standing.unwrap() + options.on_delay.0 as i64 <= now);
                    }
                }
                Event::Clear => {
                    (standing, said, often) = (None, 0, None);
                    cleared = cleared.or(Some(now));
                }
                Event::Reset(false) | Event::Nothing => {}
                Event::Reset(true) | Event::Remove => {
                    (standing, cleared, said, often) = (None, None, 0, None);
                }
            }
            if condition.phase() == Phase::Inactive {
                cleared = None;
            }
        }
    }
}

/// A story by hand: `12 t0` triggers as info at 12, `20 c` clears, `30 r` resets, `40 -` lets time pass.
fn check(options: ConditionOptions, story: &str, expected: &str) {
    let parsed: Story = story
        .split(',')
        .map(|item| {
            let (time, event) = item.trim().split_once(' ').unwrap();
            let event = match event {
                "c" => Event::Clear,
                "r" => Event::Reset(false),
                "f" => Event::Reset(true),
                "x" => Event::Remove,
                "-" => Event::Nothing,
                severity => Event::Trigger(severity[1..].parse().unwrap()),
            };
            (time.parse().unwrap(), event)
        })
        .collect();
    let (_, steps) = run(&options, &parsed);
    let told: Vec<String> = steps
        .iter()
        .map(|step| {
            let name = match step {
                Step::Raised(_) => "raised",
                Step::SeverityChanged { .. } => "severity",
                Step::Cleared(_) => "cleared",
                Step::Realarmed(_) => "again",
                Step::Resolved { .. } => "resolved",
            };
            format!("{} {name}", step.at().0)
        })
        .collect();
    assert_eq!(told.join(", "), expected, "{story}");
}

#[test]
fn stories() {
    let plain = ConditionOptions::default;
    check(plain(), "1 t0, 2 t0, 3 t2, 4 c, 5 c", "1 raised, 3 severity, 4 resolved");
    let on = || ConditionOptions { on_delay: Duration(10), ..plain() };
    check(on(), "1 t0, 5 c, 6 t0, 15 t0, 16 -, 17 c", "16 raised, 17 resolved");
    // The row that clears comes when the delay was over already: both happened.
    check(on(), "1 t0, 30 c", "11 raised, 30 resolved");
    let often = || ConditionOptions { minimum_repeat: 3, ..plain() };
    check(often(), "1 t0, 2 t0, 3 c, 4 t0, 5 t0, 90 -, 91 t1, 92 c", "91 raised, 92 resolved");
    // A pause that is too long: the count begins anew.
    let soon = || ConditionOptions { repeat_within: Some(Duration(5)), ..often() };
    check(soon(), "1 t0, 6 t0, 11 t0", "11 raised");
    check(soon(), "1 t0, 6 t0, 12 t0, 13 t0, 14 t0", "14 raised");
    check(soon(), "1 t0, 6 t0, 12 -, 13 t0, 14 t0, 15 t0", "15 raised");
    // Both: whichever comes later.
    let long = || ConditionOptions { on_delay: Duration(10), ..often() };
    check(long(), "1 t0, 2 t0, 3 t0, 30 -", "11 raised");
    check(long(), "1 t0, 20 t0, 30 t0", "30 raised");
    check(long(), "1 t0, 20 t0, 29 c, 30 t0, 31 t0, 32 t0, 50 c", "40 raised, 50 resolved");
    let off = || ConditionOptions { off_delay: Duration(10), ..plain() };
    check(off(), "1 t0, 5 c, 9 t0, 20 c, 29 c, 40 -", "1 raised, 30 resolved");
    let latched = || ConditionOptions { latched: true, ..plain() };
    check(latched(), "1 t0, 2 r, 3 c, 4 t0, 5 c, 6 r", "1 raised, 3 cleared, 4 again, 5 cleared, 6 resolved");
    check(latched(), "1 t1, 2 c, 3 t2, 4 t2, 5 t1", "1 raised, 2 cleared, 3 severity, 5 severity");
    let thrice = || ConditionOptions { minimum_repeat: 3, repeat_within: Some(Duration(5)), ..latched() };
    check(
        thrice(),
        "1 t0, 2 t0, 3 t0, 4 c, 5 t0, 6 t0, 7 c, 8 t0, 9 t0, 10 t1, 11 c, 12 t0, 20 r",
        "3 raised, 4 cleared, 10 severity, 11 cleared, 20 resolved",
    );
    let both = || ConditionOptions { on_delay: Duration(10), ..latched() };
    check(
        both(),
        "1 t1, 20 c, 21 t2, 40 t2, 41 c, 42 t2, 60 -",
        "11 raised, 20 cleared, 31 severity, 41 cleared, 52 again",
    );
    check(latched(), "1 t0, 2 f, 3 t0, 4 x", "1 raised, 2 resolved, 3 raised, 4 resolved");
    let realarm = || ConditionOptions { realarm: Some(Duration(10)), ..plain() };
    check(realarm(), "1 t0, 12 -, 35 -, 36 c, 90 -", "1 raised, 11 again, 31 again, 36 resolved");
    let chatter =
        || ConditionOptions { chatter: Some(Chatter { count: 3, window: Duration(20) }), ..plain() };
    check(
        chatter(),
        "1 t0, 2 c, 5 t0, 6 c, 9 t0, 10 c, 12 t0, 13 c, 32 -, 33 -, 50 t0, 51 c",
        "1 raised, 2 resolved, 5 raised, 6 resolved, 9 raised, 33 resolved, 50 raised, 51 resolved",
    );
}
