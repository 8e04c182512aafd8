//! The chain: each line holds the digest of the one before, and a MAC over itself.
//!
//! ```text
//! {"seq":7,"prev":"<SHA-256 of line 6>","time":"…","event":"call",…,"mac":"<HMAC over all before>"}
//! ```
//!
//! `prev` binds a line to all lines before it: who changes, removes, inserts or swaps any has to
//! write every later `prev` anew. Anybody can do that who can write the file; nobody can make the
//! `mac`s without the key. What neither shows is that lines are missing at the end: that is what
//! [`anchor`](super::anchor) is for. Pure: no I/O, no clock.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::entry::Entry;

/// What stands before the MAC, at the end of a line.
const MAC: &[u8] = b",\"mac\":\"";
/// What stands behind it.
const END: &[u8] = b"\"}";
/// How much of a line isn't its entry, bytes at the most.
const AROUND: usize = 192;
/// What of the store key is used for this and nothing else.
const PURPOSE: &[u8] = b"alipay-sidecar audit log";

/// The digest of a line.
pub type Digest = [u8; 32];

/// The key of the MACs: a sub-key of the store key. `Debug` shows nothing.
#[derive(Clone)]
pub struct ChainKey {
    key: hmac::Key,
    id: String,
}

impl ChainKey {
    /// The key that belongs to a store key, as text.
    #[must_use]
    pub fn derive(store_key: &[u8]) -> Self {
        let root = hmac::Key::new(hmac::HMAC_SHA256, store_key.trim_ascii());
        let key = hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&root, PURPOSE).as_ref());
        let id = hmac::sign(&key, b"id");
        let id = id.as_ref().iter().take(4).map(|b| format!("{b:02x}"));
        Self {
            id: id.collect(),
            key,
        }
    }

    /// By which it is known; tells nothing of it.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    fn mac(&self, body: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode(hmac::sign(&self.key, body))
    }
}

impl std::fmt::Debug for ChainKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ChainKey({})", self.id)
    }
}

/// The highest number that is believed without a proof: behind it, lines couldn't be counted on.
const HIGHEST: u64 = 1 << 53;

/// Which lines are believed: those under the key, and those up to what the store knows, which the
/// check compares with it. Without a key all are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Belief<'k> {
    pub(super) key: Option<&'k ChainKey>,
    /// Up to which line the store knows the log.
    pub(super) anchored: u64,
}

impl Belief<'_> {
    /// In all.
    pub(super) const ALL: Self = Self {
        key: None,
        anchored: 0,
    };

    pub(super) fn holds(&self, line: &ReadLine<'_>) -> bool {
        let is_proved = |key| line.is_by(key);
        line.seq <= self.anchored || self.key.map_or(line.seq < HIGHEST, is_proved)
    }
}

/// The last line of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Its number; lines are counted from 1.
    pub seq: u64,
    /// Its digest.
    pub digest: Digest,
}

impl Head {
    /// Of a chain without lines.
    pub const NONE: Self = Self {
        seq: 0,
        digest: [0; 32],
    };

    /// For what keeps it.
    #[must_use]
    pub fn to_bytes(self) -> Vec<u8> {
        let mut bytes = self.seq.to_be_bytes().to_vec();
        bytes.extend(self.digest);
        bytes
    }

    /// Reads what [`Self::to_bytes`] gave.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (seq, digest) = bytes.split_first_chunk()?;
        Some(Self {
            seq: u64::from_be_bytes(*seq),
            digest: digest.try_into().ok()?,
        })
    }
}

#[derive(Serialize)]
struct Front<'a> {
    seq: u64,
    prev: &'a str,
    time: &'a str,
}

/// The line that follows `head`, without its end, and the head that it is.
pub(super) fn line(
    head: Head,
    key: Option<&ChainKey>,
    (time_ms, entry): (i64, &Entry),
) -> (Vec<u8>, Head) {
    let seq = head.seq.saturating_add(1);
    let front = Front {
        seq,
        prev: &URL_SAFE_NO_PAD.encode(head.digest),
        time: &time_text(time_ms),
    };
    let members = entry.members();
    let mut line = Vec::with_capacity(members.len() + AROUND);
    // A number and texts always serialise, and memory takes them.
    let _ = serde_json::to_writer(&mut line, &front);
    line.pop();
    line.push(b',');
    line.extend(members);
    match key {
        Some(key) => {
            let mac = key.mac(&line);
            line.extend(MAC);
            line.extend(mac.as_bytes());
            line.extend(END);
        }
        None => line.push(b'}'),
    }
    let head = Head {
        seq,
        digest: digest(&line),
    };
    (line, head)
}

