use std::collections::BTreeMap;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;
use rustix::fs::FileType;
use rustix::mount::{MountFlags, mount};

use super::*;
use crate::fixture::sys::{Mapping, with_own_mounts};
use crate::fixture::{
    Change, NET_BIND, Shelf, World, change, changes, look, mark, node, noise, whiteout,
};
use crate::{Marks, Node, What};

/// Waits until a change that happened before is settled for a round that begins now: the clock has moved on by two ticks.
fn until_settled(path: &Path) {
    use std::os::unix::fs::MetadataExt as _;
    let meta = std::fs::symlink_metadata(path).unwrap();
    let changed = crate::Time { seconds: meta.ctime(), nanos: meta.ctime_nsec() as u32 };
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while walk::before_round() <= changed {
        assert!(std::time::Instant::now() < deadline, "the clock stands still");
        std::thread::yield_now();
    }
}

fn paths(captured: &Captured) -> BTreeMap<PathBuf, Node> {
    captured.index.paths().map(|(path, entry)| (path, entry.node.clone())).collect()
}

/// A program that keeps overlays of its own: a container runtime in a container.
#[test]
fn what_looks_like_an_overlays_marks_in_a_plain_directory_comes_back() {
    let mut world = World::plain();
    let u = world.upper();
    let at = |name: &str| u.join(name);
    std::fs::create_dir_all(at("overlays/upper/hides")).unwrap();
    assert!(whiteout(&at("overlays/upper/deleted")));
    assert!(mark(&at("overlays/upper/hides"), "trusted.overlay.opaque", b"y"));
    assert!(mark(&at("overlays/upper/hides"), "trusted.overlay.redirect", b"/elsewhere"));
    assert!(mark(&at("overlays/upper"), "user.overlay.impure", b"y"));
    std::fs::write(at("overlays/upper/empty"), "").unwrap();
    assert!(mark(&at("overlays/upper/empty"), "trusted.overlay.whiteout", b"y"));
    assert!(mark(&at("overlays/upper/empty"), "trusted.overlay.overlay.x", b"y"));
    // From a round, and from the freeze, which believes what the round has found.
    until_settled(&at("overlays/upper/empty"));
    let captured = world.checkpoint(|| assert!(whiteout(&at("later"))));
    let restored = world.empty("restored");
    // Who starts there needs no right to make devices for it.
    let (frames, halt) = (world.frames(), Halt::never());
    let (root, target, index) = (&*restored, crate::Target::Upper(Marks::None), &captured.index);
    let devices = crate::Devices::Refuse;
    let application =
        crate::Application { root, target, index, frames: &frames, devices, halt: &halt };
    crate::apply(&application).unwrap();
    assert_eq!(look(&restored), look(&u));
}

