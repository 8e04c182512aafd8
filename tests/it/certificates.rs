//! Certificate mode: serial numbers in, certificates out, and what happens when Alipay renews its
//! own.

use alipay_sidecar::config::Config;
use alipay_sidecar::model::app::AppCertificates;
use alipay_sidecar::protocol::charset::Charset;
use alipay_sidecar::protocol::key::RsaPublicKey;
use alipay_sidecar::protocol::params::Params;
use alipay_sidecar::protocol::secret::Secret;
use alipay_sidecar::protocol::signature::SignType;
use alipay_sidecar::protocol::{cert, sign_content};
use alipay_sidecar::sidecar::Sidecar;
use alipay_sidecar::simulator::{
    AppMode, DEFAULT_APP_ID, Event, Fault, FaultKind, PlatformCertificate, Simulator,
    TriggerOptions,
};

use crate::support::{ALIAS, TestSidecar, header, json, keys, text};

/// Puts the app into certificate mode, at Alipay and here.
pub fn certified(simulator: &Simulator, config: &mut Config) {
    simulator
        .set_app_mode(DEFAULT_APP_ID, AppMode::Certificate)
        .expect("an app");
    let files = simulator.certificate_files(DEFAULT_APP_ID).expect("files");
    let app = &mut config.apps[0];
    app.alipay_public_keys.clear();
    app.certificates = Some(AppCertificates {
        app: vec![files.app_cert],
        alipay: vec![files.alipay_cert],
        roots: files.alipay_root_cert,
    });
}

fn downloads(simulator: &Simulator) -> usize {
    let requests = simulator.requests();
    let is_download = |method: &str| method.contains("alipaycert");
    requests.iter().filter(|r| is_download(&r.method)).count()
}

const ORDER: &str = r#"{"out_trade_no":"1","total_amount":"8.80","subject":"tea"}"#;
const QUERY: &str = r#"{"out_trade_no":"1"}"#;

async fn create(sidecar: &TestSidecar) {
    let reply = sidecar.post("/v2/alipay.trade.create", ORDER).await;
    assert_eq!(json(&reply)["code"], "10000", "{}", text(&reply));
    assert_eq!(header(&reply, "alipay-sidecar-verified"), "true");
}

/// Queries on one route and gives the error's code, empty for a success.
async fn query(sidecar: &TestSidecar, path: &str) -> String {
    let reply = sidecar.post(path, QUERY).await;
    if reply.status == 200 {
        assert_eq!(json(&reply)["trade_status"], "WAIT_BUYER_PAY");
    }
    header(&reply, "alipay-sidecar-error").to_owned()
}

const DOWNLOAD: &str = "/v2/alipay.open.app.alipaycert.download";
const CONTENT_KEY: &str = "AAECAwQFBgcICQoLDA0ODw==";

const BOTH: [&str; 2] = ["/v2/alipay.trade.query", "/v3/alipay/trade/query"];

#[tokio::test]
async fn requests_name_both_serial_numbers_and_replies_their_certificate() {
    let sidecar = TestSidecar::start_before(certified).await;
    create(&sidecar).await;
    for path in BOTH {
        assert_eq!(query(&sidecar, path).await, "", "{path}");
    }
    assert_eq!(downloads(&sidecar.simulator), 0);
    let expiry = "alipay_sidecar_certificate_expiry_timestamp_seconds";
    for kind in ["app", "alipay", "root"] {
        let series = format!("{expiry}{{kind=\"{kind}\"}}");
        assert!(sidecar.metric(&series).await > 1.8e9, "{series}");
    }
}

#[tokio::test]
async fn what_is_signed_for_others_names_both_serial_numbers() {
    let sidecar = TestSidecar::start_before(certified).await;
    let reply = sidecar
        .post("/v2/alipay.trade.app.pay/order-string", ORDER)
        .await;
    let params = Params::from_form(&reply.body, Charset::Utf8).expect("a form");
    let files = sidecar
        .simulator
        .certificate_files(DEFAULT_APP_ID)
        .expect("files");
    let own = cert::app_cert_sn(&files.app_cert).expect("a certificate");
    let roots = cert::alipay_root_cert_sn(&files.alipay_root_cert).expect("certificates");
    assert_eq!(params.get("app_cert_sn"), Some(own.as_str()));
    assert_eq!(params.get("alipay_root_cert_sn"), roots.as_deref());
    let key = RsaPublicKey::from_text(&keys::public("app2048")).expect("a key");
    let content = sign_content::v2_request(&params);
    key.verify(
        SignType::Rsa2,
        content.as_bytes(),
        params.get("sign").expect("signed"),
    )
    .expect("over both");
}

