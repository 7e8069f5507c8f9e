//! `/livez` and `/readyz` in plain HTTP, for those who watch over processes and can't ask by gRPC.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use confab_mesh::health::Ready;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

/// Connections at once; a further one waits until another one ends.
const CONNECTIONS_MAX: usize = 64;
/// How long a connection may last: who asks again connects again.
const CONNECTION_TIME: Duration = Duration::from_secs(10);

/// Answers until it is dropped.
pub(crate) async fn serve(listener: TcpListener, ready: Ready) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        // The semaphore is never closed.
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        let ready = Arc::clone(&ready);
        tokio::spawn(async move {
            let service = service_fn(move |request| std::future::ready(answer(&request, &ready)));
            let connection =
                http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
            // Whether who asks stays for the answer is their own affair.
            let _ended = timeout(CONNECTION_TIME, connection).await;
            drop(permit);
        });
    }
}

fn answer(request: &Request<Incoming>, ready: &Ready) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, words) = match request.uri().path() {
        "/livez" => (StatusCode::OK, "ok\n"),
        "/readyz" if ready() => (StatusCode::OK, "ready\n"),
        "/readyz" => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
        _ => (StatusCode::NOT_FOUND, "there are /livez and /readyz\n"),
    };
    let mut response = Response::new(Full::from(words));
    *response.status_mut() = status;
    Ok(response)
}
