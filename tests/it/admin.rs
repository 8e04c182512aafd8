//! The admin listener: probes, metrics, the API behind its token, and that no secret ever shows.

use std::collections::BTreeSet;
use std::sync::Arc;

use alipay_sidecar::clock::ManualClock;
use alipay_sidecar::config::Config;
use alipay_sidecar::config::listen::Listen;
use alipay_sidecar::model::authorization::Revocation;
use alipay_sidecar::model::delivery::Settlement;
use alipay_sidecar::net::client::Reply;
use alipay_sidecar::sidecar::SidecarBuilder;
use alipay_sidecar::simulator::{
    DEFAULT_APP_ID, FIRST_APP_AUTH_TOKEN, FIRST_APP_REFRESH_TOKEN, FIRST_AUTH_APP_ID, FIRST_PID,
    SECOND_APP_AUTH_TOKEN, SECOND_AUTH_APP_ID, SECOND_PID, SimulatedApp,
};
use alipay_sidecar::store::Change;
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};

use crate::support::{ADMIN_TOKEN, ALIAS, TestSidecar, header, json as parsed, keys, raw, text};

const FIRST: &str = "/api/merchants/2021000000000001/2021000000001001";
const SECOND: &str = "/api/merchants/2021000000000001/2021000000001002";
/// The metrics of the process.
const PROCESS: [&str; 7] = [
    "cpu_seconds_total",
    "max_fds",
    "open_fds",
    "resident_memory_bytes",
    "start_time_seconds",
    "threads",
    "virtual_memory_bytes",
];

async fn ask(sidecar: &TestSidecar, method: Method, path: &str, body: &Value) -> Reply {
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let reply = sidecar.admin(method, path, body).await;
    check_no_secret(path, &reply);
    reply
}

/// Whatever was asked, no token or key stands in the answer.
fn check_no_secret(path: &str, reply: &Reply) {
    let shown = format!("{:?} {}", reply.headers, text(reply));
    let key = keys::private("app2048");
    let key = key.lines().nth(1).expect("a PEM body");
    for secret in [
        FIRST_APP_AUTH_TOKEN,
        FIRST_APP_REFRESH_TOKEN,
        SECOND_APP_AUTH_TOKEN,
        ADMIN_TOKEN,
        key,
    ] {
        assert!(!shown.contains(secret), "{path}: {shown}");
    }
}

fn check_problem(path: &str, reply: &Reply, (status, code): (u16, &str)) {
    let seen = format!("{path}: {} {}", reply.status, text(reply));
    assert_eq!(reply.status.as_u16(), status, "{seen}");
    assert_eq!(
        header(reply, "content-type"),
        "application/problem+json",
        "{seen}"
    );
    assert_eq!(header(reply, "alipay-sidecar-error"), code, "{seen}");
    assert_eq!(
        header(reply, "alipay-sidecar-outcome"),
        "not-sent",
        "{seen}"
    );
    let request_id = header(reply, "alipay-sidecar-request-id");
    assert_eq!(request_id.len(), 36, "{seen}");
    let body = parsed(reply);
    assert_eq!(
        body["type"],
        format!("urn:alipay-sidecar:error:{code}"),
        "{seen}"
    );
    assert_eq!(
        (&body["status"], &body["code"]),
        (&json!(status), &json!(code)),
        "{seen}"
    );
    assert_eq!(
        (&body["outcome"], &body["retryable"]),
        (&json!("not-sent"), &json!(false)),
        "{seen}"
    );
    assert_eq!(body["request_id"], request_id, "{seen}");
    assert!(
        body["title"].is_string() && body["detail"].is_string(),
        "{seen}"
    );
}

async fn check_refused(sidecar: &TestSidecar, asked: (Method, &str, Value), expected: (u16, &str)) {
    let (method, path, body) = asked;
    check_problem(path, &ask(sidecar, method, path, &body).await, expected);
}

fn named(auth_app_id: &str, pid: &str, token: &str) -> Value {
    json!({"app_id": DEFAULT_APP_ID, "auth_app_id": auth_app_id, "user_id": pid, "app_auth_token": token})
}

#[tokio::test]
async fn probes_and_metrics_need_no_token_on_loopback() {
    let sidecar = TestSidecar::start().await;
    for path in ["/livez", "/readyz", "/metrics"] {
        let reply = sidecar
            .send(&sidecar.admin, Request::builder().uri(path), "".into())
            .await;
        assert_eq!(reply.status, 200, "{path}");
        check_refused(
            &sidecar,
            (Method::POST, path, Value::Null),
            (405, "http-method-not-allowed"),
        )
        .await;
    }
    let posted = ask(&sidecar, Method::POST, "/livez", &Value::Null).await;
    assert_eq!(header(&posted, "allow"), "GET, HEAD");
    let ready = sidecar.admin(Method::GET, "/readyz", "").await;
    let expected =
        json!({"ready": true, "store_writable": true, "app_usable": true, "draining": false});
    assert_eq!(parsed(&ready), expected);
}

