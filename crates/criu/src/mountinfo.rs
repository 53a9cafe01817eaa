//! `/proc/<pid>/mountinfo`: reading only.

use std::ffi::OsString;
use std::io::Read as _;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use crate::Error;

/// Most of a mount table that is read.
const MAX_TABLE: u64 = 8 << 20;

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Its id in its namespace.
    pub id: u32,
    /// Id of the mount that it is on.
    pub parent: u32,
    /// Device of the file system.
    pub device: (u32, u32),
    /// What of the file system it shows.
    pub root: PathBuf,
    /// Where, seen from the process's root.
    pub mountpoint: PathBuf,
    /// Options of this mount.
    pub options: Vec<String>,
    /// Type of the file system.
    pub fs: String,
    /// Options of the file system.
    pub super_options: Vec<String>,
}

impl Mount {
    /// Whether nothing can be written through it.
    #[must_use]
    pub fn read_only(&self) -> bool {
        self.options.iter().chain(&self.super_options).any(|o| o == "ro")
    }
}

/// The mount table that a process sees.
///
/// # Errors
/// When it cannot be read, or a line is not understood.
pub fn of_process(pid: u32) -> Result<Vec<Mount>, Error> {
    let path = PathBuf::from(format!("/proc/{pid}/mountinfo"));
    let mut bytes = Vec::new();
    std::fs::File::open(&path)
        .and_then(|f| f.take(MAX_TABLE).read_to_end(&mut bytes))
        .map_err(Error::reading(&path))?;
    parse(&bytes)
}

/// Reads a mount table.
///
/// # Errors
/// When a line is not understood.
pub fn parse(table: &[u8]) -> Result<Vec<Mount>, Error> {
    table
        .split(|b| *b == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| {
            parse_line(line).ok_or_else(|| {
                Error::image("mount table", format!("line {}", String::from_utf8_lossy(line)))
            })
        })
        .collect()
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut words = line.split(|b| *b == b' ');
    let id = number(words.next()?)?;
    let parent = number(words.next()?)?;
    let (major, minor) = text(words.next()?)?.split_once(':')?;
    let device = (major.parse().ok()?, minor.parse().ok()?);
    let root = path(words.next()?);
    let mountpoint = path(words.next()?);
    let options = list(words.next()?)?;
    let mut rest = words.skip_while(|w| *w != b"-").skip(1);
    let fs = text(rest.next()?)?.to_owned();
    let _source = rest.next()?;
    let super_options = list(rest.next()?)?;
    Some(Mount { id, parent, device, root, mountpoint, options, fs, super_options })
}

fn text(word: &[u8]) -> Option<&str> {
    std::str::from_utf8(word).ok()
}

fn number(word: &[u8]) -> Option<u32> {
    text(word)?.parse().ok()
}

fn list(word: &[u8]) -> Option<Vec<String>> {
    let options = String::from_utf8(unescape(word)).ok()?;
    Some(options.split(',').map(str::to_owned).collect())
}

fn path(word: &[u8]) -> PathBuf {
    Path::new(&OsString::from_vec(unescape(word))).to_owned()
}

/// The kernel writes blank, tab, newline and backslash as `\ooo`.
fn unescape(word: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((first, tail)) = rest.split_first() {
        let octal = (*first == b'\\')
            .then(|| tail.get(..3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        out.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { tail.get(3..).unwrap_or_default() } else { tail };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_with_escapes_and_optional_fields() {
        let table = b"36 35 98:0 /a\\040b /mnt\\134x rw,noatime shared:1 master:2 - tmpfs none ro,size=1k\n\
                      37 36 0:5 / / rw - overlay overlay rw,lowerdir=/x\\054y\n";
        let mounts = parse(table).unwrap();
        assert_eq!((mounts[0].id, mounts[0].parent, mounts[0].device), (36, 35, (98, 0)));
        assert_eq!(mounts[0].root, Path::new("/a b"));
        assert_eq!(mounts[0].mountpoint, Path::new("/mnt\\x"));
        assert!(mounts[0].read_only() && !mounts[1].read_only());
        assert_eq!(mounts[1].fs, "overlay");
        assert!(parse(b"36 35 nonsense\n").is_err());
    }

    #[test]
    fn our_own_table_is_understood() {
        let mounts = of_process(std::process::id()).unwrap();
        assert!(mounts.iter().any(|m| m.mountpoint == Path::new("/")));
    }
}
