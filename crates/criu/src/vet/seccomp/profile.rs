//! What a spec's `linux.seccomp` forbids whatever the arguments, as questions to a filter.
//!
//! The spec means what runc makes of it with libseccomp, of any version in use: what a filter of theirs may allow is not
//! asked about. Rules with conditions are not judged at all.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSyscall};

use super::abi::{self, Abi, MULTIPLEXED, Machine, NUMBERS};
use super::bpf::{Action, Call};

/// One thing that the spec forbids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Demand {
    /// For this call …
    pub(super) call: Call,
    /// … a filter may answer nothing laxer.
    pub(super) most: Action,
    /// What a person calls it.
    pub(super) what: What,
}

/// What is forbidden.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// A system call, by its name if it has one.
    Call(Abi, u32, Option<&'static str>),
    /// All calls of an architecture.
    Abi(Abi),
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call(abi, _, Some(name)) => write!(f, "the system call {name} of {}", abi.name()),
            Self::Call(abi, nr, None) => write!(f, "system call number {nr} of {}", abi.name()),
            Self::Abi(abi) => write!(f, "system calls of {}", abi.name()),
        }
    }
}

/// All that the spec forbids on this machine.
pub(super) fn demands(spec: &LinuxSeccomp, machine: Machine) -> Vec<Demand> {
    let profile = Profile::of(spec);
    let (listed, others): (Vec<Abi>, Vec<Abi>) =
        machine.abis().iter().partition(|abi| is_listed(**abi, spec, machine));
    let of_listed = listed.into_iter().flat_map(|abi| profile.of_listed(abi, machine));
    of_listed.chain(others.into_iter().flat_map(of_unlisted)).collect()
}

fn is_listed(abi: Abi, spec: &LinuxSeccomp, machine: Machine) -> bool {
    let mut listed = spec.architectures().iter().flatten();
    machine.abis().first() == Some(&abi) || listed.any(|arch: &Arch| *arch == abi.listed())
}

/// libseccomp kills for architectures that it was not told of.
fn of_unlisted(abi: Abi) -> Vec<Demand> {
    let numbers: Vec<Option<u32>> =
        if abi.shares_architecture() { (0..NUMBERS).map(Some).collect() } else { vec![None] };
    let demand = |nr| demand(abi, nr, Action::ERRNO, What::Abi(abi));
    numbers.into_iter().filter_map(demand).collect()
}

fn demand(abi: Abi, nr: Option<u32>, most: Action, what: What) -> Option<Demand> {
    let call = Call { arch: abi.audit_arch(), nr: nr.map(|nr| abi.seen(nr)) };
    (most < Action::LOG).then_some(Demand { call, most, what })
}

/// What the rules say of one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// The same for all arguments: the laxest of its rules. (libseccomp takes the first of them, runc leaves out some.)
    Always(Action),
    /// It depends.
    Sometimes,
}

#[derive(Debug)]
struct Profile<'a> {
    default: Action,
    rules: BTreeMap<&'a str, Rule>,
    /// Every name that it allows is in our tables. If one is not, any number that has no name there may be it.
    complete: bool,
}

impl<'a> Profile<'a> {
    fn of(spec: &'a LinuxSeccomp) -> Self {
        let mut rules: BTreeMap<&str, Rule> = BTreeMap::new();
        for syscall in spec.syscalls().iter().flatten() {
            let rule = rule(syscall);
            for name in syscall.names() {
                let laxer = |there: &mut Rule| *there = there.with(rule);
                rules.entry(name).and_modify(laxer).or_insert(rule);
            }
        }
        let default = most(spec.default_action());
        let tables = [Abi::X86_64, Abi::X86, Abi::Aarch64, Abi::Arm].map(Abi::calls);
        let known: BTreeSet<&str> =
            tables.iter().flat_map(|calls| calls.values().copied()).collect();
        let harmless = |rule: &Rule| matches!(rule, Rule::Always(most) if *most <= default);
        let complete = rules.iter().all(|(name, rule)| known.contains(name) || harmless(rule));
        Self { default, rules, complete }
    }

    fn of_listed(&self, abi: Abi, machine: Machine) -> Vec<Demand> {
        let calls = abi.calls();
        // A number that will mean the same everywhere, once it is there.
        let own = machine.abis().first().map(|abi| abi.calls()).unwrap_or_default();
        let elsewhere = |nr: &u32| own.get(nr).filter(|_| *nr >= abi::UNIFIED);
        let demand = |nr| {
            let name = calls.get(&nr).copied();
            let most = match name.or_else(|| elsewhere(&nr).copied()) {
                Some(name) => self.of_call(abi, nr, name)?,
                None if self.complete => self.default,
                None => return None,
            };
            demand(abi, Some(nr), most, What::Call(abi, nr, name))
        };
        (0..NUMBERS).filter_map(demand).collect()
    }

    /// The laxest action that a filter made from the spec may have for this call; `None`: that is not known.
    fn of_call(&self, abi: Abi, nr: u32, name: &str) -> Option<Action> {
        if abi == Abi::X86 && self.is_partly_allowed(name) {
            return None;
        }
        let is_young = abi::is_young(nr, name);
        match self.rules.get(name) {
            // A younger version of the same profile may have a rule for it, and its pods are not to be lost on an older node.
            None if is_young => None,
            None => Some(self.default),
            Some(Rule::Sometimes) => None,
            Some(Rule::Always(most)) if is_young => Some(self.default.max(*most)),
            Some(Rule::Always(most)) => Some(*most),
        }
    }

    /// Whether rules for calls that have numbers of their own allow something of this one, too.
    fn is_partly_allowed(&self, name: &str) -> bool {
        let members = MULTIPLEXED.iter().find(|(number, _)| *number == name);
        let rules = members.into_iter().flat_map(|(_, all)| *all).filter_map(|m| self.rules.get(m));
        rules.into_iter().any(|rule| !matches!(rule, Rule::Always(Action::ERRNO)))
    }
}

fn rule(syscall: &LinuxSyscall) -> Rule {
    if syscall.args().as_ref().is_some_and(|args| !args.is_empty()) {
        return Rule::Sometimes;
    }
    Rule::Always(most(syscall.action()))
}

impl Rule {
    fn with(self, other: Self) -> Self {
        match (self, other) {
            (Self::Always(a), Self::Always(b)) => Self::Always(a.max(b)),
            _ => Self::Sometimes,
        }
    }
}

/// The laxest answer that keeps to an action. All that deny are one: a process gains nothing by another of them. A tracer or
/// a listener can let a call pass, so these are none of them.
fn most(action: LinuxSeccompAction) -> Action {
    match action {
        LinuxSeccompAction::ScmpActKill
        | LinuxSeccompAction::ScmpActKillThread
        | LinuxSeccompAction::ScmpActKillProcess
        | LinuxSeccompAction::ScmpActTrap
        | LinuxSeccompAction::ScmpActErrno => Action::ERRNO,
        LinuxSeccompAction::ScmpActNotify => Action::USER_NOTIF,
        LinuxSeccompAction::ScmpActTrace => Action::TRACE,
        LinuxSeccompAction::ScmpActLog => Action::LOG,
        LinuxSeccompAction::ScmpActAllow => Action::ALLOW,
    }
}
