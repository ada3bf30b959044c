use watchfire_decode::{Framing, Mapping, Shape};
use watchfire_model::{Batch, Timestamp, Values};

use crate::{NOW, decode};

/// The rows as text: `handle@micros-since-now{metric=value,…}`.
fn show(batch: &Batch) -> Vec<String> {
    (0..batch.rows())
        .map(|row| {
            let mut values: Vec<String> = Vec::new();
            for column in &batch.columns {
                let at = match &column.rows {
                    None => Some(row),
                    Some(rows) => rows.iter().position(|r| *r as usize == row),
                };
                let Some(at) = at else { continue };
                let value = match &column.values {
                    Values::Numbers(n) if n[at].is_nan() => continue,
                    Values::Numbers(n) => n[at].to_string(),
                    Values::Texts(t) if t.codes[at] == u32::MAX => continue,
                    Values::Texts(t) => format!("{:?}", t.dictionary[t.codes[at] as usize]),
                    Values::Booleans(b) if b[at] == 255 => continue,
                    Values::Booleans(b) => (b[at] == 1).to_string(),
                };
                values.push(format!("{}={value}", column.metric));
            }
            let age = batch.times[row].0 - NOW.0;
            format!("{}@{age}{{{}}}", batch.devices[row].0, values.join(","))
        })
        .collect()
}

/// `expected`: rows, then what became of the other items as `index code` or `index ?device`.
#[track_caller]
fn check_as(shape: &Shape<'_>, framing: Framing, payload: &str, expected: &[&str]) {
    let (rows, summary) = decode(payload.as_bytes(), shape, framing);
    let mut seen = rows.map_or(Vec::new(), |(batch, _)| show(&batch));
    let index = |index: Option<u32>| index.map_or("-".into(), |index| index.to_string());
    for reject in &summary.rejected {
        assert!(payload.as_bytes().get(reject.bytes.clone()).is_some(), "bytes of {reject:?}");
        seen.push(format!("{} {}", index(reject.index), reject.code));
    }
    seen.extend(summary.unknown.iter().map(|u| format!("{} ?{}", index(u.index), u.device)));
    assert_eq!(seen, expected, "{payload}\n{summary:?}");
}

#[track_caller]
fn check(payload: &str, expected: &[&str]) {
    check_as(&Shape::Event, Framing::Auto, payload, expected);
}

