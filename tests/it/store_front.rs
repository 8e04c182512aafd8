//! What calls and notifications see of a store that is damaged, or whose disk is full.

use alipay_sidecar::config::Config;
use alipay_sidecar::config::caller::CallerConfig;
use alipay_sidecar::model::authorization::Authorization;
use alipay_sidecar::model::id::{AppId, EventId};
use alipay_sidecar::simulator::{
    DEFAULT_APP_ID, Event, FIRST_AUTH_APP_ID, FIRST_PID, TriggerOptions,
};
use http::{Method, Request};
use redb::{Database, Key, TableDefinition, WriteTransaction};
use serde_json::{Value, json};

use crate::store::START;
use crate::support::brittle::BrittleStore;
use crate::support::callers::{bearer, for_merchants, with_token};
use crate::support::{ALIAS, TestSidecar, add_merchant, app, json as parsed, merchant, text};

const CALL: &str = "/v2/alipay.trade.query";
const OTHER: &str = "2021000000009998";
const SECOND_APP_ID: &str = "2021000000000002";

type Bytes = &'static [u8];
type Id = &'static [u8; 16];

/// Writes a merchant that nobody can open, the other of [`FIRST_PID`].
fn damage_merchant(tx: &WriteTransaction, app_id: &str, garbage: &[u8]) {
    let merchants: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("merchants");
    let by_id: TableDefinition<'_, Bytes, ()> = TableDefinition::new("by_auth_app_id");
    let by_pid: TableDefinition<'_, Bytes, ()> = TableDefinition::new("by_pid");
    let key = [app_id, OTHER].join("\0");
    put(tx, merchants, key.as_bytes(), garbage);
    put(tx, by_id, [OTHER, app_id].join("\0").as_bytes(), ());
    put(tx, by_pid, [FIRST_PID, &key].join("\0").as_bytes(), ());
}

/// A sidecar of two apps, with such a merchant in one of them.
async fn with_other_of(app_id: &'static str, callers: Vec<CallerConfig>) -> TestSidecar {
    TestSidecar::start_built(
        |config| {
            config.apps.push(app(SECOND_APP_ID));
            config.callers = callers;
        },
        move |config, builder| {
            let db = Database::open(&config.store.path).expect("opened");
            let tx = db.begin_write().expect("transaction");
            damage_merchant(&tx, app_id, &[&[1][..], &[7; 100]].concat());
            tx.commit().expect("committed");
            builder
        },
    )
    .await
}

