//! Random filters and events, and the rule for arrays by its definition: a field for each condition, tried in all
//! ways, of which no two lie in different elements of one array.

use proptest::prelude::*;
use serde_json::{Map, Value as Json};

use super::filter;
use crate::filter::Filter;
use crate::filter::matching::Condition;
use crate::filter::value::Value;

const KEYS: [&str; 4] = ["a", "b", "c", "d\"\n"];

fn text() -> impl Strategy<Value = String> {
    prop::sample::select(
        &["", "x", "xy", "xyx", "yx", "X", "XY", "é", "É", "10.0.0.1", "10.1.0.1", "::1", "::ffff:10.0.0.1"][..],
    )
    .prop_map(str::to_owned)
}

fn number() -> impl Strategy<Value = Json> {
    prop::sample::select(
        &["0", "1", "1.0", "1e0", "-1", "2.5", "7", "6000000000", "6e9", "9007199254740992", "9007199254740993"][..],
    )
    .prop_map(|number| serde_json::from_str(number).unwrap())
}

fn leaf() -> impl Strategy<Value = Json> {
    prop_oneof![
        4 => text().prop_map(Json::String),
        2 => number(),
        1 => any::<bool>().prop_map(Json::Bool),
        1 => Just(Json::Null),
    ]
}

fn object(value: impl Strategy<Value = Json>, least: usize) -> impl Strategy<Value = Json> {
    prop::collection::vec((prop::sample::select(&KEYS[..]), value), least..4)
        .prop_map(|members| Json::Object(members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()))
}

/// An event's JSON, with arrays of everything.
pub(in crate::filter) fn some_event() -> impl Strategy<Value = String> {
    let value = leaf().prop_recursive(4, 24, 4, |value| {
        prop_oneof![2 => prop::collection::vec(value.clone(), 0..4).prop_map(Json::Array), 3 => object(value, 0)]
    });
    object(value, 0).prop_map(|event| event.to_string())
}

fn one_or_more() -> impl Strategy<Value = Json> {
    prop_oneof![
        text().prop_map(Json::String),
        prop::collection::vec(text().prop_map(Json::String), 1..3).prop_map(Json::Array)
    ]
}

fn operator() -> impl Strategy<Value = Json> {
    let of = |name: &'static str| move |operand: Json| Json::Object(Map::from_iter([(name.to_owned(), operand)]));
    let string = || text().prop_map(Json::String);
    let nonempty =
        || one_or_more().prop_map(|texts| serde_json::from_str(&texts.to_string().replace("\"\"", "\"x\"")).unwrap());
    let wild = || {
        prop::sample::select(
            &["*", "x*", "*x", "*y*", "*x*y*", "*.0.0*", "*10.1.0.1*", "x*x", "x*y*", "xy", "", "10.*"][..],
        )
        .prop_map(Json::from)
    };
    let inverted = || {
        prop_oneof![
            nonempty().prop_map(of("prefix")),
            nonempty().prop_map(of("suffix")),
            one_or_more().prop_map(of("equals-ignore-case")),
            wild().prop_map(of("wildcard")),
        ]
    };
    let small = || -2_i64..8;
    prop_oneof![
        string().prop_map(of("prefix")),
        string().prop_map(of("suffix")),
        string().prop_map(of("equals-ignore-case")),
        string().prop_map(of("equals-ignore-case")).prop_map(of("prefix")),
        string().prop_map(of("equals-ignore-case")).prop_map(of("suffix")),
        wild().prop_map(of("wildcard")),
        one_or_more().prop_map(of("anything-but")),
        small().prop_map(Json::from).prop_map(of("anything-but")),
        inverted().prop_map(of("anything-but")),
        any::<bool>().prop_map(Json::Bool).prop_map(of("exists")),
        prop::sample::select(&["10.0.0.0/8", "10.0.0.0/16", "10.0.0.1/32", "::/0"][..])
            .prop_map(Json::from)
            .prop_map(of("cidr")),
        (prop::sample::select(&["=", "<", "<=", ">", ">="][..]), small())
            .prop_map(|(c, n)| serde_json::json!([c, n]))
            .prop_map(of("numeric")),
        (small(), 1_i64..4).prop_map(|(n, width)| serde_json::json!([">", n, "<=", n + width])).prop_map(of("numeric")),
    ]
}

