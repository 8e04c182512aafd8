//! The table of what the SDKs themselves get wrong (`tests/interop/README.md`) is that of the
//! vectors: each case where one of them differs from what is right, and no other.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::protocol::{file, text};

/// The begin of a row, and which SDKs do what.
type Rows = BTreeMap<(String, String), (String, Vec<String>)>;

fn cases(name: &str) -> Vec<Value> {
    file(name)["cases"].as_array().expect("cases").clone()
}

fn put(rows: &mut Rows, (name, case): (&str, &Value), right: &str, wrong: Vec<String>) {
    if !wrong.is_empty() {
        let key = (name.to_owned(), text(case, "id").to_owned());
        rows.insert(key, (right.to_owned(), wrong));
    }
}

fn replies(rows: &mut Rows) {
    let sdks = [
        ("npm_official", "Node"),
        ("java_official", "Java"),
        ("python_official", "Python"),
        ("python_fzlee", "python-alipay-sdk"),
    ];
    for case in cases("v2-response") {
        let expected = &case["expect"];
        let right = match text(expected, "outcome") {
            "verified" => "verified",
            "unsigned" if expected["must_reject"] != true => "an unsigned error",
            _ => "refused",
        };
        let does = |said: &str| match (right, said) {
            (_, "n/a") => Some("can't"),
            ("verified", "rejected" | "no-signed-content") => Some("refuses"),
            ("an unsigned error", "rejected") => Some("refuses"),
            ("refused", "verified") => Some("accepts"),
            _ => None,
        };
        let wrong = sdks.iter().filter_map(|(key, name)| {
            let said = case["sdk_verdicts"][*key].as_str()?;
            does(said).map(|does| format!("{name} {does}"))
        });
        put(rows, ("v2-response", &case), right, wrong.collect());
    }
}

fn notifications(rows: &mut Rows) {
    for case in cases("notify") {
        let expected = &case["expect"];
        let Some(is_valid) = expected["valid"].as_bool() else {
            // Accepting is allowed, refusing too.
            continue;
        };
        let java = match expected["scheme"].as_str() {
            Some("v2") => "java_rsaCheckV2",
            _ => "java_rsaCheckV1",
        };
        let sdks = [
            (java, "Java"),
            ("npm_checkNotifySignV2", "Node"),
            ("npm_checkNotifySign", "Node `checkNotifySign`"),
            ("python_fzlee", "python-alipay-sdk"),
        ];
        let wrong = sdks.iter().filter_map(|(key, name)| {
            let accepts = case["sdk_verdicts"][*key].as_str()? == "true";
            let does = if accepts { "accepts" } else { "refuses" };
            (accepts != is_valid).then(|| format!("{name} {does}"))
        });
        let right = if is_valid { "verified" } else { "refused" };
        put(rows, ("notify", &case), right, wrong.collect());
    }
}

fn v3_responses(rows: &mut Rows) {
    for case in cases("v3-response") {
        let accepts = text(&case, "npm_verdict").starts_with("accepted");
        let is_valid = case["expect"]["valid"] != false;
        let does = match (accepts, is_valid) {
            (true, false) => "accepts",
            (false, true) if case["expect"]["is_error"] == true => "doesn't verify",
            (false, true) => "refuses",
            _ => continue,
        };
        let right = if is_valid { "verified" } else { "refused" };
        put(
            rows,
            ("v3-response", &case),
            right,
            vec![format!("Node {does}")],
        );
    }
}

fn serial_numbers(rows: &mut Rows) {
    let sdks = [
        ("java_easysdk", "EasySDK"),
        ("npm_official", "Node"),
        ("python_fzlee", "python-alipay-sdk"),
    ];
    for case in cases("cert-sn") {
        let results = &case["sdk_results"];
        let differs = |key: &&(&str, &str)| results[key.0] != case["expected_sn"];
        let wrong = sdks.iter().filter(differs);
        let wrong = wrong.map(|(_, name)| format!("{name} gives another"));
        put(
            rows,
            ("cert-sn", &case),
            "the serial number",
            wrong.collect(),
        );
    }
}

#[test]
fn the_table_of_what_sdks_get_wrong_is_that_of_the_vectors() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop");
    if !folder.exists() {
        // A published crate comes without it.
        return;
    }
    let mut rows = Rows::new();
    replies(&mut rows);
    notifications(&mut rows);
    v3_responses(&mut rows);
    serial_numbers(&mut rows);
    let readme = std::fs::read_to_string(folder.join("README.md")).expect("the table");
    let is_row = |line: &&str| line.starts_with("| `");
    for ((file, case), (right, wrong)) in &rows {
        let start = format!("| `{file}` | `{case}` | {right} | {} |", wrong.join(", "));
        let found = readme.lines().any(|line| line.starts_with(&start));
        assert!(found, "no row that begins with\n{start}");
    }
    assert_eq!(readme.lines().filter(is_row).count(), rows.len());
}
