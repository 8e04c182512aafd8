//! The life of authorisations against models of it: random sequences, each step compared.
//!
//! `STATE_SEQUENCES` says how many sequences of each kind are tried; without it, some hundred.

mod refreshing;
mod triples;

/// How many sequences are tried.
fn sequences(otherwise: u32) -> u32 {
    let asked = std::env::var("STATE_SEQUENCES").ok();
    asked
        .and_then(|text| text.parse().ok())
        .unwrap_or(otherwise)
}
