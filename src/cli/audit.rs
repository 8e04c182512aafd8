//! `audit verify`: checks the audit log's chain.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};

use crate::admin::routes::AuditView;
use crate::audit::chain::{ChainKey, Head};
use crate::audit::verify::{Extent, Report, verify, verify_all};
use crate::audit::{all_files, anchor};
use crate::cli::admin_client::AdminClient;
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::output::Form;
use crate::cli::run::allow_all_descriptors;
use crate::cli::{output, store};
use crate::config::Config;
use crate::config::error::Unread;

#[derive(Debug, Subcommand)]
pub(crate) enum AuditVerb {
    /// Check that no line of the audit log was changed, removed, inserted or cut off
    Verify(VerifyArguments),
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArguments {
    /// The files, in the order of their lines; without any, the configured log as a whole, together
    /// with what the store knows of it
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    form: Form,
}

pub(crate) async fn execute(context: &Context, verb: AuditVerb) -> Result<(), Failure> {
    let AuditVerb::Verify(arguments) = verb;
    let report = match arguments.files.is_empty() {
        true => whole(context).await?,
        false => part(context, &arguments.files)?,
    };
    tell(&report, arguments.form.json)
}

/// The configured log, all of it.
async fn whole(context: &Context) -> Result<Report, Failure> {
    let (config, unread) = load(context)?;
    let Some(path) = &config.telemetry.audit_file else {
        return Err(anyhow!("audit.file is empty: no audit log is kept; name the FILEs").into());
    };
    // Before the files: the log grows meanwhile.
    let anchored = kept(context, &config, &unread).await?;
    let files = all_files(path).with_context(|| format!("{} can't be read", path.display()))?;
    if files.is_empty() && anchored.is_none() {
        return Err(anyhow!("there is no audit log at {} yet", path.display()).into());
    }
    // It opens all of them at once.
    allow_all_descriptors();
    let report = verify_all(path, key(&config).as_ref(), anchored);
    Ok(report.with_context(|| format!("{} can't be read", path.display()))?)
}

/// Of all secrets only the store key is needed, whether a sidecar runs or not: where that can't be
/// read, it is told why.
fn load(context: &Context) -> Result<(Config, Unread), Failure> {
    let (config, unread) = context.load_what_is_readable()?;
    unread.lacks(|key| key == "store.key")?;
    Ok((config, unread))
}

/// What the store knows: of the running sidecar, or of the store itself.
async fn kept(
    context: &Context,
    config: &Config,
    unread: &Unread,
) -> Result<Option<Head>, Failure> {
    let client = AdminClient::new(config);
    if client.is_running().await? {
        // It wouldn't say without.
        unread.lacks(|key| key == "admin.token")?;
        let view: AuditView = client.get("/api/audit").await?;
        let bytes = view.head.and_then(|head| STANDARD.decode(head).ok());
        return Ok(bytes.and_then(|bytes| Head::from_bytes(&bytes)));
    }
    let store = store::open(context, config)?;
    Ok(anchor::kept(&*store).await?)
}

/// The files that were named; the key is taken from the configuration, where there is one.
fn part(context: &Context, files: &[PathBuf]) -> Result<Report, Failure> {
    for file in files {
        if !Path::new(file).is_file() {
            return Err(Failure::Usage(format!("{} isn't a file", file.display())));
        }
    }
    let key = match context.path().exists() {
        true => key(&load(context)?.0),
        false => None,
    };
    let report = verify(files, key.as_ref(), (Extent::Part, None));
    Ok(report.context("the audit log can't be read")?)
}

fn key(config: &Config) -> Option<ChainKey> {
    let key = config.store.key.as_ref()?;
    Some(ChainKey::derive(key.expose().as_bytes()))
}

fn tell(report: &Report, json: bool) -> Result<(), Failure> {
    if json {
        output::say_json(report)?;
    } else {
        for remark in &report.remarks {
            output::complain(format!("note: {remark}"));
        }
        for problem in &report.problems {
            output::complain(problem);
        }
    }
    if !report.good {
        let count = report.problem_count;
        return Err(Failure::NotVerified(format!(
            "the audit log is not what was written: {count} {}",
            if count == 1 { "problem" } else { "problems" }
        )));
    }
    if !json {
        output::say(summary(report));
    }
    Ok(())
}

fn summary(report: &Report) -> String {
    let (Some((first, since)), Some((last, until))) = (&report.first, &report.last) else {
        return "the audit log is empty".to_owned();
    };
    let (lines, files) = (report.lines, report.files.len());
    let authenticated = report.authenticated;
    format!(
        "{lines} lines ({first} to {last}, {since} to {until}) in {files} file(s) follow from each \
         other; {authenticated} of them have a mac of this key"
    )
}