#[tokio::test]
async fn head_is_answered_as_get_is_without_the_body() {
    let sidecar = TestSidecar::start().await;
    let ask = async |method: Method, path: &str| {
        let request = Request::builder().method(method).uri(path);
        sidecar.send(&sidecar.admin, request, "".into()).await
    };
    for path in ["/livez", "/readyz", "/metrics", "/", "/console.js"] {
        let whole = ask(Method::GET, path).await;
        let head = ask(Method::HEAD, path).await;
        assert_eq!(head.status, 200, "{path}");
        assert_eq!(text(&head), "", "{path}");
        let names = |reply: &Reply| {
            let names = reply.headers.keys().map(ToString::to_string);
            names.collect::<BTreeSet<_>>()
        };
        assert_eq!(names(&head), names(&whole), "{path}");
        for name in ["content-type", "cache-control"] {
            assert_eq!(header(&head, name), header(&whole, name), "{path} {name}");
        }
        // What is measured goes on changing between the two.
        if path != "/metrics" {
            let length = header(&head, "content-length");
            assert_eq!(length, whole.body.len().to_string(), "{path}");
        }
    }
    assert_eq!(ask(Method::HEAD, "/api/apps").await.status, 401);
    let refused = sidecar.admin(Method::HEAD, "/api/apps", "").await;
    assert_eq!(refused.status, 405);
    assert_eq!(header(&refused, "allow"), "GET");
}

#[tokio::test]
async fn metrics_need_the_token_where_others_reach_the_listener_and_probes_never_do() {
    // What is configured counts, wherever the host has bound it.
    let sidecar = TestSidecar::start_with(|config| {
        config.admin.listen = Listen::Tcp("0.0.0.0:2090".to_owned());
    })
    .await;
    let ask_as_anyone = async |path: &str| {
        let request = Request::builder().uri(path);
        sidecar.send(&sidecar.admin, request, Bytes::new()).await
    };
    for path in ["/livez", "/readyz"] {
        assert_eq!(ask_as_anyone(path).await.status, 200, "{path}");
    }
    let refused = ask_as_anyone("/metrics").await;
    check_problem("/metrics", &refused, (401, "caller-unauthenticated"));
    let metrics = sidecar.admin(Method::GET, "/metrics", "").await;
    assert_eq!(metrics.status, 200);
}

/// Where a body is read, its length alone is refused.
#[tokio::test]
async fn whoever_probes_or_copies_the_store_may_announce_any_body() {
    let sidecar = TestSidecar::start().await;
    for (path, status) in [
        ("/livez", 200),
        ("/metrics", 200),
        ("/api/store/backup", 200),
        ("/api/apps", 413),
    ] {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\n\
             Content-Length: 99999999\r\nConnection: close\r\n\r\n",
            raw::authority(&sidecar.admin),
        );
        let answer = raw::exchange(&sidecar.admin, request.as_bytes()).await;
        let expected = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&expected), "{path}: {answer}");
    }
}

#[tokio::test]
async fn a_sidecar_without_an_app_is_not_ready_until_it_has_one() {
    let sidecar = TestSidecar::start_with(|config| config.apps.clear()).await;
    let ready = sidecar.admin(Method::GET, "/readyz", "").await;
    assert_eq!(
        (ready.status.as_u16(), &parsed(&ready)["app_usable"]),
        (503, &json!(false))
    );
    assert_eq!(sidecar.admin(Method::GET, "/livez", "").await.status, 200);
    let app = json!({"private_key": keys::private("app2048"), "alipay_public_key": keys::public("alipay2048")});
    let path = format!("/api/apps/{DEFAULT_APP_ID}");
    assert_eq!(ask(&sidecar, Method::PUT, &path, &app).await.status, 200);
    assert_eq!(sidecar.admin(Method::GET, "/readyz", "").await.status, 200);
}

#[tokio::test]
async fn an_app_that_would_call_both_of_alipays_worlds_is_not_kept() {
    let sidecar = TestSidecar::start_with(|config| {
        config.apps.clear();
        let sandbox = "https://openapi-sandbox.dl.alipaydev.com/gateway.do";
        config.upstream.gateway = Some(sandbox.to_owned());
        (config.upstream.v3, config.upstream.authorize) = (None, None);
    })
    .await;
    let path = format!("/api/apps/{DEFAULT_APP_ID}");
    let app = |environment: &str| {
        json!({
            "private_key": keys::private("app2048"),
            "alipay_public_key": keys::public("alipay2048"),
            "environment": environment,
        })
    };
    let mixed = (Method::PUT, path.as_str(), app("production"));
    check_refused(&sidecar, mixed, (400, "body-invalid")).await;
    let stored = sidecar.sidecar.store().apps().await;
    assert!(stored.expect("readable").is_empty());
    let kept = ask(&sidecar, Method::PUT, &path, &app("sandbox")).await;
    assert_eq!(kept.status, 200, "{}", text(&kept));
}

