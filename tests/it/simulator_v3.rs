//! The simulator's v3: a judge as strict as that of v2.
use std::sync::Arc;

use alipay_sidecar::simulator::{
    DEFAULT_APP_ID, FIRST_APP_AUTH_TOKEN, FIRST_AUTH_APP_ID, Fault, FaultKind, SimulatedApp,
    SimulatedMerchant, Simulator,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::support::isv::{Answer, Isv, public_key, send};
use crate::support::keys;

const QUERY: &str = "/v3/alipay/trade/query";
const NONE: &str = r#"{"out_trade_no":"none"}"#;
const KEY: &str = "aa4BtZ4tspm2wnXLb1ThQA==";

async fn start() -> Isv {
    Isv::start(|app| app).await
}

fn check_error(isv: &Isv, answer: &Answer, (status, code): (u16, &str)) {
    assert_eq!(answer.status, status, "{code}: {answer:?}");
    assert_eq!(answer.json()["code"], code, "{answer:?}");
    assert!(answer.verifies(&isv.platform_key()), "{answer:?}");
}

#[tokio::test]
async fn a_trade_lives() {
    let isv = start().await;
    let order = r#"{"out_trade_no":"v1","total_amount":"10.00","subject":"中文 a+b"}"#;
    let pay = r#"{"out_trade_no":"v2","total_amount":"10.00","subject":"x","auth_code":"28"}"#;
    let refund = r#"{"out_trade_no":"v2","refund_amount":"4.00","out_request_no":"r1"}"#;
    for (path, body, member, value) in [
        ("create", order, "out_trade_no", "v1"),
        (
            "query",
            r#"{"out_trade_no":"v1"}"#,
            "trade_status",
            "WAIT_BUYER_PAY",
        ),
        ("close", r#"{"out_trade_no":"v1"}"#, "out_trade_no", "v1"),
        ("pay", pay, "out_trade_no", "v2"),
        ("refund", refund, "fund_change", "Y"),
        ("cancel", r#"{"out_trade_no":"v3"}"#, "retry_flag", "N"),
    ] {
        let target = format!("/v3/alipay/trade/{path}");
        let answer = isv.v3("POST", &target, body).send().await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {answer:?}");
        let json = answer.json();
        assert_eq!(json[member], value, "{path}: {json}");
        assert_eq!((&json["code"], &json["msg"]), (&Value::Null, &Value::Null));
        assert!(answer.verifies(&isv.platform_key()), "{path}");
        assert!(answer.header("alipay-trace-id").is_some());
    }
    let seen = isv.simulator.requests();
    assert_eq!(seen[0].method, "/v3/alipay/trade/create");
    assert_eq!(seen[0].auth_app_id.as_deref(), Some(FIRST_AUTH_APP_ID));
    assert_eq!(seen[0].verdict, "ok");
    assert!(seen[0].body.contains(&"subject".to_owned()));
}

#[tokio::test]
async fn errors_have_a_status_and_a_signature() {
    let isv = start().await;
    let call = || isv.v3("POST", QUERY, NONE);
    let none = call().send().await;
    check_error(&isv, &none, (400, "ACQ.TRADE_NOT_EXIST"));
    assert!(none.json()["links"][0]["link"].is_string());
    let answer = call().token(None).send().await;
    check_error(&isv, &answer, (403, "self-invoke-forbidden"));
    let answer = call().token(Some("202611BBnone")).send().await;
    check_error(&isv, &answer, (401, "invalid-app-auth-token"));
    for path in ["/v3/alipay/no/such", "/v3/alipay.trade.query"] {
        let answer = isv.v3("POST", path, NONE).send().await;
        check_error(&isv, &answer, (404, "invalid-method"));
    }
    let answer = isv.v3("PUT", QUERY, NONE).send().await;
    check_error(&isv, &answer, (404, "invalid-method"));
    let answer = isv.v3("GET", QUERY, NONE).send().await;
    check_error(&isv, &answer, (400, "invalid-parameter"));
    let answer = call().content_type("text/plain").send().await;
    check_error(&isv, &answer, (400, "invalid-parameter"));
    let answer = isv.v3("POST", QUERY, "[]").send().await;
    check_error(&isv, &answer, (400, "invalid-parameter"));
    isv.simulator.time_out_tokens(None, None).unwrap();
    let answer = call().send().await;
    check_error(&isv, &answer, (401, "app-auth-token-time-out"));
}

#[tokio::test]
async fn the_authorization_header_is_read_strictly() {
    let isv = start().await;
    let app = format!("app_id={DEFAULT_APP_ID}");
    let old = "timestamp=1795361816651";
    for (auth, code) in [
        (
            format!("{app},nonce=short,timestamp={{now}}"),
            "invalid-parameter",
        ),
        (format!("{app},timestamp={{now}}"), "invalid-parameter"),
        (format!("{app},nonce={{nonce}}"), "invalid-timestamp"),
        (
            format!("{app},nonce={{nonce}},timestamp=now"),
            "invalid-timestamp",
        ),
        (
            format!("{app},nonce={{nonce}},{}", old.replace("17", "12")),
            "invalid-timestamp",
        ),
        (
            format!("{app},nonce={{nonce}},timestamp={{now}},expired_seconds=x"),
            "invalid-timestamp",
        ),
    ] {
        let answer = isv.v3("POST", QUERY, NONE).auth(&auth).send().await;
        check_error(&isv, &answer, (400, code));
    }
    let extra = format!("nonce={{nonce}},timestamp={{now}},expired_seconds=120,{app}");
    let answer = isv.v3("POST", QUERY, NONE).auth(&extra).send().await;
    check_error(&isv, &answer, (400, "ACQ.TRADE_NOT_EXIST"));
    for auth in [
        "app_id=2021999999999999,nonce={nonce},timestamp={now}",
        "nonce={nonce},timestamp={now}",
        &format!("{app},{app},nonce={{nonce}},timestamp={{now}}"),
    ] {
        let answer = isv.v3("POST", QUERY, NONE).auth(auth).send().await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{auth}");
        assert_eq!(answer.header("alipay-signature"), None, "{auth}");
    }
    let two = isv.v3("POST", QUERY, NONE).header("authorization", "x");
    assert_eq!(two.send().await.header("alipay-signature"), None);
}

#[tokio::test]
async fn a_nonce_is_used_once() {
    let isv = start().await;
    let auth = format!("app_id={DEFAULT_APP_ID},nonce=0123456789abcdef,timestamp={{now}}");
    let call = || isv.v3("POST", QUERY, NONE).auth(&auth);
    let forged = call().wire("application/json", b"{}".to_vec()).send().await;
    check_error(&isv, &forged, (400, "invalid-signature"));
    check_error(&isv, &call().send().await, (400, "ACQ.TRADE_NOT_EXIST"));
    check_error(&isv, &call().send().await, (400, "suspected-attack"));
}

#[tokio::test]
async fn every_signed_line_counts() {
    let isv = start().await;
    let bad = isv.v3("POST", QUERY, NONE).token(None);
    let bad = bad.header("alipay-app-auth-token", FIRST_APP_AUTH_TOKEN);
    let answer = bad.send().await;
    check_error(&isv, &answer, (400, "invalid-signature"));
    let message = answer.json()["message"].as_str().unwrap().to_owned();
    assert!(
        message.contains(FIRST_APP_AUTH_TOKEN),
        "the checked string: {message}"
    );
    let body = isv.v3("POST", QUERY, NONE);
    let body = body.wire("application/json", b"{\"out_trade_no\":\"nona\"}".to_vec());
    check_error(&isv, &body.send().await, (400, "invalid-signature"));
}

#[tokio::test]
async fn the_token_of_a_merchant_is_queried_and_exchanged() {
    let isv = start().await;
    let target =
        format!("/v3/alipay/open/auth/token/app/query?app_auth_token={FIRST_APP_AUTH_TOKEN}");
    let answer = isv.v3("GET", &target, "").token(None).send().await;
    assert_eq!(answer.json()["auth_app_id"], FIRST_AUTH_APP_ID);
    let code = isv.simulator.app_auth_code(None, &[]).unwrap();
    let body = json!({"grant_type": "authorization_code", "code": code}).to_string();
    let path = "/v3/alipay/open/auth/token/app";
    let answer = isv.v3("POST", path, &body).token(None).send().await;
    assert_eq!(answer.json()["tokens"][0]["auth_app_id"], FIRST_AUTH_APP_ID);
    assert!(answer.verifies(&isv.platform_key()));
}

#[tokio::test]
async fn certificates_are_named_and_can_be_downloaded() {
    use alipay_sidecar::protocol::cert::Bundle;
    let (mut isv, files) = Isv::start_with_certificates().await;
    let bundle = Bundle::parse(&files.alipay_cert).unwrap();
    let certificate = bundle.first().unwrap();
    let key = public_key(&certificate.public_key().unwrap().to_bare_base64());
    let answer = isv.v3("POST", QUERY, NONE).send().await;
    assert_eq!(answer.header("alipay-sn"), Some(certificate.sn().as_str()));
    assert!(answer.verifies(&key));

    let path = "/v3/alipay/open/app/alipaycert/download";
    let query = format!("{path}?alipay_cert_sn={}", certificate.sn());
    let body = json!({"alipay_cert_sn": certificate.sn()}).to_string();
    for (verb, target, body) in [("GET", query.as_str(), ""), ("POST", path, body.as_str())] {
        let answer = isv.v3(verb, target, body).token(None).send().await;
        assert_eq!(answer.header("alipay-signature"), None);
        let json = answer.json();
        let content = STANDARD.decode(json["alipay_cert_content"].as_str().unwrap());
        assert_eq!(content.unwrap(), files.alipay_cert.as_bytes(), "{verb}");
    }
    let sn = isv.alipay_root_cert_sn.take();
    let answer = isv.v3("POST", QUERY, NONE).send().await;
    assert_eq!(answer.json()["code"], "invalid-alipay-root-cert-sn");
    assert!(answer.verifies(&key));
    (isv.alipay_root_cert_sn, isv.app_cert_sn) = (sn, None);
    let answer = isv.v3("POST", QUERY, NONE).send().await;
    assert_eq!(answer.json()["code"], "app-cert-not-exist");
    isv.use_files(&files);
    isv.simulator.fault(Fault::once(FaultKind::ForgedCertSn));
    let answer = isv.v3("POST", QUERY, NONE).send().await;
    assert_ne!(answer.header("alipay-sn"), Some(certificate.sn().as_str()));
}

#[tokio::test]
async fn ciphertext_is_signed_and_answered_with_ciphertext() {
    let isv = Isv::start(|app| app.encrypt_key(KEY).unwrap()).await;
    // `{"out_trade_no":"1"}` of aes.json.
    let ciphertext = "v9xEJGtFY9vW2Ge//P1+YAxKsHkAURnlzVvuRfbWNro=";
    let call = |path: &str| {
        isv.v3("POST", path, ciphertext)
            .header("alipay-encrypt-type", "AES")
            .content_type("text/plain")
    };
    let answer = call("/v3/alipay/trade/cancel").send().await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(answer.verifies(&isv.platform_key()));
    assert!(STANDARD.decode(&answer.body).is_ok(), "{answer:?}");
    let error = call(QUERY).send().await;
    check_error(&isv, &error, (400, "ACQ.TRADE_NOT_EXIST"));
    let target =
        format!("/v3/alipay/open/auth/token/app/query?app_auth_token={FIRST_APP_AUTH_TOKEN}");
    let get = isv
        .v3("GET", &target, "")
        .header("alipay-encrypt-type", "AES");
    let answer = get.token(None).send().await;
    assert!(STANDARD.decode(&answer.body).is_ok(), "{answer:?}");
    // Java encrypts the data part of an upload.
    let upload = format!(
        "--b\r\nContent-Disposition:form-data;name=\"data\"\r\n\r\n{ciphertext}\r\n--b\r\n\
         Content-Disposition:form-data;name=\"f\";filename=\"a\"\r\n\r\nx\r\n--b--\r\n"
    );
    let answer = call("/v3/alipay/open/file/upload")
        .wire("multipart/form-data;boundary=b", upload.into_bytes())
        .send()
        .await;
    assert!(STANDARD.decode(&answer.body).is_ok(), "{answer:?}");
    let answer = call(QUERY).content_type("application/json").send().await;
    check_error(&isv, &answer, (400, "invalid-parameter"));
    isv.simulator
        .set_encrypt_key(DEFAULT_APP_ID, Some("BwcHBwcHBwcHBwcHBwcHBw=="))
        .unwrap();
    let answer = call(QUERY).send().await;
    check_error(&isv, &answer, (400, "decryption-error-unknown"));
    isv.simulator.set_encrypt_key(DEFAULT_APP_ID, None).unwrap();
    check_error(
        &isv,
        &call(QUERY).send().await,
        (400, "missing-encrypt-key"),
    );
}

#[tokio::test]
async fn a_test_answers_paths_of_its_own() {
    let isv = start().await;
    isv.simulator
        .answer_v3("PATCH", "/v3/alipay/x/1/modify", 200, r#"{"a":1}"#);
    isv.simulator.answer_v3("delete", "/v3/alipay/x/1", 204, "");
    isv.simulator
        .answer_v3("GET", "/v3/alipay/x", 500, r#"{"code":"x","message":"y"}"#);
    let answer = isv.v3("PATCH", "/v3/alipay/x/1/modify", "{}").send().await;
    assert_eq!(answer.body, r#"{"a":1}"#);
    assert!(answer.verifies(&isv.platform_key()));
    let answer = isv.v3("DELETE", "/v3/alipay/x/1", "").send().await;
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (StatusCode::NO_CONTENT, "")
    );
    assert_eq!(answer.header("alipay-signature"), None);
    let answer = isv
        .v3("GET", "/v3/alipay/x?q=%E4%B8%AD+1&e=", "")
        .send()
        .await;
    check_error(&isv, &answer, (500, "x"));
}

#[tokio::test]
async fn faults_are_played() {
    let isv = start().await;
    let key = isv.platform_key();
    let ask = async |kind: FaultKind| {
        isv.simulator.fault(Fault::once(kind));
        let answer = isv.v3("POST", QUERY, NONE).send().await;
        isv.simulator.clear_faults();
        answer
    };
    assert!(!ask(FaultKind::Tampered).await.verifies(&key));
    assert!(!ask(FaultKind::TamperedSign).await.verifies(&key));
    assert_eq!(
        ask(FaultKind::Unsigned).await.header("alipay-signature"),
        None
    );
    assert_eq!(ask(FaultKind::Html).await.status, StatusCode::BAD_GATEWAY);
    let answer = ask(FaultKind::TokenTimeout).await;
    check_error(&isv, &answer, (401, "app-auth-token-time-out"));
    let answer = ask(FaultKind::InvalidSignature).await;
    check_error(&isv, &answer, (400, "invalid-signature"));
    // A fault of v2's envelope waits for a call of v2.
    let answer = ask(FaultKind::WrongRoot).await;
    check_error(&isv, &answer, (400, "ACQ.TRADE_NOT_EXIST"));
    isv.simulator.fault(Fault::once(FaultKind::Reset).on(QUERY));
    assert!(send(isv.v3("POST", QUERY, NONE).request()).await.is_none());
    assert_eq!(
        isv.simulator.requests().last().unwrap().fault,
        Some("reset")
    );
}

/// What the official Node SDK has sent is accepted, and nothing else.
#[tokio::test]
async fn the_vectors_pass_the_judge() {
    let file: Value = serde_json::from_str(include_str!("../vectors/v3-request.json")).unwrap();
    let app = SimulatedApp::with_private_key("2021000122671080", &keys::private("app2048"));
    let merchant = SimulatedMerchant::new("2021000000001001", "2088000000001001").authorized(
        "2021000122671080",
        "202611BB5c1a7f2e7d3b4f0e9c8a7b6d5e4f3X24",
        "r",
    );
    let simulator = Simulator::builder()
        .app(app.unwrap().own().encrypt_key(KEY).unwrap())
        .merchant(merchant)
        .platform_key(keys::private("alipay2048"))
        .now(Arc::new(|| 1_795_361_816_800))
        .listen("127.0.0.1:0")
        .await
        .unwrap()
        .build()
        .unwrap();
    tokio::spawn(simulator.clone().run(std::future::pending()));
    let cases = file["cases"].as_array().unwrap();
    for case in cases {
        let text = |name: &str| case[name].as_str().unwrap();
        let (verb, target) = (text("http_method"), text("target"));
        let path = target.split('?').next().unwrap();
        simulator.answer_v3(verb, path, 200, "{}");
        let body = STANDARD.decode(text("body_b64")).unwrap();
        let request = |target: &str| {
            let mut request = Request::builder()
                .method(verb)
                .uri(format!("{}{target}", simulator.url()));
            for header in case["headers"].as_array().unwrap() {
                let [name, value] = [0, 1].map(|at| header[at].as_str().unwrap());
                request = request.header(name, value);
            }
            request.body(Full::new(Bytes::from(body.clone()))).unwrap()
        };
        let changed = format!(
            "{target}{}",
            if target.contains('?') { "&x=1" } else { "?x=1" }
        );
        send(request(&changed)).await.unwrap();
        let verdict = simulator.requests().last().unwrap().verdict.clone();
        assert_eq!(verdict, "isv.invalid-signature", "{}", text("id"));
        let (head, answer) = send(request(target)).await.unwrap();
        assert_eq!(head.status(), StatusCode::OK, "{}: {answer}", text("id"));
    }
    assert_eq!(cases.len(), 12);
}