#[tokio::test]
async fn a_renewed_platform_certificate_is_fetched_once_and_kept() {
    let sidecar = TestSidecar::start_before(certified).await;
    create(&sidecar).await;
    sidecar
        .simulator
        .rotate_platform_certificate()
        .expect("certificates");
    let calls = (0..20).map(|n| query(&sidecar, BOTH[n % 2]));
    let errors = futures_util::future::join_all(calls).await;
    assert_eq!(errors, vec![String::new(); 20]);
    assert_eq!(downloads(&sidecar.simulator), 1);
    let kept = sidecar
        .sidecar
        .store()
        .certificates()
        .await
        .expect("readable");
    assert_eq!(kept.len(), 1);
    let fetched = "alipay_sidecar_certificate_downloads_total{outcome=\"ok\"}";
    assert!((sidecar.metric(fetched).await - 1.0).abs() < f64::EPSILON);

    // Another run over the same store knows it without asking.
    let again = Sidecar::builder(sidecar.config.clone()).store(sidecar.sidecar.store());
    let again = again.without_audit().build().await.expect("a sidecar");
    let call = again
        .request("alipay.trade.query")
        .merchant(ALIAS)
        .biz_content(QUERY);
    assert_eq!(call.send().await.expect("verified").code(), Some("10000"));
    assert_eq!(downloads(&sidecar.simulator), 1);
}

#[tokio::test]
async fn a_certificate_that_isnt_trusted_is_refused_and_not_asked_for_again() {
    for bad in [
        PlatformCertificate::Expired,
        PlatformCertificate::Foreign,
        PlatformCertificate::NotYetValid,
    ] {
        let sidecar = TestSidecar::start_before(certified).await;
        create(&sidecar).await;
        sidecar
            .simulator
            .use_platform_certificate(bad)
            .expect("certificates");
        for _ in 0..3 {
            for path in BOTH {
                let error = query(&sidecar, path).await;
                assert_eq!(error, "response-signature-invalid", "{bad:?} {path}");
            }
        }
        assert_eq!(downloads(&sidecar.simulator), 1, "{bad:?}");
        let kept = sidecar
            .sidecar
            .store()
            .certificates()
            .await
            .expect("readable");
        assert!(kept.is_empty());
        // The configured one still counts.
        let current = PlatformCertificate::Current;
        sidecar
            .simulator
            .use_platform_certificate(current)
            .expect("certificates");
        assert_eq!(query(&sidecar, BOTH[0]).await, "", "{bad:?}");
    }
}

#[tokio::test]
async fn a_forged_serial_number_is_refused() {
    let sidecar = TestSidecar::start_before(certified).await;
    create(&sidecar).await;
    for path in BOTH {
        sidecar
            .simulator
            .fault(Fault::once(FaultKind::ForgedCertSn));
        let error = query(&sidecar, path).await;
        assert_eq!(error, "response-signature-invalid", "{path}");
        assert_eq!(
            query(&sidecar, path).await,
            "",
            "{path}: the next is genuine"
        );
    }
}

#[tokio::test]
async fn a_notification_under_a_renewed_certificate_is_accepted() {
    let sidecar = TestSidecar::start_before(certified).await;
    sidecar
        .simulator
        .rotate_platform_certificate()
        .expect("certificates");
    let options = TriggerOptions {
        wait: true,
        ..TriggerOptions::default()
    };
    let sent = sidecar
        .simulator
        .trigger(Event::OrderMessage, &options)
        .await;
    let record = sent.expect("an app gateway");
    assert!(record.body.contains("alipay_cert_sn="), "{}", record.body);
    let series = "alipay_sidecar_notifications_total{kind=\"message\",outcome=\"accepted\"}";
    sidecar.wait_for_metric(series, 1.0).await;
    assert_eq!(downloads(&sidecar.simulator), 1);
}

#[tokio::test]
async fn a_notification_under_a_certificate_of_somebody_else_is_refused() {
    let sidecar = TestSidecar::start_before(certified).await;
    sidecar
        .simulator
        .use_platform_certificate(PlatformCertificate::Others)
        .expect("certificates");
    let options = TriggerOptions {
        wait: true,
        ..TriggerOptions::default()
    };
    let sent = sidecar
        .simulator
        .trigger(Event::OrderMessage, &options)
        .await;
    let record = sent.expect("an app gateway");
    let answer = &record.attempts.last().expect("one attempt").answer;
    assert_ne!(answer, "success");
    assert_eq!(downloads(&sidecar.simulator), 1);
    let kept = sidecar.sidecar.store().certificates().await;
    assert!(kept.expect("readable").is_empty());
    // What Alipay itself names over TLS is believed.
    create(&sidecar).await;
}

#[tokio::test]
async fn what_a_browser_brings_back_under_a_renewed_certificate_is_verified() {
    let sidecar = TestSidecar::start_before(certified).await;
    sidecar
        .simulator
        .rotate_platform_certificate()
        .expect("certificates");
    // Nobody takes it there, so no webhook has fetched the certificate before.
    let options = TriggerOptions {
        url: Some("http://127.0.0.1:9/".to_owned()),
        attempts: Some(1),
        wait: true,
        ..TriggerOptions::default()
    };
    let sent = sidecar.simulator.trigger(Event::Payment, &options).await;
    let returned = sent.expect("a payment").body;
    assert!(returned.contains("alipay_cert_sn="), "{returned}");
    let forged = returned.replace("TRADE_SUCCESS", "TRADE_FINISHED");
    let reply = sidecar.post("/verify/return", returned).await;
    assert_eq!(
        header(&reply, "alipay-sidecar-verified"),
        "true",
        "{}",
        text(&reply)
    );
    assert_eq!(downloads(&sidecar.simulator), 1);
    let reply = sidecar.post("/verify/return", forged).await;
    let code = header(&reply, "alipay-sidecar-error");
    assert_eq!(code, "response-signature-invalid");
}

