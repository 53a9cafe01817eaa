//! The stores of a node: each opened when it is there, and never another one in its place.
//!
//! A node remembers the id of every store that it has opened, beyond reboots. So a directory that is not mounted, or a bucket that was
//! made anew, is away: what it lacks is not believed to be gone, and nothing is written to it.
//!
//! Under the name of a node only one machine writes: a store where another one bears it is not used.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use godwit_store::{Access, Store, StoreConfig, StoreError};
use godwit_types::{Code, MachineId};
use godwit_wire::api::StoreStatus;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

/// Between attempts to open a store that is away.
const AGAIN: Duration = Duration::from_secs(5);
/// For a store to be opened, while starts of containers that need it wait.
const PATIENCE: Duration = Duration::from_secs(15);

/// A store that cannot be used now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoStore {
    /// Not configured.
    #[error("no store {name:?} in agent.toml; there are: {known}")]
    Unknown {
        /// The name that was asked for.
        name: String,
        /// Those that are.
        known: String,
    },
    /// Configured, but it was not there yet since the agent started.
    #[error("the store {name:?} is away: {why}")]
    Away {
        /// Its name.
        name: String,
        /// What its last opening failed with.
        why: String,
    },
}

impl NoStore {
    /// What it means to the caller.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Unknown { .. } => Code::NotFound,
            Self::Away { .. } => Code::Unavailable,
        }
    }
}

/// Why a store was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store itself.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is not the one that was there before.
    #[error(
        "{url} is not the store that this node used before ({known}), but {found}: mount the directory, or, if it was replaced on purpose and no container of this node is in it, delete {record}"
    )]
    Another {
        /// Its URL.
        url: String,
        /// The id that it had.
        known: String,
        /// What is there.
        found: String,
        /// Where the id is remembered.
        record: String,
    },
    /// There the name of this node is another machine's. Under one name both would be one to the log, and both would run.
    #[error(
        "the node name {node:?} belongs to another machine ({theirs}, since {since}; this one is {ours}): give this machine a `node` of its own in agent.toml, or, if it was installed anew and nothing of {theirs} runs any more, delete {record}"
    )]
    OtherMachine {
        /// The name.
        node: String,
        /// Who bears it there.
        theirs: MachineId,
        /// Since when.
        since: String,
        /// This machine.
        ours: MachineId,
        /// Address of the object that says so.
        record: String,
    },
    /// Its id cannot be remembered.
    #[error("the id of a store cannot be remembered in {record}")]
    Record {
        /// Where.
        record: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

impl OpenError {
    /// What it means: what time, or a person at the store, can mend is `Unavailable`.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Store(e) => e.code(),
            Self::Another { .. } => Code::Unavailable,
            Self::OtherMachine { .. } => Code::Refused,
            Self::Record { .. } => Code::Internal,
        }
    }
}

/// Who this node is to its stores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bearer {
    /// Its cluster.
    pub cluster: String,
    /// Its name.
    pub node: String,
    /// The machine that bears it.
    pub machine: MachineId,
}

impl Bearer {
    /// That no other machine writes into this store under this name.
    async fn claim(&self, store: &Store) -> Result<(), OpenError> {
        let (found, record) = store.bind_node(&self.cluster, &self.node, &self.machine).await?;
        if found.machine_id == self.machine {
            return Ok(());
        }
        Err(OpenError::OtherMachine {
            node: self.node.clone(),
            theirs: found.machine_id,
            since: found.since.to_string(),
            ours: self.machine.clone(),
            record,
        })
    }
}

/// What is remembered of a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    url: String,
    id: String,
}

#[derive(Debug)]
struct Slot {
    config: StoreConfig,
    /// The file that remembers its id.
    record: PathBuf,
    opened: OnceLock<Store>,
    /// Why it was not opened yet.
    why: Mutex<String>,
}

/// See the module.
#[derive(Debug)]
pub struct Stores {
    by_name: BTreeMap<String, Slot>,
    default: String,
    me: Bearer,
    /// Each was tried once.
    tried: CancellationToken,
}

