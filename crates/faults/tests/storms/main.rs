//! Real processes that do everything to their memory while it is filled, and check every byte of it. Needs CAP_SYS_PTRACE.

mod world;

use std::time::Duration;

use godwit_faults::{Finished, Lane, MemoryLimit, Settings};
use godwit_testkit::subject::{Spec, Subject, run_if_asked};
use world::{Begin, News, Source, World};

/// Started by the other tests as the process that is filled; by itself it does nothing.
#[test]
fn subject() {
    run_if_asked();
}

fn settings() -> Settings {
    Settings { copy_threads: 2, window: 24, first_child: 1000 }
}

/// Runs one subject to its end and to the end of its hydration.
fn run(spec: Spec, source: Source, begin: Begin) -> world::Outcome {
    let mut subject = Subject::start(&spec);
    let world = World::start(settings(), source);
    let group = world.add(&spec, &subject, None);
    subject.go();
    let outcome = world.finish(group, subject, begin);
    assert_eq!(outcome.verdict, "ok", "{spec:?}");
    outcome
}

#[test]
fn a_process_that_only_reads_and_writes_is_filled() {
    let spec = Spec { pages: 4096, threads: 1, seed: 1, deeds: 20_000, changes: 0, grows: true };
    let outcome = run(spec, Source::Prompt, Begin::AtOnce);
    assert!(outcome.totals.faults > 0);
    assert_eq!(outcome.totals.missing, 0);
}

#[test]
fn faults_alone_fill_what_is_touched() {
    let spec = Spec { pages: 512, threads: 2, seed: 2, deeds: 3000, changes: 0, grows: true };
    let outcome = run(spec, Source::Slow, Begin::Never);
    assert!(outcome.totals.urgent_frames > 0);
    assert_eq!(outcome.finished, [(0, Finished::Gone)]);
}

#[test]
fn one_thread_that_discards_unmaps_moves_and_forks_sees_the_right_bytes() {
    for seed in 10..40 {
        let spec = Spec { pages: 1024, threads: 1, seed, deeds: 600, changes: 40, grows: true };
        run(spec, Source::Slow, Begin::after(seed));
    }
}

#[test]
fn threads_that_take_each_others_addresses_see_the_right_bytes() {
    for seed in 50..80 {
        let spec = Spec { pages: 512, threads: 3, seed, deeds: 400, changes: 50, grows: true };
        run(spec, Source::Slow, Begin::after(seed));
    }
}

#[test]
fn a_storm_of_nothing_but_changes_is_followed() {
    for seed in 90..100 {
        let spec = Spec { pages: 2048, threads: 2, seed, deeds: 800, changes: 95, grows: false };
        run(spec, Source::Prompt, Begin::AtOnce);
    }
}

#[test]
fn what_nobody_waits_for_is_asked_for_in_runs() {
    let spec = Spec { pages: 4096, threads: 1, seed: 7, deeds: 10, changes: 0, grows: true };
    let mut subject = Subject::start(&spec);
    let world = World::start(settings(), Source::Prompt);
    let group = world.add(&spec, &subject, None);
    world.hydrator.begin(group).unwrap();
    world.wait_until(|| world.hydrator.totals(group).missing == 0);
    let (frames, calls) = (world.requests(Lane::Prefetch), world.calls(Lane::Prefetch));
    let run = settings().window / 4;
    assert!(frames > 10 * run, "{frames} frames are too few to tell");
    assert!(calls <= frames.div_ceil(run) + 1, "{calls} requests for {frames} frames");
    subject.go();
    assert_eq!(world.finish(group, subject, Begin::Never).verdict, "ok");
}

#[test]
fn what_was_written_last_is_asked_for_first_and_faults_wait_for_none_of_it() {
    let spec = Spec { pages: 4096, threads: 1, seed: 8, deeds: 10_000, changes: 0, grows: true };
    let mut subject = Subject::start(&spec);
    let world = World::start(settings(), Source::Never);
    let group = world.add(&spec, &subject, None);
    world.hydrator.begin(group).unwrap();
    // Nothing arrives: it stays with the first window.
    let [hot, mut all] = world::frames(&spec, &subject);
    assert!(hot.len() < settings().window && all.last() == hot.last(), "{hot:?} of {all:?}");
    all.retain(|frame| !hot.contains(frame));
    let expected = [&hot[..], &all[..settings().window - hot.len()]].concat();
    assert_eq!(world.asked(Lane::Prefetch), expected);
    subject.go();
    world.wait_until(|| world.requests(Lane::Urgent) > 0);
    assert_eq!(world.asked(Lane::Prefetch), expected);
}

#[test]
fn without_room_nothing_is_prefetched_and_faults_are_answered_all_the_same() {
    let cgroup = tempfile::tempdir().unwrap();
    let write = |name, text| std::fs::write(cgroup.path().join(name), text).unwrap();
    write("memory.current", "1000000");
    write("memory.max", "1000000");
    let spec = Spec { pages: 1024, threads: 1, seed: 3, deeds: 300, changes: 0, grows: true };
    let mut subject = Subject::start(&spec);
    let world = World::start(settings(), Source::Prompt);
    let group = world.add(&spec, &subject, MemoryLimit::of(&[cgroup.path()]));
    world.hydrator.begin(group).unwrap();
    assert_eq!(world.requests(Lane::Prefetch), 0);
    subject.go();
    world.wait_until(|| world.hydrator.totals(group).urgent_frames > 0);
    assert_eq!(world.requests(Lane::Prefetch), 0);
    write("memory.max", "max");
    let outcome = world.finish(group, subject, Begin::AtOnce);
    assert_eq!(outcome.verdict, "ok");
}

#[test]
fn a_frame_that_cannot_be_had_is_fatal_and_nobody_gets_past_its_pages() {
    let spec = Spec { pages: 256, threads: 1, seed: 4, deeds: 10_000, changes: 0, grows: true };
    let mut subject = Subject::start(&spec);
    let world = World::start(settings(), Source::Missing(3));
    let group = world.add(&spec, &subject, None);
    world.hydrator.begin(group).unwrap();
    subject.go();
    let fatal = world.news(|n| if let News::Fatal(why) = n { Some(why.clone()) } else { None });
    assert!(fatal.contains("cannot be had: gone for good"), "{fatal}");
    // It hangs at the page that is lost, its descriptor still open.
    assert!(world.hydrator.totals(group).missing > 0);
    let ended = world.end_of(subject, Duration::from_millis(300));
    assert_eq!(ended, None, "the process went on");
}

#[test]
fn a_process_killed_while_it_waits_is_noticed() {
    let spec = Spec { pages: 256, threads: 2, seed: 5, deeds: 10_000, changes: 0, grows: true };
    let mut subject = Subject::start(&spec);
    let world = World::start(settings(), Source::Never);
    let group = world.add(&spec, &subject, None);
    subject.go();
    world.wait_until(|| world.hydrator.totals(group).faults >= 2);
    drop(subject);
    let finished =
        world.news(|n| if let News::Finished(id, why) = n { Some((*id, *why)) } else { None });
    assert_eq!(finished, (0, Finished::Gone));
}
