//! `store …`, and opening the store for the other verbs.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Subcommand};
use serde_json::json;

use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::output::Form;
use crate::cli::{files, output};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::config::error::{ConfigErrors, Mismatch};
use crate::store::Store;
use crate::store::embedded::{EmbeddedStore, Migrated, OpenOptions, StoreFile};
use crate::store::error::StoreError;
use crate::store::seal::StoreKey;

mod backup;
mod replace;
mod report;

#[derive(Debug, Subcommand)]
pub(crate) enum StoreVerb {
    /// Copy the whole store into a new file, while a sidecar runs or not
    Backup {
        /// Where to; nothing may stand there
        file: PathBuf,
        #[command(flatten)]
        form: Form,
    },
    /// Read every record, and name what is damaged or contradicts itself
    Check(CheckArguments),
    /// Give free pages back to the file system; no sidecar may run
    Compact {
        #[command(flatten)]
        form: Form,
    },
    /// Create the empty store that the configuration names
    Create {
        #[command(flatten)]
        form: Form,
    },
    /// Move the store into a database that several sidecars share
    Migrate {
        /// `postgres://…`
        #[arg(long, value_name = "URL")]
        to: String,
        #[command(flatten)]
        form: Form,
    },
    /// Seal every record under a new store key; no sidecar may run
    Rekey {
        /// Reference of the new key
        #[arg(long, value_name = "REF")]
        new_key: String,
        #[command(flatten)]
        form: Form,
    },
    /// Put a backup in the store's place; no sidecar may run
    Restore {
        /// The backup
        file: PathBuf,
        /// Replace the store that stands there; it is kept beside
        #[arg(long)]
        replace: bool,
        #[command(flatten)]
        form: Form,
    },
    /// Say how large the store is, and what is in it
    Stats {
        #[command(flatten)]
        form: Form,
    },
}

#[derive(Debug, Args)]
pub(crate) struct CheckArguments {
    /// Move damaged records aside; no sidecar may run
    #[arg(long)]
    repair: bool,
    #[command(flatten)]
    form: Form,
}

pub(crate) async fn execute(context: &Context, verb: StoreVerb) -> Result<(), Failure> {
    match verb {
        StoreVerb::Backup { file, form } => backup::execute(context, &file, &form).await,
        StoreVerb::Check(arguments) => report::check(context, &arguments).await,
        StoreVerb::Compact { form } => compact(context, &form),
        StoreVerb::Create { form } => {
            let config = context.load()?;
            let key = context.store_key(&config)?;
            let path = &config.store.path;
            create(path, &key)?;
            if form.json {
                return output::say_json(&json!({ "store": path }));
            }
            output::say(format!("created {}", path.display()));
            Ok(())
        }
        StoreVerb::Migrate { to, .. } => Err(migrate(context, &to)),
        StoreVerb::Rekey { new_key, form } => replace::rekey(context, &new_key, &form).await,
        StoreVerb::Restore {
            file,
            replace,
            form,
        } => {
            let existing = match replace {
                true => replace::Standing::Keep,
                false => replace::Standing::Refuse,
            };
            replace::restore(context, (&file, existing), &form).await
        }
        StoreVerb::Stats { form } => report::stats(context, &form).await,
    }
}

fn compact(context: &Context, form: &Form) -> Result<(), Failure> {
    let mut file = open_file(context, &context.load()?)?;
    let (before, after) = file.compact()?;
    if form.json {
        return output::say_json(&json!({ "before_bytes": before, "after_bytes": after }));
    }
    output::say(format!("compacted from {before} to {after} bytes"));
    Ok(())
}

/// There is nothing to move to yet. The URL may hold a password: it isn't shown.
fn migrate(context: &Context, to: &str) -> Failure {
    let found = match to.split_once(':') {
        Some(("postgres" | "postgresql", _)) => "a PostgreSQL URL",
        _ => "another kind of URL (not shown)",
    };
    let mismatch = Mismatch::new(found, "nothing")
        .hint("a shared store isn't supported in this version; it comes later");
    ConfigErrors::of_key(context.path(), "store migrate --to", mismatch).into()
}

/// Creates an empty store, its directory with it.
pub(crate) fn create(path: &Path, key: &StoreKey) -> Result<(), Failure> {
    if let Some(directory) = path.parent() {
        files::create_directory(directory)?;
    }
    Ok(EmbeddedStore::create(path, key)?)
}

/// Opens the store that the configuration names.
pub(crate) fn open(context: &Context, config: &Config) -> Result<Arc<dyn Store>, Failure> {
    Ok(open_with(config, context.store_key(config)?)?)
}

/// The same under a key that isn't asked for again.
pub(crate) fn open_with(config: &Config, key: StoreKey) -> Result<Arc<dyn Store>, StoreError> {
    let store = EmbeddedStore::open(OpenOptions {
        path: config.store.path.clone(),
        key,
        cache_bytes: config.store.cache,
        clock: Arc::new(SystemClock),
    })?;
    tell_migrated(&config.store.path, store.migrated());
    Ok(Arc::new(store))
}

/// Opens the store that the configuration names for itself alone.
fn open_file(context: &Context, config: &Config) -> Result<StoreFile, Failure> {
    let key = context.store_key(config)?;
    let path = &config.store.path;
    let file = StoreFile::open(path, &key, config.store.cache)?;
    tell_migrated(path, file.migrated());
    Ok(file)
}

/// Says that a store isn't what it was before a verb, which may only have meant to look at it.
fn tell_migrated(path: &Path, migrated: Option<Migrated>) {
    if let Some(Migrated { from, to }) = migrated {
        output::complain(format!(
            "{} was migrated from schema version {from} to {to}; an older program can't open it any \
             more",
            path.display()
        ));
    }
}

/// What is `loaded`; where a sidecar runs, secrets of it that can't be read here may be missing.
fn told(
    context: &Context,
    loaded: Result<Config, Failure>,
    is_running: bool,
) -> Result<Config, Failure> {
    match loaded {
        Err(_) if is_running => context.load_to_ask(),
        loaded => loaded,
    }
}

/// The name under which a file that is replaced at `now` is kept.
fn kept_name(path: &Path, what: &str, now: i64) -> PathBuf {
    let time = output::time_of(now).replace(['-', ':'], "");
    let mut name = kept_prefix(path, what);
    name.push(time);
    path.with_file_name(name)
}

fn kept_prefix(path: &Path, what: &str) -> OsString {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{what}-"));
    name
}

/// Every file that is kept beside the store under such a name, the oldest first.
fn kept_beside(path: &Path, what: &str) -> Vec<PathBuf> {
    let prefix = kept_prefix(path, what);
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let Ok(entries) = std::fs::read_dir(parent.unwrap_or_else(|| Path::new("."))) else {
        return Vec::new();
    };
    let names = entries.filter_map(|entry| entry.ok().map(|entry| entry.file_name()));
    let is_kept = |name: &OsString| {
        name.as_encoded_bytes()
            .starts_with(prefix.as_encoded_bytes())
    };
    let mut kept: Vec<_> = names
        .filter(is_kept)
        .map(|name| path.with_file_name(name))
        .collect();
    kept.sort();
    kept
}
