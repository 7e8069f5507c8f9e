//! Two edges, two fanouts, two presences and one message-svc in this process, with a switch on each way between them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use confab_edge::{Front, Ready};
use confab_mesh::drain::Drainer;
use confab_mesh::{Drain, Identity, Peer, Pool, local};
use confab_message_svc::{Durability, Storage};
use confab_tests::harness::http;
use confab_tests::harness::token::Minter;
use confab_tests::harness::{Client, Mode, wait_for};
use futures_util::StreamExt as _;
use http_body_util::{BodyStream, StreamBody};
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::body::Body;
use tower::ServiceExt as _;

const SECRET: &[u8] = b"a secret of thirty-two bytes, no less";

/// What passes on a way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Passes {
    All,
    /// Streams stay, and nothing comes back on them.
    Frozen,
    /// Streams break, and calls are refused.
    Nothing,
}

/// A way from a caller to an instance.
#[derive(Clone)]
struct Way {
    from: &'static str,
    to: &'static str,
    /// How often it was shut, too: a stream that was open then is broken, however short that was.
    passes: watch::Sender<(Passes, u32)>,
}

/// An instance that can be replaced by a fresh one.
#[derive(Clone)]
struct Instance(Arc<Mutex<Peer>>);

pub(crate) struct Cluster {
    ways: Vec<Way>,
    presences: [Instance; 2],
    edges: Vec<SocketAddr>,
    minter: Minter,
    drain: Drain,
    _drainer: Drainer,
    _data: TempDir,
}

impl Cluster {
    /// `warm_up_seconds`: of the presence instances, also of those that are started anew.
    pub(crate) async fn start(warm_up_seconds: u64) -> Self {
        let data = tempfile::tempdir().unwrap();
        let (drainer, drain) = confab_mesh::drain::channel();
        let mut ways = Vec::new();
        let presences = [(); 2].map(|()| Instance(Arc::new(Mutex::new(presence(warm_up_seconds, &drain)))));
        let mut to_presence = |from| {
            let [p, q] = &presences;
            Pool::fixed([("p", way(&mut ways, from, "p", p)), ("q", way(&mut ways, from, "q", q))])
        };
        let mut fanout = |name| {
            let deps = confab_fanout_svc::Deps { presence: to_presence(name), drain: drain.clone() };
            Instance(Arc::new(Mutex::new(confab_fanout_svc::build(deps))))
        };
        let fanouts = [fanout("f"), fanout("g")];
        let edge_presence = [to_presence("edge-0"), to_presence("edge-1")];
        let message_presence = to_presence("messages");
        let mut to_fanout = |from| {
            let [f, g] = &fanouts;
            Pool::fixed([("f", way(&mut ways, from, "f", f)), ("g", way(&mut ways, from, "g", g))])
        };
        let storage = Storage::Embedded { folder: data.path().join("messages"), durability: Durability::Buffered };
        let cfg = confab_message_svc::Config { hot_chats_max: 1_000, in_flight_max: 16_384, retention: None };
        let deps = confab_message_svc::Deps {
            fanout: to_fanout("messages"),
            presence: message_presence,
            drain: drain.clone(),
        };
        let messages = confab_message_svc::build(cfg, storage, deps).await.unwrap();
        let mut edges = Vec::new();
        for (from, presence) in ["edge-0", "edge-1"].into_iter().zip(edge_presence) {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            edges.push(listener.local_addr().unwrap());
            let ready: Ready = Arc::new(|| true);
            let deps = confab_edge::Deps {
                messages: local(Identity::new("edge"), messages.peer.clone()),
                owners: Pool::fixed([("local", local(Identity::new("edge"), messages.peer.clone()))]),
                fanout: to_fanout(from),
                presence,
                verifier: confab_edge::Verifier::new().hs256(SECRET),
                page: None,
                ready,
            };
            let front = Front { listener, tls: None };
            tokio::spawn(confab_edge::serve(confab_edge::Config::default(), front, deps, drain.clone()));
        }
        let minter = Minter::with_secret(SECRET);
        Self { ways, presences, edges, minter, drain, _drainer: drainer, _data: data }
    }

