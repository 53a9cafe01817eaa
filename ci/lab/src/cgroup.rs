//! Control groups of the lab: a directory per lab and node in every hierarchy of the host, below the caller's own group,
//! so that accounting of the caller stays true. A node sees its directories as the roots (cgroup namespace).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{LabError, Result};
use crate::node::CgroupView;
use crate::{places, process, wait};

/// How long the processes of a killed node may take to go.
const PATIENCE: Duration = Duration::from_secs(30);
/// In the unified hierarchy a group that hands out controllers may not hold processes: they live in this leaf.
const LEAF: &str = "init";
/// Joins the groups of the first `$1` arguments after it, then becomes the rest.
const JOIN: &str = r#"n=$1; shift
while [ "$n" -gt 0 ]; do echo $$ >"$1/cgroup.procs" || exit 125; shift; n=$((n-1)); done
exec "$@""#;

/// One mounted hierarchy, and the caller's own directory in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hierarchy {
    /// Directory name under `/sys/fs/cgroup`, `unified` for the second version.
    pub(crate) name: String,
    /// Mount option that selects it; empty for the second version.
    pub(crate) option: String,
    /// The caller's group.
    own: PathBuf,
}

impl Hierarchy {
    fn is_unified(&self) -> bool {
        self.option.is_empty()
    }

    /// Of the first version and with controllers: a hierarchy that only has a name limits nobody.
    fn has_first_controllers(&self) -> bool {
        !self.is_unified() && !self.option.starts_with("none,")
    }
}

/// The groups of one lab or of one node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Groups {
    dirs: Vec<(Hierarchy, PathBuf)>,
}

impl Groups {
    /// The groups that a lab was made with: those of its maker, who may have been in other groups than the caller.
    pub(crate) fn load(record: &Path) -> Option<Self> {
        serde_json::from_str(&fs::read_to_string(record).ok()?).ok()
    }

    /// The groups of a lab of this name that the caller makes. Nothing is created.
    pub(crate) fn of_lab(name: &str) -> Result<Self> {
        let dirs = hierarchies()?
            .into_iter()
            .map(|hierarchy| {
                let dir = hierarchy.own.join(format!("godwit-lab-{name}"));
                (hierarchy, dir)
            })
            .collect();
        Ok(Self { dirs })
    }

    /// What nodes in these groups can see; what they see by default comes first.
    pub(crate) fn views(&self) -> Vec<CgroupView> {
        views(self.dirs.iter().map(|(hierarchy, _)| hierarchy))
    }

    /// The groups of one node of this lab. Nothing is created.
    pub(crate) fn node(&self, node: &str) -> Self {
        let dirs = self.dirs.iter().map(|(h, dir)| (h.clone(), dir.join(node))).collect();
        Self { dirs }
    }

    /// Creates the directories.
    pub(crate) fn create(&self) -> Result<()> {
        for (hierarchy, dir) in &self.dirs {
            places::make_dir(dir)?;
            if hierarchy.name == "cpuset" {
                inherit_cpuset(dir)?;
            }
            if hierarchy.is_unified() {
                take_controllers(dir);
            }
        }
        Ok(())
    }

    /// `NAME=OPTION` of each first-version hierarchy, for mounting them inside the node.
    pub(crate) fn mounts(&self) -> Vec<String> {
        let first = self.dirs.iter().filter(|(h, _)| !h.is_unified());
        first.map(|(h, _)| format!("{}={}", h.name, h.option)).collect()
    }

    /// A command that runs `program` (with the arguments added later) as a member of these groups.
    /// `roots`: in the unified hierarchy too at the top, where a cgroup namespace is to begin; else in its leaf.
    pub(crate) fn command(&self, roots: bool, program: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", JOIN, "sh", &self.dirs.len().to_string()]);
        for (hierarchy, dir) in &self.dirs {
            command.arg(if hierarchy.is_unified() && !roots {
                dir.join(LEAF)
            } else {
                dir.clone()
            });
        }
        command.arg(program);
        command
    }

    /// Moves processes that began at the top of the unified hierarchy into its leaf.
    pub(crate) fn move_to_leaf(&self, pids: &[u32]) -> Result<()> {
        for (_, dir) in self.dirs.iter().filter(|(h, _)| h.is_unified()) {
            let leaf = dir.join(LEAF);
            places::make_dir(&leaf)?;
            for pid in pids {
                places::write(&leaf.join("cgroup.procs"), pid.to_string())?;
            }
        }
        Ok(())
    }

