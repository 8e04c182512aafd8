//! The program begins on a disk that takes nothing any more: calls go on, and so does the command line
//! where the admin token that stands there can be trusted.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::support::program::{Installation, Program};
use crate::support::{PATIENCE, client, raw};

/// No file of its may grow, until [`make_room`].
fn start_on_full_disk(installation: &Installation) -> Program {
    installation.start_by(|program| {
        let mut shell = Command::new("sh");
        let limited = format!("trap '' XFSZ; ulimit -S -f 0; exec {program} run");
        shell.args(["-c", &limited]).stdin(Stdio::null());
        shell
    })
}

fn make_room(program: &Program) {
    let pid = i32::try_from(program.pid()).ok().and_then(Pid::from_raw);
    let none = Rlimit {
        current: None,
        maximum: None,
    };
    prlimit(Some(pid.expect("a pid")), Resource::Fsize, none).expect("lifted");
}

async fn is_let_in(program: &Program, token: &str) -> bool {
    let request = format!(
        "GET /api/apps HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n",
        raw::authority(&program.admin)
    );
    let answer = raw::exchange(&program.admin, request.as_bytes()).await;
    let is_refused = answer.starts_with("HTTP/1.1 401");
    assert!(is_refused || answer.starts_with("HTTP/1.1 200"), "{answer}");
    !is_refused
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_begins_and_the_admin_token_that_stands_there_stays_in_force() {
    let installation = Installation::new("http://127.0.0.1:9/");
    let program = installation.start();
    program.ready(&client()).await;
    assert_eq!(program.terminate(), Some(0));
    let path = installation.path().join("admin.token");
    let token = std::fs::read_to_string(&path).expect("left");
    let program = start_on_full_disk(&installation);
    assert!(is_let_in(&program, &token).await);
    assert_eq!(std::fs::read_to_string(&path).expect("kept"), token);
    program.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_begins_and_what_may_be_known_to_others_is_no_admin_token() {
    let installation = Installation::new("http://127.0.0.1:9/");
    let program = installation.start();
    program.ready(&client()).await;
    assert_eq!(program.terminate(), Some(0));
    let path = installation.path().join("admin.token");
    let token = std::fs::read_to_string(&path).expect("left");
    let narrowed = |text: &str| {
        std::fs::write(&path, text).expect("written");
        set_mode(&path, 0o600);
    };
    let elsewhere = installation.path().join("elsewhere");
    let short = token.get(1..).expect("ASCII");
    for fault in ["empty", "short", "open to the group", "a link", "missing"] {
        match fault {
            "empty" => narrowed(""),
            "short" => narrowed(short),
            "open to the group" => {
                narrowed(&token);
                set_mode(&path, 0o640);
            }
            "a link" => {
                set_mode(&path, 0o600);
                std::fs::rename(&path, &elsewhere).expect("moved");
                std::os::unix::fs::symlink(&elsewhere, &path).expect("linked");
            }
            _ => std::fs::remove_file(&path).expect("removed"),
        }
        let program = start_on_full_disk(&installation);
        for given in [&*token, short, ""] {
            assert!(!is_let_in(&program, given).await, "{fault}");
        }
        if fault == "missing" {
            // Once there is room, the token is left after all.
            make_room(&program);
            let left = async {
                loop {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    if let Ok(token) = std::fs::read_to_string(&path) {
                        return token;
                    }
                }
            };
            let left = tokio::time::timeout(PATIENCE, left).await.expect("left");
            assert!(is_let_in(&program, &left).await);
        }
        program.kill();
    }
}
