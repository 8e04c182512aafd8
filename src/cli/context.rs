//! What every verb may need: the configuration and a runtime.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::Context as _;

use crate::cli::failure::Failure;
use crate::cli::taken_variables::TakenVariables;
use crate::config::error::{ConfigErrors, Mismatch, Unread};
use crate::config::{Config, Source, app, process_environment, secret_variables};
use crate::model::id::AppId;
use crate::sidecar::unusable_files;
use crate::store::seal::StoreKey;

/// What every verb may need.
pub(crate) struct Context {
    path: PathBuf,
    /// What stands there, once it was read: a pipe gives it only once.
    source: OnceLock<Source>,
    taken: TakenVariables,
}

impl Context {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            source: OnceLock::new(),
            taken: TakenVariables::default(),
        }
    }

    /// The same for who serves: the secrets of its environment are held here alone.
    pub(crate) fn of_clean_environment(path: &Path) -> Result<Self, Failure> {
        let (taken, source) = TakenVariables::take(path)?;
        Ok(Self {
            path: path.to_owned(),
            source: OnceLock::from(source),
            taken,
        })
    }

    /// The configuration file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the configuration with the process's environment over it.
    pub(crate) fn load(&self) -> Result<Config, Failure> {
        Ok(Config::from_source(self.source(), self.environment())?)
    }

    /// The same for who asks a sidecar that runs: secrets that can be read where that was started, by
    /// its variables and credentials, need not be readable here.
    pub(crate) fn load_to_ask(&self) -> Result<Config, Failure> {
        Ok(self.load_what_is_readable()?.0)
    }

    /// The same, with the secrets that can't be read here.
    pub(crate) fn load_what_is_readable(&self) -> Result<(Config, Unread), Failure> {
        let environment = self.environment();
        Ok(Config::from_source_to_ask(self.source(), environment)?)
    }

    /// Where the file has the app `app_id`, such as `app[1]`.
    pub(crate) fn place_of_app(&self, app_id: &AppId) -> Option<String> {
        app::place_of(app_id, self.source().text().unwrap_or_default())
    }

    /// The same for who only asks whether one is ready: no secret is read.
    pub(crate) fn load_to_probe(&self) -> Result<Config, Failure> {
        let environment = self.environment();
        Ok(Config::from_source_to_probe(self.source(), environment)?)
    }

    fn source(&self) -> &Source {
        self.source.get_or_init(|| Source::read(&self.path))
    }

    /// The same for who is about to serve: what this version doesn't do, certificates that don't
    /// fit their keys and unusable roots are faults, too. `variables` win over the environment.
    pub(crate) fn load_to_serve(
        &self,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Config, Failure> {
        let environment = self.environment().chain(variables);
        let config = Config::from_source_to_serve(self.source(), environment, unusable_files);
        Ok(config?)
    }

    /// Whether the configuration can be read again: a pipe can't.
    pub(crate) fn is_readable_again(&self) -> bool {
        !self.source().is_gone_once_read()
    }

    /// Reads the configuration again for who serves: the file and what it names as they are now, the
    /// environment as it was at the start. `variables` win over that.
    pub(crate) fn reload(&self, variables: &[(String, String)]) -> Result<Config, ConfigErrors> {
        let environment = self.environment().chain(variables.iter().cloned());
        let config = Config::load(&self.path, environment)?;
        for name in self.exposed() {
            tracing::warn!(
                name,
                "a secret of the configuration stands in the environment, where the system shows it; \
                 a restart takes it out"
            );
        }
        Ok(config)
    }

    /// The variables that a configuration read after the start takes secrets from: those of the start
    /// are gone from the environment.
    fn exposed(&self) -> Vec<String> {
        let environment: Vec<_> = process_environment().collect();
        let secrets = secret_variables(&Source::read(&self.path), &environment);
        let names = environment.into_iter().map(|(name, _)| name);
        names.filter(|name| secrets.contains(name)).collect()
    }

    /// The environment that the program was started with.
    fn environment(&self) -> impl Iterator<Item = (String, String)> {
        process_environment().chain(self.taken.iter())
    }

    /// The store key, without which no store opens.
    pub(crate) fn store_key(&self, config: &Config) -> Result<StoreKey, Failure> {
        let key = config.store.key.as_ref();
        key.and_then(|key| StoreKey::from_base64(key.expose()).ok())
            .ok_or_else(|| {
                let mismatch = Mismatch::new("nothing", "a reference to 32 bytes in base64");
                ConfigErrors::of_key(&self.path, "store.key", mismatch).into()
            })
    }

    /// Runs `work` to its end on this thread.
    pub(crate) fn block_on(
        &self,
        work: impl Future<Output = Result<(), Failure>>,
    ) -> Result<(), Failure> {
        run(tokio::runtime::Builder::new_current_thread(), work)
    }

    /// Runs `work` to its end on as many threads as there are cores: for what serves.
    pub(crate) fn serve(
        &self,
        work: impl Future<Output = Result<(), Failure>>,
    ) -> Result<(), Failure> {
        run(tokio::runtime::Builder::new_multi_thread(), work)
    }
}

/// How long threads are waited for, once all is done, that wait for something themselves: a name that
/// doesn't resolve, a command that gives no secret.
const STRAGGLERS: Duration = Duration::from_secs(1);

fn run(
    mut runtime: tokio::runtime::Builder,
    work: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    let runtime = runtime
        .enable_all()
        .build()
        .context("the system gave no event queue")?;
    let done = runtime.block_on(work);
    runtime.shutdown_timeout(STRAGGLERS);
    done
}
