//! `godwit`: what a person types. Talks to the node's agent, or straight to a store whose URL is given.

mod agent;
mod args;
mod direct;
mod failure;
mod progress;
mod table;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use godwit_engine::catalog::Answer;
use godwit_types::{CheckpointReport, Code, Outcome};
use godwit_wire::api::{AgentStatus, CheckpointRequest, Failure, Gc, Request, StoreCommand};
use serde::de::DeserializeOwned;

use crate::args::{Checkpoint, Cli, Command, Global, Output};
use crate::progress::Shown;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run(&cli)),
        Err(error) => Err(failure::internal(error)),
    };
    match result {
        Ok(code) => code,
        Err(failure) => failure::report(&failure, cli.global.output),
    }
}

async fn run(cli: &Cli) -> Result<ExitCode, Failure> {
    let global = &cli.global;
    match &cli.command {
        Command::Checkpoint(checkpoint) => make(global, checkpoint).await?,
        Command::List => store(global, StoreCommand::List).await?,
        Command::Show(one) => {
            store(global, StoreCommand::Show { checkpoint: one.checkpoint }).await?
        }
        Command::Verify(one) => {
            return verify(global, StoreCommand::Verify { checkpoint: one.checkpoint }).await;
        }
        Command::Delete { checkpoints, force } => {
            for checkpoint in checkpoints {
                let command = StoreCommand::Delete { checkpoint: *checkpoint, force: *force };
                store(global, command).await?;
            }
        }
        Command::Gc(gc) => {
            let gc = Gc {
                dry_run: gc.dry_run,
                keep_last: gc.keep_last,
                max_age_seconds: gc.max_age,
                max_bytes: gc.max_bytes.map(|bytes| bytes.0),
            };
            store(global, StoreCommand::Gc(gc)).await?;
        }
        Command::Status => status(global).await?,
        Command::Version => println!("godwit {}", env!("CARGO_PKG_VERSION")),
        Command::Completion { shell } => {
            let mut command = Cli::command();
            clap_complete::generate(*shell, &mut command, "godwit", &mut std::io::stdout());
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Sends a request to the agent; an interrupt cancels it.
async fn ask<T: DeserializeOwned>(global: &Global, request: &Request) -> Result<T, Failure> {
    let mut shown = Shown::new(global.output);
    let result = tokio::select! {
        result = agent::ask(&global.agent, request, &mut shown) => result,
        _ = tokio::signal::ctrl_c() => Err(failure::new(Code::Cancelled, "cancelled: the agent undoes what is not committed yet")),
    };
    shown.finish();
    serde_json::from_value(result?).map_err(failure::internal)
}

async fn make(global: &Global, asked: &Checkpoint) -> Result<(), Failure> {
    if global.is_url() {
        let sentence = "a checkpoint is made by the node's agent: give --store the name of a store in agent.toml, not a URL";
        return Err(failure::new(Code::Refused, sentence));
    }
    let request = CheckpointRequest {
        namespace: asked.namespace.clone(),
        container: asked.container.clone(),
        outcome: if asked.stop { Outcome::Stop } else { Outcome::Run },
        store: global.store.clone(),
        full: asked.full,
    };
    let report: CheckpointReport = ask(global, &Request::Checkpoint(request)).await?;
    match global.output {
        Output::Json => print_json(&report)?,
        Output::Table => table::checkpoint(&report),
    }
    Ok(())
}

async fn status(global: &Global) -> Result<(), Failure> {
    let status: AgentStatus = ask(global, &Request::Status).await?;
    match global.output {
        Output::Json => print_json(&status)?,
        Output::Table => table::status(&status),
    }
    Ok(())
}

async fn answer(global: &Global, command: StoreCommand) -> Result<Answer, Failure> {
    if global.is_url() {
        return direct::execute(global, command).await;
    }
    ask(global, &Request::Store { store: global.store.clone(), command }).await
}

async fn store(global: &Global, command: StoreCommand) -> Result<(), Failure> {
    show(global, &answer(global, command).await?)
}

/// A checkpoint that is not sound is a failure of the command, after its faults were shown.
async fn verify(global: &Global, command: StoreCommand) -> Result<ExitCode, Failure> {
    let answer = answer(global, command).await?;
    show(global, &answer)?;
    let sound = matches!(&answer, Answer::Verify(v) if v.faults.is_empty());
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::from(Code::Corrupt.exit_code()) })
}

fn show(global: &Global, answer: &Answer) -> Result<(), Failure> {
    if global.output == Output::Json {
        return match answer {
            Answer::List(listing) => print_json(listing),
            Answer::Show(shown) => print_json(shown),
            Answer::Verify(verified) => print_json(verified),
            Answer::Deleted { .. } => print_json(answer),
            Answer::Gc(collected) => print_json(collected),
        };
    }
    match answer {
        Answer::List(listing) => table::listing(listing),
        Answer::Show(shown) => table::shown(shown),
        Answer::Verify(verified) => table::verified(verified),
        Answer::Deleted { checkpoint } => println!("deleted {checkpoint}"),
        Answer::Gc(collected) => table::collected(collected),
    }
    Ok(())
}

fn print_json<T: serde::Serialize>(value: &T) -> Result<(), Failure> {
    println!("{}", serde_json::to_string_pretty(value).map_err(failure::internal)?);
    Ok(())
}
