//! What the webhook refused: kept, explained, verified again, delivered.

use std::collections::BTreeMap;
use std::sync::Arc;

use alipay_sidecar::clock::{Clock as _, SystemClock};
use alipay_sidecar::config::Config;
use alipay_sidecar::config::listen::Listen;
use alipay_sidecar::model::delivery::{DeliveryState, Settlement};
use alipay_sidecar::model::merchant::Merchant;
use alipay_sidecar::model::refused::{RefusalKind, RefusedNotification};
use alipay_sidecar::net::listener::{Listener, Peer};
use alipay_sidecar::sidecar::Listeners;
use alipay_sidecar::simulator::{
    Event, FIRST_AUTH_APP_ID, NotificationRecord, NotificationState, Simulator, TriggerOptions,
};
use alipay_sidecar::store::{Change, Inbox as _, Store};
use alipay_sidecar::webhook::reverify::ReverifyOutcome;
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tower_service::Service;

use crate::local_signature::encrypted;
use crate::parts::{NOW, Parts, Setting, whole};
use crate::second_body::signed_again;
use crate::store::Fixture;
use crate::support::brittle::BrittleStore;
use crate::support::{TestSidecar, bound, isv, json, keys, text};

const REFUSED: &str = "alipay_sidecar_inbox_refused";
const DROPPED: &str = "alipay_sidecar_inbox_refused_dropped_total";
const DAY: i64 = 24 * 3600 * 1000;

/// A sidecar over a store that outlives it.
async fn start(store: &Arc<dyn Store>, change: impl FnOnce(&mut Config)) -> TestSidecar {
    let store = Arc::clone(store);
    TestSidecar::start_built(change, |_, builder| builder.store(store)).await
}

/// Another platform's key in the place of Alipay's.
fn wrong_key(config: &mut Config) {
    config.apps[0].alipay_public_keys = vec![keys::public("alipay2048_other")];
}

pub(crate) async fn trigger(sidecar: &TestSidecar, params: &[(&str, &str)]) -> NotificationRecord {
    let params = params.iter().map(|&(n, v)| (n.to_owned(), v.to_owned()));
    let options = TriggerOptions {
        attempts: Some(1),
        wait: true,
        url: Some(format!(
            "{}/alipay/notify/orders/42?shop=5",
            sidecar.webhook
        )),
        params: params.collect::<BTreeMap<_, _>>(),
        ..TriggerOptions::default()
    };
    let sent = sidecar.simulator.trigger(Event::Payment, &options).await;
    sent.expect("sent")
}

/// Posts a form to the webhook; gives the answer.
async fn post(sidecar: &TestSidecar, body: &str) -> (u16, String) {
    let request = Request::post("/alipay/notify/orders/42")
        .header("content-type", "application/x-www-form-urlencoded");
    let reply = sidecar.webhook(request, body.to_owned()).await;
    (reply.status.as_u16(), text(&reply))
}

pub(crate) async fn api(sidecar: &TestSidecar, method: Method, path: &str) -> Value {
    let reply = sidecar.admin(method, path, "").await;
    assert_eq!(reply.status, StatusCode::OK, "{path}: {}", text(&reply));
    json(&reply)
}

async fn refused(sidecar: &TestSidecar) -> Vec<Value> {
    let page = api(sidecar, Method::GET, "/api/inbox?state=refused").await;
    page["items"].as_array().expect("a list").clone()
}

async fn reverify(sidecar: &TestSidecar) -> Value {
    api(sidecar, Method::POST, "/api/inbox/reverify").await
}

