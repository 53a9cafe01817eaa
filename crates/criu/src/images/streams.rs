//! Established TCP connections: what was written and not yet sent.
//!
//! CRIU writes that part of a send queue to a socket which is alive at that moment, so that it leaves at once. At the other end of a
//! connection within the pod nobody may be there yet, and the kernel answers with a reset. As a part of what was sent and not
//! acknowledged it is put back in repair mode instead, silently, and sent again by the kernel's own timer once both ends live.

use godwit_criu_rpc::image_file::{Kind, MAX_FILE, edit_first};
use godwit_criu_rpc::raw::Message;

use super::{ImageDir, read_bounded};
use crate::Error;

/// Names of the images.
const PREFIX: &str = "tcp-stream-";
/// `tcp_stream_entry.unsq_len`
const UNSENT: u32 = 12;

/// Makes what was not sent a part of what is not acknowledged, in every connection of an image directory.
///
/// # Errors
/// [`Error::Io`], [`Error::Rpc`].
pub(super) fn hold_back(images: &ImageDir) -> Result<(), Error> {
    for name in images.names(PREFIX)? {
        let path = images.path().join(&name);
        let bytes = read_bounded(&path, MAX_FILE)?;
        let edited = edit_first(Kind::TcpStream, &name, &bytes, |record| {
            let mut entry = Message::parse(record)?;
            entry.set_varint(UNSENT, 0);
            Ok(entry.encode())
        })?;
        if edited != bytes {
            let attempt = format!("write {}", path.display());
            std::fs::write(&path, edited).map_err(Error::io(attempt))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use godwit_criu_rpc::image_file::ImageFile;

    use super::*;

    #[test]
    fn what_was_not_sent_is_put_back_with_what_was() {
        let dir = tempfile::tempdir().unwrap();
        let images = ImageDir::new(dir.path());
        let stream = |unsent: u8| {
            // outq_len 9, unsq_len.
            let record = vec![0x18, 9, 0x60, unsent];
            let head = ImageFile { kind: Kind::TcpStream, records: vec![record] };
            [head.encode().as_slice(), b"123456789"].concat()
        };
        let path = dir.path().join("tcp-stream-1f.img");
        std::fs::write(&path, stream(4)).unwrap();
        hold_back(&images).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), stream(0));
        std::fs::write(&path, b"x").unwrap();
        assert!(hold_back(&images).is_err());
    }
}
