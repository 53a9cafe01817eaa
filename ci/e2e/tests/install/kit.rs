//! A node on which nothing is installed, the installer on it, and what it looks like.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Output;

use anyhow::{Context as _, Result, bail, ensure};
use godwit_lab::{AgentOptions, Image, Lab, LabOptions, Node, default_bin_dir};
use godwit_wire::failpoint::VARIABLE;

/// Debian's own configuration, of version 2.
pub(crate) const DEBIAN: &str = "debian";
/// The lab's, of version 3.
pub(crate) const LAB: &str = "lab";
/// None: containerd's defaults.
pub(crate) const NONE: &str = "none";
/// All of them.
pub(crate) const CONFIGURATIONS: [&str; 3] = [DEBIAN, LAB, NONE];

const MAIN: &str = "/etc/containerd/config.toml";
/// The installer's status for "the rest is left to you".
const LEFT: i32 = 10;

/// One node with containerd alone.
pub(crate) struct Bed {
    lab: Lab,
    pub(crate) node: Node,
}

/// How the installer ended.
#[derive(Debug)]
pub(crate) struct Ended {
    code: Option<i32>,
    text: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = [output.stdout, output.stderr].concat();
        Self { code: output.status.code(), text: String::from_utf8_lossy(&text).into_owned() }
    }
}

impl Ended {
    pub(crate) fn done(self) -> Result<Self> {
        ensure!(self.code == Some(0), "{self:?}");
        Ok(self)
    }

    pub(crate) fn left(self, words: &str) -> Result<Self> {
        ensure!(self.code == Some(LEFT), "{self:?}");
        let is_left = |line: &str| line.starts_with("left to you") && line.contains(words);
        ensure!(self.text.lines().any(is_left), "expected {words:?} in {self:?}");
        Ok(self)
    }

    pub(crate) fn says(self, words: &str) -> Result<Self> {
        ensure!(self.text.contains(words), "expected {words:?} in {self:?}");
        Ok(self)
    }

    pub(crate) fn never_says(self, words: &str) -> Result<Self> {
        ensure!(!self.text.contains(words), "unexpected {words:?} in {self:?}");
        Ok(self)
    }

    /// Whether it was ended by a failpoint.
    pub(crate) fn died(&self) -> bool {
        self.text.contains("failpoint")
    }
}

/// The text of one of [`CONFIGURATIONS`].
pub(crate) fn text_of(config: &str, bed: &Bed) -> Result<String> {
    Ok(match config {
        DEBIAN => bed.node.read_file("/root/debian.toml")?,
        _ => bed.node.read_file("/root/lab.toml")?,
    })
}

/// Its version; containerd 2.1 likes 3 best.
pub(crate) fn version_of(config: &str) -> u32 {
    if config == DEBIAN { 2 } else { 3 }
}

impl Bed {
    /// A node whose containerd runs with one of [`CONFIGURATIONS`].
    pub(crate) fn up(config: &str) -> Result<Self> {
        let lab = Lab::up(&LabOptions::for_tests().nodes(&["n1"]))?;
        let node = lab.node("n1")?;
        node.import(Image::Shell)?;
        node.sh(&format!("cp {MAIN} /root/lab.toml"))?;
        // The package's own file is below the lab's.
        let debian = godwit_lab::rootfs::ensure()?.join("etc/containerd/config.toml");
        node.write_file("/root/debian.toml", fs::read(debian)?)?;
        let bed = Self { lab, node };
        match config {
            NONE => bed.node.sh(&format!("rm {MAIN}")).map(drop)?,
            // What the machine withholds, containerd must not try.
            config => bed.node.write_file(MAIN, text_of(config, &bed)?)?,
        }
        bed.restart_containerd()?;
        Ok(bed)
    }

    /// A node of a lab that is up already.
    pub(crate) fn of(lab: Lab, node: Node) -> Self {
        Self { lab, node }
    }

    /// As [`Bed::up`], with Godwit on it, loaded, its agent running.
    pub(crate) fn installed(config: &str) -> Result<Self> {
        let bed = Self::up(config)?;
        bed.install(&[])?;
        bed.restart_containerd()?;
        bed.node.start_agent(&AgentOptions::default())?;
        bed.install(&[])?.done()?;
        Ok(bed)
    }

    /// The test has succeeded: nobody wants the logs.
    pub(crate) fn done(self) {
        let mut lab = self.lab;
        lab.done();
    }

    /// Runs the installer of the programs under test; it has to succeed.
    pub(crate) fn install(&self, words: &[&str]) -> Result<Ended> {
        self.install_from(&default_bin_dir(), words)
    }

