//! Which way dependencies point: a module imports only what stands to its left.
//!
//! Scans `src/**/*.rs` for `crate::` paths, imported or inline. Comments don't count, nor does test
//! code below `#[cfg(test)] mod`: a test may look where its subject must not.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Each module and what it may import, besides itself.
const ALLOWED: [(&str, &[&str]); 26] = [
    ("protocol", &[]),
    ("model", &["protocol"]),
    ("config", &["protocol", "model"]),
    ("clock", &["config"]),
    ("flight", &[]),
    ("in_memory", &[]),
    ("unbroken", &[]),
    ("registrar", &[]),
    ("workers", &["config"]),
    ("install_key", &["protocol", "workers"]),
    ("telemetry", &["config", "clock", "registrar", "net"]),
    ("net", &["config", "in_memory"]),
    ("store", LOWER),
    ("audit", AUDIT),
    ("gateway", LOWER),
    ("certificates", MIDDLE),
    ("token", TOKEN),
    ("delivery", DELIVERY),
    ("proxy", UPPER),
    ("webhook", UPPER),
    ("admin", ADMIN),
    ("sidecar", SIDECAR),
    ("simulator", &["net", "protocol"]),
    ("cli", CLI),
    ("lib", CLI),
    ("main", &["cli"]),
];

const LOWER: &[&str] = &[
    "protocol",
    "model",
    "config",
    "clock",
    "registrar",
    "workers",
    "flight",
    "in_memory",
    "telemetry",
    "net",
];
const AUDIT: &[&str] = &["protocol", "clock", "registrar", "store"];
const MIDDLE: &[&str] = &[
    "protocol",
    "model",
    "config",
    "clock",
    "registrar",
    "workers",
    "flight",
    "in_memory",
    "telemetry",
    "net",
    "store",
    "gateway",
];
const TOKEN: &[&str] = &[
    "protocol",
    "model",
    "config",
    "clock",
    "registrar",
    "workers",
    "flight",
    "in_memory",
    "telemetry",
    "net",
    "store",
    "gateway",
    "certificates",
];
const DELIVERY: &[&str] = &[
    "protocol",
    "model",
    "config",
    "clock",
    "registrar",
    "workers",
    "install_key",
    "flight",
    "in_memory",
    "telemetry",
    "net",
    "store",
];
const UPPER: &[&str] = &[
    "protocol",
    "model",
    "config",
    "clock",
    "registrar",
    "workers",
    "install_key",
    "flight",
    "in_memory",
    "unbroken",
    "telemetry",
    "net",
    "store",
    "audit",
    "gateway",
    "certificates",
    "token",
    "delivery",
];
const ADMIN: &[&str] = &[
    "protocol",
    "model",
    "config",
    "clock",
    "registrar",
    "workers",
    "install_key",
    "flight",
    "in_memory",
    "telemetry",
    "net",
    "store",
    "audit",
    "gateway",
    "certificates",
    "token",
    "delivery",
    "proxy",
    "webhook",
];
const SIDECAR: &[&str] = &[
    "protocol",
    "model",
    "config",
    "clock",
    "registrar",
    "workers",
    "install_key",
    "flight",
    "in_memory",
    "telemetry",
    "net",
    "store",
    "audit",
    "gateway",
    "certificates",
    "token",
    "delivery",
    "proxy",
    "webhook",
    "admin",
];
const CLI: &[&str] = &[
    "protocol",
    "model",
    "config",
    "clock",
    "registrar",
    "workers",
    "install_key",
    "flight",
    "in_memory",
    "telemetry",
    "net",
    "store",
    "audit",
    "gateway",
    "certificates",
    "token",
    "delivery",
    "proxy",
    "webhook",
    "admin",
    "sidecar",
    "simulator",
    "cli",
];

/// What the protocol core, which is pure, may not name.
const IMPURE: [&str; 4] = ["tokio::", "hyper::", "std::net", "std::fs"];

