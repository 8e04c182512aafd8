//! Every error that the proxy can give, in each shape it is given in.

use alipay_sidecar::config::proxy::NotifyUrlMode;
use alipay_sidecar::model::authorization::{Authorization, Revocation};
use alipay_sidecar::model::id::{AppId, AuthAppId};
use alipay_sidecar::net::client::Reply;
use alipay_sidecar::simulator::{DEFAULT_APP_ID, FIRST_AUTH_APP_ID, FIRST_PID};
use alipay_sidecar::store::Change;
use http::{Method, Request};
use serde_json::{Value, json};

use crate::proxy::watched;
use crate::support::brittle::{BrittleSigner, BrittleStore, Failing};
use crate::support::upstream::{Answer, FakeAlipay, SUCCESS};
use crate::support::{
    ALIAS, TestSidecar, add_merchant, app, free_port, header, json as parsed, merchant, raw, text,
};

/// What an error says about itself on every route.
#[derive(Clone, Copy)]
struct Expected {
    code: &'static str,
    status: u16,
    outcome: &'static str,
    retryable: bool,
}

/// A refusal: nothing was sent.
fn refused(code: &'static str, status: u16) -> Expected {
    Expected {
        code,
        status,
        outcome: "not-sent",
        retryable: code == "overloaded",
    }
}

/// A call whose outcome is unknown.
fn unknown(code: &'static str, status: u16) -> Expected {
    Expected {
        code,
        status,
        outcome: "unknown",
        retryable: false,
    }
}

/// Checks an error against the shape of the route that gave it.
fn check_error(path: &str, reply: &Reply, expected: Expected) {
    let seen = format!("{path}: {} {}", reply.status, text(reply));
    assert_eq!(
        header(reply, "alipay-sidecar-error"),
        expected.code,
        "{seen}"
    );
    assert_eq!(
        header(reply, "alipay-sidecar-outcome"),
        expected.outcome,
        "{seen}"
    );
    assert_eq!(header(reply, "alipay-sidecar-verified"), "", "{seen}");
    let request_id = header(reply, "alipay-sidecar-request-id");
    assert_eq!(request_id.len(), 36, "{seen}");
    if expected.code == "overloaded" {
        assert_eq!(header(reply, "retry-after"), "1", "{seen}");
    }
    let body = parsed(reply);
    if path.ends_with("/gateway.do") || path.contains("/gateway.do?") {
        let (code, msg) = match expected.status {
            400..500 => ("40002", "Invalid Arguments"),
            _ => ("20000", "Service Currently Unavailable"),
        };
        let error = &body["error_response"];
        assert_eq!(reply.status, 200, "{seen}");
        assert_eq!(
            (&error["code"], &error["msg"]),
            (&json!(code), &json!(msg)),
            "{seen}"
        );
        assert_eq!(
            error["sub_code"],
            format!("sidecar.{}", expected.code),
            "{seen}"
        );
        assert!(
            error["sub_msg"]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "{seen}"
        );
    } else if path.contains("/v3/") {
        assert_eq!(reply.status.as_u16(), expected.status, "{seen}");
        assert_eq!(body["code"], format!("sidecar.{}", expected.code), "{seen}");
        assert!(body["message"].is_string(), "{seen}");
    } else {
        assert_eq!(reply.status.as_u16(), expected.status, "{seen}");
        assert_eq!(
            header(reply, "content-type"),
            "application/problem+json",
            "{seen}"
        );
        assert_eq!(
            body["type"],
            format!("urn:alipay-sidecar:error:{}", expected.code),
            "{seen}"
        );
        assert_eq!(body["status"], expected.status, "{seen}");
        assert_eq!(body["code"], expected.code, "{seen}");
        assert_eq!(body["outcome"], expected.outcome, "{seen}");
        assert_eq!(body["retryable"], expected.retryable, "{seen}");
        assert_eq!(body["request_id"], request_id, "{seen}");
        assert!(
            body["title"].is_string() && body["detail"].is_string(),
            "{seen}"
        );
    }
}

/// The two routes that make calls, each with one of its own.
const ROUTES: [&str; 2] = [
    "/v2/alipay.trade.pay",
    "/gateway.do?method=alipay.trade.pay",
];

