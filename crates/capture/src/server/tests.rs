use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use godwit_image::{BlockNumber, FrameRef, PackSlot, PageDigest, PageRun};
use godwit_types::PageNumber;
use proptest::prelude::*;

use super::*;
use crate::baseline::Baseline;
use crate::fixture::{Memory, arena, page, play};
use crate::page::PAGE;
use crate::protocol::{Layout, sender};
use crate::{FrozenState, Received};

fn space() -> impl Strategy<Value = Space> {
    prop_oneof![(1u32..4).prop_map(Space::Task), (1u64..3).prop_map(Space::Shmem)]
}

/// Some address spaces with pages in clusters, so that runs, gaps and block borders occur.
fn any_memory() -> impl Strategy<Value = Memory> {
    let start = (0u64..4, 0u64..300).prop_map(|(cluster, page)| (cluster * 1000) + page);
    let stretch = (start, 1u64..40, any::<bool>(), 0u32..4);
    let pages = prop::collection::vec(stretch, 0..6).prop_map(|stretches| {
        let mut out = BTreeMap::new();
        for (start, n, lazy, seed) in stretches {
            for i in 0..n {
                out.insert(start + i, (if seed == 0 { 0 } else { seed * 1000 + i as u32 }, lazy));
            }
        }
        out
    });
    prop::collection::btree_map(space(), pages, 0..4)
}

fn receive(memory: &Memory, layout: Layout, cut: usize, mode: Mode) -> Received {
    let (server, criu) = PageServer::start(arena(20), mode).unwrap();
    let status = play(criu, memory, layout, cut);
    let received = server.finish().unwrap();
    assert_eq!(status, Some(0));
    received
}

/// Each page with its bytes (`None`: unchanged) and flag.
type Naive = BTreeMap<(Space, u64), (Option<Vec<u8>>, bool)>;

fn naive(received: &Received) -> Naive {
    let mut out = BTreeMap::new();
    for (space, runs) in received.spaces() {
        for run in runs {
            let bytes = received.bytes(run);
            for i in 0..run.range.count as usize {
                let one = match run.state {
                    FrozenState::Zero => Some(vec![0; PAGE]),
                    FrozenState::Same => None,
                    FrozenState::Bytes { .. } => {
                        Some(bytes.unwrap()[i * PAGE..(i + 1) * PAGE].to_vec())
                    }
                };
                out.insert((*space, run.range.first.0 + i as u64), (one, run.lazy));
            }
        }
    }
    out
}

fn baseline_of(memory: &Memory, known: impl Fn(u64) -> Option<u32>) -> Arc<Baselines> {
    let mut out = Baselines::default();
    for (space, pages) in memory {
        let mut baseline = Baseline::default();
        for page_number in pages.keys() {
            let Some(seed) = known(*page_number).filter(|s| *s != 0) else { continue };
            let number = PageNumber(*page_number);
            let frame = FrameRef { pack: PackSlot(0), frame: 0 };
            baseline.map.insert(PageRun::stored(PageRange::new(number, 1), frame, 0));
            let block = baseline.blocks.entry(BlockNumber::of(number)).or_default();
            block.digests.set(number, Some(PageDigest::of(&page(seed))));
        }
        out.spaces.insert(*space, baseline);
    }
    Arc::new(out)
}

fn any_layout() -> impl Strategy<Value = Layout> {
    prop_oneof![Just(Layout::Bytes24), Just(Layout::Bytes32)]
}

