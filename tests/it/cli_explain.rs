//! `sign` and `verify`: exit codes, and the cause in one line, through the program.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use alipay_sidecar::protocol::charset::Charset;
use alipay_sidecar::protocol::params::Params;
use alipay_sidecar::protocol::sign_content::{self, EmptyValues, Scheme};
use alipay_sidecar::protocol::signature::SignType;
use serde_json::Value;

use crate::protocol::{bytes, file, private_key, public_key, text};

const APP: &str = "2021000122671080";

/// A directory with a configuration and no store.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().expect("a directory"));
        let keys = &file("keys")["keys"];
        place.write("app.pem", text(&keys["app2048"], "pkcs8_pem"));
        place.write("alipay.txt", text(&keys["alipay2048"], "spki_bare"));
        place.write("store.key", "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=");
        let app = format!(
            "[store]\nkey = \"file:store.key\"\n[[app]]\napp_id = \"{APP}\"\nprivate_key = \
             \"file:app.pem\"\nalipay_public_key = \"file:alipay.txt\"\n"
        );
        place.write("config.toml", &app);
        place
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.path().join(name);
        std::fs::write(&path, content).expect("written");
        let private = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&path, private).expect("private");
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_alipay-sidecar"))
            .args(arguments)
            .current_dir(self.path())
            .env_clear()
            .stdin(Stdio::null())
            .output()
            .expect("started")
    }

    /// The program ends with `code`, says each of `texts`, and never a key.
    fn check(&self, arguments: &[&str], code: i32, texts: &[&str]) -> String {
        let output = self.run(arguments);
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{said}");
        for text in texts {
            assert!(said.contains(text), "{arguments:?}: no `{text}` in\n{said}");
        }
        let key = std::fs::read_to_string(self.path().join("app.pem")).expect("a key");
        let line = key.lines().nth(1).expect("a line of it");
        assert!(!said.contains(line), "{said}");
        said
    }

    /// `verify` says that it doesn't hold, and the cause.
    fn refused(&self, kind: &str, content: impl AsRef<[u8]>, cause: &str) {
        self.write("message", content);
        let arguments = [
            "verify",
            "--kind",
            kind,
            "--app",
            APP,
            "--explain",
            "message",
        ];
        let said = self.check(&arguments, 1, &["doesn't hold", &format!("[{cause}]")]);
        assert!(
            said.contains("sign content by the rules") || cause == "truncated",
            "{said}"
        );
    }
}

fn notification() -> Params {
    let mut params = Params::new();
    for (name, value) in [
        ("notify_time", "2026-11-22 10:20:30"),
        ("notify_id", "ac05"),
        ("app_id", APP),
        ("charset", "utf-8"),
        ("version", "1.0"),
        ("sign_type", "RSA2"),
        ("subject", "大 A+B <\"x\" & 'y'>"),
        ("passback_params", "a%3db"),
    ] {
        params.push(name, value).expect("once");
    }
    let content = sign_content::notification(&params, Scheme::V1, EmptyValues::Dropped);
    let sign = private_key("alipay2048").sign(SignType::Rsa2, content.as_bytes());
    params.set("sign", sign.expect("signed"));
    params
}

fn form(params: &Params) -> String {
    params.to_form(Charset::Utf8).expect("UTF-8")
}

fn with(name: &str, value: &str) -> String {
    let mut params = notification();
    params.set(name, value);
    form(&params)
}

fn reply(node: &str, arrived: &str) -> String {
    let sign = private_key("alipay2048").sign(SignType::Rsa2, node.as_bytes());
    let sign = sign.expect("signed");
    format!("{{\"alipay_trade_query_response\":{arrived},\"sign\":\"{sign}\"}}")
}

const NODE: &str = r#"{"code":"10000","msg":"Success","a":"x/中"}"#;

#[test]
fn good_messages_are_verified() {
    let place = Place::new();
    place.write("message", form(&notification()));
    let verify = ["verify", "--kind", "notification", "--app", APP, "message"];
    place.check(&verify, 0, &["the signature of the notification holds"]);
    place.write("message", reply(NODE, NODE));
    let reference = [
        "verify",
        "--kind",
        "response",
        "--alipay-public-key",
        "file:alipay.txt",
        "message",
    ];
    place.check(&reference, 0, &["the signature of the response holds"]);
    place.write(
        "message",
        format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/html;charset=utf-8\r\n\r\n{}",
            reply(NODE, NODE)
        ),
    );
    place.check(&reference, 0, &["holds"]);
    assert!(!place.path().join("data").exists(), "no store is made");
}

