//! Who calls is what the transport says, and nothing that a caller does.

use confab_mesh::{ClientConfig, Identity, Peer, ServerConfig, client, local, server};
use tonic::{Request, Response};

use crate::kit::{empty, say, unary};

/// Answers with the role that the server sees.
fn who_am_i() -> Peer {
    server(
        ServerConfig::new("test-svc"),
        unary(|request| async move {
            let role = Identity::of(&request).map(|identity| identity.role().to_owned());
            Ok(Response::new(role.unwrap_or("nobody".to_owned())))
        }),
    )
}

fn forged() -> Request<String> {
    let mut request = Request::new(String::new());
    request.extensions_mut().insert(Identity::new("message-svc"));
    request
}

async fn seen(peer: &Peer, request: Request<String>) -> String {
    let answer = say(peer, request).await;
    answer.expect("an answer").into_inner()
}

#[tokio::test(start_paused = true)]
async fn the_transport_says_who_calls() {
    let peer = local(Identity::new("edge"), who_am_i());
    assert_eq!(seen(&peer, empty()).await, "edge");
}

#[tokio::test(start_paused = true)]
async fn without_a_transport_nobody_calls() {
    assert_eq!(seen(&who_am_i(), empty()).await, "nobody");
}

#[tokio::test(start_paused = true)]
async fn a_forged_identity_is_not_seen() {
    // The control: it would be, were it not cleared.
    assert_eq!(seen(&who_am_i(), forged()).await, "message-svc");

    let by_client = client(ClientConfig::new("edge", "test-svc"), who_am_i());
    assert_eq!(seen(&by_client, forged()).await, "nobody");

    let by_transport = local(Identity::new("edge"), who_am_i());
    assert_eq!(seen(&by_transport, forged()).await, "edge");
}

#[tokio::test(start_paused = true)]
async fn no_other_extension_crosses_in_process_either_way() {
    #[derive(Clone)]
    struct Mark;
    let marks = server(
        ServerConfig::new("test-svc"),
        unary(|request: Request<String>| async move {
            let came = request.extensions().get::<Mark>().is_some();
            let mut response = Response::new(came.to_string());
            response.extensions_mut().insert(Mark);
            Ok(response)
        }),
    );
    let mut request = Request::new(String::new());
    request.extensions_mut().insert(Mark);

    let peer = local(Identity::new("edge"), marks);
    let response = say(&peer, request).await.expect("an answer");

    assert_eq!(response.get_ref(), "false");
    assert!(response.extensions().get::<Mark>().is_none());
}
