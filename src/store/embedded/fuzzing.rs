//! What the fuzz targets reach of the records: sealing, and each kind read and written again.

use super::inbox_records::{open_entry, seal_entry};
use super::lookup::{refused_place, variant_key, variant_place};
use super::quarantine_records::{open_refused, open_variant, seal_refused, seal_variant};
use super::records::{AppRecord, MerchantRecord};
use crate::model::app::App;
use crate::model::id::EventId;
use crate::model::merchant::Merchant;
use crate::store::seal::{Place, Sealer, StoreKey};

/// A kind of record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An app.
    App,
    /// A notification in the inbox.
    Entry,
    /// A merchant.
    Merchant,
    /// A refused notification.
    Refused,
    /// A second body of a notification.
    Variant,
}

/// Every kind.
pub const KINDS: [Kind; 5] = [
    Kind::App,
    Kind::Entry,
    Kind::Merchant,
    Kind::Refused,
    Kind::Variant,
];

/// The id under which entries are read and written here.
const ID: [u8; 16] = [7; 16];

/// The records of a store, without its file.
pub struct Records(Sealer);

impl std::fmt::Debug for Records {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Records").finish_non_exhaustive()
    }
}

impl Records {
    /// Those that are sealed under `key`.
    #[must_use]
    pub fn new(key: &StoreKey) -> Self {
        Self(Sealer::new(key))
    }

    /// Seals `plain` for its table and key.
    #[must_use]
    pub fn seal(&self, (table, key): (&str, &[u8]), plain: &[u8]) -> Vec<u8> {
        let sealed = self.0.seal(Place { table, key }, plain);
        sealed.expect("a record of a few bytes can be sealed")
    }

    /// Opens what was sealed for the same table and key.
    #[must_use]
    pub fn open(&self, (table, key): (&str, &[u8]), sealed: &[u8]) -> Option<Vec<u8>> {
        let plain = self.0.open(Place { table, key }, sealed).ok()?;
        Some(plain.to_vec())
    }

    /// Reads the plain bytes of a record into the model and writes that down; `None` for bytes
    /// that are no such record.
    #[must_use]
    pub fn written_anew(&self, kind: Kind, plain: &[u8]) -> Option<Vec<u8>> {
        let (id, of) = (EventId::from_bytes(ID), (&ID, &ID));
        match kind {
            Kind::App => {
                let app = App::try_from(serde_json::from_slice::<AppRecord>(plain).ok()?).ok()?;
                serde_json::to_vec(&AppRecord::from(&app)).ok()
            }
            Kind::Merchant => {
                let record = serde_json::from_slice::<MerchantRecord>(plain).ok()?;
                let merchant = Merchant::try_from(record).ok()?;
                serde_json::to_vec(&MerchantRecord::from(&merchant)).ok()
            }
            Kind::Entry => {
                let place = Place {
                    table: "notifications",
                    key: &ID,
                };
                let entry =
                    open_entry(&self.0, place, id, &self.0.seal(place, plain).ok()?).ok()?;
                self.opened(place, &seal_entry(&self.0, place, &entry).ok()?)
            }
            Kind::Refused => {
                let place = refused_place(&ID);
                let refused = open_refused(&self.0, id, &self.0.seal(place, plain).ok()?).ok()?;
                self.opened(place, &seal_refused(&self.0, &refused).ok()?)
            }
            Kind::Variant => {
                let key = variant_key(&ID, &ID);
                let place = variant_place(&key);
                let variant = open_variant(&self.0, of, &self.0.seal(place, plain).ok()?).ok()?;
                self.opened(place, &seal_variant(&self.0, of, &variant).ok()?)
            }
        }
    }

    fn opened(&self, place: Place<'_>, sealed: &[u8]) -> Option<Vec<u8>> {
        self.0.open(place, sealed).ok().map(|plain| plain.to_vec())
    }
}
