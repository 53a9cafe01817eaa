//! The program that is moved: everything in it is checked by itself, and it says so once in 20 ms.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

/// Memory of the parent.
const WORDS: usize = 32 << 17;
/// One word of each page is written now and then.
const STEP: usize = 512;

/// How long the other thread may take to do anything.
const STILL: Duration = Duration::from_secs(10);

/// Prints `tick <n>` for ever; ends with an error at the first thing that is wrong.
pub(crate) fn run() -> Result<()> {
    let mut memory: Vec<u64> = (0..WORDS as u64).map(mix).collect();
    let mut children = (0..2).map(|_| Partner::start()).collect::<Result<Vec<_>>>()?;
    let mut sockets = Loopback::start()?;
    let mut files = Files::open()?;
    let ticks = Arc::new(AtomicU64::new(0));
    serve(ticks.clone())?;
    let counter = thread();
    let mut written = 0_usize;
    println!("ready");
    for n in 1_u64.. {
        for child in &mut children {
            child.check(n)?;
        }
        sockets.check(n)?;
        files.check(n)?;
        written = write_some(&mut memory, written, n);
        if n % 25 == 0 {
            verify(&memory)?;
        }
        let others = counter.load(SeqCst);
        ticks.store(n, SeqCst);
        println!("tick {n} thread {others}");
        std::thread::sleep(Duration::from_millis(20));
        goes_on(&counter, others)?;
    }
    Ok(())
}

/// Answers each number with the next one.
pub(crate) fn child() -> Result<()> {
    for line in std::io::stdin().lines() {
        let n: u64 = line?.parse()?;
        println!("{}", n + 1);
    }
    Ok(())
}

fn mix(n: u64) -> u64 {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17) & !1
}

/// The lowest bit of a word says that it was written; the others never change.
fn write_some(memory: &mut [u64], mut at: usize, n: u64) -> usize {
    for _ in 0..40 {
        memory[at] = (memory[at] & !1) | (n & 1);
        at = (at + STEP) % memory.len();
    }
    at
}

fn verify(memory: &[u64]) -> Result<()> {
    for (i, word) in memory.iter().enumerate() {
        ensure!(word & !1 == mix(i as u64), "word {i} of memory is {word:#x}");
    }
    Ok(())
}

fn thread() -> Arc<AtomicU64> {
    let counter = Arc::new(AtomicU64::new(0));
    let ours = counter.clone();
    std::thread::spawn(move || {
        loop {
            ours.fetch_add(1, SeqCst);
            std::thread::sleep(Duration::from_millis(2));
        }
    });
    counter
}

/// After a freeze both sleeps are over at once, and this thread may be the first to run.
fn goes_on(counter: &AtomicU64, from: u64) -> Result<()> {
    let begun = Instant::now();
    while counter.load(SeqCst) == from {
        ensure!(begun.elapsed() < STILL, "the thread stands still");
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// A child process at the other end of two pipes.
struct Partner {
    child: Child,
    out: BufReader<std::process::ChildStdout>,
}

impl Partner {
    fn start() -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("child")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let out = BufReader::new(child.stdout.take().context("no pipe")?);
        Ok(Self { child, out })
    }

    fn check(&mut self, n: u64) -> Result<()> {
        let stdin = self.child.stdin.as_mut().context("no pipe")?;
        writeln!(stdin, "{n}")?;
        let mut line = String::new();
        self.out.read_line(&mut line)?;
        ensure!(line.trim() == (n + 1).to_string(), "a child says {line:?} to {n}");
        Ok(())
    }
}

/// A connection with itself, always with one number on the way.
struct Loopback {
    here: TcpStream,
    there: TcpStream,
    last: u64,
}

impl Loopback {
    fn start() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 9104))?;
        let here = TcpStream::connect(listener.local_addr()?)?;
        let there = listener.accept()?.0;
        let mut all = Self { here, there, last: 0 };
        all.here.write_all(&0_u64.to_le_bytes())?;
        Ok(all)
    }

    fn check(&mut self, n: u64) -> Result<()> {
        let mut bytes = [0; 8];
        self.there.read_exact(&mut bytes)?;
        let got = u64::from_le_bytes(bytes);
        ensure!(got == self.last, "loopback: {got} instead of {}", self.last);
        self.here.write_all(&n.to_le_bytes())?;
        self.last = n;
        Ok(())
    }
}

/// An open file of the layer, one on a tmpfs, one that is deleted.
struct Files {
    all: Vec<(&'static str, File)>,
}

impl Files {
    fn open() -> Result<Self> {
        let mut all = Vec::new();
        for path in ["/data", "/cache/data", "/dev/shm/data", "/gone"] {
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create_new(true).open(path);
            all.push((path, file.with_context(|| format!("making {path}"))?));
        }
        std::fs::remove_file("/gone")?;
        Ok(Self { all })
    }

    fn check(&mut self, n: u64) -> Result<()> {
        for (name, file) in &mut self.all {
            let mut text = String::new();
            file.rewind()?;
            file.read_to_string(&mut text)?;
            let expected = if n == 1 { String::new() } else { (n - 1).to_string() };
            ensure!(text == expected, "{name} holds {text:?} instead of {expected:?}");
            file.rewind()?;
            file.set_len(0)?;
            write!(file, "{n}")?;
        }
        Ok(())
    }
}

/// Tells every client the number of the last tick.
fn serve(ticks: Arc<AtomicU64>) -> Result<()> {
    let listener = Mutex::new(TcpListener::bind(("0.0.0.0", 8080))?);
    std::thread::spawn(move || {
        let Ok(listener) = listener.lock() else { return };
        while let Ok((mut client, _)) = listener.accept() {
            let _ = writeln!(client, "{}", ticks.load(SeqCst));
        }
    });
    Ok(())
}
