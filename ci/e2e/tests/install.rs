//! `godwit-install` on a node without systemd: install, another release, revert, and its death after every step. The configuration
//! is compared byte by byte; whether containers can be started is asked by starting one.

#[path = "install/foreign.rs"]
mod foreign;
#[path = "install/killed.rs"]
mod killed;
#[path = "install/kit.rs"]
mod kit;
#[path = "install/kubelet.rs"]
mod kubelet;

use std::fs;

use anyhow::{Result, ensure};
use godwit_e2e::container::{Container, RUNTIME};
use godwit_e2e::release::Release;
use godwit_lab::{AgentOptions, Image, Service, default_bin_dir};

use crate::kit::{Bed, DEBIAN};

#[test]
fn a_revert_gives_back_what_was_there_and_both_can_be_repeated() -> Result<()> {
    for config in kit::CONFIGURATIONS {
        let bed = Bed::up(config)?;
        let before = bed.snapshot()?;
        bed.install(&[])?.left("restart containerd")?.left("start the agent")?;
        bed.doctor()?.says("BAD       agent ")?.says("knows no runtime `godwit`")?;
        let text = bed.node.read_file("/etc/containerd/conf.d/godwit.toml")?;
        ensure!(text.contains(&format!("version = {}", kit::version_of(config))), "{text}");
        bed.restart_containerd()?;
        bed.node.start_agent(&AgentOptions::default())?;
        bed.install(&[])?.done()?.says("has loaded the runtime")?.says("answers on n1")?;
        bed.doctor()?.done()?.never_says("BAD")?.says("good      CRIU check  ")?;

        let (pid, installed) = (bed.node.containerd_pid(), bed.snapshot()?);
        bed.install(&[])?.done()?.never_says("write")?;
        ensure!(bed.node.containerd_pid() == pid, "containerd was restarted");
        bed.doctor()?.done()?;
        bed.is_as(&installed)?;
        bed.runs_containers(RUNTIME)?;

        bed.node.kill_agent()?;
        bed.install(&["--revert"])?.left("restart containerd")?;
        bed.restart_containerd()?;
        bed.install(&["--revert"])?.done()?;
        bed.is_as(&before)?;
        bed.runs_containers("io.containerd.runc.v2")?;
        bed.install(&["--revert"])?.done()?.never_says("remove")?;
        bed.done();
    }
    Ok(())
}

#[test]
fn agent_configuration_and_fences_outlive_a_revert_but_not_a_purge() -> Result<()> {
    let bed = Bed::installed(DEBIAN)?;
    let config = bed.node.read_file("/etc/godwit/agent.toml")?;
    ensure!(config.contains("criu = \"/usr/sbin/criu\""), "{config}");
    bed.node.write_file("/etc/godwit/agent.toml", format!("{config}# mine\n"))?;
    bed.node.write_file("/var/lib/godwit/fences/x", "x")?;
    bed.node.kill_agent()?;
    bed.reverted(&[])?;
    ensure!(bed.node.read_file("/etc/godwit/agent.toml")?.ends_with("# mine\n"), "not kept");
    ensure!(bed.node.read_file("/var/lib/godwit/fences/x")? == "x", "not kept");
    bed.install(&[])?;
    ensure!(bed.node.read_file("/etc/godwit/agent.toml")?.ends_with("# mine\n"), "not kept");
    bed.restart_containerd()?;
    bed.reverted(&["--purge"])?;
    let left = bed.node.sh("ls -A /etc/godwit /run/godwit /var/lib/godwit 2>/dev/null || true")?;
    ensure!(!left.contains("agent.toml") && !left.contains("fences"), "left: {left}");
    bed.done();
    Ok(())
}

