//! The configuration: what a text gives, and what each fault says.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use alipay_sidecar::config::caller::{CallerIdentity, TokenDigest};
use alipay_sidecar::config::listen::Listen;
use alipay_sidecar::config::{Config, REFERENCE, Source};
use alipay_sidecar::model::app::{App, AppCertificates, Environment};
use alipay_sidecar::model::id::AppId;
use alipay_sidecar::protocol::key::AppPrivateKey;
use alipay_sidecar::protocol::signature::SignType;

/// A directory with the store key that every configuration needs.
fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    secret(directory.path(), "data/store.key", STORE_KEY);
    directory
}

fn secret(directory: &Path, path: &str, text: &str) {
    file(directory, path, text, 0o600);
}

fn file(directory: &Path, path: &str, text: &str, mode: u32) {
    let path = directory.join(path);
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("created");
    std::fs::write(&path, text).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("changed");
}

fn parse(text: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
    let directory = directory();
    file(directory.path(), "open.key", "opensesame", 0o644);
    let environment = environment
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::from_toml(text, directory.path(), environment).map_err(|errors| {
        errors
            .to_string()
            .replace(&directory.path().display().to_string(), "DIR")
    })
}

/// `text` has exactly the faults `expected`, one a line.
fn check_fault(text: &str, expected: &str) {
    assert_eq!(parse(text, &[]).expect_err(text), expected, "{text}");
}

fn check_variable(name: &str, value: &str, expected: &str) {
    assert_eq!(parse("", &[(name, value)]).expect_err(name), expected);
}

fn good(text: &str) -> Config {
    parse(text, &[]).expect(text)
}

/// The effective values, with the directory of the files taken out.
fn values(config: &Config, directory: &Path) -> String {
    let json = format!("{:#}", config.to_redacted_json());
    json.replace(&format!("{}/", directory.display()), "")
}

#[test]
fn the_reference_file_equals_the_defaults() {
    let directory = directory();
    let parsed = |text| Config::from_toml(text, directory.path(), []).expect("no fault");
    let mut defaults = Config::default();
    defaults.store.key = parsed("").store.key;
    defaults.origins = parsed("").origins;
    let expected = values(&defaults, Path::new("/nowhere"));
    assert_eq!(values(&parsed(REFERENCE), directory.path()), expected);
    assert_eq!(values(&parsed(""), directory.path()), expected);
}

/// What may be shown reads as the file does: every key, each value in the form in which it is written.
#[test]
fn what_is_shown_of_the_defaults_is_the_reference_file() {
    let shown = Config::default().to_redacted_json();
    let written: toml::Table = toml::from_str(REFERENCE).expect("TOML");
    let mut written = serde_json::to_value(written).expect("JSON");
    for (section, key) in [("delivery", "route"), ("store", "key")] {
        let written = written[section].as_object_mut().expect("a section");
        let shown = &shown[section][key];
        written.insert(key.to_owned(), shown.clone());
    }
    for list in ["app", "caller"] {
        written[list] = serde_json::json!([]);
    }
    assert_eq!(shown, written);
}

#[test]
fn secrets_are_shown_by_their_references_and_values_with_their_places() {
    let text = "[admin]\ntoken = \"env:TOKEN\"\n[delivery]\nsigning_secret = \"exec:cat secret --password=canary\"\n\
                [proxy]\nlisten = \"127.0.0.1:1\"\nmax_body = \"2MiB\"\n\
                [[caller]]\nname = \"shop\"\ntoken = \"file:caller\"\nmerchants = [\"*\"]\nmethods = [\"*\"]\n\
                [[delivery.route]]\nmatch = \"a.*\"\nurl = \"http://127.0.0.1:3/\"\n";
    let directory = directory();
    for (name, secret) in [("secret", "canary-signing"), ("caller", "canary-caller")] {
        let path = directory.path().join(name);
        std::fs::write(&path, secret).expect("written");
        let narrow = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&path, narrow).expect("narrowed");
    }
    let text = text.replace(
        "cat secret --password=canary",
        &format!("cat {}/secret", directory.path().display()),
    );
    let environment = [
        ("TOKEN", "canary-admin"),
        ("ALIPAY_SIDECAR_PROXY__MAX_IN_FLIGHT", "7"),
    ];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config = Config::from_toml(&text, directory.path(), environment).expect("no fault");
    let shown = config.to_redacted_json();
    assert_eq!(shown["admin"]["token"], "env:TOKEN");
    assert_eq!(shown["delivery"]["signing_secret"], "exec:…");
    assert_eq!(shown["store"]["key"], "file:data/store.key");
    assert_eq!(shown["caller"][0]["token"], "file:caller");
    assert_eq!(shown["proxy"]["max_body"], "2MiB");
    assert_eq!(shown["delivery"]["route"][0]["timeout"], "15s");
    assert!(!shown.to_string().contains("canary"), "{shown}");
    assert!(!format!("{config:?}").contains("canary"));
    let sources: std::collections::BTreeMap<_, _> = config.origins.sources().collect();
    assert_eq!(sources["admin.token"], "file:2");
    assert_eq!(
        sources["proxy.max_in_flight"],
        "env:ALIPAY_SIDECAR_PROXY__MAX_IN_FLIGHT"
    );
    assert_eq!(sources["caller[1].token"], "file:10");
    assert_eq!(sources.get("proxy.max_upload"), None);
    assert_eq!(sources.get("caller[1]"), None);
}

