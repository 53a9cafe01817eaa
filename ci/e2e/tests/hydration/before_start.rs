//! A container that runs only when all of its memory is there.

use anyhow::{Context as _, Result, ensure};
use godwit_e2e::bed::{Bed, Store};
use godwit_e2e::container::{Container, PROGRESS};
use godwit_lab::{Image, LabOptions};
use godwit_types::names;

use crate::{read_at, restart_agent};

/// 64 MiB in some ten seconds.
const RATHER_SLOW: &str = "max_bytes_per_second = 8388608\n";

#[test]
fn whoever_waits_for_its_memory_needs_no_agent_any_more() -> Result<()> {
    let settings = "hydration_deadline = \"1s\"\n";
    let bed = Bed::up(&LabOptions::for_tests(), Store::File, settings, &[Image::Mem])?;
    let words = ["memwriter", "--mib", "64", "--file", PROGRESS];
    let writer = Container::new("writer", Image::Mem, &words);
    writer.run(&bed.n1)?;
    writer.wait_beyond(&bed.n1, 3)?;
    let id = writer.checkpoint(&bed.n1, &["--stop"])?.checkpoint.to_string();
    writer.remove(&bed.n1)?;

    read_at(&bed.n2, "", RATHER_SLOW)?;
    let wrong = format!("{}=eager", names::HYDRATE);
    let refused = writer.clone().with(&["--annotation", &wrong]).restore(&bed.n2, &id);
    let refused = format!("{:#}", refused.err().context("a value that there is not")?);
    ensure!(refused.contains("after-start or before-start"), "{refused}");
    writer.remove(&bed.n2)?;

    let when = format!("{}={}", names::HYDRATE, names::BEFORE_START);
    writer.clone().with(&["--annotation", &when]).restore(&bed.n2, &id)?;
    // It would be killed after a second without memory, or stand still.
    bed.n2.kill_agent()?;
    let now = writer.progress(&bed.n2)?;
    // It has looked at every page.
    writer.wait_beyond(&bed.n2, now + 3)?;
    restart_agent(&bed.n2)?;
    writer.wait_state(&bed.n2, "running")
}
