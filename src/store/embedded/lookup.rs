//! Looks single records up, in a read or a write transaction alike.

use redb::{ReadableTable, TableHandle};
use serde::de::DeserializeOwned;

use super::inbox_records::{DeliveryRecord, apart, open_entry};
use super::quarantine_records::open_refused;
use super::records::{self, AppRecord, MerchantRecord};
use super::tables;
use crate::model::app::App;
use crate::model::certificate::KeptCertificate;
use crate::model::id::{AppId, AuthAppId, EventId};
use crate::model::merchant::Merchant;
use crate::model::notification::InboxEntry;
use crate::model::refused::RefusedNotification;
use crate::store::embedded::fault::Fault;
use crate::store::seal::{Place, Sealer};

/// No delivery is ever put off for longer than an hour, milliseconds. One that is due later than
/// this was scheduled by a clock that has since gone back, and is due at once.
pub(super) const FARTHEST_MS: i64 = 2 * 3_600_000;

/// A table whose key is bytes.
type Bytes = &'static [u8];
/// A table whose key is an id.
type Id = &'static [u8; 16];

/// Which merchant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct MerchantId {
    /// Our application.
    pub(super) app_id: AppId,
    /// The merchant's application.
    pub(super) auth_app_id: AuthAppId,
}

impl MerchantId {
    /// The id of both.
    pub(super) fn new(app_id: &AppId, auth_app_id: &AuthAppId) -> Self {
        Self {
            app_id: app_id.clone(),
            auth_app_id: auth_app_id.clone(),
        }
    }

    /// The key in the merchants' table.
    pub(super) fn key(&self) -> Vec<u8> {
        tables::key(&[self.app_id.as_str(), self.auth_app_id.as_str()])
    }

    /// The id whose key this is.
    pub(super) fn from_key(key: &[u8]) -> Option<Self> {
        let (app_id, auth_app_id) = std::str::from_utf8(key).ok()?.split_once('\0')?;
        Self::from_texts(app_id, auth_app_id)
    }

    /// The id of two texts.
    pub(super) fn from_texts(app_id: &str, auth_app_id: &str) -> Option<Self> {
        Some(Self {
            app_id: AppId::new(app_id).ok()?,
            auth_app_id: AuthAppId::new(auth_app_id).ok()?,
        })
    }
}

impl std::fmt::Display for MerchantId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.app_id, self.auth_app_id)
    }
}

/// Names an entry's order. An `out_trade_no` is unique within one merchant only: another merchant's
/// order of the same number must not have to wait.
pub(super) fn order_of(sealer: &Sealer, entry: &InboxEntry) -> Option<[u8; 16]> {
    let merchant = entry.auth_app_id.as_ref().map_or("", |id| id.as_str());
    let scope = [entry.app_id.as_str(), merchant];
    let key = entry.order_key.as_deref()?;
    Some(sealer.order_digest(scope, key))
}

/// The first of one line of an order, and when it is due.
pub(super) fn first_in_line(
    ordered: &impl ReadableTable<(Id, Id), i64>,
    line: &[u8; 16],
) -> Result<Option<([u8; 16], i64)>, Fault> {
    let whole = (line, &[0; 16])..=(line, &[0xff; 16]);
    let Some(row) = ordered.range::<(&[u8; 16], &[u8; 16])>(whole)?.next() else {
        return Ok(None);
    };
    let (key, at) = row?;
    Ok(Some((*key.value().1, at.value())))
}

