use godwit_image::{HEADER_BYTES, Header};

use super::*;
use crate::{Device, Inode, Seen, What, Xattr};

fn sample() -> FileIndex {
    let inode = |what| {
        let xattrs = vec![Xattr { name: b"user.a".to_vec(), value: vec![0, 1] }];
        let time = Time { seconds: -1, nanos: 999_999_999 };
        let seen = Seen { ino: u64::MAX, changed: time, settled: true };
        let (accessed, modified) = (time, Time { seconds: i64::MAX, nanos: 0 });
        let (uid, gid) = (u32::MAX - 1, 0);
        Node::Inode(Box::new(Inode {
            mode: 0o7777,
            uid,
            gid,
            accessed,
            modified,
            xattrs,
            what,
            seen,
        }))
    };
    let chunk = |offset, frame| super::super::Chunk {
        offset,
        length: 131_072,
        frame,
        at: 0,
        digest: [offset as u8; 16],
    };
    let chunks = vec![chunk(0, 1), chunk(1 << 40, 0)];
    let entry = |depth, name: &[u8], node| Entry { depth, name: name.to_vec(), node };
    let device = Device { block: true, major: 4095, minor: (1 << 20) - 1 };
    FileIndex {
        instance: Instance {
            boot: [7; 16],
            device: 9,
            ino: 2,
            born: Time { seconds: 1, nanos: 2 },
        },
        frames: vec![
            FrameRef { pack: PackSlot(5), frame: 3 },
            FrameRef { pack: PackSlot(2), frame: 65_535 },
        ],
        entries: vec![
            entry(0, b"", inode(What::Directory { opaque: false })),
            entry(1, b"a", inode(What::Directory { opaque: true })),
            entry(2, b"\xff", inode(What::File { size: (1 << 40) + 131_072, chunks })),
            entry(1, b"b", Node::Link(2)),
            entry(1, b"c", Node::Whiteout),
            entry(1, b"d", inode(What::Device(device))),
            entry(1, b"e", inode(What::Symlink { target: b"../x".to_vec() })),
            entry(1, b"f", inode(What::Fifo)),
            entry(1, b"g", inode(What::Socket)),
        ],
    }
}

#[test]
fn an_index_reads_back() {
    assert_eq!(FileIndex::decode(&sample().encode()).unwrap(), sample());
}

/// An index as an earlier Godwit wrote it. Never edited: a new version gets a file and a sample of its own.
const GOLDEN: &[u8] = include_bytes!("../../../tests/golden/v1/index.bin");

#[test]
fn an_index_of_version_1_means_the_same_and_is_written_as_it_was() {
    assert_eq!(FileIndex::decode(GOLDEN).unwrap(), sample());
    assert_eq!(sample().encode(), GOLDEN);
    let digest = godwit_image::Digest::of(GOLDEN).to_string();
    assert_eq!(digest, "94c1643cc9f8edb3c009e2361a519e03c99ed7bedc831e58e434ef47fd1e585e");
}

#[test]
fn every_flipped_bit_is_noticed_and_no_end_is_too_early_to_be_noticed() {
    let bytes = sample().encode();
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(FileIndex::decode(&bad).is_err(), "bit {bit}");
    }
    for end in 0..bytes.len() {
        assert!(FileIndex::decode(&bytes[..end]).is_err(), "{end}");
        if end >= HEADER_BYTES {
            assert!(FileIndex::decode(&seal(bytes[..end].to_vec())).is_err(), "sealed {end}");
        }
    }
}

#[test]
fn a_newer_version_is_told_apart_from_damage() {
    let mut bytes = sample().encode();
    let (head, body) = bytes.split_at_mut(HEADER_BYTES);
    let newer = Header { version: 2, ..Header::decode(Kind::FileIndex, head).unwrap() };
    assert_eq!(newer.length, body.len() as u64);
    head.copy_from_slice(&newer.encode(Kind::FileIndex));
    let error = FileIndex::decode(&bytes).unwrap_err();
    assert!(matches!(&error, FilesError::Index(ImageError::Version { found: 2, .. })), "{error:?}");
}

#[test]
fn a_path_may_have_4095_bytes_and_no_more() {
    let deep = |last: usize| {
        let mut index = sample();
        let directory = index.entries[0].node.clone();
        index.entries.truncate(1);
        // 15 names of 255 bytes with a slash behind each, then the rest.
        for depth in 1..=15 {
            index.entries.push(Entry { depth, name: vec![b'n'; 255], node: directory.clone() });
        }
        index.entries.push(Entry { depth: 16, name: vec![b'n'; last], node: directory });
        FileIndex::decode(&index.encode())
    };
    assert!(deep(4095 - 15 * 256).is_ok());
    assert!(deep(4095 - 15 * 256 + 1).is_err());
}
