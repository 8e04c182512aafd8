//! Certificates, encryption, client data, v3 and signed answers against the vectors that the
//! official SDKs made (`tests/vectors/`). As in `protocol.rs`, each case is a test of its own.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "clippy knows only functions marked as tests; these are their helpers"
)]

use std::collections::BTreeSet;

use alipay_sidecar::protocol::{
    authorization::{AuthString, Authorization},
    cert::{self, Bundle},
    charset::Charset,
    client_data::{Origin, UnverifiedClientData},
    encryption::ContentKey,
    envelope::Envelope,
    sign_content::{self, V3Request},
    signature::SignType,
    signed_answer::{SpiAnswer, SpiShape, XmlAnswer},
    v3_response::{V3Response, V3Verification},
};
use serde_json::Value;

use crate::protocol::{bytes, file, private_key, public_key, text};

fn list(cases: &Value) -> Vec<Value> {
    cases.as_array().unwrap().clone()
}

fn cases(name: &str) -> Vec<Value> {
    list(&file(name)["cases"])
}

fn encrypted_replies() -> Vec<Value> {
    let is_encrypted = |case: &Value| case["expect"]["encrypted"] == true;
    cases("v2-response")
        .into_iter()
        .filter(is_encrypted)
        .collect()
}

fn headers(case: &Value) -> Vec<(String, String)> {
    serde_json::from_value(case["headers"].clone()).unwrap()
}

fn covers(cases: &[Value], run: &[&str]) {
    let expected: BTreeSet<_> = cases.iter().map(|case| text(case, "id")).collect();
    assert_eq!(cases.len(), run.len());
    assert_eq!(expected, run.iter().copied().collect());
}

macro_rules! vectors {
    ($module:ident = $cases:expr, $check:path, {$($test:ident = $id:literal,)*}) => {
        pub(crate) mod $module {
            #[allow(unused_imports, reason = "not every list needs each")]
            use super::{cases, encrypted_replies, file, list};

            pub(crate) const RUN: &[&str] = &[$($id),*];

            fn all() -> Vec<serde_json::Value> {
                ($cases)()
            }

            $(#[test]
            fn $test() {
                $check(all().iter().find(|case| case["id"] == $id).unwrap());
            })*

            #[test]
            fn every_case_is_listed() {
                super::covers(&all(), RUN);
            }
        }
    };
}

fn check_cert_sn(case: &Value) {
    let pem = text(case, "pem");
    let expected = case["expected_sn"].as_str();
    if text(case, "kind") == "root" {
        assert_eq!(cert::alipay_root_cert_sn(pem).unwrap().as_deref(), expected);
        return;
    }
    let bundle = Bundle::parse(pem).unwrap();
    let first = bundle.first().unwrap();
    if let Some(java) = case["sdk_results"]["issuer_serial_sigalg"].as_str() {
        let ours = format!("{}|{}|", first.issuer(), first.serial());
        assert!(java.starts_with(&ours), "{ours} isn't {java}");
    }
    assert_eq!(Some(first.sn().as_str()), expected);
    assert_eq!(cert::app_cert_sn(pem).ok().as_deref(), expected);
    if let Some(key) = case["sdk_results"]["public_key_spki"].as_str() {
        assert_eq!(first.public_key().unwrap().to_bare_base64(), key);
    }
}

fn check_chain_trust(case: &Value) {
    let chain = Bundle::parse(text(case, "chain_pem")).unwrap();
    let roots = Bundle::parse(text(case, "roots_pem")).unwrap();
    let leaf = chain.first().unwrap();
    let (from, until) = (leaf.not_before().unwrap(), leaf.not_after().unwrap());
    let verdict = chain.check_trust(&roots, from + 1000);
    let expected = text(case, "java_easysdk_isTrusted") == "true";
    assert_eq!(verdict.is_ok(), expected, "{verdict:?}");
    let kind = |at| chain.check_trust(&roots, at).unwrap_err().kind();
    assert_eq!(kind(until + 1), "certificate-expired");
    assert_eq!(kind(from - 1), "certificate-expired");
}

