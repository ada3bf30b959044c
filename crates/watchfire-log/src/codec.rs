//! How the log looks as bytes. All integers are little-endian.
//!
//! - [`record`]: one record, by kind. Readings are columns as they are in memory; rejects carry their
//!   bytes; what is rare is JSON.
//! - [`group`]: records that are synced together, behind a header that proves what was synced before.
//!
//! Decoding is total: any bytes give a value or a [`CodecError`], and no allocation is larger than a small
//! multiple of the bytes that are there.

pub mod batch;
pub mod group;
pub mod record;

/// Bytes that do not say what they should.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum CodecError {
    /// The bytes end within something.
    #[error("the bytes end within {0}")]
    Short(&'static str),
    /// A value that must not be.
    #[error("{0}")]
    Invalid(&'static str),
    /// The JSON of a rare record.
    #[error("not the JSON of {0}: {1}")]
    Json(&'static str, String),
    /// Something that cannot be written so that it is read back.
    #[error("cannot be kept: {0}")]
    Unkeepable(String),
}

/// Reads from the front of a slice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn take(&mut self, length: usize, what: &'static str) -> Result<&'a [u8], CodecError> {
        let (head, rest) = self.0.split_at_checked(length).ok_or(CodecError::Short(what))?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], CodecError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(CodecError::Short(what))?;
        self.0 = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self, what: &'static str) -> Result<u8, CodecError> {
        self.array::<1>(what).map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self, what: &'static str) -> Result<u16, CodecError> {
        self.array(what).map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self, what: &'static str) -> Result<u32, CodecError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self, what: &'static str) -> Result<u64, CodecError> {
        self.array(what).map(u64::from_le_bytes)
    }

    pub(crate) fn i64(&mut self, what: &'static str) -> Result<i64, CodecError> {
        self.array(what).map(i64::from_le_bytes)
    }

    /// Bytes behind their length.
    pub(crate) fn bytes(&mut self, what: &'static str) -> Result<&'a [u8], CodecError> {
        let length = self.u32(what)? as usize;
        self.take(length, what)
    }

    /// A text behind its length.
    pub(crate) fn text(&mut self, what: &'static str) -> Result<&'a str, CodecError> {
        std::str::from_utf8(self.bytes(what)?).map_err(|_| CodecError::Invalid("a text is not UTF-8"))
    }

    /// `count` values of `N` bytes each. The length is checked before anything is allocated.
    pub(crate) fn column<const N: usize, T>(
        &mut self,
        count: usize,
        what: &'static str,
        value: impl Fn([u8; N]) -> T,
    ) -> Result<Vec<T>, CodecError> {
        let bytes = self.take(count.checked_mul(N).ok_or(CodecError::Short(what))?, what)?;
        Ok(bytes.as_chunks::<N>().0.iter().map(|chunk| value(*chunk)).collect())
    }

    /// A number of things of which each takes at least `least` bytes.
    pub(crate) fn count(&mut self, least: usize, what: &'static str) -> Result<usize, CodecError> {
        let count = self.u32(what)? as usize;
        if count > self.0.len() / least { Err(CodecError::Short(what)) } else { Ok(count) }
    }
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

pub(crate) fn put_column<const N: usize, T: Copy>(
    out: &mut Vec<u8>,
    values: &[T],
    bytes: impl Fn(T) -> [u8; N],
) {
    let start = out.len();
    out.resize(start + values.len() * N, 0);
    for (chunk, &value) in out[start..].as_chunks_mut::<N>().0.iter_mut().zip(values) {
        *chunk = bytes(value);
    }
}
