//! `store restore` and `store rekey`: another file takes the store's place.

use std::path::Path;

use anyhow::anyhow;

use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::store::backup::Progress;
use crate::cli::store::{kept_name, open_file};
use crate::cli::{files, input, output};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::store::care::Copied;
use crate::store::embedded::{self, Existing, RekeyStep, Restored, StoreFile};
use crate::store::error::StoreError;
use crate::store::seal::StoreKey;

pub(super) fn restore(context: &Context, file: &Path, replace: bool) -> Result<(), Failure> {
    let config = context.load()?;
    let key = context.store_key(&config)?;
    let path = &config.store.path;
    if let Some(directory) = path.parent() {
        files::create_directory(directory)?;
    }
    let existing = if replace {
        Existing::KeepAs(kept_name(path, "replaced", SystemClock.now_ms()))
    } else {
        Existing::Refuse
    };
    let restored = embedded::restore(file, path, &key, &existing);
    let restored = restored.map_err(|error| match error {
        StoreError::Exists { path } => {
            let path = path.display();
            let text = "exists already and was left as it is; `--replace` keeps it beside";
            Failure::from(anyhow!("{path} {text}"))
        }
        other => other.into(),
    })?;
    say_restored(file, path, &restored);
    Ok(())
}

fn say_restored(file: &Path, path: &Path, restored: &Restored) {
    let stats = &restored.stats;
    output::say(format!(
        "restored {} from {}: {} merchants, {} notifications owed, {} given up, schema {}",
        path.display(),
        file.display(),
        stats.merchants_authorized + stats.merchants_revoked + stats.merchants_suspect,
        stats.pending,
        stats.dead,
        stats.schema
    ));
    if let Some(kept) = &restored.kept {
        output::say(format!("the store before is kept as {}", kept.display()));
    }
    if !restored.inspection.is_clean() {
        let found = &restored.inspection;
        output::complain(format!(
            "warning: {} damaged records and {} contradictions; `store check` names them",
            found.damaged, found.contradictions
        ));
    }
    for warning in OLD_STATE {
        output::complain(format!("warning: {warning}"));
    }
}

/// What it means that the store is as it was when the backup was made.
const OLD_STATE: [&str; 3] = [
    "tokens that were refreshed or authorised since the backup are lost: Alipay may refuse the \
     older ones (merchants become suspect); `merchant verify --all` finds them, they authorise \
     again",
    "notifications acknowledged since the backup are gone, and Alipay doesn't send them again; \
     query the orders of that time at Alipay",
    "notifications delivered since the backup may be delivered again; the backend knows them by \
     `Alipay-Event-Id`",
];

pub(super) fn rekey(context: &Context, reference: &str) -> Result<(), Failure> {
    let config = context.load()?;
    let new = new_key(reference)?;
    let Some(file) = open_old(context, &config, &new, reference)? else {
        return Ok(());
    };
    let keep = kept_name(&config.store.path, "rekeyed", SystemClock.now_ms());
    let mut progress = Progress::new("sealed");
    let copied = file.rekey(&new, &keep, &mut |step| match step {
        RekeyStep::Sealed(rows) => progress.show(rows),
        RekeyStep::Verified | RekeyStep::Kept | RekeyStep::Swapped => progress.end(),
    })?;
    say_rekeyed(&config, reference, &keep, copied);
    Ok(())
}

/// The store under its present key; nothing where it is under the new one already, as a crash
/// after the last step leaves it.
fn open_old(
    context: &Context,
    config: &Config,
    new: &StoreKey,
    reference: &str,
) -> Result<Option<StoreFile>, Failure> {
    let path = &config.store.path;
    match StoreFile::open(path, new, config.store.cache) {
        Ok(_) => {
            output::say(format!(
                "{} is sealed under this key already; set `store.key` to \"{reference}\"",
                path.display()
            ));
            Ok(None)
        }
        Err(StoreError::WrongKey { .. }) => open_file(context, config).map(Some),
        Err(other) => Err(other.into()),
    }
}

fn new_key(reference: &str) -> Result<StoreKey, Failure> {
    let text = input::secret("--new-key", reference)?;
    let key = StoreKey::from_base64(text.expose());
    key.map_err(|error| anyhow!("--new-key: {error}").into())
}

fn say_rekeyed(config: &Config, reference: &str, keep: &Path, copied: Copied) {
    output::say(format!(
        "{} is sealed under the new key ({} rows)",
        config.store.path.display(),
        copied.rows
    ));
    output::say(format!(
        "now set `store.key` to \"{reference}\" (a `file:` of the configuration is relative to it)"
    ));
    output::say(format!(
        "the file under the old key is kept as {}; delete it once the sidecar runs",
        keep.display()
    ));
    output::complain(
        "warning: authorisation links that were made before no longer work (they live 30 minutes); \
         backups made before need the old key",
    );
}
