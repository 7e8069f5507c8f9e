//! An issuer's keys, from a file or an address: read at the start, again after a while, and when a token names one that isn't known.
//! What can't be read leaves the keys as they were.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::header::{ACCEPT, HOST};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;

use super::keys::KeySet;

/// How often they are read again.
const FILE_EVERY: Duration = Duration::from_secs(10);
const URL_EVERY: Duration = Duration::from_secs(300);

/// Between two reads at least, whatever tokens name; and until the next try of one that failed.
const AGAIN: Duration = Duration::from_secs(10);

/// For one read of an address.
const TIME: Duration = Duration::from_secs(5);

const BYTES_MAX: usize = 256 * 1_024;

/// Whose tokens are good.
#[derive(Clone, Debug)]
pub struct JwksConfig {
    pub source: JwksSource,
    /// What a token's `iss` has to be.
    pub issuer: String,
    /// What has to be among a token's `aud`.
    pub audience: String,
}

/// Where a JSON Web Key Set is.
#[derive(Clone, Debug)]
pub enum JwksSource {
    File(PathBuf),
    /// With whom to trust, or in plain text, which is for loopback alone.
    Url(Uri, Option<Arc<rustls::ClientConfig>>),
}

/// Why there are no keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {why}")]
pub struct JwksError {
    /// The file or the address.
    pub place: String,
    pub why: String,
}

/// What was read last, and when it was tried.
#[derive(Clone)]
struct State {
    keys: Arc<KeySet>,
    tried: Instant,
    /// The last read has failed.
    failed: bool,
}

/// The keys, and the task that reads them: it ends with the last clone.
#[derive(Clone)]
pub(super) struct Jwks {
    state: watch::Receiver<State>,
    wanted: Arc<Notify>,
}

/// The read that comes next.
pub(super) struct Next {
    state: watch::Receiver<State>,
    tried: Instant,
}

impl Next {
    /// Waits for its end; `false`: none is to come, for the last one was just now.
    pub(super) async fn wait(mut self) -> bool {
        if self.tried.elapsed() < AGAIN {
            return false;
        }
        // A little longer than a read takes.
        matches!(timeout(TIME * 2, self.state.changed()).await, Ok(Ok(())))
    }
}

impl Jwks {
    pub(super) async fn start(cfg: JwksConfig) -> Result<Self, JwksError> {
        let loaded = load(&cfg).await;
        let failed = loaded.is_err();
        let keys = match (loaded, &cfg.source) {
            (Ok(keys), _) => keys,
            (Err(error), JwksSource::File(_)) => return Err(error),
            (Err(error), JwksSource::Url(..)) => {
                tracing::warn!(%error, "no keys to check tokens with yet");
                KeySet::default()
            }
        };
        let (changes, state) = watch::channel(State { keys: Arc::new(keys), tried: Instant::now(), failed });
        let wanted = Arc::new(Notify::new());
        tokio::spawn(keep(cfg, changes, wanted.clone()));
        Ok(Self { state, wanted })
    }

    pub(super) fn keys(&self) -> Arc<KeySet> {
        self.state.borrow().keys.clone()
    }

    pub(super) fn has_keys(&self) -> bool {
        !self.state.borrow().keys.is_empty()
    }

    /// A token names a key that isn't known.
    pub(super) fn wanted(&self) {
        self.wanted.notify_one();
    }

    pub(super) fn next(&self) -> Next {
        let mut state = self.state.clone();
        let tried = state.borrow_and_update().tried;
        Next { state, tried }
    }
}

async fn keep(cfg: JwksConfig, changes: watch::Sender<State>, wanted: Arc<Notify>) {
    let every = match cfg.source {
        JwksSource::File(_) => FILE_EVERY,
        JwksSource::Url(..) => URL_EVERY,
    };
    let mut is_wanted = false;
    loop {
        let (tried, failed) = {
            let state = changes.borrow();
            (state.tried, state.failed)
        };
        let due = tried + if failed || is_wanted { AGAIN } else { every };
        tokio::select! {
            () = sleep(due.saturating_duration_since(Instant::now())) => {}
            () = wanted.notified(), if !is_wanted => {
                // Now, or when it may be.
                is_wanted = true;
                continue;
            }
            () = changes.closed() => return,
        }
        is_wanted = false;
        let loaded = load(&cfg).await;
        let failed = loaded.is_err();
        if let Err(error) = &loaded {
            tracing::warn!(%error, "the keys to check tokens with could not be read: those of before stay");
        }
        changes.send_modify(|state| {
            if let Ok(keys) = loaded {
                state.keys = Arc::new(keys);
            }
            state.tried = Instant::now();
            state.failed = failed;
        });
    }
}

async fn load(cfg: &JwksConfig) -> Result<KeySet, JwksError> {
    let (place, read) = match &cfg.source {
        JwksSource::File(path) => {
            (path.display().to_string(), tokio::fs::read(path).await.map_err(|error| error.to_string()))
        }
        JwksSource::Url(url, tls) => {
            let fetched = timeout(TIME, fetch(url, tls.clone())).await;
            let fetched = fetched.unwrap_or_else(|_| Err(format!("no answer within {} s", TIME.as_secs()).into()));
            (url.to_string(), fetched.map_err(|error| error.to_string()))
        }
    };
    let too_long = |bytes: &Vec<u8>| bytes.len() > BYTES_MAX;
    let parsed = match read {
        Ok(bytes) if too_long(&bytes) => Err(format!("longer than {BYTES_MAX} bytes")),
        Ok(bytes) => KeySet::parse(&bytes, &cfg.issuer, &cfg.audience),
        Err(why) => Err(why),
    };
    parsed.map_err(|why| JwksError { place, why })
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// One GET; a redirect is no answer.
async fn fetch(url: &Uri, tls: Option<Arc<rustls::ClientConfig>>) -> Result<Vec<u8>, Failure> {
    let authority = url.authority().ok_or("no host")?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = authority.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
    let stream = TcpStream::connect((host.as_str(), port)).await?;
    let stream: Box<dyn Io> = match tls {
        None => Box::new(stream),
        Some(config) => Box::new(TlsConnector::from(config).connect(ServerName::try_from(host)?, stream).await?),
    };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path).header(HOST, authority.as_str()).header(ACCEPT, "application/json");
    let answer = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), BYTES_MAX).collect().await?.to_bytes();
    connection.abort();
    if status != StatusCode::OK {
        return Err(format!("it answers {status}").into());
    }
    Ok(body.to_vec())
}
