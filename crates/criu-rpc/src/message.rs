//! What packets on CRIU's socket mean.
//!
//! Owns the names of the notifications and the answers to them. Holds nothing back and forwards nothing: callers do.

use prost::Message as _;

use crate::packet::Packet;
use crate::rpc::{Opts, Req, ReqType, Resp};
use crate::{Error, raw};

/// CRIU's notifications (its action scripts), in the order in which a dump or restore sends them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Notify {
    /// Dump: everything is prepared, the tasks still run. The place to freeze.
    PreDump,
    /// Dump: tasks are stopped; the answer may name more external resources.
    QueryExtFiles,
    /// Dump or restore: network traffic must stop now.
    NetworkLock,
    /// Dump: images are complete, the page server has acknowledged, tasks are still stopped. A refusal rolls back.
    PostDump,
    /// Lazy dump, page server: it serves.
    StatusReady,
    /// Network traffic may flow again.
    NetworkUnlock,
    /// Restore: nothing has been created yet.
    PreRestore,
    /// Restore: namespaces exist; carries the pid of the root task.
    SetupNamespaces,
    /// Restore: namespaces are filled.
    PostSetupNamespaces,
    /// Restore: every task exists and is held; carries the pid of the root task. **The last point where a refusal
    /// aborts cleanly.**
    PostRestore,
    /// Restore: tasks are about to run. A refusal is only logged and they run.
    PreResume,
    /// Restore: tasks run.
    PostResume,
    /// Restore: carries the master of a terminal as a descriptor.
    OrphanPtsMaster,
    /// Streaming of images begins (not used over RPC).
    PreStream,
    /// A name that this version does not know: pass it on, or acknowledge it.
    Unknown,
}

impl Notify {
    /// All that have a name.
    pub const ALL: [Self; 14] = [
        Self::PreDump,
        Self::QueryExtFiles,
        Self::NetworkLock,
        Self::PostDump,
        Self::StatusReady,
        Self::NetworkUnlock,
        Self::PreRestore,
        Self::SetupNamespaces,
        Self::PostSetupNamespaces,
        Self::PostRestore,
        Self::PreResume,
        Self::PostResume,
        Self::OrphanPtsMaster,
        Self::PreStream,
    ];

    /// CRIU's name for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PreDump => "pre-dump",
            Self::QueryExtFiles => "query-ext-files",
            Self::NetworkLock => "network-lock",
            Self::PostDump => "post-dump",
            Self::StatusReady => "status-ready",
            Self::NetworkUnlock => "network-unlock",
            Self::PreRestore => "pre-restore",
            Self::SetupNamespaces => "setup-namespaces",
            Self::PostSetupNamespaces => "post-setup-namespaces",
            Self::PostRestore => "post-restore",
            Self::PreResume => "pre-resume",
            Self::PostResume => "post-resume",
            Self::OrphanPtsMaster => "orphan-pts-master",
            Self::PreStream => "pre-stream",
            Self::Unknown => "unknown",
        }
    }

    /// By CRIU's name; [`Notify::Unknown`] for any other.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        Self::ALL.into_iter().find(|n| n.name() == name).unwrap_or(Self::Unknown)
    }
}

/// One notification. CRIU waits for [`ack`] or [`nak`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// Which.
    pub kind: Notify,
    /// The root task, in CRIU's pid namespace, where CRIU says it (setup-namespaces, post-restore).
    pub pid: Option<i32>,
}

/// What CRIU sent.
#[derive(Debug, Clone, PartialEq)]
pub enum Incoming {
    /// It asks, and waits for an answer.
    Notification(Notification),
    /// It is done with the request (boxed: large beside a notification).
    Response(Box<Resp>),
}

impl Incoming {
    /// Reads a packet that came from CRIU.
    ///
    /// # Errors
    /// [`Error::Malformed`] when it is not one of CRIU's messages.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let resp = Resp::decode(bytes).map_err(|e| Error::malformed("CRIU's message", e))?;
        match (resp.r#type(), &resp.notify) {
            (ReqType::Notify, Some(notify)) => Ok(Self::Notification(Notification {
                kind: Notify::from_name(notify.script()),
                pid: notify.pid,
            })),
            _ => Ok(Self::Response(Box::new(resp))),
        }
    }
}

/// "Go on": the answer to a notification.
#[must_use]
pub fn ack() -> Packet {
    answer(true, None)
}

/// "Stop and roll back": the answer to a notification. Only logged by CRIU from [`Notify::PreResume`] on.
#[must_use]
pub fn nak() -> Packet {
    answer(false, None)
}

/// "Go on" to [`Notify::QueryExtFiles`], naming more external resources.
#[must_use]
pub fn ack_with_externals(external: Vec<String>) -> Packet {
    answer(true, Some(Opts { images_dir_fd: -1, external, ..Opts::default() }))
}

fn answer(success: bool, opts: Option<Opts>) -> Packet {
    let req = Req {
        r#type: ReqType::Notify.into(),
        notify_success: Some(success),
        opts,
        ..Req::default()
    };
    req.encode_to_vec().into()
}

