//! `traceparent` in and out, whether or not a collector of traces is there: whose trace a call is in
//! stands in the log, Alipay isn't told, and each delivery is in the trace of its event. What a
//! collector gets is shown by `tests/otlp`.

use http::Request;

use crate::support::backend::{FakeBackend, Seen};
use crate::support::signed::Platform;
use crate::support::upstream::FakeAlipay;
use crate::support::{ALIAS, TestSidecar};

const TRACE_ID: &str = "0af7651916cd43dd8448eb211c80319c";

fn traceparent() -> String {
    format!("00-{TRACE_ID}-b7ad6b7169203331-01")
}

/// The trace and the span of a delivery, which may be recorded.
fn place(seen: &Seen) -> (String, String) {
    let header = seen.header("traceparent");
    let fields: Vec<_> = header.split('-').collect();
    let [version, trace_id, span_id, flags] = fields[..] else {
        panic!("{header:?} is no traceparent");
    };
    assert_eq!((version, trace_id.len(), span_id.len()), ("00", 32, 16));
    assert_eq!(flags, "01", "the backend may record it");
    assert_eq!(seen.header("tracestate"), "");
    (trace_id.to_owned(), span_id.to_owned())
}

async fn notify(sidecar: &TestSidecar, notify_id: &str) {
    let signed = Platform::new().payment(notify_id, notify_id);
    let request = Request::post("/alipay/notify/pay")
        .header("content-type", "application/x-www-form-urlencoded")
        .header("traceparent", traceparent());
    let reply = sidecar.webhook(request, signed.body).await;
    assert_eq!(reply.status, 200);
}

#[tokio::test]
async fn alipay_is_not_told_whose_trace_a_call_is_in() {
    let alipay = FakeAlipay::start().await;
    // It only remembers what came, which is all that counts here.
    let rest = FakeBackend::start().await;
    let sidecar = TestSidecar::start_with(|config| {
        config.upstream.gateway = Some(alipay.gateway());
        config.upstream.v3 = Some(rest.url(""));
    })
    .await;
    let mut sent = Vec::new();
    for path in ["/v2/alipay.trade.query", "/v3/alipay/trade/query"] {
        let request = Request::post(path)
            .header("alipay-merchant", ALIAS)
            .header("traceparent", traceparent())
            .header("tracestate", "congo=t61rcWkgMzE")
            .header("baggage", "tenant=7");
        sidecar.proxy(request, r#"{"out_trade_no":"1"}"#).await;
        sent.push(match path.starts_with("/v2") {
            true => format!("{:?}", alipay.next().await),
            false => format!("{:?}", rest.next().await),
        });
    }
    for sent in sent {
        for told in [TRACE_ID, "traceparent", "tracestate", "congo", "baggage"] {
            assert!(!sent.contains(told), "{told} in {sent}");
        }
    }
}

#[tokio::test]
async fn attempts_of_one_event_are_in_one_trace_and_events_in_their_own() {
    let sidecar = TestSidecar::start().await;
    sidecar.backend.answer_next(500, "fail");
    notify(&sidecar, "first").await;
    let (failed, taken) = (sidecar.backend.next().await, sidecar.backend.next().await);
    assert_eq!(
        failed.header("alipay-event-id"),
        taken.header("alipay-event-id")
    );
    assert_eq!(taken.header("alipay-delivery-attempt"), "2");
    let ((trace, span), (same_trace, other_span)) = (place(&failed), place(&taken));
    assert_eq!(trace, same_trace);
    assert_ne!(span, other_span);
    notify(&sidecar, "second").await;
    let (other_trace, _) = place(&sidecar.backend.next().await);
    assert_ne!(trace, other_trace);
    // Strangers reach the webhook: they don't choose whose trace a notification is in.
    assert!(![trace, other_trace].contains(&TRACE_ID.to_owned()));
}

#[cfg(feature = "cli")]
#[tokio::test(flavor = "multi_thread")]
async fn the_log_has_the_callers_trace_id_unless_it_is_none() {
    use crate::support::caller::{Caller, Keep};
    use crate::support::supervisor::Supervisor;

    let supervisor = Supervisor::start().await;
    let mut program = supervisor.run_first();
    let mut caller = Caller::new(&supervisor.proxy, Keep::Fresh);
    let bad = traceparent().to_uppercase();
    for (name, value) in [("good", traceparent()), ("bad", bad)] {
        let headers = format!(
            "Alipay-Merchant: 2021000000001001\r\nX-Request-Id: {name}\r\ntraceparent: {value}\r\n"
        );
        let path = "/v2/alipay.trade.query";
        let answered = caller
            .ask("POST", path, &headers, r#"{"out_trade_no":"1"}"#)
            .await;
        assert_eq!(answered.expect("an answer").status, 200, "{name}");
    }
    program.signal("TERM");
    assert_eq!(program.end(), Some(0));
    let log = supervisor.log();
    let line = |name: &str| {
        let named = format!("\"caller_request_id\":\"{name}\"");
        let line = log.lines().find(|line| line.contains(&named));
        let line = line.unwrap_or_else(|| panic!("{name} in\n{log}"));
        serde_json::from_str::<serde_json::Value>(line).expect("JSON")
    };
    assert_eq!(line("good")["w3c_trace_id"], TRACE_ID);
    assert_eq!(line("bad").get("w3c_trace_id"), None);
}
