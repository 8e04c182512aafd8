//! The end of a sidecar whose services a host mounts.

use std::time::Duration;

use alipay_sidecar::proxy::error::ErrorCode;
use alipay_sidecar::sidecar::{Sidecar, UncleanEnd};
use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, StatusCode};
use http_body_util::Full;
use tower_service::Service;

use crate::proxy::watched;
use crate::support::upstream::Answer;
use crate::support::{ALIAS, PATIENCE, TestSidecar};

/// Another sidecar on the store of `beside`, as a host would build one.
async fn embedded(beside: &TestSidecar) -> Sidecar {
    let builder = Sidecar::builder(beside.config.clone()).store(beside.sidecar.store());
    builder.without_audit().build().await.expect("built")
}

fn notification() -> Request<Full<Bytes>> {
    let form = Full::new(Bytes::from_static(b"app_id=2021000000000001&sign=x"));
    let request = Request::post("/alipay/notify/x");
    request.body(form).expect("a request")
}

/// What a host would lose with its runtime: a call whose caller has gone.
#[tokio::test]
async fn a_drain_ends_what_is_under_way_and_what_works_in_the_background() {
    let (alipay, beside) = watched().await;
    let sidecar = embedded(&beside).await;
    let background = tokio::spawn(sidecar.background(std::future::pending()));
    alipay.answer(Answer::Held);
    let call = sidecar.request("alipay.trade.create");
    let call = call.merchant(ALIAS).biz_content("{}");
    let gone = tokio::time::timeout(Duration::from_millis(1), call.send()).await;
    assert!(gone.is_err(), "its caller has gone");
    alipay.next().await;
    let draining = tokio::spawn(sidecar.drain());
    let ended = tokio::time::timeout(PATIENCE, background).await;
    let ended = ended.expect("it ends with the drain").expect("no panic");
    ended.expect("a clean end");
    assert!(!draining.is_finished(), "the call is under way");
    let refused = sidecar.request("alipay.trade.create").merchant(ALIAS);
    let refused = refused.biz_content("{}").send().await.expect_err("refused");
    assert_eq!(refused.code, ErrorCode::Overloaded);
    let answer = sidecar.webhook_service().call(notification());
    let status = answer.await.expect("infallible").status();
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    alipay.release();
    let drained = tokio::time::timeout(PATIENCE, draining).await;
    drained
        .expect("all has ended")
        .expect("no panic")
        .expect("a clean end");
    sidecar.drain().await.expect("there is nothing more to end");
}

/// What is under way and isn't polled never ends: the host hears of it, and nothing is broken off.
#[tokio::test]
async fn a_drain_that_takes_too_long_says_so() {
    let beside = TestSidecar::start().await;
    let sidecar = embedded(&beside).await;
    let mut background = Box::pin(sidecar.background(std::future::pending()));
    assert!(background.as_mut().now_or_never().is_none());
    tokio::time::pause();
    let late = sidecar.drain().await;
    tokio::time::resume();
    let bound = sidecar.end_takes_now();
    assert!(
        matches!(&late, Err(UncleanEnd::UnderWay(after)) if *after == bound),
        "{late:?}"
    );
    background.await.expect("a clean end");
    sidecar.drain().await.expect("it has ended meanwhile");
}
