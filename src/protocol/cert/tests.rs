//! Hostile certificates. The good ones are in the vectors (`tests/it/protocol_more.rs`).

use base64::{Engine, engine::general_purpose::STANDARD};
use proptest::prelude::*;

use super::*;
use crate::protocol::{key::AppPrivateKey, signature::SignType};

fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = match content.len() {
        short @ 0..=0x7f => vec![u8::try_from(short).unwrap()],
        long => {
            let [.., high, low] = long.to_be_bytes();
            match high {
                0 => vec![0x81, low],
                _ => vec![0x82, high, low],
            }
        }
    };
    [&[tag], &length[..], &content].concat()
}

const SHA256_RSA: &[u8] = &[
    0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11, 5, 0,
];

struct Sample {
    version: Vec<u8>,
    serial: Vec<u8>,
    issuer: Vec<u8>,
    subject: Vec<u8>,
    dates: [&'static str; 2],
    extensions: Vec<u8>,
}

impl Default for Sample {
    fn default() -> Self {
        Self {
            version: Vec::new(),
            serial: vec![5],
            issuer: tlv(0x30, &[]),
            subject: tlv(0x30, &[]),
            dates: ["260101000000Z", "270101000000Z"],
            extensions: Vec::new(),
        }
    }
}

impl Sample {
    fn der(&self) -> Vec<u8> {
        let signed = self.signed(&tlv(0x30, &[SHA256_RSA, &tlv(3, &[&[0]])]));
        tlv(0x30, &[&signed, SHA256_RSA, &tlv(3, &[&[0, 1]])])
    }

    fn signed(&self, public_key: &[u8]) -> Vec<u8> {
        let dates = self.dates.map(|date| tlv(0x17, &[date.as_bytes()]));
        tlv(
            0x30,
            &[
                &self.version,
                &tlv(2, &[&self.serial]),
                SHA256_RSA,
                &self.issuer,
                &tlv(0x30, &[&dates[0], &dates[1]]),
                &self.subject,
                public_key,
                &self.extensions,
            ],
        )
    }

    fn read(&self) -> Result<Certificate, CertificateError> {
        Certificate::from_der(&self.der())
    }
}

fn version_3(basic_constraints: &[u8]) -> Sample {
    let value = tlv(4, &[&tlv(0x30, &[basic_constraints])]);
    let extension = tlv(0x30, &[&[6, 3, 0x55, 0x1d, 19, 1, 1, 0xff], &value]);
    Sample {
        version: tlv(0xa0, &[&[2, 1, 2]]),
        extensions: tlv(0xa3, &[&tlv(0x30, &[&extension])]),
        ..Sample::default()
    }
}

/// Names of the makers, and the keys of the vectors.
struct Maker {
    name: &'static str,
    key: AppPrivateKey,
}

fn maker(name: &'static str, key: &str) -> Maker {
    Maker {
        name,
        key: AppPrivateKey::of_vectors(key),
    }
}

impl Maker {
    fn name_der(&self) -> Vec<u8> {
        let pair = tlv(
            0x30,
            &[&[6, 3, 0x55, 4, 3], &tlv(12, &[self.name.as_bytes()])],
        );
        tlv(0x30, &[&tlv(0x31, &[&pair])])
    }

    /// Issues a certificate for another, as PEM.
    fn issue(&self, subject: &Self, sample: Sample) -> String {
        let sample = Sample {
            issuer: self.name_der(),
            subject: subject.name_der(),
            ..sample
        };
        let signed = sample.signed(subject.key.public_key().spki());
        let signature = self.key.sign(SignType::Rsa2, &signed).unwrap();
        let signature = STANDARD.decode(signature).unwrap();
        let der = tlv(0x30, &[&signed, SHA256_RSA, &tlv(3, &[&[0], &signature])]);
        let body = STANDARD.encode(der);
        format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
    }
}

/// A moment between the dates of the samples.
const NOW: i64 = 1_780_000_000_000;

fn trust(chain: &str, roots: &str) -> Result<(), &'static str> {
    let chain = Bundle::parse(chain).unwrap();
    let verdict = chain.check_trust(&Bundle::parse(roots).unwrap(), NOW);
    verdict.map_err(|error| error.kind())
}

