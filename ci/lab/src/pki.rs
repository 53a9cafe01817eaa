//! Who is who in a cluster: its authority, the certificates of its parts, and the kubeconfigs that carry them.
//!
//! All of it is made once, also for workers that come later, so that the authority's key is kept nowhere.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};
use serde_json::json;

use crate::addresses::{ClusterName, WORKERS};
use crate::error::{LabError, Result};
use crate::network::Network;
use crate::places;

/// Where the API server listens.
pub(crate) const API_PORT: u16 = 6443;
/// Written last: with it, all is there.
const ADMIN: &str = "admin.conf";
/// Members of it may do everything.
const MASTERS: &str = "system:masters";
/// Names of the API server in its cluster.
const API_NAMES: [&str; 5] = [
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];

/// The directory with a cluster's certificates on the host.
#[derive(Debug, Clone)]
pub(crate) struct Pki {
    dir: PathBuf,
}

/// Whom a certificate is for.
struct Subject<'a> {
    /// Of the files.
    file: &'a str,
    name: &'a str,
    group: Option<&'a str>,
    addresses: Vec<Ipv4Addr>,
    names: &'a [&'a str],
}

impl Pki {
    /// Those of a cluster of the lab whose state is in `lab`.
    pub(crate) fn of_cluster(lab: &Path, cluster: ClusterName) -> Self {
        Self { dir: lab.join("clusters").join(cluster.to_string()) }
    }

    /// The kubeconfig of who may do everything.
    pub(crate) fn admin(&self) -> PathBuf {
        self.dir.join(ADMIN)
    }

    /// The content of one of its files.
    pub(crate) fn read(&self, file: &str) -> Result<String> {
        places::read(&self.dir.join(file))
    }

    /// Whether it was made for this network.
    pub(crate) fn is_of(&self, cluster: ClusterName, network: Network) -> Result<bool> {
        Ok(self.read(ADMIN)?.contains(&server(cluster, network)))
    }

    /// Makes all, unless it is there.
    pub(crate) fn ensure(&self, cluster: ClusterName, network: Network) -> Result<()> {
        if self.admin().exists() {
            return Ok(());
        }
        places::make_dir(&self.dir)?;
        let authority = Authority::new(cluster, network).map_err(failed("the authority"))?;
        self.write("ca.crt", authority.certificate())?;
        self.make_service_accounts()?;
        for (subject, with_config) in subjects(cluster, network, &worker_names(cluster)) {
            let made = authority.issue(&subject).map_err(failed(subject.file))?;
            self.write(&format!("{}.crt", subject.file), &made.certificate)?;
            self.write(&format!("{}.key", subject.file), &made.key)?;
            if with_config {
                self.write(&format!("{}.conf", subject.file), authority.kubeconfig(&made))?;
            }
        }
        Ok(())
    }

    /// The key that signs the tokens of service accounts, and its public half.
    fn make_service_accounts(&self) -> Result<()> {
        let key = KeyPair::generate().map_err(failed("the key of service accounts"))?;
        self.write("sa.pub", key.public_key_pem())?;
        self.write("sa.key", key.serialize_pem())
    }

    fn write(&self, file: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let path = self.dir.join(file);
        let half = self.dir.join(format!(".{file}.half"));
        places::write(&half, content)?;
        std::fs::rename(&half, &path).map_err(LabError::io("renaming", &half))
    }
}

fn worker_names(cluster: ClusterName) -> Vec<(u8, String, String)> {
    let of = |number| {
        (number, cluster.worker(number), format!("system:node:{}", cluster.worker(number)))
    };
    (1..=WORKERS).map(of).collect()
}

/// Everybody, and whether they get a kubeconfig. The admin is the last.
fn subjects<'a>(
    cluster: ClusterName,
    network: Network,
    workers: &'a [(u8, String, String)],
) -> Vec<(Subject<'a>, bool)> {
    let host = |number| network.address(cluster.host_part(number));
    let client = |file, name, group| Subject { file, name, group, addresses: vec![], names: &[] };
    let server = Subject {
        file: "apiserver",
        name: "kube-apiserver",
        group: None,
        addresses: vec![host(0), Ipv4Addr::LOCALHOST, cluster.services(network).first_host()],
        names: &API_NAMES,
    };
    let mut all = vec![
        (server, false),
        (client("apiserver-kubelet-client", "kube-apiserver-kubelet-client", Some(MASTERS)), false),
        (client("front-proxy-client", "front-proxy-client", None), false),
        (client("controller-manager", "system:kube-controller-manager", None), true),
        (client("scheduler", "system:kube-scheduler", None), true),
        (client("kube-proxy", "system:kube-proxy", None), true),
    ];
    for (number, name, user) in workers {
        let addresses = vec![host(*number), Ipv4Addr::LOCALHOST];
        let group = Some("system:nodes");
        // The node is its own only name: the API server asks by address.
        all.push((Subject { file: name, name: user, group, addresses, names: &[] }, true));
    }
    all.push((client("admin", "admin", Some(MASTERS)), true));
    all
}

