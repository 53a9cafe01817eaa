//! A protobuf message as the list of its fields, so that an edit keeps what the schema does not know.
//!
//! Owns nothing but the wire format (varint, 64-bit, length-delimited, 32-bit; groups are refused). Lengths are
//! checked against what is there before anything is allocated.

use prost::encoding::{decode_varint, encode_varint, encoded_len_varint};

use crate::Error;

/// The value of one field as it is on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Integers, booleans, enums.
    Varint(u64),
    /// Eight bytes, little endian.
    Fixed64([u8; 8]),
    /// Strings, bytes, messages, packed lists.
    Bytes(Vec<u8>),
    /// Four bytes, little endian.
    Fixed32([u8; 4]),
}

/// Fields in the order in which they came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    fields: Vec<(u32, Value)>,
}

impl Message {
    /// Splits the bytes into fields.
    ///
    /// # Errors
    /// [`Error::Malformed`] when they are not a protobuf message.
    pub fn parse(mut bytes: &[u8]) -> Result<Self, Error> {
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let key = varint(&mut bytes)?;
            let number = u32::try_from(key >> 3).ok().filter(|n| *n > 0);
            let number = number.ok_or_else(|| bad("field number out of range"))?;
            fields.push((number, value(key & 7, &mut bytes)?));
        }
        Ok(Self { fields })
    }

    /// The bytes again.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.fields.iter().map(|(_, v)| 16 + v.payload()).sum());
        for (number, value) in &self.fields {
            encode_varint(u64::from(*number) << 3 | value.wire_type(), &mut out);
            match value {
                Value::Varint(n) => encode_varint(*n, &mut out),
                Value::Fixed64(b) => out.extend(b),
                Value::Fixed32(b) => out.extend(b),
                Value::Bytes(b) => {
                    encode_varint(b.len() as u64, &mut out);
                    out.extend(b);
                }
            }
        }
        out
    }

    /// The last varint of this number (protobuf: the last one counts).
    #[must_use]
    pub fn varint(&self, number: u32) -> Option<u64> {
        self.all(number).filter_map(Value::as_varint).last()
    }

    /// The last byte string of this number.
    #[must_use]
    pub fn bytes(&self, number: u32) -> Option<&[u8]> {
        self.all(number).filter_map(Value::as_bytes).last()
    }

    /// Every varint of this number: repeated fields, packed or not.
    ///
    /// # Errors
    /// [`Error::Malformed`] when a packed list is cut short.
    pub fn varints(&self, number: u32) -> Result<Vec<u64>, Error> {
        let mut out = Vec::new();
        for value in self.all(number) {
            match value {
                Value::Varint(n) => out.push(*n),
                Value::Bytes(packed) => {
                    let mut rest = packed.as_slice();
                    while !rest.is_empty() {
                        out.push(varint(&mut rest)?);
                    }
                }
                Value::Fixed64(_) | Value::Fixed32(_) => return Err(bad("a list of fixed size")),
            }
        }
        Ok(out)
    }

    /// Takes all fields of this number out.
    pub fn remove(&mut self, number: u32) {
        self.fields.retain(|(n, _)| *n != number);
    }

    /// Replaces all fields of this number by one varint, at the place of the first.
    pub fn set_varint(&mut self, number: u32, value: u64) {
        self.replace(number, [Value::Varint(value)]);
    }

    /// Replaces all fields of this number by one byte string, at the place of the first.
    pub fn set_bytes(&mut self, number: u32, value: Vec<u8>) {
        self.replace(number, [Value::Bytes(value)]);
    }

    /// Replaces all fields of this number by these varints, unpacked, at the place of the first.
    pub fn set_varints(&mut self, number: u32, values: impl IntoIterator<Item = u64>) {
        self.replace(number, values.into_iter().map(Value::Varint));
    }

    /// Replaces each byte string of this number by what `edit` makes of it (repeated messages).
    ///
    /// # Errors
    /// The first error of `edit`; the fields before it are changed already.
    pub fn edit_bytes<E>(
        &mut self,
        number: u32,
        mut edit: impl FnMut(&[u8]) -> Result<Vec<u8>, E>,
    ) -> Result<(), E> {
        for (n, value) in &mut self.fields {
            if let (true, Value::Bytes(bytes)) = (*n == number, value) {
                *bytes = edit(bytes)?;
            }
        }
        Ok(())
    }

    fn replace(&mut self, number: u32, values: impl IntoIterator<Item = Value>) {
        let at = self.fields.iter().position(|(n, _)| *n == number).unwrap_or(self.fields.len());
        self.remove(number);
        let at = at.min(self.fields.len());
        self.fields.splice(at..at, values.into_iter().map(|v| (number, v)));
    }

    fn all(&self, number: u32) -> impl Iterator<Item = &Value> {
        self.fields.iter().filter(move |(n, _)| *n == number).map(|(_, v)| v)
    }
}

