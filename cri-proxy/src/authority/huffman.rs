//! Strings of header fields that are compressed (RFC 7541 §5.2 and appendix B), as far as an authority can have them.

/// The characters whose codes have 1, 2, … bits, in the order of their codes: each code is the next number after the one before, with
/// zeros behind it where it is longer. Characters with codes of more bits are in no authority.
const BY_LENGTH: [&[u8]; 15] = [
    b"",
    b"",
    b"",
    b"",
    b"012aceiost",
    b" %-./3456789=A_bdfghlmnpru",
    b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz",
    b"&*,;XZ",
    b"",
    b"!\"()?",
    b"'+|",
    b"#>",
    b"\0$@[]~",
    b"^}",
    b"<`{",
];
/// What is left of the last byte is less than that, and ones.
const BYTE: usize = 8;

/// The string; `None` if it has a character that no authority has.
pub(super) fn decode(bytes: &[u8]) -> Option<Vec<u8>> {
    let bit = |at: usize| bytes.get(at / BYTE).map(|byte| usize::from(byte >> (7 - at % BYTE) & 1));
    let (mut at, mut text) = (0, vec![]);
    while let Some((character, bits)) = next(|offset| bit(at + offset)) {
        text.push(character);
        at += bits;
    }
    let rest: Vec<usize> = (at..).map_while(bit).collect();
    (rest.len() < BYTE && rest.iter().all(|&bit| bit == 1)).then_some(text)
}

/// The first character of these bits, and how many bits it takes.
fn next(bit: impl Fn(usize) -> Option<usize>) -> Option<(u8, usize)> {
    let (mut code, mut first) = (0, 0);
    for (index, characters) in BY_LENGTH.iter().enumerate() {
        code = code << 1 | bit(index)?;
        if let Some(&character) = characters.get(code - first) {
            return Some((character, index + 1));
        }
        first = (first + characters.len()) << 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_rfc_are_read() {
        // RFC 7541, appendices C.4.1, C.4.2, C.6.1.
        for (bytes, text) in [
            (
                &[0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff][..],
                "www.example.com",
            ),
            (&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf], "no-cache"),
            (&[0xae, 0xc3, 0x77, 0x1a, 0x4b], "private"),
        ] {
            assert_eq!(decode(bytes).unwrap(), text.as_bytes());
        }
        assert_eq!(decode(&[]).unwrap(), b"");
    }

    #[test]
    fn what_is_no_string_of_an_authority_is_not_read() {
        // A backslash, a byte of ones, and one that ends in zeros.
        for bytes in [&[0xff, 0xfe, 0x1f][..], &[0xff], &[0xa8]] {
            assert_eq!(decode(bytes), None, "{bytes:?}");
        }
    }
}
