//! What the documentation says is held against the program: its links lead somewhere, its commands
//! are commands, its tables of errors and metrics are complete, and the Chinese pages say what the
//! English ones do.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use alipay_sidecar::config::{Config, Source};
use alipay_sidecar::model::delivery::AttemptError;
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
    let mut pages = pages_in("docs");
    pages.extend(pages_in("docs/zh"));
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

/// The pages of one folder.
fn pages_in(folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join(folder)).expect("a folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths.filter(|path| path.is_file()).collect()
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

/// The English pages and their Chinese ones.
fn translations() -> Vec<(String, String)> {
    let mut pairs = vec![("README.md".to_owned(), "README.zh-CN.md".to_owned())];
    for path in pages_in("docs") {
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.expect("a name");
        pairs.push((format!("docs/{name}"), format!("docs/zh/{name}")));
    }
    pairs
}

/// `line` with nothing in its `<…>`, which a reader replaces and a translation translates.
fn unfilled(line: &str) -> String {
    let mut parts = line.split('<');
    let mut unfilled = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.split_once('>').map_or(part, |(_, rest)| rest);
        unfilled += &format!("<>{rest}");
    }
    unfilled
}

/// The fenced blocks of a language, each without its comments.
fn blocks(page: &str) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    for block in page.split("\n```").skip(1).step_by(2) {
        let (language, block) = block.split_once('\n').unwrap_or_default();
        if language.is_empty() {
            continue;
        }
        let code = |line: &str| {
            let code = line.split(" #").next().unwrap_or_default().trim();
            (!code.is_empty() && !code.starts_with('#')).then(|| unfilled(code))
        };
        all.push(block.lines().filter_map(code).collect());
    }
    all
}

/// The levels of the headings, and how each row of a table begins, as far as that is code; of metrics
/// all that a label may be, too.
fn skeleton(page: &str) -> Vec<String> {
    let prose = page.split("\n```").step_by(2);
    let lines = prose.flat_map(str::lines);
    let bone = |line: &str| match line.split_once(' ') {
        Some((level, _)) if level.starts_with('#') && level.chars().all(|c| c == '#') => {
            Some(level.to_owned())
        }
        Some(("|", row)) => {
            let is_metric = row.starts_with("`alipay_sidecar_");
            let cells = row.split(" |").take(if is_metric { 3 } else { 1 });
            let cells: String = cells.collect();
            let codes: Vec<_> = cells.split('`').skip(1).step_by(2).collect();
            Some(format!("| {} cells, {codes:?}", row.matches(" |").count()))
        }
        _ => None,
    };
    lines.filter_map(bone).collect()
}

#[test]
fn the_chinese_pages_have_every_section_table_and_command_of_the_english_ones() {
    let mut count = 0;
    for (english, chinese) in translations() {
        let (said, told) = (read(&english), read(&chinese));
        assert_eq!(skeleton(&told), skeleton(&said), "{chinese}, {english}");
        assert_eq!(blocks(&told), blocks(&said), "{chinese}, {english}");
        assert_ne!(told, said, "{chinese}");
        count += blocks(&told).len();
    }
    assert!(count > 40, "{count}");
    assert_eq!(pages_in("docs/zh").len(), pages_in("docs").len());
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

/// The string literals of Rust that have the form of a code.
fn literals(source: &str) -> impl Iterator<Item = String> + '_ {
    let is_code = |word: &&str| {
        word.split('-').all(|part| !part.is_empty())
            && word
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    };
    let literals = source.split('"').skip(1).step_by(2);
    literals.filter(is_code).map(str::to_owned)
}

/// The words that the proxy's errors are spelled by: those in the table of `ErrorCode`.
fn codes_of_the_proxy() -> BTreeSet<String> {
    let source = read("src/proxy/error.rs");
    let table = source.split("fn row(self)").nth(1).expect("the table");
    let table = table.split("\n    }\n}\n").next().expect("its end");
    literals(table).collect()
}

