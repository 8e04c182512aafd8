//! The simulator in certificate mode, and its keys while they change.
#![expect(
    clippy::unwrap_used,
    reason = "clippy.toml allows them in tests, but not in the helpers beside them"
)]
use alipay_sidecar::protocol::cert::{Bundle, CertificateError};
use alipay_sidecar::simulator::{
    AppMode, DEFAULT_APP_ID, Event, Fault, FaultKind, PlatformCertificate, SimulatedApp,
    TriggerOptions,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rsa::RsaPublicKey;
use rsa::pkcs8::DecodePrivateKey as _;
use serde_json::json;

use crate::support::isv::{Isv, Reply, content, decode, public_key, verifies};
use crate::support::keys;

const QUERY: &str = "alipay.trade.query";
const NO: (&str, &str) = ("biz_content", "{\"out_trade_no\":\"none\"}");
const NOW: i64 = 1_795_361_816_000;

fn bundle(pem: &str) -> Bundle {
    Bundle::parse(pem).unwrap()
}

fn key_of(pem: &str) -> RsaPublicKey {
    let key = bundle(pem).first().unwrap().public_key().unwrap();
    public_key(&key.to_bare_base64())
}

async fn download(isv: &Isv, sn: &str) -> Reply {
    let biz = json!({"alipay_cert_sn": sn}).to_string();
    let changes = [("biz_content", biz.as_str()), ("app_auth_token", "")];
    isv.call("alipay.open.app.alipaycert.download", &changes)
        .await
}

fn downloaded(reply: &Reply) -> String {
    assert_eq!(reply.sign, None, "{}", reply.text);
    let json = reply.json();
    let content = json["alipay_cert_content"].as_str().expect(&reply.text);
    String::from_utf8(STANDARD.decode(content).unwrap()).unwrap()
}

#[tokio::test]
async fn the_files_are_what_the_console_gives() {
    let (isv, files) = Isv::start_with_certificates().await;
    let roots = bundle(&files.alipay_root_cert);
    assert_eq!(roots.certificates().count(), 3);
    let sns: Vec<_> = roots.certificates().map(|root| root.sn()).collect();
    let joined = roots.alipay_root_cert_sn().unwrap();
    assert_eq!(
        joined,
        format!("{}_{}", sns[1], sns[2]),
        "the first is no RSA root"
    );
    let (_, intermediate) = files
        .alipay_cert
        .split_once("-----END CERTIFICATE-----\n")
        .unwrap();
    for pem in [&files.app_cert, &files.alipay_cert] {
        let chain = [pem.as_str(), intermediate].concat();
        bundle(&chain).check_trust(&roots, NOW).unwrap();
        let leaf = bundle(pem);
        let issuer = leaf.first().unwrap().issuer();
        let expected = "CN=Alipay Simulator Certification Authority Class 2 R1,\
            OU=Certification Authority,O=Alipay Simulator,C=CN";
        assert_eq!(issuer, expected);
    }
    assert_eq!(key_of(&files.app_cert), isv.key.to_public_key());
    assert_ne!(key_of(&files.alipay_cert), isv.platform_key());
    assert!(isv.simulator.certificate_files("2021000000009999").is_err());
}

#[tokio::test]
async fn replies_name_the_certificate_they_are_signed_by() {
    let (isv, files) = Isv::start_with_certificates().await;
    let key = key_of(&files.alipay_cert);
    let sn = bundle(&files.alipay_cert).first().unwrap().sn();
    let reply = isv.call(QUERY, &[NO]).await;
    assert_eq!(reply.sub_code(), "ACQ.TRADE_NOT_EXIST");
    assert_eq!(reply.alipay_cert_sn.as_deref(), Some(sn.as_str()));
    assert!(reply.verifies(&key));
    assert!(!reply.verifies(&isv.platform_key()));
}

#[tokio::test]
async fn calls_without_the_right_serial_numbers_are_refused() {
    let (isv, files) = Isv::start_with_certificates().await;
    let key = key_of(&files.alipay_cert);
    for (name, value, sub_code) in [
        ("app_cert_sn", "", "isv.app-cert-not-exist"),
        (
            "app_cert_sn",
            "0123456789abcdef0123456789abcdef",
            "isv.app-cert-not-exist",
        ),
        ("alipay_root_cert_sn", "", "isv.invalid-alipay-root-cert-sn"),
        (
            "alipay_root_cert_sn",
            "0123",
            "isv.invalid-alipay-root-cert-sn",
        ),
        ("sign_type", "RSA", "isv.invalid-signature-type"),
    ] {
        let reply = isv.call(QUERY, &[NO, (name, value)]).await;
        assert_eq!(reply.sub_code(), sub_code);
        assert!(reply.verifies(&key), "{}", reply.text);
        assert!(reply.alipay_cert_sn.is_some());
    }
    let other = isv.call(QUERY, &[NO, ("app_id", "2021000000009999")]).await;
    assert_eq!((other.sign, other.alipay_cert_sn), (None, None));
}

#[tokio::test]
async fn a_rotation_leaves_the_old_certificate_to_be_downloaded() {
    let (isv, files) = Isv::start_with_certificates().await;
    let old = bundle(&files.alipay_cert).first().unwrap().sn();
    isv.simulator.rotate_platform_certificate().unwrap();
    let reply = isv.call(QUERY, &[NO]).await;
    let new = reply.alipay_cert_sn.clone().unwrap();
    assert_ne!(old, new);
    assert!(!reply.verifies(&key_of(&files.alipay_cert)));
    let roots = bundle(&files.alipay_root_cert);
    for sn in [&old, &new] {
        let pem = downloaded(&download(&isv, sn).await);
        let chain = bundle(&pem);
        assert_eq!(&chain.first().unwrap().sn(), sn);
        assert_eq!(chain.certificates().count(), 2);
        chain.check_trust(&roots, NOW).unwrap();
        assert_eq!(reply.verifies(&key_of(&pem)), *sn == new);
    }
    let unknown = download(&isv, "0123456789abcdef0123456789abcdef").await;
    assert_eq!(unknown.json()["code"], "40004");
    let now = isv.simulator.certificate_files(DEFAULT_APP_ID).unwrap();
    assert!(unknown.verifies(&key_of(&now.alipay_cert)));
}

#[tokio::test]
async fn bad_certificates_come_into_force_on_demand() {
    let (isv, files) = Isv::start_with_certificates().await;
    let roots = bundle(&files.alipay_root_cert);
    for (name, certificate) in PlatformCertificate::ALL {
        isv.simulator.use_platform_certificate(certificate).unwrap();
        let reply = isv.call(QUERY, &[NO]).await;
        let sn = reply.alipay_cert_sn.clone().unwrap();
        let pem = downloaded(&download(&isv, &sn).await);
        assert_eq!(bundle(&pem).first().unwrap().sn(), sn, "{name}");
        assert!(reply.verifies(&key_of(&pem)), "{name}");
        let trust = bundle(&pem).check_trust(&roots, NOW);
        match certificate {
            PlatformCertificate::Current => assert_eq!(pem, files.alipay_cert),
            PlatformCertificate::Others => assert!(trust.is_ok(), "{trust:?}"),
            PlatformCertificate::Foreign => {
                assert!(
                    matches!(trust, Err(CertificateError::Untrusted { .. })),
                    "{trust:?}"
                );
            }
            _ => assert!(
                matches!(trust, Err(CertificateError::Expired { .. })),
                "{trust:?}"
            ),
        }
    }
    isv.simulator
        .use_platform_certificate(PlatformCertificate::Current)
        .unwrap();
    let reply = isv.call(QUERY, &[NO]).await;
    assert!(reply.verifies(&key_of(&files.alipay_cert)));
}

#[tokio::test]
async fn a_forged_serial_number_belongs_to_no_certificate() {
    let (isv, _) = Isv::start_with_certificates().await;
    isv.simulator.fault(Fault::once(FaultKind::ForgedCertSn));
    let forged = isv.call(QUERY, &[NO]).await.alipay_cert_sn.unwrap();
    assert_eq!(download(&isv, &forged).await.json()["code"], "40004");
}

#[tokio::test]
async fn notifications_name_the_certificate_and_sign_its_name() {
    let (isv, files) = Isv::start_with_certificates().await;
    let options = TriggerOptions {
        url: Some("http://127.0.0.1:9/".to_owned()),
        wait: true,
        ..Default::default()
    };
    let record = isv
        .simulator
        .trigger(Event::ReAuthorize, &options)
        .await
        .unwrap();
    let params = decode(&record.body);
    let sn = bundle(&files.alipay_cert).first().unwrap().sn();
    assert_eq!(params["alipay_cert_sn"], sn);
    let signed = content(&params, &["sign", "sign_type"]);
    assert!(signed.contains("&alipay_cert_sn=") || signed.starts_with("alipay_cert_sn="));
    assert!(verifies(
        &key_of(&files.alipay_cert),
        &signed,
        &params["sign"]
    ));
}

#[tokio::test]
async fn an_app_is_switched_between_the_modes() {
    let (mut isv, _) = Isv::start_with_certificates().await;
    isv.simulator
        .set_app_mode(DEFAULT_APP_ID, AppMode::Key)
        .unwrap();
    let reply = isv.call(QUERY, &[NO]).await;
    assert_eq!(reply.alipay_cert_sn, None);
    assert!(reply.verifies(&isv.platform_key()));
    (isv.app_cert_sn, isv.alipay_root_cert_sn) = (None, None);
    assert_eq!(
        isv.call(QUERY, &[NO]).await.sub_code(),
        "ACQ.TRADE_NOT_EXIST"
    );
    isv.simulator
        .set_app_mode(DEFAULT_APP_ID, AppMode::Certificate)
        .unwrap();
    assert_eq!(
        isv.call(QUERY, &[NO]).await.sub_code(),
        "isv.app-cert-not-exist"
    );
    assert!(isv.simulator.set_app_mode("none", AppMode::Key).is_err());
}

#[tokio::test]
async fn an_apps_old_key_is_refused_at_once() {
    let mut isv = Isv::start(|app| app).await;
    let other = keys::public("app4096");
    isv.simulator
        .set_app_public_key(DEFAULT_APP_ID, &other)
        .unwrap();
    let reply = isv.call(QUERY, &[NO]).await;
    assert_eq!(reply.sub_code(), "isv.invalid-signature");
    assert!(reply.verifies(&isv.platform_key()));
    isv.key = rsa::RsaPrivateKey::from_pkcs8_pem(&keys::private("app4096")).unwrap();
    assert_eq!(
        isv.call(QUERY, &[NO]).await.sub_code(),
        "ACQ.TRADE_NOT_EXIST"
    );
    assert!(
        isv.simulator
            .set_app_public_key(DEFAULT_APP_ID, "no key")
            .is_err()
    );
}

#[tokio::test]
async fn an_apps_new_key_has_a_new_certificate() {
    let (mut isv, old) = Isv::start_with_certificates().await;
    isv.simulator
        .set_app_public_key(DEFAULT_APP_ID, &keys::public("app4096"))
        .unwrap();
    let new = isv.simulator.certificate_files(DEFAULT_APP_ID).unwrap();
    assert_ne!(old.app_cert, new.app_cert);
    assert_eq!(
        isv.call(QUERY, &[NO]).await.sub_code(),
        "isv.app-cert-not-exist"
    );
    isv.use_files(&new);
    assert_eq!(
        isv.call(QUERY, &[NO]).await.sub_code(),
        "isv.invalid-signature"
    );
    isv.key = rsa::RsaPrivateKey::from_pkcs8_pem(&keys::private("app4096")).unwrap();
    assert_eq!(
        isv.call(QUERY, &[NO]).await.sub_code(),
        "ACQ.TRADE_NOT_EXIST"
    );
}

#[tokio::test]
async fn the_platforms_new_key_signs_from_now_on() {
    let isv = Isv::start(SimulatedApp::own).await;
    let old = isv.platform_key();
    let key = keys::private("alipay2048_other");
    isv.simulator.set_platform_key(&key).unwrap();
    assert_eq!(
        isv.simulator.platform_public_key(),
        keys::public("alipay2048_other")
    );
    let reply = isv.call(QUERY, &[NO]).await;
    assert!(reply.verifies(&isv.platform_key()));
    assert!(!reply.verifies(&old));
    assert!(isv.simulator.set_platform_key("no key").is_err());
}
