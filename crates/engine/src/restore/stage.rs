//! From a head to everything that `runc restore` needs: CRIU's image directory, the relay's plan, the pager's plan.
//! Blocking; run on threads that may.
//!
//! Nothing of a checkpoint is trusted: images are vetted against the new spec before anything is started, mounts and
//! limits come from the new spec. Whatever is found wrong is a refusal; nothing has happened then.

mod eager;

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use godwit_criu::images::inet::Outside;
use godwit_criu::images::{ImageDir, inet, limits, pagemap, tasks};
use godwit_criu::launch::Launcher;
use godwit_criu::mounts::{MountPlan, binds, restore as mount_sources};
use godwit_criu::namespaces::{NamespacePlan, path_of};
use godwit_criu::vet;
use godwit_criu::vet::lsm::Confinement;
use godwit_criu_rpc::CriuVersion;
use godwit_criu_rpc::relay_plan::{
    CONTENTS_FILE, RelayPlan, RestoreOptions, SOURCES_FILE, encode_sources,
};
use godwit_files::{Application, Devices, FileIndex, Halt, Marks, Target};
use godwit_image::{ContainerHead, FrameSource, PackTable, SECTION_FILES, Space, encode_recent};
use godwit_wire::agent_op::Plan;
use godwit_wire::memfd;
use godwit_wire::pager::{LazyPlan, LazyProcess};
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use prost::Message as _;

use super::RestoreError;

/// What is staged, and for whom.
pub(super) struct Stage<'a> {
    /// The container of the checkpoint.
    pub(super) container: &'a ContainerHead,
    /// Volumes that are the pod's alone and that this container puts back: name and index.
    pub(super) volumes: &'a [(String, Vec<u8>)],
    /// Addresses that its pod had.
    pub(super) addresses: &'a [IpAddr],
    /// What becomes of its TCP connections to somebody outside.
    pub(super) outside: Outside,
    /// The spec that it is to run under.
    pub(super) spec: &'a Spec,
    /// An empty directory on tmpfs, root's alone, that outlives the restore.
    pub(super) images: &'a Path,
    /// An empty directory of the node for the relay's private mounts.
    pub(super) workspace: &'a Path,
    /// Its root file system, mounted.
    pub(super) rootfs: &'a Path,
    /// The packs of the checkpoint.
    pub(super) packs: &'a PackTable,
    /// Reads frames.
    pub(super) frames: &'a Arc<dyn FrameSource>,
    /// Names the checkpoint to any agent: `LazyPlan::source`.
    pub(super) source: Vec<u8>,
    /// Longest wait for memory while none comes.
    pub(super) deadline: Duration,
    /// Its shim, whose limits a process of a new container would have.
    pub(super) shim: u32,
    /// Out-of-memory score that a process of a new container would have.
    pub(super) score: i32,
    /// The real CRIU.
    pub(super) launcher: &'a Launcher,
    /// Its version.
    pub(super) version: CriuVersion,
    /// Ends it early.
    pub(super) halt: &'a Halt,
}

/// What the shim gets.
pub(super) struct Staged {
    /// The plan without what only the log knows.
    pub(super) plan: Plan,
    /// Its descriptors.
    pub(super) fds: Vec<OwnedFd>,
}

