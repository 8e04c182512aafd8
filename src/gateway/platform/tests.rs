use super::*;
use crate::protocol::key::AppPrivateKey;

const KNOWN: &str = "00000000000000000000000000000001";
const OTHER: &str = "0123456789abcdef0123456789abcdef";
const NOW: i64 = 1_800_000_000_000;

fn key(name: &str) -> RsaPublicKey {
    AppPrivateKey::of_vectors(name).public_key().clone()
}

/// Alipay's certificate with its issuer's, and the root that both lead up to.
fn chain() -> [Bundle; 2] {
    let file = include_str!("../../../tests/vectors/cert-sn.json");
    let file: serde_json::Value = serde_json::from_str(file).expect("JSON");
    let case = &file["chain_trust"][0];
    ["chain_pem", "roots_pem"].map(|name| {
        let pem = case[name].as_str().expect("PEM");
        Bundle::parse(pem).expect("certificates")
    })
}

fn certificate(sn: &str, is_learned: bool, not_after: Option<i64>) -> PlatformCertificate {
    PlatformCertificate {
        sn: sn.to_owned(),
        key: key("alipay2048"),
        subject: "CN=Alipay,O=Ant".to_owned(),
        text: String::new(),
        pem: String::new(),
        is_learned,
        not_after,
    }
}

/// An app in certificate mode, whose root has that name.
fn certified(root: &str, certificates: Vec<PlatformCertificate>) -> PlatformKeys {
    PlatformKeys {
        bare: Arc::from([key("alipay1024")]),
        own: vec![key("app1024")],
        trust: Some(Trust {
            alipay_root_cert_sn: root.to_owned(),
            roots: chain()[1].clone(),
        }),
        certificates: ArcSwap::from_pointee(certificates),
    }
}

fn in_key_mode() -> PlatformKeys {
    PlatformKeys {
        trust: None,
        ..certified("", Vec::new())
    }
}

fn names(keys: &PlatformKeys) -> Vec<String> {
    let known = keys.certificates();
    known.iter().map(|known| known.sn.clone()).collect()
}

#[test]
fn in_key_mode_the_bare_keys_count_whatever_is_named() {
    let keys = in_key_mode();
    for sn in [None, Some(KNOWN)] {
        let chosen = keys.choose(sn);
        assert!(matches!(chosen, Choice::Keys(chosen) if *chosen == [key("alipay1024")]));
    }
    assert_eq!(keys.bare(), [key("alipay1024")]);
    assert_eq!(keys.alipay_root_cert_sn(), None);
    assert!(!keys.may_learn(OTHER));
}

#[test]
fn in_certificate_mode_the_named_one_counts_and_no_other() {
    let keys = certified("root", vec![certificate(KNOWN, false, None)]);
    let chosen = keys.choose(Some(KNOWN));
    assert!(matches!(chosen, Choice::Keys(chosen) if *chosen == [key("alipay2048")]));
    assert!(matches!(keys.choose(Some(OTHER)), Choice::Unknown));
    let all = [key("alipay1024"), key("alipay2048")];
    assert!(matches!(keys.choose(None), Choice::Unnamed(chosen) if *chosen == all));
    assert_eq!(keys.alipay_root_cert_sn(), Some("root"));
}

#[test]
fn what_looks_like_a_serial_and_is_unknown_may_be_learned() {
    let keys = certified("root", vec![certificate(KNOWN, false, None)]);
    let (short, long) = (&OTHER[1..], format!("{OTHER}0"));
    for (sn, expected) in [
        (OTHER, true),
        (KNOWN, false),
        (short, false),
        (&long, false),
        (&OTHER.to_uppercase(), false),
        ("0123456789abcdef0123456789abcde/", false),
        ("0123456789abcdef0123456789abcdeg", false),
    ] {
        assert_eq!(keys.may_learn(sn), expected, "{sn}");
    }
}

#[test]
fn what_was_learned_is_inherited_under_the_same_root_in_its_order() {
    let former = certified(
        "root",
        vec![
            certificate("c", true, None),
            certificate("b", true, None),
            certificate("configured there", false, None),
            certificate("a", true, None),
        ],
    );
    let configured = || certificate("b", false, None);
    let keys = certified("root", vec![configured()]);
    keys.inherit(&former);
    assert_eq!(names(&keys), ["c", "a", "b"]);
    let known = keys.certificates();
    assert!(
        known
            .iter()
            .all(|known| known.is_learned == (known.sn != "b"))
    );

    let elsewhere = certified("another", vec![configured()]);
    elsewhere.inherit(&former);
    assert_eq!(names(&elsewhere), ["b"]);
    let in_key_mode = in_key_mode();
    in_key_mode.inherit(&PlatformKeys {
        trust: None,
        ..certified("", vec![certificate("a", true, None)])
    });
    assert_eq!(names(&in_key_mode), [""; 0]);
}

