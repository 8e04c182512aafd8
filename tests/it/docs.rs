//! What the documentation says is held against the program: its links lead somewhere, its commands
//! are commands, and its tables of errors and metrics are complete.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use alipay_sidecar::config::{Config, Source};
use alipay_sidecar::store::seal::StoreKey;

use crate::support::{keys, scrape};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Every page that a user reads.
fn pages() -> Vec<PathBuf> {
    let mut pages: Vec<_> = fs::read_dir(root().join("docs"))
        .expect("docs/")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    let others = [
        "README.md",
        "README.zh-CN.md",
        "SECURITY.md",
        "examples/backends/README.md",
        "examples/deploy/README.md",
    ];
    pages.extend(others.map(|name| root().join(name)));
    pages
}

/// The targets of `[text](target)` that are files of ours.
fn links(page: &str) -> impl Iterator<Item = &str> {
    page.split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target.split('#').next().unwrap_or_default())
        .filter(|target| !target.is_empty() && !target.contains("://"))
}

#[test]
fn every_link_leads_to_a_file() {
    let mut count = 0;
    for page in pages() {
        let said = fs::read_to_string(&page).expect("readable");
        for target in links(&said) {
            let file = page.parent().expect("a folder").join(target);
            assert!(file.exists(), "{}: {target}", page.display());
            count += 1;
        }
    }
    assert!(count > 20, "{count}");
}

/// The lines of fenced blocks of shell, continued ones joined, comments dropped.
fn commands(page: &str) -> Vec<String> {
    let mut all = Vec::new();
    for block in page.split("\n```sh\n").skip(1) {
        let block = block.split("\n```").next().unwrap_or_default();
        for line in block.replace("\\\n", " ").lines() {
            let line = line.split(" #").next().unwrap_or_default();
            let words: Vec<_> = line.split_whitespace().collect();
            if !words.is_empty() && !words[0].starts_with('#') {
                all.push(words.join(" "));
            }
        }
    }
    all
}

#[test]
fn the_chinese_readme_gives_the_same_commands() {
    let english: BTreeSet<_> = commands(&read("README.md")).into_iter().collect();
    let chinese = commands(&read("README.zh-CN.md"));
    assert!(chinese.len() > 20, "{}", chinese.len());
    for command in &chinese {
        assert!(english.contains(command), "not in README.md: {command}");
    }
}

