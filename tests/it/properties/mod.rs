//! What holds for all input: no reader panics on any bytes, and (in `round_trips`) what we write
//! another reader finds again.
//!
//! Random bytes seldom get past a reader's first line, so most of what is read here is a real text
//! of the vectors, damaged: cut, flipped, doubled, or with something put in.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use alipay_sidecar::protocol::authorization::Authorization;
use alipay_sidecar::protocol::cert::{self, Bundle, Certificate};
use alipay_sidecar::protocol::charset::{self, Charset, CharsetLabel};
use alipay_sidecar::protocol::client_data::UnverifiedClientData;
use alipay_sidecar::protocol::encryption::ContentKey;
use alipay_sidecar::protocol::envelope::Envelope;
use alipay_sidecar::protocol::json;
use alipay_sidecar::protocol::key::{AppPrivateKey, RsaPublicKey};
use alipay_sidecar::protocol::notification::UnverifiedNotification;
use alipay_sidecar::protocol::params::Params;
use alipay_sidecar::protocol::signature::SignType;
use alipay_sidecar::protocol::signed_answer::{SpiAnswer, XmlAnswer};
use alipay_sidecar::protocol::v3_response::V3Response;
use alipay_sidecar::protocol::{timestamp, token_reply};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::protocol::{bytes, file, public_key, text};

mod damage;
mod round_trips;

use damage::damaged;

const CHARSETS: [Charset; 2] = [Charset::Gbk, Charset::Utf8];
const METHODS: [&str; 4] = [
    "alipay.trade.query",
    "alipay.open.auth.token.app",
    "alipay.system.oauth.token",
    "",
];
const HEADERS: [&str; 6] = [
    "alipay-sn",
    "Alipay-Nonce",
    "alipay-signature",
    "alipay-timestamp",
    "alipay-trace-id",
    "x",
];
/// A key of 16 bytes.
const AES_KEY: &str = "AAECAwQFBgcICQoLDA0ODw==";

fn cases(name: &str) -> Vec<Value> {
    file(name)["cases"].as_array().expect("cases").clone()
}

fn base64_of(name: &str, member: &str) -> Vec<Vec<u8>> {
    cases(name).iter().map(|case| bytes(case, member)).collect()
}

fn texts_of(cases: &[Value], member: &str) -> Vec<Vec<u8>> {
    cases.iter().map(|case| text(case, member).into()).collect()
}

fn forms() -> Vec<Vec<u8>> {
    [
        base64_of("notify", "raw_body_b64"),
        base64_of("v2-wire", "raw_body_b64"),
    ]
    .concat()
}

fn replies(list: &str) -> Vec<Value> {
    file("replies")["cases"][list]
        .as_array()
        .expect("cases")
        .clone()
}

fn key_texts() -> Vec<Vec<u8>> {
    let file = file("keys");
    let keys = file["keys"].as_object().expect("keys").values();
    let texts = keys.flat_map(|key| key.as_object().expect("a key").values());
    texts
        .filter_map(|text| text.as_str())
        .map(Into::into)
        .collect()
}

fn certificates() -> Vec<Vec<u8>> {
    let bundles = cases("cert-sn");
    let bundles = bundles
        .iter()
        .filter_map(|case| Bundle::parse(text(case, "pem")).ok());
    let all = bundles.flat_map(|bundle| {
        let der = bundle.certificates().map(|one| one.der().to_vec());
        der.collect::<Vec<_>>()
    });
    all.collect()
}

/// Parsing a key anew for every case would take longer than all the rest.
static PLATFORM: LazyLock<[RsaPublicKey; 1]> = LazyLock::new(|| [public_key("alipay2048")]);

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

