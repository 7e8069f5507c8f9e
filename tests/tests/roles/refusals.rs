//! Who may call what, over real connections: each refusal is told nothing, and named in the log.

use std::net::SocketAddr;
use std::path::Path;

use confab_proto::fanout::v1::PublishRequest;
use confab_proto::fanout::v1::fanout_service_client::FanoutServiceClient;
use confab_proto::message::v1::message_service_client::MessageServiceClient;
use confab_proto::message::v1::{
    ChatKind, Content, CreateChatRequest, Event, GetChatRequest, ListMessagesRequest, Send, SendMessageRequest,
    SyncRequest, event,
};
use confab_tests::harness::token::{Minter, now};
use confab_tests::harness::{BOUND, Mesh, Shape, wait_for};
use prost::Message as _;
use serde_json::json;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status};

/// One of each but the edge: nobody chats here.
async fn mesh() -> Mesh {
    let mesh = Mesh::start(Shape { presence: 1, fanout: 1, edge: 0, ..Shape::default() }).await.unwrap();
    mesh.certs(&mesh.certs_folder(), &["service:billing"]).unwrap();
    mesh
}

/// A connection that trusts the mesh's authority, and shows the certificate `<folder>/<name>.crt`, if one is named.
async fn connect(
    mesh: &Mesh,
    address: SocketAddr,
    shows: Option<(&Path, &str)>,
) -> Result<Channel, tonic::transport::Error> {
    let read = |path: &Path| std::fs::read(path).unwrap();
    let ca = Certificate::from_pem(read(&mesh.certs_folder().join("ca.crt")));
    let mut tls = ClientTlsConfig::new().ca_certificate(ca);
    if let Some((folder, name)) = shows {
        let file = |kind: &str| read(&folder.join(format!("{name}.{kind}")));
        tls = tls.identity(Identity::from_pem(file("crt"), file("key")));
    }
    Endpoint::from_shared(format!("https://{address}")).unwrap().tls_config(tls).unwrap().connect().await
}

