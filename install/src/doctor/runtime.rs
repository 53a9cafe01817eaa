//! What the running containerd has loaded, and whether the kubelet comes to it through the CRI proxy.

use std::path::{Path, PathBuf};

use godwit_types::names;

use crate::check::{self, Finding, Verdict};
use crate::containerd::client::Client;
use crate::containerd::daemon::Daemon;
use crate::containerd::{self, Loaded};
use crate::files::Disk;
use crate::kubelet::running::Kubelet;
use crate::kubelet::{self, Endpoint, Facts};
use crate::record::{Book, Stage};
use crate::settings::{InitKind, Settings};
use crate::{error_chain, proxy, session};
use Verdict::{Bad, Good, Limited, Unknown};

pub(super) fn examine(settings: &Settings) -> Vec<Finding> {
    // Before we are a client ourselves.
    let kubelet = Wiring::look(settings);
    let answers = proxy::answers().map_err(|why| error_chain(&why));
    let loaded = Daemon::find(settings)
        .and_then(|daemon| containerd::loaded(&settings.containerd_socket, &daemon))
        .map_err(|why| error_chain(&why));
    let fault = Client::connect(&settings.containerd_socket).and_then(|one| one.network_fault());
    let fault = fault.map_err(|why| error_chain(&why));
    vec![
        Finding { subject: "runtime", verdict: runtime(&loaded) },
        Finding { subject: "CRI proxy", verdict: cri_proxy(&answers, &kubelet, settings.init()) },
        Finding { subject: "kubelet", verdict: kubelet.verdict() },
        Finding { subject: "pod network", verdict: network(fault, kubelet.runs) },
    ]
}

/// `fault`: empty where there is none, nothing where there is no CRI.
fn network(fault: Result<Option<String>, String>, kubelet_runs: bool) -> Verdict {
    match fault {
        Ok(Some(fault)) if fault.is_empty() => Good("containerd has one for pods".to_owned()),
        Ok(Some(fault)) if kubelet_runs => Limited(format!(
            "containerd has none for pods ({fault}): none starts or continues here; install the cluster's CNI plugin, or look at what its own \
             pod on this node says. What `godwit.dev/tcp: keep` needs of it is in docs/kubernetes.md"
        )),
        Ok(Some(_)) => Unknown("containerd has none for pods, and no kubelet runs here".to_owned()),
        Ok(None) => Unknown("containerd has no CRI plugin".to_owned()),
        Err(why) => Unknown(why),
    }
}

fn runtime(loaded: &Result<Loaded, String>) -> Verdict {
    let name = names::RUNTIME_HANDLER;
    match loaded {
        Ok(Loaded::Ours) => Good(format!("containerd has loaded `{name}`")),
        Ok(Loaded::NoCri) => Limited(
            "containerd has no CRI plugin (disabled_plugins): ctr and nerdctl can use this node, Kubernetes cannot".to_owned(),
        ),
        Ok(Loaded::Nothing) => Bad(format!(
            "the containerd that runs knows no runtime `{name}`: run `godwit-install node`; if it has nothing to do, restart containerd"
        )),
        Ok(Loaded::Other) => Bad(format!(
            "the containerd that runs has loaded another runtime `{name}` than its configuration says: restart containerd (pods run on)"
        )),
        Err(why) => Bad(format!(
            "{why}. Its log says more (`journalctl --unit containerd`); containers run on while it is restarted"
        )),
    }
}

/// How a kubelet and its containerd are put together.
#[derive(Debug, Default)]
struct Wiring {
    /// A kubelet runs.
    runs: bool,
    /// It is connected to the proxy.
    connected: bool,
    /// The configuration in which the endpoint was set, if that was asked for; and whether it still says it.
    asked: Option<PathBuf>,
    facts: Option<Facts>,
}

impl Wiring {
    fn look(settings: &Settings) -> Self {
        // A record that cannot be read is the installer's to tell.
        let book = Book::open(Path::new(session::DIR), Disk { volatile: false }).ok();
        let entries = book.map(|book| book.entries_of(Stage::Kubelet)).unwrap_or_default();
        let file = entries.iter().map(|entry| &entry.path).find(|path| !path.is_dir());
        let asked = file.map(|path| kubelet::named_as(path));
        let told = Settings { kubelet_config: asked.clone(), ..settings.clone() };
        Self {
            runs: Kubelet::find().is_some(),
            connected: proxy::is_in_use(),
            facts: Facts::look(&told),
            asked,
        }
    }

