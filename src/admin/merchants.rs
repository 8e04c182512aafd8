//! Merchants: listed, shown, put, removed and imported. A token is never shown; its fingerprint
//! stands for it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::admin::error::AdminError;
use crate::admin::merchant_record::MerchantRecord;
use crate::admin::page::Page;
use crate::model::id::{AppId, AuthAppId};
use crate::model::merchant::{Merchant, MerchantStatus};
use crate::model::selector::Selector;
use crate::protocol::secret::Secret;
use crate::store::error::StoreError;
use crate::store::{Change, DamagedMerchant, Effect, MerchantKey, Store};

/// A merchant as an operator sees it, under the names of `merchant import`.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub struct MerchantView {
    /// Our application.
    pub app_id: String,
    /// The merchant's application.
    pub auth_app_id: String,
    /// The merchant's PID, once known.
    pub user_id: Option<String>,
    /// The operator's name for it.
    pub alias: Option<String>,
    /// The ISV's own tenant id.
    #[serde(rename = "ref")]
    pub reference: Option<String>,
    /// `authorized`, `revoked` or `suspect`.
    pub status: String,
    /// Which token Alipay refused, where that is why it is suspect or revoked.
    #[serde(default)]
    pub doubt: Option<String>,
    /// When it cancelled, Unix milliseconds.
    pub revoked_at: Option<i64>,
    /// When it authorised, Unix milliseconds.
    pub auth_time: i64,
    /// Whether `auth_time` is ours and not Alipay's.
    pub auth_time_estimated: bool,
    /// `push`, `callback`, `import` or `refresh`.
    pub source: String,
    /// The first 12 hexadecimal digits of the SHA-256 of the `app_auth_token`.
    pub token_fingerprint: String,
    /// Whether an `app_refresh_token` is held.
    pub has_refresh_token: bool,
    /// Whether the merchant's AES key is held.
    pub has_encrypt_key: bool,
    /// When Alipay says the token ends, Unix milliseconds.
    pub stated_expiry: Option<i64>,
    /// When the record was last changed, Unix milliseconds.
    pub updated_at: i64,
}

impl From<&Merchant> for MerchantView {
    fn from(merchant: &Merchant) -> Self {
        Self {
            app_id: merchant.app_id.to_string(),
            auth_app_id: merchant.auth_app_id.to_string(),
            user_id: merchant.pid.as_ref().map(ToString::to_string),
            alias: merchant.alias.as_ref().map(ToString::to_string),
            reference: merchant.reference.clone(),
            status: merchant.status.as_str().to_owned(),
            doubt: merchant.doubt.map(|doubt| doubt.as_str().to_owned()),
            revoked_at: match merchant.status {
                MerchantStatus::Authorized | MerchantStatus::Suspect { .. } => None,
                MerchantStatus::Revoked { at } => Some(at),
            },
            auth_time: merchant.auth_time,
            auth_time_estimated: merchant.auth_time_estimated,
            source: merchant.source.as_str().to_owned(),
            token_fingerprint: fingerprint(&merchant.token.app_auth_token),
            has_refresh_token: merchant.token.app_refresh_token.is_some(),
            has_encrypt_key: merchant.encrypt_key.is_some(),
            stated_expiry: merchant.token.stated_expiry,
            updated_at: merchant.updated_at,
        }
    }
}

/// A page of all merchants after `after`, which is `app_id/auth_app_id`.
///
/// # Errors
/// [`AdminError::ParameterInvalid`] for another `after`, or the store's.
pub async fn list(
    store: &dyn Store,
    after: Option<&str>,
    limit: usize,
) -> Result<Page<MerchantView>, AdminError> {
    let after = after.map(position).transpose()?;
    let found = store.merchants_page(after, limit.saturating_add(1)).await?;
    let views = found.merchants.iter().map(MerchantView::from).collect();
    let id = |view: &MerchantView| format!("{}/{}", view.app_id, view.auth_app_id);
    let page = Page::cut(views, limit, id);
    // What stands behind the last of this page is met again by the next.
    let last = page.items.last().filter(|_| page.next.is_some());
    let is_here = |merchant: &&DamagedMerchant| match (last, merchant) {
        (
            Some(last),
            DamagedMerchant::Record {
                app_id,
                auth_app_id,
            },
        ) => (app_id, auth_app_id) < (&last.app_id, &last.auth_app_id),
        _ => true,
    };
    let damaged = found.damaged.iter().filter(is_here);
    Ok(Page {
        damaged: damaged.map(ToString::to_string).collect(),
        ..page
    })
}

pub(crate) fn position(text: &str) -> Result<(AppId, AuthAppId), AdminError> {
    let parsed = text
        .split_once('/')
        .and_then(|(app, merchant)| Some((app.parse().ok()?, merchant.parse().ok()?)));
    let wrong = || AdminError::ParameterInvalid("`after` isn't app_id/auth_app_id".to_owned());
    parsed.ok_or_else(wrong)
}

