//! Progress for tests: lines on standard output, and the last line in a file if one is named.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

/// Where progress goes.
#[derive(Debug, Clone, clap::Args)]
pub struct Progress {
    /// Keep the last line in this file too, replaced in one step.
    #[arg(long = "file")]
    file: Option<PathBuf>,
}

impl Progress {
    /// Tells one line.
    ///
    /// # Errors
    /// When standard output or the file cannot be written: a test must not mistake silence for success.
    pub fn tell(&self, line: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        writeln!(out, "{line}")?;
        out.flush()?;
        let Some(file) = &self.file else { return Ok(()) };
        let next = file.with_extension("next");
        fs::write(&next, format!("{line}\n"))?;
        fs::rename(&next, file)
    }
}
