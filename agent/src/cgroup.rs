//! CRIU's own cgroup, beside the agent's: a memory limit of the agent's unit, or a kill of all that is in it, would end CRIU in
//! the middle of a dump, and the container that it holds is damaged then. (One below the agent's would share both.)

use std::path::{Path, PathBuf};

/// Its name. It stays: the next agent uses it again.
const NAME: &str = "godwit-criu";
/// What a process can be limited or ended by, of v1's hierarchies. The others need settings before anybody may enter.
const OF_V1: [&str; 3] = ["memory", "pids", "name=systemd"];

/// Makes it in every hierarchy that matters; gives the files that a process is written to. What cannot be made is logged.
pub(crate) fn beside_this_process() -> Vec<PathBuf> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let places = places(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo"));
    places.into_iter().filter_map(|dir| make(&dir)).collect()
}

fn make(dir: &Path) -> Option<PathBuf> {
    match std::fs::create_dir(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            tracing::warn!(dir = %dir.display(), %error, "CRIU shares the limits and the fate of the agent");
            None
        }
        _ => Some(dir.join("cgroup.procs")),
    }
}

/// Where it belongs, from the texts of `/proc/self/cgroup` and `/proc/self/mountinfo`.
fn places(membership: &str, mountinfo: &str) -> Vec<PathBuf> {
    let own = membership.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        Some((fields.next()?, Path::new(fields.next()?)))
    });
    let wanted = own.filter(|(names, _)| names.is_empty() || names.split(',').any(is_wanted));
    let place = |(names, own): (&str, &Path)| {
        // The root has nothing beside it.
        let parent = own.parent().unwrap_or(own);
        let (root, point) = mountinfo.lines().find_map(|line| mounted(line, names))?;
        Some(Path::new(point).join(parent.strip_prefix(root).ok()?).join(NAME))
    };
    wanted.filter_map(place).collect()
}

fn is_wanted(name: &str) -> bool {
    OF_V1.contains(&name)
}

/// Root and place of a mount of the hierarchy with these controllers; without any, of v2.
fn mounted<'a>(line: &'a str, names: &str) -> Option<(&'a str, &'a str)> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(3);
    let mut right = right.split(' ');
    let (fs, options) = (right.next()?, right.nth(1)?);
    let is_it = match names {
        "" => fs == "cgroup2",
        names => {
            fs == "cgroup" && names.split(',').all(|name| options.split(',').any(|o| o == name))
        }
    };
    is_it.then_some((left.next()?, left.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "\
31 30 0:27 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
32 30 0:28 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
33 30 0:29 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset
34 30 0:30 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn it_is_beside_the_agents_and_never_below() {
        let v2 = "30 24 0:26 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw\n";
        let places_of = |own: &str, mounts: &str| {
            places(own, mounts).iter().map(|p| p.display().to_string()).collect::<Vec<_>>()
        };
        let unit = places_of("0::/system.slice/godwit-agent.service\n", v2);
        assert_eq!(unit, ["/sys/fs/cgroup/system.slice/godwit-criu"]);
        assert_eq!(places_of("0::/\n", v2), ["/sys/fs/cgroup/godwit-criu"]);
        let own = "9:name=systemd:/a/b\n4:memory:/jobs/7\n3:cpuset:/\n2:pids:/\n0::/\n";
        assert_eq!(
            places_of(own, V1),
            [
                "/sys/fs/cgroup/systemd/a/godwit-criu",
                "/sys/fs/cgroup/memory/jobs/godwit-criu",
                "/sys/fs/cgroup/unified/godwit-criu"
            ]
        );
    }

    #[test]
    fn what_is_there_is_used_again_and_what_cannot_be_made_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join(NAME);
        let file = Some(place.join("cgroup.procs"));
        assert_eq!((make(&place), make(&place)), (file.clone(), file));
        assert_eq!(make(&dir.path().join("none/below")), None);
    }
}
