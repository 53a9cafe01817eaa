//! A lab: some nodes and an object store on one network, made fresh, taken down when dropped.

mod at_once;
mod clusters;
mod logs;
mod options;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub use options::LabOptions;

use crate::addresses::node_host_parts;
use crate::cgroup::Groups;
use crate::error::{LabError, Result};
use crate::lock::LabLock;
use crate::network::Network;
use crate::node::{CgroupView, Node, NodeShape, Role};
use crate::s3::{self, S3};
use crate::{places, rootfs};

const LONGEST_LAB_NAME: usize = 40;
/// Interface names have 15 bytes: "gw255-" and this.
const LONGEST_NODE_NAME: usize = 8;

/// A lab that this process works with.
#[derive(Debug)]
pub struct Lab {
    name: String,
    dir: PathBuf,
    network: Network,
    groups: Groups,
    /// `None` for a lab that is only looked at.
    lock: Option<LabLock>,
    take_down: bool,
    /// What it was made for has succeeded.
    done: bool,
}

/// Set to anything but nothing: labs of tests, demo and benches are left up, for looking into them.
const KEEP: &str = "GODWIT_LAB_KEEP";

impl Lab {
    /// Makes the lab from nothing: takes down what an earlier run has left under its name, then starts all nodes with
    /// containerd running, and all clusters, ready for pods. The lab is this process's until dropped; the drop takes it down.
    ///
    /// # Errors
    /// When another run holds it longer than the options' patience, or a step fails (what was started is taken down).
    pub fn up(options: &LabOptions) -> Result<Self> {
        let lock = lock(&options.name, options.patience)?;
        take_down(&options.name)?;
        let mut lab = Self::open(&options.name, Some(lock))?;
        lab.take_down = true;
        lab.add(options)?;
        Ok(lab)
    }

    /// Like [`Lab::up`], but goes on with nodes that run, and leaves the lab up when dropped: for people.
    ///
    /// # Errors
    /// As [`Lab::up`]; what was started stays.
    pub fn up_and_keep(options: &LabOptions) -> Result<Self> {
        let lock = lock(&options.name, options.patience)?;
        let mut lab = Self::open(&options.name, Some(lock))?;
        lab.renew_groups()?;
        lab.add(options)?;
        Ok(lab)
    }

    /// A lab that is up, to work with its nodes. Takes no lock, changes nothing, leaves it up.
    ///
    /// # Errors
    /// [`LabError::Missing`] when there is none of this name.
    pub fn attach(name: &str) -> Result<Self> {
        let dir = dir_of(name)?;
        if Network::find(&dir)?.is_none() {
            return Err(LabError::Missing {
                what: format!("lab {name:?}"),
                hint: "`lab up node` starts one".to_owned(),
            });
        }
        Self::open(name, None)
    }

    /// The names of all labs that have left anything on this machine, whoever uses them.
    #[must_use]
    pub fn all() -> Vec<String> {
        let mut names = names_in(&places::state());
        names.retain(|name| check_name("lab", name, LONGEST_LAB_NAME).is_ok());
        names
    }

    /// Takes down the lab of this name, whoever started it, and removes its state. Nothing to do is success.
    ///
    /// # Errors
    /// When a running test holds it, or its processes do not end.
    pub fn down(name: &str) -> Result<()> {
        let _lock = lock(name, Duration::ZERO)?;
        take_down(name)
    }

