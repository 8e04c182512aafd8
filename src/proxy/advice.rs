//! What the caller of a failed call is told besides what failed: whose its deadline is, and what to do
//! where Alipay may have acted.

use std::time::Duration;

use crate::gateway;
use crate::gateway::error::Outcome;
use crate::model::call::CallId;
use crate::proxy::error::{ErrorCode, ProxyError};

/// What is known of a call besides its error.
#[derive(Debug, Clone, Copy)]
pub(super) struct Advice {
    /// `upstream.timeout`.
    pub(super) configured: Duration,
    /// `Alipay-Timeout`.
    pub(super) asked: Option<Duration>,
    /// Making it twice harms nobody.
    pub(super) is_query: bool,
    /// The id under which it can be asked for.
    pub(super) recorded: Option<CallId>,
}

impl Advice {
    /// The same error, its advice behind what failed.
    pub(super) fn to(self, mut error: ProxyError) -> ProxyError {
        if error.code == ErrorCode::UpstreamTimeout {
            error.detail += &self.deadline();
        }
        if error.outcome == Outcome::Unknown && !self.is_query {
            error.detail += &self.first_ask();
        }
        error
    }

    fn deadline(self) -> String {
        let time = gateway::deadline(self.configured, self.asked);
        let whose = match self.asked {
            Some(asked) if asked < self.configured => "`Alipay-Timeout` of the caller",
            Some(_) | None => "`upstream.timeout`",
        };
        format!("; the deadline was {time:?}, by {whose}")
    }

    fn first_ask(self) -> String {
        let record = self
            .recorded
            .map(|id| format!(" (`GET /calls/{id}` gives what is known of it, for 24 hours)"));
        format!(
            "; Alipay may have executed the call: ask by a query before it is made again{}",
            record.unwrap_or_default()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "01938b2e-0000-7000-8000-000000000001";

    fn told(code: ErrorCode, outcome: Outcome, change: impl Fn(&mut Advice)) -> String {
        let mut advice = Advice {
            configured: Duration::from_secs(15),
            asked: None,
            is_query: false,
            recorded: Some(ID.parse().expect("an id")),
        };
        change(&mut advice);
        let error = ProxyError {
            outcome,
            ..ProxyError::refused(code, "failed")
        };
        advice.to(error).detail
    }

    #[test]
    fn a_deadline_is_told_with_its_length_and_whose_it_is() {
        let late = |asked| {
            told(ErrorCode::UpstreamTimeout, Outcome::NotSent, |advice| {
                advice.asked = asked;
            })
        };
        let configured = "failed; the deadline was 15s, by `upstream.timeout`";
        assert_eq!(late(None), configured);
        assert_eq!(late(Some(Duration::from_secs(60))), configured);
        assert_eq!(
            late(Some(Duration::from_millis(1500))),
            "failed; the deadline was 1.5s, by `Alipay-Timeout` of the caller"
        );
    }

    #[test]
    fn whoever_may_have_paid_is_told_to_ask_first() {
        let code = ErrorCode::ResponseSignatureInvalid;
        let ask =
            "failed; Alipay may have executed the call: ask by a query before it is made again";
        assert_eq!(
            told(code, Outcome::Unknown, |_| ()),
            format!("{ask} (`GET /calls/{ID}` gives what is known of it, for 24 hours)")
        );
        assert_eq!(told(code, Outcome::Unknown, |a| a.recorded = None), ask);
        assert_eq!(
            told(code, Outcome::Unknown, |a| a.is_query = true),
            "failed"
        );
        assert_eq!(told(code, Outcome::NotSent, |_| ()), "failed");
    }
}
