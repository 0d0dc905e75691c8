//! What a publisher asks of an event's deliveries. It is no part of the event: it is neither signed nor sent.

use std::time::Duration;

use uuid::Uuid;

use super::{EventError, is_number_start, refused};
use crate::clock::UnixMicros;

/// The farthest `deliver_at` from now.
pub const MAX_DELIVERY_DELAY: Duration = Duration::from_hours(24);
/// The most webhooks that an event may name.
pub const MAX_DIRECTED_WEBHOOKS: usize = 100;

/// The time and the receivers. By default at once, to every webhook that matches the event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeliveryOptions {
    /// No attempt is made before this time.
    pub deliver_at: Option<UnixMicros>,
    /// Only these webhooks get the event, if they match it; 1 to [`MAX_DIRECTED_WEBHOOKS`], ascending.
    pub webhooks: Option<Vec<Uuid>>,
}

impl DeliveryOptions {
    /// Parses the fields' canonical JSON. `None`: no option is given.
    pub(super) fn parse(
        deliver_at: Option<&str>,
        webhooks: Option<&str>,
        now: UnixMicros,
    ) -> Result<Option<Box<Self>>, EventError> {
        let is_given = |json: &&str| !matches!(*json, "null" | "\"\"");
        let deliver_at = deliver_at.filter(is_given).map(|json| moment(json, now)).transpose()?;
        let webhooks = webhooks.filter(|json| *json != "null").map(uuids).transpose()?;
        let is_asked = deliver_at.is_some() || webhooks.is_some();
        Ok(is_asked.then(|| Box::new(Self { deliver_at, webhooks })))
    }
}

fn moment(json: &str, now: UnixMicros) -> Result<UnixMicros, EventError> {
    let wrong = |reason: &str| refused("deliver_at", reason);
    let is_number = json.starts_with(is_number_start);
    let text = json.strip_prefix('"').and_then(|text| text.strip_suffix('"')).or(is_number.then_some(json));
    let at: Option<UnixMicros> = text.and_then(|text| text.parse().ok());
    let at = at.ok_or_else(|| wrong("must be RFC 3339, as in \"2026-09-21T14:13:20Z\", or seconds since 1970"))?;
    if at > now.after(MAX_DELIVERY_DELAY) {
        return Err(wrong(&format!("is more than {} h ahead", MAX_DELIVERY_DELAY.as_secs() / 3_600)));
    }
    Ok(at)
}

fn uuids(json: &str) -> Result<Vec<Uuid>, EventError> {
    let wrong = |reason: &str| refused("webhooks", reason);
    let inside = json.strip_prefix('[').and_then(|json| json.strip_suffix(']'));
    let inside = inside.ok_or_else(|| wrong("must be a list of webhooks' UUIDs"))?;
    if inside.is_empty() {
        return Err(wrong("names no webhook; leave it out for all that want the event"));
    }
    let mut uuids = Vec::new();
    // UUIDs contain no commas and need no escapes.
    for (index, text) in inside.split(',').enumerate() {
        if index == MAX_DIRECTED_WEBHOOKS {
            return Err(wrong(&format!("names more than {MAX_DIRECTED_WEBHOOKS} webhooks")));
        }
        let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
        let uuid = text.and_then(|text| Uuid::try_parse(text).ok());
        uuids.push(uuid.ok_or_else(|| wrong(&format!("item {index} is no UUID")))?);
    }
    uuids.sort_unstable();
    uuids.dedup();
    Ok(uuids)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;

    const NOW: UnixMicros = UnixMicros(1_790_000_000_000_000);

    fn options(fields: &str) -> Result<Option<DeliveryOptions>, String> {
        let json = format!(r#"{{"topic": "t", "id": "e", "ts": "now"{fields}}}"#);
        let event = Event::from_json(json.as_bytes(), NOW).map_err(|error| error.to_string())?;
        assert_eq!(event.body(), r#"{"id":"e","payload":{},"topic":"t","ts":"now","type":"","v":1}"#);
        Ok(event.options().cloned())
    }

    #[test]
    fn what_is_asked_is_read_and_is_not_in_the_body() {
        for nothing in ["", r#","deliver_at":null"#, r#","deliver_at":"","webhooks":null"#] {
            assert_eq!(options(nothing), Ok(None), "{nothing}");
        }
        for at in
            ["1790000060.5", r#""2026-09-21T14:14:20.5Z""#, r#""2026-09-21T16:14:20.500+02:00""#, r#""1790000060.5""#]
        {
            let found = options(&format!(r#","deliver_at":{at}"#)).unwrap().unwrap();
            assert_eq!(found.deliver_at, Some(UnixMicros(1_790_000_060_500_000)), "{at}");
        }
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let found = options(&format!(r#", "webhooks": ["{other}", "{one}", "{other}"]"#)).unwrap().unwrap();
        assert_eq!(found, DeliveryOptions { deliver_at: None, webhooks: Some(vec![one, other]) });
    }

    #[test]
    fn a_day_ahead_is_the_furthest_and_the_past_is_allowed() {
        let at = |seconds: i64| options(&format!(r#","deliver_at":{seconds}"#));
        assert!(at(1_790_000_000 + 86_400).is_ok() && at(0).is_ok() && at(-5).is_ok());
        assert_eq!(at(1_790_000_000 + 86_401), Err("deliver_at: is more than 24 h ahead".to_owned()));
        for wrong in ["true", "{}", "1e300", r#""tomorrow""#, r#""2026-09-21""#, r#""2026-09-21T14:14:20""#] {
            let refused = options(&format!(r#","deliver_at":{wrong}"#)).unwrap_err();
            assert!(refused.starts_with("deliver_at: must be RFC 3339"), "{wrong}: {refused}");
        }
    }

    #[test]
    fn webhooks_are_a_bounded_list_of_uuids() {
        let list =
            |count: u128| (0..count).map(|n| format!("\"{}\"", Uuid::from_u128(n))).collect::<Vec<_>>().join(",");
        assert!(options(&format!(r#","webhooks":[{}]"#, list(100))).is_ok());
        let refused = options(&format!(r#","webhooks":[{}]"#, list(101))).unwrap_err();
        assert_eq!(refused, "webhooks: names more than 100 webhooks");
        for (wrong, reason) in [
            ("[]", "names no webhook"),
            ("{}", "must be a list"),
            ("5", "must be a list"),
            (r#""""#, "must be a list"),
            (r#"["siem"]"#, "item 0 is no UUID"),
            ("[5]", "item 0 is no UUID"),
            (r#"[["00000000-0000-0000-0000-000000000001"]]"#, "item 0 is no UUID"),
        ] {
            let refused = options(&format!(r#","webhooks":{wrong}"#)).unwrap_err();
            assert!(refused.contains(reason), "{wrong}: {refused}");
        }
    }
}
