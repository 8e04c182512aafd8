//! Everything that is done with the secrets, and everything that goes wrong meanwhile.

use alipay_sidecar::simulator::{
    DEFAULT_APP_ID, DEFAULT_USER_ID, Event, FIRST_AUTH_APP_ID, Fault, FaultKind,
    SECOND_AUTH_APP_ID, TriggerOptions,
};
use http::Request;

use super::world::{ADMIN_TOKEN, CALLER_TOKEN, World};
use crate::support::json;

const BODY: &str = r#"{"out_trade_no":"canary-order-1"}"#;
const QUERY: &str = "/v2/alipay.trade.query";
pub const TOKENS: &[&str] = &["app_auth_token", "app_refresh_token"];
const USERS: &[&str] = &["user access token", "user refresh token"];

fn post(path: &str) -> http::request::Builder {
    Request::post(path).header("content-type", "application/json")
}

impl World {
    async fn proxy(&mut self, path: &str, merchant: &str, body: &str, but: &[&'static str]) {
        let address = self.supervisor.proxy.clone();
        let request = post(path).header("alipay-merchant", merchant);
        self.ask(&address, request, body.to_owned(), but).await;
    }

    async fn hook(&mut self, request: http::request::Builder, body: &str, but: &[&'static str]) {
        let address = self.supervisor.webhook.clone();
        self.ask(&address, request, body.to_owned(), but).await;
    }

    /// The current token of the first merchant.
    fn token(&self) -> String {
        let state = self.supervisor.simulator.state();
        let grants = state["grants"].as_array().cloned().unwrap_or_default();
        let first = grants
            .iter()
            .rfind(|grant| grant["auth_app_id"] == FIRST_AUTH_APP_ID);
        let token = first.and_then(|grant| grant["app_auth_token"].as_str());
        token.expect("a token").to_owned()
    }

    pub fn app_code(&mut self) -> String {
        let simulator = &self.supervisor.simulator;
        let code = simulator.app_auth_code(None, &[FIRST_AUTH_APP_ID]);
        let code = code.expect("a merchant");
        self.secrets.add("app_auth_code", code.as_bytes());
        code
    }

    fn user_code(&mut self) -> String {
        let code = self.supervisor.simulator.auth_code(None, None);
        let code = code.expect("a user");
        self.secrets.add("auth_code", code.as_bytes());
        code
    }

    /// A secret that somebody gives where it is of no use.
    pub fn mistyped(&mut self, where_to: &str) -> String {
        let secret = format!("mistyped-canary-{where_to}-5f0c");
        self.secrets.add("mistyped secret", secret.as_bytes());
        secret
    }
}

pub async fn prepare(world: &mut World) {
    let done = world
        .verb(&["merchant", "import", "merchants.jsonl"], "")
        .await;
    assert_eq!(done, Some(0));
    let create = "/v2/alipay.trade.create";
    world.proxy(create, FIRST_AUTH_APP_ID, BODY, &[]).await;
}

pub async fn calls(world: &mut World) {
    for merchant in [FIRST_AUTH_APP_ID, SECOND_AUTH_APP_ID] {
        world.proxy(QUERY, merchant, BODY, &[]).await;
        let v3 = "/v3/alipay/trade/query";
        world.proxy(v3, merchant, BODY, &[]).await;
        for page in ["order-string", "page-url", "page-form"] {
            let path = format!("/v2/alipay.trade.app.pay/{page}");
            world.proxy(&path, merchant, BODY, TOKENS).await;
        }
    }
    // As an SDK tags: by the token itself.
    let token = world.token();
    let address = world.supervisor.proxy.clone();
    let target = format!(
        "/gateway.do?method=alipay.trade.query&app_id={DEFAULT_APP_ID}&charset=utf-8&app_auth_token={token}"
    );
    let form = Request::post(&target).header("content-type", "application/x-www-form-urlencoded");
    let body = "biz_content=%7B%22out_trade_no%22%3A%22canary-order-1%22%7D";
    world.ask(&address, form, body, &[]).await;
    let v3 = post("/v3/alipay/trade/query").header("alipay-app-auth-token", &token);
    world.ask(&address, v3, BODY, &[]).await;
    // Tokens are bought through the proxy, and passed on to whoever bought them.
    let code = world.app_code();
    let grant = format!(r#"{{"grant_type":"authorization_code","code":"{code}"}}"#);
    let exchange = "/v2/alipay.open.auth.token.app";
    world.proxy(exchange, "self", &grant, TOKENS).await;
    world.proxy(exchange, "self", &grant, &[]).await;
    let upload = format!(
        "--b\r\nContent-Disposition: form-data; name=\"image_content\"; filename=\"a.png\"\r\n\
         Content-Type: image/png\r\n\r\n{}\r\n--b--\r\n",
        "x".repeat(600_000)
    );
    let image = Request::post("/v2/alipay.merchant.item.file.upload")
        .header("alipay-merchant", FIRST_AUTH_APP_ID)
        .header("content-type", "multipart/form-data; boundary=b");
    world.ask(&address, image, upload, &[]).await;
}

pub async fn refused(world: &mut World) {
    let address = world.supervisor.proxy.clone();
    let mistyped = world.mistyped("token");
    let tagged = post(&format!("{QUERY}?app_auth_token={mistyped}"));
    world.ask(&address, tagged, BODY, &[]).await;
    let tagged = post(&format!(
        "/gateway.do?method=alipay.trade.query&app_auth_token={mistyped}"
    ));
    world.ask(&address, tagged, "", &[]).await;
    let twice = format!("/gateway.do?app_auth_token={mistyped}&app_auth_token={mistyped}");
    world.ask(&address, post(&twice), "", &[]).await;
    let tagged = post("/v3/alipay/trade/query").header("alipay-app-auth-token", &mistyped);
    world.ask(&address, tagged, BODY, &[]).await;
    // Nearly a caller's own, too.
    for token in [&mistyped, &format!("{CALLER_TOKEN}0")] {
        let bearer = post(QUERY).header("authorization", format!("Bearer {token}"));
        world.ask(&address, bearer, BODY, &[]).await;
    }
    let reserved = post(&format!("{QUERY}?sign={mistyped}"));
    world.ask(&address, reserved, BODY, &[]).await;
    for body in [
        format!(r#"{{"app_auth_token":"{mistyped}""#),
        format!(r#"["{mistyped}"]"#),
        mistyped.clone(),
    ] {
        world.proxy(QUERY, FIRST_AUTH_APP_ID, &body, &[]).await;
    }
    let form =
        Request::post("/gateway.do").header("content-type", "application/x-www-form-urlencoded");
    let bad = format!("method=alipay.trade.query&app_auth_token={mistyped}%&charset=utf-8");
    world.ask(&address, form, bad, &[]).await;
    let browser = post(QUERY)
        .header("origin", "http://evil.example")
        .header("authorization", "Bearer guessed")
        .header("cookie", &mistyped);
    world.ask(&address, browser, BODY, &[]).await;
    world
        .proxy("/v2/no%20such%20method", FIRST_AUTH_APP_ID, BODY, &[])
        .await;
    let admin = world.supervisor.admin.clone();
    for path in ["/api/merchants", "/metrics", "/api/nowhere"] {
        let bearer = Request::get(path).header("authorization", format!("Bearer {mistyped}"));
        world.ask(&admin, bearer, "", &[]).await;
    }
}

pub async fn faults(world: &mut World) {
    for (_, kind) in FaultKind::ALL {
        let late = std::time::Duration::from_millis(300);
        world.supervisor.simulator.clear_faults();
        world
            .supervisor
            .simulator
            .fault(Fault::once(kind).delay(late));
        let address = world.supervisor.proxy.clone();
        let request = post(QUERY)
            .header("alipay-merchant", FIRST_AUTH_APP_ID)
            .header("alipay-timeout", "250ms");
        // Alipay itself quotes what was signed, and its replies go on as they come.
        let but = match kind {
            FaultKind::InvalidSignature => TOKENS,
            _ => &[],
        };
        world.ask(&address, request, BODY, but).await;
    }
    world.supervisor.simulator.clear_faults();
    // A refresh, and one whose reply is bad.
    let simulator = &world.supervisor.simulator;
    simulator
        .time_out_tokens(None, Some(FIRST_AUTH_APP_ID))
        .expect("a merchant");
    world.proxy(QUERY, FIRST_AUTH_APP_ID, BODY, &[]).await;
    for kind in [
        FaultKind::Tampered,
        FaultKind::Unsigned,
        FaultKind::DuplicateNode,
    ] {
        let fault = Fault::once(kind).on("alipay.open.auth.token.app");
        world.supervisor.simulator.fault(fault);
        let code = world.app_code();
        let grant = format!(r#"{{"grant_type":"authorization_code","code":"{code}"}}"#);
        let exchange = "/v2/alipay.open.auth.token.app";
        world.proxy(exchange, "self", &grant, &[]).await;
    }
    world.supervisor.simulator.clear_faults();
}

pub async fn users(world: &mut World) {
    let code = world.user_code();
    let login = "/v2/alipay.system.oauth.token";
    let path = format!("{login}?grant_type=authorization_code&code={code}");
    let address = world.supervisor.proxy.clone();
    let request = post(&path).header("alipay-merchant", FIRST_AUTH_APP_ID);
    let but = [USERS, TOKENS].concat();
    let reply = world.ask(&address, request, "", &but).await;
    let told = json(&reply);
    for (name, member) in [
        ("user access token", "access_token"),
        ("user refresh token", "refresh_token"),
    ] {
        let token = told[member].as_str().expect("a token").to_owned();
        world.secrets.add(name, token.as_bytes());
        let request = post(&format!("/v2/alipay.user.info.share?auth_token={token}"))
            .header("alipay-merchant", FIRST_AUTH_APP_ID);
        world.ask(&address, request, "", &[]).await;
    }
    let share = || {
        post("/v2/alipay.user.info.share")
            .header("alipay-merchant", FIRST_AUTH_APP_ID)
            .header("alipay-user", DEFAULT_USER_ID)
    };
    world.ask(&address, share(), "", &[]).await;
    world.supervisor.simulator.time_out_user_tokens();
    world.ask(&address, share(), "", &[]).await;
    let used = format!("{login}?grant_type=authorization_code&code={code}");
    let request = post(&used).header("alipay-merchant", FIRST_AUTH_APP_ID);
    world.ask(&address, request, "", &but).await;
}

pub async fn webhook(world: &mut World) {
    for (_, event) in Event::ALL {
        if matches!(event, Event::Cancel | Event::Refund) {
            continue;
        }
        for encrypted in [false, true] {
            let options = TriggerOptions {
                wait: true,
                attempts: Some(1),
                encrypted,
                ..TriggerOptions::default()
            };
            // Some have nothing that could be encrypted.
            let sent = world.supervisor.simulator.trigger(event, &options).await;
            assert!(sent.is_ok() || encrypted, "{event:?}: {sent:?}");
        }
    }
    // The same push, changed on its way.
    let pushed = world.supervisor.simulator.notifications();
    let push = pushed
        .iter()
        .rfind(|sent| sent.body.contains("open_app_auth_notify"));
    let body = push.expect("a push").body.clone();
    let forged = body.replacen("sign=", "sign=AAAA", 1);
    for body in [forged.as_str(), "app_id=%", &body[..body.len() / 2]] {
        let request = Request::post("/alipay/gateway").header(
            "content-type",
            "application/x-www-form-urlencoded;charset=utf-8",
        );
        world.hook(request, body, &[]).await;
    }
    callbacks(world).await;
}

async fn callbacks(world: &mut World) {
    let callback = |code: &str, more: &str| {
        Request::get(format!(
            "/alipay/auth?app_id={DEFAULT_APP_ID}&source=alipay_app_auth&app_auth_code={code}{more}"
        ))
    };
    let code = world.app_code();
    world.hook(callback(&code, ""), "", &[]).await;
    world.hook(callback(&code, "&state=wrong"), "", &[]).await;
    world
        .supervisor
        .simulator
        .fault(Fault::once(FaultKind::Html));
    let code = world.app_code();
    world.hook(callback(&code, ""), "", &[]).await;
    let mistyped = world.mistyped("code");
    world.hook(callback(&mistyped, ""), "", &[]).await;
    // A user's code goes on to where it is configured to go.
    let code = world.user_code();
    let path = format!("/alipay/auth?app_id={DEFAULT_APP_ID}&auth_code={code}&scope=auth_user");
    world.hook(Request::get(path), "", &["auth_code"]).await;
}

pub async fn operator(world: &mut World) {
    for path in [
        "/livez",
        "/readyz",
        "/metrics",
        "/api/apps",
        "/api/config",
        "/api/merchants",
        "/api/inbox?limit=100",
        "/api/inbox?state=refused",
        "/api/openapi.json",
        "/api/store",
    ] {
        world.admin("GET", path, "").await;
    }
    let inbox = world.admin("GET", "/api/inbox?limit=100", "").await;
    let items = json(&inbox)["items"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    assert!(items.len() > 3);
    for item in items {
        let id = item["id"].as_str().expect("an id").to_owned();
        for more in ["", "?explain=true"] {
            world
                .admin("GET", &format!("/api/inbox/{id}{more}"), "")
                .await;
        }
    }
    let first = format!("/api/merchants/{DEFAULT_APP_ID}/{FIRST_AUTH_APP_ID}");
    for path in ["", "/token"] {
        world.admin("GET", &format!("{first}{path}"), "").await;
    }
    for path in ["/verify", "/refresh"] {
        world.admin("POST", &format!("{first}{path}"), "").await;
    }
    let mistyped = world.mistyped("admin");
    for body in [
        format!(r#"{{"app_auth_token":"{mistyped}","nonsense":"{mistyped}"}}"#),
        format!(r#"{{"app_auth_token":"{mistyped}","encrypt_key":"{mistyped}"}}"#),
        format!(r#"{{"app_auth_token":["{mistyped}"]}}"#),
        format!(r#"{{"app_auth_token":"{mistyped}"#),
    ] {
        world.admin("PUT", &first, body).await;
    }
    let app = format!("/api/apps/{DEFAULT_APP_ID}");
    let body = format!(r#"{{"private_key":"{mistyped}","alipay_public_key":"{mistyped}"}}"#);
    world.admin("PUT", &app, body).await;
    let body = format!(r#"{{"code":"{mistyped}"}}"#);
    world.admin("POST", &format!("{app}/exchange"), body).await;
}

pub async fn wrong_configuration(world: &mut World) {
    let mistyped = world.mistyped("configuration");
    let path = world.supervisor.path().join("wrong.toml");
    for text in [
        format!("[admin]\ntoken = \"{mistyped}\"\n"),
        format!("[admin]\ntoken = {mistyped}\n"),
        format!("[admin]\ntoken = \"{ADMIN_TOKEN}\"\n"),
        format!("[delivery]\nsigning_secret = \"{mistyped}\"\n"),
        "[delivery]\nsigning_secret = \"env:CANARY_ADMIN_TOKEN\"\n".to_owned(),
        "[store]\nkey = \"env:CANARY_ADMIN_TOKEN\"\n".to_owned(),
        "[[app]]\napp_id = \"1\"\nprivate_key = \"env:CANARY_ADMIN_TOKEN\"\nencrypt_key = \"env:CANARY_ADMIN_TOKEN\"\n".to_owned(),
    ] {
        std::fs::write(&path, text).expect("written");
        for verb in ["check", "run"] {
            let code = world.verb(&["-c", "wrong.toml", verb], "").await;
            assert_eq!(code, Some(78), "{verb}");
        }
    }
}
