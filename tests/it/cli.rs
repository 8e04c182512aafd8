//! The program: exit codes, and one message that says where, what and what to do.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use alipay_sidecar::clock::SystemClock;
use alipay_sidecar::protocol::key::AppPrivateKey;
use alipay_sidecar::store::embedded::{EmbeddedStore, OpenOptions};
use alipay_sidecar::store::seal::StoreKey;

fn sidecar(directory: &Path, arguments: &[&str]) -> Output {
    with_input(directory, arguments, "")
}

fn with_input(directory: &Path, arguments: &[&str], input: &str) -> Output {
    let stdin = directory.join(".stdin");
    std::fs::write(&stdin, input).expect("written");
    Command::new(env!("CARGO_BIN_EXE_alipay-sidecar"))
        .args(arguments)
        .current_dir(directory)
        .env_clear()
        .stdin(Stdio::from(std::fs::File::open(&stdin).expect("opened")))
        .output()
        .expect("started")
}

/// The program ends with `code` and says each of `texts`.
fn check(directory: &Path, arguments: &[&str], code: i32, texts: &[&str]) -> String {
    let output = sidecar(directory, arguments);
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{said}");
    for text in texts {
        assert!(said.contains(text), "{arguments:?}: no `{text}` in\n{said}");
    }
    said
}

/// A directory after `init`, whose admin listener is a socket that nobody listens on.
fn initialised() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    check(
        directory.path(),
        &["init"],
        0,
        &["应用公钥", "应用网关", "授权回调地址"],
    );
    edit(
        directory.path(),
        "\"127.0.0.1:2090\"",
        "\"unix:admin.sock\"",
    );
    directory
}

fn edit(directory: &Path, from: &str, to: &str) {
    let path = directory.join("config.toml");
    let text = std::fs::read_to_string(&path).expect("read");
    assert!(text.contains(from), "{from}");
    std::fs::write(&path, text.replacen(from, to, 1)).expect("written");
}

fn mode(path: &Path) -> u32 {
    path.metadata().expect("there").permissions().mode() & 0o777
}

#[test]
fn init_then_check_is_good_and_init_twice_is_not() {
    let directory = initialised();
    check(directory.path(), &["check"], 0, &["config.toml is good"]);
    check(
        directory.path(),
        &["init"],
        1,
        &["config.toml exists already; nothing was written"],
    );
    for name in [
        "data/store.key",
        "data/sidecar.redb",
        "keys/app_private_key.pem",
        "config.toml",
    ] {
        assert_eq!(mode(&directory.path().join(name)), 0o600, "{name}");
    }
}

#[test]
fn init_prints_the_public_key_of_the_private_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let said = check(
        directory.path(),
        &["init", "--dir", "new/place", "--json"],
        0,
        &[],
    );
    let printed: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    let pem = std::fs::read_to_string(directory.path().join("new/place/keys/app_private_key.pem"));
    let key = AppPrivateKey::from_text(&pem.expect("written")).expect("a key");
    assert_eq!(printed["app_public_key"], key.public_key().to_bare_base64());
    assert_eq!(
        printed["app_gateway"],
        "https://<your public host>/alipay/gateway"
    );
}

#[test]
fn a_url_is_no_webhook() {
    let directory = tempfile::tempdir().expect("a directory");
    // A folder that no simulator takes, so that none starts.
    std::fs::write(directory.path().join("config.toml"), "").expect("written");
    let url = "http://127.0.0.1:2089";
    let arguments = ["simulator", "--dir", ".", "--webhook", url];
    check(directory.path(), &arguments, 2, &["HOST:PORT"]);
}

