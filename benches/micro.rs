//! What one event costs before it meets a store or a socket.

#![expect(clippy::expect_used, reason = "a bench that cannot be set up must stop")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use postrider::clock::UnixMicros;
use postrider::event::Event;
use postrider::filter::{Filter, FilterIndex};
use postrider::signing::{Secret, StandardKey, decnet_signature, standard_signature};
use postrider::topic::{Pattern, PatternIndex, Topic};

const NOW: UnixMicros = UnixMicros(1_790_000_000_000_000);

/// 100,000 patterns of 100,000 subscribers, of every kind; few want the topic.
fn index() -> PatternIndex<u32> {
    let mut index = PatternIndex::default();
    for number in 0..100_000 {
        let text = match number % 5 {
            0 => format!("site-{number}.attacker.>"),
            1 => format!("*.attacker.host-{number}.*"),
            2 => format!("site-7.*.*.state-{number}"),
            3 => format!("site-7.attacker.host-{number}.>"),
            _ => format!("*.*.host-{number}"),
        };
        index.insert(&Pattern::parse(&text).expect("a pattern"), number);
    }
    for (number, text) in [">", "site-7.>", "*.attacker.>", "site-7.*.*.opened", "*.*.*.*"].into_iter().enumerate() {
        index.insert(&Pattern::parse(text).expect("a pattern"), 200_000 + u32::try_from(number).expect("small"));
    }
    index
}

/// An event of 600 bytes as a publisher writes it: keys in no order, spaces, a few escapes.
fn event_json() -> String {
    let mut json = r#"{"topic": "site-7.attacker.host-3.opened", "type": "session.started", "id": "0192f0c1-7c55-7e2a-9d1b-3f7a52f0a911", "ts": "2026-11-23T15:04:20.319007+00:00", "payload": {"session": {"user": "root", "tries": 14, "duration_s": 73.25, "client": "SSH-2.0-libssh_0.9.6"}, "attacker": {"ip": "198.51.100.23", "port": 52814, "asn": 64511, "country": "ZZ"}, "commands": ["uname -a", "cat \/etc\/passwd", "echo \"x\" > /tmp/y"], "decky": "host-3", "score": 0.87, "flags": [true, false, null], "note": ""#.to_owned();
    json.extend(std::iter::repeat_n('n', 600 - json.len() - 3));
    json + "\"}}"
}

fn matching(c: &mut Criterion) {
    let index = index();
    // A topic after another, so that the caches of the processor do not hold the answer.
    let topic = |host: u32| Topic::parse(&format!("site-7.attacker.host-{host}.opened")).expect("a topic");
    let topics: Vec<_> = (3..100_000).step_by(5).map(topic).collect();
    let mut found = Vec::new();
    index.matches(&topics[1], &mut found);
    assert_eq!(found, [8, 200_000, 200_001, 200_002, 200_003, 200_004]);
    let mut topics = topics.iter().cycle();
    c.bench_function("match one topic against 100,000 patterns", |b| {
        b.iter(|| {
            found.clear();
            index.matches(topics.next().expect("a cycle"), &mut found);
            black_box(found.len())
        });
    });
}

fn canonical_body(c: &mut Criterion) {
    let json = event_json();
    assert_eq!(json.len(), 600);
    let mut group = c.benchmark_group("event");
    group.throughput(Throughput::Bytes(600));
    group.bench_function("canonical body of a 600-byte event", |b| {
        b.iter(|| Event::from_json(black_box(json.as_bytes()), NOW).expect("an event"));
    });
}

fn signatures(c: &mut Criterion) {
    let body = event_json();
    let (secret, key) = (Secret::generate(), StandardKey::generate());
    let mut group = c.benchmark_group("signing");
    group.throughput(Throughput::Bytes(600));
    group.bench_function("both signatures of a 600-byte body", |b| {
        b.iter(|| {
            let body = black_box(body.as_bytes());
            let id = "0192f0c1-7c55-8e2a-9d1b-3f7a52f0a911";
            (decnet_signature(&secret, body), standard_signature(&key, id, NOW.seconds(), body))
        });
    });
}

/// Ten thousand filters, as the webhooks of one topic may have them: mostly of one user, host, network or range.
fn filters() -> Vec<Filter> {
    let text = |n: u32| match n % 8 {
        0 => format!(r#"{{"type": ["session.started"], "payload": {{"session": {{"user": ["user-{n}"]}}}}}}"#),
        1 => format!(r#"{{"payload": {{"attacker": {{"ip": [{{"cidr": "10.{}.{}.0/24"}}]}}}}}}"#, n % 251, n / 251),
        2 => format!(r#"{{"payload": {{"session": {{"tries": [{{"numeric": [">", {n}, "<=", {}]}}]}}}}}}"#, n + 50),
        3 => format!(r#"{{"type": [{{"prefix": "session."}}], "payload": {{"decky": [{{"suffix": "-{n}"}}]}}}}"#),
        4 => format!(
            r#"{{"payload": {{"commands": [{{"wildcard": "*/opt/{n}/*"}}], "score": [{{"numeric": [">", 0.5]}}]}}}}"#
        ),
        5 => format!(r#"{{"payload": {{"attacker": {{"asn": [{n}], "country": [{{"anything-but": "ZZ"}}]}}}}}}"#),
        6 => format!(
            r#"{{"payload": {{"session": {{"user": [{{"equals-ignore-case": "ROOT-{n}"}}]}}, "x": [{{"exists": false}}]}}}}"#
        ),
        _ => format!(r#"{{"$or": [{{"payload": {{"decky": ["host-{n}"]}}}}, {{"payload": {{"note": ["n-{n}"]}}}}]}}"#),
    };
    (0..10_000).map(|n| Filter::parse(&text(n)).expect("a filter")).collect()
}

fn filtering(c: &mut Criterion) {
    let filters = filters();
    let mut index = FilterIndex::default();
    for (key, filter) in (0_u32..).zip(&filters) {
        index.insert(filter, key);
    }
    let event = Event::from_json(event_json().as_bytes(), NOW).expect("an event");
    let all: Vec<u32> = (0..10_000).collect();
    let mut found = Vec::new();
    index.matching(event.body(), &all, &mut found);
    let one_by_one = || (0_u32..).zip(&filters).filter(|(_, filter)| filter.matches(event.body())).map(|(key, _)| key);
    assert_eq!(found, one_by_one().collect::<Vec<_>>());
    let mut group = c.benchmark_group("10,000 filters of one topic");
    group.bench_function("together", |b| {
        b.iter(|| {
            found.clear();
            index.matching(black_box(event.body()), &all, &mut found);
            black_box(found.len())
        });
    });
    group.sample_size(20);
    group.bench_function("one by one", |b| b.iter(|| black_box(one_by_one().count())));
}

criterion_group!(benches, matching, filtering, canonical_body, signatures);
criterion_main!(benches);
