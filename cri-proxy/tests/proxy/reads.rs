//! What is read of requests is what kubelet's own types say, whatever else is in them.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use godwit_cri_proxy::cri::{ExecSyncAnswer, Method, Request};
use k8s_cri::v1;
use proptest::prelude::*;
use prost::Message as _;

/// A field that no version of the CRI has: number 5000, bytes.
fn with_unknown(mut message: Vec<u8>, unknown: &[u8]) -> Bytes {
    prost::encoding::bytes::encode(5000, &unknown.to_vec(), &mut message);
    Bytes::from(message)
}

fn text() -> impl Strategy<Value = String> {
    prop::string::string_regex("[a-z0-9/._-]{0,12}|\u{fc}{1,3}").unwrap()
}

fn map() -> impl Strategy<Value = HashMap<String, String>> {
    prop::collection::hash_map(text(), text(), 0..5)
}

fn sorted(map: &HashMap<String, String>) -> BTreeMap<String, String> {
    map.clone().into_iter().collect()
}

prop_compose! {
    fn sandbox()(
        name in text(), uid in text(), namespace in text(), attempt in any::<u32>(),
        hostname in text(), labels in map(), annotations in map(), cgroup_parent in text(),
    ) -> v1::PodSandboxConfig {
        v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata { name, uid, namespace, attempt }),
            hostname,
            labels,
            annotations,
            linux: Some(v1::LinuxPodSandboxConfig { cgroup_parent, ..Default::default() }),
            ..Default::default()
        }
    }
}

prop_compose! {
    fn container()(
        name in text(), attempt in any::<u32>(), image in text(), wanted in text(), labels in map(),
        annotations in map(), args in prop::collection::vec(text(), 0..4), tty in any::<bool>(),
    ) -> v1::ContainerConfig {
        v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name, attempt }),
            image: Some(v1::ImageSpec { image, user_specified_image: wanted, ..Default::default() }),
            labels,
            annotations,
            args,
            tty,
            ..Default::default()
        }
    }
}

