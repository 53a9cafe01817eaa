//! Small numbers for everything that has an identity, so that equal situations are equal states.

use godwit_types::{CheckpointId, Incarnation, LineageName, Nonce, OpId, Owner, Seq, Tenant};
use serde_json::Value;

use crate::fence::LineageRef;

/// The newest entry always stands here: positions are relative to it.
pub(super) const NEWEST: u64 = 1 << 40;
/// Incarnations of one place that can be told apart.
pub(super) const LIVES: u8 = 8;
/// Nonces of one place that can be told apart; the last two are the keeper's and the look's.
pub(super) const NONCES: u8 = 8;
pub(super) const KEEPER_NONCE: u8 = 6;
pub(super) const LOOK_NONCE: u8 = 7;

const LIFE: u64 = 0x1_0000;
const NONCE: u64 = 0x2_0000;
const POINT: u64 = 0x3_0000;

fn bits(number: u64) -> u128 {
    u128::from(number) << 80
}

pub(super) fn incarnation(place: u8, life: u8) -> Incarnation {
    bits(LIFE + u64::from(place) * u64::from(LIVES) + u64::from(life)).into()
}

pub(super) fn nonce(place: u8, k: u8) -> Nonce {
    bits(NONCE + u64::from(place) * u64::from(NONCES) + u64::from(k)).into()
}

pub(super) fn point(index: u8) -> CheckpointId {
    bits(POINT + u64::from(index)).into()
}

/// The index of a checkpoint.
pub(super) fn index(point: CheckpointId) -> u8 {
    (point.timestamp_ms() - POINT) as u8
}

pub(super) fn op() -> OpId {
    bits(1).into()
}

pub(super) fn letter(place: u8) -> char {
    char::from(b'A' + place)
}

pub(super) fn pod_uid(place: u8) -> String {
    letter(place).to_ascii_lowercase().to_string()
}

pub(super) fn owner(place: u8, life: u8) -> Owner {
    Owner {
        cluster: "_none".to_owned(),
        node: letter(place).to_string(),
        epoch: 0,
        pod_uid: pod_uid(place),
        incarnation: incarnation(place, life),
    }
}

pub(super) fn lineage() -> LineageRef {
    LineageRef {
        store: "s".to_owned(),
        tenant: Tenant::node(),
        lineage: LineageName::new("pod/web").unwrap(),
    }
}

/// What a component refers to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Refs {
    /// One bit for each nonce of each place.
    pub nonces: u32,
    /// One bit for each incarnation of each place.
    pub lives: u32,
    /// Bit i: the slot `NEWEST + 1 − i`, by something that may read it (not by a fence): where an entry is, or what follows it.
    pub slots: u32,
}

impl Refs {
    pub(super) fn of(value: &Value) -> Self {
        let mut refs = Self::default();
        refs.walk(value);
        refs
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self {
            nonces: self.nonces | other.nonces,
            lives: self.lives | other.lives,
            slots: self.slots | other.slots,
        }
    }

    fn walk(&mut self, value: &Value) {
        match value {
            Value::String(text) if text.len() == 26 => self.id(text),
            Value::Number(number) => self.number(number.as_u64().unwrap_or(0)),
            Value::Array(items) => items.iter().for_each(|item| self.walk(item)),
            Value::Object(fields) => {
                for (name, field) in fields {
                    if !matches!(&**name, "slot" | "seen") {
                        self.walk(field);
                    }
                }
            }
            _ => {}
        }
    }

    fn id(&mut self, text: &str) {
        let Ok(id) = text.parse::<CheckpointId>() else { return };
        match id.timestamp_ms() {
            n if (LIFE..NONCE).contains(&n) => self.lives |= 1 << (n - LIFE),
            n if (NONCE..POINT).contains(&n) => self.nonces |= 1 << (n - NONCE),
            _ => {}
        }
    }

    fn number(&mut self, number: u64) {
        if number > NEWEST / 2 {
            let back = NEWEST + 1 - number;
            assert!(back < 32, "a slot far behind the newest one is still referred to");
            self.slots |= 1 << back | (1 << back) >> 1;
        }
    }

    pub(super) fn has_nonce(&self, place: u8, k: u8) -> bool {
        self.nonces & (1 << (place * NONCES + k)) != 0
    }

    pub(super) fn has_life(&self, place: u8, life: u8) -> bool {
        self.lives & (1 << (place * LIVES + life)) != 0
    }

    /// Whether something may read this slot.
    pub(super) fn reads(&self, seq: Seq) -> bool {
        self.slots & (1 << (NEWEST + 1 - seq.0)) != 0
    }
}

/// Moves every position one down: a new entry has become the newest. A fence only asks whether its slot is settled, so far-back
/// ones are the same to it.
pub(super) fn shift(value: &mut Value) {
    match value {
        Value::Number(number) => {
            let n = number.as_u64().unwrap_or(0);
            if n > NEWEST / 2 {
                *value = Value::from(n - 1);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(shift),
        Value::Object(fields) => {
            for (name, field) in fields {
                shift(field);
                if matches!(&**name, "slot" | "seen")
                    && field.as_u64().is_some_and(|slot| slot < NEWEST - 2)
                {
                    *field = Value::from(NEWEST - 2);
                }
            }
        }
        _ => {}
    }
}
