//! A real S3 server for one test: versitygw over a temporary directory, on loopback.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use godwit_store::{Secret, StoreConfig};

const ACCESS: &str = "test";
const SECRET: &str = "not-a-secret";
const BUCKET: &str = "godwit";
/// It answers within a second on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Killed when dropped.
pub struct Server {
    child: Child,
    port: u16,
    objects: tempfile::TempDir,
}

/// Where the lab keeps the server that it builds.
fn program() -> PathBuf {
    let home = std::env::var_os("HOME").unwrap_or_else(|| "/root".into());
    let cache = std::env::var_os("GODWIT_LAB_CACHE")
        .map_or_else(|| PathBuf::from(home).join(".cache/godwit-lab"), PathBuf::from);
    let built = cache.join("tools/versitygw-v1.8.0/versitygw");
    let program = std::env::var_os("GODWIT_S3_SERVER").map_or(built, PathBuf::from);
    assert!(
        program.exists(),
        "there is no S3 server at {}: build it with `lab s3 build`, or name one in GODWIT_S3_SERVER",
        program.display()
    );
    program
}

impl Server {
    pub async fn start() -> Self {
        let objects = tempfile::tempdir().unwrap();
        std::fs::create_dir(objects.path().join(BUCKET)).unwrap();
        let deadline = Instant::now() + PATIENCE;
        // Somebody else may take the port between our look and the server's start: then the next one.
        while Instant::now() < deadline {
            let port = free_port();
            let mut child = spawn(&objects, port);
            if answers(&mut child, port, deadline).await {
                return Self { child, port, objects };
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        panic!("the S3 server did not start within {PATIENCE:?}");
    }

    /// An object that no client of ours wrote.
    pub fn plant(&self, name: &str) {
        let path = self.objects.path().join(BUCKET).join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "x").unwrap();
    }

    pub fn config(&self, prefix: &str) -> StoreConfig {
        let mut config = StoreConfig::from_url(&format!("s3://{BUCKET}/{prefix}")).unwrap();
        config.endpoint = Some(format!("http://127.0.0.1:{}", self.port).parse().unwrap());
        config.access_key_id = Some(ACCESS.to_owned());
        config.secret_access_key = Some(Secret::new(SECRET));
        config.request_timeout_seconds = Some(30);
        config
    }
}

/// A port that no server of this process was given before, though one may not listen on it yet.
fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let free = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let mut given = GIVEN.lock().unwrap();
    std::iter::repeat_with(free).find(|port| given.insert(*port)).unwrap()
}

fn spawn(objects: &tempfile::TempDir, port: u16) -> Child {
    // Ends with us, also if we are killed.
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL"])
        .arg(program())
        .args(["--access", ACCESS, "--secret", SECRET, "--region", "us-east-1", "--quiet"])
        .args(["--port", &format!("127.0.0.1:{port}"), "posix"])
        .arg(objects.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

async fn answers(child: &mut Child, port: u16, deadline: Instant) -> bool {
    while Instant::now() < deadline && child.try_wait().unwrap().is_none() {
        if tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_ok() {
            return child.try_wait().unwrap().is_none();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    false
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
