//! Topics, patterns with NATS wildcards, and the index that finds every
//! pattern that matches a topic. Pure.

use std::fmt;

/// The longest topic or pattern, in bytes.
pub const MAX_TOPIC_BYTES: usize = 255;

/// A dot-separated name of what an event is about, as in `attacker.session.started`.
///
/// 1 to [`MAX_TOPIC_BYTES`] bytes of visible ASCII without `*`, `>` and spaces; no token is empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic(Box<str>);

/// Topics wanted: a topic in which `*` stands for one token and a last `>` for one or more.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern(Box<str>);

/// Why a text is no topic or no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    #[error("must not be empty")]
    Empty,
    #[error("is {length} bytes long, the limit is {MAX_TOPIC_BYTES}")]
    TooLong { length: usize },
    #[error("has an empty token at byte {at}")]
    EmptyToken { at: usize },
    #[error("has the character {found:?} at byte {at}; visible ASCII without spaces is allowed")]
    ForbiddenCharacter { found: char, at: usize },
    #[error("has the wildcard {found:?} at byte {at}, {rule}")]
    Wildcard { found: char, at: usize, rule: &'static str },
}

impl Topic {
    pub fn parse(text: &str) -> Result<Self, TopicError> {
        let _ = text;
        todo!()
    }
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Pattern {
    pub fn parse(text: &str) -> Result<Self, TopicError> {
        let _ = text;
        todo!()
    }
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// Whether one event's topic is wanted. To ask many patterns at once use [`PatternIndex`].
    #[must_use]
    pub fn matches(&self, topic: &Topic) -> bool {
        let _ = topic;
        todo!()
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Every pattern of every webhook, arranged so that one walk over a topic's
/// tokens finds all that match.
#[derive(Clone, Debug)]
pub struct PatternIndex<K> {
    entries: Vec<(Pattern, K)>,
}

impl<K> Default for PatternIndex<K> {
    fn default() -> Self {
        Self { entries: Vec::new() }
    }
}

impl<K: Copy + Ord> PatternIndex<K> {
    /// Adds one pattern of the subscriber `key`.
    pub fn insert(&mut self, pattern: &Pattern, key: K) {
        let _ = (pattern, key, &mut self.entries);
        todo!()
    }
    /// Takes one pattern of the subscriber `key` out; does nothing if it is not there.
    pub fn remove(&mut self, pattern: &Pattern, key: K) {
        let _ = (pattern, key);
        todo!()
    }
    /// Appends the subscribers that want `topic` to `found`: ascending, each once.
    pub fn matches(&self, topic: &Topic, found: &mut Vec<K>) {
        let _ = (topic, found);
        todo!()
    }
}
