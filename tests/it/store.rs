//! What every store must do: one suite, run on each kind of store.

use std::collections::HashSet;
use std::sync::Arc;

use alipay_sidecar::clock::{Clock, ManualClock};
use alipay_sidecar::model::app::{App, Environment};
use alipay_sidecar::model::authorization::{
    Authorization, Doubt, Evidence, Rank, Refusal, Revocation, Source,
};
use alipay_sidecar::model::call::{CallId, CallKey, CallOutcome, CallRecord, KeptReply};
use alipay_sidecar::model::delivery::{
    Attempt, AttemptError, Delivery, DeliveryState, Lease, Settlement, Via,
};
use alipay_sidecar::model::id::{Alias, AppId, AuthAppId, EventId, Pid};
use alipay_sidecar::model::merchant::{Merchant, MerchantStatus};
use alipay_sidecar::model::notification::{Body, DeliveryForm, InboxEntry};
use alipay_sidecar::model::token::AppAuthToken;
use alipay_sidecar::model::user_token::{UserKey, UserName, UserToken};
use alipay_sidecar::protocol::secret::Secret;
use alipay_sidecar::protocol::signature::SignType;
use alipay_sidecar::store::embedded::{EmbeddedStore, OpenOptions};
use alipay_sidecar::store::error::StoreError;
use alipay_sidecar::store::seal::StoreKey;
use alipay_sidecar::store::{Change, Due, Effect, MemoKey, MerchantKey, Store};
use bytes::Bytes;

/// When the tests' clock begins, Unix milliseconds.
pub(crate) const START: i64 = 1_700_000_000_000;
pub(crate) const DAY: i64 = 24 * 60 * 60 * 1000;

/// A store under test.
pub(crate) struct Fixture {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: ManualClock,
    pub(crate) key: StoreKey,
    pub(crate) dir: tempfile::TempDir,
}

impl Fixture {
    /// A new, empty embedded store.
    pub(crate) fn embedded() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let (key, clock) = (StoreKey::generate(), ManualClock::new(START));
        let options = OpenOptions {
            path: dir.path().join("store.redb"),
            key: key.clone(),
            cache_bytes: 1 << 20,
            clock: Arc::new(clock.clone()),
        };
        EmbeddedStore::create(&options.path, &key).expect("created");
        let store = Arc::new(EmbeddedStore::open(options).expect("opened"));
        Self {
            store,
            clock,
            key,
            dir,
        }
    }

    /// Commits one change.
    pub(crate) async fn commit(&self, change: Change) -> Effect {
        let effects = self.store.commit(vec![change]).await.expect("committed");
        effects.into_iter().next().expect("one effect")
    }

    async fn find(&self, key: MerchantKey) -> Vec<Merchant> {
        self.store.find(key).await.expect("readable")
    }

    async fn only(&self, key: MerchantKey) -> Merchant {
        let mut found = self.find(key).await;
        assert_eq!(found.len(), 1, "one merchant is expected");
        found.remove(0)
    }

    async fn receive(&self, order_key: Option<&str>) -> EventId {
        let entry = InboxEntry {
            order_key: order_key.map(str::to_owned),
            opened_content: None,
            ..entry(self.clock.now_ms(), None)
        };
        let id = entry.id;
        self.clock.advance_ms(1);
        assert!(matches!(
            self.commit(Change::Receive(Box::new(entry))).await,
            Effect::Applied
        ));
        id
    }

    async fn due(&self) -> Vec<EventId> {
        let due = self
            .store
            .due(self.clock.now_ms(), 100, HashSet::new())
            .await;
        due.expect("readable")
            .now
            .iter()
            .map(|(e, _)| e.id)
            .collect()
    }

    pub(crate) async fn settle(&self, id: EventId, settlement: Settlement) -> Effect {
        self.clock.advance_ms(1);
        let attempt = attempt(self.clock.now_ms());
        self.commit(Change::Settle {
            id,
            attempt,
            owed_since: None,
            settlement,
        })
        .await
    }

    async fn state(&self, id: EventId) -> DeliveryState {
        let found = self.store.entry(id).await.expect("readable");
        found.expect("the entry is there").1.state
    }
}

/// Runs `test` on a new store of every kind.
pub(crate) async fn on_every_store(test: impl AsyncFn(Fixture)) {
    test(Fixture::embedded()).await;
}

pub(crate) fn app() -> AppId {
    AppId::new("2021000000000001").expect("an id")
}

pub(crate) fn merchant_app(n: u32) -> AuthAppId {
    AuthAppId::new(&format!("20210000{n:08}")).expect("an id")
}

pub(crate) fn pid() -> Pid {
    Pid::new("2088102146225135").expect("a PID")
}

pub(crate) fn alias(text: &str) -> Alias {
    Alias::new(text).expect("an alias")
}

pub(crate) fn secret(text: &str) -> Secret<String> {
    Secret::new(text.to_owned())
}

pub(crate) fn authorization(n: u32, token: &str, rank: Rank) -> Authorization {
    Authorization {
        app_id: app(),
        auth_app_id: merchant_app(n),
        pid: Some(pid()),
        alias: None,
        reference: None,
        token: AppAuthToken {
            app_auth_token: secret(token),
            app_refresh_token: Some(secret(&format!("refresh-{token}"))),
            stated_expiry: None,
        },
        rank,
        source: Source::Push,
        bound: true,
        is_plugin: false,
        agent_app_id: None,
        renews: None,
        trigger: None,
        error: None,
        encrypt_key: None,
    }
}

pub(crate) fn authorize(authorization: Authorization, entry: Option<InboxEntry>) -> Change {
    Change::Authorize {
        authorization: Box::new(authorization),
        entry: entry.map(Box::new),
    }
}

pub(crate) fn entry(received_at: i64, notify_id: Option<&str>) -> InboxEntry {
    InboxEntry {
        id: EventId::new(received_at),
        app_id: app(),
        notify_id: notify_id.map(str::to_owned),
        event_type: "trade_status_sync".to_owned(),
        auth_app_id: None,
        pid: None,
        received_at,
        notify_path: "/orders".to_owned(),
        notify_query: "shop=5".to_owned(),
        order_key: None,
        opened_content: None,
        scheme: None,
        body: Some(Body {
            content_type: "application/x-www-form-urlencoded".to_owned(),
            bytes: Bytes::from_static(b"out_trade_no=plain-to-see"),
        }),
        event: None,
        form: DeliveryForm::AsConfigured,
    }
}

fn event_entry(received_at: i64, notify_id: Option<&str>) -> InboxEntry {
    InboxEntry {
        form: DeliveryForm::Event,
        ..entry(received_at, notify_id)
    }
}

pub(crate) fn attempt(at: i64) -> Attempt {
    Attempt {
        reason: None,
        at,
        duration_ms: 5,
        status: Some(500),
        error: Some(AttemptError::Status),
        via: Via::Push,
        to: Some("https://backend.example/events".to_owned()),
    }
}

pub(crate) fn remember(key: MemoKey, value: &str, expires_at: i64) -> Change {
    Change::Remember {
        key,
        value: Secret::new(value.as_bytes().to_vec()),
        expires_at,
    }
}

#[tokio::test]
async fn a_merchant_is_found_by_every_key_and_every_token_it_ever_had() {
    on_every_store(async |fixture: Fixture| {
        for (at, token) in [(1, "first"), (2, "second"), (3, "third")] {
            let mut given = authorization(7, token, Rank::AuthTime(START + at));
            given.alias = Some(alias("shop"));
            fixture.commit(authorize(given, None)).await;
        }
        for key in [
            MerchantKey::Alias(alias("shop")),
            MerchantKey::AuthAppId(merchant_app(7)),
            MerchantKey::Exact(app(), merchant_app(7)),
            MerchantKey::Pid(pid()),
            MerchantKey::Token(secret("first")),
            MerchantKey::Token(secret("second")),
            MerchantKey::Token(secret("third")),
        ] {
            let merchant = fixture.only(key).await;
            assert_eq!(merchant.token.app_auth_token.expose(), "third");
            let previous = merchant.previous_token.expect("there was one before");
            assert_eq!(previous.app_auth_token.expose(), "second");
        }
        for key in [
            MerchantKey::Alias(alias("shop2")),
            MerchantKey::Exact(app(), merchant_app(8)),
            MerchantKey::Token(secret("never held")),
        ] {
            assert!(fixture.find(key).await.is_empty());
        }
    })
    .await;
}

