//! Writes to the quarantine: what the webhook refused, within bounds; and second bodies.
//!
//! Invariant: `refused_index` has exactly one row for each of `refused`, and together they are
//! within [`BOUNDS`].

use super::apply::Applier;
use super::fault::Fault;
use super::lookup;
use super::quarantine_records::{seal_refused, seal_variant};
use crate::model::id::EventId;
use crate::model::quarantine::{Bounds, Place};
use crate::model::refused::{RefusalKind, RefusedNotification, Standing, Variant};
use crate::store::Effect;
use crate::store::seal::Sealer;

/// How much is kept of what anybody may send. 1,000 notifications is contract §4; an ordinary one
/// takes 1 to 4 KiB, so that 16 MiB holds them all, and the file hardly grows. One network may take
/// half: behind an ingress all come from one address, and what a wrong key refuses must find room
/// there; the other half is left to the others.
const BOUNDS: Bounds = Bounds {
    places: 1000,
    bytes: 16 << 20,
    share: 2,
};

/// How many second bodies one entry may have: the first shows what happened, a few more the pattern.
const MOST_VARIANTS: usize = 4;

/// What is known of a refused notification without opening it.
#[derive(Debug, Clone, Copy)]
struct Row {
    id: EventId,
    standing: Standing,
    came_again: bool,
    bytes: u64,
    received_at: i64,
    content: [u8; 16],
    network: [u8; 16],
}

impl Row {
    fn place(&self) -> Place<EventId, [u8; 16]> {
        Place {
            id: self.id,
            network: self.network,
            standing: self.standing,
            came_again: self.came_again,
            bytes: self.bytes,
        }
    }
}

impl Applier<'_> {
    /// Keeps a refused notification, if there is room for it. One that came before with the same
    /// content keeps its place and its id, but the newer bytes: they may be signed by a newer key.
    pub(super) fn refuse(&mut self, refused: &RefusedNotification) -> Result<Effect, Fault> {
        let content = self.sealer.content_digest(&refused.content);
        let mut rows = self.refused_rows()?;
        let known = rows.iter().position(|row| row.content == content);
        let former = known.map(|index| rows.swap_remove(index).id);
        let joined = match former {
            Some(id) if id == refused.id => refused.clone(),
            Some(id) => self.joined(id, refused)?,
            None => refused.clone(),
        };
        let sealed = seal_refused(self.sealer, &joined)?;
        let row = Row {
            id: joined.id,
            standing: joined.refusal.standing(),
            came_again: joined.came_again(),
            bytes: u64::try_from(sealed.len()).unwrap_or(u64::MAX),
            received_at: joined.received_at,
            content,
            network: self.sealer.network_digest(&joined.network()),
        };
        rows.push(row);
        let displaced = BOUNDS.displaced(rows.iter().map(Row::place).collect());
        if former.is_none() && displaced == [row.id] {
            return Ok(Effect::Full);
        }
        self.touch();
        self.put_refused(&row, &sealed)?;
        for id in &displaced {
            self.forget_refused(*id)?;
        }
        if displaced.contains(&row.id) {
            return Ok(Effect::Full);
        }
        Ok(match u64::try_from(displaced.len()).unwrap_or(u64::MAX) {
            0 => Effect::Applied,
            count => Effect::Displaced(count),
        })
    }

    /// `newer` in the place of the one that came first.
    fn joined(
        &self,
        first: EventId,
        newer: &RefusedNotification,
    ) -> Result<RefusedNotification, Fault> {
        let stored = match lookup::refused(self.tables.refused.table()?, self.sealer, first) {
            Ok(Some(stored)) => stored,
            // A damaged one is written over: the new bytes are good.
            Ok(None) | Err(Fault::Refused(_)) => {
                return Ok(RefusedNotification {
                    id: first,
                    ..newer.clone()
                });
            }
            Err(broken) => return Err(broken),
        };
        Ok(RefusedNotification {
            id: first,
            received_at: stored.received_at,
            times: stored.times.saturating_add(newer.times),
            ..newer.clone()
        })
    }

    /// Says anew why one is refused. Its place stays the one that it was given.
    pub(super) fn rejudge(
        &mut self,
        id: EventId,
        refusal: RefusalKind,
        reason: &str,
    ) -> Result<Effect, Fault> {
        let Some(stored) = lookup::refused(self.tables.refused.table()?, self.sealer, id)? else {
            return Ok(Effect::Missing);
        };
        let judged = RefusedNotification {
            refusal,
            reason: reason.to_owned(),
            ..stored
        };
        let sealed = seal_refused(self.sealer, &judged)?;
        let row = self.refused_rows()?.into_iter().find(|row| row.id == id);
        let Some(row) = row else {
            return Ok(Effect::Missing);
        };
        self.touch();
        let row = Row {
            standing: refusal.standing(),
            ..row
        };
        self.put_refused(&row, &sealed)?;
        Ok(Effect::Applied)
    }

    pub(super) fn release(&mut self, id: EventId) -> Result<Effect, Fault> {
        if self.tables.refused_index.get(&id.to_bytes())?.is_none() {
            return Ok(Effect::Missing);
        }
        self.touch();
        self.forget_refused(id)?;
        Ok(Effect::Applied)
    }

    /// The same for the one with this content: each content is kept once.
    pub(super) fn release_content(&mut self, content: &[u8; 32]) -> Result<Effect, Fault> {
        let content = self.sealer.content_digest(content);
        let rows = self.refused_rows()?;
        match rows.iter().find(|row| row.content == content) {
            Some(row) => self.release(row.id),
            None => Ok(Effect::Missing),
        }
    }

    /// Keeps a second body beside the entry `of`, each content once.
    pub(super) fn keep_variant(&mut self, of: EventId, variant: &Variant) -> Result<Effect, Fault> {
        let key = of.to_bytes();
        if self.tables.deliveries.get(&key)?.is_none() {
            return Ok(Effect::Missing);
        }
        let content = self.sealer.content_digest(&variant.content);
        if self.tables.variants.get((&key, &content))?.is_some() {
            return Ok(Effect::Duplicate(of));
        }
        let whole = (&key, &[0; 16])..=(&key, &[0xff; 16]);
        if self.tables.variants.range(whole)?.count() >= MOST_VARIANTS {
            return Ok(Effect::Full);
        }
        let sealed = seal_variant(self.sealer, (&key, &content), variant)?;
        self.touch();
        self.tables
            .variants
            .insert((&key, &content), sealed.as_slice())?;
        Ok(Effect::Applied)
    }

    /// Forgets the second bodies of an entry.
    pub(super) fn forget_variants(&mut self, key: &[u8; 16]) -> Result<(), Fault> {
        let whole = (key, &[0; 16])..=(key, &[0xff; 16]);
        let mut contents = Vec::new();
        for row in self.tables.variants.range(whole)? {
            contents.push(*row?.0.value().1);
        }
        for content in contents {
            self.tables.variants.remove((key, &content))?;
        }
        Ok(())
    }

    /// The refused ones first received before `before`, at most `room`.
    pub(super) fn old_refused(&self, before: i64, room: usize) -> Result<Vec<EventId>, Fault> {
        let rows = self.refused_rows()?.into_iter();
        let old = rows.filter(|row| row.received_at < before);
        Ok(old.take(room).map(|row| row.id).collect())
    }

    /// Forgets a refused one without reading it, so that a damaged one goes, too.
    pub(super) fn forget_refused(&mut self, id: EventId) -> Result<(), Fault> {
        let key = id.to_bytes();
        self.tables.refused.remove(&key)?;
        self.tables.refused_index.remove(&key)?;
        Ok(())
    }

    /// Moves a damaged refused notification aside.
    pub(super) fn set_refused_aside(&mut self, id: EventId) -> Result<(), Fault> {
        let key = id.to_bytes();
        let row = self.tables.refused.get(&key)?;
        if let Some(bytes) = row.map(|row| row.value().to_vec()) {
            self.keep_aside(lookup::refused_place(&key), &bytes)?;
            self.forget_refused(id)?;
        }
        Ok(())
    }

    /// A scan of at most a thousand short rows: who refuses much is held back before he comes here.
    fn refused_rows(&self) -> Result<Vec<Row>, Fault> {
        let mut rows = Vec::new();
        for row in self.tables.refused_index.iter()? {
            let (key, value) = row?;
            let (standing, bytes, received_at, content, network) = value.value();
            rows.push(Row {
                id: EventId::from_bytes(*key.value()),
                standing: standing_of(standing),
                came_again: standing & CAME_AGAIN != 0,
                bytes,
                received_at,
                content: *content,
                network: *network,
            });
        }
        Ok(rows)
    }

    fn put_refused(&mut self, row: &Row, sealed: &[u8]) -> Result<(), Fault> {
        let key = row.id.to_bytes();
        let standing = standing_byte(row.standing, row.came_again);
        self.tables.refused.insert(&key, sealed)?;
        self.tables.refused_index.insert(
            &key,
            (
                standing,
                row.bytes,
                row.received_at,
                &row.content,
                &row.network,
            ),
        )?;
        Ok(())
    }
}

