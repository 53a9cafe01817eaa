//! The QEMU process of one machine: its command line, its start from a warm image or cold, its end.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::command::{host, run};
use crate::error::{LabError, Result};
use crate::places;
use crate::process::{self, Recorded};
use crate::vm::image::Images;
use crate::vm::talk::Monitor;
use crate::wait;

const QEMU: &str = "qemu-system-x86_64";
const CPUS: &str = "2";
pub(super) const MEMORY_MIB: u64 = 3072;
/// Five-level page tables and nested virtualisation only cost time here.
const CPU: &str = "max,la57=off,svm=off";
/// Hardware help would be another machine: this one is the same everywhere.
const ACCELERATOR: &str = "tcg,thread=multi,tb-size=512";
/// What differs from a stock installation only saves time.
const KERNEL_LINE: &str = "root=/dev/vda rootfstype=ext4 rootflags=noatime rw console=ttyS0 quiet TERM=dumb \
    systemd.tty.term.console=dumb panic=-1 mitigations=off nokaslr tsc=reliable audit=0";
/// For QEMU to serve its monitor, to end, to read or write a machine's state.
const PATIENCE: Duration = Duration::from_secs(60);

/// From what a machine starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// The kernel boots.
    Cold,
    /// It goes on where the warm image was saved.
    Warm,
}

/// What a saved state depends on beside the disk.
pub(super) fn identity() -> Result<String> {
    let version = run(&mut host(&[QEMU, "--version"])).map_err(missing)?;
    let version = version.lines().next().unwrap_or_default().to_owned();
    Ok(format!("{version} {CPUS} {MEMORY_MIB} {CPU} {ACCELERATOR} {KERNEL_LINE}"))
}

fn missing(why: LabError) -> LabError {
    match why {
        LabError::Start { .. } => {
            LabError::Missing { what: QEMU.to_owned(), hint: "`make deps` installs it".to_owned() }
        }
        other => other,
    }
}

/// The QEMU whose files are in one directory.
#[derive(Debug)]
pub(super) struct Qemu<'a> {
    dir: &'a Path,
    images: &'a Images,
}

impl<'a> Qemu<'a> {
    pub(super) fn new(dir: &'a Path, images: &'a Images) -> Self {
        Self { dir, images }
    }

    /// A fresh disk over the one of the image.
    pub(super) fn make_disk(&self, start: Start) -> Result<()> {
        let (base, format) = match start {
            Start::Cold => (self.images.disk(), "raw"),
            Start::Warm => (self.images.warm_disk(), "qcow2"),
        };
        let (base, disk) = (base.display().to_string(), self.disk().display().to_string());
        let words = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", &base, "-F", format, &disk];
        run(&mut host(&words)).map(drop)
    }

    pub(super) fn disk(&self) -> PathBuf {
        self.dir.join("disk.qcow2")
    }

    /// The machine's memory: a file in memory, of which only what the machine has touched is used.
    pub(super) fn memory(&self) -> PathBuf {
        let name = self.dir.to_string_lossy().replace('/', "-");
        PathBuf::from(format!("/dev/shm/godwit-vm{name}"))
    }

    pub(super) fn is_up(&self) -> bool {
        Recorded::load(&self.dir.join("qemu.pid")).is_some()
    }

    /// Starts it; the machine runs when this returns.
    pub(super) fn start(&self, start: Start) -> Result<()> {
        let mut monitor = self.launch(start)?;
        if start == Start::Warm {
            monitor.ask("migrate-set-capabilities", &memory_stays())?;
            let from = format!("exec:cat <{}", self.images.warm_state().display());
            monitor.ask("migrate-incoming", &json!({ "uri": from }))?;
            monitor.wait_for_migration(PATIENCE)?;
        }
        // The saved machine had no such disk.
        let share = json!({ "node-name": "share", "driver": "raw", "read-only": true,
            "file": { "driver": "file", "filename": self.dir.join("share.img") } });
        if self.dir.join("share.img").exists() {
            monitor.ask("blockdev-add", &share)?;
            let device =
                json!({ "driver": "virtio-blk-pci", "id": "share", "drive": "share", "addr": "7" });
            monitor.ask("device_add", &device)?;
        }
        monitor.ask("cont", &Value::Null).map(drop)
    }

