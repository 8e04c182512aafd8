//! What is old, removed when an operator asks for it.

use std::sync::Arc;

use alipay_sidecar::clock::ManualClock;
use alipay_sidecar::config::Config;
use alipay_sidecar::model::delivery::Settlement;
use alipay_sidecar::sidecar::SidecarBuilder;
use alipay_sidecar::store::Change;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};

use crate::store::{DAY, START, attempt, entry};
use crate::support::{TestSidecar, json as parsed, text};

/// Three that were delivered, one that is owed.
async fn received(sidecar: &TestSidecar) {
    let mut changes = Vec::new();
    for n in 0..4 {
        let entry = entry(START, Some(&format!("n{n}")));
        let id = entry.id;
        changes.push(Change::Receive(Box::new(entry)));
        if n < 3 {
            changes.push(Change::Settle {
                id,
                attempt: attempt(START),
                owed_since: None,
                settlement: Settlement::Delivered,
            });
        }
    }
    let store = sidecar.sidecar.store();
    store.commit(changes).await.expect("stored");
}

async fn prune(sidecar: &TestSidecar, body: Value) -> Value {
    let body = match body {
        Value::Null => String::new(),
        body => body.to_string(),
    };
    let path = "/api/inbox/prune";
    let reply = sidecar.admin(Method::POST, path, body).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", text(&reply));
    parsed(&reply)
}

fn removed(deliveries: u64, refused: u64, notify_ids: u64) -> Value {
    json!({
        "deliveries": deliveries, "refused": refused, "notify_ids": notify_ids,
        "calls": 0, "users": 0, "memos": 0,
    })
}

#[tokio::test]
async fn what_is_old_goes_at_once_and_what_is_owed_or_remembered_stays() {
    let clock = Arc::new(ManualClock::new(START));
    let told = Arc::clone(&clock);
    let build = |_: &Config, builder: SidecarBuilder| builder.clock(told);
    let change = |config: &mut Config| config.delivery.url = None;
    let sidecar = TestSidecar::start_built(change, build).await;
    received(&sidecar).await;
    let forged = Request::post("/alipay/gateway")
        .header("content-type", "application/x-www-form-urlencoded");
    sidecar.webhook(forged, "app_id=1&sign=x").await;
    let refused = "alipay_sidecar_inbox_refused";
    sidecar.wait_for_metric(refused, 1.0).await;

    clock.advance_ms(2 * DAY);
    let nothing = removed(0, 0, 0);
    assert_eq!(prune(&sidecar, Value::Null).await, nothing);
    assert_eq!(prune(&sidecar, json!({"older_than": "3d"})).await, nothing);
    // Their notify_ids stay: a resend is no new notification.
    let older = json!({"older_than": "1d"});
    assert_eq!(prune(&sidecar, older.clone()).await, removed(3, 0, 0));
    assert_eq!(prune(&sidecar, older).await, nothing);
    let resent = Change::Receive(Box::new(entry(START + 2 * DAY, Some("n0"))));
    let effects = sidecar.sidecar.store().commit(vec![resent]).await;
    let effects = format!("{:?}", effects.expect("no new one"));
    assert!(effects.contains("Duplicate"), "{effects}");

    clock.advance_ms(6 * DAY);
    assert_eq!(prune(&sidecar, json!({})).await, removed(0, 1, 0));
    clock.advance_ms(2 * DAY);
    assert_eq!(prune(&sidecar, json!({})).await, removed(0, 0, 4));
    let pending = "/api/inbox?state=pending";
    let left = parsed(&sidecar.admin(Method::GET, pending, "").await);
    assert_eq!(left["items"].as_array().expect("a list").len(), 1);
}

#[tokio::test]
async fn what_is_asked_wrongly_removes_nothing() {
    let sidecar = TestSidecar::start().await;
    for (method, body, status) in [
        (Method::GET, "", 405),
        (Method::DELETE, "", 405),
        (Method::POST, r#"{"older_than":"soon"}"#, 400),
        (Method::POST, r#"{"older-than":"3d"}"#, 400),
        (Method::POST, "3d", 400),
    ] {
        let reply = sidecar.admin(method, "/api/inbox/prune", body).await;
        assert_eq!(reply.status, status, "{body}: {}", text(&reply));
    }
}

#[cfg(feature = "cli")]
mod program {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use crate::cli_live::World;

    /// Asks the proxy of the world's sidecar; gives the answer's body.
    fn ask(world: &World, path: &str, body: &str) -> String {
        let socket = world.path().join("proxy.sock");
        let mut stream = UnixStream::connect(socket).expect("accepted");
        let length = body.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).expect("written");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        assert!(answer.starts_with("HTTP/1.1 20"), "{answer}");
        let (_, body) = answer.split_once("\r\n\r\n").expect("a head");
        body.to_owned()
    }

    /// Takes one notification and says that it is done.
    fn take_one(world: &World) {
        let simulator = ["trigger", "order-message", "--simulator", &world.simulator];
        world.check(&simulator, 0, &[]);
        let claimed: serde_json::Value =
            serde_json::from_str(&ask(world, "/events/claim", "{}")).expect("JSON");
        let id = claimed["items"][0]["id"].as_str().expect("an id");
        ask(world, &format!("/events/{id}/ack"), "");
    }

    fn deliveries(world: &World, older_than: &str) -> serde_json::Value {
        let verb = ["inbox", "prune", "--older-than", older_than, "--json"];
        let said = world.check(&verb, 0, &[]);
        let removed: serde_json::Value = serde_json::from_str(&said).expect("JSON");
        assert_eq!(removed["notify_ids"], 0, "{said}");
        removed["deliveries"].clone()
    }

    #[test]
    fn the_verb_prunes_by_a_sidecar_that_runs_and_without_one() {
        let world = World::start();
        let (sidecar, _) = world.run();
        take_one(&world);
        world.check(&["inbox", "prune"], 0, &["       0 deliveries that ended"]);
        assert_eq!(deliveries(&world, "1d"), 0);
        assert_eq!(deliveries(&world, "0s"), 1);
        take_one(&world);
        assert_eq!(sidecar.terminate(), Some(0));
        world.check(&["inbox", "prune"], 0, &["       0 deliveries that ended"]);
        assert_eq!(deliveries(&world, "1d"), 0);
        assert_eq!(deliveries(&world, "0s"), 1);
        assert_eq!(deliveries(&world, "0s"), 0);
        let wrong = ["inbox", "prune", "--older-than", "3"];
        world.check(&wrong, 2, &["a duration such as"]);
    }
}
