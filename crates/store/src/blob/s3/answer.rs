//! What an S3 server's answer, or its absence, means. By status and error code, never by message text.

use std::error::Error;
use std::ops::Range;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use crate::error::Cause;

/// The meanings that operations tell apart. All but `Unsure` say that the request had no effect.
#[derive(Debug)]
pub(super) enum Meaning {
    /// The object does not exist.
    NotFound(Cause),
    /// The object exists, so it was not created.
    Exists(Cause),
    /// A request at the same time was in the way; nothing landed.
    Conflict(Cause),
    /// The object ends before the range begins.
    OutOfRange(Cause),
    /// Nothing was done and trying again will not help.
    Refused(Cause),
    /// No answer, or one that does not say whether it was done.
    Unsure(Cause),
}

/// Reads an SDK error.
pub(super) fn meaning<E>(e: SdkError<E, HttpResponse>) -> Meaning
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    let read: fn(Cause) -> Meaning = match &e {
        SdkError::ConstructionFailure(_) => Meaning::Refused,
        SdkError::ServiceError(answer) => {
            status_meaning(answer.raw().status().as_u16(), answer.err().code())
        }
        _ => Meaning::Unsure,
    };
    read(e.into())
}

fn status_meaning(status: u16, code: Option<&str>) -> fn(Cause) -> Meaning {
    match (status, code) {
        // A client that is too slow, or whose clock is off for a moment: the request may be repeated.
        (400, Some("RequestTimeout")) | (408 | 429, _) => Meaning::Unsure,
        (404, Some("NoSuchBucket")) => Meaning::Refused,
        (404, _) => Meaning::NotFound,
        (409, _) => Meaning::Conflict,
        (412, _) => Meaning::Exists,
        (416, _) => Meaning::OutOfRange,
        (300..=499, _) => Meaning::Refused,
        _ => Meaning::Unsure,
    }
}

/// `bytes 0-99/1234` as `0..100`.
pub(super) fn range_of(header: Option<&str>) -> Option<Range<u64>> {
    let (range, _) = header?.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    Some(first.parse().ok()?..last.parse::<u64>().ok()?.checked_add(1)?)
}

/// An error with its causes, on one line.
pub(super) fn chain(e: &dyn Error) -> String {
    let mut text = e.to_string();
    let mut next = e.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads(status: u16, code: Option<&str>) -> Meaning {
        status_meaning(status, code)("x".into())
    }

    #[test]
    fn only_a_clear_answer_says_that_nothing_was_done() {
        assert!(matches!(reads(412, None), Meaning::Exists(_)));
        assert!(matches!(reads(409, None), Meaning::Conflict(_)));
        assert!(matches!(reads(403, None), Meaning::Refused(_)));
        assert!(matches!(reads(404, Some("NoSuchBucket")), Meaning::Refused(_)));
        assert!(matches!(reads(404, Some("NoSuchKey")), Meaning::NotFound(_)));
        for unsure in [408, 429, 500, 502, 503, 504, 599, 200] {
            assert!(matches!(reads(unsure, None), Meaning::Unsure(_)), "{unsure}");
        }
    }

    #[test]
    fn a_content_range_is_half_open_here() {
        assert_eq!(range_of(Some("bytes 0-99/1234")), Some(0..100));
        for bad in
            [None, Some("bytes */1234"), Some("0-99/1"), Some("bytes 1-18446744073709551615/*")]
        {
            assert_eq!(range_of(bad), None, "{bad:?}");
        }
    }
}
