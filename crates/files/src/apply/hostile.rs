//! Indexes that nobody has captured.

use godwit_image::{FrameRef, FrameSource, PackSlot, SinkError};
use godwit_types::Code;
use proptest::prelude::*;

use super::*;
use crate::fixture::{World, changes, look};
use crate::index::seal;
use crate::{Chunk, Entry, Inode, Seen, Time, What};

fn inode(what: What) -> Node {
    Node::Inode(Box::new(Inode {
        mode: 0o755,
        uid: 0,
        gid: 0,
        accessed: Time::default(),
        modified: Time::default(),
        xattrs: Vec::new(),
        what,
        seen: Seen::default(),
    }))
}

fn entry(depth: u16, name: &str, what: What) -> Entry {
    Entry { depth, name: name.as_bytes().to_vec(), node: inode(what) }
}

fn directory() -> What {
    What::Directory { opaque: false }
}

fn file(chunks: Vec<Chunk>) -> What {
    What::File { size: 10, chunks }
}

fn index(entries: Vec<Entry>) -> FileIndex {
    let mut all = vec![entry(0, "", directory())];
    all.extend(entries);
    let frames = vec![FrameRef { pack: PackSlot(0), frame: 0 }];
    FileIndex { frames, entries: all, ..FileIndex::default() }
}

fn symlink_to(target: &str) -> What {
    What::Symlink { target: target.as_bytes().to_vec() }
}

fn chunk(length: u32) -> Chunk {
    Chunk { offset: 0, length, frame: 0, at: 0, digest: [0; 16] }
}

#[test]
fn an_index_with_a_path_that_leaves_the_root_or_contradicts_itself_is_refused() {
    let f = || file(Vec::new());
    let long = "n".repeat(256);
    let cases: Vec<(&str, Vec<Entry>)> = vec![
        ("the parent", vec![entry(1, "..", directory())]),
        ("itself", vec![entry(1, ".", directory())]),
        ("absolute", vec![entry(1, "/etc", directory())]),
        ("a path", vec![entry(1, "a/../../b", f())]),
        ("no name", vec![entry(1, "", f())]),
        ("a zero", vec![entry(1, "a\0b", f())]),
        ("too long", vec![entry(1, &long, f())]),
        ("a second root", vec![entry(0, "", directory())]),
        ("twice", vec![entry(1, "a", f()), entry(1, "a", f())]),
        ("twice, of two kinds", vec![entry(1, "a", symlink_to("/")), entry(1, "a", directory())]),
        ("not in order", vec![entry(1, "b", f()), entry(1, "a", f())]),
        ("in a link", vec![entry(1, "a", symlink_to("/etc")), entry(2, "passwd", f())]),
        ("in a file", vec![entry(1, "a", f()), entry(2, "b", f())]),
        ("in nothing", vec![entry(2, "b", f())]),
        (
            "forward link",
            vec![Entry { depth: 1, name: b"a".to_vec(), node: Node::Link(2) }, entry(1, "b", f())],
        ),
        ("link to a directory", vec![Entry { depth: 1, name: b"a".to_vec(), node: Node::Link(0) }]),
        ("link to itself", vec![Entry { depth: 1, name: b"a".to_vec(), node: Node::Link(1) }]),
        ("outside of its file", vec![entry(1, "a", file(vec![chunk(11)]))]),
        ("an empty chunk", vec![entry(1, "a", file(vec![chunk(0)]))]),
        ("an absurd size", vec![entry(1, "a", What::File { size: u64::MAX, chunks: Vec::new() })]),
        ("an empty link", vec![entry(1, "a", symlink_to(""))]),
        (
            "a whiteout in disguise",
            vec![entry(1, "a", What::Device(crate::Device { block: false, major: 0, minor: 0 }))],
        ),
        (
            "a huge device",
            vec![entry(
                1,
                "a",
                What::Device(crate::Device { block: true, major: 1 << 12, minor: 0 }),
            )],
        ),
    ];
    for (case, entries) in cases {
        let error = FileIndex::decode(&index(entries).encode()).expect_err(case);
        assert_eq!(error.code(), Code::Corrupt, "{case}");
    }
}

