//! Directories of a pod: what is in them moves with it, whoever is started first, also files that have lost their names.

use anyhow::{Context as _, Result, ensure};
use godwit_e2e::bed::{Bed, Store};
use godwit_e2e::container::{Container, SOON};
use godwit_lab::{Image, LabOptions, Node, PodNetwork, wait};
use godwit_types::names;

/// Where the nodes have what the kubelet would have made: not on an overlay.
const KUBELET: &str = "/var/lib/godwit/kubelet";

/// A life of the pod: Kubernetes gives each another uid.
struct Pod {
    uid: String,
    containers: [Container; 2],
}

impl Pod {
    /// Of two containers that run these scripts; both have the directory `/c`.
    fn new(uid: &str, network: &PodNetwork, [first, second]: [&str; 2]) -> Self {
        let of = |name: &str, script: &str| {
            let mount = format!("type=bind,src={},dst=/c,options=rbind:rw", volume(uid));
            let annotations = [
                format!("{}=sandbox-{uid}", names::SANDBOX_ID),
                format!("{}={uid}", names::SANDBOX_UID),
                format!("{}={name}", names::CONTAINER_NAME),
            ];
            let mut options = vec!["--mount", &mount];
            options.extend(annotations.iter().flat_map(|a| ["--annotation", a.as_str()]));
            let id = format!("{name}-{uid}");
            Container::new(&id, Image::Shell, &["bash", "-c", script]).on(network).with(&options)
        };
        Self { uid: uid.to_owned(), containers: [of("first", first), of("second", second)] }
    }

    /// The kubelet's part.
    fn place(&self, node: &Node) -> Result<()> {
        node.run(&["mkdir", "--parents", &volume(&self.uid)])?;
        Ok(())
    }

    fn run(&self, node: &Node) -> Result<()> {
        self.place(node)?;
        self.containers.iter().try_for_each(|one| one.run(node))?;
        self.gets_on(node)
    }

    /// Continues it, its containers in this order.
    fn restore(&self, node: &Node, checkpoint: &str, order: [usize; 2]) -> Result<()> {
        self.place(node)?;
        // Of an attempt that was given up.
        node.run(&["touch", &format!("{}/leftover", volume(&self.uid))])?;
        order.into_iter().try_for_each(|n| self.containers[n].restore(node, checkpoint))?;
        self.gets_on(node)
    }

    fn gets_on(&self, node: &Node) -> Result<()> {
        for one in &self.containers {
            let now = one.progress(node).unwrap_or(0);
            one.wait_beyond(node, now + 5)?;
        }
        Ok(())
    }

    fn remove(&self, node: &Node) -> Result<()> {
        self.containers.iter().try_for_each(|one| one.remove(node))
    }

    /// Names in the directory, as the node sees them.
    fn names(&self, node: &Node) -> Result<Vec<String>> {
        let list = node.run(&["ls", "-A", &volume(&self.uid)])?;
        Ok(list.lines().map(str::to_owned).collect())
    }
}

fn volume(uid: &str) -> String {
    format!("{KUBELET}/pods/{uid}/volumes/kubernetes.io~empty-dir/c")
}

/// Counts for as long as `check` succeeds, and ends with 3 when it does not.
fn counts(begin: &str, check: &str) -> String {
    format!(
        "{begin}
        i=0
        while :; do
            {{ {check}; }} || exit 3
            i=$((i+1)); echo $i >/next; mv /next /progress; sleep 0.05
        done"
    )
}

/// Has a file open that has no name any more.
fn keeps_a_ghost(name: &str) -> String {
    let begin = format!("exec 3<>/c/ghost-{name}; echo ghost of {name} >&3; rm /c/ghost-{name}");
    counts(&begin, &format!("[ \"$(cat /proc/$$/fd/3)\" = 'ghost of {name}' ]"))
}

