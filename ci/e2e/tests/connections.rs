//! `godwit.dev/tcp: keep`: TCP connections to somebody outside of the pod go on, with every byte, where the pod has its address again.
//! Whoever does not ask for it, or gets another address, hears at once that they are over. Needs programs that were built with the
//! feature `failpoints` of `godwit-wire`, as `make` does.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener};
use std::process::Command;

use anyhow::{Result, ensure};
use godwit_e2e::bed::{Bed, Store};
use godwit_e2e::clean;
use godwit_e2e::container::{Container, PROGRESS, SOON};
use godwit_lab::{AgentOptions, Image, LabOptions, Node, PodNetwork, wait};
use godwit_types::names;
use godwit_wire::failpoint::VARIABLE;

/// Host parts of the addresses of the pod, its peer, and of a pod elsewhere.
const POD: u8 = 101;
const PEER: u8 = 110;
const OTHER: u8 = 120;
/// What Kubernetes would call the pod that has a sandbox.
const UID: &str = "22a1-b0";

/// The network of addresses of IPv6, which nobody has to find out; their last number is the host part, too.
const IPV6: &str = "fd00:67::";

/// An agent stands still in the middle of a freeze; a slow machine shall not end it.
const PATIENT: &str = "freeze_deadline = \"2min\"\n";

fn with(container: Container, name: &str, value: &str) -> Container {
    container.with(&["--annotation", &format!("{name}={value}")])
}

fn keeping(container: Container) -> Container {
    with(container, names::TCP, names::KEEP)
}

/// A pod that answers, and somebody outside who asks without a pause: many bytes are on their way in both directions at any time.
struct Talk {
    bed: Bed,
    answers: Container,
    asks: Container,
}

impl Talk {
    fn begin(asks_for: impl FnOnce(Container) -> Container) -> Result<Self> {
        let images = [Image::Mem, Image::Shell];
        let bed = Bed::up(&LabOptions::for_tests(), Store::File, PATIENT, &images)?;
        let pod = bed.n1.pod_network("pod", POD)?;
        let outside = bed.n1.pod_network("peer", PEER)?;
        let listens = ["talk", "--listen", "0.0.0.0:7", "--file", PROGRESS];
        let to = format!("{}:7", pod.address);
        let connects = ["talk", "--connect", &to, "--every-ms", "1", "--file", PROGRESS];
        let answers = asks_for(Container::new("answers", Image::Mem, &listens).on(&pod));
        let asks = Container::new("asks", Image::Mem, &connects).on(&outside);
        answers.run(&bed.n1)?;
        asks_each_second(&bed.n1)?;
        asks.run(&bed.n1)?;
        let talk = Self { bed, answers, asks };
        talk.goes_on(&talk.bed.n1)?;
        Ok(talk)
    }

    /// Both get on, over the only connection that they have.
    fn goes_on(&self, node: &Node) -> Result<()> {
        for (one, node) in [(&self.answers, node), (&self.asks, &self.bed.n1)] {
            let now = one.progress(node).unwrap_or(0);
            one.wait_beyond(node, now + 100)?;
        }
        Ok(())
    }

    /// Stops the pod and removes it; its network is gone, too. The peer hears nothing of it.
    fn stop(&self, node: &Node, sandbox: Option<&Container>) -> Result<String> {
        let report = self.answers.checkpoint(node, &["--stop"])?;
        ensure!(self.answers.listed(node)? == "STOPPED", "it runs on after its stop");
        for one in [Some(&self.answers), sandbox].into_iter().flatten() {
            one.remove(node)?;
        }
        node.sh("ip netns del pod")?;
        Ok(report.checkpoint.to_string())
    }

    /// What a plugin of CNI tells the neighbours when it has given an address to a pod.
    fn announce(&self) -> Result<()> {
        self.bed.n1.sh("ip -n peer neigh flush all")?;
        Ok(())
    }

    fn is_over(&self, container: &Container, node: &Node) -> Result<()> {
        let over = || container.listed(node).is_ok_and(|listed| listed == "STOPPED");
        let what = format!("{} to see that its connection is over", container.id);
        Ok(wait::until_true(&what, SOON, over)?)
    }
}

/// The peer sends again at least each second, and for minutes, where the kernel can be told so (Linux 6.15); elsewhere it waits as long
/// again as it has waited already.
fn asks_each_second(node: &Node) -> Result<()> {
    node.sh(
        "ip netns exec peer sh -c '
             cd /proc/sys/net/ipv4
             test ! -e tcp_rto_max_ms || { echo 1000 > tcp_rto_max_ms; echo 200 > tcp_retries2; }'",
    )?;
    Ok(())
}

