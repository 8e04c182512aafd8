//! The same source under shuttle, which runs it in thousands of orders.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use shuttle::future::{block_on, spawn};
use turns::Turns;

use crate::protocol::secret::Secret;

#[path = "../turns.rs"]
#[expect(clippy::duplicate_mod, reason = "the same source, on other locks")]
#[expect(
    dead_code,
    unreachable_pub,
    reason = "this copy serves no module but this one"
)]
mod turns;

mod running {
    pub(super) use shuttle::sync::{Mutex, MutexGuard};
}

/// How many orders are tried, unless `SHUFFLES` says how many.
const ORDERS: usize = 2000;

fn shuffle(test: impl Fn() + Send + Sync + 'static) {
    let orders = std::env::var("SHUFFLES").ok();
    let orders = orders.and_then(|text| text.parse().ok());
    shuttle::check_random(test, orders.unwrap_or(ORDERS));
}

#[test]
fn a_token_is_in_one_hand_at_a_time_and_forgotten_afterwards() {
    shuffle(|| {
        let (turns, hands) = (Turns::default(), Arc::new(AtomicU32::new(0)));
        let users: Vec<_> = (0..3)
            .map(|n| {
                let (turns, hands) = (turns.clone(), Arc::clone(&hands));
                spawn(async move {
                    // The last one uses another token, and waits for nobody.
                    let token = if n == 2 { "other" } else { "token" };
                    let turn = turns.take(&Secret::new(token.to_owned())).await;
                    let others = hands.fetch_add(u32::from(n < 2), Ordering::SeqCst);
                    assert!(n == 2 || others == 0);
                    shuttle::future::yield_now().await;
                    hands.fetch_sub(u32::from(n < 2), Ordering::SeqCst);
                    drop(turn);
                })
            })
            .collect();
        for user in users {
            block_on(user).expect("no panic");
        }
        assert_eq!(turns.count(), 0);
    });
}

#[test]
fn whoever_leaves_the_queue_blocks_nobody() {
    shuffle(|| {
        let turns = Turns::default();
        let token = || Secret::new("token".to_owned());
        let first = block_on(turns.take(&token()));
        let waiting: Vec<_> = (0..2)
            .map(|_| {
                let turns = turns.clone();
                spawn(async move { drop(turns.take(&token()).await) })
            })
            .collect();
        let mut waiting = waiting.into_iter();
        if let Some(leaver) = waiting.next() {
            leaver.abort();
        }
        drop(first);
        for patient in waiting {
            block_on(patient).expect("no panic");
        }
        drop(block_on(turns.take(&token())));
    });
}