/// Calls for the merchant of [`FIRST_PID`].
async fn call(sidecar: &TestSidecar, path: &str, headers: &[(&str, &str)]) -> (u16, Value) {
    let request = Request::builder().method(Method::POST).uri(path);
    let request = request.header("alipay-merchant", FIRST_PID);
    let request = headers.iter().fold(request, |request, (name, value)| {
        request.header(*name, *value)
    });
    let reply = sidecar.proxy(request, r#"{"out_trade_no":"1"}"#).await;
    (reply.status.as_u16(), parsed(&reply))
}

/// Alipay's message that the merchant of [`FIRST_PID`] has cancelled, and no more of who that is;
/// gives its event's type.
async fn cancel(sidecar: &TestSidecar) -> String {
    let about = format!(r#"{{"user_id":"{FIRST_PID}","auth_time":{START}}}"#);
    let mut options = TriggerOptions {
        app_id: Some(DEFAULT_APP_ID.to_owned()),
        ..TriggerOptions::default()
    };
    options.params.insert("biz_content".to_owned(), about);
    let nobody = String::new();
    options.params.insert("auth_app_id".to_owned(), nobody);
    let sent = sidecar.simulator.trigger(Event::Cancel, &options).await;
    sent.expect("sent");
    let delivered = sidecar.backend.next().await;
    delivered.header("alipay-event-type").to_owned()
}

#[tokio::test]
async fn a_damaged_record_of_another_app_stops_neither_calls_nor_cancellations_by_pid() {
    let sidecar = with_other_of(SECOND_APP_ID, Vec::new()).await;
    let (status, said) = call(&sidecar, CALL, &[("alipay-app", DEFAULT_APP_ID)]).await;
    assert_eq!(status, 200, "{said}");
    // Which app is meant nothing tells, as if it were whole.
    let (status, said) = call(&sidecar, CALL, &[]).await;
    assert_eq!((status, &said["code"]), (400, &"app-required".into()));
    let (status, said) = call(&sidecar, CALL, &[("alipay-app", SECOND_APP_ID)]).await;
    assert_eq!((status, &said["code"]), (503, &"store-unavailable".into()));
    assert_eq!(cancel(&sidecar).await, "merchant.revoked");
    let (status, said) = call(&sidecar, CALL, &[("alipay-app", DEFAULT_APP_ID)]).await;
    assert_eq!(status, 403, "{said}");
}

#[tokio::test]
async fn a_damaged_record_beside_another_still_counts_as_one_that_is_named() {
    let sidecar = with_other_of(DEFAULT_APP_ID, Vec::new()).await;
    let (status, said) = call(&sidecar, CALL, &[]).await;
    assert_eq!((status, &said["code"]), (400, &"merchant-ambiguous".into()));
    assert_eq!(said["candidates"], json!([FIRST_AUTH_APP_ID, OTHER]));
    let path = format!("/m/app:{FIRST_AUTH_APP_ID}{CALL}");
    let (status, said) = call(&sidecar, &path, &[]).await;
    assert_eq!(status, 200, "{said}");
    let (status, _) = call(&sidecar, &format!("/m/app:{OTHER}{CALL}"), &[]).await;
    assert_eq!(status, 503);
    let list = format!("/api/merchants?selector={FIRST_PID}");
    let reply = sidecar.admin(Method::GET, &list, "").await;
    let shown = parsed(&reply);
    assert_eq!(shown["items"][0]["auth_app_id"], FIRST_AUTH_APP_ID);
    assert_eq!(
        shown["damaged"],
        json!([format!("{DEFAULT_APP_ID}/{OTHER}")])
    );
    // In the list it stands on one page, though the page before has met it, too.
    let next = merchant("2021000000009999", "2088000000009999", "next", None);
    add_merchant(&*sidecar.sidecar.store(), next).await;
    let of = |page: &Value| (page["items"].clone(), page["damaged"].clone());
    let list = "/api/merchants?limit=1";
    let first = parsed(&sidecar.admin(Method::GET, list, "").await);
    let (items, damaged) = of(&first);
    assert_eq!(items[0]["auth_app_id"], FIRST_AUTH_APP_ID);
    assert_eq!(damaged, Value::Null);
    let list = format!("{list}&after={}", first["next"].as_str().expect("more"));
    let (items, damaged) = of(&parsed(&sidecar.admin(Method::GET, &list, "").await));
    assert_eq!(items[0]["auth_app_id"], "2021000000009999");
    assert_eq!(damaged, json!([format!("{DEFAULT_APP_ID}/{OTHER}")]));
    // Nobody guesses which of the two has cancelled.
    cancel(&sidecar).await;
    let (status, said) = call(&sidecar, &path, &[]).await;
    assert_eq!(status, 200, "{said}");
}

#[tokio::test]
async fn a_damaged_record_tells_no_app_either() {
    let path = "/v2/alipay.open.auth.token.app";
    for (app_id, expected) in [(DEFAULT_APP_ID, 503), (SECOND_APP_ID, 400)] {
        let sidecar = with_other_of(app_id, Vec::new()).await;
        let (status, said) = call(&sidecar, path, &[]).await;
        assert_eq!(status, expected, "{said}");
        let (_, said) = call(&sidecar, path, &[("alipay-app", DEFAULT_APP_ID)]).await;
        assert_eq!(
            said["code"].as_str().map(str::len),
            Some(5),
            "Alipay's: {said}"
        );
    }
}

#[tokio::test]
async fn a_damaged_record_that_a_caller_may_mean_is_never_passed_over_for_another() {
    let auth = bearer("shop");
    let default = ("alipay-app", DEFAULT_APP_ID);
    let second = ("alipay-app", SECOND_APP_ID);
    let named = format!("/m/app:{OTHER}{CALL}");
    let exact = format!("/m/app:{FIRST_AUTH_APP_ID}{CALL}");
    let alias = format!("/m/{ALIAS}{CALL}");
    // Its name is known to be none of the caller's, or may be the one that nobody can read.
    let may_be = [ALIAS, "alias:lost"].as_slice();
    let only = format!("app:{FIRST_AUTH_APP_ID}");
    let is_not = &[only.as_str()][..];
    for (app_id, merchants, path, app, expected) in [
        (DEFAULT_APP_ID, may_be, CALL, None, 503),
        (SECOND_APP_ID, may_be, CALL, None, 503),
        (SECOND_APP_ID, may_be, CALL, Some(second), 503),
        (DEFAULT_APP_ID, may_be, &named, None, 503),
        (DEFAULT_APP_ID, may_be, &exact, None, 200),
        (DEFAULT_APP_ID, may_be, &alias, None, 200),
        (SECOND_APP_ID, may_be, CALL, Some(default), 200),
        (DEFAULT_APP_ID, is_not, CALL, None, 200),
        (DEFAULT_APP_ID, is_not, &named, None, 403),
    ] {
        let caller = for_merchants(with_token("shop"), merchants);
        let sidecar = with_other_of(app_id, vec![caller]).await;
        let headers = [("authorization", &*auth)].into_iter().chain(app);
        let headers: Vec<_> = headers.collect();
        let (status, said) = call(&sidecar, path, &headers).await;
        assert_eq!(status, expected, "{app_id} {merchants:?} {path}: {said}");
        let arrived = sidecar.simulator.requests().len();
        assert_eq!(arrived, usize::from(expected == 200), "{said}");
        assert!(!said.to_string().contains(OTHER), "{said}");
    }
}

#[tokio::test]
async fn a_row_that_does_not_tell_whose_it_is_stops_what_may_mean_it() {
    let caller = |name: &str, merchants: &[&str]| for_merchants(with_token(name), merchants);
    let callers = vec![
        caller("any", &["*"]),
        caller("same", &[&format!("pid:{FIRST_PID}")]),
        caller("other", &["pid:2088000000009998"]),
        caller("none", &[]),
    ];
    let sidecar = TestSidecar::start_built(
        |config| {
            config.apps.push(app(SECOND_APP_ID));
            config.callers = callers;
        },
        |config, builder| {
            let db = Database::open(&config.store.path).expect("opened");
            let tx = db.begin_write().expect("transaction");
            let by_pid: TableDefinition<'_, Bytes, ()> = TableDefinition::new("by_pid");
            put(&tx, by_pid, format!("{FIRST_PID}\0\u{7}").as_bytes(), ());
            tx.commit().expect("committed");
            builder
        },
    )
    .await;
    let other = merchant(OTHER, "2088000000009998", "other", None);
    add_merchant(&*sidecar.sidecar.store(), other).await;
    let exact = format!("/m/app:{FIRST_AUTH_APP_ID}{CALL}");
    let named = format!("/m/app:{OTHER}{CALL}");
    let default = ("alipay-app", DEFAULT_APP_ID);
    let second = ("alipay-app", SECOND_APP_ID);
    // Whoever else is tagged: it may be that one's row.
    for (path, app, expected) in [
        (CALL, None, 503),
        (CALL, Some(default), 503),
        (CALL, Some(second), 503),
        (&named, None, 503),
        (&exact, None, 200),
    ] {
        let auth = bearer("any");
        let headers = [("authorization", &*auth)].into_iter().chain(app);
        let headers: Vec<_> = headers.collect();
        let (status, said) = call(&sidecar, path, &headers).await;
        assert_eq!(status, expected, "{path} {app:?}: {said}");
    }
    assert_eq!(sidecar.simulator.requests().len(), 1);
    // Who couldn't call for whoever has that PID isn't told of the row.
    for (name, expected) in [("same", 503), ("other", 403), ("none", 403)] {
        let auth = bearer(name);
        let (status, said) = call(&sidecar, CALL, &[("authorization", &*auth)]).await;
        assert_eq!(status, expected, "{name}: {said}");
    }
    assert_eq!(sidecar.simulator.requests().len(), 1);
    cancel(&sidecar).await;
    let auth = bearer("any");
    let (status, said) = call(&sidecar, &exact, &[("authorization", &*auth)]).await;
    assert_eq!(status, 200, "nobody guesses who cancelled: {said}");
}

/// A sidecar of these apps beside the first, with a row by which nobody can tell whose merchant has the id of
/// the first's.
async fn with_row_by_id(apps: &'static [&'static str]) -> TestSidecar {
    TestSidecar::start_built(
        |config| config.apps.extend(apps.iter().map(|app_id| app(app_id))),
        |config, builder| {
            let db = Database::open(&config.store.path).expect("opened");
            let tx = db.begin_write().expect("transaction");
            let by_id: TableDefinition<'_, Bytes, ()> = TableDefinition::new("by_auth_app_id");
            let row = format!("{FIRST_AUTH_APP_ID}\0\u{7}");
            put(&tx, by_id, row.as_bytes(), ());
            tx.commit().expect("committed");
            builder
        },
    )
    .await
}

/// Calls for whoever the id is of, with these headers, too.
async fn call_by_id(sidecar: &TestSidecar, headers: &[(&str, &str)]) -> (u16, Value) {
    let path = format!("/m/app:{FIRST_AUTH_APP_ID}{CALL}");
    let request = headers
        .iter()
        .fold(Request::post(path), |request, (name, value)| {
            request.header(*name, *value)
        });
    let reply = sidecar.proxy(request, r#"{"out_trade_no":"1"}"#).await;
    (reply.status.as_u16(), parsed(&reply))
}

#[tokio::test]
async fn where_the_app_is_known_a_record_is_found_by_its_id_whatever_the_index_says() {
    let of_two = with_row_by_id(&[SECOND_APP_ID]).await;
    for (headers, expected) in [
        // The row may be that of the second app's, or of the first's.
        (&[][..], 503),
        (&[("alipay-app", SECOND_APP_ID)], 503),
        (&[("alipay-app", DEFAULT_APP_ID)], 200),
    ] {
        let (status, said) = call_by_id(&of_two, headers).await;
        assert_eq!(status, expected, "{headers:?}: {said}");
    }
    let of_one = with_row_by_id(&[]).await;
    let (status, said) = call_by_id(&of_one, &[]).await;
    assert_eq!(status, 200, "{said}");
}

#[tokio::test]
async fn a_record_of_an_app_that_is_gone_counts_only_where_a_tag_says_so() {
    let sidecar = TestSidecar::start().await;
    let gone = Authorization {
        app_id: AppId::new(SECOND_APP_ID).expect("an id"),
        ..merchant(FIRST_AUTH_APP_ID, FIRST_PID, "of-the-second", Some("gone"))
    };
    add_merchant(&*sidecar.sidecar.store(), gone).await;
    let (status, said) = call_by_id(&sidecar, &[]).await;
    assert_eq!(status, 200, "{said}");
    let (_, said) = call_by_id(&sidecar, &[("alipay-merchant", "gone")]).await;
    assert_eq!(said["code"], "app-unknown", "{said}");
}

/// Writes a merchant and a notification that nobody can open into a new store.
fn damage(config: &Config) {
    let entries: TableDefinition<'_, Id, Bytes> = TableDefinition::new("notifications");
    let deliveries: TableDefinition<'_, Id, Bytes> = TableDefinition::new("deliveries");
    let pending: TableDefinition<'_, Id, i64> = TableDefinition::new("pending");
    let due: TableDefinition<'_, (i64, Id), ()> = TableDefinition::new("due");
    let garbage = [&[1][..], &[7; 100]].concat();
    let garbage = garbage.as_slice();
    let id = EventId::new(START).to_bytes();
    let db = Database::open(&config.store.path).expect("opened");
    let tx = db.begin_write().expect("transaction");
    damage_merchant(&tx, DEFAULT_APP_ID, garbage);
    put(&tx, entries, &id, garbage);
    put(&tx, deliveries, &id, garbage);
    put(&tx, pending, &id, START);
    put(&tx, due, (START, &id), ());
    tx.commit().expect("committed");
}

fn put<'r, K: Key + 'static, V: redb::Value + 'static>(
    tx: &WriteTransaction,
    table: TableDefinition<'_, K, V>,
    key: impl std::borrow::Borrow<K::SelfType<'r>>,
    value: impl std::borrow::Borrow<V::SelfType<'r>>,
) {
    let mut table = tx.open_table(table).expect("there");
    table.insert(key, value).expect("written");
}

#[tokio::test]
async fn damage_stops_neither_other_merchants_nor_other_deliveries() {
    let sidecar = TestSidecar::start_built(
        |_| (),
        |config, builder| {
            damage(config);
            builder
        },
    )
    .await;
    let tag = format!("app:{OTHER}");
    let request = Request::builder()
        .method(Method::POST)
        .uri(CALL)
        .header("alipay-merchant", &tag);
    let reply = sidecar.proxy(request, r#"{"out_trade_no":"1"}"#).await;
    assert_eq!(reply.status, 503);
    let said = text(&reply);
    for word in ["store-unavailable", OTHER, "damaged"] {
        assert!(said.contains(word), "{word} in {said}");
    }
    let reply = sidecar.post(CALL, r#"{"out_trade_no":"1"}"#).await;
    assert_eq!(reply.status, 200, "{}", text(&reply));
    sidecar
        .wait_for_metric("alipay_sidecar_store_damaged_records", 2.0)
        .await;
    let options = TriggerOptions::default();
    let sent = sidecar.simulator.trigger(Event::Payment, &options).await;
    sent.expect("sent");
    // What came after the damage is delivered.
    sidecar.backend.next().await;
    let reply = sidecar.admin(Method::POST, "/api/store/check", "").await;
    // The merchant stays where it is until it is authorised anew.
    assert_eq!(parsed(&reply)["damaged"], 1, "{}", text(&reply));
    assert_eq!(parsed(&reply)["contradictions"], 0, "{}", text(&reply));
    let reply = sidecar.admin(Method::GET, "/api/store", "").await;
    assert_eq!(parsed(&reply)["damaged"], 2, "{}", text(&reply));
}

#[tokio::test]
async fn a_full_disk_refuses_notifications_and_lets_calls_go_on() {
    let mut brittle = None;
    let sidecar = TestSidecar::start_built(
        |_| (),
        |config, builder| {
            let store = BrittleStore::open(config);
            brittle = Some(store.clone());
            builder.store(std::sync::Arc::new(store))
        },
    )
    .await;
    let brittle = brittle.expect("built");
    let options = TriggerOptions::default();
    let sent = sidecar.simulator.trigger(Event::Payment, &options).await;
    sent.expect("sent");
    let first = sidecar.backend.next().await.body;
    brittle.break_commits();
    let ready = sidecar.admin(Method::GET, "/readyz", "").await;
    assert_eq!(ready.status, 503);
    assert_eq!(parsed(&ready)["store_writable"], false);
    let reply = sidecar.post(CALL, r#"{"out_trade_no":"1"}"#).await;
    assert_eq!(reply.status, 200, "{}", text(&reply));
    let request = Request::builder()
        .method(Method::POST)
        .uri("/alipay/gateway")
        .header(
            "content-type",
            "application/x-www-form-urlencoded;charset=utf-8",
        );
    let reply = sidecar.webhook(request, first).await;
    assert_eq!(
        (reply.status.as_u16(), text(&reply).as_str()),
        (503, "fail")
    );
    let path = format!("/alipay/auth?app_id={DEFAULT_APP_ID}&app_auth_code=a-code");
    let page = sidecar.webhook(Request::get(path), "").await;
    assert_eq!(page.status, 503);
    assert_eq!(page.headers["retry-after"], "1");
    let sent = sidecar.simulator.trigger(Event::Payment, &options).await;
    sent.expect("sent");
    assert!(sidecar.backend.is_quiet().await);
    brittle.heal();
    // Alipay sends it again.
    sidecar.backend.next().await;
    assert_eq!(sidecar.admin(Method::GET, "/readyz", "").await.status, 200);
}
