//! The tables of the file, its schema version, and how an older one is brought up to date.
//!
//! Keys of the merchants' side are ids joined by NUL, which no id can contain. What an index row
//! could be forged for (a token's owner) is sealed; what is only a hint (alias, PID) is compared
//! with the sealed record after the look-up.

use redb::{ReadableTable, TableDefinition, WriteTransaction};

use super::fault::Fault;
use super::opened::Opened;

/// Bytes as a key or a value.
pub(super) type Bytes = &'static [u8];
/// An event id, or a 16-byte digest.
pub(super) type Id = &'static [u8; 16];
/// A 32-byte digest.
pub(super) type Digest = &'static [u8; 32];

/// What the store knows of itself.
pub(super) const META: TableDefinition<'_, &str, Bytes> = TableDefinition::new("meta");
/// `app_id` → sealed app.
pub(super) const APPS: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("apps");
/// `app_id` NUL `alipay_cert_sn` → sealed PEM.
pub(super) const CERTIFICATES: TableDefinition<'_, Bytes, Bytes> =
    TableDefinition::new("certificates");
/// `app_id` NUL `auth_app_id` → sealed merchant.
pub(super) const MERCHANTS: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("merchants");
/// The merchants that cancelled, so that they can be counted without reading them.
pub(super) const REVOKED: TableDefinition<'_, Bytes, ()> = TableDefinition::new("revoked");
/// The merchants whose token was refused, for the same reason.
pub(super) const SUSPECT: TableDefinition<'_, Bytes, ()> = TableDefinition::new("suspect");
/// `auth_app_id` NUL `app_id`.
pub(super) const BY_AUTH_APP_ID: TableDefinition<'_, Bytes, ()> =
    TableDefinition::new("by_auth_app_id");
/// PID NUL `app_id` NUL `auth_app_id`.
pub(super) const BY_PID: TableDefinition<'_, Bytes, ()> = TableDefinition::new("by_pid");
/// Alias NUL `app_id` → `auth_app_id`.
pub(super) const BY_ALIAS: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("by_alias");
/// Digest of every token ever held → sealed key of its merchant.
pub(super) const BY_TOKEN: TableDefinition<'_, Digest, Bytes> = TableDefinition::new("by_token");
/// `app_id` NUL `auth_app_id` NUL token digest: what goes when the merchant goes.
pub(super) const TOKENS_OF: TableDefinition<'_, Bytes, ()> = TableDefinition::new("tokens_of");
/// Sealed inbox entries.
pub(super) const NOTIFICATIONS: TableDefinition<'_, Id, Bytes> =
    TableDefinition::new("notifications");
/// Sealed deliveries: no secrets, but a forged state would lose or repeat a notification.
pub(super) const DELIVERIES: TableDefinition<'_, Id, Bytes> = TableDefinition::new("deliveries");
/// The pending ones → when received, Unix milliseconds.
pub(super) const PENDING: TableDefinition<'_, Id, i64> = TableDefinition::new("pending");
/// The delivered ones.
pub(super) const DELIVERED: TableDefinition<'_, Id, ()> = TableDefinition::new("delivered");
/// The dead ones.
pub(super) const DEAD: TableDefinition<'_, Id, ()> = TableDefinition::new("dead");
/// The ignored ones.
pub(super) const IGNORED: TableDefinition<'_, Id, ()> = TableDefinition::new("ignored");
/// (next attempt, id) of every pending delivery that waits for no other.
pub(super) const DUE: TableDefinition<'_, (i64, Id), ()> = TableDefinition::new("due");
/// (order digest, id) of every pending delivery with an order key → its next attempt.
pub(super) const ORDERED: TableDefinition<'_, (Id, Id), i64> = TableDefinition::new("ordered");
/// The pending ones that were put off only because no route fits them.
pub(super) const PARKED: TableDefinition<'_, Id, ()> = TableDefinition::new("parked");
/// (end of the lease, id) of the pending ones that were claimed.
pub(super) const LEASED: TableDefinition<'_, (i64, Id), ()> = TableDefinition::new("leased");
/// (when settled, id) of the delivered and ignored ones.
pub(super) const SETTLED: TableDefinition<'_, (i64, Id), ()> = TableDefinition::new("settled");
/// (when given up, id) of the dead ones.
pub(super) const GIVEN_UP: TableDefinition<'_, (i64, Id), ()> = TableDefinition::new("given_up");
/// Digest of `app_id` and `notify_id` → the entry's id.
pub(super) const DEDUPE: TableDefinition<'_, Id, Id> = TableDefinition::new("dedupe");
/// (when received, digest) of every row of [`DEDUPE`].
pub(super) const DEDUPE_AT: TableDefinition<'_, (i64, Id), ()> = TableDefinition::new("dedupe_at");
/// Memo key → (expiry, sealed value).
pub(super) const MEMOS: TableDefinition<'_, Digest, (i64, Bytes)> = TableDefinition::new("memos");
/// (expiry, memo key) of every row of [`MEMOS`].
pub(super) const MEMO_EXPIRY: TableDefinition<'_, (i64, Digest), ()> =
    TableDefinition::new("memo_expiry");
