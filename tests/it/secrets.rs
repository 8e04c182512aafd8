//! What the running program shows of its secrets to others on the same machine.
#![cfg(target_os = "linux")]

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use http::{Method, Request};
use http_body_util::Full;

use crate::support::supervisor::{Program, Supervisor, program};
use crate::support::{PATIENCE, client, text};

const TOKEN: &str = "canary-of-the-environment";
/// A user that owns nothing but what a test gives it.
const NOBODY: u32 = 65_532;

fn proc(program: &Program, name: &str) -> PathBuf {
    Path::new("/proc")
        .join(program.0.id().to_string())
        .join(name)
}

/// What a file of `/proc` shows of the program. `None`: it is shut to us, too, as it is to whoever
/// isn't root or may not look into other processes.
fn seen(program: &Program, name: &str) -> Option<Vec<u8>> {
    match std::fs::read(proc(program, name)) {
        Ok(bytes) => Some(bytes),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => None,
        Err(error) => panic!("{name}: {error}"),
    }
}

fn shows(bytes: &[u8], text: &str) -> bool {
    bytes
        .windows(text.len())
        .any(|window| window == text.as_bytes())
}

pub async fn admin_answers(supervisor: &Supervisor, token: &str) -> u16 {
    let request = Request::builder()
        .method(Method::GET)
        .uri(format!("http://{}/api/apps", supervisor.admin))
        .header("authorization", format!("Bearer {token}"))
        .body(Full::<bytes::Bytes>::default());
    let reply = client().send(request.expect("a request"), PATIENCE).await;
    reply.expect("an answer").status.as_u16()
}

pub async fn ended(mut program: Program) -> Option<i32> {
    program.signal("TERM");
    let end = tokio::task::spawn_blocking(move || program.end());
    end.await.expect("no panic")
}

/// One secret from the environment, and one from a command.
const BOTH_KINDS: &str = "[delivery]
signing_secret = \"exec:./secret\"
[admin]
token = \"env:TOKEN_OF_TEST\"
";

/// Prints a secret, and leaves behind what it was given.
const SCRIPT: &str = "#!/bin/sh
env >child.env
ls -l /proc/self/fd >child.fds
echo c2VjcmV0IG9mIGEgdGVzdCBvZiBhIGNvbW1hbmQh
";

