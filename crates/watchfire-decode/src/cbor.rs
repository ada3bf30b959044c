//! CBOR (RFC 8949) of the same shape as our JSON, rewritten as the JSON that it stands for.
//!
//! One decoder decides what a reading is: whatever holds for JSON (bounds, codes, mappings, dead letters that can be read
//! and replayed) holds for CBOR, at the price of one more pass over the bytes. What JSON has no form for is refused: byte
//! strings, keys that are no text, simple values without a meaning. Times may be tagged (0: text, 1: seconds since the epoch);
//! other tags say nothing about a value and are passed.

use std::fmt::Write as _;

use crate::code;
use crate::decoder::Framing;
use crate::json::Fault;

/// Arrays and maps within each other. What the bounds allow for an item is checked behind this, for each item alone;
/// this one only bounds the memory of the way there.
const DEPTH: usize = 1024;

/// Text and byte strings of no known length come in pieces; all else ends at a break.
const INDEFINITE: u8 = 31;

/// The JSON text of a CBOR item, or of a sequence of them (RFC 8742), a line each. It is no longer than seven times its
/// bytes and a little. A payload that is not whole is refused whole.
pub fn to_json(payload: &[u8]) -> Result<(String, Framing), Fault> {
    let mut reader = Reader { bytes: payload, at: 0, out: String::with_capacity(payload.len() * 2) };
    let mut items = 0;
    while reader.at < payload.len() {
        if items > 0 {
            reader.out.push('\n');
        }
        reader.item()?;
        items += 1;
    }
    let framing = if items > 1 { Framing::Ndjson } else { Framing::Json };
    Ok((reader.out, framing))
}

/// An array or a map that is open.
struct Open {
    map: bool,
    /// Items that are to come; `None`: until a break.
    left: Option<u64>,
    /// Items that have come.
    seen: u64,
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    out: String,
}

impl<'a> Reader<'a> {
    fn fault(&self, at: usize, what: impl Into<String>) -> Fault {
        Fault::new(code::NOT_CBOR, at, what)
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], Fault> {
        let rest = &self.bytes[self.at..];
        let taken = usize::try_from(length).ok().and_then(|length| rest.get(..length));
        let taken = taken.ok_or_else(|| self.fault(self.at, "the bytes end within an item"))?;
        self.at += taken.len();
        Ok(taken)
    }

    /// Major type, additional information, and the argument.
    fn head(&mut self) -> Result<(u8, u8, u64), Fault> {
        let at = self.at;
        let first = self.take(1)?[0];
        let (major, information) = (first >> 5, first & 31);
        let argument = match information {
            0..24 => u64::from(information),
            24..28 => {
                let bytes = self.take(1 << (information - 24))?;
                bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
            }
            INDEFINITE if matches!(major, 2..=5 | 7) => 0,
            _ => return Err(self.fault(at, format!("byte 0x{first:02x} begins no item"))),
        };
        Ok((major, information, argument))
    }

    fn item(&mut self) -> Result<(), Fault> {
        let mut open: Vec<Open> = Vec::new();
        loop {
            // What comes next within the array or map that is open, if one is.
            if let Some(inner) = open.last_mut() {
                let ends = match inner.left {
                    Some(left) => left == inner.seen,
                    None => self.bytes.get(self.at) == Some(&0xff),
                };
                if ends {
                    if inner.left.is_none() {
                        if inner.map && inner.seen % 2 == 1 {
                            return Err(self.fault(self.at, "a map ends behind a key"));
                        }
                        self.at += 1;
                    }
                    self.out.push(if inner.map { '}' } else { ']' });
                    open.pop();
                    if open.is_empty() {
                        return Ok(());
                    }
                    continue;
                }
                let key = inner.map && inner.seen.is_multiple_of(2);
                if inner.seen > 0 {
                    self.out.push(if inner.map && !key { ':' } else { ',' });
                }
                inner.seen += 1;
                if key {
                    self.key()?;
                    continue;
                }
            }
            if let Some(inner) = self.value()? {
                if open.len() >= DEPTH {
                    let what = format!("nested deeper than {DEPTH} levels");
                    return Err(Fault::new(code::TOO_DEEP, self.at, what));
                }
                open.push(inner);
            } else if open.is_empty() {
                return Ok(());
            }
        }
    }

    fn key(&mut self) -> Result<(), Fault> {
        let at = self.at;
        match self.head()? {
            (3, information, length) => self.text(at, information, length),
            _ => Err(self.fault(at, "a key that is no text")),
        }
    }

