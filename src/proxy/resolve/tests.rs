use super::*;
use crate::gateway::error::{GatewayError, Outcome};
use crate::net::client::SendCause;

#[test]
fn what_wasnt_learned_says_why_and_whether_to_try_again() {
    let store = |error: StoreError| LearnError::Unproved(TokenError::Store(Arc::new(error)));
    let conflict = StoreError::TokenConflict {
        owner: "a/b".to_owned(),
    };
    let away = StoreError::Unavailable {
        reason: "full".to_owned(),
    };
    let revoked = TokenError::Revoked {
        auth_app_id: "b".to_owned(),
    };
    let nobody = TokenError::Gateway(Arc::new(GatewayError::Unreachable {
        outcome: Outcome::NotSent,
        cause: SendCause::Endless,
    }));
    for (error, code, is_retryable) in [
        (
            LearnError::Unproved(nobody),
            ErrorCode::UpstreamUnreachable,
            true,
        ),
        (LearnError::Invalid, ErrorCode::TokenUnknown, false),
        (LearnError::TooMany, ErrorCode::Overloaded, true),
        (store(conflict), ErrorCode::TokenConflict, false),
        (store(away), ErrorCode::StoreUnavailable, false),
        (
            LearnError::Unproved(TokenError::Internal),
            ErrorCode::Internal,
            false,
        ),
        (
            LearnError::Unproved(revoked),
            ErrorCode::UpstreamInvalid,
            false,
        ),
    ] {
        let found = not_learned(error);
        assert_eq!((found.code, found.retryable), (code, is_retryable));
    }
}
