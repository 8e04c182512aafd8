//! Another configuration for a sidecar that runs: each section takes effect, what is under way ends
//! as it began, and no call fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use alipay_sidecar::admin::configuration::ReloadError;
use alipay_sidecar::audit::anchor;
use alipay_sidecar::audit::chain::ChainKey;
use alipay_sidecar::audit::verify::{Extent, verify};
use alipay_sidecar::config::Config;
use alipay_sidecar::config::caller::{CallerConfig, CallerIdentity, TokenDigest};
use alipay_sidecar::config::listen::Listen;
use alipay_sidecar::config::proxy::{NotifyUrlMode, ReplySignature};
use alipay_sidecar::config::token::UnknownToken;
use alipay_sidecar::net::client::{Client, ClientOptions, Reply};
use alipay_sidecar::protocol::secret::Secret;
use alipay_sidecar::simulator::{
    DEFAULT_APP_ID, Event, FIRST_AUTH_APP_ID, Fault, FaultKind, NotificationRecord,
    NotificationState, SECOND_AUTH_APP_ID, SimulatedApp, TriggerOptions,
};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;

use crate::support::backend::FakeBackend;
use crate::support::caller::{Caller, Keep};
use crate::support::callers::{bearer, with_token};
use crate::support::upstream::{Answer, FakeAlipay};
use crate::support::{ADMIN_TOKEN, ALIAS, PATIENCE, TestSidecar, app, header, json, keys, text};

const QUERY: &str = "/v2/alipay.trade.query";
const ORDER: &str = r#"{"out_trade_no":"1"}"#;
/// Another app of ours, with the same key.
const OTHER_APP: &str = "2021000000000077";

/// Reloads with what `change` makes of the configuration in force.
async fn reload(sidecar: &TestSidecar, change: impl FnOnce(&mut Config)) {
    let mut config = sidecar.sidecar.config();
    change(&mut config);
    let reloaded = sidecar.sidecar.reload(config).await;
    reloaded.expect("a good configuration");
}

async fn refused(sidecar: &TestSidecar, change: impl FnOnce(&mut Config)) -> ReloadError {
    let mut config = sidecar.sidecar.config();
    change(&mut config);
    let reloaded = sidecar.sidecar.reload(config).await;
    reloaded.expect_err("not to be reloaded")
}

/// What a request was answered: a code of ours, or `passed`.
fn said(reply: &Reply) -> &str {
    match header(reply, "alipay-sidecar-error") {
        "" => "passed",
        code => code,
    }
}

/// Sends a query with these headers.
async fn ask(sidecar: &TestSidecar, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
    let mut request = Request::builder().method(Method::POST).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    sidecar.proxy(request, body.to_owned()).await
}

/// What a query is answered.
async fn asked(sidecar: &TestSidecar, headers: &[(&str, &str)]) -> String {
    said(&ask(sidecar, QUERY, headers, ORDER).await).to_owned()
}

const TAG: (&str, &str) = ("alipay-merchant", ALIAS);

#[tokio::test]
async fn callers_come_change_their_token_and_go() {
    let sidecar = TestSidecar::start().await;
    assert_eq!(asked(&sidecar, &[TAG]).await, "passed");
    reload(&sidecar, |config| config.callers = vec![with_token("shop")]).await;
    let shop = bearer("shop");
    assert_eq!(asked(&sidecar, &[TAG]).await, "caller-unauthenticated");
    assert_eq!(
        asked(&sidecar, &[TAG, ("authorization", &shop)]).await,
        "passed"
    );
    reload(&sidecar, |config| {
        let digest = TokenDigest::of("another");
        config.callers[0].identity = CallerIdentity::Token(digest);
    })
    .await;
    let was = asked(&sidecar, &[TAG, ("authorization", &shop)]).await;
    assert_eq!(was, "caller-unauthenticated");
    let is = asked(&sidecar, &[TAG, ("authorization", "Bearer another")]).await;
    assert_eq!(is, "passed");
    reload(&sidecar, |config| config.callers[0].methods.clear()).await;
    let is = asked(&sidecar, &[TAG, ("authorization", "Bearer another")]).await;
    assert_eq!(is, "caller-forbidden");
    reload(&sidecar, |config| config.callers.clear()).await;
    assert_eq!(asked(&sidecar, &[TAG]).await, "passed");
}