/// A request with a service token of these claims.
fn with_token<T>(message: T, secret: &str, exp: u64, sub: &str) -> Request<T> {
    let claims = json!({"sub": sub, "aud": "confab-internal", "exp": exp});
    let token = Minter::with_secret(secret.as_bytes()).sign(&claims);
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

fn get_chat() -> GetChatRequest {
    GetChatRequest { chat_id: 1, user_id: 1 }
}

fn told_nothing(status: &Status) -> Code {
    assert!(["who calls is not known", "not allowed"].contains(&status.message()), "{status:?}");
    assert!(status.details().is_empty(), "{status:?}");
    status.code()
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_refused_is_told_nothing_and_named_in_the_log() {
    let mut mesh = mesh().await;
    let messages = MessageServiceClient::new(connect(&mesh, mesh.grpc("message-svc", 0), None).await.unwrap());
    let (secret, soon) = (mesh.team_secret().to_owned(), now() + 600);
    type Case = (&'static str, Code, Box<dyn Fn() -> Request<GetChatRequest>>);
    let cases: [Case; 3] = [
        (
            "it shows neither a certificate nor a service token",
            Code::Unauthenticated,
            Box::new(|| Request::new(get_chat())),
        ),
        (
            "its token is not signed with a key of ours",
            Code::Unauthenticated,
            Box::new(move || with_token(get_chat(), "another secret of thirty-two bytes", soon, "billing")),
        ),
        (
            "its token has expired",
            Code::Unauthenticated,
            Box::new(move || with_token(get_chat(), &secret, now() - 120, "billing")),
        ),
    ];
    for (reason, code, request) in cases {
        // The log has one line a second of an address: it is asked until its line comes.
        wait_for(reason, BOUND, || {
            let (request, mut messages) = (request(), messages.clone());
            let log = mesh.process("message-svc-0").log();
            async move {
                assert_eq!(told_nothing(&messages.get_chat(request).await.unwrap_err()), code, "{reason}");
                log.contains(reason).then_some(())
            }
        })
        .await
        .unwrap();
    }

    let sync = SyncRequest { user_id: 1, device: "default".to_owned(), ..SyncRequest::default() };
    let refused = messages.clone().sync(with_token(sync, mesh.team_secret(), soon, "billing")).await.unwrap_err();
    assert_eq!(told_nothing(&refused), Code::PermissionDenied);
    let log = mesh.process("message-svc-0").log();
    let line = log.lines().find(|line| line.contains("the policy does not allow it")).unwrap();
    assert!(line.contains("service:billing") && line.contains("MessageService/Sync"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_the_wrong_role_is_not_allowed_and_a_stranger_s_does_not_get_in() {
    let mut mesh = mesh().await;
    let certs = mesh.certs_folder();
    let other = mesh.folder().join("other");
    mesh.certs(&other, &["edge"]).unwrap();
    let (messages, fanout) = (mesh.grpc("message-svc", 0), mesh.grpc("fanout-svc", 0));

    let presence = connect(&mesh, messages, Some((&certs, "presence-svc"))).await.unwrap();
    let refused = MessageServiceClient::new(presence).get_chat(get_chat()).await.unwrap_err();
    assert_eq!(told_nothing(&refused), Code::PermissionDenied);
    let team = connect(&mesh, fanout, Some((&certs, "service-billing"))).await.unwrap();
    let publish = futures_util::stream::empty::<PublishRequest>();
    let refused = FanoutServiceClient::new(team).publish(publish).await.unwrap_err();
    assert_eq!(told_nothing(&refused), Code::PermissionDenied);
    let log = mesh.process("fanout-svc-0").log();
    assert!(log.contains("service:billing/development"), "{log}");

    // In TLS 1.3 a client learns of it with its first read.
    let stranger = async {
        let channel = connect(&mesh, messages, Some((&other, "edge"))).await.map_err(|error| error.to_string())?;
        let answer = MessageServiceClient::new(channel).get_chat(get_chat()).await;
        answer.map_err(|status| format!("{:?}", status.code()))
    };
    let error = stranger.await.unwrap_err();
    assert!(!error.contains("Permission") && !error.contains("Unauthenticated"), "no answer, but {error}");
    let log = mesh.process("message-svc-0").log();
    assert!(log.contains("a peer's certificate is refused") && log.contains("edge/development"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_team_s_service_creates_a_chat_sends_and_reads_by_token_or_certificate() {
    let mesh = mesh().await;
    let certs = mesh.certs_folder();
    let address = mesh.grpc("message-svc", 0);
    let by_token = connect(&mesh, address, None).await.unwrap();
    let by_certificate = connect(&mesh, address, Some((&certs, "service-billing"))).await.unwrap();
    for (peer, channel, token) in [(2, by_token, true), (3, by_certificate, false)] {
        let mut messages = MessageServiceClient::new(channel);
        let create = CreateChatRequest {
            user_id: 1,
            kind: ChatKind::Direct.into(),
            peer,
            device: "billing".to_owned(),
            ..CreateChatRequest::default()
        };
        let chat = messages.create_chat(signed(&mesh, token, create)).await.unwrap().into_inner().chat.unwrap();
        let send = Send {
            chat_id: chat.chat_id,
            user_id: 1,
            device: "billing".to_owned(),
            message_id: uuid::Uuid::now_v7().as_bytes().to_vec().into(),
            content: Some(Content { text: "Your invoice".to_owned(), ..Content::default() }),
            ..Send::default()
        };
        let sent = signed(&mesh, token, SendMessageRequest { send: Some(send) });
        let accepted = messages.send_message(sent).await.unwrap().into_inner().accepted.unwrap();
        let list = ListMessagesRequest { chat_id: chat.chat_id, user_id: peer, ..ListMessagesRequest::default() };
        let events = messages.list_messages(signed(&mesh, token, list)).await.unwrap().into_inner().events;
        let last = Event::decode(events.last().unwrap().clone()).unwrap();
        assert_eq!(last.seq, accepted.seq);
        assert!(matches!(last.body, Some(event::Body::Content(content)) if content.text == "Your invoice"));
    }
}

fn signed<T>(mesh: &Mesh, by_token: bool, message: T) -> Request<T> {
    if by_token { with_token(message, mesh.team_secret(), now() + 600, "billing") } else { Request::new(message) }
}
