//! Beside the usual way: the entries of a stop that is taken back, of an end and of a start from the image, and the word that
//! refuses a restore.

use anyhow::{Result, ensure};
use godwit_e2e::container::SOON;
use godwit_lab::wait;
use godwit_types::names;

use crate::{
    at_each, beside_a_death, checkpoint_dies, moves_on, newest, restart_agent, settled,
    wait_agent_dead,
};

/// Steps of a stop that is taken back, because its checkpoint is gone from the store.
const RECLAIM_SITES: [&str; 4] =
    ["hold.answered", "put-reclaim.before", "put-reclaim.answered", "unseal.answered"];

const END_SITES: [&str; 2] = ["put-end.before", "put-end.answered"];

const COLD_SITES: [&str; 2] = ["put-cold.before", "put-cold.answered"];

const REFUSAL_SITES: [&str; 2] = ["abort.before", "abort.answered"];

#[test]
fn at_every_step_of_a_stop_that_is_taken_back() -> Result<()> {
    at_each(&RECLAIM_SITES, |bed, web, site| {
        checkpoint_dies(bed, web, "put-stop.answered", &["--stop"])?;
        let manifest = format!("*/checkpoints/{}/manifest.json", newest(web, &bed.n2)?);
        let removed = format!("find /lab/shared/store -path '{manifest}' -print -delete");
        ensure!(bed.n1.sh(&removed)?.lines().count() == 1, "one manifest");
        // It settles what is sealed before it serves: it may be dead before anybody could ask it.
        drop(restart_agent(&bed.n1, Some(site)));
        wait_agent_dead(&bed.n1, site)?;
        restart_agent(&bed.n1, None)?;
        ensure!(settled(web, &bed.n1)?, "nobody can go on from its point, and it does not run");
        web.wait_beyond(&bed.n1, web.progress(&bed.n1)?)?;
        moves_on(bed, web)
    })
}

#[test]
fn at_every_step_of_an_end() -> Result<()> {
    at_each(&END_SITES, |bed, web, site| {
        web.run(&bed.n1)?;
        let id = web.checkpoint(&bed.n1, &[])?.checkpoint.to_string();
        restart_agent(&bed.n1, Some(site))?;
        web.remove(&bed.n1)?;
        wait_agent_dead(&bed.n1, site)?;
        let of_pod = |directory, suffix| {
            bed.n1.host_path(&format!("{directory}/default+{}{suffix}", web.id))
        };
        let (socket, fence) = (of_pod(names::SHIM_SOCKETS, ".sock")?, of_pod(names::FENCES, "")?);
        wait::until_true("its shim to end", SOON, || !socket.exists())?;
        // The agent leaves a fence alone that somebody may be at work with.
        bed.n1.sh(&format!("touch -d '1 minute ago' {}/*", names::FENCES))?;
        restart_agent(&bed.n1, None)?;
        wait::until_true("its end to be settled", SOON, || !fence.exists())?;
        // Nobody has its lineage any more: its name is free, and its point is there to be copied.
        web.run(&bed.n1)?;
        ensure!(settled(web, &bed.n1)?, "nothing starts under its name");
        let copy = web.named(&format!("{}-copy", web.id));
        copy.fork(&bed.n2, &id)?;
        ensure!(settled(&copy, &bed.n2)?, "its point cannot be copied");
        web.remove(&bed.n1)?;
        copy.remove(&bed.n2)
    })
}

/// The life before it was lost with its node's power.
#[test]
fn at_every_step_of_a_start_from_the_image() -> Result<()> {
    at_each(&COLD_SITES, |bed, web, site| {
        web.run(&bed.n1)?;
        let id = web.checkpoint(&bed.n1, &[])?.checkpoint.to_string();
        bed.n1.reboot()?;
        bed.n1.ctr(&["container", "rm", &web.id])?;
        beside_a_death(&bed.n1, site, || web.run(&bed.n1))??;
        ensure!(settled(web, &bed.n1)?, "it was started and does not run");
        web.wait_beyond(&bed.n1, web.progress(&bed.n1)?)?;
        // The log agrees: it is this node's to stop, and nobody else's to go on with.
        ensure!(web.restore(&bed.n2, &id).is_err(), "it runs twice");
        web.remove(&bed.n2)?;
        web.checkpoint(&bed.n1, &["--stop"])?;
        web.remove(&bed.n1)
    })
}

#[test]
fn at_every_step_of_a_refusal() -> Result<()> {
    at_each(&REFUSAL_SITES, |bed, web, site| {
        web.run(&bed.n1)?;
        let id = web.checkpoint(&bed.n1, &[])?.checkpoint.to_string();
        let told = beside_a_death(&bed.n2, site, || web.restore(&bed.n2, &id))?;
        ensure!(told.is_err() && web.listed(&bed.n2)? != "RUNNING", "it runs twice");
        web.remove(&bed.n2)?;
        web.wait_beyond(&bed.n1, web.progress(&bed.n1)?)?;
        web.checkpoint(&bed.n1, &["--stop"])?;
        web.remove(&bed.n1)
    })
}
