//! Delivery of events to containerd over ttrpc.

use std::time::Duration;

use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim::events::ForwardRequest;
use containerd_shim_protos::shim_async::{Client, EventsClient};
use containerd_shim_protos::ttrpc;
use containerd_shim_protos::ttrpc::context;
use containerd_shim_protos::ttrpc::proto::Code;
use tracing::{debug, warn};

use super::event::timestamp;
use super::{Event, Events};

/// How long containerd may take to acknowledge one event.
const ACKNOWLEDGE: Duration = Duration::from_secs(10);
/// First and longest pause between two attempts.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Where and as whom events are delivered.
#[derive(Debug, Clone)]
pub struct Address {
    /// Path of containerd's ttrpc socket.
    pub socket: String,
    /// containerd's namespace.
    pub namespace: String,
}

enum Failure {
    /// Try again: containerd is away or busy.
    Away(String),
    /// containerd does not want it; it will not want it later either.
    Refused(String),
}

/// Delivers events in their order, for ever; waits for containerd as long as it is away.
pub async fn run(events: Events, address: Address) {
    let mut client = None;
    let mut pause = PAUSES.0;
    loop {
        let event = events.first().await;
        match send(&mut client, &address, &event).await {
            Ok(()) => {
                events.acknowledge(&event);
                pause = PAUSES.0;
            }
            Err(Failure::Refused(why)) => {
                warn!(topic = event.topic, why, "containerd refuses an event");
                events.acknowledge(&event);
            }
            Err(Failure::Away(why)) => {
                debug!(topic = event.topic, why, "containerd does not take events now");
                client = None;
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSES.1);
            }
        }
    }
}

async fn send(
    client: &mut Option<EventsClient>,
    address: &Address,
    event: &Event,
) -> Result<(), Failure> {
    let attempt = async {
        let connected = match client {
            Some(connected) => connected,
            None => client.insert(connect(&address.socket).await?),
        };
        let request = ForwardRequest {
            envelope: MessageField::some(envelope(event, &address.namespace)),
            ..Default::default()
        };
        connected.forward(context::with_duration(ACKNOWLEDGE), &request).await.map_err(failure)
    };
    match tokio::time::timeout(ACKNOWLEDGE, attempt).await {
        Ok(answer) => answer.map(|_| ()),
        Err(_) => Err(Failure::Away("no answer".into())),
    }
}

async fn connect(socket: &str) -> Result<EventsClient, Failure> {
    let path = socket.strip_prefix("unix://").unwrap_or(socket);
    let client = Client::connect(&format!("unix://{path}")).await;
    client.map(EventsClient::new).map_err(|why| Failure::Away(why.to_string()))
}

fn envelope(event: &Event, namespace: &str) -> Envelope {
    Envelope {
        timestamp: MessageField::some(timestamp(event.at)),
        namespace: namespace.to_owned(),
        topic: event.topic.to_owned(),
        event: MessageField::some(event.message.clone()),
        ..Default::default()
    }
}

fn failure(error: ttrpc::Error) -> Failure {
    let later =
        [Code::UNAVAILABLE, Code::DEADLINE_EXCEEDED, Code::CANCELLED, Code::RESOURCE_EXHAUSTED];
    match &error {
        ttrpc::Error::RpcStatus(status) if !later.contains(&status.code()) => {
            Failure::Refused(status.message().to_owned())
        }
        _ => Failure::Away(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use async_trait::async_trait;
    use containerd_shim_protos::api::Empty;
    use containerd_shim_protos::shim_async::create_events;
    use containerd_shim_protos::ttrpc::r#async::{Server, TtrpcContext};
    use tokio::sync::mpsc;

    use super::*;

    struct Containerd(mpsc::UnboundedSender<String>);

    #[async_trait]
    impl containerd_shim_protos::shim_async::Events for Containerd {
        async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
            self.0.send(request.envelope.topic.clone()).unwrap();
            Ok(Empty::default())
        }
    }

    async fn serve(socket: &str, topics: mpsc::UnboundedSender<String>) -> Server {
        let _ = std::fs::remove_file(socket.trim_start_matches("unix://"));
        let service = create_events(Arc::new(Containerd(topics)));
        let mut server = Server::new().bind(socket).unwrap().register_service(service);
        server.start().await.unwrap();
        server
    }

    #[tokio::test]
    async fn events_of_a_time_without_containerd_arrive_in_order_when_it_is_back() {
        let dir = tempfile::tempdir().unwrap();
        let socket = format!("unix://{}", dir.path().join("c.ttrpc").display());
        let (sender, mut topics) = mpsc::unbounded_channel();
        let mut server = serve(&socket, sender.clone()).await;
        let events = Events::new();
        let address = Address { socket: socket.clone(), namespace: "n".into() };
        let delivery = tokio::spawn(run(events.clone(), address));
        events.publish(Event::paused("a"));
        assert_eq!(topics.recv().await.unwrap(), "/tasks/paused");
        server.shutdown().await.unwrap();
        events.publish(Event::resumed("a"));
        events.publish(Event::oom("a"));
        let _server = serve(&socket, sender).await;
        assert_eq!(topics.recv().await.unwrap(), "/tasks/resumed");
        assert_eq!(topics.recv().await.unwrap(), "/tasks/oom");
        events.delivered().await;
        delivery.abort();
    }
}