#[tokio::test]
async fn the_api_always_needs_its_token() {
    let sidecar = TestSidecar::start().await;
    for path in [
        "/api/apps",
        "/api/merchants",
        FIRST,
        "/api/inbox",
        "/api/nothing",
        "/api/store",
        "/api/store/backup",
        "/api/store/check",
    ] {
        for given in [
            None,
            Some("Bearer wrong"),
            Some("Bearer "),
            Some(ADMIN_TOKEN),
            Some("Basic dGVzdA=="),
        ] {
            let mut request = Request::builder().uri(path);
            if let Some(given) = given {
                request = request.header("authorization", given);
            }
            let reply = sidecar.send(&sidecar.admin, request, "".into()).await;
            check_problem(path, &reply, (401, "caller-unauthenticated"));
            assert_eq!(header(&reply, "www-authenticate"), "Bearer");
        }
    }
    for scheme in ["bearer", "BEARER"] {
        let request = Request::builder().uri("/api/apps");
        let request = request.header("authorization", format!("{scheme} {ADMIN_TOKEN}"));
        let reply = sidecar.send(&sidecar.admin, request, "".into()).await;
        assert_eq!(reply.status, 200, "{scheme}");
    }
}

#[tokio::test]
async fn a_web_page_without_the_token_is_refused() {
    let sidecar = TestSidecar::start().await;
    for (name, value) in [
        ("origin", "https://x.example"),
        ("sec-fetch-site", "none"),
        ("host", "x.example"),
    ] {
        let request = Request::builder().uri("/api/apps").header(name, value);
        let reply = sidecar.send(&sidecar.admin, request, "".into()).await;
        check_problem("/api/apps", &reply, (403, "browser-refused"));
        let request = Request::builder()
            .uri("/api/apps")
            .header(name, value)
            .header("authorization", format!("Bearer {ADMIN_TOKEN}"));
        assert_eq!(
            sidecar
                .send(&sidecar.admin, request, "".into())
                .await
                .status,
            200
        );
        let request = Request::builder().uri("/metrics").header(name, value);
        assert_eq!(
            sidecar
                .send(&sidecar.admin, request, "".into())
                .await
                .status,
            200
        );
    }
}

#[tokio::test]
async fn routes_are_known_and_take_their_methods() {
    let sidecar = TestSidecar::start().await;
    for path in [
        "/nothing",
        "/api",
        "/api/",
        "/api/nothing",
        "/api/merchants/a/b/c",
        "/api/inbox/x/y",
    ] {
        check_refused(
            &sidecar,
            (Method::GET, path, Value::Null),
            (404, "route-unknown"),
        )
        .await;
    }
    for (path, allow) in [
        ("/api/apps", "GET"),
        (FIRST, "GET, PUT, DELETE"),
        ("/api/merchants/import", "POST"),
        ("/api/inbox", "GET"),
    ] {
        let reply = ask(&sidecar, Method::PATCH, path, &Value::Null).await;
        check_problem(path, &reply, (405, "http-method-not-allowed"));
        assert_eq!(header(&reply, "allow"), allow);
    }
}

#[tokio::test]
async fn a_merchant_is_put_shown_renamed_and_removed() {
    let sidecar = TestSidecar::start().await;
    let shown = parsed(&ask(&sidecar, Method::GET, FIRST, &Value::Null).await);
    assert_eq!(
        (&shown["user_id"], &shown["alias"], &shown["status"]),
        (&json!(FIRST_PID), &json!(ALIAS), &json!("authorized"))
    );
    let put = ask(
        &sidecar,
        Method::PUT,
        SECOND,
        &json!({"app_auth_token": SECOND_APP_AUTH_TOKEN, "user_id": SECOND_PID, "alias": "second"}),
    )
    .await;
    assert_eq!(
        (put.status.as_u16(), &parsed(&put)["alias"]),
        (200, &json!("second"))
    );
    let call = sidecar
        .proxy(
            Request::builder()
                .method("POST")
                .uri("/m/second/v2/alipay.trade.query"),
            r#"{"out_trade_no":"1"}"#,
        )
        .await;
    assert_eq!(
        header(&call, "alipay-sub-code"),
        "ACQ.TRADE_NOT_EXIST",
        "{}",
        text(&call)
    );
    let renamed = ask(&sidecar, Method::PUT, SECOND, &json!({"alias": "2nd"})).await;
    assert_eq!(parsed(&renamed)["alias"], "2nd");
    assert_eq!(
        ask(&sidecar, Method::DELETE, SECOND, &Value::Null)
            .await
            .status,
        204
    );
    for method in [Method::GET, Method::DELETE] {
        check_refused(
            &sidecar,
            (method, SECOND, Value::Null),
            (404, "merchant-unknown"),
        )
        .await;
    }
}

