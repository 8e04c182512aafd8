//! What the webhook takes, refuses and answers.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use alipay_sidecar::audit::Audit;
use alipay_sidecar::clock::Clock as _;
use alipay_sidecar::config::delivery::{AuthorizationDelivery, DeliveryConfig};
use alipay_sidecar::config::webhook::WebhookConfig;
use alipay_sidecar::gateway::diagnosis::Diagnostics;
use alipay_sidecar::gateway::platform::NoSource;
use alipay_sidecar::model::app::App;
use alipay_sidecar::model::authorization::Authorization;
use alipay_sidecar::model::call::{CallKey, CallRecord};
use alipay_sidecar::model::certificate::KeptCertificate;
use alipay_sidecar::model::delivery::Delivery;
use alipay_sidecar::model::delivery::DeliveryState;
use alipay_sidecar::model::id::{AppId, AuthAppId, EventId, Pid};
use alipay_sidecar::model::merchant::Merchant;
use alipay_sidecar::model::merchant::MerchantStatus;
use alipay_sidecar::model::notification::DeliveryForm;
use alipay_sidecar::model::notification::InboxEntry;
use alipay_sidecar::model::refused::{RefusedNotification, Variant};
use alipay_sidecar::model::user_token::{UserKey, UserToken};
use alipay_sidecar::protocol::charset::Charset;
use alipay_sidecar::protocol::params::Params;
use alipay_sidecar::protocol::secret::Secret;
use alipay_sidecar::simulator::{
    DEFAULT_APP_ID, Event, FIRST_AUTH_APP_ID, FIRST_PID, Fault, FaultKind, NotificationRecord,
    NotificationState, SECOND_AUTH_APP_ID, TriggerOptions,
};
use alipay_sidecar::store::embedded::EmbeddedStore;
use alipay_sidecar::store::error::StoreError;
use alipay_sidecar::store::{
    Change, Counts, Directory, Due, Effect, Found, Inbox, Mark, MemoKey, MerchantKey, Parked,
    Pruned, Store,
};
use alipay_sidecar::telemetry::span::Tracer;
use alipay_sidecar::token::TOKEN_METHOD;
use alipay_sidecar::webhook::metrics::WebhookMetrics;
use alipay_sidecar::webhook::state::StateKey;
use alipay_sidecar::webhook::{Webhook, WebhookParts};
use futures_util::future::BoxFuture;
use http::{Request, StatusCode};
use http_body_util::Full;
use tokio::sync::Semaphore;

use crate::parts::{NOW, Parts, Setting, never_ending, whole};
use crate::support::{TestSidecar, add_merchant, merchant};

const NOTIFICATIONS: &str = "alipay_sidecar_notifications_total";
const QUERY: &str = "alipay.open.auth.token.app.query";
const DAY: i64 = 86_400_000;

async fn parts() -> Parts {
    Parts::new(Setting::default()).await
}

fn acked(sent: &NotificationRecord) -> bool {
    let last = sent.attempts.last().expect("one attempt");
    assert_eq!(
        sent.state == NotificationState::Acked,
        last.answer == "success"
    );
    last.status == Some(200) && last.answer == "success"
}

fn of(auth_app_id: &str) -> TriggerOptions {
    TriggerOptions {
        auth_app_id: Some(auth_app_id.to_owned()),
        ..TriggerOptions::default()
    }
}

/// An authorisation of the first merchant at that time.
fn at(auth_time: i64) -> TriggerOptions {
    TriggerOptions {
        auth_time: Some(auth_time),
        ..of(FIRST_AUTH_APP_ID)
    }
}

#[tokio::test]
async fn a_payment_is_acked_once_it_is_durable_and_only_kept_once() {
    let parts = parts().await;
    let sent = parts
        .trigger(Event::Payment, TriggerOptions::default())
        .await;
    assert!(acked(&sent));
    let again = parts.post("/alipay/gateway", &sent.body).await;
    assert_eq!(again, (StatusCode::OK, "success".to_owned()));
    let inbox = parts.inbox().await;
    let [(entry, delivery)] = inbox.as_slice() else {
        panic!("{} entries", inbox.len());
    };
    assert_eq!(entry.event_type, "trade_status_sync");
    assert_eq!(entry.notify_path, "/orders/42");
    assert_eq!(entry.notify_id.as_deref(), Some(sent.notify_id.as_str()));
    assert_eq!(entry.body.as_ref().expect("kept").bytes, sent.body);
    assert!(entry.order_key.is_some());
    assert_eq!(delivery.state, DeliveryState::Pending);
    assert!(parts.count(NOTIFICATIONS, "payment") > 1.0);
    assert!(parts.count(NOTIFICATIONS, "duplicate") > 0.0);
}

#[tokio::test]
async fn forged_foreign_and_malformed_ones_are_refused_and_swallow_nothing() {
    let parts = parts().await;
    let sent = parts
        .trigger(Event::Payment, TriggerOptions::default())
        .await;
    let forged = sent.body.replace("88.88", "88888.88");
    assert_ne!(forged, sent.body);
    let mut refused = vec![
        forged,
        sent.body
            .replace("app_id=2021000000000001", "app_id=2021000000000009"),
        String::new(),
        "a=%zz".to_owned(),
        format!("{}&app_id=1", sent.body),
    ];
    // A true one whose forgery came first is still taken.
    parts
        .simulator
        .fault(Fault::once(FaultKind::TamperedNotification));
    let tampered = parts
        .trigger(Event::Payment, TriggerOptions::default())
        .await;
    assert!(!acked(&tampered));
    refused.push(tampered.body);
    for body in refused {
        let answer = parts.post("/alipay/gateway", &body).await;
        assert_eq!(
            answer,
            (StatusCode::BAD_REQUEST, "fail".to_owned()),
            "{body}"
        );
    }
    assert_eq!(parts.inbox().await.len(), 1);
    for outcome in ["forged", "foreign", "malformed"] {
        assert!(parts.count(NOTIFICATIONS, outcome) > 0.0, "{outcome}");
    }
}