impl Stores {
    /// The stores of a configuration; `default` is used by requests that name none. Ids are remembered in `directory`.
    #[must_use]
    pub fn new(
        configs: BTreeMap<String, StoreConfig>,
        default: String,
        me: Bearer,
        directory: &Path,
    ) -> Self {
        let slot = |(name, config): (String, StoreConfig)| {
            let record = directory.join(format!("{name}.json"));
            let why = Mutex::new("it is being opened".to_owned());
            (name, Slot { config, record, opened: OnceLock::new(), why })
        };
        let by_name = configs.into_iter().map(slot).collect();
        Self { by_name, default, me, tried: CancellationToken::new() }
    }

    /// A store by name, or the default one; with its name.
    ///
    /// # Errors
    /// There is none of this name, or it is away.
    pub fn get(&self, name: Option<&str>) -> Result<(&str, &Store), NoStore> {
        let wanted = name.unwrap_or(&self.default);
        let Some((name, slot)) = self.by_name.get_key_value(wanted) else {
            let known = self.by_name.keys().cloned().collect::<Vec<_>>().join(", ");
            return Err(NoStore::Unknown { name: wanted.to_owned(), known });
        };
        let away = || NoStore::Away { name: name.clone(), why: slot.why() };
        Ok((name, slot.opened.get().ok_or_else(away)?))
    }

    /// Host and port of the server of a store, if its configuration names one.
    #[must_use]
    pub fn server(&self, name: &str) -> Option<(String, u16)> {
        let endpoint = self.by_name.get(name)?.config.endpoint.as_ref()?;
        let host = endpoint.host_str()?.trim_matches(['[', ']']).to_owned();
        Some((host, endpoint.port_or_known_default()?))
    }

    /// Those that are open.
    pub fn opened(&self) -> impl Iterator<Item = (&str, &Store)> {
        self.by_name.iter().filter_map(|(name, slot)| Some((name.as_str(), slot.opened.get()?)))
    }

    /// Tries once to open all that are not open, at most for [`PATIENCE`].
    ///
    /// # Errors
    /// The first that time cannot mend: a part of the configuration is wrong, or the default store knows this node as another machine.
    pub async fn open(&self) -> Result<(), (String, OpenError)> {
        let closed = self.by_name.iter().filter(|(_, slot)| slot.opened.get().is_none());
        let attempts = closed.map(|(name, slot)| async move {
            let Err(error) = slot.open(name, &self.me).await else { return Ok(()) };
            slot.is_away(name, crate::sentence(&error));
            if self.does_without(name, &error) { Ok(()) } else { Err((name.clone(), error)) }
        });
        let all = futures::future::join_all(attempts);
        match tokio::time::timeout(PATIENCE, all).await {
            Ok(results) => results.into_iter().collect::<Result<(), _>>()?,
            Err(_) => {
                let closed = self.by_name.iter().filter(|(_, slot)| slot.opened.get().is_none());
                closed.for_each(|(name, slot)| slot.is_away(name, "it does not answer".to_owned()));
            }
        }
        self.tried.cancel();
        Ok(())
    }

    /// Waits until [`Stores::open`] has come to its end once: only then a store that is not open is away.
    pub async fn tried(&self) {
        self.tried.cancelled().await;
    }

    /// Whether the agent serves while this store is closed for this reason.
    fn does_without(&self, name: &str, why: &OpenError) -> bool {
        match why {
            OpenError::OtherMachine { .. } => name != self.default,
            why => why.code() == Code::Unavailable,
        }
    }

    /// Opens those that are away as soon as they are there, until cancelled.
    pub async fn keep_opening(&self, stop: CancellationToken) {
        while self.by_name.values().any(|slot| slot.opened.get().is_none()) {
            if stop.run_until_cancelled(tokio::time::sleep(AGAIN)).await.is_none() {
                return;
            }
            // What cannot be opened is told by who tries.
            let _ = stop.run_until_cancelled(self.open()).await;
        }
    }