/// Whether the row of a refused notification in the index says what the record says.
pub(super) fn is_indexed(
    sealer: &Sealer,
    refused: &RefusedNotification,
    row: (u8, u64, i64, &[u8; 16], &[u8; 16]),
) -> bool {
    let (standing, _, received_at, content, network) = row;
    let now = (
        standing_byte(refused.refusal.standing(), refused.came_again()),
        sealer.network_digest(&refused.network()),
    );
    (now == (standing, *network) || is_of_before(refused, standing))
        && received_at == refused.received_at
        && *content == sealer.content_digest(&refused.content)
}

/// Whether a row may be one that an earlier version wrote: without [`SIGNED`] and [`CAME_AGAIN`], and
/// with smaller networks. It is right until its week is over, and only its place is another.
fn is_of_before(refused: &RefusedNotification, standing: u8) -> bool {
    let written = match refused.refusal {
        RefusalKind::Forged | RefusalKind::Undecryptable => OURS,
        RefusalKind::Foreign | RefusalKind::Malformed | RefusalKind::NoNotification => STRANGER,
    };
    let differs = refused.came_again()
        || refused.refusal.standing() == Standing::Signed
        || refused.peer.contains(':');
    differs && standing == written
}

fn standing_byte(standing: Standing, came_again: bool) -> u8 {
    let standing = match standing {
        Standing::Ours => OURS,
        Standing::Signed => SIGNED,
        Standing::Stranger => STRANGER,
    };
    if came_again {
        standing | CAME_AGAIN
    } else {
        standing
    }
}

fn standing_of(byte: u8) -> Standing {
    match byte & !CAME_AGAIN {
        OURS => Standing::Ours,
        SIGNED => Standing::Signed,
        _ => Standing::Stranger,
    }
}

/// [`Standing::Stranger`] in the index.
const STRANGER: u8 = 0;
/// [`Standing::Ours`] in the index.
const OURS: u8 = 1;
/// [`Standing::Signed`] in the index.
const SIGNED: u8 = 2;
/// Beside a standing: it came more than once.
const CAME_AGAIN: u8 = 0x80;
