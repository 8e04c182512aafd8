//! What Alipay answered when a refresh token was spent, for those who send the same one again.
//!
//! Two programs that both think they own a merchant's tokens refresh them at the same moment. The
//! second one waits its turn (`turn`), and then gets the first one's verified reply, byte for byte:
//! that is what Alipay answered to this very request. It is kept for two minutes, in memory; after
//! that the request goes to Alipay, and what Alipay says of a spent token is passed on.

use crate::gateway::VerifiedReply;
use crate::gateway::v2::{Encryption, V2Call};
use crate::gateway::v3::{V3Call, VerifiedV3Reply};
use crate::protocol::params::name;
use crate::store::MemoKey;
use crate::token::lately::Lately;

/// How long a reply is kept, milliseconds: longer than a backend waits before it tries again, short
/// because it holds tokens.
const KEPT_MS: i64 = 120_000;
/// How many are kept at once.
const MOST: usize = 256;

/// A verified reply that hands out tokens.
#[derive(Debug, Clone)]
pub enum SpentReply {
    /// On v2.
    V2(VerifiedReply),
    /// On v3.
    V3(VerifiedV3Reply),
}

/// In which form a request was made: a reply in one is none to a request in another.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SpentForm(String);

impl std::fmt::Debug for SpentForm {
    /// Without the target of a v3 call, in whose query a user's token may stand.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SpentForm(..)")
    }
}

impl SpentForm {
    /// The form of a v2 call.
    #[must_use]
    pub fn v2(call: &V2Call) -> Self {
        let is_callers = call.parameters.get(name::ENCRYPT_TYPE).is_some();
        let has_key = call.app.content_key().is_some();
        let encryption = encryption_of(is_callers, call.encryption, has_key);
        let (app_id, charset) = (&call.app.app_id, call.charset.as_str());
        Self(format!("v2 {app_id} {charset} {encryption}"))
    }

    /// The form of a v3 call.
    #[must_use]
    pub fn v3(call: &V3Call) -> Self {
        let (app_id, encryption) = (&call.app.app_id, call.encryption);
        Self(format!("v3 {app_id} {} {encryption:?}", call.target))
    }
}

fn encryption_of(is_callers: bool, encryption: Encryption, has_key: bool) -> &'static str {
    match (is_callers, encryption, has_key) {
        (true, ..) => "caller's",
        (false, Encryption::Ours, true) => "ours",
        _ => "none",
    }
}

/// The replies that are kept. Clones share them.
#[derive(Clone)]
pub(super) struct SpentReplies(Lately<(MemoKey, SpentForm), SpentReply>);

impl SpentReplies {
    pub(super) fn new() -> Self {
        Self(Lately::new(MOST))
    }

    /// What was answered when the refresh token of `turn` was sent in this form.
    pub(super) fn get(&self, turn: MemoKey, form: &SpentForm, now: i64) -> Option<SpentReply> {
        self.0.get(&(turn, form.clone()), now)
    }

    /// Keeps what was answered.
    pub(super) fn keep(&self, turn: MemoKey, form: SpentForm, reply: SpentReply, now: i64) {
        self.0.put((turn, form), reply, now, KEPT_MS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_does_not_print_its_target() {
        let form = SpentForm("v3 1 /v3/x?auth_token=canary".to_owned());
        assert_eq!(format!("{form:?}"), "SpentForm(..)");
    }

    #[test]
    fn a_request_is_encrypted_by_its_caller_by_us_or_not_at_all() {
        for (is_callers, encryption, has_key, expected) in [
            (true, Encryption::Callers, false, "caller's"),
            (true, Encryption::Ours, true, "caller's"),
            (false, Encryption::Ours, true, "ours"),
            (false, Encryption::Ours, false, "none"),
            (false, Encryption::Callers, true, "none"),
        ] {
            let found = encryption_of(is_callers, encryption, has_key);
            assert_eq!(found, expected);
        }
    }
}
