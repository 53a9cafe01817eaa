//! A registry in a node at the addresses of public ones, with a certificate that only who is told so trusts.

use std::time::Duration;

use anyhow::Result;
use godwit_lab::{Node, Spawned, wait};

use super::programs;

/// Where its files are, in the node.
const DIR: &str = "/opt/registry";
const SOON: Duration = Duration::from_secs(60);

/// The registry; ends when dropped.
pub(super) struct Registry {
    node: Node,
    _process: Spawned,
}

impl Registry {
    /// Starts one that answers for these hosts.
    pub(super) fn serve(node: &Node, hosts: &[&str]) -> Result<Self> {
        node.put_program(&programs::ensure_registry()?, &format!("{DIR}/registry"))?;
        let names: Vec<String> = hosts.iter().map(|host| format!("DNS:{host}")).collect();
        node.sh(&format!(
            "echo 127.0.0.1 {} >>/etc/hosts
             openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=registry \
                 -addext subjectAltName={} -keyout {DIR}/registry.key -out {DIR}/registry.crt",
            hosts.join(" "),
            names.join(",")
        ))?;
        let settings = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: /var/lib/godwit/registry}}}}\n\
             http: {{addr: '127.0.0.1:443', tls: {{certificate: {DIR}/registry.crt, key: {DIR}/registry.key}}}}\n"
        );
        node.write_file(&format!("{DIR}/registry.yml"), settings)?;
        let serve = format!(
            "OTEL_TRACES_EXPORTER=none exec {DIR}/registry serve {DIR}/registry.yml >/var/log/registry 2>&1"
        );
        let process = node.spawn(&["bash", "-c", &serve])?;
        let host = hosts.first().copied().unwrap_or_default();
        let ask = format!("curl --silent --fail --cacert {DIR}/registry.crt https://{host}/v2/");
        wait::until("the registry to answer", SOON, || node.sh(&ask))?;
        Ok(Self { node: node.clone(), _process: process })
    }

    /// Its certificate, in the node.
    pub(super) fn certificate() -> String {
        format!("{DIR}/registry.crt")
    }

    /// Puts an image of the node's containerd into it, under the name that it has there.
    pub(super) fn push(&self, name: &str) -> Result<()> {
        let certificate = Self::certificate();
        self.node.sh(&format!("SSL_CERT_FILE={certificate} ctr images push --local {name}"))?;
        Ok(())
    }
}