impl Stage<'_> {
    /// Stages.
    ///
    /// # Errors
    /// [`RestoreError`]: a refusal with its sentence, or damage.
    pub(super) fn run(&self) -> Result<Staged, RestoreError> {
        eager::check_room(self.container, self.images)?;
        self.write_images()?;
        let dir = ImageDir::new(self.images);
        let refusals = vet::check(&dir, self.spec)?;
        if let Some(first) = refusals.into_iter().next() {
            return Err(RestoreError::Vet(first));
        }
        let tasks = tasks::read(&dir)?;
        eager::check_places(self.container, &tasks)?;
        let sockets = inet::readdress(&dir, self.addresses, &self.new_addresses()?, self.outside)?;
        tracing::info!(kept = sockets.kept, closed = sockets.closed, "connections to the outside");
        limits::apply(&dir, self.spec, &limits::of_process(self.shim)?, self.score)?;
        self.write_memory(&dir)?;
        let relay_plan = self.relay_plan()?.encode();
        self.write_all_files().map_err(|half| RestoreError::HalfDone(Box::new(half)))?;
        make_room(self.rootfs, self.spec)?;
        let (pager, fds) = self.pager_plan()?;
        // Zombies are in no cgroup, by which the shim finds its tasks.
        let vpids = tasks.iter().filter(|task| !task.zombie).map(|task| task.vpid).collect();
        let plan = Plan {
            images_dir: self.images.display().to_string(),
            lazy: true,
            relay_plan,
            pager,
            pager_fds: fds.len() as u32,
            tasks: vpids,
            ..Plan::default()
        };
        Ok(Staged { plan, fds })
    }

    /// The addresses of the network that the new pod joins; a network of its own has none yet.
    fn new_addresses(&self) -> Result<Vec<IpAddr>, RestoreError> {
        match path_of(self.spec, LinuxNamespaceType::Network) {
            Some(path) => Ok(inet::addresses(&path)?),
            None => Ok(Vec::new()),
        }
    }

    fn write_images(&self) -> Result<(), RestoreError> {
        for (name, bytes) in &self.container.images {
            // A name is a file of this directory, whatever the checkpoint says.
            if name.contains('/') || name.starts_with('.') || name.is_empty() {
                return Err(RestoreError::HostileName { name: name.clone() });
            }
            self.write(name, bytes)?;
        }
        Ok(())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), RestoreError> {
        let path = self.images.join(name);
        std::fs::write(&path, bytes).map_err(|source| RestoreError::Write { path, source })
    }

    /// Page maps of all address spaces, and the bytes of their eager pages.
    fn write_memory(&self, dir: &ImageDir) -> Result<(), RestoreError> {
        let mut pages = eager::Pages::default();
        for (id, (space, head)) in (1..).zip(&self.container.spaces) {
            let runs: Vec<pagemap::Run> = head
                .pagemap()
                .into_iter()
                .map(|entry| pagemap::Run {
                    range: entry.range,
                    residence: match entry.eager {
                        true => pagemap::Residence::Eager,
                        false => pagemap::Residence::Lazy,
                    },
                })
                .collect();
            pagemap::write(dir, criu_space(*space), id, &runs)?;
            pages.add(pagemap::pages_path(dir, id), head)?;
        }
        pages.write(&**self.frames)
    }

    fn write_all_files(&self) -> Result<(), RestoreError> {
        self.write_files()?;
        self.volumes.iter().try_for_each(|(name, index)| self.write_volume(name, index))
    }

    /// The writable layer, into the root file system that the shim has mounted and nobody uses yet.
    fn write_files(&self) -> Result<(), RestoreError> {
        let Some(section) = self.container.sections.get(SECTION_FILES) else { return Ok(()) };
        let index = FileIndex::decode(section)?;
        index.check_frames(self.packs)?;
        let applied = godwit_files::apply(&Application {
            root: self.rootfs,
            target: Target::Merged,
            index: &index,
            frames: &**self.frames,
            devices: Devices::of_spec(self.spec),
            halt: self.halt,
        })?;
        tracing::debug!(names = applied.names, contents = %applied.contents, "files");
        Ok(())
    }

    /// What was in a directory of the pod, into that of the new pod: nothing of it has run.
    fn write_volume(&self, name: &str, index: &[u8]) -> Result<(), RestoreError> {
        let own = binds::pods_own(self.spec).into_iter().find(|own| own.name == name);
        let own = own.ok_or_else(|| RestoreError::NoVolume { name: name.to_owned() })?;
        let index = FileIndex::decode(index)?;
        index.check_frames(self.packs)?;
        let path = &own.bind.source;
        godwit_files::empty(path)?;
        let applied = godwit_files::apply(&Application {
            root: path,
            target: Target::Upper(Marks::None),
            index: &index,
            frames: &**self.frames,
            devices: Devices::of_spec(self.spec),
            halt: self.halt,
        })?;
        tracing::debug!(name, names = applied.names, contents = %applied.contents, "volume");
        Ok(())
    }

    fn relay_plan(&self) -> Result<RelayPlan, RestoreError> {
        let mounts = MountPlan::read(self.images)?;
        let sources = mount_sources::sources(&mounts, self.spec).map_err(|refusals| {
            refusals.into_iter().next().map_or(RestoreError::NoMounts, RestoreError::Vet)
        })?;
        self.write(SOURCES_FILE, &encode_sources(&sources))?;
        let external = sources.iter().map(|s| s.key.clone()).collect::<Vec<_>>();
        tracing::debug!(?external, "mounts that the relay makes");
        let namespaces = NamespacePlan::read(self.images)?.restore(self.spec);
        Ok(RelayPlan {
            criu: self.launcher.criu.clone(),
            path: self.launcher.path.to_string_lossy().into_owned(),
            criu_version: Some((self.version.major, self.version.minor, self.version.sublevel)),
            namespaces,
            hostname: self.spec.hostname().clone(),
            cgroup_namespace: mount_sources::has_cgroup_namespace(self.spec),
            workspace: self.workspace.to_owned(),
            contents: self.images.join(CONTENTS_FILE),
            sources: self.images.join(SOURCES_FILE),
            options: RestoreOptions {
                log_level: self.launcher.log_level,
                ..restore_options(self.spec)
            },
        })
    }

    /// The pager's plan: the page maps of all processes without what CRIU restores itself, and their hot sets.
    fn pager_plan(&self) -> Result<(Vec<u8>, Vec<OwnedFd>), RestoreError> {
        let (processes, maps) = lazy_processes(self.container)?;
        let deadline_ms = self.deadline.as_millis() as u64;
        let plan = LazyPlan { source: self.source.clone(), processes, deadline_ms };
        let fd = memfd::sealed("godwit-page-maps", &maps)?;
        Ok((plan.encode_to_vec(), vec![fd]))
    }
}

