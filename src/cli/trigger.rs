//! `trigger`: a signed test notification from the simulator.

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use clap::Args;
use http::{Method, Request, Uri, header};
use http_body_util::Full;

use crate::cli::failure::Failure;
use crate::cli::{exchange, output};
use crate::config::listen::Listen;

#[derive(Debug, Args)]
pub(crate) struct TriggerArguments {
    /// What to send
    #[arg(value_parser = EVENTS)]
    event: String,
    /// Where the simulator is
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:2099")]
    simulator: Uri,
}

const EVENTS: [&str; 8] = [
    "plugin-order",
    "order-message",
    "feature-package",
    "re-authorize",
    "cancel",
    "payment",
    "refund",
    "service-check",
];

pub(crate) async fn execute(arguments: &TriggerArguments) -> Result<(), Failure> {
    let Some(authority) = arguments.simulator.authority() else {
        let text = format!(
            "--simulator {}: expected http://host:port",
            arguments.simulator
        );
        return Err(Failure::Usage(text));
    };
    let port = authority.port_u16().unwrap_or(80);
    let listen = Listen::Tcp(format!("{}:{port}", authority.host()));
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("/simulator/trigger/{}", arguments.event))
        .header(header::HOST, authority.as_str())
        .body(Full::new(Bytes::new()))
        .context("the arguments make no HTTP request")?;
    let reply = exchange::send(&listen, request)
        .await
        .map_err(|no_reply| no_reply.into_error("simulator", &listen))?;
    output::say_bytes(&reply.body);
    if reply.status.is_success() {
        return Ok(());
    }
    Err(anyhow!("the simulator answered {}", reply.status).into())
}
