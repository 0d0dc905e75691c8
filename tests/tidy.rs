//! Rules of the source tree that no compiler checks. Each rule takes files and returns what is wrong with
//! them, so that the last test can show that it would notice.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a tree that cannot be read is a failed test")]

#[path = "tidy/circles.rs"]
mod circles;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Who may import whom: a module imports its own row and those above it in this list.
const ROWS: [&[&str]; 6] = [
    &["clock", "fair", "fit", "hex", "log_rate", "rate", "topic", "visible"],
    &["bus", "event", "figures", "filter", "inlet", "mapping", "shape", "webhook", "signing", "delivery"],
    &["store"],
    &["ingest", "dispatcher", "engine", "tenants"],
    &["api", "dashboard", "sources"],
    &["config", "telemetry", "serve", "cli"],
];

/// The rows that make up the library without the feature `server`.
const LIBRARY_ROWS: usize = 2;

/// What in those rows is there with a feature alone, so that it may use the crates of features.
const GATED: [&str; 18] = [
    "src/bus.rs",
    "src/bus/",
    "src/delivery/access/login_input.rs",
    "src/delivery/exchange/curl.rs",
    "src/delivery/guard/hickory.rs",
    "src/fair.rs",
    "src/figures.rs",
    "src/figures/",
    "src/filter.rs",
    "src/filter/",
    "src/inlet.rs",
    "src/inlet/",
    "src/mapping.rs",
    "src/mapping/",
    "src/shape.rs",
    "src/shape/",
    "src/webhook/",
    "src/signing/signatures/input.rs",
];

/// One owner a technology: what only files under these paths may name.
const OWNERS: [(&str, &[&str]); 29] = [
    ("async_nats", &["src/sources/nats", "src/cli/bench/sources/jetstream.rs"]),
    ("lapin", &["src/sources/rabbitmq"]),
    ("redis", &["src/sources/redis_streams"]),
    // The database of DECNET is another's, and is only read.
    ("rusqlite", &["src/store/", "src/cli/import/decnet"]),
    ("tokio_postgres", &["src/store/", "src/sources/postgres_outbox/"]),
    ("deadpool_postgres", &["src/store/"]),
    // The measure that the benchmark compares with.
    ("hyper::client", &["src/cli/bench/bare.rs"]),
    ("hyper::server", &["src/serve", "src/cli/receiver.rs"]),
    // The ways to the database and to brokers are others than that to receivers, with the same roots.
    ("rustls", &["src/delivery/", "src/store/postgres/tls.rs", "src/sources/tls.rs", "src/sources/dial.rs"]),
    ("tokio_rustls", &["src/delivery/", "src/sources/dial.rs"]),
    ("hickory_resolver", &["src/delivery/guard/hickory.rs"]),
    ("lookup_host", &["src/delivery/guard/resolver.rs"]),
    ("to_socket_addrs", &["src/delivery/guard/resolver.rs"]),
    ("TcpStream::connect", &["src/delivery/client", "src/sources/dial.rs", "src/cli/bench/bare.rs"]),
    ("TcpSocket", &["src/delivery/client"]),
    ("axum", &["src/api", "src/dashboard", "src/serve"]),
    // The settings of a webhook are described where they are defined.
    (
        "utoipa",
        &[
            "src/api",
            "src/webhook",
            "src/filter.rs",
            "src/inlet/",
            "src/shape.rs",
            "src/signing/",
            "src/delivery/receiver.rs",
            "src/delivery/access/",
        ],
    ),
    ("prometheus_client", &["src/api/metrics", "src/api/incoming.rs"]),
    ("minijinja", &["src/shape"]),
    ("clap", &["src/cli", "src/config", "src/telemetry"]),
    ("comfy_table", &["src/cli/"]),
    ("indicatif", &["src/cli/"]),
    ("toml", &["src/config", "src/sources", "src/cli/bench/sources/"]),
    ("tracing_subscriber", &["src/telemetry"]),
    ("env::var", &["src/config"]),
    ("env::vars", &["src/config"]),
    ("env::vars_os", &["src/config"]),
    ("SystemTime::now", &["src/clock.rs"]),
    ("Timestamp::now", &["src/clock.rs"]),
];

