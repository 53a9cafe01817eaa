//! The last steps: CRIU's new socket, the amended request, the shim told, and CRIU in our place.

use std::ffi::OsString;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use godwit_criu_rpc::relay_plan::RelayPlan;
use godwit_criu_rpc::rpc::{Opts, Req};
use godwit_criu_rpc::{SeqPacket, request};
use godwit_wire::relay::{RELAY_PLAN_ENV, RELAY_SOCKET_ENV, RelayRequest};
use godwit_wire::{PROTOCOL, Socket};
use prost::Message as _;

use crate::error::Error;
use crate::request::Inherited;
use crate::sys;

/// `config_file`: would be evaluated after our options.
const CONFIG_FILE: u32 = 51;
/// Our copies of runc's directories stay out of the way of the numbers that runc gave to the container's streams.
const FIRST_NUMBER: i32 = 900;

/// Returns only if it fails.
pub(crate) fn become_criu(
    plan: &RelayPlan,
    socket: &Inherited,
    external: Vec<String>,
) -> Result<Error, Error> {
    let bytes = socket.take()?;
    let opts = Req::decode(bytes.as_slice())
        .ok()
        .and_then(|r| r.opts)
        .ok_or_else(|| Error::Plan("runc's request has no options".to_owned()))?;
    // CRIU looks descriptors up in the process that made its socket pair. That is us, and we become CRIU.
    let images = keep(socket.open_dir(opts.images_dir_fd)?)?;
    let work = keep(socket.open_dir(opts.work_dir_fd.unwrap_or(opts.images_dir_fd))?)?;
    let extra = plan.options.to_opts();
    let extra = Opts {
        images_dir_fd: images.as_raw_fd(),
        work_dir_fd: Some(work.as_raw_fd()),
        external: [external, extra.external].concat(),
        ..extra
    };
    let bytes = request::amend(&bytes, &[CONFIG_FILE], &extra)?;
    let (ours, theirs) = SeqPacket::pair()?;
    ours.send(&bytes.into())?;
    tell_shim(socket.socket(), &ours)?;
    drop(ours);
    let place = socket.place()?;
    put(&theirs, place)?;
    let number = socket.number().to_string();
    let arguments = ["--no-default-config", "swrk", &number].map(OsString::from);
    Ok(exec(plan, &arguments))
}

/// A copy that survives exec.
fn keep(dir: OwnedFd) -> Result<OwnedFd, Error> {
    let copy = rustix::io::fcntl_dupfd_cloexec(&dir, FIRST_NUMBER)
        .map_err(Error::sys("keep a directory open"))?;
    rustix::io::fcntl_setfd(&copy, rustix::io::FdFlags::empty())
        .map_err(Error::sys("keep a directory open"))?;
    Ok(copy)
}

fn tell_shim(runc: &SeqPacket, criu: &SeqPacket) -> Result<(), Error> {
    let path = crate::shim_socket()?;
    let shim = Socket::<RelayRequest, RelayRequest>::connect_silently(&path)?;
    Ok(shim.send(message(String::new()), &[runc.as_fd(), criu.as_fd()])?)
}

/// Tells the shim why nothing comes.
pub(crate) fn tell_failure(failure: &str) -> Result<(), Error> {
    let path = crate::shim_socket()?;
    let shim = Socket::<RelayRequest, RelayRequest>::connect_silently(&path)?;
    Ok(shim.send(message(failure.to_owned()), &[])?)
}

fn message(failure: String) -> RelayRequest {
    RelayRequest { protocol: PROTOCOL, pid: std::process::id(), failure }
}

fn put(theirs: &SeqPacket, mut place: std::mem::ManuallyDrop<OwnedFd>) -> Result<(), Error> {
    sys::replace(theirs, &mut place).map_err(Error::io("give CRIU its socket"))
}

/// Becomes the real CRIU with these arguments; what it returns is why that failed.
pub(crate) fn exec(plan: &RelayPlan, arguments: &[OsString]) -> Error {
    let failed = Command::new(&plan.criu)
        .args(arguments)
        .env("PATH", &plan.path)
        .env_remove(RELAY_PLAN_ENV)
        .env_remove(RELAY_SOCKET_ENV)
        .exec();
    Error::io(format!("start {}", plan.criu.display()))(failed)
}
