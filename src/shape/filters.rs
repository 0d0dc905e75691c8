//! Filters and tests of templates: those of Jinja that are safe, and those that receivers need.
//!
//! No filter makes a longer list than its input, or puts its input into a new container beyond one level; see
//! `subset.rs`.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::net::IpAddr;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value, filters, tests};

use super::json::{Digits, Json, part, text, write_json};
use super::source::{BYTES_PER_FUEL, charge, settle};
use super::{escape, moment};

/// All filters, in the order of the documentation.
pub(super) const FILTERS: [&str; 45] = [
    "abs",
    "ascii",
    "capitalize",
    "d",
    "date",
    "default",
    "e",
    "epoch",
    "epoch_ms",
    "escape",
    "first",
    "float",
    "int",
    "ip",
    "items",
    "join",
    "last",
    "length",
    "lookup",
    "lower",
    "markdown_escape",
    "msgid",
    "oneline",
    "pluck",
    "pretty",
    "reject_empty",
    "replace",
    "reverse",
    "rfc3339",
    "round",
    "severity",
    "size",
    "slack_escape",
    "sort",
    "split",
    "string",
    "syslog_escape",
    "take",
    "title",
    "tojson",
    "trim",
    "truncate",
    "unique",
    "upper",
    "urlencode",
];

/// Every test.
pub(super) const TESTS: [&str; 22] = [
    "boolean",
    "defined",
    "divisibleby",
    "endingwith",
    "eq",
    "even",
    "float",
    "ge",
    "gt",
    "in",
    "integer",
    "le",
    "lt",
    "mapping",
    "ne",
    "none",
    "number",
    "odd",
    "sequence",
    "startingwith",
    "string",
    "undefined",
];

/// The default length of `pretty` and `truncate`, in characters.
const DEFAULT_CHARS: usize = 255;
const DEFAULT_PRETTY_CHARS: usize = 3_000;
/// The longest result of `pretty`, in characters, since indentation can multiply the length of a deep text.
const MAX_PRETTY_CHARS: usize = 20_000;
/// The most steps of a path of `pluck` and `sort`.
const MAX_PATH_STEPS: usize = 16;
/// The longest list that the filters of this file take.
const MAX_ITEMS: usize = 10_000;
/// Fuel for each item that a filter of this file looks at.
const FUEL_PER_ITEM: u64 = 1;

type Result<T, E = Error> = std::result::Result<T, E>;

fn invalid(reason: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason)
}

pub(super) fn register(env: &mut Environment<'_>) {
    register_tests(env);
    register_texts(env);
    register_lists(env);
    env.add_filter("tojson", |state: &State, value: &Value| -> Result<String> {
        settle(state)?;
        let mut json = String::new();
        write_json(value, state, &mut json)?;
        Ok(json)
    });
    env.add_filter("pretty", |state: &State, value: &Value, chars: Option<usize>| -> Result<String> {
        // The result is short, but the input need not be, so it is charged for.
        let json = if part(value).is_some() { text(value, state)? } else { Cow::Owned(json_of(value, state)?) };
        Ok(escape::pretty(&json, chars.unwrap_or(DEFAULT_PRETTY_CHARS).min(MAX_PRETTY_CHARS)))
    });
    env.add_filter("default", filters::default);
    env.add_filter("d", filters::default);
    env.add_filter("lookup", |value: &Value, table: &Value, other: Option<Value>| -> Result<Value> {
        let found = table.get_item(value).unwrap_or_default();
        Ok(if found.is_undefined() { other.unwrap_or_default() } else { found })
    });
    env.add_filter("int", |state: &State, value: &Value, other: Option<Value>| integer(value, other, state));
    env.add_filter("float", |state: &State, value: &Value, other: Option<Value>| -> Result<Value> {
        let other = || other.filter(is_number).unwrap_or_else(|| Value::from(0.0));
        Ok(as_float(value, state)?.map_or_else(other, Value::from))
    });
    env.add_filter("abs", filters::abs);
    env.add_filter("round", round);
    env.add_filter("ip", |state: &State, value: &Value| -> Result<Value> {
        let address = text(value, state)?;
        Ok(address.trim().parse::<IpAddr>().map_or(Value::UNDEFINED, |address| Value::from(address.to_string())))
    });
    env.add_filter("severity", |state: &State, value: &Value| -> Result<Value> {
        Ok(severity(value, state)?.map_or(Value::UNDEFINED, Value::from))
    });
    env.add_filter("rfc3339", |state: &State, value: &Value| -> Result<Value> {
        Ok(moment::parse(&text(value, state)?).map_or(Value::UNDEFINED, |at| Value::from(moment::rfc3339(at))))
    });
    env.add_filter("epoch", |state: &State, value: &Value| epoch(value, state, 1_000_000));
    env.add_filter("epoch_ms", |state: &State, value: &Value| epoch(value, state, 1_000));
    env.add_filter("date", |state: &State, value: &Value, format: &str| -> Result<Value> {
        let Some(at) = moment::parse(&text(value, state)?) else { return Ok(Value::UNDEFINED) };
        moment::formatted(at, format).map(Value::from).map_err(invalid)
    });
}

