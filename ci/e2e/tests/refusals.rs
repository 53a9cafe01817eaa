//! What cannot be checkpointed or restored is refused with a sentence, and nothing is changed by it.

use anyhow::{Context as _, Result, ensure};
use godwit_e2e::bed::{Bed, Store};
use godwit_e2e::container::{BUNDLES, Container, RUNTIME, SOON};
use godwit_lab::{AgentOptions, Image, LabOptions, Node, wait};
use godwit_types::names;

/// The store, which both nodes see.
const STORE: &str = "/lab/shared/store";

fn sleeper(id: &str) -> Container {
    Container::new(id, Image::Shell, &["sleep", "infinity"])
}

/// Every file of the store: logs, intents, pins, manifests, packs.
fn stored(node: &Node) -> Result<String> {
    Ok(node.sh(&format!("find {STORE} -type f | sort"))?)
}

/// The same, but for the first entry of each log (they are numbered downward): what is found only while a checkpoint is made is found
/// after its lineage has begun.
fn stored_later(node: &Node) -> Result<String> {
    let first_entry = format!("/log/{}", u64::MAX - 1);
    let all = stored(node)?;
    Ok(all.lines().filter(|path| !path.ends_with(&first_entry)).collect::<Vec<_>>().join("\n"))
}

/// The sentence with which a checkpoint is refused before anything is done. The container runs on, the store is as it was.
fn refused(container: &Container, node: &Node, flags: &[&str]) -> Result<String> {
    refused_as(container, node, flags, stored)
}

/// The sentence with which a checkpoint is refused while it is made.
fn refused_later(container: &Container, node: &Node, flags: &[&str]) -> Result<String> {
    refused_as(container, node, flags, stored_later)
}

fn refused_as(
    container: &Container,
    node: &Node,
    flags: &[&str],
    stored: impl Fn(&Node) -> Result<String>,
) -> Result<String> {
    let before = stored(node)?;
    let told = container.checkpoint(node, flags);
    let sentence = match told {
        Ok(report) => anyhow::bail!("{} was checkpointed: {report:?}", container.id),
        Err(error) => format!("{error:#}"),
    };
    ensure!(container.listed(node)? == "RUNNING", "{} does not run on", container.id);
    let after = stored(node)?;
    ensure!(before == after, "{sentence:?} left something: {before}\nand now: {after}");
    Ok(sentence)
}

/// The sentence with which a restore is refused. Nothing runs, the store is as it was.
fn not_restored(container: &Container, node: &Node, checkpoint: &str) -> Result<String> {
    let before = stored(node)?;
    let sentence = match container.restore(node, checkpoint) {
        Ok(()) => anyhow::bail!("{} was restored", container.id),
        Err(error) => format!("{error:#}"),
    };
    ensure!(container.listed(node)? != "RUNNING", "{} runs", container.id);
    container.remove(node)?;
    let after = stored(node)?;
    ensure!(before == after, "{sentence:?} left something: {before}\nand now: {after}");
    Ok(sentence)
}

fn expect(told: &str, words: &str) -> Result<()> {
    ensure!(told.contains(words), "expected {words:?} in {told:?}");
    Ok(())
}

/// Runs `hold` and waits until it holds.
fn holds(bed: &Bed, what: &str, options: &[&str]) -> Result<Container> {
    let held = Container::new(what, Image::Mem, &["hold", what, "--file", "/ready"]).with(options);
    held.run(&bed.n1)?;
    is_ready(bed, what).with_context(|| format!("hold {what} is {:?}", held.listed(&bed.n1)))?;
    Ok(held)
}

/// A socket whose server is a process of the node.
const PEER: &str = "type=bind,src=/run/containerd/containerd.sock,dst=/peer.sock,options=bind:rw";

