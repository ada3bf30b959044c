//! A cursor over JSON text (RFC 8259). It is strict, never recurses without a bound, and never panics.

use crate::code;

/// What is wrong, and at which byte of the payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// One of [`code`].
    pub code: &'static str,
    /// The byte of the payload.
    pub at: usize,
    /// For people, without the place.
    pub what: String,
}

impl Fault {
    pub(crate) fn new(code: &'static str, at: usize, what: impl Into<String>) -> Self {
        Self { code, at, what: what.into() }
    }
}

/// A text of the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Text<'a> {
    /// It stands in the payload as it is.
    Plain(&'a str),
    /// It has escapes and was written to the scratch buffer that the caller gave.
    Unescaped,
}

impl<'a> Text<'a> {
    /// The text itself.
    pub fn get<'b>(self, scratch: &'b str) -> &'b str
    where
        'a: 'b,
    {
        match self {
            Self::Plain(text) => text,
            Self::Unescaped => scratch,
        }
    }
}

/// A place in a payload.
#[derive(Clone, Debug)]
pub struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The bytes from `base` on, as far as they are UTF-8: looked at once, not for each of a dozen short texts.
    valid: &'a str,
    base: usize,
}

/// Which bytes of a text need a look: quote, backslash, control characters, and what is not ASCII.
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = 0x20;
    while byte < 0x80 {
        plain[byte] = byte != b'"' as usize && byte != b'\\' as usize;
        byte += 1;
    }
    plain
};

const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18,
    1e19, 1e20, 1e21, 1e22,
];

