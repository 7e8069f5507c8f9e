//! An API server as far as a watcher of EndpointSlices can tell: it answers list and watch, with what a real one sends.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use ::kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use bytes::Bytes;
use confab_mesh::{Discovery, DiscoveryConfig, Source};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{body::Frame, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::{core::v1::Namespace, discovery::v1::EndpointSlice};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::{StreamExt, wrappers::UnboundedReceiverStream};

use super::{Driver, expect, suite};
use crate::loopback::promptly;

const PATH: &str = "/apis/discovery.k8s.io/v1/namespaces/confab/endpointslices";

/// What it holds.
#[derive(Default)]
struct Server {
    version: u64,
    /// By name; ascending.
    slices: Vec<(&'static str, Value)>,
    watchers: Vec<mpsc::UnboundedSender<Bytes>>,
    fails: bool,
    refused: usize,
}

impl Server {
    fn put(&mut self, name: &'static str, slice: Option<Value>) {
        let before = self.slices.iter().position(|(there, _)| *there == name).map(|at| self.slices.remove(at).1);
        let (kind, slice) = match (before, slice) {
            (None, None) => return,
            (None, Some(slice)) => ("ADDED", slice),
            (Some(before), Some(slice)) if before["endpoints"] == slice["endpoints"] => {
                self.slices.push((name, before));
                return;
            }
            (Some(_), Some(slice)) => ("MODIFIED", slice),
            (Some(slice), None) => ("DELETED", slice),
        };
        self.version += 1;
        let mut slice = slice;
        slice["metadata"]["resourceVersion"] = json!(self.version.to_string());
        if kind != "DELETED" {
            self.slices.push((name, slice.clone()));
        }
        self.tell(&json!({"type": kind, "object": slice}));
    }

    fn tell(&mut self, event: &Value) {
        let line = Bytes::from(format!("{event}\n"));
        self.watchers.retain(|watcher| watcher.send(line.clone()).is_ok());
    }

    fn list(&self) -> Value {
        let items: Vec<&Value> = self.slices.iter().map(|(_, slice)| slice).collect();
        json!({
            "kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1",
            "metadata": {"resourceVersion": self.version.to_string()}, "items": items,
        })
    }

    /// The events after `version`; if there were any already, the client is told to list again.
    fn watch(&mut self, version: &str) -> mpsc::UnboundedReceiver<Bytes> {
        let (sender, receiver) = mpsc::unbounded_channel();
        if version == self.version.to_string() {
            self.watchers.push(sender);
        } else {
            let expired = json!({"type": "ERROR", "object": {
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "too old resource version", "reason": "Expired", "code": 410,
            }});
            sender.send(Bytes::from(format!("{expired}\n"))).expect("it is there");
        }
        receiver
    }
}

/// As the control plane writes them, with one endpoint that is not ready and one that is about to go besides.
fn slice(name: &str, kind: &str, addresses: &[SocketAddr]) -> Value {
    let endpoint = |ip: String, ready: bool, terminating: bool| {
        json!({
            "addresses": [ip],
            "conditions": {"ready": ready, "serving": ready || terminating, "terminating": terminating},
            "nodeName": "node-1", "zone": "zone-a",
            "targetRef": {"kind": "Pod", "name": "message-svc-0", "namespace": "confab", "uid": "5a5b"},
        })
    };
    let mut endpoints: Vec<Value> =
        addresses.iter().map(|address| endpoint(address.ip().to_string(), true, false)).collect();
    let base = if kind == "IPv4" { "10.9.9." } else { "fd00::9:" };
    endpoints.push(endpoint(format!("{base}1"), false, false));
    endpoints.push(endpoint(format!("{base}2"), true, true));
    json!({
        "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "addressType": kind,
        "metadata": {
            "name": name, "namespace": "confab", "generation": 1,
            "labels": {
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                "kubernetes.io/service-name": "message-svc",
            },
        },
        "endpoints": endpoints,
        "ports": [
            {"name": "metrics", "port": 9000, "protocol": "TCP"},
            {"name": "grpc", "port": 7000, "protocol": "TCP", "appProtocol": "kubernetes.io/h2c"},
        ],
    })
}

struct Kube {
    url: String,
    port: &'static str,
    server: Arc<Mutex<Server>>,
}

impl Kube {
    async fn start(port: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let server = Arc::<Mutex<Server>>::default();
        let serving = Arc::clone(&server);
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let server = Arc::clone(&serving);
                let answers =
                    service_fn(move |request| std::future::ready(Ok::<_, Infallible>(answer(&server, &request))));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(tcp), answers));
            }
        });
        Self { url, port, server }
    }

    fn server(&self) -> MutexGuard<'_, Server> {
        self.server.lock().expect("not poisoned")
    }
}

