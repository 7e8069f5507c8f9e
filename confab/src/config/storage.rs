//! Where chats are kept: `[storage]`.

use std::path::PathBuf;

use confab_mesh::is_loopback;

use super::reader::Reader;

/// Of message-svc.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StorageConfig {
    /// In the data folder, by one process.
    Embedded,
    Cassandra(CassandraFields),
}

/// Cassandra or ScyllaDB, shared by all instances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CassandraFields {
    /// `host:port`, at least one.
    pub(crate) contact_points: Vec<String>,
    pub(crate) keyspace: String,
    /// The home data centre: reads and writes are of its quorum.
    pub(crate) datacenter: String,
    /// Used when the keyspace is made.
    pub(crate) replication_factor: u8,
    pub(crate) username: Option<String>,
    /// Without the newline at its end.
    pub(crate) password_file: Option<PathBuf>,
    /// Without it: plaintext, on loopback alone.
    pub(crate) tls: Option<CassandraTls>,
}

/// PEM files, read at the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CassandraTls {
    /// The authorities whose word counts for the nodes.
    pub(crate) ca: PathBuf,
    /// This client's certificate and its key, where the nodes ask for one.
    pub(crate) client: Option<(PathBuf, PathBuf)>,
}

impl StorageConfig {
    pub(super) fn read(r: &mut Reader) -> Self {
        let cassandra = r
            .parsed("storage.kind", "embedded or cassandra", |text| match text {
                "embedded" => Some(false),
                "cassandra" => Some(true),
                _ => None,
            })
            .unwrap_or(false);
        let fields = CassandraFields::read(r, cassandra);
        if cassandra { Self::Cassandra(fields) } else { Self::Embedded }
    }
}

impl CassandraFields {
    fn read(r: &mut Reader, used: bool) -> Self {
        let points = "a list of host:port, such as [\"10.0.0.5:9042\"]";
        let fields = Self {
            contact_points: r.list("storage.contact_points", points, parse_point),
            keyspace: r.parsed("storage.keyspace", "a name of a-z 0-9 _", parse_name).unwrap_or("confab".to_owned()),
            datacenter: r
                .parsed("storage.datacenter", "the data centre's name, as Cassandra has it", parse_text)
                .unwrap_or("datacenter1".to_owned()),
            replication_factor: r.number("storage.replication_factor", 3, 1..=9),
            username: r.parsed("storage.username", "a name", parse_text),
            password_file: r.file("storage.password_file"),
            tls: CassandraTls::read(r),
        };
        if used && fields.contact_points.is_empty() && !r.is_written("storage.contact_points") {
            r.reject("storage.contact_points", format!("is needed with storage.kind = \"cassandra\": {points}"));
        }
        if used && fields.tls.is_none() && !fields.contact_points.iter().all(|point| is_loopback(point)) {
            r.reject(
                "storage.contact_points",
                "are other machines, and what is said in chats would go there in plain text. Give storage.tls.ca",
            );
        }
        if fields.username.is_some() != fields.password_file.is_some() {
            let (missing, other) = match fields.username {
                Some(_) => ("storage.password_file", "storage.username"),
                None => ("storage.username", "storage.password_file"),
            };
            r.reject(missing, format!("is needed, too, where {other} is given"));
        }
        fields
    }
}

impl CassandraTls {
    fn read(r: &mut Reader) -> Option<Self> {
        let ca = r.file("storage.tls.ca");
        let (cert, key) = (r.file("storage.tls.cert"), r.file("storage.tls.key"));
        for (missing, given, missed) in [
            ("storage.tls.key", "storage.tls.cert", key.is_none() && cert.is_some()),
            ("storage.tls.cert", "storage.tls.key", cert.is_none() && key.is_some()),
            ("storage.tls.ca", "storage.tls.cert", ca.is_none() && cert.is_some()),
        ] {
            if missed {
                r.reject(missing, format!("is needed, too, where {given} is given"));
            }
        }
        Some(Self { ca: ca?, client: cert.zip(key) })
    }
}

fn parse_point(text: &str) -> Option<String> {
    let (host, port) = text.rsplit_once(':')?;
    let fine = !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || c == '/');
    (fine && port.parse::<u16>().is_ok_and(|port| port > 0)).then(|| text.to_owned())
}

/// Of a keyspace: no need for quotes, and within Cassandra's 48 characters.
fn parse_name(text: &str) -> Option<String> {
    let fine = text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.len() <= 48
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    fine.then(|| text.to_owned())
}

fn parse_text(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}
