//! Who answers a verb about records: a running sidecar, or, when none runs, the store itself.

use std::sync::Arc;
use std::time::Duration;

use http::Method;

use crate::admin::apps::{self, AppView};
use crate::admin::import::{self, ImportMode, ImportReport};
use crate::admin::inbox::{self, EntryView, ItemView};
use crate::admin::merchants::{self, MerchantView};
use crate::admin::page::Page;
use crate::admin::prune::{self, PruneReport};
use crate::admin::replay::{self, ReplayFilter, Replayed};
use crate::cli::admin_client::{AdminClient, encoded};
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::store;
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::model::app::App;
use crate::model::id::{AppId, AuthAppId};
use crate::model::selector::Selector;
use crate::store::Store;

/// Who answers.
pub(crate) enum Backend {
    /// Nobody runs: the store itself.
    Offline(Arc<dyn Store>, Vec<App>),
    /// A running sidecar holds the store.
    Running(AdminClient),
}

/// Which part of a list.
pub(crate) struct Part<'a> {
    pub(crate) after: Option<&'a str>,
    pub(crate) limit: usize,
}

impl Part<'_> {
    fn query(&self) -> String {
        match self.after {
            Some(after) => format!("limit={}&after={}", self.limit, encoded(after)),
            None => format!("limit={}", self.limit),
        }
    }
}

impl Backend {
    /// The running sidecar of this configuration, or its store.
    pub(crate) async fn of(context: &Context) -> Result<Self, Failure> {
        let config = context.load()?;
        Self::of_config(context, config).await
    }

    /// The same, of a configuration that is loaded already.
    pub(crate) async fn of_config(context: &Context, config: Config) -> Result<Self, Failure> {
        let client = AdminClient::new(&config);
        if client.is_running().await? {
            return Ok(Self::Running(client));
        }
        let store = store::open(context, &config)?;
        Ok(Self::Offline(store, config.apps))
    }

    pub(crate) async fn apps(&self) -> Result<Page<AppView>, Failure> {
        match self {
            Self::Offline(store, apps) => Ok(Page {
                items: apps::list(store.as_ref(), apps).await?,
                next: None,
            }),
            Self::Running(client) => client.get("/api/apps").await,
        }
    }

    pub(crate) async fn app(&self, app_id: &AppId) -> Result<AppView, Failure> {
        match self {
            Self::Offline(store, apps) => Ok(apps::show(store.as_ref(), apps, app_id).await?),
            Self::Running(client) => client.get(&format!("/api/apps/{app_id}")).await,
        }
    }

    pub(crate) async fn put_app(&self, app_id: &AppId, body: Vec<u8>) -> Result<AppView, Failure> {
        match self {
            Self::Offline(store, _) => Ok(apps::put(store.as_ref(), app_id, &body).await?),
            Self::Running(client) => {
                let path = format!("/api/apps/{app_id}");
                client.change(Method::PUT, &path, body).await
            }
        }
    }

    pub(crate) async fn remove_app(&self, app_id: &AppId) -> Result<(), Failure> {
        match self {
            Self::Offline(store, _) => Ok(apps::remove(store.as_ref(), app_id).await?),
            Self::Running(client) => {
                client
                    .order(Method::DELETE, &format!("/api/apps/{app_id}"))
                    .await
            }
        }
    }

    pub(crate) async fn merchants(&self, part: Part<'_>) -> Result<Page<MerchantView>, Failure> {
        match self {
            Self::Offline(store, _) => {
                Ok(merchants::list(store.as_ref(), part.after, part.limit).await?)
            }
            Self::Running(client) => {
                client
                    .get(&format!("/api/merchants?{}", part.query()))
                    .await
            }
        }
    }

    /// Every merchant that `selector` names.
    pub(crate) async fn find_merchants(
        &self,
        app_id: Option<&AppId>,
        selector: &str,
    ) -> Result<Vec<MerchantView>, Failure> {
        match self {
            Self::Offline(store, _) => {
                let selector: Selector = selector
                    .parse()
                    .map_err(|error| Failure::Usage(format!("{error}")))?;
                Ok(merchants::find(store.as_ref(), app_id, &selector).await?)
            }
            Self::Running(client) => {
                let app = app_id.map(|id| format!("&app_id={id}")).unwrap_or_default();
                let path = format!("/api/merchants?selector={}{app}", encoded(selector));
                let page: Page<MerchantView> = client.get(&path).await?;
                Ok(page.items)
            }
        }
    }

