//! What is somebody else's in containerd's configuration stays as it is: a drop-in that would change it is refused before anything is
//! written, and what was written is taken back when another value changes at the same time.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use godwit_e2e::container::SOON;
use godwit_lab::{default_bin_dir, wait};
use godwit_wire::failpoint::VARIABLE;

use crate::kit::{Bed, DEBIAN, text_of};

const MAIN: &str = "/etc/containerd/config.toml";
/// A drop-in of somebody else.
const OTHER: &str = "/etc/containerd/other.toml";
const RUNC: &str = "io.containerd.runc.v2";
/// Between our drop-in and the line that imports it.
const BETWEEN: &str = "containerd.drop_in:1:stop";

/// Debian's file, and what it imports.
fn with_import(bed: &Bed, other: &str) -> Result<String> {
    let text = text_of(DEBIAN, bed)?;
    ensure!(!text.contains("imports"), "{text}");
    let text = text.replace("version = 2", &format!("version = 2\nimports = [\"{OTHER}\"]"));
    bed.node.write_file(OTHER, other)?;
    bed.node.write_file(MAIN, &text)?;
    bed.restart_containerd()?;
    Ok(text)
}

/// Runs the installer, which stops before it writes the import; something is done, and it goes on. How it ended.
fn meanwhile(bed: &Bed, act: impl FnOnce() -> Result<()>) -> Result<(Option<i32>, String)> {
    let mut command = bed.node.installer_command(&default_bin_dir(), &[])?;
    let command = command.env(VARIABLE, BETWEEN).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let mut said = BufReader::new(child.stderr.take().context("stderr")?);
    let mut line = String::new();
    while !line.contains("failpoint") {
        line.clear();
        ensure!(said.read_line(&mut line)? > 0, "it has never come to {BETWEEN}");
    }
    // Who has brought it into the node stops, too, and takes it along when he goes on.
    let stat = format!("/proc/{}/stat", child.id());
    wait::until_true("all of it to stop", SOON, || {
        std::fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") T "))
    })?;
    act()?;
    let goes_on = Command::new("kill").args(["-CONT", &child.id().to_string()]).status()?;
    ensure!(goes_on.success(), "kill: {goes_on}");
    let rest = std::io::read_to_string(said)?;
    Ok((child.wait()?.code(), rest))
}

#[test]
fn a_drop_in_that_would_change_anothers_value_is_refused_and_nothing_is_written() -> Result<()> {
    let bed = Bed::up(DEBIAN)?;
    // A file of another version: containerd 2.1 takes the last one's for all of them, and reads the main file's old names or does not.
    let text = text_of(DEBIAN, &bed)?
        + "[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/etc/mine\"\n";
    bed.node.write_file("/root/debian.toml", text)?;
    with_import(
        &bed,
        "version = 3\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.kata]\nruntime_type = 'io.containerd.kata.v2'\n",
    )?;
    let before = bed.snapshot()?;
    let refused = bed.refused(&[])?;
    ensure!(refused.contains("would read other settings differently"), "{refused}");
    ensure!(refused.contains("registry") && refused.contains("config migrate"), "{refused}");
    bed.is_as(&before)?;
    bed.restart_containerd()?;
    bed.runs_containers(RUNC)?;
    bed.done();
    Ok(())
}

#[test]
fn a_value_that_changes_meanwhile_has_our_configuration_taken_back() -> Result<()> {
    let bed = Bed::up(DEBIAN)?;
    let level = |level: &str| format!("version = 2\n[debug]\nlevel = \"{level}\"\n");
    with_import(&bed, &level("info"))?;
    let before = bed.configuration()?;
    let change = || Ok(bed.node.write_file(OTHER, level("warn"))?);
    let (code, said) = meanwhile(&bed, change)?;
    ensure!(code == Some(5), "it ended with {code:?}: {said}");
    ensure!(said.contains("debug.level"), "{said}");
    ensure!(bed.configuration()? == before.replace("info", "warn"), "{}", bed.configuration()?);
    bed.restart_containerd()?;
    bed.runs_containers(RUNC)?;
    // Nobody writes any more: the same command does it.
    bed.install(&[])?.left("restart containerd")?;
    bed.restart_containerd()?;
    bed.runs_containers("io.containerd.godwit.v2")?;
    bed.reverted(&[])?;
    ensure!(bed.configuration()? == before.replace("info", "warn"), "{}", bed.configuration()?);
    bed.done();
    Ok(())
}

#[test]
fn a_main_file_that_somebody_writes_meanwhile_is_not_written_over() -> Result<()> {
    let bed = Bed::up(DEBIAN)?;
    let text = with_import(&bed, "version = 2\n")?;
    let theirs = format!("# mine\n{text}");
    let (code, said) = meanwhile(&bed, || Ok(bed.node.write_file(MAIN, &theirs)?))?;
    ensure!(code == Some(5) && said.contains("run this command again"), "{code:?}: {said}");
    ensure!(bed.node.read_file(MAIN)? == theirs, "{}", bed.node.read_file(MAIN)?);
    bed.install(&[])?.left("restart containerd")?;
    bed.reverted(&[])?;
    ensure!(bed.node.read_file(MAIN)? == theirs, "{}", bed.node.read_file(MAIN)?);
    bed.done();
    Ok(())
}

#[test]
fn a_main_file_that_is_written_anew_is_left_as_it_is() -> Result<()> {
    let bed = Bed::up(DEBIAN)?;
    let text = format!("# File generated by k3s. DO NOT EDIT.\n{}", text_of(DEBIAN, &bed)?);
    bed.node.write_file(MAIN, &text)?;
    bed.restart_containerd()?;
    let before = bed.snapshot()?;
    let refused = bed.refused(&[])?;
    let asks = "imports = [\"/etc/containerd/conf.d/*.toml\"]";
    ensure!(refused.contains("written anew") && refused.contains(asks), "{refused}");
    bed.is_as(&before)?;

    // A directory that need not be there.
    let imports = "version = 2\nimports = [\"/etc/containerd/mine.d/*.toml\"]";
    let text = text.replace("version = 2", imports);
    bed.node.write_file(MAIN, &text)?;
    bed.restart_containerd()?;
    bed.install(&[])?.left("restart containerd")?;
    bed.restart_containerd()?;
    bed.runs_containers("io.containerd.godwit.v2")?;
    ensure!(bed.node.read_file(MAIN)? == text, "{}", bed.node.read_file(MAIN)?);
    bed.node.run(&["test", "-s", "/etc/containerd/mine.d/godwit.toml"])?;
    bed.reverted(&[])?;
    ensure!(bed.node.read_file(MAIN)? == text, "{}", bed.node.read_file(MAIN)?);
    bed.node.run(&["test", "!", "-e", "/etc/containerd/mine.d/godwit.toml"])?;
    bed.restart_containerd()?;
    bed.runs_containers(RUNC)?;
    bed.done();
    Ok(())
}
