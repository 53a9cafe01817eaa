//! A container that runs only when all of its memory is there.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use godwit_e2e::agent::{read_at, restart_agent};
use godwit_e2e::bed::{Bed, Store};
use godwit_e2e::container::{Container, PROGRESS, SOON};
use godwit_lab::{Image, LabOptions, wait};
use godwit_types::names;

use crate::STORE;

/// 64 MiB in some ten seconds.
const RATHER_SLOW: &str = "max_bytes_per_second = 8388608\n";
/// Less than a shim gives a CRIU that hangs: 90 s.
const AT_ONCE: Duration = Duration::from_secs(50);

/// A stopped writer with its checkpoint, and a second node that reads slowly.
fn stopped() -> Result<(Bed, Container, String)> {
    let settings = "hydration_deadline = \"1min\"\n";
    let bed = Bed::up(&LabOptions::for_tests(), Store::File, settings, &[Image::Mem])?;
    let words = ["memwriter", "--mib", "64", "--file", PROGRESS];
    let writer = Container::new("writer", Image::Mem, &words);
    writer.run(&bed.n1)?;
    writer.wait_beyond(&bed.n1, 3)?;
    let id = writer.checkpoint(&bed.n1, &["--stop"])?.checkpoint.to_string();
    writer.remove(&bed.n1)?;
    read_at(&bed.n2, "", RATHER_SLOW)?;
    Ok((bed, writer, id))
}

fn before_start() -> String {
    format!("{}={}", names::HYDRATE, names::BEFORE_START)
}

#[test]
fn a_criu_that_hangs_keeps_no_look_and_no_kill_waiting() -> Result<()> {
    let (bed, writer, id) = stopped()?;
    let (node, waits) = (&bed.n2, writer.clone().with(&["--annotation", &before_start()]));
    let entries =
        || Ok::<_, anyhow::Error>(node.sh(&format!("find {STORE} -path '*/log/*' -type f"))?);
    let before = entries()?;
    std::thread::scope(|scope| {
        let restored = scope.spawn(|| waits.restore(node, &id));
        wait::until_true("its tasks to be held", SOON, || {
            node.log("containerd").is_ok_and(|log| log.contains("all memory is waited for"))
        })?;
        node.sh("kill -STOP $(pgrep --exact criu)")?;
        // From then on CRIU is to let them go, and does not.
        wait::until_true("the take-over", SOON, || entries().is_ok_and(|now| now != before))?;
        let began = Instant::now();
        waits.wait_state(node, "held")?;
        node.ctr(&["task", "kill", "--signal", "SIGKILL", &waits.id])?;
        let ended = restored.join().map_err(|_| anyhow::anyhow!("the start panicked"))?;
        ensure!(ended.is_err(), "it was restored");
        ensure!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
        Ok(())
    })?;
    waits.remove(node)?;
    // Nothing of it has run: it is continued as it was.
    writer.restore(node, &id)?;
    let now = writer.progress(node)?;
    writer.wait_beyond(node, now)?;
    Ok(())
}

#[test]
fn whoever_waits_for_its_memory_needs_no_agent_any_more() -> Result<()> {
    let (bed, writer, id) = stopped()?;
    let wrong = format!("{}=eager", names::HYDRATE);
    let refused = writer.clone().with(&["--annotation", &wrong]).restore(&bed.n2, &id);
    let refused = format!("{:#}", refused.err().context("a value that there is not")?);
    ensure!(refused.contains("after-start or before-start"), "{refused}");
    writer.remove(&bed.n2)?;

    writer.clone().with(&["--annotation", &before_start()]).restore(&bed.n2, &id)?;
    // It would stand still at the first page that has not come.
    bed.n2.kill_agent()?;
    let now = writer.progress(&bed.n2)?;
    // It has looked at every page.
    writer.wait_beyond(&bed.n2, now + 3)?;
    restart_agent(&bed.n2)?;
    writer.wait_state(&bed.n2, "running")
}
