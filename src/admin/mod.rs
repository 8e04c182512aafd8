//! What operators may see and do.

pub mod apps;
pub mod error;
pub mod import;
pub mod inbox;
mod json;
pub mod merchants;
pub mod page;
