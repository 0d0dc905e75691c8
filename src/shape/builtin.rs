//! The built-in shapes, each a template in a file.

use std::sync::LazyLock;

use super::template::Template;
use super::{DECNET, JSON, PAYLOAD, RenderError};

/// A shape that comes with the program.
pub struct Builtin {
    pub name: &'static str,
    /// The purpose, in one sentence.
    pub description: &'static str,
    pub content_type: &'static str,
    /// Jinja; `None` for bytes of the event as they are.
    pub source: Option<&'static str>,
    /// Compiled at its first use.
    compiled: LazyLock<Option<Template>>,
}

macro_rules! builtin {
    ($name:literal, $content_type:expr, $description:literal) => {
        Builtin {
            name: $name,
            description: $description,
            content_type: $content_type,
            source: Some(include_str!(concat!("templates/", $name, ".j2"))),
            compiled: LazyLock::new(|| Template::compile(include_str!(concat!("templates/", $name, ".j2"))).ok()),
        }
    };
}

/// A shape without a template: bytes of the event.
const fn as_it_is(name: &'static str, description: &'static str) -> Builtin {
    Builtin { name, description, content_type: JSON, source: None, compiled: LazyLock::new(|| None) }
}

static BUILTINS: [Builtin; 11] = [
    as_it_is(DECNET, "The event as it is stored: id, payload, topic, ts, type and v; an empty payload is {}."),
    as_it_is(PAYLOAD, "The payload alone, as it is stored."),
    builtin!(
        "cloudevents",
        "application/cloudevents+json; charset=utf-8",
        "CloudEvents 1.0, structured mode: the payload is `data`, the topic `subject`."
    ),
    builtin!("slack", JSON, "A message with blocks for an incoming webhook of Slack."),
    builtin!("discord", JSON, "A message with an embed for a webhook of Discord; mentions nobody."),
    builtin!("teams", JSON, "An Adaptive Card for a Workflows webhook of Microsoft Teams."),
    builtin!("splunk_hec", JSON, "An event for Splunk's HTTP Event Collector, `/services/collector/event`."),
    builtin!("elastic_ecs", JSON, "A document in the Elastic Common Schema, for `POST /<data stream>/_doc`."),
    builtin!("thehive_alert", JSON, "An alert for TheHive 5, `POST /api/v1/alert`."),
    builtin!("wazuh", JSON, "An event for analysis by Wazuh's server API, `POST /events`."),
    builtin!(
        "syslog",
        "text/plain; charset=utf-8",
        "One line as RFC 5424 has it, for collectors that take syslog by HTTP."
    ),
];

/// Every built-in shape, `decnet` first.
pub fn builtins() -> &'static [Builtin] {
    &BUILTINS
}

pub(super) fn find(name: &str) -> Option<&'static Builtin> {
    BUILTINS.iter().find(|builtin| builtin.name == name)
}

/// All names, for errors.
pub(super) fn names() -> String {
    BUILTINS.iter().map(|builtin| builtin.name).collect::<Vec<_>>().join(", ")
}

impl Builtin {
    pub(super) fn template(&self) -> Result<&Template, RenderError> {
        // A test compiles all of them.
        let missing = || RenderError::new(None, format!("the shape {} has no template", self.name));
        self.compiled.as_ref().ok_or_else(missing)
    }
}

/// A sample event for previews, as a publisher sends it.
#[must_use]
pub fn sample() -> &'static str {
    include_str!("templates/sample.json")
}
