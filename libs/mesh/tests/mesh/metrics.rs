//! Rate, errors and duration: one count per call, at its very end.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use confab_mesh::{ClientConfig, Identity, ServerConfig, client, local, server};
use opentelemetry::KeyValue;
use opentelemetry_sdk::{
    error::OTelSdkResult,
    metrics::{
        SdkMeterProvider, Temporality,
        data::{AggregatedMetrics, MetricData, ResourceMetrics},
        exporter::PushMetricExporter,
    },
};
use tokio::{sync::mpsc, time::advance};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response};

use crate::kit::{Strings, converse, next, raw, send, streaming};

/// What was exported last: `name{values of attributes}` to a figure (a histogram's is its sum).
#[derive(Clone, Default)]
struct Exported(Arc<Mutex<BTreeMap<String, f64>>>);

impl Exported {
    fn of(&self, name: &str) -> Vec<(String, f64)> {
        let all = self.0.lock().expect("not poisoned");
        let of_name = all.iter().filter(|(key, _)| key.starts_with(name));
        of_name.map(|(key, value)| (key.clone(), *value)).collect()
    }
}

/// Only this test's own stacks: the meter is the process's.
fn key<'a>(name: &str, attributes: impl Iterator<Item = &'a KeyValue>) -> Option<String> {
    let mut values: Vec<_> = attributes.map(|kv| kv.value.to_string()).collect();
    values.sort();
    let ours = values.iter().any(|value| value == "measured-svc");
    ours.then(|| format!("{name}{{{}}}", values.join(",")))
}

impl PushMetricExporter for Exported {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        let mut all = self.0.lock().expect("not poisoned");
        for metric in metrics.scope_metrics().flat_map(|scope| scope.metrics()) {
            let mut put = |key: Option<String>, value: f64| key.map(|key| all.insert(key, value));
            match metric.data() {
                AggregatedMetrics::U64(MetricData::Sum(sum)) => {
                    for point in sum.data_points() {
                        let value = u32::try_from(point.value()).expect("small");
                        put(key(metric.name(), point.attributes()), value.into());
                    }
                }
                AggregatedMetrics::I64(MetricData::Sum(sum)) => {
                    for point in sum.data_points() {
                        let value = i32::try_from(point.value()).expect("small");
                        put(key(metric.name(), point.attributes()), value.into());
                    }
                }
                AggregatedMetrics::F64(MetricData::Histogram(histogram)) => {
                    for point in histogram.data_points() {
                        put(key(metric.name(), point.attributes()), point.sum());
                    }
                }
                other => panic!("unexpected {other:?}"),
            }
        }
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

#[tokio::test(start_paused = true)]
async fn a_call_counts_once_at_its_end_at_both_ends() {
    let exported = Exported::default();
    let provider = SdkMeterProvider::builder().with_periodic_exporter(exported.clone()).build();
    opentelemetry::global::set_meter_provider(provider.clone());
    let see = |name: &str| {
        provider.force_flush().expect("exported");
        exported.of(name)
    };
    let count = |name: &str, of: &str, value: f64| vec![(format!("{name}{{{of}}}"), value)];
    let echo = streaming(|request| async { Ok(Response::new(Box::pin(request.into_inner()) as Strings)) });
    let measured = server(ServerConfig::new("measured-svc").streaming(&["Converse"]), echo);
    let cfg = ClientConfig::new("edge", "measured-svc").streaming(&["Converse"]);
    let peer = client(cfg, local(Identity::new("edge"), measured.clone()));

    let (sender, receiver) = mpsc::channel::<String>(1);
    let request = Request::new(ReceiverStream::new(receiver));
    let mut stream = converse(&peer, request).await.expect("a head");
    advance(Duration::from_secs(90)).await;

    let (requests, in_flight) = ("rpc.server.requests", "rpc.server.in_flight");
    assert_eq!(see(requests), []);
    assert_eq!(see(in_flight), count(in_flight, "measured-svc", 1.0));
    drop(sender);
    assert_eq!(next(&mut stream).await.expect("a good end"), None);

    let converse = "Converse,OK,confab.test.v1.Test,measured-svc";
    assert_eq!(see(requests), count(requests, converse, 1.0));
    assert_eq!(see(in_flight), count(in_flight, "measured-svc", 0.0));
    let duration = "rpc.server.call.duration";
    assert_eq!(see(duration), count(duration, converse, 90.0));
    let by_client = "Converse,OK,confab.test.v1.Test,edge,measured-svc";
    let requests = "rpc.client.requests";
    assert_eq!(see(requests), count(requests, by_client, 1.0));

    // A refusal by a layer counts by its code.
    send(&measured, raw(&[("grpc-timeout", "soon")])).await;
    let refused = "INVALID_ARGUMENT,Say,confab.test.v1.Test,measured-svc";
    let of_server = see("rpc.server.requests");
    let expected = (format!("rpc.server.requests{{{refused}}}"), 1.0);
    assert!(of_server.contains(&expected), "{of_server:?}");
}
