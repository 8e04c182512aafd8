//! Every key changes while calls are made, and no call fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use alipay_sidecar::config::Config;
use alipay_sidecar::model::app::AppCertificates;
use alipay_sidecar::protocol::charset::Charset;
use alipay_sidecar::protocol::key::AppPrivateKey;
use alipay_sidecar::protocol::params::Params;
use alipay_sidecar::protocol::secret::Secret;
use alipay_sidecar::sidecar::Sidecar;
use alipay_sidecar::simulator::{AppMode, DEFAULT_APP_ID, Simulator};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use tower_service::Service;

use crate::certificates::certified;
use crate::support::upstream::{Answer, FakeAlipay, is_signed_by};
use crate::support::{ALIAS, PATIENCE, TestSidecar, header, json, keys, text};

/// How many calls are made between two changes, at the least.
const BETWEEN: u32 = 30;
/// How many callers there are.
const CALLERS: usize = 8;

/// Calls of both dialects that go on until they are told to end.
struct Load {
    sidecar: Arc<TestSidecar>,
    done: Arc<AtomicU32>,
    end: Arc<AtomicBool>,
    callers: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    async fn on(sidecar: TestSidecar) -> Self {
        let order = r#"{"out_trade_no":"1","total_amount":"8.80","subject":"tea"}"#;
        let reply = sidecar.post("/v2/alipay.trade.create", order).await;
        assert_eq!(json(&reply)["code"], "10000", "{}", text(&reply));
        let mut load = Self {
            sidecar: Arc::new(sidecar),
            done: Arc::default(),
            end: Arc::default(),
            callers: Vec::new(),
        };
        for caller in 0..CALLERS {
            load.callers.push(tokio::spawn(load.caller(caller)));
        }
        load.go_on().await;
        load
    }

