//! Resource limits and the out-of-memory score of every process, from the new spec instead of the checkpoint.

use godwit_criu_rpc::image_file::Kind;
use godwit_criu_rpc::raw::Message;
use oci_spec::runtime::{PosixRlimitType, Spec};

use crate::Error;
use crate::images::{ImageDir, tasks};

/// How many kinds of limit the kernel has.
const KINDS: usize = 16;
/// "No limit", in CRIU's images and in the kernel.
const INFINITY: u64 = u64::MAX;

/// Field numbers of `core_entry`, `task_core_entry`, `task_rlimits_entry`, `rlimit_entry`.
mod field {
    pub(super) const TC: u32 = 3;
    pub(super) const RLIMITS: u32 = 8;
    pub(super) const OOM_SCORE_ADJ: u32 = 14;
    pub(super) const RLIMIT: u32 = 1;
    pub(super) const SOFT: u32 = 1;
    pub(super) const HARD: u32 = 2;
}

/// Soft and hard value of each limit, by its number.
pub type Limits = [(u64, u64); KINDS];

/// The limits of a process (proc_pid_limits(5)). Those of a shim, from which a new container inherits what its spec does not name, are
/// the upper bound for what a restored one had.
///
/// # Errors
/// [`Error::Io`], [`Error::Refused`] if the kernel does not name them all: what is not known would be no bound.
pub fn of_process(pid: u32) -> Result<Limits, Error> {
    let path = std::path::PathBuf::from(format!("/proc/{pid}/limits"));
    let text = std::fs::read_to_string(&path).map_err(Error::reading(&path))?;
    parse(&text).ok_or_else(|| Error::Refused(format!("{} is not understood", path.display())))
}

fn parse(text: &str) -> Option<Limits> {
    let mut found = [None; KINDS];
    for (kind, limit) in text.lines().filter_map(parse_line) {
        found[kind] = Some(limit);
    }
    let mut limits = [(INFINITY, INFINITY); KINDS];
    for (limit, found) in limits.iter_mut().zip(found) {
        *limit = found?;
    }
    Some(limits)
}

/// Gives every process of the image directory the spec's limits and score. A limit that the spec does not name keeps
/// its value up to `bound`; so does the score, but it is at least `inherited`, what a process of a new container would have.
///
/// # Errors
/// [`Error::Io`], [`Error::Rpc`], [`Error::Image`].
pub fn apply(images: &ImageDir, spec: &Spec, bound: &Limits, inherited: i32) -> Result<(), Error> {
    let named = of_spec(spec);
    let of_spec = spec.process().as_ref().and_then(oci_spec::runtime::Process::oom_score_adj);
    for task in tasks::read(images)? {
        let name = format!("core-{}.img", task.vpid);
        let mut file = images.read(Kind::Core, &name)?;
        let [record] = file.records.as_mut_slice() else {
            return Err(Error::image(name, "not one record"));
        };
        let mut core = Message::parse(record)?;
        let Some(tc) = core.bytes(field::TC) else { continue };
        let mut tc = Message::parse(tc)?;
        let score = of_spec.unwrap_or_else(|| own_score(&tc).unwrap_or(inherited).max(inherited));
        // A negative int32 is ten bytes on the wire: sign-extended.
        tc.set_varint(field::OOM_SCORE_ADJ, i64::from(score).cast_unsigned());
        limit(&mut tc, &named, bound)?;
        core.set_bytes(field::TC, tc.encode());
        *record = core.encode();
        images.write(&name, &file)?;
    }
    Ok(())
}

/// The score that a process had.
fn own_score(tc: &Message) -> Option<i32> {
    i32::try_from(tc.varint(field::OOM_SCORE_ADJ)?.cast_signed()).ok()
}