    /// Writes what [`Groups::load`] reads.
    pub(crate) fn store(&self, record: &Path) -> Result<()> {
        places::write(record, serde_json::to_string(self).unwrap_or_default())
    }

    /// Kills all members and removes the directories.
    pub(crate) fn destroy(&self) -> Result<()> {
        let dirs: Vec<PathBuf> = self.dirs.iter().map(|(_, dir)| dir.clone()).collect();
        destroy(&dirs)
    }
}

/// As [`CgroupView::of_machine`].
pub(crate) fn views_of_machine() -> Result<Vec<CgroupView>> {
    Ok(views(&hierarchies()?))
}

fn views<'a>(hierarchies: impl IntoIterator<Item = &'a Hierarchy> + Clone) -> Vec<CgroupView> {
    let has = |which: fn(&Hierarchy) -> bool| hierarchies.clone().into_iter().any(which);
    let mut views = vec![];
    if has(Hierarchy::has_first_controllers) {
        views.push(CgroupView::V1);
    }
    if has(Hierarchy::is_unified) {
        views.push(CgroupView::V2);
    }
    views
}

fn destroy(dirs: &[PathBuf]) -> Result<()> {
    wait::until("the processes of the lab's control groups to end", PATIENCE, || {
        let left = kill_members(dirs);
        if left.is_empty() { Ok(()) } else { Err(format!("processes {left:?} are left")) }
    })?;
    wait::until("the lab's control groups to go", PATIENCE, || {
        dirs.iter().try_for_each(|dir| remove_tree(dir))
    })
}

/// Kills every member and thaws every frozen group. The kill comes first: a frozen process that is thawed with SIGKILL
/// pending runs no instruction any more.
fn kill_members(dirs: &[PathBuf]) -> Vec<u32> {
    let groups: Vec<PathBuf> = dirs.iter().flat_map(|dir| subtree(dir)).collect();
    let mut left: Vec<u32> = groups.iter().flat_map(|group| members(group)).collect();
    left.sort_unstable();
    left.dedup();
    left.iter().copied().for_each(process::kill_now);
    for group in groups {
        let state = group.join("freezer.state");
        if state.exists() {
            let _ = fs::write(state, "THAWED");
        }
    }
    left
}

fn members(group: &Path) -> Vec<u32> {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// A group and all below it, parents first.
fn subtree(dir: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        todo.extend(entries.flatten().map(|e| e.path()).filter(|p| p.is_dir()));
        found.push(dir);
    }
    found
}

