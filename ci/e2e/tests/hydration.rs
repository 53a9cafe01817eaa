//! What happens to a container whose memory is still on its way when a part of the node, or the store, is lost: it goes on with the
//! right memory, or it is killed and that is told. It never sees a page that is not its own: the program in it looks at every page.

mod hydration {
    mod before_start;
    mod order;
}

use anyhow::{Context as _, Result, ensure};
use godwit_e2e::agent::{read_at, restart_agent};
use godwit_e2e::bed::{Bed, Store};
use godwit_e2e::container::{Container, PROGRESS, SOON};
use godwit_e2e::events::Events;
use godwit_lab::{Image, LabOptions, Node, wait};

/// Where all that it prints goes, on its node.
const PRINTED: &str = "/var/log/writer.log";
/// So slow that memory is on its way for as long as a test needs: a quarter of a GiB in two minutes.
const SLOW: &str = "max_bytes_per_second = 2097152\n";
/// The directory that both nodes see, the store in it, and where that is put away.
const SHARED: &str = "/lab/shared";
const STORE: &str = "/lab/shared/store";
const AWAY: &str = "/lab/shared/away";

/// For memory that never comes, and for memory that comes late.
const SHORT: &str = "20s";
const LONG: &str = "5min";

/// A stopped writer of 256 MiB, and a second node whose agent reads slowly.
struct Scene {
    bed: Bed,
    writer: Container,
    checkpoint: String,
}

impl Scene {
    fn new(deadline: &str) -> Result<Self> {
        Self::with(Store::File, deadline)
    }

    fn with(store: Store, deadline: &str) -> Result<Self> {
        // All of its memory changes until the freeze, and is stored there.
        let settings = format!("hydration_deadline = \"{deadline}\"\nfreeze_deadline = \"2min\"\n");
        let bed = Bed::up(&LabOptions::for_tests(), store, &settings, &[Image::Mem])?;
        let all = "dontneed,munmap,mremap,fork";
        let words =
            ["memwriter", "--mib", "256", "--threads", "2", "--disturb", all, "--file", PROGRESS];
        let log = format!("file://{PRINTED}");
        let writer = Container::new("writer", Image::Mem, &words).with(&["--log-uri", &log]);
        writer.run(&bed.n1)?;
        writer.wait_beyond(&bed.n1, 3)?;
        let checkpoint = writer.checkpoint(&bed.n1, &["--stop"])?.checkpoint.to_string();
        writer.remove(&bed.n1)?;
        let scene = Self { bed, writer, checkpoint };
        scene.read_at("", SLOW)?;
        Ok(scene)
    }

    /// The node on which it hydrates.
    fn node(&self) -> &Node {
        &self.bed.n2
    }

    fn read_at(&self, from: &str, to: &str) -> Result<()> {
        read_at(self.node(), from, to)
    }

    fn restart_agent(&self) -> Result<()> {
        restart_agent(self.node())
    }

    /// Continues it; it works and its memory is on its way when this returns.
    fn hydrate(&self) -> Result<()> {
        self.writer.restore(self.node(), &self.checkpoint)?;
        wait::until_true("the program to print", SOON, || {
            self.node().read_file(PRINTED).is_ok_and(|printed| printed.contains("rounds"))
        })?;
        self.is_hydrating()
    }

    fn is_hydrating(&self) -> Result<()> {
        let state = self.writer.state(self.node())?;
        ensure!(state == "hydrating", "it is {state}: memory was not slow enough for this test");
        Ok(())
    }

    /// Waits until it has been killed and that was told: its exit by containerd, the reason by its shim.
    fn wait_killed(&self, events: &Events, reason: &str) -> Result<()> {
        let exit = events.wait_for("/tasks/exit", &self.writer.id)?;
        ensure!(exit["exit_status"] == 137, "{exit}");
        ensure!(self.writer.listed(self.node())? == "STOPPED");
        let told = "memory cannot be completed: the container is killed";
        let line = self.logged("containerd", told)?;
        ensure!(line.contains(reason), "expected {reason:?} in {line}");
        self.saw_only_its_own()
    }

    /// The line in which a daemon's log has these words; it may come a moment late.
    fn logged(&self, daemon: &str, words: &str) -> Result<String> {
        Ok(wait::until(&format!("{words:?} of {daemon}"), SOON, || {
            let log = self.node().log(daemon).map_err(|error| error.to_string())?;
            let line = log.lines().find(|line| line.contains(words));
            line.map(str::to_owned).ok_or_else(|| "it does not say so".to_owned())
        })?)
    }

