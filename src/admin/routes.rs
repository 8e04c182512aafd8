//! `/api`: which operation a path and a method name.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::request::Parts;
use http::{Response, StatusCode};
use http_body_util::Full;

use crate::admin::error::AdminError;
use crate::admin::import::ImportMode;
use crate::admin::page::{DEFAULT_LIMIT, LARGEST_LIMIT};
use crate::admin::problem::Problem;
use crate::admin::replay::{self, ReplayFilter};
use crate::admin::{
    AdminParts, apps, authorizations, export, import, inbox, json, merchants, prune,
};
use crate::config::value::duration;
use crate::model::id::{AppId, AuthAppId, InvalidId};
use crate::protocol::charset::Charset;
use crate::protocol::params::Params;
use crate::token::ProofMode;

/// How long `POST /api/drain` waits by itself: as long as calls may take by default, and the rest.
const DRAIN_WAIT: Duration = Duration::from_secs(25);

type Answer = Result<Response<Full<Bytes>>, Problem>;

/// Does what an authenticated operator asks. The one place that knows the paths, which is why
/// this match is long.
pub(crate) async fn answer(parts: &AdminParts, head: &Parts, body: &Bytes) -> Answer {
    let path = head.uri.path().strip_prefix("/api/").unwrap_or_default();
    let segments: Vec<&str> = path.split('/').collect();
    let query = Query::of(head)?;
    let method = head.method.as_str();
    match (segments.as_slice(), method) {
        (["apps"], "GET") => ok(&apps_page(parts).await?),
        (["apps", app_id], "GET") => {
            ok(&apps::show(&*parts.store, &parts.configured, &id(app_id)?).await?)
        }
        (["apps", app_id], "PUT") => put_app(parts, &id(app_id)?, body).await,
        (["apps", app_id], "DELETE") => remove_app(parts, &id(app_id)?).await,
        (["audit"], "GET") => ok(&audit_head(parts).await),
        (["config"], "GET") => ok(&parts.configuration.shown()),
        (["drain"], "POST") => drain(parts, &query).await,
        (["apps", app_id, "exchange"], "POST") => {
            ok(&authorizations::exchange(parts, &id(app_id)?, body).await?)
        }
        (["apps", app_id, "links"], "POST") => {
            ok(&authorizations::link(parts, &id(app_id)?, body).await?)
        }
        (["apps", app_id, "subscriptions"], "POST") => {
            ok(&authorizations::subscribe(parts, &id(app_id)?, body).await?)
        }
        (["merchants"], "GET") => list_merchants(parts, &query).await,
        (["merchants", "export"], "POST") => {
            let (after, limit) = (query.get("after"), query.limit()?);
            ok(&export::sealed_page(&*parts.store, after, limit, body).await?)
        }
        (["merchants", "import"], "POST") => import_merchants(parts, &query, body).await,
        (["merchants", app_id, auth_app_id], "GET") => {
            ok(&merchants::show(&*parts.store, &id(app_id)?, &merchant_id(auth_app_id)?).await?)
        }
        (["merchants", app_id, auth_app_id], "PUT") => {
            let ids = (&id(app_id)?, &merchant_id(auth_app_id)?);
            let view = merchants::put(&*parts.store, parts.clock.now_ms(), ids, body).await?;
            parts.wake.notify_one();
            ok(&view)
        }
        (["merchants", app_id, auth_app_id], "DELETE") => {
            merchants::remove(&*parts.store, &id(app_id)?, &merchant_id(auth_app_id)?).await?;
            Ok(done())
        }
        (["merchants", app_id, auth_app_id, "refresh"], "POST") => {
            ok(&authorizations::refresh(parts, &id(app_id)?, &merchant_id(auth_app_id)?).await?)
        }
        (["merchants", app_id, auth_app_id, "token"], "GET") => {
            ok(&authorizations::describe(parts, &id(app_id)?, &merchant_id(auth_app_id)?).await?)
        }
        (["merchants", app_id, auth_app_id, "verify"], "POST") => {
            let ids = (&id(app_id)?, &merchant_id(auth_app_id)?);
            let mode = match query.get("dry_run") {
                Some("true") => ProofMode::Report,
                _ => ProofMode::Settle,
            };
            ok(&authorizations::verify(parts, ids, mode).await?)
        }
        (["inbox"], "GET") => {
            let (state, after) = (query.get("state"), query.get("after"));
            ok(&inbox::list(&*parts.store, state, after, query.limit()?).await?)
        }
        (["inbox", "prune"], "POST") => {
            let retain = prune::read(body)?.unwrap_or(parts.retain_delivered);
            ok(&prune::prune(&*parts.store, parts.clock.now_ms(), retain).await?)
        }
        (["inbox", "prune" | "replay" | "reverify"], method) if method != "POST" => {
            Err(refusal(&segments))
        }
        (["inbox", "replay"], "POST") => {
            let filter = ReplayFilter::parse(body)?;
            let done = replay::replay(&*parts.store, parts.clock.now_ms(), &filter).await?;
            parts.wake.notify_one();
            ok(&done)
        }
        (["inbox", "reverify"], "POST") => reverify(parts, Which::InBody(body)).await,
        (["inbox", event], "GET") => match query.get("explain") {
            Some("true") => ok(&inbox::explain(&*parts.store, &parts.webhook, event).await?),
            _ => ok(&inbox::show(&*parts.store, event).await?),
        },
        (["inbox", event, "reverify"], "POST") => reverify(parts, Which::One(event)).await,
        (["inbox", event, "replay"], "POST") => {
            inbox::replay(&*parts.store, parts.clock.now_ms(), event).await?;
            parts.wake.notify_one();
            Ok(done())
        }
        (["reload"], "POST") => ok(&parts.configuration.reload().await?),
        (["store"], "GET") => ok(&parts.store.stats().await.map_err(AdminError::from)?),
        (["store", "check"], "POST") => {
            ok(&parts.store.inspect().await.map_err(AdminError::from)?)
        }
        (segments, _) => Err(refusal(segments)),
    }
}

