//! Exports sealed to a key: one JWE a line, so that any JOSE library opens what leaves here.
//!
//! Format: RFC 7516, compact serialisation, `RSA-OAEP-256` around a fresh `A256GCM` key. The
//! plaintext of a line is JSON lines as `merchant import` reads them. The protected header says of
//! which export a line is, which part of it, and whether it is the last, so that a line that is
//! missing, moved or of another export is noticed. It doesn't say who sealed it: everybody who has
//! the public key can.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::rand;
use aws_lc_rs::rsa::{
    OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, OaepPublicEncryptingKey,
    PrivateDecryptingKey, PublicEncryptingKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::protocol::key::{AppPrivateKey, RsaPublicKey};

const ALG: &str = "RSA-OAEP-256";
const ENC: &str = "A256GCM";
/// What a line holds once it is open.
const CONTENT_TYPE: &str = "application/jsonl";
const KEY_LEN: usize = 32;
const TAG_LEN: usize = 16;
/// The shortest key that is sealed to, bits.
const SHORTEST: usize = 2048;

/// Nothing was sealed, or opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealingError {
    /// The line isn't what an export consists of.
    #[error("{0}; expected a line of `merchant export --with-tokens`")]
    Form(&'static str),
    /// The recipient's key can't be used.
    #[error("the key can't be used: {0}")]
    Key(String),
    /// The line was sealed to another key.
    #[error("it was sealed to the key {found}; this one is {expected}")]
    OtherKey {
        /// The fingerprint in the line.
        found: String,
        /// The fingerprint of the key at hand.
        expected: String,
    },
    /// The line was changed, or is damaged.
    #[error("it doesn't open: it was changed, or cut off")]
    Shut,
    /// The system has no random numbers.
    #[error("the system gave no random numbers")]
    Random,
}

/// The protected header of a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartHeader {
    alg: String,
    enc: String,
    cty: String,
    /// SHA-256 of the recipient's SubjectPublicKeyInfo, hexadecimal.
    kid: String,
    /// Which export the line is of.
    pub export: String,
    /// Which line of it, counted from 1.
    pub part: u64,
    /// Whether no line follows.
    pub last: bool,
}

/// Which line of which export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part<'a> {
    /// The export's id.
    pub export: &'a str,
    /// Counted from 1.
    pub part: u64,
    /// Whether no line follows.
    pub last: bool,
}

/// To whom an export is sealed.
pub struct Recipient {
    key: OaepPublicEncryptingKey,
    kid: String,
}

/// Who opens an export.
pub struct Opener {
    key: OaepPrivateDecryptingKey,
    kid: String,
}

impl Recipient {
    /// The recipient whose public key is `text`: PEM or bare, RSA of at least 2048 bits.
    ///
    /// # Errors
    /// [`SealingError::Key`].
    pub fn from_text(text: &str) -> Result<Self, SealingError> {
        let public = RsaPublicKey::from_text(text).map_err(|e| SealingError::Key(e.to_string()))?;
        long_enough(public.bits())?;
        let key = PublicEncryptingKey::from_der(public.spki())
            .ok()
            .and_then(|key| OaepPublicEncryptingKey::new(key).ok())
            .ok_or_else(|| unusable(public.bits()))?;
        let kid = public.fingerprint();
        Ok(Self { key, kid })
    }

