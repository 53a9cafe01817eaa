//! Numbers of a v2 cgroup as containerd's `io.containerd.cgroups.v2.Metrics`.

use std::collections::HashMap;
use std::path::Path;

use containerd_shim_protos::cgroups_v2::metrics::{
    CPUStat, HugeTlbStat, IOEntry, IOStat, MemoryEvents, MemoryStat, Metrics, PSIData, PSIStats,
    PidsStat, RdmaEntry, RdmaStat,
};
use containerd_shim_protos::protobuf::MessageField;

use super::Group;
use crate::cgroup::numbers::{device, huge_page_sizes, number, rdma, table};

/// Reads all numbers that the kernel has for it.
#[must_use]
pub fn read(group: &Group) -> Metrics {
    let dir = group.dir();
    Metrics {
        pids: MessageField::some(pids(dir)),
        cpu: MessageField::some(cpu(dir)),
        memory: MessageField::some(memory(dir)),
        rdma: MessageField::some(rdma_stat(dir)),
        io: MessageField::some(io(dir)),
        hugetlb: huge_pages(dir),
        memory_events: MessageField::some(memory_events(dir)),
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

fn cpu(dir: &Path) -> CPUStat {
    let stat = table(&dir.join("cpu.stat"));
    CPUStat {
        usage_usec: get(&stat, "usage_usec"),
        user_usec: get(&stat, "user_usec"),
        system_usec: get(&stat, "system_usec"),
        nr_periods: get(&stat, "nr_periods"),
        nr_throttled: get(&stat, "nr_throttled"),
        throttled_usec: get(&stat, "throttled_usec"),
        nr_bursts: get(&stat, "nr_bursts"),
        burst_usec: get(&stat, "burst_usec"),
        psi: pressure(&dir.join("cpu.pressure")),
        ..Default::default()
    }
}

fn memory(dir: &Path) -> MemoryStat {
    let stat = table(&dir.join("memory.stat"));
    let get = |key: &str| get(&stat, key);
    let file = |name: &str| number(&dir.join(name)).unwrap_or_default();
    MemoryStat {
        anon: get("anon"),
        file: get("file"),
        kernel_stack: get("kernel_stack"),
        slab: get("slab"),
        sock: get("sock"),
        shmem: get("shmem"),
        file_mapped: get("file_mapped"),
        file_dirty: get("file_dirty"),
        file_writeback: get("file_writeback"),
        anon_thp: get("anon_thp"),
        inactive_anon: get("inactive_anon"),
        active_anon: get("active_anon"),
        inactive_file: get("inactive_file"),
        active_file: get("active_file"),
        unevictable: get("unevictable"),
        slab_reclaimable: get("slab_reclaimable"),
        slab_unreclaimable: get("slab_unreclaimable"),
        pgfault: get("pgfault"),
        pgmajfault: get("pgmajfault"),
        workingset_refault: get("workingset_refault"),
        workingset_activate: get("workingset_activate"),
        workingset_nodereclaim: get("workingset_nodereclaim"),
        pgrefill: get("pgrefill"),
        pgscan: get("pgscan"),
        pgsteal: get("pgsteal"),
        pgactivate: get("pgactivate"),
        pgdeactivate: get("pgdeactivate"),
        pglazyfree: get("pglazyfree"),
        pglazyfreed: get("pglazyfreed"),
        thp_fault_alloc: get("thp_fault_alloc"),
        thp_collapse_alloc: get("thp_collapse_alloc"),
        usage: file("memory.current"),
        usage_limit: file("memory.max"),
        max_usage: file("memory.peak"),
        swap_usage: file("memory.swap.current"),
        swap_limit: file("memory.swap.max"),
        swap_max_usage: file("memory.swap.peak"),
        psi: pressure(&dir.join("memory.pressure")),
        ..Default::default()
    }
}

fn memory_events(dir: &Path) -> MemoryEvents {
    let events = table(&dir.join("memory.events"));
    MemoryEvents {
        low: get(&events, "low"),
        high: get(&events, "high"),
        max: get(&events, "max"),
        oom: get(&events, "oom"),
        oom_kill: get(&events, "oom_kill"),
        oom_group_kill: get(&events, "oom_group_kill"),
        ..Default::default()
    }
}

fn io(dir: &Path) -> IOStat {
    let text = std::fs::read_to_string(dir.join("io.stat")).unwrap_or_default();
    IOStat {
        usage: text.lines().filter_map(io_line).collect(),
        psi: pressure(&dir.join("io.pressure")),
        ..Default::default()
    }
}

fn io_line(line: &str) -> Option<IOEntry> {
    let mut fields = line.split(' ');
    let (major, minor) = device(fields.next()?)?;
    let pairs = fields.filter_map(|pair| pair.split_once('='));
    let values: HashMap<&str, u64> =
        pairs.filter_map(|(key, value)| Some((key, value.parse().ok()?))).collect();
    let get = |key: &str| values.get(key).copied().unwrap_or_default();
    Some(IOEntry {
        major,
        minor,
        rbytes: get("rbytes"),
        wbytes: get("wbytes"),
        rios: get("rios"),
        wios: get("wios"),
        ..Default::default()
    })
}

fn huge_pages(dir: &Path) -> Vec<HugeTlbStat> {
    let stat = |size: String| HugeTlbStat {
        current: number(&dir.join(format!("hugetlb.{size}.current"))).unwrap_or_default(),
        max: number(&dir.join(format!("hugetlb.{size}.max"))).unwrap_or_default(),
        failcnt: get(&table(&dir.join(format!("hugetlb.{size}.events"))), "max"),
        pagesize: size,
        ..Default::default()
    };
    huge_page_sizes(dir, ".current").into_iter().map(stat).collect()
}

fn rdma_stat(dir: &Path) -> RdmaStat {
    let entries = |name: &str| rdma(&dir.join(name)).into_iter().map(rdma_entry).collect();
    RdmaStat { current: entries("rdma.current"), limit: entries("rdma.max"), ..Default::default() }
}

fn rdma_entry((device, hca_handles, hca_objects): (String, u32, u32)) -> RdmaEntry {
    RdmaEntry { device, hca_handles, hca_objects, ..Default::default() }
}

fn pressure(file: &Path) -> MessageField<PSIStats> {
    let Ok(text) = std::fs::read_to_string(file) else { return MessageField::none() };
    let line =
        |kind: &str| text.lines().find_map(|line| line.strip_prefix(kind)).map(pressure_line);
    MessageField::some(PSIStats {
        some: line("some ").into(),
        full: line("full ").into(),
        ..Default::default()
    })
}

fn pressure_line(line: &str) -> PSIData {
    let find =
        |key: &str| line.split(' ').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
    let average = |key: &str| find(key).and_then(|value| value.parse().ok()).unwrap_or_default();
    PSIData {
        avg10: average("avg10"),
        avg60: average("avg60"),
        avg300: average("avg300"),
        total: find("total").and_then(|value| value.parse().ok()).unwrap_or_default(),
        ..Default::default()
    }
}

fn get(table: &HashMap<String, u64>, key: &str) -> u64 {
    table.get(key).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_become_metrics() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("pids.current", "3\n");
        write("pids.max", "max\n");
        write("cpu.stat", "usage_usec 12\nuser_usec 7\n");
        write("memory.current", "4096\n");
        write("memory.max", "max\n");
        write("io.stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0\n");
        write("cpu.pressure", "some avg10=1.50 avg60=0.00 avg300=0.00 total=9\n");
        write("hugetlb.2MB.current", "0\n");
        let metrics = read(&Group { dir: dir.path().to_owned() });
        assert_eq!((metrics.pids.current, metrics.pids.limit), (3, 0));
        assert_eq!((metrics.cpu.usage_usec, metrics.cpu.user_usec), (12, 7));
        assert_eq!((metrics.memory.usage, metrics.memory.usage_limit), (4096, u64::MAX));
        assert_eq!(metrics.io.usage.first().map(|io| (io.major, io.wios)), Some((8, 4)));
        assert_eq!(metrics.cpu.psi.some.total, 9);
        assert_eq!(metrics.hugetlb.first().map(|huge| huge.pagesize.as_str()), Some("2MB"));
    }
}