#[test]
fn everything_that_a_file_can_be_comes_back() {
    let mut world = World::new();
    let u = world.upper();
    let at = |name: &str| u.join(name);
    std::fs::create_dir(at("dir")).unwrap();
    std::fs::write(at("dir/text"), "hello").unwrap();
    std::fs::write(at("dir/empty"), "").unwrap();
    std::fs::write(at("large"), noise(1, 1_000_000)).unwrap();
    std::fs::hard_link(at("large"), at("dir/again")).unwrap();
    let sparse = std::fs::File::create(at("sparse")).unwrap();
    sparse.set_len(1 << 40).unwrap();
    sparse.write_at(b"in the middle of nowhere", 300 << 30).unwrap();
    std::os::unix::fs::symlink("../../../etc/passwd", at("link")).unwrap();
    assert!(node(&at("fifo"), FileType::Fifo, (0, 0)));
    assert!(node(&at("socket"), FileType::Socket, (0, 0)));
    assert!(node(&at("null"), FileType::CharacterDevice, (1, 3)));
    assert!(node(&at("disk"), FileType::BlockDevice, (259, 1_000_000)));
    assert!(whiteout(&at("dir/deleted")));
    assert!(mark(&at("dir"), "trusted.overlay.opaque", b"y"));
    assert!(mark(&at("dir"), "user.note", &[0, 255]));
    assert!(mark(&at("link"), "trusted.note", b"on a link"));
    assert!(mark(&at("dir/text"), "security.capability", &NET_BIND));
    std::os::unix::fs::lchown(at("link"), Some(4_000_000_000), Some(3_999_999_999)).unwrap();
    change(&u, &Change::Times(0, -5, 999_999_999));
    // The sparse file has a terabyte of holes: looked at by its index only.
    let captured = world.checkpoint(|| ());
    assert_eq!(captured.stats.contents.0, 1_000_000 + 5 + 4096);
    std::fs::remove_file(at("sparse")).unwrap();
    let restored = world.empty("restored");
    let target = crate::Target::Upper(Marks::Trusted);
    let applied = world.apply(&captured.index, &restored, target).unwrap();
    assert_eq!(applied.names, captured.stats.names);
    let file = std::fs::File::open(restored.join("sparse")).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 1 << 40);
    assert!(std::os::unix::fs::MetadataExt::blocks(&file.metadata().unwrap()) < 100);
    let mut bytes = [0; 24];
    file.read_exact_at(&mut bytes, 300 << 30).unwrap();
    assert_eq!(&bytes, b"in the middle of nowhere");
    std::fs::remove_file(restored.join("sparse")).unwrap();
    let (mut source, mut copy) = (look(&u), look(&restored));
    // Its times moved when the sparse file went.
    source.remove(Path::new(""));
    copy.remove(Path::new(""));
    assert_eq!(source, copy);
}

#[test]
fn a_file_of_no_bytes_that_is_marked_as_a_whiteout_is_one() {
    let mut world = World::new();
    let u = world.upper();
    std::fs::create_dir(u.join("d")).unwrap();
    std::fs::write(u.join("d/gone"), "").unwrap();
    assert!(mark(&u.join("d/gone"), "trusted.overlay.whiteout", b"y"));
    assert!(mark(&u.join("d"), "trusted.overlay.opaque", b"x"));
    let found = paths(&world.checkpoint(|| ()));
    assert_eq!(found[Path::new("d/gone")], Node::Whiteout);
    let Node::Inode(dir) = &found[Path::new("d")] else { panic!("a directory") };
    assert_eq!(
        dir.what,
        What::Directory { opaque: false },
        "x only says that such files are in it"
    );
}