#[test]
fn an_issuer_must_be_an_authority_within_its_bounds() {
    let (root, middle) = (maker("root", "app2048"), maker("middle", "alipay2048"));
    let (low, leaf) = (maker("low", "alipay2048_other"), maker("leaf", "app4096"));
    let roots = root.issue(&root, version_3(&[1, 1, 0xff]));
    let untrusted = Err("certificate-untrusted");
    for (constraints, expected_one, expected_two) in [
        (&[1, 1, 0xff][..], Ok(()), Ok(())),
        (&[1, 1, 0xff, 2, 1, 1], Ok(()), Ok(())),
        (&[1, 1, 0xff, 2, 1, 0], Ok(()), untrusted),
        (&[], untrusted, untrusted),
    ] {
        let issuer = root.issue(&middle, version_3(constraints));
        let chain = middle.issue(&leaf, version_3(&[])) + &issuer;
        assert_eq!(trust(&chain, &roots), expected_one, "{constraints:?}");
        let second = middle.issue(&low, version_3(&[1, 1, 0xff]));
        let chain = low.issue(&leaf, version_3(&[])) + &issuer + &second;
        assert_eq!(trust(&chain, &roots), expected_two, "{constraints:?}");
    }
}

#[test]
fn a_chain_without_a_way_to_a_root_ends() {
    let (one, other) = (maker("one", "app2048"), maker("other", "alipay2048"));
    let root = maker("root", "alipay2048_other");
    let roots = root.issue(&root, Sample::default());
    let circle = one.issue(&other, Sample::default()) + &other.issue(&one, Sample::default());
    assert_eq!(trust(&circle, &roots), Err("certificate-untrusted"));
    let alone = one.issue(&one, Sample::default());
    assert_eq!(trust(&alone, &roots), Err("certificate-untrusted"));
    assert_eq!(trust(&alone, &alone), Ok(()));
    // A root's name without its key.
    let impostor = Maker {
        name: "root",
        key: one.key.clone(),
    };
    let forged = impostor.issue(&other, Sample::default());
    let chain = forged + &impostor.issue(&impostor, Sample::default());
    assert_eq!(trust(&chain, &roots), Err("certificate-untrusted"));
}

#[test]
fn an_issuer_out_of_date_breaks_the_chain() {
    let (root, middle) = (maker("root", "app2048"), maker("middle", "alipay2048"));
    let leaf = maker("leaf", "alipay2048_other");
    let old = || Sample {
        dates: ["200101000000Z", "210101000000Z"],
        ..Sample::default()
    };
    let chain = middle.issue(&leaf, Sample::default()) + &root.issue(&middle, old());
    let roots = root.issue(&root, old());
    assert_eq!(trust(&chain, &roots), Err("certificate-expired"));
    // A root itself is believed whatever its dates.
    let chain = root.issue(&leaf, Sample::default());
    assert_eq!(trust(&chain, &roots), Ok(()));
}

#[test]
fn an_empty_issuer_has_an_empty_text() {
    let certificate = Sample::default().read().unwrap();
    assert_eq!(certificate.issuer(), "");
    // printf 5 | md5sum
    assert_eq!(certificate.sn(), "e4da3b7fbbce2345d7772b0674a318d5");
}

#[test]
fn serials_are_printed_as_big_integers() {
    for (bytes, expected) in [
        (vec![0], "0"),
        (vec![0x7f], "127"),
        (vec![0, 0x80], "128"),
        (vec![0xff], "-1"),
        (vec![0x80], "-128"),
        (vec![0xff, 0x7f], "-129"),
        (
            [0x01].into_iter().chain([0; 16]).collect(),
            "340282366920938463463374607431768211456",
        ),
        (
            [0x7f].into_iter().chain([0xff; 19]).collect(),
            "730750818665451459101842416358141509827966271487",
        ),
    ] {
        assert_eq!(decimal(&bytes).as_deref(), Some(expected));
    }
}

#[test]
fn absurd_serials_are_refused() {
    for serial in [vec![], vec![1; LONGEST_SERIAL + 1], vec![1; 60_000]] {
        let sample = Sample {
            serial,
            ..Sample::default()
        };
        assert_eq!(sample.read().unwrap_err().kind(), "certificate-unreadable");
    }
    let longest = Sample {
        serial: vec![1; LONGEST_SERIAL],
        ..Sample::default()
    };
    assert!(longest.read().is_ok());
}

#[test]
fn a_certificate_cut_anywhere_is_refused() {
    let der = Sample::default().der();
    for end in 0..der.len() {
        assert!(Certificate::from_der(&der[..end]).is_err(), "{end}");
    }
    assert!(Certificate::from_der(&[&der[..], &[0]].concat()).is_err());
}