/// The words that the admin API's errors are spelled by: those of every `kind` that becomes the
/// `code` of a reply, and those of [`Problem`]'s own.
///
/// [`Problem`]: ../../src/admin/problem.rs
fn codes_of_the_admin_api() -> BTreeSet<String> {
    let mut codes = BTreeSet::new();
    for file in [
        "src/admin/error.rs",
        "src/admin/configuration.rs",
        "src/token/asking.rs",
        "src/token/error.rs",
        "src/gateway/error.rs",
    ] {
        let source = read(file);
        // `kind` itself, and what it leaves a part of its cases to.
        let kinds: Vec<_> = source.split("fn kind").skip(1).collect();
        assert!(!kinds.is_empty(), "{file}");
        for kind in kinds {
            codes.extend(literals(kind.split("\n    }\n").next().expect("its end")));
        }
    }
    let source = read("src/admin/problem.rs");
    let (_, made) = source.split_once("impl Problem {").expect("the problems");
    let made = made.split("fn respond").next().expect("before its reply");
    codes.extend(literals(made));
    codes
}

#[test]
fn every_error_code_has_its_cause_and_its_cure() {
    let (mut codes, of_admin) = (codes_of_the_proxy(), codes_of_the_admin_api());
    assert!(codes.len() > 30, "{codes:?}");
    assert!(of_admin.contains("caller-unauthenticated"), "{of_admin:?}");
    assert!(of_admin.difference(&codes).count() > 5, "{of_admin:?}");
    codes.extend(of_admin);
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

/// One metric as `/metrics` shows it.
#[cfg(feature = "cli")]
#[derive(Default)]
struct Metric {
    help: String,
    kind: String,
    /// What each label is in the series that there are.
    labels: BTreeMap<String, BTreeSet<String>>,
}

#[cfg(feature = "cli")]
fn metrics(shown: &str) -> BTreeMap<String, Metric> {
    let mut all = BTreeMap::<String, Metric>::new();
    for line in shown.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|l| l.split_once(' ')) {
            help.clone_into(&mut all.entry(name.to_owned()).or_default().help);
        } else if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' '))
        {
            kind.clone_into(&mut all.entry(name.to_owned()).or_default().kind);
        } else if let Some((name, series)) = line.split_once('{') {
            let name = name.trim_end_matches("_bucket");
            let name = name.trim_end_matches("_count").trim_end_matches("_sum");
            let metric = all.get_mut(name).expect("told of before its series");
            let (series, _) = series.rsplit_once("\"}").expect("its end");
            for label in series.split("\",") {
                let (label, value) = label.split_once("=\"").expect("a label");
                let values = metric.labels.entry(label.to_owned()).or_default();
                values.insert(value.to_owned());
            }
        }
    }
    all
}

/// What a label may be where a scrape can't show all of it.
#[cfg(feature = "cli")]
fn open_label(metric: &str, label: &str) -> Option<String> {
    use alipay_sidecar::gateway::metrics::{Api, Phase};
    use alipay_sidecar::model::call::CallOutcome;

    let apis = Api::ALL.map(|api| format!("`{}`", api.as_str()));
    Some(match (metric, label) {
        ("alipay_sidecar_build_info", "version") => "the program’s version".to_owned(),
        ("alipay_sidecar_certificate_expiry_timestamp_seconds", "kind") => {
            "of listeners `admin`, `proxy`, `webhook`; in certificate mode `alipay`, `app`, `root`"
                .to_owned()
        }
        ("alipay_sidecar_request_duration_seconds", "api") => apis.join(", "),
        ("alipay_sidecar_request_duration_seconds", "phase") => {
            Phase::ALL.map(|p| format!("`{}`", p.as_str())).join(", ")
        }
        ("alipay_sidecar_requests_total", "api") => {
            let source = read("src/proxy/story.rs");
            let (_, told) = source.split_once("let (api, method) =").expect("told");
            let others = literals(told.split("};").next().expect("its end"));
            let calls = apis.into_iter().filter(|api| api != "`internal`");
            let all: BTreeSet<_> = others.map(|o| format!("`{o}`")).chain(calls).collect();
            all.into_iter().collect::<Vec<_>>().join(", ")
        }
        ("alipay_sidecar_requests_total", "method") => {
            "Alipay’s method name, `none`, `other`".to_owned()
        }
        ("alipay_sidecar_requests_total", "outcome") => {
            let said = CallOutcome::ALL.map(CallOutcome::as_str);
            let said = said
                .into_iter()
                .filter(|o| !["not-sent", "unknown"].contains(o));
            let said: Vec<_> = said.map(|o| format!("`{o}`")).collect();
            let said = said.join(", ");
            format!("{said}, `signed`, or an [error code](errors.md)")
        }
        _ => return None,
    })
}

