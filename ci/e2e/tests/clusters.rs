//! Pods on real kubelets, in two clusters: what users of pods rely on holds with containerd's shim and with ours.
//!
//! Tests leave their clusters to each other.

mod clusters {
    mod annotations;
    mod daemons;
    mod daemonset;
    mod ephemeral;
    mod evicted;
    mod keeps;
    mod killed;
    mod limits;
    mod looked_into;
    mod mounts;
    mod moves;
    mod never;
    mod on_stop;
    mod power;
    mod probes;
    mod race;
    mod redis;
    mod run;
    mod secure;
    mod stage;
    mod unfilled;
}
