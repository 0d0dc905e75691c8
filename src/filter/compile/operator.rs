//! The operators: `{"prefix": "us-"}` and the like among a field's alternatives.

use std::cmp::Ordering;

use super::{Compiler, Wrong};
use crate::filter::MAX_WILDCARDS;
use crate::filter::document::{Kind, NodeAt};
use crate::filter::predicate::{AnyOf, Limit, Predicate, Range, Wanted, Wildcard};
use crate::filter::value::{compare, folded, is_number, place};

/// Every operator.
pub(super) const NAMES: [&str; 8] =
    ["anything-but", "cidr", "equals-ignore-case", "exists", "numeric", "prefix", "suffix", "wildcard"];

/// Operators that can be inside `anything-but`.
const IN_ANYTHING_BUT: [&str; 4] = ["equals-ignore-case", "prefix", "suffix", "wildcard"];

impl<'a> Compiler<'a> {
    /// Adds the condition of an object `{"operator": operand}`.
    pub(super) fn operator(
        &mut self,
        at: NodeAt,
        predicates: &mut Vec<Predicate>,
        wanted: &mut Wanted,
    ) -> Result<(), Wrong> {
        let operand = self.only_member(at)?;
        let (document, kind) = (self.document, self.document.kind(operand));
        match document.key(operand) {
            "anything-but" => wanted.anything_but.push(self.anything_but(operand)?),
            "cidr" => predicates.push(self.cidr(operand)?),
            "exists" => match document.text(operand) {
                "true" if kind == Kind::Bare => wanted.exists = true,
                "false" if kind == Kind::Bare => wanted.absent = true,
                _ => return Err(self.wrong(operand, "exists must be true or false")),
            },
            "numeric" => predicates.push(self.numeric(operand)?),
            name @ ("prefix" | "suffix") if kind == Kind::Object => {
                predicates.push(self.affix_ignoring_case(name, operand)?);
            }
            name if IN_ANYTHING_BUT.contains(&name) => predicates.push(self.string_predicate(name, operand)?),
            name => return Err(self.wrong(operand, unknown(name, &NAMES))),
        }
        Ok(())
    }

    /// The single member of an operator's object.
    fn only_member(&self, object: NodeAt) -> Result<NodeAt, Wrong> {
        let mut members = self.document.children(object);
        match (members.next(), members.next()) {
            (Some(member), None) => Ok(member),
            (None, _) => Err(self.wrong(object, "is empty; an operator is wanted, as in {\"prefix\": \"us-\"}")),
            (Some(_), Some(second)) => {
                Err(self.wrong(second, "an object has one operator; write others as objects of their own beside it"))
            }
        }
    }