#[test]
fn the_cause_of_a_notification_is_named() {
    let place = Place::new();
    let good = form(&notification());
    let refused = |content: &str, cause: &str| place.refused("notification", content, cause);
    refused(
        &with("subject", "大 A+B &lt;&quot;x&quot; &amp; &#39;y&#39;&gt;"),
        "html-escaped",
    );
    refused(&with("subject", "大 A B <\"x\" & 'y'>"), "plus-as-space");
    refused(&with("notify_time", "2026-11-22+10:20:30"), "space-as-plus");
    refused(&with("passback_params", "a=b"), "decoded-twice");
    refused(&good.replace('%', "%25"), "encoded-twice");
    refused(&format!("{good}&utm_source=x"), "parameter-added");
    refused(&good.replace("&charset=utf-8", ""), "parameter-dropped");
    refused(&format!("{good}\n"), "outer-white-space");
    refused(&format!("\u{feff}{good}"), "byte-order-mark");
    refused(
        &good.replace("sign_type=RSA2", "sign_type=RSA"),
        "sign-type-weaker",
    );
    refused(&with("sign", "abcd"), "signature-length");
    refused(&with("notify_id", "ac06"), "content-changed");
    refused(&format!("{good}&app_id=1"), "parameter-duplicate");
    let own = sign_content::notification(&notification(), Scheme::V1, EmptyValues::Dropped);
    let own = private_key("app2048").sign(SignType::Rsa2, own.as_bytes());
    refused(&with("sign", &own.expect("signed")), "signed-by-own-key");
}

#[test]
fn an_app_that_still_signs_by_sha_1_is_verified_where_that_is_said() {
    let place = Place::new();
    let signed = private_key("app2048").sign(SignType::Rsa, NODE.as_bytes());
    let sign = signed.expect("signed");
    let reply = format!("{{\"alipay_trade_query_response\":{NODE},\"sign\":\"{sign}\"}}");
    place.write("message", reply);
    let keys = &file("keys")["keys"];
    let key = text(&keys["app2048"], "spki_bare");
    let verify = |more: &[&str]| {
        let arguments = ["verify", "--kind", "response", "--alipay-public-key", key];
        place
            .run(&[&arguments[..], more, &["message"]].concat())
            .status
            .code()
    };
    assert_eq!(verify(&[]), Some(1));
    assert_eq!(verify(&["--sign-type", "RSA"]), Some(0));
    assert_eq!(verify(&["--sign-type", "MD5"]), Some(2));
}

#[test]
fn the_cause_of_a_reply_is_named() {
    let place = Place::new();
    let refused = |content: &str, cause: &str| place.refused("response", content, cause);
    refused(&reply(NODE, &NODE.replace("\":", "\": ")), "json-spacing");
    refused(&reply(NODE, &NODE.replace('中', "\\u4e2d")), "json-escapes");
    refused(&reply(&NODE.replace('/', "\\/"), NODE), "json-slashes");
    refused(
        &reply(NODE, &NODE.replace("10000", "10003")),
        "content-changed",
    );
    refused(&reply("\"abcd\"", "abcd"), "quotes-stripped");
    let cut = reply(NODE, NODE);
    refused(cut.get(..cut.len() - 9).expect("ASCII"), "truncated");
    place.write("message", reply(NODE, NODE));
    let other = [
        "verify",
        "--kind",
        "response",
        "--method",
        "alipay.trade.pay",
        "--app",
        APP,
        "message",
    ];
    place.check(
        &other,
        1,
        &["[other-method]", "alipay_trade_query_response"],
    );
    place.write("gbk", Charset::Gbk.encode(&reply(NODE, NODE)).expect("GBK"));
    let gbk = [
        "verify",
        "--kind",
        "response",
        "--charset",
        "GBK",
        "--app",
        APP,
        "gbk",
    ];
    place.check(&gbk, 1, &["[charset-converted]"]);
}

