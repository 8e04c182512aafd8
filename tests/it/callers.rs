//! Who calls, and how each proves it: contract §9, through the front door.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use alipay_sidecar::clock::{Clock as _, SystemClock};
use alipay_sidecar::config::caller::{CallerConfig, CallerIdentity, CallerMode};
use alipay_sidecar::config::listen::Listen;
use alipay_sidecar::config::token::UnknownToken;
use alipay_sidecar::model::id::AuthAppId;
use alipay_sidecar::net::client::Reply;
use alipay_sidecar::net::listener::Listener;
use alipay_sidecar::net::serve::serve;
use alipay_sidecar::net::shutdown::Shutdown;
use alipay_sidecar::protocol::cert::Bundle;
use alipay_sidecar::simulator::{DEFAULT_APP_ID, FIRST_AUTH_APP_ID, SECOND_AUTH_APP_ID};
use alipay_sidecar::store::Change;
use bytes::Bytes;
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tower_service::Service;

use crate::certificates::certified;
use crate::store::{START, entry};
use crate::support::brittle::BrittleStore;
use crate::support::callers::{
    bearer, caller, for_merchants, for_methods, signed_form, v3_authorization, with_key, with_token,
};
use crate::support::{ALIAS, PATIENCE, TestSidecar, header, json, text};

const QUERY: &str = "/v2/alipay.trade.query";
const QUERY_V3: &str = "/v3/alipay/trade/query";
const ORDER: &str = r#"{"out_trade_no":"1"}"#;
/// What refuses a merchant, whether there is one or not.
const NOT_YOURS: &str = "this caller may not call for whom the request names; its `merchants` would \
                         have to name it (`*` doesn't stand for `self`)";

async fn start(callers: Vec<CallerConfig>) -> TestSidecar {
    TestSidecar::start_with(|config| config.callers = callers).await
}