fn exec(directory: &Path) {
    let path = directory.join("secret");
    std::fs::write(&path, SCRIPT).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).expect("set");
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_leave_the_environment_and_are_still_known() {
    let supervisor = Supervisor::start().await;
    exec(supervisor.path());
    supervisor.edit("[admin]\n", BOTH_KINDS);
    let mut command = supervisor.command("proxy:webhook:admin", &[]);
    command.env("TOKEN_OF_TEST", TOKEN).env("ORDINARY", "kept");
    let started = command.spawn().expect("started");
    let program = Program(started);
    supervisor.noticed("READY=1");
    let arguments = seen(&program, "cmdline").expect("shown to everybody");
    assert!(!shows(&arguments, TOKEN) && shows(&arguments, "run"));
    if let Some(environment) = seen(&program, "environ") {
        assert!(!shows(&environment, TOKEN));
        assert!(shows(&environment, "ORDINARY=kept"));
    }
    let name = std::fs::read_to_string(proc(&program, "comm")).expect("readable");
    assert_eq!(name.trim(), "alipay-sidecar");
    let handed = seen(&program, "fd/0").unwrap_or_default();
    assert!(handed.is_empty(), "what was handed over is wiped");
    assert_eq!(admin_answers(&supervisor, TOKEN).await, 200);
    assert_eq!(admin_answers(&supervisor, "another").await, 401);
    let left = |name| std::fs::read_to_string(supervisor.path().join(name)).expect("left");
    let environment = left("child.env");
    assert!(environment.contains("ORDINARY=kept"), "{environment}");
    for withheld in [TOKEN, "TOKEN_OF_TEST", "LISTEN_", "NOTIFY_SOCKET"] {
        assert!(!environment.contains(withheld), "{environment}");
    }
    let descriptors = left("child.fds");
    for inherited in ["socket:", "memfd:", "sidecar.redb"] {
        assert!(!descriptors.contains(inherited), "{descriptors}");
    }
    assert_eq!(ended(program).await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_of_any_verb_see_no_secret_of_the_configuration() {
    let supervisor = Supervisor::start().await;
    exec(supervisor.path());
    supervisor.edit("[admin]\n", BOTH_KINDS);
    let mut command = program(supervisor.path(), &["check"]);
    let output = command
        .env("TOKEN_OF_TEST", TOKEN)
        .output()
        .expect("started");
    assert!(output.status.success(), "{output:?}");
    let environment = supervisor.path().join("child.env");
    let environment = std::fs::read_to_string(environment).expect("left");
    assert!(!environment.contains(TOKEN), "{environment}");
}

/// Everything below `path` belongs to [`NOBODY`] from now on.
fn give_away(path: &Path) {
    std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).expect("changed");
    if path.is_dir() {
        for entry in std::fs::read_dir(path).expect("readable") {
            give_away(&entry.expect("readable").path());
        }
    }
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").expect("there").uid() == 0
}

/// The program as a user who isn't root, where we are root and may choose: then `directory` is that
/// user's, and a copy in it is run, since nobody else need be able to enter the folder that it was
/// built in.
fn unprivileged(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = program(directory, arguments);
    if is_root() {
        let copy = directory.join("alipay-sidecar");
        // By a process of its own: a child that another test starts meanwhile would hold the file
        // open for writing, and what is open so can't be run.
        let mut cp = Command::new("cp");
        let copied = cp.arg(command.get_program()).arg(&copy).status();
        assert!(copied.expect("cp").success());
        command = Command::new(copy);
        command.args(arguments).current_dir(directory).env_clear();
        command.stdin(Stdio::null()).uid(NOBODY).gid(NOBODY);
        give_away(directory);
    }
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_of_the_same_user_may_look_into_the_process() {
    let mut supervisor = Supervisor::start().await;
    supervisor.let_go();
    supervisor.edit("[admin]\n", "[admin]\ntoken = \"env:TOKEN_OF_TEST\"\n");
    let mut command = unprivileged(supervisor.path(), &["run"]);
    command.env("TOKEN_OF_TEST", TOKEN);
    command.env("NOTIFY_SOCKET", supervisor.path().join("notify"));
    let mut spy = Command::new("cat");
    if is_root() {
        spy.uid(NOBODY).gid(NOBODY);
    }
    let started = command.stderr(Stdio::null()).spawn().expect("started");
    let program = Program(started);
    supervisor.noticed("READY=1");
    for file in ["environ", "maps", "mem", "auxv"] {
        let path = proc(&program, file);
        let owner = std::fs::metadata(&path).expect("there").uid();
        assert_eq!(owner, 0, "{file} is root's alone");
    }
    let looked = spy
        .arg(proc(&program, "environ"))
        .output()
        .expect("started");
    assert!(!looked.status.success(), "{looked:?}");
    let limits = std::fs::read_to_string(proc(&program, "limits")).expect("readable");
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"));
    let words: Vec<_> = core.expect("a limit").split_whitespace().collect();
    assert_eq!(words[4..6], ["0", "0"], "{limits}");
    // What the system tells a process of itself it still reads.
    let request = Request::get(format!("http://{}/metrics", supervisor.admin));
    let request = request.body(Full::<bytes::Bytes>::default());
    let metrics = client().send(request.expect("a request"), PATIENCE).await;
    let metrics = text(&metrics.expect("an answer"));
    for series in ["process_open_fds", "process_resident_memory_bytes"] {
        assert!(metrics.contains(&format!("\n{series} ")), "{metrics}");
    }
    assert_eq!(ended(program).await, Some(0));
}

#[test]
fn verbs_that_are_told_secrets_are_private_too() {
    let directory = tempfile::tempdir().expect("a directory");
    let add = ["merchant", "add", "--app", "1"];
    let arguments = [&add[..], &["--auth-app-id", "2", "--token", "-"]].concat();
    let mut command = unprivileged(directory.path(), &arguments);
    command.stdin(Stdio::piped()).stderr(Stdio::null());
    // It waits for its token.
    let waiting = Program(command.spawn().expect("started"));
    let began = std::time::Instant::now();
    let environment = proc(&waiting, "environ");
    while std::fs::metadata(&environment).expect("there").uid() != 0 {
        assert!(began.elapsed() < PATIENCE, "it is readable for its user");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_made_are_for_their_owner_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let made = directory.path().join("made");
    let mut command = Command::new("/bin/sh");
    // The widest mask there is: nothing may depend on it.
    let script = r#"umask 0; exec "$0" init --dir made"#;
    command.args(["-c", script, env!("CARGO_BIN_EXE_alipay-sidecar")]);
    let output = command
        .current_dir(directory.path())
        .output()
        .expect("started");
    assert!(output.status.success(), "{output:?}");
    let mut files = 0;
    let mut folders = vec![made];
    while let Some(folder) = folders.pop() {
        let mode = |path: &Path| std::fs::metadata(path).expect("there").mode() & 0o777;
        assert_eq!(mode(&folder), 0o700, "{}", folder.display());
        for entry in std::fs::read_dir(&folder).expect("readable") {
            let path = entry.expect("readable").path();
            match path.is_dir() {
                true => folders.push(path),
                false => {
                    assert_eq!(mode(&path), 0o600, "{}", path.display());
                    files += 1;
                }
            }
        }
    }
    assert!(files >= 6, "{files}");
}
