//! Inet sockets of a checkpoint under another pod address.
//!
//! CRIU binds a socket to the very address that it had; under another address the whole restore fails. So, after
//! vetting: TCP connections to somebody outside become closed sockets (their processes see an error at once instead of
//! hanging), unless they are to be kept and their address is the new pod's, too; everything else that names the old pod address
//! names the new one. Loopback connections and connections of the pod to itself go on with every byte.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use godwit_criu_rpc::image_file::Kind;
use godwit_criu_rpc::raw::Message;
use rustix::fs::{Mode, OFlags};

use crate::Error;
use crate::images::{ImageDir, streams};

/// Image of all open files.
const FILES: &str = "files.img";
/// `fd_types.INETSK`
const INETSK: u64 = 4;
const AF_INET: u64 = 2;
const IPPROTO_TCP: u64 = 6;
const TCP_CLOSE: u64 = 7;

/// Field numbers of `file_entry` and `inet_sk_entry`.
mod field {
    pub(super) const TYPE: u32 = 1;
    pub(super) const ISK: u32 = 4;
    pub(super) const INO: u32 = 2;
    pub(super) const FAMILY: u32 = 3;
    pub(super) const PROTO: u32 = 5;
    pub(super) const STATE: u32 = 6;
    pub(super) const SRC_PORT: u32 = 7;
    pub(super) const DST_PORT: u32 = 8;
    pub(super) const SRC_ADDR: u32 = 11;
    pub(super) const DST_ADDR: u32 = 12;
    pub(super) const SHUTDOWN: u32 = 19;
}

/// What becomes of TCP connections to somebody outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outside {
    /// They are closed.
    Close,
    /// Those whose own address the new pod has, too, go on.
    Keep,
}

/// What was done to the sockets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Edited {
    /// Connections to somebody outside that are closed now.
    pub closed: usize,
    /// Those that go on.
    pub kept: usize,
    /// Sockets that have the new address now.
    pub moved: usize,
}

/// Gives the sockets of an image directory the new pod's addresses.
///
/// # Errors
/// [`Error::Refused`] when a socket is bound to an address of a family that the new pod does not have;
/// [`Error::Io`], [`Error::Rpc`].
pub fn readdress(
    images: &ImageDir,
    old: &[IpAddr],
    new: &[IpAddr],
    outside: Outside,
) -> Result<Edited, Error> {
    let mut edited = Edited::default();
    let Some(mut file) = images.read_if_there(Kind::Files, FILES)? else { return Ok(edited) };
    for record in &mut file.records {
        let mut entry = Message::parse(record)?;
        if entry.varint(field::TYPE) != Some(INETSK) {
            continue;
        }
        let Some(socket) = entry.bytes(field::ISK) else { continue };
        let mut socket = Message::parse(socket)?;
        match edit(&mut socket, old, new, outside)? {
            Action::Leave => continue,
            Action::Keep => {
                edited.kept += 1;
                continue;
            }
            Action::Close => {
                edited.closed += 1;
                let ino = socket.varint(field::INO).unwrap_or(0);
                images.remove(&format!("tcp-stream-{ino:x}.img"))?;
            }
            Action::Move => edited.moved += 1,
        }
        entry.set_bytes(field::ISK, socket.encode());
        *record = entry.encode();
    }
    images.write(FILES, &file)?;
    streams::hold_back(images)?;
    Ok(edited)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Leave,
    Keep,
    Close,
    Move,
}