fn post(path: &str, headers: &[(&str, &str)]) -> http::request::Builder {
    let mut request = Request::builder().method(Method::POST).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request
}

/// Checks what requests with these headers get on both routes.
async fn check_tags(sidecar: &TestSidecar, headers: &[(&str, &str)], expected: Expected) {
    for path in ROUTES {
        let reply = sidecar.proxy(post(path, headers), "").await;
        check_error(path, &reply, expected);
    }
}

/// Checks a request tagged with the known merchant.
async fn check(sidecar: &TestSidecar, path: &str, body: &[u8], expected: Expected) {
    let reply = sidecar.post(path, body.to_vec()).await;
    check_error(path, &reply, expected);
}

#[tokio::test]
async fn a_request_must_name_one_known_merchant() {
    let (alipay, sidecar) = watched().await;
    let tag = "alipay-merchant";
    check_tags(&sidecar, &[], refused("merchant-required", 400)).await;
    for unknown in [
        "2088999999999999",
        "app:2021000000009999",
        "pid:shop",
        "nobody",
        "sh%6Fp",
        "Shop",
        "支付",
    ] {
        check_tags(
            &sidecar,
            &[(tag, unknown)],
            refused("merchant-unknown", 404),
        )
        .await;
    }
    check_tags(
        &sidecar,
        &[(tag, ALIAS), (tag, ALIAS)],
        refused("merchant-conflict", 400),
    )
    .await;
    let other = merchant("2021000000001009", FIRST_PID, "other", Some("other"));
    add_merchant(&*sidecar.sidecar.store(), other).await;
    let conflict = refused("merchant-conflict", 400);
    for path in [
        "/m/other/v2/alipay.trade.pay",
        "/m/self/v2/alipay.trade.pay",
        "/m/other/gateway.do?method=alipay.trade.pay",
        "/gateway.do?method=alipay.trade.pay&app_auth_token=other",
        "/gateway.do?method=alipay.trade.pay&app_auth_token=merchant:self",
    ] {
        check(&sidecar, path, b"", conflict).await;
    }
    assert!(alipay.is_quiet().await);
}

#[tokio::test]
async fn a_pid_with_several_applications_names_its_candidates() {
    let (_alipay, sidecar) = watched().await;
    let other = merchant("2021000000001009", FIRST_PID, "other", None);
    add_merchant(&*sidecar.sidecar.store(), other).await;
    let candidates = json!([FIRST_AUTH_APP_ID, "2021000000001009"]);
    for path in ROUTES {
        let reply = sidecar
            .proxy(post(path, &[("alipay-merchant", FIRST_PID)]), "")
            .await;
        check_error(path, &reply, refused("merchant-ambiguous", 400));
        let body = parsed(&reply);
        let shown = if path.starts_with("/v2") {
            &body
        } else {
            &body["error_response"]
        };
        assert_eq!(shown["candidates"], candidates);
    }
    let tags = [("alipay-merchant", FIRST_PID)];
    let reply = sidecar
        .proxy(post("/v3/alipay/trade/query", &tags), "{}")
        .await;
    assert_eq!(parsed(&reply)["code"], "sidecar.merchant-ambiguous");
    assert_eq!(parsed(&reply)["candidates"], candidates);
}

#[tokio::test]
async fn what_belongs_to_an_app_that_is_not_ours_makes_nothing_ambiguous() {
    let (alipay, sidecar) = watched().await;
    let theirs = Authorization {
        app_id: AppId::new("2021000000000009").expect("id"),
        ..merchant(FIRST_AUTH_APP_ID, FIRST_PID, "t-theirs", Some("theirs"))
    };
    add_merchant(&*sidecar.sidecar.store(), theirs).await;
    for tag in [FIRST_AUTH_APP_ID, FIRST_PID] {
        let request = post("/v2/alipay.trade.query", &[("alipay-merchant", tag)]);
        assert_eq!(text(&sidecar.proxy(request, "{}").await), SUCCESS, "{tag}");
        alipay.next().await;
    }
    let tags = [("alipay-merchant", "theirs")];
    check_tags(&sidecar, &tags, refused("app-unknown", 400)).await;
}