#[tokio::test]
async fn a_merchant_record_has_its_form() {
    let sidecar = TestSidecar::start().await;
    for (body, expected) in [
        (json!({}), (400, "body-invalid")),
        (json!([]), (400, "body-invalid")),
        (json!({"app_auth_token": 5}), (400, "body-invalid")),
        (
            json!({"app_auth_token": "t", "unknown": 1}),
            (400, "body-invalid"),
        ),
        (
            json!({"app_auth_token": "t", "auth_app_id": "2021000000009999"}),
            (400, "body-invalid"),
        ),
        (
            json!({"app_auth_token": "t", "user_id": "x"}),
            (400, "body-invalid"),
        ),
        (
            json!({"app_auth_token": "t", "alias": "self"}),
            (400, "body-invalid"),
        ),
        (
            json!({"app_auth_token": "t", "auth_time": "yesterday"}),
            (400, "body-invalid"),
        ),
        (
            json!({"app_auth_token": "t", "auth_time": "-1"}),
            (400, "body-invalid"),
        ),
        (json!({"alias": "nobody"}), (404, "merchant-unknown")),
        (
            json!({"app_auth_token": FIRST_APP_AUTH_TOKEN}),
            (409, "token-conflict"),
        ),
        (
            json!({"app_auth_token": "t", "alias": ALIAS}),
            (409, "alias-conflict"),
        ),
    ] {
        check_refused(&sidecar, (Method::PUT, SECOND, body), expected).await;
    }
    let put = |auth_time: i64, token: &str| {
        let body = json!({"app_auth_token": token, "auth_time": auth_time});
        (Method::PUT, SECOND, body)
    };
    let (method, path, body) = put(1_700_000_000_000, "newer");
    let newer = parsed(&ask(&sidecar, method, path, &body).await);
    let older = put(1_600_000_000_000, "older");
    check_refused(&sidecar, older, (409, "merchant-outdated")).await;
    let stands = parsed(&ask(&sidecar, Method::GET, SECOND, &Value::Null).await);
    assert_eq!(stands, newer);
    let (method, path, body) = put(1_600_000_000_000, "newer");
    let again = ask(&sidecar, method, path, &body).await;
    assert_eq!(again.status, 200, "it says what is stored");
    let wrong = "/api/merchants/x%20y/2021000000001002";
    check_refused(
        &sidecar,
        (Method::GET, wrong, Value::Null),
        (400, "parameter-invalid"),
    )
    .await;
}

#[tokio::test]
async fn an_import_is_all_or_nothing_and_can_be_tried() {
    let sidecar = TestSidecar::start().await;
    let good = named(SECOND_AUTH_APP_ID, SECOND_PID, SECOND_APP_AUTH_TOKEN);
    let import = async |path: &str, lines: &[&Value]| {
        let body: String = lines.iter().map(|line| format!("{line}\n\n")).collect();
        let reply = sidecar.admin(Method::POST, path, body).await;
        check_no_secret(path, &reply);
        reply
    };
    let tried = import("/api/merchants/import?dry_run=true", &[&good]).await;
    assert_eq!(
        parsed(&tried),
        json!({"imported": 1, "stale": 0, "dry_run": true})
    );
    check_refused(
        &sidecar,
        (Method::GET, SECOND, Value::Null),
        (404, "merchant-unknown"),
    )
    .await;
    let stolen = named("2021000000009999", "2088000000009999", FIRST_APP_AUTH_TOKEN);
    let same_token = named(
        "2021000000009999",
        "2088000000009999",
        SECOND_APP_AUTH_TOKEN,
    );
    let mut good = good;
    good["alias"] = json!("named");
    let mut same_alias = named("2021000000009999", "2088000000009999", "another-token");
    same_alias["alias"] = json!("named");
    for (bad, expected) in [
        (&stolen, (409, "token-conflict")),
        (&same_token, (409, "token-conflict")),
        (&same_alias, (409, "alias-conflict")),
        (&good, (400, "body-invalid")),
        (&json!({"app_id": DEFAULT_APP_ID}), (400, "body-invalid")),
    ] {
        let reply = import("/api/merchants/import", &[&good, bad]).await;
        check_problem("import", &reply, expected);
        assert!(text(&reply).contains("line 3"), "{}", text(&reply));
        check_refused(
            &sidecar,
            (Method::GET, SECOND, Value::Null),
            (404, "merchant-unknown"),
        )
        .await;
    }
    let done = import("/api/merchants/import", &[&good]).await;
    assert_eq!(
        parsed(&done),
        json!({"imported": 1, "stale": 0, "dry_run": false})
    );
    assert_eq!(
        ask(&sidecar, Method::GET, SECOND, &Value::Null)
            .await
            .status,
        200
    );
    // Run again, it has nothing to tell the backend; the trial says of what is stale the same.
    let mut stale = good.clone();
    stale["auth_time"] = json!(1);
    // Alipay writes times as texts, too.
    let mut written = good.clone();
    written["auth_time"] = json!("1");
    for (record, imported) in [(&good, 1), (&stale, 0), (&written, 0)] {
        for is_trial in [true, false] {
            let path = format!("/api/merchants/import?dry_run={is_trial}");
            let again = import(&path, &[record]).await;
            let report = json!({"imported": imported, "stale": 1 - imported, "dry_run": is_trial});
            assert_eq!(parsed(&again), report);
        }
    }
    // So it does of one that cancelled before it was known.
    let mut late = named("2021000000009998", "2088000000009998", "late");
    late["auth_time"] = json!(1);
    let cancelled = Change::Revoke {
        revocation: Revocation {
            app_id: DEFAULT_APP_ID.parse().expect("an id"),
            auth_app_id: "2021000000009998".parse().expect("an id"),
            at: Some(2),
            estimated: false,
            only: None,
        },
        entry: None,
    };
    let store = sidecar.sidecar.store();
    store.commit(vec![cancelled]).await.expect("remembered");
    for is_trial in [true, false] {
        let path = format!("/api/merchants/import?dry_run={is_trial}");
        let report = json!({"imported": 0, "stale": 1, "dry_run": is_trial});
        assert_eq!(parsed(&import(&path, &[&late]).await), report);
    }
    let inbox = sidecar.sidecar.store().entries(None, None, 9).await;
    let told = inbox.expect("readable");
    assert_eq!(told.len(), 1);
    let event = told.first().and_then(|(entry, _)| entry.event.as_ref());
    assert_eq!(event.map(|event| event.source.as_str()), Some("import"));
}

