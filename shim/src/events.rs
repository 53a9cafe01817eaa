//! Events for containerd: a queue that keeps their order, and the one task that delivers them.
//!
//! An event leaves the queue when containerd has acknowledged it, so a restart of containerd loses none. One may arrive
//! twice if the acknowledgement was lost; containerd's own shims have the same property.

pub mod deliver;
pub mod event;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tracing::error;

pub use event::Event;

/// Events kept while containerd is away. A pod makes a handful per container and two per exec probe: at one probe per
/// second this is more than an hour.
const QUEUE_LIMIT: usize = 8192;

/// The queue. Clones share it.
#[derive(Debug, Clone)]
pub struct Events {
    queue: Arc<Mutex<VecDeque<Event>>>,
    length: watch::Sender<usize>,
}

impl Default for Events {
    fn default() -> Self {
        Self { queue: Arc::default(), length: watch::channel(0).0 }
    }
}

impl Events {
    /// An empty queue.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Queues an event; never waits. When the queue is full the oldest is dropped and an error logged.
    pub fn publish(&self, event: Event) {
        let mut queue = self.queue();
        if queue.len() >= QUEUE_LIMIT
            && let Some(dropped) = queue.pop_front()
        {
            error!(
                topic = dropped.topic,
                "containerd has been away for too long; an event is lost"
            );
        }
        queue.push_back(event);
        self.length.send_replace(queue.len());
    }

    /// Returns when every event was acknowledged.
    pub async fn delivered(&self) {
        // The sender lives in `self`.
        let _ = self.length.subscribe().wait_for(|length| *length == 0).await;
    }

    async fn first(&self) -> Event {
        loop {
            if let Some(event) = self.queue().front() {
                return event.clone();
            }
            let _ = self.length.subscribe().wait_for(|length| *length > 0).await;
        }
    }

    /// Removes `event` if it is still the first: it may have been dropped from a full queue meanwhile.
    fn acknowledge(&self, event: &Event) {
        let mut queue = self.queue();
        if queue.front() == Some(event) {
            queue.pop_front();
        }
        self.length.send_replace(queue.len());
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Event>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn events_leave_in_order_and_only_when_acknowledged() {
        let events = Events::new();
        events.publish(Event::paused("a"));
        events.publish(Event::resumed("a"));
        let first = events.first().await;
        assert_eq!(first, events.first().await);
        events.acknowledge(&first);
        events.acknowledge(&first);
        assert_eq!(events.first().await.topic, "/tasks/resumed");
    }

    #[test]
    fn a_full_queue_drops_the_oldest() {
        let events = Events::new();
        events.publish(Event::paused("a"));
        for _ in 0..QUEUE_LIMIT {
            events.publish(Event::resumed("a"));
        }
        assert_eq!(events.queue().len(), QUEUE_LIMIT);
        assert_eq!(events.queue().front().map(|event| event.topic), Some("/tasks/resumed"));
    }
}
