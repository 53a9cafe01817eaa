//! Real programs move from node 1 to node 2 and back, and check themselves while they do.

use anyhow::{Context as _, Result, ensure};
use godwit_e2e::bed::{Bed, Store};
use godwit_e2e::container::{Container, PROGRESS};
use godwit_e2e::demo::Demo;
use godwit_lab::{Image, LabOptions};

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