#[test]
fn what_only_a_restart_changes_is_told_by_name() {
    let good = good("");
    let named = |change: fn(&mut Config)| {
        let mut next = good.clone();
        change(&mut next);
        let faults = good.unreloadable(&next);
        let keys: Vec<_> = faults.iter().map(|fault| fault.key.clone()).collect();
        keys.join(" ")
    };
    assert_eq!(named(|_| ()), "");
    assert_eq!(named(|c| c.proxy.max_in_flight = 1), "");
    assert_eq!(
        named(|c| c.proxy.listen = Listen::Tcp("127.0.0.1:9".to_owned())),
        "proxy.listen"
    );
    assert_eq!(
        named(|c| c.webhook.listen = Listen::Tcp("127.0.0.1:9".to_owned())),
        "webhook.listen"
    );
    assert_eq!(
        named(|c| c.admin.listen = Listen::Tcp("127.0.0.1:9".to_owned())),
        "admin.listen"
    );
    assert_eq!(
        named(|c| c.webhook.base_path = "/pay".to_owned()),
        "webhook.base_path"
    );
    assert_eq!(named(|c| c.store.path = "other".into()), "store.url");
    assert_eq!(named(|c| c.store.cache = 1), "store.cache");
    assert_eq!(named(|c| c.store.key = None), "store.key");
    let all = named(|c| {
        c.store.cache = 1;
        c.webhook.base_path = String::new();
    });
    assert_eq!(all, "webhook.base_path store.cache");
}

#[test]
fn faults_are_all_reported_each_with_its_line() {
    check_fault(
        "[proxy]\nlisten = \"2088\"\n\n[tokens]\nrefresh = \"never\"\nremember_users = \"yes\"\n",
        "line 2: `proxy.listen`: found \"2088\", expected `host:port` or `unix:/path.sock`\n\
         line 5: `tokens.refresh`: found \"never\", expected \"on-demand\" or \"ahead\"\n\
         line 6: `tokens.remember_users`: found a string, expected true or false",
    );
}

#[test]
fn an_unknown_key_or_section_names_the_nearest() {
    check_fault(
        "[proxy]\nlisten = \"127.0.0.1:1\"\nmax_inflight = 3\n",
        "line 3: `proxy.max_inflight`: found an unknown key, expected a known key; \
         did you mean `max_in_flight`?",
    );
    check_fault(
        "[weebhook]\n",
        "line 1: `weebhook`: found an unknown section, expected a known section; \
         did you mean `webhook`?",
    );
    check_fault(
        "[[caller]]\nname = \"a\"\ntoken = \"env:T\"\nmerchants = [\"*\"]\nmethod = []\n",
        "line 1: `caller[1].methods`: found nothing, expected a list: what it doesn't name \
         is refused; `[\"*\"]` is all but the credential methods, `[]` none\n\
         line 3: `caller[1].token`: found `env:T`, which isn't set, expected an environment \
         variable; set T where the sidecar is started (a unit's Environment=, a container's env), or \
         write `file:` and a path\n\
         line 5: `caller[1].method`: found an unknown key, expected a known key; \
         did you mean `methods`?",
    );
}

#[test]
fn nobody_listens_where_another_listener_does() {
    check_fault(
        "[proxy]\nlisten = \"127.0.0.1:1\"\n[webhook]\nlisten = \"0.0.0.0:1\"\n",
        "line 4: `webhook.listen`: found \"0.0.0.0:1\", where `proxy.listen` listens, expected an \
         address of its own",
    );
    check_fault(
        "[proxy]\nlisten = \"unix:a\"\n[admin]\nlisten = \"unix:a\"\n",
        "line 4: `admin.listen`: found \"unix:DIR/a\", where `proxy.listen` listens, expected an \
         address of its own",
    );
}

#[test]
fn a_number_where_a_text_belongs_tells_the_text() {
    check_fault(
        "[upstream]\ntimeout = 15\n[proxy]\nmax_body = 7\n",
        "line 2: `upstream.timeout`: found an integer, expected a duration such as \"15s\" (ms, s, m, \
         h or d); write it in quotes\n\
         line 4: `proxy.max_body`: found an integer, expected a size such as \"1MiB\" (B, KiB, MiB or \
         GiB); write it in quotes",
    );
}

#[test]
fn what_stands_twice_is_named() {
    check_fault(
        "[proxy]\n[webhook]\n[proxy]\n",
        "line 3: found `proxy`, which stands there before, expected each section and each key once; \
         put what both say under one",
    );
    check_fault(
        "[proxy]\nmax_body = \"1B\"\nmax_body = \"2B\"\n",
        "line 3: found `max_body`, which stands there before, expected each section and each key \
         once; put what both say under one",
    );
}

