//! The audit log through the front door: one line for each call, notification and change, and no
//! secret in any.

use std::path::PathBuf;
use std::time::Duration;

use alipay_sidecar::audit::chain::{ChainKey, Head};
use alipay_sidecar::audit::verify::{Extent, Report, verify};
use alipay_sidecar::audit::{all_files, anchor};
use alipay_sidecar::config::Config;
use alipay_sidecar::simulator::{
    DEFAULT_APP_ID, FIRST_APP_AUTH_TOKEN, FIRST_APP_REFRESH_TOKEN, FIRST_AUTH_APP_ID,
};
use http::{HeaderValue, Method, Request, StatusCode};
use serde_json::Value;

use crate::support::signed::Platform;
use crate::support::{ADMIN_TOKEN, ALIAS, PATIENCE, TestSidecar, header, keys};

const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn path(config: &Config) -> PathBuf {
    config.telemetry.audit_file.clone().expect("configured")
}

fn lines(config: &Config) -> Vec<Value> {
    let text = std::fs::read_to_string(path(config)).expect("text");
    let line = |line| serde_json::from_str(line).expect("JSON");
    text.lines().map(line).collect()
}

/// The lines in which these members are so.
pub(crate) fn those<'l>(lines: &'l [Value], members: &[(&str, &str)]) -> Vec<&'l Value> {
    let fits = |line: &&Value| members.iter().all(|(name, value)| line[*name] == *value);
    lines.iter().filter(fits).collect()
}

/// The only line in which these members are so.
pub(crate) fn one<'l>(lines: &'l [Value], members: &[(&str, &str)]) -> &'l Value {
    let found = those(lines, members);
    assert_eq!(found.len(), 1, "{members:?} in {lines:#?}");
    found[0]
}

fn verified(config: &Config, anchored: Option<Head>) -> Report {
    let files = all_files(&path(config)).expect("readable");
    let key = config.store.key.as_ref().expect("a key");
    let key = ChainKey::derive(key.expose().as_bytes());
    verify(&files, Some(&key), (Extent::Whole, anchored)).expect("readable")
}

/// It ends, and its log is whole.
pub(crate) async fn ended(sidecar: &TestSidecar) -> Vec<Value> {
    sidecar.ended().await;
    let store = sidecar.sidecar.store();
    let anchored = anchor::kept(&*store).await.expect("readable");
    let report = verified(&sidecar.config, anchored);
    assert!(report.good, "{:?}", report.problems);
    assert_eq!(report.anchored, report.last.map(|(seq, _)| seq));
    lines(&sidecar.config)
}

#[tokio::test]
async fn each_call_leaves_one_line_with_who_what_and_how_it_ended() {
    let sidecar = TestSidecar::start().await;
    let request = Request::post("/v2/alipay.trade.query")
        .header("alipay-merchant", ALIAS)
        .header("x-request-id", "order-7")
        .header("traceparent", TRACE);
    let reply = sidecar.proxy(request, r#"{"out_trade_no":"8001"}"#).await;
    let request_id = header(&reply, "alipay-sidecar-request-id").to_owned();
    let unknown = Request::post("/v2/alipay.trade.query").header("alipay-merchant", "nobody");
    sidecar.proxy(unknown, "{}").await;
    sidecar
        .post("/v2/alipay.trade.app.pay/order-string", "{}")
        .await;
    let calls = format!("/calls/{request_id}");
    sidecar.proxy(Request::get(calls), "").await;
    let in_process = sidecar
        .sidecar
        .request("alipay.trade.query")
        .merchant(ALIAS);
    in_process.biz_content("{}").send().await.expect("verified");
    sidecar.post("/events/claim", "{}").await;
    let claimed_nothing = "nothing was claimed";
    let lines = ended(&sidecar).await;
    let line = one(&lines, &[("request_id", &request_id)]);
    assert_eq!(line["event"], "call");
    assert_eq!(line["kind"], "v2");
    assert_eq!(line["method"], "alipay.trade.query");
    assert_eq!(line["app_id"], DEFAULT_APP_ID);
    assert_eq!(line["auth_app_id"], FIRST_AUTH_APP_ID);
    assert_eq!(line["caller_request_id"], "order-7");
    assert_eq!(line["traceparent"], TRACE);
    assert_eq!(line["trace_id"], header(&reply, "alipay-trace-id"));
    let outcome = match header(&reply, "alipay-code") {
        "10000" => "ok",
        _ => "business-error",
    };
    assert_eq!(line["outcome"], outcome);
    let refused = one(&lines, &[("outcome", "merchant-unknown")]);
    assert_eq!(refused["method"], "alipay.trade.query");
    let signed = one(&lines, &[("outcome", "signed")]);
    assert_eq!(signed["method"], "alipay.trade.app.pay");
    assert_eq!(those(&lines, &[("kind", "calls")]).len(), 1);
    let internal = lines.iter().filter(|line| line["in_process"] == true);
    assert_eq!(internal.count(), 1);
    assert_eq!(
        those(&lines, &[("kind", "events")]).len(),
        0,
        "{claimed_nothing}"
    );
}

#[tokio::test]
async fn after_a_drain_the_store_goes_on_hearing_how_far_the_log_has_come() {
    let sidecar = TestSidecar::start().await;
    let store = sidecar.sidecar.store();
    for path in ["/api/drain", "/api/inbox/prune"] {
        let done = sidecar.admin(Method::POST, path, "").await;
        assert_eq!(done.status, StatusCode::OK, "{path}");
    }
    // It hears so every 10 s.
    let told = async {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let lines = lines(&sidecar.config);
            let pruned = those(&lines, &[("path", "/api/inbox/prune")]);
            let kept = anchor::kept(&*store).await.expect("readable");
            if let (Some(line), Some(kept)) = (pruned.first(), kept)
                && line["seq"].as_u64() <= Some(kept.seq)
            {
                return;
            }
        }
    };
    let told = tokio::time::timeout(PATIENCE, told).await;
    told.expect("what was done after the drain can't be cut off unnoticed");
}

