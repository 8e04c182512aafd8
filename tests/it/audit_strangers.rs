//! Of what nobody proved the audit log gets a few lines a minute, whatever it is refused for; of what
//! somebody proved one each, with who it was.

use http::{Method, Request, StatusCode};
use serde_json::Value;

use crate::audit::{ended, one, those};
use crate::support::callers::{bearer, with_key, with_token};
use crate::support::{ADMIN_TOKEN, TestSidecar, header, text};

const QUERY: &str = "/v2/alipay.trade.query";
const MANY: usize = 40;

/// One with callers by a token and by a key, so that some are known only once the body is read.
async fn start() -> TestSidecar {
    let callers = vec![with_token("shop"), with_key("signer", "app2048")];
    TestSidecar::start_with(|config| {
        config.callers = callers;
        config.proxy.max_body = 4096;
    })
    .await
}

/// [`MANY`] of these left a few lines, and the count of the others.
fn are_few(lines: &[Value], members: &[(&str, &str)]) {
    let found = those(lines, members);
    let (told, folded): (Vec<&Value>, Vec<&Value>) =
        found.into_iter().partition(|line| line["folded"].is_null());
    // The minute may have turned meanwhile.
    assert!((5..=10).contains(&told.len()), "{members:?}: {told:#?}");
    let counted = folded.iter().filter_map(|line| line["folded"].as_u64());
    let counted = usize::try_from(counted.sum::<u64>()).expect("few");
    assert_eq!(told.len() + counted, MANY, "{members:?}");
}

#[tokio::test]
async fn strangers_can_not_fill_the_log_by_whatever_they_are_refused_for() {
    let sidecar = start().await;
    let mut codes = Vec::new();
    for _ in 0..MANY {
        let encoded = Request::post(QUERY).header("content-encoding", "gzip");
        let at_the_door = sidecar.proxy(encoded, "x").await;
        let unread = Request::post("/gateway.do?method=a.b&method=c.d");
        let before_a_signature = sidecar.proxy(unread, "").await;
        let nowhere = sidecar.proxy(Request::get("/gateway.do"), "").await;
        codes = [at_the_door, before_a_signature, nowhere]
            .iter()
            .map(|reply| header(reply, "alipay-sidecar-error").to_owned())
            .collect();
        let unclear = Request::post("/api/merchants")
            .header("content-type", "text/plain")
            .header("content-type", "application/json");
        let refused = sidecar.send(&sidecar.admin, unclear, "".into()).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    }
    assert_eq!(codes[..2], ["body-invalid", "parameter-duplicate"]);
    let lines = ended(&sidecar).await;
    are_few(&lines, &[("kind", "v2"), ("outcome", "body-invalid")]);
    are_few(
        &lines,
        &[("kind", "gateway"), ("outcome", "parameter-duplicate")],
    );
    are_few(&lines, &[("kind", "gateway"), ("outcome", &codes[2])]);
    are_few(&lines, &[("event", "admin"), ("outcome", "refused")]);
}

#[tokio::test]
async fn who_is_proved_is_named_whatever_is_refused() {
    let sidecar = start().await;
    let shop = |path: &str| Request::post(path).header("authorization", bearer("shop"));
    for _ in 0..MANY {
        // Where a signature might still tell who it is, too.
        let reply = sidecar.proxy(shop("/gateway.do"), "x".repeat(5000)).await;
        assert_eq!(header(&reply, "alipay-sidecar-error"), "body-too-large");
        let put = Request::put("/api/merchants/1/2")
            .header("authorization", format!("Bearer {ADMIN_TOKEN}"))
            .header("content-type", "text/plain")
            .header("content-type", "application/json");
        let refused = sidecar.send(&sidecar.admin, put, "{}".into()).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    }
    let encoded = shop(QUERY).header("content-encoding", "gzip");
    sidecar.proxy(encoded, "x").await;
    let lines = ended(&sidecar).await;
    let large = [("caller", "shop"), ("outcome", "body-too-large")];
    assert_eq!(those(&lines, &large).len(), MANY);
    one(&lines, &[("caller", "shop"), ("outcome", "body-invalid")]);
    let refused = [("event", "admin"), ("outcome", "refused")];
    assert_eq!(those(&lines, &refused).len(), MANY);
}

#[tokio::test]
async fn web_pages_use_up_no_method_names() {
    let sidecar = TestSidecar::start().await;
    for n in 0..210 {
        let page = Request::post(format!("/v2/made.up.m{n}")).header("origin", "https://x.example");
        let reply = sidecar.proxy(page, "").await;
        assert_eq!(header(&reply, "alipay-sidecar-error"), "browser-refused");
    }
    sidecar.post(QUERY, "{}").await;
    let metrics = text(&sidecar.admin(Method::GET, "/metrics", "").await);
    assert!(!metrics.contains("made.up."), "{metrics}");
    assert!(metrics.contains(r#"method="none",outcome="browser-refused"} 210"#));
    assert!(metrics.contains(r#"api="v2",method="alipay.trade.query""#));
}
