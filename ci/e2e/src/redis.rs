//! A Redis client that remembers what the server has acknowledged, and checks it.
//!
//! Owns: the few RESP commands that are needed, a fill of random and JSON values, and [`Load`]: a writer that checks every
//! reply, reconnects when the server moves, and can afterwards prove that no acknowledged write is lost. A write whose reply
//! never came may or may not have happened: both are accepted, for that one write only.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const CONNECT_TIMEOUT: Duration = Duration::from_millis(200);
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);
const RETRY_PAUSE: Duration = Duration::from_millis(2);

/// A connection to a Redis server.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<TcpStream>,
}

/// A reply of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A status such as `OK`.
    Status(String),
    /// A number.
    Integer(i64),
    /// Bytes.
    Bulk(Vec<u8>),
    /// No such key.
    Nil,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// The operating system's.
    pub fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Sends one command and waits for its reply.
    ///
    /// # Errors
    /// The operating system's; `InvalidData` for an error reply or for what is no RESP.
    pub fn call(&mut self, parts: &[&[u8]]) -> Result<Value> {
        self.send(parts)?;
        self.reply()
    }

    /// Sends one command; the caller reads the reply later.
    ///
    /// # Errors
    /// The operating system's.
    pub fn send(&mut self, parts: &[&[u8]]) -> Result<()> {
        let mut bytes = format!("*{}\r\n", parts.len()).into_bytes();
        for part in parts {
            bytes.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
            bytes.extend_from_slice(part);
            bytes.extend_from_slice(b"\r\n");
        }
        self.stream.get_mut().write_all(&bytes)
    }

    /// Reads one reply.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn reply(&mut self) -> Result<Value> {
        let line = self.line()?;
        let (kind, rest) = line.split_at(1);
        match kind {
            "+" => Ok(Value::Status(rest.to_owned())),
            ":" => rest.parse().map(Value::Integer).map_err(|_| invalid(&line)),
            "$" if rest == "-1" => Ok(Value::Nil),
            "$" => self.bulk(rest.parse().map_err(|_| invalid(&line))?).map(Value::Bulk),
            _ => Err(invalid(&line)),
        }
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end().to_owned();
        if line.is_empty() { Err(invalid("an empty line")) } else { Ok(line) }
    }

    fn bulk(&mut self, len: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len + 2];
        self.stream.read_exact(&mut bytes)?;
        bytes.truncate(len);
        Ok(bytes)
    }
}

fn invalid(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, format!("unexpected reply: {what}"))
}

/// A generator whose values are the same in every process: what key `n` must hold is computed, not remembered.
fn random(seed: u64) -> impl Iterator<Item = u64> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    })
}

/// The value that [`fill`] gives key `n`: every second one random bytes, the others JSON.
#[must_use]
pub fn fill_value(n: u64, len: usize) -> Vec<u8> {
    if n.is_multiple_of(2) {
        return random(n + 1).flat_map(u64::to_le_bytes).take(len).collect();
    }
    let mut text = String::with_capacity(len + 80);
    for word in random(n + 1) {
        if text.len() >= len {
            break;
        }
        text.push_str(&format!(
            "{{\"id\":{},\"user\":\"user-{:04}\",\"active\":{},\"score\":{}.{:02}}},",
            word >> 40,
            word % 9000,
            word & 1 == 1,
            word % 1000,
            word % 100
        ));
    }
    let mut bytes = text.into_bytes();
    bytes.truncate(len);
    bytes
}

/// Fills the server with about `mib` MiB in values of 16 KiB under `fill:<n>`; returns how many keys.
///
/// # Errors
/// As [`Client::call`].
pub fn fill(client: &mut Client, mib: u64) -> Result<u64> {
    const VALUE: usize = 16 << 10;
    const BATCH: u64 = 64;
    let keys = (mib << 20) / VALUE as u64;
    for batch in (0..keys).step_by(BATCH as usize) {
        let end = keys.min(batch + BATCH);
        for n in batch..end {
            client.send(&[b"SET", format!("fill:{n}").as_bytes(), &fill_value(n, VALUE)])?;
        }
        for _ in batch..end {
            client.reply()?;
        }
    }
    Ok(keys)
}

