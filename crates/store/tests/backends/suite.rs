//! What the design needs of a blob store. Each case gets an empty one.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::join_all;
use futures::stream;
use godwit_store::blob::{SharedStore, list_all};
use godwit_store::{BlobError, BlobStore, Creation, Key};

const MIB: usize = 1 << 20;

pub fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn body(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

async fn keys(store: &SharedStore, prefix: &str, after: Option<&str>, limit: usize) -> Vec<String> {
    let after = after.map(key);
    let listed = store.list(prefix, after.as_ref(), limit).await.unwrap();
    listed.into_iter().map(|l| l.key.as_str().to_owned()).collect()
}

pub async fn error_of_create(store: &dyn BlobStore) -> Option<BlobError> {
    store.create(&key("a"), body("x")).await.err()
}

pub async fn what_was_written_can_be_read_at_once(store: SharedStore) {
    for n in 0..20 {
        let key = key(&format!("a/{n}"));
        assert_eq!(store.create(&key, body("one")).await.unwrap(), Creation::Created);
        assert_eq!(store.get(&key, 99).await.unwrap(), "one");
        assert_eq!(store.list("a/", None, 99).await.unwrap().len(), n + 1);
        store.put(&key, body("other")).await.unwrap();
        assert_eq!(store.get(&key, 99).await.unwrap(), "other");
        assert_eq!(store.head(&key).await.unwrap().unwrap().size, 5);
    }
}

pub async fn an_object_that_exists_is_not_created_again(store: SharedStore) {
    let key = key("t/log/1");
    assert_eq!(store.create(&key, body("first")).await.unwrap(), Creation::Created);
    for again in ["second", "first"] {
        assert_eq!(store.create(&key, body(again)).await.unwrap(), Creation::Exists);
    }
    assert_eq!(store.get(&key, 99).await.unwrap(), "first");
    store.put(&key, body("put")).await.unwrap();
    assert_eq!(store.create(&key, body("third")).await.unwrap(), Creation::Exists);
}

pub async fn of_many_racing_creates_exactly_one_wins_and_nobody_reads_a_part(store: SharedStore) {
    for round in 0..20 {
        let key = key(&format!("race/{round}"));
        let bodies: Vec<Bytes> = (0..16_u8).map(|n| vec![n; 64 << 10].into()).collect();
        let creates = join_all(bodies.iter().map(|b| store.create(&key, b.clone())));
        let reads = join_all((0..8).map(|_| store.get(&key, 1 << 20)));
        let (outcomes, seen) = futures::future::join(creates, reads).await;
        let won: Vec<usize> = outcomes
            .iter()
            .enumerate()
            .filter(|(_, o)| *o.as_ref().unwrap() == Creation::Created)
            .map(|(n, _)| n)
            .collect();
        assert_eq!(won.len(), 1, "round {round}: {outcomes:?}");
        assert_eq!(store.get(&key, 1 << 20).await.unwrap(), bodies[won[0]]);
        for read in seen {
            match read {
                Ok(bytes) => assert_eq!(bytes, bodies[won[0]], "round {round}"),
                Err(e) => assert!(matches!(e, BlobError::NotFound { .. }), "{e:?}"),
            }
        }
    }
}

pub async fn a_replaced_object_is_never_seen_torn(store: SharedStore) {
    let key = key("x");
    store.put(&key, vec![0; MIB].into()).await.unwrap();
    let writes = async {
        for n in 1..=20_u8 {
            store.put(&key, vec![n; MIB].into()).await.unwrap();
        }
    };
    let reads = async {
        for _ in 0..20 {
            let bytes = store.get(&key, 2 << 20).await.unwrap();
            assert!(bytes.len() == MIB && bytes.iter().all(|b| *b == bytes[0]), "torn");
        }
    };
    futures::join!(writes, reads);
}

pub async fn a_range_gives_exactly_the_bytes_asked_for(store: SharedStore) {
    let key_of = key("p");
    let bytes: Bytes = (0..100_000_u32).map(|n| n as u8).collect::<Vec<_>>().into();
    store.create(&key_of, bytes.clone()).await.unwrap();
    for range in [0..1, 0..100_000, 99_999..100_000, 4096..8192, 7..7, 100_000..100_000] {
        let (from, to) = (range.start as usize, range.end as usize);
        assert_eq!(store.get_range(&key_of, range.clone()).await.unwrap(), bytes[from..to]);
    }
    for range in [0..100_001, 100_000..100_001, 200_000..200_001, 200_000..200_000] {
        let error = store.get_range(&key_of, range.clone()).await.unwrap_err();
        assert!(matches!(error, BlobError::OutOfRange { .. }), "{range:?}: {error:?}");
    }
    for range in [0..1, 0..0] {
        let error = store.get_range(&key("absent"), range).await.unwrap_err();
        assert!(matches!(error, BlobError::NotFound { .. }), "{error:?}");
    }
}

pub async fn an_object_larger_than_allowed_is_not_read(store: SharedStore) {
    store.put(&key("x"), vec![1; 1000].into()).await.unwrap();
    assert_eq!(store.get(&key("x"), 1000).await.unwrap().len(), 1000);
    let error = store.get(&key("x"), 999).await.unwrap_err();
    assert!(matches!(error, BlobError::TooLarge { size: 1000, limit: 999, .. }), "{error:?}");
    let error = store.get(&key("absent"), 999).await.unwrap_err();
    assert!(matches!(error, BlobError::NotFound { .. }), "{error:?}");
}

pub async fn a_list_is_in_the_order_of_bytes_and_can_start_anywhere(store: SharedStore) {
    let sorted = ["a+b", "a-b/c", "a.d/e", "a/b", "a/c/d", "a/c0", "a0", "aB", "a_", "ab/x", "b"];
    for name in sorted.iter().rev() {
        store.create(&key(name), body("x")).await.unwrap();
    }
    assert_eq!(keys(&store, "", None, 99).await, sorted);
    assert_eq!(keys(&store, "a", None, 3).await, sorted[..3]);
    for (n, after) in sorted.iter().enumerate() {
        assert_eq!(keys(&store, "", Some(after), 99).await, sorted[n + 1..], "after {after}");
    }
    assert_eq!(keys(&store, "a/", None, 99).await, ["a/b", "a/c/d", "a/c0"]);
    assert_eq!(keys(&store, "a/c", None, 99).await, ["a/c/d", "a/c0"]);
    assert_eq!(keys(&store, "a/", Some("a/bb"), 99).await, ["a/c/d", "a/c0"], "not a key there");
    assert_eq!(keys(&store, "a/", Some("a"), 99).await, ["a/b", "a/c/d", "a/c0"]);
    assert_eq!(keys(&store, "a/c/d/", None, 99).await, Vec::<String>::new());
    assert_eq!(keys(&store, "c", None, 99).await, Vec::<String>::new());
    let newest_first = [3_u64, 1, 2].map(|n| format!("log/{:020}", u64::MAX - n));
    for name in &newest_first {
        store.create(&key(name), body("x")).await.unwrap();
    }
    assert_eq!(keys(&store, "log/", None, 1).await, newest_first[..1]);
}

pub async fn a_list_of_more_than_a_page_is_complete(store: SharedStore) {
    let names: Vec<String> = (0..1203).map(|n| format!("many/{n:04}")).collect();
    let creates = stream::iter(&names).for_each_concurrent(32, |name| {
        let store = &store;
        async move {
            store.put(&key(name), Bytes::new()).await.unwrap();
        }
    });
    creates.await;
    let listed = list_all(&*store, "many/").await.unwrap();
    let listed: Vec<&str> = listed.iter().map(|l| l.key.as_str()).collect();
    assert_eq!(listed, names);
    assert_eq!(keys(&store, "many/", None, 1100).await, names[..1100]);
}

pub async fn what_was_deleted_is_gone_and_can_be_created_again(store: SharedStore) {
    let key = key("d/e/f");
    store.delete(&key).await.unwrap();
    store.create(&key, body("x")).await.unwrap();
    store.delete(&key).await.unwrap();
    assert!(matches!(store.get(&key, 9).await, Err(BlobError::NotFound { .. })));
    assert_eq!(store.head(&key).await.unwrap(), None);
    assert_eq!(keys(&store, "d", None, 9).await, Vec::<String>::new());
    assert_eq!(store.create(&key, body("y")).await.unwrap(), Creation::Created);
}

pub async fn creates_and_deletes_next_to_each_other_do_not_disturb(store: SharedStore) {
    let work = |n: usize| {
        let store = store.clone();
        async move {
            for round in 0..25 {
                let key = key(&format!("dir/sub/{n}-{round}"));
                assert_eq!(store.create(&key, body("x")).await.unwrap(), Creation::Created);
                store.delete(&key).await.unwrap();
            }
        }
    };
    join_all((0..4).map(work)).await;
    assert_eq!(keys(&store, "", None, 9).await, Vec::<String>::new());
}

pub async fn empty_and_large_objects_are_kept(store: SharedStore) {
    store.create(&key("empty"), Bytes::new()).await.unwrap();
    assert_eq!(store.get(&key("empty"), 0).await.unwrap(), Bytes::new());
    let pack: Bytes = (0..16 * MIB).map(|n| (n / 7) as u8).collect::<Vec<_>>().into();
    store.put(&key("pack"), pack.clone()).await.unwrap();
    assert!(store.get(&key("pack"), pack.len() as u64).await.unwrap() == pack);
}

pub async fn every_allowed_character_makes_a_key(store: SharedStore) {
    let name = "AZaz09._+-/x..y/--+__/0";
    store.create(&key(name), body("x")).await.unwrap();
    assert_eq!(store.get(&key(name), 9).await.unwrap(), "x");
    assert_eq!(keys(&store, "AZaz09._+-/", None, 9).await, [name]);
}

pub async fn times_are_those_of_writing(store: SharedStore) {
    store.put(&key("a"), body("1")).await.unwrap();
    let listed = store.list("a", None, 1).await.unwrap().pop().unwrap();
    let looked = store.head(&key("a")).await.unwrap().unwrap();
    let apart = |a: std::time::SystemTime, b| a.duration_since(b).unwrap_or_else(|e| e.duration());
    // HTTP dates have seconds.
    assert!(apart(listed.modified, looked.modified) <= Duration::from_secs(1));
    assert!(apart(listed.modified, std::time::SystemTime::now()) < Duration::from_secs(600));
    store.put(&key("b"), body("1")).await.unwrap();
    let later = store.head(&key("b")).await.unwrap().unwrap();
    assert!(later.modified >= looked.modified);
}

pub async fn a_dropped_create_leaves_a_whole_object_or_none(store: SharedStore) {
    for n in 0..20_u64 {
        let key = key(&format!("dropped/{n}"));
        let bytes: Bytes = vec![7; MIB].into();
        let create = store.create(&key, bytes.clone());
        let _ = tokio::time::timeout(Duration::from_micros(n * 200), create).await;
        match store.get(&key, 2 << 20).await {
            Ok(read) => assert!(read == bytes, "a part of an object"),
            Err(e) => assert!(matches!(e, BlobError::NotFound { .. }), "{e:?}"),
        }
        // The dropped one may still land; either way there is one whole object now.
        assert!(!matches!(store.create(&key, bytes.clone()).await.unwrap(), Creation::Unknown(_)));
        assert!(store.get(&key, 2 << 20).await.unwrap() == bytes);
    }
}
