//! Compares the indexes of what is kept for a while with the records: refused notifications, second
//! bodies, calls, users' tokens.

use redb::ReadableTable;

use super::fault::Fault;
use super::inspect_indexes::{Comparison, readable, stray};
use super::quarantine_records::{open_refused, open_variant};
use super::{calls, quarantine, tables, users};
use crate::model::id::EventId;

impl Comparison<'_> {
    /// Compares all of them.
    pub(super) fn kept(&mut self) -> Result<(), Fault> {
        self.refused()?;
        self.refused_rows()?;
        self.variants()?;
        self.calls()?;
        self.calls_named()?;
        self.users()?;
        self.users_end()
    }

    /// Every refused notification has the row by which room is shared out.
    fn refused(&mut self) -> Result<(), Fault> {
        let refused = self.tx.open_table(tables::REFUSED)?;
        let index = self.tx.open_table(tables::REFUSED_INDEX)?;
        for row in refused.iter()? {
            (self.go_on)()?;
            let (key, sealed) = row?;
            let id = EventId::from_bytes(*key.value());
            let record = open_refused(self.sealer, id, sealed.value()).map_err(Fault::from);
            let indexed = index.get(key.value())?;
            let agrees = match (readable(record)?, indexed) {
                (Some(record), Some(row)) => {
                    quarantine::is_indexed(self.sealer, &record, row.value())
                }
                (None, Some(_)) => true,
                (_, None) => false,
            };
            if !agrees {
                self.wrong(format!(
                    "index `refused_index` contradicts refused notification {id}"
                ));
            }
        }
        Ok(())
    }

    /// Every such row is that of a refused notification.
    fn refused_rows(&mut self) -> Result<(), Fault> {
        let refused = self.tx.open_table(tables::REFUSED)?;
        let index = self.tx.open_table(tables::REFUSED_INDEX)?;
        for row in index.iter()? {
            (self.go_on)()?;
            let key = row?.0;
            if refused.get(key.value())?.is_none() {
                self.wrong(stray("refused_index", key.value()));
            }
        }
        Ok(())
    }

    /// Every second body stands beside its entry, under its own content.
    fn variants(&mut self) -> Result<(), Fault> {
        let deliveries = self.tx.open_table(tables::DELIVERIES)?;
        let variants = self.tx.open_table(tables::VARIANTS)?;
        for row in variants.iter()? {
            (self.go_on)()?;
            let (key, sealed) = row?;
            let (of, content) = key.value();
            let variant = open_variant(self.sealer, (of, content), sealed.value());
            let variant = readable(variant.map_err(Fault::from))?;
            let own = variant.map(|variant| self.sealer.content_digest(&variant.content));
            if own.is_some_and(|own| own != *content) || deliveries.get(of)?.is_none() {
                self.wrong(stray("variants", &[*of, *content].concat()));
            }
        }
        Ok(())
    }

    /// Every call has its time, every time its call, and their sizes add up.
    fn calls(&mut self) -> Result<(), Fault> {
        let calls = self.tx.open_table(tables::CALLS)?;
        let times = self.tx.open_table(tables::CALLS_AT)?;
        for row in calls.iter()? {
            (self.go_on)()?;
            let (id, sealed) = row?;
            let record = readable(calls::open(self.sealer, id.value(), sealed.value()))?;
            let Some(record) = record else {
                continue;
            };
            let row = times.get((record.completed_at, id.value()))?;
            let name = row.map(|row| *row.value().0);
            if name != Some(calls::name_of(self.sealer, &record)) {
                self.wrong(stray("calls", id.value()));
            }
        }
        let mut total = 0_u64;
        for row in times.iter()? {
            (self.go_on)()?;
            let (key, value) = row?;
            let ((_, id), (_, size)) = (key.value(), value.value());
            total = total.saturating_add(size);
            if calls
                .get(id)?
                .is_none_or(|row| row.value().len() as u64 != size)
            {
                self.wrong(stray("calls_at", id));
            }
        }
        let kept = calls::size(&self.tx.open_table(tables::META)?)?;
        if kept != total {
            self.wrong(format!(
                "the calls take {total} bytes, table `meta` says {kept}"
            ));
        }
        Ok(())
    }

    /// Every name of a call leads to a call of that name. A name given again leads to the newer.
    fn calls_named(&mut self) -> Result<(), Fault> {
        let calls = self.tx.open_table(tables::CALLS)?;
        let named = self.tx.open_table(tables::CALLS_NAMED)?;
        for row in named.iter()? {
            (self.go_on)()?;
            let (name, id) = row?;
            let leads = match calls.get(id.value())? {
                None => false,
                Some(row) => readable(calls::open(self.sealer, id.value(), row.value()))?
                    .is_none_or(|record| calls::name_of(self.sealer, &record) == *name.value()),
            };
            if !leads {
                self.wrong(stray("calls_named", name.value()));
            }
        }
        Ok(())
    }

    /// Every user's record stands under one of the user's names, and will be forgotten.
    fn users(&mut self) -> Result<(), Fault> {
        let users = self.tx.open_table(tables::USERS)?;
        let ends = self.tx.open_table(tables::USERS_END)?;
        for row in users.iter()? {
            (self.go_on)()?;
            let (digest, row) = row?;
            let (at, sealed) = row.value();
            let token = users::open(self.sealer, digest.value(), sealed);
            let token = readable(token.map_err(Fault::from))?;
            let is_named =
                token.is_none_or(|token| users::is_named(self.sealer, &token, digest.value()));
            if !is_named || ends.get((at, digest.value()))?.is_none() {
                self.wrong(stray("users", digest.value()));
            }
        }
        Ok(())
    }

    /// Everything that will be forgotten of users is there.
    fn users_end(&mut self) -> Result<(), Fault> {
        let users = self.tx.open_table(tables::USERS)?;
        let ends = self.tx.open_table(tables::USERS_END)?;
        for row in ends.iter()? {
            (self.go_on)()?;
            let key = row?.0;
            let (at, digest) = key.value();
            if users.get(digest)?.is_none_or(|row| row.value().0 != at) {
                self.wrong(stray("users_end", digest));
            }
        }
        Ok(())
    }
}
