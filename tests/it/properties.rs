//! What holds for all input: no reader panics on any bytes, and what we write another reader finds
//! again.
//!
//! Random bytes seldom get past a reader's first line, so most of what is read here is a real text
//! of the vectors, damaged: cut, flipped, doubled, or with something put in.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use alipay_sidecar::protocol::authorization::{AuthString, Authorization};
use alipay_sidecar::protocol::cert::{self, Bundle, Certificate};
use alipay_sidecar::protocol::charset::{self, Charset, CharsetLabel};
use alipay_sidecar::protocol::client_data::UnverifiedClientData;
use alipay_sidecar::protocol::disposition::Disposition;
use alipay_sidecar::protocol::encryption::ContentKey;
use alipay_sidecar::protocol::envelope::Envelope;
use alipay_sidecar::protocol::json;
use alipay_sidecar::protocol::key::{AppPrivateKey, RsaPublicKey};
use alipay_sidecar::protocol::multipart::{FileHead, Layout};
use alipay_sidecar::protocol::notification::UnverifiedNotification;
use alipay_sidecar::protocol::params::Params;
use alipay_sidecar::protocol::signature::SignType;
use alipay_sidecar::protocol::signed_answer::{SpiAnswer, SpiShape, XmlAnswer};
use alipay_sidecar::protocol::v3_response::V3Response;
use alipay_sidecar::protocol::{timestamp, token_reply};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::protocol::{bytes, file, public_key, text};

const CHARSETS: [Charset; 2] = [Charset::Gbk, Charset::Utf8];
const METHOD: &str = "alipay.trade.query";
/// A key of 16 bytes.
const AES_KEY: &str = "AAECAwQFBgcICQoLDA0ODw==";

/// One thing that may happen to a text on its way.
#[derive(Clone, Debug)]
enum Damage {
    Cut(Index),
    Double(Index, Index),
    Drop(Index, Index),
    Flip(Index, u8),
    Insert(Index, Vec<u8>),
}

impl Damage {
    fn any() -> impl Strategy<Value = Self> {
        let at = any::<Index>;
        let piece = prop_oneof![
            vec(any::<u8>(), 1..5),
            select(PIECES.as_slice()).prop_map(|piece| piece.as_bytes().to_vec()),
        ];
        prop_oneof![
            at().prop_map(Self::Cut),
            (at(), at()).prop_map(|(from, to)| Self::Double(from, to)),
            (at(), at()).prop_map(|(from, to)| Self::Drop(from, to)),
            (at(), any::<u8>()).prop_map(|(at, byte)| Self::Flip(at, byte)),
            (at(), piece).prop_map(|(at, piece)| Self::Insert(at, piece)),
        ]
    }

    fn apply(&self, text: &mut Vec<u8>) {
        let place = |at: &Index, text: &[u8]| at.index(text.len() + 1);
        let range = |from: &Index, to: &Index, text: &[u8]| {
            let (from, to) = (place(from, text), place(to, text));
            from.min(to)..from.max(to)
        };
        match self {
            Self::Cut(at) => text.truncate(place(at, text)),
            Self::Double(from, to) => {
                let piece = text[range(from, to, text)].to_vec();
                text.extend(piece);
            }
            Self::Drop(from, to) => drop(text.drain(range(from, to, text))),
            Self::Flip(at, byte) => {
                let at = at.index(text.len().max(1));
                if let Some(place) = text.get_mut(at) {
                    *place = *byte;
                }
            }
            Self::Insert(at, piece) => {
                let at = place(at, text);
                text.splice(at..at, piece.iter().copied());
            }
        }
    }
}

/// What readers look for.
const PIECES: [&str; 22] = [
    "\"",
    "\\",
    "\\u",
    "\\ud800",
    "{",
    "}",
    "[",
    "]]",
    ",",
    ":",
    "null",
    "1e999",
    "%",
    "%E4",
    "&",
    "=",
    "\"sign\":",
    "\r\n",
    "-----BEGIN CERTIFICATE-----",
    "-----END CERTIFICATE-----",
    "\0",
    "\u{feff}",
];

