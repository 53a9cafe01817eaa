//! One client's connection: its preface, its calls, its end.

use std::sync::Arc;

use bytes::Bytes;
use h2::server::{Builder, Connection};
use tokio::net::UnixStream;
use tokio_util::task::TaskTracker;

use crate::authority::Named;
use crate::call::{self, Calls};
use crate::containerd::{Containerd, Link};
use crate::limits::{
    CONNECTION_WINDOW, MAX_HEADERS, MAX_RESETS, MAX_STREAMS, PREFACE, SEND_BUFFER, SMALL_FRAMES,
    STREAM_WINDOW,
};

/// Serves until the client leaves, or, when draining, its last call has ended. Whatever it sends, only its own connection ends by
/// it.
pub(crate) async fn serve(
    stream: UnixStream,
    containerd: Arc<Containerd>,
    calls: Arc<Calls>,
    tasks: TaskTracker,
) {
    let mut connection =
        match tokio::time::timeout(PREFACE, builder().handshake(Named::new(stream))).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => {
                return tracing::debug!(error = %error, "a client that does not speak HTTP/2");
            }
            Err(_) => return tracing::debug!("a client that says nothing"),
        };
    let link = Arc::new(Link::new(containerd));
    let mut leaving = false;
    loop {
        tokio::select! {
            biased;
            () = calls.drain.leaving(), if !leaving => {
                leaving = true;
                // Tells the client to make new calls elsewhere; those that are on their way are still served.
                connection.graceful_shutdown();
            }
            more = accept(&mut connection, &link, &calls, &tasks) => {
                if !more {
                    break;
                }
            }
        }
    }
}

/// Takes a call; false at the end of the connection.
async fn accept(
    connection: &mut Connection<Named<UnixStream>, Bytes>,
    link: &Arc<Link>,
    calls: &Arc<Calls>,
    tasks: &TaskTracker,
) -> bool {
    match connection.accept().await {
        Some(Ok((request, respond))) => {
            tasks.spawn(call::serve(Arc::clone(calls), Arc::clone(link), request, respond));
            true
        }
        Some(Err(error)) => {
            tracing::debug!(error = %error, "a client's connection ended");
            false
        }
        None => false,
    }
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .data_frame_budget(SMALL_FRAMES)
        .max_concurrent_streams(MAX_STREAMS)
        .max_send_buffer_size(SEND_BUFFER)
        .max_header_list_size(MAX_HEADERS)
        .max_concurrent_reset_streams(MAX_RESETS)
        .max_pending_accept_reset_streams(MAX_RESETS);
    builder
}
