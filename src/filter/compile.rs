//! From the JSON of a filter to groups of conditions.

mod operator;

use std::collections::HashSet;

use super::document::{Document, Kind, NodeAt, ROOT};
use super::matching::Condition;
use super::predicate::{AnyOf, Predicate, Wanted};
use super::value::{is_number, normalized};
use super::{MAX_CONDITIONS, MAX_FILTER_DEPTH, MAX_FILTER_VALUES, MAX_OPERAND_BYTES, MAX_OR_COMBINATIONS};

/// Alternatives between whole sets of fields.
const OR: &str = "$or";

/// An error of a filter, with its place.
#[derive(Debug)]
pub(super) struct Wrong {
    /// In bytes from the start.
    pub(super) at: usize,
    /// The keys that lead to the place, with dots between.
    pub(super) path: String,
    pub(super) reason: String,
}

/// A filter's conditions, sorted by path, and its branches. An event matches if it meets every condition of a branch. A
/// filter without `$or` has one branch.
#[derive(Debug)]
pub(super) struct Compiled {
    pub(super) conditions: Box<[Condition]>,
    pub(super) branches: Box<[Box<[u32]>]>,
}

/// Indices of conditions that must be met together, for each way through the `$or`s so far.
type Branches = Vec<Vec<u32>>;

pub(super) fn compile(document: &Document<'_>) -> Result<Compiled, Wrong> {
    let mut compiler =
        Compiler { document, path: Vec::new(), conditions: Vec::new(), values: 0, asterisks: 0, or_depth: 0 };
    if document.kind(ROOT) != Kind::Object {
        return Err(compiler.wrong(ROOT, "a filter is a JSON object, such as {\"type\": [\"login\"]}"));
    }
    let mut branches = vec![Vec::new()];
    compiler.object(ROOT, &mut branches)?;
    Ok(sorted(compiler.conditions, branches))
}

/// Sorts the conditions by path, and renumbers the branches.
fn sorted(conditions: Vec<Condition>, branches: Branches) -> Compiled {
    let mut conditions: Vec<(u32, Condition)> = (0..).zip(conditions).collect();
    conditions.sort_by(|(_, a), (_, b)| a.path.cmp(&b.path));
    let mut places = vec![0; conditions.len()];
    for (new, (old, _)) in (0_u32..).zip(&conditions) {
        places[*old as usize] = new;
    }
    let renumber = |branch: Vec<u32>| {
        let mut branch: Vec<u32> = branch.into_iter().map(|old| places[old as usize]).collect();
        branch.sort_unstable();
        branch.into_boxed_slice()
    };
    Compiled {
        branches: branches.into_iter().map(renumber).collect(),
        conditions: conditions.into_iter().map(|(_, condition)| condition).collect(),
    }
}

struct Compiler<'a> {
    document: &'a Document<'a>,
    /// The keys to the present place, without `$or`.
    path: Vec<&'a str>,
    conditions: Vec<Condition>,
    /// Alternatives and operands so far.
    values: usize,
    /// Asterisks of wildcards so far.
    asterisks: usize,
    /// The number of `$or`s around the present place.
    or_depth: usize,
}

impl<'a> Compiler<'a> {
    fn wrong(&self, node: NodeAt, reason: impl Into<String>) -> Wrong {
        Wrong { at: self.document.position(node), path: self.path.join("."), reason: reason.into() }
    }

    /// Adds the conditions of an object's fields to every branch.
    fn object(&mut self, object: NodeAt, branches: &mut Branches) -> Result<(), Wrong> {
        let document = self.document;
        if self.path.len() + self.or_depth > MAX_FILTER_DEPTH {
            return Err(self.wrong(object, format!("is nested deeper than {MAX_FILTER_DEPTH}")));
        }
        let mut keys = HashSet::new();
        for member in document.children(object) {
            let key = document.key(member);
            if !keys.insert(key) {
                return Err(self.wrong(member, format!("the object has the key {key:?} already")));
            }
            if key == OR {
                self.alternatives(member, branches)?;
                continue;
            }
            if self.or_depth > 0 && operator::NAMES.contains(&key) {
                let reason =
                    format!("{key:?} is an operator and no field; name the field: {{\"field\": [{{{key:?}: …}}]}}");
                return Err(self.wrong(member, reason));
            }
            self.path.push(key);
            match document.kind(member) {
                Kind::Object => self.object(member, branches)?,
                Kind::Array => self.field(member, branches)?,
                Kind::String | Kind::Bare => {
                    let found = if document.kind(member) == Kind::String { "\"…\"" } else { document.text(member) };
                    let found = if found.len() > 16 { "…" } else { found };
                    let reason = format!("must be an array of alternatives, [{found}], or an object with fields");
                    return Err(self.wrong(member, reason));
                }
            }
            self.path.pop();
        }
        if keys.is_empty() { Err(self.wrong(object, "is empty; name at least one field")) } else { Ok(()) }
    }

