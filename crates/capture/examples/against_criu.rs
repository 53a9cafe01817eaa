//! Captures a process with the real CRIU and proves every byte: `against_criu CRIU DIRECTORY [MIB]`, as root.
//!
//! Starts itself as two processes with private and shared memory and zeros, which write all the time. Then: a dump that does
//! not fit (and must leave them running), a full dump that is kept, an increment that is compared with a pre-read of the
//! running processes, and an increment that is compared with its parent alone. Each must read back, through page maps and
//! packs, as the memory that the stopped processes have. DIRECTORY takes CRIU's images and log, and the files by which the
//! processes are told what to do.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::error::Error;
use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use godwit_capture::{
    Arena, Assembly, Baselines, Budget, FrozenState, Mode, PageServer, Parent, Preread, Received,
    Stop, Target, assemble, preread, resident,
};
use godwit_image::{
    FinishedPack, FrameDecoder, FrameRef, FrameSource, PackName, PackRegistry, PackSink, PackTable,
    PageSource, SinkError, Space, SpaceHead,
};
use godwit_types::{Bytes, CheckpointId, Code, PAGE_SIZE};

type Result<T> = std::result::Result<T, Box<dyn Error>>;
type Spaces = BTreeMap<Space, SpaceHead>;

const PAGE: usize = PAGE_SIZE as usize;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [_, "memory", orders, mib] => memory(Path::new(orders), mib.parse()?, true),
        [_, "child", orders, mib] => memory(Path::new(orders), mib.parse()?, false),
        [_, criu, directory] => prove(criu, Path::new(directory), 64),
        [_, criu, directory, mib] => prove(criu, Path::new(directory), mib.parse()?),
        _ => Err("against_criu CRIU DIRECTORY [MIB]".into()),
    }
}

