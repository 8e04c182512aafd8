//! What a hostile message may cost: attempts are counted, never time.

use super::*;
use notifications::{params, signed, signed_as};

const MIB: usize = 1 << 20;

/// Signed by the app's own key, as everyone finds it in an order string: so it opens.
fn own_sign() -> String {
    let sign = private_key("app2048").sign(SignType::Rsa2, b"anything");
    let mut params = Params::new();
    params.push("sign", sign.unwrap()).unwrap();
    params.to_form(Charset::Utf8).unwrap()
}

fn explain(body: &[u8]) -> Explanation {
    diagnosis::notification(None, body, &keys())
}

#[test]
fn large_forms_of_one_character_are_not_searched() {
    for piece in ["&", "%26", ";", "x", " ", "&amp", "&#", "a=%FF&", "\n", "+"] {
        let text = piece.repeat(MIB / piece.len());
        let body = format!("{}&body={text}", own_sign());
        let explanation = explain(body.as_bytes());
        assert!(explanation.tried() <= 1, "{piece}: {explanation}");
        assert!(explanation.seal().is_some(), "{piece}: {explanation}");
        let explanation = diagnosis::request(text.as_bytes(), b"", None, &keys(), NOW);
        assert_eq!(explanation.tried(), 0, "{explanation}");
    }
}

#[test]
fn a_large_message_is_said_to_be_too_large() {
    let mut large = params();
    large.set("body", "x".repeat(70_000));
    let mut changed = signed(&large);
    changed.set("total_amount", "1.00");
    let explanation = explain(changed.to_form(Charset::Utf8).unwrap().as_bytes());
    check(
        &explanation,
        &["too-large"],
        &["the key is right", "64 KiB"],
    );
    assert_eq!(explanation.tried(), 1);
    let node = format!("{{\"code\":\"10000\",\"a\":\"{}\"}}", "x".repeat(70_000));
    let arrived = node.replace("10000", "10003");
    let body = replies::reply(&node, &arrived);
    let method = Some(replies::METHOD);
    let explanation = diagnosis::reply(body.as_bytes(), method, Charset::Utf8, &keys());
    check(&explanation, &["too-large"], &["compare the digest"]);
    assert_eq!(explanation.tried(), 1);
}

/// What needs no search is said of a large one, too.
#[test]
fn the_key_of_a_large_message_is_judged() {
    let mut large = params();
    large.set("body", "x".repeat(70_000));
    let form = |params: &Params| params.to_form(Charset::Utf8).unwrap().into_bytes();
    let other = signed_as(&large, b"other", "alipay2048_other", SignType::Rsa2);
    check(&explain(&form(&other)), &["wrong-key"], &[]);
    let mut spaced = signed(&large);
    let sign = spaced.get("sign").unwrap().replacen('/', "\n/", 1);
    spaced.set("sign", sign);
    check(&explain(&form(&spaced)), &["sign-white-space"], &[]);
}

#[test]
fn a_sign_longer_than_any_is_not_decoded() {
    for piece in ["&", "A", " ", "%26", "\u{200b}"] {
        let mut params = params();
        params.set("sign", piece.repeat(5_000));
        let explanation = explain(params.to_form(Charset::Utf8).unwrap().as_bytes());
        check(&explanation, &["sign-too-long"], &["bytes"]);
        assert_eq!(explanation.tried(), 0);
    }
}

/// Bytes that GBK hasn't make every content unwritable, and small JSON texts make a hundred
/// variants each.
#[test]
fn contents_that_cannot_be_written_count() {
    let json = "%7B%22a%22%3A%5B1%2C%22%2F%E4%B8%AD%22%5D%7D";
    for unwritable in ["", "&z=%FF", "&z=%F0%9F%98%80"] {
        for charset in ["GBK", "utf-8"] {
            let mut body = format!("charset={charset}{unwritable}&{}", own_sign());
            for number in 0..250 {
                body.push_str(&format!("&p{number}={json}"));
            }
            for explanation in [
                explain(body.as_bytes()),
                diagnosis::request(body.as_bytes(), b"", None, &keys(), NOW),
            ] {
                assert!(explanation.seal().is_some(), "{explanation}");
                assert!(!explanation.holds(), "{explanation}");
                assert!(explanation.tried() < 2_000, "{}", explanation.tried());
            }
        }
    }
}
