//! `tls_cert` and `tls_key` of a listener.

use std::path::PathBuf;

use crate::config::section::Section;

/// The certificate chain and its key: both or none.
pub(crate) fn read(section: &Section<'_>) -> (Option<PathBuf>, Option<PathBuf>) {
    let cert = section.public_file("tls_cert");
    let key = section.secret_file("tls_key");
    if cert.is_some() {
        section.require("tls_key", "`file:path`, because `tls_cert` is set");
    }
    if key.is_some() {
        section.require("tls_cert", "`file:path`, because `tls_key` is set");
    }
    (cert, key)
}