#[tokio::test]
async fn lists_go_page_by_page() {
    let sidecar = TestSidecar::start().await;
    for n in 0..4 {
        let path = format!("/api/merchants/{DEFAULT_APP_ID}/202100000000200{n}");
        let put = ask(
            &sidecar,
            Method::PUT,
            &path,
            &json!({"app_auth_token": format!("t{n}")}),
        )
        .await;
        assert_eq!(put.status, 200);
    }
    for (list, count) in [("/api/merchants", 5_usize), ("/api/inbox", 4)] {
        let (mut seen, mut pages, mut after) = (BTreeSet::new(), 0, String::new());
        loop {
            let path = format!("{list}?limit=2&after={after}");
            let page = parsed(&ask(&sidecar, Method::GET, &path, &Value::Null).await);
            pages += 1;
            for item in page["items"].as_array().expect("items") {
                assert!(seen.insert(item.to_string()), "{list}: an item came twice");
            }
            match page["next"].as_str() {
                Some(next) => after = next.to_owned(),
                None => break,
            }
        }
        assert_eq!((seen.len(), pages), (count, count.div_ceil(2)), "{list}");
        if list == "/api/inbox" {
            newest_first(&sidecar, &seen).await;
        }
        for limit in ["0", "1001", "x"] {
            let path = format!("{list}?limit={limit}");
            check_refused(
                &sidecar,
                (Method::GET, &path, Value::Null),
                (400, "parameter-invalid"),
            )
            .await;
        }
    }
    let found = ask(
        &sidecar,
        Method::GET,
        &format!("/api/merchants?selector={FIRST_PID}"),
        &Value::Null,
    )
    .await;
    assert_eq!(parsed(&found)["items"][0]["auth_app_id"], FIRST_AUTH_APP_ID);
}

