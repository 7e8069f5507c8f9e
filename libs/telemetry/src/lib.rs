//! A process's logs, traces and metrics. Called by binaries only: libraries use the `tracing` and `opentelemetry` APIs,
//! which do next to nothing until [`init`] has been called.
//!
//! Logs go to stderr. Traces and metrics go to an OTLP collector if one is named; otherwise no exporter, no thread and no
//! instrument exists for them.

mod logs;
mod otlp;

use std::io::IsTerminal;

use anyhow::Context;
use opentelemetry::global;
use opentelemetry_sdk::{metrics::SdkMeterProvider, propagation::TraceContextPropagator, trace::SdkTracerProvider};
use tracing_subscriber::{layer::SubscriberExt, util::SubscriberInitExt};

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people; in colour if stderr is a terminal.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl LogFormat {
    /// Text if stderr is a terminal, JSON if it is a file or a pipe.
    #[must_use]
    pub fn for_stderr() -> Self {
        if std::io::stderr().is_terminal() { Self::Text } else { Self::Json }
    }
}

/// What [`init`] sets up.
#[derive(Clone, Debug)]
pub struct Config {
    /// `service.name` in traces and metrics.
    pub service: String,
    /// How log lines are written.
    pub log_format: LogFormat,
    /// Which events and spans are logged, as `tracing_subscriber::EnvFilter` has it: `info,confab_edge=debug`.
    pub log_filter: String,
    /// Where traces and metrics go, by OTLP over gRPC without TLS: `http://127.0.0.1:4317`. `None`: nowhere.
    ///
    /// The rest is as OpenTelemetry's own environment variables say: `OTEL_TRACES_SAMPLER` (default: all that the caller
    /// samples, and every root), `OTEL_METRIC_EXPORT_INTERVAL` (default: 60 s), `OTEL_BSP_*`.
    pub otlp_endpoint: Option<String>,
}

/// Keeps the exporters running. Dropping it flushes them, as [`shutdown`](Self::shutdown) does.
#[derive(Debug, Default)]
#[must_use = "traces and metrics end when the guard is dropped"]
pub struct Guard {
    traces: Option<SdkTracerProvider>,
    metrics: Option<SdkMeterProvider>,
}

impl Guard {
    /// Exports what is left and stops. What cannot be exported is logged and lost.
    ///
    /// Blocks the thread, at most 5 s for traces and 5 s for metrics, while other threads of the tokio runtime that
    /// [`init`] was called in do the work: on a current-thread runtime it would only wait.
    pub fn shutdown(self) {
        drop(self);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.traces.take().map(|traces| traces.shutdown()) {
            tracing::warn!(%error, "the last traces are lost");
        }
        if let Some(Err(error)) = self.metrics.take().map(|metrics| metrics.shutdown()) {
            tracing::warn!(%error, "the last metrics are lost");
        }
    }
}

/// Sets up the process's logs, traces and metrics, once, before anything that makes spans or instruments.
///
/// With an endpoint it needs a tokio runtime around it.
///
/// # Errors
/// When the filter or the endpoint cannot be parsed, there is an endpoint but no tokio runtime, or a subscriber was set
/// before. An endpoint that cannot be reached is no error here: exporters try for as long as the process runs.
pub fn init(cfg: Config) -> anyhow::Result<Guard> {
    let logs = logs::layer(cfg.log_format, &cfg.log_filter)?;
    let mut guard = Guard::default();
    if let Some(endpoint) = &cfg.otlp_endpoint {
        let exporters = otlp::exporters(&cfg.service, endpoint);
        let (traces, metrics) = exporters.with_context(|| format!("OTLP endpoint {endpoint}"))?;
        guard.traces = Some(traces);
        guard.metrics = Some(metrics);
    }
    tracing_subscriber::registry()
        .with(logs)
        .with(guard.traces.as_ref().map(otlp::trace_layer))
        .try_init()
        .context("a process has its telemetry set up once")?;

    global::set_text_map_propagator(TraceContextPropagator::new());
    if let Some(traces) = &guard.traces {
        global::set_tracer_provider(traces.clone());
    }
    if let Some(metrics) = &guard.metrics {
        global::set_meter_provider(metrics.clone());
    }
    Ok(guard)
}
