//! Secrets encrypted at rest: the store key, and the sealing of single records under it.
//!
//! Every record is sealed by AES-256-GCM-SIV under a sub-key of the store key, with a random nonce
//! and with its table and key as associated data, so that nobody who can write the file can put
//! one merchant's record in another's place. What must be found by a secret (a token, a
//! `notify_id`) is indexed by a keyed digest, which tells nothing to one who has only the file.
//! What sealing can't notice is an old version of a record put back in its own place.

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{hkdf, hmac, rand};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::{Zeroize, Zeroizing};

use crate::model::id::{AppId, EventId};
use crate::protocol::secret::Secret;
use crate::store::error::StoreError;

/// The length of a store key, bytes.
const KEY_LEN: usize = 32;

/// The layout of a sealed record: this byte, the nonce, the ciphertext with its tag.
const FORMAT: u8 = 1;

/// Sets this program's sub-keys apart from those of any other use of the same key.
const SALT: &[u8] = b"alipay-sidecar store";

/// The 32 bytes under which everything in a store is sealed. Its loss is the loss of the store.
#[derive(Debug, Clone)]
pub struct StoreKey(Secret<[u8; KEY_LEN]>);

/// The text of a store key is not 32 bytes in base64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the store key is not 32 bytes in base64 (44 characters); `alipay-sidecar init` makes one, \
     and so does `openssl rand -base64 32`"
)]
#[non_exhaustive]
pub struct InvalidStoreKey;

impl StoreKey {
    /// Reads a key from base64; white space around it is ignored.
    ///
    /// # Errors
    /// [`InvalidStoreKey`] when it isn't base64 of 32 bytes.
    pub fn from_base64(text: &str) -> Result<Self, InvalidStoreKey> {
        let bytes = STANDARD.decode(text.trim()).map_err(|_| InvalidStoreKey)?;
        let bytes = Zeroizing::new(bytes);
        let key = <[u8; KEY_LEN]>::try_from(bytes.as_slice()).map_err(|_| InvalidStoreKey)?;
        Ok(Self(Secret::new(key)))
    }

    /// Makes a new key.
    #[must_use]
    pub fn generate() -> Self {
        let mut key = [0; KEY_LEN];
        fill_random(&mut key);
        let made = Self(Secret::new(key));
        key.zeroize();
        made
    }

    /// The key as text, for the file it is kept in.
    #[must_use]
    pub fn to_base64(&self) -> Secret<String> {
        Secret::new(STANDARD.encode(self.0.expose()))
    }
}

/// Where a record stands; part of what is sealed.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    /// The table's name.
    pub(super) table: &'a str,
    /// The record's key within it.
    pub(super) key: &'a [u8],
}

impl std::fmt::Display for Place<'_> {
    /// Names the record for an operator: keys are ids or digests, never secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "record ")?;
        if self.key.iter().all(|b| b.is_ascii_graphic() || *b == 0) {
            for byte in self.key {
                write!(f, "{}", if *byte == 0 { '/' } else { char::from(*byte) })?;
            }
        } else if let Ok(id) = <[u8; 16]>::try_from(self.key) {
            write!(f, "{}", EventId::from_bytes(id))?;
        } else {
            for byte in self.key.iter().take(8) {
                write!(f, "{byte:02x}")?;
            }
        }
        write!(f, " of table `{}`", self.table)
    }
}

impl Place<'_> {
    /// The associated data: no two places give the same bytes.
    fn associated_data(&self) -> Vec<u8> {
        let mut data = vec![FORMAT];
        data.extend((self.table.len() as u64).to_be_bytes());
        data.extend(self.table.as_bytes());
        data.extend(self.key);
        data
    }

    /// The error that says this record can't be read.
    pub(super) fn damaged(&self) -> StoreError {
        StoreError::Damaged {
            record: self.to_string(),
        }
    }
}

/// The keys of the digests in the indexes. They stand in the file, sealed, so that a store can get
/// another store key: what a digest was made of is often forgotten, so it can't be made anew.
pub(super) struct IndexKeys(Zeroizing<[u8; INDEX_KEYS * KEY_LEN]>);