#[test]
fn a_reference_of_an_unknown_kind_isn_t_taken_for_a_secret() {
    let check = |text: &str, hint: &str| {
        let expected = format!(
            "line 2: `admin.token`: found a reference of an unknown kind, or plain text (not shown), \
             expected a reference: `env:NAME`, `file:path`, `cred:name` or `exec:command`; {hint}"
        );
        check_fault(&format!("[admin]\ntoken = \"{text}\"\n"), &expected);
    };
    let other = "what another store keeps, a command prints: `exec:command`";
    check("vault:canary", other);
    check("flie:canary", "did you mean `file:`?");
}

#[test]
fn a_fault_of_syntax_names_its_line_and_shows_no_text() {
    let faults = parse("[admin]\ntoken = opensesame\n", &[]).expect_err("no TOML");
    assert!(
        faults.starts_with("line 2: found a fault of syntax"),
        "{faults}"
    );
    assert!(!faults.contains("opensesame"), "{faults}");
}

#[test]
fn secrets_are_references_and_never_shown() {
    check_fault(
        "[admin]\ntoken = \"opensesame\"\n",
        "line 2: `admin.token`: found plain text (not shown), expected a reference: `env:NAME`, \
         `file:path`, `cred:name` or `exec:command`; put the value into a file of mode 0600 and \
         write `file:` and its path",
    );
    check_fault(
        "[admin]\ntoken = \"file:open.key\"\n",
        "line 2: `admin.token`: found DIR/open.key with mode 0644, expected a secret that others \
         can't read; run `chmod 600 DIR/open.key`",
    );
    check_fault(
        "[delivery]\nsigning_secret = \"file:none.key\"\n",
        "line 2: `delivery.signing_secret`: found DIR/none.key, which can't be read (No such file \
         or directory (os error 2)), expected a readable file",
    );
    check_fault(
        "[delivery]\nsigning_secret = \"exec:echo whsec_not*base64\"\n",
        "line 2: `delivery.signing_secret`: found an empty secret, or whsec_ with no base64 behind \
         it, expected whsec_ and base64, or any other text",
    );
    check_fault(
        "[admin]\ntoken = \"exec:false now\"\n",
        "line 2: `admin.token`: found `exec:false …`, which failed (exit status: 1), expected a \
         command that prints the secret within 10 s",
    );
    for exec in ["exec:printf a\\x20", "exec:printf \\x09a", "exec:echo é"] {
        check_fault(
            &format!("[admin]\ntoken = '{exec}'\n"),
            "line 2: `admin.token`: found something else (not shown), expected a token of visible \
             ASCII characters, such as 32 random bytes in base64",
        );
    }
    check_fault(
        "[admin]\ntoken = \"cred:t\"\n",
        "line 2: `admin.token`: found `cred:` while $CREDENTIALS_DIRECTORY isn't set, expected \
         systemd credentials; add LoadCredential= to the unit, or use another kind of reference",
    );
}

#[test]
fn every_kind_of_reference_is_read() {
    let directory = directory();
    secret(directory.path(), "a/token", "from file\n");
    let credentials = directory.path().join("a").display().to_string();
    let token = |reference: &str| {
        let environment = [("T", "from env"), ("CREDENTIALS_DIRECTORY", &credentials)];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let text = format!("[admin]\ntoken = \"{reference}\"\n");
        let config = Config::from_toml(&text, directory.path(), environment).expect(reference);
        let token = config.admin.token.expect("set");
        token.expose().clone()
    };
    assert_eq!(token("env:T"), "from env");
    assert_eq!(token("file:a/token"), "from file");
    assert_eq!(token("cred:token"), "from file");
    assert_eq!(token("exec:echo from  exec"), "from exec");
}

#[test]
fn a_variable_may_refer_to_one_whose_name_looks_mistyped() {
    let named = "ALIPAY_SIDECAR_ADMIN_TOKEN";
    let by_variable = [
        (
            "ALIPAY_SIDECAR_ADMIN__TOKEN",
            "env:ALIPAY_SIDECAR_ADMIN_TOKEN",
        ),
        (named, "t"),
    ];
    let config = parse("", &by_variable).expect("as in the file");
    assert_eq!(config.admin.token.expect("set").expose(), "t");
    // A comment refers to nothing.
    let mistyped = parse("# env:ALIPAY_SIDECAR_ADMIN_TOKEN\n", &[(named, "t")]);
    assert!(mistyped.expect_err("mistyped").contains("one underscore"));
}

#[test]
fn a_file_of_authorities_may_be_a_systems_own() {
    let directory = directory();
    let path = directory.path().join("ca.crt");
    std::fs::write(&path, vec![0xff; 300 << 10]).expect("written");
    let config = good(&format!("[upstream]\nca_file = \"{}\"\n", path.display()));
    assert_eq!(config.upstream.ca_file, Some(path));
    let folder = directory.path().display();
    let text = format!("[upstream]\nca_file = \"{folder}\"\n");
    assert!(
        parse(&text, &[])
            .expect_err("a folder")
            .contains("which is no file")
    );
}

/// A configuration whose `key` names a pipe; `ready` is told where it is.
fn of_pipe(key: &str, ready: impl FnOnce(&Path)) -> Result<Config, String> {
    let directory = directory();
    let pipe = directory.path().join("pipe");
    let made = std::process::Command::new("mkfifo")
        .args(["-m", "600"])
        .arg(&pipe)
        .status();
    assert!(made.expect("mkfifo").success());
    ready(&pipe);
    let text = format!("{key} = \"file:pipe\"\n");
    Config::from_toml(&text, directory.path(), []).map_err(|errors| errors.to_string())
}

