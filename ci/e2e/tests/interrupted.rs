//! A checkpoint that is ended in its freeze: by whoever asked for it, by the deadline, by the death of CRIU, by somebody who thaws the
//! container. It runs on, or it is killed and that is told; it is never left frozen, and never in between.

use anyhow::{Context as _, Result, ensure};
use godwit_e2e::bed::{Bed, Store};
use godwit_e2e::container::{BUNDLES, Container, PROGRESS, SOON};
use godwit_e2e::events::Events;
use godwit_lab::{AgentOptions, Image, LabOptions, Node, wait};
use godwit_types::names;

/// Of a budget of this size a quarter is for files that change until the freeze; what is more is stored in the freeze.
const BUDGET: &str = "64 MiB";
/// What changes again and again, and how fast the node stores: MiB, and MiB per second.
#[derive(Clone, Copy)]
struct Load {
    changes: u32,
    stored: u32,
}
/// Storing it in the freeze takes longer than the freeze may last, and than the shim waits for a CRIU that was told to end.
const IN_FREEZE: Load = Load { changes: 256, stored: 12 };
/// The same for long enough that containerd starts again meanwhile.
const LONG_IN_FREEZE: Load = Load { changes: 256, stored: 6 };
/// It fits the budget, and takes long to store afterwards.
const AFTERWARDS: Load = Load { changes: 14, stored: 1 };

/// A line for each SIGHUP that it got.
const SIGNALLED: &str = "/signalled";

