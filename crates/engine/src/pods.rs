//! Who is at work for which pod: operations that somebody asked for, or the agent's own look, never both. The machines of
//! `godwit-ownership` know of no second one beside them: a look that settles what an operation has sealed would answer for it.
//!
//! Operations among each other are kept apart by the shim, which serves one at a time and says so: until the thaw. What is stored after it is
//! kept in order here: a checkpoint never becomes the pod's newest point after one that was begun later.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use godwit_types::PodKey;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// For a look to end by itself: more than it takes, unless its store is away. An operation that is asked for again and again must not
/// keep a pod sealed.
const COURTESY: Duration = Duration::from_secs(2);

/// The pods that somebody is at work for.
#[derive(Debug, Default)]
pub struct Pods {
    busy: Mutex<BTreeMap<PodKey, Busy>>,
    /// Somebody's work is over, or has begun.
    freed: Notify,
}

#[derive(Debug, Default)]
struct Busy {
    operations: usize,
    look: Option<CancellationToken>,
    /// How many the shim has begun.
    begun: u64,
    /// The one that leaves the pod running and has not thawed it yet.
    unthawed: Option<(u64, CancellationToken)>,
    /// Somebody writes an entry.
    writes: bool,
    /// The last one begun of those that are durable.
    durable: u64,
}

/// An operation is at work for a pod, until this is dropped.
#[derive(Debug)]
pub struct Operation<'p> {
    pods: &'p Pods,
    key: PodKey,
}

/// A checkpoint is about to be written down, until this is dropped.
#[derive(Debug)]
pub struct Turn<'o> {
    operation: &'o Operation<'o>,
    number: u64,
}

/// A look is at work for a pod, until this is dropped.
#[derive(Debug)]
pub struct Looking<'p> {
    pods: &'p Pods,
    key: PodKey,
    given_up: CancellationToken,
}

