//! Every command of `godwit`, as people and programs use it: through the agent and straight at the store, as tables and as JSON, with
//! each exit code that can be provoked. (4 is what a store answers to two writers of one name: no command of today gets it.)

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::PathBuf;
use std::process::Output;

use anyhow::{Context as _, Result, ensure};
use godwit_e2e::container::{Container, SOON};
use godwit_lab::{
    ACCESS_KEY, Image, InstallOptions, Lab, LabOptions, Node, REGION, S3, SECRET_KEY, Spawned,
    StoreChoice, default_bin_dir, wait,
};
use serde_json::{Value, json};

const DIRECTORY: &str = "/lab/shared/store";
const BUCKET: &str = "godwit/commands";
const UNKNOWN: &str = "01JZZZZZZZZZZZZZZZZZZZZZZZ";

/// How a command gets to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Agent,
    Straight,
}

const WAYS: [Way; 2] = [Way::Agent, Way::Straight];

/// One node with a container, and what is needed to go straight to its store.
struct Bed {
    lab: Lab,
    node: Node,
    web: Container,
    environment: Vec<String>,
}

/// How a command ended.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
    }
}

impl Ended {
    fn with(self, code: i32) -> Result<Self> {
        ensure!(self.code == Some(code), "expected exit code {code}: {self:?}");
        Ok(self)
    }

    fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.out).with_context(|| format!("not one document: {self:?}"))
    }

    fn says(&self, words: &[&str]) -> Result<()> {
        for word in words {
            ensure!(self.out.contains(word), "expected {word:?} in {self:?}");
        }
        Ok(())
    }

    fn complains(&self, words: &str) -> Result<()> {
        ensure!(self.err.contains(words), "expected {words:?} in {self:?}");
        Ok(())
    }
}

impl Bed {
    fn up(lab: Lab, store: StoreChoice, more: &[String]) -> Result<Self> {
        let node = lab.node("n1")?;
        let mut environment = vec![format!("GODWIT_STORE={}", store.url())];
        environment.extend_from_slice(more);
        let settings = String::new();
        node.install(&InstallOptions { bin_dir: default_bin_dir(), store, settings })?;
        node.import(Image::Shell)?;
        let web = Container::new("web", Image::Shell, &["sleep", "infinity"]);
        web.run(&node)?;
        Ok(Self { lab, node, web, environment })
    }

    fn directory() -> Result<Self> {
        let lab = Lab::up(&LabOptions::for_tests().nodes(&["n1"]))?;
        Self::up(lab, StoreChoice::Directory(DIRECTORY.to_owned()), &[])
    }

    fn s3() -> Result<(Self, S3)> {
        let lab = Lab::up(&LabOptions::for_tests().nodes(&["n1"]))?;
        let server = lab.s3()?;
        let more = [
            format!("GODWIT_S3_ENDPOINT={}", server.endpoint()),
            format!("GODWIT_S3_REGION={REGION}"),
            "GODWIT_S3_PATH_STYLE=true".to_owned(),
            format!("AWS_ACCESS_KEY_ID={ACCESS_KEY}"),
            format!("AWS_SECRET_ACCESS_KEY={SECRET_KEY}"),
        ];
        let store = StoreChoice::Bucket { server: server.clone(), path: BUCKET.to_owned() };
        Ok((Self::up(lab, store, &more)?, server))
    }

