//! A bare tokio-tungstenite echo server: what WebSocket alone costs per message.

use anyhow::Result;
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_tungstenite::accept_async_with_config;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use crate::server::announce;

/// The buffers that a server with many connections would choose.
pub(super) fn config() -> WebSocketConfig {
    WebSocketConfig::default().read_buffer_size(1024).write_buffer_size(0)
}

/// Serves on a free loopback port until `end` completes.
pub async fn serve(end: impl Future<Output = ()>) -> Result<()> {
    let listener = super::listen()?;
    announce(listener.local_addr()?)?;
    let mut connections = JoinSet::new();
    let mut end = std::pin::pin!(end);
    loop {
        tokio::select! {
            () = &mut end => return Ok(()),
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                // A connection that breaks is the other side's to report.
                connections.spawn(async move { drop(echo(stream).await) });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn echo(stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut socket = accept_async_with_config(stream, Some(config())).await?;
    while let Some(message) = socket.next().await {
        let message = message?;
        if message.is_text() {
            socket.send(message).await?;
        }
    }
    Ok(())
}
