//! `check --online`, and what of the API it asks: an app as Alipay sees it, and the public address
//! as it comes in behind an ingress.

use std::sync::{Arc, OnceLock};

use alipay_sidecar::config::listen::Listen;
use alipay_sidecar::net::body::RequestBody;
use alipay_sidecar::net::listener::Listener;
use alipay_sidecar::net::serve::serve;
use alipay_sidecar::net::shutdown::{Shutdown, ShutdownTrigger};
use alipay_sidecar::simulator::{DEFAULT_APP_ID, Fault, FaultKind};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full};
use serde_json::Value;

use crate::support::{PATIENCE, TestSidecar, client, json};

const APP: &str = "/api/apps/2021000000000001/check";

/// What an ingress does to what passes.
type Change = fn(&mut Request<Bytes>);

/// A server that passes what it gets on to `webhook`, changed.
async fn ingress(change: Change) -> (String, Arc<OnceLock<String>>, ShutdownTrigger) {
    let listener = Listener::bind(&Listen::Tcp("127.0.0.1:0".to_owned())).await;
    let listener = listener.expect("a port");
    let url = format!("http://{}", listener.address());
    let webhook: Arc<OnceLock<String>> = Arc::default();
    let behind = Arc::clone(&webhook);
    let handle = move |request: Request<RequestBody>| {
        let behind = Arc::clone(&behind);
        async move { pass(request, behind.get().expect("known"), change).await }
    };
    let (trigger, shutdown) = Shutdown::new();
    tokio::spawn(serve(listener, None, handle, shutdown));
    (url, webhook, trigger)
}

async fn pass(
    request: Request<RequestBody>,
    webhook: &str,
    change: Change,
) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    let mut request = Request::from_parts(head, body);
    request.headers_mut().remove(header::HOST);
    request.headers_mut().remove(header::CONTENT_LENGTH);
    change(&mut request);
    if request.method() == Method::OPTIONS {
        // How a change here says that the ingress answers by itself.
        let mut answer = Response::new(Full::default());
        *answer.status_mut() = StatusCode::MOVED_PERMANENTLY;
        return answer;
    }
    let target = request
        .uri()
        .path_and_query()
        .expect("a target")
        .to_string();
    *request.uri_mut() = format!("{webhook}{target}").parse().expect("a URL");
    let reply = client()
        .send(request.map(Full::new), PATIENCE)
        .await
        .expect("answered");
    let mut answer = Response::new(Full::new(reply.body));
    *answer.status_mut() = reply.status;
    answer
}

/// What the sidecar says of its address behind an ingress that changes what passes.
async fn look(change: Change) -> Vec<Value> {
    let (url, webhook, _ingress) = ingress(change).await;
    let sidecar = TestSidecar::start_with(|config| config.webhook.public_url = Some(url)).await;
    webhook.set(sidecar.webhook.clone()).expect("once");
    let reply = sidecar.admin(Method::POST, "/api/webhook/check", "").await;
    assert_eq!(reply.status, StatusCode::OK);
    let accepted = "alipay_sidecar_notifications_total{kind=\"other\",outcome=\"malformed\"}";
    assert!(
        sidecar.metric(accepted).await < 1.0,
        "none of it is a notification"
    );
    json(&reply)["items"].as_array().expect("items").clone()
}

fn verdicts(views: &[Value]) -> Vec<&str> {
    let verdicts = views.iter().map(|view| view["verdict"].as_str());
    verdicts
        .map(|verdict| verdict.expect("a verdict"))
        .collect()
}

fn set_target(request: &mut Request<Bytes>, change: impl FnOnce(&str) -> String) {
    let target = request.uri().to_string();
    *request.uri_mut() = change(&target).parse::<Uri>().expect("a target");
}

#[tokio::test]
async fn an_ingress_that_changes_nothing_is_found_good() {
    let views = look(|_| ()).await;
    assert_eq!(verdicts(&views), ["unchanged"; 3], "{views:?}");
}

