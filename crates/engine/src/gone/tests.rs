use std::sync::Mutex;

use godwit_ownership::fence::FENCE_FORMAT;
use godwit_ownership::{Basis, Entry, Kind, Presence, Put, Read};
use godwit_types::{CheckpointId, Incarnation, LineageName, Owner, Seq, Tenant};
use tempfile::TempDir;

use super::*;

const OLD: Duration = Duration::from_secs(3600);

fn fence(gone: Option<Gone>) -> Fence {
    let text = serde_json::json!({
        "format": FENCE_FORMAT,
        "store": "main",
        "tenant": Tenant::node(),
        "lineage": LineageName::mint(),
        "incarnation": Incarnation::mint(),
        "state": "owned",
        "lived": true,
        "gone": gone,
    });
    Fence::decode(text.to_string().as_bytes()).unwrap()
}

fn me() -> Owner {
    Owner {
        cluster: "_none".into(),
        node: "a".into(),
        epoch: 1,
        pod_uid: "shop+web".into(),
        incarnation: Incarnation::mint(),
    }
}

fn write_bytes(dir: &TempDir, name: &str, bytes: &[u8], age: Duration) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    file.set_modified(SystemTime::now() - age).unwrap();
    path
}

fn write(dir: &TempDir, name: &str, gone: Option<Gone>, age: Duration) -> PathBuf {
    write_bytes(dir, name, &fence(gone).encode().unwrap(), age)
}

fn names(left: &[LeftOver]) -> Vec<String> {
    let mut names: Vec<_> = left.iter().map(|left| left.key.to_string()).collect();
    names.sort();
    names
}

/// A node whose store answers `answer`, and never about the pod `shop+stuck`.
struct Fake<F> {
    has_no_shim: bool,
    answer: F,
    told: Mutex<Vec<GonePod>>,
}

#[async_trait]
impl<F: Fn() -> Result<bool, NoStore> + Sync> World for Fake<F> {
    async fn has_no_shim(&self, _: &PodKey) -> bool {
        self.has_no_shim
    }

    async fn settle(&self, pod: GonePod) -> Result<bool, NoStore> {
        if pod.uid == "shop+stuck" {
            std::future::pending::<()>().await;
        }
        self.told.lock().unwrap().push(pod);
        (self.answer)()
    }
}

/// Settles what is in `dir`; what the store was told of.
async fn settle_all(
    dir: &TempDir,
    has_no_shim: bool,
    answer: impl Fn() -> Result<bool, NoStore> + Sync,
) -> Vec<GonePod> {
    let fake = Fake { has_no_shim, answer, told: Mutex::default() };
    each(left_over(dir.path()), &fake).await;
    fake.told.into_inner().unwrap()
}

#[test]
fn only_pods_that_are_gone_for_a_while_are_left_over() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir, "shop+gone", Some(Gone::Lost), OLD);
    write(&dir, "shop+wanted", Some(Gone::Wanted), QUIET + Duration::from_secs(60));
    write(&dir, "shop+young", Some(Gone::Lost), Duration::ZERO);
    write(&dir, "shop+lives", None, OLD);
    assert_eq!(names(&left_over(dir.path())), ["shop+gone", "shop+wanted"]);
    assert!(left_over(&dir.path().join("absent")).is_empty());
}

#[test]
fn a_fence_that_cannot_be_read_stays_and_hides_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let mut long = fence(Some(Gone::Lost)).encode().unwrap();
    long.resize(MAX_FENCE + 1, b' ');
    for (name, bytes) in [("shop+torn", &b"{"[..]), ("shop+empty", b""), ("shop+long", &long)] {
        write_bytes(&dir, name, bytes, OLD);
    }
    std::fs::create_dir(dir.path().join("shop+directory")).unwrap();
    write(&dir, "shop+gone", Some(Gone::Lost), OLD);
    assert_eq!(names(&left_over(dir.path())), ["shop+gone"]);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 5);
}

#[tokio::test]
async fn what_is_settled_is_removed_and_how_it_ended_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let lost = write(&dir, "shop+lost", Some(Gone::Lost), OLD);
    let wanted = write(&dir, "shop+wanted", Some(Gone::Wanted), 10 * OLD);
    let mut told = settle_all(&dir, true, || Ok(true)).await;
    told.sort_unstable_by(|a, b| a.uid.cmp(&b.uid));
    let words: Vec<_> = told.iter().map(|pod| (pod.uid.as_str(), pod.wanted)).collect();
    assert_eq!(words, [("shop+lost", false), ("shop+wanted", true)]);
    let expired = |pod: GonePod, horizon| pod.spec(me(), horizon).slot_expired;
    let slots: Vec<_> = told.into_iter().map(|pod| expired(pod, 10 * OLD)).collect();
    assert_eq!(slots, [false, true], "T/2 of the store has passed for one");
    assert!(!lost.exists() && !wanted.exists());
}

#[tokio::test]
async fn a_fence_stays_while_its_shim_lives_its_store_is_away_or_its_slot_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(&dir, "shop+web", Some(Gone::Lost), OLD);
    assert_eq!(settle_all(&dir, false, || Ok(true)).await, []);
    assert!(path.exists());
    let away = || Err(NoStore::Away { name: "main".into(), why: "not mounted".into() });
    assert_eq!(settle_all(&dir, true, away).await.len(), 1);
    assert!(path.exists());
    assert_eq!(settle_all(&dir, true, || Ok(false)).await.len(), 1);
    assert!(path.exists());
}

#[tokio::test]
async fn a_fence_that_somebody_has_written_meanwhile_is_not_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(&dir, "shop+web", Some(Gone::Lost), OLD);
    let starts_again = || {
        write(&dir, "shop+web", None, Duration::ZERO);
        Ok(true)
    };
    settle_all(&dir, true, starts_again).await;
    assert!(path.exists());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_never_answers_keeps_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let stuck = write(&dir, "shop+stuck", Some(Gone::Lost), OLD);
    let others = ["a", "z"].map(|name| write(&dir, name, Some(Gone::Lost), OLD));
    settle_all(&dir, true, || Ok(true)).await;
    assert!(stuck.exists());
    assert!(others.iter().all(|path| !path.exists()));
}

/// Its disk is full: everything can be read, and the outcome of a PUT is not known.
struct Full(Entry);

#[async_trait]
impl Log for Full {
    async fn newest(&self) -> Read<Option<Box<Entry>>> {
        Read::Known(Some(Box::new(self.0.clone())))
    }

    async fn slot(&self, _: Seq) -> Read<Option<Box<Entry>>> {
        Read::Known(None)
    }

    async fn put(&self, _: &Entry) -> Put {
        Put::Unknown
    }

    async fn presence(&self, _: CheckpointId) -> Read<Presence> {
        Read::Known(Presence::Gone)
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_takes_no_entry_is_given_up_for_now() {
    let fence = fence(Some(Gone::Wanted));
    let me = Owner { incarnation: fence.incarnation, ..me() };
    let pen = Pen { me, op: None, nonce: Nonce::mint(), at_ms: 1 };
    let owned = Basis::default().next(&pen, Kind::Start { forked_from: None }).unwrap();
    let spec = KeeperSpec { pen, fence, wanted: true, slot_expired: true };
    assert!(!keep(&Full(owned), spec).await);
}
