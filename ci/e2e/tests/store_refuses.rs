//! A store that is there and takes no writes: each checkpoint is refused by a sentence that says what to do, the container runs on,
//! nothing half-done stays, and the next checkpoint succeeds as soon as the store takes writes again.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use godwit_e2e::container::{Container, PROGRESS, SOON};
use godwit_lab::{
    AgentOptions, Image, InstallOptions, Lab, LabOptions, Node, S3, StoreChoice, default_bin_dir,
    wait,
};
use godwit_types::names;
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use serde_json::Value;

/// A file system of its own, and what fills it.
const SMALL: &str = "/lab/small";
const FILLER: &str = "/lab/small/filler";
const BUCKET: &str = "godwit/refuses";

/// What the log of a lineage says that cannot be written, and what is said of anything else.
const LOG: &str = "look at its space and at the rights of godwit-agent, then try again";
const RIGHTS: &str = "refused; check credentials, permissions and the bucket's name";
const FULL: &str = "it is full: make room there, then try again";

/// Ways to checkpoint.
const RUNS: &[&str] = &[];
const STOPS: &[&str] = &["--stop"];

/// One node with a container that has a checkpoint, and one that has none.
struct Scene {
    lab: Lab,
    node: Node,
    store: PathBuf,
    old: Container,
    young: Container,
    first: String,
}

/// What a checkpoint can leave: objects by name and size, fences, images.
type Kept = (BTreeMap<String, u64>, String);

impl Scene {
    fn new(lab: Lab, store: StoreChoice, place: impl Fn(&Node) -> Result<PathBuf>) -> Result<Self> {
        let node = lab.node("n1")?;
        let settings = String::new();
        node.install(&InstallOptions { bin_dir: default_bin_dir(), store, settings })?;
        node.import(Image::Mem)?;
        let words = ["memwriter", "--mib", "24", "--file", PROGRESS];
        let old = Container::new("old", Image::Mem, &words);
        let young = Container::new("young", Image::Mem, &["counter", "--file", PROGRESS]);
        for container in [&old, &young] {
            container.run(&node)?;
            container.wait_beyond(&node, 1)?;
        }
        let first = old.checkpoint(&node, &[])?.checkpoint.to_string();
        let store = place(&node)?;
        Ok(Self { lab, node, store, old, young, first })
    }

    /// Fences but for the last operation that they name.
    fn kept(&self) -> Result<Kept> {
        let mut objects = BTreeMap::new();
        collect(&self.store, &self.store, &mut objects)?;
        let look = format!(
            "find {fences} -type f | sort | xargs --no-run-if-empty sed 's/\"op\":\"[^\"]*\",//'
             find /run/godwit -path '*/images/*'",
            fences = names::FENCES
        );
        Ok((objects, self.node.sh(&look)?))
    }

    /// No checkpoint succeeds, each is told these words, and nothing comes of it.
    fn refuses(&self, container: &Container, flags: &[&[&str]], words: &str) -> Result<()> {
        let before = self.kept()?;
        for flags in flags {
            let told = match container.checkpoint(&self.node, flags) {
                Ok(report) => bail!("{} was stored: {report:?}", container.id),
                Err(error) => format!("{error:#}"),
            };
            ensure!(told.contains(words), "expected {words:?} in {told:?}");
            ensure!(container.listed(&self.node)? == "RUNNING", "{told}");
            container.wait_beyond(&self.node, container.progress(&self.node)?)?;
            // An upload that was on its way when another failed may end a moment later.
            wait::until("nothing half-done to be left", SOON, || match self.kept() {
                Ok(now) if now == before => Ok(()),
                Ok(now) => Err(format!("{before:?}, and now {now:?}")),
                Err(error) => Err(format!("{error:#}")),
            })?;
        }
        Ok(())
    }

    fn checkpoints(&self) -> Result<Vec<String>> {
        let list = self.node.run(&["godwit", "list", "--output", "json"])?;
        let list: Value = serde_json::from_str(&list)?;
        let rows = list["checkpoints"].as_array().context("rows")?;
        Ok(rows.iter().filter_map(|row| row["id"].as_str()).map(str::to_owned).collect())
    }

    /// It takes writes again: everything goes on from where it was.
    fn goes_on(self) -> Result<()> {
        let node = &self.node;
        ensure!(self.checkpoints()? == [self.first.as_str()], "{:?}", self.checkpoints()?);
        let next = self.old.checkpoint(node, &[])?;
        ensure!(next.parent.map(|p| p.to_string()).as_deref() == Some(&self.first), "{next:?}");
        self.young.checkpoint(node, &[])?;
        node.run(&["godwit", "gc"])?;
        for container in [&self.old, &self.young] {
            let id = container.checkpoint(node, &["--stop"])?.checkpoint.to_string();
            node.run(&["godwit", "verify", &id])?;
            container.remove(node)?;
            container.restore(node, &id)?;
            container.wait_beyond(node, container.progress(node)?)?;
            container.remove(node)?;
        }
        drop(self.lab);
        Ok(())
    }
}

