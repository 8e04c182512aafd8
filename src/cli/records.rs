//! Which records a verb means that talks to the admin API.

use crate::admin::apps::AppView;
use crate::admin::error::AdminError;
use crate::admin::merchants::MerchantView;
use crate::admin::page::{LARGEST_LIMIT, Page};
use crate::cli::admin_client::{AdminClient, encoded};
use crate::cli::failure::Failure;
use crate::model::id::AppId;

/// The one merchant that `selector` names.
pub(crate) async fn merchant(
    client: &AdminClient,
    app_id: Option<&AppId>,
    selector: &str,
) -> Result<MerchantView, Failure> {
    let app = app_id.map(|id| format!("&app_id={id}")).unwrap_or_default();
    let path = format!("/api/merchants?selector={}{app}", encoded(selector));
    let page: Page<MerchantView> = client.get(&path).await?;
    only(page, selector)
}

/// The only one of those that `selector` names. One that can't be read counts: it may be the one that
/// is meant.
pub(crate) fn only(found: Page<MerchantView>, selector: &str) -> Result<MerchantView, Failure> {
    let whole = found.items.iter().map(name);
    let candidates: Vec<String> = whole.chain(found.damaged).collect();
    let mut found = found.items.into_iter();
    let selector = selector.to_owned();
    match (found.next(), candidates.len()) {
        (Some(view), 1) => Ok(view),
        (Some(_), _) => Err(AdminError::MerchantAmbiguous {
            selector,
            candidates,
        }
        .into()),
        (None, _) => Err(AdminError::MerchantUnknown { name: selector }.into()),
    }
}

/// `app_id/auth_app_id`.
pub(crate) fn name(view: &MerchantView) -> String {
    format!("{}/{}", view.app_id, view.auth_app_id)
}

/// The path of a merchant in the API.
pub(crate) fn path(view: &MerchantView) -> String {
    let (app_id, auth_app_id) = (encoded(&view.app_id), encoded(&view.auth_app_id));
    format!("/api/merchants/{app_id}/{auth_app_id}")
}

/// The app that `--app` names, or the only one there is.
pub(crate) async fn app(client: &AdminClient, named: Option<&AppId>) -> Result<String, Failure> {
    if let Some(app_id) = named {
        return Ok(app_id.to_string());
    }
    let page: Page<AppView> = client.get("/api/apps").await?;
    match <[AppView; 1]>::try_from(page.items) {
        Ok([only]) => Ok(only.app_id),
        Err(apps) => Err(Failure::Usage(format!(
            "there are {} apps; name one with --app",
            apps.len()
        ))),
    }
}

/// The page of all merchants after `after`.
pub(crate) async fn page(
    client: &AdminClient,
    after: Option<&str>,
) -> Result<Page<MerchantView>, Failure> {
    let after = after.map(|after| format!("&after={}", encoded(after)));
    let after = after.unwrap_or_default();
    let path = format!("/api/merchants?limit={LARGEST_LIMIT}{after}");
    client.get(&path).await
}
