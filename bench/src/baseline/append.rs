//! Append + fdatasync: the least that a durable message costs. Once with each writer appending and syncing by itself
//! ([`each`]), as many at a time as messages are on their way; once with one writer for all of them ([`grouped`]), which
//! appends what is ready, syncs, and answers.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::clock::own_cpu_ns;

/// What was written.
#[derive(Clone, Copy, Debug)]
pub struct Appended {
    /// Durable records per second.
    pub per_second: f64,
    /// CPU of all of them per record, in µs.
    pub cpu_micros: f64,
    /// Records per fdatasync, on average.
    pub group: f64,
}

impl Appended {
    /// From counts, and from when and at what CPU it began; call at the end.
    fn since(started: Instant, cpu: u64, records: u64, syncs: u64) -> Self {
        let (seconds, cpu) = (started.elapsed().as_secs_f64(), own_cpu_ns() - cpu);
        let per = records.max(1) as f64;
        let cpu_micros = cpu as f64 / 1000.0 / per;
        Self { per_second: records as f64 / seconds, cpu_micros, group: per / syncs.max(1) as f64 }
    }
}

struct Record {
    bytes: Bytes,
    durable: oneshot::Sender<()>,
}

/// Runs `writers` threads for `time`: each appends a record of `record_bytes` to one file in `folder`, syncs, and goes on to
/// the next, at least one. The file system may serve several with one write; nothing else does.
pub async fn each(folder: &Path, record_bytes: usize, writers: u32, time: Duration) -> Result<Appended> {
    let file = Arc::new(tempfile::tempfile_in(folder).context("can't make a file for the append baseline")?);
    let bytes = Bytes::from(vec![b'x'; record_bytes]);
    let (started, cpu) = (Instant::now(), own_cpu_ns());
    let work = move || -> Result<u64> {
        let threads: Vec<_> = (0..writers)
            .map(|_| {
                let (file, bytes) = (file.clone(), bytes.clone());
                thread::spawn(move || append_alone(&file, &bytes, started + time))
            })
            .collect();
        let counts =
            threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("an append writer panicked"))?);
        counts.sum()
    };
    let count = tokio::task::spawn_blocking(work).await.context("the append writers")??;
    Ok(Appended::since(started, cpu, count, count))
}

/// One writer; gives how many records it made durable. Writes of one open file follow one another.
fn append_alone(mut file: &File, bytes: &[u8], end: Instant) -> Result<u64> {
    let mut count = 0;
    loop {
        file.write_all(bytes).context("append")?;
        file.sync_data().context("fdatasync")?;
        count += 1;
        if Instant::now() >= end {
            return Ok(count);
        }
    }
}

/// Runs `tasks` tasks for `time`, each with one record of `record_bytes` on its way and at least one in all; the file is in
/// `folder`.
pub async fn grouped(folder: &Path, record_bytes: usize, tasks: u32, time: Duration) -> Result<Appended> {
    let file = tempfile::tempfile_in(folder).context("can't make a file for the append baseline")?;
    // Bounded by the tasks: each waits for its answer.
    let (records, ready) = mpsc::channel(tasks.max(1) as usize);
    let writer = thread::spawn(move || write(file, ready));
    let bytes = Bytes::from(vec![b'x'; record_bytes]);
    let (started, cpu) = (Instant::now(), own_cpu_ns());
    let mut running = JoinSet::new();
    for _ in 0..tasks {
        running.spawn(submit(records.clone(), bytes.clone(), started + time));
    }
    drop(records);
    let mut count = 0_u64;
    while let Some(done) = running.join_next().await {
        count += done.context("an append task failed")?;
    }
    let joined = tokio::task::spawn_blocking(move || writer.join()).await.context("the append writer")?;
    let syncs = joined.map_err(|_| anyhow!("the append writer panicked"))??;
    Ok(Appended::since(started, cpu, count, syncs))
}

/// One task: a record at a time; gives how many became durable.
async fn submit(records: mpsc::Sender<Record>, bytes: Bytes, end: Instant) -> u64 {
    let mut count = 0;
    loop {
        let (durable, answer) = oneshot::channel();
        if records.send(Record { bytes: bytes.clone(), durable }).await.is_err() || answer.await.is_err() {
            return count;
        }
        count += 1;
        if Instant::now() >= end {
            return count;
        }
    }
}

/// The writer; gives how often it synced.
fn write(mut file: File, mut ready: mpsc::Receiver<Record>) -> Result<u64> {
    let mut syncs = 0;
    let mut buffer = Vec::new();
    let mut waiting = Vec::new();
    while let Some(first) = ready.blocking_recv() {
        let mut next = Some(first);
        while let Some(record) = next {
            buffer.extend_from_slice(&record.bytes);
            waiting.push(record.durable);
            next = ready.try_recv().ok();
        }
        file.write_all(&buffer).context("append")?;
        file.sync_data().context("fdatasync")?;
        syncs += 1;
        buffer.clear();
        for durable in waiting.drain(..) {
            // A task that has ended wants no answer.
            let _ = durable.send(());
        }
    }
    Ok(syncs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn records_become_durable_in_groups() {
        let folder = tempfile::tempdir().expect("a folder");
        let appended = grouped(folder.path(), 256, 8, Duration::from_millis(50)).await.expect("it runs");
        assert!(appended.per_second > 0.0 && appended.group >= 1.0 && appended.group <= 8.0, "{appended:?}");
    }

    #[tokio::test]
    async fn records_become_durable_one_by_one() {
        // On a busy machine a thread may begin when the time is over.
        let folder = tempfile::tempdir().expect("a folder");
        let appended = each(folder.path(), 256, 8, Duration::ZERO).await.expect("it runs");
        assert!(appended.per_second > 0.0, "{appended:?}");
    }
}