#[tokio::test]
async fn routes_and_methods_are_as_the_contract_says() {
    let parts = parts().await;
    for (path, status, allow) in [
        ("/", 404, ""),
        ("/alipay/spi", 404, ""),
        ("/alipay/gateway", 405, "POST"),
        ("/alipay/notify/a/b", 405, "POST"),
        ("/alipay/auth", 400, ""),
    ] {
        let answer = parts.get(path).await;
        assert_eq!(answer.status().as_u16(), status, "{path}");
        let found = answer.headers().get("allow").map(|v| v.as_bytes());
        assert_eq!(found.unwrap_or_default(), allow.as_bytes(), "{path}");
    }
    let (status, _) = parts.post("/alipay/auth", "").await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn what_is_too_large_encoded_or_above_high_water_is_refused() {
    let mut setting = Setting::default();
    setting.webhook.max_body = 4000;
    setting.delivery.high_water = 1;
    let parts = Parts::new(setting).await;
    let (status, text) = parts.post("/alipay/gateway", &"x".repeat(4001)).await;
    assert_eq!((status.as_u16(), text.as_str()), (413, "fail"));
    let encoded = Request::post("/alipay/gateway")
        .header("content-encoding", "gzip")
        .body(Full::new("x".into()))
        .expect("a request");
    let (status, _) = whole(parts.webhook.handle(encoded).await).await;
    assert_eq!(status.as_u16(), 400);
    let named = parts
        .trigger(Event::Payment, TriggerOptions::default())
        .await;
    assert!(acked(&named));
    let refused = parts
        .trigger(Event::Payment, TriggerOptions::default())
        .await;
    assert_eq!(refused.attempts[0].status, Some(503));
    assert_eq!(refused.attempts[0].answer, "fail");
    // What is known is acked again all the same.
    let again = parts.post("/alipay/gateway", &named.body).await;
    assert_eq!(again, (StatusCode::OK, "success".to_owned()));
    assert_eq!(parts.inbox().await.len(), 1);
}

#[tokio::test]
async fn what_has_no_notify_id_is_acked_again_above_high_water_too() {
    let mut setting = Setting::default();
    setting.delivery.high_water = 1;
    let parts = Parts::new(setting).await;
    let mut options = TriggerOptions::default();
    options.params.insert("notify_id".to_owned(), String::new());
    let sent = parts.trigger(Event::Payment, options).await;
    assert!(acked(&sent) && !sent.body.contains("notify_id"));
    let again = parts.post("/alipay/gateway", &sent.body).await;
    assert_eq!(again, (StatusCode::OK, "success".to_owned()));
}

#[tokio::test]
async fn a_push_about_another_app_of_ours_is_acked_again_above_high_water_too() {
    const OTHER: &str = "2021000000000002";
    let sidecar = TestSidecar::start_with(|config| {
        config.apps.push(App {
            app_id: AppId::new(OTHER).expect("an id"),
            ..config.apps[0].clone()
        });
        config.delivery.high_water = 1;
        config.delivery.url = None;
    })
    .await;
    let push = async |options: TriggerOptions| {
        let options = TriggerOptions {
            attempts: Some(1),
            wait: true,
            ..options
        };
        let sent = sidecar
            .simulator
            .trigger(Event::PluginOrder, &options)
            .await;
        sent.expect("sent")
    };
    let elsewhere = "http://127.0.0.1:9/".to_owned();
    let content = push(TriggerOptions {
        url: Some(elsewhere),
        ..of(FIRST_AUTH_APP_ID)
    });
    let content = Params::from_form(content.await.body.as_bytes(), Charset::Utf8);
    let content = content.expect("a form");
    let content = content.get("biz_content").expect("its content");
    let content = content.replace(DEFAULT_APP_ID, OTHER);
    let params = [
        ("biz_content".to_owned(), content),
        ("notify_id".to_owned(), "pushed".to_owned()),
    ];
    let options = TriggerOptions {
        params: params.into(),
        ..of(FIRST_AUTH_APP_ID)
    };
    for time in ["first", "again"] {
        assert!(acked(&push(options.clone()).await), "{time}");
    }
    let key = MerchantKey::Exact(
        AppId::new(OTHER).expect("an id"),
        AuthAppId::new(FIRST_AUTH_APP_ID).expect("an id"),
    );
    let filed = sidecar.sidecar.store().find(key).await.expect("readable");
    assert_eq!(filed.len(), 1, "it is about the other app");
}

#[tokio::test]
async fn a_plugin_order_stores_the_triple_and_becomes_an_event_without_a_token() {
    let parts = parts().await;
    assert!(acked(
        &parts
            .trigger(Event::PluginOrder, of(FIRST_AUTH_APP_ID))
            .await
    ));
    let merchant = parts.merchant(FIRST_AUTH_APP_ID).await.expect("stored");
    assert_eq!(merchant.pid.expect("told").as_str(), FIRST_PID);
    let (entry, _) = parts.inbox().await.remove(0);
    assert_eq!(
        (entry.form, entry.event_type.as_str()),
        (DeliveryForm::Event, "merchant.authorized")
    );
    let event = entry.event.expect("filled in");
    assert!(event.is_plugin && event.bound);
    assert_eq!(
        (event.id, event.source.as_str()),
        (entry.id.to_string(), "push")
    );
}

#[tokio::test]
async fn the_newest_auth_time_wins_not_the_latest_push() {
    let parts = parts().await;
    parts.trigger(Event::ReAuthorize, at(NOW)).await;
    parts.clock.advance_ms(1);
    let newer = parts.merchant(FIRST_AUTH_APP_ID).await.expect("stored");
    assert!(acked(&parts.trigger(Event::ReAuthorize, at(NOW - 1)).await));
    let kept = parts.merchant(FIRST_AUTH_APP_ID).await.expect("stored");
    assert!(kept.token.app_auth_token == newer.token.app_auth_token);
    let states: Vec<_> = parts.inbox().await.iter().map(|(_, d)| d.state).collect();
    assert_eq!(states, [DeliveryState::Pending, DeliveryState::Ignored]);
}

#[tokio::test]
async fn a_push_of_another_version_is_acked_and_its_token_not_stored() {
    let parts = parts().await;
    let mut options = of(FIRST_AUTH_APP_ID);
    options
        .params
        .insert("version".to_owned(), "2.0".to_owned());
    assert!(acked(&parts.trigger(Event::PluginOrder, options).await));
    assert!(parts.merchant(FIRST_AUTH_APP_ID).await.is_none());
    let (entry, delivery) = parts.inbox().await.remove(0);
    assert_eq!(entry.form, DeliveryForm::Redacted);
    assert_eq!(delivery.state, DeliveryState::Pending);
}

async fn check_conflict(authorization: AuthorizationDelivery, form: DeliveryForm) {
    let delivery = DeliveryConfig {
        authorization,
        ..DeliveryConfig::default()
    };
    let parts = Parts::new(Setting {
        delivery,
        ..Setting::default()
    })
    .await;
    let sent = parts
        .trigger(Event::PluginOrder, of(FIRST_AUTH_APP_ID))
        .await;
    let stored = parts.merchant(FIRST_AUTH_APP_ID).await.expect("stored");
    let biz_content = serde_json::json!({"detail": {
        "app_auth_token": stored.token.app_auth_token.expose(),
        "auth_app_id": SECOND_AUTH_APP_ID, "auth_time": NOW + 1,
    }});
    let mut options = of(SECOND_AUTH_APP_ID);
    options
        .params
        .insert("biz_content".to_owned(), biz_content.to_string());
    parts.clock.advance_ms(1);
    let conflicting = parts.trigger(Event::PluginOrder, options).await;
    assert!(acked(&conflicting) && acked(&sent));
    assert!(parts.merchant(SECOND_AUTH_APP_ID).await.is_none());
    assert!(parts.count(NOTIFICATIONS, "token-conflict") > 0.0);
    let (kept, _) = parts.inbox().await.pop().expect("kept");
    assert_eq!(kept.form, form);
}

#[tokio::test]
async fn a_token_of_another_record_is_not_stored_and_acked() {
    for (authorization, form) in [
        (AuthorizationDelivery::Event, DeliveryForm::Redacted),
        (AuthorizationDelivery::Both, DeliveryForm::Verbatim),
        (AuthorizationDelivery::Verbatim, DeliveryForm::Verbatim),
    ] {
        check_conflict(authorization, form).await;
    }
}

#[tokio::test]
async fn both_gives_the_event_and_alipays_bytes() {
    let delivery = DeliveryConfig {
        authorization: AuthorizationDelivery::Both,
        ..DeliveryConfig::default()
    };
    let parts = Parts::new(Setting {
        delivery,
        ..Setting::default()
    })
    .await;
    let sent = parts
        .trigger(Event::PluginOrder, of(FIRST_AUTH_APP_ID))
        .await;
    parts.post("/alipay/gateway", &sent.body).await;
    let mut forms: Vec<_> = parts.inbox().await.into_iter().map(|(e, _)| e).collect();
    assert_eq!(forms.len(), 2);
    forms.sort_by_key(|entry| entry.notify_id.is_none());
    assert_eq!(
        (forms[0].form, forms[1].form),
        (DeliveryForm::Event, DeliveryForm::Verbatim)
    );
    assert_eq!(forms[1].event_type, "open_app_auth_notify");
    // Alipay sends it again under its notify_id: it stands on the one, and the other goes with it.
    assert!(forms[0].notify_id.is_some() && forms[1].notify_id.is_none());
}

#[tokio::test]
async fn both_and_verbatim_agree_that_a_stale_push_is_owed_to_nobody() {
    for authorization in [
        AuthorizationDelivery::Both,
        AuthorizationDelivery::Event,
        AuthorizationDelivery::Verbatim,
    ] {
        let delivery = DeliveryConfig {
            authorization,
            ..DeliveryConfig::default()
        };
        let parts = Parts::new(Setting {
            delivery,
            ..Setting::default()
        })
        .await;
        parts
            .trigger(Event::PluginOrder, of(FIRST_AUTH_APP_ID))
            .await;
        let fresh = parts.inbox().await.len();
        parts.clock.advance_ms(1);
        parts.trigger(Event::ReAuthorize, at(NOW - 1)).await;
        let inbox = parts.inbox().await;
        let stale = inbox.iter().skip(fresh).map(|(_, delivery)| delivery.state);
        let stale: Vec<_> = stale.collect();
        assert_eq!(stale.len(), fresh, "{authorization:?}");
        assert!(stale.iter().all(|state| *state == DeliveryState::Ignored));
    }
}

#[tokio::test]
async fn a_cancellation_that_comes_first_is_remembered_and_handed_on() {
    let parts = parts().await;
    let mut first = of(FIRST_AUTH_APP_ID);
    let sent_at = (NOW + 10).to_string();
    first.params.insert("utc_timestamp".to_owned(), sent_at);
    assert!(acked(&parts.trigger(Event::Cancel, first).await));
    let (entry, delivery) = parts.inbox().await.remove(0);
    assert_eq!(entry.event_type, "alipay.open.auth.appauth.cancelled");
    assert_eq!(
        (entry.form, delivery.state),
        (DeliveryForm::AsConfigured, DeliveryState::Pending)
    );
    assert!(acked(&parts.trigger(Event::ReAuthorize, at(NOW)).await));
    assert!(parts.merchant(FIRST_AUTH_APP_ID).await.is_none());
    assert_eq!(parts.inbox().await[1].1.state, DeliveryState::Ignored);
    parts.clock.advance_ms(11);
    parts.trigger(Event::ReAuthorize, at(NOW + 11)).await;
    assert!(parts.merchant(FIRST_AUTH_APP_ID).await.is_some());
    assert_eq!(parts.asked(QUERY), 0);
}

#[tokio::test]
async fn an_absurd_auth_time_doesnt_outrank_what_comes_later() {
    let parts = parts().await;
    let years = 40 * 365 * 24 * 3600 * 1000;
    parts.trigger(Event::PluginOrder, at(NOW + years)).await;
    let absurd = parts.merchant(FIRST_AUTH_APP_ID).await.expect("stored");
    assert_eq!((absurd.auth_time, absurd.auth_time_estimated), (NOW, true));
    parts.clock.advance_ms(1000);
    parts.trigger(Event::ReAuthorize, at(NOW + 1000)).await;
    let later = parts.merchant(FIRST_AUTH_APP_ID).await.expect("stored");
    assert_eq!(
        (later.auth_time, later.auth_time_estimated),
        (NOW + 1000, false)
    );
}

#[tokio::test]
async fn a_cancellation_blocks_and_a_newer_authorisation_revives() {
    let parts = parts().await;
    parts
        .trigger(Event::PluginOrder, of(FIRST_AUTH_APP_ID))
        .await;
    parts.clock.advance_ms(1000);
    assert!(acked(
        &parts.trigger(Event::Cancel, of(FIRST_AUTH_APP_ID)).await
    ));
    let merchant = parts.merchant(FIRST_AUTH_APP_ID).await.expect("kept");
    assert_eq!(merchant.status, MerchantStatus::Revoked { at: NOW + 1000 });
    let (entry, _) = parts.inbox().await.remove(1);
    assert_eq!(entry.event_type, "merchant.revoked");
    // It only says when it was sent.
    assert_eq!(parts.asked(QUERY), 1);
    parts.clock.advance_ms(1000);
    parts
        .trigger(Event::ReAuthorize, of(FIRST_AUTH_APP_ID))
        .await;
    let merchant = parts.merchant(FIRST_AUTH_APP_ID).await.expect("kept");
    assert_eq!(merchant.status, MerchantStatus::Authorized);
}

#[tokio::test]
async fn a_cancellation_that_names_a_pid_means_this_apps_only_record_of_it() {
    let parts = parts().await;
    parts
        .trigger(Event::PluginOrder, of(FIRST_AUTH_APP_ID))
        .await;
    let elsewhere = Authorization {
        app_id: AppId::new("2021000000000002").expect("id"),
        ..merchant("2021000000001009", FIRST_PID, "elsewhere", None)
    };
    add_merchant(&*parts.store, elsewhere).await;
    parts.clock.advance_ms(1000);
    let cancel = || {
        let about = format!(r#"{{"user_id":"{FIRST_PID}","auth_time":{}}}"#, NOW + 500);
        let mut options = of(FIRST_AUTH_APP_ID);
        options.params.insert("biz_content".to_owned(), about);
        options
            .params
            .insert("auth_app_id".to_owned(), String::new());
        options
    };
    assert!(acked(&parts.trigger(Event::Cancel, cancel()).await));
    let first = parts.merchant(FIRST_AUTH_APP_ID).await.expect("kept");
    assert_eq!(first.status, MerchantStatus::Revoked { at: NOW + 500 });
    let pid = MerchantKey::Pid(Pid::new(FIRST_PID).expect("id"));
    let all = parts.store.find(pid).await.expect("readable");
    let elsewhere = all
        .iter()
        .find(|m| m.auth_app_id.as_str() == "2021000000001009");
    let elsewhere = elsewhere.expect("kept");
    assert_eq!(elsewhere.status, MerchantStatus::Authorized);
}

#[tokio::test]
async fn a_late_cancellation_is_checked_before_it_blocks() {
    let parts = parts().await;
    parts
        .trigger(Event::PluginOrder, of(FIRST_AUTH_APP_ID))
        .await;
    let stored = parts.merchant(FIRST_AUTH_APP_ID).await.expect("stored");
    let late = || {
        let mut options = of(FIRST_AUTH_APP_ID);
        let at = (stored.auth_time - 1).to_string();
        options.params.insert("utc_timestamp".to_owned(), at);
        options
    };
    let node = |status: &str| {
        format!(
            r#"{{"code":"10000","msg":"Success","status":"{status}","auth_app_id":"{FIRST_AUTH_APP_ID}"}}"#
        )
    };
    parts.simulator.answer(QUERY, node("valid"));
    assert!(acked(&parts.trigger(Event::Cancel, late()).await));
    let merchant = parts.merchant(FIRST_AUTH_APP_ID).await.expect("kept");
    assert_eq!(merchant.status, MerchantStatus::Authorized);
    assert_eq!(parts.asked(QUERY), 1);
    parts.simulator.answer(QUERY, node("invalid"));
    parts.clock.advance_ms(5000);
    assert!(acked(&parts.trigger(Event::Cancel, late()).await));
    let merchant = parts.merchant(FIRST_AUTH_APP_ID).await.expect("kept");
    let at = stored.auth_time + 1;
    assert_eq!(merchant.status, MerchantStatus::Revoked { at });
    assert_eq!(parts.asked(TOKEN_METHOD), 0, "nothing is bought for it");
}

#[tokio::test]
async fn a_cancellation_that_cannot_be_checked_holds_if_it_was_sent_later() {
    for (since, is_revoked) in [(1000, true), (-3_600_000, false)] {
        let parts = parts().await;
        parts
            .trigger(Event::PluginOrder, of(FIRST_AUTH_APP_ID))
            .await;
        parts.clock.advance_ms(since);
        parts
            .simulator
            .fault(Fault::once(FaultKind::Reset).times(9).on(QUERY));
        assert!(acked(
            &parts.trigger(Event::Cancel, of(FIRST_AUTH_APP_ID)).await
        ));
        let merchant = parts.merchant(FIRST_AUTH_APP_ID).await.expect("kept");
        let found = matches!(merchant.status, MerchantStatus::Revoked { .. });
        assert_eq!(found, is_revoked, "{since}");
    }
}

/// The first merchant, authorised, and the time that Alipay states for its token is just over.
async fn timed_out() -> (Parts, Merchant) {
    let parts = parts().await;
    parts
        .trigger(Event::PluginOrder, of(FIRST_AUTH_APP_ID))
        .await;
    let stored = parts.merchant(FIRST_AUTH_APP_ID).await.expect("stored");
    let expiry = stored.token.stated_expiry.expect("Alipay tells it");
    parts.clock.advance_ms(expiry - parts.clock.now_ms());
    (parts, stored)
}

#[tokio::test]
async fn a_cancellation_of_one_whose_token_has_timed_out_only_renews_it() {
    let (parts, stored) = timed_out().await;
    parts
        .simulator
        .time_out_tokens(None, Some(FIRST_AUTH_APP_ID))
        .expect("tokens");
    // Alipay's side of the other merchant ends, so that this one's refresh token holds.
    let mut options = of(SECOND_AUTH_APP_ID);
    let about = format!(r#"{{"auth_app_id":"{FIRST_AUTH_APP_ID}"}}"#);
    let first = FIRST_AUTH_APP_ID.to_owned();
    options.params.insert("biz_content".to_owned(), about);
    options.params.insert("auth_app_id".to_owned(), first);
    assert!(acked(&parts.trigger(Event::Cancel, options).await));
    assert_eq!(parts.asked(QUERY), 1);
    let renewed = parts.merchant(FIRST_AUTH_APP_ID).await.expect("kept");
    assert_eq!(renewed.status, MerchantStatus::Authorized);
    assert!(renewed.token.app_auth_token != stored.token.app_auth_token);
}

#[tokio::test]
async fn a_cancellation_holds_though_nobody_knows_whether_a_new_pair_may_be_had() {
    for (sent, is_revoked) in [(0, true), (-366 * DAY, false)] {
        let (parts, _) = timed_out().await;
        parts
            .simulator
            .fault(Fault::once(FaultKind::Html).times(9).on(TOKEN_METHOD));
        let mut cancel = of(FIRST_AUTH_APP_ID);
        let sent_at = (parts.clock.now_ms() + sent).to_string();
        cancel.params.insert("utc_timestamp".to_owned(), sent_at);
        assert!(acked(&parts.trigger(Event::Cancel, cancel).await));
        assert_eq!((parts.asked(QUERY), parts.asked(TOKEN_METHOD)), (1, 1));
        let merchant = parts.merchant(FIRST_AUTH_APP_ID).await.expect("kept");
        let found = matches!(merchant.status, MerchantStatus::Revoked { .. });
        assert_eq!(found, is_revoked, "{sent}");
    }
}

#[tokio::test]
async fn a_cancellation_sent_again_blocks_nobody_who_has_authorised_since() {
    let parts = parts().await;
    parts
        .trigger(Event::PluginOrder, of(FIRST_AUTH_APP_ID))
        .await;
    let node =
        format!(r#"{{"code":"10000","status":"valid","auth_app_id":"{FIRST_AUTH_APP_ID}"}}"#);
    parts.simulator.answer(QUERY, node);
    // What it says is when it was sent, which is after the authorisation.
    parts.clock.advance_ms(3_600_000);
    assert!(acked(
        &parts.trigger(Event::Cancel, of(FIRST_AUTH_APP_ID)).await
    ));
    let merchant = parts.merchant(FIRST_AUTH_APP_ID).await.expect("kept");
    assert_eq!(merchant.status, MerchantStatus::Authorized);
}

/// The first merchant, authorised at [`NOW`], and revoked by a cancellation that was sent five seconds
/// later.
async fn cancelled(about: &str) -> Parts {
    let parts = parts().await;
    parts.trigger(Event::PluginOrder, at(NOW)).await;
    parts.clock.advance_ms(5000);
    let mut cancel = of(FIRST_AUTH_APP_ID);
    let about = about.to_owned();
    cancel.params.insert("biz_content".to_owned(), about);
    assert!(acked(&parts.trigger(Event::Cancel, cancel).await));
    let merchant = parts.merchant(FIRST_AUTH_APP_ID).await.expect("kept");
    assert_eq!(merchant.status, MerchantStatus::Revoked { at: NOW + 5000 });
    parts
}

const UNDATED: &str = r#"{"auth_app_id":"2021000000001001"}"#;

fn described(status: &str, auth_app_id: &str) -> String {
    format!(r#"{{"code":"10000","status":"{status}","auth_app_id":"{auth_app_id}"}}"#)
}

#[tokio::test]
async fn a_push_given_before_a_cancellation_was_sent_is_taken_where_its_token_holds() {
    for (answer, is_taken) in [
        (described("valid", FIRST_AUTH_APP_ID), true),
        (described("invalid", FIRST_AUTH_APP_ID), false),
        (described("valid", SECOND_AUTH_APP_ID), false),
        // It would be refused each time.
        (
            r#"{"code":"40006","sub_code":"isv.insufficient-isv-permissions"}"#.to_owned(),
            false,
        ),
        (described("", FIRST_AUTH_APP_ID), false),
    ] {
        let parts = cancelled(UNDATED).await;
        let asked = parts.asked(QUERY);
        let before = parts.merchant(FIRST_AUTH_APP_ID).await.expect("kept");
        parts.simulator.answer(QUERY, answer.clone());
        let pushed = parts.trigger(Event::ReAuthorize, at(NOW + 1000)).await;
        assert!(acked(&pushed));
        assert_eq!(parts.asked(QUERY), asked + 1);
        let merchant = parts.merchant(FIRST_AUTH_APP_ID).await.expect("kept");
        let is_new = merchant.token.app_auth_token != before.token.app_auth_token;
        assert_eq!(is_new, is_taken, "{answer}");
        let found = (merchant.status, merchant.auth_time);
        let state = match is_taken {
            true => {
                assert_eq!(found, (MerchantStatus::Authorized, NOW + 1000));
                DeliveryState::Pending
            }
            false => {
                assert_eq!(found, (before.status, NOW));
                DeliveryState::Ignored
            }
        };
        let (entry, delivery) = parts.inbox().await.pop().expect("kept");
        assert_eq!(entry.event_type, "merchant.authorized");
        assert_eq!(delivery.state, state, "{answer}");
        // What comes again is acked, and Alipay isn't asked again.
        let (status, _) = parts.post("/alipay/gateway", &pushed.body).await;
        assert_eq!((status, parts.asked(QUERY)), (StatusCode::OK, asked + 1));
    }
}

#[tokio::test]
async fn a_push_whose_token_cannot_be_checked_comes_again() {
    let parts = cancelled(UNDATED).await;
    let kept = parts.inbox().await.len();
    let fault = Fault::once(FaultKind::Html).times(9).on(QUERY);
    parts.simulator.fault(fault);
    let pushed = parts.trigger(Event::ReAuthorize, at(NOW + 1000)).await;
    let last = pushed.attempts.last().expect("one attempt");
    assert_eq!((last.status, last.answer.as_str()), (Some(503), "fail"));
    assert_eq!(parts.inbox().await.len(), kept);
    let merchant = parts.merchant(FIRST_AUTH_APP_ID).await.expect("kept");
    assert_eq!(merchant.status, MerchantStatus::Revoked { at: NOW + 5000 });
    parts.simulator.clear_faults();
    let again = parts.post("/alipay/gateway", &pushed.body).await;
    assert_eq!(again, (StatusCode::OK, "success".to_owned()));
    let merchant = parts.merchant(FIRST_AUTH_APP_ID).await.expect("kept");
    assert_eq!(merchant.status, MerchantStatus::Authorized);
}

#[tokio::test]
async fn a_push_older_than_what_is_stored_or_cancelled_is_stale_unasked() {
    let dated = format!(
        r#"{{"auth_app_id":"{FIRST_AUTH_APP_ID}","auth_time":{}}}"#,
        NOW + 5000
    );
    for (about, auth_time) in [(UNDATED, NOW - 1), (UNDATED, NOW), (&dated, NOW + 1000)] {
        let parts = cancelled(about).await;
        let asked = parts.asked(QUERY);
        let pushed = parts.trigger(Event::ReAuthorize, at(auth_time)).await;
        assert!(acked(&pushed));
        let merchant = parts.merchant(FIRST_AUTH_APP_ID).await.expect("kept");
        assert_eq!(merchant.status, MerchantStatus::Revoked { at: NOW + 5000 });
        assert_eq!(parts.asked(QUERY), asked);
    }
}

#[tokio::test]
async fn a_confirmed_cancellation_blocks_though_the_clock_went_back() {
    let parts = parts().await;
    parts
        .trigger(Event::PluginOrder, of(FIRST_AUTH_APP_ID))
        .await;
    let stored = parts.merchant(FIRST_AUTH_APP_ID).await.expect("stored");
    parts.clock.advance_ms(-3_600_000);
    parts
        .simulator
        .revoke(None, Some(FIRST_AUTH_APP_ID))
        .expect("a grant");
    assert!(acked(
        &parts.trigger(Event::Cancel, of(FIRST_AUTH_APP_ID)).await
    ));
    assert_eq!(parts.asked(QUERY), 1);
    let merchant = parts.merchant(FIRST_AUTH_APP_ID).await.expect("kept");
    let at = stored.auth_time + 1;
    assert_eq!(merchant.status, MerchantStatus::Revoked { at });
    let inbox = parts.inbox().await;
    let told = inbox.iter().filter_map(|(entry, _)| entry.event.as_ref());
    let told: Vec<_> = told.map(|e| (e.event_type.as_str(), e.auth_time)).collect();
    assert!(told.contains(&("merchant.revoked", at)), "{told:?}");
}

/// Triggers a payment with these parameters changed (an empty value takes one away), and gives the
/// status that the webhook answered with.
async fn status_of(parts: &Parts, changed: &[(&str, &str)]) -> Option<u16> {
    let mut options = TriggerOptions {
        wait: true,
        attempts: Some(1),
        ..TriggerOptions::default()
    };
    for (name, value) in changed {
        options
            .params
            .insert((*name).to_owned(), (*value).to_owned());
    }
    let sent = parts.trigger(Event::Payment, options).await;
    sent.attempts.last().expect("waited for").status
}

#[tokio::test]
async fn what_alipay_signs_by_the_same_rules_is_no_notification() {
    let parts = parts().await;
    // As the query of a `return_url`, which the customer's browser holds.
    let returned = [
        ("notify_id", ""),
        ("notify_type", ""),
        ("method", "alipay.trade.page.pay.return"),
    ];
    assert_eq!(status_of(&parts, &returned).await, Some(400));
    // With its own type it is a notification, whatever else it has.
    assert_eq!(
        status_of(&parts, &[("method", "alipay.trade.pay")]).await,
        Some(200)
    );
    assert_eq!(parts.inbox().await.len(), 1);
}

#[tokio::test]
async fn a_notify_id_hidden_in_the_value_before_it_brings_nothing_in_again() {
    let parts = parts().await;
    let options = TriggerOptions {
        wait: true,
        ..TriggerOptions::default()
    };
    let sent = parts.trigger(Event::OrderMessage, options).await;
    assert_eq!(parts.inbox().await.len(), 1);
    // Nothing is escaped in what is signed, so both bodies have the same sign content.
    let mut fields: Vec<_> = sent.body.split('&').map(str::to_owned).collect();
    fields.sort();
    let at = fields
        .iter()
        .position(|field| field.starts_with("notify_id="))
        .expect("there");
    let hidden = fields.remove(at).replace('&', "%26").replace('=', "%3D");
    fields[at - 1].push_str(&format!("%26{hidden}"));
    let (status, said) = parts.post("/alipay/gateway", &fields.join("&")).await;
    assert_eq!((status.as_u16(), said.as_str()), (400, "fail"));
    assert_eq!(parts.inbox().await.len(), 1);
}

#[tokio::test]
async fn what_has_no_notify_id_is_known_by_what_was_signed() {
    let parts = parts().await;
    let returned = |out_trade_no: &str| {
        let mut options = TriggerOptions {
            out_trade_no: Some(out_trade_no.to_owned()),
            ..TriggerOptions::default()
        };
        options.params.insert("notify_id".to_owned(), String::new());
        options
    };
    let sent = parts.trigger(Event::Payment, returned("T1")).await;
    assert!(acked(&sent) && !sent.body.contains("notify_id"));
    // The same signature over another spelling, and with a parameter that isn't signed.
    for body in [sent.body.clone(), format!("{}&x=", sent.body)] {
        let again = parts.post("/alipay/notify/elsewhere", &body).await;
        assert_eq!(again, (StatusCode::OK, "success".to_owned()));
    }
    assert_eq!(parts.inbox().await.len(), 1);
    assert!((parts.count(NOTIFICATIONS, "duplicate") - 2.0).abs() < 0.1);
    parts.trigger(Event::Payment, returned("T2")).await;
    assert_eq!(parts.inbox().await.len(), 2);
}

#[tokio::test]
async fn the_inbox_keeps_the_order_of_receipt_whatever_the_clock_does() {
    let parts = parts().await;
    let mut sent = Vec::new();
    for step in [0, 0, 0, 0, 0, 0, 0, -5000, 0, 1, 0, 0] {
        parts.clock.advance_ms(step);
        let options = TriggerOptions {
            out_trade_no: Some("T1".to_owned()),
            ..TriggerOptions::default()
        };
        sent.push(parts.trigger(Event::Payment, options).await.notify_id);
    }
    let inbox = parts.inbox().await;
    let kept: Vec<_> = inbox
        .iter()
        .filter_map(|(e, _)| e.notify_id.clone())
        .collect();
    assert_eq!(kept, sent);
}

#[tokio::test]
async fn a_cancellation_of_nobody_we_know_is_handed_on() {
    let parts = parts().await;
    assert!(acked(
        &parts.trigger(Event::Cancel, of(FIRST_AUTH_APP_ID)).await
    ));
    let (entry, delivery) = parts.inbox().await.remove(0);
    assert_eq!(entry.event_type, "alipay.open.auth.appauth.cancelled");
    assert_eq!(entry.form, DeliveryForm::AsConfigured);
    assert_eq!(delivery.state, DeliveryState::Pending);
}

#[tokio::test]
async fn a_service_check_is_answered_with_our_key_signed() {
    let parts = parts().await;
    let options = TriggerOptions {
        charset: Some("UTF-8".to_owned()),
        ..TriggerOptions::default()
    };
    let sent = parts.trigger(Event::ServiceCheck, options).await;
    assert_eq!(sent.state, NotificationState::Acked, "{:?}", sent.attempts);
    assert!(parts.inbox().await.is_empty());
    assert_eq!(parts.store.counts().await.expect("readable").pending, 0);
}

#[tokio::test]
async fn an_alias_of_an_old_path_works() {
    let mut webhook = WebhookConfig::default();
    webhook.aliases.insert(
        "/pay/notify.php".to_owned(),
        "/alipay/notify/php".to_owned(),
    );
    let parts = Parts::new(Setting {
        webhook,
        ..Setting::default()
    })
    .await;
    let options = TriggerOptions {
        attempts: Some(1),
        wait: true,
        url: Some(format!("{}/pay/notify.php", parts.address)),
        ..TriggerOptions::default()
    };
    let sent = parts.simulator.trigger(Event::Payment, &options).await;
    assert!(acked(&sent.expect("sent")));
    assert_eq!(parts.inbox().await[0].0.notify_path, "/php");
}

/// A store whose commits wait, or fail.
struct Held {
    inner: Arc<EmbeddedStore>,
    /// Each commit that begins puts one in.
    begun: Semaphore,
    /// Each commit takes one before it goes on.
    go: Semaphore,
    broken: AtomicBool,
}

type Answer<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

impl Store for Held {
    fn commit(&self, changes: Vec<Change>) -> Answer<'_, Vec<Effect>> {
        Box::pin(async move {
            self.begun.add_permits(1);
            self.go.acquire().await.expect("open").forget();
            if self.broken.load(Ordering::Relaxed) {
                let reason = "no space left".to_owned();
                return Err(StoreError::Unavailable { reason });
            }
            self.inner.commit(changes).await
        })
    }

    fn recall(&self, key: MemoKey, now: i64) -> Answer<'_, Option<Secret<Vec<u8>>>> {
        self.inner.recall(key, now)
    }

    fn call(&self, key: CallKey, now: i64) -> Answer<'_, Option<CallRecord>> {
        self.inner.call(key, now)
    }

    fn counts(&self) -> Answer<'_, Counts> {
        self.inner.counts()
    }

    fn prune(&self, now: i64, retain_delivered_ms: i64) -> Answer<'_, Pruned> {
        self.inner.prune(now, retain_delivered_ms)
    }

    fn is_writable(&self) -> bool {
        self.inner.is_writable()
    }
}

