//! A pod whose memory never comes: it is ended whole, and goes on from the same point when its kubelet starts it again.

use anyhow::{Context as _, Result, ensure};
use godwit_e2e::agent::read_at;
use godwit_e2e::container::SOON;
use godwit_e2e::pods::{Clusters, Handler, Life, Pod, events};
use godwit_lab::{Image, wait};
use serde_json::json;

const COUNT: &str = "/count";
const NAME: &str = "unfilled";
const POD: &str = "unfilled-0";
/// So slow that most of its memory is on its way when all of one container's is there.
const SLOW: &str = "max_bytes_per_second = 2097152\n";
/// What a new life could not have counted to when it is looked at.
const LONG_AGO: u64 = 500;
const PAGERS: &str = "pgrep --full '^[^ ]*godwit-pager' || true";

#[test]
fn a_pod_whose_memory_does_not_come_goes_on_from_the_same_point_when_it_is_started_again()
-> Result<()> {
    let clusters = Clusters::up()?;
    let (a, node) = (&clusters.a, clusters.lab.node("a1")?);
    let words = ["counter", "--every-ms", "20", "--file", COUNT];
    let beside = json!({
        "name": "beside", "image": Image::Mem.reference(), "imagePullPolicy": "Never",
        "command": ["memwriter", "--mib", "96", "--threads", "1", "--file", COUNT],
    });
    let pod = Pod::new(NAME, Handler::Godwit, Image::Mem, &words).beside(beside).that_keeps();
    let first = Life::begin(a, &pod.on("a1").owned_by("StatefulSet", 1), POD)?;
    let last = first.goes_beyond(COUNT, LONG_AGO)?;
    let scale = |to: &str| a.kubectl(&["scale", "statefulset", NAME, &format!("--replicas={to}")]);
    scale("0")?;
    first.stopped_at()?;

    read_at(&node, "", SLOW)?;
    scale("1")?;
    let second = Life::wait(a, POD, Some(&first))?;
    second.goes_beyond(COUNT, last)?;
    let pager = wait::until("one pager to be left", SOON, || match node.sh(PAGERS) {
        Ok(found) if found.split_whitespace().count() == 1 => Ok(found.trim().to_owned()),
        other => Err(format!("{other:?}")),
    })?;
    node.run(&["kill", "-KILL", &pager])?;
    let failed = second.event("RestoreFailed")?;
    ensure!(failed.contains("its memory could not be completed"), "{failed}");
    read_at(&node, SLOW, "")?;

    // Both were restored together, and go on together.
    wait::until("both to run again", SOON, || {
        let object = second.object().map_err(|error| error.to_string())?;
        let all = object["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
        let again = |one: &serde_json::Value| one["restartCount"] == 1 && one["ready"] == true;
        if all.len() == 2 && all.iter().all(again) { Ok(()) } else { Err(events(a)) }
    })?;
    let now = second.number(COUNT)?;
    ensure!(now >= last, "it had counted to {last}, and is at {now}: {}", events(a));
    // How often each page was looked at.
    let rounds = || -> Result<u64> {
        let said = second.exec_in("beside", &["cat", COUNT])?;
        let number = said.split_whitespace().find_map(|word| word.parse().ok());
        number.with_context(|| format!("no number in {said:?}"))
    };
    let before = rounds()?;
    wait::until("the other one to see all of its memory", SOON, || match rounds() {
        // Two whole ones: after the last page came.
        Ok(now) if now >= before + 2 => Ok(()),
        other => Err(format!("{other:?} after {before}")),
    })?;
    second.delete(&format!("statefulset/{NAME}"))?;
    clusters.leave()
}