    fn caller(&self, number: usize) -> impl Future<Output = ()> + use<> {
        let (sidecar, done) = (Arc::clone(&self.sidecar), Arc::clone(&self.done));
        let end = Arc::clone(&self.end);
        let path = ["/v2/alipay.trade.query", "/v3/alipay/trade/query"][number % 2];
        async move {
            while !end.load(Ordering::Relaxed) {
                let reply = sidecar.post(path, r#"{"out_trade_no":"1"}"#).await;
                let said = text(&reply);
                assert_eq!(reply.status, 200, "{path}: {said}");
                assert_eq!(header(&reply, "alipay-sidecar-verified"), "true", "{said}");
                assert_eq!(json(&reply)["trade_status"], "WAIT_BUYER_PAY", "{said}");
                done.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Waits until some more calls were made.
    async fn go_on(&self) {
        let enough = self.done.load(Ordering::Relaxed) + BETWEEN;
        while self.done.load(Ordering::Relaxed) < enough {
            let failed = self
                .callers
                .iter()
                .any(tokio::task::JoinHandle::is_finished);
            assert!(!failed, "a call failed");
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }

    async fn end(self) -> TestSidecar {
        self.go_on().await;
        self.end.store(true, Ordering::Relaxed);
        for caller in self.callers {
            caller.await.expect("no call failed");
        }
        eprintln!("{} calls, 0 failed", self.done.load(Ordering::Relaxed));
        Arc::into_inner(self.sidecar).expect("the callers are gone")
    }
}

fn public(name: &str) -> String {
    let key = AppPrivateKey::from_text(&keys::private(name)).expect("a key");
    key.public_key().to_bare_base64()
}

async fn key_changes(sidecar: &TestSidecar) -> f64 {
    sidecar
        .metric("alipay_sidecar_private_key_changes_total ")
        .await
}

const NEXT: &str = "alipay2048_other";

fn with_next_key(config: &mut Config) {
    config.apps[0].private_key_next = Some(Secret::new(keys::private(NEXT)).into());
}

#[tokio::test]
async fn no_call_fails_while_the_apps_key_and_alipays_change() {
    let platform = AppPrivateKey::generate(2048).expect("a key");
    let public_key = platform.public_key().to_bare_base64();
    let load = Load::on(
        TestSidecar::start_with(|config| {
            with_next_key(config);
            config.apps[0].alipay_public_keys.insert(0, public_key);
        })
        .await,
    )
    .await;
    let simulator = load.sidecar.simulator.clone();
    simulator
        .set_app_public_key(DEFAULT_APP_ID, &public(NEXT))
        .expect("an app");
    load.go_on().await;
    simulator
        .set_platform_key(platform.to_pkcs8_pem().expose())
        .expect("a key");
    load.go_on().await;
    // And back again: an upload to the console can be undone.
    simulator
        .set_app_public_key(DEFAULT_APP_ID, &public("app2048"))
        .expect("an app");
    let sidecar = load.end().await;
    assert!((key_changes(&sidecar).await - 2.0).abs() < f64::EPSILON);
}

#[tokio::test]
async fn which_key_is_in_force_outlives_the_process() {
    let order = |sidecar: Sidecar| async move {
        let request = Request::post("/v2/alipay.trade.app.pay/order-string")
            .header("host", "localhost")
            .header("alipay-merchant", ALIAS)
            .body(Full::new(Bytes::from_static(b"{}")))
            .expect("a request");
        let reply = sidecar.proxy_service().call(request).await;
        let body = reply.expect("answered").into_body().collect().await;
        let body = body.expect("whole").to_bytes();
        Params::from_form(&body, Charset::Utf8).expect("an order string")
    };
    let first = TestSidecar::start_with(with_next_key).await;
    let again = || {
        let built = Sidecar::builder(first.config.clone());
        built.store(first.sidecar.store()).without_audit().build()
    };
    for (accepted, kept) in [
        (None, "app2048"),
        (Some(NEXT), NEXT),
        // An upload to the console can be undone.
        (Some("app2048"), "app2048"),
        // And done again.
        (Some(NEXT), NEXT),
    ] {
        if let Some(key) = accepted {
            let simulator = &first.simulator;
            simulator
                .set_app_public_key(DEFAULT_APP_ID, &public(key))
                .expect("an app");
            let changes = key_changes(&first).await;
            first
                .post("/v2/alipay.trade.query", r#"{"out_trade_no":"1"}"#)
                .await;
            assert!(key_changes(&first).await > changes);
        }
        let kept_by = |params: &Params| is_signed_by(kept, params);
        let running = order(first.sidecar.clone()).await;
        assert!(kept_by(&running), "{kept}: by who runs");
        let known = async {
            while !kept_by(&order(again().await.expect("built")).await) {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        let known = tokio::time::timeout(PATIENCE, known).await;
        known.unwrap_or_else(|_| panic!("{kept}: by who starts next"));
    }
}

/// The certificates of both keys, as the console gives them one after the other.
fn certified_twice(simulator: &Simulator, config: &mut Config) {
    let register = |name| {
        let key = public(name);
        simulator
            .set_app_public_key(DEFAULT_APP_ID, &key)
            .expect("an app");
        simulator
            .certificate_files(DEFAULT_APP_ID)
            .expect("files")
            .app_cert
    };
    let second = register(NEXT);
    let first = register("app2048");
    certified(simulator, config);
    with_next_key(config);
    let files = config.apps[0]
        .certificates
        .as_mut()
        .expect("certificate mode");
    files.app = vec![first, second];
}

#[tokio::test]
async fn no_call_fails_while_both_certificates_change() {
    let load = Load::on(TestSidecar::start_before(certified_twice).await).await;
    let simulator = load.sidecar.simulator.clone();
    simulator
        .set_app_public_key(DEFAULT_APP_ID, &public(NEXT))
        .expect("an app");
    load.go_on().await;
    simulator
        .rotate_platform_certificate()
        .expect("certificates");
    load.go_on().await;
    simulator
        .rotate_platform_certificate()
        .expect("certificates");
    let sidecar = load.end().await;
    assert!((key_changes(&sidecar).await - 1.0).abs() < f64::EPSILON);
}

#[tokio::test]
async fn no_call_fails_when_both_certificates_changed_before_it() {
    let load = Load::on(TestSidecar::start_before(certified_twice).await).await;
    let simulator = load.sidecar.simulator.clone();
    // The refusal of the former key names a certificate that nobody knows, and its download is
    // refused for the former key, too.
    simulator
        .rotate_platform_certificate()
        .expect("certificates");
    simulator
        .set_app_public_key(DEFAULT_APP_ID, &public(NEXT))
        .expect("an app");
    load.end().await;
}

/// In key mode with the first key, ready for certificate mode with the next.
fn moving(simulator: &Simulator, config: &mut Config) {
    let next = public(NEXT);
    simulator
        .set_app_public_key(DEFAULT_APP_ID, &next)
        .expect("an app");
    let files = simulator.certificate_files(DEFAULT_APP_ID).expect("files");
    let current = public("app2048");
    simulator
        .set_app_public_key(DEFAULT_APP_ID, &current)
        .expect("an app");
    with_next_key(config);
    config.apps[0].certificates = Some(AppCertificates {
        app: vec![files.app_cert],
        alipay: vec![files.alipay_cert],
        roots: files.alipay_root_cert,
    });
}

#[tokio::test]
async fn no_call_fails_while_the_app_moves_to_certificate_mode() {
    let load = Load::on(TestSidecar::start_before(moving).await).await;
    let simulator = load.sidecar.simulator.clone();
    simulator
        .set_app_mode(DEFAULT_APP_ID, AppMode::Certificate)
        .expect("an app");
    simulator
        .set_app_public_key(DEFAULT_APP_ID, &public(NEXT))
        .expect("an app");
    load.go_on().await;
    let sidecar = load.end().await;
    assert!((key_changes(&sidecar).await - 1.0).abs() < f64::EPSILON);
}

#[tokio::test]
async fn an_unsigned_error_puts_no_key_in_force() {
    let alipay = FakeAlipay::start().await;
    let sidecar = TestSidecar::start_with(|config| {
        with_next_key(config);
        config.upstream.gateway = Some(alipay.gateway());
    })
    .await;
    let refused = r#"{"code":"40002","msg":"x","sub_code":"isv.invalid-signature","sub_msg":"x"}"#;
    alipay.answer(Answer::Node(refused.to_owned()));
    let unsigned = r#"{"error_response":{"code":"20000","msg":"x"}}"#;
    alipay.answer(Answer::Body(200, unsigned.to_owned()));
    sidecar.post("/v2/alipay.trade.query", "{}").await;
    sidecar.post("/v2/alipay.trade.query", "{}").await;
    let signed_by = [
        alipay.next().await,
        alipay.next().await,
        alipay.next().await,
    ]
    .map(|arrived| is_signed_by("app2048", &arrived.params()));
    assert_eq!(signed_by, [true, false, true]);
}