/// Splits a command as a shell would, as far as the documentation's need it.
#[cfg(feature = "cli")]
fn words(command: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for c in command.chars() {
        match quote {
            Some(open) if c == open => quote = None,
            None if c == '\'' || c == '"' => quote = Some(c),
            None if c == ' ' => words.push(std::mem::take(&mut word)),
            _ => word.push(c),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

/// What a reader puts in the place of `<…>`.
#[cfg(feature = "cli")]
fn filled(command: &str) -> String {
    let mut parts = command.split('<');
    let mut filled = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (_, rest) = part.split_once('>').expect("a closed one");
        filled = format!("{filled}2088000000001001{rest}");
    }
    filled
}

/// Each is asked for its help behind its arguments, which says whether they are known.
#[cfg(feature = "cli")]
#[test]
fn every_command_is_one_of_the_program() {
    let mut tried = BTreeSet::new();
    for page in pages() {
        let said = fs::read_to_string(&page).expect("readable");
        for command in commands(&said) {
            let Some((_, arguments)) = command.split_once("alipay-sidecar ") else {
                continue;
            };
            let is_ours =
                command.starts_with("alipay-sidecar ") || command.contains("| alipay-sidecar ");
            if !is_ours || !tried.insert(arguments.to_owned()) {
                continue;
            }
            let arguments = arguments.split([';', '|']).next().unwrap_or_default();
            let words = words(&filled(&arguments.replace("$(date +%F)", "2026-11-25")));
            let output = std::process::Command::new(env!("CARGO_BIN_EXE_alipay-sidecar"))
                .args(words.iter().filter(|word| *word != "…"))
                .arg("--help")
                .output()
                .expect("it runs");
            let complaint = String::from_utf8_lossy(&output.stderr);
            let page = page.display();
            assert!(output.status.success(), "{page}: {arguments}\n{complaint}");
        }
    }
    assert!(tried.len() > 30, "{}", tried.len());
}

/// The words that `ErrorCode` is spelled by: those in its table.
fn codes() -> BTreeSet<String> {
    let source = read("src/proxy/error.rs");
    let table = source.split("fn row(self)").nth(1).expect("the table");
    let table = table.split("\n    }\n}\n").next().expect("its end");
    let literals = table.split('"').skip(1).step_by(2);
    let is_code = |word: &&str| word.chars().all(|c| c.is_ascii_lowercase() || c == '-');
    literals.filter(is_code).map(str::to_owned).collect()
}

#[test]
fn every_error_code_has_its_cause_and_its_cure() {
    let codes = codes();
    assert!(codes.len() > 30, "{codes:?}");
    let page = read("docs/errors.md");
    let told: BTreeSet<String> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
        .map(|(code, _)| code.to_owned())
        .collect();
    assert_eq!(told, codes);
    for row in page.lines().filter(|line| line.starts_with("| `")) {
        assert_eq!(row.matches(" | ").count(), 3, "{row}");
    }
}

/// The rows of docs/metrics.md: what a running sidecar tells of its metrics.
fn rows(shown: &str) -> String {
    let mut rows = String::new();
    for help in shown
        .lines()
        .filter_map(|line| line.strip_prefix("# HELP "))
    {
        let (name, help) = help.split_once(' ').expect("a help");
        let kind = format!("# TYPE {name} ");
        let kind = shown.lines().find_map(|line| line.strip_prefix(&kind));
        let series = [format!("{name}{{"), format!("{name}_bucket{{")];
        let mut labels = BTreeSet::new();
        for line in shown.lines() {
            let Some(rest) = series.iter().find_map(|start| line.strip_prefix(start)) else {
                continue;
            };
            let names = rest
                .split("=\"")
                .map(|part| part.rsplit([',', '{', ' ']).next());
            let names: Vec<_> = names.flatten().collect();
            // What stands behind the last `="` is no name.
            let names = names.split_last().map_or(&[][..], |(_, names)| names);
            labels.extend(
                names
                    .iter()
                    .filter(|name| **name != "le")
                    .map(|n| format!("`{n}`")),
            );
        }
        let labels: Vec<_> = labels.into_iter().collect();
        let labels = if labels.is_empty() {
            "–".to_owned()
        } else {
            labels.join(", ")
        };
        rows += &format!(
            "| `{name}` | {} | {labels} | {help} |\n",
            kind.expect("a type")
        );
    }
    rows
}

#[tokio::test]
async fn every_metric_stands_in_its_table() {
    let shown = scrape().await;
    let rows = rows(&shown);
    let page = read("docs/metrics.md");
    let (head, _) = page.split_once("|---|---|---|---|\n").expect("a table");
    let expected = format!("{head}|---|---|---|---|\n{rows}");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(root().join("docs/metrics.md"), &expected).expect("written");
        return;
    }
    assert_eq!(page, expected, "UPDATE_DOCS=1 writes docs/metrics.md anew");
}

/// What stands in a ConfigMap under `config.toml`, without its indentation.
fn config_of(manifest: &str) -> String {
    let block = manifest.split("  config.toml: |\n").nth(1).expect("one");
    let lines = block.lines().map_while(|line| line.strip_prefix("    "));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_configuration_of_the_kubernetes_example_is_a_good_one() {
    use std::os::unix::fs::PermissionsExt as _;

    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in [
        ("admin.token", "a-token".to_owned()),
        (
            "store.key",
            StoreKey::generate().to_base64().expose().clone(),
        ),
        ("app_private_key.pem", keys::private("app2048")),
        ("alipay_public_key.pem", keys::public("alipay2048")),
    ] {
        let path = folder.path().join(name);
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o440)).expect("narrowed");
    }
    let text = config_of(&read("examples/deploy/kubernetes/sidecar.yaml"));
    let place = format!("{}/", folder.path().display());
    let text = text.replace("/etc/alipay-sidecar/secrets/", &place);
    let path = folder.path().join("config.toml");
    fs::write(&path, text).expect("written");
    let source = Source::read(&path);
    let config =
        Config::from_source_to_serve(&source, []).unwrap_or_else(|faults| panic!("{faults}"));
    assert!(!config.admin.listen.is_local());
    assert_eq!(config.apps.len(), 1);
}
