use std::time::Duration;

use godwit_image::manifest::Object;
use godwit_image::{Digest, FinishedPack, FrameSource, PackKind, PackName};
use godwit_ownership::Presence;
use godwit_ownership::state::Kind;
use godwit_types::{Code, OpId, PackIndex};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::blob::list_all;
use crate::fixture::{
    HORIZON, World, append, committed, manifest, new_checkpoint, owner, store_checkpoint,
};
use crate::record::TombstoneReason;
use crate::wrap::{Fault as Injected, Operation, Rule};

fn finished(id: CheckpointId, index: u32, size: usize) -> FinishedPack {
    let name = PackName { checkpoint: id, kind: PackKind::Data, index: PackIndex(index) };
    FinishedPack { name, footer: Digest::of(b""), bytes: vec![0; size] }
}

async fn keys_of(world: &World, id: CheckpointId) -> Vec<String> {
    let prefix = world.tenant.keys.checkpoint(id);
    let listed = list_all(world.tenant.blobs(), &prefix).await.unwrap();
    listed.iter().map(|l| l.key.as_str()[prefix.len()..].to_owned()).collect()
}

#[tokio::test]
async fn a_checkpoint_appears_with_its_manifest_and_exists_with_its_entry() {
    let world = World::new().await;
    let new = new_checkpoint(&[]);
    assert_eq!(world.tenant.presence(new.id).await.unwrap(), Presence::Gone);
    let (stage, _) = store_checkpoint(&world.tenant, &new).await.unwrap();
    assert_eq!(keys_of(&world, new.id).await, ["head", "intent", "manifest.json", "packs/0000"]);
    assert_eq!(world.tenant.presence(new.id).await.unwrap(), Presence::Exists);
    let uncommitted = world.tenant.committed_manifest(new.id).await.unwrap_err();
    assert!(uncommitted.to_string().ends_with("was never committed"), "{uncommitted}");
    append(&world.tenant, Kind::Start { forked_from: None }).await;
    append(&world.tenant, Kind::Checkpoint { checkpoint: new.id }).await;
    stage.committed().await.unwrap();
    assert_eq!(world.tenant.committed_manifest(new.id).await.unwrap().id, new.id);
    assert_eq!(keys_of(&world, new.id).await, ["head", "manifest.json", "packs/0000"]);
}

#[tokio::test]
async fn a_parent_with_a_tombstone_is_passed_over_for_the_next_one() {
    let world = World::new().await;
    let (first, second) =
        (committed(&world.tenant, &[]).await, committed(&world.tenant, &[]).await);
    let options = DeleteOptions::default();
    world.tenant.delete_checkpoint(second, &options).await.unwrap();
    let new = new_checkpoint(&[second, CheckpointId::mint(), first]);
    let stage = world.tenant.begin(new.clone()).await.unwrap();
    assert_eq!(stage.parent().map(|p| p.id), Some(first));
    let intent = world.tenant.intent(new.id).await.unwrap().unwrap();
    assert_eq!(intent.parent, Some(first), "the sweep must know what is used");
    let alone = new_checkpoint(&[second]);
    assert!(world.tenant.begin(alone).await.unwrap().parent().is_none());
}

#[tokio::test]
async fn a_damaged_parent_is_passed_over_for_the_next_one() {
    let world = World::new().await;
    let sound = committed(&world.tenant, &[]).await;
    let damaged = committed(&world.tenant, &[]).await;
    let flip = || Rule::new(Injected::Flip).on(Operation::Get);
    for part in ["manifest.json", "head"] {
        world.faulty.add(flip().matching(format!("{damaged}/{part}")));
        let mut stage = world.tenant.begin(new_checkpoint(&[damaged, sound])).await.unwrap();
        assert_eq!(stage.parent().map(|p| p.id), Some(sound), "{part}");
        assert_eq!(stage.take_parent().map(|p| p.reader.manifest().id), Some(sound));
        world.faulty.add(flip().matching(format!("{damaged}/{part}")));
        let mut stage = world.tenant.begin(new_checkpoint(&[damaged])).await.unwrap();
        assert!(stage.parent().is_none() && stage.take_parent().is_none(), "{part}");
    }
    let head = world.tenant.keys.object(&format!("{damaged}/head")).unwrap();
    world.tenant.blobs().delete(&head).await.unwrap();
    let stage = world.tenant.begin(new_checkpoint(&[damaged, sound])).await.unwrap();
    assert_eq!(stage.parent().map(|p| p.id), Some(sound), "its head is missing");
    world
        .faulty
        .add(Rule::new(Injected::Fail).on(Operation::Get).matching(format!("{sound}/head")));
    let away = world.tenant.begin(new_checkpoint(&[sound])).await.unwrap_err();
    assert_eq!(away.code(), Code::Unavailable, "a store that is away is not damage");
}

