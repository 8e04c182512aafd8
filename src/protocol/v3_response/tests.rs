use proptest::prelude::*;

use super::*;
use crate::protocol::key::AppPrivateKey;

type Headers<'a> = &'a [(&'a str, &'a [u8])];

fn verdict(
    status: u16,
    headers: Headers<'_>,
    body: &'static str,
) -> Result<V3Verification, V3Error> {
    V3Response::new(status, headers.iter().copied(), body.into())?
        .verify(&[])
        .map(|verified| verified.verification())
}

#[test]
fn only_errors_and_nothing_come_unsigned() {
    for absent in [
        &[][..],
        &[(SIGNATURE, b"".as_slice())],
        &[(SIGNATURE, b"null")],
    ] {
        for status in [400, 401, 404, 500, 599] {
            assert_eq!(
                verdict(status, absent, "{}"),
                Ok(V3Verification::UnsignedError)
            );
        }
        assert_eq!(verdict(204, absent, ""), Ok(V3Verification::NoContent));
        for (status, body) in [
            (200, "{}"),
            (200, ""),
            (204, "{}"),
            (302, ""),
            (100, ""),
            (600, ""),
        ] {
            assert_eq!(
                verdict(status, absent, body),
                Err(V3Error::Unsigned { status })
            );
        }
    }
}

#[test]
fn a_signature_that_is_there_must_hold() {
    let signed: Headers<'_> = &[(TIMESTAMP, b"1"), (NONCE, b"n"), (SIGNATURE, b"c2ln")];
    for status in [200, 204, 400, 500] {
        assert_eq!(
            verdict(status, signed, ""),
            Err(V3Error::SignatureMismatch { keys: 0 })
        );
    }
    let missing = |headers: Headers<'_>| verdict(400, headers, "").unwrap_err();
    assert_eq!(
        missing(&signed[1..]),
        V3Error::HeaderMissing { name: TIMESTAMP }
    );
    assert_eq!(
        missing(&[signed[0], signed[2]]),
        V3Error::HeaderMissing { name: NONCE }
    );
    assert_eq!(
        missing(&[signed[0], signed[1], (SIGNATURE, b"NULL!")]),
        V3Error::HeaderMalformed { name: SIGNATURE }
    );
}

#[test]
fn what_is_not_signed_is_not_decrypted() {
    let body = "<html>bad gateway</html>";
    let response = V3Response::new(502, [], body.into()).unwrap();
    let verified = response.verify(&[]).unwrap();
    assert!(!verified.is_ciphertext());
    let key = ContentKey::from_base64("AAAAAAAAAAAAAAAAAAAAAA==").unwrap();
    let opened = verified.open_body(&key).unwrap();
    assert_eq!(opened.expose(), body.as_bytes());
}

#[test]
fn headers_that_could_be_read_in_two_ways_are_refused() {
    let twice: Headers<'_> = &[("Alipay-Nonce", b"1"), ("alipay-nonce", b"1")];
    let error = verdict(400, twice, "").unwrap_err();
    assert_eq!(error, V3Error::HeaderDuplicate { name: NONCE });
    for value in [b"a\nb".as_slice(), b"a\r", b"\0", "中".as_bytes(), b"\xff"] {
        for name in [TIMESTAMP, NONCE, SIGNATURE, SN] {
            let error = verdict(400, &[(name, value)], "").unwrap_err();
            assert_eq!(error, V3Error::HeaderMalformed { name });
        }
    }
}

const BODY: &str = r#"{"code":"invalid-parameter","message":"it is wrong","n":1}"#;

/// A response that Alipay signed, with every header that means something.
fn signed(status: u16, body: &'static str) -> V3Response {
    let content = sign_content::v3_response("1700000000000", "n0nce", body.as_bytes()).unwrap();
    let sign = AppPrivateKey::of_vectors("alipay2048")
        .sign(SignType::Rsa2, &content)
        .unwrap();
    let headers: Headers<'_> = &[
        ("Alipay-Timestamp", b"1700000000000"),
        ("alipay-nonce", b"n0nce"),
        ("ALIPAY-SIGNATURE", sign.as_bytes()),
        ("alipay-sn", b"5a7c"),
        ("alipay-trace-id", b"trace 1"),
        ("content-type", b"application/json"),
    ];
    V3Response::new(status, headers.iter().copied(), body.into()).unwrap()
}