    /// `$or`: each branch goes on once for each alternative.
    fn alternatives(&mut self, array: NodeAt, branches: &mut Branches) -> Result<(), Wrong> {
        let document = self.document;
        if document.kind(array) != Kind::Array || document.children(array).count() < 2 {
            return Err(self.wrong(array, "$or must be an array of at least two objects"));
        }
        let before = std::mem::take(branches);
        self.or_depth += 1;
        for alternative in document.children(array) {
            if document.kind(alternative) != Kind::Object {
                return Err(self.wrong(alternative, "an alternative of $or must be an object with fields"));
            }
            let mut forked = before.clone();
            self.object(alternative, &mut forked)?;
            branches.append(&mut forked);
            self.check_size(alternative, branches)?;
        }
        self.or_depth -= 1;
        Ok(())
    }

    /// One field's alternatives.
    fn field(&mut self, array: NodeAt, branches: &mut Branches) -> Result<(), Wrong> {
        let document = self.document;
        let (mut predicates, mut wanted) = (Vec::new(), Wanted::default());
        for alternative in document.children(array) {
            self.count_value(alternative)?;
            match document.kind(alternative) {
                Kind::String => predicates.push(Predicate::Text(self.operand(alternative)?.into())),
                Kind::Bare => predicates.push(self.bare(alternative)?),
                Kind::Object => self.operator(alternative, &mut predicates, &mut wanted)?,
                Kind::Array => return Err(self.wrong(alternative, "an array of alternatives holds no array")),
            }
        }
        if document.children(array).next().is_none() {
            return Err(self.wrong(array, "is empty; give at least one alternative"));
        }
        wanted.any_of = AnyOf::new(predicates);
        wanted.anything_but.sort_unstable();
        wanted.anything_but.dedup();
        let condition = self.conditions.len().try_into().map_err(|_| self.wrong(array, "has too many conditions"))?;
        self.conditions.push(Condition { path: self.path.iter().map(|key| Box::from(*key)).collect(), wanted });
        for branch in &mut *branches {
            branch.push(condition);
        }
        self.check_size(array, branches)
    }

    fn check_size(&self, node: NodeAt, branches: &Branches) -> Result<(), Wrong> {
        if branches.len() > MAX_OR_COMBINATIONS {
            return Err(self.wrong(node, format!("the $or make more than {MAX_OR_COMBINATIONS} combinations")));
        }
        if branches.iter().map(Vec::len).sum::<usize>() > MAX_CONDITIONS {
            let reason = format!("the fields in all combinations of $or are more than {MAX_CONDITIONS}");
            return Err(self.wrong(node, reason));
        }
        Ok(())
    }

    fn count_value(&mut self, node: NodeAt) -> Result<(), Wrong> {
        self.values += 1;
        if self.values > MAX_FILTER_VALUES {
            return Err(self.wrong(node, format!("the filter has more than {MAX_FILTER_VALUES} values")));
        }
        Ok(())
    }

    /// A number, `true`, `false` or `null`.
    fn bare(&self, node: NodeAt) -> Result<Predicate, Wrong> {
        let text = self.operand(node)?;
        // An operand has fewer digits than bytes.
        let number = Some(text).filter(|text| is_number(text)).and_then(|text| normalized(text, MAX_OPERAND_BYTES));
        Ok(number.map_or_else(|| Predicate::Word(text.into()), |number| Predicate::Number(number.into())))
    }

    /// The text of a string or bare value.
    fn operand(&self, node: NodeAt) -> Result<&'a str, Wrong> {
        let text = self.document.text(node);
        if text.len() > MAX_OPERAND_BYTES {
            let reason = format!("is {} bytes long, the limit for a value is {MAX_OPERAND_BYTES}", text.len());
            return Err(self.wrong(node, reason));
        }
        Ok(text)
    }
}
