//! `tls_cert` and `tls_key` of a listener.

use std::path::PathBuf;

use crate::config::section::Section;

/// What is expected beside a certificate.
pub(crate) const KEY_NEEDED: &str = "`file:path`, because `tls_cert` is set";
/// What is expected beside a key.
pub(crate) const CERT_NEEDED: &str = "`file:path`, because `tls_key` is set";

/// The certificate chain and its key: both or none.
pub(crate) fn read(section: &Section<'_>) -> (Option<PathBuf>, Option<PathBuf>) {
    let cert = section.public_file("tls_cert");
    let key = section.secret_file("tls_key");
    if cert.is_some() {
        section.require("tls_key", KEY_NEEDED);
    }
    if key.is_some() {
        section.require("tls_cert", CERT_NEEDED);
    }
    (cert, key)
}
