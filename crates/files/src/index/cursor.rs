//! Reading and writing the numbers of the index: LEB128 varints, zigzag, lengths that are never more than what is there.

use crate::FilesError;

/// A position in bytes of which nothing is believed.
pub(super) struct Cursor<'a>(&'a [u8]);

pub(super) fn invalid(why: &'static str) -> FilesError {
    FilesError::Invalid { why }
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn take(&mut self, n: usize) -> Result<&'a [u8], FilesError> {
        let (head, rest) =
            self.0.split_at_checked(n).ok_or_else(|| invalid("it ends too early"))?;
        self.0 = rest;
        Ok(head)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], FilesError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    pub(super) fn byte(&mut self) -> Result<u8, FilesError> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn varint(&mut self) -> Result<u64, FilesError> {
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
        Err(invalid("a number has more than 64 bits"))
    }

    pub(super) fn signed(&mut self) -> Result<i64, FilesError> {
        let v = self.varint()?;
        Ok((v >> 1) as i64 ^ -((v & 1) as i64))
    }

    pub(super) fn u32(&mut self) -> Result<u32, FilesError> {
        u32::try_from(self.varint()?).map_err(|_| invalid("a number has more than 32 bits"))
    }

    /// How many items follow, each of which takes `least` bytes at least: never more than what is there.
    pub(super) fn count(&mut self, least: usize) -> Result<usize, FilesError> {
        let n = self.varint()?;
        match n.checked_mul(least as u64) {
            Some(bytes) if bytes <= self.0.len() as u64 => Ok(n as usize),
            _ => Err(invalid("it counts more than it has")),
        }
    }

    pub(super) fn bytes(&mut self, limit: usize) -> Result<&'a [u8], FilesError> {
        let n = self.count(1)?;
        if n > limit {
            return Err(invalid("a name or value is too long"));
        }
        self.take(n)
    }

    pub(super) fn end(&self) -> Result<(), FilesError> {
        if self.0.is_empty() { Ok(()) } else { Err(invalid("bytes are left over")) }
    }
}

pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(super) fn put_signed(out: &mut Vec<u8>, value: i64) {
    put_varint(out, ((value << 1) ^ (value >> 63)) as u64);
}

pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}
