//! What a person types.

use std::path::PathBuf;

use clap::builder::FalseyValueParser;
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Args, Parser, Subcommand, ValueEnum};
use godwit_types::{Bytes, CheckpointId, Code, names};
use godwit_wire::api::Failure;

use crate::failure;

const AFTER_HELP: &str = "\
Exit codes: 0 done · 1 internal error · 2 wrong usage · 3 not found · 4 already exists · \
5 the state forbids it (owned elsewhere, still running, pinned) · 6 unavailable, try again · \
7 corrupt · 8 refused, the message says what to do · 9 cancelled

Ctrl-C cancels and waits for how it ends: a checkpoint is undone or, if it was committed already, reported; what only reads ends \
at once; a deletion is carried through; gc ends where a later one goes on. A second Ctrl-C leaves at once.

JSON: one document for each command. checkpoint: its report · list: {checkpoints, unreadable} · show: {manifest, state, owner, \
held, here, read_amplification, log} · verify: {checkpoint, objects, frames, read, faults} · delete: {deleted: [ID]} · hold: {held: \
[ID]} · unhold: {released: [ID]} · gc: {dry_run, cancelled, deleted, refused, kept, orphans, waiting, removed, freed, failed} · status: \
{version, node, criu, stores, pods, operations, restored, budget} · pods: {pods: [{namespace, name, uid, containers, lineage, \
last_checkpoint, eligibility: {answer: yes, no or unknown, reason}}]} · doctor: {checks: [{check, verdict, told}]} · version: {version}. On standard error, a failure: {code, message, causes}

READS in list and show is the read amplification (JSON: read_amplification): stored bytes of all frames that a restore fetches for \
memory, divided by the part of them that holds this checkpoint's pages. 1.00x is ideal; increments raise it, checkpoints that leave \
the container running keep it down, --full begins anew. `-` (null): made by an earlier version

Restore and fork with containerd's own client, on any node whose agent has the same store:
  ctr run -d --runtime io.containerd.godwit.v2 --annotation godwit.dev/restore-from=ID IMAGE NAME
  ctr run -d --runtime io.containerd.godwit.v2 --annotation godwit.dev/fork-from=ID IMAGE NAME
Beside either: --annotation godwit.dev/store=NAME · --annotation godwit.dev/volumes=DESTINATION,… for writable bind mounts whose \
files you have brought there · --annotation godwit.dev/hydrate=before-start to run it only when all of its memory is there · --annotation godwit.dev/tcp=keep, of both, to keep TCP connections \
where the address is the same · beside restore-from, if the container's node is dead: \
--annotation godwit.dev/force=REASON";

/// Move running containers without landing them on a disk.
#[derive(Debug, Parser)]
#[command(name = "godwit", version, about, after_help = AFTER_HELP, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Output: a table for people or JSON for programs
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
    /// Store: a name from the agent's configuration, or a URL (file:///dir, s3://bucket/prefix) to go to straight,
    /// without an agent [default: the agent's default store]. A URL that is only exported concerns the commands that can go to
    /// a store; checkpoint and status go to the agent all the same
    #[arg(short, long, global = true, env = "GODWIT_STORE", value_name = "NAME|URL")]
    pub(crate) store: Option<String>,
    /// Whether the store was typed; else it comes from the environment, which is meant for every command.
    #[arg(skip)]
    pub(crate) typed: bool,
    /// Endpoint of an S3-compatible service, with a store URL
    #[arg(long, global = true, env = "GODWIT_S3_ENDPOINT", value_name = "URL")]
    pub(crate) s3_endpoint: Option<String>,
    /// Region of the bucket, with a store URL
    #[arg(long, global = true, env = "GODWIT_S3_REGION", value_name = "NAME")]
    pub(crate) s3_region: Option<String>,
    /// Address the bucket by path, not by host name, with a store URL; with --s3-endpoint that is so anyway. In the environment
    /// false, no, off, 0 and nothing are as if it were not set, and anything else sets it
    #[arg(long, global = true, env = "GODWIT_S3_PATH_STYLE", action = ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
    pub(crate) s3_path_style: bool,
    /// The agent's socket
    #[arg(long, global = true, env = "GODWIT_AGENT", value_name = "PATH", default_value = names::AGENT_API_SOCKET)]
    pub(crate) agent: PathBuf,
}

