//! Who answers a verb about records: a running sidecar, or, when none runs, the store itself.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use tokio::sync::OnceCell;

use crate::admin::apps::{self, AppView};
use crate::admin::error::AdminError;
use crate::admin::import::{self, ImportMode, ImportReport};
use crate::admin::inbox::{self, EntryView, ItemView, Order};
use crate::admin::merchants::{self, MerchantView};
use crate::admin::page::Page;
use crate::admin::prune::{self, PruneReport};
use crate::admin::replay::{self, ReplayFilter, Replayed};
use crate::cli::admin_client::{AdminClient, encoded};
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::store;
use crate::cli::trail::{Act, Trail};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::model::id::{AppId, AuthAppId};
use crate::model::selector::Selector;
use crate::store::Store;

/// Who answers.
pub(crate) enum Backend {
    /// Nobody runs: the store itself.
    Offline(Box<Offline>),
    /// A running sidecar holds the store.
    Running(AdminClient),
}

/// The store, and the audit log once something is changed.
pub(crate) struct Offline {
    store: Arc<dyn Store>,
    config: Config,
    trail: OnceCell<Trail>,
}

impl Offline {
    /// Makes a change, and tells the audit log of it, which is opened before.
    async fn told<T>(
        &self,
        verb: &'static str,
        subject: Option<&str>,
        change: impl Future<Output = Result<T, AdminError>>,
    ) -> Result<T, Failure> {
        let open = || Trail::open(&self.config, &self.store);
        let trail = self.trail.get_or_try_init(open).await?;
        trail.told(Act { verb, subject }, change).await
    }
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
        Self::of_loaded(context, context.load()).await
    }

    /// The same, of a configuration that was loaded already.
    pub(crate) async fn of_loaded(
        context: &Context,
        loaded: Result<Config, Failure>,
    ) -> Result<Self, Failure> {
        if let Some(client) = AdminClient::running(context, &loaded).await? {
            return Ok(Self::Running(client));
        }
        let config = loaded?;
        let store = store::open(context, &config)?;
        Ok(Self::Offline(Box::new(Offline {
            store,
            config,
            trail: OnceCell::new(),
        })))
    }

    pub(crate) async fn apps(&self) -> Result<Page<AppView>, Failure> {
        match self {
            Self::Offline(it) => {
                let (store, config) = (it.store.as_ref(), &it.config);
                let apps = apps::list(store, &config.apps, &config.upstream).await?;
                Ok(Page::whole(apps))
            }
            Self::Running(client) => client.get("/api/apps").await,
        }
    }

    pub(crate) async fn app(&self, app_id: &AppId) -> Result<AppView, Failure> {
        match self {
            Self::Offline(it) => {
                let configured = (&*it.config.apps, &it.config.upstream);
                Ok(apps::show(it.store.as_ref(), configured, app_id).await?)
            }
            Self::Running(client) => client.get(&format!("/api/apps/{app_id}")).await,
        }
    }

    pub(crate) async fn put_app(&self, app_id: &AppId, body: Vec<u8>) -> Result<AppView, Failure> {
        match self {
            Self::Offline(it) => {
                let put = apps::put(it.store.as_ref(), &it.config.upstream, (app_id, &body));
                it.told("app add", Some(app_id.as_str()), put).await
            }
            Self::Running(client) => {
                let path = format!("/api/apps/{app_id}");
                client.change(Method::PUT, &path, body).await
            }
        }
    }

    pub(crate) async fn remove_app(&self, app_id: &AppId) -> Result<(), Failure> {
        match self {
            Self::Offline(it) => {
                let remove = apps::remove(it.store.as_ref(), app_id);
                it.told("app remove", Some(app_id.as_str()), remove).await
            }
            Self::Running(client) => {
                client
                    .order(Method::DELETE, &format!("/api/apps/{app_id}"))
                    .await
            }
        }
    }

    pub(crate) async fn merchants(&self, part: Part<'_>) -> Result<Page<MerchantView>, Failure> {
        match self {
            Self::Offline(it) => {
                Ok(merchants::list(it.store.as_ref(), part.after, part.limit).await?)
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
    ) -> Result<Page<MerchantView>, Failure> {
        match self {
            Self::Offline(it) => {
                let selector: Selector = selector
                    .parse()
                    .map_err(|error| Failure::Usage(format!("{error}")))?;
                Ok(merchants::find(it.store.as_ref(), app_id, &selector).await?)
            }
            Self::Running(client) => {
                let app = app_id.map(|id| format!("&app_id={id}")).unwrap_or_default();
                let path = format!("/api/merchants?selector={}{app}", encoded(selector));
                client.get(&path).await
            }
        }
    }

    pub(crate) async fn put_merchant(
        &self,
        (app_id, auth_app_id): (&AppId, &AuthAppId),
        body: Vec<u8>,
    ) -> Result<MerchantView, Failure> {
        match self {
            Self::Offline(it) => {
                let key = (app_id, auth_app_id);
                let subject = format!("{app_id}/{auth_app_id}");
                let put = merchants::put(it.store.as_ref(), now(), key, &body);
                it.told("merchant add", Some(&subject), put).await
            }
            Self::Running(client) => {
                let path = format!("/api/merchants/{app_id}/{auth_app_id}");
                client.change(Method::PUT, &path, body).await
            }
        }
    }

    pub(crate) async fn remove_merchant(
        &self,
        app_id: &str,
        auth_app_id: &str,
    ) -> Result<(), Failure> {
        match self {
            Self::Offline(it) => {
                let app_id = app_id.parse().map_err(anyhow::Error::from)?;
                let auth_app_id = auth_app_id.parse().map_err(anyhow::Error::from)?;
                let subject = format!("{app_id}/{auth_app_id}");
                let remove = merchants::remove(it.store.as_ref(), &app_id, &auth_app_id);
                it.told("merchant remove", Some(&subject), remove).await
            }
            Self::Running(client) => {
                let (app_id, auth_app_id) = (encoded(app_id), encoded(auth_app_id));
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
            Self::Offline(it) => {
                let import = import::import(it.store.as_ref(), now(), &lines, mode);
                match mode {
                    ImportMode::DryRun => Ok(import.await?),
                    ImportMode::Store => it.told("merchant import", None, import).await,
                }
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
        order: Order,
        part: Part<'_>,
    ) -> Result<Page<ItemView>, Failure> {
        match self {
            Self::Offline(it) => {
                let behind = (order, part.after);
                Ok(inbox::list(it.store.as_ref(), state, behind, part.limit).await?)
            }
            Self::Running(client) => {
                let state = state
                    .map(|s| format!("&state={}", encoded(s)))
                    .unwrap_or_default();
                let order = match order {
                    Order::Oldest => "",
                    Order::Newest => "&order=desc",
                };
                client
                    .get(&format!("/api/inbox?{}{state}{order}", part.query()))
                    .await
            }
        }
    }

    pub(crate) async fn entry(&self, id: &str) -> Result<EntryView, Failure> {
        match self {
            Self::Offline(it) => Ok(inbox::show(it.store.as_ref(), id).await?),
            Self::Running(client) => client.get(&format!("/api/inbox/{}", encoded(id))).await,
        }
    }

    pub(crate) async fn replay(&self, id: &str) -> Result<(), Failure> {
        match self {
            Self::Offline(it) => {
                let replay = inbox::replay(it.store.as_ref(), now(), id);
                it.told("inbox replay", Some(id), replay).await
            }
            Self::Running(client) => {
                let path = format!("/api/inbox/{}/replay", encoded(id));
                client.order(Method::POST, &path).await
            }
        }
    }

    /// Removes what is old; where none runs, `retain_delivered` is the configuration's.
    pub(crate) async fn prune(&self, older_than: Option<Duration>) -> Result<PruneReport, Failure> {
        match self {
            Self::Offline(it) => {
                let retain = older_than.unwrap_or(it.config.delivery.retain_delivered);
                let prune = prune::prune(it.store.as_ref(), now(), retain);
                it.told("inbox prune", None, prune).await
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
            Self::Offline(it) => {
                let replay = replay::replay(it.store.as_ref(), now(), filter);
                it.told("inbox replay", None, replay).await
            }
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
