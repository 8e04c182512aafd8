//! The life of authorisations: lost refreshes, revocation learned from replies, tokens renewed
//! ahead or learned, refreshes that meet.

use std::time::Duration;

use alipay_sidecar::config::delivery::AuthorizationDelivery;
use alipay_sidecar::config::token::UnknownToken;
use alipay_sidecar::gateway::error::Outcome;
use alipay_sidecar::model::authorization::{Authorization, Doubt, Rank, Revocation};
use alipay_sidecar::model::merchant::{Merchant, MerchantStatus};
use alipay_sidecar::net::shutdown::Shutdown;
use alipay_sidecar::protocol::secret::Secret;
use alipay_sidecar::simulator::{
    DEFAULT_APP_ID, FIRST_APP_AUTH_TOKEN, FIRST_APP_REFRESH_TOKEN, FIRST_AUTH_APP_ID, FIRST_PID,
    Fault, FaultKind, SECOND_APP_AUTH_TOKEN, SECOND_AUTH_APP_ID, SECOND_PID,
};
use alipay_sidecar::store::{Change, Directory as _, Inbox as _, MerchantKey, Store as _};
use alipay_sidecar::token::error::TokenError;
use alipay_sidecar::token::{ExchangeContext, LearnError, Pace, TOKEN_METHOD};
use http::{Method, Request};

use crate::parts::{NOW, Parts, Setting};
use crate::support::brittle::BrittleStore;
use crate::support::upstream::{Answer, FakeAlipay};
use crate::support::{ALIAS, TestSidecar, add_merchant, header, json, merchant, text};

const QUERY: &str = "alipay.open.auth.token.app.query";
const CHECKS: &str = "alipay_sidecar_token_checks_total";
const CALL: &str = "/v2/alipay.trade.query";
const BIZ: &str = r#"{"out_trade_no":"none"}"#;
const ORDER: &str = r#"{"out_trade_no":"a1","total_amount":"1.00","subject":"x"}"#;
const MINUTE: i64 = 60_000;
const DAY: i64 = 24 * 60 * MINUTE;

/// As fast as can be.
const AT_ONCE: Pace = Pace {
    step: Duration::ZERO,
    round: Duration::ZERO,
    trouble: Duration::ZERO,
    longest: Duration::ZERO,
};

async fn parts() -> Parts {
    Parts::new(Setting::default()).await
}

impl Parts {
    /// The first merchant, whose token came by an exchange.
    async fn exchanged(&self) -> Merchant {
        let code = self
            .simulator
            .app_auth_code(None, &[FIRST_AUTH_APP_ID])
            .expect("a known merchant");
        let context = ExchangeContext::default();
        let code = Secret::new(code);
        let exchanged = self.tokens.exchange(&self.app(), &code, context).await;
        exchanged.expect("a good code").remove(0)
    }

    async fn first(&self) -> Merchant {
        self.merchant(FIRST_AUTH_APP_ID).await.expect("stored")
    }

    /// The types of the events owed to the backend, and what led to them.
    async fn told(&self) -> Vec<(String, String)> {
        let events = self.inbox().await.into_iter();
        events
            .filter_map(|(entry, _)| {
                let event = entry.event?;
                assert_eq!(entry.event_type, event.event_type);
                Some((event.event_type, event.trigger.unwrap_or_default()))
            })
            .collect()
    }

    /// Tells of a refused token, and waits for what follows.
    async fn refuse(&self, merchant: &Merchant) {
        self.tokens.refused(merchant);
        self.tokens.idle().await;
    }
}

#[tokio::test]
async fn a_refresh_that_was_executed_and_lost_leaves_the_old_token_in_use() {
    let parts = parts().await;
    let before = parts.exchanged().await;
    parts
        .simulator
        .fault(Fault::once(FaultKind::Reset).on(TOKEN_METHOD));
    let lost = parts.tokens.refresh(&before).await.expect_err("lost");
    assert_eq!(lost.outcome(), Outcome::Unknown);
    assert_eq!(parts.first().await.status, MerchantStatus::Authorized);

    let refused = parts.tokens.refresh(&before).await.expect_err("spent");
    assert!(refused.is_refusal(), "{refused}");
    let after = parts.first().await;
    assert!(matches!(after.status, MerchantStatus::Suspect { .. }));
    assert_eq!(after.doubt, Some(Doubt::RefreshTokenRefused));
    assert!(after.token.app_auth_token == before.token.app_auth_token);

    // It isn't sent a third time, not even once a call has worked.
    let asked = parts.asked(TOKEN_METHOD);
    parts.tokens.worked(&after);
    parts.tokens.idle().await;
    assert_eq!(parts.first().await.status, MerchantStatus::Authorized);
    let again = parts.tokens.refresh(&before).await.expect_err("known");
    assert!(matches!(again, TokenError::RefreshTokenRefused { .. }));
    assert_eq!(parts.asked(TOKEN_METHOD), asked);
    let told = parts.told().await;
    let suspect = (
        "merchant.suspect".to_owned(),
        "refresh-token-refused".to_owned(),
    );
    assert_eq!(told.iter().filter(|event| **event == suspect).count(), 1);

    // The merchant's new authorisation ends it.
    let renewed = parts.exchanged().await;
    assert!(!renewed.refresh_refused);
    parts.tokens.refresh(&renewed).await.expect("a new pair");
}

