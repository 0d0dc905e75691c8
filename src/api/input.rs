//! What a request brings: its body, its query and its path, within limits and checked.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Uri};
use serde::de::{DeserializeOwned, IgnoredAny, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::App;
use super::body::read_body;
use super::problem::{FieldError, Problem};
use crate::clock::UnixMicros;
use crate::event::MAX_EVENT_BYTES;
use crate::store::{DEFAULT_PAGE_ITEMS, MAX_PAGE_ITEMS, Page};

/// The largest body of a request that is no event: a webhook with 256 patterns of 255 bytes has room.
pub(super) const MAX_SETTINGS_BYTES: usize = 256 * 1024;
/// The largest body of an import.
const MAX_IMPORT_BYTES: usize = 16 * 1024 * 1024;
/// The media type of the body, without parameters; one of `accepted`.
pub(super) fn media_type<'a>(headers: &HeaderMap, accepted: &[&'a str]) -> Result<&'a str, Problem> {
    let given = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = given.and_then(|given| given.split(';').next()).unwrap_or_default().trim();
    accepted.iter().find(|accepted| accepted.eq_ignore_ascii_case(media_type)).copied().ok_or_else(|| {
        let found = given.map_or_else(|| "is missing".to_owned(), |given| format!("is {given:?}"));
        Problem::media_type(format!("{found}, must be {}", accepted.join(" or ")))
    })
}

pub(super) const JSON: &str = "application/json";

/// The longest `Idempotency-Key`, in bytes.
const MAX_IDEMPOTENCY_KEY_BYTES: usize = 255;

/// The `Idempotency-Key` of a request, if it has one: 1 to [`MAX_IDEMPOTENCY_KEY_BYTES`] of visible ASCII.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut given = headers.get_all("Idempotency-Key").iter();
    let Some(key) = given.next() else { return Ok(None) };
    let refused = |reason: String| Err(Problem::field("Idempotency-Key", reason));
    if given.next().is_some() {
        return refused("must be given once".to_owned());
    }
    let bytes = key.as_bytes();
    if bytes.is_empty() || bytes.len() > MAX_IDEMPOTENCY_KEY_BYTES {
        return refused(format!("has {} bytes, must have 1 to {MAX_IDEMPOTENCY_KEY_BYTES}", bytes.len()));
    }
    match bytes.iter().position(|byte| !byte.is_ascii_graphic()) {
        Some(at) => refused(format!("must be visible ASCII without spaces; byte {} is not", at + 1)),
        None => Ok(Some(String::from_utf8_lossy(bytes).into_owned())),
    }
}

/// Settings as JSON: 415 another media type, 413 too large, 400 no JSON, 422 JSON of another shape.
pub(super) struct JsonBody<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Arc<App>> for JsonBody<T> {
    type Rejection = Problem;
    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Problem> {
        refuse_query(&request)?;
        media_type(request.headers(), &[JSON])?;
        let received = read_body(&app.bodies, request, MAX_SETTINGS_BYTES).await?;
        parse_json(&received.bytes).map(Self)
    }
}

/// As [`JsonBody`], with room for an event.
pub(super) struct PreviewBody<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Arc<App>> for PreviewBody<T> {
    type Rejection = Problem;
    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Problem> {
        refuse_query(&request)?;
        media_type(request.headers(), &[JSON])?;
        let received = read_body(&app.bodies, request, MAX_EVENT_BYTES + MAX_SETTINGS_BYTES).await?;
        parse_json(&received.bytes).map(Self)
    }
}

/// As [`OptionalJsonBody`], with room for an event.
pub(super) struct OptionalPreviewBody<T>(pub(super) T);

impl<T: DeserializeOwned + Default> FromRequest<Arc<App>> for OptionalPreviewBody<T> {
    type Rejection = Problem;
    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Problem> {
        optional(request, app, MAX_EVENT_BYTES + MAX_SETTINGS_BYTES).await.map(Self)
    }
}

/// As [`JsonBody`], with room for many webhooks.
pub(super) struct ImportBody<T>(pub(super) T);

