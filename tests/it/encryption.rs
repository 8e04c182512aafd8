//! Content encryption (接口内容加密方式): what leaves, what comes back, what can't be opened.

use alipay_sidecar::config::Config;
use alipay_sidecar::config::delivery::DeliveryFormat;
use alipay_sidecar::protocol::charset::Charset;
use alipay_sidecar::protocol::encryption::ContentKey;
use alipay_sidecar::protocol::params::Params;
use alipay_sidecar::protocol::secret::Secret;
use alipay_sidecar::simulator::{
    DEFAULT_APP_ID, DEFAULT_USER_ID, Event, FIRST_AUTH_APP_ID, Fault, FaultKind,
    SECOND_AUTH_APP_ID, Simulator, TriggerOptions,
};
use http::Request;

use crate::support::{ALIAS, TestSidecar, header, json, text};

const KEY: &str = "AAECAwQFBgcICQoLDA0ODw==";
const ORDER: &str = r#"{"out_trade_no":"1","total_amount":"8.80","subject":"茶"}"#;

fn key() -> ContentKey {
    ContentKey::from_base64(KEY).expect("a key")
}

/// Both sides have the key, and Alipay takes nothing that isn't encrypted.
fn encrypted(simulator: &Simulator, config: &mut Config) {
    simulator
        .set_encrypt_key(DEFAULT_APP_ID, Some(KEY))
        .expect("a key");
    simulator
        .require_encryption(DEFAULT_APP_ID, true)
        .expect("an app");
    config.apps[0].encrypt_key = Some(Secret::new(KEY.to_owned()));
}

