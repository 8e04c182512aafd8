//! An axum program that mounts the sidecar's routes beside its own.
//!
//! The simulator stands for Alipay and writes a folder with keys and a `config.toml`. One call
//! goes through the mounted proxy, then the program ends by itself. Run it with
//! `cargo run --example mount_in_axum`.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use alipay_sidecar::config::process_environment;
use alipay_sidecar::net::client::{Client, ClientOptions};
use alipay_sidecar::simulator::{
    FIRST_AUTH_APP_ID, Simulator, WorkspaceListeners, write_workspace,
};
use alipay_sidecar::store::embedded::EmbeddedStore;
use alipay_sidecar::store::seal::StoreKey;
use alipay_sidecar::{Config, Sidecar};
use anyhow::{Context, ensure};
use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let simulator = simulator().await?;
    let directory = tempfile::tempdir()?;
    let config = config(&simulator, directory.path())?;
    let sidecar = Sidecar::builder(config).build().await?;
    authorise(&simulator, &sidecar).await?;

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let (stop, stopped) = oneshot::channel::<()>();
    let server = axum::serve(listener, router(&sidecar))
        .with_graceful_shutdown(async { drop(stopped.await) });
    let server = tokio::spawn(server.into_future());
    // Without it notifications are stored, but never delivered.
    let background = tokio::spawn(sidecar.background(std::future::pending()));

    call(&url).await?;

    // First nothing new comes, then all that came ends.
    drop(stop);
    server.await??;
    sidecar.drain().await?;
    background.await??;
    Ok(())
}

/// Everything on one listener. A real program keeps the webhook on a listener of its own: it
/// faces the internet, and whoever reaches the proxy spends the merchants' authorisations.
fn router(sidecar: &Sidecar) -> Router {
    Router::new()
        .route("/", get(|| async { "the host's own page" }))
        // The webhook's paths begin with `webhook.base_path`, which a route keeps.
        .route_service("/alipay/{*path}", sidecar.webhook_service())
        // The proxy's paths begin at the root; `nest_service` takes the prefix off.
        .nest_service("/pay", sidecar.proxy_service())
        .fallback(|| async { (http::StatusCode::NOT_FOUND, "no such page") })
}

/// A backend's call: no key, no signature, no token, just the merchant's tag.
async fn call(url: &str) -> anyhow::Result<()> {
    let client = Client::new(&ClientOptions {
        connect_timeout: Duration::from_secs(3),
        max_reply: 1 << 20,
        ca_file: None,
    })?;
    let order = r#"{"out_trade_no":"42","total_amount":"88.88","subject":"tea","buyer_id":"2088000000002001"}"#;
    let request = Request::post(format!("{url}/pay/v2/alipay.trade.create"))
        .header("alipay-merchant", FIRST_AUTH_APP_ID)
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(order)))?;
    let reply = client.send(request, Duration::from_secs(15)).await?;
    let body = String::from_utf8_lossy(&reply.body);
    let verified = reply.headers.get("alipay-sidecar-verified");
    ensure!(
        verified.is_some_and(|verified| verified == "true"),
        "{body}"
    );
    writeln!(std::io::stdout().lock(), "verified: {body}")?;
    Ok(())
}

/// A merchant authorises the app; the sidecar keeps the tokens of the exchange.
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

/// Reads the configuration as the program itself would, and creates the store it names.
fn config(simulator: &Simulator, directory: &Path) -> anyhow::Result<Config> {
    write_workspace(simulator, directory, None, &WorkspaceListeners::default())?;
    let config = Config::load(&directory.join("config.toml"), process_environment())?;
    let key = config.store.key.as_ref().context("the folder has a key")?;
    EmbeddedStore::create(&config.store.path, &StoreKey::from_base64(key.expose())?)?;
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
