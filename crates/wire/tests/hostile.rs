//! Decoders on bytes that nobody of ours wrote: never a panic, never more memory than the packet explains.

use godwit_wire::agent_op::{FromAgent, ToAgent};
use godwit_wire::pager::{FromPager, ToPager};
use godwit_wire::shim_op::{Containers, FromShim, FromShimBody, Status, ToShim};
use godwit_wire::{Envelope, Hello, MAX_PACKET};
use proptest::prelude::*;
use prost::Message;

fn decode_all(bytes: &[u8]) {
    let _ = Hello::decode(bytes);
    let _ = ToPager::decode(bytes).map(Envelope::open);
    let _ = FromPager::decode(bytes).map(Envelope::open);
    let _ = ToShim::decode(bytes).map(Envelope::open);
    let _ = FromShim::decode(bytes).map(Envelope::open);
    let _ = ToAgent::decode(bytes).map(Envelope::open);
    let _ = FromAgent::decode(bytes).map(Envelope::open);
}

fn rich_message() -> Vec<u8> {
    let container = godwit_wire::shim_op::Container {
        id: "web".to_owned(),
        pid: 77,
        rootfs: "/run/b".to_owned(),
        stdio: vec!["pipe:[1]".to_owned(); 3],
        cgroups: vec![godwit_wire::shim_op::Cgroup::default(); 4],
        ..Default::default()
    };
    let body = Containers { containers: vec![container; 8], ..Default::default() };
    FromShim { body: Some(FromShimBody::Containers(body)) }.encode_to_vec()
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        decode_all(&bytes);
    }

    #[test]
    fn a_damaged_message_never_panics(flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..16), cut in any::<prop::sample::Index>()) {
        let mut bytes = rich_message();
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        decode_all(&bytes);
    }

    #[test]
    fn what_decodes_encodes_to_the_same_meaning(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        if let Ok(message) = ToShim::decode(bytes.as_slice()) {
            prop_assert_eq!(ToShim::decode(message.encode_to_vec().as_slice()), Ok(message));
        }
        if let Ok(message) = FromAgent::decode(bytes.as_slice()) {
            prop_assert_eq!(FromAgent::decode(message.encode_to_vec().as_slice()), Ok(message));
        }
    }
}

#[test]
fn the_most_elements_that_a_packet_can_announce_stay_within_16_mib() {
    // An empty element of a repeated message costs two bytes on the wire: tag and length 0.
    let mut inner = Vec::new();
    while inner.len() < MAX_PACKET - 16 {
        inner.extend_from_slice(&[0x1a, 0]); // Containers.containers
    }
    let containers = Containers::decode(inner.as_slice()).expect("valid");
    let bytes = containers.containers.capacity() * size_of::<godwit_wire::shim_op::Container>();
    assert!(bytes <= 16 << 20, "{bytes}");
    assert!(
        Status::decode(&[0x32, 0xff, 0xff, 0xff, 0xff, 0x0f][..]).is_err(),
        "a length beyond the end"
    );
}
