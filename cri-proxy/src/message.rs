//! gRPC's framing of messages, for the few calls that are looked into: one flag, four bytes of length, the message.

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::RecvStream;
use http::HeaderMap;

/// Length of the prefix.
const PREFIX: usize = 5;

/// One direction of a call as far as it has been read.
#[derive(Debug, Default)]
pub(crate) struct Collected {
    /// The bytes, as they came.
    pub(crate) chunks: Vec<Bytes>,
    /// Whether that is all of it.
    pub(crate) end: End,
}

/// Where reading ended.
#[derive(Debug, Default, PartialEq)]
pub(crate) enum End {
    /// More is to come: it was too long.
    #[default]
    Open,
    /// All was read, with trailers if there were any.
    Closed(Option<HeaderMap>),
}

impl Collected {
    /// Reads all of it, or the first `limit` bytes and a little more.
    ///
    /// # Errors
    /// Whoever writes it went away.
    pub(crate) async fn read(from: &mut RecvStream, limit: usize) -> Result<Self, h2::Error> {
        let mut collected = Self::default();
        let mut length = 0;
        while length <= limit {
            let Some(chunk) = from.data().await.transpose()? else {
                collected.end = End::Closed(from.trailers().await?);
                break;
            };
            from.flow_control().release_capacity(chunk.len())?;
            length += chunk.len();
            if !chunk.is_empty() {
                collected.chunks.push(chunk);
            }
        }
        Ok(collected)
    }

    /// The message, if this is one whole message, not compressed.
    pub(crate) fn message(&self) -> Option<Bytes> {
        if self.end == End::Open {
            return None;
        }
        match self.chunks.as_slice() {
            [whole] => single(whole.clone()),
            chunks => {
                let mut whole = BytesMut::with_capacity(chunks.iter().map(Bytes::len).sum());
                chunks.iter().for_each(|chunk| whole.put_slice(chunk));
                single(whole.freeze())
            }
        }
    }
}

/// Strips the prefix.
fn single(mut framed: Bytes) -> Option<Bytes> {
    if framed.len() < PREFIX {
        return None;
    }
    let prefix = framed.split_to(PREFIX);
    let [compressed, length @ ..] = *prefix.first_chunk::<PREFIX>()?;
    let length = usize::try_from(u32::from_be_bytes(length)).ok()?;
    (compressed == 0 && length == framed.len()).then_some(framed)
}

/// Adds the prefix. A message of 4 GiB cannot be said in gRPC.
pub(crate) fn framed(message: &[u8]) -> Option<Bytes> {
    let length = u32::try_from(message.len()).ok()?;
    let mut framed = BytesMut::with_capacity(PREFIX + message.len());
    framed.put_u8(0);
    framed.put_u32(length);
    framed.put_slice(message);
    Some(framed.freeze())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn closed(chunks: Vec<Bytes>) -> Collected {
        Collected { chunks, end: End::Closed(None) }
    }

    #[test]
    fn what_is_not_one_plain_message_is_none() {
        let whole = framed(b"abc").unwrap();
        let twice = [whole.as_ref(), whole.as_ref()].concat();
        let mut compressed = whole.to_vec();
        compressed[0] = 1;
        for bad in [&b""[..], &whole[..4], &whole[..7], &twice, &compressed] {
            assert_eq!(closed(vec![Bytes::copy_from_slice(bad)]).message(), None, "{bad:?}");
        }
        let open = Collected { chunks: vec![whole], end: End::Open };
        assert_eq!(open.message(), None);
    }

    proptest! {
        #[test]
        fn a_message_is_found_however_it_was_cut(
            message in prop::collection::vec(any::<u8>(), 0..200),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let mut rest = framed(&message).unwrap();
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(rest.len() + 1)).collect();
            at.sort_unstable();
            let mut chunks = vec![];
            let mut done = 0;
            for cut in at {
                chunks.push(rest.split_to(cut - done));
                done = cut;
            }
            chunks.push(rest);
            prop_assert_eq!(closed(chunks).message().unwrap(), message);
        }
    }
}