    fn open(name: &str, lock: Option<LabLock>) -> Result<Self> {
        let dir = dir_of(name)?;
        places::make_dir(&dir)?;
        Ok(Self {
            name: name.to_owned(),
            network: Network::claim(&dir)?,
            groups: groups_of(name, &dir)?,
            dir,
            lock,
            take_down: false,
            done: false,
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A directory of the host that every node sees as `/lab/shared`.
    #[must_use]
    pub fn shared(&self) -> PathBuf {
        self.dir.join("shared")
    }

    /// The node of this name.
    ///
    /// # Errors
    /// [`LabError::Missing`].
    pub fn node(&self, name: &str) -> Result<Node> {
        let path = self.dir.join("nodes").join(name).join("node.json");
        let Ok(text) = std::fs::read_to_string(&path) else {
            return Err(LabError::Missing {
                what: format!("node {name:?} of lab {:?}", self.name),
                hint: format!("`lab up node --nodes {name}` makes it"),
            });
        };
        let shape = serde_json::from_str(&text)
            .map_err(|error| LabError::Record { path, why: error.to_string() })?;
        Ok(Node::new(shape, &self.dir, self.network, &self.groups))
    }

    /// All nodes, by name.
    ///
    /// # Errors
    /// When the lab's records cannot be read.
    pub fn nodes(&self) -> Result<Vec<Node>> {
        node_names(&self.dir).iter().map(|name| self.node(name)).collect()
    }

    /// The lab's S3 server, running; starts it at the first call.
    ///
    /// # Errors
    /// When it cannot be built or does not serve.
    pub fn s3(&self) -> Result<S3> {
        let server = self.s3_server();
        self.groups.create()?;
        server.start()?;
        Ok(server)
    }

    /// The lab's S3 server, whether it runs or not.
    #[must_use]
    pub fn s3_server(&self) -> S3 {
        S3::new(&self.dir, self.network, &self.groups)
    }

    /// What the lab was made for has succeeded: nobody needs the logs that are else printed when this is dropped.
    /// A test need not say it: of a test that passes, nothing is shown.
    pub fn done(&mut self) {
        self.done = true;
    }

    /// Leaves the lab up when this is dropped, for looking into it by `lab exec`.
    pub fn keep(&mut self) {
        self.take_down = false;
    }

    fn add(&self, options: &LabOptions) -> Result<()> {
        let cgroup = choose_view(options.cgroup, &self.groups.views())?;
        rootfs::ensure()?;
        self.groups.create()?;
        self.groups.store(&groups_record(&self.dir))?;
        for name in &options.nodes {
            self.ensure_node(name, cgroup, Role::Containers, None)?.power_on()?;
        }
        self.add_clusters(&options.clusters, cgroup)
    }

    /// With nothing running, the groups become those of this caller: its maker's may be gone.
    fn renew_groups(&mut self) -> Result<()> {
        let runs = self.s3_server().is_up() || self.nodes()?.iter().any(Node::is_up);
        if !runs {
            self.groups.destroy()?;
            self.groups = Groups::of_lab(&self.name)?;
        }
        Ok(())
    }

    /// The node of this name, made if it is not there: with this host part, or the first that no node has.
    fn ensure_node(
        &self,
        name: &str,
        cgroup: CgroupView,
        role: Role,
        host_part: Option<u8>,
    ) -> Result<Node> {
        check_name("node", name, LONGEST_NODE_NAME)?;
        if name == s3::NAME {
            return Err(LabError::Refused(format!(
                "the node cannot be {name:?}: the S3 server is"
            )));
        }
        if let Ok(node) = self.node(name) {
            return Ok(node);
        }
        let host_part = host_part.map_or_else(|| self.free_host_part(), Ok)?;
        let shape = NodeShape { name: name.to_owned(), host_part, cgroup, role };
        let dir = self.dir.join("nodes").join(name);
        places::make_dir(&dir)?;
        let text = serde_json::to_string(&shape).unwrap_or_default();
        places::write(&dir.join("node.json"), text)?;
        self.node(name)
    }

    fn free_host_part(&self) -> Result<u8> {
        let taken = self.nodes()?;
        let is_free =
            |part: &u8| taken.iter().all(|node| node.address() != self.network.address(*part));
        node_host_parts().find(is_free).ok_or_else(|| {
            LabError::Refused("a lab has at most 49 nodes beside those of its clusters".to_owned())
        })
    }

    fn tell_how_to_look(&self) {
        let lab = format!("cargo run -q -p godwit-lab --bin lab -- --lab {}", self.name);
        let of_containers = |node: &Node| node.role().has_containers();
        let node = self.nodes().unwrap_or_default().into_iter().find(of_containers);
        let node = node.map_or("NODE".to_owned(), |node| node.name().to_owned());
        eprintln!(
            "lab {:?} is left up ({KEEP} is set)\n  look into it:  {lab} exec {node} -- bash\n  its logs:      \
             {lab} logs {node} godwit-agent\n  take it down:  {lab} down",
            self.name
        );
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.take_down {
            return;
        }
        // Of a test that returns an error nothing panics: logs are left unless all is well.
        if !self.done || std::thread::panicking() {
            self.leave_logs();
        }
        if std::env::var_os(KEEP).is_some_and(|value| !value.is_empty()) {
            self.tell_how_to_look();
            return;
        }
        if let Err(error) = take_down(&self.name) {
            eprintln!("taking down lab {:?}: {error}", self.name);
        }
        drop(self.lock.take());
    }
}

fn lock(name: &str, patience: Duration) -> Result<LabLock> {
    if !rustix::process::geteuid().is_root() {
        return Err(LabError::Refused(
            "the lab makes namespaces and mounts: run it as root".to_owned(),
        ));
    }
    let dir = dir_of(name)?;
    LabLock::take(&dir.with_extension("lock"), &format!("lab {name:?}"), patience)
}

/// Ends all processes of the lab, by its recorded groups and process ids, then removes groups, bridge and state.
fn take_down(name: &str) -> Result<()> {
    let dir = dir_of(name)?;
    let network = Network::find(&dir)?;
    let groups = groups_of(name, &dir)?;
    if let Some(network) = network {
        at_once::at_once(node_names(&dir).iter(), |name| {
            // Only its name matters for this.
            let (cgroup, role) = (CgroupView::V2, Role::Containers);
            let shape = NodeShape { name: name.clone(), host_part: 0, cgroup, role };
            Node::new(shape, &dir, network, &groups).power_loss()
        })?;
        S3::new(&dir, network, &groups).kill()?;
    }
    groups.destroy()?;
    if let Some(network) = network {
        network.remove()?;
    }
    places::remove(&dir)
}

fn groups_record(dir: &Path) -> PathBuf {
    dir.join("groups.json")
}

fn groups_of(name: &str, dir: &Path) -> Result<Groups> {
    Groups::load(&groups_record(dir)).map_or_else(|| Groups::of_lab(name), Ok)
}

fn node_names(dir: &Path) -> Vec<String> {
    names_in(&dir.join("nodes"))
}

/// The names of the directories in a directory.
fn names_in(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let dirs = entries.filter(|entry| entry.path().is_dir());
    let mut names: Vec<String> =
        dirs.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn dir_of(name: &str) -> Result<PathBuf> {
    check_name("lab", name, LONGEST_LAB_NAME)?;
    Ok(places::state().join(name))
}

/// What is asked for, else the first that the machine can show.
fn choose_view(asked: Option<CgroupView>, possible: &[CgroupView]) -> Result<CgroupView> {
    let found = asked.map_or(possible.first(), |asked| possible.iter().find(|&&v| v == asked));
    found.copied().ok_or_else(|| {
        let (one, other) = match asked {
            Some(CgroupView::V1) => ("controllers of cgroup v1", "`--cgroup v2`"),
            _ => ("a cgroup2 mount", "a mounted one"),
        };
        LabError::Refused(format!("this machine has no {one}: its nodes need {other}"))
    })
}

/// Names become parts of paths and of interface names.
fn check_name(what: &str, name: &str, longest: usize) -> Result<()> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !name.is_empty() && name.len() <= longest && name.chars().all(plain) {
        return Ok(());
    }
    Err(LabError::Refused(format!(
        "{name:?} cannot name a {what}: 1 to {longest} lower-case letters, digits and dashes"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_see_what_the_machine_has() {
        use CgroupView::{V1, V2};
        assert_eq!(choose_view(None, &[V1, V2]).unwrap(), V1);
        assert_eq!(choose_view(None, &[V2]).unwrap(), V2);
        assert_eq!(choose_view(Some(V2), &[V1, V2]).unwrap(), V2);
        let refused = choose_view(Some(V1), &[V2]).unwrap_err();
        assert!(refused.to_string().contains("--cgroup v2"), "{refused}");
        assert!(choose_view(None, &[]).is_err());
    }

    #[test]
    fn a_name_that_would_be_a_path_is_refused() {
        assert!(check_name("node", "n1", 8).is_ok());
        for bad in ["", "../x", "a/b", "N1", "longer-than-8"] {
            assert!(check_name("node", bad, 8).is_err(), "{bad}");
        }
    }
}