struct Authority {
    cluster: ClusterName,
    server: String,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

struct Issued {
    user: String,
    certificate: String,
    key: String,
}

impl Authority {
    fn new(cluster: ClusterName, network: Network) -> std::result::Result<Self, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = named(&format!("godwit-lab-{cluster}"), None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let server = server(cluster, network);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        Ok(Self { cluster, server, issuer })
    }

    fn certificate(&self) -> String {
        self.issuer.pem()
    }

    fn issue(&self, subject: &Subject<'_>) -> std::result::Result<Issued, rcgen::Error> {
        let key = KeyPair::generate()?;
        let names: Vec<String> = subject.names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names)?;
        let addresses = subject.addresses.iter();
        params.subject_alt_names.extend(addresses.map(|&a| SanType::IpAddress(IpAddr::V4(a))));
        params.distinguished_name = named(subject.name, subject.group);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Issued { user: subject.name.to_owned(), certificate, key: key.serialize_pem() })
    }

    /// One that needs no other file.
    fn kubeconfig(&self, of: &Issued) -> String {
        let cluster = self.cluster;
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": cluster, "cluster": {
                "server": self.server,
                "certificate-authority-data": BASE64.encode(self.certificate()),
            }}],
            "users": [{"name": of.user, "user": {
                "client-certificate-data": BASE64.encode(&of.certificate),
                "client-key-data": BASE64.encode(&of.key),
            }}],
            "contexts": [{"name": cluster, "context": {"cluster": cluster, "user": of.user}}],
            "current-context": cluster,
        });
        format!("{config:#}\n")
    }
}

fn server(cluster: ClusterName, network: Network) -> String {
    format!("https://{}:{API_PORT}", network.address(cluster.host_part(0)))
}

fn named(name: &str, group: Option<&str>) -> rcgen::DistinguishedName {
    let mut full = rcgen::DistinguishedName::new();
    full.push(DnType::CommonName, name);
    if let Some(group) = group {
        full.push(DnType::OrganizationName, group);
    }
    full
}

fn failed(file: &str) -> impl FnOnce(rcgen::Error) -> LabError {
    let file = file.to_owned();
    move |error| LabError::Refused(format!("making the certificate of {file} failed: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_pem(text: &str, what: &str) -> bool {
        text.starts_with(&format!("-----BEGIN {what}-----"))
    }

    #[test]
    fn everybody_gets_a_certificate_and_the_kubeconfigs_carry_them() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::of_cluster(dir.path(), ClusterName::A);
        let network = Network::of_number(7);
        pki.ensure(ClusterName::A, network).unwrap();
        for name in
            ["ca", "apiserver", "apiserver-kubelet-client", "front-proxy-client", "a1", "a3"]
        {
            assert!(is_pem(&pki.read(&format!("{name}.crt")).unwrap(), "CERTIFICATE"), "{name}");
        }
        assert!(is_pem(&pki.read("sa.key").unwrap(), "PRIVATE KEY"));
        assert!(is_pem(&pki.read("sa.pub").unwrap(), "PUBLIC KEY"));
        assert!(pki.read("ca.key").is_err(), "nobody can make another one");
        let config: serde_json::Value =
            serde_json::from_str(&pki.read("a1.conf").unwrap()).unwrap();
        assert_eq!(config["clusters"][0]["cluster"]["server"], "https://10.88.7.20:6443");
        assert_eq!(config["users"][0]["name"], "system:node:a1");
        let data = config["users"][0]["user"]["client-certificate-data"].as_str().unwrap();
        let certificate = String::from_utf8(BASE64.decode(data).unwrap()).unwrap();
        assert_eq!(certificate, pki.read("a1.crt").unwrap());
        assert!(pki.is_of(ClusterName::A, network).unwrap());
        assert!(!pki.is_of(ClusterName::A, Network::of_number(8)).unwrap());
        // A second time changes nothing.
        pki.ensure(ClusterName::A, network).unwrap();
        assert_eq!(certificate, pki.read("a1.crt").unwrap());
    }
}
