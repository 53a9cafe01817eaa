//! Pods on real kubelets, in two clusters: what users of pods rely on holds with containerd's shim and with ours.
//!
//! Each test has clusters of its own.

mod clusters {
    mod annotations;
    mod daemons;
    mod daemonset;
    mod keeps;
    mod moves;
    mod on_stop;
    mod power;
    mod probes;
    mod race;
    mod redis;
    mod run;
}