/// Sends one request with these headers.
async fn send(
    sidecar: &TestSidecar,
    (method, path): (&str, &str),
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Reply {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    sidecar.proxy(request, body).await
}

/// Sends one query for the known merchant with this `Authorization`.
async fn ask(sidecar: &TestSidecar, authorization: &str) -> Reply {
    let headers = [("authorization", authorization), ("alipay-merchant", ALIAS)];
    send(sidecar, ("POST", QUERY), &headers, ORDER).await
}

/// What it was answered: a code of ours, or `passed`.
fn said(reply: &Reply) -> &str {
    match header(reply, "alipay-sidecar-error") {
        "" => "passed",
        code => code,
    }
}

fn check(sidecar: &TestSidecar, reply: &Reply, expected: &str, arrived: usize) {
    assert_eq!(said(reply), expected, "{}", text(reply));
    assert_eq!(
        sidecar.simulator.requests().len(),
        arrived,
        "{}",
        text(reply)
    );
}

#[tokio::test]
async fn without_callers_anyone_calls_whatever_credentials_they_send() {
    let sidecar = start(Vec::new()).await;
    for (n, authorization) in ["Bearer x", "Basic eDp5", "rubbish"].iter().enumerate() {
        let reply = ask(&sidecar, authorization).await;
        check(&sidecar, &reply, "passed", n + 1);
    }
}

#[tokio::test]
async fn a_method_of_v3_is_its_path_without_the_query() {
    let sidecar = start(vec![for_methods(with_token("shop"), &[QUERY_V3])]).await;
    let authorization = bearer("shop");
    let headers = [
        ("authorization", &*authorization),
        ("alipay-merchant", ALIAS),
    ];
    for (path, expected) in [
        (QUERY_V3, "passed"),
        ("/v3/alipay/trade/query?a=b", "passed"),
        ("/v3/alipay/trade/create", "caller-forbidden"),
        (
            "/v3/alipay/trade/create?/v3/alipay/trade/query",
            "caller-forbidden",
        ),
    ] {
        let reply = send(&sidecar, ("POST", path), &headers, ORDER).await;
        assert_eq!(said(&reply), expected, "{path}: {}", text(&reply));
    }
}

#[tokio::test]
async fn a_bearer_token_says_who_calls_and_goes_no_further() {
    let sidecar = start(vec![with_token("shop"), with_token("other")]).await;
    let reply = ask(&sidecar, &bearer("shop")).await;
    check(&sidecar, &reply, "passed", 1);
    let reply = ask(&sidecar, &bearer("shop").replace("Bearer", "bEARER")).await;
    check(&sidecar, &reply, "passed", 2);
    for wrong in [
        "Bearer shop-toke",
        "Bearer shop-token2",
        "Bearer SHOP-TOKEN",
        "Bearer ",
        "Bearer",
        "Bearer shop-token, Bearer other-token",
        "Bearer shop-token other-token",
        "Basic c2hvcC10b2tlbg==",
        "shop-token",
        "",
    ] {
        let reply = ask(&sidecar, wrong).await;
        check(&sidecar, &reply, "caller-unauthenticated", 2);
        assert_eq!(reply.status, 401);
        assert_eq!(header(&reply, "www-authenticate"), "Bearer");
        assert!(!text(&reply).contains("shop"), "{}", text(&reply));
    }
    for headers in [
        &[("alipay-merchant", ALIAS)][..],
        &[
            ("authorization", "Bearer shop-token"),
            ("authorization", "Bearer shop-token"),
        ],
    ] {
        let reply = send(&sidecar, ("POST", QUERY), headers, ORDER).await;
        check(&sidecar, &reply, "caller-unauthenticated", 2);
    }
    let refused =
        r#"alipay_sidecar_requests_total{api="v2",method="none",outcome="caller-unauthenticated"}"#;
    assert!((sidecar.metric(refused).await - 12.0).abs() < f64::EPSILON);
}

#[tokio::test]
async fn every_route_wants_a_caller_and_answers_in_its_own_shape() {
    let sidecar = start(vec![with_token("shop")]).await;
    for (method, path) in [
        ("POST", QUERY),
        ("POST", "/v2/alipay.trade.pay/order-string"),
        ("POST", "/v2/client-data/decrypt"),
        ("POST", "/verify/return"),
        ("POST", "/verify/app-result"),
        ("POST", "/events/claim"),
        ("GET", "/calls/017f22e2-79b0-7cc3-98c4-dc0c0c07398f"),
        ("POST", QUERY_V3),
        ("GET", "/nowhere"),
    ] {
        let reply = send(&sidecar, (method, path), &[("alipay-merchant", ALIAS)], "").await;
        check(&sidecar, &reply, "caller-unauthenticated", 0);
        assert_eq!(reply.status, 401, "{path}");
        assert_eq!(header(&reply, "www-authenticate"), "Bearer", "{path}");
    }
    let reply = send(
        &sidecar,
        ("POST", "/gateway.do"),
        &[],
        "method=alipay.trade.query",
    )
    .await;
    check(&sidecar, &reply, "caller-unauthenticated", 0);
    assert_eq!(reply.status, 200);
    let node = &json(&reply)["error_response"];
    assert_eq!(node["code"], "40002");
    assert_eq!(node["sub_code"], "sidecar.caller-unauthenticated");
}

#[tokio::test]
async fn a_bearer_token_opens_the_front_door_and_a_wrong_one_does_not() {
    let sidecar = start(vec![with_token("shop")]).await;
    for (n, foreign) in [
        ("host", "sidecar.example"),
        ("origin", "https://shop.example"),
        ("sec-fetch-site", "cross-site"),
    ]
    .into_iter()
    .enumerate()
    {
        let tag = ("alipay-merchant", ALIAS);
        let (good, wrong) = (bearer("shop"), bearer("shop2"));
        let with = |token| [("authorization", token), tag, foreign];
        let reply = send(&sidecar, ("POST", QUERY), &with(&good), ORDER).await;
        check(&sidecar, &reply, "passed", n + 1);
        let reply = send(&sidecar, ("POST", QUERY), &with(&wrong), ORDER).await;
        check(&sidecar, &reply, "browser-refused", n + 1);
        let reply = send(&sidecar, ("POST", QUERY), &[tag, foreign], ORDER).await;
        check(&sidecar, &reply, "browser-refused", n + 1);
    }
}

/// The same sidecar on a unix socket; gives its path.
pub async fn on_unix_socket(
    sidecar: &TestSidecar,
    folder: &tempfile::TempDir,
) -> std::path::PathBuf {
    let path = folder.path().join("proxy.sock");
    let listener = Listener::bind(&Listen::Unix(path.clone())).await;
    let service = sidecar.sidecar.proxy_service();
    let handle = move |request| {
        let mut service = service.clone();
        async move { service.call(request).await.expect("an answer") }
    };
    let (trigger, shutdown) = Shutdown::new();
    tokio::spawn(async move {
        let _trigger = trigger;
        serve(listener.expect("a socket"), None, handle, shutdown).await;
    });
    path
}

async fn ask_unix(path: &std::path::Path, headers: &str) -> String {
    let mut stream = UnixStream::connect(path).await.expect("a connection");
    let length = ORDER.len();
    let request = format!(
        "POST {QUERY} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\
         Alipay-Merchant: {ALIAS}\r\n{headers}\r\n{ORDER}"
    );
    stream.write_all(request.as_bytes()).await.expect("written");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("an answer");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let code = answer
        .lines()
        .find_map(|line| line.strip_prefix("alipay-sidecar-error: "));
    code.unwrap_or("passed").to_owned()
}

#[tokio::test]
async fn a_uid_says_who_calls_on_a_unix_socket_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let own = std::fs::metadata(folder.path()).expect("a folder").uid();
    let me = caller("me", CallerIdentity::Uid(own));
    let sidecar = start(vec![me, with_token("shop")]).await;
    let path = on_unix_socket(&sidecar, &folder).await;
    assert_eq!(ask_unix(&path, "").await, "passed");
    // A second proof has to prove the same, and a wrong one isn't none.
    let shop = format!("Authorization: {}\r\n", bearer("shop"));
    assert_eq!(ask_unix(&path, &shop).await, "caller-unauthenticated");
    let wrong = "Authorization: Bearer x\r\n";
    assert_eq!(ask_unix(&path, wrong).await, "caller-unauthenticated");
    let reply = send(
        &sidecar,
        ("POST", QUERY),
        &[("alipay-merchant", ALIAS)],
        ORDER,
    )
    .await;
    check(&sidecar, &reply, "caller-unauthenticated", 1);

    let somebody = caller("somebody", CallerIdentity::Uid(own.wrapping_add(1)));
    let sidecar = start(vec![somebody, with_token("shop")]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = on_unix_socket(&sidecar, &folder).await;
    assert_eq!(ask_unix(&path, "").await, "caller-unauthenticated");
    assert_eq!(ask_unix(&path, &shop).await, "passed");
}

/// What an SDK sends to `/gateway.do`.
fn gateway_params<'a>(changes: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut params = vec![
        ("app_id", DEFAULT_APP_ID),
        ("method", "alipay.trade.query"),
        ("charset", "utf-8"),
        ("sign_type", "RSA2"),
        ("timestamp", "2026-11-22 10:20:30"),
        ("version", "1.0"),
        ("biz_content", r#"{"out_trade_no":"茶 1+1=2&"}"#),
        ("app_auth_token", "merchant:shop"),
    ];
    params.retain(|(name, _)| changes.iter().all(|(changed, _)| changed != name));
    params.extend(changes);
    params
}

