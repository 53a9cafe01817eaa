//! The collection of garbage against everything else at once: committers, deleters, holders, restorers and two sweepers run the
//! real code over memory, one store request at a time in an order chosen at random, while a day passes now and then. Actors
//! crash; what they had sent lands later, or never. PUTs of tombstones also do so while their sender goes on and sends another.
//!
//! Checked after each DELETE: nothing that somebody relies on lacks an object. Checked whenever a late write landed: no deletion
//! that was refused took effect. Checked at the end: no garbage stays.

mod gate;
mod world;

use std::ops::Range;

use godwit_image::Manifest;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use world::{Counted, ModelWorld};

const STEPS: usize = 5_000;
const THREADS: u64 = 2;

#[test]
fn nothing_that_is_needed_is_ever_deleted_and_all_garbage_goes() {
    run_all(0..24);
}

#[test]
#[ignore = "long: make test-full"]
fn nothing_that_is_needed_is_ever_deleted_in_many_more_orders() {
    run_all(24..600);
}

fn run_all(seeds: Range<u64>) {
    let part = |n: u64| seeds.clone().skip(n as usize).step_by(THREADS as usize);
    let runs = seeds.end - seeds.start;
    let mut total = Counted::default();
    std::thread::scope(|scope| {
        let threads = (0..THREADS).map(|n| scope.spawn(move || run_some(part(n))));
        for thread in threads.collect::<Vec<_>>() {
            total.add(&thread.join().expect("a seed failed, see above"));
        }
    });
    println!("{runs} seeds: {total:?}");
    let runs = runs as usize;
    // The model is not vacuous.
    assert!(total.committed > 10 * runs && total.inherited > 4 * runs, "{total:?}");
    assert!(total.deleted_checkpoints > 2 * runs && total.restored > 2 * runs, "{total:?}");
    assert!(total.deleted_objects > 20 * runs && total.crashed > 2 * runs, "{total:?}");
    assert!(total.orphans > 0, "{total:?}");
    // Two actors have to get in each other's way: once in ten seeds.
    assert!(total.taken_back > 0 || runs < 100, "{total:?}");
}

fn run_some(seeds: impl Iterator<Item = u64>) -> Counted {
    let mut total = Counted::default();
    for seed in seeds {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        total.add(&runtime.block_on(run(seed)));
    }
    total
}

async fn run(seed: u64) -> Counted {
    let mut world = ModelWorld::new(seed).await;
    let mut rng = StdRng::seed_from_u64(seed);
    for _ in 0..STEPS {
        match rng.random_range(0..1000) {
            0..920 => world.poll_one(&mut rng),
            920..960 => world.let_time_pass(&mut rng).await,
            960..993 => {
                world.land_one(&mut rng).await;
                world.check_refused(seed).await;
            }
            _ => world.crash_one(&mut rng),
        }
        // Uploads run as tasks of the runtime.
        tokio::task::yield_now().await;
        world.check(seed).await;
    }
    world.settle(&mut rng).await;
    world.check_refused(seed).await;
    world.counted()
}

/// What a manifest names.
fn names(manifest: &Manifest) -> impl Iterator<Item = &str> {
    manifest.objects.iter().map(|o| o.key.as_str())
}
