//! `GET /calls/{request_id}`: what became of a call, however long its caller had gone.

use std::sync::Arc;
use std::time::Duration;

use alipay_sidecar::clock::{Clock, ManualClock, SystemClock};
use alipay_sidecar::config::Config;
use alipay_sidecar::model::call::CallKey;
use alipay_sidecar::net::client::Reply;
use alipay_sidecar::protocol::encryption::ContentKey;
use alipay_sidecar::protocol::secret::Secret;
use alipay_sidecar::simulator::{DEFAULT_APP_ID, Fault, FaultKind};
use http::{Method, Request};

use crate::proxy::watched;
use crate::support::brittle::BrittleStore;
use crate::support::upstream::Answer;
use crate::support::{ALIAS, TestSidecar, header, json, text};

const ORDER: &str = r#"{"out_trade_no":"1","total_amount":"8.80","subject":"茶"}"#;
const CREATE: &str = "/v2/alipay.trade.create";
const STORED: &str = r#"alipay_sidecar_call_records_total{outcome="stored"}"#;
const LOST: &str = r#"alipay_sidecar_call_records_total{outcome="lost"}"#;

impl TestSidecar {
    /// Asks what became of a call.
    async fn became(&self, path: &str) -> Reply {
        let request = Request::builder().method(Method::GET).uri(path);
        self.proxy(request, "").await
    }

    async fn became_of(&self, reply: &Reply) -> Reply {
        let id = header(reply, "alipay-sidecar-request-id");
        self.became(&format!("/calls/{id}")).await
    }