/// One row of docs/metrics.md.
#[cfg(feature = "cli")]
fn row(name: &str, metric: &Metric) -> String {
    let closed = |(label, values): (&String, &BTreeSet<String>)| {
        let values: Vec<_> = values.iter().map(|value| format!("`{value}`")).collect();
        let told = open_label(name, label).unwrap_or_else(|| values.join(", "));
        // What an open one was seen to be is among what is told of it.
        let is_named = |value: &String| told.contains(value.as_str());
        let is_free = ["method", "version"].contains(&label.as_str());
        assert!(
            is_free || values.iter().all(is_named),
            "{name} {label}: {values:?}"
        );
        format!("`{label}`: {told}")
    };
    let labels = metric.labels.iter().filter(|(label, _)| *label != "le");
    let labels: Vec<_> = labels.map(closed).collect();
    let labels = match labels.as_slice() {
        [] => "–".to_owned(),
        labels => labels.join("; "),
    };
    let Metric { help, kind, .. } = metric;
    format!("| `{name}` | {kind} | {labels} | {help} |\n")
}

/// The names of metrics that the sources register.
#[cfg(feature = "cli")]
fn registered() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut folders = vec![root().join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("readable") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let source = fs::read_to_string(&path).expect("readable");
                let literals = source.split('"').filter(|text| {
                    text.starts_with("alipay_sidecar_")
                        && text.chars().all(|c| c == '_' || c.is_ascii_lowercase())
                });
                names.extend(literals.map(str::to_owned));
            }
        }
    }
    // A library of that name, in a test of the log.
    names.remove("alipay_sidecar_of_others");
    names
}

#[cfg(feature = "cli")]
#[tokio::test]
async fn every_metric_stands_in_its_table_with_what_its_labels_may_be() {
    use crate::support::program::Installation;

    let installation = Installation::new("http://127.0.0.1:9");
    let program = installation.start();
    let client = crate::support::client();
    program.ready(&client).await;
    // The program alone counts the lines that its log lost.
    let mut all = metrics(&program.metrics(&client).await.expect("an answer"));
    drop(program);
    all.extend(metrics(&scrape().await));
    let registered = registered();
    assert!(registered.len() > 20, "{registered:?}");
    for name in &registered {
        assert!(all.contains_key(name), "{name} has no series at the start");
    }
    let refusals = ["src/gateway/platform/mod.rs", "src/protocol/cert/error.rs"];
    let downloads = &all["alipay_sidecar_certificate_downloads_total"].labels["outcome"];
    for source in refusals.map(read) {
        let (_, kind) = source.split_once("fn kind(&self)").expect("its kinds");
        for kind in literals(kind.split("\n    }\n").next().expect("its end")) {
            assert!(downloads.contains(&kind), "{kind}");
        }
    }
    let rows: String = all.iter().map(|(name, metric)| row(name, metric)).collect();
    let page = read("docs/metrics.md");
    let (head, _) = page.split_once("|---|---|---|---|\n").expect("a table");
    let expected = format!("{head}|---|---|---|---|\n{rows}");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(root().join("docs/metrics.md"), &expected).expect("written");
        return;
    }
    assert_eq!(page, expected, "UPDATE_DOCS=1 writes docs/metrics.md anew");
}

