//! Certificates: serial numbers of one shape, the same from DER and from PEM; and none is believed
//! but what one of the vectors' authorities signed.
//!
//! Input: a flag byte, and DER or the text of a file.
#![no_main]

use std::collections::HashSet;
use std::sync::LazyLock;

use alipay_sidecar::protocol::cert::{self, Bundle, Certificate};
use alipay_sidecar_fuzz::first;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

/// Every certificate text of the vectors, roots included.
static KNOWN: LazyLock<Vec<String>> = LazyLock::new(|| {
    let file: Value =
        serde_json::from_str(include_str!("../../tests/vectors/cert-sn.json")).expect("JSON");
    let mut texts = Vec::new();
    collect(&file, &mut texts);
    texts
});

static ROOTS: LazyLock<Bundle> =
    LazyLock::new(|| Bundle::parse(&KNOWN.concat()).expect("certificates"));

/// What was signed by the vectors' authorities.
static SIGNED: LazyLock<HashSet<Vec<u8>>> = LazyLock::new(|| {
    ROOTS
        .certificates()
        .filter_map(|known| Some(signed(known.der())?.to_vec()))
        .collect()
});

fn collect(value: &Value, texts: &mut Vec<String>) {
    match value {
        Value::String(text) if text.contains("-----BEGIN CERTIFICATE") => texts.push(text.clone()),
        Value::Array(values) => values.iter().for_each(|value| collect(value, texts)),
        Value::Object(values) => values.values().for_each(|value| collect(value, texts)),
        _ => {}
    }
}

fuzz_target!(|data: &[u8]| {
    let (flag, rest) = first(data);
    match flag & 1 {
        0 => of_der(rest),
        _ => {
            if let Ok(text) = std::str::from_utf8(rest) {
                of_text(text);
            }
        }
    }
});

fn of_der(der: &[u8]) {
    let Ok(certificate) = Certificate::from_der(der) else {
        return;
    };
    looks_right(&certificate);
    assert_eq!(certificate.der(), der);
    let base64 = STANDARD.encode(der);
    let pem =
        format!("x\r\n-----BEGIN CERTIFICATE-----\r\n{base64}\r\n-----END CERTIFICATE-----\r\n");
    for text in [pem, base64] {
        assert_eq!(cert::app_cert_sn(&text).ok(), Some(certificate.sn()));
        is_believed_rightly(&text);
    }
}

fn of_text(text: &str) {
    let Ok(bundle) = Bundle::parse(text) else {
        return;
    };
    let count = bundle
        .certificates()
        .inspect(|each| looks_right(each))
        .count();
    assert!(count + bundle.faults().count() > 0);
    if let Some(serials) = bundle.alipay_root_cert_sn() {
        assert!(serials.split('_').count() <= count);
        assert!(serials.split('_').all(is_digest));
    }
    is_believed_rightly(text);
}

fn looks_right(certificate: &Certificate) {
    assert!(is_digest(&certificate.sn()));
    let digits = certificate
        .serial()
        .strip_prefix('-')
        .unwrap_or(certificate.serial());
    assert!(!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()));
    let dates = certificate.not_before().zip(certificate.not_after());
    let now = 1_795_000_000_000;
    let is_valid = dates.is_some_and(|(from, until)| from <= now && now <= until);
    assert_eq!(certificate.is_valid_at(now), is_valid);
    if let Ok(key) = certificate.public_key() {
        assert!((1017..=4096).contains(&key.bits()));
    }
}

fn is_digest(text: &str) -> bool {
    text.len() == 32
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_believed_rightly(text: &str) {
    let Ok(bundle) = Bundle::parse(text) else {
        return;
    };
    if bundle.check_trust(&ROOTS, 1_795_000_000_000).is_ok() {
        let first = bundle.first().expect("what was believed");
        let signed = signed(first.der()).expect("a certificate");
        assert!(SIGNED.contains(signed), "nobody signed this");
    }
}

/// The signed part of a certificate: the first element inside the outer one.
fn signed(der: &[u8]) -> Option<&[u8]> {
    let (header, _) = element(der)?;
    let inside = &der[header..];
    let (header, length) = element(inside)?;
    inside.get(..header + length)
}

/// The lengths of an element's header and content.
fn element(der: &[u8]) -> Option<(usize, usize)> {
    match *der.get(1)? {
        short @ 0..=0x7f => Some((2, short.into())),
        0x81 => Some((3, (*der.get(2)?).into())),
        0x82 => Some((4, u16::from_be_bytes([*der.get(2)?, *der.get(3)?]).into())),
        _ => None,
    }
}
