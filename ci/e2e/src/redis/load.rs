//! A client that remembers what the server has acknowledged, and checks it.
//!
//! Owns: [`Load`], a writer that checks every reply, reconnects when the server moves, and can afterwards prove that no acknowledged
//! write is lost. A write whose reply never came may or may not have happened: both are accepted, for that one write only.

use std::collections::HashMap;
use std::io::{ErrorKind, Result};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::ensure;
use godwit_lab::wait;
use serde::Serialize;

use super::{Client, Value, check_fill, invalid};
use crate::container::SOON;

const RETRY_PAUSE: Duration = Duration::from_millis(2);
/// A client works steadily when it gets so many correct replies more.
const STEADY: u64 = 2000;

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

/// What was proved.
#[derive(Debug, Clone, Serialize)]
pub struct Proof {
    /// Writes that the server acknowledged during the moves.
    pub acknowledged_writes: u64,
    /// Reads whose values were checked during the moves.
    pub checked_reads: u64,
    /// Acknowledged writes that are not there.
    pub lost_writes: u64,
    /// Values of the fill that were read back and compared.
    pub values_checked: u64,
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
    place: Mutex<Place>,
}

/// Where the server is.
#[derive(Debug, Default)]
struct Place {
    /// It is asked at these, in this order.
    addresses: Vec<SocketAddr>,
    connection: Option<TcpStream>,
}

impl Shared {
    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
        let place = Mutex::new(Place { addresses, connection: None });
        let shared = Arc::new(Shared { place, ..Shared::default() });
        let thread = std::thread::spawn({
            let (shared, next) = (Arc::clone(&shared), seen.next());
            move || Worker { shared, seen, next }.run()
        });
        Self { shared, thread }
    }

    /// Correct replies since its start.
    #[must_use]
    pub fn replies(&self) -> u64 {
        self.shared.replies.load(Ordering::Relaxed)
    }

    /// Waits until it has had so many more correct replies that it works steadily.
    ///
    /// # Errors
    /// It has not in time.
    pub fn wait_steady(&self) -> anyhow::Result<()> {
        let enough = self.replies() + STEADY;
        wait::until("the client to get correct replies", SOON, || match self.replies() {
            now if now >= enough => Ok(()),
            now => Err(format!("{now} of {enough}")),
        })?;
        Ok(())
    }

    /// The server is here now, and nowhere else: nobody answers any more where it was, not even that nobody is there.
    pub fn follow(&self, address: SocketAddr) {
        let mut place = self.shared.place();
        place.addresses = vec![address];
        if let Some(connection) = place.connection.take() {
            // One that has ended does not need it.
            let _ = connection.shutdown(Shutdown::Both);
        }
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
    shared: Arc<Shared>,
    seen: Seen,
    next: u64,
}

impl Worker {
    fn run(mut self) -> Seen {
        while !self.stopped() {
            match self.connect() {
                Some(client) => self.session(client),
                None => std::thread::sleep(RETRY_PAUSE),
            }
        }
        self.seen
    }

    fn connect(&self) -> Option<Client> {
        let addresses = self.shared.place().addresses.clone();
        let client = addresses.iter().find_map(|a| Client::connect(*a).ok())?;
        let mut place = self.shared.place();
        place.connection = client.stream.get_ref().try_clone().ok();
        // It has moved meanwhile.
        (place.addresses == addresses).then_some(client)
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

    /// Checks what a copy holds that was taken after this was seen and before `later` was: returns a sentence for each key that was
    /// never like that in between.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn not_between(&self, later: &Self, client: &mut Client) -> Result<Vec<String>> {
        let mut wrong = Vec::new();
        for (key, written) in &later.keys {
            let (held, before) = (read_key(client, *key)?, self.keys.get(key));
            let least = before.and_then(|before| before.acknowledged);
            if held < least || held > written.acknowledged.max(written.unanswered) {
                wrong.push(format!(
                    "load:{key} holds {held:?}: {before:?} before, {written:?} after"
                ));
            }
        }
        Ok(wrong)
    }

    /// Every acknowledged write is there, no reply was ever wrong, and so many values of the fill are as they were.
    ///
    /// # Errors
    /// What is not.
    pub fn prove(&self, client: &mut Client, keys: u64) -> anyhow::Result<Proof> {
        ensure!(self.wrong.is_empty(), "wrong replies: {:?}", self.wrong);
        let lost = self.lost(client)?;
        ensure!(lost.is_empty(), "lost writes: {lost:?}");
        let wrong = check_fill(client, keys)?;
        ensure!(wrong.is_empty(), "{} of {keys} values are wrong", wrong.len());
        Ok(Proof {
            acknowledged_writes: self.writes,
            checked_reads: self.reads,
            lost_writes: 0,
            values_checked: keys,
        })
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
}
