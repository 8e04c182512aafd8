//! A picture of all that a store shows, to compare two stores by.

use std::collections::HashSet;

use alipay_sidecar::model::call::CallKey;
use alipay_sidecar::model::delivery::DeliveryState;
use alipay_sidecar::store::embedded::EmbeddedStore;
use alipay_sidecar::store::error::StoreError;
use alipay_sidecar::store::{Directory, Inbox, MerchantKey, Store};

use super::kept::{SOME, call_id, call_name, users};
use super::workload::{FEW, MONTH_MS, memo, token};
use crate::store::{START, alias, pid, secret};

/// All that `store` shows, line by line: every record, and what each index finds.
pub(super) async fn picture(store: &EmbeddedStore, rounds: u32) -> Result<Vec<String>, StoreError> {
    let mut lines = vec![format!("{:?}", store.counts().await?)];
    inbox(store, &mut lines).await?;
    queues(store, &mut lines).await?;
    merchants(store, rounds, &mut lines).await?;
    quarantine(store, &mut lines).await?;
    calls(store, rounds, &mut lines).await?;
    apps_and_users(store, &mut lines).await?;
    Ok(lines)
}

async fn inbox(store: &EmbeddedStore, lines: &mut Vec<String>) -> Result<(), StoreError> {
    let entries = store.entries(None, None, usize::MAX).await?;
    for (entry, delivery) in &entries {
        let body = entry.body.as_ref().map(|body| body.bytes.len());
        lines.push(format!("{body:?} {entry:?} {delivery:?}"));
        for variant in store.variants(entry.id).await? {
            let body = &variant.body.bytes;
            lines.push(format!("beside {} {body:?} {variant:?}", entry.id));
        }
    }
    for state in [
        DeliveryState::Dead,
        DeliveryState::Delivered,
        DeliveryState::Ignored,
        DeliveryState::Pending,
    ] {
        let of_state = entries.iter().filter(|(_, d)| d.state == state);
        let expected: Vec<_> = of_state.map(|(entry, _)| entry.id).collect();
        let listed = store.entries(Some(state), None, usize::MAX).await?;
        let found: Vec<_> = listed.iter().map(|(entry, _)| entry.id).collect();
        lines.push(format!("{state:?} {found:?} of {}", expected.len()));
    }
    Ok(())
}

/// What is due, may be claimed, and was claimed in vain.
async fn queues(store: &EmbeddedStore, lines: &mut Vec<String>) -> Result<(), StoreError> {
    for now in [START, START + 100 * MONTH_MS] {
        let due = store.due(now, usize::MAX, HashSet::new()).await?;
        let ids: Vec<_> = due.now.iter().map(|(entry, _)| entry.id).collect();
        lines.push(format!("due {ids:?} then {:?}", due.next_at));
    }
    let claimable = store.claimable(START, usize::MAX, HashSet::new()).await?;
    let ids: Vec<_> = claimable.now.iter().map(|(entry, _)| entry.id).collect();
    lines.push(format!("claimable {ids:?} then {:?}", claimable.next_at));
    let lapsed = store.lapsed(START + 100 * MONTH_MS, usize::MAX).await?;
    let ids: Vec<_> = lapsed.iter().map(|delivery| delivery.id).collect();
    lines.push(format!("leased {ids:?}"));
    Ok(())
}

async fn merchants(
    store: &EmbeddedStore,
    rounds: u32,
    lines: &mut Vec<String>,
) -> Result<(), StoreError> {
    for merchant in store.merchants(None, usize::MAX).await? {
        let token = merchant.token.app_auth_token.expose().clone();
        let before = merchant.previous_token.as_ref();
        let before = before.map(|pair| pair.app_auth_token.expose());
        let key = merchant.encrypt_key.as_ref().map(|key| key.expose());
        lines.push(format!("{token} {before:?} {key:?} {merchant:?}"));
    }
    let mut keys = vec![MerchantKey::Pid(pid())];
    keys.extend((0..FEW).map(|n| MerchantKey::Alias(alias(&format!("shop{n}")))));
    keys.extend((0..rounds).map(|round| MerchantKey::Token(secret(&token(round)))));
    for key in keys {
        let found = store.find(key.clone()).await?;
        let found: Vec<_> = found.iter().map(|one| one.auth_app_id.as_str()).collect();
        lines.push(format!("{key:?} {found:?}"));
    }
    for round in 0..rounds {
        if let Some(value) = store.recall(memo(round), START).await? {
            lines.push(format!("memo {round} {:?}", value.expose()));
        }
    }
    Ok(())
}

async fn quarantine(store: &EmbeddedStore, lines: &mut Vec<String>) -> Result<(), StoreError> {
    for refused in store.refused(None, usize::MAX).await? {
        let (reason, body) = (&refused.reason, &refused.body);
        let (first, last) = (refused.received_at, refused.last_received_at);
        lines.push(format!("{refused:?} {reason} {body:?} {first} {last}"));
    }
    Ok(())
}

async fn calls(
    store: &EmbeddedStore,
    rounds: u32,
    lines: &mut Vec<String>,
) -> Result<(), StoreError> {
    let ids = (0..rounds).flat_map(|round| (0..3).map(move |n| call_id(round, n)));
    let named = (0..SOME).map(|n| CallKey::Named {
        caller: Some("shop".to_owned()),
        caller_request_id: call_name(n),
    });
    for key in ids.map(CallKey::Id).chain(named) {
        if let Some(record) = store.call(key.clone(), START).await? {
            let reply = record.reply.as_ref().map(|reply| &reply.body);
            lines.push(format!("{key:?} {reply:?} {record:?}"));
        }
    }
    Ok(())
}

async fn apps_and_users(store: &EmbeddedStore, lines: &mut Vec<String>) -> Result<(), StoreError> {
    for app in store.apps().await? {
        lines.push(format!(
            "{} {app:?}",
            app.private_key.text().expect("a text").expose()
        ));
    }
    for certificate in store.certificates().await? {
        lines.push(format!("{certificate:?}"));
    }
    for key in users() {
        if let Some(token) = store.user(key.clone()).await? {
            let text = token.access_token.expose();
            lines.push(format!("{key:?} {text} {token:?}"));
        }
    }
    Ok(())
}
