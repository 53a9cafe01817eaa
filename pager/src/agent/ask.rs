//! The asking thread.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use godwit_faults::Lane;
use godwit_types::Code;
use godwit_wire::WireError;
use godwit_wire::pager::frames::{Need, Source, Want as WireWant};

use super::Agent;
use super::backlog::{Backlog, Batch, FramesSocket, Line};

/// The deadline is looked at this often.
const LOOK: Duration = Duration::from_millis(500);

/// One thing to send.
struct Outgoing {
    socket: Arc<FramesSocket>,
    sources: Vec<Source>,
    batch: Batch,
}

impl Agent {
    pub(super) fn keep_asking(&self) {
        loop {
            self.give_up();
            let out = self.wait();
            if let Some(out) = out
                && let Err(error) = send(out)
            {
                // The receiving side notices, and everything is asked for again.
                tracing::debug!(%error, "asking for frames");
            }
        }
    }

    /// Waits for something to send, or until it is time to look at the deadline.
    fn wait(&self) -> Option<Outgoing> {
        let mut backlog = self.lock();
        let now = Instant::now();
        let due = backlog.ripen(now);
        if let Some(out) = outgoing(&mut backlog) {
            return Some(out);
        }
        let wait = due.map_or(LOOK, |due| (due - now).min(LOOK));
        let (mut backlog, _) =
            self.changed.wait_timeout(backlog, wait).unwrap_or_else(PoisonError::into_inner);
        outgoing(&mut backlog)
    }

    fn give_up(&self) {
        let mut backlog = self.lock();
        let trouble = backlog.trouble.clone();
        let deadline = backlog.deadline.unwrap_or(self.terms.deadline);
        let lost = backlog.give_up(deadline);
        drop(backlog);
        let reason = nothing_came(deadline, &trouble);
        for want in lost {
            self.fail(&want, Code::Unavailable, reason.clone());
        }
    }
}

fn nothing_came(deadline: Duration, trouble: &str) -> String {
    let trouble = if trouble.is_empty() { "it does not answer" } else { trouble };
    format!(
        "no memory has come from the agent for {deadline:?} ({trouble}): see that godwit-agent runs on this node and reaches its store"
    )
}

fn outgoing(backlog: &mut Backlog) -> Option<Outgoing> {
    let batch = backlog.next()?;
    let link = backlog.link.as_mut()?;
    let new = backlog.sources.iter().enumerate().skip(link.announced);
    let source =
        |(n, source): (usize, &Vec<u8>)| Source { number: n as u32, source: source.clone() };
    let sources = new.map(source).collect();
    link.announced = backlog.sources.len();
    Some(Outgoing { socket: Arc::clone(&link.socket), sources, batch })
}

fn send(out: Outgoing) -> Result<(), WireError> {
    for source in out.sources {
        out.socket.send(source, &[])?;
    }
    let want = |Line { slot, turn, want }: &Line| WireWant {
        slot: *slot,
        source: want.source,
        pack: want.frame.pack.0,
        frame: want.frame.frame,
        turn: *turn,
    };
    let wants: Vec<_> = out.batch.wants.iter().map(want).collect();
    if wants.is_empty() {
        return Ok(());
    }
    out.socket.send(Need { urgent: out.batch.lane == Lane::Urgent, wants }, &[])
}

#[cfg(test)]
mod tests {
    use godwit_wire::Listener;
    use godwit_wire::pager::frames::{FromFrames, ToFrames, ToFramesBody};

    use super::super::Terms;
    use super::*;

    const SOON: Duration = Duration::from_secs(60);

    #[test]
    fn a_checkpoint_is_named_before_anything_of_it_is_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("frames.sock");
        let listener = Listener::bind(&path).unwrap();
        let agent = Agent::new(Terms { path, deadline: SOON, slots: 1 });
        let number = agent.add_source(vec![7], None);
        let served: godwit_wire::Socket<FromFrames, ToFrames> = listener.accept().unwrap();
        served.greet(SOON).unwrap();
        let first = served.recv_timeout(SOON).unwrap().unwrap();
        assert!(matches!(first.body, ToFramesBody::Slots(_)), "{first:?}");
        let second = served.recv_timeout(SOON).unwrap().unwrap();
        assert_eq!(second.body, ToFramesBody::Source(Source { number, source: vec![7] }));
    }
}