#[tokio::test]
async fn a_merchant_that_cancelled_is_unauthorized() {
    let (alipay, sidecar) = watched().await;
    let revocation = Revocation {
        app_id: AppId::new(DEFAULT_APP_ID).expect("id"),
        auth_app_id: AuthAppId::new(FIRST_AUTH_APP_ID).expect("id"),
        at: None,
        estimated: false,
        only: None,
    };
    let change = Change::Revoke {
        revocation,
        entry: None,
    };
    sidecar
        .sidecar
        .store()
        .commit(vec![change])
        .await
        .expect("stored");
    check_tags(
        &sidecar,
        &[("alipay-merchant", ALIAS)],
        refused("merchant-unauthorized", 403),
    )
    .await;
    assert!(alipay.is_quiet().await);
}

#[tokio::test]
async fn the_app_must_be_told_where_several_could_be_meant() {
    const OTHER: &str = "2021000000000002";
    let sidecar = TestSidecar::start_with(|config| config.apps.push(app(OTHER))).await;
    let mut same = merchant(FIRST_AUTH_APP_ID, FIRST_PID, "second app's", Some(ALIAS));
    same.app_id = AppId::new(OTHER).expect("id");
    add_merchant(&*sidecar.sidecar.store(), same).await;
    let tag = "alipay-merchant";
    check_tags(&sidecar, &[(tag, "self")], refused("app-required", 400)).await;
    check_tags(&sidecar, &[(tag, ALIAS)], refused("app-required", 400)).await;
    check_tags(&sidecar, &[(tag, FIRST_PID)], refused("app-required", 400)).await;
    for app in ["2021000000009999", "", "x y"] {
        check_tags(
            &sidecar,
            &[(tag, ALIAS), ("alipay-app", app)],
            refused("app-unknown", 400),
        )
        .await;
    }
    // That call is the ISV's own whatever the tag, so none is missing.
    for (token_call, body) in [
        ("/v2/alipay.open.auth.token.app", "{}"),
        ("/v3/alipay/open/auth/token/app", "{}"),
        ("/gateway.do?method=alipay.open.auth.token.app", ""),
    ] {
        for tags in [&[][..], &[(tag, "self")]] {
            let reply = sidecar.proxy(post(token_call, tags), body).await;
            check_error(token_call, &reply, refused("app-required", 400));
        }
    }
}

#[tokio::test]
async fn a_merchant_of_an_app_that_is_gone_is_app_unknown() {
    let (_alipay, sidecar) = watched().await;
    let mut orphan = merchant(
        "2021000000001009",
        "2088000000001009",
        "orphan",
        Some("orphan"),
    );
    orphan.app_id = AppId::new("2021000000000002").expect("id");
    add_merchant(&*sidecar.sidecar.store(), orphan).await;
    check_tags(
        &sidecar,
        &[("alipay-merchant", "orphan")],
        refused("app-unknown", 400),
    )
    .await;
}

#[tokio::test]
async fn a_token_never_held_is_unknown() {
    let (_alipay, sidecar) = watched().await;
    let path = "/gateway.do?method=alipay.trade.pay&app_auth_token=202611BBnever";
    let reply = sidecar.proxy(post(path, &[]), "").await;
    check_error(path, &reply, refused("token-unknown", 404));
    assert!(
        !text(&reply).contains("202611BBnever"),
        "a token is never repeated"
    );
}

#[tokio::test]
async fn a_method_must_be_given_and_have_its_form() {
    let (alipay, sidecar) = watched().await;
    let required = refused("method-required", 400);
    let invalid = refused("method-invalid", 400);
    for path in [
        "/gateway.do",
        "/gateway.do?method=",
        "/gateway.do?METHOD=alipay.trade.pay",
        "/v2/",
        "/v2//order-string",
    ] {
        check(&sidecar, path, b"", required).await;
    }
    for path in [
        "/v2/alipay",
        "/v2/alipay..pay",
        "/v2/alipay.trade%2Fpay",
        "/v2/alipay.trade.pay%0d%0a",
        "/gateway.do?method=alipay",
        "/gateway.do?method=alipay.trade.pay%20",
        "/gateway.do?method=%E6%94%AF.pay",
    ] {
        check(&sidecar, path, b"", invalid).await;
    }
    let long = format!("/v2/alipay.{}", "a".repeat(128));
    check(&sidecar, &long, b"", invalid).await;
    assert!(alipay.is_quiet().await);
}

