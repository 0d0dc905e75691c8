//! The engine as a whole: real store, real sockets, what the receiver got.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use postrider::clock::{SystemClock, UnixMicros};
use postrider::delivery::DeliveryState;
use postrider::delivery::client::{Client, ClientOptions};
use postrider::dispatcher::{CircuitSettings, DispatcherSettings, MIN_MEMORY_BYTES};
use postrider::engine::Engine;
use postrider::event::Event;
use postrider::store::StoreError;
use postrider::store::seal::MasterKey;
use postrider::store::sqlite::{SqliteOptions, SqliteStore};
use postrider::topic::Topic;
use postrider::webhook::{DEFAULT_TENANT, WebhookPatch};

use crate::support::engine::{
    MASTER_KEY, Sentinel, change, deliveries, events, publish, settings, start, start_with, stop, subscribe, wait_for,
};
use crate::support::receiver::{Answer, TestReceiver};
use crate::support::server::Log;

#[tokio::test(flavor = "multi_thread")]
async fn an_event_reaches_each_webhook_that_wants_it_once() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start(folder.path()).await;
    let receiver = TestReceiver::healthy().await;
    subscribe(&engine, "all", ">", &receiver.url("/all")).await;
    subscribe(&engine, "attackers", "attacker.>", &receiver.url("/attackers")).await;
    subscribe(&engine, "systems", "system.>", &receiver.url("/systems")).await;

    let receipts = publish(&engine, "attacker.seen", 1).await;

    assert_eq!(receipts[0].deliveries, 2);
    let requests = receiver.wait_for(2).await;
    let mut paths: Vec<_> = requests.iter().map(|request| request.path.as_str()).collect();
    paths.sort_unstable();
    assert_eq!(paths, ["/all", "/attackers"]);
    assert_ne!(requests[0].header("webhook-id"), requests[1].header("webhook-id"), "an id names one delivery");
    wait_for(&engine, DeliveryState::Delivered, 2).await;
    stop(engine).await;
    assert_eq!(receiver.received().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_a_lane_holds_waits_in_the_store_and_arrives() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start(folder.path()).await;
    let receiver = TestReceiver::start(|_, _| Answer(200, Duration::from_millis(1))).await;
    subscribe(&engine, "slow", ">", &receiver.url("/")).await;

    for _ in 0..20 {
        publish(&engine, "a.b", 100).await;
    }

    receiver.wait_for(2_000).await;
    for _ in 0..1_000 {
        if engine.store().stats(DEFAULT_TENANT).await.unwrap().delivered == 2_000 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(engine.store().stats(DEFAULT_TENANT).await.unwrap().pending, 0);
    stop(engine).await;
    let arrivals = receiver.arrivals();
    assert_eq!(arrivals.len(), 2_000);
    assert!(arrivals.values().all(|count| *count == 1), "an event arrived twice without a crash");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_attempt_is_made_again_on_the_schedule_with_the_same_ids() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start(folder.path()).await;
    let receiver = TestReceiver::start(|n, _| if n < 2 { 503.into() } else { 200.into() }).await;
    subscribe(&engine, "flaky", ">", &receiver.url("/")).await;

    publish(&engine, "a.b", 1).await;

    let requests = receiver.wait_for(3).await;
    let delivered = wait_for(&engine, DeliveryState::Delivered, 1).await;
    assert_eq!(delivered[0].attempts, 3);
    let attempts = engine.store().attempts(delivered[0].key).await.unwrap();
    let errors: Vec<_> = attempts.iter().map(|attempt| attempt.error.as_deref()).collect();
    assert_eq!(errors, [Some("http 503"), Some("http 503"), None]);
    assert_eq!(attempts.iter().map(|attempt| attempt.number).collect::<Vec<_>>(), [1, 2, 3]);
    for name in ["webhook-id", "x-decnet-event-id", "x-decnet-signature"] {
        assert!(requests.iter().all(|request| request.header(name) == requests[0].header(name)), "{name} changed");
    }
    assert!(requests.iter().all(|request| request.body == requests[0].body));
    stop(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_ends_dead_when_the_schedule_is_exhausted_or_the_answer_is_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let settings =
        DispatcherSettings { circuit: CircuitSettings { threshold: 100, ..settings().circuit }, ..settings() };
    let engine = start_with(folder.path(), settings).await;
    let receiver =
        TestReceiver::start(|_, request| if request.path == "/gone" { 404.into() } else { 500.into() }).await;
    subscribe(&engine, "broken", "a.broken", &receiver.url("/broken")).await;
    subscribe(&engine, "gone", "a.gone", &receiver.url("/gone")).await;

    publish(&engine, "a.broken", 1).await;
    publish(&engine, "a.gone", 1).await;

    let dead = wait_for(&engine, DeliveryState::Dead, 2).await;
    let of = |name| dead.iter().find(|delivery| delivery.webhook_name == name).unwrap();
    assert_eq!((of("broken").attempts, of("broken").reason.as_deref()), (4, Some("http 500")));
    assert_eq!((of("gone").attempts, of("gone").reason.as_deref()), (1, Some("non-retryable 404")));
    stop(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_circuit_spends_no_attempts_until_the_webhook_is_enabled() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start(folder.path()).await;
    let is_well = Arc::new(AtomicBool::new(false));
    let well = Arc::clone(&is_well);
    let receiver =
        TestReceiver::start(move |_, _| if well.load(Ordering::SeqCst) { 200.into() } else { 503.into() }).await;
    let patch = WebhookPatch { max_in_flight: Some(1), ..WebhookPatch::default() };
    let webhook = subscribe(&engine, "sick", ">", &receiver.url("/")).await;
    change(&engine, &webhook, patch).await;

    publish(&engine, "a.b", 50).await;
    receiver.wait_for(5).await;
    let opened = async {
        loop {
            let record = engine.store().webhook(DEFAULT_TENANT, webhook.uuid).await.unwrap().unwrap();
            if record.health.auto_disabled_at.is_some() {
                return record;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let record = tokio::time::timeout(Duration::from_secs(10), opened).await.expect("the circuit opens");
    assert_eq!(record.health.consecutive_failures, 5);
    assert_eq!(record.health.last_error.as_deref(), Some("http 503"));
    publish(&engine, "a.b", 10).await;
    assert_eq!(receiver.received().len(), 5, "an open circuit spends no attempts");

    // It stays open over a restart.
    stop(engine).await;
    let engine = start(folder.path()).await;
    assert_eq!(engine.figures().circuits_open, 1);

    is_well.store(true, Ordering::SeqCst);
    change(&engine, &webhook, WebhookPatch { enabled: Some(true), ..WebhookPatch::default() }).await;
    wait_for(&engine, DeliveryState::Delivered, 60).await;
    assert_eq!(receiver.received().len(), 65);
    let record = engine.store().webhook(DEFAULT_TENANT, webhook.uuid).await.unwrap().unwrap();
    assert_eq!((record.health.consecutive_failures, record.health.auto_disabled_at), (0, None));
    stop(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_webhook_skips_new_events_and_keeps_what_it_was_owed() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start(folder.path()).await;
    let receiver = TestReceiver::start(|n, _| if n == 0 { 503.into() } else { 200.into() }).await;
    let sentinel = Sentinel::new(&engine).await;
    let webhook = subscribe(&engine, "mine", ">", &receiver.url("/")).await;
    change(&engine, &webhook, WebhookPatch { retry_schedule: Some(Some(vec![0.5])), ..WebhookPatch::default() }).await;
    publish(&engine, "a.b", 1).await;
    receiver.wait_for(1).await;

    change(&engine, &webhook, WebhookPatch { enabled: Some(false), ..WebhookPatch::default() }).await;
    publish(&engine, "a.b", 1).await;
    let skipped = wait_for(&engine, DeliveryState::Skipped, 1).await;
    assert_eq!(skipped[0].reason.as_deref(), Some("webhook disabled"));
    sentinel.pass(&engine, Duration::from_millis(700)).await;
    assert_eq!(receiver.received().len(), 1, "nothing is attempted while the webhook is disabled");

    change(&engine, &webhook, WebhookPatch { enabled: Some(true), ..WebhookPatch::default() }).await;
    wait_for(&engine, DeliveryState::Delivered, 1).await;
    engine.retry_delivery(DEFAULT_TENANT, skipped[0].key).await.unwrap();
    wait_for(&engine, DeliveryState::Delivered, 2).await;
    stop(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pending_deliveries_of_a_deleted_webhook_are_discarded() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start(folder.path()).await;
    let receiver = TestReceiver::start(|_, _| Answer(200, Duration::from_millis(200))).await;
    let webhook = subscribe(&engine, "mine", ">", &receiver.url("/")).await;
    change(&engine, &webhook, WebhookPatch { max_in_flight: Some(1), ..WebhookPatch::default() }).await;
    publish(&engine, "a.b", 200).await;
    receiver.wait_for(1).await;

    engine.delete_webhook(DEFAULT_TENANT, webhook.uuid).await.unwrap();

    let stats = async {
        loop {
            let stats = engine.store().stats(DEFAULT_TENANT).await.unwrap();
            if stats.pending == 0 {
                return stats;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let stats = tokio::time::timeout(Duration::from_secs(20), stats).await.expect("nothing stays pending");
    assert_eq!(stats.delivered + stats.discarded, 200);
    assert!(stats.delivered <= 2, "an attempt was started after the webhook was deleted");
    let discarded = deliveries(&engine, DeliveryState::Discarded).await;
    assert!(discarded.iter().all(|delivery| delivery.reason.as_deref() == Some("webhook deleted")));
    stop(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stop_left_undone_is_done_after_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = TestReceiver::start(|_, _| Answer(200, Duration::from_millis(5))).await;
    let engine = start(folder.path()).await;
    let webhook = subscribe(&engine, "mine", ">", &receiver.url("/")).await;
    change(&engine, &webhook, WebhookPatch { max_in_flight: Some(2), ..WebhookPatch::default() }).await;
    publish(&engine, "a.b", 90).await;
    publish(&engine, "a.b", 90).await;
    receiver.wait_for(10).await;
    stop(engine).await;
    let before = receiver.received().len();
    assert!(before < 180, "nothing was left to do");

    let engine = start(folder.path()).await;
    wait_for(&engine, DeliveryState::Delivered, 180).await;
    stop(engine).await;
    let arrivals = receiver.arrivals();
    assert_eq!(arrivals.len(), 180);
    assert!(arrivals.values().all(|count| *count == 1), "a drained stop repeats nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_larger_than_memory_is_delivered_portion_by_portion() {
    const EVENTS: usize = 60;
    let folder = tempfile::tempdir().unwrap();
    let receiver = TestReceiver::start(|_, _| Answer(200, Duration::from_millis(20))).await;
    let limits = DispatcherSettings { max_memory_bytes: MIN_MEMORY_BYTES, ..settings() };
    let engine = start_with(folder.path(), limits).await;
    subscribe(&engine, "slow", ">", &receiver.url("/")).await;
    let text = "x".repeat(500_000);
    for n in 0..EVENTS {
        let topic = Topic::parse("a.b").unwrap();
        let event = Event::new(topic, "seen", &format!(r#"{{"n":{n},"text":"{text}"}}"#), UnixMicros(0)).unwrap();
        engine.publish(DEFAULT_TENANT, vec![event]).await.unwrap();
        let held = engine.figures().memory_bytes;
        assert!(held <= MIN_MEMORY_BYTES as u64, "{held} bytes are held");
    }
    wait_for(&engine, DeliveryState::Delivered, EVENTS).await;
    let arrivals = receiver.arrivals();
    assert_eq!(arrivals.len(), EVENTS);
    assert!(arrivals.values().all(|count| *count == 1), "nothing is repeated");
    stop(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_webhook_leaves_memory_for_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let slow = TestReceiver::start(|_, _| Answer(200, Duration::from_secs(30))).await;
    let healthy = TestReceiver::healthy().await;
    let limits = DispatcherSettings { max_memory_bytes: MIN_MEMORY_BYTES, ..settings() };
    let engine = start_with(folder.path(), limits).await;
    subscribe(&engine, "slow", "a.slow", &slow.url("/")).await;
    subscribe(&engine, "healthy", "a.healthy", &healthy.url("/")).await;
    let payload = format!("\"{}\"", "x".repeat(100_000));
    for _ in 0..100 {
        let event = Event::new(Topic::parse("a.slow").unwrap(), "seen", &payload, UnixMicros(0)).unwrap();
        engine.publish(DEFAULT_TENANT, vec![event]).await.unwrap();
    }
    slow.wait_for(1).await;

    publish(&engine, "a.healthy", 50).await;
    wait_for(&engine, DeliveryState::Delivered, 50).await;
    let held = engine.figures().memory_bytes;
    assert!(held < MIN_MEMORY_BYTES as u64 * 3 / 4, "{held} bytes are held by one lane");
    engine.drain(Duration::from_millis(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_cuts_off_what_does_not_end_in_time_and_delivers_it_later() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = TestReceiver::start(|n, _| Answer(200, Duration::from_secs(if n == 0 { 8 } else { 0 }))).await;
    let engine = start(folder.path()).await;
    subscribe(&engine, "hanging", ">", &receiver.url("/")).await;
    publish(&engine, "a.b", 1).await;
    receiver.wait_for(1).await;
    assert_eq!(engine.drain(Duration::from_millis(100)).await, 1);

    let engine = start(folder.path()).await;
    wait_for(&engine, DeliveryState::Delivered, 1).await;
    stop(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hanging_receivers_leave_a_healthy_one_alone() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start(folder.path()).await;
    let hanging = TestReceiver::start(|_, _| Answer(200, Duration::from_secs(30))).await;
    let healthy = TestReceiver::healthy().await;
    subscribe(&engine, "healthy", "a.healthy", &healthy.url("/")).await;
    publish(&engine, "a.healthy", 1).await;
    wait_for(&engine, DeliveryState::Delivered, 1).await;
    for n in 0..20 {
        subscribe(&engine, &format!("hanging-{n}"), "a.hanging", &hanging.url("/")).await;
    }
    // Many times what the slots for unproven webhooks hold.
    publish(&engine, "a.hanging", 100).await;
    hanging.wait_for(16).await;

    publish(&engine, "a.healthy", 100).await;
    healthy.wait_for(101).await;

    wait_for(&engine, DeliveryState::Delivered, 101).await;
    let figures = engine.figures();
    assert_eq!(figures.in_flight, 16, "unproven webhooks have a quarter of the slots: {figures:?}");
    engine.drain(Duration::from_millis(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_attempts_are_made_at_once_than_a_webhook_allows() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start(folder.path()).await;
    let receiver = TestReceiver::start(|_, _| Answer(200, Duration::from_millis(30))).await;
    let webhook = subscribe(&engine, "mine", ">", &receiver.url("/")).await;
    change(&engine, &webhook, WebhookPatch { max_in_flight: Some(3), ..WebhookPatch::default() }).await;

    publish(&engine, "a.b", 60).await;
    wait_for(&engine, DeliveryState::Delivered, 60).await;
    assert_eq!(receiver.peak(), 3);

    change(&engine, &webhook, WebhookPatch { max_in_flight: Some(1), ..WebhookPatch::default() }).await;
    for count in 61..64 {
        // The workers that are idle now are too many; the one that is woken must not leave its job lying.
        publish(&engine, "a.b", 1).await;
        wait_for(&engine, DeliveryState::Delivered, count).await;
    }
    assert_eq!(receiver.received().len(), 63);
    stop(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_attempts_are_made_at_once_than_the_node_allows() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start_with(folder.path(), DispatcherSettings { max_in_flight: 8, ..settings() }).await;
    let receiver = TestReceiver::start(|_, _| Answer(200, Duration::from_millis(20))).await;
    for n in 0..5 {
        subscribe(&engine, &format!("webhook-{n}"), ">", &receiver.url("/")).await;
    }
    publish(&engine, "a.b", 60).await;
    wait_for(&engine, DeliveryState::Delivered, 300).await;
    // Four for webhooks that answer at once, two for slow ones, two for others.
    assert!((4..=8).contains(&receiver.peak()), "{}", receiver.peak());
    stop(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_that_answer_slowly_leave_slots_to_those_that_answer_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start_with(folder.path(), DispatcherSettings { max_in_flight: 8, ..settings() }).await;
    let slow = TestReceiver::start(|_, _| Answer(200, Duration::from_millis(600))).await;
    let prompt = TestReceiver::healthy().await;
    for n in 0..2 {
        subscribe(&engine, &format!("slow-{n}"), "slow.>", &slow.url("/")).await;
    }
    subscribe(&engine, "prompt", "prompt.>", &prompt.url("/")).await;
    publish(&engine, "slow.a", 1).await;
    publish(&engine, "prompt.a", 1).await;
    wait_for(&engine, DeliveryState::Delivered, 3).await;

    publish(&engine, "slow.a", 6).await;
    slow.wait_for(4).await;
    publish(&engine, "prompt.a", 50).await;
    prompt.wait_for(51).await;
    assert!(slow.received().len() < 12, "the prompt one waited for the slow ones");
    wait_for(&engine, DeliveryState::Delivered, 65).await;
    assert_eq!(slow.peak(), 2, "a quarter of the slots");
    stop(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_hangs_up_does_not_part_a_change_from_the_lanes() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start(folder.path()).await;
    let receiver = TestReceiver::start(|n, _| if n == 0 { 404.into() } else { 200.into() }).await;
    let wanted = WebhookPatch {
        name: Some("mine".to_owned()),
        url: Some(receiver.url("/")),
        topic_patterns: Some(vec![">".to_owned()]),
        ..WebhookPatch::default()
    };
    let creating = engine.create_webhook(DEFAULT_TENANT, wanted);
    // One poll starts it; then nobody waits for the answer.
    let _ = tokio::time::timeout(Duration::ZERO, creating).await;
    let known = async {
        while publish(&engine, "a.b", 1).await[0].deliveries == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), known).await.expect("the webhook is known");
    let dead = wait_for(&engine, DeliveryState::Dead, 1).await;

    let retrying = engine.retry_delivery(DEFAULT_TENANT, dead[0].key);
    let _ = tokio::time::timeout(Duration::ZERO, retrying).await;
    wait_for(&engine, DeliveryState::Delivered, 1).await;
    stop(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_url_takes_effect_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start(folder.path()).await;
    let (old, new) = (TestReceiver::healthy().await, TestReceiver::healthy().await);
    let webhook = subscribe(&engine, "moving", ">", &old.url("/")).await;
    publish(&engine, "a.b", 3).await;
    old.wait_for(3).await;

    change(&engine, &webhook, WebhookPatch { url: Some(new.url("/")), ..WebhookPatch::default() }).await;
    publish(&engine, "a.b", 3).await;
    new.wait_for(3).await;
    change(&engine, &webhook, WebhookPatch { topic_patterns: Some(vec!["c.d".to_owned()]), ..WebhookPatch::default() })
        .await;
    assert_eq!(publish(&engine, "a.b", 1).await[0].deliveries, 0);
    assert_eq!(publish(&engine, "c.d", 1).await[0].deliveries, 1);
    new.wait_for(4).await;
    assert_eq!(old.received().len(), 3);
    stop(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_event_id_is_delivered_once() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start(folder.path()).await;
    let receiver = TestReceiver::healthy().await;
    subscribe(&engine, "mine", ">", &receiver.url("/")).await;
    let sent = events("a.b", 1);
    let first = engine.publish(DEFAULT_TENANT, sent.clone()).await.unwrap();
    let again = engine.publish(DEFAULT_TENANT, sent).await.unwrap();
    assert!(!first[0].duplicate && again[0].duplicate);
    assert_eq!((&again[0].id, again[0].deliveries), (&first[0].id, 1));
    wait_for(&engine, DeliveryState::Delivered, 1).await;
    stop(engine).await;
    assert_eq!(receiver.received().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_that_hangs_up_does_not_part_an_event_from_its_lane() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start(folder.path()).await;
    let receiver = TestReceiver::healthy().await;
    subscribe(&engine, "mine", ">", &receiver.url("/")).await;
    for _ in 0..50 {
        let publishing = engine.publish(DEFAULT_TENANT, events("a.b", 1));
        // One poll starts it; then nobody waits for the answer.
        let _ = tokio::time::timeout(Duration::ZERO, publishing).await;
    }
    receiver.wait_for(50).await;
    stop(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_delivery_can_be_retried_and_a_waiting_one_discarded() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start(folder.path()).await;
    let receiver = TestReceiver::start(|n, _| match n {
        0 => 404.into(),
        2 => 503.into(),
        _ => 200.into(),
    })
    .await;
    let webhook = subscribe(&engine, "mine", ">", &receiver.url("/")).await;
    publish(&engine, "a.b", 1).await;
    let dead = wait_for(&engine, DeliveryState::Dead, 1).await;

    engine.retry_delivery(DEFAULT_TENANT, dead[0].key).await.unwrap();
    let delivered = wait_for(&engine, DeliveryState::Delivered, 1).await;
    assert_eq!(delivered[0].attempts, 2);
    let again = engine.retry_delivery(DEFAULT_TENANT, dead[0].key).await;
    assert!(matches!(again, Err(StoreError::Conflict(_))), "{again:?}");

    change(&engine, &webhook, WebhookPatch { retry_schedule: Some(Some(vec![3_600.0])), ..WebhookPatch::default() })
        .await;
    publish(&engine, "a.b", 1).await;
    receiver.wait_for(3).await;
    let waiting = async {
        loop {
            let pending = wait_for(&engine, DeliveryState::Pending, 1).await;
            if pending[0].attempts == 1 {
                return pending;
            }
        }
    };
    let pending = tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("the attempt is recorded");
    let discarded = async {
        // The attempt may not have left the books yet.
        while engine.discard_delivery(DEFAULT_TENANT, pending[0].key, "not needed").await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), discarded).await.expect("it can be discarded");
    let discarded = wait_for(&engine, DeliveryState::Discarded, 1).await;
    assert_eq!(discarded[0].reason.as_deref(), Some("not needed"));
    stop(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_accepted_while_the_node_drains() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start(folder.path()).await;
    engine.drain(Duration::from_secs(1)).await;
    assert!(engine.publish(DEFAULT_TENANT, events("a.b", 1)).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_destination_is_refused_at_registration_and_excused_at_delivery() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = TestReceiver::healthy().await;
    let engine = start(folder.path()).await;
    let webhook = subscribe(&engine, "inside", ">", &receiver.url("/")).await;
    stop(engine).await;

    // The operator closes the private networks again.
    let path = folder.path().to_owned();
    let open = move || SqliteStore::open(&path, &MasterKey::new(MASTER_KEY), SqliteOptions::default()).unwrap();
    let store = tokio::task::spawn_blocking(open).await.unwrap();
    let client = Client::new(ClientOptions::default()).unwrap();
    let engine = Engine::start(Arc::new(store), client, Arc::new(SystemClock), settings()).await.unwrap();
    let wanted = WebhookPatch {
        name: Some("another".to_owned()),
        url: Some(receiver.url("/")),
        topic_patterns: Some(vec![">".to_owned()]),
        ..WebhookPatch::default()
    };
    let refused = engine.create_webhook(DEFAULT_TENANT, wanted).await;
    assert!(refused.is_err());

    let log = Log::of_process();
    publish(&engine, "a.b", 1).await;
    let dead = wait_for(&engine, DeliveryState::Dead, 1).await;
    assert_eq!(dead[0].attempts, 4);
    assert!(log.text().contains("an attempt was refused: the server may not send there"), "{}", log.text());
    assert!(dead[0].reason.as_deref().unwrap().starts_with("egress_blocked: "), "{:?}", dead[0].reason);
    let record = engine.store().webhook(DEFAULT_TENANT, webhook.uuid).await.unwrap().unwrap();
    assert_eq!((record.health.consecutive_failures, record.health.auto_disabled_at), (0, None));
    stop(engine).await;
    assert!(receiver.received().is_empty());
}
