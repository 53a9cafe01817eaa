//! Chains against specs: with filters that runc has made, and with what could be slipped in instead of them.

use super::abi::{Abi, is_young};
use super::profile::{Demand, demands};
use super::*;

const CONTAINERD: &str = include_str!("../../../tests/seccomp/containerd-2.4.json");
const RUNC: &[u8] = include_bytes!("../../../tests/seccomp/runc-1.3.6.bpf");
const OLD_RUNC: &[u8] = include_bytes!("../../../tests/seccomp/runc-1.1.5.bpf");
const ARM64: &[u8] = include_bytes!("../../../tests/seccomp/libseccomp-2.6.1-arm64.bpf");

/// Of `struct sock_filter`: code, jumps, operand.
type Instruction = (u16, u8, u8, u32);

const LOAD_NR: Instruction = (0x20, 0, 0, 0);
const LOAD_ARCH: Instruction = (0x20, 0, 0, 4);
const LAST_ARGUMENT: Instruction = (0x20, 0, 0, 56);
const ALLOW: Instruction = (0x06, 0, 0, 0x7fff_0000);
const DENY: Instruction = (0x06, 0, 0, 0x0005_0001);

/// On to what follows if the loaded word is this, else over as many instructions.
const fn only_if(word: u32, over: u8) -> Instruction {
    (0x15, 0, over, word)
}

fn program(instructions: &[Instruction]) -> Vec<u8> {
    let bytes = |(code, jt, jf, k): &Instruction| {
        let (code, k) = (code.to_le_bytes(), k.to_le_bytes());
        [code[0], code[1], *jt, *jf, k[0], k[1], k[2], k[3]]
    };
    instructions.iter().flat_map(bytes).collect()
}

/// These instructions, then a whole program.
fn before(instructions: &[Instruction], rest: &[u8]) -> Vec<u8> {
    [program(instructions).as_slice(), rest].concat()
}

fn filter(program: &[u8], prev: Option<u32>) -> SeccompFilter {
    SeccompFilter { filter: program.to_vec(), prev, flags: Some(0) }
}

fn containerd() -> LinuxSeccomp {
    serde_json::from_str(CONTAINERD).unwrap()
}