#[test]
fn a_secret_may_come_through_a_pipe() {
    let mut writer = None;
    let config = of_pipe("[admin]\ntoken", |pipe| {
        let pipe = pipe.to_owned();
        writer = Some(std::thread::spawn(|| std::fs::write(pipe, "opensesame\n")));
    });
    let token = config.expect("read").admin.token.expect("a token");
    assert_eq!(token.expose(), "opensesame");
    let written = writer.expect("started").join().expect("no panic");
    written.expect("read to its end");
}

#[test]
fn a_pipe_that_nobody_writes_to_holds_nobody_up() {
    // What is used by its path is read again with each reload.
    for key in [
        "[proxy]\ntls_cert",
        "[proxy]\ntls_key",
        "[upstream]\nca_file",
    ] {
        let said = of_pipe(key, |_| {}).expect_err(key);
        assert!(said.contains("/pipe, which is no file"), "{key}: {said}");
    }
}

#[test]
fn a_file_without_an_end_is_no_key() {
    let app = "[[app]]\napp_id = \"1\"\nprivate_key = \"file:open.key\"\n";
    let said = parse(
        &format!("{app}alipay_public_key = \"file:/dev/zero\"\n"),
        &[],
    );
    let said = said.expect_err("endless");
    assert!(
        said.contains("/dev/zero, which is longer than 64 KiB"),
        "{said}"
    );
}

#[test]
fn listeners_off_loopback_need_who_may_call() {
    check_fault(
        "[proxy]\nlisten = \"0.0.0.0:2088\"\n[admin]\nlisten = \"10.0.0.1:2090\"\n",
        "line 2: `proxy.listen`: found \"0.0.0.0:2088\" and no [[caller]], expected a loopback \
         address or a unix socket; off loopback anyone could spend the merchants' authorisations; \
         say in a [[caller]] who may call\n\
         line 3: `admin.token`: found nothing, expected a bearer token, because `admin.listen` \
         isn't loopback",
    );
    assert!(
        good("[proxy]\nlisten = \"unix:p.sock\"\n")
            .proxy
            .listen
            .is_local()
    );
}

#[test]
fn off_loopback_no_token_travels_in_clear() {
    let delivery = |url: &str, more: &str| format!("[delivery]\nurl = \"{url}\"\n{more}");
    for word in ["verbatim", "both"] {
        let authorization = format!("authorization = \"{word}\"\n");
        check_fault(
            &delivery("http://10.1.2.3/x", &authorization),
            "line 3: `delivery.authorization`: found tokens, in clear text to http://10.1.2.3/x, \
             expected \"event\", which holds none; or an https:// URL: Alipay's own messages carry \
             app_auth_tokens",
        );
        for private in [
            "http://127.0.0.1:3000/x",
            "http://localhost/",
            "https://b.example/",
        ] {
            good(&delivery(private, &authorization));
        }
        let route = "[[delivery.route]]\nurl = \"http://10.1.2.3/x\"\n";
        let faults = parse(&format!("[delivery]\n{authorization}{route}"), &[]);
        assert!(faults.expect_err("a route tells").contains("in clear text"));
        // Whatever holds a token may go out under an event type of its own.
        let matching = format!("{route}match = \"trade_*\"\n");
        let faults = parse(&format!("[delivery]\n{authorization}{matching}"), &[]);
        assert!(faults.expect_err("it may tell").contains("in clear text"));
    }
    good(&delivery("http://10.1.2.3/x", ""));
}

#[test]
fn traces_are_for_a_program_that_was_built_with_them() {
    let text = "[telemetry]\notlp_endpoint = \"http://127.0.0.1:4318\"\n";
    good(text);
    let directory = directory();
    let path = directory.path().join("config.toml");
    std::fs::write(&path, text).expect("written");
    let served = Config::from_source_to_serve(&Source::read(&path), [], |_| Vec::new());
    if cfg!(feature = "otlp") {
        let endpoint = served.expect("served").telemetry.otlp_endpoint;
        return assert_eq!(endpoint.as_deref(), Some("http://127.0.0.1:4318"));
    }
    let errors = served.expect_err(text).to_string();
    let shown = errors.replace(&format!("{}/", directory.path().display()), "");
    assert_eq!(
        shown,
        "config.toml:2: `telemetry.otlp_endpoint`: found an address, expected nothing; this \
         program was built without traces; build it with `--features otlp`"
    );
}

#[test]
fn a_collectors_address_has_no_query_and_no_user() {
    for (address, found) in [
        ("http://a.example/?key=1", "\"http://a.example/?key=1\""),
        ("ftp://a.example", "\"ftp://a.example\""),
        (
            "https://user:hunter2@a.example",
            "a URL with `@` (not shown)",
        ),
    ] {
        let text = format!("[telemetry]\notlp_endpoint = \"{address}\"\n");
        let fault = parse(&text, &[]).expect_err(&text);
        let expected = format!("`telemetry.otlp_endpoint`: found {found}, expected an http://");
        assert!(fault.contains(&expected), "{fault}");
    }
}