fn register_tests(env: &mut Environment<'_>) {
    env.add_test("boolean", tests::is_boolean);
    env.add_test("defined", tests::is_defined);
    env.add_test("divisibleby", tests::is_divisibleby);
    env.add_test("endingwith", |state: &State, value: &Value, other: &str| -> Result<bool> {
        charge(state, other.len())?;
        Ok(value.as_str().is_some_and(|text| text.ends_with(other)))
    });
    add_comparison(env, "eq", Ordering::is_eq);
    env.add_test("even", tests::is_even);
    env.add_test("float", tests::is_float);
    add_comparison(env, "ge", Ordering::is_ge);
    add_comparison(env, "gt", Ordering::is_gt);
    env.add_test("in", tests::is_in);
    env.add_test("integer", tests::is_integer);
    add_comparison(env, "le", Ordering::is_le);
    add_comparison(env, "lt", Ordering::is_lt);
    env.add_test("mapping", tests::is_mapping);
    add_comparison(env, "ne", Ordering::is_ne);
    env.add_test("none", tests::is_none);
    env.add_test("number", |value: &Value| is_number(value) || value.downcast_object_ref::<Digits>().is_some());
    env.add_test("odd", tests::is_odd);
    env.add_test("sequence", tests::is_sequence);
    env.add_test("startingwith", |state: &State, value: &Value, other: &str| -> Result<bool> {
        charge(state, other.len())?;
        Ok(value.as_str().is_some_and(|text| text.starts_with(other)))
    });
    env.add_test("string", tests::is_string);
    env.add_test("undefined", tests::is_undefined);
}

/// Registers a filter from text to text.
fn add_text(env: &mut Environment<'_>, name: &'static str, filter: impl Fn(&str) -> String + Send + Sync + 'static) {
    env.add_filter(name, move |state: &State, value: &Value| -> Result<String> { Ok(filter(&text(value, state)?)) });
}

fn register_texts(env: &mut Environment<'_>) {
    add_text(env, "string", str::to_owned);
    add_text(env, "lower", str::to_lowercase);
    add_text(env, "upper", str::to_uppercase);
    add_text(env, "trim", |text| text.trim().to_owned());
    add_text(env, "capitalize", escape::capitalized);
    add_text(env, "title", |text| {
        text.split_inclusive(char::is_whitespace).map(escape::capitalized).collect::<String>()
    });
    add_text(env, "escape", escape::markup);
    add_text(env, "e", escape::markup);
    add_text(env, "markdown_escape", escape::markdown);
    add_text(env, "syslog_escape", escape::syslog);
    add_text(env, "msgid", escape::msgid);
    add_text(env, "oneline", escape::oneline);
    add_text(env, "ascii", escape::ascii);
    add_text(env, "urlencode", escape::url);
    env.add_filter("slack_escape", |state: &State, value: &Value, chars: Option<usize>| -> Result<String> {
        Ok(escape::slack(&text(value, state)?, chars.unwrap_or(usize::MAX)))
    });
    env.add_filter("truncate", |state: &State, value: &Value, chars: Option<usize>| -> Result<String> {
        Ok(escape::truncated(&text(value, state)?, chars.unwrap_or(DEFAULT_CHARS)))
    });
    env.add_filter("size", |state: &State, value: &Value| -> Result<usize> { Ok(text(value, state)?.len()) });
    env.add_filter("replace", filters::replace);
    env.add_filter("split", |state: &State, value: &Value, separator: &str| -> Result<Value> {
        let text = text(value, state)?;
        if separator.is_empty() {
            return Err(invalid("split: the separator is empty"));
        }
        let parts: Vec<&str> = text.split(separator).take(MAX_ITEMS + 1).collect();
        counted(state, parts.len())?;
        Ok(parts.into_iter().map(Value::from).collect())
    });
}