impl<T: DeserializeOwned + Send + 'static> FromRequest<Arc<App>> for ImportBody<T> {
    type Rejection = Problem;
    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Problem> {
        refuse_query(&request)?;
        media_type(request.headers(), &[JSON])?;
        let received = read_body(&app.bodies, request, MAX_IMPORT_BYTES).await?;
        let parsed = tokio::task::spawn_blocking(move || parse_json(&received.bytes)).await;
        parsed.map_err(|error| Problem::internal(error.to_string()))?.map(Self)
    }
}

/// Refuses a query where none is taken, since the caller expects an effect, as of `dry_run`.
pub(super) fn refuse_query(request: &Request) -> Result<(), Problem> {
    Params::of(request.uri()).finish()
}

/// As [`JsonBody`], with the names of the given fields.
pub(super) struct Given<T> {
    pub(super) input: T,
    pub(super) fields: Vec<String>,
}

impl<T: DeserializeOwned> FromRequest<Arc<App>> for Given<T> {
    type Rejection = Problem;
    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Problem> {
        refuse_query(&request)?;
        media_type(request.headers(), &[JSON])?;
        let received = read_body(&app.bodies, request, MAX_SETTINGS_BYTES).await?;
        Self::parse(&received.bytes)
    }
}

impl<T: DeserializeOwned> Given<T> {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Problem> {
        let input = parse_json(bytes)?;
        // The values may be secrets, so they are skipped, not copied.
        let fields: BTreeMap<String, &RawValue> =
            serde_json::from_slice(bytes).map_err(|error| Problem::json("body".to_owned(), error.to_string()))?;
        Ok(Self { input, fields: fields.into_keys().collect() })
    }
}

/// As [`JsonBody`], for a body that may be left out or `null`.
pub(super) struct OptionalJsonBody<T>(pub(super) T);

impl<T: DeserializeOwned + Default> FromRequest<Arc<App>> for OptionalJsonBody<T> {
    type Rejection = Problem;
    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Problem> {
        optional(request, app, MAX_SETTINGS_BYTES).await.map(Self)
    }
}

/// The default of no body and of `null`.
async fn optional<T: DeserializeOwned + Default>(request: Request, app: &App, max_bytes: usize) -> Result<T, Problem> {
    refuse_query(&request)?;
    let media_type = media_type(request.headers(), &[JSON]);
    let received = read_body(&app.bodies, request, max_bytes).await?;
    if received.bytes.is_empty() {
        return Ok(T::default());
    }
    media_type?;
    if received.bytes.trim_ascii() == b"null" {
        return Ok(T::default());
    }
    parse_json(&received.bytes)
}

/// For acts without input: a body or a query with content is refused, not ignored.
pub(super) struct NoInput;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

impl FromRequest<Arc<App>> for NoInput {
    type Rejection = Problem;
    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Problem> {
        let OptionalJsonBody(Nothing {}) = OptionalJsonBody::from_request(request, app).await?;
        Ok(Self)
    }
}

/// Fields with secret values, in any body. Errors about them repeat nothing of the value.
const SECRET_FIELDS: [&str; 8] =
    ["auth", "client_certificate", "headers", "proxy", "secret", "secrets", "standard_secret", "url"];

/// The reason of serde's error about `field`, without the value that serde repeats.
fn reason(field: &str, error: &serde_json::Error) -> String {
    let text = error.to_string();
    // An import has settings of webhooks further down.
    let own = field.rsplit_once(".settings.").map_or(field, |(_, own)| own);
    let top = own.split(['.', '[']).next().unwrap_or_default();
    if !SECRET_FIELDS.contains(&top) || text.starts_with("missing field ") {
        return text;
    }
    // serde's text has the given value before the expected one.
    match text.rsplit_once(", expected ") {
        Some((_, expected)) => format!("is not what it must be: expected {expected}"),
        None => "is not what it must be".to_owned(),
    }
}

