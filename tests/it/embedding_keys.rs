//! Apps whose private key a host never shows: its KMS signs.

use std::sync::Arc;

use alipay_sidecar::admin::configuration::ReloadError;
use alipay_sidecar::gateway::app::Signers;
use alipay_sidecar::gateway::signer::{SignError, Signer};
use alipay_sidecar::model::app::{App, PrivateKey};
use alipay_sidecar::model::app_keys::{AppKeysError, SigningKey};
use alipay_sidecar::model::id::AppId;
use alipay_sidecar::protocol::key::{AppPrivateKey, RsaPublicKey};
use alipay_sidecar::protocol::signature::SignType;
use alipay_sidecar::sidecar::{BuildError, Sidecar};
use alipay_sidecar::simulator::{DEFAULT_APP_ID, Event, Simulator, SpiCall, TriggerOptions};
use alipay_sidecar::store::{Change, Store as _};
use futures_util::future::BoxFuture;
use http::{Method, Request};

use crate::certificates::certified;
use crate::support::{TestSidecar, app, header, json, keys, text, until};

const CREATE: &str = "/v2/alipay.trade.create";
const ORDER: &str = r#"{"out_trade_no":"1","total_amount":"8.80","subject":"tea"}"#;

/// Has the keys of that name, and shows nobody any.
struct Kms(&'static [&'static str]);

struct KmsKey(AppPrivateKey);

impl Signers for Kms {
    fn signer(&self, _: &App, key: &SigningKey) -> Arc<dyn Signer> {
        assert!(key.private.is_none(), "it is elsewhere");
        let own = |name: &&str| AppPrivateKey::from_text(&keys::private(name)).expect("a key");
        let mut own = self.0.iter().map(own);
        let found = own.find(|own| *own.public_key() == key.public);
        Arc::new(KmsKey(found.expect("one of its keys")))
    }
}

impl Signer for KmsKey {
    fn sign(&self, how: SignType, content: Vec<u8>) -> BoxFuture<'_, Result<String, SignError>> {
        Box::pin(async move { Ok(self.0.sign(how, &content)?) })
    }
}

fn public(name: &str) -> RsaPublicKey {
    RsaPublicKey::from_text(&keys::public(name)).expect("a key")
}

