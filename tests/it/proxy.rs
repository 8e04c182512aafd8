//! Calls through the proxy: what Alipay gets and what the caller gets back, byte by byte.

use alipay_sidecar::net::client::Reply;
use alipay_sidecar::protocol::charset::Charset;
use alipay_sidecar::protocol::params::Params;
use alipay_sidecar::simulator::{
    DEFAULT_APP_ID, FIRST_APP_AUTH_TOKEN, FIRST_AUTH_APP_ID, SECOND_APP_AUTH_TOKEN,
    SECOND_AUTH_APP_ID, SECOND_PID,
};
use http::{Method, Request};
use serde_json::json;

use crate::support::upstream::{Answer, FakeAlipay, SUCCESS, TRACE_ID, is_signed_by, reply_of};
use crate::support::{ALIAS, TestSidecar, header, json as parsed, raw, text};

/// A sidecar before an Alipay that shows the bytes it got.
pub(crate) async fn watched() -> (FakeAlipay, TestSidecar) {
    let alipay = FakeAlipay::start().await;
    let sidecar = TestSidecar::start_with(|c| c.upstream.gateway = Some(alipay.gateway())).await;
    (alipay, sidecar)
}

fn get(path: &str) -> http::request::Builder {
    Request::builder()
        .uri(path)
        .header("alipay-merchant", ALIAS)
}

fn is_own_id(reply: &Reply) -> bool {
    header(reply, "alipay-sidecar-request-id").len() == 36
}

