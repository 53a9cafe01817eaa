//! The receiving thread: has a connection to some agent, or makes one.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use godwit_types::Code;
use godwit_wire::pager::frames::{Failed, FromFramesBody, Ready, SLOT_BYTES, Slots as WireSlots};
use godwit_wire::{Refusal, Socket, WireError};

use super::backlog::{FramesSocket, Link};
use super::{Agent, Freed};
use crate::error::sentence;
use crate::slots::Slots;

/// Between attempts to connect: doubles from the first to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LAST_PAUSE: Duration = Duration::from_millis(500);
/// Before a frame that the agent could not get is asked for again.
const RETRY: Duration = Duration::from_millis(500);

impl Agent {
    pub(super) fn keep_linked(self: &Arc<Self>) {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.connect() {
                Ok((socket, slots)) => {
                    pause = FIRST_PAUSE;
                    let why = self.receive(&socket, &slots);
                    tracing::info!(why, "lost the agent; connecting again");
                    self.lock().unlink(why);
                }
                Err(why) => self.lock().trouble = why,
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    fn connect(self: &Arc<Self>) -> Result<(Arc<FramesSocket>, Arc<Slots>), String> {
        let socket = Socket::connect(&self.terms.path).map_err(|e| sentence(&e))?;
        let freed = Box::new(Freed(Arc::downgrade(self)));
        let slots = Slots::new(self.terms.slots, freed).map_err(|e| sentence(&e))?;
        let hello = WireSlots { slots: self.terms.slots };
        socket.send(hello, &[slots.fd().as_fd()]).map_err(|e| sentence(&e))?;
        let (socket, slots) = (Arc::new(socket), Arc::new(slots));
        self.lock().link = Some(Link::new(Arc::clone(&socket), Arc::clone(&slots)));
        self.changed.notify_all();
        Ok((socket, slots))
    }

    /// Receives until the connection ends; why it did.
    fn receive(&self, socket: &Arc<FramesSocket>, slots: &Arc<Slots>) -> String {
        loop {
            // The asking thread may have given this connection up.
            let taken = |agent: &Self| agent.lock().link.as_ref().is_some_and(|l| l.is(socket));
            let message = match socket.recv_timeout(Duration::from_secs(1)) {
                Err(WireError::Timeout { .. }) if taken(self) => continue,
                Err(WireError::Timeout { .. }) => return "it did not answer in time".to_owned(),
                Ok(Some(message)) => message.body,
                Ok(None) => return "the agent closed the connection".to_owned(),
                Err(error) => return sentence(&error),
            };
            let done = match message {
                FromFramesBody::Ready(ready) => self.ready(slots, ready),
                FromFramesBody::Failed(failed) => self.failed(slots, failed),
            };
            if let Err(why) = done {
                return why.to_owned();
            }
        }
    }

    fn ready(&self, slots: &Arc<Slots>, ready: Ready) -> Result<(), &'static str> {
        if u64::from(ready.bytes) > SLOT_BYTES {
            return Err("the agent wrote beyond a slot");
        }
        let Some(want) = self.lock().arrived(ready.slot) else {
            return Err("the agent answered for a slot that is not its own");
        };
        let pages = slots.filled(ready.slot, ready.bytes);
        if let Some(delivery) = self.delivery.get() {
            delivery.deliver(want.ticket, Ok(Box::new(pages)));
        }
        Ok(())
    }

    fn failed(&self, slots: &Slots, failed: Failed) -> Result<(), &'static str> {
        let why = failed.why.unwrap_or_else(|| Refusal::new(Code::Internal, "no reason given"));
        let again = (why.means() == Code::Unavailable).then_some(RETRY);
        let Some(want) = self.lock().failed(failed.slot, again, &why.reason) else {
            return Err("the agent failed for a slot that is not its own");
        };
        slots.give_back(failed.slot);
        if again.is_none() {
            self.fail(&want, why.means(), why.reason);
        }
        Ok(())
    }
}
