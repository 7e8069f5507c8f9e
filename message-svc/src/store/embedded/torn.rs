//! The end of a journal that a power cut tore.
//!
//! Of a batch that was being written when the power went, any page may be missing, also one in its middle. fjall 3.1 cuts off
//! a batch without an end, but refuses one that has its end and not its middle (`ChecksumMismatch`), and cuts off whatever
//! follows some kinds of damage, whole batches included. So the newest journal is looked through before fjall opens it. Since
//! every group of rows is synced before the next is written, at most the last batch is torn, and it was never acked: it is cut
//! off. A broken batch with a whole one behind it is not the work of a power cut, and is refused.
//!
//! The format, little-endian, read in fjall 3.1.13's `journal/entry.rs`: a batch is a start (1, items u32, seqno u64), its items
//! (2, type u8, compression u8, keyspace u64, length of key u16, of value u32, of value on disk u32, key, value) or
//! clears (4, keyspace u64), and an end (3, XXH3 of the items' bytes u64, "FJL\x03"). Zeros follow: the file is made 64 MiB long.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::{fs, io};

use bytes::Buf;
use xxhash_rust::xxh3::xxh3_64;

use super::{Durability, OpenError};

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
const TRAILER: &[u8] = b"FJL\x03";

/// Cuts a torn batch off the end of the newest journal in `folder`, which holds a store that no one has open.
///
/// # Errors
/// `InUse`; `Damaged` if a whole batch follows a broken one, unless it was written without syncing, where that is no damage.
pub(super) fn cut_off(folder: &Path, durability: Durability) -> Result<(), OpenError> {
    // fjall's own lock: what looks torn could be a batch that another process is writing.
    let lock = match OpenOptions::new().write(true).open(folder.join("lock")) {
        // It isn't a store: fjall says so.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        lock => lock?,
    };
    lock.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => OpenError::InUse,
        TryLockError::Error(error) => OpenError::Io(error),
    })?;
    let Some(path) = newest_journal(folder)? else { return Ok(()) };
    let bytes = written(&path)?;
    let Some(torn) = torn_at(&bytes) else { return Ok(()) };
    if durability == Durability::Synced && torn.whole_behind {
        let name = path.file_name().unwrap_or_default().display();
        return Err(OpenError::Damaged(format!("journal {name}, from byte {}", torn.at)));
    }
    tracing::warn!(journal = %path.display(), from = torn.at, "a last batch, torn by a power cut and never acked, is cut off");
    let journal = OpenOptions::new().write(true).open(&path)?;
    journal.set_len(torn.at as u64)?;
    Ok(journal.sync_all()?)
}

/// The journal that is written to: the one with the highest number.
fn newest_journal(folder: &Path) -> io::Result<Option<PathBuf>> {
    let mut newest = None;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let number = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".jnl")?.parse::<u64>().ok());
        if let Some(number) = number {
            newest = newest.max(Some((number, path)));
        }
    }
    Ok(newest.map(|(_, path)| path))
}

