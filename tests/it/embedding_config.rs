//! A configuration that a host made in code is judged by the rules of the file.

use std::collections::BTreeSet;
use std::time::Duration;

use alipay_sidecar::admin::configuration::ReloadError;
use alipay_sidecar::config::Config;
use alipay_sidecar::config::caller::{CallerIdentity, TokenDigest};
use alipay_sidecar::config::delivery::DeliveryRoute;
use alipay_sidecar::protocol::secret::Secret;
use alipay_sidecar::sidecar::{BuildError, Sidecar};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use serde_json::Value;
use tower_service::Service;

use crate::support::callers::{caller, with_key, with_token};
use crate::support::{TestSidecar, app};

/// Makes a configuration wrong.
type Change = fn(&mut Config);

/// What is dangerous or can't be served, by the key that a file would be refused for.
const WRONG: [(&str, Change); 60] = [
    ("admin.token", |c| c.admin.token = secret("")),
    ("app[1].app_id", |c| c.apps = vec![app("2021a")]),
    ("app[2].app_id", |c| c.apps = vec![app("2021"), app("2021")]),
    ("audit.max_size", |c| {
        c.telemetry.audit_max_size = Some(1 << 20);
    }),
    ("caller[1].methods", |c| {
        c.callers = vec![with_token("shop")];
        c.callers[0].methods = vec!["alipay trade".to_owned()];
    }),
    ("caller[1].name", |c| c.callers = vec![with_token("")]),
    ("caller[1].token", |c| {
        let nothing = CallerIdentity::Token(TokenDigest::of(""));
        c.callers = vec![caller("shop", nothing)];
    }),
    ("caller[2].name", |c| {
        c.callers = vec![caller("shop", CallerIdentity::Uid(1)), with_token("shop")];
    }),
    ("caller[2].uid", |c| {
        c.callers = ["a", "b"]
            .map(|name| caller(name, CallerIdentity::Uid(1)))
            .to_vec();
    }),
    ("delivery.concurrency", |c| c.delivery.concurrency = 0),
    ("delivery.concurrency", |c| {
        c.delivery.concurrency = usize::MAX;
    }),
    ("delivery.give_up_after", |c| {
        c.delivery.give_up_after = Duration::ZERO;
    }),
    ("delivery.route[1].app", |c| {
        route(c).app = text("our own");
    }),
    ("delivery.route[1].concurrency", |c| {
        route(c).concurrency = Some(0);
    }),
    ("delivery.route[1].match", |c| {
        route(c).event_type = text("");
    }),
    ("delivery.route[1].merchant", |c| {
        route(c).merchant = text("a b");
    }),
    ("delivery.route[1].path", |c| route(c).path = text("a b")),
    ("delivery.route[1].timeout", |c| {
        route(c).timeout = Some(Duration::MAX);
    }),
    ("delivery.route[1].url", |c| route(c).url = String::new()),
    ("delivery.route[1].url", |c| {
        route(c).url = "junk".to_owned()
    }),
    ("delivery.signing_secret", |c| {
        c.delivery.signing_secret = secret("");
    }),
    ("delivery.timeout", |c| c.delivery.timeout = Duration::ZERO),
    ("delivery.timeout", |c| c.delivery.timeout = Duration::MAX),
    ("delivery.url", |c| c.delivery.url = text("junk")),
    ("delivery.url", |c| {
        c.delivery.url = text("ftp://127.0.0.1/");
    }),
    ("proxy.allowed_hosts", |c| {
        c.proxy.allowed_hosts = vec!["http://x/".to_owned()];
    }),
    ("proxy.max_body", |c| c.proxy.max_body = usize::MAX),
    ("proxy.max_in_flight", |c| c.proxy.max_in_flight = 0),
    ("proxy.max_in_flight", |c| {
        c.proxy.max_in_flight = usize::MAX;
    }),
    ("proxy.notify_url_allow", |c| {
        c.proxy.notify_url_allow = vec!["shop.example".to_owned()];
    }),
    ("proxy.tls_key", |c| {
        c.proxy.tls_cert = Some("tls.crt".into());
    }),
    ("proxy.tls_cert", |c| {
        c.proxy.tls_key = Some("tls.key".into())
    }),
    ("webhook.tls_key", |c| {
        c.webhook.tls_cert = Some("tls.crt".into());
    }),
    ("webhook.tls_cert", |c| {
        c.webhook.tls_key = Some("tls.key".into());
    }),
    ("admin.tls_key", |c| {
        c.admin.tls_cert = Some("tls.crt".into());
    }),
    ("admin.tls_cert", |c| {
        c.admin.tls_key = Some("tls.key".into())
    }),
    ("upstream.authorize", |c| {
        c.upstream.authorize = text("https://openauth.alipay.com/oauth2");
    }),
    ("upstream.authorize", |c| {
        c.upstream.authorize = text("javascript:alert(1)");
    }),
    ("upstream.connect_timeout", |c| {
        c.upstream.connect_timeout = Duration::MAX;
    }),
    ("upstream.gateway", |c| {
        c.upstream.gateway = text("http://openapi.alipay.com/gateway.do");
    }),
    ("upstream.gateway", |c| {
        c.upstream.gateway = text("https://u:hunter2@openapi.alipay.com/gateway.do");
    }),
    ("upstream.gateway", |c| c.upstream.gateway = text("junk")),
    ("upstream.gateway", |c| c.upstream.gateway = text("")),
    ("upstream.proxy", |c| {
        c.upstream.proxy_credentials = secret("user:hunter2");
    }),
    ("upstream.proxy_credentials", |c| {
        c.upstream.proxy = text("http://egress:3128");
        c.upstream.proxy_credentials = secret("hunter2");
    }),
    ("upstream.timeout", |c| c.upstream.timeout = Duration::ZERO),
    ("upstream.timeout", |c| c.upstream.timeout = Duration::MAX),
    ("upstream.v3", |c| {
        c.upstream.v3 = text("http://openapi.alipay.com");
    }),
    ("webhook.aliases", |c| alias(c, "/old", "/nowhere")),
    ("webhook.aliases", |c| alias(c, "old", "/alipay/notify")),
    ("webhook.auth_redirect_uri", |c| {
        c.webhook.auth_redirect_uri = text("/auth");
    }),
    ("webhook.auth_return_url", |c| {
        c.webhook.auth_return_url = text("javascript:alert(1)");
    }),
    ("webhook.base_path", |c| {
        c.webhook.base_path = "alipay".to_owned();
    }),
    ("webhook.max_body", |c| c.webhook.max_body = 0),
    ("webhook.max_body", |c| c.webhook.max_body = usize::MAX),
    ("webhook.public_url", |c| {
        c.webhook.public_url = text("junk");
    }),
    ("webhook.public_url", |c| {
        c.webhook.public_url = text("javascript:alert(1)");
    }),
    ("webhook.public_url", |c| {
        c.webhook.public_url = text("https://isv.example/?q");
    }),
    ("webhook.user_auth_return_url", |c| {
        c.webhook.user_auth_return_url = text("javascript:alert(1)");
    }),
    ("delivery.authorization", |c| {
        use alipay_sidecar::config::delivery::AuthorizationDelivery;
        c.delivery.authorization = AuthorizationDelivery::Verbatim;
        c.delivery.url = text("http://10.1.2.3/");
    }),
];