/// As containerd has it on arm64.
fn containerd_on_arm64() -> LinuxSeccomp {
    let names = r#""arm_fadvise64_64","arm_sync_file_range","sync_file_range2","breakpoint","cacheflush","set_tls""#;
    let arches = r#""SCMP_ARCH_ARM","SCMP_ARCH_AARCH64""#;
    let mut spec = CONTAINERD.replacen(r#""SCMP_ARCH_X86_64""#, arches, 1);
    for (old, new) in [
        (r#""SCMP_ARCH_X86","#, ""),
        (r#""SCMP_ARCH_X32""#, ""),
        (r#""modify_ldt""#, ""),
        (r#""arch_prctl","#, names),
    ] {
        assert_eq!(spec.matches(old).count(), 1, "{old}");
        spec = spec.replacen(old, new, 1);
    }
    let spec = spec.replacen(&format!("{arches},"), arches, 1);
    serde_json::from_str(&spec).unwrap()
}

fn spec(default: &str, rules: &[(&str, &str)]) -> LinuxSeccomp {
    let rule =
        |(name, action): &(&str, &str)| serde_json::json!({"names": [name], "action": action});
    let rules: Vec<_> = rules.iter().map(rule).collect();
    serde_json::from_value(serde_json::json!({
        "defaultAction": default,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": rules,
    }))
    .unwrap()
}

fn rows(filters: &[SeccompFilter], spec: &LinuxSeccomp) -> Rows {
    Rows::read(filters, demands(spec, Machine::X86_64)).unwrap()
}

/// What the row that begins with the last of these allows and the spec does not.
fn excess(filters: &[SeccompFilter], spec: &LinuxSeccomp) -> Option<String> {
    let excess = rows(filters, spec).excess(filters.len() - 1).unwrap();
    excess.map(|what| what.to_string())
}

fn excess_of(program: &[u8], spec: &LinuxSeccomp) -> Option<String> {
    excess(&[filter(program, None)], spec)
}

fn reason(filters: &[SeccompFilter]) -> String {
    match Chains::of(filters, &containerd(), Machine::X86_64) {
        Err(Error::Image { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

fn names(demands: &[Demand], abi: Abi) -> Vec<&'static str> {
    let name = |demand: &Demand| match demand.what {
        What::Call(of, _, name) if of == abi => name,
        _ => None,
    };
    demands.iter().filter_map(name).collect()
}

#[test]
fn what_runc_makes_of_a_profile_passes_that_profile() {
    assert_eq!(excess_of(RUNC, &containerd()), None);
    assert_eq!(excess_of(OLD_RUNC, &containerd()), None);
    let asked = demands(&containerd_on_arm64(), Machine::Aarch64);
    assert!(names(&asked, Abi::Aarch64).len() > 20 && names(&asked, Abi::Arm).len() > 20);
    let mut arm64 = Rows::read(&[filter(ARM64, None)], asked).unwrap();
    assert_eq!(arm64.excess(0).unwrap(), None);
    // Much was asked: more than 20 calls of each of three architectures have names and are denied.
    let asked = demands(&containerd(), Machine::X86_64);
    for abi in [Abi::X86_64, Abi::X86, Abi::X32] {
        let names = names(&asked, abi);
        assert!(names.len() > 20 && names.contains(&"mount") && !names.contains(&"clone"));
    }
}

#[test]
fn every_call_that_the_spec_allows_no_more_is_found_by_its_name() {
    let full = containerd();
    let allowed = full.syscalls().as_ref().unwrap()[0].names().clone();
    let calls = [Abi::X86_64, Abi::X86, Abi::X32].map(Abi::calls);
    let there = |name: &String| calls.iter().any(|table| table.values().any(|call| call == name));
    for name in allowed.iter().filter(|name| there(name)) {
        let mut spec = full.clone();
        let mut rules = spec.syscalls().clone().unwrap();
        rules[0].set_names(allowed.iter().filter(|other| *other != name).cloned().collect());
        spec.set_syscalls(Some(rules));
        // What remains allowed by name is a part of these two.
        let multiplexed = ["socketcall", "ipc"].contains(&name.as_str());
        let numbers = calls.iter().flatten().filter(|(_, call)| *call == name);
        let young = numbers.into_iter().all(|(nr, call)| is_young(*nr, call));
        let found = excess_of(RUNC, &spec);
        assert_eq!(found.is_none(), multiplexed || young, "{name}");
        if let Some(found) = found {
            assert!(found.starts_with(&format!("the system call {name} of ")), "{name}: {found}");
        }
    }
}

#[test]
fn one_call_more_is_refused_by_its_name() {
    let hole = before(&[LOAD_NR, only_if(165, 1), ALLOW], RUNC);
    assert_eq!(excess_of(&hole, &containerd()).unwrap(), "the system call mount of x86-64");
    let x32 = before(&[LOAD_NR, only_if(0x4000_0000 | 528, 1), ALLOW], RUNC);
    assert_eq!(excess_of(&x32, &containerd()).unwrap(), "the system call kexec_load of x32");
    let i386 = [LOAD_ARCH, only_if(0x4000_0003, 3), LOAD_NR, only_if(21, 1), ALLOW];
    let i386 = before(&i386, RUNC);
    assert_eq!(excess_of(&i386, &containerd()).unwrap(), "the system call mount of 32-bit x86");
    let unnamed = before(&[LOAD_NR, only_if(900, 1), ALLOW], RUNC);
    assert_eq!(excess_of(&unnamed, &containerd()).unwrap(), "system call number 900 of x86-64");
}

#[test]
fn a_call_that_only_a_magic_argument_opens_is_refused() {
    let hole = [LOAD_NR, only_if(165, 3), LAST_ARGUMENT, only_if(0x1234_5678, 1), ALLOW];
    let hole = before(&hole, RUNC);
    assert_eq!(excess_of(&hole, &containerd()).unwrap(), "the system call mount of x86-64");
}

#[test]
fn answers_that_somebody_else_could_turn_into_a_yes_are_refused() {
    assert!(excess_of(&program(&[ALLOW]), &containerd()).is_some());
    // Logged; asked of a tracer; asked of a listener.
    for answer in [0x7ffc_0000, 0x7ff0_0000, 0x7fc0_0000] {
        assert!(excess_of(&program(&[(0x06, 0, 0, answer)]), &containerd()).is_some());
    }
    // An error, a signal, death of the thread, of the process.
    for answer in [0x0005_0026, 0x0003_0000, 0, 0x8000_0000] {
        assert_eq!(excess_of(&program(&[(0x06, 0, 0, answer)]), &containerd()), None);
    }
    let traced = spec("SCMP_ACT_TRACE", &[]);
    assert_eq!(excess_of(&program(&[(0x06, 0, 0, 0x7ff0_0000)]), &traced), None);
    assert!(excess_of(&program(&[(0x06, 0, 0, 0x7ffc_0000)]), &traced).is_some());
}

#[test]
fn the_strictest_filter_of_a_chain_decides() {
    let lax = program(&[ALLOW]);
    let chain = |a: &[u8], b: &[u8]| [filter(a, None), filter(b, Some(0))];
    assert_eq!(excess(&chain(&lax, RUNC), &containerd()), None);
    assert_eq!(excess(&chain(RUNC, &lax), &containerd()), None);
    assert!(excess(&chain(&lax, &lax), &containerd()).is_some());
    // Two that have a hole each, in other places, have none together; in the same place, they have.
    let hole = |nr| before(&[LOAD_NR, only_if(nr, 1), ALLOW], RUNC);
    assert_eq!(excess(&chain(&hole(165), &hole(166)), &containerd()), None);
    assert!(excess(&chain(&hole(165), &hole(165)), &containerd()).is_some());
    // Filters of others do not count.
    let mut apart = rows(&[filter(&lax, None), filter(RUNC, None)], &containerd());
    assert!(apart.excess(0).unwrap().is_some());
    assert_eq!(apart.excess(1).unwrap(), None);
}

#[test]
fn an_architecture_that_the_spec_does_not_list_is_refused() {
    let mut only_native = containerd();
    only_native.set_architectures(Some(vec![]));
    assert_eq!(excess_of(RUNC, &only_native).unwrap(), "system calls of 32-bit x86");
    let kill = (0x06, 0, 0, 0);
    let no_i386 = before(&[LOAD_ARCH, only_if(0x4000_0003, 1), kill], RUNC);
    assert_eq!(excess_of(&no_i386, &only_native).unwrap(), "system calls of x32");
    let no_x32 = before(&[LOAD_NR, (0x45, 0, 1, 0x4000_0000), kill], &no_i386);
    assert_eq!(excess_of(&no_x32, &only_native), None);
}

#[test]
fn rules_with_conditions_and_rules_for_one_name_twice_are_not_taken_too_strictly() {
    let asked = |rules: &str| {
        let json = format!(r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{rules}]}}"#);
        let demands = demands(&serde_json::from_str(&json).unwrap(), Machine::X86_64);
        names(&demands, Abi::X86_64).contains(&"mount")
    };
    let rule = |action: &str, args: &str| {
        format!(r#"{{"names":["mount"],"action":"{action}","args":[{args}]}}"#)
    };
    let (deny, allow) = (rule("SCMP_ACT_KILL", ""), rule("SCMP_ACT_ALLOW", ""));
    let sometimes = rule("SCMP_ACT_ALLOW", r#"{"index":0,"value":1,"op":"SCMP_CMP_EQ"}"#);
    assert!(asked("") && asked(&deny));
    assert!(!asked(&allow) && !asked(&sometimes));
    assert!(!asked(&format!("{deny},{allow}")) && !asked(&format!("{allow},{deny}")));
    assert!(!asked(&format!("{deny},{sometimes}")) && !asked(&format!("{sometimes},{deny}")));
}

#[test]
fn a_rule_that_an_old_libseccomp_did_not_know_is_not_missed() {
    let all = program(&[ALLOW]);
    let denied = |name| {
        let spec = spec("SCMP_ACT_ALLOW", &[(name, "SCMP_ACT_ERRNO")]);
        names(&demands(&spec, Machine::X86_64), Abi::X86_64)
    };
    assert_eq!(denied("mount"), ["mount"]);
    assert_eq!(denied("close_range"), [""; 0]);
    assert_eq!(denied("mseal"), [""; 0]);
    let spec = spec("SCMP_ACT_ALLOW", &[("mount", "SCMP_ACT_ERRNO"), ("mseal", "SCMP_ACT_ERRNO")]);
    assert!(excess_of(&all, &spec).is_some());
    assert!(is_young(462, "mseal") && !is_young(439, "faccessat2") && !is_young(545, "execveat"));
}

#[test]
fn a_name_that_is_not_known_here_may_be_any_number() {
    let numbers = |rules: &[(&str, &str)]| {
        let demands = demands(&spec("SCMP_ACT_ERRNO", rules), Machine::X86_64);
        demands.iter().filter(|d| matches!(d.what, What::Call(_, _, None))).count()
    };
    assert!(numbers(&[]) > 1000);
    assert_eq!(numbers(&[("a_call_of_linux_9", "SCMP_ACT_ALLOW")]), 0);
    assert_eq!(numbers(&[("a_call_of_linux_9", "SCMP_ACT_ERRNO")]), numbers(&[]));
}

#[test]
fn names_and_numbers_are_libseccomps() {
    let calls = |abi: Abi, nr| abi.calls().get(&nr).copied();
    assert_eq!(calls(Abi::X86_64, 165), Some("mount"));
    assert_eq!(calls(Abi::X86, 17), Some("break"));
    assert_eq!(calls(Abi::X32, 13), None);
    assert_eq!(calls(Abi::X32, 512), Some("rt_sigaction"));
    assert_eq!(calls(Abi::X32, 547), Some("pwritev2"));
    assert_eq!(calls(Abi::X32, 134), None);
    assert_eq!(calls(Abi::Aarch64, 79), Some("newfstatat"));
    assert_eq!(calls(Abi::Aarch64, 403), None);
    assert_eq!(calls(Abi::Arm, 403), Some("clock_gettime64"));
}

#[test]
fn what_the_kernel_would_not_take_is_refused() {
    let long = vec![ALLOW; 4097];
    for (malformed, why) in [
        (vec![], "no instruction"),
        (program(&long), "more than 4096"),
        (program(&[ALLOW])[..7].to_vec(), "within an instruction"),
        (program(&[LOAD_NR]), "does not end by returning"),
        (program(&[(0x05, 0, 0, 1), ALLOW]), "beyond its end"),
        (program(&[(0x05, 0, 0, u32::MAX), ALLOW]), "beyond its end"),
        (program(&[only_if(1, 1), ALLOW]), "beyond its end"),
        (program(&[(0x20, 0, 0, 64), ALLOW]), "outside of the system call"),
        (program(&[(0x20, 0, 0, 2), ALLOW]), "outside of the system call"),
        (program(&[(0x60, 0, 0, 3), ALLOW]), "has not written"),
        (program(&[(0x02, 0, 0, 16), ALLOW]), "no such memory"),
        (program(&[(0x34, 0, 0, 0), ALLOW]), "by zero"),
        (program(&[(0x64, 0, 0, 32), ALLOW]), "more than a word"),
        // A byte of a packet, a remainder, an unknown code.
        (program(&[(0x30, 0, 0, 0), ALLOW]), "no filter may have"),
        (program(&[(0x94, 0, 0, 3), ALLOW]), "no filter may have"),
        (program(&[(0xffff, 0, 0, 0), ALLOW]), "no filter may have"),
    ] {
        let told = reason(&[filter(RUNC, None), filter(&malformed, None)]);
        assert!(told.starts_with("filter 1 cannot be vetted") && told.contains(why), "{told}");
    }
}

#[test]
fn chains_that_criu_does_not_write_are_refused() {
    assert!(reason(&[filter(RUNC, Some(0))]).contains("no end"));
    assert!(reason(&[filter(RUNC, Some(1)), filter(RUNC, None)]).contains("no end"));
    let listened = SeccompFilter { flags: Some(1 << 3), ..filter(RUNC, None) };
    assert!(reason(&[listened]).contains("listener"));
    let half = program(&vec![DENY; 4096]);
    let row: Vec<_> = (0..8u32).map(|at| filter(&half, at.checked_sub(1))).collect();
    assert!(reason(&row).contains("more instructions"));
    assert_eq!(excess(&row[..7], &containerd()), None);
}

#[test]
fn filters_that_take_too_long_to_judge_are_refused() {
    let slow = |at: u32| {
        let mut instructions = vec![(0x04, 0, 0, at); 4095];
        instructions.push(ALLOW);
        filter(&program(&instructions), None)
    };
    let filters: Vec<_> = (0..64).map(slow).collect();
    let mut many = rows(&filters, &containerd());
    let judged = (0..64).map(|at| many.excess(at)).find(Result::is_err);
    assert!(judged.unwrap().unwrap_err().to_string().contains("more filters"));
    // Copies cost nothing, nor does what is installed after runc's.
    let mut copies = rows(&vec![filters[0].clone(); 10_000], &containerd());
    assert!((0..10_000).all(|at| copies.excess(at).unwrap().is_some()));
    let runc = |at| filter(RUNC, Some(at));
    let after: Vec<_> = filters.iter().cloned().chain((0..64).map(runc)).collect();
    let mut after = rows(&after, &containerd());
    assert!((64..128).all(|at| after.excess(at).unwrap().is_none()));
}

#[test]
fn threads_pass_without_a_filter_only_where_criu_gives_them_their_leaders() {
    let leader = |index| ThreadCore {
        seccomp_mode: Some(SeccompMode::Filter.into()),
        seccomp_filter: Some(index),
        ..ThreadCore::default()
    };
    let synced = |a, b| {
        let flagged = |flags, prev| SeccompFilter { flags, ..filter(RUNC, prev) };
        let filters = [flagged(a, None), flagged(b, Some(0))];
        Chains::of(&filters, &containerd(), Machine::X86_64).unwrap().are_synced(&leader(1))
    };
    assert!(synced(Some(1), Some(1)));
    assert!(!synced(None, Some(1)));
    assert!(!synced(Some(1), None));
    let mut chains = Chains::of(&[filter(RUNC, None)], &containerd(), Machine::X86_64).unwrap();
    assert!(!chains.are_synced(&leader(1)) && !chains.are_synced(&ThreadCore::default()));
    let none = ThreadCore::default();
    assert_eq!(chains.check(7, &Core::default(), &none, true).unwrap(), None);
    let refused = Some(Refusal::Seccomp { pid: 7 });
    assert_eq!(chains.check(7, &Core::default(), &none, false).unwrap(), refused);
    assert_eq!(chains.check(7, &Core::default(), &leader(1), false).unwrap(), refused);
    assert_eq!(chains.check(7, &Core::default(), &leader(0), false).unwrap(), None);
}

#[test]
fn a_refusal_names_the_process_and_the_call() {
    let hole = before(&[LOAD_NR, only_if(165, 1), ALLOW], RUNC);
    let mut chains = Chains::of(&[filter(&hole, None)], &containerd(), Machine::X86_64).unwrap();
    let thread = ThreadCore {
        seccomp_mode: Some(SeccompMode::Filter.into()),
        seccomp_filter: Some(0),
        ..ThreadCore::default()
    };
    let refusal = chains.check(7, &Core::default(), &thread, false).unwrap().unwrap();
    assert!(refusal.to_string().starts_with(
        "process 7 of the checkpoint has seccomp filters that allow the system call mount of x86-64, which the container's spec denies"
    ));
}

#[test]
fn the_fields_of_an_old_criu_cannot_take_the_place_of_what_was_vetted() {
    let mut chains = Chains::of(&[filter(RUNC, None)], &containerd(), Machine::X86_64).unwrap();
    for tc in [
        TaskCore { old_seccomp_mode: Some(0), ..TaskCore::default() },
        TaskCore { old_seccomp_filter: Some(0), ..TaskCore::default() },
    ] {
        let core = Core { tc: Some(tc), ..Core::default() };
        let refused = chains.check(7, &core, &ThreadCore::default(), true);
        assert!(matches!(refused, Err(Error::Image { .. })));
    }
}
