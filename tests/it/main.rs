//! Everything but pure code, through the front door.

mod config;
