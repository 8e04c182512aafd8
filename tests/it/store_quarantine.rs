//! What every store must do with refused notifications and second bodies.

use alipay_sidecar::clock::Clock as _;
use alipay_sidecar::model::delivery::{DeliveryState, Settlement};
use alipay_sidecar::model::id::EventId;
use alipay_sidecar::model::notification::Body;
use alipay_sidecar::model::refused::{RefusalKind, RefusedNotification, Variant};
use alipay_sidecar::store::{Change, Effect};
use bytes::Bytes;

use crate::store::{DAY, Fixture, START, entry, on_every_store};

pub(crate) fn refused(n: u64, peer: &str, refusal: RefusalKind) -> RefusedNotification {
    let mut content = [0; 32];
    content[..8].copy_from_slice(&n.to_be_bytes());
    RefusedNotification {
        id: EventId::new(START + i64::try_from(n).expect("small")),
        received_at: START,
        last_received_at: START,
        times: 1,
        peer: peer.to_owned(),
        notify_path: "/orders/42".to_owned(),
        notify_query: "shop=5".to_owned(),
        content_type: Some("text/x-form".to_owned()),
        body: Bytes::from(format!("total_amount=secret-{n}")),
        refusal,
        reason: "because".to_owned(),
        app_id: Some("2021000000000001".to_owned()),
        notify_id: Some(format!("n{n}")),
        event_type: None,
        content,
    }
}

async fn refuse(fixture: &Fixture, refused: &RefusedNotification) -> Effect {
    fixture
        .commit(Change::Refuse(Box::new(refused.clone())))
        .await
}

/// Refuses many in commits of a hundred; gives how many of them displaced one and found no room.
async fn refuse_all(fixture: &Fixture, all: Vec<RefusedNotification>) -> (u64, u64) {
    let (mut displaced, mut full) = (0, 0);
    for group in all.chunks(100) {
        let changes = group.iter().cloned();
        let changes = changes.map(|refused| Change::Refuse(Box::new(refused)));
        let effects = fixture.store.commit(changes.collect()).await;
        for effect in effects.expect("committed") {
            match effect {
                Effect::Displaced(count) => displaced += count,
                Effect::Full => full += 1,
                _ => {}
            }
        }
    }
    (displaced, full)
}

async fn kept(fixture: &Fixture) -> Vec<RefusedNotification> {
    fixture.store.refused(None, 2000).await.expect("readable")
}

#[tokio::test]
async fn a_refused_notification_comes_back_as_it_was_and_pages_have_no_gaps() {
    on_every_store(async |fixture: Fixture| {
        let all: Vec<_> = (0..7)
            .map(|n| refused(n, "192.0.2.1", RefusalKind::Forged))
            .collect();
        for one in &all {
            assert!(matches!(refuse(&fixture, one).await, Effect::Applied));
            assert!(
                matches!(refuse(&fixture, one).await, Effect::Applied),
                "again"
            );
        }
        assert_eq!(kept(&fixture).await, all);
        let mut paged = Vec::new();
        while let page = fixture
            .store
            .refused(paged.last().map(|r: &RefusedNotification| r.id), 3)
            .await
            .expect("readable")
            && !page.is_empty()
        {
            assert!(page.len() <= 3);
            paged.extend(page);
        }
        assert_eq!(paged, all);
        let one = fixture
            .store
            .refused_one(all[3].id)
            .await
            .expect("readable");
        assert_eq!(one.as_ref(), Some(&all[3]));
        assert_eq!(fixture.store.counts().await.expect("readable").refused, 7);
    })
    .await;
}

#[tokio::test]
async fn a_resend_joins_the_first_and_brings_newer_bytes() {
    on_every_store(async |fixture: Fixture| {
        let first = refused(1, "192.0.2.1", RefusalKind::Forged);
        let resend = RefusedNotification {
            id: EventId::new(START + 500),
            received_at: START + 500,
            last_received_at: START + 500,
            peer: "192.0.2.9".to_owned(),
            body: Bytes::from_static(b"newer bytes"),
            ..first.clone()
        };
        refuse(&fixture, &first).await;
        assert!(matches!(refuse(&fixture, &resend).await, Effect::Applied));
        let joined = RefusedNotification {
            id: first.id,
            received_at: first.received_at,
            times: 2,
            ..resend
        };
        assert_eq!(kept(&fixture).await, [joined]);
    })
    .await;
}

