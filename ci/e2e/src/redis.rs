//! A Redis server's client: the few RESP commands that are needed, and a fill of random and JSON values. [`load`] is the client that
//! works without end and can prove what the server must hold.

pub mod load;

use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Result, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use godwit_lab::wait;

use crate::container::SOON;

/// Where it listens.
pub const PORT: u16 = 6379;

const CONNECT_TIMEOUT: Duration = Duration::from_millis(200);
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);

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

/// The client of the server at this address, once it answers.
///
/// # Errors
/// It does not in time.
pub fn connect(address: impl Into<IpAddr>) -> anyhow::Result<Client> {
    let address = SocketAddr::new(address.into(), PORT);
    Ok(wait::until("Redis to answer", SOON, || {
        let mut client = Client::connect(address)?;
        client.call(&[b"PING"])?;
        // Memory that is still on its way may be late on a busy machine.
        client.stream.get_ref().set_read_timeout(Some(SOON))?;
        Ok::<_, Error>(client)
    })?)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fill_values_have_their_length_and_are_repeatable() {
        for n in [0, 1, 2, 77] {
            assert_eq!(fill_value(n, 4096).len(), 4096);
            assert_eq!(fill_value(n, 4096), fill_value(n, 4096));
        }
        assert_ne!(fill_value(0, 64), fill_value(2, 64));
    }
}
