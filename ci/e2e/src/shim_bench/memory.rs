//! What the shims of a node take of its memory.

use anyhow::Result;
use godwit_lab::Node;
use serde::Serialize;

use crate::proc_text::number;

/// KiB.
#[derive(Debug, Clone, Serialize)]
pub struct Memory {
    /// How many shims there are.
    pub shims: usize,
    /// Of one: all that is resident, the median.
    pub resident: u64,
    /// Of one: what is no file's, the median.
    pub anonymous: u64,
    /// Of all: each page's share by those that have it.
    pub total_pss: u64,
}

impl Memory {
    /// Of all shims of a node.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub(super) fn of_shims(node: &Node) -> Result<Self> {
        let pids = node.sh("pgrep --full '^[^ ]*containerd-shim-' || true")?;
        let (mut resident, mut anonymous, mut total_pss) = (vec![], vec![], 0);
        for pid in pids.split_whitespace() {
            let status = node.read_file(&format!("/proc/{pid}/status"))?;
            resident.push(number(&status, "VmRSS:")?);
            anonymous.push(number(&status, "RssAnon:")?);
            total_pss += number(&node.read_file(&format!("/proc/{pid}/smaps_rollup"))?, "Pss:")?;
        }
        let shims = resident.len();
        let (resident, anonymous) = (median(resident), median(anonymous));
        Ok(Self { shims, resident, anonymous, total_pss })
    }
}

fn median(mut of_each: Vec<u64>) -> u64 {
    of_each.sort_unstable();
    of_each.get(of_each.len() / 2).copied().unwrap_or_default()
}