#[test]
fn a_release_is_replaced_and_taken_back_under_a_running_container() -> Result<()> {
    let bed = Bed::installed(DEBIAN)?;
    let (first, other) = (bed.release()?, Release::other_than(&default_bin_dir())?);
    let web = Container::new("web", Image::Shell, &["sleep", "infinity"]);
    web.run(&bed.node)?;
    let shim = bed.shim_program()?;
    ensure!(shim.contains(&first), "the shim runs {shim}, installed is {first}");

    bed.install_from(&other.dir, &[])?.done()?;
    let second = bed.release()?;
    ensure!(second != first, "still {first}");
    ensure!(bed.shim_program()? == shim, "the running shim has changed");
    web.exec(&bed.node, &["true"])?;
    let copy = web.named("copy");
    copy.run(&bed.node)?;
    let programs =
        bed.node.sh("readlink -f /usr/local/bin/godwit-agent /usr/libexec/godwit/relay/criu")?;
    ensure!(programs.matches(&second).count() == 2, "{programs}");

    bed.install(&[])?.done()?;
    ensure!(bed.release()? == first, "not taken back");
    web.exec(&bed.node, &["true"])?;
    copy.exec(&bed.node, &["true"])?;

    let refused = bed.refused(&["--revert"])?;
    ensure!(refused.contains("container web in namespace default"), "{refused}");
    ensure!(refused.contains("--force"), "{refused}");
    ensure!(bed.release()? == first, "it was changed before it was refused");
    bed.node.kill_agent()?;
    bed.install(&["--revert", "--force"])?
        .left("restart containerd")?
        .left("when they are gone")?;
    bed.restart_containerd()?;
    web.exec(&bed.node, &["true"])?;
    web.remove(&bed.node)?;
    copy.remove(&bed.node)?;
    bed.reverted(&[])?;
    bed.done();
    Ok(())
}

#[test]
fn what_people_have_changed_meanwhile_is_kept() -> Result<()> {
    let bed = Bed::installed(DEBIAN)?;
    let main = "/etc/containerd/config.toml";
    let changed = bed.node.read_file(main)?.replace("version = 2", "# mine\nversion = 2");
    bed.node.write_file(main, &changed)?;
    bed.install(&[])?.done()?;
    bed.node.kill_agent()?;
    bed.reverted(&[])?;
    let text = bed.node.read_file(main)?;
    ensure!(
        text == kit::text_of(DEBIAN, &bed)?.replace("version = 2", "# mine\nversion = 2"),
        "{text}"
    );
    bed.done();
    Ok(())
}

#[test]
fn a_containerd_that_does_not_come_back_gets_its_old_configuration() -> Result<()> {
    let bed = Bed::up(DEBIAN)?;
    let before = bed.configuration()?;
    // Fails the first time, as a restart of a containerd that refuses what it reads.
    bed.node
        .write_file("/root/restart", "test -e /root/failed && exit 0; : >/root/failed; exit 1\n")?;
    let refused = bed.refused(&["--restart-containerd", "sh /root/restart"])?;
    ensure!(refused.contains("its old configuration was put back"), "{refused}");
    ensure!(bed.configuration()? == before, "{}", bed.configuration()?);
    bed.restart_containerd()?;
    bed.runs_containers("io.containerd.runc.v2")?;
    bed.done();
    Ok(())
}

#[test]
fn a_node_that_is_not_ready_is_refused_and_left_as_it_was() -> Result<()> {
    let bed = Bed::up(DEBIAN)?;
    let main = "/etc/containerd/config.toml";
    let text = bed.node.read_file(main)?;
    let other = "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.godwit]\nruntime_type = \"io.containerd.x.v1\"\n";
    let incomplete = Release::other_than(&default_bin_dir())?;
    fs::remove_file(incomplete.dir.join("godwit-pager"))?;
    let spoiled = [
        ("rename it", format!("{text}\n{other}")),
        ("containerd config migrate", text.replace("version = 2", "version = 1")),
        ("cannot be read as TOML", format!("{text}\n[[")),
    ];
    for (words, config) in spoiled {
        bed.node.write_file(main, &config)?;
        let before = bed.snapshot()?;
        let refused = bed.refused(&[])?;
        ensure!(refused.contains(words) && refused.contains("nothing was changed"), "{refused}");
        bed.is_as(&before)?;
    }
    bed.node.write_file(main, &text)?;
    let before = bed.snapshot()?;
    let refused = bed.refused_from(&incomplete.dir, &[])?;
    ensure!(refused.contains("godwit-pager is missing"), "{refused}");
    bed.install(&["--check"])?.done()?.says("ok       kernel")?;
    bed.install(&["--dry-run"])?.done()?.says("would write /etc/containerd/config.toml")?;
    bed.is_as(&before)?;

    bed.node.kill_containerd()?;
    let refused = bed.refused(&[])?;
    ensure!(refused.contains("containerd does not answer at /run/containerd"), "{refused}");
    bed.node.start_containerd()?;
    bed.done();
    Ok(())
}