#[test]
fn callers_are_read() {
    let directory = directory();
    let keys = include_str!("../vectors/keys.json");
    let keys: serde_json::Value = serde_json::from_str(keys).expect("JSON");
    let key = keys["keys"]["app2048"]["spki_bare"]
        .as_str()
        .expect("a key");
    std::fs::write(directory.path().join("sdk.txt"), key).expect("written");
    let read = |callers: &str| {
        let text = format!("[proxy]\nlisten = \"0.0.0.0:2088\"\n{callers}");
        let environment = [("T", "one-token"), ("U", "two words"), ("V", "one-token")];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Config::from_toml(&text, directory.path(), environment)
    };
    let config = read(
        "[[caller]]\nname = \"a\"\ntoken = \"env:T\"\nmerchants = [\"*\", \"self\"]\nmethods = []\n\
         [[caller]]\nname = \"b\"\npublic_key = \"file:sdk.txt\"\nmode = \"report\"\nevents = true\n\
         merchants = []\nmethods = [\"*\"]\n",
    );
    let config = config.expect("good");
    assert_eq!(config.unsupported(), []);
    let token = CallerIdentity::Token(TokenDigest::of("one-token"));
    assert_eq!(config.callers[0].identity, token);
    assert!(!format!("{config:?}").contains("one-token"));
    let fault = |callers: &str| read(callers).expect_err(callers).to_string();
    for (callers, expected) in [
        (
            "[[caller]]\nname = \"a\"\ntoken = \"env:U\"\n",
            "`caller[1].token`: found something else (not shown)",
        ),
        (
            "[[caller]]\nname = \"a\"\npublic_key = \"env:T\"\n",
            "`caller[1].public_key`",
        ),
        (
            "[[caller]]\nname = \"a\"\nuid = 1000\n",
            "only a unix socket tells the peer's uid",
        ),
        ("[[caller]]\nname = \"a\"\n", "found no identity"),
        (
            "[[caller]]\nname = \"a\"\ntoken = \"env:T\"\nmethods = []\nmerchants = []\n\
             [[caller]]\nname = \"b\"\ntoken = \"env:V\"\nmethods = []\nmerchants = []\n",
            "`caller[2].token`: found the identity of caller \"a\"",
        ),
        (
            "[[caller]]\nname = \"a\"\ntoken = \"env:T\"\nmethods = []\nmerchants = []\n\
             [[caller]]\nname = \"a\"\npublic_key = \"file:sdk.txt\"\nmethods = []\nmerchants = []\n",
            "`caller[2].name`",
        ),
    ] {
        let found = fault(callers);
        assert!(found.contains(expected), "{found}");
    }
}

#[test]
fn the_reference_file_asks_for_nothing_unsupported() {
    assert_eq!(Config::default().unsupported(), []);
    assert_eq!(good(REFERENCE).unsupported(), []);
}

#[test]
fn a_proxy_has_an_http_address_and_credentials_by_reference() {
    let expected = "expected the http:// URL of a proxy, such as \"http://egress:3128\"";
    for wrong in [
        "https://egress:3128",
        "http://egress/x",
        "http://egress:99999",
        "egress:3128",
    ] {
        check_fault(
            &format!("[upstream]\nproxy = \"{wrong}\"\n"),
            &format!("line 2: `upstream.proxy`: found \"{wrong}\", {expected}"),
        );
    }
    check_fault(
        "[upstream]\nproxy = \"http://user:hunter2@egress:3128\"\n",
        &format!(
            "line 2: `upstream.proxy`: found a URL with `@` (not shown), {expected}; \
             user information isn't allowed in a URL"
        ),
    );
    check_fault(
        "[upstream]\nproxy_credentials = \"exec:echo user:hunter2\"\n",
        "line 1: `upstream.proxy`: found nothing, expected a proxy, because there are credentials \
         for it",
    );
    check_fault(
        "[upstream]\nproxy = \"http://egress:3128\"\nproxy_credentials = \"exec:echo hunter2\"\n",
        "line 3: `upstream.proxy_credentials`: found something else (not shown), expected \
         user:password on one line, as the proxy knows them",
    );
    let config = good(
        "[upstream]\nproxy = \"http://egress:3128\"\n\
         proxy_credentials = \"exec:echo user:hunter2\"\n",
    );
    let credentials = config.upstream.proxy_credentials.expect("read");
    assert_eq!(credentials.expose(), "user:hunter2");
}

#[test]
fn signed_calls_never_go_out_in_clear_text() {
    check_fault(
        "[upstream]\ngateway = \"http://openapi.alipay.com/gateway.do\"\n",
        "line 2: `upstream.gateway`: found \"http://openapi.alipay.com/gateway.do\", expected an \
         https:// URL without a query (http:// for loopback alone); signed calls never travel in \
         clear text; write https://",
    );
    check_fault(
        "[upstream]\nv3 = \"https://user:hunter2@openapi.alipay.com\"\n",
        "line 2: `upstream.v3`: found a URL with `@` (not shown), expected an origin without a \
         path, such as \"https://openapi.alipay.com\"; user information isn't allowed in a URL",
    );
}

