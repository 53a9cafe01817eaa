//! `godwit-install`: parses, calls the stages, prints.

use std::process::ExitCode;

use clap::Parser;
use godwit_install::settings::{Arguments, Command, Settings};
use godwit_install::stages::{self, Ending};
use godwit_install::{Result, error_chain};

/// Exit status for "done as far as this program can".
const LEFT_TO_YOU: u8 = 10;

fn main() -> ExitCode {
    let Command::Node(settings) = Arguments::parse().command;
    match run(&settings) {
        Ok(Ending::Done) => ExitCode::SUCCESS,
        Ok(Ending::LeftToYou(todo)) => {
            todo.iter().for_each(|line| println!("left to you   {line}"));
            ExitCode::from(LEFT_TO_YOU)
        }
        Err(error) => {
            eprintln!("godwit-install: {}", error_chain(&error));
            ExitCode::from(error.code().exit_code())
        }
    }
}

fn run(settings: &Settings) -> Result<Ending> {
    if settings.check {
        return stages::check(settings).map(|()| Ending::Done);
    }
    match settings.revert {
        true => stages::revert(settings),
        false => stages::install(settings),
    }
}