/// Names and sizes of all files below a directory but what fills it.
fn collect(top: &Path, dir: &Path, found: &mut BTreeMap<String, u64>) -> Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let (path, meta) = (entry.path(), entry.metadata()?);
        if meta.is_dir() {
            collect(top, &path, found)?;
        } else if !FILLER.ends_with(entry.file_name().to_string_lossy().as_ref()) {
            found.insert(path.strip_prefix(top)?.display().to_string(), meta.len());
        }
    }
    Ok(())
}

/// Leaves so many bytes free.
fn fill(node: &Node, free: u64) -> Result<()> {
    node.sh(&format!(
        "rm --force {FILLER}
         left=$(($(stat --file-system --format='%a * %S' {SMALL}) - {free}))
         fallocate --length $left {FILLER}"
    ))?;
    Ok(())
}

/// Nobody may change what is in this directory, root neither.
fn forbid(dir: &Path, forbidden: bool) -> Result<()> {
    let dir = File::open(dir)?;
    let mut flags = ioctl_getflags(&dir)?;
    flags.set(IFlags::IMMUTABLE, forbidden);
    Ok(ioctl_setflags(&dir, flags)?)
}

/// The directory with the only log that there is.
fn log_of(scene: &Scene) -> Result<PathBuf> {
    let found = scene.node.sh(&format!("find {SMALL} -type d -name log"))?;
    let [log] = found.lines().collect::<Vec<_>>()[..] else { bail!("{found}") };
    Ok(scene.node.host_path(log)?)
}

#[test]
fn a_directory_on_a_file_system_that_is_full_or_cannot_be_written() -> Result<()> {
    let lab = Lab::up(&LabOptions::for_tests().nodes(&["n1"]))?;
    let mount = format!("mkdir -p {SMALL} && mount -t tmpfs -o size=512m tmpfs {SMALL}");
    lab.node("n1")?.sh(&mount)?;
    let store = StoreChoice::Directory(SMALL.to_owned());
    let scene = Scene::new(lab, store, |node| Ok(node.host_path(SMALL)?))?;

    // Everything is stored, and the entry that would make it count is not.
    let log = log_of(&scene)?;
    forbid(&log, true)?;
    scene.refuses(&scene.old, &[RUNS, STOPS], LOG).context("a log that cannot be written")?;
    forbid(&log, false)?;

    fill(&scene.node, 4 << 20)?;
    scene.refuses(&scene.old, &[RUNS, STOPS], FULL).context("room for a part")?;
    fill(&scene.node, 0)?;
    scene.refuses(&scene.old, &[STOPS], FULL).context("no room")?;
    scene.refuses(&scene.young, &[RUNS], LOG).context("no room for the beginning of a lineage")?;
    restarts(&scene).context("no room")?;
    scene.node.run(&["rm", FILLER])?;

    scene.node.run(&["mount", "-o", "remount,ro", SMALL])?;
    scene.refuses(&scene.old, &[RUNS], RIGHTS).context("mounted for reading")?;
    scene.refuses(&scene.young, &[STOPS], LOG).context("mounted for reading, first")?;
    restarts(&scene).context("mounted for reading")?;
    scene.node.run(&["mount", "-o", "remount,rw", SMALL])?;
    scene.goes_on()
}

/// An agent that starts now reads what is there: memory may be on its way from it.
fn restarts(scene: &Scene) -> Result<()> {
    scene.node.kill_agent()?;
    scene.node.start_agent(&AgentOptions::default())?;
    ensure!(scene.checkpoints()? == [scene.first.as_str()], "{:?}", scene.checkpoints()?);
    Ok(())
}

/// As whoever changes the rights of the agent's credentials.
fn serve(server: &S3, start: impl Fn(&S3) -> godwit_lab::Result<()>) -> Result<()> {
    server.kill()?;
    Ok(start(server)?)
}

#[test]
fn a_bucket_that_may_only_be_read() -> Result<()> {
    let lab = Lab::up(&LabOptions::for_tests().nodes(&["n1"]))?;
    let server = lab.s3()?;
    let store = StoreChoice::Bucket { server: server.clone(), path: BUCKET.to_owned() };
    let scene = Scene::new(lab, store, |_| Ok(server.objects().join(BUCKET)))?;

    serve(&server, S3::start_for_readers)?;
    scene.refuses(&scene.old, &[RUNS, STOPS], RIGHTS)?;
    scene.refuses(&scene.young, &[STOPS], LOG)?;
    restarts(&scene)?;
    scene.refuses(&scene.old, &[RUNS], RIGHTS)?;
    serve(&server, S3::start)?;
    scene.goes_on()
}
