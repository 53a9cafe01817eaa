//! An API server for unit tests: one pod in memory, of which a version is written only over the one before, and faults to begin with.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use http::{Method, Request, Response};
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

use super::Api;

/// What it knows.
#[derive(Debug)]
pub(super) struct Server {
    /// The pod; `None` when it is gone.
    pub(super) pod: Option<Value>,
    /// Patches that came, refused ones, too.
    pub(super) patches: Vec<Value>,
    /// Statuses of the next answers to patches, before any succeeds.
    pub(super) faults: VecDeque<u16>,
    /// So many requests are never answered, before any is.
    pub(super) silent: u32,
    /// Done once, as somebody else would, before the next patch is looked at.
    pub(super) meanwhile: Option<fn(&mut Value)>,
}

/// An agent's view of it.
pub(super) fn server(pod: &Value) -> (Api, Arc<Mutex<Server>>) {
    let server = Server {
        pod: Some(pod.clone()),
        patches: vec![],
        faults: VecDeque::new(),
        silent: 0,
        meanwhile: None,
    };
    let server = Arc::new(Mutex::new(server));
    let serving = Arc::clone(&server);
    let service = tower::service_fn(move |request: Request<Body>| {
        let server = Arc::clone(&serving);
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect_bytes().await?;
            let is_silent = {
                let mut server = lock(&server);
                let is_silent = server.silent > 0;
                server.silent = server.silent.saturating_sub(1);
                is_silent
            };
            if is_silent {
                std::future::pending::<()>().await;
            }
            let (status, answer) = lock(&server).answer(&head.method, &body);
            let answer = Response::builder()
                .status(status)
                .body(Body::from(answer.to_string().into_bytes()));
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(answer?)
        }
    });
    (Api::new(Client::new(service, "default"), "n1".to_owned()), server)
}

pub(super) fn lock(server: &Mutex<Server>) -> MutexGuard<'_, Server> {
    server.lock().unwrap()
}

/// A pod with these annotations, of which a container runs.
pub(super) fn pod(annotations: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "web", "namespace": "default", "uid": "u1", "resourceVersion": "1",
            "annotations": annotations,
        },
        "status": {"containerStatuses": [{
            "name": "main", "image": "i", "imageID": "i", "ready": true, "restartCount": 0,
            "containerID": "containerd://c1", "state": {"running": {}},
        }]},
    })
}

/// As an agent has it.
pub(super) fn read(pod: &Value) -> Pod {
    serde_json::from_value(pod.clone()).unwrap()
}

impl Server {
    /// The value of an annotation of the pod now.
    pub(super) fn annotation(&self, name: &str) -> Value {
        self.pod.as_ref().map_or(Value::Null, |pod| pod["metadata"]["annotations"][name].clone())
    }

    fn answer(&mut self, method: &Method, body: &[u8]) -> (u16, Value) {
        if method == Method::PATCH {
            self.patches.push(serde_json::from_slice(body).unwrap());
            if let Some(code) = self.faults.pop_front() {
                return failed(code);
            }
            if let (Some(act), Some(pod)) = (self.meanwhile.take(), &mut self.pod) {
                act(pod);
                renew(pod);
            }
        }
        let Some(pod) = &mut self.pod else { return failed(404) };
        if method == Method::PATCH {
            let patch = &self.patches[self.patches.len() - 1]["metadata"];
            let version = &patch["resourceVersion"];
            if !version.is_null() && *version != pod["metadata"]["resourceVersion"] {
                return failed(409);
            }
            for (name, value) in patch["annotations"].as_object().into_iter().flatten() {
                let all = pod["metadata"]["annotations"].as_object_mut().unwrap();
                match value {
                    Value::Null => drop(all.remove(name)),
                    value => drop(all.insert(name.clone(), value.clone())),
                }
            }
            renew(pod);
        }
        (200, pod.clone())
    }
}

fn renew(pod: &mut Value) {
    let version = &mut pod["metadata"]["resourceVersion"];
    let next = version.as_str().unwrap().parse::<u64>().unwrap() + 1;
    *version = json!(next.to_string());
}

fn failed(code: u16) -> (u16, Value) {
    let reason = if code == 404 {
        "NotFound"
    } else if code == 409 {
        "Conflict"
    } else {
        "Other"
    };
    let status = json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure",
        "reason": reason, "message": "no", "code": code,
    });
    (code, status)
}
