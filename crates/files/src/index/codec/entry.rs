//! The bytes of one entry.

use godwit_image::ImageError;
use godwit_image::cursor::{Cursor, put_bytes, put_signed, put_varint};

use super::{get_time, invalid, moved, put_time};
use crate::index::limits::{
    MAX_CHUNK, MAX_FILE, MAX_MAJOR, MAX_MINOR, MAX_NAME, MAX_PATH, MAX_XATTR, MAX_XATTRS,
};
use crate::index::{Chunk, Device, Entry, Inode, Node, Seen, What, Xattr};
use crate::xattr::is_captured;

const WHITEOUT: u8 = 0;
const LINK: u8 = 1;
const DIRECTORY: u8 = 2;
const OPAQUE: u8 = 3;
const FILE: u8 = 4;
const SYMLINK: u8 = 5;
const CHARACTER: u8 = 6;
const BLOCK: u8 = 7;
const FIFO: u8 = 8;
const SOCKET: u8 = 9;

pub(super) fn put_entry(out: &mut Vec<u8>, number: usize, entry: &Entry) {
    put_varint(out, entry.depth.into());
    put_bytes(out, &entry.name);
    match &entry.node {
        Node::Whiteout => out.push(WHITEOUT),
        Node::Link(to) => {
            out.push(LINK);
            put_varint(out, (number as u64).saturating_sub((*to).into()));
        }
        Node::Inode(inode) => {
            out.push(kind(&inode.what));
            put_inode(out, inode);
            put_what(out, &inode.what);
        }
    }
}

fn kind(what: &What) -> u8 {
    match what {
        What::Directory { opaque: false } => DIRECTORY,
        What::Directory { opaque: true } => OPAQUE,
        What::File { .. } => FILE,
        What::Symlink { .. } => SYMLINK,
        What::Device(Device { block: false, .. }) => CHARACTER,
        What::Device(Device { block: true, .. }) => BLOCK,
        What::Fifo => FIFO,
        What::Socket => SOCKET,
    }
}

fn put_inode(out: &mut Vec<u8>, inode: &Inode) {
    put_varint(out, inode.mode.into());
    put_varint(out, inode.uid.into());
    put_varint(out, inode.gid.into());
    put_time(out, inode.accessed);
    put_time(out, inode.modified);
    put_varint(out, inode.seen.ino);
    put_time(out, inode.seen.changed);
    out.push(inode.seen.settled.into());
    put_varint(out, inode.xattrs.len() as u64);
    for xattr in &inode.xattrs {
        put_bytes(out, &xattr.name);
        put_bytes(out, &xattr.value);
    }
}

fn put_what(out: &mut Vec<u8>, what: &What) {
    match what {
        What::Directory { .. } | What::Fifo | What::Socket => {}
        What::Symlink { target } => put_bytes(out, target),
        What::Device(device) => {
            put_varint(out, device.major.into());
            put_varint(out, device.minor.into());
        }
        What::File { size, chunks } => {
            put_varint(out, *size);
            put_varint(out, chunks.len() as u64);
            let (mut end, mut frame) = (0, 0);
            for chunk in chunks {
                put_varint(out, chunk.offset - end);
                put_varint(out, chunk.length.into());
                put_signed(out, i64::from(chunk.frame) - i64::from(frame));
                put_varint(out, chunk.at.into());
                out.extend_from_slice(&chunk.digest);
                (end, frame) = (chunk.offset + u64::from(chunk.length), chunk.frame);
            }
        }
    }
}

pub(super) fn get_entry(
    c: &mut Cursor<'_>,
    number: usize,
    frames: usize,
) -> Result<Entry, ImageError> {
    let depth = u16::try_from(c.varint()?).map_err(|_| invalid("a path is too long"))?;
    let name = c.bytes("name", MAX_NAME as u64)?.to_vec();
    let node = match c.byte()? {
        WHITEOUT => Node::Whiteout,
        LINK => {
            let back = u64::from(c.u32()?);
            let to = (number as u64).checked_sub(back).and_then(|to| u32::try_from(to).ok());
            Node::Link(to.ok_or_else(|| invalid("a hard link leads to nothing before it"))?)
        }
        kind => Node::Inode(Box::new(get_inode(c, kind, frames)?)),
    };
    Ok(Entry { depth, name, node })
}

