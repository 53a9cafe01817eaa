//! The fence on disk: one file per pod key that outlives bundles, sandboxes, shims and reboots.
//!
//! Owns the file and its durability. What stands in it and when it changes is decided by `godwit_ownership::ShimMachine`.
//!
//! Invariant: [`FenceFile::write`] and [`FenceFile::remove`] return only when a power cut cannot undo them. A fence that cannot be
//! read is never "no fence".

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use godwit_ownership::Fence;
use godwit_ownership::fence::MAX_FENCE;
use godwit_types::{PodKey, names};

use crate::error::{Error, Result};

/// Where a pod's fence is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FenceFile {
    dir: PathBuf,
    name: String,
}

impl FenceFile {
    /// The fence of a pod, in the node's directory of fences.
    #[must_use]
    pub fn of(key: &PodKey) -> Self {
        Self::within(Path::new(names::FENCES), key)
    }

    /// The fence of a pod, in another directory (tests).
    #[must_use]
    pub fn within(dir: &Path, key: &PodKey) -> Self {
        Self { dir: dir.to_owned(), name: key.as_str().to_owned() }
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.dir.join(&self.name)
    }

    /// What it says; `None`: the pod has no lineage.
    ///
    /// # Errors
    /// It is there and cannot be read or understood: the pod must not start.
    pub fn read(&self) -> Result<Option<Fence>> {
        let path = self.path();
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(why) => return Err(Error::io(format!("open the fence {}", path.display()))(why)),
        };
        let mut bytes = Vec::new();
        let limit = u64::try_from(MAX_FENCE).unwrap_or(u64::MAX).saturating_add(1);
        let attempt = || format!("read the fence {}", path.display());
        file.take(limit).read_to_end(&mut bytes).map_err(Error::io(attempt()))?;
        let fence = Fence::decode(&bytes).map_err(|why| {
            Error::Precondition(format!(
                "{}: {why}; nothing of this pod starts before the file is mended or, if you know that the pod runs nowhere \
                 else, removed",
                attempt()
            ))
        })?;
        Ok(Some(fence))
    }

    /// Puts this fence in place of the former one. Durable when it returns; on an error the former one still stands, whole.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn write(&self, fence: &Fence) -> Result<()> {
        let attempt = || format!("write the fence {}", self.path().display());
        let bytes =
            fence.encode().map_err(|why| Error::Invalid(format!("{}: {why}", attempt())))?;
        self.replace(&bytes).map_err(Error::io(attempt()))
    }

    /// Takes it away. Durable when it returns. One that is not there is fine.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn remove(&self) -> Result<()> {
        let attempt = || format!("remove the fence {}", self.path().display());
        match fs::remove_file(self.path()) {
            Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(why) => Err(Error::io(attempt())(why)),
            Ok(()) => self.sync_dir().map_err(Error::io(attempt())),
        }
    }

    fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        // A key never begins with a dot, so this is nobody's fence; one shim writes it at a time.
        let temporary = self.dir.join(format!(".{}", self.name));
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, self.path())?;
        self.sync_dir()
    }

    fn sync_dir(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use godwit_ownership::FenceState;
    use godwit_ownership::fence::LineageRef;
    use godwit_types::{Incarnation, LineageName, Seq, Tenant};

    use super::*;

    fn fence(state: FenceState) -> Fence {
        let at = LineageRef {
            store: "default".into(),
            tenant: Tenant::node(),
            lineage: LineageName::new("uid/x").unwrap(),
        };
        Fence {
            at,
            incarnation: Incarnation::mint(),
            state,
            op: None,
            lived: false,
            consumed: None,
            slot: Some(Seq(3)),
            seen: None,
            gone: None,
        }
    }

    fn file(dir: &tempfile::TempDir) -> FenceFile {
        FenceFile::within(&dir.path().join("fences"), &PodKey::new("default+web").unwrap())
    }

    #[test]
    fn a_fence_reads_back_is_replaced_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let file = file(&dir);
        assert_eq!(file.read().unwrap(), None);
        for state in [FenceState::Owned, FenceState::Armed, FenceState::Moved] {
            let fence = fence(state);
            file.write(&fence).unwrap();
            assert_eq!(file.read().unwrap(), Some(fence));
        }
        assert_eq!(fs::read_dir(dir.path().join("fences")).unwrap().count(), 1);
        file.remove().unwrap();
        file.remove().unwrap();
        assert_eq!(file.read().unwrap(), None);
    }

    #[test]
    fn a_fence_that_cannot_be_read_is_not_no_fence() {
        let dir = tempfile::tempdir().unwrap();
        let file = file(&dir);
        file.write(&fence(FenceState::Owned)).unwrap();
        for bytes in [&b""[..], b"{}", b"{\"format\":\"godwit.fence/9\"}", &[b'x'; MAX_FENCE + 9]] {
            fs::write(file.path(), bytes).unwrap();
            assert!(file.read().is_err());
        }
    }

    #[test]
    fn a_write_that_was_cut_short_leaves_the_former_fence() {
        let dir = tempfile::tempdir().unwrap();
        let file = file(&dir);
        let owned = fence(FenceState::Owned);
        file.write(&owned).unwrap();
        fs::write(dir.path().join("fences").join(".default+web"), b"{\"form").unwrap();
        assert_eq!(file.read().unwrap(), Some(owned));
        file.write(&fence(FenceState::Armed)).unwrap();
        assert_eq!(file.read().unwrap().unwrap().state, FenceState::Armed);
    }
}
