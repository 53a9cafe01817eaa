//! The server of the store that a checkpoint goes to: a container that is it cannot be frozen while its own memory is stored.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use godwit_criu::images::inet;

use crate::blocking::blocking;
use crate::checkpoint::CheckpointError;

/// For its name to be resolved. Who cannot be found stores nothing either, which is told later.
const LOOKUP: Duration = Duration::from_secs(2);

/// The sentence for a container that has the address of the server.
///
/// # Errors
/// The addresses of the container cannot be read.
pub(super) async fn refusal(
    id: &str,
    init: u32,
    server: Option<(String, u16)>,
) -> Result<Option<String>, CheckpointError> {
    let Some((host, port)) = server else { return Ok(None) };
    let own = blocking(move || Ok(inet::addresses(Path::new(&format!("/proc/{init}/ns/net")))?));
    let own = own.await?;
    let found = tokio::time::timeout(LOOKUP, tokio::net::lookup_host((host.as_str(), port))).await;
    let Ok(Ok(found)) = found else { return Ok(None) };
    let found: Vec<IpAddr> = found.map(|address| address.ip().to_canonical()).collect();
    Ok(is_one(&own, &found).then(|| {
        format!(
            "{id} has the address of the store's own server ({host}), which cannot store what it is frozen for: checkpoint it into another store"
        )
    }))
}

/// What is on loopback is the node's.
fn is_one(own: &[IpAddr], server: &[IpAddr]) -> bool {
    server.iter().any(|address| !address.is_loopback() && own.contains(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_on_loopback_is_nobodys_container() {
        let at = |text: &str| text.parse::<IpAddr>().unwrap();
        let own = [at("127.0.0.1"), at("10.0.0.7"), at("fd00::7")];
        assert!(is_one(&own, &[at("10.0.0.9"), at("10.0.0.7")]));
        assert!(is_one(&own, &[at("fd00::7")]));
        assert!(!is_one(&own, &[at("127.0.0.1"), at("10.0.0.8")]));
        assert!(!is_one(&own, &[]));
    }
}
