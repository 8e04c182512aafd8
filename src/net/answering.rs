//! Which request of a connection is being answered: shared by who reads its bytes, who answers, and who reads
//! a body.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use hyper::body::Incoming;

use crate::net::hang_up::Asked;
use crate::net::head::HeadFault;

/// Whether a request is being answered, so that what arrives is no head. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answering(Arc<Turns>);

/// A length that nobody said: the body ends where it says so itself. hyper takes none that is so large.
const UNSAID: u64 = u64::MAX;

#[derive(Debug, Default)]
struct Turns {
    /// Each beginning and each end, so that it is odd while one is being answered.
    count: AtomicU64,
    /// The turn of that of which a part wasn't read yet; there is none of the turn 0.
    unread: AtomicU64,
    /// How long the body of the last one is, or [`UNSAID`].
    length: AtomicU64,
    /// Whether the target of the head that came last has a `#`.
    has_fragment: AtomicBool,
    /// Whether the head that came last was cut off, and why; nothing comes behind it.
    cut_off: OnceLock<HeadFault>,
    /// Whether what came in the place of a head begins as TLS does.
    is_tls: AtomicBool,
    /// Whether whoever answers asked for the socket.
    asked: Asked,
    rest: Mutex<Rest>,
}

/// What nobody read of a body.
#[derive(Debug, Default)]
struct Rest {
    body: Option<Incoming>,
    /// Whose was asked for: whatever is given up later isn't kept.
    asked: u64,
}

impl Answering {
    /// A head is complete, and so much more is to be read, or what says itself where it ends. Gives the
    /// turn that it has.
    pub(crate) fn begin(&self, length: Option<u64>) -> u64 {
        // Nobody else begins, or ends, a turn of this connection meanwhile.
        let turn = self.turn() + 1;
        let unread = if length == Some(0) { 0 } else { turn };
        self.0.unread.store(unread, Ordering::Release);
        let length = length.unwrap_or(UNSAID);
        self.0.length.store(length, Ordering::Release);
        self.0.count.store(turn, Ordering::Release);
        turn
    }

    /// How long the body of the request is that began last, where that was said before it.
    pub(crate) fn length(&self) -> Option<u64> {
        let length = self.0.length.load(Ordering::Acquire);
        (length != UNSAID).then_some(length)
    }

    /// Whether the target of the head that is complete now has a `#`. hyper cuts it off there, and says
    /// nothing: what stands behind it, a whole `notify_url`, would just be gone. (Where it isn't sure that a
    /// head begins isn't looked: see [`Heads`](super::heads::Heads).)
    pub(crate) fn has_fragment(&self) -> bool {
        self.0.has_fragment.load(Ordering::Acquire)
    }

    pub(crate) fn note_cut(&self, fault: HeadFault) {
        // There is no second one.
        let _ = self.0.cut_off.set(fault);
    }

    pub(crate) fn note_tls(&self) {
        self.0.is_tls.store(true, Ordering::Release);
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.0.is_tls.load(Ordering::Acquire)
    }

    pub(crate) fn note_fragment(&self, is_there: bool) {
        self.0.has_fragment.store(is_there, Ordering::Release);
    }

    /// Whether the head that is complete now is the beginning of one that hyper wouldn't have taken.
    pub(crate) fn is_cut_off(&self) -> bool {
        self.cut_off().is_some()
    }

    /// What stood behind that beginning. It must not be taken for the whole. (Of what isn't looked at hyper
    /// refuses the same by itself.)
    pub(crate) fn cut_off(&self) -> Option<HeadFault> {
        self.0.cut_off.get().copied()
    }

    /// All of the request of that turn was read.
    pub(crate) fn read(&self, turn: u64) {
        // Whoever reads may come to it only when the next one has begun.
        let ordering = (Ordering::AcqRel, Ordering::Relaxed);
        let _ = self
            .0
            .unread
            .compare_exchange(turn, 0, ordering.0, ordering.1);
    }

    /// Keeps what nobody reads of the request of that turn, as long as it is being answered. (What was
    /// dropped hyper doesn't read, and then it has to close the connection.)
    pub(crate) fn leave(&self, turn: u64, body: Incoming) {
        let mut rest = self.0.rest.lock().unwrap_or_else(PoisonError::into_inner);
        if self.turn() == turn && rest.asked != turn {
            rest.body = Some(body);
        }
    }

    /// What nobody read of the request that is being answered, where nobody reads it still.
    pub(crate) fn take_rest(&self) -> Option<Incoming> {
        let mut rest = self.0.rest.lock().unwrap_or_else(PoisonError::into_inner);
        rest.asked = self.turn();
        rest.body.take()
    }

    /// The answer is there: what arrives next is another head.
    pub(crate) fn end(&self) {
        self.0.count.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn asked(&self) -> &Asked {
        &self.0.asked
    }

    pub(crate) fn turn(&self) -> u64 {
        self.0.count.load(Ordering::Acquire)
    }

    pub(crate) fn is_unread(&self) -> bool {
        self.0.unread.load(Ordering::Acquire) != 0
    }
}
