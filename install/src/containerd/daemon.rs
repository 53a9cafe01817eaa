//! The containerd that runs: who serves the socket, how it was started, what it reads.

use std::fs;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{exe_of, output};
use crate::settings::Settings;
use crate::{Error, Result};

/// What it reads when it is not told.
const CONFIG: &str = "/etc/containerd/config.toml";

/// A running containerd.
#[derive(Debug, Clone)]
pub struct Daemon {
    /// Its process.
    pub pid: u32,
    /// Its program.
    pub exe: PathBuf,
    /// The name that it was started by: one program may be many (k3s).
    pub name: String,
    /// Where it looks for shims and for runc.
    pub path: String,
    /// Its main configuration file, which need not exist.
    pub config: PathBuf,
    /// Its unit, where systemd started it.
    pub unit: Option<String>,
}

impl Daemon {
    /// Asks the kernel who serves the socket.
    ///
    /// # Errors
    /// Nobody serves it, or not somebody that we can look at.
    pub fn find(settings: &Settings) -> Result<Self> {
        let socket = &settings.containerd_socket;
        let away = |source| {
            Error::Refused(format!(
                "containerd does not answer at {} ({source}): start it, or name its socket by --containerd-socket",
                socket.display()
            ))
        };
        let stream = UnixStream::connect(socket).map_err(|why| away(why.to_string()))?;
        let peer = rustix::net::sockopt::socket_peercred(&stream);
        let peer = peer.map_err(|why| away(why.to_string()))?;
        let pid = u32::try_from(peer.pid.as_raw_nonzero().get()).unwrap_or_default();
        let exe = exe_of(pid).ok_or_else(|| away(format!("process {pid} cannot be looked at")))?;
        let read = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let arguments = words(&read("cmdline"));
        let config = settings.containerd_config.clone();
        Ok(Self {
            pid,
            exe,
            name: arguments.first().cloned().unwrap_or_else(|| "containerd".to_owned()),
            path: path_in(&words(&read("environ"))),
            config: config.unwrap_or_else(|| config_in(&arguments)),
            unit: unit_in(&String::from_utf8_lossy(&read("cgroup"))),
        })
    }

    /// What it would read from a main configuration file: `containerd config dump`.
    ///
    /// # Errors
    /// It refuses the file.
    pub fn dump(&self, config: &Path) -> Result<toml::Table> {
        let mut command = Command::new(&self.exe);
        command.arg0(&self.name).env("PATH", &self.path);
        command.arg("--config").arg(config).args(["config", "dump"]);
        let text = String::from_utf8_lossy(&output(&mut command)?).into_owned();
        text.parse().map_err(|why: toml::de::Error| Error::Toml {
            path: config.to_owned(),
            why: format!("the output of `containerd config dump` is not valid: {}", why.message()),
        })
    }

    /// Where it would find a program.
    #[must_use]
    pub fn finds(&self, program: &str) -> Option<PathBuf> {
        if program.contains('/') {
            return Some(PathBuf::from(program)).filter(|path| path.exists());
        }
        self.path.split(':').map(|dir| Path::new(dir).join(program)).find(|path| path.exists())
    }
}

fn words(bytes: &[u8]) -> Vec<String> {
    let words = bytes.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    words.map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

fn path_in(environment: &[String]) -> String {
    let path = environment.iter().find_map(|pair| pair.strip_prefix("PATH="));
    path.unwrap_or("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").to_owned()
}

/// `--config FILE`, `-c FILE`, with one dash or two, with a blank or `=`.
fn config_in(arguments: &[String]) -> PathBuf {
    let is_flag = |word: &str| matches!(word, "--config" | "-config" | "-c" | "--c");
    for (at, word) in arguments.iter().enumerate().skip(1) {
        if is_flag(word) {
            return arguments.get(at + 1).map_or(CONFIG.into(), PathBuf::from);
        }
        if let Some((flag, value)) = word.split_once('=')
            && is_flag(flag)
        {
            return value.into();
        }
    }
    CONFIG.into()
}

/// The unit in `/proc/PID/cgroup`: of systemd's own hierarchy, or of the only one.
fn unit_in(cgroups: &str) -> Option<String> {
    let own = cgroups.lines().find_map(|line| line.split_once(":name=systemd:").map(|(_, p)| p));
    let path = own.or_else(|| cgroups.lines().find_map(|line| line.strip_prefix("0::")))?;
    path.split('/').rev().find(|part| part.ends_with(".service")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(line: &str) -> PathBuf {
        config_in(&line.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn the_configuration_is_the_one_that_it_was_started_with() {
        assert_eq!(config("containerd"), Path::new(CONFIG));
        assert_eq!(config("containerd --log-level debug --config /x.toml"), Path::new("/x.toml"));
        assert_eq!(config("containerd -c /x.toml"), Path::new("/x.toml"));
        assert_eq!(config("containerd --config=/x.toml"), Path::new("/x.toml"));
    }

    #[test]
    fn the_unit_is_found_under_both_versions_of_cgroups() {
        let v2 = "0::/system.slice/containerd.service\n";
        assert_eq!(unit_in(v2).as_deref(), Some("containerd.service"));
        let v1 = "9:memory:/x.service\n1:name=systemd:/system.slice/k3s.service\n0::/\n";
        assert_eq!(unit_in(v1).as_deref(), Some("k3s.service"));
        assert_eq!(unit_in("0::/\n"), None);
    }

    #[test]
    fn a_socket_that_nobody_serves_is_named() {
        use clap::Parser as _;
        let words = ["godwit-install", "node", "--containerd-socket", "/nowhere/c.sock"];
        let crate::settings::Command::Node(settings) =
            crate::settings::Arguments::parse_from(words).command;
        let error = Daemon::find(&settings).unwrap_err().to_string();
        assert!(error.contains("/nowhere/c.sock") && error.contains("start it"), "{error}");
    }
}
