//! What a caller gets when Alipay, or the way to it, misbehaves; what is sent again and what never.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use alipay_sidecar::model::id::Alias;
use alipay_sidecar::model::merchant::Merchant;
use alipay_sidecar::simulator::{Fault, FaultKind};
use alipay_sidecar::store::MerchantKey;
use http::{Method, Request};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::proxy::watched;
use crate::support::raw;
use crate::support::upstream::{Answer, SUCCESS};
use crate::support::{ALIAS, PATIENCE, TestSidecar, header, json, text};

const ORDER: &str = r#"{"out_trade_no":"f1","total_amount":"1.00","subject":"x","auth_code":"28","scene":"bar_code"}"#;

/// Plays `kind` on a call of `method` on both routes: it never reaches the caller as good.
async fn check_fault(kind: FaultKind, method: &str, code: &str, status: u16) {
    let sidecar = TestSidecar::start().await;
    sidecar.simulator.answer(method, SUCCESS);
    for path in [
        format!("/v2/{method}"),
        format!("/gateway.do?method={method}"),
    ] {
        let is_v2 = path.starts_with("/v2");
        sidecar.simulator.fault(Fault::once(kind));
        let body = if is_v2 { ORDER } else { "" };
        let request = Request::builder()
            .method(Method::POST)
            .uri(&path)
            .header("alipay-merchant", ALIAS)
            .header("alipay-timeout", "1500ms");
        let reply = sidecar.proxy(request, body).await;
        assert_eq!(
            header(&reply, "alipay-sidecar-error"),
            code,
            "{kind:?} {path}: {}",
            text(&reply)
        );
        assert_eq!(
            header(&reply, "alipay-sidecar-outcome"),
            "unknown",
            "{kind:?} {path}"
        );
        assert_eq!(
            header(&reply, "alipay-sidecar-verified"),
            "",
            "{kind:?} {path}"
        );
        assert_eq!(reply.status.as_u16(), if is_v2 { status } else { 200 });
        assert!(
            !text(&reply).contains("10000"),
            "nothing of the reply: {}",
            text(&reply)
        );
    }
    assert_eq!(
        sidecar.simulator.requests().len(),
        2,
        "{kind:?}: no call was sent again"
    );
}

#[tokio::test]
async fn a_reply_that_does_not_verify_never_passes() {
    for (kind, code) in [
        (FaultKind::Tampered, "response-signature-invalid"),
        (FaultKind::TamperedSign, "response-signature-invalid"),
        (FaultKind::Unsigned, "response-signature-invalid"),
        (FaultKind::DuplicateNode, "response-signature-invalid"),
        (FaultKind::WrongRoot, "upstream-invalid"),
        (FaultKind::Html, "upstream-invalid"),
    ] {
        check_fault(kind, "alipay.trade.pay", code, 502).await;
        check_fault(kind, "alipay.trade.query", code, 502).await;
    }
}

#[tokio::test]
async fn an_oversized_reply_is_cut_off() {
    check_fault(
        FaultKind::Oversized,
        "alipay.trade.pay",
        "upstream-invalid",
        502,
    )
    .await;
}

#[tokio::test]
async fn an_endless_reply_is_given_up() {
    check_fault(
        FaultKind::Endless,
        "alipay.trade.pay",
        "upstream-invalid",
        502,
    )
    .await;
}

#[tokio::test]
async fn success_without_a_signature_is_refused_in_every_disguise() {
    let (alipay, sidecar) = watched().await;
    for body in [
        r#"{"alipay_trade_query_response":{"code":"10000"}}"#,
        r#"{"alipay_trade_query_response":{"code":"10003"},"sign":""}"#,
        r#"{"alipay_trade_query_response":{"trade_no":"1"},"sign":null}"#,
        r#"{"error_response":{"code":"10000","msg":"Success"}}"#,
        r#"{"error_response":{"msg":"no code"}}"#,
    ] {
        alipay.answer(Answer::Body(200, body.to_owned()));
        let reply = sidecar.post("/v2/alipay.trade.query", "{}").await;
        assert_eq!(
            header(&reply, "alipay-sidecar-error"),
            "response-signature-invalid",
            "{body}"
        );
    }
}

