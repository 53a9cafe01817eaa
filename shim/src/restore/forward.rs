//! Between runc and CRIU: every packet and every descriptor passes as it is, and at `post-restore` everything stops until
//! somebody decides.
//!
//! `post-restore` is the last point where a refusal aborts cleanly: all tasks exist, none runs. After it CRIU only logs refusals
//! and lets the tasks run, and a dead forwarder does not stop it either: so nothing is decided later.

use std::os::fd::{AsFd, OwnedFd};

use godwit_criu_rpc::{Incoming, Notify, Packet, SeqPacket, nak};
use godwit_wire::Watched;
use tokio::io::Interest;

use crate::error::{Error, Result};

/// One of the two sockets.
struct Side {
    socket: SeqPacket,
    watched: Watched,
}

/// The forwarder of one restore.
pub struct Forward {
    runc: Side,
    criu: Side,
    runc_open: bool,
    held: Option<Packet>,
    said: Option<Response>,
}

/// What CRIU said when it was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Whether the tasks were restored.
    pub success: bool,
    /// CRIU's own words, if it gave some.
    pub message: String,
}

/// How far forwarding came.
#[derive(Debug, PartialEq, Eq)]
pub enum Stop {
    /// CRIU asks at `pre-restore` and waits: it knows what the kernel can, and begins.
    Begins,
    /// CRIU asks at `post-restore` and waits; the pid is the root task's, in our pid namespace.
    Held {
        /// The root task.
        pid: Option<u32>,
    },
    /// CRIU asks at `pre-resume` and waits: everything of the tasks is as it will be, they are about to run. Only after
    /// [`Forward::release`].
    AboutToRun,
    /// CRIU closed its socket; its last word, if it had one.
    Ended(Option<Response>),
}

impl Forward {
    /// Forwards between these two sockets, which the relay has sent.
    ///
    /// # Errors
    /// They cannot be polled.
    pub fn new(runc: OwnedFd, criu: OwnedFd) -> Result<Self> {
        let side = |fd| Side::new(fd).map_err(Error::io("poll a socket of CRIU"));
        Ok(Self { runc: side(runc)?, criu: side(criu)?, runc_open: true, held: None, said: None })
    }

    /// Forwards until CRIU asks at `pre-restore`, `post-restore` or `pre-resume`, or ends. Not cancel safe: a
    /// dropped call may lose a packet, and with it the restore.
    ///
    /// # Errors
    /// A packet that is not CRIU's, or a socket that fails: the attempt is over.
    pub async fn run(&mut self) -> Result<Stop> {
        loop {
            let (from_criu, packet) = tokio::select! {
                packet = self.criu.recv() => (true, packet),
                packet = self.runc.recv(), if self.runc_open => (false, packet),
            };
            match packet.map_err(Error::io("read a packet between runc and CRIU"))? {
                Some(packet) if from_criu => {
                    if let Some(stop) = self.hear_criu(packet).await? {
                        return Ok(stop);
                    }
                }
                None if from_criu => {
                    self.runc.socket.shutdown();
                    return Ok(Stop::Ended(self.said.take()));
                }
                // CRIU may be gone, or closing: its end is told by its own socket.
                Some(packet) => drop(self.criu.send(&packet).await),
                None => self.runc_closed(),
            }
        }
    }

    /// Hands the question that is held to runc; its answer goes to CRIU. Call [`Forward::run`] again afterwards.
    ///
    /// # Errors
    /// runc is gone: CRIU is refused instead, cleanly.
    pub async fn release(&mut self) -> Result<()> {
        let Some(packet) = self.held.take() else { return Ok(()) };
        match self.runc.send(&packet).await {
            Ok(()) => Ok(()),
            Err(why) => {
                drop(self.criu.send(&nak()).await);
                Err(Error::io("hand a question of CRIU to runc")(why))
            }
        }
    }

    /// Refuses the question that is held: CRIU kills the tasks and ends. Of no effect after [`Forward::release`].
    pub async fn refuse(&mut self) {
        if self.held.take().is_some() {
            // A CRIU that is gone needs no refusal.
            drop(self.criu.send(&nak()).await);
        }
    }

    async fn hear_criu(&mut self, packet: Packet) -> Result<Option<Stop>> {
        let incoming = Incoming::parse(&packet.bytes)
            .map_err(|why| Error::Refused(format!("CRIU sent something unknown: {why}")))?;
        match incoming {
            Incoming::Notification(asked) if asked.kind == Notify::PostRestore => {
                self.held = Some(packet);
                let pid = asked.pid.and_then(|pid| u32::try_from(pid).ok());
                return Ok(Some(Stop::Held { pid }));
            }
            Incoming::Notification(asked) if asked.kind == Notify::PreRestore => {
                self.held = Some(packet);
                return Ok(Some(Stop::Begins));
            }
            Incoming::Notification(asked) if asked.kind == Notify::PreResume => {
                self.held = Some(packet);
                return Ok(Some(Stop::AboutToRun));
            }
            Incoming::Notification(_) => {}
            Incoming::Response(response) => {
                let message = response.cr_errmsg.clone().unwrap_or_default();
                self.said = Some(Response { success: response.success, message });
            }
        }
        // A runc that is gone cannot answer; CRIU notices by the missing answer when we close.
        drop(self.runc.send(&packet).await);
        Ok(None)
    }