#[tokio::test]
async fn an_id_of_the_caller_is_told_where_it_is_one() {
    let sidecar = TestSidecar::start().await;
    let (longest, longer) = ("x".repeat(128), "x".repeat(129));
    let mut told = Vec::new();
    for (id, is_told) in [
        ("Order_7.a-b", true),
        (longest.as_str(), true),
        (longer.as_str(), false),
        ("a b", false),
        ("\"", false),
        ("é", false),
        ("", false),
    ] {
        let value = HeaderValue::from_bytes(id.as_bytes()).expect("a value");
        let request = Request::post("/v2/alipay.trade.query")
            .header("alipay-merchant", ALIAS)
            .header("x-request-id", value);
        let reply = sidecar.proxy(request, r#"{"out_trade_no":"8001"}"#).await;
        assert_eq!(reply.status, StatusCode::OK, "{id}");
        let request_id = header(&reply, "alipay-sidecar-request-id").to_owned();
        told.push((request_id, is_told.then(|| id.to_owned())));
    }
    let lines = ended(&sidecar).await;
    for (request_id, id) in told {
        let line = one(&lines, &[("request_id", &request_id)]);
        let told = line.get("caller_request_id").and_then(Value::as_str);
        assert_eq!(told, id.as_deref(), "{line}");
    }
}

#[tokio::test]
async fn each_notification_leaves_a_line_and_a_flood_of_forged_ones_a_few() {
    let sidecar = TestSidecar::start().await;
    let signed = Platform::new().payment("notify-1", "8001");
    let post = || {
        Request::post("/alipay/notify/pay")
            .header("content-type", "application/x-www-form-urlencoded")
    };
    for _ in 0..2 {
        let reply = sidecar.webhook(post(), signed.body.clone()).await;
        assert_eq!(reply.status, StatusCode::OK);
    }
    let forged = signed.body.replace("8%2E80", "9%2E90");
    assert_ne!(forged, signed.body);
    for _ in 0..40 {
        let reply = sidecar.webhook(post(), forged.clone()).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST);
    }
    sidecar
        .webhook(
            Request::get("/alipay/auth?app_auth_code=secret-code&state=bad"),
            "",
        )
        .await;
    let lines = ended(&sidecar).await;
    let accepted = one(
        &lines,
        &[("event", "notification"), ("outcome", "accepted")],
    );
    assert_eq!(accepted["kind"], "payment");
    assert_eq!(accepted["type"], "trade_status_sync");
    assert_eq!(accepted["app_id"], DEFAULT_APP_ID);
    assert_eq!(accepted["notify_id"], "notify-1");
    let duplicate = one(&lines, &[("outcome", "duplicate")]);
    assert_eq!(duplicate["event_id"], accepted["event_id"]);
    let forged = those(&lines, &[("outcome", "forged")]);
    let (told, folded): (Vec<&Value>, Vec<&Value>) = forged
        .into_iter()
        .partition(|line| line["folded"].is_null());
    // The minute may have turned meanwhile.
    assert!((5..=10).contains(&told.len()), "{told:?}");
    let counted: u64 = folded
        .iter()
        .filter_map(|line| line["folded"].as_u64())
        .sum();
    let told_count = u64::try_from(told.len()).expect("few");
    assert_eq!(counted + told_count, 40);
    one(
        &lines,
        &[("event", "authorization"), ("outcome", "state-refused")],
    );
}