#[tokio::test]
async fn what_a_wrong_key_refused_is_delivered_byte_for_byte_once_the_key_is_mended() {
    let fixture = Fixture::embedded();
    let sidecar = start(&fixture.store, wrong_key).await;
    let sent = trigger(&sidecar, &[("subject", "茶 & 点心 +%2B")]).await;
    assert_ne!(sent.state, NotificationState::Acked);
    sidecar.wait_for_metric(REFUSED, 1.0).await;
    let items = refused(&sidecar).await;
    let [item] = items.as_slice() else {
        panic!("{items:?}");
    };
    assert_eq!(item["state"], "refused");
    assert_eq!(item["attempts"], 0);
    assert_eq!(item["app_id"], "2021000000000001");
    assert_eq!(item["notify_id"], sent.notify_id);
    assert_eq!(item["type"], "trade_status_sync");
    let id = item["id"].as_str().expect("an id").to_owned();

    let shown = api(
        &sidecar,
        Method::GET,
        &format!("/api/inbox/{id}?explain=true"),
    )
    .await;
    assert_eq!(shown["refusal"]["kind"], "forged");
    assert_eq!(shown["refusal"]["peer"], "127.0.0.1");
    assert_eq!(shown["refusal"]["times"], 1);
    assert_eq!(shown["refusal"]["body_bytes"], sent.body.len());
    assert_eq!(shown["notify_path"], "/orders/42");
    assert_eq!(shown["notify_query"], "shop=5");
    assert_eq!(shown["params"]["subject"], "茶 & 点心 +%2B");
    assert_eq!(shown["explanation"]["verified"], false);
    let cause = shown["explanation"]["causes"][0]["cause"].as_str();
    assert!(cause.expect("a cause").contains("key"), "{shown}");

    // The whole inbox doesn't show it, and with the same key it stays refused.
    let all = api(&sidecar, Method::GET, "/api/inbox").await;
    assert!(all["items"].as_array().expect("a list").is_empty());
    let report = reverify(&sidecar).await;
    assert_eq!(report["refused"], 1, "{report}");
    assert_eq!(report["items"][0]["id"], id);
    assert_eq!(refused(&sidecar).await.len(), 1);
    sidecar.stop();
    drop(sidecar);

    let sidecar = start(&fixture.store, |_| ()).await;
    assert_eq!(
        refused(&sidecar).await.len(),
        1,
        "nothing happens by itself"
    );
    let report = reverify(&sidecar).await;
    assert_eq!(report["accepted"], 1, "{report}");
    let seen = sidecar.backend.next().await;
    assert_eq!(seen.body, sent.body);
    assert_eq!(seen.header("alipay-event-id"), id, "the id stays");
    assert_eq!(seen.header("alipay-notify-path"), "/orders/42");
    assert_eq!(seen.header("alipay-notify-query"), "shop=5");
    assert!(refused(&sidecar).await.is_empty());
    assert!(sidecar.metric(REFUSED).await < 1.0);
    let shown = api(
        &sidecar,
        Method::GET,
        &format!("/api/inbox/{id}?explain=true"),
    )
    .await;
    assert_eq!(shown["received_at"], item["received_at"]);
    assert_eq!(shown["explanation"]["verified"], true, "{shown}");
    assert_eq!(shown.get("refusal"), None);
    // Alipay's resend is a duplicate now, and there is nothing left to do.
    assert_eq!(
        post(&sidecar, &sent.body).await,
        (200, "success".to_owned())
    );
    let report = reverify(&sidecar).await;
    assert!(report["items"].as_array().expect("a list").is_empty());
    assert!(sidecar.backend.is_quiet().await);
}

