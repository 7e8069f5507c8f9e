//! "Foreign clients": Python's `websockets`, Node's `ws`, and the page in Chromium.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking, and prints its figures")]

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use confab_tests::foreign::{Foreign, install};
use confab_tests::harness::{Server, seed};
use serde_json::{Value, json};

const DIRECT: u64 = 1;
/// The scripts give up by themselves after 30 s; Chromium's start may take its time on busy cores.
const SCRIPT_BOUND: Duration = Duration::from_secs(90);

async fn installed() -> Foreign {
    tokio::task::spawn_blocking(install).await.unwrap().unwrap()
}

async fn run(mut command: Command) -> Output {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let words = format!("{command:?}");
    let running = tokio::process::Command::from(command).kill_on_drop(true).output();
    let output =
        tokio::time::timeout(SCRIPT_BOUND, running).await.unwrap_or_else(|_| panic!("too slow: {words}")).unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{words}: {}\n{out}\n{err}", output.status);
    output
}

fn frames(output: &Output) -> Vec<Value> {
    String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn ws_url(server: &Server, user: u64) -> String {
    format!("ws://{}/ws?token={}", server.addr(), server.token(user))
}

#[tokio::test]
async fn a_seed_client_on_pythons_websockets_talks() {
    let foreign = installed().await;
    let server = Server::start().await.unwrap();
    let mut one = server.synced(1, &[(DIRECT, 0)]).await.unwrap();
    let mut python = foreign.python("client.py");
    python.args([&ws_url(&server, 2), "1", "from Python", "to Python"]);
    let (output, ()) = tokio::join!(run(python), async {
        let got = one.expect_message(DIRECT).await.unwrap();
        assert_eq!((&got["content"], &got["sender_id"]), (&json!("from Python"), &json!(2)));
        one.say(DIRECT, "to Python").await.unwrap();
    });
    let frames = frames(&output);
    assert_eq!(frames[0]["type"], "hello");
    assert!(
        frames.iter().any(|frame| frame["type"] == "presence" && frame["user_id"] == 1 && frame["status"] == "online"),
        "{frames:?}"
    );
    let last = frames.last().unwrap();
    assert_eq!((&last["content"], &last["sender_id"]), (&json!("to Python"), &json!(1)));
}

#[tokio::test]
async fn a_full_client_on_nodes_ws_talks() {
    let foreign = installed().await;
    let server = Server::start().await.unwrap();
    let mut one = server.synced(1, &[(DIRECT, 0)]).await.unwrap();
    let mut node = foreign.node("client.mjs");
    node.args([&ws_url(&server, 2), "1", "from Node", "to Node"]);
    let (output, ()) = tokio::join!(run(node), async {
        let got = one.expect_message(DIRECT).await.unwrap();
        assert_eq!((&got["content"], &got["sender_id"]), (&json!("from Node"), &json!(2)));
        one.say(DIRECT, "to Node").await.unwrap();
    });
    let contents: Vec<Value> = frames(&output)
        .into_iter()
        .filter(|frame| frame["type"] == "message")
        .map(|frame| frame["content"].clone())
        .collect();
    assert_eq!(contents, ["from Node", "to Node"]);
}

#[tokio::test]
async fn the_page_talks_in_chromium() {
    let foreign = installed().await;
    let server = Server::start().await.unwrap();
    let mut page = foreign.node("page.mjs");
    page.arg(format!("http://{}/", server.addr()));
    if let Some(screenshot) = std::env::var_os("CONFAB_SCREENSHOT") {
        page.arg(screenshot);
    }
    run(page).await;
    let mut one = server.connect(1).await.unwrap();
    let synced = one.sync(&[(DIRECT, 0)]).await.unwrap();
    assert!(synced["chats"][DIRECT.to_string()].as_u64() >= Some(4), "what the page said is in the log: {synced}");
}

/// What the API's description says, and much that it doesn't: nothing is answered by 5xx, or otherwise than described.
#[tokio::test]
async fn schemathesis_finds_no_5xx_and_nothing_undocumented() {
    let foreign = installed().await;
    let server = Server::start().await.unwrap();
    server.create_group(1, &[2, 3]).await.unwrap();
    let mut schemathesis = foreign.schemathesis();
    // It leaves its notes where it is.
    let folder = tempfile::tempdir().unwrap();
    schemathesis.current_dir(folder.path());
    schemathesis.args(["run", &format!("http://{}/v1/openapi.json", server.addr())]);
    schemathesis.args(["--header", &format!("Authorization: Bearer {}", server.token(1))]);
    let checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance";
    schemathesis.args([
        "--checks",
        checks,
        "--max-examples",
        "40",
        "--phases",
        "examples,coverage,fuzzing",
        "--seed",
        &seed().to_string(),
    ]);
    // A poll waits for up to 55 s. One worker: Python 3.11's parser fails on several threads (its issue 106905).
    schemathesis.args(["--request-timeout", "60", "--workers", "1", "--no-color"]);
    let output = run(schemathesis).await;
    let told = String::from_utf8_lossy(&output.stdout);
    println!("{told}");
    assert!(told.contains("generated"), "nothing was asked");
}
