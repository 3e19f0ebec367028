//! The three HTTP protocols: a request as the bytes of a body, and a server's events as a reply.
//!
//! Opens no connection (`http` does). Prompt texts are serialized in place, without a copy in between. What the protocols share is
//! in `protocol`, `fields`, `partial_reply` and `error`; `chat`, `messages` and `responses` hold what differs. `rejection` finds the
//! field that a server does not accept.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::Request;
use super::models::ModelSettings;

mod chat;
mod count;
mod error;
mod field_changes;
mod fields;
mod joined_parts;
mod messages;
mod partial_reply;
mod protocol;
mod rejection;
mod responses;

pub(super) use error::WireError;
pub(super) use field_changes::FieldChanges;
pub(super) use fields::{check_model, setting_named_in};
pub(super) use partial_reply::{EventEffect, FinishReason, PartialReply};
pub(super) use protocol::Protocol;
pub(super) use rejection::change_after_error;

impl Protocol {
    /// The whole body of a request.
    pub(super) fn body(
        self,
        model: &ModelSettings,
        request: &Request,
        changes: &FieldChanges,
    ) -> serde_json::Result<Vec<u8>> {
        let fields = fields::fields_without_text(self, model, request.max_output, changes);
        let body = RequestBody {
            protocol: self,
            fields: &fields,
            caches: model.cache.unwrap_or(true),
            request,
        };
        // JSON escapes about one character in ten of source code.
        let mut bytes = Vec::with_capacity(request.bytes() + request.bytes() / 8 + 2048);
        serde_json::to_writer(&mut bytes, &body)?;
        Ok(bytes)
    }

    /// Applies one event of a stream to the reply.
    pub(super) fn apply_event(
        self,
        data: &str,
        reply: &mut PartialReply,
    ) -> Result<EventEffect, String> {
        match data.trim() {
            // A sign of life.
            "" => return Ok(EventEffect::Continue),
            "[DONE]" | "\"[DONE]\"" => return Ok(EventEffect::Finished),
            _ => {}
        }
        let apply = match self {
            Protocol::Messages => messages::apply_event,
            Protocol::Chat => chat::apply_event,
            Protocol::Responses => responses::apply_event,
        };
        let invalid = |error| format!("invalid event in the stream: {error}");
        match apply(data, reply) {
            Ok(effect) => Ok(effect),
            // A server that ends events with one line end instead of two.
            Err(_) if data.contains('\n') => {
                for line in data.lines() {
                    match self.apply_event(line, reply)? {
                        EventEffect::Continue => {}
                        effect => return Ok(effect),
                    }
                }
                Ok(EventEffect::Continue)
            }
            Err(error) => Err(invalid(error)),
        }
    }

    /// Applies a reply that was not streamed.
    pub(super) fn apply_whole(
        self,
        data: &[u8],
        reply: &mut PartialReply,
    ) -> Result<EventEffect, String> {
        match self {
            Protocol::Messages => messages::apply_whole(data, reply),
            Protocol::Chat => chat::apply_whole(data, reply),
            Protocol::Responses => responses::apply_whole(data, reply),
        }
        .map_err(|error| format!("invalid reply: {error}"))
    }
}

/// A request's body, for serialization.
struct RequestBody<'a> {
    protocol: Protocol,
    fields: &'a Map<String, Value>,
    /// Whether to mark the prompt parts that the provider should cache.
    caches: bool,
    request: &'a Request,
}

impl Serialize for RequestBody<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (key, value) in self.fields {
            map.serialize_entry(key, value)?;
        }
        match self.protocol {
            Protocol::Messages => messages::write_texts(&mut map, self.request, self.caches)?,
            Protocol::Chat => chat::write_texts(&mut map, self.request)?,
            Protocol::Responses => responses::write_texts(&mut map, self.request)?,
        }
        map.end()
    }
}
