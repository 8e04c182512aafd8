//! What `check` sees of the store: itself, or through the sidecar that has it.

use crate::cli::check_running::Running;
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::store;
use crate::config::Config;
use crate::model::app::App;
use crate::store::error::StoreError;

/// The store, as far as it was looked at.
pub(crate) struct Stored {
    /// Its apps; `None`: it couldn't be opened here.
    pub(crate) apps: Option<Vec<App>>,
    /// The sidecar that has it.
    pub(crate) running: Option<Running>,
    /// Why it wasn't looked at.
    pub(crate) fault: Option<String>,
}

impl Stored {
    /// Opens the store, or asks who has it open.
    ///
    /// # Errors
    /// Faults of the configuration alone: all else is said by [`Self::fault`].
    pub(crate) async fn look(context: &Context, config: &Config) -> Result<Self, Failure> {
        let opened = match store::open(context, config) {
            Ok(store) => store.apps().await.map_err(Failure::from),
            Err(failure) => Err(failure),
        };
        let (apps, running, fault) = match opened {
            Ok(apps) => (Some(apps), None, None),
            Err(wrong @ Failure::Configuration(_)) => return Err(wrong),
            Err(failure) if is_locked(&failure) => match Running::find(config).await {
                Ok(Some(running)) => (None, Some(running), None),
                Ok(None) => (None, None, Some(held(config, "nobody listens there"))),
                Err(error) => (None, None, Some(held(config, &error.text()))),
            },
            Err(failure) => (None, None, Some(failure.text())),
        };
        Ok(Self {
            apps,
            running,
            fault,
        })
    }

    /// The ids of all apps, those of the file among them: it may have more than what runs.
    pub(crate) fn app_ids(&self, config: &Config) -> Vec<String> {
        let configured = config.apps.iter().map(|app| app.app_id.to_string());
        let stored = self.apps.iter().flatten();
        let stored = stored.map(|app| app.app_id.to_string());
        let running = self.running.iter().flat_map(|running| &running.apps);
        let running = running.map(|app| app.app_id.clone());
        let mut ids: Vec<_> = configured.chain(stored).chain(running).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}

fn is_locked(failure: &Failure) -> bool {
    match failure {
        Failure::Other(error) => matches!(error.downcast_ref(), Some(StoreError::Locked { .. })),
        Failure::Configuration(_) | Failure::NotVerified(_) | Failure::Usage(_) => false,
    }
}

/// Somebody has the store, and `why` it can't be asked where the file says.
fn held(config: &Config, why: &str) -> String {
    let (path, listen) = (config.store.path.display(), &config.admin.listen);
    format!(
        "the store wasn't looked at: {path} is in use by another process, and no sidecar with this \
         configuration answers at {listen} (`admin.listen`): {why}; if one runs with the file as it \
         was before, reload or restart it, and check again"
    )
}
