//! Open files of kinds that need a capability, and deleted files that are devices.

use godwit_criu_rpc::image_file::Kind;
use godwit_criu_rpc::images::File;
use oci_spec::runtime::{Capability, Spec};
use rustix::fs::FileType;

use super::{Refusal, creds};
use crate::Error;
use crate::images::{ImageDir, ghosts};

/// `fd_types` (`images/fdinfo.proto`) that anybody may have: regular files, pipes, fifos, inet and unix sockets,
/// eventfd, epoll, inotify, signalfd, terminals, netlink, external files, timerfd, memfd, pidfd.
const HARMLESS: [u32; 15] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 16, 17, 18, 20];
const INETSK: u32 = 4;
const PACKETSK: u32 = 10;
const FANOTIFY: u32 = 12;
const NS: u32 = 14;
const TUN: u32 = 15;
const BPF_MAP: u32 = 19;
const SOCK_RAW: u32 = 3;

pub(super) fn check(images: &ImageDir, spec: &Spec) -> Result<Vec<Refusal>, Error> {
    let mut refusals = open_files(images, spec)?;
    for name in ghosts::names(images)? {
        refusals.extend(ghost(images, spec, &name)?);
    }
    Ok(refusals)
}

fn open_files(images: &ImageDir, spec: &Spec) -> Result<Vec<Refusal>, Error> {
    let name = "files.img";
    let Some(file) = images.read_if_there(Kind::Files, name)? else { return Ok(Vec::new()) };
    let files: Vec<File> = file.decode(name)?;
    let mut refusals = Vec::new();
    for file in &files {
        let Some((kind, capability, name)) = needs(file) else { continue };
        if capability.is_none_or(|c| !creds::grants(spec, c)) {
            let refusal = Refusal::File { kind, capability: name };
            if !refusals.contains(&refusal) {
                refusals.push(refusal);
            }
        }
    }
    Ok(refusals)
}

/// What an open file is called, and the capability that it needs; `None` inside: nothing that we know would do.
fn needs(file: &File) -> Option<(&'static str, Option<Capability>, &'static str)> {
    match file.r#type {
        INETSK if file.isk.as_ref().is_some_and(|s| s.r#type == SOCK_RAW) => {
            Some(("raw socket", Some(Capability::NetRaw), "CAP_NET_RAW"))
        }
        known if HARMLESS.contains(&known) => None,
        PACKETSK => Some(("packet socket", Some(Capability::NetRaw), "CAP_NET_RAW")),
        TUN => Some(("TUN device", Some(Capability::NetAdmin), "CAP_NET_ADMIN")),
        FANOTIFY => Some(("fanotify group", Some(Capability::SysAdmin), "CAP_SYS_ADMIN")),
        NS => Some(("namespace", Some(Capability::SysAdmin), "CAP_SYS_ADMIN")),
        BPF_MAP => Some(("BPF map", Some(Capability::Bpf), "CAP_BPF")),
        _ => Some(("file of an unknown kind", None, "a newer version of Godwit")),
    }
}

fn ghost(images: &ImageDir, spec: &Spec, name: &str) -> Result<Option<Refusal>, Error> {
    let ghost = ghosts::record(images, name)?;
    let kind = FileType::from_raw_mode(ghost.mode);
    if !matches!(kind, FileType::CharacterDevice | FileType::BlockDevice) {
        return Ok(None);
    }
    let device = u64::from(ghost.rdev.unwrap_or(0));
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let known = spec.linux().as_ref().and_then(|l| l.devices().as_ref());
    let wanted = (i64::from(major), i64::from(minor));
    let allowed = known.is_some_and(|all| all.iter().any(|d| (d.major(), d.minor()) == wanted));
    Ok((!allowed).then(|| Refusal::Device { path: name.to_owned(), major, minor }))
}

#[cfg(test)]
mod tests {
    use godwit_criu_rpc::images::{GhostFile, InetSk};
    use prost::Message as _;

    use super::*;
    use crate::images::tasks::tests::write;

    fn spec(bounding: &str) -> Spec {
        serde_json::from_str(&format!(
            r#"{{"ociVersion":"1.2.0","process":{{"cwd":"/","user":{{"uid":0,"gid":0}},"capabilities":{{"bounding":[{bounding}]}}}}}}"#
        ))
        .unwrap()
    }

    fn of(files: &[File], spec: &Spec) -> Vec<Refusal> {
        let dir = tempfile::tempdir().unwrap();
        let images = ImageDir::new(dir.path());
        write(&images, Kind::Files, "files.img", files);
        check(&images, spec).unwrap()
    }

    fn file(kind: u32) -> File {
        File { r#type: kind, ..File::default() }
    }

    #[test]
    fn ordinary_files_pass_and_privileged_ones_need_their_capability() {
        let ordinary: Vec<File> = HARMLESS.into_iter().map(file).collect();
        assert_eq!(of(&ordinary, &spec("")), []);
        for kind in [PACKETSK, FANOTIFY, NS, TUN, BPF_MAP, 99] {
            assert_eq!(of(&[file(kind), file(kind)], &spec("")).len(), 1, "{kind}");
        }
        let raw = InetSk { r#type: SOCK_RAW, ..InetSk::default() };
        let raw = File { isk: Some(raw), ..file(INETSK) };
        assert_eq!(of(std::slice::from_ref(&raw), &spec("")).len(), 1);
        assert_eq!(of(&[raw, file(PACKETSK)], &spec("\"CAP_NET_RAW\"")), []);
    }

    #[test]
    fn a_deleted_device_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let images = ImageDir::new(dir.path());
        let ghost = GhostFile { mode: 0o060_600, rdev: Some(0x801), ..GhostFile::default() };
        write(&images, Kind::GhostFile, "ghost-file-1.img", &[ghost]);
        let refusals = check(&images, &spec("")).unwrap();
        assert_eq!(
            refusals,
            [Refusal::Device { path: "ghost-file-1.img".into(), major: 8, minor: 1 }]
        );
        // The content of an ordinary one is not looked at.
        let ghost = GhostFile { mode: 0o100_600, ..GhostFile::default() };
        write(&images, Kind::GhostFile, "ghost-file-1.img", &[ghost]);
        let path = dir.path().join("ghost-file-1.img");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend(vec![0xff; 100]);
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(check(&images, &spec("")).unwrap(), []);
        assert!(!ghost.encode_to_vec().is_empty());
    }
}
