//! Between containerd's messages and ours.

use std::path::PathBuf;

use containerd_shim_protos::api::{
    CheckpointTaskRequest, CreateTaskRequest, DeleteResponse, ExecProcessRequest, ProcessInfo,
    StateResponse, Status as TaskStatus,
};
use containerd_shim_protos::protobuf::{EnumOrUnknown, Message, MessageField};
use containerd_shim_protos::shim::oci::{CheckpointOptions, ProcessDetails};
use containerd_shim_protos::ttrpc::proto::Code as RpcCode;
use containerd_shim_protos::ttrpc::{Error as RpcError, get_status};
use godwit_types::Code;

use crate::error::{Error, Result};
use crate::events::event::{pack, timestamp};
use crate::io::Stdio;
use crate::mounts::Mount;
use crate::options::Options;
use crate::pod::{CreateRequest, Deleted, ExecRequest, Listed, ProcessState};
use crate::runc;
use crate::state::State;

/// Type name of the options of a checkpoint.
const CHECKPOINT_OPTIONS: &str = "containerd.runc.v1.CheckpointOptions";

pub(super) fn create(request: CreateTaskRequest) -> Result<CreateRequest> {
    if request.id.is_empty() || request.id.contains('/') {
        return Err(Error::Invalid(format!("{:?} is no id for a container", request.id)));
    }
    Ok(CreateRequest {
        id: request.id,
        bundle: PathBuf::from(request.bundle),
        rootfs: request.rootfs.into_iter().map(Mount::from).collect(),
        stdio: Stdio {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
        },
        images: request.checkpoint,
        options: Options::decode(request.options.as_ref())?,
    })
}

pub(super) fn exec(request: ExecProcessRequest) -> ExecRequest {
    ExecRequest {
        container: request.id,
        exec_id: request.exec_id,
        stdio: Stdio {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
        },
        document: request.spec.unwrap_or_default().value,
    }
}

pub(super) fn checkpoint(request: CheckpointTaskRequest) -> Result<(String, runc::Checkpoint)> {
    let any = request.options.unwrap_or_default();
    let known = any.type_url.is_empty() || any.type_url.ends_with(CHECKPOINT_OPTIONS);
    if !known {
        return Err(Error::Invalid(format!(
            "checkpoint options of type {} are not known; use {CHECKPOINT_OPTIONS}",
            any.type_url
        )));
    }
    let options = CheckpointOptions::parse_from_bytes(&any.value)
        .map_err(|why| Error::Invalid(format!("checkpoint options: {why}")))?;
    let what = runc::Checkpoint {
        images: PathBuf::from(request.path),
        work: PathBuf::from(options.work_path),
        leave_running: !options.exit,
        open_tcp: options.open_tcp,
        external_unix_sockets: options.external_unix_sockets,
        terminal: options.terminal,
        file_locks: options.file_locks,
        empty_namespaces: options.empty_namespaces,
        cgroups_mode: options.cgroups_mode,
    };
    Ok((request.id, what))
}

pub(super) fn state(state: ProcessState, exec_id: String) -> StateResponse {
    StateResponse {
        id: state.id,
        bundle: state.bundle,
        pid: state.pid,
        status: EnumOrUnknown::new(task_status(state.state)),
        stdin: state.stdio.stdin,
        stdout: state.stdio.stdout,
        stderr: state.stdio.stderr,
        terminal: state.stdio.terminal,
        exit_status: state.exit.map(|exit| exit.status).unwrap_or_default(),
        exited_at: state.exit.map(|exit| timestamp(exit.at)).into(),
        exec_id,
        ..Default::default()
    }
}

/// containerd knows six states. What an operation does to a container is not its business: a frozen one is running as
/// far as its clients are concerned, or the kubelet would act on the pause.
fn task_status(state: State) -> TaskStatus {
    match state {
        State::Creating | State::Created | State::Starting | State::Restoring => {
            TaskStatus::CREATED
        }
        State::Pausing => TaskStatus::PAUSING,
        State::Paused => TaskStatus::PAUSED,
        State::Stopped => TaskStatus::STOPPED,
        State::Running
        | State::Checkpointing
        | State::Frozen
        | State::Sealed
        | State::Moved
        | State::Hydrating => TaskStatus::RUNNING,
    }
}

pub(super) fn deleted(deleted: Deleted) -> DeleteResponse {
    DeleteResponse {
        pid: deleted.pid,
        exit_status: deleted.exit.map(|exit| exit.status).unwrap_or_default(),
        exited_at: deleted.exit.map(|exit| timestamp(exit.at)).into(),
        ..Default::default()
    }
}

pub(super) fn listed(listed: Listed) -> ProcessInfo {
    let details = |exec_id| pack(&ProcessDetails { exec_id, ..Default::default() });
    let info: MessageField<_> = listed.exec_id.map(details).into();
    ProcessInfo { pid: listed.pid, info, ..Default::default() }
}

/// The one place where an error becomes an answer.
pub(super) fn status(error: Error) -> RpcError {
    let code = match error.code() {
        Code::NotFound => RpcCode::NOT_FOUND,
        Code::AlreadyExists => RpcCode::ALREADY_EXISTS,
        Code::Precondition => RpcCode::FAILED_PRECONDITION,
        Code::Unavailable => RpcCode::UNAVAILABLE,
        Code::Corrupt => RpcCode::DATA_LOSS,
        Code::Refused => match error {
            Error::Invalid(_) => RpcCode::INVALID_ARGUMENT,
            _ => RpcCode::FAILED_PRECONDITION,
        },
        Code::Cancelled => RpcCode::CANCELLED,
        Code::Internal => RpcCode::UNKNOWN,
    };
    RpcError::RpcStatus(get_status(code, error.chain()))
}

#[cfg(test)]
mod tests {
    use containerd_shim_protos::protobuf::well_known_types::any::Any;

    use super::*;

    #[test]
    fn a_frozen_container_is_running_for_containerd() {
        for state in [State::Frozen, State::Sealed, State::Hydrating] {
            assert_eq!(task_status(state), TaskStatus::RUNNING);
        }
        assert_eq!(task_status(State::Restoring), TaskStatus::CREATED);
    }

    #[test]
    fn a_checkpoint_leaves_it_running_unless_it_is_told_to_exit() {
        let options = CheckpointOptions { exit: true, ..Default::default() };
        let mut request = CheckpointTaskRequest { id: "c".into(), ..Default::default() };
        assert!(checkpoint(request.clone()).unwrap().1.leave_running);
        request.options = MessageField::some(pack(&options));
        assert!(!checkpoint(request.clone()).unwrap().1.leave_running);
        request.options = MessageField::some(Any { type_url: "x".into(), ..Default::default() });
        assert!(checkpoint(request).is_err());
    }

    #[test]
    fn an_id_with_a_slash_is_refused() {
        let request = CreateTaskRequest { id: "a/b".into(), ..Default::default() };
        let code = create(request).unwrap_err().code();
        assert_eq!(code, Code::Refused);
    }
}
