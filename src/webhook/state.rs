//! The `state` of an authorisation link: unforgeable, expiring, without a store.
//!
//! Protocol: 第三方应用授权, “授权链接”: at most 100 characters. Ours are all of base64url's
//! alphabet: 36 for the expiry, a nonce and the MAC, then the `ref` itself where its characters
//! allow (64 at most, so it just fits), else in base64url where that fits. Any other `ref` waits in
//! the store under the state: no alphabet that Alipay allows has room for 64 Chinese characters. Where
//! Alipay insists on base64 by the standard alphabet (an invitation), the same bytes are written as
//! hexadecimal digits, a multiple of four of them: that is base64, too, and nobody on the way takes
//! its `+` for a space.

use aws_lc_rs::{constant_time, hmac, rand};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::model::id::AppId;

/// How long a link may be used, seconds: a merchant may have to log in and read.
pub const LIFETIME_S: i64 = 30 * 60;
/// How long a link may be made to live, seconds: no longer than a used state is remembered, or it
/// could be used again.
pub const LONGEST_LIFETIME_S: i64 = 24 * 3600;
/// The longest `ref`, characters: contract §4.
pub const LONGEST_REF: usize = 64;

/// The expiry (4 bytes of Unix seconds), whether the `ref` is stored (1), a nonce (6), and half
/// of an HMAC-SHA-256 (16): 27 bytes are 36 characters.
const HEAD_CHARS: usize = 36;
const MAC_BYTES: usize = 16;
/// Where the flag stands in the head.
const EXPIRY_BYTES: usize = 4;
/// The flags of where the `ref` is.
const INLINE: u8 = 0;
const STORED: u8 = 1;
/// The same in hexadecimal: the flag tells how a state is written, or a used one could be written
/// anew and pass for another.
const HEX_NONE: u8 = 2;
const HEX_STORED: u8 = 3;
/// The `ref` is in the state, in base64url.
const ENCODED: u8 = 4;
const NONCE_BYTES: usize = 6;
/// The head in hexadecimal, with a byte of nothing behind it: a multiple of four.
const HEX_CHARS: usize = 56;

/// Makes and checks states. `Debug` shows nothing.
#[derive(Clone)]
pub struct StateKey(hmac::Key);

/// What a state is made of, besides its app.
#[derive(Debug, Clone, Copy)]
pub(super) struct Making<'a> {
    /// The ISV's own tenant id.
    pub(super) reference: Option<&'a str>,
    pub(super) now_ms: i64,
    /// How long it may be used, seconds.
    pub(super) lifetime_s: i64,
}

/// Where the `ref` of a state is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reference {
    /// In the state, or there is none.
    Inline(Option<String>),
    /// In the store, under the state.
    Stored,
}

/// What a state of ours says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    /// Unix seconds.
    pub(super) expires_at: i64,
    pub(super) reference: Reference,
}