fn limit(
    tc: &mut Message,
    named: &[Option<(u64, u64)>; KINDS],
    bound: &Limits,
) -> Result<(), Error> {
    let Some(bytes) = tc.bytes(field::RLIMITS) else { return Ok(()) };
    let mut all = Message::parse(bytes)?;
    let mut kind = 0;
    all.edit_bytes(field::RLIMIT, |bytes| {
        let mut one = Message::parse(bytes)?;
        let soft = one.varint(field::SOFT).unwrap_or(0);
        let hard = one.varint(field::HARD).unwrap_or(0);
        if let Some(bound) = bound.get(kind) {
            let hard = hard.min(bound.1);
            let (soft, hard) = named[kind].unwrap_or((soft.min(hard), hard));
            one.set_varint(field::SOFT, soft);
            one.set_varint(field::HARD, hard);
        }
        kind += 1;
        Ok::<_, Error>(one.encode())
    })?;
    tc.set_bytes(field::RLIMITS, all.encode());
    Ok(())
}

fn of_spec(spec: &Spec) -> [Option<(u64, u64)>; KINDS] {
    let mut named = [None; KINDS];
    let rlimits = spec.process().as_ref().and_then(|p| p.rlimits().as_ref());
    for rlimit in rlimits.into_iter().flatten() {
        named[number(rlimit.typ())] = Some((rlimit.soft(), rlimit.hard()));
    }
    named
}

/// `<asm-generic/resource.h>`.
fn number(kind: PosixRlimitType) -> usize {
    match kind {
        PosixRlimitType::RlimitCpu => 0,
        PosixRlimitType::RlimitFsize => 1,
        PosixRlimitType::RlimitData => 2,
        PosixRlimitType::RlimitStack => 3,
        PosixRlimitType::RlimitCore => 4,
        PosixRlimitType::RlimitRss => 5,
        PosixRlimitType::RlimitNproc => 6,
        PosixRlimitType::RlimitNofile => 7,
        PosixRlimitType::RlimitMemlock => 8,
        PosixRlimitType::RlimitAs => 9,
        PosixRlimitType::RlimitLocks => 10,
        PosixRlimitType::RlimitSigpending => 11,
        PosixRlimitType::RlimitMsgqueue => 12,
        PosixRlimitType::RlimitNice => 13,
        PosixRlimitType::RlimitRtprio => 14,
        PosixRlimitType::RlimitRttime => 15,
    }
}

/// `Max open files            1024                 524288               files`
fn parse_line(line: &str) -> Option<(usize, (u64, u64))> {
    const NAMES: [&str; KINDS] = [
        "Max cpu time",
        "Max file size",
        "Max data size",
        "Max stack size",
        "Max core file size",
        "Max resident set",
        "Max processes",
        "Max open files",
        "Max locked memory",
        "Max address space",
        "Max file locks",
        "Max pending signals",
        "Max msgqueue size",
        "Max nice priority",
        "Max realtime priority",
        "Max realtime timeout",
    ];
    let kind = NAMES.iter().position(|name| line.starts_with(name))?;
    let mut words = line.get(NAMES[kind].len()..)?.split_whitespace();
    let mut value = || match words.next()? {
        "unlimited" => Some(INFINITY),
        number => number.parse().ok(),
    };
    Some((kind, (value()?, value()?)))
}

#[cfg(test)]
mod tests {
    use godwit_criu_rpc::images::{Core, Mm, Pstree, Rlimit, TaskCore, TaskRlimits};

    use super::*;
    use crate::images::tasks::tests::write;

    /// As Linux 6.12 says it.
    const TEXT: &str = "\
Limit                     Soft Limit           Hard Limit           Units     
Max cpu time              unlimited            unlimited            seconds   
Max file size             unlimited            unlimited            bytes     
Max data size             unlimited            unlimited            bytes     
Max stack size            8388608              unlimited            bytes     
Max core file size        0                    unlimited            bytes     
Max resident set          unlimited            unlimited            bytes     
Max processes             63432                63432                processes 
Max open files            1024                 524288               files     
Max locked memory         8388608              8388608              bytes     
Max address space         unlimited            unlimited            bytes     
Max file locks            unlimited            unlimited            locks     
Max pending signals       63432                63432                signals   
Max msgqueue size         819200               819200               bytes     
Max nice priority         0                    0                    
Max realtime priority     0                    0                    
Max realtime timeout      unlimited            unlimited            us        
";

