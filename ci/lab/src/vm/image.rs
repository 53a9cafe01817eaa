//! What machines start from, in the cache: Debian's kernel and initrd, a disk, and a warm image of them. All of it is what Debian's
//! packages are after their installation, but for a few units that only cost time.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::command::{host, run};
use crate::error::{LabError, Result};
use crate::lock::LabLock;
use crate::vm::qemu::{Qemu, Start, identity};
use crate::vm::talk::Guest;
use crate::{places, rootfs, wait};

/// Beyond Debian's minimum, sorted.
const PACKAGES: &[&str] = &[
    "busybox-static",
    "ca-certificates",
    "containerd",
    "containernetworking-plugins",
    "criu",
    "crun",
    "dbus",
    "iproute2",
    "iptables",
    "kmod",
    "libcriu2",
    "linux-image-cloud-amd64",
    "mount",
    "procps",
    "qemu-guest-agent",
    "runc",
    "systemd",
    "systemd-sysv",
    "udev",
    "util-linux",
    "zstd",
];
/// Units that wait for a terminal, or for the network of an archive.
const MASKED: &[&str] = &[
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty@tty1.service",
    "serial-getty@ttyS0.service",
    "systemd-firstboot.service",
];
/// So that a first use in a test does not pay for what every machine does once: kernel modules, CRIU's look at the kernel.
const PREWARM: &str = "ctr version; runc --version; criu check; crun --version
for module in overlay unix_diag inet_diag tcp_diag udp_diag netlink_diag af_packet_diag veth bridge nf_tables; do
    modprobe $module || true
done; sync";
/// Any change of what is done below.
const MAKING: &str = "1";
/// Bytes of the disk; only what is used takes room.
const DISK: &str = "10G";
/// For another process that builds the same.
const PATIENCE: Duration = Duration::from_secs(40 * 60);
/// For the first boot.
const BOOT: Duration = Duration::from_secs(400);

/// A complete set in the cache.
#[derive(Debug, Clone)]
pub(super) struct Images {
    dir: PathBuf,
}

impl Images {
    pub(super) fn disk(&self) -> PathBuf {
        self.dir.join("root.raw")
    }

    pub(super) fn kernel(&self) -> PathBuf {
        self.dir.join("vmlinuz")
    }

    pub(super) fn initrd(&self) -> PathBuf {
        self.dir.join("initrd.img")
    }

    pub(super) fn warm_disk(&self) -> PathBuf {
        self.dir.join("warm/disk.qcow2")
    }

    pub(super) fn warm_state(&self) -> PathBuf {
        self.dir.join("warm/state")
    }

    pub(super) fn warm_memory(&self) -> PathBuf {
        self.dir.join("warm/memory")
    }
}

/// The images; built first when the cache lacks them.
pub(super) fn ensure() -> Result<Images> {
    let mut contents = Sha256::new();
    contents.update(format!("{MAKING} {PACKAGES:?} {MASKED:?} {PREWARM} {DISK} {}", identity()?));
    let key: String = contents.finalize().iter().take(6).map(|b| format!("{b:02x}")).collect();
    let all = places::cache().join("vm");
    let images = Images { dir: all.join(key) };
    if images.warm_state().exists() {
        return Ok(images);
    }
    let _lock = LabLock::take(&all.join("lock"), "the cache of machines", PATIENCE)?;
    if !images.disk().exists() {
        build(&images)?;
    }
    if !images.warm_state().exists() {
        eprintln!("booting the machine once, to keep it as a warm image");
        warm(&images)?;
    }
    Ok(images)
}

fn build(images: &Images) -> Result<()> {
    eprintln!("building the machine's disk in {} (once)", images.dir.display());
    let half = images.dir.with_extension("building");
    places::remove(&half)?;
    places::make_dir(&half)?;
    let tree = half.join("tree");
    rootfs::build(&tree, PACKAGES)?;
    for (name, link) in [("vmlinuz", "vmlinuz"), ("initrd.img", "initrd.img")] {
        let from =
            fs::canonicalize(tree.join(link)).map_err(LabError::io("finding", &tree.join(link)))?;
        fs::copy(&from, half.join(name)).map_err(LabError::io("copying", &from))?;
    }
    finish(&tree)?;
    let disk = half.join("root.raw");
    run(&mut host(&[
        "mke2fs",
        "-q",
        "-t",
        "ext4",
        "-m",
        "0",
        "-E",
        "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0",
        "-O",
        "^orphan_file",
        "-d",
        &tree.display().to_string(),
        &disk.display().to_string(),
        DISK,
    ]))?;
    places::remove(&tree)?;
    fs::rename(&half, &images.dir).map_err(LabError::io("renaming", &half))
}

/// What an installer would ask for, and what a machine without a terminal and an archive does not need.
fn finish(tree: &Path) -> Result<()> {
    let write = |path: &str, text: &str| places::write(&tree.join(path), text);
    write("etc/hostname", "vm\n")?;
    write("etc/hosts", "127.0.0.1 localhost vm\n")?;
    write("etc/resolv.conf", "# no name server in the lab\n")?;
    write("etc/fstab", "/dev/vda / ext4 noatime 0 1\n")?;
    // With an empty one every first boot would set all units to their presets.
    write("etc/machine-id", "6f64776974000000000000006c616276\n")?;
    write("etc/.updated", "")?;
    write("var/.updated", "")?;
    places::make_dir(&tree.join("var/log/journal"))?;
    for unit in MASKED {
        let path = tree.join("etc/systemd/system").join(unit);
        places::remove(&path)?;
        symlink("/dev/null", &path).map_err(LabError::io("linking", &path))?;
    }
    Ok(())
}

/// Boots once and keeps memory and disk.
fn warm(images: &Images) -> Result<()> {
    let dir = images.dir.join("warm.building");
    Qemu::end_recorded(&dir)?;
    places::remove(&dir)?;
    places::make_dir(&dir)?;
    let qemu = Qemu::new(&dir, images);
    qemu.make_disk(Start::Cold)?;
    let made = boot_and_save(&qemu, &dir);
    let ended = qemu.end();
    made.and(ended)?;
    let warm = images.dir.join("warm");
    fs::rename(&dir, &warm).map_err(LabError::io("renaming", &dir))
}

fn boot_and_save(qemu: &Qemu<'_>, dir: &Path) -> Result<()> {
    qemu.start(Start::Cold)?;
    let guest = Guest::new(dir);
    guest.wait(BOOT, || qemu.is_up()).map_err(|why| LabError::Service {
        service: "the machine's first boot".to_owned(),
        why: why.to_string(),
        log: places::read(&dir.join("console.log")).unwrap_or_default(),
    })?;
    let settle = format!("systemctl is-system-running --wait; {PREWARM}");
    let ended = guest.exec(&["bash", "-c", &settle], BOOT)?;
    if !ended.out.starts_with("running") {
        let failed = guest.exec(&["systemctl", "--failed", "--no-legend", "--plain"], BOOT)?;
        return Err(LabError::Refused(format!("systemd is {}{}", ended.out, failed.out)));
    }
    qemu.save(&dir.join("state"))?;
    wait::until_true("QEMU to end", BOOT, || !qemu.is_up())?;
    let (memory, kept) = (qemu.memory().display().to_string(), dir.join("memory"));
    run(&mut host(&["cp", "--sparse=always", &memory, &kept.display().to_string()])).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_are_sorted_so_that_their_key_is_one() {
        assert!(PACKAGES.is_sorted() && MASKED.is_sorted());
    }
}
