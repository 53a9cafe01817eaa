//! How an installer has daemons of a node restarted that has no systemd: it asks by a file, and the test, which alone can start them, does.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use godwit_lab::{Node, Service};

/// How often it is looked whether somebody asks.
const LOOK: Duration = Duration::from_millis(100);

/// Somebody asks for a restart of this, and waits while the file is there.
fn asked(service: Service) -> String {
    format!("/run/lab/restart-{}", service.name())
}

/// Whether somebody waits for a restart of this.
///
/// # Errors
/// The node is not up.
pub fn is_asked(node: &Node, service: Service) -> Result<bool> {
    Ok(node.host_path(&asked(service))?.exists())
}

/// The shell command by which the restart of a daemon is asked for.
#[must_use]
pub fn command(service: Service) -> String {
    let file = asked(service);
    // This shell's own number. Kubernetes would make one `$` of two.
    format!("sh -c 'echo $PPID' >{file}; while test -e {file}; do sleep 0.1; done")
}

fn read(file: &Path) -> Option<u32> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// Does what is asked for by [`command`], of containerd and of the kubelet, while something else is done.
///
/// # Errors
/// One cannot be restarted; else as `act`.
pub fn served<T>(node: &Node, act: impl FnOnce() -> Result<T>) -> Result<T> {
    let over = AtomicBool::new(false);
    let serve = || -> Result<()> {
        while !over.load(Ordering::Relaxed) {
            for service in [Service::Containerd, Service::Kubelet] {
                let file = node.host_path(&asked(service))?;
                // It may just be being written.
                let Some(pid) = read(&file) else { continue };
                // Who has ended has not waited for it.
                if node.sh(&format!("kill -0 {pid}")).is_ok() {
                    node.kill(service)?;
                    node.start(service)?;
                }
                std::fs::remove_file(file)?;
            }
            // Its end wakes it.
            std::thread::park_timeout(LOOK);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let serving = scope.spawn(serve);
        let done = act();
        over.store(true, Ordering::Relaxed);
        serving.thread().unpark();
        match serving.join() {
            Ok(served) => served.and(done),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
