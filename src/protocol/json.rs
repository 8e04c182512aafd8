//! A strict scanner over raw JSON text.

use super::{charset::Charset, error::JsonError};

/// Checks that a text is exactly one JSON object in the charset.
///
/// # Errors
///
/// [`JsonError`] with the place where it isn't.
pub fn is_one_object(_text: &[u8], _charset: Charset) -> Result<(), JsonError> {
    unimplemented!()
}