/// The processes that have lazy pages, and the bytes that they refer to.
fn lazy_processes(container: &ContainerHead) -> Result<(Vec<LazyProcess>, Vec<u8>), RestoreError> {
    let mut maps = Vec::new();
    let mut processes = Vec::new();
    for (space, head) in &container.spaces {
        let Space::Task(vpid) = space else { continue };
        let mut map = head.map.clone();
        head.eager.iter().for_each(|range| map.remove(*range));
        let hot = if head.recent.is_empty() { Vec::new() } else { encode_recent(&head.recent) };
        let (offset, length) = put(&mut maps, &map.encode()?);
        let (hot_offset, hot_length) = put(&mut maps, &hot);
        let vpid = i32::try_from(*vpid).map_err(|_| RestoreError::NoMounts)?;
        processes.push(LazyProcess { vpid, offset, length, hot_offset, hot_length });
    }
    Ok((processes, maps))
}

/// Appends bytes: where they begin, and how many.
fn put(all: &mut Vec<u8>, bytes: &[u8]) -> (u64, u64) {
    let place = (all.len() as u64, bytes.len() as u64);
    all.extend_from_slice(bytes);
    place
}

/// CRIU's options: confinement is the new spec's.
fn restore_options(spec: &Spec) -> RestoreOptions {
    let Confinement { profile, mount_context } = Confinement::of(spec);
    RestoreOptions {
        lazy_pages: true,
        lsm_profile: profile,
        lsm_mount_context: mount_context,
        ..RestoreOptions::default()
    }
}

