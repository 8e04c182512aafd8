//! With `upstream.proxy` everything for Alipay leaves through the proxy, TLS from end to end, and
//! nothing beside it.

mod connect_proxy;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use alipay_sidecar::config::Config;
use alipay_sidecar::protocol::secret::Secret;
use alipay_sidecar::sidecar::Sidecar;
use alipay_sidecar::simulator::{
    DEFAULT_APP_ID, Event, FIRST_AUTH_APP_ID, Simulator, TriggerOptions,
};
use http::Request;
use rustls::ServerConfig;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use self::connect_proxy::{ConnectProxy, Manner};
use crate::certificates::certified;
use crate::support::{ALIAS, PATIENCE, TestSidecar, free_port, header, json, text};
use crate::tls::authority::{Authority, Identity};

/// A name that only the proxy can resolve.
const NAME: &str = "gateway.alipay.test";
const QUERY: &str = r#"{"out_trade_no":"1"}"#;
const PAY: &str = "/v2/alipay.trade.pay";

/// The simulator behind TLS, and a proxy before both.
struct World {
    sidecar: TestSidecar,
    proxy: ConnectProxy,
    /// Who made the connections that reached Alipay.
    peers: Arc<Mutex<BTreeSet<SocketAddr>>>,
}

impl World {
    async fn start() -> Self {
        Self::start_with(&[NAME], |_, _| ()).await
    }

    /// With a certificate for `names`, and another configuration.
    async fn start_with(names: &[&str], change: impl FnOnce(&Simulator, &mut Config)) -> Self {
        let authority = Authority::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let front = listener.local_addr().expect("bound");
        let proxy = ConnectProxy::start(front).await;
        let roots = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(roots.path(), authority.roots()).expect("written");
        let mut simulated = String::new();
        let sidecar = TestSidecar::start_before(|simulator, config| {
            simulated = simulator.url().replace("http://", "");
            config.upstream.gateway = Some(format!("https://{NAME}/gateway.do"));
            config.upstream.v3 = Some(format!("https://{NAME}"));
            config.upstream.proxy = Some(proxy.url());
            config.upstream.ca_file = Some(roots.path().to_owned());
            change(simulator, config);
        })
        .await;
        let peers = Arc::default();
        let server = server(authority.good(names));
        tokio::spawn(unwrap_tls(listener, server, simulated, Arc::clone(&peers)));
        Self {
            sidecar,
            proxy,
            peers,
        }
    }

    /// All that reached Alipay came from the proxy.
    fn check_nothing_left_beside_the_proxy(&self) {
        let peers = self.peers.lock().expect("no panic").clone();
        assert!(!peers.is_empty());
        assert_eq!(peers, self.proxy.outbound());
    }
}

fn server(identity: Identity) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(identity.chain, identity.key)
        .expect("a certificate");
    TlsAcceptor::from(Arc::new(config))
}

/// Takes TLS off, and hands the rest to `target`.
async fn unwrap_tls(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    target: String,
    peers: Arc<Mutex<BTreeSet<SocketAddr>>>,
) {
    while let Ok((stream, peer)) = listener.accept().await {
        peers.lock().expect("no panic").insert(peer);
        let (acceptor, target) = (acceptor.clone(), target.clone());
        tokio::spawn(async move {
            let Ok(mut secured) = acceptor.accept(stream).await else {
                return;
            };
            let mut plain = TcpStream::connect(target).await.expect("the simulator");
            copy_bidirectional(&mut secured, &mut plain).await.ok();
        });
    }
}

async fn check_passes(sidecar: &TestSidecar, path: &str) {
    let reply = sidecar.post(path, QUERY).await;
    assert_eq!(reply.status, 200, "{path}: {}", text(&reply));
    assert_eq!(header(&reply, "alipay-sidecar-verified"), "true", "{path}");
}

#[tokio::test]
async fn calls_go_through_the_proxy_and_the_proxy_sees_a_name_and_a_port() {
    let world = World::start().await;
    let order = r#"{"out_trade_no":"1","total_amount":"1.00","subject":"tea"}"#;
    let created = world.sidecar.post("/v2/alipay.trade.create", order).await;
    assert_eq!(created.status, 200, "{}", text(&created));
    check_passes(&world.sidecar, "/v2/alipay.trade.query").await;
    let v3 = Request::post("/v3/alipay/trade/query")
        .header("content-type", "application/json")
        .header("alipay-merchant", ALIAS);
    let v3 = world.sidecar.proxy(v3, QUERY).await;
    assert_eq!(v3.status, 200, "{}", text(&v3));
    let heads = world.proxy.heads();
    assert!(!heads.is_empty());
    for head in heads {
        let expected = format!("CONNECT {NAME}:443 HTTP/1.1\r\nHost: {NAME}:443\r\n\r\n");
        assert_eq!(head, expected);
    }
    world.check_nothing_left_beside_the_proxy();
}

