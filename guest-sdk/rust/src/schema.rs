//! The JSON Schema of [`crate::parameters!`], written when the rule is compiled: the manifest is a constant.

/// A parameter as it was declared.
#[derive(Clone, Copy)]
pub struct Declared {
    name: &'static str,
    kind: &'static str,
    items: &'static str,
    choices: &'static [&'static str],
    /// As it is written in Rust, as are the limits.
    default: &'static str,
    minimum: &'static str,
    maximum: &'static str,
    unit: &'static str,
    /// The lines of the comment.
    description: &'static [&'static str],
}

impl Declared {
    /// A parameter of a type.
    pub const fn of<T: crate::Parameter>(name: &'static str, description: &'static [&'static str]) -> Self {
        Self {
            name,
            kind: T::TYPE,
            items: T::ITEMS,
            choices: T::CHOICES,
            default: "",
            minimum: "",
            maximum: "",
            unit: "",
            description,
        }
    }

    /// What it is where a deployment does not say.
    pub const fn default(mut self, text: &'static str) -> Self {
        self.default = text;
        self
    }

    /// The least that it may be.
    pub const fn minimum(mut self, text: &'static str) -> Self {
        self.minimum = text;
        self
    }

    /// The most that it may be.
    pub const fn maximum(mut self, text: &'static str) -> Self {
        self.maximum = text;
        self
    }

    /// What it is measured in.
    pub const fn unit(mut self, unit: &'static str) -> Self {
        self.unit = unit;
        self
    }
}

/// The schema of some parameters, into `N` bytes; more are counted only.
pub struct Schema<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

/// How many bytes the schema of some parameters has.
pub const fn length_of(declared: &[Declared]) -> usize {
    Schema::<0>::of(declared).length
}

impl<const N: usize> Schema<N> {
    /// Writes it.
    pub const fn of(declared: &[Declared]) -> Self {
        let mut schema = Self { bytes: [0; N], length: 0 };
        schema.add(r#"{"type":"object","properties":{"#);
        let mut i = 0;
        while i < declared.len() {
            schema.separate(i);
            schema.property(&declared[i]);
            i += 1;
        }
        schema.add(r#"},"required":["#);
        let (mut i, mut required) = (0, 0);
        while i < declared.len() {
            if declared[i].default.is_empty() {
                schema.separate(required);
                schema.text(declared[i].name);
                required += 1;
            }
            i += 1;
        }
        schema.add(r#"],"additionalProperties":false}"#);
        schema
    }

    /// All of it.
    pub const fn as_str(&self) -> &str {
        match std::str::from_utf8(&self.bytes) {
            Ok(text) => text,
            Err(_) => panic!("the schema is no text"),
        }
    }

    const fn property(&mut self, declared: &Declared) {
        self.text(declared.name);
        self.add(r#":{"type":"#);
        self.text(declared.kind);
        if !declared.items.is_empty() {
            self.add(r#","items":{"type":"#);
            self.text(declared.items);
            self.add("}");
        }
        self.literal(r#","default":"#, declared.default);
        self.literal(r#","minimum":"#, declared.minimum);
        self.literal(r#","maximum":"#, declared.maximum);
        if !declared.unit.is_empty() {
            self.add(r#","unit":"#);
            self.text(declared.unit);
        }
        if !declared.description.is_empty() {
            self.add(r#","description":""#);
            self.lines(declared.description);
            self.add("\"");
        }
        if !declared.choices.is_empty() {
            self.add(r#","enum":["#);
            let mut i = 0;
            while i < declared.choices.len() {
                self.separate(i);
                self.text(declared.choices[i]);
                i += 1;
            }
            self.add("]");
        }
        self.add("}");
    }

    const fn separate(&mut self, before: usize) {
        if before > 0 {
            self.add(",");
        }
    }

    const fn add(&mut self, text: &str) {
        let mut i = 0;
        while i < text.len() {
            self.byte(text.as_bytes()[i]);
            i += 1;
        }
    }

    const fn byte(&mut self, byte: u8) {
        if self.length < N {
            self.bytes[self.length] = byte;
        }
        self.length += 1;
    }

    const fn text(&mut self, text: &str) {
        self.byte(b'"');
        self.escaped(text.as_bytes(), 0);
        self.byte(b'"');
    }

    /// The lines of a comment as one; each comes with the blank behind `///`.
    const fn lines(&mut self, lines: &[&str]) {
        let mut i = 0;
        while i < lines.len() {
            let line = lines[i].as_bytes();
            let blank = !line.is_empty() && line[0] == b' ';
            if i > 0 {
                self.byte(b' ');
            }
            self.escaped(line, if blank { 1 } else { 0 });
            i += 1;
        }
    }

    const fn escaped(&mut self, text: &[u8], from: usize) {
        let mut i = from;
        while i < text.len() {
            match text[i] {
                b'"' | b'\\' => {
                    self.byte(b'\\');
                    self.byte(text[i]);
                }
                b'\n' => self.add("\\n"),
                b'\t' => self.add("\\t"),
                0..0x20 => panic!("a text of a parameter has a control character"),
                byte => self.byte(byte),
            }
            i += 1;
        }
    }

    /// A literal of Rust as JSON: numbers, flags, texts and lists of them look nearly the same.
    const fn literal(&mut self, before: &str, rust: &str) {
        let text = rust.as_bytes();
        if text.is_empty() {
            return;
        }
        self.add(before);
        let mut i = 0;
        while i < text.len() {
            match text[i] {
                b'"' => i = self.quoted(text, i),
                b'_' | b' ' | b'\n' => {}
                b'.' if i + 1 == text.len() || !text[i + 1].is_ascii_digit() => {
                    panic!("a number has a digit behind its point: 80.0")
                }
                b'0'..=b'9' | b'.' | b'-' | b'+' | b'e' | b'E' | b'[' | b']' | b',' => self.byte(text[i]),
                b't' | b'r' | b'u' | b'f' | b'a' | b'l' | b's' => self.byte(text[i]),
                _ => {
                    panic!("a default or a limit is a number, a flag, a text or a list of them, written out")
                }
            }
            i += 1;
        }
    }

    /// A text in quotes from `from` on; gives where it ends.
    const fn quoted(&mut self, text: &[u8], from: usize) -> usize {
        self.byte(b'"');
        let mut i = from + 1;
        while text[i] != b'"' {
            if text[i] == b'\\' {
                match text[i + 1] {
                    b'"' | b'\\' | b'n' | b't' => {}
                    _ => panic!("write the character itself into the text of a default"),
                }
                self.byte(text[i]);
                i += 1;
            }
            self.byte(text[i]);
            i += 1;
        }
        self.byte(b'"');
        i
    }
}
