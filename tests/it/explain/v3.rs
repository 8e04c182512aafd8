//! v3 answers and requests.

use super::*;

const BODY: &str = r#"{"trade_no":"1","msg":"好/"}"#;

fn headers(body: &[u8]) -> Vec<(String, Vec<u8>)> {
    let content = sign_content::v3_response("1795314030000", "a1b2c3d4e5", body).unwrap();
    let sign = private_key("alipay2048")
        .sign(SignType::Rsa2, &content)
        .unwrap();
    [
        ("Alipay-Timestamp", "1795314030000"),
        ("alipay-nonce", "a1b2c3d4e5"),
        ("alipay-signature", &sign),
    ]
    .map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()))
    .to_vec()
}

fn explain(headers: &[(String, Vec<u8>)], body: &[u8]) -> Explanation {
    diagnosis::v3_response(200, V3Message { headers, body }, &keys())
}

/// `signed` arrives as `arrived`.
fn check_body(signed: &str, arrived: &[u8], causes: &[&str]) {
    check(&explain(&headers(signed.as_bytes()), arrived), causes, &[]);
}

#[test]
fn a_good_answer_holds() {
    check_holds(&explain(&headers(BODY.as_bytes()), BODY.as_bytes()), &[]);
    for case in file("v3-response")["cases"].as_array().unwrap() {
        let pairs: Vec<(String, String)> = serde_json::from_value(case["headers"].clone()).unwrap();
        let headers: Vec<_> = pairs
            .into_iter()
            .map(|(name, value)| (name, value.into_bytes()))
            .collect();
        let body = bytes(case, "body_b64");
        let status = u16::try_from(case["status"].as_u64().unwrap()).unwrap();
        let message = V3Message {
            headers: &headers,
            body: &body,
        };
        let explanation = diagnosis::v3_response(status, message, &keys());
        if let Some(valid) = case["expect"]["valid"].as_bool() {
            assert_eq!(explanation.holds(), valid, "{}: {explanation}", case["id"]);
        }
    }
}

#[test]
fn a_serial_that_is_no_text_is_named() {
    let mut headers = headers(BODY.as_bytes());
    headers.push(("alipay-sn".to_owned(), b"5a\xe67c".to_vec()));
    check(
        &explain(&headers, BODY.as_bytes()),
        &["header-invalid"],
        &[],
    );
}

#[test]
fn a_trailing_newline() {
    check_body(BODY, format!("{BODY}\n").as_bytes(), &["trailing-newline"]);
    check_body(&format!("{BODY}\n"), BODY.as_bytes(), &["trailing-newline"]);
}

#[test]
fn a_body_written_anew_or_converted() {
    check_body(
        BODY,
        BODY.replace("\":", "\": ").as_bytes(),
        &["json-spacing"],
    );
    check_body(BODY, BODY.replace('/', "\\/").as_bytes(), &["json-slashes"]);
    check_body(
        BODY,
        BODY.replace('好', "\\u597d").as_bytes(),
        &["json-escapes"],
    );
    check_body(
        BODY,
        &Charset::Gbk.encode(BODY).unwrap(),
        &["charset-converted"],
    );
    check_body(BODY, b"\x1f\x8b\x08\0", &["compressed"]);
    check_body(BODY, b"{}", &["content-changed"]);
}

#[test]
fn headers_missing_or_null() {
    let all = headers(BODY.as_bytes());
    for (name, missing) in [
        ("alipay-timestamp", 0),
        ("alipay-nonce", 1),
        ("alipay-signature", 2),
    ] {
        let mut fewer = all.clone();
        fewer.remove(missing);
        check(
            &explain(&fewer, BODY.as_bytes()),
            &["header-missing"],
            &[name],
        );
    }
    let mut null = all.clone();
    null[2].1 = b"null".to_vec();
    check(&explain(&null, BODY.as_bytes()), &["header-null"], &[]);
    let message = V3Message {
        headers: &[],
        body: b"{}",
    };
    check(
        &diagnosis::v3_response(400, message, &keys()),
        &["unsigned-error"],
        &[],
    );
    let message = V3Message {
        headers: &[],
        body: b"",
    };
    check(
        &diagnosis::v3_response(204, message, &keys()),
        &["no-content"],
        &[],
    );
    let twice = [all.clone(), all].concat();
    check(
        &explain(&twice, BODY.as_bytes()),
        &["header-invalid"],
        &["twice"],
    );
}

#[test]
fn wrong_keys() {
    let good = headers(BODY.as_bytes());
    let message = V3Message {
        headers: &good,
        body: BODY.as_bytes(),
    };
    let own = Keys::new(&[public_key("app2048")], &[public_key("app2048")]);
    check(
        &diagnosis::v3_response(200, message, &own),
        &["own-public-key"],
        &[],
    );
    let other = Keys::new(&[public_key("alipay2048_other")], &[]);
    check(
        &diagnosis::v3_response(200, message, &other),
        &["wrong-key"],
        &[],
    );
}