/// Checks every key of [`fill`]; returns the keys that do not hold what they must.
///
/// # Errors
/// As [`Client::call`].
pub fn check_fill(client: &mut Client, keys: u64) -> Result<Vec<u64>> {
    let mut wrong = Vec::new();
    for n in 0..keys {
        let held = client.call(&[b"GET", format!("fill:{n}").as_bytes()])?;
        if held != Value::Bulk(fill_value(n, 16 << 10)) {
            wrong.push(n);
        }
    }
    Ok(wrong)
}

/// What a [`Load`] has seen.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Acknowledged writes.
    pub writes: u64,
    /// Reads whose value was checked.
    pub reads: u64,
    /// Connections that ended.
    pub reconnects: u64,
    /// Longest time between two correct replies.
    pub longest_gap: Duration,
    /// When the last correct reply came.
    pub last_reply: Option<Instant>,
    /// Per key: the last acknowledged number, and one that was sent without an answer.
    pub keys: HashMap<u64, Written>,
    /// Replies that no correct server gives.
    pub wrong: Vec<String>,
}

/// What one key may hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// The last acknowledged number.
    pub acknowledged: Option<u64>,
    /// A number that was sent and never answered.
    pub unanswered: Option<u64>,
}

impl Written {
    /// Whether the key may hold this.
    #[must_use]
    pub fn allows(&self, held: Option<u64>) -> bool {
        held == self.acknowledged || (held.is_some() && held == self.unanswered)
    }
}

/// A client that writes and checks without end, on a thread of its own, wherever the server is.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    thread: JoinHandle<Seen>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    /// Correct replies so far.
    replies: AtomicU64,
}

const KEYS: u64 = 1000;

impl Load {
    /// Starts; each connection goes to the first of the addresses that answers.
    #[must_use]
    pub fn start(addresses: Vec<SocketAddr>) -> Self {
        Self::go_on(addresses, Seen::default())
    }

    /// Goes on with what an earlier one has seen, counts and checks it too; the time in between is no gap.
    #[must_use]
    pub fn go_on(addresses: Vec<SocketAddr>, seen: Seen) -> Self {
        let seen = Seen { longest_gap: Duration::ZERO, last_reply: None, ..seen };
        let shared = Arc::new(Shared::default());
        let thread = std::thread::spawn({
            let (shared, next) = (Arc::clone(&shared), seen.next());
            move || Worker { addresses, shared, seen, next }.run()
        });
        Self { shared, thread }
    }

    /// Correct replies since its start.
    #[must_use]
    pub fn replies(&self) -> u64 {
        self.shared.replies.load(Ordering::Relaxed)
    }

    /// Stops and tells what was seen.
    ///
    /// # Panics
    /// If the thread did.
    #[must_use]
    #[expect(clippy::expect_used, reason = "for tests and the demo")]
    pub fn stop(self) -> Seen {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the load's thread ends by itself")
    }
}

struct Worker {
    addresses: Vec<SocketAddr>,
    shared: Arc<Shared>,
    seen: Seen,
    next: u64,
}

impl Worker {
    fn run(mut self) -> Seen {
        while !self.stopped() {
            match self.addresses.iter().find_map(|a| Client::connect(*a).ok()) {
                Some(client) => self.session(client),
                None => std::thread::sleep(RETRY_PAUSE),
            }
        }
        self.seen
    }

