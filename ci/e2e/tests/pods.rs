//! Pods of several containers, made with `ctr`: checkpointed in one cut, continued when all of them are there. Needs programs that were
//! built with the feature `failpoints` of `godwit-wire`, as `make` does.

mod pods {
    mod interrupted;
    mod volumes;

    use super::{POD, stopped};
}

use anyhow::{Context as _, Result, ensure};
use godwit_e2e::bed::{Bed, Store};
use godwit_e2e::clean;
use godwit_e2e::container::{Container, PROGRESS, SOON};
use godwit_lab::{AgentOptions, Image, LabOptions, Node, PodNetwork, wait};
use godwit_types::names;

/// The pod's sandbox id.
const POD: &str = "pod-1";
/// Its network, of this name on each node.
const NETWORK: &str = "pod";

/// A container of the pod. Kubernetes gives each life another id; its name stays.
fn member(name: &str, network: &PodNetwork, words: &[&str]) -> Container {
    let id = format!("{name}-1");
    Container::new(&id, Image::Mem, words).on(network).with(&[
        "--annotation",
        &format!("{}={POD}", names::SANDBOX_ID),
        "--annotation",
        &format!("{}={name}", names::CONTAINER_NAME),
    ])
}

/// Two containers that talk to each other over loopback, in the order of their start.
struct Talkers {
    answers: Container,
    asks: Container,
    /// More was sent than the other end takes at once: it is told to wait, and the kernel asks again and again whether it still has to.
    is_full: bool,
    /// They talk by the pod's own address and not by loopback.
    is_by_address: bool,
}

impl Talkers {
    fn new(network: &PodNetwork) -> Self {
        Self::with(network, "127.0.0.1:7", (&[], &[]))
    }

    /// By the pod's own address, which it has from its node.
    fn by_address(network: &PodNetwork) -> Self {
        let at = format!("{}:7", network.address);
        Self { is_by_address: true, ..Self::with(network, &at, (&[], &[])) }
    }

    fn full(network: &PodNetwork) -> Self {
        let (slow, many) = (["--slow-ms", "20"], ["--every-ms", "0", "--ahead", "64"]);
        Self { is_full: true, ..Self::with(network, "127.0.0.1:7", (&slow, &many)) }
    }

    /// Where they talk, and with these options for the two of them.
    fn with(network: &PodNetwork, at: &str, (answers, asks): (&[&str], &[&str])) -> Self {
        let listens = ["talk", "--listen", at, "--file", PROGRESS];
        let connects = ["talk", "--connect", at, "--file", PROGRESS];
        Self {
            answers: member("answers", network, &[&listens[..], answers].concat()),
            asks: member("asks", network, &[&connects[..], asks].concat()),
            is_full: false,
            is_by_address: false,
        }
    }

    fn all(&self) -> [&Container; 2] {
        [&self.answers, &self.asks]
    }

    /// Who has something to send is restored before who is to get it.
    fn for_restore(&self) -> [&Container; 2] {
        if self.is_full { [&self.asks, &self.answers] } else { self.all() }
    }

    fn run(&self, node: &Node) -> Result<()> {
        self.all().into_iter().try_for_each(|one| one.run(node))?;
        self.talk(node)
    }

    /// Both get on.
    fn talk(&self, node: &Node) -> Result<()> {
        for one in self.all() {
            let now = one.progress(node).unwrap_or(0);
            one.wait_beyond(node, now + 20)?;
        }
        Ok(())
    }

    fn remove(&self, node: &Node) -> Result<()> {
        self.all().into_iter().try_for_each(|one| one.remove(node))?;
        clean::wait(node)
    }
}

#[test]
fn containers_that_talk_to_each_other_move_together_and_lose_no_byte() -> Result<()> {
    there_and_back(Talkers::new)
}

#[test]
fn a_connection_whose_buffers_are_full_goes_on_however_long_its_ends_wait_for_each_other()
-> Result<()> {
    there_and_back(Talkers::full)
}

#[test]
fn what_is_bound_to_the_pods_address_is_bound_to_its_new_one_elsewhere() -> Result<()> {
    there_and_back(Talkers::by_address)
}

/// Whether both ends of the talk and the one who listens are at an address of the node's, in this pod's network.
fn is_at(node: &Node, at: &str) -> Result<()> {
    let sockets = node.run(&["ip", "netns", "exec", NETWORK, "ss", "--no-header", "-tan"])?;
    let sockets: Vec<Vec<&str>> =
        sockets.lines().map(|line| line.split_whitespace().collect()).collect();
    // Its state, queues, own address and peer.
    let is_there = |state: &str, column: usize| {
        let is_it =
            |words: &&Vec<&str>| words.first() == Some(&state) && words.get(column) == Some(&at);
        sockets.iter().any(|words| is_it(&words))
    };
    let all = is_there("LISTEN", 3) && is_there("ESTAB", 3) && is_there("ESTAB", 4);
    ensure!(all, "at {at}: {sockets:?}");
    Ok(())
}