#[tokio::test]
async fn a_manifest_may_name_only_what_is_sure_to_be_kept() {
    let world = World::new().await;
    let stranger = committed(&world.tenant, &[]).await;
    let strange_pack = world.tenant.manifest(stranger).await.unwrap().objects[1].clone();
    for break_it in 0..4 {
        let new = new_checkpoint(&[]);
        let stage = world.tenant.begin(new.clone()).await.unwrap();
        let stage = stage.close().await.unwrap().head(b"head".to_vec()).await.unwrap();
        let head = stage.head_object().clone();
        let mut manifest = manifest(&new, None, vec![head]);
        match break_it {
            0 => manifest.objects.insert(0, strange_pack.clone()),
            1 => manifest.op = OpId::mint(),
            2 => manifest.objects[0].digest = Digest::of(b"other"),
            _ => manifest.parent = Some(stranger),
        }
        let refused = stage.manifest(&manifest).await.unwrap_err();
        assert!(matches!(refused, StoreError::Invalid { .. }), "{break_it}: {refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn packs_wait_for_room_and_all_are_durable_when_the_stage_closes() {
    let world = World::new().await;
    let delay = Duration::from_millis(5);
    world
        .faulty
        .add(Rule::new(Injected::Delay(delay)).on(Operation::Put).matching("packs/").always());
    let new = new_checkpoint(&[]);
    let stage = world.tenant.begin(new.clone()).await.unwrap();
    let sink = stage.sink();
    let id = new.id;
    let writer = tokio::task::spawn_blocking(move || {
        for index in 0..40 {
            sink.accept(finished(id, index, 100)).unwrap();
        }
        assert!(sink.accept(finished(id, 0, 1)).is_err(), "the same pack again");
        assert!(sink.accept(finished(CheckpointId::mint(), 99, 1)).is_err());
    });
    writer.await.unwrap();
    assert_eq!(stage.accepted_bytes(), 4000);
    stage.close().await.unwrap();
    assert_eq!(keys_of(&world, id).await.len(), 41, "40 packs and the intent");
}

#[tokio::test(flavor = "multi_thread")]
async fn buffers_of_stored_packs_are_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = std::sync::Arc::new(
        crate::blob::file::FileStore::open(dir.path(), crate::Access::Create).unwrap(),
    );
    let clock = std::sync::Arc::new(crate::SystemClock);
    let store = crate::Store::over(blobs, clock, HORIZON).await.unwrap();
    let new = new_checkpoint(&[]);
    let stage = store.tenant(&godwit_types::Tenant::node()).begin(new.clone()).await.unwrap();
    let (sink, id) = (stage.sink(), new.id);
    let writer = tokio::task::spawn_blocking(move || {
        for index in 0..20 {
            sink.accept(finished(id, index, 100)).unwrap();
        }
        sink
    });
    let sink = writer.await.unwrap();
    stage.close().await.unwrap();
    assert_eq!(sink.buffer().map(|b| b.capacity()), Some(100));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_cannot_be_stored_fails_the_next_one_and_the_stage() {
    let world = World::new().await;
    world.faulty.add(Rule::new(Injected::Refuse).on(Operation::Put).matching("packs/0001"));
    let new = new_checkpoint(&[]);
    let stage = world.tenant.begin(new.clone()).await.unwrap();
    let (sink, id) = (stage.sink(), new.id);
    let writer = tokio::task::spawn_blocking(move || {
        let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
        let packs = (0..).take_while(|_| std::time::Instant::now() < until);
        packs.map(|n| sink.accept(finished(id, n, 10))).find_map(Result::err)
    });
    assert_eq!(writer.await.unwrap().map(|e| e.code()), Some(Code::Refused));
    let failed = stage.close().await.unwrap_err();
    assert!(matches!(failed, StoreError::Upload { .. }), "{failed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_the_stage_frees_a_writer_that_waits() {
    let world = World::new().await;
    world.faulty.add(Rule::new(Injected::Hang).on(Operation::Put).matching("packs/").always());
    let new = new_checkpoint(&[]);
    let stage = world.tenant.begin(new.clone()).await.unwrap();
    let (sink, id) = (stage.sink(), new.id);
    let writer = tokio::task::spawn_blocking(move || {
        (0..100).map(|n| sink.accept(finished(id, n, 10))).find_map(Result::err)
    });
    while stage.accepted_bytes() < 80 {
        tokio::task::yield_now().await;
    }
    drop(stage);
    assert!(writer.await.unwrap().is_some());
}

#[tokio::test]
async fn an_operation_older_than_half_the_horizon_gives_up_at_every_stage() {
    let too_old = |e: StoreError| assert!(matches!(e, StoreError::TooOld { .. }), "{e:?}");
    for until in 0..4 {
        let world = World::new().await;
        let age = |stage: u32| {
            if stage == until {
                world.clock.advance(HORIZON / 2 + Duration::from_secs(1));
            }
        };
        let new = new_checkpoint(&[]);
        let stage = world.tenant.begin(new.clone()).await.unwrap();
        age(0);
        if until == 0 {
            let refused = stage.sink().accept(finished(new.id, 0, 1)).unwrap_err();
            assert_eq!(refused.code(), Code::Cancelled);
            too_old(stage.close().await.unwrap_err());
            continue;
        }
        let stage = stage.close().await.unwrap();
        age(1);
        if until == 1 {
            too_old(stage.head(vec![1; 4]).await.unwrap_err());
            continue;
        }
        let stage = stage.head(vec![1; 4]).await.unwrap();
        age(2);
        let manifest = manifest(&new, None, vec![stage.head_object().clone()]);
        if until == 2 {
            too_old(stage.manifest(&manifest).await.unwrap_err());
            continue;
        }
        let stage = stage.manifest(&manifest).await.unwrap();
        assert!(!stage.is_too_old());
        age(3);
        assert!(stage.is_too_old());
    }
}

#[tokio::test]
async fn an_abandoned_checkpoint_leaves_nothing_unless_its_manifest_was_written() {
    let world = World::new().await;
    let new = new_checkpoint(&[]);
    let stage = world.tenant.begin(new.clone()).await.unwrap();
    drop(stage.close().await.unwrap().head(vec![1]).await.unwrap());
    world.tenant.put_report(new.id, b"{}".to_vec()).await.unwrap();
    world.tenant.abandon(new.id).await.unwrap();
    assert_eq!(keys_of(&world, new.id).await, Vec::<String>::new());
    let new = new_checkpoint(&[]);
    drop(store_checkpoint(&world.tenant, &new).await.unwrap());
    world.tenant.abandon(new.id).await.unwrap();
    assert_eq!(keys_of(&world, new.id).await, ["head", "manifest.json", "packs/0000"]);
    // Its entry was refused: no log will name it.
    world.tenant.discard(new.id).await.unwrap();
    assert_eq!(keys_of(&world, new.id).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_is_what_was_stored_or_an_error() {
    let world = World::new().await;
    let new = new_checkpoint(&[]);
    let (_, frame) = store_checkpoint(&world.tenant, &new).await.unwrap();
    let reader = world.tenant.open_checkpoint(new.id).await.unwrap();
    let table = std::sync::Arc::new(reader.head().await.unwrap().packs);
    let source = reader.frame_source(table.clone());
    let read = move || source.frame(frame);
    let raw = tokio::task::spawn_blocking(read.clone()).await.unwrap().unwrap();
    assert_eq!(raw, new.id.to_string().as_bytes());
    for (lie, operation) in
        [(Injected::Flip, Operation::GetRange), (Injected::Torn(3), Operation::GetRange)]
    {
        world.faulty.add(Rule::new(lie).on(operation));
        let error = tokio::task::spawn_blocking(read.clone()).await.unwrap().unwrap_err();
        assert_eq!(error.code(), Code::Corrupt, "{lie:?}");
        world.faulty.add(Rule::new(lie).on(Operation::Get).matching("head"));
        assert!(matches!(reader.head().await, Err(StoreError::Digest { .. })), "{lie:?}");
    }
    let (pack, _) = reader.manifest().packs().next().unwrap();
    let beyond = reader.pack_bytes(&pack, 0..1 << 20).await.unwrap_err();
    assert_eq!(beyond.code(), Code::Corrupt);
    let foreign = PackName { checkpoint: CheckpointId::mint(), ..pack };
    assert_eq!(reader.pack_bytes(&foreign, 0..1).await.unwrap_err().code(), Code::NotFound);
    let stop = CancellationToken::new();
    let stopped = reader.frame_source(table).stopped_by(stop.clone());
    stop.cancel();
    let read = move || stopped.frame(frame);
    let error = tokio::task::spawn_blocking(read).await.unwrap().unwrap_err();
    assert_eq!(error.code(), Code::Cancelled);
}

#[tokio::test]
async fn a_pin_of_a_deleted_checkpoint_is_refused_and_removed() {
    let world = World::new().await;
    let (id, _) = (committed(&world.tenant, &[]).await, committed(&world.tenant, &[]).await);
    let op = OpId::mint();
    let (mut pin, reader) = world.tenant.pin(id, op, &owner()).await.unwrap();
    assert_eq!(reader.manifest().id, id);
    assert_eq!(world.tenant.pins(id).await.unwrap(), [op]);
    world.clock.advance(HORIZON / 2);
    pin.renew().await.unwrap();
    world.clock.advance(HORIZON - Duration::from_secs(1));
    assert_eq!(world.tenant.pins(id).await.unwrap(), [op]);
    world.clock.advance(Duration::from_secs(2));
    assert_eq!(world.tenant.pins(id).await.unwrap(), [], "too old to count");
    let options = DeleteOptions { force: true, why: "test".to_owned() };
    world.tenant.delete_checkpoint(id, &options).await.unwrap();
    let late = pin.renew().await.unwrap_err();
    assert!(matches!(late, StoreError::Absent { .. }), "{late:?}");
    pin.release().await.unwrap();
    let refused = world.tenant.pin(id, OpId::mint(), &owner()).await.unwrap_err();
    assert!(refused.to_string().contains("was deleted (test)"), "{refused}");
    assert_eq!(world.tenant.pins(id).await.unwrap(), []);
}

#[tokio::test]
async fn a_pin_that_is_made_while_its_checkpoint_is_opened_stays_only_if_there_is_one() {
    let world = World::new().await;
    let (id, _) = (committed(&world.tenant, &[]).await, committed(&world.tenant, &[]).await);
    let (op, again) = (OpId::mint(), OpId::mint());
    let (_, reader) = world.tenant.pin_and_open(id, op, &owner()).await.unwrap();
    assert_eq!(reader.manifest().id, id);
    assert_eq!(world.tenant.pins(id).await.unwrap(), [op]);
    let options = DeleteOptions { force: true, why: "test".to_owned() };
    world.tenant.delete_checkpoint(id, &options).await.unwrap();
    let refused = world.tenant.pin_and_open(id, again, &owner()).await.unwrap_err();
    assert!(refused.to_string().contains("was deleted (test)"), "{refused}");
    // A try of the same operation does not lose what an earlier one has.
    world.tenant.pin_and_open(id, op, &owner()).await.unwrap_err();
    assert_eq!(world.tenant.pins(id).await.unwrap(), [op]);
    let never = CheckpointId::mint();
    let refused = world.tenant.pin_and_open(never, again, &owner()).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    assert_eq!(world.tenant.pins(never).await.unwrap(), []);
}

#[tokio::test]
async fn a_pager_that_goes_on_finds_its_pinned_checkpoint_although_it_was_deleted() {
    let world = World::new().await;
    let id = committed(&world.tenant, &[]).await;
    let op = OpId::mint();
    drop(world.tenant.pin(id, op, &owner()).await.unwrap());
    let options = DeleteOptions { force: true, why: String::new() };
    world.tenant.delete_checkpoint(id, &options).await.unwrap();
    assert!(world.tenant.pin(id, op, &owner()).await.is_err(), "a new start is refused");
    let (pin, reader) = world.tenant.repin(id, op, &owner()).await.unwrap();
    reader.head_bytes().await.unwrap();
    world.clock.advance(HORIZON);
    drop(pin);
    assert!(world.tenant.repin(id, op, &owner()).await.is_err(), "it has ended");
}

#[tokio::test]
async fn a_store_that_takes_no_writes_is_read_on() {
    let world = World::new().await;
    let id = committed(&world.tenant, &[]).await;
    let op = OpId::mint();
    drop(world.tenant.pin(id, op, &owner()).await.unwrap());
    for operation in [Operation::Create, Operation::Put] {
        world.faulty.add(Rule::new(Injected::Refuse).on(operation).always());
    }
    let (_, reader) = world.tenant.repin(id, op, &owner()).await.unwrap();
    reader.head_bytes().await.unwrap();
    let refused = world.tenant.repin(id, OpId::mint(), &owner()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Refused, "there is no such pin, and none can be written");
    let (listed, _) = world.tenant.list().await.unwrap();
    assert_eq!(listed[0].pins, 1);
    let dry = crate::SweepOptions { dry_run: true };
    assert_eq!(world.tenant.sweep(dry).await.unwrap().kept, 1);
    assert!(world.tenant.sweep(crate::SweepOptions::default()).await.is_err());
}

async fn refusal(world: &World, id: CheckpointId) -> DeleteRefusal {
    match world.tenant.delete_checkpoint(id, &DeleteOptions::default()).await {
        Err(StoreError::DeleteRefused { refusal, .. }) => refusal,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_deletion_is_refused_while_the_checkpoint_is_needed() {
    let world = World::new().await;
    let only = committed(&world.tenant, &[]).await;
    assert_eq!(refusal(&world, only).await, DeleteRefusal::OnlyGood);
    let other = committed(&world.tenant, &[]).await;
    let (pin, _) = world.tenant.pin(only, OpId::mint(), &owner()).await.unwrap();
    assert!(matches!(refusal(&world, only).await, DeleteRefusal::Pinned { .. }));
    world.tenant.hold(only, "ann", "audit").await.unwrap();
    assert!(matches!(refusal(&world, only).await, DeleteRefusal::Held { .. }));
    world.tenant.unhold(only).await.unwrap();
    pin.release().await.unwrap();
    let new = new_checkpoint(&[]);
    let (stage, _) = store_checkpoint(&world.tenant, &new).await.unwrap();
    assert_eq!(refusal(&world, new.id).await, DeleteRefusal::BeingWritten { op: new.op });
    stage.committed().await.unwrap();
    world.tenant.delete_checkpoint(only, &DeleteOptions::default()).await.unwrap();
    world.tenant.delete_checkpoint(only, &DeleteOptions::default()).await.unwrap();
    assert_eq!(world.tenant.presence(only).await.unwrap(), Presence::Gone);
    assert_eq!(refusal(&world, other).await, DeleteRefusal::OnlyGood);
    let stopped =
        Kind::Stop { checkpoint: other, tasks: godwit_ownership::state::StoppedTasks::Dead };
    append(&world.tenant, stopped).await;
    assert_eq!(refusal(&world, other).await, DeleteRefusal::Current);
    let options = DeleteOptions { force: true, why: String::new() };
    world.tenant.delete_checkpoint(other, &options).await.unwrap();
    let absent = CheckpointId::mint();
    let error = world.tenant.delete_checkpoint(absent, &options).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
}

#[tokio::test(start_paused = true)]
async fn a_deletion_and_a_hold_at_the_same_time_do_not_both_succeed() {
    let world = World::new().await;
    let (id, _) = (committed(&world.tenant, &[]).await, committed(&world.tenant, &[]).await);
    // The deletion finds no hold; while its tombstone is on the way, the hold is written and finds no tombstone.
    let slow = Rule::new(Injected::Delay(Duration::from_secs(1)));
    world.faulty.add(slow.on(Operation::Create).matching("tombstone"));
    let options = DeleteOptions::default();
    let deletion = world.tenant.delete_checkpoint(id, &options);
    let (deleted, held) = tokio::join!(deletion, world.tenant.hold(id, "ann", "audit"));
    held.unwrap();
    assert!(
        matches!(
            deleted,
            Err(StoreError::DeleteRefused { refusal: DeleteRefusal::Held { .. }, .. })
        ),
        "{deleted:?}"
    );
    assert_eq!(world.tenant.presence(id).await.unwrap(), Presence::Exists);
}

#[tokio::test(start_paused = true)]
async fn a_deletion_that_was_taken_back_does_not_come_back_by_a_late_write() {
    let world = World::new().await;
    let (id, _) = (committed(&world.tenant, &[]).await, committed(&world.tenant, &[]).await);
    // The first PUT of the tombstone is on its way for long; while the second one is, somebody begins to hold the checkpoint.
    let put = |fault| Rule::new(fault).on(Operation::Create).matching("tombstone");
    world.faulty.add(put(Injected::Late));
    world.faulty.add(put(Injected::Delay(Duration::from_secs(1))));
    let options = DeleteOptions::default();
    let deletion = world.tenant.delete_checkpoint(id, &options);
    let (deleted, held) = tokio::join!(deletion, world.tenant.hold(id, "ann", "audit"));
    held.unwrap();
    assert!(deleted.unwrap_err().to_string().contains("ann holds it"));
    assert_eq!(world.faulty.in_flight(), 1);
    world.faulty.land().await.unwrap();
    assert_eq!(world.tenant.presence(id).await.unwrap(), Presence::Exists);
    assert_eq!(world.tenant.list().await.unwrap().0.len(), 2);
    world.tenant.committed_manifest(id).await.unwrap();
    world.tenant.unhold(id).await.unwrap();
    assert_eq!(refusal(&world, id).await, DeleteRefusal::TakenBack, "something may be in flight");
    let sweep = async || world.tenant.sweep(crate::SweepOptions::default()).await.unwrap();
    assert_eq!((sweep().await.kept, refusal(&world, id).await), (2, DeleteRefusal::TakenBack));
    world.clock.advance(HORIZON);
    assert_eq!(sweep().await.kept, 2);
    assert_eq!(world.tenant.any_tombstone(id).await.unwrap(), None, "it has done its work");
    world.tenant.delete_checkpoint(id, &options).await.unwrap();
    assert_eq!(world.tenant.presence(id).await.unwrap(), Presence::Gone);
}

#[tokio::test(start_paused = true)]
async fn a_deletion_that_dies_before_it_looks_again_is_taken_back_for_a_hold() {
    let world = World::new().await;
    let (id, _) = (committed(&world.tenant, &[]).await, committed(&world.tenant, &[]).await);
    let slow = Rule::new(Injected::Delay(Duration::from_secs(1)));
    world.faulty.add(slow.on(Operation::Create).matching("tombstone"));
    let second_look = Rule::new(Injected::Hang).on(Operation::Get).matching("hold");
    world.faulty.add(second_look.after(1));
    let (options, minute) = (DeleteOptions::default(), Duration::from_mins(1));
    let deletion = tokio::time::timeout(minute, world.tenant.delete_checkpoint(id, &options));
    let (died, held) = tokio::join!(deletion, world.tenant.hold(id, "ann", "audit"));
    held.unwrap();
    died.unwrap_err();
    let presence = async || world.tenant.presence(id).await.unwrap();
    let sweep = async || world.tenant.sweep(crate::SweepOptions::default()).await.unwrap();
    assert_eq!((sweep().await.kept, presence().await), (2, Presence::Gone), "it may yet look");
    world.clock.advance(HORIZON);
    assert_eq!((sweep().await.kept, presence().await), (2, Presence::Exists));
    world.clock.advance(HORIZON);
    assert_eq!((sweep().await.kept, sweep().await.deleted), (2, 0));
    assert_eq!(world.tenant.any_tombstone(id).await.unwrap(), None);
    world.tenant.committed_manifest(id).await.unwrap();
}

#[tokio::test]
async fn who_holds_what_was_deleted_is_told_and_changes_nothing() {
    let world = World::new().await;
    let (id, _) = (committed(&world.tenant, &[]).await, committed(&world.tenant, &[]).await);
    world.tenant.delete_checkpoint(id, &DeleteOptions::default()).await.unwrap();
    let error = world.tenant.hold(id, "ann", "audit").await.unwrap_err();
    assert!(error.to_string().contains("was deleted"), "{error}");
    assert_eq!(world.tenant.held(id).await.unwrap(), None);
}

#[tokio::test]
async fn a_deletion_by_force_is_not_taken_back_by_anybody() {
    let world = World::new().await;
    let (id, _) = (committed(&world.tenant, &[]).await, committed(&world.tenant, &[]).await);
    world.tenant.hold(id, "ann", "audit").await.unwrap();
    // One that has not looked again yet.
    assert!(world.tenant.write_tombstone(id, TombstoneReason::Deleted, "").await.unwrap());
    let options = DeleteOptions { force: true, why: "force".to_owned() };
    world.tenant.delete_checkpoint(id, &options).await.unwrap();
    let sweep = async || world.tenant.sweep(crate::SweepOptions::default()).await.unwrap();
    for _ in 0..3 {
        assert_eq!(sweep().await.kept, 1);
        assert_eq!(world.tenant.presence(id).await.unwrap(), Presence::Gone);
        world.clock.advance(HORIZON);
    }
}

#[tokio::test]
async fn a_deletion_by_force_is_written_over_one_that_was_taken_back() {
    let world = World::new().await;
    let id = committed(&world.tenant, &[]).await;
    world.tenant.withdraw_tombstone(id, "a deletion came too late").await.unwrap();
    assert_eq!(world.tenant.presence(id).await.unwrap(), Presence::Exists);
    let options = DeleteOptions { force: true, why: "force".to_owned() };
    world.tenant.delete_checkpoint(id, &options).await.unwrap();
    assert_eq!(world.tenant.tombstone(id).await.unwrap().unwrap().why, "force");
    assert_eq!(world.tenant.presence(id).await.unwrap(), Presence::Gone);
}

#[tokio::test(start_paused = true)]
async fn a_deletion_that_a_sweep_comes_before_is_not_said_to_be_done() {
    let world = World::new().await;
    let (id, _) = (committed(&world.tenant, &[]).await, committed(&world.tenant, &[]).await);
    let slow = Rule::new(Injected::Delay(Duration::from_secs(1)));
    world.faulty.add(slow.on(Operation::Create).matching("tombstone"));
    let options = DeleteOptions::default();
    let deletion = world.tenant.delete_checkpoint(id, &options);
    let orphan = world.tenant.write_tombstone(id, TombstoneReason::Orphan, "sweep");
    let (deleted, won) = tokio::join!(deletion, orphan);
    assert!(won.unwrap());
    assert!(deleted.unwrap_err().to_string().contains("a sweep is deciding"));
}

#[tokio::test]
async fn a_damaged_tombstone_is_replaced_by_force_only() {
    let world = World::new().await;
    let id = committed(&world.tenant, &[]).await;
    world.tenant.blobs().put(&world.tenant.keys.tombstone(id), "{".into()).await.unwrap();
    let gently = DeleteOptions::default();
    let error = world.tenant.delete_checkpoint(id, &gently).await.unwrap_err();
    assert_eq!(error.code(), Code::Corrupt);
    let options = DeleteOptions { force: true, why: "damaged".to_owned() };
    world.tenant.delete_checkpoint(id, &options).await.unwrap();
    assert_eq!(world.tenant.presence(id).await.unwrap(), Presence::Gone);
}

#[tokio::test]
async fn a_damaged_manifest_can_be_deleted_by_force_only() {
    let world = World::new().await;
    let id = committed(&world.tenant, &[]).await;
    let key = world.tenant.keys.manifest(id);
    world.tenant.blobs().put(&key, "{".into()).await.unwrap();
    let options = DeleteOptions::default();
    let error = world.tenant.delete_checkpoint(id, &options).await.unwrap_err();
    assert_eq!(error.code(), Code::Corrupt);
    let options = DeleteOptions { force: true, why: String::new() };
    world.tenant.delete_checkpoint(id, &options).await.unwrap();
    let tombstone = world.tenant.tombstone(id).await.unwrap().unwrap();
    assert_eq!(tombstone.reason, TombstoneReason::Forced);
}

#[tokio::test]
async fn verification_names_every_object_that_is_damaged_or_missing() {
    let world = World::new().await;
    let parent = committed(&world.tenant, &[]).await;
    let id = committed(&world.tenant, &[parent]).await;
    let mut seen = Vec::new();
    let sound =
        world.tenant.verify(id, Depth::Frames, |done, of| seen.push((done, of))).await.unwrap();
    assert!(sound.is_sound() && sound.objects == 3 && sound.frames == 2, "{sound:?}");
    let manifest = world.tenant.manifest(id).await.unwrap();
    let all = manifest.objects.iter().map(|o| o.size).sum();
    assert_eq!((seen.len(), seen.last()), (3, Some(&(all, all))));
    assert!(seen.is_sorted() && seen.iter().all(|(_, of)| *of == all), "{seen:?}");
    let pack = |id: CheckpointId| world.tenant.keys.object(&format!("{id}/packs/0000")).unwrap();
    let flip = Rule::new(Injected::Flip).on(Operation::Get);
    world.faulty.add(flip.matching(format!("{parent}/packs")));
    world.tenant.blobs().delete(&pack(id)).await.unwrap();
    let report = world.tenant.verify(id, Depth::Frames, |_, _| ()).await.unwrap();
    let mut faults: Vec<(&str, Code)> =
        report.faults.iter().map(|f| (f.object.as_str(), f.error.code())).collect();
    faults.sort_unstable_by_key(|(object, _)| *object);
    let (ours, theirs) = (format!("{id}/packs/0000"), format!("{parent}/packs/0000"));
    let mut expected = [(ours.as_str(), Code::NotFound), (theirs.as_str(), Code::Corrupt)];
    expected.sort_unstable_by_key(|(object, _)| *object);
    assert_eq!(faults, expected);
    let shallow = world.tenant.verify(id, Depth::Objects, |_, _| ()).await.unwrap();
    assert_eq!(shallow.faults.len(), 1, "only the one that is missing");
}

#[tokio::test]
async fn a_list_shows_what_each_checkpoint_costs() {
    let world = World::new().await;
    let parent = committed(&world.tenant, &[]).await;
    let child = committed(&world.tenant, &[parent]).await;
    world.tenant.hold(child, "ann", "audit").await.unwrap();
    drop(store_checkpoint(&world.tenant, &new_checkpoint(&[])).await.unwrap());
    let damaged = committed(&world.tenant, &[]).await;
    world.tenant.blobs().put(&world.tenant.keys.manifest(damaged), "{".into()).await.unwrap();
    let (rows, unreadable) = world.tenant.list().await.unwrap();
    let ids: std::collections::BTreeSet<_> = rows.iter().map(|r| r.manifest.id).collect();
    assert_eq!(ids, [parent, child].into());
    assert_eq!(unreadable.iter().map(|u| u.id).collect::<Vec<_>>(), [damaged]);
    let size = |m: &godwit_image::Manifest, key: &str| {
        m.objects.iter().find(|o: &&Object| o.key.ends_with(key)).unwrap().size
    };
    let row = |id| rows.iter().find(|r| r.manifest.id == id).unwrap();
    let (first, second) = (row(parent), row(child));
    let shared = size(&first.manifest, &format!("{parent}/packs/0000"));
    assert_eq!((first.shared.0, second.shared.0), (shared, shared));
    assert_eq!(first.exclusive.0, size(&first.manifest, "head"));
    assert!(second.exclusive.0 > second.manifest.head().unwrap().size);
    // The damaged one is the newest.
    assert_eq!((first.place, second.place), (Some(2), Some(1)));
    assert!(second.held && !first.held);
    let options = DeleteOptions::default();
    world.tenant.delete_checkpoint(parent, &options).await.unwrap();
    assert_eq!(world.tenant.list().await.unwrap().0.len(), 1);
}
