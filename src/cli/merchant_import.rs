//! `merchant import`: JSON lines, or a sealed export.

use std::path::Path;

use anyhow::Context as _;
use clap::Args;
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
    let imported = Backend::of(context).await?.import(lines, mode).await;
    let name = match arguments.file.as_str() {
        "-" => "standard input".to_owned(),
        file => file.to_owned(),
    };
    imported.map_err(|failure| match failure {
        Failure::Other(error) => Failure::Other(error.context(name)),
        other => other,
    })
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
    let checked = pass(&backend, (path, &opener), ImportMode::DryRun).await?;
    match arguments.dry_run {
        true => Ok(checked),
        false => pass(&backend, (path, &opener), ImportMode::Store).await,
    }
}

/// Hands the file over in batches.
async fn pass(
    backend: &Backend,
    (path, opener): (&Path, &Opener),
    mode: ImportMode,
) -> Result<ImportReport, Failure> {
    let mut file = SealedFile::open(path, opener)?;
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
        batch.extend_from_slice(&part.plain);
    }
    hand_over(backend, &mut batch, (mode, file.parts() + 1), &mut report).await?;
    progress.end();
    Ok(report)
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
