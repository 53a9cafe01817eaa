//! Each fault is told with what to do.

use godwit_wire::api::{PodStatus, StoreSpeed};

use super::*;

fn status() -> AgentStatus {
    AgentStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        node: "n1".to_owned(),
        criu: "/usr/sbin/criu 4.2".to_owned(),
        stores: vec![],
        pods: vec![],
        operations: vec![],
        restored: vec![],
        budget: (0, 2 << 30),
    }
}

/// It is of this kind, and tells that.
fn is(verdict: &Verdict, word: &str, says: &str) {
    assert!(verdict.word() == word && verdict.told().contains(says), "{verdict:?}");
}

#[test]
fn an_agent_that_is_away_or_of_another_release_is_told_how_it_comes_back() {
    let away = Err("cannot connect".to_owned());
    is(&answers(&away, false, InitKind::Systemd), "bad", "systemctl start godwit-agent");
    is(&answers(&away, false, InitKind::None), "bad", "godwit-agent --config");
    let old = AgentStatus { version: "0.0.1".to_owned(), ..status() };
    is(&answers(&Ok(old), true, InitKind::None), "bad", "godwit-install node");
    is(&answers(&Ok(status()), false, InitKind::Systemd), "limited", "systemctl restart");
    is(&answers(&Ok(status()), true, InitKind::Systemd), "good", "answers on n1");
}

#[test]
fn a_shim_that_does_not_answer_is_named() {
    let pod = |fence: &str| PodStatus {
        pod: "default+web".to_owned(),
        lineage: String::new(),
        fence: fence.to_owned(),
        shim: "running".to_owned(),
    };
    let with = |pods| AgentStatus { pods, ..status() };
    is(&shims(&with(vec![pod("none")])), "good", "1 answer");
    is(&shims(&with(vec![pod("none"), pod("unknown")])), "limited", "default+web");
}

#[test]
fn memory_and_disk_are_compared_with_what_is_asked_for() {
    is(&memory(Some(Bytes(3 << 30)), (0, 2 << 30)), "good", "available");
    is(&memory(Some(Bytes(1 << 30)), (0, 2 << 30)), "limited", "memory_budget");
    is(&memory(Some(Bytes(1 << 30)), (3 << 29, 2 << 30)), "good", "512");
    is(&memory(None, (0, 1)), "unknown", "/proc/meminfo");
    is(&state_disk(1 << 30), "good", "/var/lib/godwit");
    is(&state_disk(1 << 20), "bad", "make room");
}

#[test]
fn a_store_is_tried_and_its_clock_compared() {
    let main = StoreDiagnosis {
        name: "main".to_owned(),
        url: "file:///s".to_owned(),
        fault: None,
        ahead_ms: Some(0),
        speed: Some(StoreSpeed { written: 100 << 20, read: 200 << 20 }),
    };
    let tried = |one: StoreDiagnosis, free| store(&one, free, Bytes(2 << 30));
    is(&tried(main.clone(), None), "good", "main at file:///s");
    is(&tried(main.clone(), None), "good", "writes 100 MiB/s and reads 200 MiB/s");
    let fault = Some("it does not answer".to_owned());
    is(&tried(StoreDiagnosis { fault, ..main.clone() }, None), "bad", "it does not answer");
    let fast = StoreDiagnosis { ahead_ms: Some(90_000), ..main.clone() };
    is(&tried(fast, None), "limited", "90 s ahead of");
    let slow = StoreDiagnosis { ahead_ms: Some(-9_000), ..main.clone() };
    is(&tried(slow, None), "limited", "9 s behind");
    is(&tried(main, Some(Bytes(1 << 30))), "limited", "make room");
}

#[test]
fn what_an_api_server_says_is_told_apart() {
    let with = |answer| ClusterDiagnosis {
        node: "a1".to_owned(),
        answer,
        away_since: Some("2026-11-22T12:00:00Z".to_owned()),
    };
    let knows = |labelled, ready: Option<&str>, denied: &[&str]| ClusterAnswer::Knows {
        labelled,
        ready: ready.map(str::to_owned),
        denied: denied.iter().map(|text| (*text).to_owned()).collect(),
    };
    is(&cluster(None), "unknown", "[kubernetes]");
    let away = ClusterAnswer::Away { why: "refused".to_owned() };
    is(&cluster(Some(&with(away))), "limited", "since 2026-11-22T12:00:00Z");
    let refuses = ClusterAnswer::Refuses { why: "Unauthorized".to_owned() };
    is(&cluster(Some(&with(refuses))), "bad", "Unauthorized");
    let cases = [
        (knows(true, Some("True"), &["patch pods"]), "bad", "patch pods"),
        (knows(false, Some("True"), &[]), "limited", "no label"),
        (knows(true, Some("False: store main: away"), &[]), "limited", "store main: away"),
        (knows(true, None, &[]), "limited", "not yet"),
        (knows(true, Some("True"), &[]), "good", "a1"),
    ];
    for (answer, word, says) in cases {
        is(&cluster(Some(&with(answer))), word, says);
    }
}

#[test]
fn the_newest_failures_are_shown() {
    assert_eq!(failures(&[]).word(), "good");
    let one = |n: u32| PastFailure {
        at: "2026-11-22T12:00:00Z".to_owned(),
        kind: "checkpoint".to_owned(),
        pod: "default+web".to_owned(),
        told: format!("reason {n}"),
    };
    let many: Vec<_> = (0..5).map(one).collect();
    let verdict = failures(&many);
    is(&verdict, "limited", "5 since");
    assert!(verdict.told().contains("reason 2") && !verdict.told().contains("reason 3"));
}

#[test]
fn what_cannot_be_asked_says_why() {
    let findings = unseen("the agent does not answer");
    assert!(findings.iter().all(|one| one.verdict.word() == "unknown"));
    assert!(findings.iter().any(|one| one.subject == "store"));
    assert!(available().is_some(), "this machine has a /proc/meminfo");
}
