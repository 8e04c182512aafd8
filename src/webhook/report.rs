//! What is counted, logged and told to the audit log of something that is refused.

use crate::audit::entry::Entry;
use crate::webhook::Inner;
use crate::webhook::answer::Answer;
use crate::webhook::error::{Known, Refusal};
use crate::webhook::metrics::Kind;

impl Inner {
    /// Says `fail`, counts and logs why.
    pub(super) fn refuse(&self, kind: Kind, refusal: &Refusal, sender: &str) -> Answer {
        self.report((kind, refusal), sender, None);
        refusal.answer()
    }

    /// The same of something whose signature holds.
    pub(super) fn refuse_known(
        &self,
        (kind, refusal): (Kind, &Refusal),
        sender: &str,
        known: &Known,
    ) -> Answer {
        self.report((kind, refusal), sender, Some(known));
        refusal.answer()
    }

    /// Counts and logs why something of that sender's is refused, and what is `known` of it. Tells
    /// whether more may be made of it: what strangers send is looked at within bounds.
    pub(super) fn report(
        &self,
        (kind, refusal): (Kind, &Refusal),
        sender: &str,
        known: Option<&Known>,
    ) -> bool {
        let outcome = refusal.outcome();
        self.parts.metrics.count(kind, outcome);
        let entry = || {
            Entry::new(kind.event(), kind.as_str(), outcome.as_str())
                .with("reason", &refusal.to_string())
        };
        match known {
            Some(known) => self.parts.audit.tell_of_repeated(|| known.told_in(entry())),
            None => self.parts.audit.tell_of_stranger(entry),
        }
        let passed_over = match refusal.is_anybodys() {
            false => Some(0),
            true => self.strangers.take(sender, self.parts.clock.now_ms()),
        };
        let Some(passed_over) = passed_over else {
            return false;
        };
        tracing::warn!(
            kind = kind.as_str(),
            outcome = outcome.as_str(),
            app_id = known.map(|known| known.app_id.as_str()),
            notify_id = known.and_then(|known| known.notify_id.as_deref()),
            reason = %refusal,
            passed_over,
            "notification refused"
        );
        true
    }
}