#[test]
fn events() {
    check(
        r#"{"device":"a","time":"2026-01-01T00:00:01Z","metrics":{"t":1.5,"on":true,"mode":"auto"}}"#,
        &[r#"0@1000000{t=1.5,on=true,mode="auto"}"#.replace("0@", "1@").as_str()],
    );
    // Fields in any order, nothing is there: null, nested, milliseconds.
    check(
        r#"{"metrics":{"x":{"y":{"z":2}},"n":null},"time":1767225600500,"device":"b"}"#,
        &["2@500000{x.y.z=2}"],
    );
    check(r#" {"device":"Gr\u00f6\u00dfe","time":null,"metrics":{"\u0061":-0.5e1}} "#, &["3@0{a=-5}"]);
    check(r#"{"device":"a","metrics":{"a":{},"b":1}}"#, &["1@0{b=1}"]);
}

#[test]
fn what_is_refused() {
    for (payload, code) in [
        (r#"{"device":"a","metrics":{"t":[1]}}"#, "metric-array"),
        (r#"{"device":"a","metrics":{"t":NaN}}"#, "metric-not-finite"),
        (r#"{"device":"a","metrics":{"t":-Infinity}}"#, "metric-not-finite"),
        (r#"{"device":"a","metrics":{"t":1e999}}"#, "metric-not-finite"),
        (r#"{"device":"a","metrics":{"t":1,"t":2}}"#, "metric-twice"),
        (r#"{"device":"a","metrics":{"t":1,"t":"x"}}"#, "metric-twice"),
        (r#"{"device":"a","metrics":{"a":{"b":1},"a.b":2}}"#, "metric-twice"),
        (r#"{"device":"a","metrics":{"":1}}"#, "metric-name"),
        (r#"{"device":"a","metrics":{"a\u0000":1}}"#, "metric-name"),
        (r#"{"device":"a","metrics":{"0123456789012345678901234567890":1}}"#, "metric-name"),
        (r#"{"device":"a","metrics":{"t":"01234567890123456789012345678901234567890"}}"#, "text-too-long"),
        (
            r#"{"device":"a","metrics":{"1":1,"2":1,"3":1,"4":1,"5":1,"6":1,"7":1,"8":1,"9":1}}"#,
            "too-many-metrics",
        ),
        (r#"{"device":"a","metrics":{}}"#, "no-metric"),
        (r#"{"device":"a","metrics":{"x":null}}"#, "no-metric"),
        (r#"{"device":"a"}"#, "no-metric"),
        (r#"{"metrics":{"t":1}}"#, "no-device"),
        (r#"{"device":7,"metrics":{"t":1}}"#, "device-invalid"),
        (r#"{"device":"a/b","metrics":{"t":1}}"#, "device-invalid"),
        (r#"{"device":"a","device":"a","metrics":{"t":1}}"#, "field-twice"),
        (r#"{"device":"a","time":1767225600500,"time":1767225600500,"metrics":{"t":1}}"#, "field-twice"),
        (r#"{"device":"a","metrics":{"t":1},"metrics":{"u":1}}"#, "field-twice"),
        (r#"{"device":"a","metrics":{"t":1},"seq":5}"#, "unknown-field"),
        (r#"{"device":"a","time":"soon","metrics":{"t":1}}"#, "time-invalid"),
        (r#"{"device":"a","time":17672256005.5,"metrics":{"t":1}}"#, "time-invalid"),
        (r#"{"device":"a","time":true,"metrics":{"t":1}}"#, "time-invalid"),
        (r#"{"device":"a","time":1767225600,"metrics":{"t":1}}"#, "time-out-of-window"),
        (r#"{"device":"a","time":"2026-01-01T00:10:00.001Z","metrics":{"t":1}}"#, "time-out-of-window"),
        (r#"{"device":"a","time":"2025-12-01T23:59:59.999Z","metrics":{"t":1}}"#, "time-out-of-window"),
        (r#"{"device":"a","metrics":{"t":1}} x"#, "trailing-bytes"),
        (r#"{"device":"a","metrics":{"t":1}}{"device":"a","metrics":{"t":1}}"#, "trailing-bytes"),
        (r#"{"device":"a","metrics":{"t":1}"#, "not-json"),
        (r#"{"device":"a","metrics":{"t":1},}"#, "not-json"),
        (r#"{"device":"a" "metrics":{"t":1}}"#, "not-json"),
        (r#"{"device":"a","metrics":{"t":01}}"#, "not-json"),
        (r#"{"device":"a","metrics":{"t":tru}}"#, "not-json"),
        (r#"{"device":"a","metrics":7}"#, "not-an-object"),
        ("7", "not-an-object"),
        ("hello", "not-json"),
    ] {
        check(payload, &[&format!("0 {code}")]);
    }
    check("", &["- empty-payload"]);
    check("[]", &["- empty-payload"]);
    let deep = format!(r#"{{"device":"a","metrics":{}1{}}}"#, r#"{"x":"#.repeat(40), "}".repeat(40));
    check(&deep, &["0 too-deep"]);
    check(&"[".repeat(100_000), &["0 not-an-object"].map(|_| "0 not-json"));
}

#[test]
fn a_reject_says_where() {
    let payload = r#"[{"device":"a","metrics":{"t":1}},{"device":"a","metrics":{"motor":{"t":[1,2]}}}]"#;
    let (_, summary) = decode(payload.as_bytes(), &Shape::Event, Framing::Auto);
    let reject = &summary.rejected[0];
    assert_eq!((reject.index, reject.reason.as_str()), (Some(1), "motor.t: an array is no metric (byte 72)"));
    assert_eq!(&payload[reject.bytes.clone()], r#"{"device":"a","metrics":{"motor":{"t":[1,2]}}}"#);
    // White space of JSON around a line is none of its item; a form feed is no white space there.
    let (_, summary) = decode(b"7\n \x0c[]\x0c \r\n", &Shape::Event, Framing::Ndjson);
    assert_eq!(summary.rejected.iter().map(|r| r.bytes.clone()).collect::<Vec<_>>(), [0..1, 3..7]);
}

#[test]
fn the_good_items_of_a_payload_pass() {
    check(
        r#"[{"device":"a","metrics":{"t":1}},{"device":"x","metrics":{"t":1}},7,{"device":"a","metrics":{"t":[]}},{"device":"b","metrics":{"t":NaN}},{"device":"b","metrics":{"t":2}}]"#,
        &["1@0{t=1}", "2@0{t=2}", "2 not-an-object", "3 metric-array", "4 metric-not-finite", "1 ?x"],
    );
    // Where the JSON itself breaks, what stood before passes.
    check(
        r#"[{"device":"a","metrics":{"t":1}},{"device":"a","metrics":{"t":}},{"device":"a","metrics":{"t":1}}]"#,
        &["1@0{t=1}", "1 not-json"],
    );
    check(r#"[{"device":"a","metrics":{"t":1}}] x"#, &["1@0{t=1}", "- trailing-bytes"]);
    check(r#"[{"device":"a","metrics":{"t":1}}"#, &["1@0{t=1}", "1 not-json"]);
    // A line that breaks costs only itself.
    let lines = "{\"device\":\"a\",\"metrics\":{\"t\":1}}\n{\"device\":\n\n\r\n{\"device\":\"b\",\"metrics\":{\"t\":2}} x\r\n{\"device\":\"b\",\"metrics\":{\"t\":3}}\r\n";
    check(lines, &["1@0{t=1}", "2@0{t=3}", "1 not-json", "2 trailing-bytes"]);
    check_as(
        &Shape::Event,
        Framing::Ndjson,
        "7\n{\"device\":\"b\",\"metrics\":{\"t\":3}}",
        &["2@0{t=3}", "0 not-an-object"],
    );
    // Printed over several lines it is still one.
    check("{\n  \"device\": \"a\",\n  \"metrics\": {\n    \"t\": 1\n  }\n}\n", &["1@0{t=1}"]);
    let many = format!("[{}]", vec![r#"{"device":"a","metrics":{"t":1}}"#; 52].join(","));
    let (_, summary) = decode(many.as_bytes(), &Shape::Event, Framing::Auto);
    assert_eq!(
        (summary.accepted, summary.rejected[0].code, summary.rejected[0].index),
        (50, "too-many-items", Some(50))
    );
}

#[test]
fn invalid_utf8_refuses_its_item() {
    let payload =
        b"[{\"device\":\"a\",\"metrics\":{\"t\":\"\xff\"}},{\"device\":\"a\",\"metrics\":{\"t\":1}}]";
    let (_, summary) = decode(payload, &Shape::Event, Framing::Auto);
    assert_eq!(summary.rejected[0].code, "not-utf8");
    let payload =
        b"{\"device\":\"a\",\"metrics\":{\"t\":\"\xff\"}}\n{\"device\":\"a\",\"metrics\":{\"t\":1}}";
    let (rows, summary) = decode(payload, &Shape::Event, Framing::Auto);
    assert_eq!((summary.rejected[0].code, rows.unwrap().0.rows()), ("not-utf8", 1));
}

#[test]
fn a_device_s_own_address() {
    let own = |payload, expected: &[&str]| check_as(&Shape::Device("a"), Framing::Auto, payload, expected);
    own(r#"{"temperature":71.4}"#, &["1@0{temperature=71.4}"]);
    own(r#"{"time":1767225600001,"t":1,"m":{"x":2}}"#, &["1@1000{t=1,m.x=2}"]);
    own(
        r#"[{"t":1},{"metrics":{"t":2}},{"device":"a","metrics":{"t":3}}]"#,
        &["1@0{t=1}", "1@0{t=2}", "1@0{t=3}"],
    );
    own(r#"{"device":"b","t":1}"#, &["0 device-mismatch"]);
    own(r#"{"t":1,"metrics":{"t":2}}"#, &["0 unknown-field"]);
    own(r#"{"metrics":{"t":2},"u":1}"#, &["0 unknown-field"]);
    own(r#"{"metrics":5}"#, &["1@0{metrics=5}"]);
    own("71.4", &["0 not-an-object"]);
    check_as(&Shape::Device("x"), Framing::Auto, r#"{"t":1}"#, &["0 ?x"]);
    check_as(&Shape::Device("x"), Framing::Auto, "{\"t\":", &["0 not-json"]);
    check(r#"{"device":"x","metrics":{"t":1}} x"#, &["0 trailing-bytes"]);
    check_as(&Shape::Device("a/b"), Framing::Auto, r#"{"t":1}"#, &["0 device-invalid"]);
}

#[test]
fn readings_without_a_time_are_known() {
    let payload = r#"[{"t":1},{"t":2,"time":1767225600001},{"t":[]},{"t":3}]"#;
    let (rows, _) = decode(payload.as_bytes(), &Shape::Device("a"), Framing::Auto);
    let (batch, untimed) = rows.unwrap();
    assert_eq!((batch.times[0], batch.times[1], untimed), (NOW, Timestamp(NOW.0 + 1000), vec![0, 2]));
}

#[test]
fn mapped_payloads() {
    let mapping = Mapping {
        device: Some("/dev/id".parse().unwrap()),
        time: Some("/ts".parse().unwrap()),
        metrics: "".parse().unwrap(),
        named: Vec::new(),
    };
    let shape = Shape::Mapped { mapping: &mapping, device: None, metric: None };
    check_as(
        &shape,
        Framing::Auto,
        r#"{"ts":1767225600001,"dev":{"id":"a","fw":"1.2"},"v":{"t":1}}"#,
        &[r#"1@1000{dev.fw="1.2",v.t=1}"#],
    );
    check_as(&shape, Framing::Auto, r#"{"dev":{},"v":1}"#, &["0 no-device"]);
    let named = Mapping {
        named: vec![("t".into(), "/v/0".parse().unwrap()), ("u".into(), "/v/1/x~1y".parse().unwrap())],
        ..mapping
    };
    let shape = Shape::Mapped { mapping: &named, device: Some("a"), metric: None };
    check_as(&shape, Framing::Auto, r#"{"dev":{"id":"a"},"v":[4,{"x/y":"on"}]}"#, &[r#"1@0{t=4,u="on"}"#]);
    check_as(&shape, Framing::Auto, r#"{"dev":{"id":"b"},"v":[4]}"#, &["0 device-mismatch"]);
    let scalar = Mapping::default();
    let shape = Shape::Mapped { mapping: &scalar, device: Some("a"), metric: Some("temperature") };
    check_as(&shape, Framing::Auto, "71.4", &["1@0{temperature=71.4}"]);
    check_as(&shape, Framing::Auto, "\"auto\"", &[r#"1@0{temperature="auto"}"#]);
    check_as(&shape, Framing::Auto, r#"{"in":1,"out":2}"#, &["1@0{temperature.in=1,temperature.out=2}"]);
    check_as(&shape, Framing::Auto, "71.4 C", &["0 trailing-bytes"]);
    check_as(&shape, Framing::Auto, "[1]", &["1@0{temperature=1}"]);
    let shape = Shape::Mapped { mapping: &scalar, device: Some("a"), metric: None };
    check_as(&shape, Framing::Auto, "71.4", &["0 not-an-object"]);
    assert!("x".parse::<watchfire_decode::Pointer>().is_err());
}
