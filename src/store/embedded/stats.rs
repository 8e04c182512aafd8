//! How large the file is, and what is in it.

use std::path::Path;

use redb::{ReadTransaction, ReadableTableMetadata};

use super::catalogue::TABLES;
use super::fault::Fault;
use super::read::Reader;
use super::snapshots::Snapshot;
use super::tables;
use crate::store::care::{Stats, TableRows};
use crate::store::seal::Sealer;

/// Below this much free space compacting isn't worth the pause.
const LITTLE: u64 = 16 << 20;

/// The numbers of a snapshot; `go_on` is asked before every table.
pub(super) fn stats(
    tx: &Snapshot,
    sealer: &Sealer,
    path: &Path,
    go_on: &dyn Fn() -> Result<(), Fault>,
) -> Result<Stats, Fault> {
    let mut rows = Vec::with_capacity(TABLES.len());
    for table in TABLES {
        rows.push(TableRows {
            name: table.name().to_owned(),
            rows: table.rows(tx)?,
        });
    }
    let pages = pages(tx, go_on)?;
    let file_bytes = std::fs::metadata(path).map_or(0, |file| file.len());
    let free_bytes = file_bytes.saturating_sub(pages.stored + pages.fragmented + pages.overhead);
    let counts = Reader { tx, sealer }.counts()?;
    let of = |name: &str| rows.iter().find(|t| t.name == name).map_or(0, |t| t.rows);
    Ok(Stats {
        schema: tables::read_schema(&tx.open_table(tables::META)?)?.unwrap_or_default(),
        file_bytes,
        stored_bytes: pages.stored,
        fragmented_bytes: pages.fragmented,
        free_bytes,
        worth_compacting: free_bytes >= LITTLE && free_bytes > file_bytes / 2,
        merchants_authorized: counts.merchants_authorized,
        merchants_revoked: counts.merchants_revoked,
        merchants_suspect: counts.merchants_suspect,
        pending: counts.pending,
        oldest_pending_at: counts.oldest_pending_at,
        delivered: of("delivered"),
        dead: counts.dead,
        ignored: of("ignored"),
        damaged: counts.damaged,
        tables: rows,
    })
}

/// What the pages of all tables hold, bytes.
#[derive(Default)]
struct Pages {
    stored: u64,
    fragmented: u64,
    overhead: u64,
}

fn pages(tx: &ReadTransaction, go_on: &dyn Fn() -> Result<(), Fault>) -> Result<Pages, Fault> {
    let mut pages = Pages::default();
    for handle in tx.list_tables()? {
        go_on()?;
        let stats = tx.open_untyped_table(handle)?.stats()?;
        pages.stored += stats.stored_bytes();
        pages.fragmented += stats.fragmented_bytes();
        pages.overhead += stats.metadata_bytes();
    }
    Ok(pages)
}
