use godwit_ownership::state::Points;
use godwit_types::{Incarnation, Owner};

use super::*;

const PLAN: &str = r#"{"version":1,"mounts":[
    {"mountpoint":"/data","fs":"ext4","super_options":[],"read_only":false,"role":{"type":"bind"}},
    {"mountpoint":"/conf","fs":"ext4","super_options":[],"read_only":true,"role":{"type":"bind"}},
    {"mountpoint":"/etc/hosts","fs":"ext4","super_options":[],"read_only":false,"role":{"type":"bind"}}]}"#;

fn spec(data: &str) -> Spec {
    let json = format!(
        r#"{{"ociVersion":"1.2.0","mounts":[
            {{"destination":"/data","type":"bind","source":"{data}","options":["rbind"]}},
            {{"destination":"/conf","type":"bind","source":"/srv/c","options":["rbind","ro"]}},
            {{"destination":"/etc/hosts","type":"bind","source":"/h","options":["rbind"]}}]}}"#
    );
    serde_json::from_str(&json).unwrap()
}

fn recorded(outcome: Outcome) -> Vec<Volume> {
    of(&MountPlan::decode(PLAN.as_bytes()).unwrap(), &spec("/srv/d"), outcome)
}

fn stopped(checkpoint: CheckpointId) -> State {
    State::Stopped { owner: owner(), checkpoint, good: Points::default() }
}

fn owner() -> Owner {
    Owner {
        cluster: "_none".to_owned(),
        node: "n1".to_owned(),
        epoch: 0,
        pod_uid: "default+web".to_owned(),
        incarnation: Incarnation::from(1),
    }
}

fn identity(node: &str) -> NodeIdentity {
    NodeIdentity { cluster: "_none".to_owned(), node: node.to_owned(), epoch: 0 }
}

/// A restore on n1 of what was stopped there, changed by `change`.
fn start(
    outcome: Outcome,
    change: impl for<'a> FnOnce(&mut Start<'a>, &'a Others),
) -> Result<(), VolumeRefusal> {
    let (cluster, node) = ("_none".to_owned(), "n1".to_owned());
    let (pod, uid) = ("web".to_owned(), "default+web".to_owned());
    let (source, here, spec) = (Source { cluster, node, pod, uid }, identity("n1"), spec("/srv/d"));
    let checkpoint = CheckpointId::mint();
    let (lineage, others) = (stopped(checkpoint), Others::new());
    let mut start = Start {
        checkpoint,
        source: &source,
        node: &here,
        spec: &spec,
        cared_for: "",
        fork: false,
        lineage: &lineage,
    };
    change(&mut start, &others);
    check(start, &recorded(outcome))
}

/// What a start may meet.
struct Others {
    node: NodeIdentity,
    spec: Spec,
    newer: State,
    running: State,
}

impl Others {
    fn new() -> Self {
        let running = State::Owned { owner: owner(), restored: None, good: Points::default() };
        Self {
            node: identity("n2"),
            spec: spec("/srv/other"),
            newer: stopped(CheckpointId::mint()),
            running,
        }
    }
}

#[test]
fn only_what_can_be_written_and_is_not_the_runtimes_is_recorded() {
    let [volume] = recorded(Outcome::Run).try_into().unwrap();
    let expected = Volume {
        name: "/data".to_owned(),
        path: Some("/srv/d".to_owned()),
        claim_uid: None,
        mode: VolumeMode::ReadWrite,
        snapshot: None,
        diverged: true,
    };
    assert_eq!(volume, expected);
    assert!(!recorded(Outcome::Stop)[0].diverged);
}

#[test]
fn what_was_stopped_is_continued_where_its_files_are() {
    assert_eq!(start(Outcome::Stop, |_, _| {}), Ok(()));
}

#[test]
fn memory_never_meets_other_files() {
    let refused = |outcome, change: for<'a> fn(&mut Start<'a>, &'a Others)| {
        let refusal = start(outcome, change).unwrap_err();
        assert!(refusal.to_string().contains("--annotation godwit.dev/volumes=/data"), "{refusal}");
        let cared_for = start(outcome, |s, others| {
            change(s, others);
            s.cared_for = "/other, /data/";
        });
        assert_eq!(cared_for, Ok(()));
        refusal
    };
    use VolumeRefusal::{Changed, Diverged, Elsewhere, Fork};
    assert!(matches!(refused(Outcome::Stop, |s, _| s.fork = true), Fork { .. }));
    assert!(matches!(refused(Outcome::Run, |_, _| {}), Diverged { .. }));
    assert!(matches!(refused(Outcome::Stop, |s, o| s.lineage = &o.newer), Diverged { .. }));
    assert!(matches!(refused(Outcome::Stop, |s, o| s.lineage = &o.running), Diverged { .. }));
    assert!(matches!(refused(Outcome::Stop, |s, o| s.node = &o.node), Elsewhere { .. }));
    assert!(matches!(refused(Outcome::Stop, |s, o| s.spec = &o.spec), Changed { .. }));
}
