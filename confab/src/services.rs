//! Every role in this process: the services of a mesh, over in-process peers.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use confab_mesh::drain::Drainer;
use confab_mesh::{ClientConfig, Drain, Identity, Peer, Pool, client, local};
use confab_message_svc::{Durability, Storage};
use confab_proto::message::v1::message_service_client::MessageServiceClient;
use confab_proto::message::v1::{ChatKind, CreateChatRequest};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::config::{Config, MessageConfig};
use crate::secret::{self, Secret};
use crate::token;

const PAGE: &str = include_str!("../../web/index.html");
const PAGE_TOKEN: Duration = Duration::from_secs(3_600);

/// How long the services behind the edge have for ending.
const SERVICES_STOP: Duration = Duration::from_secs(10);

/// Set for the control of the power-loss test: acks before the disk has them.
const UNSAFE: &str = "CONFAB_UNSAFE_DURABILITY";

pub(crate) struct Services {
    edge: JoinHandle<()>,
    messages: Drainer,
    others: Drainer,
}

/// Starts them all; the edge serves from then on.
pub(crate) async fn start(
    cfg: &Config,
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    secret: Option<Secret>,
    drain: Drain,
) -> anyhow::Result<Services> {
    let (others, others_drain) = confab_mesh::drain::channel();
    let (messages_drainer, messages_drain) = confab_mesh::drain::channel();
    let as_role = |role: &'static str, peer: &Peer| local(Identity::new(role), peer.clone());

    // The one instance of each that there is.
    let alone = |role: &'static str, peer: &Peer| Pool::fixed([("local", as_role(role, peer))]);

    // No edge has been here before this process.
    let presence_cfg = confab_presence_svc::Config { grace_seconds: cfg.presence.grace.as_secs(), warm_up_seconds: 0 };
    let presence = confab_presence_svc::build(&presence_cfg, None, &others_drain);
    let fanout = confab_fanout_svc::build(confab_fanout_svc::Deps {
        presence: alone("fanout-svc", &presence),
        drain: others_drain,
    });
    let deps = confab_message_svc::Deps {
        fanout: alone("message-svc", &fanout),
        presence: alone("message-svc", &presence),
        drain: messages_drain,
    };
    let messages = confab_message_svc::build(messages_config(cfg), embedded(cfg), deps)
        .await
        .with_context(|| format!("the data folder {}", cfg.data.display()))?;
    let health = messages.health();
    first_chat(as_role("confab", &messages.peer)).await?;

    let deps = confab_edge::Deps {
        messages: as_role("edge", &messages.peer),
        owners: alone("edge", &messages.peer),
        fanout: alone("edge", &fanout),
        presence: alone("edge", &presence),
        verifier: secret::verifier(secret.as_ref(), &cfg.token).await?,
        page: Some(page(secret, listener.local_addr()?.ip().is_loopback() && cfg.behind_proxy.is_empty())),
        ready: Arc::new(move || health.is_healthy()),
    };
    let front = confab_edge::Front { listener, tls };
    let edge = tokio::spawn(confab_edge::serve(edge_config(cfg), front, deps, drain));
    Ok(Services { edge, messages: messages_drainer, others })
}

impl Services {
    /// The callers first: the edge, then message-svc, then what that calls.
    pub(crate) async fn stop(self, edge: Drainer, time: Duration) {
        stop_edge(self.edge, &edge, time).await;
        for (name, drainer) in [("message-svc", self.messages), ("fanout-svc and presence-svc", self.others)] {
            if let Err(unfinished) = drainer.drain(SERVICES_STOP).await {
                tracing::warn!(%unfinished, name, "did not end in time");
            }
        }
    }
}

/// Lets clients leave, for `time`, and ends.
pub(crate) async fn stop_edge(edge: JoinHandle<()>, drainer: &Drainer, time: Duration) {
    if let Err(unfinished) = drainer.drain(time).await {
        tracing::warn!(%unfinished, "the edge did not end in time");
    }
    if tokio::time::timeout(time + SERVICES_STOP, edge).await.is_err() {
        tracing::warn!("clients did not leave in time");
    }
}

/// message-svc's part of the data folder.
pub(crate) fn embedded(cfg: &Config) -> Storage {
    let buffered = std::env::var(UNSAFE).is_ok_and(|mode| mode == "buffered");
    let durability = if buffered { Durability::Buffered } else { Durability::Synced };
    if buffered {
        tracing::warn!("{UNSAFE}=buffered: a power cut loses acked messages");
    }
    Storage::Embedded { folder: cfg.data.join("messages"), durability }
}

pub(crate) fn messages_config(cfg: &Config) -> confab_message_svc::Config {
    let MessageConfig { hot_chats_max, in_flight_max, retention } = cfg.message;
    confab_message_svc::Config { hot_chats_max, in_flight_max, retention }
}

/// A fresh folder has chat 1, of users 1 and 2: creating it again answers with the same one.
async fn first_chat(messages: Peer) -> anyhow::Result<()> {
    let mut messages = MessageServiceClient::new(client(ClientConfig::new("confab", "message-svc"), messages));
    let request = CreateChatRequest {
        user_id: 1,
        kind: ChatKind::Direct.into(),
        peer: 2,
        device: "default".to_owned(),
        ..CreateChatRequest::default()
    };
    messages.create_chat(request).await.context("the first chat")?;
    Ok(())
}

fn page(secret: Option<Secret>, loopback: bool) -> confab_edge::Page {
    Arc::new(move |asked_on_loopback| {
        let mint = |secret: &Secret, user| {
            token::mint(secret, user, Some("page"), PAGE_TOKEN, SystemTime::now()).unwrap_or_default()
        };
        let tokens = match &secret {
            Some(secret) if loopback && asked_on_loopback => {
                format!(r#"{{"1":"{}","2":"{}"}}"#, mint(secret, 1), mint(secret, 2))
            }
            _ => "null".to_owned(),
        };
        PAGE.replace("__TOKENS__", &tokens)
    })
}

pub(crate) fn edge_config(cfg: &Config) -> confab_edge::Config {
    let edge = &cfg.edge;
    confab_edge::Config {
        frame_bytes_max: edge.frame_bytes_max,
        frame_bytes_hard_max: edge.frame_bytes_hard_max,
        connections_max: edge.connections_max,
        in_flight_max: edge.in_flight_max,
        outbound_events_max: edge.outbound_events_max,
        outbound_bytes_max: edge.outbound_bytes_max,
        ping_interval: edge.ping_interval,
        silence_max: edge.silence,
        stall_max: edge.stall,
        drain: edge.drain,
        watch_max: edge.watch_max,
        header_timeout: edge.header_timeout,
        behind_proxy: cfg.behind_proxy.clone(),
        origins: edge.origins.clone(),
        limits: edge.limits,
    }
}
