//! Which memory a process has: what to pre-read, and how much a dump will send.
//!
//! Only present (or swapped) pages count: reading a page that was never touched would give the process a page table for
//! it, and address space is often a thousand times the memory.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};

use godwit_types::{Bytes, PAGE_SIZE, PageNumber, PageRange};

use crate::ranges::normalized;
use crate::sys::{Region, scan_present};
use crate::{CaptureError, Stop};

/// What a process has in memory at one moment; it goes on changing while it runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resident {
    /// Present pages of readable, private, anonymous memory: what can be pre-read. Sorted, disjoint.
    pub readable: Vec<PageRange>,
    /// All present private pages that are not those of a file: what CRIU will send for the process.
    pub private: Bytes,
    /// Its shared memory (shmem, memfd, SysV) by inode: allocated bytes. The same segment has the same inode in every
    /// process, so that it can be counted once.
    pub shared: BTreeMap<u64, Bytes>,
}

/// One line of `/proc/PID/maps`.
#[derive(Debug, PartialEq, Eq)]
struct Area {
    start: u64,
    end: u64,
    readable: bool,
    executable: bool,
    shared: bool,
    inode: u64,
    name: String,
}

/// Looks at a process.
///
/// # Errors
/// It is gone, or may not be looked at.
pub fn resident(pid: i32, stop: &Stop) -> Result<Resident, CaptureError> {
    let failed = |source| CaptureError::Process { attempt: "read the memory map", pid, source };
    let areas = areas(pid)?;
    let pagemap = File::open(format!("/proc/{pid}/pagemap")).map_err(failed)?;
    let mut out = Resident::default();
    for area in areas {
        stop.check()?;
        if area.is_kernel() {
            continue;
        }
        if area.shared {
            out.count_shared(pid, &area);
            continue;
        }
        let present = present(&pagemap, area.start, area.end).map_err(failed)?;
        out.private.0 += present.iter().map(|r| r.bytes().0).sum::<u64>();
        if area.readable && area.inode == 0 {
            out.readable.extend(present);
        }
    }
    out.readable = normalized(out.readable);
    Ok(out)
}

/// The first page of each of its executable mappings.
///
/// # Errors
/// It is gone, or may not be looked at.
pub fn executable(pid: i32) -> Result<Vec<PageNumber>, CaptureError> {
    let executable = areas(pid)?.into_iter().filter(|area| area.executable);
    Ok(executable.map(|area| PageNumber::of_address(area.start)).collect())
}

fn areas(pid: i32) -> Result<Vec<Area>, CaptureError> {
    let failed = |source| CaptureError::Process { attempt: "read the memory map", pid, source };
    // Names of mapped files are bytes.
    let maps = fs::read(format!("/proc/{pid}/maps")).map_err(failed)?;
    Ok(String::from_utf8_lossy(&maps).lines().filter_map(parse).collect())
}

impl Resident {
    /// Shared memory is a file without a place: the kernel shows it under `map_files`. What cannot be seen there counts
    /// with its whole length.
    fn count_shared(&mut self, pid: i32, area: &Area) {
        let has_pages = area.name.starts_with("/dev/zero")
            || area.name.starts_with("/memfd:")
            || area.name.starts_with("/SYSV");
        if !has_pages {
            return;
        }
        let path = format!("/proc/{pid}/map_files/{:x}-{:x}", area.start, area.end);
        // The unit of st_blocks is 512 bytes, whatever the file system.
        let allocated =
            fs::metadata(path).map(|m| m.blocks() * 512).unwrap_or(area.end - area.start);
        let known = self.shared.entry(area.inode).or_default();
        known.0 = known.0.max(allocated);
    }

    /// All shared memory together.
    #[must_use]
    pub fn shared_bytes(&self) -> Bytes {
        Bytes(self.shared.values().map(|b| b.0).sum())
    }
}

impl Area {
    /// Pages that belong to the kernel: they are not dumped as memory.
    fn is_kernel(&self) -> bool {
        ["[vvar]", "[vvar_vclock]", "[vsyscall]"].contains(&self.name.as_str())
    }
}

fn parse(line: &str) -> Option<Area> {
    let mut rest = line;
    let mut field = || {
        let (word, after) = rest.split_once(' ').unwrap_or((rest, ""));
        rest = after.trim_start();
        word
    };
    let (start, end) = field().split_once('-')?;
    let permissions = field().as_bytes();
    let (_offset, _device, inode) = (field(), field(), field());
    Some(Area {
        start: u64::from_str_radix(start, 16).ok()?,
        end: u64::from_str_radix(end, 16).ok()?,
        readable: permissions.first() == Some(&b'r'),
        executable: permissions.get(2) == Some(&b'x'),
        shared: permissions.get(3) == Some(&b's'),
        inode: inode.parse().ok()?,
        name: rest.to_owned(),
    })
}

