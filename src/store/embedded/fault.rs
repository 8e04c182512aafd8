//! How work on the file can fail inside this module.

use crate::store::error::StoreError;

/// Why a piece of work was not done.
#[derive(Debug)]
pub(super) enum Fault {
    /// redb or the disk gave up; the database has to be opened anew.
    Broken(String),
    /// This one is refused or met a damaged record; its neighbours are well.
    Refused(StoreError),
}

impl Fault {
    /// The error a caller sees.
    pub(super) fn into_error(self) -> StoreError {
        match self {
            Self::Broken(reason) => StoreError::Unavailable { reason },
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
                Self::Broken(error.to_string())
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
