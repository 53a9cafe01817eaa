//! `/etc/godwit/agent.toml`: the keys are described in the file `agent.toml` beside this crate.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use godwit_store::StoreConfig;
use godwit_types::{Bytes, names};
use serde::{Deserialize, Deserializer};

use crate::kubernetes;

/// One section of a head holds each such file.
const GHOST_LIMITS: RangeInclusive<u64> = 1 << 20..=1000 << 20;
/// For how long a restored container may wait for memory.
const HYDRATION_DEADLINES: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(24 * 3600);

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("{path} is not valid")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: toml::de::Error,
    },
    /// A value that contradicts another.
    #[error("{path}: {what}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        what: String,
    },
}

/// The agent's configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// Name of this node; the host name when absent.
    pub(crate) node: Option<String>,
    /// Name of the store that requests use when they name none.
    pub(crate) default_store: String,
    /// Memory for capture.
    #[serde(deserialize_with = "size")]
    pub(crate) memory_budget: Bytes,
    /// Longest freeze.
    #[serde(deserialize_with = "duration")]
    pub(crate) freeze_deadline: Duration,
    /// Longest wait for memory of a restored container while none comes.
    #[serde(deserialize_with = "duration")]
    pub(crate) hydration_deadline: Duration,
    /// Operations at the same time.
    pub(crate) operations: usize,
    /// CRIU.
    pub(crate) criu: PathBuf,
    /// How much CRIU writes into its log.
    pub(crate) criu_log_level: i32,
    /// Most bytes of deleted files that are still open which a checkpoint takes along.
    #[serde(deserialize_with = "size")]
    pub(crate) ghost_limit: Bytes,
    /// containerd's socket.
    pub(crate) containerd: PathBuf,
    /// Stores by name.
    pub(crate) stores: BTreeMap<String, StoreConfig>,
    /// Absent: this node is in no cluster.
    pub(crate) kubernetes: Option<kubernetes::Settings>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node: None,
            default_store: "local".to_owned(),
            memory_budget: Bytes(2 << 30),
            freeze_deadline: Duration::from_secs(10),
            hydration_deadline: Duration::from_secs(300),
            operations: 4,
            criu: PathBuf::from("/usr/sbin/criu"),
            criu_log_level: 1,
            ghost_limit: Bytes(512 << 20),
            containerd: PathBuf::from(names::CONTAINERD_SOCKET),
            stores: local_store(),
            kubernetes: None,
        }
    }
}

/// The store of a node that was not told of any.
fn local_store() -> BTreeMap<String, StoreConfig> {
    let url = format!("file://{}/store", names::STATE_DIR);
    StoreConfig::from_url(&url).into_iter().map(|store| ("local".to_owned(), store)).collect()
}

impl Config {
    /// Reads the file; the defaults if it is the default path and does not exist.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub(crate) fn read(path: &Path) -> Result<Self, ConfigError> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(path, &text),
            Err(e)
                if e.kind() == std::io::ErrorKind::NotFound
                    && path == Path::new(names::AGENT_CONFIG) =>
            {
                Ok(Self::default())
            }
            Err(source) => Err(ConfigError::Read { path: path.to_owned(), source }),
        }
    }

    /// With this kubeconfig, if one was named, in the place of the file's.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] for a node of which the file at `path` says no cluster.
    pub(crate) fn reached_by(
        mut self,
        path: &Path,
        kubeconfig: Option<PathBuf>,
    ) -> Result<Self, ConfigError> {
        let Some(kubeconfig) = kubeconfig else { return Ok(self) };
        let Some(kubernetes) = &mut self.kubernetes else {
            let what = "--kubeconfig is for a node of a cluster, whose name lineage logs need: say `cluster = \"NAME\"` in the section \
                        [kubernetes]";
            return Err(ConfigError::Invalid { path: path.to_owned(), what: what.to_owned() });
        };
        kubernetes.kubeconfig = Some(kubeconfig);
        Ok(self)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text)
            .map_err(|source| ConfigError::Parse { path: path.to_owned(), source })?;
        let invalid = |what: String| ConfigError::Invalid { path: path.to_owned(), what };
        if !config.stores.contains_key(&config.default_store) {
            let names = config.stores.keys().cloned().collect::<Vec<_>>().join(", ");
            let missing = &config.default_store;
            return Err(invalid(format!(
                "default_store names {missing:?}, but [stores] has only: {names}"
            )));
        }
        if let Some(name) = config.stores.keys().find(|name| !is_store_name(name)) {
            return Err(invalid(format!(
                "the name of the store {name:?} must be 1 to 63 letters, digits, '-' or '_'"
            )));
        }
        let clusters_name = config.kubernetes.as_ref().map(|kubernetes| &kubernetes.cluster);
        if clusters_name.is_some_and(|name| !is_store_name(name) || name.starts_with('_')) {
            return Err(invalid(
                "the name of the cluster must be 1 to 63 letters, digits, '-' or '_', the first no '_'".to_owned(),
            ));
        }
        if !(1..=64).contains(&config.operations) {
            return Err(invalid("operations must be from 1 to 64".to_owned()));
        }
        if !(1..=4).contains(&config.criu_log_level) {
            return Err(invalid("criu_log_level must be from 1 to 4".to_owned()));
        }
        if !GHOST_LIMITS.contains(&config.ghost_limit.0) {
            return Err(invalid("ghost_limit must be from 1 MiB to 1000 MiB".to_owned()));
        }
        if config.freeze_deadline.is_zero() || config.freeze_deadline > Duration::from_secs(600) {
            return Err(invalid("freeze_deadline must be from 1ms to 10min".to_owned()));
        }
        if !HYDRATION_DEADLINES.contains(&config.hydration_deadline) {
            return Err(invalid("hydration_deadline must be from 1s to 1day".to_owned()));
        }
        Ok(config)
    }
}

