//! Each fault is found, alone, and says what to do.

use std::path::PathBuf;

use godwit_criu::probe::Probe;

use super::*;
use crate::containerd::daemon::Daemon;
use crate::programs::Release;

fn good() -> Host {
    let version = godwit_criu_rpc::OLDEST_CRIU;
    Host {
        machine: "x86_64".to_owned(),
        kernel: "6.12.9-amd64".to_owned(),
        cgroups: Cgroups::Unified,
        has_machine_id: true,
        criu: "/usr/sbin/criu".into(),
        criu_answers: Ok(Probe { version, mem_track: true, lazy_pages: true, pidfd_store: true }),
        release: Ok(Release {
            id: "1-a".into(),
            from: "/r".into(),
            programs: vec![],
            bytes: 1 << 20,
        }),
        free: 1 << 30,
        read_only: vec![],
        agent_fault: None,
        containerd: Ok(Containerd {
            daemon: Daemon {
                pid: 1,
                exe: "/usr/bin/containerd".into(),
                name: "containerd".to_owned(),
                path: "/usr/local/bin:/usr/bin".to_owned(),
                config: "/etc/containerd/config.toml".into(),
                unit: None,
            },
            version: "v2.1.9".to_owned(),
            config_fault: None,
            ours: None,
            shim: None,
            runc: Some("runc version 1.3.6".to_owned()),
            containers: vec![],
        }),
        kubelet: Some(Facts {
            path: "/var/lib/kubelet/config.yaml".into(),
            endpoint: Ok(Endpoint::Unsaid),
            flag: None,
            is_read: true,
        }),
    }
}

fn faults(spoil: impl FnOnce(&mut Host)) -> Vec<(&'static str, String)> {
    let mut host = good();
    spoil(&mut host);
    let bad = |finding: Finding| match finding.verdict {
        Good(_) | Verdict::Unknown(_) => None,
        Limited(why) | Bad(why) => Some((finding.subject, why)),
    };
    findings(&host).into_iter().filter_map(bad).collect()
}

fn kubelet(host: &mut Host) -> &mut Facts {
    host.kubelet.as_mut().unwrap()
}

fn containerd(host: &mut Host) -> &mut Containerd {
    host.containerd.as_mut().unwrap()
}

#[test]
fn a_good_node_has_no_fault() {
    assert_eq!(faults(|_| ()), []);
    for ours in [names::RUNTIME, "/usr/local/bin/containerd-shim-godwit-v2"] {
        assert_eq!(faults(|host| containerd(host).ours = Some(ours.into())), []);
    }
    assert_eq!(faults(|host| containerd(host).shim = Some(bin().join(SHIM))), []);
}

#[test]
fn each_fault_is_found_alone_and_says_what_to_do() {
    type Spoil = fn(&mut Host);
    let cases: [(&str, &str, Spoil); 19] = [
        ("machine", "x86_64 only", |h| h.machine = "aarch64".into()),
        ("kernel", "boot a newer", |h| h.kernel = "6.1.0-41-amd64".into()),
        ("control groups", "Boot with", |h| h.cgroups = Cgroups::None),
        ("machine id", "systemd-machine-id-setup", |h| h.has_machine_id = false),
        ("CRIU", "install CRIU 4.1", |h| h.criu_answers = Err("not found".into())),
        ("CRIU", "userfaultfd", |h| {
            h.criu_answers = h.criu_answers.clone().map(|p| Probe { lazy_pages: false, ..p });
        }),
        ("release", "does not run", |h| h.release = Err("godwit does not run".into())),
        ("release", "--prefix", |h| h.free = 1 << 20),
        ("containerd", "start it", |h| h.containerd = Err("no answer: start it".into())),
        ("containerd", "upgrade it", |h| containerd(h).version = "1.7.30".into()),
        ("configuration", "migrate", |h| containerd(h).config_fault = Some("migrate".into())),
        ("runtime name", "rename it", |h| containerd(h).ours = Some("io.containerd.x.v1".into())),
        ("shim", "Environment=PATH", |h| containerd(h).daemon.path = "/usr/bin".into()),
        ("shim", "remove it", |h| {
            containerd(h).shim = Some(PathBuf::from("/usr/local/sbin").join(SHIM))
        }),
        ("runc", "install runc", |h| containerd(h).runc = None),
        ("kubelet", "by hand", |h| kubelet(h).endpoint = Err("set it by hand".into())),
        ("kubelet", "--containerd-socket", |h| {
            kubelet(h).endpoint = Ok(Endpoint::Other("unix:///run/crio/crio.sock".into()));
        }),
        ("kubelet", "kubeadm-flags.env", |h| kubelet(h).flag = Some("unix:///x".into())),
        ("kubelet", "--config-dir", |h| kubelet(h).is_read = false),
    ];
    for (subject, words, spoil) in cases {
        let found = faults(spoil);
        assert!(
            matches!(&found[..], [(s, why)] if *s == subject && why.contains(words)),
            "{subject}, {words}: {found:?}"
        );
    }
}
