//! What the audit log tells of operators' requests: every change, whatever gives secrets away (sealed
//! or not), and whoever came without the token. What was asked for is in the path, and in the query of
//! what was done; bodies hold secrets, and so may a query that was refused.

use http::request::Parts;
use http::{Method, StatusCode};

use crate::admin::store;
use crate::audit::Audit;
use crate::audit::entry::{Entry, Event};

/// Tells of a request that was answered, and whether it came with the token: without it anybody can
/// send it, whatever it was refused for.
pub(super) fn tell(
    audit: &Audit,
    (head, is_operator): (&Parts, bool),
    (request_id, status): (&str, StatusCode),
) {
    let path = head.uri.path();
    if !path.starts_with("/api/") {
        return;
    }
    let entry = || {
        let is_done = is_operator && status.is_success();
        let query = head.uri.path_and_query().filter(|_| is_done);
        let target = query.map_or(path, |both| both.as_str());
        Entry::new(Event::Admin, "api", outcome(status))
            .with("request_id", request_id)
            .with("action", head.method.as_str())
            .with("path", target)
            .with_number("status", status.as_u16().into())
    };
    if !is_operator {
        audit.tell_of_stranger(entry);
    } else if head.method != Method::GET || reveals(path) {
        audit.tell(entry);
    }
}

/// Whether reading it takes something out of the store.
fn reveals(path: &str) -> bool {
    path == store::BACKUP || path.ends_with("/token")
}

fn outcome(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "unauthenticated",
        status if status.is_client_error() => "refused",
        status if status.is_server_error() => "failed",
        _ => "ok",
    }
}
