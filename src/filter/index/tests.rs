use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::filter::tests::consistency::{some_event, some_filter};
use crate::filter::tests::filter;

fn index<'a>(filters: impl IntoIterator<Item = (u32, &'a str)>) -> FilterIndex<u32> {
    let mut index = FilterIndex::default();
    for (key, text) in filters {
        index.insert(&filter(text), key);
    }
    index
}

fn wanting(index: &FilterIndex<u32>, event: &str, candidates: &[u32]) -> Vec<u32> {
    let mut found = Vec::new();
    index.matching(event.as_bytes(), candidates, &mut found);
    found
}

#[test]
fn candidates_without_a_filter_want_everything_and_others_are_not_named() {
    let index = index([(2, r#"{"type": ["a"]}"#), (4, r#"{"type": ["b"]}"#), (6, r#"{"type": ["a"]}"#)]);
    assert_eq!(wanting(&index, r#"{"type": "a"}"#, &[1, 2, 3, 4, 5]), [1, 2, 3, 5]);
    assert_eq!(wanting(&index, r#"{"type": "a"}"#, &[]), [0_u32; 0]);
    let mut found = vec![9];
    index.matching(br#"{"type": "b"}"#, &[6, 5, 4, 4, 6, 1], &mut found);
    assert_eq!(found, [9, 5, 4, 4, 1], "in the order of the candidates, after what was there");
    assert_eq!(wanting(&index, "no event", &[1, 2, 4]), [1]);
}

#[test]
fn a_new_filter_takes_the_place_of_the_old_one() {
    let mut index = index((0..20).map(|key| (key, r#"{"type": ["a"]}"#)));
    index.insert(&filter(r#"{"type": ["b"]}"#), 7);
    let all: Vec<u32> = (0..20).collect();
    assert_eq!(wanting(&index, r#"{"type": "b"}"#, &all), [7]);
    index.remove(7);
    index.remove(7);
    assert_eq!(wanting(&index, r#"{"type": "b"}"#, &all), [7], "without a filter it wants everything");
    assert_eq!(index.rules.filters.len(), 1, "equal filters are one");
}

#[test]
fn filters_wait_where_few_others_do() {
    let texts: Vec<_> =
        (0..100).map(|n| format!(r#"{{"type": ["login"], "payload": {{"user": ["user-{n}"]}}}}"#)).collect();
    let index = index((0..).zip(texts.iter().map(String::as_str)));
    let rules = &index.rules;
    let gated = rules.branches.bound();
    let longest = rules.by_wanted.values().map(|id| rules.conditions[*id].gated.len()).max();
    assert_eq!((gated, longest), (100, Some(1)));
    let all: Vec<u32> = (0..100).collect();
    assert_eq!(wanting(&index, r#"{"type": "login", "payload": {"user": "user-42"}}"#, &all), [42]);
}

#[test]
fn an_event_with_very_many_values_is_answered() {
    // A thousand prefixes, ranges and exceptions, asked of a long array.
    let texts: Vec<_> = (0..1_000)
        .map(|n| match n % 4 {
            0 => format!(r#"{{"a": [{{"prefix": "{n}"}}]}}"#),
            1 => format!(r#"{{"a": [{{"numeric": [">", {n}, "<", 5000000]}}]}}"#),
            2 => format!(r#"{{"a": [{{"anything-but": ["x", "{n}"]}}]}}"#),
            _ => format!(r#"{{"a": [{{"suffix": "-{n}"}}, {{"cidr": "10.0.0.0/{}"}}]}}"#, n % 33),
        })
        .collect();
    let index = index((0..).zip(texts.iter().map(String::as_str)));
    let all: Vec<u32> = (0..1_000).collect();
    let event = format!("{{\"a\":[{}\"x\"]}}", "\"x\",".repeat(20_000));
    assert_eq!(wanting(&index, &event, &all), [0_u32; 0]);
    let event = format!("{{\"a\":[{}1]}}", "0,".repeat(300_000));
    assert_eq!(wanting(&index, &event, &all).len(), 250, "what is no string is anything but a string");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn together_they_answer_as_one_by_one(
        entries in prop::collection::vec((some_filter(), 0_u32..40, any::<bool>()), 0..40),
        events in prop::collection::vec(some_event(), 1..12),
    ) {
        let mut index = FilterIndex::default();
        let mut present = BTreeMap::new();
        for (filter, key, _) in &entries {
            index.insert(filter, *key);
            present.insert(*key, filter);
        }
        let all: Vec<u32> = (0..50).collect();
        let check = |index: &FilterIndex<u32>, present: &BTreeMap<u32, &Filter>| {
            for event in &events {
                let is_wanting = |key: &u32| present.get(key).is_none_or(|filter| filter.matches(event.as_bytes()));
                let one_by_one: Vec<u32> = all.iter().copied().filter(is_wanting).collect();
                prop_assert_eq!(wanting(index, event, &all), one_by_one, "{}", event);
            }
            Ok(())
        };
        check(&index, &present)?;
        for (_, key, _) in entries.iter().filter(|(_, _, is_removed)| *is_removed) {
            index.remove(*key);
            present.remove(key);
        }
        check(&index, &present)?;
        // What is taken out leaves nothing behind, and its room is used again.
        let keys: BTreeSet<u32> = present.keys().copied().collect();
        for key in keys {
            index.remove(key);
        }
        let Rules { filters, by_filter, branches, ungated, conditions, by_wanted, predicates, by_predicate, paths, .. } = &index.rules;
        let left = [filters.len(), by_filter.len(), branches.len(), ungated.len(), conditions.len(), by_wanted.len()];
        prop_assert_eq!(left, [0; 6]);
        prop_assert_eq!((predicates.len(), by_predicate.len(), paths.len()), (0, 0, paths.bound().min(1)), "the root stays");
        let room = (filters.bound(), branches.bound(), conditions.bound(), predicates.bound(), paths.bound());
        for (filter, key, _) in &entries {
            index.insert(filter, *key);
        }
        let rules = &index.rules;
        let now = (rules.filters.bound(), rules.branches.bound(), rules.conditions.bound(), rules.predicates.bound(), rules.paths.bound());
        prop_assert_eq!(now, room);
        check(&index, &entries.iter().map(|(filter, key, _)| (*key, filter)).collect())?;
    }
}
