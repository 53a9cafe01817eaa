//! A stand-in for containerd: a gRPC server with methods of every kind, under two names.

use std::convert::Infallible;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::thread::JoinHandle;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt as _, Stream, StreamExt as _};
use tokio::net::UnixListener;
use tokio::sync::{Barrier, Notify, oneshot, watch};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};
use tower::{Service, service_fn};

use crate::raw::Raw;

/// Large enough for every test.
pub(crate) const LIMIT: usize = 80 << 20;

type Answers = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

/// What the server has seen, and what it waits for.
#[derive(Debug)]
pub(crate) struct Seen {
    /// Requests of unary methods, as they came.
    pub(crate) requests: Mutex<Vec<Bytes>>,
    /// Messages of endless streams that were asked for.
    pub(crate) written: AtomicUsize,
    /// Calls of `Hang` and `Trickle` that are there.
    pub(crate) hanging: watch::Sender<usize>,
    /// Lets a `Trickle` say one more word.
    pub(crate) drop: Notify,
    /// `Together` answers when so many are there.
    pub(crate) together: Barrier,
}

impl Seen {
    /// Until so many calls hang.
    pub(crate) async fn hanging(&self, count: usize) {
        self.hanging.subscribe().wait_for(|hanging| *hanging == count).await.unwrap();
    }
}

/// How many calls `Together` waits for.
pub(crate) const TOGETHER: usize = 200;

/// A call that is there.
struct Hanging(Arc<Seen>);

impl Hanging {
    fn new(seen: &Arc<Seen>) -> Self {
        seen.hanging.send_modify(|hanging| *hanging += 1);
        Self(Arc::clone(seen))
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        self.0.hanging.send_modify(|hanging| *hanging -= 1);
    }
}

/// The server, on a thread of its own. Dropped, it is gone with all its connections, like a process that was killed.
pub(crate) struct Runtime {
    pub(crate) seen: Arc<Seen>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Runtime {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Runtime {
    /// Serves on a socket of this name, which is made anew.
    pub(crate) fn serve(socket: &Path) -> Self {
        let _ = std::fs::remove_file(socket);
        let listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        let seen = Arc::new(Seen {
            requests: Mutex::default(),
            written: AtomicUsize::new(0),
            hanging: watch::Sender::new(0),
            drop: Notify::new(),
            together: Barrier::new(TOGETHER),
        });
        let methods = Methods(Arc::clone(&seen));
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let listener = UnixListener::from_std(listener).unwrap();
                let server = Server::builder()
                    .add_service(Invented(methods.clone()))
                    .add_service(Cri(methods))
                    .serve_with_incoming(UnixListenerStream::new(listener));
                tokio::select! {
                    ended = server => ended.unwrap(),
                    _ = stopped => {}
                }
            });
        });
        Self { seen, stop: Some(stop), thread: Some(thread) }
    }
}

macro_rules! service {
    ($type:ident, $name:literal) => {
        #[derive(Clone)]
        struct $type(Methods);

        impl NamedService for $type {
            const NAME: &'static str = $name;
        }

        impl Service<http::Request<Body>> for $type {
            type Response = http::Response<Body>;
            type Error = Infallible;
            type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

            fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
                Poll::Ready(Ok(()))
            }

            fn call(&mut self, request: http::Request<Body>) -> Self::Future {
                let methods = self.0.clone();
                async move { Ok(methods.call(request).await) }.boxed()
            }
        }
    };
}

service!(Invented, "test.v9.Invented");
service!(Cri, "runtime.v1.RuntimeService");

#[derive(Clone)]
struct Methods(Arc<Seen>);

impl Methods {
    async fn call(self, request: http::Request<Body>) -> http::Response<Body> {
        let mut grpc =
            Grpc::new(Raw).max_decoding_message_size(LIMIT).max_encoding_message_size(LIMIT);
        let seen = self.0;
        let name = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        match name.as_str() {
            "Up" => grpc.client_streaming(service_fn(up), request).await,
            "Down" | "Endless" | "Trickle" => {
                let down = move |request: Request<Bytes>| down(name.clone(), seen.clone(), request);
                grpc.server_streaming(service_fn(down), request).await
            }
            "Both" => grpc.streaming(service_fn(both), request).await,
            _ => {
                let one = move |request: Request<Bytes>| unary(name.clone(), seen.clone(), request);
                grpc.unary(service_fn(one), request).await
            }
        }
    }
}

async fn unary(
    name: String,
    seen: Arc<Seen>,
    request: Request<Bytes>,
) -> Result<Response<Bytes>, Status> {
    let message = request.get_ref().clone();
    seen.requests.lock().unwrap().push(message.clone());
    match name.as_str() {
        "Hang" => {
            let _hanging = Hanging::new(&seen);
            futures::future::pending().await
        }
        "Together" => {
            seen.together.wait().await;
            Ok(Response::new(message))
        }
        "Fail" => {
            let mut status = Status::with_details(
                tonic::Code::ResourceExhausted,
                "100 % \u{fc}ber",
                Bytes::from_static(&[0, 255, 7]),
            );
            status.metadata_mut().insert("why", "because".parse().unwrap());
            Err(status)
        }
        "Missing" => Err(Status::unimplemented("there is no such method")),
        // Everything else says what it was told.
        _ => Ok(Response::new(message)),
    }
}

/// One message: all messages in one.
async fn up(request: Request<Streaming<Bytes>>) -> Result<Response<Bytes>, Status> {
    let mut all = Vec::new();
    let mut messages = request.into_inner();
    while let Some(message) = messages.message().await? {
        all.extend_from_slice(&message);
    }
    Ok(Response::new(Bytes::from(all)))
}

/// `Down`: each byte as a message. `Endless`: the message, for ever. `Trickle`: one for each permission.
async fn down(
    name: String,
    seen: Arc<Seen>,
    request: Request<Bytes>,
) -> Result<Response<Answers>, Status> {
    let message = request.into_inner();
    let answers: Answers = match name.as_str() {
        "Down" => {
            let bytes: Vec<Bytes> = (0..message.len()).map(|i| message.slice(i..=i)).collect();
            futures::stream::iter(bytes).map(Ok).boxed()
        }
        "Endless" => futures::stream::repeat_with(move || {
            seen.written.fetch_add(1, Ordering::Relaxed);
            Ok(message.clone())
        })
        .boxed(),
        _ => {
            let hanging = Hanging::new(&seen);
            futures::stream::unfold(hanging, move |hanging| {
                let message = message.clone();
                async move {
                    hanging.0.drop.notified().await;
                    Some((Ok(message), hanging))
                }
            })
            .boxed()
        }
    };
    Ok(Response::new(answers))
}

/// Each message at once.
async fn both(request: Request<Streaming<Bytes>>) -> Result<Response<Answers>, Status> {
    Ok(Response::new(request.into_inner().boxed()))
}