#[test]
fn a_standard_address_leaves_the_choice_to_the_environment() {
    let config = good("[upstream]\ngateway = \"https://openapi.alipay.com/gateway.do\"\n");
    let endpoints = config.upstream.endpoints(Environment::Sandbox);
    assert!(
        endpoints.gateway.contains("sandbox"),
        "{}",
        endpoints.gateway
    );
    let config = good("[upstream]\ngateway = \"http://127.0.0.1:9/gateway.do\"\n");
    let endpoints = config.upstream.endpoints(Environment::Sandbox);
    assert_eq!(endpoints.gateway, "http://127.0.0.1:9/gateway.do");
}

#[test]
fn a_shared_store_comes_later_and_its_password_is_not_shown() {
    check_fault(
        "[store]\nurl = \"postgres://u:hunter2@db/x\"\n",
        "line 2: `store.url`: found a PostgreSQL URL, expected `redb:path`; a shared store isn't \
         supported in this version; it comes later",
    );
}

#[test]
fn what_belongs_together_is_asked_for_together() {
    check_fault(
        "[proxy]\nreply_signature = \"local\"\n",
        "line 1: `proxy.reply_key`: found nothing, expected `file:path`, because \
         `reply_signature` is \"local\"",
    );
    check_fault(
        "[[delivery.route]]\nmatch = \"trade_*\"\n",
        "line 1: `delivery.route[1].url`: found nothing, expected where this route delivers to, \
         an http:// or https:// URL",
    );
    check_fault(
        "[webhook]\ntls_cert = \"file:open.key\"\n",
        "line 1: `webhook.tls_key`: found nothing, expected `file:path`, because `tls_cert` is \
         set",
    );
    check_fault(
        "[[caller]]\nname = \"a\"\n[[caller]]\nname = \"b\"\nuid = 1\n\
         merchants = []\nmethods = []\n",
        "line 1: `caller[1].token`: found no identity, expected one of `token`, `uid` and \
         `public_key`\n\
         line 1: `caller[1].merchants`: found nothing, expected a list: what it doesn't name \
         is refused; `[\"*\"]` is all but \"self\", `[]` none\n\
         line 1: `caller[1].methods`: found nothing, expected a list: what it doesn't name \
         is refused; `[\"*\"]` is all but the credential methods, `[]` none\n\
         line 5: `caller[2].uid`: found a uid, expected a `token` or `public_key`; only a unix \
         socket tells the peer's uid",
    );
}

#[test]
fn an_alias_leads_to_a_route_of_the_webhook() {
    let text = "[webhook]\naliases = { \"/pay/notify.php\" = \"/alipay/notify/php\" }\n";
    assert_eq!(
        good(text).webhook.aliases["/pay/notify.php"],
        "/alipay/notify/php"
    );
    check_fault(
        "[webhook.aliases]\n\"/old\" = \"/new\"\n",
        "line 2: `webhook.aliases`: found \"/new\", expected a route of the webhook, such as \
         \"/alipay/notify/php\"",
    );
    for nowhere in [
        "gateway/",
        "gateway/x",
        "auth/x",
        "spi",
        "spi/a/b",
        "notifyx",
    ] {
        let text = format!("[webhook.aliases]\n\"/old\" = \"/alipay/{nowhere}\"\n");
        let told = format!(
            "line 2: `webhook.aliases`: found \"/alipay/{nowhere}\", expected a route of the \
             webhook, such as \"/alipay/notify/php\""
        );
        check_fault(&text, &told);
    }
    for route in ["/alipay/gateway", "/alipay/notify/x", "/alipay/spi/a"] {
        let text = format!("[webhook.aliases]\n\"{route}\" = \"/alipay/auth\"\n");
        let told = format!(
            "line 2: `webhook.aliases`: found \"{route}\", expected an old path that isn't a route of \
             the webhook itself"
        );
        check_fault(&text, &told);
    }
    for old in [
        "notifyX",
        "auth/callback.php",
        "gateway/index.php",
        "spi/a/b",
        "spi",
    ] {
        good(&format!(
            "[webhook.aliases]\n\"/alipay/{old}\" = \"/alipay/auth\"\n"
        ));
    }
}

#[test]
fn variables_stand_over_the_file() {
    let config = parse(
        "[proxy]\nlisten = \"127.0.0.1:1\"\n",
        &[
            ("ALIPAY_SIDECAR_PROXY__LISTEN", "127.0.0.1:2"),
            ("ALIPAY_SIDECAR_PROXY__ALLOWED_HOSTS", "[\"a\", 'b']"),
            ("ALIPAY_SIDECAR_PROXY__DEFAULT_MERCHANT", "2088102146225135"),
            ("ALIPAY_SIDECAR_PROXY__MAX_IN_FLIGHT", "7"),
            ("ALIPAY_SIDECAR_TOKENS__REMEMBER_USERS", "true"),
            ("ALIPAY_SIDECAR_SERVICE_HOST", "10.0.0.1"),
        ],
    )
    .expect("no fault");
    assert_eq!(config.proxy.listen.to_string(), "127.0.0.1:2");
    assert_eq!(config.proxy.allowed_hosts, ["a", "b"]);
    assert!(config.proxy.default_merchant.is_some());
    assert_eq!(config.proxy.max_in_flight, 7);
    assert!(config.tokens.remember_users);
}