#[tokio::test]
async fn a_parameter_given_twice_is_refused_wherever_and_however_it_is_spelled() {
    let (alipay, sidecar) = watched().await;
    let duplicate = refused("parameter-duplicate", 400);
    for (query, body) in [
        ("biz_content=%7B%7D&biz_content=%7B%7D", ""),
        ("biz_content=%7B%7D", "biz_content=%7B%7D"),
        ("biz_content=", "biz_content=%7B%7D"),
        ("notify_url=&notify_url=", ""),
        ("auth_token=a&auth%5Ftoken=a", ""),
        ("auth_token=a&Auth_Token=b", ""),
        ("notify_url=/a", "NOTIFY_URL=/b"),
        ("biz_content=%7B%7D", "BIZ_CONTENT=%7B%7D"),
        ("app_id=1", "app_id=2"),
        ("app_id=1&APP_ID=1", ""),
        ("app_id=1", "App_Id=1"),
        (
            "app_auth_token=merchant:shop",
            "app_auth_token=merchant:self",
        ),
        (
            "app_auth_token=merchant:shop&App%5Fauth_token=merchant:shop",
            "",
        ),
        ("method=alipay.trade.query", ""),
        ("", "method=alipay.trade.query"),
        ("", "Method=alipay.trade.pay"),
        ("timestamp=1&timestamp=1", ""),
    ] {
        let path = format!("/gateway.do?method=alipay.trade.pay&{query}");
        check(&sidecar, &path, body.as_bytes(), duplicate).await;
    }
    for query in [
        "biz_content=%7B%7D",
        "Biz_Content=",
        "method=alipay.trade.pay",
        "METHOD=x",
        "code=1&code=1",
        "code=1&Code=1",
        "code=&c%6Fde=",
    ] {
        check(
            &sidecar,
            &format!("/v2/alipay.trade.pay?{query}"),
            b"{}",
            duplicate,
        )
        .await;
    }
    assert!(alipay.is_quiet().await);
}

#[tokio::test]
async fn an_owned_parameter_with_one_value_in_query_and_body_passes_as_one() {
    let (alipay, sidecar) = watched().await;
    let common =
        "app_id=1&charset=utf-8&timestamp=2020-01-01+00%3A00%3A00&app_auth_token=merchant%3Ashop";
    let path = format!("/gateway.do?method=alipay.trade.pay&{common}");
    let reply = sidecar.proxy(post(&path, &[]), common).await;
    assert!(text(&reply).contains(SUCCESS), "{}", text(&reply));
    assert_eq!(alipay.next().await.param("app_id"), DEFAULT_APP_ID);
}

#[tokio::test]
async fn on_v2_a_parameter_that_the_sidecar_owns_is_reserved() {
    let (_alipay, sidecar) = watched().await;
    for name in [
        "app_id",
        "sign",
        "sign_type",
        "timestamp",
        "version",
        "charset",
        "format",
        "app_auth_token",
        "app_cert_sn",
        "alipay_root_cert_sn",
        "encrypt_type",
        "APP_ID",
        "Sign",
        "app%5Fid",
    ] {
        for value in ["x", ""] {
            let path = format!("/v2/alipay.trade.pay?{name}={value}");
            check(&sidecar, &path, b"{}", refused("parameter-reserved", 400)).await;
        }
    }
}

