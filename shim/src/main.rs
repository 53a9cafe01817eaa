//! `containerd-shim-godwit-v2`: parses its command line and runs one of its four parts.

use std::process::ExitCode;

use godwit_shim::bootstrap::{Action, Arguments, delete, info, serve, start};

fn main() -> ExitCode {
    let outcome =
        Arguments::parse(std::env::args().skip(1)).and_then(|arguments| match arguments.action {
            Action::Version => {
                println!("{}", info::version());
                Ok(())
            }
            Action::Info => info::run(),
            Action::Start => start::run(&arguments),
            Action::Delete => delete::run(&arguments),
            Action::Serve => serve::run(&arguments),
        });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            // containerd shows what it finds here to the user.
            eprintln!("containerd-shim-godwit-v2: {}", why.chain());
            ExitCode::FAILURE
        }
    }
}