/// As a person would do it, on either version of cgroups.
const THAW: &str = "
    pid=$(ctr task ls | awk '$1 == \"writer\" { print $2 }')
    first=$(sed -n 's/^[0-9]*:freezer://p' /proc/$pid/cgroup)
    second=$(sed -n 's/^0:://p' /proc/$pid/cgroup)
    if [ -n \"$first\" ]; then echo THAWED >/sys/fs/cgroup/freezer$first/freezer.state
    else echo 0 >/sys/fs/cgroup$second/cgroup.freeze; fi";

/// A container whose files change all the time, on a node that stores slowly.
struct Scene {
    bed: Bed,
    writer: Container,
}

impl Scene {
    fn new(freeze_deadline: &str, load: Load) -> Result<Self> {
        let settings =
            format!("memory_budget = \"{BUDGET}\"\nfreeze_deadline = \"{freeze_deadline}\"\n");
        let bed = Bed::up(&LabOptions::for_tests(), Store::File, &settings, &[Image::Shell])?;
        let change = format!(
            "dd if=/dev/urandom of=/big bs=1M count={} conv=notrunc 2>/dev/null",
            load.changes
        );
        let script = format!(
            "trap 'echo hung up >>{SIGNALLED}' HUP; {change}; (i=0; while :; do i=$((i+1)); echo $i >/next; mv /next {PROGRESS}; sleep 0.02; done) & \
             while :; do {change}; done"
        );
        let writer = Container::new("writer", Image::Shell, &["sh", "-c", &script]);
        writer.run(&bed.n1)?;
        writer.wait_beyond(&bed.n1, 20)?;
        let scene = Self { bed, writer };
        let slow = format!("max_bytes_per_second = {}\n", load.stored << 20);
        let text = scene.node().read_file(names::AGENT_CONFIG)?;
        scene.node().write_file(names::AGENT_CONFIG, format!("{text}{slow}"))?;
        scene.node().kill_agent()?;
        scene.node().start_agent(&AgentOptions::default())?;
        Ok(scene)
    }

    fn node(&self) -> &Node {
        &self.bed.n1
    }

    /// Begins a checkpoint; it is in its freeze, with CRIU there, when `act` is called. Returns what the command said.
    fn checkpoint(
        &self,
        flags: &[&str],
        in_freeze: impl Fn(&Self) -> Result<bool>,
        act: impl FnOnce(&Self) -> Result<()>,
    ) -> Result<String> {
        let words = [&["godwit", "checkpoint"], flags, &[&self.writer.id]].concat();
        let mut command = self.node().spawn(&words)?;
        let reached = wait::until("the freeze", SOON, || match in_freeze(self) {
            Ok(false) if matches!(command.child().try_wait(), Ok(None)) => {
                Err("it runs".to_owned())
            }
            Ok(reached) => Ok(reached),
            Err(error) => Err(format!("{error:#}")),
        })?;
        if reached {
            act(self)?;
        }
        let output = command.wait_with_output()?;
        ensure!(reached, "it ended before its freeze: {output:?}");
        ensure!(!output.status.success(), "it succeeded: {output:?}");
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// What a checkpoint says that does not succeed.
    fn fails(&self, flags: &[&str]) -> Result<String> {
        let words = [&["godwit", "checkpoint"], flags, &[&self.writer.id]].concat();
        let output = self.node().exec(&words)?;
        ensure!(!output.status.success(), "it succeeded: {output:?}");
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn cancel(&self) -> Result<()> {
        self.node().run(&["pkill", "--signal", "INT", "--full", "^godwit checkpoint"])?;
        Ok(())
    }

    /// containerd finds it again as it is, with its processes: else it would take its shim for a forgotten one, and end it.
    fn restart_containerd(&self) -> Result<()> {
        let node = self.node();
        node.kill_containerd()?;
        node.start_containerd()?;
        ensure!(self.writer.listed(node)? == "RUNNING");
        let processes = node.ctr(&["task", "ps", &self.writer.id])?;
        ensure!(processes.lines().count() > 1, "{processes}");
        Ok(())
    }

    /// It was begun, containerd was asked for the image, and the container runs, or is frozen in a moment.
    fn is_checkpointing(&self) -> Result<bool> {
        let state = self.writer.state(self.node())?;
        let begun = self.node().log("godwit-agent")?.contains("phase=\"pre-copy\"");
        Ok(begun && ["checkpointing", "frozen"].contains(&state.as_str()))
    }

    /// It is frozen, and CRIU is there.
    fn is_dumped(&self) -> Result<bool> {
        Ok(self.writer.state(self.node())? == "frozen" && self.criu()?.is_some())
    }

    /// It is frozen, and CRIU, which comes before the freeze, is gone.
    fn is_uploaded(&self) -> Result<bool> {
        Ok(self.writer.state(self.node())? == "frozen" && self.criu()?.is_none())
    }

    fn criu(&self) -> Result<Option<String>> {
        let pid = self.node().sh("pgrep --exact criu || true")?;
        Ok(pid.split_whitespace().next().map(str::to_owned))
    }

    /// It works on, and nothing of the checkpoint is left.
    fn goes_on(&self) -> Result<()> {
        let then = self.writer.wait_beyond(self.node(), 0)?;
        self.writer.wait_beyond(self.node(), then)?;
        ensure!(self.writer.listed(self.node())? == "RUNNING");
        Ok(wait::until("nothing to be left", SOON, || {
            let left =
                "find /run/godwit/images -mindepth 1 2>/dev/null; pgrep --exact criu || true";
            match self.node().sh(left) {
                Ok(left) if left.is_empty() => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })?)
    }
}

#[test]
fn a_checkpoint_that_is_cancelled_leaves_the_container_running_whatever_containerd_does()
-> Result<()> {
    let scene = Scene::new("2min", LONG_IN_FREEZE)?;
    let restart = |scene: &Scene| {
        scene.restart_containerd()?;
        scene.cancel()
    };
    let said = scene.checkpoint(&["--stop"], Scene::is_checkpointing, restart)?;
    ensure!(said.contains("cancelled"), "{said}");
    let mut hang_up = None;
    let restart = |scene: &Scene| {
        scene.restart_containerd()?;
        let words = ["ctr", "task", "kill", "--signal", "SIGHUP", &scene.writer.id];
        hang_up = Some(scene.node().spawn(&words)?);
        scene.cancel()
    };
    let said = scene.checkpoint(&[], Scene::is_dumped, restart)?;
    ensure!(said.contains("cancelled"), "{said}");
    // What was sent to it in its freeze, it has got once.
    let sent = hang_up.context("it was sent")?.wait_with_output()?;
    ensure!(sent.status.success(), "{sent:?}");
    let got = format!("{BUNDLES}/{}/rootfs{SIGNALLED}", scene.writer.id);
    let got = wait::until("the signal", SOON, || match scene.node().read_file(&got) {
        Ok(got) if got.ends_with('\n') => Ok(got),
        other => Err(format!("{other:?}")),
    })?;
    ensure!(got == "hung up\n", "{got}");
    scene.goes_on()
}

#[test]
fn a_freeze_that_lasts_too_long_is_undone_and_the_container_runs() -> Result<()> {
    let scene = Scene::new("2s", IN_FREEZE)?;
    let said = scene.fails(&[])?;
    ensure!(said.contains("was frozen for 2s") && said.contains("freeze_deadline"), "{said}");
    scene.goes_on()
}

#[test]
fn a_stop_whose_upload_lasts_too_long_is_undone_and_told() -> Result<()> {
    let scene = Scene::new("2s", AFTERWARDS)?;
    let said = scene.fails(&["--stop"])?;
    ensure!(said.contains("was frozen for 2s") && said.contains("freeze_deadline"), "{said}");
    scene.goes_on()
}

#[test]
fn a_container_whose_criu_is_killed_in_the_freeze_is_killed_and_that_is_told() -> Result<()> {
    let scene = Scene::new("2min", IN_FREEZE)?;
    let events = Events::of(scene.node())?;
    let kill = |scene: &Scene| {
        let criu = scene.criu()?.context("CRIU is gone")?;
        scene.node().run(&["kill", "-KILL", &criu])?;
        Ok(())
    };
    let said = scene.checkpoint(&[], Scene::is_dumped, kill)?;
    ensure!(said.contains("damaged"), "{said}");
    let exit = events.wait_for("/tasks/exit", &scene.writer.id)?;
    ensure!(exit["exit_status"] == 137, "{exit}");
    ensure!(scene.writer.listed(scene.node())? == "STOPPED");
    Ok(())
}

#[test]
fn a_container_that_somebody_thaws_before_the_seal_is_not_given_away() -> Result<()> {
    let scene = Scene::new("2min", AFTERWARDS)?;
    let thaw = |scene: &Scene| Ok(scene.node().sh(THAW).map(drop)?);
    let said = scene.checkpoint(&["--stop"], Scene::is_uploaded, thaw)?;
    ensure!(said.contains("not frozen without a gap"), "{said}");
    scene.goes_on()
}
