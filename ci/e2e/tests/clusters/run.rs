//! Pods that run: what they print, commands in them, their networks, their owners.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use godwit_e2e::container::SOON;
use godwit_e2e::pods::{Clusters, Forwarded, Handler, Pod, WEB_PORT, address, http};
use godwit_lab::{Cluster, Image, LabError, wait};
use serde_json::json;

#[test]
fn pods_of_both_shims_are_what_their_users_expect() -> Result<()> {
    let clusters = Clusters::up()?;
    for handler in Handler::ALL {
        people_look_into_it(&clusters.a, handler).with_context(|| format!("{handler:?}"))?;
        pods_reach_each_other(&clusters, handler).with_context(|| format!("{handler:?}"))?;
        a_stateful_set_makes_its_pod_anew(&clusters.a, handler)
            .with_context(|| format!("{handler:?}"))?;
    }
    clusters.leave()
}

fn people_look_into_it(cluster: &Cluster, handler: Handler) -> Result<()> {
    let words = ["counter", "--every-ms", "20", "--file", "/count"];
    cluster.apply(&Pod::new("counter", handler, Image::Mem, &words).manifest())?;
    cluster.wait_for(&["pod/counter"], "condition=Ready")?;
    let printed = wait::until("the counter to print ten lines", SOON, || {
        let text = cluster.kubectl(&["logs", "counter"]).map_err(|error| error.to_string())?;
        if text.lines().count() >= 10 { Ok(text) } else { Err(text) }
    })?;
    for (number, line) in (1..).zip(printed.lines()) {
        ensure!(line.split_whitespace().any(|word| word == number.to_string()), "{printed}");
    }
    let count = || cluster.kubectl(&["exec", "counter", "--", "cat", "/count"]);
    let first: u64 = count()?.trim().parse()?;
    wait::until_true("the counter to count on", SOON, || {
        count().is_ok_and(|text| text.trim().parse().is_ok_and(|now: u64| now > first))
    })?;
    let echoed = cluster.send(&["exec", "--stdin", "counter", "--", "cat"], "to and fro\n")?;
    ensure!(echoed == "to and fro\n", "{echoed:?}");
    let failed = cluster.kubectl(&["exec", "counter", "--", "sh", "-c", "exit 7"]);
    ensure!(
        matches!(&failed, Err(LabError::Failed { status, .. }) if status.code() == Some(7)),
        "{failed:?}"
    );
    for words in [&["attach", "counter"][..], &["logs", "--follow", "--tail=1", "counter"]] {
        ensure!(lines(cluster, words, 3)?.len() == 3, "{words:?}");
    }
    cluster.kubectl(&["delete", "pod", "counter", "--timeout=180s"])?;
    Ok(())
}

/// The first lines that `kubectl` prints; it is ended then.
fn lines(cluster: &Cluster, words: &[&str], most: usize) -> Result<Vec<String>> {
    let mut child = cluster.kubectl_command(words)?.stdout(Stdio::piped()).spawn()?;
    let stdout = child.stdout.take().context("a pipe")?;
    let read = BufReader::new(stdout).lines().take(most).collect::<std::io::Result<_>>();
    child.kill()?;
    child.wait()?;
    Ok(read?)
}