fn answer(server: &Mutex<Server>, request: &Request<Incoming>) -> Response<BoxBody<Bytes, Infallible>> {
    let mut server = server.lock().expect("not poisoned");
    let query = request.uri().query().unwrap_or_default();
    let of = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)).unwrap_or_default();
    let label = of("labelSelector=");
    assert!(request.uri().path() == PATH && label == "kubernetes.io%2Fservice-name%3Dmessage-svc", "{request:?}");
    if server.fails {
        server.refused += 1;
        let mut response = Response::new(Full::from("etcdserver: request timed out").boxed());
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        return response;
    }
    if of("watch=").is_empty() {
        return Response::new(Full::from(server.list().to_string()).boxed());
    }
    let lines = UnboundedReceiverStream::new(server.watch(of("resourceVersion=")));
    Response::new(BodyExt::boxed(StreamBody::new(lines.map(|line| Ok(Frame::data(line))))))
}

impl Driver for Kube {
    async fn start(&self) -> Discovery {
        let source: Source = format!("k8s:confab/message-svc:{}", self.port).parse().expect("a source");
        let url = self.url.parse().expect("a URL");
        let cfg = DiscoveryConfig { kube_api: Some(url), ..DiscoveryConfig::default() };
        source.start("message-svc", &cfg).await.expect("it begins")
    }

    async fn set(&mut self, addresses: &[&str]) {
        let addresses: Vec<SocketAddr> = addresses.iter().map(|address| address.parse().expect("an address")).collect();
        let (four, six): (Vec<SocketAddr>, Vec<SocketAddr>) = addresses.into_iter().partition(SocketAddr::is_ipv4);
        let mut server = self.server();
        server.fails = false;
        server.put("message-svc-4abcd", (!four.is_empty()).then(|| slice("message-svc-4abcd", "IPv4", &four)));
        server.put("message-svc-6abcd", (!six.is_empty()).then(|| slice("message-svc-6abcd", "IPv6", &six)));
    }

    async fn fail(&mut self) -> bool {
        {
            let mut server = self.server();
            server.fails = true;
            server.watchers.clear();
        }
        promptly(async {
            while self.server().refused < 2 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        true
    }
}

#[tokio::test]
async fn the_suite_with_a_ports_number() {
    suite(Kube::start("7000").await).await;
}

#[tokio::test]
async fn the_suite_with_a_ports_name() {
    suite(Kube::start("grpc").await).await;
}

#[tokio::test]
async fn a_port_of_another_name_is_no_instances() {
    let mut kube = Kube::start("http").await;
    kube.set(&["10.0.0.1:7000"]).await;
    let discovery = kube.start().await;
    promptly(async {
        while kube.server().watchers.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    expect::<&str>(&mut discovery.endpoints(), &[]).await;
}

/// The real one, with slices that no controller looks after.
struct RealApi(Api<EndpointSlice>);

impl RealApi {
    async fn start() -> Self {
        let client = ::kube::Client::try_default().await.expect("KUBECONFIG as `tests/services/kube up` prints it");
        let namespaces = Api::<Namespace>::all(client.clone());
        let namespace = serde_json::from_value(json!({"metadata": {"name": "confab"}})).expect("a namespace");
        match namespaces.create(&PostParams::default(), &namespace).await {
            Err(::kube::Error::Api(status)) if !status.is_already_exists() => panic!("{status}"),
            _ => Self(Api::namespaced(client, "confab")),
        }
    }

    async fn put(&self, name: &str, kind: &str, addresses: &[SocketAddr]) {
        if addresses.is_empty() {
            // There may be none.
            let _ = self.0.delete(name, &DeleteParams::default()).await;
            return;
        }
        let mut slice = slice(name, kind, addresses);
        let metadata = slice["metadata"].as_object_mut().expect("an object");
        metadata.remove("generation");
        let force = PatchParams::apply("confab-test").force();
        self.0.patch(name, &force, &Patch::Apply(slice)).await.expect("the server takes it");
    }
}

impl Driver for RealApi {
    async fn start(&self) -> Discovery {
        let source: Source = "k8s:confab/message-svc:grpc".parse().expect("a source");
        source.start("message-svc", &DiscoveryConfig::default()).await.expect("it begins")
    }

    async fn set(&mut self, addresses: &[&str]) {
        let addresses: Vec<SocketAddr> = addresses.iter().map(|address| address.parse().expect("an address")).collect();
        let (four, six): (Vec<SocketAddr>, Vec<SocketAddr>) = addresses.into_iter().partition(SocketAddr::is_ipv4);
        self.put("message-svc-4abcd", "IPv4", &four).await;
        self.put("message-svc-6abcd", "IPv6", &six).await;
    }

    async fn fail(&mut self) -> bool {
        false
    }
}

#[tokio::test]
#[ignore = "needs the API server: tests/services/kube up"]
async fn the_suite_with_a_real_api_server() {
    suite(RealApi::start().await).await;
}
