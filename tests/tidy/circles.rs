//! Which file needs which, and where files need each other.
//!
//! The rule is one for every folder, `src` itself among them: its modules, each taken together with the files below
//! it, need each other in no circle. A file and its own submodules are no circle: a submodule may use what stands in
//! the file above it, and that file what stands in its submodules.
//!
//! A name that a file only passes on, by `use` or `pub use`, counts as used where it is written as well, so that no way
//! leads past the rule through a parent. Two things are not seen: a method that another file adds to a type, and a path
//! in the text of an attribute.

use std::collections::{BTreeMap, BTreeSet};

use super::{Source, uses, word};

/// The names of the modules down to a file: `delivery`, `client` for `src/delivery/client.rs`.
type Module<'a> = Vec<&'a str>;

/// Words of a path, from left to right.
type Way<'a> = Vec<&'a str>;

/// How many names are followed that are passed on and on.
const MAX_PASSED_ON: usize = 16;

/// All files as modules, and what each brings into its scope under which name.
struct Tree<'a> {
    scopes: BTreeMap<Module<'a>, BTreeMap<&'a str, Way<'a>>>,
}

impl<'a> Tree<'a> {
    fn of(sources: &'a [Source]) -> Self {
        let mut scopes = BTreeMap::new();
        for source in sources.iter().filter(|source| !source.is_root()) {
            let names = imported(&source.code).into_iter().filter_map(|(way, name)| Some((name?, way)));
            scopes.insert(module(source), names.collect());
        }
        Self { scopes }
    }

    /// Adds to `reached` all files that `way` names, seen from `from`; gives the module that it ends at, if it ends at one.
    fn follow(
        &self,
        from: &Module<'a>,
        way: &[&'a str],
        reached: &mut BTreeSet<Module<'a>>,
        depth: usize,
    ) -> Option<Module<'a>> {
        let mut at = from.clone();
        for (number, &name) in way.iter().enumerate() {
            match name {
                "crate" => at.clear(),
                "self" => {}
                "super" => _ = at.pop(),
                _ => {
                    let child = [&at[..], &[name]].concat();
                    let passed_on = self.scopes.get(&at).and_then(|scope| scope.get(name));
                    if self.scopes.contains_key(&child) {
                        at = child;
                    } else if let Some(further) = passed_on.filter(|further| **further != [name]) {
                        reached.insert(at.clone());
                        at = self.follow(&at, further, reached, depth.checked_sub(1)?)?;
                    } else {
                        // An item of the file; or, at the very beginning, something that is not of this crate.
                        if number > 0 {
                            reached.insert(at);
                        }
                        return None;
                    }
                }
            }
        }
        reached.insert(at.clone());
        Some(at)
    }
}

fn module(source: &Source) -> Module<'_> {
    source.path.trim_start_matches("src/").trim_end_matches(".rs").split('/').collect()
}

/// Every path that the `use`s of `code` say, and the name that it gets.
fn imported(code: &str) -> Vec<(Way<'_>, Option<&str>)> {
    let mut found = Vec::new();
    for after in uses(code, "use").filter(|after| after.starts_with(char::is_whitespace)) {
        expand(&after[..after.find(';').unwrap_or(after.len())], &[], &mut found);
    }
    found
}

/// `a::{b, c as d}` as `a::b` and `a::c`, the latter named `d`.
fn expand<'a>(tree: &'a str, before: &[&'a str], found: &mut Vec<(Way<'a>, Option<&'a str>)>) {
    let tree = tree.trim();
    if let Some(inside) = tree.strip_prefix('{') {
        let (mut depth, mut from) = (0_usize, 0);
        for (at, c) in inside.char_indices() {
            match c {
                '{' => depth += 1,
                ',' | '}' if depth == 0 => {
                    expand(&inside[from..at], before, found);
                    from = at + 1;
                }
                '}' => depth -= 1,
                _ => {}
            }
        }
        return;
    }
    let name = word(tree);
    let after = tree[name.len()..].trim_start();
    let way = if name.is_empty() || (name == "self" && !before.is_empty()) {
        before.to_vec()
    } else {
        [before, &[name]].concat()
    };
    match (after.strip_prefix("::"), after.strip_prefix("as ")) {
        (Some(rest), _) => expand(rest, &way, found),
        (_, Some(alias)) => found.push((way, Some(alias.trim()))),
        _ if name.is_empty() && tree != "*" => {}
        _ => {
            let last = (tree != "*").then(|| way[way.len() - 1]);
            found.push((way, last));
        }
    }
}