#[test]
fn what_a_process_has_open_or_is() -> Result<()> {
    // Each of the two deleted files would be small enough.
    let settings = "ghost_limit = \"4 MiB\"\n";
    let bed = Bed::up(&LabOptions::for_tests(), Store::File, settings, &[Image::Mem])?;
    for (what, options, words) in [
        ("deleted-files", &[][..], "and at most 4.0 MiB are taken along: close some"),
        ("io-uring", &[][..], "uses io_uring, which cannot be saved"),
        ("userfaultfd", &["--privileged"], "uses userfaultfd, which cannot be saved"),
        ("traced", &["--privileged"], "detach the debugger or tracer first"),
        ("nested", &["--privileged"], "made a mnt namespace of its own"),
        ("device", &["--privileged"], "uses the device /held-device"),
        ("mapped-device", &["--privileged"], "uses the device /held-block"),
        ("fuse", &["--privileged"], "serves a FUSE file system"),
        (
            "unix-peer",
            &["--mount", PEER],
            "unix socket /run/containerd/containerd.sock of a process outside",
        ),
    ] {
        let held = holds(&bed, what, options)?;
        expect(&refused(&held, &bed.n1, &[])?, words)?;
        expect(&refused(&held, &bed.n1, &["--stop"])?, words)?;
    }
    let held = holds(&bed, "vfork", &[])?;
    let words = "(hold) is in state D";
    expect(&refused_later(&held, &bed.n1, &[])?, words)?;
    expect(&refused_later(&held, &bed.n1, &["--stop"])?, words)
}

/// The pid of a container's first process.
fn pid_of(node: &Node, id: &str) -> Result<u32> {
    let tasks = node.ctr(&["task", "ls"])?;
    let line = tasks.lines().find(|line| line.starts_with(id)).context("a line")?;
    Ok(line.split_whitespace().nth(1).context("a pid")?.parse()?)
}

#[test]
fn what_could_be_stopped_and_not_be_continued() -> Result<()> {
    let images = [Image::Shell, Image::Mem];
    let bed = Bed::up(&LabOptions::for_tests(), Store::File, "", &images)?;
    let plugged = sleeper("plugged");
    plugged.run(&bed.n1)?;
    let netns = pid_of(&bed.n1, "plugged")?;
    bed.n1.sh(&format!("ip link add plugged0 type veth peer name eth0 netns {netns}"))?;
    expect(&refused(&plugged, &bed.n1, &["--stop"])?, "has the interface eth0")?;

    let held = holds(&bed, "mount", &["--privileged"])?;
    expect(&refused(&held, &bed.n1, &["--stop"])?, "a mount at /held-mount")
}

#[test]
fn the_server_of_the_store_itself() -> Result<()> {
    let bed = Bed::up(&LabOptions::for_tests(), Store::S3, "", &[Image::Shell])?;
    let address = bed.lab.s3_server().address();
    bed.n1.sh(&format!("ip netns add server && ip -n server address add {address}/32 dev lo"))?;
    let server = sleeper("server").with(&["--with-ns", "network:/run/netns/server"]);
    server.run(&bed.n1)?;
    let told = format!("{:#}", server.checkpoint(&bed.n1, &["--stop"]).unwrap_err());
    expect(&told, "server has the address of the store's own server")?;
    ensure!(server.listed(&bed.n1)? == "RUNNING", "it does not run on");
    Ok(())
}

#[test]
fn what_a_container_shares_or_is_doing() -> Result<()> {
    let bed = Bed::up(&LabOptions::for_tests(), Store::File, "", &[Image::Shell])?;
    let on_host = sleeper("net").with(&["--net-host"]);
    on_host.run(&bed.n1)?;
    expect(&refused(&on_host, &bed.n1, &[])?, "uses the node's network")?;
    for (kind, words) in [
        ("network", "uses the node's network"),
        ("pid", "shares its pid namespace"),
        ("ipc", "uses the node's IPC namespace"),
    ] {
        let name = if kind == "network" { "net" } else { kind };
        let joined = sleeper(&format!("joined-{kind}"))
            .with(&["--with-ns", &format!("{kind}:/proc/1/ns/{name}")]);
        joined.run(&bed.n1)?;
        expect(&refused(&joined, &bed.n1, &[])?, words)?;
    }

    let first = sleeper("first");
    first.run(&bed.n1)?;
    let pid = pid_of(&bed.n1, "first")?;
    let second = sleeper("second").with(&["--with-ns", &format!("pid:/proc/{pid}/ns/pid")]);
    second.run(&bed.n1)?;
    expect(&refused(&second, &bed.n1, &[])?, "shares its pid namespace")?;

    let stopped = pid_of(&bed.n1, "first")?;
    bed.n1.sh(&format!("kill -STOP {stopped}"))?;
    expect(&refused(&first, &bed.n1, &["--stop"])?, "is stopped")?;
    bed.n1.sh(&format!("kill -CONT {stopped}"))?;

    let exec = ["ctr", "task", "exec", "--exec-id", "long", "first", "sleep", "60"];
    let _session = bed.n1.spawn(&exec)?;
    wait::until_true("the exec session", SOON, || {
        bed.n1.ctr(&["task", "ps", "first"]).is_ok_and(|ps| ps.contains("long"))
    })?;
    expect(&refused(&first, &bed.n1, &[])?, "exec")
}

