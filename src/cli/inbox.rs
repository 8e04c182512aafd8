//! `inbox list|show|replay|reverify|prune`.
//!
//! Names, values, types and more are what somebody sent, of what was refused a stranger: people read
//! it by [`output::say_line`] and [`output::say_table`] alone, which keep it from the terminal.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use crate::admin::inbox::{EntryView, Order, RefusalView, ReverifyReport};
use crate::admin::page::DEFAULT_LIMIT;
use crate::admin::replay::ReplayFilter;
use crate::cli::admin_client::{AdminClient, encoded};
use crate::cli::backend::{Backend, Part};
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::output;
use crate::cli::output::Form;
use crate::clock::{Clock, SystemClock};
use crate::config::value;
use crate::model::id::AppId;
use crate::webhook::reverify::{Explained, Reverified, ReverifyOutcome};

#[derive(Debug, Subcommand)]
pub(crate) enum InboxVerb {
    /// List notifications and events
    List(ListArguments),
    /// Remove what is old now, as a running sidecar does by itself every ten minutes
    Prune(PruneArguments),
    /// Deliver one again, or all that a filter fits
    Replay(ReplayArguments),
    /// Verify refused notifications again, once a key was mended; what verifies is delivered
    ///
    /// Ends with 1 where the one that was asked for still isn't taken, and says why; where all were
    /// asked for, with 0 however many stay refused.
    Reverify {
        /// The sidecar's id of it; without one, all that are refused
        id: Option<String>,
        #[command(flatten)]
        form: Form,
    },
    /// Show one with its attempts
    Show {
        /// The sidecar's id of it
        id: String,
        /// Say why its signature holds or doesn't, by the keys of now
        #[arg(long)]
        explain: bool,
        #[command(flatten)]
        form: Form,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    /// Only these
    #[arg(long, value_parser = ["pending", "delivered", "dead", "ignored", "refused"])]
    state: Option<String>,
    /// The newest first
    #[arg(long)]
    newest: bool,
    /// Begin behind this id
    #[arg(long)]
    after: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = DEFAULT_LIMIT)]
    limit: usize,
    #[command(flatten)]
    form: Form,
}

#[derive(Debug, Args)]
pub(crate) struct PruneArguments {
    /// Of what was delivered or ignored, all that is settled for longer than this (36h, 3d), in the
    /// place of `delivery.retain_delivered`; `notify_id`s are remembered for 9 days all the same
    #[arg(long, value_parser = age)]
    older_than: Option<Duration>,
    #[command(flatten)]
    form: Form,
}

#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct ReplayArguments {
    /// The sidecar's id of one
    #[arg(conflicts_with_all = ["state", "event_type", "app", "since"])]
    id: Option<String>,
    /// All in this state
    #[arg(long, value_parser = ["pending", "delivered", "dead", "ignored"])]
    state: Option<String>,
    /// Only types that this pattern fits, such as 'trade_*'
    #[arg(long = "type", requires = "state")]
    event_type: Option<String>,
    /// Only this app's
    #[arg(long, requires = "state")]
    app: Option<AppId>,
    /// Only what was received since then: 24h, 7d, or a time such as 2026-11-25T08:00:00Z
    #[arg(long, requires = "state", value_parser = since)]
    since: Option<i64>,
    #[command(flatten)]
    form: Form,
}

fn age(text: &str) -> Result<Duration, String> {
    value::duration(text).map_err(|mismatch| format!("expected {}", mismatch.expected))
}

/// A time, or how long ago it was, as Unix milliseconds.
fn since(text: &str) -> Result<i64, String> {
    if let Ok(ago) = value::duration(text) {
        let ago = i64::try_from(ago.as_millis()).unwrap_or(i64::MAX);
        return Ok(SystemClock.now_ms().saturating_sub(ago).max(0));
    }
    output::read_time(text).ok_or_else(|| {
        "expected how long ago (24h, 7d) or a time such as 2026-11-25T08:00:00Z".to_owned()
    })
}

