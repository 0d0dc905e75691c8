//! Topics and patterns: the index finds what asking pattern by pattern finds.
//! Input: lines; those that are patterns are inserted, and asked for each that is a topic.
#![no_main]

use std::collections::BTreeSet;

use libfuzzer_sys::fuzz_target;
use postrider::topic::{MAX_TOPIC_BYTES, Pattern, PatternIndex, Topic};

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let mut patterns = Vec::new();
    let mut topics = Vec::new();
    for line in text.split('\n').take(64) {
        if let Ok(topic) = Topic::parse(line) {
            assert_eq!(topic.as_str(), line);
            assert!(line.len() <= MAX_TOPIC_BYTES);
            let itself = Pattern::parse(line).expect("a topic is a pattern");
            assert!(itself.matches(&topic));
            assert_eq!(itself.is_operational(), topic.is_operational());
            assert!(Pattern::parse(">").is_ok_and(|all| all.matches(&topic)));
            topics.push(topic);
        }
        if let Ok(pattern) = Pattern::parse(line) {
            assert_eq!(pattern.to_string(), line);
            patterns.push(pattern);
        }
    }
    // Three subscribers, so that some have several patterns and some patterns several subscribers.
    let mut index = PatternIndex::default();
    let mut entries: BTreeSet<(&Pattern, usize)> = BTreeSet::new();
    for (number, pattern) in patterns.iter().enumerate() {
        index.insert(pattern, number % 3);
        entries.insert((pattern, number % 3));
    }
    let check = |index: &PatternIndex<usize>, entries: &BTreeSet<(&Pattern, usize)>| {
        for topic in &topics {
            let mut found = Vec::new();
            index.matches(topic, &mut found);
            let wanting = entries.iter().filter(|(pattern, _)| pattern.matches(topic)).map(|(_, key)| *key);
            assert_eq!(found, wanting.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>(), "{topic}");
        }
    };
    check(&index, &entries);
    for (number, pattern) in patterns.iter().enumerate().step_by(2) {
        index.remove(pattern, number % 3);
        entries.remove(&(pattern, number % 3));
    }
    check(&index, &entries);
});
