//! The upper directory of a container's overlay: where it is, how the overlay marks names in it, and which one it is.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use godwit_types::Bytes;
use rustix::fs::{
    AtFlags, Mode, OFlags, ResolveFlags, StatxFlags, fstatfs, fstatvfs, openat, openat2, statx,
};
use rustix::io::Errno;

use crate::error::At as _;
use crate::{FilesError, Instance, Time};

/// `TMPFS_MAGIC` (linux/magic.h).
const TMPFS: rustix::fs::FsWord = 0x0102_1994;

/// Under which attributes an overlay keeps its notes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Marks {
    /// `trusted.overlay.*`.
    #[default]
    Trusted,
    /// `user.overlay.*`: mounted with `userxattr`.
    User,
    /// There are none: a directory that is no part of an overlay. What looks like a mark in it is somebody's own, and comes back
    /// as it was; of a whiteout (a device that opens nothing, and that everybody may make) only that it is one.
    None,
}

impl Marks {
    pub(crate) fn prefix(self) -> Option<&'static [u8]> {
        match self {
            Self::Trusted => Some(b"trusted.overlay."),
            Self::User => Some(b"user.overlay."),
            Self::None => None,
        }
    }

    /// Whether this is a note of the overlay's, or escaped: what follows the prefix.
    pub(crate) fn note(self, name: &[u8]) -> Option<&[u8]> {
        name.strip_prefix(self.prefix()?)
    }

    /// The name under which the upper directory holds an attribute of the container's.
    pub(crate) fn escape(self, name: &[u8]) -> Vec<u8> {
        match self.prefix().zip(self.note(name)) {
            Some((prefix, rest)) => [prefix, b"overlay.", rest].concat(),
            None => name.to_vec(),
        }
    }
}

/// An upper directory, opened.
#[derive(Debug)]
pub struct Upper {
    dir: OwnedFd,
    path: PathBuf,
    marks: Marks,
    instance: Instance,
    /// Writes through a mapping move no time.
    silent_mappings: bool,
}

impl Upper {
    /// Opens the upper directory of a root file system from its mount: type and options as containerd gave them. `None`:
    /// it is an overlay without one, or read-only, so nothing can have been written.
    ///
    /// # Errors
    /// [`FilesError::NotOverlay`] with a sentence for a person, or the directory cannot be opened.
    pub fn of_mount<'a>(
        kind: &str,
        options: impl IntoIterator<Item = &'a str>,
    ) -> Result<Option<Self>, FilesError> {
        let options: Vec<&str> = options.into_iter().flat_map(split_options).collect();
        if options.contains(&"ro") {
            return Ok(None);
        }
        if kind != "overlay" {
            let told = format!(
                "the container's root file system is of type {kind:?}, whose writable layer cannot be read: use the overlayfs snapshotter"
            );
            return Err(FilesError::NotOverlay(told));
        }
        let (mut upper, mut marks) = (None, Marks::Trusted);
        for option in options {
            match option.split_once('=') {
                Some(("upperdir", path)) => upper = Some(PathBuf::from(unescape(path))),
                None if option == "userxattr" => marks = Marks::User,
                _ => {}
            }
        }
        match upper {
            Some(path) if path.is_absolute() => Self::open(&path, marks).map(Some),
            Some(path) => Err(FilesError::NotOverlay(format!(
                "the overlay's upper directory {path:?} is not an absolute path"
            ))),
            None => Ok(None),
        }
    }

    /// Opens an upper directory.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: &Path, marks: Marks) -> Result<Self, FilesError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = openat(rustix::fs::CWD, path, flags, Mode::empty()).at("open the layer", path)?;
        let fields = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        let stat = statx(&dir, "", AtFlags::EMPTY_PATH, fields).at("look at the layer", path)?;
        let kind = fstatfs(&dir).at("look at the file system of", path)?.f_type;
        let instance = Instance {
            boot: boot_id()?,
            device: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
            ino: stat.stx_ino,
            born: Time { seconds: stat.stx_btime.tv_sec, nanos: stat.stx_btime.tv_nsec },
        };
        let silent_mappings = kind == TMPFS;
        Ok(Self { dir, path: path.to_owned(), marks, instance, silent_mappings })
    }

    /// What its file system holds, if that is in memory; else nothing.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub fn in_memory(&self) -> Result<Bytes, FilesError> {
        if !self.silent_mappings {
            return Ok(Bytes(0));
        }
        let room = fstatvfs(&self.dir).at("look at the file system of", &self.path)?;
        Ok(Bytes(room.f_blocks.saturating_sub(room.f_bfree).saturating_mul(room.f_frsize)))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn marks(&self) -> Marks {
        self.marks
    }

    pub(crate) fn instance(&self) -> Instance {
        self.instance
    }

    pub(crate) fn silent_mappings(&self) -> bool {
        self.silent_mappings
    }

    /// Has the file system write what is dirty: a write through a mapping moves a file's times only if the page was clean.
    pub(crate) fn sync(&self) -> Result<(), FilesError> {
        rustix::fs::syncfs(&self.dir).at("sync the file system of", &self.path)
    }
}

