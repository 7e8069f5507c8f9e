//! A mesh: each role in processes of their own, over mutual TLS with certificates of `confab certs`.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::ensure;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::client::{Client, Mode};
use super::http::{self, Response};
use super::processes::{Process, Spec};
use super::server::{command, command_of};
use super::token::Minter;

/// How many instances of each role.
#[derive(Clone, Debug)]
pub struct Shape {
    pub presence: usize,
    pub fanout: usize,
    pub message: usize,
    pub edge: usize,
    /// Without: plaintext, which loopback allows, and no policy.
    pub tls: bool,
    /// Where message-svc keeps chats; none: on its own disk, which only one instance can.
    pub cassandra: Option<Store>,
    /// Where Redis is, for every process; none: without.
    pub redis: Option<String>,
    /// Each process runs under a group id of its own, from this one on, which only root can give; none: under this process's.
    pub first_group: Option<u32>,
    /// Settings of every process beside what it needs: `("CONFAB_LOG__FILTER", "debug")`.
    pub env: Vec<(String, String)>,
}

impl Default for Shape {
    /// Two of each, and one message-svc: on embedded storage there can be only one.
    fn default() -> Self {
        Self {
            presence: 2,
            fanout: 2,
            message: 1,
            edge: 2,
            tls: true,
            cassandra: None,
            redis: None,
            first_group: None,
            env: Vec::new(),
        }
    }
}

/// A keyspace of a Cassandra that runs.
#[derive(Clone, Debug)]
pub struct Store {
    pub points: Vec<String>,
    pub keyspace: String,
    /// Whose certificates the nodes have; none: no TLS.
    pub ca: Option<PathBuf>,
}

impl Store {
    /// The keyspace that tests have, in the clear.
    #[must_use]
    pub fn plain(points: &[String]) -> Self {
        Self { points: points.to_vec(), keyspace: "confab".to_owned(), ca: None }
    }

    fn settings(&self) -> Vec<(String, String)> {
        let set = |key: &str, value: String| (format!("CONFAB_STORAGE__{key}"), value);
        let mut settings = vec![
            set("KIND", "cassandra".to_owned()),
            set("CONTACT_POINTS", self.points.join(",")),
            set("KEYSPACE", self.keyspace.clone()),
            set("REPLICATION_FACTOR", self.points.len().to_string()),
        ];
        settings.extend(self.ca.iter().map(|ca| set("TLS__CA", ca.display().to_string())));
        settings
    }

    /// Makes the tables, as an operator does before the first start.
    ///
    /// # Errors
    /// What the program says.
    pub fn migrate(&self) -> anyhow::Result<()> {
        self.migrate_by(None)
    }

    /// The same by another program than the one that was built.
    ///
    /// # Errors
    /// What the program says.
    pub fn migrate_by(&self, program: Option<&Path>) -> anyhow::Result<()> {
        let mut command = program.map_or_else(command, |program| Ok(command_of(program)))?;
        let output = command.arg("migrate").envs(self.settings()).output()?;
        ensure!(output.status.success(), "confab migrate: {output:?}");
        Ok(())
    }
}

/// In the order in which they start: each calls only those before it.
const ROLES: [&str; 4] = ["presence-svc", "fanout-svc", "message-svc", "edge"];

/// Where the ports of each purpose begin: away from what is known to be used by others, and below those that the kernel hands out.
const GRPC: u16 = 24_000;
const CLIENTS: u16 = 25_000;
const PROBES: u16 = 26_000;
const PROXIES: u16 = 27_000;
/// Ports of each purpose, and group ids, that a role's processes have.
const PLACES_PER_ROLE: usize = 100;

/// The processes, by name: `edge-0`, `message-svc-0`, … Dropping it kills them.
pub struct Mesh {
    pub processes: BTreeMap<String, Process>,
    shape: Shape,
    ip: Ipv4Addr,
    folder: PathBuf,
    /// Removes the folder, unless it came from outside.
    _own: Option<TempDir>,
    minter: Minter,
    team_secret: String,
}

impl Mesh {
    /// Starts all, and waits until they are ready and each message-svc has its part of the chats.
    ///
    /// # Errors
    /// If the program is missing, or one of them isn't ready in time.
    pub async fn start(shape: Shape) -> anyhow::Result<Self> {
        if let Some(store) = &shape.cassandra {
            store.migrate()?;
        }
        let mut mesh = Self::prepare(shape)?;
        for spec in mesh.specs() {
            mesh.spawn(spec)?;
        }
        mesh.wait_ready().await?;
        Ok(mesh)
    }

