//! The searches that `cargo test` runs: every scenario with all rules, every rule switched off.

use super::scenario::{self, Scenario};
use super::search::{Limits, Report, explore};
use super::world::{Explorer, sound};
use crate::rules::Rule;

/// Everything is seen, and every property holds.
fn holds(scenario: &Scenario) {
    let limits = Limits { states: 30_000_000, until: &[], liveness: true, through_p4: false };
    let report = search(scenario, sound(scenario), limits);
    show(scenario.name, &report);
    assert!(report.complete, "{}: not everything was seen", scenario.name);
    assert!(report.found.is_empty(), "{} breaks a property", scenario.name);
}

/// What is switched off.
#[derive(Clone, Copy)]
enum Off {
    /// Rules of the machines.
    Rules(&'static [Rule]),
    /// The fence lives in the bundle.
    FenceOnDisk,
    /// Incarnations repeat.
    FreshLives,
    /// Any life consumes any request.
    OwnRequest,
}

/// Without the rule, this property breaks; the shortest way there is printed.
fn breaks(off: Off, scenario: &Scenario, property: &'static str) {
    let mut setting = sound(scenario);
    match off {
        Off::Rules(rules) => {
            setting.rules = rules.iter().fold(setting.rules, |rules, rule| rules.without(*rule));
        }
        Off::FenceOnDisk => setting.fence_on_disk = false,
        Off::FreshLives => setting.fresh_lives = false,
        Off::OwnRequest => setting.own_request = false,
    }
    let liveness = property == "P3";
    let until: &[&str] = match property {
        "P1" => &["P1"],
        "P2" => &["P2"],
        "P5" => &["P5"],
        "P6" => &["P6"],
        "P7" => &["P7"],
        _ => &[],
    };
    let limits = Limits { states: 3_000_000, until, liveness, through_p4: !liveness };
    let report = search(scenario, setting, limits);
    show(scenario.name, &report);
    let found = report.found.keys().any(|what| what.starts_with(property));
    assert!(found, "nobody notices that the rule is off");
}

/// Without the rule every property holds all the same: it saves something else, and is written down as such.
fn spares(rule: Rule, scenario: &Scenario) {
    let mut setting = sound(scenario);
    setting.rules = setting.rules.without(rule);
    let limits = Limits { states: 30_000_000, until: &[], liveness: true, through_p4: false };
    let report = search(scenario, setting, limits);
    show(scenario.name, &report);
    assert!(report.complete && report.found.is_empty(), "somebody notices that the rule is off");
}

fn search(scenario: &Scenario, setting: super::place::Setting, limits: Limits) -> Report {
    let mut explorer = Explorer::new(setting, scenario.nodes);
    explorer.sweepers = scenario.sweepers;
    let start = explorer.start(scenario.budgets, scenario.begun);
    explore(&mut explorer, start, limits)
}

fn show(name: &str, report: &Report) {
    let Report { states, took, sizes: (places, entries), .. } = report;
    println!("{name}: {states} states from {places} places and {entries} entries in {took:.1?}");
    for (what, way) in &report.found {
        println!("{what}, in {} steps:", way.len());
        for (at, step) in way.iter().enumerate() {
            println!("  {:2} {step}", at + 1);
        }
    }
}

mod with_all_rules {
    use super::*;

    #[test]
    fn a_checkpoint_that_leaves_the_pod_running_doubles_and_loses_nothing() {
        holds(&scenario::RUN);
    }

    #[test]
    fn the_first_checkpoint_of_a_pod_doubles_and_loses_nothing() {
        holds(&scenario::FIRST);
    }

    #[test]
    fn a_move_doubles_and_loses_nothing() {
        holds(&scenario::MOVE);
    }

    #[test]
    fn a_stop_doubles_and_loses_nothing() {
        holds(&scenario::STOP);
    }

    #[test]
    fn a_move_and_a_stop_double_and_lose_nothing() {
        holds(&scenario::MIXED);
    }

    #[test]
    fn a_cancelled_move_doubles_and_loses_nothing() {
        holds(&scenario::CANCEL);
    }

    #[test]
    fn a_cancelled_stop_doubles_and_loses_nothing() {
        holds(&scenario::CANCELSTOP);
    }

    #[test]
    fn a_forced_take_over_doubles_only_until_the_loser_looks() {
        holds(&scenario::FORCE);
    }