/// How many there are.
const INDEX_KEYS: usize = 6;

impl IndexKeys {
    /// New ones.
    pub(super) fn generate() -> Self {
        let mut keys = Zeroizing::new([0; INDEX_KEYS * KEY_LEN]);
        fill_random(keys.as_mut_slice());
        Self(keys)
    }

    /// Those of the files of schema version 2 and before: made from the store key.
    fn derive(root: &hkdf::Prk) -> Self {
        let purposes: [&[u8]; INDEX_KEYS] = [
            b"index tokens",
            b"index notify ids",
            b"index order keys",
            b"index contents",
            b"index networks",
            b"index names",
        ];
        let mut keys = Zeroizing::new([0; INDEX_KEYS * KEY_LEN]);
        for (key, purpose) in keys.chunks_exact_mut(KEY_LEN).zip(purposes) {
            key.copy_from_slice(sub_key(root, purpose).as_slice());
        }
        Self(keys)
    }

    /// Reads what [`Self::as_bytes`] gave.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let keys = <[u8; INDEX_KEYS * KEY_LEN]>::try_from(bytes).ok()?;
        Some(Self(Zeroizing::new(keys)))
    }

    /// What is to be sealed.
    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.as_slice()
    }

    /// The key at `place`.
    fn key(&self, place: usize) -> hmac::Key {
        let key = self.0.chunks_exact(KEY_LEN).nth(place);
        let key = key.expect("there are six");
        hmac::Key::new(hmac::HMAC_SHA256, key)
    }
}

/// Seals records and digests index keys, each purpose under a key of its own.
pub(super) struct Sealer {
    records: LessSafeKey,
    index_keys: IndexKeys,
    tokens: hmac::Key,
    notify_ids: hmac::Key,
    order_keys: hmac::Key,
    contents: hmac::Key,
    networks: hmac::Key,
    names: hmac::Key,
}

impl Sealer {
    /// A sealer for records; its index keys are those of old files until
    /// [`Self::with_index_keys`].
    pub(super) fn new(key: &StoreKey) -> Self {
        let root = hkdf::Salt::new(hkdf::HKDF_SHA256, SALT).extract(key.0.expose());
        let records = UnboundKey::new(&AES_256_GCM_SIV, sub_key(&root, b"seal records").as_slice())
            .expect("a sub-key has the 32 bytes the cipher asks for");
        Self::of(LessSafeKey::new(records), IndexKeys::derive(&root))
    }

    fn of(records: LessSafeKey, index_keys: IndexKeys) -> Self {
        Self {
            records,
            tokens: index_keys.key(0),
            notify_ids: index_keys.key(1),
            order_keys: index_keys.key(2),
            contents: index_keys.key(3),
            networks: index_keys.key(4),
            names: index_keys.key(5),
            index_keys,
        }
    }

    /// The same with the index keys of a file.
    pub(super) fn with_index_keys(self, index_keys: IndexKeys) -> Self {
        Self::of(self.records, index_keys)
    }

    /// The index keys.
    pub(super) fn index_keys(&self) -> &IndexKeys {
        &self.index_keys
    }

