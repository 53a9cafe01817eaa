//! The ways into the kernel that a machine has, as seccomp tells them apart, and the system calls of each.
//!
//! Numbers and names are those of libseccomp, from which runc makes filters: where the tables of the `syscalls` crate
//! differ from it, this is mended here ([`Abi::calls`]).

use std::collections::BTreeMap;

use oci_spec::runtime::Arch;

/// Numbers that are looked at. Linux 6.18 has less than half as many.
pub(super) const NUMBERS: u32 = 1024;
/// Set in the numbers of x32, which is otherwise x86-64 (`__X32_SYSCALL_BIT`).
const X32_BIT: u32 = 0x4000_0000;
/// From here on a number means the same on all architectures, since Linux 5.9.
pub(super) const UNIFIED: u32 = 440;

/// A kind of machine that Godwit runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Machine {
    X86_64,
    Aarch64,
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("Godwit does not know the system calls of this architecture");

impl Machine {
    /// This one.
    pub(super) const HERE: Self =
        if cfg!(target_arch = "aarch64") { Self::Aarch64 } else { Self::X86_64 };

    /// Its ways in. The first is its own: runc's filters always have it.
    pub(super) const fn abis(self) -> &'static [Abi] {
        match self {
            Self::X86_64 => &[Abi::X86_64, Abi::X86, Abi::X32],
            Self::Aarch64 => &[Abi::Aarch64, Abi::Arm],
        }
    }
}

/// One way into the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Abi {
    X86_64,
    X86,
    X32,
    Aarch64,
    Arm,
}

/// System calls by number. Names are libseccomp's.
pub(super) type Calls = BTreeMap<u32, &'static str>;

impl Abi {
    /// `AUDIT_ARCH_…` of `<linux/audit.h>`
    pub(super) const fn audit_arch(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
        }
    }

    /// A number as the kernel and its filters see it.
    pub(super) const fn seen(self, nr: u32) -> u32 {
        match self {
            Self::X32 => nr | X32_BIT,
            _ => nr,
        }
    }

    /// Whether it is told from another one by its numbers alone.
    pub(super) const fn shares_architecture(self) -> bool {
        matches!(self, Self::X32)
    }

    /// How specs name it.
    pub(super) const fn listed(self) -> Arch {
        match self {
            Self::X86_64 => Arch::ScmpArchX86_64,
            Self::X86 => Arch::ScmpArchX86,
            Self::X32 => Arch::ScmpArchX32,
            Self::Aarch64 => Arch::ScmpArchAarch64,
            Self::Arm => Arch::ScmpArchArm,
        }
    }

    /// How a person names it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86-64",
            Self::X86 => "32-bit x86",
            Self::X32 => "x32",
            Self::Aarch64 => "arm64",
            Self::Arm => "32-bit ARM",
        }
    }

    /// All that have a name.
    pub(super) fn calls(self) -> Calls {
        let mut calls = self.table();
        if let Self::Aarch64 = self {
            // The kernel's headers know it by its other name. Calls with times of 64 bits are those of 32-bit machines.
            calls.insert(79, "newfstatat");
            calls.retain(|_, name| !name.ends_with("time64"));
        }
        if let Self::X32 = self {
            let own: Vec<&str> = X32_OWN.into_iter().chain(NOT_X32).collect();
            calls.retain(|_, name| !own.contains(name));
            calls.extend((X32_FIRST..).zip(X32_OWN));
        }
        calls
    }

    fn table(self) -> Calls {
        macro_rules! table {
            ($arch:ident) => {
                syscalls::$arch::Sysno::iter().map(|call| (call.id(), call.name())).collect()
            };
        }
        let table: Vec<(i32, &'static str)> = match self {
            Self::X86_64 | Self::X32 => table!(x86_64),
            Self::X86 => table!(x86),
            Self::Aarch64 => table!(aarch64),
            Self::Arm => table!(arm),
        };
        // `break` is a word of Rust's, too.
        let plain = |name: &'static str| name.strip_prefix("r#").unwrap_or(name);
        table
            .into_iter()
            .filter_map(|(nr, name)| Some((u32::try_from(nr).ok()?, plain(name))))
            .collect()
    }
}

/// Whether the oldest libseccomp that runc can have been built with, 2.5.0, does not know this call. A rule for it, or for
/// one that comes after it, then has no effect.
pub(super) fn is_young(nr: u32, name: &str) -> bool {
    (UNIFIED..X32_FIRST).contains(&nr) || ["close_range", "uretprobe", "uprobe"].contains(&name)
}

/// First of the numbers that x32 alone has (`arch/x86/entry/syscalls/syscall_64.tbl`). There will be no more of them.
const X32_FIRST: u32 = 512;

/// Calls that x32 has under numbers of its own, in order.
const X32_OWN: [&str; 36] = [
    "rt_sigaction",
    "rt_sigreturn",
    "ioctl",
    "readv",
    "writev",
    "recvfrom",
    "sendmsg",
    "recvmsg",
    "execve",
    "ptrace",
    "rt_sigpending",
    "rt_sigtimedwait",
    "rt_sigqueueinfo",
    "sigaltstack",
    "timer_create",
    "mq_notify",
    "kexec_load",
    "waitid",
    "set_robust_list",
    "get_robust_list",
    "vmsplice",
    "move_pages",
    "preadv",
    "pwritev",
    "rt_tgsigqueueinfo",
    "recvmmsg",
    "sendmmsg",
    "process_vm_readv",
    "process_vm_writev",
    "setsockopt",
    "getsockopt",
    "io_setup",
    "io_submit",
    "execveat",
    "preadv2",
    "pwritev2",
];

/// Calls of x86-64 that x32 does not have.
const NOT_X32: [&str; 11] = [
    "uselib",
    "_sysctl",
    "create_module",
    "get_kernel_syms",
    "query_module",
    "nfsservctl",
    "set_thread_area",
    "get_thread_area",
    "epoll_ctl_old",
    "epoll_wait_old",
    "vserver",
];

/// Calls that 32-bit x86 has through one number, too, by what they are about: a rule for one of them is also a rule for
/// some arguments of that number.
pub(super) const MULTIPLEXED: [(&str, &[&str]); 2] = [
    (
        "socketcall",
        &[
            "socket",
            "bind",
            "connect",
            "listen",
            "accept",
            "getsockname",
            "getpeername",
            "socketpair",
            "send",
            "recv",
            "sendto",
            "recvfrom",
            "shutdown",
            "setsockopt",
            "getsockopt",
            "sendmsg",
            "recvmsg",
            "accept4",
            "recvmmsg",
            "sendmmsg",
        ],
    ),
    (
        "ipc",
        &[
            "semop",
            "semget",
            "semctl",
            "semtimedop",
            "msgsnd",
            "msgrcv",
            "msgget",
            "msgctl",
            "shmat",
            "shmdt",
            "shmget",
            "shmctl",
        ],
    ),
];