impl Value {
    fn wire_type(&self) -> u64 {
        match self {
            Self::Varint(_) => 0,
            Self::Fixed64(_) => 1,
            Self::Bytes(_) => 2,
            Self::Fixed32(_) => 5,
        }
    }

    fn payload(&self) -> usize {
        match self {
            Self::Varint(n) => encoded_len_varint(*n),
            Self::Fixed64(_) => 8,
            Self::Bytes(b) => b.len(),
            Self::Fixed32(_) => 4,
        }
    }

    fn as_varint(&self) -> Option<u64> {
        if let Self::Varint(n) = self { Some(*n) } else { None }
    }

    fn as_bytes(&self) -> Option<&[u8]> {
        if let Self::Bytes(b) = self { Some(b) } else { None }
    }
}

fn value(wire_type: u64, bytes: &mut &[u8]) -> Result<Value, Error> {
    Ok(match wire_type {
        0 => Value::Varint(varint(bytes)?),
        1 => Value::Fixed64(fixed(bytes)?),
        2 => {
            let len = usize::try_from(varint(bytes)?).map_err(|_| bad("length out of range"))?;
            Value::Bytes(take(bytes, len)?.to_vec())
        }
        5 => Value::Fixed32(fixed(bytes)?),
        other => return Err(bad(format!("wire type {other}"))),
    })
}

fn varint(bytes: &mut &[u8]) -> Result<u64, Error> {
    decode_varint(bytes).map_err(bad)
}

fn fixed<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], Error> {
    take(bytes, N)?.try_into().map_err(|_| bad("cut short"))
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Result<&'a [u8], Error> {
    let (head, rest) = bytes.split_at_checked(len).ok_or_else(|| bad("cut short"))?;
    *bytes = rest;
    Ok(head)
}

fn bad(reason: impl std::fmt::Display) -> Error {
    Error::malformed("protobuf message", reason)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_edit_keeps_the_other_fields_and_their_order() {
        let mut m = Message::default();
        m.set_varint(1, 5);
        m.set_bytes(2, b"x".to_vec());
        m.set_varints(3, [1, 2]);
        m.set_varint(2000, u64::MAX);
        let mut again = Message::parse(&m.encode()).unwrap();
        assert_eq!(again, m);
        again.set_varint(2, 9);
        assert_eq!((again.varint(1), again.varint(2), again.bytes(2)), (Some(5), Some(9), None));
        assert_eq!(again.varints(3).unwrap(), [1, 2]);
        assert_eq!(again.fields.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [1, 2, 3, 3, 2000]);
    }

    #[test]
    fn a_packed_list_reads_as_an_unpacked_one() {
        let mut m = Message::default();
        m.set_bytes(5, vec![1, 0x80, 0x01]);
        assert_eq!(m.varints(5).unwrap(), [1, 128]);
        m.set_bytes(5, vec![0x80]);
        assert!(m.varints(5).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused_and_what_is_parsed_means_the_same_again(
            bytes in proptest::collection::vec(any::<u8>(), 0..300)
        ) {
            if let Ok(m) = Message::parse(&bytes) {
                prop_assert_eq!(Message::parse(&m.encode()).unwrap(), m);
            }
        }
    }
}