/// Present pages between two addresses that are not a file's.
fn present(pagemap: &File, start: u64, end: u64) -> io::Result<Vec<PageRange>> {
    match scanned(pagemap, start, end) {
        // Before Linux 6.7.
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOTTY | libc::EINVAL)) => {
            walked(pagemap, start, end)
        }
        result => result,
    }
}

fn scanned(pagemap: &File, start: u64, end: u64) -> io::Result<Vec<PageRange>> {
    let mut regions = [Region::default(); 512];
    let mut out = Vec::new();
    let mut at = start;
    while at < end {
        let (n, next) = scan_present(pagemap.as_fd(), (at, end), true, &mut regions)?;
        out.extend(regions[..n].iter().map(|r| range(r.start, r.end)));
        if next <= at {
            break;
        }
        at = next;
    }
    Ok(out)
}

const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const FILE_OR_SHARED: u64 = 1 << 61;

/// The same by reading 8 bytes for each page of address space.
fn walked(pagemap: &File, start: u64, end: u64) -> io::Result<Vec<PageRange>> {
    let mut buffer = vec![0u8; 64 << 10];
    let mut out = Vec::new();
    let mut page = start / PAGE_SIZE;
    let last = end / PAGE_SIZE;
    while page < last {
        let want = ((last - page) as usize * 8).min(buffer.len());
        let n = pagemap.read_at(&mut buffer[..want], page * 8)? / 8;
        if n == 0 {
            break;
        }
        for entry in buffer[..n * 8].as_chunks::<8>().0 {
            let bits = u64::from_ne_bytes(*entry);
            if bits & (PRESENT | SWAPPED) != 0 && bits & FILE_OR_SHARED == 0 {
                out.push(PageRange::new(PageNumber(page), 1));
            }
            page += 1;
        }
    }
    Ok(normalized(out))
}

fn range(start: u64, end: u64) -> PageRange {
    PageRange::new(PageNumber::of_address(start), (end - start) / PAGE_SIZE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ranges::contains;

    #[test]
    fn a_line_of_maps_is_read_also_when_its_name_has_blanks() {
        let line = "7f00-8f00 rw-s 00000000 00:01 77      /dev/zero (deleted)";
        let area = parse(line).unwrap();
        assert_eq!((area.start, area.end, area.inode), (0x7f00, 0x8f00, 77));
        assert!(area.shared && area.readable && !area.executable);
        assert!(parse("7f4000-7f6000 r-xp 00000000 00:00 0    [vdso]").unwrap().executable);
        assert_eq!(area.name, "/dev/zero (deleted)");
        assert_eq!(parse("1000-2000 ---p 00000000 00:00 0").unwrap().name, "");
        assert!(parse("nonsense").is_none());
    }

    #[test]
    fn touched_pages_are_seen_and_untouched_ones_are_not() {
        // Far larger than what is touched, and page by page: no huge page covers the rest.
        let mut memory = vec![0u8; 64 << 20];
        let base = (memory.as_ptr() as u64).next_multiple_of(PAGE_SIZE);
        let offset = (base - memory.as_ptr() as u64) as usize;
        let touched = [0u64, 5, 6, 9000];
        for page in touched {
            memory[offset + page as usize * 4096] = 1;
        }
        let pagemap = File::open("/proc/self/pagemap").unwrap();
        let end = base + (63 << 20);
        let first = base / PAGE_SIZE;
        let expected: Vec<u64> = touched.iter().map(|p| first + p).collect();
        for ranges in [present(&pagemap, base, end).unwrap(), walked(&pagemap, base, end).unwrap()]
        {
            for page in &expected {
                assert!(contains(&ranges, PageNumber(*page)), "{page:#x} in {ranges:?}");
            }
            let count: u64 = ranges.iter().map(|r| r.count).sum();
            assert!(count < 16_000, "{count}");
        }
        let me = resident(std::process::id() as i32, &Stop::new()).unwrap();
        assert!(contains(&me.readable, PageNumber(expected[3])));
        assert!(me.private.0 >= 4 * 4096);
        drop(memory);
    }

    #[test]
    fn a_process_that_is_gone_is_an_error() {
        assert!(matches!(resident(i32::MAX, &Stop::new()), Err(CaptureError::Process { .. })));
    }
}