/// A process that is captured: writes while the file says `write`, else waits.
fn memory(orders: &Path, mib: usize, with_child: bool) -> Result<()> {
    let _child = with_child.then(|| start_child(orders)).transpose()?;
    let shared = File::from(rustix::fs::memfd_create(SHARED, rustix::fs::MemfdFlags::empty())?);
    let bytes = Bytes((mib as u64) << 20);
    let arena = Arena::new(Budget::new(bytes).reserve(bytes)?)?;
    let mut span = arena.take(bytes.0 as usize)?;
    let pages = span.bytes().len() / PAGE;
    let mut round = 1u64;
    for page in 0..pages {
        fill(&mut span.bytes_mut()[page * PAGE..(page + 1) * PAGE], page as u64, round);
    }
    let done = orders.with_extension(if with_child { "done" } else { "child" });
    let mut last = String::new();
    loop {
        let order = fs::read_to_string(orders).unwrap_or_default();
        if order.starts_with("write") {
            round += 1;
            for i in 0..pages / 50 {
                let page = (i * 7919 + round as usize * 31) % pages;
                let bytes = &mut span.bytes_mut()[page * PAGE..(page + 1) * PAGE];
                fill(bytes, page as u64, round);
                shared.write_all_at(bytes, (page % 200 * PAGE) as u64)?;
            }
        }
        if order != last {
            fs::write(&done, &order)?;
            last = order;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Name of the memory file that each process has.
const SHARED: &str = "against-criu";

fn start_child(orders: &Path) -> Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["child", &orders.to_string_lossy(), "3"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(command.spawn()?)
}

/// Zeros in every fifth page, else something that depends on page and round.
fn fill(page: &mut [u8], number: u64, round: u64) {
    let zero = (number + round).is_multiple_of(5);
    for (i, word) in page.chunks_exact_mut(8).enumerate() {
        let value = (number << 20 | i as u64).wrapping_mul(round | 1).rotate_left(i as u32 % 64);
        word.copy_from_slice(&if zero { 0 } else { value }.to_ne_bytes());
    }
}

/// The captured processes, killed when dropped.
struct Writer {
    child: Child,
    orders: PathBuf,
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.signal("-KILL");
        let _ = self.child.wait();
    }
}

impl Writer {
    fn start(directory: &Path, mib: usize) -> Result<Self> {
        let orders = directory.join("orders");
        fs::write(&orders, "wait 0")?;
        for done in ["done", "child"] {
            let _ = fs::remove_file(orders.with_extension(done));
        }
        // A session of its own: CRIU dumps whole sessions. setsid execs, so the pid stays.
        let mut command = Command::new("setsid");
        command.arg(std::env::current_exe()?);
        command.args(["memory", &orders.to_string_lossy(), &mib.to_string()]);
        // The kernel writes the number of the processor into a thread's rseq area whenever it moves, also while CRIU's
        // code runs in it after the dump: without rseq no byte changes between the dump and the comparison.
        command.env("GLIBC_TUNABLES", "glibc.pthread.rseq=0");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let writer = Self { child: command.spawn()?, orders };
        writer.reached("wait 0")?;
        Ok(writer)
    }

    fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// CRIU leaves them stopped, so that their memory can be compared.
    fn go_on(&self) -> Result<()> {
        self.signal("-CONT")
    }

    fn signal(&self, signal: &str) -> Result<()> {
        let group = format!("-{}", self.pid());
        Command::new("kill").args([signal, "--", &group]).status()?;
        Ok(())
    }

    fn order(&self, order: &str) -> Result<()> {
        fs::write(self.orders.with_extension("new"), order)?;
        fs::rename(self.orders.with_extension("new"), &self.orders)?;
        self.reached(order)
    }

    fn reached(&self, order: &str) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        for done in ["done", "child"] {
            let done = self.orders.with_extension(done);
            while fs::read_to_string(&done).unwrap_or_default() != order {
                if Instant::now() > deadline {
                    return Err(format!("a process does not do: {order}").into());
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }
}

/// Packs in memory.
#[derive(Debug, Default)]
struct Shelf(Mutex<BTreeMap<PackName, Vec<u8>>>);

impl PackSink for Shelf {
    fn accept(&self, pack: FinishedPack) -> std::result::Result<(), SinkError> {
        self.0
            .lock()
            .map_err(|_| SinkError::new(Code::Internal, "lock"))?
            .insert(pack.name, pack.bytes);
        Ok(())
    }
}

struct Reader<'a>(&'a Shelf, PackTable);

impl FrameSource for Reader<'_> {
    fn frame(&self, frame: FrameRef) -> std::result::Result<Vec<u8>, SinkError> {
        let failed = |e: godwit_image::ImageError| SinkError::with_source(e.code(), "reading", e);
        let at = self.1.locate(frame).map_err(failed)?;
        let packs = self.0.0.lock().map_err(|_| SinkError::new(Code::Internal, "lock"))?;
        let range = at.frame.byte_range();
        let pack = packs.get(&at.pack.name).ok_or(SinkError::new(Code::NotFound, "a pack"))?;
        let stored = &pack[range.start as usize..range.end as usize];
        FrameDecoder::new().and_then(|mut d| d.decode(at.frame, stored)).map_err(failed)
    }
}

struct Proof<'a> {
    criu: &'a str,
    directory: &'a Path,
    writer: Writer,
    shelf: Arc<Shelf>,
}

fn prove(criu: &str, directory: &Path, mib: usize) -> Result<()> {
    fs::create_dir_all(directory)?;
    let writer = Writer::start(directory, mib)?;
    let proof = Proof { criu, directory, writer, shelf: Arc::default() };
    let stop = Stop::new();

    if let Ok(received) = proof.dump("too big", Mode::Keep, Bytes(1 << 20)) {
        return Err(format!("{} pages came through 1 MiB", received.pages()).into());
    }
    proof.writer.order("write 0")?;
    println!("a dump that does not fit fails and the processes go on");
    proof.writer.order("wait 1")?;

    let first = registry(1, PackTable::default());
    let room = Bytes((mib as u64 + 32) << 20);
    let received = proof.dump("full, kept", Mode::Keep, room)?;
    let full = proof.assemble("full, kept", &received, None, None, &first)?;

    proof.writer.order("write 1")?;
    let second = registry(2, first.table());
    let reader = Reader(&proof.shelf, first.table());
    let parent = Parent { spaces: &full, frames: &reader };
    let pid = proof.writer.pid();
    let seen = resident(pid, &stop)?;
    println!("resident: {} private, {} shared", seen.private, seen.shared_bytes());
    let space = Space::Task(pid as u32);
    let request = Preread {
        targets: vec![Target { space, pid, ranges: seen.readable }],
        parent: Some(parent),
        packs: &second,
        sink: Arc::clone(&proof.shelf) as _,
        threads: 2,
        stop: &stop,
    };
    let start = Instant::now();
    let (baselines, stats) = preread(&request)?;
    println!("pre-read in {:.0?}: {stats:?}", start.elapsed());
    proof.writer.order("wait 2")?;
    let baselines = Arc::new(baselines);
    let received = proof.dump("pre-read, compared", compare(&baselines), room)?;
    let next =
        proof.assemble("pre-read, compared", &received, Some(&baselines), Some(parent), &second)?;

    proof.writer.order("write 3")?;
    proof.writer.order("wait 3")?;
    let third = registry(3, second.table());
    let reader = Reader(&proof.shelf, second.table());
    let parent = Parent { spaces: &next, frames: &reader };
    let baselines = Arc::new(Baselines::of_parent(&parent, &stop)?);
    let received = proof.dump("parent, compared", compare(&baselines), room)?;
    proof.assemble("parent, compared", &received, Some(&baselines), Some(parent), &third)?;
    println!("every page of every checkpoint is the one that the process had");
    Ok(())
}

fn compare(baselines: &Arc<Baselines>) -> Mode {
    Mode::Compare { baselines: Arc::clone(baselines), threads: 2 }
}

fn registry(id: u128, parent: PackTable) -> Arc<PackRegistry> {
    PackRegistry::new(CheckpointId::from(id), parent)
}

impl Proof<'_> {
    fn dump(&self, name: &str, mode: Mode, room: Bytes) -> Result<Received> {
        let images = self.directory.join(name.replace([',', ' '], "-"));
        fs::create_dir_all(&images)?;
        let arena = Arena::new(Budget::new(room).reserve(room)?)?;
        let (server, criu_end) = PageServer::start(arena, mode)?;
        let start = Instant::now();
        let status = self.run_criu(&images, criu_end)?;
        if !status {
            let log = fs::read_to_string(images.join("dump.log")).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(15).collect();
            return Err(format!("{:?}\n{}", server.finish().err(), tail.join("\n")).into());
        }
        let received = server.finish()?;
        println!(
            "{name}: CRIU ran {:.0?}, header {:?}, {} pages, {} held",
            start.elapsed(),
            received.layout(),
            received.pages(),
            received.held_pages()
        );
        Ok(received)
    }

    /// Which process a segment belongs to is not said by its id: it must be one of them, byte by byte.
    fn compare_shared(&self, head: &SpaceHead, reader: &Reader<'_>) -> Result<u64> {
        let group = self.writer.pid();
        let children = fs::read_to_string(format!("/proc/{group}/task/{group}/children"))?;
        let children = children.split_whitespace().filter_map(|pid| pid.parse().ok());
        let mut wrong = "no process has shared memory".into();
        for pid in std::iter::once(group).chain(children) {
            for file in shared_files(pid)? {
                match compare_space(head, reader, &file) {
                    Ok(pages) => return Ok(pages),
                    Err(e) => wrong = e,
                }
            }
        }
        Err(wrong)
    }

    fn run_criu(&self, images: &Path, criu_end: OwnedFd) -> Result<bool> {
        let inherited = rustix::io::dup(&criu_end)?;
        rustix::io::fcntl_setfd(&inherited, rustix::io::FdFlags::empty())?;
        drop(criu_end);
        let mut command = Command::new(self.criu);
        command.args([
            "dump",
            "--leave-stopped",
            "--page-server",
            "--shell-job",
            "-v4",
            "-o",
            "dump.log",
        ]);
        command.args(["--ps-socket", &inherited.as_raw_fd().to_string()]);
        command.args(["-t", &self.writer.pid().to_string(), "-D"]).arg(images);
        Ok(command.status()?.success())
    }

    /// Assembles and compares every page with the memory of the process.
    fn assemble(
        &self,
        name: &str,
        received: &Received,
        baselines: Option<&Baselines>,
        parent: Option<Parent<'_>>,
        packs: &Arc<PackRegistry>,
    ) -> Result<Spaces> {
        let start = Instant::now();
        let assembly = Assembly {
            received,
            baselines,
            parent,
            laziness: &BTreeMap::new(),
            packs,
            sink: Arc::clone(&self.shelf) as _,
            threads: 2,
            stop: &Stop::new(),
        };
        let out = assemble(&assembly)?;
        println!("{name}: assembled in {:.0?}: {:?}", start.elapsed(), out.stats);
        let reader = Reader(&self.shelf, packs.table());
        let mut pages = 0u64;
        for (space, head) in &out.spaces {
            pages += match space {
                Space::Task(pid) => {
                    compare_space(head, &reader, &File::open(format!("/proc/{pid}/mem"))?)?
                }
                Space::Shmem(_) => self.compare_shared(head, &reader)?,
            };
        }
        if pages != out.stats.pages || pages != received.pages() {
            return Err(format!("{pages} pages were read back").into());
        }
        self.writer.go_on()?;
        let states = received.spaces().values().flatten();
        let same = states.filter(|r| r.state == FrozenState::Same).map(|r| r.range.count);
        println!("{name}: {pages} pages are right, {} of them unchanged", same.sum::<u64>());
        Ok(out.spaces)
    }
}