/// Calls on both dialects, a notification, and an answer that is signed.
async fn check_all(sidecar: &TestSidecar) {
    let reply = sidecar.post(CREATE, ORDER).await;
    assert_eq!(json(&reply)["code"], "10000", "{}", text(&reply));
    assert_eq!(header(&reply, "alipay-sidecar-verified"), "true");
    let request = Request::post("/v3/alipay/trade/query").header("alipay-merchant", "shop");
    let reply = sidecar.proxy(request, r#"{"out_trade_no":"1"}"#).await;
    assert_eq!(
        header(&reply, "alipay-sidecar-verified"),
        "true",
        "{}",
        text(&reply)
    );
    sidecar.backend.answer_next(200, "{}");
    let url = format!("{}/alipay/spi/stock", sidecar.webhook);
    let call = SpiCall {
        method: "spi.alipay.order.stock.query".to_owned(),
        ..SpiCall::default()
    };
    let record = sidecar.simulator.spi(&url, &call).await.expect("made");
    assert_eq!(record.problem, None, "{}", record.body);
    let options = TriggerOptions::default();
    let sent = sidecar.simulator.trigger(Event::Payment, &options);
    let id = sent.await.expect("sent").notify_id;
    let is_acked = || {
        let mut all = sidecar.simulator.notifications().into_iter();
        let sent = all.find(|one| one.notify_id == id);
        sent.is_some_and(|sent| sent.attempts.iter().any(|it| it.status == Some(200)))
    };
    until("it is acked", is_acked).await;
    let shown = sidecar.admin(Method::GET, "/api/apps", "").await;
    let shown = &json(&shown)["items"][0];
    assert_eq!(
        shown["app_public_key"],
        public("app2048").to_bare_base64(),
        "{shown}"
    );
    assert_eq!(shown["key_bits"], 2048);
    assert_eq!(shown["private_key_elsewhere"], true);
}

#[tokio::test]
async fn a_key_that_is_elsewhere_signs_by_the_signers_alone() {
    let sidecar = TestSidecar::start_built(
        |config| {
            let public = keys::public("app2048");
            config.apps[0].private_key = PrivateKey::Elsewhere(Some(public));
        },
        |_, builder| builder.signers(Arc::new(Kms(&["app2048"]))),
    )
    .await;
    check_all(&sidecar).await;
}

#[tokio::test]
async fn in_certificate_mode_the_certificate_tells_the_public_half() {
    let sidecar = TestSidecar::start_whole(
        |simulator, config| {
            certified(simulator, config);
            config.apps[0].private_key = PrivateKey::Elsewhere(None);
        },
        |_, builder| builder.signers(Arc::new(Kms(&["app2048"]))),
    )
    .await;
    check_all(&sidecar).await;
    let shown = sidecar.admin(Method::GET, "/api/apps", "").await;
    assert!(json(&shown)["items"][0]["app_cert_sn"].is_string());
    let shown = sidecar.sidecar.configuration();
    let shown = serde_json::to_string(&shown).expect("JSON");
    assert!(shown.contains(r#""private_key":"elsewhere""#), "{shown}");
}

/// Of two keys each has its certificate, in whatever way the public halves are told.
#[tokio::test]
async fn two_keys_that_are_elsewhere_have_a_certificate_each() {
    let sidecar = TestSidecar::start().await;
    let mut config = sidecar.config.clone();
    certified(&sidecar.simulator, &mut config);
    let other = certificate_of(&sidecar.simulator, "app4096");
    let app = &mut config.apps[0];
    app.certificates
        .as_mut()
        .expect("just made")
        .app
        .push(other);
    let told = |name: &str| PrivateKey::Elsewhere(Some(keys::public(name)));
    let ways = [
        (PrivateKey::Elsewhere(None), PrivateKey::Elsewhere(None)),
        (told("app2048"), PrivateKey::Elsewhere(None)),
        (PrivateKey::Elsewhere(None), told("app4096")),
        (told("app2048"), told("app4096")),
    ];
    for (current, next) in ways {
        (app.private_key, app.private_key_next) = (current, Some(next));
        let read = app.parse_keys().expect("good keys");
        let next = read.next.expect("the next");
        assert_eq!(read.current.public, public("app2048"));
        assert_eq!(next.public, public("app4096"));
        assert!(read.current.certificate.is_some() && next.certificate.is_some());
        assert_ne!(read.current.certificate, next.certificate);
    }
    // The first certificate would be the wrong one.
    (app.private_key, app.private_key_next) = (PrivateKey::Elsewhere(None), Some(told("app2048")));
    let read = app.parse_keys().expect("good keys");
    assert_eq!(read.current.public, public("app4096"));
}

fn certificate_of(simulator: &Simulator, name: &str) -> String {
    let set = simulator.set_app_public_key(DEFAULT_APP_ID, &keys::public(name));
    set.expect("an app");
    let files = simulator.certificate_files(DEFAULT_APP_ID);
    files.expect("files").app_cert
}

#[tokio::test]
async fn a_key_that_nobody_has_is_refused() {
    let sidecar = TestSidecar::start().await;
    let mut config = sidecar.config.clone();
    config.apps[0].private_key = PrivateKey::Elsewhere(Some(keys::public("app2048")));
    let builder = Sidecar::builder(config.clone()).store(sidecar.sidecar.store());
    let Err(BuildError::App(error)) = builder.without_audit().build().await else {
        panic!("it was built");
    };
    let said = error.to_string();
    assert!(said.contains(DEFAULT_APP_ID), "{said}");
    assert!(said.contains("no signer for it was handed in"), "{said}");
    let reloaded = sidecar.sidecar.reload(config.clone()).await;
    assert!(matches!(reloaded, Err(ReloadError::App(_))), "{reloaded:?}");
    config.apps[0].private_key = PrivateKey::Elsewhere(Some("junk".to_owned()));
    let error = config.apps[0].parse_keys().expect_err("no key").to_string();
    assert!(
        error.starts_with("the public half of private_key: "),
        "{error}"
    );
    config.apps[0].private_key = PrivateKey::Elsewhere(None);
    let error = config.apps[0].parse_keys().expect_err("nobody tells");
    assert!(
        matches!(error, AppKeysError::NoPublicHalf { key: "private_key" }),
        "{error}"
    );
}

/// A certificate that can't be read is told as that, and not as none.
#[tokio::test]
async fn a_certificate_that_cannot_be_read_is_the_one_that_is_missed() {
    let sidecar = TestSidecar::start().await;
    let mut config = sidecar.config.clone();
    certified(&sidecar.simulator, &mut config);
    let app = &mut config.apps[0];
    app.private_key = PrivateKey::Elsewhere(None);
    app.certificates.as_mut().expect("just made").app = vec!["junk".to_owned()];
    let faults = app.check_keys().expect_err("junk");
    assert!(
        matches!(faults[..], [AppKeysError::AppCert(_)]),
        "{faults:?}"
    );
}

/// What replaces an app whose key is elsewhere is an ordinary one.
#[tokio::test]
async fn an_operator_sees_whose_key_is_elsewhere_and_may_replace_it() {
    let sidecar = TestSidecar::start().await;
    let put = Change::PutApp(Box::new(kept_elsewhere()));
    let stored = sidecar.sidecar.store().commit(vec![put]).await;
    stored.expect("stored");
    let path = format!("/api/apps/{KEPT}");
    let shown = json(&sidecar.admin(Method::GET, &path, "").await);
    assert_eq!(shown["private_key_elsewhere"], true, "{shown}");
    let ordinary = serde_json::json!({
        "private_key": keys::private("app4096"),
        "alipay_public_key": [keys::public("alipay2048")],
    });
    let put = sidecar.admin(Method::PUT, &path, ordinary.to_string());
    assert_eq!(put.await.status, 200);
    let shown = json(&sidecar.admin(Method::GET, &path, "").await);
    assert_eq!(shown.get("private_key_elsewhere"), None, "{shown}");
    assert_eq!(shown["key_bits"], 4096);
}

/// An app that a host put into its store.
const KEPT: &str = "2021000000000009";

fn kept_elsewhere() -> App {
    App {
        app_id: AppId::new(KEPT).expect("an id"),
        private_key: PrivateKey::Elsewhere(Some(keys::public("app2048"))),
        ..app(DEFAULT_APP_ID)
    }
}

/// A host's store holds such an app, and its operators have the command line for all else.
#[cfg(feature = "cli")]
#[tokio::test]
async fn a_command_works_on_a_store_with_such_an_app() {
    use crate::support::program::Installation;

    let place = Installation::new("http://127.0.0.1:9/");
    let store = place.open_store();
    let put = Change::PutApp(Box::new(kept_elsewhere()));
    store.commit(vec![put]).await.expect("stored");
    drop(store);
    place.check(&["inbox", "list"], 0);
    let shown = place.check(&["app", "show", KEPT], 0);
    assert!(shown.contains("private_key  elsewhere"), "{shown}");
    let shown = place.check(&["app", "show", DEFAULT_APP_ID], 0);
    assert!(!shown.contains("elsewhere"), "{shown}");
    let said = place.check(&["check"], 1);
    let fault = format!("app {KEPT} of the store has a private key elsewhere");
    assert!(said.contains(&fault), "{said}");
    let said = place.check(&["run"], 1);
    assert!(said.contains("no signer for it was handed in"), "{said}");
    place.check(&["app", "remove", KEPT], 0);
    place.check(&["app", "show", KEPT], 1);
}

/// A host may keep its apps in the store, too.
#[tokio::test]
async fn the_store_keeps_where_a_key_is() {
    let sidecar = TestSidecar::start().await;
    let store = sidecar.sidecar.store();
    let key = PrivateKey::Elsewhere;
    for (current, next) in [
        (key(None), None),
        (key(Some("public".to_owned())), Some(key(None))),
        (
            app(DEFAULT_APP_ID).private_key,
            Some(key(Some("k".to_owned()))),
        ),
    ] {
        let kept = App {
            app_id: AppId::new("2021000000000009").expect("an id"),
            private_key: current,
            private_key_next: next,
            ..app(DEFAULT_APP_ID)
        };
        let put = Change::PutApp(Box::new(kept.clone()));
        store.commit(vec![put]).await.expect("stored");
        let found = store.apps().await.expect("readable").remove(0);
        assert_eq!(found.private_key, kept.private_key);
        assert_eq!(found.private_key_next, kept.private_key_next);
    }
}
