//! A compiled template, and a rendering of it within limits.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use bytes::Bytes;
use minijinja::value::{Enumerator, Object};
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, Value};

use super::json::write_text;
use super::source::{Limits, SOURCE, Source, SourceHandle, settle};
use super::{Context, MAX_RENDERING_TIME, MAX_SHAPED_BYTES, RenderError, TemplateError, filters, subset};
use crate::event::Event;
use crate::fit::fit;

/// The base fuel of a rendering. One unit pays for an instruction, or for 64 bytes that are made or written.
pub(super) const BASE_FUEL: u64 = 20_000;
/// Further fuel for each KiB of the event: enough to read it, and to write it twice, once as a JSON string.
pub(super) const FUEL_PER_KIB: u64 = 80;
/// The deepest nesting of blocks.
const MAX_NESTING: usize = 100;
/// The name of the single template of an environment.
const NAME: &str = "shape";

/// The engine with everything that templates may use, without a template.
static ENGINE: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut env = Environment::empty();
    // `event.payload.a.b` is undefined, not an error, if `a` is missing, since events of a topic differ.
    env.set_undefined_behavior(UndefinedBehavior::Chainable);
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    env.set_formatter(|out, state, value| {
        settle(state)?;
        write_text(value, state, out)
    });
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
        self.render_until(Instant::now() + MAX_RENDERING_TIME, event, context)
    }

    pub(super) fn render_until(
        &self,
        deadline: Instant,
        event: &Event,
        context: &Context<'_>,
    ) -> Result<Bytes, RenderError> {
        let kib = fit(event.body().len().div_ceil(1024), u64::MAX);
        let limits = Limits { fuel: BASE_FUEL + kib * FUEL_PER_KIB, deadline };
        // A panic of the engine must fail only this delivery, and must not be retried.
        catch_unwind(AssertUnwindSafe(|| self.render_within(limits, event, context)))
            .unwrap_or_else(|_| Err(RenderError::new(None, "the template engine failed on this event")))
    }

    fn render_within(&self, limits: Limits, event: &Event, context: &Context<'_>) -> Result<Bytes, RenderError> {
        let source = Arc::new(Source::new(event.body(), limits));
        let root = Root::new(context, &source);
        // Fuel is a setting of the environment, whose copy costs a few counted references.
        let mut env = self.env.clone();
        env.set_fuel(Some(limits.fuel));
        let mut body = BoundedBody::default();
        let rendered = env
            .get_template(NAME)
            .and_then(|template| template.render_captured_to(Value::from_object(root), &mut body).map(drop));
        let line = rendered.as_ref().err().and_then(Error::line);
        let too_much = "the template does too much for an event of this size; loops cost the most";
        match rendered {
            _ if source.is_late() => Err(RenderError {
                took_too_long: true,
                ..RenderError::new(line, format!("the rendering took longer than {MAX_RENDERING_TIME:?}"))
            }),
            _ if body.is_full => {
                Err(RenderError::new(None, format!("the result is longer than {MAX_SHAPED_BYTES} bytes")))
            }
            _ if source.is_exhausted() => Err(RenderError::new(line, too_much)),
            Ok(()) => Ok(Bytes::from(body.bytes)),
            Err(error) if error.kind() == ErrorKind::OutOfFuel => Err(RenderError::new(line, too_much)),
            Err(error) => {
                let shown = reason(&error).chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
                Err(RenderError::new(line, shown))
            }
        }
    }
}

/// A writer with a limit.
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
    attempt: Value,
    now: Value,
    source: Value,
    /// The canonical body as a text.
    body: Value,
}

impl Root {
    fn new(context: &Context<'_>, source: &Arc<Source>) -> Self {
        let metadata = context.webhook_metadata.iter().map(|(key, value)| (Value::from(key), Value::from(value)));
        Self {
            event: source.root(),
            webhook: Value::from_pairs([
                ("name", Value::from(context.webhook_name)),
                ("id", Value::from(context.webhook_id)),
                ("metadata", Value::from_pairs(metadata)),
            ]),
            delivery: Value::from_pairs([("id", context.delivery_id)]),
            tenant: Value::from(context.tenant),
            attempt: Value::from(context.attempt),
            now: Value::from(context.now.to_string()),
            source: Value::from_object(SourceHandle(Arc::clone(source))),
            body: Value::from(Arc::clone(source.text())),
        }
    }
}

impl Object for Root {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match key.as_str()? {
            "event" => Some(self.event.clone()),
            "body" => Some(self.body.clone()),
            "webhook" => Some(self.webhook.clone()),
            "delivery" => Some(self.delivery.clone()),
            "tenant" => Some(self.tenant.clone()),
            "attempt" => Some(self.attempt.clone()),
            "now" => Some(self.now.clone()),
            SOURCE => Some(self.source.clone()),
            _ => None,
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Str(&["event", "body", "webhook", "delivery", "tenant", "attempt", "now"])
    }
}