/// A changed byte of the leaf's signed part breaks the chain.
#[test]
fn a_forged_leaf_is_not_trusted() {
    let case = &list(&file("cert-sn")["chain_trust"])[0];
    let roots = Bundle::parse(text(case, "roots_pem")).unwrap();
    let chain = Bundle::parse(text(case, "chain_pem")).unwrap();
    let leaf = chain.first().unwrap();
    let at = leaf.not_before().unwrap() + 1000;
    let serial = [0xbe, 0xef];
    let mut der = leaf.der().to_vec();
    let place = der.windows(2).position(|pair| pair == serial).unwrap();
    der[place] ^= 1;
    let forged = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, der);
    let issuer = text(case, "chain_pem")
        .split_once("-----END CERTIFICATE-----")
        .unwrap()
        .1;
    let forged =
        format!("-----BEGIN CERTIFICATE-----\n{forged}\n-----END CERTIFICATE-----\n{issuer}");
    let error = Bundle::parse(&forged)
        .unwrap()
        .check_trust(&roots, at)
        .unwrap_err();
    assert_eq!(error.kind(), "certificate-untrusted");
    chain.check_trust(&roots, at).unwrap();
}

fn check_aes(case: &Value) {
    let key = ContentKey::from_base64(text(case, "aes_key_b64")).unwrap();
    let decrypted = key.decrypt(text(case, "ciphertext"));
    if case["expect_decrypt"] == "error" {
        assert!(decrypted.is_err());
        return;
    }
    let charset = case["charset"].as_str().unwrap_or("utf-8");
    let charset = Charset::from_label(charset).unwrap();
    let plaintext = charset.encode(text(case, "plaintext")).unwrap();
    assert_eq!(decrypted.unwrap().expose(), &plaintext);
    assert_eq!(key.encrypt(&plaintext).unwrap(), text(case, "ciphertext"));
}

fn check_v2_decryption(case: &Value) {
    let key = ContentKey::from_base64(text(case, "aes_key")).unwrap();
    let charset = Charset::from_label(text(case, "charset")).unwrap();
    let body = bytes(case, "body_b64").into();
    let verified = Envelope::parse_in(body, text(case, "api_method"), charset)
        .unwrap()
        .verify(
            &[public_key(text(case, "alipay_key"))],
            text(case, "sign_type").parse().unwrap(),
        )
        .unwrap();
    let opened = key.open_node(&verified, charset).unwrap();
    let plaintext = charset.encode(text(&case["expect"], "plaintext")).unwrap();
    assert_eq!(opened.expose(), &plaintext);
    let other = ContentKey::from_base64("AAAAAAAAAAAAAAAAAAAAAA==").unwrap();
    assert!(other.open_node(&verified, charset).is_err());
}

/// What an SDK signed is written by us to the byte, header included.
fn check_v3_request(case: &Value) {
    let read = Authorization::parse(text(case, "authorization")).unwrap();
    assert_eq!(read.auth_string.as_str(), text(case, "auth_string"));
    assert_eq!(read.sign, text(case, "sign"));
    let item = |name| read.auth_string.get(name);
    let mut written = AuthString::new(
        item("app_id").unwrap(),
        item("app_cert_sn"),
        item("nonce").unwrap(),
        item("timestamp").unwrap().parse().unwrap(),
    )
    .unwrap();
    if let Some(seconds) = item("expired_seconds") {
        written = written.with("expired_seconds", seconds).unwrap();
    }
    assert_eq!(written, read.auth_string);
    let mut body = bytes(case, "body_b64");
    if let Some(parts) = case["multipart_parts"].as_array() {
        let data = parts.iter().find(|part| part["name"] == "data").unwrap();
        body = bytes(data, "value_b64");
    }
    if let Some(key) = case["aes_key"].as_str() {
        let key = ContentKey::from_base64(key).unwrap();
        let ciphertext = key.encrypt(text(case, "plaintext").as_bytes()).unwrap();
        assert_eq!(ciphertext.as_bytes(), body);
    }
    let headers = headers(case);
    let token = headers
        .iter()
        .find(|(name, _)| name == "alipay-app-auth-token");
    let content = sign_content::v3_request(&V3Request {
        auth_string: &written,
        method: text(case, "http_method"),
        target: text(case, "target"),
        body: &body,
        app_auth_token: token.map(|(_, value)| value.as_str()),
    })
    .unwrap();
    assert_eq!(String::from_utf8_lossy(&content), text(case, "sign_string"));
    let key = private_key(text(case, "key"));
    let sign = key.sign(SignType::Rsa2, &content).unwrap();
    assert_eq!(sign, text(case, "sign"));
    assert_eq!(written.header(&sign), text(case, "authorization"));
}