/// A real text with up to three faults, or bytes without any sense.
fn damaged(samples: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let hurt = (select(samples), vec(Damage::any(), 0..4)).prop_map(|(mut text, faults)| {
        faults.iter().for_each(|fault| fault.apply(&mut text));
        text
    });
    prop_oneof![9 => hurt, 1 => vec(any::<u8>(), 0..120)]
}

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
        method in select(vec![METHOD, "alipay.open.auth.token.app", "alipay.system.oauth.token", ""]),
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
            let value = theirs[&one.name].get().as_bytes();
            prop_assert!(!is_once || value == &text[one.value.clone()], "{}", one.name);
        }
    }

    #[test]
    fn no_v3_response_makes_a_reader_panic(
        body in damaged(base64_of("v3-response", "body_b64")),
        status in 0_u16..600,
        headers in vec((
            select(vec!["alipay-sn", "Alipay-Nonce", "alipay-signature", "alipay-timestamp", "alipay-trace-id", "x"]),
            vec(any::<u8>(), 0..40),
        ), 0..6),
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

    #[test]
    fn gbk_comes_back_byte_for_byte_and_text_letter_for_letter(
        bytes in vec(prop_oneof![any::<u8>(), select(vec![0x81, 0xa2, 0xe3, 0xd6, 0x5c, 0x80, 0xff])], 0..60),
        text in "[a-z€乗亇\u{4e00}-\u{9fa5}😀\u{e000}-\u{e7ff}]{0,30}",
    ) {
        if let Ok(decoded) = Charset::Gbk.decode(&bytes) {
            prop_assert_eq!(Charset::Gbk.encode(&decoded).expect("known"), bytes);
        }
        if let Ok(encoded) = Charset::Gbk.encode(&text) {
            prop_assert_eq!(Charset::Gbk.decode(&encoded).expect("known"), text);
        }
    }

    #[test]
    fn what_is_written_as_a_form_is_read_again_in_both_charsets(
        pairs in btree_map("[A-Za-z0-9_.-]{1,12}", "[ -~\u{4e00}-\u{9fa5}€\r\n\t]{0,20}", 0..8),
    ) {
        let mut params = Params::new();
        for (name, value) in &pairs {
            params.push(name, value).expect("once");
        }
        for charset in CHARSETS {
            let form = params.to_form(charset).expect("writable");
            prop_assert_eq!(&Params::from_form(form.as_bytes(), charset).expect("readable"), &params);
        }
    }

    #[test]
    fn what_is_encrypted_is_decrypted_with_that_key_alone(
        key in prop_oneof![vec(any::<u8>(), 16), vec(any::<u8>(), 24), vec(any::<u8>(), 32)],
        plain in vec(any::<u8>(), 0..200),
    ) {
        let ours = ContentKey::from_base64(&STANDARD.encode(&key)).expect("a key");
        let ciphertext = ours.encrypt(&plain).expect("encrypted");
        prop_assert_eq!(STANDARD.decode(&ciphertext).expect("base64").len() % 16, 0);
        let opened = ours.decrypt(&ciphertext).expect("decrypted");
        prop_assert_eq!(opened.expose(), &plain);
        let mut other = key;
        other[0] ^= 1;
        let other = ContentKey::from_base64(&STANDARD.encode(&other)).expect("a key");
        // Once in 256 times the padding looks right; the text never is.
        prop_assert!(other.decrypt(&ciphertext).map_or(true, |text| text.expose() != &plain));
    }

    #[test]
    fn an_authorization_is_read_as_it_was_written(
        app_id in "[0-9]{16}",
        sn in proptest::option::of("[0-9a-f]{32}"),
        nonce in "[A-Za-z0-9-]{16,40}",
        at: i64,
        seconds in proptest::option::of(1_u32..),
        sign in "[A-Za-z0-9+/]{4,344}={0,2}",
    ) {
        let mut written = AuthString::new(&app_id, sn.as_deref(), &nonce, at).expect("plain");
        if let Some(seconds) = seconds {
            written = written.with("expired_seconds", &seconds.to_string()).expect("plain");
        }
        let read = Authorization::parse(&written.header(&sign)).expect("readable");
        prop_assert_eq!((read.auth_string, read.sign), (written, sign));
    }

    /// Both shapes hold exactly the bytes that were signed, to a reader of JSON.
    #[test]
    fn an_spi_answer_holds_what_was_signed(
        members in btree_map("[a-z]{1,6}", "[ -~\u{4e00}-\u{9fa5}€\n]{0,20}", 0..6),
        blank in "[ \r\n\t]{0,3}",
        sn in proptest::option::of("[0-9a-f]{32}"),
    ) {
        let object = serde_json::to_string(&members).expect("JSON");
        for charset in CHARSETS {
            let given = charset.encode(&format!("{blank}{object}{blank}")).expect("writable");
            let answer = SpiAnswer::new(&given, charset).expect("one object");
            prop_assert_eq!(charset.decode(answer.sign_content()).expect("readable"), object.clone());
            for shape in [SpiShape::Object, SpiShape::Text] {
                let whole = answer.signed("a+b/c==", sn.as_deref(), shape).expect("writable");
                let whole: Value = serde_json::from_str(&charset.decode(&whole).expect("readable")).expect("JSON");
                let response = match shape {
                    SpiShape::Object => whole["response"].clone(),
                    SpiShape::Text => serde_json::from_str(whole["response"].as_str().expect("a text")).expect("JSON"),
                };
                prop_assert_eq!(response, serde_json::to_value(&members).expect("JSON"));
                prop_assert_eq!(whole["sign"].as_str(), Some("a+b/c=="));
                prop_assert_eq!(whole["app_cert_sn"].as_str(), sn.as_deref());
            }
        }
    }

    #[test]
    fn an_xml_answer_holds_what_was_signed(inner in "<success>(true|false)</success>[a-z\u{4e00}-\u{9fa5}€]{0,20}") {
        for (charset, name) in CHARSETS.into_iter().zip(["GBK", "UTF-8"]) {
            let answer = XmlAnswer::from_inner(&inner, charset).expect("writable");
            prop_assert_eq!(charset.decode(answer.sign_content()).expect("readable"), inner.clone());
            let whole = charset.decode(&answer.signed("c2ln", SignType::Rsa2)).expect("readable");
            let (head, rest) = whole.split_once("<response>").expect("a response");
            prop_assert!(head.contains(&format!("encoding=\"{name}\"")), "{head}");
            let (found, rest) = rest.split_once("</response>").expect("its end");
            prop_assert_eq!(found, inner.clone());
            prop_assert_eq!(rest, "<sign>c2ln</sign><sign_type>RSA2</sign_type></alipay>");
        }
    }

    /// What we build as an upload is taken apart by multer, and its heads by our own reader too.
    #[test]
    fn an_upload_is_read_as_it_was_written(
        random: u128,
        texts in vec(("[ -~]{1,12}", "[ -~\r\n\u{4e00}-\u{9fa5}€-]{0,40}"), 0..4),
        file_name in "[ -~\r\n\u{4e00}-\u{9fa5}乗]{0,20}",
        content in vec(any::<u8>(), 0..300),
    ) {
        let layout = Layout::new(random);
        let head = FileHead { name: "image_content", file_name: &file_name, content_type: "image/png" };
        let mut whole = Vec::new();
        for (name, value) in &texts {
            whole.extend(layout.text(name, value).expect("writable"));
        }
        whole.extend(layout.before_file(&head).expect("writable"));
        whole.extend([&content, Layout::AFTER_FILE.as_bytes(), layout.end().as_bytes()].concat());
        let found = parts(&layout.content_type(), whole);
        let mut expected: Vec<_> = texts
            .iter()
            .map(|(name, value)| (in_quotes(name), None, value.clone().into_bytes()))
            .collect();
        expected.push(("image_content".to_owned(), Some(in_quotes(&file_name)), content));
        prop_assert_eq!(found, expected);
    }

    /// In GBK nobody but us reads the heads as bytes: what is written is read again.
    #[test]
    fn the_head_of_a_gbk_file_is_read_as_it_was_written(file_name in "[ -~\u{4e00}-\u{9fa5}乗€]{0,20}") {
        let layout = Layout::new(1).in_charset(CharsetLabel::parse("GBK").expect("a charset"));
        let head = FileHead { name: "f", file_name: &file_name, content_type: "image/png" };
        let head = layout.before_file(&head).expect("writable");
        let line = head.split(|byte| *byte == b'\n').nth(1).expect("the second line");
        let value = line.strip_prefix(b"Content-Disposition: ").expect("the header");
        let read = Disposition::parse(value.trim_ascii_end(), Charset::Gbk).expect("readable");
        prop_assert_eq!(read.name, "f");
        prop_assert_eq!(read.file_name, Some(in_quotes(&file_name)));
    }
}

