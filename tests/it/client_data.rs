//! Client data whose key the sidecar has to ask Alipay for.

use std::sync::Arc;

use alipay_sidecar::clock::{Clock, ManualClock, SystemClock};
use alipay_sidecar::net::client::Reply;
use alipay_sidecar::protocol::secret::Secret;
use alipay_sidecar::simulator::{
    DEFAULT_APP_ID, FIRST_AUTH_APP_ID, FIRST_ENCRYPT_KEY, SECOND_AUTH_APP_ID, SimulatedMerchant,
};
use alipay_sidecar::store::MerchantKey;
use futures_util::future::join_all;
use http::{Method, Request, StatusCode};

use crate::support::{ALIAS, TestSidecar, add_merchant, header, merchant, text};

const OWN_KEY: &str = "aXN2LWNvbnRlbnQta2V5IQ==";
const PHONE: &str = r#"{"code":"10000","msg":"Success","mobile":"13800000000"}"#;
const GET: &str = "alipay.open.auth.app.aes.get";

/// A sidecar that may ask, and its clock.
async fn start() -> (TestSidecar, ManualClock) {
    let clock = ManualClock::new(SystemClock.now_ms());
    let told = clock.clone();
    let encrypting = |config: &mut alipay_sidecar::config::Config| {
        config.apps[0].encrypt_key = Some(Secret::new(OWN_KEY.to_owned()));
    };
    let build =
        |_: &_, builder: alipay_sidecar::sidecar::SidecarBuilder| builder.clock(Arc::new(told));
    let sidecar = TestSidecar::start_built(encrypting, build).await;
    let simulator = &sidecar.simulator;
    simulator
        .set_encrypt_key(DEFAULT_APP_ID, Some(OWN_KEY))
        .expect("a key");
    (sidecar, clock)
}

fn given(sidecar: &TestSidecar, auth_app_id: &str) -> String {
    let given = sidecar
        .simulator
        .client_data(DEFAULT_APP_ID, auth_app_id, PHONE);
    given.expect("the merchant has a key")
}

async fn open(sidecar: &TestSidecar, selector: &str, message: &str) -> Reply {
    let request = Request::builder()
        .method(Method::POST)
        .uri("/v2/client-data/decrypt")
        .header("alipay-merchant", selector);
    sidecar.proxy(request, message.to_owned()).await
}

fn is_opened(reply: &Reply) {
    assert_eq!(reply.status, StatusCode::OK, "{}", text(reply));
    assert_eq!(text(reply), PHONE);
}

fn is_not_opened(reply: &Reply, hint: &str) {
    let code = header(reply, "alipay-sidecar-error");
    assert_eq!(code, "response-decryption-failed", "{}", text(reply));
    assert_eq!(header(reply, "alipay-sidecar-outcome"), "not-sent");
    assert!(text(reply).contains(hint), "{}", text(reply));
    assert!(text(reply).contains("--encrypt-key"), "{}", text(reply));
}

fn asked(sidecar: &TestSidecar) -> usize {
    let requests = sidecar.simulator.requests();
    requests.iter().filter(|r| r.method == GET).count()
}

async fn stored_key(sidecar: &TestSidecar) -> Option<Secret<String>> {
    let key = MerchantKey::Alias(ALIAS.parse().expect("an alias"));
    let found = sidecar.sidecar.store().find(key).await.expect("readable");
    assert!(!found[0].auth_time_estimated);
    found[0].encrypt_key.clone()
}

#[tokio::test]
async fn a_missing_key_is_asked_for_once_and_kept() {
    let (sidecar, _clock) = start().await;
    assert_eq!(stored_key(&sidecar).await, None);
    let message = given(&sidecar, FIRST_AUTH_APP_ID);
    let together = (0..20).map(|_| open(&sidecar, ALIAS, &message));
    join_all(together).await.iter().for_each(is_opened);
    is_opened(&open(&sidecar, FIRST_AUTH_APP_ID, &message).await);
    assert_eq!(asked(&sidecar), 1);
    let kept = Secret::new(FIRST_ENCRYPT_KEY.to_owned());
    assert_eq!(stored_key(&sidecar).await, Some(kept));
}