/// Where the API has a fixed word for it, the console says it in the reader's language.
#[test]
fn the_console_has_a_word_for_every_cause_refusal_and_failure() {
    let mut causes = BTreeSet::new();
    for path in pages_in("src/protocol/diagnosis/cause") {
        let source = fs::read_to_string(path).expect("readable");
        let (_, kind) = source.split_once("fn kind(&self)").expect("its kinds");
        causes.extend(literals(kind.split("\n    }\n").next().expect("its end")));
    }
    assert!(causes.len() > 80, "{causes:?}");
    let source = read("src/admin/console/words.js");
    let (words, told) = source.split_once("const CAUSES = {").expect("them");
    let lines = told.lines().filter_map(|line| line.split_once(": '"));
    let key = |(key, _): (&str, &str)| key.trim().trim_matches('\'').to_owned();
    assert_eq!(lines.map(key).collect::<BTreeSet<_>>(), causes);
    let refusals = read("src/model/refused.rs");
    let (_, refusals) = refusals.split_once("fn as_str(self)").expect("them");
    let refusals = literals(refusals.split("\n    }\n").next().expect("their end"));
    // In each of the two languages, from `kinds` to the end of `errors`.
    let both = words.split("    kinds: {").skip(1);
    let both = both.map(|rest| rest.split("},\n  }").next().unwrap_or_default());
    let both: String = both.collect();
    let failures = AttemptError::ALL.map(|error| error.as_str().to_owned());
    let mut count = 0;
    for word in refusals.chain(failures) {
        let told = both.matches(&format!(" {word}: '")).count();
        let told = told + both.matches(&format!(" '{word}': '")).count();
        assert_eq!(told, 2, "{word}, in English and Chinese");
        count += 1;
    }
    assert_eq!(count, 5 + AttemptError::ALL.len());
}

#[test]
fn what_the_console_says_of_refusals_in_chinese_are_codes_of_the_api() {
    let source = read("src/admin/console/words.js");
    let (_, problems) = source.split_once("    problems: {\n").expect("them");
    let problems = problems.split("\n    },").next().expect("their end");
    let codes: Vec<_> = problems
        .split("', ")
        .flat_map(|part| part.split("',\n"))
        .filter_map(|entry| entry.split_once(": '"))
        .map(|(code, _)| code.trim().trim_matches('\''))
        .collect();
    assert_eq!(codes.len(), 9, "{codes:?}");
    let known = read("docs/zh/errors.md");
    for code in codes {
        assert!(known.contains(&format!("| `{code}` |")), "{code}");
    }
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
        ("webhook.secret", "a-secret".to_owned()),
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
    let config = Config::from_source_to_serve(&source, [], |_| Vec::new())
        .unwrap_or_else(|faults| panic!("{faults}"));
    assert!(!config.admin.listen.is_local());
    assert_eq!(config.apps.len(), 1);
    assert!(config.delivery.signing_secret.is_some());
}

/// What is done by hand beside the systemd unit reads the same secrets, so it is given them all.
#[test]
fn what_is_done_by_hand_is_given_the_credentials_of_the_unit() {
    let unit = read("examples/deploy/systemd/alipay-sidecar.service");
    let lines = unit.lines();
    let credentials: Vec<_> = lines.filter(|l| l.starts_with("LoadCredential=")).collect();
    assert!(credentials.len() > 1, "{credentials:?}");
    for page in ["docs/backup.md", "docs/incident.md"] {
        let said = read(page);
        for command in said.split("systemd-run ").skip(1) {
            let command = command.split("\n```").next().unwrap_or_default();
            for credential in &credentials {
                let given = format!("-p {credential} ");
                assert!(command.contains(&given), "{page}: {credential}");
            }
        }
        assert!(said.contains("systemd-run "), "{page}");
    }
    for credential in &credentials {
        assert_eq!(unit.matches(*credential).count(), 2, "{credential}");
    }
}