    /// As [`Bed::install`], with another release.
    pub(crate) fn install_from(&self, dir: &Path, words: &[&str]) -> Result<Ended> {
        Ok(self.node.installer(dir, words)?.into())
    }

    /// Runs the installer, which is ended at a place; else it has to succeed.
    pub(crate) fn killed_at(&self, site: &str, words: &[&str]) -> Result<Ended> {
        let ended = self.ended_at(site, words)?;
        match ended.died() || matches!(ended.code, Some(0 | LEFT)) {
            true => Ok(ended),
            false => bail!("{ended:?}"),
        }
    }

    /// As [`Bed::killed_at`], however it ends.
    pub(crate) fn ended_at(&self, site: &str, words: &[&str]) -> Result<Ended> {
        let mut command = self.node.installer_command(&default_bin_dir(), words)?;
        Ok(command.env(VARIABLE, site).output()?.into())
    }

    /// What the installer says when it refuses.
    pub(crate) fn refused(&self, words: &[&str]) -> Result<String> {
        self.refused_from(&default_bin_dir(), words)
    }

    /// As [`Bed::refused`], with another release.
    pub(crate) fn refused_from(&self, dir: &Path, words: &[&str]) -> Result<String> {
        let output = self.node.installer_command(dir, words)?.output()?;
        let ended = Ended::from(output);
        ensure!(!matches!(ended.code, Some(0 | LEFT) | None), "not refused: {ended:?}");
        Ok(ended.text)
    }

    /// Reverts, with what is left to us in between.
    pub(crate) fn reverted(&self, words: &[&str]) -> Result<()> {
        let words = [&["--revert"], words].concat();
        if self.install(&words)?.code == Some(LEFT) {
            self.restart_containerd()?;
            self.install(&words)?.done()?;
        }
        Ok(())
    }

    /// What `godwit doctor` says there.
    pub(crate) fn doctor(&self) -> Result<Ended> {
        Ok(self.node.exec(&["godwit", "doctor"])?.into())
    }

    pub(crate) fn restart_containerd(&self) -> Result<()> {
        self.node.kill_containerd()?;
        Ok(self.node.start_containerd()?)
    }

    /// A container runs to its end.
    pub(crate) fn runs_containers(&self, runtime: &str) -> Result<()> {
        let image = Image::Shell.reference();
        let said = self.node.ctr(&[
            "run",
            "--rm",
            "--runtime",
            runtime,
            image,
            "probe",
            // What ends before ctr has opened its output may go unheard.
            "sh",
            "-c",
            "echo well; sleep 0.3",
        ])?;
        ensure!(said.trim() == "well", "it said {said:?}");
        Ok(())
    }

    /// Every file that an installer may touch: kind, mode, target, bytes. Without what outlives a revert.
    pub(crate) fn snapshot(&self) -> Result<String> {
        let look = "cd /; for dir in etc opt usr/local usr/libexec root; do
                find $dir -path etc/godwit -prune -o -name ld.so.cache -o -printf '%p %y %m %l\\n'
                find $dir -path etc/godwit -prune -o -type f ! -name ld.so.cache -exec sha256sum {} +
            done | sort";
        Ok(self.node.sh(look)?)
    }

    /// Whether all of that is as it was.
    pub(crate) fn is_as(&self, before: &str) -> Result<()> {
        let now = self.snapshot()?;
        let lines = |text: &'_ str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
        let (before, now) = (lines(before), lines(&now));
        let gone = before.difference(&now).map(|line| format!("- {line}"));
        let new = now.difference(&before).map(|line| format!("+ {line}"));
        let changes: Vec<String> = gone.chain(new).collect();
        ensure!(changes.is_empty(), "not as it was:\n{}", changes.join("\n"));
        Ok(())
    }

    /// containerd's configuration alone.
    pub(crate) fn configuration(&self) -> Result<String> {
        Ok(self.node.sh("cd /etc/containerd; find . -printf '%p %y %m %l\\n' | sort; cat $(find . -type f | sort)")?)
    }

    /// The release that is in use.
    pub(crate) fn release(&self) -> Result<String> {
        let path = self.node.sh("readlink /opt/godwit/current")?;
        let name = Path::new(path.trim()).file_name().context("no name")?;
        Ok(name.to_string_lossy().into_owned())
    }

    /// What the oldest shim runs.
    pub(crate) fn shim_program(&self) -> Result<String> {
        let look = "readlink /proc/$(pgrep --oldest --full '^[^ ]*containerd-shim-godwit-v2')/exe";
        Ok(self.node.sh(look)?)
    }
}
