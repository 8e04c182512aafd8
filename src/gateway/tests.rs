use super::*;
use crate::protocol::key::AppPrivateKey;

#[test]
fn a_date_is_read_as_http_writes_it() {
    let date = date_of("Thu, 26 Nov 2026 04:46:41 GMT");
    assert_eq!(date, Some(1_795_668_401_000));
    assert_eq!(date_of("yesterday"), None);
}

#[test]
fn the_charset_of_a_reply_is_its_own_then_utf_8_then_that_of_the_request() {
    let (gbk, utf8) = (&b"\xd6\xd0"[..], "中".as_bytes());
    for (content_type, body, requested, expected) in [
        (
            Some("text/html;charset=GBK"),
            utf8,
            Charset::Utf8,
            Charset::Gbk,
        ),
        (
            Some("text/html;charset=utf-8"),
            gbk,
            Charset::Gbk,
            Charset::Utf8,
        ),
        (Some("text/html"), utf8, Charset::Gbk, Charset::Utf8),
        (Some("text/html;charset=x"), gbk, Charset::Gbk, Charset::Gbk),
        (None, gbk, Charset::Gbk, Charset::Gbk),
        (None, gbk, Charset::Utf8, Charset::Utf8),
    ] {
        let found = reply_charset(content_type, body, requested);
        assert_eq!(found, expected, "{content_type:?} {body:x?}");
    }
}

#[test]
fn what_is_encoded_is_refused_unless_it_is_as_it_is() {
    for (encodings, is_refused) in [
        (&[][..], false),
        (&["identity"], false),
        (&["Identity", "identity"], false),
        (&["gzip"], true),
        (&["identity", "gzip"], true),
        (&[""], true),
    ] {
        let encodings = encodings.iter();
        let headers = encodings.map(|value| (CONTENT_ENCODING, value.parse().expect("text")));
        let mut all = HeaderMap::new();
        for (name, value) in headers {
            all.append(name, value);
        }
        assert_eq!(
            refuse_encoded(&all, String::new).is_err(),
            is_refused,
            "{all:?}"
        );
    }
}

#[test]
fn the_shorter_deadline_counts_and_a_past_one_leaves_nothing() {
    let second = Duration::from_secs(1);
    assert_eq!(deadline(second, None), second);
    assert_eq!(deadline(second, Some(second * 2)), second);
    assert_eq!(deadline(second * 2, Some(second)), second);
    assert_eq!(left(Instant::now() - second), Duration::ZERO);
    assert!(left(Instant::now() + second * 100) > second * 90);
}

#[test]
fn a_header_is_told_if_it_is_text() {
    let mut headers = HeaderMap::new();
    headers.insert("trace_id", "7f".parse().expect("text"));
    let odd = http::HeaderValue::from_bytes(b"\xff").expect("opaque");
    headers.insert("x", odd);
    assert_eq!(header(&headers, "trace_id").as_deref(), Some("7f"));
    assert_eq!(header(&headers, "x"), None);
    assert_eq!(header(&headers, "y"), None);
}

/// A reply with that node, signed by that key of the vectors.
fn reply(node: &str, key: &str) -> Envelope {
    let key = AppPrivateKey::of_vectors(key);
    let sign = key.sign(SignType::Rsa2, node.as_bytes()).expect("signed");
    let body = format!(r#"{{"alipay_trade_pay_response":{node},"sign":"{sign}"}}"#);
    Envelope::parse(body.into(), "alipay.trade.pay").expect("a reply")
}

fn public(key: &str) -> RsaPublicKey {
    AppPrivateKey::of_vectors(key).public_key().clone()
}

#[test]
fn an_error_is_what_says_so_by_its_code() {
    for (node, expected) in [
        (r#"{"code":"40004","msg":"Business Failed"}"#, true),
        (r#"{"code":"20000"}"#, true),
        (r#"{"code":"10000","msg":"Success"}"#, false),
        (r#"{"code":"10003"}"#, false),
        (r#"{"access_token":"x"}"#, false),
    ] {
        let reply = reply(node, "alipay1024");
        let verified = reply.verify(&[public("alipay1024")], SignType::Rsa2);
        assert_eq!(is_error(&verified.expect("Alipay's")), expected, "{node}");
    }
}

#[test]
fn a_success_that_names_no_certificate_counts_under_a_bare_key() {
    const SUCCESS: &str = r#"{"code":"10000"}"#;
    const FAILURE: &str = r#"{"code":"40004"}"#;
    let bare = [public("alipay1024")];
    let all = [public("alipay1024"), public("alipay2048")];
    let verify = |node, key| verify_unnamed(reply(node, key), &all, (&bare, SignType::Rsa2));
    for (node, key, counts) in [
        (SUCCESS, "alipay1024", true),
        (SUCCESS, "alipay2048", false),
        (FAILURE, "alipay1024", true),
        (FAILURE, "alipay2048", true),
    ] {
        let verified = verify(node, key).expect("Alipay's");
        assert_eq!(verified.is_some(), counts, "{node} {key}");
    }
    assert!(verify(SUCCESS, "app1024").is_err());
    assert!(verify(FAILURE, "app1024").is_err());
}
