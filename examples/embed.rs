//! A host program with a sidecar inside: no listener of its own, calls in process.
//!
//! It talks to the built-in Alipay simulator and ends by itself. Run it with
//! `cargo run --example embed`.

use std::io::Write;
use std::path::Path;

use alipay_sidecar::config::store::StoreConfig;
use alipay_sidecar::config::upstream::UpstreamConfig;
use alipay_sidecar::model::app::{App, Environment};
use alipay_sidecar::model::id::AppId;
use alipay_sidecar::protocol::secret::Secret;
use alipay_sidecar::protocol::signature::SignType;
use alipay_sidecar::simulator::{DEFAULT_APP_ID, FIRST_AUTH_APP_ID, Simulator};
use alipay_sidecar::store::embedded::EmbeddedStore;
use alipay_sidecar::store::seal::StoreKey;
use alipay_sidecar::{Config, Sidecar};
use anyhow::{Context, ensure};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let simulator = simulator().await?;
    let directory = tempfile::tempdir()?;
    let sidecar = Sidecar::builder(config(&simulator, directory.path())?)
        .build()
        .await?;

    // Deliveries to the backend and the removal of old records go on beside the host's own work,
    // until the drain.
    let background = tokio::spawn(sidecar.background(std::future::pending()));

    authorise(&simulator, &sidecar).await?;
    call(&sidecar).await?;

    // Before the runtime ends: what is under way would be lost with it.
    sidecar.drain().await?;
    background.await??;
    Ok(())
}

/// A merchant authorises the app: the one-time code is exchanged in the ISV's own name, and the
/// sidecar keeps the tokens that come back. From then on nobody handles a token.
async fn authorise(simulator: &Simulator, sidecar: &Sidecar) -> anyhow::Result<()> {
    let code = simulator.app_auth_code(None, &[FIRST_AUTH_APP_ID])?;
    let exchange = format!(r#"{{"grant_type":"authorization_code","code":"{code}"}}"#);
    let reply = sidecar
        .request("alipay.open.auth.token.app")
        .merchant("self")
        .biz_content(&exchange)
        .send()
        .await?;
    ensure!(reply.code() == Some("10000"), "the exchange failed");
    Ok(())
}

/// A call for that merchant. What `send` gives has been verified; a forged reply is an error.
async fn call(sidecar: &Sidecar) -> anyhow::Result<()> {
    let order = r#"{"out_trade_no":"42","total_amount":"88.88","subject":"tea","buyer_id":"2088000000002001"}"#;
    let reply = sidecar
        .request("alipay.trade.create")
        .merchant(FIRST_AUTH_APP_ID)
        .biz_content(order)
        .send()
        .await?;
    ensure!(reply.is_signed(), "an error that Alipay doesn't sign");
    // Alipay answers 200 to business errors too: the code tells.
    ensure!(reply.code() == Some("10000"), "{:?}", reply.sub_code());
    let node = reply.node();
    let mut out = std::io::stdout().lock();
    writeln!(out, "verified: {}", String::from_utf8_lossy(&node))?;
    Ok(())
}

/// A configuration in code; `Config::load` reads one from a file.
fn config(simulator: &Simulator, directory: &Path) -> anyhow::Result<Config> {
    // Building a sidecar opens a store and never creates one: a mistyped path would look like an
    // empty store. A program creates it once, when it is installed.
    let (path, key) = (directory.join("sidecar.redb"), StoreKey::generate());
    EmbeddedStore::create(&path, &key)?;
    let private_key = simulator
        .app_private_key(DEFAULT_APP_ID)
        .context("the simulator made the app's key")?;
    let app = App {
        app_id: AppId::new(DEFAULT_APP_ID)?,
        private_key: Secret::new(private_key).into(),
        private_key_next: None,
        alipay_public_keys: vec![simulator.platform_public_key()],
        certificates: None,
        encrypt_key: None,
        environment: Environment::Production,
        sign_type: SignType::Rsa2,
    };
    let mut config = Config {
        upstream: UpstreamConfig {
            gateway: Some(format!("{}/gateway.do", simulator.url())),
            ..UpstreamConfig::default()
        },
        store: StoreConfig {
            path,
            key: Some(key.to_base64()),
            ..StoreConfig::default()
        },
        apps: vec![app],
        ..Config::default()
    };
    config.telemetry.audit_file = Some(directory.join("audit.jsonl"));
    Ok(config)
}

/// Stands for Alipay: one app of ours, and a merchant that may authorise it.
async fn simulator() -> anyhow::Result<Simulator> {
    let simulator = Simulator::builder()
        .defaults("http://127.0.0.1:2089/alipay/gateway")?
        .listen("127.0.0.1:0")
        .await?
        .build()?;
    tokio::spawn(simulator.clone().run(std::future::pending()));
    Ok(simulator)
}
