//! One turn of each kind: CPU nanoseconds per call or message, of the whole process.

use confab_mesh::Peer;
use http::uri::PathAndQuery;
use rustix::time::{ClockId, clock_gettime};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, client::Grpc};
use tonic_prost::ProstCodec;

use crate::echo::CONVERSE;

const TASKS: u64 = 64;
const CALLS_PER_TASK: u64 = 250;
const MESSAGES: u64 = 100_000;

fn text() -> String {
    "x".repeat(1_024)
}

fn codec() -> ProstCodec<String, String> {
    ProstCodec::default()
}

pub(crate) async fn unary(peer: &Peer, path: &'static str) -> u64 {
    let path = PathAndQuery::from_static(path);
    let started = cpu_nanos();
    let mut tasks = JoinSet::new();
    for _ in 0..TASKS {
        let (mut grpc, path) = (Grpc::new(peer.clone()), path.clone());
        tasks.spawn(async move {
            for _ in 0..CALLS_PER_TASK {
                grpc.ready().await.expect("ready");
                let answer = grpc.unary(Request::new(text()), path.clone(), codec()).await;
                assert_eq!(answer.expect("an answer").get_ref().len(), 1_024);
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.expect("no panic");
    }
    (cpu_nanos() - started) / (TASKS * CALLS_PER_TASK)
}

pub(crate) async fn streamed(peer: &Peer) -> u64 {
    let mut grpc = Grpc::new(peer.clone());
    grpc.ready().await.expect("ready");
    let (sender, receiver) = mpsc::channel(256);
    let request = Request::new(ReceiverStream::new(receiver));
    let stream = grpc.streaming(request, PathAndQuery::from_static(CONVERSE), codec()).await;
    let mut stream = stream.expect("a head").into_inner();
    let started = cpu_nanos();
    let sending = tokio::spawn(async move {
        for _ in 0..MESSAGES {
            sender.send(text()).await.expect("open");
        }
    });
    let mut received = 0;
    while let Some(message) = stream.message().await.expect("open") {
        assert_eq!(message.len(), 1_024);
        received += 1;
    }
    sending.await.expect("no panic");
    assert_eq!(received, MESSAGES);
    (cpu_nanos() - started) / MESSAGES
}

/// Of all threads, user and system.
fn cpu_nanos() -> u64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    u64::try_from(time.tv_sec).expect("after the start") * 1_000_000_000
        + u64::try_from(time.tv_nsec).expect("positive")
}
