//! Cassandra's own counters, by JMX.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};

use crate::Cassandra;

impl Cassandra {
    /// How often something has happened since the start, by the scope of the counter's name, over all nodes: of `pattern`
    /// `type=ClientRequest,scope=CAS*,name=Latency` so many `CASWrite` and `CASRead`. It takes a second a node.
    ///
    /// # Errors
    /// If a node doesn't answer, or has no such counter.
    pub fn counts(&self, pattern: &str) -> anyhow::Result<BTreeMap<String, u64>> {
        let bean = format!("org.apache.cassandra.metrics:{pattern}");
        let mut counts = BTreeMap::new();
        for node in 1..=self.points().len() {
            let node = node.to_string();
            let told = self.script.run(&["nodetool", &node, "sjk", "mx", "-all", "-b", &bean, "-f", "Count", "-mg"])?;
            // A line with the name, then one with the count.
            let mut lines = told.lines();
            while let (Some(name), Some(count)) = (lines.next(), lines.next()) {
                let scope = name.split([':', ',']).find_map(|part| part.strip_prefix("scope="));
                let scope = scope.with_context(|| format!("no scope in {name}"))?;
                let count: u64 = count.trim().parse().with_context(|| format!("the count of {name}: {count}"))?;
                *counts.entry(scope.to_owned()).or_default() += count;
            }
        }
        ensure!(!counts.is_empty(), "no counter is named {pattern}");
        Ok(counts)
    }
}
