//! Records of the store: what was sealed opens in its own place alone and with every bit as it was;
//! nothing else opens; and a record that is read is written and read again without a change.
//!
//! Input: a flag byte, and the plain or the sealed bytes.
#![no_main]

use std::sync::LazyLock;

use alipay_sidecar::store::embedded::fuzzing::{KINDS, Records};
use alipay_sidecar::store::seal::StoreKey;
use alipay_sidecar_fuzz::first;
use libfuzzer_sys::fuzz_target;

static RECORDS: LazyLock<Records> = LazyLock::new(|| {
    let key = StoreKey::from_base64("QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=");
    Records::new(&key.expect("a key"))
});

fuzz_target!(|data: &[u8]| {
    let (flag, rest) = first(data);
    match flag & 1 {
        0 => sealed(flag, rest),
        _ => plain(usize::from(flag >> 1), rest),
    }
});

fn sealed(flag: u8, bytes: &[u8]) {
    // Nobody has the key.
    assert_eq!(RECORDS.open(("table", b"key"), bytes), None);
    let mut sealed = RECORDS.seal(("table", b"key"), bytes);
    assert_eq!(
        RECORDS.open(("table", b"key"), &sealed).as_deref(),
        Some(bytes)
    );
    for place in [
        ("tabl", &b"ekey"[..]),
        ("tablek", b"ey"),
        ("table", b"key2"),
        ("other", b"key"),
    ] {
        assert_eq!(RECORDS.open(place, &sealed), None);
    }
    assert!(bytes.len() < 8 || !sealed.windows(bytes.len()).any(|window| window == bytes));
    assert_eq!(
        RECORDS.open(("table", b"key"), &sealed[..sealed.len() - 1]),
        None
    );
    let at = usize::from(flag) * sealed.len() / 256;
    sealed[at] ^= 1 << (flag >> 1 & 7);
    assert_eq!(RECORDS.open(("table", b"key"), &sealed), None);
}

fn plain(kind: usize, bytes: &[u8]) {
    let kind = KINDS[kind % KINDS.len()];
    let Some(written) = RECORDS.written_anew(kind, bytes) else {
        return;
    };
    let again = RECORDS.written_anew(kind, &written);
    assert_eq!(again.expect("what is written is read"), written);
}