/// It names a file, too.
fn is_store_name(name: &str) -> bool {
    let is_one = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    (1..=63).contains(&name.len()) && name.chars().all(is_one)
}

fn duration<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
    humantime::parse_duration(&String::deserialize(d)?).map_err(serde::de::Error::custom)
}

fn size<'de, D: Deserializer<'de>>(d: D) -> Result<Bytes, D::Error> {
    String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(Path::new("agent.toml"), text).map_err(|e| match e {
            ConfigError::Parse { source, .. } => source.to_string(),
            other => other.to_string(),
        })
    }

    #[test]
    fn the_example_file_is_valid_and_says_the_defaults() {
        let example = parse(include_str!("../agent.toml")).unwrap();
        let default = Config::default();
        assert_eq!(example.memory_budget, default.memory_budget);
        assert_eq!(example.freeze_deadline, default.freeze_deadline);
        assert_eq!(example.ghost_limit, default.ghost_limit);
        assert_eq!(example.hydration_deadline, default.hydration_deadline);
        assert_eq!(example.operations, default.operations);
        assert_eq!(example.criu_log_level, default.criu_log_level);
        assert_eq!(example.criu, default.criu);
        assert_eq!(example.containerd, default.containerd);
        assert_eq!(example.default_store, default.default_store);
        assert_eq!(example.stores.len(), 1);
    }

    /// What the decoder of `T` says that it knows.
    fn keys<T: serde::de::DeserializeOwned + std::fmt::Debug>() -> Vec<String> {
        let told = toml::from_str::<T>("no_such_key = 1").unwrap_err().message().to_owned();
        let known = told.split_once("expected ").unwrap().1;
        known.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    #[test]
    fn the_example_file_has_every_key_and_each_is_read_when_it_is_uncommented() {
        let text = include_str!("../agent.toml");
        let (own, of_stores) = (keys::<Config>(), keys::<StoreConfig>());
        let of_kubernetes = keys::<kubernetes::Settings>();
        assert!(own.len() > 8 && of_stores.len() > 13, "{own:?} {of_stores:?}");
        let has = |key: &&String| {
            let line = format!("{key} = ");
            text.lines().any(|l| l.trim_start_matches('#').starts_with(&line))
                || ["stores", "kubernetes"].contains(&key.as_str())
        };
        let hidden: Vec<_> =
            own.iter().chain(&of_stores).chain(&of_kubernetes).filter(|key| !has(key)).collect();
        assert!(hidden.is_empty(), "agent.toml does not mention {hidden:?}");
        let is_setting = |line: &str| line.starts_with('[') || line.contains(" = ");
        let uncommented = |line: &str| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with([' ', '#']) && is_setting(rest) => rest.to_owned(),
            _ => line.to_owned(),
        };
        let all: Vec<String> = text.lines().map(uncommented).collect();
        let config = parse(&all.join("\n")).unwrap();
        assert_eq!(config.kubernetes.unwrap().cluster, "production");
        assert_eq!(config.stores.len(), 2);
        assert_eq!(config.stores["main"].horizon_seconds, Some(86_400));
        assert_eq!(config.stores["main"].max_requests, Some(64));
    }

    #[test]
    fn the_kubeconfig_of_the_command_line_goes_before_the_files() {
        let path = Path::new("agent.toml");
        let text = "[kubernetes]\ncluster = \"a\"\nkubeconfig = \"/file\"";
        let with = |text: &str, named: Option<&str>| {
            parse(text).unwrap().reached_by(path, named.map(PathBuf::from))
        };
        let kubeconfig = |config: Config| config.kubernetes.unwrap().kubeconfig.unwrap();
        assert_eq!(kubeconfig(with(text, None).unwrap()), Path::new("/file"));
        assert_eq!(kubeconfig(with(text, Some("/line")).unwrap()), Path::new("/line"));
        let alone = with("", Some("/line")).unwrap_err().to_string();
        assert!(alone.contains("agent.toml") && alone.contains("cluster = \"NAME\""), "{alone}");
        assert!(with("", None).unwrap().kubernetes.is_none());
    }

    #[test]
    fn wrong_values_are_refused_with_a_sentence() {
        assert!(parse("memory_budget = \"2 GB\"").unwrap_err().contains("2 GiB"));
        assert!(parse("default_store = \"x\"").unwrap_err().contains("only: local"));
        assert!(parse("operations = 0").unwrap_err().contains("1 to 64"));
        assert!(parse("freeze_deadline = \"1h\"").unwrap_err().contains("10min"));
        assert!(parse("ghost_limit = \"2 GiB\"").unwrap_err().contains("1000 MiB"));
        assert!(parse("hydration_deadline = \"0s\"").unwrap_err().contains("1day"));
        let outside = "default_store = \"../x\"\n[stores.\"../x\"]\nurl = \"memory://x\"";
        assert!(parse(outside).unwrap_err().contains("letters"));
        assert!(parse("memry = 1").unwrap_err().contains("memry"));
    }
}
