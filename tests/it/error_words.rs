//! What an error of a call says: whom it asked, for how long and by whose word, and what to do next.

use std::time::Duration;

use alipay_sidecar::net::client::Reply;
use alipay_sidecar::simulator::{DEFAULT_APP_ID, Fault, FaultKind};
use http::{Method, Request};

use crate::cli_live::World;
use crate::proxy::watched;
use crate::support::upstream::{Answer, FakeAlipay};
use crate::support::{ALIAS, TestSidecar, header, json, text};

const PAY: &str = "/v2/alipay.trade.pay";
const QUERY: &str = "/v2/alipay.trade.query";
const V3_PAY: &str = "/v3/alipay/trade/pay";

async fn call(sidecar: &TestSidecar, path: &str, headers: &[(&str, &str)]) -> Reply {
    let mut request = Request::builder().method(Method::POST).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    sidecar.proxy(request, "{}").await
}

/// What the error says, whatever the shape.
fn detail(reply: &Reply) -> String {
    let body = json(reply);
    let told = body["detail"].as_str().or_else(|| body["message"].as_str());
    told.unwrap_or_else(|| panic!("{}", text(reply))).to_owned()
}

fn check(reply: &Reply, texts: &[&str]) {
    let told = detail(reply);
    for text in texts {
        assert!(told.contains(text), "no `{text}` in: {told}");
    }
}

fn host(url: &str) -> String {
    let uri: http::Uri = url.parse().expect("a URL");
    uri.authority().expect("a host").to_string()
}

#[tokio::test]
async fn a_selector_that_names_nobody_is_repeated_and_a_token_is_not() {
    let (_alipay, sidecar) = watched().await;
    for (sent, expected) in [
        ("nobody", "under the selector `nobody`;"),
        ("pid:2088999999999999", "`pid:2088999999999999`"),
        ("sh op", "`sh op` is no merchant selector; expected a PID"),
        (
            "202611BB1f5c2d3e4a5b6c7d8e9f0a1b2c3d4e5f",
            "`202611BB…` (40 characters)",
        ),
    ] {
        let reply = call(&sidecar, PAY, &[("alipay-merchant", sent)]).await;
        check(&reply, &[expected]);
        assert!(!detail(&reply).contains("202611BB1"));
    }
    let tags = [("alipay-merchant", ALIAS), ("alipay-app", "2021999")];
    let expected = [
        "names `2021999`, which is no configured or stored app",
        DEFAULT_APP_ID,
    ];
    check(&call(&sidecar, PAY, &tags).await, &expected);
}

#[tokio::test]
async fn a_deadline_is_told_with_its_length_and_whose_it_is() {
    let alipay = FakeAlipay::start().await;
    let url = alipay.gateway();
    let asked = host(&url);
    // Connections wait there to be accepted.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let silent = listener.local_addr().expect("bound").to_string();
    let sidecar = TestSidecar::start_with(|config| {
        config.upstream.v3 = Some(format!("http://{silent}"));
        config.upstream.gateway = Some(url);
    })
    .await;
    let tags = [("alipay-merchant", ALIAS), ("alipay-timeout", "1s")];
    for (path, asked) in [(PAY, &asked), (V3_PAY, &silent)] {
        alipay.answer(Answer::Held);
        let reply = call(&sidecar, path, &tags).await;
        let record = format!(
            "`GET /calls/{}`",
            header(&reply, "alipay-sidecar-request-id")
        );
        check(
            &reply,
            &[
                &format!("{asked} did not answer within the deadline"),
                "the deadline was 1s, by `Alipay-Timeout` of the caller",
                "ask by a query before it is made again",
                &record,
            ],
        );
    }
    alipay.answer(Answer::Held);
    let reply = call(&sidecar, QUERY, &tags).await;
    assert!(!detail(&reply).contains("by a query"), "{}", detail(&reply));
}

#[tokio::test]
async fn the_configured_deadline_is_named() {
    let alipay = FakeAlipay::start().await;
    let url = alipay.gateway();
    let sidecar = TestSidecar::start_with(|config| {
        config.upstream.gateway = Some(url);
        config.upstream.timeout = Duration::from_millis(80);
    })
    .await;
    alipay.answer(Answer::Held);
    let reply = call(&sidecar, PAY, &[("alipay-merchant", ALIAS)]).await;
    check(&reply, &["the deadline was 80ms, by `upstream.timeout`"]);
}

#[tokio::test]
async fn whoever_sent_nonsense_or_broke_off_is_named() {
    let (alipay, sidecar) = watched().await;
    let asked = host(&alipay.gateway());
    let tags = [("alipay-merchant", ALIAS)];
    alipay.answer(Answer::Body(502, String::new()));
    let expected = format!("what {asked} sent is not a reply of Alipay's: HTTP status 502");
    check(&call(&sidecar, PAY, &tags).await, &[&expected]);
    let sidecar = TestSidecar::start().await;
    sidecar.simulator.fault(Fault::once(FaultKind::Reset));
    let gateway = sidecar.config.upstream.gateway.clone().expect("set");
    let broke = format!("the connection to {} broke", host(&gateway));
    let reply = call(&sidecar, PAY, &tags).await;
    check(&reply, &[&broke, "ask by a query", "`GET /calls/"]);
}

#[test]
fn a_call_that_may_have_acted_is_a_warning_in_the_log() {
    let world = World::start();
    let (sidecar, _) = world.run();
    world.check(&["merchant", "import", "merchants.jsonl"], 0, &[]);
    let pay = |code: i32| {
        let tag = ["--merchant", "2088000000001001", "--biz", "{}"];
        world.check(
            &[&["call", "alipay.trade.query"][..], &tag].concat(),
            code,
            &[],
        );
        let line = sidecar.line("\"message\":\"call\"");
        serde_json::from_str::<serde_json::Value>(&line).expect("JSON")
    };
    assert_eq!(pay(0)["level"], "INFO");

    world.control("fault", "{\"name\":\"tampered\"}".to_owned());
    let line = pay(1);
    assert_eq!(line["level"], "WARN", "{line}");
    assert_eq!(line["may_have_acted"], true);
}
