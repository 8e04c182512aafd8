//! When a claim that waits looks again, by a clock that moves once all wait for it; and an ack of
//! what is pruned meanwhile.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use alipay_sidecar::clock::ManualClock;
use alipay_sidecar::config::delivery::DeliveryConfig;
use alipay_sidecar::delivery::Dispatcher;
use alipay_sidecar::delivery::metrics::DeliveryMetrics;
use alipay_sidecar::delivery::pull::{Claim, PullError, Puller};
use alipay_sidecar::delivery::whose::{Owner, Whose};
use alipay_sidecar::model::app::App;
use alipay_sidecar::model::call::{CallKey, CallRecord};
use alipay_sidecar::model::certificate::KeptCertificate;
use alipay_sidecar::model::delivery::{Delivery, DeliveryState};
use alipay_sidecar::model::id::{AppId, AuthAppId, EventId};
use alipay_sidecar::model::merchant::Merchant;
use alipay_sidecar::model::notification::InboxEntry;
use alipay_sidecar::model::refused::{RefusedNotification, Variant};
use alipay_sidecar::model::user_token::{UserKey, UserToken};
use alipay_sidecar::protocol::secret::Secret;
use alipay_sidecar::store::error::StoreError;
use alipay_sidecar::store::{
    Change, Counts, Directory, Due, Effect, Found, Inbox, Mark, MemoKey, MerchantKey, Parked,
    Pruned, Store,
};
use futures_util::future::BoxFuture;
use prometheus::Registry;
use tokio::time::Instant;

use crate::store::{START, entry};
use crate::support::client;

/// A store that doesn't change, and knows when it was asked what may be claimed. It answers at once:
/// only waiting takes time.
struct Still {
    /// How many are due, on each of two pages.
    due: usize,
    next_at: Option<i64>,
    /// What becomes of a change.
    effect: Effect,
    began: Instant,
    looks: Mutex<Vec<u128>>,
}

type Answer<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

impl Still {
    fn new(due: usize, next_at: Option<i64>) -> Self {
        Self {
            due,
            next_at,
            effect: Effect::Applied,
            began: Instant::now(),
            looks: Mutex::default(),
        }
    }

    /// When it was asked, milliseconds from its beginning.
    fn looks(&self) -> Vec<u128> {
        self.looks.lock().expect("whole").clone()
    }
}

fn owed() -> (InboxEntry, Delivery) {
    let entry = entry(START, None);
    let delivery = Delivery {
        id: entry.id,
        state: DeliveryState::Pending,
        attempts: 1,
        owed_since: START,
        next_attempt_at: START,
        parked: false,
        lease: None,
        history: Vec::new(),
    };
    (entry, delivery)
}

/// Gives what `store` has, by a clock that always shows [`START`].
fn puller(store: &Arc<Still>) -> Puller {
    let dispatcher = Dispatcher::new(
        store.clone(),
        client(),
        Arc::new(ManualClock::new(START)),
        &DeliveryConfig::default(),
        DeliveryMetrics::register(&Registry::new()).expect("new"),
    );
    dispatcher.puller()
}

fn waiting(milliseconds: u64) -> Claim {
    Claim {
        max: 10,
        lease: Duration::from_secs(30),
        wait: Duration::from_millis(milliseconds),
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_waits_looks_again_when_the_next_event_is_due() {
    let store = Arc::new(Still::new(0, Some(START + 300)));
    let claimed = puller(&store)
        .claim(waiting(1_000), &Whose::Everybodys)
        .await;
    assert!(claimed.expect("readable").is_empty());
    assert_eq!(store.looks(), [0, 300, 600, 900, 1_000]);
}

#[tokio::test(start_paused = true)]
async fn a_claim_looks_every_five_seconds_where_nothing_will_be_due() {
    let store = Arc::new(Still::new(0, None));
    let claimed = puller(&store)
        .claim(waiting(12_000), &Whose::Everybodys)
        .await;
    assert!(claimed.expect("readable").is_empty());
    assert_eq!(store.looks(), [0, 5_000, 10_000, 12_000]);
}

/// Else every event of others would cost a look at all that is owed to others.
#[tokio::test(start_paused = true)]
async fn whatever_happens_a_claim_that_met_much_of_others_looks_once_a_second() {
    let store = Arc::new(Still::new(60, None));
    let puller = puller(&store);
    let none = Whose::Of(Arc::new(|_: &Owner<'_>| false));
    let news = async {
        for _ in 0..30 {
            tokio::time::sleep(Duration::from_millis(70)).await;
            // Claims that wait are told of it.
            puller.ack(EventId::new(START)).await.expect("taken");
        }
    };
    let (claimed, ()) = tokio::join!(puller.claim(waiting(2_500), &none), news);
    assert!(claimed.expect("readable").is_empty());
    // Two pages each.
    let expected = [0, 0, 1_000, 1_000, 2_000, 2_000, 2_500, 2_500];
    assert_eq!(store.looks(), expected);
}

#[tokio::test]
async fn what_is_pruned_while_it_is_acked_is_unknown() {
    let store = Arc::new(Still {
        effect: Effect::Missing,
        ..Still::new(0, None)
    });
    let id = EventId::new(START);
    let acked = puller(&store).ack(id).await;
    assert!(
        matches!(acked, Err(PullError::Unknown(unknown)) if unknown == id),
        "{acked:?}"
    );
}

/// What neither a claim nor an ack asks.
fn unasked<'a, T>() -> Answer<'a, T> {
    unreachable!("nobody asks for it")
}

impl Store for Still {
    fn commit(&self, changes: Vec<Change>) -> Answer<'_, Vec<Effect>> {
        let effects = changes.iter().map(|_| self.effect.clone()).collect();
        Box::pin(async move { Ok(effects) })
    }

    fn recall(&self, _: MemoKey, _: i64) -> Answer<'_, Option<Secret<Vec<u8>>>> {
        unasked()
    }

    fn call(&self, _: CallKey, _: i64) -> Answer<'_, Option<CallRecord>> {
        unasked()
    }

    fn counts(&self) -> Answer<'_, Counts> {
        unasked()
    }

    fn prune(&self, _: i64, _: i64) -> Answer<'_, Pruned> {
        unasked()
    }

    fn is_writable(&self) -> bool {
        true
    }
}