impl StateKey {
    /// Derives the key from a secret of the sidecar's, the store key.
    #[must_use]
    pub fn derive(secret: &[u8]) -> Self {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let derived = hmac::sign(&secret, b"alipay-sidecar: state of authorisation links");
        Self(hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()))
    }

    /// Makes a state for `app_id`. `None` if the system has no random numbers.
    pub(super) fn make(&self, app_id: &AppId, making: &Making<'_>) -> Option<String> {
        let (flag, tail) = tail(making.reference.unwrap_or_default());
        let head = self.head(app_id, making, (flag, &tail))?;
        Some(URL_SAFE_NO_PAD.encode(head) + &tail)
    }

    /// Makes a state that is base64 by the standard alphabet; a `ref` is always in the store.
    pub(super) fn make_base64(&self, app_id: &AppId, making: &Making<'_>) -> Option<String> {
        let flag = making.reference.map_or(HEX_NONE, |_| HEX_STORED);
        let head = self.head(app_id, making, (flag, ""))?;
        let digits = head.iter().chain(&[0]).map(|byte| format!("{byte:02x}"));
        Some(digits.collect())
    }

    /// Whether the `ref` of a state made here waits in the store.
    pub(super) fn leaves_in_store(state: &str) -> bool {
        let head = || {
            let (head, _) = state.split_at_checked(HEAD_CHARS)?;
            URL_SAFE_NO_PAD.decode(head).ok()
        };
        let head = from_hex(state).or_else(head);
        let flag = head.as_ref().and_then(|head| head.get(EXPIRY_BYTES));
        flag.is_some_and(|flag| matches!(*flag, STORED | HEX_STORED))
    }

    /// [`Self::make`] and [`Self::make_base64`], for the fuzz targets: a link of one minute.
    #[cfg(fuzzing)]
    #[doc(hidden)]
    #[must_use]
    pub fn make_fuzzed(
        &self,
        app_id: &AppId,
        reference: Option<&str>,
        now_ms: i64,
        as_base64: bool,
    ) -> Option<String> {
        let making = Making {
            reference,
            now_ms,
            lifetime_s: 60,
        };
        match as_base64 {
            true => self.make_base64(app_id, &making),
            false => self.make(app_id, &making),
        }
    }

    /// [`Self::read`], for the fuzz targets: the expiry, and the `ref` if it isn't stored.
    #[cfg(fuzzing)]
    #[doc(hidden)]
    #[must_use]
    pub fn read_fuzzed(
        &self,
        app_id: &AppId,
        state: &str,
    ) -> Option<(i64, Option<Option<String>>)> {
        let read = self.read(app_id, state)?;
        let reference = match read.reference {
            Reference::Inline(reference) => Some(reference),
            Reference::Stored => None,
        };
        Some((read.expires_at, reference))
    }

    fn head(&self, app_id: &AppId, making: &Making<'_>, tail: (u8, &str)) -> Option<Vec<u8>> {
        let (flag, tail) = tail;
        let now_s = making.now_ms.div_euclid(1000);
        let expires_at = now_s.saturating_add(making.lifetime_s);
        let mut nonce = [0; NONCE_BYTES];
        rand::fill(&mut nonce).ok()?;
        let mut head = u32::try_from(expires_at).ok()?.to_be_bytes().to_vec();
        head.push(flag);
        head.extend(nonce);
        head.extend(self.mac(app_id, &head, tail));
        Some(head)
    }

    /// What `state` says, if it was made by [`Self::make`] for `app_id`. Whether it has expired
    /// or was used, the caller decides.
    pub(super) fn read(&self, app_id: &AppId, state: &str) -> Option<State> {
        if let Some(head) = from_hex(state) {
            let (flag, expires_at) = self.read_head(app_id, &head, "")?;
            let reference = match flag {
                HEX_NONE => Reference::Inline(None),
                HEX_STORED => Reference::Stored,
                _ => return None,
            };
            return Some(State {
                expires_at,
                reference,
            });
        }
        let (head, tail) = state.split_at_checked(HEAD_CHARS)?;
        let head = URL_SAFE_NO_PAD.decode(head).ok()?;
        let (flag, expires_at) = self.read_head(app_id, &head, tail)?;
        let reference = match flag {
            INLINE => Reference::Inline(Some(tail.to_owned()).filter(|tail| !tail.is_empty())),
            STORED => Reference::Stored,
            ENCODED => Reference::Inline(Some(decoded(tail)?)),
            _ => return None,
        };
        Some(State {
            expires_at,
            reference,
        })
    }

    /// The flag and the expiry of a head that is ours.
    fn read_head(&self, app_id: &AppId, head: &[u8], tail: &str) -> Option<(u8, i64)> {
        let (signed, mac) = head.split_at_checked(head.len().checked_sub(MAC_BYTES)?)?;
        constant_time::verify_slices_are_equal(&self.mac(app_id, signed, tail), mac).ok()?;
        let (expires_at, rest) = signed.split_first_chunk::<EXPIRY_BYTES>()?;
        let expires_at = u32::from_be_bytes(*expires_at).into();
        Some((*rest.first()?, expires_at))
    }

    fn mac(&self, app_id: &AppId, head: &[u8], tail: &str) -> [u8; MAC_BYTES] {
        let mut context = hmac::Context::with_key(&self.0);
        // The head has a fixed length and an app_id no NUL, so nothing can move between the parts.
        context.update(head);
        context.update(app_id.as_str().as_bytes());
        context.update(&[0]);
        context.update(tail.as_bytes());
        let mut mac = [0; MAC_BYTES];
        mac.iter_mut()
            .zip(context.sign().as_ref())
            .for_each(|(to, from)| *to = *from);
        mac
    }
}

impl std::fmt::Debug for StateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StateKey(…)")
    }
}

/// The head of a state in hexadecimal.
fn from_hex(state: &str) -> Option<Vec<u8>> {
    let is_digit = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    if state.len() != HEX_CHARS || !state.bytes().all(is_digit) {
        return None;
    }
    let pairs = (0..HEX_CHARS).step_by(2).map(|at| state.get(at..at + 2));
    let bytes = pairs.map(|pair| u8::from_str_radix(pair?, 16).ok());
    let mut bytes: Vec<u8> = bytes.collect::<Option<_>>()?;
    (bytes.pop()? == 0).then_some(bytes)
}

/// How a state carries `reference`, and as what.
fn tail(reference: &str) -> (u8, String) {
    if is_inline(reference) {
        return (INLINE, reference.to_owned());
    }
    let encoded = URL_SAFE_NO_PAD.encode(reference);
    match encoded.len() <= LONGEST_REF {
        true => (ENCODED, encoded),
        false => (STORED, String::new()),
    }
}

fn decoded(tail: &str) -> Option<String> {
    String::from_utf8(URL_SAFE_NO_PAD.decode(tail).ok()?).ok()
}

