//! Bundles as containerd's CRI makes them: an overlay, a spec, a pod's namespaces.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Result, bail, ensure};
use oci_spec::runtime::Spec;
use serde_json::{Value, json};

use crate::freezer::is_v2;
use crate::streams::{Ends, Streams, wait};

/// On ext4: an overlay cannot be the upper part of an overlay.
const PLACE: &str = "/var/lib/containerd/criu-lab";

/// A pod's namespaces: network, IPC and host name, held by a sleeping process.
pub(crate) struct Sandbox {
    child: Child,
}

impl Sandbox {
    pub(crate) fn new(name: &str) -> Result<Self> {
        let child = Command::new("unshare")
            .args(["--net", "--ipc", "--uts", "sleep", "infinity"])
            .stdin(Stdio::null())
            .spawn()?;
        let sandbox = Self { child };
        let comm = format!("/proc/{}/comm", sandbox.child.id());
        wait("the sandbox", || Ok((fs::read_to_string(&comm)?.trim() == "sleep").then_some(())))?;
        sandbox.sh(&format!("ip link set lo up; hostname pod-{name}"))?;
        Ok(sandbox)
    }

    pub(crate) fn namespace(&self, kind: &str) -> String {
        format!("/proc/{}/ns/{kind}", self.child.id())
    }

