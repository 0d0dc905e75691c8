//! Headers whose values are templates.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use http::HeaderValue;

use super::template::Template;
use super::{Context, MAX_RENDERING_TIME, RenderError, TemplateError};
use crate::event::Event;

/// The most headers of a webhook that have a template.
pub const MAX_HEADER_TEMPLATES: usize = 8;
/// The longest value that a template makes, in bytes.
pub const MAX_RENDERED_HEADER_BYTES: usize = 1_024;

/// What a template has and hardly any other value.
const OPENING: [&str; 2] = ["{{", "{%"];

/// The templates among a webhook's headers, compiled. Clones are cheap.
#[derive(Clone, Default)]
pub struct HeaderTemplates(Arc<[HeaderTemplate]>);

struct HeaderTemplate {
    name: Box<str>,
    text: Box<str>,
    template: Template,
}

/// The reason why a header's template is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderTemplateError {
    #[error("{count} values are templates, the limit is {MAX_HEADER_TEMPLATES}")]
    TooMany { count: usize },
    #[error("the value of {name:?}: {error}")]
    Template { name: String, error: TemplateError },
}

/// Whether a header's value is a template.
#[must_use]
pub fn is_header_template(value: &str) -> bool {
    OPENING.iter().any(|opening| value.contains(opening))
}

impl HeaderTemplates {
    /// Compiles those of `headers`, pairs of name and value, whose values are templates. The error has all faults.
    pub fn compile<'a>(headers: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Self, Vec<HeaderTemplateError>> {
        let given: Vec<_> = headers.filter(|(_, value)| is_header_template(value)).collect();
        if given.len() > MAX_HEADER_TEMPLATES {
            return Err(vec![HeaderTemplateError::TooMany { count: given.len() }]);
        }
        let (mut templates, mut errors) = (Vec::with_capacity(given.len()), Vec::new());
        for (name, text) in given {
            match Template::compile(text) {
                Ok(template) => templates.push(HeaderTemplate { name: name.into(), text: text.into(), template }),
                Err(error) => errors.push(HeaderTemplateError::Template { name: name.to_owned(), error }),
            }
        }
        if errors.is_empty() { Ok(Self(templates.into())) } else { Err(errors) }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The headers' values for an event. Together they take no longer than one shape may.
    pub fn render(&self, event: &Event, context: &Context<'_>) -> Result<Vec<(Box<str>, HeaderValue)>, RenderError> {
        let deadline = Instant::now() + MAX_RENDERING_TIME;
        let rendered = self.0.iter().map(|HeaderTemplate { name, template, .. }| {
            let value = template.render_until(deadline, event, context).and_then(|text| value(&text));
            value.map(|value| (name.clone(), value)).map_err(|error| error.of_header(name))
        });
        rendered.collect()
    }
}

/// The value of a header. What cannot be sent is an error, and not replaced: a receiver that looks a customer up by it should
/// get no other.
fn value(text: &[u8]) -> Result<HeaderValue, RenderError> {
    let wrong = |reason: String| Err(RenderError::new(None, reason));
    let shown = String::from_utf8_lossy(text);
    let text = shown.trim_matches(' ');
    if text.len() > MAX_RENDERED_HEADER_BYTES {
        return wrong(format!("the result has {} bytes, the limit is {MAX_RENDERED_HEADER_BYTES}", text.len()));
    }
    if let Some((at, found)) = text.char_indices().find(|(_, c)| !matches!(c, ' '..='~')) {
        return wrong(format!(
            "the result has the character {found:?} at byte {at}; visible ASCII and spaces are sent: `|urlencode` or \
             `|oneline|ascii` makes it so"
        ));
    }
    let value = HeaderValue::from_str(text).map_err(|_| RenderError::new(None, "the result cannot be sent"))?;
    Ok(value)
}

/// Templates are equal if their texts are equal.
impl PartialEq for HeaderTemplates {
    fn eq(&self, other: &Self) -> bool {
        let texts = |templates: &Self| -> Vec<_> {
            templates.0.iter().map(|template| (template.name.clone(), template.text.clone())).collect()
        };
        texts(self) == texts(other)
    }
}

