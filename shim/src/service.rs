//! containerd's task service: converts messages, calls the pod, maps errors. Nothing is decided here.

mod convert;

use std::sync::Arc;

use async_trait::async_trait;
use containerd_shim_protos::api::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
    CreateTaskResponse, DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest,
    PauseRequest, PidsRequest, PidsResponse, ResizePtyRequest, ResumeRequest, ShutdownRequest,
    StartRequest, StartResponse, StateRequest, StateResponse, StatsRequest, StatsResponse,
    UpdateTaskRequest, WaitRequest, WaitResponse,
};
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::shim_async::Task;
use containerd_shim_protos::ttrpc::Result as RpcResult;
use containerd_shim_protos::ttrpc::r#async::TtrpcContext;

use crate::events::event::timestamp;
use crate::pod::Pod;
use convert::status;

/// The service.
#[derive(Clone)]
pub struct Service {
    pod: Arc<Pod>,
}

impl Service {
    /// Serves a pod.
    #[must_use]
    pub fn new(pod: Arc<Pod>) -> Self {
        Self { pod }
    }
}

#[async_trait]
impl Task for Service {
    async fn create(
        &self,
        _: &TtrpcContext,
        request: CreateTaskRequest,
    ) -> RpcResult<CreateTaskResponse> {
        let request = convert::create(request).map_err(status)?;
        let pod = Arc::clone(&self.pod);
        let created = self.pod.run(async move { pod.create(request).await }).await;
        let pid = created.map_err(status)?;
        Ok(CreateTaskResponse { pid, ..Default::default() })
    }

    async fn start(&self, _: &TtrpcContext, request: StartRequest) -> RpcResult<StartResponse> {
        let pod = Arc::clone(&self.pod);
        let start = async move {
            if request.exec_id.is_empty() {
                pod.start(&request.id).await
            } else {
                pod.start_exec(&request.id, &request.exec_id).await
            }
        };
        let pid = self.pod.run(start).await.map_err(status)?;
        Ok(StartResponse { pid, ..Default::default() })
    }

    async fn delete(&self, _: &TtrpcContext, request: DeleteRequest) -> RpcResult<DeleteResponse> {
        let pod = Arc::clone(&self.pod);
        let delete = async move { pod.delete(&request.id, &request.exec_id).await };
        let deleted = self.pod.run(delete).await.map_err(status)?;
        Ok(convert::deleted(deleted))
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecProcessRequest) -> RpcResult<Empty> {
        self.pod.exec(convert::exec(request)).map_err(status)?;
        Ok(Empty::default())
    }

    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> RpcResult<Empty> {
        let pod = Arc::clone(&self.pod);
        let kill = async move {
            pod.kill(&request.id, &request.exec_id, request.signal, request.all).await
        };
        self.pod.run(kill).await.map_err(status)?;
        Ok(Empty::default())
    }

    async fn pause(&self, _: &TtrpcContext, request: PauseRequest) -> RpcResult<Empty> {
        let pod = Arc::clone(&self.pod);
        self.pod.run(async move { pod.pause(&request.id).await }).await.map_err(status)?;
        Ok(Empty::default())
    }

    async fn resume(&self, _: &TtrpcContext, request: ResumeRequest) -> RpcResult<Empty> {
        let pod = Arc::clone(&self.pod);
        self.pod.run(async move { pod.resume(&request.id).await }).await.map_err(status)?;
        Ok(Empty::default())
    }

    async fn update(&self, _: &TtrpcContext, request: UpdateTaskRequest) -> RpcResult<Empty> {
        let pod = Arc::clone(&self.pod);
        let resources = request.resources.unwrap_or_default().value;
        let update = async move { pod.update(&request.id, &resources).await };
        self.pod.run(update).await.map_err(status)?;
        Ok(Empty::default())
    }

    async fn checkpoint(
        &self,
        _: &TtrpcContext,
        request: CheckpointTaskRequest,
    ) -> RpcResult<Empty> {
        let pod = Arc::clone(&self.pod);
        let (id, what) = convert::checkpoint(request).map_err(status)?;
        self.pod.run(async move { pod.checkpoint(&id, what).await }).await.map_err(status)?;
        Ok(Empty::default())
    }

    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> RpcResult<StateResponse> {
        let state = self.pod.process_state(&request.id, &request.exec_id).map_err(status)?;
        Ok(convert::state(state, request.exec_id))
    }

    async fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> RpcResult<PidsResponse> {
        let listed = self.pod.pids(&request.id).map_err(status)?;
        let processes = listed.into_iter().map(convert::listed).collect();
        Ok(PidsResponse { processes, ..Default::default() })
    }

    async fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> RpcResult<StatsResponse> {
        let stats = self.pod.stats(&request.id).map_err(status)?;
        Ok(StatsResponse { stats: MessageField::some(stats), ..Default::default() })
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> RpcResult<WaitResponse> {
        let exit = self.pod.wait(&request.id, &request.exec_id).await.map_err(status)?;
        Ok(WaitResponse {
            exit_status: exit.status,
            exited_at: MessageField::some(timestamp(exit.at)),
            ..Default::default()
        })
    }

    async fn resize_pty(&self, _: &TtrpcContext, request: ResizePtyRequest) -> RpcResult<Empty> {
        let cells = |size: u32| u16::try_from(size).unwrap_or(u16::MAX);
        let (columns, rows) = (cells(request.width), cells(request.height));
        self.pod.resize(&request.id, &request.exec_id, columns, rows).map_err(status)?;
        Ok(Empty::default())
    }

    async fn close_io(&self, _: &TtrpcContext, request: CloseIORequest) -> RpcResult<Empty> {
        if request.stdin {
            self.pod.close_stdin(&request.id, &request.exec_id).map_err(status)?;
        }
        Ok(Empty::default())
    }

    async fn connect(
        &self,
        _: &TtrpcContext,
        request: ConnectRequest,
    ) -> RpcResult<ConnectResponse> {
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: self.pod.task_pid(&request.id),
            version: env!("CARGO_PKG_VERSION").into(),
            ..Default::default()
        })
    }

    async fn shutdown(&self, _: &TtrpcContext, _: ShutdownRequest) -> RpcResult<Empty> {
        self.pod.end_when_empty();
        Ok(Empty::default())
    }
}
