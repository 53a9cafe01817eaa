//! A stand-in for systemd-logind on a node's system bus: nodes of the lab have no systemd. It tells of a shutdown and waits for who asked
//! for time, as org.freedesktop.login1(5) says; kubelet, agent and bus are real.

use std::io::{PipeReader, Read as _, pipe};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};
use godwit_lab::{Node, Spawned, wait};
use zbus::blocking::{Connection, connection};
use zbus::zvariant;

use crate::container::SOON;

const CONFIG: &str = "/run/bus.conf";
const SOCKET: &str = "/run/dbus/system_bus_socket";
const PATH: &str = "/org/freedesktop/login1";
const MANAGER: &str = "org.freedesktop.login1.Manager";
/// Everybody on it is root.
const BUS: &str = r#"<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <policy context="default">
    <allow user="*"/><allow own="*"/>
    <allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/>
  </policy>
</busconfig>
"#;

/// Who asked for time, as the reading ends of their locks, and whether the node shuts down.
#[derive(Debug, Default)]
struct State {
    locks: Vec<(String, PipeReader)>,
    shuts_down: bool,
}

struct Manager(Arc<Mutex<State>>);

#[zbus::interface(name = "org.freedesktop.login1.Manager")]
impl Manager {
    #[expect(clippy::unused_self, reason = "a property of an object")]
    #[zbus(property, name = "InhibitDelayMaxUSec")]
    fn inhibit_delay_max_usec(&self) -> u64 {
        120_000_000
    }

    #[zbus(property(emits_changed_signal = "false"))]
    fn preparing_for_shutdown(&self) -> bool {
        lock(&self.0).shuts_down
    }

    fn inhibit(
        &self,
        _what: &str,
        who: &str,
        _why: &str,
        _mode: &str,
    ) -> zbus::fdo::Result<zvariant::OwnedFd> {
        let failed = |error: std::io::Error| zbus::fdo::Error::IOError(error.to_string());
        let (reads, writes) = pipe().map_err(failed)?;
        lock(&self.0).locks.push((who.to_owned(), reads));
        Ok(OwnedFd::from(writes).into())
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One node's, until it is dropped.
#[derive(Debug)]
pub struct Logind {
    _daemon: Spawned,
    bus: Connection,
    state: Arc<Mutex<State>>,
}

impl Logind {
    /// Starts the node's bus, and serves there.
    ///
    /// # Errors
    /// The bus does not start.
    pub fn of(node: &Node) -> Result<Self> {
        node.run(&["mkdir", "--parents", "/run/dbus"])?;
        node.write_file(CONFIG, BUS)?;
        let daemon =
            node.spawn(&["dbus-daemon", &format!("--config-file={CONFIG}"), "--nofork"])?;
        let socket = node.host_path(SOCKET)?;
        wait::until_true("the system bus", SOON, || socket.exists())?;
        let state = Arc::<Mutex<State>>::default();
        let address = format!("unix:path={}", socket.display());
        let bus = connection::Builder::address(address.as_str())?
            .serve_at(PATH, Manager(Arc::clone(&state)))?
            .name("org.freedesktop.login1")?
            .build()?;
        Ok(Self { _daemon: daemon, bus, state })
    }

    /// Waits until this program has asked for time.
    ///
    /// # Errors
    /// It does not ask.
    pub fn wait_for(&self, who: &str) -> Result<()> {
        let has_asked = || lock(&self.state).locks.iter().any(|(name, _)| name == who);
        Ok(wait::until_true(&format!("{who} to ask for time"), SOON, has_asked)?)
    }

    /// Tells that the node shuts down, and waits until nobody needs more time. The node is where it was.
    ///
    /// # Errors
    /// The bus is away.
    pub fn shut_down(&self) -> Result<()> {
        self.tell(true)?;
        let locks = std::mem::take(&mut lock(&self.state).locks);
        ensure!(!locks.is_empty(), "nobody has asked for time");
        for (who, mut reads) in locks {
            // It ends when the other side is closed.
            reads.read_to_end(&mut vec![]).with_context(|| who)?;
        }
        Ok(())
    }

    /// Tells that it does not shut down any more.
    ///
    /// # Errors
    /// The bus is away.
    pub fn cancel(&self) -> Result<()> {
        self.tell(false)
    }

    fn tell(&self, start: bool) -> Result<()> {
        lock(&self.state).shuts_down = start;
        Ok(self.bus.emit_signal(None::<&str>, PATH, MANAGER, "PrepareForShutdown", &start)?)
    }
}