/// The same entries come the newest first, page by page.
async fn newest_first(sidecar: &TestSidecar, seen: &BTreeSet<String>) {
    let (mut ids, mut items, mut after) = (Vec::new(), BTreeSet::new(), String::new());
    loop {
        let path = format!("/api/inbox?limit=2&order=desc&after={after}");
        let page = parsed(&ask(sidecar, Method::GET, &path, &Value::Null).await);
        for item in page["items"].as_array().expect("items") {
            ids.push(item["id"].as_str().expect("an id").to_owned());
            items.insert(item.to_string());
        }
        match page["next"].as_str() {
            Some(next) => after = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(&items, seen);
    assert!(ids.is_sorted_by(|a, b| a > b), "{ids:?}");
    let path = "/api/inbox?order=newest";
    let request = (Method::GET, path, Value::Null);
    check_refused(sidecar, request, (400, "parameter-invalid")).await;
}

#[tokio::test]
async fn an_event_is_listed_shown_delivered_and_replayed() {
    let sidecar = TestSidecar::start().await;
    let body = json!({"app_auth_token": SECOND_APP_AUTH_TOKEN, "ref": "tenant-2"});
    ask(&sidecar, Method::PUT, SECOND, &body).await;
    let first = sidecar.backend.next().await;
    assert_eq!(first.header("alipay-event-type"), "merchant.authorized");
    assert!(!String::from_utf8_lossy(&first.body).contains(SECOND_APP_AUTH_TOKEN));
    let page = parsed(&ask(&sidecar, Method::GET, "/api/inbox", &Value::Null).await);
    let id = page["items"][0]["id"].as_str().expect("an id").to_owned();
    assert_eq!(first.header("alipay-event-id"), id);
    let shown = parsed(
        &ask(
            &sidecar,
            Method::GET,
            &format!("/api/inbox/{id}"),
            &Value::Null,
        )
        .await,
    );
    assert_eq!(
        (&shown["type"], &shown["event"]["ref"]),
        (&json!("merchant.authorized"), &json!("tenant-2"))
    );
    let replay = format!("/api/inbox/{id}/replay");
    assert_eq!(
        ask(&sidecar, Method::POST, &replay, &Value::Null)
            .await
            .status,
        204
    );
    assert_eq!(sidecar.backend.next().await.header("alipay-event-id"), id);
    let unknown = id.replace(|c: char| c.is_ascii_digit(), "0");
    for id in [unknown.as_str(), "x"] {
        let path = format!("/api/inbox/{id}/replay");
        check_refused(
            &sidecar,
            (Method::POST, &path, Value::Null),
            (404, "event-unknown"),
        )
        .await;
    }
    check_refused(
        &sidecar,
        (Method::GET, "/api/inbox?state=lost", Value::Null),
        (400, "parameter-invalid"),
    )
    .await;
}

/// Dead deliveries of both types, and one of another app.
async fn given_up(sidecar: &TestSidecar, count: i64) {
    let mut changes = Vec::new();
    for n in 0..count {
        let mut entry = crate::store::entry(crate::store::START + n, None);
        match n {
            0 => entry.event_type = "dut_user_sign".to_owned(),
            1 => entry.app_id = "2021000000000099".parse().expect("an id"),
            _ => {}
        }
        let (id, attempt) = (entry.id, crate::store::attempt(entry.received_at));
        changes.push(Change::Receive(Box::new(entry)));
        changes.push(Change::Settle {
            id,
            attempt,
            owed_since: None,
            settlement: Settlement::GivenUp,
        });
    }
    sidecar
        .sidecar
        .store()
        .commit(changes)
        .await
        .expect("stored");
}

#[tokio::test]
async fn all_that_a_filter_fits_is_replayed_in_bounded_requests() {
    const DEAD: i64 = 6_000;
    // By the machine's clock, all that was given up then would be pruned.
    let clock = Arc::new(ManualClock::new(crate::store::START));
    let build = |_: &Config, builder: SidecarBuilder| builder.clock(clock);
    let sidecar = TestSidecar::start_built(|config| config.delivery.url = None, build).await;
    given_up(&sidecar, DEAD).await;
    let replay = async |filter: Value| {
        let reply = ask(&sidecar, Method::POST, "/api/inbox/replay", &filter).await;
        assert_eq!(reply.status, 200);
        parsed(&reply)
    };
    let none = replay(json!({"state": "dead", "type": "merchant.*"})).await;
    assert_eq!(none["replayed"], 0);
    let one = replay(json!({"state": "dead", "type": "dut_*"})).await;
    assert_eq!(one["replayed"], 1);
    let one = replay(json!({"state": "dead", "app_id": "2021000000000099"})).await;
    assert_eq!(one["replayed"], 1);
    let since = crate::store::START + DEAD - 10;
    let late = replay(json!({"state": "dead", "since": since})).await;
    assert_eq!(
        (&late["replayed"], &late["next"]),
        (&json!(10), &Value::Null)
    );
    let first = replay(json!({"state": "dead"})).await;
    assert_eq!(first["replayed"], 5_000);
    let rest = replay(json!({"state": "dead", "after": first["next"]})).await;
    assert_eq!(
        (&rest["replayed"], &rest["next"]),
        (&json!(988), &Value::Null)
    );
    let counts = sidecar.sidecar.store().counts().await.expect("readable");
    assert_eq!((counts.dead, counts.pending), (0, 6_000));
    for (filter, code) in [
        (json!({}), "body-invalid"),
        (json!({"state": "dead", "typ": "x"}), "body-invalid"),
        (json!({"state": "refused"}), "parameter-invalid"),
    ] {
        let request = (Method::POST, "/api/inbox/replay", filter);
        check_refused(&sidecar, request, (400, code)).await;
    }
    let get = (Method::GET, "/api/inbox/replay", Value::Null);
    check_refused(&sidecar, get, (405, "http-method-not-allowed")).await;
}

#[tokio::test]
async fn an_app_that_is_added_signs_at_once_and_no_more_once_removed() {
    const ADDED: &str = "2021000000000002";
    let sidecar = TestSidecar::start().await;
    let simulated =
        SimulatedApp::with_private_key(ADDED, &keys::private("app2048")).expect("a key");
    sidecar.simulator.add_app(simulated.own());
    let path = format!("/api/apps/{ADDED}");
    // What is empty is nothing.
    let app = json!({
        "private_key": keys::private("app2048"),
        "alipay_public_key": [keys::public("alipay2048")],
        "app_cert": "",
        "alipay_cert": "",
    });
    let view = parsed(&ask(&sidecar, Method::PUT, &path, &app).await);
    assert_eq!(
        (&view["app_id"], &view["origin"], &view["key_bits"]),
        (&json!(ADDED), &json!("store"), &json!(2048))
    );
    let call = async || {
        let request = Request::builder()
            .method("POST")
            .uri("/m/self/v2/alipay.trade.query")
            .header("alipay-app", ADDED);
        sidecar.proxy(request, r#"{"out_trade_no":"1"}"#).await
    };
    assert_eq!(
        header(&call().await, "alipay-sub-code"),
        "ACQ.TRADE_NOT_EXIST"
    );
    let listed = parsed(&ask(&sidecar, Method::GET, "/api/apps", &Value::Null).await);
    assert_eq!(
        (&listed["items"][0]["origin"], &listed["items"][1]["origin"]),
        (&json!("config"), &json!("store"))
    );
    assert_eq!(
        ask(&sidecar, Method::DELETE, &path, &Value::Null)
            .await
            .status,
        204
    );
    assert_eq!(header(&call().await, "alipay-sidecar-error"), "app-unknown");
    check_refused(
        &sidecar,
        (Method::GET, &path, Value::Null),
        (404, "app-unknown"),
    )
    .await;
    for body in [
        json!({}),
        json!({"private_key": "x", "alipay_public_key": "y"}),
        json!({"private_key": keys::private("app2048")}),
    ] {
        check_refused(&sidecar, (Method::PUT, &path, body), (400, "body-invalid")).await;
    }
    let own_key = json!({"private_key": keys::private("app2048"), "alipay_public_key": keys::public("app2048")});
    check_refused(
        &sidecar,
        (Method::PUT, &path, own_key),
        (400, "body-invalid"),
    )
    .await;
}

/// The name and labels of a series, and its value.
fn series(line: &str) -> (&str, Vec<(&str, &str)>, f64) {
    let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
    let value = value.parse().unwrap_or_else(|_| panic!("{line}"));
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    let labels = labels.strip_suffix('}').unwrap_or_else(|| panic!("{line}"));
    let labels = labels
        .split(',')
        .filter_map(|pair| pair.split_once('='))
        .map(|(label, value)| (label, value.trim_matches('"')));
    (name, labels.collect(), value)
}

#[tokio::test]
async fn metrics_have_their_names_and_closed_label_sets() {
    let sidecar = TestSidecar::start().await;
    sidecar
        .post(
            "/v2/alipay.trade.query?notify_url=https://x.example/y",
            r#"{"out_trade_no":"o-4711"}"#,
        )
        .await;
    sidecar.post("/v2/alipay.trade.query/page-url", "{}").await;
    sidecar
        .post("/gateway.do?method=alipay.trade.query", "")
        .await;
    sidecar.post("/v2/no%20method", "{}").await;
    sidecar.post("/nowhere/o-4711", "{}").await;
    sidecar
        .simulator
        .time_out_tokens(None, None)
        .expect("one merchant");
    sidecar
        .post("/v2/alipay.trade.query", r#"{"out_trade_no":"o-4711"}"#)
        .await;
    let reply = sidecar.admin(Method::GET, "/metrics", "").await;
    check_no_secret("/metrics", &reply);
    let metrics = text(&reply);
    for word in [
        FIRST_PID,
        FIRST_AUTH_APP_ID,
        ALIAS,
        "o-4711",
        "x.example",
        "http://",
    ] {
        assert!(!metrics.contains(word), "{word}");
    }
    let labels = [
        "api", "kind", "le", "method", "outcome", "phase", "reason", "rule", "state", "version",
    ];
    let mut names = BTreeSet::new();
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let (name, found, value) = series(line);
        assert!(
            value.is_finite() && value >= 0.0 || name.starts_with("process_"),
            "{line}"
        );
        assert!(
            found.iter().all(|(label, _)| labels.contains(label)),
            "{line}"
        );
        names.insert(name);
    }
    for name in [
        "requests_total",
        "request_duration_seconds_count",
        "in_flight_requests",
        "inbox_pending",
        "inbox_dead",
        "inbox_oldest_seconds",
        "token_refreshes_total",
        "signature_refusals_total",
        "notifications_total",
        "delivery_attempts_total",
        "inbox_high_water",
        "ready",
        "store_writable",
        "merchants",
        "config_generation",
        "build_info",
    ] {
        assert!(
            names.contains(format!("alipay_sidecar_{name}").as_str()),
            "{name}: {metrics}"
        );
    }
    for name in PROCESS {
        assert!(names.contains(format!("process_{name}").as_str()), "{name}");
    }
    // Whole seconds tell no rate.
    let used = metrics.lines();
    let mut used = used.filter_map(|line| line.strip_prefix("process_cpu_seconds_total "));
    let used: f64 = used.next().expect("there").parse().expect("a number");
    assert!(
        (0.001..3600.0).contains(&used) && used.fract() > 0.0,
        "{used}"
    );
    for phase in ["resolve", "sign", "upstream", "verify", "total"] {
        let series = format!(r#"request_duration_seconds_count{{api="v2",phase="{phase}"}}"#);
        assert!(metrics.contains(&series), "{series}");
    }
    for series in [
        r#"requests_total{api="v2",method="none",outcome="method-invalid"} 1"#,
        r#"requests_total{api="none",method="none",outcome="route-unknown"} 1"#,
        r#"requests_total{api="v2",method="alipay.trade.query",outcome="signed"} 1"#,
        r#"requests_total{api="v2",method="alipay.trade.query",outcome="business-error"} 2"#,
        r#"merchants{state="authorized"} 1"#,
    ] {
        assert!(
            metrics.contains(&format!("alipay_sidecar_{series}")),
            "{series}: {metrics}"
        );
    }
}

#[tokio::test]
async fn method_names_beyond_the_first_two_hundred_are_counted_together() {
    let sidecar = TestSidecar::start().await;
    for n in 0..210 {
        sidecar
            .proxy(
                Request::builder()
                    .method("POST")
                    .uri(format!("/v2/made.up.m{n}")),
                "",
            )
            .await;
    }
    let metrics = text(&sidecar.admin(Method::GET, "/metrics", "").await);
    assert!(metrics.contains(r#"method="other",outcome="merchant-required"} 10"#));
    assert_eq!(metrics.matches("method=\"made.up.").count(), 200);
}

/// The console's page is anybody's who reaches the listener; what it shows, `/api` alone gives.
#[tokio::test]
async fn the_console_is_served_whole_and_may_load_nothing_else() {
    let sidecar = TestSidecar::start().await;
    for (path, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/console.css", "text/css; charset=utf-8"),
        ("/console.js", "text/javascript; charset=utf-8"),
        ("/plots.js", "text/javascript; charset=utf-8"),
        ("/words.js", "text/javascript; charset=utf-8"),
    ] {
        let request = Request::builder().uri(path);
        let reply = sidecar.send(&sidecar.admin, request, Bytes::new()).await;
        assert_eq!(reply.status, StatusCode::OK, "{path}");
        assert_eq!(header(&reply, "content-type"), kind);
        assert_eq!(header(&reply, "x-content-type-options"), "nosniff");
        let policy = header(&reply, "content-security-policy");
        assert!(
            policy.starts_with("default-src 'none'; script-src 'self'"),
            "{policy}"
        );
        assert!(!policy.contains("unsafe"), "{policy}");
        let said = text(&reply);
        for elsewhere in ["http://", "https://", "innerHTML", "eval("] {
            let said = said.replace("http://www.w3.org/2000/svg", "");
            assert!(!said.contains(elsewhere), "{path} has {elsewhere}");
        }
        let posted = Request::builder().method(Method::POST).uri(path);
        let reply = sidecar.send(&sidecar.admin, posted, Bytes::new()).await;
        assert_eq!(reply.status, StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(header(&reply, "allow"), "GET, HEAD");
    }
}

#[tokio::test]
async fn gauges_of_a_store_that_cannot_be_read_stay_as_they_were() {
    let (sidecar, brittle) = crate::calls::brittle().await;
    let series = r#"alipay_sidecar_merchants{state="authorized"}"#;
    sidecar.wait_for_metric(series, 1.0).await;
    brittle.break_down();
    let gauge = sidecar.metric(series).await;
    assert!((gauge - 1.0).abs() < f64::EPSILON, "{gauge}");
}

#[tokio::test]
async fn the_age_of_the_oldest_that_is_owed_is_told_in_seconds() {
    let clock = ManualClock::new(crate::store::START);
    let told = clock.clone();
    let build = |_: &Config, builder: SidecarBuilder| builder.clock(Arc::new(told));
    let sidecar = TestSidecar::start_built(|config| config.delivery.url = None, build).await;
    let oldest = "alipay_sidecar_inbox_oldest_seconds ";
    let age = async |seconds: f64| {
        let told = sidecar.metric(oldest).await;
        assert!((told - seconds).abs() < f64::EPSILON, "{told}");
    };
    age(0.0).await;
    for received_at in [crate::store::START, crate::store::START + 60_000] {
        let entry = crate::store::entry(received_at, None);
        let receive = Change::Receive(Box::new(entry));
        let stored = sidecar.sidecar.store().commit(vec![receive]).await;
        stored.expect("stored");
    }
    clock.advance_ms(90_999);
    age(90.0).await;
    // A clock that was set back makes none younger than nothing.
    clock.advance_ms(-200_000);
    age(0.0).await;
}

#[tokio::test]
async fn a_problem_says_whether_the_same_again_may_succeed() {
    let sidecar = TestSidecar::start_with(|config| {
        config.upstream.gateway = Some("http://127.0.0.1:9/gateway.do".to_owned());
    })
    .await;
    let first = crate::authorizations::FIRST;
    for (method, path, retryable) in [
        (Method::POST, format!("{first}/refresh"), true),
        (Method::GET, format!("{first}/token"), true),
        (Method::GET, "/api/merchants?limit=x".to_owned(), false),
    ] {
        let told = parsed(&sidecar.admin(method, &path, "").await);
        assert_eq!(told["retryable"], retryable, "{path}: {told}");
    }
}

#[tokio::test]
async fn what_is_encoded_or_given_twice_is_refused() {
    let sidecar = TestSidecar::start().await;
    let encoded = Request::put(SECOND)
        .header("authorization", format!("Bearer {ADMIN_TOKEN}"))
        .header("content-encoding", "gzip");
    let body = json!({"app_auth_token": "t"}).to_string();
    let refused = sidecar.send(&sidecar.admin, encoded, body.into()).await;
    assert_eq!(refused.status, 400);
    assert_eq!(header(&refused, "alipay-sidecar-error"), "body-invalid");
    let twice = "/api/inbox?state=dead&state=pending";
    check_refused(
        &sidecar,
        (Method::GET, twice, Value::Null),
        (400, "parameter-duplicate"),
    )
    .await;
}
