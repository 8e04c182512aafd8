//! `merchant import`: JSON lines with Alipay's own names, all or nothing.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::admin::error::AdminError;
use crate::admin::json::{Members, invalid, missing};
use crate::model::authorization::{Authorization, Rank, Source};
use crate::model::event::MERCHANT_AUTHORIZED;
use crate::model::id::{Alias, AppId, AuthAppId, EventId, Pid};
use crate::model::notification::{DeliveryForm, InboxEntry};
use crate::model::token::AppAuthToken;
use crate::protocol::secret::Secret;
use crate::store::error::StoreError;
use crate::store::{Change, Effect, MerchantKey, Store};

/// Whether an import stores anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImportMode {
    /// Everything is checked, nothing stored.
    DryRun,
    /// Everything is stored, or nothing.
    Store,
}

/// What an import did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportReport {
    /// How many merchants were stored, or would be.
    pub imported: usize,
    /// How many were left alone because a newer authorisation is stored.
    pub stale: usize,
    /// Whether nothing was stored.
    pub dry_run: bool,
}

/// What an operator says of a merchant.
pub(crate) struct MerchantRecord {
    app_id: AppId,
    auth_app_id: AuthAppId,
    pid: Option<Pid>,
    pub(crate) alias: Option<Alias>,
    reference: Option<String>,
    app_auth_token: Option<Secret<String>>,
    app_refresh_token: Option<Secret<String>>,
    auth_time: Option<i64>,
    encrypt_key: Option<Secret<String>>,
}

impl MerchantRecord {
    /// Reads a JSON object; `path` says which merchant the address named, if it did.
    pub(crate) fn parse(
        body: &[u8],
        path: Option<(&AppId, &AuthAppId)>,
    ) -> Result<Self, AdminError> {
        let mut members = Members::parse(body)?;
        let (path_app, path_merchant) = path.unzip();
        let has_alias = members.has("alias");
        let record = Self {
            app_id: same(&mut members, "app_id", path_app)?,
            auth_app_id: same(&mut members, "auth_app_id", path_merchant)?,
            pid: members.parsed("user_id")?,
            alias: members.parsed("alias")?,
            reference: members.text("ref")?,
            app_auth_token: members.secret("app_auth_token")?,
            app_refresh_token: members.secret("app_refresh_token")?,
            auth_time: members.integer("auth_time")?,
            encrypt_key: members.content_key("encrypt_key")?,
        };
        members.finish()?;
        let needs_token = path.is_none() || !has_alias || !record.is_name_alone();
        if record.app_auth_token.is_none() && needs_token {
            return Err(missing("app_auth_token"));
        }
        if record
            .reference
            .as_ref()
            .is_some_and(|text| text.chars().count() > LONGEST_REF)
        {
            return Err(invalid("`ref` has more than 64 characters"));
        }
        Ok(record)
    }

    fn is_name_alone(&self) -> bool {
        self.pid.is_none()
            && self.reference.is_none()
            && self.app_refresh_token.is_none()
            && self.auth_time.is_none()
            && self.encrypt_key.is_none()
    }

    /// The authorisation it tells of, ranked `otherwise` where it has no `auth_time`; `None`: it
    /// has no token.
    pub(crate) fn authorization(&self, otherwise: Rank) -> Option<Authorization> {
        let app_auth_token = self.app_auth_token.clone()?;
        Some(Authorization {
            app_id: self.app_id.clone(),
            auth_app_id: self.auth_app_id.clone(),
            pid: self.pid.clone(),
            alias: self.alias.clone(),
            reference: self.reference.clone(),
            token: AppAuthToken {
                app_auth_token,
                app_refresh_token: self.app_refresh_token.clone(),
                stated_expiry: None,
            },
            rank: self.auth_time.map_or(otherwise, Rank::AuthTime),
            source: Source::Import,
            bound: true,
            is_plugin: false,
            agent_app_id: None,
            trigger: None,
            error: None,
            encrypt_key: self.encrypt_key.clone(),
        })
    }
}

/// An id that stands in the body, in the address, or, equal, in both.
fn same<T>(members: &mut Members, name: &str, path: Option<&T>) -> Result<T, AdminError>
where
    T: std::str::FromStr + Clone + PartialEq,
    T::Err: std::fmt::Display,
{
    match (members.parsed::<T>(name)?, path) {
        (Some(id), None) => Ok(id),
        (None, Some(path)) => Ok(path.clone()),
        (Some(id), Some(path)) if id == *path => Ok(id),
        (Some(_), Some(_)) => Err(invalid(&format!("`{name}` is another than the address's"))),
        (None, None) => Err(missing(name)),
    }
}