impl Directory for Held {
    fn apps(&self) -> Answer<'_, Vec<App>> {
        self.inner.apps()
    }

    fn certificates(&self) -> Answer<'_, Vec<KeptCertificate>> {
        self.inner.certificates()
    }

    fn find(&self, key: MerchantKey) -> Answer<'_, Vec<Merchant>> {
        self.inner.find(key)
    }

    fn find_all(&self, key: MerchantKey) -> Answer<'_, Found> {
        self.inner.find_all(key)
    }

    fn merchants(
        &self,
        after: Option<(AppId, AuthAppId)>,
        limit: usize,
    ) -> Answer<'_, Vec<Merchant>> {
        self.inner.merchants(after, limit)
    }

    fn merchants_page(&self, after: Option<(AppId, AuthAppId)>, limit: usize) -> Answer<'_, Found> {
        self.inner.merchants_page(after, limit)
    }

    fn unreadable_merchants(&self) -> Answer<'_, u64> {
        self.inner.unreadable_merchants()
    }

    fn user(&self, key: UserKey) -> Answer<'_, Option<UserToken>> {
        self.inner.user(key)
    }
}

impl Inbox for Held {
    fn entry(&self, id: EventId) -> Answer<'_, Option<(InboxEntry, Delivery)>> {
        self.inner.entry(id)
    }

    fn known(&self, app_id: AppId, notify_id: String) -> Answer<'_, Option<EventId>> {
        self.inner.known(app_id, notify_id)
    }

    fn entries(
        &self,
        state: Option<DeliveryState>,
        after: Option<EventId>,
        limit: usize,
    ) -> Answer<'_, Vec<(InboxEntry, Delivery)>> {
        self.inner.entries(state, after, limit)
    }

    fn entries_before(
        &self,
        state: Option<DeliveryState>,
        before: Option<EventId>,
        limit: usize,
    ) -> Answer<'_, Vec<(InboxEntry, Delivery)>> {
        self.inner.entries_before(state, before, limit)
    }

    fn due(&self, now: i64, limit: usize, but: HashSet<EventId>) -> Answer<'_, Due> {
        self.inner.due(now, limit, but)
    }

    fn refused(
        &self,
        after: Option<EventId>,
        limit: usize,
    ) -> Answer<'_, Vec<RefusedNotification>> {
        self.inner.refused(after, limit)
    }

    fn refused_before(
        &self,
        before: Option<EventId>,
        limit: usize,
    ) -> Answer<'_, Vec<RefusedNotification>> {
        self.inner.refused_before(before, limit)
    }

    fn refused_one(&self, id: EventId) -> Answer<'_, Option<RefusedNotification>> {
        self.inner.refused_one(id)
    }

    fn variants(&self, of: EventId) -> Answer<'_, Vec<Variant>> {
        self.inner.variants(of)
    }

    fn parked(&self, after: Option<EventId>, limit: usize) -> Answer<'_, Parked> {
        self.inner.parked(after, limit)
    }

    fn claimable_after(
        &self,
        after: Option<Mark>,
        at_most: (i64, usize),
        but: HashSet<EventId>,
    ) -> Answer<'_, Due> {
        self.inner.claimable_after(after, at_most, but)
    }

    fn lapsed(&self, now: i64, limit: usize) -> Answer<'_, Vec<Delivery>> {
        self.inner.lapsed(now, limit)
    }
}

