//! Whether this node shuts down, as systemd-logind says (org.freedesktop.login1(5)). A kubelet with `shutdownGracePeriod` ends its pods
//! while logind waits for it.

use std::time::Duration;

use tokio::time::timeout;
use zbus::{Connection, Result, proxy};

/// For the bus and logind, both of this node, to answer.
const PATIENCE: Duration = Duration::from_secs(1);

#[proxy(
    interface = "org.freedesktop.login1.Manager",
    default_service = "org.freedesktop.login1",
    default_path = "/org/freedesktop/login1",
    gen_blocking = false
)]
trait Manager {
    /// From the decision to shut down until logind lets it happen.
    #[zbus(property(emits_changed_signal = "false"))]
    fn preparing_for_shutdown(&self) -> Result<bool>;
}

/// # Errors
/// Why logind cannot be asked; on nodes without systemd there is none.
pub(crate) async fn shuts_down() -> std::result::Result<bool, String> {
    let asked = async {
        let bus = Connection::system().await?;
        ManagerProxy::new(&bus).await?.preparing_for_shutdown().await
    };
    match timeout(PATIENCE, asked).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {PATIENCE:?}")),
    }
}
