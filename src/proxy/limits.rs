//! How much may be under way at once, how large it may be, and how long it may take.

use std::time::Duration;

use crate::config::Config;
use crate::net::room::Room;
use crate::net::shutdown::{Ending, Gate};
use crate::proxy::slots::Slots;

/// How much the bodies of all calls under way may take, bytes; files of uploads beyond what stays
/// in memory of them don't count.
const ROOM: usize = 64 << 20;
/// How much of that all uploads together may hold of their files, beyond what each may in any case:
/// what is in no file need not be written, read and removed.
const SPARE: usize = 4 << 20;

/// Sizes and deadlines of the proxy.
#[derive(Debug, Clone)]
pub struct Limits {
    /// `Host` names besides loopback ones.
    pub allowed_hosts: Vec<String>,
    /// Slots for calls under way,
    pub in_flight: Slots,
    /// and how many there are.
    pub max_in_flight: usize,
    /// Counts calls from their heads on, before they have a slot, until they have ended.
    pub calls: Gate,
    /// Largest JSON or form body, bytes.
    pub max_body: usize,
    /// Largest multipart body, bytes.
    pub max_upload: u64,
    /// Where bodies are while their calls are under way.
    pub room: Room,
    /// Where files of uploads may be that are too large to stay in memory whatever others hold.
    pub spare: Room,
    /// Deadline of a call.
    pub timeout: Duration,
    /// From `Deaf` on no further call is admitted.
    pub ending: Ending,
}

impl Limits {
    /// The limits of a configuration, until `ending` is `Deaf`.
    #[must_use]
    pub fn new(config: &Config, ending: Ending) -> Self {
        Self {
            allowed_hosts: config.proxy.allowed_hosts.clone(),
            in_flight: Slots::default(),
            max_in_flight: config.proxy.max_in_flight,
            calls: Gate::new(),
            max_body: config.proxy.max_body,
            max_upload: config.proxy.max_upload,
            room: Room::new(ROOM.max(config.proxy.max_body)),
            spare: Room::new(SPARE),
            timeout: config.upstream.timeout,
            ending,
        }
    }

    /// The limits of another configuration for the same calls: those under way count on.
    #[must_use]
    pub fn reconfigured(&self, config: &Config) -> Self {
        Self {
            in_flight: self.in_flight.clone(),
            calls: self.calls.clone(),
            room: self.room.unless(Room::new(ROOM.max(config.proxy.max_body))),
            spare: self.spare.clone(),
            ..Self::new(config, self.ending.clone())
        }
    }
}

/// Why nothing more is begun.
pub(super) const OUT_OF_SERVICE: &str =
    "the sidecar was taken out of service or stops; ask another one, or again in a second";

/// Why one more isn't begun.
pub(super) const TOO_MANY: &str =
    "`proxy.max_in_flight` calls are under way; try again in a second";
