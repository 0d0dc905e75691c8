//! Figures over time, on their way to the store: what was committed is counted here by webhook and minute, until the engine
//! takes it. Nothing is counted before its commit, so a store that fails leaves nothing to count.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::clock::UnixMicros;
use crate::delivery::DeliveryState;
use crate::figures::{Figure, Step};
use crate::store::Settlement;
use crate::store::figures::{ALL_WEBHOOKS, FigureOf, Tallied};
use crate::webhook::{TenantSeq, WebhookSeq};

/// The most webhooks and tenants that are counted at once, each in each minute anew. Beyond it webhooks are counted in the sums
/// alone, until the engine has taken what there is.
pub(crate) const MAX_TALLIED: usize = 32_768;

/// The counts since they were taken last. What is idle takes no memory.
#[derive(Default)]
pub(crate) struct Tally {
    is_on: AtomicBool,
    figures: Mutex<HashMap<(UnixMicros, FigureOf), Figure>>,
    filling: Notify,
}

impl Tally {
    /// Counts from now on.
    pub(crate) fn turn_on(&self) {
        self.is_on.store(true, Ordering::Relaxed);
    }

    /// Counts an event of a tenant, and those that are to get it or, with `true`, are skipped.
    pub(crate) fn accepted(
        &self,
        at: UnixMicros,
        tenant: TenantSeq,
        webhooks: impl Iterator<Item = (WebhookSeq, bool)>,
    ) {
        if !self.is_on.load(Ordering::Relaxed) {
            return;
        }
        let minute = Step::Minute.floor(at);
        let mut figures = self.figures.lock();
        let (_, figure) = self.place(&mut figures, minute, FigureOf::tenant(tenant));
        figure.accepted += 1;
        for (webhook, is_skipped) in webhooks {
            let (place, figure) = self.place(&mut figures, minute, FigureOf { tenant, webhook });
            if is_skipped {
                figure.skipped += 1;
            } else if place.webhook != ALL_WEBHOOKS {
                // The sums have the events.
                figure.accepted += 1;
            }
        }
    }

