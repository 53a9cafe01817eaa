//! What there is on the node: facts alone, gathered without changing anything. Whether they will do is decided in [`crate::check`].

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use godwit_criu::launch::Launcher;
use godwit_criu::probe::{Probe, probe};
use godwit_types::names;

use crate::containerd::client::{Client, Container};
use crate::containerd::config;
use crate::containerd::daemon::Daemon;
use crate::kubelet::Facts;
use crate::process::text;
use crate::programs::{BIN, Release, SHIM};
use crate::settings::Settings;
use crate::{Error, Result, agent, error_chain, programs};

/// For CRIU to answer.
const CRIU_PATIENCE: Duration = Duration::from_secs(30);
/// Where CRIU may be, the agent's default first.
const CRIU_PLACES: [&str; 5] = [
    "/usr/sbin/criu",
    "/usr/bin/criu",
    "/usr/local/sbin/criu",
    "/usr/local/bin/criu",
    "/sbin/criu",
];

/// A version as two numbers.
pub type Version = (u32, u32);

/// Facts of one node.
#[derive(Debug)]
pub struct Host {
    /// As `uname -m` says.
    pub machine: String,
    /// The kernel's version, as it says.
    pub kernel: String,
    /// Which control groups there are.
    pub cgroups: Cgroups,
    /// Whether the node has a machine id.
    pub has_machine_id: bool,
    /// The CRIU that the agent uses or would use.
    pub criu: PathBuf,
    /// What it can do, or why it cannot be used.
    pub criu_answers: std::result::Result<Probe, String>,
    /// The release, or why it cannot be used.
    pub release: std::result::Result<Release, String>,
    /// Bytes free where releases go.
    pub free: u64,
    /// Directories that we would write to and that cannot be written.
    pub read_only: Vec<PathBuf>,
    /// Why the configuration that the agent has, or would get, cannot be used here, if so.
    pub agent_fault: Option<String>,
    /// containerd, or why it cannot be looked at.
    pub containerd: std::result::Result<Containerd, String>,
    /// The kubelet's configuration, where one was named.
    pub kubelet: Option<Facts>,
}

/// What there is of control groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cgroups {
    /// Only version 2.
    Unified,
    /// Version 1 with its freezer.
    Freezer,
    /// Neither.
    None,
}

/// Facts of the running containerd.
#[derive(Debug)]
pub struct Containerd {
    /// How it runs.
    pub daemon: Daemon,
    /// Its version.
    pub version: String,
    /// Why its configuration cannot take a drop-in, if so.
    pub config_fault: Option<String>,
    /// What starts the runtime of our name that its configuration has: the path of a shim, or a type.
    pub ours: Option<String>,
    /// Where it finds our shim now.
    pub shim: Option<PathBuf>,
    /// Version of the runc that it finds.
    pub runc: Option<String>,
    /// Containers of ours.
    pub containers: Vec<Container>,
}

impl Host {
    /// Looks at everything; what cannot be looked at is a fact, too.
    #[must_use]
    pub fn look(settings: &Settings) -> Self {
        let release = from(settings).and_then(|dir| Release::look(&dir));
        Self::look_with(settings, release.map_err(|error| error_chain(&error)))
    }

    /// As [`Host::look`], with what is known of a release.
    #[must_use]
    pub fn look_with(settings: &Settings, release: std::result::Result<Release, String>) -> Self {
        let uname = rustix::system::uname();
        let criu = criu(settings.agent_config.as_deref());
        let launcher = Launcher { criu: criu.clone(), ..Launcher::default() };
        let told = |error: Error| error_chain(&error);
        Self {
            machine: uname.machine().to_string_lossy().into_owned(),
            kernel: uname.release().to_string_lossy().into_owned(),
            cgroups: cgroups(),
            has_machine_id: has_machine_id(),
            criu_answers: probe(&launcher, Instant::now() + CRIU_PATIENCE)
                .map_err(|why| error_chain(&why)),
            criu,
            release,
            free: free(&settings.prefix),
            read_only: read_only(settings),
            agent_fault: agent::fault(settings).map(told),
            kubelet: Facts::look(settings),
            containerd: Daemon::find(settings)
                .and_then(|daemon| Containerd::look(settings, daemon))
                .map_err(told),
        }
    }
}

