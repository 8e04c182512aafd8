//! The embedded store: redb.
