//! What became of calls: written many at once, found by either name, bounded in size.

use bytes::Bytes;
use redb::{ReadableTable, TableHandle};
use serde::{Deserialize, Serialize};

use super::apply::Applier;
use super::fault::Fault;
use super::read::Reader;
use super::tables::{self, CALLS_SIZE_KEY};
use crate::model::call::{CallId, CallKey, CallOutcome, CallRecord, KEPT_MS, KeptReply};
use crate::store::Effect;
use crate::store::seal::{Place, Sealer};

/// How many old rows one commit may displace: more than the largest record takes the place of, and
/// few enough that no other commit waits long. What is over a limit that was lowered goes with the
/// commits after it.
const DISPLACED: u64 = 4096;

/// All of a record but the reply, which follows as it is: JSON would blow it up.
#[derive(Serialize, Deserialize)]
struct Head {
    caller: Option<String>,
    caller_request_id: Option<String>,
    method: String,
    outcome: String,
    error: Option<String>,
    completed_at: i64,
    has_reply: bool,
    status: Option<u16>,
}

impl Applier<'_> {
    /// Keeps records; for what is then over `limit` bytes, the oldest go.
    pub(super) fn record_calls(
        &mut self,
        records: &[CallRecord],
        limit: u64,
    ) -> Result<Effect, Fault> {
        self.touch();
        let mut size = self.calls_size()?;
        for record in records {
            size = size.saturating_add(self.record_call(record)?);
        }
        let mut displaced = 0;
        while size > limit && displaced < DISPLACED {
            let Some(freed) = self.forget_oldest_call()? else {
                break;
            };
            size = size.saturating_sub(freed);
            displaced += 1;
        }
        self.set_calls_size(size)?;
        Ok(match displaced {
            0 => Effect::Applied,
            count => Effect::Displaced(count),
        })
    }

    /// Forgets records older than their time, at most `room`; tells how many.
    pub(super) fn prune_calls(&mut self, now: i64, room: &mut usize) -> Result<u64, Fault> {
        let before = (now.saturating_sub(KEPT_MS), &[0; 16]);
        let mut old = Vec::new();
        for row in self.tables.calls_at.range(..before)?.take(*room) {
            let (key, value) = row?;
            let ((at, id), (name, size)) = (key.value(), value.value());
            old.push((at, *id, *name, size));
        }
        if old.is_empty() {
            return Ok(0);
        }
        self.touch();
        let mut size = self.calls_size()?;
        for (at, id, name, freed) in &old {
            self.tables.calls_at.remove((*at, id))?;
            self.forget_call(id, name)?;
            size = size.saturating_sub(*freed);
        }
        self.set_calls_size(size)?;
        *room = room.saturating_sub(old.len());
        Ok(count(old.len()))
    }

    /// Keeps one; the same again changes nothing. Gives the bytes it added.
    fn record_call(&mut self, record: &CallRecord) -> Result<u64, Fault> {
        let id = record.request_id.to_bytes();
        if self.tables.calls.get(&id)?.is_some() {
            return Ok(0);
        }
        let sealed = self.sealer.seal(place(&id), &plain(record))?;
        let size = count(sealed.len());
        let name = record.caller_request_id.as_deref();
        let name = name.map(|name| name_digest(self.sealer, record.caller.as_deref(), name));
        self.tables.calls.insert(&id, sealed.as_slice())?;
        if let Some(name) = &name
            && self.counts_more(record, name)?
        {
            self.tables.calls_named.insert(name, &id)?;
        }
        let name = name.unwrap_or_default();
        let at = (record.completed_at, &id);
        self.tables.calls_at.insert(at, (&name, size))?;
        Ok(size)
    }

    /// Whether `record` is what its name means from now on: the newest call, but none that never left
    /// where an earlier one did.
    fn counts_more(&self, record: &CallRecord, name: &[u8; 16]) -> Result<bool, Fault> {
        let Some(known) = self.tables.calls_named.get(name)?.map(|row| *row.value()) else {
            return Ok(true);
        };
        let id = record.request_id.to_bytes();
        let Some(sealed) = self.tables.calls.get(&known)? else {
            return Ok(true);
        };
        let may_have_left = |record: &CallRecord| record.outcome != CallOutcome::NotSent;
        // One that can't be read any more may have, too.
        let known_may = match open(self.sealer, &known, sealed.value()) {
            Ok(known) => may_have_left(&known),
            Err(_) => true,
        };
        Ok((may_have_left(record), id) > (known_may, known))
    }

    fn forget_oldest_call(&mut self) -> Result<Option<u64>, Fault> {
        let oldest = self.tables.calls_at.pop_first()?;
        let Some((id, name, size)) = oldest.map(|(key, value)| {
            let ((_, id), (name, size)) = (key.value(), value.value());
            (*id, *name, size)
        }) else {
            return Ok(None);
        };
        self.forget_call(&id, &name)?;
        Ok(Some(size))
    }

    fn forget_call(&mut self, id: &[u8; 16], name: &[u8; 16]) -> Result<(), Fault> {
        self.tables.calls.remove(id)?;
        let names_it = self.tables.calls_named.get(name)?;
        if names_it.is_some_and(|named| named.value() == id) {
            self.tables.calls_named.remove(name)?;
        }
        Ok(())
    }

    /// Moves the damaged record of a call aside, and what it is found by out of the way.
    pub(super) fn set_call_aside(&mut self, id: &[u8; 16]) -> Result<(), Fault> {
        let row = self.tables.calls.get(id)?;
        let Some(bytes) = row.map(|row| row.value().to_vec()) else {
            return Ok(());
        };
        self.keep_aside(place(id), &bytes)?;
        let mut at = Vec::new();
        for row in self.tables.calls_at.iter()? {
            let (key, value) = row?;
            let ((completed_at, of), (name, size)) = (key.value(), value.value());
            if of == id {
                at.push((completed_at, *name, size));
            }
        }
        let mut size = self.calls_size()?;
        for (completed_at, name, freed) in at {
            self.tables.calls_at.remove((completed_at, id))?;
            self.forget_call(id, &name)?;
            size = size.saturating_sub(freed);
        }
        self.tables.calls.remove(id)?;
        self.set_calls_size(size)
    }

    fn calls_size(&self) -> Result<u64, Fault> {
        size(self.tables.meta.table()?)
    }

    fn set_calls_size(&mut self, size: u64) -> Result<(), Fault> {
        let bytes = size.to_be_bytes();
        self.tables.meta.insert(CALLS_SIZE_KEY, bytes.as_slice())?;
        Ok(())
    }
}

