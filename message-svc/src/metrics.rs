//! What message-svc counts beside its RPCs.

use opentelemetry::global;
use opentelemetry::metrics::Counter;

use crate::store::Row;

pub(crate) struct Metrics {
    marks: Counter<u64>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let marks = global::meter("confab_message_svc")
            .u64_counter("confab.marks.written")
            .with_unit("{block}")
            .with_description("Blocks of watermarks that were handed to the store, of up to 128 members each.")
            .build();
        Self { marks }
    }

    /// A commit goes to the store.
    pub(crate) fn written(&self, rows: &[Row]) {
        let blocks = rows.iter().filter(|row| matches!(row, Row::Marks { .. })).count();
        if blocks > 0 {
            self.marks.add(blocks as u64, &[]);
        }
    }
}
