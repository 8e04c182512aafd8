//! `store restore` and `store rekey`: another file takes the store's place.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use serde_json::{Value, json};

use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::output::Form;
use crate::cli::progress::Progress;
use crate::cli::store::{kept_beside, kept_name, open, open_file, tell_migrated};
use crate::cli::trail::{self, Act, Trail};
use crate::cli::{files, input, output};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::store::care::Copied;
use crate::store::embedded::{self, Existing, RekeyStep, Restored, StoreFile};
use crate::store::error::StoreError;
use crate::store::seal::StoreKey;

/// What becomes of a store that stands there already.
#[derive(Debug, Clone, Copy)]
pub(super) enum Standing {
    Keep,
    Refuse,
}

pub(super) async fn restore(
    context: &Context,
    (file, standing): (&Path, Standing),
    form: &Form,
) -> Result<(), Failure> {
    let config = context.load()?;
    let key = context.store_key(&config)?;
    let path = &config.store.path;
    let to = &embedded::behind_links(path)?;
    if let Some(directory) = to.parent() {
        files::create_directory(directory)?;
    }
    trail::probe(&config)?;
    let existing = match standing {
        Standing::Keep => Existing::KeepAs(kept_name(to, "replaced", SystemClock.now_ms())),
        Standing::Refuse => Existing::Refuse,
    };
    let restored = embedded::restore(file, to, &key, &existing);
    let restored = restored.map_err(|error| match error {
        StoreError::Exists { path } => {
            let path = path.display();
            let text = "exists already and was left as it is; `--replace` keeps it beside";
            Failure::from(anyhow!("{path} {text}"))
        }
        other => other.into(),
    })?;
    tell_migrated(to, restored.migrated);
    match form.json {
        true => output::say_json(&restored_as_json(file, path, &restored))?,
        false => say_restored(file, path, &restored),
    }
    let file = file.display().to_string();
    let act = Act {
        verb: "store restore",
        subject: Some(&file),
    };
    trail::tell_after(&config, act).await;
    Ok(())
}

fn restored_as_json(file: &Path, path: &Path, restored: &Restored) -> Value {
    json!({
        "store": path,
        "backup": file,
        "stats": restored.stats,
        "kept": restored.kept,
        "damaged": restored.inspection.damaged,
        "contradictions": restored.inspection.contradictions,
        "warnings": OLD_STATE,
    })
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

pub(super) async fn rekey(context: &Context, reference: &str, form: &Form) -> Result<(), Failure> {
    let mut config = context.load()?;
    let text = input::secret("--new-key", reference)?;
    let new = StoreKey::from_base64(text.expose());
    let new = new.map_err(|error| anyhow!("--new-key: {error}"))?;
    let file = embedded::behind_links(&config.store.path)?;
    // Whatever becomes of the link meanwhile, one file is meant from here on.
    let named = std::mem::replace(&mut config.store.path, file.clone());
    if is_under(&config, &new)? {
        let kept = kept_beside(&file, REKEYED_AS);
        if form.json {
            return output::say_json(
                &json!({ "store": named, "rows": 0, "kept": kept.last(), "all_kept": kept }),
            );
        }
        output::say(format!(
            "{} is sealed under this key already; set `store.key` to \"{reference}\"",
            named.display()
        ));
        say_kept(&kept);
        return Ok(());
    }
    let before = Act {
        verb: "store rekey",
        subject: None,
    };
    vouch_for_the_log(context, &config, before).await?;
    if let Some(key) = reference.strip_prefix("file:") {
        make_durable(Path::new(key));
    }
    let keep = kept_name(&file, REKEYED_AS, SystemClock.now_ms());
    let mut progress = Progress::new("rows sealed");
    let copied = open_file(context, &config)?.rekey(&new, &keep, &mut |step| match step {
        RekeyStep::Sealed(rows) => progress.show(rows),
        RekeyStep::Verified | RekeyStep::Kept | RekeyStep::Swapped => progress.end(),
    })?;
    match form.json {
        true => output::say_json(&json!({
            "store": named,
            "rows": copied.rows,
            "kept": keep,
            "all_kept": kept_beside(&file, REKEYED_AS),
            "warnings": [REKEYED],
        }))?,
        false => say_rekeyed((&named, &file), reference, copied),
    }
    let mut rekeyed = config;
    rekeyed.store.key = Some(text);
    trail::tell_after(&rekeyed, before).await;
    Ok(())
}

/// Makes the new key survive a loss of power, as the store under it will. Where that can't be had (a
/// folder that may not be read, a pipe) it is said.
fn make_durable(key: &Path) {
    let parent = key.parent().filter(|parent| !parent.as_os_str().is_empty());
    let synced = File::open(key)
        .and_then(|file| file.sync_all())
        .and_then(|()| File::open(parent.unwrap_or_else(|| Path::new(".")))?.sync_all());
    if let Err(error) = synced {
        output::complain(format!(
            "warning: {} can't be made durable ({error}); make sure that it is before the power may fail",
            key.display()
        ));
    }
}

/// Has the store know the last line of the audit log that the present key vouches for: a crash may
/// have come before it was told, and under the new key nobody could vouch for lines of the former.
async fn vouch_for_the_log(
    context: &Context,
    config: &Config,
    act: Act<'_>,
) -> Result<(), Failure> {
    let store = open(context, config)?;
    let trail = Trail::open(config, &store).await?;
    trail.tell(act, "begun").await;
    Ok(())
}

/// Whether the store is under the new key already, as a crash after the last step leaves it.
fn is_under(config: &Config, new: &StoreKey) -> Result<bool, Failure> {
    match StoreFile::open(&config.store.path, new, config.store.cache) {
        Ok(file) => {
            tell_migrated(&config.store.path, file.migrated());
            Ok(true)
        }
        Err(StoreError::WrongKey { .. }) => Ok(false),
        Err(other) => Err(other.into()),
    }
}

fn say_rekeyed((path, file): (&Path, &Path), reference: &str, copied: Copied) {
    output::say(format!(
        "{} is sealed under the new key ({} rows)",
        path.display(),
        copied.rows
    ));
    output::say(format!(
        "now set `store.key` to \"{reference}\" (a `file:` of the configuration is relative to it)"
    ));
    say_kept(&kept_beside(file, REKEYED_AS));
    output::complain(format!("warning: {REKEYED}"));
}

/// Names every file under a former key, those that an interrupted run left among them: whoever has
/// that key reads them.
fn say_kept(kept: &[PathBuf]) {
    for file in kept {
        output::say(format!(
            "the file under the old key is kept as {}; delete it once the sidecar runs",
            file.display()
        ));
    }
}

/// How a file is called that was rekeyed.
const REKEYED_AS: &str = "rekeyed";

/// What it means that the store has another key.
const REKEYED: &str = "authorisation links that were made before no longer work (they live 30 \
                       minutes); backups made before need the old key";
