//! The bytes of a head: header | table of contents | sections, each as it is or zstd. `docs/format/head.md`.

use godwit_types::PageRange;

use super::{ContainerHead, EncodedHead, Head, Sections, Space, SpaceHead, ranges, recent};
use crate::cursor::{Cursor, put_bytes, put_varint};
use crate::header::{self, HEADER_BYTES, Kind};
use crate::limits::{
    MAX_CONTAINERS, MAX_HEAD_BYTES, MAX_NAME_BYTES, MAX_PAGE, MAX_SECTION_BYTES, MAX_SECTIONS,
};
use crate::{DigestIndex, ImageError, PackTable, PageMap, compress};

const WHAT: &str = "head";

/// What a section holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Packs,
    PodSection,
    Container,
    Image,
    ContainerSection,
    Map(Space),
    Eager(Space),
    Digests(Space),
    /// Pages that were written last; may be left out.
    Recent,
    /// Something of a later version that a reader may leave out.
    Optional,
}

/// Kinds of section from 128 on are skipped by readers that do not know them. In this one, the first of them, the address spaces are
/// named within the section: who does not know it goes on reading after the kind.
const RECENT: u8 = 128;
/// The first of those that nobody knows yet.
const FIRST_UNKNOWN: u8 = RECENT + 1;

impl Role {
    fn put(self, out: &mut Vec<u8>) {
        let (number, space) = match self {
            Self::Packs => (0, None),
            Self::PodSection => (1, None),
            Self::Container => (2, None),
            Self::Image => (3, None),
            Self::ContainerSection => (4, None),
            Self::Map(s) => (5, Some(s)),
            Self::Eager(s) => (6, Some(s)),
            Self::Digests(s) => (7, Some(s)),
            Self::Recent => (RECENT, None),
            Self::Optional => (FIRST_UNKNOWN, None),
        };
        out.push(number);
        if let Some(space) = space {
            put_space(out, space);
        }
    }

    /// A kind that is not known is refused, unless its number says that it may be left out.
    fn take(c: &mut Cursor<'_>) -> Result<Self, ImageError> {
        Ok(match c.byte()? {
            0 => Self::Packs,
            1 => Self::PodSection,
            2 => Self::Container,
            3 => Self::Image,
            4 => Self::ContainerSection,
            5 => Self::Map(take_space(c)?),
            6 => Self::Eager(take_space(c)?),
            7 => Self::Digests(take_space(c)?),
            RECENT => Self::Recent,
            FIRST_UNKNOWN.. => Self::Optional,
            _ => return Err(c.invalid("a kind of section is not known")),
        })
    }
}

pub(super) fn put_space(out: &mut Vec<u8>, space: Space) {
    match space {
        Space::Task(vpid) => {
            out.push(0);
            put_varint(out, vpid.into());
        }
        Space::Shmem(id) => {
            out.push(1);
            put_varint(out, id);
        }
    }
}

pub(super) fn take_space(c: &mut Cursor<'_>) -> Result<Space, ImageError> {
    match c.byte()? {
        0 => Ok(Space::Task(c.u32()?)),
        1 => Ok(Space::Shmem(c.varint()?)),
        _ => Err(c.invalid("a kind of address space is not known")),
    }
}

/// Collects sections and their entries in the table of contents.
#[derive(Default)]
struct Writer {
    contents: Vec<u8>,
    sections: u64,
    /// Uncompressed bytes of all sections.
    raw: u64,
    bytes: Vec<u8>,
}

impl Writer {
    /// Adds a section, unless no reader would take it: what is written is what [`Head::decode`] reads.
    fn add(&mut self, role: Role, name: &str, bytes: &[u8]) -> Result<(), ImageError> {
        let raw = bytes.len() as u64;
        at_most("section of a head", raw, MAX_SECTION_BYTES)?;
        at_most(WHAT, self.raw + raw, MAX_HEAD_BYTES)?;
        at_most("sections of a head", self.sections + 1, MAX_SECTIONS)?;
        at_most("name of a section", name.len() as u64, MAX_NAME_BYTES)?;
        let packed = compress::compress(WHAT, bytes)?;
        let smaller = packed.len() < bytes.len();
        let stored = if smaller { &packed } else { bytes };
        role.put(&mut self.contents);
        put_bytes(&mut self.contents, name.as_bytes());
        self.contents.push(u8::from(smaller));
        put_varint(&mut self.contents, raw);
        put_varint(&mut self.contents, stored.len() as u64);
        self.bytes.extend_from_slice(stored);
        self.sections += 1;
        self.raw += raw;
        Ok(())
    }

    fn add_all(&mut self, role: Role, sections: &Sections) -> Result<(), ImageError> {
        sections.iter().try_for_each(|(name, bytes)| self.add(role, name, bytes))
    }
}

impl Head {
    /// Its bytes.
    ///
    /// # Errors
    /// A part is above its limit.
    pub fn encode(&self) -> Result<EncodedHead, ImageError> {
        at_most("containers", self.containers.len() as u64, MAX_CONTAINERS)?;
        let mut w = Writer::default();
        let mut starts = Vec::with_capacity(self.containers.len() + 1);
        w.add(Role::Packs, "", &self.packs.encode())?;
        w.add_all(Role::PodSection, &self.sections)?;
        for container in &self.containers {
            starts.push(w.bytes.len());
            add_container(&mut w, container)?;
        }
        starts.push(w.bytes.len());
        let mut body = Vec::with_capacity(w.contents.len() + w.bytes.len() + 32);
        let mut counted = Vec::new();
        put_varint(&mut counted, w.sections);
        counted.extend_from_slice(&w.contents);
        put_bytes(&mut body, &counted);
        let first = HEADER_BYTES + body.len();
        body.extend_from_slice(&w.bytes);
        let place = |at: usize| (first + at) as u64;
        let containers = starts.windows(2).map(|w| place(w[0])..place(w[1])).collect();
        Ok(EncodedHead { bytes: header::wrap(Kind::Head, &body), containers })
    }