#[tokio::test]
async fn names_and_values_have_their_form() {
    let (alipay, sidecar) = watched().await;
    let invalid = refused("parameter-invalid", 400);
    let long = format!("{}=1", "a".repeat(65));
    for query in [
        "a%20b=1",
        "%E6%94%AF=1",
        "=1",
        "a%00=1",
        "a=%zz",
        "a=%E6%94",
        "a[]=1",
        long.as_str(),
    ] {
        for route in [
            "/v2/alipay.trade.pay?",
            "/gateway.do?method=alipay.trade.pay&",
        ] {
            check(&sidecar, &format!("{route}{query}"), b"", invalid).await;
        }
    }
    check(
        &sidecar,
        "/gateway.do?method=alipay.trade.pay&format=XML",
        b"",
        invalid,
    )
    .await;
    let tag = ("alipay-merchant", ALIAS);
    for timeout in [
        "4",
        "0s",
        "-1s",
        "4 s",
        "1y",
        "s",
        "",
        "99999999999999999999s",
    ] {
        check_tags(&sidecar, &[tag, ("alipay-timeout", timeout)], invalid).await;
    }
    check_tags(
        &sidecar,
        &[tag, ("alipay-timeout", "1s"), ("alipay-timeout", "1s")],
        invalid,
    )
    .await;
    assert!(alipay.is_quiet().await);
}

#[tokio::test]
async fn a_notify_url_is_forbidden_by_form_or_by_mode() {
    let forbidden = refused("notify-url-forbidden", 400);
    let both = async |sidecar: &TestSidecar, url: &str| {
        for route in [
            "/v2/alipay.trade.pay?",
            "/gateway.do?method=alipay.trade.pay&",
        ] {
            check(sidecar, &format!("{route}notify_url={url}"), b"", forbidden).await;
        }
    };
    let (_alipay, report) = watched().await;
    for url in [
        "//x.example/",
        "/../x",
        "/%252e%252e/x",
        "/a%0d%0ab",
        "ftp://x.example/",
        "javascript:x",
        "https://u@x.example/",
        "orders/42",
    ] {
        both(&report, url).await;
    }
    let enforce =
        TestSidecar::start_with(|c| c.proxy.notify_url_mode = NotifyUrlMode::Enforce).await;
    both(&enforce, "https://other.example/x").await;
    let nowhere = TestSidecar::start_with(|c| c.webhook.public_url = None).await;
    both(&nowhere, "/orders/42").await;
}

#[tokio::test]
async fn a_v2_body_is_one_plain_json_object() {
    let (alipay, sidecar) = watched().await;
    let invalid = refused("body-invalid", 400);
    let path = "/v2/alipay.trade.pay";
    for body in [
        &b"\xef\xbb\xbf{}"[..],
        b"[]",
        b"\"x\"",
        b"{} x",
        b"{}{}",
        b"{",
        b" ",
        b"null",
        b"{\"a\":\"\xff\"}",
        b"{'a':1}",
        b"{\"a\":1,}",
        b"a=1",
    ] {
        check(&sidecar, path, body, invalid).await;
    }
    let tag = ("alipay-merchant", ALIAS);
    check_tags(&sidecar, &[tag, ("content-encoding", "gzip")], invalid).await;
    let multipart = ("content-type", "multipart/form-data; boundary=x");
    check_tags(&sidecar, &[tag, multipart], invalid).await;
    assert!(alipay.is_quiet().await);
}

#[tokio::test]
async fn a_foreign_charset_is_unsupported() {
    let (_alipay, sidecar) = watched().await;
    for query in ["charset=Big5", "charset=utf-16"] {
        let path = format!("/gateway.do?method=alipay.trade.pay&{query}");
        check(&sidecar, &path, b"", refused("charset-unsupported", 400)).await;
    }
    let path = "/gateway.do?method=alipay.trade.pay";
    check(
        &sidecar,
        path,
        b"charset=Big5",
        refused("charset-unsupported", 400),
    )
    .await;
}

#[tokio::test]
async fn a_route_is_known_and_takes_its_methods() {
    let (_alipay, sidecar) = watched().await;
    for path in [
        "/",
        "/gateway.do/",
        "/v2",
        "/v2/a.b/other",
        "/v2/a.b/page-url/x",
        "/m/shop",
        "/m/shop/m/shop/v2/a.b",
        "/livez",
        "/v3",
        "/v4/alipay/trade/query",
    ] {
        check(&sidecar, path, b"", refused("route-unknown", 404)).await;
    }
    for (method, path, allow) in [
        (Method::GET, "/v2/alipay.trade.pay", "POST"),
        (Method::PUT, "/v2/alipay.trade.pay/order-string", "POST"),
        (
            Method::PUT,
            "/gateway.do?method=alipay.trade.pay",
            "GET, POST",
        ),
        (Method::OPTIONS, "/gateway.do", "GET, POST"),
    ] {
        let reply = sidecar
            .proxy(Request::builder().method(method).uri(path), "")
            .await;
        check_error(path, &reply, refused("http-method-not-allowed", 405));
        assert_eq!(header(&reply, "allow"), allow);
    }
}

