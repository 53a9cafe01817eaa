//! The program itself, with a store of its own or an agent that only answers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests, outside the test functions"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use godwit_types::{CheckpointId, Code};
use godwit_wire::api::{Failure, Progress, Reply, Request, StoreCommand};
use serde_json::{Value, json};

fn godwit(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_godwit"));
    for name in [
        "GODWIT_STORE",
        "GODWIT_S3_ENDPOINT",
        "GODWIT_S3_REGION",
        "GODWIT_S3_PATH_STYLE",
        "GODWIT_AGENT",
    ] {
        command.env_remove(name);
    }
    command.args(words).stdin(Stdio::null());
    command
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("it was killed by a signal")
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn document(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("no JSON document ({e}): {text:?}"))
}

#[test]
fn a_switch_in_the_environment_is_written_as_people_write_it() {
    for value in ["", "0", "1", "false", "true", "no", "yes", "off", "on"] {
        let version = godwit(&["version"]).env("GODWIT_S3_PATH_STYLE", value).output().unwrap();
        assert_eq!(code(&version), 0, "{value:?}: {}", errors(&version));
    }
}

#[test]
fn what_is_exported_and_empty_is_not_set_and_what_is_typed_is_meant() {
    let list = ["list", "--store", "file:///nowhere/at/all"];
    let mut exported = godwit(&list);
    for name in ["GODWIT_S3_ENDPOINT", "GODWIT_S3_REGION", "GODWIT_S3_PATH_STYLE"] {
        exported.env(name, "");
    }
    let exported = exported.output().unwrap();
    assert_eq!(code(&exported), 3, "there is no store: {}", errors(&exported));
    let typed = godwit(&list).args(["--s3-endpoint", ""]).output().unwrap();
    assert_eq!(code(&typed), 8, "{}", errors(&typed));
}

/// An agent that answers as it is told.
struct FakeAgent {
    _dir: tempfile::TempDir,
    socket: PathBuf,
    listener: UnixListener,
}

struct Asked {
    request: Request,
    lines: BufReader<UnixStream>,
}

impl FakeAgent {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("agent.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        Self { _dir: dir, socket, listener }
    }

    fn ask(&self, words: &[&str]) -> Child {
        let mut command = godwit(words);
        command.arg("--agent").arg(&self.socket).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    fn next(&self) -> Asked {
        let (stream, _) = self.listener.accept().unwrap();
        let mut lines = BufReader::new(stream);
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        Asked { request: serde_json::from_str(&line).unwrap(), lines }
    }
}

impl Asked {
    fn reply(&mut self, reply: &Reply) {
        let line = serde_json::to_string(reply).unwrap();
        writeln!(self.lines.get_mut(), "{line}").unwrap();
    }

    fn deletes(&self) -> CheckpointId {
        match &self.request {
            Request::Store { command: StoreCommand::Delete { checkpoint, .. }, .. } => *checkpoint,
            other => panic!("not a deletion: {other:?}"),
        }
    }

