//! `-info` and `-version`.

use std::io::Write;
use std::process::Command;

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};

use super::RUNTIME;
use super::input::Input;
use crate::error::{Error, Result};
use crate::options::Options;

/// Type under which containerd registers the features document of an OCI runtime.
const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// Program and version in one line.
#[must_use]
pub fn version() -> String {
    format!("containerd-shim-godwit-v2 {}", env!("CARGO_PKG_VERSION"))
}

/// Prints the description of the runtime for the options on stdin.
///
/// # Errors
/// The options are not known or stdout is closed.
pub fn run() -> Result<()> {
    let input = Input::read()?;
    let options = Options::decode(input.options.as_ref())?;
    let info = RuntimeInfo {
        name: RUNTIME.into(),
        version: MessageField::some(RuntimeVersion {
            version: env!("CARGO_PKG_VERSION").into(),
            ..Default::default()
        }),
        options: input.options.into(),
        features: features(&options).into(),
        ..Default::default()
    };
    let bytes = info.write_to_bytes().map_err(Error::io("encode the runtime's description"))?;
    std::io::stdout().write_all(&bytes).map_err(Error::io("print the runtime's description"))
}

/// What `runc features` prints. A runtime that does not know the command has no features to tell.
fn features(options: &Options) -> Option<Any> {
    let output = Command::new(options.binary()).arg("features").output().ok()?;
    let is_document = serde_json::from_slice::<serde_json::Value>(&output.stdout).is_ok();
    (output.status.success() && is_document).then(|| Any {
        type_url: FEATURES.into(),
        value: output.stdout,
        ..Default::default()
    })
}
