//! How the shim is called: by containerd as `start`, `delete` and `-info`, by its own `start` as the server, by the server as `hold`.

pub mod delete;
pub mod info;
pub mod input;
mod log;
pub mod serve;
pub mod socket;
pub mod start;

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::mounts::idmap::HOLD;

/// Name of the runtime, as users write it.
pub const RUNTIME: &str = godwit_types::names::RUNTIME;

/// What the program is to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Action {
    /// Make sure that a shim serves this container and print its address.
    Start,
    /// Clean up after a shim that is dead.
    Delete,
    /// Describe the runtime.
    Info,
    /// Print the version.
    Version,
    /// Hold a namespace until standard input ends.
    Hold,
    /// Be the shim.
    #[default]
    Serve,
}

/// The command line of containerd's shim protocol.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Arguments {
    /// What to do.
    pub action: Action,
    /// containerd's namespace.
    pub namespace: String,
    /// The container.
    pub id: String,
    /// containerd's socket.
    pub address: String,
    /// The bundle; the working directory if absent.
    pub bundle: Option<PathBuf>,
    /// More logs.
    pub debug: bool,
}

impl Arguments {
    /// Parses flags as Go programs take them (`-id x`, `--id=x`), then one word for the action. Flags that are not known
    /// are refused, as they change what was meant.
    ///
    /// # Errors
    /// A flag or an action that is not known, or one without its value.
    pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Self> {
        let mut parsed = Self::default();
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            match argument.strip_prefix('-') {
                Some(flag) => {
                    let flag = flag.strip_prefix('-').unwrap_or(flag);
                    let (flag, value) = match flag.split_once('=') {
                        Some((flag, value)) => (flag, Some(value.to_owned())),
                        None => (flag, None),
                    };
                    parsed.flag(flag, value, &mut arguments)?;
                }
                None => parsed.action(&argument)?,
            }
        }
        Ok(parsed)
    }

    /// The bundle's absolute path.
    ///
    /// # Errors
    /// There is no working directory.
    pub fn bundle(&self) -> Result<PathBuf> {
        let here = std::env::current_dir().map_err(Error::io("find the working directory"))?;
        Ok(match &self.bundle {
            Some(bundle) => here.join(bundle),
            None => here,
        })
    }

    fn action(&mut self, word: &str) -> Result<()> {
        self.action = match word {
            "start" => Action::Start,
            "delete" => Action::Delete,
            HOLD => Action::Hold,
            other => return Err(Error::Invalid(format!("{other:?} is no action of a shim"))),
        };
        Ok(())
    }

    fn flag(
        &mut self,
        flag: &str,
        value: Option<String>,
        rest: &mut impl Iterator<Item = String>,
    ) -> Result<()> {
        let switch = value.as_deref() != Some("false");
        match flag {
            "debug" => self.debug = switch,
            "v" | "version" if switch => self.action = Action::Version,
            "info" if switch => self.action = Action::Info,
            "v" | "version" | "info" => {}
            _ => {
                let value = value.or_else(|| rest.next());
                let value =
                    value.ok_or_else(|| Error::Invalid(format!("flag -{flag} needs a value")))?;
                self.valued(flag, value)?;
            }
        }
        Ok(())
    }

    fn valued(&mut self, flag: &str, value: String) -> Result<()> {
        match flag {
            "namespace" => self.namespace = value,
            "id" => self.id = value,
            "address" => self.address = value,
            "bundle" => self.bundle = (!value.is_empty()).then(|| value.into()),
            // Known to the protocol, of no use to us.
            "socket" | "debug-socket" | "publish-binary" => {}
            other => return Err(Error::Invalid(format!("flag -{other} is not known"))),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments> {
        Arguments::parse(line.split(' ').map(str::to_owned))
    }

    #[test]
    fn containerds_command_lines_are_understood() {
        let start =
            parse("-namespace n -address /c.sock -publish-binary /bin/c -id x -debug start");
        let start = start.unwrap();
        assert_eq!((start.action, start.debug), (Action::Start, true));
        assert_eq!((start.namespace.as_str(), start.id.as_str()), ("n", "x"));
        let delete = parse("--namespace=n -id x -bundle /b delete").unwrap();
        assert_eq!((delete.action, delete.bundle), (Action::Delete, Some("/b".into())));
        assert_eq!(parse("-info").unwrap().action, Action::Info);
        assert_eq!(parse("-v").unwrap().action, Action::Version);
        assert_eq!(parse("-namespace n -id x").unwrap().action, Action::Serve);
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for line in ["-colour red start", "restart", "-id"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
