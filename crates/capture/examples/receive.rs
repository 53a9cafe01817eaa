//! How fast a dump is received: `cargo run --release -p godwit-capture --example receive [MIB]`.
//!
//! A thread plays CRIU over the socket pair, in runs of 256 pages. One line for keeping everything, one for comparing with
//! a baseline of which every page is unchanged (the longest path: all is hashed). The sender shares the cores with the
//! receiver, as CRIU does; on a busy machine only the CPU time (of sender and receiver together) means something.

use std::fs::File;
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Instant;

use godwit_capture::{
    Arena, Baselines, Budget, CaptureError, Mode, PageServer, Preread, Stop, Target, preread,
};
use godwit_image::{FinishedPack, PackRegistry, PackSink, PackTable, SinkError, Space};
use godwit_types::{Bytes, CheckpointId, PAGE_SIZE, PageNumber, PageRange};

const TASK: u64 = 1 << 8 | 1;
const OPEN2: u32 = 4;
const ADD_LAZY_PRESENT: u32 = 6 | 6 << 16;
const FORCE_CLOSE: u32 = 0x1024;

#[derive(Debug)]
struct Nowhere;

impl PackSink for Nowhere {
    fn accept(&self, _: FinishedPack) -> Result<(), SinkError> {
        Ok(())
    }
}

fn arena(bytes: u64) -> Result<Arena, CaptureError> {
    Arena::new(Budget::new(Bytes(bytes)).reserve(Bytes(bytes))?)
}

fn header(command: u32, pages: u64, address: u64) -> [u8; 32] {
    let mut out = [0; 32];
    out[..4].copy_from_slice(&command.to_ne_bytes());
    out[8..16].copy_from_slice(&pages.to_ne_bytes());
    out[16..24].copy_from_slice(&address.to_ne_bytes());
    out[24..32].copy_from_slice(&TASK.to_ne_bytes());
    out
}

/// Sends this process's own memory from `address` on.
fn send(mut socket: File, memory: &[u8]) -> std::io::Result<()> {
    socket.write_all(&header(OPEN2, 0, 0))?;
    socket.read_exact(&mut [0])?;
    let mut address = memory.as_ptr() as u64;
    for run in memory.chunks(256 * PAGE_SIZE as usize) {
        socket.write_all(&header(ADD_LAZY_PRESENT, run.len() as u64 / PAGE_SIZE, address))?;
        socket.write_all(run)?;
        address += run.len() as u64;
    }
    socket.write_all(&header(FORCE_CLOSE, 0, 0))?;
    socket.read_exact(&mut [0; 4])
}

/// Seconds of CPU that this process has used; the unit of the kernel's file is 10 ms.
fn cpu() -> std::io::Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: f64 = fields.skip(11).take(2).filter_map(|f| f.parse::<f64>().ok()).sum();
    Ok(ticks / 100.0)
}

fn measure(name: &str, memory: &[u8], mode: Mode) -> Result<(), Box<dyn std::error::Error>> {
    let room = match &mode {
        Mode::Keep => memory.len() as u64,
        Mode::Compare { .. } => 64 << 20,
    };
    let (server, criu) = PageServer::start(arena(room)?, mode)?;
    let (start, used) = (Instant::now(), cpu()?);
    std::thread::scope(|scope| scope.spawn(|| send(File::from(criu), memory)).join())
        .map_err(|_| "the sender panicked")??;
    let seconds = start.elapsed().as_secs_f64();
    let received = server.finish()?;
    let used = cpu()? - used;
    let gib = memory.len() as f64 / f64::from(1 << 30);
    println!(
        "{name:<8} {:>6.0} ms/GiB  {:>5.2} GiB/s  {:.2} CPU-s/GiB  {} pages, {} held",
        seconds * 1e3 / gib,
        gib / seconds,
        used / gib,
        received.pages(),
        received.held_pages()
    );
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mib: u64 = std::env::args().nth(1).map_or(Ok(1024), |a| a.parse())?;
    let bytes = mib << 20;
    let mut span = arena(bytes)?.take(bytes as usize)?;
    for (i, word) in span.bytes_mut().chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&(i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_ne_bytes());
    }
    let memory = span.bytes();
    let first = PageNumber::of_address(memory.as_ptr() as u64);
    let target = Target {
        space: Space::Task(1),
        pid: std::process::id() as i32,
        ranges: vec![PageRange::new(first, bytes / PAGE_SIZE)],
    };
    let packs = PackRegistry::new(CheckpointId::mint(), PackTable::default());
    let request = Preread {
        targets: vec![target],
        parent: None,
        packs: &packs,
        sink: Arc::new(Nowhere),
        threads: 2,
        stop: &Stop::new(),
    };
    let (start, used) = (Instant::now(), cpu()?);
    let (baselines, stats) = preread(&request)?;
    let (gib, used) = (mib as f64 / 1024.0, cpu()? - used);
    println!(
        "preread  {:.2} GiB/s  {:.2} CPU-s/GiB, {} stored",
        gib / start.elapsed().as_secs_f64(),
        used / gib,
        Bytes(stats.stored)
    );
    let baselines: Arc<Baselines> = baselines.into();
    for _ in 0..3 {
        measure("keep", memory, Mode::Keep)?;
        let baselines = Arc::clone(&baselines);
        measure("compare", memory, Mode::Compare { baselines, threads: 2 })?;
    }
    Ok(())
}
