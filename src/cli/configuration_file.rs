//! The configuration file of a program that serves, read again on SIGHUP and `POST /api/reload`.

use std::sync::Arc;

use crate::admin::configuration::ReloadError;
use crate::cli::context::Context;
use crate::cli::logging::Log;
use crate::config::Config;
use crate::sidecar::ConfigSource;

/// Where the configuration came from at the start.
pub(crate) struct ConfigurationFile {
    context: Arc<Context>,
    /// The addresses of sockets that a supervisor handed over: they win over `listen`.
    variables: Vec<(String, String)>,
    log: Arc<Log>,
}

impl ConfigurationFile {
    pub(crate) fn new(
        context: Arc<Context>,
        variables: Vec<(String, String)>,
        log: Arc<Log>,
    ) -> Self {
        Self {
            context,
            variables,
            log,
        }
    }
}

impl ConfigSource for ConfigurationFile {
    fn load(&self) -> Result<Config, ReloadError> {
        if !self.context.is_readable_again() {
            let path = self.context.path().display();
            return Err(ReloadError::NoSource(format!(
                "the configuration was read from {path}, which is no file that can be read again (a \
                 pipe or a terminal); write it into a file, name that by `-c`, and restart"
            )));
        }
        Ok(self.context.reload(&self.variables)?)
    }

    fn in_force(&self, config: &Config) {
        self.log.follow(&config.telemetry);
    }
}