/// Every path of two words or more in `code`.
fn paths(code: &str) -> BTreeSet<Way<'_>> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = BTreeSet::new();
    let mut rest = code;
    while let Some(at) = rest.find(is_word) {
        let is_inside = rest[..at].ends_with("::");
        rest = &rest[at..];
        let mut way = vec![word(rest)];
        rest = &rest[way[0].len()..];
        while let Some(next) = rest.strip_prefix("::").map(word).filter(|next| !next.is_empty()) {
            way.push(next);
            rest = &rest[2 + next.len()..];
        }
        if way.len() > 1 && !is_inside {
            found.insert(way);
        }
    }
    found
}

/// What `source` needs: the modules of other files.
fn needs<'a>(tree: &Tree<'a>, source: &'a Source) -> BTreeSet<Module<'a>> {
    let (own, mut reached) = (module(source), BTreeSet::new());
    let imported = imported(&source.code).into_iter().map(|(way, _)| way);
    for way in imported.chain(paths(&source.code)) {
        tree.follow(&own, &way, &mut reached, MAX_PASSED_ON);
    }
    reached.retain(|other| !other.is_empty() && !own.starts_with(other) && !other.starts_with(&own));
    reached
}

/// Of one folder: which of its modules need which, and between which files that is.
type Needs<'a> = BTreeMap<(&'a str, &'a str), BTreeSet<String>>;

/// The circles of all folders, with the files that make them.
pub(super) fn circles(sources: &[Source]) -> Vec<String> {
    let tree = Tree::of(sources);
    let mut folders: BTreeMap<Module<'_>, Needs<'_>> = BTreeMap::new();
    for source in sources.iter().filter(|source| !source.is_root()) {
        let own = module(source);
        for other in needs(&tree, source) {
            let common = own.iter().zip(&other).take_while(|(a, b)| a == b).count();
            let between = format!("{} needs src/{}.rs", source.path, other.join("/"));
            let folder = folders.entry(own[..common].to_vec()).or_default();
            folder.entry((own[common], other[common])).or_default().insert(between);
        }
    }
    folders.iter().flat_map(|(folder, needs)| circles_of(&folder.join("/"), needs)).collect()
}

fn circles_of(folder: &str, needs: &Needs<'_>) -> Vec<String> {
    let mut reach: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (from, to) in needs.keys() {
        reach.entry(from).or_default().insert(to);
    }
    for _ in 0..reach.len() {
        let before = reach.clone();
        for reached in reach.values_mut() {
            let further: Vec<_> = reached.iter().filter_map(|module| before.get(module)).flatten().copied().collect();
            reached.extend(further);
        }
    }
    let mutual = |a: &str, b: &str| {
        let reaches = |a: &str, b: &str| reach.get(a).is_some_and(|reached| reached.contains(b));
        reaches(a, b) && reaches(b, a)
    };
    let found: BTreeSet<Vec<&str>> = reach
        .keys()
        .map(|module| reach.keys().copied().filter(|other| mutual(module, other)).collect::<Vec<_>>())
        .filter(|circle| circle.len() > 1)
        .collect();
    let said = |circle: &Vec<&str>| {
        let inside = needs.iter().filter(|((from, to), _)| circle.contains(from) && circle.contains(to));
        let files: Vec<_> = inside.flat_map(|(_, files)| files).map(String::as_str).collect();
        format!("in src/{folder}, these need each other: {}\n  {}", circle.join(", "), files.join("\n  "))
    };
    found.iter().map(said).collect()
}
