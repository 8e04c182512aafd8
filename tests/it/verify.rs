//! What came back through a browser or an app, checked for a backend.

use alipay_sidecar::model::authorization::Authorization;
use alipay_sidecar::net::client::Reply;
use alipay_sidecar::protocol::charset::Charset;
use alipay_sidecar::protocol::key::AppPrivateKey;
use alipay_sidecar::protocol::params::Params;
use alipay_sidecar::protocol::secret::Secret;
use alipay_sidecar::protocol::signature::SignType;
use alipay_sidecar::simulator::{DEFAULT_APP_ID, SECOND_AUTH_APP_ID, SECOND_PID};
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};

use crate::support::{ALIAS, TestSidecar, add_merchant, app, header, json, keys, merchant, text};

const SECOND_APP_ID: &str = "2021000000000002";

/// Signs as Alipay does, with the key that every test app takes for Alipay's.
fn sign(content: &[u8]) -> String {
    let platform = AppPrivateKey::from_text(&keys::private("alipay2048")).expect("a key");
    platform.sign(SignType::Rsa2, content).expect("signed")
}

async fn post(sidecar: &TestSidecar, path: &str, body: &str) -> Reply {
    let request = Request::builder().method(Method::POST).uri(path);
    sidecar.proxy(request, body.to_owned()).await
}

fn is_refused(reply: &Reply, code: &str, why: &str) {
    assert_eq!(
        header(reply, "alipay-sidecar-error"),
        code,
        "{why}: {}",
        text(reply)
    );
    assert_eq!(header(reply, "alipay-sidecar-outcome"), "not-sent");
    assert_eq!(header(reply, "content-type"), "application/problem+json");
    assert_eq!(json(reply)["code"], code);
}

/// The query of a `return_url`, in the order Alipay sends it, signed by V1.
fn returned(charset: Charset, change: &[(&str, &str)]) -> String {
    let mut params = Params::new();
    for (name, value) in [
        ("charset", charset.label()),
        ("out_trade_no", "T 1+"),
        ("method", "alipay.trade.page.pay.return"),
        ("total_amount", "88.8800"),
        ("app_id", DEFAULT_APP_ID),
        ("seller", "商店"),
        ("sign_type", "RSA2"),
        ("timestamp", "2026-11-25 10:20:30"),
    ]
    .iter()
    .chain(change)
    {
        params.set(*name, *value);
    }
    let is_signed = |(name, value): &(&str, &str)| *name != "sign_type" && !value.is_empty();
    let mut pairs: Vec<_> = params
        .iter()
        .filter(is_signed)
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    pairs.sort();
    let content = charset.encode(&pairs.join("&")).expect("encodable");
    params.set("sign", sign(&content));
    params.to_form(charset).expect("encodable")
}

#[tokio::test]
async fn a_return_is_verified_and_read() {
    let sidecar = TestSidecar::start().await;
    for charset in [Charset::Utf8, Charset::Gbk] {
        let query = returned(charset, &[]);
        for (path, body) in [
            ("/verify/return", query.clone()),
            ("/m/nobody/verify/return", format!("?{query}")),
        ] {
            let reply = post(&sidecar, path, &body).await;
            assert_eq!(reply.status, StatusCode::OK, "{}", text(&reply));
            assert_eq!(header(&reply, "alipay-sidecar-verified"), "true");
            assert!(!header(&reply, "alipay-sidecar-request-id").is_empty());
            let expected = format!(
                r#"{{"charset":"{}","out_trade_no":"T 1+","method":"alipay.trade.page.pay.return","total_amount":"88.8800","app_id":"{DEFAULT_APP_ID}","seller":"商店","timestamp":"2026-11-25 10:20:30"}}"#,
                charset.label()
            );
            assert_eq!(text(&reply), expected);
        }
    }
    let series = r#"alipay_sidecar_requests_total{api="verify",method="none",outcome="ok"}"#;
    sidecar.wait_for_metric(series, 4.0).await;
}

