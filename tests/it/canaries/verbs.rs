//! The command line: every verb that handles secrets, through the running sidecar and without one.

use alipay_sidecar::simulator::{DEFAULT_APP_ID, FIRST_AUTH_APP_ID};

use super::traffic::TOKENS;
use super::world::World;
use crate::support::keys;

/// An app that comes and goes, and a merchant that does.
const ADDED_APP: &str = "2021000000007777";
const ADDED_MERCHANT: &str = "2021000000009999";

/// Whether a sidecar runs that answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    Nobody,
    Sidecar,
}

pub async fn all(world: &mut World, answers: Answers) {
    std::fs::write(
        world.supervisor.path().join("recipient.pem"),
        keys::public("app4096"),
    )
    .expect("written");
    reads(world, answers).await;
    apps(world).await;
    merchants(world).await;
    exports(world, answers).await;
    inbox(world, answers).await;
    verify(world).await;
    mistakes(world).await;
    world.learn_tokens();
}

impl World {
    /// A verb that has to end so.
    async fn ends(&mut self, arguments: &[&str], code: i32) {
        let ended = self.verb(arguments, "").await;
        self.expects(arguments, ended, &[code]);
        self.learn_tokens();
    }

    /// How a verb ended, which has to be one of these; it is told of all at once.
    fn expects(&mut self, arguments: &[&str], ended: Option<i32>, codes: &[i32]) {
        if !codes.iter().any(|code| ended == Some(*code)) {
            let verb = arguments.join(" ");
            self.unexpected
                .push(format!("`{verb}` ended with {ended:?}, not {codes:?}"));
        }
    }
}

async fn reads(world: &mut World, answers: Answers) {
    let (backup, unanswered) = match answers {
        Answers::Nobody => ("cold.backup", 1),
        Answers::Sidecar => ("live.backup", 0),
    };
    for arguments in [
        &["app", "list", "--json"][..],
        &["app", "show", DEFAULT_APP_ID],
        &["audit", "verify"],
        &["audit", "verify", "--json"],
        &["check"],
        &["check", "--json"],
        &["inbox", "list", "--json"],
        &["merchant", "list", "--json"],
        &["merchant", "show", FIRST_AUTH_APP_ID, "--json"],
        &["sign", "--app", DEFAULT_APP_ID, "method=alipay.trade.query"],
        &["store", "backup", backup],
        &["store", "check"],
        &["store", "stats", "--json"],
    ] {
        world.ends(arguments, 0).await;
    }
    let biz = r#"{"out_trade_no":"canary-order-1"}"#;
    let call = [
        "call",
        "alipay.trade.query",
        "--merchant",
        FIRST_AUTH_APP_ID,
        "--biz",
        biz,
    ];
    let simulator = world.supervisor.simulator.url();
    let order = ["trigger", "plugin-order", "--simulator", &simulator];
    for arguments in [
        &["health"][..],
        &["health", "--json"],
        &[&call[..], &["--token", "env:CANARY_CALLER_TOKEN"]].concat(),
        &order,
        &[&order[..], &["--json"]].concat(),
    ] {
        // The simulator says what it sent, and to whom.
        let but = if arguments.contains(&"trigger") {
            TOKENS
        } else {
            &[]
        };
        let (ended, _) = world.verb_but(arguments, "", but).await;
        world.expects(arguments, ended, &[unanswered]);
        world.learn_tokens();
    }
    let wrong = [&call[..], &["--token", "env:CANARY_ADMIN_TOKEN"]].concat();
    world.ends(&wrong, 1).await;
}

