//! One message of the corpus, and what has to come of it.

/// A message as it goes over the wire, with places for what differs between the two ports:
///
/// - `{post}`: `POST {target} HTTP/1.1`, `Host: {host}` and `{tag}`, the fields that a good request
///   of the port has;
/// - `{body}`, `{len}`, `{hex}`: the good request's body and its length;
/// - `{chunked}`, `{clen}`: the same body in chunks, and the length of that;
/// - `{evil}`, `{elen}`, `{ehex}`: a whole second request, good by itself, for another merchant.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) wire: &'static str,
    /// At the proxy, at the webhook.
    pub(super) expected: (Expected, Expected),
}

/// What comes of a message that reaches the sidecar itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    /// Nothing of it is accepted.
    Refused,
    /// The same, and the connection is closed, because nobody knows where the message ends.
    Closed,
    /// The request is accepted, nothing else.
    One,
    /// The same, and the connection is closed.
    OneClosed,
    /// They are two requests to every reader: both are accepted.
    Two,
}

impl Expected {
    /// How many requests are accepted.
    pub(super) fn accepted(self) -> usize {
        match self {
            Self::Refused | Self::Closed => 0,
            Self::One | Self::OneClosed => 1,
            Self::Two => 2,
        }
    }

    /// Whether the sidecar has to end the connection by itself.
    pub(super) fn is_closed(self) -> bool {
        matches!(self, Self::Closed | Self::OneClosed)
    }
}

/// The same at both ports.
pub(super) const fn both(name: &'static str, wire: &'static str, expected: Expected) -> Case {
    apart(name, wire, expected, expected)
}

/// Different at the two ports.
pub(super) const fn apart(
    name: &'static str,
    wire: &'static str,
    proxy: Expected,
    webhook: Expected,
) -> Case {
    Case {
        name,
        wire,
        expected: (proxy, webhook),
    }
}
