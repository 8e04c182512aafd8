//! `proxy.reply_signature = "local"`: deliveries under the install key, and Alipay's key changed
//! under load.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use alipay_sidecar::config::delivery::AuthorizationDelivery;
use alipay_sidecar::protocol::charset::Charset;
use alipay_sidecar::protocol::encryption::ContentKey;
use alipay_sidecar::protocol::key::AppPrivateKey;
use alipay_sidecar::protocol::notification::{Notification, UnverifiedNotification};
use alipay_sidecar::protocol::params::Params;
use alipay_sidecar::protocol::sign_content::{self, EmptyValues, Scheme};
use alipay_sidecar::protocol::signature::SignType;
use alipay_sidecar::simulator::{
    DEFAULT_APP_ID, Event, NotificationRecord, NotificationState, Simulator, TriggerOptions,
};
use http::Request;

use crate::certificates::certified;
use crate::local_signature::{
    CONTENT_KEY, ORDER, QUERY, QUERY_V3, backends_keys, check_v3, encrypted, local, post, verified,
};
use crate::support::backend::Seen;
use crate::support::{TestSidecar, json, keys, text};

async fn trigger(
    sidecar: &TestSidecar,
    event: Event,
    change: TriggerOptions,
) -> NotificationRecord {
    let options = TriggerOptions {
        attempts: Some(1),
        wait: true,
        ..change
    };
    let sent = sidecar.simulator.trigger(event, &options).await;
    let sent = sent.expect("sent");
    assert_eq!(sent.state, NotificationState::Acked, "{:?}", sent.attempts);
    sent
}

/// Reads a delivery as a handler written for Alipay does, with the install's key.
fn read(seen: &Seen) -> Notification {
    let notification = UnverifiedNotification::parse(Some(seen.header("content-type")), &seen.body);
    let notification = notification.expect("a form");
    let body = String::from_utf8_lossy(&seen.body);
    let verified = notification.verify(&backends_keys(), SignType::Rsa2);
    verified.unwrap_or_else(|error| panic!("{error}: {body}"))
}

