//! The alerts of `examples/deploy/prometheus` watch metrics that exist. What they fire on `promtool`
//! checks: `.ci/alerts`.

use std::collections::BTreeSet;

use crate::support::{TestSidecar, scrape};

const ALERTS: &str = include_str!("../../examples/deploy/prometheus/alerts.yml");
const TESTS: &str = include_str!("../../examples/deploy/prometheus/alerts_test.yml");

/// Every metric of ours that `text` names.
fn metrics(text: &str) -> BTreeSet<&str> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices("alipay_sidecar_")
        .map(|(at, _)| text[at..].split(|c| !is_name(c)).next().unwrap_or_default())
        .collect()
}

fn alerts() -> Vec<&'static str> {
    let lines = ALERTS.lines().map(str::trim);
    lines
        .filter_map(|line| line.strip_prefix("- alert: "))
        .collect()
}

#[tokio::test]
async fn every_metric_that_an_alert_watches_is_shown_by_a_running_sidecar() {
    let shown = scrape().await;
    let shown: BTreeSet<&str> = shown
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    let watched = metrics(ALERTS);
    assert!(watched.len() > 10, "{watched:?}");
    let unknown: Vec<_> = watched.difference(&shown).collect();
    assert!(
        unknown.is_empty(),
        "{unknown:?} of the alerts aren't in /metrics: {shown:?}"
    );
}

#[test]
fn every_alert_is_tested_and_says_what_to_do() {
    let alerts = alerts();
    let different: BTreeSet<_> = alerts.iter().collect();
    assert_eq!(alerts.len(), different.len());
    for alert in &alerts {
        assert!(
            TESTS.contains(&format!("alertname=\"{alert}\"")),
            "{alert} has no test"
        );
    }
    for part in ["severity: ", "summary: ", "description: "] {
        assert_eq!(ALERTS.matches(part).count(), alerts.len(), "{part}");
    }
}

#[tokio::test]
async fn what_alipay_refuses_for_its_signature_is_counted() {
    use alipay_sidecar::simulator::{Fault, FaultKind};
    let sidecar = TestSidecar::start().await;
    let series = r#"alipay_sidecar_signature_refusals_total{reason="invalid-signature"}"#;
    assert!((sidecar.metric(series).await).abs() < f64::EPSILON);
    sidecar
        .simulator
        .fault(Fault::once(FaultKind::InvalidSignature));
    sidecar
        .post("/v2/alipay.trade.query", r#"{"out_trade_no":"1"}"#)
        .await;
    assert!((sidecar.metric(series).await - 1.0).abs() < f64::EPSILON);
    assert!((sidecar.metric("alipay_sidecar_ready").await - 1.0).abs() < f64::EPSILON);
    let full = sidecar.metric("alipay_sidecar_inbox_high_water").await;
    assert!((full - 1_000_000.0).abs() < f64::EPSILON, "{full}");
}
