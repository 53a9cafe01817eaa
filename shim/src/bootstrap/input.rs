//! What containerd writes to our stdin: runtime options, bare up to 2.2, within `BootstrapParams` from 2.3 on.

use std::io::{IsTerminal, Read};

use containerd_shim_protos::bootstrap_api::BootstrapParams;
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;

use crate::error::{Error, Result};
use crate::options::Options;

/// containerd's own limit.
const LIMIT: u64 = 10 << 20;

/// What `start` and `-info` are told beside the command line.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Input {
    /// Runtime options.
    pub options: Option<Any>,
    /// containerd's ttrpc socket, where the environment does not name it.
    pub ttrpc_address: String,
    /// Directory for the shim's socket.
    pub socket_dir: Option<String>,
}

impl Input {
    /// Reads stdin to its end.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read() -> Result<Self> {
        let stdin = std::io::stdin();
        // Somebody tries us by hand.
        if stdin.is_terminal() {
            return Ok(Self::default());
        }
        let mut bytes = Vec::new();
        stdin.lock().take(LIMIT).read_to_end(&mut bytes).map_err(Error::io("read stdin"))?;
        Ok(Self::parse(&bytes))
    }

    fn parse(bytes: &[u8]) -> Self {
        // An Any decodes as BootstrapParams, too: both begin with two strings. What an Any never has tells them apart.
        if let Ok(params) = BootstrapParams::parse_from_bytes(bytes)
            && (!params.containerd_ttrpc_address.is_empty() || !params.extensions.is_empty())
        {
            return Self::bootstrap(params);
        }
        let options = Any::parse_from_bytes(bytes).ok().filter(|any| !any.type_url.is_empty());
        Self { options, ..Self::default() }
    }

    fn bootstrap(params: BootstrapParams) -> Self {
        let mut anys =
            params.extensions.into_iter().filter_map(|extension| extension.value.into_option());
        let options = anys.find(Options::understands);
        Self {
            options,
            ttrpc_address: params.containerd_ttrpc_address,
            socket_dir: params.socket_dir.filter(|dir| !dir.is_empty()),
        }
    }
}

#[cfg(test)]
mod tests {
    use containerd_shim_protos::bootstrap_api::Extension;
    use containerd_shim_protos::protobuf::MessageField;

    use super::*;

    fn options() -> Any {
        Any {
            type_url: "containerd.runc.v1.Options".into(),
            value: vec![40, 1],
            ..Default::default()
        }
    }

    #[test]
    fn options_are_found_bare_and_in_bootstrap_parameters() {
        let bare = Input::parse(&options().write_to_bytes().unwrap());
        assert_eq!(bare.options, Some(options()));
        let params = BootstrapParams {
            instance_id: "c".into(),
            namespace: "n".into(),
            containerd_ttrpc_address: "/t".into(),
            extensions: vec![Extension {
                value: MessageField::some(options()),
                ..Default::default()
            }],
            ..Default::default()
        };
        let wrapped = Input::parse(&params.write_to_bytes().unwrap());
        assert_eq!((wrapped.options, wrapped.ttrpc_address), (Some(options()), "/t".into()));
        assert_eq!(Input::parse(b""), Input::default());
    }
}