#[tokio::test]
async fn one_is_verified_again_by_its_id_and_by_either_route() {
    let sidecar = TestSidecar::start().await;
    for body in ["app_id=1&sign=x", "app_id=2&sign=x"] {
        assert_eq!(post(&sidecar, body).await, (400, "fail".to_owned()));
    }
    sidecar.wait_for_metric(REFUSED, 2.0).await;
    let items = refused(&sidecar).await;
    let id = items[1]["id"].as_str().expect("an id");
    let path = format!("/api/inbox/{id}/reverify");
    let by_path = api(&sidecar, Method::POST, &path).await;
    let body = format!("{{\"id\":\"{id}\"}}");
    let reply = sidecar
        .admin(Method::POST, "/api/inbox/reverify", body)
        .await;
    let by_body = json(&reply);
    for report in [by_path, by_body] {
        assert_eq!(report["refused"], 1);
        assert_eq!(report["items"][0]["id"], id);
        let reason = report["items"][0]["reason"].as_str().expect("a reason");
        assert!(reason.contains("none of the configured apps"), "{reason}");
    }
    let page = api(&sidecar, Method::GET, "/api/inbox?state=refused&limit=1").await;
    assert_eq!(page["items"].as_array().expect("a list").len(), 1);
    let next = page["next"].as_str().expect("a next one");
    let path = format!("/api/inbox?state=refused&limit=1&after={next}");
    let page = api(&sidecar, Method::GET, &path).await;
    assert_eq!(page["items"][0]["id"], id);
    assert_eq!(page["next"], Value::Null);
    for (method, path, body, status) in [
        (Method::GET, "/api/inbox/reverify", "", 405),
        (Method::POST, "/api/inbox/reverify", "{\"ids\":[]}", 400),
        (Method::POST, "/api/inbox/nonsense/reverify", "", 404),
        (
            Method::POST,
            "/api/inbox/00000000-0000-7000-8000-000000000000/reverify",
            "",
            404,
        ),
    ] {
        let reply = sidecar.admin(method, path, body).await;
        assert_eq!(reply.status.as_u16(), status, "{path}: {}", text(&reply));
    }
}

/// A payment that was refused for a wrong key, and a sidecar with the right one over the same store.
async fn mended(fixture: &Fixture) -> (TestSidecar, NotificationRecord) {
    let sidecar = start(&fixture.store, wrong_key).await;
    let sent = trigger(&sidecar, &[]).await;
    sidecar.wait_for_metric(REFUSED, 1.0).await;
    sidecar.stop();
    drop(sidecar);
    (start(&fixture.store, |_| ()).await, sent)
}

#[tokio::test]
async fn what_alipay_sends_again_leaves_the_refused_ones_and_is_delivered_once() {
    let fixture = Fixture::embedded();
    let (sidecar, sent) = mended(&fixture).await;
    assert_eq!(
        post(&sidecar, &sent.body).await,
        (200, "success".to_owned())
    );
    assert_eq!(sidecar.backend.next().await.body, sent.body);
    assert!(refused(&sidecar).await.is_empty(), "it left at once");
    let report = reverify(&sidecar).await;
    assert_eq!(report["items"], serde_json::json!([]), "{report}");
    assert!(sidecar.backend.is_quiet().await);
}

#[tokio::test]
async fn another_content_of_what_is_known_leaves_the_refused_ones_when_it_is_verified() {
    let fixture = Fixture::embedded();
    let (sidecar, sent) = mended(&fixture).await;
    let other = signed_again(&sent, &[("total_amount", "0.01")]);
    assert_eq!(post(&sidecar, &other).await, (200, "success".to_owned()));
    assert_eq!(refused(&sidecar).await.len(), 1, "it has another content");
    let report = reverify(&sidecar).await;
    assert_eq!(report["duplicate"], 1, "{report}");
    assert!(refused(&sidecar).await.is_empty());
}

