//! Keys and certificates that are others than they should be.

use super::*;

fn field(name: &str, field: &str) -> String {
    text(&file("keys")["keys"][name], field).to_owned()
}

fn alipay(given: &str) -> Result<Keys, Cause> {
    Keys::new(&[], &[public_key("app2048")]).with_alipay_text(given)
}

fn kind<T>(result: Result<T, Cause>) -> &'static str {
    let Err(cause) = result else {
        panic!("no cause")
    };
    cause.kind()
}

#[test]
fn another_kind_of_key_is_named() {
    assert_eq!(
        kind(alipay(&field("app2048", "pkcs8_pem"))),
        "private-key-given"
    );
    assert_eq!(
        kind(alipay(&field("app2048", "pkcs1_bare"))),
        "private-key-given"
    );
    let own = Keys::new(&[], &[]).with_own_text(&field("app2048", "pkcs8_pem"));
    assert_eq!(kind(own), "own-private-key-given");
    assert_eq!(kind(alipay("nonsense")), "key-unreadable");
    assert_eq!(
        kind(diagnosis::private_key(&field("app2048", "spki_pem"))),
        "public-key-given"
    );
    assert_eq!(kind(diagnosis::private_key("")), "key-unreadable");
    let certificate = certificate("someone", "app2048");
    assert_eq!(
        kind(diagnosis::private_key(&certificate)),
        "certificate-given"
    );
}

#[test]
fn pkcs_1_and_pkcs_8_mixed_up_under_a_label() {
    let variants = &file("keys")["keys"]["app2048"]["variants_private_ok"];
    for (variant, mixed_up) in [
        ("pkcs1_body_under_pkcs8_label", Some("key-label")),
        ("pkcs8_body_under_pkcs1_label", Some("key-label")),
        ("pkcs1_pem_crlf", None),
        ("pkcs8_bare_wrapped", None),
    ] {
        let given = text(variants, variant);
        let found = diagnosis::label_mix_up(given);
        assert_eq!(found.as_ref().map(Cause::kind), mixed_up, "{variant}");
        assert!(diagnosis::private_key(given).is_ok(), "{variant}");
    }
}

/// A certificate for a key of the vectors, issued by an authority of its own, or by itself.
fn certificate(name: &str, key: &str) -> String {
    let pair = rcgen::KeyPair::from_pem(&field(key, "pkcs8_pem")).unwrap();
    let issuer_pair = rcgen::KeyPair::from_pem(&field("alipay2048_other", "pkcs8_pem")).unwrap();
    let mut of_issuer = rcgen::CertificateParams::default();
    of_issuer
        .distinguished_name
        .push(rcgen::DnType::CommonName, "Authority");
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    let issuer = rcgen::Issuer::new(of_issuer, issuer_pair);
    match name {
        "root" => params.self_signed(&pair).unwrap().pem(),
        _ => params.signed_by(&pair, &issuer).unwrap().pem(),
    }
}

fn reply_under(certificate: &str, serial: &str) -> Explanation {
    let node = r#"{"code":"10000","msg":"Success"}"#;
    let sign = private_key("alipay2048")
        .sign(SignType::Rsa2, node.as_bytes())
        .unwrap();
    let body =
        format!("{{\"a_response\":{node},\"alipay_cert_sn\":\"{serial}\",\"sign\":\"{sign}\"}}");
    let keys = alipay(certificate).unwrap();
    diagnosis::reply(body.as_bytes(), Some("a"), Charset::Utf8, &keys)
}

#[test]
fn certificates_in_place_of_alipays() {
    check_holds(&reply_under(&certificate("alipay", "alipay2048"), "x"), &[]);
    let own = certificate("app", "app2048");
    check(
        &reply_under(&own, "x"),
        &["own-certificate"],
        &["appCertPublicKey"],
    );
    let root = certificate("root", "alipay2048_other");
    check(
        &reply_under(&root, "x"),
        &["root-certificate"],
        &["alipayRootCert.crt"],
    );
    let other = certificate("merchant", "alipay2048_other");
    check(
        &reply_under(&other, "00112233445566778899aabbccddeeff"),
        &["certificate-serial"],
        &["00112233445566778899aabbccddeeff"],
    );
    let sn = alipay_sidecar::protocol::cert::app_cert_sn(&other).unwrap();
    check(
        &reply_under(&other, &sn),
        &["wrong-certificate"],
        &["not a merchant's"],
    );
}
