//! A machine with the programs of a release and an image, the installer in it, and a container that counts.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use godwit_e2e::container::{PROGRESS, RUNTIME};
use godwit_e2e::release::{PROGRAMS, Release};
use godwit_lab::vm::{Machine, SHARE, VmOptions};
use godwit_lab::{Image, kubernetes, wait};
use godwit_types::CheckpointReport;

/// For anything to happen in there.
pub(crate) const SOON: Duration = Duration::from_secs(240);
/// Where the machine sees the release, and another one.
pub(crate) const RELEASE: &str = "/share/release";
pub(crate) const OTHER: &str = "/share/other";

/// One machine; gone when dropped.
pub(crate) struct Bed {
    pub(crate) vm: Machine,
}

impl Bed {
    /// A machine that sees this release.
    pub(crate) fn up(release: &Release) -> Result<Self> {
        Self::with(VmOptions::for_tests(), release)
    }

    /// A machine that sees two releases.
    pub(crate) fn with_two(release: &Release, other: &Release) -> Result<Self> {
        let options = PROGRAMS.iter().fold(VmOptions::for_tests(), |options, name| {
            options.with(&other.dir.join(name), &format!("other/{name}"))
        });
        Self::with(options, release)
    }

    /// A machine that sees a release, a kubelet and crictl, and has these images and what else pods need.
    pub(crate) fn with_kubelet(release: &Release, images: &[Image]) -> Result<Self> {
        let programs = kubernetes::ensure_built()?;
        let mut options = VmOptions::for_tests();
        for name in ["kubelet", "crictl"] {
            options = options.with(&programs.join(name), name);
        }
        let images: Vec<_> = [&[Image::Pause], images].concat();
        for (at, image) in images.iter().enumerate() {
            options = options.with(&image.archive()?, &format!("pods/{at}.tar"));
        }
        let bed = Self::with(options, release)?;
        let import =
            "for archive in image.tar pods/*.tar; do ctr -n k8s.io images import $archive; done";
        bed.vm.sh(&format!("cd {SHARE}; {import}"))?;
        Ok(bed)
    }

    fn with(options: VmOptions, release: &Release) -> Result<Self> {
        let options = PROGRAMS.iter().fold(options, |options, name| {
            options.with(&release.dir.join(name), &format!("release/{name}"))
        });
        let vm = Machine::up(&options.with(&Image::Programs.archive()?, "image.tar"))?;
        vm.run(&["ctr", "images", "import", &format!("{SHARE}/image.tar")])?;
        Ok(Self { vm })
    }

    /// Runs the installer of the release; it has to do all by itself. What it said.
    pub(crate) fn install(&self, words: &[&str]) -> Result<String> {
        self.install_from(RELEASE, words)
    }

    /// The same with another release.
    pub(crate) fn install_from(&self, release: &str, words: &[&str]) -> Result<String> {
        let program = format!("{release}/godwit-install");
        Ok(self.vm.run(&[&[&*program, "node", "--from", release], words].concat())?)
    }

    /// What the installer says when it refuses.
    pub(crate) fn refused(&self, words: &[&str]) -> Result<String> {
        let program = format!("{RELEASE}/godwit-install");
        let ended = self.vm.exec(&[&[&*program, "node", "--from", RELEASE], words].concat())?;
        ensure!(ended.code == 8, "not refused: {ended:?}");
        Ok(ended.err)
    }

