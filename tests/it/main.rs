//! Integration tests: one file per module path.

mod store;
mod store_embedded;
