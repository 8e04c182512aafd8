//! `merchant import`: JSON lines, or a sealed export.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use clap::Args;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::admin::import::{ImportMode, ImportReport};
use crate::admin::sealing::Opener;
use crate::cli::backend::Backend;
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::output::Form;
use crate::cli::progress::Progress;
use crate::cli::sealed_file::SealedFile;
use crate::cli::{input, output};

#[derive(Debug, Args)]
pub(crate) struct ImportArguments {
    /// JSON lines with Alipay's own names; - is standard input
    file: String,
    /// Check everything, store nothing
    #[arg(long)]
    dry_run: bool,
    /// Reference of the private key that opens a sealed export (`merchant export --with-tokens`)
    #[arg(long, value_name = "REF")]
    key: Option<String>,
    #[command(flatten)]
    form: Form,
}

pub(crate) async fn import(context: &Context, arguments: ImportArguments) -> Result<(), Failure> {
    let report = match &arguments.key {
        None => whole(context, &arguments).await?,
        Some(key) => sealed(context, &arguments, key).await?,
    };
    if arguments.form.json {
        return output::say_json(&report);
    }
    let verb = if report.dry_run {
        "would be imported"
    } else {
        "imported"
    };
    let stale = report.stale;
    output::say(format!(
        "{} {verb}, {stale} left alone because newer ones are stored",
        report.imported
    ));
    Ok(())
}

async fn whole(context: &Context, arguments: &ImportArguments) -> Result<ImportReport, Failure> {
    let lines = input::file(&arguments.file)?;
    if lines.starts_with(JWE) {
        let text = format!(
            "{} is a sealed export; name its private key with --key",
            arguments.file
        );
        return Err(Failure::Usage(text));
    }
    let mode = match arguments.dry_run {
        true => ImportMode::DryRun,
        false => ImportMode::Store,
    };
    let mut named = NamedApps::default();
    named.count(&lines);
    let backend = Backend::of(context).await?;
    let imported = backend.import(lines, mode).await;
    let name = match arguments.file.as_str() {
        "-" => "standard input".to_owned(),
        file => file.to_owned(),
    };
    let report = imported.map_err(|failure| match failure {
        Failure::Other(error) => Failure::Other(error.context(name)),
        other => other,
    })?;
    named.warn_of_unknown(&backend).await;
    Ok(report)
}

/// Opens and checks the whole file first, and then reads it again to store it: what doesn't fit into
/// one commit isn't begun before all of it is known to be good.
async fn sealed(
    context: &Context,
    arguments: &ImportArguments,
    key: &str,
) -> Result<ImportReport, Failure> {
    if arguments.file == "-" {
        let text = "a sealed export is read twice, so it must be a file";
        return Err(Failure::Usage(text.to_owned()));
    }
    let key = input::secret_text("--key", key)?;
    let opener = Opener::from_text(key.expose()).context("--key")?;
    let backend = Backend::of(context).await?;
    let path = Path::new(&arguments.file);
    let (mut report, named) = pass(&backend, (path, &opener), ImportMode::DryRun).await?;
    if !arguments.dry_run {
        (report, _) = pass(&backend, (path, &opener), ImportMode::Store).await?;
    }
    named.warn_of_unknown(&backend).await;
    Ok(report)
}

/// The apps that the records of a file name, each with how many do.
#[derive(Default)]
struct NamedApps(BTreeMap<String, usize>);

impl NamedApps {
    /// What isn't even a record is named by the import itself.
    fn count(&mut self, lines: &[u8]) {
        for line in lines.split(|byte| *byte == b'\n') {
            if let Ok(record) = serde_json::from_slice::<NamesApp>(line) {
                *self.0.entry(record.app_id).or_default() += 1;
            }
        }
    }

    /// Says for which of them no call can be made: an id that was mistyped is found so.
    async fn warn_of_unknown(&self, backend: &Backend) {
        // Where nobody can tell which there are, nothing is said of them.
        let Ok(apps) = backend.apps().await else {
            return;
        };
        let is_there = |app_id: &str| apps.items.iter().any(|app| app.app_id == app_id);
        for (app_id, count) in self.0.iter().filter(|(app_id, _)| !is_there(app_id)) {
            let whose = match count {
                1 => "its merchant".to_owned(),
                count => format!("its {count} merchants"),
            };
            output::complain(format!(
                "warning: app {app_id} is neither configured nor stored; no call can be made for {whose} yet"
            ));
        }
    }
}

/// All that is read of a record here.
#[derive(Deserialize)]
struct NamesApp {
    app_id: String,
}

/// Hands the file over in batches.
async fn pass(
    backend: &Backend,
    (path, opener): (&Path, &Opener),
    mode: ImportMode,
) -> Result<(ImportReport, NamedApps), Failure> {
    let mut file = SealedFile::open(path, opener)?;
    let mut named = NamedApps::default();
    let mut batch = Zeroizing::new(Vec::with_capacity(BATCH));
    let mut report = ImportReport {
        imported: 0,
        stale: 0,
        dry_run: mode == ImportMode::DryRun,
    };
    let mut progress = Progress::new(match mode {
        ImportMode::DryRun => "lines checked",
        ImportMode::Store => "lines imported",
    });
    while let Some(part) = file.read()? {
        if batch.len() + part.plain.len() > BATCH {
            hand_over(backend, &mut batch, (mode, part.number), &mut report).await?;
            progress.show(part.number);
        }
        named.count(&part.plain);
        batch.extend_from_slice(&part.plain);
    }
    hand_over(backend, &mut batch, (mode, file.parts() + 1), &mut report).await?;
    progress.end();
    Ok((report, named))
}

async fn hand_over(
    backend: &Backend,
    batch: &mut Zeroizing<Vec<u8>>,
    (mode, before): (ImportMode, u64),
    report: &mut ImportReport,
) -> Result<(), Failure> {
    let imported = backend.import(batch.to_vec(), mode).await;
    let done = report.imported + report.stale;
    let batch_report = imported.map_err(|failure| match failure {
        Failure::Other(error) => Failure::Other(error.context(format!(
            "in the batch before line {before} of the file; of earlier ones {done} merchants are {}",
            if report.dry_run { "good" } else { "imported, and would be left alone if imported again" }
        ))),
        other => other,
    })?;
    report.imported += batch_report.imported;
    report.stale += batch_report.stale;
    batch.clear();
    Ok(())
}

/// How much is handed over at once, bytes: well below what the admin API takes.
const BATCH: usize = 16 << 20;

/// How every line of a sealed export begins: `{"` in base64url.
const JWE: &[u8] = b"eyJ";