proptest! {
    #[test]
    fn a_pod_is_read_as_kubelet_wrote_it(
        config in sandbox(), runtime_handler in text(), unknown in prop::collection::vec(any::<u8>(), 0..50),
    ) {
        let asked = v1::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler };
        let bytes = with_unknown(asked.encode_to_vec(), &unknown);
        let Request::RunPodSandbox(read) = Method::RunPodSandbox.read(bytes).unwrap() else { panic!() };
        prop_assert_eq!(&read.runtime_handler, &asked.runtime_handler);
        let read = read.config.unwrap();
        prop_assert_eq!(read.labels, sorted(&config.labels));
        prop_assert_eq!(read.annotations, sorted(&config.annotations));
        let (read, written) = (read.metadata.unwrap(), config.metadata.unwrap());
        prop_assert_eq!(
            (read.name, read.uid, read.namespace, read.attempt),
            (written.name, written.uid, written.namespace, written.attempt)
        );
    }

    #[test]
    fn a_container_is_read_as_kubelet_wrote_it(
        config in container(), sandbox_config in sandbox(), pod_sandbox_id in text(),
        unknown in prop::collection::vec(any::<u8>(), 0..50),
    ) {
        let asked = v1::CreateContainerRequest {
            pod_sandbox_id,
            config: Some(config.clone()),
            sandbox_config: Some(sandbox_config.clone()),
        };
        let bytes = with_unknown(asked.encode_to_vec(), &unknown);
        let Request::CreateContainer(read) = Method::CreateContainer.read(bytes).unwrap() else { panic!() };
        prop_assert_eq!(read.pod_sandbox_id, asked.pod_sandbox_id);
        prop_assert_eq!(read.sandbox_config.unwrap().annotations, sorted(&sandbox_config.annotations));
        let read = read.config.unwrap();
        prop_assert_eq!(read.labels, sorted(&config.labels));
        prop_assert_eq!(read.annotations, sorted(&config.annotations));
        let (metadata, image) = (config.metadata.unwrap(), config.image.unwrap());
        prop_assert_eq!(read.metadata.unwrap().name, metadata.name);
        let read = read.image.unwrap();
        prop_assert_eq!(
            (read.image, read.user_specified_image),
            (image.image, image.user_specified_image)
        );
    }

    #[test]
    fn the_small_ones_are_read_as_kubelet_wrote_them(
        id in text(), location in text(), timeout in any::<i64>(), cmd in prop::collection::vec(text(), 0..6),
        unknown in prop::collection::vec(any::<u8>(), 0..50),
    ) {
        let read = |method: Method, message: Vec<u8>| method.read(with_unknown(message, &unknown)).unwrap();
        let asked = v1::CheckpointContainerRequest { container_id: id.clone(), location: location.clone(), timeout };
        match read(Method::CheckpointContainer, asked.encode_to_vec()) {
            Request::CheckpointContainer(r) => {
                prop_assert_eq!((&r.container_id, &r.location, r.timeout), (&id, &location, timeout));
            }
            other => panic!("{other:?}"),
        }
        let asked = v1::StopContainerRequest { container_id: id.clone(), timeout };
        match read(Method::StopContainer, asked.encode_to_vec()) {
            Request::StopContainer(r) => prop_assert_eq!((&r.container_id, r.timeout), (&id, timeout)),
            other => panic!("{other:?}"),
        }
        let asked = v1::StartContainerRequest { container_id: id.clone() };
        match read(Method::StartContainer, asked.encode_to_vec()) {
            Request::StartContainer(r) => prop_assert_eq!(&r.container_id, &id),
            other => panic!("{other:?}"),
        }
        let asked = v1::StopPodSandboxRequest { pod_sandbox_id: id.clone() };
        match read(Method::StopPodSandbox, asked.encode_to_vec()) {
            Request::StopPodSandbox(r) => prop_assert_eq!(&r.pod_sandbox_id, &id),
            other => panic!("{other:?}"),
        }
        let asked = v1::ExecSyncRequest { container_id: id.clone(), cmd: cmd.clone(), timeout };
        match read(Method::ExecSync, asked.encode_to_vec()) {
            Request::ExecSync(r) => {
                prop_assert_eq!((&r.container_id, &r.cmd, r.timeout), (&id, &cmd, timeout));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for method in Method::ALL {
            let _ = method.read(Bytes::from(bytes.clone()));
        }
    }

    /// One wrong byte somewhere: as an attacker, or a newer version, would have it.
    #[test]
    fn a_request_with_one_wrong_byte_is_read_or_refused(
        config in container(), at in any::<prop::sample::Index>(), with in any::<u8>(),
    ) {
        let mut bytes = v1::CreateContainerRequest { config: Some(config), ..Default::default() }.encode_to_vec();
        let at = at.index(bytes.len());
        bytes[at] = with;
        let _ = Method::CreateContainer.read(Bytes::from(bytes));
    }

    #[test]
    fn an_answer_to_an_exec_is_one_for_kubelet(
        stdout in prop::collection::vec(any::<u8>(), 0..50), stderr in prop::collection::vec(any::<u8>(), 0..50), exit_code in any::<i32>(),
    ) {
        let ours = ExecSyncAnswer { stdout: stdout.clone().into(), stderr: stderr.clone().into(), exit_code };
        let heard = v1::ExecSyncResponse::decode(ours.encode_to_vec().as_slice()).unwrap();
        prop_assert_eq!(heard, v1::ExecSyncResponse { stdout, stderr, exit_code });
    }
}

#[test]
fn messages_nested_beyond_reason_are_refused() {
    // Maps in a sandbox config in a sandbox config …: prost has a limit of recursion, ours have no circle.
    let mut nested = vec![];
    for _ in 0..10_000 {
        let mut outer = vec![];
        prost::encoding::bytes::encode(1, &nested, &mut outer);
        nested = outer;
        if nested.len() > 1 << 20 {
            break;
        }
    }
    let _ = Method::RunPodSandbox.read(Bytes::from(nested));
}