/// Keys that no rule here is about, each with the reason.
const ELSEWHERE: [(&str, &str); 44] = [
    ("admin.listen", LISTENER),
    ("app.alipay_cert", KEYS),
    ("app.alipay_public_key", KEYS),
    ("app.alipay_root_cert", KEYS),
    ("app.app_cert", KEYS),
    ("app.authorize", SHOWN),
    ("app.encrypt_key", KEYS),
    ("app.environment", TYPE),
    ("app.gateway", SHOWN),
    ("app.private_key", KEYS),
    ("app.private_key_next", KEYS),
    ("app.sign_type", TYPE),
    ("app.v3", SHOWN),
    ("audit.file", "who opens the log tells"),
    ("audit.retain", "any time can be served"),
    ("caller.events", TYPE),
    ("caller.merchants", TYPE),
    ("caller.mode", TYPE),
    ("caller.public_key", TYPE),
    ("delivery.ack", TYPE),
    ("delivery.format", TYPE),
    ("delivery.high_water", "any number can be served"),
    ("delivery.retain_delivered", "any time can be served"),
    ("delivery.route.ack", TYPE),
    ("delivery.route.format", TYPE),
    ("proxy.default_merchant", TYPE),
    ("proxy.listen", LISTENER),
    ("proxy.max_upload", "any size can be served, from a file"),
    ("proxy.notify_url_mode", TYPE),
    ("proxy.reply_key", FILE),
    ("proxy.reply_signature", FILE),
    ("store.cache", "who opens the store tells"),
    ("store.key", "who opens the store tells"),
    ("store.url", "who opens the store tells"),
    ("telemetry.log", "the log is the host's own"),
    ("telemetry.log_format", "the log is the host's own"),
    ("telemetry.otlp_endpoint", "judged where spans are sent"),
    ("tokens.refresh", TYPE),
    ("tokens.remember_users", TYPE),
    ("tokens.unknown", TYPE),
    ("upstream.ca_file", FILE),
    ("webhook.accept_stateless_auth", TYPE),
    ("webhook.listen", LISTENER),
    ("webhook.spi_response", TYPE),
];

