//! `/events`: notifications that a backend pulls.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use alipay_sidecar::clock::{Clock as _, ManualClock, SystemClock};
use alipay_sidecar::config::Config;
use alipay_sidecar::config::delivery::{DeliveryFormat, DeliveryRoute};
use alipay_sidecar::model::delivery::{AttemptError, Delivery, DeliveryState, Via};
use alipay_sidecar::model::id::{AuthAppId, EventId};
use alipay_sidecar::model::notification::{Body, InboxEntry};
use alipay_sidecar::net::client::Reply;
use alipay_sidecar::protocol::notification::UnverifiedNotification;
use alipay_sidecar::protocol::signature::SignType;
use alipay_sidecar::simulator::{Event, FIRST_AUTH_APP_ID, FIRST_PID, TriggerOptions};
use alipay_sidecar::store::Change;
use bytes::Bytes;
use http::{Method, Request};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::local_signature::{backends_keys, local};
use crate::store::{START, entry, merchant_app};
use crate::support::brittle::BrittleStore;
use crate::support::raw;
use crate::support::{PATIENCE, TestSidecar, header, json, text};

const CLAIMED: &str = "alipay_sidecar_events_claimed_total";
const GIVEN_UP: &str = "alipay_sidecar_deliveries_given_up_total";

/// A sidecar that pushes nothing, and its clock.
async fn pulled_from(change: impl FnOnce(&mut Config)) -> (TestSidecar, ManualClock) {
    let clock = ManualClock::new(START);
    let change = |config: &mut Config| {
        config.delivery.url = None;
        change(config);
    };
    let build_clock = clock.clone();
    let sidecar = TestSidecar::start_built(change, |_, b| b.clock(Arc::new(build_clock))).await;
    (sidecar, clock)
}

impl TestSidecar {
    async fn event(&self, path: &str, body: &str) -> Reply {
        let request = Request::builder().method(Method::POST).uri(path);
        self.proxy(request, body.to_owned()).await
    }

    async fn claim(&self, body: &str) -> Vec<Value> {
        let reply = self.event("/events/claim", body).await;
        assert_eq!(reply.status, 200, "{}", text(&reply));
        let items = json(&reply)["items"].take();
        items.as_array().expect("a list").clone()
    }

    async fn claimed_ids(&self, body: &str) -> Vec<String> {
        let items = self.claim(body).await;
        items.iter().map(id_of).collect()
    }

    async fn say(&self, id: &str, verb: &str, body: &str) {
        let reply = self.event(&format!("/events/{id}/{verb}"), body).await;
        assert_eq!((reply.status.as_u16(), text(&reply)), (204, String::new()));
    }

    async fn refused(&self, path: &str, body: &str, expected: (u16, &str)) -> Value {
        let reply = self.event(path, body).await;
        let found = (
            reply.status.as_u16(),
            header(&reply, "alipay-sidecar-error"),
        );
        assert_eq!(found, expected, "{path} {body}");
        assert_eq!(header(&reply, "content-type"), "application/problem+json");
        json(&reply)
    }

    async fn owe(&self, order_key: Option<&str>, change: impl FnOnce(&mut InboxEntry)) -> String {
        let mut entry = entry(START, None);
        entry.order_key = order_key.map(str::to_owned);
        change(&mut entry);
        let id = entry.id.to_string();
        let change = Change::Receive(Box::new(entry));
        self.sidecar
            .store()
            .commit(vec![change])
            .await
            .expect("stored");
        id
    }

    async fn delivery(&self, id: &str) -> Delivery {
        let id: EventId = id.parse().expect("an id");
        let found = self.sidecar.store().entry(id).await.expect("readable");
        found.expect("there").1
    }

    async fn outcome(&self, outcome: &str) -> f64 {
        let series = format!("alipay_sidecar_delivery_attempts_total{{outcome=\"{outcome}\"}}");
        self.metric(&series).await
    }
}

