//! What calls and notifications see of a store that is damaged, or whose disk is full.

use alipay_sidecar::config::Config;
use alipay_sidecar::model::id::EventId;
use alipay_sidecar::simulator::{DEFAULT_APP_ID, Event, TriggerOptions};
use http::{Method, Request};
use redb::{Database, Key, TableDefinition, Value, WriteTransaction};

use crate::store::START;
use crate::support::brittle::BrittleStore;
use crate::support::{TestSidecar, json, text};

const CALL: &str = "/v2/alipay.trade.query";
const OTHER: &str = "2021000000009998";

/// Writes a merchant and a notification that nobody can open into a new store.
fn damage(config: &Config) {
    type Bytes = &'static [u8];
    type Id = &'static [u8; 16];
    let merchants: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("merchants");
    let by_id: TableDefinition<'_, Bytes, ()> = TableDefinition::new("by_auth_app_id");
    let entries: TableDefinition<'_, Id, Bytes> = TableDefinition::new("notifications");
    let deliveries: TableDefinition<'_, Id, Bytes> = TableDefinition::new("deliveries");
    let pending: TableDefinition<'_, Id, i64> = TableDefinition::new("pending");
    let due: TableDefinition<'_, (i64, Id), ()> = TableDefinition::new("due");
    let garbage = [&[1][..], &[7; 100]].concat();
    let garbage = garbage.as_slice();
    let id = EventId::new(START).to_bytes();
    let db = Database::open(&config.store.path).expect("opened");
    let tx = db.begin_write().expect("transaction");
    let key = [DEFAULT_APP_ID, OTHER].join("\0");
    let row = [OTHER, DEFAULT_APP_ID].join("\0");
    put(&tx, merchants, key.as_bytes(), garbage);
    put(&tx, by_id, row.as_bytes(), ());
    put(&tx, entries, &id, garbage);
    put(&tx, deliveries, &id, garbage);
    put(&tx, pending, &id, START);
    put(&tx, due, (START, &id), ());
    tx.commit().expect("committed");
}

fn put<'r, K: Key + 'static, V: Value + 'static>(
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
    assert_eq!(json(&reply)["damaged"], 1, "{}", text(&reply));
    assert_eq!(json(&reply)["contradictions"], 0, "{}", text(&reply));
    let reply = sidecar.admin(Method::GET, "/api/store", "").await;
    assert_eq!(json(&reply)["damaged"], 2, "{}", text(&reply));
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
    assert_eq!(json(&ready)["store_writable"], false);
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
    let sent = sidecar.simulator.trigger(Event::Payment, &options).await;
    sent.expect("sent");
    assert!(sidecar.backend.is_quiet().await);
    brittle.heal();
    // Alipay sends it again.
    sidecar.backend.next().await;
    assert_eq!(sidecar.admin(Method::GET, "/readyz", "").await.status, 200);
}