    fn sh(&self, line: &str) -> Result<()> {
        sh(&format!("nsenter -t {} --net --uts sh -ec '{line}'", self.child.id()))
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A bundle on this node.
pub(crate) struct Bundle {
    pub(crate) id: String,
    pub(crate) dir: PathBuf,
    pub(crate) cgroup: String,
}

/// A container that runs.
pub(crate) struct Running {
    pub(crate) pid: u32,
    pub(crate) streams: Streams,
}

impl Bundle {
    /// Makes a bundle; `None` for namespaces of the container's own.
    pub(crate) fn new(id: &str, sandbox: Option<&Sandbox>) -> Result<Self> {
        let dir = Path::new(PLACE).join(id);
        for sub in ["upper", "work", "rootfs", "vol/inner"] {
            fs::create_dir_all(dir.join(sub))?;
        }
        fs::write(dir.join("hosts"), format!("127.0.0.1 {id}\n"))?;
        sh(&format!(
            "mountpoint -q {0} || mount -t tmpfs inner {0}",
            dir.join("vol/inner").display()
        ))?;
        fs::write(dir.join("vol/inner/file"), id)?;
        let bundle = Self { id: id.to_owned(), cgroup: format!("/criu-lab/{id}"), dir };
        let lower = lower()?;
        sh(&format!(
            "mount -t overlay overlay -o lowerdir={},upperdir={1}/upper,workdir={1}/work {1}/rootfs",
            lower.display(),
            bundle.dir.display()
        ))?;
        bundle.edit(|_| spec(&bundle, sandbox))?;
        Ok(bundle)
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    pub(crate) fn spec(&self) -> Result<Spec> {
        Ok(serde_json::from_slice(&fs::read(self.dir.join("config.json"))?)?)
    }

    pub(crate) fn edit(&self, change: impl FnOnce(Value) -> Value) -> Result<()> {
        let path = self.dir.join("config.json");
        let old = fs::read(&path).ok().map(|b| serde_json::from_slice(&b)).transpose()?;
        let new = change(old.unwrap_or(Value::Null));
        Ok(fs::write(path, serde_json::to_vec_pretty(&new)?)?)
    }

    /// Copies what another container wrote into its layer.
    pub(crate) fn take_layer(&self, of: &Self) -> Result<()> {
        sh(&format!("cp -a {}/upper/. {}/rootfs/", of.dir.display(), self.dir.display()))
    }

    pub(crate) fn run(&self) -> Result<Running> {
        let (streams, ends) = Streams::new()?;
        self.runc("run", &["--detach"], ends, &[])?;
        Ok(Running { pid: self.pid()?, streams })
    }

    /// `runc <verb> … --bundle … --pid-file … <id>`; its own log becomes the error.
    pub(crate) fn runc(
        &self,
        verb: &str,
        options: &[&str],
        ends: Ends,
        env: &[(&str, &str)],
    ) -> Result<()> {
        let (log, pid_file) = (self.dir.join("runc.log"), self.dir.join("pid"));
        let status = Command::new("runc")
            .args(["--log".as_ref(), log.as_os_str(), verb.as_ref()])
            .args(options)
            .args(["--bundle".as_ref(), self.dir.as_os_str()])
            .args(["--pid-file".as_ref(), pid_file.as_os_str()])
            .arg(&self.id)
            .envs(env.iter().copied())
            .stdin(ends.stdin)
            .stdout(ends.stdout)
            .stderr(ends.stderr)
            .status()?;
        if !status.success() {
            bail!("runc {verb}: {status}: {}", fs::read_to_string(log).unwrap_or_default());
        }
        Ok(())
    }

    pub(crate) fn pid(&self) -> Result<u32> {
        Ok(fs::read_to_string(self.dir.join("pid"))?.trim().parse()?)
    }

    /// Runs a line inside the container.
    pub(crate) fn exec(&self, words: &[&str]) -> Result<String> {
        let output = Command::new("runc").args(["exec", &self.id]).args(words).output()?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        ensure!(
            output.status.success(),
            "exec {words:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(text)
    }

    pub(crate) fn delete(&self) -> Result<()> {
        sh(&format!("runc delete --force {}", self.id))
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = self.delete();
        let _ = sh(&format!("umount -l {0}/rootfs {0}/vol/inner; rm -rf {0}", self.dir.display()));
    }
}

/// The image: this program and a few of the node's, with what they are linked with.
fn lower() -> Result<PathBuf> {
    let dir = Path::new(PLACE).join("image");
    if dir.join("etc/hosts").exists() {
        return Ok(dir);
    }
    for sub in ["bin", "proc", "sys", "dev", "etc", "tmp", "cache", "vol", "run"] {
        fs::create_dir_all(dir.join(sub))?;
    }
    let exe = std::env::current_exe()?;
    for program in ["/bin/sh", "/bin/cat", "/bin/hostname", &exe.display().to_string()] {
        sh(&format!(
            "cp -L {program} {0}/bin/; ldd {program} | grep -o '/[^ ]*' | while read -r f; do mkdir -p {0}/$(dirname $f); cp -L $f {0}/$f; done",
            dir.display()
        ))?;
    }
    fs::write(dir.join("etc/hosts"), "")?;
    Ok(dir)
}

fn spec(bundle: &Bundle, sandbox: Option<&Sandbox>) -> Value {
    let path = |kind: &str, name: &str| match sandbox {
        Some(sandbox) => json!({"type": kind, "path": sandbox.namespace(name)}),
        None => json!({"type": kind}),
    };
    let mut namespaces = vec![
        json!({"type": "pid"}),
        json!({"type": "mount"}),
        path("network", "net"),
        path("ipc", "ipc"),
        path("uts", "uts"),
    ];
    if is_v2() {
        namespaces.push(json!({"type": "cgroup"}));
    }
    let caps = json!([
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_KILL",
        "CAP_NET_BIND_SERVICE",
        "CAP_SETUID",
        "CAP_SETGID"
    ]);
    let devices = if is_v2() { json!([]) } else { json!([{"allow": false, "access": "rwm"}]) };
    let mut spec = json!({
        "ociVersion": "1.2.0",
        "process": {
            "terminal": false, "user": {"uid": 0, "gid": 0}, "cwd": "/",
            "args": ["/bin/criu_lab", "workload"], "env": ["PATH=/bin"],
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
            "noNewPrivileges": true, "oomScoreAdj": 0,
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 4096}]
        },
        "root": {"path": bundle.rootfs(), "readonly": false},
        "mounts": mounts(bundle),
        "linux": {
            "cgroupsPath": bundle.cgroup,
            "namespaces": namespaces,
            "resources": {"devices": devices},
            "seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
                "syscalls": [{"names": ["io_uring_setup", "kexec_load"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]},
            "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/scsi", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        }
    });
    if sandbox.is_none() {
        spec["hostname"] = json!(format!("own-{}", bundle.id));
    }
    spec
}

fn mounts(bundle: &Bundle) -> Value {
    let own = |destination: &str, kind: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": kind, "options": options});
    let bind = |destination: &str, source: &str, mode: &str| {
        let source = bundle.dir.join(source);
        json!({"destination": destination, "type": "bind", "source": source, "options": ["rbind", "rprivate", mode]})
    };
    json!([
        own("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        own("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        own(
            "/dev/pts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]
        ),
        own("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        own("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        own("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        own("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
        own("/cache", "tmpfs", &["nosuid", "nodev", "size=16m", "mode=1777"]),
        bind("/etc/hosts", "hosts", "rw"),
        bind("/vol", "vol", "rw"),
    ])
}

/// Runs a line of shell that has to succeed.
pub(crate) fn sh(line: &str) -> Result<()> {
    let output = Command::new("sh").args(["-ec", line]).stdin(Stdio::null()).output()?;
    ensure!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
