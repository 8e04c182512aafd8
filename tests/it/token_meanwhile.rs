//! What happens to a merchant between two steps of its token's life: removed, authorised anew, or
//! cancelled while nobody tells.

use std::time::Duration;

use alipay_sidecar::config::token::UnknownToken;
use alipay_sidecar::model::authorization::{Authorization, Rank, Revocation, Source};
use alipay_sidecar::model::merchant::{Merchant, MerchantStatus};
use alipay_sidecar::model::token::AppAuthToken;
use alipay_sidecar::net::client::Reply;
use alipay_sidecar::protocol::secret::Secret;
use alipay_sidecar::simulator::{
    DEFAULT_APP_ID, Event, FIRST_APP_AUTH_TOKEN, FIRST_AUTH_APP_ID, Fault, FaultKind,
    TriggerOptions,
};
use alipay_sidecar::store::{Change, MerchantKey, Store as _};
use alipay_sidecar::token::error::TokenError;
use alipay_sidecar::token::{ExchangeContext, TOKEN_METHOD};
use http::Method;

use crate::parts::{Parts, Setting};
use crate::support::brittle::BrittleStore;
use crate::support::{TestSidecar, header, merchant, text};

const QUERY: &str = "alipay.open.auth.token.app.query";

/// Parts with the first merchant, whose token came by an exchange.
async fn exchanged() -> (Parts, Merchant) {
    let parts = Parts::new(Setting::default()).await;
    let code = parts
        .simulator
        .app_auth_code(None, &[FIRST_AUTH_APP_ID])
        .expect("a known merchant");
    let context = ExchangeContext::default();
    let exchanged = parts
        .tokens
        .exchange(&parts.app(), &Secret::new(code), context)
        .await;
    let merchant = exchanged.expect("a good code").remove(0);
    (parts, merchant)
}

async fn remove(parts: &Parts, merchant: &Merchant) {
    let (app_id, auth_app_id) = (merchant.app_id.clone(), merchant.auth_app_id.clone());
    let change = Change::RemoveMerchant(app_id, auth_app_id);
    parts.store.commit(vec![change]).await.expect("stored");
}

async fn check_stays_removed(parts: &Parts, case: &str, refreshed: Result<Merchant, TokenError>) {
    let error = refreshed.expect_err(case);
    assert!(
        matches!(error, TokenError::Removed { .. }),
        "{case}: {error}"
    );
    assert!(parts.merchant(FIRST_AUTH_APP_ID).await.is_none(), "{case}");
    let told = parts.inbox().await;
    assert_eq!(told.len(), 1, "{case}: nothing but the exchange");
}

#[tokio::test]
async fn a_removed_merchant_is_not_refreshed() {
    let (parts, before) = exchanged().await;
    let asked = parts.asked(TOKEN_METHOD);
    remove(&parts, &before).await;
    let renewed = parts.tokens.renew(&before).await;
    check_stays_removed(&parts, "by the sidecar", renewed).await;
    let refreshed = parts.tokens.refresh(&before).await;
    check_stays_removed(&parts, "by hand", refreshed).await;
    assert_eq!(parts.asked(TOKEN_METHOD), asked);
}

