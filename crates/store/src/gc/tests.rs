use std::collections::BTreeSet;
use std::time::Duration;

use godwit_ownership::Presence;
use godwit_ownership::state::Kind;
use godwit_types::{CheckpointId, Code, OpId};

use super::*;
use crate::blob::list_all;
use crate::checkpoint::{DeleteOptions, Depth};
use crate::fixture::{
    HORIZON, World, append, committed, lineage, new_checkpoint, owner, store_checkpoint,
};
use crate::wrap::{Fault, Operation, Rule};

async fn sweep(world: &World) -> SweepReport {
    world.tenant.sweep(SweepOptions::default()).await.unwrap()
}

/// A sweep, T, and another sweep: what the first one lists, the second one deletes.
async fn sweep_twice(world: &World) -> SweepReport {
    sweep(world).await;
    world.clock.advance(HORIZON);
    sweep(world).await
}

async fn keys(world: &World) -> BTreeSet<String> {
    let listed = list_all(world.tenant.blobs(), &world.tenant.keys.checkpoints()).await.unwrap();
    listed.into_iter().map(|l| l.key.as_str().to_owned()).collect()
}

async fn delete(world: &World, id: CheckpointId) {
    let options = DeleteOptions { force: true, why: "test".to_owned() };
    world.tenant.delete_checkpoint(id, &options).await.unwrap();
}

#[tokio::test]
async fn what_exists_stays_for_ever() {
    let world = World::new().await;
    let parent = committed(&world.tenant, &[]).await;
    let child = committed(&world.tenant, &[parent]).await;
    let before = keys(&world).await;
    for _ in 0..4 {
        world.clock.advance(HORIZON * 2);
        let report = sweep(&world).await;
        assert_eq!((report.kept, report.listed, report.deleted), (2, 0, 0));
    }
    assert_eq!(keys(&world).await, before);
    assert!(world.tenant.verify(child, Depth::Frames, |_, _| ()).await.unwrap().is_sound());
}

#[tokio::test]
async fn a_deleted_checkpoint_goes_after_the_horizon_except_what_its_children_share() {
    let world = World::new().await;
    let parent = committed(&world.tenant, &[]).await;
    let child = committed(&world.tenant, &[parent]).await;
    delete(&world, parent).await;
    let first = sweep(&world).await;
    assert_eq!((first.listed, first.deleted), (3, 0), "head, manifest, tombstone");
    let second = sweep(&world).await;
    assert_eq!((second.listed, second.waiting, second.deleted), (0, 3, 0));
    world.clock.advance(HORIZON);
    let third = sweep(&world).await;
    assert_eq!(third.deleted, 2, "the tombstone stays as long as anything does");
    let left: BTreeSet<String> = keys(&world).await;
    let of_parent: Vec<&String> = left.iter().filter(|k| k.contains(&parent.to_string())).collect();
    assert_eq!(of_parent.len(), 2, "the shared pack and the tombstone: {of_parent:?}");
    assert!(world.tenant.verify(child, Depth::Frames, |_, _| ()).await.unwrap().is_sound());
    delete(&world, child).await;
    sweep_twice(&world).await;
    world.clock.advance(HORIZON);
    sweep_twice(&world).await;
    assert_eq!(keys(&world).await, BTreeSet::new());
}

#[tokio::test]
async fn a_crashed_writer_leaves_garbage_that_goes_and_a_working_one_does_not() {
    let world = World::new().await;
    let new = new_checkpoint(&[]);
    let stage = world.tenant.begin(new.clone()).await.unwrap();
    let stage = stage.close().await.unwrap().head(vec![1]).await.unwrap();
    world.clock.advance(HORIZON / 2);
    assert_eq!(sweep(&world).await.listed, 0, "its intent is young");
    drop(stage);
    world.clock.advance(HORIZON);
    assert_eq!(sweep_twice(&world).await.deleted, 2);
    assert_eq!(keys(&world).await, BTreeSet::new());
}

#[tokio::test]
async fn what_a_writer_shares_with_a_deleted_parent_is_kept() {
    let world = World::new().await;
    let parent = committed(&world.tenant, &[]).await;
    delete_after_begin(&world, parent).await;
}

async fn delete_after_begin(world: &World, parent: CheckpointId) {
    delete_at(world, parent).await;
    let new = new_checkpoint(&[parent]);
    // Begun long after the deletion: no such parent.
    assert!(world.tenant.begin(new).await.unwrap().parent().is_none());
}

/// The parent is deleted and swept while a child is being written; the child is committed all the same.
async fn delete_at(world: &World, parent: CheckpointId) {
    let new = new_checkpoint(&[parent]);
    let begun = world.tenant.begin(new.clone()).await.unwrap();
    assert!(begun.parent().is_some());
    drop(begun);
    delete(world, parent).await;
    sweep(world).await;
    world.clock.advance(HORIZON / 2 - Duration::from_secs(60));
    let report = sweep(world).await;
    assert_eq!((report.listed, report.deleted), (0, 0), "{report:?}");
    let key = world.tenant.keys.object(&format!("{parent}/packs/0000")).unwrap();
    assert!(world.tenant.blobs().head(&key).await.unwrap().is_some());
}

