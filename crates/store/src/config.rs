//! Where a store is and how to reach it: what users write in TOML.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use url::Url;

use crate::error::StoreError;

/// One attempt of one request, besides the body that it sends.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// A body is given one second more for so many bytes: each attempt begins at the first byte, so this is the slowest wire
/// on which a write gets through. A checkpoint begins with two at once: 2 × 64 KiB/s = 1 Mbit/s.
const SLOWEST_BYTES_PER_SECOND: u64 = 64 << 10;

/// One store. Only `url` is needed; the rest has defaults.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreConfig {
    /// `s3://bucket/prefix`, `file:///directory` or `memory://` (tests).
    pub url: Url,
    /// S3: URL of a server other than AWS; plain `http` is for tests.
    #[serde(default)]
    pub endpoint: Option<Url>,
    /// S3: region; by default what the environment says, or `us-east-1` with an endpoint.
    #[serde(default)]
    pub region: Option<String>,
    /// S3: bucket in the path instead of the host name; by default exactly where an endpoint is set.
    #[serde(default)]
    pub path_style: Option<bool>,
    /// S3: static credentials. Without them the environment, the profile, web identity or the machine's role is used.
    #[serde(default)]
    pub access_key_id: Option<String>,
    /// S3: the secret of `access_key_id`.
    #[serde(default)]
    pub secret_access_key: Option<Secret>,
    /// S3: a file with the secret, instead of the secret.
    #[serde(default)]
    pub secret_access_key_file: Option<PathBuf>,
    /// S3: token of temporary credentials.
    #[serde(default)]
    pub session_token: Option<Secret>,
    /// S3: name of a profile of the AWS configuration files.
    #[serde(default)]
    pub profile: Option<String>,
    /// S3: PEM file with certificates to trust besides the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Most requests at once (default 64).
    #[serde(default)]
    pub max_requests: Option<usize>,
    /// Most bytes per second, both directions together (default: no limit).
    #[serde(default)]
    pub max_bytes_per_second: Option<u64>,
    /// Seconds for one attempt of one request (default 60). A write gets one more for each 64 KiB of its body.
    #[serde(default)]
    pub request_timeout_seconds: Option<u64>,
    /// For a store that does not exist yet: after how many seconds unreferenced objects are garbage (default 86400). An
    /// existing store keeps the value that it was made with.
    #[serde(default)]
    pub horizon_seconds: Option<u64>,
}

impl StoreConfig {
    /// The configuration that has only a URL.
    ///
    /// # Errors
    /// The text is not a URL.
    pub fn from_url(url: &str) -> Result<Self, StoreError> {
        let url = Url::parse(url).map_err(|e| StoreError::Config(format!("{url:?}: {e}")))?;
        Ok(Self {
            url,
            endpoint: None,
            region: None,
            path_style: None,
            access_key_id: None,
            secret_access_key: None,
            secret_access_key_file: None,
            session_token: None,
            profile: None,
            ca_file: None,
            max_requests: None,
            max_bytes_per_second: None,
            request_timeout_seconds: None,
            horizon_seconds: None,
        })
    }

    /// How long one attempt of one request may take.
    #[must_use]
    pub fn request_timeout(&self) -> Duration {
        self.request_timeout_seconds.map_or(REQUEST_TIMEOUT, Duration::from_secs)
    }

    /// How long one attempt to write so many bytes may take.
    #[must_use]
    pub fn write_timeout(&self, bytes: usize) -> Duration {
        self.request_timeout() + Duration::from_secs(bytes as u64 / SLOWEST_BYTES_PER_SECOND)
    }

    /// The two parts of `s3://bucket/prefix`; the prefix is empty or ends with `/`.
    pub(crate) fn bucket_and_prefix(&self) -> Result<(String, String), StoreError> {
        let Some(bucket) = self.url.host_str() else {
            return Err(StoreError::Config(format!("{}: s3:// needs a bucket", self.url)));
        };
        let prefix = self.url.path().trim_matches('/');
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Ok((bucket.to_owned(), prefix))
    }

    /// The directory of `file:///directory`.
    pub(crate) fn directory(&self) -> Result<PathBuf, StoreError> {
        self.url.to_file_path().map_err(|()| {
            StoreError::Config(format!("{}: write file:///directory, an absolute path", self.url))
        })
    }
}

/// Text that no message shows.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Takes the text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for the one that signs requests.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_of_one_line_is_enough_and_a_typo_is_refused() {
        let config: StoreConfig = toml::from_str("url = 's3://bucket/a/b/'").unwrap();
        assert_eq!(config.bucket_and_prefix().unwrap(), ("bucket".into(), "a/b/".into()));
        assert!(toml::from_str::<StoreConfig>("url = 's3://b'\nregoin = 'x'").is_err());
    }

    #[test]
    fn secrets_are_not_shown() {
        let text = "url = 's3://b'\naccess_key_id = 'id'\nsecret_access_key = 'hunter2'";
        let config: StoreConfig = toml::from_str(text).unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    #[test]
    fn a_relative_directory_is_refused() {
        assert!(StoreConfig::from_url("file://relative/path").unwrap().directory().is_err());
        let config = StoreConfig::from_url("file:///var/lib/godwit/store").unwrap();
        assert_eq!(config.directory().unwrap(), PathBuf::from("/var/lib/godwit/store"));
    }
}
