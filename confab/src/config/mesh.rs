//! The part of the configuration by which the processes of a cluster find and know each other: `[mesh]`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use confab_mesh::Source;

use super::reader::Reader;
use super::role::Role;
use super::storage::StorageConfig;

/// Where a process's services listen when nobody says: this machine only.
const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7400);
/// What stands for a service's name in `mesh.discover.all`.
const NAME: &str = "{service}";
/// The services that others call, with their keys below `mesh.discover`.
const DISCOVERED: [(Role, &str); 3] = [
    (Role::Message, "mesh.discover.message_svc"),
    (Role::Fanout, "mesh.discover.fanout_svc"),
    (Role::Presence, "mesh.discover.presence_svc"),
];

/// Of a process with some of the roles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MeshConfig {
    /// Where its services listen for gRPC. Port 0 takes a free one.
    pub(crate) listen: SocketAddr,
    /// `host:port` at which others reach it; none: `listen`.
    pub(crate) advertise: Option<String>,
    /// Where `/livez` and `/readyz` are, besides gRPC's health; none: nowhere.
    pub(crate) http: Option<SocketAddr>,
    /// Without it: plaintext, on loopback alone, and everybody may call everything.
    pub(crate) tls: Option<MeshTls>,
    /// Files with keys that service tokens are signed with.
    pub(crate) token_keys: Vec<PathBuf>,
    /// Who says which instances a service has; of each service that this process's roles call.
    pub(crate) discover: BTreeMap<Role, Source>,
    pub(crate) gossip: GossipFields,
}

/// PEM files, followed as they change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MeshTls {
    /// The certificate, which names the role, then its intermediates.
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
    /// The authorities whose word counts.
    pub(crate) ca: PathBuf,
}

/// For `gossip:` sources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GossipFields {
    /// UDP; none: the address of `mesh.listen`.
    pub(crate) listen: Option<SocketAddr>,
    /// None: where it listens.
    pub(crate) advertise: Option<SocketAddr>,
    pub(crate) seeds: Vec<String>,
}

impl MeshConfig {
    pub(super) fn read(r: &mut Reader, roles: &[Role], storage: &StorageConfig, default: Self) -> Self {
        let address = "an IP address and a port, such as 127.0.0.1:7400";
        let config = Self {
            listen: r.parsed("mesh.listen", address, super::parse_listen).unwrap_or(default.listen),
            advertise: r.parsed("mesh.advertise", "a host and a port, such as 10.0.0.5:7400", parse_advertise),
            http: r.parsed("mesh.http", address, super::parse_listen),
            tls: MeshTls::read(r),
            token_keys: r.files("mesh.token_keys", "a list of files, such as [\"team.pub.pem\"]"),
            discover: read_sources(r, roles, storage),
            gossip: GossipFields {
                listen: r.parsed("mesh.gossip.listen", address, super::parse_listen),
                advertise: r.parsed("mesh.gossip.advertise", address, super::parse_listen),
                seeds: r.list("mesh.gossip.seeds", "a list of host:port, such as [\"10.0.0.5:7400\"]", |text| {
                    parse_advertise(text)
                }),
            },
        };
        config.check_together(r, roles);
        config
    }

    pub(crate) fn gossips(&self) -> bool {
        self.discover.values().any(|source| *source == Source::Gossip)
    }

    fn check_together(&self, r: &mut Reader, roles: &[Role]) {
        let serves = roles.iter().any(|role| role.service().is_some());
        let exposed = |addr: SocketAddr| !addr.ip().to_canonical().is_loopback();
        if serves && exposed(self.listen) && self.tls.is_none() {
            r.reject(
                "mesh.listen",
                "can be reached from other machines, and would be plain text that everybody may call.\n\
                 Give mesh.tls.cert, mesh.tls.key and mesh.tls.ca (`confab certs` makes them, for trying it out), or listen on 127.0.0.1",
            );
        }
        if self.gossips() && serves && self.advertise.is_none() && self.listen.ip().is_unspecified() {
            r.reject(
                "mesh.advertise",
                "is needed: others are told by gossip where this process is, and mesh.listen is no place to go to",
            );
        }
        let gossip_listen = self.gossip.listen.unwrap_or(self.listen);
        if self.gossips() && self.gossip.advertise.is_none() && gossip_listen.ip().is_unspecified() {
            r.reject("mesh.gossip.advertise", "is needed: the gossip listens on no address that others can go to");
        }
        if self.gossips() && gossip_listen.port() == 0 {
            r.reject("mesh.gossip.listen", "needs a port: others have to know it");
        }
    }
}

impl MeshTls {
    /// All three files, or none.
    fn read(r: &mut Reader) -> Option<Self> {
        const KEYS: [(&str, &str); 3] = [
            ("mesh.tls.cert", "the certificate that names this process's role"),
            ("mesh.tls.key", "the certificate's private key"),
            ("mesh.tls.ca", "the certificates of the authorities to believe"),
        ];
        let files = KEYS.map(|(key, what)| (key, what, r.file(key)));
        if files.iter().all(|(_, _, file)| file.is_none()) {
            return None;
        }
        for (key, what, file) in &files {
            if file.is_none() {
                r.reject(key, format!("is needed, too, where one of mesh.tls is given: the file with {what}"));
            }
        }
        let [(.., cert), (.., key), (.., ca)] = files;
        Some(Self { cert: cert?, key: key?, ca: ca? })
    }
}

/// Of what `roles` call; whatever else is written is looked at, too.
fn read_sources(r: &mut Reader, roles: &[Role], storage: &StorageConfig) -> BTreeMap<Role, Source> {
    let all = r.parsed("mesh.discover.all", "as one service's, with {service} in place of its name", |text| {
        parse_source(&text.replace(NAME, "presence-svc")).map(|_| text.to_owned())
    });
    let mut sources = BTreeMap::new();
    for (role, key) in DISCOVERED {
        let right = "static:host:port,…, dns:name:port, gossip: or k8s:namespace/service:port";
        let own = r.parsed(key, right, parse_source);
        let source = own.or_else(|| parse_source(&all.as_ref()?.replace(NAME, role.name())));
        let Some(caller) = roles.iter().find(|caller| caller.calls(storage).contains(&role)) else { continue };
        match source {
            Some(source) => drop(sources.insert(role, source)),
            // What is written there, and wrong, is named already.
            None if r.is_written(key) || r.is_written("mesh.discover.all") => {}
            None => r.reject(
                key,
                format!(
                    "is needed: {caller} calls {role}. Say where it is, such as static:127.0.0.1:7401,127.0.0.1:7402"
                ),
            ),
        }
    }
    sources
}

fn parse_source(text: &str) -> Option<Source> {
    text.parse().ok()
}

/// `host:port`.
fn parse_advertise(text: &str) -> Option<String> {
    let fixed = format!("static:{text}").parse().ok()?;
    matches!(fixed, Source::Static(endpoints) if endpoints.len() == 1).then(|| text.to_owned())
}

impl Default for MeshConfig {
    fn default() -> Self {
        Self {
            listen: LISTEN,
            advertise: None,
            http: None,
            tls: None,
            token_keys: Vec::new(),
            discover: BTreeMap::new(),
            gossip: GossipFields::default(),
        }
    }
}