#[tokio::test]
async fn a_tunnel_is_kept_for_later_calls() {
    let world = World::start().await;
    for _ in 0..5 {
        check_passes(&world.sidecar, "/v2/alipay.trade.query").await;
    }
    assert_eq!(world.proxy.heads().len(), 1);
}

#[tokio::test]
async fn certificates_and_tokens_come_through_the_proxy() {
    let world = World::start_with(&[NAME], certified).await;
    world
        .sidecar
        .simulator
        .rotate_platform_certificate()
        .expect("certificates");
    check_passes(&world.sidecar, "/v2/alipay.trade.query").await;
    let fetched = "alipay_sidecar_certificate_downloads_total{outcome=\"ok\"}";
    world.sidecar.wait_for_metric(fetched, 1.0).await;
    let path = format!("/api/merchants/{DEFAULT_APP_ID}/{FIRST_AUTH_APP_ID}/refresh");
    let refreshed = world.sidecar.admin(http::Method::POST, &path, "").await;
    assert_eq!(refreshed.status, 200, "{}", text(&refreshed));
    world.check_nothing_left_beside_the_proxy();
}

#[tokio::test]
async fn deliveries_do_not_go_through_the_proxy() {
    let world = World::start().await;
    world
        .sidecar
        .simulator
        .trigger(Event::OrderMessage, &TriggerOptions::default())
        .await
        .expect("triggered");
    let delivered = world.sidecar.backend.next().await;
    assert!(!delivered.body.is_empty());
    assert_eq!(world.proxy.heads(), Vec::<String>::new());
}

#[tokio::test]
async fn a_plain_gateway_on_loopback_is_behind_the_proxy_too() {
    let proxy = ConnectProxy::start(([127, 0, 0, 1], 9).into()).await;
    let sidecar = TestSidecar::start_with(|config| {
        config.upstream.proxy = Some(proxy.url());
    })
    .await;
    let simulator = sidecar.simulator.url().replace("http://", "");
    proxy.lead_to(simulator.parse().expect("an address"));
    check_passes(&sidecar, "/v2/alipay.trade.query").await;
    let expected = format!("CONNECT {simulator} HTTP/1.1\r\nHost: {simulator}\r\n\r\n");
    assert_eq!(proxy.heads(), [expected]);
}

#[tokio::test]
async fn the_proxy_is_shown_its_credentials_and_alipay_is_not() {
    let world = World::start_with(&[NAME], |_, config| {
        config.upstream.proxy_credentials = Some(Secret::new("egress:hunter2".to_owned()));
    })
    .await;
    check_passes(&world.sidecar, "/v2/alipay.trade.query").await;
    let heads = world.proxy.heads();
    let shown = "Proxy-Authorization: Basic ZWdyZXNzOmh1bnRlcjI=\r\n";
    assert!(heads.concat().contains(shown), "{heads:?}");
    let config = &world.sidecar.config;
    let config = format!("{config:?}{}", config.to_redacted_json());
    assert!(!config.contains("hunter2") && !config.contains("ZWdyZXNz"));
    for request in world.sidecar.simulator.requests() {
        assert!(!format!("{request:?}").contains("ZWdyZXNz"));
    }
}

#[tokio::test]
async fn wrong_credentials_are_told_and_not_shown() {
    let world = World::start_with(&[NAME], |_, config| {
        config.upstream.proxy_credentials = Some(Secret::new("egress:hunter2".to_owned()));
    })
    .await;
    let refused = b"HTTP/1.1 407 No\r\nConnection: close\r\n\r\n";
    world.proxy.behave(Manner::Says(refused.to_vec()));
    let told = text(&world.sidecar.post(PAY, QUERY).await);
    assert!(
        told.contains("with status 407; see that upstream.proxy_credentials are right"),
        "{told}"
    );
    assert!(
        !told.contains("hunter2") && !told.contains("ZWdyZXNz"),
        "{told}"
    );
}

/// One that waits for a proxy less long than a call may take.
async fn impatient() -> World {
    World::start_with(&[NAME], |_, config| {
        config.upstream.connect_timeout = Duration::from_millis(500);
        config.upstream.timeout = PATIENCE;
    })
    .await
}

/// What a call is told where the proxy behaves like that; nothing was sent.
async fn check_refused(world: &World, manner: Manner, expected: &str) {
    world.proxy.behave(manner);
    let reply = world.sidecar.post(PAY, QUERY).await;
    let told = text(&reply);
    assert_eq!(reply.status, 502, "{told}");
    let error = header(&reply, "alipay-sidecar-error");
    assert_eq!(error, "upstream-unreachable", "{told}");
    assert_eq!(
        header(&reply, "alipay-sidecar-outcome"),
        "not-sent",
        "{told}"
    );
    assert_eq!(json(&reply)["retryable"], true, "{told}");
    let detail = json(&reply)["detail"].as_str().expect("text").to_owned();
    let expected = expected.replace("PROXY", &format!("the proxy {}", world.proxy.url()));
    let expected =
        format!("Alipay could not be reached: no connection to {NAME} could be made: {expected}");
    assert_eq!(detail, expected);
    assert!(world.proxy.outbound().is_empty());
    assert!(world.peers.lock().expect("no panic").is_empty());
}