fn edit(
    socket: &mut Message,
    old: &[IpAddr],
    new: &[IpAddr],
    outside: Outside,
) -> Result<Action, Error> {
    let v4 = socket.varint(field::FAMILY) == Some(AF_INET);
    let source = socket.varints(field::SRC_ADDR)?;
    let target = socket.varints(field::DST_ADDR)?;
    let port = socket.varint(field::DST_PORT).unwrap_or(0);
    let local = |ip: IpAddr| ip.is_loopback() || old.contains(&ip);
    let remote = address(&target, v4).filter(|_| port != 0);
    if socket.varint(field::PROTO) == Some(IPPROTO_TCP) && remote.is_some_and(|ip| !local(ip)) {
        let own = address(&source, v4).is_some_and(|ip| old.contains(&ip) && new.contains(&ip));
        if own && outside == Outside::Keep {
            return Ok(Action::Keep);
        }
        close(socket, source.len(), target.len());
        return Ok(Action::Close);
    }
    let mut action = Action::Leave;
    for (number, words, named) in
        [(field::SRC_ADDR, &source, address(&source, v4)), (field::DST_ADDR, &target, remote)]
    {
        let Some(ip) = named.filter(|ip| old.contains(ip)) else { continue };
        socket.set_varints(number, words_of(replacement(ip, new)?, words));
        action = Action::Move;
    }
    Ok(action)
}

fn close(socket: &mut Message, source: usize, target: usize) {
    socket.set_varint(field::STATE, TCP_CLOSE);
    socket.set_varint(field::SRC_PORT, 0);
    socket.set_varint(field::DST_PORT, 0);
    socket.set_varints(field::SRC_ADDR, vec![0; source]);
    socket.set_varints(field::DST_ADDR, vec![0; target]);
    // With `shutdown` set, a reader would see an ordinary end of the stream and take it for complete.
    socket.remove(field::SHUTDOWN);
}

fn replacement(ip: IpAddr, new: &[IpAddr]) -> Result<IpAddr, Error> {
    new.iter().copied().find(|n| n.is_ipv4() == ip.is_ipv4()).ok_or_else(|| {
        let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
        Error::Refused(format!(
            "a socket is bound to {ip}, and the new pod has no {family} address to give it"
        ))
    })
}

/// CRIU keeps addresses as 32-bit words in network byte order, as they lie in memory.
fn address(words: &[u64], v4: bool) -> Option<IpAddr> {
    let word = |i: usize| words.get(i).map(|w| (w & 0xffff_ffff) as u32);
    if v4 {
        return Some(Ipv4Addr::from(word(0)?.to_le_bytes()).into());
    }
    let mut bytes = [0; 16];
    for (i, chunk) in bytes.chunks_exact_mut(4).enumerate() {
        chunk.copy_from_slice(&word(i)?.to_le_bytes());
    }
    let ip = Ipv6Addr::from(bytes);
    Some(ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4))
}

