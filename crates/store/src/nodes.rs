//! Which machine bears a node's name. Written once for each name: who comes second under it must not write into any log, for
//! there it would be taken for the first.

use godwit_types::MachineId;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::blob::Key;
use crate::error::StoreError;
use crate::layout;
use crate::record::{self, Record};
use crate::store::Store;

/// The machine that bears a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bearer {
    /// The machine.
    pub machine_id: MachineId,
    /// When it was first seen, by its own clock; for people.
    pub since: Timestamp,
}

impl Record for Bearer {
    const FORMAT: &'static str = "godwit.node/1";
}

impl Store {
    /// Binds the name of a node to a machine, unless it is bound already. Who bears it now, and the address of what says so.
    /// The same machine may ask again and again.
    ///
    /// # Errors
    /// The store does not answer, or the name cannot be part of a key.
    pub async fn bind_node(
        &self,
        cluster: &str,
        node: &str,
        machine: &MachineId,
    ) -> Result<(Bearer, String), StoreError> {
        let key = layout::machine(cluster, node)?;
        let bearer = self.bearer(&key, machine).await?;
        Ok((bearer, format!("{}/{key}", self.name().trim_end_matches('/'))))
    }

    async fn bearer(&self, key: &Key, machine: &MachineId) -> Result<Bearer, StoreError> {
        let blobs = &**self.blobs();
        if let Some(found) = record::read(blobs, key).await? {
            return Ok(found);
        }
        let new = Bearer { machine_id: machine.clone(), since: self.timestamp() };
        if record::create(blobs, key, &new).await? {
            return Ok(new);
        }
        let found = record::read(blobs, key).await?;
        found.ok_or_else(|| StoreError::Unsettled { key: key.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SweepOptions;
    use crate::fixture::{HORIZON, World};
    use crate::wrap::{Fault, Operation, Rule};

    fn machine(digit: char) -> MachineId {
        MachineId::new(digit.to_string().repeat(32)).unwrap()
    }

    async fn bind(world: &World, machine: &MachineId) -> MachineId {
        let store = world.tenant.store();
        store.bind_node("_none", "debian", machine).await.unwrap().0.machine_id
    }

    #[tokio::test]
    async fn a_name_stays_with_the_machine_that_had_it_first() {
        let world = World::new().await;
        let (first, second) = (machine('a'), machine('b'));
        assert_eq!(bind(&world, &first).await, first);
        assert_eq!(bind(&world, &second).await, first);
        assert_eq!(bind(&world, &first).await, first);
        let other = world.tenant.store().bind_node("_none", "debian-2", &second).await.unwrap();
        assert_eq!(other.0.machine_id, second);
        assert!(other.1.ends_with("/nodes/_none/debian-2/machine"), "{}", other.1);
    }

    #[tokio::test]
    async fn a_lost_reply_costs_nobody_its_name() {
        let world = World::new().await;
        let first = machine('a');
        for fault in [Fault::Fail, Fault::ReplyLost] {
            world.faulty.add(Rule::new(fault).matching("/machine").on(Operation::Create));
        }
        assert_eq!(bind(&world, &first).await, first);
        assert_eq!(bind(&world, &machine('b')).await, first);
    }

    #[tokio::test]
    async fn of_machines_that_come_at_once_one_gets_the_name() {
        let world = World::new().await;
        let (a, b) = (machine('a'), machine('b'));
        let found = futures::join!(bind(&world, &a), bind(&world, &b));
        assert_eq!(found.0, found.1);
    }

    #[tokio::test]
    async fn a_sweep_leaves_names_alone() {
        let world = World::new().await;
        bind(&world, &machine('a')).await;
        for _ in 0..3 {
            world.clock.advance(HORIZON * 2);
            world.tenant.sweep(SweepOptions::default()).await.unwrap();
        }
        assert_eq!(bind(&world, &machine('b')).await, machine('a'));
    }

    #[tokio::test]
    async fn a_name_that_is_no_part_of_a_key_is_refused() {
        let world = World::new().await;
        assert!(world.tenant.store().bind_node("_none", "my node", &machine('a')).await.is_err());
    }

    #[test]
    fn it_is_written_as_it_always_was() {
        let golden = r#"{"format":"godwit.node/1","machine_id":"0123456789abcdef0123456789abcdef","since":"1970-01-01T00:00:00Z"}"#;
        let machine_id = MachineId::new("0123456789abcdef0123456789abcdef").unwrap();
        let bearer = Bearer { machine_id, since: Timestamp::UNIX_EPOCH };
        assert_eq!(record::encode(&bearer).unwrap(), golden.as_bytes());
        assert_eq!(serde_json::from_str::<Bearer>(golden).unwrap(), bearer);
    }
}