impl Containerd {
    /// Asks a running containerd, its programs and its files.
    ///
    /// # Errors
    /// It does not answer.
    pub fn look(settings: &Settings, daemon: Daemon) -> Result<Self> {
        let client = Client::connect(&settings.containerd_socket)?;
        let config_fault = crate::containerd::fault(&daemon).map(|why| error_chain(&why));
        let dump = daemon.dump(&daemon.config).unwrap_or_default();
        let runc =
            daemon.finds("runc").and_then(|runc| text(Command::new(runc).arg("--version")).ok());
        Ok(Self {
            version: client.version()?,
            config_fault,
            ours: config::starter_of_ours(&dump).map(str::to_owned),
            shim: daemon.finds(SHIM),
            runc: runc.map(|told| first_line(&told)),
            containers: client.ours()?,
            daemon,
        })
    }
}

/// The first two numbers of a version: `1.3.6` of `runc version 1.3.6`, `2.1` of `v2.1.9+x`.
#[must_use]
pub fn version(text: &str) -> Option<Version> {
    let word = text
        .split_whitespace()
        .find(|word| word.trim_start_matches('v').starts_with(|c: char| c.is_ascii_digit()))?;
    let mut numbers = word.trim_start_matches('v').split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

/// Where the release is: named, or beside this program.
fn from(settings: &Settings) -> Result<PathBuf> {
    if let Some(from) = &settings.from {
        // Of a descriptor that was handed to us, programs that we start have no such number.
        let ours = || PathBuf::from(format!("/proc/{}", std::process::id()));
        let handed = from.strip_prefix("/proc/self").ok();
        return Ok(handed.map_or_else(|| from.clone(), |rest| ours().join(rest)));
    }
    let own = std::env::current_exe()
        .map_err(|source| Error::Io { attempt: "find this program".to_owned(), source })?;
    Ok(own.parent().unwrap_or(Path::new("/")).to_owned())
}

/// The CRIU that the agent uses or would use, with this configuration to begin with.
#[must_use]
pub fn criu(given: Option<&Path>) -> PathBuf {
    let kept = Path::new(names::AGENT_CONFIG);
    let configured = match kept.exists() {
        true => Some(agent::configured("criu").unwrap_or_else(|| CRIU_PLACES[0].to_owned())),
        false => given.and_then(|given| agent::configured_by(given, "criu")),
    };
    if let Some(configured) = configured {
        return configured.into();
    }
    let there = CRIU_PLACES.iter().map(PathBuf::from).find(|path| path.exists());
    there.unwrap_or_else(|| CRIU_PLACES[0].into())
}

fn cgroups() -> Cgroups {
    let has = |path: &str| Path::new(path).exists();
    match has("/sys/fs/cgroup/freezer") {
        true => Cgroups::Freezer,
        false if has("/sys/fs/cgroup/cgroup.controllers") => Cgroups::Unified,
        false => Cgroups::None,
    }
}

fn has_machine_id() -> bool {
    let id = std::fs::read_to_string(names::MACHINE_ID).unwrap_or_default();
    id.trim().len() == 32
}

/// Bytes free on the file system that will hold a directory.
#[must_use]
pub fn free(dir: &Path) -> u64 {
    let there = dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    rustix::fs::statvfs(there).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// The file systems of directories that programs and configurations go to may be for reading only.
fn read_only(settings: &Settings) -> Vec<PathBuf> {
    let places =
        programs::places().into_iter().filter_map(|(_, place)| Some(place.parent()?.into()));
    let mut dirs: Vec<PathBuf> = places.chain([settings.prefix.clone(), "/etc".into()]).collect();
    dirs.sort();
    dirs.dedup();
    let is_read_only = |dir: &PathBuf| {
        let there = dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
        let stat = rustix::fs::statvfs(there);
        stat.is_ok_and(|stat| stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
    };
    dirs.retain(is_read_only);
    dirs
}

/// Directory of the programs that people and containerd call.
#[must_use]
pub fn bin() -> &'static Path {
    Path::new(BIN)
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        assert_eq!(version("runc version 1.3.6"), Some((1, 3)));
        assert_eq!(version("v2.0.0-rc.1+unknown"), Some((2, 0)));
        assert_eq!(version("6.18.44-cloud-amd64"), Some((6, 18)));
        assert_eq!(version("2.1.9~ds1"), Some((2, 1)));
        assert_eq!(version("unknown"), None);
    }
}
