//! `trigger`: a signed test notification from the simulator.

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use clap::Args;
use http::{Method, Request, Uri, header};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::cli::exchange::NoReply;
use crate::cli::failure::Failure;
use crate::cli::output::Form;
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
    /// The trade of payment and refund; payment makes one where there is none
    #[arg(long)]
    out_trade_no: Option<String>,
    /// The merchant's application, where it isn't the simulator's first
    #[arg(long)]
    auth_app_id: Option<String>,
    #[command(flatten)]
    form: Form,
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
    // Without a scheme it is a host and port alone, which say as much.
    let is_http = matches!(arguments.simulator.scheme_str(), None | Some("http"));
    let Some(authority) = arguments.simulator.authority().filter(|_| is_http) else {
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
        .body(Full::new(Bytes::from(options(arguments).to_string())))
        .context("the arguments make no HTTP request")?;
    let reply = exchange::send(&listen, None, request)
        .await
        .map_err(|no_reply| unreached(no_reply, &listen))?;
    let record: Value = serde_json::from_slice(&reply.body)
        .with_context(|| format!("the simulator answered {}", reply.status))?;
    if !reply.status.is_success() {
        let why = record.get("error").and_then(Value::as_str);
        let why = why.unwrap_or_default();
        return Err(anyhow!("the simulator refused ({}): {why}", reply.status).into());
    }
    tell(arguments, &record)
}

/// The configuration has no say in where the simulator is: the flag has.
fn unreached(no_reply: NoReply, listen: &Listen) -> anyhow::Error {
    match no_reply {
        NoReply::NobodyListens => anyhow!(
            "no simulator listens at {listen}; start one (`alipay-sidecar simulator`), or say \
             where it is with --simulator http://host:port, as it printed when it started"
        ),
        other => other.into_error("simulator", listen).context("--simulator"),
    }
}

/// The first attempt is waited for, so that its answer can be told.
fn options(arguments: &TriggerArguments) -> Value {
    let mut options = json!({ "wait": true });
    for (name, value) in [
        ("out_trade_no", &arguments.out_trade_no),
        ("auth_app_id", &arguments.auth_app_id),
    ] {
        if let (Some(value), Some(options)) = (value, options.as_object_mut()) {
            options.insert(name.to_owned(), json!(value));
        }
    }
    options
}

fn tell(arguments: &TriggerArguments, record: &Value) -> Result<(), Failure> {
    if arguments.form.json {
        output::say_json(record)?;
    }
    let member = |name: &str| record.get(name).and_then(Value::as_str).unwrap_or_default();
    let simulator = arguments.simulator.to_string();
    let simulator = simulator.trim_end_matches('/').to_owned();
    let (event, id, url) = (&arguments.event, member("notify_id"), member("url"));
    if let Some(remark) = record.get("remark").and_then(Value::as_str) {
        output::complain(format!("note: {remark}"));
    }
    if member("state") != "acked" {
        let attempts = record.get("attempts").and_then(Value::as_array);
        let attempt = attempts.and_then(|all| all.last());
        let answer = attempt
            .and_then(|attempt| attempt.get("answer"))
            .and_then(Value::as_str);
        let error = attempt
            .and_then(|attempt| attempt.get("error"))
            .and_then(Value::as_str);
        let said = error.or(answer).unwrap_or("nothing");
        return Err(Failure::told(format!(
            "{event} {id} to {url} wasn't taken: {said}; the simulator tries again as Alipay does{}",
            elsewhere(&simulator)
        )));
    }
    if !arguments.form.json {
        output::say(format!("{event} {id} was taken by {url}"));
    }
    Ok(())
}

/// Where the simulator sends to isn't the sidecar's to say.
fn elsewhere(simulator: &str) -> String {
    format!(
        ".\nIs the webhook elsewhere? `alipay-sidecar simulator --webhook HOST:PORT` names it \
         at the start; a running one is told by\n  curl -d \
         '{{\"app_gateway\":\"http://host:port/alipay/gateway\",\"auth_redirect\":\"http://host:port/alipay/auth\"}}' {simulator}/simulator/app"
    )
}
