//! Being the shim: the task service on the inherited socket until the last container is gone.

use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use containerd_shim_protos::shim_async::create_task;
use containerd_shim_protos::ttrpc::r#async::Server;
use containerd_shim_protos::ttrpc::r#async::transport::Listener;
use rustix::process::set_child_subreaper;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

use super::{Arguments, log};
use crate::error::{Error, Result};
use crate::events::Events;
use crate::events::deliver::{self, Address};
use crate::hooks::Hooks;
use crate::op::{Operations, Places};
use crate::pod::{Pod, PodIdentity};
use crate::reaper::Reaper;
use crate::service::Service;
use crate::spec::Spec;

/// Environment: containerd's ttrpc socket, for events.
pub const TTRPC_ADDRESS: &str = "TTRPC_ADDRESS";
/// Environment: the bundle of the container for which the shim was started.
pub const BUNDLE: &str = "GODWIT_SHIM_BUNDLE";

/// How long the end may take: last events, answers under way.
const LAST_EVENTS: Duration = Duration::from_secs(5);
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// Serves until containerd says that nothing is left to serve.
///
/// # Errors
/// The shim cannot begin.
pub fn run(arguments: &Arguments) -> Result<()> {
    let listener = inherited_socket()?;
    set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(Error::io("become the parent of orphans"))?;
    let bundle = std::env::var_os(BUNDLE).map(PathBuf::from).unwrap_or(arguments.bundle()?);
    log::to_fifo(&bundle, arguments.debug);
    let spec = Spec::read(&bundle)?;
    // The bundle will be removed while other containers of the pod live.
    std::env::set_current_dir("/").map_err(Error::io("leave the bundle"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::io("start the event loop"))?;
    let served = runtime.block_on(serve(arguments, &spec, listener));
    // Threads that wait for a FIFO's reader are not waited for.
    runtime.shutdown_background();
    served
}

async fn serve(arguments: &Arguments, spec: &Spec, listener: UnixListener) -> Result<()> {
    let socket = listener.local_addr().ok().and_then(|at| at.as_pathname().map(Path::to_owned));
    let reaper = Reaper::new();
    let reaping = tokio::spawn(reaper.clone().run());
    let events = Events::new();
    let address = Address {
        socket: std::env::var(TTRPC_ADDRESS).unwrap_or_default(),
        namespace: arguments.namespace.clone(),
    };
    let delivery = tokio::spawn(deliver::run(events.clone(), address));
    let identity = PodIdentity::of(spec, &arguments.namespace, &arguments.id);
    let pod = Pod::new(identity, reaper, events, hooks());
    let mut server = server(listener, &pod)?;
    server.start().await.map_err(|why| Error::Unavailable(format!("serve tasks: {why}")))?;
    info!(group = pod.group(), pid = std::process::id(), "shim serves");
    until_finished(&pod).await;
    if let Some(path) = socket {
        // Before the last answers: nobody shall find a shim that is about to go.
        let _ = std::fs::remove_file(path);
    }
    finish(&pod, server).await;
    delivery.abort();
    reaping.abort();
    Ok(())
}

/// What operations plug in.
fn hooks() -> Arc<dyn Hooks> {
    Arc::new(Operations::new(Places::default()))
}

fn server(listener: UnixListener, pod: &Arc<Pod>) -> Result<Server> {
    let listener = Listener::try_from(listener).map_err(Error::io("listen for containerd"))?;
    let service = create_task(Arc::new(Service::new(Arc::clone(pod))));
    Ok(Server::new().add_listener(listener).register_service(service))
}

/// A signal ends a shim without containers. One with containers stays: they would be killed in its place.
async fn until_finished(pod: &Pod) {
    let (Ok(mut term), Ok(mut int)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        error!("signals cannot be watched");
        return pod.finished().cancelled().await;
    };
    loop {
        tokio::select! {
            () = pod.finished().cancelled() => return,
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        if !pod.shutdown() {
            warn!("a signal to end is ignored: containers live");
        }
    }
}

async fn finish(pod: &Arc<Pod>, mut server: Server) {
    if tokio::time::timeout(LAST_EVENTS, pod.events().delivered()).await.is_err() {
        warn!("containerd did not take the last events");
    }
    pod.hooks().shutdown(pod).await;
    pod.tasks().close();
    let ended = async {
        let _ = server.shutdown().await;
        pod.tasks().wait().await;
    };
    if tokio::time::timeout(LAST_ANSWERS, ended).await.is_err() {
        info!("requests were still under way at the end");
    }
}

/// The socket that `start` has bound, as stdin; afterwards stdin is nothing.
fn inherited_socket() -> Result<UnixListener> {
    let attempt = || Error::io("take over the socket that `start` has bound");
    let socket = std::io::stdin().as_fd().try_clone_to_owned().map_err(attempt())?;
    let null = std::fs::File::open("/dev/null").map_err(attempt())?;
    rustix::stdio::dup2_stdin(&null).map_err(Error::io("close stdin"))?;
    let listener = UnixListener::from(socket);
    // Says so if it is none.
    listener.local_addr().map_err(attempt())?;
    listener.set_nonblocking(true).map_err(attempt())?;
    Ok(listener)
}
