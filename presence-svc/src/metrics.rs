//! What presence-svc counts beside its RPCs.

use opentelemetry::global;
use opentelemetry::metrics::Gauge;

pub(crate) struct Metrics {
    watched: Gauge<u64>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let watched = global::meter("confab_presence_svc")
            .u64_gauge("confab.presence.watched")
            .with_unit("{subscription}")
            .with_description("Users that are watched here, each once for every edge that watches them.")
            .build();
        Self { watched }
    }

    pub(crate) fn watched(&self, count: usize) {
        self.watched.record(count as u64, &[]);
    }
}
