//! What can go wrong with the store.

use std::path::PathBuf;

/// An error of the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The alias belongs to another merchant of the app.
    #[error(
        "alias `{alias}` is already taken by merchant {owner} of the same app; choose another, or give that merchant another one first"
    )]
    AliasTaken {
        /// The alias asked for.
        alias: String,
        /// The `auth_app_id` of the record that has it.
        owner: String,
    },
    /// A record can't be read back: the file was changed or damaged.
    #[error("{record} is damaged or was sealed under another key; restore the store from a backup")]
    Damaged {
        /// Which record, by table and key; never its content.
        record: String,
    },
    /// The file is no store, or a store that redb can't open.
    #[error(
        "{path} is damaged or is no store: {reason}; restore it from a backup, it was left as it is"
    )]
    DamagedFile {
        /// The file.
        path: PathBuf,
        /// What redb said.
        reason: String,
    },
    /// Another process has the store open.
    #[error(
        "{path} is in use by another process; is a sidecar already running? talk to it through its admin listener, or stop it (and the sockets that start it again, where systemd has them)"
    )]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// There is no such file.
    #[error(
        "there is no store at {path}; create one with `alipay-sidecar store create`, or mend `store.url`"
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// `store create` where a store exists.
    #[error("{path} exists already; it was left as it is")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The store was written by a newer version of the program.
    #[error(
        "{path} has schema version {found}, this program knows up to {known}; use a newer program"
    )]
    SchemaTooNew {
        /// The file.
        path: PathBuf,
        /// The version in the file.
        found: u64,
        /// The newest version this program knows.
        known: u64,
    },
    /// The token belongs to another merchant's record.
    #[error(
        "the app_auth_token is already held by merchant {owner}, and a token belongs to one record; see whose it is, and `merchant remove` the wrong record first"
    )]
    TokenConflict {
        /// `app_id/auth_app_id` of the record that has it.
        owner: String,
    },
    /// The disk refused; the store opens itself again as soon as it can.
    #[error("the store can't be used at present: {reason}")]
    Unavailable {
        /// What the disk or redb said.
        reason: String,
    },
    /// `store.key` isn't the key that the store was made with.
    #[error(
        "the store key does not open {path}: it was made with another key; set `store.key` to the one it was created with, or last rekeyed to"
    )]
    WrongKey {
        /// The file.
        path: PathBuf,
    },
}