#[tokio::test]
async fn calls_leave_encrypted_and_replies_arrive_open() {
    let sidecar = TestSidecar::start_before(encrypted).await;
    let reply = sidecar.post("/v2/alipay.trade.create", ORDER).await;
    assert_eq!(json(&reply)["code"], "10000", "{}", text(&reply));
    assert_eq!(json(&reply)["out_trade_no"], "1");
    assert_eq!(header(&reply, "alipay-code"), "10000");
    assert_eq!(header(&reply, "alipay-sidecar-verified"), "true");
    let refused = sidecar
        .post("/v2/alipay.trade.query", r#"{"out_trade_no":"2"}"#)
        .await;
    assert_eq!(header(&refused, "alipay-sub-code"), "ACQ.TRADE_NOT_EXIST");
}

#[tokio::test]
async fn tokens_are_exchanged_and_refreshed_under_encryption() {
    let sidecar = TestSidecar::start_before(encrypted).await;
    sidecar
        .simulator
        .time_out_tokens(None, None)
        .expect("tokens");
    let reply = sidecar.post("/v2/alipay.trade.create", ORDER).await;
    assert_eq!(json(&reply)["code"], "10000", "{}", text(&reply));
    let refreshed = "alipay_sidecar_token_refreshes_total{outcome=\"refreshed\"}";
    assert!((sidecar.metric(refreshed).await - 1.0).abs() < f64::EPSILON);
}

#[tokio::test]
async fn what_is_signed_for_others_holds_the_ciphertext() {
    let sidecar = TestSidecar::start_before(encrypted).await;
    let reply = sidecar
        .post("/v2/alipay.trade.app.pay/order-string", ORDER)
        .await;
    let params = Params::from_form(&reply.body, Charset::Utf8).expect("a form");
    assert_eq!(params.get("encrypt_type"), Some("AES"));
    let content = key().decrypt(params.get("biz_content").expect("contents"));
    assert_eq!(content.expect("ours").expose(), ORDER.as_bytes());
}

#[tokio::test]
async fn an_sdk_encrypts_and_decrypts_by_itself() {
    let sidecar = TestSidecar::start_before(encrypted).await;
    let mut form = Params::new();
    form.set("method", "alipay.trade.create");
    form.set("app_auth_token", format!("merchant:{ALIAS}"));
    form.set("encrypt_type", "AES");
    form.set(
        "biz_content",
        key().encrypt(ORDER.as_bytes()).expect("encrypted"),
    );
    let request = Request::builder().method("POST").uri("/gateway.do");
    let body = form.to_form(Charset::Utf8).expect("UTF-8");
    let reply = json(&sidecar.proxy(request, body).await);
    let node = reply["alipay_trade_create_response"]
        .as_str()
        .expect("a ciphertext");
    let opened = key().decrypt(node).expect("with the same key");
    let opened: serde_json::Value = serde_json::from_slice(opened.expose()).expect("JSON");
    assert_eq!(opened["out_trade_no"], "1");
}

/// Makes one call on which `fault` strikes, and gives the error.
async fn struck(sidecar: &TestSidecar, fault: FaultKind) -> (String, String) {
    sidecar.simulator.fault(Fault::once(fault));
    let reply = sidecar.post("/v2/alipay.trade.create", ORDER).await;
    assert_eq!(reply.status, 502, "{}", text(&reply));
    assert!(!text(&reply).contains("out_trade_no"));
    let of = |name| header(&reply, name).to_owned();
    (of("alipay-sidecar-error"), of("alipay-sidecar-outcome"))
}

#[tokio::test]
async fn a_ciphertext_that_cant_be_opened_or_wasnt_signed_with_its_quotes_is_refused() {
    let sidecar = TestSidecar::start_before(encrypted).await;
    let check = |found: (String, String), code: &str| {
        assert_eq!(found, (code.to_owned(), "unknown".to_owned()));
    };
    let garbled = struck(&sidecar, FaultKind::GarbledCiphertext).await;
    check(garbled, "response-decryption-failed");
    let quotes = struck(&sidecar, FaultKind::CiphertextQuotes).await;
    check(quotes, "response-signature-invalid");
    let tampered = struck(&sidecar, FaultKind::Tampered).await;
    check(tampered, "response-signature-invalid");
}

#[tokio::test]
async fn a_ciphertext_without_a_key_is_refused_but_passes_to_who_may_have_one() {
    let sidecar = TestSidecar::start_before(|simulator, config| {
        encrypted(simulator, config);
        config.apps[0].encrypt_key = None;
    })
    .await;
    sidecar
        .simulator
        .require_encryption(DEFAULT_APP_ID, false)
        .expect("an app");
    let ciphertext = key().encrypt(ORDER.as_bytes()).expect("encrypted");
    let mut form = Params::new();
    for (name, value) in [
        ("method", "alipay.trade.create"),
        ("encrypt_type", "AES"),
        ("biz_content", &ciphertext),
    ] {
        form.set(name, value);
    }
    let body = form.to_form(Charset::Utf8).expect("UTF-8");
    let request = Request::builder().method("POST").uri("/gateway.do");
    let request = request.header("alipay-merchant", ALIAS);
    let reply = sidecar.proxy(request, body).await;
    assert!(json(&reply)["alipay_trade_create_response"].is_string());
}

#[tokio::test]
async fn what_alipay_says_where_nobody_here_can_read_it_counts_as_no_success() {
    for (here, expected) in [
        (None, "unopened"),
        (Some("EBESExQVFhcYGRobHB0eHw=="), "unopened"),
        (Some(KEY), "business-error"),
    ] {
        let sidecar = TestSidecar::start_before(|simulator, config| {
            encrypted(simulator, config);
            config.apps[0].encrypt_key = here.map(|key| Secret::new(key.to_owned()));
        })
        .await;
        let mut form = Params::new();
        form.set("method", "alipay.trade.close");
        form.set("encrypt_type", "AES");
        let asked = key().encrypt(br#"{"out_trade_no":"nobodys"}"#);
        form.set("biz_content", asked.expect("encrypted"));
        let body = form.to_form(Charset::Utf8).expect("UTF-8");
        let request = Request::post("/gateway.do").header("alipay-merchant", ALIAS);
        let reply = sidecar.proxy(request, body).await;
        let node = &json(&reply)["alipay_trade_close_response"];
        let opened = key().decrypt(node.as_str().expect("a ciphertext"));
        let opened = String::from_utf8(opened.expect("opened").expose().clone());
        assert!(opened.expect("UTF-8").contains("40004"));
        let id = header(&reply, "alipay-sidecar-request-id").to_owned();
        let became = Request::get(format!("/calls/{id}"));
        let became = json(&sidecar.proxy(became, "").await);
        assert_eq!(became["outcome"], expected);
        assert_eq!(&became["reply"], node);
        let series = format!(
            r#"alipay_sidecar_requests_total{{api="gateway",method="alipay.trade.close",outcome="{expected}"}}"#
        );
        assert!((sidecar.metric(&series).await - 1.0).abs() < f64::EPSILON);
    }
}

async fn trigger(sidecar: &TestSidecar, event: Event) {
    let options = TriggerOptions {
        encrypted: true,
        auth_app_id: Some(FIRST_AUTH_APP_ID.to_owned()),
        ..TriggerOptions::default()
    };
    sidecar
        .simulator
        .trigger(event, &options)
        .await
        .expect("sent");
}

#[tokio::test]
async fn an_encrypted_authorisation_is_read_and_reaches_the_backend_without_its_token() {
    for format in [DeliveryFormat::Form, DeliveryFormat::Json] {
        let sidecar = TestSidecar::start_before(|simulator, config| {
            encrypted(simulator, config);
            config.delivery.format = format;
        })
        .await;
        trigger(&sidecar, Event::PluginOrder).await;
        let seen = sidecar.backend.next().await;
        assert_eq!(seen.header("alipay-event-type"), "merchant.authorized");
        assert_eq!(seen.json()["auth_app_id"], FIRST_AUTH_APP_ID);
        let said = String::from_utf8_lossy(&seen.body).into_owned();
        assert!(!said.contains("token"), "{said}");
        let reply = sidecar.post("/v2/alipay.trade.create", ORDER).await;
        assert_eq!(json(&reply)["code"], "10000", "the pushed token is in use");
    }
}

#[tokio::test]
async fn an_encrypted_cancellation_marks_the_merchant() {
    let sidecar = TestSidecar::start_before(encrypted).await;
    trigger(&sidecar, Event::Cancel).await;
    let seen = sidecar.backend.next().await;
    assert_eq!(seen.header("alipay-event-type"), "merchant.revoked");
    let reply = sidecar.post("/v2/alipay.trade.create", ORDER).await;
    assert_eq!(
        header(&reply, "alipay-sidecar-error"),
        "merchant-unauthorized"
    );
}

#[tokio::test]
async fn an_encrypted_authorisation_that_cant_be_opened_is_not_acked() {
    let sidecar = TestSidecar::start_before(|simulator, config| {
        encrypted(simulator, config);
        config.apps[0].encrypt_key = None;
    })
    .await;
    let options = TriggerOptions {
        encrypted: true,
        wait: true,
        attempts: Some(1),
        auth_app_id: Some(FIRST_AUTH_APP_ID.to_owned()),
        ..TriggerOptions::default()
    };
    for event in [Event::PluginOrder, Event::Cancel] {
        let sent = sidecar
            .simulator
            .trigger(event, &options)
            .await
            .expect("sent");
        let answer = sent.attempts.last().expect("waited for");
        assert_eq!(
            (answer.status, answer.answer.as_str()),
            (Some(503), "fail"),
            "{event:?}"
        );
    }
    assert!(sidecar.backend.is_quiet().await);
}

#[tokio::test]
async fn a_users_cancellation_that_cant_be_opened_is_not_acked_where_users_are_remembered() {
    for (remember, status) in [(true, 503), (false, 200)] {
        let sidecar = TestSidecar::start_before(|simulator, config| {
            encrypted(simulator, config);
            config.apps[0].encrypt_key = None;
            config.tokens.remember_users = remember;
        })
        .await;
        let method = "alipay.open.auth.userauth.cancelled".to_owned();
        let options = TriggerOptions {
            encrypted: true,
            wait: true,
            attempts: Some(1),
            params: [("msg_method".to_owned(), method)].into(),
            ..TriggerOptions::default()
        };
        let sent = sidecar.simulator.trigger(Event::Cancel, &options).await;
        let sent = sent.expect("sent");
        let answer = sent.attempts.last().expect("waited for");
        assert_eq!(answer.status, Some(status), "{remember}");
    }
}

#[tokio::test]
async fn tokens_that_an_sdk_asked_for_encrypted_are_stored_or_not_asked_for() {
    for (held, status) in [(true, 200), (false, 400)] {
        let sidecar = TestSidecar::start_before(|simulator, config| {
            encrypted(simulator, config);
            if !held {
                config.apps[0].encrypt_key = None;
            }
        })
        .await;
        let code = sidecar
            .simulator
            .app_auth_code(None, &[SECOND_AUTH_APP_ID])
            .expect("a code");
        let grant = format!(r#"{{"grant_type":"authorization_code","code":"{code}"}}"#);
        let ciphertext = key().encrypt(grant.as_bytes()).expect("encrypted");
        let request = Request::builder()
            .method("POST")
            .uri("/v3/alipay/open/auth/token/app")
            .header("alipay-merchant", ALIAS)
            .header("alipay-encrypt-type", "AES");
        let reply = sidecar.proxy(request, ciphertext).await;
        assert_eq!(reply.status, status, "{}", text(&reply));
        if !held {
            assert_eq!(header(&reply, "alipay-sidecar-outcome"), "not-sent");
            continue;
        }
        let request = Request::builder()
            .method("POST")
            .uri("/v2/alipay.trade.create");
        let request = request.header("alipay-merchant", SECOND_AUTH_APP_ID);
        let reply = sidecar.proxy(request, ORDER).await;
        assert_eq!(json(&reply)["code"], "10000", "{}", text(&reply));
    }
}

#[tokio::test]
async fn a_login_that_an_sdk_encrypted_on_v3_is_kept() {
    let sidecar = TestSidecar::start_before(|simulator, config| {
        encrypted(simulator, config);
        config.tokens.remember_users = true;
    })
    .await;
    let code = sidecar.simulator.auth_code(None, None).expect("a code");
    let grant = format!(r#"{{"grant_type":"authorization_code","code":"{code}"}}"#);
    let request = Request::post("/v3/alipay/system/oauth/token")
        .header("alipay-merchant", ALIAS)
        .header("alipay-encrypt-type", "AES");
    let ciphertext = key().encrypt(grant.as_bytes()).expect("encrypted");
    let reply = sidecar.proxy(request, ciphertext).await;
    assert_eq!(reply.status, 200, "{}", text(&reply));
    key().decrypt(text(&reply).trim()).expect("as it came");
    let request = Request::post("/v2/alipay.user.info.share")
        .header("alipay-merchant", ALIAS)
        .header("alipay-user", DEFAULT_USER_ID);
    let reply = sidecar.proxy(request, "{}").await;
    assert_eq!(json(&reply)["user_id"], DEFAULT_USER_ID, "{}", text(&reply));
}
