//! What every manifest satisfies, whoever wrote it.

use godwit_types::CheckpointId;

use super::{Manifest, check_format, head_key};
use crate::limits::{MAX_CONTAINERS, MAX_NAME_BYTES, MAX_PACK_BYTES, MAX_PACKS};
use crate::{ImageError, PackName};

/// Longest list of anything small (volumes, addresses, features, keys).
const MAX_SMALL: u64 = 1 << 12;

fn invalid(why: &'static str) -> ImageError {
    ImageError::Invalid { what: "manifest", why }
}

fn at_most(what: &'static str, size: usize, limit: u64) -> Result<(), ImageError> {
    let size = size as u64;
    if size > limit { Err(ImageError::Limit { what, size, limit }) } else { Ok(()) }
}

impl Manifest {
    /// Checks lengths, names and keys.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn validate(&self) -> Result<(), ImageError> {
        check_format(&self.format)?;
        self.check_lengths()?;
        self.check_containers()?;
        self.check_objects()?;
        if self.compat.page_size == 0 || !self.compat.page_size.is_power_of_two() {
            return Err(invalid("the page size is not a power of two"));
        }
        Ok(())
    }

    fn check_lengths(&self) -> Result<(), ImageError> {
        at_most("containers", self.containers.len(), MAX_CONTAINERS)?;
        at_most("init containers", self.init_done.len(), MAX_CONTAINERS)?;
        at_most("objects", self.objects.len(), u64::from(MAX_PACKS) + 1)?;
        at_most("volumes", self.volumes.len(), MAX_SMALL)?;
        at_most("addresses", self.network.ips.len(), MAX_SMALL)?;
        at_most("processor features", self.compat.cpu_features.len(), MAX_SMALL)?;
        at_most("data keys", self.encryption.as_ref().map_or(0, |e| e.keys.len()), MAX_SMALL)
    }

    fn check_containers(&self) -> Result<(), ImageError> {
        let head = self.head().ok_or_else(|| invalid("it names no head"))?;
        for c in &self.containers {
            at_most("name of a container", c.name.len(), MAX_NAME_BYTES)?;
            let end = c.head.offset.checked_add(c.head.length);
            if end.is_none_or(|end| end > head.size) {
                return Err(invalid("a container lies outside the head"));
            }
        }
        let mut names: Vec<&str> = self.containers.iter().map(|c| c.name.as_str()).collect();
        names.sort_unstable();
        if names.windows(2).any(|w| w[0] == w[1]) {
            return Err(invalid("two containers have the same name"));
        }
        Ok(())
    }

    fn check_objects(&self) -> Result<(), ImageError> {
        if self.objects.windows(2).any(|w| w[0].key >= w[1].key) {
            return Err(invalid("its objects are not sorted by key"));
        }
        let head = head_key(self.id);
        for o in &self.objects {
            if o.key != head && pack_name(&o.key).is_none() {
                return Err(invalid("an object's key is neither a pack's nor the head's"));
            }
            if o.key != head && o.size > MAX_PACK_BYTES as u64 {
                let limit = MAX_PACK_BYTES as u64;
                return Err(ImageError::Limit { what: "size of a pack", size: o.size, limit });
            }
        }
        Ok(())
    }

    /// The packs among its objects, by name.
    pub fn packs(&self) -> impl Iterator<Item = (PackName, &super::Object)> {
        self.objects.iter().filter_map(|o| Some((pack_name(&o.key)?, o)))
    }
}

fn pack_name(key: &str) -> Option<PackName> {
    let (id, rest) = key.split_once('/')?;
    let checkpoint: CheckpointId = id.parse().ok()?;
    let name = PackName::from_key(checkpoint, rest)?;
    (checkpoint.to_string() == id).then_some(name)
}
