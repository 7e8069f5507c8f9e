//! Doing what was drawn.

use anyhow::Context as _;
use rand::Rng as _;
use rand::seq::IndexedRandom as _;
use serde_json::{Value, json};
use tokio::time::Duration;

use super::{Device, Outcome, Pending, TYPING};
use crate::draw::{Detail, Op};
use crate::finding::Kind;
use crate::log::{Asked, Made};
use crate::replica::Marks;

impl Device {
    pub(super) async fn act(&mut self, op: Op) -> anyhow::Result<()> {
        match op {
            Op::Send { chat, asked, detail } => self.send(chat, asked, &detail).await,
            Op::Again { with_another_body } => self.send_again(with_another_body).await,
            Op::Change { chat, asked } => self.change(chat, asked).await,
            Op::Mark { chat, marks, by_http } => self.mark(chat, marks, by_http).await,
            Op::MarkBeyond { chat, seq } => {
                let frame = json!({"type": "read", "chat_id": chat, "seq": seq});
                self.ask(chat, Asked::Mark(seq), None, frame).await
            }
            Op::Typing { chat } => self.say(vec![json!({"type": "typing", "chat_id": chat, "ref": TYPING})]).await,
            Op::History { chat, before, limit } => {
                let reference = format!("history of {chat}");
                let mut frame = json!({"type": "history", "chat_id": chat, "limit": limit, "ref": reference});
                before.into_iter().for_each(|before| frame["before"] = json!(before));
                self.say(vec![frame]).await
            }
            Op::MakeDirect { peer } => self.make(json!({"kind": "direct", "user_id": peer}), vec![peer]).await,
            Op::MakeGroup { members } => {
                let title = format!("group {}", self.rng.random_range(0..100));
                self.make(json!({"kind": "group", "title": title, "members": members}), members).await
            }
            Op::LoseAnswer => match &mut self.link {
                Some(link) => link.lose_an_answer().await,
                None => Ok(()),
            },
            Op::NextEdge => {
                // What it was not told yet of receipts is passed on as well as can be: it will ask.
                self.replica.stayed = false;
                let edge = self.field.edges.choose(&mut self.rng).copied().context("there is one")?;
                self.link.iter_mut().for_each(|link| link.edge = edge);
                Ok(())
            }
            Op::Reconnect { is_polite, away } => self.reconnect(is_polite, away).await,
        }
    }

    fn next_name(&mut self) -> String {
        self.made += 1;
        format!("{}-{}", self.id(), self.made)
    }

    async fn send(&mut self, chat: u64, asked: Asked, detail: &Detail) -> anyhow::Result<()> {
        let client_id = self.next_name();
        let text = matches!(asked, Asked::Message | Asked::Edit(_)).then(|| format!("{client_id} to {chat}"));
        let mut frame = match &asked {
            Asked::Edit(target) => json!({"type": "edit", "target": target}),
            Asked::Delete(target) => json!({"type": "delete", "target": target}),
            Asked::React(target) => {
                json!({"type": "react", "target": target, "emoji": detail.emoji, "remove": detail.removes})
            }
            _ => json!({"type": "message"}),
        };
        (frame["chat_id"], frame["client_id"]) = (json!(chat), json!(client_id));
        text.iter().for_each(|text| frame["content"] = json!(text));
        self.ask(chat, asked, text, frame).await
    }

    /// Says a frame that will be answered.
    async fn ask(&mut self, chat: u64, asked: Asked, text: Option<String>, mut frame: Value) -> anyhow::Result<()> {
        let reference = self.next_name();
        frame["ref"] = json!(reference);
        let known = self.replica.position(chat);
        self.pending.push(Pending { reference, chat, asked, text, known, frame: frame.clone() });
        self.say(vec![frame]).await
    }

    /// What was acked before: the same gets the same answer, something else under its key none.
    async fn send_again(&mut self, with_another_body: bool) -> anyhow::Result<()> {
        let acked = |answered: &&super::Answered| matches!(answered.outcome, Outcome::Acked { .. });
        let all: Vec<_> = self.answered.iter().rev().filter(acked).take(50).collect();
        let Some(before) = all.choose(&mut self.rng).copied() else { return Ok(()) };
        let (chat, mut asked, mut text) = (before.chat, before.asked.clone(), before.text.clone());
        let mut frame = before.frame.clone();
        if with_another_body {
            (asked, text) = (Asked::Conflict, None);
            frame["type"] = json!("message");
            frame["content"] = json!("something else");
        }
        self.ask(chat, asked, text, frame).await
    }

