//! What a restored pod may use is what the new pod's specification says, not what the old one's said.

use anyhow::{Context as _, Result, ensure};
use godwit_e2e::pods::{Clusters, Handler, Life, Pod};
use godwit_lab::{CgroupView, Image, Node};
use serde_json::{Value, json};

const NAME: &str = "bounded";
const COUNT: &str = "/count";

/// Of one life.
struct Limits {
    /// MiB.
    memory: u64,
    /// Thousandths of a processor.
    processor: u64,
}

impl Limits {
    fn pod(&self, node: &str) -> Pod {
        let limits =
            json!({"memory": format!("{}Mi", self.memory), "cpu": format!("{}m", self.processor)});
        let words = ["counter", "--every-ms", "20", "--file", COUNT];
        Pod::new(NAME, Handler::Godwit, Image::Mem, &words)
            .on(node)
            .that_keeps()
            .container_with("resources", json!({"limits": limits}))
    }

    /// What the control group of its container says, in the words of its version: memory, and processor time in each tenth of a second.
    fn in_group(&self, view: CgroupView) -> Vec<String> {
        let (memory, time) = (self.memory << 20, self.processor * 100);
        match view {
            CgroupView::V1 => vec![memory.to_string(), time.to_string(), "100000".to_owned()],
            CgroupView::V2 => vec![memory.to_string(), format!("{time} 100000")],
        }
    }

    /// The container has them, and the pod as a whole has.
    fn hold(&self, pod: &Life<'_>, node: &Node) -> Result<()> {
        let wanted = self.in_group(node.cgroup_view());
        let found = node.sh(&look(&process_of(pod, node)?, node.cgroup_view()))?;
        let found: Vec<&str> = found.lines().collect();
        let twice = [wanted.clone(), wanted].concat();
        ensure!(found == twice, "{found:?}, not {twice:?}");
        Ok(())
    }
}

/// The first process of its container, as the node counts.
fn process_of(pod: &Life<'_>, node: &Node) -> Result<String> {
    let object = pod.object()?;
    let id = object["status"]["containerStatuses"][0]["containerID"].as_str().context("it runs")?;
    let told = node.run(&["crictl", "inspect", id.trim_start_matches("containerd://")])?;
    let told: Value = serde_json::from_str(&told)?;
    Ok(told["info"]["pid"].as_u64().context("a process")?.to_string())
}

/// Prints the limits of a process' group, and of that above it, which is its pod's.
fn look(pid: &str, view: CgroupView) -> String {
    match view {
        CgroupView::V1 => format!(
            "of() {{ echo /sys/fs/cgroup/$1$(grep --extended-regexp \":([^:]*,)?$1(,[^:]*)?:\" /proc/{pid}/cgroup | cut --delimiter=: --fields=3); }}
            memory=$(of memory) cpu=$(of cpu)
            for up in . ..; do
                cat $memory/$up/memory.limit_in_bytes $cpu/$up/cpu.cfs_quota_us $cpu/$up/cpu.cfs_period_us
            done"
        ),
        CgroupView::V2 => format!(
            "group=/sys/fs/cgroup$(sed --quiet 's/^0:://p' /proc/{pid}/cgroup)
            for up in . ..; do cat $group/$up/memory.max $group/$up/cpu.max; done"
        ),
    }
}

#[test]
fn a_pod_that_goes_on_may_use_what_its_own_specification_says() -> Result<()> {
    let clusters = Clusters::up()?;
    let a = &clusters.a;
    let first = clusters.lab.node("a1")?;
    let second = clusters.lab.node("a2")?;
    ensure!(first.has_limits() && second.has_limits(), "the nodes have no controllers");
    let (narrow, wide) =
        (Limits { memory: 64, processor: 300 }, Limits { memory: 96, processor: 500 });
    let mut last = 0;
    // Wider and narrower.
    for (limits, node) in [(&narrow, &first), (&wide, &second), (&narrow, &first)] {
        let pod = Life::begin(a, &limits.pod(node.name()).manifest(), NAME)?;
        if last > 0 {
            pod.went_on(COUNT, last)?;
        }
        limits.hold(&pod, node)?;
        last = pod.goes_beyond(COUNT, last + 20)?;
        pod.stop()?;
    }
    clusters.leave()
}
