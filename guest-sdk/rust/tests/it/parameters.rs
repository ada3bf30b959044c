use watchfire_rule::{Severity, choice, parameters, parameters_of};

choice! {
    enum Side {
        Above = "above",
        Below = "below",
    }
}

parameters! {
    /// All kinds.
    struct Everything {
        /// Above it.
        high: f64 = 80, minimum = -1000, maximum = 1_000.5, unit = "°C";
        /// How many. "Some"
        /// are enough.
        count: u32 = 3, minimum = 1;
        offset: i64;
        name: String = "a \"b\"";
        open: bool = false;
        side: Side = "above";
        severity: Severity = "major";
        sites: Vec<String> = ["lyon", "ulm"];
        limits: Vec<f64> = [-1.5, 2e3], unit = "m";
        /// The last.
        required: String;
    }
}

parameters! {
    struct Nothing {}
}

#[test]
fn the_schema_says_what_was_declared() {
    let expected = [
        r#"{"type":"object","properties":{"#,
        r#""high":{"type":"number","default":80,"minimum":-1000,"maximum":1000.5,"unit":"°C","#,
        r#""description":"Above it."},"#,
        r#""count":{"type":"integer","default":3,"minimum":1,"description":"How many. \"Some\" are enough."},"#,
        r#""offset":{"type":"integer"},"#,
        r#""name":{"type":"string","default":"a \"b\""},"#,
        r#""open":{"type":"boolean","default":false},"#,
        r#""side":{"type":"string","default":"above","enum":["above","below"]},"#,
        r#""severity":{"type":"string","default":"major","enum":["info","warning","minor","major","critical"]},"#,
        r#""sites":{"type":"array","items":{"type":"string"},"default":["lyon","ulm"]},"#,
        r#""limits":{"type":"array","items":{"type":"number"},"default":[-1.5,2e3],"unit":"m"},"#,
        r#""required":{"type":"string","description":"The last."}},"#,
        r#""required":["offset","required"],"additionalProperties":false}"#,
    ];
    assert_eq!(Everything::SCHEMA, expected.concat());
    assert_eq!(
        Nothing::SCHEMA,
        r#"{"type":"object","properties":{},"required":[],"additionalProperties":false}"#
    );
}

#[test]
fn what_is_not_given_is_the_default() {
    let all: Everything = parameters_of(r#"{"offset": -5.0, "required": "x", "side": "below"}"#).unwrap();
    assert_eq!((all.high, all.count, all.offset, all.open), (80.0, 3, -5, false));
    assert_eq!((all.name.as_str(), all.required.as_str()), ("a \"b\"", "x"));
    assert_eq!((all.side, all.severity), (Side::Below, Severity::Major));
    assert_eq!((all.sites, all.limits), (vec!["lyon".to_string(), "ulm".into()], vec![-1.5, 2000.0]));
    parameters_of::<Nothing>("{}").unwrap();
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let refused = |json: &str| parameters_of::<Everything>(json).unwrap_err();
    assert_eq!(refused("{}"), "the parameter offset is not given");
    let with = |more: &str| refused(&format!(r#"{{"offset": 1, "required": "x", {more}}}"#));
    assert_eq!(with(r#""high": "80""#), r#"the parameter high cannot be "80""#);
    assert_eq!(with(r#""count": -1"#), "the parameter count cannot be -1");
    assert_eq!(with(r#""count": 1.5"#), "the parameter count cannot be 1.5");
    assert_eq!(with(r#""side": "left""#), r#"the parameter side cannot be "left""#);
    assert_eq!(with(r#""sites": [1]"#), "the parameter sites cannot be [1]");
}
