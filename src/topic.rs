//! Topics, patterns with NATS wildcards, and the index that finds every
//! pattern that matches a topic. Pure.

use std::collections::HashMap;
use std::fmt;

/// The longest topic or pattern, in bytes.
pub const MAX_TOPIC_BYTES: usize = 255;

/// The most tokens in a topic or pattern: one byte each, with dots between.
pub const MAX_TOKENS: usize = MAX_TOPIC_BYTES.div_ceil(2);

/// The first token of the topics of the server's own events. Publishers may not use it.
pub const OPERATIONAL_TOKEN: &str = "postrider";

/// A dot-separated name of what an event is about, as in `attacker.session.started`.
///
/// 1 to [`MAX_TOPIC_BYTES`] bytes of visible ASCII without `*`, `>` and spaces; no token is empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic(Box<str>);

/// A topic with wildcards: `*` stands for one token, and a last `>` for one or more.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern(Box<str>);

/// The reason why a text is no topic or no pattern.
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
    /// The topic of the events with which a store checks itself, and which are never committed.
    #[cfg(feature = "server")]
    pub(crate) fn of_probes() -> Self {
        Self("postrider.probe".into())
    }
    pub fn parse(text: &str) -> Result<Self, TopicError> {
        check(text, Wildcards::Forbidden)?;
        Ok(Self(text.into()))
    }
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// Whether this is a topic of the server's own events: its first token is [`OPERATIONAL_TOKEN`].
    #[must_use]
    pub fn is_operational(&self) -> bool {
        self.tokens().next() == Some(OPERATIONAL_TOKEN)
    }
    fn tokens(&self) -> std::str::Split<'_, char> {
        self.0.split('.')
    }
}

