//! Who wants which events: the patterns and filters of all webhooks, by tenant.

use std::collections::{BTreeSet, HashMap};

use uuid::Uuid;

use super::PublishError;
use crate::dispatcher::lane::WEBHOOK_DISABLED;
use crate::event::Event;
use crate::filter::FilterIndex;
use crate::topic::{Pattern, PatternIndex, Topic};
use crate::webhook::{TenantSeq, WebhookRecord, WebhookSeq};

/// Every pattern of every webhook.
#[derive(Default)]
pub(super) struct Patterns {
    pub(super) by_tenant: HashMap<TenantSeq, Indexes>,
    pub(super) by_webhook: HashMap<WebhookSeq, Known>,
}

/// A webhook of this node or of another.
pub(super) struct Known {
    version: i64,
    pub(super) uuid: Uuid,
    pub(super) name: String,
    is_enabled: bool,
    /// The patterns in the index, for their removal.
    patterns: Vec<Pattern>,
}

impl Patterns {
    /// The reason why a webhook of another node gets no deliveries, if it gets none.
    pub(super) fn refusal(&self, webhook: WebhookSeq) -> Option<&'static str> {
        self.by_webhook.get(&webhook).filter(|known| !known.is_enabled).map(|_| WEBHOOK_DISABLED)
    }

    /// Adds a webhook, or replaces its patterns.
    pub(super) fn apply(&mut self, record: &WebhookRecord) {
        let indexes = self.by_tenant.entry(record.tenant).or_default();
        let new = Known {
            version: record.version,
            uuid: record.uuid,
            name: record.settings.name.clone(),
            is_enabled: record.settings.enabled,
            patterns: record.settings.topic_patterns.clone(),
        };
        if let Some(known) = self.by_webhook.get(&record.seq) {
            if known.version >= record.version {
                return;
            }
            for pattern in &known.patterns {
                indexes.for_pattern(pattern).remove(pattern, record.seq);
            }
        }
        match &record.settings.policy.filter {
            Some(filter) => indexes.filters.insert(filter, record.seq),
            None => indexes.filters.remove(record.seq),
        }
        for pattern in &new.patterns {
            indexes.for_pattern(pattern).insert(pattern, record.seq);
        }
        indexes.webhooks.insert(record.uuid, record.seq);
        self.by_webhook.insert(record.seq, new);
    }

    pub(super) fn remove(&mut self, tenant: TenantSeq, webhook: WebhookSeq) {
        if let (Some(known), Some(indexes)) = (self.by_webhook.remove(&webhook), self.by_tenant.get_mut(&tenant)) {
            for pattern in &known.patterns {
                indexes.for_pattern(pattern).remove(pattern, webhook);
            }
            indexes.filters.remove(webhook);
            indexes.webhooks.retain(|_, seq| *seq != webhook);
        }
    }
}

impl Patterns {
    /// The patterns of a tenant's enabled webhooks, each once, without those for the server's own events.
    pub(super) fn wanted(&self, tenant: TenantSeq) -> BTreeSet<Pattern> {
        let webhooks = self.by_tenant.get(&tenant).into_iter().flat_map(|indexes| indexes.webhooks.values());
        let enabled = webhooks.filter_map(|seq| self.by_webhook.get(seq)).filter(|known| known.is_enabled);
        enabled.flat_map(|known| &known.patterns).filter(|pattern| !pattern.is_operational()).cloned().collect()
    }
}

/// The patterns of a tenant. The server's own events have an index of their own, since a pattern such as `>` does not
/// match them.
#[derive(Default)]
pub(super) struct Indexes {
    events: PatternIndex<WebhookSeq>,
    operational: PatternIndex<WebhookSeq>,
    pub(super) filters: FilterIndex<WebhookSeq>,
    webhooks: HashMap<Uuid, WebhookSeq>,
}

impl Indexes {
    pub(super) fn of(&self, topic: &Topic) -> &PatternIndex<WebhookSeq> {
        if topic.is_operational() { &self.operational } else { &self.events }
    }

    /// Events of one commit delay all others. So they may have at most `max` deliveries together, unless they are a
    /// single event.
    pub(super) fn refuse_too_many(
        &self,
        events: &[Event],
        directed: &[Option<Vec<WebhookSeq>>],
        max: usize,
    ) -> Result<(), PublishError> {
        if events.len() < 2 || events.len().saturating_mul(self.webhooks.len()) <= max {
            return Ok(());
        }
        let (mut matching, mut deliveries) = (Vec::new(), 0);
        for (event, named) in events.iter().zip(directed) {
            matching.clear();
            self.of(event.topic()).matches(event.topic(), &mut matching);
            deliveries += named.as_ref().map_or(matching.len(), |named| named.len().min(matching.len()));
            if deliveries > max {
                return Err(PublishError::TooManyDeliveries { max });
            }
        }
        Ok(())
    }

    fn for_pattern(&mut self, pattern: &Pattern) -> &mut PatternIndex<WebhookSeq> {
        if pattern.is_operational() { &mut self.operational } else { &mut self.events }
    }
}

/// The webhooks that the `index`th event names, ascending; `None`: it names none, and goes to all that match.
pub(super) fn named(
    indexes: Option<&Indexes>,
    event: &Event,
    index: usize,
) -> Result<Option<Vec<WebhookSeq>>, PublishError> {
    let Some(uuids) = event.options().and_then(|options| options.webhooks.as_ref()) else { return Ok(None) };
    let find = |uuid: &Uuid| {
        let found = indexes.and_then(|indexes| indexes.webhooks.get(uuid)).copied();
        found.ok_or(PublishError::UnknownWebhook { index, webhook: *uuid })
    };
    let mut named = uuids.iter().map(find).collect::<Result<Vec<_>, _>>()?;
    named.sort_unstable();
    Ok(Some(named))
}
