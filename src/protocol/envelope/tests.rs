use proptest::prelude::*;

use super::*;
use crate::protocol::key::AppPrivateKey;

const METHOD: &str = "alipay.trade.query";

/// Alipay's key in these tests, read once.
fn alipay() -> &'static AppPrivateKey {
    static KEY: std::sync::OnceLock<AppPrivateKey> = std::sync::OnceLock::new();
    KEY.get_or_init(|| AppPrivateKey::of_vectors("alipay1024"))
}

fn sign(node: &str) -> String {
    alipay().sign(SignType::Rsa2, node.as_bytes()).unwrap()
}

fn verify(body: &str) -> Result<VerifiedEnvelope, EnvelopeError> {
    let keys = [alipay().public_key().clone()];
    Envelope::parse(Bytes::copy_from_slice(body.as_bytes()), METHOD)?.verify(&keys, SignType::Rsa2)
}

/// `%` stands for the signature over `node`.
fn check_signed(body: &str, node: &str) {
    let verified = verify(&body.replace('%', &sign(node))).unwrap();
    assert_eq!(verified.verification(), Verification::Signed, "{body}");
    assert_eq!(verified.signed_content(), node.as_bytes(), "{body}");
}

fn check_refused(body: &str, signed: &str, kind: &str) {
    let error = verify(&body.replace('%', &sign(signed))).unwrap_err();
    assert_eq!(error.kind(), kind, "{body}");
}