#[tokio::test]
async fn the_newest_authorisation_wins_and_an_older_message_is_kept_as_ignored() {
    on_every_store(async |fixture: Fixture| {
        let newer = authorization(1, "newer", Rank::AuthTime(START + 20));
        let older = authorization(1, "older", Rank::AuthTime(START + 10));
        fixture.commit(authorize(newer, None)).await;
        let late = event_entry(START, Some("late"));
        let own = InboxEntry {
            body: None,
            ..event_entry(START, None)
        };
        let effect = fixture
            .commit(authorize(older.clone(), Some(late.clone())))
            .await;
        assert!(matches!(effect, Effect::Stale));
        let effect = fixture.commit(authorize(older, Some(own.clone()))).await;
        assert!(matches!(effect, Effect::Stale));
        assert_eq!(fixture.state(late.id).await, DeliveryState::Ignored);
        assert!(
            fixture
                .store
                .entry(own.id)
                .await
                .expect("readable")
                .is_none()
        );
        assert!(
            fixture
                .find(MerchantKey::Token(secret("older")))
                .await
                .is_empty()
        );
        assert!(fixture.due().await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn an_applied_authorisation_carries_its_event() {
    on_every_store(async |fixture: Fixture| {
        let push = event_entry(START, Some("push"));
        let given = authorization(1, "t", Rank::AuthTime(START));
        fixture.commit(authorize(given, Some(push.clone()))).await;
        let found = fixture.store.entry(push.id).await.expect("readable");
        let (stored, delivery) = found.expect("the entry is there");
        let event = stored.event.expect("filled in");
        assert_eq!(event.event_type, "merchant.authorized");
        assert_eq!((event.id, event.auth_time), (push.id.to_string(), START));
        assert_eq!(stored.pid, Some(pid()));
        assert_eq!(stored.body, push.body);
        assert_eq!(delivery.state, DeliveryState::Pending);
        assert_eq!(fixture.due().await, [push.id]);
    })
    .await;
}

#[tokio::test]
async fn a_cancellation_marks_the_merchant_and_an_unknown_one_is_still_owed() {
    on_every_store(async |fixture: Fixture| {
        let given = authorization(1, "t", Rank::AuthTime(START));
        fixture.commit(authorize(given, None)).await;
        let merchant = fixture.only(MerchantKey::AuthAppId(merchant_app(1))).await;
        let cancel = |entry: &InboxEntry| Change::Revoke {
            revocation: Revocation::new(&merchant, Some(START + 5)),
            entry: Some(Box::new(entry.clone())),
        };
        let push = event_entry(START + 1, Some("cancel"));
        assert!(matches!(
            fixture.commit(cancel(&push)).await,
            Effect::Applied
        ));
        let found = fixture.only(MerchantKey::AuthAppId(merchant_app(1))).await;
        assert_eq!(found.status, MerchantStatus::Revoked { at: START + 5 });
        let counts = fixture.store.counts().await.expect("readable");
        assert_eq!(
            (counts.merchants_authorized, counts.merchants_revoked),
            (0, 1)
        );
        let stored = fixture.store.entry(push.id).await.expect("readable");
        let event = stored.expect("there").0.event.expect("filled in");
        assert_eq!(
            (event.event_type.as_str(), event.auth_time),
            ("merchant.revoked", START + 5)
        );

        fixture
            .commit(Change::RemoveMerchant(app(), merchant_app(1)))
            .await;
        let push = event_entry(START + 2, Some("cancel unknown"));
        assert!(matches!(
            fixture.commit(cancel(&push)).await,
            Effect::Missing
        ));
        let stored = fixture.store.entry(push.id).await.expect("readable");
        let (stored, delivery) = stored.expect("kept");
        assert_eq!(delivery.state, DeliveryState::Pending);
        assert_eq!((stored.event, stored.form), (None, DeliveryForm::Redacted));
    })
    .await;
}

#[tokio::test]
async fn a_cancellation_that_comes_first_makes_what_it_cancels_stale() {
    on_every_store(async |fixture: Fixture| {
        let cancel = |at| Change::Revoke {
            revocation: Revocation {
                app_id: app(),
                auth_app_id: merchant_app(1),
                at: Some(at),
                estimated: false,
                only: None,
            },
            entry: None,
        };
        for at in [START + 3, START + 5, START + 4] {
            assert!(matches!(fixture.commit(cancel(at)).await, Effect::Missing));
        }
        let given = |at| authorize(authorization(1, "t", Rank::AuthTime(at)), None);
        for (n, at) in [(2, START + 5), (0, START + 1)] {
            let other = authorize(authorization(n, "other", Rank::AuthTime(at)), None);
            fixture.commit(other).await;
            fixture
                .commit(Change::RemoveMerchant(app(), merchant_app(n)))
                .await;
        }
        assert!(matches!(
            fixture.commit(given(START + 5)).await,
            Effect::Stale
        ));
        assert!(matches!(
            fixture.commit(given(START + 6)).await,
            Effect::Applied
        ));
        let found = fixture.only(MerchantKey::AuthAppId(merchant_app(1))).await;
        assert_eq!(found.status, MerchantStatus::Authorized);
        // Forgotten with the other memos: the file doesn't grow.
        fixture.clock.advance_ms(31 * DAY);
        let now = fixture.clock.now_ms();
        let pruned = fixture.store.prune(now, DAY).await.expect("pruned");
        assert_eq!(pruned.memos, 1);
    })
    .await;
}

#[tokio::test]
async fn a_refused_token_is_told_once_and_counted_and_a_working_call_clears_it() {
    on_every_store(async |fixture: Fixture| {
        fixture
            .commit(authorize(
                authorization(1, "t", Rank::AuthTime(START)),
                None,
            ))
            .await;
        let merchant = fixture.only(MerchantKey::AuthAppId(merchant_app(1))).await;
        let refused = |evidence, entry: &InboxEntry| Change::Doubt {
            refusal: Refusal {
                evidence,
                ..Refusal::new(&merchant, Doubt::TokenRefused, START + 1)
            },
            entry: Some(Box::new(entry.clone())),
        };
        let own = |at| InboxEntry {
            body: None,
            ..event_entry(at, None)
        };
        let (first, second, third) = (own(START + 1), own(START + 2), own(START + 3));
        let counts = async || {
            let counts = fixture.store.counts().await.expect("readable");
            (
                counts.merchants_authorized,
                counts.merchants_suspect,
                counts.merchants_revoked,
            )
        };
        fixture.clock.advance_ms(1);
        let effect = fixture.commit(refused(Evidence::None, &first)).await;
        assert!(matches!(effect, Effect::Applied));
        let effect = fixture.commit(refused(Evidence::None, &second)).await;
        assert!(matches!(effect, Effect::Stale));
        assert_eq!(counts().await, (0, 1, 0));
        let told = fixture
            .store
            .entry(first.id)
            .await
            .expect("readable")
            .expect("kept");
        let event = told.0.event.expect("filled in");
        assert_eq!(event.event_type, "merchant.suspect");
        assert_eq!(event.trigger.as_deref(), Some("token-refused"));
        assert!(
            fixture
                .store
                .entry(second.id)
                .await
                .expect("readable")
                .is_none()
        );

        let worked = Change::Worked {
            app_id: app(),
            auth_app_id: merchant_app(1),
            app_auth_token: secret("t"),
        };
        assert!(matches!(
            fixture.commit(worked.clone()).await,
            Effect::Applied
        ));
        assert!(matches!(fixture.commit(worked).await, Effect::Stale));
        assert_eq!(counts().await, (1, 0, 0));
        let trust = Change::Trust {
            app_id: app(),
            auth_app_id: merchant_app(1),
            app_auth_token: secret("t"),
        };
        assert!(matches!(fixture.commit(trust.clone()).await, Effect::Stale));
        fixture
            .commit(refused(Evidence::None, &own(START + 4)))
            .await;
        assert_eq!(counts().await, (0, 1, 0));
        assert!(matches!(fixture.commit(trust).await, Effect::Applied));
        assert_eq!(counts().await, (1, 0, 0));

        fixture.commit(refused(Evidence::Invalid, &third)).await;
        assert_eq!(counts().await, (0, 0, 1));
        let told = fixture
            .store
            .entry(third.id)
            .await
            .expect("readable")
            .expect("kept");
        let event = told.0.event.expect("filled in");
        assert_eq!(
            (event.event_type.as_str(), event.auth_time),
            ("merchant.revoked", START + 1)
        );
        let unknown = Change::Doubt {
            refusal: Refusal {
                auth_app_id: merchant_app(9),
                ..Refusal::new(&merchant, Doubt::TokenRefused, START + 1)
            },
            entry: Some(Box::new(own(START + 9))),
        };
        assert!(matches!(fixture.commit(unknown).await, Effect::Missing));
    })
    .await;
}

#[tokio::test]
async fn a_companion_shares_the_fate_of_what_it_goes_with() {
    on_every_store(async |fixture: Fixture| {
        let states = async |token: &str, at: i64| {
            let push = event_entry(at, Some(token));
            let copy = entry(at, None);
            let changes = vec![
                authorize(
                    authorization(1, token, Rank::AuthTime(at)),
                    Some(push.clone()),
                ),
                Change::Accompany(Box::new(copy.clone())),
            ];
            fixture.store.commit(changes).await.expect("committed");
            (fixture.state(push.id).await, fixture.state(copy.id).await)
        };
        use DeliveryState::{Ignored, Pending};
        assert_eq!(states("new", START + 1).await, (Pending, Pending));
        assert_eq!(states("old", START).await, (Ignored, Ignored));
    })
    .await;
}

#[tokio::test]
async fn a_companion_is_owed_from_when_it_is_stored() {
    on_every_store(async |fixture: Fixture| {
        const LATER: i64 = 4 * 86_400_000;
        fixture.clock.advance_ms(LATER);
        let copy = entry(START, None);
        let accompany = vec![Change::Accompany(Box::new(copy.clone()))];
        fixture.store.commit(accompany).await.expect("committed");
        let kept = fixture.store.entry(copy.id).await.expect("readable");
        let (kept, delivery) = kept.expect("it is kept");
        assert_eq!(kept.received_at, START);
        assert_eq!(delivery.owed_since, START + LATER);
    })
    .await;
}

#[tokio::test]
async fn a_learned_token_selects_a_merchant_without_replacing_its_token() {
    on_every_store(async |fixture: Fixture| {
        let given = authorization(1, "current", Rank::AuthTime(START));
        fixture.commit(authorize(given, None)).await;
        let learned = authorize(authorization(1, "learned", Rank::Unranked), None);
        assert!(matches!(fixture.commit(learned).await, Effect::Applied));
        let found = fixture.only(MerchantKey::Token(secret("learned"))).await;
        assert_eq!(found.token.app_auth_token.expose(), "current");
        let taken = authorize(authorization(2, "learned", Rank::Unranked), None);
        let taken = fixture.store.commit(vec![taken]).await;
        assert!(matches!(taken, Err(StoreError::TokenConflict { .. })));
    })
    .await;
}

#[tokio::test]
async fn a_refused_commit_leaves_no_trace_and_its_neighbours_succeed() {
    on_every_store(async |fixture: Fixture| {
        fixture
            .commit(authorize(authorization(1, "taken", Rank::AfterStored), None))
            .await;
        let spoilt = event_entry(START, Some("spoilt"));
        let changes = vec![
            authorize(authorization(2, "fresh", Rank::AfterStored), Some(spoilt.clone())),
            authorize(authorization(3, "taken", Rank::AfterStored), None),
        ];
        let neighbour = |n: u32| {
            let given = authorization(n, &format!("t{n}"), Rank::AfterStored);
            fixture.store.commit(vec![authorize(given, None)])
        };
        let (before, refused, after) =
            tokio::join!(neighbour(4), fixture.store.commit(changes), neighbour(5));
        assert!(before.is_ok() && after.is_ok());
        assert!(matches!(
            refused,
            Err(StoreError::TokenConflict { owner }) if owner == format!("{}/{}", app(), merchant_app(1))
        ));
        for (n, expected) in [(1, 1), (2, 0), (3, 0), (4, 1), (5, 1)] {
            let found = fixture.find(MerchantKey::AuthAppId(merchant_app(n))).await;
            assert_eq!(found.len(), expected, "merchant {n}");
        }
        assert!(fixture.find(MerchantKey::Token(secret("fresh"))).await.is_empty());
        assert!(fixture.store.entry(spoilt.id).await.expect("readable").is_none());
        assert!(matches!(
            fixture.commit(Change::Receive(Box::new(spoilt))).await,
            Effect::Applied
        ));
    })
    .await;
}

#[tokio::test]
async fn an_alias_belongs_to_one_merchant_of_an_app() {
    on_every_store(async |fixture: Fixture| {
        for n in [1, 2] {
            let given = authorization(n, &format!("t{n}"), Rank::AfterStored);
            fixture.commit(authorize(given, None)).await;
        }
        let name = |n, name: Option<&str>| Change::NameMerchant {
            app_id: app(),
            auth_app_id: merchant_app(n),
            alias: name.map(alias),
        };
        assert!(matches!(
            fixture.commit(name(1, Some("shop"))).await,
            Effect::Applied
        ));
        assert!(matches!(
            fixture.commit(name(1, Some("shop"))).await,
            Effect::Applied
        ));
        assert!(matches!(
            fixture.commit(name(9, Some("other"))).await,
            Effect::Missing
        ));
        let taken = fixture.store.commit(vec![name(2, Some("shop"))]).await;
        assert!(matches!(taken, Err(StoreError::AliasTaken { owner, .. })
            if owner == merchant_app(1).as_str()));
        fixture.commit(name(1, None)).await;
        assert!(matches!(
            fixture.commit(name(2, Some("shop"))).await,
            Effect::Applied
        ));
        let named = fixture.only(MerchantKey::Alias(alias("shop"))).await;
        assert_eq!(named.auth_app_id, merchant_app(2));
    })
    .await;
}

#[tokio::test]
async fn a_key_that_alipay_told_is_kept_and_never_replaces_an_operators() {
    on_every_store(async |fixture: Fixture| {
        let fetched = |n, key: &str| Change::FetchedKey {
            app_id: app(),
            auth_app_id: merchant_app(n),
            encrypt_key: secret(key),
        };
        let exact = || MerchantKey::Exact(app(), merchant_app(1));
        let unknown = fixture.commit(fetched(1, "k1")).await;
        assert!(matches!(unknown, Effect::Missing));
        let given = authorization(1, "t1", Rank::AuthTime(5));
        fixture.commit(authorize(given, None)).await;
        for key in ["k1", "k1", "k2"] {
            let kept = fixture.commit(fetched(1, key)).await;
            assert!(matches!(kept, Effect::Applied));
            let merchant = fixture.only(exact()).await;
            assert!(merchant.encrypt_key_fetched);
            assert_eq!(merchant.encrypt_key, Some(secret(key)));
            assert_eq!(merchant.token.app_auth_token, secret("t1"));
            assert_eq!(
                (merchant.auth_time, merchant.auth_time_estimated),
                (5, false)
            );
        }
        // A newer authorisation keeps it, an operator's own key takes its place.
        let newer = authorization(1, "t2", Rank::AuthTime(6));
        fixture.commit(authorize(newer, None)).await;
        let merchant = fixture.only(exact()).await;
        assert!(merchant.encrypt_key_fetched);
        assert_eq!(merchant.encrypt_key, Some(secret("k2")));
        let own = Authorization {
            encrypt_key: Some(secret("own")),
            ..authorization(1, "t2", Rank::AuthTime(7))
        };
        fixture.commit(authorize(own, None)).await;
        let stale = fixture.commit(fetched(1, "k3")).await;
        assert!(matches!(stale, Effect::Stale));
        let merchant = fixture.only(exact()).await;
        assert!(!merchant.encrypt_key_fetched);
        assert_eq!(merchant.encrypt_key, Some(secret("own")));
    })
    .await;
}

#[tokio::test]
async fn a_missing_pid_is_filled_in_and_a_known_one_stays() {
    on_every_store(async |fixture: Fixture| {
        let pid = |n: u64| Pid::new(&format!("208800000000000{n}")).expect("a PID");
        let fill = |merchant, n| Change::FillPid {
            app_id: app(),
            auth_app_id: merchant_app(merchant),
            pid: pid(n),
        };
        let unknown = fixture.commit(fill(1, 1)).await;
        assert!(matches!(unknown, Effect::Missing));
        let nameless = Authorization {
            pid: None,
            ..authorization(1, "t1", Rank::AuthTime(5))
        };
        fixture.commit(authorize(nameless, None)).await;
        let filled = fixture.commit(fill(1, 1)).await;
        assert!(matches!(filled, Effect::Applied));
        let again = fixture.commit(fill(1, 2)).await;
        assert!(matches!(again, Effect::Stale));
        let merchant = fixture.only(MerchantKey::Pid(pid(1))).await;
        assert_eq!((merchant.pid, merchant.auth_time), (Some(pid(1)), 5));
    })
    .await;
}

#[tokio::test]
async fn a_removed_merchant_takes_its_names_and_tokens_with_it() {
    on_every_store(async |fixture: Fixture| {
        for token in ["old", "new"] {
            let mut given = authorization(1, token, Rank::AfterStored);
            given.alias = Some(alias("shop"));
            fixture.commit(authorize(given, None)).await;
        }
        let remove = || Change::RemoveMerchant(app(), merchant_app(1));
        assert!(matches!(fixture.commit(remove()).await, Effect::Applied));
        assert!(matches!(fixture.commit(remove()).await, Effect::Missing));
        for key in [
            MerchantKey::Alias(alias("shop")),
            MerchantKey::AuthAppId(merchant_app(1)),
            MerchantKey::Pid(pid()),
            MerchantKey::Token(secret("old")),
        ] {
            assert!(fixture.find(key).await.is_empty());
        }
        let mut given = authorization(2, "old", Rank::AfterStored);
        given.alias = Some(alias("shop"));
        assert!(matches!(
            fixture.commit(authorize(given, None)).await,
            Effect::Applied
        ));
    })
    .await;
}

#[tokio::test]
async fn the_same_commit_again_changes_nothing() {
    on_every_store(async |fixture: Fixture| {
        fixture
            .commit(authorize(
                authorization(1, "t0", Rank::AuthTime(START)),
                None,
            ))
            .await;
        let push = event_entry(START, Some("push"));
        let pushed = vec![authorize(
            authorization(1, "t1", Rank::AuthTime(START + 1)),
            Some(push.clone()),
        )];
        let exchanged = vec![authorize(authorization(2, "t2", Rank::AfterStored), None)];
        for changes in [pushed.clone(), pushed, exchanged.clone(), exchanged] {
            fixture.store.commit(changes).await.expect("committed");
            fixture.clock.advance_ms(10);
        }
        let merchant = fixture.only(MerchantKey::AuthAppId(merchant_app(1))).await;
        let previous = merchant.previous_token.expect("there was one before");
        assert_eq!(previous.app_auth_token.expose(), "t0");
        let merchant = fixture.only(MerchantKey::AuthAppId(merchant_app(2))).await;
        assert_eq!(
            (merchant.previous_token.is_none(), merchant.updated_at),
            (true, START + 20)
        );
        assert_eq!(fixture.store.counts().await.expect("readable").pending, 1);

        let settle = Change::Settle {
            id: push.id,
            attempt: attempt(START + 50),
            owed_since: None,
            settlement: Settlement::RetryAt(START + 99),
        };
        for _ in 0..2 {
            assert!(matches!(
                fixture.commit(settle.clone()).await,
                Effect::Applied
            ));
        }
        let found = fixture.store.entry(push.id).await.expect("readable");
        assert_eq!(found.expect("there").1.attempts, 1);
    })
    .await;
}

#[tokio::test]
async fn a_notify_id_is_taken_once_per_app() {
    on_every_store(async |fixture: Fixture| {
        let first = entry(START, Some("n1"));
        assert!(matches!(
            fixture
                .commit(Change::Receive(Box::new(first.clone())))
                .await,
            Effect::Applied
        ));
        let again = entry(START + 5, Some("n1"));
        let key = MemoKey::new("test", &["void"]);
        let changes = vec![
            Change::Receive(Box::new(again)),
            remember(key, "v", START + DAY),
        ];
        let effects = fixture.store.commit(changes).await.expect("committed");
        assert!(
            matches!(effects.as_slice(), [Effect::Duplicate(id), Effect::Void] if *id == first.id)
        );
        assert!(
            fixture
                .store
                .recall(key, START)
                .await
                .expect("readable")
                .is_none()
        );
        let other_app = InboxEntry {
            app_id: AppId::new("2021000000000002").expect("an id"),
            ..entry(START, Some("n1"))
        };
        assert!(matches!(
            fixture.commit(Change::Receive(Box::new(other_app))).await,
            Effect::Applied
        ));
    })
    .await;
}

#[tokio::test]
async fn deliveries_that_share_an_order_key_keep_their_order() {
    on_every_store(async |fixture: Fixture| {
        let first = fixture.receive(Some("order")).await;
        let second = fixture.receive(Some("order")).await;
        let third = fixture.receive(Some("order")).await;
        let free = fixture.receive(None).await;
        assert_eq!(fixture.due().await, [first, free]);

        let later = fixture.clock.now_ms() + 1_000;
        fixture.settle(first, Settlement::RetryAt(later)).await;
        assert_eq!(
            fixture.due().await,
            [free],
            "the second waits for the first's retry"
        );
        let due = fixture
            .store
            .due(fixture.clock.now_ms(), 100, HashSet::new())
            .await;
        assert_eq!(due.expect("readable").next_at, Some(later));

        fixture.settle(first, Settlement::GivenUp).await;
        assert_eq!(
            fixture.due().await,
            [second, free],
            "a dead one lets the next go on"
        );
        fixture.settle(second, Settlement::Delivered).await;
        assert_eq!(fixture.due().await, [third, free]);

        let now = fixture.clock.now_ms();
        fixture.commit(Change::Replay { id: first, now }).await;
        assert_eq!(
            fixture.due().await,
            [free, first],
            "a replayed older one goes first again"
        );
        fixture.settle(third, Settlement::RetryAt(now)).await;
        assert_eq!(
            fixture.due().await,
            [free, first],
            "one in flight may fail without harm"
        );
        fixture.settle(first, Settlement::Delivered).await;
        assert!(fixture.due().await.contains(&third));
    })
    .await;
}

#[tokio::test]
async fn a_delivery_goes_from_pending_to_dead_and_back_by_replay() {
    on_every_store(async |fixture: Fixture| {
        let id = fixture.receive(None).await;
        assert!(matches!(
            fixture.settle(id, Settlement::GivenUp).await,
            Effect::Applied
        ));
        assert_eq!(fixture.state(id).await, DeliveryState::Dead);
        assert!(matches!(
            fixture.settle(id, Settlement::Delivered).await,
            Effect::Stale
        ));
        assert_eq!(fixture.state(id).await, DeliveryState::Dead);
        let counts = fixture.store.counts().await.expect("readable");
        assert_eq!(
            (counts.pending, counts.dead, counts.oldest_pending_at),
            (0, 1, None)
        );

        let now = fixture.clock.now_ms() + 50;
        fixture.commit(Change::Replay { id, now }).await;
        let found = fixture.store.entry(id).await.expect("readable");
        let delivery = found.expect("there").1;
        assert_eq!(delivery.state, DeliveryState::Pending);
        assert_eq!((delivery.attempts, delivery.owed_since), (0, now));
        assert!(
            fixture.due().await.is_empty(),
            "it is due at the replay's time"
        );
        let counts = fixture.store.counts().await.expect("readable");
        assert_eq!(
            (counts.pending, counts.dead, counts.oldest_pending_at),
            (1, 0, Some(START))
        );

        let unknown = EventId::new(START);
        assert!(matches!(
            fixture.commit(Change::Replay { id: unknown, now }).await,
            Effect::Missing
        ));
        assert!(matches!(
            fixture.settle(unknown, Settlement::Delivered).await,
            Effect::Missing
        ));
    })
    .await;
}

#[tokio::test]
async fn a_look_at_what_may_be_claimed_goes_on_where_the_last_one_ended() {
    on_every_store(async |fixture: Fixture| {
        let mut ids = Vec::new();
        for _ in 0..7 {
            ids.push(fixture.receive(None).await);
        }
        let (now, until) = (fixture.clock.now_ms(), fixture.clock.now_ms() + 600_000);
        for id in [ids[1], ids[4]] {
            fixture.commit(Change::Park { id, until }).await;
        }
        let id = ids[3];
        fixture.commit(Change::Postpone { id, until }).await;
        let all = [1, 4, 0, 2, 5, 6].map(|n: usize| ids[n]);
        for limit in 1..8 {
            let (mut after, mut found) = (None, Vec::new());
            loop {
                let page = fixture
                    .store
                    .claimable_after(after, (now, limit), HashSet::new());
                let page = page.await.expect("readable");
                found.extend(page.now.iter().map(|(entry, _)| entry.id));
                assert!(page.now.len() <= limit);
                after = page.end;
                if after.is_none() {
                    assert_eq!(page.next_at, Some(until));
                    break;
                }
            }
            assert_eq!(found, all, "{limit} at once");
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_put_off_lets_others_go_first_and_counts_no_attempt() {
    on_every_store(async |fixture: Fixture| {
        let first = fixture.receive(Some("order")).await;
        let second = fixture.receive(Some("order")).await;
        let free = fixture.receive(None).await;
        let until = fixture.clock.now_ms() + 1_000;
        let postpone = |id| Change::Postpone { id, until };
        for _ in 0..2 {
            let effect = fixture.commit(postpone(first)).await;
            assert!(matches!(effect, Effect::Applied));
            assert_eq!(fixture.due().await, [free], "the second keeps its place");
        }
        fixture.clock.advance_ms(1_000);
        assert_eq!(fixture.due().await, [free, first]);
        let found = fixture.store.entry(first).await.expect("readable");
        let (_, delivery) = found.expect("the entry is there");
        assert!(delivery.attempts == 0 && delivery.history.is_empty());
        fixture.settle(first, Settlement::Delivered).await;
        let late = fixture.commit(postpone(first)).await;
        assert!(matches!(late, Effect::Stale));
        let unknown = fixture.commit(postpone(EventId::new(START))).await;
        assert!(matches!(unknown, Effect::Missing));
        assert_eq!(fixture.due().await, [second, free]);
    })
    .await;
}

impl Fixture {
    async fn claimable(&self) -> Vec<EventId> {
        let found = self
            .store
            .claimable(self.clock.now_ms(), 100, HashSet::new())
            .await;
        let found = found.expect("readable").now;
        found.iter().map(|(entry, _)| entry.id).collect()
    }

    /// Claims for a second.
    async fn claim(&self, id: EventId) -> (Lease, Effect) {
        let since = self.clock.now_ms();
        let lease = Lease {
            since,
            until: since + 1_000,
        };
        (lease, self.commit(Change::Claim { id, lease }).await)
    }

    async fn delivery(&self, id: EventId) -> Delivery {
        let found = self.store.entry(id).await.expect("readable");
        found.expect("the entry is there").1
    }
}

fn is_stale(effect: &Effect) -> bool {
    matches!(effect, Effect::Stale)
}

#[tokio::test]
async fn a_claimed_delivery_is_nobody_elses_until_its_lease_ends() {
    on_every_store(async |fixture: Fixture| {
        let first = fixture.receive(Some("order")).await;
        let second = fixture.receive(Some("order")).await;
        assert_eq!(fixture.claimable().await, [first]);
        let waits = fixture.claim(second).await.1;
        assert!(is_stale(&waits), "the first of the order isn't done");
        let (lease, effect) = fixture.claim(first).await;
        assert!(matches!(effect, Effect::Applied));
        let again = Change::Claim { id: first, lease };
        assert!(matches!(fixture.commit(again).await, Effect::Applied));
        fixture.clock.advance_ms(999);
        assert!(is_stale(&fixture.claim(first).await.1));
        assert!(fixture.due().await.is_empty() && fixture.claimable().await.is_empty());
        let delivery = fixture.delivery(first).await;
        assert_eq!((delivery.attempts, delivery.lease), (1, Some(lease)));
        assert!(delivery.history.is_empty());

        let lapsed = async || {
            let found = fixture.store.lapsed(fixture.clock.now_ms(), 10).await;
            let found = found.expect("readable");
            found.iter().map(|delivery| delivery.id).collect::<Vec<_>>()
        };
        assert!(lapsed().await.is_empty());
        fixture.clock.advance_ms(1);
        assert_eq!(lapsed().await, [first]);
        assert_eq!(fixture.due().await, [first], "push may have it, too");
        let now = fixture.clock.now_ms();
        let extend = |until| Change::Extend {
            id: first,
            now,
            until,
        };
        assert!(is_stale(&fixture.commit(extend(now + 9)).await), "it ended");
        let (second_lease, _) = fixture.claim(first).await;
        let delivery = fixture.delivery(first).await;
        assert_eq!(delivery.history, [lease.lapsed()]);
        assert_eq!((delivery.attempts, delivery.lease), (2, Some(second_lease)));
        fixture.commit(extend(now + 5_000)).await;
        let extended = fixture.delivery(first).await.lease.expect("a lease");
        assert_eq!((extended.since, extended.until), (now, now + 5_000));
        fixture.clock.advance_ms(4_999);
        assert!(lapsed().await.is_empty());
        fixture.settle(first, Settlement::Delivered).await;
        fixture.clock.advance_ms(1);
        assert!(lapsed().await.is_empty(), "it is done");
    })
    .await;
}

#[tokio::test]
async fn what_a_claim_came_to_is_settled_once() {
    on_every_store(async |fixture: Fixture| {
        let id = fixture.receive(None).await;
        let (lease, _) = fixture.claim(id).await;
        let settle = |attempt: Attempt, settlement| Change::Settle {
            id,
            attempt,
            owed_since: None,
            settlement,
        };
        let now = fixture.clock.now_ms();
        let nacked = |lease: Lease| lease.ended(now, Some(AttemptError::Nacked));
        let again = Settlement::RetryAt(now);
        let foreign = Lease {
            since: lease.since - 1,
            ..lease
        };
        let late = fixture.commit(settle(nacked(foreign), again)).await;
        assert!(is_stale(&late), "another lease stands");
        fixture.commit(settle(nacked(lease), again)).await;
        let delivery = fixture.delivery(id).await;
        assert_eq!((delivery.attempts, delivery.lease), (1, None));
        assert_eq!(delivery.history, [nacked(lease)]);
        assert_eq!(fixture.claimable().await, [id]);

        // A push that began before is counted, and the lease that it met was an attempt.
        fixture.clock.advance_ms(1);
        fixture.claim(id).await;
        fixture.settle(id, Settlement::GivenUp).await;
        let delivery = fixture.delivery(id).await;
        assert_eq!((delivery.attempts, delivery.history.len()), (3, 3));
        assert!(is_stale(&fixture.claim(id).await.1), "a dead one");
        let done = lease.ended(now, None);
        let effect = fixture.commit(settle(done, Settlement::Delivered)).await;
        assert!(matches!(effect, Effect::Applied));
        assert_eq!(fixture.state(id).await, DeliveryState::Delivered);
    })
    .await;
}

#[tokio::test]
async fn what_is_passed_over_takes_no_place_and_hides_nothing() {
    on_every_store(async |fixture: Fixture| {
        let mut ids = Vec::new();
        for _ in 0..4 {
            ids.push(fixture.receive(None).await);
        }
        let [parked, first, second, later] = ids[..] else {
            panic!("four");
        };
        let (now, until) = (fixture.clock.now_ms(), fixture.clock.now_ms() + 600_000);
        fixture.commit(Change::Park { id: parked, until }).await;
        fixture.commit(Change::Postpone { id: later, until }).await;
        let id = |found: &Due| -> Vec<EventId> { found.now.iter().map(|(e, _)| e.id).collect() };

        let but = HashSet::from([first]);
        let due = fixture.store.due(now, 1, but.clone()).await;
        let due = due.expect("readable");
        assert_eq!((id(&due), due.next_at), (vec![second], Some(until)));
        let claimable = fixture.store.claimable(now, 10, but).await;
        assert_eq!(id(&claimable.expect("readable")), [parked, second]);

        let but = HashSet::from([parked, first, second]);
        let claimable = fixture.store.claimable(now, 1, but.clone()).await;
        let claimable = claimable.expect("readable");
        assert_eq!((id(&claimable), claimable.next_at), (vec![], Some(until)));
        let due = fixture.store.due(until, 10, but).await.expect("readable");
        assert_eq!((id(&due), due.next_at), (vec![later], None));
    })
    .await;
}

#[tokio::test]
async fn what_is_parked_can_be_claimed_and_what_is_put_off_can_not() {
    on_every_store(async |fixture: Fixture| {
        let ids = [
            fixture.receive(Some("order")).await,
            fixture.receive(None).await,
            fixture.receive(None).await,
        ];
        let until = fixture.clock.now_ms() + 600_000;
        fixture.commit(Change::Park { id: ids[2], until }).await;
        fixture.commit(Change::Park { id: ids[0], until }).await;
        fixture.commit(Change::Postpone { id: ids[1], until }).await;
        assert!(fixture.due().await.is_empty());
        assert_eq!(fixture.claimable().await, [ids[0], ids[2]]);
        let next = fixture.receive(Some("order")).await;
        let now = fixture.clock.now_ms();
        fixture.commit(Change::Replay { id: ids[1], now }).await;
        assert_eq!(fixture.claimable().await, [ids[0], ids[2], ids[1]]);
        let page = fixture
            .store
            .claimable(now, 1, HashSet::new())
            .await
            .expect("readable")
            .now;
        assert_eq!(page.len(), 1);
        assert!(matches!(fixture.claim(ids[0]).await.1, Effect::Applied));
        assert!(is_stale(&fixture.claim(next).await.1));
        assert_eq!(fixture.claimable().await, [ids[2], ids[1]]);
        fixture.settle(ids[2], Settlement::Delivered).await;
        fixture.clock.advance_ms(1_000);
        assert_eq!(
            fixture.claimable().await,
            [ids[1], ids[0]],
            "no longer parked"
        );
    })
    .await;
}

#[tokio::test]
async fn a_look_at_what_is_parked_ends_after_so_many_with_an_order_or_without() {
    on_every_store(async |fixture: Fixture| {
        let ids = [
            fixture.receive(None).await,
            fixture.receive(None).await,
            fixture.receive(Some("order")).await,
        ];
        let until = fixture.clock.now_ms() + 600_000;
        for id in ids {
            fixture.commit(Change::Park { id, until }).await;
        }
        let look = async |after, limit| {
            let parked = fixture.store.parked(after, limit).await;
            let parked = parked.expect("readable");
            (parked.of_an_order, parked.end)
        };
        assert_eq!(look(None, 1).await, (vec![], Some(ids[0])));
        assert_eq!(look(None, 2).await, (vec![], Some(ids[1])));
        assert_eq!(look(Some(ids[1]), 1).await, (vec![ids[2]], None));
        assert_eq!(look(None, 3).await, (vec![ids[2]], None));
        assert_eq!(look(Some(ids[2]), 3).await, (vec![], None));
    })
    .await;
}

#[tokio::test]
async fn due_gives_the_longest_due_first_and_says_when_to_come_again() {
    on_every_store(async |fixture: Fixture| {
        let ids = [
            fixture.receive(None).await,
            fixture.receive(None).await,
            fixture.receive(None).await,
        ];
        let due = fixture
            .store
            .due(START + 100, 2, HashSet::new())
            .await
            .expect("readable");
        let found: Vec<_> = due.now.iter().map(|(entry, _)| entry.id).collect();
        assert_eq!(
            (found.as_slice(), due.next_at),
            (&ids[..2], Some(START + 2))
        );
        let due = fixture
            .store
            .due(START - 1, 2, HashSet::new())
            .await
            .expect("readable");
        assert_eq!((due.now.len(), due.next_at), (0, Some(START)));
    })
    .await;
}

#[tokio::test]
async fn what_a_wrong_clock_put_far_off_is_due_once_the_clock_is_right() {
    on_every_store(async |fixture: Fixture| {
        fixture.clock.advance_ms(86_400_000);
        let early = fixture.receive(Some("order")).await;
        let retried = fixture.receive(None).await;
        let at = fixture.clock.now_ms() + 3_000_000;
        fixture.settle(retried, Settlement::RetryAt(at)).await;
        assert_eq!(fixture.due().await, [early]);
        fixture.clock.advance_ms(-86_400_000);
        let now = fixture.receive(None).await;
        assert_eq!(fixture.due().await, [early, retried, now]);
        let due = fixture
            .store
            .due(fixture.clock.now_ms(), 2, HashSet::new())
            .await;
        let due = due.expect("readable");
        assert_eq!(due.now.len(), 2);
        assert!(due.next_at.is_some_and(|at| at <= fixture.clock.now_ms()));
    })
    .await;
}

#[tokio::test]
async fn what_is_remembered_first_stays_until_it_expires() {
    on_every_store(async |fixture: Fixture| {
        let key = MemoKey::new("state", &["a", "b"]);
        let recall = async |now| {
            let found = fixture.store.recall(key, now).await.expect("readable");
            found.map(|value| value.expose().clone())
        };
        assert!(matches!(
            fixture.commit(remember(key, "one", START + 10)).await,
            Effect::Applied
        ));
        let changes = vec![remember(key, "two", START + 99), Change::RemoveApp(app())];
        let effects = fixture.store.commit(changes).await.expect("committed");
        assert!(matches!(effects.as_slice(),
            [Effect::Remembered(value), Effect::Void] if value.expose() == b"one"));
        assert_eq!(recall(START + 9).await.as_deref(), Some(b"one".as_slice()));
        assert_eq!(recall(START + 10).await, None);
        fixture.clock.advance_ms(10);
        assert!(matches!(
            fixture.commit(remember(key, "two", START + 99)).await,
            Effect::Applied
        ));
        assert_eq!(recall(START + 10).await.as_deref(), Some(b"two".as_slice()));
    })
    .await;
}

#[tokio::test]
async fn lists_come_in_pages_without_gaps() {
    on_every_store(async |fixture: Fixture| {
        let mut ids = Vec::new();
        for n in 1..=5 {
            let given = authorization(n, &format!("t{n}"), Rank::AfterStored);
            fixture.commit(authorize(given, None)).await;
            ids.push(fixture.receive(None).await);
        }
        fixture.settle(ids[1], Settlement::Delivered).await;
        let (mut after, mut seen) = (None, Vec::new());
        loop {
            let page = fixture.store.merchants(after, 2).await.expect("readable");
            let Some(last) = page.last() else { break };
            after = Some((last.app_id.clone(), last.auth_app_id.clone()));
            seen.extend(page.into_iter().map(|m| m.auth_app_id));
        }
        assert_eq!(seen, (1..=5).map(merchant_app).collect::<Vec<_>>());
        let page = async |state, after| -> Vec<EventId> {
            let page = fixture.store.entries(state, after, 2).await;
            page.expect("readable")
                .iter()
                .map(|(entry, _)| entry.id)
                .collect()
        };
        assert_eq!(page(None, None).await, ids[..2]);
        assert_eq!(page(None, Some(ids[1])).await, ids[2..4]);
        assert_eq!(page(None, Some(ids[4])).await, []);
        let pending = Some(DeliveryState::Pending);
        assert_eq!(page(pending, None).await, [ids[0], ids[2]]);
        assert_eq!(page(pending, Some(ids[0])).await, ids[2..4]);
        assert_eq!(page(Some(DeliveryState::Delivered), None).await, [ids[1]]);
    })
    .await;
}

pub(crate) fn whole_app(app_id: AppId) -> App {
    App {
        app_id,
        private_key: secret("-----BEGIN PRIVATE KEY-----\n\"ключ\"\n").into(),
        private_key_next: None,
        alipay_public_keys: vec!["one".to_owned(), "two".to_owned()],
        certificates: None,
        encrypt_key: Some(secret("aes")),
        environment: Environment::Sandbox,
        sign_type: SignType::Rsa,
    }
}

#[tokio::test]
async fn apps_are_kept_with_their_keys_and_forgotten() {
    on_every_store(async |fixture: Fixture| {
        let kept = whole_app(app());
        fixture.commit(Change::PutApp(Box::new(kept.clone()))).await;
        let found = fixture.store.apps().await.expect("readable").remove(0);
        assert_eq!(found.private_key, kept.private_key);
        assert_eq!(found.alipay_public_keys, kept.alipay_public_keys);
        assert_eq!(
            (found.environment, found.sign_type),
            (kept.environment, kept.sign_type)
        );
        assert!(matches!(
            fixture.commit(Change::RemoveApp(app())).await,
            Effect::Applied
        ));
        assert!(matches!(
            fixture.commit(Change::RemoveApp(app())).await,
            Effect::Missing
        ));
        assert!(fixture.store.apps().await.expect("readable").is_empty());
    })
    .await;
}

#[tokio::test]
async fn pruning_forgets_what_is_old_and_nothing_that_is_owed() {
    on_every_store(async |fixture: Fixture| {
        let (delivered, dead) = (fixture.receive(None).await, fixture.receive(None).await);
        let owed = fixture.receive(None).await;
        let named = entry(START, Some("n1"));
        fixture
            .commit(Change::Receive(Box::new(named.clone())))
            .await;
        fixture.settle(delivered, Settlement::Delivered).await;
        fixture.settle(named.id, Settlement::Delivered).await;
        fixture.settle(dead, Settlement::GivenUp).await;
        fixture
            .commit(remember(MemoKey::new("test", &[]), "v", START + DAY))
            .await;
        let prune = async |now| {
            let pruned = fixture.store.prune(now, DAY).await.expect("pruned");
            (pruned.entries, pruned.memos, pruned.notify_ids)
        };
        assert_eq!(prune(START + DAY / 2).await, (0, 0, 0));
        assert_eq!(
            prune(START + 2 * DAY).await,
            (2, 1, 0),
            "a notify_id is kept 9 days"
        );
        let resent = entry(START + 2 * DAY, Some("n1"));
        assert!(matches!(
            fixture.commit(Change::Receive(Box::new(resent))).await,
            Effect::Duplicate(id) if id == named.id
        ));
        assert_eq!(prune(START + 9 * DAY).await, (0, 0, 0));
        assert_eq!(prune(START + 10 * DAY).await, (0, 0, 1));
        assert_eq!(
            prune(START + 31 * DAY).await,
            (1, 0, 0),
            "a dead one is kept 30 days"
        );
        assert_eq!(fixture.state(owed).await, DeliveryState::Pending);
        let counts = fixture.store.counts().await.expect("readable");
        assert_eq!((counts.pending, counts.dead), (1, 0));
        assert!(fixture.store.entry(dead).await.expect("readable").is_none());
    })
    .await;
}

pub(crate) fn call(n: u8, name: Option<&str>, body: usize) -> CallRecord {
    CallRecord {
        request_id: CallId::from_bytes([n; 16]),
        caller: None,
        caller_request_id: name.map(str::to_owned),
        method: "alipay.trade.pay".to_owned(),
        outcome: CallOutcome::Ok,
        error: None,
        completed_at: START + i64::from(n),
        reply: Some(KeptReply {
            status: Some(200),
            body: vec![n; body].into(),
        }),
    }
}

pub(crate) fn record(records: Vec<CallRecord>, limit: u64) -> Change {
    Change::RecordCalls { records, limit }
}

#[tokio::test]
async fn what_became_of_calls_is_found_by_both_names_for_a_day() {
    on_every_store(async |fixture: Fixture| {
        let (first, second) = (call(1, Some("a"), 9), call(2, Some("a"), 0));
        let both = record(vec![first.clone(), second.clone()], u64::MAX);
        for _ in 0..2 {
            assert!(matches!(
                fixture.commit(both.clone()).await,
                Effect::Applied
            ));
        }
        let find = async |key, now| fixture.store.call(key, now).await.expect("readable");
        let by_id = find(CallKey::Id(first.request_id), START).await;
        assert_eq!(by_id.as_ref(), Some(&first));
        let named = |caller: Option<&str>| CallKey::Named {
            caller: caller.map(str::to_owned),
            caller_request_id: "a".to_owned(),
        };
        assert_eq!(
            find(named(None), START).await,
            Some(second.clone()),
            "the newest"
        );
        assert_eq!(find(named(Some("shop")), START).await, None);
        let last = second.completed_at + DAY;
        assert!(find(named(None), last - 1).await.is_some());
        assert_eq!(find(named(None), last).await, None);
        let pruned = fixture.store.prune(last + 1, DAY).await.expect("pruned");
        assert_eq!(pruned.calls, 2);
    })
    .await;
}

#[tokio::test]
async fn of_calls_of_one_name_the_newest_counts_that_may_have_left_whenever_it_was_written() {
    on_every_store(async |fixture: Fixture| {
        let named = || CallKey::Named {
            caller: None,
            caller_request_id: "a".to_owned(),
        };
        let of = |n: u8, outcome| CallRecord {
            outcome,
            ..call(n, Some("a"), 0)
        };
        let mut expected = Vec::new();
        for (written, outcome, counts) in [
            (2, CallOutcome::NotSent, 2),
            (5, CallOutcome::Ok, 5),
            (3, CallOutcome::Unknown, 5),
            (7, CallOutcome::NotSent, 5),
            (8, CallOutcome::BusinessError, 8),
        ] {
            let one = record(vec![of(written, outcome)], u64::MAX);
            fixture.commit(one).await;
            let found = fixture.store.call(named(), START).await.expect("readable");
            let found = found.expect("kept").request_id;
            expected.push((found, CallId::from_bytes([counts; 16])));
        }
        assert!(
            expected.iter().all(|(found, counts)| found == counts),
            "{expected:?}"
        );
    })
    .await;
}

#[tokio::test]
async fn records_of_calls_stay_within_their_limit_and_the_oldest_go() {
    on_every_store(async |fixture: Fixture| {
        let limit = 10_000;
        let mut displaced = 0;
        for n in 0..100 {
            if let Effect::Displaced(count) = fixture
                .commit(record(vec![call(n, None, 900)], limit))
                .await
            {
                displaced += count;
            }
        }
        let mut kept = Vec::new();
        for n in 0..100 {
            let id = CallKey::Id(CallId::from_bytes([n; 16]));
            if fixture
                .store
                .call(id, START)
                .await
                .expect("readable")
                .is_some()
            {
                kept.push(n);
            }
        }
        assert!((5..10).contains(&kept.len()), "{kept:?}");
        assert_eq!(kept, (100 - kept.len() as u8..100).collect::<Vec<_>>());
        assert_eq!(displaced, 100 - kept.len() as u64);
        // A day later there is room again.
        fixture
            .store
            .prune(START + 2 * DAY, DAY)
            .await
            .expect("pruned");
        let effect = fixture
            .commit(record(vec![call(200, None, 9000)], limit))
            .await;
        assert!(matches!(effect, Effect::Applied), "{effect:?}");
    })
    .await;
}

pub(crate) fn user_token(token: &str, names: [Option<&str>; 2]) -> UserToken {
    let [user_id, open_id] = names.map(|name| name.and_then(UserName::new));
    UserToken {
        app_id: app(),
        auth_app_id: Some(merchant_app(1)),
        user_id,
        open_id,
        scope: None,
        access_token: secret(token),
        refresh_token: Some(secret("r")),
        obtained_at: START,
        expires_at: Some(START + DAY),
        ends_at: Some(START + 2 * DAY),
        is_lost: false,
    }
}

pub(crate) fn user(name: &str) -> UserKey {
    UserKey {
        app_id: app(),
        auth_app_id: Some(merchant_app(1)),
        name: UserName::new(name).expect("a name"),
    }
}

pub(crate) fn keep(token: UserToken, replaces: Option<&str>) -> Change {
    Change::KeepUserToken {
        token: Box::new(token),
        replaces: replaces.map(secret),
    }
}

/// The access token that is kept for a user.
async fn kept(fixture: &Fixture, name: &str) -> Option<String> {
    let found = fixture.store.user(user(name)).await.expect("readable");
    found.map(|token| token.access_token.expose().clone())
}

#[tokio::test]
async fn a_users_token_is_found_by_both_names_and_replaced_only_by_what_is_newer() {
    on_every_store(async |fixture: Fixture| {
        fixture
            .commit(keep(user_token("a", [Some("u"), Some("o")]), None))
            .await;
        // The next login tells one name only.
        fixture
            .commit(keep(user_token("b", [None, Some("o")]), None))
            .await;
        for name in ["u", "o"] {
            assert_eq!(kept(&fixture, name).await.as_deref(), Some("b"), "{name}");
        }
        let late = fixture
            .commit(keep(user_token("c", [Some("u"), None]), Some("a")))
            .await;
        assert!(matches!(late, Effect::Stale));
        fixture
            .commit(keep(user_token("c", [Some("u"), None]), Some("b")))
            .await;
        assert_eq!(kept(&fixture, "o").await.as_deref(), Some("c"));
        let other = UserKey {
            auth_app_id: Some(merchant_app(2)),
            ..user("u")
        };
        assert!(fixture.store.user(other).await.expect("readable").is_none());
        let forget = |only: Option<&str>| Change::ForgetUser {
            key: user("o"),
            only: only.map(secret),
            obtained_until: None,
        };
        let old = Change::ForgetUser {
            key: user("o"),
            only: None,
            obtained_until: Some(START - 1),
        };
        assert!(matches!(fixture.commit(old).await, Effect::Stale));
        assert!(matches!(
            fixture.commit(forget(Some("b"))).await,
            Effect::Stale
        ));
        assert!(matches!(
            fixture.commit(forget(Some("c"))).await,
            Effect::Applied
        ));
        assert_eq!(kept(&fixture, "u").await, None);
        assert!(matches!(
            fixture.commit(forget(None)).await,
            Effect::Missing
        ));
        let gone = fixture
            .commit(keep(user_token("d", [Some("u"), None]), Some("c")))
            .await;
        assert!(
            matches!(gone, Effect::Stale),
            "a refresh brings nobody back"
        );
    })
    .await;
}

#[tokio::test]
async fn users_go_with_their_merchant_or_when_their_tokens_end() {
    on_every_store(async |fixture: Fixture| {
        let granted = authorization(1, "t", Rank::AuthTime(START));
        fixture.commit(authorize(granted, None)).await;
        fixture
            .commit(keep(user_token("a", [Some("u"), Some("o")]), None))
            .await;
        fixture.clock.advance_ms(1);
        fixture
            .commit(Change::RemoveMerchant(app(), merchant_app(1)))
            .await;
        assert_eq!(kept(&fixture, "u").await, None);
        let later = UserToken {
            obtained_at: START + 2,
            ..user_token("b", [Some("u"), None])
        };
        fixture.commit(keep(later, None)).await;
        assert_eq!(kept(&fixture, "u").await.as_deref(), Some("b"));
        let prune = async |now| fixture.store.prune(now, DAY).await.expect("pruned").users;
        assert_eq!(prune(START + 2 * DAY).await, 0);
        assert_eq!(prune(START + 2 * DAY + 1).await, 2);
        assert_eq!(kept(&fixture, "u").await, None);
    })
    .await;
}

#[tokio::test]
async fn users_go_with_their_app_its_own_and_its_merchants() {
    on_every_store(async |fixture: Fixture| {
        // The id of the other app begins with that of the first.
        let other = AppId::new(&format!("{}2", app())).expect("an id");
        let of = |app_id: &AppId, auth_app_id: Option<AuthAppId>| UserToken {
            app_id: app_id.clone(),
            auth_app_id,
            ..user_token("a", [Some("u"), Some("o")])
        };
        let own = of(&app(), None);
        let merchants = of(&app(), Some(merchant_app(1)));
        let others = of(&other, Some(merchant_app(1)));
        fixture
            .commit(Change::PutApp(Box::new(whole_app(app()))))
            .await;
        for token in [&own, &merchants, &others] {
            fixture.commit(keep(token.clone(), None)).await;
        }
        let found = async |token: &UserToken, name: &str| {
            let key = UserKey {
                app_id: token.app_id.clone(),
                auth_app_id: token.auth_app_id.clone(),
                name: UserName::new(name).expect("a name"),
            };
            let found = fixture.store.user(key).await.expect("readable");
            found.is_some()
        };
        fixture.clock.advance_ms(1);
        assert!(matches!(
            fixture.commit(Change::RemoveApp(app())).await,
            Effect::Applied
        ));
        for name in ["u", "o"] {
            assert!(!found(&own, name).await, "{name}");
            assert!(!found(&merchants, name).await, "{name}");
            assert!(found(&others, name).await, "{name}");
        }
        // A refresh that was under way brings nobody back; who logs in anew is known again.
        let late = fixture.commit(keep(own.clone(), Some("a"))).await;
        assert!(matches!(late, Effect::Stale), "{late:?}");
        let anew = UserToken {
            obtained_at: START + 2,
            ..own
        };
        fixture.commit(keep(anew.clone(), None)).await;
        assert!(found(&anew, "u").await);
    })
    .await;
}

#[tokio::test]
async fn what_is_remembered_can_be_taken_back() {
    on_every_store(async |fixture: Fixture| {
        let key = MemoKey::new("test", &["taken back"]);
        fixture.commit(remember(key, "v", START + DAY)).await;
        assert!(matches!(
            fixture.commit(Change::Unremember(key)).await,
            Effect::Applied
        ));
        assert!(matches!(
            fixture.commit(Change::Unremember(key)).await,
            Effect::Missing
        ));
        assert!(matches!(
            fixture.commit(remember(key, "w", START + DAY)).await,
            Effect::Applied
        ));
    })
    .await;
}

#[tokio::test]
async fn a_large_record_of_a_call_displaces_as_many_small_ones_as_its_room_takes() {
    on_every_store(async |fixture: Fixture| {
        let limit = 100_000;
        let small = (0..200).map(|n| call(n, None, 200)).collect();
        let effect = fixture.commit(record(small, limit)).await;
        assert!(matches!(effect, Effect::Applied), "{effect:?}");
        let effect = fixture
            .commit(record(vec![call(250, None, 90_000)], limit))
            .await;
        assert!(
            matches!(effect, Effect::Displaced(150..=199)),
            "{effect:?}: at once, so that the limit holds"
        );
        for (n, is_kept) in [(0, false), (199, true), (250, true)] {
            let id = CallKey::Id(CallId::from_bytes([n; 16]));
            let found = fixture.store.call(id, START).await.expect("readable");
            assert_eq!(found.is_some(), is_kept, "{n}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_push_that_began_before_a_replay_does_not_undo_it() {
    on_every_store(async |fixture: Fixture| {
        let far = Settlement::RetryAt(START + 9_000_000);
        for failed in [Settlement::GivenUp, far] {
            let id = fixture.receive(None).await;
            let owed_since = fixture.delivery(id).await.owed_since;
            fixture.clock.advance_ms(5);
            let now = fixture.clock.now_ms();
            fixture.commit(Change::Replay { id, now }).await;
            let settle = |at, settlement, owed_since| Change::Settle {
                id,
                attempt: attempt(at),
                owed_since: Some(owed_since),
                settlement,
            };
            for _ in 0..2 {
                let late = fixture.commit(settle(now - 1, failed, owed_since)).await;
                assert!(is_stale(&late), "{late:?}");
            }
            let delivery = fixture.delivery(id).await;
            assert_eq!(delivery.state, DeliveryState::Pending);
            assert_eq!((delivery.attempts, delivery.next_attempt_at), (0, now));
            assert_eq!(delivery.history, [attempt(now - 1)]);
            // One that began after it counts, and so does whatever was taken.
            let again = settle(now, Settlement::RetryAt(now + 1), now);
            assert!(matches!(fixture.commit(again).await, Effect::Applied));
            assert_eq!(fixture.delivery(id).await.attempts, 1);
            let taken = settle(now + 1, Settlement::Delivered, owed_since);
            assert!(matches!(fixture.commit(taken).await, Effect::Applied));
            assert_eq!(fixture.state(id).await, DeliveryState::Delivered);
        }
    })
    .await;
}

#[tokio::test]
async fn a_replay_takes_nothing_from_whoever_has_it_on_lease() {
    on_every_store(async |fixture: Fixture| {
        let id = fixture.receive(None).await;
        let (lease, _) = fixture.claim(id).await;
        let leased = fixture.delivery(id).await;
        let now = lease.until - 1;
        assert!(is_stale(&fixture.commit(Change::Replay { id, now }).await));
        assert_eq!(fixture.delivery(id).await, leased);
        let now = lease.until;
        let replayed = fixture.commit(Change::Replay { id, now }).await;
        assert!(matches!(replayed, Effect::Applied));
        let delivery = fixture.delivery(id).await;
        assert_eq!((delivery.lease, delivery.attempts), (None, 0));
    })
    .await;
}

#[tokio::test]
async fn an_entry_is_known_by_its_app_and_notify_id() {
    on_every_store(async |fixture: Fixture| {
        let entry = entry(START, Some("n-1"));
        let id = entry.id;
        fixture.commit(Change::Receive(Box::new(entry))).await;
        let known = async |app, notify_id: &str| {
            let known = fixture.store.known(app, notify_id.to_owned()).await;
            known.expect("readable")
        };
        assert_eq!(known(app(), "n-1").await, Some(id));
        assert_eq!(known(app(), "n-2").await, None);
        let other = AppId::new("2021000000000009").expect("an id");
        assert_eq!(known(other, "n-1").await, None);
    })
    .await;
}
