//! `hold`: a process with something that cannot be saved, until it is killed. Tells `ready` when it has it.

use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use godwit_programs::progress::Progress;
use godwit_programs::sys::held;

/// Holds something that cannot be saved.
#[derive(Parser)]
struct Arguments {
    /// What.
    #[arg(value_enum)]
    what: What,
    #[command(flatten)]
    progress: Progress,
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// An io_uring instance.
    IoUring,
    /// A userfaultfd.
    Userfaultfd,
    /// A child that it traces.
    Traced,
    /// A mount namespace of its own, in a child.
    Nested,
    /// A device that is open.
    Device,
    /// A device that is mapped and not open any more.
    MappedDevice,
    /// Two files of 3 MiB, deleted and open.
    DeletedFiles,
    /// A FUSE file system at `/fuse` that it serves (and never answers for).
    Fuse,
    /// A temporary file system at `/held-mount`, of which its container's spec says nothing.
    Mount,
    /// A connection to the gRPC server at the unix socket `/peer.sock`.
    UnixPeer,
    /// A thread that waits in `vfork` for a child which executes nothing.
    Vfork,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let held = match arguments.what {
        What::IoUring => held::io_uring(),
        What::Userfaultfd => held::userfaultfd(),
        What::Traced => held::traced_child(),
        What::Nested => held::nested_child(),
        What::Device => held::device(),
        What::MappedDevice => held::mapped_device(),
        What::DeletedFiles => held::deleted_files(),
        What::Fuse => held::fuse(),
        What::Mount => held::mount(),
        What::UnixPeer => held::unix_peer(),
        What::Vfork => held::vfork(),
    };
    match held.and_then(|held| arguments.progress.tell("ready 1").map(|()| held)) {
        Ok(_held) => loop {
            std::thread::park();
        },
        Err(error) => {
            eprintln!("hold: {error}");
            ExitCode::FAILURE
        }
    }
}