/// Has a file open that has lost the name by which it was opened and lives on under another; closes it when it is told to.
fn keeps_a_link(name: &str) -> String {
    let begin = format!(
        "exec 4<>/c/opened-{name}; echo opened by {name} >&4
        ln /c/opened-{name} /c/kept-{name}; rm /c/opened-{name}"
    );
    let check = format!(
        "if [ -e /c/close-{name} ]; then exec 4>&-; : >/c/closed-{name}
        else [ /proc/$$/fd/4 -ef /c/kept-{name} ] && [ \"$(cat /c/kept-{name})\" = 'opened by {name}' ]
        fi"
    );
    counts(&begin, &check)
}

#[test]
fn files_without_their_names_in_a_directory_of_the_pod_move_whoever_is_started_first() -> Result<()>
{
    let bed = Bed::up(&LabOptions::for_tests(), Store::File, "", &[Image::Shell])?;
    let network = bed.n1.pod_network("pod", 101)?;
    bed.n2.pod_network("pod", 102)?;
    let ghosts = ["first", "second"].map(keeps_a_ghost);
    there_and_back(&bed, &network, ["u1", "u2", "u3"], [&*ghosts[0], &*ghosts[1]])?;
    let link = [keeps_a_link("first"), keeps_a_ghost("second")];
    there_and_back(&bed, &network, ["u4", "u5", "u6"], [&*link[0], &*link[1]])
}

/// One that leaves it running; then to the other node and back, its containers in another order each time.
fn there_and_back(
    bed: &Bed,
    network: &PodNetwork,
    lives: [&str; 3],
    scripts: [&str; 2],
) -> Result<()> {
    let mut pod = Pod::new(lives[0], network, scripts);
    pod.run(&bed.n1)?;
    let names = pod.names(&bed.n1)?;
    pod.containers[0].checkpoint(&bed.n1, &[])?;
    pod.gets_on(&bed.n1)?;
    let rounds = [(&bed.n1, &bed.n2, lives[1], [1, 0]), (&bed.n2, &bed.n1, lives[2], [0, 1])];
    for (from, to, uid, order) in rounds {
        let id = pod.containers[order[0]].checkpoint(from, &["--stop"])?.checkpoint.to_string();
        pod.remove(from)?;
        pod = Pod::new(uid, network, scripts);
        pod.restore(to, &id, order)?;
        ensure!(pod.names(to)? == names, "{:?} instead of {names:?}", pod.names(to)?);
    }
    pod.remove(&bed.n1)
}

/// CRIU gives such a file a name by its own count, which is the same in both containers.
#[test]
fn open_files_that_lost_their_names_are_not_confused_and_what_collides_is_told() -> Result<()> {
    let bed = Bed::up(&LabOptions::for_tests(), Store::File, "", &[Image::Shell])?;
    let network = bed.n1.pod_network("pod", 101)?;
    let scripts = ["first", "second"].map(keeps_a_link);
    let pod = Pod::new("u1", &network, [&*scripts[0], &*scripts[1]]);
    pod.run(&bed.n1)?;
    pod.gets_on(&bed.n1)?;
    // CRIU counts what else is open, too: a shell that executes something right now has more.
    let refused = wait::until("both to be given the same name", SOON, || {
        match pod.containers[0].checkpoint(&bed.n1, &[]) {
            Ok(_) => Err("it was made"),
            Err(refused) => Ok(format!("{refused:#}")),
        }
    })?;
    ensure!(refused.contains("another name is left"), "{refused}");
    pod.gets_on(&bed.n1)?;
    ensure!(pod.names(&bed.n1)? == ["kept-first", "kept-second"], "{:?}", pod.names(&bed.n1)?);
    let volume = volume(&pod.uid);
    bed.n1.run(&["touch", &format!("{volume}/close-second")])?;
    let closed = bed.n1.host_path(&format!("{volume}/closed-second"))?;
    wait::until_true("the second one to close it", SOON, || closed.exists())?;
    pod.containers[0].checkpoint(&bed.n1, &[])?;
    pod.gets_on(&bed.n1)?;
    pod.remove(&bed.n1)
}

#[test]
fn a_file_without_a_name_that_two_containers_have_is_refused_until_one_closes_it() -> Result<()> {
    let bed = Bed::up(&LabOptions::for_tests(), Store::File, "", &[Image::Shell])?;
    let network = bed.n1.pod_network("pod", 101)?;
    let removes = "exec 3<>/c/shared; echo both >&3; : >/c/made
        until [ -e /c/opened ]; do sleep 0.05; done; rm /c/shared";
    let closes = "until [ -e /c/made ]; do sleep 0.05; done; exec 3<>/c/shared; : >/c/opened";
    let scripts = [
        counts(removes, "[ \"$(cat /proc/$$/fd/3)\" = both ]"),
        counts(closes, "if [ -e /c/close ]; then exec 3>&-; : >/c/closed; fi"),
    ];
    let pod = Pod::new("u1", &network, [&*scripts[0], &*scripts[1]]);
    pod.run(&bed.n1)?;
    pod.gets_on(&bed.n1)?;
    let refused =
        pod.containers[0].checkpoint(&bed.n1, &["--stop"]).err().context("it was made")?;
    let refused = format!("{refused:#}");
    let told = ["NamelessShared", "first and second", "/c/shared", "close it in one of them"];
    ensure!(told.iter().all(|part| refused.contains(part)), "{refused}");
    pod.gets_on(&bed.n1)?;
    let volume = volume(&pod.uid);
    bed.n1.run(&["touch", &format!("{volume}/close")])?;
    let closed = bed.n1.host_path(&format!("{volume}/closed"))?;
    wait::until_true("the second one to close it", SOON, || closed.exists())?;
    pod.containers[0].checkpoint(&bed.n1, &[])?;
    pod.gets_on(&bed.n1)?;
    pod.remove(&bed.n1)
}
