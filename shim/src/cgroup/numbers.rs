//! Reading the kernel's small text files of numbers. What is not there counts as nothing: controllers come and go.

use std::collections::HashMap;
use std::path::Path;

/// A file with one number; `max` is the largest one.
pub(super) fn number(file: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    match text.trim() {
        "max" => Some(u64::MAX),
        text => text.parse().ok(),
    }
}

/// A file of lines `name number`.
pub(super) fn table(file: &Path) -> HashMap<String, u64> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    pairs.filter_map(|(name, value)| Some((name.to_owned(), value.trim().parse().ok()?))).collect()
}

/// `major:minor`.
pub(super) fn device(text: &str) -> Option<(u64, u64)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// The sizes of huge pages that a cgroup directory has files for, like `2MB`.
pub(super) fn huge_page_sizes(dir: &Path, suffix: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let size = |name: String| {
        let size = name.strip_prefix("hugetlb.")?.strip_suffix(suffix)?;
        (!size.contains('.')).then(|| size.to_owned())
    };
    let mut sizes: Vec<String> = names.filter_map(size).collect();
    sizes.sort();
    sizes
}

/// Lines `device key=number …` of `rdma.current` and `rdma.max`: device, handles, objects.
pub(super) fn rdma(file: &Path) -> Vec<(String, u32, u32)> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().filter_map(rdma_line).collect()
}

fn rdma_line(line: &str) -> Option<(String, u32, u32)> {
    let (device, rest) = line.split_once(' ')?;
    let value = |key: &str| {
        let text = rest.split(' ').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
        text.map(|text| text.parse().unwrap_or(u32::MAX))
    };
    Some((device.to_owned(), value("hca_handle")?, value("hca_object")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_files_count_as_nothing_and_max_as_the_largest_number() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("memory.max");
        assert_eq!(number(&file), None);
        std::fs::write(&file, "max\n").unwrap();
        assert_eq!(number(&file), Some(u64::MAX));
        assert!(table(&dir.path().join("x")).is_empty());
    }

    #[test]
    fn unlimited_rdma_objects_are_the_largest_number() {
        let line = "mlx4_0 hca_handle=2 hca_object=max";
        assert_eq!(rdma_line(line), Some(("mlx4_0".into(), 2, u32::MAX)));
        assert_eq!(device("8:16"), Some((8, 16)));
    }
}
