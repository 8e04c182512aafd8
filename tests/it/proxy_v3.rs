//! `/v3/…`: Alipay's REST protocol without its `Authorization`.

use std::sync::Arc;

use alipay_sidecar::net::client::Reply;
use alipay_sidecar::protocol::encryption::ContentKey;
use alipay_sidecar::protocol::secret::Secret;
use alipay_sidecar::simulator::{
    DEFAULT_APP_ID, FIRST_APP_AUTH_TOKEN, FIRST_AUTH_APP_ID, Fault, FaultKind, SECOND_AUTH_APP_ID,
};
use bytes::Bytes;
use http::Request;

use crate::support::brittle::TiringSigner;
use crate::support::{ALIAS, TestSidecar, header, json, text};

const ORDER: &str = r#"{"out_trade_no":"1","total_amount":"8.80","subject":"茶"}"#;
const CREATE: &str = "/v3/alipay/trade/create";

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

fn check_error(reply: &Reply, status: u16, code: &str, outcome: &str) {
    assert_eq!(reply.status, status, "{}", text(reply));
    assert_eq!(header(reply, "alipay-sidecar-error"), code);
    assert_eq!(header(reply, "alipay-sidecar-outcome"), outcome);
    assert_eq!(json(reply)["code"], format!("sidecar.{code}"));
    assert!(json(reply)["message"].is_string());
}

