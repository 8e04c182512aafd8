//! What this process holds is for nobody else on the machine: not in a core dump, not through a
//! debugger, not in the text of a panic.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::PanicHookInfo;

use crate::cli::output::complain;

/// Forbids core dumps, and forbids processes of the same user to read this one's memory,
/// environment and descriptors: each would show keys. Contract §11.
pub(crate) fn keep_memory_private() {
    if let Err(error) = forbid_core_dumps().and_then(|()| forbid_looking()) {
        complain(format!(
            "alipay-sidecar: other processes of this user may read this one's memory ({error})"
        ));
    }
}

fn forbid_core_dumps() -> rustix::io::Result<()> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    // A limit of 0 holds for dumps into files; a handler that the kernel pipes dumps to is kept
    // off by what follows.
    setrlimit(Resource::Core, none)
}

#[cfg(target_os = "linux")]
fn forbid_looking() -> rustix::io::Result<()> {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
}

#[cfg(not(target_os = "linux"))]
fn forbid_looking() -> rustix::io::Result<()> {
    Ok(())
}

/// Tells of panics where they happened, and what they say only where that is a text of the
/// program's own: one that was put together may hold data of a request. Contract §11.
pub(crate) fn tell_panics_without_data() {
    std::panic::set_hook(Box::new(tell));
}

fn tell(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string);
    let place = place.as_deref().unwrap_or("an unknown place");
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    let text = text_of(panic);
    if tracing::dispatcher::has_been_set() {
        tracing::error!(place, thread, text, "a panic: a fault of this program");
    } else {
        complain(format!(
            "alipay-sidecar: a panic, a fault of this program, at {place} in thread {thread}: {text}"
        ));
    }
    let trace = Backtrace::capture();
    if trace.status() == BacktraceStatus::Captured {
        complain(trace);
    }
}

fn text_of(panic: &PanicHookInfo<'_>) -> &'static str {
    let literal = panic.payload().downcast_ref::<&'static str>();
    literal.copied().unwrap_or("(its text may hold data)")
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Hooks are the process's: what is told stands here while the one test runs.
    static TOLD: Mutex<Vec<&'static str>> = Mutex::new(Vec::new());

    #[test]
    fn a_text_with_data_in_it_is_not_told() {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(|panic| {
            TOLD.lock().expect("no panic here").push(text_of(panic));
        }));
        let token = String::from("a-token");
        let wrong = || Err::<(), _>(token.clone());
        let panics: [&(dyn Fn() + std::panic::RefUnwindSafe); 3] =
            [&|| panic!("a literal"), &|| panic!("{token}"), &|| {
                wrong().expect("proved")
            }];
        for panic in panics {
            assert!(std::panic::catch_unwind(panic).is_err());
        }
        std::panic::set_hook(before);
        let told = TOLD.lock().expect("no panic here");
        assert!(told.contains(&"a literal"), "{told:?}");
        assert!(!told.iter().any(|text| text.contains("token")), "{told:?}");
    }
}
