//! `lab vm`: the virtual machine for people.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use godwit_lab::Result;
use godwit_lab::vm::{Machine, Reboot, VmOptions};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Start it, from the warm image (the first time: minutes, it builds that).
    Up {
        /// Boot it.
        #[arg(long)]
        cold: bool,
        /// Files that it shall see in /share.
        files: Vec<PathBuf>,
    },
    /// Run a command in it; its exit status becomes ours.
    Exec {
        /// The command.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Down and up again, with the same disk.
    Reboot {
        /// As when its power fails.
        #[arg(long)]
        power_loss: bool,
    },
    /// Print what kernel and systemd have printed.
    Console,
    /// End it and remove its disk.
    Down,
}

pub(crate) fn run(name: &str, command: &Command) -> Result<ExitCode> {
    match command {
        Command::Up { cold, files } => up(name, *cold, files)?,
        Command::Exec { command } => {
            let words: Vec<&str> = command.iter().map(String::as_str).collect();
            let ended = Machine::attach(name)?.exec(&words)?;
            print!("{}", ended.out);
            eprint!("{}", ended.err);
            return Ok(ExitCode::from(u8::try_from(ended.code).unwrap_or(1)));
        }
        Command::Reboot { power_loss: true } => Machine::attach(name)?.reboot(Reboot::PowerLoss)?,
        Command::Reboot { power_loss: false } => Machine::attach(name)?.reboot(Reboot::Orderly)?,
        Command::Console => print!("{}", Machine::attach(name)?.console()?),
        Command::Down => Machine::down(name)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn up(name: &str, cold: bool, files: &[PathBuf]) -> Result<()> {
    let options = files.iter().fold(VmOptions::new(name), |options, file| {
        options.with(file, &file.file_name().unwrap_or_default().to_string_lossy())
    });
    Machine::up(&if cold { options.cold() } else { options })?.keep();
    Ok(())
}