/// How many bytes from the start need no look, eight at a time: texts are short, and most of a payload is texts.
#[inline]
fn plain_run(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGHS: u64 = ONES << 7;
    // Bytes of which the high bit is set where the byte is zero, up to the first such byte: what a borrow does
    // to those behind it is of no interest.
    let zero = |word: u64| word.wrapping_sub(ONES) & !word;
    let mut at = 0;
    while let Some(chunk) = bytes[at..].first_chunk() {
        let word = u64::from_le_bytes(*chunk);
        let control = word.wrapping_sub(ONES * 0x20) & !word;
        let quote = zero(word ^ (ONES * u64::from(b'"')));
        let backslash = zero(word ^ (ONES * u64::from(b'\\')));
        let look = (word | control | quote | backslash) & HIGHS;
        if look != 0 {
            return at + look.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    at + bytes[at..].iter().take_while(|&&byte| PLAIN[usize::from(byte)]).count()
}

/// White space between tokens (RFC 8259, section 2): less than what ASCII has.
pub(crate) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

impl<'a> Cursor<'a> {
    /// A cursor at the start.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self::within(bytes, 0, bytes.len())
    }

    /// A cursor that begins at `from` and does not see what stands from `to` on. Places are still those of the
    /// whole payload.
    pub fn within(bytes: &'a [u8], from: usize, to: usize) -> Self {
        let bytes = &bytes[..to.min(bytes.len())];
        let seen = bytes.get(from..).unwrap_or_default();
        let valid = std::str::from_utf8(seen)
            .or_else(|error| std::str::from_utf8(&seen[..error.valid_up_to()]))
            .unwrap_or_default();
        Self { bytes, at: from, valid, base: from }
    }

    /// The byte that comes next.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Goes to another byte.
    pub fn seek(&mut self, at: usize) {
        self.at = at;
    }

    /// Skips white space, then gives the byte that comes next without taking it.
    #[inline]
    pub fn peek(&mut self) -> Option<u8> {
        loop {
            match self.bytes.get(self.at) {
                Some(b' ' | b'\t' | b'\n' | b'\r') => self.at += 1,
                other => return other.copied(),
            }
        }
    }

    /// Takes this byte, behind white space.
    #[inline]
    pub fn expect(&mut self, byte: u8) -> Result<(), Fault> {
        if self.peek() == Some(byte) {
            self.at += 1;
            Ok(())
        } else {
            Err(self.unexpected(&format!("{:?}", byte as char)))
        }
    }

    pub(crate) fn unexpected(&self, wanted: &str) -> Fault {
        let what = match self.bytes.get(self.at) {
            None => format!("the text ends where {wanted} was expected"),
            Some(byte) if byte.is_ascii_graphic() => {
                format!("{:?} stands where {wanted} was expected", *byte as char)
            }
            Some(byte) => format!("byte 0x{byte:02x} stands where {wanted} was expected"),
        };
        Fault::new(code::NOT_JSON, self.at, what)
    }

    /// Takes a text, behind white space. `scratch` is overwritten where the text has escapes.
    #[inline]
    pub fn text(&mut self, scratch: &mut String) -> Result<Text<'a>, Fault> {
        self.expect(b'"')?;
        let start = self.at;
        let at = start + plain_run(self.bytes.get(start..).unwrap_or_default());
        if self.bytes.get(at) == Some(&b'"')
            && let Some(text) = self.valid.get(start.wrapping_sub(self.base)..at.wrapping_sub(self.base))
        {
            self.at = at + 1;
            return Ok(Text::Plain(text));
        }
        self.at = at;
        self.text_slow(start, scratch)
    }

    fn text_slow(&mut self, start: usize, scratch: &mut String) -> Result<Text<'a>, Fault> {
        let mut escaped = false;
        let mut run = start;
        loop {
            let Some(&byte) = self.bytes.get(self.at) else {
                return Err(Fault::new(code::NOT_JSON, start - 1, "the text does not end"));
            };
            match byte {
                b'"' => {
                    let rest = self.utf8(run, self.at)?;
                    self.at += 1;
                    if !escaped {
                        return Ok(Text::Plain(rest));
                    }
                    scratch.push_str(rest);
                    return Ok(Text::Unescaped);
                }
                b'\\' => {
                    if !escaped {
                        scratch.clear();
                        escaped = true;
                    }
                    scratch.push_str(self.utf8(run, self.at)?);
                    self.at += 1;
                    scratch.push(self.escape()?);
                    run = self.at;
                }
                0..0x20 => {
                    return Err(Fault::new(code::NOT_JSON, self.at, "a control character stands in a text"));
                }
                _ => self.at += 1,
            }
        }
    }

    fn utf8(&self, from: usize, to: usize) -> Result<&'a str, Fault> {
        std::str::from_utf8(&self.bytes[from..to])
            .map_err(|e| Fault::new(code::NOT_UTF8, from + e.valid_up_to(), "the text is not UTF-8"))
    }

    fn escape(&mut self) -> Result<char, Fault> {
        let at = self.at;
        let byte = self.bytes.get(at).copied();
        self.at += 1;
        Ok(match byte {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                let first = self.hex()?;
                let scalar = if (0xd800..0xdc00).contains(&first) {
                    if self.bytes.get(self.at..self.at + 2) != Some(b"\\u") {
                        return Err(Fault::new(code::NOT_JSON, at, "half of a surrogate pair"));
                    }
                    self.at += 2;
                    let second = self.hex()?;
                    if !(0xdc00..0xe000).contains(&second) {
                        return Err(Fault::new(code::NOT_JSON, at, "half of a surrogate pair"));
                    }
                    0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00)
                } else {
                    first
                };
                char::from_u32(scalar)
                    .ok_or_else(|| Fault::new(code::NOT_JSON, at, "half of a surrogate pair"))?
            }
            _ => return Err(Fault::new(code::NOT_JSON, at, "an escape that JSON does not have")),
        })
    }

    fn hex(&mut self) -> Result<u32, Fault> {
        let digits = self.bytes.get(self.at..self.at + 4);
        let value = digits.and_then(|digits| {
            digits.iter().try_fold(0, |value, &digit| Some(value * 16 + (digit as char).to_digit(16)?))
        });
        let value = value
            .ok_or_else(|| Fault::new(code::NOT_JSON, self.at, "four hex digits were expected behind \\u"))?;
        self.at += 4;
        Ok(value)
    }

    /// Takes a number; the cursor stands at its first byte. The result is the nearest double, infinite where it
    /// does not fit.
    #[inline]
    pub fn number(&mut self) -> Result<f64, Fault> {
        let start = self.at;
        let bytes = self.bytes;
        let digit = |at: usize| bytes.get(at).map_or(10, |byte| byte.wrapping_sub(b'0'));
        let mut at = start;
        let negative = bytes.get(at) == Some(&b'-');
        at += usize::from(negative);
        let mut mantissa = 0_u64;
        let whole = at;
        while digit(at) < 10 {
            mantissa = mantissa.wrapping_mul(10).wrapping_add(u64::from(digit(at)));
            at += 1;
        }
        if at == whole || (at - whole > 1 && bytes[whole] == b'0') {
            self.at = at;
            return Err(Fault::new(code::NOT_JSON, start, "no number of JSON"));
        }
        let mut digits = at - whole;
        let mut exponent = 0_i32;
        if bytes.get(at) == Some(&b'.') {
            at += 1;
            let fraction = at;
            while digit(at) < 10 {
                mantissa = mantissa.wrapping_mul(10).wrapping_add(u64::from(digit(at)));
                at += 1;
            }
            if at == fraction {
                self.at = at;
                return Err(self.unexpected("a digit"));
            }
            digits += at - fraction;
            exponent = -((at - fraction).min(1_000_000) as i32);
        }
        if matches!(bytes.get(at), Some(b'e' | b'E')) {
            at += 1;
            let down = bytes.get(at) == Some(&b'-');
            at += usize::from(matches!(bytes.get(at), Some(b'+' | b'-')));
            let (first, mut power) = (at, 0_i32);
            while digit(at) < 10 {
                power = (power * 10 + i32::from(digit(at))).min(1_000_000);
                at += 1;
            }
            if at == first {
                self.at = at;
                return Err(self.unexpected("a digit"));
            }
            exponent += if down { -power } else { power };
        }
        self.at = at;
        // Both the mantissa and the power of ten are exact as doubles, so one operation rounds once: exactly
        // what the nearest double is (Clinger 1990, "How to read floating point numbers accurately").
        if digits <= 19 && mantissa <= 1 << 53 && exponent.unsigned_abs() <= 22 {
            let power = POWERS[exponent.unsigned_abs() as usize];
            let value = if exponent < 0 { mantissa as f64 / power } else { mantissa as f64 * power };
            return Ok(if negative { -value } else { value });
        }
        // The standard library rounds exactly as well; it is only slower.
        let text = std::str::from_utf8(&bytes[start..at]).unwrap_or_default();
        text.parse().map_err(|_| Fault::new(code::NOT_JSON, start, "no number of JSON"))
    }

    /// Takes this word; the cursor stands at its first byte.
    pub fn word(&mut self, word: &'static str) -> Result<(), Fault> {
        if self.bytes[self.at..].starts_with(word.as_bytes()) {
            self.at += word.len();
            Ok(())
        } else {
            Err(self.unexpected("a value"))
        }
    }

    /// Whether a word that some encoders write for a number that JSON cannot hold comes next, and its length.
    pub fn not_a_number(&self) -> Option<usize> {
        let rest = &self.bytes[self.at..];
        let words: [&[u8]; 7] = [b"NaN", b"-NaN", b"nan", b"Infinity", b"-Infinity", b"inf", b"-inf"];
        words.iter().find(|word| rest.starts_with(word)).map(|word| word.len())
    }

    /// Skips one value of at most `depth` nested arrays and objects. What a number is not, is let pass here:
    /// this finds the end of an item that is refused anyway, so that those behind it are read.
    pub fn skip(&mut self, depth: usize) -> Result<(), Fault> {
        // Closing brackets that are awaited, as bits: 1 an object.
        let mut open: Vec<bool> = Vec::new();
        let mut scratch = String::new();
        loop {
            let Some(byte) = self.peek() else { return Err(self.unexpected("a value")) };
            let mut opened = false;
            match byte {
                b'{' | b'[' => {
                    if open.len() >= depth {
                        return Err(Fault::new(
                            code::TOO_DEEP,
                            self.at,
                            format!("nested deeper than {depth} levels"),
                        ));
                    }
                    self.at += 1;
                    open.push(byte == b'{');
                    opened = true;
                }
                b'"' => drop(self.text(&mut scratch)?),
                b't' => self.word("true")?,
                b'f' => self.word("false")?,
                b'n' if self.not_a_number().is_none() => self.word("null")?,
                _ => match self.not_a_number() {
                    Some(length) => self.at += length,
                    None => drop(self.number().map_err(|fault| {
                        if fault.at == self.at { self.unexpected("a value") } else { fault }
                    })?),
                },
            }
            // Behind a value: close what ends here, or go on to the next member.
            loop {
                let Some(&object) = open.last() else { return Ok(()) };
                let close = if object { b'}' } else { b']' };
                match self.peek() {
                    Some(byte) if byte == close => {
                        self.at += 1;
                        open.pop();
                        opened = false;
                        continue;
                    }
                    Some(b',') if !opened => self.at += 1,
                    _ if opened => {}
                    _ => return Err(self.unexpected("',' or the end of it")),
                }
                if object {
                    self.text(&mut scratch)?;
                    self.expect(b':')?;
                }
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_nearest_double() {
        for text in [
            "0",
            "-0",
            "-0.0",
            "1",
            "71.4",
            "0.1",
            "1e22",
            "1e23",
            "123456789012345678",
            "9007199254740993",
            "0.02",
            "2.2250738585072014e-308",
            "5e-324",
            "1.7976931348623157e308",
            "1e400",
            "-1e400",
            "1e-400",
            "123456789.123456789123456789",
            "0.000000000000000000000000000001",
            "1E+2",
            "179769313486231580793e289",
            "18446744073709551616",
            "1e0000000000000000000000000000002",
            "1e99999999999999999999",
            "9007199254740992",
            "9007199254740993e1",
            "3.14159265358979323846264338327950288",
        ] {
            let mut cursor = Cursor::new(text.as_bytes());
            let value = cursor.number().unwrap();
            assert_eq!(value.to_bits(), text.parse::<f64>().unwrap().to_bits(), "{text}");
            assert_eq!(cursor.at(), text.len());
        }
        for text in ["", "-", "01", "-01", "1.", ".5", "1e", "1e+", "+1", "x"] {
            assert!(Cursor::new(text.as_bytes()).number().is_err(), "{text}");
        }
    }

    #[test]
    fn texts_are_unescaped() {
        let text = |json: &str| {
            let mut scratch = String::new();
            let text = Cursor::new(json.as_bytes()).text(&mut scratch)?;
            Ok::<_, Fault>(text.get(&scratch).to_string())
        };
        assert_eq!(text(r#""abc""#).unwrap(), "abc");
        assert_eq!(text(r#""Größe""#).unwrap(), "Größe");
        assert_eq!(text(r#""a\"\\\/\b\f\n\r\tü\u00fc\ud83d\ude00""#).unwrap(), "a\"\\/\u{8}\u{c}\n\r\tüü😀");
        for bad in [
            "\"abc",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\\ud800\"",
            "\"\\ud800\\u0041\"",
            "\"\\udc00\"",
            "\"a\nb\"",
            "\"\\",
        ] {
            assert!(text(bad).is_err(), "{bad}");
        }
        let mut scratch = String::new();
        assert_eq!(Cursor::new(b"\"a\xff\"").text(&mut scratch).unwrap_err().code, code::NOT_UTF8);
    }

    #[test]
    fn values_are_skipped_whole() {
        let skip = |text: &str| {
            let mut cursor = Cursor::new(text.as_bytes());
            cursor.skip(4).map(|()| cursor.at())
        };
        for whole in [
            "1",
            "{}",
            "[]",
            "[[],{}]",
            r#"{"a":[1,{"b":null}],"c":"}"}"#,
            "true",
            "[NaN,-Infinity]",
            "[ ]",
            "nan",
        ] {
            assert_eq!(skip(whole), Ok(whole.len()), "{whole}");
        }
        for bad in [
            "",
            "[",
            "[1",
            "[1,]",
            "{,}",
            "[,1]",
            r#"{"a"}"#,
            r#"{"a":}"#,
            r#"{"a":1,}"#,
            "[1 2]",
            "tru",
            "[}",
            "{1:2}",
            "-",
        ] {
            assert!(skip(bad).is_err(), "{bad}");
        }
        assert_eq!(skip("[[[[[]]]]]").unwrap_err().code, code::TOO_DEEP);
        assert!(Cursor::new("[".repeat(1_000_000).as_bytes()).skip(1 << 30).is_err());
    }
}
