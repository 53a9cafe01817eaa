//! Pods that are to start from their images although there is a point of them.

use anyhow::{Context as _, Result, ensure};
use godwit_e2e::pods::{Clusters, Handler, Life, Pod, events};
use godwit_lab::{Cluster, Image};
use godwit_types::names;

const COUNT: &str = "/count";

fn counter(name: &str) -> Pod {
    let words = ["counter", "--every-ms", "20", "--file", COUNT];
    Pod::new(name, Handler::Godwit, Image::Mem, &words).that_keeps()
}

/// Makes a file that is there as long as the pod goes on.
fn mark(pod: &Life<'_>, file: &str) -> Result<()> {
    pod.exec(&["touch", file]).map(drop)
}

/// It starts from its image, and says why.
fn begins_anew(cluster: &Cluster, pod: &Life<'_>, mark: &str) -> Result<()> {
    pod.exec(&["test", "!", "-e", mark]).with_context(|| events(cluster))?;
    let why = pod.event("RestoreNever")?;
    ensure!(why.contains("because the pod says so"), "{why}");
    ensure!(pod.annotation(names::RESTORED_FROM)?.is_none(), "{}", events(cluster));
    Ok(())
}

#[test]
fn a_pod_that_says_never_starts_from_its_image_whatever_there_is() -> Result<()> {
    let clusters = Clusters::up()?;
    of_nobody(&clusters.a)?;
    of_a_set(&clusters.a)?;
    clusters.leave()
}

fn of_nobody(cluster: &Cluster) -> Result<()> {
    const NAME: &str = "alone";
    let pod = counter(NAME).on("a1");
    let first = Life::begin(cluster, &pod.manifest(), NAME)?;
    first.goes_beyond(COUNT, 20)?;
    mark(&first, "/first")?;
    first.stop()?;
    let never = pod.clone().annotated(names::RESTORE, names::NEVER);
    let second = Life::begin(cluster, &never.manifest(), NAME)?;
    begins_anew(cluster, &second, "/first")?;
    // Its own memory is kept, and is what the next one goes on with.
    let of_second = second.goes_beyond(COUNT, 20)?;
    mark(&second, "/second")?;
    second.stop()?;
    let third = Life::begin(cluster, &pod.manifest(), NAME)?;
    third.went_on(COUNT, of_second)?;
    third.exec(&["test", "-e", "/second"])?;
    third.exec(&["test", "!", "-e", "/first"])?;
    third.delete("pod/alone")
}

fn of_a_set(cluster: &Cluster) -> Result<()> {
    const POD: &str = "never-0";
    let set = counter("never");
    let first = Life::begin(cluster, &set.owned_by("StatefulSet", 1), POD)?;
    mark(&first, "/first")?;
    first.delete("statefulset/never")?;
    let never = set.annotated(names::RESTORE, names::NEVER);
    let second = Life::begin(cluster, &never.owned_by("StatefulSet", 1), POD)?;
    begins_anew(cluster, &second, "/first")?;
    // Each of its lives does.
    mark(&second, "/second")?;
    cluster.kubectl(&["delete", "pod", POD, "--timeout=180s"])?;
    let third = Life::wait(cluster, POD, Some(&second))?;
    begins_anew(cluster, &third, "/second")?;
    third.delete("statefulset/never")
}