    fn words<'a>(&'a self, way: Way, words: &[&'a str]) -> Vec<&'a str> {
        let environment = self.environment.iter().map(String::as_str);
        let environment = environment.filter(|_| way == Way::Straight);
        ["env"]
            .into_iter()
            .chain(environment)
            .chain(["godwit"])
            .chain(words.iter().copied())
            .collect()
    }

    /// Runs `godwit` with these words to its end.
    fn godwit(&self, way: Way, words: &[&str]) -> Result<Ended> {
        Ok(self.node.exec(&self.words(way, words))?.into())
    }

    /// It has to succeed, and gives one document.
    fn json(&self, way: Way, words: &[&str]) -> Result<Value> {
        self.godwit(way, &[words, &["-o", "json"]].concat())?.with(0)?.json()
    }

    /// Starts it, and waits until it hears interrupts.
    fn start(&self, way: Way, words: &[&str]) -> Result<Spawned> {
        let started = self.node.spawn(&self.words(way, words))?;
        let hears = "test $((0x$(awk '/SigCgt/ {print $2}' /proc/$(pgrep --exact godwit)/status) & 2)) -ne 0";
        wait::until("godwit to hear interrupts", SOON, || self.node.sh(hears))?;
        Ok(started)
    }

    fn interrupt(&self) -> Result<()> {
        self.node.sh("kill -INT $(pgrep --exact godwit)").map(drop).map_err(Into::into)
    }

    fn checkpoints(&self, count: usize) -> Result<Vec<String>> {
        let id = |_| Ok(self.web.checkpoint(&self.node, &[])?.checkpoint.to_string());
        (0..count).map(id).collect()
    }
}

/// Each way makes the same of a checkpoint; a store URL that is exported concerns no command of the agent.
fn checkpoint(bed: &Bed) -> Result<Vec<String>> {
    let told = bed.godwit(Way::Straight, &["checkpoint", "web"])?.with(0)?;
    told.says(&["container  web (running)", "in store main", "frozen "])?;
    let first = told.out.lines().next().context("its id alone on the first line")?.to_owned();
    let report = bed.json(Way::Straight, &["checkpoint", "web"])?;
    ensure!(report["parent"] == first.as_str(), "{report}");
    let second = report["checkpoint"].as_str().context("an id")?.to_owned();
    let typed = bed.godwit(Way::Agent, &["checkpoint", "web", "--store", "file:///x"])?.with(8)?;
    typed.complains("leave the URL after --store away")?;
    bed.godwit(Way::Agent, &["checkpoint", "nobody"])?.with(3)?;
    Ok([vec![first, second], bed.checkpoints(2)?].concat())
}

fn look(bed: &Bed, way: Way, ids: &[String]) -> Result<()> {
    let newest = ids.last().context("a checkpoint")?.as_str();
    let table = bed.godwit(way, &["list"])?.with(0)?;
    table.says(&["CHECKPOINT", "PARENT", "web", "running", newest])?;
    let listing = bed.json(way, &["ls"])?;
    let rows = listing["checkpoints"].as_array().context("rows")?;
    let listed: Vec<_> = rows.iter().rev().filter_map(|row| row["id"].as_str()).collect();
    ensure!(listed == ids && listing["unreadable"] == json!([]), "{listing}");

    let table = bed.godwit(way, &["show", newest])?.with(0)?;
    table.says(&[
        &format!("checkpoint  {newest}"),
        "now         owned",
        "SEQ",
        "container   web",
    ])?;
    let shown = bed.json(way, &["show", newest])?;
    ensure!(shown["manifest"]["id"] == newest && shown["held"] == Value::Null, "{shown}");
    let froze = shown["manifest"]["timings"]["freeze"].as_f64();
    ensure!(froze.is_some_and(|ms| ms > 0.0), "{shown}");
    ensure!(shown["log"].as_array().is_some_and(|log| log.len() > ids.len()), "{shown}");
    let here = match way {
        Way::Agent => json!({"fault": null, "others": []}),
        Way::Straight => Value::Null,
    };
    ensure!(shown["here"] == here, "{shown}");

    bed.godwit(way, &["verify", newest])?.with(0)?.says(&[&format!("{newest}: sound (")])?;
    let verified = bed.json(way, &["verify", newest])?;
    ensure!(verified["faults"] == json!([]) && verified["frames"] != json!(0), "{verified}");
    for command in ["show", "verify", "delete", "hold", "unhold"] {
        bed.godwit(way, &[command, UNKNOWN])?.with(3)?.complains(UNKNOWN)?;
    }
    Ok(())
}

fn hold(bed: &Bed, way: Way, id: &str) -> Result<()> {
    bed.godwit(way, &["hold", id, "--reason", "audit"])?.with(0)?.says(&[&format!("held {id}")])?;
    bed.godwit(way, &["list"])?.with(0)?.says(&["held"])?;
    bed.godwit(way, &["show", id])?.with(0)?.says(&["held        by ", "(audit)"])?;
    bed.godwit(way, &["delete", id])?.with(5)?.complains("audit")?;
    let kept = bed.json(way, &["gc", "--keep-last", "0", "--dry-run"])?;
    let gone = kept["deleted"].as_array().context("a plan")?;
    ensure!(!gone.is_empty() && !gone.contains(&json!(id)), "gc would take what is held: {kept}");
    bed.godwit(way, &["unhold", id])?.with(0)?.says(&[&format!("released {id}")])?;
    ensure!(bed.json(way, &["hold", id])? == json!({ "held": [id] }));
    ensure!(bed.json(way, &["show", id])?["held"]["why"] == "no reason given");
    ensure!(bed.json(way, &["unhold", id])? == json!({ "released": [id] }));
    Ok(())
}

fn delete(bed: &Bed, ids: &[String]) -> Result<()> {
    let [a, b, c, only] = ids else { anyhow::bail!("four checkpoints") };
    let deleted = bed.json(Way::Agent, &["delete", a, b])?;
    ensure!(deleted == json!({ "deleted": [a, b] }), "{deleted}");
    bed.godwit(Way::Straight, &["rm", c])?.with(0)?.says(&[&format!("deleted {c}")])?;
    for way in WAYS {
        let told = bed.godwit(way, &["delete", "-o", "json", only])?.with(5)?;
        ensure!(told.json()? == json!({ "deleted": [] }), "{told:?}");
        let failure: Value = serde_json::from_str(&told.err)?;
        ensure!(failure["code"] == "precondition", "{failure}");
    }
    Ok(())
}

fn collect(bed: &Bed, way: Way) -> Result<()> {
    let planned = bed.json(way, &["gc", "--dry-run", "--keep-last", "1"])?;
    ensure!(planned["dry_run"] == true && planned["deleted"] == json!([]), "{planned}");
    bed.godwit(way, &["gc"])?.with(0)?.says(&["1 checkpoints are needed", "0 objects removed"])?;
    let done = bed.json(way, &["gc", "--max-age", "7d", "--max-bytes", "50GiB"])?;
    ensure!(done["kept"] == 1 && done["waiting"] != json!(0), "{done}");
    ensure!(done["cancelled"] == false && done["dry_run"] == false, "{done}");
    Ok(())
}

fn about(bed: &Bed) -> Result<()> {
    let words = ["agent   ", "criu    ", "STORE", "ready", "default+web", "running"];
    bed.godwit(Way::Straight, &["status"])?.with(0)?.says(&words)?;
    let status = bed.json(Way::Agent, &["status"])?;
    ensure!(status["node"] == "n1" && status["operations"] == json!([]), "{status}");
    let typed = bed.godwit(Way::Agent, &["status", "--store", "file:///x"])?.with(8)?;
    typed.complains("leave the URL after --store away")?;
    let version = bed.json(Way::Agent, &["version"])?;
    let version = version["version"].as_str().context("a version")?;
    bed.godwit(Way::Agent, &["version"])?.with(0)?.says(&[&format!("godwit {version}\n")])?;
    bed.godwit(Way::Agent, &["completion", "bash"])?.with(0)?.says(&["_godwit()"])
}

/// How `godwit doctor` ends, and what it says of a check: verdict and sentence.
fn doctor(bed: &Bed, code: i32, check: &str) -> Result<(String, String)> {
    let checks = bed.godwit(Way::Agent, &["doctor", "-o", "json"])?.with(code)?.json()?;
    let of = |one: &&Value| one["check"] == check;
    let found = checks["checks"].as_array().and_then(|all| all.iter().find(of));
    let found = found.with_context(|| format!("no {check} in {checks}"))?;
    let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    Ok((text("verdict"), text("told")))
}

/// All that is needed is there on a node that was installed; what `wrong` made is in its last failures.
fn nothing_is_bad(bed: &Bed) -> Result<()> {
    let shown = bed.godwit(Way::Agent, &["doctor"])?.with(0)?;
    shown.says(&[
        "good      kernel",
        "containerd has loaded `godwit`",
        "answers on n1",
        "main at ",
    ])?;
    for check in ["CRIU", "programs", "runtime", "agent.toml", "agent", "shims", "disk", "store"] {
        let (verdict, told) = doctor(bed, 0, check)?;
        ensure!(verdict == "good", "{check}: {told}");
    }
    let missing = [
        ("kubelet", "no kubelet runs"),
        ("pod network", "no kubelet runs"),
        ("Kubernetes", "[kubernetes]"),
    ];
    for (check, why) in missing {
        let (verdict, told) = doctor(bed, 0, check)?;
        ensure!(verdict == "unknown" && told.contains(why), "{check}: {verdict} {told}");
    }
    let before = bed.json(Way::Agent, &["list"])?;
    let newest = before["checkpoints"][0]["id"].as_str().context("a checkpoint")?;
    let fits = bed.godwit(Way::Agent, &["doctor", "--checkpoint", newest])?.with(0)?;
    fits.says(&["good      checkpoint      this node can continue it"])?;
    bed.godwit(Way::Agent, &["doctor", "--checkpoint", UNKNOWN])?.with(3)?.complains(UNKNOWN)?;
    bed.godwit(Way::Agent, &["checkpoint", "web", "--store", "nowhere"])?.with(3)?;
    let (verdict, told) = doctor(bed, 0, "last failures")?;
    ensure!(verdict == "limited" && told.contains("no store \"nowhere\""), "{told}");
    ensure!(bed.json(Way::Agent, &["list"])? == before, "the store is as it was");
    Ok(())
}

/// A store that is stopped is told, and its cure; afterwards all is well again.
fn a_stopped_store_is_bad(bed: &Bed, server: &S3) -> Result<()> {
    server.kill()?;
    let (verdict, told) = doctor(bed, 1, "store")?;
    ensure!(verdict == "bad" && told.contains("cannot be used"), "{told}");
    ensure!(told.contains("mend the store"), "{told}");
    ensure!(doctor(bed, 1, "agent")?.0 == "good");
    server.start()?;
    let again = doctor(bed, 0, "store")?;
    ensure!(again.0 == "good", "{again:?}");
    Ok(())
}

/// What no command but a broken one says.
fn wrong(bed: &Bed, id: &str) -> Result<()> {
    let full = bed.node.exec(&["sh", "-c", "exec godwit version >/dev/full"])?;
    Ended::from(full).with(1)?.complains("could not be printed")?;
    bed.godwit(Way::Agent, &["delete"])?.with(2)?;
    bed.godwit(Way::Agent, &["list", "--agent", "/nowhere"])?.with(6)?;
    bed.godwit(Way::Agent, &["list", "--store", "nowhere"])?.with(3)?;
    bed.godwit(Way::Agent, &["list", "--store", "file:///tmp/nothing"])?.with(3)?;
    bed.node.sh(&format!("godwit show {id} | head -n 1; godwit completion bash | head -n 1"))?;
    Ok(())
}

/// Where the store keeps the head of a checkpoint, on the host.
fn head_of(bed: &Bed, server: Option<&S3>, id: &str) -> Result<PathBuf> {
    let root = match server {
        Some(server) => server.objects().join(BUCKET),
        None => bed.node.host_path(DIRECTORY)?,
    };
    Ok(root.join(format!("t/_node/checkpoints/{id}/head")))
}

fn damage(bed: &Bed, server: Option<&S3>, id: &str) -> Result<()> {
    let path = head_of(bed, server, id)?;
    let mut bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x55;
    std::fs::write(&path, bytes)?;
    for way in WAYS {
        bed.godwit(way, &["verify", id])?.with(7)?.says(&["NOT SOUND"])?;
        let told = bed.godwit(way, &["verify", id, "-o", "json"])?.with(7)?.json()?;
        ensure!(told["faults"].as_array().is_some_and(|faults| !faults.is_empty()), "{told}");
    }
    Ok(())
}

fn every_command(bed: &Bed, server: Option<&S3>) -> Result<()> {
    let ids = checkpoint(bed)?;
    let newest = ids.last().context("a checkpoint")?;
    for way in WAYS {
        look(bed, way, &ids).with_context(|| format!("{way:?}"))?;
        hold(bed, way, &ids[0]).with_context(|| format!("{way:?}"))?;
    }
    delete(bed, &ids)?;
    for way in WAYS {
        collect(bed, way).with_context(|| format!("{way:?}"))?;
    }
    about(bed)?;
    wrong(bed, newest)?;
    nothing_is_bad(bed)?;
    if let Some(server) = server {
        a_stopped_store_is_bad(bed, server)?;
        interrupts(bed, server, newest)?;
    }
    damage(bed, server, newest)?;
    bed.node.kill_agent()?;
    bed.godwit(Way::Agent, &["list"])?.with(6)?.complains("is godwit-agent running?")?;
    let (verdict, told) = doctor(bed, 1, "agent")?;
    ensure!(verdict == "bad" && told.contains("godwit-agent --config"), "{told}");
    let (verdict, told) = doctor(bed, 1, "store")?;
    ensure!(verdict == "unknown" && told.contains("the agent does not answer"), "{told}");
    bed.godwit(Way::Straight, &["list"])?.with(0)?.says(&[newest])
}

/// A store that does not answer gives time for Ctrl-C: what only reads ends at once, a checkpoint says how it ended.
fn interrupts(bed: &Bed, server: &S3, id: &str) -> Result<()> {
    server.pause();
    for way in WAYS {
        let verify = bed.start(way, &["verify", id])?;
        bed.interrupt()?;
        let ended = Ended::from(verify.wait_with_output()?).with(9)?;
        ended.complains("nothing was changed")?;
    }
    let mut checkpoint = bed.start(Way::Agent, &["checkpoint", "web"])?;
    let mut said = BufReader::new(checkpoint.child().stderr.take().context("its errors")?);
    wait::until("status to list the checkpoint", SOON, || match listed(bed) {
        Ok(operations) if !operations.is_empty() => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    bed.interrupt()?;
    let mut err = String::new();
    // A store that answers before it was cancelled lets it succeed.
    while !err.contains("cancelling: waiting") {
        ensure!(
            said.read_line(&mut err)? > 0,
            "it ended without a word about the interrupt: {err}"
        );
    }
    server.resume();
    said.read_to_string(&mut err)?;
    let ended = Ended::from(checkpoint.wait_with_output()?).with(9)?;
    Ended { err, ..ended }.complains("cancelled")?;
    ensure!(bed.web.listed(&bed.node)? == "RUNNING");
    ensure!(listed(bed)?.is_empty());
    bed.web.checkpoint(&bed.node, &[]).map(drop).context("after a checkpoint that was cancelled")
}

/// The checkpoints of our container that are in progress.
fn listed(bed: &Bed) -> Result<Vec<Value>> {
    let status = bed.json(Way::Agent, &["status"])?;
    let operations = status["operations"].as_array().context("operations")?;
    let ours = |o: &&Value| o["kind"] == "checkpoint" && o["pod"] == "default+web";
    Ok(operations.iter().filter(ours).cloned().collect())
}

#[test]
fn every_command_with_a_directory() -> Result<()> {
    every_command(&Bed::directory()?, None)
}

#[test]
fn every_command_with_s3() -> Result<()> {
    let (bed, server) = Bed::s3()?;
    every_command(&bed, Some(&server))?;
    drop(bed.lab);
    Ok(())
}