#[test]
fn odd_dates_cost_no_serial_number_but_are_never_valid() {
    let sample = Sample {
        dates: ["never", "always"],
        ..Sample::default()
    };
    let certificate = sample.read().unwrap();
    assert_eq!(certificate.not_after(), None);
    assert!(!certificate.is_valid_at(0));
}

#[test]
fn dates_hold_to_the_second() {
    let certificate = Sample::default().read().unwrap();
    let (from, until) = (1_767_225_600_000, 1_798_761_600_000);
    assert_eq!(certificate.not_before(), Some(from));
    assert_eq!(certificate.not_after(), Some(until));
    for (moment, expected) in [
        (from - 1, false),
        (from, true),
        (until, true),
        (until + 1, false),
    ] {
        assert_eq!(certificate.is_valid_at(moment), expected);
    }
}

#[test]
fn only_what_says_so_is_an_authority() {
    let authority = |sample: Sample| sample.read().unwrap().authority;
    assert_eq!(authority(Sample::default()), Authority::Unknown);
    let silent = Sample {
        version: tlv(0xa0, &[&[2, 1, 2]]),
        ..Sample::default()
    };
    assert_eq!(authority(silent), Authority::No);
    for (constraints, expected) in [
        (&[][..], Authority::No),
        (&[1, 1, 0], Authority::No),
        (&[1, 1, 0xff], Authority::Yes { below: None }),
        (&[1, 1, 0xff, 2, 1, 0], Authority::Yes { below: Some(0) }),
        (&[1, 1, 0xff, 4, 1, 0], Authority::No),
        (&[2, 1, 0], Authority::No),
    ] {
        assert_eq!(authority(version_3(constraints)), expected);
    }
}

#[test]
fn the_first_entry_is_never_replaced_by_another() {
    let good = STANDARD.encode(Sample::default().der());
    let block =
        |body: &str| format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
    let bundle = Bundle::parse(&(block("MAA=") + &block(&good))).unwrap();
    assert!(matches!(
        bundle.first(),
        Err(CertificateError::Unreadable { position: 1, .. })
    ));
    assert_eq!(bundle.certificates().count(), 1);
    assert_eq!(bundle.faults().count(), 1);
    assert!(bundle.alipay_root_cert_sn().is_some());
    assert_eq!(app_cert_sn(&good).unwrap().len(), 32);
    assert_eq!(app_cert_sn("").unwrap_err(), CertificateError::Empty);
}

#[test]
fn what_is_readable_is_written_as_it_was_read() {
    let (root, app) = (maker("root", "app2048"), maker("app", "alipay2048"));
    let (first, second) = (
        root.issue(&app, Sample::default()),
        root.issue(&root, Sample::default()),
    );
    let unreadable = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
    let bundle = Bundle::parse(&format!("{first}words\n{unreadable}{second}")).unwrap();
    let again = Bundle::parse(&bundle.to_pem()).unwrap();
    let read = |bundle: &Bundle| bundle.certificates().cloned().collect::<Vec<_>>();
    assert_eq!(read(&again), read(&bundle));
    let names = |certificate: &Certificate| {
        [certificate.subject(), certificate.issuer()].map(str::to_owned)
    };
    let names: Vec<_> = again.certificates().map(names).collect();
    assert_eq!(names, [["CN=app", "CN=root"], ["CN=root", "CN=root"]]);
    assert_eq!(again.faults().count(), 0);
}

#[test]
fn a_key_that_is_none_is_told_only_when_it_is_asked_for() {
    let certificate = Sample::default().read().unwrap();
    assert_eq!(
        certificate.public_key().unwrap_err().kind(),
        "key-algorithm"
    );
}

proptest! {
    #[test]
    fn reading_never_panics(
        der in proptest::collection::vec(any::<u8>(), 0..80),
        at in 0usize..200,
        byte: u8,
        text in ".{0,80}",
    ) {
        let _ = Certificate::from_der(&der);
        let _ = Bundle::parse(&text);
        let _ = Bundle::parse(&format!("-----BEGIN CERTIFICATE-----{text}-----END CERTIFICATE"));
        let mut sample = version_3(&[1, 1, 0xff]).der();
        let at = at % sample.len();
        sample[at] = byte;
        if let Ok(certificate) = Certificate::from_der(&sample) {
            prop_assert_eq!(certificate.sn().len(), 32);
            let _ = certificate.public_key();
        }
    }
}