#[tokio::test]
async fn what_a_reader_pins_is_kept_although_it_is_deleted() {
    let world = World::new().await;
    let id = committed(&world.tenant, &[]).await;
    let (mut pin, reader) = world.tenant.pin(id, OpId::mint(), &owner()).await.unwrap();
    delete(&world, id).await;
    for _ in 0..8 {
        sweep(&world).await;
        world.clock.advance(HORIZON / 2);
        pin.renew().await.unwrap();
    }
    reader.head_bytes().await.unwrap();
    pin.release().await.unwrap();
    sweep_twice(&world).await;
    assert_eq!(keys(&world).await, BTreeSet::new());
}

#[tokio::test]
async fn a_manifest_that_no_entry_commits_is_given_up_after_the_horizon() {
    let world = World::new().await;
    let exists = committed(&world.tenant, &[]).await;
    let new = new_checkpoint(&[exists]);
    drop(store_checkpoint(&world.tenant, &new).await.unwrap());
    sweep(&world).await;
    assert!(world.tenant.tombstone(new.id).await.unwrap().is_none(), "too young");
    world.clock.advance(HORIZON);
    let report = sweep(&world).await;
    assert_eq!((report.kept, report.orphans), (1, 1), "{report:?}");
    assert_eq!(world.tenant.presence(new.id).await.unwrap(), Presence::Doubted);
    let again = sweep(&world).await;
    assert_eq!((again.orphans, again.undecided), (0, 1), "another sweep may be at work: {again:?}");
    world.clock.advance(HORIZON);
    assert_eq!(sweep(&world).await.deleted, 4, "the tombstone goes later");
    assert_eq!(world.tenant.presence(new.id).await.unwrap(), Presence::Gone);
    assert!(world.tenant.verify(exists, Depth::Frames, |_, _| ()).await.unwrap().is_sound());
}

#[tokio::test]
async fn an_entry_that_lands_between_tombstone_and_log_gets_its_checkpoint_back() {
    let world = World::new().await;
    append(&world.tenant, Kind::Start { forked_from: None }).await;
    let new = new_checkpoint(&[]);
    drop(store_checkpoint(&world.tenant, &new).await.unwrap());
    world.clock.advance(HORIZON);
    // The sweep dies after its tombstone: its read of the log fails.
    let dead = Rule::new(Fault::Refuse).on(Operation::List).matching("/log/").after(2);
    world.faulty.add(dead);
    assert_eq!(sweep(&world).await.undecided, 1);
    append(&world.tenant, Kind::Checkpoint { checkpoint: new.id }).await;
    assert_eq!(world.tenant.presence(new.id).await.unwrap(), Presence::Doubted);
    world.clock.advance(HORIZON);
    let report = sweep(&world).await;
    assert_eq!((report.kept, report.orphans, report.deleted), (1, 0, 1), "{report:?}");
    assert_eq!(world.tenant.intent(new.id).await.unwrap(), None, "what its dead writer left");
    assert_eq!(world.tenant.presence(new.id).await.unwrap(), Presence::Exists);
    assert!(world.tenant.verify(new.id, Depth::Frames, |_, _| ()).await.unwrap().is_sound());
}

#[tokio::test(start_paused = true)]
async fn a_tombstone_that_a_sweep_withdrew_does_not_come_back_by_a_late_write() {
    let world = World::new().await;
    append(&world.tenant, Kind::Start { forked_from: None }).await;
    let new = new_checkpoint(&[]);
    drop(store_checkpoint(&world.tenant, &new).await.unwrap());
    world.clock.advance(HORIZON);
    world.faulty.add(Rule::new(Fault::Late).on(Operation::Create).matching("tombstone"));
    // The entry lands after the tombstone and before the log is read again.
    let slow = Rule::new(Fault::Delay(Duration::from_secs(1)));
    world.faulty.add(slow.on(Operation::List).matching("/log/").after(2));
    let commit = append(&world.tenant, Kind::Checkpoint { checkpoint: new.id });
    let (report, _) = tokio::join!(sweep(&world), commit);
    assert_eq!((report.kept, report.orphans), (1, 0), "{report:?}");
    assert_eq!(world.faulty.in_flight(), 1);
    world.faulty.land().await.unwrap();
    assert_eq!(world.tenant.presence(new.id).await.unwrap(), Presence::Exists);
    assert_eq!(sweep(&world).await.kept, 1);
    assert!(world.tenant.any_tombstone(new.id).await.unwrap().is_some(), "it keeps its place");
    world.clock.advance(HORIZON);
    assert_eq!(sweep(&world).await.kept, 1);
    assert_eq!(world.tenant.any_tombstone(new.id).await.unwrap(), None);
    assert!(world.tenant.verify(new.id, Depth::Frames, |_, _| ()).await.unwrap().is_sound());
}