async fn ask_gateway(sidecar: &TestSidecar, query: &str, body: &str, authorization: &str) -> Reply {
    let path = format!("/gateway.do?{query}");
    let headers = [
        ("content-type", "application/x-www-form-urlencoded"),
        ("authorization", authorization),
    ];
    let headers = match authorization {
        "" => &headers[..1],
        _ => &headers[..],
    };
    send(sidecar, ("POST", &path), headers, body.to_owned()).await
}

#[tokio::test]
async fn the_signature_of_an_sdk_says_who_calls() {
    let (shop, other) = (with_key("shop", "app2048"), with_key("other", "app4096"));
    let sidecar = start(vec![shop, other, with_token("third")]).await;
    let mut arrived = 0;
    for (key, changes) in [
        ("app2048", &[][..]),
        ("app4096", &[]),
        // As Node and Python sign: parameters without a value stay in.
        ("app2048", &[("notify_url", "")]),
    ] {
        let form = signed_form(key, &gateway_params(changes));
        // Wherever they stand, and in halves.
        let (query, body) = form.split_once("&method").expect("halves");
        for (query, body) in [
            (form.as_str(), String::new()),
            ("charset=utf-8", form.replace("&charset=utf-8", "")),
            (query, format!("method{body}")),
        ] {
            let reply = ask_gateway(&sidecar, query, &body, "").await;
            arrived += 1;
            check(&sidecar, &reply, "passed", arrived);
        }
    }
    for (key, changes) in [
        // Nobody's key; a signature that isn't over what is sent; none; an unknown algorithm.
        ("alipay2048", &[][..]),
        ("app2048", &[("sign_type", "SM2")]),
    ] {
        let form = signed_form(key, &gateway_params(changes));
        let reply = ask_gateway(&sidecar, &form, "", "").await;
        check(&sidecar, &reply, "caller-unauthenticated", arrived);
    }
    let form = signed_form("app2048", &gateway_params(&[]));
    for broken in [
        form.replace("timestamp=2026%2D11%2D22", "timestamp=2026%2D11%2D23"),
        form.replace("timestamp=2026-11-22", "timestamp=2026-11-23"),
        form.replace("merchant%3Ashop", "merchant%3Ashop2"),
        format!("{form}&passback_params=x"),
    ] {
        if broken != form {
            let reply = ask_gateway(&sidecar, &broken, "", "").await;
            check(&sidecar, &reply, "caller-unauthenticated", arrived);
        }
    }
    let unsigned = form.split("&sign=").next().expect("a form").to_owned();
    let reply = ask_gateway(&sidecar, &unsigned, "", "").await;
    check(&sidecar, &reply, "caller-unauthenticated", arrived);
    // A token proves its caller although the SDK signs with a key that is nobody's.
    let nobodys = signed_form("alipay2048", &gateway_params(&[]));
    let reply = ask_gateway(&sidecar, &nobodys, "", &bearer("third")).await;
    check(&sidecar, &reply, "passed", arrived + 1);
    // But not with a signature that proves another, nor does a wrong token count as none.
    let reply = ask_gateway(&sidecar, &form, "", &bearer("third")).await;
    check(&sidecar, &reply, "caller-unauthenticated", arrived + 1);
    let reply = ask_gateway(&sidecar, &form, "", "Bearer x").await;
    check(&sidecar, &reply, "caller-unauthenticated", arrived + 1);
}