    #[test]
    fn what_the_kernel_says_of_limits_is_read_whole_or_not_at_all() {
        let limits = parse(TEXT).unwrap();
        assert_eq!((limits[4], limits[7]), ((0, INFINITY), (1024, 524_288)));
        assert_eq!((limits[3], limits[14]), ((8 << 20, INFINITY), (0, 0)));
        for damaged in ["", &TEXT.replace("524288", "many"), &TEXT.replace("Max nice", "Max kind")]
        {
            assert_eq!(parse(damaged), None, "{damaged}");
        }
    }

    #[test]
    fn the_limits_of_another_process_are_its_own() {
        use rustix::process::{Pid, Resource, Rlimit, prlimit};
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let none = Rlimit { current: Some(0), maximum: Some(0) };
        prlimit(Some(Pid::from_child(&child)), Resource::Core, none).unwrap();
        let limits = of_process(child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(limits.unwrap()[4], (0, 0));
        let nofile = rustix::process::getrlimit(Resource::Nofile);
        let ours = of_process(std::process::id()).unwrap();
        assert_eq!(ours[7].0, nofile.current.unwrap_or(INFINITY));
    }

    #[test]
    fn without_a_score_in_the_spec_nobody_is_safer_than_a_new_container() {
        let dir = tempfile::tempdir().unwrap();
        let images = ImageDir::new(dir.path());
        let tree = Pstree { pid: 1, threads: vec![1], ..Pstree::default() };
        write(&images, Kind::Pstree, "pstree.img", &[tree]);
        write(&images, Kind::Mm, "mm-1.img", &[Mm::default()]);
        let spec: Spec = serde_json::from_str(r#"{"ociVersion":"1.2.0"}"#).unwrap();
        let scored = |oom_score_adj, inherited| {
            let tc = TaskCore { oom_score_adj, ..TaskCore::default() };
            write(&images, Kind::Core, "core-1.img", &[Core { tc: Some(tc), ..Core::default() }]);
            apply(&images, &spec, &[(INFINITY, INFINITY); KINDS], inherited).unwrap();
            tasks::core(&images, 1).unwrap().tc.unwrap().oom_score_adj
        };
        assert_eq!(scored(Some(-1000), 1), Some(1));
        assert_eq!(scored(Some(-1000), -998), Some(-998));
        assert_eq!(scored(None, -998), Some(-998));
        assert_eq!(scored(Some(500), 1), Some(500));
    }

    #[test]
    fn the_new_spec_wins_and_what_it_does_not_name_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let images = ImageDir::new(dir.path());
        let tree = Pstree { pid: 1, threads: vec![1], ..Pstree::default() };
        write(&images, Kind::Pstree, "pstree.img", &[tree]);
        write(&images, Kind::Mm, "mm-1.img", &[Mm::default()]);
        let rlimits = vec![Rlimit { cur: INFINITY, max: INFINITY }; KINDS];
        let tc = TaskCore {
            comm: "x".into(),
            rlimits: Some(TaskRlimits { rlimits }),
            oom_score_adj: Some(-1000),
            ..TaskCore::default()
        };
        write(&images, Kind::Core, "core-1.img", &[Core { tc: Some(tc), ..Core::default() }]);
        let spec: Spec = serde_json::from_str(
            r#"{"ociVersion":"1.2.0","process":{"cwd":"/","oomScoreAdj":-7,"user":{"uid":0,"gid":0},
                "rlimits":[{"type":"RLIMIT_NOFILE","soft":5,"hard":10}]}}"#,
        )
        .unwrap();
        let mut bound = [(INFINITY, INFINITY); KINDS];
        bound[8] = (0, 65536);
        apply(&images, &spec, &bound, 1).unwrap();
        let tc = tasks::core(&images, 1).unwrap().tc.unwrap();
        let rlimits = tc.rlimits.unwrap().rlimits;
        assert_eq!((tc.comm.as_str(), tc.oom_score_adj), ("x", Some(-7)));
        assert_eq!(rlimits.len(), KINDS);
        assert_eq!((rlimits[7].cur, rlimits[7].max), (5, 10));
        assert_eq!((rlimits[8].cur, rlimits[8].max), (65536, 65536));
        assert_eq!((rlimits[0].cur, rlimits[0].max), (INFINITY, INFINITY));
    }
}
