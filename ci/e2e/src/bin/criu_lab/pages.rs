//! Page maps of a local dump, divided for a lazy restore: CRIU gets the divided ones, a fault handler the whole ones.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use godwit_criu::images::pagemap::{self, Entry, Residence, Space};
use godwit_criu::images::{ImageDir, tasks};
use godwit_types::PAGE_SIZE;

use crate::streams::wait;

/// Writes into `divided` what a lazy restore needs of `whole`. Returns how many pages are lazy and how many are eager.
pub(crate) fn divide(whole: &Path, divided: &Path) -> Result<(u64, u64)> {
    let _ = fs::remove_dir_all(divided);
    fs::create_dir_all(divided)?;
    for file in fs::read_dir(whole)? {
        let file = file?;
        fs::copy(file.path(), divided.join(file.file_name()))?;
    }
    let (from, to) = (ImageDir::new(whole), ImageDir::new(divided));
    let (mut lazy, mut eager) = (0, 0);
    for task in tasks::read(&from)?.iter().filter(|t| !t.zombie) {
        let (id, entries) = pagemap::read(&from, Space::Task(task.vpid))?;
        let captured: Vec<_> = entries.iter().map(|e| e.range).collect();
        let runs = pagemap::split(task, &captured);
        pagemap::write(&to, Space::Task(task.vpid), id, &runs)?;
        let source = File::open(pagemap::pages_path(&from, id))?;
        let mut target = File::create(pagemap::pages_path(&to, id))?;
        for range in pagemap::eager(&runs) {
            for page in range.first.0..range.end().0 {
                target.write_all(&read_page(&source, &entries, page)?)?;
            }
        }
        for run in runs {
            let count = if run.residence == Residence::Lazy { &mut lazy } else { &mut eager };
            *count += run.range.count;
        }
    }
    Ok((lazy, eager))
}

/// Present pages stand one after another in the pages file.
fn read_page(file: &File, entries: &[Entry], page: u64) -> Result<Vec<u8>> {
    let mut before = 0;
    for entry in entries {
        ensure!(entry.present, "a page of a local dump is not there");
        let inside = page.checked_sub(entry.range.first.0).filter(|n| *n < entry.range.count);
        if let Some(inside) = inside {
            let mut bytes = vec![0; usize::try_from(PAGE_SIZE)?];
            file.read_exact_at(&mut bytes, (before + inside) * PAGE_SIZE)?;
            return Ok(bytes);
        }
        before += entry.range.count;
    }
    anyhow::bail!("page {page:#x} is not in the page map")
}

/// CRIU's own fault handler, over a whole dump.
pub(crate) struct Daemon(Child);

impl Daemon {
    pub(crate) fn start(whole: &Path, work: &Path) -> Result<Self> {
        let child = Command::new("/usr/sbin/criu")
            .args(["lazy-pages".as_ref(), "-D".as_ref(), whole.as_os_str()])
            .args(["-W".as_ref(), work.as_os_str(), "-o".as_ref(), "lazy.log".as_ref()])
            .stdin(Stdio::null())
            .spawn()?;
        let socket = work.join("lazy-pages.socket");
        wait("the fault handler", || Ok(socket.exists().then_some(())))?;
        Ok(Self(child))
    }

    /// Waits until every page is in its place.
    pub(crate) fn wait(mut self) -> Result<()> {
        let status = self.0.wait().context("waiting for the fault handler")?;
        ensure!(status.success(), "the fault handler: {status}");
        Ok(())
    }
}
