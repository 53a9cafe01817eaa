//! The checkpoint's format: packs, frames, page maps, digests, head, manifest; encode and decode only