impl Pods {
    /// Waits until no look is at work for this pod. One that is has [`COURTESY`], then it is dropped: to its machine that is the
    /// agent's death.
    ///
    /// Cancel safe.
    pub async fn operation(&self, key: &PodKey) -> Operation<'_> {
        let operation = self.enter(key);
        let unseen = || self.until(key, |busy| busy.look.is_none());
        if timeout(COURTESY, unseen()).await.is_err() {
            self.end_look(key);
            unseen().await;
        }
        operation
    }

    /// Waits until no operation is at work for this pod.
    pub async fn idle(&self, key: &PodKey) {
        self.until(key, |busy| busy.operations == 0).await;
    }

    /// Waits until nobody is at work for this pod.
    pub async fn free(&self, key: &PodKey) {
        self.until(key, |busy| busy.operations == 0 && busy.look.is_none()).await;
    }

    async fn until(&self, key: &PodKey, is_so: impl Fn(&Busy) -> bool) {
        loop {
            // From here on it hears of every end.
            let freed = self.freed.notified();
            if self.lock().get(key).is_none_or(&is_so) {
                return;
            }
            freed.await;
        }
    }

    /// `None` while somebody else is at work for this pod.
    #[must_use]
    pub fn look(&self, key: &PodKey) -> Option<Looking<'_>> {
        let mut all = self.lock();
        let busy = all.entry(key.clone()).or_default();
        if busy.operations > 0 || busy.look.is_some() {
            return None;
        }
        let given_up = CancellationToken::new();
        busy.look = Some(given_up.clone());
        Some(Looking { pods: self, key: key.clone(), given_up })
    }

    /// Cancels whoever leaves this pod running and has not thawed it yet, for as long as somebody who goes first waits for a place.
    ///
    /// Cancel safe.
    pub async fn keep_cancelling(&self, key: &PodKey) -> Infallible {
        loop {
            let begun = self.freed.notified();
            self.cancel_unthawed(key);
            begun.await;
        }
    }

    /// Cancels the one that leaves this pod running and has not thawed it yet: what is stored now is what the pod goes on from.
    fn cancel_unthawed(&self, key: &PodKey) {
        if let Some((_, token)) = self.lock().get(key).and_then(|busy| busy.unthawed.as_ref()) {
            token.cancel();
        }
    }

    fn enter(&self, key: &PodKey) -> Operation<'_> {
        let mut all = self.lock();
        let busy = all.entry(key.clone()).or_default();
        busy.operations += 1;
        Operation { pods: self, key: key.clone() }
    }

    fn end_look(&self, key: &PodKey) {
        if let Some(look) = self.lock().get(key).and_then(|busy| busy.look.as_ref()) {
            look.cancel();
        }
    }

    fn leave(&self, key: &PodKey, leave: impl FnOnce(&mut Busy)) {
        let mut all = self.lock();
        let Some(busy) = all.get_mut(key) else { return };
        leave(busy);
        if busy.operations == 0 && busy.look.is_none() {
            all.remove(key);
        }
        self.freed.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PodKey, Busy>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Operation<'_> {
    /// The shim has begun it, and begins no other before it is thawed. Its number among those of the pod; `cancel` ends it if one comes
    /// that goes first.
    #[must_use]
    pub fn begun(&self, leaves_running: bool, cancel: &CancellationToken) -> u64 {
        let number = self.change(|busy| {
            busy.begun += 1;
            busy.unthawed = leaves_running.then(|| (busy.begun, cancel.clone()));
            busy.begun
        });
        self.pods.freed.notify_waiters();
        number
    }

    /// It has thawed the pod, or ended.
    pub fn thawed(&self, number: u64) {
        self.change(|busy| drop(busy.unthawed.take_if(|(of, _)| *of == number)));
        self.pods.freed.notify_waiters();
    }

    /// [`Pods::cancel_unthawed`], and waits for its end, not for long.
    ///
    /// Cancel safe.
    pub async fn goes_first(&self) {
        self.pods.cancel_unthawed(&self.key);
        let thawed = self.pods.until(&self.key, |busy| busy.unthawed.is_none());
        let _ = timeout(COURTESY, thawed).await;
    }

    /// Waits until nobody else writes an entry of the pod. `None`: one that was begun later is durable, and stays the newest.
    ///
    /// Cancel safe.
    pub async fn turn(&self, number: u64) -> Option<Turn<'_>> {
        loop {
            self.pods.until(&self.key, |busy| !busy.writes).await;
            let taken = self.change(|busy| !std::mem::replace(&mut busy.writes, true));
            if taken {
                let turn = Turn { operation: self, number };
                let is_overtaken = self.change(|busy| busy.durable > number);
                return (!is_overtaken).then_some(turn);
            }
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Busy) -> T) -> T {
        change(self.pods.lock().entry(self.key.clone()).or_default())
    }
}

impl Turn<'_> {
    /// It is durable.
    pub fn written(&self) {
        self.operation.change(|busy| busy.durable = busy.durable.max(self.number));
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.operation.change(|busy| busy.writes = false);
        self.operation.pods.freed.notify_waiters();
    }
}

impl Looking<'_> {
    /// Does it, unless an operation begins meanwhile: then it is dropped, and this is `None`.
    pub async fn unless_wanted<T>(self, look: impl Future<Output = T>) -> Option<T> {
        self.given_up.run_until_cancelled(look).await
    }
}

impl Drop for Operation<'_> {
    fn drop(&mut self) {
        self.pods.leave(&self.key, |busy| busy.operations = busy.operations.saturating_sub(1));
    }
}

