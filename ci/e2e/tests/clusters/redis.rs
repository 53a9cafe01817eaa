//! Redis and its sidecar as pods of every kind, under load: they move to another node and to another cluster, and keep every
//! acknowledged write.

use anyhow::{Context as _, Result, ensure};
use godwit_e2e::pods::{Clusters, delete, events};
use godwit_e2e::redis::load::{Load, Seen};
use godwit_e2e::redis::{check_fill, connect, fill};
use godwit_e2e::shop::{self, Running};
use godwit_lab::Cluster;
use godwit_types::names;

const NAME: &str = "shop";
/// MiB of values.
const FILL: u64 = 16;

/// A client of the shop, and what must be there.
struct Customer {
    seen: Seen,
    keys: u64,
}

impl Customer {
    fn of(shop: &Running<'_>) -> Result<Self> {
        Ok(Self { seen: Seen::default(), keys: fill(&mut connect(shop.address)?, FILL)? })
    }

    /// The shop moves while this one works; where it is then.
    fn follow<'c>(
        &mut self,
        shop: &Running<'_>,
        to: &'c Cluster,
        moves: impl FnOnce() -> Result<()>,
    ) -> Result<Running<'c>> {
        let before = self.seen.reconnects;
        let load = Load::go_on(vec![shop.redis()], std::mem::take(&mut self.seen));
        load.wait_steady()?;
        let beats = shop.goes_on(0)?;
        moves()?;
        let shop = Running::wait(to, NAME)?;
        load.follow(shop.redis());
        load.wait_steady()?;
        self.seen = load.stop();
        ensure!(self.seen.reconnects > before, "it did not work while the shop moved");
        self.seen.prove(&mut connect(shop.address)?, self.keys)?;
        shop.goes_on(beats)?;
        let point = shop.annotation(names::RESTORED_FROM)?.with_context(|| events(to))?;
        let node = to.workers().iter().find(|node| node.name() == shop.node).context("its node")?;
        let log = node.log("godwit-agent")?;
        let is_told = |line: &str| line.contains("read ahead") && line.contains(&point);
        ensure!(log.lines().any(is_told), "{point} was not read when the sandbox was made");
        Ok(shop)
    }
}

#[test]
fn pods_of_every_kind_move_under_load_and_keep_every_acknowledged_write() -> Result<()> {
    let clusters = Clusters::up()?;
    bare(&clusters).context("a bare pod")?;
    of_a_stateful_set(&clusters).context("a StatefulSet's pod")?;
    of_a_deployment(&clusters).context("a Deployment's pod")?;
    of_a_job(&clusters).context("a Job's pod")?;
    clusters.leave()
}

fn bare(clusters: &Clusters) -> Result<()> {
    let (a, b) = (&clusters.a, &clusters.b);
    let on = |node| shop::pod(NAME).annotated(names::CHECKPOINT_ON_STOP, "true").on(node);
    a.apply(&on("a1").manifest())?;
    let mut shop = Running::wait(a, NAME)?;
    let mut customer = Customer::of(&shop)?;
    for (from, to, node) in [(a, a, "a2"), (a, b, "b1")] {
        shop = customer.follow(&shop, to, || {
            delete(from, "pod/shop")?;
            Ok(to.apply(&on(node).manifest())?)
        })?;
        ensure!(shop.node == node, "{shop:?}");
    }
    delete(b, "pod/shop")
}

fn of_a_stateful_set(clusters: &Clusters) -> Result<()> {
    let (a, b) = (&clusters.a, &clusters.b);
    let set = shop::pod(NAME).annotated(names::CHECKPOINT_ON_STOP, "true");
    let set = set.owned_by("StatefulSet", 1);
    a.apply(&set)?;
    let first = Running::wait(a, NAME)?;
    let mut customer = Customer::of(&first)?;
    let shop = customer.follow(&first, a, || {
        a.kubectl(&["cordon", &first.node])?;
        delete(a, "pod/shop-0")
    })?;
    ensure!(shop.node != first.node, "{shop:?}");
    a.kubectl(&["uncordon", &first.node])?;
    customer.follow(&shop, b, || {
        delete(a, "statefulset/shop")?;
        shop.stopped_at()?;
        Ok(b.apply(&set)?)
    })?;
    delete(b, "statefulset/shop")
}

fn of_a_deployment(clusters: &Clusters) -> Result<()> {
    let (a, b) = (&clusters.a, &clusters.b);
    let on = |node| shop::pod(NAME).annotated(names::CHECKPOINT_ON_STOP, "true").on(node);
    a.apply(&on("a1").owned_by("Deployment", 1))?;
    let mut shop = Running::wait(a, NAME)?;
    let mut customer = Customer::of(&shop)?;
    for (from, to, node) in [(a, a, "a2"), (a, b, "b1")] {
        shop = customer.follow(&shop, to, || {
            delete(from, "deployment/shop")?;
            let replacement = on(node).annotated(names::RESTORE_FROM, &shop.stopped_at()?);
            Ok(to.apply(&replacement.owned_by("Deployment", 1))?)
        })?;
        ensure!(shop.node == node, "{shop:?}");
    }
    delete(b, "deployment/shop")
}

/// Copies of a shop that stays where it is, taken while its client works.
fn of_a_job(clusters: &Clusters) -> Result<()> {
    const COPY: &str = "copy";
    let (a, b) = (&clusters.a, &clusters.b);
    a.apply(&shop::pod(NAME).on("a1").manifest())?;
    let shop = Running::wait(a, NAME)?;
    let mut customer = Customer::of(&shop)?;
    for (to, node) in [(a, "a2"), (b, "b1")] {
        let before = customer.seen.clone();
        let load = Load::go_on(vec![shop.redis()], before.clone());
        load.wait_steady()?;
        let beats = shop.goes_on(0)?;
        let point = shop.checkpoint()?;
        load.wait_steady()?;
        customer.seen = load.stop();
        let copy = shop::pod(COPY).annotated(names::FORK_FROM, &point).on(node);
        to.apply(&copy.job())?;
        let copy = Running::wait(to, COPY)?;
        let client = &mut connect(copy.address)?;
        let wrong = before.not_between(&customer.seen, client)?;
        ensure!(wrong.is_empty(), "the copy of {point}: {wrong:?}");
        let wrong = check_fill(client, customer.keys)?;
        ensure!(wrong.is_empty(), "{} values of the copy of {point} are wrong", wrong.len());
        copy.goes_on(beats)?;
        let hostname = copy.exec_in("redis", &["cat", "/proc/sys/kernel/hostname"])?;
        ensure!(hostname.trim() == copy.name, "{hostname} instead of {}", copy.name);
        delete(to, "job/copy")?;
    }
    customer.seen.prove(&mut connect(shop.address)?, customer.keys)?;
    shop.goes_on(0)?;
    delete(a, "pod/shop")
}
