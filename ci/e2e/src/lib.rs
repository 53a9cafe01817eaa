//! Programs that end-to-end tests, the demo and the benches share: what acts on a container from outside.

pub mod agent;
pub mod bed;
pub mod bench;
pub mod clean;
pub mod conformance;
pub mod container;
pub mod cri;
pub mod demo;
pub mod events;
pub mod fences;
pub mod logind;
pub mod pod_bench;
pub mod pod_demo;
pub mod pods;
pub mod proc_text;
pub mod proxy;
pub mod proxy_bench;
pub mod redis;
pub mod release;
pub mod restarts;
pub mod runc;
pub mod shim_bench;
pub mod shop;
mod sys;
pub mod versions;