/// Call id → sealed record.
pub(super) const CALLS: TableDefinition<'_, Id, Bytes> = TableDefinition::new("calls");
/// (when completed, call id) of every row of [`CALLS`] → (digest of the caller's name for it, size
/// in bytes).
pub(super) const CALLS_AT: TableDefinition<'_, (i64, Id), (Id, u64)> =
    TableDefinition::new("calls_at");
/// Digest of a caller's name for a call → call id.
pub(super) const CALLS_NAMED: TableDefinition<'_, Id, Id> = TableDefinition::new("calls_named");
/// Digest of one name of a user → (when useless, sealed tokens).
pub(super) const USERS: TableDefinition<'_, Digest, (i64, Bytes)> = TableDefinition::new("users");
/// (when useless, digest) of every row of [`USERS`].
pub(super) const USERS_END: TableDefinition<'_, (i64, Digest), ()> =
    TableDefinition::new("users_end");
/// `app_id` NUL `auth_app_id` → until when the users of that merchant (none: the app's own) are
/// forgotten, Unix milliseconds; `app_id` alone → all users of the app.
pub(super) const USERS_FORGOTTEN: TableDefinition<'_, Bytes, i64> =
    TableDefinition::new("users_forgotten");

/// Sealed refused notifications.
pub(super) const REFUSED: TableDefinition<'_, Id, Bytes> = TableDefinition::new("refused");
/// What room for refused notifications is shared out by: standing, bytes, when received, digest of
/// the content, digest of the sender's network. Nothing is trusted for it.
pub(super) const REFUSED_INDEX: TableDefinition<'_, Id, (u8, u64, i64, Id, Id)> =
    TableDefinition::new("refused_index");
/// (entry, digest of the content) → sealed second body under the entry's `notify_id`.
pub(super) const VARIANTS: TableDefinition<'_, (Id, Id), Bytes> = TableDefinition::new("variants");

/// Table NUL key of every damaged record that was moved aside → (when, its bytes as they were).
pub(super) const DAMAGED: TableDefinition<'_, Bytes, (i64, Bytes)> =
    TableDefinition::new("damaged");

/// Where [`META`] keeps the schema version, 8 bytes big-endian.
pub(super) const SCHEMA_KEY: &str = "schema";
/// Where [`META`] keeps the value that only the right store key opens.
pub(super) const CHECK_KEY: &str = "check";
/// Where [`META`] keeps the keys of the digests in the indexes, sealed.
pub(super) const INDEX_KEY: &str = "index";
/// Where [`META`] keeps what the writer writes to see whether it can.
pub(super) const PROBE_KEY: &str = "probe";
/// Where [`META`] keeps the size of all rows of [`CALLS`], 8 bytes big-endian.
pub(super) const CALLS_SIZE_KEY: &str = "calls_size";

/// Brings a file from one schema version to the next.
type Step = fn(&WriteTransaction) -> Result<(), Fault>;

/// The step at index n leads from schema version n + 1 to n + 2. Steps are never changed once
/// released, only added.
const STEPS: &[Step] = &[
    add_certificates,
    add_index_keys,
    add_quarantine,
    add_claims,
    add_calls_and_users,
    add_suspect,
];