impl fmt::Debug for HeaderTemplates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|template| &template.name)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixMicros;
    use std::collections::BTreeMap;

    static METADATA: BTreeMap<String, String> = BTreeMap::new();
    const CONTEXT: Context<'static> = Context {
        webhook_metadata: &METADATA,
        webhook_name: "soc",
        webhook_id: "w_1",
        tenant: "default",
        delivery_id: "d_1",
        attempt: 3,
        now: UnixMicros(0),
    };

    fn rendered(template: &str, payload: &str) -> Result<String, String> {
        let templates = HeaderTemplates::compile([("X-A", template), ("X-B", "plain")].into_iter()).unwrap();
        assert!(!templates.is_empty());
        let event = format!(r#"{{"topic": "orders.7", "type": "paid", "payload": {payload}}}"#);
        let event = Event::from_json(event.as_bytes(), UnixMicros(0)).unwrap();
        let headers = templates.render(&event, &CONTEXT).map_err(|error| error.to_string())?;
        assert_eq!((headers.len(), &*headers[0].0), (1, "X-A"));
        Ok(headers[0].1.to_str().unwrap().to_owned())
    }

    #[test]
    fn values_come_from_event_delivery_and_attempt() {
        for (template, expected) in [
            ("{{ event.payload.customer }}", "c 7"),
            ("{{ event.topic }}/{{ event.type }}; n={{ event.payload.n }}", "orders.7/paid; n=1.50"),
            ("{{ delivery.id }} {{ attempt }} {{ webhook.name }} {{ tenant }}", "d_1 3 soc default"),
            ("{% if attempt > 1 %}again{% else %}first{% endif %}", "again"),
            ("{{ event.payload.none.at.all }}", ""),
            (" {{ event.payload.customer }} ", "c 7"),
            ("{{ event.payload.name|urlencode }}", "M%C3%BCller"),
            ("{{ event.payload.name|ascii }}", "M?ller"),
            ("{{ event.payload.lines|oneline }}", "a  X-Evil: 1"),
        ] {
            let payload = r#"{"customer": "c 7", "n": 1.50, "name": "Müller", "lines": "a\r\nX-Evil: 1"}"#;
            assert_eq!(rendered(template, payload).as_deref(), Ok(expected), "{template}");
        }
    }

    #[test]
    fn nothing_that_breaks_a_line_or_is_no_ascii_is_sent() {
        for text in ["a\\r\\nX: y", "a\\nb", "a\\rb", "a\\u0000b", "a\\tb", "\\u007f", "ü", "\\n", "a\\u2028"] {
            let error = rendered("{{ event.payload }}", &format!("\"{text}\"")).unwrap_err();
            assert!(error.starts_with("headers: X-A: the result has the character"), "{error}");
            assert!(!error.contains(|c: char| c.is_control()), "{error:?}");
        }
        let fits = "x".repeat(MAX_RENDERED_HEADER_BYTES);
        assert_eq!(rendered("{{ event.payload }}", &format!("\"{fits}\"")), Ok(fits.clone()));
        let error = rendered("{{ event.payload }}", &format!("\"{fits}x\"")).unwrap_err();
        assert_eq!(error, "headers: X-A: the result has 1025 bytes, the limit is 1024");
        let error = rendered(
            "{% for a in event.payload %}{% for b in event.payload %}{% endfor %}{% endfor %}",
            &format!("[{}0]", "0,".repeat(2_000)),
        );
        assert!(error.unwrap_err().contains("headers: X-A: line 1: the template does too much"));
    }

    #[test]
    fn templates_are_checked_when_they_are_set() {
        let compiled = |headers: &[(&str, &str)]| HeaderTemplates::compile(headers.iter().copied());
        assert!(compiled(&[("X-A", "s3cret { value }"), ("X-B", "}}")]).unwrap().is_empty());
        let errors = compiled(&[("X-A", "{{ event.id"), ("X-B", "{{ f() }}"), ("X-C", "{{ event.id }}")]).unwrap_err();
        assert_eq!(errors.len(), 2);
        assert!(errors[0].to_string().starts_with("the value of \"X-A\": "), "{errors:?}");
        let many: Vec<_> = (0..=MAX_HEADER_TEMPLATES).map(|n| (format!("X-{n}"), "{{ attempt }}")).collect();
        let pairs = |count: usize| many[..count].iter().map(|(name, value)| (&**name, *value));
        assert!(HeaderTemplates::compile(pairs(MAX_HEADER_TEMPLATES)).is_ok());
        let error = HeaderTemplates::compile(pairs(MAX_HEADER_TEMPLATES + 1)).unwrap_err();
        assert_eq!(error, [HeaderTemplateError::TooMany { count: 9 }]);
        let one = |value: &str| compiled(&[("X-A", value)]).unwrap();
        assert_eq!(one("{{ attempt }}"), one("{{ attempt }}"));
        assert_ne!(one("{{ attempt }}"), one("{{ tenant }}"));
    }
}