impl AsFd for Upper {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

/// Whether a directory's files are in memory.
///
/// # Errors
/// It cannot be looked at.
pub fn is_in_memory(path: &Path) -> Result<bool, FilesError> {
    Ok(rustix::fs::statfs(path).at("look at the file system of", path)?.f_type == TMPFS)
}

/// Opens a directory below another: no symbolic link, no mount, nothing above it can be on the way.
pub(crate) fn open_below(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    loop {
        match openat2(root, path, flags, Mode::empty(), how) {
            // Something was renamed or mounted on the node meanwhile.
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
}

fn boot_id() -> Result<[u8; 16], FilesError> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let failed = |source| FilesError::Io { attempt: "read", path: path.to_owned(), source };
    let mut text = String::new();
    File::open(path).and_then(|f| f.take(64).read_to_string(&mut text)).map_err(failed)?;
    let digits: Vec<u8> =
        text.bytes().filter_map(|b| (b as char).to_digit(16)).map(|d| d as u8).collect();
    let mut id = [0; 16];
    for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = pair[0] << 4 | pair[1];
    }
    Ok(id)
}

/// Options may come one by one or joined by commas; a comma of a path is escaped.
fn split_options(options: &str) -> Vec<&str> {
    let (mut out, mut from, mut escaped) = (Vec::new(), 0, false);
    for (at, c) in options.char_indices() {
        match c {
            ',' if !escaped => {
                out.push(&options[from..at]);
                from = at + 1;
            }
            _ => {}
        }
        escaped = c == '\\' && !escaped;
    }
    out.push(&options[from..]);
    out
}

/// Takes the overlay's backslashes out of a path.
fn unescape(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut chars = path.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.extend(chars.next()),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_upper_directory_is_found_in_the_options_of_a_mount() {
        let dir = tempfile::tempdir().unwrap();
        let upper = dir.path().join("a,b");
        std::fs::create_dir(&upper).unwrap();
        let option = format!("upperdir={}", upper.display().to_string().replace(',', "\\,"));
        let found = Upper::of_mount("overlay", ["index=off", option.as_str()]).unwrap().unwrap();
        assert_eq!((found.path(), found.marks()), (upper.as_path(), Marks::Trusted));
        let joined = format!("lowerdir=/l,{option},userxattr");
        let found = Upper::of_mount("overlay", [joined.as_str()]).unwrap().unwrap();
        assert_eq!((found.path(), found.marks()), (upper.as_path(), Marks::User));
        assert!(Upper::of_mount("overlay", ["lowerdir=/a:/b"]).unwrap().is_none());
        assert!(Upper::of_mount("bind", ["ro", "rbind"]).unwrap().is_none());
    }

    #[test]
    fn a_root_that_is_no_overlay_is_refused_with_a_sentence() {
        let error = Upper::of_mount("bind", ["rbind"]).unwrap_err();
        assert_eq!(error.code(), godwit_types::Code::Refused);
        assert!(error.to_string().contains("overlayfs snapshotter"), "{error}");
        assert!(Upper::of_mount("overlay", ["upperdir=relative"]).is_err());
    }

    #[test]
    fn two_directories_are_two_instances_and_one_is_always_the_same() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let open = |dir: &tempfile::TempDir| Upper::open(dir.path(), Marks::Trusted).unwrap();
        assert_eq!(open(&a).instance(), open(&a).instance());
        assert_ne!(open(&a).instance(), open(&b).instance());
    }

    #[test]
    fn nothing_outside_of_a_root_can_be_opened_from_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("root/in")).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("root/link")).unwrap();
        let root = Upper::open(&dir.path().join("root"), Marks::Trusted).unwrap();
        assert!(open_below(root.as_fd(), Path::new("in")).is_ok());
        for path in ["..", "../root", "/tmp", "link", "link/tmp", "in/../.."] {
            assert!(open_below(root.as_fd(), Path::new(path)).is_err(), "{path}");
        }
    }
}
