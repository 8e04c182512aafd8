//! From the inbox to the backend.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use alipay_sidecar::config::delivery::{
    AuthorizationDelivery, DeliveryConfig, DeliveryFormat, DeliveryRoute,
};
use alipay_sidecar::delivery::pull::{Claim, PullError};
use alipay_sidecar::delivery::whose::Whose;
use alipay_sidecar::model::delivery::{AttemptError, Delivery, DeliveryState, Lease, Settlement};
use alipay_sidecar::model::id::EventId;
use alipay_sidecar::model::notification::InboxEntry;
use alipay_sidecar::net::body::RequestBody;
use alipay_sidecar::net::listener::Listener;
use alipay_sidecar::net::serve::serve;
use alipay_sidecar::net::shutdown::{Shutdown, ShutdownTrigger};
use alipay_sidecar::protocol::secret::Secret;
use alipay_sidecar::simulator::{DEFAULT_APP_ID, Event, FIRST_AUTH_APP_ID, TriggerOptions};
use alipay_sidecar::store::{Change, Inbox, Store};
use base64::Engine as _;
use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::parts::{FakeBackend, NOW, Parts, Setting};
use crate::support::signed::Platform;
use crate::support::{hold_time, keys, until};

pub(crate) const ATTEMPTS: &str = "alipay_sidecar_delivery_attempts_total";

/// Parts whose dispatcher runs.
pub(crate) struct Running {
    pub(crate) parts: Parts,
    pub(crate) end: ShutdownTrigger,
    pub(crate) ended: JoinHandle<()>,
}

pub(crate) async fn running(delivery: DeliveryConfig) -> Running {
    let parts = Parts::new(Setting {
        delivery,
        ..Setting::default()
    })
    .await;
    let (end, shutdown) = Shutdown::new();
    let dispatcher = Arc::clone(&parts.dispatcher);
    let ended = tokio::spawn(async move { dispatcher.run(shutdown.wait()).await });
    Running { parts, end, ended }
}

fn to(backend: &FakeBackend) -> DeliveryConfig {
    DeliveryConfig {
        url: Some(backend.url.clone()),
        ..DeliveryConfig::default()
    }
}

impl Running {
    pub(crate) async fn pay(&self, out_trade_no: &str) -> String {
        let options = TriggerOptions {
            out_trade_no: Some(out_trade_no.to_owned()),
            ..TriggerOptions::default()
        };
        self.parts.trigger(Event::Payment, options).await.body
    }