fn id_of(item: &Value) -> String {
    item["id"].as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn a_claimed_event_is_what_a_push_would_have_been_until_it_is_acked() {
    let (sidecar, clock) = pulled_from(|_| ()).await;
    let options = TriggerOptions {
        attempts: Some(1),
        wait: true,
        url: Some(format!(
            "{}/alipay/notify/orders/42?shop=5",
            sidecar.webhook
        )),
        ..TriggerOptions::default()
    };
    let sent = sidecar.simulator.trigger(Event::Payment, &options).await;
    let sent = sent.expect("sent");
    let item = sidecar.claim("").await.remove(0);
    assert_eq!(item["body"], sent.body);
    assert_eq!(item["type"], "trade_status_sync");
    assert_eq!(item["notify_path"], "/orders/42");
    assert_eq!(item["notify_query"], "shop=5");
    assert_eq!(item["attempt"], 1);
    assert_eq!(item["lease_until"], clock.now_ms() + 30_000);
    assert!(item.get("body_base64").is_none());
    let content_type = item["content_type"].as_str().expect("a type");
    assert!(content_type.starts_with("application/x-www-form-urlencoded"));
    for name in ["notify_id", "app_id"] {
        assert!(item[name].is_string(), "{name}");
    }
    let members = item.as_object().expect("an object");
    assert!(members.contains_key("auth_app_id"));
    assert!(sidecar.claim("{}").await.is_empty(), "it is on lease");

    let id = id_of(&item);
    clock.advance_ms(250);
    sidecar.say(&id, "ack", "").await;
    sidecar.say(&id, "ack", "{}").await;
    let delivery = sidecar.delivery(&id).await;
    assert_eq!(delivery.state, DeliveryState::Delivered);
    assert_eq!((delivery.attempts, delivery.history.len()), (1, 1));
    let attempt = &delivery.history[0];
    assert_eq!(
        (attempt.via, attempt.error, attempt.status),
        (Via::Pull, None, None)
    );
    assert_eq!((attempt.at, attempt.duration_ms), (START, 250));
    assert_eq!(sidecar.outcome("delivered").await, 1.0);
    assert_eq!(sidecar.metric(CLAIMED).await, 1.0);
    let shown = sidecar
        .admin(Method::GET, &format!("/api/inbox/{id}"), "")
        .await;
    assert_eq!(json(&shown)["history"][0]["via"], "pull");
    assert_eq!(json(&shown)["history"][0].get("to"), None);
}

#[tokio::test]
async fn a_nacked_event_can_be_claimed_again_at_once() {
    let (sidecar, clock) = pulled_from(|_| ()).await;
    let id = sidecar.owe(None, |_| ()).await;
    for attempt in 1..=3 {
        let item = sidecar.claim("").await.remove(0);
        assert_eq!(
            (id_of(&item), &item["attempt"]),
            (id.clone(), &json!(attempt))
        );
        clock.advance_ms(1);
        sidecar.say(&id, "nack", "{}").await;
        sidecar.say(&id, "nack", "").await;
    }
    let delivery = sidecar.delivery(&id).await;
    assert_eq!(
        (delivery.state, delivery.attempts),
        (DeliveryState::Pending, 3)
    );
    let errors: Vec<_> = delivery.history.iter().map(|a| a.error).collect();
    assert_eq!(errors, [Some(AttemptError::Nacked); 3]);
    assert_eq!(sidecar.outcome("nacked").await, 3.0);
}

#[tokio::test]
async fn an_expired_lease_makes_it_claimable_and_a_late_ack_still_counts() {
    let (sidecar, clock) = pulled_from(|_| ()).await;
    let id = sidecar.owe(None, |_| ()).await;
    let lease = r#"{"lease":"5s"}"#;
    assert_eq!(sidecar.claimed_ids(lease).await, std::slice::from_ref(&id));
    clock.advance_ms(4_999);
    assert!(sidecar.claim("").await.is_empty());
    sidecar.say(&id, "extend", lease).await;
    clock.advance_ms(4_999);
    assert!(sidecar.claim("").await.is_empty(), "it was extended");
    clock.advance_ms(1);
    let path = format!("/events/{id}/extend");
    sidecar
        .refused(&path, lease, (409, "event-not-leased"))
        .await;
    let again = sidecar.claim(lease).await.remove(0);
    assert_eq!(again["attempt"], 2);
    // Whoever had the first lease did the work after all.
    sidecar.say(&id, "ack", "").await;
    let delivery = sidecar.delivery(&id).await;
    assert_eq!(delivery.state, DeliveryState::Delivered);
    let lapsed = &delivery.history[0];
    assert_eq!(lapsed.error, Some(AttemptError::LeaseExpired));
    assert_eq!((lapsed.at, lapsed.duration_ms), (START, 9_999));
    assert_eq!(delivery.history[1].error, None);
    assert_eq!(sidecar.outcome("lease-expired").await, 1.0);
    sidecar.refused(&path, "", (409, "event-not-leased")).await;
    // A word that comes too late changes nothing.
    sidecar.say(&id, "nack", "").await;
    assert_eq!(sidecar.delivery(&id).await.state, DeliveryState::Delivered);
}

#[tokio::test]
async fn of_one_order_only_the_first_can_be_claimed() {
    let (sidecar, _) = pulled_from(|_| ()).await;
    let first = sidecar.owe(Some("T1"), |_| ()).await;
    let later = |entry: &mut InboxEntry| entry.id = EventId::new(START + 1);
    let second = sidecar.owe(Some("T1"), later).await;
    let other = sidecar
        .owe(Some("T2"), |entry| entry.id = EventId::new(START + 2))
        .await;
    assert_eq!(sidecar.claimed_ids("").await, [first.clone(), other]);
    assert!(sidecar.claim("").await.is_empty());
    sidecar.say(&first, "nack", "").await;
    assert_eq!(sidecar.claimed_ids("").await, std::slice::from_ref(&first));
    sidecar.say(&first, "ack", "").await;
    assert_eq!(sidecar.claimed_ids("").await, [second]);
}

#[tokio::test]
async fn what_nobody_does_in_time_is_dead_and_a_word_that_it_was_done_ends_that() {
    let (sidecar, clock) = pulled_from(|config| {
        config.delivery.give_up_after = Duration::from_secs(60);
    })
    .await;
    let id = sidecar.owe(None, |_| ()).await;
    sidecar.claim(r#"{"lease":"50s"}"#).await;
    clock.advance_ms(50_000);
    assert_eq!(sidecar.claim(r#"{"lease":"10s"}"#).await.len(), 1);
    clock.advance_ms(10_000);
    assert!(sidecar.claim("").await.is_empty());
    let delivery = sidecar.delivery(&id).await;
    assert_eq!(
        (delivery.state, delivery.attempts),
        (DeliveryState::Dead, 2)
    );
    let errors: Vec<_> = delivery.history.iter().map(|a| a.error).collect();
    assert_eq!(errors, [Some(AttemptError::LeaseExpired); 2]);
    assert_eq!(sidecar.metric(GIVEN_UP).await, 1.0);
    assert_eq!(sidecar.metric("alipay_sidecar_inbox_dead").await, 1.0);
    sidecar.say(&id, "ack", "").await;
    assert_eq!(sidecar.delivery(&id).await.state, DeliveryState::Delivered);
    assert_eq!(sidecar.metric("alipay_sidecar_inbox_dead").await, 0.0);

    let id = sidecar
        .owe(None, |entry| entry.id = EventId::new(START))
        .await;
    for state in [DeliveryState::Pending, DeliveryState::Dead] {
        clock.advance_ms(1);
        assert_eq!(sidecar.claim("").await.len(), 1);
        sidecar.say(&id, "nack", "").await;
        // It was received long ago, but one hiccup isn't the end of it.
        assert_eq!(sidecar.delivery(&id).await.state, state);
    }
    assert_eq!(sidecar.metric(GIVEN_UP).await, 2.0);
}

#[tokio::test]
async fn the_first_lease_of_what_is_old_may_end_without_a_word_and_the_second_is_the_last() {
    let (sidecar, clock) = pulled_from(|_| ()).await;
    clock.advance_ms(100 * 3_600_000);
    let id = sidecar.owe(None, |_| ()).await;
    for attempt in 1..=2 {
        let item = sidecar.claim(r#"{"lease":"5s"}"#).await.remove(0);
        assert_eq!(item["attempt"], attempt);
        clock.advance_ms(5_000);
    }
    assert!(sidecar.claim("").await.is_empty());
    assert_eq!(sidecar.delivery(&id).await.state, DeliveryState::Dead);
}

#[tokio::test]
async fn what_is_given_up_is_not_in_the_way_of_what_is_owed() {
    let (sidecar, clock) = pulled_from(|config| {
        config.delivery.give_up_after = Duration::from_secs(60);
    })
    .await;
    let lost = sidecar.owe(None, |_| ()).await;
    sidecar.claim(r#"{"lease":"50s"}"#).await;
    clock.advance_ms(50_000);
    sidecar.claim(r#"{"lease":"10s"}"#).await;
    clock.advance_ms(10_001);
    let later = |entry: &mut InboxEntry| entry.received_at = clock.now_ms();
    let owed = sidecar.owe(None, later).await;
    // The one that a look has room for is the one that was due first.
    assert_eq!(sidecar.claimed_ids(r#"{"max":1}"#).await, [owed]);
    assert_eq!(sidecar.delivery(&lost).await.state, DeliveryState::Dead);
}

#[tokio::test]
async fn a_claim_gives_eight_megabytes_at_most_but_one_event_however_large() {
    let (sidecar, _) = pulled_from(|_| ()).await;
    let mut owed = Vec::new();
    for (at, megabytes) in [(START, 9_usize), (START + 1, 5), (START + 2, 5)] {
        let large = |entry: &mut InboxEntry| {
            entry.id = EventId::new(at);
            let body = entry.body.as_mut().expect("there is one");
            body.bytes = vec![b'a'; megabytes << 20].into();
        };
        owed.push(sidecar.owe(None, large).await);
    }
    for id in owed {
        assert_eq!(sidecar.claimed_ids("").await, [id]);
    }
}

#[tokio::test]
async fn whoever_names_the_attempt_leaves_the_lease_of_another_alone() {
    let (sidecar, clock) = pulled_from(|_| ()).await;
    let id = sidecar.owe(None, |_| ()).await;
    let lease = r#"{"lease":"5s"}"#;
    sidecar.claim(lease).await;
    let own = r#"{"lease":"5s","attempt":1}"#;
    sidecar.say(&id, "extend", own).await;
    clock.advance_ms(5_000);
    assert_eq!(sidecar.claim(lease).await[0]["attempt"], 2);
    let of_another = sidecar.delivery(&id).await;
    let not_leased = (409, "event-not-leased");
    for verb in ["extend", "nack"] {
        let path = format!("/events/{id}/{verb}");
        sidecar.refused(&path, r#"{"attempt":1}"#, not_leased).await;
        for wrong in ["0", "-1", "1.5", "\"2\"", "4294967297"] {
            let body = format!("{{\"attempt\":{wrong}}}");
            let invalid = (400, "parameter-invalid");
            sidecar.refused(&path, &body, invalid).await;
        }
    }
    assert_eq!(sidecar.delivery(&id).await, of_another);
    sidecar.say(&id, "nack", r#"{"attempt":2}"#).await;
    assert_eq!(sidecar.delivery(&id).await.lease, None);
    let path = format!("/events/{id}/nack");
    sidecar.refused(&path, r#"{"attempt":2}"#, not_leased).await;
}

#[tokio::test]
async fn a_damaged_merchant_holds_up_neither_pushes_nor_claims() {
    for is_pushed in [true, false] {
        let mut brittle = None;
        let sidecar = TestSidecar::start_built(
            |config| {
                config.delivery.routes = vec![DeliveryRoute {
                    url: "http://127.0.0.1:9/".to_owned(),
                    merchant: Some("shop".to_owned()),
                    ..DeliveryRoute::default()
                }];
                if !is_pushed {
                    config.delivery.url = None;
                }
            },
            |config, builder| {
                let store = BrittleStore::open(config);
                brittle = Some(store.clone());
                builder.store(Arc::new(store))
            },
        )
        .await;
        brittle.expect("built").scratch_merchants();
        let owed = |entry: &mut InboxEntry| entry.auth_app_id = Some(merchant_app(7));
        let id = sidecar.owe(None, owed).await;
        if !is_pushed {
            assert_eq!(sidecar.claimed_ids("").await, [id]);
            continue;
        }
        // Its arrival lets the dispatcher look.
        let options = TriggerOptions {
            attempts: Some(1),
            wait: true,
            ..TriggerOptions::default()
        };
        let sent = sidecar.simulator.trigger(Event::Payment, &options);
        sent.await.expect("sent");
        let delivered = async {
            while sidecar.delivery(&id).await.state != DeliveryState::Delivered {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let delivered = tokio::time::timeout(PATIENCE, delivered).await;
        delivered.expect("the backend takes it");
    }
}

#[tokio::test]
async fn a_claim_that_waits_ends_when_something_becomes_due_and_at_the_end() {
    let (sidecar, store) = crate::calls::brittle_with(|config| config.delivery.url = None).await;
    let sidecar = Arc::new(sidecar);
    let claiming = || {
        let (looked, sidecar) = (store.looks(), Arc::clone(&sidecar));
        let wait = r#"{"wait":"60s","max":1}"#;
        let claim = tokio::spawn(async move { sidecar.claim(wait).await });
        (claim, looked)
    };
    // Whoever has looked in vain waits.
    let waits = async |looked: usize| {
        let looks = async {
            while store.looks() == looked {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let looks = tokio::time::timeout(PATIENCE, looks).await;
        looks.expect("it looks at once");
    };
    let soon = async |claim: tokio::task::JoinHandle<Vec<Value>>| {
        let claimed = tokio::time::timeout(PATIENCE, claim).await;
        claimed.expect("not the whole minute").expect("no panic")
    };
    let (claim, looked) = claiming();
    waits(looked).await;
    let options = TriggerOptions {
        attempts: Some(1),
        wait: true,
        ..TriggerOptions::default()
    };
    sidecar
        .simulator
        .trigger(Event::Payment, &options)
        .await
        .expect("sent");
    let first = soon(claim).await;
    assert_eq!(first.len(), 1);
    let (claim, looked) = claiming();
    waits(looked).await;
    sidecar.say(&id_of(&first[0]), "nack", "").await;
    assert_eq!(soon(claim).await[0]["attempt"], 2);
    let (claim, looked) = claiming();
    waits(looked).await;
    sidecar.stop();
    assert!(soon(claim).await.is_empty());
}

#[tokio::test]
async fn claims_that_wait_take_no_slot_of_calls_and_are_bounded() {
    let (sidecar, _) = pulled_from(|config| config.proxy.max_in_flight = 1).await;
    let sidecar = Arc::new(sidecar);
    let waiting: Vec<_> = (0..64)
        .map(|_| {
            let sidecar = Arc::clone(&sidecar);
            tokio::spawn(async move {
                // The probe below may have its place for a moment.
                while sidecar
                    .event("/events/claim", r#"{"wait":"60s"}"#)
                    .await
                    .status
                    == 503
                {}
            })
        })
        .collect();
    let full = async {
        loop {
            let reply = sidecar.event("/events/claim", r#"{"wait":"1ms"}"#).await;
            if reply.status == 503 {
                return reply;
            }
        }
    };
    let full = tokio::time::timeout(PATIENCE, full).await.expect("64 wait");
    assert_eq!(header(&full, "alipay-sidecar-error"), "overloaded");
    assert_eq!(header(&full, "retry-after"), "1");
    let call = sidecar
        .post("/v2/alipay.trade.query", r#"{"out_trade_no":"T"}"#)
        .await;
    assert_eq!(call.status, 200);
    assert!(sidecar.claim("").await.is_empty(), "one that doesn't wait");
    // Their places are free long before their minute is over.
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
    let free = async {
        let wait = r#"{"wait":"1ms"}"#;
        while sidecar.event("/events/claim", wait).await.status == 503 {}
    };
    let free = tokio::time::timeout(PATIENCE, free).await;
    free.expect("nobody waits any more");
}

/// How a client leaves.
#[derive(Debug, Clone, Copy)]
enum Leaving {
    Closes,
    Resets,
    /// It may still read.
    EndsItsSide,
}

#[tokio::test]
async fn a_claim_that_waits_takes_nothing_for_who_has_left() {
    let (sidecar, store) = crate::calls::brittle_with(|config| config.delivery.url = None).await;
    let body = r#"{"wait":"60s"}"#;
    let request = format!(
        "POST /events/claim HTTP/1.1\r\nhost: {}\r\ncontent-length: {}\r\n\r\n{body}",
        raw::authority(&sidecar.proxy),
        body.len()
    );
    let options = TriggerOptions {
        attempts: Some(1),
        wait: true,
        ..TriggerOptions::default()
    };
    for leaving in [Leaving::Closes, Leaving::Resets, Leaving::EndsItsSide] {
        let looked = store.looks();
        let mut client = raw::open(&sidecar.proxy, request.as_bytes()).await;
        let looks = async {
            while store.looks() == looked {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let looks = tokio::time::timeout(PATIENCE, looks).await;
        looks.expect("it looks at once, and waits then");
        match leaving {
            Leaving::Closes => drop(client),
            Leaving::Resets => {
                client.set_zero_linger().expect("a socket");
                drop(client);
            }
            Leaving::EndsItsSide => {
                client.shutdown().await.expect("ended");
                let mut answer = String::new();
                let read = client.read_to_string(&mut answer);
                let read = tokio::time::timeout(PATIENCE, read).await;
                read.expect("not the whole minute").expect("an answer");
                assert!(answer.ends_with("{\"items\":[]}"), "{answer}");
            }
        }
        let sent = sidecar.simulator.trigger(Event::Payment, &options).await;
        sent.expect("sent");
        let claimed = sidecar.claim(r#"{"wait":"3s"}"#).await;
        assert_eq!(claimed.len(), 1, "{leaving:?}");
        assert_eq!(claimed[0]["attempt"], 1, "{leaving:?}");
        sidecar.say(&id_of(&claimed[0]), "ack", "").await;
    }
}

#[tokio::test]
async fn what_can_not_be_asked_is_refused_by_name() {
    let (sidecar, _) = pulled_from(|_| ()).await;
    let invalid = (400, "parameter-invalid");
    let problem = sidecar
        .refused("/events/claim", r#"{"max":101}"#, invalid)
        .await;
    assert_eq!(
        problem["detail"],
        "`max` is 101; it has to be a number from 1 to 100"
    );
    for body in [r#"{"lease":"2h"}"#, r#"{"wait":"61s"}"#, r#"{"limit":1}"#] {
        sidecar.refused("/events/claim", body, invalid).await;
    }
    sidecar
        .refused("/events/claim", "max=1", (400, "body-invalid"))
        .await;
    let id = sidecar.owe(None, |_| ()).await;
    sidecar
        .refused(&format!("/events/{id}/ack"), r#"{"x":1}"#, invalid)
        .await;
    let unknown = (404, "event-unknown");
    for verb in ["ack", "nack", "extend"] {
        let nobody = EventId::new(START);
        sidecar
            .refused(&format!("/events/{nobody}/{verb}"), "", unknown)
            .await;
        sidecar
            .refused(&format!("/events/no-id/{verb}"), "", unknown)
            .await;
    }
    for path in ["/events", "/events/claim/", "/m/shop/events/claim"] {
        sidecar.refused(path, "", (404, "route-unknown")).await;
    }
    let get = sidecar.proxy(Request::get("/events/claim"), "").await;
    assert_eq!((get.status.as_u16(), header(&get, "allow")), (405, "POST"));
    let page = Request::post("/events/claim").header("origin", "http://evil.example");
    let page = sidecar.proxy(page, "").await;
    assert_eq!(header(&page, "alipay-sidecar-error"), "browser-refused");
    assert_eq!(sidecar.delivery(&id).await.attempts, 0);
}

#[tokio::test]
async fn an_authorisation_is_pulled_without_a_token_and_bytes_that_are_no_text_as_base64() {
    let (sidecar, _) = pulled_from(|_| ()).await;
    let options = TriggerOptions {
        attempts: Some(1),
        wait: true,
        ..TriggerOptions::default()
    };
    sidecar
        .simulator
        .trigger(Event::PluginOrder, &options)
        .await
        .expect("sent");
    let item = sidecar.claim("").await.remove(0);
    assert_eq!(
        (&item["type"], &item["auth_app_id"]),
        (&json!("merchant.authorized"), &json!(FIRST_AUTH_APP_ID))
    );
    assert_eq!(item["content_type"], "application/json");
    let event: Value = serde_json::from_str(item["body"].as_str().expect("text")).expect("JSON");
    assert_eq!(event["id"], item["id"]);
    assert!(!item.to_string().contains("app_auth_token"));

    let raw = Bytes::from_static(b"subject=\xD6\xD0&charset=GBK");
    sidecar
        .owe(None, |entry| {
            entry.body = Some(Body {
                content_type: "application/x-www-form-urlencoded; charset=GBK".to_owned(),
                bytes: raw.clone(),
            });
        })
        .await;
    let item = sidecar.claim("").await.remove(0);
    assert_eq!(item["body_base64"], "c3ViamVjdD3W0CZjaGFyc2V0PUdCSw==");
    assert!(item.get("body").is_none());
}

#[tokio::test]
async fn the_form_of_the_route_that_fits_and_the_local_signature_hold_for_pulled_ones_too() {
    let (sidecar, _) = pulled_from(|config| {
        local(config);
        // Nobody listens there; the entry is claimed while it waits for its next attempt.
        config.delivery.format = DeliveryFormat::Json;
        config.delivery.routes = vec![DeliveryRoute {
            url: "http://127.0.0.1:9/".to_owned(),
            app: Some("2021000000009999".to_owned()),
            ..DeliveryRoute::default()
        }];
    })
    .await;
    sidecar.owe(None, |_| ()).await;
    let item = sidecar.claim("").await.remove(0);
    let body: Value = serde_json::from_str(item["body"].as_str().expect("text")).expect("JSON");
    assert_eq!(body["params"]["out_trade_no"], "plain-to-see");
    assert_eq!(body["pid"], Value::Null);

    // What is only pulled is told whose it is, too.
    let (sidecar, _) = pulled_from(|config| config.delivery.format = DeliveryFormat::Json).await;
    let of_first =
        |entry: &mut InboxEntry| entry.auth_app_id = AuthAppId::new(FIRST_AUTH_APP_ID).ok();
    sidecar.owe(None, of_first).await;
    let item = sidecar.claim("").await.remove(0);
    let body: Value = serde_json::from_str(item["body"].as_str().expect("text")).expect("JSON");
    assert_eq!(body["pid"], FIRST_PID);

    let (sidecar, _) = pulled_from(local).await;
    let options = TriggerOptions {
        attempts: Some(1),
        wait: true,
        ..TriggerOptions::default()
    };
    let sent = sidecar
        .simulator
        .trigger(Event::Payment, &options)
        .await
        .expect("sent");
    let item = sidecar.claim("").await.remove(0);
    assert_ne!(item["body"], sent.body);
    let body = item["body"].as_str().expect("text").as_bytes();
    let form = UnverifiedNotification::parse(item["content_type"].as_str(), body).expect("a form");
    form.verify(&backends_keys(), SignType::Rsa2)
        .expect("signed with the install key");
}

#[tokio::test]
async fn what_no_route_fits_can_be_claimed_however_much_there_is() {
    let (sidecar, _) = pulled_from(|config| {
        config.delivery.routes = vec![DeliveryRoute {
            url: "http://127.0.0.1:9/".to_owned(),
            path: Some("/pushed/*".to_owned()),
            ..DeliveryRoute::default()
        }];
    })
    .await;
    let changes = (0..300).map(|n| Change::Receive(Box::new(entry(START - 300 + n, None))));
    let store = sidecar.sidecar.store();
    store.commit(changes.collect()).await.expect("stored");
    // The dispatcher looks at them, and parks most.
    let options = TriggerOptions {
        attempts: Some(1),
        wait: true,
        ..TriggerOptions::default()
    };
    sidecar
        .simulator
        .trigger(Event::Payment, &options)
        .await
        .expect("sent");
    let parked = async {
        while store
            .due(START, 1_000, HashSet::new())
            .await
            .expect("readable")
            .now
            .len()
            > 150
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, parked)
        .await
        .expect("parked");
    let mut claimed = 0;
    loop {
        let ids = sidecar.claimed_ids(r#"{"max":100}"#).await;
        if ids.is_empty() {
            break;
        }
        claimed += ids.len();
    }
    assert_eq!(claimed, 301);
}

#[tokio::test]
async fn what_is_being_pushed_is_not_claimed() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let url = format!("http://{}/", silent.local_addr().expect("bound"));
    let (sidecar, clock) = pulled_from(|config| {
        config.delivery.url = Some(url);
        config.delivery.timeout = Duration::from_millis(500);
    })
    .await;
    let options = TriggerOptions {
        attempts: Some(1),
        wait: true,
        ..TriggerOptions::default()
    };
    sidecar
        .simulator
        .trigger(Event::Payment, &options)
        .await
        .expect("sent");
    let (_connection, _) = silent.accept().await.expect("an attempt");
    assert!(sidecar.claim("").await.is_empty(), "it is under way");
    let store = sidecar.sidecar.store();
    let failed = async {
        loop {
            let all = store.entries(None, None, 1).await.expect("readable");
            if all.iter().any(|(_, delivery)| delivery.attempts == 1) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, failed)
        .await
        .expect("it ends");
    assert!(sidecar.claim("").await.is_empty(), "it isn't due");
    clock.advance_ms(1_200);
    // The dispatcher may be faster with the next one.
    let claimed = async {
        loop {
            if let Some(item) = sidecar.claim("").await.pop() {
                return item;
            }
            // Past what the next attempt would be put off.
            clock.advance_ms(10_000);
        }
    };
    let item = tokio::time::timeout(PATIENCE, claimed).await.expect("due");
    assert!(item["attempt"].as_i64() >= Some(2), "{item}");
}

#[tokio::test]
async fn a_backend_that_never_comes_back_leaves_dead_ones_for_the_alarm() {
    let (sidecar, clock) = pulled_from(|config| {
        config.delivery.give_up_after = Duration::from_secs(60);
    })
    .await;
    let id = sidecar.owe(None, |entry| entry.received_at -= 30_000).await;
    let again = sidecar.owe(None, |_| ()).await;
    for given_back in sidecar.claimed_ids("").await {
        sidecar.say(&given_back, "nack", "").await;
    }
    let claimed = sidecar.claim(r#"{"lease":"40s"}"#).await;
    assert_eq!(claimed.len(), 2);
    clock.advance_ms(40_000);
    // Nobody claims any more; whatever arrives lets the dispatcher look.
    let options = TriggerOptions {
        attempts: Some(1),
        wait: true,
        ..TriggerOptions::default()
    };
    let sent = sidecar.simulator.trigger(Event::Payment, &options);
    sent.await.expect("sent");
    sidecar.wait_for_metric(GIVEN_UP, 1.0).await;
    sidecar
        .wait_for_metric("alipay_sidecar_inbox_dead", 1.0)
        .await;
    assert_eq!(sidecar.outcome("lease-expired").await, 2.0);
    assert_eq!(sidecar.delivery(&id).await.state, DeliveryState::Dead);
    let owed = sidecar.delivery(&again).await;
    assert_eq!((owed.state, owed.lease), (DeliveryState::Pending, None));
    assert_eq!(owed.history[1].error, Some(AttemptError::LeaseExpired));
}

#[tokio::test]
async fn whoever_is_faster_nothing_is_pushed_and_pulled() {
    const EVENTS: i64 = 300;
    let sidecar = Arc::new(TestSidecar::start().await);
    let now = SystemClock.now_ms();
    let changes = (0..EVENTS).map(|n| Change::Receive(Box::new(entry(now - EVENTS + n, None))));
    let store = sidecar.sidecar.store();
    store.commit(changes.collect()).await.expect("stored");
    // Lets the dispatcher begin while the backend claims.
    let options = TriggerOptions {
        attempts: Some(1),
        wait: false,
        ..TriggerOptions::default()
    };
    let sent = sidecar.simulator.trigger(Event::Payment, &options);
    let pull = async || {
        let mut pulled = Vec::new();
        while store.counts().await.expect("readable").pending > 0 {
            for id in sidecar.claimed_ids(r#"{"max":7}"#).await {
                sidecar.say(&id, "ack", "").await;
                pulled.push(id);
            }
        }
        pulled
    };
    let (_, one, two) = tokio::join!(sent, pull(), pull());
    let mut seen = [one, two].concat();
    let pulled = seen.len();
    let all = store.entries(None, None, 1_000).await.expect("readable");
    for _ in pulled..all.len() {
        let pushed = sidecar.backend.next().await;
        seen.push(pushed.header("alipay-event-id").to_owned());
    }
    assert!(sidecar.backend.is_quiet().await);
    let once: BTreeSet<_> = seen.iter().collect();
    assert_eq!(once.len(), all.len(), "{pulled} were pulled");
    assert!(all.iter().all(|(_, delivery)| delivery.attempts == 1));
}

#[tokio::test]
async fn a_store_that_is_down_gives_nothing_out() {
    let (sidecar, store) = crate::calls::brittle_with(|config| config.delivery.url = None).await;
    let id = sidecar.owe(None, |_| ()).await;
    store.break_down();
    let down = (503, "store-unavailable");
    sidecar.refused("/events/claim", "", down).await;
    sidecar
        .refused(&format!("/events/{id}/ack"), "", down)
        .await;
}

#[tokio::test]
async fn a_drain_gives_nothing_out_and_lets_what_is_on_lease_be_finished() {
    let (sidecar, _) = pulled_from(|_| ()).await;
    let mut owed = [
        sidecar.owe(None, |_| ()).await,
        sidecar.owe(None, |_| ()).await,
    ];
    // Of one millisecond, the ids alone say which is given out first.
    owed.sort();
    let [first, second] = owed;
    let claimed = sidecar.claimed_ids(r#"{"max":1}"#).await;
    assert_eq!(claimed, std::slice::from_ref(&first));
    sidecar.admin(Method::POST, "/api/drain", "").await;
    for body in ["", r#"{"wait":"60s"}"#] {
        sidecar
            .refused("/events/claim", body, (503, "overloaded"))
            .await;
        let reply = sidecar.event("/events/claim", body).await;
        assert_eq!(header(&reply, "retry-after"), "1");
    }
    assert_eq!(sidecar.delivery(&second).await.attempts, 0);
    sidecar.say(&first, "extend", r#"{"lease":"60s"}"#).await;
    sidecar.say(&first, "ack", "").await;
    let drained = sidecar.admin(Method::POST, "/api/drain", "").await;
    assert_eq!(json(&drained)["drained"], true);
}
