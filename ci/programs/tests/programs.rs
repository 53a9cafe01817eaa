//! The programs, run as processes: they end well when all is well, and notice a byte that somebody else changed.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests, outside the test functions"
)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::process::{Command, Output, Stdio};

fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_counter_counts_and_keeps_its_last_line_in_a_file() {
    let file = std::env::temp_dir().join(format!("counter-{}", std::process::id()));
    let output = run(
        env!("CARGO_BIN_EXE_counter"),
        &["--every-ms", "1", "--until", "3", "--file", file.to_str().unwrap()],
    );
    assert_eq!(text(&output.stdout), "1\n2\n3\n");
    assert_eq!(fs::read_to_string(&file).unwrap(), "3\n");
    fs::remove_file(file).unwrap();
}

#[test]
fn memory_is_right_after_every_disturbance_in_every_thread() {
    let output = run(
        env!("CARGO_BIN_EXE_memwriter"),
        &[
            "--mib",
            "4",
            "--threads",
            "2",
            "--rounds",
            "24",
            "--pause-ms",
            "0",
            "--disturb",
            "dontneed,munmap,mremap,fork",
        ],
    );
    assert!(output.status.success(), "{}", text(&output.stderr));
    let out = text(&output.stdout);
    assert!(out.starts_with("ready\n"), "{out}");
    assert!(out.lines().last().unwrap().starts_with("rounds 48 checked 24576 written "), "{out}");
}

#[test]
fn memory_is_right_that_is_disturbed_while_it_is_checked() {
    let output = run(
        env!("CARGO_BIN_EXE_memwriter"),
        &[
            "--mib",
            "4",
            "--rounds",
            "2",
            "--pause-ms",
            "0",
            "--disturb",
            "dontneed,munmap,mremap",
            "--disturb-every",
            "32",
        ],
    );
    assert!(output.status.success(), "{}", text(&output.stderr));
    // 1024 pages: once when a round begins, 31 times within it.
    assert!(text(&output.stdout).trim_end().ends_with(" disturbed 64"), "{}", text(&output.stdout));
}

#[test]
fn the_processes_of_the_tree_agree() {
    let output = run(
        env!("CARGO_BIN_EXE_forktree"),
        &["--processes", "6", "--until", "40", "--every-ms", "1"],
    );
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).ends_with("token 40 processes 6\n"));
}

#[test]
fn a_wrong_byte_is_noticed_and_told() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_memwriter"))
        .args(["--mib", "3", "--write-per-mille", "0", "--pause-ms", "1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    let memory = fs::OpenOptions::new().write(true).open(format!("/proc/{}/mem", child.id()));
    memory.unwrap().write_all_at(&[0xee], region_of(child.id(), 3 << 20) + 5 * 4096 + 17).unwrap();
    // Drained: it must not wait for a reader when it tells progress.
    std::thread::spawn(move || out.lines().count());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("page 5 at byte 16"), "{}", text(&output.stderr));
}

/// Start of the anonymous mapping that holds exactly this many bytes, or begins or ends a merged one.
fn region_of(pid: u32, bytes: u64) -> u64 {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let found = maps.lines().find_map(|line| {
        let (from, rest) = line.split_once('-')?;
        let (to, rest) = rest.split_once(' ')?;
        let (from, to) = (u64::from_str_radix(from, 16).ok()?, u64::from_str_radix(to, 16).ok()?);
        (to - from >= bytes
            && to - from < bytes + (1 << 20)
            && rest.starts_with("rw-p 00000000 00:00 0"))
        .then_some(from)
    });
    found.unwrap_or_else(|| panic!("no mapping of {bytes} bytes in\n{maps}"))
}

#[test]
fn two_that_talk_get_on_and_notice_the_end_of_the_other() {
    let address = format!("127.0.0.1:{}", 20_000 + std::process::id() % 10_000);
    let talk = |how: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_talk"));
        command.args([how, &address, "--every-ms", "1"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let (answers, mut asks) = (talk("--listen"), talk("--connect"));
    let mut lines = BufReader::new(asks.stdout.take().unwrap()).lines();
    assert_eq!(lines.nth(20).unwrap().unwrap(), "20");
    asks.kill().unwrap();
    asks.wait().unwrap();
    let ended = answers.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(3), "{}", text(&ended.stderr));
}
