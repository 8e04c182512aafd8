//! `health`: for containers and scripts.

use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use http::StatusCode;
use serde_json::json;

use crate::cli::admin_client::AdminClient;
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::output;
use crate::cli::output::Form;
use crate::config::error::Mismatch;
use crate::config::value;

#[derive(Debug, Args)]
pub(crate) struct HealthArguments {
    /// How long to wait until it is ready, such as 30s
    #[arg(long, value_parser = duration, value_name = "TIME")]
    wait: Option<Duration>,
    #[command(flatten)]
    form: Form,
}

fn duration(text: &str) -> Result<Duration, Mismatch> {
    value::duration(text)
}

pub(crate) async fn execute(context: &Context, arguments: &HealthArguments) -> Result<(), Failure> {
    let config = context.load()?;
    let deadline = tokio::time::Instant::now() + arguments.wait.unwrap_or_default();
    loop {
        // The token file appears when the sidecar starts, so it is looked for each time.
        let status = AdminClient::new(&config).status("/readyz").await;
        if matches!(status, Ok(Some(StatusCode::OK))) {
            return tell_ready(arguments);
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(not_ready(status?, &config.admin.listen.to_string()));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn tell_ready(arguments: &HealthArguments) -> Result<(), Failure> {
    if arguments.form.json {
        return output::say_json(&json!({ "ready": true }));
    }
    output::say("ready");
    Ok(())
}

fn not_ready(status: Option<StatusCode>, listen: &str) -> Failure {
    match status {
        None => anyhow!("no sidecar listens at {listen}").into(),
        Some(status) => anyhow!("the sidecar at {listen} isn't ready ({status})").into(),
    }
}

/// Short beside any start, long beside a request.
const PAUSE: Duration = Duration::from_millis(100);
