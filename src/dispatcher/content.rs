//! What the request of a job carries: events as they are, or bodies in the webhook's shape.

use std::sync::Arc;

use uuid::Uuid;

use super::Shared;
use super::batch::BatchContent;
use super::lane::{Job, Lane, LaneSettings, Queued};
use super::shaping::{Rendered, Shaped};
use super::unsent::{erased, too_old, unsent};
use crate::clock::{Clock, UnixMicros};
use crate::delivery::id::DeliveryKey;
use crate::shape::{BatchForm, Member};

/// Why a delivery ended whose event came back from the disk otherwise than it was stored.
const DAMAGED: &str = "stored body is damaged";

/// What is sent.
pub(super) enum Content {
    /// The event as it is stored.
    Event,
    Shaped(Shaped),
    Batch(BatchContent),
    /// Nothing: this machine took too long to make it.
    Late(String),
}

/// Makes the content of a job's request. Deliveries that cannot be sent end, and those that do not fit go back to the lane;
/// `None`: nothing is left.
pub(super) async fn content(shared: &Arc<Shared>, lane: &Arc<Lane>, job: Job) -> Option<(Job, Content)> {
    let job = sound(shared, lane, job).await?;
    let settings = Arc::clone(&job.settings);
    match settings.policy.batch_form() {
        None if settings.policy.shape.is_decnet() && settings.policy.header_templates.is_empty() => {
            Some((job, Content::Event))
        }
        None => shaped(shared, lane, job).await,
        Some(form) => batch(shared, lane, job, form.unwrap_or(BatchForm::Events)).await,
    }
}

/// What of a job may be sent: deliveries of damaged events end, and those that are too old.
async fn sound(shared: &Arc<Shared>, lane: &Arc<Lane>, job: Job) -> Option<Job> {
    let now = shared.clock.now();
    let is_sound = |queued: &Queued| !queued.is_damaged() && too_old(queued, &job.settings, now).is_none();
    if is_sound(&job.queued) && job.more.iter().all(is_sound) {
        return Some(job);
    }
    let Job { queued, more, settings, todo } = job;
    let mut left = Vec::with_capacity(more.len() + 1);
    for queued in std::iter::once(queued).chain(more) {
        let ended = if queued.event.live.event.is_erased() {
            Some(erased(shared, lane, &queued))
        } else {
            let reason = ailment(shared, &settings, &queued, now);
            reason.map(|reason| unsent(shared, lane, &settings, &queued, reason))
        };
        match ended {
            None => left.push(queued),
            Some(ended) => shared.outcomes.send(ended).await.ok()?,
        }
    }
    with_left(shared, lane, left, settings, todo)
}

/// Why a delivery must not be sent.
fn ailment(shared: &Shared, settings: &LaneSettings, queued: &Queued, now: UnixMicros) -> Option<String> {
    if !queued.is_damaged() {
        return too_old(queued, settings, now);
    }
    let (event, webhook) = (queued.event.live.event.id(), &settings.name);
    tracing::error!(event, webhook, "the stored event is damaged: it is not sent; look at the disk");
    shared.counters.deliveries_damaged.add(1);
    Some(DAMAGED.to_owned())
}

/// The job of the deliveries that are left of one, if there are any.
fn with_left(
    shared: &Arc<Shared>,
    lane: &Arc<Lane>,
    left: Vec<Queued>,
    settings: Arc<LaneSettings>,
    todo: super::lane::Todo,
) -> Option<Job> {
    let mut left = left.into_iter();
    let Some(queued) = left.next() else {
        shared.carry_out(lane, lane.not_attempted(shared.clock.now()));
        return None;
    };
    Some(Job { queued, more: left.collect(), settings, todo })
}

fn rendered(shared: &Shared, delivery: Uuid, queued: &Queued) -> Rendered {
    Rendered { delivery, attempt: queued.attempts.saturating_add(1), now: shared.wall.now() }
}

async fn shaped(shared: &Arc<Shared>, lane: &Arc<Lane>, job: Job) -> Option<(Job, Content)> {
    let delivery = shared.store.delivery_ids().encode(DeliveryKey { event: job.queued.seq(), webhook: lane.seq });
    let rendered = rendered(shared, delivery, &job.queued);
    match shared.shaping.shape(&job.settings, &job.queued.event.live, rendered).await {
        Ok(body) => Some((job, Content::Shaped(body))),
        // The machine may be busy: tried again as any attempt that failed here.
        Err(error) if error.took_too_long => Some((job, Content::Late(error.to_string()))),
        Err(error) => {
            let reason = error.to_string();
            shared.carry_out(lane, lane.not_attempted(shared.clock.now()));
            shared.outcomes.send(unsent(shared, lane, &job.settings, &job.queued, reason)).await.ok()?;
            None
        }
    }
}

/// The bodies of a batch, one rendering after the other, each in the tenant's turn. What has none ends; what does not fit
/// goes back.
async fn batch(shared: &Arc<Shared>, lane: &Arc<Lane>, job: Job, form: BatchForm) -> Option<(Job, Content)> {
    let Job { queued, more, settings, todo } = job;
    let ids = shared.store.delivery_ids();
    let max_bytes = settings.policy.batch.map_or(0, |batch| batch.max_bytes);
    let (mut left, mut members) = (Vec::with_capacity(more.len() + 1), Vec::with_capacity(more.len() + 1));
    let (mut bytes, mut content_type) = (0, None);
    let mut deliveries = std::iter::once(queued).chain(more);
    let mut too_late = None;
    for queued in deliveries.by_ref() {
        let delivery = ids.encode(DeliveryKey { event: queued.seq(), webhook: lane.seq });
        let body = if settings.policy.shape.is_decnet() {
            queued.event.live.event.decnet_body()
        } else {
            let rendered = rendered(shared, delivery, &queued);
            match shared.shaping.shape(&settings, &queued.event.live, rendered).await {
                Ok(one) => {
                    content_type.get_or_insert(one.content_type);
                    one.body
                }
                Err(error) if error.took_too_long => {
                    left.push(queued);
                    too_late = Some(error.to_string());
                    break;
                }
                Err(error) => {
                    shared.outcomes.send(unsent(shared, lane, &settings, &queued, error.to_string())).await.ok()?;
                    continue;
                }
            }
        };
        bytes += body.len();
        if bytes > max_bytes && !members.is_empty() {
            left.push(queued);
            break;
        }
        members.push(Member { delivery, body });
        left.push(queued);
    }
    // The one at which the loop ended, if it did, and all behind it.
    let sent = if too_late.is_some() { left.len() } else { members.len() };
    let mut rest = left.split_off(sent);
    rest.extend(deliveries);
    if !rest.is_empty() {
        shared.carry_out(lane, lane.put_back(rest, shared.clock.now()));
    }
    let job = with_left(shared, lane, left, settings, todo)?;
    let content = too_late.map_or(Content::Batch(BatchContent { form, members, content_type }), Content::Late);
    Some((job, content))
}