#[test]
fn wrong_usage_is_2_and_help_is_0() {
    let directory = tempfile::tempdir().expect("a directory");
    check(directory.path(), &[], 2, &["Usage"]);
    check(directory.path(), &["frobnicate"], 2, &["frobnicate"]);
    check(directory.path(), &["merchant", "add"], 2, &["--token"]);
    check(
        directory.path(),
        &["trigger", "nonsense"],
        2,
        &["plugin-order"],
    );
    for base in ["65525", "65535", "65536"] {
        let dev = ["dev", "--tour", "--listen-base", base];
        check(directory.path(), &dev, 2, &["--listen-base", "65524"]);
    }
    for simulator in ["ftp://127.0.0.1:1", "https://127.0.0.1:1", "/x"] {
        let trigger = ["trigger", "payment", "--simulator", simulator];
        check(
            directory.path(),
            &trigger,
            2,
            &["expected http://host:port"],
        );
    }
    // Nobody listens there, which is no fault of how it was written.
    for simulator in ["http://127.0.0.1:1", "127.0.0.1:1"] {
        let trigger = ["trigger", "payment", "--simulator", simulator];
        check(directory.path(), &trigger, 1, &["no simulator listens"]);
    }
    check(directory.path(), &["--help"], 0, &["Usage"]);
    check(
        directory.path(),
        &["version"],
        0,
        &[env!("CARGO_PKG_VERSION")],
    );
    for verb in [
        "run",
        "dev",
        "simulator",
        "init",
        "check",
        "app",
        "merchant",
        "inbox",
        "call",
    ] {
        let said = check(directory.path(), &[verb, "--help"], 0, &["Usage"]);
        // Every verb takes it; those that read no configuration don't offer it.
        let is_idle = ["dev", "simulator", "init"].contains(&verb);
        assert_eq!(said.contains("--config"), !is_idle, "{said}");
        check(
            directory.path(),
            &["-c", "x", verb, "--help"],
            0,
            &["Examples:"],
        );
    }
}

#[test]
fn the_file_may_be_named_before_or_after_the_verb() {
    let directory = initialised();
    std::fs::rename(
        directory.path().join("config.toml"),
        directory.path().join("c.toml"),
    )
    .expect("renamed");
    check(directory.path(), &["-c", "c.toml", "check"], 0, &[]);
    check(directory.path(), &["check", "-c", "c.toml"], 0, &[]);
    check(
        directory.path(),
        &["check"],
        78,
        &["config.toml: found no readable file", "init"],
    );
}

#[test]
fn every_fault_of_configuration_is_78_even_without_a_store() {
    let directory = initialised();
    std::fs::remove_file(directory.path().join("data/sidecar.redb")).expect("removed");
    edit(
        directory.path(),
        "max_in_flight = 1024",
        "max_inflight = 1024",
    );
    edit(
        directory.path(),
        "connect_timeout = \"3s\"",
        "connect_timeout = \"3\"",
    );
    for verb in ["check", "run", "health"] {
        check(
            directory.path(),
            &[verb],
            78,
            &[
                "config.toml:",
                "`proxy.max_inflight`",
                "did you mean `max_in_flight`?",
                "found \"3\"",
            ],
        );
    }
}