#[tokio::test]
async fn the_rules_of_the_proxy_change() {
    let sidecar = TestSidecar::start().await;
    assert_eq!(asked(&sidecar, &[]).await, "merchant-required");
    let foreign = [TAG, ("host", "sidecar.internal")];
    assert_eq!(asked(&sidecar, &foreign).await, "browser-refused");
    let notified = format!("{QUERY}?notify_url=https%3A%2F%2Felsewhere.example%2F");
    let reply = ask(&sidecar, &notified, &[TAG], ORDER).await;
    assert_eq!(said(&reply), "passed");
    let long = format!(r#"{{"out_trade_no":"{}"}}"#, "1".repeat(2000));
    let reply = ask(&sidecar, QUERY, &[TAG], &long).await;
    assert_eq!(said(&reply), "passed");
    reload(&sidecar, |config| {
        config.proxy.default_merchant = Some(ALIAS.parse().expect("a selector"));
        config.proxy.allowed_hosts = vec!["sidecar.internal".to_owned()];
        config.proxy.notify_url_mode = NotifyUrlMode::Enforce;
        config.proxy.max_body = 1024;
    })
    .await;
    assert_eq!(asked(&sidecar, &[]).await, "passed");
    assert_eq!(asked(&sidecar, &foreign).await, "passed");
    let reply = ask(&sidecar, &notified, &[TAG], ORDER).await;
    assert_eq!(said(&reply), "notify-url-forbidden");
    let reply = ask(&sidecar, QUERY, &[TAG], &long).await;
    assert_eq!(said(&reply), "body-too-large");
}

#[tokio::test]
async fn slots_that_are_taken_count_under_the_new_number() {
    let sidecar = Arc::new(TestSidecar::start().await);
    let slow = slow_call(&sidecar, &[TAG]).await;
    reload(&sidecar, |config| config.proxy.max_in_flight = 1).await;
    assert_eq!(asked(&sidecar, &[TAG]).await, "overloaded");
    reload(&sidecar, |config| config.proxy.max_in_flight = 2).await;
    assert_eq!(asked(&sidecar, &[TAG]).await, "passed");
    assert_eq!(slow.await.expect("no panic"), "passed");
    reload(&sidecar, |config| config.proxy.max_in_flight = 1).await;
    assert_eq!(asked(&sidecar, &[TAG]).await, "passed");
}

/// A call that Alipay answers late; ends once Alipay has it.
async fn slow_call(
    sidecar: &Arc<TestSidecar>,
    headers: &[(&str, &str)],
) -> tokio::task::JoinHandle<String> {
    let late = Fault::once(FaultKind::Slow).delay(Duration::from_secs(2));
    sidecar.simulator.fault(late);
    let before = sidecar.simulator.requests().len();
    let headers: Vec<_> = headers
        .iter()
        .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
        .collect();
    let calling = Arc::clone(sidecar);
    let call = tokio::spawn(async move {
        let headers: Vec<_> = headers
            .iter()
            .map(|(n, v)| (n.as_str(), v.as_str()))
            .collect();
        asked(&calling, &headers).await
    });
    let arrived = async {
        while sidecar.simulator.requests().len() == before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let arrived = tokio::time::timeout(PATIENCE, arrived).await;
    arrived.expect("Alipay is asked");
    call
}

#[tokio::test]
async fn calls_under_way_end_by_the_configuration_they_began_with() {
    let start = |config: &mut Config| config.callers = vec![with_token("shop")];
    let sidecar = Arc::new(TestSidecar::start_with(start).await);
    let shop = bearer("shop");
    let headers = [TAG, ("authorization", shop.as_str())];
    let slow = slow_call(&sidecar, &headers).await;
    reload(&sidecar, |config| {
        config.callers = vec![with_token("other")];
        config.apps = vec![app(OTHER_APP)];
        config.upstream.gateway = Some("http://127.0.0.1:9/gateway.do".to_owned());
        config.upstream.timeout = Duration::from_millis(1);
        config.upstream.connect_timeout = Duration::from_millis(1);
    })
    .await;
    assert_eq!(asked(&sidecar, &headers).await, "caller-unauthenticated");
    assert_eq!(slow.await.expect("no panic"), "passed");
}

#[tokio::test]
async fn apps_come_change_their_keys_and_go() {
    let sidecar = TestSidecar::start().await;
    let other = SimulatedApp::with_private_key(OTHER_APP, &keys::private("app2048"));
    sidecar.simulator.add_app(other.expect("a key"));
    let own = [("alipay-merchant", "self"), ("alipay-app", OTHER_APP)];
    assert_eq!(asked(&sidecar, &own).await, "app-unknown");
    reload(&sidecar, |config| config.apps.push(app(OTHER_APP))).await;
    assert_eq!(asked(&sidecar, &own).await, "passed");
    assert_eq!(
        sidecar.simulator.requests().last().expect("one").app_id,
        OTHER_APP
    );
    // A platform key that isn't Alipay's: its replies are refused from now on.
    let wrong = keys::public("app1024");
    reload(&sidecar, |config| {
        config.apps[1].alipay_public_keys = vec![wrong]
    })
    .await;
    assert_eq!(asked(&sidecar, &own).await, "response-signature-invalid");
    assert_eq!(
        asked(&sidecar, &[TAG, ("alipay-app", DEFAULT_APP_ID)]).await,
        "passed"
    );
    reload(&sidecar, |config| config.apps.truncate(1)).await;
    assert_eq!(asked(&sidecar, &own).await, "app-unknown");
    // One of the store is there through all reloads, and one that is added goes to those in force.
    let body = serde_json::json!({
        "private_key": keys::private("app2048"),
        "alipay_public_key": keys::public("alipay2048"),
    });
    let path = format!("/api/apps/{OTHER_APP}");
    let put = sidecar.admin(Method::PUT, &path, body.to_string()).await;
    assert_eq!(put.status, 200);
    assert_eq!(asked(&sidecar, &own).await, "passed");
    reload(&sidecar, |config| config.proxy.max_in_flight = 9).await;
    assert_eq!(asked(&sidecar, &own).await, "passed");
}

#[tokio::test]
async fn the_way_to_alipay_changes() {
    let sidecar = TestSidecar::start().await;
    let elsewhere = FakeAlipay::start().await;
    elsewhere.answer(Answer::Node(
        r#"{"code":"10000","msg":"Success"}"#.to_owned(),
    ));
    let gateway = elsewhere.gateway();
    reload(&sidecar, |config| config.upstream.gateway = Some(gateway)).await;
    assert_eq!(asked(&sidecar, &[TAG]).await, "passed");
    assert_eq!(elsewhere.next().await.param("method"), "alipay.trade.query");
    let simulator = sidecar.config.upstream.gateway.clone();
    reload(&sidecar, |config| {
        config.upstream.gateway = simulator;
        config.upstream.timeout = Duration::from_millis(300);
    })
    .await;
    let late = Fault::once(FaultKind::Slow).delay(Duration::from_secs(5));
    sidecar.simulator.fault(late);
    let reply = ask(&sidecar, "/v2/alipay.trade.pay", &[TAG], ORDER).await;
    assert_eq!(said(&reply), "upstream-timeout");
}

/// Whether the sidecar took it.
fn acked(sent: &NotificationRecord) -> bool {
    sent.state == NotificationState::Acked
}

#[tokio::test]
async fn deliveries_and_the_webhook_change() {
    let sidecar = TestSidecar::start().await;
    let backend = FakeBackend::start().await;
    let (known, alias) = ("/alipay/notify/orders/1", "/old/notify.php");
    let trigger = async |path: &str| {
        let options = TriggerOptions {
            url: Some(format!("{}{path}", sidecar.webhook)),
            attempts: Some(1),
            wait: true,
            ..TriggerOptions::default()
        };
        sidecar.simulator.trigger(Event::Payment, &options).await
    };
    trigger(known).await.expect("sent");
    assert_eq!(sidecar.backend.next().await.header("webhook-signature"), "");
    let unknown = trigger(alias).await.expect("sent");
    assert!(!acked(&unknown), "{unknown:?}");
    let url = backend.url("/elsewhere");
    reload(&sidecar, |config| {
        config.delivery.url = Some(url);
        config.delivery.signing_secret = Some(Secret::new("a secret of a test".to_owned()));
        config.delivery.high_water = 77;
        config
            .webhook
            .aliases
            .insert(alias.to_owned(), known.to_owned());
    })
    .await;
    assert!(acked(&trigger(alias).await.expect("sent")));
    let seen = backend.next().await;
    assert_eq!(seen.path, "/elsewhere");
    assert!(!seen.header("webhook-signature").is_empty());
    assert_eq!(
        sidecar.metric("alipay_sidecar_inbox_high_water").await,
        77.0
    );
}

#[tokio::test]
async fn tokens_are_learned_once_that_is_configured() {
    let sidecar = TestSidecar::start().await;
    let granted = sidecar.simulator.state()["grants"].clone();
    let granted = granted.as_array().expect("grants");
    let unknown = granted
        .iter()
        .find(|grant| grant["auth_app_id"] == SECOND_AUTH_APP_ID);
    let token = unknown.expect("one")["app_auth_token"]
        .as_str()
        .expect("text");
    let path = format!("/gateway.do?method=alipay.trade.query&app_auth_token={token}");
    let ask = || async {
        let request = Request::builder().method(Method::POST).uri(&path);
        let body = "biz_content=%7B%22out_trade_no%22%3A%221%22%7D";
        let form = "application/x-www-form-urlencoded";
        let reply = sidecar
            .proxy(request.header("content-type", form), body)
            .await;
        said(&reply).to_owned()
    };
    assert_eq!(ask().await, "token-unknown");
    reload(&sidecar, |config| {
        config.tokens.unknown = UnknownToken::Learn
    })
    .await;
    assert_eq!(ask().await, "passed");
}

#[tokio::test]
async fn replies_are_signed_anew_once_that_is_configured() {
    let sidecar = TestSidecar::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let key = folder.path().join("reply.pem");
    std::fs::write(&key, keys::private("app2048")).expect("written");
    let ask = || async {
        // An error of ours, which has a signature where replies have that of the install.
        json(&ask(&sidecar, "/gateway.do?method=alipay.trade.query", &[], "").await)
    };
    assert_eq!(ask().await["sign"], serde_json::Value::Null);
    reload(&sidecar, |config| {
        config.proxy.reply_signature = ReplySignature::Local;
        config.proxy.reply_key = Some(key.clone());
    })
    .await;
    let first = ask().await["sign"].clone();
    assert!(first.is_string());
    // Another key in the same file.
    std::fs::write(&key, keys::private("alipay2048")).expect("written");
    reload(&sidecar, |_| ()).await;
    let second = ask().await["sign"].clone();
    assert!(second.is_string() && second != first);
    reload(&sidecar, |config| {
        config.proxy.reply_signature = ReplySignature::Alipay
    })
    .await;
    assert_eq!(ask().await["sign"], serde_json::Value::Null);
}

#[tokio::test]
async fn the_admin_token_changes() {
    let sidecar = TestSidecar::start().await;
    let status = |token: &'static str| {
        let request = Request::get("/api/apps").header("authorization", format!("Bearer {token}"));
        let reply = sidecar.send(&sidecar.admin, request, Bytes::new());
        async move { reply.await.status.as_u16() }
    };
    assert_eq!(status(ADMIN_TOKEN).await, 200);
    let another = Some(Secret::new("another".to_owned()));
    reload(&sidecar, |config| config.admin.token = another).await;
    assert_eq!(
        (status(ADMIN_TOKEN).await, status("another").await),
        (401, 200)
    );
    // Without one a token is made, and left where the command line looks for it.
    reload(&sidecar, |config| config.admin.token = None).await;
    let path = sidecar.config.store.path.with_file_name("admin.token");
    let made = std::fs::read_to_string(&path).expect("left beside the store");
    let made: &'static str = made.leak();
    assert_eq!((status("another").await, status(made).await), (401, 200));
    reload(&sidecar, |_| ()).await;
    assert_eq!(status(made).await, 200);
}

#[tokio::test]
async fn what_needs_a_restart_is_refused_by_name_and_changes_nothing() {
    let sidecar = TestSidecar::start().await;
    let before = sidecar.sidecar.configuration();
    let error = refused(&sidecar, |config| {
        config.proxy.listen = Listen::Tcp("127.0.0.1:9".to_owned());
        config.webhook.base_path = "/pay".to_owned();
        config.store.cache = 1 << 20;
        config.callers = vec![with_token("shop")];
    })
    .await;
    let keys: Vec<_> = error
        .faults()
        .iter()
        .map(|fault| fault.key.as_str())
        .collect();
    assert_eq!(keys, ["proxy.listen", "webhook.base_path", "store.cache"]);
    assert!(
        error
            .to_string()
            .contains("only a restart changes this key"),
        "{error}"
    );
    assert_eq!(asked(&sidecar, &[TAG]).await, "passed");
    let after = sidecar.sidecar.configuration();
    assert_eq!(
        (after.generation, after.fingerprint),
        (1, before.fingerprint)
    );
    assert_eq!(
        sidecar
            .metric("alipay_sidecar_config_last_reload_successful")
            .await,
        0.0
    );
    reload(&sidecar, |config| config.callers = vec![with_token("shop")]).await;
    assert_eq!(
        sidecar
            .metric("alipay_sidecar_config_last_reload_successful")
            .await,
        1.0
    );
    assert_eq!(
        sidecar.metric("alipay_sidecar_config_generation").await,
        2.0
    );
}

#[tokio::test]
async fn files_that_cannot_be_used_are_faults() {
    let sidecar = TestSidecar::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let rubbish = folder.path().join("rubbish.pem");
    std::fs::write(&rubbish, "rubbish").expect("written");
    let path = || Some(rubbish.clone());
    let error = refused(&sidecar, |config| {
        config.upstream.ca_file = path();
        config.webhook.tls_cert = path();
        config.webhook.tls_key = path();
        config.proxy.reply_signature = ReplySignature::Local;
        config.proxy.reply_key = path();
    })
    .await;
    let mut keys: Vec<_> = error
        .faults()
        .iter()
        .map(|fault| fault.key.as_str())
        .collect();
    keys.sort_unstable();
    assert_eq!(
        keys,
        ["proxy.reply_key", "upstream.ca_file", "webhook.tls_cert"]
    );
    let error = refused(&sidecar, |config| {
        config.apps[0].private_key = Secret::new("no key".to_owned()).into();
    })
    .await;
    assert_eq!(error.kind(), "config-invalid");
    assert_eq!(asked(&sidecar, &[TAG]).await, "passed");
}

#[tokio::test]
async fn reloads_come_one_after_another_and_none_during_the_end() {
    let sidecar = TestSidecar::start().await;
    let reloads = (0..5).map(|_| {
        let (sidecar, config) = (sidecar.sidecar.clone(), sidecar.sidecar.config());
        tokio::spawn(async move { sidecar.reload(config).await.expect("good").generation })
    });
    let mut generations = Vec::new();
    for reload in reloads.collect::<Vec<_>>() {
        generations.push(reload.await.expect("no panic"));
    }
    generations.sort_unstable();
    assert_eq!(generations, [2, 3, 4, 5, 6]);
    let drained = sidecar.admin(Method::POST, "/api/drain", "").await;
    assert_eq!(drained.status, 200, "{}", text(&drained));
    let error = refused(&sidecar, |_| ()).await;
    assert!(matches!(error, ReloadError::Ending), "{error}");
    let shown = json(&sidecar.admin(Method::GET, "/api/config", "").await);
    assert_eq!(shown["generation"], 6);
}

#[tokio::test]
async fn without_a_source_the_api_says_why_it_reloads_nothing() {
    let sidecar = TestSidecar::start().await;
    let reply = sidecar.admin(Method::POST, "/api/reload", "").await;
    assert_eq!(reply.status, 409);
    let problem = json(&reply);
    assert_eq!(problem["code"], "reload-unavailable");
    assert!(
        problem["detail"]
            .as_str()
            .expect("text")
            .contains("no file to read again")
    );
    let wrong = sidecar.admin(Method::GET, "/api/reload", "").await;
    assert_eq!(
        (wrong.status.as_u16(), header(&wrong, "allow")),
        (405, "POST")
    );
    let wrong = sidecar.admin(Method::PUT, "/api/config", "").await;
    assert_eq!(
        (wrong.status.as_u16(), header(&wrong, "allow")),
        (405, "GET")
    );
    for path in ["/api/config", "/api/reload"] {
        let request = Request::builder().method(if path == "/api/config" { "GET" } else { "POST" });
        let stranger = sidecar
            .send(&sidecar.admin, request.uri(path), Bytes::new())
            .await;
        assert_eq!(stranger.status, 401, "{path}");
    }
}

/// A self-signed certificate of `localhost`, in files that a listener reads.
fn certify(folder: &std::path::Path) -> Vec<u8> {
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]);
    let certified = certified.expect("a certificate");
    let pem = certified.cert.pem();
    std::fs::write(folder.join("cert.pem"), &pem).expect("written");
    std::fs::write(
        folder.join("key.pem"),
        certified.signing_key.serialize_pem(),
    )
    .expect("written");
    pem.into_bytes()
}

