//! What Alertmanager 0.34 makes of a text with its default parsers, as facts.

use proptest::prelude::*;

use super::*;

type Parts = (&'static str, &'static str, &'static str);

/// A list, and what it holds; `None`: it is refused.
fn check(text: &str, expected: Option<&[Parts]>) {
    let found = text.parse::<Matchers>();
    match expected {
        None => assert!(found.clone().unwrap_err().contains("is no matcher"), "{text}: {found:?}"),
        Some(expected) => {
            let found = found.unwrap();
            let parts: Vec<_> =
                found.0.iter().map(|m| (m.name(), m.operator().as_str(), m.value())).collect();
            assert_eq!(parts, expected, "{text}");
            assert_eq!(found.to_string().parse::<Matchers>(), Ok(found.clone()), "{text} as {found}");
        }
    }
}

#[test]
fn a_list_is_read_as_alertmanager_does() {
    let cases: &[(&str, Option<&[Parts]>)] = &[
        // Nothing at all holds for everything.
        ("", Some(&[])),
        ("   ", Some(&[])),
        ("{}", Some(&[])),
        ("{ }", Some(&[])),
        // The four operators, with and without quotes, braces and spaces.
        ("foo=bar", Some(&[("foo", "=", "bar")])),
        ("{foo=bar}", Some(&[("foo", "=", "bar")])),
        (r#"{foo="bar"}"#, Some(&[("foo", "=", "bar")])),
        ("{foo!=bar}", Some(&[("foo", "!=", "bar")])),
        (r#"{foo!="bar"}"#, Some(&[("foo", "!=", "bar")])),
        ("{foo=~bar.*}", Some(&[("foo", "=~", "bar.*")])),
        (r#"{foo=~"bar.*"}"#, Some(&[("foo", "=~", "bar.*")])),
        ("{foo!~bar.*}", Some(&[("foo", "!~", "bar.*")])),
        (r#"{foo!~"bar.*"}"#, Some(&[("foo", "!~", "bar.*")])),
        (r#"  foo  =  "bar"  "#, Some(&[("foo", "=", "bar")])),
        ("\tfoo\n=\nbar", Some(&[("foo", "=", "bar")])),
        (r#"{foo=""}"#, Some(&[("foo", "=", "")])),
        ("statuscode=~\"5..\"", Some(&[("statuscode", "=~", "5..")])),
        ("a:b=c", Some(&[("a:b", "=", "c")])),
        ("_x9=c", Some(&[("_x9", "=", "c")])),
        // Lists.
        ("foo=bar,dings!=bums", Some(&[("foo", "=", "bar"), ("dings", "!=", "bums")])),
        ("foo=bar, dings!=bums", Some(&[("foo", "=", "bar"), ("dings", "!=", "bums")])),
        (r#"{foo="bar", baz!="quux"}"#, Some(&[("foo", "=", "bar"), ("baz", "!=", "quux")])),
        (r#"{foo="bar", baz!~"quux.*"}"#, Some(&[("foo", "=", "bar"), ("baz", "!~", "quux.*")])),
        (
            r#"{foo="bar",baz!~".*quux", derp="wat"}"#,
            Some(&[("foo", "=", "bar"), ("baz", "!~", ".*quux"), ("derp", "=", "wat")]),
        ),
        (r#"{foo="bar,quux", job="job1"}"#, Some(&[("foo", "=", "bar,quux"), ("job", "=", "job1")])),
        (r#"{foo = "bar", dings != "bums", }"#, Some(&[("foo", "=", "bar"), ("dings", "!=", "bums")])),
        ("foo=bar,", Some(&[("foo", "=", "bar")])),
        (
            r#"contains_quote != "\"" , contains_comma !~ "foo,bar" , "#,
            Some(&[("contains_quote", "!=", "\""), ("contains_comma", "!~", "foo,bar")]),
        ),
        // The same matcher twice stays twice.
        ("a=b,a=b", Some(&[("a", "=", "b"), ("a", "=", "b")])),
        // Escapes that both parsers know.
        (
            r#"{quote="She said: \"Hi, ladies! That's gender-neutral…\""}"#,
            Some(&[("quote", "=", "She said: \"Hi, ladies! That's gender-neutral…\"")]),
        ),
        (r#"foo="a\nb""#, Some(&[("foo", "=", "a\nb")])),
        (r#"foo="a\\b""#, Some(&[("foo", "=", "a\\b")])),
        (r#"foo=~"\\d+""#, Some(&[("foo", "=~", "\\d+")])),
        // What only the classic parser takes: a backslash that escapes nothing stays ...
        (r#"foo=~"\d+""#, Some(&[("foo", "=~", "\\d+")])),
        (r"{foo=\t}", Some(&[("foo", "=", "\\t")])),
        (r"{foo=bar\t}", Some(&[("foo", "=", "bar\\t")])),
        (r"{foo=bar\}", Some(&[("foo", "=", "bar\\")])),
        (r"{foo=bar\\}", Some(&[("foo", "=", "bar\\")])),
        (r"{foo=\n}", Some(&[("foo", "=", "\n")])),
        (r"{foo=bar\n}", Some(&[("foo", "=", "bar\n")])),
        // ... and what needs quotes elsewhere.
        (r#"{foo=\"}"#, Some(&[("foo", "=", "\"")])),
        (r#"{foo=bar\"}"#, Some(&[("foo", "=", "bar\"")])),
        ("{foo='}", Some(&[("foo", "=", "'")])),
        ("{foo=`}", Some(&[("foo", "=", "`")])),
        ("foo='bar'", Some(&[("foo", "=", "'bar'")])),
        ("tricky=~~~", Some(&[("tricky", "=~", "~~")])),
        (r#"trickier==\\=\=\""#, Some(&[("trickier", "=", "=\\=\\=\"")])),
        ("foo=bar baz", Some(&[("foo", "=", "bar baz")])),
        // Braces that do not fit, and values that are empty.
        ("{foo=bar}}", Some(&[("foo", "=", "bar}")])),
        ("{foo=bar}},}", Some(&[("foo", "=", "bar}}")])),
        ("{foo=,bar=}}", Some(&[("foo", "=", ""), ("bar", "=", "}")])),
        ("{foo=}b", Some(&[("foo", "=", "}b")])),
        ("{foo=", Some(&[("foo", "=", "")])),
        ("foo=bar}", Some(&[("foo", "=", "bar")])),
        ("job=", Some(&[("job", "=", "")])),
        // Where both accept it, the classic one counts: here a tab is none.
        (r#"foo="a\tb""#, Some(&[("foo", "=", "a\\tb")])),
        (r#"foo="\x41""#, Some(&[("foo", "=", "\\x41")])),
        // What only the strict parser takes: names in UTF-8 and names in quotes, with Go's escapes.
        (r#"{name-with-dashes = "bar"}"#, Some(&[("name-with-dashes", "=", "bar")])),
        ("foo🙂=bar", Some(&[("foo🙂", "=", "bar")])),
        ("größe=\"groß\"", Some(&[("größe", "=", "groß")])),
        ("9lives=cat", Some(&[("9lives", "=", "cat")])),
        (r#""foo"="bar""#, Some(&[("foo", "=", "bar")])),
        (r#"{"foo bar"=~"a.*", b!=c}"#, Some(&[("foo bar", "=~", "a.*"), ("b", "!=", "c")])),
        (r#""a\"b"="c""#, Some(&[("a\"b", "=", "c")])),
        (r#""foo"="\t\x41\101\u00e9\U0001F642""#, Some(&[("foo", "=", "\tAAé🙂")])),
        (r#"{"a,b"="c,d"}"#, Some(&[("a,b", "=", "c,d")])),
        // What neither takes.
        ("{,}", None),
        (",", None),
        ("foo", None),
        ("{foo}", None),
        ("=bar", None),
        ("foo~bar", None),
        ("foo!bar", None),
        ("{", Some(&[])),
        ("}", Some(&[])),
        (r#"job="value"#, None),
        (r#"job=value""#, None),
        (r#"trickier==\\=\=\"""#, None),
        (r#"contains_unescaped_quote = foo"bar"#, None),
        (r#"{foo=~"invalid[regexp"}"#, None),
        (r#""{foo=\"bar"}"#, None),
        (r#""foo=\"bar""#, None),
        (r#""foo=\"bar\"""#, None),
        (r#""foo=\"bar\""#, None),
        (r#""{foo=\"bar\"}""#, None),
        (r#""foo="bar"""#, None),
        ("{{foo=", None),
        (r#""foo"="\q""#, None),
        (r#""foo"="\xff""#, None),
        (r#""foo"="\ud800""#, None),
        (r#""foo"="\400""#, None),
        ("'foo'=bar", None),
        (r#"{"foo"="bar""#, None),
        (r#""foo"="bar"}"#, None),
        (r#"{"foo"="bar"} x"#, None),
        (r#""foo"="bar" "x"="y""#, None),
        // Ours alone: a name that is empty.
        (r#"""="bar""#, None),
    ];
    assert!(cases.len() > 60);
    for (text, expected) in cases {
        check(text, *expected);
    }
}

#[test]
fn one_matcher_has_no_braces() {
    let one = |text: &str| text.parse::<Matcher>().map(|one| one.to_string());
    assert_eq!(one("severity = major"), Ok("severity=\"major\"".into()));
    assert_eq!(one(r#"a="say \"hi\"""#), Ok(r#"a="say \"hi\"""#.into()));
    assert_eq!(one(r#""a b"="c""#), Ok(r#""a b"="c""#.into()));
    // A comma is part of the value of the classic parser.
    assert_eq!(one("a=b,c=d"), Ok("a=\"b,c=d\"".into()));
    for bad in
        ["", "severity", "=x", "a=\"b", "a=b\"", "a=~\"(\"", "{a}=b", "{a=b}", "a=b}", r#""a b"=c,d=e"#]
    {
        assert!(one(bad).unwrap_err().contains("is no matcher"), "{bad}");
    }
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    for (text, said) in [
        (r#"{"a b" c}"#, "character 8: one of =, !=, =~ and !~"),
        (r#"{"a b"="c""#, "character 11, the end: the closing brace is missing"),
        (r#""a b"="c"#, "character 7: the quotes do not end"),
        (r#""a b"='c'"#, "character 7: '\\'' stands only within quotes"),
        ("foo=~\"(\"", "\"(\" is no regular expression"),
    ] {
        let fault = text.parse::<Matchers>().unwrap_err();
        assert!(fault.contains(said), "{fault} does not say {said}");
    }
}

fn holds(text: &str, labels: &[(&str, &str)], expected: bool) {
    let labels = labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    assert_eq!(text.parse::<Matchers>().unwrap().matches(&labels), expected, "{text} on {labels:?}");
}

#[test]
fn what_holds() {
    let major = [("severity", "major"), ("größe", "10")];
    for (text, expected) in [
        ("", true),
        ("severity=major", true),
        ("severity!=major", false),
        ("severity=Major", false),
        // Anchored at both ends, each alternative too.
        ("severity=~\"major|critical\"", true),
        ("severity=~\"maj\"", false),
        ("severity=~\"ajor\"", false),
        ("severity=~\"x|maj\"", false),
        ("severity!~\"maj.*\"", false),
        ("severity!~\"maj\"", true),
        ("severity=~\"(?i)MAJOR\"", true),
        // A label that is not there is empty.
        ("site=\"\"", true),
        ("site!=\"\"", false),
        ("site!=oslo", true),
        ("site=~\".+\"", false),
        ("site=~\".*\"", true),
        ("site!~\".+\"", true),
        ("site=~\"oslo|\"", true),
        // All must hold.
        ("severity=major, größe=~\"[0-9]+\"", true),
        ("severity=major, größe=~\"[a-z]+\"", false),
    ] {
        holds(text, &major, expected);
    }
    holds("line=~\"a.b\"", &[("line", "a\nb")], false);
    holds("line=~\"(?s)a.b\"", &[("line", "a\nb")], true);
    holds("line=~\"a\"", &[("line", "a\n")], false);
}

#[test]
fn values_that_can_be_counted() {
    let values = |text: &str| {
        let one: Matcher = text.parse().unwrap();
        one.values().map(|values| values.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    assert_eq!(values("a=b"), Some(vec!["b".to_string()]));
    assert_eq!(values("a=~\"b|c d\""), Some(vec!["b".to_string(), "c d".to_string()]));
    for open in ["a=\"\"", "a!=b", "a!~b", "a=~\"b.\"", "a=~\"b|\"", "a=~\"(?i)b\"", "a=~\"\""] {
        assert_eq!(values(open), None, "{open}");
    }
}

fn operator() -> impl Strategy<Value = Operator> {
    prop_oneof![
        Just(Operator::Equal),
        Just(Operator::NotEqual),
        Just(Operator::Matches),
        Just(Operator::MatchesNot)
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(
        all in prop::collection::vec(
            ("[a-zß=~!,{}\"' \\\\\n\t\x01]{1,4}", operator(), "[a-cß=~!,{}\"'`|. \\\\\n\t\x01\u{a0}]{0,6}"),
            0..4,
        ),
    ) {
        // Those whose value is no regular expression are none.
        let matchers: Vec<Matcher> =
            all.into_iter().filter_map(|(name, operator, value)| Matcher::new(name, operator, value).ok()).collect();
        for one in &matchers {
            prop_assert_eq!(one.to_string().parse::<Matcher>(), Ok(one.clone()));
            prop_assert_eq!(Matcher::of_silence(&one.to_silence()), Ok(one.clone()));
        }
        let list = Matchers(matchers);
        prop_assert_eq!(list.to_string().parse::<Matchers>(), Ok(list));
    }

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,20}|[a-b={}\"\\\\,~! ]{0,12}") {
        if let Ok(list) = text.parse::<Matchers>() {
            prop_assert_eq!(list.to_string().parse::<Matchers>(), Ok(list));
        }
    }
}
