//! The lab's object store: versitygw, a real S3 server over a directory, in a network namespace of its own on the bridge.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;

use crate::addresses::routes;
use crate::cgroup::Groups;
use crate::command::{host, run, tail};
use crate::error::{LabError, Result};
use crate::network::{Network, S3_HOST};
use crate::process::{self, Recorded};
use crate::{places, rootfs, tools, wait};

/// The server's module and version; Apache-2.0. Create-only and compare-and-swap PUTs are right in it.
const MODULE: &str = "github.com/versity/versitygw/cmd/versitygw";
const VERSION: &str = "v1.8.0";
const PATIENCE: Duration = Duration::from_secs(60);
const PORT: u16 = 7070;
/// Name of its cable, its groups and its directory; no node may have it.
pub(crate) const NAME: &str = "s3";

/// Fixed for tests; the server is reachable from this machine only.
pub const ACCESS_KEY: &str = "godwit-lab";
/// Fixed for tests; the server is reachable from this machine only.
pub const SECRET_KEY: &str = "not-a-secret";
/// The region that the server believes to be in.
pub const REGION: &str = "us-east-1";

/// A handle on the lab's S3 server; cheap to clone.
#[derive(Debug, Clone)]
pub struct S3 {
    dir: PathBuf,
    network: Network,
    groups: Groups,
}

impl S3 {
    pub(crate) fn new(lab: &Path, network: Network, groups: &Groups) -> Self {
        Self { dir: lab.join(NAME), network, groups: groups.node(NAME) }
    }

