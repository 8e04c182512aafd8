//! What happens to a merchant between two steps of its token's life: authorised anew while a pair waits
//! for the disk.

use std::time::Duration;

use alipay_sidecar::model::merchant::Merchant;
use alipay_sidecar::simulator::{
    DEFAULT_APP_ID, Event, FIRST_AUTH_APP_ID, Fault, FaultKind, TriggerOptions,
};
use alipay_sidecar::store::MerchantKey;
use alipay_sidecar::token::TOKEN_METHOD;

use crate::support::TestSidecar;

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
        let late = Fault::once(FaultKind::Slow).delay(Duration::from_millis(300));
        sidecar.simulator.fault(late.on(TOKEN_METHOD));
        let tokens = sidecar.sidecar.tokens();
        let refreshing = async {
            match is_by_hand {
                true => tokens.refresh(&before).await,
                false => tokens.renew(&before).await,
            }
        };
        let authorising = async {
            while sidecar.simulator.requests().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            brittle.break_commits();
            while brittle.refused() == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            brittle.heal();
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
