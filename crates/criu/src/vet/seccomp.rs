//! The seccomp filters that a checkpoint brings: CRIU installs them as they are, so they must forbid what the new spec does.
//!
//! Owns the judgement of filter chains ([`Chains`]). For every system call that the spec denies whatever its arguments
//! ([`profile`]), every chain is asked whether it could let it pass ([`bpf`]); a filter has been changed if one could.
//! What runc makes of the same spec passes, whichever version of runc and libseccomp it was, since a refusal costs a pod
//! its memory: where they differ, or a rule has conditions, nothing is asked.

mod abi;
mod bpf;
mod chain;
mod profile;
#[cfg(test)]
mod tests;

use godwit_criu_rpc::image_file::Kind;
use godwit_criu_rpc::images::{Core, Seccomp, SeccompFilter, SeccompMode, TaskCore, ThreadCore};
use oci_spec::runtime::{LinuxSeccomp, Spec};

use self::abi::Machine;
use self::chain::Rows;
use self::profile::What;
use super::Refusal;
use crate::Error;
use crate::images::ImageDir;

/// The image with the filters of all threads.
const IMAGE: &str = "seccomp.img";

/// The filter chains of a checkpoint.
#[derive(Debug)]
pub(super) struct Chains {
    /// `None`: the spec demands no filter.
    rows: Option<Rows>,
}

impl Chains {
    /// Reads the filters of an image set, which are to forbid what the spec does.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Rpc`], [`Error::Image`] for filters that CRIU would not have written, or that the kernel
    /// would not take.
    pub(super) fn read(images: &ImageDir, spec: &Spec) -> Result<Self, Error> {
        let seccomp = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
        let Some(seccomp) = seccomp else { return Ok(Self { rows: None }) };
        Self::of(&filters(images)?, seccomp, Machine::HERE)
    }

    fn of(
        filters: &[SeccompFilter],
        seccomp: &LinuxSeccomp,
        machine: Machine,
    ) -> Result<Self, Error> {
        let demands = if filters.is_empty() { vec![] } else { profile::demands(seccomp, machine) };
        Ok(Self { rows: Some(Rows::read(filters, demands)?) })
    }

    /// What is wrong with the filters of a thread, whose leader's are given to it if they are `synced`.
    ///
    /// # Errors
    /// [`Error::Image`]: the filters cannot be judged, or CRIU would not use those that stand here.
    pub(super) fn check(
        &mut self,
        pid: u32,
        core: &Core,
        thread: &ThreadCore,
        synced: bool,
    ) -> Result<Option<Refusal>, Error> {
        let Some(rows) = &mut self.rows else { return Ok(None) };
        let old = |tc: &TaskCore| tc.old_seccomp_mode.is_some() || tc.old_seccomp_filter.is_some();
        if core.tc.as_ref().is_some_and(old) {
            let reason = "names seccomp filters as an old CRIU did, and CRIU would take those for the vetted ones";
            return Err(Error::image(format!("core-{pid}.img"), reason));
        }
        if thread.seccomp_mode() == SeccompMode::Strict {
            return Ok(None);
        }
        match first_filter(thread).filter(|first| rows.has(*first)) {
            Some(first) => {
                let refusal = |what: What| Refusal::SystemCall { pid, what: what.to_string() };
                Ok(rows.excess(first)?.map(refusal))
            }
            None if synced => Ok(None),
            None => Ok(Some(Refusal::Seccomp { pid })),
        }
    }

    /// Whether every filter of the leader's chain is given to all threads of its process.
    pub(super) fn are_synced(&self, leader: &ThreadCore) -> bool {
        let rows = self.rows.as_ref().zip(first_filter(leader));
        rows.is_some_and(|(rows, first)| rows.is_synced(first))
    }
}

fn first_filter(thread: &ThreadCore) -> Option<usize> {
    let filtered = thread.seccomp_mode() == SeccompMode::Filter;
    usize::try_from(thread.seccomp_filter.filter(|_| filtered)?).ok()
}

/// The seccomp filters of the image set.
fn filters(images: &ImageDir) -> Result<Vec<SeccompFilter>, Error> {
    let Some(file) = images.read_if_there(Kind::Seccomp, IMAGE)? else { return Ok(vec![]) };
    let seccomp: Seccomp = file.decode_one(IMAGE)?;
    Ok(seccomp.seccomp_filters)
}