/// The change that stores `authorization` and tells the backend.
pub(crate) fn authorize(authorization: Authorization, now: i64) -> Change {
    let entry = InboxEntry {
        id: EventId::new(now),
        app_id: authorization.app_id.clone(),
        notify_id: None,
        event_type: MERCHANT_AUTHORIZED.to_owned(),
        auth_app_id: Some(authorization.auth_app_id.clone()),
        pid: authorization.pid.clone(),
        received_at: now,
        notify_path: String::new(),
        order_key: None,
        opened_content: None,
        scheme: None,
        body: None,
        event: None,
        form: DeliveryForm::Event,
    };
    Change::Authorize {
        authorization: Box::new(authorization),
        entry: Some(Box::new(entry)),
    }
}

/// Imports the merchants of `lines`, one JSON object a line, in one commit; empty lines are
/// skipped.
///
/// # Errors
/// [`AdminError::Line`] for the first wrong line, or the store's; then nothing was stored.
pub async fn import(
    store: &dyn Store,
    now: i64,
    lines: &[u8],
    mode: ImportMode,
) -> Result<ImportReport, AdminError> {
    let records = parse_lines(lines)?;
    for (line, record) in &records {
        let checked = owned_by_another(store, record).await;
        checked.map_err(|source| at_line(*line, source))?;
    }
    if mode == ImportMode::DryRun {
        return Ok(ImportReport {
            imported: records.len(),
            stale: 0,
            dry_run: true,
        });
    }
    let authorizations = records
        .iter()
        .filter_map(|(_, record)| record.authorization(Rank::AfterStored));
    let changes = authorizations
        .map(|authorization| authorize(authorization, now))
        .collect();
    let effects = store.commit(changes).await?;
    let applied = effects
        .iter()
        .filter(|effect| matches!(effect, Effect::Applied))
        .count();
    Ok(ImportReport {
        imported: applied,
        stale: effects.len().saturating_sub(applied),
        dry_run: false,
    })
}

fn parse_lines(lines: &[u8]) -> Result<Vec<(usize, MerchantRecord)>, AdminError> {
    let mut seen = HashMap::new();
    let mut records = Vec::new();
    for (index, text) in lines.split(|byte| *byte == b'\n').enumerate() {
        if text.trim_ascii().is_empty() {
            continue;
        }
        let line = index + 1;
        let record = MerchantRecord::parse(text, None).map_err(|source| at_line(line, source))?;
        let triple = format!("{}/{}", record.app_id, record.auth_app_id);
        if let Some(first) = seen.insert(triple, line) {
            let twice = invalid(&format!("the merchant of line {first} stands here again"));
            return Err(at_line(line, twice));
        }
        records.push((line, record));
    }
    Ok(records)
}

/// Names the line whose token or alias is another merchant's; the commit alone couldn't tell it.
async fn owned_by_another(store: &dyn Store, record: &MerchantRecord) -> Result<(), AdminError> {
    if let Some(token) = &record.app_auth_token {
        let owners = store.find(MerchantKey::Token(token.clone())).await?;
        let other = owners.iter().find(|owner| {
            (&owner.app_id, &owner.auth_app_id) != (&record.app_id, &record.auth_app_id)
        });
        if let Some(owner) = other {
            let owner = format!("{}/{}", owner.app_id, owner.auth_app_id);
            return Err(StoreError::TokenConflict { owner }.into());
        }
    }
    if let Some(alias) = &record.alias {
        let owners = store.find(MerchantKey::Alias(alias.clone())).await?;
        let other = owners
            .iter()
            .find(|owner| owner.app_id == record.app_id && owner.auth_app_id != record.auth_app_id);
        if let Some(owner) = other {
            let (alias, owner) = (alias.to_string(), owner.auth_app_id.to_string());
            return Err(StoreError::AliasTaken { alias, owner }.into());
        }
    }
    Ok(())
}

fn at_line(line: usize, fault: AdminError) -> AdminError {
    let fault = Box::new(fault);
    AdminError::Line { line, fault }
}

/// Contract §4: the ISV's own tenant id, characters.
const LONGEST_REF: usize = 64;