    /// The fingerprint of its public key: SHA-256 of the `SubjectPublicKeyInfo`, hexadecimal.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.kid
    }

    /// Seals `plain` as one line, without its newline.
    ///
    /// # Errors
    /// [`SealingError::Random`], or [`SealingError::Key`].
    pub fn seal(&self, part: Part<'_>, plain: &[u8]) -> Result<String, SealingError> {
        let header = PartHeader {
            alg: ALG.to_owned(),
            enc: ENC.to_owned(),
            cty: CONTENT_TYPE.to_owned(),
            kid: self.kid.clone(),
            export: part.export.to_owned(),
            part: part.part,
            last: part.last,
        };
        let header = serde_json::to_vec(&header).expect("text and numbers always serialise");
        let header = URL_SAFE_NO_PAD.encode(header);
        let mut content_key = Zeroizing::new([0; KEY_LEN]);
        rand::fill(content_key.as_mut_slice()).map_err(|_| SealingError::Random)?;
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).map_err(|_| SealingError::Random)?;
        let mut sealed = plain.to_vec();
        let tag = cipher(&content_key)
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(header.as_bytes()),
                &mut sealed,
            )
            .map_err(|_| SealingError::Random)?;
        let wrapped = self.wrap(content_key.as_slice())?;
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        Ok([
            header,
            encode(&wrapped),
            encode(&nonce),
            encode(&sealed),
            encode(tag.as_ref()),
        ]
        .join("."))
    }

    fn wrap(&self, content_key: &[u8]) -> Result<Vec<u8>, SealingError> {
        let mut wrapped = vec![0; self.key.ciphertext_size()];
        let wrapped = self
            .key
            .encrypt(&OAEP_SHA256_MGF1SHA256, content_key, &mut wrapped, None)
            .map_err(|_| SealingError::Random)?;
        Ok(wrapped.to_vec())
    }
}

impl std::fmt::Debug for Recipient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Recipient({})", self.kid)
    }
}

impl Opener {
    /// Who has the private key `text`, in any form.
    ///
    /// # Errors
    /// [`SealingError::Key`].
    pub fn from_text(text: &str) -> Result<Self, SealingError> {
        let private =
            AppPrivateKey::from_text(text).map_err(|e| SealingError::Key(e.to_string()))?;
        long_enough(private.bits())?;
        let pem = private.to_pkcs8_pem();
        let body: Zeroizing<String> = Zeroizing::new(
            pem.expose()
                .lines()
                .filter(|line| !line.starts_with('-'))
                .collect(),
        );
        let der = STANDARD.decode(body.as_str()).map(Zeroizing::new);
        let der = der.map_err(|_| unusable(private.bits()))?;
        let key = PrivateDecryptingKey::from_pkcs8(&der)
            .ok()
            .and_then(|key| OaepPrivateDecryptingKey::new(key).ok())
            .ok_or_else(|| unusable(private.bits()))?;
        let kid = private.public_key().fingerprint();
        Ok(Self { key, kid })
    }

    /// Opens one line.
    ///
    /// # Errors
    /// Each [`SealingError`] but [`SealingError::Random`].
    pub fn open(&self, line: &str) -> Result<(PartHeader, Zeroizing<Vec<u8>>), SealingError> {
        let pieces: Vec<&str> = line.trim_end().split('.').collect();
        let [head, wrapped, nonce, sealed, tag] = pieces.as_slice() else {
            return Err(SealingError::Form("found no five parts between dots"));
        };
        let decode = |piece: &str| {
            let decoded = URL_SAFE_NO_PAD.decode(piece);
            decoded.map_err(|_| SealingError::Form("found a part that isn't base64url"))
        };
        let header = self.header(&decode(head)?)?;
        let content_key = self.unwrap(&decode(wrapped)?)?;
        let nonce: [u8; NONCE_LEN] = decode(nonce)?.try_into().map_err(|_| SealingError::Shut)?;
        let (sealed, tag) = (decode(sealed)?, decode(tag)?);
        if tag.len() != TAG_LEN {
            return Err(SealingError::Shut);
        }
        let mut both = Zeroizing::new([sealed, tag].concat());
        let plain = cipher(&content_key)
            .open_in_place(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(head.as_bytes()),
                &mut both,
            )
            .map_err(|_| SealingError::Shut)?
            .len();
        both.truncate(plain);
        Ok((header, both))
    }

