//! Exchanges and refreshes, and the browser's way to them.

use std::time::Duration;

use alipay_sidecar::gateway::error::Outcome;
use alipay_sidecar::model::merchant::Merchant;
use alipay_sidecar::protocol::secret::Secret;
use alipay_sidecar::simulator::{
    FIRST_APP_AUTH_TOKEN, FIRST_APP_REFRESH_TOKEN, FIRST_AUTH_APP_ID, Fault, FaultKind,
    SECOND_AUTH_APP_ID,
};
use alipay_sidecar::store::Store;
use alipay_sidecar::token::error::TokenError;
use alipay_sidecar::token::{ExchangeContext, TOKEN_METHOD, TokenStatus};

use crate::parts::{Parts, Setting};

const REFRESHES: &str = "alipay_sidecar_token_refreshes_total";

async fn parts() -> Parts {
    Parts::new(Setting::default()).await
}

impl Parts {
    fn code(&self, auth_app_ids: &[&str]) -> Secret<String> {
        let code = self.simulator.app_auth_code(None, auth_app_ids);
        Secret::new(code.expect("known merchants"))
    }

    /// A merchant whose token came by an exchange.
    async fn authorized(&self) -> Merchant {
        let code = self.code(&[FIRST_AUTH_APP_ID]);
        let context = ExchangeContext::default();
        let exchanged = self.tokens.exchange(&self.app(), &code, context).await;
        exchanged.expect("a good code").remove(0)
    }
}

#[tokio::test]
async fn one_code_gives_every_merchant_it_names_and_is_exchanged_once() {
    let parts = parts().await;
    let code = parts.code(&[FIRST_AUTH_APP_ID, SECOND_AUTH_APP_ID]);
    let context = ExchangeContext {
        reference: Some("shop-17".to_owned()),
        bound: true,
    };
    let app = parts.app();
    let (first, second) = tokio::join!(
        parts.tokens.exchange(&app, &code, context.clone()),
        parts.tokens.exchange(&app, &code, context),
    );
    assert_eq!(first.expect("exchanged").len(), 2);
    assert_eq!(second.expect("joined").len(), 2);
    let later = parts
        .tokens
        .exchange(&app, &code, ExchangeContext::default())
        .await
        .expect("remembered");
    let reference = later[0].reference.as_deref();
    assert_eq!((later.len(), reference), (2, Some("shop-17")));
    assert_eq!(parts.asked(TOKEN_METHOD), 1);
    let inbox = parts.inbox().await;
    assert_eq!(inbox.len(), 2);
    let event = inbox[0].0.event.clone().expect("an event");
    assert!(event.bound);
    assert_eq!(event.source, "callback");
}

#[tokio::test]
async fn rubbish_makes_us_ask_alipay_for_a_few_codes_at_once_only() {
    let parts = parts().await;
    let slow = Fault::once(FaultKind::Slow).times(1000);
    parts.simulator.fault(slow.delay(Duration::from_secs(1)));
    let app = parts.app();
    let codes: Vec<_> = (0..40).map(|n| Secret::new(format!("no-{n}"))).collect();
    let asked = codes.iter().map(|code| {
        let context = ExchangeContext::default();
        parts.tokens.exchange(&app, code, context)
    });
    let answers = futures_util::future::join_all(asked).await;
    let refused = answers
        .iter()
        .filter(|answer| matches!(answer, Err(TokenError::Overloaded)));
    assert_eq!((refused.count(), parts.asked(TOKEN_METHOD)), (24, 16));
}

#[tokio::test]
async fn a_bad_code_is_a_refusal() {
    let parts = parts().await;
    for code in ["unknown", "", "a b"] {
        let code = Secret::new(code.to_owned());
        let context = ExchangeContext::default();
        let refused = parts.tokens.exchange(&parts.app(), &code, context).await;
        let error = refused.expect_err("no such code");
        assert!(error.is_refusal(), "{error}");
        assert_eq!(error.outcome(), Outcome::NotSent);
    }
    assert!(parts.inbox().await.is_empty());
}

#[tokio::test]
async fn a_lost_answer_is_unknown_and_not_asked_for_again() {
    let parts = parts().await;
    for kind in [FaultKind::Reset, FaultKind::Tampered, FaultKind::Unsigned] {
        parts.simulator.fault(Fault::once(kind));
        let asked = parts.asked(TOKEN_METHOD);
        let code = parts.code(&[]);
        let context = ExchangeContext::default();
        let lost = parts.tokens.exchange(&parts.app(), &code, context).await;
        let error = lost.expect_err("no usable answer");
        assert!(!error.is_refusal(), "{error}");
        assert_eq!(error.outcome(), Outcome::Unknown, "{error}");
        assert_eq!(parts.asked(TOKEN_METHOD), asked + 1);
    }
}

