//! What a person is told.

use std::time::{SystemTime, UNIX_EPOCH};

use super::shown;
use crate::cluster::state::{Place, State};

pub(super) const NONE: &str = "No cluster is up here: cargo xtask cluster up";
pub(super) const ATTACHED: &str =
    "Ctrl-C ends the cluster. In another terminal: kill -9 PID, cargo xtask cluster restart NAME";
pub(super) const LOOKING: &str = "Ctrl-C leaves this table; the cluster goes on. It ends by: cargo xtask cluster down";
pub(super) const DETACHED: &str = "It goes on until: cargo xtask cluster down";

/// How to use a cluster that is up.
pub(super) fn greeting(place: &Place, state: &State) -> String {
    let addr = state.front().map(|front| front.addr.to_string()).unwrap_or_default();
    let program = state.members.first().map(|member| shown(&member.launch.program)).unwrap_or_default();
    let messages = state.members.iter().find(|member| member.launch.name == "message-svc-0");
    let messages = messages.map(|member| member.launch.addr.to_string()).unwrap_or_default();
    let (folder, logs, data) = (shown(&place.folder()), shown(&place.logs()), shown(&place.clients()));
    let chat = state.chat;
    format!(
        r#"
  Clients connect to  http://{addr}  (nginx; any request, any edge)

  Two terminals that talk, over different edges:
    {program} chat --user 1 --chat {chat} --url http://{addr} --data {data}
    {program} chat --user 2 --chat {chat} --url http://{addr} --data {data}

  Any other WebSocket client, as user 1:
    npx wscat -c "ws://{addr}/ws?token=$({program} token --user 1 --data {data})"
    > {{"type":"message","chat_id":{chat},"content":"Hello!"}}

  The gRPC APIs, as an internal team (docs/grpc.md has more, with message-svc at {messages}):
    (cd {folder} && grpcurl -cacert certs/ca.crt -cert certs/service-billing.crt -key certs/service-billing.key {messages} list)

  Logs         {logs}/, {folder}/cassandra/node*/log/, {folder}/redis/cluster/*.log
  The table    cargo xtask cluster status --watch
  Break it     kill -9 PID of the table; cargo xtask cluster restart NAME starts it again
  End it       cargo xtask cluster down
"#
    )
}

/// The time of day, UTC, for lines of a log.
pub(super) fn clock() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()) % 86_400;
    format!("{:02}:{:02}:{:02}Z", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}

/// At most `width` columns of it.
pub(super) fn cut(line: &str, width: usize) -> String {
    line.chars().take(width).collect()
}