#[test]
fn raw_v3_messages_are_read() {
    let place = Place::new();
    let body = "{\"trade_no\":\"1\"}";
    let content = sign_content::v3_response("1795314030000", "abc", body.as_bytes());
    let sign = private_key("alipay2048").sign(SignType::Rsa2, &content.expect("one line each"));
    let sign = sign.expect("signed");
    let head = format!(
        "HTTP/1.1 200 OK\r\nalipay-timestamp: 1795314030000\r\nalipay-nonce: abc\r\n\
         alipay-signature: {sign}\r\n\r\n"
    );
    let verify = ["verify", "--kind", "v3", "--app", APP, "message"];
    place.write("message", format!("{head}{body}"));
    place.check(&verify, 0, &["v3-response holds"]);
    place.refused("v3", format!("{head}{body}\n"), "trailing-newline");
    place.refused(
        "v3",
        format!("{head}{body}").replace("alipay-nonce: abc\r\n", ""),
        "header-missing",
    );
    place.write("body", body);
    let signature = format!("alipay-signature: {sign}");
    let by_arguments = [
        "verify",
        "--kind",
        "v3",
        "--app",
        APP,
        "--header",
        "alipay-timestamp: 1795314030000",
        "--header",
        "alipay-nonce: abc",
        "--header",
        &signature,
        "--status",
        "200",
        "body",
    ];
    place.check(&by_arguments, 0, &["holds"]);
    for case in file("v3-request")["cases"].as_array().expect("cases") {
        let headers: Vec<(String, String)> =
            serde_json::from_value(case["headers"].clone()).expect("pairs");
        let headers: String = headers
            .iter()
            .filter(|(name, _)| name != "transfer-encoding")
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        let start = format!(
            "{} {} HTTP/1.1\r\n{headers}\r\n",
            text(case, "http_method"),
            text(case, "target")
        );
        place.write(
            "message",
            [start.into_bytes(), bytes(case, "body_b64")].concat(),
        );
        place.check(&verify, 0, &["v3-request holds"]);
    }
}

#[test]
fn raw_requests_of_every_sdk_are_read() {
    let place = Place::new();
    for case in file("v2-wire")["cases"].as_array().expect("cases") {
        let headers: Vec<(String, String)> =
            serde_json::from_value(case["headers"].clone()).expect("pairs");
        let headers: String = headers
            .iter()
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        let start = format!(
            "POST {} HTTP/1.1\r\n{headers}\r\n",
            text(case, "raw_target")
        );
        place.write(
            "message",
            [start.into_bytes(), bytes(case, "raw_body_b64")].concat(),
        );
        let verify = ["verify", "--kind", "request", "--app", APP, "message"];
        let id = text(case, "id");
        place.check(&verify, 0, &["the signature of the request holds"]);
        assert!(!id.is_empty());
    }
}

#[test]
fn keys_by_mistake_are_answers_and_missing_ones_wrong_usage() {
    let place = Place::new();
    place.write("message", form(&notification()));
    let by = |argument: &'static str, reference: &'static str| {
        [
            "verify",
            "--kind",
            "notification",
            argument,
            reference,
            "message",
        ]
    };
    place.check(
        &by("--alipay-public-key", "file:app.pem"),
        1,
        &["[private-key-given]"],
    );
    let mut own = by("--app-public-key", "file:app.pem");
    own[2] = "request";
    place.check(&own, 1, &["[own-private-key-given]", "as --private-key"]);
    place.write("own.txt", public_key("app2048").to_bare_base64());
    let swapped = [
        "verify",
        "--kind",
        "notification",
        "--alipay-public-key",
        "file:own.txt",
        "--private-key",
        "file:app.pem",
        "message",
    ];
    place.check(&swapped, 1, &["[own-public-key]", "支付宝公钥"]);
    place.check(&by("--alipay-public-key", "file:none"), 2, &["none"]);
    place.check(
        &["verify", "--kind", "notification", "message"],
        2,
        &["--alipay-public-key"],
    );
    place.check(
        &["verify", "--kind", "request", "message"],
        2,
        &["--private-key"],
    );
    place.check(&["verify", "message"], 2, &["--kind"]);
    place.check(
        &["verify", "--kind", "response", "--app", APP, "nothing"],
        2,
        &["nothing"],
    );
    place.check(
        &["verify", "--kind", "response", "--app", "1", "message"],
        1,
        &["app_id 1"],
    );
    place.write("alipay.txt", public_key("app2048").to_bare_base64());
    let configured = ["verify", "--kind", "notification", "--app", APP, "message"];
    place.check(&configured, 78, &["应用公钥", "alipay_public_key"]);
    place.write("config.toml", "nonsense = 1\n");
    place.check(
        &["verify", "--kind", "response", "--app", APP, "message"],
        78,
        &["nonsense"],
    );
}