/// Its type holds nothing that is wrong.
const TYPE: &str = "its type";
/// Apps are made of them, and tell what is wrong as `BuildError::App`.
const KEYS: &str = "the app's keys";
/// It isn't set there, but shown.
const SHOWN: &str = "made of others";
/// A host may mount the service elsewhere; who binds it tells.
const LISTENER: &str = "who binds it tells";
/// What a file holds is looked at where it is read (`unusable_files`).
const FILE: &str = "who reads the file tells";

fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn secret(text: &str) -> Option<Secret<String>> {
    Some(Secret::new(text.to_owned()))
}

fn alias(config: &mut Config, old: &str, route: &str) {
    let aliases = &mut config.webhook.aliases;
    aliases.insert(old.to_owned(), route.to_owned());
}

fn route(config: &mut Config) -> &mut DeliveryRoute {
    let good = DeliveryRoute {
        url: "http://127.0.0.1:3000/trade".to_owned(),
        ..DeliveryRoute::default()
    };
    config.delivery.routes = vec![good];
    &mut config.delivery.routes[0]
}

#[test]
fn what_a_file_is_refused_for_is_a_misfit_of_the_same_key() {
    for (key, change) in WRONG {
        let mut config = Config::default();
        change(&mut config);
        let faults = config.misfits();
        let keys: Vec<_> = faults.iter().map(|fault| fault.key.as_str()).collect();
        assert_eq!(keys, [key], "{faults:?}");
        let shown = format!("{faults:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

/// A key that is added to the file is judged, or stands in [`ELSEWHERE`] with a reason.
#[test]
fn every_key_of_the_file_is_judged_or_has_its_reason() {
    let mut config = Config {
        apps: vec![app("2021")],
        callers: vec![
            with_token("shop"),
            with_key("sdk", "app4096"),
            caller("me", CallerIdentity::Uid(1)),
        ],
        ..Config::default()
    };
    route(&mut config);
    let mut keys = BTreeSet::new();
    collect("", &config.to_redacted_json(), &mut keys);
    let judged = WRONG.map(|(key, _)| key.replace("[1]", "").replace("[2]", ""));
    let elsewhere = ELSEWHERE.map(|(key, _)| key.to_owned());
    let known = judged.into_iter().chain(elsewhere);
    let known: BTreeSet<_> = known.collect();
    let differing: Vec<_> = keys.symmetric_difference(&known).collect();
    assert_eq!(differing, Vec::<&String>::new());
}

fn collect(path: &str, value: &Value, keys: &mut BTreeSet<String>) {
    let below = |key: &str| match path {
        "" => key.to_owned(),
        path => format!("{path}.{key}"),
    };
    match value {
        Value::Object(values) if path != "webhook.aliases" => {
            for (key, value) in values {
                collect(&below(key), value, keys);
            }
        }
        Value::Array(items) if matches!(path, "app" | "caller" | "delivery.route") => {
            for item in items {
                collect(path, item, keys);
            }
        }
        _ => drop(keys.insert(path.to_owned())),
    }
}

#[test]
fn limits_that_can_be_served_are_no_misfits() {
    let mut config = Config::default();
    config.proxy.max_upload = u64::MAX;
    config.proxy.max_in_flight = 1;
    config.delivery.high_water = 0;
    config.delivery.give_up_after = Duration::MAX;
    config.delivery.retain_delivered = Duration::MAX;
    config.telemetry.audit_retain = Duration::MAX;
    config.upstream.timeout = Duration::from_millis(1);
    // A host may mount the proxy on a unix socket of its own.
    config.callers = vec![caller("me", CallerIdentity::Uid(0))];
    assert_eq!(config.misfits(), []);
}

#[tokio::test]
async fn every_fault_is_told_at_once_and_nothing_is_put_in_force() {
    let sidecar = TestSidecar::start().await;
    let mut config = sidecar.config.clone();
    config.upstream.gateway = text("http://openapi.alipay.com/gateway.do");
    config.proxy.max_in_flight = usize::MAX;
    config.callers = vec![caller("", CallerIdentity::Token(TokenDigest::of("")))];
    let expected = [
        "proxy.max_in_flight",
        "upstream.gateway",
        "caller[1].name",
        "caller[1].token",
    ];
    let builder = Sidecar::builder(config.clone()).store(sidecar.sidecar.store());
    let Err(BuildError::Configuration(errors)) = builder.build().await else {
        panic!("it was built");
    };
    let keys: Vec<_> = errors.faults().iter().map(|f| f.key.as_str()).collect();
    assert_eq!(keys, expected, "{errors}");
    let Err(ReloadError::Configuration(errors)) = sidecar.sidecar.reload(config).await else {
        panic!("it was put in force");
    };
    let keys: Vec<_> = errors.faults().iter().map(|f| f.key.as_str()).collect();
    assert_eq!(keys, expected, "{errors}");
}

/// What a file may say in several ways is served, whichever of them a program chose.
#[tokio::test]
async fn values_are_put_into_the_form_of_the_file() {
    let sidecar = TestSidecar::start().await;
    let build = async |change: Change| {
        let mut config = sidecar.config.clone();
        change(&mut config);
        let builder = Sidecar::builder(config).store(sidecar.sidecar.store());
        builder.without_audit().build().await.expect("built")
    };
    let built = build(|c| {
        c.webhook.base_path = "/hooks/".to_owned();
        c.webhook.public_url = text("https://isv.example/");
        c.proxy.allowed_hosts = vec!["Sidecar.Internal".to_owned()];
    })
    .await;
    let config = built.config();
    assert_eq!(
        (
            config.webhook.public_url.as_deref(),
            &*config.proxy.allowed_hosts
        ),
        (
            Some("https://isv.example"),
            &["sidecar.internal".to_owned()][..]
        )
    );
    let at_root = build(|c| c.webhook.base_path = "/".to_owned()).await;
    for (built, path) in [(built, "/hooks/gateway"), (at_root, "/gateway")] {
        let request = Request::post(path).body(Full::new(Bytes::from_static(b"a=b")));
        let answer = built
            .webhook_service()
            .call(request.expect("a request"))
            .await;
        let status = answer.expect("infallible").status();
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path}");
        // In another form it is the same.
        let mut again = built.config();
        again.webhook.base_path.push('/');
        let reloaded = built.reload(again).await.expect("put in force");
        assert_eq!(reloaded.changed, Vec::<String>::new());
    }
}
