//! Real programs move from node 1 to node 2 and back, and check themselves while they do.

use std::io::Write as _;

use anyhow::{Context as _, Result, ensure};
use godwit_e2e::bed::{Bed, Store};
use godwit_e2e::clean;
use godwit_e2e::container::{Container, PROGRESS, SOON};
use godwit_e2e::demo::Demo;
use godwit_lab::{AgentOptions, Image, LabOptions, Node, Spawned, wait};
use godwit_types::names;

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
    let plain = Container::new("plain", Image::Mem, &["ccounter", PROGRESS]);
    there_and_back(&bed, &plain).context("a static program in C")?;
    let tree = Container::new("tree", Image::Mem, &["forktree", "--file", PROGRESS]);
    there_and_back(&bed, &tree).context("a tree of processes")
}

#[test]
fn processes_have_the_limits_of_a_new_container_whatever_the_agents_are() -> Result<()> {
    let bed = Bed::up(&LabOptions::for_tests(), Store::File, "", &[Image::Shell])?;
    let web = Container::new("web", Image::Shell, &["sleep", "infinity"]);
    web.run(&bed.n1)?;
    let limits = |node: &Node| web.exec(node, &["cat", "/proc/1/limits"]);
    let before = limits(&bed.n1)?;
    // As the unit that is shipped does, and more.
    let agent = bed.n2.agent_pid().context("an agent")?;
    bed.n2.sh(&format!("prlimit --pid {agent} --core=0:0 --memlock=65536:65536"))?;
    web.move_to(&bed.n1, &bed.n2)?;
    web.wait_state(&bed.n2, "running")?;
    let after = limits(&bed.n2)?;
    ensure!(before == after, "{before}\nand now\n{after}");
    Ok(())
}

/// Waits until the agent reports its restore, with all memory there.
fn is_reported(container: &Container, node: &Node) -> Result<()> {
    let last = || {
        let status = node.run(&["godwit", "status", "--output", "json"])?;
        let status: serde_json::Value = serde_json::from_str(&status)?;
        Ok::<_, anyhow::Error>(status["restored"][0].clone())
    };
    wait::until("the report of the restore", SOON, || match last() {
        Ok(report) if report["hydrated"]["pages"].as_u64() > Some(0) => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    let report = last()?;
    let phases = report["phases"].as_array().into_iter().flatten();
    let names: Vec<_> = phases.filter_map(|time| time["phase"].as_str()).collect();
    ensure!(names == ["check", "stage", "restore", "take-over"], "{report}");
    ensure!(report["container"] == container.id.as_str(), "{report}");
    Ok(())
}

/// Says on its first standard output, which it has moved away, what it reads from a file that is deleted.
const MOVED_STREAMS: &str = r#"
exec 3>&1 >/dev/null; echo kept >/gone; exec 4</gone; rm /gone; i=0
while :; do
    i=$((i+1)); echo $i >/progress.new; mv /progress.new /progress
    if [ -e /tell ]; then rm /tell; read -r word <&4; echo "still $word" >&3; fi
    sleep 0.05
done"#;

#[test]
fn streams_that_were_moved_and_files_that_were_deleted_go_along() -> Result<()> {
    let bed = Bed::up(&LabOptions::for_tests(), Store::File, "", &[Image::Shell])?;
    let (log, uri) = ("/run/streams.log", "file:///run/streams.log");
    let web = Container::new("streams", Image::Shell, &["sh", "-c", MOVED_STREAMS])
        .with(&["--log-uri", uri]);
    web.run(&bed.n1)?;
    web.wait_beyond(&bed.n1, 3)?;
    web.move_to(&bed.n1, &bed.n2)?;
    web.exec(&bed.n2, &["touch", "/tell"])?;
    wait::until("what the deleted file held", SOON, || match bed.n2.read_file(log) {
        Ok(text) if text == "still kept\n" => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    is_reported(&web, &bed.n2)
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
        "--disturb-every",
        "256",
        "--file",
        PROGRESS,
    ];
    let writer = Container::new("writer", Image::Mem, &words);
    writer.run(&bed.n1)?;
    writer.wait_beyond(&bed.n1, 3)?;
    let quick = bed.n2.read_file(names::AGENT_CONFIG)?;
    configure(&bed.n2, &format!("{quick}{SLOW}"))?;
    writer.move_to(&bed.n1, &bed.n2)?;
    disturbed_while_it_hydrates(&writer, &bed.n2)?;
    configure(&bed.n2, &quick)?;
    is_whole(&writer, &bed.n2)?;
    clean::wait(&bed.n1)?;
    writer.move_to(&bed.n2, &bed.n1)?;
    is_whole(&writer, &bed.n1)?;
    clean::wait(&bed.n2)?;
    writer.remove(&bed.n1)?;
    clean::wait(&bed.n1)
}

/// So slow that memory is on its way for as long as a test needs.
const SLOW: &str = "max_bytes_per_second = 4194304\n";
/// Two threads, each with each way of `memwriter`.
const EACH_WAY: u64 = 2 * 4;

/// Changes an agent's configuration, whose last section is the store's.
fn configure(node: &Node, text: &str) -> Result<()> {
    node.write_file(names::AGENT_CONFIG, text)?;
    node.kill_agent()?;
    Ok(node.start_agent(&AgentOptions::default())?)
}

/// Waits until it has disturbed its memory some more, and all of that was before its memory was there.
fn disturbed_while_it_hydrates(writer: &Container, node: &Node) -> Result<()> {
    let disturbed = || {
        let line = writer.progress_line(node)?;
        let count = line.split_whitespace().last().and_then(|word| word.parse::<u64>().ok());
        count.with_context(|| format!("no number at the end of {line:?}"))
    };
    let enough = disturbed()? + EACH_WAY;
    wait::until("memory to be disturbed", SOON, || match disturbed() {
        Ok(now) if now >= enough => Ok(()),
        other => Err(format!("{other:?} of {enough}")),
    })?;
    let state = writer.state(node)?;
    ensure!(state == "hydrating", "it is {state}: memory was not slow enough for this test");
    Ok(())
}

/// Waits until all memory is there and was looked at.
fn is_whole(writer: &Container, node: &Node) -> Result<()> {
    writer.wait_state(node, "running")?;
    let now = writer.progress(node)?;
    // Two whole rounds of both threads.
    writer.wait_beyond(node, now + 2 * 2)?;
    Ok(())
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
