//! `check`: what the file and the store tell without anybody being asked, and with the sidecar or
//! Alipay out of reach.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use alipay_sidecar::clock::{Clock, SystemClock};
use alipay_sidecar::protocol::key::AppPrivateKey;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, PKCS_RSA_SHA256,
    RsaKeySize,
};
use serde_json::Value;
use time::{Duration, OffsetDateTime};

use crate::cli_live::World;

/// The parameters of a certificate that ends in so many days.
fn params(name: &str, days: i64) -> CertificateParams {
    let mut params = CertificateParams::default();
    let now = OffsetDateTime::from_unix_timestamp(SystemClock.now_ms() / 1000).expect("now");
    params.not_before = now - Duration::days(1000);
    params.not_after = now + Duration::days(days);
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn rsa() -> KeyPair {
    KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).expect("a key")
}

fn write(directory: &Path, name: &str, text: &str) {
    let path = directory.join(name);
    std::fs::write(&path, text).expect("written");
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(path, private).expect("changed");
}

/// Puts the app of `world` into certificate mode; each of the three files ends in so many days.
fn certify(world: &World, [app, alipay, root]: [i64; 3]) {
    let mut roots = params("Root", root);
    roots.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(roots, rsa()).expect("a root");
    let private = std::fs::read_to_string(world.path().join("keys/app_private_key.pem"));
    let private = KeyPair::from_pem(&private.expect("read")).expect("the app's key");
    let issue = |name: &str, days, key: &KeyPair| {
        let certificate = params(name, days).signed_by(key, &issuer);
        certificate.expect("a certificate").pem()
    };
    write(world.path(), "app.crt", &issue("app", app, &private));
    write(world.path(), "alipay.crt", &issue("alipay", alipay, &rsa()));
    write(world.path(), "root.crt", &issuer.pem());
    let files = "app_cert = \"file:app.crt\"\nalipay_cert = \"file:alipay.crt\"\nalipay_root_cert = \"file:root.crt\"\n";
    world.edit(
        "alipay_public_key = \"file:keys/alipay_public_key.pem\"\n",
        files,
    );
}

#[test]
fn certificates_that_end_soon_are_warned_about_and_ended_ones_are_faults() {
    let world = World::start();
    world.check(&["store", "create"], 0, &[]);
    certify(&world, [-3, 400, 25]);
    let listener = KeyPair::generate().expect("a key");
    let certificate = params("listener", 20).self_signed(&listener);
    write(world.path(), "tls.crt", &certificate.expect("signed").pem());
    write(world.path(), "tls.key", &listener.serialize_pem());
    let files = "[webhook]\ntls_cert = \"file:tls.crt\"\ntls_key = \"file:tls.key\"\n";
    world.edit("[webhook]\n", files);
    let said = world.check(
        &["check"],
        1,
        &[
            "config.toml is faulty (",
            "warning: `webhook.tls_cert` ends at",
            "warning: `alipay_root_cert` of app 2021000000000001 ends at",
            "alipay-sidecar: `app_cert` of app 2021000000000001 ended at",
            "certificates: of 4 the first to end is `app_cert`",
        ],
    );
    assert!(!said.contains("warning: `alipay_cert`"), "{said}");
    certify_again(&world);
    let good = ["config.toml is good (", "certificates: of 4 the first"];
    let said = world.check(&["check"], 0, &good);
    assert_eq!(said.matches("warning: `").count(), 1, "{said}");
}

#[test]
fn each_short_key_is_warned_about() {
    let world = World::start();
    world.check(&["store", "create"], 0, &[]);
    let short = || AppPrivateKey::generate(1024).expect("a key");
    write(world.path(), "next.pem", short().to_pkcs8_pem().expose());
    write(world.path(), "reply.pem", short().to_pkcs8_pem().expose());
    let public = || short().public_key().to_bare_base64();
    write(world.path(), "alipay.txt", &public());
    write(world.path(), "caller.txt", &public());
    world.edit(
        "alipay_public_key = \"file:keys/alipay_public_key.pem\"",
        "alipay_public_key = \"file:alipay.txt\"\nprivate_key_next = \"file:next.pem\"",
    );
    world.edit(
        "[proxy]\n",
        "[proxy]\nreply_signature = \"local\"\nreply_key = \"file:reply.pem\"\n",
    );
    let path = world.path().join("config.toml");
    let text = std::fs::read_to_string(&path).expect("read");
    let caller = "\n[[caller]]\nname = \"shop\"\npublic_key = \"file:caller.txt\"\n\
                  merchants = [\"*\"]\nmethods = [\"*\"]\n";
    std::fs::write(&path, format!("{text}{caller}")).expect("written");
    let said = world.check(&["check"], 0, &["is good"]);
    let new = "make a new one of 2048 (RSA2)";
    for (whose, how) in [
        ("the private_key_next of app 2021000000000001", new),
        (
            "an alipay_public_key of app 2021000000000001",
            "set the app to RSA2 in Alipay's console",
        ),
        ("`proxy.reply_key`", new),
        ("the public_key of caller shop", new),
    ] {
        let warning = format!("warning: {whose} has 1024 bits; {how}");
        assert!(said.contains(&warning), "no `{warning}` in\n{said}");
    }
}