/// Only somebody at a terminal can type what a pipe waits for, and break off what waits in vain.
#[test]
fn a_pipe_in_an_argument_has_its_limit_where_nobody_is_there() {
    let place = Place::new();
    place.write("message", form(&notification()));
    let made = Command::new("mkfifo")
        .arg(place.path().join("pipe"))
        .status();
    assert!(made.expect("mkfifo").success());
    let output = Command::new("timeout")
        .args(["60", env!("CARGO_BIN_EXE_alipay-sidecar"), "verify"])
        .args(["--kind", "notification"])
        .args(["--alipay-public-key", "file:pipe", "message"])
        .current_dir(place.path())
        .stdin(Stdio::null())
        .output()
        .expect("started");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("within 10 s"), "{said}");
}

#[test]
fn json_tells_the_same() {
    let place = Place::new();
    place.write("message", format!("{}&utm_source=x", form(&notification())));
    let output = place.run(&[
        "verify",
        "--kind",
        "notification",
        "--app",
        APP,
        "--json",
        "message",
    ]);
    assert_eq!(output.status.code(), Some(1));
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(said["verified"], false);
    assert_eq!(said["kind"], "notification");
    assert_eq!(said["cause"], "parameter-added");
    assert!(
        said["text"]
            .as_str()
            .is_some_and(|text| text.contains("`utm_source`")),
        "{said}"
    );
    assert!(
        said["sign_content"]
            .as_str()
            .is_some_and(|text| text.contains("utm_source=x"))
    );
    assert!(
        said["signed_content"]
            .as_str()
            .is_some_and(|text| !text.contains("utm_source"))
    );
    assert_eq!(
        said["seal"]["key_sha256"],
        public_key("alipay2048").fingerprint()
    );
    assert!(said["tried"].as_u64().is_some_and(|tried| tried > 1));
}

#[test]
fn sign_makes_the_signatures_of_the_sdks() {
    let place = Place::new();
    for case in file("v2-sign")["cases"].as_array().expect("cases") {
        let keys = &file("keys")["keys"];
        place.write("key", text(&keys[text(case, "key")], "pkcs8_pem"));
        let params: Vec<(String, String)> =
            serde_json::from_value(case["params"].clone()).expect("pairs");
        let params: Vec<String> = params
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let mut arguments = vec![
            "sign",
            "--private-key",
            "file:key",
            "--charset",
            text(case, "charset"),
        ];
        arguments.extend(["--sign-type", text(case, "sign_type"), "--json", "--"]);
        arguments.extend(params.iter().map(String::as_str));
        let output = place.run(&arguments);
        let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(said["sign_content"], case["sign_string"], "{}", case["id"]);
        assert_eq!(said["sign"], case["sign"], "{}", case["id"]);
    }
}

