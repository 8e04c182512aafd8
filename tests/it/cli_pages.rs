//! Completions that complete, and manual pages that a strict `groff` takes: one for every verb.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

const SHELLS: [&str; 5] = ["bash", "elvish", "fish", "powershell", "zsh"];

fn sidecar(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_alipay-sidecar"))
        .args(arguments)
        .env_clear()
        .output()
        .expect("started");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The verbs below `path`, as its help lists them; a family's own words `help` aside.
fn verbs(path: &[&str]) -> Vec<String> {
    let help = sidecar(&[path, &["--help"]].concat());
    let listed = help
        .split_once("\nCommands:\n")
        .map_or("", |(_, rest)| rest);
    let lines = listed.lines().take_while(|line| !line.is_empty());
    let names = lines.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    let names = names.filter(|name| !name.is_empty() && *name != "help");
    names.map(str::to_owned).collect()
}

/// Every verb with the family before it, such as `["inbox", "list"]`.
fn paths() -> Vec<Vec<String>> {
    let mut all = Vec::new();
    let mut open = vec![Vec::<String>::new()];
    while let Some(path) = open.pop() {
        let words: Vec<&str> = path.iter().map(String::as_str).collect();
        for verb in verbs(&words) {
            let below: Vec<String> = path.iter().cloned().chain([verb]).collect();
            open.push(below.clone());
            all.push(below);
        }
    }
    all
}

/// Hands `script` to `shell`, where there is one.
fn run(shell: &str, arguments: &[&str], script: &str) -> Option<Output> {
    let started = Command::new(shell)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = started else {
        crate::support::skipped(&format!(
            "there is no {shell}, so its completions weren't tried"
        ));
        return None;
    };
    let mut input = child.stdin.take().expect("piped");
    input.write_all(script.as_bytes()).expect("written");
    drop(input);
    Some(child.wait_with_output().expect("ended"))
}

/// What bash offers behind `words`, of which the last is being written.
fn completed(words: &[&str]) -> Vec<String> {
    let quoted = words.iter().map(|word| format!("'{word}'"));
    let quoted = quoted.collect::<Vec<_>>().join(" ");
    let (current, before) = (words[words.len() - 1], words[words.len() - 2]);
    let script = format!(
        "{}\nspec=$(complete -p alipay-sidecar)\nname=${{spec#*-F }}\nname=${{name%% *}}\n\
         COMP_WORDS=({quoted})\nCOMP_CWORD={}\n\"$name\" alipay-sidecar '{current}' '{before}'\n\
         printf '%s\\n' \"${{COMPREPLY[@]}}\"\n",
        sidecar(&["completions", "bash"]),
        words.len() - 1,
    );
    let arguments = ["--norc", "--noprofile", "-u"];
    let output = run("bash", &arguments, &script).expect("bash");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    let offered = String::from_utf8(output.stdout).expect("UTF-8");
    offered.lines().map(str::to_owned).collect()
}

#[test]
fn every_shell_gets_a_script_that_names_every_verb() {
    let paths = paths();
    assert!(paths.len() > 40, "{paths:?}");
    for shell in SHELLS {
        let script = sidecar(&["completions", shell]);
        for path in &paths {
            let last = path.last().expect("a verb");
            assert!(script.contains(last.as_str()), "{shell}: {path:?}");
        }
    }
    let wrong = Command::new(env!("CARGO_BIN_EXE_alipay-sidecar"))
        .args(["completions", "tcsh"])
        .output()
        .expect("started");
    assert_eq!(wrong.status.code(), Some(2));
}

#[test]
fn the_scripts_are_good_in_the_shells_that_are_there() {
    for (shell, arguments) in [("bash", ["-n"]), ("zsh", ["-n"]), ("fish", ["-n"])] {
        let script = sidecar(&["completions", shell]);
        let Some(output) = run(shell, &arguments, &script) else {
            assert_ne!(shell, "bash", "every machine that builds this has one");
            continue;
        };
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{shell}: {output:?}"
        );
    }
}

