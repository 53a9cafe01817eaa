//! `godwit`: what a person types. Talks to the node's agent, or straight to a store whose URL is given.

// Both end the program when nobody reads; `out` does not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod agent;
mod args;
mod direct;
mod doctor;
mod failure;
mod interrupt;
mod out;
mod progress;
mod session;
mod table;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};
use godwit_engine::catalog::Answer;
use godwit_types::{CheckpointId, Code, Outcome};
use godwit_wire::api::{CheckpointRequest, Failure, Gc, StoreCommand};
use serde_json::json;

use crate::args::{Checkpoint, Cli, Command, Output};
use crate::session::Session;

fn main() -> ExitCode {
    let matches = Cli::command().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let cli = Cli { global: cli.global.told_by(&matches), ..cli };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(run(&cli));
            // A directory that hangs keeps a thread for ever; nobody waits for it any more.
            runtime.shutdown_background();
            result
        }
        Err(error) => Err(failure::internal(error)),
    };
    match result {
        Ok(code) => code,
        Err(failure) => failure::report(&failure, cli.global.output),
    }
}

async fn run(cli: &Cli) -> Result<ExitCode, Failure> {
    let mut session = Session::new(&cli.global)?;
    match &cli.command {
        Command::Checkpoint(checkpoint) => make(&mut session, checkpoint).await?,
        Command::List => return store(&mut session, StoreCommand::List).await,
        Command::Show(one) => {
            return store(&mut session, StoreCommand::Show { checkpoint: one.checkpoint }).await;
        }
        Command::Verify(one) => {
            return store(&mut session, StoreCommand::Verify { checkpoint: one.checkpoint }).await;
        }
        Command::Delete { checkpoints, force } => {
            let delete = |checkpoint| StoreCommand::Delete { checkpoint, force: *force };
            each(&mut session, checkpoints, "deleted", delete).await?;
        }
        Command::Hold { checkpoints, reason } => {
            let who = session::who();
            let hold = |checkpoint| StoreCommand::Hold {
                checkpoint,
                who: who.clone(),
                why: reason.clone(),
            };
            each(&mut session, checkpoints, "held", hold).await?;
        }
        Command::Unhold { checkpoints } => {
            let unhold = |checkpoint| StoreCommand::Unhold { checkpoint };
            each(&mut session, checkpoints, "released", unhold).await?;
        }
        Command::Gc(gc) => {
            let gc = Gc {
                dry_run: gc.dry_run,
                keep_last: gc.keep_last,
                max_age_seconds: gc.max_age,
                max_bytes: gc.max_bytes.map(|bytes| bytes.0),
            };
            return store(&mut session, StoreCommand::Gc(gc)).await;
        }
        Command::Status => {
            let status = session.status().await?;
            print(&session, &status, table::status)?;
        }
        Command::Pods => {
            let pods = session.pods().await?;
            print(&session, &pods, table::pods)?;
        }
        Command::Doctor { checkpoint } => return examine(&mut session, *checkpoint).await,
        Command::Version => {
            let version = env!("CARGO_PKG_VERSION");
            print(&session, &json!({ "version": version }), |_| format!("godwit {version}"))?;
        }
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "godwit", &mut script);
            out::print(&String::from_utf8_lossy(&script))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The node's faults are the result, and the exit code.
async fn examine(
    session: &mut Session<'_>,
    checkpoint: Option<CheckpointId>,
) -> Result<ExitCode, Failure> {
    // What is typed wrong is told before anything is looked at.
    let fits = match checkpoint {
        Some(checkpoint) => Some(doctor::fits(session, checkpoint).await?),
        None => None,
    };
    let mut checks = session.examination().await?;
    checks.extend(fits);
    print(session, &doctor::document(&checks), |_| table::checks(&checks))?;
    Ok(doctor::exit_code(&checks))
}

async fn make(session: &mut Session<'_>, asked: &Checkpoint) -> Result<(), Failure> {
    let request = CheckpointRequest {
        namespace: asked.namespace.clone(),
        container: asked.container.clone(),
        outcome: if asked.stop { Outcome::Stop } else { Outcome::Run },
        store: session.global.store_of_agent("checkpoint")?,
        full: asked.full,
    };
    let report = session.checkpoint(request).await?;
    print(session, &report, table::checkpoint)
}

/// A checkpoint that is not sound is a failure of the command, and so is a collection that was cancelled or had to leave a tenant
/// out: after they were shown.
async fn store(session: &mut Session<'_>, command: StoreCommand) -> Result<ExitCode, Failure> {
    let answer = session.answer(command).await?;
    show(session, &answer)?;
    Ok(match &answer {
        Answer::Verify(verified) if !verified.faults.is_empty() => {
            ExitCode::from(Code::Corrupt.exit_code())
        }
        Answer::Gc(collected) if collected.cancelled => ExitCode::from(Code::Cancelled.exit_code()),
        Answer::Gc(collected) if !collected.failed.is_empty() => {
            ExitCode::from(Code::Corrupt.exit_code())
        }
        _ => ExitCode::SUCCESS,
    })
}

/// One after the other, up to the first that fails; what was done is told in every case, as one document.
async fn each(
    session: &mut Session<'_>,
    checkpoints: &[CheckpointId],
    word: &str,
    command: impl Fn(CheckpointId) -> StoreCommand,
) -> Result<(), Failure> {
    let (mut done, mut result) = (Vec::new(), Ok(()));
    for checkpoint in checkpoints {
        result = session.change(command(*checkpoint)).await;
        if result.is_err() {
            break;
        }
        done.push(checkpoint);
        if session.global.output == Output::Table {
            out::print(&format!("{word} {checkpoint}"))?;
        }
    }
    if session.global.output == Output::Json {
        out::json(&json!({ word: done }))?;
    }
    result
}

fn show(session: &Session<'_>, answer: &Answer) -> Result<(), Failure> {
    match answer {
        Answer::List(listing) => {
            print(session, listing, table::listing)?;
            if session.global.output == Output::Table {
                table::unreadable(listing).iter().for_each(|line| out::note(line));
            }
            Ok(())
        }
        Answer::Show(shown) => print(session, &**shown, table::shown),
        Answer::Verify(verified) => print(session, verified, table::verified),
        Answer::Gc(collected) => print(session, collected, table::collected),
        // Told one by one.
        Answer::Deleted { .. } | Answer::Held { .. } | Answer::Released { .. } => Ok(()),
    }
}

fn print<T: serde::Serialize>(
    session: &Session<'_>,
    value: &T,
    table: impl FnOnce(&T) -> String,
) -> Result<(), Failure> {
    match session.global.output {
        Output::Json => out::json(value),
        Output::Table => out::print(&table(value)),
    }
}
