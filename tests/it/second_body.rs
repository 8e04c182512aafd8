//! A second body under one `notify_id`: acked, kept, flagged, and never delivered.

use alipay_sidecar::protocol::diagnosis;
use alipay_sidecar::protocol::signature::SignType;
use alipay_sidecar::simulator::{Event, NotificationRecord, NotificationState, TriggerOptions};
use alipay_sidecar::store::Inbox as _;
use http::{Method, StatusCode};
use serde_json::Value;

use crate::parts::{Parts, Setting, key};
use crate::quarantine::{api, from, trigger};
use crate::support::{TestSidecar, isv};

/// The notification once more, changed, and signed by the platform.
pub(crate) fn signed_again(sent: &NotificationRecord, changes: &[(&str, &str)]) -> String {
    let mut params = isv::decode(&sent.body);
    for &(name, value) in changes {
        params.insert(name.to_owned(), value.to_owned());
    }
    let key = diagnosis::private_key(&key("platform")).expect("a key");
    let content = isv::content(&params, &["sign", "sign_type"]);
    let sign = key.sign(SignType::Rsa2, content.as_bytes());
    params.insert("sign".to_owned(), sign.expect("signed"));
    isv::form(&params)
}

#[tokio::test]
async fn a_second_body_under_one_id_is_acked_kept_and_flagged_but_not_delivered() {
    let parts = Parts::new(Setting::default()).await;
    let sent = parts
        .trigger(Event::Payment, TriggerOptions::default())
        .await;
    assert_eq!(sent.state, NotificationState::Acked);
    let resend = signed_again(&sent, &[("notify_time", "2026-11-22 17:00:00")]);
    let second = signed_again(&sent, &[("total_amount", "0.01"), ("extra", "new")]);
    let second_resent = signed_again(
        &sent,
        &[
            ("total_amount", "0.01"),
            ("extra", "new"),
            ("notify_time", "2026-11-22 17:00:00"),
        ],
    );
    for (body, flagged) in [(resend, 0), (second.clone(), 1), (second_resent, 1)] {
        let answer = from(&parts, "203.0.113.7", &body).await;
        assert_eq!(answer, (StatusCode::OK, "success".to_owned()), "{body}");
        let name = "alipay_sidecar_notifications_total";
        let count = parts.count(name, "duplicate-differs");
        assert!((count - f64::from(flagged)).abs() < 0.1, "{count}");
    }
    let inbox = parts.inbox().await;
    let [(entry, _)] = inbox.as_slice() else {
        panic!("{} entries", inbox.len());
    };
    assert_eq!(entry.body.as_ref().expect("kept").bytes, sent.body);
    let variants = parts.store.variants(entry.id).await.expect("readable");
    let [variant] = variants.as_slice() else {
        panic!("{variants:?}");
    };
    assert_eq!(variant.differs, ["extra", "total_amount"]);
    assert_eq!(variant.body.bytes, second);
}

#[tokio::test]
async fn a_second_body_is_shown_beside_the_first() {
    let sidecar = TestSidecar::start().await;
    let id = ("notify_id", "2026112200000000000000000000000001");
    let first = trigger(&sidecar, &[id]).await;
    assert_eq!(sidecar.backend.next().await.body, first.body);
    let second = trigger(&sidecar, &[id, ("subject", "other")]).await;
    assert_eq!(second.state, NotificationState::Acked);
    let page = api(&sidecar, Method::GET, "/api/inbox?state=delivered").await;
    let event = page["items"][0]["id"].as_str().expect("an id").to_owned();
    let shown = api(&sidecar, Method::GET, &format!("/api/inbox/{event}")).await;
    let variants = shown["variants"].as_array().expect("variants");
    assert_eq!(variants.len(), 1);
    assert_eq!(variants[0]["params"]["subject"], "other");
    let differs = variants[0]["differs"].as_array().expect("names");
    assert!(differs.contains(&Value::from("subject")), "{differs:?}");
    assert!(sidecar.backend.is_quiet().await);
}
