//! A proxy in front of one endpoint, which can be slow: Toxiproxy.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use crate::foreign;
use crate::harness::http::{self, Response};
use crate::harness::wait_for;

/// How long it may take to start.
const START: Duration = Duration::from_secs(10);
/// The name of the one proxy, and of what makes it slow.
const NAME: &str = "endpoint";
const TOXIC: &str = "slow";

/// Dropping it ends it.
pub(super) struct Proxy {
    child: Child,
    admin: SocketAddr,
}

impl Proxy {
    /// What comes to `listen` goes to `upstream`; `admin` is where it is told what to do.
    ///
    /// # Errors
    /// If it can't be built or started.
    pub(super) async fn start(admin: SocketAddr, listen: SocketAddr, upstream: SocketAddr) -> anyhow::Result<Self> {
        let program = tokio::task::spawn_blocking(foreign::toxiproxy).await??;
        let mut command = Command::new(program);
        command.args(["-host", &admin.ip().to_string(), "-port", &admin.port().to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let proxy = Self { child: command.spawn().context("toxiproxy")?, admin };
        let is_up = || async { http::request(admin, "GET", "/version", None, None).await.ok().map(drop) };
        wait_for("toxiproxy", START, is_up).await?;
        let way =
            json!({"name": NAME, "listen": listen.to_string(), "upstream": upstream.to_string(), "enabled": true});
        proxy.ask("POST", "/proxies", Some(&way)).await?;
        Ok(proxy)
    }

    /// Each byte on its way to the endpoint takes this much longer.
    pub(super) async fn slow(&self, by: Duration) -> anyhow::Result<()> {
        let latency = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        let toxic = json!({
            "name": TOXIC, "type": "latency", "stream": "upstream", "attributes": {"latency": latency, "jitter": 0},
        });
        self.ask("POST", &format!("/proxies/{NAME}/toxics"), Some(&toxic)).await.map(drop)
    }

    pub(super) async fn heal(&self) -> anyhow::Result<()> {
        self.ask("DELETE", &format!("/proxies/{NAME}/toxics/{TOXIC}"), None).await.map(drop)
    }

    async fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<Response> {
        let answer = http::request(self.admin, method, path, None, body).await?;
        ensure!((200..300).contains(&answer.status), "toxiproxy: {path}: {} {}", answer.status, answer.text());
        Ok(answer)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}
