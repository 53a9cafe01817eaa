//! With real network namespaces.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::*;

/// A namespace with loopback, for as long as it lives.
pub(crate) struct Space {
    keeper: Child,
    pub(crate) network: Network,
}

impl Network {
    /// An open file, which need not be a network.
    pub(crate) fn of_file(path: &str) -> Self {
        Self::open(Path::new(path)).unwrap()
    }
}

impl Space {
    pub(crate) fn new() -> Self {
        let script = "ip link set lo up && echo up && read end";
        let mut keeper = Command::new("unshare")
            .args(["--net", "sh", "-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut up = [0; 3];
        keeper.stdout.as_mut().unwrap().read_exact(&mut up).unwrap();
        let path = format!("/proc/{}/ns/net", keeper.id());
        let network = Network::of_file(&path);
        Self { keeper, network }
    }

    /// The spec of a container that joins it, with these annotations in JSON.
    pub(crate) fn spec(&self, annotations: &str) -> String {
        let path = self.network.path.display();
        format!(
            r#"{{"annotations":{{{annotations}}},"linux":{{"namespaces":[{{"type":"network","path":"{path}"}}]}}}}"#
        )
    }

    /// Does something there.
    pub(crate) fn there<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let enter = || {
            let namespace = self.network.namespace.as_fd();
            move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network)).unwrap();
            work()
        };
        std::thread::scope(|scope| scope.spawn(enter).join().unwrap())
    }

    async fn silence(&self, silence: Silence) -> Result<()> {
        Silenced::default().silence(&self.network, silence).await
    }

    async fn open(&self) -> Result<()> {
        Silenced::default().open(&self.network).await
    }

    fn ip(&self, words: &str) {
        let run = || Command::new("ip").args(words.split(' ')).status().unwrap().success();
        assert!(self.there(run), "ip {words}");
    }

    /// What becomes of a packet.
    fn say(&self, to: &str) -> io::Result<usize> {
        self.say_word(to, b"x")
    }

    fn say_word(&self, to: &str, word: &[u8]) -> io::Result<usize> {
        let to = to.to_socket_addrs().unwrap().next().unwrap();
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        self.there(|| UdpSocket::bind(any)?.send_to(word, to))
    }

    /// Packets that have come in, of one family.
    fn received(&self, file: &str, counter: &str) -> u64 {
        let text = self.there(|| std::fs::read_to_string(file).unwrap());
        if file.ends_with('6') {
            let line = text.lines().find(|line| line.starts_with(counter)).unwrap();
            return line.split_whitespace().nth(1).unwrap().parse().unwrap();
        }
        let mut ip = text.lines().filter(|line| line.starts_with("Ip:"));
        let at = ip.next().unwrap().split_whitespace().position(|name| name == counter).unwrap();
        ip.next().unwrap().split_whitespace().nth(at).unwrap().parse().unwrap()
    }

    /// Connections that the kernel knows.
    pub(crate) fn connections(&self) -> usize {
        let read = || std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
        let state = |line: &str| line.split_whitespace().nth(3) != Some("0A");
        self.there(read).lines().skip(1).filter(|line| state(line)).count()
    }

    /// Both ends of a connection.
    pub(crate) fn pair(&self) -> (TcpStream, TcpStream) {
        self.there(pair)
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

#[tokio::test]
async fn nothing_leaves_a_silent_network_and_all_does_again_afterwards() {
    let space = Space::new();
    let everywhere = ["127.0.0.1:9", "[::1]:9"];
    let _ = everywhere.map(|to| space.say(to).unwrap());
    space.open().await.unwrap();
    assert_eq!(space.network.was().await.unwrap(), Was::Heard);
    for _ in 0..2 {
        // Whoever asks twice has what he asked for.
        space.silence(Silence::Whole).await.unwrap();
    }
    assert_eq!(space.network.was().await.unwrap(), Was::Silent);
    for to in everywhere {
        assert_eq!(space.say(to).unwrap_err().kind(), ErrorKind::PermissionDenied, "{to}");
    }
    for _ in 0..2 {
        space.open().await.unwrap();
    }
    let _ = everywhere.map(|to| space.say(to).unwrap());
}

/// A pod, and somebody on the same link.
fn neighbours() -> (Space, Space) {
    let (pod, outside) = (Space::new(), Space::new());
    pod.ip(&format!("link add eth0 type veth peer name eth0 netns {}", outside.keeper.id()));
    for (space, last) in [(&pod, 1), (&outside, 2)] {
        space.ip(&format!("address add 10.9.0.{last}/24 dev eth0"));
        space.ip(&format!("address add fd09::{last}/64 dev eth0 nodad"));
        space.ip("link set eth0 up");
    }
    (pod, outside)
}

/// Says it until it is heard: a link that is new may lose something. Of what was said in silence nothing comes.
fn is_heard(says: &Space, word: u8, address: &str, hears: &UdpSocket) -> bool {
    let until = Instant::now() + Duration::from_secs(20);
    hears.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    while Instant::now() < until {
        says.say_word(address, &[word]).unwrap();
        let mut heard = [0];
        while hears.recv(&mut heard).is_ok() {
            assert_ne!(heard[0], b'b', "{address} was heard in silence");
            if heard[0] == word {
                return true;
            }
        }
    }
    false
}

#[tokio::test]
async fn nothing_that_comes_into_a_silent_network_is_heard() {
    let (pod, outside) = neighbours();
    for (address, file, counter) in [
        ("10.9.0.1:7", "/proc/thread-self/net/snmp", "InReceives"),
        ("[fd09::1]:7", "/proc/thread-self/net/snmp6", "Ip6InReceives"),
    ] {
        let hears = pod.there(|| UdpSocket::bind(address)).unwrap();
        assert!(is_heard(&outside, b'a', address, &hears));

        pod.silence(Silence::Whole).await.unwrap();
        // More than neighbours have to say to each other.
        let arrived = pod.received(file, counter) + 50;
        let until = Instant::now() + Duration::from_secs(20);
        while pod.received(file, counter) < arrived {
            outside.say_word(address, b"b").unwrap();
            assert!(Instant::now() < until, "nothing comes to {address}");
        }

        pod.open().await.unwrap();
        assert!(is_heard(&outside, b'c', address, &hears));
    }
}

impl Space {
    /// Whether its processes hear each other, at once: one of two sockets at one of its addresses the other.
    pub(crate) fn hears_itself(&self, address: &str) -> bool {
        let hears = self.there(|| UdpSocket::bind((address, 0))).unwrap();
        hears.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let says = self.there(|| UdpSocket::bind((address, 0))).unwrap();
        says.send_to(b"x", hears.local_addr().unwrap()).unwrap();
        hears.recv(&mut [0]).is_ok()
    }

    /// The same, however busy the machine is.
    pub(crate) fn comes_to_hear_itself(&self, address: &str) -> bool {
        (0..60).any(|_| self.hears_itself(address))
    }
}

#[tokio::test]
async fn a_network_that_is_silent_inwards_is_heard_by_others_alone() {
    let (pod, outside) = neighbours();
    let own = ["127.0.0.1", "::1", "10.9.0.1", "fd09::1"];
    assert!(own.iter().all(|address| pod.comes_to_hear_itself(address)));
    for _ in 0..2 {
        pod.silence(Silence::Inward).await.unwrap();
    }
    for address in own {
        assert!(!pod.hears_itself(address), "{address}");
    }
    assert_eq!(pod.network.was().await.unwrap(), Was::Heard, "others hear it");
    for address in ["10.9.0.1:7", "[fd09::1]:7"] {
        let hears = pod.there(|| UdpSocket::bind(address)).unwrap();
        assert!(is_heard(&outside, b'a', address, &hears), "{address}");
    }
    pod.open().await.unwrap();
    assert!(own.iter().all(|address| pod.comes_to_hear_itself(address)));
}

#[tokio::test]
async fn a_network_that_may_be_silent_counts_as_silent_until_it_is_opened() {
    let (space, silenced) = (Space::new(), Silenced::default());
    // No network: the kernel was not even asked.
    let other = Network::of_file("/proc/self/ns/uts");
    assert!(
        silenced
            .silence(&other, Silence::Whole)
            .await
            .unwrap_err()
            .chain()
            .contains("cannot be entered")
    );
    assert!(!silenced.has(&other) && !silenced.has(&space.network));
    silenced.silence(&space.network, Silence::Whole).await.unwrap();
    assert!(silenced.has(&space.network));
    let all = [space.network.clone(), other.clone()];
    silenced.open_all(&all, Duration::ZERO).await.unwrap_err();
    assert!(!silenced.has(&space.network));
    // One that is silent stays so, whatever becomes of the next attempt.
    silenced.silence(&space.network, Silence::Whole).await.unwrap();
    silenced.open_all(&all[..1], Duration::ZERO).await.unwrap();
    assert_eq!(space.network.was().await.unwrap(), Was::Heard);
}

#[tokio::test]
async fn a_silence_that_was_given_up_does_not_begin_after_its_end() {
    let (space, silenced) = (Space::new(), Silenced::default());
    for _ in 0..100 {
        // Asked for, and no longer waited for.
        tokio::select! {
            biased;
            _ = silenced.silence(&space.network, Silence::Whole) => {}
            () = std::future::ready(()) => {}
        }
        silenced.open(&space.network).await.unwrap();
        assert_eq!(space.network.was().await.unwrap(), Was::Heard);
    }
}

#[tokio::test]
async fn connections_outlive_silence_and_lose_no_byte() {
    let space = Space::new();
    let (mut one, mut other) = space.pair();
    for silence in [Silence::Whole, Silence::Inward] {
        space.silence(silence).await.unwrap();
        one.write_all(b"sent in silence").unwrap();
        other.set_nonblocking(true).unwrap();
        let mut read = [0; 15];
        assert_eq!(other.read(&mut read).unwrap_err().kind(), ErrorKind::WouldBlock);
        other.set_nonblocking(false).unwrap();
        space.network.forget_former().await.unwrap();
        assert_eq!(space.connections(), 2, "they have a process");
        space.open().await.unwrap();
        other.read_exact(&mut read).unwrap();
        assert_eq!(&read, b"sent in silence");
    }
}

#[tokio::test]
async fn what_died_in_silence_is_forgotten_before_a_new_life() {
    let space = Space::new();
    let (one, mut other) = space.pair();
    space.silence(Silence::Whole).await.unwrap();
    drop(one);
    assert_eq!(space.connections(), 2, "its end could not be told");
    space.network.forget_former().await.unwrap();
    assert_eq!(space.connections(), 1);
    space.open().await.unwrap();
    // It had heard nothing: its next word finds nobody.
    other.write_all(b"x").unwrap();
    assert_eq!(other.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (one, listener.accept().unwrap().0)
}

#[tokio::test]
async fn only_a_network_of_its_own_may_fall_silent() {
    let spec = |network: &str| {
        let json = format!(
            r#"{{"annotations":{{"godwit.dev/tcp":"keep"}},"linux":{{"namespaces":[{network}]}}}}"#
        );
        Spec::parse(json.as_bytes()).unwrap()
    };
    let nodes = r#"{"type":"network","path":"/proc/self/ns/net"}"#;
    for network in ["", nodes] {
        let told = check(&spec(network)).await.unwrap_err().to_string();
        assert!(told.contains("address of its own"), "{told}");
    }
    check(&spec(r#"{"type":"network"}"#)).await.unwrap();
    check(&Spec::default()).await.unwrap();
    assert!(Network::joined(&spec(r#"{"type":"network"}"#)).unwrap().is_none());
    assert!(Network::joined(&spec(nodes)).unwrap().is_none());
    let space = Space::new();
    let joins = Spec::parse(space.spec(r#""godwit.dev/tcp":"keep""#).as_bytes()).unwrap();
    check(&joins).await.unwrap();
    assert!(Network::joined(&joins).unwrap() == Some(space.network.clone()));
}

#[test]
fn a_kernel_without_tables_is_told_by_name() {
    let told = |why: io::Error| needs_tables(Error::io("look")(why)).to_string();
    let none = told(rustix::io::Errno::INVAL.into());
    assert!(none.contains("load the module nf_tables"), "{none}");
    assert_eq!(told(ErrorKind::OutOfMemory.into()), "look");
}