#[test]
fn attributes_that_belong_to_the_node_or_to_the_overlay_cannot_be_brought() {
    let with = |name: &[u8]| {
        let mut hostile = index(vec![entry(1, "a", file(Vec::new()))]);
        if let Node::Inode(inode) = &mut hostile.entries[1].node {
            inode.xattrs = vec![crate::Xattr { name: name.to_vec(), value: b"y".to_vec() }];
        }
        hostile
    };
    for name in ["security.selinux", "security.ima", "system.data", "nonsense", "user."] {
        assert!(FileIndex::decode(&with(name.as_bytes()).encode()).is_err(), "{name}");
    }
    // What looks like a note of the overlay is the container's own: it is escaped and notes nothing.
    let world = World::new();
    let root = world.empty("root");
    let redirect = with(b"trusted.overlay.redirect");
    world.apply(&redirect, &root, Target::Upper(Marks::Trusted)).unwrap();
    let set = crate::fixture::xattrs(&root.join("a"));
    assert_eq!(set.keys().collect::<Vec<_>>(), [b"trusted.overlay.overlay.redirect"]);
}

#[test]
fn an_index_that_was_not_decoded_cannot_lead_out_of_the_root_either() {
    for name in ["../out", "/tmp/out", "..", ".", "a/b"] {
        let world = World::new();
        let root = world.empty("root");
        let hostile = index(vec![entry(1, name, file(Vec::new()))]);
        assert!(world.apply(&hostile, &root, Target::Merged).is_err(), "{name}");
        assert_eq!(
            look(world.dir.path()).len(),
            3,
            "{name}: the world, its upper directory, the root"
        );
    }
}

/// A store whose frames are not what they were.
struct Wrong(Vec<u8>);

impl FrameSource for Wrong {
    fn frame(&self, _: FrameRef) -> Result<Vec<u8>, SinkError> {
        Ok(self.0.clone())
    }
}

#[test]
fn contents_that_are_not_those_of_the_index_are_refused() {
    let hostile = index(vec![entry(1, "a", file(vec![chunk(10)]))]);
    for bytes in [vec![1; 10], vec![1; 3], Vec::new()] {
        let world = World::new();
        let (root, frames, halt) = (world.empty("root"), Wrong(bytes), Halt::never());
        let (target, devices) = (Target::Merged, Devices::Allow);
        let request = Application {
            root: &root,
            target,
            index: &hostile,
            frames: &frames,
            devices,
            halt: &halt,
        };
        assert_eq!(apply(&request).unwrap_err().code(), Code::Corrupt);
    }
}

#[test]
fn a_count_that_is_not_there_is_refused_before_memory_is_taken_for_it() {
    let mut bytes = index(Vec::new()).encode();
    // The number of entries is the byte after the instance and one frame.
    let at = 32 + 16 + 1 + 1 + 2 + 1 + 2;
    assert_eq!(bytes[at], 1);
    bytes.splice(at..=at, [0xff, 0xff, 0xff, 0xff, 0x0f]);
    assert_eq!(FileIndex::decode(&seal(bytes)).unwrap_err().code(), Code::Corrupt);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Any damage behind a right checksum is refused or does nothing outside of the root.
    #[test]
    fn a_forged_index_is_refused_or_stays_within_the_root(
        tree in changes(), forged in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)
    ) {
        let mut world = World::new();
        tree.iter().for_each(|c| crate::fixture::change(&world.upper(), c));
        let mut bytes = world.checkpoint(|| ()).index.encode();
        for (at, byte) in forged {
            let at = 32 + at.index(bytes.len() - 32);
            bytes[at] = byte;
        }
        let before = look(&world.upper());
        if let Ok(index) = FileIndex::decode(&seal(bytes)) {
            let root = world.empty("root");
            let _ = world.apply(&index, &root, Target::Upper(Marks::Trusted));
            std::fs::remove_dir_all(root).unwrap();
        }
        prop_assert_eq!(look(&world.upper()), before);
        let names: Vec<_> = std::fs::read_dir(world.dir.path()).unwrap().map(|d| d.unwrap().file_name()).collect();
        prop_assert_eq!(names, ["upper"]);
    }

    #[test]
    fn any_bytes_are_refused_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = FileIndex::decode(&bytes);
        let mut sealed = vec![0; 32];
        sealed.extend(bytes);
        let _ = FileIndex::decode(&seal(sealed));
    }
}
