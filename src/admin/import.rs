//! `merchant import`: JSON lines with Alipay's own names, all or nothing.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::admin::error::{AdminError, BadLines};
use crate::admin::json::invalid;
use crate::admin::merchant_record::MerchantRecord;
use crate::model::id::Alias;
use crate::model::merchant::{Authorized, Before, Merchant};
use crate::store::error::StoreError;
use crate::store::{Change, Effect, Fate, MemoKey, MerchantKey, Store};

/// Whether an import stores anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImportMode {
    /// Everything is checked, nothing stored.
    DryRun,
    /// Everything is stored, or nothing.
    Store,
}

/// What an import did.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct ImportReport {
    /// How many merchants were stored, or would be.
    pub imported: usize,
    /// How many were left alone because a newer authorisation is stored.
    pub stale: usize,
    /// Whether nothing was stored.
    pub dry_run: bool,
}

/// What only one merchant may have.
enum Only<'r> {
    Alias(&'r Alias),
    Token,
}

impl Only<'_> {
    /// Another has it: `owner`.
    fn taken(&self, owner: String) -> StoreError {
        match self {
            Self::Alias(alias) => StoreError::AliasTaken {
                alias: alias.to_string(),
                owner,
            },
            Self::Token => StoreError::TokenConflict { owner },
        }
    }
}

/// Imports the merchants of `lines`, one JSON object a line, in one commit; empty lines are
/// skipped.
///
/// # Errors
/// [`AdminError::Lines`] for the wrong lines, or the store's; then nothing was stored.
pub async fn import(
    store: &dyn Store,
    now: i64,
    lines: &[u8],
    mode: ImportMode,
) -> Result<ImportReport, AdminError> {
    let records = parse_lines(lines)?;
    let mut bad = None;
    for (line, record) in &records {
        match owned_by_another(store, record).await {
            Ok(()) => {}
            Err(taken) if taken.status() == CONFLICT => add_line(&mut bad, *line, taken),
            Err(broken) => return Err(broken),
        }
    }
    none_of(bad)?;
    if mode == ImportMode::DryRun {
        let mut imported = 0;
        for (_, record) in &records {
            imported += usize::from(would_apply(store, record, now).await?);
        }
        return Ok(ImportReport {
            imported,
            stale: records.len().saturating_sub(imported),
            dry_run: true,
        });
    }
    let changes = records.iter().filter_map(|(_, record)| record.changes(now));
    let changes: Vec<Vec<Change>> = changes.collect();
    let lengths: Vec<usize> = changes.iter().map(Vec::len).collect();
    let effects = store
        .commit(changes.into_iter().flatten().collect())
        .await?;
    let mut effects = effects.into_iter();
    let mut is_applied = |length: &&usize| {
        // Each takes its own effects, whatever the first ones say: the next record's follow.
        let own = effects.by_ref().take(**length);
        own.filter(|effect| matches!(effect, Effect::Applied))
            .count()
            > 0
    };
    let applied = lengths.iter().filter(&mut is_applied).count();
    Ok(ImportReport {
        imported: applied,
        stale: lengths.len().saturating_sub(applied),
        dry_run: false,
    })
}

/// Whether a record would change what is stored.
async fn would_apply(
    store: &dyn Store,
    record: &MerchantRecord,
    now: i64,
) -> Result<bool, AdminError> {
    let key = MerchantKey::Exact(record.app_id.clone(), record.auth_app_id.clone());
    let mut stored = match store.find(key).await {
        // It is moved aside for what comes.
        Err(StoreError::Damaged { .. }) => None,
        found => found?.pop(),
    };
    let cancelled = match stored {
        Some(_) => None,
        None => cancelled(store, record, now).await?,
    };
    let mut applied = false;
    // What the last authorisation came to: applied, or what the record has in force.
    let (mut is_new, mut is_in_force) = (false, false);
    for change in record.changes(now).unwrap_or_default() {
        match change {
            Change::Authorize { authorization, .. } => {
                let unknown = cancelled.map_or(Before::Nothing, Before::Cancelled);
                let before = stored.as_ref().map_or(unknown, Before::Record);
                let new = match Merchant::authorize(before, &authorization, now) {
                    Authorized::Applied(new) => Some(*new),
                    Authorized::Known | Authorized::Stale => None,
                };
                is_new = new.is_some();
                (stored, applied) = (new.or(stored), applied || is_new);
                is_in_force = is_new || stored.as_ref().is_some_and(|m| m.has(&authorization));
            }
            Change::OfAuthorization { fate, changes } => {
                let counts = match fate {
                    Fate::Applied => is_new,
                    Fate::InForce => is_in_force,
                };
                for told in changes.iter().filter(|_| counts) {
                    let after = stored.as_ref().and_then(|merchant| match told {
                        Change::Doubt { refusal, .. } => merchant.doubted(refusal, now),
                        Change::Revoke { revocation, .. } => merchant.revoke(revocation, now),
                        // A key comes with what was applied.
                        _ => None,
                    });
                    applied |= after.is_some();
                    stored = after.or(stored);
                }
            }
            Change::Revoke { revocation, .. } => {
                let revoked = stored.as_ref().and_then(|m| m.revoke(&revocation, now));
                applied |= revoked.is_some();
            }
            _ => {}
        }
    }
    Ok(applied)
}

