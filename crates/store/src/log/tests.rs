use std::time::Duration;

use godwit_ownership::state::Kind;
use godwit_ownership::{Basis, Pen, fold};
use godwit_types::{CheckpointId, Nonce, Seq};

use super::*;
use crate::fixture::{World, append, lineage, owner};
use crate::wrap::{Fault, Operation, Rule};

fn start() -> Kind {
    Kind::Start { forked_from: None }
}

fn first_entry() -> Entry {
    let pen = Pen { me: owner(), op: None, nonce: Nonce::mint(), at_ms: 0 };
    Basis::default().next(&pen, start()).unwrap()
}

#[tokio::test]
async fn the_newest_entry_is_found_and_the_log_folds_to_its_state() {
    let world = World::new().await;
    let log = world.tenant.lineage(&lineage());
    assert_eq!(log.newest().await.unwrap(), None);
    append(&world.tenant, start()).await;
    for _ in 0..11 {
        append(&world.tenant, Kind::Checkpoint { checkpoint: CheckpointId::mint() }).await;
    }
    let newest = log.newest().await.unwrap().unwrap();
    assert_eq!(newest.seq, Seq(12));
    let all = log.read_all().await.unwrap();
    assert_eq!(fold(&all), Ok(newest.state.clone()));
    assert_eq!(log.commits().await.unwrap().len(), 11);
    assert!(log.names(newest.commits().unwrap()).await.unwrap());
    assert!(log.names(all[1].commits().unwrap()).await.unwrap(), "too old for the newest entry");
    assert!(!log.names(CheckpointId::mint()).await.unwrap());
}

#[tokio::test]
async fn an_entry_is_read_once_and_one_of_our_own_never() {
    let world = World::new().await;
    append(&world.tenant, start()).await;
    let (store, counts) = world.tenant.store().metered();
    let log = store.tenant(world.tenant.tenant()).lineage(&lineage());
    let requests = || (counts.of(Operation::List).requests, counts.of(Operation::Get).requests);
    let first = log.newest().await.unwrap().unwrap();
    assert_eq!(log.newest().await.unwrap(), Some(first.clone()));
    assert_eq!(requests(), (2, 1));
    let pen = Pen { me: owner(), op: None, nonce: Nonce::mint(), at_ms: 0 };
    let checkpoint = |id| Kind::Checkpoint { checkpoint: id };
    let ours = Basis::of(Some(&first)).next(&pen, checkpoint(CheckpointId::mint())).unwrap();
    assert_eq!(log.append(&ours).await.unwrap(), Creation::Created);
    assert_eq!(log.newest().await.unwrap(), Some(ours));
    assert_eq!(requests(), (3, 1));
    let theirs = append(&world.tenant, checkpoint(CheckpointId::mint())).await;
    assert_eq!(log.newest().await.unwrap(), Some(theirs));
    assert_eq!(requests(), (4, 2), "somebody else's is read");
}

#[tokio::test]
async fn of_two_writers_of_one_slot_the_second_is_told_that_it_exists() {
    let world = World::new().await;
    let log = world.tenant.lineage(&lineage());
    let (ours, theirs) = (first_entry(), first_entry());
    assert_eq!(log.append(&theirs).await.unwrap(), Creation::Created);
    assert_eq!(log.append(&ours).await.unwrap(), Creation::Exists);
    assert_eq!(log.slot(Seq(1)).await.unwrap(), Some(theirs));
}

#[tokio::test]
async fn an_append_whose_reply_is_lost_is_unknown_and_its_slot_tells() {
    let world = World::new().await;
    let log = world.tenant.lineage(&lineage());
    let entry = first_entry();
    world.faulty.add(Rule::new(Fault::ReplyLost).on(Operation::Create));
    assert!(matches!(log.append(&entry).await.unwrap(), Creation::Unknown(_)));
    assert_eq!(log.slot(Seq(1)).await.unwrap(), Some(entry));
}

