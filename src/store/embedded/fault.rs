//! How work on the file can fail inside this module.

use std::io::ErrorKind;

use crate::store::error::StoreError;

/// Why a piece of work was not done.
#[derive(Debug)]
pub(super) enum Fault {
    /// redb or the disk gave up; the database has to be opened anew.
    Broken {
        /// Why.
        reason: String,
        /// The disk has no room left.
        is_full: bool,
    },
    /// This one is refused or met a damaged record; its neighbours are well.
    Refused(StoreError),
}

impl Fault {
    /// That something gave up which isn't the disk.
    pub(super) fn broken(reason: String) -> Self {
        Self::Broken {
            reason,
            is_full: false,
        }
    }

    fn of_redb(error: &redb::Error) -> Self {
        let is_full = |kind| matches!(kind, ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
        Self::Broken {
            reason: error.to_string(),
            is_full: matches!(error, redb::Error::Io(error) if is_full(error.kind())),
        }
    }

    /// The error a caller sees.
    pub(super) fn into_error(self) -> StoreError {
        match self {
            Self::Broken { reason, .. } => StoreError::Unavailable { reason },
            Self::Refused(error) => error,
        }
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Refused(error)
    }
}

/// redb's errors are all of one kind for us.
macro_rules! broken {
    ($($error:ty),*) => {$(
        impl From<$error> for Fault {
            fn from(error: $error) -> Self {
                Self::of_redb(&error.into())
            }
        }
    )*};
}

broken!(
    redb::CommitError,
    redb::DatabaseError,
    redb::StorageError,
    redb::TableError,
    redb::TransactionError
);