#[test]
fn bash_completes_verbs_options_and_values() {
    let inbox = ["list", "show", "replay", "reverify", "prune"];
    let offered = completed(&["alipay-sidecar", "inbox", ""]);
    for verb in inbox {
        assert!(offered.contains(&verb.to_owned()), "{verb}: {offered:?}");
    }
    let offered = completed(&["alipay-sidecar", "inbox", "re"]);
    assert_eq!(offered, ["replay", "reverify"]);
    assert_eq!(completed(&["alipay-sidecar", "simul"]), ["simulator"]);
    let offered = completed(&["alipay-sidecar", "simulator", "--li"]);
    assert_eq!(offered, ["--listen-base"]);
    let offered = completed(&["alipay-sidecar", "merchant", "open-export", "--k"]);
    assert_eq!(offered, ["--key"]);
    let mut offered = completed(&["alipay-sidecar", "completions", ""]);
    offered.retain(|word| SHELLS.contains(&word.as_str()));
    assert_eq!(offered, SHELLS);
}

/// What `groff` says of a page; `None`: there is no groff.
fn complaints(page: &Path) -> Option<String> {
    let formatted = Command::new("groff")
        .args(["-K", "utf8", "-man", "-Tutf8", "-ww"])
        .arg(page)
        .output()
        .ok()?;
    assert!(!formatted.stdout.is_empty(), "{page:?}");
    Some(String::from_utf8_lossy(&formatted.stderr).into_owned())
}

#[test]
fn every_verb_has_its_page_and_groff_complains_of_none() {
    let directory = tempfile::tempdir().expect("a directory");
    let pages = directory.path().join("share/man/man1");
    let said = sidecar(&["man", "--dir", pages.to_str().expect("UTF-8")]);
    let names = paths().into_iter().map(|path| path.join("-"));
    let names = names.map(|name| format!("alipay-sidecar-{name}.1"));
    let mut expected: Vec<String> = names.chain(["alipay-sidecar.1".to_owned()]).collect();
    let entries = std::fs::read_dir(&pages).expect("made");
    let names = entries.map(|entry| entry.expect("readable").file_name());
    let mut written: Vec<String> = names
        .map(|name| name.into_string().expect("UTF-8"))
        .collect();
    expected.sort();
    written.sort();
    assert_eq!(written, expected);
    assert_eq!(said.lines().count(), written.len());
    for name in written {
        let page = pages.join(&name);
        let text = std::fs::read_to_string(&page).expect("written");
        assert!(
            text.contains(".SH NAME") && text.contains(".SH SYNOPSIS"),
            "{name}"
        );
        let examples = text.split(".SH EXAMPLES").nth(1);
        assert!(
            examples.is_some_and(|shown| shown.contains("sidecar")),
            "{name}"
        );
        check_references(&text, &pages);
        match complaints(&page) {
            Some(complaints) => assert_eq!(complaints, "", "{name}"),
            None => crate::support::skipped("there is no groff, so the manual pages weren't set"),
        }
    }
}

/// Each page that one refers to is there.
fn check_references(text: &str, pages: &Path) {
    let plain = text
        .replace("\\-", "-")
        .replace("\\fB", "")
        .replace("\\fR", "");
    for (at, _) in plain.match_indices("(1)") {
        let before = plain[..at].trim_end();
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '-';
        let name = before.rsplit(|c| !is_name(c)).next().expect("a name");
        assert!(pages.join(format!("{name}.1")).exists(), "{name}");
    }
}

#[test]
fn the_programs_page_goes_to_standard_output_and_tells_exit_codes() {
    let page = sidecar(&["man"]);
    assert!(page.contains(".TH alipay-sidecar 1") || page.contains(".TH \"alipay-sidecar\""));
    for told in [
        "EXIT STATUS",
        "78",
        "ENVIRONMENT",
        "FILES",
        "ALIPAY_SIDECAR_",
    ] {
        assert!(page.contains(told), "{told}");
    }
}
