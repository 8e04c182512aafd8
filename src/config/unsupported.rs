//! What the configuration knows but this build doesn't do: refused, because ignoring it would
//! leave an operator with less than the file promises. A feature that arrives deletes its line.

use crate::config::Config;
use crate::config::error::{Fault, Mismatch};

impl Config {
    /// What is set here but not supported in this build; their places in the file aren't known.
    #[must_use]
    pub fn unsupported(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        if let Some(mismatch) = self.callers_missing() {
            faults.push(Fault::of_key("proxy.listen", mismatch));
        }
        let mut refuse = |key: &str, found: &str, expected: &str, hint: &str| {
            let mismatch = Mismatch::new(found, expected).hint(hint);
            faults.push(Fault::of_key(key, mismatch));
        };
        if self.telemetry.otlp_endpoint.is_some() && !cfg!(feature = "otlp") {
            refuse("telemetry.otlp_endpoint", "an address", "nothing", TRACES);
        }
        faults
    }

    /// What is wrong with a proxy that whoever reaches the host may call.
    pub(crate) fn callers_missing(&self) -> Option<Mismatch> {
        if self.proxy.listen.is_local() || !self.callers.is_empty() {
            return None;
        }
        let found = format!("\"{}\" and no [[caller]]", self.proxy.listen);
        let hint = "off loopback anyone could spend the merchants' authorisations; say in a \
                    [[caller]] who may call";
        Some(Mismatch::new(found, "a loopback address or a unix socket").hint(hint))
    }
}

const TRACES: &str = "this program was built without traces; build it with `--features otlp`";