#[test]
fn the_exact_bytes_of_the_node_are_signed() {
    let node = r#"{ "code":"10000",  "amount":88.8800, "a":"}\"{\\", "sign":"x" }"#;
    check_signed(
        &format!(r#"{{"alipay_trade_query_response":{node},"sign":"%"}}"#),
        node,
    );
    check_signed(
        &format!(r#"{{"sign":"%" , "alipay_trade_query_response" : {node} }} "#),
        node,
    );
    check_signed(
        &format!(
            r#"{{"memo":"\"alipay_trade_query_response\":{{}}","alipay_cert_sn":"1","sign":"%","\u0061lipay_trade_query_response":{node}}}"#
        ),
        node,
    );
    check_signed(r#"{"alipay_trade_query_response":{},"sign":"%"}"#, "{}");
    check_signed(
        r#"{"alipay_trade_query_response":"YWJj","sign":"%"}"#,
        r#""YWJj""#,
    );
    check_signed(
        r#"{"error_response":{"code":"1"},"sign":"%"}"#,
        r#"{"code":"1"}"#,
    );
}

#[test]
fn the_sign_is_a_json_string_first() {
    let node = r#"{"code":"10000"}"#;
    let escaped = sign(node).replace('/', "\\/").replace('+', "\\u002b");
    let body = format!(r#"{{"alipay_trade_query_response":{node},"sign":"{escaped}"}}"#);
    verify(&body).unwrap();
}

#[test]
fn slashes_alone_may_be_unescaped() {
    let body = |node: &str| format!(r#"{{"alipay_trade_query_response":{node},"sign":"%"}}"#);
    check_signed(&body(r#"{"u":"a\/b\/"}"#), r#"{"u":"a/b/"}"#);
    check_signed(&body(r#"{"u":"a\/b"}"#), r#"{"u":"a\/b"}"#);
    check_signed(&body(r#"{"u":"\\/"}"#), r#"{"u":"\/"}"#);
    check_refused(
        &body(r#"{"u":"a/b"}"#),
        r#"{"u":"a\/b"}"#,
        "reply-signature-mismatch",
    );
    check_refused(
        &body(r#"{"u":"a\/b/"}"#),
        r#"{"u":"a/b\/"}"#,
        "reply-signature-mismatch",
    );
    check_refused(
        &body(r#"{"u":"\u4e2d"}"#),
        r#"{"u":"中"}"#,
        "reply-signature-mismatch",
    );
}

#[test]
fn what_parsers_would_disagree_about_is_refused() {
    let good = r#"{"code":"10000"}"#;
    for body in [
        r#"{"alipay_trade_query_response":{"code":"10000"},"sign":"%","alipay_trade_query_response":{"code":"1"}}"#,
        r#"{"alipay_trade_query_response":{"code":"10000"},"sign":"%","\u0061lipay_trade_query_response":{}}"#,
        r#"{"alipay_trade_query_response":{"code":"10000"},"sign":"%","sign":"%"}"#,
        r#"{"alipay_trade_query_response":{"code":"10000"},"sign":"","\u0073ign":"%"}"#,
        r#"{"alipay_trade_query_response":{"code":"10000"},"sign":"%","error_response":{},"error_response":{}}"#,
    ] {
        check_refused(body, good, "reply-ambiguous");
    }
    for body in [
        "",
        "<html></html>",
        "[]",
        "null",
        "\u{feff}{\"alipay_trade_query_response\":{\"code\":\"10000\"},\"sign\":\"%\"}",
        r#"{"alipay_trade_query_response":{"code":"10000"},"sign":"%"}x"#,
        r#"{"alipay_trade_query_response":{"code":"10000"},"sign":"%""#,
    ] {
        check_refused(body, good, "reply-malformed");
    }
}

#[test]
fn only_the_own_root_counts() {
    let good = r#"{"code":"10000"}"#;
    for body in [
        "{}",
        r#"{"sign":"%"}"#,
        r#"{"alipay_trade_pay_response":{"code":"10000"},"sign":"%"}"#,
        r#"{"Alipay_trade_query_response":{"code":"10000"},"sign":"%"}"#,
        r#"{"x":{"alipay_trade_query_response":{"code":"10000"}},"sign":"%"}"#,
    ] {
        check_refused(body, good, "reply-node-missing");
    }
    for node in ["null", "[]", "1", "true"] {
        let body = format!(
            r#"{{"alipay_trade_query_response":{node},"error_response":{good},"sign":"%"}}"#
        );
        check_refused(&body, good, "reply-node-kind");
    }
    let both = r#"{"error_response":{"code":"40002"},"alipay_trade_query_response":{"code":"10000"},"sign":"%"}"#;
    check_signed(both, good);
    check_refused(both, r#"{"code":"40002"}"#, "reply-signature-mismatch");
}

#[test]
fn only_a_plain_error_may_come_unsigned() {
    for body in [
        r#"{"alipay_trade_query_response":{"code":"40002","sub_code":"isv.invalid-app-id"}}"#,
        r#"{"error_response":{"code":"40002","sub_code":"isv.invalid-app-id"},"sign":""}"#,
        r#"{"error_response":{"code":40002,"sub_code":"isv.invalid-app-id"},"sign":null}"#,
    ] {
        let verified = verify(body).unwrap();
        assert_eq!(verified.verification(), Verification::UnsignedError);
        assert_eq!(verified.code(), Some("40002"));
        assert_eq!(verified.sub_code(), Some("isv.invalid-app-id"));
    }
}

#[test]
fn an_unsigned_success_is_refused_in_every_disguise() {
    for node in [
        r#"{"code":"10000"}"#,
        r#"{"code":"10003"}"#,
        r#"{"code":10000}"#,
        r#"{"code":1e4}"#,
        r#"{"code":" 10000 "}"#,
        r#"{"code":"010000"}"#,
        r#"{"code":""}"#,
        r#"{"code":null}"#,
        r#"{"code":["40002"]}"#,
        r#"{"access_token":"t"}"#,
        "{}",
        r#""Y2lwaGVydGV4dA==""#,
        r#"{"code":"40002","code":"10000"}"#,
        r#"{"code":"10000","code":"40002"}"#,
        r#"{"code":"40002","c\u006fde":"10000"}"#,
    ] {
        for key in ["alipay_trade_query_response", "error_response"] {
            for sign in ["", r#","sign":"""#, r#","sign":null"#] {
                check_refused(
                    &format!(r#"{{"{key}":{node}{sign}}}"#),
                    "",
                    "reply-unsigned",
                );
            }
        }
    }
    for other in ["error_response", "alipay_trade_pay_response"] {
        let body = format!(
            r#"{{"alipay_trade_query_response":{{"code":"40002"}},"{other}":{{"code":"10000"}}}}"#
        );
        check_refused(&body, "", "reply-unsigned");
    }
}

#[test]
fn a_sign_that_is_there_must_hold() {
    let body = |sign: &str| {
        format!(r#"{{"alipay_trade_query_response":{{"code":"40002"}},"sign":{sign}}}"#)
    };
    for sign in [
        "1",
        "{}",
        "[]",
        "true",
        r#""*""#,
        r#"" ""#,
        r#""AAA""#,
        r#""\ud800""#,
    ] {
        check_refused(&body(sign), "", "reply-sign-malformed");
    }
    check_refused(&body(r#""AAAA""#), "", "reply-signature-mismatch");
}

#[test]
fn one_of_several_keys_is_enough_and_none_is_too_few() {
    let other = AppPrivateKey::of_vectors("app1024");
    let node = r#"{"code":"10000"}"#;
    let body = format!(
        r#"{{"alipay_trade_query_response":{node},"sign":"{}"}}"#,
        sign(node)
    );
    let envelope = Envelope::parse(Bytes::from(body), METHOD).unwrap();
    let keys = [other.public_key().clone(), alipay().public_key().clone()];
    assert!(envelope.clone().verify(&keys, SignType::Rsa2).is_ok());
    assert!(envelope.clone().verify(&keys, SignType::Rsa).is_err());
    assert_eq!(
        envelope.verify(&[], SignType::Rsa2).unwrap_err(),
        EnvelopeError::SignatureMismatch { keys: 0 }
    );
}

#[test]
fn a_verified_reply_says_what_it_holds() {
    let node = r#"{"code":"40004","msg":"Business Failed","sub_code":"ACQ.X","sub_msg":"不"}"#;
    let sign = sign(node);
    let body = format!(r#"{{"alipay_trade_query_response":{node},"sign":"{sign}"}}"#);
    let verified = verify(&body).unwrap();
    assert_eq!(verified.body(), body.as_bytes());
    assert_eq!(verified.node_text(), node);
    assert_eq!(verified.charset(), Charset::Utf8);
    assert_eq!(
        (verified.code(), verified.sub_code()),
        (Some("40004"), Some("ACQ.X"))
    );
    assert_eq!(
        (verified.msg(), verified.sub_msg()),
        (Some("Business Failed"), Some("不"))
    );
    assert!(!verified.is_ciphertext() && !verified.is_ciphertext_as_sent());
}

#[test]
fn an_opened_ciphertext_still_came_as_one() {
    let body = r#"{"alipay_trade_query_response":"YWJj","sign":"%"}"#;
    let sealed = verify(&body.replace('%', &sign(r#""YWJj""#))).unwrap();
    assert!(sealed.is_ciphertext() && sealed.is_ciphertext_as_sent());
    let plaintext = br#"{"code":"10000"}"#;
    let opened = sealed.opened(Zeroizing::new(plaintext.to_vec()));
    assert!(!opened.is_ciphertext() && opened.is_ciphertext_as_sent());
    assert_eq!(opened.node(), plaintext.as_slice());
    assert_eq!(opened.sent_node(), br#""YWJj""#.as_slice());
    assert_eq!(opened.code(), Some("10000"));
}

#[test]
fn a_sign_that_says_nothing_is_none() {
    for (sign, expected) in [
        (r#","sign":"c2ln""#, true),
        (r#","sign":"""#, false),
        (r#","sign":null"#, false),
        ("", false),
    ] {
        let body = format!(r#"{{"alipay_trade_query_response":{{}}{sign}}}"#);
        let envelope = Envelope::parse(Bytes::from(body), METHOD).unwrap();
        assert_eq!(envelope.is_signed(), expected, "{sign}");
    }
}

#[test]
fn a_download_without_a_certificate_is_an_error_or_refused() {
    let roots = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
    let verified = |node: &str| {
        let body = format!(r#"{{"alipay_open_app_alipaycert_download_response":{node}}}"#);
        let method = "alipay.open.app.alipaycert.download";
        let envelope = Envelope::parse(Bytes::from(body), method).unwrap();
        let verified = envelope.verify_download(&Bundle::parse(roots).unwrap(), 0);
        verified.map(|verified| verified.verification())
    };
    let error = verified(r#"{"code":"40004","msg":"Business Failed"}"#);
    assert_eq!(error, Ok(Verification::UnsignedError));
    for node in ["{}", r#"{"code":"10000","msg":"Success"}"#] {
        assert!(
            matches!(verified(node), Err(EnvelopeError::Certificate(_))),
            "{node}"
        );
    }
}

#[test]
fn debug_shows_no_content() {
    let body = r#"{"alipay_trade_query_response":{"code":"40002","app_auth_token":"hidden"}}"#;
    assert!(!format!("{:?}", verify(body).unwrap()).contains("hidden"));
}

/// Signs `node` in GBK and verifies `body`, where `%` stands for the signature.
fn verify_gbk(body: &str, node: &str) -> VerifiedEnvelope {
    let encode = |text: &str| Charset::Gbk.encode(text).unwrap();
    let sign = alipay().sign(SignType::Rsa2, &encode(node)).unwrap();
    let body = encode(&body.replace('%', &sign));
    let keys = [alipay().public_key().clone()];
    let verified = Envelope::parse_in(body.clone().into(), METHOD, Charset::Gbk)
        .and_then(|envelope| envelope.verify(&keys, SignType::Rsa2))
        .unwrap();
    assert_eq!(verified.body(), &body, "the bytes stay as they came");
    assert_eq!(verified.signed_content(), encode(node));
    verified
}

#[test]
fn in_gbk_a_trail_byte_is_no_backslash_and_no_brace() {
    // The trails of these are `\`, `{`, `}` and `|`.
    let node = r#"{"code":"10000","sub_msg":"乗亄亇亅€","a":"乗"}"#;
    let body = format!(r#"{{"x":"乗","alipay_trade_query_response":{node},"sign":"%"}}"#);
    let verified = verify_gbk(&body, node);
    assert_eq!(verified.sub_msg(), Some("乗亄亇亅€"));
    assert_eq!(verified.node_text(), node);
}

#[test]
fn in_gbk_slashes_are_unescaped_between_characters_alone() {
    let body = r#"{"alipay_trade_query_response":{"code":"10000","u":"乗\/乗/"},"sign":"%"}"#;
    verify_gbk(body, r#"{"code":"10000","u":"乗/乗/"}"#);
}

#[test]
fn a_reply_that_is_not_in_its_charset_is_refused() {
    for (body, charset) in [
        (&b"{\"a\":\"\xd6\xd0\"}"[..], Charset::Utf8),
        (b"{\"a\":\"\x80\"}", Charset::Gbk),
        (b"{\"a\":\"\xd6\"}", Charset::Gbk),
        (b"{\"a\":\"\x81\x30\x81\x30\"}", Charset::Gbk),
    ] {
        let found = Envelope::parse_in(Bytes::from_static(body), METHOD, charset).unwrap_err();
        assert_eq!(found.kind(), "reply-malformed", "{body:x?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_signed_is_verified(text in ".{0,20}", before: bool) {
        let node = serde_json::json!({"code": "10000", "text": text}).to_string();
        let sign = sign(&node);
        let body = match before {
            true => format!(r#"{{"sign":"{sign}","alipay_trade_query_response":{node}}}"#),
            false => format!(r#"{{"alipay_trade_query_response":{node},"sign":"{sign}"}}"#),
        };
        let verified = verify(&body).unwrap();
        prop_assert_eq!(verified.node(), node.as_bytes());
    }

    #[test]
    fn parsing_never_panics(body in proptest::collection::vec(any::<u8>(), 0..80)) {
        let _ = Envelope::parse(Bytes::from(body), METHOD);
    }
}

#[test]
fn a_slash_alone_loses_its_backslash() {
    for (node, expected) in [
        (r#"{"a":"x\/y\n"}"#, r#"{"a":"x/y\n"}"#),
        (r#"{"a":"\\/\/"}"#, r#"{"a":"\//"}"#),
        (r#"{"a":"\n"}"#, r#"{"a":"\n"}"#),
    ] {
        let found = unescape_slashes(node.as_bytes(), Charset::Utf8);
        assert_eq!(*found, *expected.as_bytes(), "{node}");
    }
    // What has none isn't copied.
    let found = unescape_slashes(b"{\"a\":\"x/y\"}", Charset::Utf8);
    assert!(matches!(found, Cow::Borrowed(_)));
    // The second byte of a character may be a backslash's.
    let found = unescape_slashes(b"\x81\\/\\/", Charset::Gbk);
    assert_eq!(*found, *b"\x81\\//");
}

#[test]
fn what_a_reply_says_about_itself_is_read_from_the_node_that_counts() {
    let of = |body: &str, charset| {
        let body = charset_bytes(body, charset);
        let envelope = Envelope::parse_in(body, METHOD, charset).unwrap();
        let Summary {
            code,
            msg,
            sub_code,
            sub_msg,
        } = envelope.summary;
        [code, msg, sub_code, sub_msg].map(Option::unwrap_or_default)
    };
    let own = r#""alipay_trade_query_response":{"code":"10000","msg":"成功","code":"4","n":{"sub_code":"x"}}"#;
    let error = r#""error_response":{"code":40002,"sub_code":"isv.x","sub_msg":"失败"}"#;
    for charset in [Charset::Utf8, Charset::Gbk] {
        let expected = ["4", "成功", "", ""];
        for body in [
            format!("{{{own}}}"),
            format!("{{{own},{error}}}"),
            format!("{{{error},{own}}}"),
        ] {
            assert_eq!(of(&body, charset), expected, "{body}");
        }
        assert_eq!(
            of(&format!("{{{error}}}"), charset),
            ["40002", "", "isv.x", "失败"]
        );
        // A name that nobody can read leaves nothing known, and the reply a reply.
        let unreadable = r#"{"alipay_trade_query_response":{"code":"10000","\ud800":1}}"#;
        assert_eq!(of(unreadable, charset), ["", "", "", ""]);
        assert_eq!(
            of(r#"{"alipay_trade_query_response":"code"}"#, charset),
            ["", "", "", ""]
        );
    }
}

fn charset_bytes(text: &str, charset: Charset) -> Bytes {
    charset.encode(text).unwrap().into()
}

#[test]
fn an_empty_serial_number_names_no_certificate() {
    for (sn, expected) in [(r#""""#, None), (r#""1""#, Some("1")), ("1", None)] {
        let body = format!(r#"{{"error_response":{{"code":"1"}},"alipay_cert_sn":{sn}}}"#);
        let envelope = Envelope::parse(body.into(), METHOD).unwrap();
        assert_eq!(envelope.alipay_cert_sn(), expected, "{sn}");
    }
}