    /// Seals `plain` for its place.
    pub(super) fn seal(&self, place: Place<'_>, plain: &[u8]) -> Result<Vec<u8>, StoreError> {
        let mut nonce = [0; NONCE_LEN];
        fill_random(&mut nonce);
        let mut sealed = Vec::with_capacity(1 + NONCE_LEN + plain.len() + 16);
        sealed.push(FORMAT);
        sealed.extend(nonce);
        sealed.extend(plain);
        let (_, in_out) = sealed.split_at_mut(1 + NONCE_LEN);
        let tag = self.records.seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(place.associated_data()),
            in_out,
        );
        let Ok(tag) = tag else {
            sealed.zeroize();
            return Err(StoreError::Unavailable {
                reason: format!("{place} is too large to be sealed"),
            });
        };
        sealed.extend(tag.as_ref());
        Ok(sealed)
    }

    /// Opens what was sealed for the same place; the result is wiped when dropped.
    pub(super) fn open(
        &self,
        place: Place<'_>,
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        let Some((&FORMAT, rest)) = sealed.split_first() else {
            return Err(place.damaged());
        };
        let (nonce, ciphertext) = rest
            .split_first_chunk::<NONCE_LEN>()
            .ok_or_else(|| place.damaged())?;
        let mut plain = Zeroizing::new(ciphertext.to_vec());
        let length = self
            .records
            .open_in_place(
                Nonce::assume_unique_for_key(*nonce),
                Aad::from(place.associated_data()),
                &mut plain,
            )
            .map_err(|_| place.damaged())?
            .len();
        plain.truncate(length);
        Ok(plain)
    }

    /// The index key of a token.
    pub(super) fn token_digest(&self, token: &Secret<String>) -> [u8; 32] {
        digest(&self.tokens, &[token.expose()])
    }

    /// The index key of a `notify_id`: 16 bytes, enough for what Alipay's signature vouches for.
    pub(super) fn notify_digest(&self, app_id: &AppId, notify_id: &str) -> [u8; 16] {
        half(digest(&self.notify_ids, &[app_id.as_str(), notify_id]))
    }

    /// The index key of a content, given its own digest.
    pub(super) fn content_digest(&self, content: &[u8; 32]) -> [u8; 16] {
        half(digest_bytes(&self.contents, &[content]))
    }

    /// The index key of who sent something.
    pub(super) fn network_digest(&self, network: &str) -> [u8; 16] {
        half(digest(&self.networks, &[network]))
    }

    /// The index key of an order; `scope` tells whose order it is.
    pub(super) fn order_digest(&self, scope: [&str; 2], order_key: &str) -> [u8; 16] {
        let [app_id, auth_app_id] = scope;
        half(digest(&self.order_keys, &[app_id, auth_app_id, order_key]))
    }

    /// The index key of what people are known by, or name themselves: `parts` begin with the
    /// purpose.
    pub(super) fn name_digest(&self, parts: &[&str]) -> [u8; 32] {
        digest(&self.names, parts)
    }

    /// The same in 16 bytes, where a mix-up would be noticed.
    pub(super) fn short_name_digest(&self, parts: &[&str]) -> [u8; 16] {
        half(self.name_digest(parts))
    }
}

fn sub_key(root: &hkdf::Prk, purpose: &[u8]) -> Zeroizing<[u8; KEY_LEN]> {
    let mut key = Zeroizing::new([0; KEY_LEN]);
    root.expand(&[purpose], hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(key.as_mut_slice()))
        .expect("32 bytes are one block of HKDF-SHA256");
    key
}

/// The keyed digest of `parts`; no two different lists are hashed as the same bytes.
fn digest(key: &hmac::Key, parts: &[&str]) -> [u8; 32] {
    let parts: Vec<&[u8]> = parts.iter().map(|part| part.as_bytes()).collect();
    digest_bytes(key, &parts)
}

fn digest_bytes(key: &hmac::Key, parts: &[&[u8]]) -> [u8; 32] {
    let mut context = hmac::Context::with_key(key);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut out = [0; 32];
    for (to, from) in out.iter_mut().zip(context.sign().as_ref()) {
        *to = *from;
    }
    out
}

fn half(digest: [u8; 32]) -> [u8; 16] {
    let (first, _) = digest.split_first_chunk::<16>().expect("32 bytes hold 16");
    *first
}

