//! The SDK's client: endpoint, credentials, one TLS stack, timeouts.

use std::path::Path;
use std::time::Duration;

use aws_config::{BehaviorVersion, ConfigLoader};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation, SharedHttpClient,
};
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};

use crate::config::StoreConfig;
use crate::error::StoreError;

/// A connection that is not made in this time will not be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Where an endpoint is given and no region: what servers other than AWS expect.
const DEFAULT_REGION: &str = "us-east-1";

/// Builds the client.
pub(super) async fn build(config: &StoreConfig) -> Result<Client, StoreError> {
    let shared = loader(config)?.load().await;
    let settings = aws_sdk_s3::config::Builder::from(&shared)
        .force_path_style(config.path_style.unwrap_or(config.endpoint.is_some()))
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts(config.request_timeout()))
        // Newer checksums by trailer are unknown to many servers; SigV4 signs the digest of a body in any case.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    Ok(Client::from_conf(settings.build()))
}

fn loader(config: &StoreConfig) -> Result<ConfigLoader, StoreError> {
    let mut loader = aws_config::defaults(BehaviorVersion::latest()).http_client(http(config)?);
    if let Some(endpoint) = &config.endpoint {
        loader = loader.endpoint_url(endpoint.as_str());
    }
    if let Some(region) = region(config) {
        loader = loader.region(region);
    }
    if let Some(profile) = &config.profile {
        loader = loader.profile_name(profile);
    }
    if let Some(credentials) = credentials(config)? {
        loader = loader.credentials_provider(credentials);
    }
    Ok(loader)
}

fn region(config: &StoreConfig) -> Option<Region> {
    let default = config.endpoint.as_ref().map(|_| DEFAULT_REGION.to_owned());
    config.region.clone().or(default).map(Region::new)
}

fn credentials(config: &StoreConfig) -> Result<Option<Credentials>, StoreError> {
    let Some(id) = &config.access_key_id else { return Ok(None) };
    let secret = match (&config.secret_access_key, &config.secret_access_key_file) {
        (Some(secret), _) => secret.reveal().to_owned(),
        (None, Some(file)) => read(file, "secret_access_key_file")?.trim().to_owned(),
        (None, None) => {
            return Err(StoreError::Config(
                "access_key_id is set: set secret_access_key or secret_access_key_file too"
                    .to_owned(),
            ));
        }
    };
    let token = config.session_token.as_ref().map(|t| t.reveal().to_owned());
    Ok(Some(Credentials::new(id, secret, token, None, "godwit-config")))
}

fn http(config: &StoreConfig) -> Result<SharedHttpClient, StoreError> {
    let mut trust = TrustStore::default();
    if let Some(file) = &config.ca_file {
        trust = trust.with_pem_certificate(read(file, "ca_file")?);
    }
    let context = TlsContext::builder().with_trust_store(trust).build();
    let context = context.map_err(|e| StoreError::Config(format!("ca_file: {e}")))?;
    // TCP_NODELAY is this builder's default. Without it a ranged GET can wait 40 ms for a delayed acknowledgement.
    let builder = aws_smithy_http_client::Builder::new();
    Ok(builder.tls_provider(Provider::Rustls(CryptoMode::AwsLc)).tls_context(context).build_https())
}

fn read(file: &Path, field: &str) -> Result<String, StoreError> {
    std::fs::read_to_string(file)
        .map_err(|e| StoreError::Config(format!("{field} {}: {e}", file.display())))
}

/// One attempt may take so long, once it is connected.
pub(super) fn timeouts(attempt: Duration) -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_attempt_timeout(attempt)
        .build()
}
