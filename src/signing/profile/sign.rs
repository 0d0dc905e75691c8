//! Signing by a profile.

use std::borrow::Cow;
use std::iter;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::content::Parts;
use super::value::Slot;
use super::{Encoding, FieldValue, KeyKind, Plan, Rotation};
use crate::clock::UnixMicros;
use crate::hex;
use crate::signing::SigningKeys;
use crate::signing::rotation::Generation;

/// Beside control characters and all that is no ASCII: what makes the encoding unambiguous.
const NO_VALUE: AsciiSet = CONTROLS.add(b'%').add(b' ');
/// Room for the signatures of a few keys.
const USUAL_VALUE_BYTES: usize = 160;

/// A request that is to be signed.
#[derive(Clone, Copy, Debug)]
pub struct Signing<'a> {
    pub method: &'a str,
    /// With the query.
    pub path: &'a str,
    /// Of the delivery.
    pub id: &'a str,
    pub now: UnixMicros,
    pub body: &'a [u8],
    pub event_id: &'a str,
    /// The event's type; empty if it has none.
    pub kind: &'a str,
    pub topic: Option<&'a str>,
}

impl Plan {
    /// Calls `field` with name and value of each header that carries the signature or belongs to it. A key that is missing
    /// signs nothing.
    pub fn sign<E>(
        &self,
        keys: &SigningKeys,
        request: &Signing<'_>,
        mut field: impl FnMut(&str, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut digits = itoa::Buffer::new();
        let timestamp = digits.format(request.now.seconds());
        let Signing { method, path, id, body, now, .. } = *request;
        let parts = Parts { id, timestamp, method, path, body };
        let profile = &self.profile;
        if let Some(name) = &profile.id_header {
            field(name, id.as_bytes())?;
        }
        if let Some(name) = &profile.timestamp_header {
            field(name, timestamp.as_bytes())?;
        }
        let newest = iter::once(keys.newest());
        let mut older = keys.older_live(now).map(Generation::from);
        let value = match profile.rotation {
            Rotation::Append | Rotation::List => self.value(parts, newest.chain(older)),
            Rotation::Newest => self.value(parts, newest),
            Rotation::Oldest => self.value(parts, older.last().into_iter().chain(newest).take(1)),
            Rotation::Header => {
                if let (Some(name), Some(previous)) = (&profile.previous_header, older.next())
                    && let Some(value) = self.value(parts, iter::once(previous))
                {
                    field(name, value.as_bytes())?;
                }
                self.value(parts, newest)
            }
        };
        value.map_or(Ok(()), |value| field(&profile.header, value.as_bytes()))
    }

    /// Calls `field` with each header that a vendor's receivers read beside those of the signature.
    pub fn describe<E>(
        &self,
        request: &Signing<'_>,
        mut field: impl FnMut(&str, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        for (name, what) in self.profile.fields {
            let time;
            let value = match what {
                FieldValue::Id => request.id,
                FieldValue::EventId => request.event_id,
                FieldValue::Type if !request.kind.is_empty() => request.kind,
                FieldValue::Type | FieldValue::Topic => match request.topic {
                    Some(topic) => topic,
                    None => continue,
                },
                FieldValue::Time => {
                    time = request.now.to_string();
                    &time
                }
            };
            field(name, sendable(value).as_bytes())?;
        }
        Ok(())
    }

    /// The header's value; `None`: there is no key.
    fn value<'k>(&self, parts: Parts<'_>, generations: impl Iterator<Item = Generation<'k>>) -> Option<String> {
        let mut value = String::with_capacity(USUAL_VALUE_BYTES);
        let mut generations = Some(generations);
        let mut has_signature = false;
        for (at, item) in self.form.items.iter().enumerate() {
            if at > 0 {
                value.push_str(&self.form.separator);
            }
            match item.slot {
                Slot::None => value.push_str(&item.before),
                Slot::Timestamp => {
                    for part in [&item.before, parts.timestamp, &item.after] {
                        value.push_str(part);
                    }
                }
                Slot::Signature => {
                    let repeats_item = self.profile.rotation != Rotation::List;
                    for generation in generations.take().into_iter().flatten() {
                        let before_length = value.len();
                        if has_signature {
                            value.push_str(&self.form.separator);
                        }
                        if repeats_item || !has_signature {
                            value.push_str(&item.before);
                        }
                        if !self.push_signature(&mut value, parts, generation) {
                            value.truncate(before_length);
                            continue;
                        }
                        if repeats_item {
                            value.push_str(&item.after);
                        }
                        has_signature = true;
                    }
                    if !repeats_item {
                        value.push_str(&item.after);
                    }
                }
                Slot::Secret => return None,
            }
        }
        has_signature.then_some(value)
    }

    /// Appends a signature; `false`: the generation has no such key.
    fn push_signature(&self, value: &mut String, parts: Parts<'_>, generation: Generation<'_>) -> bool {
        let (hash, content) = (self.profile.hash, parts.of(&self.content));
        match self.profile.key {
            KeyKind::Secret => self.push_encoded(value, &generation.decnet.code(hash, content)),
            KeyKind::Standard => self.push_encoded(value, &generation.standard.code(hash, content)),
            KeyKind::Ed25519 => {
                let Some(pair) = generation.ed25519 else { return false };
                // Ed25519 goes over the content twice.
                let content: Vec<u8> = content.flatten().copied().collect();
                self.push_encoded(value, pair.sign(&content).as_ref());
            }
        }
        true
    }

    fn push_encoded(&self, value: &mut String, signature: &[u8]) {
        match self.profile.encoding {
            Encoding::Hex => hex::push(value, signature),
            Encoding::Base64 => STANDARD.encode_string(signature, value),
        }
    }
}

/// `text` as a header's value: what is not visible ASCII is percent-encoded (RFC 3986).
fn sendable(text: &str) -> Cow<'_, str> {
    if text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Cow::Borrowed(text);
    }
    utf8_percent_encode(text, &NO_VALUE).into()
}