    pub(crate) async fn put_merchant(
        &self,
        (app_id, auth_app_id): (&AppId, &AuthAppId),
        body: Vec<u8>,
    ) -> Result<MerchantView, Failure> {
        match self {
            Self::Offline(store, _) => {
                let key = (app_id, auth_app_id);
                Ok(merchants::put(store.as_ref(), now(), key, &body).await?)
            }
            Self::Running(client) => {
                let path = format!("/api/merchants/{app_id}/{auth_app_id}");
                client.change(Method::PUT, &path, body).await
            }
        }
    }

    pub(crate) async fn remove_merchant(&self, view: &MerchantView) -> Result<(), Failure> {
        match self {
            Self::Offline(store, _) => {
                let app_id = view.app_id.parse().map_err(anyhow::Error::from)?;
                let auth_app_id = view.auth_app_id.parse().map_err(anyhow::Error::from)?;
                Ok(merchants::remove(store.as_ref(), &app_id, &auth_app_id).await?)
            }
            Self::Running(client) => {
                let (app_id, auth_app_id) = (encoded(&view.app_id), encoded(&view.auth_app_id));
                let path = format!("/api/merchants/{app_id}/{auth_app_id}");
                client.order(Method::DELETE, &path).await
            }
        }
    }

    pub(crate) async fn import(
        &self,
        lines: Vec<u8>,
        mode: ImportMode,
    ) -> Result<ImportReport, Failure> {
        match self {
            Self::Offline(store, _) => {
                Ok(import::import(store.as_ref(), now(), &lines, mode).await?)
            }
            Self::Running(client) => {
                let dry_run = mode == ImportMode::DryRun;
                let path = format!("/api/merchants/import?dry_run={dry_run}");
                client.change(Method::POST, &path, lines).await
            }
        }
    }

    pub(crate) async fn inbox(
        &self,
        state: Option<&str>,
        part: Part<'_>,
    ) -> Result<Page<ItemView>, Failure> {
        match self {
            Self::Offline(store, _) => {
                Ok(inbox::list(store.as_ref(), state, part.after, part.limit).await?)
            }
            Self::Running(client) => {
                let state = state
                    .map(|s| format!("&state={}", encoded(s)))
                    .unwrap_or_default();
                client
                    .get(&format!("/api/inbox?{}{state}", part.query()))
                    .await
            }
        }
    }

    pub(crate) async fn entry(&self, id: &str) -> Result<EntryView, Failure> {
        match self {
            Self::Offline(store, _) => Ok(inbox::show(store.as_ref(), id).await?),
            Self::Running(client) => client.get(&format!("/api/inbox/{}", encoded(id))).await,
        }
    }

    pub(crate) async fn replay(&self, id: &str) -> Result<(), Failure> {
        match self {
            Self::Offline(store, _) => Ok(inbox::replay(store.as_ref(), now(), id).await?),
            Self::Running(client) => {
                let path = format!("/api/inbox/{}/replay", encoded(id));
                client.order(Method::POST, &path).await
            }
        }
    }

    /// Removes what is old; where none runs, `retain_delivered` is the configuration's.
    pub(crate) async fn prune(
        &self,
        older_than: Option<Duration>,
        retain_delivered: Duration,
    ) -> Result<PruneReport, Failure> {
        match self {
            Self::Offline(store, _) => {
                let retain = older_than.unwrap_or(retain_delivered);
                Ok(prune::prune(store.as_ref(), now(), retain).await?)
            }
            Self::Running(client) => {
                let body = prune::to_json(older_than);
                client.change(Method::POST, "/api/inbox/prune", body).await
            }
        }
    }

    /// Replays what the filter fits, and says how many deliveries that were.
    pub(crate) async fn replay_all(&self, filter: &ReplayFilter) -> Result<u64, Failure> {
        let (mut filter, mut replayed) = (filter.clone(), 0);
        loop {
            let done = self.replay_some(&filter).await?;
            replayed += done.replayed;
            let Some(next) = done.next else {
                return Ok(replayed);
            };
            filter.after = Some(next.parse().map_err(anyhow::Error::from)?);
        }
    }

    async fn replay_some(&self, filter: &ReplayFilter) -> Result<Replayed, Failure> {
        match self {
            Self::Offline(store, _) => Ok(replay::replay(store.as_ref(), now(), filter).await?),
            Self::Running(client) => {
                let body = filter.to_json();
                client.change(Method::POST, "/api/inbox/replay", body).await
            }
        }
    }
}

fn now() -> i64 {
    SystemClock.now_ms()
}
