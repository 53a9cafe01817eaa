use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;

use godwit_types::Code;
use proptest::prelude::*;
use rustix::mount::{MountFlags, mount};

use super::*;
use crate::fixture::sys::with_own_mounts;
use crate::fixture::{Change, NET_BIND, Seen, World, change, changes, look, mark, noise, xattrs};
use crate::{Captured, FilesError};

/// Overlays over one image: `lower` is it, the layer of the world is the upper directory of the first one.
struct Overlays {
    world: World,
}

impl Overlays {
    fn new() -> Self {
        let world = World::new();
        world.empty("lower");
        Self { world }
    }

    fn lower(&self) -> PathBuf {
        self.world.dir.path().join("lower")
    }

    /// Mounts one with this upper directory; where.
    fn mount(&self, upper: &str) -> PathBuf {
        let (merged, work) =
            (self.world.empty(&format!("{upper}-m")), self.world.empty(&format!("{upper}-w")));
        let text = |path: &Path| path.display().to_string();
        let upper = self.world.dir.path().join(upper);
        let options = format!(
            "index=off,lowerdir={},upperdir={},workdir={}",
            text(&self.lower()),
            text(&upper),
            text(&work)
        );
        let options = CString::new(options).unwrap();
        mount("overlay", &merged, "overlay", MountFlags::empty(), options.as_c_str()).unwrap();
        merged
    }

    /// What the container sees after a restore into a mounted overlay, and into an upper directory that is mounted later.
    fn restored(&self, captured: &Captured, name: &str) -> [BTreeMap<PathBuf, Seen>; 2] {
        let through = format!("{name}-through");
        self.world.empty(&through);
        let merged = self.mount(&through);
        self.world.apply(&captured.index, &merged, Target::Merged).unwrap();
        let beside = format!("{name}-beside");
        let upper = self.world.empty(&beside);
        self.world.apply(&captured.index, &upper, Target::Upper(Marks::Trusted)).unwrap();
        [look(&merged), look(&self.mount(&beside))]
    }
}

