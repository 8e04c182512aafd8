//! The examples are run as they are: each ends by itself, and says what was verified.

use std::path::{Path, PathBuf};
use std::process::Command;

/// `cargo test` puts examples beside its own `deps`, whatever the target directory and the
/// profile: `target/debug/deps/it-…` runs, `target/debug/examples/embed` is there.
fn directory() -> PathBuf {
    let own = std::env::current_exe().expect("the path of the test");
    let deps = own.parent().expect("a directory");
    deps.parent().unwrap_or(deps).join("examples")
}

fn check(name: &str, expected: &str) {
    let program = directory().join(name);
    assert!(
        Path::new(&program).exists(),
        "{} is missing; `cargo test` builds it, `cargo test --test it` alone doesn't: run `cargo build --examples`",
        program.display()
    );
    let output = Command::new(&program).output().expect("the example runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{name}: {said}{complaint}");
    let found = said.lines().any(|line| line.starts_with(expected));
    assert!(found, "{name} doesn't say `{expected}`: {said}{complaint}");
}

#[test]
fn sign_only_signs_and_verifies() {
    check(
        "sign_only",
        r#"signed: app_id=2021000000000001&biz_content={"#,
    );
    check("sign_only", r#"verified: {"code":"10000""#);
}

#[cfg(feature = "simulator")]
#[test]
fn embed_calls_in_process() {
    check("embed", r#"verified: {"code":"10000""#);
}

#[cfg(feature = "simulator")]
#[test]
fn mount_in_axum_calls_through_the_host() {
    check("mount_in_axum", r#"verified: {"code":"10000""#);
}