#[test]
fn what_alipay_says_it_checked_is_compared() {
    let place = Place::new();
    let cases = file("v2-wire");
    let mut cases = cases["cases"].as_array().expect("cases").iter();
    let case = cases
        .find(|case| case["id"] == "java-execute-utf-8")
        .expect("it");
    let (_, query) = text(case, "raw_target").split_once('?').expect("a query");
    let body = bytes(case, "raw_body_b64");
    place.write("message", [query.as_bytes(), b"&", &body].concat());
    let ours = text(case, "union_sign_string");
    let escaped = |content: &str| content.replace('&', "&amp;").replace('"', "&quot;");
    place.write(
        "equal",
        format!("验签出错，网关生成的验签字符串为：{}", escaped(ours)),
    );
    let verify = |kind: &'static str, says: &'static str| {
        [
            "verify",
            "--kind",
            kind,
            "--app",
            APP,
            "--gateway-says",
            says,
            "message",
        ]
    };
    place.check(
        &verify("request", "@equal"),
        0,
        &["gateway: Alipay checked exactly"],
    );
    let gbk = file("v2-wire");
    let mut cases = gbk["cases"].as_array().expect("cases").iter();
    let gbk = cases
        .find(|case| case["id"] == "java-execute-gbk")
        .expect("it");
    let (_, query) = text(gbk, "raw_target").split_once('?').expect("a query");
    place.write(
        "gbk",
        [query.as_bytes(), b"&", &bytes(gbk, "raw_body_b64")].concat(),
    );
    let says = format!(
        "网关生成的验签字符串为：{}",
        escaped(text(gbk, "union_sign_string"))
    );
    let in_gbk = [
        "verify",
        "--kind",
        "request",
        "--app",
        APP,
        "--gateway-says",
        &says,
        "gbk",
    ];
    place.check(&in_gbk, 0, &["gateway: Alipay checked exactly"]);
    let other = escaped(ours).replace("version=1.0", "version=1.1");
    place.write("other", format!("网关生成的验签字符串为：{other}"));
    place.check(
        &verify("request", "@other"),
        0,
        &["`version` differs from character 3", "`1.0`, checked `1.1`"],
    );
    place.check(
        &verify("request", "无效签名"),
        0,
        &["doesn't show the string"],
    );
    place.check(&verify("notification", "x"), 2, &["--kind request"]);
}

#[test]
fn sign_explains_what_it_signed() {
    let place = Place::new();
    let params = [
        "app_id=1",
        "method=alipay.trade.query",
        "note=a\u{a0}b",
        "empty=",
        "sign=x",
    ];
    let plain = ["sign", "--app", APP]
        .into_iter()
        .chain(params)
        .collect::<Vec<_>>();
    let sign = place.check(&plain, 0, &[]);
    assert_eq!(sign.trim().len(), 344);
    let explained = ["sign", "--app", APP, "--explain"]
        .into_iter()
        .chain(params)
        .collect::<Vec<_>>();
    place.check(
        &explained,
        0,
        &[
            sign.trim(),
            "app_id=1&method=alipay.trade.query&note=a\\u{a0}b",
            "44 bytes in utf-8",
            &public_key("app2048").fingerprint(),
            "`empty` is empty and left out",
            "`sign` is left out",
            "charset, sign_type, timestamp, version",
        ],
    );
    let keys = &file("keys")["keys"]["app2048"]["variants_private_ok"];
    place.write("mixed", text(keys, "pkcs1_body_under_pkcs8_label"));
    let mixed = ["sign", "--private-key", "file:mixed", "--explain", "a=1"];
    place.check(
        &mixed,
        0,
        &["PKCS#1 private key under the label `PRIVATE KEY`"],
    );
    place.check(&["sign", "--app", APP, "nonsense"], 2, &["NAME=VALUE"]);
    place.check(&["sign", "--app", APP, "a=1", "a=2"], 2, &["given twice"]);
    place.check(&["sign", "a=1"], 2, &["--app"]);
    place.check(&["sign", "--app", APP, "charset=latin1"], 2, &["latin1"]);
    place.check(
        &["sign", "--app", APP, "--charset", "GBK", "a=😀"],
        2,
        &["no code in GBK"],
    );
    let unknown = ["sign", "--app", "1", "a=1"];
    place.check(&unknown, 1, &["app_id 1", "there is no store"]);
    place.check(&["store", "create"], 0, &[]);
    place.check(&unknown, 1, &["app_id 1", "--private-key", "`app list`"]);
    place.check(
        &["sign", "--private-key", "file:alipay.txt", "a=1"],
        2,
        &["public key"],
    );
    place.check(
        &["sign", "--private-key", "file:none", "a=1"],
        2,
        &["--private-key", "none"],
    );
}