#[tokio::test]
async fn a_refusal_that_is_not_about_the_refresh_token_condemns_nothing() {
    let parts = parts().await;
    let before = parts.exchanged().await;
    parts
        .simulator
        .fault(Fault::once(FaultKind::InvalidSignature).on(TOKEN_METHOD));
    parts.tokens.refresh(&before).await.expect_err("refused");
    assert_eq!(parts.first().await.status, MerchantStatus::Authorized);
    parts.tokens.refresh(&before).await.expect("as before");
}

#[tokio::test]
async fn calls_dont_ask_for_a_failed_refresh_again_and_again() {
    let parts = parts().await;
    let before = parts.exchanged().await;
    let asked = parts.asked(TOKEN_METHOD);
    parts
        .simulator
        .fault(Fault::once(FaultKind::Html).times(9).on(TOKEN_METHOD));
    for _ in 0..3 {
        parts.tokens.renew(&before).await.expect_err("not now");
    }
    assert_eq!(parts.asked(TOKEN_METHOD), asked + 1);
    // What is no refusal may be over soon.
    for (later, asked) in [(999, asked + 1), (1, asked + 2)] {
        parts.clock.advance_ms(later);
        parts.tokens.renew(&before).await.expect_err("not now");
        assert_eq!(parts.asked(TOKEN_METHOD), asked);
    }
    parts.simulator.clear_faults();
    parts.simulator.fault(
        Fault::once(FaultKind::InvalidSignature)
            .times(9)
            .on(TOKEN_METHOD),
    );
    for (later, asked) in [(1000, asked + 3), (MINUTE - 1, asked + 3)] {
        parts.clock.advance_ms(later);
        parts.tokens.renew(&before).await.expect_err("refused");
        assert_eq!(parts.asked(TOKEN_METHOD), asked);
    }
    parts.clock.advance_ms(1);
    parts.simulator.clear_faults();
    parts.tokens.renew(&before).await.expect("a minute later");
}

#[tokio::test]
async fn a_refused_token_is_checked_once_a_minute_and_the_suspicion_told_once() {
    let parts = parts().await;
    let merchant = parts.exchanged().await;
    // Events of one millisecond have no order.
    parts.clock.advance_ms(1);
    for _ in 0..5 {
        parts.tokens.refused(&merchant);
    }
    parts.tokens.idle().await;
    parts.refuse(&merchant).await;
    assert_eq!(parts.asked(QUERY), 1);
    assert!(matches!(
        parts.first().await.status,
        MerchantStatus::Suspect { .. }
    ));
    assert!((parts.count(CHECKS, "valid") - 1.0).abs() < 0.1);
    parts.clock.advance_ms(MINUTE);
    parts.refuse(&merchant).await;
    assert_eq!(parts.asked(QUERY), 2);
    let told = parts.told().await;
    let types: Vec<_> = told.iter().map(|(event, _)| event.as_str()).collect();
    assert_eq!(types, ["merchant.authorized", "merchant.suspect"]);

    // Alipay says at last that the merchant has cancelled.
    parts
        .simulator
        .revoke(None, Some(FIRST_AUTH_APP_ID))
        .expect("known");
    parts.clock.advance_ms(MINUTE);
    parts.refuse(&merchant).await;
    let revoked = parts.first().await;
    assert!(matches!(revoked.status, MerchantStatus::Revoked { .. }));
    assert_eq!(revoked.doubt, Some(Doubt::TokenRefused));
    parts.clock.advance_ms(MINUTE);
    parts.refuse(&merchant).await;
    assert_eq!(parts.asked(QUERY), 3, "of the revoked nobody asks");
    let last = parts.told().await.pop().expect("told");
    assert_eq!(
        last,
        ("merchant.revoked".to_owned(), "token-refused".to_owned())
    );
}

#[tokio::test]
async fn a_token_that_was_replaced_meanwhile_is_neither_checked_nor_doubted() {
    let parts = parts().await;
    let before = parts.exchanged().await;
    let renewed = parts.exchanged().await;
    parts.refuse(&before).await;
    assert_eq!(parts.asked(QUERY), 0);
    assert_eq!(parts.first().await.status, MerchantStatus::Authorized);
    let choice = parts.tokens.second_choice(&before).await.expect("readable");
    let choice = choice.expect("today's token");
    assert!(choice.app_auth_token == renewed.token.app_auth_token);
    assert!(!choice.is_previous);
    // The merchant itself has replaced the old one: nobody falls back to that.
    let none = parts.tokens.second_choice(&renewed).await;
    assert!(none.expect("readable").is_none());
}