fn pods_reach_each_other(clusters: &Clusters, handler: Handler) -> Result<()> {
    let (a, b) = (&clusters.a, &clusters.b);
    let spread = json!([{
        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "web"}},
    }]);
    let web = Pod::new("web", handler, Image::Web, &[]).with("topologySpreadConstraints", spread);
    a.apply(&web.owned_by("Deployment", 2))?;
    a.apply(&web.service())?;
    let near = Pod::new("near", handler, Image::Web, &[]).on("a1");
    a.apply(&near.manifest())?;
    b.apply(&Pod::new("far", handler, Image::Web, &[]).manifest())?;
    a.kubectl(&["rollout", "status", "deployment/web", "--timeout=180s"])?;
    a.wait_for(&["pod/near"], "condition=Ready")?;
    b.wait_for(&["pod/far"], "condition=Ready")?;

    let found = a.get(&["pods", "--selector", "app=web"])?;
    let pods = found["items"].as_array().context("pods")?;
    let nodes: BTreeSet<_> = pods.iter().map(|pod| pod["spec"]["nodeName"].as_str()).collect();
    ensure!(nodes == [Some("a1"), Some("a2")].into(), "{nodes:?}");
    for pod in pods {
        let name = pod["metadata"]["name"].as_str().context("a name")?;
        let ip: IpAddr = pod["status"]["podIP"].as_str().context("an address")?.parse()?;
        ensure!(asked(a, "near", &format!("{ip}:{WEB_PORT}"))? == name, "in its cluster");
        ensure!(asked(b, "far", &format!("{ip}:{WEB_PORT}"))? == name, "between clusters");
        ensure!(http(SocketAddr::new(ip, WEB_PORT))? == name, "from outside");
    }
    let far = address(b, "far")?;
    ensure!(asked(a, "near", &format!("{far}:{WEB_PORT}"))? == "far", "between clusters");

    let service = a.get(&["service", "web"])?;
    let ip: IpAddr = service["spec"]["clusterIP"].as_str().context("an address")?.parse()?;
    let mut answers = BTreeSet::new();
    wait::until("both pods to answer for the service", SOON, || {
        answers.insert(asked(a, "near", &ip.to_string()).map_err(|error| format!("{error:#}"))?);
        if answers.len() == 2 { Ok(()) } else { Err(format!("{answers:?}")) }
    })?;
    ensure!(answers.contains(&http(SocketAddr::new(ip, 80))?), "from outside");
    // The API server is a service, too.
    let to_api = "exec 3<>/dev/tcp/$KUBERNETES_SERVICE_HOST/$KUBERNETES_SERVICE_PORT";
    a.kubectl(&["exec", "near", "--", "timeout", "60", "bash", "-c", to_api])?;

    let forwarded = Forwarded::to(a, "pod/near", WEB_PORT)?;
    ensure!(http(forwarded.address)? == "near", "forwarded");
    ensure!(http(forwarded.address)? == "near", "forwarded again");
    let forwarded = Forwarded::to(a, "service/web", 80)?;
    ensure!(answers.contains(&http(forwarded.address)?), "forwarded to a service");
    drop(forwarded);

    a.kubectl(&["delete", "deployment/web", "service/web", "pod/near", "--timeout=180s"])?;
    a.wait_for(&["pod", "--selector=app=web"], "delete")?;
    b.kubectl(&["delete", "pod", "far", "--timeout=180s"])?;
    Ok(())
}

/// What the web server there answers to a pod.
fn asked(cluster: &Cluster, by: &str, at: &str) -> Result<String> {
    let url = format!("http://{at}/");
    let words = ["exec", by, "--", "wget", "-T", "60", "-q", "-O", "-", &url];
    Ok(cluster.kubectl(&words)?.trim().to_owned())
}

fn a_stateful_set_makes_its_pod_anew(cluster: &Cluster, handler: Handler) -> Result<()> {
    cluster.apply(&Pod::new("db", handler, Image::Web, &[]).owned_by("StatefulSet", 1))?;
    let ready = |before: Option<&str>| {
        cluster.wait_until("db-0 to be ready", &["pod", "db-0"], |pod| {
            let is_ready = &pod["status"]["containerStatuses"][0]["ready"];
            match pod["metadata"]["uid"].as_str() {
                Some(uid) if is_ready == true && Some(uid) != before => Ok(uid.to_owned()),
                _ => Err(pod["status"].to_string()),
            }
        })
    };
    let first = ready(None)?;
    cluster.kubectl(&["delete", "pod", "db-0", "--timeout=180s"])?;
    ready(Some(&first))?;
    ensure!(http(SocketAddr::new(address(cluster, "db-0")?, WEB_PORT))? == "db-0");
    cluster.kubectl(&["delete", "statefulset", "db", "--timeout=180s"])?;
    Ok(cluster.wait_for(&["pod/db-0"], "delete")?)
}
