//! State as the file of a case has it: hexadecimal digits, or the fields of a layout in their order.

use std::fmt;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// A kind of field that SDKs lay state out with: little-endian, without gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    Flag,
    F64,
    F32,
    I64,
    U64,
    I32,
    U32,
    I16,
    U16,
    I8,
    U8,
}

/// As fields are called in a case.
const NAMES: [(&str, Field); 10] = [
    ("f64", Field::F64),
    ("f32", Field::F32),
    ("i64", Field::I64),
    ("u64", Field::U64),
    ("i32", Field::I32),
    ("u32", Field::U32),
    ("i16", Field::I16),
    ("u16", Field::U16),
    ("i8", Field::I8),
    ("u8", Field::U8),
];

impl Field {
    fn size(self) -> usize {
        match self {
            Self::Flag | Self::I8 | Self::U8 => 1,
            Self::I16 | Self::U16 => 2,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F64 | Self::I64 | Self::U64 => 8,
        }
    }

    /// The bytes of a number; `None`: it is none of this kind.
    fn bytes(self, number: &str) -> Option<Vec<u8>> {
        Some(match self {
            Self::Flag => vec![number.parse::<bool>().ok()?.into()],
            Self::F64 => number.parse::<f64>().ok()?.to_le_bytes().into(),
            Self::F32 => number.parse::<f32>().ok()?.to_le_bytes().into(),
            Self::I64 => number.parse::<i64>().ok()?.to_le_bytes().into(),
            Self::U64 => number.parse::<u64>().ok()?.to_le_bytes().into(),
            Self::I32 => number.parse::<i32>().ok()?.to_le_bytes().into(),
            Self::U32 => number.parse::<u32>().ok()?.to_le_bytes().into(),
            Self::I16 => number.parse::<i16>().ok()?.to_le_bytes().into(),
            Self::U16 => number.parse::<u16>().ok()?.to_le_bytes().into(),
            Self::I8 => number.parse::<i8>().ok()?.to_le_bytes().into(),
            Self::U8 => number.parse::<u8>().ok()?.to_le_bytes().into(),
        })
    }

    /// What these bytes, as many as it has, stand for.
    fn text(self, bytes: &[u8]) -> String {
        let mut all = [0; 8];
        all[..bytes.len()].copy_from_slice(bytes);
        let [a, b, c, d, ..] = all;
        match self {
            Self::Flag => (a != 0).to_string(),
            Self::F64 => format!("{:?}", f64::from_le_bytes(all)),
            Self::F32 => format!("{:?} f32", f32::from_le_bytes([a, b, c, d])),
            Self::I64 => i64::from_le_bytes(all).to_string(),
            Self::U64 => format!("{} u64", u64::from_le_bytes(all)),
            Self::I32 => format!("{} i32", i32::from_le_bytes([a, b, c, d])),
            Self::U32 => format!("{} u32", u32::from_le_bytes([a, b, c, d])),
            Self::I16 => format!("{} i16", i16::from_le_bytes([a, b])),
            Self::U16 => format!("{} u16", u16::from_le_bytes([a, b])),
            Self::I8 => format!("{} i8", i8::from_le_bytes([a])),
            Self::U8 => format!("{a} u8"),
        }
    }
}

/// A blob as a list of fields: a whole number is 8 bytes, one with a point is a double of 8, a flag is one; `"5 u32"`
/// says the kind.
#[derive(Clone, Debug, Default)]
pub(crate) struct BlobFile {
    pub bytes: Vec<u8>,
    pub layout: Vec<Field>,
}

impl<'de> Deserialize<'de> for BlobFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = BlobFile;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of fields such as [6, 7.5, true, \"5 u32\"]")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<BlobFile, A::Error> {
                let mut blob = BlobFile::default();
                while let Some(One { field, bytes }) = list.next_element()? {
                    blob.layout.push(field);
                    blob.bytes.extend(bytes);
                }
                Ok(blob)
            }
        }
        deserializer.deserialize_seq(List)
    }
}

struct One {
    field: Field,
    bytes: Vec<u8>,
}