impl Directory for Still {
    fn apps(&self) -> Answer<'_, Vec<App>> {
        unasked()
    }

    fn certificates(&self) -> Answer<'_, Vec<KeptCertificate>> {
        unasked()
    }

    fn find(&self, _: MerchantKey) -> Answer<'_, Vec<Merchant>> {
        unasked()
    }

    fn find_all(&self, _: MerchantKey) -> Answer<'_, Found> {
        unasked()
    }

    fn merchants(&self, _: Option<(AppId, AuthAppId)>, _: usize) -> Answer<'_, Vec<Merchant>> {
        unasked()
    }

    fn merchants_page(&self, _: Option<(AppId, AuthAppId)>, _: usize) -> Answer<'_, Found> {
        unasked()
    }

    fn unreadable_merchants(&self) -> Answer<'_, u64> {
        unasked()
    }

    fn user(&self, _: UserKey) -> Answer<'_, Option<UserToken>> {
        unasked()
    }
}

impl Inbox for Still {
    fn entry(&self, _: EventId) -> Answer<'_, Option<(InboxEntry, Delivery)>> {
        Box::pin(async { Ok(Some(owed())) })
    }

    fn known(&self, _: AppId, _: String) -> Answer<'_, Option<EventId>> {
        unasked()
    }

    fn entries(
        &self,
        _: Option<DeliveryState>,
        _: Option<EventId>,
        _: usize,
    ) -> Answer<'_, Vec<(InboxEntry, Delivery)>> {
        unasked()
    }

    fn entries_before(
        &self,
        _: Option<DeliveryState>,
        _: Option<EventId>,
        _: usize,
    ) -> Answer<'_, Vec<(InboxEntry, Delivery)>> {
        unasked()
    }

    fn due(&self, _: i64, _: usize, _: HashSet<EventId>) -> Answer<'_, Due> {
        unasked()
    }

    fn refused(&self, _: Option<EventId>, _: usize) -> Answer<'_, Vec<RefusedNotification>> {
        unasked()
    }

    fn refused_before(&self, _: Option<EventId>, _: usize) -> Answer<'_, Vec<RefusedNotification>> {
        unasked()
    }

    fn refused_one(&self, _: EventId) -> Answer<'_, Option<RefusedNotification>> {
        unasked()
    }

    fn variants(&self, _: EventId) -> Answer<'_, Vec<Variant>> {
        unasked()
    }

    fn parked(&self, _: Option<EventId>, _: usize) -> Answer<'_, Parked> {
        Box::pin(async { Ok(Parked::default()) })
    }

    fn claimable_after(
        &self,
        after: Option<Mark>,
        _: (i64, usize),
        _: HashSet<EventId>,
    ) -> Answer<'_, Due> {
        let mut looks = self.looks.lock().expect("whole");
        // The clock never moves for who doesn't wait.
        assert!(looks.len() < 100, "it looks without a pause");
        looks.push(self.began.elapsed().as_millis());
        let has_more = self.due > 0 && after.is_none();
        let found = Due {
            now: (0..self.due).map(|_| owed()).collect(),
            next_at: self.next_at,
            end: has_more.then(|| Mark::Parked(EventId::new(START))),
        };
        Box::pin(async move { Ok(found) })
    }

    fn lapsed(&self, _: i64, _: usize) -> Answer<'_, Vec<Delivery>> {
        unasked()
    }
}
