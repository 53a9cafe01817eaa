//! The CRI proxy between kubelet's calls and the real containerd of a node.

use anyhow::{Result, ensure};
use godwit_e2e::container::SOON;
use godwit_e2e::cri::{self, Cri};
use godwit_e2e::proxy::Proxy;
use godwit_lab::{Image, Lab, LabOptions, Node, wait};
use godwit_types::names;
use k8s_cri::v1;

struct Bed {
    lab: Lab,
    node: Node,
    proxy: Proxy,
    direct: Cri,
    proxied: Cri,
}

impl Bed {
    fn up() -> Result<Self> {
        let lab = Lab::up(&LabOptions::for_tests().nodes(&["n1"]))?;
        let node = lab.node("n1")?;
        cri::prepare(&node, Image::Shell)?;
        let proxy = Proxy::start(&node)?;
        let direct = Cri::on(&node, names::CONTAINERD_SOCKET)?;
        let proxied = Cri::on(&node, names::CRI_SOCKET)?;
        Ok(Self { lab, node, proxy, direct, proxied })
    }
}

#[test]
fn what_containerd_says_is_what_kubelet_hears() -> Result<()> {
    let mut bed = Bed::up()?;
    let pod = bed.proxied.run_pod("web")?;
    let container = bed.proxied.create(&pod, "app", Image::Shell, "a note")?;
    let (direct, proxied) = (&bed.direct, &bed.proxied);
    ensure!(direct.version()? == proxied.version()?);
    let listed = proxied.containers()?;
    ensure!(listed.len() == 1 && listed[0].id == container, "{listed:?}");
    ensure!(direct.containers()? == listed);
    let status = |cri: &Cri| {
        let asked = v1::StatusRequest { verbose: true };
        cri.call(async |client| client.status(asked).await)
    };
    ensure!(status(direct)?.status == status(proxied)?.status);
    let missing = |cri: &Cri| {
        let asked = v1::ContainerStatusRequest { container_id: "none".into(), verbose: false };
        cri.call(async |client| client.container_status(asked).await).unwrap_err()
    };
    let (first, second) = (missing(direct), missing(proxied));
    ensure!(first.code() == tonic::Code::NotFound && first.code() == second.code(), "{second:?}");
    ensure!(first.message() == second.message() && first.details() == second.details());
    proxied.remove_pod(&pod)?;
    bed.lab.done();
    Ok(())
}

#[test]
fn a_pod_made_through_the_proxy_outlives_it_and_containerd() -> Result<()> {
    let mut bed = Bed::up()?;
    let pod = bed.proxied.run_pod("web")?;
    let container = bed.proxied.create(&pod, "app", Image::Shell, "")?;
    bed.proxied.start(&container)?;
    // When its process was started, and that both streams and the exit status arrive.
    let born = || -> Result<Vec<u8>> {
        let line = "cut --delimiter=' ' --fields=22 /proc/1/stat; echo told >&2; exit 7";
        let ended = bed.proxied.exec(&container, &["sh", "-c", line])?;
        ensure!(ended.exit_code == 7 && ended.stderr == b"told\n", "{ended:?}");
        Ok(ended.stdout)
    };
    let first = born()?;
    ensure!(!first.is_empty());
    for _ in 0..3 {
        bed.proxy.replace()?;
        ensure!(born()? == first);
    }
    bed.node.kill_containerd()?;
    let gone = bed.proxied.version().unwrap_err();
    ensure!(format!("{gone:#}").contains("containerd does not answer on"), "{gone:#}");
    bed.node.start_containerd()?;
    // Its socket is there before its CRI is.
    wait::until("containerd's CRI to serve", SOON, || bed.proxied.version())?;
    ensure!(born()? == first);
    ensure!(bed.direct.containers()? == bed.proxied.containers()?);
    bed.proxied.remove_pod(&pod)?;
    ensure!(bed.proxied.containers()?.is_empty());
    bed.lab.done();
    Ok(())
}
