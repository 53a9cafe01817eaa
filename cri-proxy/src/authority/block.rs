//! A HEADERS frame (RFC 9113 §6.2) and the fields in it (RFC 7541 §6), read only as far as to find `:authority`.

use std::ops::Range;

use super::{Bytes, BytesMut, FRAME_HEADER, LONGEST, huffman};

const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// Number of `:authority` in the table that every connection begins with.
const AUTHORITY: usize = 1;
/// Numbers are below it; what is longer is refused by the library, too.
const MOST_DIGITS: u32 = 28;

/// The frame with an authority that can be part of a URI. `None`: nothing is to be changed, or it cannot be read.
pub(super) fn rename(frame: &[u8]) -> Option<Bytes> {
    let fields = fragment(frame)?;
    let value = authority(&frame[fields.clone()])?;
    let value = fields.start + value.start..fields.start + value.end;
    let said = text(&frame[value.clone()])?;
    if !said.contains(&b'%') || said.len() >= 127 {
        return None;
    }
    let mut renamed = BytesMut::from(&frame[..value.start]);
    // Short enough for one byte of length, and not compressed.
    renamed.extend_from_slice(&[u8::try_from(said.len()).ok()?]);
    renamed.extend(said.iter().map(|&byte| if byte == b'%' { b'-' } else { byte }));
    renamed.extend_from_slice(&frame[value.end..]);
    let length = renamed.len() - FRAME_HEADER;
    if length > LONGEST {
        return None;
    }
    renamed[..3].copy_from_slice(&u32::try_from(length).ok()?.to_be_bytes()[1..]);
    Some(renamed.freeze())
}

/// Where the fields are in the frame.
fn fragment(frame: &[u8]) -> Option<Range<usize>> {
    let flags = *frame.get(4)?;
    let (mut start, mut end) = (FRAME_HEADER, frame.len());
    if flags & PADDED != 0 {
        end = end.checked_sub(usize::from(*frame.get(start)?))?;
        start += 1;
    }
    if flags & PRIORITY != 0 {
        start += 5;
    }
    (start <= end).then_some(start..end)
}

/// Where the value of `:authority` is among the fields, with its length; `None` if it was said before, or not at all.
fn authority(fields: &[u8]) -> Option<Range<usize>> {
    let mut at = 0;
    while let Some(&first) = fields.get(at) {
        let bits = match first {
            0x80.. => 7,
            0x40.. => 6,
            0x20.. => 5,
            _ => 4,
        };
        let number = number(fields, &mut at, bits)?;
        // A field by its number alone, or a size for the table.
        if first >= 0x80 || (0x20..0x40).contains(&first) {
            continue;
        }
        if number == 0 {
            string(fields, &mut at)?;
        }
        let begin = at;
        string(fields, &mut at)?;
        if number == AUTHORITY {
            return Some(begin..at);
        }
    }
    None
}

/// A number whose first digit has that many bits (RFC 7541 §5.1).
fn number(bytes: &[u8], at: &mut usize, bits: u32) -> Option<usize> {
    let most = (1 << bits) - 1;
    let mut value = usize::from(*bytes.get(*at)?) & most;
    *at += 1;
    if value < most {
        return Some(value);
    }
    for shift in (0..MOST_DIGITS).step_by(7) {
        let digit = usize::from(*bytes.get(*at)?);
        *at += 1;
        value += (digit & 0x7f) << shift;
        if digit & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Where the bytes of a string are (RFC 7541 §5.2).
fn string(bytes: &[u8], at: &mut usize) -> Option<Range<usize>> {
    let length = number(bytes, at, 7)?;
    let start = *at;
    *at = start.checked_add(length)?;
    (*at <= bytes.len()).then_some(start..*at)
}

fn text(value: &[u8]) -> Option<Vec<u8>> {
    let is_compressed = value.first()? & 0x80 != 0;
    let bytes = &value[string(value, &mut 0)?];
    if is_compressed { huffman::decode(bytes) } else { Some(bytes.to_vec()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, 1, flags, 0, 0, 0, 1], payload].concat()
    }

    fn said(name: &str) -> Vec<u8> {
        [&[0x41, u8::try_from(name.len()).unwrap()], name.as_bytes()].concat()
    }

    #[test]
    fn percent_signs_of_an_authority_are_replaced_and_nothing_else() {
        // POST, a path with a percent sign, the authority, a field by name.
        let around = |name: &str| {
            [&[0x83, 0x44, 2, b'/', b'%'], &said(name)[..], &[0x40, 1, b'x', 1, b'%']].concat()
        };
        let renamed = rename(&frame(4, &around("%2Frun%2Fa"))).unwrap();
        assert_eq!(renamed, frame(4, &around("-2Frun-2Fa")));
        assert_eq!(rename(&frame(4, &around("localhost"))), None);
    }

    #[test]
    fn an_authority_is_found_behind_padding_and_priority() {
        let payload = |name: &str| [&[2, 0, 0, 0, 0, 9], &said(name)[..], &[0, 0]].concat();
        let renamed = rename(&frame(PADDED | PRIORITY, &payload("a%"))).unwrap();
        assert_eq!(renamed, frame(PADDED | PRIORITY, &payload("a-")));
    }

    #[test]
    fn a_compressed_authority_is_read() {
        // "%2F" is 010101 00010 1100001, and ones.
        let renamed = rename(&frame(4, &[0x41, 0x83, 0x54, 0x58, 0x7f])).unwrap();
        assert_eq!(renamed, frame(4, &said("-2F")));
    }

    #[test]
    fn what_cannot_be_read_is_left_alone() {
        for payload in [
            &[][..],
            &[0x82],
            &[0x41],
            &[0x41, 5, b'%'],
            &[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff],
            &[0x41, 0x81, 0x00],
        ] {
            assert_eq!(rename(&frame(4, payload)), None, "{payload:?}");
        }
        assert_eq!(rename(&frame(PADDED, &[9])), None);
        assert_eq!(rename(&frame(PRIORITY, &[0])), None);
    }
}
