//! A shim as containerd starts it, without containerd: from its execution until it has answered a call. Measured in the node, by this
//! program: a shim looks at its parent, and entering a node takes longer than what is measured.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use containerd_shim_protos::api::{ConnectRequest, ShutdownRequest};
use containerd_shim_protos::{Client, TaskClient, ttrpc};
use godwit_lab::{Node, wait};
use godwit_types::names;
use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::{RUNC, millis, remove, run};
use crate::container::{BUNDLES, RUNTIME, SOON};

/// In the node: this program, and the bundles.
const PROGRAM: &str = "/run/shim-bench/program";
const DIRECTORY: &str = "/run/shim-bench";
/// containerd's socket for what shims tell.
const TTRPC: &str = "/run/containerd/containerd.sock.ttrpc";

/// Bundles for shims that are only started.
pub(super) struct Bootstrap<'n> {
    node: &'n Node,
    config: String,
}

impl<'n> Bootstrap<'n> {
    pub(super) fn prepare(node: &'n Node) -> Result<Self> {
        node.run(&["mkdir", "--parents", DIRECTORY])?;
        node.put_program(&std::env::current_exe()?, PROGRAM)?;
        run(node, RUNC, "model")?;
        let config = node.read_file(&format!("{BUNDLES}/model/config.json"))?;
        remove(node, "model")?;
        Ok(Self { node, config })
    }

    /// Starts a shim of this runtime, calls and ends it: milliseconds.
    pub(super) fn answered(&self, runtime: &str, round: usize) -> Result<f64> {
        let id = format!("bootstrap{round}");
        let bundle = format!("{DIRECTORY}/{id}");
        self.node.write_file(&format!("{bundle}/config.json"), &self.config)?;
        let took = self.node.run(&[PROGRAM, "answered", program(runtime)?, &bundle])?;
        self.node.run(&["rm", "--recursive", &bundle])?;
        took.trim().parse().with_context(|| format!("{took:?} is no time"))
    }
}

fn program(runtime: &str) -> Result<&'static str> {
    Ok(match runtime {
        RUNTIME => "containerd-shim-godwit-v2",
        RUNC => "containerd-shim-runc-v2",
        other => bail!("{other} has no program"),
    })
}

/// Starts this shim for a bundle, which is named as its container, calls and ends it: milliseconds until it has answered.
///
/// # Errors
/// It does not start, answer or end.
pub fn answered(shim: &str, bundle: &Path) -> Result<f64> {
    let id = bundle.file_name().and_then(|name| name.to_str()).context("a bundle has a name")?;
    // Where it logs: containerd makes that, and reads it. runc's shim needs both.
    let log = bundle.join("log");
    mknodat(CWD, &log, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
    let _reads = File::options().read(true).write(true).open(&log)?;
    let mut start = Command::new(shim);
    start
        .args(["-namespace", "default", "-id", id, "-address", names::CONTAINERD_SOCKET, "start"])
        .env("TTRPC_ADDRESS", TTRPC)
        .current_dir(bundle)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    let begun = Instant::now();
    let told = start.output()?;
    ensure!(told.status.success(), "{shim} start: {}", told.status);
    let task = TaskClient::new(Client::connect(&address(&told.stdout)?)?);
    let request = ConnectRequest { id: id.to_owned(), ..Default::default() };
    let connected = task.connect(context(), &request)?;
    let took = millis(begun);
    let request = ShutdownRequest { id: id.to_owned(), now: true, ..Default::default() };
    // It may be gone before it has answered.
    let _ = task.shutdown(context(), &request);
    let process = format!("/proc/{}", connected.shim_pid);
    ensure!(connected.shim_pid > 0, "a shim without a pid: {connected:?}");
    wait::until_true("the shim to end", SOON, || !Path::new(&process).exists())?;
    Ok(took)
}

/// Of the shim that has printed this.
fn address(told: &[u8]) -> Result<String> {
    let told: serde_json::Value = serde_json::from_slice(told)
        .with_context(|| format!("{:?} is no JSON", String::from_utf8_lossy(told)))?;
    told["address"].as_str().map(str::to_owned).context("a shim's address")
}

fn context() -> ttrpc::context::Context {
    ttrpc::context::with_duration(Duration::from_secs(60))
}