    fn done(&mut self) {
        let result = json!({ "of": "deleted", "checkpoint": self.deletes() });
        self.reply(&Reply::Done { result });
    }
}

fn refusal(code: Code, message: &str) -> Reply {
    Reply::Failed(Failure { code, message: message.to_owned(), causes: Vec::new() })
}

fn interrupt(child: &Child) {
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
}

#[test]
fn a_reader_that_is_gone_ends_no_command_with_a_signal() {
    for words in
        [&["completion", "bash"][..], &["version"], &["version", "-o", "json"], &["--help"]]
    {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = godwit(words).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        assert_eq!((code(&output), errors(&output).as_str()), (0, ""), "{words:?}");
    }
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = godwit(&["list", "--agent", "/nowhere"]).stderr(writer).output().unwrap();
    assert_eq!(code(&output), 6);
}

#[test]
fn a_completion_is_written_at_once_and_whole() {
    let output = godwit(&["completion", "bash"]).output().unwrap();
    let script = String::from_utf8(output.stdout).unwrap();
    assert!(script.contains("_godwit()") && script.contains("unhold"), "{script}");
}

#[test]
fn an_endpoint_that_is_no_url_is_refused_before_anything_is_sent() {
    let words = ["list", "--store", "s3://bucket/prefix", "--s3-endpoint", "10.0.0.5:7070"];
    let output = godwit(&words).output().unwrap();
    assert_eq!(code(&output), 8);
    assert!(errors(&output).contains("http://HOST:PORT"), "{}", errors(&output));
}

#[test]
fn a_store_that_is_exported_breaks_no_command_of_the_agent() {
    let status = ["status", "--agent", "/nowhere"];
    let typed = godwit(&status).args(["--store", "file:///store"]).output().unwrap();
    assert_eq!(code(&typed), 8, "{}", errors(&typed));
    let exported = godwit(&status).env("GODWIT_STORE", "file:///store").output().unwrap();
    assert_eq!(code(&exported), 6, "it goes to the agent: {}", errors(&exported));
    let agent = FakeAgent::new();
    let mut command = godwit(&["checkpoint", "web", "--agent"]);
    command.arg(&agent.socket).env("GODWIT_STORE", "file:///store").stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let mut asked = agent.next();
    let Request::Checkpoint(request) = &asked.request else { panic!("{:?}", asked.request) };
    assert_eq!(request.store, None);
    asked.reply(&refusal(Code::NotFound, "no such container"));
    assert_eq!(code(&child.wait_with_output().unwrap()), 3);
}

#[test]
fn versions_are_a_document_for_programs() {
    let output = godwit(&["version", "-o", "json"]).output().unwrap();
    assert_eq!(document(&output), json!({ "version": env!("CARGO_PKG_VERSION") }));
}

#[test]
fn several_deletions_are_one_document_whatever_comes_of_them() {
    let ids = [CheckpointId::mint(), CheckpointId::mint(), CheckpointId::mint()];
    let names = ids.map(|id| id.to_string());
    let words = ["delete", "-o", "json", &names[0], &names[1], &names[2]];
    let agent = FakeAgent::new();
    let child = agent.ask(&words);
    for id in ids {
        let mut asked = agent.next();
        assert_eq!(asked.deletes(), id);
        asked.done();
    }
    let output = child.wait_with_output().unwrap();
    assert_eq!((code(&output), document(&output)), (0, json!({ "deleted": ids })));
    let child = agent.ask(&words);
    agent.next().done();
    agent.next().reply(&refusal(Code::Precondition, "it is held"));
    let output = child.wait_with_output().unwrap();
    assert_eq!((code(&output), document(&output)), (5, json!({ "deleted": [ids[0]] })));
    let failure: Failure = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(failure.message, "it is held");
}

#[test]
fn an_interrupt_cancels_and_the_agent_says_how_it_ended() {
    let agent = FakeAgent::new();
    let child = agent.ask(&["checkpoint", "web"]);
    let mut asked = agent.next();
    interrupt(&child);
    let mut rest = Vec::new();
    asked.lines.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty(), "its half is closed, and nothing more was said");
    asked.reply(&refusal(Code::Cancelled, "the checkpoint was cancelled; the container runs on"));
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 9);
    assert!(errors(&output).contains("the container runs on"), "{}", errors(&output));
}

#[test]
fn after_an_interrupt_there_is_no_next_deletion() {
    let ids = [CheckpointId::mint().to_string(), CheckpointId::mint().to_string()];
    let agent = FakeAgent::new();
    let child = agent.ask(&["delete", &ids[0], &ids[1]]);
    let mut asked = agent.next();
    interrupt(&child);
    asked.lines.read_to_end(&mut Vec::new()).unwrap();
    asked.done();
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 9);
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("deleted {}\n", ids[0]));
    assert!(errors(&output).contains("only what was told before is done"), "{}", errors(&output));
}

#[test]
fn a_second_interrupt_leaves() {
    let agent = FakeAgent::new();
    let child = agent.ask(&["gc"]);
    let mut asked = agent.next();
    interrupt(&child);
    asked.lines.read_to_end(&mut Vec::new()).unwrap();
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 9);
    assert!(errors(&output).contains("tell how it ended"), "{}", errors(&output));
}

#[test]
fn progress_is_plain_lines_where_there_is_no_terminal_and_nothing_for_programs() {
    let agent = FakeAgent::new();
    let id = CheckpointId::mint().to_string();
    for (format, told) in [("table", "verify\nverify: "), ("json", "")] {
        let child = agent.ask(&["verify", &id, "-o", format]);
        let mut asked = agent.next();
        for done in [0, 50 << 20] {
            let phase = godwit_types::Phase::Verify;
            asked.reply(&Reply::Progress(Progress { phase, done, total: 100 << 20 }));
        }
        let verified = json!({ "of": "verify", "checkpoint": id, "objects": 1, "frames": 1, "read": 1, "faults": [] });
        asked.reply(&Reply::Done { result: verified });
        let output = child.wait_with_output().unwrap();
        assert_eq!(code(&output), 0, "{}", errors(&output));
        let errors = errors(&output);
        assert!(errors.starts_with(told) && errors.is_empty() == told.is_empty(), "{errors:?}");
    }
}

#[test]
fn a_list_of_thousands_is_read_whole() {
    let agent = FakeAgent::new();
    let row = json!([CheckpointId::mint(), "its manifest is damaged: ".repeat(10)]);
    let rows = vec![row; 8000];
    let list = json!({ "of": "list", "checkpoints": [], "unreadable": rows });
    assert!(list.to_string().len() > 2 << 20);
    let child = agent.ask(&["list", "-o", "json"]);
    agent.next().reply(&Reply::Done { result: list.clone() });
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 0, "{}", errors(&output));
    assert_eq!(document(&output)["unreadable"], list["unreadable"]);
}

