//! Reading and writing numbers: LEB128 varints, little endian, zigzag for differences. No allocation, no trust.
//!
//! For every format whose bytes are described in `docs/format/`.

use crate::ImageError;

/// A position in bytes of which nothing is believed. Reading beyond the end, or what breaks a rule, is an error that names the
/// object.
#[derive(Debug)]
pub struct Cursor<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Cursor<'a> {
    /// Starts at the beginning; `what` names the object in errors.
    #[must_use]
    pub fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { rest: bytes, what }
    }

    /// An error that names the object.
    #[must_use]
    pub fn invalid(&self, why: &'static str) -> ImageError {
        ImageError::Invalid { what: self.what, why }
    }

    /// How many bytes are left.
    #[must_use]
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    /// The next `n` bytes.
    ///
    /// # Errors
    /// It ends before.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], ImageError> {
        let (head, rest) = self.rest.split_at_checked(n).ok_or(ImageError::Truncated {
            what: self.what,
            need: n as u64,
            have: self.rest.len() as u64,
        })?;
        self.rest = rest;
        Ok(head)
    }

    /// The next `N` bytes.
    ///
    /// # Errors
    /// It ends before.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], ImageError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    /// One byte.
    ///
    /// # Errors
    /// It has ended.
    pub fn byte(&mut self) -> Result<u8, ImageError> {
        Ok(self.array::<1>()?[0])
    }

    /// A varint of at most 64 bits.
    ///
    /// # Errors
    /// It ends before, or the number has more bits.
    pub fn varint(&mut self) -> Result<u64, ImageError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.invalid("a number has more than 64 bits"))
    }

    /// A varint that must not be above `limit`.
    ///
    /// # Errors
    /// As [`Cursor::varint`], or it is.
    pub fn bounded(&mut self, what: &'static str, limit: u64) -> Result<u64, ImageError> {
        let size = self.varint()?;
        if size > limit { Err(ImageError::Limit { what, size, limit }) } else { Ok(size) }
    }

    /// A number of items that follow and take at least one byte each: never more than the bytes that are left.
    ///
    /// # Errors
    /// As [`Cursor::bounded`], or there are more.
    pub fn count(&mut self, what: &'static str, limit: u64) -> Result<usize, ImageError> {
        self.count_of(what, 1, limit)
    }

    /// A number of items that follow and take at least `least` bytes each: never more than the bytes that are left.
    ///
    /// # Errors
    /// As [`Cursor::count`].
    pub fn count_of(
        &mut self,
        what: &'static str,
        least: usize,
        limit: u64,
    ) -> Result<usize, ImageError> {
        let n = self.bounded(what, limit)?;
        match n.checked_mul(least as u64) {
            Some(bytes) if bytes <= self.rest.len() as u64 => Ok(n as usize),
            need => Err(ImageError::Truncated {
                what,
                need: need.unwrap_or(u64::MAX),
                have: self.rest.len() as u64,
            }),
        }
    }

    /// A varint that fits 32 bits.
    ///
    /// # Errors
    /// As [`Cursor::varint`], or it does not.
    pub fn u32(&mut self) -> Result<u32, ImageError> {
        u32::try_from(self.varint()?).map_err(|_| self.invalid("a number has more than 32 bits"))
    }

    /// A zigzag difference.
    ///
    /// # Errors
    /// As [`Cursor::varint`].
    pub fn signed(&mut self) -> Result<i64, ImageError> {
        let v = self.varint()?;
        Ok((v >> 1) as i64 ^ -((v & 1) as i64))
    }

    /// Bytes with their length in front.
    ///
    /// # Errors
    /// As [`Cursor::count`].
    pub fn bytes(&mut self, what: &'static str, limit: u64) -> Result<&'a [u8], ImageError> {
        let n = self.count(what, limit)?;
        self.take(n)
    }

    /// UTF-8 text with its length in front.
    ///
    /// # Errors
    /// As [`Cursor::bytes`], or it is not UTF-8.
    pub fn text(&mut self, what: &'static str, limit: u64) -> Result<&'a str, ImageError> {
        let bytes = self.bytes(what, limit)?;
        std::str::from_utf8(bytes).map_err(|_| self.invalid("a name is not UTF-8"))
    }

    /// Nothing may be left.
    ///
    /// # Errors
    /// Something is.
    pub fn end(&self) -> Result<(), ImageError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.invalid("bytes are left over")) }
    }
}

/// Appends a varint.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a zigzag difference.
pub fn put_signed(out: &mut Vec<u8>, value: i64) {
    put_varint(out, ((value << 1) ^ (value >> 63)) as u64);
}

/// Appends bytes with their length in front.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_read_back(a in any::<u64>(), b in any::<i64>()) {
            let mut out = Vec::new();
            put_varint(&mut out, a);
            put_signed(&mut out, b);
            let mut c = Cursor::new("numbers", &out);
            prop_assert_eq!(c.varint(), Ok(a));
            prop_assert_eq!(c.signed(), Ok(b));
            prop_assert!(c.end().is_ok());
        }
    }

    #[test]
    fn a_number_of_more_than_64_bits_is_refused() {
        assert!(Cursor::new("x", &[0xff; 11]).varint().is_err());
        let mut over = [0xff; 10];
        over[9] = 2;
        assert!(Cursor::new("x", &over).varint().is_err());
    }

    #[test]
    fn a_count_above_the_bytes_that_are_left_is_refused_before_allocation() {
        let mut out = Vec::new();
        put_varint(&mut out, 1 << 40);
        assert!(Cursor::new("x", &out).count("items", u64::MAX).is_err());
        let three = [3, 0, 0, 0, 0, 0];
        assert_eq!(Cursor::new("x", &three).count_of("items", 1, 9), Ok(3));
        assert!(Cursor::new("x", &three).count_of("items", 2, 9).is_err());
    }
}
