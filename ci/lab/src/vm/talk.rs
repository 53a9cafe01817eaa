//! Lines of JSON over a Unix socket, to QEMU (QMP) and to the guest agent (`qemu-ga`, the same manner of speaking).

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::error::{LabError, Result};
use crate::wait;

/// For one answer.
const ANSWER: Duration = Duration::from_secs(120);
/// For the agent to answer who it is; it may not run yet, and what it was asked meanwhile is lost.
const SYNC: Duration = Duration::from_secs(2);
/// What every command has around it.
const ENVIRONMENT: [&str; 3] = [
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME=/root",
    "LANG=C.UTF-8",
];

/// One conversation.
struct Talk {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
    path: PathBuf,
}

impl Talk {
    fn open(path: &Path) -> Result<Self> {
        let failed = |source| LabError::io("connecting to", path)(source);
        let stream = UnixStream::connect(path).map_err(failed)?;
        stream.set_read_timeout(Some(ANSWER)).map_err(LabError::io("using", path))?;
        let lines = BufReader::new(stream.try_clone().map_err(LabError::io("using", path))?);
        Ok(Self { stream, lines, path: path.to_owned() })
    }

    fn say(&mut self, command: &str, arguments: &Value) -> Result<()> {
        let line = match arguments {
            Value::Null => json!({ "execute": command }),
            arguments => json!({ "execute": command, "arguments": arguments }),
        };
        let sent = self.stream.write_all(format!("{line}\n").as_bytes());
        sent.map_err(LabError::io("writing to", &self.path))
    }

    /// The next line that is JSON: the agent begins some with a byte that is none.
    fn hear(&mut self) -> Result<Value> {
        loop {
            let mut line = vec![];
            let read = self.lines.read_until(b'\n', &mut line);
            if read.map_err(LabError::io("reading from", &self.path))? == 0 {
                let ended = std::io::Error::other("the other side has ended");
                return Err(LabError::io("reading from", &self.path)(ended));
            }
            if let Ok(value) = serde_json::from_slice(&line) {
                return Ok(value);
            }
        }
    }

    fn ask(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        self.say(command, arguments)?;
        loop {
            let mut heard = self.hear()?;
            if let Some(error) = heard.get("error") {
                return Err(LabError::Refused(format!("{command}: {error}")));
            }
            // Anything else is an event.
            if let Some(answer) = heard.get_mut("return") {
                return Ok(answer.take());
            }
        }
    }
}

/// QEMU itself.
pub(super) struct Monitor(Talk);

impl Monitor {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let mut talk = Talk::open(path)?;
        talk.hear()?;
        talk.ask("qmp_capabilities", &Value::Null)?;
        Ok(Self(talk))
    }

    pub(super) fn ask(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        self.0.ask(command, arguments)
    }

    /// Waits until memory and devices are where they shall be.
    pub(super) fn wait_for_migration(&mut self, patience: Duration) -> Result<()> {
        let ended = wait::until("the machine's state", patience, || {
            let told = self.ask("query-migrate", &Value::Null).map_err(|why| why.to_string())?;
            let status = told["status"].as_str().unwrap_or("none").to_owned();
            match status.as_str() {
                "completed" | "failed" | "cancelled" => Ok(status),
                _ => Err(status),
            }
        })?;
        match ended.as_str() {
            "completed" => Ok(()),
            other => Err(LabError::Refused(format!("the machine's state: {other}"))),
        }
    }
}

/// How a command in the machine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Its exit status; 128 and the signal's number for one that was killed.
    pub code: i64,
    /// What it printed.
    pub out: String,
    /// What it complained.
    pub err: String,
}

/// The agent inside. Each command is a conversation of its own; it runs on when its caller goes away.
#[derive(Debug)]
pub(super) struct Guest {
    socket: PathBuf,
}

impl Guest {
    pub(super) fn new(dir: &Path) -> Self {
        Self { socket: dir.join("guest.sock") }
    }

    /// Waits until it answers.
    pub(super) fn wait(&self, patience: Duration, is_up: impl Fn() -> bool) -> Result<()> {
        wait::until("the guest agent to answer", patience, || match self.talk() {
            Ok(_) => Ok(Ok(())),
            Err(why) if is_up() => Err(why.to_string()),
            Err(why) => Ok(Err(why)),
        })?
    }

    /// A conversation in which what is heard answers what was said: something may be left of an earlier one.
    fn talk(&self) -> Result<Talk> {
        let mut talk = Talk::open(&self.socket)?;
        let failed = || LabError::io("using", &self.socket);
        talk.stream.set_read_timeout(Some(SYNC)).map_err(failed())?;
        let id = one_time();
        talk.say("guest-sync", &json!({ "id": id }))?;
        while talk.hear()?["return"] != json!(id) {}
        talk.stream.set_read_timeout(Some(ANSWER)).map_err(failed())?;
        Ok(talk)
    }

    /// A conversation, as soon as there is one: a busy machine does not answer at once.
    fn greeted(&self, patience: Duration) -> Result<Talk> {
        wait::until("the guest agent to answer", patience, || {
            self.talk().map_err(|why| why.to_string())
        })
    }

    pub(super) fn exec(&self, words: &[&str], patience: Duration) -> Result<Ended> {
        let (program, arguments) = words.split_first().unwrap_or((&"false", &[]));
        let started = self.greeted(patience)?.ask(
            "guest-exec",
            &json!({ "path": program, "arg": arguments, "env": ENVIRONMENT, "capture-output": true }),
        )?;
        let pid = json!({ "pid": started["pid"] });
        let ended = wait::until(&words.join(" "), patience, || {
            let asked = self.talk().and_then(|mut talk| talk.ask("guest-exec-status", &pid));
            let told = asked.map_err(|why| why.to_string())?;
            if told["exited"] == true { Ok(told) } else { Err("it runs".to_owned()) }
        })?;
        let signal = ended["signal"].as_i64().map(|signal| 128 + signal);
        Ok(Ended {
            code: ended["exitcode"].as_i64().or(signal).unwrap_or(-1),
            out: text(&ended["out-data"]),
            err: text(&ended["err-data"]),
        })
    }

    pub(super) fn shutdown(&self) -> Result<()> {
        // It answers only when it cannot.
        self.greeted(ANSWER)?.say("guest-shutdown", &json!({ "mode": "powerdown" }))
    }
}

/// A number that was not said before.
fn one_time() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // What the other side reads into a signed number.
    u64::try_from(now.as_nanos()).unwrap_or_default() & (u64::MAX >> 1)
}

fn text(data: &Value) -> String {
    let bytes = STANDARD.decode(data.as_str().unwrap_or_default()).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn what_an_earlier_conversation_has_left_is_not_taken_for_an_answer() {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("guest.sock")).unwrap();
        let agent = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            stream.write_all(b"\xff{\"return\": 7}\nhalf a li\n").unwrap();
            let asked: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
            let answer = json!({ "return": asked["arguments"]["id"] });
            stream.write_all(format!("{answer}\n").as_bytes()).unwrap();
            lines.next().unwrap().unwrap();
            stream.write_all(b"{\"event\": \"x\"}\n{\"return\": {\"pid\": 5}}\n").unwrap();
        });
        let mut talk = Guest::new(dir.path()).talk().unwrap();
        assert_eq!(talk.ask("guest-exec", &Value::Null).unwrap()["pid"], 5);
        agent.join().unwrap();
    }
}
