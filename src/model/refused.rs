//! What the webhook refused: kept for a while, so that it can be explained, and verified again once
//! the key is mended. And second bodies: what Alipay signed under a `notify_id` that is known.

use std::net::IpAddr;

use bytes::Bytes;

use crate::model::id::EventId;
use crate::model::notification::Body;

/// One refused notification. Nobody vouches for a word of it.
#[derive(Clone, PartialEq, Eq)]
pub struct RefusedNotification {
    /// The sidecar's own id; it stays the id of the entry if the notification is accepted later.
    pub id: EventId,
    /// When it first arrived, Unix milliseconds.
    pub received_at: i64,
    /// When it last arrived, Unix milliseconds.
    pub last_received_at: i64,
    /// How often it arrived.
    pub times: u32,
    /// Who sent it: an address without its port, or `unix`, or `unknown` where a host's own server
    /// didn't tell.
    pub peer: String,
    /// The rest of the notify path, empty for the app gateway.
    pub notify_path: String,
    /// The query of the notify address as it came, without its `?`; often empty.
    pub notify_query: String,
    /// The `Content-Type` header as it came, if there was one.
    pub content_type: Option<String>,
    /// The body as it came.
    pub body: Bytes,
    /// Why it was refused, and with which standing it competes for its place.
    pub refusal: RefusalKind,
    /// The same in words, without values of the notification.
    pub reason: String,
    /// The `app_id` that it claims.
    pub app_id: Option<String>,
    /// The `notify_id` that it claims.
    pub notify_id: Option<String>,
    /// The type of event that it claims.
    pub event_type: Option<String>,
    /// The digest of all that stays the same when Alipay sends it again: a resend joins the first.
    pub content: [u8; 32],
}

impl RefusedNotification {
    /// The network whose places it counts among: a whole /48 of IPv6 is one sender's, as providers
    /// give them out.
    #[must_use]
    pub fn network(&self) -> String {
        network(&self.peer)
    }

    /// Whether it came more than once, as what Alipay sends does until it is acked.
    #[must_use]
    pub fn came_again(&self) -> bool {
        self.times > 1
    }
}

/// The network of a sender, as an address without a port: of IPv6 the /48.
#[must_use]
pub fn network(peer: &str) -> String {
    match peer.parse() {
        Ok(IpAddr::V6(address)) => {
            let [a, b, c, ..] = address.segments();
            format!("{a:x}:{b:x}:{c:x}::/48")
        }
        Ok(IpAddr::V4(_)) | Err(_) => peer.to_owned(),
    }
}

impl std::fmt::Debug for RefusedNotification {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RefusedNotification")
            .field("id", &self.id)
            .field("refusal", &self.refusal)
            .field("peer", &self.peer)
            .field("times", &self.times)
            .field("body", &format_args!("{} bytes", self.body.len()))
            .finish_non_exhaustive()
    }
}

/// Why a notification was refused, from a closed set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusalKind {
    /// Its `app_id` is none of ours, or it has none.
    Foreign,
    /// Its signature doesn't hold.
    Forged,
    /// It can't be read as a notification.
    Malformed,
    /// Alipay signed it, but for another use.
    NoNotification,
    /// It decides about a merchant, and its content can't be decrypted.
    Undecryptable,
}

impl RefusalKind {
    /// The word used in JSON and in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Foreign => "foreign",
            Self::Forged => "forged",
            Self::Malformed => "malformed",
            Self::NoNotification => "no-notification",
            Self::Undecryptable => "undecryptable",
        }
    }

    /// With which standing it competes for its place.
    #[must_use]
    pub fn standing(self) -> Standing {
        match self {
            Self::Foreign | Self::Malformed => Standing::Stranger,
            Self::Forged => Standing::Ours,
            Self::NoNotification | Self::Undecryptable => Standing::Signed,
        }
    }
}

impl std::str::FromStr for RefusalKind {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "foreign" => Ok(Self::Foreign),
            "forged" => Ok(Self::Forged),
            "malformed" => Ok(Self::Malformed),
            "no-notification" => Ok(Self::NoNotification),
            "undecryptable" => Ok(Self::Undecryptable),
            _ => Err(()),
        }
    }
}

/// Whom a refused notification may have been meant for. The lower goes first where room is short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Nothing says that it is for an app of ours.
    Stranger,
    /// It names an app of ours: a mended key may make it good.
    Ours,
    /// Alipay signed it for an app of ours: nobody else can fill places with such.
    Signed,
}

/// What Alipay signed under a `notify_id` that stands for something else already. Never delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variant {
    /// When it arrived, Unix milliseconds.
    pub received_at: i64,
    /// The rest of the notify path.
    pub notify_path: String,
    /// The body as it came.
    pub body: Body,
    /// The parameters that differ from the first body's, by name.
    pub differs: Vec<String>,
    /// The digest of all but what attempts differ in; the same content is kept once.
    pub content: [u8; 32],
}
