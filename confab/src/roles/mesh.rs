//! How this process finds the others, knows them, and is known to them.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use confab_mesh::discovery::{Gossip, GossipConfig};
use confab_mesh::identity::ALL_ROLES;
use confab_mesh::identity::tls::{ClientAuth, Credentials, Files};
use confab_mesh::identity::tokens::ServiceTokens;
use confab_mesh::{
    ClientTls, ConnectConfig, DiscoveryConfig, Drain, HealthCheck, ListenConfig, Peer, Pool, ServerTls, guarded,
};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::policy;
use crate::config::{MeshConfig, MeshTls, Role};

/// This process's part in the mesh.
pub(crate) struct Mesh {
    cfg: MeshConfig,
    /// Without them all is plaintext, and nobody has a name.
    credentials: Option<Credentials>,
    tokens: Option<ServiceTokens>,
    discovery: DiscoveryConfig,
}

impl Mesh {
    /// Reads the credentials, which are followed until `drain` begins, and takes part in the gossip if there is one.
    pub(crate) async fn join(cfg: &MeshConfig, roles: &[Role], drain: &Drain) -> anyhow::Result<Self> {
        let credentials = cfg.tls.as_ref().map(|files| credentials(files, roles)).transpose()?;
        match &credentials {
            Some(credentials) => credentials.follow(drain),
            None => tracing::warn!(
                "the mesh is plain text on this machine alone, and everybody may call everything: mesh.tls is not set"
            ),
        }
        let gossip = if cfg.gossips() { Some(gossip(cfg).await?) } else { None };
        let discovery = DiscoveryConfig { gossip, ..DiscoveryConfig::default() };
        Ok(Self { cfg: cfg.clone(), credentials, tokens: tokens(&cfg.token_keys)?, discovery })
    }

    /// The instances of `role`, this process's own among them if it has that role: all are found in the same way.
    pub(crate) async fn pool(&self, role: Role) -> anyhow::Result<Pool> {
        let source = self.cfg.discover.get(&role).with_context(|| format!("mesh.discover says nothing of {role}"))?;
        let discovery = source.clone().start(role.name(), &self.discovery).await;
        let discovery = discovery.with_context(|| format!("mesh.discover: {role} can't be looked for"))?;
        let mut cfg = ConnectConfig::new(role.name());
        cfg.health = Some(asks_health(role));
        cfg.tls = self
            .credentials
            .clone()
            .map(|credentials| -> ClientTls { Arc::new(move || credentials.client_config(role.name())) });
        Ok(Pool::discover(discovery, cfg))
    }

    pub(crate) fn listen_config(&self) -> ListenConfig {
        // A team's service may come with a token in the place of a certificate, where there are keys for tokens.
        let auth = if self.tokens.is_some() { ClientAuth::Optional } else { ClientAuth::Required };
        let tls = self
            .credentials
            .clone()
            .map(|credentials| -> ServerTls { Arc::new(move || credentials.server_config(auth)) });
        ListenConfig { tls, ..ListenConfig::default() }
    }

    /// What stands in front of all of this process's services.
    pub(crate) fn guarded(&self, name: &'static str, services: Peer) -> Peer {
        match self.credentials {
            Some(_) => guarded(name, Some(policy::policy()), self.tokens.clone(), services),
            // Without certificates no role has a name.
            None => services,
        }
    }

    /// Where others reach what listens at `bound`.
    pub(crate) fn advertised(&self, bound: std::net::SocketAddr) -> String {
        self.cfg.advertise.clone().unwrap_or_else(|| bound.to_string())
    }

    pub(crate) async fn announce(&self, role: Role, address: &str) {
        if let Some(gossip) = &self.discovery.gossip {
            gossip.announce(role.name(), address).await;
        }
    }

    /// Others stop to look for this process.
    pub(crate) async fn leave(&self) {
        if let Some(gossip) = &self.discovery.gossip {
            gossip.leave().await;
        }
    }
}

/// # Errors
/// Also if they are another role's: everybody would refuse this process.
fn credentials(files: &MeshTls, roles: &[Role]) -> anyhow::Result<Credentials> {
    let (cert, key, authorities) = (files.cert.clone(), files.key.clone(), files.ca.clone());
    let credentials = Credentials::load(Files { cert, key, authorities }).context("mesh.tls")?;
    let identity = credentials.identity();
    let needed = match roles {
        [role] => role.name(),
        _ => ALL_ROLES,
    };
    if ![needed, ALL_ROLES].contains(&identity.role()) {
        let names: Vec<&str> = roles.iter().map(|role| role.name()).collect();
        bail!(
            "mesh.tls.cert: {} is the certificate of {identity}, but this process is {}.\n\
             It needs one of the role {needed}: confab certs --role {needed}",
            files.cert.display(),
            names.join(" and ")
        );
    }
    Ok(credentials)
}

/// None if there are no keys: then a token is not looked at.
fn tokens(keys: &[std::path::PathBuf]) -> anyhow::Result<Option<ServiceTokens>> {
    if keys.is_empty() {
        return Ok(None);
    }
    let add = |tokens: ServiceTokens, path: &Path| {
        let bytes = fs::read(path)?;
        let bytes = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        let public = bytes.starts_with(b"-----BEGIN");
        let added = if public { tokens.eddsa(bytes) } else { tokens.hs256(bytes) };
        anyhow::Ok(added?)
    };
    let added = keys.iter().try_fold(ServiceTokens::new(), |tokens, path| {
        add(tokens, path).with_context(|| format!("mesh.token_keys: {}", path.display()))
    });
    added.map(Some)
}

async fn gossip(cfg: &MeshConfig) -> anyhow::Result<Gossip> {
    let mut gossip = GossipConfig::new(cfg.gossip.listen.unwrap_or(cfg.listen));
    if let Some(advertise) = cfg.gossip.advertise {
        gossip.advertise = advertise;
    }
    gossip.seeds.clone_from(&cfg.gossip.seeds);
    Gossip::start(gossip).await.context("mesh.gossip")
}

/// By its own word: an instance that drains, or whose store has failed, gets no new calls.
fn asks_health(role: Role) -> HealthCheck {
    let service = role.service().unwrap_or_default();
    Arc::new(move |peer| {
        Box::pin(async move {
            let request = HealthCheckRequest { service: service.to_owned() };
            let answer = HealthClient::new(peer).check(request).await;
            answer.is_ok_and(|answer| answer.get_ref().status() == ServingStatus::Serving)
        })
    })
}