    /// Waits until all that were spawned are ready, and each message-svc has its part of the chats.
    ///
    /// # Errors
    /// If one of them isn't in time.
    pub async fn wait_ready(&mut self) -> anyhow::Result<()> {
        for process in self.processes.values_mut() {
            process.wait_ready().await?;
        }
        if self.shape.cassandra.is_some() && self.shape.message > 1 {
            self.until_shared(self.shape.message).await?;
        }
        Ok(())
    }

    /// A folder with certificates and secrets, and an address of its own, as every test has: nobody else's ports are in the
    /// way, and they are known before the processes are. Nothing runs yet.
    ///
    /// # Errors
    /// If the program is missing.
    pub fn prepare(shape: Shape) -> anyhow::Result<Self> {
        let own = tempfile::tempdir()?;
        // 127.0.0.1 is for those who take a free port there.
        let ip = Ipv4Addr::new(127, rand::random_range(1..=254), rand::random(), rand::random_range(1..=254));
        let mut mesh = Self::prepare_in(shape, own.path().to_owned(), ip)?;
        mesh._own = Some(own);
        Ok(mesh)
    }

    /// The same in a folder that stays, at an address that the caller has chosen.
    ///
    /// # Errors
    /// If the program is missing, or a mesh was prepared there before.
    pub fn prepare_in(shape: Shape, folder: PathBuf, ip: Ipv4Addr) -> anyhow::Result<Self> {
        let (secret, team_secret) = (random_secret(), random_secret());
        write_private(&folder.join("token.key"), &secret)?;
        write_private(&folder.join("team.key"), &team_secret)?;
        std::fs::create_dir(folder.join("logs"))?;
        let minter = Minter::with_secret(secret.as_bytes());
        let mesh = Self { processes: BTreeMap::new(), shape, ip, folder, _own: None, minter, team_secret };
        mesh.certs(&mesh.certs_folder(), &["edge", "message-svc", "fanout-svc", "presence-svc"])?;
        Ok(mesh)
    }

    /// Certificates of `roles` into `folder`: of the mesh's authority if it is [`Self::certs_folder`], of another one's if not.
    ///
    /// # Errors
    /// If they can't be made.
    pub fn certs(&self, folder: &Path, roles: &[&str]) -> anyhow::Result<()> {
        let mut command = command()?;
        command.args(["certs", "--host", &self.ip.to_string(), "--out"]).arg(folder);
        for role in roles {
            command.args(["--role", role]);
        }
        let output = command.output()?;
        ensure!(output.status.success(), "confab certs: {output:?}");
        Ok(())
    }

    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    #[must_use]
    pub fn certs_folder(&self) -> PathBuf {
        self.folder.join("certs")
    }

    /// How each process of the shape is started, in order.
    #[must_use]
    pub fn specs(&self) -> Vec<Spec> {
        let of = |role: &'static str| (0..self.count(role)).map(move |at| self.spec(role, at));
        ROLES.into_iter().flat_map(of).collect()
    }

    /// # Errors
    /// If the program is missing.
    pub fn spawn(&mut self, spec: Spec) -> anyhow::Result<()> {
        let process = Process::spawn(spec, &self.folder.join("logs"))?;
        self.processes.insert(process.name().to_owned(), process);
        Ok(())
    }

    /// # Panics
    /// If there is none of this name.
    pub fn process(&mut self, name: &str) -> &mut Process {
        self.processes.get_mut(name).unwrap_or_else(|| panic!("no process {name}"))
    }

    /// Where others call it, by gRPC.
    #[must_use]
    pub fn grpc(&self, role: &str, at: usize) -> SocketAddr {
        self.address(GRPC, role, at)
    }

    /// Where a proxy in front of it is, if it has one.
    #[must_use]
    pub fn proxied(&self, role: &str, at: usize) -> SocketAddr {
        self.address(PROXIES, role, at)
    }

    /// Where clients connect.
    #[must_use]
    pub fn edge(&self, at: usize) -> SocketAddr {
        self.address(CLIENTS, "edge", at)
    }

    /// # Errors
    /// If connecting fails.
    pub async fn connect(&self, edge: usize, user: u64) -> anyhow::Result<Client> {
        Client::connect(self.edge(edge), &self.token(user), Mode::Json).await
    }

    #[must_use]
    pub fn minter(&self) -> &Minter {
        &self.minter
    }

    #[must_use]
    pub fn token(&self, user: u64) -> String {
        self.minter.token(user, None)
    }