    fn runc_closed(&mut self) {
        self.runc_open = false;
        self.criu.socket.shutdown();
    }
}

impl Side {
    fn new(fd: OwnedFd) -> std::io::Result<Self> {
        let watched = Watched::new(fd.try_clone()?)?;
        Ok(Self { socket: fd.into(), watched })
    }

    async fn recv(&self) -> std::io::Result<Option<Packet>> {
        self.watched.ready(Interest::READABLE, |_| self.socket.try_recv()).await
    }

    async fn send(&self, packet: &Packet) -> std::io::Result<()> {
        self.watched.ready(Interest::WRITABLE, |_| self.socket.try_send(packet)).await
    }
}

impl std::fmt::Debug for Forward {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Forward").field("criu", &self.criu.watched.as_fd()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use godwit_criu_rpc::ack;
    use godwit_criu_rpc::rpc::{NotifyMsg, ReqType, Resp};
    use prost::Message as _;

    use super::*;

    fn asks(script: &str, pid: Option<i32>) -> Packet {
        let notify = Some(NotifyMsg { script: Some(script.to_owned()), pid });
        let resp =
            Resp { r#type: ReqType::Notify.into(), success: true, notify, ..Resp::default() };
        resp.encode_to_vec().into()
    }

    fn ends() -> Packet {
        let kind = ReqType::Restore.into();
        Resp { r#type: kind, success: true, ..Resp::default() }.encode_to_vec().into()
    }

    /// runc's own end, CRIU's own end, and the forwarder between them.
    fn between() -> (SeqPacket, SeqPacket, Forward) {
        let (runc, ours) = SeqPacket::pair().unwrap();
        let (criu, theirs) = SeqPacket::pair().unwrap();
        (runc, criu, Forward::new(ours.into(), theirs.into()).unwrap())
    }

    #[tokio::test]
    async fn questions_and_descriptors_pass_and_post_restore_is_held_until_released() {
        let (runc, criu, mut forward) = between();
        let (mine, theirs) = SeqPacket::pair().unwrap();
        let mut terminal = asks("orphan-pts-master", None);
        terminal.fds.push(theirs.into());
        criu.send(&asks("pre-restore", None)).unwrap();
        assert_eq!(forward.run().await.unwrap(), Stop::Begins);
        assert!(runc.try_recv().is_err(), "runc has not seen pre-restore");
        forward.release().await.unwrap();
        assert_eq!(runc.try_recv().unwrap().unwrap().bytes, asks("pre-restore", None).bytes);
        criu.send(&terminal).unwrap();
        criu.send(&asks("post-restore", Some(77))).unwrap();
        assert_eq!(forward.run().await.unwrap(), Stop::Held { pid: Some(77) });
        let mut got = runc.try_recv().unwrap().unwrap();
        SeqPacket::from(got.fds.remove(0)).send(&ack()).unwrap();
        assert!(mine.try_recv().unwrap().is_some());
        assert!(runc.try_recv().is_err(), "runc has not seen post-restore");
        forward.release().await.unwrap();
        assert_eq!(runc.try_recv().unwrap().unwrap().bytes, asks("post-restore", Some(77)).bytes);
        runc.send(&ack()).unwrap();
        let criu = std::thread::spawn(move || {
            assert_eq!(criu.recv().unwrap().unwrap().bytes, ack().bytes);
            criu.send(&asks("pre-resume", None)).unwrap();
            criu
        });
        assert_eq!(forward.run().await.unwrap(), Stop::AboutToRun);
        let criu = criu.join().unwrap();
        forward.release().await.unwrap();
        criu.send(&ends()).unwrap();
        drop(criu);
        let said = Some(Response { success: true, message: String::new() });
        assert_eq!(forward.run().await.unwrap(), Stop::Ended(said));
    }

    #[tokio::test]
    async fn a_refusal_reaches_criu_and_not_runc() {
        let (runc, criu, mut forward) = between();
        criu.send(&asks("post-restore", None)).unwrap();
        forward.run().await.unwrap();
        forward.refuse().await;
        assert_eq!(criu.try_recv().unwrap().unwrap().bytes, nak().bytes);
        assert!(runc.try_recv().is_err());
        forward.refuse().await;
        assert!(criu.try_recv().is_err(), "once");
    }

    #[tokio::test]
    async fn a_runc_that_is_gone_at_the_release_makes_it_a_refusal() {
        let (runc, criu, mut forward) = between();
        criu.send(&asks("post-restore", None)).unwrap();
        forward.run().await.unwrap();
        drop(runc);
        assert!(forward.release().await.is_err());
        assert_eq!(criu.try_recv().unwrap().unwrap().bytes, nak().bytes);
    }

    #[tokio::test]
    async fn a_runc_that_closes_ends_criu_and_garbage_ends_the_attempt() {
        let (runc, criu, mut forward) = between();
        drop(runc);
        let ended = tokio::join!(forward.run(), async {
            let watched = Watched::new(criu.as_fd().try_clone_to_owned().unwrap()).unwrap();
            watched.readable().await.unwrap();
            assert!(criu.try_recv().unwrap().is_none());
            drop((criu, watched));
        });
        assert_eq!(ended.0.unwrap(), Stop::Ended(None));
        let (_runc, criu, mut forward) = between();
        criu.send(&vec![0xff; 9].into()).unwrap();
        assert!(forward.run().await.is_err());
    }
}
