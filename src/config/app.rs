//! `[[app]]`: the ISV's own applications, read into [`App`].
//!
//! [`App`]: crate::model::app::App
