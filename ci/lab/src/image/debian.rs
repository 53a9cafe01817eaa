//! Layers out of the packages of the nodes' root file system: programs, and the shared libraries that they load.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::oci::Layer;
use crate::command::{host, run};
use crate::error::{LabError, Result};
use crate::places;

/// Parts of packages that a container needs. Documentation, locales and units are left out.
const WANTED: &[&str] = &["/usr/bin/", "/usr/sbin/", "/usr/lib/locale/C.utf8/", "/usr/libexec/"];

/// A bottom layer: the directories that programs expect, users, and these packages.
pub(super) fn base(tree: &Path, packages: &[&str]) -> Result<Layer> {
    let mut layer = Layer::default();
    for dir in
        ["dev", "etc", "home", "proc", "run", "sys", "usr/bin", "usr/lib64", "usr/sbin", "var/tmp"]
    {
        layer.dir(dir, 0o755)?;
    }
    layer.dir("root", 0o700)?;
    layer.dir("tmp", 0o1777)?;
    for name in ["bin", "lib", "lib64", "sbin"] {
        layer.link(name, &format!("usr/{name}"))?;
    }
    for name in ["passwd", "group"] {
        layer.file(&format!("etc/{name}"), &tree.join("etc").join(name))?;
    }
    layer.text("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n")?;
    add(&mut layer, tree, packages)?;
    Ok(layer)
}

/// A layer with these packages.
pub(super) fn packages(tree: &Path, packages: &[&str]) -> Result<Layer> {
    let mut layer = Layer::default();
    add(&mut layer, tree, packages)?;
    Ok(layer)
}

fn add(layer: &mut Layer, tree: &Path, packages: &[&str]) -> Result<()> {
    let mut programs = vec![];
    for package in packages {
        programs.extend(files_of(tree, package)?);
    }
    for path in &programs {
        add_path(layer, tree, path)?;
    }
    for library in libraries_of(tree, &programs)? {
        add_path(layer, tree, &library)?;
    }
    Ok(())
}

/// The wanted files of an installed package, as paths from the root.
fn files_of(tree: &Path, package: &str) -> Result<Vec<String>> {
    let info = tree.join("var/lib/dpkg/info");
    let plain = info.join(format!("{package}.list"));
    let list = if plain.exists() { plain } else { info.join(format!("{package}:amd64.list")) };
    let text = places::read(&list)?;
    Ok(text.lines().map(merged).filter(|path| is_wanted(tree, path)).collect())
}

/// A few packages still name `/bin` and `/lib`, which are links into `/usr`.
fn merged(path: &str) -> String {
    if path.starts_with("/usr/") || path.starts_with("/etc/") {
        path.to_owned()
    } else {
        format!("/usr{path}")
    }
}

fn is_wanted(tree: &Path, path: &str) -> bool {
    let Ok(meta) = std::fs::symlink_metadata(inside(tree, path)) else { return false };
    !meta.is_dir() && WANTED.iter().any(|start| path.starts_with(start))
}

/// Adds a file; of a symbolic link, the link and what it points to.
fn add_path(layer: &mut Layer, tree: &Path, path: &str) -> Result<()> {
    let from = inside(tree, path);
    let name = path.trim_start_matches('/');
    match std::fs::read_link(&from) {
        Err(_) => layer.file(name, &from),
        Ok(target) => {
            layer.link(name, &target.to_string_lossy())?;
            let parent = Path::new(path).parent().unwrap_or(Path::new("/"));
            let next = normal(&parent.join(target));
            // Links into /etc/alternatives may lead to what is not installed.
            if inside(tree, &next).symlink_metadata().is_ok_and(|meta| !meta.is_dir()) {
                add_path(layer, tree, &merged(&next))?;
            }
            Ok(())
        }
    }
}

fn inside(tree: &Path, path: &str) -> PathBuf {
    tree.join(path.trim_start_matches('/'))
}

/// A path without `.` and `..`.
fn normal(path: &Path) -> String {
    let mut parts: Vec<&str> = vec![];
    for part in path.to_str().unwrap_or_default().split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// All shared libraries that the ELF files among `paths` load, the loader included; the loader itself tells.
fn libraries_of(tree: &Path, paths: &[String]) -> Result<BTreeSet<String>> {
    let elfs: Vec<&str> =
        paths.iter().filter(|path| is_elf(&inside(tree, path))).map(String::as_str).collect();
    if elfs.is_empty() {
        return Ok(BTreeSet::new());
    }
    let tree = tree
        .to_str()
        .ok_or_else(|| LabError::Refused("the cache's path has to be readable text".to_owned()))?;
    let words = [&["chroot", tree, "ldd"], &elfs[..]].concat();
    Ok(parse_ldd(&run(&mut host(&words))?))
}

fn is_elf(path: &Path) -> bool {
    let mut magic = [0; 4];
    File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok()
        && magic == *b"\x7fELF"
}

fn parse_ldd(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter_map(|line| {
            let place = line.split_once(" => ").map_or(line, |(_, place)| place);
            let path = place.trim().split_once(" (0x")?.0;
            path.starts_with('/').then(|| merged(path))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loader_and_every_library_are_taken_from_what_ldd_says() {
        let told = "/usr/bin/x:\n\tlinux-vdso.so.1 (0x00007f57798cb000)\n\
            \tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x1)\n\t/lib64/ld-linux-x86-64.so.2 (0x2)\n\
            /usr/bin/y:\n\tstatically linked\n";
        let found: Vec<String> = parse_ldd(told).into_iter().collect();
        assert_eq!(
            found,
            ["/usr/lib/x86_64-linux-gnu/libz.so.1", "/usr/lib64/ld-linux-x86-64.so.2"]
        );
    }

    #[test]
    fn a_path_is_cleaned_of_dots() {
        assert_eq!(normal(Path::new("/usr/bin/../lib/./x")), "/usr/lib/x");
    }
}
