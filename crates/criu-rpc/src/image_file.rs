//! Image files: magic numbers, then records of `u32` length and protobuf.
//!
//! Owns the layout and its limits; a hostile file is refused before anything large is allocated. Knows the names of
//! the files that Godwit reads or writes. Says nothing about what the records mean.

use prost::Message;

use crate::Error;

/// Head of every image but the inventory and the service files.
const COMMON_MAGIC: u32 = 0x5456_4319;
/// Head of service files (statistics).
const SERVICE_MAGIC: u32 = 0x5510_5940;

/// Largest image file that is read: the largest are `mm-*` (about 60 bytes for each mapping, at most 65 530 of them
/// by default) and `files`.
pub const MAX_FILE: usize = 64 << 20;
/// Most records in one file.
pub const MAX_RECORDS: usize = 4 << 20;

/// What is in an image file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `inventory.img`
    Inventory,
    /// `pstree.img`
    Pstree,
    /// `core-<tid>.img`
    Core,
    /// `ids-<pid>.img`
    Ids,
    /// `mm-<pid>.img`
    Mm,
    /// `pagemap-<pid>.img`, `pagemap-shmem-<id>.img`
    Pagemap,
    /// `files.img`
    Files,
    /// `fdinfo-<id>.img`
    FdInfo,
    /// `mountpoints-<ns>.img`
    Mountpoints,
    /// `seccomp.img`
    Seccomp,
    /// `userns-<ns>.img`
    UserNs,
    /// `ghost-file-<id>.img`: one record, then the file's bytes or chunks.
    GhostFile,
    /// `tcp-stream-<inode>.img`: one record, then what was received and not read, and what was written and not acknowledged.
    TcpStream,
    /// `stats-dump`, `stats-restore`
    Stats,
}

impl Kind {
    /// The number that names the kind in the file.
    #[must_use]
    pub fn magic(self) -> u32 {
        match self {
            Self::Inventory => 0x5831_3116,
            Self::Pstree => 0x5027_3030,
            Self::Core => 0x5505_3847,
            Self::Ids => 0x5443_2030,
            Self::Mm => 0x5749_2820,
            Self::Pagemap => 0x5608_4025,
            Self::Files => 0x5630_3138,
            Self::FdInfo => 0x5621_3732,
            Self::Mountpoints => 0x5556_3928,
            Self::Seccomp => 0x6441_3049,
            Self::UserNs => 0x5547_4906,
            Self::GhostFile => 0x5258_3605,
            Self::TcpStream => 0x5146_5506,
            Self::Stats => 0x5709_3306,
        }
    }

    fn head(self) -> Vec<u8> {
        let own = self.magic().to_le_bytes();
        match self {
            Self::Inventory => own.to_vec(),
            Self::Stats => [SERVICE_MAGIC.to_le_bytes(), own].concat(),
            _ => [COMMON_MAGIC.to_le_bytes(), own].concat(),
        }
    }
}

/// The records of one image file, undecoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFile {
    /// What is in it.
    pub kind: Kind,
    /// Each record's protobuf bytes, in order.
    pub records: Vec<Vec<u8>>,
}

impl ImageFile {
    /// Splits a file into its records. `name` is for the error's text.
    ///
    /// # Errors
    /// [`Error::Malformed`] for another kind of file, or one that is cut short or beyond the limits.
    pub fn parse(kind: Kind, name: &str, bytes: &[u8]) -> Result<Self, Error> {
        let mut rest = body(kind, name, bytes)?;
        let mut records = Vec::new();
        while !rest.is_empty() {
            if records.len() == MAX_RECORDS {
                return Err(Error::malformed(name, "too many records"));
            }
            records.push(record(name, &mut rest)?.to_vec());
        }
        Ok(Self { kind, records })
    }

    /// The file again.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.kind.head();
        for record in &self.records {
            // A record comes from a file of at most `MAX_FILE` bytes or from an edit of one.
            let len = u32::try_from(record.len()).unwrap_or(u32::MAX);
            out.extend(len.to_le_bytes());
            out.extend(record);
        }
        out
    }

    /// Decodes every record as one type.
    ///
    /// # Errors
    /// [`Error::Malformed`] when a record is not of that type.
    pub fn decode<M: Message + Default>(&self, name: &str) -> Result<Vec<M>, Error> {
        self.records.iter().map(|r| decode(name, r)).collect()
    }

    /// Decodes the only record.
    ///
    /// # Errors
    /// [`Error::Malformed`] when there is not exactly one, or it is not of that type.
    pub fn decode_one<M: Message + Default>(&self, name: &str) -> Result<M, Error> {
        match self.records.as_slice() {
            [record] => decode(name, record),
            other => Err(Error::malformed(name, format!("{} records instead of one", other.len()))),
        }
    }
}

/// Decodes the first record of a file whose rest is raw data (ghost files).
///
/// # Errors
/// [`Error::Malformed`] when there is none of that type.
pub fn first_record<M: Message + Default>(
    kind: Kind,
    name: &str,
    bytes: &[u8],
) -> Result<M, Error> {
    let mut rest = body(kind, name, bytes)?;
    decode(name, record(name, &mut rest)?)
}

