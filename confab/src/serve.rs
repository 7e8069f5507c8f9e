//! `confab serve`: the folder, the listener, the services, and the end.

use std::io::IsTerminal as _;
use std::net::SocketAddr;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_rustls::TlsAcceptor;

use crate::banner::{self, Banner};
use crate::config::{Config, LogFormat};
use crate::data_folder::DataFolder;
use crate::{secret, services, tls};

pub(crate) fn run(cfg: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(cfg))
}

async fn serve(cfg: Config) -> anyhow::Result<()> {
    let log_format = match cfg.log.format {
        LogFormat::Auto => confab_telemetry::LogFormat::for_stderr(),
        LogFormat::Text => confab_telemetry::LogFormat::Text,
        LogFormat::Json => confab_telemetry::LogFormat::Json,
    };
    let _telemetry = confab_telemetry::init(confab_telemetry::Config {
        service: "confab".to_owned(),
        log_format,
        log_filter: cfg.log.filter.clone(),
        otlp_endpoint: cfg.otlp_endpoint.clone(),
    })?;
    let folder = DataFolder::open_or_create(&cfg.data)?;
    let _lock = folder.lock()?;
    let loaded = secret::load_or_create(&folder, cfg.token.secret_file.as_deref())?;
    if let Some(warning) = &loaded.warning {
        tracing::warn!("{warning}");
    }
    let tls = cfg.tls.as_ref().map(tls::server).transpose()?.map(TlsAcceptor::from);
    let listener = TcpListener::bind(cfg.listen)
        .await
        .with_context(|| format!("can't listen on {}: is another server there? (--listen ADDR)", cfg.listen))?;
    let address = listener.local_addr()?;
    let url = url(address, tls.is_some());
    let (drainer, drain) = confab_mesh::drain::channel();
    let services = services::start(&cfg, listener, tls, loaded.secret, drain).await?;
    tracing::info!(url = %url, data = %cfg.data.display(), "listening");
    show(&cfg, &url, address);
    stopping().await?;
    tracing::info!("stopping; once more stops at once");
    tokio::select! {
        () = services.stop(drainer, cfg.edge.drain) => {}
        second = stopping() => second?,
    }
    tracing::info!("stopped");
    Ok(())
}

fn url(address: SocketAddr, tls: bool) -> String {
    format!("{}://{address}", if tls { "https" } else { "http" })
}

fn show(cfg: &Config, url: &str, address: SocketAddr) {
    if !std::io::stdout().is_terminal() {
        return;
    }
    let argv0 = std::env::args().next();
    let program = banner::program(std::env::var_os("CARGO").is_some(), argv0.as_deref());
    let banner = Banner { program: &program, url, data: &cfg.data, page: address.ip().is_loopback() };
    println!("{}", banner.text());
}

/// Waits for SIGINT or SIGTERM.
async fn stopping() -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}
