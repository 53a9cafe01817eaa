//! Numbers of a v1 cgroup as containerd's `io.containerd.cgroups.v1.Metrics`.

use std::collections::HashMap;
use std::path::Path;

use containerd_shim_protos::cgroups::metrics::{
    BlkIOEntry, BlkIOStat, CPUStat, CPUUsage, HugetlbStat, MemoryEntry, MemoryOomControl,
    MemoryStat, Metrics, PidsStat, RdmaEntry, RdmaStat, Throttle,
};
use containerd_shim_protos::protobuf::MessageField;

use super::Group;
use crate::cgroup::numbers::{device, huge_page_sizes, number, rdma, table};

/// Nanoseconds per tick of `cpuacct.stat`: USER_HZ is 100 on every architecture we run on.
const TICK_NS: u64 = 1_000_000_000 / 100;

/// Reads all numbers that the kernel has for it.
#[must_use]
pub fn read(group: &Group) -> Metrics {
    Metrics {
        hugetlb: group.controller("hugetlb").map(huge_pages).unwrap_or_default(),
        pids: group.controller("pids").map(pids).into(),
        cpu: MessageField::some(cpu(group)),
        memory: group.controller("memory").map(memory).into(),
        blkio: group.controller("blkio").map(blkio).into(),
        rdma: group.controller("rdma").map(rdma_stat).into(),
        memory_oom_control: group.controller("memory").map(oom_control).into(),
        ..Default::default()
    }
}

fn pids(dir: &Path) -> PidsStat {
    PidsStat {
        current: number(&dir.join("pids.current")).unwrap_or_default(),
        // containerd: no limit is 0.
        limit: number(&dir.join("pids.max")).filter(|limit| *limit != u64::MAX).unwrap_or_default(),
        ..Default::default()
    }
}

fn cpu(group: &Group) -> CPUStat {
    let throttling = group.controller("cpu").map(|dir| {
        let stat = table(&dir.join("cpu.stat"));
        Throttle {
            periods: get(&stat, "nr_periods"),
            throttled_periods: get(&stat, "nr_throttled"),
            throttled_time: get(&stat, "throttled_time"),
            ..Default::default()
        }
    });
    let usage = group.controller("cpuacct").map(cpu_usage);
    CPUStat { usage: usage.into(), throttling: throttling.into(), ..Default::default() }
}

fn cpu_usage(dir: &Path) -> CPUUsage {
    let stat = table(&dir.join("cpuacct.stat"));
    let per_cpu = std::fs::read_to_string(dir.join("cpuacct.usage_percpu")).unwrap_or_default();
    CPUUsage {
        total: number(&dir.join("cpuacct.usage")).unwrap_or_default(),
        user: get(&stat, "user") * TICK_NS,
        kernel: get(&stat, "system") * TICK_NS,
        per_cpu: per_cpu.split_whitespace().filter_map(|text| text.parse().ok()).collect(),
        ..Default::default()
    }
}

fn memory(dir: &Path) -> MemoryStat {
    let stat = table(&dir.join("memory.stat"));
    let get = |key: &str| get(&stat, key);
    let entry = |module: &str| MessageField::some(memory_entry(dir, module));
    MemoryStat {
        cache: get("cache"),
        rss: get("rss"),
        rss_huge: get("rss_huge"),
        mapped_file: get("mapped_file"),
        dirty: get("dirty"),
        writeback: get("writeback"),
        pg_pg_in: get("pgpgin"),
        pg_pg_out: get("pgpgout"),
        pg_fault: get("pgfault"),
        pg_maj_fault: get("pgmajfault"),
        inactive_anon: get("inactive_anon"),
        active_anon: get("active_anon"),
        inactive_file: get("inactive_file"),
        active_file: get("active_file"),
        unevictable: get("unevictable"),
        hierarchical_memory_limit: get("hierarchical_memory_limit"),
        hierarchical_swap_limit: get("hierarchical_memsw_limit"),
        total_cache: get("total_cache"),
        total_rss: get("total_rss"),
        total_rss_huge: get("total_rss_huge"),
        total_mapped_file: get("total_mapped_file"),
        total_dirty: get("total_dirty"),
        total_writeback: get("total_writeback"),
        total_pg_pg_in: get("total_pgpgin"),
        total_pg_pg_out: get("total_pgpgout"),
        total_pg_fault: get("total_pgfault"),
        total_pg_maj_fault: get("total_pgmajfault"),
        total_inactive_anon: get("total_inactive_anon"),
        total_active_anon: get("total_active_anon"),
        total_inactive_file: get("total_inactive_file"),
        total_active_file: get("total_active_file"),
        total_unevictable: get("total_unevictable"),
        usage: entry(""),
        swap: entry("memsw."),
        kernel: entry("kmem."),
        kernel_tcp: entry("kmem.tcp."),
        ..Default::default()
    }
}