#[test]
fn how_a_container_is_run() -> Result<()> {
    let bed = Bed::up(&LabOptions::for_tests(), Store::File, "", &[Image::Shell])?;
    bed.n1.write_file("/etc/godwit/crun.toml", "BinaryName = \"crun\"\n")?;
    let crun = sleeper("crun").with(&["--runtime-config-path", "/etc/godwit/crun.toml"]);
    crun.run(&bed.n1)?;
    expect(&refused(&crun, &bed.n1, &[])?, "is run by crun")?;
    let runc = sleeper("moved");
    runc.run(&bed.n1)?;
    let id = runc.checkpoint(&bed.n1, &["--stop"])?.checkpoint.to_string();
    runc.remove(&bed.n1)?;
    let by_crun = runc.with(&["--runtime-config-path", "/etc/godwit/crun.toml"]);
    expect(&not_restored(&by_crun, &bed.n1, &id)?, "is restored by runc alone")?;

    let mapped = "0:100000:65536";
    let users = sleeper("users").with(&["--uidmap", mapped, "--gidmap", mapped]);
    users.run(&bed.n1)?;
    expect(&refused(&users, &bed.n1, &[])?, "has a user namespace")?;

    let tty = sleeper("tty");
    let line = format!(
        "ctr run --tty --runtime {RUNTIME} {} tty sleep infinity",
        Image::Shell.reference()
    );
    let script = ["script", "--quiet", "--return", "--command", &line, "/dev/null"];
    let _terminal = bed.n1.spawn(&script)?;
    wait::until_true("the container with a terminal", SOON, || {
        tty.listed(&bed.n1).is_ok_and(|state| state == "RUNNING")
    })?;
    expect(&refused(&tty, &bed.n1, &[])?, "has a terminal")?;
    expect(&refused(&tty, &bed.n1, &["--stop"])?, "start it without -t")
}

#[test]
fn a_root_file_system_that_is_of_no_image() -> Result<()> {
    let bed = Bed::up(&LabOptions::for_tests(), Store::File, "", &[Image::Shell])?;
    let known = sleeper("known");
    known.run(&bed.n1)?;
    // Its files are a directory that no other node can have: they are those of the image, and containerd does not know it.
    let root = format!("{BUNDLES}/known/rootfs");
    bed.n1.run(&[
        "ctr",
        "run",
        "--detach",
        "--runtime",
        RUNTIME,
        "--rootfs",
        &root,
        "own",
        "/bin/sleep",
        "infinity",
    ])?;
    let own = sleeper("own");
    let words = "own was not made from an image";
    expect(&refused_later(&own, &bed.n1, &[])?, words)?;
    expect(&refused_later(&own, &bed.n1, &["--stop"])?, words)?;

    // A name that is gone is no image that is gone: the files are still known by their digest.
    bed.n1.ctr(&["images", "rm", "--sync", Image::Shell.reference()])?;
    let id = known.checkpoint(&bed.n1, &["--stop"])?.checkpoint.to_string();
    known.remove(&bed.n1)?;
    known.restore(&bed.n2, &id)?;
    known.wait_state(&bed.n2, "running")
}

#[test]
fn a_root_that_is_read_only_and_lacks_the_place_of_a_mount() -> Result<()> {
    let bed = Bed::up(&LabOptions::for_tests(), Store::File, "", &[Image::Shell])?;
    let mount = ["--mount", "type=bind,src=/etc,dst=/more,options=rbind:ro"];
    // In its writable layer runc has made the place.
    let web = sleeper("web").with(&mount);
    web.run(&bed.n1)?;
    let id = web.checkpoint(&bed.n1, &["--stop"])?.checkpoint.to_string();
    web.remove(&bed.n1)?;

    let read_only = web.clone().with(&["--read-only"]);
    let told = not_restored(&read_only, &bed.n2, &id)?;
    expect(&told, "the mount / of the checkpoint lacks the flag ro of the container's spec")?;
    web.restore(&bed.n2, &id)?;
    web.wait_state(&bed.n2, "running")
}

