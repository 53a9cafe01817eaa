//! The task API's own checkpoints: CRIU images in a directory, as containerd's runc shim makes them.

use anyhow::{Context, Result, ensure};
use godwit_lab::{Image, wait};

use super::kit::{Bed, RUNTIME, SOON};

fn counted(bed: &Bed, id: &str) -> Result<u64> {
    let text = bed.exec(id, &["cat", "/tmp/count"])?;
    text.trim().parse().with_context(|| format!("a number, not {text:?}"))
}

fn wait_counted(bed: &Bed, id: &str, least: u64) -> Result<u64> {
    Ok(wait::until("the counter to count", SOON, || match counted(bed, id) {
        Ok(now) if now >= least => Ok(now),
        other => Err(format!("{other:?}")),
    })?)
}

fn counter(bed: &Bed, id: &str) -> Result<u64> {
    bed.node.import(Image::Mem)?;
    let image = Image::Mem.reference();
    bed.node.ctr(&[
        "run",
        "--detach",
        "--runtime",
        RUNTIME,
        image,
        id,
        "counter",
        "--file",
        "/tmp/count",
    ])?;
    wait_counted(bed, id, 3)
}

#[test]
fn a_checkpoint_into_a_directory_leaves_it_running_or_ends_it() -> Result<()> {
    let bed = Bed::new()?;
    counter(&bed, "count")?;
    bed.node.ctr(&["task", "checkpoint", "--image-path", "/tmp/first", "count"])?;
    ensure!(bed.node.sh("ls /tmp/first")?.contains("inventory.img"));
    let at = counted(&bed, "count")?;
    wait_counted(&bed, "count", at + 1)?;
    // containerd names a checkpoint's image by the second, and refuses a second one of the same second.
    bed.node.sh("ctr images ls --quiet | grep ^containerd.io/checkpoint/ | xargs ctr images rm")?;
    bed.node.ctr(&["task", "checkpoint", "--exit", "--image-path", "/tmp/second", "count"])?;
    bed.wait_listed("count", "STOPPED")?;
    bed.node.exec(&["ctr", "task", "delete", "count"])?;
    bed.node.ctr(&["container", "delete", "count"])?;
    bed.wait_clean()
}

#[test]
fn a_container_is_restored_from_its_checkpoint_and_ends_as_usual() -> Result<()> {
    let bed = Bed::new()?;
    counter(&bed, "count")?;
    bed.node.ctr(&["container", "checkpoint", "--rw", "--image", "--task", "count", "point"])?;
    let at = counted(&bed, "count")?;
    bed.remove("count")?;
    bed.wait_clean()?;
    bed.node.ctr(&["container", "restore", "--live", "--rw", "count", "point"])?;
    let now = wait_counted(&bed, "count", 1)?;
    ensure!(now + 100 >= at, "it goes on at {now}, not from the start (it was at {at})");
    wait_counted(&bed, "count", now + 2)?;
    ensure!(bed.exec("count", &["echo", "here"])? == "here\n");
    bed.remove("count")?;
    bed.wait_clean()
}

#[test]
fn a_dump_that_fails_says_why_and_the_container_goes_on() -> Result<()> {
    let bed = Bed::new()?;
    counter(&bed, "count")?;
    // A file where CRIU's images should go.
    bed.node.write_file("/tmp/taken", "")?;
    let failed =
        bed.node.exec(&["ctr", "task", "checkpoint", "--image-path", "/tmp/taken", "count"])?;
    let said = String::from_utf8_lossy(&failed.stderr).into_owned();
    ensure!(!failed.status.success() && said.contains("OCI runtime checkpoint failed"), "{said}");
    let at = counted(&bed, "count")?;
    wait_counted(&bed, "count", at + 1)?;
    bed.remove("count")?;
    bed.wait_clean()
}
