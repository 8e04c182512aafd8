//! Every file of `tests/vectors/` is run whole, and the number of its cases is printed:
//! `cargo test vectors -- --nocapture`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::protocol::{self, file};
use crate::protocol_more;

/// How many cases of each file are tests. That each is the right one, the lists themselves hold.
fn run() -> BTreeMap<&'static str, usize> {
    let lists: [(&str, &[&[&str]]); 11] = [
        ("aes", &[protocol_more::aes::RUN]),
        (
            "cert-sn",
            &[protocol_more::cert_sn::RUN, protocol_more::chain_trust::RUN],
        ),
        ("keys", &[protocol::keys::RUN]),
        ("notify", &[protocol::notify::RUN]),
        ("page-and-sdk", &[protocol::page_and_sdk::RUN]),
        (
            "replies",
            &[
                protocol_more::xml::RUN,
                protocol_more::spi::RUN,
                protocol_more::client_data::RUN,
            ],
        ),
        ("v2-response", &[protocol::v2_response::RUN]),
        ("v2-sign", &[protocol::v2_sign::RUN]),
        ("v2-wire", &[protocol::v2_wire::RUN]),
        ("v3-request", &[protocol_more::v3_request::RUN]),
        ("v3-response", &[protocol_more::v3_response::RUN]),
    ];
    let counted = lists.map(|(name, lists)| (name, lists.iter().map(|list| list.len()).sum()));
    counted.into()
}

/// Every list and every set of keys of a file, wherever it stands in it.
fn held(name: &str) -> usize {
    let file = file(name);
    let lists = match &file["cases"] {
        Value::Object(lists) => lists.values().collect(),
        Value::Array(_) => vec![&file["cases"]],
        _ => Vec::new(),
    };
    let lists = lists.into_iter().chain([&file["chain_trust"]]);
    let cases: usize = lists.filter_map(Value::as_array).map(Vec::len).sum();
    cases + file["keys"].as_object().map_or(0, serde_json::Map::len)
}

fn files() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let entries = fs::read_dir(folder).expect("the vectors");
    let paths = entries.map(|entry| entry.expect("a file").path());
    let stem = |path: &Path| Some(path.file_stem()?.to_str()?.to_owned());
    let is_json = |path: &Path| path.extension().is_some_and(|end| end == "json");
    let mut names: Vec<_> = paths
        .filter(|path| is_json(path))
        .filter_map(|path| stem(&path))
        .collect();
    names.sort_unstable();
    names
}

#[test]
fn every_case_of_every_file_is_run_and_counted() {
    let run = run();
    assert_eq!(files(), run.keys().copied().collect::<Vec<_>>());
    for (name, count) in &run {
        assert_eq!(held(name), *count, "{name}");
    }
    let counts: Vec<_> = run
        .iter()
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    let total: usize = run.values().sum();
    println!("vectors: {}; total {total}, all run", counts.join(", "));
}
