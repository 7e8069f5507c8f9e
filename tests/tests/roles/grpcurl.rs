//! The examples of `docs/grpc.md`, run as they stand there, against processes of a mesh.

use std::path::Path;
use std::process::Command;

use confab_tests::foreign;
use confab_tests::harness::{Mesh, Shape};

/// Where the page's examples find message-svc.
const THERE: &str = "127.0.0.1:7401";

/// The page's blocks of shell, in order.
fn blocks() -> Vec<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("docs/grpc.md");
    let text = std::fs::read_to_string(page).unwrap();
    let blocks = text.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned());
    // What starts the processes is the harness's affair, as is the install.
    blocks.filter(|block| block.contains("grpcurl ") || block.contains("TOKEN=")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_s_examples_work() {
    let grpcurl = tokio::task::spawn_blocking(foreign::grpcurl).await.unwrap().unwrap();
    let mesh = Mesh::start(Shape { presence: 1, fanout: 1, edge: 0, ..Shape::default() }).await.unwrap();
    mesh.certs(&mesh.certs_folder(), &["service:billing"]).unwrap();
    let blocks = blocks();
    assert!(blocks.len() >= 5, "only {} blocks", blocks.len());
    let script = blocks.join("\n").replace(THERE, &mesh.grpc("message-svc", 0).to_string());
    let path = format!("{}:{}", grpcurl.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", &script])
        .current_dir(mesh.folder())
        .env("PATH", path)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    let mut rest = &*text;
    for expected in [
        "confab.message.v1.MessageService\n",
        "rpc SendMessage",
        "\"status\": \"SERVING\"",
        "\"chatId\": \"1\"",
        "\"accepted\"",
        "\"seq\": \"2\"",
        "\"events\"",
        "\"head\": \"2\"",
        "\"seq\": \"3\"",
        "\"events\"",
        "\"head\": \"3\"",
        "\"chatId\": \"1\"",
        "\"settings\"",
        "\"userIds\"",
    ] {
        let at = rest.find(expected).unwrap_or_else(|| panic!("{expected} is missing in: {text}"));
        rest = &rest[at + expected.len()..];
    }
}