fn check_v3_response(case: &Value) {
    let status = u16::try_from(case["status"].as_u64().unwrap()).unwrap();
    let headers = headers(case);
    let pairs = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_bytes()));
    let response = V3Response::new(status, pairs, bytes(case, "body_b64").into()).unwrap();
    let expected = &case["expect"];
    let sn = headers.iter().find(|(name, _)| name == "alipay-sn");
    assert_eq!(response.alipay_sn(), sn.map(|(_, value)| value.as_str()));
    let verdict = response.verify(&[public_key(text(case, "alipay_key"))]);
    if expected["valid"] == false {
        assert!(verdict.is_err(), "{verdict:?}");
        return;
    }
    // With a foreign `alipay-sn` the caller chooses the key; here it is the right one.
    let verified = verdict.unwrap();
    assert_eq!(verified.verification(), V3Verification::Signed);
    assert_eq!(verified.is_error(), expected["is_error"] == true);
    assert_eq!(verified.code().is_some(), expected["is_error"] == true);
    assert_eq!(verified.is_ciphertext(), case["aes_key"].is_string());
    if let Some(key) = case["aes_key"].as_str() {
        let key = ContentKey::from_base64(key).unwrap();
        let opened = verified.open_body(&key).unwrap();
        assert_eq!(opened.expose(), text(expected, "plaintext").as_bytes());
    }
}

fn check_xml(case: &Value) {
    let key = private_key(text(case, "key"));
    let charset = Charset::from_label(text(case, "charset")).unwrap();
    let sign_type: SignType = text(case, "sign_type").parse().unwrap();
    let answer = match text(case, "id").contains("negative") {
        true => XmlAnswer::from_inner(text(case, "signed_inner"), charset),
        false => XmlAnswer::service_check(key.public_key(), charset),
    };
    let answer = answer.unwrap();
    let inner = charset.encode(text(case, "signed_inner")).unwrap();
    assert_eq!(answer.sign_content(), inner);
    let sign = key.sign(sign_type, &inner).unwrap();
    // We write the real type, where this SDK always writes `RSA`.
    let theirs = text(case, "output").replace(
        "<sign_type>RSA</sign_type>",
        &format!("<sign_type>{sign_type}</sign_type>"),
    );
    assert_eq!(
        answer.signed(&sign, sign_type),
        charset.encode(&theirs).unwrap()
    );
}

fn check_spi(case: &Value) {
    let charset = Charset::from_label(text(case, "charset")).unwrap();
    let response = charset.encode(text(case, "response")).unwrap();
    let answer = SpiAnswer::new(&response, charset).unwrap();
    let sign_type = text(case, "sign_type").parse().unwrap();
    let key = private_key(text(case, "key"));
    let sign = key.sign(sign_type, answer.sign_content()).unwrap();
    assert_eq!(sign, text(case, "sign"));
    let body = answer.signed(&sign, None, SpiShape::Object).unwrap();
    assert_eq!(body, charset.encode(text(case, "body")).unwrap());
}

fn check_client_data(case: &Value) {
    let keys = [public_key(text(case, "alipay_key"))];
    let message = text(case, "message");
    // A form on the way turns `+` into a space; both must be read alike.
    for message in [message.to_owned(), message.replace('+', " ")] {
        let data = UnverifiedClientData::parse(message.as_bytes()).unwrap();
        if let Some(content) = case["signed_content"].as_str() {
            assert_eq!(data.sign_content(), content);
        }
        let verdict = data.verify(&keys);
        if text(case, "expect") == "bad_signature" {
            assert_eq!(verdict.unwrap_err().kind(), "signature-mismatch");
            continue;
        }
        let verified = verdict.unwrap();
        let opened = match case["aes_key"].as_str() {
            Some(key) => verified.open(&ContentKey::from_base64(key).unwrap()),
            None => verified.into_plain_error(),
        };
        let opened = opened.unwrap();
        assert_eq!(opened.json.expose(), text(case, "plaintext"));
        let is_plain = case["aes_key"].is_null();
        assert_eq!(opened.origin == Origin::PlainError, is_plain);
        assert_eq!(opened.sub_code.is_some(), is_plain);
    }
}

