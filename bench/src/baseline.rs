//! What the same machine does without Confab, so that a figure means something on another machine.

pub mod append;
pub mod echo;
pub mod write_loop;

use tokio::net::{TcpListener, TcpSocket};

/// As many may wait to be accepted as at Confab's listener.
const BACKLOG: u32 = 4_096;

/// On a free loopback port.
fn listen() -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(([127, 0, 0, 1], 0).into())?;
    socket.listen(BACKLOG)
}