#[test]
fn an_app_of_the_store_signs_and_verifies_offline() {
    let place = Place::new();
    place.check(&["store", "create"], 0, &[]);
    place.write("message", form(&notification()));
    let sign = ["sign", "--app", APP, "a=1"];
    let verify = ["verify", "--kind", "notification", "--app", APP, "message"];
    let signed = place.check(&sign, 0, &[]);
    let add = [
        "app",
        "add",
        "--app-id",
        APP,
        "--private-key",
        "file:app.pem",
        "--alipay-public-key",
        "file:alipay.txt",
    ];
    place.check(&add, 0, &[]);
    let only = |more: &str| {
        let text = format!("[store]\nkey = \"file:store.key\"\n[audit]\nfile = \"\"\n{more}");
        place.write("config.toml", text);
    };
    only("");
    assert_eq!(place.check(&sign, 0, &[]), signed);
    place.check(&verify, 0, &["the signature of the notification holds"]);
    // One of the file needs no secret but its own, and no store.
    let other = "[[app]]\napp_id = \"2021000000000009\"\nprivate_key = \"env:NONE\"\n\
                 alipay_public_key = \"file:alipay.txt\"\n";
    only(other);
    assert_eq!(place.check(&sign, 0, &[]), signed);
    let own = other.replace("2021000000000009", APP);
    let whole = own.replace("env:NONE", "file:app.pem");
    only(&format!("{other}{whole}"));
    assert_eq!(place.check(&sign, 0, &[]), signed);
    // Nor is one of the file looked for in the store: it is told what is wrong with it.
    only(&own);
    place.check(&sign, 78, &["NONE"]);
    // Who has the store open keeps it.
    only("");
    let path = place.path().join("data/sidecar.redb");
    let open = redb::Database::open(path).expect("opened");
    for verb in [&sign[..], &verify] {
        place.check(verb, 1, &["no `[[app]]` has", "in use by another process"]);
    }
    drop(open);
    place.check(&sign, 0, &[]);
    // An older program may have to open it again.
    let path = place.path().join("data/sidecar.redb");
    let stats = place.check(&["store", "stats", "--json"], 0, &[]);
    let stats: Value = serde_json::from_str(&stats).expect("JSON");
    crate::store_cli::age(&path, stats["schema"].as_u64().expect("a version"));
    let before = std::fs::read(&path).expect("read");
    assert_eq!(place.check(&sign, 0, &[]), signed);
    place.check(&verify, 0, &["the signature of the notification holds"]);
    assert!(
        before == std::fs::read(&path).expect("read"),
        "it was written"
    );
}

/// What a request was signed with may be the very key that can't be read here: "doesn't hold" would be
/// said of a signature that does.
#[test]
fn an_app_that_lacks_a_key_here_judges_nothing() {
    let place = Place::new();
    place.check(&["store", "create"], 0, &[]);
    place.write("message", form(&notification()));
    let config = std::fs::read_to_string(place.path().join("config.toml")).expect("read");
    let files = ["app_cert", "alipay_cert", "alipay_root_cert"];
    for keys in [&["private_key_next"][..], &files] {
        let lines = keys.iter().map(|key| format!("{key} = \"env:NONE\"\n"));
        place.write("config.toml", config.clone() + &lines.collect::<String>());
        let verify = ["verify", "--kind", "notification", "--app", APP, "message"];
        for verb in [&verify[..], &["sign", "--app", APP, "a=1"]] {
            place.check(verb, 78, &[keys[0], "NONE"]);
        }
    }
}

/// What a buyer's browser brings to return_url is a query.
#[test]
fn a_notification_in_a_url_or_a_request_line_is_read() {
    let place = Place::new();
    let query = form(&notification());
    let verify = ["verify", "--kind", "notification", "--app", APP, "message"];
    for message in [
        format!("https://shop.example/return?{query}"),
        format!("http://shop.example/return?{query}#top\n"),
        format!("GET /return?{query} HTTP/1.1\r\nHost: shop.example\r\n\r\n"),
        format!("POST /notify?from=x HTTP/1.1\r\nHost: shop.example\r\n\r\n{query}"),
    ] {
        place.write("message", &message);
        place.check(&verify, 0, &["the signature of the notification holds"]);
    }
    place.refused(
        "notification",
        format!("https://shop.example/return?from=x&{query}"),
        "parameter-added",
    );
}