fn memory_entry(dir: &Path, module: &str) -> MemoryEntry {
    let read = |name: &str| number(&dir.join(format!("memory.{module}{name}"))).unwrap_or_default();
    MemoryEntry {
        limit: read("limit_in_bytes"),
        usage: read("usage_in_bytes"),
        max: read("max_usage_in_bytes"),
        failcnt: read("failcnt"),
        ..Default::default()
    }
}

fn oom_control(dir: &Path) -> MemoryOomControl {
    let control = table(&dir.join("memory.oom_control"));
    MemoryOomControl {
        oom_kill_disable: get(&control, "oom_kill_disable"),
        under_oom: get(&control, "under_oom"),
        oom_kill: get(&control, "oom_kill"),
        ..Default::default()
    }
}

fn blkio(dir: &Path) -> BlkIOStat {
    // With the CFQ or BFQ scheduler the per-scheduler files count; the throttle files always do.
    let first = |names: [&str; 2]| {
        let mut entries = names.iter().map(|name| blkio_entries(&dir.join(name)));
        entries.find(|entries| !entries.is_empty()).unwrap_or_default()
    };
    let one = |name: &str| blkio_entries(&dir.join(name));
    BlkIOStat {
        io_service_bytes_recursive: first([
            "blkio.io_service_bytes_recursive",
            "blkio.throttle.io_service_bytes_recursive",
        ]),
        io_serviced_recursive: first([
            "blkio.io_serviced_recursive",
            "blkio.throttle.io_serviced_recursive",
        ]),
        io_queued_recursive: one("blkio.io_queued_recursive"),
        io_service_time_recursive: one("blkio.io_service_time_recursive"),
        io_wait_time_recursive: one("blkio.io_wait_time_recursive"),
        io_merged_recursive: one("blkio.io_merged_recursive"),
        io_time_recursive: one("blkio.time_recursive"),
        sectors_recursive: one("blkio.sectors_recursive"),
        ..Default::default()
    }
}

fn blkio_entries(file: &Path) -> Vec<BlkIOEntry> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().filter_map(blkio_line).collect()
}

/// `8:0 Read 42` or `8:0 42`; the line `Total 42` is of no device.
fn blkio_line(line: &str) -> Option<BlkIOEntry> {
    let mut fields = line.split(' ');
    let (major, minor) = device(fields.next()?)?;
    let second = fields.next()?;
    let (op, value) = match fields.next() {
        Some(value) => (second, value),
        None => ("", second),
    };
    Some(BlkIOEntry {
        op: op.to_owned(),
        device: format!("/dev/block/{major}:{minor}"),
        major,
        minor,
        value: value.parse().ok()?,
        ..Default::default()
    })
}

fn huge_pages(dir: &Path) -> Vec<HugetlbStat> {
    let stat = |size: String| {
        let read =
            |name: &str| number(&dir.join(format!("hugetlb.{size}.{name}"))).unwrap_or_default();
        HugetlbStat {
            usage: read("usage_in_bytes"),
            max: read("max_usage_in_bytes"),
            failcnt: read("failcnt"),
            pagesize: size,
            ..Default::default()
        }
    };
    huge_page_sizes(dir, ".usage_in_bytes").into_iter().map(stat).collect()
}

fn rdma_stat(dir: &Path) -> RdmaStat {
    let entries = |name: &str| rdma(&dir.join(name)).into_iter().map(rdma_entry).collect();
    RdmaStat { current: entries("rdma.current"), limit: entries("rdma.max"), ..Default::default() }
}

fn rdma_entry((device, hca_handles, hca_objects): (String, u32, u32)) -> RdmaEntry {
    RdmaEntry { device, hca_handles, hca_objects, ..Default::default() }
}

fn get(table: &HashMap<String, u64>, key: &str) -> u64 {
    table.get(key).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_block_devices_have_an_operation_or_none() {
        let read = blkio_line("8:0 Read 42").unwrap();
        assert_eq!((read.op.as_str(), read.major, read.value), ("Read", 8, 42));
        assert_eq!(blkio_line("8:16 7").unwrap().value, 7);
        assert_eq!(blkio_line("Total 42"), None);
    }

    #[test]
    fn a_controller_that_is_not_mounted_leaves_its_numbers_out() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("memory.usage_in_bytes"), "4096\n").unwrap();
        let group = Group { dirs: [("memory".to_owned(), dir.path().to_owned())].into() };
        let metrics = read(&group);
        assert_eq!(metrics.memory.usage.usage, 4096);
        assert!(metrics.pids.is_none());
    }
}
