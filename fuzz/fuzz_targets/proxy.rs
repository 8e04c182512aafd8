//! The whole proxy, over a socket: raw bytes come in, an Alipay that remembers stands behind.
//! Whatever a caller writes, what is forwarded is a call of ours: our app, a token that the store
//! holds, each name once, nothing of the caller's among what the sidecar owns, and a signature that
//! an independent look finds good. Where callers are told apart, nothing is forwarded that the owner
//! of a token in the input may not call. No answer holds a secret, and none is left out.
#![no_main]

use std::sync::LazyLock;
use std::time::Duration;

use alipay_sidecar_fuzz::world::{World, leaks};
use libfuzzer_sys::fuzz_target;

static WORLD: LazyLock<World> = LazyLock::new(World::start);

fuzz_target!(|data: &[u8]| {
    // A claim of events may wait for one; everything else is answered at once.
    let may_wait = data.windows(8).any(|bytes| bytes == b"/events/");
    let patience = Duration::from_millis(if may_wait { 20 } else { 8000 });
    let Some(answer) = WORLD.call(data, patience) else {
        assert!(may_wait, "no answer");
        return;
    };
    assert!(!leaks(data, &answer), "a secret in the answer");
    assert!(
        answer.is_empty() || answer.starts_with(b"HTTP/1."),
        "no HTTP"
    );
});
