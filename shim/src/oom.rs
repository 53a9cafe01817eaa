//! Out-of-memory events of a container: v1 by an eventfd on `memory.oom_control`, v2 by `oom_kill` in `memory.events`.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
use tokio::task::AbortHandle;

use crate::cgroup::Cgroup;
use crate::error::{Error, Result};
use crate::events::{Event, Events};
use crate::io::fd::AsyncPipe;

/// Watches one container until it is dropped.
#[derive(Debug)]
pub struct OomWatch {
    source: Arc<Source>,
    task: AbortHandle,
}

#[derive(Debug)]
struct Source {
    container: String,
    events: Events,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// Readable when the cgroup was out of memory, or is gone.
    V1 { eventfd: AsyncPipe, dir: PathBuf },
    /// Readable when the file changed; `seen` is the count that was told already.
    V2 { inotify: AsyncPipe, file: PathBuf, seen: std::sync::atomic::AtomicU64 },
}

impl OomWatch {
    /// Starts to watch. `None` if the cgroup has no memory controller.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn start(container: &str, cgroup: &Cgroup, events: &Events) -> Result<Option<Self>> {
        let kind = match cgroup {
            Cgroup::V1(group) => match group.controller("memory") {
                Some(dir) => v1(dir)?,
                None => return Ok(None),
            },
            Cgroup::V2(group) => match v2(group.dir())? {
                Some(kind) => kind,
                None => return Ok(None),
            },
        };
        let source = Source { container: container.to_owned(), events: events.clone(), kind };
        let source = Arc::new(source);
        let task = tokio::spawn(watch(Arc::clone(&source))).abort_handle();
        Ok(Some(Self { source, task }))
    }

    /// Tells what has happened and was not told yet: so that a kill for want of memory is known before its exit.
    pub fn flush(&self) {
        let mut buffer = [0; 4096];
        if let Ok(Some(n)) = self.source.notifier().try_read(&mut buffer)
            && n > 0
        {
            self.source.tell();
        }
    }
}

impl Drop for OomWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Source {
    fn notifier(&self) -> &AsyncPipe {
        match &self.kind {
            Kind::V1 { eventfd, .. } => eventfd,
            Kind::V2 { inotify, .. } => inotify,
        }
    }

    fn tell(&self) {
        let happened = match &self.kind {
            // The removal of the cgroup notifies, too.
            Kind::V1 { dir, .. } => dir.exists(),
            Kind::V2 { file, seen, .. } => {
                let kills = oom_kills(file);
                kills > seen.swap(kills, std::sync::atomic::Ordering::Relaxed)
            }
        };
        if happened {
            self.events.publish(Event::oom(&self.container));
        }
    }
}

async fn watch(source: Arc<Source>) {
    let mut buffer = [0; 4096];
    while let Ok(n) = source.notifier().read(&mut buffer).await {
        if n == 0 {
            return;
        }
        source.tell();
    }
}

fn v1(dir: &Path) -> Result<Kind> {
    let attempt = || Error::io(format!("watch for out-of-memory in {}", dir.display()));
    let control = std::fs::File::open(dir.join("memory.oom_control")).map_err(attempt())?;
    let fd: OwnedFd = eventfd(0, EventfdFlags::CLOEXEC).map_err(Error::io("make an eventfd"))?;
    let request = format!("{} {}", fd.as_raw_fd(), control.as_raw_fd());
    std::fs::write(dir.join("cgroup.event_control"), request).map_err(attempt())?;
    Ok(Kind::V1 { eventfd: AsyncPipe::new(fd)?, dir: dir.to_owned() })
}

fn v2(dir: &Path) -> Result<Option<Kind>> {
    let file = dir.join("memory.events");
    if !file.exists() {
        return Ok(None);
    }
    let attempt = || Error::io(format!("watch {}", file.display()));
    let inotify = init(CreateFlags::CLOEXEC).map_err(attempt())?;
    add_watch(&inotify, &file, WatchFlags::MODIFY).map_err(attempt())?;
    let seen = std::sync::atomic::AtomicU64::new(oom_kills(&file));
    Ok(Some(Kind::V2 { inotify: AsyncPipe::new(inotify)?, file, seen }))
}

fn oom_kills(file: &Path) -> u64 {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.and_then(|count| count.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_counted_by_their_own_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("memory.events");
        std::fs::write(&file, "low 0\noom 3\noom_kill 2\noom_group_kill 1\n").unwrap();
        assert_eq!(oom_kills(&file), 2);
        assert_eq!(oom_kills(&dir.path().join("absent")), 0);
    }
}