/// Parses an object. An array is refused although serde would read it as the fields in their order.
fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let no_json = |error: serde_json::Error| Problem::json("body".to_owned(), error.to_string());
    if bytes.trim_ascii_start().first().is_some_and(|&first| first != b'{') {
        serde_json::from_slice::<IgnoredAny>(bytes).map_err(no_json)?;
        return Err(Problem::field("body", "must be a JSON object"));
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let field = Some(error.path().to_string()).filter(|path| path != ".").unwrap_or_else(|| "body".to_owned());
        let error = error.into_inner();
        if error.is_data() { Problem::field(&field, reason(&field, &error)) } else { no_json(error) }
    })?;
    json.end().map_err(no_json)?;
    Ok(value)
}

/// The page behind a bare list.
pub(super) const FIRST_OF_A_LIST: Page = Page { limit: MAX_PAGE_ITEMS, cursor: None };

/// The last part of the path, parsed. A text that is no id is a 404.
pub(super) struct Id<T>(pub(super) T);

impl<T: FromStr, S: Send + Sync> FromRequestParts<S> for Id<T> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(text) = Path::<String>::from_request_parts(parts, state).await?;
        text.parse().map(Self).map_err(|_| Problem::not_found("thing"))
    }
}

/// The query's parameters. Each is taken once. A parameter that is not taken is an error, so that a mistyped filter is
/// noticed. An empty value, as forms send it, counts as absent.
pub(super) struct Params {
    given: Vec<(String, String)>,
    errors: Vec<FieldError>,
}

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = std::convert::Infallible;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self::of(&parts.uri))
    }
}

impl Params {
    fn of(uri: &Uri) -> Self {
        let query = uri.query().unwrap_or_default();
        Self { given: url::form_urlencoded::parse(query.as_bytes()).into_owned().collect(), errors: Vec::new() }
    }

    /// Whether the parameter is given, with or without a value.
    pub(super) fn has(&self, name: &str) -> bool {
        self.given.iter().any(|(given, _)| given == name)
    }

    /// The page, if `limit` or `cursor` is given; `None`: a bare list.
    pub(super) fn page_or_list(&mut self) -> Option<Page> {
        (self.has("limit") || self.has("cursor")).then(|| self.page())
    }

    /// Whether a switch is on: `?name`, `?name=` and `?name=true` turn it on, `?name=false` leaves it off.
    pub(super) fn flag(&mut self, name: &str) -> bool {
        let Some(index) = self.given.iter().position(|(given, _)| given == name) else { return false };
        match self.given.remove(index).1.as_str() {
            "" | "true" => true,
            "false" => false,
            other => {
                let reason = format!("is {other:?}, must be true or false");
                self.errors.push(FieldError { field: name.to_owned(), reason });
                false
            }
        }
    }

    pub(super) fn take<T>(&mut self, name: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let index = self.given.iter().position(|(given, _)| given == name)?;
        let (_, value) = self.given.remove(index);
        if value.is_empty() {
            return None;
        }
        parse(&value).map_err(|reason| self.errors.push(FieldError { field: name.to_owned(), reason })).ok()
    }

    pub(super) fn text(&mut self, name: &str) -> Option<String> {
        self.take(name, |value| Ok(value.to_owned()))
    }

    pub(super) fn time(&mut self, name: &str) -> Option<UnixMicros> {
        self.take(name, parse_time)
    }

    pub(super) fn page(&mut self) -> Page {
        let limit = self.take("limit", |value| match value.parse() {
            Ok(limit @ 1..=MAX_PAGE_ITEMS) => Ok(limit),
            _ => Err(format!("is {value:?}, must be 1 to {MAX_PAGE_ITEMS}")),
        });
        Page { limit: limit.unwrap_or(DEFAULT_PAGE_ITEMS), cursor: self.text("cursor") }
    }

    /// The error has all faults.
    pub(super) fn finish(mut self) -> Result<(), Problem> {
        self.errors.extend(self.given.into_iter().map(|(field, _)| FieldError {
            field,
            reason: "is not a parameter of this route, or is given twice".to_owned(),
        }));
        if self.errors.is_empty() { Ok(()) } else { Err(Problem::fields(self.errors)) }
    }
}

/// A moment as RFC 3339 or as seconds since 1970, with a fraction if need be.
fn parse_time(text: &str) -> Result<UnixMicros, String> {
    text.parse().map_err(|error| format!("{text:?} {error}"))
}