/// Whether an earlier one of its order is pending, in either line. (A program from before there were
/// two may have left rows of the second behind.)
pub(super) fn stands_behind(
    ordered: &impl ReadableTable<(Id, Id), i64>,
    pending: &impl ReadableTable<Id, i64>,
    order: Option<[u8; 16]>,
    key: &[u8; 16],
) -> Result<bool, Fault> {
    let Some(order) = order else {
        return Ok(false);
    };
    for line in [order, apart(order)] {
        let before = (&line, &[0; 16])..(&line, key);
        for row in ordered.range::<(&[u8; 16], &[u8; 16])>(before)? {
            if pending.get(row?.0.value().1)?.is_some() {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// The app under `key`.
pub(super) fn open_app(sealer: &Sealer, key: &[u8], sealed: &[u8]) -> Result<App, Fault> {
    let place = Place {
        table: tables::APPS.name(),
        key,
    };
    let record = records::open::<AppRecord>(sealer, place, sealed)?;
    Ok(App::try_from(record).map_err(|_| place.damaged())?)
}

/// Where the platform certificate under `key` stands.
pub(super) fn certificate_place(key: &[u8]) -> Place<'_> {
    Place {
        table: tables::CERTIFICATES.name(),
        key,
    }
}

/// The platform certificate under `key`.
pub(super) fn open_certificate(
    sealer: &Sealer,
    key: &[u8],
    sealed: &[u8],
) -> Result<KeptCertificate, Fault> {
    let place = certificate_place(key);
    let pem = sealer.open(place, sealed)?;
    let names = std::str::from_utf8(key)
        .ok()
        .and_then(|k| k.split_once('\0'));
    let (app_id, sn) = names.ok_or_else(|| place.damaged())?;
    Ok(KeptCertificate {
        app_id: AppId::new(app_id).map_err(|_| place.damaged())?,
        sn: sn.to_owned(),
        pem: String::from_utf8_lossy(&pem).into_owned(),
    })
}

/// The merchant of `id`, if there is one.
pub(super) fn merchant<T: ReadableTable<Bytes, Bytes>>(
    table: &T,
    sealer: &Sealer,
    id: &MerchantId,
) -> Result<Option<Merchant>, Fault> {
    let key = id.key();
    match table.get(key.as_slice())? {
        Some(row) => open_merchant(sealer, &key, row.value()).map(Some),
        None => Ok(None),
    }
}

/// The merchant under `key`.
pub(super) fn open_merchant(sealer: &Sealer, key: &[u8], sealed: &[u8]) -> Result<Merchant, Fault> {
    let place = Place {
        table: tables::MERCHANTS.name(),
        key,
    };
    let record = records::open::<MerchantRecord>(sealer, place, sealed)?;
    Ok(Merchant::try_from(record).map_err(|_| place.damaged())?)
}

/// What the merchant says that a row of an index leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    Agrees,
    Contradicts,
    /// Nobody knows.
    Damaged,
    Missing,
}

impl Owner {
    /// Whether the row leads to nobody who says so.
    pub(super) fn is_stray(self) -> bool {
        matches!(self, Self::Contradicts | Self::Missing)
    }
}

/// What the merchant says that a row by PID leads to.
pub(super) fn pid_row<T: ReadableTable<Bytes, Bytes>>(
    merchants: &T,
    sealer: &Sealer,
    row: &[u8],
) -> Result<Owner, Fault> {
    let mut parts = row.splitn(2, |byte| *byte == 0);
    let (pid, key) = (parts.next(), parts.next());
    let agrees = |merchant: &Merchant| {
        let own = merchant.pid.as_ref().map(|own| own.as_str().as_bytes());
        own.is_some() && own == pid
    };
    owner(merchants, sealer, (key.unwrap_or_default(), agrees))
}

/// The same of a row by alias.
pub(super) fn alias_row<T: ReadableTable<Bytes, Bytes>>(
    merchants: &T,
    sealer: &Sealer,
    (row, auth_app_id): (&[u8], &[u8]),
) -> Result<Owner, Fault> {
    let mut parts = row.splitn(2, |byte| *byte == 0);
    let (alias, app_id) = (parts.next(), parts.next());
    let key = [app_id.unwrap_or_default(), auth_app_id].join(&0);
    let agrees = |merchant: &Merchant| {
        let own = merchant.alias.as_ref().map(|own| own.as_str().as_bytes());
        own.is_some() && own == alias
    };
    owner(merchants, sealer, (&key, agrees))
}

/// Asks the merchant under `key` whether it agrees.
fn owner<T: ReadableTable<Bytes, Bytes>>(
    table: &T,
    sealer: &Sealer,
    (key, agrees): (&[u8], impl FnOnce(&Merchant) -> bool),
) -> Result<Owner, Fault> {
    let Some(row) = table.get(key)? else {
        return Ok(Owner::Missing);
    };
    match open_merchant(sealer, key, row.value()) {
        Ok(merchant) if agrees(&merchant) => Ok(Owner::Agrees),
        Ok(_) => Ok(Owner::Contradicts),
        Err(Fault::Refused(_)) => Ok(Owner::Damaged),
        Err(broken) => Err(broken),
    }
}

/// The merchant that holds or held the token of `digest`.
pub(super) fn token_owner<T: ReadableTable<&'static [u8; 32], Bytes>>(
    table: &T,
    sealer: &Sealer,
    digest: &[u8; 32],
) -> Result<Option<MerchantId>, Fault> {
    let Some(row) = table.get(digest)? else {
        return Ok(None);
    };
    let place = token_place(digest);
    let key = sealer.open(place, row.value())?;
    let owner = MerchantId::from_key(&key).ok_or_else(|| place.damaged())?;
    Ok(Some(owner))
}

/// Where the owner of a token is sealed.
pub(super) fn token_place(digest: &[u8; 32]) -> Place<'_> {
    Place {
        table: tables::BY_TOKEN.name(),
        key: digest,
    }
}

