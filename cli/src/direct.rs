//! Straight to a store, without an agent.

use std::convert::Infallible;
use std::time::Duration;

use godwit_engine::catalog::{self, Answer};
use godwit_engine::journal::{Journal, Watched};
use godwit_store::{Access, Store, StoreConfig, StoreError};
use godwit_types::Code;
use godwit_wire::api::{Failure, StoreCommand};
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

use crate::args::Global;
use crate::failure;
use crate::progress::Shown;

/// How often the person is told how far it is.
const TICK: Duration = Duration::from_millis(200);

/// Opens the store that the options name and carries the command out, showing its progress. Credentials come from where the AWS
/// tools look for them.
///
/// # Errors
/// What the store says.
pub(crate) async fn execute(
    global: &Global,
    url: &str,
    command: StoreCommand,
    shown: &mut Shown,
    cancel: &CancellationToken,
) -> Result<Answer, Failure> {
    let config = config(global, url)?;
    let (mut journal, watched) = Journal::begin();
    let work = async {
        let opening = Store::open_for(&config, access(&command));
        let Some(store) = cancel.run_until_cancelled(opening).await else {
            return Err(failure::new(Code::Cancelled, "cancelled: nothing was changed"));
        };
        let store = store.map_err(|e| failure::of(e.code(), &e))?;
        let answer = catalog::execute(&store, command, &mut journal, cancel).await;
        answer.map_err(|e| failure::of(e.code(), &e))
    };
    tokio::select! {
        answer = work => answer,
        never = show(&watched, shown) => match never {},
    }
}

async fn show(watched: &Watched, shown: &mut Shown) -> Infallible {
    let mut ticks = interval(TICK);
    loop {
        ticks.tick().await;
        if let Some(progress) = watched.progress() {
            shown.update(progress);
        }
    }
}

fn access(command: &StoreCommand) -> Access {
    match command {
        StoreCommand::List | StoreCommand::Show { .. } | StoreCommand::Verify { .. } => {
            Access::Read
        }
        StoreCommand::Delete { .. }
        | StoreCommand::Hold { .. }
        | StoreCommand::Unhold { .. }
        | StoreCommand::Gc(_) => Access::Write,
    }
}

fn config(global: &Global, url: &str) -> Result<StoreConfig, Failure> {
    let parse = |url| StoreConfig::from_url(url).map_err(|e: StoreError| failure::of(e.code(), &e));
    let mut config = parse(url)?;
    if let Some(endpoint) = &global.s3_endpoint {
        // Never left away: the request would go to AWS, signed with the credentials of another service.
        let parsed = StoreConfig::from_url(endpoint).ok().map(|parsed| parsed.url);
        let usable =
            parsed.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        config.endpoint = Some(usable.ok_or_else(|| {
            let sentence = format!(
                "the S3 endpoint {endpoint:?} is no URL of a service: write http://HOST:PORT or https://HOST"
            );
            failure::new(Code::Refused, &sentence)
        })?);
    }
    config.region = global.s3_region.clone();
    config.path_style = global.s3_path_style.then_some(true);
    Ok(config)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Cli;

    fn endpoint(text: &str) -> Result<Option<String>, Failure> {
        let words = ["godwit", "list", "--s3-endpoint", text];
        let global = Cli::parse_from(words).global;
        Ok(config(&global, "s3://bucket/prefix")?.endpoint.map(|url| url.to_string()))
    }

    #[test]
    fn an_endpoint_that_is_no_url_of_a_service_is_refused_and_never_left_away() {
        for wrong in
            ["10.0.0.5:7070", "localhost:7070", "minio", "file:///tmp", "s3://x", "", "http:"]
        {
            let refused = endpoint(wrong).expect_err(wrong);
            assert_eq!(refused.code, Code::Refused);
            assert!(refused.message.contains("http://HOST:PORT"), "{}", refused.message);
        }
        let right = endpoint("http://10.0.0.5:7070").unwrap();
        assert_eq!(right.as_deref(), Some("http://10.0.0.5:7070/"));
        assert_eq!(endpoint("https://s3.example").unwrap().as_deref(), Some("https://s3.example/"));
    }
}