#[tokio::test]
async fn tokens_are_masked_and_what_cannot_be_read_is_only_measured() {
    let sidecar = TestSidecar::start().await;
    let nested = r#"{"detail":"{\"app_auth_token\":\"t0p\"}","x":["app_refresh_token=t0p"]}"#;
    let form = isv::form(&BTreeMap::from([
        ("app_id".to_owned(), "2021000000000001".to_owned()),
        ("app_auth_code".to_owned(), "t0p".to_owned()),
        ("notify_id".to_owned(), "1\u{1b}[31m".to_owned()),
        ("biz_content".to_owned(), nested.to_owned()),
    ]));
    for body in [form.as_str(), "app_id=1&app_auth_token=t0p&x=%zz"] {
        assert_eq!(post(&sidecar, body).await.0, 400);
    }
    sidecar.wait_for_metric(REFUSED, 2.0).await;
    let mut kinds = Vec::new();
    for item in refused(&sidecar).await {
        let id = item["id"].as_str().expect("an id");
        let path = format!("/api/inbox/{id}?explain=true");
        let shown = api(&sidecar, Method::GET, &path).await;
        assert!(!shown.to_string().contains("t0p"), "{shown}");
        kinds.push(shown["refusal"]["kind"].clone());
        if shown["refusal"]["kind"] == "malformed" {
            assert_eq!(shown["params"], serde_json::json!({}));
            assert_eq!(shown["refusal"]["body_bytes"], 33);
        } else {
            assert_eq!(shown["params"]["app_auth_code"], "(not shown)");
            assert_eq!(shown["notify_id"], "1\u{fffd}[31m", "fit for a terminal");
        }
    }
    assert_eq!(kinds, ["forged", "malformed"]);
}

#[tokio::test]
async fn a_store_that_is_down_changes_no_answer_and_the_loss_is_counted() {
    let mut kept = None;
    let sidecar = TestSidecar::start_built(
        |_| (),
        |config, builder| {
            let store = BrittleStore::open(config);
            kept = Some(store.clone());
            builder.store(Arc::new(store))
        },
    )
    .await;
    kept.expect("built").break_down();
    assert_eq!(
        post(&sidecar, "app_id=1&sign=x").await,
        (400, "fail".to_owned())
    );
    let lost = format!("{DROPPED}{{reason=\"store-unavailable\"}}");
    sidecar.wait_for_metric(&lost, 1.0).await;
}

#[tokio::test]
async fn a_bug_of_the_store_loses_one_write_and_no_later_one() {
    let mut kept = None;
    let sidecar = TestSidecar::start_built(
        |_| (),
        |config, builder| {
            let store = BrittleStore::open(config);
            kept = Some(store.clone());
            builder.store(Arc::new(store))
        },
    )
    .await;
    kept.expect("built").panic_on_refusals();
    post(&sidecar, "app_id=1&sign=x").await;
    let lost = format!("{DROPPED}{{reason=\"store-unavailable\"}}");
    sidecar.wait_for_metric(&lost, 1.0).await;
    post(&sidecar, "app_id=2&sign=x").await;
    sidecar.wait_for_metric(REFUSED, 1.0).await;
}

/// Posts as the sender at `address`.
pub(crate) async fn from(parts: &Parts, address: &str, body: &str) -> (StatusCode, String) {
    let mut request = Request::post("/alipay/gateway")
        .header("host", "isv.example.com")
        .body(Full::new(Bytes::from(body.to_owned())))
        .expect("a request");
    let address = format!("{address}:4711").parse().expect("an address");
    request.extensions_mut().insert(Peer::Tcp(address));
    whole(parts.webhook.handle(request).await).await
}

async fn kept(parts: &Parts) -> Vec<RefusedNotification> {
    parts.webhook.flush().await;
    parts.store.refused(None, 2000).await.expect("readable")
}

fn forged(parts: &NotificationRecord, n: u32) -> String {
    parts.body.replace(
        "trade_status=TRADE_SUCCESS",
        &format!("trade_status=FORGED_{n}"),
    )
}

