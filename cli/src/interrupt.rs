//! Ctrl-C: the first one cancels and waits for how it ends, the second one leaves.

use std::future::Future;

use godwit_types::Code;
use godwit_wire::api::Failure;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::args::Output;
use crate::{failure, out};

/// The interrupts of this program, from its start on.
pub(crate) struct Interrupts {
    signal: Signal,
    cancel: CancellationToken,
    tells: bool,
}

impl Interrupts {
    /// From now on no interrupt ends the program by itself.
    ///
    /// # Errors
    /// The system refuses.
    pub(crate) fn new(output: Output) -> Result<Self, Failure> {
        let signal = signal(SignalKind::interrupt()).map_err(failure::internal)?;
        Ok(Self { signal, cancel: CancellationToken::new(), tells: output == Output::Table })
    }

    /// Cancelled by the first interrupt.
    pub(crate) fn cancel(&self) -> CancellationToken {
        self.cancel.clone()
    }

    /// Waits for work that changes nothing; an interrupt leaves it.
    ///
    /// # Errors
    /// The work's; that it was left.
    pub(crate) async fn look<T>(
        &mut self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            result = work => result,
            _ = self.signal.recv() => {
                Err(failure::new(Code::Cancelled, "cancelled: nothing was changed"))
            }
        }
    }

    /// Waits for work that ends early when it is cancelled.
    ///
    /// # Errors
    /// The work's; that it was left.
    pub(crate) async fn attend<T>(
        &mut self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::pin!(work);
        tokio::select! {
            result = &mut work => return result,
            _ = self.signal.recv() => self.cancel.cancel(),
        }
        if self.tells {
            out::note("cancelling: waiting for how it ends (Ctrl-C again leaves at once)");
        }
        tokio::select! {
            result = work => result,
            _ = self.signal.recv() => Err(failure::new(
                Code::Cancelled,
                "left while it was being cancelled: `godwit list` and `godwit status` tell how it ended",
            )),
        }
    }
}
