//! All rows of a snapshot as one stream of bytes: how a running sidecar gives its store away
//! without a second file of its own, and without more memory than a piece.
//!
//! After [`MAGIC`] come frames: `T` with a table's name, `R` with a row of it (two lengths of 4
//! bytes, key, value), at last `E` with the number of rows in 8 bytes. Without the end a stream is
//! known to have broken off.

use std::io::{self, Read as _};

use redb::ReadTransaction;

use super::catalogue::{self, AnyTable, TABLES};
use super::fault::Fault;
use crate::store::error::StoreError;

/// How a stream begins.
const MAGIC: &[u8] = b"alipay-sidecar rows 1\n";
/// When a piece is handed on, bytes.
const PIECE: usize = 256 << 10;
/// A row larger than this is none: webhook bodies are far below.
const LARGEST: usize = 256 << 20;

/// Gives every row of the snapshot to `out`, piece by piece.
pub(super) fn write(
    tx: &ReadTransaction,
    out: &mut dyn FnMut(Vec<u8>) -> Result<(), Fault>,
) -> Result<u64, Fault> {
    refuse_unknown(tx)?;
    let mut piece = MAGIC.to_vec();
    let mut rows = 0_u64;
    for table in TABLES {
        piece.push(b'T');
        piece.extend(length(table.name().as_bytes())?);
        piece.extend(table.name().as_bytes());
        table.walk(tx, &mut |key, value| {
            piece.push(b'R');
            piece.extend(length(key)?);
            piece.extend(length(value)?);
            piece.extend(key);
            piece.extend(value);
            rows += 1;
            if piece.len() >= PIECE {
                out(std::mem::take(&mut piece))?;
            }
            Ok(())
        })?;
    }
    piece.push(b'E');
    piece.extend(rows.to_be_bytes());
    out(piece)?;
    Ok(rows)
}

/// The first bytes of `source`, as many as tell whether it is such a stream; and whether it is.
pub(super) fn begins(source: &mut impl io::Read) -> io::Result<(Vec<u8>, bool)> {
    let mut first = Vec::with_capacity(MAGIC.len());
    let most = u64::try_from(MAGIC.len()).unwrap_or(u64::MAX);
    source.take(most).read_to_end(&mut first)?;
    let is_stream = first == MAGIC;
    Ok((first, is_stream))
}

/// Refuses a file with tables that a copy would lack.
pub(super) fn refuse_unknown(tx: &ReadTransaction) -> Result<(), Fault> {
    let unknown = catalogue::unknown_tables(tx)?;
    if unknown.is_empty() {
        return Ok(());
    }
    let names = unknown.join(", ");
    Err(Fault::Refused(StoreError::Unavailable {
        reason: format!("it has tables this program doesn't know ({names}); use a newer program"),
    }))
}

fn length(bytes: &[u8]) -> Result<[u8; 4], Fault> {
    let length = u32::try_from(bytes.len());
    let length = length.map_err(|_| Fault::broken("a row is larger than 4 GiB".to_owned()))?;
    Ok(length.to_be_bytes())
}

/// What a stream says.
pub(super) enum Frame<'b> {
    /// All is said; there were so many rows.
    End(u64),
    /// A row of the table named last.
    Row(&'static dyn AnyTable, &'b [u8], &'b [u8]),
}

/// Reads a stream that comes in pieces of any size.
#[derive(Default)]
pub(super) struct RowReader {
    buffer: Vec<u8>,
    begun: bool,
    table: Option<&'static dyn AnyTable>,
}

/// A frame that was read, by where its parts stand in the buffer.
enum Read {
    More,
    Begin(usize),
    Table(usize, String),
    Row(usize, usize),
    End(u64),
}

impl RowReader {
    /// Takes the next piece, and shows every frame that is whole.
    pub(super) fn push(
        &mut self,
        piece: &[u8],
        see: &mut dyn FnMut(Frame<'_>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.buffer.extend(piece);
        let mut done = 0;
        loop {
            let rest = self.buffer.get(done..).unwrap_or_default();
            match self.read(rest)? {
                Read::More => break,
                Read::Begin(length) => {
                    self.begun = true;
                    done += length;
                }
                Read::Table(length, name) => {
                    let table = catalogue::table(&name);
                    self.table = Some(table.ok_or_else(|| unknown(&name))?);
                    done += length;
                }
                Read::Row(key, value) => {
                    let table = self.table.ok_or_else(broken)?;
                    let (key, value) = (rest.get(9..9 + key), rest.get(9 + key..9 + key + value));
                    let (key, value) = key.zip(value).ok_or_else(broken)?;
                    see(Frame::Row(table, key, value))?;
                    done += 9 + key.len() + value.len();
                }
                Read::End(rows) => {
                    see(Frame::End(rows))?;
                    done += 9;
                }
            }
        }
        self.buffer.drain(..done);
        Ok(())
    }

    fn read(&self, rest: &[u8]) -> Result<Read, StoreError> {
        if !self.begun {
            return match rest.get(..MAGIC.len()) {
                Some(MAGIC) => Ok(Read::Begin(MAGIC.len())),
                Some(_) => Err(broken()),
                None => Ok(Read::More),
            };
        }
        match rest.split_first() {
            None => Ok(Read::More),
            Some((b'T', rest)) => table(rest),
            Some((b'R', rest)) => row(rest),
            Some((b'E', rest)) => Ok(match rest.first_chunk::<8>() {
                Some(rows) => Read::End(u64::from_be_bytes(*rows)),
                None => Read::More,
            }),
            Some(_) => Err(broken()),
        }
    }
}

fn table(rest: &[u8]) -> Result<Read, StoreError> {
    let Some((length, rest)) = number(rest)? else {
        return Ok(Read::More);
    };
    let Some(name) = rest.get(..length) else {
        return Ok(Read::More);
    };
    let name = String::from_utf8(name.to_vec()).map_err(|_| broken())?;
    Ok(Read::Table(5 + length, name))
}

fn row(rest: &[u8]) -> Result<Read, StoreError> {
    let Some((key, rest)) = number(rest)? else {
        return Ok(Read::More);
    };
    let Some((value, rest)) = number(rest)? else {
        return Ok(Read::More);
    };
    Ok(if rest.len() < key + value {
        Read::More
    } else {
        Read::Row(key, value)
    })
}

fn number(rest: &[u8]) -> Result<Option<(usize, &[u8])>, StoreError> {
    let Some((length, rest)) = rest.split_first_chunk::<4>() else {
        return Ok(None);
    };
    match usize::try_from(u32::from_be_bytes(*length)) {
        Ok(length) if length <= LARGEST => Ok(Some((length, rest))),
        _ => Err(broken()),
    }
}

fn broken() -> StoreError {
    StoreError::Unavailable {
        reason: "the copy isn't a stream of rows; is it another version of the program?".to_owned(),
    }
}

fn unknown(name: &str) -> StoreError {
    let name: String = name.chars().take(64).collect();
    StoreError::Unavailable {
        reason: format!("the copy has a table `{name}` that this program doesn't know"),
    }
}