fn fill_random(out: &mut [u8]) {
    rand::fill(out).expect("aws-lc ends the process where the system has no randomness");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealer() -> Sealer {
        Sealer::new(&StoreKey::from_base64(&STANDARD.encode([7; 32])).expect("32 bytes"))
    }

    const PLACE: Place<'static> = Place {
        table: "merchants",
        key: b"a\0b",
    };

    #[test]
    fn a_record_opens_in_its_own_place_only() {
        let sealed = sealer().seal(PLACE, b"secret").expect("sealed");
        assert_eq!(
            sealer().open(PLACE, &sealed).expect("opens").as_slice(),
            b"secret"
        );
        for place in [
            Place {
                table: "apps",
                ..PLACE
            },
            Place {
                key: b"a\0c",
                ..PLACE
            },
        ] {
            assert!(sealer().open(place, &sealed).is_err());
        }
    }

    #[test]
    fn every_changed_byte_and_every_cut_is_noticed() {
        let sealed = sealer().seal(PLACE, b"secret").expect("sealed");
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(sealer().open(PLACE, &changed).is_err(), "byte {at}");
            assert!(sealer().open(PLACE, &sealed[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn another_key_opens_nothing_and_digests_differently() {
        let other = Sealer::new(&StoreKey::generate());
        let sealed = sealer().seal(PLACE, b"secret").expect("sealed");
        assert!(other.open(PLACE, &sealed).is_err());
        let token = Secret::new("t".to_owned());
        assert_ne!(other.token_digest(&token), sealer().token_digest(&token));
    }

    /// Files of schema version 2 have such digests: each was worked out by another program, from
    /// RFC 5869 and RFC 2104.
    #[test]
    fn the_index_keys_of_old_files_are_derived_as_they_were() {
        let hex = |digest: &[u8]| {
            digest
                .iter()
                .map(|b| format!("{b:02x}"))
                .collect::<String>()
        };
        let (sealer, token) = (sealer(), Secret::new("t".to_owned()));
        let app = AppId::new("2021000000000001").expect("an id");
        let found = [
            hex(&sealer.token_digest(&token)),
            hex(&sealer.notify_digest(&app, "n")),
            hex(&sealer.order_digest(["a", "b"], "o")),
            hex(&sealer.content_digest(&[0; 32])),
            hex(&sealer.network_digest("n")),
            hex(&sealer.name_digest(&["user", "u"])),
        ];
        let expected = [
            "e713426b151b739254ccc96bf8502991d7aeaa1dd41dcc4db4d12a852c2b4b16",
            "f8e62f70cc7d47e33300eba1003031be",
            "cb423f9e58e6121194cedbea489335e2",
            "65ed7782618c0a0de9c2ceb0a21535aa",
            "a29ea5014413c6364fce23f0afa1e5cd",
            "d67ce7bb5eb5b044e4541569e883cf8211fa154d6cf4f6af534d7c7133ccdd77",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn other_index_keys_digest_differently_and_seal_alike() {
        let other = sealer().with_index_keys(IndexKeys::generate());
        let token = Secret::new("t".to_owned());
        assert_ne!(other.token_digest(&token), sealer().token_digest(&token));
        assert_ne!(other.name_digest(&["u"]), sealer().name_digest(&["u"]));
        let again = IndexKeys::from_bytes(other.index_keys().as_bytes()).expect("own bytes");
        let again = sealer().with_index_keys(again);
        assert_eq!(again.name_digest(&["u"]), other.name_digest(&["u"]));
        let sealed = sealer().seal(PLACE, b"secret").expect("sealed");
        assert!(other.open(PLACE, &sealed).is_ok());
        assert!(IndexKeys::from_bytes(&[0; 96]).is_none());
    }

    #[test]
    fn keys_survive_text_and_bad_text_is_refused() {
        let key = StoreKey::generate();
        let text = key.to_base64();
        let again = StoreKey::from_base64(&format!(" {}\n", text.expose())).expect("own text");
        assert_eq!(again.0.expose(), key.0.expose());
        for bad in ["", "AAAA", "not base64 at all", &STANDARD.encode([1; 33])] {
            assert!(StoreKey::from_base64(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_place_names_its_record_without_bytes_an_operator_cannot_read() {
        assert_eq!(PLACE.to_string(), "record a/b of table `merchants`");
        let digest = Place {
            table: "memos",
            key: &[0xff; 32],
        };
        assert_eq!(
            digest.to_string(),
            "record ffffffffffffffff of table `memos`"
        );
    }
}