#[tokio::test]
async fn an_append_that_is_applied_late_is_unknown_first_and_settled_by_its_own_bytes() {
    let world = World::new().await;
    let log = world.tenant.lineage(&lineage());
    let entry = first_entry();
    world.faulty.add(Rule::new(Fault::Late).on(Operation::Create));
    assert!(matches!(log.append(&entry).await.unwrap(), Creation::Unknown(_)));
    assert_eq!(log.slot(Seq(1)).await.unwrap(), None, "which proves nothing");
    assert_eq!(log.append(&entry).await.unwrap(), Creation::Created);
    world.faulty.land().await.unwrap();
    assert_eq!(log.slot(Seq(1)).await.unwrap(), Some(entry));
}

#[tokio::test(start_paused = true)]
async fn an_append_that_is_not_answered_in_time_is_unknown_and_a_read_fails() {
    let world = World::new().await;
    let log = world.tenant.lineage(&lineage());
    let entry = first_entry();
    log.newest().await.unwrap();
    world.faulty.add(Rule::new(Fault::Hang).on(Operation::Create));
    assert!(matches!(log.append(&entry).await.unwrap(), Creation::Unknown(_)));
    world.faulty.add(Rule::new(Fault::Hang).on(Operation::List));
    let error = log.newest().await.unwrap_err();
    assert!(matches!(error, StoreError::Blob(BlobError::Deadline { .. })), "{error:?}");
}

#[tokio::test]
async fn an_append_on_an_old_basis_looks_first() {
    let world = World::new().await;
    let log = world.tenant.lineage(&lineage());
    append(&world.tenant, start()).await;
    let basis = Basis::of(log.newest().await.unwrap().as_ref());
    append(&world.tenant, Kind::Checkpoint { checkpoint: CheckpointId::mint() }).await;
    world.clock.advance(BASIS_LIFETIME + Duration::from_secs(1));
    // As if a compaction had removed what was written at our place meanwhile.
    world.tenant.blobs().delete(&log.key(Seq(2))).await.unwrap();
    append(&world.tenant, Kind::Reclaim).await;
    let pen = Pen { me: owner(), op: None, nonce: Nonce::mint(), at_ms: 0 };
    let entry = basis.next(&pen, Kind::Reclaim).unwrap();
    assert_eq!(log.append(&entry).await.unwrap(), Creation::Exists);
}

#[tokio::test]
async fn an_entry_in_a_foreign_slot_or_of_damaged_bytes_is_not_believed() {
    let world = World::new().await;
    let log = world.tenant.lineage(&lineage());
    let body = first_entry().encode().unwrap();
    world.tenant.blobs().put(&log.key(Seq(7)), body.into()).await.unwrap();
    assert!(matches!(log.newest().await, Err(StoreError::Misplaced { .. })));
    world.tenant.blobs().put(&log.key(Seq(8)), "{}".into()).await.unwrap();
    assert!(matches!(log.newest().await, Err(StoreError::Log { .. })));
    let stray = Key::new(format!("{}0-stray", log.prefix())).unwrap();
    world.tenant.blobs().put(&stray, "x".into()).await.unwrap();
    assert!(matches!(log.newest().await, Err(StoreError::Misplaced { .. })));
}

#[tokio::test]
async fn lineages_and_tenants_are_found_by_skipping_over_their_logs() {
    let world = World::new().await;
    let names = ["pod/web", "pod/web.1", "sts/db.0", "uid/01J"];
    for name in names {
        let log = world.tenant.lineage(&LineageName::new(name).unwrap());
        for seq in 1..=3 {
            let body = first_entry().encode().unwrap();
            world.tenant.blobs().put(&log.key(Seq(seq)), body.into()).await.unwrap();
        }
    }
    let found = world.tenant.lineages().await.unwrap();
    let mut found: Vec<&str> = found.iter().map(LineageName::as_str).collect();
    found.sort_unstable();
    assert_eq!(found, names);
    let other = godwit_types::Tenant::new("shop").unwrap();
    let key = Key::new("t/shop/x").unwrap();
    world.tenant.blobs().put(&key, "x".into()).await.unwrap();
    let tenants = world.tenant.store().tenants().await.unwrap();
    assert_eq!(tenants, [godwit_types::Tenant::node(), other]);
}