proptest! {
    #[test]
    fn no_form_makes_a_reader_panic(form in damaged(forms()), header in ".{0,30}") {
        for charset in CHARSETS {
            let _ = Params::from_form(&form, charset);
        }
        let _ = charset::label_of_form(&form);
        let _ = charset::label_of_content_type(&lossy(&form));
        for content_type in [None, Some(header.as_str()), Some("x;charset=GBK")] {
            let Ok(read) = UnverifiedNotification::parse(content_type, &form) else {
                continue;
            };
            let _ = read.claimed_app_id();
            if let Ok(taken) = read.verify(&*PLATFORM, SignType::Rsa) {
                let _ = (taken.event_type(), taken.notify_id(), taken.authorization());
                let _ = (taken.cancellation(), taken.holds_secret(), taken.out_trade_no());
            }
        }
    }

    #[test]
    fn no_reply_makes_a_reader_panic(
        body in damaged(base64_of("v2-response", "body_b64")),
        method in select(METHODS.as_slice()),
    ) {
        let key = ContentKey::from_base64(AES_KEY).expect("a key");
        for charset in CHARSETS {
            let Ok(envelope) = Envelope::parse_in(body.clone().into(), method, charset) else {
                continue;
            };
            let _ = envelope.alipay_cert_sn();
            if let Ok(verified) = envelope.verify(&*PLATFORM, SignType::Rsa2) {
                let _ = (verified.node_text(), verified.signed_content(), verified.sub_msg());
                let _ = token_reply::parse(&verified.node());
                let _ = key.open_node(&verified, charset);
            }
        }
        let _ = token_reply::parse(&body);
    }

    #[test]
    fn no_json_makes_the_scanner_panic(text in damaged(base64_of("v2-response", "body_b64"))) {
        for charset in CHARSETS {
            let members = json::members(&text, charset);
            prop_assert_eq!(members.is_ok(), json::is_one_object(&text, charset).is_ok());
            for member in members.unwrap_or_default() {
                // Whatever it points at is there.
                let value = text.get(member.value.clone()).expect("inside");
                let _ = json::decode_string(value, charset);
            }
            let _ = json::decode_string(&text, charset);
        }
    }

    /// Our strict scanner takes nothing that a common reader refuses, and cuts out the same bytes.
    #[test]
    fn whatever_the_scanner_takes_is_json_to_others(
        text in damaged(base64_of("v2-response", "body_b64")),
    ) {
        let Ok(members) = json::members(&text, Charset::Utf8) else {
            return Ok(());
        };
        let theirs: BTreeMap<String, &RawValue> = serde_json::from_slice(&text).expect("JSON");
        for one in &members {
            let is_once = members.iter().filter(|other| other.name == one.name).count() == 1;
            let value = theirs[&*one.name].get().as_bytes();
            prop_assert!(!is_once || value == &text[one.value.clone()], "{}", one.name);
        }
    }

    #[test]
    fn no_v3_response_makes_a_reader_panic(
        body in damaged(base64_of("v3-response", "body_b64")),
        status in 0_u16..600,
        headers in vec((select(HEADERS.as_slice()), vec(any::<u8>(), 0..40)), 0..6),
    ) {
        let pairs = headers.iter().map(|(name, value)| (*name, value.as_slice()));
        let Ok(response) = V3Response::new(status, pairs, body.into()) else {
            return Ok(());
        };
        let _ = response.alipay_sn();
        if let Ok(verified) = response.verify(&*PLATFORM) {
            let _ = (verified.code(), verified.message(), verified.is_ciphertext());
            let _ = verified.open_body(&ContentKey::from_base64(AES_KEY).expect("a key"));
        }
    }

    #[test]
    fn no_authorization_makes_the_reader_panic(
        header in damaged(texts_of(&cases("v3-request"), "authorization")),
    ) {
        let header = lossy(&header);
        if let Ok(read) = Authorization::parse(&header) {
            // What was taken is written again as it stood, but for the case of the scheme.
            let again = read.auth_string.header(&read.sign);
            prop_assert!(again.eq_ignore_ascii_case(&header), "{again} isn't {header}");
        }
    }

    #[test]
    fn no_client_data_makes_the_reader_panic(
        message in damaged(texts_of(&replies("client_data"), "message")),
    ) {
        let Ok(data) = UnverifiedClientData::parse(&message) else {
            return Ok(());
        };
        let _ = (data.sign_content(), data.is_ciphertext());
        let key = ContentKey::from_base64(AES_KEY).expect("a key");
        if let Ok(verified) = data.verify(&*PLATFORM) {
            let _ = verified.open(&key);
        }
    }

    #[test]
    fn no_certificate_makes_the_reader_panic(
        pem in damaged(texts_of(&cases("cert-sn"), "pem")),
        der in damaged(certificates()),
        now: i64,
    ) {
        let pem = lossy(&pem);
        let _ = (cert::app_cert_sn(&pem), cert::alipay_root_cert_sn(&pem));
        if let Ok(bundle) = Bundle::parse(&pem) {
            let _ = bundle.check_trust(&bundle, now);
        }
        if let Ok(one) = Certificate::from_der(&der) {
            let _ = (one.sn(), one.not_before(), one.not_after(), one.is_valid_at(now));
            let _ = (one.public_key(), format!("{one:?}"));
        }
    }

    #[test]
    fn no_key_makes_the_reader_panic(text in damaged(key_texts())) {
        let text = lossy(&text);
        for error in [RsaPublicKey::from_text(&text).err(), AppPrivateKey::from_text(&text).err()] {
            // Nor does an error repeat the key that it refuses.
            let told = error.map(|error| error.to_string()).unwrap_or_default();
            prop_assert!(text.len() < 40 || !told.contains(&text));
        }
        let _ = RsaPublicKey::from_der(text.as_bytes());
        let _ = ContentKey::from_base64(&text);
    }

    #[test]
    fn no_short_text_makes_a_reader_panic(text in ".{0,40}", bytes in vec(any::<u8>(), 0..80)) {
        let _ = (timestamp::parse_v2(&text), text.parse::<SignType>(), CharsetLabel::parse(&text));
        let key = ContentKey::from_base64(AES_KEY).expect("a key");
        let _ = (key.decrypt(&text), key.decrypt(&STANDARD.encode(&bytes)));
        for charset in CHARSETS {
            let _ = (SpiAnswer::new(&bytes, charset), XmlAnswer::from_inner(&text, charset));
            let _ = PLATFORM[0].verify(SignType::Rsa2, &bytes, &text);
        }
    }
}