/// The digest of a line, or of what isn't one.
pub(super) fn digest(line: &[u8]) -> Digest {
    Sha256::digest(line).into()
}

/// The digest as it stands in lines.
pub(super) fn digest_text(digest: Digest) -> String {
    URL_SAFE_NO_PAD.encode(digest)
}

/// One line as it was read; nothing of it is proved but its form.
#[derive(Debug)]
pub(super) struct ReadLine<'l> {
    pub(super) seq: u64,
    pub(super) prev: String,
    pub(super) time: String,
    /// What it says of the log itself, where it does.
    pub(super) said: Said,
    body: &'l [u8],
    mac: Option<&'l [u8]>,
    whole: &'l [u8],
}

/// What lines about the log say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    /// Under which key the lines from here on are; `Some(None)`: under none.
    pub(super) key: Option<Option<String>>,
    /// The digest of what stood between the line before and this one.
    pub(super) torn: Option<String>,
    /// Up to which line old files were removed.
    pub(super) retired: Option<u64>,
    /// How many lines stood at the end, when it was written, that nobody vouches for.
    pub(super) unvouched: Option<u64>,
}

#[derive(Deserialize)]
struct Members {
    seq: u64,
    prev: String,
    time: String,
    event: String,
    outcome: String,
    #[serde(default, deserialize_with = "given")]
    key: Option<Option<String>>,
    torn: Option<String>,
    through: Option<u64>,
    unvouched: Option<u64>,
}

/// Tells what is `null` from what isn't there.
fn given<'d, D: serde::Deserializer<'d>>(source: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(source).map(Some)
}

impl<'l> ReadLine<'l> {
    /// Reads a line without its end; `None`: it is none.
    pub(super) fn read(whole: &'l [u8]) -> Option<Self> {
        let members: Members = serde_json::from_slice(whole).ok()?;
        let (body, mac) = match whole.strip_suffix(END).and_then(split_mac) {
            Some((body, mac)) => (body, Some(mac)),
            None => (whole, None),
        };
        let is_audit = members.event == "audit";
        let said = Said {
            key: members.key.filter(|_| is_audit),
            torn: members.torn.filter(|_| is_audit),
            retired: members
                .through
                .filter(|_| is_audit && members.outcome == "retired"),
            unvouched: members.unvouched.filter(|_| is_audit),
        };
        Some(Self {
            seq: members.seq,
            prev: members.prev,
            time: members.time,
            said,
            body,
            mac,
            whole,
        })
    }

    /// Whether it has a MAC at all.
    pub(super) fn has_mac(&self) -> bool {
        self.mac.is_some()
    }

    /// Whether its MAC was made with this key.
    pub(super) fn is_by(&self, key: &ChainKey) -> bool {
        let expected = key.mac(self.body);
        self.mac.is_some_and(|mac| {
            aws_lc_rs::constant_time::verify_slices_are_equal(mac, expected.as_bytes()).is_ok()
        })
    }

    /// The head that it is.
    pub(super) fn head(&self) -> Head {
        Head {
            seq: self.seq,
            digest: digest(self.whole),
        }
    }
}

/// Splits a line without its end at its MAC, which is 43 characters long.
fn split_mac(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let (front, mac) = line.split_at_checked(line.len().checked_sub(43)?)?;
    Some((front.strip_suffix(MAC)?, mac))
}

/// A moment as lines have it: RFC 3339 in UTC, to the millisecond.
pub(super) fn time_text(unix_ms: i64) -> String {
    let format = time::macros::format_description!(
        "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z"
    );
    let nanoseconds = i128::from(unix_ms) * 1_000_000;
    time::OffsetDateTime::from_unix_timestamp_nanos(nanoseconds)
        .ok()
        .and_then(|time| time.format(&format).ok())
        .unwrap_or_else(|| unix_ms.to_string())
}

