//! Figures over time: added up over writers, made to hours and days once, and let go.

use std::collections::BTreeMap;
use std::time::Duration;

use postrider::clock::UnixMicros;
use postrider::figures::{Figure, Span, Step};
use postrider::store::Store;
use postrider::store::figures::{ALL_TENANTS, FigureOf, MAX_ROLLED_UP, RankBy, Tallied};
use postrider::webhook::{DEFAULT_TENANT, TenantSeq, WebhookSeq};

use crate::store_conformance::Fixture;
use crate::store_conformance::fixtures::{WIDE, at, settings, tenant, webhooks};

const LONG_AGO: UnixMicros = UnixMicros(0);

/// The beginning of an hour after the first day.
fn hour(number: i64) -> UnixMicros {
    UnixMicros((48 + number) * Step::Hour.length_us())
}

fn minute(hours: i64, minutes: i64) -> UnixMicros {
    UnixMicros(hour(hours).0 + minutes * Step::Minute.length_us())
}

fn of(webhook: WebhookSeq) -> FigureOf {
    FigureOf { tenant: DEFAULT_TENANT, webhook }
}

/// So many deliveries, of a millisecond each.
fn delivered(count: u64) -> Figure {
    let mut figure = Figure { accepted: count, delivered: count, ..Figure::default() };
    for _ in 0..count {
        figure.attempts.add(Duration::from_millis(1));
        figure.deliveries.add(Duration::from_millis(20));
    }
    figure
}

async fn add(store: &dyn Store, node: i64, at: UnixMicros, figures: &[(FigureOf, Figure)]) {
    let tallied = figures.iter().map(|(of, figure)| Tallied { at, of: *of, figure: figure.clone() });
    store.add_figures(node, tallied.collect::<Vec<_>>().into()).await.unwrap();
}

async fn read(store: &dyn Store, of: FigureOf, step: Step, to: UnixMicros) -> BTreeMap<UnixMicros, u64> {
    let span = Span::around(step, hour(0), to);
    let series = store.figures(of, span).await.unwrap();
    series.into_iter().map(|(at, figure)| (at, figure.delivered)).collect()
}

/// Returns how many transactions it took.
async fn roll_up(store: &dyn Store, step: Step, until: UnixMicros) -> u32 {
    let mut steps = 0;
    while store.roll_figures_up(step, until).await.unwrap() {
        steps += 1;
    }
    steps
}

pub(crate) async fn figures_add_up_over_writers_and_restarts<F: Fixture>() {
    let mut fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let [a, b] = webhooks(&*store).await;
    let sum = FigureOf::tenant(DEFAULT_TENANT);
    add(&*store, 0, minute(0, 3), &[(of(a), delivered(2)), (sum, delivered(2))]).await;
    add(&*store, 0, minute(0, 3), &[(of(a), delivered(3)), (of(b), delivered(1)), (sum, delivered(4))]).await;
    add(&*store, 77, minute(0, 3), &[(of(a), delivered(10)), (sum, delivered(10))]).await;
    add(&*store, 0, minute(0, 4), &[(of(a), delivered(1)), (FigureOf::ALL, delivered(1))]).await;
    fixture.restart().await;
    let store = fixture.store();
    let series = store.figures(of(a), Span::around(Step::Minute, hour(0), hour(1))).await.unwrap();
    assert_eq!(series, BTreeMap::from([(minute(0, 3), delivered(15)), (minute(0, 4), delivered(1))]));
    let counts = async |of| read(&*store, of, Step::Minute, hour(1)).await.into_values().collect::<Vec<_>>();
    assert_eq!((counts(of(b)).await, counts(sum).await, counts(FigureOf::ALL).await), (vec![1], vec![16], vec![1]));
    // The end is not in the span, another tenant has nothing, and longer steps see what is not made yet.
    assert_eq!(read(&*store, of(a), Step::Minute, minute(0, 4)).await, BTreeMap::from([(minute(0, 3), 15)]));
    let foreign = FigureOf { tenant: TenantSeq(9), webhook: a };
    assert_eq!(read(&*store, foreign, Step::Minute, hour(1)).await, BTreeMap::new());
    for step in [Step::Hour, Step::Day] {
        assert_eq!(read(&*store, of(a), step, hour(1)).await, BTreeMap::from([(hour(0), 16)]));
    }
}

