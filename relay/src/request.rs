//! runc's request, as it waits on the socket that runc gave us.

use std::mem::ManuallyDrop;
use std::os::fd::{OwnedFd, RawFd};

use godwit_criu_rpc::rpc::{Req, ReqType, Resp, VersionResp};
use godwit_criu_rpc::{SeqPacket, request};
use prost::Message as _;
use rustix::fs::{Mode, OFlags};

use crate::error::Error;
use crate::sys;

/// Name of CRIU's log as runc calls it.
const LOG_FILE: &str = "restore.log";

/// The socket between runc and us.
pub(crate) struct Inherited {
    fd: RawFd,
    socket: SeqPacket,
}

impl Inherited {
    pub(crate) fn new(fd: RawFd) -> Result<Self, Error> {
        let ours = sys::inherited(fd).map_err(Error::io("use runc's socket"))?;
        let copy = ours.try_clone().map_err(Error::io("duplicate runc's socket"))?;
        Ok(Self { fd, socket: copy.into() })
    }

    /// The type of the request; waits for it and leaves it where it is. `None` when runc has gone.
    pub(crate) fn kind(&self) -> Result<Option<ReqType>, Error> {
        let Some(bytes) = self.socket.peek()? else { return Ok(None) };
        Ok(Some(request::kind(&bytes)?.unwrap_or(ReqType::Empty)))
    }

    /// Answers a question for CRIU's version.
    pub(crate) fn answer_version(&self, (major, minor, sub): (u32, u32, u32)) -> Result<(), Error> {
        self.take()?;
        let number = |n: u32| i32::try_from(n).unwrap_or(0);
        let version = VersionResp {
            major_number: number(major),
            minor_number: number(minor),
            sublevel: Some(number(sub)),
            ..VersionResp::default()
        };
        let resp = Resp {
            r#type: ReqType::Version.into(),
            success: true,
            version: Some(version),
            ..Resp::default()
        };
        Ok(self.socket.send(&resp.encode_to_vec().into())?)
    }

    /// Takes the request off the socket.
    pub(crate) fn take(&self) -> Result<Vec<u8>, Error> {
        let packet = self.socket.recv()?;
        packet.map(|p| p.bytes).ok_or_else(|| Error::Plan("runc has gone".to_owned()))
    }

    /// The socket itself, for the shim.
    pub(crate) fn socket(&self) -> &SeqPacket {
        &self.socket
    }

    /// The number at which CRIU will look for its socket.
    pub(crate) fn number(&self) -> RawFd {
        self.fd
    }

    /// What is at that number now.
    pub(crate) fn place(&self) -> Result<ManuallyDrop<OwnedFd>, Error> {
        sys::inherited(self.fd).map_err(Error::io("use runc's socket"))
    }

    /// Opens a directory that the request names by its number in runc.
    pub(crate) fn open_dir(&self, number: i32) -> Result<OwnedFd, Error> {
        let peer = rustix::net::sockopt::socket_peercred(&self.socket)
            .map_err(Error::sys("ask who runc is"))?;
        let path = format!("/proc/{}/fd/{number}", peer.pid.as_raw_nonzero());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(&path, flags, Mode::empty()).map_err(Error::sys(format!("open {path}")))
    }

    /// Writes an error where CRIU would have written its own, as far as that is possible.
    pub(crate) fn log(&self, error: &str) {
        let _ = self.try_log(error);
    }

    fn try_log(&self, error: &str) -> Option<()> {
        let bytes = self.socket.try_peek().ok()??;
        let opts = Req::decode(bytes.as_slice()).ok()?.opts?;
        let dir = self.open_dir(opts.work_dir_fd.unwrap_or(opts.images_dir_fd)).ok()?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o600);
        let file = rustix::fs::openat(&dir, LOG_FILE, flags, mode).ok()?;
        let line = format!("(00.000000) Error (godwit-relay): {error}\n");
        rustix::io::write(&file, line.as_bytes()).ok().map(drop)
    }
}
