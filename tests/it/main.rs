//! Integration tests: one file per module path.

mod crash;
mod store;
mod store_embedded;
