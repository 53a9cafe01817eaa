//! Files that processes can write without a call: shared, writable mappings. Their times may stand still while they change,
//! so they are read whenever it matters.

use std::collections::BTreeSet;
use std::path::PathBuf;

use rustix::fs::{AtFlags, CWD, Statx, StatxFlags, StatxTimestamp, statx};
use rustix::io::Errno;

use crate::FilesError;

/// Files that have a writable shared mapping.
///
/// Known by what can be seen of a file wherever it is looked at, not by path or number: a mapped file may have lost the name
/// by which it was opened and live on under another, or be mapped through a mount or below another root; and the numbers
/// that `/proc` shows are those of the overlay or of its upper directory, by the kernel's version. An overlay gives these
/// attributes as the upper directory does. Another file that agrees in all of them costs one read too many, no more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MappedFiles(BTreeSet<Look>);

/// What an overlay and its upper directory say alike of a file, to the nanosecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Look {
    mode: u16,
    size: u64,
    modified: (i64, u32),
    changed: (i64, u32),
}

impl Look {
    fn of(stat: &Statx) -> Self {
        let time = |stamp: StatxTimestamp| (stamp.tv_sec, stamp.tv_nsec);
        let (modified, changed) = (time(stat.stx_mtime), time(stat.stx_ctime));
        Self { mode: stat.stx_mode, size: stat.stx_size, modified, changed }
    }
}

impl MappedFiles {
    /// Looks at all mappings of these processes, which are frozen. One that has ended maps nothing.
    ///
    /// # Errors
    /// A process's mappings cannot be looked at.
    pub fn of(pids: impl IntoIterator<Item = i32>) -> Result<Self, FilesError> {
        let (mut out, mut seen) = (Self::default(), BTreeSet::new());
        for pid in pids {
            let path = PathBuf::from(format!("/proc/{pid}/maps"));
            let maps = match std::fs::read(&path) {
                Ok(maps) => maps,
                Err(e) if matches!(e.raw_os_error(), Some(2 | 3)) => continue,
                Err(source) => return Err(FilesError::Io { attempt: "read", path, source }),
            };
            for mapping in maps.split(|b| *b == b'\n').filter_map(Mapping::writable_shared) {
                // Processes of a kind share their files.
                if seen.insert(mapping.file.to_vec()) {
                    out.0.extend(look(pid, &mapping)?);
                }
            }
        }
        Ok(out)
    }

    /// Whether this may be one of them.
    pub(crate) fn contains(&self, stat: &Statx) -> bool {
        self.0.contains(&Look::of(stat))
    }
}

/// A mapping of a file, in the words of `/proc/PID/maps`.
struct Mapping<'a> {
    start: u64,
    end: u64,
    /// Device, inode and path.
    file: &'a [u8],
}

impl<'a> Mapping<'a> {
    /// What a line says, if it is about a writable shared mapping of a file.
    fn writable_shared(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.splitn(4, |b| *b == b' ');
        let (range, permissions) = (fields.next()?, fields.next()?);
        let (_offset, file) = (fields.next()?, fields.next()?);
        let path = file.splitn(3, |b| *b == b' ').nth(2)?.trim_ascii_start();
        let shared = permissions.get(1) == Some(&b'w') && permissions.get(3) == Some(&b's');
        let (start, end) = std::str::from_utf8(range).ok()?.split_once('-')?;
        let number = |hex| u64::from_str_radix(hex, 16).ok();
        let (start, end) = (number(start)?, number(end)?);
        (shared && path.starts_with(b"/")).then_some(Self { start, end, file })
    }
}

/// The file of a mapping, also one without a name; `None` if the process has ended.
fn look(pid: i32, mapping: &Mapping<'_>) -> Result<Option<Look>, FilesError> {
    let path =
        PathBuf::from(format!("/proc/{pid}/map_files/{:x}-{:x}", mapping.start, mapping.end));
    // A volume's server is not asked.
    match statx(CWD, &path, AtFlags::STATX_DONT_SYNC, StatxFlags::BASIC_STATS) {
        Ok(stat) => Ok(Some(Look::of(&stat))),
        Err(Errno::NOENT | Errno::SRCH) => Ok(None),
        Err(e) => Err(FilesError::io("look at", &path, e)),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;
    use std::path::Path;

    use rustix::mount::{MountFlags, mount, mount_bind};

    use super::*;
    use crate::fixture::sys::{Mapping as Mapped, with_own_mounts};

    #[test]
    fn only_writable_shared_mappings_of_files_count() {
        let line = |text: &'static str| Mapping::writable_shared(text.as_bytes());
        let shared =
            "00400000-7f1 rw-s 00000000 00:2a 77                       /data/lock file.mdb";
        let found = line(shared).unwrap();
        assert_eq!((found.start, found.end), (0x40_0000, 0x7f1));
        assert!(found.file.starts_with(b"00:2a 77 ") && found.file.ends_with(b"lock file.mdb"));
        assert!(line("7f0-7f1 rw-s 0 00:2a 7    /gone (deleted)").is_some());
        for other in [
            "7f0-7f1 rw-p 00000000 00:2a 77    /lib/libc.so",
            "7f0-7f1 r--s 00000000 00:2a 77    /data/read",
            "7f0-7f1 rw-s 00000000 00:05 77    anon_inode:[perf]",
            "7f0-7f1 rw-p 00000000 00:00 0 ",
            "",
        ] {
            assert!(line(other).is_none(), "{other}");
        }
    }

    fn stat(path: &Path) -> Statx {
        statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS).unwrap()
    }

    #[test]
    fn files_mapped_through_an_overlay_are_known_in_its_upper_directory() {
        with_own_mounts(|| {
            let dir = tempfile::tempdir().unwrap();
            let at = |name: &str| dir.path().join(name);
            mount("tmpfs", dir.path(), "tmpfs", MountFlags::empty(), c"size=1m").unwrap();
            for name in ["lower", "upper", "work", "merged", "elsewhere"] {
                std::fs::create_dir(at(name)).unwrap();
            }
            std::fs::write(at("lower/image"), [1; 4096]).unwrap();
            let (lower, upper, work) = (at("lower"), at("upper"), at("work"));
            let options = format!(
                "lowerdir={},upperdir={},workdir={}",
                lower.display(),
                upper.display(),
                work.display()
            );
            let options = CString::new(options).unwrap();
            mount("overlay", at("merged"), "overlay", MountFlags::empty(), options.as_c_str())
                .unwrap();
            mount_bind(at("merged"), at("elsewhere")).unwrap();
            std::fs::write(at("merged/new"), [2; 4096]).unwrap();
            std::fs::write(at("merged/bound"), [3; 4096]).unwrap();
            std::fs::write(at("merged/other"), [4; 4096 * 2]).unwrap();
            // Of the image, copied up; and one that lives on under its other name alone.
            let mappings =
                ["merged/image", "merged/new", "elsewhere/bound"].map(|name| Mapped::of(&at(name)));
            std::fs::hard_link(at("merged/new"), at("merged/second")).unwrap();
            std::fs::remove_file(at("merged/new")).unwrap();
            mappings.iter().for_each(|mapping| mapping.write(5));
            let mapped = MappedFiles::of([std::process::id() as i32]).unwrap();
            for (name, expected) in
                [("image", true), ("second", true), ("bound", true), ("other", false)]
            {
                assert_eq!(mapped.contains(&stat(&upper.join(name))), expected, "{name}");
            }
        });
    }
}
