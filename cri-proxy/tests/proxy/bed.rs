//! A proxy in this process, between a client and a runtime.

use std::path::PathBuf;
use std::sync::Arc;

use godwit_cri_proxy::intercept::Intercept;
use godwit_cri_proxy::server::{self, Options, Order};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::client::Client;
use crate::runtime::Runtime;

pub(crate) struct Bed {
    dir: tempfile::TempDir,
    pub(crate) orders: mpsc::Sender<Order>,
    pub(crate) served: JoinHandle<Order>,
}

impl Bed {
    /// A proxy whose containerd is not there yet.
    pub(crate) fn without_runtime(intercept: Option<Arc<dyn Intercept>>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("cri.sock")).unwrap();
        let options = Options { containerd: dir.path().join("containerd.sock"), intercept };
        let (orders, ordered) = mpsc::channel(4);
        let served = tokio::spawn(server::serve(listener, options, ordered));
        Self { dir, orders, served }
    }

    /// A proxy and a runtime.
    pub(crate) fn up() -> (Self, Runtime) {
        let bed = Self::without_runtime(None);
        let runtime = bed.runtime();
        (bed, runtime)
    }

    /// A proxy with somebody who looks into calls, and a runtime.
    pub(crate) fn watched(intercept: Arc<dyn Intercept>) -> (Self, Runtime) {
        let bed = Self::without_runtime(Some(intercept));
        let runtime = bed.runtime();
        (bed, runtime)
    }

    /// Starts the runtime, or a new one.
    pub(crate) fn runtime(&self) -> Runtime {
        Runtime::serve(&self.containerd())
    }

    pub(crate) fn containerd(&self) -> PathBuf {
        self.dir.path().join("containerd.sock")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("cri.sock")
    }

    pub(crate) fn client(&self) -> Client {
        Client::of(&self.socket())
    }
}