/// A source file: its path, its top-level module, its code without comments and tests.
struct Source {
    path: PathBuf,
    module: String,
    code: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    collect(&root, &mut paths);
    let source = |path: PathBuf| {
        let relative = path.strip_prefix(&root).expect("below src").to_owned();
        let first = relative.iter().next().expect("a name").to_string_lossy();
        let text = std::fs::read_to_string(&path).expect("source is UTF-8");
        Source {
            module: first.trim_end_matches(".rs").to_owned(),
            code: code_of(&text),
            path: relative,
        }
    };
    paths.into_iter().map(source).collect()
}

fn collect(directory: &Path, paths: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).expect("readable") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            collect(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && path.file_name().is_none_or(|name| name != "tests.rs")
        {
            paths.push(path);
        }
    }
}

fn code_of(text: &str) -> String {
    let tests = text.find("#[cfg(test)]\nmod ").unwrap_or(text.len());
    let lines = text[..tests].lines();
    lines
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The top-level modules of ours that `code` names after `crate::`.
fn imports(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(group) => found.extend(group_heads(group)),
            None => found.extend(head(rest)),
        }
    }
    found
}

fn head(path: &str) -> Option<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let name: String = path
        .trim_start()
        .chars()
        .take_while(|c| is_name(*c))
        .collect();
    (!name.is_empty()).then_some(name)
}

/// The first segment of each path of `crate::{…}`.
fn group_heads(group: &str) -> Vec<String> {
    let (mut depth, mut begins, mut heads) = (1, true, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => begins = true,
            c if begins && !c.is_whitespace() => {
                heads.extend(head(&group[at..]));
                begins = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    heads
}

#[test]
fn a_module_imports_only_what_stands_to_its_left() {
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.into_iter().collect();
    let mut wrong = Vec::new();
    for source in sources() {
        let module = source.module.as_str();
        let Some(may) = allowed.get(module) else {
            wrong.push(format!(
                "{}: module `{module}` isn't in the list",
                source.path.display()
            ));
            continue;
        };
        for import in imports(&source.code) {
            let is_module = allowed.contains_key(import.as_str());
            if is_module && import != module && !may.contains(&import.as_str()) {
                wrong.push(format!("{}: imports `{import}`", source.path.display()));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn no_modules_import_each_other_in_a_circle() {
    let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources() {
        let mut imports = imports(&source.code);
        imports.remove(&source.module);
        graph.entry(source.module).or_default().extend(imports);
    }
    // Modules without imports are taken away until none is left; what stays is a circle.
    loop {
        let leaves: Vec<String> = graph
            .iter()
            .filter(|(_, imports)| imports.iter().all(|import| !graph.contains_key(import)))
            .map(|(module, _)| module.clone())
            .collect();
        if leaves.is_empty() {
            break;
        }
        graph.retain(|module, _| !leaves.contains(module));
    }
    assert!(graph.is_empty(), "a circle among {graph:?}");
}

#[test]
fn the_protocol_core_does_no_input_or_output() {
    for source in sources()
        .iter()
        .filter(|source| source.module == "protocol")
    {
        for name in IMPURE {
            let path = source.path.display();
            assert!(!source.code.contains(name), "{path} names `{name}`");
        }
    }
}

#[test]
fn the_simulator_judges_by_its_own_sign_strings() {
    for source in sources()
        .iter()
        .filter(|source| source.module == "simulator")
    {
        for (at, _) in source.code.match_indices("crate::protocol") {
            let rest = &source.code[at + "crate::protocol".len()..];
            let path = source.path.display();
            assert!(
                rest.starts_with("::key"),
                "{path} uses more than key reading"
            );
        }
    }
}

#[test]
fn imports_are_found_however_they_are_written() {
    let found = imports("use crate::{a::{x, y}, b};\nlet z = crate::c::d();\nuse crate::e;");
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["a", "b", "c", "e"]);
}