#[tokio::test]
async fn a_v2_call_gives_the_exact_node_and_its_headers() {
    let (alipay, sidecar) = watched().await;
    for (node, code, sub_code) in [
        (
            r#"{"code":"10000","msg":"Success","a" : 1.50,"t":"\u4e2d\/国"}"#,
            "10000",
            "",
        ),
        (
            r#"{"msg":"失败","sub_code":"ACQ.TRADE_NOT_EXIST","code":"40004"}"#,
            "40004",
            "ACQ.TRADE_NOT_EXIST",
        ),
        (r#"{"access_token":"x","expires_in":"300"}"#, "", ""),
        (
            r#"{"code":"10003","msg":" order success pay inprocess","sign":"not mine"}"#,
            "10003",
            "",
        ),
    ] {
        alipay.answer(Answer::Node(node.to_owned()));
        let reply = sidecar
            .post("/v2/alipay.trade.query", r#"{"out_trade_no":"1"}"#)
            .await;
        assert_eq!((reply.status.as_u16(), text(&reply).as_str()), (200, node));
        assert_eq!(header(&reply, "alipay-code"), code);
        assert_eq!(header(&reply, "alipay-sub-code"), sub_code);
        assert_eq!(header(&reply, "alipay-trace-id"), TRACE_ID);
        assert_eq!(header(&reply, "alipay-sidecar-verified"), "true");
        assert_eq!(
            header(&reply, "content-type"),
            "application/json; charset=utf-8"
        );
        assert!(is_own_id(&reply));
    }
}

#[tokio::test]
async fn a_trade_is_paid_and_queried_for_its_merchant() {
    let sidecar = TestSidecar::start().await;
    let order = r#"{"out_trade_no":"p1","total_amount":"1.00","subject":"x","auth_code":"28","scene":"bar_code"}"#;
    let paid = sidecar.post("/v2/alipay.trade.pay", order).await;
    assert_eq!(header(&paid, "alipay-code"), "10000", "{}", text(&paid));
    let found = sidecar
        .post("/v2/alipay.trade.query", r#"{"out_trade_no":"p1"}"#)
        .await;
    assert_eq!(parsed(&found)["trade_status"], "TRADE_SUCCESS");
    let lost = sidecar
        .post("/v2/alipay.trade.query", r#"{"out_trade_no":"none"}"#)
        .await;
    assert_eq!(
        (lost.status.as_u16(), header(&lost, "alipay-code")),
        (200, "40004")
    );
    assert_eq!(header(&lost, "alipay-sub-code"), "ACQ.TRADE_NOT_EXIST");
    let requests = sidecar.simulator.requests();
    assert!(
        requests
            .iter()
            .all(|r| r.auth_app_id.as_deref() == Some(FIRST_AUTH_APP_ID))
    );
}

#[tokio::test]
async fn biz_content_arrives_byte_for_byte() {
    let (alipay, sidecar) = watched().await;
    for content in [
        "{ \"b\" :1,\r\n\t\"a\": 88.8800 }",
        r#"{"a":"\u4e2d\/\n","a":"twice","big":12345678901234567890123,"e":1E+2}"#,
        "{\"subject\":\"付款 😀 & = % + #\",\"x\":\"<>'\\\"\"}",
        "{}",
        " {\"padded\":true} ",
    ] {
        let reply = sidecar.post("/v2/alipay.trade.query", content).await;
        assert_eq!(text(&reply), SUCCESS, "{content}");
        let arrived = alipay.next().await;
        assert_eq!(arrived.param("biz_content"), content);
        assert!(
            !arrived.query.contains("biz_content"),
            "it stands in the body"
        );
        assert!(is_signed_by("app2048", &arrived.params()));
    }
}

#[tokio::test]
async fn the_sidecar_sets_what_it_owns() {
    let (alipay, sidecar) = watched().await;
    sidecar.post("/v2/alipay.trade.query", "").await;
    let arrived = alipay.next().await;
    assert_eq!(arrived.method, Method::POST);
    for (name, value) in [
        ("app_id", DEFAULT_APP_ID),
        ("method", "alipay.trade.query"),
        ("charset", "utf-8"),
        ("sign_type", "RSA2"),
        ("version", "1.0"),
        ("app_auth_token", FIRST_APP_AUTH_TOKEN),
        ("biz_content", ""),
    ] {
        assert_eq!(arrived.param(name), value, "{name}");
    }
    assert_eq!(
        arrived.param("timestamp").len(),
        "2026-01-01 00:00:00".len()
    );
    assert!(arrived.query.contains("charset=utf-8"));
}

#[tokio::test]
async fn a_callers_headers_are_not_forwarded() {
    let (alipay, sidecar) = watched().await;
    let request = get("/v2/alipay.trade.query")
        .method(Method::POST)
        .header("cookie", "secret=1")
        .header("x-forwarded-for", "10.0.0.1")
        .header("x-request-id", "caller-1");
    sidecar.proxy(request, "{}").await;
    let arrived = alipay.next().await;
    for name in [
        "cookie",
        "x-forwarded-for",
        "x-request-id",
        "alipay-merchant",
    ] {
        assert!(!arrived.headers.contains_key(name), "{name}");
    }
}

#[tokio::test]
async fn query_parameters_become_top_level_parameters() {
    let (alipay, sidecar) = watched().await;
    let path = "/v2/alipay.system.oauth.token?grant_type=authorization_code&code=a%2Bb%20c+d&auth_token=u&empty=&return_url=https%3A%2F%2Fx.example%2F%3Fa%3Db";
    sidecar.post(path, "").await;
    let arrived = alipay.next().await;
    for (name, value) in [
        ("grant_type", "authorization_code"),
        ("code", "a+b c d"),
        ("auth_token", "u"),
        ("return_url", "https://x.example/?a=b"),
    ] {
        assert_eq!(arrived.param(name), value, "{name}");
    }
    assert_eq!(
        arrived.params().get("empty"),
        None,
        "empties are neither signed nor sent"
    );
}

#[tokio::test]
async fn a_relative_notify_url_is_completed() {
    let (alipay, sidecar) = watched().await;
    let full = format!("{}/alipay/notify/orders/42?a=b", sidecar.webhook);
    sidecar
        .post("/v2/alipay.trade.create?notify_url=/orders/42?a%3Db", "{}")
        .await;
    assert_eq!(alipay.next().await.param("notify_url"), full);
    sidecar
        .post(
            "/gateway.do?method=alipay.trade.create&notify_url=/orders/42?a%3Db",
            "",
        )
        .await;
    assert_eq!(alipay.next().await.param("notify_url"), full);
    sidecar
        .post(
            "/v2/alipay.trade.create?notify_url=https://other.example/x",
            "{}",
        )
        .await;
    assert_eq!(
        alipay.next().await.param("notify_url"),
        "https://other.example/x"
    );
    assert_eq!(
        sidecar
            .metric("alipay_sidecar_foreign_notify_urls_total")
            .await,
        1.0
    );
}

/// Sends one `/gateway.do` call and gives the parameters that reached Alipay.
async fn gateway_call(
    (alipay, sidecar): (&FakeAlipay, &TestSidecar),
    request: http::request::Builder,
    body: &str,
) -> Params {
    let whole = reply_of("alipay.trade.query", r#"{"code":"10000", "msg":"Success"}"#);
    alipay.answer(Answer::Body(200, whole.clone()));
    let reply = sidecar.proxy(request, body.to_owned()).await;
    assert_eq!(text(&reply), whole, "the reply goes back byte for byte");
    assert_eq!(header(&reply, "content-type"), "text/html;charset=utf-8");
    assert_eq!(header(&reply, "alipay-sidecar-verified"), "true");
    let params = alipay.next().await.params();
    assert!(is_signed_by("app2048", &params));
    assert_eq!(params.get("app_id"), Some(DEFAULT_APP_ID));
    assert_eq!(
        params.get("biz_content"),
        Some(r#"{"out_trade_no":"中 1"}"#)
    );
    assert_eq!(params.get("app_auth_token"), Some(FIRST_APP_AUTH_TOKEN));
    params
}

#[tokio::test]
async fn gateway_do_takes_what_sdks_send() {
    let (alipay, sidecar) = watched().await;
    let both = (&alipay, &sidecar);
    let content = "biz_content=%7B%22out_trade_no%22%3A%22%E4%B8%AD%201%22%7D";
    let form = "application/x-www-form-urlencoded;charset=utf-8";
    let common = "method=alipay.trade.query&app_id=placeholder&format=json&charset=utf-8&sign_type=RSA2&timestamp=2020-01-01+00%3A00%3A00&version=1.0";
    let post = |path: &str| get(path).method(Method::POST).header("content-type", form);
    gateway_call(
        both,
        get(&format!("/gateway.do?method=alipay.trade.query&{content}")),
        "",
    )
    .await;
    gateway_call(
        both,
        get(&format!(
            "/gateway.do?{common}&{content}&sign=thrown%2Baway"
        )),
        "",
    )
    .await;
    gateway_call(
        both,
        post(&format!("/gateway.do?{common}&sign=AAAA")),
        content,
    )
    .await;
    gateway_call(both, post("/gateway.do"), &format!("{common}&{content}")).await;
    let params = gateway_call(
        both,
        post(&format!("/gateway.do?{common}&alipay_sdk=node&sign=x")),
        &format!("{content}&timestamp=2020-01-01+00%3A00%3A00"),
    )
    .await;
    assert_eq!(params.get("alipay_sdk"), Some("node"));
    assert_ne!(
        params.get("timestamp"),
        Some("2020-01-01 00:00:00"),
        "ours, not the caller's"
    );
}

#[tokio::test]
async fn an_absolute_form_target_is_taken() {
    let (alipay, sidecar) = watched().await;
    let host = raw::authority(&sidecar.proxy);
    for authority in [host, "127.0.0.1", "localhost"] {
        let target = format!("http://{authority}/gateway.do?method=alipay.trade.query");
        let request = format!(
            "POST {target} HTTP/1.1\r\nHost: {authority}\r\nAlipay-Merchant: {ALIAS}\r\nContent-type: application/x-www-form-urlencoded;charset=utf-8\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        let answer = raw::exchange(&sidecar.proxy, request.as_bytes()).await;
        assert!(
            answer.starts_with("HTTP/1.1 200 ") && answer.contains(SUCCESS),
            "{answer}"
        );
        assert_eq!(alipay.next().await.param("method"), "alipay.trade.query");
    }
}

#[tokio::test]
async fn what_is_signed_and_handed_back_verifies_and_is_not_sent() {
    let (alipay, sidecar) = watched().await;
    let content = r#"{"subject":"<b>\"付款\" & 'x'</b>","total_amount":"0.10"}"#;
    let path = |action: &str| {
        format!(
            "/v2/alipay.trade.page.pay/{action}?return_url=https%3A%2F%2Fx.example%2F&notify_url=/n"
        )
    };
    let order = sidecar.post(&path("order-string"), content).await;
    check_signed(&order, "text/plain; charset=utf-8", &text(&order), content);
    let url = sidecar.post(&path("page-url"), content).await;
    let query = text(&url)
        .strip_prefix(&format!("{}?", alipay.gateway()))
        .expect("the gateway")
        .to_owned();
    check_signed(&url, "text/plain; charset=utf-8", &query, content);
    let form = sidecar.post(&path("page-form"), content).await;
    check_signed(
        &form,
        "text/html; charset=utf-8",
        &submitted(&text(&form)),
        content,
    );
    assert!(alipay.is_quiet().await, "nothing was sent");
}

fn check_signed(reply: &Reply, content_type: &str, encoded: &str, content: &str) {
    assert_eq!(
        (reply.status.as_u16(), header(reply, "content-type")),
        (200, content_type)
    );
    let params = Params::from_form(encoded.as_bytes(), Charset::Utf8).expect("a form");
    assert!(is_signed_by("app2048", &params), "{encoded}");
    assert_eq!(params.get("biz_content"), Some(content));
    assert_eq!(params.get("method"), Some("alipay.trade.page.pay"));
    assert_eq!(params.get("app_auth_token"), Some(FIRST_APP_AUTH_TOKEN));
    assert_eq!(params.get("return_url"), Some("https://x.example/"));
    assert!(
        params
            .get("notify_url")
            .is_some_and(|url| url.ends_with("/alipay/notify/n"))
    );
}

/// What a browser would send: the action's query and the hidden fields, as one form.
fn submitted(html: &str) -> String {
    let unescape = |text: &str| {
        let pairs = [
            ("&quot;", "\""),
            ("&#39;", "'"),
            ("&lt;", "<"),
            ("&gt;", ">"),
            ("&amp;", "&"),
        ];
        pairs
            .iter()
            .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
    };
    let quoted = |text: &str, before: &str| {
        let (_, rest) = text.split_once(before).expect("an attribute");
        unescape(rest.split_once('"').expect("its end").0)
    };
    let mut fields = Params::new();
    for field in html.split("<input type=\"hidden\"").skip(1) {
        fields
            .push(quoted(field, "name=\""), quoted(field, "value=\""))
            .expect("once");
    }
    let action = quoted(html, "action=\"");
    let (_, query) = action.split_once('?').expect("a query");
    format!("{query}&{}", fields.to_form(Charset::Utf8).expect("UTF-8"))
}

#[tokio::test]
async fn tokens_that_a_reply_hands_out_are_stored() {
    let sidecar = TestSidecar::start().await;
    let code = sidecar
        .simulator
        .app_auth_code(None, &[SECOND_AUTH_APP_ID])
        .expect("a code");
    let body = json!({"grant_type": "authorization_code", "code": code}).to_string();
    let untagged = Request::builder()
        .method(Method::POST)
        .uri("/v2/alipay.open.auth.token.app");
    let reply = sidecar.proxy(untagged, body).await;
    assert_eq!(header(&reply, "alipay-code"), "10000", "{}", text(&reply));
    let token = parsed(&reply)["tokens"][0]["app_auth_token"].clone();
    assert!(token.is_string() && token != SECOND_APP_AUTH_TOKEN);
    let tagged = Request::builder()
        .method(Method::POST)
        .uri("/v2/alipay.trade.query")
        .header("alipay-merchant", SECOND_PID);
    let reply = sidecar.proxy(tagged, r#"{"out_trade_no":"1"}"#).await;
    assert_eq!(
        header(&reply, "alipay-sub-code"),
        "ACQ.TRADE_NOT_EXIST",
        "{}",
        text(&reply)
    );
    let last = sidecar.simulator.requests().pop().expect("a request");
    assert_eq!(last.auth_app_id.as_deref(), Some(SECOND_AUTH_APP_ID));
}

#[tokio::test]
async fn the_token_method_is_called_as_self_whatever_the_tag() {
    let (alipay, sidecar) = watched().await;
    alipay.answer(Answer::Node(
        r#"{"code":"40002","msg":"x","sub_code":"isv.code-invalid"}"#.to_owned(),
    ));
    sidecar
        .post(
            "/v2/alipay.open.auth.token.app",
            r#"{"grant_type":"authorization_code","code":"c"}"#,
        )
        .await;
    assert_eq!(alipay.next().await.params().get("app_auth_token"), None);
}
