//! People look into a pod that has moved as into any other: its log, its ports, commands in it.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use godwit_e2e::container::SOON;
use godwit_e2e::pods::{Clusters, Forwarded, Handler, Life, Pod, WEB_PORT, events, http};
use godwit_lab::{Cluster, Image, LabError, wait};
use godwit_types::names;
use serde_json::json;

#[test]
fn people_look_into_a_pod_that_has_moved_as_into_any_other() -> Result<()> {
    let clusters = Clusters::up()?;
    no_line_of_a_log_is_lost_or_doubled(&clusters).context("the log of a counter")?;
    ports_and_commands_reach_it(&clusters).context("a web server")?;
    clusters.leave()
}

/// The numbers of the lines of a log.
fn numbers(text: &str) -> Result<Vec<u64>> {
    text.lines().map(|line| line.parse().with_context(|| format!("{line:?}"))).collect()
}

/// The first lines that `kubectl` prints; it is ended then.
fn lines(cluster: &Cluster, words: &[&str], most: usize) -> Result<String> {
    let mut child = cluster.kubectl_command(words)?.stdout(Stdio::piped()).spawn()?;
    let stdout = child.stdout.take().context("a pipe")?;
    let read: std::io::Result<Vec<_>> = BufReader::new(stdout).lines().take(most).collect();
    child.kill()?;
    child.wait()?;
    Ok(read?.join("\n"))
}

/// Each life's log begins where that of the one before ends, whatever was checkpointed meanwhile.
fn no_line_of_a_log_is_lost_or_doubled(clusters: &Clusters) -> Result<()> {
    const NAME: &str = "writer";
    let words = ["counter", "--every-ms", "5", "--file", "/count"];
    // What has ended is still there then, with its log.
    let writer =
        Pod::new(NAME, Handler::Godwit, Image::Mem, &words).with("restartPolicy", json!("Never"));
    let mut seen: Vec<u64> = Vec::new();
    let mut point: Option<String> = None;
    for (cluster, node) in [(&clusters.a, "a1"), (&clusters.a, "a2"), (&clusters.b, "b1")] {
        let pod = match &point {
            Some(point) => writer.clone().annotated(names::RESTORE_FROM, point),
            None => writer.clone(),
        };
        let last = seen.last().copied().unwrap_or_default();
        let pod = Life::begin(cluster, &pod.on(node).manifest(), NAME)?;
        pod.goes_beyond("/count", last + 100)?;
        pod.ask_for_checkpoint()?;
        let follow = lines(cluster, &["logs", "--follow", NAME], 200)?;
        ensure!(numbers(&follow)? == (last + 1..=last + 200).collect::<Vec<_>>(), "{follow}");
        let attached = numbers(&lines(cluster, &["attach", "--quiet", NAME], 3)?)?;
        ensure!(attached.windows(2).all(|two| two[0] + 1 == two[1]), "{attached:?}");

        let report = pod.stop_on(&clusters.lab.node(node)?)?;
        point = Some(report.checkpoint.to_string());
        cluster.wait_until("it to have ended", &["pod", NAME], |pod| {
            let ended = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
            if ended.is_null() { Err(pod["status"].to_string()) } else { Ok(()) }
        })?;
        seen.extend(numbers(&cluster.kubectl(&["logs", NAME])?)?);
        pod.delete(&format!("pod/{NAME}"))?;
    }
    let all: Vec<u64> = (1..=seen.last().copied().unwrap_or_default()).collect();
    let wrong = all.iter().zip(&seen).find(|(wanted, found)| wanted != found);
    ensure!(seen == all, "{wrong:?}, of {} lines {} are there", all.len(), seen.len());
    Ok(())
}

fn ports_and_commands_reach_it(clusters: &Clusters) -> Result<()> {
    let (a, b) = (&clusters.a, &clusters.b);
    let web = Pod::new("web", Handler::Godwit, Image::Web, &[]).that_keeps();
    let first = Life::begin(a, &web.clone().on("a1").manifest(), "web")?;
    first.exec(&["sh", "-c", "echo from the first life >/www/index.html"])?;
    first.stop()?;
    let again = Life::begin(b, &web.manifest(), "web")?;
    ensure!(again.annotation(names::RESTORED_FROM)?.is_some(), "{}", events(b));
    let forwarded = Forwarded::to(b, "pod/web", WEB_PORT)?;
    for _ in 0..2 {
        let answer = http(forwarded.address)?;
        ensure!(answer == "from the first life", "{answer}");
    }
    drop(forwarded);
    let echoed = b.send(&["exec", "--stdin", "web", "--", "cat"], "to and fro\n")?;
    ensure!(echoed == "to and fro\n", "{echoed:?}");
    let failed = b.kubectl(&["exec", "web", "--", "sh", "-c", "exit 7"]);
    let is_told =
        matches!(&failed, Err(LabError::Failed { status, .. }) if status.code() == Some(7));
    ensure!(is_told, "{failed:?}");
    let of_web = || again.exec(&["sh", "-c", "cat /proc/1/comm"]);
    wait::until("a command to see what was restored", SOON, || match of_web() {
        Ok(name) if name.trim() == "httpd" => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    again.stop().map(drop)
}