    /// Counts what attempts came to; each with the time from which the delivery's duration is counted.
    pub(super) fn settled<'a>(&self, settlements: impl Iterator<Item = (FigureOf, &'a Settlement, UnixMicros)>) {
        if !self.is_on.load(Ordering::Relaxed) {
            return;
        }
        let mut figures = self.figures.lock();
        for (of, settlement, since) in settlements {
            let state = settlement.transition.state();
            let is_end = matches!(state, DeliveryState::Delivered | DeliveryState::Dead);
            if settlement.attempt.is_none() && !is_end {
                continue;
            }
            let (_, figure) = self.place(&mut figures, Step::Minute.floor(settlement.at), of);
            if let Some(attempt) = &settlement.attempt {
                figure.attempts.add_us(u64::try_from(attempt.duration_us).unwrap_or_default());
                figure.failed += u64::from(attempt.error.is_some());
            }
            match state {
                DeliveryState::Delivered => {
                    figure.delivered += 1;
                    figure.deliveries.add(settlement.at.since(since));
                }
                DeliveryState::Dead => figure.dead += 1,
                DeliveryState::Pending | DeliveryState::Skipped | DeliveryState::Discarded => {}
            }
        }
    }

    /// Where something is counted: in its own place or, without room for that, in the sum of its tenant or of all.
    fn place<'a>(
        &self,
        figures: &'a mut HashMap<(UnixMicros, FigureOf), Figure>,
        minute: UnixMicros,
        of: FigureOf,
    ) -> (FigureOf, &'a mut Figure) {
        let of = if figures.len() < MAX_TALLIED {
            of
        } else {
            self.filling.notify_one();
            let places = [of, FigureOf::tenant(of.tenant)];
            places.into_iter().find(|of| figures.contains_key(&(minute, *of))).unwrap_or(FigureOf::ALL)
        };
        (of, figures.entry((minute, of)).or_default())
    }

    /// Ready when there is no more room.
    pub(crate) async fn is_full(&self) {
        self.filling.notified().await;
    }

    /// Takes the counts, with the sums of tenants and of all, in the order of minutes.
    pub(crate) fn take(&self) -> Vec<Tallied> {
        let figures = std::mem::take(&mut *self.figures.lock());
        let mut tallied: BTreeMap<(UnixMicros, FigureOf), Figure> = figures.into_iter().collect();
        let mut sums: BTreeMap<(UnixMicros, FigureOf), Figure> = BTreeMap::new();
        for ((at, of), figure) in tallied.iter().filter(|((_, of), _)| of.webhook != ALL_WEBHOOKS) {
            // An event is one for its tenant, whoever gets it.
            let figure = Figure { accepted: 0, ..figure.clone() };
            sums.entry((*at, FigureOf::tenant(of.tenant))).or_default().merge(&figure);
        }
        for (key, figure) in std::mem::take(&mut sums) {
            tallied.entry(key).or_default().merge(&figure);
        }
        for ((at, of), figure) in &tallied {
            if of.webhook == ALL_WEBHOOKS && *of != FigureOf::ALL {
                sums.entry((*at, FigureOf::ALL)).or_default().merge(figure);
            }
        }
        for (key, figure) in sums {
            tallied.entry(key).or_default().merge(&figure);
        }
        tallied.into_iter().map(|((at, of), figure)| Tallied { at, of, figure }).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::delivery::Transition;
    use crate::store::{AttemptRecord, DeliveryKey, EventSeq, ExchangeBlob};

    const NOW: UnixMicros = UnixMicros(1_790_000_042_500_000);

    fn of(tenant: i64, webhook: i64) -> FigureOf {
        FigureOf { tenant: TenantSeq(tenant), webhook: WebhookSeq(webhook) }
    }

    fn settlement(webhook: i64, transition: Transition, error: Option<&str>) -> Settlement {
        let attempt = AttemptRecord {
            number: 1,
            started_at: NOW,
            duration_us: 3_000,
            status_code: None,
            error: error.map(str::to_owned),
            response: Bytes::new(),
            exchange: ExchangeBlob::default(),
        };
        let key = DeliveryKey { event: EventSeq(1), webhook: WebhookSeq(webhook) };
        Settlement { key, attempt: Some(attempt), round_attempts: 1, transition, at: NOW }
    }

    fn tally() -> Tally {
        let tally = Tally::default();
        tally.turn_on();
        tally
    }

    fn figure(tallied: &[Tallied], wanted: FigureOf) -> Figure {
        let found: Vec<_> = tallied.iter().filter(|tallied| tallied.of == wanted).collect();
        assert_eq!(found.len(), 1, "{wanted:?}");
        assert_eq!(found[0].at, Step::Minute.floor(NOW));
        found[0].figure.clone()
    }

    #[test]
    fn what_is_accepted_is_one_event_whoever_gets_it() {
        let tally = tally();
        let (a, b) = (WebhookSeq(3), WebhookSeq(4));
        tally.accepted(NOW, TenantSeq(1), [(a, false), (b, true)].into_iter());
        tally.accepted(NOW, TenantSeq(1), [(a, false), (b, false)].into_iter());
        tally.accepted(NOW, TenantSeq(2), std::iter::empty());
        let tallied = tally.take();
        let counts = |wanted| {
            let Figure { accepted, skipped, .. } = figure(&tallied, wanted);
            (accepted, skipped)
        };
        assert_eq!([of(1, 3), of(1, 4), of(1, 0)].map(counts), [(2, 0), (1, 1), (2, 1)]);
        assert_eq!([of(2, 0), FigureOf::ALL].map(counts), [(1, 0), (3, 1)]);
        assert_eq!(tallied.len(), 5);
        assert_eq!(tally.take(), [], "it is taken once");
    }

    #[test]
    fn what_attempts_come_to_is_counted_once_in_each_sum() {
        let tally = tally();
        let (fine, again) = (Transition::delivered(), Transition::retry_at(NOW, "503".to_owned()));
        let settlements = [
            settlement(3, fine, None),
            settlement(3, again.clone(), Some("503")),
            settlement(4, Transition::dead("404".to_owned()), Some("404")),
            Settlement { attempt: None, ..settlement(4, Transition::dead("too old".to_owned()), None) },
            Settlement { attempt: None, ..settlement(5, again, None) },
        ];
        let since = UnixMicros(NOW.0 - 7_000_000);
        tally.settled(
            settlements.iter().map(|settlement| {
                (FigureOf { tenant: TenantSeq(1), webhook: settlement.key.webhook }, settlement, since)
            }),
        );
        let tallied = tally.take();
        let counts = |wanted| {
            let figure = figure(&tallied, wanted);
            (figure.delivered, figure.failed, figure.dead, figure.attempts.count(), figure.deliveries.count())
        };
        assert_eq!([of(1, 3), of(1, 4)].map(counts), [(1, 1, 0, 2, 1), (0, 1, 2, 1, 0)]);
        assert_eq!([of(1, 0), FigureOf::ALL].map(counts), [(1, 2, 2, 3, 1); 2]);
        assert_eq!(tallied.len(), 4, "one without an attempt and an end is not counted");
        let took = figure(&tallied, of(1, 3)).deliveries.quantile(1.0).unwrap();
        assert!(took >= Duration::from_secs(4) && took <= Duration::from_secs(9), "{took:?}");
    }

    #[test]
    fn what_is_off_counts_nothing() {
        let tally = Tally::default();
        tally.accepted(NOW, TenantSeq(1), [(WebhookSeq(3), false)].into_iter());
        let settlement = settlement(3, Transition::delivered(), None);
        tally.settled([(of(1, 3), &settlement, NOW)].into_iter());
        assert_eq!(tally.take(), []);
    }

    #[tokio::test]
    async fn webhooks_without_room_are_in_the_sums_alone() {
        let tally = tally();
        let many = i64::try_from(MAX_TALLIED).unwrap();
        tally.accepted(NOW, TenantSeq(1), (1..=many + 500).map(|webhook| (WebhookSeq(webhook), webhook % 2 == 0)));
        tally.accepted(NOW, TenantSeq(2), [(WebhookSeq(many + 1_000), false)].into_iter());
        let settlement = settlement(many + 1_001, Transition::delivered(), None);
        tally.settled([(of(2, many + 1_001), &settlement, NOW)].into_iter());
        assert!(tally.figures.lock().len() <= MAX_TALLIED + 1, "the sum of all has always room");
        tokio::time::timeout(Duration::from_secs(1), tally.is_full()).await.expect("the engine is told");
        let tallied = tally.take();
        let tenant = figure(&tallied, of(1, 0));
        assert_eq!((tenant.accepted, tenant.skipped), (1, MAX_TALLIED as u64 / 2 + 250));
        let all = figure(&tallied, FigureOf::ALL);
        assert_eq!((all.accepted, all.delivered, all.skipped), (2, 1, tenant.skipped));
    }
}
