//! `containerd-shim-godwit-v2`: parses its command line and runs one of its parts.

use std::io;
use std::process::ExitCode;

use godwit_shim::bootstrap::{Action, Arguments, delete, info, serve, start};
use godwit_shim::error::{Error, Result};

/// Whoever has the other end of standard input looks at this process's namespaces until then.
fn hold() -> Result<()> {
    io::copy(&mut io::stdin(), &mut io::sink()).map(drop).map_err(Error::io("wait"))
}

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
            Action::Hold => hold(),
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
