//! `confab chat`: a client in the terminal, over the same protocol as any other. `model` knows the conversation, `link` the connection,
//! `view` the person; here they meet.

mod editor;
mod frame;
mod line;
mod link;
mod mine;
mod model;
mod people;
mod plain;
mod screen;
mod server;
mod terminal;
mod view;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::bail;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::config::DEFAULT_DATA;
use crate::secret::Secret;
use crate::token;
use frame::ClientFrame;
use link::{Happened, Link, Refused, TOKEN_TTL};
use model::{Effect, Model, Settings};
use server::Server;
use view::{Input, View};

/// Messages on their way; beyond it, a pipe isn't read.
const WINDOW: usize = 32;
/// How often what was shown is confirmed, and what was refused is tried again.
const TICK: Duration = Duration::from_millis(100);
/// How long the acks of a pipe's last messages are waited for.
const LAST_ACKS: Duration = Duration::from_secs(10);

/// One name for every run of this client: a name per run would soon fill the user's 20.
const DEVICE: &str = "terminal";

pub(crate) struct Options {
    pub(crate) user: u64,
    pub(crate) chat: u64,
    pub(crate) url: String,
    pub(crate) secret: Secret,
    pub(crate) data: PathBuf,
}

pub(crate) async fn chat(options: Options) -> anyhow::Result<()> {
    let server = Server::parse(&options.url)?;
    let settings = Settings {
        me: options.user,
        chat: options.chat,
        zone: TimeZone::system(),
        run: uuid::Uuid::new_v4().to_string(),
        seen: view::is_person(),
    };
    let (secret, user) = (options.secret.clone(), options.user);
    // HS256 of a few bytes doesn't fail; if it did, the server would say 401.
    let mint = move || token::mint(&secret, user, Some(DEVICE), TOKEN_TTL, SystemTime::now()).unwrap_or_default();
    let mut link = Link::start(server, options.chat, Box::new(mint));
    // Before the terminal is taken over, so that a refusal is plain text.
    let first = link.happened.recv().await;
    if let Some(Happened::Refused(refused)) = first {
        bail!(refusal(&refused, &Model::new(settings), &options));
    }
    let mut conversation = Conversation {
        model: Model::new(settings),
        view: View::open()?,
        outgoing: VecDeque::new(),
        closing: None,
        left: false,
    };
    let ended = match first {
        Some(first) => conversation.run(&mut link, first, &options).await,
        None => Ok(()),
    };
    drop(conversation);
    link.leave().await;
    ended
}

struct Conversation {
    model: Model,
    view: View,
    /// Bounded by the window of a pipe, or by how fast a person writes; and a few answers.
    outgoing: VecDeque<ClientFrame>,
    /// The input has ended; until when acks are waited for.
    closing: Option<Instant>,
    left: bool,
}

impl Conversation {
    async fn run(&mut self, link: &mut Link, first: Happened, options: &Options) -> anyhow::Result<()> {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.happened(first, options)?;
        while !self.left {
            self.view.draw(&self.model.status())?;
            let reads = self.closing.is_none() && (self.view.is_person() || self.model.pending() < WINDOW);
            tokio::select! {
                happened = link.happened.recv() => match happened {
                    Some(happened) => self.happened(happened, options)?,
                    None => bail!("the connection has ended"),
                },
                permit = link.frames.reserve(), if !self.outgoing.is_empty() => {
                    if let (Ok(permit), Some(frame)) = (permit, self.outgoing.pop_front()) {
                        permit.send(frame);
                    }
                }
                input = self.view.input(), if reads => self.input(input?)?,
                _ = ticks.tick() => self.tick()?,
            }
        }
        Ok(())
    }

