//! Numbers of `/proc/PID/status` and its like.

use anyhow::{Context as _, Result};

/// The number of the line that begins with this name (`VmRSS:`), in its own unit.
///
/// # Errors
/// There is none.
pub fn number(text: &str, name: &str) -> Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.and_then(|n| n.parse().ok()).with_context(|| format!("{name} is not told:\n{text}"))
}