#[tokio::test]
async fn a_sweep_reads_a_log_once_however_many_checkpoints_it_commits() {
    let world = World::new().await;
    let points = godwit_ownership::state::MAX_POINTS + 4;
    for _ in 0..points {
        committed(&world.tenant, &[]).await;
    }
    world.clock.advance(HORIZON);
    let (newest, start) = (1, 1);
    let read = Rule::new(Fault::Refuse).on(Operation::Get).matching("/log/");
    world.faulty.add(read.after(newest + start + points));
    assert_eq!(sweep(&world).await.kept, points);
}

#[tokio::test]
async fn what_was_listed_as_an_orphan_is_not_deleted_at_once_when_it_is_deleted_after_all() {
    let world = World::new().await;
    append(&world.tenant, Kind::Start { forked_from: None }).await;
    let new = new_checkpoint(&[]);
    drop(store_checkpoint(&world.tenant, &new).await.unwrap());
    world.clock.advance(HORIZON);
    assert!(sweep(&world).await.listed > 0);
    append(&world.tenant, Kind::Checkpoint { checkpoint: new.id }).await;
    world.clock.advance(HORIZON);
    // This sweep gets it back, and dies before the old list is gone.
    world.faulty.add(Rule::new(Fault::Refuse).on(Operation::Delete).matching("/gc/"));
    world.tenant.sweep(SweepOptions::default()).await.unwrap_err();
    assert_eq!(world.tenant.presence(new.id).await.unwrap(), Presence::Exists);
    delete(&world, new.id).await;
    let report = sweep(&world).await;
    assert_eq!(report.deleted, 0, "a writer may have begun to share it: {report:?}");
    world.clock.advance(HORIZON);
    assert!(sweep(&world).await.deleted > 0);
}

#[tokio::test]
async fn a_damaged_manifest_stops_the_sweep_before_anything_is_deleted() {
    let world = World::new().await;
    let (damaged, deleted) =
        (committed(&world.tenant, &[]).await, committed(&world.tenant, &[]).await);
    delete(&world, deleted).await;
    sweep(&world).await;
    world.clock.advance(HORIZON);
    let before = keys(&world).await;
    world.tenant.blobs().put(&world.tenant.keys.manifest(damaged), "{".into()).await.unwrap();
    let error = world.tenant.sweep(SweepOptions::default()).await.unwrap_err();
    assert_eq!(error.code(), Code::Corrupt);
    assert_eq!(keys(&world).await, before);
    delete(&world, damaged).await;
    assert!(sweep(&world).await.deleted > 0);
}

#[tokio::test]
async fn a_dry_run_says_what_would_be_done_and_changes_nothing() {
    let world = World::new().await;
    let id = committed(&world.tenant, &[]).await;
    delete(&world, id).await;
    let before = list_all(world.tenant.blobs(), "").await.unwrap().len();
    let dry = SweepOptions { dry_run: true };
    let report = world.tenant.sweep(dry).await.unwrap();
    assert_eq!((report.listed, report.deleted), (4, 0));
    let clock = 1;
    assert_eq!(list_all(world.tenant.blobs(), "").await.unwrap().len(), before + clock);
    sweep(&world).await;
    world.clock.advance(HORIZON);
    let report = world.tenant.sweep(dry).await.unwrap();
    assert_eq!(report.deleted, 4);
    assert!(!keys(&world).await.is_empty());
}

#[tokio::test]
async fn a_sweep_that_is_interrupted_anywhere_is_finished_by_the_next() {
    for at in 0..40 {
        let world = World::new().await;
        let parent = committed(&world.tenant, &[]).await;
        let child = committed(&world.tenant, &[parent]).await;
        delete(&world, parent).await;
        drop(store_checkpoint(&world.tenant, &new_checkpoint(&[])).await.unwrap());
        world.clock.advance(HORIZON);
        sweep(&world).await;
        world.clock.advance(HORIZON);
        world.faulty.add(Rule::new(Fault::Refuse).after(at));
        let _ = world.tenant.sweep(SweepOptions::default()).await;
        world.faulty.heal();
        assert!(world.tenant.verify(child, Depth::Frames, |_, _| ()).await.unwrap().is_sound());
        for _ in 0..3 {
            world.clock.advance(HORIZON);
            sweep(&world).await;
        }
        let left = keys(&world).await;
        assert_eq!(left.len(), 5, "of the child three, of the parent two: {at}: {left:?}");
        assert!(world.tenant.lineage(&lineage()).names(child).await.unwrap());
    }
}