impl<'de> Deserialize<'de> for One {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneVisitor;
        impl OneVisitor {
            fn make<E: serde::de::Error>(self, field: Field, number: &str) -> Result<One, E> {
                let bytes = field.bytes(number).ok_or_else(|| {
                    E::custom(format_args!("{number:?} is no field of state: it does not fit its kind"))
                })?;
                Ok(One { field, bytes })
            }
        }
        impl Visitor<'_> for OneVisitor {
            type Value = One;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, a flag, or a number with its kind such as \"5 u32\"")
            }
            fn visit_bool<E: serde::de::Error>(self, flag: bool) -> Result<One, E> {
                Ok(One { field: Field::Flag, bytes: vec![flag.into()] })
            }
            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<One, E> {
                self.make(Field::I64, &number.to_string())
            }
            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<One, E> {
                self.make(Field::I64, &number.to_string())
            }
            fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<One, E> {
                Ok(One { field: Field::F64, bytes: number.to_le_bytes().into() })
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<One, E> {
                let (number, kind) = text.trim().split_once(' ').unwrap_or((text, ""));
                let field = NAMES.iter().find(|(name, _)| *name == kind.trim()).map(|(_, field)| *field);
                match field {
                    Some(field) => self.make(field, number),
                    None => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
                }
            }
        }
        deserializer.deserialize_any(OneVisitor)
    }
}

/// A slot: its number, or the name that it is the slot of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlotFile(pub u32);

impl<'de> Deserialize<'de> for SlotFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SlotVisitor;
        impl Visitor<'_> for SlotVisitor {
            type Value = SlotFile;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the number of a slot, or the name that it stands for")
            }
            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<SlotFile, E> {
                u32::try_from(number).map(SlotFile).map_err(|_| E::custom("slots end at 4294967295"))
            }
            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<SlotFile, E> {
                u32::try_from(number).map(SlotFile).map_err(|_| E::custom("slots are 0 to 4294967295"))
            }
            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<SlotFile, E> {
                Ok(SlotFile(slot_of(name)))
            }
        }
        deserializer.deserialize_any(SlotVisitor)
    }
}

/// The slot of a name, as the SDKs have it: FNV-1a, 32 bit.
fn slot_of(name: &str) -> u32 {
    name.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// Bytes from hexadecimal digits, which may stand in groups.
pub(crate) fn from_hex(text: &str) -> Result<Vec<u8>, String> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
    let pair = |pair: &[u8]| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    };
    let bytes: Option<Vec<u8>> = digits.chunks(2).map(pair).collect();
    bytes.ok_or_else(|| format!("{text:?} is no row of bytes in hexadecimal"))
}

/// A blob for people: its fields where it has the size of them, else its bytes.
pub(crate) fn text(bytes: &[u8], layout: &[Field]) -> String {
    let size: usize = layout.iter().map(|field| field.size()).sum();
    if layout.is_empty() || size != bytes.len() {
        let groups = bytes.chunks(8).map(|group| group.iter().map(|byte| format!("{byte:02x}")).collect());
        return groups.collect::<Vec<String>>().join(" ");
    }
    let mut rest = bytes;
    let fields = layout.iter().map(|field| {
        let (own, others) = rest.split_at(field.size());
        rest = others;
        field.text(own)
    });
    format!("[{}]", fields.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_laid_out_and_read_back() {
        let blob: BlobFile = serde_json::from_str(r#"[6, 7.5, true, "5 u32", "-1 i8", "0.5 f32"]"#).unwrap();
        let expected = "0600000000000000 0000000000001e40 01 05000000 ff 0000003f";
        assert_eq!(blob.bytes, from_hex(expected).unwrap());
        assert_eq!(text(&blob.bytes, &blob.layout), "[6, 7.5, true, 5 u32, -1 i8, 0.5 f32]");
        // Of another size it is not that layout.
        assert_eq!(text(&blob.bytes[..9], &blob.layout), "0600000000000000 00");
        for bad in [r#"["5"]"#, r#"["5 u99"]"#, r#"["256 u8"]"#, "[null]", "[18446744073709551615]"] {
            assert!(serde_json::from_str::<BlobFile>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn slots_have_the_numbers_that_sdks_give_them() {
        let slot = |text: &str| serde_json::from_str::<SlotFile>(text).map(|slot| slot.0);
        assert_eq!(slot("\"window\"").unwrap(), 2_708_649_949);
        assert_eq!(slot("7").unwrap(), 7);
        assert!(slot("-1").is_err() && slot("4294967296").is_err());
        assert!(from_hex("0").is_err() && from_hex("0g").is_err() && from_hex("").unwrap().is_empty());
    }
}
