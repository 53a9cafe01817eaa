//! What steps are called in a trace.

use super::super::ids;
use super::{Answer, Explorer, NONE};
use crate::machine::Put;
use crate::state::Kind;

/// What a step is called; the text is made when somebody wants to read it.
#[derive(Debug, Clone, Copy)]
pub(in crate::checker) enum Label {
    /// A text.
    Text(u32),
    /// A text, and a PUT that stays in flight.
    TextFlying(u32),
    /// A place gets an answer.
    Answer(u8, Answer),
    /// A place gets an answer; its own PUT stays in flight.
    AnswerFlying(u8, Answer),
    /// A place PUTs an entry.
    Put(u8, u32, Put),
    /// A late PUT lands.
    Lands(u32),
    /// T/2 passes.
    Tick,
    /// A collector does something.
    Sweep(u8, u32),
}

impl Label {
    pub(super) fn flying(self) -> Self {
        match self {
            Self::Text(id) => Self::TextFlying(id),
            Self::Answer(n, answer) => Self::AnswerFlying(n, answer),
            other => other,
        }
    }
}

impl Explorer {
    pub(in crate::checker) fn label(&self, label: Label) -> String {
        let at = ids::letter;
        match label {
            Label::Text(id) => (**self.labels.get(id)).clone(),
            Label::TextFlying(id) => format!("{}; its PUT stays in flight", self.labels.get(id)),
            Label::Answer(n, answer) => format!("{}: {}", at(n), self.tells(answer)),
            Label::AnswerFlying(n, answer) => {
                format!("{}: {}; its PUT stays in flight", at(n), self.tells(answer))
            }
            Label::Put(n, id, Put::Unknown) => {
                format!("{}: agent PUTs {}: Unknown, in flight", at(n), self.says(id))
            }
            Label::Put(n, id, put) => format!("{}: agent PUTs {}: {put:?}", at(n), self.says(id)),
            Label::Lands(id) => format!("store: the late PUT of {} lands", self.says(id)),
            Label::Tick => "time: T/2 passes".to_owned(),
            Label::Sweep(slot, id) => format!("collector {slot}: {}", self.labels.get(id)),
        }
    }

    fn tells(&self, answer: Answer) -> String {
        match answer {
            Answer::Start(on_lost, _) => {
                format!("kubelet starts the container (when lost: {on_lost:?})")
            }
            Answer::Newest(NONE) => "agent finds an empty directory for a log".to_owned(),
            Answer::Newest(id) => format!("agent reads the newest entry: {}", self.says(id)),
            Answer::Slot(NONE) => "agent GETs its slot: 404".to_owned(),
            Answer::Slot(id) => format!("agent GETs its slot: {}", self.says(id)),
            Answer::Put(put) => format!("agent PUTs: {put:?}"),
            Answer::Presence(there) => format!("agent reads manifest and tombstone: {there:?}"),
            Answer::Prepared { there: true, .. } => "engine prepares the restore".to_owned(),
            Answer::Prepared { there: false, .. } => "engine finds no point".to_owned(),
            Answer::Restored { fails: false } => "restored and held".to_owned(),
            Answer::Restored { fails: true } => "the restore fails, for ever".to_owned(),
            Answer::Receives(_) => "agent hears from the shim".to_owned(),
            Answer::Checkpoint(outcome, point, _) => {
                format!("checkpoint c{point} is asked for: {outcome:?}")
            }
            Answer::Look { .. } => "agent looks".to_owned(),
            Answer::Sandbox(life) => format!("kubelet makes sandbox {life}"),
            Answer::Shift | Answer::Forced | Answer::Excused | Answer::Outrun | Answer::TooOld => {
                String::new()
            }
        }
    }

    /// An entry in few words: `offer → offered A.0`.
    fn says(&self, id: u32) -> String {
        let entry = self.entries.get(id);
        let owner = entry.state.owner().map_or_else(String::new, |owner| {
            let n = owner.node.as_bytes()[0] - b'A';
            let life = (0..ids::LIVES).find(|l| ids::incarnation(n, *l) == owner.incarnation);
            format!(" {}.{}", owner.node, life.unwrap_or(9))
        });
        let kind = if entry.kind == Kind::Reclaim && entry.nonce == 0.into() {
            String::new()
        } else {
            format!("{} → ", entry.kind.word())
        };
        format!("{kind}{}{owner}", entry.state.word())
    }
}