#[test]
fn what_the_new_spec_does_not_grant() -> Result<()> {
    let bed = Bed::up(&LabOptions::for_tests(), Store::File, "", &[Image::Shell])?;
    let capability = ["--cap-add", "CAP_SYS_ADMIN"];
    let mount = ["--mount", "type=bind,src=/etc,dst=/more,options=rbind:ro"];
    let whole = sleeper("web").with(&capability).with(&mount);
    whole.run(&bed.n1)?;
    let id = whole.checkpoint(&bed.n1, &["--stop"])?.checkpoint.to_string();
    whole.remove(&bed.n1)?;

    let weak = sleeper("web").with(&mount);
    let told = not_restored(&weak, &bed.n2, &id)?;
    expect(&told, "has the capability CAP_SYS_ADMIN, which the container's spec does not grant")?;
    let bare = sleeper("web").with(&capability);
    expect(&not_restored(&bare, &bed.n2, &id)?, "has a mount at /more")?;
    let other = ["--mount", "type=bind,src=/etc,dst=/other,options=rbind:ro"];
    let more = whole.clone().with(&other);
    expect(&not_restored(&more, &bed.n2, &id)?, "spec mounts /other")?;

    whole.restore(&bed.n2, &id)?;
    whole.wait_state(&bed.n2, "running")
}

#[test]
fn files_that_are_in_no_checkpoint() -> Result<()> {
    let bed = Bed::up(&LabOptions::for_tests(), Store::File, "", &[Image::Shell])?;
    bed.n1.sh("mkdir -p /lab/shared/data")?;
    let mount = "type=bind,src=/lab/shared/data,dst=/data,options=rbind:rw";
    let web = sleeper("web").with(&["--mount", mount]);
    web.run(&bed.n1)?;
    let running = web.checkpoint(&bed.n1, &[])?.checkpoint.to_string();
    let copy = web.named("copy");
    let told = format!("{:#}", copy.fork(&bed.n1, &running).unwrap_err());
    expect(&told, "VolumeShared: the checkpoint's container writes to /data")?;
    copy.remove(&bed.n1)?;

    let id = web.checkpoint(&bed.n1, &["--stop"])?.checkpoint.to_string();
    web.remove(&bed.n1)?;
    let told = not_restored(&web, &bed.n2, &id)?;
    expect(&told, "VolumeElsewhere: the checkpoint's container writes to /data")?;
    expect(&told, "--annotation godwit.dev/volumes=/data")?;

    // Where its files are it goes on. What it writes there outlives a death, its memory does not.
    web.restore(&bed.n1, &id)?;
    web.wait_state(&bed.n1, "running")?;
    bed.n1.sh("kill -KILL $(pgrep --full '^[^ ]*containerd-shim-godwit-v2')")?;
    web.wait_buried(&bed.n1)?;
    bed.n1.ctr(&["container", "rm", &web.id])?;
    let told = not_restored(&web, &bed.n1, &id)?;
    expect(&told, "VolumeDiverged: /data (/lab/shared/data of node n1)")?;
    expect(&told, "--annotation godwit.dev/volumes=/data")?;

    let shared = web.with(&["--annotation", "godwit.dev/volumes=/data"]);
    shared.restore(&bed.n2, &id)?;
    shared.wait_state(&bed.n2, "running")
}

/// A writer of so many MiB that has written all of them.
fn writer(bed: &Bed, id: &str, mib: u64) -> Result<Container> {
    let words = ["memwriter", "--mib", &mib.to_string(), "--file", "/ready"];
    let writer = Container::new(id, Image::Mem, &words);
    writer.run(&bed.n1)?;
    is_ready(bed, id)?;
    Ok(writer)
}

/// Waits for the file with which a program says that it is ready.
fn is_ready(bed: &Bed, id: &str) -> Result<()> {
    let ready = format!("{BUNDLES}/{id}/rootfs/ready");
    wait::until("the program to be ready", SOON, || bed.n1.read_file(&ready))?;
    Ok(())
}

/// The manifest of a checkpoint, as the store has it.
fn manifest(node: &Node, checkpoint: &str) -> Result<(String, serde_json::Value)> {
    let find = format!("find {STORE} -path '*{checkpoint}*' -name manifest.json");
    let path = node.sh(&find)?.trim().to_owned();
    let manifest = serde_json::from_str(&node.read_file(&path)?)?;
    Ok((path, manifest))
}

