//! Extended attributes of a file of a tmpfs.

use std::ffi::{CStr, OsStr};
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use godwit_criu_rpc::relay_plan::{Xattr, is_kept};
use rustix::fs::{lgetxattr, llistxattr, llistxattr_query};
use rustix::io::{Errno, Result};

/// Longest value, and longest list of names: `XATTR_SIZE_MAX`, `XATTR_LIST_MAX`.
const MAX: usize = 64 << 10;

/// Those of `name` in `dir` that belong to the file; a link is not followed.
pub(super) fn kept(dir: BorrowedFd<'_>, name: &CStr) -> Result<Vec<Xattr>> {
    // There are no calls that take a directory and a name before Linux 6.13.
    let mut path = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
    path.push(OsStr::from_bytes(name.to_bytes()));
    let mut out = Vec::new();
    for name in names(&path)? {
        if let Some(value) = value(&path, &name)? {
            out.push(Xattr { name, value });
        }
    }
    Ok(out)
}

fn names(path: &Path) -> Result<Vec<String>> {
    match llistxattr_query(path) {
        // A kernel without attributes on tmpfs.
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Ok(_) => {}
        Err(e) => return Err(e),
    }
    let mut list = vec![0; MAX];
    let got = llistxattr(path, &mut list)?;
    let names = list[..got].split(|b| *b == 0).filter_map(|name| std::str::from_utf8(name).ok());
    Ok(names.filter(|name| is_kept(name)).map(str::to_owned).collect())
}

fn value(path: &Path, name: &str) -> Result<Option<Vec<u8>>> {
    let mut value = vec![0; MAX];
    match lgetxattr(path, name, &mut value) {
        Ok(got) => {
            value.truncate(got);
            value.shrink_to_fit();
            Ok(Some(value))
        }
        Err(Errno::NODATA) => Ok(None),
        Err(e) => Err(e),
    }
}
