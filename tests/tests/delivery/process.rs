//! The program: its token, its data folder, its end.

use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use confab_tests::harness::server::command;
use confab_tests::harness::{BOUND, Client, Incoming, Mode, Server, wait_for};

use super::DIRECT;

/// Runs the program with `args` to its end, within [`BOUND`].
async fn run(args: &[&str]) -> Output {
    let mut command = command().unwrap();
    command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let ended = wait_for("the program's end", BOUND, || std::future::ready(child.try_wait().unwrap())).await;
    if ended.is_err() {
        child.kill().unwrap();
    }
    ended.unwrap_or_else(|error| panic!("{args:?}: {error:#}"));
    child.wait_with_output().unwrap()
}

#[tokio::test]
async fn the_token_command_prints_a_token_alone() {
    let server = Server::start().await.unwrap();
    let data = server.data().to_str().unwrap();
    let output = run(&["token", "--user", "2", "--device", "cli", "--ttl", "5m", "--data", data]).await;
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let token = text.trim_end();
    assert!(!token.is_empty() && !token.contains(char::is_whitespace), "{text:?}");
    let client = Client::connect(server.addr(), token, Mode::Json).await.unwrap();
    assert_eq!((client.user, &client.hello["device"]), (2, &serde_json::json!("cli")));
    for bad in [&["token", "--user", "x", "--data", data][..], &["token", "--user", "-1", "--data", data], &["token"]] {
        let output = run(bad).await;
        assert!(
            !output.status.success() && output.stdout.is_empty() && !output.stderr.is_empty(),
            "{bad:?}: {output:?}"
        );
    }
}

#[tokio::test]
async fn a_data_folder_in_use_is_refused_in_clear_words() {
    let server = Server::start().await.unwrap();
    let data = server.data().to_str().unwrap();
    let output = run(&["serve", "--listen", "127.0.0.1:0", "--data", data]).await;
    assert!(!output.status.success());
    let words = String::from_utf8_lossy(&output.stderr).to_lowercase();
    assert!(words.contains("in use") && words.contains(&data.to_lowercase()), "{words}");
    let mut client = server.connect(1).await.unwrap();
    client.say(DIRECT, "the first one goes on").await.unwrap();
}

#[tokio::test]
async fn a_port_in_use_and_a_folder_that_is_a_file_are_refused() {
    let server = Server::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let listen = server.addr().to_string();
    let output = run(&["serve", "--listen", &listen, "--data", data.to_str().unwrap()]).await;
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains(&listen), "{output:?}");
    let file = folder.path().join("file");
    std::fs::write(&file, "not a folder").unwrap();
    let output = run(&["serve", "--listen", "127.0.0.1:0", "--data", file.to_str().unwrap()]).await;
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains(file.to_str().unwrap()), "{output:?}");
}

#[tokio::test]
async fn plaintext_beyond_loopback_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(&["serve", "--listen", "0.0.0.0:0", "--data", folder.path().to_str().unwrap()]).await;
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("--behind-proxy"), "it says what to do: {output:?}");
}

#[tokio::test]
async fn sigint_drains() {
    let mut server = Server::start().await.unwrap();
    let mut clients = Vec::new();
    for user in [1, 2] {
        clients.push(server.synced(user, &[(DIRECT, 0)]).await.unwrap());
    }
    let acked = clients[0].say(DIRECT, "just before").await.unwrap();
    let begun = Instant::now();
    server.interrupt().unwrap();
    for client in &mut clients {
        let reconnect = client.expect("reconnect").await.unwrap();
        assert!(reconnect["after_ms"].is_u64(), "{reconnect}");
        assert_eq!(client.expect_close().await.unwrap(), 1001);
    }
    let status = server.wait_exit(Duration::from_secs(30)).await.unwrap();
    println!("drained in {:.1?}", begun.elapsed());
    assert_eq!(status.code(), Some(0));
    server.restart().await.unwrap();
    let mut client = server.connect(2).await.unwrap();
    client.sync(&[(DIRECT, acked["seq"].as_u64().unwrap() - 1)]).await.unwrap();
    assert_eq!(client.expect_message(DIRECT).await.unwrap()["message_id"], acked["message_id"]);
}

#[tokio::test]
async fn clients_see_the_end_of_a_killed_server() {
    let mut server = Server::start().await.unwrap();
    let mut client = server.connect(1).await.unwrap();
    server.kill9().unwrap();
    assert!(matches!(client.next().await.unwrap(), Incoming::Lost(_)));
}
