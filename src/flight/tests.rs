use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::FutureExt as _;
use tokio::sync::oneshot;

use super::*;

#[tokio::test]
async fn those_who_ask_together_get_one_result() {
    let (flights, runs) = (Flights::new(), Arc::new(AtomicU32::new(0)));
    let key = "a";
    let ask = || {
        let runs = Arc::clone(&runs);
        flights.run(key, async move {
            tokio::task::yield_now().await;
            runs.fetch_add(1, Ordering::Relaxed)
        })
    };
    let (first, second) = tokio::join!(ask(), ask());
    assert_eq!((first, second), (Some(0), Some(0)));
    assert_eq!(ask().await, Some(1));
}

#[tokio::test]
async fn a_panic_ends_the_flight_and_blocks_nobody() {
    let flights = Flights::new();
    let key = "a";
    let failed = flights.run(key, async { panic!("a bug") }).await;
    assert_eq!(failed, None::<u8>);
    assert_eq!(flights.run(key, async { 7 }).await, Some(7));
}

#[tokio::test]
async fn work_goes_on_when_its_caller_leaves() {
    let flights = Flights::new();
    let (told, tells) = oneshot::channel();
    let (go, gone) = oneshot::channel::<()>();
    let key = "a";
    let mut caller = Box::pin(flights.run(key, async move {
        gone.await.ok();
        told.send(()).ok();
    }));
    assert!((&mut caller).now_or_never().is_none());
    drop(caller);
    assert!(flights.is_under_way(&key));
    go.send(()).expect("the work waits");
    tells.await.expect("the work ended");
    flights.landed().await;
    assert!(!flights.is_under_way(&key));
}
