//! Real nodes on one machine, as a tool (`lab`) and as a library of the end-to-end tests.
//!
//! A node is a set of namespaces over an overlay of one Debian root file system, with real containerd, runc and CRIU
//! in it. Everything is made from package registries into a cache outside the repository (`places`), needs root, and
//! is described for people in `docs/lab.md`.
//!
//! ```no_run
//! use godwit_lab::{Lab, LabOptions};
//!
//! let lab = Lab::up(&LabOptions::new("example"))?;
//! println!("{}", lab.node("n1")?.ctr(&["version"])?);
//! // Dropped here: the lab is taken down.
//! # Ok::<(), godwit_lab::LabError>(())
//! ```

mod addresses;
mod agents;
mod cgroup;
mod cluster;
mod command;
mod error;
mod image;
mod install;
pub mod kubernetes;
mod lab;
mod lock;
mod network;
mod node;
mod pki;
pub mod places;
mod process;
pub mod rootfs;
pub mod s3;
pub mod tools;
pub mod vm;
pub mod wait;

pub use addresses::ClusterName;
pub use cluster::Cluster;
pub use error::{LabError, Result};
pub use image::{
    Image, NODE_IMAGE, ensure_critest_images, ensure_platform_images, ensure_suite_images,
    of_checkpoint, write_node_image,
};
pub use install::{InstallOptions, StoreChoice, default_bin_dir};
pub use lab::{Lab, LabOptions};
pub use node::{AgentOptions, CgroupView, Node, PodNetwork, Role, Service, Spawned};
pub use s3::{ACCESS_KEY, REGION, S3, SECRET_KEY};
