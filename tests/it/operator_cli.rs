//! The operator's verbs about authorisations, against a running sidecar and without one.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::Value;

use crate::cli_live::World;

const FIRST: &str = "2021000000001001";

fn json(said: &str) -> Value {
    serde_json::from_str(said).unwrap_or_else(|error| panic!("{error}: {said}"))
}

/// Standard output alone, of a verb that is done.
fn stdout(world: &World, arguments: &[&str]) -> String {
    let output = world.output(arguments);
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{arguments:?}\n{complaint}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn imported() -> World {
    let world = World::start();
    world.edit("http://127.0.0.1:2089", "https://isv.example.com");
    world.check(&["store", "create"], 0, &[]);
    world.check(
        &["merchant", "import", "merchants.jsonl"],
        0,
        &["2 imported"],
    );
    world
}

fn check_verbs(world: &World) {
    for page in ["batch", "single", "specified", "in-app"] {
        let url = stdout(
            world,
            &["merchant", "link", "--page", page, "--ref", "shop-17"],
        );
        assert!(
            url.contains("isv.example.com") && url.lines().count() == 1,
            "{url}"
        );
    }
    let link = stdout(
        world,
        &[
            "merchant",
            "link",
            "--page",
            "invite",
            "--merchant",
            FIRST,
            "--json",
        ],
    );
    assert_eq!(json(&link)["auth_app_id"], FIRST);
    world.check(
        &["merchant", "link", "--page", "invite"],
        2,
        &["--merchant"],
    );
    world.check(&["merchant", "link", "--merchant", FIRST], 2, &["invite"]);
    world.check(&["merchant", "link", "--valid", "25h"], 1, &["24 h"]);
    world.check(&["merchant", "link", "--help"], 0, &["by hand", "in-app"]);

    world.check(&["merchant", "verify", FIRST], 0, &["valid", FIRST]);
    world.check(
        &["merchant", "verify", "--all", "--rate", "50"],
        0,
        &["2 asked about, 0 not proved"],
    );
    world.check(&["merchant", "verify"], 2, &["--all"]);
    world.check(
        &["merchant", "verify", "2021000000009999"],
        1,
        &["no merchant"],
    );
    world.check(
        &["app", "subscribe"],
        0,
        &["alipay.open.auth.appauth.cancelled  subscribed"],
    );
    world.check(
        &["app", "subscribe", "--all", "--users", "--rate", "50"],
        0,
        &[
            "alipay.open.auth.userauth.cancelled  subscribed",
            "2 merchants",
        ],
    );
    world.check(
        &["token", "query", "--merchant", FIRST],
        0,
        &["valid", "2088000000001001"],
    );
    let before = json(&stdout(world, &["merchant", "show", FIRST, "--json"]));
    let after = json(&stdout(
        world,
        &["token", "refresh", "--merchant", FIRST, "--json"],
    ));
    assert_ne!(before["token_fingerprint"], after["token_fingerprint"]);
    world.check(
        &["token", "exchange", "--code", "rubbish"],
        1,
        &["token-refused"],
    );
}

#[test]
fn the_verbs_work_through_a_running_sidecar_and_without_one() {
    let world = imported();
    check_verbs(&world);
    let (sidecar, _) = world.run();
    check_verbs(&world);
    let body = r#"{"auth_app_id":"2021000000001001"}"#.to_owned();
    world.control("revoke", body);
    let said = world.check(
        &["merchant", "verify", "--all", "--json", "--rate", "50"],
        1,
        &[],
    );
    let verdicts: Vec<Value> = said
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(json)
        .collect();
    let of = |id: &str| {
        verdicts
            .iter()
            .find(|verdict| verdict["auth_app_id"] == id)
            .expect("one")
            .clone()
    };
    assert_eq!(
        (&of(FIRST)["verdict"], &of(FIRST)["marked"]),
        (&"invalid".into(), &true.into())
    );
    assert_eq!(of("2021000000001002")["verdict"], "valid");
    world.check(&["merchant", "show", FIRST], 0, &["revoked"]);
    world.check(&["token", "query", "--merchant", FIRST], 1, &["invalid"]);
    // What is revoked already isn't asked about again.
    world.check(
        &["merchant", "verify", "--all"],
        0,
        &["1 asked about, 0 not proved"],
    );
    assert_eq!(sidecar.terminate(), Some(0));
}

#[test]
fn a_token_that_holds_but_is_another_merchants_is_no_success() {
    let world = imported();
    world.check(&["merchant", "remove", FIRST], 0, &[]);
    let wrong = r#"{"app_id":"2021000000000001","auth_app_id":"2021000000009999","app_auth_token":"202611BB00000000000000000000000000001001"}"#;
    std::fs::write(world.path().join("wrong.jsonl"), wrong).expect("written");
    world.check(&["merchant", "import", "wrong.jsonl"], 0, &["1 imported"]);
    world.check(
        &["token", "query", "--merchant", "2021000000009999"],
        1,
        &[
            "valid",
            "holds, but Alipay says that it is 2021000000001001's",
        ],
    );
}

/// An RSA key pair as files; the private one is the owner's alone.
fn key_pair(directory: &Path, name: &str) -> (String, String) {
    let key = alipay_sidecar::protocol::key::AppPrivateKey::generate(2048).expect("a key");
    let (private, public) = (format!("{name}.pem"), format!("{name}.pub"));
    let path = directory.join(&private);
    std::fs::write(&path, key.to_pkcs8_pem().expose()).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("changed");
    std::fs::write(directory.join(&public), key.public_key().to_bare_base64()).expect("written");
    (format!("file:{private}"), format!("file:{public}"))
}

#[test]
fn a_sealed_export_is_opened_and_imported_with_its_key_alone() {
    let world = imported();
    let (private, public) = key_pair(world.path(), "recovery");
    let (other, _) = key_pair(world.path(), "other");
    let export = [
        "merchant",
        "export",
        "--with-tokens",
        "--to-key",
        &public,
        "--out",
        "export.jwe",
    ];
    world.check(&export, 0, &["2 merchants"]);
    let path = world.path().join("export.jwe");
    let mode = std::fs::metadata(&path)
        .expect("a file")
        .permissions()
        .mode()
        & 0o777;
    assert_eq!(mode, 0o600);
    let sealed = std::fs::read_to_string(&path).expect("text");
    assert!(
        !sealed.contains("202611BB") && sealed.starts_with("eyJ"),
        "{sealed}"
    );
    world.check(&export, 1, &["export.jwe can't be created"]);
    world.check(&["merchant", "export", "--with-tokens"], 2, &["--to-key"]);

    let open = |key: &str| {
        let arguments = [
            "merchant",
            "open-export",
            "export.jwe",
            "--key",
            key,
            "--out",
            "plain.jsonl",
        ];
        world.output(&arguments).status.code()
    };
    assert_eq!(open(&other), Some(1));
    assert!(!world.path().join("plain.jsonl").exists());
    assert_eq!(open(&private), Some(0));
    let plain = std::fs::read_to_string(world.path().join("plain.jsonl")).expect("text");
    let tokens: Vec<Value> = plain.lines().map(json).collect();
    assert_eq!(
        tokens[0]["app_auth_token"],
        "202611BB00000000000000000000000000001001"
    );

    let import = |file: &'static str, key: &str, code: i32, text: &str| {
        world.check(&["merchant", "import", file, "--key", key], code, &[text]);
    };
    world.check(&["merchant", "import", "export.jwe"], 2, &["--key"]);
    import("export.jwe", &other, 1, "sealed to the key");
    import("plain.jsonl", &private, 1, "line 1");
    import("export.jwe", &private, 0, "0 imported, 2 left alone");
    for id in [FIRST, "2021000000001002"] {
        world.check(&["merchant", "remove", id], 0, &[]);
    }
    // Cut off, and a line twice.
    let cut = sealed.trim_end().rsplit_once('.').expect("parts").0;
    std::fs::write(world.path().join("cut.jwe"), cut).expect("written");
    import("cut.jwe", &private, 1, "line 1");
    std::fs::write(world.path().join("empty.jwe"), "").expect("written");
    import("empty.jwe", &private, 1, "isn't the export's last");
    std::fs::write(world.path().join("twice.jwe"), format!("{sealed}{sealed}")).expect("written");
    import("twice.jwe", &private, 1, "behind the export's last");
    world.check(&["merchant", "show", FIRST], 1, &["no merchant"]);
    import("export.jwe", &private, 0, "2 imported");
    world.check(
        &["merchant", "verify", "--all"],
        0,
        &["2 asked about, 0 not proved"],
    );

    let listed = stdout(&world, &["merchant", "export"]);
    assert_eq!(stdout(&world, &["merchant", "export", "--json"]), listed);
    assert_eq!(listed.lines().count(), 2);
    assert!(!listed.contains("202611BB"), "{listed}");
    assert!(json(listed.lines().next().expect("a line"))["token_fingerprint"].is_string());
    // Whoever watches a running one sees to whom the tokens went.
    let (sidecar, _) = world.run();
    let again = ["merchant", "export", "--with-tokens", "--to-key", &public];
    let again = [&again[..], &["--out", "again.jwe"]].concat();
    world.check(&again, 0, &["2 merchants"]);
    let told = json(&sidecar.line("are exported"));
    assert_eq!(told["merchants"], 2, "{told}");
    let recipient = told["recipient"].as_str().expect("a fingerprint");
    assert_eq!(recipient.len(), 64, "{told}");
    assert_eq!(sidecar.terminate(), Some(0));
}
