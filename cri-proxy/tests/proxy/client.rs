//! A gRPC client on a socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};
use tower::service_fn;

use crate::raw::Raw;
use crate::runtime::LIMIT;

/// For everything that does not take its time by design.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// Of one stream: as gRPC's libraries have it at first.
const WINDOW: u32 = 64 << 10;

#[derive(Clone)]
pub(crate) struct Client(Grpc<Channel>);

/// The path of a method of the service that nobody but the tests knows.
pub(crate) fn invented(method: &str) -> PathAndQuery {
    format!("/test.v9.Invented/{method}").parse().unwrap()
}

impl Client {
    /// Connects with the first call, and anew when the connection ends.
    pub(crate) fn of(socket: &Path) -> Self {
        let socket: PathBuf = socket.to_owned();
        // Its own connection's window must be that of many streams which are not read.
        let endpoint = Endpoint::from_static("http://localhost")
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(1000 * WINDOW);
        let channel = endpoint.connect_with_connector_lazy(service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        }));
        let grpc = Grpc::new(channel);
        Self(grpc.max_decoding_message_size(LIMIT).max_encoding_message_size(LIMIT))
    }

    async fn ready(&self) -> Grpc<Channel> {
        let mut grpc = self.0.clone();
        grpc.ready().await.unwrap();
        grpc
    }

    pub(crate) async fn unary(
        &self,
        method: &str,
        message: impl Into<Bytes>,
    ) -> Result<Bytes, Status> {
        self.at(invented(method), Request::new(message.into())).await
    }

    pub(crate) async fn at(
        &self,
        path: PathAndQuery,
        request: Request<Bytes>,
    ) -> Result<Bytes, Status> {
        let called = async { self.ready().await.unary(request, path, Raw).await };
        tokio::time::timeout(SOON, called).await.unwrap().map(tonic::Response::into_inner)
    }

    pub(crate) async fn up(&self, messages: Vec<Bytes>) -> Result<Bytes, Status> {
        let mut grpc = self.ready().await;
        let request = Request::new(futures::stream::iter(messages));
        let answer = grpc.client_streaming(request, invented("Up"), Raw).await;
        answer.map(tonic::Response::into_inner)
    }

    pub(crate) async fn down(
        &self,
        method: &str,
        message: impl Into<Bytes>,
    ) -> Result<Streaming<Bytes>, Status> {
        let mut grpc = self.ready().await;
        let request = Request::new(message.into());
        let answer = grpc.server_streaming(request, invented(method), Raw).await;
        answer.map(tonic::Response::into_inner)
    }

    pub(crate) async fn both(
        &self,
        messages: impl futures::Stream<Item = Bytes> + Send + 'static,
    ) -> Result<Streaming<Bytes>, Status> {
        let mut grpc = self.ready().await;
        let answer = grpc.streaming(Request::new(messages), invented("Both"), Raw).await;
        answer.map(tonic::Response::into_inner)
    }
}