    fn stopped(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed)
    }

    /// Works until the connection ends or is stopped.
    fn session(&mut self, mut client: Client) {
        while !self.stopped() {
            if let Err(error) = self.turn(&mut client) {
                if error.kind() == ErrorKind::InvalidData {
                    self.seen.wrong.push(error.to_string());
                }
                self.seen.reconnects += 1;
                std::thread::sleep(RETRY_PAUSE);
                return;
            }
        }
    }

    /// One write and one read.
    fn turn(&mut self, client: &mut Client) -> Result<()> {
        let number = self.next;
        self.next += 1;
        self.write(client, number % KEYS, number)?;
        self.read(client, number.wrapping_mul(7919) % KEYS)
    }

    fn write(&mut self, client: &mut Client, key: u64, number: u64) -> Result<()> {
        let entry = self.seen.keys.entry(key).or_default();
        entry.unanswered = Some(number);
        let value = format!("{number}");
        let reply = client.call(&[b"SET", format!("load:{key}").as_bytes(), value.as_bytes()])?;
        if reply != Value::Status("OK".to_owned()) {
            return Err(invalid(&format!("{reply:?} to SET")));
        }
        *entry = Written { acknowledged: Some(number), unanswered: None };
        self.seen.writes += 1;
        self.replied();
        Ok(())
    }

    fn read(&mut self, client: &mut Client, key: u64) -> Result<()> {
        let held = read_key(client, key)?;
        let entry = self.seen.keys.entry(key).or_default();
        if !entry.allows(held) {
            self.seen.wrong.push(format!("load:{key} holds {held:?}, allowed is {entry:?}"));
        }
        if held.is_some() && held == entry.unanswered {
            *entry = Written { acknowledged: held, unanswered: None };
        }
        self.seen.reads += 1;
        self.replied();
        Ok(())
    }

    fn replied(&mut self) {
        self.shared.replies.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        if let Some(last) = self.seen.last_reply.replace(now) {
            self.seen.longest_gap = self.seen.longest_gap.max(now - last);
        }
    }
}

fn read_key(client: &mut Client, key: u64) -> Result<Option<u64>> {
    match client.call(&[b"GET", format!("load:{key}").as_bytes()])? {
        Value::Nil => Ok(None),
        Value::Bulk(bytes) => {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            text.parse().map(Some).map_err(|_| invalid(&text))
        }
        other => Err(invalid(&format!("{other:?} to GET"))),
    }
}

impl Seen {
    /// A number that was never written.
    fn next(&self) -> u64 {
        let numbers = self.keys.values().flat_map(|key| [key.acknowledged, key.unanswered]);
        1 + numbers.flatten().max().unwrap_or(0)
    }

    /// Checks every key that was ever written; returns a sentence for each that lost an acknowledged write.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn lost(&self, client: &mut Client) -> Result<Vec<String>> {
        let mut lost = Vec::new();
        for (key, written) in &self.keys {
            let held = read_key(client, *key)?;
            if !written.allows(held) {
                lost.push(format!("load:{key} holds {held:?}, allowed is {written:?}"));
            }
        }
        Ok(lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unanswered_write_may_have_happened_or_not_and_nothing_else() {
        let written = Written { acknowledged: Some(4), unanswered: Some(9) };
        assert!(written.allows(Some(4)) && written.allows(Some(9)));
        assert!(!written.allows(Some(5)) && !written.allows(None));
        assert!(!Written { acknowledged: Some(4), unanswered: None }.allows(None));
    }

    #[test]
    fn who_goes_on_never_writes_a_number_again() {
        let mut seen = Seen::default();
        assert_eq!(seen.next(), 1);
        seen.keys.insert(1, Written { acknowledged: Some(4), unanswered: Some(9) });
        seen.keys.insert(2, Written { acknowledged: Some(7), unanswered: None });
        assert_eq!(seen.next(), 10);
    }

    #[test]
    fn fill_values_have_their_length_and_are_repeatable() {
        for n in [0, 1, 2, 77] {
            assert_eq!(fill_value(n, 4096).len(), 4096);
            assert_eq!(fill_value(n, 4096), fill_value(n, 4096));
        }
        assert_ne!(fill_value(0, 64), fill_value(2, 64));
    }
}