/// What Kubernetes makes first: it has the pod's annotations, and holds its network.
fn sandbox(network: &PodNetwork, point: &str) -> Container {
    let sandbox = Container::new("pod-1", Image::Shell, &["sleep", "infinity"]).on(network);
    let sandbox = with(in_sandbox(keeping(sandbox)), names::CONTAINER_TYPE, "sandbox");
    with(sandbox, names::RESTORE_FROM, point)
}

/// As Kubernetes says which sandbox and which pod a container belongs to.
fn in_sandbox(container: Container) -> Container {
    let container = with(container, names::SANDBOX_ID, "pod-1");
    with(container, names::SANDBOX_UID, UID)
}

/// What the kernel has counted in a network: packets that came in, and what TCP has sent again.
fn counted(node: &Node, network: &str) -> Result<(u64, u64)> {
    let read = |protocol: &str, column: usize| -> Result<u64> {
        let file = "/proc/net/snmp";
        let line = format!("ip netns exec {network} grep ^{protocol}: {file} | tail -n 1");
        let counters = node.sh(&line)?;
        Ok(counters.split_whitespace().nth(column).unwrap_or_default().parse()?)
    };
    Ok((read("Ip", 3)?, read("Tcp", 12)?))
}

/// The peer has sent again, and it has come as far as the pod's network.
fn is_asked_again(talk: &Talk, node: &Node) -> Result<()> {
    let seen = || -> Result<(u64, u64)> {
        Ok((counted(node, "pod")?.0, counted(&talk.bed.n1, "peer")?.1))
    };
    let (came, again) = seen()?;
    wait::until("the peer to send again", SOON, || match seen() {
        Ok(now) if now.0 > came && now.1 > again => Ok(()),
        Ok(now) => Err(format!("{:?} since {:?}", now, (came, again))),
        Err(why) => Err(format!("{why:#}")),
    })?;
    Ok(())
}

/// Whether the network of a pod is silent: the kernel refuses to send.
fn is_silent(node: &Node) -> Result<bool> {
    let host = node.address().octets();
    let to = Ipv4Addr::new(host[0], host[1], host[2], PEER);
    let says = format!("echo x > /dev/udp/{to}/9");
    let said = node.exec(&["ip", "netns", "exec", "pod", "bash", "-c", &says])?;
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    let refused = said.contains("not permitted");
    ensure!(refused || said.is_empty(), "{said}");
    Ok(refused)
}

fn restart_agent(node: &Node, failpoint: Option<&str>) -> Result<()> {
    node.kill_agent()?;
    let env = failpoint.map(|site| (VARIABLE.to_owned(), site.to_owned())).into_iter().collect();
    node.start_agent(&AgentOptions { env })?;
    Ok(())
}

#[test]
fn a_connection_to_somebody_outside_goes_on_where_the_pod_has_its_address() -> Result<()> {
    let talk = Talk::begin(keeping)?;
    let (n1, n2) = (&talk.bed.n1, &talk.bed.n2);

    // A pod that runs on is never silent.
    talk.answers.checkpoint(n1, &[])?;
    talk.goes_on(n1)?;

    // To another node, whose sandbox is there before the container is: the peer sends, and is not turned away.
    let id = talk.stop(n1, None)?;
    ensure!(talk.asks.listed(n1)? == "RUNNING", "the peer was told");
    let network = n2.pod_network("pod", POD)?;
    let pause = sandbox(&network, &id);
    pause.run(n2)?;
    talk.announce()?;
    is_asked_again(&talk, n2)?;
    in_sandbox(talk.answers.clone()).restore(n2, &id)?;
    talk.goes_on(n2)?;

    // And back, by hand.
    let id = talk.stop(n2, Some(&pause))?;
    n1.pod_network("pod", POD)?;
    talk.answers.restore(n1, &id)?;
    talk.announce()?;
    talk.goes_on(n1)?;

    // In its own network again, where its former sockets died unheard.
    let id = talk.answers.checkpoint(n1, &["--stop"])?.checkpoint.to_string();
    talk.answers.remove(n1)?;
    talk.answers.restore(n1, &id)?;
    talk.goes_on(n1)?;
    for one in [&talk.answers, &talk.asks] {
        one.remove(n1)?;
    }
    clean::wait(n1)?;
    // Its fence stays for as long as Kubernetes has the pod.
    let fence = format!("{}/{UID}", names::FENCES);
    let left = || clean::left(n2).is_ok_and(|left| left.trim() == fence);
    Ok(wait::until_true("nothing but its fence to be left of the pod", SOON, left)?)
}