#[test]
fn an_unreadable_key_is_named() {
    let directory = initialised();
    let key = directory.path().join("data/store.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).expect("changed");
    check(
        directory.path(),
        &["check"],
        78,
        &["`store.key`", "mode 0644", "chmod 600"],
    );
    std::fs::remove_file(&key).expect("removed");
    check(
        directory.path(),
        &["check"],
        78,
        &["`store.key`", "store.key, which can't be read"],
    );
}

#[test]
fn check_warns_of_routes_that_nothing_reaches() {
    let directory = initialised();
    let path = directory.path().join("config.toml");
    let text = std::fs::read_to_string(&path).expect("read");
    let routes = "\n[[delivery.route]]\nmatch = \"trade_status_sinc\"\nurl = \"http://127.0.0.1:3000/\"\n\
                  [[delivery.route]]\npath = \"orders/*\"\nurl = \"http://127.0.0.1:3000/\"\n\
                  [[delivery.route]]\napp = \"2021000000009999\"\nurl = \"http://127.0.0.1:3000/\"\n\
                  [[delivery.route]]\nurl = \"http://127.0.0.1:3000/\"\n\
                  [[delivery.route]]\nmatch = \"trade_*\"\nurl = \"http://127.0.0.1:3000/\"\n";
    std::fs::write(&path, text + routes).expect("written");
    check(
        directory.path(),
        &["check"],
        0,
        &[
            "warning: `delivery.route[1]`: match = \"trade_status_sinc\"",
            "`trade_status_sync`",
            "warning: `delivery.route[2]`: path = \"orders/*\"",
            "warning: `delivery.route[3]`: app = \"2021000000009999\"",
            "warning: `delivery.route[5]`: never reached",
            "is good",
        ],
    );
}

#[test]
fn check_warns_of_names_and_patterns_that_fit_nothing() {
    let directory = initialised();
    let edit = |from, to| edit(directory.path(), from, to);
    edit(
        "\nallowed_hosts = []",
        "\nallowed_hosts = [\"*.internal\", \"sidecar.internal\"]",
    );
    let path = directory.path().join("config.toml");
    let text = std::fs::read_to_string(&path).expect("read");
    let caller = "\n[[caller]]\nname = \"shop\"\ntoken = \"exec:echo 0123456789abcdef0123456789abcdef\"\n\
                  merchants = [\"*\"]\n\
                  methods = [\"v3/x\", \"/v3/alipay/*\", \"*/query\", \"alipay.trade.*\"]\n";
    std::fs::write(&path, text + caller).expect("written");
    let said = check(
        directory.path(),
        &["check"],
        0,
        &[
            "warning: `proxy.allowed_hosts`: \"*.internal\" is no pattern",
            "warning: caller shop: methods = \"v3/x\" can't occur",
            "is good",
        ],
    );
    assert_eq!(said.matches("no pattern").count(), 1, "{said}");
    assert_eq!(said.matches("can't occur").count(), 1, "{said}");
}

#[test]
fn check_warns_where_no_temporary_file_can_be_written() {
    let directory = initialised();
    let check = |folder: &Path| {
        let output = Command::new(env!("CARGO_BIN_EXE_alipay-sidecar"))
            .arg("check")
            .current_dir(directory.path())
            .env_clear()
            .env("TMPDIR", folder)
            .output()
            .expect("started");
        assert_eq!(output.status.code(), Some(0));
        String::from_utf8(output.stderr).expect("UTF-8")
    };
    let none = directory.path().join("none");
    let said = check(&none);
    let expected = format!(
        "warning: no temporary file can be written in {}",
        none.display()
    );
    assert!(said.contains(&expected), "{said}");
    let said = check(directory.path());
    assert!(!said.contains("temporary file"), "{said}");
}

#[test]
fn check_warns_of_settings_that_have_no_effect() {
    let directory = initialised();
    let edit = |from, to| edit(directory.path(), from, to);
    edit(
        "notify_url_mode = \"report\"",
        "notify_url_mode = \"enforce\"",
    );
    edit("\nfile = \"data/audit.jsonl\"", "\nfile = \"\"");
    // Any address, at a port where nobody answers.
    edit("\"unix:admin.sock\"", "\"0.0.0.0:1\"");
    edit("\ntoken = \"\"", "\ntoken = \"exec:echo fifteen-letters\"");
    check(
        directory.path(),
        &["check"],
        0,
        &[
            "warning: `admin.token` is short",
            "warning: `proxy.notify_url_mode` and",
            "warning: `audit.file` is empty",
            "is good",
        ],
    );
    edit("fifteen-letters", "sixteen-letters!");
    let said = check(directory.path(), &["check"], 0, &["is good"]);
    assert!(!said.contains("`admin.token`"), "{said}");
}

#[test]
fn a_bulk_replay_needs_a_state_and_counts() {
    let directory = initialised();
    let dir = directory.path();
    let replay = |arguments: &[&str], code, says: &str| {
        let all = [&["inbox", "replay"], arguments].concat();
        check(dir, &all, code, &[says])
    };
    replay(&["--state", "dead"], 0, "0 will be delivered again");
    let filter = [
        "--state", "dead", "--type", "trade_*", "--app", "2021", "--since", "24h",
    ];
    replay(&[&filter[..], &["--json"]].concat(), 0, "\"replayed\": 0");
    replay(
        &["--state", "dead", "--since", "2026-11-25T08:00:00Z"],
        0,
        "0 will be",
    );
    replay(&[], 2, "--state");
    replay(&["--type", "trade_*"], 2, "--state");
    replay(&["0192-id", "--state", "dead"], 2, "cannot be used with");
    replay(&["--state", "dead", "--since", "yesterday"], 2, "24h");
    replay(&["--state", "refused"], 2, "possible values");
}

#[test]
fn a_key_of_the_wrong_kind_is_named() {
    let directory = initialised();
    let app = "\n[[app]]\napp_id = \"2021000000000001\"\n\
               private_key = \"file:keys/app_private_key.pem\"\n\
               alipay_public_key = \"file:keys/app_private_key.pem\"\n";
    let path = directory.path().join("config.toml");
    let text = std::fs::read_to_string(&path).expect("read") + app;
    std::fs::write(&path, text).expect("written");
    check(
        directory.path(),
        &["check"],
        78,
        &["`app[1].alipay_public_key`", "no usable key"],
    );
    edit(
        directory.path(),
        "alipay_public_key = \"file:keys/app_private_key.pem\"",
        "alipay_public_key = \"file:keys/app_public_key.txt\"",
    );
    check(
        directory.path(),
        &["check"],
        78,
        &["the application's own public key (应用公钥)"],
    );
}

#[test]
fn a_missing_store_is_named_and_can_be_created() {
    let directory = initialised();
    std::fs::remove_file(directory.path().join("data/sidecar.redb")).expect("removed");
    for verb in [&["check"][..], &["run"], &["merchant", "list"]] {
        check(
            directory.path(),
            verb,
            1,
            &["there is no store at", "store create"],
        );
    }
    check(directory.path(), &["store", "create"], 0, &["created"]);
    check(
        directory.path(),
        &["store", "create"],
        1,
        &["exists already"],
    );
    check(directory.path(), &["check"], 0, &[]);
}

#[test]
fn a_locked_store_is_named() {
    let directory = initialised();
    let key = std::fs::read_to_string(directory.path().join("data/store.key")).expect("read");
    let _held = EmbeddedStore::open(OpenOptions {
        path: directory.path().join("data/sidecar.redb"),
        key: StoreKey::from_base64(&key).expect("a key"),
        cache_bytes: 1 << 20,
        clock: std::sync::Arc::new(SystemClock),
    })
    .expect("opened");
    check(
        directory.path(),
        &["check"],
        1,
        &["in use by another process"],
    );
}

#[test]
fn a_damaged_store_and_a_wrong_key_are_named() {
    let directory = initialised();
    let key = directory.path().join("data/store.key");
    std::fs::write(&key, "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").expect("written");
    check(
        directory.path(),
        &["check"],
        1,
        &["the store key does not open", "store.key"],
    );
    std::fs::write(directory.path().join("data/sidecar.redb"), "no store").expect("written");
    check(
        directory.path(),
        &["check"],
        1,
        &["is damaged or is no store", "restore it"],
    );
}

#[test]
fn merchants_come_and_go_without_a_running_sidecar() {
    let directory = initialised();
    let directory = directory.path();
    let add = [
        "merchant",
        "add",
        "--app",
        "2021000000000001",
        "--auth-app-id",
        "2021000000000101",
    ];
    let add = [&add[..], &["--alias", "shop", "--token", "-"]].concat();
    let output = with_input(directory, &add, "t0ken\n");
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let said = check(
        directory,
        &["merchant", "show", "shop", "--json"],
        0,
        &["\"import\""],
    );
    assert!(!said.contains("t0ken"), "{said}");
    check(
        directory,
        &["merchant", "list"],
        0,
        &["2021000000000101", "shop", "authorized"],
    );
    check(directory, &["inbox", "list"], 0, &["merchant.authorized"]);
    check(directory, &["merchant", "remove", "shop"], 0, &[]);
    check(
        directory,
        &["merchant", "show", "shop"],
        1,
        &["there is no merchant `shop`"],
    );
}

#[test]
fn what_is_no_reference_is_wrong_usage_and_what_it_names_may_fail() {
    let directory = initialised();
    let directory = directory.path();
    let add = [
        "merchant",
        "add",
        "--app",
        "2021000000000001",
        "--auth-app-id",
        "2021000000001001",
        "--token",
    ];
    for (arguments, argument) in [
        (&add[..], "--token"),
        (&["store", "rekey", "--new-key"], "--new-key"),
        (
            &["merchant", "export", "--with-tokens", "--to-key"],
            "--to-key",
        ),
        (&["merchant", "import", "x", "--key"], "--key"),
        (&["call", "alipay.trade.query", "--token"], "--token"),
    ] {
        for (reference, code) in [
            ("s3cret", 2),
            ("vault:s3cret", 2),
            ("file:none", 1),
            ("env:NONE", 1),
        ] {
            let arguments = [arguments, &[reference]].concat();
            let said = check(
                directory,
                &arguments,
                code,
                &[&format!("{argument}: found")],
            );
            assert!(!said.contains("s3cret"), "{said}");
        }
    }
}

#[test]
fn an_import_says_for_which_of_its_apps_no_call_can_be_made() {
    let directory = initialised();
    let directory = directory.path();
    let record = |app: &str, number: u32| {
        format!(
            "{{\"app_id\":\"{app}\",\"auth_app_id\":\"{number}\",\"app_auth_token\":\"t{number}\"}}\n"
        )
    };
    let lines = format!(
        "{}\n{}{}",
        record("1", 11),
        record("1", 12),
        record("2", 13)
    );
    std::fs::write(directory.join("lines"), lines).expect("written");
    for arguments in [
        &["merchant", "import", "lines", "--dry-run"][..],
        &["merchant", "import", "lines"],
    ] {
        let said = check(
            directory,
            arguments,
            0,
            &[
                "warning: app 1 is neither configured nor stored; no call can be made for its 2 merchants yet",
                "warning: app 2 is neither configured nor stored; no call can be made for its merchant yet",
            ],
        );
        assert_eq!(said.matches("warning: app").count(), 2, "{said}");
    }
}

#[test]
fn an_import_is_all_or_nothing_and_names_the_bad_line() {
    let directory = initialised();
    let directory = directory.path();
    let good = r#"{"app_id":"1","auth_app_id":"11","app_auth_token":"a"}"#;
    let bad = r#"{"app_id":"1","auth_app_id":"12","app_auth_tokn":"s3cret"}"#;
    let worse = r#"{"app_id":"1","auth_app_idd":"13","app_auth_token":"s3cret"}"#;
    let lines = format!("{good}\n\n{bad}\n{worse}\n");
    std::fs::write(directory.join("bad"), lines).expect("written");
    std::fs::write(directory.join("good"), format!("{good}\n")).expect("written");
    let said = check(
        directory,
        &["merchant", "import", "bad"],
        1,
        &[
            "bad: 2 lines are wrong, and nothing was imported",
            "line 3: `app_auth_tokn` is an unknown member; did you mean `app_auth_token`?",
            "line 4: `auth_app_idd` is an unknown member; did you mean `auth_app_id`?",
        ],
    );
    assert!(!said.contains("s3cret"), "{said}");
    let odd = [" T1", "T\\n1", "令牌", "T\\u00001"]
        .map(|token| format!(r#"{{"app_id":"1","auth_app_id":"14","app_auth_token":"{token}"}}"#));
    let own = r#"{"app_id":"1","auth_app_id":"self","app_auth_token":"a"}"#;
    std::fs::write(
        directory.join("odd"),
        format!("{}\n{own}\n", odd.join("\n")),
    )
    .expect("written");
    let said = check(
        directory,
        &["merchant", "import", "odd"],
        1,
        &["5 lines are wrong"],
    );
    let about = said
        .matches("`app_auth_token` is no token (not shown)")
        .count();
    assert_eq!(about, 4, "{said}");
    assert!(said.contains("line 5: `auth_app_id`"), "{said}");
    check(
        directory,
        &["merchant", "import", "good", "--dry-run"],
        0,
        &["1 would be imported"],
    );
    check(directory, &["merchant", "show", "app:11"], 1, &[]);
    check(
        directory,
        &["merchant", "import", "good"],
        0,
        &["1 imported"],
    );
    check(
        directory,
        &["merchant", "show", "app:11"],
        0,
        &["(estimated)"],
    );
}

#[test]
fn an_app_can_live_in_the_store() {
    let directory = initialised();
    let directory = directory.path();
    let add = [
        "app",
        "add",
        "--app-id",
        "2021000000000001",
        "--private-key",
    ];
    let platform = "file:keys/reply_public_key.txt";
    let private = "file:keys/app_private_key.pem";
    check(
        directory,
        &[&add[..], &[private, "--alipay-public-key", platform]].concat(),
        0,
        &[],
    );
    check(
        directory,
        &["app", "list"],
        0,
        &["2021000000000001", "production", "store"],
    );
    let pem = std::fs::read_to_string(directory.join("keys/app_private_key.pem")).expect("read");
    let piped = [&add[..], &["-", "--alipay-public-key", platform]].concat();
    assert_eq!(
        with_input(directory, &piped, &pem).status.code(),
        Some(0),
        "a PEM has many lines"
    );
    // Any base64 of 32 bytes is an AES key; a PEM isn't.
    let encrypted = [&piped[..], &["--encrypt-key", "file:data/store.key"]].concat();
    assert_eq!(
        with_input(directory, &encrypted, &pem).status.code(),
        Some(0)
    );
    let wrong = [
        &piped[..],
        &["--encrypt-key", "file:keys/app_private_key.pem"],
    ]
    .concat();
    let refused = with_input(directory, &wrong, &pem);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("expected an AES key"), "{said}");
    let half = [&piped[..], &["--app-cert", platform]].concat();
    let refused = with_input(directory, &half, &pem);
    assert_eq!(
        refused.status.code(),
        Some(2),
        "certificate mode has three files"
    );
    check(directory, &["app", "remove", "2021000000000001"], 0, &[]);
    check(
        directory,
        &["app", "show", "2021000000000001"],
        1,
        &["no app 2021000000000001"],
    );
}

#[test]
fn what_needs_a_running_sidecar_says_so() {
    let directory = initialised();
    check(
        directory.path(),
        &["health"],
        1,
        &["no sidecar listens at unix:"],
    );
    edit(
        directory.path(),
        "\"127.0.0.1:2088\"",
        "\"unix:proxy.sock\"",
    );
    check(
        directory.path(),
        &["call", "alipay.trade.query"],
        1,
        &["no sidecar listens at unix:"],
    );
}