/// Version 2: platform certificates are kept.
fn add_certificates(tx: &WriteTransaction) -> Result<(), Fault> {
    tx.open_table(CERTIFICATES)?;
    Ok(())
}

/// Version 3: the index keys stand in [`META`] (whoever opens the file writes them, because they
/// are sealed), and damaged records are moved aside.
fn add_index_keys(tx: &WriteTransaction) -> Result<(), Fault> {
    tx.open_table(DAMAGED)?;
    Ok(())
}

/// Version 4: refused notifications and second bodies are kept.
fn add_quarantine(tx: &WriteTransaction) -> Result<(), Fault> {
    tx.open_table(REFUSED)?;
    tx.open_table(REFUSED_INDEX)?;
    tx.open_table(VARIANTS)?;
    Ok(())
}

/// Version 5: deliveries can be claimed: what no route fits, too, however far it is put off.
fn add_claims(tx: &WriteTransaction) -> Result<(), Fault> {
    tx.open_table(LEASED)?;
    tx.open_table(PARKED)?;
    Ok(())
}

/// Version 6: what became of calls is kept, and so are users' tokens.
fn add_calls_and_users(tx: &WriteTransaction) -> Result<(), Fault> {
    tx.open_table(CALLS)?;
    tx.open_table(CALLS_AT)?;
    tx.open_table(CALLS_NAMED)?;
    tx.open_table(USERS)?;
    tx.open_table(USERS_END)?;
    tx.open_table(USERS_FORGOTTEN)?;
    Ok(())
}

/// Merchants can be suspect.
fn add_suspect(tx: &WriteTransaction) -> Result<(), Fault> {
    tx.open_table(SUSPECT)?;
    Ok(())
}

/// The newest schema version this program knows.
pub(super) const SCHEMA: u64 = 1 + STEPS.len() as u64;

/// Brings the file from schema version `found` up to [`SCHEMA`] within `tx`.
pub(super) fn migrate(tx: &WriteTransaction, found: u64) -> Result<(), Fault> {
    run_steps(tx, found, STEPS)
}

fn run_steps(tx: &WriteTransaction, found: u64, steps: &[Step]) -> Result<(), Fault> {
    let done = usize::try_from(found.saturating_sub(1)).unwrap_or(usize::MAX);
    for step in steps.iter().skip(done) {
        step(tx)?;
    }
    write_schema(tx, 1 + steps.len() as u64)
}

/// Writes the schema version.
pub(super) fn write_schema(tx: &WriteTransaction, version: u64) -> Result<(), Fault> {
    let mut meta = tx.open_table(META)?;
    meta.insert(SCHEMA_KEY, version.to_be_bytes().as_slice())?;
    Ok(())
}

/// Reads the schema version; `None` when there is none that makes sense.
pub(super) fn read_schema<T: ReadableTable<&'static str, Bytes>>(
    meta: &T,
) -> Result<Option<u64>, Fault> {
    let row = meta.get(SCHEMA_KEY)?;
    Ok(row
        .and_then(|row| <[u8; 8]>::try_from(row.value()).ok())
        .map(u64::from_be_bytes))
}

/// Makes [`Tables`] of a list of tables.
macro_rules! tables {
    ($($field:ident: $definition:ident, $key:ty, $value:ty;)*) => {
        /// Every table, for writing in one transaction; each is opened when it is first needed.
        pub(super) struct Tables<'t> {
            $(pub(super) $field: Opened<'t, $key, $value>,)*
        }

        impl<'t> Tables<'t> {
            /// Opens none yet.
            pub(super) fn new(tx: &'t WriteTransaction) -> Self {
                Self {
                    $($field: Opened::new(tx, $definition),)*
                }
            }

            /// Creates those that aren't there.
            pub(super) fn create(tx: &'t WriteTransaction) -> Result<(), Fault> {
                let tables = Self::new(tx);
                $(tables.$field.table()?;)*
                Ok(())
            }
        }
    };
}

