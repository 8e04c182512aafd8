//! The whole webhook, over a socket: raw bytes come in. Nobody here can sign as Alipay does, so no
//! notification is ever acknowledged or stored, no merchant authorised, and no answer holds a secret.
#![no_main]

use std::sync::LazyLock;
use std::time::Duration;

use alipay_sidecar_fuzz::world::{World, leaks};
use libfuzzer_sys::fuzz_target;

static WORLD: LazyLock<World> = LazyLock::new(World::start);

fuzz_target!(|data: &[u8]| {
    let answer = WORLD.notify(data, Duration::from_secs(8));
    let answer = answer.expect("an answer, or the end of the connection");
    assert!(!leaks(data, &answer), "a secret in the answer");
    assert!(
        answer.is_empty() || answer.starts_with(b"HTTP/1."),
        "no HTTP"
    );
    assert!(
        !answer.ends_with(b"\r\n\r\nsuccess"),
        "acknowledged what nobody signed"
    );
    WORLD.holds_no_notification(&answer);
});
