//! What the installed CRIU can do.

use std::time::Instant;

use godwit_criu_rpc::rpc::{Features, Req, ReqType, Resp};
use godwit_criu_rpc::{CriuVersion, Incoming, request};

use crate::Error;
use crate::launch::{Criu, Launcher};

/// Answers of the installed CRIU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Its version: supported, or this would be an error.
    pub version: CriuVersion,
    /// It can skip pages that have not changed (soft-dirty kernels only).
    pub mem_track: bool,
    /// It can restore lazily (userfaultfd works here).
    pub lazy_pages: bool,
    /// It can tell a reused pid by a pidfd.
    pub pidfd_store: bool,
}

/// Asks it. Run once when the node starts: the first start of CRIU also fills its cache of kernel facts (45–90 ms).
///
/// # Errors
/// When it cannot be started, is too old, or does not answer.
pub fn probe(launcher: &Launcher, deadline: Instant) -> Result<Probe, Error> {
    let criu = launcher.start(Vec::new(), &[])?;
    let version = ask(&criu, ReqType::Version, deadline)?.version;
    let version = version.ok_or_else(|| refused(&criu, "version"))?;
    let version = CriuVersion::from_response(&version).require_supported()?;
    let features = ask(&criu, ReqType::FeatureCheck, deadline)?.features.unwrap_or_default();
    Ok(Probe {
        version,
        mem_track: features.mem_track(),
        lazy_pages: features.lazy_pages(),
        pidfd_store: features.pidfd_store(),
    })
}

fn ask(criu: &Criu, kind: ReqType, deadline: Instant) -> Result<Resp, Error> {
    let features = (kind == ReqType::FeatureCheck).then_some(Features {
        mem_track: Some(true),
        lazy_pages: Some(true),
        pidfd_store: Some(true),
    });
    let req = Req { r#type: kind.into(), features, ..Req::default() };
    criu.rpc().send(&request::keep_open(req))?;
    if !criu.wait_readable(deadline)? {
        return Err(Error::Deadline { waiting_for: "an answer to its version request" });
    }
    let packet = criu.rpc().recv()?.ok_or_else(|| refused(criu, "version"))?;
    match Incoming::parse(&packet.bytes)? {
        Incoming::Response(resp) => Ok(*resp),
        Incoming::Notification(_) => Err(refused(criu, "version")),
    }
}

fn refused(criu: &Criu, request: &'static str) -> Error {
    Error::Rpc(godwit_criu_rpc::Error::Refused { request, reason: criu.stderr_text() })
}