    #[test]
    fn a_forced_take_over_in_a_move_doubles_only_until_the_loser_looks() {
        holds(&scenario::FORCEMOVE);
    }

    #[test]
    fn garbage_collection_takes_nothing_from_a_stop() {
        holds(&scenario::GC);
    }

    #[test]
    fn garbage_collection_takes_nothing_from_a_move() {
        holds(&scenario::GCMOVE);
    }

    #[test]
    fn two_collectors_take_nothing_from_a_stop() {
        holds(&scenario::TWOSWEEPS);
    }

    #[test]
    fn a_pod_that_moves_twice_is_never_two_and_never_lost() {
        holds(&scenario::BACK);
    }

    #[test]
    fn two_targets_race_and_one_wins() {
        holds(&scenario::THREE);
    }

    #[test]
    fn a_target_that_dies_twice_doubles_and_loses_nothing() {
        holds(&scenario::TWODEATHS);
    }

    #[test]
    fn who_asks_for_a_lost_pods_memory_gets_it() {
        holds(&scenario::AGAIN);
        holds(&scenario::AGAINMOVE);
    }

    #[test]
    fn a_store_that_refuses_to_be_written_doubles_and_loses_nothing() {
        holds(&scenario::REFUSED);
        holds(&scenario::REFUSEDSTOP);
    }

    #[test]
    fn an_empty_directory_in_place_of_the_store_doubles_and_loses_nothing() {
        holds(&scenario::AWAY);
        holds(&scenario::AWAYSTOP);
    }

    #[test]
    fn messages_that_take_their_time_change_nothing() {
        holds(&scenario::SLOWRUN);
        holds(&scenario::SLOWMOVE);
    }

    #[test]
    fn deadlines_and_needless_looks_change_nothing() {
        holds(&scenario::DEADLINES);
    }
}

mod without_a_rule {
    use super::*;

    #[test]
    fn no_seal_makes_two() {
        breaks(Off::Rules(&[Rule::Seal]), &scenario::MOVE, "P1");
    }

    #[test]
    fn a_sealed_pod_that_thaws_when_its_agent_dies_makes_two() {
        breaks(Off::Rules(&[Rule::SealedHolds]), &scenario::MOVE, "P1");
    }

    #[test]
    fn believing_a_404_makes_two() {
        breaks(Off::Rules(&[Rule::Not404]), &scenario::MOVE, "P1");
    }

    #[test]
    fn sealing_what_ran_since_its_dump_loses_work() {
        breaks(Off::Rules(&[Rule::Continuous]), &scenario::MOVE, "P2");
    }

    #[test]
    fn sealing_a_pod_that_is_to_run_on_blocks_it() {
        breaks(Off::Rules(&[Rule::LeaveRunning]), &scenario::RUN, "P5");
    }

    #[test]
    fn taking_over_before_the_hold_loses_the_pod() {
        breaks(Off::Rules(&[Rule::HoldFirst]), &scenario::MOVE, "P2");
    }

    #[test]
    fn running_without_an_own_entry_makes_two() {
        breaks(Off::Rules(&[Rule::TakeOver]), &scenario::MOVE, "P1");
    }

    #[test]
    fn claiming_what_was_made_ready_before_another_ran_uses_its_connections() {
        breaks(Off::Rules(&[Rule::SameEntry]), &scenario::FORCEMOVE, "P7");
    }

    #[test]
    fn thawing_an_offer_without_winning_its_reclaim_makes_two() {
        breaks(Off::Rules(&[Rule::ReclaimSettles]), &scenario::MOVE, "P1");
    }

    #[test]
    fn killing_at_the_offer_loses_the_pod() {
        breaks(Off::Rules(&[Rule::KillAtTakeOver]), &scenario::MOVE, "P2");
    }

    #[test]
    fn trusting_the_own_slot_instead_of_the_newest_entry_makes_two() {
        breaks(Off::Rules(&[Rule::NewestDecides]), &scenario::FORCEMOVE, "P1");
    }

    #[test]
    fn an_unarmed_fence_makes_two() {
        breaks(Off::Rules(&[Rule::Armed]), &scenario::STOP, "P1");
    }

    #[test]
    fn restarting_without_asking_makes_two() {
        breaks(Off::Rules(&[Rule::ColdFirst]), &scenario::FORCE, "P1");
    }

    #[test]
    fn a_fence_only_in_the_bundle_makes_two() {
        breaks(Off::FenceOnDisk, &scenario::MOVE, "P1");
    }

