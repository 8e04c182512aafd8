//! Looks for secrets as the other target does.

#[path = "../it/canaries/search.rs"]
pub mod search;
