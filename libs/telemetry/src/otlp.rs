//! Traces and metrics, to a collector.

use anyhow::Context;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{MetricExporter, SpanExporter, WithExportConfig};
use opentelemetry_sdk::{Resource, metrics::SdkMeterProvider, trace::SdkTracerProvider};
use tracing::{Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{Layer, filter::Targets, registry::LookupSpan};

/// What the exporters themselves run on. Traced, each export would be a reason for the next.
const OWN_MACHINERY: [&str; 5] = ["h2", "hyper", "opentelemetry", "tonic", "tower"];

/// # Errors
/// When `endpoint` is no URL of a kind we speak, or there is no tokio runtime to speak from.
pub(crate) fn exporters(service: &str, endpoint: &str) -> anyhow::Result<(SdkTracerProvider, SdkMeterProvider)> {
    tokio::runtime::Handle::try_current().context("exporting needs a tokio runtime")?;
    let resource = Resource::builder().with_service_name(service.to_owned()).build();
    let spans = SpanExporter::builder().with_tonic().with_endpoint(endpoint).build()?;
    let metrics = MetricExporter::builder().with_tonic().with_endpoint(endpoint).build()?;
    Ok((
        // Bounded: 2,048 spans wait for export; above that they are dropped, and the SDK logs it.
        SdkTracerProvider::builder().with_resource(resource.clone()).with_batch_exporter(spans).build(),
        SdkMeterProvider::builder().with_resource(resource).with_periodic_exporter(metrics).build(),
    ))
}

/// Makes traces of our spans, whatever the log filter says.
pub(crate) fn trace_layer<S>(traces: &SdkTracerProvider) -> impl Layer<S> + Send + Sync + use<S>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    let ours = Targets::new()
        .with_default(LevelFilter::INFO)
        .with_targets(OWN_MACHINERY.map(|target| (target, LevelFilter::OFF)));
    tracing_opentelemetry::layer()
        .with_tracer(traces.tracer("confab"))
        // Threads and source lines would double a span's size; nobody asks a trace for them.
        .with_threads(false)
        .with_location(false)
        .with_filter(ours)
}
