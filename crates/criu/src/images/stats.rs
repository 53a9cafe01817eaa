//! CRIU's own numbers of a dump or restore.

use std::path::Path;
use std::time::Duration;

use godwit_criu_rpc::image_file::{ImageFile, Kind};
use godwit_criu_rpc::images::Stats;

use crate::Error;
use crate::images::read_bounded;

/// Name of the file in the work directory.
const DUMP_FILE: &str = "stats-dump";
/// A dozen numbers.
const MAX_FILE: usize = 4096;

/// What CRIU measured of a dump.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DumpStats {
    /// Seizing the tasks.
    pub freezing: Duration,
    /// Tasks held, until their release.
    pub frozen: Duration,
    /// Finding and sending pages.
    pub memory: Duration,
    /// Pages sent.
    pub pages: u64,
}

/// Reads them from the work directory of a finished dump.
///
/// # Errors
/// [`Error::Io`], [`Error::Rpc`].
pub fn of_dump(work: &Path) -> Result<DumpStats, Error> {
    let bytes = read_bounded(&work.join(DUMP_FILE), MAX_FILE)?;
    let stats: Stats = ImageFile::parse(Kind::Stats, DUMP_FILE, &bytes)?.decode_one(DUMP_FILE)?;
    let dump = stats.dump.unwrap_or_default();
    let time = |us: u32| Duration::from_micros(u64::from(us));
    Ok(DumpStats {
        freezing: time(dump.freezing_time),
        frozen: time(dump.frozen_time),
        memory: time(dump.memdump_time),
        pages: dump.pages_written,
    })
}
