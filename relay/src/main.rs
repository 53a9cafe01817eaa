//! The `criu` on the PATH of one `runc restore`.
//!
//! runc starts it as `criu swrk <fd>` and believes that it talks to CRIU. For a RESTORE request the relay joins the
//! namespaces of its plan, makes the sources of the external mounts in a mount namespace of its own, hands runc's
//! socket to the shim and **becomes** the real CRIU in the same process, so that the restored init is runc's child and
//! nothing of the relay stays. Everything else goes to the real CRIU untouched.
//!
//! The order is forced: runc puts this process into the container's cgroup before it sends the request, so the cgroup
//! namespace is made after the request is there, and cgroup mounts after that.

mod error;
mod handover;
mod namespaces;
mod populate;
mod request;
mod sources;
mod sys;

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::process::ExitCode;

use godwit_criu_rpc::relay_plan::RelayPlan;
use godwit_criu_rpc::rpc::ReqType;
use godwit_wire::relay::{RELAY_PLAN_ENV, RELAY_SOCKET_ENV};

use crate::error::Error;
use crate::request::Inherited;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error is the container's: the last resort.
            if handover::tell_failure(&error::chain(&error)).is_err() {
                eprintln!("godwit-relay: {}", error::chain(&error));
            }
            ExitCode::from(error.code().exit_code())
        }
    }
}

fn run() -> Result<(), Error> {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let plan = plan()?;
    let Some(fd) = service_socket(&arguments) else {
        return Err(handover::exec(&plan, &arguments));
    };
    let socket = Inherited::new(fd)?;
    let answer = serve(&plan, &socket, &arguments);
    if let Err(error) = &answer {
        socket.log(&error::chain(error));
    }
    answer
}

fn serve(plan: &RelayPlan, socket: &Inherited, arguments: &[OsString]) -> Result<(), Error> {
    match (socket.kind()?, plan.criu_version) {
        (None, _) => Ok(()),
        (Some(ReqType::Restore), _) => Err(restore(plan, socket)?),
        (Some(ReqType::Version), Some(version)) => socket.answer_version(version),
        _ => Err(handover::exec(plan, arguments)),
    }
}

/// Everything up to becoming CRIU; what it returns is why that failed.
fn restore(plan: &RelayPlan, socket: &Inherited) -> Result<Error, Error> {
    let sources = sources::read(plan)?;
    // Under huge pages "always", an eager page of CRIU's would bring 2 MiB of zeros over the still empty lazy pages
    // around it. Inherited by the tasks; the restorer sets the image's value back.
    rustix::thread::disable_transparent_huge_pages(true)
        .map_err(Error::sys("disable huge pages"))?;
    namespaces::enter(plan)?;
    let external = sources::make(plan, &sources)?;
    handover::become_criu(plan, socket, external)
}

/// `swrk <fd>`
fn service_socket(arguments: &[OsString]) -> Option<RawFd> {
    match arguments {
        [word, fd] if word == "swrk" => fd.to_str()?.parse().ok(),
        _ => None,
    }
}

fn plan() -> Result<RelayPlan, Error> {
    let path = env_path(RELAY_PLAN_ENV)?;
    let bytes = std::fs::read(&path).map_err(Error::io(format!("read {}", path.display())))?;
    Ok(RelayPlan::decode(&bytes)?)
}

fn env_path(name: &'static str) -> Result<PathBuf, Error> {
    std::env::var_os(name).map(PathBuf::from).ok_or(Error::Environment { name })
}

/// The shim's socket.
fn shim_socket() -> Result<PathBuf, Error> {
    env_path(RELAY_SOCKET_ENV)
}