/// Sends raw bytes and gives the answer's status line and the error it names.
async fn raw_error(sidecar: &TestSidecar, request: &str) -> (String, String) {
    let answer = raw::exchange(&sidecar.proxy, request.as_bytes()).await;
    let mut lines = answer.lines();
    let status = lines.next().unwrap_or_default().to_owned();
    let error = lines.find_map(|line| line.strip_prefix("alipay-sidecar-error: "));
    (status, error.unwrap_or_default().to_owned())
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_declared_or_not() {
    let sidecar = TestSidecar::start_with(|c| c.proxy.max_body = 1000).await;
    for path in ROUTES {
        let reply = sidecar.post(path, vec![b'x'; 1001]).await;
        check_error(path, &reply, refused("body-too-large", 413));
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nAlipay-Merchant: {ALIAS}\r\nConnection: close\r\n"
        );
        let declared = format!("{head}Content-Length: 1001\r\n\r\n");
        assert_eq!(raw_error(&sidecar, &declared).await.1, "body-too-large");
        let chunked = format!(
            "{head}Transfer-Encoding: chunked\r\n\r\n3e9\r\n{}\r\n0\r\n\r\n",
            "x".repeat(1001)
        );
        assert_eq!(raw_error(&sidecar, &chunked).await.1, "body-too-large");
    }
    let exact = format!("{{\"a\":\"{}\"}}", "x".repeat(1000 - 8));
    let reply = sidecar.post(ROUTES[0], exact).await;
    assert_eq!(
        header(&reply, "alipay-sidecar-error"),
        "",
        "{}",
        text(&reply)
    );
}

#[tokio::test]
async fn who_sends_more_than_the_limit_is_heard_out_and_reads_why() {
    let sidecar = TestSidecar::start_with(|c| c.proxy.max_body = 1000).await;
    // More than the system takes for a reader who doesn't read.
    let body = "x".repeat(16 << 20);
    for path in ROUTES {
        let head =
            format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nAlipay-Merchant: {ALIAS}\r\n");
        let length = body.len();
        for rest in [
            format!("Content-Length: {length}\r\n\r\n{body}"),
            format!("Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n"),
        ] {
            let (_, error) = raw_error(&sidecar, &format!("{head}{rest}")).await;
            assert_eq!(error, "body-too-large", "{path}");
        }
    }
}

#[tokio::test]
async fn a_head_over_the_limit_is_refused() {
    let (_alipay, sidecar) = watched().await;
    let long = "x".repeat(66_000);
    check_tags(
        &sidecar,
        &[("alipay-merchant", ALIAS), ("x-long", &long)],
        refused("headers-too-large", 431),
    )
    .await;
    let head = |target: usize, field: usize| {
        let (target, field) = ("x".repeat(target), "x".repeat(field));
        format!(
            "GET /gateway.do?a={target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX: {field}\r\n\r\n"
        )
    };
    assert_eq!(
        raw_error(&sidecar, &head(60_000, 6_000)).await.1,
        "headers-too-large"
    );
    // A longer target than hyper takes, too.
    assert_eq!(
        raw_error(&sidecar, &head(70_000, 0)).await.1,
        "headers-too-large"
    );
}

