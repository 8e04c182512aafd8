//! `store stats` and `store check`: what is in the store, and whether it is whole.

use http::Method;

use crate::cli::admin_client::AdminClient;
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::output::{self, Form};
use crate::cli::store::{CheckArguments, open_file, told};
use crate::cli::trail::{self, Act};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::store::care::{Inspection, Stats};

pub(super) async fn stats(context: &Context, form: &Form) -> Result<(), Failure> {
    let loaded = context.load();
    let running = AdminClient::running(context, &loaded).await?;
    let config = told(context, loaded, running.is_some())?;
    let stats: Stats = match running {
        Some(sidecar) => sidecar.get("/api/store").await?,
        None => open_file(context, &config)?.stats()?,
    };
    if form.json {
        return output::say_json(&stats);
    }
    let oldest = stats.oldest_pending_at.map(output::time_of);
    let lines = [
        ("file", config.store.path.display().to_string()),
        ("schema", stats.schema.to_string()),
        ("size", format!("{} bytes", stats.file_bytes)),
        ("stored", format!("{} bytes", stats.stored_bytes)),
        ("free", free(&stats)),
        ("fragmented", format!("{} bytes", stats.fragmented_bytes)),
        ("merchants", merchants(&stats)),
        ("pending", stats.pending.to_string()),
        ("oldest", output::or_dash(oldest.as_deref())),
        ("delivered", stats.delivered.to_string()),
        ("dead", stats.dead.to_string()),
        ("ignored", stats.ignored.to_string()),
        ("damaged", stats.damaged.to_string()),
    ];
    for (name, value) in lines {
        output::say(format!("{name:12} {value}"));
    }
    let tables = stats.tables.into_iter();
    let rows = tables.map(|table| [table.name, table.rows.to_string()]);
    output::say_table(["table", "rows"], rows.collect());
    Ok(())
}

fn free(stats: &Stats) -> String {
    let hint = if stats.worth_compacting {
        " (worth a `store compact` while the sidecar is stopped)"
    } else {
        ""
    };
    format!("{} bytes{hint}", stats.free_bytes)
}

fn merchants(stats: &Stats) -> String {
    format!(
        "{} authorized, {} suspect, {} revoked",
        stats.merchants_authorized, stats.merchants_suspect, stats.merchants_revoked
    )
}

pub(super) async fn check(context: &Context, arguments: &CheckArguments) -> Result<(), Failure> {
    let loaded = context.load();
    if arguments.repair {
        return repair(context, &loaded?, arguments).await;
    }
    let found: Inspection = match AdminClient::running(context, &loaded).await? {
        Some(sidecar) => {
            let path = "/api/store/check";
            sidecar.change(Method::POST, path, Vec::new()).await?
        }
        None => open_file(context, &loaded?)?.inspect()?,
    };
    report(&found, arguments)
}

async fn repair(
    context: &Context,
    config: &Config,
    arguments: &CheckArguments,
) -> Result<(), Failure> {
    trail::probe(config)?;
    let mut file = open_file(context, config)?;
    let repaired = file.repair(SystemClock.now_ms())?;
    // Whose they were is told here alone: afterwards the store is whole.
    for record in &repaired.moved {
        output::complain(format!("moved aside: {record}"));
    }
    for row in &repaired.removed {
        output::complain(format!(
            "removed, as no merchant's record says the same: {row}"
        ));
    }
    for claim in &repaired.contested {
        output::complain(format!(
            "claimed by more than one, so that none was listed under it; give the others another, \
             and repair again: {claim}"
        ));
    }
    let (moved, rebuilt) = (repaired.moved.len(), repaired.rebuilt);
    output::complain(format!(
        "{moved} damaged records were moved aside, {rebuilt} missing deliveries made anew, {} \
         merchants listed anew",
        repaired.relisted
    ));
    if moved > 0 {
        output::complain(
            "a merchant among them must authorise again, or be put or imported; of a notification \
             ask Alipay by a query, or take a backup",
        );
    }
    let found = file.inspect()?;
    // The log keeps its head in the store.
    drop(file);
    let act = Act {
        verb: "store check --repair",
        subject: None,
    };
    trail::tell_after(config, act).await;
    report(&found, arguments)
}

fn report(found: &Inspection, arguments: &CheckArguments) -> Result<(), Failure> {
    if arguments.form.json {
        output::say_json(found)?;
    } else {
        found.findings.iter().for_each(output::say);
    }
    let (rows, damaged, wrong) = (found.rows, found.damaged, found.contradictions);
    if found.is_clean() {
        if !arguments.form.json {
            output::say(format!(
                "{rows} rows, every record opens, every index agrees"
            ));
        }
        return Ok(());
    }
    Err(Failure::told(format!(
        "{damaged} damaged records and {wrong} contradictions among {rows} rows; restore a backup, \
         or `store check --repair` moves the damaged ones aside"
    )))
}