#[tokio::test]
async fn a_return_that_isnt_alipays_is_refused() {
    let sidecar = TestSidecar::start().await;
    let query = returned(Charset::Utf8, &[]);
    let unsigned = query.split("&sign=").next().expect("a part").to_owned();
    for (body, code) in [
        (
            query.replace("88.8800", "0.01"),
            "response-signature-invalid",
        ),
        (format!("{query}&extra=1"), "response-signature-invalid"),
        (unsigned, "response-signature-invalid"),
        (
            returned(Charset::Utf8, &[("app_id", "2021000000000009")]),
            "response-signature-invalid",
        ),
        (
            returned(Charset::Utf8, &[("app_id", "")]),
            "response-signature-invalid",
        ),
        (query.replace("RSA2", "RSA"), "response-signature-invalid"),
        (
            format!("{query}&app_id={DEFAULT_APP_ID}"),
            "parameter-duplicate",
        ),
        (format!("{query}%"), "parameter-invalid"),
        (
            query.replace("charset=utf-8", "charset=latin1"),
            "charset-unsupported",
        ),
        (String::new(), "body-invalid"),
    ] {
        is_refused(&post(&sidecar, "/verify/return", &body).await, code, &body);
    }
}

/// A signed query in which a pair was put into the value of the one that stands before it in what is signed.
fn merged(query: &str, into: &str, hidden: &str) -> String {
    let mut all = Params::from_form(query.as_bytes(), Charset::Utf8).expect("a form");
    let taken = all.remove(hidden).expect("there");
    let value = format!("{}&{hidden}={taken}", all.get(into).expect("there"));
    all.set(into, value);
    all.to_form(Charset::Utf8).expect("UTF-8")
}

#[tokio::test]
async fn a_parameter_of_a_payments_return_is_hidden_in_no_other() {
    let sidecar = TestSidecar::start().await;
    let own = [
        ("t", "a=1&trade=2"),
        ("next", "/pay?method=alipay.trade.page.pay&total_amount=1"),
        ("trade_no", "2026112522001"),
        ("version", "1.0"),
        ("zone", "a&b"),
    ];
    let query = returned(Charset::Utf8, &own);
    let reply = post(&sidecar, "/verify/return", &query).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", text(&reply));
    assert_eq!(json(&reply)["next"], own[1].1);
    for (into, hidden) in [
        ("t", "timestamp"),
        ("timestamp", "total_amount"),
        ("next", "out_trade_no"),
        ("charset", "method"),
        ("total_amount", "trade_no"),
        ("trade_no", "version"),
        ("version", "zone"),
    ] {
        let reply = post(&sidecar, "/verify/return", &merged(&query, into, hidden)).await;
        let code = match into {
            "charset" => "charset-unsupported",
            _ => "response-signature-invalid",
        };
        is_refused(&reply, code, hidden);
    }
    // The merchant's own `next` says it; what Alipay says is put behind it, or into the next name.
    let own = [("next", "/x&out_trade_no=OTHER"), ("page", "1")];
    let query = returned(Charset::Utf8, &own);
    let mut all = Params::from_form(query.as_bytes(), Charset::Utf8).expect("a form");
    all.set("next", "/x");
    let order = all.get("out_trade_no").expect("there").to_owned();
    let mut behind = all.clone();
    behind.set("out_trade_no", format!("OTHER&out_trade_no={order}"));
    all.set("out_trade_no", "OTHER");
    all.remove("page");
    all.set(format!("out_trade_no={order}&page"), "1");
    for forged in [behind, all] {
        let forged = forged.to_form(Charset::Utf8).expect("UTF-8");
        let reply = post(&sidecar, "/verify/return", &forged).await;
        is_refused(&reply, "response-signature-invalid", &forged);
    }
    // Of another product it isn't known what its return must have.
    let other = [
        ("method", "alipay.user.agreement.page.sign.return"),
        ("next", "/cart?a=1&trade_no=2"),
    ];
    let reply = post(&sidecar, "/verify/return", &returned(Charset::Utf8, &other)).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", text(&reply));
}