#[tokio::test]
async fn listeners_take_renewed_certificates_and_keep_their_connections() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = certify(folder.path());
    let (cert, key) = (
        folder.path().join("cert.pem"),
        folder.path().join("key.pem"),
    );
    let sidecar = TestSidecar::start_with(|config| {
        config.proxy.tls_cert = Some(cert.clone());
        config.proxy.tls_key = Some(key.clone());
    })
    .await;
    let trusting = |roots: &[u8]| {
        let path = folder.path().join("roots.pem");
        std::fs::write(&path, roots).expect("written");
        let options = ClientOptions {
            connect_timeout: PATIENCE,
            max_reply: 1 << 20,
            ca_file: Some(&path),
        };
        Client::new(&options).expect("a client")
    };
    let port = sidecar.proxy.rsplit(':').next().expect("a port").to_owned();
    let ask = |client: Client| {
        let url = format!("https://localhost:{port}/m/{ALIAS}{QUERY}");
        let request = Request::post(url).body(Full::new(Bytes::from(ORDER)));
        async move {
            let sent = client.send(request.expect("a request"), PATIENCE).await;
            sent.map(|reply| said(&reply).to_owned())
        }
    };
    let old = trusting(&first);
    assert_eq!(ask(old.clone()).await.expect("answered"), "passed");
    let second = certify(folder.path());
    reload(&sidecar, |_| ()).await;
    let new = trusting(&second);
    assert_eq!(ask(new).await.expect("answered"), "passed");
    assert!(ask(trusting(&first)).await.is_err(), "another certificate");
    // Its connection was made before, and lives on.
    assert_eq!(ask(old).await.expect("answered"), "passed");
    reload(&sidecar, |config| {
        config.proxy.tls_cert = None;
        config.proxy.tls_key = None;
    })
    .await;
    let mut plain = Caller::new(&sidecar.proxy.replace("http://", ""), Keep::Fresh);
    let tag = format!("Alipay-Merchant: {ALIAS}\r\n");
    assert_eq!(
        plain
            .ask("POST", QUERY, &tag, ORDER)
            .await
            .expect("answered")
            .status,
        200
    );
}