/// How a text begins or goes on that is SQL.
const SQL: [&str; 8] =
    ["SELECT ", "INSERT INTO ", "INSERT OR ", "DELETE FROM ", "CREATE TABLE ", "PRAGMA ", "BEGIN ", "UPDATE "];

/// The owners of SQL: the store, and the source whose origin is a table of an application, the measurement of it, and the
/// reader of DECNET's database.
const SQL_OWNERS: [&str; 4] =
    ["src/store/", "src/sources/postgres_outbox/", "src/cli/bench/sources/", "src/cli/import/decnet"];

const MAX_FILE_LINES: usize = 500;
const MAX_FUNCTION_LINES: usize = 70;
/// Functions that may be longer: file, name, reason.
const LONG_FUNCTIONS: [(&str, &str, &str); 0] = [];

/// Endings of the files that people write.
const TEXT_FILES: [&str; 11] = ["rs", "toml", "md", "sql", "py", "js", "mjs", "css", "html", "sh", "yml"];

/// A Rust file of the program, without its tests.
struct Source {
    /// From the root of the repository, with `/`.
    path: String,
    /// The text up to its test module.
    text: String,
    /// The same, line by line, with nothing in strings and comments.
    code: String,
    /// What stands in strings.
    strings: Vec<String>,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let text = &text[..text.find("\n#[cfg(test)]\nmod ").map_or(text.len(), |at| at + 1)];
        let (code, strings) = blanked(text);
        Self { path: path.to_owned(), text: text.to_owned(), code, strings }
    }

    /// The module under the crate's root: `delivery` for `src/delivery/client/pool.rs`.
    fn module(&self) -> &str {
        let inside = self.path.strip_prefix("src/").unwrap_or(&self.path);
        inside.split('/').next().unwrap_or(inside).trim_end_matches(".rs")
    }

    /// How many modules deep the file is: 1 for `src/delivery.rs`.
    fn depth(&self) -> usize {
        self.path.matches('/').count()
    }

    fn is_root(&self) -> bool {
        ["src/lib.rs", "src/main.rs"].contains(&&*self.path)
    }
}

/// `text` with blanks for what is in comments, strings and character literals; and the strings.
fn blanked(text: &str) -> (String, Vec<String>) {
    let (mut code, mut strings, mut rest) = (String::with_capacity(text.len()), Vec::new(), text);
    while let Some(first) = rest.chars().next() {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let after_word = code.chars().next_back().is_some_and(is_word);
        let hashes = rest.strip_prefix('r').map(|raw| raw.len() - raw.trim_start_matches('#').len());
        let raw = hashes.filter(|hashes| rest[1 + hashes..].starts_with('"') && (!after_word || code.ends_with('b')));
        let (length, content) = if rest.starts_with("//") {
            (rest.find('\n').unwrap_or(rest.len()), None)
        } else if rest.starts_with("/*") {
            (rest.find("*/").map_or(rest.len(), |end| end + 2), None)
        } else if let Some(hashes) = raw {
            let (from, end) = (hashes + 2, format!("\"{}", "#".repeat(hashes)));
            let inside = rest[from..].find(&end).unwrap_or(rest.len() - from);
            ((from + inside + end.len()).min(rest.len()), Some(&rest[from..from + inside]))
        } else if first == '"' {
            let length = quoted_length(rest, '"');
            (length, Some(&rest[1..length.max(2) - 1]))
        } else if first == '\'' && is_character(rest) {
            (quoted_length(rest, '\''), None)
        } else {
            code.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        strings.extend(content.map(str::to_owned));
        code.extend(rest[..length].chars().map(|c| if c == '\n' { c } else { ' ' }));
        rest = &rest[length..];
    }
    (code, strings)
}

/// The length of a literal that begins and ends with `quote`, in bytes.
fn quoted_length(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if !escaped && c == quote {
            return at + c.len_utf8();
        }
        escaped = c == '\\' && !escaped;
    }
    text.len()
}

/// Whether a `'` begins a character and no lifetime.
fn is_character(text: &str) -> bool {
    let mut chars = text.chars().skip(1);
    chars.next() == Some('\\') || chars.next() == Some('\'')
}