#[tokio::test]
async fn a_flood_displaces_itself_and_never_what_names_an_app_of_ours() {
    on_every_store(async |fixture: Fixture| {
        let ours: Vec<_> = (0..20)
            .map(|n| refused(n, "203.0.113.7", RefusalKind::Forged))
            .collect();
        refuse_all(&fixture, ours.clone()).await;
        let flood = (1000..2200).map(|n| refused(n, "2001:db8::1", RefusalKind::Forged));
        let (displaced, full) = refuse_all(&fixture, flood.collect()).await;
        assert_eq!((displaced, full), (700, 0));
        assert_eq!(
            kept(&fixture).await.len(),
            520,
            "one address has 500 at most"
        );
        // The same /48 is the same sender.
        let flood = (3000..3100).map(|n| refused(n, "2001:db8:0:7::2", RefusalKind::Forged));
        refuse_all(&fixture, flood.collect()).await;
        assert_eq!(kept(&fixture).await.len(), 520);
        // Strangers from everywhere fill the rest, and no more.
        let strangers = (4000..5000)
            .map(|n| refused(n, &format!("198.51.100.{}", n % 200), RefusalKind::Foreign));
        refuse_all(&fixture, strangers.collect()).await;
        let left = kept(&fixture).await;
        assert_eq!(left.len(), 1000);
        assert!(ours.iter().all(|one| left.contains(one)));
        let of_flood = left.iter().filter(|one| one.peer.starts_with("2001"));
        assert_eq!(of_flood.count(), 500);
        // What names an app of ours takes a stranger's place.
        let newer = refused(9000, "203.0.113.8", RefusalKind::Undecryptable);
        assert!(matches!(
            refuse(&fixture, &newer).await,
            Effect::Displaced(1)
        ));
        assert!(kept(&fixture).await.contains(&newer));
    })
    .await;
}

#[tokio::test]
async fn bytes_are_bounded_in_all_and_of_each_network() {
    on_every_store(async |fixture: Fixture| {
        let small = refused(1, "203.0.113.7", RefusalKind::Forged);
        refuse(&fixture, &small).await;
        for n in 10..40 {
            let large = RefusedNotification {
                body: Bytes::from(vec![b'x'; 1 << 20]),
                ..refused(n, &format!("198.51.100.{}", n % 3), RefusalKind::Forged)
            };
            refuse(&fixture, &large).await;
        }
        let left = kept(&fixture).await;
        assert!(left.contains(&small));
        let bytes = |peer: &str| -> usize {
            let of_peer = left.iter().filter(|one| one.peer.starts_with(peer));
            of_peer.map(|one| one.body.len()).sum()
        };
        assert!(bytes("") <= 16 << 20);
        assert!(bytes("") > 14 << 20, "{}", bytes(""));
        assert!(bytes("198.51.100.1") <= 8 << 20);
        let giant = RefusedNotification {
            body: Bytes::from(vec![b'x'; 9 << 20]),
            ..refused(99, "192.0.2.99", RefusalKind::Forged)
        };
        assert!(matches!(refuse(&fixture, &giant).await, Effect::Full));
        assert!(kept(&fixture).await.contains(&small));
    })
    .await;
}

#[tokio::test]
async fn one_that_is_accepted_leaves_with_the_same_commit_and_is_owed_from_then_on() {
    on_every_store(async |fixture: Fixture| {
        let kept_back = refused(1, "192.0.2.1", RefusalKind::Forged);
        refuse(&fixture, &kept_back).await;
        fixture.clock.advance_ms(5 * DAY);
        let mut accepted = entry(START, Some("n1"));
        accepted.id = kept_back.id;
        let changes = vec![
            Change::Receive(Box::new(accepted)),
            Change::Release(kept_back.id),
        ];
        let effects = fixture.store.commit(changes.clone()).await;
        assert!(matches!(
            effects.expect("committed").as_slice(),
            [Effect::Applied, Effect::Applied]
        ));
        assert!(kept(&fixture).await.is_empty());
        let (entry, delivery) = fixture
            .store
            .entry(kept_back.id)
            .await
            .expect("readable")
            .expect("there");
        assert_eq!(entry.received_at, START);
        assert_eq!(delivery.state, DeliveryState::Pending);
        assert_eq!(delivery.owed_since, fixture.clock.now_ms());
        // The same commit again changes nothing.
        let effects = fixture.store.commit(changes).await.expect("committed");
        assert!(matches!(
            effects.as_slice(),
            [Effect::Duplicate(_), Effect::Void]
        ));
        let effect = fixture.commit(Change::Release(kept_back.id)).await;
        assert!(matches!(effect, Effect::Missing));
    })
    .await;
}