    /// The program checks every page for ever, and says what it finds before it ends.
    fn saw_only_its_own(&self) -> Result<()> {
        let printed = self.node().read_file(PRINTED)?;
        ensure!(!printed.contains("memwriter:"), "{printed}");
        Ok(())
    }

    /// What a person would want to read: the last words of the program, its shim and the agent.
    fn told(&self) -> String {
        let read = |text: std::result::Result<String, _>, about: &str| {
            let text = text.unwrap_or_default();
            let lines: Vec<&str> = text.lines().filter(|line| line.contains(about)).collect();
            lines[lines.len().saturating_sub(15)..].join("\n")
        };
        let printed = read(self.node().read_file(PRINTED), "");
        let shim = read(self.node().log("containerd"), "container=");
        let agent = read(self.node().log("godwit-agent"), "");
        format!("printed:\n{printed}\nshim:\n{shim}\nagent:\n{agent}")
    }

    /// The same checkpoint is continued again, and this time all of it comes.
    fn goes_on_again(&self) -> Result<()> {
        self.read_at(SLOW, "")?;
        self.writer.remove(self.node())?;
        self.writer.restore(self.node(), &self.checkpoint)?;
        self.is_complete()
    }

    /// Waits until the agent says this of its store.
    fn waits_for_store(&self, state: &str) -> Result<()> {
        let told = || {
            let status = self.node().run(&["godwit", "status", "--output", "json"])?;
            let status: serde_json::Value = serde_json::from_str(&status)?;
            Ok::<_, anyhow::Error>(
                status["stores"][0]["state"].as_str().unwrap_or_default().to_owned(),
            )
        };
        wait::until("the agent's word about its store", SOON, || match told() {
            Ok(now) if now.starts_with(state) => Ok(()),
            other => Err(format!("{other:?}")),
        })?;
        Ok(())
    }

    /// Waits until a frame could not be had.
    fn asks_in_vain(&self) -> Result<()> {
        wait::until("a frame to be asked for in vain", SOON, || {
            match self.node().log("godwit-agent") {
                Ok(log) if log.contains("memory cannot be read") => Ok(()),
                Ok(_) => Err("none yet".to_owned()),
                Err(error) => Err(error.to_string()),
            }
        })?;
        Ok(())
    }

    /// The rest of the memory comes fast, and it works with all of it.
    fn is_right(&self) -> Result<()> {
        self.read_at(SLOW, "")?;
        self.is_complete()
    }

    /// Waits until no restore holds the checkpoint in the store.
    fn is_let_go(&self) -> Result<()> {
        let pins = format!("find {STORE} -path '*/pins/*' -type f");
        wait::until("the pins to go", SOON, || match self.node().sh(&pins) {
            Ok(left) if left.is_empty() => Ok(()),
            other => Err(format!("{other:?}")),
        })?;
        Ok(())
    }

    /// All memory is there, and it works with it.
    fn is_complete(&self) -> Result<()> {
        self.writer.wait_state(self.node(), "running").with_context(|| self.told())?;
        let now = self.writer.progress(self.node())?;
        // Two whole rounds: every page is looked at after the last one came.
        self.writer.wait_beyond(self.node(), now + 2 * 2)?;
        self.saw_only_its_own()?;
        self.writer.remove(self.node())?;
        let left = self.node().sh("find /run/godwit/restores -mindepth 1")?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    }
}

fn kill(node: &Node, program: &str) -> Result<()> {
    let found = node.sh(&format!("pgrep --full '^[^ ]*{program}'"))?;
    let pids: Vec<&str> = found.split_whitespace().collect();
    ensure!(pids.len() == 1, "{program}: {pids:?}");
    node.run(&["kill", "-KILL", pids[0]])?;
    Ok(())
}

#[test]
fn a_store_that_is_gone_for_good_ends_the_container_and_one_that_returns_lets_it_go_on_again()
-> Result<()> {
    let scene = Scene::new(SHORT)?;
    let events = Events::of(scene.node())?;
    scene.hydrate()?;
    scene.node().run(&["mv", STORE, AWAY])?;
    scene.wait_killed(&events, "the store file:///lab/shared/store is not there")?;
    scene.logged("godwit-agent", "killed: its memory could not be completed")?;
    // Whatever was written where it had been is not the store.
    scene.node().run(&["rm", "-rf", STORE])?;
    scene.node().run(&["mv", AWAY, STORE])?;
    scene.goes_on_again()
}