#[tokio::test]
async fn what_operators_change_is_told_and_what_they_read_is_not() {
    let sidecar = TestSidecar::start().await;
    sidecar.admin(Method::GET, "/api/merchants", "").await;
    let merchant = format!("/api/merchants/{DEFAULT_APP_ID}/{FIRST_AUTH_APP_ID}");
    sidecar
        .admin(
            Method::PUT,
            &merchant,
            r#"{"app_auth_token":"app-auth-token-secret"}"#,
        )
        .await;
    sidecar
        .admin(Method::GET, &format!("{merchant}/token"), "")
        .await;
    sidecar
        .admin(
            Method::DELETE,
            "/api/merchants/2021000000009999/2021000000009999",
            "",
        )
        .await;
    sidecar.admin(Method::GET, "/api/store/backup", "").await;
    let stranger = Request::get("/api/merchants").header("authorization", "Bearer wrong");
    let refused = sidecar.send(&sidecar.admin, stranger, "".into()).await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    let lines = ended(&sidecar).await;
    let admin = those(&lines, &[("event", "admin")]);
    assert_eq!(admin.len(), 5, "{admin:#?}");
    let put = one(&lines, &[("action", "PUT")]);
    assert_eq!(put["path"], merchant);
    assert_eq!(put["outcome"], "ok");
    assert_eq!(one(&lines, &[("action", "DELETE")])["status"], 404);
    one(&lines, &[("path", "/api/store/backup")]);
    one(&lines, &[("path", &format!("{merchant}/token"))]);
    assert_eq!(
        one(&lines, &[("outcome", "unauthenticated")])["path"],
        "/api/merchants"
    );
}

#[tokio::test]
async fn no_line_holds_a_secret() {
    let sidecar = TestSidecar::start().await;
    let merchant = format!("/api/merchants/{DEFAULT_APP_ID}/{FIRST_AUTH_APP_ID}");
    sidecar
        .post(
            "/v2/alipay.trade.query",
            r#"{"out_trade_no":"canary-content"}"#,
        )
        .await;
    let by_token =
        format!("/gateway.do?method=alipay.trade.query&app_auth_token={FIRST_APP_AUTH_TOKEN}");
    sidecar.proxy(Request::get(by_token), "").await;
    let unknown = "/gateway.do?method=alipay.trade.query&app_auth_token=canary-token";
    sidecar.proxy(Request::get(unknown), "").await;
    let exchange = "/v2/alipay.open.auth.token.app?grant_type=authorization_code&code=canary-code";
    sidecar
        .proxy(
            Request::post(exchange).header("alipay-merchant", "self"),
            "",
        )
        .await;
    sidecar
        .admin(Method::POST, &format!("{merchant}/refresh"), "")
        .await;
    let body = r#"{"app_auth_token":"canary-put","app_refresh_token":"canary-refresh"}"#;
    sidecar.admin(Method::PUT, &merchant, body).await;
    for given in [format!("Bearer {ADMIN_TOKEN}"), "Bearer wrong".to_owned()] {
        let target = format!("/api/merchants?access_token={ADMIN_TOKEN}&x=canary-query");
        let request = Request::post(target).header("authorization", given);
        let refused = sidecar.send(&sidecar.admin, request, "".into()).await;
        assert!(refused.status.is_client_error());
    }
    let callback = format!("/alipay/auth?app_id={DEFAULT_APP_ID}&app_auth_code=canary-auth-code");
    sidecar.webhook(Request::get(callback), "").await;
    let push = Platform::new().authorization("push-1", "2021000000003001", 1_795_335_630_000);
    let post = || {
        Request::post("/alipay/gateway").header("content-type", "application/x-www-form-urlencoded")
    };
    assert_eq!(
        sidecar.webhook(post(), push.body.clone()).await.status,
        StatusCode::OK
    );
    sidecar
        .webhook(post(), push.body.replace("push-1", "push-2"))
        .await;
    let lines = ended(&sidecar).await;
    assert!(lines.len() > 8, "{lines:#?}");
    let text = std::fs::read_to_string(path(&sidecar.config)).expect("text");
    let store_key = sidecar.config.store.key.as_ref().expect("a key");
    let pem = keys::private("app2048");
    let of_key = pem.lines().nth(2).expect("a line of the key");
    for secret in [
        "canary",
        "token-push",
        "refresh-push",
        FIRST_APP_AUTH_TOKEN,
        FIRST_APP_REFRESH_TOKEN,
        ADMIN_TOKEN,
        store_key.expose(),
        of_key,
    ] {
        assert!(!text.contains(secret), "{secret} in\n{text}");
    }
}