#[tokio::test]
async fn a_new_reason_is_kept_and_none_for_what_is_gone() {
    on_every_store(async |fixture: Fixture| {
        let one = refused(1, "192.0.2.1", RefusalKind::Foreign);
        refuse(&fixture, &one).await;
        let change = Change::Rejudge {
            id: one.id,
            refusal: RefusalKind::Forged,
            reason: "another".to_owned(),
        };
        assert!(matches!(
            fixture.commit(change.clone()).await,
            Effect::Applied
        ));
        let left = kept(&fixture).await;
        assert_eq!(left[0].refusal, RefusalKind::Forged);
        assert_eq!(left[0].reason, "another");
        assert_eq!(left[0].body, one.body);
        fixture.commit(Change::Release(one.id)).await;
        assert!(matches!(fixture.commit(change).await, Effect::Missing));
        assert!(kept(&fixture).await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_week_later_it_is_forgotten() {
    on_every_store(async |fixture: Fixture| {
        refuse(&fixture, &refused(1, "192.0.2.1", RefusalKind::Forged)).await;
        let prune = async |now| fixture.store.prune(now, DAY).await.expect("pruned").refused;
        assert_eq!(prune(START + 7 * DAY).await, 0);
        assert_eq!(prune(START + 7 * DAY + 1).await, 1);
        assert!(kept(&fixture).await.is_empty());
        assert_eq!(fixture.store.counts().await.expect("readable").refused, 0);
    })
    .await;
}

/// Alipay resends for 25 hours: the last of them may be refused, and verified again a week later.
#[tokio::test]
async fn a_notify_id_outlives_every_resend_that_was_refused() {
    on_every_store(async |fixture: Fixture| {
        let accepted = entry(START, Some("n1"));
        let id = accepted.id;
        fixture.commit(Change::Receive(Box::new(accepted))).await;
        fixture.settle(id, Settlement::Delivered).await;
        let last = 25 * DAY / 24;
        let resend = RefusedNotification {
            id: EventId::new(START + last),
            received_at: START + last,
            last_received_at: START + last,
            ..refused(1, "192.0.2.1", RefusalKind::Forged)
        };
        refuse(&fixture, &resend).await;
        let week = START + last + 7 * DAY;
        fixture.store.prune(week, DAY).await.expect("pruned");
        assert_eq!(kept(&fixture).await.len(), 1, "it can be verified again");
        let again = entry(week, Some("n1"));
        let effect = fixture.commit(Change::Receive(Box::new(again))).await;
        assert!(matches!(effect, Effect::Duplicate(of) if of == id));
    })
    .await;
}

#[tokio::test]
async fn second_bodies_stand_beside_their_entry_and_go_with_it() {
    on_every_store(async |fixture: Fixture| {
        let first = entry(START, Some("n1"));
        fixture
            .commit(Change::Receive(Box::new(first.clone())))
            .await;
        let variant = |n: u8| Variant {
            received_at: START + i64::from(n),
            notify_path: "/orders/42".to_owned(),
            body: Body {
                content_type: "text/x-form".to_owned(),
                bytes: Bytes::from(vec![n; 9]),
            },
            differs: vec!["total_amount".to_owned()],
            content: [n; 32],
        };
        let keep = async |of, n| {
            let variant = Box::new(variant(n));
            fixture.commit(Change::KeepVariant { of, variant }).await
        };
        assert!(matches!(keep(first.id, 1).await, Effect::Applied));
        assert!(matches!(keep(first.id, 1).await, Effect::Duplicate(id) if id == first.id));
        for n in 2..5 {
            assert!(matches!(keep(first.id, n).await, Effect::Applied));
        }
        assert!(matches!(keep(first.id, 5).await, Effect::Full));
        assert!(matches!(
            keep(EventId::new(START), 1).await,
            Effect::Missing
        ));
        let found = fixture.store.variants(first.id).await.expect("readable");
        let expected: Vec<_> = (1..5).map(variant).collect();
        assert_eq!(found, expected);
        fixture.settle(first.id, Settlement::Delivered).await;
        let pruned = fixture.store.prune(START + 9 * DAY, DAY).await;
        assert_eq!(pruned.expect("pruned").entries, 1);
        let found = fixture.store.variants(first.id).await.expect("readable");
        assert!(found.is_empty());
    })
    .await;
}

#[tokio::test]
async fn one_of_a_content_leaves_and_no_other() {
    on_every_store(async |fixture: Fixture| {
        let (one, other) = (
            refused(1, "192.0.2.1", RefusalKind::Forged),
            refused(2, "192.0.2.1", RefusalKind::Forged),
        );
        refuse_all(&fixture, vec![one.clone(), other.clone()]).await;
        let leave = || Change::ReleaseContent(one.content);
        assert!(matches!(fixture.commit(leave()).await, Effect::Applied));
        assert_eq!(kept(&fixture).await, [other]);
        assert!(matches!(fixture.commit(leave()).await, Effect::Missing));
        assert_eq!(fixture.store.counts().await.expect("readable").refused, 1);
    })
    .await;
}