    #[must_use]
    pub fn device_token(&self, user: u64, device: &str) -> String {
        self.minter.token(user, Some(device))
    }

    /// The secret that service tokens are signed with.
    #[must_use]
    pub fn team_secret(&self) -> &str {
        &self.team_secret
    }

    /// An HTTP request as `user`.
    ///
    /// # Errors
    /// If the edge doesn't answer.
    pub async fn http(
        &self,
        edge: usize,
        user: u64,
        method: &str,
        path: &str,
        body: &Value,
    ) -> anyhow::Result<Response> {
        http::request(self.edge(edge), method, path, Some(&self.token(user)), Some(body)).await
    }

    /// A direct chat's id, made if there is none.
    ///
    /// # Errors
    /// If it can't be made.
    pub async fn direct(&self, edge: usize, user: u64, peer: u64) -> anyhow::Result<u64> {
        self.create(edge, user, &json!({"kind": "direct", "user_id": peer})).await
    }

    /// A group's id.
    ///
    /// # Errors
    /// If it can't be made.
    pub async fn group(&self, edge: usize, creator: u64, members: &[u64]) -> anyhow::Result<u64> {
        self.create(edge, creator, &json!({"kind": "group", "title": "a group", "members": members})).await
    }

    async fn create(&self, edge: usize, user: u64, body: &Value) -> anyhow::Result<u64> {
        http::create_chat(self.edge(edge), &self.token(user), body, &[200, 201]).await
    }

    fn count(&self, role: &str) -> usize {
        match role {
            "presence-svc" => self.shape.presence,
            "fanout-svc" => self.shape.fanout,
            "message-svc" => self.shape.message,
            _ => self.shape.edge,
        }
    }

    /// A port per role and instance; `base` tells what it is for.
    pub(crate) fn address(&self, base: u16, role: &str, at: usize) -> SocketAddr {
        let offset = u16::try_from(place(role, at)).unwrap_or(u16::MAX - base);
        SocketAddr::from((self.ip, base + offset))
    }

    /// How an instance is started, also one beyond the shape.
    #[must_use]
    pub fn spec(&self, role: &'static str, at: usize) -> Spec {
        let mut env: Vec<(String, String)> = self.shape.env.clone();
        env.extend(self.shape.cassandra.iter().flat_map(Store::settings));
        env.extend(self.shape.redis.iter().map(|url| ("CONFAB_REDIS__URL".to_owned(), url.clone())));
        let mut set = |key: &str, value: String| env.push((format!("CONFAB_{key}"), value));
        let ready = match role {
            "edge" => self.edge(at),
            _ => self.address(PROBES, role, at),
        };
        set("MESH__LISTEN", self.grpc(role, at).to_string());
        for (other, key) in
            [("message-svc", "MESSAGE_SVC"), ("fanout-svc", "FANOUT_SVC"), ("presence-svc", "PRESENCE_SVC")]
        {
            let all: Vec<String> = (0..self.count(other)).map(|at| self.grpc(other, at).to_string()).collect();
            set(&format!("MESH__DISCOVER__{key}"), format!("static:{}", all.join(",")));
        }
        let path = |name: &str| self.folder.join(name).display().to_string();
        if self.shape.tls {
            set("MESH__TLS__CERT", path(&format!("certs/{role}.crt")));
            set("MESH__TLS__KEY", path(&format!("certs/{role}.key")));
            set("MESH__TLS__CA", path("certs/ca.crt"));
            set("MESH__TOKEN_KEYS", path("team.key"));
        }
        match role {
            "edge" => {
                set("LISTEN", ready.to_string());
                set("TOKEN__SECRET_FILE", path("token.key"));
            }
            _ => set("MESH__HTTP", ready.to_string()),
        }
        set("DATA", path(&format!("{role}-{at}")));
        let args = ["serve", "--role", role].map(str::to_owned).to_vec();
        let group = self.shape.first_group.zip(u32::try_from(place(role, at)).ok()).map(|(first, place)| first + place);
        Spec { name: format!("{role}-{at}"), args, env, ready, group, program: None }
    }
}

/// Of all instances, which one it is.
fn place(role: &str, at: usize) -> usize {
    ROLES.iter().position(|name| *name == role).unwrap_or(0) * PLACES_PER_ROLE + at
}

/// 32 bytes, as hexadecimal digits.
fn random_secret() -> String {
    rand::random::<[u64; 4]>().iter().map(|part| format!("{part:016x}")).collect()
}

fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}