    /// The outcome of the call that was made with this `X-Request-Id`, once it isn't pending.
    async fn outcome_of(&self, name: &str) -> serde_json::Value {
        let path = format!("/calls?x_request_id={name}");
        loop {
            let found = self.became(&path).await;
            if found.status == 200 && json(&found)["outcome"] != "pending" {
                return json(&found);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn check_unknown(reply: &Reply) {
    assert_eq!(reply.status, 404, "{}", text(reply));
    assert_eq!(json(reply)["code"], "call-unknown");
    assert_eq!(header(reply, "alipay-sidecar-outcome"), "not-sent");
}

#[tokio::test]
async fn the_verified_reply_can_be_had_again_byte_for_byte() {
    let (alipay, sidecar) = watched().await;
    let node = r#"{ "code":"10000","msg":"Success",  "trade_no":"2026" }"#;
    alipay.answer(Answer::Node(node.to_owned()));
    let reply = sidecar.post(CREATE, ORDER).await;
    assert_eq!(text(&reply), node);
    // At once, from memory; and once it is written, from the store.
    for _ in 0..2 {
        let became = sidecar.became_of(&reply).await;
        assert_eq!(became.status, 200, "{}", text(&became));
        assert!(
            text(&became).contains(&format!("\"reply\":{node}")),
            "{}",
            text(&became)
        );
        let told = json(&became);
        assert_eq!(
            told["request_id"],
            header(&reply, "alipay-sidecar-request-id")
        );
        assert_eq!(told["method"], "alipay.trade.create");
        assert_eq!(told["outcome"], "ok");
        assert!(told["completed_at"].as_i64().expect("a time") > 1_700_000_000_000);
        sidecar.wait_for_metric(STORED, 1.0).await;
    }
}

#[tokio::test]
async fn a_caller_that_left_finds_its_call_by_its_own_name() {
    let (alipay, sidecar) = watched().await;
    alipay.answer(Answer::Held);
    let call = {
        let request = Request::builder()
            .method(Method::POST)
            .uri(CREATE)
            .header("alipay-merchant", ALIAS)
            .header("x-request-id", "order-17");
        sidecar.proxy(request, ORDER)
    };
    tokio::select! {
        _ = call => panic!("it is held"),
        _ = alipay.next() => {}
    }
    let pending = sidecar.became("/calls?x_request_id=order-17").await;
    assert_eq!(json(&pending)["outcome"], "pending", "{}", text(&pending));
    assert!(json(&pending)["reply"].is_null());
    alipay.release();
    let over = sidecar.outcome_of("order-17").await;
    assert_eq!(
        (&over["outcome"], &over["reply"]["code"]),
        (&"ok".into(), &"10000".into())
    );
    sidecar.wait_for_metric(STORED, 1.0).await;
    assert_eq!(sidecar.outcome_of("order-17").await, over);
}

#[tokio::test]
async fn a_call_whose_outcome_is_unknown_says_so_and_has_no_reply() {
    let sidecar = TestSidecar::start().await;
    for (kind, code) in [
        (FaultKind::Tampered, "response-signature-invalid"),
        (FaultKind::Unsigned, "response-signature-invalid"),
        (FaultKind::Reset, "upstream-unreachable"),
        (FaultKind::Html, "upstream-invalid"),
    ] {
        sidecar.simulator.fault(Fault::once(kind));
        let reply = sidecar.post(CREATE, ORDER).await;
        assert_eq!(header(&reply, "alipay-sidecar-error"), code);
        let told = json(&sidecar.became_of(&reply).await);
        assert_eq!(
            (&told["outcome"], &told["error"]),
            (&"unknown".into(), &code.into())
        );
        assert!(told["reply"].is_null());
    }
}

#[tokio::test]
async fn a_call_that_was_never_sent_is_told_from_one_that_may_have_acted() {
    let sidecar = TestSidecar::start_with(|config| {
        // Nobody listens on it.
        config.upstream.gateway = Some("http://127.0.0.1:9/gateway.do".to_owned());
    })
    .await;
    let reply = sidecar.post(CREATE, ORDER).await;
    assert_eq!(header(&reply, "alipay-sidecar-outcome"), "not-sent");
    let told = json(&sidecar.became_of(&reply).await);
    assert_eq!(told["outcome"], "not-sent");
    assert_eq!(told["error"], "upstream-unreachable");
}

#[tokio::test]
async fn queries_refusals_signed_ones_and_what_gives_tokens_are_not_on_record() {
    let sidecar = TestSidecar::start().await;
    for (path, body) in [
        ("/v2/alipay.trade.query", r#"{"out_trade_no":"1"}"#),
        (
            "/v2/alipay.system.oauth.token?grant_type=authorization_code&code=x",
            "",
        ),
        (
            "/v2/alipay.open.auth.token.app",
            r#"{"grant_type":"authorization_code","code":"x"}"#,
        ),
        ("/v2/alipay.trade.create?app_id=1", ORDER),
        ("/v2/alipay.trade.app.pay/order-string", ORDER),
        ("/v3/alipay/trade/query", r#"{"out_trade_no":"1"}"#),
        (
            "/v3/alipay/open/auth/token/app",
            r#"{"grant_type":"authorization_code","code":"x"}"#,
        ),
    ] {
        let reply = sidecar.post(path, body).await;
        check_unknown(&sidecar.became_of(&reply).await);
    }
    for path in [
        "/calls/17",
        "/calls/017f22e2-79b0-7cc3-98c4-dc0c0c07398f",
        "/calls?x_request_id=x",
    ] {
        check_unknown(&sidecar.became(path).await);
    }
    let unnamed = sidecar.became("/calls").await;
    assert_eq!(json(&unnamed)["code"], "parameter-invalid");
}

#[tokio::test]
async fn only_a_get_of_no_web_page_is_answered() {
    let sidecar = TestSidecar::start().await;
    let reply = sidecar.post(CREATE, ORDER).await;
    let path = format!("/calls/{}", header(&reply, "alipay-sidecar-request-id"));
    let posted = sidecar.post(&path, "").await;
    assert_eq!(
        (posted.status.as_u16(), header(&posted, "allow")),
        (405, "GET")
    );
    let page = Request::builder()
        .uri(&path)
        .header("origin", "https://evil.example");
    let refused = sidecar.proxy(page, "").await;
    assert_eq!(json(&refused)["code"], "browser-refused");
}

#[tokio::test]
async fn a_reply_of_v3_stands_there_with_its_status() {
    let sidecar = TestSidecar::start().await;
    let check = async |path: &str, answer: (u16, &str), reply: serde_json::Value| {
        sidecar
            .simulator
            .answer_v3("POST", path, answer.0, answer.1);
        let called = sidecar.post(path, ORDER).await;
        let told = json(&sidecar.became_of(&called).await);
        assert_eq!(
            (&told["status"], &told["reply"]),
            (&answer.0.into(), &reply)
        );
    };
    let ok = serde_json::json!({"a": 1});
    check("/v3/alipay/some/deed", (200, r#"{"a":1}"#), ok).await;
    check("/v3/alipay/no/content", (204, ""), serde_json::Value::Null).await;
    let refusal = serde_json::json!({"code": "X", "message": "no"});
    check(
        "/v3/alipay/refused/deed",
        (400, r#"{"code":"X","message":"no"}"#),
        refusal,
    )
    .await;
    check("/v3/alipay/odd/deed", (200, "no JSON"), "no JSON".into()).await;
}

#[tokio::test]
async fn what_was_encrypted_stands_there_as_its_caller_got_it() {
    let key = "AAECAwQFBgcICQoLDA0ODw==";
    let sidecar = TestSidecar::start_before(|simulator, config| {
        simulator
            .set_encrypt_key(DEFAULT_APP_ID, Some(key))
            .expect("a key");
        config.apps[0].encrypt_key = Some(Secret::new(key.to_owned()));
    })
    .await;
    let open = sidecar.post(CREATE, ORDER).await;
    let told = json(&sidecar.became_of(&open).await);
    assert_eq!(told["reply"], json(&open));
    let key = ContentKey::from_base64(key).expect("a key");
    let content = key.encrypt(ORDER.as_bytes()).expect("encrypted");
    let mut form = alipay_sidecar::protocol::params::Params::new();
    form.set("method", "alipay.trade.create");
    form.set("app_auth_token", format!("merchant:{ALIAS}"));
    form.set("encrypt_type", "AES");
    form.set("biz_content", content);
    let form = form.to_form(alipay_sidecar::protocol::charset::Charset::Utf8);
    let request = Request::builder()
        .method(Method::POST)
        .uri("/gateway.do")
        .header("content-type", "application/x-www-form-urlencoded");
    let closed = sidecar.proxy(request, form.expect("a form")).await;
    let told = json(&sidecar.became_of(&closed).await);
    let sent = &json(&closed)["alipay_trade_create_response"];
    assert!(sent.is_string(), "{}", text(&closed));
    assert_eq!(&told["reply"], sent);
}

#[tokio::test]
async fn a_record_is_kept_for_a_day() {
    let clock = ManualClock::new(SystemClock.now_ms());
    let told = clock.clone();
    let change = |_: &mut _| ();
    let sidecar =
        TestSidecar::start_built(change, |_, builder| builder.clock(Arc::new(told))).await;
    let reply = sidecar.post(CREATE, ORDER).await;
    sidecar.wait_for_metric(STORED, 1.0).await;
    clock.advance_ms(24 * 3_600_000 - 1);
    assert_eq!(sidecar.became_of(&reply).await.status, 200);
    clock.advance_ms(1);
    check_unknown(&sidecar.became_of(&reply).await);
    let pruned = sidecar.sidecar.store().prune(clock.now_ms() + 1, 0).await;
    assert_eq!(pruned.expect("pruned").calls, 1);
}

/// A sidecar on a store that can be told to fail.
pub(crate) async fn brittle() -> (TestSidecar, BrittleStore) {
    brittle_with(|_| ()).await
}

pub(crate) async fn brittle_with(change: impl FnOnce(&mut Config)) -> (TestSidecar, BrittleStore) {
    let mut brittle = None;
    let sidecar = TestSidecar::start_built(change, |config, builder| {
        let store = BrittleStore::open(config);
        brittle = Some(store.clone());
        builder.store(Arc::new(store))
    })
    .await;
    (sidecar, brittle.expect("built"))
}

#[tokio::test]
async fn a_broken_store_slows_no_call_and_its_records_are_written_when_it_heals() {
    let (sidecar, brittle) = brittle().await;
    brittle.break_commits();
    let reply = sidecar.post(CREATE, ORDER).await;
    assert_eq!(json(&reply)["code"], "10000", "{}", text(&reply));
    let told = json(&sidecar.became_of(&reply).await);
    assert_eq!(told["outcome"], "ok");
    brittle.heal();
    sidecar.wait_for_metric(STORED, 1.0).await;
    assert!(sidecar.metric(LOST).await < 0.5);
    assert_eq!(json(&sidecar.became_of(&reply).await), told);
}

#[tokio::test]
async fn a_store_that_is_broken_for_a_minute_loses_no_record() {
    let (sidecar, brittle) = brittle().await;
    brittle.break_commits();
    let reply = sidecar.post(CREATE, ORDER).await;
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(60)).await;
    tokio::time::resume();
    assert!(sidecar.metric(LOST).await < 0.5);
    brittle.heal();
    sidecar.wait_for_metric(STORED, 1.0).await;
    check_stored(&sidecar, header(&reply, "alipay-sidecar-request-id")).await;
}

#[tokio::test]
async fn a_store_that_stays_broken_keeps_no_sidecar_from_ending() {
    let (sidecar, brittle) = brittle().await;
    brittle.break_commits();
    // More than one commit's.
    for n in 0..300 {
        let order = ORDER.replace("\"1\"", &format!("\"{n}\""));
        sidecar.post(CREATE, order).await;
    }
    let inner = sidecar.sidecar.clone();
    let ending = inner.background(std::future::ready(()));
    let ended = tokio::time::timeout(Duration::from_secs(12), ending).await;
    ended
        .expect("in the seconds of one commit")
        .expect("it ends");
    assert!(sidecar.metric(LOST).await > 299.5);
}

#[tokio::test]
async fn a_bug_of_the_store_loses_what_it_was_given_and_nothing_after_it() {
    let (sidecar, brittle) = brittle().await;
    for lost in [1.0, 2.0] {
        brittle.panic_on_records();
        let reply = sidecar.post(CREATE, ORDER).await;
        assert_eq!(json(&reply)["code"], "10000", "{}", text(&reply));
        sidecar.wait_for_metric(LOST, lost).await;
        check_unknown(&sidecar.became_of(&reply).await);
    }
    let reply = sidecar.post(CREATE, ORDER).await;
    sidecar.wait_for_metric(STORED, 1.0).await;
    assert_eq!(json(&sidecar.became_of(&reply).await)["outcome"], "ok");
    sidecar.ended().await;
}

#[tokio::test]
async fn a_hosts_background_ends_once_what_became_of_calls_is_written() {
    let (sidecar, brittle) = brittle().await;
    brittle.break_commits();
    let reply = sidecar.post(CREATE, ORDER).await;
    let inner = sidecar.sidecar.clone();
    let mut ending = std::pin::pin!(inner.background(std::future::ready(())));
    let ended = tokio::time::timeout(Duration::from_millis(300), &mut ending).await;
    assert!(ended.is_err(), "a record isn't written yet");
    brittle.heal();
    ending.await.expect("it ends");
    check_stored(&sidecar, header(&reply, "alipay-sidecar-request-id")).await;
}

/// Asks the store itself, not what waits for it.
async fn check_stored(sidecar: &TestSidecar, id: &str) {
    let key = CallKey::Id(id.parse().expect("an id"));
    let store = sidecar.sidecar.store();
    let found = store.call(key, SystemClock.now_ms()).await;
    assert!(found.expect("readable").is_some(), "{id}");
}

#[tokio::test]
async fn what_became_of_calls_is_written_before_the_sidecar_ends() {
    let sidecar = TestSidecar::start().await;
    let mut ids = Vec::new();
    for n in 0..20 {
        let order = ORDER.replace("\"1\"", &format!("\"{n}\""));
        let reply = sidecar.post(CREATE, order).await;
        ids.push(header(&reply, "alipay-sidecar-request-id").to_owned());
    }
    sidecar.ended().await;
    for id in ids {
        check_stored(&sidecar, &id).await;
    }
}