pub(crate) async fn hours_and_days_are_made_once<F: Fixture>() {
    let mut fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let many = i64::try_from(2 * MAX_ROLLED_UP + 5).unwrap();
    let each: Vec<_> = (1..=many).map(|webhook| (of(WebhookSeq(webhook)), delivered(1))).collect();
    for (node, at) in [(0, minute(0, 0)), (0, minute(0, 59)), (5, minute(0, 59)), (0, minute(1, 0))] {
        for some in each.chunks(50) {
            add(&*store, node, at, some).await;
        }
    }
    // Some are in one minute alone.
    add(&*store, 0, minute(0, 30), &[(of(WebhookSeq(many + 1)), delivered(7))]).await;
    assert!(roll_up(&*store, Step::Hour, minute(1, 0)).await > 2, "so many do not go into one transaction");
    assert_eq!(roll_up(&*store, Step::Day, hour(24)).await, 0, "the day has minutes that are in no hour yet");
    assert_eq!(roll_up(&*store, Step::Hour, minute(1, 59)).await, 0, "the second hour has not ended");
    let hours = BTreeMap::from([(hour(0), 3), (hour(1), 1)]);
    let [first, last] = [1, many].map(|webhook| of(WebhookSeq(webhook)));
    for webhook in [first, of(WebhookSeq(64)), of(WebhookSeq(65)), last] {
        assert_eq!(read(&*store, webhook, Step::Hour, hour(3)).await, hours, "{webhook:?}");
    }
    assert_eq!(read(&*store, of(WebhookSeq(many + 1)), Step::Hour, hour(3)).await, BTreeMap::from([(hour(0), 7)]));

    // In the middle of an hour: what is made already gets what comes late, and so does what is not.
    assert!(store.roll_figures_up(Step::Hour, hour(2)).await.unwrap());
    fixture.restart().await;
    let store = fixture.store();
    add(&*store, 5, minute(1, 1), &[(first, delivered(100)), (last, delivered(100))]).await;
    add(&*store, 5, minute(0, 1), &[(first, delivered(1_000))]).await;
    let late = BTreeMap::from([(hour(0), 1_003), (hour(1), 101)]);
    assert_eq!(read(&*store, first, Step::Hour, hour(3)).await, late);
    assert!(roll_up(&*store, Step::Hour, hour(2)).await > 0);
    assert_eq!(read(&*store, first, Step::Hour, hour(3)).await, late);
    assert_eq!(read(&*store, last, Step::Hour, hour(3)).await, BTreeMap::from([(hour(0), 3), (hour(1), 101)]));

    // A day later there is nothing to make but the day, once.
    let day = BTreeMap::from([(hour(0), 1_104)]);
    assert_eq!(read(&*store, first, Step::Day, hour(24)).await, day, "before it is made");
    assert_eq!(roll_up(&*store, Step::Day, hour(23)).await, 0);
    add(&*store, 0, minute(24, 0), &[(first, delivered(1))]).await;
    assert_eq!(roll_up(&*store, Step::Hour, hour(25)).await, 1);
    assert!(roll_up(&*store, Step::Day, hour(24)).await > 1);
    assert_eq!(roll_up(&*store, Step::Day, hour(24)).await, 0);
    assert_eq!(read(&*store, first, Step::Day, hour(24)).await, day);
    add(&*store, 5, minute(7, 0), &[(first, delivered(1))]).await;
    add(&*store, 0, minute(7, 0), &[(first, delivered(1))]).await;
    let days = BTreeMap::from([(hour(0), 1_106), (hour(24), 1)]);
    assert_eq!(read(&*store, first, Step::Day, hour(48)).await, days, "what comes late for a day is not lost either");
    let series = store.figures(first, Span::around(Step::Day, hour(0), hour(24))).await.unwrap();
    assert_eq!(series[&hour(0)], delivered(1_106), "durations and all");
}