/// CRIU puts the old root away into `tmp` of the new one (`cr_pivot_root` of `criu/mount.c`), or makes a directory for that, which a root
/// that is mounted for reading does not allow: images with nothing but a program have no `tmp`. An empty one stays.
fn make_room(rootfs: &Path, spec: &Spec) -> Result<(), RestoreError> {
    if spec.root().as_ref().and_then(|root| root.readonly()) != Some(true) {
        return Ok(());
    }
    let path = rootfs.join("tmp");
    match std::fs::create_dir(&path) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
            Err(RestoreError::Write { path, source })
        }
        _ => Ok(()),
    }
}

fn criu_space(space: Space) -> pagemap::Space {
    match space {
        Space::Task(vpid) => pagemap::Space::Task(vpid),
        Space::Shmem(id) => pagemap::Space::Shmem(id),
    }
}

#[cfg(test)]
mod tests {
    use godwit_image::{PageMap, PageRun, SpaceHead, decode_recent};
    use godwit_types::{PageNumber, PageRange};

    use super::*;

    #[test]
    fn the_pager_gets_each_process_without_its_eager_pages_and_what_was_written_last() {
        let range = |first, count| PageRange::new(PageNumber(first), count);
        let map = |r| PageMap::from_iter([PageRun::zero(r)]);
        let eager = vec![range(3, 1)];
        let head = |recent| SpaceHead {
            map: map(range(0, 9)),
            eager: eager.clone(),
            recent,
            ..Default::default()
        };
        let spaces = [
            (Space::Task(1), head(vec![])),
            (Space::Task(7), head(vec![range(1, 2), range(8, 1)])),
            (Space::Shmem(5), head(vec![range(0, 1)])),
        ];
        let container = ContainerHead { spaces: spaces.into(), ..Default::default() };
        let (processes, bytes) = lazy_processes(&container).unwrap();
        let part = |first: u64, length: u64| &bytes[first as usize..(first + length) as usize];
        let mut lazy = map(range(0, 9));
        lazy.remove(range(3, 1));
        for process in &processes {
            let decoded = PageMap::decode(part(process.offset, process.length));
            assert_eq!(decoded.as_ref(), Ok(&lazy));
        }
        let [one, seven] = &processes[..] else { panic!("{processes:?}") };
        assert_eq!((one.vpid, one.hot_length, seven.vpid), (1, 0, 7));
        let hot = decode_recent(part(seven.hot_offset, seven.hot_length));
        assert_eq!(hot, Ok(vec![range(1, 2), range(8, 1)]));
    }

    #[test]
    fn a_root_for_reading_has_a_directory_for_criu() {
        let dir = tempfile::tempdir().unwrap();
        let spec = |readonly| {
            let json =
                format!(r#"{{"ociVersion":"1.2.0","root":{{"path":"r","readonly":{readonly}}}}}"#);
            serde_json::from_str(&json).unwrap()
        };
        make_room(dir.path(), &spec(false)).unwrap();
        assert!(!dir.path().join("tmp").exists());
        for _ in 0..2 {
            make_room(dir.path(), &spec(true)).unwrap();
            assert!(dir.path().join("tmp").is_dir());
        }
        assert!(make_room(&dir.path().join("none"), &spec(true)).is_err());
    }

    #[test]
    fn confinement_comes_from_the_new_spec() {
        let json = r#"{"ociVersion":"1.2.0","linux":{"mountLabel":"u:r:t:s0"},
            "process":{"cwd":"/","user":{"uid":0,"gid":0},"selinuxLabel":"u:r:container_t:s0"}}"#;
        let options = restore_options(&serde_json::from_str(json).unwrap());
        assert!(options.lazy_pages);
        assert_eq!(options.lsm_profile.as_deref(), Some("selinux:u:r:container_t:s0"));
        assert_eq!(options.lsm_mount_context.as_deref(), Some("u:r:t:s0"));
    }
}
