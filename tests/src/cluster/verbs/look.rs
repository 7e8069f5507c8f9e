//! `status`, and what `up` shows once all is up.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::{Signals, words};
use crate::cluster::sample::Sampler;
use crate::cluster::screen::{self, Canvas, say};
use crate::cluster::state::Place;
use crate::cluster::table;

/// Between two looks that are shown in place.
const REFRESH: Duration = Duration::from_secs(1);
/// Between two lines where there is no terminal.
const REFRESH_LINES: Duration = Duration::from_secs(5);
/// What a single look at CPU times looks back on.
const GLANCE: Duration = Duration::from_millis(500);

/// How a look at the cluster ended.
pub(super) enum Watched {
    /// Somebody has ended it.
    Gone,
    /// A signal has come.
    Left,
}

/// The table, once or in place until a signal comes.
///
/// # Errors
/// If there is no cluster, or, when asked once, not all of it is ready.
pub async fn status(place: &Place, live: bool) -> anyhow::Result<()> {
    if live {
        return watch(place, &mut Signals::listen()?, words::LOOKING).await.map(|_| ());
    }
    let state = place.load()?.context(words::NONE)?;
    let mut sampler = Sampler::new(place, &state).await?;
    sampler.look(&state).await;
    sleep(GLANCE).await;
    let rows = sampler.look(&state).await;
    for line in table::lines(&rows, usize::MAX, screen::has_colours()) {
        say(&line);
    }
    say(&format!("\n{}", table::summary(&rows, screen::has_colours())));
    ensure!(rows.iter().all(table::Row::is_ready), "not all of it is ready");
    Ok(())
}

/// The table, until a signal comes or the cluster is gone: in place on a terminal, else as lines of a log. `hint`: what a signal does.
///
/// # Errors
/// If there is no cluster.
pub(super) async fn watch(place: &Place, signals: &mut Signals, hint: &str) -> anyhow::Result<Watched> {
    let terminal = screen::is_terminal();
    let mut ticks = interval(if terminal { REFRESH } else { REFRESH_LINES });
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let state = place.load()?.context(words::NONE)?;
    let (mut sampler, mut canvas, mut first) = (Sampler::new(place, &state).await?, Canvas::default(), true);
    loop {
        tokio::select! {
            () = signals.next() => return Ok(Watched::Left),
            _ = ticks.tick() => {}
        }
        let Some(state) = place.load()? else { return Ok(Watched::Gone) };
        let rows = tokio::select! {
            () = signals.next() => return Ok(Watched::Left),
            rows = sampler.look(&state) => rows,
        };
        let summary = table::summary(&rows, screen::has_colours());
        if terminal {
            let (width, colours) = (screen::size().0, screen::has_colours());
            let foot = [String::new(), summary, words::cut(hint, width)];
            canvas.draw(&table::lines(&rows, width, colours), &foot);
        } else {
            if first {
                table::lines(&rows, usize::MAX, false).iter().for_each(|line| say(line));
            }
            say(&format!("{} {summary}", words::clock()));
        }
        first = false;
    }
}