    /// Saves memory and devices of a running machine, and ends it.
    pub(super) fn save(&self, state: &Path) -> Result<()> {
        let mut monitor = Monitor::open(&self.dir.join("qmp.sock"))?;
        monitor.ask("stop", &Value::Null)?;
        monitor.ask("migrate-set-capabilities", &memory_stays())?;
        let to = format!("exec:cat >{}", state.display());
        monitor.ask("migrate", &json!({ "uri": to }))?;
        monitor.wait_for_migration(PATIENCE)?;
        monitor.ask("quit", &Value::Null)?;
        wait::until_true("QEMU to end", PATIENCE, || !self.is_up())
    }

    fn launch(&self, start: Start) -> Result<Monitor> {
        let memory = self.memory();
        if start == Start::Warm {
            let (from, to) = (self.images.warm_memory(), memory.display().to_string());
            run(&mut host(&["cp", "--sparse=always", &from.display().to_string(), &to]))?;
        }
        let log = File::create(self.dir.join("qemu.log"));
        let log = log.map_err(LabError::io("creating", &self.dir.join("qemu.log")))?;
        let mut command = self.command(start, &memory);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command
            .spawn()
            .map_err(|source| LabError::Start { program: QEMU.to_owned(), source })
            .map_err(missing)?;
        process::record(child.id(), "the machine")?.store(&self.dir.join("qemu.pid"))?;
        let socket = self.dir.join("qmp.sock");
        wait::until("QEMU to serve its monitor", PATIENCE, || match Monitor::open(&socket) {
            Ok(monitor) => Ok(Ok(monitor)),
            Err(why) if self.is_up() => Err(why.to_string()),
            Err(_) => Ok(Err(self.said())),
        })?
    }

    fn said(&self) -> LabError {
        LabError::Service {
            service: QEMU.to_owned(),
            why: "it ended".to_owned(),
            log: places::read(&self.dir.join("qemu.log")).unwrap_or_default(),
        }
    }

    fn command(&self, start: Start, memory: &Path) -> Command {
        let at = |name: &str| self.dir.join(name).display().to_string();
        let mut command = Command::new("setsid");
        command
            .args([QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-S"])
            .args(["-machine", "pc,memory-backend=ram,usb=off,vmport=off,smbus=off"])
            .args(["-accel", ACCELERATOR, "-cpu", CPU, "-smp", CPUS])
            .args(["-m", &MEMORY_MIB.to_string(), "-object"])
            .arg(format!(
                "memory-backend-file,id=ram,size={MEMORY_MIB}M,share=on,mem-path={}",
                memory.display()
            ))
            .arg("-kernel")
            .arg(self.images.kernel())
            .arg("-initrd")
            .arg(self.images.initrd())
            .args(["-append", KERNEL_LINE])
            .arg("-drive")
            .arg(format!("file={},if=none,id=disk,cache=unsafe,discard=unmap", at("disk.qcow2")))
            .args(["-device", "virtio-blk-pci,drive=disk,addr=4"])
            .args(["-device", "virtio-serial-pci,addr=5", "-chardev"])
            .arg(format!("socket,id=guest,path={},server=on,wait=off", at("guest.sock")))
            .args(["-device", "virtserialport,chardev=guest,name=org.qemu.guest_agent.0"])
            .args(["-device", "virtio-rng-pci,addr=6", "-device", "vmgenid,guid=auto"])
            .args(["-chardev", &format!("file,id=console,append=on,path={}", at("console.log"))])
            .args(["-serial", "chardev:console", "-rtc", "base=utc", "-no-reboot"])
            .args(["-qmp", &format!("unix:{},server=on,wait=off", at("qmp.sock"))]);
        if start == Start::Warm {
            command.args(["-incoming", "defer"]);
        }
        command
    }

    /// Ends it at once, as a power failure does: what the guest had not written is lost, what it had is on its disk.
    pub(super) fn end(&self) -> Result<()> {
        if let Ok(mut monitor) = Monitor::open(&self.dir.join("qmp.sock")) {
            // It writes what it holds of the disk's image, then ends, with or without an answer.
            let _ = monitor.ask("quit", &Value::Null);
            let _ = wait::until_true("QEMU to end", PATIENCE, || !self.is_up());
        }
        Self::end_recorded(self.dir)?;
        places::remove(&self.memory())
    }

    /// The same, when only its directory is known.
    pub(super) fn end_recorded(dir: &Path) -> Result<()> {
        process::end_recorded(&dir.join("qemu.pid"), PATIENCE)?;
        let name = dir.to_string_lossy().replace('/', "-");
        places::remove(Path::new(&format!("/dev/shm/godwit-vm{name}")))
    }
}

/// Memory is a file that both sides have: only the devices' state is saved.
fn memory_stays() -> Value {
    json!({ "capabilities": [{ "capability": "x-ignore-shared", "state": true }] })
}
