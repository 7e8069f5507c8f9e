use std::time::Duration;

use http_body_util::{BodyExt, StreamBody};
use tokio::time::timeout;

use super::{Arc, BalanceConfig, Balancer, Body, Mutex, Peer, Pool, Request, Response, State, Status, call};

fn balancer(peer: Peer) -> Arc<Balancer> {
    let pool = Pool::fixed([("host:1", peer)]);
    let state = Mutex::new(State::new(BalanceConfig::new("test-svc")));
    Arc::new(Balancer { pool, attempts: 3, streaming: &["Converse"], state })
}

fn in_flight(balancer: &Balancer) -> u32 {
    balancer.lock().core.in_flight()[0]
}

/// Whatever the request, this response.
fn answers(body: fn() -> Body) -> Arc<Balancer> {
    balancer(Peer::new(tower::service_fn(move |_| std::future::ready(Ok(Response::new(body()))))))
}

fn request(method: &str) -> Request<Body> {
    Request::post(format!("/confab.test.v1.Test/{method}")).body(Body::empty()).expect("valid")
}

fn ends() -> Body {
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", 0.into());
    Body::new(StreamBody::new(futures_util::stream::iter([Ok::<_, Status>(http_body::Frame::trailers(trailers))])))
}

fn lasts() -> Body {
    Body::new(StreamBody::new(futures_util::stream::pending::<Result<http_body::Frame<bytes::Bytes>, Status>>()))
}

#[tokio::test(start_paused = true)]
async fn a_call_is_in_flight_until_its_bodys_end_or_until_it_is_dropped() {
    for method in ["Say", "Converse"] {
        let ending = answers(ends);
        let response = call(Arc::clone(&ending), request(method)).await.expect("an answer");
        assert_eq!(in_flight(&ending), 1, "{method}");
        let whole = response.into_body().collect().await.expect("an end");
        assert_eq!(in_flight(&ending), 0, "{method}: {whole:?}");

        let lasting = answers(lasts);
        let response = call(Arc::clone(&lasting), request(method)).await.expect("an answer");
        assert_eq!(in_flight(&lasting), 1, "{method}");
        drop(response);
        assert_eq!(in_flight(&lasting), 0, "{method}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_without_an_answer_is_not_in_flight_once_it_failed_or_was_given_up() {
    let fails = balancer(Peer::new(tower::service_fn(|_| std::future::ready(Err(Status::unavailable("lost"))))));
    call(Arc::clone(&fails), request("Say")).await.expect_err("lost");
    assert_eq!(in_flight(&fails), 0);

    let refuses =
        balancer(Peer::new(tower::service_fn(|_| std::future::ready(Ok(Status::unavailable("full").into_http())))));
    call(Arc::clone(&refuses), request("Say")).await.expect("an answer");
    assert_eq!(in_flight(&refuses), 0);

    let hangs = balancer(Peer::new(tower::service_fn(|_| std::future::pending::<Result<_, Status>>())));
    let waiting = call(Arc::clone(&hangs), request("Say"));
    timeout(Duration::from_secs(1), waiting).await.expect_err("it hangs");
    assert_eq!(in_flight(&hangs), 0);
}
