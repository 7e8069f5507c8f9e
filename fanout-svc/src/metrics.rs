//! What fanout counts beside its RPCs.

use opentelemetry::global;
use opentelemetry::metrics::Counter;

pub(crate) struct Metrics {
    unlocated: Counter<u64>,
    overdue: Counter<u64>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let meter = global::meter("confab_fanout");
        let unlocated = meter
            .u64_counter("confab.fanout.unlocated")
            .with_unit("{publication}")
            .with_description("Publications with recipients whom no presence instance could locate in time.")
            .build();
        let overdue = meter
            .u64_counter("confab.fanout.overdue")
            .with_unit("{delivery}")
            .with_description("Deliveries that count as settled while their edge has only a marker to come.")
            .build();
        Self { unlocated, overdue }
    }

    pub(crate) fn unlocated(&self, count: usize) {
        self.unlocated.add(count as u64, &[]);
    }

    pub(crate) fn overdue(&self, count: usize) {
        self.overdue.add(count as u64, &[]);
    }
}