#[test]
fn a_pod_that_is_not_stopped_after_all_goes_on_with_its_connections() -> Result<()> {
    let talk = Talk::begin(keeping)?;
    let n1 = &talk.bed.n1;
    for site in ["frozen", "kept", "seal.before"] {
        restart_agent(n1, Some(&format!("{site}:1:stop")))?;
        ensure!(!is_silent(n1)?, "before {site}");
        let mut stops = n1.spawn(&["godwit", "checkpoint", "--stop", &talk.answers.id])?;
        let silent = || is_silent(n1).is_ok_and(|silent| silent);
        wait::until_true(&format!("the pod to be silent at {site}"), SOON, silent)?;
        n1.kill_agent()?;
        ensure!(!stops.child().wait()?.success(), "it was stopped at {site}");
        talk.goes_on(n1)?;
        ensure!(!is_silent(n1)?, "after {site}");
    }
    Ok(())
}

/// A network with an address of each kind.
fn network_of_both(node: &Node, name: &str, host_part: u8) -> Result<PodNetwork> {
    let network = node.pod_network(name, host_part)?;
    node.sh(&format!("ip -n {name} addr add {IPV6}{host_part}/64 dev eth0 nodad"))?;
    Ok(network)
}

#[test]
fn containers_of_one_pod_keep_their_connections_together_by_ipv4_and_by_ipv6() -> Result<()> {
    let bed = Bed::up(&LabOptions::for_tests(), Store::File, PATIENT, &[Image::Mem])?;
    let (n1, n2) = (&bed.n1, &bed.n2);
    let pod = network_of_both(n1, "pod", POD)?;
    let outside = network_of_both(n1, "peer", PEER)?;
    asks_each_second(n1)?;
    let member = |name: &str, listens: &str| {
        let words = ["talk", "--listen", listens, "--file", PROGRESS];
        let one = keeping(Container::new(name, Image::Mem, &words).on(&pod));
        with(with(one, names::SANDBOX_ID, "pod-1"), names::CONTAINER_NAME, name)
    };
    let peer = |name: &str, to: &str| {
        let words = ["talk", "--connect", to, "--every-ms", "1", "--file", PROGRESS];
        Container::new(name, Image::Mem, &words).on(&outside)
    };
    let members = [member("four", "0.0.0.0:7"), member("six", "[::]:8")];
    let to = [format!("{}:7", pod.address), format!("[{IPV6}{POD}]:8")];
    let peers = [peer("asks-four", &to[0]), peer("asks-six", &to[1])];
    let go_on = |node: &Node| -> Result<()> {
        for (one, node) in
            members.iter().map(|one| (one, node)).chain(peers.iter().map(|one| (one, n1)))
        {
            let now = one.progress(node).unwrap_or(0);
            one.wait_beyond(node, now + 100)?;
        }
        Ok(())
    };
    members.iter().chain(&peers).try_for_each(|one| one.run(n1))?;
    go_on(n1)?;

    for (from, to) in [(n1, n2), (n2, n1)] {
        let id = members[0].checkpoint(from, &["--stop"])?.checkpoint.to_string();
        members.iter().try_for_each(|one| one.remove(from))?;
        from.sh("ip netns del pod")?;
        network_of_both(to, "pod", POD)?;
        members.iter().try_for_each(|one| one.restore(to, &id))?;
        n1.sh("ip -n peer neigh flush all")?;
        go_on(to)?;
    }
    members.iter().chain(&peers).try_for_each(|one| one.remove(n1))?;
    clean::wait(n1)
}

/// A restore whose agent dies when all of it is there, and that is removed before there is another one.
fn is_given_up(container: &Container, node: &Node, checkpoint: &str) -> Result<()> {
    restart_agent(node, Some("plan.answered"))?;
    let mut starts = container.attach(node, Some(checkpoint))?;
    wait::until_true("the agent to die", SOON, || node.agent_pid().is_none())?;
    container.remove(node)?;
    ensure!(!starts.child().wait()?.success(), "it was started");
    Ok(())
}