#[tokio::test]
async fn an_sdk_that_downloads_a_certificate_itself_gets_it_proved_by_its_chain() {
    let sidecar = TestSidecar::start_before(certified).await;
    let sn = sidecar
        .sidecar
        .store()
        .certificates()
        .await
        .expect("readable");
    assert!(sn.is_empty());
    sidecar
        .simulator
        .rotate_platform_certificate()
        .expect("certificates");
    create(&sidecar).await;
    let kept = sidecar
        .sidecar
        .store()
        .certificates()
        .await
        .expect("readable");
    let asked = format!(r#"{{"alipay_cert_sn":"{}"}}"#, kept[0].sn);
    let reply = sidecar
        .post("/v2/alipay.open.app.alipaycert.download", asked.clone())
        .await;
    assert_eq!(
        header(&reply, "alipay-sidecar-verified"),
        "true",
        "{}",
        text(&reply)
    );
    assert!(json(&reply)["alipay_cert_content"].is_string());
    let bad = PlatformCertificate::Foreign;
    sidecar
        .simulator
        .use_platform_certificate(bad)
        .expect("certificates");
    let unknown = asked.replace(&kept[0].sn, &"0".repeat(32));
    let reply = sidecar
        .post("/v2/alipay.open.app.alipaycert.download", unknown)
        .await;
    // A business error comes unsigned, too.
    assert_eq!(header(&reply, "alipay-sidecar-verified"), "unsigned-error");
}

#[cfg(feature = "cli")]
#[tokio::test]
async fn the_program_verifies_by_the_certificates_of_a_configured_app() {
    let sidecar = TestSidecar::start_before(certified).await;
    let options = TriggerOptions {
        wait: true,
        ..TriggerOptions::default()
    };
    let sent = sidecar.simulator.trigger(Event::OrderMessage, &options);
    let notification = sent.await.expect("an app gateway").body;
    let files = sidecar
        .simulator
        .certificate_files(DEFAULT_APP_ID)
        .expect("files");
    let directory = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| {
        use std::os::unix::fs::PermissionsExt;
        let path = directory.path().join(name);
        std::fs::write(&path, text).expect("written");
        let private = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(path, private).expect("private");
    };
    write("app.pem", &keys::private("app2048"));
    write("app.crt", &files.app_cert);
    write("alipay.crt", &files.alipay_cert);
    write("root.crt", &files.alipay_root_cert);
    write("store.key", "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=");
    write("message", &notification);
    let config = format!(
        "[store]\nkey = \"file:store.key\"\n[[app]]\napp_id = \"{DEFAULT_APP_ID}\"\n\
         private_key = \"file:app.pem\"\napp_cert = \"file:app.crt\"\n\
         alipay_cert = \"file:alipay.crt\"\nalipay_root_cert = \"file:root.crt\"\n"
    );
    write("config.toml", &config);
    let verify = [
        "verify",
        "--kind",
        "notification",
        "--app",
        DEFAULT_APP_ID,
        "message",
    ];
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_alipay-sidecar"))
        .args(verify)
        .current_dir(directory.path())
        .env_clear()
        .output()
        .expect("started");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
}

#[tokio::test]
async fn a_download_is_given_plain_and_only_of_the_certificate_that_was_asked_for() {
    let sidecar = TestSidecar::start_before(|simulator, config| {
        certified(simulator, config);
        simulator
            .set_encrypt_key(DEFAULT_APP_ID, Some(CONTENT_KEY))
            .expect("a key");
        config.apps[0].encrypt_key = Some(Secret::new(CONTENT_KEY.to_owned()));
    })
    .await;
    sidecar
        .simulator
        .rotate_platform_certificate()
        .expect("certificates");
    create(&sidecar).await;
    let kept = sidecar.sidecar.store().certificates().await;
    let sn = kept.expect("readable")[0].sn.clone();
    let ask = async |sn: &str| {
        let asked = format!(r#"{{"alipay_cert_sn":"{sn}"}}"#);
        sidecar.post(DOWNLOAD, asked).await
    };
    let given = ask(&sn).await;
    assert_eq!(
        header(&given, "alipay-sidecar-verified"),
        "true",
        "{}",
        text(&given)
    );
    // Another's leads up to the same roots.
    sidecar
        .simulator
        .answer("alipay.open.app.alipaycert.download", text(&given));
    let other = ask(&"0".repeat(32)).await;
    assert_eq!(
        header(&other, "alipay-sidecar-error"),
        "response-signature-invalid"
    );
    assert!(text(&other).contains(&sn), "{}", text(&other));
}