#[tokio::test]
async fn a_token_is_not_judged_while_its_refresh_is_under_way() {
    let parts = parts().await;
    let before = parts.exchanged().await;
    let asked = parts.asked(TOKEN_METHOD);
    let late = Fault::once(FaultKind::Slow).delay(Duration::from_secs(1));
    parts.simulator.fault(late.on(TOKEN_METHOD));
    let judged = async {
        while parts.asked(TOKEN_METHOD) == asked {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // Alipay has ended the old token, and the answer with the new one is still under way.
        let (ended, ()) = tokio::join!(parts.tokens.has_ended(&before), parts.refuse(&before));
        assert_eq!(ended.expect("nobody is asked"), Some(false));
    };
    let (renewed, ()) = tokio::join!(parts.tokens.renew(&before), judged);
    let renewed = renewed.expect("a new pair");
    let after = parts.first().await;
    assert_eq!(after.status, MerchantStatus::Authorized);
    assert!(after.token.app_auth_token == renewed.token.app_auth_token);
    assert_eq!(parts.asked(QUERY), 0);
}

#[tokio::test]
async fn an_alipay_that_cannot_be_asked_makes_nobody_revoked() {
    let parts = parts().await;
    let merchant = parts.exchanged().await;
    parts
        .simulator
        .fault(Fault::once(FaultKind::Html).times(9).on(QUERY));
    parts.refuse(&merchant).await;
    assert!(matches!(
        parts.first().await.status,
        MerchantStatus::Suspect { .. }
    ));
    assert!((parts.count(CHECKS, "unanswered") - 1.0).abs() < 0.1);
}

#[tokio::test]
async fn pairs_are_renewed_ahead_of_their_stated_expiry_and_not_before() {
    let parts = parts().await;
    let before = parts.exchanged().await;
    let (_trigger, shutdown) = Shutdown::new();
    let walk = async || {
        let walked = parts.tokens.walk_ahead(AT_ONCE, &shutdown).await;
        walked.expect("readable")
    };
    assert_eq!(walk().await, 0);
    parts.clock.advance_ms(320 * DAY);
    assert_eq!(walk().await, 0, "45 days are left");
    parts.clock.advance_ms(16 * DAY);
    parts
        .simulator
        .fault(Fault::once(FaultKind::Html).on(TOKEN_METHOD));
    assert_eq!(walk().await, 0, "Alipay can't be asked");
    assert_eq!(walk().await, 1);
    assert_eq!(walk().await, 0, "the new pair has a year");
    let after = parts.first().await;
    assert!(after.token.app_auth_token != before.token.app_auth_token);
    // What has cancelled isn't renewed, nor what has nothing to renew it with.
    parts.clock.advance_ms(340 * DAY);
    parts
        .simulator
        .revoke(None, Some(FIRST_AUTH_APP_ID))
        .expect("known");
    parts.refuse(&after).await;
    let asked = parts.asked(TOKEN_METHOD);
    assert_eq!((walk().await, parts.asked(TOKEN_METHOD)), (0, asked));
}

#[tokio::test]
async fn a_cancelled_merchant_is_revived_by_the_operators_refresh_alone() {
    let parts = parts().await;
    let before = parts.exchanged().await;
    let revocation = Change::Revoke {
        revocation: Revocation::new(&before, None),
        entry: None,
    };
    parts.store.commit(vec![revocation]).await.expect("kept");
    let asked = parts.asked(TOKEN_METHOD);
    let refused = parts.tokens.renew(&before).await.expect_err("cancelled");
    assert!(matches!(refused, TokenError::Revoked { .. }), "{refused}");
    assert_eq!(parts.asked(TOKEN_METHOD), asked);
    let revived = parts.tokens.refresh(&before).await.expect("Alipay agrees");
    assert_eq!(revived.status, MerchantStatus::Authorized);
    // Nor does a call go out with the pair that somebody else bought for the cancelled one.
    let revocation = Change::Revoke {
        revocation: Revocation::new(&revived, None),
        entry: None,
    };
    parts.store.commit(vec![revocation]).await.expect("kept");
    parts.clock.advance_ms(MINUTE);
    let refused = parts.tokens.renew(&before).await.expect_err("cancelled");
    assert!(matches!(refused, TokenError::Revoked { .. }), "{refused}");
}

#[tokio::test]
async fn a_good_token_is_learned_and_rubbish_asked_about_once() {
    let parts = parts().await;
    let app = parts.app();
    let token = |text: &str| Secret::new(text.to_owned());
    let good = token(SECOND_APP_AUTH_TOKEN);
    let (one, other) = tokio::join!(
        parts.tokens.learn(&app, &good),
        parts.tokens.learn(&app, &good)
    );
    assert!(one.is_ok() && other.is_ok());
    assert_eq!(parts.asked(QUERY), 1);
    let found = parts.store.find(MerchantKey::Token(good.clone())).await;
    let merchant = found.expect("readable").remove(0);
    assert_eq!(merchant.auth_app_id.as_str(), SECOND_AUTH_APP_ID);
    assert_eq!(merchant.pid.as_ref().map(|p| p.as_str()), Some(SECOND_PID));
    assert_eq!(
        (merchant.auth_time, merchant.auth_time_estimated),
        (NOW, true)
    );
    let (entry, _) = parts.inbox().await.remove(0);
    let event = entry.event.expect("told");
    assert_eq!((event.source.as_str(), event.bound), ("import", false));

    let junk = token("junk");
    for _ in 0..3 {
        let refused = parts.tokens.learn(&app, &junk).await;
        assert!(matches!(refused, Err(LearnError::Invalid)));
    }
    assert_eq!(parts.asked(QUERY), 2);
    parts.clock.advance_ms(10 * MINUTE);
    parts.tokens.learn(&app, &junk).await.expect_err("junk");
    assert_eq!(parts.asked(QUERY), 3);
    for n in 0..100 {
        let _ = parts.tokens.learn(&app, &token(&format!("junk-{n}"))).await;
    }
    assert_eq!(parts.asked(QUERY), 2 + 60);
    let full = parts.tokens.learn(&app, &token("more")).await;
    assert!(matches!(full, Err(LearnError::TooMany)));
}

fn tagged(token: &str) -> http::request::Builder {
    Request::builder()
        .method(Method::POST)
        .uri(format!("/gateway.do?method=alipay.trade.query&app_auth_token={token}&biz_content=%7B%22out_trade_no%22%3A%221%22%7D"))
}

#[tokio::test]
async fn an_unknown_token_is_proved_and_its_call_sent() {
    let sidecar = TestSidecar::start_with(|config| {
        config.tokens.unknown = UnknownToken::Learn;
    })
    .await;
    let reply = sidecar.proxy(tagged(SECOND_APP_AUTH_TOKEN), "").await;
    assert!(
        text(&reply).contains("ACQ.TRADE_NOT_EXIST"),
        "{}",
        text(&reply)
    );
    let called: Vec<_> = sidecar
        .simulator
        .requests()
        .into_iter()
        .map(|r| (r.method, r.auth_app_id.unwrap_or_default()))
        .collect();
    assert_eq!(
        called,
        [
            (QUERY.to_owned(), String::new()),
            (
                "alipay.trade.query".to_owned(),
                SECOND_AUTH_APP_ID.to_owned()
            )
        ]
    );
    let again = sidecar.proxy(tagged(SECOND_APP_AUTH_TOKEN), "").await;
    assert!(text(&again).contains("ACQ.TRADE_NOT_EXIST"));
    assert_eq!(sidecar.simulator.requests().len(), 3);
    let junk = sidecar.proxy(tagged("junk"), "").await;
    assert_eq!(header(&junk, "alipay-sidecar-error"), "token-unknown");
    sidecar
        .simulator
        .fault(Fault::once(FaultKind::Tampered).times(9).on(QUERY));
    let unproved = sidecar.proxy(tagged("other"), "").await;
    assert_eq!(
        header(&unproved, "alipay-sidecar-error"),
        "response-signature-invalid"
    );
    assert_eq!(header(&unproved, "alipay-sidecar-outcome"), "not-sent");
}

#[tokio::test]
async fn a_cancellation_nobody_told_is_learned_from_a_reply() {
    // What the sidecar itself has to tell has no bytes of Alipay's that could go on instead.
    let sidecar = TestSidecar::start_with(|config| {
        config.delivery.authorization = AuthorizationDelivery::Verbatim;
    })
    .await;
    sidecar.simulator.revoke(None, None).expect("one merchant");
    let reply = sidecar.post(CALL, BIZ).await;
    assert_eq!(
        header(&reply, "alipay-sub-code"),
        "aop.invalid-app-auth-token"
    );
    sidecar
        .wait_for_metric(r#"alipay_sidecar_merchants{state="revoked"}"#, 1.0)
        .await;
    let next = sidecar.post(CALL, BIZ).await;
    assert_eq!(
        header(&next, "alipay-sidecar-error"),
        "merchant-unauthorized"
    );
    let delivered = sidecar.backend.next().await;
    assert_eq!(delivered.header("alipay-event-type"), "merchant.revoked");
    let event: serde_json::Value = serde_json::from_slice(&delivered.body).expect("JSON");
    let mut members: Vec<_> = event.as_object().expect("an object").keys().collect();
    members.sort();
    assert_eq!(
        members,
        [
            "agent_app_id",
            "alias",
            "app_id",
            "auth_app_id",
            "auth_time",
            "bound",
            "error",
            "id",
            "is_plugin",
            "pid",
            "received_at",
            "ref",
            "source",
            "trigger",
            "type"
        ]
    );
    assert_eq!(event["alias"], ALIAS);
    assert_eq!(event["trigger"], "token-refused");
    assert!(!String::from_utf8_lossy(&delivered.body).contains(FIRST_APP_AUTH_TOKEN));
}

#[tokio::test]
async fn a_suspect_merchants_calls_go_through_and_one_that_works_clears_it() {
    let sidecar = TestSidecar::start().await;
    sidecar.simulator.fault(
        Fault::once(FaultKind::TokenInvalid)
            .times(3)
            .on("alipay.trade.query"),
    );
    for _ in 0..3 {
        let reply = sidecar.post(CALL, BIZ).await;
        assert_eq!(
            header(&reply, "alipay-sub-code"),
            "aop.invalid-app-auth-token"
        );
        assert_eq!(header(&reply, "alipay-sidecar-verified"), "true");
    }
    let suspect = r#"alipay_sidecar_merchants{state="suspect"}"#;
    sidecar.wait_for_metric(suspect, 1.0).await;
    let asked = sidecar.simulator.requests();
    let queries = asked.iter().filter(|request| request.method == QUERY);
    assert_eq!((queries.count(), asked.len()), (1, 4));
    let delivered = sidecar.backend.next().await;
    assert_eq!(delivered.header("alipay-event-type"), "merchant.suspect");
    // A refusal of the business says nothing; a success does.
    sidecar.post(CALL, BIZ).await;
    assert!((sidecar.metric(suspect).await - 1.0).abs() < 0.1);
    let paid = sidecar.post("/v2/alipay.trade.create", ORDER).await;
    assert_eq!(header(&paid, "alipay-code"), "10000", "{}", text(&paid));
    sidecar.wait_for_metric(suspect, 0.0).await;
}

#[tokio::test]
async fn a_new_token_that_is_refused_leaves_the_one_before_in_use_until_it_works() {
    let sidecar = TestSidecar::start().await;
    let stored = async || {
        let key = MerchantKey::Token(Secret::new(FIRST_APP_AUTH_TOKEN.to_owned()));
        let found = sidecar.sidecar.store().find(key).await;
        found.expect("readable").remove(0)
    };
    let refreshed = sidecar.sidecar.tokens().refresh(&stored().await).await;
    let refreshed = refreshed.expect("refreshed");
    let strike = || Fault::once(FaultKind::TokenInvalid).on("alipay.trade.create");
    sidecar.simulator.fault(strike());
    let reply = sidecar.post("/v2/alipay.trade.create", ORDER).await;
    assert_eq!(header(&reply, "alipay-code"), "10000", "{}", text(&reply));
    sidecar.sidecar.tokens().idle().await;
    let doubted = stored().await;
    assert_eq!(doubted.doubt, Some(Doubt::NewTokenRefused));
    assert!(doubted.token.app_auth_token == refreshed.token.app_auth_token);
    assert!(doubted.previous_token.is_some());
    let methods = || {
        let requests = sidecar.simulator.requests().into_iter();
        requests.map(|r| r.method).collect::<Vec<_>>()
    };
    assert_eq!(methods().len(), 3, "refresh, call, call; no query");

    // Refused both ways: one resend, and Alipay's first reply.
    sidecar.simulator.fault(strike().times(2));
    let reply = sidecar.post("/v2/alipay.trade.create", ORDER).await;
    assert_eq!(
        header(&reply, "alipay-sub-code"),
        "aop.invalid-app-auth-token"
    );
    sidecar.sidecar.tokens().idle().await;
    assert_eq!(methods().len(), 3 + 3, "call, call, query");

    // Once it has worked, the one before is forgotten and never sent again.
    let reply = sidecar.post("/v2/alipay.trade.create", ORDER).await;
    assert_eq!(header(&reply, "alipay-code"), "10000", "{}", text(&reply));
    sidecar.sidecar.tokens().idle().await;
    let settled = stored().await;
    assert_eq!(settled.status, MerchantStatus::Authorized);
    assert!(settled.previous_token.is_none());
    let made = methods().len();
    sidecar.simulator.fault(strike());
    sidecar.post("/v2/alipay.trade.create", ORDER).await;
    sidecar.sidecar.tokens().idle().await;
    assert!(methods().len() <= made + 2, "no resend");
}

#[tokio::test]
async fn another_token_is_looked_for_within_the_deadline_of_the_call() {
    let alipay = FakeAlipay::start().await;
    let (sidecar, brittle) = crate::calls::brittle_with(|config| {
        config.upstream.gateway = Some(alipay.gateway());
        config.upstream.timeout = Duration::from_secs(1);
    })
    .await;
    let node = r#"{"code":"20001","sub_code":"aop.invalid-app-auth-token"}"#;
    alipay.answer(Answer::HeldNode(node.to_owned()));
    let answered = async {
        alipay.next().await;
        brittle.stop_finds();
        alipay.release();
    };
    let call = sidecar.post("/v2/alipay.trade.create", ORDER);
    let call = tokio::time::timeout(Duration::from_secs(5), call);
    let (reply, ()) = tokio::join!(call, answered);
    brittle.heal();
    assert_eq!(text(&reply.expect("not held up")), node);
}

#[tokio::test]
async fn v3_replies_tell_the_same() {
    let sidecar = TestSidecar::start().await;
    sidecar
        .simulator
        .fault(Fault::once(FaultKind::TokenInvalid).on("alipay.trade.query"));
    let reply = sidecar.post("/v3/alipay/trade/query", BIZ).await;
    assert_eq!(reply.status, 401, "{}", text(&reply));
    let suspect = r#"alipay_sidecar_merchants{state="suspect"}"#;
    sidecar.wait_for_metric(suspect, 1.0).await;
    let created = sidecar.post("/v3/alipay/trade/create", ORDER).await;
    assert_eq!(created.status, 200, "{}", text(&created));
    sidecar.wait_for_metric(suspect, 0.0).await;
}

fn refresh_token(merchant: &Merchant) -> &Secret<String> {
    let refresh_token = merchant.token.app_refresh_token.as_ref();
    refresh_token.expect("a refresh token")
}

fn refresh(refresh_token: &str) -> String {
    format!(r#"{{"grant_type":"refresh_token","refresh_token":"{refresh_token}"}}"#)
}

#[tokio::test]
async fn refreshes_of_one_token_that_meet_get_one_reply_byte_for_byte() {
    let sidecar = TestSidecar::start().await;
    let path = format!("/v2/{TOKEN_METHOD}");
    let body = refresh(FIRST_APP_REFRESH_TOKEN);
    let (one, other) = tokio::join!(
        sidecar.post(&path, body.clone()),
        sidecar.post(&path, body.clone())
    );
    assert_eq!(header(&one, "alipay-code"), "10000", "{}", text(&one));
    assert_eq!(one.body, other.body);
    let event = sidecar.backend.next().await.json();
    assert_eq!(
        (&event["source"], &event["bound"]),
        (&"refresh".into(), &true.into())
    );
    let late = sidecar.post(&path, body.clone()).await;
    assert_eq!(one.body, late.body);
    // As SDKs speak it, with the signature that Alipay gave.
    let uri = format!("/gateway.do?method={TOKEN_METHOD}");
    let form: String = form_urlencoded::Serializer::new(String::new())
        .append_pair("biz_content", &body)
        .finish();
    let request = || {
        Request::builder()
            .method(Method::POST)
            .uri(&uri)
            .header("content-type", "application/x-www-form-urlencoded")
    };
    let whole = sidecar.proxy(request(), form).await;
    assert!(
        text(&whole).contains(text(&one).as_str()),
        "{}",
        text(&whole)
    );
    assert!(text(&whole).contains("\"sign\""));
    assert_eq!(sidecar.simulator.requests().len(), 1);
    // Another dialect has no such reply: what Alipay says of a spent token is passed on.
    let v3 = sidecar.post("/v3/alipay/open/auth/token/app", body).await;
    assert_eq!(v3.status, 400, "{}", text(&v3));
    assert_eq!(sidecar.simulator.requests().len(), 2);
}

#[tokio::test]
async fn a_refresh_whose_token_is_a_parameter_of_its_own_takes_the_same_turn() {
    let sidecar = TestSidecar::start().await;
    let token = FIRST_APP_REFRESH_TOKEN;
    let top = format!("grant_type=refresh_token&refresh_token={token}");
    let path = format!("/v2/{TOKEN_METHOD}");
    let one = sidecar.post(&path, refresh(token)).await;
    assert_eq!(header(&one, "alipay-code"), "10000", "{}", text(&one));
    let form = [("content-type", "application/x-www-form-urlencoded")];
    for (path, body) in [
        (format!("{path}?{top}"), String::new()),
        (format!("{path}?{top}"), refresh(token)),
        (format!("{path}?grant_type=refresh_token"), refresh(token)),
        (
            format!("/gateway.do?method={TOKEN_METHOD}&{top}"),
            String::new(),
        ),
        (format!("/gateway.do?method={TOKEN_METHOD}"), top.clone()),
    ] {
        let request = Request::post(&path).header(form[0].0, form[0].1);
        let same = sidecar.proxy(request, body).await;
        assert!(
            text(&same).contains(text(&one).as_str()),
            "{path}: {}",
            text(&same)
        );
    }
    assert_eq!(sidecar.simulator.requests().len(), 1);
}

#[tokio::test]
async fn what_is_spent_stands_once_or_nothing_is_sent() {
    let sidecar = TestSidecar::start().await;
    let path = format!("/v2/{TOKEN_METHOD}");
    let v3 = "/v3/alipay/open/auth/token/app".to_owned();
    let login = "/v3/alipay/system/oauth/token".to_owned();
    let twice = r#"{"grant_type":"refresh_token","refresh_token":"R","refresh_tok\u0065n":"R"}"#;
    let coded = r#"{"grant_type":"authorization_code","code":"C","code":"C"}"#;
    let granted =
        r#"{"grant_type":"authorization_code","grant_type":"refresh_token","refresh_token":"R"}"#;
    let form = |content: &str| {
        let pairs = [("biz_content", content)];
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.extend_pairs(pairs).finish()
    };
    let gateway = format!("/gateway.do?method={TOKEN_METHOD}");
    let mut sent = Vec::new();
    for body in [twice, coded, granted] {
        sent.push((login.clone(), body.to_owned(), "parameter-duplicate"));
    }
    for body in [twice, granted] {
        sent.push((path.clone(), body.to_owned(), "parameter-duplicate"));
        sent.push((gateway.clone(), form(body), "parameter-duplicate"));
        sent.push((v3.clone(), body.to_owned(), "parameter-duplicate"));
    }
    for query in ["refresh_token=S", "refresh_token=R&refresh_tok%65n=R"] {
        for path in [&v3, &login] {
            sent.push((
                format!("{path}?{query}"),
                refresh("R"),
                "parameter-duplicate",
            ));
        }
    }
    let other = format!("{path}?refresh_token=S");
    sent.push((other, refresh("R"), "parameter-duplicate"));
    for body in ["{'refresh_token':'R'}", r#"["refresh_token"]"#] {
        sent.push((gateway.clone(), form(body), "body-invalid"));
        sent.push((v3.clone(), body.to_owned(), "body-invalid"));
        sent.push((login.clone(), body.to_owned(), "body-invalid"));
    }
    for (path, body, code) in sent {
        let content_type = match path.starts_with("/gateway.do") {
            true => "application/x-www-form-urlencoded",
            false => "application/json",
        };
        let request = Request::post(&path)
            .header("alipay-merchant", ALIAS)
            .header("content-type", content_type);
        let reply = sidecar.proxy(request, body.clone()).await;
        let error = header(&reply, "alipay-sidecar-error");
        assert_eq!(error, code, "{path} {body}: {}", text(&reply));
        assert_eq!(header(&reply, "alipay-sidecar-outcome"), "not-sent");
    }
    assert_eq!(sidecar.simulator.requests().len(), 0);
}

#[tokio::test]
async fn what_spends_nothing_guarded_goes_out_as_it_is_written() {
    let sidecar = TestSidecar::start().await;
    let lenient = "{'grant_type':'authorization_code','code':'C'}";
    let mut form = form_urlencoded::Serializer::new(String::new());
    let form = form.append_pair("biz_content", lenient).finish();
    let twice = r#"{"grant_type":"authorization_code","code":"C","code":"C"}"#;
    for (path, content_type, body) in [
        (
            format!("/gateway.do?method={TOKEN_METHOD}"),
            "application/x-www-form-urlencoded",
            form,
        ),
        (
            format!("/v2/{TOKEN_METHOD}"),
            "application/json",
            twice.to_owned(),
        ),
    ] {
        let request = Request::post(&path).header("content-type", content_type);
        let reply = sidecar.proxy(request, body).await;
        let error = header(&reply, "alipay-sidecar-error");
        assert_eq!(error, "", "{path}: {}", text(&reply));
    }
    assert_eq!(sidecar.simulator.requests().len(), 2);
}

#[tokio::test]
async fn a_refresh_of_v3_that_stands_in_its_query_takes_the_same_turn() {
    let sidecar = TestSidecar::start().await;
    let token = FIRST_APP_REFRESH_TOKEN;
    let path = "/v3/alipay/open/auth/token/app";
    let target = format!("{path}?grant_type=refresh_token&refresh_token={token}");
    let slow = Fault::once(FaultKind::Slow).delay(Duration::from_millis(600));
    sidecar.simulator.fault(slow);
    let own = format!("/v2/{TOKEN_METHOD}");
    let first = sidecar.post(&own, refresh(token));
    let second = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let request = Request::post(&target).header("alipay-timeout", "200ms");
        let late = sidecar.proxy(request, "").await;
        (late, sidecar.simulator.requests().len())
    };
    let (_, (late, sent)) = tokio::join!(first, second);
    let error = header(&late, "alipay-sidecar-error");
    assert_eq!((error, sent), ("upstream-timeout", 1), "{}", text(&late));
}

#[tokio::test]
async fn a_refresh_of_the_sidecars_own_answers_one_through_the_proxy() {
    let sidecar = TestSidecar::start().await;
    let key = MerchantKey::Token(Secret::new(FIRST_APP_AUTH_TOKEN.to_owned()));
    let merchant = sidecar.sidecar.store().find(key).await.expect("readable");
    let merchant = merchant.first().expect("known").clone();
    let tokens = sidecar.sidecar.tokens();
    let path = format!("/v2/{TOKEN_METHOD}");
    let (own, passed) = tokio::join!(
        tokens.refresh(&merchant),
        sidecar.post(&path, refresh(FIRST_APP_REFRESH_TOKEN))
    );
    let own = own.expect("refreshed");
    let event = sidecar.backend.next().await.json();
    assert_eq!(
        (&event["source"], &event["bound"]),
        (&"refresh".into(), &true.into())
    );
    assert_eq!(event["alias"], ALIAS);
    let token = own.token.app_auth_token.expose();
    assert!(text(&passed).contains(token.as_str()), "{}", text(&passed));
    assert_eq!(sidecar.simulator.requests().len(), 1);
}

#[tokio::test]
async fn a_refresh_through_the_proxy_whose_answer_was_lost_is_asked_again() {
    let sidecar = TestSidecar::start().await;
    let path = format!("/v2/{TOKEN_METHOD}");
    sidecar.simulator.fault(Fault::once(FaultKind::Html));
    let lost = sidecar.post(&path, refresh(FIRST_APP_REFRESH_TOKEN)).await;
    assert_eq!(header(&lost, "alipay-sidecar-outcome"), "unknown");
    let again = sidecar.post(&path, refresh(FIRST_APP_REFRESH_TOKEN)).await;
    assert_eq!(header(&again, "alipay-code"), "10000", "{}", text(&again));
    assert_eq!(sidecar.simulator.requests().len(), 2);
}

#[tokio::test]
async fn a_token_that_is_given_again_without_its_refresh_token_is_still_refreshed() {
    let sidecar = TestSidecar::start().await;
    let put = format!(r#"{{"app_auth_token":"{FIRST_APP_AUTH_TOKEN}","ref":"tenant-17"}}"#);
    let path = crate::authorizations::FIRST;
    let put = sidecar.admin(Method::PUT, path, put).await;
    assert_eq!(json(&put)["ref"], "tenant-17", "{}", text(&put));
    let late = Fault::once(FaultKind::TokenTimeout).on("alipay.trade.create");
    sidecar.simulator.fault(late);
    let reply = sidecar.post("/v2/alipay.trade.create", ORDER).await;
    assert_eq!(header(&reply, "alipay-code"), "10000", "{}", text(&reply));
}

#[tokio::test]
async fn the_store_keeps_what_a_restart_must_know_of_a_refused_refresh_token() {
    let parts = parts().await;
    let merchant = parts.exchanged().await;
    parts
        .simulator
        .fault(Fault::once(FaultKind::Reset).on(TOKEN_METHOD));
    parts.tokens.refresh(&merchant).await.expect_err("lost");
    parts.tokens.refresh(&merchant).await.expect_err("spent");
    let restarted = parts.first().await;
    assert!(restarted.refresh_refused);
    assert_eq!(restarted.app_id.as_str(), DEFAULT_APP_ID);
    let worked = Change::Worked {
        app_id: restarted.app_id.clone(),
        auth_app_id: restarted.auth_app_id.clone(),
        app_auth_token: restarted.token.app_auth_token.clone(),
    };
    parts.store.commit(vec![worked]).await.expect("stored");
    assert!(parts.first().await.refresh_refused);
    assert!(parts.store.entries(None, None, 9).await.is_ok());
}

#[tokio::test]
async fn nothing_is_spent_while_the_store_takes_no_writes() {
    let (sidecar, brittle) = crate::calls::brittle().await;
    let refresh = format!("{}/refresh", crate::authorizations::FIRST);
    brittle.break_commits();
    let path = format!("/v2/{TOKEN_METHOD}");
    let by_a_caller = sidecar.post(&path, self::refresh(FIRST_APP_REFRESH_TOKEN));
    for refused in [
        sidecar.admin(Method::POST, &refresh, "").await,
        by_a_caller.await,
    ] {
        let error = header(&refused, "alipay-sidecar-error");
        assert_eq!(error, "store-unavailable", "{}", text(&refused));
    }
    assert_eq!(sidecar.simulator.requests().len(), 0);
    brittle.heal();
    let refreshed = sidecar.admin(Method::POST, &refresh, "").await;
    assert_eq!(refreshed.status, 200, "{}", text(&refreshed));
}

/// Breaks the store once Alipay is asked for tokens, and before it answers.
async fn broken_while_bought(sidecar: &TestSidecar, brittle: &BrittleStore) {
    let late = Fault::once(FaultKind::Slow)
        .delay(Duration::from_secs(1))
        .on(TOKEN_METHOD);
    sidecar.simulator.fault(late);
    while sidecar.simulator.requests().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    brittle.break_commits();
}

#[tokio::test]
async fn a_bought_pair_is_stored_when_the_store_heals_however_long_that_takes() {
    let (sidecar, brittle) = crate::calls::brittle().await;
    let refresh = format!("{}/refresh", crate::authorizations::FIRST);
    let breaking = async {
        broken_while_bought(&sidecar, &brittle).await;
        // Longer than anybody used to try.
        tokio::time::sleep(Duration::from_secs(5)).await;
        brittle.heal();
    };
    let (refreshed, ()) = tokio::join!(sidecar.admin(Method::POST, &refresh, ""), breaking);
    assert_eq!(refreshed.status, 200, "{}", text(&refreshed));
    assert_eq!(sidecar.simulator.requests().len(), 1);
    let held = json(&refreshed);
    assert_eq!(held["source"], "refresh");
}

#[tokio::test]
async fn a_pair_that_a_caller_bought_is_stored_too_and_nobody_sends_the_old_one_meanwhile() {
    let (sidecar, brittle) = crate::calls::brittle().await;
    let breaking = broken_while_bought(&sidecar, &brittle);
    let path = format!("/v2/{TOKEN_METHOD}");
    let bought = sidecar.post(&path, refresh(FIRST_APP_REFRESH_TOKEN));
    let (bought, ()) = tokio::join!(bought, breaking);
    // Its caller has the only copy, and doesn't wait for a disk.
    assert_eq!(bought.status, 200, "{}", text(&bought));
    let known = async |token: &str| {
        let key = MerchantKey::Token(Secret::new(token.to_owned()));
        let found = sidecar.sidecar.store().find(key).await;
        found.expect("readable").pop()
    };
    let old = known(FIRST_APP_AUTH_TOKEN).await.expect("as before");
    let tokens = sidecar.sidecar.tokens();
    let healing = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        brittle.heal();
    };
    let (own, ()) = tokio::join!(tokens.refresh(&old), healing);
    let told = json(&bought);
    let token = told["tokens"][0]["app_auth_token"]
        .as_str()
        .expect("a token");
    assert_eq!(own.expect("found").token.app_auth_token.expose(), token);
    assert!(known(token).await.is_some());
    assert_eq!(sidecar.simulator.requests().len(), 1);
}

#[tokio::test]
async fn a_refresh_waits_for_whoever_has_the_refresh_token_that_was_imported_meanwhile() {
    let parts = parts().await;
    let before = parts.exchanged().await;
    let asked = parts.asked(TOKEN_METHOD);
    let turn = parts.tokens.turn(refresh_token(&before)).await;
    let own = tokio::spawn({
        let (tokens, before) = (parts.tokens.clone(), before.clone());
        async move { tokens.refresh(&before).await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut imported = Authorization {
        rank: Rank::AfterStored,
        ..merchant(FIRST_AUTH_APP_ID, FIRST_PID, "", None)
    };
    imported.token = before.token.clone();
    imported.token.app_refresh_token = Some(Secret::new("imported".to_owned()));
    add_merchant(&*parts.store, imported).await;
    let stored = parts.first().await;
    let other_turn = parts.tokens.turn(refresh_token(&stored)).await;
    drop(turn);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(
        parts.asked(TOKEN_METHOD),
        asked,
        "somebody else has the turn"
    );
    drop(other_turn);
    own.await
        .expect("no panic")
        .expect_err("no token of Alipay's");
    assert_eq!(parts.asked(TOKEN_METHOD), asked + 1);
}

#[tokio::test]
async fn a_code_beside_an_empty_refresh_token_is_an_exchange_of_its_own() {
    let sidecar = TestSidecar::start().await;
    let routes = [
        format!("/v2/{TOKEN_METHOD}"),
        "/v3/alipay/open/auth/token/app".to_owned(),
    ];
    let mut sent = 0;
    for route in routes {
        for auth_app_id in [FIRST_AUTH_APP_ID, SECOND_AUTH_APP_ID] {
            let code = sidecar.simulator.app_auth_code(None, &[auth_app_id]);
            let code = code.expect("a known merchant");
            let body = format!(
                r#"{{"grant_type":"authorization_code","code":"{code}","refresh_token":""}}"#
            );
            let given = sidecar.post(&route, body).await;
            let tokens = &json(&given)["tokens"];
            assert_eq!(tokens[0]["auth_app_id"], auth_app_id, "{}", text(&given));
            sent += 1;
            assert_eq!(sidecar.simulator.requests().len(), sent);
            let event = sidecar.backend.next().await.json();
            assert_eq!(event["source"], "callback");
        }
    }
}