/// How many callers ask without a pause, and how often another configuration comes meanwhile.
const CALLERS: usize = 6;
const RELOADS: u64 = 20;

#[tokio::test(flavor = "multi_thread")]
async fn no_call_and_no_notification_fails_while_configurations_change() {
    let steady = with_token("steady");
    let start = |config: &mut Config| config.callers = vec![with_token("steady")];
    let sidecar = Arc::new(TestSidecar::start_with(start).await);
    let other = SimulatedApp::with_private_key(OTHER_APP, &keys::private("app2048"));
    sidecar.simulator.add_app(other.expect("a key"));
    let (over, done) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let mut tasks = Vec::new();
    for number in 0..CALLERS {
        let (over, done) = (Arc::clone(&over), Arc::clone(&done));
        let address = sidecar.proxy.replace("http://", "");
        let keep = if number % 2 == 0 {
            Keep::Alive
        } else {
            Keep::Fresh
        };
        tasks.push(tokio::spawn(async move {
            let mut caller = Caller::new(&address, keep);
            let headers = format!(
                "Alipay-Merchant: {FIRST_AUTH_APP_ID}\r\nAuthorization: {}\r\n",
                bearer("steady")
            );
            while !over.load(Ordering::Relaxed) {
                let told = caller.ask("POST", QUERY, &headers, ORDER).await;
                let told = told.expect("an answer");
                assert!(
                    told.status == 200 && told.head.contains("alipay-sidecar-verified: true"),
                    "{told:?}"
                );
                done.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    let (notified, notifying) = (Arc::clone(&over), Arc::clone(&sidecar));
    tasks.push(tokio::spawn(async move {
        while !notified.load(Ordering::Relaxed) {
            let options = TriggerOptions {
                app_id: Some(DEFAULT_APP_ID.to_owned()),
                url: Some(format!("{}/alipay/notify", notifying.webhook)),
                attempts: Some(1),
                wait: true,
                ..TriggerOptions::default()
            };
            let sent = notifying.simulator.trigger(Event::Payment, &options).await;
            assert!(acked(&sent.expect("sent")));
        }
    }));
    let mut before = 0;
    for number in 0..RELOADS {
        change(&sidecar, &steady, number).await;
        // Some calls under each of them.
        let enough = before + 2 * CALLERS;
        let more = async {
            while done.load(Ordering::Relaxed) < enough {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(PATIENCE, more)
            .await
            .expect("calls go on");
        before = done.load(Ordering::Relaxed);
    }
    over.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.expect("nothing failed");
    }
    let generation = sidecar.metric("alipay_sidecar_config_generation").await;
    assert_eq!(generation, 21.0);
    assert!(done.load(Ordering::Relaxed) >= 20 * 2 * CALLERS);
}

/// Changes something of every section, back and forth.
async fn change(sidecar: &TestSidecar, steady: &CallerConfig, number: u64) {
    let is_odd = number % 2 == 1;
    reload(sidecar, |config| {
        let name = format!("caller-{number}");
        config.callers = vec![steady.clone(), with_token(&name)];
        config.apps = vec![app(DEFAULT_APP_ID)];
        if is_odd {
            config.apps.push(app(OTHER_APP));
            config.apps.reverse();
        }
        config.proxy.max_in_flight = if is_odd { 64 } else { 1024 };
        config.proxy.max_body = if is_odd { 1 << 16 } else { 128 << 20 };
        // Another pool of connections each time.
        config.upstream.connect_timeout = Duration::from_millis(3000 + number);
        config.delivery.concurrency = if is_odd { 1 } else { 32 };
        config.webhook.max_body = if is_odd { 1 << 16 } else { 1 << 20 };
        config.tokens.remember_users = is_odd;
    })
    .await;
}

#[tokio::test]
async fn the_audit_log_moves_ends_and_begins_again_and_loses_nothing() {
    let sidecar = TestSidecar::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let elsewhere = folder.path().join("audit.jsonl");
    let lines = |path: &std::path::Path| -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines = text.lines();
        lines
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect()
    };
    let first = sidecar.config.telemetry.audit_file.clone().expect("a log");
    let to = |path: Option<std::path::PathBuf>| {
        move |config: &mut Config| {
            config.telemetry.audit_file = path;
        }
    };
    assert_eq!(asked(&sidecar, &[TAG]).await, "passed");
    reload(&sidecar, to(Some(elsewhere.clone()))).await;
    assert_eq!(asked(&sidecar, &[TAG]).await, "passed");
    reload(&sidecar, to(None)).await;
    assert_eq!(asked(&sidecar, &[TAG]).await, "passed");
    let (before, after) = (lines(&first), lines(&elsewhere));
    let last = after.last().expect("a line");
    assert_eq!(
        (&last["event"], &last["outcome"]),
        (&"audit".into(), &"ended".into()),
        "{last:#}"
    );
    let calls = |lines: &[serde_json::Value]| {
        let calls = lines.iter().filter(|line| line["event"] == "call");
        calls.count()
    };
    assert_eq!((calls(&before), calls(&after)), (1, 1));
    let number = |line: Option<&serde_json::Value>| line.expect("a line")["seq"].as_u64();
    assert_eq!(
        number(after.first()),
        number(before.last()).map(|last| last + 1)
    );
    assert_eq!(after[0]["outcome"], "moved", "{:#}", after[0]);
    // Off, nothing is told; on again, it goes on behind what it had.
    reload(&sidecar, to(Some(elsewhere.clone()))).await;
    assert_eq!(asked(&sidecar, &[TAG]).await, "passed");
    sidecar.ended().await;
    let later = lines(&elsewhere);
    assert_eq!(calls(&later), 2);
    let sequence: Vec<_> = later
        .iter()
        .map(|line| line["seq"].as_u64().expect("seq"))
        .collect();
    assert!(
        sequence.windows(2).all(|pair| pair[0] + 1 == pair[1]),
        "{sequence:?}"
    );
    // Both files together are one chain, whose end the store knows.
    let key = sidecar.config.store.key.as_ref().expect("a key");
    let key = ChainKey::derive(key.expose().as_bytes());
    let store = sidecar.sidecar.store();
    let anchored = anchor::kept(&*store).await.expect("readable");
    let extent = (Extent::Whole, anchored);
    let report = verify(&[first, elsewhere], Some(&key), extent).expect("readable");
    assert!(report.good, "{:?}", report.problems);
    // One that can't be written is a fault.
    let sidecar = TestSidecar::start().await;
    let error = refused(&sidecar, to(Some(folder.path().to_owned()))).await;
    let keys: Vec<_> = error
        .faults()
        .iter()
        .map(|fault| fault.key.as_str())
        .collect();
    assert_eq!(keys, ["audit.file"]);
    // So is one that somebody else writes.
    let taken = folder.path().join("taken.jsonl");
    let other = std::fs::File::create(&taken).expect("created");
    other.try_lock().expect("locked");
    let error = refused(&sidecar, to(Some(taken))).await;
    let fault = error.faults().first().expect("a fault");
    assert_eq!(fault.key, "audit.file");
    sidecar
        .sidecar
        .reload(sidecar.sidecar.config())
        .await
        .expect("as before");
}