/// A moment in a body, where seconds may be a number.
pub(super) struct Moment(pub(super) UnixMicros);

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrNumber;
        impl Visitor<'_> for TextOrNumber {
            type Value = Moment;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("RFC 3339 or unix seconds")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Moment, E> {
                parse_time(text).map(Moment).map_err(E::custom)
            }
            fn visit_u64<E: serde::de::Error>(self, seconds: u64) -> Result<Moment, E> {
                self.visit_str(&seconds.to_string())
            }
            fn visit_i64<E: serde::de::Error>(self, seconds: i64) -> Result<Moment, E> {
                self.visit_str(&seconds.to_string())
            }
            fn visit_f64<E: serde::de::Error>(self, seconds: f64) -> Result<Moment, E> {
                self.visit_str(&seconds.to_string())
            }
        }
        deserializer.deserialize_any(TextOrNumber)
    }
}

impl PartialSchema for Moment {
    fn schema() -> RefOr<Schema> {
        let text = ObjectBuilder::new().schema_type(Type::String);
        let number = ObjectBuilder::new().schema_type(Type::Number);
        OneOfBuilder::new()
            .item(text)
            .item(number)
            .description(Some("RFC 3339, or seconds since 1970, also as text."))
            .examples([serde_json::json!("2026-09-21T14:13:20Z"), serde_json::json!(1_790_000_000)])
            .into()
    }
}

impl ToSchema for Moment {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_error_repeats_a_secret() {
        let bodies = [
            r#"{"secret": ["geheim"]}"#,
            r#"{"secret": {"geheim": 1}}"#,
            r#"{"standard_secret": 4242}"#,
            r#"{"url": {"geheim": "geheim"}}"#,
            r#"{"headers": "geheim"}"#,
            r#"{"headers": ["geheim"]}"#,
            r#"{"headers": {"X-Key": ["geheim"]}}"#,
            r#"{"headers": {"X-Key": 4242}}"#,
            r#"{"auth": "geheim, expected geheim"}"#,
            r#"{"auth": {"type": "geheim"}}"#,
            r#"{"auth": {"type": "basic", "username": "me", "password": ["geheim"]}}"#,
            r#"{"auth": {"type": "basic", "username": "me", "geheim": 1}}"#,
            r#"{"auth": {"type": "bearer", "token": 4242}}"#,
            r#"{"auth": {"type": "oauth2", "auth_style": "geheim"}}"#,
            r#"{"auth": {"type": "oauth2", "token_url": "a", "client_id": "b", "client_secret": 4242}}"#,
            r#"{"proxy": "http://me:geheim@proxy.example:1"}"#,
            r#"{"proxy": {"url": ["geheim"]}}"#,
            r#"{"proxy": {"url": "http://a:1", "resolve": "geheim"}}"#,
            r#"{"client_certificate": "geheim"}"#,
            r#"{"client_certificate": {"certificate": "a", "key": 4242}}"#,
        ];
        for body in bodies {
            let Err(problem) = parse_json::<crate::webhook::WebhookPatch>(body.as_bytes()) else { panic!("{body}") };
            let shown = format!("{problem:?}");
            assert!(!shown.contains("geheim") && !shown.contains("4242"), "{body}: {shown}");
        }
        let wrong = parse_json::<crate::webhook::WebhookPatch>(br#"{"auth": {"type": "bearer"}}"#);
        assert!(format!("{:?}", wrong.err()).contains("missing field `token`"));
        let wrong = parse_json::<crate::webhook::WebhookPatch>(br#"{"timeout_s": "soon"}"#);
        assert!(format!("{:?}", wrong.err()).contains("soon"), "what is no secret is shown");
    }

    #[test]
    fn a_time_is_rfc_3339_or_unix_seconds() {
        let moment = UnixMicros(1_790_000_000_500_000);
        for text in ["2026-09-21T14:13:20.5Z", "2026-09-21T16:13:20.5+02:00", "1790000000.5"] {
            assert_eq!(parse_time(text), Ok(moment), "{text}");
        }
        for text in ["yesterday", "2026-09-21T16:13:20 02:00", "NaN", "1e300", ""] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }
}