    /// Waits until the delivery is as `done` wants it.
    async fn until(&self, id: EventId, done: impl Fn(&Delivery) -> bool) -> Delivery {
        let watch = async {
            loop {
                let stored = self.parts.store.entry(id).await.expect("readable");
                match stored {
                    Some((_, delivery)) if done(&delivery) => return delivery,
                    _ => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        let watched = tokio::time::timeout(Duration::from_secs(10), watch).await;
        watched.expect("the delivery gets there")
    }

    /// Moves the clock on and lets the dispatcher look at it.
    pub(crate) fn later(&self, ms: i64) {
        self.parts.clock.advance_ms(ms);
        self.parts.dispatcher.wake();
    }
}

fn id_of(text: &str) -> EventId {
    text.parse().expect("an event id")
}

#[tokio::test]
async fn a_notification_reaches_the_backend_byte_for_byte() {
    let mut backend = FakeBackend::new().await;
    let running = running(to(&backend)).await;
    let body = running.pay("T1").await;
    let got = backend.next().await;
    assert_eq!(
        (got.path.as_str(), got.body.as_str()),
        ("/events", body.as_str())
    );
    let (entry, _) = running.parts.inbox().await.remove(0);
    assert_eq!(got.header("alipay-event-id"), entry.id.to_string());
    assert_eq!(got.header("alipay-event-type"), "trade_status_sync");
    assert_eq!(got.header("alipay-delivery-attempt"), "1");
    assert_eq!(got.header("alipay-notify-path"), "/orders/42");
    assert_eq!(got.header("alipay-notify-query"), "shop=5");
    let sent = entry.body.expect("kept").content_type;
    assert_eq!(got.header("content-type"), sent);
    let done = running
        .until(entry.id, |d| d.state != DeliveryState::Pending)
        .await;
    assert_eq!((done.state, done.attempts), (DeliveryState::Delivered, 1));
    assert!(running.parts.count(ATTEMPTS, "delivered") > 0.0);
}

#[tokio::test]
async fn what_is_not_taken_comes_again_until_patience_ends_and_after_a_replay() {
    let mut backend = FakeBackend::new().await;
    backend.answer(200, "ok");
    let mut config = to(&backend);
    config.give_up_after = Duration::from_secs(2);
    let running = running(config).await;
    running.pay("T1").await;
    let id = id_of(backend.next().await.header("alipay-event-id"));
    let waiting = running.until(id, |d| d.attempts == 1).await;
    let delay = waiting.next_attempt_at - NOW;
    assert!((1000..=1200).contains(&delay), "{delay}");
    assert_eq!(waiting.history[0].error, Some(AttemptError::NotSuccess));
    running.later(1200);
    assert_eq!(backend.next().await.header("alipay-delivery-attempt"), "2");
    // The last one is made when patience ends, not long after.
    let waiting = running.until(id, |d| d.attempts == 2).await;
    assert_eq!(waiting.next_attempt_at, NOW + 2000);
    running.later(800);
    backend.next().await;
    running.until(id, |d| d.state == DeliveryState::Dead).await;
    backend.answer(200, "success\n");
    let now = NOW + 2000;
    let replay = running.parts.store.commit(vec![Change::Replay { id, now }]);
    replay.await.expect("stored");
    running.parts.dispatcher.wake();
    assert_eq!(backend.next().await.header("alipay-delivery-attempt"), "1");
    running
        .until(id, |d| d.state == DeliveryState::Delivered)
        .await;
}

/// What three messages of a merchant become where tokens aren't handed on: an authorisation, one of a
/// version that isn't known, and a cancellation.
async fn three_messages(parts: &Parts) {
    let of = |version: Option<&str>| {
        let version = version.map(|version| ("version".to_owned(), version.to_owned()));
        TriggerOptions {
            auth_app_id: Some(FIRST_AUTH_APP_ID.to_owned()),
            params: version.into_iter().collect(),
            ..TriggerOptions::default()
        }
    };
    for (event, version) in [
        (Event::PluginOrder, None),
        (Event::ReAuthorize, Some("2.0")),
        (Event::Cancel, None),
    ] {
        let sent = parts.trigger(event, of(version)).await;
        assert_eq!(sent.body.contains("app_auth_token"), event != Event::Cancel);
        parts.clock.advance_ms(1000);
    }
}

#[tokio::test]
async fn what_was_to_go_out_with_tokens_goes_without_once_these_are_not_handed_on() {
    let types = [
        "merchant.authorized",
        "open_app_auth_notify",
        "merchant.revoked",
    ];
    for (authorization, types) in [
        (AuthorizationDelivery::Verbatim, types.to_vec()),
        // Each of the two that were applied has a second entry.
        (
            AuthorizationDelivery::Both,
            vec![
                "merchant.authorized",
                "open_app_auth_notify",
                "open_app_auth_notify",
                "merchant.revoked",
                "alipay.open.auth.appauth.cancelled",
            ],
        ),
    ] {
        let mut backend = FakeBackend::new().await;
        let config = DeliveryConfig {
            authorization,
            ..DeliveryConfig::default()
        };
        let running = running(config).await;
        let parts = &running.parts;
        three_messages(parts).await;
        parts.dispatcher.reconfigure(&DeliveryConfig::default());
        let wanted = Claim {
            max: 10,
            lease: Duration::from_secs(1),
            wait: Duration::ZERO,
        };
        let puller = parts.dispatcher.puller();
        let claimed = puller.claim(wanted, &Whose::Everybodys).await;
        let claimed = claimed.expect("readable");
        let pulled = claimed
            .iter()
            .map(|pulled| pulled.entry.event_type.as_str());
        assert_eq!(pulled.collect::<Vec<_>>(), types, "{authorization:?}");
        parts.dispatcher.reconfigure(&to(&backend));
        running.later(1000);
        let mut pushed = HashSet::new();
        for _ in &types {
            let got = backend.next().await;
            pushed.insert((got.header("alipay-event-id").to_owned(), got.body));
        }
        let pulled = claimed.iter().map(|pulled| {
            assert_eq!(pulled.content_type, "application/json");
            let body = String::from_utf8(pulled.body.to_vec()).expect("JSON");
            assert!(!body.contains("app_auth_token"), "{body}");
            (pulled.entry.id.to_string(), body)
        });
        assert_eq!(pulled.collect::<HashSet<_>>(), pushed);
    }
}

#[tokio::test]
async fn what_waited_before_the_clock_was_set_right_is_tried_on() {
    let mut backend = FakeBackend::new().await;
    backend.answer(503, "");
    let running = running(to(&backend)).await;
    running.pay("T1").await;
    let id = id_of(backend.next().await.header("alipay-event-id"));
    running.until(id, |d| d.attempts == 1).await;
    running.later(400 * 86_400_000);
    backend.next().await;
    let waiting = running.until(id, |d| d.attempts == 2).await;
    assert_eq!(waiting.state, DeliveryState::Pending);
    backend.answer(200, "success");
    running.later(3_000);
    running
        .until(id, |d| d.state == DeliveryState::Delivered)
        .await;
}

#[tokio::test]
async fn deliveries_of_one_order_keep_their_order_and_hold_up_no_other() {
    let mut backend = FakeBackend::new().await;
    backend.answer(500, "");
    let running = running(to(&backend)).await;
    let first = running.pay("T1").await;
    assert_eq!(backend.next().await.body, first);
    running.parts.clock.advance_ms(1);
    let second = running.pay("T1").await;
    let other = running.pay("T2").await;
    assert_eq!(backend.next().await.body, other);
    let inbox = running.parts.inbox().await;
    for (entry, _) in inbox
        .iter()
        .filter(|(e, _)| e.body.as_ref().is_some_and(|b| b.bytes != second))
    {
        running.until(entry.id, |d| d.attempts == 1).await;
    }
    backend.answer(200, "success");
    running.later(1300);
    let mut got = vec![
        backend.next().await.body,
        backend.next().await.body,
        backend.next().await.body,
    ];
    got.retain(|body| *body != other);
    assert_eq!(got, [first, second]);
}

#[tokio::test]
async fn an_authorisation_is_a_signed_event_without_a_token() {
    let mut backend = FakeBackend::new().await;
    backend.answer(204, "");
    let mut config = to(&backend);
    config.signing_secret = Some(Secret::new("whsec_c2VjcmV0".to_owned()));
    let running = running(config).await;
    running
        .parts
        .trigger(Event::PluginOrder, TriggerOptions::default())
        .await;
    let got = backend.next().await;
    let event: Value = serde_json::from_str(&got.body).expect("JSON");
    assert_eq!(event["type"], "merchant.authorized");
    assert_eq!(event["auth_app_id"], FIRST_AUTH_APP_ID);
    assert_eq!(event["app_id"], DEFAULT_APP_ID);
    assert_eq!(got.header("alipay-merchant"), FIRST_AUTH_APP_ID);
    assert_eq!(got.header("alipay-event-type"), "merchant.authorized");
    let merchant = running
        .parts
        .merchant(FIRST_AUTH_APP_ID)
        .await
        .expect("stored");
    assert!(
        !got.body
            .contains(merchant.token.app_auth_token.expose().as_str())
    );
    let id = got.header("webhook-id");
    assert_eq!(event["id"], id);
    let content = format!("{id}.{}.{}", got.header("webhook-timestamp"), got.body);
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, b"secret");
    let sign = aws_lc_rs::hmac::sign(&key, content.as_bytes());
    let sign = base64::engine::general_purpose::STANDARD.encode(sign);
    assert_eq!(got.header("webhook-signature"), format!("v1,{sign}"));
    // JSON goes out, so any 2xx is an ack.
    running
        .until(id_of(id), |d| d.state == DeliveryState::Delivered)
        .await;
}

#[tokio::test]
async fn a_body_with_a_token_that_was_not_applied_goes_out_redacted() {
    let mut backend = FakeBackend::new().await;
    let running = running(to(&backend)).await;
    let mut options = TriggerOptions::default();
    options
        .params
        .insert("version".to_owned(), "2.0".to_owned());
    let sent = running.parts.trigger(Event::PluginOrder, options).await;
    assert!(sent.body.contains("app_auth_token"));
    let got = backend.next().await;
    let event: Value = serde_json::from_str(&got.body).expect("JSON");
    assert_eq!(event["type"], "open_app_auth_notify");
    assert_eq!(event["params"]["version"], "2.0");
    assert_eq!(
        event["params"]["biz_content"]["detail"]["auth_app_id"],
        FIRST_AUTH_APP_ID
    );
    assert!(!got.body.contains("app_auth_token") && !got.body.contains("app_auth_code"));
}

#[tokio::test]
async fn what_is_json_because_of_its_token_is_answered_like_the_rest_of_its_format() {
    let mut backend = FakeBackend::new().await;
    // A form handler doesn't understand it, and says so.
    backend.answer(200, "fail");
    let (form, json) = (DeliveryFormat::Form, DeliveryFormat::Json);
    for (format, error) in [(form, Some(AttemptError::NotSuccess)), (json, None)] {
        let running = running(DeliveryConfig {
            format,
            ..to(&backend)
        })
        .await;
        let mut options = TriggerOptions::default();
        let version = ("version".to_owned(), "2.0".to_owned());
        options.params.extend([version]);
        running.parts.trigger(Event::PluginOrder, options).await;
        let got = backend.next().await;
        assert_eq!(got.header("content-type"), "application/json");
        let id = id_of(got.header("alipay-event-id"));
        let tried = running.until(id, |d| d.attempts == 1).await;
        assert_eq!(tried.history[0].error, error);
    }
}

#[tokio::test]
async fn the_first_route_that_fits_takes_it_and_the_rest_waits_without_one() {
    let (mut payments, mut shop) = (FakeBackend::new().await, FakeBackend::new().await);
    let config = DeliveryConfig {
        routes: vec![
            DeliveryRoute {
                url: shop.url.clone(),
                merchant: Some("shop".to_owned()),
                ..DeliveryRoute::default()
            },
            DeliveryRoute {
                url: payments.url.clone(),
                event_type: Some("trade_*".to_owned()),
                path: Some("/orders/*".to_owned()),
                format: Some(DeliveryFormat::Json),
                ..DeliveryRoute::default()
            },
        ],
        ..DeliveryConfig::default()
    };
    let running = running(config.clone()).await;
    let parts = &running.parts;
    parts
        .trigger(Event::PluginOrder, TriggerOptions::default())
        .await;
    running.pay("T1").await;
    let got = payments.next().await;
    let json: Value = serde_json::from_str(&got.body).expect("JSON");
    assert_eq!(json["params"]["out_trade_no"], "T1");
    // The authorisation fits no route as long as the merchant has no alias.
    let unrouted = parts
        .inbox()
        .await
        .into_iter()
        .find(|(e, _)| e.event.is_some());
    let (entry, delivery) = unrouted.expect("kept");
    assert_eq!(
        (delivery.state, delivery.attempts),
        (DeliveryState::Pending, 0)
    );
    let merchant = parts.merchant(FIRST_AUTH_APP_ID).await.expect("stored");
    let name = Change::NameMerchant {
        app_id: merchant.app_id,
        auth_app_id: merchant.auth_app_id,
        alias: Some("shop".parse().expect("an alias")),
    };
    parts.store.commit(vec![name]).await.expect("stored");
    parts.dispatcher.reconfigure(&config);
    assert_eq!(
        shop.next().await.header("alipay-event-id"),
        entry.id.to_string()
    );
}

/// Payments towards a path that nobody else uses.
pub(crate) async fn owe(running: &Running, path: &str, count: i64) {
    let changes = (0..count).map(|n| {
        let entry = InboxEntry {
            notify_path: path.to_owned(),
            ..crate::store::entry(NOW - count + n, None)
        };
        Change::Receive(Box::new(entry))
    });
    let committed = running.parts.store.commit(changes.collect()).await;
    committed.expect("stored");
    running.parts.dispatcher.wake();
}

pub(crate) fn route(path: &str, url: &str) -> DeliveryRoute {
    DeliveryRoute {
        url: url.to_owned(),
        path: Some(path.to_owned()),
        ..DeliveryRoute::default()
    }
}

#[tokio::test]
async fn however_much_has_no_route_the_rest_goes_out() {
    let mut backend = FakeBackend::new().await;
    let config = DeliveryConfig {
        routes: vec![route("/orders/*", &backend.url)],
        ..DeliveryConfig::default()
    };
    let running = running(config).await;
    owe(&running, "/nowhere", 1_200).await;
    let body = running.pay("T1").await;
    assert_eq!(backend.next().await.body, body);
    let counts = running.parts.store.counts().await.expect("readable");
    assert!(counts.pending >= 1_200);
}

fn of_t1(at: i64, path: &str) -> InboxEntry {
    let mut entry = crate::store::entry(NOW - 10 + at, None);
    path.clone_into(&mut entry.notify_path);
    entry.order_key = Some("T1".to_owned());
    entry
}

#[tokio::test]
async fn what_a_new_route_fits_goes_before_what_came_later_of_its_order() {
    let mut backend = FakeBackend::new().await;
    let with = |routes: &[&str]| DeliveryConfig {
        routes: routes
            .iter()
            .map(|path| route(path, &backend.url))
            .collect(),
        ..DeliveryConfig::default()
    };
    let (before, after) = (with(&["/orders/*"]), with(&["/late", "/orders/*"]));
    let running = running(before).await;
    let (store, dispatcher) = (&running.parts.store, &running.parts.dispatcher);
    let waiting = [of_t1(0, "/nowhere"), of_t1(1, "/late")];
    let [left, late] = waiting.each_ref().map(|entry| entry.id);
    let changes = waiting.map(|e| Change::Receive(Box::new(e)));
    store.commit(changes.into()).await.expect("stored");
    dispatcher.wake();
    let parked = async || store.parked(None, 10).await.expect("readable").of_an_order;
    let both = async {
        while parked().await != [left, late] {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let both = tokio::time::timeout(Duration::from_secs(30), both).await;
    both.expect("parked");
    dispatcher.reconfigure(&after);
    let newer = of_t1(2, "/orders/1");
    let newest = newer.id;
    store
        .commit(vec![Change::Receive(Box::new(newer))])
        .await
        .expect("stored");
    dispatcher.wake();
    for id in [late, newest] {
        let got = backend.next().await;
        assert_eq!(got.header("alipay-event-id"), id.to_string());
    }
    assert_eq!(parked().await, [left]);
}

/// Parked again and again, however often it is looked at, each would be written twice each time.
#[tokio::test]
async fn what_has_no_route_is_looked_at_again_without_a_write() {
    let mut backend = FakeBackend::new().await;
    let by_path = vec![route("/orders/*", &backend.url)];
    let by_merchant = DeliveryRoute {
        merchant: Some("shop".to_owned()),
        ..route("/nowhere", &backend.url)
    };
    let config = |routes| DeliveryConfig {
        routes,
        ..DeliveryConfig::default()
    };
    let running = running(config(by_path.clone())).await;
    let (store, dispatcher) = (&running.parts.store, &running.parts.dispatcher);
    running
        .parts
        .trigger(Event::PluginOrder, TriggerOptions::default())
        .await;
    let told = backend.next().await;
    assert!(told.body.contains("merchant.authorized"), "{}", told.body);
    let merchant = running.parts.merchant(FIRST_AUTH_APP_ID).await;
    let merchant = merchant.expect("stored");
    let left = InboxEntry {
        app_id: merchant.app_id.clone(),
        auth_app_id: Some(merchant.auth_app_id.clone()),
        ..of_t1(0, "/nowhere")
    };
    let id = left.id;
    let kept = store.commit(vec![Change::Receive(Box::new(left))]).await;
    kept.expect("stored");
    dispatcher.wake();
    let hour = NOW + 3_600_000;
    running.until(id, |d| d.next_attempt_at == hour).await;
    let shown = async || {
        let shown = alipay_sidecar::admin::inbox::show(store.as_ref(), &id.to_string()).await;
        let shown = shown.expect("kept");
        (shown.next_attempt_at, shown.waits_for_route)
    };
    // Nothing is attempted in an hour: it is looked at again.
    assert_eq!(shown().await, (Some(hour), true));
    let mut passed = 0;
    let mut look = async |ms: i64| {
        running.later(ms);
        // Its own turn came before, if it has one.
        passed += 1;
        running.pay(&format!("P{passed}")).await;
        let got = backend.next().await;
        assert!(got.body.contains(&format!("P{passed}")), "{}", got.body);
        let (_, delivery) = store.entry(id).await.expect("readable").expect("kept");
        delivery.next_attempt_at
    };
    assert_eq!(look(600_000).await, hour, "ten minutes passed");
    let mut slower = config(by_path.clone());
    slower.timeout = Duration::from_secs(7);
    dispatcher.reconfigure(&slower);
    assert_eq!(look(1_000).await, hour, "the same routes");
    let both = config([by_path, vec![by_merchant]].concat());
    dispatcher.reconfigure(&both);
    assert_eq!(look(1_000).await, hour, "the merchant has no name");
    assert_eq!(look(600_000).await, hour, "nor ten minutes later");
    let name = Change::NameMerchant {
        app_id: merchant.app_id,
        auth_app_id: merchant.auth_app_id,
        alias: Some("shop".parse().expect("an alias")),
    };
    store.commit(vec![name]).await.expect("stored");
    running.later(600_000);
    let got = backend.next().await;
    assert_eq!(got.header("alipay-event-id"), id.to_string());
    assert!(!shown().await.1, "it has one");
}

/// It isn't read meanwhile, and whoever runs this must see all the same that it waits.
#[cfg(feature = "cli")]
#[tokio::test]
async fn that_something_waits_for_a_route_is_told_every_ten_minutes() {
    let mut backend = FakeBackend::new().await;
    let log = tempfile::NamedTempFile::new().expect("a file");
    let written = log.reopen().expect("a file");
    let lines = tracing_subscriber::fmt().with_max_level(tracing::Level::WARN);
    let lines = lines.with_writer(Arc::new(written)).finish();
    crate::support::ask_every_subscriber();
    let _lines = tracing::subscriber::set_default(lines);
    let running = running(DeliveryConfig {
        routes: vec![route("/orders/*", &backend.url)],
        ..DeliveryConfig::default()
    })
    .await;
    let left = of_t1(0, "/nowhere");
    let id = left.id;
    let received = vec![Change::Receive(Box::new(left))];
    let kept = running.parts.store.commit(received).await;
    kept.expect("stored");
    running.parts.dispatcher.wake();
    let hour = NOW + 3_600_000;
    running.until(id, |d| d.next_attempt_at == hour).await;
    for told in [1, 2, 3] {
        let log = std::fs::read_to_string(log.path()).expect("text");
        let said = log.matches("no [[delivery.route]] fits").count();
        assert_eq!(said, told, "{log}");
        running.later(600_000);
        running.pay(&format!("P{told}")).await;
        backend.next().await;
    }
}

#[tokio::test]
async fn what_no_route_fits_holds_up_nothing_of_its_order() {
    let mut backend = FakeBackend::new().await;
    let config = DeliveryConfig {
        routes: vec![route("/orders/*", &backend.url)],
        ..DeliveryConfig::default()
    };
    let running = running(config).await;
    let [left, behind] = [of_t1(0, "/nowhere"), of_t1(1, "/nowhere")];
    let [first, second] = [of_t1(2, "/orders/1"), of_t1(3, "/orders/1")];
    let ids = [&first, &second].map(|entry| entry.id.to_string());
    let store = &running.parts.store;
    let apart = [left.id, behind.id];
    let changes = [left, behind, first, second].map(|e| Change::Receive(Box::new(e)));
    store.commit(changes.into()).await.expect("stored");
    running.parts.dispatcher.wake();
    for id in ids {
        assert_eq!(backend.next().await.header("alipay-event-id"), id);
    }
    let settled = async {
        while store.counts().await.expect("readable").pending > 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let settled = tokio::time::timeout(Duration::from_secs(30), settled).await;
    settled.expect("recorded");
    // Whoever pulls gets them in their order all the same.
    let claimable = async || store.claimable(NOW, 10, HashSet::new()).await;
    for id in apart {
        let found = claimable().await.expect("readable").now;
        assert_eq!(found.iter().map(|(e, _)| e.id).collect::<Vec<_>>(), [id]);
        let (since, until) = (NOW, NOW + 1_000);
        let lease = Lease { since, until };
        let claim = Change::Claim { id, lease };
        store.commit(vec![claim]).await.expect("stored");
        assert!(
            claimable().await.expect("readable").now.is_empty(),
            "leased"
        );
        let done = Change::Settle {
            id,
            attempt: lease.ended(NOW, None),
            owed_since: None,
            settlement: Settlement::Delivered,
        };
        store.commit(vec![done]).await.expect("stored");
    }
}

#[tokio::test]
async fn a_backend_that_hangs_holds_up_no_other() {
    let mut backend = FakeBackend::new().await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let hangs = format!("http://{}/", silent.local_addr().expect("bound"));
    let config = DeliveryConfig {
        routes: vec![route("/hangs", &hangs), route("/orders/*", &backend.url)],
        timeout: Duration::from_secs(60),
        ..DeliveryConfig::default()
    };
    let running = running(config).await;
    owe(&running, "/hangs", 200).await;
    let body = running.pay("T1").await;
    assert_eq!(backend.next().await.body, body);
}

#[tokio::test]
async fn without_a_url_everything_stays_until_one_is_set() {
    let mut backend = FakeBackend::new().await;
    let running = running(DeliveryConfig::default()).await;
    let body = running.pay("T1").await;
    let (_, delivery) = running.parts.inbox().await.remove(0);
    assert_eq!(delivery.attempts, 0);
    running.parts.dispatcher.reconfigure(&to(&backend));
    assert_eq!(backend.next().await.body, body);
}

#[tokio::test]
async fn a_backend_that_is_away_or_slow_is_tried_again() {
    let mut config = DeliveryConfig {
        url: Some(format!("http://127.0.0.1:{}/", crate::support::free_port())),
        ..DeliveryConfig::default()
    };
    let running = running(config.clone()).await;
    running.pay("T1").await;
    let (entry, _) = running.parts.inbox().await.remove(0);
    let refused = running.until(entry.id, |d| d.attempts == 1).await;
    assert_eq!(refused.history[0].error, Some(AttemptError::Connect));
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let address = format!("http://{}/events", silent.local_addr().expect("bound"));
    config.url = Some(format!("{address}?key=not-shown"));
    config.timeout = Duration::from_millis(50);
    running.parts.dispatcher.reconfigure(&config);
    running.later(1200);
    let slow = running.until(entry.id, |d| d.attempts == 2).await;
    assert_eq!(slow.history[1].error, Some(AttemptError::Timeout));
    // Where each went stands with it, though the backend has moved.
    assert_ne!(slow.history[0].to, slow.history[1].to);
    assert_eq!(slow.history[1].to, Some(address));
}

#[tokio::test]
async fn a_shutdown_lets_attempts_end_and_their_settlements_be_stored() {
    const OWED: usize = 20;
    let backend = Held::new(200).await;
    let running = running(backend.alone()).await;
    for n in 0..OWED {
        running.pay(&format!("T{n}")).await;
    }
    more(&backend.came, OWED - 1).await;
    running.end.trigger();
    backend.let_go.add_permits(OWED);
    running.ended.await.expect("no panic");
    let delivered = running.parts.inbox().await;
    let delivered = delivered
        .iter()
        .filter(|(_, d)| d.state == DeliveryState::Delivered);
    assert_eq!(delivered.count(), OWED);
}

#[tokio::test]
async fn a_shutdown_waits_for_no_timeout_of_a_minute() {
    let backend = Held::new(200).await;
    let running = running(DeliveryConfig {
        timeout: Duration::from_secs(60),
        ..backend.alone()
    })
    .await;
    running.pay("T1").await;
    more(&backend.came, 0).await;
    hold_time();
    running.end.trigger();
    pass(Duration::from_secs(19)).await;
    assert!(!running.ended.is_finished(), "it may still be answered");
    // When it was heard on a busy machine nobody knows; that it was by now is sure.
    pass(Duration::from_secs(21)).await;
    until("it has ended", || running.ended.is_finished()).await;
    let (_, delivery) = running.parts.inbox().await.remove(0);
    let expected = (DeliveryState::Pending, 0);
    assert_eq!(
        (delivery.state, delivery.attempts),
        expected,
        "it is owed as before"
    );
}

/// Lets held time pass, and everybody have a turn.
async fn pass(time: Duration) {
    tokio::time::advance(time).await;
    let turn = std::time::Instant::now();
    while turn.elapsed() < Duration::from_millis(100) {
        tokio::task::yield_now().await;
    }
}

/// A backend that answers what comes with `status`, but only what it is let go.
struct Held {
    url: String,
    came: Arc<AtomicUsize>,
    let_go: Arc<Semaphore>,
    _running: ShutdownTrigger,
}

impl Held {
    async fn new(status: u16) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a port");
        let url = format!("http://{}/", listener.local_addr().expect("bound"));
        let (came, let_go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let (count, gate) = (Arc::clone(&came), Arc::clone(&let_go));
        let handle = move |_: Request<RequestBody>| {
            let (count, gate) = (Arc::clone(&count), Arc::clone(&gate));
            async move {
                count.fetch_add(1, Ordering::SeqCst);
                gate.acquire().await.expect("never closed").forget();
                let mut response = Response::new(Full::new(Bytes::from_static(b"success")));
                *response.status_mut() = status.try_into().expect("a status");
                response
            }
        };
        let (running, shutdown) = Shutdown::new();
        tokio::spawn(serve(Listener::from_tcp(listener), None, handle, shutdown));
        Self {
            url,
            came,
            let_go,
            _running: running,
        }
    }

    /// All goes to it.
    fn alone(&self) -> DeliveryConfig {
        DeliveryConfig {
            url: Some(self.url.clone()),
            ..DeliveryConfig::default()
        }
    }
}

/// A backend that never answers what is owed to the order `hangs`, and fails another.
async fn picky(hangs: &'static str, fails: &'static str) -> (String, Arc<Mutex<usize>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("bound"));
    let taken = Arc::new(Mutex::new(0));
    let count = Arc::clone(&taken);
    let handle = move |request: Request<RequestBody>| {
        let count = Arc::clone(&count);
        async move {
            let body = request.into_body().collect().await.expect("whole");
            let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
            if body.ends_with(hangs) {
                std::future::pending::<()>().await;
            }
            if body.ends_with(fails) {
                return Response::new(Full::new(Bytes::from_static(b"fail")));
            }
            *count.lock().expect("no panic") += 1;
            Response::new(Full::new(Bytes::from_static(b"success")))
        }
    };
    let (trigger, shutdown) = Shutdown::new();
    tokio::spawn(async move {
        serve(Listener::from_tcp(listener), None, handle, shutdown).await;
        drop(trigger);
    });
    (url, taken)
}

/// A payment of the order `key`.
fn of_order(n: i64, key: &str) -> InboxEntry {
    let mut entry = crate::store::entry(NOW - 10_000 + n, None);
    entry.order_key = Some(key.to_owned());
    let body = entry.body.as_mut().expect("kept");
    body.bytes = format!("out_trade_no={key}").into();
    entry
}

#[tokio::test]
async fn one_order_that_hangs_and_one_that_fails_hold_up_no_other() {
    let (url, taken) = picky("=HANGS", "=FAILS").await;
    let config = DeliveryConfig {
        url: Some(url),
        timeout: Duration::from_secs(60),
        ..DeliveryConfig::default()
    };
    let running = running(config).await;
    let mut entries: Vec<_> = (0..20)
        .flat_map(|n| [of_order(n, "HANGS"), of_order(n, "FAILS")])
        .collect();
    entries.extend((20..1_020).map(|n| of_order(n, &format!("T{n}"))));
    let changes = entries.into_iter().map(|e| Change::Receive(Box::new(e)));
    let committed = running.parts.store.commit(changes.collect()).await;
    committed.expect("stored");
    running.parts.dispatcher.wake();
    let drained = async {
        while *taken.lock().expect("no panic") < 1_000 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let drained = tokio::time::timeout(Duration::from_secs(60), drained).await;
    drained.expect("all other orders are taken");
    let attempted = running.parts.inbox().await;
    let attempted = attempted.iter().filter(|(_, d)| d.attempts > 0);
    assert!(attempted.count() <= 100, "only the first of each is tried");
}

#[tokio::test]
async fn a_backend_gets_no_more_at_once_than_its_route_allows() {
    let (open, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("bound"));
    let (now, peak) = (Arc::clone(&open), Arc::clone(&most));
    let handle = move |_: Request<RequestBody>| {
        let (now, peak) = (Arc::clone(&now), Arc::clone(&peak));
        async move {
            peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(5)).await;
            now.fetch_sub(1, Ordering::SeqCst);
            Response::new(Full::new(Bytes::from_static(b"success")))
        }
    };
    let (_end, shutdown) = Shutdown::new();
    tokio::spawn(serve(Listener::from_tcp(listener), None, handle, shutdown));
    let config = DeliveryConfig {
        routes: vec![DeliveryRoute {
            concurrency: Some(3),
            ..route("/orders", &url)
        }],
        ..DeliveryConfig::default()
    };
    let running = running(config).await;
    owe(&running, "/orders", 60).await;
    let all = async {
        while running.parts.count(ATTEMPTS, "delivered") < 60.0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), all)
        .await
        .expect("taken");
    assert_eq!(most.load(Ordering::SeqCst), 3);
}

/// A backend that takes half a second for each, and how many came.
async fn unhurried() -> (String, Arc<AtomicUsize>, ShutdownTrigger) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("bound"));
    let came = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&came);
    let handle = move |_: Request<RequestBody>| {
        let count = Arc::clone(&count);
        async move {
            count.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(500)).await;
            Response::new(Full::new(Bytes::from_static(b"success")))
        }
    };
    let (end, shutdown) = Shutdown::new();
    tokio::spawn(serve(Listener::from_tcp(listener), None, handle, shutdown));
    (url, came, end)
}

