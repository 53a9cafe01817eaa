//! Who looks into calls: the place where the agent's decisions meet the wire.
//!
//! The proxy asks [`Intercept::interest`] once for each call of a method that can be looked into ([`Method`]), shows the request
//! ([`Intercept::before`]), and, where asked to, what containerd answered ([`Intercept::after`]). Whoever implements it speaks
//! with the agent, and says when that does not answer ([`Absent`]); what becomes of the call then is decided here, in one place:
//! calls that need the agent for safety fail with a sentence, all others pass.
//!
//! # Cancellation
//! Futures of this trait are dropped when the client gives the call up or goes away, and when its deadline passes.
//!
//! # Limits
//! A request above [`MAX_SEEN`](crate::limits::MAX_SEEN), a compressed one and one that cannot be read pass unseen. A call without
//! a deadline is held for [`MAX_HOLD`](crate::limits::MAX_HOLD) at most.

use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;

use crate::cri::{Method, Request};
use crate::status::{GrpcCode, Status};

/// How much of a method's calls is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Nothing: they pass unseen.
    Nothing,
    /// The request, before containerd gets it.
    Before,
    /// The request, and the answer before the client gets it.
    Around,
}

/// One call.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// What is asked.
    pub request: Request,
    /// When the client gives up, if it said so.
    pub deadline: Option<Instant>,
}

/// What becomes of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It goes to containerd, with the bytes that came. Whoever wants it held waits before saying so.
    Pass,
    /// It is answered with this message; containerd never hears of it.
    Answer(Bytes),
    /// It ends with this status; containerd never hears of it.
    End(Status),
}

/// How containerd answered a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// gRPC's code, if it is one that we know.
    pub code: Option<u8>,
    /// The answer, if there is one and it is not too long.
    pub message: Option<Bytes>,
}

/// What a call needs the absent one for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Without its word two copies of a pod could run, or memory be lost: the call fails.
    Safety,
    /// It would have been better, or earlier: the call passes.
    Benefit,
}

/// Who decides does not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Absent {
    /// What for.
    pub need: Need,
    /// What was attempted, and why it failed.
    pub reason: String,
}

impl Absent {
    /// What becomes of the call.
    pub(crate) fn verdict(self) -> Verdict {
        match self.need {
            Need::Benefit => Verdict::Pass,
            Need::Safety => Verdict::End(Status::new(
                GrpcCode::Unavailable,
                format!(
                    "{}: this call has to wait for godwit-agent; it is made again by itself when the agent runs (systemctl status \
                     godwit-agent)",
                    self.reason
                ),
            )),
        }
    }
}

/// Looks into calls.
#[async_trait]
pub trait Intercept: Send + Sync {
    /// How much of this method's calls is to be shown. Asked for each call, must not wait.
    fn interest(&self, method: Method) -> Interest;

    /// Decides. The call waits meanwhile, all others go on.
    ///
    /// # Errors
    /// Who is to decide does not answer.
    async fn before(&self, call: &Call) -> Result<Verdict, Absent>;

    /// Sees the answer of a call of [`Interest::Around`] that passed. The answer waits meanwhile and is not changed. Never called
    /// when the client went away, or containerd before it had answered: nothing may depend on it.
    async fn after(&self, call: &Call, outcome: &Outcome) {
        let _ = (call, outcome);
    }
}