#[test]
fn an_answer_that_is_cut_is_an_agent_that_went_away() {
    let agent = FakeAgent::new();
    for half in ["", "{\"reply\":\"done\",\"resu"] {
        let child = agent.ask(&["list"]);
        agent.next().lines.get_mut().write_all(half.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(code(&output), 6, "{}", errors(&output));
        assert!(errors(&output).contains("the agent went away"), "{}", errors(&output));
    }
}

/// A verification that is shown on a terminal of 80 columns.
struct OnTerminal {
    child: Child,
    asked: Asked,
    screen: Arc<Mutex<String>>,
    reader: JoinHandle<()>,
}

impl OnTerminal {
    fn start(agent: &FakeAgent, id: &str) -> Self {
        let (program, socket) = (env!("CARGO_BIN_EXE_godwit"), agent.socket.display());
        let line = format!("stty cols 80; exec {program} verify {id} --agent {socket}");
        let mut script = Command::new("script");
        script.args(["--quiet", "--return", "--command", &line, "/dev/null"]).env("TERM", "xterm");
        let mut child = script.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let (screen, mut shown) = (Arc::<Mutex<String>>::default(), child.stdout.take().unwrap());
        let drawn = Arc::clone(&screen);
        let reader = std::thread::spawn(move || {
            let (mut all, mut some) = (Vec::new(), [0; 4096]);
            while let Ok(count @ 1..) = shown.read(&mut some) {
                all.extend_from_slice(&some[..count]);
                *drawn.lock().unwrap() = String::from_utf8_lossy(&all).into_owned();
            }
        });
        Self { child, asked: agent.next(), screen, reader }
    }

    /// Tells how far it is until that is on the screen: a bar is not drawn each time.
    fn tell(&mut self, done: u64, shown: &str) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.screen.lock().unwrap().contains(shown) {
            assert!(Instant::now() < deadline, "no {shown:?} in {:?}", self.screen);
            let phase = godwit_types::Phase::Verify;
            self.asked.reply(&Reply::Progress(Progress { phase, done, total: 100 << 20 }));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// All that was on the screen, and the exit code.
    fn end(mut self, result: Value) -> (i32, String) {
        self.asked.reply(&Reply::Done { result });
        let status = self.child.wait().unwrap();
        self.reader.join().unwrap();
        let screen = self.screen.lock().unwrap().clone();
        (status.code().unwrap(), screen)
    }
}

#[test]
fn progress_is_a_bar_on_a_terminal_and_gone_at_the_end() {
    let id = CheckpointId::mint().to_string();
    let mut terminal = OnTerminal::start(&FakeAgent::new(), &id);
    terminal.tell(0, "0 B / 100.00 MiB");
    terminal.tell(50 << 20, "50.00 MiB / 100.00 MiB");
    let verified = json!({ "of": "verify", "checkpoint": id, "objects": 1, "frames": 1, "read": 1, "faults": [] });
    let (code, screen) = terminal.end(verified);
    assert_eq!(code, 0, "{screen:?}");
    let half = screen.split('\r').find(|drawn| drawn.contains("50.00 MiB / 100.00 MiB")).unwrap();
    assert!(half.contains("verify") && half.contains("███") && half.contains("░░░"), "{half:?}");
    assert!(!screen.contains("verify\r\n"), "lines are for what is no terminal: {screen:?}");
    // The result stands where the bar was.
    let (_, result) = screen.rsplit_once("\x1b[2K").unwrap();
    assert!(result.contains(&id) && !result.contains("MiB /"), "{screen:?}");
}

#[test]
fn a_collection_that_is_not_whole_is_told_and_is_a_failure() {
    let agent = FakeAgent::new();
    for (cancelled, failed, expected) in
        [(false, json!([]), 0), (true, json!([]), 9), (false, json!([["a", "damaged"]]), 7)]
    {
        let child = agent.ask(&["gc", "-o", "json"]);
        let gc = json!({
            "of": "gc", "dry_run": false, "cancelled": cancelled, "deleted": [], "refused": [],
            "kept": 1, "orphans": 0, "waiting": 0, "removed": 0, "freed": 0, "failed": failed,
        });
        agent.next().reply(&Reply::Done { result: gc });
        let output = child.wait_with_output().unwrap();
        assert_eq!(code(&output), expected, "{}", errors(&output));
        assert_eq!(document(&output)["failed"], failed);
    }
}

#[test]
fn a_directory_that_holds_no_store_is_not_made_one_by_looking() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("file://{}", dir.path().display());
    let output = godwit(&["list", "--store", &url]).output().unwrap();
    assert_eq!(code(&output), 3, "{}", errors(&output));
    assert!(is_empty(dir.path()));
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).unwrap().next().is_none()
}
