//! The pod that moves in proofs and in the demo of pods: Redis, and a sidecar that talks to it over one loopback connection for ever
//! and writes into a directory that both share. The sidecar ends at the first reply that is not the next one, so a pod whose
//! containers were never started again lost nothing between them.

use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;

use anyhow::{Context as _, Result, ensure};
use godwit_lab::{Cluster, Image, wait};
use serde_json::{Value, json};

use crate::container::SOON;
use crate::pods::{Handler, Life, Pod, address, events};
use crate::redis::PORT;

/// What the sidecar does.
const BEATS: &str = r#"
until (exec 3<>/dev/tcp/127.0.0.1/6379) 2>/dev/null; do sleep 0.1; done
exec 3<>/dev/tcp/127.0.0.1/6379
for ((n = 1; ; n++)); do
    printf 'INCR beats\r\n' >&3
    IFS= read -r reply <&3
    if [ "$reply" != ":$n"$'\r' ]; then
        echo "$reply after $n"
        exit 1
    fi
    echo "$n" >/shared/beats
    sleep 0.02
done"#;
/// Both, in the order in which Kubernetes tells of them.
const CONTAINERS: [&str; 2] = ["redis", "sidecar"];

/// The pod of this name.
#[must_use]
pub fn pod(name: &str) -> Pod {
    let mounts = json!([{"name": "shared", "mountPath": "/shared"}]);
    let probe = json!({"tcpSocket": {"port": PORT}, "periodSeconds": 1});
    let container = |name: &str| {
        json!({
            "name": name, "image": Image::Redis.reference(), "imagePullPolicy": "Never",
            "volumeMounts": mounts,
        })
    };
    let (mut redis, mut sidecar) = (container(CONTAINERS[0]), container(CONTAINERS[1]));
    redis["readinessProbe"] = probe;
    sidecar["command"] = json!(["bash", "-c", BEATS]);
    Pod::new(name, Handler::Godwit, Image::Redis, &[])
        .with("volumes", json!([{"name": "shared", "emptyDir": {}}]))
        .with("containers", json!([redis, sidecar]))
        .with("terminationGracePeriodSeconds", json!(60))
}

/// One that runs.
#[derive(Debug, Clone)]
pub struct Running<'c>(Life<'c>);

impl<'c> Deref for Running<'c> {
    type Target = Life<'c>;

    fn deref(&self) -> &Life<'c> {
        &self.0
    }
}

impl<'c> Running<'c> {
    /// The pod that [`pod`] of this name has become, by itself or through an owner, when all of it is ready.
    ///
    /// # Errors
    /// It is not in time.
    pub fn wait(cluster: &'c Cluster, name: &str) -> Result<Self> {
        let found = wait::until(&format!("{name} to be ready"), SOON, || {
            let found = Self::find(cluster, name).map_err(|error| format!("{error:#}"))?;
            found.ok_or_else(|| events(cluster))
        })?;
        Ok(found)
    }

    /// The same, if it is now.
    fn find(cluster: &'c Cluster, name: &str) -> Result<Option<Self>> {
        let found = cluster.get(&["pods", "--selector", &format!("app={name}")])?;
        let all = found["items"].as_array().context("a list")?;
        let is_ending = |pod: &&Value| !pod["metadata"]["deletionTimestamp"].is_null();
        let all: Vec<&Value> = all.iter().filter(|pod| !is_ending(pod)).collect();
        ensure!(all.len() < 2, "{} pods at once: {}", all.len(), events(cluster));
        let Some(&pod) = all.first() else { return Ok(None) };
        let containers = pod["status"]["containerStatuses"].as_array();
        let wanted = pod["spec"]["containers"].as_array().map(Vec::len);
        let is_ready = |one: &Value| one["ready"] == true;
        if containers.is_none_or(|all| Some(all.len()) != wanted || !all.iter().all(is_ready)) {
            return Ok(None);
        }
        Ok(Some(Self(Life::of(cluster, pod)?)))
    }

    /// Where Redis is reached.
    #[must_use]
    pub fn redis(&self) -> SocketAddr {
        SocketAddr::new(self.address, PORT)
    }

    /// The sidecar's last number, as Redis' container sees it.
    ///
    /// # Errors
    /// The kubelet does not tell, or there is none.
    pub fn beats(&self) -> Result<u64> {
        // It may be being written.
        Ok(wait::until("the sidecar's number", SOON, || {
            let text = self.exec_in(CONTAINERS[0], &["cat", "/shared/beats"]);
            let text = text.map_err(|error| format!("{error:#}"))?;
            text.trim().parse().map_err(|_| format!("{text:?}"))
        })?)
    }

    /// None of its containers was started twice, and the sidecar gets on beyond this.
    ///
    /// # Errors
    /// What is not so.
    pub fn goes_on(&self, beyond: u64) -> Result<u64> {
        let now = wait::until("the sidecar to get on", SOON, || match self.beats() {
            Ok(now) if now > beyond => Ok(now),
            other => Err(format!("{other:?} after {beyond}; {}", events(self.cluster()))),
        })?;
        self.was_started_once()?;
        Ok(now)
    }
}

/// Where the pod of this name is reached, as soon as that is known.
///
/// # Errors
/// It is not in time.
pub fn wait_address(cluster: &Cluster, name: &str) -> Result<IpAddr> {
    Ok(wait::until(&format!("{name} to have an address"), SOON, || {
        address(cluster, name).map_err(|error| format!("{error:#}"))
    })?)
}