/// Where `name` stands in `code` as whole words; each with what follows it.
fn uses<'a>(code: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(name).filter_map(move |(at, _)| {
        let after = &code[at + name.len()..];
        (!code[..at].ends_with(is_word) && !after.starts_with(is_word)).then_some(after)
    })
}

/// The first word of `code`.
fn word(code: &str) -> &str {
    &code[..code.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(code.len())]
}

/// The modules under the root that a file names.
fn imports(source: &Source) -> BTreeSet<&str> {
    uses(&source.code, "crate").filter_map(|after| after.strip_prefix("::")).map(word).collect()
}

fn row(module: &str) -> Option<usize> {
    ROWS.iter().position(|row| row.contains(&module))
}

fn wrong_imports(sources: &[Source]) -> Vec<String> {
    let mut wrong = Vec::new();
    for source in sources.iter().filter(|source| !source.is_root()) {
        let (path, Some(own)) = (&source.path, row(source.module())) else {
            wrong.push(format!("{}: `{}` has no row in the table of imports", source.path, source.module()));
            continue;
        };
        for import in imports(source) {
            match row(import) {
                None => wrong.push(format!("{path}: `crate::{import}` is in no row; name the module")),
                Some(row) if row > own => wrong.push(format!("{path}: row {own} imports `{import}` of row {row}")),
                Some(_) => {}
            }
        }
        let way_up = "super::".repeat(source.depth());
        if uses(&source.code, way_up.trim_end_matches(':')).any(|after| after.starts_with("::")) {
            wrong.push(format!("{path}: `{way_up}` reaches the root unseen; write `crate::`"));
        }
    }
    wrong
}

/// `dependencies` are those of all features, as in the manifest.
fn server_crates_in_library(sources: &[Source], dependencies: &[String]) -> Vec<String> {
    let mut wrong = Vec::new();
    let is_library = |source: &&Source| {
        row(source.module()).is_some_and(|row| row < LIBRARY_ROWS)
            && !GATED.iter().any(|path| source.path.starts_with(path))
    };
    for source in sources.iter().filter(is_library) {
        let code = without_conditional_attributes(&source.code);
        for dependency in dependencies {
            let name = dependency.replace('-', "_");
            if uses(&code, &name).any(|after| after.starts_with("::")) {
                wrong.push(format!("{}: the library has no `{name}`", source.path));
            }
        }
        let is_gated = |module: &&str| GATED.contains(&&*format!("src/{module}.rs"));
        for module in imports(source).into_iter().filter(is_gated) {
            wrong.push(format!("{}: the library has no `crate::{module}`", source.path));
        }
    }
    wrong
}

/// `code` without `#[cfg_attr(feature = …, …)]`: what is derived for the server only, the library does not have.
fn without_conditional_attributes(code: &str) -> String {
    let (mut kept, mut rest) = (String::with_capacity(code.len()), code);
    while let Some(at) = rest.find("#[cfg_attr(") {
        kept.push_str(&rest[..at]);
        let attribute = &rest[at..];
        let is_conditional = attribute["#[cfg_attr(".len()..].trim_start().starts_with("feature");
        let length = attribute.find(")]").map_or(attribute.len(), |end| end + 2);
        kept.push_str(if is_conditional { "" } else { &attribute[..length] });
        rest = &attribute[length..];
    }
    kept + rest
}

fn optional_dependencies(manifest: &str) -> Vec<String> {
    manifest
        .lines()
        .filter_map(|line| Some(line.trim().strip_prefix("\"dep:")?.trim_end_matches("\",").to_owned()))
        .collect()
}

fn foreign_technology(sources: &[Source]) -> Vec<String> {
    let mut wrong = Vec::new();
    for source in sources {
        for (name, owners) in OWNERS {
            if uses(&source.code, name).next().is_some() && !owners.iter().any(|owner| source.path.starts_with(owner)) {
                wrong.push(format!("{}: `{name}` belongs to {}", source.path, owners.join(", ")));
            }
        }
        let is_sql = |text: &&String| SQL.iter().any(|keyword| text.trim_start().starts_with(keyword));
        let is_owner = SQL_OWNERS.iter().any(|owner| source.path.starts_with(owner));
        if let Some(text) = source.strings.iter().find(is_sql).filter(|_| !is_owner) {
            wrong.push(format!("{}: SQL belongs to {}: {text:?}", source.path, SQL_OWNERS.join(", ")));
        }
        for macro_name in ["todo", "unimplemented", "dbg"] {
            if uses(&source.code, macro_name).any(|after| after.starts_with("!(")) {
                wrong.push(format!("{}: `{macro_name}!`", source.path));
            }
        }
    }
    wrong
}