#[tokio::test]
async fn a_refresh_is_made_once_and_keeps_the_former_pair() {
    let parts = parts().await;
    let before = parts.authorized().await;
    let (first, second) =
        tokio::join!(parts.tokens.refresh(&before), parts.tokens.refresh(&before));
    let (first, second) = (first.expect("refreshed"), second.expect("joined"));
    assert!(first.token.app_auth_token == second.token.app_auth_token);
    assert!(first.token.app_auth_token != before.token.app_auth_token);
    let kept = first.previous_token.expect("kept");
    assert!(kept.app_auth_token == before.token.app_auth_token);
    // Who still knows the old record gets today's without a call.
    let late = parts.tokens.refresh(&before).await.expect("known");
    assert!(late.token.app_auth_token == second.token.app_auth_token);
    assert_eq!(parts.asked(TOKEN_METHOD), 2);
    assert!((parts.count(REFRESHES, "refreshed") - 1.0).abs() < 0.1);
    let sources: Vec<_> = parts
        .inbox()
        .await
        .into_iter()
        .map(|(e, _)| e.event)
        .collect();
    let refreshes = sources.iter().flatten().filter(|e| e.source == "refresh");
    assert_eq!(refreshes.count(), 1);
}

#[tokio::test]
async fn a_refresh_whose_answer_is_lost_can_be_made_again() {
    let parts = parts().await;
    let before = parts.authorized().await;
    parts.simulator.fault(Fault::once(FaultKind::Html));
    let lost = parts.tokens.refresh(&before).await.expect_err("lost");
    assert_eq!(lost.outcome(), Outcome::Unknown);
    let stored = parts.merchant(FIRST_AUTH_APP_ID).await.expect("kept");
    assert!(stored.token.app_auth_token == before.token.app_auth_token);
    parts.tokens.refresh(&before).await.expect("again");
    assert!((parts.count(REFRESHES, "unknown") - 1.0).abs() < 0.1);
}

#[tokio::test]
async fn a_refresh_waits_for_the_one_that_passes_through_the_proxy() {
    let parts = parts().await;
    let before = parts.authorized().await;
    let refresh_token = before.token.app_refresh_token.clone().expect("given");
    let turn = parts.tokens.turn(&refresh_token).await;
    let own = tokio::spawn({
        let (tokens, before) = (parts.tokens.clone(), before.clone());
        async move { tokens.refresh(&before).await }
    });
    let node = format!(
        r#"{{"auth_app_id":"{FIRST_AUTH_APP_ID}","app_auth_token":"passed-through","app_refresh_token":"r"}}"#
    );
    let source = alipay_sidecar::model::authorization::Source::Refresh;
    let app = parts.app();
    let absorbed = parts.tokens.absorb(&app, node.as_bytes(), source).await;
    absorbed.expect("stored");
    drop(turn);
    let own = own.await.expect("no panic").expect("found");
    assert_eq!(own.token.app_auth_token.expose(), "passed-through");
    assert_eq!(parts.asked(TOKEN_METHOD), 1);
}

#[tokio::test]
async fn tokens_of_somebody_elses_call_are_absorbed() {
    let parts = parts().await;
    let node = format!(
        r#"{{"code":"10000","tokens":[{{"auth_app_id":"{FIRST_AUTH_APP_ID}","app_auth_token":"{FIRST_APP_AUTH_TOKEN}","app_refresh_token":"{FIRST_APP_REFRESH_TOKEN}"}}]}}"#
    );
    let source = alipay_sidecar::model::authorization::Source::Callback;
    let app = parts.app();
    let absorbed = parts.tokens.absorb(&app, node.as_bytes(), source).await;
    assert_eq!(absorbed.expect("stored").len(), 1);
    assert!(parts.merchant(FIRST_AUTH_APP_ID).await.is_some());
    let none = parts.tokens.absorb(&app, b"{\"code\":\"10000\"}", source);
    assert!(none.await.is_err());
}

#[tokio::test]
async fn a_cancelled_token_is_invalid_and_a_live_one_valid() {
    let parts = parts().await;
    let merchant = parts.authorized().await;
    let status = parts.tokens.query(&merchant).await;
    assert_eq!(status.expect("answered"), TokenStatus::Valid);
    parts
        .simulator
        .revoke(None, Some(FIRST_AUTH_APP_ID))
        .expect("known");
    let status = parts.tokens.query(&merchant).await;
    assert_eq!(status.expect("answered"), TokenStatus::Invalid);
    assert!(parts.store.is_writable());
}

#[tokio::test]
async fn a_token_of_another_record_doesnt_cost_the_others_of_its_batch() {
    let parts = parts().await;
    let held = parts.authorized().await;
    let taken = held.token.app_auth_token.expose();
    let third = "2021000000001003";
    let node = format!(
        r#"{{"code":"10000","msg":"Success","tokens":[
            {{"auth_app_id":"{SECOND_AUTH_APP_ID}","app_auth_token":"{taken}"}},
            {{"auth_app_id":"{third}","app_auth_token":"202611BBnew"}}]}}"#
    );
    parts.simulator.answer(TOKEN_METHOD, node);
    let code = parts.code(&[SECOND_AUTH_APP_ID]);
    let context = ExchangeContext::default();
    let exchanged = parts.tokens.exchange(&parts.app(), &code, context).await;
    let exchanged = exchanged.expect("one token is good");
    let ids: Vec<_> = exchanged.iter().map(|m| m.auth_app_id.as_str()).collect();
    assert_eq!(ids, [third]);
    assert!(parts.merchant(SECOND_AUTH_APP_ID).await.is_none());
    let first = parts.merchant(FIRST_AUTH_APP_ID).await.expect("as before");
    assert_eq!(first.token.app_auth_token.expose(), taken);
}