/// What becomes of a refresh, if `meanwhile` happens before Alipay answers.
async fn refreshed_meanwhile(
    parts: &Parts,
    (before, is_by_hand): (&Merchant, bool),
    meanwhile: impl Future<Output = ()>,
) -> Result<Merchant, TokenError> {
    let asked = parts.asked(TOKEN_METHOD);
    let late = Fault::once(FaultKind::Slow).delay(Duration::from_secs(1));
    parts.simulator.fault(late.on(TOKEN_METHOD));
    let refreshing = async {
        match is_by_hand {
            true => parts.tokens.refresh(before).await,
            false => parts.tokens.renew(before).await,
        }
    };
    let changing = async {
        while parts.asked(TOKEN_METHOD) == asked {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        meanwhile.await;
    };
    tokio::join!(refreshing, changing).0
}

#[tokio::test]
async fn a_merchant_removed_while_it_is_refreshed_stays_removed() {
    for is_by_hand in [false, true] {
        let (parts, before) = exchanged().await;
        let removing = async {
            remove(&parts, &before).await;
            // Of a merchant without a record, a cancellation is kept by itself.
            let cancelled = Change::Revoke {
                revocation: Revocation::new(&before, Some(1)),
                entry: None,
            };
            if is_by_hand {
                parts.store.commit(vec![cancelled]).await.expect("stored");
            }
        };
        let refreshed = refreshed_meanwhile(&parts, (&before, is_by_hand), removing).await;
        let case = format!("by hand: {is_by_hand}");
        check_stays_removed(&parts, &case, refreshed).await;
    }
}

/// The operator gives `token` to the merchant of `before`.
fn added(before: &Merchant, token: &AppAuthToken) -> Change {
    let auth_app_id = before.auth_app_id.as_str();
    let given = Authorization {
        rank: Rank::AfterStored,
        token: token.clone(),
        ..merchant(auth_app_id, "2088102146225135", "replaced", None)
    };
    Change::Authorize {
        authorization: Box::new(given),
        entry: None,
    }
}

#[tokio::test]
async fn a_merchant_removed_and_added_anew_while_it_is_refreshed_keeps_what_it_was_given() {
    for is_by_hand in [false, true] {
        let (parts, before) = exchanged().await;
        let adding = async {
            parts.clock.advance_ms(50);
            remove(&parts, &before).await;
            let token = AppAuthToken {
                app_auth_token: Secret::new("given-by-the-operator".to_owned()),
                ..before.token.clone()
            };
            let added = parts.store.commit(vec![added(&before, &token)]).await;
            added.expect("stored");
            // The reply comes later than that.
            parts.clock.advance_ms(50);
        };
        let refreshed = refreshed_meanwhile(&parts, (&before, is_by_hand), adding).await;
        let stored = parts.merchant(FIRST_AUTH_APP_ID).await.expect("added");
        for merchant in [refreshed.expect("the record of today"), stored] {
            let token = merchant.token.app_auth_token.expose();
            assert_eq!(token, "given-by-the-operator", "by hand: {is_by_hand}");
        }
    }
}

#[tokio::test]
async fn a_bought_pair_that_waits_for_the_store_outlives_its_own_token_given_again() {
    for is_by_hand in [false, true] {
        let (sidecar, brittle) = crate::calls::brittle().await;
        let before = first(&sidecar).await;
        answer_late(&sidecar);
        let tokens = sidecar.sidecar.tokens();
        let refreshing = async {
            match is_by_hand {
                true => tokens.refresh(&before).await,
                false => tokens.renew(&before).await,
            }
        };
        let adding = async {
            fail_once(&sidecar, &brittle).await;
            let store = sidecar.sidecar.store();
            let again = store.commit(vec![added(&before, &before.token)]).await;
            again.expect("stored");
        };
        let (refreshed, ()) = tokio::join!(refreshing, adding);
        let bought = newest_token(&sidecar);
        let stored = first(&sidecar).await;
        assert!(stored.token.app_refresh_token.is_some());
        for merchant in [refreshed.expect("stored at last"), stored] {
            let token = merchant.token.app_auth_token.expose();
            assert_eq!(*token, bought, "by hand: {is_by_hand}");
        }
    }
}

#[tokio::test]
async fn what_waited_for_the_store_is_no_newer_where_another_token_of_its_reply_is_refused() {
    let (sidecar, brittle) = crate::calls::brittle().await;
    let before = first(&sidecar).await;
    // The same app of ours.
    let parts = Parts::new(Setting::default()).await;
    let app = parts.app();
    let node = format!(
        r#"{{"code":"10000","tokens":[{{"auth_app_id":"{FIRST_AUTH_APP_ID}","app_auth_token":"bought"}},
        {{"auth_app_id":"2021000000000999","app_auth_token":"{FIRST_APP_AUTH_TOKEN}"}}]}}"#
    );
    let tokens = sidecar.sidecar.tokens();
    let storing = tokens.absorb(&app, node.as_bytes(), Source::Callback);
    let authorising = async {
        refuse_once(&brittle).await;
        let token = AppAuthToken {
            app_auth_token: Secret::new("authorised".to_owned()),
            ..before.token.clone()
        };
        let store = sidecar.sidecar.store();
        let authorised = store.commit(vec![added(&before, &token)]).await;
        authorised.expect("stored");
    };
    let ((), absorbed) = tokio::join!(authorising, storing);
    assert_eq!(absorbed.expect("told of one").len(), 1);
    let stored = first(&sidecar).await;
    assert_eq!(stored.token.app_auth_token.expose(), "authorised");
}

/// The next answer to what buys tokens takes a while, so that the store can be broken meanwhile.
fn answer_late(sidecar: &TestSidecar) {
    let late = Fault::once(FaultKind::Slow).delay(Duration::from_millis(300));
    sidecar.simulator.fault(late.on(TOKEN_METHOD));
}

/// Once something was sent, the store refuses one commit.
async fn fail_once(sidecar: &TestSidecar, brittle: &BrittleStore) {
    while sidecar.simulator.requests().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    refuse_once(brittle).await;
}

/// The store refuses one commit.
async fn refuse_once(brittle: &BrittleStore) {
    brittle.break_commits();
    while brittle.refused() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    brittle.heal();
}

async fn first(sidecar: &TestSidecar) -> Merchant {
    let app_id = DEFAULT_APP_ID.parse().expect("an id");
    let auth_app_id = FIRST_AUTH_APP_ID.parse().expect("an id");
    let key = MerchantKey::Exact(app_id, auth_app_id);
    let found = sidecar.sidecar.store().find(key).await;
    found.expect("readable").pop().expect("stored")
}

/// The newest token that the simulator has given.
fn newest_token(sidecar: &TestSidecar) -> String {
    let state = sidecar.simulator.state();
    let grants = state["grants"].as_array().expect("a list");
    let token = grants.last().map(|grant| &grant["app_auth_token"]);
    token.and_then(|t| t.as_str()).expect("a token").to_owned()
}

