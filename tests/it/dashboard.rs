//! The dashboard of `examples/deploy/grafana` shows metrics that exist, and every metric that the
//! contract promises is there after a little traffic.

use std::collections::BTreeSet;

use http::Method;
use serde_json::Value;

use crate::support::{TestSidecar, text};

const DASHBOARD: &str = include_str!("../../examples/deploy/grafana/dashboard.json");

/// What the contract promises, with its labels.
const PROMISED: [(&str, &[&str]); 13] = [
    ("requests_total", &["api", "method", "outcome"]),
    ("request_duration_seconds", &["api", "phase"]),
    ("in_flight_requests", &[]),
    ("notifications_total", &["kind", "outcome"]),
    ("inbox_pending", &[]),
    ("inbox_dead", &[]),
    ("inbox_oldest_seconds", &[]),
    ("delivery_attempts_total", &["outcome"]),
    ("token_refreshes_total", &["outcome"]),
    ("merchants", &["state"]),
    ("certificate_expiry_timestamp_seconds", &["kind"]),
    ("config_generation", &[]),
    ("build_info", &[]),
];

/// A scrape after a call, a notification, its delivery and a refresh, in certificate mode.
async fn scrape() -> String {
    let sidecar = TestSidecar::start_before(crate::certificates::certified).await;
    let query = r#"{"out_trade_no":"1"}"#;
    sidecar.post("/v2/alipay.trade.query", query).await;
    let timed_out = sidecar.simulator.time_out_tokens(None, None);
    timed_out.expect("a merchant");
    sidecar.post("/v2/alipay.trade.query", query).await;
    let event = alipay_sidecar::simulator::Event::OrderMessage;
    let triggered = sidecar.simulator.trigger(event, &Default::default()).await;
    triggered.expect("accepted");
    sidecar.backend.next().await;
    let taken = r#"alipay_sidecar_delivery_attempts_total{outcome="delivered"}"#;
    sidecar.wait_for_metric(taken, 1.0).await;
    text(&sidecar.admin(Method::GET, "/metrics", "").await)
}

/// Every metric of a scrape by its type's name.
fn shown(scrape: &str) -> BTreeSet<&str> {
    let types = scrape
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "));
    types.filter_map(|line| line.split(' ').next()).collect()
}

/// Every expression of the dashboard.
fn expressions<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
    match value {
        Value::Object(members) => {
            found.extend(members.get("expr").and_then(Value::as_str));
            found.extend(members.get("query").and_then(Value::as_str));
            members.values().for_each(|value| expressions(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| expressions(value, found)),
        _ => {}
    }
}

/// The metrics that an expression names, without the suffix of a histogram's parts.
fn metrics(expression: &str) -> Vec<&str> {
    let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let ours =
        words.filter(|word| word.starts_with("alipay_sidecar_") || word.starts_with("process_"));
    ours.map(|word| word.strip_suffix("_bucket").unwrap_or(word))
        .collect()
}

#[tokio::test]
async fn what_the_dashboard_shows_is_there_and_so_is_what_was_promised() {
    let scrape = scrape().await;
    let shown = shown(&scrape);
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("JSON");
    let mut found = Vec::new();
    expressions(&dashboard, &mut found);
    let named: BTreeSet<&str> = found
        .iter()
        .flat_map(|expression| metrics(expression))
        .collect();
    assert!(named.len() > 20, "{named:?}");
    let unknown: Vec<_> = named.difference(&shown).collect();
    assert!(
        unknown.is_empty(),
        "{unknown:?} of the dashboard aren't in {shown:?}"
    );
    for (name, labels) in PROMISED {
        let name = format!("alipay_sidecar_{name}");
        assert!(shown.contains(name.as_str()), "{name}");
        let mut series = scrape.lines().filter(|line| line.starts_with(&name));
        let line = series
            .next()
            .unwrap_or_else(|| panic!("{name} has no series"));
        for label in labels {
            assert!(line.contains(&format!("{label}=\"")), "{line}: {label}");
        }
    }
}

#[tokio::test]
async fn promtool_finds_nothing_to_mend_in_a_scrape() {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    let scrape = scrape().await;
    let started = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = started else {
        crate::support::skipped(
            "there is no promtool (Debian package prometheus), so a scrape wasn't checked",
        );
        return;
    };
    let mut input = promtool.stdin.take().expect("piped");
    input.write_all(scrape.as_bytes()).expect("written");
    drop(input);
    let said = promtool.wait_with_output().expect("ended");
    let text = [said.stdout, said.stderr].concat();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&text));
}

#[test]
fn every_panel_of_the_dashboard_has_its_own_id_and_a_word_on_it() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64()).collect();
    assert_eq!(ids.len(), panels.len());
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let description = panel["description"].as_str().unwrap_or_default();
        assert!(description.ends_with('.'), "{}", panel["title"]);
        let all = panel["targets"].as_array().expect("targets");
        let chosen = |target: &Value| {
            let expression = target["expr"].as_str().unwrap_or_default();
            expression.contains("instance=~\"$instance\"")
        };
        assert!(all.iter().all(chosen), "{}", panel["title"]);
    }
}