async fn apps(world: &mut World) {
    let add = [
        "app",
        "add",
        "--app-id",
        ADDED_APP,
        "--private-key",
        "file:keys/added.pem",
    ];
    let public = ["--alipay-public-key", "file:keys/alipay_public_key.pem"];
    let aes = ["--encrypt-key", "file:keys/added.aes"];
    world.ends(&[&add[..], &public, &aes].concat(), 0).await;
    world.ends(&["app", "show", ADDED_APP, "--json"], 0).await;
    let not_a_key = ["--encrypt-key", "env:CANARY_ADMIN_TOKEN"];
    world
        .ends(&[&add[..], &public, &not_a_key].concat(), 1)
        .await;
    let add = [
        "app",
        "add",
        "--app-id",
        ADDED_APP,
        "--private-key",
        "env:CANARY_ADMIN_TOKEN",
    ];
    world.ends(&[&add[..], &public].concat(), 1).await;
    world.ends(&["app", "remove", ADDED_APP], 0).await;
    for more in [
        &[][..],
        &["--merchant", FIRST_AUTH_APP_ID],
        &["--all", "--users"],
    ] {
        let arguments = [&["app", "subscribe", "--app", DEFAULT_APP_ID], more].concat();
        let ended = world.verb(&arguments, "").await;
        // A merchant whose token is none of Alipay's can't be subscribed for.
        let codes: &[i32] = if more.contains(&"--all") {
            &[0, 1]
        } else {
            &[0]
        };
        world.expects(&arguments, ended, codes);
    }
}

async fn merchants(world: &mut World) {
    let mistyped = world.mistyped("verb");
    let add = [
        "merchant",
        "add",
        "--app",
        DEFAULT_APP_ID,
        "--auth-app-id",
        ADDED_MERCHANT,
    ];
    for (reference, code) in [
        ("-", 0),
        ("env:CANARY_ADMIN_TOKEN", 0),
        ("env:NOTHING_SO", 1),
    ] {
        let arguments = [&add[..], &["--token", reference]].concat();
        let ended = world.verb(&arguments, &format!("{mistyped}\n")).await;
        world.expects(&arguments, ended, &[code]);
    }
    for more in [&["--dry-run"][..], &[]] {
        let verify = [&["merchant", "verify", "--all"], more].concat();
        // The one with a token of nobody isn't proved.
        world.ends(&verify, 1).await;
    }
    world.ends(&["merchant", "remove", ADDED_MERCHANT], 0).await;
    for arguments in [
        &["merchant", "link"][..],
        &["token", "query", "--merchant", FIRST_AUTH_APP_ID],
        &["token", "refresh", "--merchant", FIRST_AUTH_APP_ID],
    ] {
        world.ends(arguments, 0).await;
    }
    let code = world.app_code();
    let exchange = ["token", "exchange", "--code", "-"];
    for input in [&code, &code, &mistyped] {
        world.verb(&exchange, &format!("{input}\n")).await;
    }
}

/// Out, and in again; what is opened stands beside the keys, where nothing is searched.
async fn exports(world: &mut World, answers: Answers) {
    let sealed = format!("{answers:?}.jwe");
    let opened = format!("keys/{answers:?}.jsonl");
    let export = ["merchant", "export"];
    let with = ["--with-tokens", "--to-key", "file:recipient.pem"];
    world.ends(&export, 0).await;
    world.ends(&[&export[..], &with].concat(), 0).await;
    world
        .ends(&[&export[..], &with, &["--out", &sealed]].concat(), 0)
        .await;
    let key = ["--key", "file:keys/reply.pem"];
    let import = ["merchant", "import", &sealed];
    world.ends(&import, 2).await;
    world
        .ends(&[&import[..], &key, &["--dry-run"]].concat(), 0)
        .await;
    world.ends(&[&import[..], &key].concat(), 0).await;
    let open = ["merchant", "open-export", &sealed];
    for key in ["file:keys/next.pem", "env:CANARY_ADMIN_TOKEN"] {
        let key = ["--key", key];
        world.ends(&[&import[..], &key].concat(), 1).await;
        let unmade = [&open[..], &key, &["--out", "unmade"]].concat();
        world.ends(&unmade, 1).await;
    }
    world
        .ends(&[&open[..], &key, &["--out", &opened]].concat(), 0)
        .await;
    let text = std::fs::read(world.supervisor.path().join(opened)).expect("opened");
    let found = world.secrets.found_in(&text);
    assert!(
        found.iter().any(|(name, _)| *name == "app_auth_token"),
        "{found:?}"
    );
}

/// The ids of what `inbox list` shows.
async fn listed(world: &mut World, state: &str) -> Vec<String> {
    let list = ["inbox", "list", "--json", "--state", state];
    let (ended, said) = world.verb_but(&list, "", &[]).await;
    assert_eq!(ended, Some(0));
    let page: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    let items = page["items"].as_array().cloned().unwrap_or_default();
    let id = |item: &serde_json::Value| item["id"].as_str().map(ToOwned::to_owned);
    items.iter().filter_map(id).collect()
}

