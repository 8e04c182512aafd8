//! The `state` of authorisation links: what we make is read as it was made, by its own app alone;
//! nothing else is, and no state can be spelled in two ways.
//!
//! Input: a flag byte, and a `ref`, or a state.
#![no_main]

use std::sync::LazyLock;

use alipay_sidecar::model::id::AppId;
use alipay_sidecar::webhook::state::StateKey;
use alipay_sidecar_fuzz::first;
use libfuzzer_sys::fuzz_target;

static KEY: LazyLock<StateKey> = LazyLock::new(|| StateKey::derive(b"a store key"));
static APPS: LazyLock<[AppId; 2]> = LazyLock::new(|| {
    ["2021000122671080", "2021000122671081"].map(|id| AppId::new(id).expect("id"))
});

const NOW_MS: i64 = 1_795_000_000_000;

fuzz_target!(|data: &[u8]| {
    let (flag, rest) = first(data);
    let Ok(text) = std::str::from_utf8(rest) else {
        return;
    };
    if KEY.read_fuzzed(&APPS[0], text).is_some() {
        // Only what was made here, in an earlier run, can be: the corpus may hold such ones.
        assert_eq!(KEY.read_fuzzed(&APPS[1], text), None);
    }
    if text.chars().count() <= 64 {
        made(text, flag);
    }
});

fn made(reference: &str, flag: u8) {
    let given = Some(reference).filter(|reference| !reference.is_empty());
    for as_base64 in [false, true] {
        let state = KEY
            .make_fuzzed(&APPS[0], given, NOW_MS, as_base64)
            .expect("random numbers");
        assert!(state.len() <= 100, "Alipay's limit");
        assert!(
            state
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        );
        let (expires_at, read) = KEY
            .read_fuzzed(&APPS[0], &state)
            .expect("what is made is read");
        assert_eq!(expires_at, NOW_MS / 1000 + 60);
        // `None`: it waits in the store.
        assert!(read.is_none_or(|read| read.as_deref() == given));
        assert_eq!(KEY.read_fuzzed(&APPS[1], &state), None);
        changed(&state, flag);
    }
}

fn changed(state: &str, flag: u8) {
    let at = usize::from(flag) * state.len() / 256;
    let mut bytes = state.as_bytes().to_vec();
    for other in [bytes[at] ^ 1, bytes[at] ^ 0x20, b'A', b'_'] {
        if other != bytes[at] && other.is_ascii() {
            let kept = std::mem::replace(&mut bytes[at], other);
            let text = std::str::from_utf8(&bytes).expect("ASCII");
            assert_eq!(KEY.read_fuzzed(&APPS[0], text), None);
            bytes[at] = kept;
        }
    }
    for text in [
        format!("{state}A"),
        format!("A{state}"),
        state[1..].to_owned(),
    ] {
        assert_eq!(KEY.read_fuzzed(&APPS[0], &text), None);
    }
}
