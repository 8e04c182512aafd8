//! `/api`: which operation a path and a method name.

use bytes::Bytes;
use http::request::Parts;
use http::{Response, StatusCode};
use http_body_util::Full;

use crate::admin::error::AdminError;
use crate::admin::import::ImportMode;
use crate::admin::page::{DEFAULT_LIMIT, LARGEST_LIMIT};
use crate::admin::problem::Problem;
use crate::admin::{AdminParts, apps, import, inbox, json, merchants};
use crate::model::id::{AppId, AuthAppId, InvalidId};
use crate::protocol::charset::Charset;
use crate::protocol::params::Params;

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
        (["merchants"], "GET") => list_merchants(parts, &query).await,
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
        (["inbox"], "GET") => {
            let (state, after) = (query.get("state"), query.get("after"));
            ok(&inbox::list(&*parts.store, state, after, query.limit()?).await?)
        }
        (["inbox", event], "GET") => ok(&inbox::show(&*parts.store, event).await?),
        (["inbox", event, "replay"], "POST") => {
            inbox::replay(&*parts.store, parts.clock.now_ms(), event).await?;
            parts.wake.notify_one();
            Ok(done())
        }
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
        ["apps" | "merchants" | "inbox" | "store"] | ["inbox", _] | ["store", "backup"] => {
            Problem::method_not_allowed("GET")
        }
        ["merchants", "import"] | ["inbox", _, "replay"] | ["store", "check"] => {
            Problem::method_not_allowed("POST")
        }
        ["apps", _] | ["merchants", _, _] => Problem::method_not_allowed("GET, PUT, DELETE"),
        _ => Problem::route_unknown(),
    }
}

async fn apps_page(parts: &AdminParts) -> Result<crate::admin::page::Page<apps::AppView>, Problem> {
    let items = apps::list(&*parts.store, &parts.configured).await?;
    Ok(crate::admin::page::Page { items, next: None })
}

async fn put_app(parts: &AdminParts, app_id: &AppId, body: &[u8]) -> Answer {
    let _alone = parts.apps.changing().await;
    let view = apps::put(&*parts.store, app_id, body).await?;
    reload_apps(parts).await?;
    ok(&view)
}

async fn remove_app(parts: &AdminParts, app_id: &AppId) -> Answer {
    let _alone = parts.apps.changing().await;
    apps::remove(&*parts.store, app_id).await?;
    reload_apps(parts).await?;
    Ok(done())
}

/// Makes the apps that can sign those of the configuration and of the store as it is now.
async fn reload_apps(parts: &AdminParts) -> Result<(), Problem> {
    let mut all = parts.configured.clone();
    all.extend(parts.store.apps().await.map_err(AdminError::from)?);
    parts
        .apps
        .replace(&all, &parts.upstream)
        .map_err(|e| Problem::internal(&e.to_string()))
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
