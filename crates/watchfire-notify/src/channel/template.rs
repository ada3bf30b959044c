//! A body of one's own for a webhook: a template over the message (minijinja, the syntax of Jinja2).

use minijinja::{Environment, ErrorKind, UndefinedBehavior};

use super::payload::{Message, test_message};

/// Instructions of one rendering, and bytes of what comes of it: a loop over a storm must not hold up others.
const FUEL: u64 = 1_000_000;
const BYTES: usize = 1 << 20;

/// A template that was read and tried.
#[derive(Clone, Debug)]
pub struct Template(Environment<'static>);

const NAME: &str = "body";

impl Template {
    /// Reads a template, and tries it on a test message. An error says where and why.
    pub fn new(text: &str) -> Result<Self, String> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_fuel(Some(FUEL));
        let say = |error: minijinja::Error| {
            let line = error.line().map(|line| format!("line {line}: ")).unwrap_or_default();
            format!("body: {line}{}", error.detail().map_or_else(|| error.kind().to_string(), String::from))
        };
        environment.add_template_owned(NAME, text.to_string()).map_err(say)?;
        let template = Self(environment);
        template.render(&test_message(
            "test",
            Some("https://watchfire.example"),
            watchfire_model::Timestamp(0),
        ))?;
        Ok(template)
    }

    /// The body of a message.
    pub fn render(&self, message: &Message) -> Result<String, String> {
        let template = self.0.get_template(NAME).map_err(|error| error.to_string())?;
        let mut body = Bounded(Vec::new());
        match template.render_captured_to(minijinja::value::Serde(message), &mut body) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WriteFailure => {
                return Err(format!("body: what comes of it is above {BYTES} bytes"));
            }
            Err(error) => {
                let line = error.line().map(|line| format!("line {line}: ")).unwrap_or_default();
                let what = error.detail().map_or_else(|| error.kind().to_string(), String::from);
                return Err(format!("body: {line}{what}"));
            }
        }
        String::from_utf8(body.0).map_err(|error| format!("body: {error}"))
    }
}

/// Takes so many bytes and no more.
struct Bounded(Vec<u8>);

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > BYTES {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_over_the_message_and_bounded() {
        let template = Template::new("{\"content\": {{ alerts[0].annotations.summary | tojson }}}").unwrap();
        let message = test_message("x", None, watchfire_model::Timestamp(0));
        let body: serde_json::Value = serde_json::from_str(&template.render(&message).unwrap()).unwrap();
        assert_eq!(body["content"], "This is a test: nothing is wrong");
        for (text, said) in [
            ("{% for a in alerts %}", "line 1"),
            ("a\n{{ alerts | nothing }}", "line 2"),
            ("{% for a in range(1000000000) %}x{% endfor %}", "body"),
            ("{% set x = 'abcdefghij' * 10000 %}{% for a in range(100) %}{{ x }}{% endfor %}", "above"),
        ] {
            let fault = Template::new(text).unwrap_err();
            assert!(fault.starts_with("body: ") && fault.contains(said), "{fault}");
        }
    }
}