#[tokio::test]
async fn web_pages_and_foreign_hosts_are_refused() {
    let (alipay, sidecar) = watched().await;
    let browser = refused("browser-refused", 403);
    let tag = ("alipay-merchant", ALIAS);
    for page in [
        ("origin", "https://x.example"),
        ("origin", "null"),
        ("sec-fetch-site", "none"),
        ("host", "x.example"),
        ("host", "127.0.0.1.x.example"),
    ] {
        check_tags(&sidecar, &[tag, page], browser).await;
    }
    let path = "/gateway.do?method=alipay.trade.pay";
    for (target, hosts) in [
        (path.to_owned(), "Host: a@localhost\r\n"),
        (path.to_owned(), "Host: localhost\r\nHost: localhost\r\n"),
        (path.to_owned(), ""),
        (format!("http://x.example{path}"), "Host: localhost\r\n"),
        (format!("http://localhost{path}"), "Host: x.example\r\n"),
    ] {
        let request = format!(
            "GET {target} HTTP/1.1\r\n{hosts}Alipay-Merchant: {ALIAS}\r\nConnection: close\r\n\r\n"
        );
        let (status, error) = raw_error(&sidecar, &request).await;
        assert!(
            error == "browser-refused" || status.contains(" 400 "),
            "{request} {status} {error}"
        );
    }
    assert!(alipay.is_quiet().await);
}

#[tokio::test]
async fn a_host_that_is_allowed_passes() {
    let sidecar =
        TestSidecar::start_with(|c| c.proxy.allowed_hosts = vec!["sidecar.internal".to_owned()])
            .await;
    for host in ["sidecar.internal", "sidecar.internal:2088"] {
        let reply = sidecar.proxy(post(ROUTES[0], &[("host", host)]), "").await;
        assert_eq!(header(&reply, "alipay-sidecar-error"), "merchant-required");
    }
}

#[tokio::test]
async fn a_call_over_the_concurrency_limit_is_overloaded() {
    let alipay = FakeAlipay::start().await;
    let sidecar = TestSidecar::start_with(|config| {
        config.upstream.gateway = Some(alipay.gateway());
        config.proxy.max_in_flight = 1;
    })
    .await;
    alipay.answer(Answer::Held);
    let others = async {
        alipay.next().await;
        check_tags(
            &sidecar,
            &[("alipay-merchant", ALIAS)],
            refused("overloaded", 503),
        )
        .await;
        alipay.release();
    };
    let (reply, ()) = tokio::join!(sidecar.post(ROUTES[0], "{}"), others);
    assert_eq!(text(&reply), SUCCESS);
    assert_eq!(
        text(&sidecar.post(ROUTES[0], "{}").await),
        SUCCESS,
        "the slot is free again"
    );
}

#[tokio::test]
async fn a_gateway_that_nobody_answers_at_is_unreachable_and_the_call_not_sent() {
    let url = format!("http://127.0.0.1:{}/gateway.do", free_port());
    let sidecar = TestSidecar::start_with(|c| c.upstream.gateway = Some(url)).await;
    let expected = Expected {
        retryable: true,
        ..refused("upstream-unreachable", 502)
    };
    check_tags(&sidecar, &[("alipay-merchant", ALIAS)], expected).await;
}

#[tokio::test]
async fn a_gateway_that_answers_late_or_nonsense_leaves_the_outcome_unknown() {
    let (alipay, sidecar) = watched().await;
    let tags = [("alipay-merchant", ALIAS), ("alipay-timeout", "1s")];
    alipay.answer(Answer::Held);
    alipay.answer(Answer::Held);
    check_tags(&sidecar, &tags, unknown("upstream-timeout", 504)).await;
    for (status, body) in [
        (200, "<html></html>"),
        (200, ""),
        (200, "{}"),
        (200, "[]"),
        (
            200,
            r#"{"alipay_trade_query_response":{"code":"10000"},"sign":"x"}"#,
        ),
        (
            502,
            r#"{"alipay_trade_pay_response":{"code":"10000"},"sign":"x"}"#,
        ),
        (302, ""),
    ] {
        alipay.answer(Answer::Body(status, body.to_owned()));
        alipay.answer(Answer::Body(status, body.to_owned()));
        check_tags(&sidecar, &tags[..1], unknown("upstream-invalid", 502)).await;
    }
    for _ in ROUTES {
        let forged = r#"{"alipay_trade_pay_response":{"code":"10000"},"sign":"AAAA"}"#;
        alipay.answer(Answer::Body(200, forged.to_owned()));
    }
    check_tags(
        &sidecar,
        &tags[..1],
        unknown("response-signature-invalid", 502),
    )
    .await;
}