impl Parts {
    /// A second webhook over the same parts, whose commits wait.
    fn held(&self) -> (Webhook, Arc<Held>) {
        let held = Arc::new(Held {
            inner: Arc::clone(&self.store),
            begun: Semaphore::new(0),
            go: Semaphore::new(0),
            broken: AtomicBool::new(true),
        });
        let parts = WebhookParts {
            audit: Audit::off(),
            certificates: Arc::new(NoSource),
            diagnostics: Diagnostics::new(),
            apps: self.apps.clone(),
            store: held.clone(),
            tokens: self.tokens.clone(),
            clock: Arc::new(self.clock.clone()),
            metrics: WebhookMetrics::register(&prometheus::Registry::new()).expect("new"),
            state_key: StateKey::derive(&[7; 32]),
            asker: self.dispatcher.asker(),
            wake: self.dispatcher.waker(),
            ending: never_ending(),
            tracer: Tracer::default(),
        };
        let (webhook, delivery) = (WebhookConfig::default(), DeliveryConfig::default());
        (Webhook::new(parts, &webhook, &delivery), held)
    }
}

#[tokio::test]
async fn nothing_is_acked_before_it_is_committed_or_when_it_cannot_be() {
    let parts = parts().await;
    let unsent = TriggerOptions {
        attempts: Some(1),
        wait: true,
        url: Some(format!("{}/nowhere", parts.address)),
        ..TriggerOptions::default()
    };
    let sent = parts.simulator.trigger(Event::Payment, &unsent).await;
    let body = sent.expect("sent").body;
    let (webhook, held) = parts.held();
    for (broken, expected) in [(true, (503, "fail")), (false, (200, "success"))] {
        held.broken.store(broken, Ordering::Relaxed);
        let request = Request::post("/alipay/gateway").body(Full::new(body.clone().into()));
        let (webhook, request) = (webhook.clone(), request.expect("a request"));
        let answer = tokio::spawn(async move { whole(webhook.handle(request).await).await });
        held.begun.acquire().await.expect("open").forget();
        tokio::task::yield_now().await;
        assert!(!answer.is_finished(), "answered before the commit");
        assert!(parts.inbox().await.is_empty());
        held.go.add_permits(1);
        let (status, text) = answer.await.expect("no panic");
        assert_eq!((status.as_u16(), text.as_str()), expected);
    }
    assert_eq!(parts.inbox().await.len(), 1);
}

#[tokio::test]
async fn what_finds_no_room_is_refused_until_others_are_answered() {
    use futures_util::{FutureExt as _, StreamExt as _, stream};
    let mut setting = Setting::default();
    setting.webhook.max_body = 64 << 20;
    let parts = Parts::new(setting).await;
    let piece = bytes::Bytes::from(vec![b'x'; 48 << 20]);
    let begun = stream::iter([Ok::<_, std::io::Error>(hyper::body::Frame::data(
        piece.clone(),
    ))]);
    let half = http_body_util::StreamBody::new(begun.chain(stream::pending()));
    let half = Request::post("/alipay/gateway").body(half);
    let mut read = Box::pin(parts.webhook.handle(half.expect("a request")));
    assert!(read.as_mut().now_or_never().is_none(), "more may come");
    let send = async || {
        let request = Request::post("/alipay/gateway").body(Full::new(piece.clone()));
        whole(parts.webhook.handle(request.expect("a request")).await).await
    };
    let full = (StatusCode::SERVICE_UNAVAILABLE, "fail".to_owned());
    assert_eq!(send().await, full);
    drop(read);
    assert_ne!(send().await.0, full.0, "there is room again");
}