    /// Writes a value, or the beginning of an array or a map.
    fn value(&mut self) -> Result<Option<Open>, Fault> {
        let at = self.at;
        let (major, information, argument) = self.head()?;
        match (major, information) {
            (0, _) => self.number(i128::from(argument)),
            (1, _) => self.number(-1 - i128::from(argument)),
            (2, _) => return Err(self.fault(at, "a byte string is no value of a reading")),
            (3, _) => self.text(at, information, argument)?,
            (4 | 5, _) => {
                let map = major == 5;
                let length = argument.checked_mul(if map { 2 } else { 1 });
                // Each takes a byte: a length that lies is found before anything is done for it.
                let length = length.filter(|length| *length <= (self.bytes.len() - self.at) as u64);
                let length = length.ok_or_else(|| self.fault(at, "the bytes end within an item"))?;
                self.out.push(if map { '{' } else { '[' });
                let left = (information != INDEFINITE).then_some(length);
                return Ok(Some(Open { map, left, seen: 0 }));
            }
            (6, _) => return self.tagged(argument),
            (7, 20) => self.out.push_str("false"),
            (7, 21) => self.out.push_str("true"),
            // `undefined` as well.
            (7, 22 | 23) => self.out.push_str("null"),
            (7, 25..=27) => self.float(float(information, argument)),
            (7, INDEFINITE) => return Err(self.fault(at, "a break where an item was expected")),
            _ => return Err(self.fault(at, format!("simple value {argument} has no meaning"))),
        }
        Ok(None)
    }

    /// What a tag stands before. Tags before tags are passed one by one, without recursion.
    fn tagged(&mut self, mut tag: u64) -> Result<Option<Open>, Fault> {
        while self.bytes.get(self.at).is_some_and(|byte| byte >> 5 == 6) {
            tag = self.head()?.2;
        }
        if tag != 1 {
            return self.value();
        }
        let at = self.at;
        let (major, information, argument) = self.head()?;
        match (major, information) {
            (0, _) => self.number(i128::from(argument) * 1000),
            (1, _) => self.number((-1 - i128::from(argument)) * 1000),
            (7, 25..=27) => self.float((float(information, argument) * 1000.0).round()),
            _ => return Err(self.fault(at, "tag 1 stands before a number of seconds")),
        }
        Ok(None)
    }

    // Writing to a String does not fail.
    fn number(&mut self, number: i128) {
        let _ = write!(self.out, "{number}");
    }

    fn float(&mut self, number: f64) {
        let _ = match number {
            _ if number.is_nan() => write!(self.out, "NaN"),
            _ if number.is_infinite() => write!(self.out, "{}Infinity", if number < 0.0 { "-" } else { "" }),
            // The shortest text that is read as the same double.
            _ => write!(self.out, "{number:?}"),
        };
    }

    fn text(&mut self, at: usize, information: u8, length: u64) -> Result<(), Fault> {
        self.out.push('"');
        if information != INDEFINITE {
            self.piece(length)?;
        } else {
            loop {
                let piece = self.at;
                match self.head()? {
                    (7, INDEFINITE, _) => break,
                    (3, information, length) if information != INDEFINITE => self.piece(length)?,
                    _ => {
                        return Err(
                            self.fault(piece, format!("no piece of the text that begins at byte {at}"))
                        );
                    }
                }
            }
        }
        self.out.push('"');
        Ok(())
    }

    fn piece(&mut self, length: u64) -> Result<(), Fault> {
        let at = self.at;
        let bytes = self.take(length)?;
        let text = std::str::from_utf8(bytes)
            .map_err(|error| Fault::new(code::NOT_UTF8, at + error.valid_up_to(), "the text is not UTF-8"))?;
        let mut plain = 0;
        for (place, byte) in
            text.bytes().enumerate().filter(|(_, byte)| matches!(byte, b'"' | b'\\' | 0..0x20))
        {
            self.out.push_str(&text[plain..place]);
            plain = place + 1;
            let _ = match byte {
                b'"' | b'\\' => write!(self.out, "\\{}", char::from(byte)),
                _ => write!(self.out, "\\u{byte:04x}"),
            };
        }
        self.out.push_str(&text[plain..]);
        Ok(())
    }
}