/// The memory files of a process, by way of its descriptors.
fn shared_files(pid: i32) -> Result<Vec<File>> {
    let mut out = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let path = entry?.path();
        if fs::read_link(&path).is_ok_and(|link| link.to_string_lossy().contains(SHARED)) {
            out.push(File::open(path)?);
        }
    }
    Ok(out)
}

fn compare_space(head: &SpaceHead, reader: &Reader<'_>, live: &File) -> Result<u64> {
    let mut pages = 0;
    let mut bytes = [0; PAGE];
    let mut frames: BTreeMap<FrameRef, Vec<u8>> = BTreeMap::new();
    for run in head.map.runs() {
        let frame = match run.source {
            PageSource::Zero => None,
            PageSource::Stored { frame, .. } => Some(match frames.entry(frame) {
                Entry::Occupied(e) => e.into_mut(),
                Entry::Vacant(e) => e.insert(reader.frame(frame)?),
            }),
        };
        for i in 0..run.range.count {
            let address = run.range.first.address() + i * PAGE_SIZE;
            live.read_exact_at(&mut bytes, address)?;
            let stored = match (&frame, run.source.advanced(i).frame_offset()) {
                (Some(raw), Some((_, at))) => &raw[at..at + PAGE],
                _ => &[0; PAGE],
            };
            if bytes != *stored {
                let differ = bytes.iter().zip(stored).filter(|(a, b)| a != b).count();
                return Err(format!("the page at {address:#x} is wrong: {differ} bytes").into());
            }
            pages += 1;
        }
    }
    Ok(pages)
}
