//! A sidecar that runs, beside the file that is checked: it may run with another.

use crate::admin::apps::AppView;
use crate::admin::configuration::ConfigView;
use crate::admin::page::Page;
use crate::cli::admin_client::AdminClient;
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::config::{Config, changed_values};

/// A running sidecar, and what it runs with.
pub(crate) struct Running {
    pub(crate) client: AdminClient,
    pub(crate) view: ConfigView,
    pub(crate) apps: Vec<AppView>,
}

impl Running {
    /// The one at `admin.listen`; `None`: nobody listens there.
    pub(crate) async fn find(config: &Config) -> Result<Option<Self>, Failure> {
        let client = AdminClient::new(config);
        if !client.is_running().await? {
            return Ok(None);
        }
        let view = client.get("/api/config").await?;
        let apps: Page<AppView> = client.get("/api/apps").await?;
        Ok(Some(Self {
            client,
            view,
            apps: apps.items,
        }))
    }

    /// In what its configuration isn't that of the file, and what to do; `None`: it is the same.
    pub(crate) fn difference(
        &self,
        context: &Context,
        config: &Config,
    ) -> Result<Option<String>, Failure> {
        if self.view.fingerprint == config.fingerprint() {
            return Ok(None);
        }
        let config = context.load_to_serve(self.handed_over())?;
        if self.view.fingerprint == config.fingerprint() {
            return Ok(None);
        }
        let keys = changed_values(&self.view.config, &config.to_redacted_json());
        Ok(Some(told(&keys)))
    }

    /// The addresses that were set by variables of its environment: those of sockets that a supervisor
    /// handed over aren't the file's.
    fn handed_over(&self) -> Vec<(String, String)> {
        let address = |section: &str| {
            let source = self.view.sources.get(&format!("{section}.listen"))?;
            let variable = source.strip_prefix("env:")?;
            let address = self.view.config.get(section)?.get("listen")?.as_str()?;
            Some((variable.to_owned(), address.to_owned()))
        };
        let sections = ["proxy", "webhook", "admin"];
        sections.into_iter().filter_map(address).collect()
    }
}

fn told(keys: &[String]) -> String {
    let named: Vec<_> = keys.iter().map(|key| format!("`{key}`")).collect();
    let what = match named.len() {
        // A secret is shown by its reference, which stays the same.
        0 => "a secret, or what a file that it names holds, is another".to_owned(),
        1 => format!("{} is another", named.join(", ")),
        _ => format!("{} are others", named.join(", ")),
    };
    let cure = match keys.iter().any(|key| Config::needs_restart(key)) {
        true => "restart it",
        false => "reload (SIGHUP or POST /api/reload)",
    };
    format!("what runs isn't this file: {what}; {cure} to put the file in force")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_named_with_what_puts_it_in_force() {
        for (keys, parts) in [
            (vec![], ["a secret, or what a file", "reload (SIGHUP"]),
            (
                vec!["proxy.max_body"],
                ["`proxy.max_body` is another", "reload"],
            ),
            (
                vec!["app", "admin.listen"],
                ["`app`, `admin.listen` are others", "restart it"],
            ),
        ] {
            let keys: Vec<_> = keys.into_iter().map(str::to_owned).collect();
            let text = told(&keys);
            assert!(parts.iter().all(|part| text.contains(part)), "{text}");
        }
    }
}