async fn inbox(world: &mut World, answers: Answers) {
    let refused = listed(world, "refused").await;
    let delivered = listed(world, "delivered").await;
    let (one, other) = (
        refused.first().expect("some"),
        delivered.first().expect("some"),
    );
    for id in refused.iter().chain(&delivered).take(20) {
        world.ends(&["inbox", "show", id], 0).await;
        world.ends(&["inbox", "show", id, "--json"], 0).await;
    }
    for arguments in [
        &["inbox", "show", one, "--explain"][..],
        &["inbox", "show", one, "--explain", "--json"],
        &["inbox", "replay", other],
        &[
            "inbox",
            "replay",
            "--state",
            "delivered",
            "--type",
            "open_app_*",
            "--json",
        ],
        &["inbox", "reverify"],
        &["inbox", "prune", "--json"],
    ] {
        world.ends(arguments, 0).await;
    }
    world.ends(&["inbox", "reverify", one], 1).await;
    if answers == Answers::Nobody {
        world
            .ends(&["inbox", "prune", "--older-than", "1s"], 0)
            .await;
    }
}

/// Offline, and about messages that hold tokens: only `--explain` shows what it is handed.
async fn verify(world: &mut World) {
    let directory = world.supervisor.path().to_owned();
    let pushed = world.supervisor.simulator.notifications();
    let push = pushed
        .iter()
        .rfind(|sent| sent.body.contains("open_app_auth_notify"));
    let body = push.expect("a push").body.clone();
    let forged = body.replacen("sign=", "sign=AAAA", 1);
    let request = format!("app_id={DEFAULT_APP_ID}&method=alipay.trade.query&sign=AAAA");
    for (name, text) in [("push", &body), ("forged", &forged), ("request", &request)] {
        std::fs::write(directory.join("keys").join(name), text).expect("written");
    }
    let of_push = ["verify", "--kind", "notification", "--app", DEFAULT_APP_ID];
    let app_key = ["--private-key", "file:keys/app_private_key.pem"];
    let no_key = ["--private-key", "env:CANARY_ADMIN_TOKEN"];
    for (file, code) in [("keys/push", 0), ("keys/forged", 1)] {
        world.ends(&[&of_push[..], &[file]].concat(), code).await;
        world
            .ends(&[&of_push[..], &app_key, &[file]].concat(), code)
            .await;
        let explain = [&of_push[..], &["--explain", file]].concat();
        let (ended, _) = world.verb_but(&explain, "", TOKENS).await;
        world.expects(&explain, ended, &[code]);
    }
    let of_request = ["verify", "--kind", "request"];
    for key in [app_key, no_key] {
        world
            .ends(&[&of_request[..], &key, &["keys/request"]].concat(), 1)
            .await;
    }
}

async fn mistakes(world: &mut World) {
    let mistyped = world.mistyped("import");
    let line = format!(
        r#"{{"app_id":"{DEFAULT_APP_ID}","auth_app_id":"1","app_auth_token":"{mistyped}","x":"{mistyped}"}}"#
    );
    let wrong = world.supervisor.path().join("wrong.jsonl");
    std::fs::write(wrong, line).expect("written");
    world.ends(&["merchant", "import", "wrong.jsonl"], 1).await;
}

/// What takes the store for itself: only where nobody runs.
pub async fn care(world: &mut World) {
    let path = world.supervisor.path().to_owned();
    world.ends(&["store", "restore", "live.backup"], 1).await;
    world
        .ends(&["store", "restore", "recipient.pem", "--replace"], 1)
        .await;
    world
        .ends(&["store", "restore", "cold.backup", "--replace"], 0)
        .await;
    world.ends(&["store", "compact"], 0).await;
    world.ends(&["store", "check", "--repair"], 0).await;
    for (reference, code) in [
        ("env:CANARY_ADMIN_TOKEN", 1),
        ("file:keys/new.store.key", 0),
    ] {
        world
            .ends(&["store", "rekey", "--new-key", reference], code)
            .await;
    }
    std::fs::copy(path.join("keys/new.store.key"), path.join("store.key")).expect("copied");
    world.ends(&["store", "check"], 0).await;
    world.ends(&["merchant", "list"], 0).await;
    world.ends(&["audit", "verify"], 0).await;
}