#[tokio::test]
async fn an_unsigned_error_passes_marked() {
    let (alipay, sidecar) = watched().await;
    let node = r#"{"code":"40002","msg":"Invalid Arguments","sub_code":"isv.invalid-app-id"}"#;
    let whole = format!(r#"{{"error_response":{node}}}"#);
    for (path, expected) in [
        ("/v2/alipay.trade.query", node),
        ("/gateway.do?method=alipay.trade.query", whole.as_str()),
    ] {
        alipay.answer(Answer::Body(200, whole.clone()));
        let reply = sidecar.post(path, "").await;
        assert_eq!(
            (reply.status.as_u16(), text(&reply).as_str()),
            (200, expected)
        );
        assert_eq!(header(&reply, "alipay-sidecar-verified"), "unsigned-error");
    }
}

#[tokio::test]
async fn a_payment_whose_outcome_is_unknown_is_never_sent_again() {
    let sidecar = TestSidecar::start().await;
    sidecar.simulator.fault(Fault::once(FaultKind::Reset));
    let reply = sidecar.post("/v2/alipay.trade.pay", ORDER).await;
    assert_eq!(
        header(&reply, "alipay-sidecar-error"),
        "upstream-unreachable"
    );
    let problem = json(&reply);
    assert_eq!(
        (&problem["outcome"], &problem["retryable"]),
        (&"unknown".into(), &false.into())
    );
    assert_eq!(sidecar.simulator.requests().len(), 1);
    let found = sidecar
        .post("/v2/alipay.trade.query", r#"{"out_trade_no":"f1"}"#)
        .await;
    assert_eq!(
        json(&found)["trade_status"],
        "TRADE_SUCCESS",
        "it had been executed"
    );
}

#[tokio::test]
async fn a_pure_query_is_tried_three_times_in_all() {
    for (resets, sent, code) in [(1, 2, ""), (2, 3, ""), (3, 3, "upstream-unreachable")] {
        let sidecar = TestSidecar::start().await;
        sidecar
            .simulator
            .fault(Fault::once(FaultKind::Reset).times(resets));
        let reply = sidecar
            .post("/v2/alipay.trade.query", r#"{"out_trade_no":"1"}"#)
            .await;
        assert_eq!(
            header(&reply, "alipay-sidecar-error"),
            code,
            "{resets} resets"
        );
        assert_eq!(sidecar.simulator.requests().len(), sent, "{resets} resets");
        if !code.is_empty() {
            assert_eq!(json(&reply)["retryable"], true);
            assert_eq!(json(&reply)["outcome"], "unknown");
        }
    }
}

#[tokio::test]
async fn a_query_by_get_is_tried_three_times_in_all() {
    for (resets, sent, code) in [(1, 2, ""), (2, 3, ""), (3, 3, "upstream-unreachable")] {
        let sidecar = TestSidecar::start().await;
        let reset = Fault::once(FaultKind::Reset).times(resets);
        sidecar.simulator.fault(reset);
        // Its name doesn't say that it is one.
        let request = Request::get("/v3/alipay/trade/orders/1");
        let reply = sidecar
            .proxy(request.header("alipay-merchant", ALIAS), "")
            .await;
        let error = header(&reply, "alipay-sidecar-error");
        assert_eq!(error, code, "{resets} resets: {}", text(&reply));
        assert_eq!(sidecar.simulator.requests().len(), sent, "{resets} resets");
    }
}

/// An Alipay of v3 that closes each connection unanswered, and the heads that came.
pub(crate) async fn broken_alipay() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let heads = Arc::new(Mutex::new(Vec::new()));
    let came = Arc::clone(&heads);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n")
                && stream.read_buf(&mut head).await.is_ok_and(|n| n > 0)
            {}
            let head = String::from_utf8_lossy(&head).into_owned();
            came.lock().expect("no panic").push(head);
        }
    });
    (url, heads)
}

#[tokio::test]
async fn each_try_of_a_query_by_get_is_signed_under_a_nonce_of_its_own() {
    let (url, heads) = broken_alipay().await;
    let sidecar = TestSidecar::start_with(|config| config.upstream.v3 = Some(url)).await;
    let request = Request::get("/v3/alipay/trade/query?out_trade_no=1");
    let reply = sidecar
        .proxy(request.header("alipay-merchant", ALIAS), "")
        .await;
    assert_eq!(
        header(&reply, "alipay-sidecar-error"),
        "upstream-unreachable"
    );
    let heads = heads.lock().expect("no panic");
    let part = |name: &str| -> BTreeSet<&str> {
        let rests = heads.iter().filter_map(|head| head.split_once(name));
        rests
            .map(|(_, rest)| rest.split([',', '\r']).next().unwrap_or_default())
            .collect()
    };
    let (nonces, signs) = (part(",nonce="), part(",sign="));
    assert_eq!((heads.len(), nonces.len(), signs.len()), (3, 3, 3));
}