/// The same with certificates that are good for long.
fn certify_again(world: &World) {
    let key = "alipay_public_key = \"file:keys/alipay_public_key.pem\"\n";
    world.edit("app_cert = \"file:app.crt\"\n", key);
    world.edit("alipay_cert = \"file:alipay.crt\"\n", "");
    world.edit("alipay_root_cert = \"file:root.crt\"\n", "");
    certify(world, [400, 400, 400]);
}

#[test]
fn without_an_app_there_is_a_warning_beside_a_running_sidecar_too() {
    let world = World::start();
    let config = world.path().join("config.toml");
    let text = std::fs::read_to_string(&config).expect("read");
    let (before, _) = text.split_once("[[app]]").expect("an app");
    std::fs::write(&config, before).expect("written");
    world.check(&["store", "create"], 0, &[]);
    let no_app = ["config.toml is good (", "warning: no app is configured"];
    world.check(&["check"], 0, &no_app);
    let (_sidecar, _) = world.run();
    world.check(&["check"], 0, &no_app);
}

/// What `check --online` finds where Alipay's addresses are these.
fn online(world: &World, gateway: &str, v3: &str) -> Value {
    let simulator = &world.simulator;
    world.edit(
        &format!("gateway = \"{simulator}/"),
        &format!("gateway = \"{gateway}/"),
    );
    world.edit(&format!("v3 = \"{simulator}\""), &format!("v3 = \"{v3}\""));
    let said = world.output(&["check", "--online", "--json"]);
    assert_eq!(said.status.code(), Some(1));
    world.edit(
        &format!("gateway = \"{gateway}/"),
        &format!("gateway = \"{simulator}/"),
    );
    world.edit(&format!("v3 = \"{v3}\""), &format!("v3 = \"{simulator}\""));
    serde_json::from_slice(&said.stdout).expect("JSON")
}

fn lines<'s>(said: &'s Value, name: &str) -> Vec<&'s str> {
    let lines = said[name].as_array().expect("a list").iter();
    lines.map(|line| line.as_str().expect("a line")).collect()
}

#[test]
fn v3_is_asked_too_and_one_fault_of_the_network_is_told_once() {
    let world = World::start();
    world.check(&["store", "create"], 0, &[]);
    let said = world.check(&["merchant", "import", "merchants.jsonl"], 0, &[]);
    assert!(!said.contains("neither configured"), "{said}");
    let all = [
        &format!("{}: reached, without TLS", world.simulator),
        "clock: ",
        "v3 answers, too",
        "warning: the public address wasn't looked at: no sidecar is running",
    ];
    world.check(&["check", "--online"], 0, &all);
    let said = world.output(&["check", "--online", "--json"]);
    let said: Value = serde_json::from_slice(&said.stdout).expect("JSON");
    let ahead = said["online"]["apps"][0]["clock_ahead_s"].as_i64();
    // A second may have turned between its answer and our look at the clock.
    assert!(ahead.is_some_and(|ahead| ahead.abs() <= 5), "{said}");

    let nowhere = "http://127.0.0.1:1";
    let said = online(&world, &world.simulator, nowhere);
    let faults = lines(&said, "faults");
    assert_eq!(faults.len(), 1, "{said}");
    assert!(faults[0].contains("app 2021000000000001: upstream-unreachable"));
    assert!(lines(&said, "good").contains(&"merchants: the tokens of 2 hold"));

    let said = online(&world, nowhere, nowhere);
    assert_eq!(lines(&said, "faults").len(), 1, "{said}");
    let warnings = lines(&said, "warnings").join("\n");
    let unanswered = "2 merchants weren't asked about, because Alipay doesn't answer their app";
    assert!(warnings.contains(unanswered), "{said}");
    assert!(!warnings.contains("neither configured"), "{said}");

    let other = "{\"app_id\":\"2021000000000009\",\"auth_app_id\":\"2021000000009001\",\
                 \"app_auth_token\":\"of-another-app\"}\n";
    write(world.path(), "other.jsonl", other);
    world.check(&["merchant", "import", "other.jsonl"], 0, &["1 imported"]);
    let without_app =
        "1 merchants weren't asked about, because their app is neither configured nor stored";
    let said = online(&world, nowhere, nowhere);
    let warnings = lines(&said, "warnings").join("\n");
    for expected in [unanswered, without_app] {
        assert!(warnings.contains(expected), "no `{expected}` in {said}");
    }
    let said = world.check(&["check", "--online"], 0, &[without_app]);
    assert!(!said.contains("doesn't answer"), "{said}");
}

