//! The shim's side against a pager that is played.

use godwit_wire::Socket;
use godwit_wire::pager::{Fatal, Finished, Forked, FromPagerBody, Hydrated, Loaded, ToPagerBody};

use super::*;

type Played = Socket<FromPager, ToPager>;

const SOON: Duration = Duration::from_secs(60);

/// A pager whose process is this test.
fn played() -> (Pager, Played) {
    let (theirs, ours) = Played::pair().expect("pair");
    let socket = PagerSocket::from_fd(ours.into_fd()).expect("register");
    let shared = Arc::new(Shared {
        socket,
        kept: Mutex::default(),
        state: watch::channel(State::Loading).0,
    });
    let listening = tokio::spawn(messages::listen(Arc::clone(&shared)));
    (Pager { container: "c".into(), shared, next: Mutex::new(0), listening }, theirs)
}

fn pipe() -> (OwnedFd, OwnedFd) {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("pipe")
}

fn is_open(reader: &OwnedFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(reader, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).expect("poll");
    !fds[0].revents().contains(PollFlags::HUP)
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + SOON;
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "{what}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_duplicate_is_kept_until_the_pager_has_finished_the_descriptor() {
    let (pager, played) = played();
    let (reader, writer) = pipe();
    pager.serve(7, writer).await.expect("serve");
    let Ok(Some(served)) = played.recv() else { panic!("Serve") };
    let (body, [uffd]) = served.with_fds::<1>("Serve").expect("one");
    let ToPagerBody::Serve(serve) = body else { panic!("Serve") };
    assert_eq!((serve.vpid, serve.container.as_str()), (7, "c"));
    drop(uffd);
    assert!(is_open(&reader), "the shim's duplicate keeps it open");
    played.send(Finished { descriptor: serve.descriptor }, &[]).expect("send");
    until("it is dropped", || pager.kept() == 0).await;
    // A child of another test may hold a copy until it executes its program.
    until("it is closed", || !is_open(&reader)).await;
    let Ok(Some(dropped)) = played.recv_timeout(SOON) else { panic!("Dropped") };
    let expected = godwit_wire::pager::Dropped { descriptor: serve.descriptor };
    assert_eq!(dropped.body, ToPagerBody::Dropped(expected));
    played.send(Hydrated { container: "c".into(), totals: None }, &[]).expect("send");
    drop(played);
    assert_eq!(pager.outcome().await, Ok(Totals::default()));
}

#[tokio::test]
async fn a_childs_descriptor_outlives_the_pager() {
    let (pager, played) = played();
    let (reader, writer) = pipe();
    let forked = Forked { parent: 0, descriptor: FIRST_CHILD };
    played.send(forked, &[writer.as_fd()]).expect("send");
    drop(writer);
    until("it is kept", || pager.kept() == 1).await;
    drop(played);
    let why = pager.outcome().await.expect_err("the pager is gone");
    assert!(why.reason.contains("ended before"), "{}", why.reason);
    assert!(is_open(&reader), "it is kept until the pager is dropped, after the tasks");
    drop(pager);
    until("then it is closed", || !is_open(&reader)).await;
}

#[tokio::test]
async fn a_fatal_word_is_the_outcome_whatever_follows() {
    let (pager, played) = played();
    let why = Refusal::new(Code::Corrupt, "frame 7 is damaged");
    played.send(Fatal { container: "c".into(), why: Some(why.clone()) }, &[]).expect("send");
    played.send(Hydrated { container: "c".into(), totals: None }, &[]).expect("send");
    drop(played);
    assert_eq!(pager.outcome().await, Err(why));
}

#[tokio::test]
async fn loading_waits_for_the_maps_and_a_refusal_is_told() {
    for (answer, loads) in [
        (FromPagerBody::Loaded(Loaded { container: "c".into(), pages: 3 }), true),
        (
            FromPagerBody::Fatal(Fatal {
                container: "c".into(),
                why: Some(Refusal::new(Code::Corrupt, "no map")),
            }),
            false,
        ),
    ] {
        let (pager, played) = played();
        let (reader, _writer) = pipe();
        let plan = PagerPlan {
            container: "c".into(),
            plan: vec![1],
            fds: vec![reader],
            cgroups: vec!["/sys/fs/cgroup/c".into()],
        };
        let play = std::thread::spawn(move || {
            let load = played.recv().expect("recv").expect("open");
            let (body, [_map]) = load.with_fds::<1>("Load").expect("one");
            assert!(matches!(body, ToPagerBody::Load(load) if load.plan == [1]));
            played.send(answer, &[]).expect("send");
            played
        });
        assert_eq!(pager.load(plan).await.is_ok(), loads);
        drop(play.join().expect("played"));
    }
}