#[tokio::test]
async fn a_proxy_that_refuses_is_named_with_its_status_and_nothing_else() {
    let world = impatient().await;
    for (status, hint) in [
        ("403 Forbidden", "403; the proxy must allow CONNECT to it"),
        ("407 Who are you", "407; set upstream.proxy_credentials"),
        ("301 Moved", "301"),
        ("100 Continue", "100"),
        ("503 Busy", "503"),
    ] {
        let answer = format!("HTTP/1.1 {status}\r\nX-Secret: hunter2\r\n\r\n<html>hunter2");
        let expected = format!("PROXY answered CONNECT to {NAME}:443 with status {hint}");
        check_refused(&world, Manner::Says(answer.into_bytes()), &expected).await;
    }
}

#[tokio::test]
async fn a_proxy_that_makes_no_sense_is_told_by_its_kind() {
    let world = impatient().await;
    let head = b"HTTP/1.1 200 OK\r\n".to_vec();
    let filled = |field: &[u8]| Manner::SaysWithoutEnd(field.to_vec());
    for (manner, expected) in [
        (
            Manner::Says(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
            "the answer of PROXY isn't HTTP/1",
        ),
        (
            Manner::Says(vec![0; 64]),
            "the answer of PROXY isn't HTTP/1",
        ),
        (
            Manner::Says(Vec::new()),
            "the answer of PROXY ended before its head did",
        ),
        (
            Manner::Says(head.clone()),
            "the answer of PROXY ended before its head did",
        ),
        (
            Manner::Says([head.as_slice(), b"\r\nhello"].concat()),
            "the answer of PROXY has more behind its head",
        ),
        (
            filled(b"HTTP/1.1 200 OK\r\n"),
            "the answer of PROXY isn't HTTP/1",
        ),
        (
            filled(&[b"HTTP/1.1 200 OK\r\nX: ", [b'x'; 9000].as_slice()].concat()),
            "the answer of PROXY is longer than 8192 bytes",
        ),
        (
            Manner::Hangs(Vec::new()),
            "no connection through PROXY within 500ms",
        ),
        (
            Manner::Hangs(head),
            "no connection through PROXY within 500ms",
        ),
    ] {
        check_refused(&world, manner, expected).await;
    }
}

#[tokio::test]
async fn a_proxy_that_is_not_there_is_named() {
    let address = format!("127.0.0.1:{}", free_port());
    let world = World::start_with(&[NAME], |_, config| {
        config.upstream.proxy = Some(format!("http://{address}"));
    })
    .await;
    let reply = world.sidecar.post(PAY, QUERY).await;
    assert_eq!(header(&reply, "alipay-sidecar-outcome"), "not-sent");
    let detail = json(&reply)["detail"].as_str().expect("text").to_owned();
    let named = format!("the proxy http://{address} can't be used: Connection refused");
    assert!(detail.contains(&named), "{detail}");
    assert!(world.peers.lock().expect("no panic").is_empty());
}

#[tokio::test]
async fn whoever_stands_at_the_end_of_the_tunnel_proves_to_be_alipay() {
    let world = World::start_with(&["another.alipay.test"], |_, _| ()).await;
    let reply = world.sidecar.post(PAY, QUERY).await;
    assert_eq!(reply.status, 502, "{}", text(&reply));
    assert_eq!(
        header(&reply, "alipay-sidecar-error"),
        "upstream-unreachable"
    );
    assert_eq!(header(&reply, "alipay-sidecar-outcome"), "not-sent");
    assert_eq!(world.proxy.heads().len(), 1);
    assert!(world.sidecar.simulator.requests().is_empty());
}

#[tokio::test]
async fn a_call_whose_deadline_ends_in_the_proxy_was_not_sent() {
    let world = World::start().await;
    world.proxy.behave(Manner::Hangs(Vec::new()));
    let request = Request::post(PAY)
        .header("alipay-merchant", ALIAS)
        .header("alipay-timeout", "200ms");
    let reply = world.sidecar.proxy(request, QUERY).await;
    assert_eq!(header(&reply, "alipay-sidecar-error"), "upstream-timeout");
    assert_eq!(header(&reply, "alipay-sidecar-outcome"), "not-sent");
}

#[tokio::test]
async fn a_host_that_names_no_proxy_is_told() {
    let running = TestSidecar::start().await;
    let mut config = running.config.clone();
    config.upstream.proxy = Some("https://egress:3128".to_owned());
    let builder = Sidecar::builder(config).store(running.sidecar.store());
    let error = builder.without_audit().build().await.expect_err("refused");
    let told = format!("{:#}", anyhow::Error::from(error));
    assert!(
        told.contains("\"https://egress:3128\" is no proxy's address"),
        "{told}"
    );
}
