//! `cargo xtask fuzz`: the fuzz target of the edge's frame decoder, by cargo-fuzz. What it finds goes into the corpus that tests replay:
//! one file, a frame in hexadecimal digits each line.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};

const TARGET: &str = "frames";

/// The version that is installed where there is none.
const CARGO_FUZZ: &str = "0.13.2";

/// No address sanitizer, for that needs a nightly compiler; and nothing here is `unsafe`.
const SANITIZER: [&str; 2] = ["--sanitizer", "none"];

/// Frames of up to twice what is too large, bytes.
const BYTES_MAX: &str = "-max_len=262144";

/// Of the corpus that is kept: what covers more code, not the same more often, and is short.
const KEPT: [&str; 3] = ["-merge=1", "-use_counters=0", "-max_len=2048"];

pub(crate) fn run(seconds: u64) -> anyhow::Result<()> {
    let edge = crate::root().join("edge");
    if !Command::new("cargo").args(["fuzz", "--version"]).output()?.status.success() {
        crate::cargo(&["install", "--locked", "cargo-fuzz", "--version", CARGO_FUZZ])?;
    }
    let corpus = edge.join("fuzz/frames.corpus");
    let (grown, merged) = (crate::root().join("target/fuzz-corpus"), crate::root().join("target/fuzz-merged"));
    unpack(&corpus, &grown)?;
    let time = format!("-max_total_time={seconds}");
    fuzz(&edge, &[&grown], &[&time, BYTES_MAX, "-dict=fuzz/frames.dict", "-print_final_stats=1"])?;
    if merged.exists() {
        fs::remove_dir_all(&merged)?;
    }
    fs::create_dir_all(&merged)?;
    fuzz(&edge, &[&merged, &grown], &KEPT)?;
    println!("{} frames in {}", pack(&merged, &corpus)?, corpus.display());
    Ok(())
}

fn fuzz(edge: &Path, folders: &[&Path], options: &[&str]) -> anyhow::Result<()> {
    let folders: Vec<OsString> =
        folders.iter().map(|folder| std::path::absolute(folder).map(Into::into)).collect::<Result<_, _>>()?;
    let mut command = Command::new("cargo");
    command.args(["fuzz", "run"]).args(SANITIZER).arg(TARGET).args(folders).arg("--").args(options).current_dir(edge);
    println!("{command:?}");
    ensure!(command.status()?.success(), "{command:?} failed");
    Ok(())
}

/// Adds the corpus to a folder, a file each.
fn unpack(corpus: &Path, folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder)?;
    for (at, line) in fs::read_to_string(corpus)?.lines().enumerate() {
        let byte = |at: usize| u8::from_str_radix(line.get(at..at + 2).unwrap_or_default(), 16);
        let bytes: Vec<u8> = (0..line.len()).step_by(2).map(byte).collect::<Result<_, _>>().context("the corpus")?;
        fs::write(folder.join(format!("kept-{at}")), bytes)?;
    }
    Ok(())
}

/// Writes a folder's files as the corpus, the short ones first: how many there are.
fn pack(folder: &Path, corpus: &Path) -> anyhow::Result<usize> {
    let mut frames = BTreeSet::new();
    for file in fs::read_dir(folder)? {
        let hex = fs::read(file?.path())?.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        frames.insert((hex.len(), hex));
    }
    let lines: Vec<String> = frames.into_iter().map(|(_, hex)| hex).filter(|hex| !hex.is_empty()).collect();
    fs::write(corpus, lines.join("\n") + "\n")?;
    Ok(lines.len())
}
