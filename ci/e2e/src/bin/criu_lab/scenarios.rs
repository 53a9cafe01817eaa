//! What is proved, each in a node of its own.

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use crate::bundle::{Bundle, Running, Sandbox};
use crate::restore::{Decision, Restore, relay_dir};
use crate::streams::wait;
use crate::{dump, pages};

/// Runs one scenario by its name.
pub(crate) fn run(name: &str, relay: &Path) -> Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let relay = relay_dir(relay)?;
    match name {
        "goes-on" => goes_on(&relay),
        "own-namespaces" => own_namespaces(&relay),
        "refused" => refused(&relay),
        "leaves-running" => leaves_running(),
        "lazy" => lazy(&relay),
        other => bail!("there is no scenario {other:?}"),
    }
}

fn images(name: &str) -> PathBuf {
    Path::new("/run/criu-lab").join(name)
}

/// A container of a pod is dumped and killed, and continues in another pod.
fn goes_on(relay: &Path) -> Result<()> {
    let (a, b) = (Sandbox::new("a")?, Sandbox::new("b")?);
    let source = Bundle::new("source", Some(&a))?;
    let running = source.run()?;
    running.streams.wait_beyond(20)?;
    let images = images("goes-on");
    let last = dump::stop(&source, &running, &images)?;
    let target = Bundle::new("target", Some(&b))?;
    target.take_layer(&source)?;
    let restore = Restore { bundle: &target, images: &images, relay, pager: None };
    let again = restore.run(|_| Decision::Release)?;
    check_continued(&target, &again, last, &b)?;
    second_generation(relay, &target, &again)
}

/// What was restored can be dumped and restored again.
fn second_generation(relay: &Path, source: &Bundle, running: &Running) -> Result<()> {
    let c = Sandbox::new("c")?;
    let images = images("again");
    let last = dump::stop(source, running, &images)?;
    let target = Bundle::new("third", Some(&c))?;
    target.take_layer(source)?;
    let restore = Restore { bundle: &target, images: &images, relay, pager: None };
    let again = restore.run(|_| Decision::Release)?;
    check_continued(&target, &again, last, &c)
}

fn check_continued(bundle: &Bundle, running: &Running, last: u64, pod: &Sandbox) -> Result<()> {
    let first = running.streams.wait_beyond(0)?;
    ensure!(first >= last && first < last + 100, "it went on at {first} after {last}");
    running.streams.wait_beyond(last + 60)?;
    check_place(bundle, running)?;
    for kind in ["net", "ipc", "uts"] {
        let of = |path: String| std::fs::read_link(&path).with_context(|| path);
        let own = of(format!("/proc/{}/ns/{kind}", running.pid))?;
        ensure!(own == of(pod.namespace(kind))?, "{kind} namespace {}", own.display());
    }
    Ok(())
}

/// It is our child, in its cgroup, and can be looked into.
fn check_place(bundle: &Bundle, running: &Running) -> Result<()> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", running.pid))?;
    let parent = stat.rsplit(')').next().and_then(|s| s.split_whitespace().nth(1));
    ensure!(parent == Some(&std::process::id().to_string()), "its parent is {parent:?}");
    let freezer = crate::freezer::Freezer::of(&bundle.cgroup);
    ensure!(freezer.pids()?.len() == 3, "processes: {:?}", freezer.pids()?);
    ensure!(bundle.exec(&["cat", "/vol/inner/file"])? == bundle.id, "the inner volume");
    ensure!(bundle.exec(&["cat", "/etc/hosts"])?.ends_with(&bundle.id), "the bound file");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    ensure!(!mounts.contains("criu-root") && !mounts.contains("work-restore"), "{mounts}");
    Ok(())
}

/// A container with namespaces of its own is dumped, deleted and continues with new ones.
fn own_namespaces(relay: &Path) -> Result<()> {
    let source = Bundle::new("source", None)?;
    let running = source.run()?;
    running.streams.wait_beyond(20)?;
    let images = images("own");
    let last = dump::stop(&source, &running, &images)?;
    let target = Bundle::new("target", None)?;
    target.take_layer(&source)?;
    let restore = Restore { bundle: &target, images: &images, relay, pager: None };
    let again = restore.run(|_| Decision::Release)?;
    again.streams.wait_beyond(last + 60)?;
    check_place(&target, &again)?;
    let name = target.exec(&["hostname"])?;
    ensure!(name == "own-target", "its host name is {name}");
    let net = std::fs::read_link(format!("/proc/{}/ns/net", again.pid))?;
    ensure!(net != std::fs::read_link("/proc/self/ns/net")?, "it is in the node's network");
    ensure!(target.exec(&["cat", "/proc/net/dev"])?.lines().count() == 3, "more than loopback");
    end(&target, &again)
}

