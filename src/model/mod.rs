//! The records the sidecar keeps and their identifiers: plain data, always valid once built.
//!
//! What happens to a record (a newer authorisation, a cancellation) is decided here by pure
//! functions, so that every store agrees on it.

pub mod app;
pub mod app_keys;
pub mod authorization;
pub mod call;
pub mod certificate;
pub mod delivery;
pub mod event;
pub mod id;
pub mod merchant;
pub mod notification;
pub mod selector;
pub mod token;
pub mod user_token;