#[test]
fn what_does_not_fit() -> Result<()> {
    let settings = "memory_budget = \"128 MiB\"\n";
    let images = [Image::Shell, Image::Mem];
    let bed = Bed::up(&LabOptions::for_tests(), Store::File, settings, &images)?;
    let large = writer(&bed, "large", 512)?;
    expect(&refused_later(&large, &bed.n1, &[])?, "raise the memory budget")?;
    expect(&refused_later(&large, &bed.n1, &["--stop"])?, "raise the memory budget")?;
    large.remove(&bed.n1)?;

    let fill = "head -c 257M /dev/zero > /scratch/large; touch /ready; exec sleep infinity";
    let scratch = "type=tmpfs,src=tmpfs,dst=/scratch,options=size=512m";
    let filled =
        Container::new("filled", Image::Shell, &["sh", "-c", fill]).with(&["--mount", scratch]);
    filled.run(&bed.n1)?;
    is_ready(&bed, "filled")?;
    expect(&refused_later(&filled, &bed.n1, &["--stop"])?, "more than 256 MiB with /scratch")?;
    filled.remove(&bed.n1)?;

    let small = writer(&bed, "small", 32)?;
    let id = small.checkpoint(&bed.n1, &["--stop"])?.checkpoint.to_string();
    small.remove(&bed.n1)?;
    let (path, manifest) = manifest(&bed.n2, &id)?;
    let image = &manifest["containers"][0];
    ensure!(image["image"] == Image::Mem.reference(), "{image}");

    let narrow = small.clone().with(&["--memory-limit", "16777216"]);
    expect(&not_restored(&narrow, &bed.n2, &id)?, "NeedsMemory")?;
    let other = Container::new("small", Image::Shell, &["sleep", "infinity"]);
    let told = not_restored(&other, &bed.n2, &id)?;
    expect(&told, "run it from the image of the checkpoint")?;
    expect(&told, image["image_digest"].as_str().context("a chain id")?)?;

    let mut of_another_processor = manifest.clone();
    let features = of_another_processor["compat"]["cpu_features"].as_array_mut();
    features.context("features")?.push("amx_future".into());
    bed.n2.write_file(&path, of_another_processor.to_string())?;
    expect(&not_restored(&small, &bed.n2, &id)?, "processor lacks amx_future")?;
    bed.n2.write_file(&path, manifest.to_string())?;

    while_it_hydrates(&bed, &small, &id)
}

/// No refusal has spoilt the checkpoint: it is continued, slowly, and is not checkpointed until all of it is there.
fn while_it_hydrates(bed: &Bed, small: &Container, id: &str) -> Result<()> {
    let quick = bed.n2.read_file(names::AGENT_CONFIG)?;
    configure(bed, &format!("{quick}max_bytes_per_second = 524288\n"))?;
    small.restore(&bed.n2, id)?;
    small.wait_state(&bed.n2, "hydrating")?;
    expect(&refused(small, &bed.n2, &[])?, "still being restored")?;
    configure(bed, &quick)?;
    small.wait_state(&bed.n2, "running")?;
    small.checkpoint(&bed.n2, &["--stop"])?;
    Ok(())
}

fn configure(bed: &Bed, text: &str) -> Result<()> {
    bed.n2.write_file(names::AGENT_CONFIG, text)?;
    bed.n2.kill_agent()?;
    bed.n2.start_agent(&AgentOptions::default())?;
    Ok(())
}

#[test]
fn what_is_not_there_or_is_asked_for_twice() -> Result<()> {
    let bed = Bed::up(&LabOptions::for_tests(), Store::File, "", &[Image::Shell])?;
    let nobody = sleeper("nobody").checkpoint(&bed.n1, &[]).unwrap_err();
    expect(&format!("{nobody:#}"), "nobody")?;

    let shell = sleeper("shell");
    shell.run(&bed.n1)?;
    expect(&refused(&shell, &bed.n1, &["--store", "moon"])?, "main")?;
    let id = shell.checkpoint(&bed.n1, &["--stop"])?.checkpoint.to_string();
    let unknown = shell.restore(&bed.n2, "01ARZ3NDEKTSV4RRFFQ69G5FAV").unwrap_err();
    expect(&format!("{unknown:#}"), "01ARZ3NDEKTSV4RRFFQ69G5FAV")?;
    shell.remove(&bed.n2)?;
    let both = shell.clone().with(&["--annotation", &format!("godwit.dev/fork-from={id}")]);
    expect(
        &format!("{:#}", both.restore(&bed.n2, &id).unwrap_err()),
        "give one of godwit.dev/restore-from and godwit.dev/fork-from",
    )?;
    shell.remove(&bed.n2)?;
    shell.restore(&bed.n2, &id)?;
    shell.wait_state(&bed.n2, "running")
}
