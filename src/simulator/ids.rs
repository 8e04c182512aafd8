//! Random ids in the shapes Alipay gives them.
use std::fmt::Write as _;

use rsa::rand_core::{OsRng, RngCore as _};

/// Makes `bytes` random bytes in lower-case hexadecimal.
pub(super) fn hex(bytes: usize) -> String {
    let mut buffer = vec![0; bytes];
    OsRng.fill_bytes(&mut buffer);
    buffer.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Makes `len` random decimal digits.
pub(super) fn digits(len: usize) -> String {
    (0..len)
        .map(|_| char::from(b'0' + (OsRng.next_u32() % 10) as u8))
        .collect()
}

/// Makes an `app_auth_token` or `app_refresh_token`: 40 characters.
pub(super) fn app_auth_token() -> String {
    format!("202611BB{}", hex(16))
}

/// Makes an `app_auth_code` or `auth_code`: 32 characters.
pub(super) fn code() -> String {
    hex(16)
}

/// Makes a user's `access_token` or `refresh_token`: 40 characters.
pub(super) fn access_token() -> String {
    format!("authusrB{}", hex(16))
}

/// Makes a `trade_no`: 28 digits.
pub(super) fn trade_no() -> String {
    format!("20261122{}", digits(20))
}