/// How often the kernel has sent something again in the pod's network (`TcpRetransSegs`).
fn sent_again(node: &Node) -> Result<u64> {
    let words = ["awk", "/^Tcp:/ && line++ { print $13 }", "/proc/net/snmp"];
    let told = node.run(&[&["ip", "netns", "exec", NETWORK][..], &words].concat())?;
    told.trim().parse().with_context(|| format!("{told:?} is no number"))
}

fn there_and_back(talkers: fn(&PodNetwork) -> Talkers) -> Result<()> {
    let bed = Bed::up(&LabOptions::for_tests(), Store::File, "", &[Image::Mem])?;
    let (here, there) = (bed.n1.pod_network(NETWORK, 101)?, bed.n2.pod_network(NETWORK, 102)?);
    let pod = talkers(&here);
    pod.run(&bed.n1)?;
    // One that leaves them running, then there and back; whoever of them is named.
    let report = pod.asks.checkpoint(&bed.n1, &[])?;
    ensure!(report.containers == ["answers", "asks"], "{:?}", report.containers);
    pod.talk(&bed.n1)?;
    let moves = [
        (&bed.n1, (&bed.n2, there.address), &pod.answers),
        (&bed.n2, (&bed.n1, here.address), &pod.asks),
    ];
    for (from, (to, address), named) in moves {
        let report = named.checkpoint(from, &["--stop"])?;
        for one in pod.all() {
            ensure!(one.listed(from)? == "STOPPED", "{} runs on after its stop", one.id);
        }
        pod.remove(from)?;
        let id = report.checkpoint.to_string();
        let [first, second] = pod.for_restore();
        let sent = sent_again(to)?;
        first.restore(to, &id)?;
        let before = first.progress(to)?;
        // Alone it is held.
        wait::until_true("it to be held", SOON, || {
            to.log("containerd").is_ok_and(|log| log.contains("held until the others are there"))
        })?;
        if pod.is_full {
            wait::until_true("the kernel to send again to who is not there", SOON, || {
                sent_again(to).is_ok_and(|now| now > sent)
            })?;
        }
        ensure!(first.progress(to)? == before, "it runs before the other is there");
        second.restore(to, &id)?;
        pod.talk(to)?;
        if pod.is_by_address {
            is_at(to, &format!("{address}:7"))?;
        }
    }
    // A copy of a point that went on, elsewhere: both of both talk.
    let id = report.checkpoint.to_string();
    for one in pod.all() {
        one.fork(&bed.n2, &id)?;
    }
    pod.talk(&bed.n2)?;
    pod.talk(&bed.n1)?;
    pod.remove(&bed.n1)?;
    pod.remove(&bed.n2)
}

/// A pod that was stopped on the first node, to be continued on the second.
fn stopped() -> Result<(Bed, Talkers, String)> {
    let bed = Bed::up(&LabOptions::for_tests(), Store::File, "", &[Image::Mem, Image::Shell])?;
    let network = bed.n1.pod_network(NETWORK, 101)?;
    bed.n2.pod_network(NETWORK, 102)?;
    let pod = Talkers::new(&network);
    pod.run(&bed.n1)?;
    let id = pod.asks.checkpoint(&bed.n1, &["--stop"])?.checkpoint.to_string();
    pod.remove(&bed.n1)?;
    Ok((bed, pod, id))
}

#[test]
fn a_container_that_does_not_come_keeps_nobody_and_one_that_is_killed_takes_all_along() -> Result<()>
{
    let (bed, pod, id) = stopped()?;

    // A stranger is refused by name, and takes the others with it: nothing of the pod has run.
    pod.answers.restore(&bed.n2, &id)?;
    let stranger = member("stranger", &bed.n2.pod_network(NETWORK, 102)?, &["counter"]);
    let refused = stranger.restore(&bed.n2, &id).err().context("a container of no point")?;
    let refused = format!("{refused:#}");
    ensure!(refused.contains("answers, asks") && refused.contains("stranger"), "{refused}");
    let listed = || pod.answers.listed(&bed.n2).is_ok_and(|listed| listed == "STOPPED");
    wait::until_true("the one that was held to end", SOON, listed)?;
    stranger.remove(&bed.n2)?;
    pod.answers.remove(&bed.n2)?;
    clean::wait(&bed.n2)?;

    // Killed while it is held.
    pod.answers.restore(&bed.n2, &id)?;
    bed.n2.ctr(&["task", "kill", "--signal", "SIGKILL", &pod.answers.id])?;
    wait::until_true("it to end", SOON, listed)?;
    pod.answers.remove(&bed.n2)?;
    clean::wait(&bed.n2)?;

    // The agent dies: what it was held for is not decided, so it ends; nothing was lost.
    pod.answers.restore(&bed.n2, &id)?;
    bed.n2.kill_agent()?;
    wait::until_true("it to end", SOON, listed)?;
    pod.answers.remove(&bed.n2)?;
    bed.n2.start_agent(&AgentOptions::default())?;
    for one in pod.all() {
        one.restore(&bed.n2, &id)?;
    }
    pod.talk(&bed.n2)?;
    pod.remove(&bed.n2)
}
