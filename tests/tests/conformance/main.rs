//! docs/protocol.md, row by row: what each row of its tables says, by each way that a client has to speak, in one process and as a cluster.
//!
//! A row's test is found by the row's first words; `every_row_has_a_test` reads them from the document.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking, and prints its figures")]

mod closing;
mod device;
mod http;
mod own;
mod said;
mod told;

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::time::Instant;

use confab_tests::harness::Stage;
use futures_util::FutureExt as _;
use futures_util::future::{self, BoxFuture};
use futures_util::stream::{self, StreamExt as _};

use device::Transport;

/// A row of a table, by its first cell or the part of it that tells it apart, and what shows that it is so.
pub(crate) struct Row {
    name: &'static str,
    /// How one can speak there: a poll has no close codes, and not everything is said in each.
    transports: &'static [Transport],
    test: for<'a> fn(&'a Stage, Transport) -> BoxFuture<'a, ()>,
}

/// `row!("name", transports, function)`
macro_rules! row {
    ($name:literal, $transports:expr, $test:path) => {
        $crate::Row { name: $name, transports: $transports, test: |stage, transport| Box::pin($test(stage, transport)) }
    };
}
pub(crate) use row;

/// By table, in the document's order.
const TABLES: [&[Row]; 4] = [closing::ROWS, said::ROWS, told::ROWS, own::ROWS];

/// Rows that are tried at once: most of their time is waiting.
const AT_ONCE: usize = 8;

/// Runs all rows in all ways; says which don't hold.
async fn run(stage: &Stage) {
    let all =
        TABLES.into_iter().flatten().flat_map(|row| row.transports.iter().map(move |transport| (row, *transport)));
    let runs = stream::iter(all).map(async |(row, transport)| {
        let begun = Instant::now();
        let holds = AssertUnwindSafe((row.test)(stage, transport)).catch_unwind().await.is_ok();
        let name = format!("{} by {transport:?}", row.name);
        println!("{name:<40} {:5.1} s {}", begun.elapsed().as_secs_f64(), if holds { "holds" } else { "FAILED" });
        (!holds).then_some(name)
    });
    let failed: Vec<String> = runs.buffer_unordered(AT_ONCE).filter_map(future::ready).collect().await;
    assert!(failed.is_empty(), "{failed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn in_one_process() {
    run(&Stage::embedded().await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn as_a_cluster() {
    run(&Stage::cluster().await.unwrap()).await;
}

/// The first cells of the rows of each of the document's tables, each split into what it names.
fn documented() -> Vec<BTreeSet<String>> {
    let document = include_str!("../../../docs/protocol.md");
    let mut tables: Vec<BTreeSet<String>> = Vec::new();
    for line in document.lines().filter(|line| line.starts_with("| ")) {
        let cell = line.trim_start_matches("| ").split(" | ").next().unwrap();
        if ["close code", "frame", "of a user"].contains(&cell) {
            tables.push(BTreeSet::new());
            continue;
        }
        // A frame names its type, other names are in backticks or are numbers.
        let quoted = cell.split('`').skip(1).step_by(2);
        let mut found: Vec<String> = Vec::new();
        for code in quoted {
            match code.split_once(r#""type":"#) {
                Some((_, rest)) => found.extend(
                    rest.split(',')
                        .next()
                        .unwrap()
                        .trim_end_matches('}')
                        .replace("\\|", "|")
                        .split('|')
                        .map(|name| name.trim_matches('"').to_owned()),
                ),
                None => found.push(code.to_owned()),
            }
        }
        if found.is_empty() {
            found.extend(cell.split(", ").map(str::to_owned));
        }
        tables.last_mut().unwrap().extend(found);
    }
    tables
}

#[test]
fn every_row_has_a_test() {
    let documented = documented();
    assert!(documented.len() == TABLES.len() && documented.iter().all(|table| table.len() > 3), "{documented:?}");
    for (rows, documented) in TABLES.into_iter().zip(&documented) {
        let tested: BTreeSet<String> = rows.iter().flat_map(|row| row.name.split(' ')).map(str::to_owned).collect();
        let untested: Vec<_> = documented.difference(&tested).collect();
        let unknown: Vec<_> = tested.difference(documented).collect();
        assert!(
            untested.is_empty() && unknown.is_empty(),
            "without a test: {untested:?}; not in the document: {unknown:?}"
        );
    }
}
