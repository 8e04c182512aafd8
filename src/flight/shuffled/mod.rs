//! The same source under shuttle, which runs it in thousands of orders: at every lock and at every
//! task another one may go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use flights::Flights;
use shuttle::future::{block_on, spawn};

#[path = "../flights.rs"]
#[expect(
    clippy::duplicate_mod,
    reason = "the same source, on other locks and tasks"
)]
mod flights;

mod running {
    pub(super) use shuttle::future::spawn;
    pub(super) use shuttle::sync::{Mutex, MutexGuard};
}

/// How many orders are tried, unless `SHUFFLES` says how many.
const ORDERS: usize = 2000;

fn shuffle(test: impl Fn() + Send + Sync + 'static) {
    let orders = std::env::var("SHUFFLES").ok();
    let orders = orders.and_then(|text| text.parse().ok());
    shuttle::check_random(test, orders.unwrap_or(ORDERS));
}

/// Gives way, so that others come first.
async fn give_way() {
    shuttle::future::yield_now().await;
}

#[test]
fn one_piece_of_work_runs_at_a_time_and_its_result_is_everybodys_who_joined() {
    shuffle(|| {
        let flights = Flights::new();
        let (under_way, runs) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let callers: Vec<_> = (0..3)
            .map(|_| {
                let flights = flights.clone();
                let (under_way, runs) = (Arc::clone(&under_way), Arc::clone(&runs));
                spawn(async move {
                    let work = || {
                        let (under_way, runs) = (Arc::clone(&under_way), Arc::clone(&runs));
                        async move {
                            assert_eq!(under_way.fetch_add(1, Ordering::SeqCst), 0);
                            give_way().await;
                            under_way.fetch_sub(1, Ordering::SeqCst);
                            runs.fetch_add(1, Ordering::SeqCst) + 1
                        }
                    };
                    let first = flights.run("key", work()).await.expect("no panic");
                    // Whoever has heard of a result and asks again isn't given that one.
                    let second = flights.run("key", work()).await.expect("no panic");
                    assert!(second > first);
                })
            })
            .collect();
        for caller in callers {
            block_on(caller).expect("no panic");
        }
        let runs = runs.load(Ordering::SeqCst);
        assert!((2..=6).contains(&runs), "{runs}");
    });
}

#[test]
fn different_keys_dont_wait_for_each_other_and_all_land() {
    shuffle(|| {
        let flights = Flights::new();
        let landed = Arc::new(AtomicU32::new(0));
        for key in ["a", "b", "a"] {
            let landed = Arc::clone(&landed);
            flights.start(key, async move {
                give_way().await;
                landed.fetch_add(1, Ordering::SeqCst);
            });
        }
        block_on(flights.landed());
        assert!(!flights.is_under_way(&"a") && !flights.is_under_way(&"b"));
        // The second of "a" joined the first, or came after it.
        assert!((2..=3).contains(&landed.load(Ordering::SeqCst)));
        let again = block_on(flights.run("a", async {}));
        assert_eq!(again, Some(()));
    });
}

#[test]
fn work_whose_callers_leave_is_finished() {
    shuffle(|| {
        let flights = Flights::new();
        let done = Arc::new(AtomicU32::new(0));
        let work = |done: &Arc<AtomicU32>| {
            let done = Arc::clone(done);
            async move {
                give_way().await;
                done.fetch_add(1, Ordering::SeqCst);
            }
        };
        let joining = flights.clone();
        let caller = spawn({
            let work = work(&done);
            async move { joining.run("key", work).await }
        });
        flights.start("key", work(&done));
        caller.abort();
        block_on(flights.landed());
        assert!(done.load(Ordering::SeqCst) >= 1);
    });
}