/// The file up to its last byte that isn't zero. The many zeros behind take no memory.
fn written(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let mut chunk = vec![0; 64 * 1024];
    let (mut len, mut at) = (0, 0);
    loop {
        let read = file.read(&mut chunk)?;
        if read == 0 {
            break;
        }
        if let Some(last) = chunk[..read].iter().rposition(|byte| *byte != 0) {
            len = at + last + 1;
        }
        at += read;
    }
    file.rewind()?;
    let mut bytes = vec![0; len];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[derive(Debug, PartialEq, Eq)]
struct Torn {
    /// Where the first batch begins that is not whole.
    at: usize,
    /// From somewhere behind it whole batches, later than those before, run up to the end.
    whole_behind: bool,
}

/// Where a journal, without the zeros at its end, is torn, if something follows its last whole batch.
fn torn_at(journal: &[u8]) -> Option<Torn> {
    let mut at = 0;
    let mut latest = None;
    while let Some(batch) = whole_batch(&journal[at..]) {
        at += batch.len;
        latest = latest.max(Some(batch.seqno));
    }
    let behind = &journal[at..];
    // Up to the end: bytes that look like a batch can be part of a message.
    let later = |skipped: usize| {
        let mut rest = &behind[skipped..];
        while let Some(batch) = whole_batch(rest).filter(|batch| Some(batch.seqno) > latest) {
            rest = &rest[batch.len..];
            if rest.is_empty() {
                return true;
            }
        }
        false
    };
    (!behind.is_empty()).then(|| Torn { at, whole_behind: (1..behind.len()).any(later) })
}

struct Batch {
    len: usize,
    seqno: u64,
}

/// The batch that `bytes` begin with, if it is whole.
fn whole_batch(bytes: &[u8]) -> Option<Batch> {
    let mut rest = bytes;
    if rest.try_get_u8().ok()? != START {
        return None;
    }
    let items = rest.try_get_u32_le().ok()?;
    let seqno = rest.try_get_u64_le().ok()?;
    let body = rest;
    for _ in 0..items {
        rest = rest.get(item_len(rest)?..)?;
    }
    let body = &body[..body.len() - rest.len()];
    let whole = rest.try_get_u8().ok()? == END
        && rest.try_get_u64_le().ok()? == xxh3_64(body)
        && rest.get(..TRAILER.len())? == TRAILER;
    whole.then(|| Batch { len: bytes.len() - rest.len() + TRAILER.len(), seqno })
}

/// Bytes of the item or clear that `bytes` begin with.
fn item_len(bytes: &[u8]) -> Option<usize> {
    let mut rest = bytes;
    match rest.try_get_u8().ok()? {
        CLEAR => Some(1 + 8),
        ITEM => {
            rest = rest.get(1 + 1 + 8..)?;
            let key = usize::from(rest.try_get_u16_le().ok()?);
            let _value = rest.try_get_u32_le().ok()?;
            let on_disk = usize::try_from(rest.try_get_u32_le().ok()?).ok()?;
            Some(bytes.len() - rest.len() + key + on_disk)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use confab_ids::{ChatId, Seq};
    use fjall::PersistMode;

    use super::*;
    use crate::store::embedded::tables::Tables;
    use crate::store::{Range, Row};

    const CHAT: ChatId = ChatId(7);
    const PAGE: usize = 4096;

    /// A store whose journal holds a batch of one event and two of 50 events, each of the two longer than eight pages.
    struct Written {
        folder: tempfile::TempDir,
        journal: PathBuf,
        /// What the journal holds.
        whole: Vec<u8>,
        /// Where in it each batch begins, and the zeros.
        begins: [usize; 4],
    }

    impl Written {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let tables = Tables::open(folder.path()).expect("tables");
            let journal = newest_journal(folder.path()).expect("read").expect("a journal");
            let end = || {
                let bytes = written(&journal).expect("read");
                assert_eq!(torn_at(&bytes), None);
                bytes.len()
            };
            let begins = [1..2, 2..52, 52..102].map(|seqs| {
                let begins = end();
                let event = |seq| Row::Event { chat: CHAT, seq: Seq(seq), epoch: 0, bytes: vec![7; 1000].into() };
                let rows: Vec<_> = seqs.map(event).collect();
                tables.write(rows.iter(), [].iter(), PersistMode::SyncData).expect("written");
                begins
            });
            let begins = [begins[0], begins[1], begins[2], end()];
            assert!(begins[3] - begins[2] > 8 * PAGE);
            drop(tables);
            let whole = fs::read(&journal).expect("read");
            Self { folder, journal, whole, begins }
        }

        /// Loses the journal's page at `at`.
        fn lose_page(&self, at: usize) {
            let mut bytes = self.whole.clone();
            let page = at / PAGE * PAGE;
            let kept = at.max(page)..(page + PAGE).min(bytes.len());
            bytes[kept].fill(0);
            fs::write(&self.journal, &bytes).expect("written");
        }

        fn events(&self) -> usize {
            let tables = Tables::open(self.folder.path()).expect("it opens");
            let range =
                Range { chat: CHAT, after: Seq(0), before: Seq(1000), limit: 1000, bytes: usize::MAX, newest: false };
            tables.events(range).expect("read").events.len()
        }
    }

    #[test]
    fn a_whole_journal_is_left_as_it_is() {
        let store = Written::new();
        cut_off(store.folder.path(), Durability::Synced).expect("nothing to cut");
        assert!(fs::read(&store.journal).expect("read") == store.whole);
        assert_eq!(store.events(), 101);
    }

    #[test]
    fn a_last_batch_that_lost_any_of_its_pages_is_cut_off() {
        let store = Written::new();
        let [.., last, end] = store.begins;
        for page in (last..end).step_by(PAGE) {
            store.lose_page(page);
            cut_off(store.folder.path(), Durability::Synced).expect("mended");
            assert_eq!(fs::metadata(&store.journal).expect("there").len(), last as u64, "lost: {page}");
        }
        assert_eq!(store.events(), 51);
    }

    #[test]
    fn a_broken_batch_with_a_whole_one_behind_it_is_refused() {
        let store = Written::new();
        let [_, middle, last, _] = store.begins;
        for page in (middle..last).step_by(PAGE).filter(|page| page / PAGE < last / PAGE) {
            store.lose_page(page);
            let before = fs::read(&store.journal).expect("read");
            let refused = cut_off(store.folder.path(), Durability::Synced).expect_err("refused");
            assert!(matches!(&refused, OpenError::Damaged(at) if at.contains(&middle.to_string())), "{refused}");
            assert!(fs::read(&store.journal).expect("read") == before, "a refused journal was changed");
        }
        cut_off(store.folder.path(), Durability::Buffered).expect("unsynced batches may be lost");
        assert_eq!(store.events(), 1);
    }

    #[test]
    fn a_store_in_use_is_left_alone() {
        let store = Written::new();
        let _tables = Tables::open(store.folder.path()).expect("it opens");
        assert!(matches!(cut_off(store.folder.path(), Durability::Synced), Err(OpenError::InUse)));
    }
}