pub(crate) async fn execute(context: &Context, verb: InboxVerb) -> Result<(), Failure> {
    match verb {
        InboxVerb::List(arguments) => list(context, arguments).await,
        InboxVerb::Prune(arguments) => prune(context, &arguments).await,
        InboxVerb::Replay(arguments) => replay(context, arguments).await,
        InboxVerb::Reverify { id, form } => {
            let path = match &id {
                Some(id) => format!("/api/inbox/{}/reverify", encoded(id)),
                None => "/api/inbox/reverify".to_owned(),
            };
            let api = AdminClient::of(context).await?;
            let report = api.change(Method::POST, &path, Vec::new()).await?;
            say_report(&report, &form)?;
            match id {
                Some(_) => not_taken(&report).map_or(Ok(()), Err),
                None => Ok(()),
            }
        }
        InboxVerb::Show {
            id,
            explain: true,
            form,
        } => {
            let path = format!("/api/inbox/{}?explain=true", encoded(&id));
            let view = AdminClient::of(context).await?.get(&path).await?;
            show(&view, &form)
        }
        InboxVerb::Show { id, form, .. } => {
            let view = Backend::of(context).await?.entry(&id).await?;
            show(&view, &form)
        }
    }
}

async fn list(context: &Context, arguments: ListArguments) -> Result<(), Failure> {
    let part = Part {
        after: arguments.after.as_deref(),
        limit: arguments.limit,
    };
    let backend = Backend::of(context).await?;
    let order = match arguments.newest {
        true => Order::Newest,
        false => Order::Oldest,
    };
    let state = arguments.state.as_deref();
    let page = backend.inbox(state, order, part).await?;
    if arguments.form.json {
        return output::say_json(&page);
    }
    let rows = page.items.into_iter().map(|item| {
        let (state, received) = (item.state.as_str(), output::time_of(item.received_at));
        let attempts = item.attempts.to_string();
        [
            item.id,
            item.app_id,
            item.event_type,
            state.to_owned(),
            attempts,
            received,
        ]
    });
    let header = ["id", "app_id", "type", "state", "attempts", "received_at"];
    output::say_table(header, rows.collect());
    if let Some(next) = page.next {
        output::say_line(format!("more: --after {next}"));
    }
    Ok(())
}

async fn prune(context: &Context, arguments: &PruneArguments) -> Result<(), Failure> {
    let backend = Backend::of(context).await?;
    let removed = backend.prune(arguments.older_than).await?;
    if arguments.form.json {
        return output::say_json(&removed);
    }
    for (count, what) in [
        (removed.deliveries, "deliveries that ended"),
        (removed.refused, "refused notifications"),
        (removed.notify_ids, "notify_ids"),
        (removed.calls, "records of calls"),
        (removed.users, "names of users with tokens"),
        (removed.memos, "codes and the like"),
    ] {
        output::say_line(format!("{count:8} {what}"));
    }
    Ok(())
}

async fn replay(context: &Context, arguments: ReplayArguments) -> Result<(), Failure> {
    let backend = Backend::of(context).await?;
    let replayed = match (&arguments.id, &arguments.state) {
        (Some(id), _) => {
            backend.replay(id).await?;
            1
        }
        (None, state) => {
            backend
                .replay_all(&filter(state.as_deref(), &arguments)?)
                .await?
        }
    };
    if arguments.form.json {
        return output::say_json(&json!({ "replayed": replayed }));
    }
    output::say_line(match &arguments.id {
        Some(id) => format!("{id} will be delivered again"),
        None => format!("{replayed} will be delivered again"),
    });
    Ok(())
}

fn filter(state: Option<&str>, arguments: &ReplayArguments) -> Result<ReplayFilter, Failure> {
    let state = state.and_then(|state| state.parse().ok());
    let neither = || Failure::Usage("give an id, or --state and what else narrows it".to_owned());
    Ok(ReplayFilter {
        state: state.ok_or_else(neither)?,
        event_type: arguments.event_type.clone(),
        app_id: arguments.app.clone(),
        since: arguments.since,
        after: None,
    })
}