/// A filter, with `$or` at any place.
pub(in crate::filter) fn some_filter() -> impl Strategy<Value = Filter> {
    let alternatives = || prop::collection::vec(prop_oneof![leaf(), operator()], 1..3).prop_map(Json::Array);
    let fields = object(alternatives(), 1).prop_recursive(3, 16, 3, move |inner| {
        let or = prop::option::of(prop::collection::vec(inner.clone(), 2..4));
        let field = prop_oneof![2 => alternatives(), 2 => inner];
        (object(field, 1), or).prop_map(|(mut fields, or)| {
            if let (Some(or), Some(fields)) = (or, fields.as_object_mut()) {
                fields.insert("$or".to_owned(), Json::Array(or));
            }
            fields
        })
    });
    fields.prop_map(|fields| filter(&fields.to_string()))
}

/// A leaf of an event.
struct Leaf {
    path: Vec<String>,
    json: Json,
    /// Which element of which array it lies in; arrays are told apart by numbers.
    elements: Vec<(usize, usize)>,
}

#[derive(Default)]
struct Flattened {
    leaves: Vec<Leaf>,
    arrays: usize,
}

impl Flattened {
    /// `opened` are elements of the arrays at the end of `path`, which only count for fields of objects in them.
    fn add(&mut self, json: &Json, path: &[String], elements: &[(usize, usize)], opened: &[(usize, usize)]) {
        match json {
            Json::Object(fields) => {
                let elements = [elements, opened].concat();
                for (key, value) in fields {
                    self.add(value, &[path, std::slice::from_ref(key)].concat(), &elements, &[]);
                }
            }
            Json::Array(values) => {
                let array = self.arrays;
                self.arrays += 1;
                for (index, value) in values.iter().enumerate() {
                    self.add(value, path, elements, &[opened, &[(array, index)]].concat());
                }
            }
            json => {
                let leaf = Leaf { path: path.to_vec(), json: json.clone(), elements: elements.to_vec() };
                self.leaves.push(leaf);
            }
        }
    }
}

fn agree(one: &[(usize, usize)], other: &[(usize, usize)]) -> bool {
    one.iter().all(|(array, index)| other.iter().all(|(same, other)| array != same || index == other))
}

fn passes(condition: &Condition, leaf: &Leaf) -> bool {
    let bare = leaf.json.to_string();
    condition.wanted.matches(leaf.json.as_str().map_or_else(|| Value::bare(&bare), Value::Text))
}

/// Tries every choice of leaves for the rest of the conditions.
fn can_be_met(
    conditions: &[&Condition],
    leaves: &[Leaf],
    taken: &mut Vec<Vec<(usize, usize)>>,
    absent: &mut Vec<Vec<String>>,
) -> bool {
    let Some((condition, rest)) = conditions.split_first() else {
        return absent.iter().all(|path| {
            !leaves.iter().any(|leaf| leaf.path == *path && taken.iter().all(|taken| agree(taken, &leaf.elements)))
        });
    };
    let path: Vec<String> = condition.path.iter().map(ToString::to_string).collect();
    for leaf in leaves.iter().filter(|leaf| leaf.path == path && passes(condition, leaf)) {
        if taken.iter().all(|taken| agree(taken, &leaf.elements)) {
            taken.push(leaf.elements.clone());
            if can_be_met(rest, leaves, taken, absent) {
                return true;
            }
            taken.pop();
        }
    }
    if condition.wanted.absent {
        absent.push(path);
        if can_be_met(rest, leaves, taken, absent) {
            return true;
        }
        absent.pop();
    }
    false
}

fn by_definition(filter: &Filter, event: &str) -> bool {
    let mut flattened = Flattened::default();
    flattened.add(&serde_json::from_str(event).unwrap(), &[], &[], &[]);
    let compiled = filter.compiled();
    compiled.branches.iter().any(|branch| {
        let conditions: Vec<_> = branch.iter().map(|index| &compiled.conditions[*index as usize]).collect();
        can_be_met(&conditions, &flattened.leaves, &mut Vec::new(), &mut Vec::new())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn answers_are_those_of_the_definition(filter in some_filter(), events in prop::collection::vec(some_event(), 1..8)) {
        for event in events {
            prop_assert_eq!(filter.matches(event.as_bytes()), by_definition(&filter, &event), "{} {}", filter, event);
        }
    }
}
