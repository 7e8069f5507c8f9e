//! What becomes of sends and marks: acks, in seed mode in the place of the event, and refusals.

use confab_ids::{ChatId, Seq};
use confab_proto::message::v1::{Accepted, Refused, Reply, reply};

use super::{Now, Phase, Session};
use crate::core::tracks::Tracks;
use crate::frames::Code;
use crate::frames::event::EventFrame;
use crate::frames::server::ServerFrame;

/// A send or a mark that has no reply yet.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    pub(super) client_id: Option<String>,
    pub(super) reference: Option<String>,
    pub(super) trace: Option<String>,
    /// Seed mode, of a send: the event that the ack stands for.
    pub(super) message_id: Option<[u8; 16]>,
    /// Seed mode: accepted, and held until the event's place is reached.
    pub(super) accepted: Option<Box<Accepted>>,
}

impl Session {
    pub(super) fn reply(&mut self, now: Now, reply: Reply) {
        if let Some(reply::Outcome::Accepted(accepted)) = &reply.outcome
            && self.holds_back(now, reply.call, accepted)
        {
            return;
        }
        let waiting = self.answered(reply.call).or_else(|| self.refused_mark(reply.call));
        let is_new = matches!(&reply.outcome, Some(reply::Outcome::Accepted(accepted)) if !accepted.duplicate);
        if let Some(id) = waiting.as_ref().and_then(|waiting| waiting.message_id)
            && !is_new
        {
            // No event will come of it.
            self.own.retain(|own| *own != id);
        }
        match (reply.outcome, waiting) {
            (Some(reply::Outcome::Accepted(accepted)), Some(waiting)) => self.ack(&accepted, &waiting),
            (Some(reply::Outcome::Refused(refused)), waiting) => self.refused(&refused, waiting.as_ref()),
            _ => {}
        }
    }

    fn answered(&mut self, call: u64) -> Option<InFlight> {
        let at = self.in_flight.iter().position(|(waiting, _)| *waiting == call)?;
        let (_, waiting) = self.in_flight.remove(at);
        if self.in_flight.is_empty() {
            self.in_flight = Vec::new();
        }
        Some(waiting)
    }

    fn refused_mark(&mut self, call: u64) -> Option<InFlight> {
        let at = self.mark_references.iter().position(|(mark, _)| *mark == call)?;
        let (_, reference) = self.mark_references.remove(at)?;
        Some(InFlight { reference: Some(reference), ..InFlight::default() })
    }

    /// Seed mode: an ack stands for the event, so it waits until the event's place is reached.
    fn holds_back(&mut self, now: Now, call: u64, accepted: &Accepted) -> bool {
        let (chat, seq) = (ChatId(accepted.chat_id), Seq(accepted.seq));
        let own = |waiting: &InFlight| waiting.message_id.is_some_and(|id| id == accepted.message_id[..]);
        let Some(at) = self.in_flight.iter().position(|(of, waiting)| *of == call && own(waiting)) else {
            return false;
        };
        let to_come = match self.tracks.sent(chat) {
            Some(_) => self.tracks.expect(now.mono_ms, chat, seq),
            None => self.is_listing() || matches!(self.phase, Phase::Registering | Phase::Waiting),
        };
        if to_come {
            self.in_flight[at].1.accepted = Some(Box::new(accepted.clone()));
            if self.is_listing() && self.tracks.sent(chat).is_none() {
                self.note_seen(chat, seq);
            }
        }
        to_come
    }

    /// Seed mode: the ack of the connection's own event, where the event would come. Whether there is one to give.
    pub(super) fn ack_in_place(&mut self, event: &EventFrame) -> bool {
        let of = |waiting: &InFlight| waiting.message_id.is_some_and(|id| id == event.message_id());
        let Some(at) = self.in_flight.iter().position(|(_, waiting)| of(waiting)) else { return false };
        let (_, waiting) = self.in_flight.remove(at);
        self.ack(&event.accepted(), &waiting);
        true
    }

    /// Gives the acks that were held back for events which will not come (any more): another connection of the device has
    /// confirmed them, or no track is there to bring them.
    pub(super) fn release_acks(&mut self) {
        let passed = |tracks: &Tracks, accepted: &Accepted| {
            tracks.sent(ChatId(accepted.chat_id)).is_none_or(|sent| sent >= Seq(accepted.seq))
        };
        while let Some(at) = self
            .in_flight
            .iter()
            .position(|(_, waiting)| waiting.accepted.as_ref().is_some_and(|accepted| passed(&self.tracks, accepted)))
        {
            let (_, waiting) = self.in_flight.remove(at);
            self.own.retain(|own| waiting.message_id != Some(*own));
            if let Some(accepted) = &waiting.accepted {
                self.ack(accepted, &waiting);
            }
        }
    }

    fn ack(&mut self, accepted: &Accepted, waiting: &InFlight) {
        let (client_id, trace_id) = (waiting.client_id.as_deref(), waiting.trace.as_deref());
        self.say(&ServerFrame::ack(accepted, client_id, trace_id, waiting.reference.as_deref()));
    }

    fn refused(&mut self, refused: &Refused, waiting: Option<&InFlight>) {
        let code = Code::named(&refused.code);
        let field = (!refused.field.is_empty()).then_some(refused.field.as_str());
        let client_id = waiting.and_then(|waiting| waiting.client_id.as_deref());
        let reference = waiting.and_then(|waiting| waiting.reference.as_deref());
        let retry_after_ms = (refused.retry_after_ms > 0).then_some(refused.retry_after_ms);
        self.error(code, &refused.message, field, client_id, reference, retry_after_ms);
    }
}