    /// Its address, reachable from the host and from all nodes.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.network.address(S3_HOST)
    }

    /// Its URL, `http://ADDRESS:PORT`. Buckets are in the path; see [`ACCESS_KEY`], [`SECRET_KEY`], [`REGION`].
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}:{PORT}", self.address())
    }

    /// The directory with all objects: `BUCKET/KEY`. For looking, and for damaging what a test wants damaged.
    #[must_use]
    pub fn objects(&self) -> PathBuf {
        self.dir.join("objects")
    }

    /// Whether it runs.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.process().is_some()
    }

    /// Starts it and waits until it answers; builds it first when the cache lacks it. Does nothing when it runs.
    ///
    /// # Errors
    /// With the end of its log when it does not serve in time.
    pub fn start(&self) -> Result<()> {
        self.start_with(&[])
    }

    /// Starts it for readers: whoever writes is refused, as one without the right to.
    ///
    /// # Errors
    /// As [`S3::start`].
    pub fn start_for_readers(&self) -> Result<()> {
        self.start_with(&["--readonly"])
    }

    fn start_with(&self, options: &[&str]) -> Result<()> {
        if self.is_up() {
            return Ok(());
        }
        let server = ensure_built()?;
        places::make_dir(&self.objects())?;
        self.groups.create()?;
        let process = self.spawn(&server, options)?;
        process.store(&self.record())?;
        let up = self.connect(process);
        if up.is_err() {
            let _ = self.kill();
        }
        up.map_err(|why| LabError::Service {
            service: "the S3 server".to_owned(),
            why: why.to_string(),
            log: tail(self.log().trim(), 2000).to_owned(),
        })
    }

    /// Kills it; objects stay. Clients get no answer, not even a refusal: its address is gone.
    ///
    /// # Errors
    /// When it does not end.
    pub fn kill(&self) -> Result<()> {
        self.network.unplug(NAME);
        self.groups.destroy()?;
        process::end_recorded(&self.record(), PATIENCE)
    }

    /// Stops it in the middle of whatever it does: connections are accepted, nothing answers.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on after [`S3::pause`].
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Makes a bucket; that it exists is fine.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn make_bucket(&self, bucket: &str) -> Result<()> {
        if self.objects().join(bucket).exists() {
            return Ok(());
        }
        match self.request("PUT", bucket, &["--fail-with-body"]) {
            // Somebody else has made it meanwhile.
            Err(_) if self.objects().join(bucket).exists() => Ok(()),
            answer => answer.map(drop),
        }
    }

    /// A create-only PUT. False when the object exists already.
    ///
    /// # Errors
    /// When the server answers neither that it was made nor that it exists.
    pub fn put_new(&self, bucket: &str, key: &str, body: &str) -> Result<bool> {
        let more =
            ["--header", "If-None-Match: *", "--data-binary", body, "--write-out", "%{http_code}"];
        let answer = self.request("PUT", &format!("{bucket}/{key}"), &more)?;
        match &answer[answer.len().saturating_sub(3)..] {
            "200" => Ok(true),
            "412" => Ok(false),
            _ => Err(LabError::Refused(format!("the S3 server answered {answer:?}"))),
        }
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        places::read(&self.log_path()).unwrap_or_default()
    }

    /// By the nodes' own curl: those of older systems sign in a way that S3 servers refuse.
    fn request(&self, method: &str, path: &str, more: &[&str]) -> Result<String> {
        let tree = rootfs::ensure()?.display().to_string();
        let url = format!("{}/{path}", self.endpoint());
        let user = format!("{ACCESS_KEY}:{SECRET_KEY}");
        let signed = format!("aws:amz:{REGION}:s3");
        let start = [
            ["chroot", &tree, "curl", "--silent", "--show-error", "--max-time", "30"],
            ["--noproxy", "*", "--request", method, "--aws-sigv4", &signed, "--user"],
        ];
        run(&mut host(&[&start.concat()[..], &[&user], more, &[&url]].concat()))
    }

    fn spawn(&self, server: &Path, options: &[&str]) -> Result<Recorded> {
        let path = self.log_path();
        let log = File::create(&path).map_err(LabError::io("creating", &path))?;
        let errors = log.try_clone().map_err(LabError::io("opening", &path))?;
        let child = self
            .groups
            .command(true, "setsid")
            .args(["unshare", "--net"])
            .arg(server)
            .args(["--access", ACCESS_KEY, "--secret", SECRET_KEY, "--region", REGION])
            .args(["--port", &format!(":{PORT}"), "--quiet", "--keep-alive"])
            .args(options)
            .arg("posix")
            .arg(self.objects())
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .map_err(|source| LabError::Start { program: "sh".to_owned(), source })?;
        process::record(child.id(), "the S3 server")
    }

    fn connect(&self, process: Recorded) -> Result<()> {
        let own = std::fs::read_link("/proc/self/ns/net").unwrap_or_default();
        let there = PathBuf::from(format!("/proc/{}/ns/net", process.pid));
        // Until then a cable would end on the host.
        wait::until_true("the S3 server's network", PATIENCE, || {
            std::fs::read_link(&there).is_ok_and(|there| there != own)
        })?;
        self.network.plug(process.pid, NAME, S3_HOST)?;
        // Pods are clients, too.
        self.network.add_routes(process.pid, &routes(self.network, None))?;
        let address = SocketAddr::from((self.address(), PORT));
        let answer = wait::until("the S3 server to answer", PATIENCE, || {
            if !process.is_alive() {
                return Ok(Err(LabError::Refused("it ended".to_owned())));
            }
            TcpStream::connect_timeout(&address, Duration::from_secs(1)).map(|_| Ok(()))
        });
        answer.and_then(|end| end)
    }

    fn signal(&self, signal: Signal) {
        if let Some(process) = self.process() {
            process.signal(signal);
        }
    }

    fn process(&self) -> Option<Recorded> {
        Recorded::load(&self.record())
    }

    fn record(&self) -> PathBuf {
        self.dir.join("server.pid")
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("server.log")
    }
}

/// The server's program in the cache, built when it is not there.
///
/// # Errors
/// When its module cannot be fetched or built.
pub fn ensure_built() -> Result<PathBuf> {
    let dir = tools::ensure(&format!("versitygw-{VERSION}"), |half| {
        let module = format!("{MODULE}@{VERSION}");
        let words = ["install", "-trimpath", "-ldflags", "-s -w", &module];
        tools::go(half, &words, &[("GOBIN", half)])
    })?;
    Ok(dir.join("versitygw"))
}