#[tokio::test]
async fn the_header_of_the_token_names_the_merchant_here_too() {
    let (sidecar, _clock) = start().await;
    let message = given(&sidecar, FIRST_AUTH_APP_ID);
    let asked = async |headers: &[(&str, &str)]| {
        let mut request = Request::post("/v2/client-data/decrypt");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        sidecar.proxy(request, message.clone()).await
    };
    let tag = format!("merchant:{ALIAS}");
    let tag = ("alipay-app-auth-token", tag.as_str());
    is_opened(&asked(&[tag]).await);
    let refused = asked(&[tag, ("alipay-merchant", "self")]).await;
    assert_eq!(
        header(&refused, "alipay-sidecar-error"),
        "merchant-conflict"
    );
}

#[tokio::test]
async fn a_key_that_changed_is_asked_for_again() {
    let (sidecar, clock) = start().await;
    is_opened(&open(&sidecar, ALIAS, &given(&sidecar, FIRST_AUTH_APP_ID)).await);
    let set = Request::builder()
        .method(Method::POST)
        .uri("/m/self/v2/alipay.open.auth.app.aes.set");
    let body = format!(r#"{{"merchant_app_id":"{FIRST_AUTH_APP_ID}"}}"#);
    let set = sidecar.proxy(set, body).await;
    assert_eq!(header(&set, "alipay-code"), "10000", "{}", text(&set));
    let message = given(&sidecar, FIRST_AUTH_APP_ID);
    is_opened(&open(&sidecar, ALIAS, &message).await);
    is_opened(&open(&sidecar, ALIAS, &message).await);
    assert_eq!(asked(&sidecar), 2);
    // What no key of this merchant's opens makes us ask once a minute at most.
    let others = given(&sidecar, SECOND_AUTH_APP_ID);
    for _ in 0..3 {
        is_not_opened(&open(&sidecar, ALIAS, &others).await, "doesn't open it");
    }
    assert_eq!(asked(&sidecar), 3);
    clock.advance_ms(60_000);
    is_not_opened(&open(&sidecar, ALIAS, &others).await, "doesn't open it");
    assert_eq!(asked(&sidecar), 4);
    is_opened(&open(&sidecar, ALIAS, &message).await);
}

#[tokio::test]
async fn a_refusal_is_told_and_remembered_for_a_minute() {
    const KEYLESS: &str = "2021000000001003";
    const PID: &str = "2088000000001003";
    let (sidecar, clock) = start().await;
    sidecar
        .simulator
        .add_merchant(SimulatedMerchant::new(KEYLESS, PID));
    let stranger = merchant(
        KEYLESS,
        PID,
        "202611BB00000000000000000000000000001003",
        None,
    );
    add_merchant(&*sidecar.sidecar.store(), stranger).await;
    let message = given(&sidecar, FIRST_AUTH_APP_ID);
    for _ in 0..3 {
        let reply = open(&sidecar, KEYLESS, &message).await;
        is_not_opened(&reply, "isv.invalid-auth-relations");
    }
    assert_eq!(asked(&sidecar), 1);
    clock.advance_ms(60_000);
    is_not_opened(&open(&sidecar, KEYLESS, &message).await, "refused");
    assert_eq!(asked(&sidecar), 2);
    // Another merchant is asked about all the same.
    is_opened(&open(&sidecar, ALIAS, &message).await);
}

#[tokio::test]
async fn without_a_key_of_its_own_the_app_cant_ask() {
    let sidecar = TestSidecar::start().await;
    let message = given(&sidecar, FIRST_AUTH_APP_ID);
    let reply = open(&sidecar, ALIAS, &message).await;
    is_not_opened(&reply, "has no `encrypt_key`");
    assert_eq!(asked(&sidecar), 0);
}

#[tokio::test]
async fn an_import_takes_a_key_that_is_one() {
    let (sidecar, _clock) = start().await;
    for (key, status) in [
        (FIRST_ENCRYPT_KEY, 200),
        ("c2hvcnQ=", 400),
        ("no base64!", 400),
    ] {
        let body = format!(
            r#"{{"app_auth_token":"202611BB00000000000000000000000000000009","encrypt_key":"{key}"}}"#
        );
        let path = format!("/api/merchants/{DEFAULT_APP_ID}/2021000000001009");
        let reply = sidecar.admin(Method::PUT, &path, body).await;
        assert_eq!(reply.status.as_u16(), status, "{}", text(&reply));
        assert!(status == 200 || text(&reply).contains("encrypt_key"));
        assert!(!text(&reply).contains(key), "{}", text(&reply));
    }
    let message = given(&sidecar, FIRST_AUTH_APP_ID);
    is_opened(&open(&sidecar, "2021000000001009", &message).await);
    assert_eq!(asked(&sidecar), 0);
}