    fn happened(&mut self, happened: Happened, options: &Options) -> anyhow::Result<()> {
        let effects = match happened {
            Happened::Up(members) => self.model.connected(members),
            Happened::Frame(incoming) => self.model.frame(incoming, Timestamp::now()),
            Happened::Down { why, again_in } => {
                self.outgoing.clear();
                self.model.disconnected(&why, again_in)
            }
            Happened::Refused(refused) => bail!(refusal(&refused, &self.model, options)),
        };
        self.follow(effects)
    }

    fn input(&mut self, input: Input) -> anyhow::Result<()> {
        match input {
            Input::Line(line) => {
                let effects = self.model.line(&line, Timestamp::now());
                self.follow(effects)?;
            }
            Input::Redraw => {}
            Input::Leave => self.left = true,
            Input::End => self.closing = Some(Instant::now() + LAST_ACKS),
        }
        Ok(())
    }

    fn tick(&mut self) -> anyhow::Result<()> {
        let retries = self.model.retries(Timestamp::now());
        self.follow(retries)?;
        self.outgoing.extend(self.model.confirm());
        let Some(until) = self.closing else { return Ok(()) };
        let pending = self.model.pending();
        if pending == 0 && self.model.is_live() && self.outgoing.is_empty() {
            self.left = true;
        } else if Instant::now() >= until {
            match pending {
                0 => bail!("the chat did not open within {LAST_ACKS:?}"),
                pending => bail!(
                    "{pending} of the messages were not acked within {LAST_ACKS:?}: whether they will arrive is not known"
                ),
            }
        }
        Ok(())
    }

    fn follow(&mut self, effects: Vec<Effect>) -> anyhow::Result<()> {
        for effect in effects {
            match effect {
                Effect::Show(line) => self.view.show(line)?,
                Effect::Send(frame) => self.outgoing.push_back(frame),
                Effect::Quit => self.left = true,
                Effect::Fail(why) => bail!(why),
            }
        }
        Ok(())
    }
}

/// What went wrong, and what to do about it.
fn refusal(refused: &Refused, model: &Model, options: &Options) -> String {
    let Options { url, data, .. } = options;
    let (shown, serve) = match data.to_str() {
        Some(DEFAULT_DATA) => (DEFAULT_DATA.to_owned(), "confab serve".to_owned()),
        _ => (data.display().to_string(), format!("confab serve --data {}", data.display())),
    };
    match refused {
        Refused::Unreachable(why) => format!(
            "can't reach {url}: {why}.\n\
             Is the server running? Start it in another terminal: {serve}\n\
             If it listens elsewhere, say where: --url URL"
        ),
        Refused::Unauthorized => format!(
            "{url} does not accept a token made with the key in {shown}.\n\
             Say which data folder that server uses: --data DIR"
        ),
        Refused::Chat { code, message } => model.cannot_open(code, message),
        Refused::Closed { code, reason } => format!("the server has ended this session ({code} {reason})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(refused: &Refused, data: &str) -> String {
        let settings = Settings { me: 3, chat: 1, zone: TimeZone::UTC, run: "run".to_owned(), seen: false };
        let options = Options {
            user: 3,
            chat: 1,
            url: "http://127.0.0.1:8080".to_owned(),
            secret: Secret::of("0123456789abcdef"),
            data: data.into(),
        };
        refusal(refused, &Model::new(settings), &options)
    }

    #[test]
    fn a_server_that_is_not_there() {
        assert_eq!(
            words(&Refused::Unreachable("Connection refused (os error 111)".to_owned()), DEFAULT_DATA),
            "can't reach http://127.0.0.1:8080: Connection refused (os error 111).\n\
             Is the server running? Start it in another terminal: confab serve\n\
             If it listens elsewhere, say where: --url URL"
        );
    }

    #[test]
    fn another_servers_key() {
        assert_eq!(
            words(&Refused::Unauthorized, "/srv/confab"),
            "http://127.0.0.1:8080 does not accept a token made with the key in /srv/confab.\n\
             Say which data folder that server uses: --data DIR"
        );
    }
}