    /// For people.
    #[must_use]
    pub fn status(&self) -> Vec<StoreStatus> {
        let status = |(name, slot): (&String, &Slot)| StoreStatus {
            name: name.clone(),
            url: slot.config.url.to_string(),
            state: match slot.opened.get() {
                Some(_) => "ready".to_owned(),
                None => format!("away: {}", slot.why()),
            },
        };
        self.by_name.iter().map(status).collect()
    }
}

impl Slot {
    fn why(&self) -> String {
        self.why.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn is_away(&self, name: &str, why: String) {
        let mut last = self.why.lock().unwrap_or_else(PoisonError::into_inner);
        if *last != why {
            tracing::warn!(store = name, why, "a store cannot be used now; it is tried again");
            *last = why;
        }
    }

    async fn open(&self, name: &str, me: &Bearer) -> Result<(), OpenError> {
        let known = self.known();
        let is_new = known.is_none();
        let store = match known {
            Some(known) => self.open_known(known).await?,
            None => Store::open(&self.config).await?,
        };
        me.claim(&store).await?;
        if is_new {
            self.remember(&store)?;
        }
        tracing::info!(store = name, url = store.name(), "store opened");
        let _ = self.opened.set(store);
        Ok(())
    }

    async fn open_known(&self, known: String) -> Result<Store, OpenError> {
        match Store::open_for(&self.config, Access::Write).await {
            Ok(store) if store.identity().id.to_string() == known => Ok(store),
            Ok(store) => Err(self.another(known, format!("store {}", store.identity().id))),
            Err(StoreError::NotAStore { .. }) => Err(self.another(known, "no store".to_owned())),
            Err(error) => Err(error.into()),
        }
    }

    fn another(&self, known: String, found: String) -> OpenError {
        let (url, record) = (self.config.url.to_string(), self.record.display().to_string());
        OpenError::Another { url, known, found, record }
    }

    /// The id that it had, if it was opened before under this URL.
    fn known(&self) -> Option<String> {
        let known: Known = serde_json::from_slice(&std::fs::read(&self.record).ok()?).ok()?;
        (known.url == self.config.url.as_str()).then_some(known.id)
    }

    /// Beyond a power cut. What is in memory alone is another store after each start.
    fn remember(&self, store: &Store) -> Result<(), OpenError> {
        if self.config.url.scheme() == "memory" {
            return Ok(());
        }
        let url = self.config.url.to_string();
        let known = Known { url, id: store.identity().id.to_string() };
        let failed =
            |source| OpenError::Record { record: self.record.display().to_string(), source };
        serde_json::to_vec(&known)
            .map_err(std::io::Error::other)
            .and_then(|text| write_durably(&self.record, &text))
            .map_err(failed)
    }
}

fn write_durably(path: &Path, text: &[u8]) -> std::io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let new = path.with_extension("new");
    let mut file = std::fs::File::create(&new)?;
    file.write_all(text)?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    std::fs::File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Place {
        dir: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Self {
            Self { dir: tempfile::tempdir().unwrap() }
        }

        fn store(&self) -> PathBuf {
            self.dir.path().join("store")
        }

        fn config(&self) -> StoreConfig {
            StoreConfig::from_url(&format!("file://{}", self.store().display())).unwrap()
        }

        fn stores(&self) -> Stores {
            let configs = BTreeMap::from([("main".to_owned(), self.config())]);
            Stores::new(configs, "main".to_owned(), machine('a'), &self.dir.path().join("state"))
        }

        async fn opened(&self) -> Stores {
            let stores = self.stores();
            stores.open().await.unwrap();
            stores
        }
    }

    /// A machine that says it is the node `debian`.
    fn machine(digit: char) -> Bearer {
        let machine = MachineId::new(digit.to_string().repeat(32)).unwrap();
        Bearer { cluster: "_none".to_owned(), node: "debian".to_owned(), machine }
    }

