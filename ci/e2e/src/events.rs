//! What containerd tells its clients.

use std::io::{BufRead as _, BufReader};
use std::sync::mpsc::{Receiver, channel};

use anyhow::{Context as _, Result};
use godwit_lab::{Node, Spawned, wait};

use crate::container::SOON;

/// What containerd tells, from now on.
#[derive(Debug)]
pub struct Events {
    lines: Receiver<String>,
    process: Spawned,
}

impl Events {
    /// Listens; what happens after this is heard.
    ///
    /// # Errors
    /// `ctr events` cannot be started, or hears nothing.
    pub fn of(node: &Node) -> Result<Self> {
        let mut process = node.spawn(&["ctr", "events"])?;
        let out = process.child().stdout.take().context("its output")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            let lines = BufReader::new(out).lines().map_while(std::result::Result::ok);
            // A test that has ended hears nothing more.
            lines.map(|line| sender.send(line)).take_while(std::result::Result::is_ok).count()
        });
        let events = Self { lines, process };
        // It listens when it hears of something that happens now.
        wait::until("containerd's events", SOON, || {
            node.ctr(&["namespaces", "label", "default", "heard=yes"])
                .map_err(|error| error.to_string())?;
            events.lines.try_recv().map_err(|error| error.to_string())
        })?;
        Ok(events)
    }

    /// The body of the next event of this topic for the init process of a container.
    ///
    /// # Errors
    /// There is none in time.
    pub fn wait_for(&self, topic: &str, container: &str) -> Result<serde_json::Value> {
        let line = wait::until(&format!("{topic} of {container}"), SOON, || {
            let line = self.lines.try_recv().map_err(|error| error.to_string())?;
            let its = line.contains(topic) && line.contains(&format!("\"id\":\"{container}\""));
            its.then_some(line).ok_or_else(|| "other events".to_owned())
        })?;
        let body = line.find('{').and_then(|at| line.get(at..)).context("a body")?;
        Ok(serde_json::from_str(body)?)
    }

    /// Ends; all that was heard and not asked for.
    ///
    /// # Errors
    /// `ctr events` cannot be ended.
    pub fn rest(self) -> Result<Vec<String>> {
        self.process.kill()?;
        Ok(self.lines.iter().collect())
    }
}
