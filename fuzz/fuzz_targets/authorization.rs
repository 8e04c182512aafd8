//! v3's `Authorization` header: what is signed is a slice of what came, each item once, and what is
//! read is written again as it was.
#![no_main]

use std::collections::HashSet;

use alipay_sidecar::protocol::authorization::{AuthString, Authorization};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(read) = Authorization::parse(text) {
        is_read(text, &read);
    }
    is_written(text);
});

fn is_read(text: &str, read: &Authorization) {
    let scheme = text.split(' ').next().expect("a scheme");
    assert!(scheme.eq_ignore_ascii_case("ALIPAY-SHA256withRSA"));
    let signed = read.auth_string.as_str();
    // Scheme, space, the signed part, `,sign=`, the signature: nothing is passed over.
    let written = format!("{scheme} {signed},sign={}", read.sign);
    assert_eq!(written, text);
    let canonical = read.auth_string.header(&read.sign);
    assert_eq!(Authorization::parse(&canonical).as_ref(), Ok(read));
    let mut names = HashSet::new();
    for item in signed.split(',') {
        let (name, value) = item.split_once('=').expect("a name and a value");
        assert!(names.insert(name) && name != "sign");
        assert_eq!(read.auth_string.get(name), Some(value));
        assert!(value.bytes().all(|byte| byte.is_ascii_graphic()));
    }
    assert!(
        ["app_id", "nonce", "timestamp"]
            .iter()
            .all(|name| names.contains(name))
    );
    let longer = format!("{text} ");
    assert!(Authorization::parse(&longer).is_err());
}

/// Lines: app_id, app_cert_sn, nonce, one more item's name and value.
fn is_written(text: &str) {
    let mut lines = text.split('\n');
    let mut line = || lines.next().unwrap_or_default();
    let (app_id, sn, nonce, name, value) = (line(), line(), line(), line(), line());
    let sn = Some(sn).filter(|sn| !sn.is_empty());
    let Ok(written) = AuthString::new(app_id, sn, nonce, 1_700_000_000_123) else {
        return;
    };
    let written = match name {
        "" => written,
        name => match written.with(name, value) {
            Ok(written) => written,
            Err(_) => return,
        },
    };
    let read = Authorization::parse(&written.header("c2ln")).expect("what is written is read");
    assert_eq!(read.auth_string, written);
    assert_eq!(read.auth_string.get("app_id"), Some(app_id));
    assert_eq!(read.auth_string.get("nonce"), Some(nonce));
    assert_eq!(read.auth_string.get("timestamp"), Some("1700000000123"));
    assert_eq!(
        read.auth_string.get("app_cert_sn"),
        sn.or((name == "app_cert_sn").then_some(value))
    );
}