#[test]
fn pems_may_be_arguments_and_private_keys_may_not() {
    let place = Place::new();
    place.write("message", form(&notification()));
    let keys = file("keys");
    let public = text(&keys["keys"]["alipay2048"], "spki_pem");
    let verify = |argument: &'static str, key: &str| -> Vec<String> {
        let kind = match argument {
            "--private-key" => "request",
            _ => "notification",
        };
        let fixed = ["verify", "--kind", kind, argument, key, "message"];
        fixed.map(str::to_owned).to_vec()
    };
    let run = |arguments: &[String], code: i32, texts: &[&str]| {
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        place.check(&arguments, code, texts)
    };
    run(&verify("--alipay-public-key", public), 0, &["holds"]);
    for form in ["pkcs8_pem", "pkcs8_bare"] {
        let private = text(&keys["keys"]["app2048"], form);
        // `check` sees to it that the key isn't repeated.
        run(
            &verify("--private-key", private),
            2,
            &["the key itself (not shown)", "file:"],
        );
        let sign = ["sign", "--private-key", private, "a=1"];
        place.check(&sign, 2, &["the key itself (not shown)"]);
    }
    let pem = text(&keys["keys"]["app2048"], "pkcs8_pem");
    run(
        &verify("--alipay-public-key", pem),
        1,
        &["[private-key-given]"],
    );
}

#[test]
fn the_charset_argument_overrides_the_message() {
    let place = Place::new();
    let mut unknown = notification();
    unknown.set("charset", "latin1");
    let content = sign_content::notification(&unknown, Scheme::V1, EmptyValues::Dropped);
    let sign = private_key("alipay2048").sign(SignType::Rsa2, content.as_bytes());
    unknown.set("sign", sign.expect("signed"));
    place.refused("notification", form(&unknown), "charset-unknown");
    let verify = |kind: &'static str, charset: &'static str| {
        let fixed = ["verify", "--kind", kind, "--app", APP, "--charset", charset];
        [&fixed[..], &["message"]].concat()
    };
    place.check(&verify("notification", "utf-8"), 0, &["holds"]);
    place.write("message", form(&notification()));
    place.check(&verify("notification", "utf-8"), 0, &["holds"]);
    place.check(
        &verify("notification", "GBK"),
        1,
        &["[charset-misread]", "is utf-8, but was read as GBK"],
    );
    let content = "a=中&charset=latin1";
    let sign = private_key("app2048").sign(SignType::Rsa2, content.as_bytes());
    let mut request = Params::new();
    let pairs = [
        ("a", "中"),
        ("charset", "latin1"),
        ("sign", &sign.expect("signed")),
    ];
    for (name, value) in pairs {
        request.push(name, value).expect("once");
    }
    place.write("message", form(&request));
    place.check(&verify("request", "utf-8"), 0, &["holds"]);
    place.refused("request", form(&request), "charset-unknown");
}

#[test]
fn a_key_under_the_label_of_another_format_is_noted() {
    let place = Place::new();
    let keys = &file("keys")["keys"]["app2048"]["variants_private_ok"];
    place.write("mixed", text(keys, "pkcs1_body_under_pkcs8_label"));
    place.write("message", form(&notification()));
    let verify = [
        "verify",
        "--kind",
        "notification",
        "--alipay-public-key",
        "file:alipay.txt",
        "--private-key",
        "file:mixed",
        "message",
    ];
    place.check(&verify, 0, &["note: [key-label]", "`PRIVATE KEY`"]);
}

/// The name of a parameter is anyone's to choose.
#[test]
fn names_that_are_none_are_not_shown() {
    let place = Place::new();
    let good = form(&notification());
    for name in [
        "app_auth_token%3D202611BB",
        "a%60+[wrong-key]+x",
        "%E2%80%AEab",
    ] {
        place.write("message", format!("{good}&{name}=1"));
        let verify = ["verify", "--kind", "notification", "--app", APP, "message"];
        let said = place.check(&verify, 1, &["a parameter whose name isn't one ("]);
        for forged in ["202611BB", "[wrong-key]", "\u{202e}"] {
            assert!(!said.contains(forged), "{said}");
        }
    }
}

#[test]
fn trigger_names_the_flag_that_says_where_the_simulator_is() {
    let place = Place::new();
    let nobody = [
        "trigger",
        "--simulator",
        "http://127.0.0.1:1",
        "plugin-order",
    ];
    place.check(&nobody, 1, &["no simulator listens", "--simulator http://"]);
}