/// One merchant.
///
/// # Errors
/// [`AdminError::MerchantUnknown`], or the store's.
pub async fn show(
    store: &dyn Store,
    app_id: &AppId,
    auth_app_id: &AuthAppId,
) -> Result<MerchantView, AdminError> {
    let merchant = exact(store, app_id, auth_app_id).await?;
    merchant
        .as_ref()
        .map(MerchantView::from)
        .ok_or_else(|| unknown(app_id, auth_app_id))
}

pub(crate) async fn exact(
    store: &dyn Store,
    app_id: &AppId,
    auth_app_id: &AuthAppId,
) -> Result<Option<Merchant>, AdminError> {
    let key = MerchantKey::Exact(app_id.clone(), auth_app_id.clone());
    Ok(store.find(key).await?.pop())
}

pub(crate) fn unknown(app_id: &AppId, auth_app_id: &AuthAppId) -> AdminError {
    AdminError::MerchantUnknown {
        name: format!("{app_id}/{auth_app_id}"),
    }
}

/// Every merchant that `selector` names, of one app of ours or of all.
///
/// # Errors
/// The store's; where it finds none that can be read, [`StoreError::Damaged`] for one that can't.
pub async fn find(
    store: &dyn Store,
    app_id: Option<&AppId>,
    selector: &Selector,
) -> Result<Page<MerchantView>, AdminError> {
    let keys = match selector {
        Selector::Alias(alias) => vec![MerchantKey::Alias(alias.clone())],
        Selector::AuthAppId(id) => vec![MerchantKey::AuthAppId(id.clone())],
        Selector::Number(id) => {
            let pid = id.as_str().parse().ok().map(MerchantKey::Pid);
            let by_id = MerchantKey::AuthAppId(id.clone());
            std::iter::once(by_id).chain(pid).collect()
        }
        Selector::Own => Vec::new(),
        Selector::Pid(pid) => vec![MerchantKey::Pid(pid.clone())],
    };
    let (mut found, mut damaged): (Vec<MerchantView>, Vec<DamagedMerchant>) = Default::default();
    for key in keys {
        let named = store.find_all(key).await?;
        for merchant in named.merchants {
            let is_new = found.iter().all(|view| {
                (view.app_id.as_str(), view.auth_app_id.as_str())
                    != (merchant.app_id.as_str(), merchant.auth_app_id.as_str())
            });
            if is_new && app_id.is_none_or(|app_id| *app_id == merchant.app_id) {
                found.push(MerchantView::from(&merchant));
            }
        }
        for merchant in named.damaged {
            let is_meant = app_id.is_none_or(|app_id| merchant.may_be_of(app_id.as_str()));
            if is_meant && !damaged.contains(&merchant) {
                damaged.push(merchant);
            }
        }
    }
    match damaged.first() {
        Some(merchant) if found.is_empty() => Err(StoreError::from(merchant.clone()).into()),
        _ => Ok(Page {
            damaged: damaged.iter().map(ToString::to_string).collect(),
            ..Page::whole(found)
        }),
    }
}

/// Puts what `body` says of a merchant; without an `app_auth_token`, it names a known merchant.
///
/// # Errors
/// [`AdminError::BodyInvalid`], [`AdminError::MerchantUnknown`], [`AdminError::MerchantOutdated`], or
/// the store's: the token or the alias is another merchant's.
pub async fn put(
    store: &dyn Store,
    now: i64,
    (app_id, auth_app_id): (&AppId, &AuthAppId),
    body: &[u8],
) -> Result<MerchantView, AdminError> {
    let record = MerchantRecord::parse(body, Some((app_id, auth_app_id)))?;
    let changes = record.changes(now).unwrap_or_else(|| {
        vec![Change::NameMerchant {
            app_id: app_id.clone(),
            auth_app_id: auth_app_id.clone(),
            alias: record.alias.clone(),
        }]
    });
    let effects = store.commit(changes).await?;
    if let Some(Effect::Missing) = effects.first() {
        return Err(unknown(app_id, auth_app_id));
    }
    let view = show(store, app_id, auth_app_id).await?;
    // Whoever puts a token must not believe that it is in where a newer one stands.
    let is_another = record
        .token()
        .is_some_and(|put| fingerprint(put) != view.token_fingerprint);
    match is_another && effects.iter().any(|effect| matches!(effect, Effect::Stale)) {
        true => Err(AdminError::MerchantOutdated {
            name: format!("{app_id}/{auth_app_id}"),
        }),
        false => Ok(view),
    }
}

/// Forgets a merchant and every token of it.
///
/// # Errors
/// [`AdminError::MerchantUnknown`], or the store's.
pub async fn remove(
    store: &dyn Store,
    app_id: &AppId,
    auth_app_id: &AuthAppId,
) -> Result<(), AdminError> {
    let change = Change::RemoveMerchant(app_id.clone(), auth_app_id.clone());
    match store.commit(vec![change]).await?.first() {
        Some(Effect::Missing) => Err(unknown(app_id, auth_app_id)),
        _ => Ok(()),
    }
}

/// The first 12 hexadecimal digits of the SHA-256 of a token: enough to compare, nothing to use.
fn fingerprint(token: &Secret<String>) -> String {
    let hash = Sha256::digest(token.expose().as_bytes());
    hash.iter()
        .take(6)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