/// A POSIX ACL: owner rwx, user 1000 rwx, group r-x, mask rwx, others nothing.
fn acl() -> Vec<u8> {
    let entry = |tag: u16, rights: u16, id: u32| {
        [&tag.to_le_bytes()[..], &rights.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    let none = u32::MAX;
    let entries = [
        entry(1, 7, none),
        entry(2, 7, 1000),
        entry(4, 5, none),
        entry(16, 7, none),
        entry(32, 0, none),
    ];
    [2u32.to_le_bytes().to_vec(), entries.concat()].concat()
}

#[test]
fn a_container_sees_the_same_files_after_a_move() {
    with_own_mounts(|| {
        let mut overlays = Overlays::new();
        let lower = overlays.lower();
        for name in ["etc", "usr/deep/tree", "var/old", "data"] {
            std::fs::create_dir_all(lower.join(name)).unwrap();
        }
        for name in ["etc/passwd", "etc/hosts", "usr/deep/tree/leaf", "var/old/log", "data/kept"] {
            std::fs::write(lower.join(name), name).unwrap();
        }
        symlink("etc", lower.join("link")).unwrap();
        std::fs::hard_link(lower.join("etc/hosts"), lower.join("etc/hosts2")).unwrap();
        assert!(mark(&lower.join("data"), "system.posix_acl_default", &acl()));

        let m = overlays.mount("upper");
        std::fs::write(m.join("etc/passwd"), "changed").unwrap();
        std::fs::remove_file(m.join("etc/hosts")).unwrap();
        std::fs::remove_dir_all(m.join("usr/deep")).unwrap();
        std::fs::create_dir(m.join("usr/deep")).unwrap();
        std::fs::write(m.join("usr/deep/new"), noise(3, 200_000)).unwrap();
        std::fs::hard_link(m.join("usr/deep/new"), m.join("etc/new too")).unwrap();
        std::fs::remove_dir_all(m.join("var")).unwrap();
        std::fs::write(m.join("var"), "a file now").unwrap();
        std::fs::remove_file(m.join("link")).unwrap();
        std::fs::create_dir(m.join("link")).unwrap();
        symlink("/etc/passwd", m.join("link/passwd")).unwrap();
        std::fs::write(m.join("data/plain"), "with the directory's ACL").unwrap();
        rustix::fs::lremovexattr(m.join("data/plain"), "system.posix_acl_access").unwrap();
        std::fs::write(m.join("data/ping"), "#!").unwrap();
        assert!(mark(&m.join("data/ping"), "security.capability", &NET_BIND));
        assert!(mark(&m.join("etc"), "trusted.overlay.opaque", b"y"), "of a nested overlay");

        let captured = overlays.world.checkpoint(|| ());
        let before = look(&m);
        assert!(!before.contains_key(Path::new("etc/hosts")));
        let [through, beside] = overlays.restored(&captured, "r");
        assert_eq!(through, before);
        assert_eq!(beside, before);
        let nested = xattrs(&overlays.world.dir.path().join("r-through-m/etc"));
        assert_eq!(nested[b"trusted.overlay.opaque".as_slice()], b"y");
    });
}

#[test]
fn an_image_cannot_lead_files_out_of_the_root() {
    let mut world = World::new();
    let u = world.upper();
    std::fs::create_dir_all(u.join("a/b")).unwrap();
    std::fs::write(u.join("a/b/f"), "inside").unwrap();
    let captured = world.checkpoint(|| ());
    let (root, outside) = (world.empty("root"), world.empty("outside"));
    std::fs::create_dir(outside.join("b")).unwrap();
    symlink(&outside, root.join("a")).unwrap();
    world.apply(&captured.index, &root, Target::Merged).unwrap();
    assert_eq!(std::fs::read(root.join("a/b/f")).unwrap(), b"inside");
    assert!(std::fs::read_dir(outside.join("b")).unwrap().next().is_none());
}

#[test]
fn deleting_what_an_image_links_to_deletes_the_link_alone() {
    let mut world = World::new();
    assert!(crate::fixture::whiteout(&world.upper().join("a")));
    let captured = world.checkpoint(|| ());
    let (root, outside) = (world.empty("root"), world.empty("outside"));
    std::fs::write(outside.join("precious"), "").unwrap();
    symlink(&outside, root.join("a")).unwrap();
    world.apply(&captured.index, &root, Target::Merged).unwrap();
    assert!(!root.join("a").exists());
    assert!(outside.join("precious").exists());
}

fn refused(world: &World, index: &FileIndex, root: &Path, target: Target) -> FilesError {
    world.apply(index, root, target).unwrap_err()
}

#[test]
fn what_does_not_fit_is_refused_before_anything_is_written() {
    with_own_mounts(|| {
        let mut world = World::new();
        std::fs::write(world.upper().join("f"), noise(1, 3 << 20)).unwrap();
        let captured = world.checkpoint(|| ());
        let small = world.empty("small");
        mount("tmpfs", &small, "tmpfs", MountFlags::empty(), c"size=1m").unwrap();
        let error = refused(&world, &captured.index, &small, Target::Merged);
        assert!(matches!(error, FilesError::NoRoom { need: 3_145_728, .. }), "{error}");
        assert_eq!(look(&small).len(), 1);
        let few = world.empty("few");
        mount("tmpfs", &few, "tmpfs", MountFlags::empty(), c"size=64m,nr_inodes=2").unwrap();
        let error = refused(&world, &captured.index, &few, Target::Merged);
        assert!(matches!(error, FilesError::NoRoom { free_inodes: 1, .. }), "{error}");
        assert_eq!(error.code(), Code::Refused);
    });
}

#[test]
fn an_upper_directory_must_be_empty() {
    let mut world = World::new();
    let captured = world.checkpoint(|| ());
    let root = world.empty("root");
    std::fs::write(root.join("x"), "").unwrap();
    let error = refused(&world, &captured.index, &root, Target::Upper(Marks::Trusted));
    assert_eq!(error.code(), Code::Precondition);
}

#[test]
fn device_nodes_are_refused_by_name_where_the_container_could_not_make_them() {
    let mut world = World::new();
    let null = world.upper().join("null");
    assert!(crate::fixture::node(&null, rustix::fs::FileType::CharacterDevice, (1, 3)));
    let captured = world.checkpoint(|| ());
    let (root, frames, halt) = (world.empty("root"), world.frames(), Halt::never());
    let request = Application {
        root: &root,
        target: Target::Merged,
        index: &captured.index,
        frames: &frames,
        devices: Devices::Refuse,
        halt: &halt,
    };
    let error = apply(&request).unwrap_err();
    assert_eq!(error.code(), Code::Refused);
    assert!(error.to_string().contains("\"null\" is a device node (1:3)"), "{error}");
    assert_eq!(look(&root).len(), 1, "nothing was made");
}

#[test]
fn a_halt_ends_it() {
    let mut world = World::new();
    std::fs::write(world.upper().join("f"), noise(1, 3 << 20)).unwrap();
    let captured = world.checkpoint(|| ());
    let (root, frames) = (world.empty("root"), world.frames());
    let asked = std::sync::atomic::AtomicU32::new(0);
    let halt = Halt::when(move || asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) > 5);
    let request = Application {
        root: &root,
        target: Target::Merged,
        index: &captured.index,
        frames: &frames,
        devices: Devices::Allow,
        halt: &halt,
    };
    assert_eq!(apply(&request).unwrap_err().code(), Code::Cancelled);
}

#[test]
fn many_small_files_are_fetched_in_few_frames() {
    let mut world = World::new();
    for n in 0..500u64 {
        std::fs::write(world.upper().join(n.to_string()), noise(n, 1000)).unwrap();
    }
    let captured = world.checkpoint(|| ());
    assert_eq!(captured.index.frames.len(), 4, "500 kB in frames of 128 KiB");
    let (root, frames, halt) = (world.empty("root"), world.frames(), Halt::never());
    let (target, devices) = (Target::Upper(Marks::Trusted), Devices::Allow);
    let request = Application {
        root: &root,
        target,
        index: &captured.index,
        frames: &frames,
        devices,
        halt: &halt,
    };
    apply(&request).unwrap();
    assert_eq!(*frames.reads.lock().unwrap(), 4);
    assert_eq!(look(&root), look(&world.upper()));
}

#[test]
fn a_large_file_is_fetched_far_ahead_and_a_frame_that_was_here_before_with_fewer() {
    let mut world = World::new();
    // The small ones share a frame, which is the first.
    for (name, length) in [("a", 1000), ("m", 300 * (128 << 10)), ("z", 1000)] {
        std::fs::write(world.upper().join(name), noise(1, length)).unwrap();
    }
    let captured = world.checkpoint(|| ());
    let (root, frames) = (world.empty("root"), world.frames());
    let halt = Halt::never();
    let request = Application {
        root: &root,
        target: Target::Merged,
        index: &captured.index,
        frames: &frames,
        devices: Devices::Allow,
        halt: &halt,
    };
    apply(&request).unwrap();
    assert_eq!(*frames.asked.lock().unwrap(), [128, 128, 45, 32]);
    assert_eq!(look(&root).len(), 4);
}

#[test]
fn names_that_are_no_text_stay_what_they_are() {
    let mut world = World::new();
    let name = std::ffi::OsStr::from_bytes(b"\xff\n -\\012");
    std::fs::write(world.upper().join(name), "x").unwrap();
    std::fs::write(world.upper().join("n".repeat(255)), "y").unwrap();
    let captured = world.checkpoint(|| ());
    assert_eq!(world.restored(&captured.index, "r"), look(&world.upper()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever a container does to an image, it sees the same after a restore in both ways, also from an increment.
    #[test]
    fn any_container_sees_the_same_files_after_a_move(
        image in changes(), first in changes(), second in changes()
    ) {
        with_own_mounts(|| {
            let mut overlays = Overlays::new();
            // An image has no marks of an overlay that is not there.
            let plain = |c: &&Change| !matches!(c, Change::Whiteout(_) | Change::Opaque(_));
            image.iter().filter(plain).for_each(|c| change(&overlays.lower(), c));
            let m = overlays.mount("upper");
            first.iter().for_each(|c| change(&m, c));
            overlays.world.checkpoint(|| ());
            let captured = overlays.world.checkpoint(|| second.iter().for_each(|c| change(&m, c)));
            let before = look(&m);
            let [through, beside] = overlays.restored(&captured, "r");
            prop_assert_eq!(&through, &before);
            prop_assert_eq!(&beside, &before);
            Ok(())
        })?;
    }
}