/// The number of a float of 2, 4 or 8 bytes.
fn float(information: u8, bits: u64) -> f64 {
    match information {
        25 => {
            // RFC 8949, appendix D.
            let (exponent, mantissa) = ((bits >> 10 & 31) as i32, (bits & 1023) as f64);
            let value = match exponent {
                0 => mantissa * 2_f64.powi(-24),
                31 if mantissa == 0.0 => f64::INFINITY,
                31 => f64::NAN,
                _ => (mantissa + 1024.0) * 2_f64.powi(exponent - 25),
            };
            if bits & 0x8000 == 0 { value } else { -value }
        }
        26 => f64::from(f32::from_bits(bits as u32)),
        _ => f64::from_bits(bits),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(hex: &str) -> Result<String, String> {
        let bytes: Vec<u8> =
            (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[i * 2..i * 2 + 2], 16).unwrap()).collect();
        to_json(&bytes).map(|(text, _)| text).map_err(|fault| format!("{} at {}", fault.code, fault.at))
    }

    /// The examples of RFC 8949, appendix A.
    #[test]
    fn examples_of_the_standard() {
        for (hex, text) in [
            ("00", "0"),
            ("1818", "24"),
            ("1bffffffffffffffff", "18446744073709551615"),
            ("3bffffffffffffffff", "-18446744073709551616"),
            ("20", "-1"),
            ("f90000", "0.0"),
            ("f98000", "-0.0"),
            ("f93c00", "1.0"),
            ("fb3ff199999999999a", "1.1"),
            ("f97bff", "65504.0"),
            ("fa47c35000", "100000.0"),
            ("fb7e37e43c8800759c", "1e300"),
            ("f90001", "5.960464477539063e-8"),
            ("f9c400", "-4.0"),
            ("f97c00", "Infinity"),
            ("f97e00", "NaN"),
            ("f9fc00", "-Infinity"),
            ("f4", "false"),
            ("f6", "null"),
            ("f7", "null"),
            ("c074323031332d30332d32315432303a30343a30305a", "\"2013-03-21T20:04:00Z\""),
            ("c11a514b67b0", "1363896240000"),
            ("c1fb41d452d9ec200000", "1363896240500.0"),
            ("6161", "\"a\""),
            ("62225c", "\"\\\"\\\\\""),
            ("62c3bc", "\"ü\""),
            ("80", "[]"),
            ("8301820203820405", "[1,[2,3],[4,5]]"),
            ("a0", "{}"),
            ("a26161016162820203", "{\"a\":1,\"b\":[2,3]}"),
            ("7f657374726561646d696e67ff", "\"streaming\""),
            ("9fff", "[]"),
            ("9f018202039f0405ffff", "[1,[2,3],[4,5]]"),
            ("bf61610161629f0203ffff", "{\"a\":1,\"b\":[2,3]}"),
            ("826161bf61626163ff", "[\"a\",{\"b\":\"c\"}]"),
            ("610a", "\"\\u000a\""),
            ("0102", "1\n2"),
            ("d9d9f7a0", "{}"),
        ] {
            assert_eq!(json(hex).as_deref(), Ok(text), "{hex}");
        }
    }

    #[test]
    fn what_is_not_whole_is_refused_with_its_place() {
        for (hex, fault) in [
            ("18", "not-cbor at 1"),
            ("1c", "not-cbor at 0"),
            ("ff", "not-cbor at 0"),
            ("4101", "not-cbor at 0"),
            ("a10102", "not-cbor at 1"),
            ("bf6161ff", "not-cbor at 3"),
            ("61ff", "not-utf8 at 1"),
            ("8201", "not-cbor at 0"),
            ("9f01", "not-cbor at 2"),
            ("9bffffffffffffffff", "not-cbor at 0"),
            ("bbffffffffffffffff", "not-cbor at 0"),
            ("7bffffffffffffffff", "not-cbor at 9"),
            ("7f01ff", "not-cbor at 1"),
            ("f8ff", "not-cbor at 0"),
            ("c16161", "not-cbor at 1"),
        ] {
            assert_eq!(json(hex), Err(fault.into()), "{hex}");
        }
        let deep = to_json(&[0x81; 100_000]).unwrap_err();
        assert_eq!(deep.code, code::TOO_DEEP);
        assert!(to_json(&[0xc6; 1_000_000]).is_err());
    }

    #[test]
    fn a_sequence_is_a_line_each() {
        assert_eq!(to_json(&[0xa0]).unwrap().1, Framing::Json);
        assert_eq!(to_json(&[0xa0, 0xa0]).unwrap(), ("{}\n{}".into(), Framing::Ndjson));
        assert_eq!(to_json(&[]).unwrap().0, "");
    }
}