#[test]
fn a_store_that_is_away_for_less_than_the_deadline_costs_nothing_but_time() -> Result<()> {
    let scene = Scene::new(LONG)?;
    scene.hydrate()?;
    scene.node().run(&["mv", STORE, AWAY])?;
    scene.asks_in_vain()?;
    // An agent that starts now waits for the store, and makes none in its place.
    scene.restart_agent()?;
    scene.waits_for_store("away: ")?;
    scene.node().run(&["mv", AWAY, STORE])?;
    scene.waits_for_store("ready")?;
    scene.is_right()
}

#[test]
fn a_store_that_takes_no_writes_any_more_is_read_on() -> Result<()> {
    let scene = Scene::new(LONG)?;
    scene.hydrate()?;
    let remount = |how: &str| scene.node().run(&["mount", "-o", how, SHARED]);
    remount("remount,bind,ro")?;
    // What it holds of the checkpoint cannot be renewed by this agent.
    scene.restart_agent()?;
    scene.waits_for_store("ready")?;
    scene.is_hydrating()?;
    scene.read_at(SLOW, "")?;
    scene.writer.wait_state(scene.node(), "running").with_context(|| scene.told())?;
    remount("remount,bind,rw")?;
    scene.is_let_go()?;
    scene.is_complete()
}

#[test]
fn an_s3_server_that_is_gone_for_good_ends_the_container_and_one_that_returns_lets_it_go_on_again()
-> Result<()> {
    let scene = Scene::with(Store::S3, SHORT)?;
    let events = Events::of(scene.node())?;
    scene.hydrate()?;
    scene.bed.lab.s3_server().kill()?;
    let reason = format!("no memory has come from the agent for {SHORT}");
    scene.wait_killed(&events, &reason)?;
    scene.bed.lab.s3_server().start()?;
    scene.goes_on_again()
}

#[test]
fn an_s3_server_that_is_away_for_less_than_the_deadline_costs_nothing_but_time() -> Result<()> {
    let scene = Scene::with(Store::S3, LONG)?;
    scene.hydrate()?;
    scene.bed.lab.s3_server().kill()?;
    scene.asks_in_vain()?;
    scene.is_hydrating()?;
    scene.bed.lab.s3_server().start()?;
    scene.is_right()
}

#[test]
fn an_agent_that_is_gone_for_good_ends_the_container() -> Result<()> {
    let scene = Scene::new(SHORT)?;
    let events = Events::of(scene.node())?;
    scene.hydrate()?;
    scene.node().kill_agent()?;
    scene.wait_killed(&events, "see that godwit-agent runs on this node")?;
    scene.goes_on_again()
}

#[test]
fn an_agent_that_is_restarted_is_asked_again_and_every_page_is_right() -> Result<()> {
    let scene = Scene::new(LONG)?;
    scene.hydrate()?;
    for _ in 0..3 {
        scene.restart_agent()?;
        scene.is_hydrating()?;
    }
    let told = scene.node().log("containerd")?;
    ensure!(
        told.contains("lost the agent; connecting again"),
        "what the pager says is lost: {told}"
    );
    scene.is_right()?;
    scene.is_let_go()
}

#[test]
fn a_pager_that_is_killed_ends_the_container() -> Result<()> {
    let scene = Scene::new(LONG)?;
    let events = Events::of(scene.node())?;
    scene.hydrate()?;
    kill(scene.node(), "godwit-pager")?;
    scene.wait_killed(&events, "the pager ended before the memory was complete")?;
    scene.goes_on_again()
}

#[test]
fn a_shim_that_is_killed_ends_the_container_and_leaves_nothing() -> Result<()> {
    let scene = Scene::new(LONG)?;
    scene.hydrate()?;
    kill(scene.node(), "containerd-shim-godwit-v2")?;
    scene.writer.wait_buried(scene.node())?;
    scene.saw_only_its_own()?;
    let look = "pgrep --list-full 'memwriter|godwit-pager' || true
                find /run/godwit/restores -mindepth 1";
    wait::until("nothing of it to be left", SOON, || match scene.node().sh(look) {
        Ok(left) if left.is_empty() => Ok(()),
        Ok(left) => Err(left),
        Err(error) => Err(error.to_string()),
    })?;
    scene.goes_on_again()
}
