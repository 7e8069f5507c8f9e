//! What this process logs.

use std::{
    io,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use tracing_subscriber::fmt::MakeWriter;

static LOG: OnceLock<Log> = OnceLock::new();

/// All lines so far, of all tests: they look for names of their own.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

/// Begins to listen.
pub(crate) fn listen() -> &'static Log {
    LOG.get_or_init(|| {
        let log = Log::default();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(log.clone()).finish();
        tracing::subscriber::set_global_default(subscriber).expect("the first");
        log
    })
}

impl Log {
    /// The lines that have all of `words`.
    pub(crate) fn lines(&self, words: &[&str]) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.0.lock().expect("not poisoned")).into_owned();
        let has = |line: &&str| words.iter().all(|word| line.contains(word));
        text.lines().filter(has).map(str::to_owned).collect()
    }

    /// Waits for such a line, some seconds at most; where time is paused it is not waited for.
    pub(crate) async fn soon(&self, words: &[&str]) -> String {
        for _ in 0..1_000 {
            if let Some(line) = self.lines(words).pop() {
                return line;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no line has {words:?}");
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("not poisoned").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}