impl Drop for Looking<'_> {
    fn drop(&mut self) {
        self.pods.leave(&self.key, |busy| busy.look = None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> PodKey {
        PodKey::new(format!("default+{name}")).unwrap()
    }

    #[tokio::test]
    async fn nobody_looks_at_a_pod_that_an_operation_is_at_work_for() {
        let pods = Pods::default();
        let (web, other) = (key("web"), key("other"));
        let (first, second) = (pods.operation(&web).await, pods.operation(&web).await);
        assert!(pods.look(&web).is_none());
        assert!(pods.look(&other).is_some(), "another pod is another matter");
        drop(first);
        assert!(pods.look(&web).is_none(), "the second is at work still");
        drop(second);
        assert!(pods.look(&web).is_some());
        assert!(pods.lock().is_empty(), "who is not at work is not remembered");
    }

    #[tokio::test(start_paused = true)]
    async fn an_operation_waits_for_a_look_and_not_for_long() {
        let pods = Pods::default();
        let web = key("web");
        let look = pods.look(&web).unwrap();
        assert!(pods.look(&web).is_none(), "nor do two look at once");
        let waits = pods.operation(&web);
        tokio::pin!(waits);
        assert!(futures::poll!(waits.as_mut()).is_pending());
        let never = look.unless_wanted(std::future::pending::<()>());
        let (looked, operation) = futures::join!(never, waits);
        assert_eq!(looked, None, "it is given up");
        assert!(pods.look(&web).is_none());
        let idle = pods.idle(&web);
        tokio::pin!(idle);
        assert!(futures::poll!(idle.as_mut()).is_pending());
        drop(operation);
        idle.await;
        assert_eq!(pods.look(&web).unwrap().unless_wanted(async { 1 }).await, Some(1));
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_begun_earlier_does_not_become_the_newest_point_later() {
        let pods = Pods::default();
        let web = key("web");
        let (first, second) = (pods.operation(&web).await, pods.operation(&web).await);
        let cancel = CancellationToken::new();
        let (one, two) = (first.begun(true, &cancel), second.begun(true, &cancel));
        let writes = second.turn(two).await.unwrap();
        let waits = first.turn(one);
        tokio::pin!(waits);
        assert!(futures::poll!(waits.as_mut()).is_pending());
        writes.written();
        drop(writes);
        assert!(waits.await.is_none(), "it is overtaken");
        let third = second.begun(true, &cancel);
        drop(second.turn(third).await.expect("who is overtaken has left"));
        assert!(second.turn(third).await.is_some(), "who has failed has overtaken nobody");
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_first_cancels_who_has_not_thawed_yet() {
        let pods = Pods::default();
        let web = key("web");
        let (first, last) = (pods.operation(&web).await, pods.operation(&web).await);
        let (thawed, frozen) = (CancellationToken::new(), CancellationToken::new());
        first.thawed(first.begun(true, &thawed));
        let number = first.begun(true, &frozen);
        let goes = last.goes_first();
        tokio::pin!(goes);
        assert!(futures::poll!(goes.as_mut()).is_pending());
        assert!(frozen.is_cancelled() && !thawed.is_cancelled());
        first.thawed(number);
        goes.await;
    }

    #[tokio::test]
    async fn who_goes_first_cancels_who_begins_while_a_place_is_waited_for() {
        let pods = Pods::default();
        let web = key("web");
        let cancels = pods.keep_cancelling(&web);
        tokio::pin!(cancels);
        assert!(futures::poll!(cancels.as_mut()).is_pending());
        let (first, other) = (pods.operation(&web).await, pods.operation(&key("other")).await);
        let (frozen, elsewhere) = (CancellationToken::new(), CancellationToken::new());
        let _ = (first.begun(true, &frozen), other.begun(true, &elsewhere));
        assert!(futures::poll!(cancels.as_mut()).is_pending());
        assert!(frozen.is_cancelled() && !elsewhere.is_cancelled());
    }

    #[tokio::test]
    async fn who_gives_up_waiting_is_not_at_work() {
        let pods = Pods::default();
        let web = key("web");
        let look = pods.look(&web).unwrap();
        {
            let waits = pods.operation(&web);
            tokio::pin!(waits);
            assert!(futures::poll!(waits.as_mut()).is_pending());
        }
        drop(look);
        assert!(pods.look(&web).is_some());
    }
}