#[tokio::test]
async fn what_an_ingress_changes_is_named() {
    let views = look(|request| set_target(request, |target| target.replace("%20", "+"))).await;
    assert_eq!(verdicts(&views), ["unchanged", "changed", "unchanged"]);
    let fault = views[1]["faults"][0].as_str().expect("a fault");
    assert!(
        fault.contains("arrived `/alipay/notify/own+address/"),
        "{fault}"
    );

    let views = look(|request| {
        set_target(request, |target| {
            target.split('?').next().unwrap_or_default().to_owned()
        });
    })
    .await;
    assert_eq!(verdicts(&views), ["unchanged", "changed", "changed"]);

    let views = look(|request| {
        let body = String::from_utf8_lossy(request.body()).replace("%20", "+");
        *request.body_mut() = body.into();
    })
    .await;
    assert_eq!(verdicts(&views), ["changed", "changed", "unchanged"]);
    let fault = views[0]["faults"][0].as_str().expect("a fault");
    assert!(
        fault.starts_with("the body was changed at byte 9"),
        "{fault}"
    );
}

#[tokio::test]
async fn another_server_at_the_address_is_told_apart() {
    let views = look(|request| *request.method_mut() = Method::OPTIONS).await;
    assert_eq!(verdicts(&views), ["elsewhere"; 3]);
    let fault = views[0]["faults"][0].as_str().expect("a fault");
    assert!(
        fault.contains("301") && fault.contains("redirect"),
        "{fault}"
    );
    // An ingress that drops headers it doesn't know, too: what comes in is a stranger's then.
    let views = look(|request| {
        request.headers_mut().remove("alipay-sidecar-own-address");
        *request.uri_mut() = "/nowhere".parse().expect("a target");
    })
    .await;
    assert_eq!(verdicts(&views), ["elsewhere"; 3]);
}

#[tokio::test]
async fn an_address_that_nobody_listens_at_is_unreachable() {
    let sidecar = TestSidecar::start_with(|config| {
        config.webhook.public_url = Some("http://127.0.0.1:9".to_owned());
    })
    .await;
    let reply = sidecar.admin(Method::POST, "/api/webhook/check", "").await;
    let views = json(&reply)["items"].as_array().expect("items").clone();
    assert_eq!(verdicts(&views), ["unreachable"; 3]);
}

#[tokio::test]
async fn an_app_is_good_refused_or_beyond_reach() {
    let sidecar = TestSidecar::start().await;
    let good = json(&sidecar.admin(Method::POST, APP, "").await);
    assert_eq!(good["verdict"], "good", "{good}");
    assert_eq!(good["app_id"], DEFAULT_APP_ID);
    let ahead = good["clock_ahead_s"].as_i64().expect("a number");
    assert!(ahead.abs() <= 5, "{ahead}");
    let arrived = sidecar.simulator.requests();
    let methods: Vec<_> = arrived.iter().map(|r| r.method.as_str()).collect();
    let v3 = "/v3/alipay/open/auth/token/app/query";
    assert_eq!(methods, ["alipay.open.auth.token.app.query", v3]);
    assert_eq!(good["v3"]["verdict"], "good", "{good}");

    sidecar
        .simulator
        .fault(Fault::once(FaultKind::InvalidSignature));
    let refused = json(&sidecar.admin(Method::POST, APP, "").await);
    assert_eq!(refused["verdict"], "refused", "{refused}");
    assert_eq!(refused["error"], "isv.invalid-signature");

    sidecar
        .simulator
        .fault(Fault::once(FaultKind::TamperedSign));
    let failed = json(&sidecar.admin(Method::POST, APP, "").await);
    assert_eq!(failed["verdict"], "failed", "{failed}");
    assert_eq!(failed["error"], "response-signature-invalid");

    let unknown = sidecar
        .admin(Method::POST, "/api/apps/2021000000009999/check", "")
        .await;
    assert_eq!(unknown.status, StatusCode::BAD_REQUEST);
    assert_eq!(json(&unknown)["code"], "app-unknown");
}