#[tokio::test]
async fn a_flood_from_one_address_leaves_the_others_alone() {
    let parts = Parts::new(Setting::default()).await;
    let sent = parts
        .trigger(Event::Payment, TriggerOptions::default())
        .await;
    assert_eq!(sent.state, NotificationState::Acked);
    let alipay: Vec<String> = (0..5).map(|n| forged(&sent, n)).collect();
    assert_ne!(alipay[0], sent.body);
    for body in &alipay {
        from(&parts, "203.0.113.7", body).await;
    }
    for n in 100..800 {
        let answer = from(&parts, "198.51.100.1", &forged(&sent, n)).await;
        assert_eq!(answer, (StatusCode::BAD_REQUEST, "fail".to_owned()));
        if n % 40 == 0 {
            parts.webhook.flush().await;
        }
    }
    let left = kept(&parts).await;
    assert_eq!(left.len(), 505, "the flood keeps half of all places");
    let alipays = left.iter().filter(|one| one.peer == "203.0.113.7");
    let bodies: Vec<_> = alipays.map(|one| one.body.clone()).collect();
    assert_eq!(bodies, alipay);
    assert!(parts.count(DROPPED, "displaced") > 0.0);

    // In one burst, too.
    for n in 1000..1400 {
        from(&parts, "192.0.2.1", &forged(&sent, n)).await;
        if n == 1100 {
            from(&parts, "203.0.113.7", &forged(&sent, 5)).await;
        }
    }
    let left = kept(&parts).await;
    let alipays = left.iter().filter(|one| one.peer == "203.0.113.7");
    assert_eq!(alipays.count(), 6);
}

#[tokio::test]
async fn a_resend_joins_and_another_content_takes_its_own_place() {
    let parts = Parts::new(Setting::default()).await;
    let sent = parts
        .trigger(Event::Payment, TriggerOptions::default())
        .await;
    let first = forged(&sent, 1);
    let mut resend = isv::decode(&first);
    resend.insert("notify_time".to_owned(), "2026-11-22 17:00:00".to_owned());
    resend.insert("sign".to_owned(), "bmV3".to_owned());
    let resend = isv::form(&resend);
    for body in [&first, &first, &resend, &forged(&sent, 2)] {
        from(&parts, "203.0.113.7", body).await;
        parts.clock.advance_ms(1000);
    }
    let left = kept(&parts).await;
    let [one, other] = left.as_slice() else {
        panic!("{left:?}");
    };
    assert_eq!((one.times, other.times), (3, 1));
    assert_eq!(one.body, resend, "the newest bytes");
    assert_eq!((one.received_at, one.last_received_at), (NOW, NOW + 2000));
    assert_eq!(one.refusal, RefusalKind::Forged);
    let week = NOW + 7 * DAY;
    let pruned = async |now| parts.store.prune(now, DAY).await.expect("pruned").refused;
    assert_eq!(pruned(week).await, 0);
    assert_eq!(pruned(week + 1).await, 1);
    assert_eq!(pruned(week + 3001).await, 1);
}

#[tokio::test]
async fn checks_empty_bodies_and_encoded_ones_are_not_kept() {
    let parts = Parts::new(Setting::default()).await;
    let check = "service=alipay.service.check&biz_content=%3CXML%3E%3CAppId%3E2021000000000001%3C%2FAppId%3E%3C%2FXML%3E&sign=x";
    for body in [check, ""] {
        let answer = from(&parts, "203.0.113.7", body).await;
        assert_eq!(answer.0, StatusCode::BAD_REQUEST);
    }
    let encoded = Request::post("/alipay/gateway")
        .header("content-encoding", "gzip")
        .body(Full::new(Bytes::from_static(b"app_id=1&sign=x")));
    parts.webhook.handle(encoded.expect("a request")).await;
    assert!(kept(&parts).await.is_empty());
    from(&parts, "203.0.113.7", "app_id=1&sign=x").await;
    assert_eq!(kept(&parts).await.len(), 1);
}