impl Global {
    /// The same, with what only the parser knows.
    pub(crate) fn told_by(mut self, matches: &ArgMatches) -> Self {
        let typed = |name| matches.value_source(name) == Some(ValueSource::CommandLine);
        // Exported and empty means nothing, as for other programs.
        let told = |name, value: Option<String>| value.filter(|v| typed(name) || !v.is_empty());
        self.typed = typed("store");
        self.store = told("store", self.store);
        self.s3_endpoint = told("s3_endpoint", self.s3_endpoint);
        self.s3_region = told("s3_region", self.s3_region);
        self
    }

    /// The store's URL, if it is one: then no agent is asked.
    pub(crate) fn url(&self) -> Option<&str> {
        self.store.as_deref().filter(|store| store.contains("://"))
    }

    /// The name of the store for a command that is the agent's alone.
    ///
    /// # Errors
    /// A URL was typed.
    pub(crate) fn store_of_agent(&self, command: &str) -> Result<Option<String>, Failure> {
        match self.url() {
            Some(_) if self.typed => Err(failure::new(
                Code::Refused,
                &format!(
                    "{command} goes to the node's agent, which knows stores by their names in agent.toml: leave the URL after \
                     --store away"
                ),
            )),
            Some(_) => Ok(None),
            None => Ok(self.store.clone()),
        }
    }
}