/// The day of a moment in UTC, as `2026-11-26`.
pub(super) fn day_text(unix_ms: i64) -> String {
    let mut text = time_text(unix_ms);
    text.truncate(10);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::entry::Event;

    #[test]
    fn a_line_reads_as_it_was_written() {
        let key = ChainKey::derive(b"key");
        let entry = Entry::new(Event::Call, "v2", "ok").with("mac", "\",\"mac\":\"");
        let (bytes, head) = line(Head::NONE, Some(&key), (1_764_117_738_123, &entry));
        let read = ReadLine::read(&bytes).expect("a line");
        assert_eq!((read.seq, read.head()), (1, head));
        assert_eq!(read.time, "2025-11-26T00:42:18.123Z");
        assert_eq!(read.prev, digest_text([0; 32]));
        assert!(read.is_by(&key) && read.has_mac());
        assert!(!read.is_by(&ChainKey::derive(b"another")));
        assert_eq!(Head::from_bytes(&head.to_bytes()), Some(head));
    }

    #[test]
    fn a_line_is_written_so() {
        let entry = Entry::new(Event::Call, "v2", "ok")
            .with("method", "a\"b\\中")
            .marked("in_process", true)
            .with_number("claimed", 3)
            .without("key");
        let front = concat!(
            r#"{"seq":1,"prev":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","time":"2025-11-26T00:42:18.123Z","#,
            r#""event":"call","kind":"v2","outcome":"ok","method":"a\"b\\中","in_process":true,"claimed":3,"#,
            r#""key":null"#,
        );
        let mac = "d7DGcSNUAD1B6Pn319HUsYBhmCe6Hu3A7QHLnl02NBk";
        let key = ChainKey::derive(b"key");
        for (key, expected) in [
            (Some(&key), format!(r#"{front},"mac":"{mac}"}}"#)),
            (None, format!("{front}}}")),
        ] {
            let (bytes, _) = line(Head::NONE, key, (1_764_117_738_123, &entry));
            assert_eq!(String::from_utf8(bytes).expect("text"), expected);
        }
    }

    #[test]
    fn a_line_without_a_key_says_so() {
        let entry = Entry::new(Event::Audit, "log", "started").without("key");
        let (bytes, _) = line(Head::NONE, None, (0, &entry));
        let read = ReadLine::read(&bytes).expect("a line");
        assert!(!read.has_mac());
        assert_eq!(read.said.key, Some(None));
    }

    #[test]
    fn only_the_logs_own_lines_speak_of_the_log() {
        let entry = Entry::new(Event::Call, "v2", "retired")
            .with("key", "x")
            .with_number("through", 9);
        let (bytes, _) = line(Head::NONE, None, (0, &entry));
        let read = ReadLine::read(&bytes).expect("a line");
        assert_eq!(read.said, Said::default());
    }

    #[test]
    fn without_a_proof_only_a_number_with_room_behind_it_is_believed() {
        let key = ChainKey::derive(b"key");
        let entry = Entry::new(Event::Call, "v2", "ok");
        let holds = |belief: Belief<'_>, seq: u64, by: Option<&ChainKey>| {
            let before = Head {
                seq: seq - 1,
                ..Head::NONE
            };
            let (bytes, _) = line(before, by, (0, &entry));
            belief.holds(&ReadLine::read(&bytes).expect("a line"))
        };
        assert!(holds(Belief::ALL, HIGHEST - 1, None));
        assert!(!holds(Belief::ALL, HIGHEST, None));
        // The key proves any number, and without it none is believed;
        let proved = Belief {
            key: Some(&key),
            anchored: 0,
        };
        assert!(holds(proved, HIGHEST, Some(&key)));
        assert!(!holds(proved, 1, None));
        // but for what the store knows, which the check compares.
        let known = Belief {
            key: Some(&key),
            anchored: HIGHEST,
        };
        assert!(holds(known, HIGHEST, None));
        assert!(!holds(known, HIGHEST + 1, None));
    }
}