    fn verdict(&self) -> Verdict {
        const ASK: &str = "run `godwit-install node --kubelet-config PATH`";
        let direct = |why: &str, what: &str| {
            Limited(format!(
                "{why}: pods run and are checkpointed, but stops at a checkpoint (checkpoint-on-stop) do not happen, and probes of held \
                 pods fail; {what}"
            ))
        };
        if let Some(facts) = &self.facts {
            if let fault @ Bad(_) = check::kubelet(facts) {
                return fault;
            }
            if !facts.path.is_dir() && facts.endpoint != Ok(Endpoint::Ours) {
                let why = format!("{} does not name the CRI proxy any more", facts.path.display());
                return direct(&why, &format!("something has written it anew: {ASK}"));
            }
        }
        match (self.runs, self.connected, &self.asked) {
            (_, true, _) => Good("goes through the CRI proxy".to_owned()),
            (true, false, Some(_)) => direct(
                "the kubelet was started before its configuration named the CRI proxy, or has lost it",
                &format!("restart the kubelet (pods run on); if that does not help, {ASK}"),
            ),
            (true, false, None) => direct("the kubelet goes straight to containerd", ASK),
            (false, false, _) => Unknown("no kubelet runs here".to_owned()),
        }
    }
}

fn cri_proxy(answers: &Result<(), String>, wiring: &Wiring, init: InitKind) -> Verdict {
    let serve = match init {
        InitKind::Systemd => {
            "`systemctl restart godwit-cri-proxy.socket`; `journalctl --unit godwit-cri-proxy` says why it ended"
        }
        InitKind::None => "start `godwit-cri-proxy --listen /run/godwit/cri.sock`",
    };
    match answers {
        Ok(()) => Good(format!("containerd answers behind {}", names::CRI_SOCKET)),
        Err(why) if wiring.asked.is_some() || init == InitKind::Systemd => {
            Bad(format!("{why}. The kubelet cannot start pods without it: {serve}"))
        }
        Err(_) => Unknown(format!(
            "nobody serves {}, and no kubelet was told to go through it",
            names::CRI_SOCKET
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "/var/lib/kubelet/config.yaml";

    fn wired() -> Wiring {
        let facts =
            Facts { path: FILE.into(), endpoint: Ok(Endpoint::Ours), flag: None, is_read: true };
        Wiring { runs: true, connected: true, asked: Some(FILE.into()), facts: Some(facts) }
    }

    #[test]
    fn what_containerd_has_loaded_decides_and_not_the_file() {
        assert_eq!(runtime(&Ok(Loaded::Ours)).word(), "good");
        assert_eq!(runtime(&Ok(Loaded::NoCri)).word(), "limited");
        for loaded in [Loaded::Nothing, Loaded::Other] {
            let verdict = runtime(&Ok(loaded));
            assert!(verdict.word() == "bad" && verdict.told().contains("restart containerd"));
        }
        let away = runtime(&Err("away".to_owned()));
        assert!(away.word() == "bad" && away.told().starts_with("away. "), "{away:?}");
    }

    #[test]
    fn a_kubelet_that_goes_past_the_proxy_is_told_how_it_comes_back() {
        assert_eq!(wired().verdict().word(), "good");
        let cases = [
            (Wiring { connected: false, ..wired() }, "restart the kubelet"),
            (Wiring { connected: false, asked: None, facts: None, ..wired() }, "--kubelet-config"),
        ];
        for (wiring, fix) in cases {
            let verdict = wiring.verdict();
            assert!(verdict.word() == "limited" && verdict.told().contains(fix), "{verdict:?}");
        }
        let none = Wiring::default();
        assert_eq!(none.verdict().word(), "unknown");
    }

    #[test]
    fn a_configuration_that_was_written_anew_or_is_not_read_is_named() {
        let with = |change: fn(&mut Facts)| {
            let mut wiring = wired();
            wiring.facts.iter_mut().for_each(change);
            wiring.verdict()
        };
        let anew = with(|facts| facts.endpoint = Ok(Endpoint::Containerd));
        assert!(anew.word() == "limited" && anew.told().contains("written it anew"), "{anew:?}");
        let flag = with(|facts| facts.flag = Some("unix:///x".to_owned()));
        assert!(flag.word() == "bad" && flag.told().contains("command line"), "{flag:?}");
    }

    #[test]
    fn a_network_is_missed_where_pods_would_come() {
        assert_eq!(network(Ok(Some(String::new())), true).word(), "good");
        let none = || Ok(Some("cni plugin not initialized".to_owned()));
        let missed = network(none(), true);
        assert!(missed.word() == "limited" && missed.told().contains("CNI"), "{missed:?}");
        let others = [
            network(none(), false),
            network(Ok(None), true),
            network(Err("away".to_owned()), true),
        ];
        assert!(others.iter().all(|one| one.word() == "unknown"), "{others:?}");
    }

    #[test]
    fn a_proxy_that_nobody_needs_is_no_fault() {
        let away = Err("nobody".to_owned());
        assert_eq!(cri_proxy(&Ok(()), &wired(), InitKind::None).word(), "good");
        assert_eq!(cri_proxy(&away, &wired(), InitKind::None).word(), "bad");
        assert_eq!(cri_proxy(&away, &Wiring::default(), InitKind::Systemd).word(), "bad");
        assert_eq!(cri_proxy(&away, &Wiring::default(), InitKind::None).word(), "unknown");
    }
}