fn get_inode(c: &mut Cursor<'_>, kind: u8, frames: usize) -> Result<Inode, ImageError> {
    let mode = c.u32()?;
    let (uid, gid) = (c.u32()?, c.u32()?);
    if mode > 0o7777 {
        return Err(invalid("a mode has more than twelve bits"));
    }
    if uid == u32::MAX || gid == u32::MAX {
        return Err(invalid("an owner is nobody at all"));
    }
    let (accessed, modified) = (get_time(c)?, get_time(c)?);
    let (ino, changed) = (c.varint()?, get_time(c)?);
    let settled = match c.byte()? {
        0 => false,
        1 => true,
        _ => return Err(invalid("a flag is neither 0 nor 1")),
    };
    let xattrs = get_xattrs(c)?;
    let what = get_what(c, kind, frames)?;
    let seen = Seen { ino, changed, settled };
    Ok(Inode { mode: mode as u16, uid, gid, accessed, modified, xattrs, what, seen })
}

fn get_xattrs(c: &mut Cursor<'_>) -> Result<Vec<Xattr>, ImageError> {
    let n = c.count_of("extended attributes", 2, u64::MAX)?;
    let mut out: Vec<Xattr> = Vec::new();
    let mut total = 0;
    for _ in 0..n {
        let name = c.bytes("name of an extended attribute", MAX_NAME as u64)?.to_vec();
        let value = c.bytes("extended attribute", MAX_XATTR as u64)?.to_vec();
        total += name.len() + value.len();
        if !is_captured(&name) || name.contains(&0) || total > MAX_XATTRS {
            return Err(invalid("an extended attribute is of a kind or size that is not captured"));
        }
        if out.last().is_some_and(|before| before.name >= name) {
            return Err(invalid("extended attributes are twice or not in order"));
        }
        out.push(Xattr { name, value });
    }
    Ok(out)
}

fn get_what(c: &mut Cursor<'_>, kind: u8, frames: usize) -> Result<What, ImageError> {
    Ok(match kind {
        DIRECTORY => What::Directory { opaque: false },
        OPAQUE => What::Directory { opaque: true },
        FILE => get_file(c, frames)?,
        SYMLINK => What::Symlink { target: get_target(c)? },
        CHARACTER => What::Device(get_device(c, false)?),
        BLOCK => What::Device(get_device(c, true)?),
        FIFO => What::Fifo,
        SOCKET => What::Socket,
        _ => return Err(invalid("a type of file is not known")),
    })
}

fn get_target(c: &mut Cursor<'_>) -> Result<Vec<u8>, ImageError> {
    let target = c.bytes("symbolic link", MAX_PATH as u64)?;
    match target.is_empty() || target.contains(&0) {
        true => Err(invalid("a symbolic link points nowhere")),
        false => Ok(target.to_vec()),
    }
}

fn get_device(c: &mut Cursor<'_>, block: bool) -> Result<Device, ImageError> {
    let device = Device { block, major: c.u32()?, minor: c.u32()? };
    if device.major > MAX_MAJOR || device.minor > MAX_MINOR {
        return Err(invalid("a device's number is too large"));
    }
    if !block && device.major == 0 && device.minor == 0 {
        return Err(invalid("a device is a whiteout in disguise"));
    }
    Ok(device)
}

fn get_file(c: &mut Cursor<'_>, frames: usize) -> Result<What, ImageError> {
    let size = c.varint()?;
    if size > MAX_FILE {
        return Err(invalid("a file is too large"));
    }
    // Four numbers and a digest each.
    let n = c.count_of("chunks of a file", 4 + 16, u64::MAX)?;
    let mut chunks = Vec::with_capacity(n);
    let (mut end, mut frame) = (0u64, 0u32);
    for _ in 0..n {
        let offset = end.checked_add(c.varint()?);
        let length = c.u32()?;
        frame = moved(frame, c.signed()?)?;
        let at = c.u32()?;
        let digest = c.array()?;
        let offset = offset
            .filter(|o| *o <= size)
            .ok_or_else(|| invalid("a chunk is outside of its file"))?;
        end = offset + u64::from(length);
        let fits = u64::from(at) + u64::from(length) <= MAX_CHUNK as u64;
        if length == 0 || end > size || !fits || frame as usize >= frames {
            return Err(invalid("a chunk is outside of its file or frame"));
        }
        chunks.push(Chunk { offset, length, frame, at, digest });
    }
    Ok(What::File { size, chunks })
}
