//! fstab-like options: flags, propagation, and what is left for the file system.

use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, MountPropagationFlags};

use super::idmap::IdMaps;
use super::{BIND, REMOUNT};
use crate::error::Result;

/// `MS_REC` (linux/mount.h).
pub const RECURSIVE: MountFlags = MountFlags::from_bits_retain(16384);

/// Options, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// For mount(2).
    pub flags: MountFlags,
    /// For a second mount(2).
    pub propagation: MountPropagationFlags,
    /// For the file system.
    pub data: String,
    /// Something that only mount(8) does (a loop device).
    pub needs_helper: bool,
    /// Ids that are seen as others.
    pub ids: Option<IdMaps>,
}

enum Meaning {
    Set(MountFlags),
    Clear(MountFlags),
    Propagate(MountPropagationFlags),
    Nothing,
    Helper,
    Data,
}

/// Takes options apart.
///
/// # Errors
/// Ids are mapped in a way that makes no sense.
pub fn parse(options: &[String]) -> Result<Parsed> {
    let mut parsed = Parsed {
        flags: MountFlags::empty(),
        propagation: MountPropagationFlags::empty(),
        data: String::new(),
        needs_helper: false,
        ids: None,
    };
    let (mut uid, mut gid, mut data) = (None, None, Vec::new());
    for option in options {
        match meaning(option) {
            Meaning::Set(flags) => parsed.flags |= flags,
            Meaning::Clear(flags) => parsed.flags -= flags,
            Meaning::Propagate(kind) => parsed.propagation |= kind,
            Meaning::Nothing => {}
            Meaning::Helper => parsed.needs_helper = true,
            Meaning::Data => match option.split_once('=') {
                Some(("uidmap", map)) => uid = Some(map),
                Some(("gidmap", map)) => gid = Some(map),
                _ => data.push(option.as_str()),
            },
        }
    }
    parsed.ids = IdMaps::parse(uid, gid)?;
    parsed.data = data.join(",");
    Ok(parsed)
}

fn meaning(option: &str) -> Meaning {
    use Meaning::{Clear, Data, Helper, Nothing, Propagate, Set};
    use MountPropagationFlags as P;
    match option {
        "ro" => Set(MountFlags::RDONLY),
        "rw" => Clear(MountFlags::RDONLY),
        "bind" => Set(BIND),
        "rbind" => Set(BIND | RECURSIVE),
        "remount" => Set(REMOUNT),
        "nosuid" => Set(MountFlags::NOSUID),
        "suid" => Clear(MountFlags::NOSUID),
        "nodev" => Set(MountFlags::NODEV),
        "dev" => Clear(MountFlags::NODEV),
        "noexec" => Set(MountFlags::NOEXEC),
        "exec" => Clear(MountFlags::NOEXEC),
        "sync" => Set(MountFlags::SYNCHRONOUS),
        "async" => Clear(MountFlags::SYNCHRONOUS),
        "dirsync" => Set(MountFlags::DIRSYNC),
        "noatime" => Set(MountFlags::NOATIME),
        "atime" => Clear(MountFlags::NOATIME),
        "nodiratime" => Set(MountFlags::NODIRATIME),
        "diratime" => Clear(MountFlags::NODIRATIME),
        "relatime" => Set(MountFlags::RELATIME),
        "norelatime" => Clear(MountFlags::RELATIME),
        "strictatime" => Set(MountFlags::STRICTATIME),
        "nostrictatime" => Clear(MountFlags::STRICTATIME),
        "defaults" => Nothing,
        "loop" => Helper,
        "private" => Propagate(P::PRIVATE),
        "rprivate" => Propagate(P::PRIVATE | P::REC),
        "shared" => Propagate(P::SHARED),
        "rshared" => Propagate(P::SHARED | P::REC),
        "slave" => Propagate(P::DOWNSTREAM),
        "rslave" => Propagate(P::DOWNSTREAM | P::REC),
        "unbindable" => Propagate(P::UNBINDABLE),
        "runbindable" => Propagate(P::UNBINDABLE | P::REC),
        _ => Data,
    }
}

/// Makes the lower directories of an overlay relative to the directory that they have in common, and returns it: an
/// image of many layers needs more than a page otherwise. `None` if nothing can be gained.
pub fn shorten_lowerdirs(data: &mut String) -> Option<PathBuf> {
    let options: Vec<&str> = data.split(',').collect();
    let dirs = options.iter().find_map(|option| option.strip_prefix("lowerdir="))?;
    let dirs: Vec<&str> = dirs.split(':').collect();
    let base = common_directory(&dirs).filter(|base| base != Path::new("/"))?;
    let short: Option<Vec<&str>> =
        dirs.iter().map(|dir| Path::new(dir).strip_prefix(&base).ok()?.to_str()).collect();
    let lowerdir = format!("lowerdir={}", short?.join(":"));
    let shortened: Vec<&str> = options
        .iter()
        .map(|option| if option.starts_with("lowerdir=") { lowerdir.as_str() } else { option })
        .collect();
    *data = shortened.join(",");
    Some(base)
}

/// The longest directory that is a true ancestor of all.
fn common_directory(paths: &[&str]) -> Option<PathBuf> {
    let (first, rest) = paths.split_first()?;
    let mut base = Path::new(first).parent()?;
    while !rest.iter().all(|path| Path::new(path).parent().is_some_and(|dir| dir.starts_with(base)))
    {
        base = base.parent()?;
    }
    base.is_absolute().then(|| base.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(options: &[&str]) -> Vec<String> {
        options.iter().map(|option| (*option).to_owned()).collect()
    }

    #[test]
    fn flags_propagation_and_data_are_told_apart() {
        let parsed =
            parse(&strings(&["rbind", "ro", "rw", "ro", "rslave", "index=off", "size=1m"]));
        let parsed = parsed.unwrap();
        assert_eq!(parsed.flags, BIND | RECURSIVE | MountFlags::RDONLY);
        let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
        assert_eq!(parsed.propagation, slave);
        assert_eq!(parsed.data, "index=off,size=1m");
        assert!(parse(&strings(&["loop"])).unwrap().needs_helper);
        assert!(parse(&strings(&["uidmap=0:1000:1"])).is_err());
        let mapped = parse(&strings(&["uidmap=0:1000:1", "index=off", "gidmap=0:1000:1"])).unwrap();
        assert_eq!((mapped.data.as_str(), mapped.ids.is_some()), ("index=off", true));
    }

    #[test]
    fn lower_directories_are_shortened_by_what_they_have_in_common() {
        let mut data = "index=off,lowerdir=/s/1/fs:/s/22/fs,upperdir=/s/3/fs".to_owned();
        assert_eq!(shorten_lowerdirs(&mut data), Some(PathBuf::from("/s")));
        assert_eq!(data, "index=off,lowerdir=1/fs:22/fs,upperdir=/s/3/fs");
        let mut nothing = "lowerdir=/a/fs:/b/fs".to_owned();
        assert_eq!(shorten_lowerdirs(&mut nothing), None);
    }
}