#[test]
fn whoever_begins_anew_in_a_silent_network_is_heard() -> Result<()> {
    let bed = Bed::up(&LabOptions::for_tests(), Store::File, "", &[Image::Shell])?;
    let (n1, n2) = (&bed.n1, &bed.n2);
    let counts =
        "i=0; while :; do i=$((i+1)); echo $i >/next; mv /next /progress; sleep 0.05; done";
    let network = n1.pod_network("pod", POD)?;
    let pod = keeping(Container::new("pod", Image::Shell, &["bash", "-c", counts]).on(&network));
    pod.run(n1)?;
    pod.wait_beyond(n1, 0)?;
    let id = pod.checkpoint(n1, &["--stop"])?.checkpoint.to_string();
    ensure!(is_silent(n1)?, "it said farewell");
    pod.remove(n1)?;
    ensure!(is_silent(n1)?, "its network outlives it");

    // A restore that comes to nothing leaves a network as it was: one that was heard by hand, and one that a sandbox keeps silent.
    n2.pod_network("pod", POD)?;
    is_given_up(&pod, n2, &id)?;
    ensure!(!is_silent(n2)?, "nothing is to come of it");
    n2.sh("ip netns del pod")?;
    let network = n2.pod_network("pod", POD)?;
    let pause = sandbox(&network, &id);
    pause.run(n2)?;
    is_given_up(&in_sandbox(pod.clone()), n2, &id)?;
    ensure!(is_silent(n2)?, "it may be tried again");

    // Whatever the pod's annotations say by then, who starts from the image is heard: also before anything of it runs.
    restart_agent(n2, None)?;
    let plain = Container::new("plain", Image::Shell, &["bash", "-c", counts]).on(&network);
    let plain = in_sandbox(plain);
    plain.run(n2)?;
    plain.wait_beyond(n2, 0)?;
    ensure!(!is_silent(n2)?, "it runs unheard");
    for one in [&plain, &pause] {
        one.remove(n2)?;
    }
    clean::wait(n2)?;

    // And where somebody else was stopped, by hand.
    pod.run(n1)?;
    pod.wait_beyond(n1, 0)?;
    ensure!(!is_silent(n1)?, "it runs unheard");
    pod.remove(n1)?;
    clean::wait(n1)
}

#[test]
fn without_the_wish_or_the_address_a_connection_is_over_and_its_process_hears_it() -> Result<()> {
    // The new pod does not ask. The peer hears of it when it sends; it may wait for an answer instead.
    let talk = Talk::begin(keeping)?;
    let id = talk.stop(&talk.bed.n1, None)?;
    let network = talk.bed.n2.pod_network("pod", POD)?;
    let words = ["talk", "--listen", "0.0.0.0:7", "--file", PROGRESS];
    let plain = Container::new("answers", Image::Mem, &words).on(&network);
    plain.restore(&talk.bed.n2, &id)?;
    talk.is_over(&plain, &talk.bed.n2)?;
    drop(talk);

    // It has another address: its process hears it; nobody is left who could tell the peer.
    let talk = Talk::begin(keeping)?;
    let id = talk.stop(&talk.bed.n1, None)?;
    talk.bed.n2.pod_network("pod", OTHER)?;
    talk.answers.restore(&talk.bed.n2, &id)?;
    talk.is_over(&talk.answers, &talk.bed.n2)?;
    drop(talk);

    // The first pod did not ask: its end is told.
    let talk = Talk::begin(|container| container)?;
    let report = talk.answers.checkpoint(&talk.bed.n1, &["--stop"])?;
    talk.is_over(&talk.asks, &talk.bed.n1)?;
    talk.answers.remove(&talk.bed.n1)?;
    talk.bed.n2.pod_network("pod", POD)?;
    let wishful = keeping(talk.answers.clone());
    wishful.restore(&talk.bed.n2, &report.checkpoint.to_string())?;
    talk.is_over(&wishful, &talk.bed.n2)
}

/// Reads to the end, and answers when it is told to.
const ECHO: &str = "exec 3<>/dev/tcp/$0/$1; cat <&3 >/got; echo 1 >/progress; \
    until test -e /go; do sleep 0.1; done; cat /got >&3; exec 3>&-; sleep infinity";

#[test]
fn a_connection_that_one_side_has_closed_goes_on_for_the_other() -> Result<()> {
    let bed = Bed::up(&LabOptions::for_tests(), Store::File, "", &[Image::Shell])?;
    let network = bed.n1.pod_network("pod", POD)?;
    let [a, b, c, _] = network.address.octets();
    let host = Ipv4Addr::new(a, b, c, 1);
    let listener = TcpListener::bind((host, 0))?;
    let port = listener.local_addr()?.port().to_string();
    let words = ["bash", "-c", ECHO, &host.to_string(), &port];
    let echo = keeping(Container::new("echo", Image::Shell, &words).on(&network));
    echo.run(&bed.n1)?;
    let (mut peer, _) = listener.accept()?;
    let said = "as it was said\n".repeat(1000);
    peer.write_all(said.as_bytes())?;
    peer.shutdown(Shutdown::Write)?;
    echo.wait_beyond(&bed.n1, 0)?;

    let id = echo.checkpoint(&bed.n1, &["--stop"])?.checkpoint.to_string();
    echo.remove(&bed.n1)?;
    bed.n1.sh("ip netns del pod")?;
    bed.n2.pod_network("pod", POD)?;
    echo.restore(&bed.n2, &id)?;
    let address = network.address.to_string();
    ensure!(Command::new("ip").args(["neigh", "flush", "to", &address]).status()?.success());
    echo.exec(&bed.n2, &["touch", "/go"])?;
    peer.set_read_timeout(Some(SOON))?;
    let mut heard = String::new();
    peer.read_to_string(&mut heard)?;
    ensure!(heard == said, "{} of {} bytes came back", heard.len(), said.len());
    Ok(())
}