pub(crate) async fn old_figures_go_when_nothing_is_to_be_made_of_them<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let webhook = WebhookSeq(3);
    let each: Vec<_> = (1..=120).map(|webhook| (of(WebhookSeq(webhook)), delivered(1))).collect();
    for minutes in 0..10 {
        add(&*store, 0, minute(minutes / 5, minutes % 5), &each).await;
    }
    assert!(!store.purge_figures(Step::Minute, hour(1)).await.unwrap());
    assert_eq!(read(&*store, of(webhook), Step::Hour, hour(2)).await.len(), 2, "they are still needed");
    roll_up(&*store, Step::Hour, hour(1)).await;
    let mut steps = 1;
    while store.purge_figures(Step::Minute, hour(2)).await.unwrap() {
        steps += 1;
    }
    assert_eq!(steps, 2, "600 rows, 500 a step");
    let minutes = read(&*store, of(webhook), Step::Minute, hour(2)).await;
    assert_eq!(minutes.keys().copied().collect::<Vec<_>>(), [0, 1, 2, 3, 4].map(|n| minute(1, n)));
    assert_eq!(read(&*store, of(webhook), Step::Hour, hour(2)).await, BTreeMap::from([(hour(0), 5), (hour(1), 5)]));

    roll_up(&*store, Step::Hour, hour(2)).await;
    assert!(!store.purge_figures(Step::Hour, hour(2)).await.unwrap());
    assert_eq!(read(&*store, of(webhook), Step::Day, hour(24)).await, BTreeMap::from([(hour(0), 10)]));
    assert!(!store.purge_figures(Step::Day, hour(24)).await.unwrap(), "there is none");
    add(&*store, 0, minute(24, 0), &each[..1]).await;
    roll_up(&*store, Step::Hour, hour(25)).await;
    roll_up(&*store, Step::Day, hour(24)).await;
    assert!(!store.purge_figures(Step::Hour, hour(2)).await.unwrap());
    assert_eq!(read(&*store, of(webhook), Step::Hour, hour(2)).await, BTreeMap::new());
    assert_eq!(read(&*store, of(webhook), Step::Day, hour(24)).await, BTreeMap::from([(hour(0), 10)]));
    assert!(!store.purge_figures(Step::Day, hour(1)).await.unwrap());
    assert_eq!(read(&*store, of(webhook), Step::Day, hour(24)).await, BTreeMap::new());
}

pub(crate) async fn webhooks_are_ranked<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let [busy, sick, slow, idle, gone] = webhooks(&*store).await;
    let blue = tenant(&*store, "blue").await;
    let theirs = store.create_webhook(blue, settings("theirs"), at(1)).await.unwrap();
    let theirs = FigureOf { tenant: blue, webhook: theirs.seq };
    let uuid = store.webhooks(DEFAULT_TENANT).await.unwrap()[4].uuid;
    store.delete_webhook(DEFAULT_TENANT, uuid, at(2)).await.unwrap();
    let mut late = delivered(1);
    late.attempts.add(Duration::from_secs(20));
    let figures = [
        (of(busy), delivered(9)),
        (of(sick), Figure { failed: 50, dead: 3, ..delivered(2) }),
        (of(slow), Figure { failed: 1, ..late }),
        (of(idle), Figure { skipped: 1_000, ..Figure::default() }),
        (of(gone), delivered(10_000)),
        (theirs, delivered(20)),
        (FigureOf::tenant(DEFAULT_TENANT), delivered(100_000)),
        (FigureOf::ALL, delivered(100_000)),
    ];
    add(&*store, 0, minute(0, 5), &figures).await;
    add(&*store, 8, minute(1, 5), &[(of(sick), Figure { failed: 5, ..delivered(6) })]).await;
    roll_up(&*store, Step::Hour, hour(1)).await;
    let ranked = async |tenant, step, by, limit| {
        let span = Span::around(step, hour(0), hour(2));
        let ranking = store.ranked_webhooks(tenant, span, by, limit).await.unwrap();
        assert!(!ranking.is_partial);
        ranking.webhooks
    };
    for step in Step::ALL {
        let names = async |tenant, by, limit| {
            let ranked = ranked(tenant, step, by, limit).await;
            ranked.into_iter().map(|webhook| webhook.name).collect::<Vec<_>>()
        };
        let (most, all) = (["webhook 0", "webhook 1", "webhook 2"], ["theirs", "webhook 0", "webhook 1"]);
        assert_eq!(names(DEFAULT_TENANT, RankBy::Delivered, 9).await, most);
        assert_eq!(names(ALL_TENANTS, RankBy::Delivered, 3).await, all);
        assert_eq!(names(DEFAULT_TENANT, RankBy::Failed, 9).await, ["webhook 1", "webhook 2"]);
        assert_eq!(names(DEFAULT_TENANT, RankBy::Dead, 9).await, ["webhook 1"]);
        assert_eq!(names(DEFAULT_TENANT, RankBy::Latency, 1).await, ["webhook 2"]);
        assert_eq!(names(blue, RankBy::Latency, 9).await, ["theirs"]);
    }
    let sickest = ranked(DEFAULT_TENANT, Step::Hour, RankBy::Failed, 1).await;
    let [sickest] = &sickest[..] else { panic!("{sickest:?}") };
    assert_eq!((sickest.tenant, sickest.figure.failed, sickest.figure.delivered), (DEFAULT_TENANT, 55, 8));
    assert_eq!(sickest.figure.attempts.count(), 8);
    let before = Span::around(Step::Hour, LONG_AGO, hour(0));
    let nothing = store.ranked_webhooks(DEFAULT_TENANT, before, RankBy::Delivered, 9).await.unwrap();
    assert_eq!(nothing.webhooks, []);
}
