//! Real programs move from node 1 to node 2 and back, and check themselves while they do.

use std::io::Write as _;

use anyhow::{Context as _, Result, ensure};
use godwit_e2e::bed::{Bed, Store};
use godwit_e2e::clean;
use godwit_e2e::container::{Container, PROGRESS, SOON};
use godwit_e2e::demo::Demo;
use godwit_lab::{Image, LabOptions, Node, Spawned, wait};

fn there_and_back(bed: &Bed, container: &Container) -> Result<()> {
    container.there_and_back(&bed.n1, &bed.n2)
}

#[test]
fn small_programs_move_there_and_back() -> Result<()> {
    let images = [Image::Shell, Image::Mem];
    let bed = Bed::up(&LabOptions::for_tests(), Store::File, "", &images)?;
    let script = "i=0; while :; do i=$((i+1)); echo $i >/progress.new; mv /progress.new /progress; sleep 0.05; done";
    let shell = Container::new("shell", Image::Shell, &["sh", "-c", script]);
    there_and_back(&bed, &shell).context("a shell counter")?;
    let counter = Container::new("counter", Image::Mem, &["counter", "--file", PROGRESS]);
    there_and_back(&bed, &counter).context("a static program")?;
    let tree = Container::new("tree", Image::Mem, &["forktree", "--file", PROGRESS]);
    there_and_back(&bed, &tree).context("a tree of processes")
}

#[test]
fn memory_that_is_written_discarded_and_forked_while_it_hydrates_is_right() -> Result<()> {
    let bed = Bed::up(&LabOptions::for_tests(), Store::File, "", &[Image::Mem])?;
    let words = [
        "memwriter",
        "--mib",
        "512",
        "--threads",
        "2",
        "--disturb",
        "dontneed,munmap,mremap,fork",
        "--file",
        PROGRESS,
    ];
    there_and_back(&bed, &Container::new("writer", Image::Mem, &words))
}

#[test]
fn a_container_larger_than_the_agents_memory_moves_too() -> Result<()> {
    let settings = "memory_budget = \"128 MiB\"\n";
    let bed = Bed::up(&LabOptions::for_tests(), Store::File, settings, &[Image::Mem])?;
    let words = ["memwriter", "--mib", "200", "--disturb", "dontneed,mremap", "--file", PROGRESS];
    there_and_back(&bed, &Container::new("writer", Image::Mem, &words))
}

#[test]
fn a_container_whose_root_is_read_only_moves_there_and_back() -> Result<()> {
    let bed = Bed::up(&LabOptions::for_tests(), Store::File, "", &[Image::Mem])?;
    // All that it can write to is memory.
    let words = ["counter", "--file", "/dev/shm/progress"];
    let counter = Container::new("counter", Image::Mem, &words).with(&["--read-only"]);
    counter.run(&bed.n1)?;
    let mut last = beyond(&counter, &bed.n1, 3)?;
    for (from, to) in [(&bed.n1, &bed.n2), (&bed.n2, &bed.n1)] {
        ensure!(counter.exec(from, &["touch", "/written"]).is_err(), "its root can be written");
        counter.checkpoint(from, &[])?;
        counter.move_to(from, to)?;
        last = beyond(&counter, to, last)?;
        clean::wait(from)?;
    }
    counter.remove(&bed.n1)?;
    clean::wait(&bed.n1)
}

/// Waits until the number that a container keeps in its shared memory is greater.
fn beyond(counter: &Container, node: &Node, last: u64) -> Result<u64> {
    let number = || {
        let text = counter.exec(node, &["cat", "/dev/shm/progress"])?;
        text.trim().parse::<u64>().with_context(|| format!("no number in {text:?}"))
    };
    Ok(wait::until(&format!("{} to get beyond {last}", counter.id), SOON, || match number() {
        Ok(now) if now > last => Ok(now),
        Ok(now) => Err(now.to_string()),
        Err(error) => Err(format!("{error:#}")),
    })?)
}

#[test]
fn a_container_that_reads_what_somebody_types_moves_and_reads_on() -> Result<()> {
    let bed = Bed::up(&LabOptions::for_tests(), Store::File, "", &[Image::Shell])?;
    let script = "i=0; while read -r line; do i=$((i+1)); echo $i $line >/next; mv /next /progress; done; \
                  echo $i lines >/progress; exit 3";
    let reader = Container::new("reader", Image::Shell, &["sh", "-c", script]);
    let mut first = reader.attach(&bed.n1, None)?;
    says(&mut first, "one")?;
    wait_line(&reader, &bed.n1, "1 one")?;
    reader.checkpoint(&bed.n1, &[])?;
    says(&mut first, "two")?;
    wait_line(&reader, &bed.n1, "2 two")?;
    let id = reader.checkpoint(&bed.n1, &["--stop"])?.checkpoint.to_string();
    first.wait_with_output()?;
    reader.remove(&bed.n1)?;
    clean::wait(&bed.n1)?;

    let mut second = reader.attach(&bed.n2, Some(&id))?;
    says(&mut second, "three")?;
    wait_line(&reader, &bed.n2, "3 three")?;
    // What is attached ends: so does what it reads.
    let ended = second.wait_with_output()?;
    ensure!(ended.status.code() == Some(3), "{ended:?}");
    reader.remove(&bed.n2)?;
    clean::wait(&bed.n2)
}

fn says(to: &mut Spawned, line: &str) -> Result<()> {
    let stdin = to.child().stdin.as_mut().context("its input")?;
    Ok(writeln!(stdin, "{line}")?)
}

fn wait_line(container: &Container, node: &Node, line: &str) -> Result<()> {
    wait::until(&format!("{line:?}"), SOON, || match container.progress_line(node) {
        Ok(now) if now.trim() == line => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    Ok(())
}

fn demo(store: Store) -> Result<()> {
    let demo = Demo { store, mib: 300, baseline: false, lab: LabOptions::for_tests() };
    let report = demo.run(&mut |step| println!("{step}"))?;
    println!("{report}");
    ensure!(report.proof.acknowledged_writes > 100, "the client did not work during the moves");
    let (stored, all) = (report.incremental.sizes.stored, report.incremental.sizes.memory);
    ensure!(stored.0 < all.0 / 4, "the increment stored {stored} of {all}");
    Ok(())
}

#[test]
fn redis_moves_under_load_through_a_directory() -> Result<()> {
    demo(Store::File)
}

#[test]
fn redis_moves_under_load_through_s3_without_touching_a_disk() -> Result<()> {
    demo(Store::S3)
}
