//! The installer dies after every step where systemd starts everything and a real kubelet is to go through the CRI proxy. Each time the
//! daemons are started with what is on disk, as after a reboot, and run containers for who asks as the kubelet does, or its pods.

use anyhow::{Context as _, Result, ensure};
use godwit_e2e::release::Release;
use godwit_lab::default_bin_dir;
use godwit_lab::vm::{Ended, Reboot};
use godwit_wire::failpoint::VARIABLE;

use crate::kit::{Bed, RELEASE};
use crate::kubelet::{CONFIG, INSTALL, Kubelet, OURS, REVERT, endpoint};

/// More deaths than there are steps mean that it does not get on.
const MOST: usize = 100;

/// Runs the installer, which is ended at a place if it comes by it.
fn ended_at(bed: &Bed, site: &str, words: &[&str]) -> Result<Ended> {
    let (program, site) = (format!("{RELEASE}/godwit-install"), format!("{VARIABLE}={site}"));
    let line = [&["env", &*site, &*program, "node", "--from", RELEASE], words].concat();
    let ended = bed.vm.exec(&line)?;
    ensure!(died(&ended) || ended.code == 0, "{ended:?}");
    Ok(ended)
}

fn died(ended: &Ended) -> bool {
    ended.err.contains("failpoint")
}

/// What is on a machine before Godwit is.
struct Before {
    files: String,
    config: String,
}

impl Before {
    fn of(bed: &Bed) -> Result<Self> {
        Ok(Self { files: bed.snapshot()?, config: bed.vm.sh(&format!("cat {CONFIG}"))? })
    }

    /// All of it is as it was, and nothing is left of Godwit.
    fn is_back(&self, bed: &Bed) -> Result<()> {
        bed.is_as(&self.files)?;
        let config = bed.vm.sh(&format!("cat {CONFIG}"))?;
        ensure!(config == self.config, "the kubelet's file is another one");
        bed.nothing_is_left()
    }
}

#[test]
#[ignore = "minutes: `make vm-test`"]
fn an_installer_that_dies_after_any_step_leaves_a_kubelet_with_a_runtime() -> Result<()> {
    let bed = Bed::with_kubelet(&Release::whole(&default_bin_dir()), &[])?;
    let kubelet = Kubelet::start(&bed)?;
    let before = Before::of(&bed)?;
    let mut deaths = vec![];
    for words in [&INSTALL[..], &REVERT] {
        let mut times = 0;
        while died(&ended_at(&bed, "install.step", words)?) {
            times += 1;
            ensure!(times < MOST, "it does not get on");
            kubelet.starts_anew()?;
        }
        deaths.push(times);
        kubelet.runs_a_pod()?;
        let endpoint = endpoint(&bed)?;
        ensure!((endpoint == OURS) == (words == INSTALL), "{endpoint}");
    }
    ensure!(deaths.iter().all(|times| *times > 15), "steps there and back: {deaths:?}");
    before.is_back(&bed)
}

#[test]
#[ignore = "minutes: `make vm-test`"]
fn a_revert_after_a_death_at_any_step_leaves_nothing() -> Result<()> {
    let bed = Bed::with_kubelet(&Release::whole(&default_bin_dir()), &[])?;
    let kubelet = Kubelet::start(&bed)?;
    let before = Before::of(&bed)?;
    for step in 1.. {
        let ended = ended_at(&bed, &format!("install.step:{step}"), &INSTALL)?;
        // What runs now, runs on.
        bed.runs_containers_by(&endpoint(&bed)?)?;
        bed.install(&REVERT)?;
        before.is_back(&bed).with_context(|| format!("after step {step}"))?;
        if !died(&ended) {
            ensure!(step > 15, "only {step} steps");
            break;
        }
    }
    kubelet.runs_a_pod()
}

#[test]
#[ignore = "minutes: `make vm-test`"]
fn a_power_loss_in_an_installation_leaves_a_kubelet_with_a_runtime() -> Result<()> {
    let bed = Bed::with_kubelet(&Release::whole(&default_bin_dir()), &[])?;
    let kubelet = Kubelet::start(&bed)?;
    let before = Before::of(&bed)?;
    for words in [&INSTALL[..], &REVERT] {
        let mut losses = 0;
        while died(&ended_at(&bed, "install.step:5", words)?) {
            losses += 1;
            ensure!(losses < MOST, "it does not get on");
            // Nobody has synced anything but the installer.
            bed.vm.reboot(Reboot::PowerLoss)?;
            kubelet.starts()?;
        }
        ensure!(losses > 2, "only {losses} losses");
        kubelet.runs_a_pod()?;
    }
    before.is_back(&bed)
}