#[tokio::test]
async fn an_encrypted_push_waits_for_its_key() {
    let fixture = Fixture::embedded();
    let start = async |key: Option<&str>| {
        let store = Arc::clone(&fixture.store);
        let prepare = |simulator: &Simulator, config: &mut Config| {
            encrypted(simulator, config);
            if key.is_none() {
                config.apps[0].encrypt_key = None;
            }
        };
        TestSidecar::start_whole(prepare, |_, builder| builder.store(store)).await
    };
    let sidecar = start(None).await;
    let options = TriggerOptions {
        attempts: Some(1),
        wait: true,
        encrypted: true,
        url: Some(format!("{}/alipay/gateway", sidecar.webhook)),
        ..TriggerOptions::default()
    };
    let sent = sidecar
        .simulator
        .trigger(Event::ReAuthorize, &options)
        .await;
    assert_ne!(sent.expect("sent").state, NotificationState::Acked);
    sidecar.wait_for_metric(REFUSED, 1.0).await;
    assert_eq!(refused(&sidecar).await[0]["type"], "open_app_auth_notify");
    assert_eq!(reverify(&sidecar).await["refused"], 1);
    sidecar.stop();
    drop(sidecar);
    let sidecar = start(Some("mended")).await;
    let report = reverify(&sidecar).await;
    assert_eq!(report["accepted"], 1, "{report}");
    let seen = sidecar.backend.next().await;
    assert_eq!(seen.header("alipay-event-type"), "merchant.authorized");
}

#[tokio::test]
async fn an_old_push_without_a_time_does_not_win_over_what_came_since() {
    let parts = Parts::new(Setting::default()).await;
    let sent = parts
        .trigger(Event::ReAuthorize, TriggerOptions::default())
        .await;
    let mut biz: Value =
        serde_json::from_str(&isv::decode(&sent.body)["biz_content"]).expect("JSON");
    let detail = biz["detail"].as_object_mut().expect("an object");
    detail.remove("auth_time").expect("it had one");
    detail.insert("app_auth_token".to_owned(), "stale".into());
    let untimed = signed_again(
        &sent,
        &[("biz_content", &biz.to_string()), ("notify_id", "other")],
    );
    parts.believe(keys::public("alipay2048_other"));
    assert_eq!(
        from(&parts, "203.0.113.7", &untimed).await.0,
        StatusCode::BAD_REQUEST
    );
    parts.believe(parts.simulator.platform_public_key());
    parts.clock.advance_ms(DAY);
    parts
        .trigger(Event::ReAuthorize, TriggerOptions::default())
        .await;
    let merchant = parts.merchant(FIRST_AUTH_APP_ID).await.expect("known");
    let verified = parts.webhook.reverify_all().await.expect("readable");
    assert_eq!(verified.len(), 1);
    assert_eq!(verified[0].outcome, ReverifyOutcome::Accepted);
    let after = parts.merchant(FIRST_AUTH_APP_ID).await.expect("known");
    let token = |merchant: &Merchant| merchant.token.app_auth_token.expose().clone();
    assert_eq!(token(&after), token(&merchant));
    assert_ne!(token(&after), "stale");
    let ignored = parts.inbox().await.into_iter();
    let ignored = ignored.filter(|(_, delivery)| delivery.state == DeliveryState::Ignored);
    assert_eq!(ignored.count(), 1);
}

/// Who is said to have sent the only notification that was refused.
async fn only_peer(sidecar: &TestSidecar) -> Value {
    sidecar.wait_for_metric(REFUSED, 1.0).await;
    let items = refused(sidecar).await;
    let id = items[0]["id"].as_str().expect("an id");
    let shown = api(sidecar, Method::GET, &format!("/api/inbox/{id}")).await;
    shown["refusal"]["peer"].clone()
}

#[tokio::test]
async fn what_came_through_a_hosts_own_server_has_no_sender() {
    let sidecar = TestSidecar::start().await;
    let request = Request::post("/alipay/gateway")
        .body(Full::new(Bytes::from_static(b"app_id=1&sign=x")))
        .expect("a request");
    let mut service = sidecar.sidecar.webhook_service();
    let answer = service.call(request).await.expect("infallible");
    let answer = whole(answer).await;
    assert_eq!(answer, (StatusCode::BAD_REQUEST, "fail".to_owned()));
    assert_eq!(only_peer(&sidecar).await, "unknown");
}

