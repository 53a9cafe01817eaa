//! Where the relay reports: it hands over runc's socket and CRIU's, and becomes CRIU in the same process.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use godwit_wire::relay::RelayRequest;
use godwit_wire::{AsyncListener, AsyncSocket, PROTOCOL};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::error::{Error, Result};

/// The socket of one restore.
#[derive(Debug)]
pub struct RelaySocket {
    listener: AsyncListener,
    path: PathBuf,
}

/// A CRIU that is about to restore, inside the container's cgroup.
#[derive(Debug)]
pub struct Criu {
    /// Its pid.
    pub pid: u32,
    /// Its pidfd.
    pub pidfd: OwnedFd,
}

/// What the relay hands over.
#[derive(Debug)]
pub struct Handover {
    /// The process that becomes CRIU.
    pub criu: Criu,
    /// The socket on which runc waits.
    pub runc: OwnedFd,
    /// The socket on which CRIU listens; the request is in it already.
    pub socket: OwnedFd,
}

impl RelaySocket {
    /// Binds it in the attempt's directory.
    ///
    /// # Errors
    /// The directory is not there.
    pub fn bind(work: &Path) -> Result<Self> {
        let path = work.join("relay.sock");
        let listener = AsyncListener::bind(&path)
            .map_err(|why| Error::Unavailable(format!("bind {}: {why}", path.display())))?;
        Ok(Self { listener, path })
    }

    /// Its path, for the relay's environment.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for the relay.
    ///
    /// # Errors
    /// The relay could not do what its plan says (its own sentence), or is not ours.
    pub async fn accept(&self) -> Result<Handover> {
        let failed = |why: godwit_wire::WireError| {
            Error::Unavailable(format!("the relay could not be heard: {why}"))
        };
        let socket: AsyncSocket<RelayRequest, RelayRequest> =
            self.listener.accept().await.map_err(failed)?;
        let pid = socket.peer_pid().map_err(failed)?;
        let request = socket.recv().await.map_err(failed)?;
        let request = request.ok_or_else(|| failed(godwit_wire::WireError::Closed))?;
        if !request.body.failure.is_empty() {
            return Err(Error::Refused(request.body.failure));
        }
        if request.body.protocol != PROTOCOL {
            return Err(Error::Refused(format!(
                "the relay speaks protocol {}, this shim {PROTOCOL}: install both from one release",
                request.body.protocol
            )));
        }
        let (_, [runc, socket]) = request.with_fds("RelayRequest").map_err(failed)?;
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let raw = raw.ok_or_else(|| Error::Refused("the relay has no pid here".into()))?;
        let pidfd = pidfd_open(raw, PidfdFlags::empty()).map_err(Error::io("open CRIU's pidfd"))?;
        Ok(Handover { criu: Criu { pid, pidfd }, runc, socket })
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use godwit_wire::Socket;

    use super::*;

    type Relay = Socket<RelayRequest, RelayRequest>;

    #[tokio::test]
    async fn a_relay_hands_over_both_sockets_and_its_pid_is_the_kernels_word() {
        let dir = tempfile::tempdir().unwrap();
        let socket = RelaySocket::bind(dir.path()).unwrap();
        let relay = Relay::connect_silently(socket.path()).unwrap();
        let request = RelayRequest { protocol: PROTOCOL, pid: 1, failure: String::new() };
        relay.send(request, &[relay.as_fd(), relay.as_fd()]).unwrap();
        let handover = socket.accept().await.unwrap();
        assert_eq!(handover.criu.pid, std::process::id());
    }

    #[tokio::test]
    async fn a_relays_failure_is_told_in_its_own_words_and_another_protocol_refused() {
        let dir = tempfile::tempdir().unwrap();
        let socket = RelaySocket::bind(dir.path()).unwrap();
        for (protocol, failure, told) in [
            (PROTOCOL, "no such network namespace", "no such network namespace"),
            (99, "", "protocol 99"),
        ] {
            let relay = Relay::connect_silently(socket.path()).unwrap();
            relay.send(RelayRequest { protocol, pid: 1, failure: failure.into() }, &[]).unwrap();
            let why = socket.accept().await.unwrap_err();
            assert!(why.to_string().contains(told), "{why}");
        }
    }
}