/// How results are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Tables and sentences.
    Table,
    /// One JSON document on standard output; progress and errors stay on standard error.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a checkpoint of a running container; it goes on unless --stop is given
    Checkpoint(Checkpoint),
    /// List the checkpoints of a store, newest first
    #[command(visible_alias = "ls")]
    List,
    /// Show one checkpoint, its lineage and who owns it
    Show(One),
    /// Read every object of a checkpoint and check all digests
    Verify(One),
    /// Delete checkpoints; their bytes go with a later sweep
    #[command(visible_alias = "rm")]
    Delete {
        /// Checkpoint ids
        #[arg(required = true)]
        checkpoints: Vec<CheckpointId>,
        /// Also when it is held, being read, or the only good checkpoint of its lineage
        #[arg(long)]
        force: bool,
    },
    /// Keep checkpoints from being deleted, by people and by gc, until unhold
    Hold {
        /// Checkpoint ids
        #[arg(required = true)]
        checkpoints: Vec<CheckpointId>,
        /// What for: told to whoever wants to delete it
        #[arg(long, value_name = "TEXT", default_value = "no reason given")]
        reason: String,
    },
    /// Let checkpoints go that are held
    Unhold {
        /// Checkpoint ids
        #[arg(required = true)]
        checkpoints: Vec<CheckpointId>,
    },
    /// Remove what is not needed any more; agents do it each hour, and delete no checkpoint by it
    Gc(Gc),
    /// Show the agent, its stores, the pods of this node and what is in progress
    Status,
    /// List the pods of this node that run with Godwit, and whether each could be checkpointed now
    ///
    /// Of Kubernetes' pods, those of the runtime class; what `ctr` or nerdctl run is in `godwit status`. Asks the agent, containerd and
    /// the store, no API server. Nothing is stored, no pod is frozen. CHECKPOINT is the newest one that the pod could be continued from.
    /// ELIGIBLE is `yes`, `no` with the reason, or `unknown` while somebody is at work for the pod or its store is away.
    Pods,
    /// Look for faults: everything that Godwit needs on this node, each with what to do about it
    ///
    /// Looks at kernel, control groups, CRIU, runc and containerd; at the programs and the release in use; at what containerd has loaded,
    /// the CRI proxy and the kubelet; at the agent, its configuration, stores, memory, disk, API server and last failures. Each is `good`,
    /// `limited` (something does not work), `bad`, or `unknown` where it could not be looked at; the sentence says why and what to do.
    /// Needs root. Changes nothing; in each store small objects are written and removed, to see that it refuses what it has to. Ends
    /// within two minutes, mostly within seconds, whoever hangs.
    ///
    /// Exit codes: 0 nothing is bad, 1 something is; others as below.
    Doctor {
        /// Also whether this node could continue that checkpoint: processor, page size and userfaultfd decide, other differences are told
        #[arg(long, value_name = "ID")]
        checkpoint: Option<CheckpointId>,
    },
    /// Print versions
    Version,
    /// Print a completion script for a shell
    Completion {
        /// Which shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

/// A checkpoint to be made.
#[derive(Debug, Args)]
pub(crate) struct Checkpoint {
    /// Container id
    pub(crate) container: String,
    /// Stop the container once the checkpoint is durable, so that it can be continued anywhere
    #[arg(long)]
    pub(crate) stop: bool,
    /// Do not share pages with an earlier checkpoint
    #[arg(long)]
    pub(crate) full: bool,
    /// containerd's namespace
    #[arg(short, long, env = "CONTAINERD_NAMESPACE", default_value = "default")]
    pub(crate) namespace: String,
}

/// A collection of garbage.
///
/// Limits are for each lineage; whatever they say, what is held or being read stays, and so does the newest checkpoint that
/// the container could be continued from. The bytes of what went follow days later, when nobody can be reading them.
#[derive(Debug, Args)]
pub(crate) struct Gc {
    /// Only say what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Keep at most this many checkpoints, the newest ones
    #[arg(long, value_name = "N")]
    pub(crate) keep_last: Option<usize>,
    /// Delete checkpoints that are older, for example `7d` or `12h`
    #[arg(long, value_name = "AGE", value_parser = seconds)]
    pub(crate) max_age: Option<u64>,
    /// Keep the newest checkpoints that have at most these bytes together, for example `50GiB`
    #[arg(long, value_name = "SIZE")]
    pub(crate) max_bytes: Option<Bytes>,
}

/// `90s`, `15m`, `12h`, `7d`.
fn seconds(text: &str) -> Result<u64, String> {
    let span: jiff::SignedDuration = match text.strip_suffix('d') {
        Some(days) => days
            .parse()
            .map(|days: u32| jiff::SignedDuration::from_hours(24 * i64::from(days)))
            .map_err(|e| e.to_string())?,
        None => text.parse().map_err(|e: jiff::Error| e.to_string())?,
    };
    u64::try_from(span.as_secs()).map_err(|_| "an age is not negative".to_owned())
}

/// A checkpoint by its id.
#[derive(Debug, Args)]
pub(crate) struct One {
    /// Checkpoint id
    pub(crate) checkpoint: CheckpointId,
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, FromArgMatches};

    use super::*;

    #[test]
    fn ages_are_read() {
        assert_eq!(seconds("7d"), Ok(7 * 86_400));
        assert_eq!(seconds("90s"), Ok(90));
        assert_eq!(seconds("12h"), Ok(12 * 3600));
        assert!(seconds("-1h").is_err() && seconds("soon").is_err() && seconds("xd").is_err());
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_help_names_every_annotation() {
        for annotation in
            ["restore-from=", "fork-from=", "store=", "volumes=", "hydrate=", "tcp=", "force="]
        {
            assert!(AFTER_HELP.contains(&format!("--annotation godwit.dev/{annotation}")));
        }
    }

    fn global(words: &[&str]) -> Global {
        let matches = Cli::command().get_matches_from(words);
        Cli::from_arg_matches(&matches).unwrap().global.told_by(&matches)
    }

    #[test]
    fn a_url_that_was_typed_is_refused_where_the_agent_is_meant() {
        let url = "file:///store";
        for words in [["godwit", "--store", url, "status"], ["godwit", "status", "--store", url]] {
            let refused = global(&words).store_of_agent("status").unwrap_err();
            assert_eq!(refused.code, Code::Refused);
            assert!(refused.message.contains("leave the URL after --store away"));
        }
        let named = global(&["godwit", "status", "--store", "main"]);
        assert_eq!(named.store_of_agent("status"), Ok(Some("main".to_owned())));
        let exported = Global { typed: false, ..global(&["godwit", "status", "--store", url]) };
        assert_eq!(exported.store_of_agent("checkpoint"), Ok(None));
        assert_eq!(exported.url(), Some(url));
    }
}
