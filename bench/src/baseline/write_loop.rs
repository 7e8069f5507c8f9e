//! A bare write loop: one task that writes the same frame to each of its connections, the least that a delivery costs.
//!
//! Orders come as lines: first the frame (a delivery as Confab sent it), then `write RATE SECONDS` any number of times.

use anyhow::{Context, Result};
use futures_util::SinkExt;
use tokio::io::{AsyncBufRead, AsyncBufReadExt};
use tokio::net::TcpStream;
use tokio::time::sleep_until;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use tokio_tungstenite::{WebSocketStream, accept_async_with_config};

use super::echo::config;
use crate::clock::{instant_at, now_ns};
use crate::frame::Stamp;
use crate::scan::scan;
use crate::schedule::Schedule;
use crate::server::announce;

/// From the order to the first frame.
const LEAD_NS: u64 = 50_000_000;

/// Accepts `connections` clients on a free loopback port, then follows `orders` to their end.
pub async fn serve(connections: u32, orders: impl AsyncBufRead + Unpin) -> Result<()> {
    let listener = super::listen()?;
    announce(listener.local_addr()?)?;
    let mut sockets = Vec::new();
    for _ in 0..connections {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        sockets.push(accept_async_with_config(stream, Some(config())).await?);
    }
    let mut orders = orders.lines();
    let Some(frame) = orders.next_line().await? else { return Ok(()) };
    let template = Template::new(&frame)?;
    while let Some(order) = orders.next_line().await? {
        let (rate, seconds) = parse(&order).with_context(|| format!("no such order: {order}"))?;
        let schedule = Schedule::lasting(now_ns() + LEAD_NS, rate, 1, seconds);
        write(&mut sockets, &template, schedule).await?;
    }
    Ok(())
}

async fn write(sockets: &mut [WebSocketStream<TcpStream>], template: &Template, schedule: Schedule) -> Result<()> {
    let mut lane = schedule.lane(0);
    while let Some(due) = lane.peek() {
        sleep_until(instant_at(due.at_ns)).await;
        if lane.take(now_ns()).is_none() {
            continue;
        }
        let frame = Utf8Bytes::from(template.fill(Stamp { at_ns: due.at_ns, index: due.index }));
        for socket in &mut *sockets {
            socket.send(Message::Text(frame.clone())).await?;
        }
    }
    Ok(())
}

fn parse(order: &str) -> Option<(u32, u32)> {
    let (rate, seconds) = order.strip_prefix("write ")?.split_once(' ')?;
    Some((rate.parse().ok()?, seconds.parse().ok()?))
}

/// A delivery frame whose content's stamp is replaced.
struct Template {
    head: String,
    tail: String,
}

impl Template {
    fn new(frame: &str) -> Result<Self> {
        let content = scan(frame).context("the template is no frame")?.content;
        Stamp::read(content).context("the frame's content has no stamp")?;
        let at = frame.find(content).context("the frame has no content")?;
        let tail = &frame[at + Stamp::LEN..];
        Ok(Self { head: frame[..at].to_owned(), tail: tail.to_owned() })
    }

    fn fill(&self, stamp: Stamp) -> String {
        let mut text = String::with_capacity(self.head.len() + Stamp::LEN + self.tail.len());
        text.push_str(&self.head);
        stamp.write(&mut text);
        text.push_str(&self.tail);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::MessageMaker;

    #[test]
    fn a_filled_template_has_the_same_length_and_the_new_stamp() {
        let old = MessageMaker::new(1, 128).make(Stamp { at_ns: 1, index: 2 });
        let new = Stamp { at_ns: 77, index: 5 };
        let filled = Template::new(&old).expect("a template").fill(new);
        assert_eq!(filled.len(), old.len());
        assert_eq!(Stamp::read(scan(&filled).expect("a frame").content), Some(new));
        assert!(Template::new("{}").is_err());
    }

    #[test]
    fn orders() {
        assert_eq!(parse("write 50 10"), Some((50, 10)));
        assert_eq!(parse("write 50"), None);
        assert_eq!(parse("stop"), None);
    }
}
