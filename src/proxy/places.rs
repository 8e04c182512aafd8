//! How many requests for events there may be at once: of all together, and of each caller, so that one
//! that is broken into doesn't keep the others from theirs.

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::proxy::error::{ErrorCode, ProxyError};

/// How many requests are answered at once, waiting claims among them.
const AT_ONCE: usize = 256;
/// How many claims wait at once: each keeps a connection, and looks whenever something arrives.
const WAITING: usize = 64;
/// How many callers have to come together to use all of that up, where there are so many.
const CALLERS: usize = 4;

/// How many requests for events there may be at once, of all or of one caller.
#[derive(Debug)]
pub(super) struct Places {
    at_once: Semaphore,
    waiting: Semaphore,
    whose: &'static str,
    /// Among how many it was divided.
    parts: usize,
}

impl Places {
    pub(super) fn all() -> Self {
        Self {
            at_once: Semaphore::new(AT_ONCE),
            waiting: Semaphore::new(WAITING),
            whose: "of all callers",
            parts: 1,
        }
    }

    /// The share of one of `callers`, so that none of several has all.
    pub(super) fn of_one(callers: usize) -> Self {
        let parts = parts(callers);
        Self {
            at_once: Semaphore::new(AT_ONCE / parts),
            waiting: Semaphore::new(WAITING / parts),
            whose: "of this caller",
            parts,
        }
    }

    /// Whether it is what [`Self::of_one`] gives for so many.
    pub(super) fn are_of_one(&self, callers: usize) -> bool {
        self.parts == parts(callers)
    }

    /// Takes the place of one request.
    pub(super) fn enter(&self) -> Result<SemaphorePermit<'_>, ProxyError> {
        self.place(&self.at_once, "as many requests for events")
    }

    /// Takes the place of one claim that waits.
    pub(super) fn wait(&self) -> Result<SemaphorePermit<'_>, ProxyError> {
        self.place(&self.waiting, "as many waiting claims")
    }

    fn place<'a>(
        &self,
        places: &'a Semaphore,
        full: &str,
    ) -> Result<SemaphorePermit<'a>, ProxyError> {
        // The semaphores are never closed.
        places.try_acquire().map_err(|_| {
            let detail = format!(
                "{full} {} are under way as may be; try again in a second",
                self.whose
            );
            ProxyError::refused(ErrorCode::Overloaded, detail)
        })
    }
}

/// Among how many the places are divided.
fn parts(callers: usize) -> usize {
    callers.clamp(1, CALLERS)
}
