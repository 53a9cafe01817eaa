//! `start`: makes sure that a shim serves the container's group, and prints its address.
//!
//! The socket is bound here and inherited by the server as its stdin, so that it can be connected to from the moment
//! on that the address is known.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::Arguments;
use super::input::Input;
use super::serve::{BUNDLE, TTRPC_ADDRESS};
use super::socket;
use crate::cgroup;
use crate::error::{Error, Result};
use crate::options::Options;
use crate::spec::Spec;

/// Highest value of `oom_score_adj`.
const OOM_SCORE_MAX: i32 = 1000;

/// Prints `{"version":3,"address":"unix://…","protocol":"ttrpc"}`, which containerd 2.0 and later understand.
///
/// # Errors
/// No shim could be started; nothing is left behind.
pub fn run(arguments: &Arguments) -> Result<()> {
    require("namespace", &arguments.namespace)?;
    require("id", &arguments.id)?;
    let input = Input::read()?;
    let bundle = arguments.bundle()?;
    let spec = Spec::read(&bundle)?;
    let path = socket::path(
        input.socket_dir.as_deref(),
        &arguments.address,
        &arguments.namespace,
        spec.group(&arguments.id),
    );
    if let Some(listener) = socket::bind(&path)? {
        let server = serve(arguments, &input, &bundle, listener.into());
        if let Err(why) = server {
            // Nobody will serve it.
            let _ = std::fs::remove_file(&path);
            return Err(why);
        }
    }
    let reply = serde_json::json!({
        "version": containerd_shim_protos::TASK_API_VERSION,
        "address": socket::url(&path),
        "protocol": "ttrpc",
    });
    std::io::stdout()
        .write_all(reply.to_string().as_bytes())
        .map_err(Error::io("print the address"))
}

fn serve(arguments: &Arguments, input: &Input, bundle: &Path, listener: OwnedFd) -> Result<()> {
    let options = Options::decode(input.options.as_ref())?;
    let program = std::env::current_exe().map_err(Error::io("find the shim's program"))?;
    let mut command = Command::new(program);
    command
        .args(["-namespace", &arguments.namespace, "-id", &arguments.id])
        .args(["-address", &arguments.address])
        .args(arguments.debug.then_some("-debug"))
        .env(BUNDLE, bundle)
        .env(TTRPC_ADDRESS, ttrpc_address(input)?)
        .current_dir(bundle)
        // containerd reads our output to its end: the server must not hold it open.
        .stdin(Stdio::from(listener))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    let mut server = command.spawn().map_err(Error::io("start the shim's server"))?;
    let placed = place(&server, &options);
    if placed.is_err() {
        // It must not serve in a wrong place.
        let _ = server.kill();
        let _ = server.wait();
    }
    placed
}

fn ttrpc_address(input: &Input) -> Result<String> {
    let address = std::env::var(TTRPC_ADDRESS).unwrap_or_else(|_| input.ttrpc_address.clone());
    require(TTRPC_ADDRESS, &address)?;
    Ok(address)
}

/// Puts the server into the cgroup that the options name, and makes it a likelier victim than containerd.
fn place(server: &Child, options: &Options) -> Result<()> {
    if !options.shim_cgroup.is_empty() {
        cgroup::join(&options.shim_cgroup, server.id())
            .map_err(Error::io(format!("put the shim into cgroup {}", options.shim_cgroup)))?;
    }
    let attempt = || Error::io("set the shim's out-of-memory score");
    let containerd = std::os::unix::process::parent_id();
    let score =
        std::fs::read_to_string(format!("/proc/{containerd}/oom_score_adj")).map_err(attempt())?;
    let score: i32 = score.trim().parse().unwrap_or(0);
    let score = (score + 1).min(OOM_SCORE_MAX);
    std::fs::write(format!("/proc/{}/oom_score_adj", server.id()), score.to_string())
        .map_err(attempt())
}

fn require(what: &str, value: &str) -> Result<()> {
    if value.is_empty() {
        return Err(Error::Invalid(format!("{what} is missing; containerd gives it to its shims")));
    }
    Ok(())
}