fn register_lists(env: &mut Environment<'_>) {
    env.add_filter("length", filters::length);
    env.add_filter("join", |state: &State, value: &Value, separator: Option<&str>| join(value, separator, state));
    env.add_filter("first", |state: &State, value: &Value| -> Result<Value> {
        if let Some(text) = value.as_str() {
            return Ok(text.chars().next().map_or(Value::UNDEFINED, Value::from));
        }
        Ok(list(value, state)?.into_iter().next().unwrap_or_default())
    });
    env.add_filter("last", |state: &State, value: &Value| -> Result<Value> {
        if let Some(text) = value.as_str() {
            return Ok(text.chars().next_back().map_or(Value::UNDEFINED, Value::from));
        }
        Ok(list(value, state)?.into_iter().next_back().unwrap_or_default())
    });
    env.add_filter("take", |state: &State, value: &Value, count: usize| -> Result<Value> {
        if let Some(text) = value.as_str() {
            return Ok(Value::from(text.chars().take(count).collect::<String>()));
        }
        let items: Vec<Value> = value.try_iter()?.take(count.min(MAX_ITEMS)).collect();
        counted(state, items.len())?;
        Ok(Value::from(items))
    });
    env.add_filter("reverse", |state: &State, value: &Value| -> Result<Value> {
        Ok(list(value, state)?.into_iter().rev().collect())
    });
    env.add_filter("sort", |state: &State, value: &Value, options: Kwargs| sort(state, value, &options));
    env.add_filter("unique", |state: &State, value: &Value| -> Result<Value> {
        let items = list(value, state)?;
        charge_sort(state, &items)?;
        let mut seen = std::collections::BTreeSet::new();
        Ok(items.into_iter().filter(|item| seen.insert(item.clone())).collect())
    });
    env.add_filter("reject_empty", |state: &State, value: &Value| -> Result<Value> {
        Ok(list(value, state)?.into_iter().filter(Value::is_true).collect())
    });
    env.add_filter("items", |state: &State, value: &Value| -> Result<Value> {
        if value.kind() != ValueKind::Map && !value.is_undefined() {
            return Err(invalid(format!("items: needs a map, not {}", value.kind())));
        }
        let keys = list(value, state)?;
        let pair = |(key, item): (Value, Value)| Value::from(vec![key, item]);
        if let Some(json) = value.downcast_object_ref::<Json>() {
            return Ok(json.members()?.unwrap_or_default().iter().cloned().map(pair).collect());
        }
        let item = |key: Value| (key.clone(), value.get_item(&key).unwrap_or_default());
        Ok(keys.into_iter().map(item).map(pair).collect())
    });
    env.add_filter("pluck", |state: &State, value: &Value, path: &str| -> Result<Value> {
        let steps = steps("pluck", path)?;
        let items = list(value, state)?;
        charge_paths(state, &items, &steps)?;
        let found = items.into_iter().map(|item| follow(item, &steps)).collect();
        settle(state)?;
        Ok(found)
    });
}

/// The items of a list, or the keys of a map; none for an undefined value.
fn list(value: &Value, state: &State<'_, '_>) -> Result<Vec<Value>> {
    if value.is_undefined() || value.is_none() {
        return Ok(Vec::new());
    }
    settle(state)?;
    let items: Vec<Value> = value.try_iter()?.take(MAX_ITEMS + 1).collect();
    counted(state, items.len())?;
    settle(state)?;
    Ok(items)
}

