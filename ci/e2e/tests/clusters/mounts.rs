//! What a kubelet writes for a pod is the new pod's after a move, whatever the old one's was: its token, its names, its configuration.

use anyhow::{Result, ensure};
use godwit_e2e::container::SOON;
use godwit_e2e::pods::{Clusters, Handler, Life, Pod};
use godwit_lab::{Cluster, Image, wait};
use serde_json::{Value, json};

const NAME: &str = "reader";
const CONFIG: &str = "reader-config";
const COUNT: &str = "/data/count";
/// In the directory of the pod that moves with it.
const TOLD: &str = "/data/told";
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
/// A word in the annotations of each life.
const LIFE: &str = "example.com/life";
/// Counts until it is told its last words.
const WORK: &str = "n=0
until test -e /data/end; do n=$((n + 1)); echo $n >/data/count; sleep 0.05; done
cat /data/end >/dev/termination-log
exit 3";

/// One of its lives: where it is, and a number by which all that is written for it is told from what was written for others.
#[derive(Clone, Copy)]
struct Of<'c> {
    cluster: &'c Cluster,
    node: &'c str,
    life: u8,
}

impl<'c> Of<'c> {
    fn word(self) -> String {
        format!("life-{}", self.life)
    }

    fn server(self) -> String {
        format!("192.0.2.{}", self.life)
    }

    fn pod(self) -> Pod {
        let item = |name: &str, path: &str| json!({"path": name, "fieldRef": {"fieldPath": path}});
        let mounts = [("data", "/data"), ("config", "/config"), ("about", "/about")];
        let mounts = mounts.map(|(name, path)| json!({"name": name, "mountPath": path}));
        Pod::new(NAME, Handler::Godwit, Image::Mem, &["sh", "-c", WORK])
            .on(self.node)
            .that_keeps()
            .annotated(LIFE, &self.word())
            .with("restartPolicy", json!("Never"))
            .with("dnsPolicy", json!("None"))
            .with("dnsConfig", json!({"nameservers": [self.server()]}))
            .with("hostAliases", json!([{"ip": self.server(), "hostnames": ["server.test"]}]))
            .with(
                "volumes",
                json!([
                    {"name": "data", "emptyDir": {}},
                    {"name": "config", "configMap": {"name": CONFIG}},
                    {"name": "about", "downwardAPI": {"items": [
                        item("uid", "metadata.uid"),
                        item("life", &format!("metadata.annotations['{LIFE}']")),
                    ]}},
                ]),
            )
            .container_with("volumeMounts", json!(mounts))
    }

    fn begin(self) -> Result<Life<'c>> {
        let config = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": CONFIG},
            "data": {"word": self.word()},
        });
        self.cluster.apply(&config.to_string())?;
        Life::begin(self.cluster, &self.pod().manifest(), NAME)
    }

    /// All that it reads is written for it.
    fn reads_its_own(self, pod: &Life<'_>) -> Result<()> {
        let read = |file: &str| pod.exec(&["cat", file]);
        let [config, life, uid] = ["/config/word", "/about/life", "/about/uid"].map(read);
        let (config, life, uid) = (config?, life?, uid?);
        ensure!(config == self.word() && life == self.word(), "{config} {life}");
        ensure!(uid == pod.uid, "{uid}, not {}", pod.uid);
        let hosts = read("/etc/hosts")?;
        let lines: Vec<Vec<&str>> =
            hosts.lines().map(|line| line.split_whitespace().collect()).collect();
        let (address, server) = (pod.address.to_string(), self.server());
        for wanted in [[address.as_str(), NAME], [server.as_str(), "server.test"]] {
            let named: Vec<_> =
                lines.iter().filter(|words| words.get(1) == Some(&wanted[1])).collect();
            ensure!(named == [&wanted], "{hosts}");
        }
        let resolver = read("/etc/resolv.conf")?;
        ensure!(resolver.trim() == format!("nameserver {server}"), "{resolver}");
        self.is_known_by_its_token(pod, read(TOKEN)?.trim())
    }

    /// The API server takes the token for that of this very pod.
    fn is_known_by_its_token(self, pod: &Life<'_>, token: &str) -> Result<()> {
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": {"token": token},
        });
        let words = ["create", "--filename", "-", "--output", "json"];
        let answer: Value = serde_json::from_str(&self.cluster.send(&words, &review.to_string())?)?;
        let status = &answer["status"];
        let uid = &status["user"]["extra"]["authentication.kubernetes.io/pod-uid"][0];
        ensure!(status["authenticated"] == true && *uid == *pod.uid, "{answer}");
        Ok(())
    }
}

/// It is told its last words, and its user reads them.
fn last_words(cluster: &Cluster, pod: &Life<'_>) -> Result<()> {
    const WORDS: &str = "that was all";
    let tell = format!("echo {WORDS} >{TOLD}; mv {TOLD} /data/end");
    pod.exec(&["sh", "-c", &tell])?;
    Ok(wait::until("its last words", SOON, || {
        let found = cluster.get(&["pod", NAME]).map_err(|error| error.to_string())?;
        let ended = &found["status"]["containerStatuses"][0]["state"]["terminated"];
        let said = ended["message"].as_str().unwrap_or_default();
        let is_all = ended["exitCode"] == 3 && said.trim() == WORDS;
        if is_all { Ok(()) } else { Err(found["status"].to_string()) }
    })?)
}

#[test]
fn what_a_kubelet_writes_for_a_pod_is_the_new_pods_after_a_move() -> Result<()> {
    let clusters = Clusters::up()?;
    let (a, b) = (&clusters.a, &clusters.b);
    let of = |cluster, node, life| Of { cluster, node, life };
    let (first, second, third) = (of(a, "a1", 1), of(a, "a2", 2), of(b, "b1", 3));
    let mut pod = first.begin()?;
    pod.goes_beyond(COUNT, 20)?;
    first.reads_its_own(&pod)?;
    for next in [second, third] {
        let last = pod.number(COUNT)?;
        pod.stop()?;
        pod = next.begin()?;
        pod.went_on(COUNT, last)?;
        next.reads_its_own(&pod)?;
    }
    last_words(b, &pod)?;
    pod.delete(&format!("pod/{NAME}"))?;
    for cluster in [a, b] {
        cluster.kubectl(&["delete", "configmap", CONFIG])?;
    }
    clusters.leave()
}
