//! The first packet of either side.

/// Number of this protocol. Raised by every change that an older peer would misunderstand.
pub const PROTOCOL: u32 = 1;

/// Sent by both sides as their first packet, before anything else; neither waits for the other's before sending its own.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Hello {
    /// [`PROTOCOL`] of the sender.
    #[prost(uint32, tag = "1")]
    pub protocol: u32,
    /// Name of the sender's program, for messages to people.
    #[prost(string, tag = "2")]
    pub program: String,
    /// Its version, for messages to people.
    #[prost(string, tag = "3")]
    pub version: String,
}

impl Hello {
    /// Our own.
    #[must_use]
    pub fn ours() -> Self {
        let program = std::env::args_os()
            .next()
            .and_then(|path| std::path::Path::new(&path).file_name().map(|n| n.to_os_string()))
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        Self { protocol: PROTOCOL, program, version: env!("CARGO_PKG_VERSION").to_owned() }
    }

    /// Accepts a peer of our protocol.
    ///
    /// # Errors
    /// [`crate::WireError::Protocol`] for any other.
    pub fn check(self) -> Result<(), crate::WireError> {
        if self.protocol == PROTOCOL {
            return Ok(());
        }
        Err(crate::WireError::Protocol {
            theirs: self.protocol,
            ours: PROTOCOL,
            program: self.program,
            version: self.version,
        })
    }
}