/// The entry of `id`, if there is one.
pub(super) fn entry<T: ReadableTable<Id, Bytes>>(
    table: &T,
    sealer: &Sealer,
    id: EventId,
) -> Result<Option<InboxEntry>, Fault> {
    let key = id.to_bytes();
    let Some(row) = table.get(&key)? else {
        return Ok(None);
    };
    let place = entry_place(&key);
    Ok(Some(open_entry(sealer, place, id, row.value())?))
}

/// Where an entry is sealed.
pub(super) fn entry_place(key: &[u8; 16]) -> Place<'_> {
    Place {
        table: tables::NOTIFICATIONS.name(),
        key,
    }
}

/// The delivery of `id`, if there is one.
pub(super) fn delivery<T: ReadableTable<Id, Bytes>>(
    table: &T,
    sealer: &Sealer,
    id: EventId,
) -> Result<Option<DeliveryRecord>, Fault> {
    let key = id.to_bytes();
    match table.get(&key)? {
        Some(row) => open_at(sealer, delivery_place(&key), row.value()).map(Some),
        None => Ok(None),
    }
}

/// Where a delivery is sealed.
pub(super) fn delivery_place(key: &[u8; 16]) -> Place<'_> {
    Place {
        table: tables::DELIVERIES.name(),
        key,
    }
}

/// Where a memo is sealed: its expiry is part of the place, so it can't be put off.
pub(super) fn memo_key(key: &[u8; 32], expires_at: i64) -> Vec<u8> {
    let mut place = key.to_vec();
    place.extend(expires_at.to_be_bytes());
    place
}

/// The place of a [`memo_key`].
pub(super) fn memo_place(key: &[u8]) -> Place<'_> {
    Place {
        table: tables::MEMOS.name(),
        key,
    }
}

/// The refused notification of `id`, if there is one.
pub(super) fn refused<T: ReadableTable<Id, Bytes>>(
    table: &T,
    sealer: &Sealer,
    id: EventId,
) -> Result<Option<RefusedNotification>, Fault> {
    match table.get(&id.to_bytes())? {
        Some(row) => Ok(Some(open_refused(sealer, id, row.value())?)),
        None => Ok(None),
    }
}

/// Where a refused notification is sealed.
pub(super) fn refused_place(key: &[u8; 16]) -> Place<'_> {
    Place {
        table: tables::REFUSED.name(),
        key,
    }
}

/// Where a second body is sealed: beside its entry, by its content.
pub(super) fn variant_key(of: &[u8; 16], content: &[u8; 16]) -> Vec<u8> {
    [of.as_slice(), content.as_slice()].concat()
}

/// The place of a [`variant_key`].
pub(super) fn variant_place(key: &[u8]) -> Place<'_> {
    Place {
        table: tables::VARIANTS.name(),
        key,
    }
}

fn open_at<T: DeserializeOwned>(
    sealer: &Sealer,
    place: Place<'_>,
    sealed: &[u8],
) -> Result<T, Fault> {
    Ok(records::open(sealer, place, sealed)?)
}