    /// Sets all ways between these two; `*` is anybody.
    pub(crate) fn set(&self, from: &str, to: &str, passes: Passes) {
        let is = |name: &str, wanted: &str| wanted == "*" || name == wanted;
        let ways: Vec<&Way> = self.ways.iter().filter(|way| is(way.from, from) && is(way.to, to)).collect();
        assert!(!ways.is_empty(), "no way from {from} to {to}");
        for way in ways {
            way.passes.send_modify(|(is, shut)| {
                *is = passes;
                *shut += u32::from(passes == Passes::Nothing);
            });
        }
    }

    /// The presence instance dies, and a fresh one that knows nobody takes its place.
    pub(crate) fn restart_presence(&self, at: usize, warm_up_seconds: u64) {
        let name = ["p", "q"][at];
        self.set("*", name, Passes::Nothing);
        *self.presences[at].0.lock().unwrap() = presence(warm_up_seconds, &self.drain);
        self.set("*", name, Passes::All);
    }

    fn token(&self, user: u64) -> String {
        self.minter.token(user, None)
    }

    /// A client that is caught up: what is said from now on reaches it as a push.
    pub(crate) async fn client(&self, edge: usize, user: u64) -> Client {
        let token = self.token(user);
        let connected = || async { Client::connect(self.edges[edge], &token, Mode::Json).await.ok() };
        let mut client = wait_for("an edge that serves", Duration::from_secs(15), connected).await.unwrap();
        client.sync(&[]).await.unwrap();
        client
    }

    /// A direct chat.
    pub(crate) async fn chat(&self, user: u64, peer: u64) -> u64 {
        let body = json!({"kind": "direct", "user_id": peer});
        let token = self.token(user);
        let response = http::request(self.edges[0], "POST", "/v1/chats", Some(&token), Some(&body)).await.unwrap();
        response.json().unwrap()["chat_id"].as_u64().unwrap_or_else(|| panic!("{}", response.text()))
    }
}

fn presence(warm_up_seconds: u64, drain: &Drain) -> Peer {
    confab_presence_svc::build(&confab_presence_svc::Config { grace_seconds: 1, warm_up_seconds }, None, drain)
}

/// A peer that calls what the instance is by then, if the way lets it.
fn way(ways: &mut Vec<Way>, from: &'static str, to: &'static str, instance: &Instance) -> Peer {
    let (passes, passing) = watch::channel((Passes::All, 0));
    ways.push(Way { from, to, passes });
    let instance = instance.clone();
    let switched = tower::service_fn(move |request: ::http::Request<Body>| {
        let peer = local(Identity::new(from), instance.0.lock().unwrap().clone());
        let passing = passing.clone();
        async move {
            let (passes, shut) = *passing.borrow();
            if passes == Passes::Nothing {
                return Err(tonic::Status::unavailable("the way is shut"));
            }
            let response = peer.oneshot(request).await?;
            Ok(response.map(|body| switched_body(body, passing, shut)))
        }
    });
    Peer::new(switched)
}

fn switched_body(body: Body, passing: watch::Receiver<(Passes, u32)>, shut_before: u32) -> Body {
    let mut shutting = passing.clone();
    let shut = async move { shutting.wait_for(|(_, shut)| *shut != shut_before).await.is_ok() };
    let frames = BodyStream::new(body).then(move |frame| {
        let mut passing = passing.clone();
        async move {
            // The test is over when there is no sender.
            let _over = passing.wait_for(|(passes, _)| *passes != Passes::Frozen).await;
            frame
        }
    });
    Body::new(StreamBody::new(frames.take_until(Box::pin(shut))))
}