type Part = (String, Option<String>, Vec<u8>);

/// The parts of an upload as multer finds them; our own reader must find the same heads.
fn parts(content_type: &str, whole: Vec<u8>) -> Vec<Part> {
    let boundary = multer::parse_boundary(content_type).expect("a boundary");
    let stream = futures_util::stream::iter([Ok::<_, std::io::Error>(bytes::Bytes::from(whole))]);
    let mut parts = multer::Multipart::new(stream, boundary);
    let mut found = Vec::new();
    let read = async {
        while let Some(field) = parts.next_field().await.expect("parts") {
            let head = field.headers()["content-disposition"].as_bytes();
            let head = Disposition::parse(head, Charset::Utf8).expect("readable");
            let name = field.name().expect("a name").to_owned();
            let file_name = field.file_name().map(str::to_owned);
            assert_eq!(
                (head.name, head.file_name),
                (name.clone(), file_name.clone())
            );
            found.push((
                name,
                file_name,
                field.bytes().await.expect("content").to_vec(),
            ));
        }
    };
    // Everything is there already: nothing is waited for.
    futures_util::FutureExt::now_or_never(read).expect("at once");
    found
}

/// How a text stands between quotes: what could end them is percent-encoded.
fn in_quotes(text: &str) -> String {
    let escapes = [('"', "%22"), ('\\', "%5C"), ('\r', "%0D"), ('\n', "%0A")];
    let escape = |c: char| escapes.iter().find(|(special, _)| *special == c);
    text.chars().fold(String::new(), |mut out, c| {
        match escape(c) {
            Some((_, escaped)) => out.push_str(escaped),
            None => out.push(c),
        }
        out
    })
}
