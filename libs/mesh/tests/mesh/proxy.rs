//! A proxy that breaks connections in two ways.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::AbortHandle,
};

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    swallows: Arc<AtomicBool>,
    links: Arc<Mutex<Vec<AbortHandle>>>,
}

impl Proxy {
    pub(crate) async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (swallows, links) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<AbortHandle>>>::default());
        let (swallowing, linked) = (Arc::clone(&swallows), Arc::clone(&links));
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(to).await.expect("it listens");
                let (near, far) = (near.into_split(), far.into_split());
                let there = pass(near.0, far.1, Arc::clone(&swallowing));
                let back = pass(far.0, near.1, Arc::clone(&swallowing));
                let link = tokio::spawn(async { tokio::join!(there, back) });
                linked.lock().expect("not poisoned").push(link.abort_handle());
            }
        });
        Self { address, swallows, links }
    }

    /// From now on nothing goes through, and nobody is told.
    pub(crate) fn swallow(&self) {
        self.swallows.store(true, Ordering::SeqCst);
    }

    /// Closes the newest connection.
    pub(crate) fn cut(&self) {
        let newest = self.links.lock().expect("not poisoned").pop();
        newest.expect("there is one").abort();
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, swallows: Arc<AtomicBool>) {
    let mut bytes = [0; 4_096];
    while let Ok(read @ 1..) = from.read(&mut bytes).await {
        if !swallows.load(Ordering::SeqCst) && to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}
