//! What we write, another reader finds again.

use alipay_sidecar::protocol::authorization::{AuthString, Authorization};
use alipay_sidecar::protocol::charset::{Charset, CharsetLabel};
use alipay_sidecar::protocol::disposition::Disposition;
use alipay_sidecar::protocol::encryption::ContentKey;
use alipay_sidecar::protocol::multipart::{FileHead, Layout};
use alipay_sidecar::protocol::params::Params;
use alipay_sidecar::protocol::signature::SignType;
use alipay_sidecar::protocol::signed_answer::{SpiAnswer, SpiShape, XmlAnswer};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::Value;

use super::CHARSETS;

/// What GBK's codes, its holes and the scanner stumble on.
const ODD_BYTES: [u8; 7] = [0x81, 0xa2, 0xe3, 0xd6, 0x5c, 0x80, 0xff];

proptest! {
    #[test]
    fn gbk_comes_back_byte_for_byte_and_text_letter_for_letter(
        bytes in vec(prop_oneof![any::<u8>(), select(ODD_BYTES.as_slice())], 0..60),
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
            let read = Params::from_form(form.as_bytes(), charset).expect("readable");
            prop_assert_eq!(&read, &params);
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
            let signed = charset.decode(answer.sign_content()).expect("readable");
            prop_assert_eq!(&signed, &object);
            for shape in [SpiShape::Object, SpiShape::Text] {
                let whole = answer.signed("a+b/c==", sn.as_deref(), shape).expect("writable");
                let whole = charset.decode(&whole).expect("readable");
                let whole: Value = serde_json::from_str(&whole).expect("JSON");
                let response = match (shape, whole["response"].as_str()) {
                    (SpiShape::Text, Some(text)) => serde_json::from_str(text).expect("JSON"),
                    _ => whole["response"].clone(),
                };
                prop_assert_eq!(response, serde_json::to_value(&members).expect("JSON"));
                prop_assert_eq!(whole["sign"].as_str(), Some("a+b/c=="));
                prop_assert_eq!(whole["app_cert_sn"].as_str(), sn.as_deref());
            }
        }
    }

    #[test]
    fn an_xml_answer_holds_what_was_signed(
        inner in "<success>(true|false)</success>[a-z\u{4e00}-\u{9fa5}€]{0,20}",
    ) {
        for (charset, name) in CHARSETS.into_iter().zip(["GBK", "UTF-8"]) {
            let answer = XmlAnswer::from_inner(&inner, charset).expect("writable");
            let signed = charset.decode(answer.sign_content()).expect("readable");
            prop_assert_eq!(&signed, &inner);
            let whole = charset.decode(&answer.signed("c2ln", SignType::Rsa2)).expect("readable");
            let (head, rest) = whole.split_once("<response>").expect("a response");
            prop_assert!(head.contains(&format!("encoding=\"{name}\"")), "{head}");
            let (found, rest) = rest.split_once("</response>").expect("its end");
            prop_assert_eq!(found, &inner);
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
        let head = FileHead {
            name: "image_content",
            file_name: &file_name,
            content_type: "image/png",
        };
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
    fn the_head_of_a_gbk_file_is_read_as_it_was_written(
        file_name in "[ -~\u{4e00}-\u{9fa5}乗€]{0,20}",
    ) {
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