fn alipay() -> [RsaPublicKey; 1] {
    [AppPrivateKey::of_vectors("alipay2048").public_key().clone()]
}

#[test]
fn what_is_signed_is_taken_with_its_fields() {
    let response = signed(400, BODY);
    assert!(response.is_signed());
    assert_eq!(response.alipay_sn(), Some("5a7c"));
    let other = [AppPrivateKey::of_vectors("app2048").public_key().clone()];
    let refused = response.clone().verify(&other).unwrap_err();
    assert_eq!(refused, V3Error::SignatureMismatch { keys: 1 });
    let verified = response.verify(&alipay()).unwrap();
    assert_eq!(verified.verification(), V3Verification::Signed);
    assert_eq!(verified.status(), 400);
    assert_eq!(verified.body(), BODY);
    assert!(verified.is_error() && !verified.is_ciphertext());
    assert_eq!(verified.alipay_sn(), Some("5a7c"));
    assert_eq!(verified.trace_id(), Some("trace 1"));
    assert_eq!(verified.code().as_deref(), Some("invalid-parameter"));
    assert_eq!(verified.message().as_deref(), Some("it is wrong"));
    assert_eq!(text(verified.body(), "n"), None);
    assert_eq!(text(verified.body(), "none"), None);
}

#[test]
fn the_code_of_an_error_that_was_opened_is_in_what_was_opened() {
    let opened = br#"{"code":"app-auth-token-time-out"}"#;
    for (status, expected) in [(401, Some("app-auth-token-time-out")), (200, None)] {
        let closed = signed(status, "YWJj").verify(&alipay()).unwrap();
        assert_eq!(closed.code(), None);
        assert_eq!(closed.code_in(opened).as_deref(), expected, "{status}");
    }
}

#[test]
fn a_success_has_no_code_and_what_is_not_there_is_not() {
    let verified = signed(200, BODY).verify(&alipay()).unwrap();
    assert_eq!((verified.code(), verified.message()), (None, None));
    let bare = V3Response::new(500, [], BODY.into()).unwrap();
    assert!(!bare.is_signed());
    let bare = bare.verify(&[]).unwrap();
    assert_eq!((bare.alipay_sn(), bare.trace_id()), (None, None));
}

#[test]
fn a_signed_body_that_is_no_json_is_a_ciphertext() {
    for (body, expected) in [
        ("c2VjcmV0", true),
        (" [1]", false),
        ("{}", false),
        ("", false),
    ] {
        let verified = signed(200, body).verify(&alipay()).unwrap();
        assert_eq!(verified.is_ciphertext(), expected, "{body}");
    }
}

#[test]
fn each_fault_has_its_word() {
    let name = NONCE;
    for (error, word) in [
        (V3Error::HeaderDuplicate { name }, "reply-ambiguous"),
        (V3Error::HeaderMalformed { name }, "reply-sign-malformed"),
        (V3Error::HeaderMissing { name }, "reply-unsigned"),
        (V3Error::Unsigned { status: 200 }, "reply-unsigned"),
        (
            V3Error::SignatureMismatch { keys: 1 },
            "reply-signature-mismatch",
        ),
    ] {
        assert_eq!(error.kind(), word);
    }
}

proptest! {
    #[test]
    fn reading_never_panics(
        status: u16,
        name in "alipay-(sn|nonce|signature|timestamp|trace-id)",
        value in proptest::collection::vec(any::<u8>(), 0..20),
        body in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let headers = [(name.as_str(), value.as_slice())];
        let response = V3Response::new(status, headers, body.into());
        if let Ok(verified) = response.and_then(|response| response.verify(&[])) {
            prop_assert_ne!(verified.verification(), V3Verification::Signed);
            let _ = (verified.code(), verified.message(), verified.is_ciphertext());
        }
    }
}