#[test]
fn a_variable_that_names_no_key_is_a_fault() {
    check_variable(
        "ALIPAY_SIDECAR_PROXY__LISTN",
        "127.0.0.1:2",
        "ALIPAY_SIDECAR_PROXY__LISTN: `proxy.listn`: found an unknown key, expected a known key; \
         did you mean `listen`?",
    );
    check_variable(
        "ALIPAY_SIDECAR_STROE__KEY",
        "x",
        "ALIPAY_SIDECAR_STROE__KEY: `stroe.key`: found an unknown section, expected a known \
         section; did you mean `store`?",
    );
    check_variable(
        "ALIPAY_SIDECAR_PROXY_LISTEN",
        "x",
        "ALIPAY_SIDECAR_PROXY_LISTEN: `proxy.listen`: found one underscore, expected two between \
         section and key",
    );
    check_variable(
        "ALIPAY_SIDECAR_PROXY__MAX_BODY",
        "1MB",
        "ALIPAY_SIDECAR_PROXY__MAX_BODY: `proxy.max_body`: found \"1MB\", expected a size such as \
         \"1MiB\" (B, KiB, MiB or GiB); units are powers of 1024 and spelled KiB, MiB, GiB",
    );
}

#[test]
fn apps_name_what_they_lack() {
    check_fault(
        "[[app]]\napp_id = \"2021 1\"\nenvironment = \"prod\"\n",
        "line 1: `app[1].private_key`: found nothing, expected a reference to the application's \
         private key (应用私钥)\n\
         line 1: `app[1].alipay_public_key`: found nothing, expected the platform's public key \
         (支付宝公钥); without it no reply could be verified\n\
         line 2: `app[1].app_id`: found \"2021 1\", expected 1 to 32 digits, the APPID that \
         Alipay's console shows\n\
         line 3: `app[1].environment`: found \"prod\", expected \"production\" or \"sandbox\"",
    );
}

/// The faults of an app with these keys; `{own}` is the application's public key.
fn check_keys(private_key: &str, alipay_public_key: &str, expected: &[&str]) {
    let directory = directory();
    let own = AppPrivateKey::generate(1024).expect("a key");
    let platform = AppPrivateKey::generate(1024).expect("a key");
    let fill = |text: &str| {
        text.replace("{private}", own.to_pkcs8_pem().expose())
            .replace("{own}", &own.public_key().to_bare_base64())
            .replace("{platform}", &platform.public_key().to_bare_base64())
    };
    secret(directory.path(), "private", &fill(private_key));
    file(directory.path(), "public", &fill(alipay_public_key), 0o644);
    let text = "[[app]]\napp_id = \"1\"\nprivate_key = \"file:private\"\n\
                alipay_public_key = \"file:public\"\n";
    let faults = match Config::from_toml(text, directory.path(), []) {
        Ok(_) => String::new(),
        Err(faults) => faults.to_string(),
    };
    assert_eq!(faults.lines().count(), expected.len(), "{faults}");
    for (fault, expected) in faults.lines().zip(expected) {
        assert!(fault.contains(expected), "{fault}\n{expected}");
    }
}

#[test]
fn keys_of_the_wrong_kind_are_named() {
    check_keys("{private}", "{platform}", &[]);
    check_keys(
        "{own}",
        "{private}",
        &[
            "line 3: `app[1].private_key`: found a text that is no usable key (found ",
            "line 4: `app[1].alipay_public_key`: found a text that is no usable key (found ",
        ],
    );
    check_keys(
        "{private}",
        "{own}",
        &["line 4: `app[1].alipay_public_key`: found the application's own public key (应用公钥)"],
    );
}

/// The files of certificate mode: an authority that knows the app `key`, and Alipay.
struct Files {
    root: String,
    app: String,
    alipay: String,
}

fn certificate_files(key: &AppPrivateKey) -> Files {
    let mut authority = rcgen::CertificateParams::default();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root_key = rsa_key(&AppPrivateKey::generate(2048).expect("a key"));
    let root = authority.self_signed(&root_key).expect("a certificate");
    let issuer = rcgen::Issuer::new(authority, root_key);
    let issue = |key: &AppPrivateKey| {
        let issued = rcgen::CertificateParams::default().signed_by(&rsa_key(key), &issuer);
        issued.expect("a certificate").pem()
    };
    Files {
        app: issue(key),
        alipay: issue(&AppPrivateKey::generate(2048).expect("a key")),
        root: root.pem(),
    }
}

fn rsa_key(key: &AppPrivateKey) -> rcgen::KeyPair {
    rcgen::KeyPair::from_pem(key.to_pkcs8_pem().expose()).expect("an RSA key")
}