fn json_of(value: &Value, state: &State<'_, '_>) -> Result<String> {
    let mut json = String::new();
    write_json(value, state, &mut json)?;
    charge(state, json.len())?;
    Ok(json)
}

fn counted(state: &State<'_, '_>, items: usize) -> Result<()> {
    if items > MAX_ITEMS {
        return Err(invalid(format!("the list has more than {MAX_ITEMS} items")));
    }
    state.consume_fuel(items as u64 * FUEL_PER_ITEM)
}

/// The most bytes that a comparison of the value looks at.
fn compared_bytes(value: &Value) -> usize {
    part(value).or_else(|| value.as_str()).map_or(0, str::len)
}

/// Charges for all comparisons of a sort by these keys.
fn charge_sort<'a>(state: &State<'_, '_>, keys: impl IntoIterator<Item = &'a Value>) -> Result<()> {
    let (mut count, mut bytes) = (0_usize, 0_usize);
    for key in keys {
        count += 1;
        bytes += compared_bytes(key);
    }
    let looks = u64::from(usize::BITS - count.leading_zeros());
    state.consume_fuel((count + bytes / BYTES_PER_FUEL) as u64 * looks)
}

/// Charges for the path from each item.
fn charge_paths(state: &State<'_, '_>, items: &[Value], steps: &[&str]) -> Result<()> {
    state.consume_fuel((items.len() * steps.len()) as u64 * FUEL_PER_ITEM)
}

/// Registers a test that compares, charged by the bytes that it may look at.
fn add_comparison(env: &mut Environment<'_>, name: &'static str, holds: fn(Ordering) -> bool) {
    env.add_test(name, move |state: &State, value: &Value, other: &Value| -> Result<bool> {
        charge(state, compared_bytes(value).min(compared_bytes(other)))?;
        Ok(match name {
            // Values of the same order need not be equal.
            "eq" => value == other,
            "ne" => value != other,
            _ => holds(value.cmp(other)),
        })
    });
}

fn steps<'a>(filter: &str, path: &'a str) -> Result<Vec<&'a str>> {
    let steps: Vec<&str> = path.split('.').take(MAX_PATH_STEPS + 1).collect();
    if steps.len() > MAX_PATH_STEPS {
        return Err(invalid(format!("{filter}: the path has more than {MAX_PATH_STEPS} steps")));
    }
    Ok(steps)
}

fn follow(item: Value, steps: &[&str]) -> Value {
    steps.iter().fold(item, |item, step| item.get_attr(step).unwrap_or_default())
}

/// As Jinja's `sort`, but `attribute` is a single path. A sort panics without a total order. The engine's order is not
/// total if some items lack the attribute, or for parts of the event, whose comparison stops when it costs too much. So
/// comparisons are charged for before the sort.
fn sort(state: &State<'_, '_>, value: &Value, options: &Kwargs) -> Result<Value> {
    let steps = match options.get::<Option<&str>>("attribute")? {
        Some(path) => steps("sort", path)?,
        None => Vec::new(),
    };
    let is_reversed = options.get::<Option<bool>>("reverse")?.unwrap_or(false);
    let is_case_sensitive = options.get::<Option<bool>>("case_sensitive")?.unwrap_or(false);
    options.assert_all_used()?;
    let items = list(value, state)?;
    charge_paths(state, &items, &steps)?;
    let mut keyed: Vec<(Value, Value)> = items.into_iter().map(|item| (follow(item.clone(), &steps), item)).collect();
    settle(state)?;
    charge_sort(state, keyed.iter().map(|(key, _)| key))?;
    if !is_case_sensitive {
        for (key, _) in &mut keyed {
            if let Some(text) = key.as_str() {
                *key = Value::from(text.to_ascii_lowercase());
            }
        }
    }
    keyed.sort_by(|(a, _), (b, _)| if is_reversed { order(b, a) } else { order(a, b) });
    Ok(keyed.into_iter().map(|(_, item)| item).collect())
}

/// The order of values, which compares parts of the event to their end.
fn order(a: &Value, b: &Value) -> Ordering {
    match (part(a), part(b)) {
        (Some(in_a), Some(in_b)) if a.kind() == b.kind() => in_a.cmp(in_b),
        _ => a.cmp(b),
    }
}

