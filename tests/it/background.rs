//! What a sidecar does by itself, without being asked.

use std::sync::Arc;
use std::time::Duration;

use alipay_sidecar::clock::{Clock as _, ManualClock, SystemClock};
use alipay_sidecar::config::token::RefreshMode;
use alipay_sidecar::model::authorization::Rank;
use alipay_sidecar::model::delivery::Settlement;
use alipay_sidecar::model::id::EventId;
use alipay_sidecar::net::shutdown::Shutdown;
use alipay_sidecar::sidecar::Sidecar;
use alipay_sidecar::simulator::{FIRST_APP_AUTH_TOKEN, FIRST_AUTH_APP_ID, FIRST_PID};
use alipay_sidecar::store::{Change, Store};
use alipay_sidecar::token::TOKEN_METHOD;

use crate::store::{DAY, attempt, entry};
use crate::support::{ALIAS, PATIENCE, TestSidecar, add_merchant, merchant};

/// One that was received and delivered at that time.
async fn delivered(store: &dyn Store, at: i64) -> EventId {
    let entry = entry(at, None);
    let id = entry.id;
    let settle = Change::Settle {
        id,
        attempt: attempt(at),
        owed_since: None,
        settlement: Settlement::Delivered,
    };
    let changes = vec![Change::Receive(Box::new(entry)), settle];
    store.commit(changes).await.expect("stored");
    id
}

#[tokio::test]
async fn what_is_old_goes_and_what_ends_soon_is_renewed() {
    let first = TestSidecar::start().await;
    let (store, now) = (first.sidecar.store(), SystemClock.now_ms());
    let old = delivered(&*store, now).await;
    let young = delivered(&*store, now + 2 * DAY).await;
    let mut ending = merchant(
        FIRST_AUTH_APP_ID,
        FIRST_PID,
        FIRST_APP_AUTH_TOKEN,
        Some(ALIAS),
    );
    ending.token.stated_expiry = Some(now + 20 * DAY);
    ending.rank = Rank::AuthTime(2);
    add_merchant(&*store, ending).await;
    assert!(store.entry(old).await.expect("readable").is_some());
    assert!(first.simulator.requests().is_empty());

    let mut config = first.config.clone();
    config.tokens.refresh = RefreshMode::Ahead;
    let later = Sidecar::builder(config)
        .store(Arc::clone(&store))
        .clock(Arc::new(ManualClock::new(now + 8 * DAY)))
        .without_audit();
    let later = later.build().await.expect("a sidecar");
    let (end, ends) = Shutdown::new();
    let running = tokio::spawn(async move { later.background(ends.wait()).await });
    let done = async || {
        let asked = first.simulator.requests();
        let is_renewed = asked.iter().any(|request| request.method == TOKEN_METHOD);
        is_renewed && store.entry(old).await.expect("readable").is_none()
    };
    let both = async {
        while !done().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let both = tokio::time::timeout(PATIENCE, both).await;
    both.expect("the token is renewed, and the entry gone");
    assert!(store.entry(young).await.expect("readable").is_some());
    end.trigger();
    let ended = running.await.expect("no panic");
    ended.expect("a clean end");
}
