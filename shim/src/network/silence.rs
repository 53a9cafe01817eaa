//! Silence: a table of netfilter's that drops what comes in before anybody looks at it, and what is to leave
//! (`include/uapi/linux/netfilter/nf_tables.h`). One transaction makes it, one message takes it away.
//!
//! CRIU restores a connection that one side has closed by sending itself the packet that did (`soccr`), with a mark of its own: that
//! passes, as it does in CRIU's own lock.

use std::io;

use super::netlink::{ACK, CREATE, Netlink, attribute, message, nested, number, text};

/// The table's name: `nft list table inet godwit-silence`.
const TABLE: &str = "godwit-silence";
/// `SOCCR_MARK` of CRIU's `soccr/soccr.h`.
const MARK: u32 = 0xC114;
/// The chains: name and hook (`NF_INET_PRE_ROUTING`, `NF_INET_LOCAL_OUT`).
const CHAINS: [(&str, u32); 2] = [("in", 0), ("out", 3)];
/// `NF_IP_PRI_RAW`: before connections are tracked.
const PRIORITY: i32 = -300;
/// `NFPROTO_INET`: IPv4 and IPv6.
const INET: u8 = 1;

/// Message types of netfilter's subsystem for tables (10), and the ends of a transaction.
mod kind {
    const TABLES: u16 = 10 << 8;
    pub(super) const NEW_TABLE: u16 = TABLES;
    pub(super) const GET_TABLE: u16 = TABLES + 1;
    pub(super) const DELETE_TABLE: u16 = TABLES + 2;
    pub(super) const NEW_CHAIN: u16 = TABLES + 3;
    pub(super) const NEW_RULE: u16 = TABLES + 6;
    pub(super) const BEGIN: u16 = 16;
    pub(super) const END: u16 = 17;
}

/// Whether there is silence.
pub(super) fn is_there(filter: &mut Netlink) -> io::Result<bool> {
    match filter.ask(&word(kind::GET_TABLE, ACK, &[text(1, TABLE)]), 1) {
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(false),
        other => other.map(|()| true),
    }
}

/// From now on all is dropped. What is there already stays.
pub(super) fn begin(filter: &mut Netlink) -> io::Result<()> {
    let mut words = vec![word(kind::NEW_TABLE, ACK | CREATE, &[text(1, TABLE)])];
    words.extend(CHAINS.map(|(name, hook)| chain(name, hook)));
    words.extend(CHAINS.map(|(name, _)| pass_marked(name)));
    transact(filter, words)
}

/// Nothing is dropped any more, if it was.
pub(super) fn end(filter: &mut Netlink) -> io::Result<()> {
    match transact(filter, vec![word(kind::DELETE_TABLE, ACK, &[text(1, TABLE)])]) {
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(()),
        ended => ended,
    }
}

fn transact(filter: &mut Netlink, words: Vec<Vec<u8>>) -> io::Result<()> {
    // Both ends name the subsystem: `nfgenmsg.res_id`.
    let edge = |kind| message(kind, 0, &[0, 0, 0, 10]);
    let count = words.len();
    filter.ask(&[edge(kind::BEGIN), words.concat(), edge(kind::END)].concat(), count)
}

/// A message with netfilter's own head: family, version, 0.
fn word(kind: u16, flags: u16, attributes: &[Vec<u8>]) -> Vec<u8> {
    message(kind, flags, &[vec![INET, 0, 0, 0], attributes.concat()].concat())
}

/// `chain NAME { type filter hook HOOK priority raw; policy drop; }`
fn chain(name: &str, hook: u32) -> Vec<u8> {
    let hook = nested(4, &[number(1, hook), attribute(2, &PRIORITY.to_be_bytes())]);
    let drop = number(5, 0);
    word(
        kind::NEW_CHAIN,
        ACK | CREATE,
        &[text(1, TABLE), text(3, name), hook, drop, text(7, "filter")],
    )
}

/// `meta mark 0xc114 accept`
fn pass_marked(chain: &str) -> Vec<u8> {
    let step = |name, data: &[Vec<u8>]| nested(1, &[text(1, name), nested(2, data)]);
    let load = step("meta", &[number(1, 1), number(2, 3)]);
    let mark = nested(3, &[attribute(1, &MARK.to_ne_bytes())]);
    let compare = step("cmp", &[number(1, 1), number(2, 0), mark]);
    let accept = nested(2, &[nested(2, &[number(1, 1)])]);
    let verdict = step("immediate", &[number(1, 0), accept]);
    let steps = nested(4, &[load, compare, verdict]);
    word(kind::NEW_RULE, ACK | CREATE, &[text(1, TABLE), text(2, chain), steps])
}
