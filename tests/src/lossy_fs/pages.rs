//! A sparse file in memory: a size, and the 4 KiB pages that were written.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

pub(super) const PAGE: u64 = 4096;
const PAGE_BYTES: usize = 4096;

type Page = Box<[u8; PAGE_BYTES]>;

#[derive(Clone, Default)]
pub(super) struct Pages {
    size: u64,
    pages: BTreeMap<u64, Page>,
}

impl Pages {
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn page_count(&self) -> u64 {
        self.pages.len() as u64
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        let mut rest = data;
        let mut at = offset;
        while !rest.is_empty() {
            let within = index(at % PAGE);
            let take = rest.len().min(PAGE_BYTES - within);
            let (now, later) = rest.split_at(take);
            let page = self.pages.entry(at / PAGE).or_insert_with(zeroed);
            page[within..within + take].copy_from_slice(now);
            at += take as u64;
            rest = later;
        }
        self.size = self.size.max(offset + data.len() as u64);
    }

    pub(super) fn set_size(&mut self, size: u64) {
        if size < self.size {
            self.pages.retain(|number, _| number * PAGE < size);
            if let Some(page) = self.pages.get_mut(&(size / PAGE)) {
                page[index(size % PAGE)..].fill(0);
            }
        }
        self.size = size;
    }

    pub(super) fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let end = self.size.min(offset.saturating_add(len as u64));
        let mut out = Vec::with_capacity(index(end.saturating_sub(offset)));
        let mut at = offset;
        while at < end {
            let within = index(at % PAGE);
            let take = index(end - at).min(PAGE_BYTES - within);
            match self.pages.get(&(at / PAGE)) {
                Some(page) => out.extend_from_slice(&page[within..within + take]),
                None => out.resize(out.len() + take, 0),
            }
            at += take as u64;
        }
        out
    }

    /// Reads a real file; holes and pages of zeros take no memory.
    pub(super) fn load(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let mut pages = Self { size: file.metadata()?.len(), ..Self::default() };
        let mut buffer = vec![0_u8; 1 << 20];
        let mut at = 0;
        loop {
            let got = read_full(&mut file, &mut buffer)?;
            if got == 0 {
                return Ok(pages);
            }
            for chunk in buffer[..got].chunks(PAGE_BYTES) {
                if chunk.iter().any(|byte| *byte != 0) {
                    pages.write(at, chunk);
                }
                at += chunk.len() as u64;
            }
        }
    }

    /// Writes a real file, sparse where this one is.
    pub(super) fn store(&self, path: &Path) -> io::Result<()> {
        let file = File::create(path)?;
        for (number, page) in &self.pages {
            file.write_all_at(&page[..], number * PAGE)?;
        }
        file.set_len(self.size)
    }
}

fn zeroed() -> Page {
    Box::new([0; PAGE_BYTES])
}

fn index(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

fn read_full(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match file.read(&mut buffer[got..])? {
            0 => break,
            more => got += more,
        }
    }
    Ok(got)
}

#[cfg(test)]
mod tests {
    use super::Pages;

    #[test]
    fn holes_read_as_zeros_and_a_shrunk_tail_does_not_come_back() {
        let mut pages = Pages::default();
        pages.write(5000, b"abcdef");
        assert_eq!(pages.size(), 5006);
        assert_eq!(pages.read(4998, 100), b"\0\0abcdef");
        assert_eq!(pages.page_count(), 1);
        pages.set_size(5003);
        pages.set_size(5006);
        assert_eq!(pages.read(5000, 6), b"abc\0\0\0");
        pages.write(4094, b"1234");
        assert_eq!(pages.read(4093, 6), b"\x001234\0");
    }
}
