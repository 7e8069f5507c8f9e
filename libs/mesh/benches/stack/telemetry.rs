//! As a program has it: logs filtered, traces not sampled, metrics collected (and dropped).

use std::time::Duration;

use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::{
    error::OTelSdkResult,
    metrics::{SdkMeterProvider, Temporality, data::ResourceMetrics, exporter::PushMetricExporter},
    propagation::TraceContextPropagator,
    trace::{Sampler, SdkTracerProvider},
};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{Layer, filter::Targets, layer::SubscriberExt};

pub(crate) fn install() {
    opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
    let meters = SdkMeterProvider::builder().with_periodic_exporter(Dropped).build();
    opentelemetry::global::set_meter_provider(meters);
    let traces = SdkTracerProvider::builder().with_sampler(Sampler::AlwaysOff).build();
    // The filter that telemetry has: a span for each call, none for what calls run on.
    let ours = ["h2", "hyper", "opentelemetry", "tonic", "tower"].map(|target| (target, LevelFilter::OFF));
    let ours = Targets::new().with_default(LevelFilter::INFO).with_targets(ours);
    let layer =
        tracing_opentelemetry::layer().with_tracer(traces.tracer("bench")).with_threads(false).with_location(false);
    let log = tracing_subscriber::fmt::layer().with_writer(std::io::sink).with_filter(LevelFilter::INFO);
    let subscriber = tracing_subscriber::registry().with(log).with(layer.with_filter(ours));
    tracing::subscriber::set_global_default(subscriber).expect("the first");
}

struct Dropped;

impl PushMetricExporter for Dropped {
    async fn export(&self, _metrics: &ResourceMetrics) -> OTelSdkResult {
        Ok(())
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _timeout: Duration) -> OTelSdkResult {
        Ok(())
    }

    fn temporality(&self) -> Temporality {
        Temporality::Cumulative
    }
}