/// Entries of the tables above that are about nothing: modules and paths without a file.
fn stale_entries(rows: &[&[&str]], gated: &[&str], owners: &[(&str, &[&str])], sources: &[Source]) -> Vec<String> {
    let is_there = |path: &str| sources.iter().any(|source| source.path.starts_with(path));
    let modules = rows.iter().copied().flatten().map(|module| format!("src/{module}.rs"));
    let paths = gated.iter().chain(owners.iter().flat_map(|(_, paths)| *paths)).map(|path| (*path).to_owned());
    let stale = modules.chain(paths).filter(|path| !is_there(path));
    stale.map(|path| format!("{path}: a table names it, and there is no such file")).collect()
}

/// Headers that say that their file is the only one, and name what is found in another.
fn untrue_headers(sources: &[Source]) -> Vec<String> {
    let mut wrong = Vec::new();
    for source in sources {
        let header = source.text.lines().map_while(|line| line.strip_prefix("//!"));
        let header = header.map(str::trim).collect::<Vec<_>>().join(" ");
        for sentence in header.split(['.', ';']).filter(|sentence| uses(sentence, "only").next().is_some()) {
            for name in sentence.split('`').skip(1).step_by(2) {
                let has_it = |source: &&Source| uses(&source.code, name).next().is_some();
                if !has_it(&source) {
                    wrong.push(format!("{}: its header names `{name}`, and its code does not", source.path));
                }
                if let Some(other) = sources.iter().filter(|other| other.path != source.path).find(has_it) {
                    wrong.push(format!("{}: {} names `{name}`, too", source.path, other.path));
                }
            }
        }
    }
    wrong
}

/// Name and length in lines of every function with a body.
fn functions(code: &str) -> Vec<(&str, usize)> {
    let mut found = Vec::new();
    for after in uses(code, "fn") {
        let name = word(after.trim_start());
        let Some(open) = after.find(['{', ';']).filter(|_| !name.is_empty()) else { continue };
        // `[u8; 32]` among the parameters is no end.
        let open = if after[..open].matches('[').count() > after[..open].matches(']').count() {
            after.find('{').unwrap_or(open)
        } else {
            open
        };
        if !after[open..].starts_with('{') {
            continue;
        }
        let mut depth = 0_usize;
        let end = after[open..].char_indices().find(|(_, c)| {
            depth = if *c == '{' { depth + 1 } else { depth - usize::from(*c == '}') };
            depth == 0
        });
        let end = end.map_or(after.len(), |(at, _)| open + at);
        found.push((name, after[..end].matches('\n').count() + 1));
    }
    found
}

fn too_long(sources: &[Source], allowed: &[(&str, &str, &str)]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut needed = BTreeSet::new();
    for source in sources {
        let (path, lines) = (&source.path, source.text.lines().count());
        if lines > MAX_FILE_LINES {
            wrong.push(format!("{path}: {lines} lines before its tests, the limit is {MAX_FILE_LINES}"));
        }
        for (name, lines) in functions(&source.code).into_iter().filter(|(_, lines)| *lines > MAX_FUNCTION_LINES) {
            if allowed.iter().any(|(file, function, _)| file == path && *function == name) {
                needed.insert((path.as_str(), name));
            } else {
                wrong.push(format!("{path}: `{name}` has {lines} lines, the limit is {MAX_FUNCTION_LINES}"));
            }
        }
    }
    let unneeded = allowed.iter().filter(|(file, function, _)| !needed.contains(&(*file, *function)));
    wrong.extend(unneeded.map(|(file, function, _)| format!("{file}: `{function}` needs its exception no more")));
    wrong
}

