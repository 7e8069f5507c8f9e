//! Full mode: acks, idempotency, catching up, edits and deletions, receipts, presence, groups and
//! their members, long polls, connections, and the program's own ends.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking, and prints its figures")]

mod catching_up;
mod changing;
mod groups;
mod membership;
mod polling;
mod presence;
mod process;
mod retention;
mod sending;
mod sessions;

use confab_tests::harness::client::message;
use confab_tests::harness::{Client, Server};

/// The direct chat that a fresh folder has, between users 1 and 2.
const DIRECT: u64 = 1;

/// Its head in a fresh folder: what a client that asks for everything is synced to.
async fn head(server: &Server, chat: u64, member: u64) -> u64 {
    let mut client = server.connect(member).await.unwrap();
    let synced = client.sync(&[(chat, 0)]).await.unwrap();
    let head = synced["chats"][chat.to_string()].as_u64().unwrap();
    client.close().await.unwrap();
    head
}

/// Sends `count` messages with many in flight, and waits for all acks. Contents are `PREFIX NUMBER`.
async fn say_many(client: &mut Client, chat: u64, prefix: &str, count: usize) {
    const WINDOW: usize = 100;
    for number in 0..count + WINDOW {
        if number < count {
            let content = format!("{prefix} {number}");
            client.send(&message(chat, &content, &content)).await.unwrap();
        }
        if number >= WINDOW {
            client.answer_to(&format!("{prefix} {}", number - WINDOW)).await.unwrap();
        }
    }
}
