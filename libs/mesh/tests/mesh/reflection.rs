//! Reflection, as `grpcurl list` and `grpcurl describe` use it.

use confab_mesh::reflection::{SERVICES, reflection};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use crate::kit::{in_process, soon};

#[tokio::test(start_paused = true)]
async fn every_service_of_ours_is_listed_and_described() {
    let [(name, peer), _older] = reflection("test-svc", confab_proto::FILE_DESCRIPTOR_SET).expect("good descriptors");
    assert_eq!(name, SERVICES[0]);
    let mut client = ServerReflectionClient::new(in_process(peer));
    let mut ask = async |message_request| {
        let request = ServerReflectionRequest { host: String::new(), message_request: Some(message_request) };
        let stream = client.server_reflection_info(tokio_stream::once(request)).await;
        let answer = soon(stream.expect("an answer").into_inner().message()).await;
        answer.expect("open").expect("an answer").message_response.expect("one")
    };

    let MessageResponse::ListServicesResponse(list) = ask(MessageRequest::ListServices(String::new())).await else {
        panic!("no list");
    };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    let ours =
        ["confab.fanout.v1.FanoutService", "confab.message.v1.MessageService", "confab.presence.v1.PresenceService"];
    for name in ours.into_iter().chain(["grpc.health.v1.Health", SERVICES[0]]) {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
    for name in ours {
        let described = ask(MessageRequest::FileContainingSymbol(name.to_owned())).await;
        assert!(matches!(described, MessageResponse::FileDescriptorResponse(_)), "{name}: {described:?}");
    }
}

#[test]
fn what_are_no_descriptors_is_said() {
    let error = reflection("test-svc", b"nonsense").expect_err("no descriptors").to_string();
    assert!(error.contains("can't be reflected"), "{error}");
}