#[tokio::test]
async fn a_failed_query_is_retryable_whatever_its_outcome() {
    let (alipay, sidecar) = watched().await;
    alipay.answer(Answer::Body(502, String::new()));
    let path = "/v2/alipay.trade.query";
    let expected = Expected {
        retryable: true,
        ..unknown("upstream-invalid", 502)
    };
    check(&sidecar, path, b"{}", expected).await;
}

#[tokio::test]
async fn a_store_that_fails_is_unavailable_and_nothing_is_sent() {
    let alipay = FakeAlipay::start().await;
    let mut brittle = None;
    let sidecar = TestSidecar::start_built(
        |config| config.upstream.gateway = Some(alipay.gateway()),
        |config, builder| {
            let store = BrittleStore::open(config);
            brittle = Some(store.clone());
            builder.store(std::sync::Arc::new(store))
        },
    )
    .await;
    brittle.expect("built").break_down();
    check_tags(
        &sidecar,
        &[("alipay-merchant", ALIAS)],
        refused("store-unavailable", 503),
    )
    .await;
    assert!(alipay.is_quiet().await);
    let ready = sidecar.admin(Method::GET, "/readyz", "").await;
    assert_eq!(
        (ready.status.as_u16(), &parsed(&ready)["store_writable"]),
        (503, &Value::Bool(false))
    );
    assert_eq!(sidecar.admin(Method::GET, "/metrics", "").await.status, 200);
}

#[tokio::test]
async fn a_signer_that_fails_is_internal_and_nothing_is_sent() {
    for (failing, expected) in [
        (Failing::Error, refused("internal", 500)),
        (Failing::Overloaded, refused("overloaded", 503)),
        (Failing::Panic, refused("internal", 500)),
        (Failing::Unavailable, refused("overloaded", 503)),
    ] {
        let sidecar = TestSidecar::start_built(
            |_| (),
            |_, builder| builder.signers(std::sync::Arc::new(BrittleSigner(failing))),
        )
        .await;
        check_tags(&sidecar, &[("alipay-merchant", ALIAS)], expected).await;
        assert!(sidecar.simulator.requests().is_empty());
        let series = format!(
            r#"alipay_sidecar_requests_total{{api="v2",method="alipay.trade.pay",outcome="{}"}}"#,
            expected.code
        );
        assert_eq!(sidecar.metric(&series).await, 1.0, "{series}");
        assert_eq!(
            sidecar.metric("alipay_sidecar_in_flight_requests").await,
            0.0
        );
    }
}

/// As of every other call: by which id its caller asks, and why it failed.
#[cfg(feature = "cli")]
#[tokio::test]
async fn the_log_tells_of_what_is_signed_who_asked_and_why_it_failed() {
    let log = tempfile::NamedTempFile::new().expect("a file");
    let written = log.reopen().expect("a file");
    let lines = tracing_subscriber::fmt().with_ansi(false);
    let lines = lines.with_writer(std::sync::Arc::new(written)).finish();
    crate::support::ask_every_subscriber();
    let _lines = tracing::subscriber::set_default(lines);
    let broken = |_: &_, builder: alipay_sidecar::sidecar::SidecarBuilder| {
        builder.signers(std::sync::Arc::new(BrittleSigner(Failing::Error)))
    };
    let sidecars = [
        ("well", TestSidecar::start().await),
        ("badly", TestSidecar::start_built(|_| (), broken).await),
    ];
    for (id, sidecar) in &sidecars {
        let request = Request::post("/v2/alipay.trade.app.pay/order-string")
            .header("alipay-merchant", ALIAS)
            .header("x-request-id", *id);
        sidecar.proxy(request, "{}").await;
    }
    let log = std::fs::read_to_string(log.path()).expect("text");
    let line = |id: &str| {
        let id = format!("caller_request_id=\"{id}\"");
        let mut signed = log.lines().filter(|line| line.contains("call signed"));
        let found = signed.find(|line| line.contains(&id));
        found.unwrap_or_else(|| panic!("{id} in\n{log}")).to_owned()
    };
    assert!(!line("well").contains("error="), "{log}");
    assert!(line("badly").contains("the KMS is gone"), "{log}");
}