#[tokio::test]
async fn a_call_is_signed_verified_and_handed_back_byte_for_byte() {
    let sidecar = TestSidecar::start().await;
    let reply = sidecar.post(CREATE, ORDER).await;
    assert_eq!(reply.status, 200, "{}", text(&reply));
    assert_eq!(json(&reply)["out_trade_no"], "1");
    assert_eq!(header(&reply, "alipay-sidecar-verified"), "true");
    for name in [
        "alipay-signature",
        "alipay-nonce",
        "alipay-timestamp",
        "alipay-trace-id",
    ] {
        assert!(!header(&reply, name).is_empty(), "{name}");
    }
    assert!(!header(&reply, "alipay-sidecar-request-id").is_empty());
    let refused = sidecar
        .post("/v3/alipay/trade/query", r#"{"out_trade_no":"2"}"#)
        .await;
    assert_eq!(refused.status, 400, "{}", text(&refused));
    assert_eq!(header(&refused, "alipay-sidecar-verified"), "true");
    assert_eq!(header(&refused, "alipay-sidecar-error"), "");
    let counted =
        "alipay_sidecar_requests_total{api=\"v3\",method=\"alipay.trade.create\",outcome=\"ok\"}";
    assert!((sidecar.metric(counted).await - 1.0).abs() < f64::EPSILON);
}

#[tokio::test]
async fn the_merchant_is_tagged_by_header_path_or_token() {
    let sidecar = TestSidecar::start().await;
    let tag = format!("merchant:{ALIAS}");
    for (path, headers) in [
        (CREATE.to_owned(), vec![("alipay-merchant", ALIAS)]),
        (format!("/m/{ALIAS}{CREATE}"), vec![]),
        (
            CREATE.to_owned(),
            vec![("alipay-app-auth-token", tag.as_str())],
        ),
        (
            CREATE.to_owned(),
            vec![("alipay-app-auth-token", FIRST_APP_AUTH_TOKEN)],
        ),
    ] {
        let reply = send(&sidecar, ("POST", &path), &headers, ORDER).await;
        assert_eq!(reply.status, 200, "{path} {headers:?}: {}", text(&reply));
    }
    for (headers, code, status) in [
        (vec![], "merchant-required", 400),
        (vec![("alipay-merchant", "nobody")], "merchant-unknown", 404),
        (
            vec![("alipay-app-auth-token", "never-held")],
            "token-unknown",
            404,
        ),
        (
            vec![
                ("alipay-app-auth-token", "a"),
                ("alipay-app-auth-token", "b"),
            ],
            "merchant-conflict",
            400,
        ),
        (
            vec![
                ("alipay-merchant", ALIAS),
                ("alipay-app", "2021000000009999"),
            ],
            "app-unknown",
            400,
        ),
    ] {
        let reply = send(&sidecar, ("POST", CREATE), &headers, ORDER).await;
        check_error(&reply, status, code, "not-sent");
    }
    let seen = sidecar.simulator.requests();
    assert_eq!(seen.len(), 4);
    assert!(
        seen.iter()
            .all(|r| r.auth_app_id.as_deref() == Some(FIRST_AUTH_APP_ID))
    );
}

#[tokio::test]
async fn a_tag_that_cant_be_read_never_falls_back_to_the_default_merchant() {
    let sidecar = TestSidecar::start_with(|config| {
        config.proxy.default_merchant = Some(ALIAS.parse().expect("a selector"));
    })
    .await;
    let reply = send(&sidecar, ("POST", CREATE), &[], ORDER).await;
    assert_eq!(reply.status, 200, "untagged: {}", text(&reply));
    let request = Request::builder().method("POST").uri(CREATE);
    let tag = http::HeaderValue::from_bytes("merchant:店铺".as_bytes()).expect("a value");
    let reply = sidecar
        .proxy(request.header("alipay-app-auth-token", tag), ORDER)
        .await;
    check_error(&reply, 404, "token-unknown", "not-sent");
    let request = Request::builder().method("POST").uri(CREATE);
    let asked = http::HeaderValue::from_bytes(b"\xff").expect("a value");
    let reply = sidecar
        .proxy(request.header("alipay-encrypt-type", asked), ORDER)
        .await;
    check_error(&reply, 400, "parameter-invalid", "not-sent");
}

#[tokio::test]
async fn every_http_method_goes_through_with_its_query_and_body_as_they_came() {
    let sidecar = TestSidecar::start().await;
    let path = "/v3/alipay/test/thing";
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
        sidecar
            .simulator
            .answer_v3(method, path, 200, format!(r#"{{"method":"{method}"}}"#));
        let target = format!("{path}?b=%E4%B8%AD&a=x+y&b2=%2f&empty=");
        let body = if method == "GET" {
            ""
        } else {
            r#"{ "b" : 1.00, "a":"\u4e2d" }"#
        };
        let reply = send(
            &sidecar,
            (method, &target),
            &[("alipay-merchant", ALIAS)],
            body,
        )
        .await;
        assert_eq!(reply.status, 200, "{method}: {}", text(&reply));
        assert_eq!(text(&reply), format!(r#"{{"method":"{method}"}}"#));
    }
    sidecar.simulator.answer_v3("DELETE", path, 204, "");
    let reply = send(
        &sidecar,
        ("DELETE", path),
        &[("alipay-merchant", ALIAS)],
        "",
    )
    .await;
    assert_eq!((reply.status.as_u16(), text(&reply).as_str()), (204, ""));
    assert_eq!(header(&reply, "alipay-sidecar-verified"), "no-content");
    let reply = send(&sidecar, ("OPTIONS", path), &[], "").await;
    check_error(&reply, 405, "http-method-not-allowed", "not-sent");
    assert_eq!(header(&reply, "allow"), "DELETE, GET, PATCH, POST, PUT");
}

#[tokio::test]
async fn what_cant_be_sent_as_it_is_is_refused() {
    let sidecar = TestSidecar::start().await;
    for (path, code) in [
        ("/v3/alipay/../trade/query", "parameter-invalid"),
        ("/v3/alipay/trade/%71uery", "parameter-invalid"),
        ("/v3/alipay//trade", "parameter-invalid"),
        ("/v3/", "parameter-invalid"),
    ] {
        let reply = send(
            &sidecar,
            ("POST", path),
            &[("alipay-merchant", ALIAS)],
            ORDER,
        )
        .await;
        check_error(&reply, 400, code, "not-sent");
    }
    let get = ("GET", "/v3/alipay/trade/query");
    let reply = send(&sidecar, get, &[("alipay-merchant", ALIAS)], ORDER).await;
    check_error(&reply, 400, "body-invalid", "not-sent");
    let strange = [("alipay-merchant", ALIAS), ("alipay-encrypt-type", "DES")];
    let reply = send(&sidecar, ("POST", CREATE), &strange, ORDER).await;
    check_error(&reply, 400, "parameter-invalid", "not-sent");
    let keyless = [("alipay-merchant", ALIAS), ("alipay-encrypt-type", "AES")];
    let reply = send(&sidecar, ("POST", CREATE), &keyless, ORDER).await;
    check_error(&reply, 400, "parameter-invalid", "not-sent");
    assert!(sidecar.simulator.requests().is_empty());
}

#[tokio::test]
async fn a_reply_that_isnt_verified_never_reaches_the_caller() {
    let sidecar = TestSidecar::start().await;
    for (fault, code) in [
        (FaultKind::Tampered, "response-signature-invalid"),
        (FaultKind::TamperedSign, "response-signature-invalid"),
        (FaultKind::Unsigned, "response-signature-invalid"),
        (FaultKind::Html, "upstream-invalid"),
        (FaultKind::Oversized, "upstream-invalid"),
        (FaultKind::Reset, "upstream-unreachable"),
    ] {
        sidecar.simulator.fault(Fault::once(fault));
        let reply = sidecar.post(CREATE, ORDER).await;
        assert_eq!(
            header(&reply, "alipay-sidecar-error"),
            code,
            "{fault:?} {}",
            text(&reply)
        );
        assert_eq!(
            header(&reply, "alipay-sidecar-outcome"),
            "unknown",
            "{fault:?}"
        );
        assert!(!text(&reply).contains("trade_no"), "{fault:?}");
    }
}

#[tokio::test]
async fn a_query_that_left_is_unknown_though_another_try_could_not_be_signed() {
    let sidecar = TestSidecar::start_built(
        |_| (),
        |_, builder| builder.signers(Arc::new(TiringSigner(1))),
    )
    .await;
    sidecar.simulator.fault(Fault::once(FaultKind::Reset));
    let query = ("POST", "/v3/alipay/trade/query");
    let tag = [("alipay-merchant", ALIAS)];
    let reply = send(&sidecar, query, &tag, r#"{"out_trade_no":"1"}"#).await;
    check_error(&reply, 502, "upstream-unreachable", "unknown");
    assert_eq!(sidecar.simulator.requests().len(), 1);
    let never = send(&sidecar, query, &tag, r#"{"out_trade_no":"1"}"#).await;
    check_error(&never, 503, "overloaded", "not-sent");
}

#[tokio::test]
async fn an_unsigned_error_passes_marked_as_such() {
    let sidecar = TestSidecar::start_with(|config| {
        let known = config.apps[0].clone();
        let unknown = alipay_sidecar::model::id::AppId::new("2021000000000009").expect("id");
        config.apps.push(alipay_sidecar::model::app::App {
            app_id: unknown,
            ..known
        });
    })
    .await;
    let headers = [
        ("alipay-merchant", "self"),
        ("alipay-app", "2021000000000009"),
    ];
    let reply = send(&sidecar, ("POST", CREATE), &headers, ORDER).await;
    assert_eq!(
        header(&reply, "alipay-sidecar-verified"),
        "unsigned-error",
        "{}",
        text(&reply)
    );
    assert!(json(&reply)["code"].is_string());
    assert!(reply.status.is_client_error());
}

#[tokio::test]
async fn an_sdk_names_its_app_in_its_own_authorization() {
    let sidecar = TestSidecar::start_with(|config| {
        let known = config.apps[0].clone();
        let other = alipay_sidecar::model::id::AppId::new("2021000000000009").expect("id");
        config.apps.push(alipay_sidecar::model::app::App {
            app_id: other,
            ..known
        });
    })
    .await;
    for (app_id, code) in [(DEFAULT_APP_ID, ""), ("placeholder", "app-required")] {
        let authorization = format!(
            "ALIPAY-SHA256withRSA app_id={app_id},nonce=0123456789abcdef,timestamp=1,sign=AAAA"
        );
        let headers = [
            ("alipay-merchant", "self"),
            ("authorization", authorization.as_str()),
        ];
        let target = "/v3/alipay/open/auth/token/app/query?app_auth_token=x";
        let reply = send(&sidecar, ("GET", target), &headers, "").await;
        assert_eq!(
            header(&reply, "alipay-sidecar-error"),
            code,
            "{}",
            text(&reply)
        );
    }
}

#[tokio::test]
async fn a_timed_out_token_is_refreshed_once_and_the_call_sent_again() {
    let sidecar = TestSidecar::start().await;
    sidecar
        .simulator
        .time_out_tokens(None, None)
        .expect("tokens");
    let reply = sidecar.post(CREATE, ORDER).await;
    assert_eq!(reply.status, 200, "{}", text(&reply));
    let verdicts: Vec<_> = sidecar
        .simulator
        .requests()
        .into_iter()
        .map(|r| r.method)
        .collect();
    assert_eq!(verdicts, [CREATE, "alipay.open.auth.token.app", CREATE]);
}

#[tokio::test]
async fn tokens_in_a_reply_are_stored() {
    let sidecar = TestSidecar::start().await;
    let code = sidecar
        .simulator
        .app_auth_code(None, &[SECOND_AUTH_APP_ID])
        .expect("a code");
    let body = format!(r#"{{"grant_type":"authorization_code","code":"{code}"}}"#);
    let route = ("POST", "/v3/alipay/open/auth/token/app");
    // Made as the ISV itself, whatever the tag says.
    let reply = send(&sidecar, route, &[("alipay-merchant", ALIAS)], body).await;
    assert_eq!(reply.status, 200, "{}", text(&reply));
    let tag = [("alipay-merchant", SECOND_AUTH_APP_ID)];
    let reply = send(&sidecar, ("POST", CREATE), &tag, ORDER).await;
    assert_eq!(reply.status, 200, "{}", text(&reply));
}

#[tokio::test]
async fn a_refresh_that_alipay_refuses_is_asked_for_again() {
    let sidecar = TestSidecar::start().await;
    let body = r#"{"grant_type":"refresh_token","refresh_token":"nobodys"}"#;
    for n in 1..=2 {
        let reply = sidecar.post("/v3/alipay/open/auth/token/app", body).await;
        assert!(reply.status.is_client_error(), "{}", text(&reply));
        assert_eq!(header(&reply, "alipay-sidecar-error"), "");
        assert_eq!(sidecar.simulator.requests().len(), n);
    }
}

#[tokio::test]
async fn a_header_without_a_value_is_none() {
    let sidecar = TestSidecar::start().await;
    for name in ["alipay-app-auth-token", "alipay-encrypt-type"] {
        let headers = [("alipay-merchant", ALIAS), (name, "")];
        let reply = send(&sidecar, ("POST", CREATE), &headers, ORDER).await;
        assert_eq!(reply.status, 200, "{name}: {}", text(&reply));
    }
}

const KEY: &str = "AAECAwQFBgcICQoLDA0ODw==";

async fn encrypted() -> TestSidecar {
    TestSidecar::start_before(|simulator, config| {
        simulator
            .set_encrypt_key(DEFAULT_APP_ID, Some(KEY))
            .expect("a key");
        simulator
            .require_encryption(DEFAULT_APP_ID, true)
            .expect("an app");
        config.apps[0].encrypt_key = Some(Secret::new(KEY.to_owned()));
    })
    .await
}

#[tokio::test]
async fn the_sidecar_encrypts_what_a_caller_asks_it_to() {
    let sidecar = encrypted().await;
    let asked = [("alipay-merchant", ALIAS), ("alipay-encrypt-type", "AES")];
    let reply = send(&sidecar, ("POST", CREATE), &asked, ORDER).await;
    assert_eq!(reply.status, 200, "{}", text(&reply));
    assert_eq!(json(&reply)["out_trade_no"], "1");
    assert_eq!(header(&reply, "alipay-sidecar-verified"), "true");
    assert_eq!(
        header(&reply, "alipay-signature"),
        "",
        "it vouches for the ciphertext"
    );
    sidecar
        .simulator
        .fault(Fault::once(FaultKind::GarbledCiphertext));
    let reply = send(&sidecar, ("POST", CREATE), &asked, ORDER).await;
    check_error(&reply, 502, "response-decryption-failed", "unknown");
}

/// An error of Alipay's as a ciphertext, which it signs.
fn closed(code: &str) -> String {
    let key = ContentKey::from_base64(KEY).expect("a key");
    let error = format!(r#"{{"code":"{code}","message":"x"}}"#);
    key.encrypt(error.as_bytes()).expect("encrypted")
}

#[tokio::test]
async fn what_an_encrypted_error_says_of_tokens_and_keys_is_heard() {
    let sidecar = encrypted().await;
    let simulator = &sidecar.simulator;
    let refreshes = || {
        let seen = simulator.requests();
        let methods = seen.iter().map(|request| request.method.as_str());
        methods
            .filter(|method| *method == "alipay.open.auth.token.app")
            .count()
    };
    let key = ContentKey::from_base64(KEY).expect("a key");
    let ciphertext = key.encrypt(ORDER.as_bytes()).expect("encrypted");
    // Encrypted by the sidecar, and by an SDK whose key it has, too.
    for (n, (body, is_opened)) in [(ORDER, true), (&*ciphertext, false)]
        .into_iter()
        .enumerate()
    {
        let asked = [("alipay-merchant", ALIAS), ("alipay-encrypt-type", "AES")];
        let body = body.to_owned();
        let timed_out = closed("app-auth-token-time-out");
        simulator.answer_v3("POST", CREATE, 401, timed_out.as_str());
        let reply = send(&sidecar, ("POST", CREATE), &asked, body).await;
        assert_eq!(reply.status, 401, "{}", text(&reply));
        assert_eq!(text(&reply).contains("time-out"), is_opened);
        assert_eq!(text(&reply) == timed_out, !is_opened);
        assert_eq!(refreshes(), n + 1, "one refresh, and one resend");
    }
    simulator.answer_v3("POST", CREATE, 400, closed("invalid-signature"));
    let asked = [("alipay-merchant", ALIAS), ("alipay-encrypt-type", "AES")];
    send(&sidecar, ("POST", CREATE), &asked, ORDER).await;
    let refused = r#"alipay_sidecar_signature_refusals_total{reason="invalid-signature"}"#;
    assert!((sidecar.metric(refused).await - 1.0).abs() < f64::EPSILON);
}

#[tokio::test]
async fn an_sdks_ciphertext_goes_through_both_ways() {
    let sidecar = encrypted().await;
    let key = ContentKey::from_base64(KEY).expect("a key");
    let asked = [
        ("alipay-merchant", ALIAS),
        ("alipay-encrypt-type", "AES"),
        ("content-type", "text/plain"),
    ];
    let ciphertext = key.encrypt(ORDER.as_bytes()).expect("encrypted");
    let reply = send(&sidecar, ("POST", CREATE), &asked, ciphertext).await;
    assert_eq!(reply.status, 200, "{}", text(&reply));
    assert!(!header(&reply, "alipay-signature").is_empty());
    let opened = key.decrypt(text(&reply).trim()).expect("a ciphertext");
    assert!(String::from_utf8_lossy(opened.expose()).contains("out_trade_no"));
}

const IMAGE: (&str, &str) = ("POST", "/v3/alipay/offline/material/image/upload");

fn part(head: &str, content: &str) -> String {
    format!("--xyz\r\nContent-Disposition: form-data; {head}\r\n\r\n{content}\r\n")
}

#[tokio::test]
async fn an_upload_whose_data_an_sdk_encrypted_goes_through_and_plain_data_is_not_taken_for_it() {
    let sidecar = encrypted().await;
    let key = ContentKey::from_base64(KEY).expect("a key");
    let headers = [
        ("alipay-merchant", ALIAS),
        ("alipay-encrypt-type", "AES"),
        ("content-type", "multipart/form-data; boundary=xyz"),
    ];
    let file = part(r#"name="image_content"; filename="a.png""#, "x");
    let upload = |data: &str| format!("{file}{}--xyz--\r\n", part(r#"name="data""#, data));
    let data = r#"{"image_type":"png","image_name":"海"}"#;
    let ciphertext = key.encrypt(data.as_bytes()).expect("encrypted");
    let reply = send(&sidecar, IMAGE, &headers, upload(&ciphertext)).await;
    assert_eq!(reply.status, 200, "{}", text(&reply));
    key.decrypt(text(&reply).trim()).expect("a ciphertext");
    let seen = sidecar.simulator.requests().len();
    let plain = send(&sidecar, IMAGE, &headers, upload(data)).await;
    check_error(&plain, 400, "body-invalid", "not-sent");
    assert_eq!(sidecar.simulator.requests().len(), seen);
}

#[tokio::test]
async fn an_upload_signs_its_data_alone() {
    let sidecar = TestSidecar::start().await;
    let file = part(
        r#"name="image_content"; filename="海.png""#,
        &"x".repeat(400_000),
    );
    let data = part(
        r#"name="data""#,
        r#"{"image_type":"png","image_name":"海"}"#,
    );
    let end = "--xyz--\r\n";
    let headers = [
        ("alipay-merchant", ALIAS),
        ("content-type", "multipart/form-data; boundary=xyz"),
    ];
    let body = format!("{file}{data}{end}");
    let reply = send(&sidecar, IMAGE, &headers, body).await;
    assert_eq!(reply.status, 200, "{}", text(&reply));
    let seen = sidecar.simulator.requests().pop().expect("a request");
    assert_eq!(seen.files, ["image_content"]);
    let stray = format!("{file}{}{end}", part(r#"name="image_type""#, "png"));
    check_error(
        &send(&sidecar, IMAGE, &headers, stray).await,
        400,
        "body-invalid",
        "not-sent",
    );
}
