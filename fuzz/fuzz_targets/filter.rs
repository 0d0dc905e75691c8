//! Filters: the index answers as the filter itself, and what is stored is the same filter.
//! Input: the event's body, then filters, a part each.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postrider::event::{EventError, canonical_json};
use postrider::filter::{Filter, FilterError, FilterIndex, MAX_FILTER_BYTES};
use postrider_fuzz::parts;

/// Few filters are asked one by one; with these there are enough for the index.
const OTHERS: [&str; 6] = [
    r#"{"topic": [{"prefix": "a"}]}"#,
    r#"{"payload": {"a": [{"exists": true}]}}"#,
    r#"{"payload": {"a": [1, "x"], "b": [{"anything-but": "x"}]}}"#,
    r#"{"$or": [{"payload": {"a": [{"numeric": [">", 0]}]}}, {"payload": {"b": [{"wildcard": "x*y"}]}}]}"#,
    r#"{"payload": {"b": [{"exists": false}]}}"#,
    r#"{"payload": {"ip": [{"cidr": "10.0.0.0/8"}]}}"#,
];

fuzz_target!(|input: &[u8]| {
    let mut parts = parts(input);
    let event = parts.next().unwrap_or_default();
    let canonical = canonical_json(event);
    let body = match &canonical {
        Ok(canonical) => canonical.as_bytes(),
        // No event has a key twice: of the two members either may be taken.
        Err(EventError::Json { reason, .. }) if reason.contains("has this key already") => b"{}",
        Err(_) => event,
    };
    let mut filters: Vec<Filter> = Vec::new();
    for text in parts.take(8).filter_map(|part| std::str::from_utf8(part).ok()) {
        match Filter::parse(text) {
            Ok(filter) => {
                assert!(text.len() <= MAX_FILTER_BYTES);
                let again = Filter::parse(filter.as_str()).expect("what is stored is a filter");
                assert_eq!(again, filter);
                assert_eq!(again.as_str(), filter.as_str());
                assert_eq!(again.matches(body), filter.matches(body));
                let raw = filter.to_raw_value().expect("it is JSON");
                assert_eq!(raw.get(), filter.as_str());
                filters.push(filter);
            }
            Err(FilterError::Json { line, column, .. } | FilterError::Pattern { line, column, .. }) => {
                let shown = text.split('\n').nth(line - 1).expect("the line is there");
                assert!((1..=shown.chars().count() + 1).contains(&column), "line {line} column {column}");
            }
            Err(FilterError::TooLong { length }) => assert!(length > MAX_FILTER_BYTES),
        }
    }
    filters.extend(OTHERS.iter().map(|text| Filter::parse(text).expect("a filter")));
    let mut index = FilterIndex::default();
    for (key, filter) in filters.iter().enumerate() {
        index.insert(filter, key);
    }
    let mut subscribers: Vec<usize> = (0..=filters.len()).collect();
    let mut check = |index: &FilterIndex<usize>, has_filter: &dyn Fn(usize) -> bool| {
        let mut wanting = Vec::new();
        index.matching(body, &subscribers, &mut wanting);
        let is_wanted = |key: &usize| !has_filter(*key) || filters.get(*key).is_none_or(|filter| filter.matches(body));
        let one_by_one: Vec<usize> = subscribers.iter().filter(|key| is_wanted(key)).copied().collect();
        assert_eq!(wanting, one_by_one, "of {filters:?} for {}", String::from_utf8_lossy(body));
        subscribers.reverse();
    };
    check(&index, &|_| true);
    check(&index, &|_| true);
    // Every other one goes, and the rest is what it was.
    for key in (0..filters.len()).step_by(2) {
        index.remove(key);
    }
    check(&index, &|key| key % 2 == 1);
});
