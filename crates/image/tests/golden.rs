//! Objects as an earlier Godwit wrote them are read for ever: the files in `golden/` are never edited.

#[path = "golden/sample.rs"]
mod sample;

use godwit_image::{
    Digest, DigestBlock, DigestIndex, Footer, FrameDecoder, HEADER_BYTES, Head, Header, Kind,
    Manifest, PageMap,
};

const PACK: &[u8] = include_bytes!("golden/v1/pack.bin");
const HEAD: &[u8] = include_bytes!("golden/v1/head.bin");
const HEAD_RECENT: &[u8] = include_bytes!("golden/v1/head_recent.bin");
const PAGE_MAP: &[u8] = include_bytes!("golden/v1/page_map.bin");
const DIGEST_BLOCK: &[u8] = include_bytes!("golden/v1/digest_block.bin");
const DIGEST_INDEX: &[u8] = include_bytes!("golden/v1/digest_index.bin");
const MANIFEST: &[u8] = include_bytes!("golden/v1/manifest.json");

#[test]
fn headers_of_version_1_are_read_alone() {
    let all = [
        (Kind::Pack, PACK),
        (Kind::Head, HEAD),
        (Kind::PageMap, PAGE_MAP),
        (Kind::DigestBlock, DIGEST_BLOCK),
        (Kind::DigestIndex, DIGEST_INDEX),
    ];
    for (kind, bytes) in all {
        let header = Header::decode(kind, &bytes[..HEADER_BYTES]).unwrap();
        assert_eq!((header.version, header.length), (1, (bytes.len() - HEADER_BYTES) as u64));
    }
}

#[test]
fn a_pack_of_version_1_is_read_frame_by_frame() {
    let head = Head::decode(HEAD).unwrap();
    let (_, record) = head.packs.iter().next().unwrap();
    let footer = Footer::of_pack(PACK, &record.footer).unwrap();
    assert_eq!((footer.name, &footer.frames), (record.name, &record.frames));
    let mut decoder = FrameDecoder::new().unwrap();
    for ((_, frame), raw) in footer.frames.iter().zip(sample::frames()) {
        let range = frame.byte_range();
        let stored = &PACK[range.start as usize..range.end as usize];
        assert_eq!(decoder.decode(frame, stored).unwrap(), raw);
    }
}

#[test]
fn maps_digests_head_and_manifest_of_version_1_mean_the_same() {
    assert_eq!(PageMap::decode(PAGE_MAP), Ok(sample::page_map()));
    assert_eq!(DigestBlock::decode(DIGEST_BLOCK), Ok(sample::digest_block()));
    assert_eq!(DigestIndex::decode(DIGEST_INDEX), Ok(sample::digest_index()));
    assert_eq!(Manifest::decode(MANIFEST), Ok(sample::manifest()));
    for (bytes, mut expected) in [(HEAD, sample::head()), (HEAD_RECENT, sample::head_recent())] {
        let mut head = Head::decode(bytes).unwrap();
        // How well zstd compresses may change: sizes and digests of stored bytes are checked by the pack's own test.
        head.packs = Default::default();
        expected.packs = Default::default();
        assert_eq!(head, expected);
    }
}

#[test]
fn what_does_not_pass_through_a_compressor_is_written_as_in_version_1() {
    assert_eq!(sample::digest_block().encode(), DIGEST_BLOCK);
    assert_eq!(sample::manifest().encode().unwrap(), MANIFEST);
}

#[test]
fn a_pack_with_any_byte_changed_is_noticed() {
    let head = Head::decode(HEAD).unwrap();
    let (_, record) = head.packs.iter().next().unwrap();
    let mut decoder = FrameDecoder::new().unwrap();
    let mut whole = |pack: &[u8]| {
        let Ok(footer) = Footer::of_pack(pack, &record.footer) else { return false };
        footer.frames.iter().all(|(_, frame)| {
            let range = frame.byte_range();
            let stored = &pack[range.start as usize..range.end as usize];
            decoder.decode(frame, stored).is_ok()
        })
    };
    assert!(whole(PACK));
    for at in (0..PACK.len()).step_by(7).chain(0..HEADER_BYTES) {
        let mut bad = PACK.to_vec();
        bad[at] ^= 0x40;
        assert!(!whole(&bad), "byte {at}");
    }
    assert!(!whole(&PACK[..PACK.len() - 1]));
    assert!(Footer::of_pack(PACK, &Digest([0; 32])).is_err());
}