fn end(bundle: &Bundle, running: &Running) -> Result<()> {
    // The init of a pid namespace hears no other signal that it has no handler for.
    crate::bundle::sh(&format!("runc kill {} KILL", bundle.id))?;
    let pid = rustix::process::Pid::from_raw(i32::try_from(running.pid)?).context("pid 0")?;
    let status = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty())?;
    let status = status.context("not our child")?.1;
    let status = std::process::ExitStatus::from_raw(status.as_raw());
    ensure!(status.signal() == Some(9), "it ended with {status}");
    Ok(())
}

/// Memory comes after the process runs; the pages that it touches first are there before.
fn lazy(relay: &Path) -> Result<()> {
    let (a, b) = (Sandbox::new("a")?, Sandbox::new("b")?);
    let source = Bundle::new("source", Some(&a))?;
    let running = source.run()?;
    running.streams.wait_beyond(20)?;
    let (whole, divided) = (images("whole"), images("divided"));
    let last = dump::stop(&source, &running, &whole)?;
    let (lazy, eager) = pages::divide(&whole, &divided)?;
    println!("{lazy} pages are lazy, {eager} eager");
    ensure!(lazy > 8000 && eager > 0 && eager < lazy / 4, "{lazy} lazy, {eager} eager");
    let target = Bundle::new("target", Some(&b))?;
    target.take_layer(&source)?;
    let restore = Restore { bundle: &target, images: &divided, relay, pager: Some(&whole) };
    let again = restore.run(|_| Decision::Release)?;
    check_continued(&target, &again, last, &b)?;
    second_generation(relay, &target, &again)
}

/// A restore that is refused at post-restore leaves nothing behind; the images can be used again.
fn refused(relay: &Path) -> Result<()> {
    let (a, b) = (Sandbox::new("a")?, Sandbox::new("b")?);
    let source = Bundle::new("source", Some(&a))?;
    let running = source.run()?;
    running.streams.wait_beyond(20)?;
    let images = images("refused");
    let last = dump::stop(&source, &running, &images)?;
    let target = Bundle::new("target", Some(&b))?;
    target.take_layer(&source)?;
    let restore = Restore { bundle: &target, images: &images, relay, pager: None };
    let mut held = 0;
    let freezer = crate::freezer::Freezer::of(&target.cgroup);
    let refused = restore.run(|n| {
        held = n.pid.unwrap_or(0);
        // Three tasks and CRIU.
        if freezer.pids().is_ok_and(|p| p.len() >= 3) {
            Decision::Refuse
        } else {
            Decision::Release
        }
    });
    let error = refused.err().context("a refused restore succeeded")?;
    println!("refused: {error:#}");
    ensure!(held > 0, "nothing was held");
    crate::bundle::sh("runc delete --force target")?;
    wait("its cgroup to be gone", || Ok((!freezer.path().exists()).then_some(())))?;
    ensure!(!Path::new(&format!("/proc/{held}")).exists(), "a held task is alive");
    let again = restore.run(|_| Decision::Release)?;
    check_continued(&target, &again, last, &b)
}

/// Checkpoints that leave the container running, rolled back ones among them.
fn leaves_running() -> Result<()> {
    let pod = Sandbox::new("a")?;
    let bundle = Bundle::new("source", Some(&pod))?;
    let running = bundle.run()?;
    let mut tick = running.streams.wait_beyond(20)?;
    for round in 0..5 {
        let images = images("leave");
        if round % 2 == 0 {
            dump::leave_running(&bundle, &running, &images)?;
        } else {
            let mut held = dump::to_post_dump(&bundle, &running, &images, None)?;
            held.session.finish(godwit_criu::dump::Verdict::RollBack, dump::soon())?;
            ensure!(held.freezer.is_frozen()?, "a rolled back dump thawed the cgroup");
            held.freezer.thaw()?;
        }
        tick = running.streams.wait_beyond(tick + 30)?;
    }
    end(&bundle, &running)
}
