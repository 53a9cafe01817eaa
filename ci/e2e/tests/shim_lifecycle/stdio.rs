//! Streams: pipes, terminals, logs in files and through programs.

use std::io::Write;

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::api::CloseIORequest;
use godwit_lab::wait;

use super::kit::{Bed, SOON, context, exec_words};

#[test]
fn what_is_piped_into_an_exec_comes_out_and_ends() -> Result<()> {
    let bed = Bed::new()?;
    bed.sleeper("pipe")?;
    let words = [&["ctr"], &exec_words(&[], "pipe", &["sha256sum"])[..]].concat();
    let mut exec = bed.node.spawn(&words)?;
    let mut stdin = exec.child().stdin.take().context("piped")?;
    // More than all pipes on the way hold.
    stdin.write_all(&vec![b'x'; 3 << 20])?;
    drop(stdin);
    let output = exec.wait_with_output()?;
    let sum = bed.node.sh("head -c 3145728 /dev/zero | tr '\\0' x | sha256sum")?;
    ensure!(String::from_utf8_lossy(&output.stdout) == sum, "{output:?}");
    bed.remove("pipe")?;
    bed.wait_clean()
}

#[test]
fn much_output_arrives_whole_although_the_process_is_gone() -> Result<()> {
    let bed = Bed::new()?;
    let ran = bed.spawn(&["--rm"], "much", &["seq", "1", "300000"])?.wait_with_output()?;
    let text = String::from_utf8(ran.stdout)?;
    ensure!(text.lines().count() == 300_000, "{} lines", text.lines().count());
    ensure!(text.lines().last() == Some("300000"));
    bed.wait_clean()
}

#[test]
fn closing_stdin_ends_a_reader_and_not_before() -> Result<()> {
    let bed = Bed::new()?;
    // ctr keeps its end of the FIFO open: only CloseIO and its end together are the end of the file.
    let mut ran = bed.spawn(&["--rm"], "cat", &["cat"])?;
    bed.wait_listed("cat", "RUNNING")?;
    let request = CloseIORequest { id: "cat".into(), stdin: true, ..Default::default() };
    bed.task("cat")?.close_io(context(), &request)?;
    ensure!(bed.listed("cat")? == "RUNNING", "ctr may still write");
    ran.child().stdin.take().context("piped")?.write_all(b"last words\n")?;
    let output = ran.wait_with_output()?;
    ensure!(output.status.success() && output.stdout == b"last words\n", "{output:?}");
    bed.wait_clean()
}

#[test]
fn a_terminal_has_the_size_of_the_callers_and_hands_on_the_status() -> Result<()> {
    let bed = Bed::new()?;
    let line = "stty cols 91 rows 17; ctr run --rm --tty --runtime io.containerd.godwit.v2 \
                godwit.test/shell:latest tty bash -c \
                'test -t 0 || exit 1; for i in $(seq 600); do test \"$(stty size)\" = \"17 91\" && exit 7; sleep 0.1; done'";
    let output =
        bed.node.exec(&["script", "--quiet", "--return", "--command", line, "/dev/null"])?;
    ensure!(output.status.code() == Some(7), "{output:?}");
    bed.wait_clean()
}

#[test]
fn an_exec_has_a_terminal_of_its_own() -> Result<()> {
    let bed = Bed::new()?;
    bed.sleeper("host")?;
    let line = "ctr task exec --exec-id t --tty host bash -c 'test -t 1 && tty'";
    let output =
        bed.node.exec(&["script", "--quiet", "--return", "--command", line, "/dev/null"])?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success() && text.contains("/dev/pts/"), "{output:?}");
    bed.remove("host")?;
    bed.wait_clean()
}

#[test]
fn logs_go_into_a_file_and_through_a_program() -> Result<()> {
    let bed = Bed::new()?;
    let words = ["sh", "-c", "echo out; echo err >&2"];
    bed.run(&["--detach", "--log-uri", "file:///tmp/logs/one"], "file", &words)?;
    bed.wait_listed("file", "STOPPED")?;
    // All that was written is there when it is deleted.
    bed.node.ctr(&["task", "delete", "file"])?;
    bed.node.ctr(&["container", "delete", "file"])?;
    let log = bed.node.read_file("/tmp/logs/one")?;
    ensure!(log.contains("out\n") && log.contains("err\n"), "{log:?}");

    let logger = "#!/bin/bash\n\
        echo \"$CONTAINER_ID $CONTAINER_NAMESPACE $*\" > /tmp/logger.start\n\
        exec 5>&-\n\
        cat <&3 > /tmp/logger.out & cat <&4 > /tmp/logger.err & wait; echo done > /tmp/logger.end\n";
    bed.node.write_file("/usr/local/bin/logger.sh", logger)?;
    bed.node.run(&["chmod", "+x", "/usr/local/bin/logger.sh"])?;
    let uri = "binary:///usr/local/bin/logger.sh?--to=x";
    bed.run(&["--detach", "--log-uri", uri], "program", &words)?;
    bed.wait_listed("program", "STOPPED")?;
    bed.node.ctr(&["task", "delete", "program"])?;
    bed.node.ctr(&["container", "delete", "program"])?;
    wait::until_true("the logger to end", SOON, || {
        bed.node.read_file("/tmp/logger.end").is_ok_and(|end| end == "done\n")
    })?;
    ensure!(bed.node.read_file("/tmp/logger.start")? == "program default --to x\n");
    ensure!(bed.node.read_file("/tmp/logger.out")? == "out\n");
    ensure!(bed.node.read_file("/tmp/logger.err")? == "err\n");
    bed.wait_clean()
}