/// Replaces the first record of a file whose rest is raw data, which stays.
///
/// # Errors
/// [`Error::Malformed`] when there is none, or `edit` says so.
pub fn edit_first(
    kind: Kind,
    name: &str,
    bytes: &[u8],
    edit: impl FnOnce(&[u8]) -> Result<Vec<u8>, Error>,
) -> Result<Vec<u8>, Error> {
    let mut rest = body(kind, name, bytes)?;
    let record = edit(record(name, &mut rest)?)?;
    let head = ImageFile { kind, records: vec![record] };
    Ok([head.encode().as_slice(), rest].concat())
}

fn body<'a>(kind: Kind, name: &str, bytes: &'a [u8]) -> Result<&'a [u8], Error> {
    if bytes.len() > MAX_FILE {
        return Err(Error::malformed(name, format!("larger than {MAX_FILE} bytes")));
    }
    bytes.strip_prefix(kind.head().as_slice()).ok_or_else(|| Error::malformed(name, "wrong magic"))
}

fn record<'a>(name: &str, rest: &mut &'a [u8]) -> Result<&'a [u8], Error> {
    let cut = || Error::malformed(name, "a record is cut short");
    let (len, tail) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
    let len = usize::try_from(u32::from_le_bytes(*len)).map_err(|_| cut())?;
    let (record, tail) = tail.split_at_checked(len).ok_or_else(cut)?;
    *rest = tail;
    Ok(record)
}

fn decode<M: Message + Default>(name: &str, record: &[u8]) -> Result<M, Error> {
    M::decode(record).map_err(|e| Error::malformed(name, e))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::images::{Inventory, PagemapEntry, PagemapHead, Pstree};

    #[test]
    fn the_bytes_are_those_that_criu_writes() {
        // From a dump by CRIU 4.2.1: pagemap with pages_id 1, then vaddr 0x1000, one page, LAZY.
        let head = PagemapHead { pages_id: 1 };
        let entry = PagemapEntry {
            vaddr: 0x1000,
            compat_nr_pages: 1,
            flags: Some(2),
            nr_pages: Some(1),
            ..PagemapEntry::default()
        };
        let file = ImageFile {
            kind: Kind::Pagemap,
            records: vec![head.encode_to_vec(), entry.encode_to_vec()],
        };
        let bytes = file.encode();
        assert_eq!(bytes[..8], [0x19, 0x43, 0x56, 0x54, 0x25, 0x40, 0x08, 0x56]);
        assert_eq!(bytes[8..14], [2, 0, 0, 0, 8, 1]);
        assert_eq!(bytes[14..], [9, 0, 0, 0, 8, 0x80, 0x20, 0x10, 1, 0x20, 2, 0x28, 1]);
        assert_eq!(ImageFile::parse(Kind::Pagemap, "pagemap-1.img", &bytes).unwrap(), file);
    }

    #[test]
    fn the_first_record_is_replaced_and_what_follows_it_stays() {
        let file = ImageFile { kind: Kind::TcpStream, records: vec![vec![8, 1, 96, 7]] };
        let bytes = [file.encode().as_slice(), b"queues"].concat();
        let kind = Kind::TcpStream;
        let edited = edit_first(kind, "t", &bytes, |record| Ok(record[..2].to_vec())).unwrap();
        let expected = ImageFile { kind, records: vec![vec![8, 1]] }.encode();
        assert_eq!(edited, [expected.as_slice(), b"queues"].concat());
        assert!(edit_first(Kind::GhostFile, "t", &bytes, |record| Ok(record.to_vec())).is_err());
    }

    #[test]
    fn the_inventory_has_no_common_magic() {
        let inventory = Inventory { img_version: 2, ..Inventory::default() };
        let file = ImageFile { kind: Kind::Inventory, records: vec![inventory.encode_to_vec()] };
        let bytes = file.encode();
        assert_eq!(bytes[..4], 0x5831_3116_u32.to_le_bytes());
        let back: Inventory =
            ImageFile::parse(Kind::Inventory, "i", &bytes).unwrap().decode_one("i").unwrap();
        assert_eq!(back.img_version, 2);
    }

    #[test]
    fn another_kind_and_a_cut_file_are_refused() {
        let file = ImageFile { kind: Kind::Pstree, records: vec![vec![8, 1]] };
        let bytes = file.encode();
        assert!(ImageFile::parse(Kind::Core, "x", &bytes).is_err());
        assert!(ImageFile::parse(Kind::Pstree, "x", &bytes[..bytes.len() - 1]).is_err());
        assert!(ImageFile::parse(Kind::Pstree, "x", &bytes[..3]).is_err());
        // A length far beyond the file allocates nothing.
        let mut long = bytes[..8].to_vec();
        long.extend([0xff; 4]);
        assert!(ImageFile::parse(Kind::Pstree, "x", &long).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(tail in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = Kind::Pstree.head();
            bytes.extend(&tail);
            if let Ok(file) = ImageFile::parse(Kind::Pstree, "p", &bytes) {
                prop_assert_eq!(file.encode(), bytes);
                let _ = file.decode::<Pstree>("p");
            }
        }
    }
}
