//! The layer's self-test: the plainest durable store, and two that are not durable.

use std::fs::{self, File, OpenOptions};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use tokio::sync::watch;

use super::{Items, Workload};

/// Records per file: small, so that files are often begun.
const RECORDS_PER_FILE: u64 = 20;

/// What the log syncs before it acks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syncs {
    /// Each record's data, and each new file's name: durable.
    All,
    /// The data alone: a whole file can vanish.
    DataOnly,
    /// Nothing: control.
    Nothing,
}

/// Appends records to numbered files.
pub struct AppendLog {
    pub syncs: Syncs,
}

impl Workload for AppendLog {
    async fn run_until_cut(&mut self, dir: &Path, cut: watch::Receiver<bool>, acked: &mut Items) -> anyhow::Result<()> {
        // A write that fails ends the run; the cut must be why.
        let syncs = self.syncs;
        let dir = dir.to_owned();
        let (written, ended) = tokio::task::spawn_blocking(move || {
            let mut written = Items::new();
            let ended = write(&dir, syncs, &mut written);
            (written, ended)
        })
        .await?;
        acked.extend(written);
        match ended {
            Err(error) if !*cut.borrow() => Err(error.into()),
            _ => Ok(()),
        }
    }

    async fn recovered(&mut self, dir: &Path) -> anyhow::Result<Items> {
        Ok(read(dir)?)
    }
}

fn write(dir: &Path, syncs: Syncs, acked: &mut Items) -> io::Result<()> {
    let mut next = read(dir)?.len() as u64;
    loop {
        let path = file_path(dir, next / RECORDS_PER_FILE);
        let fresh = !path.exists();
        let mut file = OpenOptions::new().append(true).create(true).open(&path)?;
        file.set_len(valid_len(&fs::read(&path)?))?;
        if fresh && syncs == Syncs::All {
            File::open(dir)?.sync_all()?;
        }
        loop {
            let content = format!("record {next} {}", "y".repeat(usize::try_from(next % 97).unwrap_or(0)));
            file.write_all(frame(&content).as_bytes())?;
            if syncs != Syncs::Nothing {
                file.sync_data()?;
            }
            acked.insert(format!("{next:08}"), content);
            next += 1;
            if next.is_multiple_of(RECORDS_PER_FILE) {
                break;
            }
        }
    }
}

/// Everything from the first record on, up to the first that is torn or missing.
fn read(dir: &Path) -> io::Result<Items> {
    let mut items = Items::new();
    for number in 0.. {
        let bytes = match fs::read(file_path(dir, number)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => return Err(error),
        };
        let before = items.len();
        for content in records(&bytes) {
            items.insert(format!("{:08}", items.len()), content.to_owned());
        }
        if (items.len() - before) as u64 != RECORDS_PER_FILE {
            break;
        }
    }
    Ok(items)
}

fn file_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:06}.log"))
}

fn frame(content: &str) -> String {
    format!("{:016x} {content}\n", checksum(content))
}

fn checksum(content: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    hasher.finish()
}

fn records(bytes: &[u8]) -> impl Iterator<Item = &str> {
    bytes.split_inclusive(|byte| *byte == b'\n').map_while(|line| {
        let (sum, content) = std::str::from_utf8(line.strip_suffix(b"\n")?).ok()?.split_once(' ')?;
        (u64::from_str_radix(sum, 16).ok()? == checksum(content)).then_some(content)
    })
}

fn valid_len(bytes: &[u8]) -> u64 {
    records(bytes).map(|content| frame(content).len() as u64).sum()
}

#[cfg(test)]
mod tests {
    use super::{AppendLog, Syncs};
    use crate::harness::seed;
    use crate::power::{Cuts, Outcome, cut_and_compare};

    async fn cut(syncs: Syncs, points: u32) -> Outcome {
        let cuts = Cuts { seed: seed(), points, chain: 5, fresh_ops_max: 150, ops_max: 150 };
        let outcome = cut_and_compare(&mut AppendLog { syncs }, cuts).await.unwrap();
        println!("{syncs:?}: {outcome}");
        assert!(outcome.acked > points as usize, "too little was acked: {outcome}");
        outcome
    }

    #[tokio::test]
    async fn a_log_that_syncs_loses_nothing() {
        let outcome = cut(Syncs::All, 60).await;
        assert_eq!(outcome.bad_points, 0, "{outcome}");
        assert!(outcome.lost_ops > 0, "the cuts took nothing: {outcome}");
    }

    #[tokio::test]
    async fn a_log_that_does_not_sync_is_caught() {
        let outcome = cut(Syncs::Nothing, 20).await;
        assert!(outcome.bad_points > 0, "{outcome}");
    }

    #[tokio::test]
    async fn a_log_that_forgets_to_sync_its_folder_is_caught() {
        let outcome = cut(Syncs::DataOnly, 20).await;
        assert!(outcome.bad_points > 0, "{outcome}");
    }
}