/// The content that a request with this token header is signed over, changed, and the answer.
fn request(change: impl Fn(&str) -> String, token: Option<&str>, now_ms: i64) -> Explanation {
    let auth = "app_id=1,nonce=0123456789abcdef,timestamp=1795314030000";
    let token_line = token.map(|token| format!("{token}\n")).unwrap_or_default();
    let content = format!("{auth}\nPOST\n/v3/alipay/trade/query?a=%20b\n{BODY}\n{token_line}");
    let sign = private_key("app2048")
        .sign(SignType::Rsa2, change(&content).as_bytes())
        .unwrap();
    let authorization = format!("ALIPAY-SHA256withRSA {auth},sign={sign}");
    let mut headers = vec![("authorization".to_owned(), authorization.into_bytes())];
    headers.extend(token.map(|token| {
        (
            "alipay-app-auth-token".to_owned(),
            token.as_bytes().to_vec(),
        )
    }));
    let message = V3Message {
        headers: &headers,
        body: BODY.as_bytes(),
    };
    diagnosis::v3_request(
        "POST",
        "/v3/alipay/trade/query?a=%20b",
        message,
        &keys(),
        now_ms,
    )
}

fn check_request(change: impl Fn(&str) -> String, token: Option<&str>, causes: &[&str]) {
    check(&request(change, token, NOW), causes, &[]);
}

#[test]
fn requests_hold_or_are_explained() {
    check_holds(&request(str::to_owned, None, NOW), &[]);
    check_holds(&request(str::to_owned, Some("SECRET"), NOW), &[]);
    check_request(
        |content| content.replace("SECRET\n", ""),
        Some("SECRET"),
        &["token-line-missing"],
    );
    check_request(
        |content| format!("{content}\n"),
        None,
        &["token-line-empty"],
    );
    check_request(
        |content| content.trim_end().to_owned(),
        None,
        &["last-line-break"],
    );
    check_request(
        |content| content.replace("POST", "post"),
        None,
        &["method-case"],
    );
    check_request(
        |content| content.replace("POST", "GET"),
        None,
        &["method-changed"],
    );
    check_request(
        |content| content.replace("?a=%20b", ""),
        None,
        &["target-changed"],
    );
    check_request(
        |content| content.replace("%20", " "),
        None,
        &["target-changed"],
    );
    check_request(
        |content| content.replace("/v3/", "/"),
        None,
        &["target-changed"],
    );
    check_request(
        |content| content.replace(BODY, ""),
        None,
        &["body-not-signed"],
    );
    let spaced = |content: &str| content.replace("\":", "\": ").replace(",\"", ", \"");
    check_request(spaced, None, &["json-spacing"]);
    check_request(
        |content| content.replace("?a=%20b", "").replace(BODY, ""),
        None,
        &["target-changed", "body-not-signed"],
    );
}

#[test]
fn the_clock_of_a_request() {
    check_holds(
        &request(str::to_owned, None, NOW + 3_600_000 * 8),
        &["clock-zone"],
    );
    check_holds(
        &request(str::to_owned, None, NOW + 86_400_000 * 3),
        &["clock-off"],
    );
}

#[test]
fn an_authorization_that_is_none() {
    let message = V3Message {
        headers: &[],
        body: b"",
    };
    let explanation = diagnosis::v3_request("GET", "/v3/a", message, &keys(), NOW);
    check(&explanation, &["header-missing"], &["`authorization`"]);
    let headers = [("authorization".to_owned(), b"Bearer x".to_vec())];
    let message = V3Message {
        headers: &headers,
        body: b"",
    };
    let explanation = diagnosis::v3_request("GET", "/v3/a", message, &keys(), NOW);
    check(
        &explanation,
        &["authorization-invalid"],
        &["ALIPAY-SHA256withRSA"],
    );
}

#[test]
fn every_vector_of_requests_holds() {
    for case in file("v3-request")["cases"].as_array().unwrap() {
        let pairs: Vec<(String, String)> = serde_json::from_value(case["headers"].clone()).unwrap();
        let headers: Vec<_> = pairs
            .into_iter()
            .map(|(name, value)| (name, value.into_bytes()))
            .collect();
        let body = bytes(case, "body_b64");
        let message = V3Message {
            headers: &headers,
            body: &body,
        };
        let (method, target) = (text(case, "http_method"), text(case, "target"));
        let explanation = diagnosis::v3_request(method, target, message, &keys(), NOW);
        assert!(explanation.holds(), "{}: {explanation}", case["id"]);
    }
}
