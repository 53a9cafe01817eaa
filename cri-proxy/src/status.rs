//! How a call ends in gRPC: a code and a sentence, as trailers or as an answer that is nothing but trailers.
//!
//! Only what the proxy itself says is made here. What containerd says is passed on and never read.

use godwit_types::Code;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

/// `grpc-status`.
pub(crate) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// What `grpc-message` has in another form (PROTOCOL-HTTP2.md of gRPC): all but printable ASCII, and the percent sign.
const ESCAPED: &AsciiSet = &CONTROLS.add(b'%');

/// gRPC's codes (`google.rpc.Code`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs, reason = "they are gRPC's, under gRPC's names")]
pub enum GrpcCode {
    Ok = 0,
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

impl From<Code> for GrpcCode {
    fn from(code: Code) -> Self {
        match code {
            Code::NotFound => Self::NotFound,
            Code::AlreadyExists => Self::AlreadyExists,
            // kubelet does not try again what has failed for good, and shows the sentence of both.
            Code::Precondition | Code::Refused => Self::FailedPrecondition,
            Code::Unavailable => Self::Unavailable,
            Code::Corrupt => Self::DataLoss,
            Code::Cancelled => Self::Cancelled,
            Code::Internal => Self::Internal,
        }
    }
}

/// The end of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// What happened.
    pub code: GrpcCode,
    /// One sentence that says what to do; it reaches kubelet's log and the pod's events.
    pub message: String,
}

impl Status {
    /// A status with its sentence.
    #[must_use]
    pub fn new(code: GrpcCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// Nothing went wrong.
    #[must_use]
    pub fn ok() -> Self {
        Self::new(GrpcCode::Ok, "")
    }

    /// After an answer that has begun.
    pub(crate) fn trailers(&self) -> HeaderMap {
        let mut map = HeaderMap::with_capacity(2);
        self.write(&mut map);
        map
    }

    /// As the whole answer.
    pub(crate) fn answer(&self) -> Response<()> {
        let mut response = head();
        self.write(response.headers_mut());
        response
    }

    fn write(&self, map: &mut HeaderMap) {
        map.insert(GRPC_STATUS, HeaderValue::from(self.code as u16));
        if self.message.is_empty() {
            return;
        }
        let escaped = utf8_percent_encode(&self.message, ESCAPED).to_string();
        // Escaped text is always a value; if it were not, the code alone says enough.
        if let Ok(message) = HeaderValue::from_maybe_shared(bytes::Bytes::from(escaped)) {
            map.insert(GRPC_MESSAGE, message);
        }
    }
}

/// The head of an answer.
pub(crate) fn head() -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_is_escaped_as_grpc_wants_it() {
        let trailers = Status::new(GrpcCode::Unavailable, "100 % \u{fc}ber\n").trailers();
        assert_eq!(trailers.get("grpc-status").unwrap(), "14");
        assert_eq!(trailers.get("grpc-message").unwrap(), "100 %25 %C3%BCber%0A");
    }

    #[test]
    fn a_success_has_no_sentence() {
        let answer = Status::ok().answer();
        assert_eq!(answer.headers().get("grpc-status").unwrap(), "0");
        assert!(answer.headers().get("grpc-message").is_none());
        assert_eq!(answer.headers().get("content-type").unwrap(), "application/grpc");
    }
}