    fn header(&self, head: &[u8]) -> Result<PartHeader, SealingError> {
        let header: PartHeader =
            serde_json::from_slice(head).map_err(|_| SealingError::Form("found another header"))?;
        if (header.alg.as_str(), header.enc.as_str()) != (ALG, ENC) {
            return Err(SealingError::Form("found another `alg` or `enc`"));
        }
        if header.kid != self.kid {
            return Err(SealingError::OtherKey {
                found: header.kid,
                expected: self.kid.clone(),
            });
        }
        Ok(header)
    }

    fn unwrap(&self, wrapped: &[u8]) -> Result<Zeroizing<[u8; KEY_LEN]>, SealingError> {
        let mut key = Zeroizing::new(vec![0; self.key.min_output_size()]);
        let key = self
            .key
            .decrypt(&OAEP_SHA256_MGF1SHA256, wrapped, &mut key, None)
            .map_err(|_| SealingError::Shut)?;
        let key = <[u8; KEY_LEN]>::try_from(&*key).map_err(|_| SealingError::Shut)?;
        Ok(Zeroizing::new(key))
    }
}

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Opener({})", self.kid)
    }
}

fn cipher(key: &[u8; KEY_LEN]) -> LessSafeKey {
    let key = UnboundKey::new(&AES_256_GCM, key);
    LessSafeKey::new(key.expect("the key has the 32 bytes the cipher asks for"))
}

fn long_enough(bits: usize) -> Result<(), SealingError> {
    if bits >= SHORTEST {
        return Ok(());
    }
    let text = format!("found {bits} bits, expected at least {SHORTEST}");
    Err(SealingError::Key(text))
}

fn unusable(bits: usize) -> SealingError {
    SealingError::Key(format!(
        "the library takes no RSA key of {bits} bits like it"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(part: u64) -> Part<'static> {
        Part {
            export: "e1",
            part,
            last: true,
        }
    }

    fn pair() -> (Recipient, Opener) {
        let key = AppPrivateKey::generate(2048).expect("a key");
        let recipient = Recipient::from_text(&key.public_key().to_bare_base64()).expect("public");
        let opener = Opener::from_text(key.to_pkcs8_pem().expose()).expect("private");
        (recipient, opener)
    }

    #[test]
    fn what_is_sealed_opens_with_its_key_alone() {
        let (recipient, opener) = pair();
        for plain in [&b""[..], b"{}\n", &[7; 100_000]] {
            let line = recipient.seal(part(3), plain).expect("sealed");
            let (header, opened) = opener.open(&line).expect("opened");
            assert_eq!(opened.as_slice(), plain);
            assert_eq!(
                (header.export.as_str(), header.part, header.last),
                ("e1", 3, true)
            );
            assert_ne!(line, recipient.seal(part(3), plain).expect("sealed"));
        }
        let line = recipient.seal(part(1), b"x").expect("sealed");
        let (_, other) = pair();
        assert!(matches!(
            other.open(&line),
            Err(SealingError::OtherKey { .. })
        ));
    }

    #[test]
    fn a_line_with_any_character_changed_does_not_open() {
        let (recipient, opener) = pair();
        let line = recipient.seal(part(1), b"secret").expect("sealed");
        for at in (0..line.len())
            .step_by(7)
            .chain(line.len() - 20..line.len() - 1)
        {
            let mut changed = line.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).expect("ASCII");
            assert!(opener.open(&changed).is_err(), "{at}");
        }
        for other in ["", "....", "a.b.c", "{}", &line[..line.len() - 4]] {
            assert!(opener.open(other).is_err(), "{other}");
        }
    }

    #[test]
    fn short_and_wrong_keys_are_refused() {
        let short = AppPrivateKey::generate(1024).expect("a key");
        assert!(Recipient::from_text(&short.public_key().to_bare_base64()).is_err());
        assert!(Opener::from_text(short.to_pkcs8_pem().expose()).is_err());
        assert!(Recipient::from_text(short.to_pkcs8_pem().expose()).is_err());
        assert!(Recipient::from_text("rubbish").is_err());
    }
}
