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

use godwit_types::{CheckpointId, Code};
use godwit_wire::api::{Failure, Progress, Reply, Request, StoreCommand};
use serde_json::{Value, json};

fn godwit(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_godwit"));
    for name in ["GODWIT_STORE", "GODWIT_S3_ENDPOINT", "GODWIT_S3_REGION", "GODWIT_AGENT"] {
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