/// An app's result around `node`, signed over its bytes in `charset`.
fn result(node: &str, charset: Charset) -> String {
    let sign = sign(&charset.encode(node).expect("encodable"));
    format!(r#"{{"alipay_trade_app_pay_response":{node},"sign":"{sign}","sign_type":"RSA2"}}"#)
}

fn node(charset: &str) -> String {
    format!(
        r#"{{"code":"10000","msg":"Success","app_id":"{DEFAULT_APP_ID}","charset":"{charset}","total_amount":"9.00","big":12345678901234567890,"subject":"商\u5e97"}}"#
    )
}

#[tokio::test]
async fn an_apps_result_is_verified_bare_or_in_its_map() {
    let sidecar = TestSidecar::start().await;
    for (charset, label) in [
        (Charset::Utf8, "UTF-8"),
        (Charset::Utf8, "GBK"),
        (Charset::Gbk, "GBK"),
    ] {
        let node = node(label);
        let bare = result(&node, charset);
        let map = json!({"resultStatus": "9000", "result": bare, "memo": ""}).to_string();
        for body in [bare, map] {
            let reply = post(&sidecar, "/verify/app-result", &body).await;
            assert_eq!(reply.status, StatusCode::OK, "{}", text(&reply));
            assert_eq!(text(&reply), node);
            assert_eq!(header(&reply, "alipay-code"), "10000");
        }
    }
    let failed = r#"{"code":"40004","msg":"Business Failed","sub_code":"ACQ.TRADE_HAS_CLOSE"}"#;
    let reply = post(
        &sidecar,
        "/verify/app-result",
        &result(failed, Charset::Utf8),
    )
    .await;
    assert_eq!(text(&reply), failed);
    assert_eq!(header(&reply, "alipay-sub-code"), "ACQ.TRADE_HAS_CLOSE");
}

#[tokio::test]
async fn an_apps_result_that_isnt_alipays_is_refused() {
    let sidecar = TestSidecar::start().await;
    let node = node("UTF-8");
    let good = result(&node, Charset::Utf8);
    let of = |app_id: &str| result(&node.replace(DEFAULT_APP_ID, app_id), Charset::Utf8);
    for (body, code) in [
        (good.replace("9.00", "0.01"), "response-signature-invalid"),
        (of("2021000000000009"), "response-signature-invalid"),
        (
            format!(r#"{{"alipay_trade_app_pay_response":{node}}}"#),
            "response-signature-invalid",
        ),
        (
            r#"{"error_response":{"code":"40002","msg":"x"}}"#.to_owned(),
            "response-signature-invalid",
        ),
        (
            good.replace("\"sign\":", "\"b_response\":{},\"sign\":"),
            "response-signature-invalid",
        ),
        (
            r#"{"resultStatus":"6001","result":"","memo":"x"}"#.to_owned(),
            "body-invalid",
        ),
        (
            "resultStatus={9000};memo={};result={}".to_owned(),
            "body-invalid",
        ),
        (String::new(), "body-invalid"),
    ] {
        let reply = post(&sidecar, "/verify/app-result", &body).await;
        is_refused(&reply, code, &body);
    }
}

#[tokio::test]
async fn a_host_program_checks_without_http() {
    let sidecar = TestSidecar::start().await;
    let params = sidecar
        .sidecar
        .verify_return(&returned(Charset::Gbk, &[]))
        .await;
    assert_eq!(params.expect("verified").get("seller"), Some("商店"));
    let node = node("UTF-8");
    let result = result(&node, Charset::Utf8);
    let read = sidecar.sidecar.verify_app_result(None, &result).await;
    assert_eq!(read.expect("verified"), node);
    let forged = result.replace("9.00", "0.01");
    let error = sidecar.sidecar.verify_app_result(None, &forged).await;
    assert_eq!(
        error.expect_err("forged").code.as_str(),
        "response-signature-invalid"
    );
}

#[tokio::test]
async fn where_no_app_is_named_the_header_says_which() {
    let sidecar = TestSidecar::start_with(|config| config.apps.push(app(SECOND_APP_ID))).await;
    let body = result(r#"{"code":"10000"}"#, Charset::Utf8);
    let ask = |app: Option<&'static str>| {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri("/verify/app-result");
        if let Some(app) = app {
            request = request.header("alipay-app", app);
        }
        sidecar.proxy(request, body.clone())
    };
    is_refused(&ask(None).await, "app-required", "two apps");
    is_refused(
        &ask(Some("2021000000000009")).await,
        "app-unknown",
        "no such app",
    );
    assert_eq!(ask(Some(SECOND_APP_ID)).await.status, StatusCode::OK);
}

#[tokio::test]
async fn the_front_door_and_the_limits_are_those_of_all_routes() {
    let sidecar = TestSidecar::start_with(|config| config.proxy.max_body = 3000).await;
    for path in [
        "/verify/return",
        "/verify/app-result",
        "/v2/client-data/decrypt",
    ] {
        let get = Request::builder().method(Method::GET).uri(path);
        let reply = sidecar.proxy(get, "").await;
        is_refused(&reply, "http-method-not-allowed", path);
        assert_eq!(header(&reply, "allow"), "POST");
        let page = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header("origin", "http://x");
        is_refused(&sidecar.proxy(page, "").await, "browser-refused", path);
        is_refused(
            &post(&sidecar, path, &"x".repeat(3001)).await,
            "body-too-large",
            path,
        );
        let parts = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header("content-type", "multipart/form-data; boundary=x");
        is_refused(&sidecar.proxy(parts, "").await, "body-invalid", path);
    }
}

fn client_data(id: &str) -> Value {
    let file: Value = serde_json::from_str(include_str!("../vectors/replies.json")).expect("JSON");
    let cases = file["cases"]["client_data"]
        .as_array()
        .expect("cases")
        .clone();
    let case = cases.into_iter().find(|case| case["id"] == id);
    case.expect("such a case")
}

fn message(id: &str) -> String {
    client_data(id)["message"]
        .as_str()
        .expect("text")
        .to_owned()
}

fn with_key(key: &str) -> Authorization {
    Authorization {
        encrypt_key: Some(Secret::new(key.to_owned())),
        ..merchant(
            SECOND_AUTH_APP_ID,
            SECOND_PID,
            "202611BB00000000000000000000000000000002",
            Some("keyed"),
        )
    }
}

async fn with_keyed_merchant() -> TestSidecar {
    let sidecar = TestSidecar::start().await;
    let key = client_data("encrypted")["aes_key"].clone();
    let authorization = with_key(key.as_str().expect("text"));
    add_merchant(&*sidecar.sidecar.store(), authorization).await;
    sidecar
}

#[tokio::test]
async fn client_data_is_verified_and_decrypted_with_the_merchants_key() {
    let sidecar = with_keyed_merchant().await;
    let path = "/m/keyed/v2/client-data/decrypt";
    for id in ["encrypted", "encrypted-with-sign-type", "plain-error"] {
        let case = client_data(id);
        let message = message(id);
        let callback = json!({"response": message, "errMsg": "ok"}).to_string();
        for body in [message, callback] {
            let reply = post(&sidecar, path, &body).await;
            assert_eq!(reply.status, StatusCode::OK, "{id}: {}", text(&reply));
            assert_eq!(text(&reply), case["plaintext"].as_str().expect("text"));
            let plain: Value = serde_json::from_slice(&reply.body).expect("JSON");
            assert_eq!(header(&reply, "alipay-code"), plain["code"]);
            let sub_code = plain["subCode"].as_str().unwrap_or_default();
            assert_eq!(header(&reply, "alipay-sub-code"), sub_code);
        }
    }
    for (id, code) in [
        ("signed-without-quotes", "response-signature-invalid"),
        ("tampered", "response-signature-invalid"),
    ] {
        is_refused(&post(&sidecar, path, &message(id)).await, code, id);
    }
    for body in ["", "{}", "[]", r#"{"response":"a"}"#] {
        is_refused(&post(&sidecar, path, body).await, "body-invalid", body);
    }
    let untagged = post(&sidecar, "/v2/client-data/decrypt", &message("encrypted")).await;
    is_refused(&untagged, "merchant-required", "untagged");
}

#[tokio::test]
async fn the_isvs_own_client_data_opens_with_its_own_key() {
    let case = client_data("encrypted");
    let key = case["aes_key"].as_str().expect("text").to_owned();
    let sidecar =
        TestSidecar::start_with(|config| config.apps[0].encrypt_key = Some(Secret::new(key))).await;
    let path = "/m/self/v2/client-data/decrypt";
    let reply = post(&sidecar, path, &message("encrypted")).await;
    assert_eq!(text(&reply), case["plaintext"].as_str().expect("text"));
}

#[tokio::test]
async fn a_key_that_opens_nothing_says_what_to_do() {
    let sidecar = with_keyed_merchant().await;
    let wrong = Authorization {
        rank: alipay_sidecar::model::authorization::Rank::AuthTime(9),
        ..with_key("AAAAAAAAAAAAAAAAAAAAAA==")
    };
    add_merchant(&*sidecar.sidecar.store(), wrong).await;
    let path = "/m/keyed/v2/client-data/decrypt";
    let reply = post(&sidecar, path, &message("encrypted")).await;
    is_refused(&reply, "response-decryption-failed", "a wrong key");
    let own = post(
        &sidecar,
        "/m/self/v2/client-data/decrypt",
        &message("encrypted"),
    )
    .await;
    is_refused(&own, "response-decryption-failed", "no key of its own");
    assert!(text(&own).contains("encrypt_key"), "{}", text(&own));
    let keyless = format!("/m/{ALIAS}/v2/client-data/decrypt");
    let reply = post(&sidecar, &keyless, &message("encrypted")).await;
    is_refused(&reply, "response-decryption-failed", "no key");
    assert!(text(&reply).contains("--encrypt-key"), "{}", text(&reply));
}
