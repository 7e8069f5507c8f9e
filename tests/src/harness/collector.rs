//! Takes the metrics that processes export, by OTLP, so that a test counts what an operator would see.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{Metric, NumberDataPoint, number_data_point};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// How often processes tell, milliseconds.
const EVERY_MS: u32 = 250;

/// One process's: of what, and since when it counts, which no two of a role have in common.
type Series = (String, u64);

/// What came: the values of each series, with their times.
#[derive(Default)]
struct Told(BTreeMap<Series, Vec<(Instant, u64)>>);

/// A collector on a free port. It keeps whole numbers, whatever their attributes, and ends when it is dropped.
pub struct Collector {
    endpoint: String,
    told: Arc<Mutex<Told>>,
    server: AbortHandle,
}

impl Collector {
    /// # Errors
    /// If there is no port for it.
    pub async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let told = Arc::new(Mutex::new(Told::default()));
        let service = MetricsServiceServer::new(Service(Arc::clone(&told)));
        let server = tonic::transport::Server::builder().add_service(service);
        let server = tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener))).abort_handle();
        Ok(Self { endpoint, told, server })
    }

    /// What makes a process tell it; traces are not wanted.
    #[must_use]
    pub fn env(&self) -> Vec<(String, String)> {
        let set = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        vec![
            set("CONFAB_OTLP_ENDPOINT", &self.endpoint),
            set("OTEL_METRIC_EXPORT_INTERVAL", &EVERY_MS.to_string()),
            set("OTEL_TRACES_SAMPLER", "always_off"),
        ]
    }

    /// The metric's newest values of all processes together; none: nobody has told it.
    #[must_use]
    pub fn sum(&self, metric: &str) -> Option<u64> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = told.of(metric).filter_map(|values| values.last()).map(|(_, value)| value);
        newest.copied().reduce(|sum, value| sum + value)
    }

    /// How many processes tell the metric.
    #[must_use]
    pub fn processes(&self, metric: &str) -> usize {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).of(metric).count()
    }

    /// By how much a counter rose after `since`, each step with its time; of all processes.
    #[must_use]
    pub fn steps(&self, metric: &str, since: Instant) -> Vec<(Duration, u64)> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let mut steps = Vec::new();
        for values in told.of(metric) {
            let mut before = 0;
            for (at, value) in values {
                if *value > before && *at > since {
                    steps.push((at.duration_since(since), value - before));
                }
                before = *value;
            }
        }
        steps.sort_unstable();
        steps
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Told {
    fn of(&self, metric: &str) -> impl Iterator<Item = &Vec<(Instant, u64)>> {
        self.0.iter().filter(move |((name, _), _)| name == metric).map(|(_, values)| values)
    }

    fn keep(&mut self, metric: Metric) {
        let points = match metric.data {
            Some(Data::Sum(sum)) => sum.data_points,
            Some(Data::Gauge(gauge)) => gauge.data_points,
            _ => return,
        };
        // Of several attributes the sum is kept, as if there were none.
        let mut values: BTreeMap<u64, u64> = BTreeMap::new();
        for point in &points {
            *values.entry(point.start_time_unix_nano).or_default() += number(point);
        }
        for (start, value) in values {
            let series = self.0.entry((metric.name.clone(), start)).or_default();
            if series.last().is_none_or(|(_, last)| *last != value) {
                series.push((Instant::now(), value));
            }
        }
    }
}

fn number(point: &NumberDataPoint) -> u64 {
    match point.value {
        Some(number_data_point::Value::AsInt(value)) => u64::try_from(value).unwrap_or(0),
        _ => 0,
    }
}

struct Service(Arc<Mutex<Told>>);

#[tonic::async_trait]
impl MetricsService for Service {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let scopes = request.into_inner().resource_metrics.into_iter().flat_map(|resource| resource.scope_metrics);
        scopes.flat_map(|scope| scope.metrics).for_each(|metric| told.keep(metric));
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::metrics::v1::Sum;

    use super::*;

    fn counter(start: u64, value: i64) -> Metric {
        let value = Some(number_data_point::Value::AsInt(value));
        let point = NumberDataPoint { start_time_unix_nano: start, value, ..NumberDataPoint::default() };
        let sum = Sum { data_points: vec![point], ..Sum::default() };
        Metric { name: "a".to_owned(), data: Some(Data::Sum(sum)), ..Metric::default() }
    }

    #[tokio::test]
    async fn processes_are_added_up_and_what_stays_is_no_step() {
        let collector = Collector::start().await.unwrap();
        let since = Instant::now();
        for (start, value) in [(1, 5), (2, 7), (1, 5), (1, 8)] {
            collector.told.lock().unwrap().keep(counter(start, value));
        }
        assert_eq!((collector.sum("a"), collector.sum("b"), collector.processes("a")), (Some(15), None, 2));
        let steps: Vec<u64> = collector.steps("a", since).into_iter().map(|(_, step)| step).collect();
        assert_eq!(steps.iter().sum::<u64>(), 15);
        assert_eq!(steps.len(), 3);
        assert!(collector.steps("a", Instant::now()).is_empty());
    }
}
