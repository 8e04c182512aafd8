//! Looks for secrets in every spelling that a leak might have.

use std::collections::{BTreeSet, HashMap};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use rsa::RsaPrivateKey;
use rsa::pkcs8::DecodePrivateKey as _;
use rsa::traits::{PrivateKeyParts as _, PublicKeyParts as _};

/// Secrets by name.
#[derive(Default)]
pub struct Secrets {
    spellings: HashMap<[u8; 2], Vec<Spelling>>,
    names: BTreeSet<String>,
}

struct Spelling {
    name: String,
    how: &'static str,
    bytes: Vec<u8>,
}

/// Shorter ones stand anywhere by chance.
const SHORTEST: usize = 10;

impl Secrets {
    /// Adds a secret, whatever its bytes are.
    pub fn add(&mut self, name: &str, secret: &[u8]) {
        assert!(secret.len() >= SHORTEST, "{name} is too short to be found");
        self.names.insert(name.to_owned());
        let text = String::from_utf8_lossy(secret);
        let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        let every: String = secret.iter().map(|byte| format!("%{byte:02x}")).collect();
        for (how, bytes) in [
            ("as it is", secret.to_vec()),
            ("hex", hex.clone().into_bytes()),
            ("HEX", hex.to_uppercase().into_bytes()),
            ("percent", percent(secret).into_bytes()),
            ("every byte percent", every.clone().into_bytes()),
            ("EVERY BYTE PERCENT", every.to_uppercase().into_bytes()),
            ("slashes escaped", text.replace('/', "\\/").into_bytes()),
            ("reversed", secret.iter().rev().copied().collect()),
            ("debug bytes", numbers(secret, ", ").into_bytes()),
            ("JSON bytes", numbers(secret, ",").into_bytes()),
        ] {
            self.spell(name, how, bytes);
        }
        for (how, bytes) in in_base64(secret) {
            self.spell(name, how, bytes);
        }
    }

    /// Adds a private key: the numbers that nobody may know, and the lines of its PEM.
    pub fn add_private_key(&mut self, name: &str, pem: &str) {
        let key = RsaPrivateKey::from_pkcs8_pem(pem).expect("a key");
        let mut numbers = vec![key.d().to_bytes_be()];
        numbers.extend(key.primes().iter().map(rsa::BigUint::to_bytes_be));
        for number in &numbers {
            // A part is as bad as the whole, and lines may be folded anywhere.
            for part in number.chunks(32).filter(|part| part.len() == 32) {
                self.add(name, part);
            }
        }
        // The first lines hold the public half.
        let public = STANDARD.encode(key.n().to_bytes_be());
        let lines = pem.lines().filter(|line| line.len() == 64);
        let lines = lines.filter(|line| !public.contains(&line[..24]));
        for line in lines.skip(key.size() * 4 / 3 / 64 + 2) {
            self.add(name, line.as_bytes());
        }
    }

    fn spell(&mut self, name: &str, how: &'static str, bytes: Vec<u8>) {
        let Some((first, _)) = bytes.split_first_chunk::<2>() else {
            return;
        };
        let known = self.spellings.entry(*first).or_default();
        if bytes.len() >= SHORTEST && !known.iter().any(|other| other.bytes == bytes) {
            let name = name.to_owned();
            known.push(Spelling { name, how, bytes });
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// What of them stands in `haystack`.
    pub fn found_in(&self, haystack: &[u8]) -> BTreeSet<(&str, &str)> {
        let mut begins = vec![false; 1 << 16];
        for first in self.spellings.keys() {
            begins[usize::from(u16::from_be_bytes(*first))] = true;
        }
        let mut found = BTreeSet::new();
        for (at, pair) in haystack.windows(2).enumerate() {
            let first = [pair[0], pair[1]];
            if !begins[usize::from(u16::from_be_bytes(first))] {
                continue;
            }
            for spelling in &self.spellings[&first] {
                if haystack[at..].starts_with(&spelling.bytes) {
                    found.insert((spelling.name.as_str(), spelling.how));
                }
            }
        }
        found
    }
}

fn percent(bytes: &[u8]) -> String {
    let one = |byte: &u8| match byte {
        b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'.' | b'_' | b'~' => {
            char::from(*byte).to_string()
        }
        other => format!("%{other:02X}"),
    };
    bytes.iter().map(one).collect()
}

fn numbers(bytes: &[u8], between: &str) -> String {
    let numbers: Vec<_> = bytes.iter().map(u8::to_string).collect();
    numbers.join(between)
}

/// Base64 of whatever the bytes stand in, at each of the three places they may begin at; what
/// neighbours decide is left out.
fn in_base64(bytes: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let mut all = vec![("base64", STANDARD.encode(bytes).into_bytes())];
    for skip in 0..3_usize {
        let inside: Vec<u8> = bytes.iter().skip(skip).copied().collect();
        let whole = inside.len() / 3 * 3;
        for (how, text) in [
            ("inside base64", STANDARD_NO_PAD.encode(&inside[..whole])),
            ("inside base64url", URL_SAFE_NO_PAD.encode(&inside[..whole])),
        ] {
            all.push((how, text.into_bytes()));
        }
    }
    all
}

#[test]
fn the_search_finds_what_is_planted_in_every_spelling() {
    let secret = b"a+secret/of\xffbytes";
    let mut secrets = Secrets::default();
    secrets.add("it", secret);
    let text = String::from_utf8_lossy(b"a+secret/of text").into_owned();
    secrets.add("text", text.as_bytes());
    let hex: String = secret.iter().map(|byte| format!("{byte:02X}")).collect();
    let mut planted = vec![
        secret.to_vec(),
        hex.into_bytes(),
        format!("{:?}", secret.as_slice()).into_bytes(),
        serde_json::to_vec(secret.as_slice()).expect("JSON"),
        b"q=a%2Bsecret%2Fof%FFbytes&r".to_vec(),
        br#"{"a":"a+secret\/of text"}"#.to_vec(),
    ];
    for before in ["", "x", "xy"] {
        let whole = [before.as_bytes(), secret, b"z"].concat();
        planted.push(STANDARD.encode(&whole).into_bytes());
        planted.push(URL_SAFE_NO_PAD.encode(&whole).into_bytes());
    }
    for bytes in planted {
        let around = [b"before ".as_slice(), &bytes, b" behind"].concat();
        assert!(!secrets.found_in(&around).is_empty(), "{around:?}");
    }
    assert!(
        secrets
            .found_in(b"a-secret/of?bytes, and nothing else")
            .is_empty()
    );
}
