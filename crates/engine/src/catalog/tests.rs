use std::sync::Arc;
use std::time::Duration;

use godwit_store::blob::memory::MemoryStore;
use godwit_store::{Key, SystemClock};
use godwit_types::Reads;

use super::*;

async fn store() -> Store {
    let horizon = Duration::from_secs(24 * 3600);
    Store::over(Arc::new(MemoryStore::new()), Arc::new(SystemClock), horizon).await.unwrap()
}

/// Carries a command out that nobody watches or cancels.
async fn execute(store: &Store, command: StoreCommand) -> Result<Answer, EngineError> {
    cancelled(store, command, &CancellationToken::new()).await
}

async fn cancelled(
    store: &Store,
    command: StoreCommand,
    cancel: &CancellationToken,
) -> Result<Answer, EngineError> {
    super::execute(store, command, &mut Journal::begin().0, cancel).await
}

/// Puts bytes where a checkpoint of this tenant has a part.
async fn put(store: &Store, tenant: &str, id: CheckpointId, part: &str, bytes: &'static str) {
    let key = Key::new(format!("t/{tenant}/checkpoints/{id}/{part}")).unwrap();
    store.blobs().put(&key, bytes.into()).await.unwrap();
}

#[tokio::test]
async fn a_damaged_checkpoint_stops_only_its_tenants_collection_and_force_deletes_it() {
    let store = store().await;
    let (damaged, garbage) = (CheckpointId::mint(), CheckpointId::mint());
    put(&store, "a", damaged, "manifest.json", "{").await;
    put(&store, "b", garbage, "packs/0000", "no manifest names it").await;
    let gc = || execute(&store, StoreCommand::Gc(Gc::default()));
    let Answer::Gc(collected) = gc().await.unwrap() else { panic!("an answer of gc") };
    assert_eq!(collected.waiting, 1, "the other tenant was collected");
    let [(tenant, why)] = collected.failed.as_slice() else { panic!("{collected:?}") };
    assert_eq!(tenant.as_str(), "a");
    assert!(why.contains(&damaged.to_string()), "{why}");
    let delete = |force| execute(&store, StoreCommand::Delete { checkpoint: damaged, force });
    assert_eq!(delete(false).await.unwrap_err().code(), Code::Corrupt);
    assert_eq!(delete(true).await.unwrap(), Answer::Deleted { checkpoint: damaged });
    let Answer::Gc(collected) = gc().await.unwrap() else { panic!("an answer of gc") };
    assert_eq!(collected.failed, [], "it was all that stood in the way");
    let unknown = CheckpointId::mint();
    let delete = StoreCommand::Delete { checkpoint: unknown, force: true };
    assert_eq!(execute(&store, delete).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_cancelled_command_ends_where_its_kind_may_end() {
    let store = store().await;
    let (damaged, garbage) = (CheckpointId::mint(), CheckpointId::mint());
    put(&store, "a", damaged, "manifest.json", "{").await;
    put(&store, "b", garbage, "packs/0000", "no manifest names it").await;
    let cancel = CancellationToken::new();
    cancel.cancel();
    for reads in [StoreCommand::List, StoreCommand::Show { checkpoint: damaged }] {
        let told = cancelled(&store, reads, &cancel).await.unwrap_err();
        assert_eq!(
            (told.code(), told.to_string()),
            (Code::Cancelled, "cancelled: nothing was changed".into())
        );
    }
    let gc = cancelled(&store, StoreCommand::Gc(Gc::default()), &cancel).await.unwrap();
    let expected = Collected { cancelled: true, ..Collected::default() };
    assert_eq!(gc, Answer::Gc(expected), "neither tenant was begun in earnest");
    let delete = StoreCommand::Delete { checkpoint: damaged, force: true };
    let carried_through = cancelled(&store, delete, &cancel).await.unwrap();
    assert_eq!(carried_through, Answer::Deleted { checkpoint: damaged });
}

#[test]
fn a_row_tells_read_amplification_where_the_manifest_does() {
    let golden = include_bytes!("../../../image/tests/golden/v1/manifest.json");
    let manifest = Manifest::decode(golden).unwrap();
    let told = |manifest: &Manifest| {
        row(CheckpointRow {
            manifest: manifest.clone(),
            place: Some(0),
            held: false,
            pins: 0,
            own: Bytes(0),
            shared: Bytes(0),
            exclusive: Bytes(0),
        })
        .read_amplification
    };
    assert_eq!(told(&manifest), None, "it is older than the field");
    let mut newer = manifest;
    newer.sizes.reads = Some(Reads { fetched: Bytes(300), needed: Bytes(200) });
    let read = Manifest::decode(&newer.encode().unwrap()).unwrap();
    assert_eq!(told(&read), Some(1.5));
}