#[tokio::test]
async fn an_empty_file_name_and_a_host_turn_it_off() {
    let off = TestSidecar::start_with(|config| config.telemetry.audit_file = None).await;
    off.post("/v2/alipay.trade.query", "{}").await;
    let without = TestSidecar::start_built(|_| (), |_, builder| builder.without_audit()).await;
    without.post("/v2/alipay.trade.query", "{}").await;
    without.ended().await;
    assert!(!path(&without.config).exists());
}

#[tokio::test]
async fn calls_go_on_while_the_log_cannot_be_written() {
    let sidecar = TestSidecar::start().await;
    sidecar.post("/v2/alipay.trade.query", "{}").await;
    let path = path(&sidecar.config);
    let away = path.with_extension("jsonl.away");
    std::fs::rename(&path, &away).expect("renamed");
    std::fs::create_dir(&path).expect("in the way");
    for _ in 0..20 {
        let reply = sidecar.post("/v2/alipay.trade.query", "{}").await;
        assert_eq!(reply.status, StatusCode::OK);
    }
    std::fs::remove_dir(&path).expect("removed");
    std::fs::rename(&away, &path).expect("renamed");
    let lines = ended(&sidecar).await;
    assert_eq!(those(&lines, &[("event", "call")]).len(), 21);
}

#[tokio::test]
async fn what_alipay_signed_and_is_refused_is_named() {
    const MANY: usize = 20;
    let sidecar = TestSidecar::start_with(|config| config.delivery.high_water = 0).await;
    let platform = Platform::new();
    for n in 0..MANY {
        let body = platform.payment(&format!("notify-{n}"), "8001").body;
        let post = Request::post("/alipay/notify")
            .header("content-type", "application/x-www-form-urlencoded");
        let reply = sidecar.webhook(post, body).await;
        assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    }
    let lines = ended(&sidecar).await;
    let refused = those(&lines, &[("kind", "payment"), ("outcome", "refused")]);
    assert_eq!(refused.len(), MANY, "{refused:#?}");
    let line = one(&lines, &[("notify_id", "notify-7")]);
    assert_eq!(line["app_id"], DEFAULT_APP_ID);
    assert_eq!(line["type"], "trade_status_sync");
    assert!(
        line["reason"]
            .as_str()
            .is_some_and(|r| r.contains("high_water"))
    );
}

#[tokio::test]
async fn who_authorised_by_a_callback_is_told() {
    let sidecar = TestSidecar::start().await;
    let code = sidecar
        .simulator
        .app_auth_code(None, &[FIRST_AUTH_APP_ID])
        .expect("a code");
    let path = format!("/alipay/auth?app_id={DEFAULT_APP_ID}&app_auth_code={code}");
    let reply = sidecar.webhook(Request::get(path), "").await;
    assert_eq!(reply.status, StatusCode::OK);
    let series = r#"alipay_sidecar_browsers_total{kind="callback",outcome="accepted"}"#;
    assert!((sidecar.metric(series).await - 1.0).abs() < f64::EPSILON);
    let lines = ended(&sidecar).await;
    let told = [("kind", "callback"), ("outcome", "accepted")];
    let line = one(&lines, &told);
    assert_eq!(line["app_id"], DEFAULT_APP_ID);
    assert_eq!(line["auth_app_id"], FIRST_AUTH_APP_ID);
}

#[tokio::test]
async fn browsers_that_get_nowhere_are_told_of_and_counted() {
    let sidecar = TestSidecar::start().await;
    let login = "/alipay/auth?source=alipay_wallet&auth_code=canary-user-code";
    for path in ["/alipay/auth?app_auth_code=%zz", login] {
        sidecar.webhook(Request::get(path), "").await;
    }
    for path in [
        "/alipay/auth?app_auth_code=canary-code",
        "/alipay/auth/start",
    ] {
        let unclear = Request::get(path)
            .header("content-type", "text/plain")
            .header("content-type", "text/html");
        let reply = sidecar.webhook(unclear, "").await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST);
    }
    for (kind, outcome, count) in [
        ("callback", "malformed", 2.0),
        ("start", "malformed", 1.0),
        ("user-login", "no-user-return", 1.0),
        ("callback", "accepted", 0.0),
    ] {
        let series =
            format!("alipay_sidecar_browsers_total{{kind=\"{kind}\",outcome=\"{outcome}\"}}");
        let counted = sidecar.metric(&series).await;
        assert!((counted - count).abs() < f64::EPSILON, "{series} {counted}");
    }
    let lines = ended(&sidecar).await;
    let of = |kind| those(&lines, &[("event", "authorization"), ("kind", kind)]).len();
    assert_eq!((of("callback"), of("start"), of("user-login")), (2, 1, 1));
    let text = std::fs::read_to_string(path(&sidecar.config)).expect("text");
    assert!(!text.contains("canary"), "{text}");
}