fn is_inline(reference: &str) -> bool {
    reference.len() <= LONGEST_REF
        && reference
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_795_335_630_999;

    fn key() -> StateKey {
        StateKey::derive(&[7; 32])
    }

    fn app(id: &str) -> AppId {
        AppId::new(id).expect("id")
    }

    fn making(reference: Option<&str>) -> Making<'_> {
        Making {
            reference,
            now_ms: NOW,
            lifetime_s: LIFETIME_S,
        }
    }

    fn make(app_id: &str, reference: Option<&str>) -> String {
        let state = key().make(&app(app_id), &making(reference));
        state.expect("random")
    }

    fn check(reference: Option<&str>, expected: &Reference) {
        let state = make("2021", reference);
        assert!(state.len() <= 100, "{state}");
        assert!(
            state
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        );
        let read = key().read(&app("2021"), &state).expect("own state");
        assert_eq!(&read.reference, expected);
        assert_eq!(read.expires_at, NOW / 1000 + LIFETIME_S);
    }

    #[test]
    fn a_state_comes_back_with_its_ref() {
        let longest = "x".repeat(64);
        check(None, &Reference::Inline(None));
        check(
            Some("shop_17"),
            &Reference::Inline(Some("shop_17".to_owned())),
        );
        check(Some(&longest), &Reference::Inline(Some(longest.clone())));
        let dashed = "-_".repeat(32);
        check(Some(&dashed), &Reference::Inline(Some(dashed.clone())));
        let sixteen = "商".repeat(16);
        for encoded in ["shop 17", "商家", &sixteen] {
            check(Some(encoded), &Reference::Inline(Some(encoded.to_owned())));
        }
        let seventeen = "商".repeat(17);
        check(Some(&seventeen), &Reference::Stored);
        for (reference, is_stored) in [("shop", false), ("商家", false), (&*seventeen, true)] {
            let state = make("2021", Some(reference));
            assert_eq!(StateKey::leaves_in_store(&state), is_stored, "{reference}");
        }
    }

    #[test]
    fn a_state_for_an_invitation_is_base64_and_leaves_its_ref_in_the_store() {
        use base64::engine::general_purpose::STANDARD;
        for (reference, expected) in [
            (None, Reference::Inline(None)),
            (Some("shop_17"), Reference::Stored),
        ] {
            let state = key().make_base64(&app("2021"), &making(reference));
            let state = state.expect("random");
            assert_eq!(
                STANDARD.decode(&state).expect("base64").len(),
                HEX_CHARS * 3 / 4
            );
            assert!(state.bytes().all(|b| b.is_ascii_alphanumeric()), "{state}");
            for at in 0..state.len() {
                let mut changed = state.clone().into_bytes();
                changed[at] = if changed[at] == b'0' { b'1' } else { b'0' };
                let changed = String::from_utf8(changed).expect("ASCII");
                assert_eq!(key().read(&app("2021"), &changed), None, "{at}");
            }
            assert_eq!(key().read(&app("2022"), &state), None);
            // Written another way it is another state, and none of ours.
            assert_eq!(from_hex(&state.to_uppercase()), None);
            assert_eq!(from_hex(&format!("{state}00")), None);
            let head = from_hex(&state).expect("digits");
            let rewritten = URL_SAFE_NO_PAD.encode(head);
            assert_eq!(key().read(&app("2021"), &rewritten), None);
            let read = key().read(&app("2021"), &state).expect("own state");
            assert_eq!(read.reference, expected);
        }
    }

    #[test]
    fn a_used_state_cannot_be_written_anew() {
        let state = make("2021", None);
        let head = URL_SAFE_NO_PAD.decode(&state).expect("base64url");
        let digits = head.iter().chain(&[0]).map(|byte| format!("{byte:02x}"));
        let rewritten: String = digits.collect();
        assert_eq!(key().read(&app("2021"), &rewritten), None);
    }

    #[test]
    fn no_two_states_are_equal() {
        assert_ne!(make("2021", None), make("2021", None));
    }

    #[test]
    fn a_state_with_any_character_changed_is_no_state() {
        let state = make("2021", Some("shop"));
        for at in 0..state.len() {
            let mut changed = state.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).expect("ASCII");
            assert_eq!(key().read(&app("2021"), &changed), None, "{at}");
        }
        for other in [
            "",
            "x",
            &state[..36],
            &format!("{state}x"),
            &"中".repeat(20),
        ] {
            assert_eq!(key().read(&app("2021"), other), None, "{other}");
        }
    }

    #[test]
    fn a_state_is_good_for_its_app_and_its_key_alone() {
        let state = make("2021", None);
        assert_eq!(key().read(&app("2022"), &state), None);
        let other = StateKey::derive(&[8; 32]);
        assert_eq!(other.read(&app("2021"), &state), None);
    }
}