#[test]
fn a_next_key_that_is_the_present_one_is_told() {
    let world = World::start();
    world.check(&["store", "create"], 0, &[]);
    let key = "private_key = \"file:keys/app_private_key.pem\"\n";
    let both = format!("{key}private_key_next = \"file:keys/app_private_key.pem\"\n");
    world.edit(key, &both);
    let same = "warning: the private_key_next of app 2021000000000001 is its private_key";
    world.check(&["check"], 0, &["is good", same]);
    let next = AppPrivateKey::generate(2048).expect("a key");
    write(world.path(), "next.pem", next.to_pkcs8_pem().expose());
    world.edit(
        "private_key_next = \"file:keys/app_private_key.pem\"",
        "private_key_next = \"file:next.pem\"",
    );
    let said = world.check(&["check"], 0, &["is good"]);
    assert!(!said.contains("is its private_key"), "{said}");
}

/// Two apps beside each other, in two environments.
const SANDBOX: &str = "\n[[app]]\napp_id = \"9021000000000001\"\nenvironment = \"sandbox\"\n\
                       private_key = \"file:keys/app_private_key.pem\"\n\
                       alipay_public_key = \"file:keys/alipay_public_key.pem\"\n";

#[test]
fn the_sandbox_beside_production_is_told() {
    let world = World::start();
    world.check(&["store", "create"], 0, &[]);
    let config = world.path().join("config.toml");
    let text = std::fs::read_to_string(&config).expect("read");
    std::fs::write(&config, format!("{text}{SANDBOX}")).expect("written");
    let shared = [
        "config.toml is good (",
        "because `upstream.gateway` wins over `environment`",
        "app 9021000000000001 of the sandbox and app 2021000000000001 of production have the same key pair",
    ];
    world.check(&["check"], 0, &shared);
    let said = world.check(&["app", "show", "9021000000000001"], 0, &[]);
    let gateway = format!("gateway      {}/gateway.do", world.simulator);
    assert!(said.contains(&gateway), "{said}");

    let gateway = format!("gateway = \"{}/gateway.do\"\n", world.simulator);
    world.edit(&gateway, "");
    let half = ["`upstream.v3` is set and `upstream.gateway` isn't"];
    world.check(&["check"], 0, &half);
}

/// Who opens a pipe waits for its writer: what is no file is told, and not opened.
#[test]
fn a_pipe_in_the_place_of_a_certificate_is_a_fault_at_once() {
    let place = tempfile::tempdir().expect("a folder");
    let pipe = place.path().join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("mkfifo").success());
    let key = KeyPair::generate().expect("a key");
    write(place.path(), "tls.key", &key.serialize_pem());
    for (key, text) in [
        ("upstream.ca_file", "[upstream]\nca_file = \"file:pipe\"\n"),
        (
            "proxy.tls_cert",
            "[proxy]\ntls_cert = \"pipe\"\ntls_key = \"file:tls.key\"\n",
        ),
    ] {
        write(place.path(), "config.toml", text);
        for verb in ["check", "run"] {
            let output = Command::new("timeout")
                .args(["20", env!("CARGO_BIN_EXE_alipay-sidecar"), verb])
                .current_dir(place.path())
                .env_clear()
                .stdin(Stdio::null())
                .output()
                .expect("started");
            let said =
                String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            assert_eq!(output.status.code(), Some(78), "{verb}: {said}");
            assert!(said.contains(&format!("`{key}`")), "{said}");
            assert!(said.contains("which is no file"), "{said}");
        }
    }
}