#[tokio::test]
async fn a_timed_out_token_is_refreshed_once_and_the_call_sent_again() {
    let sidecar = TestSidecar::start().await;
    sidecar
        .simulator
        .time_out_tokens(None, None)
        .expect("one merchant");
    let reply = sidecar.post("/v2/alipay.trade.pay", ORDER).await;
    assert_eq!(header(&reply, "alipay-code"), "10000", "{}", text(&reply));
    let methods: Vec<_> = sidecar
        .simulator
        .requests()
        .into_iter()
        .map(|r| r.method)
        .collect();
    assert_eq!(
        methods,
        [
            "alipay.trade.pay",
            "alipay.open.auth.token.app",
            "alipay.trade.pay"
        ]
    );
    let again = sidecar
        .post("/v2/alipay.trade.query", r#"{"out_trade_no":"f1"}"#)
        .await;
    assert_eq!(
        header(&again, "alipay-code"),
        "10000",
        "the new token was stored"
    );
    let series = r#"alipay_sidecar_token_refreshes_total{outcome="refreshed"}"#;
    assert_eq!(sidecar.metric(series).await, 1.0);
}

#[tokio::test]
async fn a_call_that_times_out_again_after_its_refresh_is_passed_on() {
    let sidecar = TestSidecar::start().await;
    sidecar.simulator.fault(
        Fault::once(FaultKind::TokenTimeout)
            .times(9)
            .on("alipay.trade.pay"),
    );
    let reply = sidecar.post("/v2/alipay.trade.pay", ORDER).await;
    assert_eq!(
        header(&reply, "alipay-sub-code"),
        "aop.app-auth-token-time-out"
    );
    assert_eq!(sidecar.simulator.requests().len(), 3, "call, refresh, call");
}

#[tokio::test]
async fn callers_at_once_share_one_refresh() {
    let sidecar = TestSidecar::start().await;
    sidecar
        .simulator
        .time_out_tokens(None, None)
        .expect("one merchant");
    let query = || sidecar.post("/v2/alipay.trade.query", r#"{"out_trade_no":"1"}"#);
    let replies = tokio::join!(query(), query(), query(), query());
    for reply in [replies.0, replies.1, replies.2, replies.3] {
        assert_eq!(
            header(&reply, "alipay-sub-code"),
            "ACQ.TRADE_NOT_EXIST",
            "{}",
            text(&reply)
        );
    }
    let requests = sidecar.simulator.requests();
    let refreshes = requests
        .iter()
        .filter(|r| r.method == "alipay.open.auth.token.app")
        .count();
    assert_eq!(refreshes, 1);
}

#[tokio::test]
async fn a_call_whose_caller_has_gone_is_finished_and_counted() {
    let (alipay, sidecar) = watched().await;
    alipay.answer(Answer::Held);
    let request = format!(
        "POST /v2/alipay.trade.pay HTTP/1.1\r\nHost: localhost\r\nAlipay-Merchant: {ALIAS}\r\nContent-Length: {}\r\n\r\n{ORDER}",
        ORDER.len()
    );
    let caller = raw::open(&sidecar.proxy, request.as_bytes()).await;
    assert_eq!(alipay.next().await.param("biz_content"), ORDER);
    caller.set_zero_linger().expect("a socket");
    drop(caller);
    alipay.release();
    let series =
        r#"alipay_sidecar_requests_total{api="v2",method="alipay.trade.pay",outcome="ok"}"#;
    sidecar.wait_for_metric(series, 1.0).await;
    sidecar
        .wait_for_metric("alipay_sidecar_in_flight_requests", 0.0)
        .await;
    assert!(alipay.is_quiet().await, "it was made once");
}

#[tokio::test]
async fn a_caller_that_sends_half_a_body_makes_no_call() {
    let (alipay, sidecar) = watched().await;
    let request = format!(
        "POST /v2/alipay.trade.pay HTTP/1.1\r\nHost: localhost\r\nAlipay-Merchant: {ALIAS}\r\nContent-Length: {}\r\n\r\n{{}}",
        ORDER.len()
    );
    drop(raw::open(&sidecar.proxy, request.as_bytes()).await);
    let series = r#"alipay_sidecar_requests_total{api="v2",method="alipay.trade.pay",outcome="body-invalid"}"#;
    sidecar.wait_for_metric(series, 1.0).await;
    assert!(alipay.is_quiet().await);
}

#[tokio::test]
async fn a_deadline_of_one_call_only_ever_shortens() {
    let (alipay, sidecar) = watched().await;
    alipay.answer(Answer::Held);
    let request = |timeout: &str| {
        Request::builder()
            .method(Method::POST)
            .uri("/v2/alipay.trade.pay")
            .header("alipay-merchant", ALIAS)
            .header("alipay-timeout", timeout)
    };
    let reply = sidecar.proxy(request("1s"), ORDER).await;
    assert_eq!(header(&reply, "alipay-sidecar-error"), "upstream-timeout");
    assert_eq!(header(&reply, "alipay-sidecar-outcome"), "unknown");
    alipay.release();
    let reply = sidecar.proxy(request("18446744073709551615s"), ORDER).await;
    assert_eq!(text(&reply), SUCCESS);
}

#[tokio::test]
async fn tokens_come_home_however_short_their_callers_deadline_was() {
    for path in [
        "/v2/alipay.open.auth.token.app",
        "/v3/alipay/open/auth/token/app",
    ] {
        let sidecar = TestSidecar::start().await;
        let before = stored(&sidecar).await;
        let refresh_token = before.token.app_refresh_token.as_ref().expect("one");
        let body = serde_json::json!({
            "grant_type": "refresh_token",
            "refresh_token": refresh_token.expose(),
        });
        let slow = Fault::once(FaultKind::Slow).delay(Duration::from_secs(3));
        sidecar
            .simulator
            .fault(slow.on("alipay.open.auth.token.app"));
        let request = Request::post(path)
            .header("content-type", "application/json")
            .header("alipay-timeout", "1s");
        let reply = sidecar.proxy(request, body.to_string()).await;
        assert_eq!(header(&reply, "alipay-sidecar-error"), "upstream-timeout");
        assert_eq!(header(&reply, "alipay-sidecar-outcome"), "unknown");
        assert!(text(&reply).contains("are stored"), "{}", text(&reply));
        let renewed = async {
            while stored(&sidecar).await.token.app_auth_token == before.token.app_auth_token {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let renewed = tokio::time::timeout(PATIENCE, renewed).await;
        renewed.expect("the new pair is stored");
        assert_eq!(sidecar.simulator.requests().len(), 1, "{path}");
    }
}

async fn stored(sidecar: &TestSidecar) -> Merchant {
    let alias = MerchantKey::Alias(Alias::new(ALIAS).expect("an alias"));
    let found = sidecar.sidecar.store().find(alias).await.expect("readable");
    found.into_iter().next().expect("stored")
}

#[tokio::test]
async fn what_does_not_fit_a_url_is_the_callers_fault() {
    let sidecar = TestSidecar::start().await;
    let long = format!("https://shop.example/{}", "y".repeat(65_200));
    let path = format!("/v2/alipay.trade.pay?return_url={long}");
    for (reply, status) in [
        (sidecar.post(&path[..65_000], ORDER).await, 400),
        (
            sidecar
                .proxy(
                    Request::post("/gateway.do")
                        .header("alipay-merchant", ALIAS)
                        .header("content-type", "application/x-www-form-urlencoded"),
                    format!("method=alipay.trade.pay&return_url={long}"),
                )
                .await,
            200,
        ),
    ] {
        assert_eq!(reply.status, status);
        assert_eq!(header(&reply, "alipay-sidecar-error"), "parameter-invalid");
        assert_eq!(header(&reply, "alipay-sidecar-outcome"), "not-sent");
    }
    assert!(sidecar.simulator.requests().is_empty());
}

#[tokio::test]
async fn a_post_without_a_body_says_so() {
    let (alipay, sidecar) = watched().await;
    sidecar.post("/v2/alipay.x.nobiz", "").await;
    assert_eq!(alipay.next().await.headers["content-length"], "0");
}

#[tokio::test]
async fn a_drain_lets_open_calls_end() {
    let (alipay, sidecar) = watched().await;
    alipay.answer(Answer::Held);
    let open = sidecar.post("/v2/alipay.trade.pay", ORDER);
    let ending = async {
        alipay.next().await;
        sidecar.stop();
        let draining = async {
            while sidecar.admin(Method::GET, "/readyz", "").await.status != 503 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        draining.await;
        alipay.release();
    };
    let (reply, ()) = tokio::join!(open, ending);
    assert_eq!(text(&reply), SUCCESS);
}

#[tokio::test]
async fn what_is_no_http_is_not_alipay_and_a_reply_that_stops_is_late() {
    for (said, error, status) in [
        ("SSH-2.0-x\r\n", "upstream-invalid", 502),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{",
            "upstream-timeout",
            504,
        ),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0");
        let listener = listener.await.expect("a port");
        let gateway = format!(
            "http://{}/gateway.do",
            listener.local_addr().expect("bound")
        );
        let sidecar = TestSidecar::start_with(|config| {
            config.upstream.gateway = Some(gateway);
            config.upstream.timeout = Duration::from_millis(500);
        })
        .await;
        let asked = tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 1 << 10];
                let read = stream.read(&mut request).await;
                assert!(read.expect("a request") > 0);
                stream.write_all(said.as_bytes()).await.expect("taken");
                held.push(stream);
                if held.len() > 1 {
                    break;
                }
            }
        });
        // A query, which is tried again where nobody was reached.
        let reply = sidecar.post("/v2/alipay.trade.query", ORDER).await;
        assert_eq!(header(&reply, "alipay-sidecar-error"), error);
        assert_eq!(reply.status, status);
        assert_eq!(header(&reply, "alipay-sidecar-outcome"), "unknown");
        assert!(!asked.is_finished(), "it was asked again");
        asked.abort();
    }
}