/// A known path was asked with another method, or the path is unknown.
fn refusal(segments: &[&str]) -> Problem {
    match segments {
        ["drain" | "reload"]
        | ["merchants", "import" | "export"]
        | ["apps", _, "exchange" | "links" | "subscriptions"]
        | ["merchants", _, _, "refresh" | "verify"]
        | ["inbox", "prune" | "replay" | "reverify"]
        | ["inbox", _, "replay" | "reverify"]
        | ["store", "check"] => Problem::method_not_allowed("POST"),
        ["apps" | "audit" | "config" | "merchants" | "inbox" | "store"]
        | ["inbox", _]
        | ["merchants", _, _, "token"]
        | ["store", "backup"] => Problem::method_not_allowed("GET"),
        ["apps", _] | ["merchants", _, _] => Problem::method_not_allowed("GET, PUT, DELETE"),
        _ => Problem::route_unknown(),
    }
}

/// How far the store knows the audit log, for who checks it.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct AuditView {
    /// The head, in base64; `None`: there is none.
    pub(crate) head: Option<String>,
}

async fn audit_head(parts: &AdminParts) -> AuditView {
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
    Ok(json(status, &progress))
}

async fn apps_page(parts: &AdminParts) -> Result<crate::admin::page::Page<apps::AppView>, Problem> {
    let items = apps::list(&*parts.store, &parts.configured).await?;
    Ok(crate::admin::page::Page { items, next: None })
}

async fn put_app(parts: &AdminParts, app_id: &AppId, body: &[u8]) -> Answer {
    let _alone = parts.apps.changing().await;
    let view = apps::put(&*parts.store, app_id, body).await?;
    parts.configuration.follow_apps().await?;
    ok(&view)
}

async fn remove_app(parts: &AdminParts, app_id: &AppId) -> Answer {
    let _alone = parts.apps.changing().await;
    apps::remove(&*parts.store, app_id).await?;
    parts.configuration.follow_apps().await?;
    Ok(done())
}

/// Which refused notifications.
enum Which<'a> {
    /// The one that the JSON names, or all.
    InBody(&'a [u8]),
    One(&'a str),
}

async fn reverify(parts: &AdminParts, which: Which<'_>) -> Answer {
    let report = match which {
        Which::InBody(body) => inbox::reverify_body(&parts.webhook, body).await?,
        Which::One(event) => inbox::reverify(&parts.webhook, Some(event)).await?,
    };
    ok(&report)
}

async fn list_merchants(parts: &AdminParts, query: &Query) -> Answer {
    if let Some(selector) = query.get("selector") {
        let selector = selector
            .parse()
            .map_err(|e: InvalidId| Problem::parameter_invalid(e.to_string()))?;
        let app_id = query.get("app_id").map(id).transpose()?;
        let items = merchants::find(&*parts.store, app_id.as_ref(), &selector).await?;
        return ok(&crate::admin::page::Page { items, next: None });
    }
    ok(&merchants::list(&*parts.store, query.get("after"), query.limit()?).await?)
}

async fn import_merchants(parts: &AdminParts, query: &Query, body: &[u8]) -> Answer {
    let mode = match query.get("dry_run") {
        Some("true") => ImportMode::DryRun,
        _ => ImportMode::Store,
    };
    let report = import::import(&*parts.store, parts.clock.now_ms(), body, mode).await?;
    parts.wake.notify_one();
    ok(&report)
}

struct Query(Params);

impl Query {
    fn of(head: &Parts) -> Result<Self, Problem> {
        let raw = head.uri.query().unwrap_or_default().as_bytes();
        Params::from_form(raw, Charset::Utf8)
            .map(Self)
            .map_err(|e| Problem::parameter_invalid(e.to_string()))
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).filter(|value| !value.is_empty())
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

fn id(text: &str) -> Result<AppId, Problem> {
    AppId::new(text).map_err(|e| Problem::parameter_invalid(e.to_string()))
}

fn merchant_id(text: &str) -> Result<AuthAppId, Problem> {
    AuthAppId::new(text).map_err(|e| Problem::parameter_invalid(e.to_string()))
}

fn ok(view: &impl serde::Serialize) -> Answer {
    Ok(json(StatusCode::OK, view))
}

fn done() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}
