//! What an installer takes: the programs of a release in one directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

/// All that has to be there.
pub const PROGRAMS: [&str; 7] = [
    "containerd-shim-godwit-v2",
    "godwit-agent",
    "godwit-cri-proxy",
    "godwit",
    "godwit-install",
    "godwit-pager",
    "godwit-relay",
];

/// A release on the host; a copy is gone when dropped.
#[derive(Debug)]
pub struct Release {
    /// Its directory.
    pub dir: PathBuf,
    is_copy: bool,
}

impl Release {
    /// The programs in a directory.
    #[must_use]
    pub fn whole(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), is_copy: false }
    }

    /// The same programs, one of which has a section more, which nobody reads.
    ///
    /// # Errors
    /// They cannot be read, or there is no room for a copy.
    pub fn other_than(dir: &Path) -> Result<Self> {
        let name = format!("godwit-release-{}", std::process::id());
        let other = Self { dir: std::env::temp_dir().join(name), is_copy: true };
        fs::create_dir_all(&other.dir)?;
        for name in PROGRAMS {
            fs::copy(dir.join(name), other.dir.join(name))?;
        }
        let relay = other.dir.join("godwit-relay");
        let mark = other.dir.join("mark");
        fs::write(&mark, "another release")?;
        let section = format!(".godwit.other={}", mark.display());
        let added =
            Command::new("objcopy").args(["--add-section", &section]).arg(&relay).status()?;
        ensure!(added.success(), "objcopy: {added}");
        fs::remove_file(mark)?;
        Ok(other)
    }
}

impl Drop for Release {
    fn drop(&mut self) {
        if self.is_copy {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}
