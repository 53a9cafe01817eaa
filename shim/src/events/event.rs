//! The events of a task, as containerd's own shims send them.

use std::time::SystemTime;

use containerd_shim_protos::events::task::{
    TaskCheckpointed, TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskIO,
    TaskOOM, TaskPaused, TaskResumed, TaskStart,
};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;
use containerd_shim_protos::protobuf::{MessageField, MessageFull};
use containerd_shim_protos::topics;

use crate::io::Stdio;
use crate::mounts::Mount;
use crate::reaper::Exit;

/// One event, encoded.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its topic.
    pub topic: &'static str,
    /// Its message.
    pub message: Any,
    /// When it happened.
    pub at: SystemTime,
}

/// What a TaskCreate event tells.
#[derive(Debug, Clone, Default)]
pub struct Created<'a> {
    /// The container.
    pub container: &'a str,
    /// Its bundle.
    pub bundle: String,
    /// Its root file system.
    pub rootfs: Vec<Mount>,
    /// Its streams.
    pub stdio: Stdio,
    /// Directory of CRIU images, if it is restored by the task API.
    pub images: String,
    /// Pid of its init; 0 while there is none.
    pub pid: u32,
}

impl Event {
    /// A container was created.
    #[must_use]
    pub fn created(what: Created<'_>) -> Self {
        let io = TaskIO {
            stdin: what.stdio.stdin,
            stdout: what.stdio.stdout,
            stderr: what.stdio.stderr,
            terminal: what.stdio.terminal,
            ..Default::default()
        };
        let mut message = TaskCreate {
            container_id: what.container.into(),
            bundle: what.bundle,
            io: MessageField::some(io),
            checkpoint: what.images,
            pid: what.pid,
            ..Default::default()
        };
        // The generated code has the type of these twice; the one needed here has no public name.
        message.rootfs.resize_with(what.rootfs.len(), Default::default);
        for (told, mount) in message.rootfs.iter_mut().zip(what.rootfs) {
            told.type_ = mount.kind;
            told.source = mount.source;
            told.target = mount.target;
            told.options = mount.options;
        }
        Self::new(topics::TASK_CREATE_EVENT_TOPIC, &message)
    }

    /// The init process was started.
    #[must_use]
    pub fn started(container: &str, pid: u32) -> Self {
        let message = TaskStart { container_id: container.into(), pid, ..Default::default() };
        Self::new(topics::TASK_START_EVENT_TOPIC, &message)
    }

    /// A process ended; `process` is the exec id, or the container's id for its init.
    #[must_use]
    pub fn exited(container: &str, process: &str, pid: u32, exit: Exit) -> Self {
        let message = TaskExit {
            container_id: container.into(),
            id: process.into(),
            pid,
            exit_status: exit.status,
            exited_at: MessageField::some(timestamp(exit.at)),
            ..Default::default()
        };
        Self::new(topics::TASK_EXIT_EVENT_TOPIC, &message)
    }

    /// A container was deleted.
    #[must_use]
    pub fn deleted(container: &str, pid: u32, exit: Exit) -> Self {
        let message = TaskDelete {
            container_id: container.into(),
            pid,
            exit_status: exit.status,
            exited_at: MessageField::some(timestamp(exit.at)),
            ..Default::default()
        };
        Self::new(topics::TASK_DELETE_EVENT_TOPIC, &message)
    }

    /// A process to execute became known.
    #[must_use]
    pub fn exec_added(container: &str, exec: &str) -> Self {
        let message = TaskExecAdded {
            container_id: container.into(),
            exec_id: exec.into(),
            ..Default::default()
        };
        Self::new(topics::TASK_EXEC_ADDED_EVENT_TOPIC, &message)
    }

    /// An executed process was started.
    #[must_use]
    pub fn exec_started(container: &str, exec: &str, pid: u32) -> Self {
        let message = TaskExecStarted {
            container_id: container.into(),
            exec_id: exec.into(),
            pid,
            ..Default::default()
        };
        Self::new(topics::TASK_EXEC_STARTED_EVENT_TOPIC, &message)
    }

    /// A container was paused.
    #[must_use]
    pub fn paused(container: &str) -> Self {
        let message = TaskPaused { container_id: container.into(), ..Default::default() };
        Self::new(topics::TASK_PAUSED_EVENT_TOPIC, &message)
    }

    /// A container was resumed.
    #[must_use]
    pub fn resumed(container: &str) -> Self {
        let message = TaskResumed { container_id: container.into(), ..Default::default() };
        Self::new(topics::TASK_RESUMED_EVENT_TOPIC, &message)
    }

    /// The kernel killed a process for want of memory.
    #[must_use]
    pub fn oom(container: &str) -> Self {
        let message = TaskOOM { container_id: container.into(), ..Default::default() };
        Self::new(topics::TASK_OOM_EVENT_TOPIC, &message)
    }

    /// CRIU images were written.
    #[must_use]
    pub fn checkpointed(container: &str, images: &str) -> Self {
        let message = TaskCheckpointed {
            container_id: container.into(),
            checkpoint: images.into(),
            ..Default::default()
        };
        Self::new(topics::TASK_CHECKPOINTED_EVENT_TOPIC, &message)
    }

    fn new<M: MessageFull>(topic: &'static str, message: &M) -> Self {
        Self { topic, message: pack(message), at: SystemTime::now() }
    }
}

/// A message in an Any with the bare name of its type, as containerd's typeurl writes it.
#[must_use]
pub fn pack<M: MessageFull>(message: &M) -> Any {
    Any {
        type_url: M::descriptor().full_name().to_owned(),
        // Encoding fails only for missing required fields, which proto3 does not have.
        value: message.write_to_bytes().unwrap_or_default(),
        ..Default::default()
    }
}

/// A point in time as protobuf has it.
#[must_use]
pub fn timestamp(at: SystemTime) -> Timestamp {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: since.subsec_nanos().cast_signed(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use containerd_shim_protos::protobuf::Message;

    use super::*;

    #[test]
    fn an_exit_carries_the_bare_name_of_its_type_and_its_time() {
        let at = SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(1500);
        let event = Event::exited("c", "e", 7, Exit { status: 137, at });
        assert_eq!(event.message.type_url, "containerd.events.TaskExit");
        let exit = TaskExit::parse_from_bytes(&event.message.value).unwrap();
        assert_eq!((exit.pid, exit.exit_status, exit.exited_at.nanos), (7, 137, 500_000_000));
    }
}