    #[test]
    fn incarnations_that_repeat_make_two() {
        breaks(Off::FreshLives, &scenario::FORCE, "P1");
    }

    #[test]
    fn a_request_consumed_by_a_life_that_it_did_not_begin_gives_the_image() {
        breaks(Off::OwnRequest, &scenario::AGAIN, "P6");
    }

    #[test]
    fn a_request_consumed_by_a_life_that_never_ran_gives_the_image() {
        breaks(Off::Rules(&[Rule::LivesFirst]), &scenario::STOP, "P6");
    }

    #[test]
    fn a_request_kept_by_a_life_whose_memory_never_came_gives_the_image() {
        breaks(Off::Rules(&[Rule::Reopens]), &scenario::STOP, "P6");
    }

    #[test]
    fn believing_an_empty_directory_leaves_an_owner_that_nobody_is() {
        breaks(Off::Rules(&[Rule::SameLog]), &scenario::AWAY, "P3");
    }

    #[test]
    fn a_refusal_believed_beside_a_put_in_flight_makes_two() {
        breaks(Off::Rules(&[Rule::RefusedAlone]), &scenario::REFUSED, "P1");
    }

    #[test]
    fn a_take_over_claimed_by_node_instead_of_operation_makes_two() {
        breaks(Off::Rules(&[Rule::Idempotence]), &scenario::TWODEATHS, "P1");
    }

    #[test]
    fn starting_beside_an_earlier_life_makes_two() {
        breaks(Off::Rules(&[Rule::EmptyCgroups]), &scenario::MOVE, "P1");
    }

    #[test]
    fn unwritten_deaths_leave_an_owner_that_nobody_is() {
        breaks(Off::Rules(&[Rule::DeathEntries]), &scenario::CANCEL, "P3");
    }

    #[test]
    fn ending_what_never_lived_loses_the_pod() {
        breaks(Off::Rules(&[Rule::StopNotEnd]), &scenario::CANCEL, "P2");
    }

    #[test]
    fn a_fence_written_after_the_take_over_leaves_an_owner_that_nobody_is() {
        breaks(Off::Rules(&[Rule::FenceFirst]), &scenario::CANCEL, "P3");
    }

    #[test]
    fn a_fence_removed_before_its_slot_is_settled_leaves_an_owner_that_nobody_is() {
        breaks(Off::Rules(&[Rule::FenceSettled]), &scenario::CANCEL, "P3");
    }

    #[test]
    fn an_offer_of_dead_tasks_that_stays_an_offer_is_stuck() {
        breaks(Off::Rules(&[Rule::OfferedDead]), &scenario::CANCEL, "P3");
    }

    #[test]
    fn a_stop_that_can_never_be_restored_nor_given_up_is_stuck() {
        breaks(Off::Rules(&[Rule::ColdStopped]), &scenario::MOVE, "P3");
    }

    #[test]
    fn a_zombie_that_never_looks_never_ends() {
        breaks(Off::Rules(&[Rule::Look]), &scenario::FORCE, "P3");
    }

    #[test]
    fn killing_before_the_check_loses_the_pod() {
        breaks(Off::Rules(&[Rule::CheckAfter]), &scenario::GC, "P2");
    }

    /// The check after the entry and the stop that is taken back stand behind it.
    #[test]
    fn an_old_stop_that_is_put_again_breaks_nothing_by_itself() {
        spares(Rule::OldReclaims, &scenario::GC);
    }

    /// What its late take-over does to the log is written down as a death; it costs the pod what it did since its checkpoint.
    #[test]
    fn a_committing_start_that_does_not_wait_breaks_nothing_by_itself() {
        spares(Rule::CommittingWaits, &scenario::CANCEL);
    }

    #[test]
    fn a_tombstone_after_the_look_at_the_log_loses_the_pod() {
        breaks(Off::Rules(&[Rule::TombstoneFirst]), &scenario::GC, "P2");
    }

    #[test]
    fn a_stop_that_is_not_taken_back_is_stuck() {
        breaks(Off::Rules(&[Rule::ReclaimStop]), &scenario::GC, "P3");
    }

    #[test]
    fn finishing_the_tombstone_of_a_collector_at_work_loses_the_pod() {
        breaks(Off::Rules(&[Rule::FreshTombstones]), &scenario::TWOSWEEPS, "P2");
    }
}