#[tokio::test]
async fn what_came_through_a_unix_socket_says_so() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("webhook.sock");
    let listener = Listener::bind(&Listen::Unix(path.clone())).await;
    let sidecar = TestSidecar::start().await;
    let listeners = Listeners {
        proxy: bound().await,
        webhook: listener.expect("bound"),
        admin: bound().await,
    };
    let beside = sidecar.sidecar.bind_on(listeners).expect("listeners");
    let serving = tokio::spawn(beside.run(std::future::pending()));
    let mut stream = UnixStream::connect(&path).await.expect("accepted");
    let request = "POST /alipay/gateway HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
                   Content-Length: 15\r\n\r\napp_id=1&sign=x";
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert_eq!(only_peer(&sidecar).await, "unix");
    serving.abort();
}

#[tokio::test]
async fn what_verifies_while_too_much_is_owed_is_kept_until_there_is_room() {
    let fixture = Fixture::embedded();
    let sidecar = start(&fixture.store, wrong_key).await;
    let sent = trigger(&sidecar, &[]).await;
    sidecar.wait_for_metric(REFUSED, 1.0).await;
    sidecar.stop();
    drop(sidecar);
    let full = |config: &mut Config| {
        config.delivery.high_water = 1;
        config.delivery.url = None;
    };
    let sidecar = start(&fixture.store, full).await;
    let other = trigger(&sidecar, &[("out_trade_no", "another")]).await;
    assert_eq!(other.state, NotificationState::Acked);
    let pending = api(&sidecar, Method::GET, "/api/inbox?state=pending").await;
    let owed = pending["items"][0]["id"].as_str().expect("an id");
    let id = refused(&sidecar).await[0]["id"].clone();
    let one = format!("/api/inbox/{}/reverify", id.as_str().expect("an id"));
    for path in ["/api/inbox/reverify", &one] {
        let report = api(&sidecar, Method::POST, path).await;
        assert_eq!(
            (&report["postponed"], &report["accepted"]),
            (&1.into(), &0.into())
        );
        assert_eq!(report["items"][0]["outcome"], "postponed");
        let reason = report["items"][0]["reason"].as_str().expect("a reason");
        assert!(reason.contains("delivery.high_water"), "{reason}");
        assert_eq!(refused(&sidecar).await[0]["id"], id, "it stays");
    }
    let settled = Change::Settle {
        id: owed.parse().expect("an id"),
        attempt: crate::store::attempt(NOW),
        owed_since: None,
        settlement: Settlement::Delivered,
    };
    let store = sidecar.sidecar.store();
    store.commit(vec![settled]).await.expect("stored");
    let report = reverify(&sidecar).await;
    assert_eq!(report["accepted"], 1, "{report}");
    assert!(refused(&sidecar).await.is_empty());
    let pending = api(&sidecar, Method::GET, "/api/inbox?state=pending").await;
    assert_eq!(pending["items"][0]["id"], id);
    assert_eq!(pending["items"][0]["notify_id"], sent.notify_id);
}

#[tokio::test]
async fn what_comes_after_the_clock_was_set_back_follows_what_came_before() {
    let fixture = Fixture::embedded();
    let later = SystemClock.now_ms() + DAY;
    let before = crate::store::entry(later, Some("before"));
    let receive = Change::Receive(Box::new(before.clone()));
    fixture.store.commit(vec![receive]).await.expect("stored");
    let sidecar = start(&fixture.store, |config| config.delivery.url = None).await;
    for order in ["one", "other"] {
        let sent = trigger(&sidecar, &[("out_trade_no", order)]).await;
        assert_eq!(sent.state, NotificationState::Acked);
    }
    let after = fixture.store.entries(None, Some(before.id), 9).await;
    let after = after.expect("readable");
    let orders: Vec<_> = after
        .iter()
        .map(|(entry, _)| entry.order_key.as_deref())
        .collect();
    assert_eq!(orders, [Some("one"), Some("other")]);
}
