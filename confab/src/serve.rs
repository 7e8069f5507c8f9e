//! `confab serve`: the folder, the listener, the services (which `services.rs` wires), and the end.

use std::io::{self, IsTerminal as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use anyhow::Context as _;
use tokio::net::{TcpListener, TcpSocket};
use tokio_rustls::TlsAcceptor;

use crate::banner::{self, Banner};
use crate::config::{Config, LogConfig, LogFormat, Role};
use crate::data_folder::DataFolder;
use crate::{roles, secret, services, tls};

pub(crate) async fn serve(cfg: Config) -> anyhow::Result<()> {
    let telemetry = confab_telemetry::init(confab_telemetry::Config {
        service: service_name(&cfg.roles),
        log_format: log_format(&cfg.log),
        log_filter: cfg.log.filter.clone(),
        otlp_endpoint: cfg.otlp_endpoint.clone(),
    })?;
    // A large future: on the heap, once.
    match cfg.roles.is_empty() {
        true => Box::pin(alone(&cfg)).await?,
        false => Box::pin(in_mesh(&cfg)).await?,
    }
    telemetry.shutdown();
    Ok(())
}

/// Every service, in this process.
async fn alone(cfg: &Config) -> anyhow::Result<()> {
    let folder = DataFolder::open_or_create(&cfg.data)?;
    let lock = folder.lock()?;
    let secret = secret::of_clients(&cfg.token, Some(&folder))?.map(warned);
    let tls = cfg.tls.as_ref().map(tls::server).transpose()?.map(TlsAcceptor::from);
    let listener = bind(cfg.listen)?;
    let addr = listener.local_addr()?;
    let (scheme, page) = (if tls.is_some() { "https" } else { "http" }, addr.ip().to_canonical().is_loopback());
    // Before anyone knows that the server is there: a signal must find its handler.
    let mut signals = Signals::listen()?;
    let (drainer, drain) = confab_mesh::drain::channel();
    let services = tokio::select! {
        started = services::start(cfg, listener, tls, secret, drain) => started?,
        // A large store takes its time to open; nothing is served yet.
        _ = signals.next() => return Ok(()),
    };
    tracing::info!(url = %format_args!("{scheme}://{addr}"), data = %folder.path().display(), "listening");
    greet(&format!("{scheme}://{}", reachable(addr)), folder.path(), page)?;

    until_stopped(signals, services.stop(drainer, cfg.edge.drain)).await;
    drop(lock);
    Ok(())
}

/// Some of the services, for others in the mesh.
async fn in_mesh(cfg: &Config) -> anyhow::Result<()> {
    let folder = if cfg.has_data() { Some(DataFolder::open_or_create(&cfg.data)?) } else { None };
    let lock = folder.as_ref().map(DataFolder::lock).transpose()?;
    let mut url = None;
    let front = if cfg.has_edge() {
        let secret = secret::of_clients(&cfg.token, folder.as_ref())?.map(warned);
        let verifier = secret::verifier(secret.as_ref(), &cfg.token).await?;
        let tls = cfg.tls.as_ref().map(tls::server).transpose()?.map(TlsAcceptor::from);
        let listener = bind(cfg.listen)?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        url = Some(format!("{scheme}://{}", listener.local_addr()?));
        Some(roles::Front { listener, tls, verifier })
    } else {
        None
    };
    let mut signals = Signals::listen()?;
    let process = tokio::select! {
        started = roles::start(cfg, front) => started?,
        _ = signals.next() => return Ok(()),
    };
    tracing::info!(url, roles = %service_name(&cfg.roles), "listening");
    until_stopped(signals, process.stop(cfg.edge.drain)).await;
    drop(lock);
    Ok(())
}

/// By which traces and metrics name this process.
fn service_name(roles: &[Role]) -> String {
    let names: Vec<&str> = roles.iter().map(|role| role.name()).collect();
    if names.is_empty() { "confab".to_owned() } else { names.join("+") }
}

fn warned(loaded: secret::Loaded) -> secret::Secret {
    if let Some(warning) = &loaded.warning {
        tracing::warn!("{warning}");
    }
    loaded.secret
}

/// Waits for a signal, then for `stop` or another signal.
async fn until_stopped(mut signals: Signals, stop: impl Future<Output = ()>) {
    let signal = signals.next().await;
    tracing::info!(signal, "stopping: connections are let go; another signal stops at once");
    tokio::select! {
        () = stop => tracing::info!("stopped"),
        signal = signals.next() => {
            tracing::warn!(signal, "stopped at once");
            // Nobody waits for tasks that hang: what is acked is on disk.
            #[expect(clippy::disallowed_methods, reason = "at once, whatever is open: asked for by the second signal")]
            std::process::exit(130);
        }
    }
}

fn log_format(log: &LogConfig) -> confab_telemetry::LogFormat {
    match log.format {
        LogFormat::Auto => confab_telemetry::LogFormat::for_stderr(),
        LogFormat::Text => confab_telemetry::LogFormat::Text,
        LogFormat::Json => confab_telemetry::LogFormat::Json,
    }
}

/// Clients who may wait to be accepted, if the kernel allows as many (`net.core.somaxconn`). The usual 128 would be too few when
/// thousands come back at once: whose first packet is dropped tries again after 1, 3 and 7 s.
const BACKLOG: u32 = 4_096;

fn bind(addr: SocketAddr) -> anyhow::Result<TcpListener> {
    listen(addr).with_context(|| {
        format!(
            "can't listen on {addr}: is another server running there?\n\
             Stop it, or give another address; port 0 takes a free port: --listen {}",
            SocketAddr::new(addr.ip(), 0)
        )
    })
}

fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // As a listener has it by default: a restart need not wait for the connections of the process before.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

/// Where a client on this machine finds it: 0.0.0.0 is no place to go to.
fn reachable(mut addr: SocketAddr) -> SocketAddr {
    if addr.ip().is_unspecified() {
        addr.set_ip(if addr.is_ipv4() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { IpAddr::V6(Ipv6Addr::LOCALHOST) });
    }
    addr
}

fn greet(url: &str, data: &Path, page: bool) -> io::Result<()> {
    let mut stdout = io::stdout();
    if !stdout.is_terminal() {
        return Ok(());
    }
    let program = banner::program(std::env::var_os("CARGO").is_some(), std::env::args().next().as_deref());
    stdout.write_all(Banner { program: &program, url, data, page }.text().as_bytes())?;
    stdout.flush()
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn listen() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) -> &'static str {
        // It fails only where there is no console, and so no Ctrl-C.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        "Ctrl-C"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_gets_a_url_that_can_be_opened() {
        let reach = |addr: &str| reachable(addr.parse().expect("an address")).to_string();
        assert_eq!(reach("0.0.0.0:80"), "127.0.0.1:80");
        assert_eq!(reach("[::]:80"), "[::1]:80");
        assert_eq!(reach("192.168.1.2:80"), "192.168.1.2:80");
    }

    #[tokio::test]
    async fn a_port_in_use_is_named() {
        let taken = bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
        let addr = taken.local_addr().expect("bound");
        let words = format!("{:#}", bind(addr).expect_err("taken"));
        assert!(words.starts_with(&format!("can't listen on {addr}: is another server running there?")), "{words}");
        assert!(words.contains("--listen 127.0.0.1:0"), "{words}");
    }
}
