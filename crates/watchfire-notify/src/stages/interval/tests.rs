use super::*;

fn intervals(text: &str) -> Intervals {
    #[derive(Deserialize)]
    struct File {
        time_interval: Vec<TimeIntervalConfig>,
    }
    let file: File = toml::from_str(&format!("[[time_interval]]\nname = \"x\"\n{text}")).unwrap();
    Intervals::new(&file.time_interval).unwrap()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// Whether the interval holds at each of these times.
fn check(text: &str, times: &[(&str, bool)]) {
    let all = intervals(text);
    for (time, expected) in times {
        assert_eq!(all.is_active("x", at(time)), *expected, "{text} at {time}");
    }
    assert!(!all.is_active("y", at(times[0].0)));
}

/// The next edges from a time on.
fn edges(text: &str, from: &str, expected: &[&str]) {
    let all = intervals(text);
    let mut now = at(from);
    for edge in expected {
        let next = all.next_edge(now).unwrap();
        assert_eq!(next, at(edge), "{text} after {now}");
        let before = Timestamp(next.0 - 1);
        assert_ne!(all.is_active("x", next), all.is_active("x", before), "{text} at {next}");
        now = next;
    }
}

const OFFICE: &str =
    "weekdays = [\"monday:friday\"]\ntimes = [{ start_time = \"09:00\", end_time = \"17:00\" }]";
const NIGHT: &str = "times = [{ start_time = \"22:00\", end_time = \"24:00\" }, { start_time = \"00:00\", end_time = \"06:00\" }]";

#[test]
fn times_and_weekdays() {
    // A Friday.
    check(
        OFFICE,
        &[
            ("2026-01-02T08:59:59.999999Z", false),
            ("2026-01-02T09:00:00Z", true),
            ("2026-01-02T16:59:59Z", true),
            ("2026-01-02T17:00:00Z", false),
            ("2026-01-03T12:00:00Z", false),
            ("2026-01-04T12:00:00Z", false),
            ("2026-01-05T12:00:00Z", true),
        ],
    );
    edges(
        OFFICE,
        "2026-01-02T12:00:00Z",
        &["2026-01-02T17:00:00Z", "2026-01-05T09:00:00Z", "2026-01-05T17:00:00Z"],
    );
    check(
        NIGHT,
        &[
            ("2026-01-02T21:59:00Z", false),
            ("2026-01-02T22:00:00Z", true),
            ("2026-01-02T23:59:59Z", true),
            ("2026-01-03T00:00:00Z", true),
            ("2026-01-03T05:59:59Z", true),
            ("2026-01-03T06:00:00Z", false),
        ],
    );
    // Midnight is no edge where it goes on.
    edges(
        NIGHT,
        "2026-01-02T12:00:00Z",
        &["2026-01-02T22:00:00Z", "2026-01-03T06:00:00Z", "2026-01-03T22:00:00Z"],
    );
    check("weekdays = [\"Sunday\"]", &[("2026-01-04T00:00:00Z", true), ("2026-01-05T00:00:00Z", false)]);
    check(
        "weekdays = [\"saturday\", \"sunday\"]",
        &[("2026-01-03T00:00:00Z", true), ("2026-01-02T23:59:59Z", false)],
    );
}

#[test]
fn days_months_and_years() {
    let last = "days_of_month = [\"-1\"]";
    check(
        last,
        &[
            ("2026-01-30T12:00:00Z", false),
            ("2026-01-31T12:00:00Z", true),
            ("2026-02-28T12:00:00Z", true),
            ("2028-02-28T12:00:00Z", false),
            ("2028-02-29T12:00:00Z", true),
            ("2026-04-30T12:00:00Z", true),
        ],
    );
    edges(
        last,
        "2026-02-01T12:00:00Z",
        &["2026-02-28T00:00:00Z", "2026-03-01T00:00:00Z", "2026-03-31T00:00:00Z"],
    );
    // The 31st is no day of a shorter month, and a range over the end of one ends with it.
    check("days_of_month = [31]", &[("2026-02-28T12:00:00Z", false), ("2026-03-31T12:00:00Z", true)]);
    check("days_of_month = [\"28:31\"]", &[("2026-02-28T12:00:00Z", true), ("2026-03-01T00:00:00Z", false)]);
    check(
        "days_of_month = [\"1:5\", \"-3:-1\"]",
        &[
            ("2026-04-05T23:59:59Z", true),
            ("2026-04-06T00:00:00Z", false),
            ("2026-04-27T23:59:59Z", false),
            ("2026-04-28T00:00:00Z", true),
        ],
    );
    check(
        "days_of_month = [\"-31:-30\"]",
        &[("2026-01-02T00:00:00Z", true), ("2026-02-01T00:00:00Z", false)],
    );
    check("days_of_month = [\"10:-10\"]", &[("2026-02-19T00:00:00Z", true), ("2026-02-20T00:00:00Z", false)]);
    check(
        "months = [\"may:august\", 12]\nyears = [\"2026:2027\"]",
        &[
            ("2026-04-30T23:59:59Z", false),
            ("2026-05-01T00:00:00Z", true),
            ("2027-12-31T23:59:59Z", true),
            ("2028-06-01T00:00:00Z", false),
        ],
    );
    // All keys must hold: a Friday that is a 13th.
    check(
        "weekdays = [\"friday\"]\ndays_of_month = [13]",
        &[("2026-02-13T00:00:00Z", true), ("2026-02-06T00:00:00Z", false), ("2026-01-13T00:00:00Z", false)],
    );
}

#[test]
fn one_of_several() {
    let holidays = "[[time_interval.any]]\ndays_of_month = [25]\nmonths = [\"december\"]\n[[time_interval.any]]\n\
                    weekdays = [\"sunday\"]\nlocation = \"Asia/Tokyo\"";
    check(
        holidays,
        &[
            ("2026-12-25T12:00:00Z", true),
            ("2026-12-24T12:00:00Z", false),
            // Sunday begins in Tokyo.
            ("2026-01-03T15:00:00Z", true),
            ("2026-01-04T15:00:00Z", false),
        ],
    );
    edges(holidays, "2026-01-01T00:00:00Z", &["2026-01-03T15:00:00Z", "2026-01-04T15:00:00Z"]);
}

#[test]
fn the_clock_is_set_forward() {
    // Berlin, 29 March 2026: 02:00 is 03:00.
    let early = "location = \"Europe/Berlin\"\ntimes = [{ start_time = \"02:15\", end_time = \"02:45\" }]";
    check(
        early,
        &[("2026-03-28T01:15:00Z", true), ("2026-03-29T00:59:59Z", false), ("2026-03-29T01:15:00Z", false)],
    );
    // That night it does not come at all.
    edges(
        early,
        "2026-03-28T01:20:00Z",
        &["2026-03-28T01:45:00Z", "2026-03-30T00:15:00Z", "2026-03-30T00:45:00Z"],
    );
    // One that begins in the missing hour begins with the change.
    let over = "location = \"Europe/Berlin\"\ntimes = [{ start_time = \"02:30\", end_time = \"04:00\" }]";
    edges(
        over,
        "2026-03-28T12:00:00Z",
        &["2026-03-29T01:00:00Z", "2026-03-29T02:00:00Z", "2026-03-30T00:30:00Z"],
    );
    // One that ends there ends with it.
    let until = "location = \"Europe/Berlin\"\ntimes = [{ start_time = \"01:00\", end_time = \"02:30\" }]";
    edges(
        until,
        "2026-03-28T12:00:00Z",
        &["2026-03-29T00:00:00Z", "2026-03-29T01:00:00Z", "2026-03-29T23:00:00Z"],
    );
    // The clock of Santiago is set forward at midnight: 6 September 2026 begins at 01:00.
    let first = "location = \"America/Santiago\"\ndays_of_month = [6]";
    edges(first, "2026-09-01T00:00:00Z", &["2026-09-06T04:00:00Z", "2026-09-07T03:00:00Z"]);
}

#[test]
fn the_clock_is_set_back() {
    // Berlin, 25 October 2026: 03:00 is 02:00 again.
    let twice = "location = \"Europe/Berlin\"\ntimes = [{ start_time = \"02:15\", end_time = \"02:45\" }]";
    edges(
        twice,
        "2026-10-24T12:00:00Z",
        &[
            "2026-10-25T00:15:00Z",
            "2026-10-25T00:45:00Z",
            "2026-10-25T01:15:00Z",
            "2026-10-25T01:45:00Z",
            "2026-10-26T01:15:00Z",
        ],
    );
    // It has begun, and begins again as the clock goes back over its begin.
    let late = "location = \"Europe/Berlin\"\ntimes = [{ start_time = \"02:30\", end_time = \"05:00\" }]";
    edges(
        late,
        "2026-10-24T12:00:00Z",
        &["2026-10-25T00:30:00Z", "2026-10-25T01:00:00Z", "2026-10-25T01:30:00Z", "2026-10-25T04:00:00Z"],
    );
    let day = "location = \"Europe/Berlin\"\nweekdays = [\"sunday\"]";
    edges(day, "2026-10-24T12:00:00Z", &["2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"]);
}

#[test]
fn what_is_far_off_is_asked_for_again() {
    let now = at("2026-01-01T00:00:00Z");
    assert_eq!(Intervals::default().next_edge(now), None);
    assert_eq!(intervals("years = [2040]").next_edge(now), Some(now + HORIZON));
    assert_eq!(intervals("months = [\"1:12\"]").next_edge(now), Some(now + HORIZON));
    assert_eq!(intervals("months = [\"february\"]").next_edge(now), Some(at("2026-02-01T00:00:00Z")));
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    for (text, place, said) in [
        ("", "", "says no time"),
        ("location = \"UTC\"", "", "says no time"),
        ("any = [{ weekdays = [\"sunday\"] }, {}]", "any[1]", "says no time"),
        ("any = [{ weekdays = [\"someday\"] }]", "any[0].weekdays[0]", "\"someday\" is none"),
        ("years = [2026]\nany = [{ years = [2026] }]", "any", "in place of"),
        ("weekdays = [\"friday:monday\"]", "weekdays[0]", "begins with Sunday"),
        (
            "times = [{ start_time = \"22:00\", end_time = \"06:00\" }]",
            "times[0]",
            "22:00 to 24:00 and 00:00 to 06:00",
        ),
        ("times = [{ start_time = \"06:00\", end_time = \"06:00\" }]", "times[0]", "before it begins"),
        ("times = [{ start_time = \"6:00\", end_time = \"07:00\" }]", "times[0]", "\"6:00\" is no time"),
        ("times = [{ start_time = \"06:00\", end_time = \"24:01\" }]", "times[0]", "\"24:01\" is no time"),
        ("times = [{ start_time = \"06:00\", end_time = \"07:60\" }]", "times[0]", "\"07:60\" is no time"),
        ("times = [{ start_time = \"+6:00\", end_time = \"07:00\" }]", "times[0]", "is no time"),
        ("days_of_month = [0]", "days_of_month[0]", "\"0\" is none"),
        ("days_of_month = [32]", "days_of_month[0]", "\"32\" is none"),
        ("days_of_month = [1, \"-5:3\"]", "days_of_month[1]", "from the end of the month"),
        ("days_of_month = [\"-1:-3\"]", "days_of_month[0]", "before the begin"),
        ("days_of_month = [\"25:-10\"]", "days_of_month[0]", "before the begin"),
        ("months = [13]", "months[0]", "\"13\" is none"),
        ("months = [\"may:april\"]", "months[0]", "before the begin"),
        ("years = [\"2027:2026\"]", "years[0]", "before the begin"),
        ("years = [2026]\nlocation = \"Europe/Atlantis\"", "location", "no time zone"),
    ] {
        let config: TimeIntervalConfig = toml::from_str(&format!("name = \"x\"\n{text}")).unwrap();
        let (found, fault) = config.check().unwrap_err();
        assert_eq!(found, place, "{text}");
        assert!(fault.contains(said), "{fault:?} does not say {said:?}");
        assert!(Intervals::new(&[config]).unwrap_err().starts_with("\"x\""));
    }
    let twice: TimeIntervalConfig = toml::from_str("name = \"x\"\nyears = [2026]").unwrap();
    assert!(Intervals::new(&[twice.clone(), twice]).unwrap_err().contains("the same name"));
}

#[test]
fn routes_are_muted_within_and_outside() {
    let all = intervals(OFFICE);
    let (friday, saturday) = (at("2026-01-02T12:00:00Z"), at("2026-01-03T12:00:00Z"));
    let names = |name: &str| vec![name.to_string()];
    let mute = Times { mute: names("x"), active: vec![] };
    assert_eq!(mute.muted(&all, friday), Some("within x".into()));
    assert_eq!(mute.muted(&all, saturday), None);
    let active = Times { mute: vec![], active: names("x") };
    assert_eq!(active.muted(&all, friday), None);
    assert_eq!(active.muted(&all, saturday), Some("outside x".into()));
    assert!(Times::default().is_always() && !active.is_always());
    assert_eq!(Times::default().muted(&all, friday), None);
}