/// Checks the faults of an app in certificate mode with these texts in its three files.
fn check_certificates(key: &AppPrivateKey, files: &Files, expected: &[&str]) {
    let directory = directory();
    secret(directory.path(), "app.pem", key.to_pkcs8_pem().expose());
    for (name, text) in [
        ("app.crt", &files.app),
        ("alipay.crt", &files.alipay),
        ("root.crt", &files.root),
    ] {
        std::fs::write(directory.path().join(name), text).expect("written");
    }
    let text = "[[app]]\napp_id = \"1\"\nprivate_key = \"file:app.pem\"\n\
                app_cert = \"file:app.crt\"\nalipay_cert = \"file:alipay.crt\"\n\
                alipay_root_cert = \"file:root.crt\"\n";
    let faults = match Config::from_toml(text, directory.path(), []) {
        Ok(config) => {
            let keys = config.apps[0].parse_keys().expect("checked");
            assert!(keys.current.certificate.is_some());
            assert!(keys.alipay.is_empty());
            Vec::new()
        }
        Err(errors) => errors.to_string().lines().map(str::to_owned).collect(),
    };
    assert_eq!(faults.len(), expected.len(), "{faults:?}");
    for (fault, expected) in faults.iter().zip(expected) {
        assert!(fault.contains(expected), "{fault}: not {expected}");
    }
}

#[test]
fn certificate_mode_takes_its_three_files_and_no_bare_key() {
    let key = AppPrivateKey::generate(2048).expect("a key");
    let files = certificate_files(&key);
    check_certificates(&key, &files, &[]);
    let foreign = certificate_files(&key);
    let swapped = |change: &dyn Fn(&mut Files)| {
        let mut files = Files {
            root: files.root.clone(),
            app: files.app.clone(),
            alipay: files.alipay.clone(),
        };
        change(&mut files);
        files
    };
    check_certificates(
        &key,
        &swapped(&|files| files.alipay = foreign.alipay.clone()),
        &["line 5: `app[1].alipay_cert`: found an unusable certificate (no trusted certificate"],
    );
    check_certificates(
        &key,
        &swapped(&|files| files.app = files.alipay.clone()),
        &["line 4: `app[1].app_cert`: found a certificate of another key"],
    );
    check_certificates(
        &key,
        &swapped(&|files| files.alipay = files.app.clone()),
        &["line 5: `app[1].alipay_cert`: found the application's own public key"],
    );
    check_certificates(
        &key,
        &swapped(&|files| files.root = "#".to_owned()),
        &["line 6: `app[1].alipay_root_cert`: found an unusable certificate (found no certificate"],
    );
}

#[test]
fn certificate_mode_needs_all_three_files() {
    let faults = parse("[[app]]\napp_cert = \"file:a.crt\"\n", &[]).expect_err("incomplete");
    for missing in ["alipay_cert", "alipay_root_cert"] {
        let expected = format!("`app[1].{missing}`: found nothing, expected the certificate file");
        assert!(faults.contains(&expected), "{faults}");
    }
}

#[test]
fn an_app_moves_from_its_key_to_the_certificate_of_the_next() {
    let keys = [(); 2].map(|()| AppPrivateKey::generate(2048).expect("a key"));
    let files = certificate_files(&keys[1]);
    let app = App {
        app_id: AppId::new("1").expect("id"),
        private_key: keys[0].to_pkcs8_pem().into(),
        private_key_next: Some(keys[1].to_pkcs8_pem().into()),
        alipay_public_keys: Vec::new(),
        certificates: Some(AppCertificates {
            app: vec![files.app],
            alipay: vec![files.alipay],
            roots: files.root,
        }),
        encrypt_key: None,
        environment: Environment::Production,
        sign_type: SignType::Rsa2,
    };
    let error = app
        .parse_keys()
        .expect_err("nothing verifies the first key's replies");
    assert_eq!(error.key(), "app_cert");
    let platform = AppPrivateKey::generate(2048).expect("a key");
    let moving = App {
        alipay_public_keys: vec![platform.public_key().to_bare_base64()],
        ..app
    };
    let parsed = moving.parse_keys().expect("both modes side by side");
    assert!(parsed.current.certificate.is_none());
    assert!(parsed.next.expect("two keys").certificate.is_some());
}

#[test]
fn the_fingerprint_follows_values_and_gives_no_secret_away() {
    let of_store = |key: &str, text: &str| {
        let directory = Path::new("/nowhere");
        let environment =
            [("A", "1"), ("B", "2"), ("KEY", STORE_KEY)].map(|(a, b)| (a.to_owned(), b.to_owned()));
        let text = format!("[store]\nkey = \"{key}\"\n{text}");
        Config::from_toml(&text, directory, environment)
            .expect("no fault")
            .fingerprint()
    };
    let of = |text: &str| of_store("", text);
    let token = |name| format!("[admin]\ntoken = \"env:{name}\"\n");
    assert!(of("").starts_with("sha256:") && of("").len() == 71);
    // Without a key that nobody else has, a digest of secrets would tell those that can be guessed.
    assert_eq!(of(&token("A")), of(&token("B")));
    let sealed = |name| of_store("env:KEY", &token(name));
    assert_ne!(sealed("A"), sealed("B"));
    assert_eq!(sealed("A"), sealed("A"));
    let caller = |name| {
        let caller = "[[caller]]\nname = \"a\"\nmerchants = []\nmethods = []\n";
        of_store("env:KEY", &format!("{caller}token = \"env:{name}\"\n"))
    };
    assert_ne!(caller("A"), caller("B"));
    assert_ne!(of(""), of(&token("A")));
    assert_ne!(of(""), of("[tokens]\nremember_users = true\n"));
}

const STORE_KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n";
