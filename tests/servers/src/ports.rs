//! Free ports.

use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;

/// Where rows of ports are looked for: outside of those that the system gives to whoever asks for any, also
/// [`BUS`] further up.
const ROWS: Range<u16> = 11_000..22_000;
/// A Redis of a cluster listens here, too, counted from its port.
const BUS: u16 = 10_000;

/// The first of `count` ports in a row, free as their partners [`BUS`] further up are.
pub(crate) fn row(count: u16) -> anyhow::Result<u16> {
    // Tests that start at the same time should not look at the same places.
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH)?.subsec_nanos();
    let seed = u64::from(nanos) ^ (u64::from(std::process::id()) << 20);
    let places = u64::from((ROWS.end - ROWS.start) / count);
    let firsts = (0..places).filter_map(|at| {
        let place = u16::try_from((seed + at) % places).ok()?;
        Some(ROWS.start + place * count)
    });
    let is_free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    firsts
        .into_iter()
        .find(|first| (*first..first + count).all(|port| is_free(port) && is_free(port + BUS)))
        .with_context(|| format!("no {count} free ports in a row"))
}