/// When a merchant cancelled that has no record.
async fn cancelled(
    store: &dyn Store,
    record: &MerchantRecord,
    now: i64,
) -> Result<Option<i64>, AdminError> {
    let key = MemoKey::cancelled(&record.app_id, &record.auth_app_id);
    let kept = match store.recall(key, now).await {
        // It is forgotten for what comes.
        Err(StoreError::Damaged { .. }) => None,
        kept => kept?,
    };
    let at = kept.and_then(|at| <[u8; 8]>::try_from(at.expose().as_slice()).ok());
    Ok(at.map(i64::from_be_bytes))
}

fn parse_lines(lines: &[u8]) -> Result<Vec<(usize, MerchantRecord)>, AdminError> {
    let (mut seen, mut held) = (HashMap::new(), HashMap::new());
    let (mut records, mut bad) = (Vec::new(), None);
    for (index, text) in lines.split(|byte| *byte == b'\n').enumerate() {
        if text.trim_ascii().is_empty() {
            continue;
        }
        let line = index + 1;
        let record = match MerchantRecord::parse(text, None) {
            Ok(record) => record,
            Err(fault) => {
                add_line(&mut bad, line, fault);
                continue;
            }
        };
        let triple = format!("{}/{}", record.app_id, record.auth_app_id);
        // A line is named once, for the first that is wrong with it.
        let mut fault = seen
            .insert(triple, line)
            .map(|first| invalid(&format!("the merchant of line {first} stands here again")));
        for (only, key) in unique(&record) {
            let merchant = (record.app_id.clone(), record.auth_app_id.clone());
            match held.entry(key) {
                Entry::Vacant(free) => {
                    free.insert((merchant, line));
                }
                Entry::Occupied(taken) if taken.get().0 == merchant => {}
                Entry::Occupied(taken) => {
                    let ((app_id, auth_app_id), first) = taken.get();
                    let owner = format!("{app_id}/{auth_app_id} of line {first}");
                    fault.get_or_insert_with(|| only.taken(owner).into());
                }
            }
        }
        if let Some(fault) = fault {
            add_line(&mut bad, line, fault);
        }
        records.push((line, record));
    }
    none_of(bad).map(|()| records)
}

/// What no other merchant may have, with its digest.
fn unique(record: &MerchantRecord) -> Vec<(Only<'_>, MemoKey)> {
    let tokens = record.tokens();
    let tokens = tokens.map(|token| (Only::Token, MemoKey::new("token", &[token.expose()])));
    let alias = record.alias.iter().map(|alias| {
        let texts = [record.app_id.as_str(), alias.as_str()];
        (Only::Alias(alias), MemoKey::new("alias", &texts))
    });
    tokens.chain(alias).collect()
}

/// Names the line whose token or alias is another merchant's; the commit alone couldn't tell it.
async fn owned_by_another(store: &dyn Store, record: &MerchantRecord) -> Result<(), AdminError> {
    for token in record.tokens() {
        let owners = whole(store.find(MerchantKey::Token(token.clone())).await)?;
        let other = owners.iter().find(|owner| {
            (&owner.app_id, &owner.auth_app_id) != (&record.app_id, &record.auth_app_id)
        });
        if let Some(owner) = other {
            let owner = format!("{}/{}", owner.app_id, owner.auth_app_id);
            return Err(StoreError::TokenConflict { owner }.into());
        }
    }
    if let Some(alias) = &record.alias {
        let owners = whole(store.find(MerchantKey::Alias(alias.clone())).await)?;
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

/// The owners whose records open. An import may be what heals a damaged one; what contradicts it, the
/// commit refuses.
fn whole(found: Result<Vec<Merchant>, StoreError>) -> Result<Vec<Merchant>, StoreError> {
    match found {
        Err(StoreError::Damaged { .. }) => Ok(Vec::new()),
        found => found,
    }
}

fn add_line(bad: &mut Option<BadLines>, line: usize, fault: AdminError) {
    match bad {
        Some(bad) => bad.add(line, fault),
        None => *bad = Some(BadLines::new(line, fault)),
    }
}

fn none_of(bad: Option<BadLines>) -> Result<(), AdminError> {
    bad.map_or(Ok(()), |bad| Err(bad.into()))
}

/// The status of what another merchant has already.
const CONFLICT: u16 = 409;