#[cfg(feature = "cli")]
#[test]
fn the_command_says_what_is_good_and_fails_by_what_is_not() {
    use crate::cli_live::World;

    let address = format!("127.0.0.1:{}", crate::support::free_port());
    let world = World::start();
    world.edit("http://127.0.0.1:2089", &format!("http://{address}"));
    world.edit(
        "[webhook]\nlisten = \"127.0.0.1:0\"",
        &format!("[webhook]\nlisten = \"{address}\""),
    );
    world.check(&["store", "create"], 0, &[]);
    world.check(&["merchant", "import", "merchants.jsonl"], 0, &[]);
    let good = ["Alipay takes its key", "the tokens of 2 hold"];
    let alone = world.check(&["check", "--online"], 0, &good);
    assert!(alone.contains("no sidecar is running"), "{alone}");
    let (sidecar, _) = world.run();
    let beside = world.check(&["check", "--online"], 0, &good);
    assert_eq!(beside.matches("comes in unchanged").count(), 3, "{beside}");
    let body = r#"{"auth_app_id":"2021000000001001"}"#.to_owned();
    world.control("revoke", body);
    let refused = ["merchant 2021000000000001/2021000000001001: invalid"];
    world.check(&["check", "--online"], 1, &refused);
    let said = world.output(&["check", "--online", "--json"]);
    assert_eq!(said.status.code(), Some(1));
    let said: Value = serde_json::from_slice(&said.stdout).expect("JSON");
    assert_eq!(said["faults"].as_array().map(Vec::len), Some(1), "{said}");
    assert_eq!(said["online"]["apps"][0]["verdict"], "good");
    // What was only looked at is as it was.
    world.check(
        &["merchant", "show", "2021000000001001"],
        0,
        &["authorized"],
    );
    assert_eq!(sidecar.terminate(), Some(0));
}

/// The file is judged by itself; of Alipay a sidecar that runs with another isn't asked.
#[cfg(feature = "cli")]
#[test]
fn a_sidecar_that_runs_with_another_file_is_told_apart() {
    use crate::cli_live::World;

    let world = World::start();
    world.edit("public_url = \"http://127.0.0.1:2089\"", "");
    let (sidecar, _) = world.run();
    world.check(&["check", "--online"], 0, &["Alipay takes its key"]);
    let key = world.path().join("keys/app_private_key.pem");
    let former = std::fs::read(&key).expect("read");
    world.check(&["init", "--dir", "other"], 0, &[]);
    let other = world.path().join("other/keys/app_private_key.pem");
    std::fs::copy(other, &key).expect("copied");
    let differs = [
        "config.toml is good (",
        "what runs isn't this file: a secret",
    ];
    world.check(&["check"], 0, &differs);
    let said = world.check(&["check", "--online"], 1, &differs);
    let cured = said.contains("reload (SIGHUP or POST /api/reload)");
    assert!(cured && said.contains("nothing was asked"), "{said}");
    std::fs::write(&key, former).expect("written");
    world.check(&["check", "--online"], 0, &["Alipay takes its key"]);

    world.edit("[proxy]", "[proxy]\nmax_in_flight = 7");
    let named = ["`proxy.max_in_flight` is another; reload"];
    world.check(&["check", "--online"], 1, &named);
    world.edit("\"unix:admin.sock\"", "\"unix:elsewhere.sock\"");
    let unseen = [
        "config.toml is good (",
        "the store wasn't looked at",
        "elsewhere.sock (`admin.listen`): nobody listens there",
    ];
    world.check(&["check"], 1, &unseen);
    let said = world.output(&["check", "--json"]);
    let said: Value = serde_json::from_slice(&said.stdout).expect("JSON");
    assert_eq!(said["faults"].as_array().map(Vec::len), Some(1), "{said}");
    world.edit("\"unix:elsewhere.sock\"", "\"unix:admin.sock\"");
    assert_eq!(sidecar.terminate(), Some(0));
}

/// Sockets that a supervisor hands over win over `listen`, by variables that only the sidecar has.
#[cfg(feature = "cli")]
#[test]
fn an_address_that_was_handed_over_makes_no_other_file() {
    use std::process::Command;

    use crate::cli_live::World;

    let world = World::start();
    world.edit("public_url = \"http://127.0.0.1:2089\"", "");
    let mut sidecar = Command::new(env!("CARGO_BIN_EXE_alipay-sidecar"))
        .args(["run", "--create-store"])
        .current_dir(world.path())
        .env_clear()
        .env("ALIPAY_SIDECAR_PROXY__LISTEN", "unix:handed.sock")
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("started");
    let waited = world.output(&["health", "--wait", "20s"]);
    let looked = world.output(&["check", "--online"]);
    sidecar.kill().expect("killed");
    sidecar.wait().expect("waited for");
    assert_eq!(waited.status.code(), Some(0));
    let said = String::from_utf8_lossy(&looked.stderr);
    assert_eq!(looked.status.code(), Some(0), "{said}");
    assert!(!said.contains("what runs isn't this file"), "{said}");
}
