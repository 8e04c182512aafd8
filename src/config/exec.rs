//! Commands that references name (`exec:command`): run without a shell, and bounded in time and in
//! what they print.

use std::collections::BTreeSet;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use crate::config::error::Mismatch;
use crate::config::file::{LONGEST, read_whole};

/// Runs `command` without a shell, and without the variables `withheld`, and gives what it prints within
/// `patience`.
pub(super) fn run(
    command: &str,
    withheld: &BTreeSet<String>,
    patience: Duration,
) -> Result<Zeroizing<String>, Mismatch> {
    let failed = |why: String| {
        let program = command.split_whitespace().next().unwrap_or_default();
        Mismatch::new(format!("`exec:{program} …`, which {why}"), EXPECTED).elsewhere()
    };
    let mut words = command.split_whitespace();
    let program = words.next().unwrap_or_default();
    let mut command = Command::new(program);
    // What a service manager tells us isn't for our children, and neither are other secrets.
    for variable in SERVICE_MANAGERS {
        command.env_remove(variable);
    }
    for variable in withheld {
        command.env_remove(variable);
    }
    let mut child = command
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| failed(format!("can't be started ({error})")))?;
    let until = Instant::now() + patience;
    let output = output_of(&mut child, patience);
    // What has closed its output may still not end.
    let status = match &output {
        Some(_) => ended(&mut child, until),
        None => Ok(None),
    };
    let status = status.map_err(|error| failed(format!("got lost ({error})")))?;
    let Some(status) = status else {
        // It may have ended by itself meanwhile: either way it is gone.
        let _ = child.kill();
        let _ = child.wait();
        return Err(failed("took longer than 10 s".to_owned()));
    };
    match output {
        None => Err(failed("took longer than 10 s".to_owned())),
        Some(_) if !status.success() => Err(failed(format!("failed ({status})"))),
        Some(Ok(text)) if text.len() <= LONGEST => Ok(text),
        Some(_) => Err(failed("didn't print UTF-8 of at most 64 KiB".to_owned())),
    }
}

/// What the child prints until it closes its output; `None`: it took too long.
fn output_of(child: &mut Child, within: Duration) -> Option<std::io::Result<Zeroizing<String>>> {
    let mut stdout = child.stdout.take()?;
    let (done, result) = mpsc::channel();
    // A thread of its own, because a pipe has no read timeout. If a grandchild keeps the pipe
    // open it outlives this call and ends with that process.
    std::thread::spawn(move || {
        // Nobody listens any more after the time is over.
        let _ = done.send(read_whole(&mut stdout));
    });
    result.recv_timeout(within).ok()
}

/// How the child ended; `None`: it hasn't by `until`.
fn ended(child: &mut Child, until: Instant) -> std::io::Result<Option<ExitStatus>> {
    loop {
        let status = child.try_wait()?;
        if status.is_some() || Instant::now() >= until {
            return Ok(status);
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// How often a command that has printed all is looked at until it ends.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// What belongs behind `exec:`.
pub(super) const EXPECTED: &str = "a command that prints the secret within 10 s";

/// What a service manager sets for the program it starts.
const SERVICE_MANAGERS: [&str; 4] = [
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PID",
    "NOTIFY_SOCKET",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_prints_nothing_is_not_waited_for_any_longer() {
        let output = |command: &mut Command, within| {
            let mut child = command.stdout(Stdio::piped()).spawn().expect("started");
            let output = output_of(&mut child, Duration::from_millis(within));
            // It may have ended by itself.
            let _ = child.kill();
            child.wait().expect("gone");
            output
        };
        let printed = output(Command::new("echo").arg("a-secret"), 30_000);
        let printed = printed.expect("in time").expect("text");
        assert_eq!(printed.as_str(), "a-secret\n");
        assert!(output(Command::new("sleep").arg("60"), 20).is_none());
    }

    #[test]
    fn a_command_that_has_printed_all_is_waited_for_as_long_as_it_may_take() {
        let spawn = |seconds: &str| Command::new("sleep").arg(seconds).spawn();
        let (mut quick, mut slow) = (spawn("0").expect("sleep"), spawn("60").expect("sleep"));
        let soon = |ms| Instant::now() + Duration::from_millis(ms);
        let quick = ended(&mut quick, soon(30_000)).expect("there");
        assert!(quick.is_some_and(|status| status.success()));
        assert!(ended(&mut slow, soon(20)).expect("there").is_none());
        slow.kill().expect("killed");
        slow.wait().expect("gone");
    }
}