fn join(value: &Value, separator: Option<&str>, state: &State<'_, '_>) -> Result<String> {
    let separator = separator.unwrap_or_default();
    let mut joined = String::new();
    for (index, item) in list(value, state)?.iter().enumerate() {
        let separator = if index > 0 { separator } else { "" };
        let item = text(item, state)?;
        // Charged before the text is made.
        charge(state, separator.len() + item.len())?;
        joined.push_str(separator);
        joined.push_str(&item);
    }
    Ok(joined)
}

fn is_number(value: &Value) -> bool {
    value.kind() == ValueKind::Number
}

fn as_float(value: &Value, state: &State<'_, '_>) -> Result<Option<f64>> {
    if value.kind() == ValueKind::Bool {
        return Ok(Some(if value.is_true() { 1.0 } else { 0.0 }));
    }
    if is_number(value) {
        // A double takes every integer, perhaps rounded.
        return Ok(f64::try_from(value.clone()).ok().or_else(|| value.to_string().parse().ok()));
    }
    let digits = value.downcast_object_ref::<Digits>().map(Digits::as_str);
    if let Some(digits) = digits {
        charge(state, digits.len())?;
    }
    let number = digits.or_else(|| value.as_str().map(str::trim)).and_then(|text| text.parse().ok());
    Ok(number.filter(|number: &f64| number.is_finite()))
}

fn integer(value: &Value, other: Option<Value>, state: &State<'_, '_>) -> Result<Value> {
    if value.is_integer() {
        return Ok(value.clone());
    }
    if let Some(integer) = value.as_str().and_then(|text| text.trim().parse::<i128>().ok()) {
        return Ok(Value::from(integer));
    }
    #[expect(clippy::cast_possible_truncation, reason = "a number beyond 128 bits becomes the largest")]
    let truncated = as_float(value, state)?.map(|number| Value::from(number.trunc() as i128));
    Ok(truncated.or_else(|| other.filter(is_number)).unwrap_or_else(|| Value::from(0)))
}

fn round(state: &State<'_, '_>, value: &Value, digits: Option<u32>) -> Result<Value> {
    const MAX_ROUND_DIGITS: u32 = 15;
    if value.is_integer() {
        return Ok(value.clone());
    }
    let number = as_float(value, state)?.ok_or_else(|| invalid("round: needs a number"))?;
    let factor = 10_f64.powi(digits.unwrap_or(0).min(MAX_ROUND_DIGITS).cast_signed());
    let rounded = (number * factor).round() / factor;
    Ok(Value::from(if rounded.is_finite() { rounded } else { number }))
}

/// Seconds (`unit_micros` = 1,000,000) or milliseconds (1,000) since 1970: an integer if it is a whole number.
fn epoch(value: &Value, state: &State<'_, '_>, unit_micros: i64) -> Result<Value> {
    let Some(at) = moment::parse(&text(value, state)?) else { return Ok(Value::UNDEFINED) };
    let micros = at.as_microsecond();
    if unit_micros == 1_000 || micros % unit_micros == 0 {
        return Ok(Value::from(micros.div_euclid(unit_micros)));
    }
    #[expect(clippy::cast_precision_loss, reason = "microseconds of the years 0 to 9999 are within 2^53 to a fraction")]
    let seconds = micros as f64 / unit_micros as f64;
    Ok(Value::from(seconds))
}

/// `low`, `medium`, `high` or `critical` for the usual words.
fn severity(value: &Value, state: &State<'_, '_>) -> Result<Option<&'static str>> {
    let word = text(value, state)?.trim().chars().take(16).collect::<String>().to_lowercase();
    Ok(match &*word {
        "critical" | "crit" | "fatal" | "emergency" | "emerg" | "alert" | "severe" => Some("critical"),
        "high" | "error" | "err" | "major" => Some("high"),
        "medium" | "moderate" | "warning" | "warn" => Some("medium"),
        "low" | "minor" | "notice" | "info" | "informational" | "information" | "debug" => Some("low"),
        _ => None,
    })
}