/// Waits until more than `than` came.
async fn more(came: &AtomicUsize, than: usize) {
    let more = async {
        while came.load(Ordering::SeqCst) <= than {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let more = tokio::time::timeout(Duration::from_secs(20), more).await;
    more.expect("it goes on");
}

#[tokio::test]
async fn a_busy_backend_with_a_backlog_keeps_no_other_waiting() {
    let mut backend = FakeBackend::new().await;
    let (url, came, _end) = unhurried().await;
    let config = DeliveryConfig {
        routes: vec![route("/busy", &url), route("/orders/*", &backend.url)],
        ..DeliveryConfig::default()
    };
    let running = running(config).await;
    owe(&running, "/busy", 2_000).await;
    more(&came, 0).await;
    let body = running.pay("T1").await;
    assert_eq!(backend.next().await.body, body);
    let until_then = came.load(Ordering::SeqCst);
    assert!(until_then < 1_000, "{until_then}");
    // What stepped back has its turn; what steps back again meanwhile, because places become free one
    // by one, has it later.
    let turns = async {
        loop {
            running.later(60_000);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        () = more(&came, until_then + 32) => {}
        () = turns => {}
    }
}

#[tokio::test]
async fn what_is_replayed_during_its_last_attempt_is_not_given_up() {
    let backend = Held::new(500).await;
    let config = DeliveryConfig {
        give_up_after: Duration::from_secs(1),
        ..backend.alone()
    };
    let running = running(config).await;
    let entry = crate::store::entry(NOW - 10_000, None);
    let id = entry.id;
    let store = &running.parts.store;
    let receive = Change::Receive(Box::new(entry));
    store.commit(vec![receive]).await.expect("stored");
    running.parts.dispatcher.wake();
    more(&backend.came, 0).await;
    // There is a second one at least, however long it has been owed.
    backend.let_go.add_permits(1);
    running.until(id, |d| d.attempts == 1).await;
    running.later(1_200);
    more(&backend.came, 1).await;
    // Else the next attempt, at the same moment, could be taken for the same one.
    running.parts.clock.advance_ms(100);
    let now = NOW + 1_300;
    let replay = Change::Replay { id, now };
    store.commit(vec![replay]).await.expect("stored");
    backend.let_go.add_permits(1);
    let delivery = running.until(id, |d| d.history.len() == 2).await;
    assert_eq!(delivery.state, DeliveryState::Pending);
    assert_eq!((delivery.attempts, delivery.owed_since), (0, now));
    // The next one is made once the second has been counted, whatever it counts as.
    more(&backend.came, 2).await;
    assert_eq!(given_up(&running.parts), 0.0);
    backend.let_go.add_permits(2);
    running.until(id, |d| d.attempts == 1).await;
    running.later(1_000);
    let dead = running.until(id, |d| d.state == DeliveryState::Dead).await;
    assert_eq!(dead.attempts, 2);
    let counted = async {
        while given_up(&running.parts) < 1.0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let counted = tokio::time::timeout(Duration::from_secs(10), counted).await;
    counted.expect("what died for good is counted");
    assert_eq!(given_up(&running.parts), 1.0);
}

/// A push of what was claimed twice, under way since the second lease ended; patience ended with that, and the
/// dispatcher has looked at leases that ended since.
async fn pushed_after_its_last_lease() -> (Held, Running, EventId) {
    let backend = Held::new(200).await;
    let config = DeliveryConfig {
        give_up_after: Duration::from_secs(10),
        ..backend.alone()
    };
    let running = running(config).await;
    let (first, second) = (of_order(0, "A"), of_order(1, "A"));
    let id = first.id;
    let claim = |since, until| Change::Claim {
        id,
        lease: Lease { since, until },
    };
    let changes = vec![
        Change::Receive(Box::new(first)),
        Change::Receive(Box::new(second)),
        claim(NOW - 9_000, NOW - 5_000),
        claim(NOW - 5_000, NOW + 500),
    ];
    let store = &running.parts.store;
    store.commit(changes).await.expect("stored");
    // When this is pushed the dispatcher has looked for leases that ended.
    let marker = async |n| {
        let marker = crate::store::entry(NOW - n, None);
        let receive = Change::Receive(Box::new(marker));
        store.commit(vec![receive]).await.expect("stored");
    };
    marker(2).await;
    running.parts.dispatcher.wake();
    more(&backend.came, 0).await;
    // It does once a second, and finds it due first.
    running.later(600);
    more(&backend.came, 1).await;
    marker(1).await;
    running.later(1_000);
    more(&backend.came, 2).await;
    (backend, running, id)
}

/// The push ends with `success`: that counts, once, and what waits for it follows.
async fn is_taken((backend, running, id): (Held, Running, EventId)) {
    assert_eq!(backend.came.load(Ordering::SeqCst), 3, "the rest waits");
    backend.let_go.add_permits(4);
    let settled = running.until(id, |d| d.history.len() == 3).await;
    assert_eq!(settled.state, DeliveryState::Delivered);
    let errors: Vec<_> = settled.history.iter().map(|a| a.error).collect();
    let expired = Some(AttemptError::LeaseExpired);
    assert_eq!(errors, [expired, expired, None]);
    assert_eq!(settled.attempts, 3);
    more(&backend.came, 3).await;
    assert_eq!(running.parts.count(ATTEMPTS, "lease-expired"), 1.0);
    assert_eq!(given_up(&running.parts), 0.0);
}

#[tokio::test]
async fn what_is_being_pushed_is_not_given_up_for_the_lease_before() {
    let (backend, running, id) = pushed_after_its_last_lease().await;
    let state = running.until(id, |_| true).await.state;
    assert_eq!(state, DeliveryState::Pending);
    is_taken((backend, running, id)).await;
}

#[tokio::test]
async fn a_late_word_that_it_failed_ends_no_push() {
    let (backend, running, id) = pushed_after_its_last_lease().await;
    let puller = running.parts.dispatcher.puller();
    puller.nack(id, None).await.expect("nothing to do");
    let refused = puller.nack(id, Some(2)).await;
    assert!(matches!(refused, Err(PullError::NotLeased(_))));
    let state = running.until(id, |_| true).await.state;
    assert_eq!(state, DeliveryState::Pending);
    is_taken((backend, running, id)).await;
}

#[tokio::test]
async fn what_was_stored_for_a_sender_who_left_is_delivered_at_once() {
    let backend = Held::new(200).await;
    let running = running(backend.alone()).await;
    let platform = Platform::new();
    running.parts.believe(keys::public("alipay2048"));
    backend.let_go.add_permits(2);
    // From then on how much is pending is known without a question.
    let first = platform.payment("1", "A");
    let (status, _) = running.parts.post("/alipay/notify", &first.body).await;
    assert_eq!(status, StatusCode::OK);
    more(&backend.came, 0).await;
    let entries = running.parts.inbox().await;
    running
        .until(entries[0].0.id, |d| d.state == DeliveryState::Delivered)
        .await;

    let second = platform.payment("2", "B");
    {
        let posted = running.parts.post("/alipay/notify", &second.body);
        let mut posted = std::pin::pin!(posted);
        assert!(posted.as_mut().now_or_never().is_none(), "it is written");
        while running.parts.inbox().await.len() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    more(&backend.came, 1).await;
}

/// How many deliveries were given up.
fn given_up(parts: &Parts) -> f64 {
    const GIVEN_UP: &str = "alipay_sidecar_deliveries_given_up_total";
    let families = parts.registry.gather();
    let family = families.iter().find(|family| family.name() == GIVEN_UP);
    let given_up = family.expect("registered").get_metric().iter();
    given_up.map(|m| m.get_counter().get_value()).sum()
}

/// Two routes whose backend says 2xx, but not `success`: each is told of once.
#[cfg(feature = "cli")]
#[tokio::test]
async fn a_backend_that_never_says_success_is_told_of_once_for_each_route() {
    let backend = FakeBackend::new().await;
    backend.answer(200, "ok");
    let log = tempfile::NamedTempFile::new().expect("a file");
    let written = log.reopen().expect("a file");
    let lines = tracing_subscriber::fmt().with_max_level(tracing::Level::WARN);
    let lines = lines.with_writer(Arc::new(written)).finish();
    // What the test's own thread says: the dispatcher runs on it.
    crate::support::ask_every_subscriber();
    let _lines = tracing::subscriber::set_default(lines);
    let config = DeliveryConfig {
        routes: vec![route("/one", &backend.url), route("/other", &backend.url)],
        ..DeliveryConfig::default()
    };
    let running = running(config).await;
    owe(&running, "/one", 1).await;
    owe(&running, "/other", 1).await;
    for attempts in [1, 2] {
        for (entry, _) in running.parts.inbox().await {
            let delivery = running.until(entry.id, |d| d.attempts == attempts).await;
            let last = delivery.history.last().expect("an attempt");
            assert_eq!(last.error, Some(AttemptError::NotSuccess));
        }
        running.later(1_200);
    }
    assert_eq!(running.parts.count(ATTEMPTS, "not-success"), 4.0);
    running.end.trigger();
    running.ended.await.expect("no panic");
    let log = std::fs::read_to_string(log.path()).expect("text");
    assert_eq!(log.matches("but not `success`").count(), 2, "{log}");
}
