//! What each operation of the admin listener does.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::request::Parts;
use http::{Response, StatusCode};
use http_body_util::Full;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::admin::apps::AppView;
use crate::admin::error::AdminError;
use crate::admin::import::ImportMode;
use crate::admin::inbox::Order;
use crate::admin::operations::{Asked, Does, Operation};
use crate::admin::page::{DEFAULT_LIMIT, LARGEST_LIMIT, Page};
use crate::admin::problem::Problem;
use crate::admin::replay::{self, ReplayFilter};
use crate::admin::store::{AdminBody, backup};
use crate::admin::{
    AdminParts, apps, authorizations, export, import, inbox, json, look, merchants, openapi, prune,
    text,
};
use crate::config::value::duration;
use crate::model::id::{AppId, InvalidId};
use crate::protocol::charset::Charset;
use crate::protocol::error::ProtocolError;
use crate::protocol::params::Params;
use crate::proxy::error::{ErrorCode, ProxyError};
use crate::token::ProofMode;

/// How long `POST /api/drain` waits by itself: as long as calls may take by default, and the rest.
const DRAIN_WAIT: Duration = Duration::from_secs(25);

type Answer = Result<Response<AdminBody>, Problem>;

/// Does what is asked. The one place that does it, which is why this match is long.
pub(super) async fn answer(
    parts: &AdminParts,
    (asked, head): (&Asked<'_>, &Parts),
    body: &Bytes,
) -> Answer {
    let query = Query::of(asked.operation, head)?;
    let store = &*parts.store;
    let now = parts.clock.now_ms();
    match asked.operation.does {
        Does::AuditHead => ok(&audit_head(parts).await),
        Does::Backup => backup(store).await,
        Does::Reload => ok(&parts.configuration.reload().await?),
        Does::ShowConfig => ok(&parts.configuration.shown()),
        Does::CheckApp => ok(&look::at_app(parts, &asked.app_id()?).await?),
        Does::CheckWebhook => ok(&look::at_own_address(parts).await),
        Does::CheckStore => ok(&store.inspect().await.map_err(AdminError::from)?),
        Does::DescribeToken => {
            let (app_id, auth_app_id) = asked.merchant()?;
            let described = authorizations::describe(parts, &app_id, &auth_app_id).await;
            ok(&described.map_err(|error| Problem::from(error).of_query())?)
        }
        Does::Document => ok(&openapi::document()),
        Does::Drain => drain(parts, &query).await,
        Does::Exchange => ok(&authorizations::exchange(parts, &asked.app_id()?, body).await?),
        Does::Export => {
            let (after, limit) = (query.after(), query.limit()?);
            ok(&export::sealed_page(store, after, limit, body).await?)
        }
        Does::Import => import_merchants(parts, &query, body).await,
        Does::Link => ok(&authorizations::link(parts, &asked.app_id()?, body).await?),
        Does::ListApps => ok(&apps_page(parts).await?),
        Does::ListInbox => {
            let (state, after) = (query.get("state"), query.after());
            let part = (query.order()?, after);
            ok(&inbox::list(store, state, part, query.limit()?).await?)
        }
        Does::ListMerchants => list_merchants(parts, &query).await,
        Does::Live => Ok(whole(text(StatusCode::OK, PLAIN, "ok\n"))),
        Does::Metrics => metrics(parts).await,
        Does::Prune => {
            let retain = prune::read(body)?.unwrap_or(parts.retain_delivered);
            ok(&prune::prune(store, now, retain).await?)
        }
        Does::PutApp => put_app(parts, &asked.app_id()?, body).await,
        Does::PutMerchant => {
            let (app_id, auth_app_id) = asked.merchant()?;
            let view = merchants::put(store, now, (&app_id, &auth_app_id), body).await?;
            parts.wake.notify_one();
            ok(&view)
        }
        Does::Ready => Ok(ready(parts)),
        Does::Refresh => {
            let (app_id, auth_app_id) = asked.merchant()?;
            ok(&authorizations::refresh(parts, &app_id, &auth_app_id).await?)
        }
        Does::RemoveApp => remove_app(parts, &asked.app_id()?).await,
        Does::RemoveMerchant => {
            let (app_id, auth_app_id) = asked.merchant()?;
            merchants::remove(store, &app_id, &auth_app_id).await?;
            Ok(done())
        }
        Does::Replay => {
            inbox::replay(store, now, asked.segment("id")).await?;
            parts.wake.notify_one();
            Ok(done())
        }
        Does::ReplayMany => {
            let filter = ReplayFilter::parse(body)?;
            let replayed = replay::replay(store, now, &filter).await?;
            parts.wake.notify_one();
            ok(&replayed)
        }
        Does::Reverify => {
            let event = asked.segment("id");
            ok(&inbox::reverify(&parts.webhook, Some(event)).await?)
        }
        Does::ReverifyMany => ok(&inbox::reverify_body(&parts.webhook, body).await?),
        Does::ShowApp => {
            let configured = (&*parts.configured, &parts.upstream);
            ok(&apps::show(store, configured, &asked.app_id()?).await?)
        }
        Does::ShowEntry => show_entry(parts, asked.segment("id"), &query).await,
        Does::ShowMerchant => {
            let (app_id, auth_app_id) = asked.merchant()?;
            ok(&merchants::show(store, &app_id, &auth_app_id).await?)
        }
        Does::StoreStats => ok(&store.stats().await.map_err(AdminError::from)?),
        Does::Subscribe => ok(&authorizations::subscribe(parts, &asked.app_id()?, body).await?),
        Does::Verify => {
            let (app_id, auth_app_id) = asked.merchant()?;
            let mode = match query.flag("dry_run")? {
                true => ProofMode::Report,
                false => ProofMode::Settle,
            };
            ok(&authorizations::verify(parts, (&app_id, &auth_app_id), mode).await?)
        }
    }
}

fn ready(parts: &AdminParts) -> Response<AdminBody> {
    let readiness = parts.health.readiness();
    let status = match readiness.ready {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    whole(json(status, &readiness))
}

async fn metrics(parts: &AdminParts) -> Answer {
    // A store that can't be read at present must not take the other metrics with it, and isn't empty:
    // alerts about what it held stay as they are.
    if let Ok(counts) = parts.store.counts().await {
        parts.metrics.count(&counts, parts.clock.now_ms());
    }
    parts.metrics.observe(parts.health.readiness());
    let rendered = parts.metrics.render();
    let rendered = rendered.map_err(|error| Problem::internal(&error.to_string()))?;
    Ok(whole(text(StatusCode::OK, EXPOSITION, rendered)))
}

async fn show_entry(parts: &AdminParts, event: &str, query: &Query) -> Answer {
    match query.flag("explain")? {
        true => ok(&inbox::explain(&*parts.store, &parts.webhook, event).await?),
        false => ok(&inbox::show(&*parts.store, event).await?),
    }
}

/// How far the store knows the audit log, for who checks it.
#[derive(Debug, JsonSchema, Serialize, Deserialize)]
pub(crate) struct AuditView {
    /// The head, in base64; `None`: there is none.
    pub(crate) head: Option<String>,
}

async fn audit_head(parts: &AdminParts) -> AuditView {
    // What was told until now counts: a tail that was cut off a moment ago shows.
    parts.audit.settled().await;
    let head = parts.audit.kept_head().await;
    AuditView {
        head: head.map(|head| STANDARD.encode(head.to_bytes())),
    }
}

/// 200 once nothing is under way, 202 with how far it has come when that takes longer than `wait`.
async fn drain(parts: &AdminParts, query: &Query) -> Answer {
    let progress = parts.drain.drain(query.wait()?).await;
    let progress = progress.map_err(AdminError::from)?;
    let status = match progress.drained {
        true => StatusCode::OK,
        false => StatusCode::ACCEPTED,
    };
    Ok(whole(json(status, &progress)))
}

async fn apps_page(parts: &AdminParts) -> Result<Page<AppView>, Problem> {
    let items = apps::list(&*parts.store, &parts.configured, &parts.upstream).await?;
    Ok(Page::whole(items))
}

async fn put_app(parts: &AdminParts, app_id: &AppId, body: &[u8]) -> Answer {
    let (app_id, body) = (app_id.clone(), Zeroizing::new(body.to_vec()));
    let (store, upstream) = (Arc::clone(&parts.store), parts.upstream.clone());
    let view = to_the_end(parts, async move {
        let put = apps::put(&*store, &upstream, (&app_id, &body)).await?;
        Ok(put)
    });
    ok(&view.await?)
}

async fn remove_app(parts: &AdminParts, app_id: &AppId) -> Answer {
    let (app_id, store) = (app_id.clone(), Arc::clone(&parts.store));
    let removed = to_the_end(parts, async move {
        apps::remove(&*store, &app_id).await?;
        Ok(())
    });
    removed.await?;
    Ok(done())
}

/// Changes the stored apps, and has those sign that are there then, whether or not its caller stays: an
/// app that was removed must not go on signing because a connection broke.
async fn to_the_end<T: Send + 'static>(
    parts: &AdminParts,
    change: impl Future<Output = Result<T, Problem>> + Send + 'static,
) -> Result<T, Problem> {
    let (alone, configuration) = (
        parts.apps.changing().await,
        Arc::clone(&parts.configuration),
    );
    let changed = tokio::spawn(async move {
        let changed = change.await?;
        configuration.follow_apps().await?;
        drop(alone);
        Ok(changed)
    });
    let bug = |_| Err(Problem::internal("the change ended in a bug; see the log"));
    changed.await.unwrap_or_else(bug)
}

async fn list_merchants(parts: &AdminParts, query: &Query) -> Answer {
    let limit = query.limit()?;
    let app_id: Option<AppId> = query
        .get("app_id")
        .map(str::parse)
        .transpose()
        .map_err(wrong)?;
    if let Some(selector) = query.get("selector") {
        let selector = selector.parse().map_err(wrong)?;
        return ok(&merchants::find(&*parts.store, app_id.as_ref(), &selector).await?);
    }
    if app_id.is_some() {
        return Err(Problem::parameter_invalid(
            "`app_id` narrows a `selector`; without one every app's merchants are listed",
        ));
    }
    ok(&merchants::list(&*parts.store, query.after(), limit).await?)
}

async fn import_merchants(parts: &AdminParts, query: &Query, body: &[u8]) -> Answer {
    let mode = match query.flag("dry_run")? {
        true => ImportMode::DryRun,
        false => ImportMode::Store,
    };
    let report = import::import(&*parts.store, parts.clock.now_ms(), body, mode).await?;
    parts.wake.notify_one();
    ok(&report)
}

fn wrong(error: InvalidId) -> Problem {
    Problem::parameter_invalid(error.to_string())
}

/// The query of a request: nothing but what the operation takes. A mistyped `dry_run` must not store.
struct Query(Params);

impl Query {
    fn of(operation: &Operation, head: &Parts) -> Result<Self, Problem> {
        let raw = head.uri.query().unwrap_or_default().as_bytes();
        let params = Params::from_form(raw, Charset::Utf8).map_err(|error| {
            let code = match error {
                ProtocolError::ParameterDuplicate { .. } => ErrorCode::ParameterDuplicate,
                _ => ErrorCode::ParameterInvalid,
            };
            Problem::from(ProxyError::refused(code, error.to_string()))
        })?;
        let is_known = |name: &str| operation.query.iter().any(|known| known.name == name);
        if let Some((name, _)) = params.iter().find(|(name, _)| !is_known(name)) {
            return Err(Problem::parameter_invalid(unknown(operation, name)));
        }
        Ok(Self(params))
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)
    }

    /// Where the page begins. It may be empty, so that whoever goes from page to page needs no
    /// first one of its own.
    fn after(&self) -> Option<&str> {
        self.get("after").filter(|after| !after.is_empty())
    }

    fn order(&self) -> Result<Order, Problem> {
        match self.get("order") {
            None | Some("asc") => Ok(Order::Oldest),
            Some("desc") => Ok(Order::Newest),
            Some(_) => Err(Problem::parameter_invalid(
                "`order` is `asc` or `desc`".to_owned(),
            )),
        }
    }

    fn flag(&self, name: &str) -> Result<bool, Problem> {
        match self.get(name) {
            Some("true") => Ok(true),
            None | Some("false") => Ok(false),
            Some(_) => Err(Problem::parameter_invalid(format!(
                "`{name}` is `true` or `false`"
            ))),
        }
    }

    /// How long the answer may be waited for.
    fn wait(&self) -> Result<Duration, Problem> {
        let Some(text) = self.get("wait") else {
            return Ok(DRAIN_WAIT);
        };
        duration(text).map_err(|mismatch| {
            let expected = mismatch.expected;
            Problem::parameter_invalid(format!("`wait` is {text:?}, expected {expected}"))
        })
    }

    fn limit(&self) -> Result<usize, Problem> {
        let Some(text) = self.get("limit") else {
            return Ok(DEFAULT_LIMIT);
        };
        match text.parse() {
            Ok(limit @ 1..=LARGEST_LIMIT) => Ok(limit),
            _ => Err(Problem::parameter_invalid(format!(
                "`limit` is a number from 1 to {LARGEST_LIMIT}"
            ))),
        }
    }
}

fn unknown(operation: &Operation, name: &str) -> String {
    let known: Vec<&str> = operation.query.iter().map(|known| known.name).collect();
    let known = match known.is_empty() {
        true => "none".to_owned(),
        false => known.join(", "),
    };
    let name: String = name.chars().take(LONGEST_SHOWN).collect();
    format!("`{name}` is an unknown parameter; this route takes: {known}")
}

/// How much of a name that nobody knows is repeated, characters.
const LONGEST_SHOWN: usize = 64;
const PLAIN: &str = "text/plain; charset=utf-8";
/// Prometheus' text format.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

fn ok(view: &impl Serialize) -> Answer {
    Ok(whole(json(StatusCode::OK, view)))
}

fn done() -> Response<AdminBody> {
    let mut response = whole(Response::new(Full::default()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

fn whole(response: Response<Full<Bytes>>) -> Response<AdminBody> {
    response.map(AdminBody::Whole)
}