/// The address in the place and form of `like` (an IPv4 address may stand mapped in four words).
fn words_of(ip: IpAddr, like: &[u64]) -> Vec<u64> {
    let word = |b: &[u8]| u64::from(u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let bytes = match ip {
        IpAddr::V4(ip) if like.len() >= 4 => ip.to_ipv6_mapped().octets().to_vec(),
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    bytes.chunks_exact(4).map(word).collect()
}

/// The addresses of the network namespace at this path (`/proc/<pid>/ns/net`, `/run/netns/pod`): those that a socket can
/// be bound to, without loopback and link-local ones.
///
/// # Errors
/// [`Error::Io`].
pub fn addresses(namespace: &Path) -> Result<Vec<IpAddr>, Error> {
    let name = namespace.display();
    let fd = rustix::fs::open(namespace, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(Error::sys(format!("open {name}")))?;
    // A thread of its own: `setns` changes the calling thread only, and it ends with it.
    let looker = std::thread::Builder::new()
        .name("net-look".to_owned())
        .spawn(move || look(&fd))
        .map_err(Error::io("start a thread"))?;
    looker.join().unwrap_or_else(|_| Err(Error::image("network namespace", "the look failed")))
}

fn look(namespace: &OwnedFd) -> Result<Vec<IpAddr>, Error> {
    rustix::thread::move_into_link_name_space(
        namespace.as_fd(),
        Some(rustix::thread::LinkNameSpaceType::Network),
    )
    .map_err(Error::sys("enter the network namespace"))?;
    let read = |path: &str| match std::fs::read_to_string(path) {
        // A kernel without that family.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        other => other.map_err(Error::io(format!("read {path}"))),
    };
    let mut all = parse_fib_trie(&read("/proc/thread-self/net/fib_trie")?);
    all.extend(parse_if_inet6(&read("/proc/thread-self/net/if_inet6")?));
    Ok(all.into_iter().collect())
}

/// ```text
///            |-- 10.0.0.5
///               /32 host LOCAL
/// ```
fn parse_fib_trie(text: &str) -> BTreeSet<IpAddr> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let host = |pair: &[&str]| {
        let ip: Ipv4Addr = pair[0].strip_prefix("|-- ")?.parse().ok()?;
        (pair[1] == "/32 host LOCAL" && !ip.is_loopback()).then_some(IpAddr::V4(ip))
    };
    lines.windows(2).filter_map(host).collect()
}

/// `fe80000000000000a8bbccfffe000001 02 40 20 80     eth0`: address, index, prefix, scope (0 global), flags, name.
fn parse_if_inet6(text: &str) -> BTreeSet<IpAddr> {
    let global = |line: &str| {
        let mut words = line.split_whitespace();
        let bits = u128::from_str_radix(words.next()?, 16).ok()?;
        (words.nth(2)? == "00").then(|| IpAddr::V6(Ipv6Addr::from(bits)))
    };
    text.lines().filter_map(global).collect()
}

#[cfg(test)]
mod tests {
    use godwit_criu_rpc::image_file::ImageFile;
    use godwit_criu_rpc::images::{File, InetSk};

    use super::*;
    use crate::images::tasks::tests::write;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn words(text: &str, len: usize) -> Vec<u32> {
        let like = vec![0; len];
        words_of(ip(text), &like).into_iter().map(|w| w as u32).collect()
    }

    fn socket(ino: u32, proto: u32, from: (&str, u32), to: (&str, u32)) -> File {
        let len = if from.0.contains(':') || to.0.contains(':') { 4 } else { 1 };
        let isk = InetSk {
            id: ino,
            ino,
            family: if len == 4 { 10 } else { 2 },
            r#type: 1,
            proto,
            state: 1,
            src_addr: words(from.0, len),
            src_port: from.1,
            dst_addr: words(to.0, len),
            dst_port: to.1,
            shutdown: Some(1),
            ..InetSk::default()
        };
        File { r#type: 4, id: ino, isk: Some(isk), ..File::default() }
    }

    fn after(sockets: &[File], new: &[IpAddr]) -> Result<(Edited, Vec<InetSk>), Error> {
        let dir = tempfile::tempdir().unwrap();
        let images = ImageDir::new(dir.path());
        write(&images, Kind::Files, FILES, sockets);
        let stream = ImageFile { kind: Kind::TcpStream, records: vec![Vec::new()] };
        images.write("tcp-stream-1f.img", &stream).unwrap();
        let edited = readdress(&images, &[ip("10.0.0.1"), ip("fd00::1")], new, Outside::Keep)?;
        let files: Vec<File> = images.read(Kind::Files, FILES)?.decode(FILES)?;
        assert_eq!(dir.path().join("tcp-stream-1f.img").exists(), edited.closed == 0);
        Ok((edited, files.into_iter().filter_map(|f| f.isk).collect()))
    }

    #[test]
    fn a_connection_to_somebody_outside_is_closed_and_looks_cut_not_complete() {
        let outside = socket(0x1f, 6, ("10.0.0.1", 80), ("9.9.9.9", 5000));
        let (edited, sockets) = after(&[outside], &[ip("10.0.0.2")]).unwrap();
        assert_eq!(edited, Edited { closed: 1, ..Edited::default() });
        let s = &sockets[0];
        assert_eq!((s.state, s.src_port, s.dst_port, s.shutdown), (7, 0, 0, None));
        assert_eq!(
            (s.src_addr.as_slice(), s.dst_addr.as_slice()),
            ([0].as_slice(), [0].as_slice())
        );
    }

    #[test]
    fn a_connection_is_kept_by_whoever_wants_it_and_has_its_very_address() {
        let all = [
            socket(1, 6, ("10.0.0.1", 80), ("9.9.9.9", 5000)),
            socket(2, 6, ("::ffff:10.0.0.1", 80), ("::ffff:9.9.9.9", 5000)),
            socket(3, 6, ("fd00::1", 80), ("fd00::9", 5000)),
        ];
        let (edited, after) = after(&all, &[ip("10.0.0.1"), ip("fd00::1")]).unwrap();
        assert_eq!(edited, Edited { kept: 3, moved: 0, closed: 0 });
        assert!(after.iter().all(|socket| socket.state == 1 && socket.dst_port == 5000));
        let dir = tempfile::tempdir().unwrap();
        let images = ImageDir::new(dir.path());
        write(&images, Kind::Files, FILES, &all);
        let (old, new) = ([ip("10.0.0.1"), ip("fd00::1")], [ip("10.0.0.1")]);
        let edited = |outside| readdress(&images, &old, &new, outside).unwrap();
        // The second family has another address now.
        assert_eq!(edited(Outside::Keep), Edited { kept: 2, closed: 1, moved: 0 });
        assert_eq!(edited(Outside::Close), Edited { kept: 0, closed: 2, moved: 0 });
    }

    #[test]
    fn listeners_and_the_pods_own_connections_move_and_loopback_stays() {
        let all = [
            socket(1, 6, ("10.0.0.1", 80), ("0.0.0.0", 0)),
            socket(2, 6, ("10.0.0.1", 80), ("10.0.0.1", 4000)),
            socket(3, 6, ("127.0.0.1", 80), ("127.0.0.1", 4000)),
            socket(4, 17, ("10.0.0.1", 53), ("9.9.9.9", 53)),
            socket(5, 6, ("::ffff:10.0.0.1", 80), ("::", 0)),
            socket(6, 6, ("fd00::1", 80), ("::", 0)),
        ];
        let (edited, after) = after(&all, &[ip("10.0.0.2"), ip("fd00::2")]).unwrap();
        assert_eq!(edited, Edited { moved: 5, ..Edited::default() });
        assert_eq!(after[0].src_addr, words("10.0.0.2", 1));
        assert_eq!(after[1].dst_addr, words("10.0.0.2", 1));
        assert_eq!(after[2].src_addr, words("127.0.0.1", 1));
        assert_eq!(
            (&after[3].src_addr, &after[3].dst_addr),
            (&words("10.0.0.2", 1), &words("9.9.9.9", 1))
        );
        assert_eq!(after[4].src_addr, words("10.0.0.2", 4));
        assert_eq!(after[5].src_addr, words("fd00::2", 4));
    }

    #[test]
    fn an_address_family_that_the_new_pod_lacks_is_refused() {
        let bound = socket(6, 6, ("fd00::1", 80), ("::", 0));
        let error = after(&[bound], &[ip("10.0.0.2")]).unwrap_err();
        assert!(error.to_string().contains("no IPv6 address"), "{error}");
    }

    #[test]
    fn addresses_are_read_from_the_kernels_tables() {
        let trie = "Local:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.0.0.5\n        /32 host LOCAL\n     |-- 10.0.0.255\n        /32 link BROADCAST\n     |-- 127.0.0.1\n        /32 host LOCAL\n";
        assert_eq!(parse_fib_trie(trie).into_iter().collect::<Vec<_>>(), [ip("10.0.0.5")]);
        let inet6 = "fd000000000000000000000000000005 02 40 00 80     eth0\n\
                     fe800000000000000000000000000005 02 40 20 80     eth0\n\
                     00000000000000000000000000000001 01 80 10 80       lo\n";
        assert_eq!(parse_if_inet6(inet6).into_iter().collect::<Vec<_>>(), [ip("fd00::5")]);
        addresses(Path::new("/proc/self/ns/net")).unwrap();
    }
}