#[tokio::test]
async fn what_is_authorised_while_a_bought_pair_waits_for_the_store_is_newer() {
    for is_by_hand in [false, true] {
        let (sidecar, brittle) = crate::calls::brittle().await;
        let before = first(&sidecar).await;
        answer_late(&sidecar);
        let tokens = sidecar.sidecar.tokens();
        let refreshing = async {
            match is_by_hand {
                true => tokens.refresh(&before).await,
                false => tokens.renew(&before).await,
            }
        };
        let authorising = async {
            fail_once(&sidecar, &brittle).await;
            let options = TriggerOptions {
                wait: true,
                ..TriggerOptions::default()
            };
            let pushed = sidecar.simulator.trigger(Event::ReAuthorize, &options);
            pushed.await.expect("the simulator knows how");
        };
        let (refreshed, ()) = tokio::join!(refreshing, authorising);
        let authorised = newest_token(&sidecar);
        let stored = first(&sidecar).await;
        assert_eq!(stored.source.as_str(), "push", "by hand: {is_by_hand}");
        for merchant in [refreshed.expect("the newer one"), stored] {
            let token = merchant.token.app_auth_token.expose();
            assert_eq!(*token, authorised, "by hand: {is_by_hand}");
        }
    }
}

/// How often Alipay was asked what a token is.
fn queries(sidecar: &TestSidecar) -> usize {
    let requests = sidecar.simulator.requests().into_iter();
    requests.filter(|request| request.method == QUERY).count()
}

/// A call tagged by a token.
async fn call_with(sidecar: &TestSidecar, token: &str) -> Reply {
    let uri = format!(
        "/gateway.do?method=alipay.trade.query&app_auth_token={token}&biz_content=%7B%22out_trade_no%22%3A%221%22%7D"
    );
    let request = http::Request::builder().method(Method::POST).uri(uri);
    sidecar.proxy(request, "").await
}

#[tokio::test]
async fn a_held_token_of_a_cancelled_merchant_is_proved_again() {
    let sidecar = TestSidecar::start_with(|config| {
        config.tokens.unknown = UnknownToken::Learn;
    })
    .await;
    // The merchant cancels and authorises anew, and neither message arrives.
    sidecar.simulator.revoke(None, None).expect("one merchant");
    let options = TriggerOptions {
        attempts: Some(1),
        wait: true,
        url: Some("http://127.0.0.1:9/".to_owned()),
        ..TriggerOptions::default()
    };
    let pushed = sidecar.simulator.trigger(Event::ReAuthorize, &options);
    pushed.await.expect("the simulator knows how");
    let authorised = newest_token(&sidecar);

    // It holds, but the record's own stands, until Alipay refuses that.
    let refused = text(&call_with(&sidecar, &authorised).await);
    assert!(refused.contains("aop.invalid-app-auth-token"), "{refused}");
    sidecar
        .wait_for_metric(r#"alipay_sidecar_merchants{state="revoked"}"#, 1.0)
        .await;
    let reply = call_with(&sidecar, &authorised).await;
    assert!(
        text(&reply).contains("ACQ.TRADE_NOT_EXIST"),
        "{}",
        text(&reply)
    );
    let stored = first(&sidecar).await;
    assert_eq!(stored.token.app_auth_token.expose(), &authorised);
    assert_eq!(stored.status, MerchantStatus::Authorized);
    // Asked: what the new one is, whether the old one holds, what the new one is.
    assert_eq!(queries(&sidecar), 3);

    // Of what stays bad Alipay is asked once, the token that is in force not even that.
    sidecar.simulator.revoke(None, None).expect("one merchant");
    let cancelled = Change::Revoke {
        revocation: Revocation::new(&stored, None),
        entry: None,
    };
    let store = sidecar.sidecar.store();
    store.commit(vec![cancelled]).await.expect("stored");
    for token in [FIRST_APP_AUTH_TOKEN, &authorised].repeat(3) {
        let reply = call_with(&sidecar, token).await;
        let error = header(&reply, "alipay-sidecar-error");
        assert_eq!(error, "merchant-unauthorized", "{}", text(&reply));
    }
    assert_eq!(queries(&sidecar), 3 + 1);
}

#[tokio::test]
async fn a_held_token_is_asked_about_once_though_nobody_waits_for_the_answer() {
    let (parts, merchant) = exchanged().await;
    let (app, token) = (parts.app(), &merchant.token.app_auth_token);
    let late = Fault::once(FaultKind::Slow).delay(Duration::from_millis(300));
    parts.simulator.fault(late.on(QUERY));
    let asking = parts.tokens.learn_again(&app, token);
    let left = tokio::time::timeout(Duration::from_millis(100), asking).await;
    assert!(left.is_err(), "the answer takes longer");
    parts.tokens.idle().await;
    parts.tokens.learn_again(&app, token).await;
    assert_eq!(parts.asked(QUERY), 1);
}
