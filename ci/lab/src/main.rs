//! `lab`: the lab for people. Parses, calls the library, prints.

#[path = "main/vm.rs"]
mod vm;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use godwit_lab::vm::Machine;
use godwit_lab::{
    CgroupView, Cluster, ClusterName, Image, InstallOptions, Lab, LabError, LabOptions, Node,
    Result, Service, StoreChoice, default_bin_dir, kubernetes, places, rootfs, s3,
};

/// Real container nodes on this machine, for tests and for looking around. Needs root.
#[derive(Parser)]
#[command(name = "lab", version)]
struct Arguments {
    /// Name of the lab; labs of different names live beside each other.
    #[arg(long, global = true, env = "GODWIT_LAB", default_value = "lab")]
    lab: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start nodes (those that run already go on running).
    #[command(subcommand)]
    Up(Up),
    /// Take the lab down and remove all it has made, except the cache.
    Down {
        /// All labs of this machine, such as an interrupted demo has left, except those that a running process works with.
        #[arg(long)]
        all: bool,
    },
    /// Run a command in a node; its exit status becomes ours.
    Exec {
        /// The node.
        node: String,
        /// The command.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Run kubectl on a cluster; its exit status becomes ours.
    #[command(visible_alias = "k")]
    Kubectl {
        /// The cluster: a, b.
        cluster: ClusterName,
        /// What kubectl is told.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Print a log of a node: containerd, godwit-agent, kubelet, kube-proxy or console; of a control plane: etcd,
    /// kube-apiserver, kube-controller-manager or kube-scheduler.
    Logs {
        /// The node.
        node: String,
        /// Which log.
        #[arg(default_value = "containerd")]
        what: String,
    },
    /// Show nodes and clusters.
    Status,
    /// End all processes of a node at once, as when its power fails.
    PowerLoss {
        /// The node.
        node: String,
    },
    /// Power loss, then on again.
    Reboot {
        /// The node.
        node: String,
    },
    /// Install Godwit's programs on nodes and start the agents.
    Install {
        /// The nodes; all that run containers when none is named.
        nodes: Vec<String>,
        /// Directory with the built programs; by default where this program is.
        #[arg(long)]
        bin_dir: Option<PathBuf>,
        /// The store: a directory of the node, or `s3://bucket/prefix` on the lab's S3 server.
        #[arg(long, default_value = "/lab/shared/store")]
        store: String,
    },
    /// Import test images (shell, redis, mem, web) into a node's containerd.
    Import {
        /// The node.
        node: String,
        /// The images; all when none is named.
        images: Vec<String>,
        /// Namespace of containerd.
        #[arg(long, default_value = "default")]
        namespace: String,
    },
    /// The lab's S3 server.
    #[command(subcommand)]
    S3(S3Command),
    /// Build Kubernetes' programs if the cache lacks them, and print where they are.
    Kubernetes,
    /// A virtual machine with a stock Debian kernel, systemd and cgroup v2.
    #[command(subcommand)]
    Vm(vm::Command),
    /// Build the nodes' root file system if the cache lacks it, and list the packages in it.
    Rootfs,
}

#[derive(Subcommand)]
enum S3Command {
    /// Build it if the cache lacks it, and print where it is.
    Build,
    /// Start it (builds it the first time) and print how to reach it.
    Up,
    /// Kill it; objects stay until the lab is taken down.
    Down,
}

#[derive(Subcommand)]
enum Up {
    /// Nodes with containerd.
    Node {
        /// Their names.
        #[arg(long, value_delimiter = ',', default_value = "n1,n2")]
        nodes: Vec<String>,
        /// What they see of control groups; else what the machine has.
        #[arg(long, value_enum)]
        cgroup: Option<Cgroup>,
    },
    /// Kubernetes clusters: a with the workers a1 and a2, b with b1, and an S3 server. The control planes are the nodes a0 and b0.
    Clusters {
        /// Clusters and how many workers each has, 1 to 3.
        #[arg(long, value_delimiter = ',', default_value = "a=2,b=1", value_parser = parse_workers)]
        workers: Vec<(ClusterName, u8)>,
    },
}

fn parse_workers(text: &str) -> std::result::Result<(ClusterName, u8), String> {
    let (name, workers) = text.split_once('=').ok_or("write it as a=2")?;
    let workers = workers.parse().map_err(|_| format!("{workers:?} is no number"))?;
    Ok((name.parse().map_err(|error: LabError| error.to_string())?, workers))
}

#[derive(Clone, Copy, ValueEnum)]
enum Cgroup {
    /// The machine's v1 hierarchies.
    V1,
    /// A cgroup2 mount only.
    V2,
}

impl From<Cgroup> for CgroupView {
    fn from(cgroup: Cgroup) -> Self {
        match cgroup {
            Cgroup::V1 => Self::V1,
            Cgroup::V2 => Self::V2,
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            tell(&error);
            ExitCode::from(error.code().exit_code())
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    let name = &arguments.lab;
    match &arguments.command {
        Command::Up(Up::Node { nodes, cgroup }) => up(name, nodes, cgroup.map(Into::into))?,
        Command::Up(Up::Clusters { workers }) => {
            Lab::up_and_keep(&LabOptions::new(name).clusters(workers))?;
            s3_up(name)?;
            status(name)?;
        }
        Command::Down { all: true } => down_all()?,
        Command::Down { all: false } => Lab::down(name)?,
        Command::Exec { node, command } => return exec(name, node, command),
        Command::Kubectl { cluster, words } => return kubectl(name, *cluster, words),
        Command::Logs { node, what } => print!("{}", Lab::attach(name)?.node(node)?.log(what)?),
        Command::Status => status(name)?,
        Command::PowerLoss { node } => Lab::attach(name)?.node(node)?.power_loss()?,
        Command::Reboot { node } => Lab::attach(name)?.node(node)?.reboot()?,
        Command::Install { nodes, bin_dir, store } => {
            install(name, nodes, bin_dir.as_deref(), store)?;
        }
        Command::Import { node, images, namespace } => import(name, node, images, namespace)?,
        Command::S3(S3Command::Build) => println!("{}", s3::ensure_built()?.display()),
        Command::S3(S3Command::Up) => s3_up(name)?,
        Command::S3(S3Command::Down) => Lab::attach(name)?.s3_server().kill()?,
        Command::Kubernetes => println!("{}", kubernetes::ensure_built()?.display()),
        Command::Vm(command) => return vm::run(name, command),
        Command::Rootfs => print!("{}", rootfs::versions()?),
    }
    Ok(ExitCode::SUCCESS)
}

fn up(name: &str, nodes: &[String], cgroup: Option<CgroupView>) -> Result<()> {
    let nodes: Vec<&str> = nodes.iter().map(String::as_str).collect();
    let options = LabOptions::new(name).nodes(&nodes);
    Lab::up_and_keep(&match cgroup {
        Some(view) => options.cgroup(view),
        None => options,
    })?;
    status(name)
}

/// One that cannot be taken down keeps none of the others up.
fn down_all() -> Result<()> {
    let labs = Lab::all().into_iter().map(|name| ("lab", Lab::down(&name), name));
    let machines = Machine::all().into_iter().map(|name| ("machine", Machine::down(&name), name));
    let mut first = Ok(());
    for (what, ended, name) in labs.chain(machines) {
        match ended {
            Ok(()) => println!("{what} {name} is down"),
            Err(LabError::Held { holder, .. }) => {
                println!("{what} {name} is in use by process {holder} and left alone");
            }
            Err(error) => first = first.and(Err(error)),
        }
    }
    first
}

fn exec(name: &str, node: &str, words: &[String]) -> Result<ExitCode> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut command = Lab::attach(name)?.node(node)?.command(&words)?;
    if let Some(terminal) = std::env::var_os("TERM") {
        command.env("TERM", terminal);
    }
    end_as(&mut command)
}

fn kubectl(name: &str, cluster: ClusterName, words: &[String]) -> Result<ExitCode> {
    // `lab kubectl a -- get pods` and `lab k a get pods` are the same.
    let words = words.strip_prefix(&["--".to_owned()]).unwrap_or(words);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    end_as(&mut Lab::attach(name)?.cluster(cluster)?.kubectl_command(&words)?)
}

/// Runs it to its end, with our streams.
fn end_as(command: &mut std::process::Command) -> Result<ExitCode> {
    let status = command.status().map_err(|source| LabError::Start {
        program: command.get_program().to_string_lossy().into_owned(),
        source,
    })?;
    // Killed by a signal: 128 and its number, as a shell says it.
    let code = status.code().unwrap_or_else(|| {
        128 + std::os::unix::process::ExitStatusExt::signal(&status).unwrap_or_default()
    });
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

fn install(name: &str, nodes: &[String], bin_dir: Option<&Path>, store: &str) -> Result<()> {
    let lab = Lab::attach(name)?;
    let store = match store.strip_prefix("s3://") {
        Some(path) => StoreChoice::Bucket { server: lab.s3()?, path: path.to_owned() },
        None => StoreChoice::Directory(store.strip_prefix("file://").unwrap_or(store).to_owned()),
    };
    let bin_dir = bin_dir.map_or_else(default_bin_dir, Path::to_owned);
    let chosen = match nodes {
        [] => lab.nodes()?.into_iter().filter(|node| node.role().has_containers()).collect(),
        names => names.iter().map(|node| lab.node(node)).collect::<Result<Vec<_>>>()?,
    };
    for node in chosen {
        let settings = match node.role().cluster() {
            Some(cluster) => lab.cluster(cluster)?.admit_agent(&node)?,
            None => String::new(),
        };
        let (bin_dir, store) = (bin_dir.clone(), store.clone());
        node.install(&InstallOptions { bin_dir, store, settings })?;
        println!("installed on {}", node.name());
    }
    Ok(())
}

fn import(name: &str, node: &str, images: &[String], namespace: &str) -> Result<()> {
    let node = Lab::attach(name)?.node(node)?;
    let chosen = match images {
        [] => Image::ALL.to_vec(),
        names => names.iter().map(|name| Image::of_name(name)).collect::<Result<_>>()?,
    };
    for image in chosen {
        node.import_into(namespace, image)?;
        println!("{}", image.reference());
    }
    Ok(())
}

fn s3_up(name: &str) -> Result<()> {
    let server = Lab::attach(name)?.s3()?;
    println!("endpoint {}, region {}", server.endpoint(), s3::REGION);
    println!("access key {}, secret key {}", s3::ACCESS_KEY, s3::SECRET_KEY);
    println!("objects in {}", server.objects().display());
    Ok(())
}

fn status(name: &str) -> Result<()> {
    let lab = Lab::attach(name)?;
    println!("lab {name}, state in {}", places::state().join(name).display());
    lab.nodes()?.iter().for_each(show_node);
    lab.clusters()?.iter().for_each(show_cluster);
    let server = lab.s3_server();
    println!("s3       {} {}", server.endpoint(), if server.is_up() { "on" } else { "off" });
    Ok(())
}

fn show_node(node: &Node) {
    let shown = |pid: Option<u32>| pid.map_or("-".to_owned(), |pid| pid.to_string());
    let agent = node.role().has_containers().then_some(Service::Agent);
    let services = node.role().services().concat().into_iter().chain(agent);
    let daemons: Vec<String> = services
        .map(|service| format!("{} {}", service.name(), shown(node.pid_of(service))))
        .collect();
    println!(
        "{:8} {:14} {:4} init {} (host), {}",
        node.name(),
        node.address(),
        if node.is_up() { "on" } else { "off" },
        shown(node.init_pid().ok()),
        daemons.join(", "),
    );
}

fn show_cluster(cluster: &Cluster) {
    let kubeconfig = cluster.kubeconfig().display();
    let state = cluster.ready_workers().map_or("no answer".to_owned(), |ready| {
        format!("{ready} of {} workers ready", cluster.workers().len())
    });
    println!("cluster {} {state}, KUBECONFIG={kubeconfig}", cluster.name());
}

fn tell(error: &LabError) {
    eprintln!("lab: {error}");
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        eprintln!("  because {cause}");
        source = cause.source();
    }
}
