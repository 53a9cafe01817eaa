//! `talk`: two of them check every byte of a connection between them. Several messages are on their way at any time, so that one that
//! is cut, repeated or reordered is noticed by whoever reads it.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use godwit_programs::progress::Progress;

/// Bytes in a message.
const SIZE: usize = 4096;
/// Between attempts to connect.
const AGAIN: Duration = Duration::from_millis(50);

/// Talks over one connection, and ends with status 3 when it is not as it should be.
#[derive(Parser)]
struct Arguments {
    /// Answer whoever connects to this address.
    #[arg(long, conflicts_with = "connect", required_unless_present = "connect")]
    listen: Option<String>,
    /// Ask whoever listens there.
    #[arg(long)]
    connect: Option<String>,
    /// Milliseconds between two messages, of who asks.
    #[arg(long, default_value_t = 5)]
    every_ms: u64,
    /// Messages that are on their way without an answer, of who asks.
    #[arg(long, default_value_t = 16)]
    ahead: u64,
    /// Milliseconds before each message is read, of who answers.
    #[arg(long, default_value_t = 0)]
    slow_ms: u64,
    #[command(flatten)]
    progress: Progress,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let talked = match (&arguments.listen, &arguments.connect) {
        (Some(at), _) => answer(at, &arguments),
        (None, Some(to)) => ask(to, &arguments),
        (None, None) => Ok(()),
    };
    match talked {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("talk: {error}");
            ExitCode::from(3)
        }
    }
}

/// The message of this number.
fn message(number: u64) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let word = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(word).take(SIZE / 8).flatten().collect()
}

fn read_message(from: &mut TcpStream, number: u64) -> io::Result<()> {
    let mut bytes = vec![0; SIZE];
    from.read_exact(&mut bytes)?;
    match bytes == message(number) {
        true => Ok(()),
        false => Err(io::Error::other(format!("message {number} is not as it was sent"))),
    }
}

fn answer(at: &str, arguments: &Arguments) -> io::Result<()> {
    // It listens on.
    let listener = TcpListener::bind(at)?;
    let (mut peer, _) = listener.accept()?;
    for number in 0.. {
        std::thread::sleep(Duration::from_millis(arguments.slow_ms));
        read_message(&mut peer, number)?;
        peer.write_all(&message(!number))?;
        arguments.progress.tell(&number.to_string())?;
    }
    Ok(())
}

fn ask(to: &str, arguments: &Arguments) -> io::Result<()> {
    let mut peer = loop {
        match TcpStream::connect(to) {
            Ok(peer) => break peer,
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::thread::sleep(AGAIN);
            }
            Err(error) => return Err(error),
        }
    };
    for number in 0.. {
        peer.write_all(&message(number))?;
        if let Some(answered) = number.checked_sub(arguments.ahead) {
            read_message(&mut peer, !answered)?;
            arguments.progress.tell(&answered.to_string())?;
        }
        std::thread::sleep(Duration::from_millis(arguments.every_ms));
    }
    Ok(())
}