vectors!(cert_sn = || cases("cert-sn"), super::check_cert_sn, {
    app_cert = "app-cert",
    alipay_public_cert = "alipay-public-cert",
    app_cert_with_chain = "app-cert-with-chain",
    root_single = "root-single",
    root_bundle = "root-bundle",
    root_bundle_crlf = "root-bundle-crlf",
    ec_only = "ec-only",
    serial_small = "serial-small",
    md5_leading_zero = "md5-leading-zero",
    issuer_comma = "issuer-comma",
    issuer_chinese = "issuer-chinese",
    issuer_email = "issuer-email",
    issuer_many_attrs = "issuer-many-attrs",
    issuer_order = "issuer-order",
    issuer_spaces = "issuer-spaces",
    alipay_real_root_bundle = "alipay-real-root-bundle",
});

vectors!(chain_trust = || list(&file("cert-sn")["chain_trust"]), super::check_chain_trust, {
    leaf_and_sub = "leaf+sub",
    leaf_only_root_has_sub = "leaf-only-root-has-sub",
    leaf_only_missing_sub = "leaf-only-missing-sub",
    unrelated_root = "unrelated-root",
});

vectors!(aes = || cases("aes"), super::check_aes, {
    k0_p0 = "k0-p0",
    k0_p1 = "k0-p1",
    k0_p2 = "k0-p2",
    k0_p3 = "k0-p3",
    k0_p4 = "k0-p4",
    k0_p5 = "k0-p5",
    k1_p0 = "k1-p0",
    k1_p1 = "k1-p1",
    k1_p2 = "k1-p2",
    k1_p3 = "k1-p3",
    k1_p4 = "k1-p4",
    k1_p5 = "k1-p5",
    decrypt_error_bad_base64 = "decrypt-error-bad-base64",
    decrypt_error_not_block_multiple = "decrypt-error-not-block-multiple",
    decrypt_error_wrong_key = "decrypt-error-wrong-key",
    decrypt_error_empty = "decrypt-error-empty",
    gbk = "gbk",
});

vectors!(v2_decryption = encrypted_replies, super::check_v2_decryption, {
    encrypted_node = "encrypted-node",
    encrypted_node_escaped = "encrypted-node-escaped",
});

vectors!(v3_request = || cases("v3-request"), super::check_v3_request, {
    post_json = "post-json",
    post_app_auth_token = "post-app-auth-token",
    get_query = "get-query",
    get_no_query = "get-no-query",
    post_query_and_body = "post-query-and-body",
    post_no_body = "post-no-body",
    patch = "patch",
    delete = "delete",
    encrypted = "encrypted",
    multipart = "multipart",
    cert_mode = "cert-mode",
    additional_auth_info = "additional-auth-info",
});

vectors!(v3_response = || cases("v3-response"), super::check_v3_response, {
    ok = "ok",
    tampered_body = "tampered-body",
    tampered_sign = "tampered-sign",
    wrong_key = "wrong-key",
    body_trailing_newline = "body-trailing-newline",
    empty_body = "empty-body",
    sn_mismatch = "sn-mismatch",
    error_400 = "error-400",
    encrypted = "encrypted",
});

vectors!(xml = || list(&file("replies")["cases"]["xml"]), super::check_xml, {
    service_check_reply_utf_8_rsa2 = "service-check-reply-UTF-8-RSA2",
    service_check_reply_gbk_rsa2 = "service-check-reply-GBK-RSA2",
    service_check_reply_gbk_rsa = "service-check-reply-GBK-RSA",
    service_check_negative_gbk = "service-check-negative-GBK",
});

vectors!(spi = || list(&file("replies")["cases"]["spi"]), super::check_spi, {
    spi_0 = "spi-0",
    spi_1 = "spi-1",
});

vectors!(client_data = || list(&file("replies")["cases"]["client_data"]), super::check_client_data, {
    encrypted = "encrypted",
    encrypted_with_sign_type = "encrypted-with-sign-type",
    plain_error = "plain-error",
    signed_without_quotes = "signed-without-quotes",
    tampered = "tampered",
});
