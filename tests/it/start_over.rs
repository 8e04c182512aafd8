//! `run` starts itself over without the secrets of its environment: however its configuration came,
//! and however it was started.
#![cfg(target_os = "linux")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::secrets::{admin_answers, ended};
use crate::support::supervisor::{Program, Supervisor, program};

const TOKEN: &str = "canary-of-a-pipe-77c1";

/// A supervisor that has let go of its sockets, with a token from the environment or from a file.
async fn supervisor(reference: &str) -> (Supervisor, String) {
    let mut supervisor = Supervisor::start().await;
    supervisor.let_go();
    let token = supervisor.path().join("token");
    std::fs::write(&token, TOKEN).expect("written");
    narrow(&token);
    supervisor.edit("[admin]\n", &format!("[admin]\ntoken = \"{reference}\"\n"));
    let path = supervisor.path().join("config.toml");
    let text = std::fs::read_to_string(&path).expect("readable");
    std::fs::remove_file(path).expect("removed: the pipe is all there is");
    (supervisor, text)
}

fn narrow(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("set");
}

fn prepared(mut command: Command, supervisor: &Supervisor) -> Command {
    command.env("TOKEN_OF_TEST", TOKEN);
    command.env("NOTIFY_SOCKET", supervisor.path().join("notify"));
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// It serves, knows the token, and ends well.
async fn serves(supervisor: &Supervisor, program: Program) {
    supervisor.noticed("READY=1");
    assert_eq!(admin_answers(supervisor, TOKEN).await, 200);
    assert_eq!(admin_answers(supervisor, "another").await, 401);
    assert_eq!(ended(program).await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_from_standard_input_is_read_once() {
    for reference in ["env:TOKEN_OF_TEST", "file:token"] {
        let (supervisor, text) = supervisor(reference).await;
        let command = program(supervisor.path(), &["-c", "/dev/stdin", "run"]);
        let mut command = prepared(command, &supervisor);
        let mut child = command.stdin(Stdio::piped()).spawn().expect("started");
        let mut stdin = child.stdin.take().expect("piped");
        stdin.write_all(text.as_bytes()).expect("written");
        drop(stdin);
        serves(&supervisor, Program(child)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_from_a_named_pipe_is_read_once() {
    let (supervisor, text) = supervisor("env:TOKEN_OF_TEST").await;
    let pipe = supervisor.path().join("pipe.toml");
    let made = Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("mkfifo").success());
    let command = program(supervisor.path(), &["-c", "pipe.toml", "run"]);
    let child = prepared(command, &supervisor).spawn().expect("started");
    // Ends once somebody reads, and whoever opened it a second time would wait for ever.
    std::fs::write(pipe, text).expect("written");
    serves(&supervisor, Program(child)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn verbs_take_a_configuration_from_standard_input_as_well() {
    let (supervisor, text) = supervisor("file:token").await;
    for verb in [&["check"][..], &["merchant", "list"], &["store", "stats"]] {
        let arguments = [&["-c", "/dev/stdin"], verb].concat();
        let mut command = program(supervisor.path(), &arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.stdin(Stdio::piped()).spawn().expect("started");
        let mut stdin = child.stdin.take().expect("piped");
        stdin.write_all(text.as_bytes()).expect("written");
        drop(stdin);
        let output = child.wait_with_output().expect("ended");
        assert!(output.status.success(), "{verb:?}: {output:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_first_start_handed_over_is_neither_believed_nor_emptied() {
    let supervisor = Supervisor::start().await;
    let path = supervisor.path().join("kept");
    std::fs::write(&path, "NAME\0value\0").expect("written");
    let stdin = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path);
    let mut command = Command::new("/bin/sh");
    let script = r#"export ALIPAY_SIDECAR_HANDED_TO=$$; exec "$0" run"#;
    command
        .args(["-c", script, env!("CARGO_BIN_EXE_alipay-sidecar")])
        .current_dir(supervisor.path())
        .env_clear()
        .stdin(stdin.expect("opened"));
    let output = command.output().expect("started");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("isn't what a first start handed over"),
        "{said}"
    );
    let kept = std::fs::read_to_string(path).expect("readable");
    assert_eq!(kept, "NAME\0value\0");
}

/// The dynamic linker of this host, where it has one that takes programs.
fn linker() -> Option<PathBuf> {
    let known = [
        "/lib64/ld-linux-x86-64.so.2",
        "/lib/ld-linux-aarch64.so.1",
        "/lib/ld-musl-x86_64.so.1",
        "/lib/ld-musl-aarch64.so.1",
    ];
    known.map(PathBuf::from).into_iter().find(|path| {
        let tried = Command::new(path)
            .args([env!("CARGO_BIN_EXE_alipay-sidecar"), "version"])
            .output();
        tried.is_ok_and(|output| output.status.success())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_the_linker_was_started_with_starts_over_the_same_way() {
    let Some(linker) = linker() else {
        crate::support::skipped(
            "no dynamic linker here runs the program, so it wasn't started by one",
        );
        return;
    };
    let (supervisor, text) = supervisor("env:TOKEN_OF_TEST").await;
    std::fs::write(supervisor.path().join("config.toml"), text).expect("written");
    let mut command = Command::new(linker);
    command
        .args([env!("CARGO_BIN_EXE_alipay-sidecar"), "run"])
        .current_dir(supervisor.path())
        .env_clear()
        .stdin(Stdio::null());
    let child = prepared(command, &supervisor).spawn().expect("started");
    serves(&supervisor, Program(child)).await;
}
