//! Who is told what, and when: time lines as Alertmanager's acceptance tests have them, over routing, the store, the
//! workers and real HTTP receivers, on a simulated clock. What only a stage decides is tried beside it, in random
//! sequences (`groups.rs`, `holds.rs`); here all stages work together, and in time.

use crate::driver::{
    Timeline, acknowledge, acknowledge_for, behaves, delete_silence, firing, raise, raise_all, reload,
    resolve, resolve_all, resolved, restart, set_clock, silence,
};
use crate::receiver::Behave;

/// All presses in one group, which takes its time.
const GATHERED: &str = "[route]\ngroup_by = [\"alertname\"]\ngroup_wait = \"30s\"\ngroup_interval = \"5m\"\n\
                        repeat_interval = \"4h\"";

/// Each press is a group of its own, and is told of at once: the defaults.
const AT_ONCE: &str = "[route]\nrepeat_interval = \"4h\"";

// ---------------------------------------------------------------- the timers of a group

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_while_the_group_waits_is_told_in_one_notice() {
    let mut line = Timeline::new(GATHERED, "10s").await;
    line.at("0s", raise("press-1"));
    line.at("10s", raise("press-2"));
    line.at("29s", raise("press-3"));
    line.expect("30s".."30s", firing(["press-1", "press-2", "press-3"]));
    line.until("2m").run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_over_while_the_group_waited_is_told_all_the_same_and_in_order() {
    let mut line = Timeline::new(GATHERED, "10s").await;
    line.at("0s", raise("press-1"));
    line.at("10s", resolve("press-1"));
    line.expect("30s".."30s", firing(["press-1"]));
    line.expect("30s".."30s", resolved(["press-1"]));
    let notices = line.until("10m").run().await;
    let told: Vec<_> = notices.iter().map(|notice| notice.told.clone()).collect();
    assert_eq!(told, [firing(["press-1"]), resolved(["press-1"])]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_new_in_a_group_that_was_told_of_waits_for_the_group_interval() {
    let mut line = Timeline::new(GATHERED, "30s").await;
    line.at("0s", raise("press-1"));
    line.expect("30s".."30s", firing(["press-1"]));
    line.at("40s", raise("press-2"));
    line.at("3m", raise("press-3"));
    line.expect("5m30s".."5m30s", firing(["press-1", "press-2", "press-3"]));
    // The interval is over when this comes: it is told at once.
    line.at("20m", raise("press-4"));
    line.expect("20m".."20m", firing(["press-1", "press-2", "press-3", "press-4"]));
    line.until("30m").run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_resolved_is_told_after_the_group_interval() {
    let mut line = Timeline::new(GATHERED, "30s").await;
    line.at("0s", raise("press-1"));
    line.at("1s", raise("press-2"));
    line.expect("30s".."30s", firing(["press-1", "press-2"]));
    line.at("1m", resolve("press-1"));
    line.expect("5m30s".."5m30s", resolved(["press-1"]).and_firing(["press-2"]));
    line.at("6m", resolve("press-2"));
    line.expect("10m30s".."10m30s", resolved(["press-2"]));
    // Nothing was left of the group: what comes now begins another one, and waits as the first did.
    line.at("11m", raise("press-1"));
    line.expect("11m30s".."11m30s", firing(["press-1"]));
    line.until("20m").run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_on_unchanged_is_told_again_after_the_repeat_interval() {
    let mut line = Timeline::new("[route]\nrepeat_interval = \"1h\"", "5m").await;
    line.at("0s", raise("press-1"));
    line.expect("0s".."0s", firing(["press-1"]));
    line.expect("1h".."1h", firing(["press-1"]));
    line.expect("2h".."2h", firing(["press-1"]));
    line.at("2h30m", resolve("press-1"));
    line.expect("2h30m".."2h30m", resolved(["press-1"]));
    line.until("4h").run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_puts_the_repetition_off() {
    let text = "[route]\ngroup_by = [\"alertname\"]\nrepeat_interval = \"1h\"";
    let mut line = Timeline::new(text, "5m").await;
    line.at("0s", raise("press-1"));
    line.expect("0s".."0s", firing(["press-1"]));
    line.at("40m", raise("press-2"));
    line.expect("40m".."40m", firing(["press-1", "press-2"]));
    line.expect("1h40m".."1h40m", firing(["press-1", "press-2"]));
    line.until("2h").run().await;
}

// ---------------------------------------------------------------- receivers that fail

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_down_is_told_when_it_is_back_and_nobody_else_is_told_twice() {
    let text = "[[receiver]]\nname = \"hook\"\n[[receiver]]\nname = \"other\"\n\
                [route]\nreceivers = [\"hook\", \"other\"]";
    let mut line = Timeline::new(text, "5s").await;
    line.at("0s", behaves("hook", Behave::Answer(500)));
    line.at("1s", raise("press-1"));
    line.expect("1s".."1s", firing(["press-1"]).to("other"));
    line.at("2m", resolve("press-1"));
    line.expect("2m".."2m", resolved(["press-1"]).to("other"));
    line.at("5m", behaves("hook", Behave::Take));
    // It waits for a minute at most between two attempts, and a quarter of that more.
    line.expect("5m".."6m20s", firing(["press-1"]));
    line.expect("5m".."6m20s", resolved(["press-1"]));
    line.until("10m").run().await;
    let mut ids: Vec<String> = line.receiver("hook").seen().iter().map(|seen| seen.id.clone()).collect();
    assert!(ids.len() > 3, "it was tried again and again: {ids:?}");
    ids.dedup();
    assert_eq!(ids.len(), 2, "first the one message, then the other: {ids:?}");
}

// ---------------------------------------------------------------- what holds notices back

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_silence_holds_is_told_when_it_ends_or_is_deleted() {
    let mut line = Timeline::new(AT_ONCE, "1m").await;
    line.at("0s", silence("short", "press-1", "10m"));
    line.at("0s", silence("long", "press-[23]", "1h"));
    line.at("10s", raise("press-1"));
    line.at("10s", raise("press-2"));
    line.at("10s", raise("press-3"));
    line.at("10s", raise("press-4"));
    line.expect("10s".."10s", firing(["press-4"]));
    // Over before anybody was told of it: nobody hears of it.
    line.at("2m", resolve("press-3"));
    line.expect("10m".."10m", firing(["press-1"]));
    line.at("20m", delete_silence("long"));
    line.expect("20m".."20m", firing(["press-2"]));
    line.at("25m", resolve("press-2"));
    line.expect("25m".."25m", resolved(["press-2"]));
    line.until("2h").run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silence_lets_go_at_its_end_whatever_else_ends_later() {
    let mut line = Timeline::new(AT_ONCE, "1m").await;
    // What ends last is known first.
    line.at("0s", silence("long", "saw-.*", "2h"));
    line.at("1m", silence("short", "press-.*", "10m"));
    line.at("2m", raise("press-1"));
    line.expect("11m".."11m", firing(["press-1"]));
    line.until("20m").run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_told_before_a_silence_is_resolved_within_it() {
    let mut line = Timeline::new(AT_ONCE, "1m").await;
    line.at("0s", raise("press-1"));
    line.expect("0s".."0s", firing(["press-1"]));
    line.at("1m", silence("works", "press-1", "1h"));
    line.at("2m", resolve("press-1"));
    line.expect("2m".."2m", resolved(["press-1"]));
    line.at("3m", raise("press-1"));
    line.at("4m", resolve("press-1"));
    line.until("2h").run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_inhibited_is_told_when_what_said_more_is_over() {
    let text = "[[inhibit]]\nsource_matchers = ['device=\"line-1\"']\ntarget_matchers = ['device=~\"press-.*\"']\n\
                equal = [\"site\"]\n[route]\nrepeat_interval = \"4h\"";
    let mut line = Timeline::new(text, "30s").await;
    line.at("0s", raise("line-1"));
    line.expect("0s".."0s", firing(["line-1"]));
    line.at("10s", raise("press-1"));
    line.at("11s", raise("press-2"));
    line.at("12s", raise("saw-1"));
    line.expect("12s".."12s", firing(["saw-1"]));
    line.at("1m", resolve("press-2"));
    line.at("5m", resolve("line-1"));
    line.expect("5m".."5m", resolved(["line-1"]));
    line.expect("5m".."5m", firing(["press-1"]));
    line.at("6m", resolve("press-1"));
    line.expect("6m".."6m", resolved(["press-1"]));
    line.until("10m").run().await;
}

/// The night of Paris, and half an hour of it that the clock passes over in March, and shows twice in October.
const NIGHT: &str = "[route]\nrepeat_interval = \"0s\"\n[[time_interval]]\nname = \"night\"\nlocation = \"Europe/Paris\"\n\
                     times = [{ start_time = \"00:00\", end_time = \"06:00\" }]\n\
                     [[time_interval]]\nname = \"half past two\"\nlocation = \"Europe/Paris\"\n\
                     times = [{ start_time = \"02:15\", end_time = \"02:45\" }]\n\
                     [[route.routes]]\nmatchers = ['device=~\"press-.*\"']\nmute_time_intervals = [\"night\"]\n\
                     [[route.routes]]\nmatchers = ['device=~\"saw-.*\"']\n\
                     mute_time_intervals = [\"half past two\"]";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_night_in_which_the_clock_is_set_forward_is_an_hour_shorter() {
    // 23:00 in Paris, the evening before the last Sunday of March.
    let mut line = Timeline::beginning("2026-03-28T22:00:00Z", NIGHT, "10m").await;
    line.at("59m", raise("press-1"));
    line.expect("59m".."59m", firing(["press-1"]));
    line.at("1h", raise("press-2"));
    // 06:00 is five hours after midnight.
    line.expect("6h".."6h", firing(["press-2"]));
    // 01:59, and half an hour later, when it is 03:29: what lies between is no time of that day.
    line.at("2h59m", raise("saw-1"));
    line.expect("2h59m".."2h59m", firing(["saw-1"]));
    line.at("3h29m", raise("saw-2"));
    line.expect("3h29m".."3h29m", firing(["saw-2"]));
    line.until("8h").run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_night_in_which_the_clock_is_set_back_is_an_hour_longer() {
    // 23:00 in Paris, the evening before the last Sunday of October.
    let mut line = Timeline::beginning("2026-10-24T21:00:00Z", NIGHT, "10m").await;
    line.at("59m", raise("press-1"));
    line.expect("59m".."59m", firing(["press-1"]));
    line.at("1h", raise("press-2"));
    // 06:00 is seven hours after midnight.
    line.expect("8h".."8h", firing(["press-2"]));
    // Half past two comes twice, an hour after the other; between them it is 02:45 to 03:00 and 02:00 to 02:15.
    line.at("3h30m", raise("saw-1"));
    line.expect("3h45m".."3h45m", firing(["saw-1"]));
    line.at("4h10m", raise("saw-2"));
    line.expect("4h10m".."4h10m", firing(["saw-2"]));
    line.at("4h30m", raise("saw-3"));
    line.expect("4h45m".."4h45m", firing(["saw-3"]));
    line.until("9h").run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silence_lets_go_at_its_end_within_the_day_of_a_time_interval() {
    // The next thing that a time interval does is to begin at midnight, fifteen hours later.
    let mut line = Timeline::beginning("2026-01-05T08:00:00Z", NIGHT, "1m").await;
    line.at("0s", silence("works", "press-1", "10m"));
    line.at("1m", raise("press-1"));
    line.expect("10m".."10m", firing(["press-1"]));
    line.until("20m").run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_storm_holds_is_told_once_it_was_calm_for_a_while() {
    let text = format!(
        "{AT_ONCE}\n[[storm]]\nparent = \"site\"\nleast = 4\ncalm = \"2m\"\nmatchers = ['device=~\"press-.*\"']"
    );
    let mut line = Timeline::new(&text, "5s").await;
    let presses = |numbers: std::ops::RangeInclusive<u32>| numbers.map(|number| format!("press-{number}"));
    line.at("0s", raise_all(presses(1..=5)));
    line.at("1m", resolve_all(presses(1..=3)));
    line.at("1m", resolve("press-5"));
    // Few, but not for long: it goes on.
    line.at("2m", raise_all(presses(1..=3)));
    line.at("5m", resolve_all(presses(1..=3)));
    // Two are half of what a storm is.
    line.at("6m", raise("press-6"));
    line.at("6m30s", resolve("press-6"));
    line.at("6m40s", restart());
    line.expect("8m30s".."8m30s", firing(["press-4"]));
    line.until("10m").run().await;
    let summaries: Vec<String> = (line.receiver("hook").taken().iter())
        .filter(|seen| seen.body["commonLabels"]["alertname"] == "watchfire-storm")
        .map(|seen| seen.body["commonAnnotations"]["summary"].as_str().unwrap_or_default().to_string())
        .collect();
    assert_eq!(summaries.len(), 2, "that it began, and that it is over: {summaries:?}");
}

// ---------------------------------------------------------------- a wall clock that is set

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_set_ahead_tells_nothing_twice_and_loses_nothing() {
    let mut line = Timeline::new(GATHERED, "30s").await;
    line.at("0s", raise("press-1"));
    line.expect("30s".."30s", firing(["press-1"]));
    line.at("1m", raise("press-2"));
    // The group has waited long enough, as far as it knows.
    line.at("2m", set_clock(3600));
    line.expect("2m".."5m30s", firing(["press-1", "press-2"]));
    line.at("10m", resolve("press-1"));
    line.at("10m", resolve("press-2"));
    line.expect("10m".."15m30s", resolved(["press-1"]).and_firing(["press-2"]));
    line.expect("10m".."20m30s", resolved(["press-2"]));
    line.until("30m").run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_set_back_tells_nothing_twice_and_loses_nothing() {
    let mut line = Timeline::new(GATHERED, "5m").await;
    line.at("0s", raise("press-1"));
    line.expect("30s".."30s", firing(["press-1"]));
    line.at("1m", raise("press-2"));
    line.at("2m", set_clock(-3600));
    // However late: at the latest when the clock is again where it was.
    line.expect("2m".."1h5m30s", firing(["press-1", "press-2"]));
    line.at("1h30m", resolve("press-1"));
    line.expect("1h30m".."1h36m", resolved(["press-1"]).and_firing(["press-2"]));
    line.at("1h40m", resolve("press-2"));
    line.expect("1h40m".."1h46m", resolved(["press-2"]));
    line.until("2h").run().await;
}

/// Nothing of a group waits for longer than its timers say, by the time that really passes: the clock of a machine may be
/// set back by an hour, and the press burns now. (The bound on messages keeps to this: `stages/cap.rs`.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_set_back_holds_no_change_back() {
    let mut line = Timeline::new(AT_ONCE, "1m").await;
    line.at("0s", raise("press-1"));
    line.expect("0s".."0s", firing(["press-1"]));
    line.at("1m", set_clock(-3600));
    line.at("2m", resolve("press-1"));
    line.expect("2m".."2m", resolved(["press-1"]));
    line.at("3m", raise("press-2"));
    line.expect("3m".."3m", firing(["press-2"]));
    line.until("1h10m").run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_set_back_does_not_keep_a_group_waiting_for_longer_than_it_should() {
    let mut line = Timeline::new(GATHERED, "1m").await;
    line.at("0s", raise("press-1"));
    line.at("10s", set_clock(-3600));
    line.expect("10s".."40s", firing(["press-1"]));
    line.at("10m", resolve("press-1"));
    line.expect("10m".."15m40s", resolved(["press-1"]));
    line.until("1h10m").run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_set_back_does_not_put_the_next_attempt_off() {
    let mut line = Timeline::new(AT_ONCE, "5s").await;
    line.at("0s", behaves("hook", Behave::Answer(500)));
    line.at("1s", raise("press-1"));
    line.at("30s", set_clock(-3600));
    line.at("1m", behaves("hook", Behave::Take));
    // A minute and a quarter is the longest wait between two attempts.
    line.expect("1m".."2m15s", firing(["press-1"]));
    line.until("5m").run().await;
}

// ---------------------------------------------------------------- what people do

/// An operator is told, and the lead five minutes later where nobody acknowledges.
const ESCALATED: &str = "[[receiver]]\nname = \"hook\"\n[[receiver]]\nname = \"lead\"\n\
                         [[escalation]]\nname = \"plant\"\n[[escalation.steps]]\nafter = \"5m\"\n\
                         receivers = [\"lead\"]\n[route]\nreceiver = \"hook\"\nrepeat_interval = \"1h\"\n\
                         [[route.routes]]\nmatchers = ['device=~\"press-.*\"']\nescalation = \"plant\"";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_acknowledged_pages_nobody_else_and_is_not_repeated() {
    let mut line = Timeline::new(ESCALATED, "1m").await;
    line.at("0s", raise("press-1"));
    line.at("0s", raise("press-2"));
    line.expect("0s".."0s", firing(["press-1"]));
    line.expect("0s".."0s", firing(["press-2"]));
    line.at("1m", acknowledge("press-1"));
    line.expect("5m".."5m", firing(["press-2"]).to("lead"));
    line.at("6m", acknowledge("press-2"));
    // Who was told of it is told of its end.
    line.at("90m", resolve("press-2"));
    line.expect("90m".."90m", resolved(["press-2"]));
    line.expect("90m".."90m", resolved(["press-2"]).to("lead"));
    line.at("100m", resolve("press-1"));
    line.expect("100m".."100m", resolved(["press-1"]));
    line.until("2h").run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledgement_that_is_over_pages_again_and_begins_the_escalation_anew() {
    let mut line = Timeline::new(ESCALATED, "30s").await;
    line.at("0s", raise("press-1"));
    line.expect("0s".."0s", firing(["press-1"]));
    line.at("1m", acknowledge_for("press-1", "10m"));
    // What people did for a time is looked at once in a second of the machine, which is why this has some room.
    line.expect("11m".."11m5s", firing(["press-1"]));
    line.expect("16m".."16m10s", firing(["press-1"]).to("lead"));
    line.at("20m", resolve("press-1"));
    line.expect("20m".."20m", resolved(["press-1"]));
    line.expect("20m".."20m", resolved(["press-1"]).to("lead"));
    line.until("30m").run().await;
}

// ---------------------------------------------------------------- another configuration, another life

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_tells_nothing_twice_and_loses_nothing_that_waits() {
    let mut line = Timeline::new(GATHERED, "30s").await;
    line.at("0s", raise("press-1"));
    line.at("10s", reload(GATHERED));
    line.expect("30s".."30s", firing(["press-1"]));
    line.at("1m", raise("press-2"));
    // The receiver is another one by what is said of it, so its worker is replaced.
    let changed = format!("[[receiver]]\nname = \"hook\"\nmax_in_flight = 2\n{GATHERED}");
    line.at("2m", reload(&changed));
    line.at("3m", reload(GATHERED));
    line.expect("5m30s".."5m30s", firing(["press-1", "press-2"]));
    line.at("6m", reload(&changed));
    line.at("7m", resolve("press-1"));
    line.expect("10m30s".."10m30s", resolved(["press-1"]).and_firing(["press-2"]));
    line.until("20m").run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_while_a_receiver_is_down_keeps_what_waits_for_it_and_its_id() {
    let mut line = Timeline::new(AT_ONCE, "5s").await;
    line.at("0s", behaves("hook", Behave::Answer(503)));
    line.at("1s", raise("press-1"));
    let changed = format!("[[receiver]]\nname = \"hook\"\nmax_in_flight = 2\n{AT_ONCE}");
    line.at("30s", reload(&changed));
    line.at("1m", reload(AT_ONCE));
    line.at("2m", behaves("hook", Behave::Take));
    line.expect("2m".."3m20s", firing(["press-1"]));
    line.until("5m").run().await;
    let mut ids: Vec<String> = line.receiver("hook").seen().iter().map(|seen| seen.id.clone()).collect();
    assert!(ids.len() > 2, "{ids:?}");
    ids.dedup();
    assert_eq!(ids.len(), 1, "{ids:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_keeps_every_timer_and_what_is_held() {
    let text = format!(
        "{GATHERED}\n[[route.routes]]\nmatchers = ['device=~\"saw-.*\"']\ngroup_by = [\"device\"]\n\
         group_wait = \"0s\"\ngroup_interval = \"0s\""
    );
    let mut line = Timeline::new(&text, "5m").await;
    line.at("0s", silence("works", "saw-1", "20m"));
    line.at("0s", raise("press-1"));
    line.at("0s", raise("saw-1"));
    line.at("10s", restart());
    line.expect("30s".."30s", firing(["press-1"]));
    line.at("1m", raise("press-2"));
    line.at("2m", restart());
    line.expect("5m30s".."5m30s", firing(["press-1", "press-2"]));
    line.at("6m", restart());
    line.expect("20m".."20m", firing(["saw-1"]));
    line.at("21m", restart());
    line.at("22m", resolve("saw-1"));
    line.expect("22m".."22m", resolved(["saw-1"]));
    line.at("23m", restart());
    line.expect("4h5m30s".."4h5m30s", firing(["press-1", "press-2"]));
    line.until("4h10m").run().await;
}
