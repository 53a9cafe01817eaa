//! Every bound of the proxy, with its arithmetic. None of them bounds the size of a message.

use std::time::Duration;

/// What one call may have under way in one direction before its reader takes some of it: bytes. A slow reader costs no more.
pub const STREAM_WINDOW: u32 = 256 << 10;
/// Calls of one connection at a time. kubelet makes some tens; it waits for its turn beyond that.
pub const MAX_STREAMS: u32 = 512;
/// Of one connection in one direction: that of all its calls, so that calls nobody reads do not hold up the others. 128 MiB.
pub const CONNECTION_WINDOW: u32 = STREAM_WINDOW * MAX_STREAMS;
/// Bytes of one call that wait to be written to a socket: what gRPC's libraries take at first.
pub const SEND_BUFFER: usize = 64 << 10;
/// Small frames cost memory beyond what windows count. That of a connection full of frames of one byte: windows are the bound, a
/// stream of small events that is read slowly must not end its connection.
pub const SMALL_FRAMES: usize = CONNECTION_WINDOW as usize * 256;
/// All metadata of one request or answer: bytes, as gRPC's own libraries have it.
pub const MAX_HEADERS: u32 = 16 << 20;
/// Connections at a time: kubelet has two, each `crictl` one, `critest` two for each of its tests. Others wait in the socket's queue.
/// Each takes some 45 KiB.
pub const MAX_CONNECTIONS: usize = 1024;
/// Open files: each client's connection and its own to containerd, one more where containerd is just changed, and some for us.
pub const DESCRIPTORS: u64 = MAX_CONNECTIONS as u64 * 3 + 64;
/// Calls that the client has given up before they were looked at, in a row, until the connection is ended. All calls of a
/// connection may be given up at once.
pub const MAX_RESETS: usize = MAX_STREAMS as usize;

/// The request of a method that is looked into; a larger one passes unseen. containerd itself takes 16 MiB.
pub const MAX_SEEN: usize = 16 << 20;
/// How long a call without a deadline of its own may be held.
pub const MAX_HOLD: Duration = Duration::from_secs(240);

/// From the connection to the end of its preface. A client that is silent for longer has no use for us.
pub const PREFACE: Duration = Duration::from_secs(10);
/// How long after containerd went away calls wait for it to come back. After that they fail at once, as they would without a proxy.
pub const ABSENCE: Duration = Duration::from_secs(3);
/// How often it is looked for meanwhile.
pub const LOOK: Duration = Duration::from_millis(50);
/// How often a call that was not sent is sent on another connection.
pub const ATTEMPTS: usize = 3;

/// Stopping: how long calls are waited for while new ones are still taken.
pub const SETTLE: Duration = Duration::from_secs(20);
/// Stopping: how long calls are waited for when nobody takes new connections. Less than the five seconds in which kubelet expects
/// the first word on a new connection.
pub const DRAIN: Duration = Duration::from_secs(3);
/// Handed over: how long calls are waited for. New ones go to the successor, so nobody waits: as long as the longest image pull.
pub const DRAIN_HANDED_OVER: Duration = Duration::from_secs(600);
/// An answer that has begun and brings nothing for so long is a stream that would never end: it is ended at once when draining.
pub const QUIET: Duration = Duration::from_millis(300);
/// For the last words of calls that were ended to reach the client.
pub const FAREWELL: Duration = Duration::from_millis(500);
/// From the start of a successor until it serves.
pub const SUCCESSOR: Duration = Duration::from_secs(10);
