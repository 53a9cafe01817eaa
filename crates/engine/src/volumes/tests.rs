use godwit_ownership::state::StoppedTasks;

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
    of(&MountPlan::decode(PLAN.as_bytes()).unwrap(), "web", &spec("/srv/d"), outcome)
}

fn stopped(checkpoint: CheckpointId) -> Kind {
    Kind::Stop { checkpoint, tasks: StoppedTasks::Sealed }
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
    let (source, here, spec) =
        (Source { cluster, node, pod, uid, template: None }, identity("n1"), spec("/srv/d"));
    let checkpoint = CheckpointId::mint();
    let (newest, others) = (stopped(checkpoint), Others::new(checkpoint));
    let mut start = Start {
        checkpoint,
        source: &source,
        node: &here,
        container: "web",
        spec: &spec,
        cared_for: "",
        fork: false,
        newest: Some(&newest),
    };
    change(&mut start, &others);
    check(start, &recorded(outcome))
}

/// What a start may meet.
struct Others {
    node: NodeIdentity,
    spec: Spec,
    newer: Kind,
    died: Kind,
}

impl Others {
    fn new(checkpoint: CheckpointId) -> Self {
        Self {
            node: identity("n2"),
            spec: spec("/srv/other"),
            newer: stopped(CheckpointId::mint()),
            died: Kind::died_at(checkpoint),
        }
    }
}

#[test]
fn only_what_can_be_written_and_is_not_the_runtimes_is_recorded() {
    let [volume] = recorded(Outcome::Run).try_into().unwrap();
    let expected = Volume {
        name: "/data".to_owned(),
        container: Some("web".to_owned()),
        path: Some("/srv/d".to_owned()),
        claim_uid: None,
        storage: None,
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
fn a_volume_is_looked_at_where_its_container_starts() {
    let refused = start(Outcome::Run, |s, _| s.fork = true);
    assert!(matches!(refused, Err(VolumeRefusal::Fork { .. })));
    let other = |s: &mut Start<'_>| (s.fork, s.container) = (true, "sidecar");
    assert_eq!(start(Outcome::Run, |s, _| other(s)), Ok(()));
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
    assert!(matches!(refused(Outcome::Stop, |s, o| s.newest = Some(&o.newer)), Diverged { .. }));
    assert!(matches!(
        refused(Outcome::Stop, |s, _| s.newest = Some(&Kind::Reclaim)),
        Diverged { .. }
    ));
    assert!(matches!(refused(Outcome::Stop, |s, o| s.newest = Some(&o.died)), Diverged { .. }));
    assert!(matches!(refused(Outcome::Stop, |s, _| s.newest = None), Diverged { .. }));
    assert!(matches!(refused(Outcome::Stop, |s, o| s.node = &o.node), Elsewhere { .. }));
    assert!(matches!(refused(Outcome::Stop, |s, o| s.spec = &o.spec), Changed { .. }));
}

#[test]
fn storage_that_is_known_by_what_it_is_is_found_on_each_node_of_the_cluster() {
    let local = |uid: &str, name: &str| {
        spec(&format!("/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~local-volume/{name}"))
    };
    let plan = MountPlan::decode(PLAN.as_bytes()).unwrap();
    let volumes = of(&plan, "web", &local("u1", "disk-1"), Outcome::Stop);
    assert_eq!(volumes[0].storage.as_deref(), Some("local/disk-1"));
    let source = Source {
        cluster: "_none".to_owned(),
        node: "n1".to_owned(),
        pod: "web".to_owned(),
        uid: "u1".to_owned(),
        template: None,
    };
    let checkpoint = CheckpointId::mint();
    let newest = stopped(checkpoint);
    let on = |node: &NodeIdentity, spec: &Spec| {
        let start = Start {
            checkpoint,
            source: &source,
            node,
            container: "web",
            spec,
            cared_for: "",
            fork: false,
            newest: Some(&newest),
        };
        check(start, &volumes)
    };
    let other = NodeIdentity { cluster: "other".to_owned(), ..identity("n1") };
    assert_eq!(on(&identity("n2"), &local("u2", "disk-1")), Ok(()));
    let elsewhere = on(&other, &local("u2", "disk-1"));
    assert!(matches!(elsewhere, Err(VolumeRefusal::Elsewhere { .. })), "{elsewhere:?}");
    let changed = on(&identity("n1"), &local("u2", "disk-2"));
    assert!(matches!(changed, Err(VolumeRefusal::Changed { .. })), "{changed:?}");
}
