//! The tests that go through the front door of a module or of the whole program.

mod config;
mod crash;
mod protocol;
mod store;