fn show(view: &EntryView, form: &Form) -> Result<(), Failure> {
    if form.json {
        return output::say_json(view);
    }
    let lines = [
        ("id", view.item.id.clone()),
        ("notify_id", output::or_dash(view.item.notify_id.as_deref())),
        ("app_id", view.item.app_id.clone()),
        ("type", view.item.event_type.clone()),
        ("state", view.item.state.as_str().to_owned()),
        ("received_at", output::time_of(view.item.received_at)),
        ("auth_app_id", output::or_dash(view.auth_app_id.as_deref())),
    ];
    for (name, value) in lines {
        output::say_line(format!("{name:12} {value}"));
    }
    if view.waits_for_route {
        output::say_line(format!(
            "{:12} a [[delivery.route]]: none fitted when it was last looked at",
            "waits for"
        ));
    }
    for attempt in &view.history {
        let result = attempt.error.map_or("taken", |error| error.as_str());
        let status = attempt
            .status
            .map_or_else(|| "-".to_owned(), |status| status.to_string());
        let at = output::time_of(attempt.at);
        let to = attempt.to.as_deref().map(|to| format!(" to {to}"));
        let reason = attempt
            .reason
            .as_deref()
            .map(|why| format!(": {}", output::printable(why)));
        output::say_line(format!(
            "attempt      {at} {}{} {status} {result} ({} ms){}",
            attempt.via.as_str(),
            to.unwrap_or_default(),
            attempt.duration_ms,
            reason.unwrap_or_default()
        ));
    }
    if let Some(refusal) = &view.refusal {
        say_refusal(refusal);
    }
    if let Some(explained) = &view.explanation {
        say_explained(explained);
    }
    say_params(&view.params);
    for variant in &view.variants {
        let at = output::time_of(variant.received_at);
        let differs = variant.differs.join(", ");
        output::say_line(format!(
            "also came    {at} under the same notify_id, not delivered; it differs in {differs}"
        ));
        say_params(&variant.params);
    }
    Ok(())
}

fn say_params(params: &BTreeMap<String, Value>) {
    for (name, value) in params {
        output::say_line(format!("  {} = {value}", output::printable(name)));
    }
}

fn say_refusal(refusal: &RefusalView) {
    let last = output::time_of(refusal.last_received_at);
    let lines = [
        (
            "refused",
            format!("{}: {}", refusal.kind, output::printable(&refusal.reason)),
        ),
        ("from", refusal.peer.clone()),
        ("came", format!("{} times, last {last}", refusal.times)),
        ("body", format!("{} bytes", refusal.body_bytes)),
    ];
    for (name, value) in lines {
        output::say_line(format!("{name:12} {value}"));
    }
}

fn say_explained(explained: &Explained) {
    output::say_line(format!("{:12} {}", "signature", explained.text));
    for cause in explained.causes.iter().skip(1) {
        output::say_line(format!("{:12} [{}] {}", "and", cause.cause, cause.text));
    }
    for remark in &explained.remarks {
        output::say_line(format!(
            "{:12} [{}] {}",
            "remark", remark.cause, remark.text
        ));
    }
}

/// Why what was asked for is still refused, or waits.
fn not_taken(report: &ReverifyReport) -> Option<Failure> {
    let is_kept = |item: &&Reverified| {
        matches!(
            item.outcome,
            ReverifyOutcome::Postponed | ReverifyOutcome::Refused
        )
    };
    let item = report.items.iter().find(is_kept)?;
    let still = match item.outcome {
        ReverifyOutcome::Postponed => "verifies, but can't be taken now",
        _ => "is still refused",
    };
    let reason = item.reason.as_deref().unwrap_or("no reason is known");
    let text = format!("{} {still}: {}", item.id, output::printable(reason));
    Some(Failure::NotVerified(text))
}

fn say_report(report: &ReverifyReport, form: &Form) -> Result<(), Failure> {
    if form.json {
        return output::say_json(report);
    }
    for item in &report.items {
        let reason = item.reason.as_deref().unwrap_or("it is in the inbox now");
        let (outcome, reason) = (item.outcome.as_str(), output::printable(reason));
        output::say_line(format!("{} {outcome}: {reason}", item.id));
    }
    output::say_line(format!(
        "{} accepted, {} duplicate, {} postponed, {} still refused",
        report.accepted, report.duplicate, report.postponed, report.refused
    ));
    Ok(())
}
