//! `store create`, and opening the store for the other verbs.

use std::path::Path;
use std::sync::Arc;

use clap::Subcommand;

use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::{files, output};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::store::Store;
use crate::store::embedded::{EmbeddedStore, OpenOptions};
use crate::store::seal::StoreKey;

#[derive(Debug, Subcommand)]
pub(crate) enum StoreVerb {
    /// Create the empty store that the configuration names
    Create,
}

pub(crate) fn execute(context: &Context, verb: &StoreVerb) -> Result<(), Failure> {
    match verb {
        StoreVerb::Create => {
            let config = context.load()?;
            let key = context.store_key(&config)?;
            create(&config.store.path, &key)?;
            output::say(format!("created {}", config.store.path.display()));
            Ok(())
        }
    }
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
    let store = EmbeddedStore::open(OpenOptions {
        path: config.store.path.clone(),
        key: context.store_key(config)?,
        cache_bytes: config.store.cache,
        clock: Arc::new(SystemClock),
    })?;
    Ok(Arc::new(store))
}
