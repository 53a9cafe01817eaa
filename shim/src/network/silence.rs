//! Silence: a table of netfilter's that drops what comes in before anybody looks at it, and what is to leave
//! (`include/uapi/linux/netfilter/nf_tables.h`). One transaction makes it, one takes it away. Another table of the same kind
//! drops only what a network's own processes say to each other: all of that comes in by loopback, to whichever of its addresses.
//!
//! CRIU restores a connection that one side has closed by sending itself the packet that did (`soccr`), with a mark of its own: that
//! passes, as it does in CRIU's own lock.

use std::io;

use godwit_netlink::{ACK, CREATE, Netlink, attribute, message, nested, number, text};

use super::Silence;

/// The tables' names: `nft list table inet godwit-silence`.
const WHOLE: &str = "godwit-silence";
const INWARD: &str = "godwit-inward-silence";
/// `SOCCR_MARK` of CRIU's `soccr/soccr.h`.
const MARK: u32 = 0xC114;
/// The chains: name and hook (`NF_INET_PRE_ROUTING`, `NF_INET_LOCAL_OUT`). Inward silence has the first alone: what is lost on its way is
/// sent again, what cannot leave is an error.
const CHAINS: [(&str, u32); 2] = [("in", 0), ("out", 3)];
/// Loopback has this number in every network namespace (`net/core/dev.c`, `LOOPBACK_IFINDEX`).
const LOOPBACK: u32 = 1;
/// `NF_IP_PRI_RAW`: before connections are tracked.
const PRIORITY: i32 = -300;
/// `NFPROTO_INET`: IPv4 and IPv6.
const INET: u8 = 1;

/// Message types of netfilter's subsystem for tables (10), and the ends of a transaction.
mod kind {
    use godwit_netlink::nf_tables::TABLES;

    pub(super) const NEW_TABLE: u16 = TABLES;
    pub(super) const GET_TABLE: u16 = TABLES + 1;
    pub(super) const DELETE_TABLE: u16 = TABLES + 2;
    pub(super) const NEW_CHAIN: u16 = TABLES + 3;
    pub(super) const NEW_RULE: u16 = TABLES + 6;
    pub(super) const BEGIN: u16 = 16;
    pub(super) const END: u16 = 17;
}

/// Whether the whole of it is silent.
pub(super) fn is_there(filter: &mut Netlink) -> io::Result<bool> {
    match filter.ask(&word(kind::GET_TABLE, ACK, &[text(1, WHOLE)]), 1) {
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(false),
        other => other.map(|()| true),
    }
}

/// From now on it is dropped. What is there already stays.
pub(super) fn begin(filter: &mut Netlink, silence: Silence) -> io::Result<()> {
    let new = |table| word(kind::NEW_TABLE, ACK | CREATE, &[text(1, table)]);
    let words = match silence {
        Silence::Whole => {
            let drop = CHAINS.map(|(name, hook)| chain(WHOLE, (name, hook), DROP));
            let pass = CHAINS.map(|(name, _)| rule(WHOLE, name, MARKED, ACCEPT));
            [vec![new(WHOLE)], drop.into(), pass.into()].concat()
        }
        Silence::Inward => {
            let [(name, hook), _] = CHAINS;
            let chain = chain(INWARD, (name, hook), ACCEPT);
            // A new rule goes before those that are there.
            let drop = rule(INWARD, name, BY_LOOPBACK, DROP);
            vec![new(INWARD), chain, drop, rule(INWARD, name, MARKED, ACCEPT)]
        }
    };
    transact(filter, words)
}

/// Nothing is dropped any more, if it was.
pub(super) fn end(filter: &mut Netlink) -> io::Result<()> {
    // Made first: a deletion of what is not there is undone, for which the kernel waits until no processor looks at the rules.
    let words = [WHOLE, INWARD].map(|table| {
        let name = [text(1, table)];
        [word(kind::NEW_TABLE, ACK | CREATE, &name), word(kind::DELETE_TABLE, ACK, &name)]
    });
    transact(filter, words.concat())
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

/// `NF_DROP`, `NF_ACCEPT`
const DROP: u32 = 0;
const ACCEPT: u32 = 1;

/// Of a packet (`NFT_META_MARK`, `NFT_META_IIF`), and what it is to be: both in the machine's order.
type Match = (u32, u32);
const MARKED: Match = (3, MARK);
const BY_LOOPBACK: Match = (4, LOOPBACK);

/// `chain NAME { type filter hook HOOK priority raw; policy POLICY; }`
fn chain(table: &str, (name, hook): (&str, u32), policy: u32) -> Vec<u8> {
    let hook = nested(4, &[number(1, hook), attribute(2, &PRIORITY.to_be_bytes())]);
    let policy = number(5, policy);
    word(
        kind::NEW_CHAIN,
        ACK | CREATE,
        &[text(1, table), text(3, name), hook, policy, text(7, "filter")],
    )
}

/// `meta KEY VALUE VERDICT`
fn rule(table: &str, chain: &str, (key, value): Match, verdict: u32) -> Vec<u8> {
    let step = |name, data: &[Vec<u8>]| nested(1, &[text(1, name), nested(2, data)]);
    let load = step("meta", &[number(1, 1), number(2, key)]);
    let value = nested(3, &[attribute(1, &value.to_ne_bytes())]);
    let compare = step("cmp", &[number(1, 1), number(2, 0), value]);
    let verdict = nested(2, &[nested(2, &[number(1, verdict)])]);
    let verdict = step("immediate", &[number(1, 0), verdict]);
    let steps = nested(4, &[load, compare, verdict]);
    word(kind::NEW_RULE, ACK | CREATE, &[text(1, table), text(2, chain), steps])
}