    /// Reads a head of which nothing is believed. Frames that its maps name may be missing from its pack table:
    /// [`PackTable::locate`] tells.
    ///
    /// # Errors
    /// Damaged, above a limit, or it contradicts itself.
    pub fn decode(bytes: &[u8]) -> Result<Self, ImageError> {
        let mut c = Cursor::new(WHAT, header::unwrap(Kind::Head, bytes)?);
        let mut contents = Cursor::new(WHAT, c.bytes("table of contents", MAX_HEAD_BYTES)?);
        let sections = contents.count("sections of a head", MAX_SECTIONS)?;
        let mut head = Self::default();
        let mut total = 0u64;
        for _ in 0..sections {
            let role = Role::take(&mut contents)?;
            let name = contents.text("name of a section", MAX_NAME_BYTES)?;
            let bytes = take_section(&mut contents, &mut c, &mut total)?;
            head.place(role, name, bytes)?;
        }
        contents.end()?;
        c.end()?;
        Ok(head)
    }

    fn place(&mut self, role: Role, name: &str, bytes: Vec<u8>) -> Result<(), ImageError> {
        match role {
            Role::Packs => self.packs = PackTable::decode(&bytes)?,
            Role::PodSection => put_once(&mut self.sections, name, bytes)?,
            Role::Container => self.start_container(name)?,
            Role::Image => put_once(&mut self.container()?.images, name, bytes)?,
            Role::ContainerSection => put_once(&mut self.container()?.sections, name, bytes)?,
            Role::Map(s) => self.space(s)?.map = PageMap::decode(&bytes)?,
            Role::Eager(s) => self.space(s)?.eager = decode_ranges(&bytes)?,
            Role::Digests(s) => self.space(s)?.digests = DigestIndex::decode(&bytes)?,
            Role::Recent => recent::decode(&bytes, &mut self.container()?.spaces)?,
            Role::Optional => {}
        }
        Ok(())
    }

    fn start_container(&mut self, name: &str) -> Result<(), ImageError> {
        let size = self.containers.len() as u64;
        if size >= MAX_CONTAINERS {
            return Err(ImageError::Limit { what: "containers", size, limit: MAX_CONTAINERS });
        }
        self.containers.push(ContainerHead { name: name.to_owned(), ..Default::default() });
        Ok(())
    }

    fn container(&mut self) -> Result<&mut ContainerHead, ImageError> {
        let why = "a section belongs to no container";
        self.containers.last_mut().ok_or(ImageError::Invalid { what: WHAT, why })
    }

    fn space(&mut self, space: Space) -> Result<&mut SpaceHead, ImageError> {
        Ok(self.container()?.spaces.entry(space).or_default())
    }
}

fn at_most(what: &'static str, size: u64, limit: u64) -> Result<(), ImageError> {
    if size > limit { Err(ImageError::Limit { what, size, limit }) } else { Ok(()) }
}

fn add_container(w: &mut Writer, container: &ContainerHead) -> Result<(), ImageError> {
    w.add(Role::Container, &container.name, &[])?;
    w.add_all(Role::Image, &container.images)?;
    w.add_all(Role::ContainerSection, &container.sections)?;
    for (space, head) in &container.spaces {
        w.add(Role::Map(*space), "", &head.map.encode()?)?;
        w.add(Role::Eager(*space), "", &encode_ranges(&head.eager))?;
        w.add(Role::Digests(*space), "", &head.digests.encode()?)?;
    }
    if let Some(recent) = recent::encode(&container.spaces)? {
        w.add(Role::Recent, "", &recent)?;
    }
    Ok(())
}

fn take_section(
    contents: &mut Cursor<'_>,
    body: &mut Cursor<'_>,
    total: &mut u64,
) -> Result<Vec<u8>, ImageError> {
    let packed = contents.byte()?;
    let raw = contents.bounded("section of a head", MAX_SECTION_BYTES)?;
    *total += raw;
    at_most(WHAT, *total, MAX_HEAD_BYTES)?;
    let stored = contents.bounded("section of a head", MAX_SECTION_BYTES)?;
    let bytes = body.take(stored as usize)?;
    match packed {
        0 if stored == raw => Ok(bytes.to_vec()),
        1 => compress::decompress(WHAT, bytes, raw),
        _ => Err(contents.invalid("a section's lengths contradict its codec")),
    }
}

fn put_once(sections: &mut Sections, name: &str, bytes: Vec<u8>) -> Result<(), ImageError> {
    match sections.insert(name.to_owned(), bytes) {
        None => Ok(()),
        Some(_) => Err(ImageError::Invalid { what: WHAT, why: "a section is there twice" }),
    }
}

fn encode_ranges(ranges: &[PageRange]) -> Vec<u8> {
    let mut out = Vec::new();
    ranges::put(&mut out, ranges);
    out
}

fn decode_ranges(bytes: &[u8]) -> Result<Vec<PageRange>, ImageError> {
    let mut c = Cursor::new("eager pages", bytes);
    let ranges = ranges::take(&mut c, MAX_PAGE)?;
    c.end()?;
    Ok(ranges)
}

#[cfg(test)]
mod tests;