#[test]
fn what_is_installed_is_there_after_a_reboot() -> Result<()> {
    let bed = Bed::installed(DEBIAN)?;
    let before = bed.snapshot()?;
    bed.node.reboot()?;
    bed.node.start_agent(&AgentOptions::default())?;
    bed.is_as(&before)?;
    bed.install(&[])?.done()?.never_says("write")?;
    bed.runs_containers(RUNTIME)?;
    bed.done();
    Ok(())
}

#[test]
fn the_kubelet_gets_the_proxy_only_when_it_answers_and_gets_its_endpoint_back() -> Result<()> {
    const CONFIG: &str = "/root/kubelet.yaml";
    const LINE: &str = "containerRuntimeEndpoint: unix:///run/containerd/containerd.sock # mine";
    let text = format!("kind: KubeletConfiguration\n{LINE}\nmaxPods: 60\n");
    let ours = text.replace(LINE, "containerRuntimeEndpoint: unix:///run/godwit/cri.sock");
    let bed = Bed::installed(DEBIAN)?;
    bed.node.write_file(CONFIG, &text)?;
    let before = bed.snapshot()?;
    let asked = ["--kubelet-config", CONFIG];
    bed.install(&asked)?.left("start godwit-cri-proxy")?;
    bed.is_as(&before)?;
    bed.node.start(Service::CriProxy)?;
    bed.install(&["--dry-run", "--kubelet-config", CONFIG])?.done()?.says("would write")?;
    bed.is_as(&before)?;
    bed.install(&asked)?.done()?.says("from its start on")?;
    ensure!(bed.node.read_file(CONFIG)? == ours, "{}", bed.node.read_file(CONFIG)?);
    // It stays so without being asked for again.
    bed.install(&[])?.done()?.never_says("write")?;
    bed.install(&["--revert", "--dry-run"])?.says("would put back")?;
    ensure!(bed.node.read_file(CONFIG)? == ours, "a dry run has changed it");

    // Somebody else's change since is kept.
    bed.node.write_file(CONFIG, format!("{ours}failSwapOn: false\n"))?;
    bed.node.kill_agent()?;
    bed.node.stop(Service::CriProxy)?;
    bed.reverted(&[])?;
    let now = bed.node.read_file(CONFIG)?;
    let theirs = LINE.trim_end_matches(" # mine");
    ensure!(now == format!("{}failSwapOn: false\n", text.replace(LINE, theirs)), "{now}");
    bed.done();
    Ok(())
}

#[test]
fn a_kubelets_configuration_that_cannot_be_changed_is_refused() -> Result<()> {
    let bed = Bed::up(DEBIAN)?;
    let crio = "kind: KubeletConfiguration\ncontainerRuntimeEndpoint: unix:///run/crio/crio.sock\n";
    let cases = [
        ("/root/crio.yaml", crio, "somebody else's (unix:///run/crio/crio.sock)"),
        ("/root/other.yaml", "kind: ClusterConfiguration\n", "is no KubeletConfiguration"),
    ];
    for (path, text, _) in cases {
        bed.node.write_file(path, text)?;
    }
    let before = bed.snapshot()?;
    for (path, _, words) in cases {
        let refused = bed.refused(&["--kubelet-config", path])?;
        ensure!(refused.contains(words), "expected {words:?} in {refused}");
    }
    let refused = bed.refused(&["--kubelet-config", "/root/none.yaml"])?;
    ensure!(refused.contains("cannot find /root/none.yaml"), "{refused}");
    bed.is_as(&before)?;
    bed.done();
    Ok(())
}
