//! In which order memory comes that nobody waits for: what was written last before the checkpoint comes first.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result, ensure};
use godwit_e2e::agent::read_at;
use godwit_e2e::bed::{Bed, Store};
use godwit_e2e::container::{BUNDLES, Container, PROGRESS, SOON};
use godwit_image::{Head, Space, SpaceHead};
use godwit_lab::{Image, LabOptions, Node, wait};
use godwit_types::PageRange;

use crate::{SLOW, STORE};

/// A pager's prefetch window in pages, 192 frames of 32: so much is asked for at once and comes in any order.
const WINDOW: u64 = 192 * 32;

/// A process whose memory comes, and what its checkpoint says about it.
struct Subject {
    pagemap: File,
    recent: Vec<PageRange>,
    rest: Vec<PageRange>,
}

impl Subject {
    fn new(node: &Node, container: &Container, checkpoint: &str) -> Result<Self> {
        let pagemap = node.host_path(&format!("/proc/{}/pagemap", pid(node, container)?))?;
        let head = memory(node, checkpoint)?;
        let mut rest = head.map.clone();
        head.eager.iter().chain(&head.recent).for_each(|range| rest.remove(*range));
        let stored = rest.runs().filter(|run| run.source.frame_offset().is_some());
        let rest = stored.map(|run| run.range).collect();
        Ok(Self { pagemap: File::open(pagemap)?, recent: head.recent, rest })
    }

    /// How many of these pages are there: their highest bit says so.
    fn resident(&self, ranges: &[PageRange]) -> Result<u64> {
        let mut count = 0;
        for range in ranges {
            let mut entries = vec![0; range.count as usize * 8];
            self.pagemap.read_exact_at(&mut entries, range.first.0 * 8)?;
            count += entries.chunks_exact(8).filter(|entry| entry[7] & 0x80 != 0).count() as u64;
        }
        Ok(count)
    }

    /// How many of what was written last are there, and how many others were there just before.
    fn look(&self) -> Result<(u64, u64)> {
        let rest = self.resident(&self.rest)?;
        Ok((self.resident(&self.recent)?, rest))
    }
}

fn pages(ranges: &[PageRange]) -> u64 {
    ranges.iter().map(|range| range.count).sum()
}

/// The memory of the first process of a checkpoint.
fn memory(node: &Node, checkpoint: &str) -> Result<SpaceHead> {
    let found = node.sh(&format!("find {STORE} -path '*/{checkpoint}/head'"))?;
    let head = Head::decode(&std::fs::read(node.host_path(found.trim())?)?)?;
    let mut containers = head.containers.into_iter();
    let mut spaces = containers.next().context("a container")?.spaces;
    spaces.remove(&Space::Task(1)).context("its first process")
}

/// The first process of a container.
fn pid(node: &Node, container: &Container) -> Result<String> {
    let list = node.ctr(&["task", "ls"])?;
    let line = list.lines().find(|line| line.split_whitespace().next() == Some(&container.id));
    let pid = line.and_then(|line| line.split_whitespace().nth(1));
    pid.map(str::to_owned).with_context(|| format!("{} is not in {list}", container.id))
}

#[test]
fn what_was_written_last_is_there_before_the_rest() -> Result<()> {
    let bed = Bed::up(&LabOptions::for_tests(), Store::File, "", &[Image::Shell])?;
    // Much memory, and when it is told to some more; then it waits for ever and touches none of it, so nothing comes by a fault.
    let script = format!(
        "much=$(head -c 60000000 /dev/urandom | base64 -w 0); echo 1 >{PROGRESS}
        while [ ! -e /more ]; do sleep 0.05; done
        more=$(head -c 20000000 /dev/urandom | base64 -w 0); echo 2 >{PROGRESS}
        sleep infinity; echo $much $more"
    );
    let writer = Container::new("writer", Image::Shell, &["sh", "-c", &script]);
    writer.run(&bed.n1)?;
    writer.wait_beyond(&bed.n1, 0)?;
    let first = writer.checkpoint(&bed.n1, &[])?.checkpoint.to_string();
    ensure!(memory(&bed.n1, &first)?.recent.is_empty(), "nothing tells what was written last");
    bed.n1.write_file(&format!("{BUNDLES}/{}/rootfs/more", writer.id), "")?;
    writer.wait_beyond(&bed.n1, 1)?;
    let second = writer.checkpoint(&bed.n1, &[])?.checkpoint.to_string();

    read_at(&bed.n2, "", SLOW)?;
    let copy = writer.named("copy");
    copy.fork(&bed.n2, &second)?;
    let subject = Subject::new(&bed.n2, &copy, &second)?;
    let (recent, rest) = (pages(&subject.recent), pages(&subject.rest));
    ensure!(recent > 2000 && rest > 2 * WINDOW, "{recent} and {rest} pages are too few to tell");
    let mut looks = Vec::new();
    wait::until("what was written last to be there", SOON, || match subject.look() {
        Ok(look) => {
            looks.push(look);
            if look.0 == recent { Ok(()) } else { Err(format!("{look:?}")) }
        }
        Err(error) => Err(format!("{error:#}")),
    })?;
    ensure!(looks.len() > 1, "memory was not slow enough for this test");
    looks.pop();
    for (there, others) in looks {
        ensure!(others <= WINDOW, "{there} of {recent} were there, but {others} of {rest} others");
    }
    read_at(&bed.n2, SLOW, "")?;
    copy.wait_state(&bed.n2, "running")?;
    ensure!(subject.look()? == (recent, rest), "{:?}", subject.look()?);
    copy.remove(&bed.n2)
}