/// A limit is found by its name and understood by its comment.
fn undocumented_limits(sources: &[Source]) -> Vec<String> {
    let mut wrong = Vec::new();
    for source in sources {
        let mut before = "";
        for line in source.text.lines().map(str::trim) {
            let name = line.strip_prefix("pub const ").map(word);
            if name.is_some_and(|name| name != "fn") && !before.starts_with("///") && !before.starts_with("#[") {
                let is_limit = ["src/event.rs", "src/webhook.rs", "src/store.rs"].contains(&&*source.path)
                    || name.is_some_and(|name| name.starts_with("MAX_") || name.starts_with("DEFAULT_"));
                if is_limit {
                    wrong.push(format!("{}: no comment on `{line}`", source.path));
                }
            }
            before = line;
        }
    }
    wrong
}

fn untidy_text(path: &str, text: &str) -> Vec<String> {
    // In two parts, so that this file does not find itself.
    let machine_paths = ["/ro|ot/", "/ho|me/", "/wo|rk/", "/Us|ers/"].map(|path| path.replace('|', ""));
    let mut wrong = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let mut note = |what: &str| wrong.push(format!("{path}:{number}: {what}"));
        if line.contains('\t') {
            note("a tab");
        }
        if line.ends_with(' ') {
            note("a space at the end");
        }
        if machine_paths.iter().any(|machine_path| line.contains(machine_path)) {
            note("a path of one machine");
        }
    }
    if !text.ends_with('\n') || text.ends_with("\n\n") {
        wrong.push(format!("{path}: must end with one line break"));
    }
    wrong
}

fn is_rust(path: &str) -> bool {
    Path::new(path).extension().is_some_and(|extension| extension == "rs")
}

fn is_document(path: &str) -> bool {
    Path::new(path).extension().is_some_and(|extension| extension == "md")
}

/// Files that `document` names in backquotes and that are not there: `dispatcher/lane.rs` is looked for
/// in `src`, `tests/tidy.rs` from the root.
fn missing_files(document: &str, files: &[String]) -> Vec<String> {
    let named = document.split('`').skip(1).step_by(2).filter(|name| is_rust(name) && !name.contains(' '));
    let is_there = |name: &str| files.iter().any(|file| file == name || file.strip_prefix("src/") == Some(name));
    named.filter(|name| !is_there(name)).map(|name| format!("`{name}` is named but not there")).collect()
}

/// Names and values of a table of limits: "| `NAME` | `value` |…".
fn limits(document: &str) -> impl Iterator<Item = (&str, &str)> {
    document.lines().filter(|line| line.starts_with("| `")).filter_map(|line| {
        let mut cells = line.split('|').skip(1).map(|cell| cell.trim().trim_matches('`'));
        let (name, value) = (cells.next()?, cells.next()?);
        (name.contains('_') && name.to_uppercase() == name).then_some((name, value))
    })
}

/// Rows of the table of limits that are not what the code says.
fn wrong_limits(document: &str, sources: &[Source]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, value) in limits(document) {
        let is_said = |source: &Source| {
            uses(&source.text, name).any(|after| {
                let declared = after.split(';').next().and_then(|rest| rest.split_once(" = "));
                after.starts_with(':') && declared.is_some_and(|(_, said)| said.trim() == value)
            })
        };
        if !sources.iter().any(is_said) {
            wrong.push(format!("the limit {name} is not {value}"));
        }
    }
    wrong
}

/// Rows of the map of the code, "| 0 | `clock` |…", that are not those of [`ROWS`], and modules of `modules` without one.
fn wrong_map(document: &str, modules: &BTreeSet<&str>) -> Vec<String> {
    let mut mapped = BTreeSet::new();
    let mut wrong = Vec::new();
    for line in document.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, number, module, ..] = cells[..] else { continue };
        let (Ok(number), module) = (number.parse::<usize>(), module.trim_matches('`')) else { continue };
        if row(module) != Some(number) {
            wrong.push(format!("`{module}` is not in row {number}"));
        }
        mapped.insert(module);
    }
    wrong.extend(modules.difference(&mapped).map(|module| format!("`{module}` is missing in the map of the code")));
    wrong
}

/// The anchor of a heading, as links name it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