    #[tokio::test]
    async fn a_second_machine_of_one_name_does_not_get_the_store() {
        let place = Place::new();
        place.opened().await;
        let configs = || BTreeMap::from([("main".to_owned(), place.config())]);
        let state = place.dir.path().join("of-the-second");
        let second = Stores::new(configs(), "main".to_owned(), machine('b'), &state);
        for _ in 0..2 {
            let (_, error) = second.open().await.unwrap_err();
            let (code, told) = (error.code(), error.to_string());
            assert_eq!(code, Code::Refused);
            assert!(told.contains("give this machine a `node` of its own"), "{told}");
            assert!(told.contains("/nodes/_none/debian/machine"), "{told}");
            assert!(second.get(None).is_err() && second.opened().next().is_none());
        }
        // The first one comes and goes as it likes.
        place.opened().await.get(None).unwrap();
        // Another name of its own.
        let me = Bearer { node: "debian-2".to_owned(), ..machine('b') };
        let renamed = Stores::new(configs(), "main".to_owned(), me, &state);
        renamed.open().await.unwrap();
        renamed.get(None).unwrap();
    }

    #[tokio::test]
    async fn a_store_that_is_not_the_default_one_is_closed_to_a_second_machine_and_says_why() {
        let place = Place::new();
        place.opened().await;
        let own = StoreConfig::from_url("memory://own").unwrap();
        let configs =
            BTreeMap::from([("main".to_owned(), place.config()), ("own".to_owned(), own)]);
        let state = place.dir.path().join("of-the-second");
        let second = Stores::new(configs, "own".to_owned(), machine('b'), &state);
        second.open().await.unwrap();
        second.get(None).unwrap();
        let refused = second.get(Some("main")).unwrap_err().to_string();
        assert!(refused.contains("another machine"), "{refused}");
    }

    #[tokio::test]
    async fn a_store_that_is_not_mounted_is_away_and_nothing_is_made_in_its_place() {
        let place = Place::new();
        let id = place.opened().await.get(None).unwrap().1.identity().id;
        let away = place.dir.path().join("away");
        std::fs::rename(place.store(), &away).unwrap();
        std::fs::create_dir(place.store()).unwrap();
        let stores = place.opened().await;
        let error = stores.get(Some("main")).unwrap_err();
        assert_eq!(error.code(), Code::Unavailable);
        assert!(error.to_string().contains("is not the store that this node used before"));
        assert!(stores.status()[0].state.starts_with("away: "), "{:?}", stores.status());
        assert_eq!(std::fs::read_dir(place.store()).unwrap().count(), 0);
        // It is mounted again.
        std::fs::remove_dir(place.store()).unwrap();
        std::fs::rename(&away, place.store()).unwrap();
        stores.open().await.unwrap();
        assert_eq!(stores.get(None).unwrap().1.identity().id, id);
        assert_eq!(stores.status()[0].state, "ready");
    }

    #[tokio::test]
    async fn what_needs_a_store_waits_until_all_were_tried_and_no_longer() {
        let place = Place::new();
        let stores = place.stores();
        assert!(futures::poll!(std::pin::pin!(stores.tried())).is_pending());
        stores.open().await.unwrap();
        stores.tried().await;
        // One that is away was tried, too.
        std::fs::remove_dir_all(place.store()).unwrap();
        let without = place.opened().await;
        without.tried().await;
        assert_eq!(without.get(None).unwrap_err().code(), Code::Unavailable);
    }

    #[tokio::test]
    async fn another_store_in_its_place_is_not_used_until_the_old_one_is_forgotten() {
        let place = Place::new();
        place.opened().await;
        std::fs::remove_dir_all(place.store()).unwrap();
        let url = format!("file://{}", place.store().display());
        let other = Store::open(&StoreConfig::from_url(&url).unwrap()).await.unwrap();
        let stores = place.opened().await;
        let error = stores.get(None).unwrap_err().to_string();
        assert!(error.contains(&other.identity().id.to_string()), "{error}");
        std::fs::remove_file(place.dir.path().join("state/main.json")).unwrap();
        stores.open().await.unwrap();
        assert_eq!(stores.get(None).unwrap().1.identity(), other.identity());
    }

    #[tokio::test]
    async fn a_store_that_no_configuration_names_is_told_with_those_that_are() {
        let error = Place::new().opened().await.get(Some("x")).unwrap_err();
        assert_eq!(error.code(), Code::NotFound);
        assert_eq!(error.to_string(), "no store \"x\" in agent.toml; there are: main");
    }
}
