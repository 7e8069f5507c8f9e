//! `cargo xtask fuzz`: the fuzz target of the edge's frame decoder, by cargo-fuzz, and its corpus made small again.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, ensure};

const TARGET: &str = "frames";

/// The version that is installed where there is none.
const CARGO_FUZZ: &str = "0.13.2";

/// No address sanitizer, for that needs a nightly compiler; and nothing here is `unsafe`.
const SANITIZER: [&str; 2] = ["--sanitizer", "none"];

/// Frames of up to twice what is too large.
const BYTES_MAX: usize = 256 * 1_024;

pub(crate) fn run(seconds: u64) -> anyhow::Result<()> {
    let edge = crate::root().join("edge");
    if !Command::new("cargo").args(["fuzz", "--version"]).output()?.status.success() {
        crate::cargo(&["install", "--locked", "cargo-fuzz", "--version", CARGO_FUZZ])?;
    }
    let (time, bytes) = (format!("-max_total_time={seconds}"), format!("-max_len={BYTES_MAX}"));
    // Beside the corpus that is kept: what is new there is too much to keep.
    let grown = crate::root().join("target/fuzz-corpus");
    std::fs::create_dir_all(&grown)?;
    let kept = edge.join("fuzz/corpus").join(TARGET);
    let run = [grown.clone().into_os_string(), kept.clone().into_os_string()];
    fuzz(&edge, "run", &run, &[&time, &bytes, "-dict=fuzz/frames.dict", "-print_final_stats=1"])?;
    // What covers the same with less takes the place of the one that was kept.
    let merged = crate::root().join("target/fuzz-merged");
    if merged.exists() {
        std::fs::remove_dir_all(&merged)?;
    }
    std::fs::create_dir_all(&merged)?;
    let from = [merged.clone().into_os_string(), grown.into_os_string(), kept.clone().into_os_string()];
    fuzz(&edge, "run", &from, &["-merge=1", &bytes])?;
    std::fs::remove_dir_all(&kept)?;
    std::fs::create_dir_all(&kept)?;
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(&merged)?.map(|file| file.map(|file| file.path())).collect::<Result<_, _>>()?;
    files.sort();
    for file in &files {
        let name = file.file_name().context("a file without a name")?;
        std::fs::copy(file, kept.join(name))?;
    }
    println!("{} files in edge/fuzz/corpus/{TARGET}", files.len());
    Ok(())
}

fn fuzz(edge: &std::path::Path, verb: &str, folders: &[std::ffi::OsString], options: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new("cargo");
    command.args(["fuzz", verb]).args(SANITIZER).arg(TARGET).args(folders).arg("--").args(options).current_dir(edge);
    println!("{command:?}");
    ensure!(command.status()?.success(), "{command:?} failed");
    Ok(())
}