#[test]
fn the_overlays_bookkeeping_is_left_behind_and_what_cannot_be_made_again_is_refused() {
    let mut world = World::new();
    let u = world.upper();
    std::fs::write(u.join("f"), "x").unwrap();
    for note in ["origin", "impure", "nlink", "uuid"] {
        assert!(mark(&u.join("f"), &format!("trusted.overlay.{note}"), b"1"));
    }
    let found = paths(&world.checkpoint(|| ()));
    let Node::Inode(inode) = &found[Path::new("f")] else { panic!("a file") };
    assert_eq!(inode.xattrs, []);
    for note in ["redirect", "metacopy", "protattr"] {
        let path = u.join(note);
        std::fs::write(&path, "").unwrap();
        assert!(mark(&path, &format!("trusted.overlay.{note}"), b"1"));
        let error = world.try_checkpoint(Bytes(0), || ()).unwrap_err();
        assert_eq!(error.code(), godwit_types::Code::Refused);
        assert!(error.to_string().contains(note), "{error}");
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn an_unchanged_file_is_neither_read_nor_stored_again() {
    let mut world = World::new();
    let u = world.upper();
    std::fs::write(u.join("large"), noise(1, 3 << 20)).unwrap();
    until_settled(&u.join("large"));
    let first = world.checkpoint(|| ());
    assert_eq!((first.stats.read.0, first.stats.read_frozen.0), (3 << 20, 0));
    assert!(first.stats.stored.0 >= 3 << 20);
    std::fs::write(u.join("small"), "new").unwrap();
    let second = world.checkpoint(|| ());
    assert!(second.stats.read.0 <= 3, "{:?}", second.stats);
    assert!(second.stats.stored.0 <= 100, "{:?}", second.stats);
    assert_eq!(world.restored(&second.index, "r"), look(&u));
}

#[test]
fn of_a_large_file_only_the_changed_part_is_stored_again() {
    let mut world = World::new();
    let u = world.upper();
    std::fs::write(u.join("db"), noise(1, 4 << 20)).unwrap();
    world.checkpoint(|| ());
    let file = std::fs::OpenOptions::new().write(true).open(u.join("db")).unwrap();
    file.write_at(b"changed", 1 << 20).unwrap();
    let second = world.checkpoint(|| file.write_all_at(b"in time", 2 << 20).unwrap());
    assert_eq!(second.stats.changed_frozen.0, 128 << 10, "one chunk changed after the round");
    assert!(second.stats.stored.0 <= 2 * (128 << 10), "{:?}", second.stats);
    assert_eq!(world.restored(&second.index, "r"), look(&u));
}

#[test]
fn a_moved_layer_is_read_but_not_stored_again() {
    let mut world = World::new();
    let u = world.upper();
    std::fs::write(u.join("large"), noise(1, 2 << 20)).unwrap();
    std::fs::write(u.join("small"), "a few bytes").unwrap();
    let first = world.checkpoint(|| ());
    let moved = world.empty("moved");
    world.apply(&first.index, &moved, crate::Target::Upper(Marks::Trusted)).unwrap();
    std::fs::rename(&u, world.dir.path().join("old")).unwrap();
    std::fs::rename(&moved, &u).unwrap();
    let second = world.checkpoint(|| ());
    assert_eq!(second.stats.stored.0, 0);
    assert!(second.stats.read.0 > 2 << 20);
    assert_eq!(world.restored(&second.index, "r"), look(&u));
}

#[test]
fn a_change_within_the_same_tick_is_noticed() {
    for (settled, right) in [(false, true), (true, false)] {
        let mut world = World::new();
        let path = world.upper().join("f");
        std::fs::write(&path, "one").unwrap();
        let mut parent = world.checkpoint(|| ()).index;
        std::fs::write(&path, "two").unwrap();
        // As if no tick had passed since the round: all times are what it saw.
        let now = paths(&world.checkpoint(|| ()));
        let Node::Inode(now) = &now[Path::new("f")] else { panic!("a file") };
        let Node::Inode(then) = &mut parent.entries[1].node else { panic!("a file") };
        (then.seen, then.modified) = (now.seen, now.modified);
        then.seen.settled = settled;
        until_settled(&path);
        let layer = world.layer();
        let scan = layer.scan(Some(&parent)).unwrap();
        let frozen = layer.freeze(scan, &MappedFiles::default(), Bytes(1 << 20)).unwrap();
        let restored = world.restored(&frozen.finish().unwrap().index, "r");
        assert_eq!(restored == look(&world.upper()), right, "settled: {settled}");
    }
}

#[test]
fn a_write_through_a_mapping_that_moves_no_time_is_noticed_on_tmpfs() {
    with_own_mounts(|| {
        let mut world = World::new();
        let u = world.upper();
        mount("tmpfs", &u, "tmpfs", MountFlags::empty(), c"size=1m").unwrap();
        std::fs::write(u.join("f"), [7; 4096]).unwrap();
        let mapping = Mapping::of(&u.join("f"));
        mapping.write(8);
        until_settled(&u.join("f"));
        let captured = world.checkpoint(move || {
            mapping.write(9);
            drop(mapping);
        });
        assert_eq!(world.restored(&captured.index, "r"), look(&u));
    });
}

#[test]
fn a_file_with_a_writable_shared_mapping_is_read_in_every_freeze() {
    let mut world = World::new();
    let u = world.upper();
    let path = u.join("mapped");
    std::fs::write(&path, [7; 4096]).unwrap();
    let mapping = Mapping::of(&path);
    mapping.write(8);
    until_settled(&path);
    let mapped = MappedFiles::of([std::process::id() as i32]).unwrap();
    let layer = world.layer();
    let scan = layer.scan(None).unwrap();
    let frozen = layer.freeze(scan, &mapped, Bytes(1 << 20)).unwrap();
    drop(mapping);
    let captured = frozen.finish().unwrap();
    assert_eq!(captured.stats.read_frozen.0, 4096);
    let settled = |c: &Captured| match &paths(c)[Path::new("mapped")] {
        Node::Inode(inode) => inode.seen.settled,
        _ => panic!("a file"),
    };
    assert_eq!(world.restored(&captured.index, "r"), look(&u));
    assert!(!settled(&captured), "the next checkpoint reads it too");
}

#[test]
fn a_mapped_file_that_has_lost_its_name_is_read_under_its_other_one() {
    let mut world = World::new();
    let u = world.upper();
    let (old, new) = (u.join("old"), u.join("new"));
    std::fs::write(&old, [7; 4096]).unwrap();
    let mapping = Mapping::of(&old);
    mapping.write(8);
    std::fs::hard_link(&old, &new).unwrap();
    // Its first name stands for another file now.
    std::fs::write(u.join("third"), "").unwrap();
    std::fs::rename(u.join("third"), &old).unwrap();
    until_settled(&new);
    until_settled(&old);
    let layer = world.layer();
    let scan = layer.scan(None).unwrap();
    let mapped = MappedFiles::of([std::process::id() as i32]).unwrap();
    let frozen = layer.freeze(scan, &mapped, Bytes(1 << 20)).unwrap();
    drop(mapping);
    let captured = frozen.finish().unwrap();
    assert_eq!(captured.stats.read_frozen.0, 4096);
    let found = paths(&captured);
    let Node::Inode(inode) = &found[Path::new("new")] else { panic!("a file") };
    assert!(!inode.seen.settled, "the next checkpoint reads it too");
}

#[test]
fn what_does_not_fit_the_budget_of_the_freeze_is_stored_in_it() {
    let mut world = World::new();
    let u = world.upper();
    let captured = world
        .try_checkpoint(Bytes(256 << 10), || {
            std::fs::write(u.join("f"), noise(1, 1 << 20)).unwrap()
        })
        .unwrap();
    assert_eq!(captured.stats.changed_frozen.0, 1 << 20);
    assert_eq!(captured.stats.stored_frozen.0, (1 << 20) - (256 << 10));
    assert_eq!(world.restored(&captured.index, "r"), look(&u));
}

#[test]
fn a_deleted_file_that_is_open_is_not_ours_and_a_name_that_criu_makes_is_captured() {
    let mut world = World::new();
    let u = world.upper();
    std::fs::write(u.join("open"), "ghost").unwrap();
    let open = std::fs::File::open(u.join("open")).unwrap();
    std::fs::write(u.join("two"), "names").unwrap();
    std::fs::remove_file(u.join("open")).unwrap();
    let link = || std::fs::hard_link(u.join("two"), u.join("link_remap.1")).unwrap();
    let found = paths(&world.checkpoint(link));
    assert!(!found.contains_key(Path::new("open")));
    assert!(found.contains_key(Path::new("link_remap.1")));
    drop(open);
}

#[test]
fn a_sink_that_fails_and_a_halt_end_a_capture_with_their_codes() {
    let mut world = World::new();
    std::fs::write(world.upper().join("f"), noise(1, 20 << 20)).unwrap();
    world.shelf = Arc::new(Shelf::broken());
    let error = world.try_checkpoint(Bytes(0), || ()).unwrap_err();
    assert_eq!(error.code(), godwit_types::Code::Unavailable);
    world.shelf = Arc::default();
    let mut layer = world.layer();
    let asked = Arc::new(AtomicU32::new(0));
    layer.halt = Halt::when(move || asked.fetch_add(1, Ordering::Relaxed) > 20);
    let error = layer.scan(None).unwrap_err();
    assert_eq!(error.code(), godwit_types::Code::Cancelled);
}

#[test]
fn a_name_that_stands_for_something_else_at_the_second_look_does_not_end_a_scan() {
    // On tmpfs, where a scan has nothing to sync.
    with_own_mounts(|| {
        let mut world = World::new();
        let u = world.upper();
        mount("tmpfs", &u, "tmpfs", MountFlags::empty(), c"size=1m").unwrap();
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (busy, root) = (Arc::clone(&stop), u.clone());
        let writer = std::thread::spawn(move || {
            let (new, name) = (root.join("new"), root.join("name"));
            while !busy.load(Ordering::Relaxed) {
                std::os::unix::fs::symlink("/dev/null", &new).unwrap();
                std::fs::rename(&new, &name).unwrap();
                std::fs::write(&new, "a file").unwrap();
                std::fs::rename(&new, &name).unwrap();
            }
        });
        let layer = world.layer();
        let scans = (0..10_000).try_fold(layer.scan(None).unwrap(), |scan, _| layer.rescan(scan));
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap();
        let frozen = layer.freeze(scans.unwrap(), &MappedFiles::default(), Bytes(1 << 20));
        let captured = frozen.unwrap().finish().unwrap();
        assert_eq!(world.restored(&captured.index, "r"), look(&u));
    });
}

#[test]
fn a_layer_that_changes_all_the_time_can_be_scanned_and_is_right_in_the_freeze() {
    let mut world = World::new();
    let u = world.upper();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (busy, root) = (Arc::clone(&stop), u.clone());
    let writer = std::thread::spawn(move || {
        let mut n = 0u64;
        while !busy.load(Ordering::Relaxed) {
            let at = (n % 61) as u8;
            change(&root, &Change::Directory(at));
            change(&root, &Change::File(at, n, (n % 300_000) as usize));
            change(&root, &Change::Patch(at, (n % 5_000) as u32, n as u8));
            change(&root, &Change::Rename(at, (n % 59) as u8));
            // A pipe that is opened for reading would stop everything.
            change(&root, &Change::Node(((n + 3) % 61) as u8, n as u8));
            change(&root, &Change::Remove((n * 7 % 64) as u8));
            change(&root, &Change::Symlink(at, "/dev/null".to_owned()));
            n += 1;
        }
        n
    });
    let layer = world.layer();
    let mut scan = layer.scan(None).unwrap();
    for _ in 0..20 {
        scan = layer.rescan(scan).unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    assert!(writer.join().unwrap() > 0);
    let frozen = layer.freeze(scan, &MappedFiles::default(), Bytes(1 << 20)).unwrap();
    let captured = frozen.finish().unwrap();
    assert_eq!(world.restored(&captured.index, "r"), look(&u));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Captured, and captured again after changes of which some come between the round and the freeze: what is applied is
    /// the tree as it was in the freeze, for the full checkpoint and for each increment.
    #[test]
    fn what_is_applied_is_what_was_there_in_the_freeze(
        rounds in prop::collection::vec((changes(), changes()), 1..4)
    ) {
        let mut world = World::new();
        let u = world.upper();
        for (number, (before, meanwhile)) in rounds.iter().enumerate() {
            before.iter().for_each(|c| change(&u, c));
            let captured = world.checkpoint(|| meanwhile.iter().for_each(|c| change(&u, c)));
            let restored = world.restored(&captured.index, &format!("r{number}"));
            prop_assert_eq!(restored, look(&u));
        }
    }
}