#[test]
fn what_was_learned_is_forgotten_once_it_has_ended() {
    let keys = certified(
        "root",
        vec![
            certificate("ends now", true, Some(NOW)),
            certificate("ended", true, Some(NOW - 1)),
            certificate("no end", true, None),
            certificate("configured", false, Some(NOW - 1)),
        ],
    );
    keys.forget_ended(NOW);
    assert_eq!(names(&keys), ["ends now", "configured"]);
    keys.forget_ended(NOW);
    assert_eq!(names(&keys), ["ends now", "configured"]);
}

#[test]
fn what_leads_up_to_the_root_is_learned_under_its_own_name() {
    let [chain, _] = chain();
    let first = chain.first().expect("a certificate");
    let (sn, key) = (first.sn(), first.public_key().expect("a key"));
    let keys = certified("root", vec![certificate(KNOWN, false, None)]);
    let kind = |keys: &PlatformKeys, sn: &str| {
        let refused = keys.learn(sn, &chain, NOW);
        refused.expect_err("refused").kind()
    };
    assert_eq!(kind(&keys, OTHER), "certificate-foreign");
    assert_eq!(kind(&in_key_mode(), &sn), "certificate-key-mode");
    let mut own = certified("root", Vec::new());
    own.own.push(key.clone());
    assert_eq!(kind(&own, &sn), "certificate-holder");
    let early = keys.learn(&sn, &chain, 0).expect_err("not valid yet");
    assert_eq!(early.kind(), "certificate-expired");
    assert_eq!(names(&keys), [KNOWN]);

    keys.learn(&sn, &chain, NOW).expect("Alipay's");
    assert_eq!(names(&keys), [&*sn, KNOWN]);
    let known = keys.certificates();
    assert!(known[0].is_learned && known[0].key == key);
    // Once more, it takes its own place.
    keys.learn(&sn, &chain, NOW).expect("Alipay's");
    assert_eq!(names(&keys), [&*sn, KNOWN]);
    // One that was kept before the operator configured it is the operator's.
    let keys = certified("root", vec![certificate(&sn, false, None)]);
    keys.learn(&sn, &chain, NOW).expect("Alipay's");
    let known = keys.certificates();
    assert!(known.len() == 1 && !known[0].is_learned);
}

#[test]
fn a_holder_is_whom_a_configured_certificate_names() {
    let [chain, _] = chain();
    let subject = chain.first().expect("a certificate").subject().to_owned();
    let check = |subject: &str, is_learned: bool| {
        let known = PlatformCertificate {
            subject: subject.to_owned(),
            ..certificate(KNOWN, is_learned, None)
        };
        let keys = certified("root", vec![known]);
        keys.check_holder(&chain).is_ok()
    };
    assert!(check(&subject, false));
    assert!(!check(&subject, true));
    assert!(!check("CN=Shop,O=Shop,C=CN", false));
    assert!(!check("CN=Shop,O=Shop,C=CN", true));
}

#[test]
fn each_refusal_has_its_word() {
    let subject = String::new;
    for (refusal, kind) in [
        (
            CertificateRefusal::AnotherSerial { found: subject() },
            "certificate-foreign",
        ),
        (
            CertificateRefusal::Holder { subject: subject() },
            "certificate-holder",
        ),
        (CertificateRefusal::Own, "certificate-holder"),
        (CertificateRefusal::Key(subject()), "certificate-key"),
        (CertificateRefusal::KeyMode, "certificate-key-mode"),
        (CertificateRefusal::TooMany, "certificate-limited"),
        (
            CertificateRefusal::Unavailable(subject()),
            "certificate-unavailable",
        ),
    ] {
        assert_eq!(refusal.kind(), kind);
    }
}

#[test]
fn the_organisation_of_a_name_is_found_between_commas_that_divide() {
    for (name, expected) in [
        ("CN=a,OU=b,O=c,C=CN", Some("O=c")),
        ("O=c", Some("O=c")),
        (r"CN=x\,O=forged,O=real\, Ltd.,C=CN", Some(r"O=real\, Ltd.")),
        ("CN=O=c,OU=O=d", None),
        ("", None),
    ] {
        assert_eq!(organisation(name), expected, "{name}");
    }
}