    async fn mark(&mut self, chat: u64, marks: Marks, by_http: bool) -> anyhow::Result<()> {
        if by_http {
            // As the device `http`: of the user's watermarks it is as good as any.
            let path = format!("/v1/chats/{chat}/read");
            let answer = self.http("POST", &path, Some(&json!({"seq": marks.read}))).await?;
            if answer.status != 204 {
                let found = format!("{} {}", answer.status, answer.text());
                self.replica.find(Kind::Answer, chat, format!("204 to read {}", marks.read), found);
            }
            self.said.note(chat, marks, true, "by HTTP");
            return Ok(());
        }
        let (kind, seq) = if marks.read > 0 { ("read", marks.read) } else { ("delivered", marks.delivered) };
        // By a poll it is done when that is answered; on a socket it is on its way.
        let is_poll = self.link.as_ref().is_some_and(crate::link::Link::is_poll);
        self.said.note(chat, marks, is_poll, "by poll");
        self.say(vec![json!({"type": kind, "chat_id": chat, "seq": seq, "ref": format!("{kind} {seq} of {chat}")})])
            .await
    }

    pub(super) async fn say_delivered(&mut self, chat: u64, seq: u64) -> anyhow::Result<()> {
        self.mark(chat, Marks { delivered: seq, read: 0 }, false).await
    }

    async fn change(&mut self, chat: u64, asked: Asked) -> anyhow::Result<()> {
        let path = format!("/v1/chats/{chat}");
        let (method, path, body) = match &asked {
            Asked::Add(users) => ("POST", format!("{path}/members"), Some(json!({"members": users}))),
            Asked::Remove(user) => ("DELETE", format!("{path}/members/{user}"), None),
            Asked::Role(user, role) => ("PATCH", format!("{path}/members/{user}"), Some(json!({"role": role.name()}))),
            Asked::Rename(title) => ("PATCH", path, Some(json!({"title": title}))),
            _ => ("DELETE", path, None),
        };
        let known = self.replica.position(chat);
        let answer = self.http(method, &path, body.as_ref()).await?;
        let outcome = match answer.status {
            200 | 204 => Outcome::Done,
            status => {
                let code = answer.json().unwrap_or_default()["code"].as_str().map(str::to_owned);
                Outcome::Refused(code.unwrap_or_else(|| format!("{status}")))
            }
        };
        self.note(chat, asked, None, known, json!({"http": format!("{method} {path}")}), outcome);
        Ok(())
    }

    async fn make(&mut self, mut body: Value, others: Vec<u64>) -> anyhow::Result<()> {
        let is_direct = body["kind"] == "direct";
        body["client_id"] = json!(self.next_name());
        let answer = self.http("POST", "/v1/chats", Some(&body)).await?;
        let shown = answer.json()?;
        match (answer.status, shown["chat_id"].as_u64()) {
            (200 | 201, Some(chat)) => {
                let by = self.replica.id.user;
                let members = others.into_iter().chain([by]).collect();
                self.field.note_made(chat, Made { by, members, is_direct });
            }
            _ => self.replica.find(Kind::Answer, 0, format!("a chat by {body}"), answer.text()),
        }
        Ok(())
    }

    /// Goes, stays away while the others do something, and comes back: it may be by another transport, and at another edge.
    async fn reconnect(&mut self, is_polite: bool, away: u64) -> anyhow::Result<()> {
        if is_polite {
            self.close_politely().await?;
        } else if let Some(link) = self.leave_link() {
            link.close(false).await?;
        }
        if away > 0 {
            self.field.until_others_have_done(away).await;
        }
        self.connect().await
    }

    async fn close_politely(&mut self) -> anyhow::Result<()> {
        // What was said before the goodbye is read before it.
        self.said.settle("before a goodbye");
        if let Some(link) = self.leave_link()
            && let Err(error) = link.close(true).await
        {
            self.replica.find(Kind::Connection, 0, "a goodbye that is answered", format!("{error:#}"));
        }
        Ok(())
    }

    /// Says `ping`; the pong will have this name.
    pub(super) async fn ping(&mut self) -> anyhow::Result<String> {
        let name = self.next_name();
        self.say(vec![json!({"type": "ping", "ref": name})]).await?;
        Ok(name)
    }

    /// Takes what comes within a second.
    pub(super) async fn wait_for_more(&mut self) -> anyhow::Result<usize> {
        self.hear(Duration::from_secs(1)).await
    }
}
