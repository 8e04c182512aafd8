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
use crate::support::{ALIAS, PATIENCE, TestSidecar, add_merchant, hold_time, merchant};

/// One that was received and delivered at that time.
async fn delivered(store: &dyn Store, at: i64) -> EventId {
    settled(store, at, Settlement::Delivered).await
}

/// One that came to its end at the time when it was received.
async fn settled(store: &dyn Store, at: i64, settlement: Settlement) -> EventId {
    let entry = entry(at, None);
    let id = entry.id;
    let settle = Change::Settle {
        id,
        attempt: attempt(at),
        owed_since: None,
        settlement,
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

#[tokio::test]
async fn a_clock_that_jumps_ahead_takes_nothing_away_for_three_days() {
    const MINUTE: i64 = 60_000;
    const TEN_MINUTES: Duration = Duration::from_secs(601);
    let first = TestSidecar::start().await;
    // Ahead of the machine's clock, by which the first one works.
    let (store, now) = (first.sidecar.store(), SystemClock.now_ms() + DAY);
    let clock = ManualClock::new(now);
    let later = Sidecar::builder(first.config.clone())
        .store(Arc::clone(&store))
        .clock(Arc::new(clock.clone()))
        .without_audit();
    let later = later.build().await.expect("a sidecar");
    let old = delivered(&*store, now - 7 * DAY - MINUTE).await;
    let dead = settled(&*store, now, Settlement::GivenUp).await;
    let is_gone = async |id| store.entry(id).await.expect("readable").is_none();
    // Of the time that is held passes no more than a day and a half meanwhile.
    let gone = async |id| {
        let since = std::time::Instant::now();
        while !is_gone(id).await {
            assert!(since.elapsed() < PATIENCE, "it stays");
            let turn = std::time::Instant::now();
            while turn.elapsed() < Duration::from_millis(100) {
                tokio::task::yield_now().await;
            }
            tokio::time::advance(TEN_MINUTES).await;
        }
    };
    hold_time();
    let (end, ends) = Shutdown::new();
    let running = tokio::spawn(async move { later.background(ends.wait()).await });
    gone(old).await;

    // The machine has been on for ten minutes, whatever its clock says; what has become old in these goes.
    let old = delivered(&*store, now - 7 * DAY + 5 * MINUTE).await;
    clock.advance_ms(40 * DAY);
    gone(old).await;
    assert!(!is_gone(dead).await);
    // A clock that stays so is believed.
    clock.advance_ms(3 * DAY);
    tokio::time::advance(Duration::from_hours(72)).await;
    gone(dead).await;
    end.trigger();
    let ended = running.await.expect("no panic");
    ended.expect("a clean end");
}