/// Links of a document at `path` that lead to no file, or to no heading; `read` reads another document.
fn broken_links(path: &str, document: &str, files: &[String], read: impl Fn(&str) -> String) -> Vec<String> {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut wrong = Vec::new();
    for link in document.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
        let (target, heading) = link.split_once('#').unwrap_or((link, ""));
        if target.contains(':') {
            continue;
        }
        let target = match (folder, target.strip_prefix("../")) {
            _ if target.is_empty() => path.to_owned(),
            (_, Some(above)) => above.to_owned(),
            ("", None) => target.to_owned(),
            (folder, None) => format!("{folder}/{target}"),
        };
        if !files.contains(&target) {
            wrong.push(format!("{path}: `{link}` leads to no file"));
        } else if !heading.is_empty() {
            let text = read(&target);
            let mut headings =
                text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#'));
            if !headings.any(|line| anchor(line) == heading) {
                wrong.push(format!("{path}: `{link}` leads to no heading"));
            }
        }
    }
    wrong
}

// --- the tree ---

/// Every file of the repository, from its root, with `/`; nothing built, nothing hidden.
fn files() -> Vec<String> {
    let mut files = Vec::new();
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let is_folder = entry.file_type().unwrap().is_dir();
            let is_ours = !name.starts_with('.') && !["target", "postrider-data"].contains(&&*name);
            match (is_folder, is_ours) {
                (true, true) => folders.push(format!("{folder}{name}/")),
                (false, true) => files.push(format!("{folder}{name}")),
                _ => {}
            }
        }
    }
    files
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn sources() -> Vec<Source> {
    let is_source = |path: &String| path.starts_with("src/") && is_rust(path) && !path.ends_with("/tests.rs");
    let sources: Vec<_> =
        files().iter().filter(|path| is_source(path)).map(|path| Source::new(path, &read(path))).collect();
    assert!(sources.len() > 20, "the source tree was not found");
    sources
}

