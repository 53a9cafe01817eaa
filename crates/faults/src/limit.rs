//! The memory limit of a container: prefetch must never be what makes the kernel kill one of its tasks.

use std::path::{Path, PathBuf};

/// Where usage and limit of a cgroup are read. Version 1 and 2; a cgroup without a limit has room always.
#[derive(Debug, Clone)]
pub struct MemoryLimit {
    usage: PathBuf,
    limit: PathBuf,
    stat: PathBuf,
}

/// Of the limit, this part stays free: prefetch stops at `memory.max` − 5 %.
const RESERVE: u64 = 20;

/// Counters of `memory.stat` that the kernel can take back as fast as we add: clean file pages. Version 1 has them with `total_`
/// for the whole tree.
const RECLAIMABLE: [&str; 4] =
    ["inactive_file", "active_file", "total_inactive_file", "total_active_file"];
/// File pages that must be written first.
const DIRTY: [&str; 4] = ["file_dirty", "file_writeback", "total_dirty", "total_writeback"];

impl MemoryLimit {
    /// The limit of the first of these cgroup directories that has one, of version 2 or of version 1's memory controller.
    #[must_use]
    pub fn of<P: AsRef<Path>>(cgroups: &[P]) -> Option<Self> {
        let names =
            [("memory.current", "memory.max"), ("memory.usage_in_bytes", "memory.limit_in_bytes")];
        let found = cgroups.iter().flat_map(|dir| {
            names.map(|(usage, limit)| (dir.as_ref().join(usage), dir.as_ref().join(limit), dir))
        });
        let (usage, limit, dir) = found.into_iter().find(|(usage, ..)| usage.exists())?;
        Some(Self { usage, limit, stat: dir.as_ref().join("memory.stat") })
    }

    /// Bytes that may still be added. `None`: there is no limit, or it cannot be read (the cgroup is gone: so are its tasks).
    #[must_use]
    pub fn room(&self) -> Option<u64> {
        let limit = number(&self.limit)?;
        let usage = number(&self.usage)?;
        let held = usage.saturating_sub(self.reclaimable());
        Some((limit - limit / RESERVE).saturating_sub(held))
    }

    fn reclaimable(&self) -> u64 {
        let stat = std::fs::read_to_string(&self.stat).unwrap_or_default();
        let sum = |names: &[&str]| -> u64 {
            let values = stat.lines().filter_map(|l| l.split_once(' '));
            values
                .filter(|(k, _)| names.contains(k))
                .filter_map(|(_, v)| v.parse::<u64>().ok())
                .sum()
        };
        // Version 1 shows each counter twice, without and with the children: only `total_` is to be counted.
        let names = if stat.contains("\ntotal_") { 2..4 } else { 0..2 };
        sum(&RECLAIMABLE[names.clone()]).saturating_sub(sum(&DIRTY[names]))
    }
}

/// The number in a file; `None` for `max` and for version 1's way to say so.
fn number(path: &Path) -> Option<u64> {
    let value = std::fs::read_to_string(path).ok()?.trim().parse().ok()?;
    (value < 1 << 62).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cgroup(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    #[test]
    fn a_twentieth_of_the_limit_stays_free_and_clean_file_pages_do_not_count() {
        let stat = "anon 5\ninactive_file 300\nactive_file 100\nfile_dirty 50\nfile_writeback 0\n";
        let files = [("memory.current", "1000\n"), ("memory.max", "2000\n"), ("memory.stat", stat)];
        let dir = cgroup(&files);
        let limit = MemoryLimit::of(&[Path::new("/nonexistent"), dir.path()]).unwrap();
        assert_eq!(limit.room(), Some(1900 - (1000 - 350)));
        std::fs::write(dir.path().join("memory.current"), "5000").unwrap();
        assert_eq!(limit.room(), Some(0));
    }

    #[test]
    fn version_1_counts_the_whole_tree_and_its_highest_number_is_no_limit() {
        let stat = "inactive_file 1\nactive_file 1\ntotal_inactive_file 20\ntotal_active_file 0\n";
        let files = [
            ("memory.usage_in_bytes", "100"),
            ("memory.limit_in_bytes", "200"),
            ("memory.stat", stat),
        ];
        let dir = cgroup(&files);
        let limit = MemoryLimit::of(&[dir.path()]).unwrap();
        assert_eq!(limit.room(), Some(190 - 80));
        std::fs::write(dir.path().join("memory.limit_in_bytes"), "9223372036854771712").unwrap();
        assert_eq!(limit.room(), None);
    }

    #[test]
    fn no_limit_is_no_limit() {
        let dir = cgroup(&[("memory.current", "1"), ("memory.max", "max\n")]);
        assert_eq!(MemoryLimit::of(&[dir.path()]).unwrap().room(), None);
        assert!(MemoryLimit::of(&[Path::new("/nonexistent")]).is_none());
    }
}