/// Looks into a *request* (what runc or we send to CRIU) without decoding its options.
pub mod request {
    use prost::Message as _;

    use super::{Error, Opts, Packet, Req, ReqType, raw};

    /// A request of this type with these options.
    #[must_use]
    pub fn packet(kind: ReqType, opts: Option<Opts>) -> Packet {
        let req = Req { r#type: kind.into(), opts, ..Req::default() };
        req.encode_to_vec().into()
    }

    /// A request after which CRIU waits for another one (types VERSION, FEATURE_CHECK and the like).
    #[must_use]
    pub fn keep_open(req: Req) -> Packet {
        Req { keep_open: Some(true), ..req }.encode_to_vec().into()
    }

    /// Which type of request these bytes are; `None` for a number that this version does not know.
    ///
    /// # Errors
    /// [`Error::Malformed`] when they are no request.
    pub fn kind(bytes: &[u8]) -> Result<Option<ReqType>, Error> {
        let message = raw::Message::parse(bytes)?;
        let number = message.varint(1).ok_or_else(|| Error::malformed("request", "has no type"))?;
        Ok(i32::try_from(number).ok().and_then(|n| ReqType::try_from(n).ok()))
    }

    /// Takes the option fields `drop` out of a request and adds `extra` by protobuf's merge rules: single values are
    /// overridden, repeated ones appended. Everything else, known or not, stays as it was.
    ///
    /// # Errors
    /// [`Error::Malformed`] when the bytes are no request.
    pub fn amend(bytes: &[u8], drop: &[u32], extra: &Opts) -> Result<Vec<u8>, Error> {
        let mut message = raw::Message::parse(bytes)?;
        let mut opts = raw::Message::parse(message.bytes(OPTS).unwrap_or_default())?;
        for field in drop {
            opts.remove(*field);
        }
        let mut merged = opts.encode();
        // `images_dir_fd` is required in the schema and therefore always encoded: leave it out unless it is meant.
        let mut appended = raw::Message::parse(&extra.encode_to_vec())?;
        if extra.images_dir_fd < 0 {
            appended.remove(1);
        }
        merged.extend(appended.encode());
        message.set_bytes(OPTS, merged);
        Ok(message.encode())
    }

    /// Number of the field `opts` in a request.
    const OPTS: u32 = 2;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::{InheritFd, NotifyMsg};

    #[test]
    fn every_notification_is_found_by_its_name() {
        for notify in Notify::ALL {
            assert_eq!(Notify::from_name(notify.name()), notify);
        }
        assert_eq!(Notify::from_name("new-in-criu-9"), Notify::Unknown);
    }

    #[test]
    fn a_notification_is_told_from_a_response() {
        let notify = Resp {
            r#type: ReqType::Notify.into(),
            success: true,
            notify: Some(NotifyMsg { script: Some("post-restore".into()), pid: Some(7) }),
            ..Resp::default()
        };
        let expected = Notification { kind: Notify::PostRestore, pid: Some(7) };
        let got = Incoming::parse(&notify.encode_to_vec()).unwrap();
        assert_eq!(got, Incoming::Notification(expected));
        let end = Resp { r#type: ReqType::Dump.into(), success: true, ..Resp::default() };
        assert!(
            matches!(Incoming::parse(&end.encode_to_vec()).unwrap(), Incoming::Response(r) if r.success)
        );
        assert!(Incoming::parse(&[0xff; 9]).is_err());
    }

    #[test]
    fn an_amended_request_keeps_what_it_does_not_know_and_overrides_what_it_does() {
        let opts = Opts {
            images_dir_fd: 7,
            log_level: Some(4),
            config_file: Some("/etc/criu/runc.conf".into()),
            external: vec!["mnt[/a]:/a".into()],
            inherit_fd: vec![InheritFd { key: "pipe:[1]".into(), fd: 1 }],
            ..Opts::default()
        };
        let mut bytes = request::packet(ReqType::Restore, Some(opts)).bytes;
        // A field of a newer CRIU at the end of the request: number 500, varint 1.
        bytes.extend([0xa0, 0x1f, 0x01]);
        let extra = Opts {
            images_dir_fd: -1,
            log_level: Some(1),
            external: vec!["mnt[gw:/b]:/b".into()],
            ..Opts::default()
        };
        let amended = request::amend(&bytes, &[51], &extra).unwrap();
        assert_eq!(request::kind(&amended).unwrap(), Some(ReqType::Restore));
        let opts = Req::decode(amended.as_slice()).unwrap().opts.unwrap();
        assert_eq!((opts.images_dir_fd, opts.log_level), (7, Some(1)));
        assert_eq!(opts.config_file, None);
        assert_eq!(opts.external, ["mnt[/a]:/a", "mnt[gw:/b]:/b"]);
        assert_eq!(opts.inherit_fd.len(), 1);
        assert_eq!(raw::Message::parse(&amended).unwrap().varint(500), Some(1));
    }
}