#[tokio::test]
async fn no_signature_counts_where_no_caller_has_a_key() {
    let sidecar = start(vec![with_token("shop")]).await;
    let form = signed_form("app2048", &gateway_params(&[]));
    let reply = ask_gateway(&sidecar, &form, "", "").await;
    check(&sidecar, &reply, "caller-unauthenticated", 0);
    let reply = ask_gateway(&sidecar, &form, "", &bearer("shop")).await;
    check(&sidecar, &reply, "passed", 1);
}

#[tokio::test]
async fn a_v3_signature_says_who_calls() {
    let sidecar = start(vec![with_key("shop", "app2048"), with_token("third")]).await;
    let tag = "merchant:shop";
    let ask = async |path: &str, authorization: &str, body: &str| {
        let headers = [
            ("authorization", authorization),
            ("alipay-app-auth-token", tag),
        ];
        send(&sidecar, ("POST", path), &headers, body.to_owned()).await
    };
    let good = v3_authorization("app2048", ("POST", QUERY_V3), tag, ORDER);
    check(&sidecar, &ask(QUERY_V3, &good, ORDER).await, "passed", 1);
    // An SDK whose endpoint has a path may sign that, too.
    let below = format!("/m/shop{QUERY_V3}");
    let whole = v3_authorization("app2048", ("POST", &below), tag, ORDER);
    check(&sidecar, &ask(&below, &whole, ORDER).await, "passed", 2);
    check(&sidecar, &ask(&below, &good, ORDER).await, "passed", 3);
    let foreign = v3_authorization("alipay2048", ("POST", QUERY_V3), tag, ORDER);
    for (path, authorization, body) in [
        (QUERY_V3, foreign.as_str(), ORDER),
        (QUERY_V3, &good, r#"{"out_trade_no":"2"}"#),
        ("/v3/alipay/trade/close", &good, ORDER),
        (QUERY_V3, &format!("{good},sign=AAAA"), ORDER),
        (QUERY_V3, "ALIPAY-SHA256withRSA rubbish", ORDER),
        (QUERY_V3, "Bearer x", ORDER),
    ] {
        let reply = ask(path, authorization, body).await;
        check(&sidecar, &reply, "caller-unauthenticated", 3);
        assert_eq!(reply.status, 401, "{authorization}");
    }
    let reply = ask(QUERY_V3, &bearer("third"), ORDER).await;
    check(&sidecar, &reply, "passed", 4);
}

#[tokio::test]
async fn whom_a_caller_may_not_call_for_it_cannot_tell_from_nobody() {
    let first = for_merchants(with_token("first"), &[&format!("app:{FIRST_AUTH_APP_ID}")]);
    let sidecar = TestSidecar::start_with(|config| {
        config.callers = vec![first, with_token("all")];
        config.tokens.unknown = UnknownToken::Learn;
    })
    .await;
    let ask = async |name: &str, tag: (&str, &str)| {
        let authorization = bearer(name);
        let headers = [("authorization", authorization.as_str()), tag];
        send(&sidecar, ("POST", QUERY), &headers, ORDER).await
    };
    let mut told = Vec::new();
    for tag in [
        SECOND_AUTH_APP_ID,
        "2021000000009999",
        "pid:2088000000009999",
        "nobody",
        "self",
        "no merchant at all",
    ] {
        let reply = ask("first", ("alipay-merchant", tag)).await;
        check(&sidecar, &reply, "caller-forbidden", 0);
        assert_eq!(json(&reply)["detail"], NOT_YOURS);
        told.push((reply.status, json(&reply)["candidates"].clone()));
    }
    told.dedup();
    assert_eq!(told.len(), 1, "{told:?}");
    // A token that was never held isn't proved at Alipay for who may not call for everybody.
    let headers = [
        ("authorization", bearer("first")),
        ("alipay-app-auth-token", "202611BB-unknown".to_owned()),
    ];
    let headers = headers
        .each_ref()
        .map(|(name, value)| (*name, value.as_str()));
    let reply = send(&sidecar, ("POST", QUERY_V3), &headers, ORDER).await;
    check(&sidecar, &reply, "caller-forbidden", 0);
    let reply = ask("first", ("alipay-merchant", ALIAS)).await;
    check(&sidecar, &reply, "passed", 1);
    let reply = ask("all", ("alipay-merchant", "nobody")).await;
    check(&sidecar, &reply, "merchant-unknown", 1);
    let reply = ask("all", ("alipay-merchant", "self")).await;
    check(&sidecar, &reply, "caller-forbidden", 1);
}

#[tokio::test]
async fn a_call_for_tokens_is_for_callers_that_are_let_be_the_isv() {
    const METHOD: &str = "alipay.open.auth.token.app";
    let may = |name: &str, merchants: &[&str]| {
        for_methods(for_merchants(with_token(name), merchants), &[METHOD])
    };
    let sidecar = start(vec![may("all", &["*"]), may("own", &["*", "self"])]).await;
    for (name, expected, arrived) in [("all", "caller-forbidden", 0), ("own", "passed", 1)] {
        let authorization = bearer(name);
        let headers = [("authorization", authorization.as_str())];
        let asked = r#"{"grant_type":"authorization_code","code":"4b2d"}"#;
        let path = format!("/v2/{METHOD}");
        let reply = send(&sidecar, ("POST", &path), &headers, asked).await;
        check(&sidecar, &reply, expected, arrived);
    }
}

#[tokio::test]
async fn what_is_refused_is_counted_by_its_method_on_every_route() {
    let sidecar = start(vec![for_methods(with_token("shop"), &["alipay.trade.pay"])]).await;
    let tag = "&app_auth_token=merchant:shop";
    let gateway = format!("/gateway.do?method=alipay.trade.query{tag}");
    for (path, api) in [
        (gateway.as_str(), "gateway"),
        (QUERY, "v2"),
        (QUERY_V3, "v3"),
    ] {
        let headers = [
            ("authorization", "Bearer shop-token"),
            ("alipay-merchant", ALIAS),
        ];
        let reply = send(&sidecar, ("POST", path), &headers, "").await;
        check(&sidecar, &reply, "caller-forbidden", 0);
        let refused = format!(
            "alipay_sidecar_requests_total{{api=\"{api}\",method=\"alipay.trade.query\",outcome=\"caller-forbidden\"}}"
        );
        assert!(
            (sidecar.metric(&refused).await - 1.0).abs() < f64::EPSILON,
            "{api}"
        );
    }
}

#[tokio::test]
async fn report_lets_through_and_counts_what_would_be_refused() {
    let strict = for_merchants(
        for_methods(with_token("shop"), &["alipay.trade.pay"]),
        &["app:2021000000009999"],
    );
    let sidecar = start(vec![CallerConfig {
        mode: CallerMode::Report,
        ..strict
    }])
    .await;
    let reply = ask(&sidecar, &bearer("shop")).await;
    check(&sidecar, &reply, "passed", 1);
    let headers = [("authorization", "Bearer shop-token")];
    let reply = send(&sidecar, ("POST", "/events/claim"), &headers, "").await;
    check(&sidecar, &reply, "passed", 1);
    for rule in ["events", "merchant", "method"] {
        let series = format!("alipay_sidecar_caller_violations_total{{rule=\"{rule}\"}}");
        let count = sidecar.metric(&series).await;
        assert!((count - 1.0).abs() < f64::EPSILON, "{rule} {count}");
    }
    // Who isn't known is refused in any mode.
    let reply = ask(&sidecar, "Bearer x").await;
    check(&sidecar, &reply, "caller-unauthenticated", 1);
}

#[tokio::test]
async fn report_counts_what_is_done_with_events_that_would_be_withheld() {
    let reported = CallerConfig {
        mode: CallerMode::Report,
        events: true,
        ..for_merchants(with_token("shop"), &[ALIAS])
    };
    let sidecar = TestSidecar::start_with(|config| {
        config.delivery.url = None;
        config.callers = vec![reported];
    })
    .await;
    let headers = [("authorization", "Bearer shop-token")];
    for (auth_app_id, expected) in [(FIRST_AUTH_APP_ID, 0.0), (SECOND_AUTH_APP_ID, 1.0)] {
        let owed = vec![of_merchant(auth_app_id, START)];
        let stored = sidecar.sidecar.store().commit(owed).await;
        stored.expect("stored");
        let reply = send(&sidecar, ("POST", "/events/claim"), &headers, "").await;
        let item = &json(&reply)["items"][0];
        assert_eq!(item["auth_app_id"], auth_app_id);
        let id = item["id"].as_str().expect("an id").to_owned();
        // The claim, and each thing that is said of the event.
        for (more, verb) in [(0.0, ""), (1.0, "extend"), (2.0, "nack"), (3.0, "ack")] {
            if !verb.is_empty() {
                let path = format!("/events/{id}/{verb}");
                send(&sidecar, ("POST", &path), &headers, "{}").await;
            }
            let series = "alipay_sidecar_caller_violations_total{rule=\"merchant\"}";
            let count = sidecar.metric(series).await;
            let expected = expected * (1.0 + more);
            assert!(
                (count - expected).abs() < f64::EPSILON,
                "{auth_app_id} {verb} {count}"
            );
        }
    }
    let path = format!("/events/{}/ack", uuid::Uuid::now_v7());
    let reply = send(&sidecar, ("POST", &path), &headers, "{}").await;
    assert_ne!(reply.status, 204, "it doesn't exist");
    let series = "alipay_sidecar_caller_violations_total{rule=\"merchant\"}";
    let count = sidecar.metric(series).await;
    assert!((count - 4.0).abs() < f64::EPSILON, "{count}");
}

#[tokio::test]
async fn a_call_is_looked_up_by_the_caller_who_made_it() {
    let sidecar = start(vec![with_token("one"), with_token("two")]).await;
    let order = r#"{"out_trade_no":"1","total_amount":"8.80","subject":"茶"}"#;
    let mut ids = Vec::new();
    for name in ["one", "two"] {
        let authorization = bearer(name);
        let headers = [
            ("authorization", authorization.as_str()),
            ("alipay-merchant", ALIAS),
            ("x-request-id", "order-1"),
        ];
        let reply = send(
            &sidecar,
            ("POST", "/v2/alipay.trade.create"),
            &headers,
            order,
        )
        .await;
        ids.push(header(&reply, "alipay-sidecar-request-id").to_owned());
    }
    let look = async |name: &str, path: &str| {
        let authorization = bearer(name);
        let headers = [("authorization", authorization.as_str())];
        send(&sidecar, ("GET", path), &headers, "").await
    };
    // From memory, and from the store.
    for _ in 0..2 {
        for (n, name) in ["one", "two"].into_iter().enumerate() {
            let reply = look(name, "/calls?x_request_id=order-1").await;
            assert_eq!(json(&reply)["request_id"], *ids[n], "{}", text(&reply));
            let own = look(name, &format!("/calls/{}", ids[n])).await;
            assert_eq!(own.status, 200, "{}", text(&own));
            let others = look(name, &format!("/calls/{}", ids[1 - n])).await;
            assert_eq!(said(&others), "call-unknown");
        }
        let stored = r#"alipay_sidecar_call_records_total{outcome="stored"}"#;
        sidecar.wait_for_metric(stored, 2.0).await;
    }
}

#[tokio::test]
async fn events_are_for_callers_that_may_claim_them() {
    let claimer = CallerConfig {
        events: true,
        ..with_token("claimer")
    };
    let sidecar = start(vec![claimer, with_token("other")]).await;
    for (name, expected) in [("claimer", "passed"), ("other", "caller-forbidden")] {
        let authorization = bearer(name);
        let headers = [("authorization", authorization.as_str())];
        for path in [
            "/events/claim",
            "/events/017f22e2-79b0-7cc3-98c4-dc0c0c07398f/ack",
        ] {
            let reply = send(&sidecar, ("POST", path), &headers, "").await;
            let found = match said(&reply) {
                "event-unknown" => "passed",
                code => code,
            };
            assert_eq!(found, expected, "{path}");
        }
    }
}

#[tokio::test]
async fn calls_in_process_have_no_caller() {
    let sidecar = start(vec![for_methods(with_token("shop"), &[])]).await;
    let call = sidecar
        .sidecar
        .request("alipay.trade.query")
        .merchant(ALIAS);
    let reply = call.biz_content(ORDER).send().await.expect("a reply");
    assert_eq!(reply.code(), Some("40004"));
}

#[tokio::test]
async fn a_caller_claims_the_events_of_its_merchants_alone() {
    let claimer = |name: &str, merchants: &[&str]| CallerConfig {
        events: true,
        ..for_merchants(with_token(name), merchants)
    };
    let callers = vec![
        claimer("first", &[ALIAS]),
        claimer("second", &[&format!("app:{SECOND_AUTH_APP_ID}")]),
        claimer("all", &["*"]),
    ];
    let sidecar = TestSidecar::start_with(|config| {
        config.delivery.url = None;
        config.callers = callers;
    })
    .await;
    // More of others' than one look reads.
    let of = |auth_app_id: Option<&str>| {
        let mut owed = entry(START, None);
        owed.auth_app_id = auth_app_id.map(|id| AuthAppId::new(id).expect("an id"));
        owed.pid = None;
        Change::Receive(Box::new(owed))
    };
    let mut owed: Vec<_> = (0..150).map(|_| of(Some("2021000000009999"))).collect();
    owed.extend([Some(FIRST_AUTH_APP_ID), Some(SECOND_AUTH_APP_ID), None].map(of));
    sidecar.sidecar.store().commit(owed).await.expect("stored");
    let claim = async |name: &str| {
        let authorization = bearer(name);
        let headers = [("authorization", authorization.as_str())];
        let reply = send(
            &sidecar,
            ("POST", "/events/claim"),
            &headers,
            r#"{"max":100}"#,
        )
        .await;
        assert_eq!(reply.status, 200, "{}", text(&reply));
        json(&reply)["items"].as_array().expect("a list").clone()
    };
    let first = claim("first").await;
    assert_eq!(first.len(), 1);
    assert_eq!(first[0]["auth_app_id"], FIRST_AUTH_APP_ID);
    assert!(claim("first").await.is_empty(), "it is on lease");
    let second = claim("second").await;
    assert_eq!(second.len(), 1);
    assert_eq!(second[0]["auth_app_id"], SECOND_AUTH_APP_ID);
    // What is another's is as good as not there.
    for (name, expected) in [("second", "event-unknown"), ("first", "passed")] {
        let authorization = bearer(name);
        let headers = [("authorization", authorization.as_str())];
        for verb in ["extend", "nack", "ack"] {
            let path = format!("/events/{}/{verb}", first[0]["id"].as_str().expect("an id"));
            let reply = send(&sidecar, ("POST", &path), &headers, "").await;
            assert_eq!(said(&reply), expected, "{name} {path}");
        }
    }
    assert_eq!(claim("all").await.len() + claim("all").await.len(), 151);
}

/// An event of that merchant, received at that time.
fn of_merchant(auth_app_id: &str, at: i64) -> Change {
    let mut owed = entry(at, None);
    owed.auth_app_id = Some(AuthAppId::new(auth_app_id).expect("an id"));
    owed.pid = None;
    Change::Receive(Box::new(owed))
}

/// A sidecar that pushes nothing and on which that many events of another merchant are due, and its
/// store; `first` may claim those of the known merchant.
async fn with_others_due(count: i64) -> (TestSidecar, BrittleStore) {
    let mut brittle = None;
    let claimer = CallerConfig {
        events: true,
        ..for_merchants(with_token("first"), &[ALIAS])
    };
    let sidecar = TestSidecar::start_built(
        |config| {
            config.delivery.url = None;
            config.callers = vec![claimer];
        },
        |config, builder| {
            let store = BrittleStore::open(config);
            brittle = Some(store.clone());
            builder.store(Arc::new(store))
        },
    )
    .await;
    let others = (0..count).map(|n| of_merchant("2021000000009999", START + n));
    let stored = sidecar.sidecar.store().commit(others.collect()).await;
    stored.expect("stored");
    (sidecar, brittle.expect("built"))
}

#[tokio::test]
async fn however_much_of_others_is_due_a_caller_finds_its_own() {
    let (sidecar, _) = with_others_due(1500).await;
    let own = of_merchant(FIRST_AUTH_APP_ID, START + 1500);
    let stored = sidecar.sidecar.store().commit(vec![own]).await;
    stored.expect("stored");
    let headers = [("authorization", "Bearer first-token")];
    let claim = || send(&sidecar, ("POST", "/events/claim"), &headers, "");
    let reply = claim().await;
    let items = &json(&reply)["items"];
    assert_eq!(
        items[0]["auth_app_id"],
        FIRST_AUTH_APP_ID,
        "{}",
        text(&reply)
    );
    assert_eq!(items.as_array().expect("a list").len(), 1);
    assert_eq!(json(&claim().await)["items"], serde_json::json!([]));
}

#[tokio::test]
async fn one_caller_cannot_take_all_places_of_events() {
    let claimer = |name: &str| CallerConfig {
        events: true,
        ..with_token(name)
    };
    let callers = ["one", "two", "three", "four"].map(claimer);
    let sidecar = TestSidecar::start_with(|config| {
        config.delivery.url = None;
        config.callers = callers.into();
    })
    .await;
    let claim = async |name: &str, wait: &str| {
        let authorization = bearer(name);
        let headers = [("authorization", authorization.as_str())];
        let body = format!("{{\"wait\":\"{wait}\"}}");
        send(&sidecar, ("POST", "/events/claim"), &headers, body).await
    };
    // Those that wait never end here; the last of 17 is told at once.
    let waiting = futures_util::future::select_all((0..17).map(|_| Box::pin(claim("one", "60s"))));
    let waiting = tokio::time::timeout(PATIENCE, waiting).await;
    let (told, _, waiting) = waiting.expect("16 wait");
    assert_eq!(said(&told), "overloaded");
    assert!(text(&told).contains("of this caller"), "{}", text(&told));
    let other = claim("two", "1ms").await;
    assert_eq!(said(&other), "passed", "{}", text(&other));
    drop(waiting);
}

#[tokio::test]
async fn a_claim_that_waits_rests_while_only_others_events_are_due() {
    let (sidecar, store) = with_others_due(1500).await;
    let headers = [("authorization", "Bearer first-token")];
    let wait = r#"{"wait":"4s"}"#;
    let reply = send(&sidecar, ("POST", "/events/claim"), &headers, wait).await;
    assert_eq!(json(&reply)["items"], serde_json::json!([]));
    // 16 pages each, at once, after each second, and at the end: time enough for all pages on a busy
    // machine, too.
    assert!((16..=5 * 16).contains(&store.looks()), "{}", store.looks());
}

#[tokio::test]
async fn a_certificate_is_downloaded_from_the_sidecars_own() {
    let sidecar = TestSidecar::start_before(|simulator, config| {
        certified(simulator, config);
        let caller = for_methods(with_token("shop"), &["alipay.trade.*"]);
        config.callers = vec![caller, with_key("sdk", "app4096")];
    })
    .await;
    let query = async || ask(&sidecar, &bearer("shop")).await;
    query().await;
    let rotated = sidecar.simulator.rotate_platform_certificate();
    rotated.expect("certificates");
    query().await;
    let arrived = sidecar.simulator.requests().len();
    let files = sidecar.simulator.certificate_files(DEFAULT_APP_ID);
    let roots = Bundle::parse(&files.expect("files").alipay_root_cert).expect("roots");
    let app = sidecar.sidecar.store().certificates().await.expect("kept");
    let sn = app.first().expect("it was fetched").sn.clone();
    let content = format!("{{\"alipay_cert_sn\":\"{sn}\"}}");
    let params = [
        ("app_id", DEFAULT_APP_ID),
        ("method", "alipay.open.app.alipaycert.download"),
        ("charset", "utf-8"),
        ("sign_type", "RSA2"),
        ("biz_content", &content),
    ];
    let form = signed_form("app4096", &params);
    let path = "/v2/alipay.open.app.alipaycert.download";
    let headers = [("authorization", "Bearer shop-token")];
    let by_sdk = ask_gateway(&sidecar, &form, "", "").await;
    let by_token = send(&sidecar, ("POST", path), &headers, content.clone()).await;
    let node = &json(&by_sdk)["alipay_open_app_alipaycert_download_response"];
    for node in [node, &json(&by_token)] {
        assert_eq!(node["code"], "10000", "{node}");
        let given = node["alipay_cert_content"].as_str().expect("base64");
        // As an SDK trusts it: the one it asked for, up to a root it has.
        let chain = Bundle::parse(given).expect("a chain");
        assert_eq!(chain.first().expect("a certificate").sn(), sn);
        let now = SystemClock.now_ms();
        chain.check_trust(&roots, now).expect("it leads to a root");
    }
    assert_eq!(header(&by_sdk, "alipay-sidecar-verified"), "true");
    // What isn't known here is a method as any other.
    let unknown = r#"{"alipay_cert_sn":"00000000000000000000000000000000"}"#;
    let reply = send(&sidecar, ("POST", path), &headers, unknown).await;
    check(&sidecar, &reply, "caller-forbidden", arrived);
    let order_string = format!("{path}/order-string");
    let reply = send(&sidecar, ("POST", &order_string), &headers, content).await;
    check(&sidecar, &reply, "caller-forbidden", arrived);
}
