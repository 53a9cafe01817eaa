//! Our own test programs, linked statically so that they need nothing of an image.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::{host, run_shown};
use crate::error::{LabError, Result};
use crate::places;

const PROGRAMS: [&str; 5] = ["counter", "forktree", "hold", "memwriter", "talk"];

/// Builds the programs (nothing to do when they are up to date) and returns their paths.
pub(super) fn build() -> Result<Vec<PathBuf>> {
    let target_dir = places::cache().join("programs");
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["build", "--quiet", "--package", "godwit-programs", "--bins"])
        .args(["--target", &triple])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
        .env("CARGO_TARGET_DIR", &target_dir)
        // With --target these do not reach build scripts and procedural macros, which cannot be static.
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    run_shown(&mut cargo)?;
    let built = target_dir.join(triple).join("debug");
    let programs = PROGRAMS.iter().map(|name| built.join(name));
    Ok(programs.chain([build_c("ccounter")?]).collect())
}

/// Copies of programs without what debuggers want.
pub(super) fn stripped(programs: Vec<PathBuf>) -> Result<Vec<PathBuf>> {
    let dir = places::cache().join("programs/stripped");
    places::make_dir(&dir)?;
    let strip = |program: PathBuf| {
        let to = dir.join(program.file_name().unwrap_or_default());
        crate::command::strip(&program, &to).map(|()| to)
    };
    programs.into_iter().map(strip).collect()
}

/// Process 1 of a pod.
pub(super) fn build_pause() -> Result<PathBuf> {
    build_c("pause")
}

/// What tells whose rights it has.
pub(super) fn build_nnp() -> Result<PathBuf> {
    build_c("nnp")
}

/// One in C: nothing of Rust's runtime is in it.
fn build_c(name: &str) -> Result<PathBuf> {
    let target_dir = places::cache().join("programs");
    places::make_dir(&target_dir)?;
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../programs/c/{name}.c"));
    let built = target_dir.join(name);
    let half = target_dir.join(format!("{name}.{}", std::process::id()));
    let mut cc = host(&["cc", "-static", "-O2", "-Wall", "-Wextra", "-Werror", "-o"]);
    run_shown(cc.arg(&half).arg(source))?;
    std::fs::rename(&half, &built).map_err(LabError::io("renaming", &half))?;
    Ok(built)
}
