//! What the configuration knows but this version doesn't do: refused, because ignoring it would
//! leave an operator with less than the file promises. A feature that arrives deletes its line.

use crate::config::Config;
use crate::config::error::{Fault, Mismatch};

impl Config {
    /// What is set here but not supported in this version; their places in the file aren't known.
    #[must_use]
    pub fn unsupported(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut refuse = |key: &str, found: &str, expected: &str, hint: &str| {
            let mismatch = Mismatch::new(found, expected).hint(hint);
            faults.push(Fault::of_key(key, mismatch));
        };
        if !self.proxy.listen.is_local() {
            refuse(
                "proxy.listen",
                "an address off loopback",
                LOCAL,
                OFF_LOOPBACK,
            );
        }
        if self.upstream.proxy.is_some() {
            refuse("upstream.proxy", "an HTTP proxy", "nothing", EGRESS);
        }
        for index in 1..=self.callers.len() {
            refuse(
                &format!("caller[{index}]"),
                "a caller",
                "no [[caller]]",
                CALLERS,
            );
        }
        if self.telemetry.otlp_endpoint.is_some() {
            refuse("telemetry.otlp_endpoint", "an address", "nothing", TRACES);
        }
        faults
    }
}

const LOCAL: &str = "a loopback address or a unix socket";

pub(crate) const OFF_LOOPBACK: &str = "off loopback the proxy needs a [[caller]], and callers aren't checked \
                            in this version";

const CALLERS: &str = "callers aren't checked in this version: whoever reaches the proxy may call; \
                       remove the section, or guard a unix socket by its directory";

const EGRESS: &str = "an HTTP proxy isn't used in this version: calls would leave directly";

const TRACES: &str = "traces aren't sent in this version";
