//! The stores of a node: each opened when it is there, and never another one in its place.
//!
//! A node remembers the id of every store that it has opened, beyond reboots. So a directory that is not mounted, or a bucket that was
//! made anew, is away: what it lacks is not believed to be gone, and nothing is written to it.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use godwit_store::{Access, Store, StoreConfig, StoreError};
use godwit_types::Code;
use godwit_wire::api::StoreStatus;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

/// Between attempts to open a store that is away.
const AGAIN: Duration = Duration::from_secs(5);
/// For a store to be opened, while the agent cannot start.
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
            Self::Record { .. } => Code::Internal,
        }
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
}

impl Stores {
    /// The stores of a configuration; `default` is used by requests that name none. Ids are remembered in `directory`.
    #[must_use]
    pub fn new(configs: BTreeMap<String, StoreConfig>, default: String, directory: &Path) -> Self {
        let slot = |(name, config): (String, StoreConfig)| {
            let record = directory.join(format!("{name}.json"));
            let why = Mutex::new("it is being opened".to_owned());
            (name, Slot { config, record, opened: OnceLock::new(), why })
        };
        Self { by_name: configs.into_iter().map(slot).collect(), default }
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

    /// Those that are open.
    pub fn opened(&self) -> impl Iterator<Item = (&str, &Store)> {
        self.by_name.iter().filter_map(|(name, slot)| Some((name.as_str(), slot.opened.get()?)))
    }

    /// Tries once to open all that are not open, at most for [`PATIENCE`].
    ///
    /// # Errors
    /// The first that time cannot mend: a part of the configuration is wrong.
    pub async fn open(&self) -> Result<(), (String, OpenError)> {
        let closed = self.by_name.iter().filter(|(_, slot)| slot.opened.get().is_none());
        let attempts = closed.map(|(name, slot)| async move {
            match slot.open(name).await {
                Err(error) if error.code() == Code::Unavailable => {
                    slot.is_away(name, full(&error));
                    Ok(())
                }
                opened => opened.map_err(|error| (name.clone(), error)),
            }
        });
        let all = futures::future::join_all(attempts);
        match tokio::time::timeout(PATIENCE, all).await {
            Ok(results) => results.into_iter().collect(),
            Err(_) => {
                let closed = self.by_name.iter().filter(|(_, slot)| slot.opened.get().is_none());
                closed.for_each(|(name, slot)| slot.is_away(name, "it does not answer".to_owned()));
                Ok(())
            }
        }
    }

    /// Opens those that are away as soon as they are there, until cancelled.
    pub async fn keep_opening(&self, stop: CancellationToken) {
        while self.by_name.values().any(|slot| slot.opened.get().is_none()) {
            if stop.run_until_cancelled(tokio::time::sleep(AGAIN)).await.is_none() {
                return;
            }
            if let Some(Err((store, error))) = stop.run_until_cancelled(self.open()).await {
                tracing::error!(store, error = full(&error), "a store cannot be used");
            }
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
            tracing::warn!(store = name, why, "a store is away; it is tried again");
            *last = why;
        }
    }

    async fn open(&self, name: &str) -> Result<(), OpenError> {
        let store = match self.known() {
            Some(known) => self.open_known(known).await?,
            None => {
                let store = Store::open(&self.config).await?;
                self.remember(&store)?;
                store
            }
        };
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

/// An error with all its causes.
fn full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
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

        fn stores(&self) -> Stores {
            let config =
                StoreConfig::from_url(&format!("file://{}", self.store().display())).unwrap();
            let configs = BTreeMap::from([("main".to_owned(), config)]);
            Stores::new(configs, "main".to_owned(), &self.dir.path().join("state"))
        }

        async fn opened(&self) -> Stores {
            let stores = self.stores();
            stores.open().await.unwrap();
            stores
        }
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
