//! `health`: for containers and scripts.

use std::time::Duration;

use clap::Args;
use http::StatusCode;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::cli::admin_client::AdminClient;
use crate::cli::context::Context;
use crate::cli::exchange::Reply;
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
    let deadline = Instant::now() + arguments.wait.unwrap_or_default();
    let config = context.load_to_probe()?;
    let client = AdminClient::of_probes(&config);
    loop {
        let limit = deadline.max(Instant::now() + ANSWER);
        let looked = tokio::time::timeout_at(limit, client.look("/readyz")).await;
        let Ok(looked) = looked else {
            let listen = &config.admin.listen;
            let text = format!(
                "not ready: {listen} (`admin.listen`) takes connections, and doesn't answer"
            );
            return tell_not_ready(json!({}), ("not-ready", text), arguments);
        };
        if matches!(&looked, Ok(Some(reply)) if reply.status == StatusCode::OK) {
            return tell_ready(arguments);
        }
        if Instant::now() >= deadline {
            return not_ready(looked?, &config.admin.listen.to_string(), arguments);
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

fn not_ready(
    reply: Option<Reply>,
    listen: &str,
    arguments: &HealthArguments,
) -> Result<(), Failure> {
    let Some(reply) = reply else {
        let text = format!("no sidecar listens at {listen}; start one, or mend -c");
        return tell_not_ready(json!({}), ("not-running", text), arguments);
    };
    let said: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    let why = why_not(&said).unwrap_or_else(|| format!("it answered {}", reply.status));
    let text = format!("the sidecar at {listen} isn't ready: {why}");
    tell_not_ready(said, ("not-ready", text), arguments)
}

/// What `/readyz` says it can't.
fn why_not(said: &Value) -> Option<String> {
    let is = |member: &str| said.get(member).and_then(Value::as_bool);
    let reasons = [
        (is("draining") == Some(true)).then_some(
            "it was taken out of service (`POST /api/drain`), or stops; a start puts it in again",
        ),
        (is("store_writable") == Some(false)).then_some(
            "its store takes no writes, or its disk is full; see to the disk, and to its log",
        ),
        (is("app_usable") == Some(false))
            .then_some("no app can sign; add an `[[app]]` and reload, or use `app add`"),
    ];
    let reasons: Vec<_> = reasons.into_iter().flatten().collect();
    (!reasons.is_empty()).then(|| reasons.join("; "))
}

fn tell_not_ready(
    mut said: Value,
    (code, text): (&str, String),
    arguments: &HealthArguments,
) -> Result<(), Failure> {
    if arguments.form.json {
        // What isn't a sidecar may say anything, or nothing.
        if !said.is_object() {
            said = json!({});
        }
        if let Some(members) = said.as_object_mut() {
            members.insert("ready".to_owned(), json!(false));
            members.insert("code".to_owned(), json!(code));
            members.insert("detail".to_owned(), json!(text));
        }
        output::say_json(&said)?;
    }
    Err(Failure::told(text))
}

/// Short beside any start, long beside a request.
const PAUSE: Duration = Duration::from_millis(100);
/// How long an answer is waited for where nobody says, or the time is nearly over.
const ANSWER: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_that_readyz_gives_is_told() {
        let why = |draining, store_writable, app_usable| {
            let said = json!({
                "ready": false,
                "store_writable": store_writable,
                "app_usable": app_usable,
                "draining": draining,
            });
            why_not(&said).unwrap_or_default()
        };
        assert!(why(true, true, true).starts_with("it was taken out of service"));
        assert!(why(false, false, true).starts_with("its store takes no writes"));
        assert!(why(false, true, false).starts_with("no app can sign"));
        assert_eq!(why(true, false, false).matches("; ").count(), 5);
        assert_eq!(why_not(&json!("no sidecar's")), None);
    }
}