    fn string(&self, name: &str, node: NodeAt) -> Result<&'a str, Wrong> {
        if self.document.kind(node) == Kind::String {
            self.operand(node)
        } else {
            Err(self.wrong(node, format!("{name} must be a string")))
        }
    }

    /// An operator of [`IN_ANYTHING_BUT`] with one string.
    fn string_predicate(&mut self, name: &str, node: NodeAt) -> Result<Predicate, Wrong> {
        let text = self.string(name, node)?;
        Ok(match name {
            "prefix" => Predicate::Prefix(text.into()),
            "suffix" => Predicate::Suffix(text.into()),
            "wildcard" => self.wildcard(node, text)?,
            _ => Predicate::IgnoreCase(fold(text)),
        })
    }

    /// `{"equals-ignore-case": "…"}` as the operand of `prefix` or `suffix`.
    fn affix_ignoring_case(&self, name: &str, object: NodeAt) -> Result<Predicate, Wrong> {
        let operand = self.only_member(object)?;
        if self.document.key(operand) != "equals-ignore-case" {
            let reason = format!("{name} must be a string or {{\"equals-ignore-case\": \"…\"}}");
            return Err(self.wrong(operand, reason));
        }
        let text = fold(self.string("equals-ignore-case", operand)?);
        Ok(if name == "prefix" { Predicate::PrefixIgnoreCase(text) } else { Predicate::SuffixIgnoreCase(text) })
    }

    /// Reads `\*` and `\\` as the characters themselves, and `*` as any characters or none.
    fn wildcard(&mut self, node: NodeAt, text: &str) -> Result<Predicate, Wrong> {
        let (mut parts, mut part) = (Vec::new(), String::new());
        let mut chars = text.chars();
        let mut is_after_asterisk = false;
        while let Some(c) = chars.next() {
            if c == '*' {
                if is_after_asterisk {
                    return Err(self.wrong(node, "wildcard has two asterisks in a row; one is enough"));
                }
                self.asterisks += 1;
                if self.asterisks > MAX_WILDCARDS {
                    let reason = format!("the filter has more than {MAX_WILDCARDS} asterisks in its wildcards");
                    return Err(self.wrong(node, reason));
                }
                parts.push(std::mem::take(&mut part).into_boxed_str());
            } else {
                let literal = if c == '\\' { chars.next().filter(|c| matches!(c, '*' | '\\')) } else { Some(c) };
                part.push(literal.ok_or_else(|| {
                    self.wrong(node, "a backslash in a wildcard stands before an asterisk or another backslash")
                })?);
            }
            is_after_asterisk = c == '*';
        }
        let part = part.into_boxed_str();
        if parts.is_empty() {
            return Ok(Predicate::Text(part));
        }
        let first = parts.remove(0);
        Ok(Predicate::Wildcard(Wildcard { first, middle: parts.into(), last: part }))
    }

    /// The operand of `anything-but`.
    fn anything_but(&mut self, operand: NodeAt) -> Result<AnyOf, Wrong> {
        if self.document.kind(operand) == Kind::Object {
            return self.anything_but_operator(operand);
        }
        let values = self.one_or_more(operand)?;
        let are_all = |kind| values.iter().all(|value| self.document.kind(*value) == kind);
        if !are_all(Kind::String) && !are_all(Kind::Bare) {
            return Err(self.wrong(operand, "anything-but has either strings or numbers"));
        }
        let predicates = values.iter().map(|value| {
            if self.document.kind(*value) == Kind::String {
                return Ok(Predicate::Text(self.operand(*value)?.into()));
            }
            self.number(*value, "anything-but has strings or numbers, or an object with an operator")?;
            self.bare(*value)
        });
        Ok(AnyOf::new(predicates.collect::<Result<_, _>>()?))
    }

    fn anything_but_operator(&mut self, object: NodeAt) -> Result<AnyOf, Wrong> {
        let operand = self.only_member(object)?;
        let name = self.document.key(operand);
        if !IN_ANYTHING_BUT.contains(&name) {
            return Err(self.wrong(operand, unknown(name, &IN_ANYTHING_BUT)));
        }
        let mut predicates = Vec::new();
        for text in self.one_or_more(operand)? {
            if matches!(name, "prefix" | "suffix") && self.string(name, text)?.is_empty() {
                return Err(
                    self.wrong(text, format!("every string has the empty {name}, so no string would be wanted"))
                );
            }
            predicates.push(self.string_predicate(name, text)?);
        }
        Ok(AnyOf::new(predicates))
    }

    /// The node itself, or its elements if it is an array.
    fn one_or_more(&mut self, node: NodeAt) -> Result<Vec<NodeAt>, Wrong> {
        if self.document.kind(node) != Kind::Array {
            return Ok(vec![node]);
        }
        let values: Vec<NodeAt> = self.document.children(node).collect();
        for value in &values {
            self.count_value(*value)?;
        }
        if values.is_empty() { Err(self.wrong(node, "is empty; give at least one value")) } else { Ok(values) }
    }

    /// `["=", 1]`, or one or two bounds: `[">", 0, "<=", 5]`.
    fn numeric(&self, operand: NodeAt) -> Result<Predicate, Wrong> {
        const WANTED: &str = "numeric must be an array such as [\"=\", 5] or [\">\", 0, \"<=\", 5]";
        let parts: Vec<NodeAt> = self.document.children(operand).collect();
        if self.document.kind(operand) != Kind::Array || !matches!(parts.len(), 2 | 4) {
            return Err(self.wrong(operand, WANTED));
        }
        let limit = |node, is_included| -> Result<Limit, Wrong> {
            let number = self.number(node, WANTED)?;
            Ok(Limit { place: place(number), number: number.into(), is_included })
        };
        let comparison = self.document.text(parts[0]);
        let includes = matches!(comparison, "=" | ">=" | "<=");
        let bound = limit(parts[1], includes)?;
        let range = match comparison {
            "=" => Range { from: Some(bound.clone()), to: Some(bound) },
            ">" | ">=" => Range { from: Some(bound), to: None },
            "<" | "<=" => Range { from: None, to: Some(bound) },
            _ => return Err(self.wrong(parts[0], "a comparison is one of \"=\", \"<\", \"<=\", \">\", \">=\"")),
        };
        let [_, _, comparison, end] = parts[..] else { return Ok(Predicate::Range(range)) };
        let Range { from: Some(from), to: None } = range else {
            return Err(self.wrong(parts[0], "a range begins with \">\" or \">=\""));
        };
        let to = match self.document.text(comparison) {
            "<" => limit(end, false)?,
            "<=" => limit(end, true)?,
            _ => return Err(self.wrong(comparison, "a range ends with \"<\" or \"<=\"")),
        };
        let is_empty = match compare(&from.number, &to.number) {
            Ordering::Less => false,
            Ordering::Equal => !(from.is_included && to.is_included),
            Ordering::Greater => true,
        };
        if is_empty {
            return Err(self.wrong(operand, "no number is in this range"));
        }
        Ok(Predicate::Range(Range { from: Some(from), to: Some(to) }))
    }

    fn number(&self, node: NodeAt, wanted: &str) -> Result<&'a str, Wrong> {
        let text = self.operand(node)?;
        if self.document.kind(node) != Kind::Bare || !is_number(text) {
            return Err(self.wrong(node, wanted));
        }
        Ok(text)
    }

    fn cidr(&self, operand: NodeAt) -> Result<Predicate, Wrong> {
        let network = self.string("cidr", operand)?.parse::<ipnet::IpNet>();
        let network = network.map_err(|_| self.wrong(operand, "cidr must be a network such as \"10.0.0.0/8\""))?;
        Ok(Predicate::Network(network.trunc()))
    }
}

fn fold(text: &str) -> Box<str> {
    text.chars().map(folded).collect::<String>().into()
}

fn unknown(name: &str, known: &[&str]) -> String {
    /// The longest part of an unknown name in an error, in characters.
    const SHOWN_CHARS: usize = 64;
    let name: String = name.chars().take(SHOWN_CHARS).collect();
    format!("{name:?} is no operator here; there are {}", known.join(", "))
}