fn remove_tree(dir: &Path) -> std::result::Result<(), String> {
    for group in subtree(dir).iter().rev() {
        match fs::remove_dir(group) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(format!("{}: {error}", group.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// A new cpuset group is empty and accepts nobody until it has processors and memory.
fn inherit_cpuset(dir: &Path) -> Result<()> {
    let Some(parent) = dir.parent() else { return Ok(()) };
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if places::read(&dir.join(file))?.trim().is_empty() {
            if places::read(&parent.join(file))?.trim().is_empty() {
                inherit_cpuset(parent)?;
            }
            places::write(&dir.join(file), places::read(&parent.join(file))?)?;
        }
    }
    Ok(())
}

/// Has the parent pass its controllers down to `dir`; without them a node still freezes, kills and counts.
fn take_controllers(dir: &Path) {
    let Some(parent) = dir.parent() else { return };
    let available = fs::read_to_string(parent.join("cgroup.controllers")).unwrap_or_default();
    for controller in available.split_whitespace() {
        let _ = fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

fn hierarchies() -> Result<Vec<Hierarchy>> {
    let mounts = places::read(Path::new("/proc/self/mountinfo"))?;
    let own = places::read(Path::new("/proc/self/cgroup"))?;
    let found = parse(&mounts, &own);
    if found.is_empty() {
        return Err(LabError::Missing {
            what: "a mounted cgroup hierarchy".to_owned(),
            hint: "mount cgroups at /sys/fs/cgroup".to_owned(),
        });
    }
    Ok(found)
}

/// From the texts of `/proc/self/mountinfo` and `/proc/self/cgroup`.
fn parse(mounts: &str, own: &str) -> Vec<Hierarchy> {
    let mounted: Vec<Mount> = mounts.lines().filter_map(Mount::parse).collect();
    own.lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            let mount = mounted.iter().find(|mount| mount.is(controllers))?;
            let below = Path::new(path).strip_prefix(mount.root).ok()?;
            Some(Hierarchy {
                name: mount.name(controllers),
                option: option(controllers),
                own: if controllers.is_empty() && mount.at == "/sys/fs/cgroup" {
                    // Pure second version: groups with processes cannot hand out controllers, the root can.
                    PathBuf::from(mount.at)
                } else {
                    Path::new(mount.at).join(below)
                },
            })
        })
        .collect()
}

fn option(controllers: &str) -> String {
    match controllers.strip_prefix("name=") {
        Some(_) => format!("none,{controllers}"),
        None => controllers.to_owned(),
    }
}

struct Mount<'a> {
    root: &'a str,
    at: &'a str,
    options: Option<&'a str>,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(3);
        let (root, at) = (left.next()?, left.next()?);
        let mut right = right.split(' ');
        let options = match right.next()? {
            "cgroup" => Some(right.nth(1)?),
            "cgroup2" => None,
            _ => return None,
        };
        Some(Self { root, at, options })
    }

    fn is(&self, controllers: &str) -> bool {
        match self.options {
            None => controllers.is_empty(),
            Some(options) => {
                !controllers.is_empty()
                    && controllers.split(',').all(|c| options.split(',').any(|o| o == c))
            }
        }
    }

    fn name(&self, controllers: &str) -> String {
        let last = Path::new(self.at).file_name().unwrap_or_default().to_string_lossy();
        if controllers.is_empty() { "unified".to_owned() } else { last.into_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hybrid_machine_has_each_controller_and_the_unified_one() {
        let mounts = "\
30 24 0:26 / /sys/fs/cgroup rw shared:9 - tmpfs tmpfs rw
31 30 0:27 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
32 30 0:28 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
33 30 0:29 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";
        let found = parse(mounts, "9:name=systemd:/\n4:memory:/jobs/7\n0::/\n");
        let told: Vec<String> =
            found.iter().map(|h| format!("{} {} {}", h.name, h.option, h.own.display())).collect();
        assert_eq!(
            told,
            [
                "systemd none,name=systemd /sys/fs/cgroup/systemd/",
                "memory memory /sys/fs/cgroup/memory/jobs/7",
                "unified  /sys/fs/cgroup/unified/",
            ]
        );
    }

    #[test]
    fn a_node_sees_the_first_version_only_where_the_machine_has_controllers_in_it() {
        let of = |mounts: &str, own: &str| views(&parse(mounts, own));
        let unified = "30 24 0:26 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(of(unified, "0::/user.slice\n"), [CgroupView::V2]);
        let named = "31 30 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n";
        let own = "1:name=systemd:/\n0::/\n";
        assert_eq!(of(&[unified, named].concat(), own), [CgroupView::V2]);
        let memory = "32 30 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let own = "4:memory:/\n0::/\n";
        assert_eq!(of(&[memory, unified].concat(), own), [CgroupView::V1, CgroupView::V2]);
        assert_eq!(of(memory, own), [CgroupView::V1]);
    }

    #[test]
    fn a_lab_is_found_again_from_other_groups() {
        let dir = tempfile::tempdir().unwrap();
        let record = dir.path().join("groups.json");
        assert!(Groups::load(&record).is_none());
        let mounts = "30 24 0:26 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw";
        let hierarchy = parse(mounts, "0::/").remove(0);
        let made = Groups { dirs: vec![(hierarchy, PathBuf::from("/there"))] };
        made.store(&record).unwrap();
        assert_eq!(Groups::load(&record).unwrap().dirs, made.dirs);
    }

    #[test]
    fn a_pure_second_version_machine_uses_the_root() {
        let mounts = "30 24 0:26 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw";
        let found = parse(mounts, "0::/user.slice/session-1.scope\n");
        assert_eq!(found[0].own, Path::new("/sys/fs/cgroup"));
        assert_eq!(found.len(), 1);
    }
}