impl Reader<'_> {
    pub(super) fn call(&self, key: &CallKey, now: i64) -> Result<Option<CallRecord>, Fault> {
        let id = match key {
            CallKey::Id(id) => id.to_bytes(),
            CallKey::Named {
                caller,
                caller_request_id,
            } => {
                let name = name_digest(self.sealer, caller.as_deref(), caller_request_id);
                match self.tx.open_table(tables::CALLS_NAMED)?.get(&name)? {
                    Some(id) => *id.value(),
                    None => return Ok(None),
                }
            }
        };
        let calls = self.tx.open_table(tables::CALLS)?;
        let Some(row) = calls.get(&id)? else {
            return Ok(None);
        };
        let record = open(self.sealer, &id, row.value())?;
        let is_kept = now.saturating_sub(record.completed_at) < KEPT_MS;
        // An index row is not sealed, so the record has the last word.
        let is_meant = match key {
            CallKey::Id(_) => true,
            CallKey::Named {
                caller_request_id, ..
            } => record.caller_request_id.as_ref() == Some(caller_request_id),
        };
        Ok(Some(record).filter(|_| is_kept && is_meant))
    }
}

/// Opens the record of a call.
pub(super) fn open(sealer: &Sealer, id: &[u8; 16], sealed: &[u8]) -> Result<CallRecord, Fault> {
    let plain = sealer.open(place(id), sealed)?;
    Ok(record(*id, &plain).ok_or_else(|| place(id).damaged())?)
}

/// The digest of the caller's name for a call; zeros where it gave none.
pub(super) fn name_of(sealer: &Sealer, record: &CallRecord) -> [u8; 16] {
    let name = record.caller_request_id.as_deref();
    let name = name.map(|name| name_digest(sealer, record.caller.as_deref(), name));
    name.unwrap_or_default()
}

/// The size that [`tables::META`] keeps of all records.
pub(super) fn size<T: ReadableTable<&'static str, &'static [u8]>>(meta: &T) -> Result<u64, Fault> {
    let row = meta.get(CALLS_SIZE_KEY)?;
    let bytes = row.and_then(|row| <[u8; 8]>::try_from(row.value()).ok());
    Ok(bytes.map_or(0, u64::from_be_bytes))
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

fn place(id: &[u8; 16]) -> Place<'_> {
    Place {
        table: tables::CALLS.name(),
        key: id,
    }
}

fn name_digest(sealer: &Sealer, caller: Option<&str>, name: &str) -> [u8; 16] {
    let is_named = if caller.is_some() { "named" } else { "anybody" };
    sealer.short_name_digest(&["call", is_named, caller.unwrap_or_default(), name])
}

/// The length of the head in four bytes, the head, the reply.
fn plain(record: &CallRecord) -> zeroize::Zeroizing<Vec<u8>> {
    let reply = record.reply.as_ref();
    let head = Head {
        caller: record.caller.clone(),
        caller_request_id: record.caller_request_id.clone(),
        method: record.method.clone(),
        outcome: record.outcome.as_str().to_owned(),
        error: record.error.clone(),
        completed_at: record.completed_at,
        has_reply: reply.is_some(),
        status: reply.and_then(|reply| reply.status),
    };
    let head = serde_json::to_vec(&head).expect("texts and numbers always serialise");
    let body: &[u8] = reply.map_or(&[], |reply| &reply.body);
    let mut plain = Vec::with_capacity(4 + head.len() + body.len());
    plain.extend(u32::try_from(head.len()).unwrap_or(u32::MAX).to_be_bytes());
    plain.extend(head);
    plain.extend(body);
    plain.into()
}

fn record(id: [u8; 16], plain: &[u8]) -> Option<CallRecord> {
    let (length, rest) = plain.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let (head, body) = rest.split_at_checked(length)?;
    let head: Head = serde_json::from_slice(head).ok()?;
    Some(CallRecord {
        request_id: CallId::from_bytes(id),
        caller: head.caller,
        caller_request_id: head.caller_request_id,
        method: head.method,
        // A word of a newer program's.
        outcome: head.outcome.parse().unwrap_or(CallOutcome::Unknown),
        error: head.error,
        completed_at: head.completed_at,
        reply: head.has_reply.then(|| KeptReply {
            status: head.status,
            body: Bytes::copy_from_slice(body),
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_that_isnt_known_is_unknown() {
        let head = Head {
            caller: None,
            caller_request_id: None,
            method: "alipay.trade.pay".to_owned(),
            outcome: "of-a-newer-program".to_owned(),
            error: None,
            completed_at: 1,
            has_reply: false,
            status: None,
        };
        let head = serde_json::to_vec(&head).expect("JSON");
        let length = u32::try_from(head.len()).expect("short").to_be_bytes();
        let read = record([0; 16], &[&length[..], &head].concat()).expect("a record");
        assert_eq!(read.outcome, CallOutcome::Unknown);
    }
}