fn any_cut() -> impl Strategy<Value = usize> {
    prop_oneof![Just(1usize), Just(7), Just(256), Just(1024)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn everything_that_is_sent_is_kept(
        memory in any_memory(), layout in any_layout(), cut in any_cut()
    ) {
        let received = receive(&memory, layout, cut, Mode::Keep);
        let got = naive(&received);
        let mut sent = BTreeMap::new();
        for (space, pages) in &memory {
            for (p, (seed, lazy)) in pages {
                sent.insert((*space, *p), (Some(page(*seed)), *lazy));
            }
        }
        prop_assert_eq!(got, sent);
        prop_assert!(received.spaces().keys().eq(memory.keys()));
        for runs in received.spaces().values() {
            let joined = runs.windows(2).all(|w| {
                w[0].range.end() != w[1].range.first || w[0].lazy != w[1].lazy
            });
            prop_assert!(joined, "runs that were cut by pipes are joined: {runs:?}");
        }
    }

    #[test]
    fn comparing_keeps_what_differs_from_the_baseline_and_nothing_else(
        memory in any_memory(), layout in any_layout(), cut in any_cut(), threads in 1usize..4
    ) {
        // Known: pages by thirds as they are, otherwise, not at all.
        let seeds: BTreeMap<u64, u32> = memory.values()
            .flat_map(|pages| pages.iter().map(|(p, (s, _))| (*p, *s))).collect();
        let known = |p: u64| match p % 3 {
            0 => seeds.get(&p).copied(),
            1 => Some(5),
            _ => None,
        };
        let baselines = baseline_of(&memory, known);
        let mode = Mode::Compare { baselines: Arc::clone(&baselines), threads };
        let got = naive(&receive(&memory, layout, cut, mode));
        for (space, pages) in &memory {
            for (p, (seed, lazy)) in pages {
                let same = *seed != 0 && known(*p) == Some(*seed);
                let expected = (!same).then(|| page(*seed));
                prop_assert_eq!(got.get(&(*space, *p)), Some(&(expected, *lazy)), "page {}", p);
            }
        }
        prop_assert_eq!(got.len(), memory.values().map(BTreeMap::len).sum::<usize>());
    }
}

fn task(pages: std::ops::Range<u64>) -> Memory {
    BTreeMap::from([(Space::Task(1), pages.map(|p| (p, (p as u32 + 1, true))).collect())])
}

fn compare() -> Mode {
    Mode::Compare { baselines: Arc::default(), threads: 2 }
}

#[test]
fn a_stream_without_any_memory_is_complete() {
    for layout in [Layout::Bytes24, Layout::Bytes32] {
        assert_eq!(receive(&Memory::new(), layout, 1, Mode::Keep).pages(), 0);
    }
}

#[test]
fn pages_split_at_the_pipes_bounds_become_one_run() {
    for cut in [256, 1024] {
        let received = receive(&task(100..3100), Layout::Bytes32, cut, Mode::Keep);
        let runs = &received.spaces()[&Space::Task(1)];
        assert_eq!(runs.len(), 1);
        assert_eq!((received.pages(), received.held_pages()), (3000, 3000));
        assert_eq!(received.layout(), Some(Layout::Bytes32));
    }
}

#[test]
fn more_than_fits_is_refused_with_what_is_needed_and_criu_hears_no_success() {
    for mode in [Mode::Keep, compare()] {
        let (server, criu) = PageServer::start(arena(16), mode).unwrap();
        assert_eq!(play(criu, &task(0..5000), Layout::Bytes32, 256), None);
        let error = server.finish().unwrap_err();
        assert!(matches!(error, CaptureError::TooBigForBudget { .. }), "{error}");
        assert_eq!(error.code(), godwit_types::Code::Refused);
    }
}

#[test]
fn an_arena_without_room_for_the_ring_is_refused_before_the_freeze() {
    let error = PageServer::start(arena(1), compare()).unwrap_err();
    assert!(matches!(error, CaptureError::TooBigForBudget { .. }));
}

/// Sends these bytes, then closes.
fn send_only(criu: OwnedFd, parts: &[&[u8]]) {
    use std::io::{Read, Write};
    let mut socket = UnixStream::from(criu);
    for part in parts {
        socket.write_all(part).unwrap();
        if part.len() == 32 && part[..4] == 4u32.to_ne_bytes() {
            socket.read_exact(&mut [0]).unwrap();
        }
    }
}

#[test]
fn a_stream_that_ends_early_is_an_error_wherever_it_ends() {
    let layout = Layout::Bytes32;
    let open = sender::open(layout, Space::Task(1));
    let add = sender::add(layout, Space::Task(1), PageRange::new(PageNumber(1), 2), true);
    let bytes = [page(1), page(2)].concat();
    let cases: [&[&[u8]]; 6] = [
        &[],
        &[&open[..10]],
        &[&open],
        &[&open, &add[..30]],
        &[&open, &add, &bytes[..5000]],
        &[&open, &add, &bytes],
    ];
    for mode in [Mode::Keep, compare()] {
        for case in cases {
            let (server, criu) = PageServer::start(arena(20), mode.clone()).unwrap();
            send_only(criu, case);
            let error = server.finish().unwrap_err();
            assert!(matches!(error, CaptureError::StreamEnded { .. }), "{error}");
        }
    }
}

#[test]
fn a_stream_that_is_not_criu_s_is_refused() {
    let layout = Layout::Bytes32;
    let open = sender::open(layout, Space::Task(1));
    let range = PageRange::new(PageNumber(1), 1);
    let add = sender::add(layout, Space::Task(1), range, true);
    let other = sender::add(layout, Space::Task(2), range, true);
    let bytes = page(1);
    let cases: [(&[&[u8]], ProtocolError); 4] = [
        (&[&open, &open[..]], ProtocolError::OpenedTwice),
        (&[&open, &other], ProtocolError::NotOpened),
        (&[&open, &add, &bytes, &add, &bytes, &sender::close(layout)], ProtocolError::Twice(1)),
        (&[&[7; 32]], ProtocolError::Command(0x0707)),
    ];
    for (case, expected) in cases {
        let (server, criu) = PageServer::start(arena(20), Mode::Keep).unwrap();
        let sender = std::thread::spawn({
            let case: Vec<Vec<u8>> = case.iter().map(|p| p.to_vec()).collect();
            move || {
                use std::io::{Read, Write};
                let mut socket = UnixStream::from(criu);
                for part in case {
                    if socket.write_all(&part).is_err() {
                        return;
                    }
                }
                let mut rest = Vec::new();
                let _ = socket.read_to_end(&mut rest);
                assert!(rest.len() <= 2, "no success was acknowledged");
            }
        });
        match server.finish().unwrap_err() {
            CaptureError::Protocol(e) => assert_eq!(e, expected),
            e => panic!("{e}"),
        }
        sender.join().unwrap();
    }
}

#[test]
fn an_abort_closes_the_stream_for_criu_and_ends_the_receiver() {
    for mode in [Mode::Keep, compare()] {
        let (server, criu) = PageServer::start(arena(20), mode).unwrap();
        let handle = server.abort_handle();
        let waiting = std::thread::spawn(move || {
            use std::io::Read;
            UnixStream::from(criu).read(&mut [0])
        });
        handle.abort();
        assert!(matches!(server.finish(), Err(CaptureError::Cancelled)));
        assert_eq!(waiting.join().unwrap().unwrap(), 0);
    }
}

#[test]
fn a_receiver_that_nobody_waits_for_closes_the_stream() {
    use std::io::Read;
    let (server, criu) = PageServer::start(arena(1), Mode::Keep).unwrap();
    drop(server);
    assert_eq!(UnixStream::from(criu).read(&mut [0]).unwrap(), 0);
}
