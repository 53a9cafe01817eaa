//! Clusters that one test leaves to the next: to bring them up takes longer than many tests do.

use std::ops::Deref;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use anyhow::{Context as _, Result, ensure};
use godwit_lab::{Cluster, Service, wait};

use super::{Clusters, wait_clean};
use crate::container::SOON;
use crate::sys;

static LEFT: Mutex<Option<Clusters>> = Mutex::new(None);
static AT_EXIT: Once = Once::new();

/// Clusters of this program's tests, for one at a time. Who does not [`Shared::leave`] them takes them down.
#[derive(Debug)]
pub struct Shared {
    clusters: MutexGuard<'static, Option<Clusters>>,
    are_left: bool,
}

impl Shared {
    /// Those of the test before, or new ones.
    ///
    /// # Errors
    /// They cannot be brought up.
    pub(super) fn take() -> Result<Self> {
        AT_EXIT.call_once(|| sys::at_exit(end));
        let mut clusters = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
        if clusters.is_none() {
            *clusters = Some(Clusters::for_tests()?);
        }
        Ok(Self { clusters, are_left: false })
    }

    /// Leaves them to the next test as they were: without a pod, and with every node ready for some.
    ///
    /// # Errors
    /// They are not.
    pub fn leave(mut self) -> Result<()> {
        self.workers().try_for_each(wait_clean)?;
        [&self.a, &self.b].into_iter().try_for_each(is_as_before)?;
        self.are_left = true;
        Ok(())
    }
}

impl Deref for Shared {
    type Target = Clusters;

    #[expect(clippy::expect_used, reason = "taken with clusters")]
    fn deref(&self) -> &Clusters {
        self.clusters.as_ref().expect("clusters until the end")
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if !self.are_left {
            *self.clusters = None;
        }
    }
}

/// What the next test would trip over.
fn is_as_before(cluster: &Cluster) -> Result<()> {
    let kinds = "pods,deployments,statefulsets,jobs,persistentvolumeclaims";
    // What belongs to a deleted object goes after it.
    wait::until(
        &format!("nothing to be left in cluster {}", cluster.name()),
        SOON,
        || match cluster.kubectl(&["get", kinds, "--output", "name"]) {
            Ok(left) if left.is_empty() => Ok(()),
            other => Err(format!("{other:?}")),
        },
    )?;
    cluster.wait_ready()?;
    for node in cluster.workers() {
        let found = cluster.get(&["node", node.name()])?;
        ensure!(found["spec"]["unschedulable"] != true, "{} is closed", node.name());
        // An agent that was to end at some place is no agent for the next one.
        node.kill(Service::Agent)?;
        node.start(Service::Agent).with_context(|| node.name().to_owned())?;
    }
    cluster.kubectl(&["delete", "events", "--all"])?;
    Ok(())
}

/// Takes down what a test has left, for one that wants a lab of another shape.
pub fn take_down() {
    let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(mut clusters) = left.take() {
        clusters.lab.done();
    }
}

/// The last test has ended.
extern "C" fn end() {
    take_down();
}
