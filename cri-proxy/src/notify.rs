//! Words for systemd, if systemd asked for them (`sd_notify(3)`).

use std::os::unix::net::UnixDatagram;

/// What systemd is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Calls are served.
    Ready,
    /// The service is another process from now on.
    MainProcess(u32),
    /// We are about to end.
    Stopping,
}

impl State {
    fn line(self) -> String {
        match self {
            Self::Ready => "READY=1".to_owned(),
            Self::MainProcess(id) => format!("MAINPID={id}"),
            Self::Stopping => "STOPPING=1".to_owned(),
        }
    }
}

/// Tells systemd. Nothing depends on its being heard.
pub fn tell(state: State) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let told = UnixDatagram::unbound()
        .and_then(|socket| socket.send_to(state.line().as_bytes(), path).map(drop));
    if let Err(error) = told {
        tracing::warn!(error = %error, state = ?state, "systemd could not be told");
    }
}
