//! The built-in shapes, each a template in a file.

use std::sync::LazyLock;

use super::template::Template;
use super::{DECNET, FORWARD, JSON, PAYLOAD, RenderError};
use crate::delivery::statuses::{StatusLists, StatusSpan, Statuses};
use crate::filter::Filter;

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

static BUILTINS: [Builtin; 12] = [
    as_it_is(DECNET, "The event as it is stored: id, payload, topic, ts, type and v; an empty payload is {}."),
    as_it_is(PAYLOAD, "The payload alone, as it is stored."),
    as_it_is(FORWARD, "What came in at an inlet: its body, content type and kept headers, as they came."),
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

/// What is known of the answers of a shape's receivers, beyond what is true of all.
#[derive(Debug, Default)]
pub(super) struct Answers {
    pub(super) statuses: StatusLists,
    /// Which answers with the status of a success are one.
    pub(super) success_when: Option<Filter>,
}

/// Elasticsearch's `_bulk` answers 200 though documents were refused, and says so at the beginning of its body, which may be
/// longer than what is read of it: <https://www.elastic.co/docs/api/doc/elasticsearch/operation/operation-bulk>.
const BULK_WITHOUT_ERRORS: &str = r#"{"text": [{"anything-but": {"wildcard": ["*\"errors\":true*", "*\"errors\": true*", "*\"errors\" : true*", "*\"errors\" :true*"]}}]}"#;
/// An incoming webhook of Teams answers 200 though the message was not posted:
/// <https://learn.microsoft.com/microsoftteams/platform/webhooks-and-connectors/how-to/connectors-using>.
const POSTED_TO_TEAMS: &str = r#"{"text": [{"anything-but": {"wildcard": "*delivery failed with error*"}}]}"#;
/// `TheHive`'s answer for an alert that it has already.
const ALERT_EXISTS: u16 = 409;

static NOTHING: Answers = Answers {
    statuses: StatusLists { retry_on: Statuses::EMPTY, final_on: Statuses::EMPTY, success_on: Statuses::EMPTY },
    success_when: None,
};
static OF_ELASTIC: LazyLock<Answers> = LazyLock::new(|| Answers::with(BULK_WITHOUT_ERRORS));
static OF_TEAMS: LazyLock<Answers> = LazyLock::new(|| Answers::with(POSTED_TO_TEAMS));
static OF_THEHIVE: LazyLock<Answers> = LazyLock::new(|| {
    let success_on = Statuses::new(StatusSpan::one(ALERT_EXISTS).into_iter().collect());
    Answers { statuses: StatusLists { success_on, ..StatusLists::default() }, success_when: None }
});

impl Answers {
    /// A test asks each of them.
    fn with(success_when: &str) -> Self {
        Self { success_when: Filter::parse(success_when).ok(), ..Self::default() }
    }

    pub(super) fn of(shape: &str) -> &'static Self {
        match shape {
            "elastic_ecs" => &OF_ELASTIC,
            "teams" => &OF_TEAMS,
            "thehive_alert" => &OF_THEHIVE,
            _ => &NOTHING,
        }
    }
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