#[track_caller]
fn assert_none(wrong: &[String]) {
    assert!(wrong.is_empty(), "{} violations:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn imports_go_down_the_table_and_not_in_circles() {
    let sources = sources();
    assert_none(&wrong_imports(&sources));
    assert_none(&circles::circles(&sources));
}

#[test]
fn the_library_needs_nothing_of_the_server() {
    let optional = optional_dependencies(&read("Cargo.toml"));
    assert!(optional.contains(&"rusqlite".to_owned()), "the manifest was not understood: {optional:?}");
    assert_none(&server_crates_in_library(&sources(), &optional));
}

#[test]
fn every_technology_has_one_owner() {
    assert_none(&foreign_technology(&sources()));
}

#[test]
fn the_tables_are_about_what_is_there() {
    assert_none(&stale_entries(&ROWS, &GATED, &OWNERS, &sources()));
}

#[test]
fn headers_are_true() {
    assert_none(&untrue_headers(&sources()));
}

#[test]
fn files_and_functions_are_short() {
    assert_none(&too_long(&sources(), &LONG_FUNCTIONS));
}

#[test]
fn limits_are_explained() {
    assert_none(&undocumented_limits(&sources()));
}

#[test]
fn text_is_tidy() {
    let is_text = |path: &String| {
        TEXT_FILES.iter().any(|ending| path.ends_with(&format!(".{ending}"))) || path.starts_with("scripts/")
    };
    let wrong: Vec<_> =
        files().iter().filter(|path| is_text(path)).flat_map(|path| untidy_text(path, &read(path))).collect();
    assert_none(&wrong);
}

#[test]
fn documents_are_true() {
    assert!(read("CHANGELOG.md").contains("\n## [Unreleased]\n"), "CHANGELOG.md has no section for what comes next");
    let (files, sources) = (files(), sources());
    for path in files.iter().filter(|path| is_document(path)) {
        assert_none(&broken_links(path, &read(path), &files, read));
        if path.starts_with("docs/") || ["ARCHITECTURE.md", "CONTRIBUTING.md"].contains(&&**path) {
            assert_none(&missing_files(&read(path), &files));
            assert_none(&wrong_limits(&read(path), &sources));
        }
    }
    assert!(limits(&read("docs/limits.md")).count() > 100, "the table of limits was not understood");
    let modules = sources.iter().filter(|source| !source.is_root()).map(Source::module).collect();
    assert_none(&wrong_map(&read("ARCHITECTURE.md"), &modules));
}

#[test]
fn the_rules_notice_what_breaks_them() {
    let bad = |path: &str, text: &str| [Source::new(path, text)];
    let counts = [
        wrong_imports(&bad("src/topic.rs", "use crate::store::Store;\n")),
        wrong_imports(&bad("src/topic.rs", "use super::store::Store;\n")),
        wrong_imports(&bad("src/topic/index.rs", "fn f() { super::super::store::open() }\n")),
        wrong_imports(&bad("src/topic.rs", "use crate::{clock::Clock};\n")),
        wrong_imports(&bad("src/helpers.rs", "")),
        server_crates_in_library(&bad("src/event.rs", "use serde_json::Value;\n"), &["serde-json".to_owned()]),
        server_crates_in_library(&bad("src/event.rs", "#[cfg_attr(unix, derive(serde::X))]\n"), &["serde".to_owned()]),
        server_crates_in_library(&bad("src/event.rs", "use crate::filter::Filter;\n"), &[]),
        foreign_technology(&bad("src/api/events.rs", "let rows = db.query(r#\"\n  SELECT 1\"#);\n")),
        foreign_technology(&bad("src/api.rs", "use rusqlite::Connection;\n")),
        foreign_technology(&bad("src/ingest.rs", "let now = SystemTime::now();\n")),
        foreign_technology(&bad("src/ingest.rs", "let now = todo!();\n").map(|s| Source::new(&s.path, "todo!(\"x\")"))),
        too_long(&bad("src/topic.rs", &format!("fn f(a: [u8; 2]) {{\n{}}}\n", "x();\n".repeat(70))), &[]),
        too_long(&bad("src/topic.rs", &"\n".repeat(501)), &[]),
        too_long(&bad("src/topic.rs", "fn f() {}\n"), &[("src/topic.rs", "f", "no longer true")]),
        stale_entries(&[&["gone"]], &[], &[], &bad("src/topic.rs", "")),
        stale_entries(&[&["topic"]], &["src/gone/"], &[], &bad("src/topic.rs", "")),
        stale_entries(&[], &[], &[("rusqlite", &["src/gone.rs"])], &bad("src/topic.rs", "use rusqlite::X;\n")),
        untrue_headers(&bad("src/a.rs", "//! The only caller of `A::b`.\n")),
        untrue_headers(&["src/a.rs", "src/b.rs"].map(|path| {
            let header = if path == "src/a.rs" { "//! The only one\n//! that calls `A::b`.\n" } else { "" };
            Source::new(path, &format!("{header}fn f() {{ A::b() }}\n"))
        })),
        undocumented_limits(&bad("src/store.rs", "\npub const PAGE: u32 = 1;\n")),
        undocumented_limits(&bad("src/api/events.rs", "\npub const MAX_ITEMS: u32 = 1;\n")),
        untidy_text("a.md", "a tab\there\n"),
        untidy_text("a.md", "a space \n"),
        untidy_text("a.md", &format!("see {}/file\n", "/ho".to_owned() + "me/me")),
        untidy_text("a.md", "no line break"),
        missing_files("see `lane.rs`\n", &["src/dispatcher/lane.rs".to_owned()]),
        wrong_limits("| `MAX_A` | `2` |\n", &bad("src/a.rs", "const MAX_A: u32 = 1;\n")),
        wrong_map("| 1 | `clock` | |\n", &BTreeSet::from(["clock"])),
        wrong_map("| 0 | `clock` | |\n", &BTreeSet::from(["clock", "topic"])),
        broken_links("docs/a.md", "[b](b.md)\n", &["b.md".to_owned()], |_| String::new()),
        broken_links("a.md", "[b](#words-of-c)\n", &["a.md".to_owned()], |_| "# Words\n".to_owned()),
    ];
    for (number, wrong) in counts.iter().enumerate() {
        assert_eq!(wrong.len(), 1, "example {number}: {wrong:?}");
    }
}

#[test]
fn files_in_circles_are_noticed_and_others_are_let_be() {
    let of = |files: &[(&str, &str)]| {
        circles::circles(&files.iter().map(|(path, text)| Source::new(path, text)).collect::<Vec<_>>())
    };
    let circles = [
        of(&[
            ("src/ingest.rs", "use crate::engine::Engine;\n"),
            ("src/engine.rs", "mod a;\n"),
            ("src/engine/a.rs", "fn f() { crate::dispatcher::x() }\n"),
            ("src/dispatcher.rs", "use crate::{clock, ingest::{X as Y, Z}};\n"),
        ]),
        of(&[("src/a.rs", ""), ("src/a/b.rs", "use super::c;\n"), ("src/a/c.rs", "use crate::a::b::*;\n")]),
        // By a name that the parent passes on.
        of(&[
            ("src/a.rs", "pub(super) use self::c::{self, X as Z};\n"),
            ("src/a/b.rs", "use super::{Y, Z};\n"),
            ("src/a/c.rs", "use super::b;\n"),
        ]),
        // Between cousins.
        of(&[
            ("src/a.rs", "mod x;\n"),
            ("src/a/x.rs", "use crate::b::B;\n"),
            ("src/a/y.rs", "struct Y;\n"),
            ("src/b.rs", "use crate::a; fn f() { a::y::Y }\n"),
        ]),
    ];
    for (number, found) in circles.iter().enumerate() {
        assert_eq!(found.len(), 1, "example {number}: {found:?}");
    }
    assert_none(&of(&[
        ("src/lib.rs", "mod a;\nmod b;\n"),
        ("src/a.rs", "mod x;\npub use x::X;\nuse self::y::{Deep, Y};\nuse std::{fs, io};\nstruct A;\n"),
        ("src/a/x.rs", "use super::{A, y::Y};\nuse crate::a;\nfn f() -> impl Fn() + use<'_> { a::g() }\n"),
        ("src/a/y.rs", "//! use super::x;\nmod deep;\npub use self::deep::Deep;\nuse super::A;\n"),
        ("src/a/y/deep.rs", "use super::super::A;\nuse super::Y;\n"),
        ("src/b.rs", "use crate::a::X;\nfn x() { io::x::y() }\n"),
    ]));
}

#[test]
fn the_rules_let_good_code_be() {
    let good = "//! use crate::store::Store; SystemTime::now()\n\
        /// The most.\n\
        pub const MAX_A: usize = 1 << 4;\n\
        use crate::clock::Clock;\n\
        const QUOTE: char = '\"';\n\
        fn f<'a>(text: &'a str) -> &'a str { \"{ crate::store\" /* { todo!() */ }\n\
        #[cfg(test)]\nmod tests { use crate::store::Store; }\n";
    let good = [Source::new("src/event.rs", good)];
    let gated = [Source::new("src/filter/index.rs", "use parking_lot::Mutex;\n")];
    assert_none(&server_crates_in_library(&gated, &["parking_lot".to_owned()]));
    assert_none(&stale_entries(&[&["event"]], &["src/event.rs"], &[("clock", &["src/event"])], &good));
    let claim = "//! A thing. The only caller of `A::b`, and `C` is not said to be; `D` neither.\nfn f() { A::b(C) }\n";
    assert_none(&untrue_headers(&[Source::new("src/a.rs", &claim.replace(", and `C`", ". `C`"))]));
    for wrong in [wrong_imports(&good), foreign_technology(&good), too_long(&good, &[]), undocumented_limits(&good)] {
        assert_none(&wrong);
    }
    assert_none(&wrong_limits("| `MAX_A` | `1 << 4` |\n", &good));
    assert_none(&missing_files("`event.rs` and `src/event.rs`", &["src/event.rs".to_owned()]));
    assert_none(&wrong_map("| 0 | `clock` | the clock |\n", &BTreeSet::from(["clock"])));
    let links = "[a](https://a.example/) [b](b.md#one-two-3) [c](../c.md) [d](#one-two-3)\n";
    let linked = ["docs/a.md", "docs/b.md", "c.md"].map(str::to_owned);
    assert_none(&broken_links("docs/a.md", links, &linked, |_| "## One, two: 3\n".to_owned()));
    assert_eq!(functions(&good[0].code), [("f", 1)]);
    let derived =
        "#[cfg_attr(\n    feature = \"server\",\n    derive(serde::Serialize),\n    serde(default)\n)]\nstruct A;\n";
    assert_none(&server_crates_in_library(&[Source::new("src/event.rs", derived)], &["serde".to_owned()]));
}
