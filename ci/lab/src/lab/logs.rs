//! What a lab that has failed leaves of its logs: all of them as files, and the ends of some on standard error.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use super::Lab;
use crate::command::tail;
use crate::error::Result;
use crate::node::{Node, Service};
use crate::places;

/// How much of each log is shown: what went wrong is told after all of them, and is to be seen.
const SHOWN: usize = 1500;
/// Labs of one name whose logs are kept. Not only failures: a test need not say that it is done.
const KEPT: usize = 100;

impl Lab {
    pub(super) fn leave_logs(&self) {
        let of_lab = places::cache().join("logs").join(&self.name);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let dir = of_lab.join(now.to_string());
        match self.keep_logs(&dir).and_then(|()| forget_oldest(&of_lab)) {
            Ok(()) => eprintln!("---- whole logs: {} ----", dir.display()),
            Err(error) => eprintln!("keeping logs: {error}"),
        }
    }

    fn keep_logs(&self, dir: &Path) -> Result<()> {
        places::make_dir(dir)?;
        for node in self.nodes().unwrap_or_default() {
            let own = node.role().services().concat();
            for service in own.into_iter().chain([Service::Agent]) {
                let Ok(log) = node.log(service.name()) else { continue };
                let name = format!("{}.{}.log", node.name(), service.name());
                if is_shown(&node, service) {
                    show(&name, &log);
                }
                places::write(&dir.join(name), log)?;
            }
        }
        places::write(&dir.join("s3.log"), self.s3_server().log())
    }
}

fn forget_oldest(of_lab: &Path) -> Result<()> {
    let entries = std::fs::read_dir(of_lab).into_iter().flatten().flatten();
    let mut all: Vec<_> = entries.map(|entry| entry.path()).collect();
    // Their names are times.
    all.sort();
    let old = all.len().saturating_sub(KEPT);
    all[..old].iter().try_for_each(|dir| places::remove(dir))
}

/// What a node is for.
fn is_shown(node: &Node, service: Service) -> bool {
    node.role().has_containers() && matches!(service, Service::Agent | Service::Containerd)
}

fn show(name: &str, log: &str) {
    if !log.trim().is_empty() {
        eprintln!("---- end of {name} ----\n{}", tail(log, SHOWN));
    }
}
