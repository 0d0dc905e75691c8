//! A compiled template, and a rendering of it within limits.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock, OnceLock};

use bytes::Bytes;
use minijinja::value::{Enumerator, Object};
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, Value};

use super::json::{SOURCE, Source, SourceHandle, write_text};
use super::{Context, MAX_SHAPED_BYTES, RenderError, TemplateError, filters, subset};
use crate::event::Event;

/// Fuel of every rendering. One unit pays for one instruction, or for 64 bytes that are made or written.
pub(super) const BASE_FUEL: u64 = 20_000;
/// Fuel beside it for each KiB of the event: enough to write the whole event two times, once as a JSON string.
pub(super) const FUEL_PER_KIB: u64 = 64;
/// Blocks inside blocks.
const MAX_NESTING: usize = 100;
/// Under this name an environment knows its one template.
const NAME: &str = "shape";

/// The engine with what every template may use, and no template.
static ENGINE: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut env = Environment::empty();
    // `event.payload.a.b` is nothing, not an error, where there is no `a`: events of one topic differ.
    env.set_undefined_behavior(UndefinedBehavior::Chainable);
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    env.set_formatter(|out, state, value| write_text(value, state, out).map_err(Error::from));
    env.set_recursion_limit(MAX_NESTING);
    filters::register(&mut env);
    env
});

impl TemplateError {
    pub(super) fn of(error: &Error) -> Self {
        Self { line: error.line().unwrap_or(1), column: None, reason: reason(error) }
    }
}

fn reason(error: &Error) -> String {
    error.detail().map_or_else(|| error.kind().to_string(), str::to_owned)
}

pub(super) struct Template {
    env: Environment<'static>,
}

impl Template {
    pub(super) fn compile(source: &str) -> Result<Self, TemplateError> {
        subset::check(source)?;
        let mut env = ENGINE.clone();
        env.add_template_owned(NAME, source.to_owned()).map_err(|error| TemplateError::of(&error))?;
        Ok(Self { env })
    }

    pub(super) fn render(&self, event: &Event, context: &Context<'_>) -> Result<Bytes, RenderError> {
        // A bug of the engine must cost this delivery only, and not be tried again for ever.
        catch_unwind(AssertUnwindSafe(|| self.render_within_limits(event, context))).unwrap_or_else(|_| {
            Err(RenderError { line: None, reason: "the template engine failed on this event".to_owned() })
        })
    }

    fn render_within_limits(&self, event: &Event, context: &Context<'_>) -> Result<Bytes, RenderError> {
        let source = Arc::new(Source::default());
        let root = Root::new(event, context, &source);
        let kib = u64::try_from(event.body().len().div_ceil(1024)).unwrap_or(u64::MAX);
        // Fuel is a setting of the environment; a copy of that is a few counted references.
        let mut env = self.env.clone();
        env.set_fuel(Some(BASE_FUEL + kib * FUEL_PER_KIB));
        let mut body = BoundedBody::default();
        let rendered = env
            .get_template(NAME)
            .and_then(|template| template.render_captured_to(Value::from_object(root), &mut body).map(drop));
        let too_much = "the template does too much for an event of this size; loops cost the most";
        match rendered {
            _ if body.is_full => {
                Err(RenderError { line: None, reason: format!("the result is longer than {MAX_SHAPED_BYTES} bytes") })
            }
            Ok(()) if source.is_exhausted() => Err(RenderError { line: None, reason: too_much.to_owned() }),
            Ok(()) => Ok(Bytes::from(body.bytes)),
            Err(error) if error.kind() == ErrorKind::OutOfFuel => {
                Err(RenderError { line: error.line(), reason: too_much.to_owned() })
            }
            Err(error) => Err(RenderError {
                line: error.line(),
                reason: reason(&error).chars().map(|c| if c.is_control() { ' ' } else { c }).collect(),
            }),
        }
    }
}

/// Takes what is written until it is too much.
#[derive(Default)]
struct BoundedBody {
    bytes: Vec<u8>,
    is_full: bool,
}

impl io::Write for BoundedBody {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > MAX_SHAPED_BYTES {
            self.is_full = true;
            return Err(io::Error::other("the result is too long"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The variables of a template.
#[derive(Debug)]
struct Root {
    event: Value,
    webhook: Value,
    delivery: Value,
    tenant: Value,
    now: Value,
    source: Value,
    /// The canonical body; as text once it is asked for.
    body: Bytes,
    body_text: OnceLock<Value>,
}

impl Root {
    fn new(event: &Event, context: &Context<'_>, source: &Arc<Source>) -> Self {
        let metadata = context.webhook_metadata.iter().map(|(key, value)| (Value::from(key), Value::from(value)));
        Self {
            event: source.value(event.body().clone()),
            webhook: Value::from_pairs([
                ("name", Value::from(context.webhook_name)),
                ("id", Value::from(context.webhook_id)),
                ("metadata", Value::from_pairs(metadata)),
            ]),
            delivery: Value::from_pairs([("id", context.delivery_id)]),
            tenant: Value::from(context.tenant),
            now: Value::from(context.now.to_string()),
            source: Value::from_object(SourceHandle(Arc::clone(source))),
            body: event.body().clone(),
            body_text: OnceLock::new(),
        }
    }
}

impl Object for Root {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match key.as_str()? {
            "event" => Some(self.event.clone()),
            "body" => {
                let text = || Value::from(String::from_utf8_lossy(&self.body));
                Some(self.body_text.get_or_init(text).clone())
            }
            "webhook" => Some(self.webhook.clone()),
            "delivery" => Some(self.delivery.clone()),
            "tenant" => Some(self.tenant.clone()),
            "now" => Some(self.now.clone()),
            SOURCE => Some(self.source.clone()),
            _ => None,
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Str(&["event", "body", "webhook", "delivery", "tenant", "now"])
    }
}