tables! {
    apps: APPS, Bytes, Bytes;
    certificates: CERTIFICATES, Bytes, Bytes;
    damaged: DAMAGED, Bytes, (i64, Bytes);
    merchants: MERCHANTS, Bytes, Bytes;
    revoked: REVOKED, Bytes, ();
    suspect: SUSPECT, Bytes, ();
    by_auth_app_id: BY_AUTH_APP_ID, Bytes, ();
    by_pid: BY_PID, Bytes, ();
    by_alias: BY_ALIAS, Bytes, Bytes;
    by_token: BY_TOKEN, Digest, Bytes;
    tokens_of: TOKENS_OF, Bytes, ();
    notifications: NOTIFICATIONS, Id, Bytes;
    deliveries: DELIVERIES, Id, Bytes;
    pending: PENDING, Id, i64;
    delivered: DELIVERED, Id, ();
    dead: DEAD, Id, ();
    ignored: IGNORED, Id, ();
    due: DUE, (i64, Id), ();
    ordered: ORDERED, (Id, Id), i64;
    leased: LEASED, (i64, Id), ();
    parked: PARKED, Id, ();
    settled: SETTLED, (i64, Id), ();
    given_up: GIVEN_UP, (i64, Id), ();
    dedupe: DEDUPE, Id, Id;
    dedupe_at: DEDUPE_AT, (i64, Id), ();
    memos: MEMOS, Digest, (i64, Bytes);
    memo_expiry: MEMO_EXPIRY, (i64, Digest), ();
    refused: REFUSED, Id, Bytes;
    refused_index: REFUSED_INDEX, Id, (u8, u64, i64, Id, Id);
    variants: VARIANTS, (Id, Id), Bytes;
    meta: META, &'static str, Bytes;
    calls: CALLS, Id, Bytes;
    calls_at: CALLS_AT, (i64, Id), (Id, u64);
    calls_named: CALLS_NAMED, Id, Id;
    users: USERS, Digest, (i64, Bytes);
    users_end: USERS_END, (i64, Digest), ();
    users_forgotten: USERS_FORGOTTEN, Bytes, i64;
}

/// The key made of `parts`, joined by NUL.
pub(super) fn key(parts: &[&str]) -> Vec<u8> {
    parts.join("\0").into_bytes()
}

/// The key under which every longer key begins with `parts`.
pub(super) fn prefix(parts: &[&str]) -> Vec<u8> {
    let mut key = key(parts);
    key.push(0);
    key
}

#[cfg(test)]
mod tests {
    use redb::backends::InMemoryBackend;
    use redb::{Database, ReadableDatabase, TableHandle};

    use super::*;

    fn leave_a_mark(tx: &WriteTransaction) -> Result<(), Fault> {
        let mut meta = tx.open_table(META)?;
        let marks = meta.get("marks")?.map_or(0, |row| row.value().len());
        meta.insert("marks", vec![1; marks + 1].as_slice())?;
        Ok(())
    }

    fn check(found: u64, marks: usize) {
        let db = Database::builder()
            .create_with_backend(InMemoryBackend::new())
            .expect("in memory");
        let tx = db.begin_write().expect("transaction");
        write_schema(&tx, found).expect("written");
        run_steps(&tx, found, &[leave_a_mark, leave_a_mark, leave_a_mark]).expect("migrated");
        tx.commit().expect("committed");
        let tx = db.begin_read().expect("transaction");
        let meta = tx.open_table(META).expect("there");
        assert_eq!(
            read_schema(&meta).expect("readable"),
            Some(4),
            "from {found}"
        );
        let found_marks = meta.get("marks").expect("readable");
        assert_eq!(
            found_marks.map_or(0, |m| m.value().len()),
            marks,
            "from {found}"
        );
    }

    #[test]
    fn each_step_runs_once_from_the_version_found() {
        check(1, 3);
        check(3, 1);
        check(4, 0);
    }

    #[test]
    fn keys_of_different_parts_never_meet() {
        assert_eq!(key(&["a", "b"]), b"a\0b");
        assert!(key(&["ab", "c"]) != key(&["a", "bc"]));
        assert!(!key(&["ab", "c"]).starts_with(&prefix(&["a"])));
        assert_eq!(META.name(), "meta");
    }
}
