//! Straight to a store, without an agent.

use godwit_engine::catalog::{self, Answer};
use godwit_store::{Access, Store, StoreConfig, StoreError};
use godwit_wire::api::{Failure, StoreCommand};

use crate::args::Global;
use crate::failure;

/// Opens the store that the options name and carries the command out. Credentials come from where the AWS tools look for
/// them.
///
/// # Errors
/// What the store says.
pub(crate) async fn execute(global: &Global, command: StoreCommand) -> Result<Answer, Failure> {
    let work = async {
        let store = open(global, &command).await?;
        catalog::execute(&store, command).await
    };
    work.await.map_err(|e: StoreError| failure::of(e.code(), &e))
}

async fn open(global: &Global, command: &StoreCommand) -> Result<Store, StoreError> {
    let mut config = StoreConfig::from_url(global.store.as_deref().unwrap_or_default())?;
    if let Some(endpoint) = &global.s3_endpoint {
        config.endpoint = StoreConfig::from_url(endpoint).map(|parsed| parsed.url).ok();
    }
    config.region = global.s3_region.clone();
    config.path_style = global.s3_path_style.then_some(true);
    let access = match command {
        StoreCommand::Delete { .. } | StoreCommand::Gc(_) => Access::Write,
        _ => Access::Read,
    };
    Store::open_for(&config, access).await
}