impl Pattern {
    pub fn parse(text: &str) -> Result<Self, TopicError> {
        check(text, Wildcards::Allowed)?;
        Ok(Self(text.into()))
    }
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
    fn tokens(&self) -> std::str::Split<'_, char> {
        self.0.split('.')
    }
    /// Whether the pattern is for the server's own events: its first token is [`OPERATIONAL_TOKEN`] itself, no
    /// wildcard.
    #[must_use]
    pub fn is_operational(&self) -> bool {
        self.tokens().next() == Some(OPERATIONAL_TOKEN)
    }
    /// Whether the pattern matches a topic. [`PatternIndex`] is for many patterns.
    #[must_use]
    pub fn matches(&self, topic: &Topic) -> bool {
        let mut found = topic.tokens();
        for wanted in self.tokens() {
            let Some(token) = found.next() else { return false };
            match wanted {
                ">" => return true,
                "*" => {}
                literal if literal == token => {}
                _ => return false,
            }
        }
        found.next().is_none()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wildcards {
    Allowed,
    Forbidden,
}

fn check(text: &str, wildcards: Wildcards) -> Result<(), TopicError> {
    if text.is_empty() {
        return Err(TopicError::Empty);
    }
    if text.len() > MAX_TOPIC_BYTES {
        return Err(TopicError::TooLong { length: text.len() });
    }
    let mut start = 0;
    for token in text.split('.') {
        if token.is_empty() {
            return Err(TopicError::EmptyToken { at: start });
        }
        let end = start + token.len();
        let is_wildcard = token == "*" || (token == ">" && end == text.len());
        if !(is_wildcard && wildcards == Wildcards::Allowed) {
            check_literal(token, start, wildcards)?;
        }
        start = end + 1;
    }
    Ok(())
}

fn check_literal(token: &str, start: usize, wildcards: Wildcards) -> Result<(), TopicError> {
    let is_forbidden = |&(_, c): &(usize, char)| !c.is_ascii_graphic() || matches!(c, '*' | '>');
    let Some((offset, found)) = token.char_indices().find(is_forbidden) else { return Ok(()) };
    let at = start + offset;
    let rule = match (found, wildcards) {
        ('*' | '>', Wildcards::Forbidden) => "which only a pattern may have",
        ('*', Wildcards::Allowed) => "which must be a whole token",
        ('>', Wildcards::Allowed) => "which must be the whole last token",
        _ => return Err(TopicError::ForbiddenCharacter { found, at }),
    };
    Err(TopicError::Wildcard { found, at, rule })
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
///
/// A trie. A token's text is kept once and stands for a number elsewhere, and all edges share
/// one table, because most nodes have a single child and a table in each would cost ten times
/// the memory. A walk looks at each node of the trie at most once, whatever the wildcards, so
/// its cost is bounded by the patterns that begin as the topic does. Tables hash with the
/// standard library's keyed hash: users choose the tokens.
#[derive(Clone, Debug)]
pub struct PatternIndex<K> {
    nodes: Vec<Node<K>>,
    free_nodes: Vec<NodeId>,
    edges: HashMap<(NodeId, TokenId), NodeId>,
    tokens: HashMap<Box<str>, Interned>,
    free_tokens: Vec<TokenId>,
}

/// A node of the trie.
#[derive(Clone, Debug)]
struct Node<K> {
    /// The subscribers with a pattern that ends here, ascending.
    keys: Vec<K>,
    children: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct NodeId(u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct TokenId(u32);

#[derive(Clone, Debug)]
struct Interned {
    id: TokenId,
    /// The number of edges with this token.
    uses: u32,
}

const ROOT: NodeId = NodeId(0);
/// `*` and `>` are interned like any token, first and for good: no topic contains them.
const ONE: TokenId = TokenId(0);
const REST: TokenId = TokenId(1);
/// A topic's token that is in no pattern: no edge carries it.
const UNKNOWN: TokenId = TokenId(u32::MAX);

impl<K> Default for PatternIndex<K> {
    fn default() -> Self {
        let wildcards = [("*", ONE), (">", REST)];
        Self {
            nodes: vec![Node::default()],
            free_nodes: Vec::new(),
            edges: HashMap::new(),
            tokens: wildcards.map(|(text, id)| (text.into(), Interned { id, uses: 1 })).into(),
            free_tokens: Vec::new(),
        }
    }
}

impl<K> Default for Node<K> {
    fn default() -> Self {
        Self { keys: Vec::new(), children: 0 }
    }
}

impl<K: Copy + Ord> PatternIndex<K> {
    /// Adds a pattern of the subscriber `key`, unless it exists.
    pub fn insert(&mut self, pattern: &Pattern, key: K) {
        let mut node = ROOT;
        for text in pattern.tokens() {
            node = self.child(node, text).map_or_else(|| self.add_child(node, text), |(_, child)| child);
        }
        let keys = &mut self.node_mut(node).keys;
        if let Err(place) = keys.binary_search(&key) {
            keys.insert(place, key);
        }
    }

    /// Removes a pattern of the subscriber `key`, if it exists.
    pub fn remove(&mut self, pattern: &Pattern, key: K) {
        let mut node = ROOT;
        let mut path = Vec::with_capacity(MAX_TOKENS);
        for text in pattern.tokens() {
            let Some((token, child)) = self.child(node, text) else { return };
            path.push((node, token, text));
            node = child;
        }
        let keys = &mut self.node_mut(node).keys;
        let Ok(place) = keys.binary_search(&key) else { return };
        keys.remove(place);
        for (parent, token, text) in path.into_iter().rev() {
            let left = self.node_mut(node);
            if left.children > 0 || !left.keys.is_empty() {
                break;
            }
            *left = Node::default();
            self.free_nodes.push(node);
            self.edges.remove(&(parent, token));
            self.node_mut(parent).children -= 1;
            self.release(text);
            node = parent;
        }
    }

    /// Appends the subscribers whose patterns match `topic` to `found`: ascending, each once.
    pub fn matches(&self, topic: &Topic, found: &mut Vec<K>) {
        let mut tokens = [UNKNOWN; MAX_TOKENS];
        let mut count = 0;
        for (slot, text) in tokens.iter_mut().zip(topic.tokens()) {
            *slot = self.tokens.get(text).map_or(UNKNOWN, |token| token.id);
            count += 1;
        }
        let before = found.len();
        let mut lists = 0;
        self.walk(ROOT, &tokens[..count], found, &mut lists);
        if lists > 1 {
            // Each list is ascending, and the stable sort merges such runs.
            found[before..].sort();
            dedup_from(found, before);
        }
    }

    /// Collects the matches below `node`. `lists` counts the nodes that gave keys.
    fn walk(&self, node: NodeId, tokens: &[TokenId], found: &mut Vec<K>, lists: &mut usize) {
        let here = &self.nodes[node.0 as usize];
        let Some((&token, tokens)) = tokens.split_first() else {
            found.extend_from_slice(&here.keys);
            *lists += usize::from(!here.keys.is_empty());
            return;
        };
        if here.children == 0 {
            return;
        }
        if let Some(rest) = self.edges.get(&(node, REST)) {
            self.walk(*rest, &[], found, lists);
        }
        for token in [token, ONE] {
            if let Some(child) = self.edges.get(&(node, token)) {
                self.walk(*child, tokens, found, lists);
            }
        }
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node<K> {
        &mut self.nodes[id.0 as usize]
    }

    fn child(&self, node: NodeId, text: &str) -> Option<(TokenId, NodeId)> {
        let token = self.tokens.get(text)?.id;
        Some((token, *self.edges.get(&(node, token))?))
    }

    fn add_child(&mut self, parent: NodeId, text: &str) -> NodeId {
        let token = self.intern(text);
        let child = self.free_nodes.pop().unwrap_or_else(|| {
            self.nodes.push(Node::default());
            NodeId(number(self.nodes.len() - 1))
        });
        self.edges.insert((parent, token), child);
        self.node_mut(parent).children += 1;
        child
    }

    fn intern(&mut self, text: &str) -> TokenId {
        if let Some(token) = self.tokens.get_mut(text) {
            token.uses += 1;
            return token.id;
        }
        // Without a free number, all numbers below the count of tokens are in use.
        let id = self.free_tokens.pop().unwrap_or_else(|| TokenId(number(self.tokens.len())));
        self.tokens.insert(text.into(), Interned { id, uses: 1 });
        id
    }

    fn release(&mut self, text: &str) {
        let Some(token) = self.tokens.get_mut(text) else { return };
        token.uses -= 1;
        if token.uses == 0 {
            self.free_tokens.push(token.id);
            self.tokens.remove(text);
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "four thousand million nodes do not fit in memory")]
fn number(index: usize) -> u32 {
    index as u32
}

/// Drops repeated neighbours from `first` on.
fn dedup_from<K: Copy + Eq>(keys: &mut Vec<K>, first: usize) {
    let mut kept = first;
    for next in first..keys.len() {
        if next == first || keys[next] != keys[kept - 1] {
            keys[kept] = keys[next];
            kept += 1;
        }
    }
    keys.truncate(kept);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn topic(text: &str) -> Topic {
        Topic::parse(text).unwrap()
    }

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).unwrap()
    }

    fn wanted(index: &PatternIndex<u32>, text: &str) -> Vec<u32> {
        let mut found = Vec::new();
        index.matches(&topic(text), &mut found);
        found
    }

    #[test]
    fn what_is_no_topic_is_refused_with_its_place() {
        let refused = |text: &str| Topic::parse(text).unwrap_err();
        assert_eq!(refused(""), TopicError::Empty);
        assert_eq!(refused(&"a".repeat(256)), TopicError::TooLong { length: 256 });
        assert_eq!(refused(".a"), TopicError::EmptyToken { at: 0 });
        assert_eq!(refused("a..b"), TopicError::EmptyToken { at: 2 });
        assert_eq!(refused("a.b."), TopicError::EmptyToken { at: 4 });
        assert_eq!(refused("a.b c"), TopicError::ForbiddenCharacter { found: ' ', at: 3 });
        assert_eq!(refused("a.\u{7f}"), TopicError::ForbiddenCharacter { found: '\u{7f}', at: 2 });
        assert_eq!(refused("a.bé"), TopicError::ForbiddenCharacter { found: 'é', at: 3 });
        assert!(matches!(refused("a.*"), TopicError::Wildcard { found: '*', at: 2, .. }));
        assert!(matches!(refused("a.>"), TopicError::Wildcard { found: '>', at: 2, .. }));
        assert_eq!(topic(&"a".repeat(255)).as_str().len(), MAX_TOPIC_BYTES);
    }

    #[test]
    fn a_wildcard_must_be_a_whole_token_and_the_tail_the_last() {
        let refused = |text: &str| Pattern::parse(text).unwrap_err();
        assert!(matches!(refused("a.b*"), TopicError::Wildcard { found: '*', at: 3, .. }));
        assert!(matches!(refused("a.**"), TopicError::Wildcard { found: '*', at: 2, .. }));
        assert!(matches!(refused(">.a"), TopicError::Wildcard { found: '>', at: 0, .. }));
        assert!(matches!(refused("a.>>"), TopicError::Wildcard { found: '>', at: 2, .. }));
        assert_eq!(refused("*..>"), TopicError::EmptyToken { at: 2 });
        for text in ["*", ">", "*.*", "a.*.>", "*.>", "a.b"] {
            assert_eq!(pattern(text).as_str(), text);
        }
    }

    #[test]
    fn the_tail_wants_at_least_one_token() {
        assert!(!pattern("a.>").matches(&topic("a")));
        assert!(pattern("a.>").matches(&topic("a.b")));
        assert!(pattern("a.>").matches(&topic("a.b.c")));
        assert!(!pattern("a.*").matches(&topic("a.b.c")));
    }

    #[test]
    fn a_subscriber_with_several_matching_patterns_is_found_once_and_after_what_was_there() {
        let mut index = PatternIndex::default();
        for (text, key) in [("a.>", 7), ("a.b", 7), ("*.b", 3), ("a.b", 9), ("c", 1)] {
            index.insert(&pattern(text), key);
            index.insert(&pattern(text), key);
        }
        let mut found = vec![9, 9];
        index.matches(&topic("a.b"), &mut found);
        assert_eq!(found, [9, 9, 3, 7, 9]);
        index.remove(&pattern("a.b"), 7);
        index.remove(&pattern("a.b.c"), 7);
        assert_eq!(wanted(&index, "a.b"), [3, 7, 9]);
        index.remove(&pattern("a.>"), 7);
        assert_eq!(wanted(&index, "a.b"), [3, 9]);
    }

    #[test]
    fn the_longest_topic_is_walked_to_its_end() {
        let mut index = PatternIndex::default();
        let longest = vec!["a"; MAX_TOKENS].join(".");
        assert_eq!(longest.len(), MAX_TOPIC_BYTES);
        index.insert(&pattern(&vec!["*"; MAX_TOKENS].join(".")), 1);
        index.insert(&pattern(&longest), 2);
        assert_eq!(wanted(&index, &longest), [1, 2]);
    }

    fn some_pattern() -> impl Strategy<Value = Pattern> {
        let token = prop_oneof![3 => Just("a"), 2 => Just("b"), 1 => Just("cc"), 3 => Just("*")];
        (prop::collection::vec(token, 0..5), any::<bool>()).prop_map(|(mut tokens, tail)| {
            if tail || tokens.is_empty() {
                tokens.push(">");
            }
            pattern(&tokens.join("."))
        })
    }

    fn some_topic() -> impl Strategy<Value = Topic> {
        prop::collection::vec(prop_oneof![Just("a"), Just("b"), Just("cc"), Just("d")], 1..6)
            .prop_map(|tokens| topic(&tokens.join(".")))
    }

    proptest! {
        #[test]
        fn the_index_agrees_with_the_patterns_one_by_one(
            entries in prop::collection::vec((some_pattern(), 0_u32..20, any::<bool>()), 0..60),
            topics in prop::collection::vec(some_topic(), 1..10),
        ) {
            let mut index = PatternIndex::default();
            for (pattern, key, _) in &entries {
                index.insert(pattern, *key);
            }
            let mut present: std::collections::BTreeSet<_> = entries.iter().map(|(p, k, _)| (p, *k)).collect();
            let check = |index: &PatternIndex<u32>, present: &std::collections::BTreeSet<(&Pattern, u32)>| {
                for topic in &topics {
                    let mut found = Vec::new();
                    index.matches(topic, &mut found);
                    let one_by_one: std::collections::BTreeSet<_> =
                        present.iter().filter(|(p, _)| p.matches(topic)).map(|(_, k)| *k).collect();
                    prop_assert_eq!(found, one_by_one.into_iter().collect::<Vec<_>>());
                }
                Ok(())
            };
            check(&index, &present)?;
            for (pattern, key, _) in entries.iter().filter(|(_, _, is_removed)| *is_removed) {
                index.remove(pattern, *key);
                present.remove(&(pattern, *key));
            }
            check(&index, &present)?;
            // Removed patterns leave nothing behind, and their nodes are reused.
            for (pattern, key) in &present {
                index.remove(pattern, *key);
            }
            prop_assert!(index.edges.is_empty());
            prop_assert_eq!(index.tokens.len(), 2);
            prop_assert_eq!(index.free_nodes.len() + 1, index.nodes.len());
            let room = index.nodes.len();
            for (pattern, key, _) in &entries {
                index.insert(pattern, *key);
            }
            prop_assert_eq!(index.nodes.len(), room);
            let all = entries.iter().map(|(p, k, _)| (p, *k)).collect();
            check(&index, &all)?;
        }
    }
}