    /// Every file that an installer may touch, but what outlives a revert.
    pub(crate) fn snapshot(&self) -> Result<String> {
        Ok(self.vm.sh("cd /; for dir in etc opt usr/local usr/libexec; do
                find $dir -path etc/godwit -prune -o -printf '%p %y %m %l\\n'
                find $dir -path etc/godwit -prune -o -type f -exec cksum {} +
            done")?)
    }

    /// Whether all of that is as it was.
    pub(crate) fn is_as(&self, before: &str) -> Result<()> {
        let now = self.snapshot()?;
        let (before, now): (BTreeSet<_>, BTreeSet<_>) =
            (before.lines().collect(), now.lines().collect());
        let changes: Vec<_> = before.symmetric_difference(&now).collect();
        ensure!(changes.is_empty(), "not as it was: {changes:#?}");
        Ok(())
    }

    /// systemd knows no unit of ours any more, and nobody has the CRI proxy's socket.
    pub(crate) fn nothing_is_left(&self) -> Result<()> {
        let left = self.vm.sh(
            "systemctl is-active containerd; for unit in agent cri-proxy; do systemctl cat godwit-$unit 2>&1 || true; done
            test ! -e /run/godwit/cri.sock",
        )?;
        let is_gone = left.matches("No files found").count() == 2;
        ensure!(left.starts_with("active\n") && is_gone, "{left}");
        Ok(())
    }

    /// containerd and its own runtime work.
    pub(crate) fn runs_plain_containers(&self) -> Result<()> {
        self.runs_containers_by("/run/containerd/containerd.sock")
    }

    /// The same, asked at this socket.
    pub(crate) fn runs_containers_by(&self, socket: &str) -> Result<()> {
        let words = ["probe", "counter", "--until", "2", "--every-ms", "100"];
        let run = ["ctr", "--address", socket, "run", "--rm", Image::Programs.reference()];
        let said = self.vm.run(&[&run[..], &words].concat())?;
        ensure!(said.contains('2'), "it said {said:?}");
        Ok(())
    }

    /// Waits until a line of bash succeeds.
    pub(crate) fn wait_for(&self, what: &str, line: &str) -> Result<()> {
        wait::until(what, SOON, || self.vm.sh(line).map_err(|why| why.to_string()))?;
        Ok(())
    }
}

/// A container whose memory and files tell that it goes on.
pub(crate) struct Counter {
    id: String,
    options: Vec<String>,
    words: Vec<String>,
}

impl Counter {
    pub(crate) fn new(id: &str) -> Self {
        Self::running(id, &["counter", "--file", PROGRESS])
    }

    /// A program of the test image that writes its progress.
    pub(crate) fn running(id: &str, words: &[&str]) -> Self {
        let words = words.iter().map(|&word| word.to_owned()).collect();
        Self { id: id.to_owned(), options: vec![], words }
    }

    /// With more options of `ctr run`.
    pub(crate) fn with(mut self, options: &[&str]) -> Self {
        self.options.extend(options.iter().map(|&option| option.to_owned()));
        self
    }

    pub(crate) fn run(&self, bed: &Bed) -> Result<()> {
        self.start(bed, &[])
    }

    pub(crate) fn restore(&self, bed: &Bed, point: &str) -> Result<()> {
        self.start(bed, &["--annotation", &format!("godwit.dev/restore-from={point}")])
    }

    fn start(&self, bed: &Bed, how: &[&str]) -> Result<()> {
        let options: Vec<&str> = self.options.iter().map(String::as_str).collect();
        let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
        let image = [Image::Programs.reference(), &self.id];
        let run = ["ctr", "run", "--detach", "--runtime", RUNTIME];
        bed.vm.run(&[&run[..], &options, how, &image, &words].concat())?;
        Ok(())
    }

    /// Makes a checkpoint; its id.
    pub(crate) fn checkpoint(&self, bed: &Bed, flags: &[&str]) -> Result<String> {
        let words =
            [&["godwit", "checkpoint", "--output", "json"][..], flags, &[&self.id]].concat();
        let json = bed.vm.run(&words)?;
        let report: CheckpointReport =
            serde_json::from_str(&json).with_context(|| format!("godwit said {json}"))?;
        Ok(report.checkpoint.to_string())
    }

    /// How far it is: the first number in its file, read without starting anything in it.
    pub(crate) fn progress(&self, bed: &Bed) -> Result<u64> {
        let mut words = self.words.iter().skip_while(|word| *word != "--file");
        let file = words.nth(1).map_or(PROGRESS, String::as_str);
        let line = format!("cat /proc/$({})/root{file}", self.pid_line());
        let text = bed.vm.sh(&line)?;
        let number = text.split_whitespace().find_map(|word| word.parse().ok());
        number.with_context(|| format!("no number in {text:?}"))
    }

    /// Prints its process.
    pub(crate) fn pid_line(&self) -> String {
        format!("ctr task ls | awk '$1 == \"{}\" {{print $2}}'", self.id)
    }

    pub(crate) fn wait_beyond(&self, bed: &Bed, last: u64) -> Result<u64> {
        Ok(wait::until(&format!("{} to count beyond {last}", self.id), SOON, || {
            match self.progress(bed) {
                Ok(now) if now > last => Ok(now),
                Ok(now) => Err(format!("it is at {now}")),
                Err(why) => Err(format!("{why:#}")),
            }
        })?)
    }

    /// The same program, not one that began anew: a number below the last one would say so.
    pub(crate) fn remove(&self, bed: &Bed) -> Result<()> {
        let id = &self.id;
        // `ctr` ends with the task's status.
        let ended = bed.vm.exec(&["ctr", "task", "rm", "--force", id])?;
        if ended.code == 1 && !ended.err.contains("not found") {
            bail!("{ended:?}");
        }
        bed.vm.run(&["ctr", "container", "rm", id])?;
        Ok(())
    }
}