/// The parameters but those that a new signature changes.
fn said(params: &Params) -> Vec<(String, String)> {
    let changed = ["sign", "alipay_cert_sn"];
    let kept = params.iter().filter(|(name, _)| !changed.contains(name));
    kept.map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

#[tokio::test]
async fn a_notification_is_delivered_with_the_same_parameters_in_its_charset() {
    let sidecar = TestSidecar::start_before(|simulator, config| {
        certified(simulator, config);
        local(config);
    })
    .await;
    for label in ["utf-8", "GBK", "gb2312"] {
        let options = TriggerOptions {
            charset: Some(label.to_owned()),
            params: [("subject".to_owned(), "乗亇 中文+&=%2B€".to_owned())].into(),
            url: Some(format!("{}/alipay/notify/orders/42", sidecar.webhook)),
            ..TriggerOptions::default()
        };
        let sent = trigger(&sidecar, Event::Payment, options).await;
        let seen = sidecar.backend.next().await;
        let read = read(&seen);
        assert_eq!(read.scheme(), Scheme::V1);
        assert_eq!(read.params().get("sign_type"), Some("RSA2"));
        assert_eq!(read.params().get("alipay_cert_sn"), None);
        let charset = Charset::from_label(label).expect("a charset");
        let before = Params::from_form(sent.body.as_bytes(), charset).expect("a form");
        assert_eq!(said(read.params()), said(&before));
        assert_ne!(read.params().get("sign"), before.get("sign"));
    }
}

#[tokio::test]
async fn a_notification_that_was_signed_with_its_sign_type_is_signed_so_again() {
    let sidecar = TestSidecar::start_with(local).await;
    let mut params = Params::new();
    for (name, value) in [
        ("app_id", DEFAULT_APP_ID),
        ("notify_id", "old-product-1"),
        ("notify_type", "old_product"),
        ("refund_fee", ""),
        ("sign_type", "RSA2"),
    ] {
        params.set(name, value);
    }
    let content = sign_content::notification(&params, Scheme::V2, EmptyValues::Kept);
    let key = AppPrivateKey::from_text(&keys::private("alipay2048")).expect("a key");
    let sign = key.sign(SignType::Rsa2, content.as_bytes());
    params.set("sign", sign.expect("signed"));
    let request = Request::post("/alipay/notify/old")
        .header("content-type", "application/x-www-form-urlencoded");
    let body = params.to_form(Charset::Utf8).expect("UTF-8");
    let reply = sidecar.webhook(request, body).await;
    assert_eq!(text(&reply), "success");
    let read = read(&sidecar.backend.next().await);
    assert_eq!(read.scheme(), Scheme::V2);
    // An empty value is left out: whether it is signed, the SDKs disagree.
    assert_eq!(read.params().get("refund_fee"), None);
}

#[tokio::test]
async fn an_encrypted_notification_stays_encrypted() {
    let sidecar = TestSidecar::start_before(|simulator, config| {
        encrypted(simulator, config);
        config.delivery.authorization = AuthorizationDelivery::Verbatim;
    })
    .await;
    let options = TriggerOptions {
        encrypted: true,
        ..TriggerOptions::default()
    };
    let sent = trigger(&sidecar, Event::PluginOrder, options).await;
    let read = read(&sidecar.backend.next().await);
    assert!(read.is_encrypted());
    let before = Params::from_form(sent.body.as_bytes(), Charset::Utf8).expect("a form");
    assert_eq!(said(read.params()), said(&before));
    let key = ContentKey::from_base64(CONTENT_KEY).expect("a key");
    let opened = read.open(&key).expect("ours");
    assert!(opened.authorization().is_some());
}

#[tokio::test]
async fn a_verbatim_authorisation_is_signed_too_and_an_event_is_json() {
    let sidecar = TestSidecar::start_with(|config| {
        config.delivery.authorization = AuthorizationDelivery::Both;
        local(config);
    })
    .await;
    trigger(&sidecar, Event::PluginOrder, TriggerOptions::default()).await;
    let deliveries = [sidecar.backend.next().await, sidecar.backend.next().await];
    let is_json = |seen: &&Seen| seen.header("content-type") == "application/json";
    let (events, forms): (Vec<_>, Vec<_>) = deliveries.iter().partition(is_json);
    assert_eq!(events[0].json()["type"], "merchant.authorized");
    assert!(read(forms[0]).authorization().is_some());
}

/// How many calls are made between two changes, at the least.
const BETWEEN: u32 = 16;

/// Makes calls on both dialects until told to end, and verifies each as a backend does.
async fn call_on(sidecar: &TestSidecar, done: &AtomicU32, end: &AtomicBool) {
    while !end.load(Ordering::Relaxed) {
        let (v2, v3) = tokio::join!(
            post(sidecar, QUERY, ""),
            sidecar.post(QUERY_V3, r#"{"out_trade_no":"1"}"#),
        );
        assert_eq!(verified(&v2, QUERY).code(), Some("10000"), "{}", text(&v2));
        assert_eq!(v3.status, 200, "{}", text(&v3));
        check_v3(&v3);
        done.fetch_add(2, Ordering::Relaxed);
    }
}

/// Changes Alipay's key or certificate three times under load.
#[expect(clippy::print_stdout, reason = "the number of calls is the proof")]
async fn check_change(sidecar: TestSidecar, change: impl Fn(&Simulator, usize)) {
    let created = sidecar.post("/v2/alipay.trade.create", ORDER).await;
    assert_eq!(json(&created)["code"], "10000", "{}", text(&created));
    let (done, end) = (AtomicU32::new(0), AtomicBool::new(false));
    let go_on = async || {
        let enough = done.load(Ordering::Relaxed) + BETWEEN;
        while done.load(Ordering::Relaxed) < enough {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    let changes = async {
        for turn in 0..3 {
            go_on().await;
            change(&sidecar.simulator, turn);
        }
        go_on().await;
        end.store(true, Ordering::Relaxed);
    };
    let callers = futures_util::future::join_all((0..4).map(|_| call_on(&sidecar, &done, &end)));
    tokio::join!(callers, changes);
    let done = done.into_inner();
    println!("{done} calls verified with one key, 0 failed");
}

#[tokio::test]
async fn no_backend_notices_when_alipays_key_changes() {
    let platform = AppPrivateKey::generate(2048).expect("a key");
    let public_key = platform.public_key().to_bare_base64();
    let sidecar = TestSidecar::start_with(|config| {
        config.apps[0].alipay_public_keys.push(public_key);
        local(config);
    });
    let both = [
        platform.to_pkcs8_pem().expose().clone(),
        keys::private("alipay2048"),
    ];
    check_change(sidecar.await, |simulator, turn| {
        simulator.set_platform_key(&both[turn % 2]).expect("a key");
    })
    .await;
}

#[tokio::test]
async fn no_backend_notices_when_alipays_certificate_changes() {
    let sidecar = TestSidecar::start_before(|simulator, config| {
        certified(simulator, config);
        local(config);
    });
    check_change(sidecar.await, |simulator, _| {
        simulator
            .rotate_platform_certificate()
            .expect("certificates");
    })
    .await;
}
