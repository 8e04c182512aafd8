//! The simulator's trades: whose they are, how they end, what is told of them.
use std::time::Duration;

use alipay_sidecar::simulator::{
    DEFAULT_APP_ID, Event, FIRST_APP_AUTH_TOKEN, FIRST_AUTH_APP_ID, NotificationRecord,
    SECOND_APP_AUTH_TOKEN, SECOND_AUTH_APP_ID, SimulatedApp, SimulatorError, TriggerOptions,
};
use serde_json::{Value, json};

use crate::support::isv::{Isv, Reply, decode};

/// Where nobody listens.
const URL: &str = "http://127.0.0.1:9/orders";

async fn start() -> Isv {
    Isv::start(|app| app.app_gateway("http://127.0.0.1:9/alipay/gateway")).await
}

/// A call for the merchant of `token`, with a `notify_url` where there is one.
async fn call(isv: &Isv, (method, token, url): (&str, &str, &str), biz: Value) -> Reply {
    let biz = biz.to_string();
    let changes = [
        ("app_auth_token", token),
        ("notify_url", url),
        ("biz_content", &biz),
    ];
    isv.call(&format!("alipay.trade.{method}"), &changes).await
}

async fn first(isv: &Isv, method: &str, biz: Value) -> Value {
    call(isv, (method, FIRST_APP_AUTH_TOKEN, URL), biz)
        .await
        .json()
}

fn order(no: &str) -> Value {
    json!({"out_trade_no": no, "total_amount": "10.00", "subject": "tea"})
}

async fn trigger(
    isv: &Isv,
    (event, no): (Event, &str),
    change: impl FnOnce(&mut TriggerOptions),
) -> Result<NotificationRecord, SimulatorError> {
    let mut options = TriggerOptions {
        out_trade_no: Some(no.to_owned()),
        attempts: Some(1),
        wait: true,
        ..TriggerOptions::default()
    };
    change(&mut options);
    isv.simulator.trigger(event, &options).await
}

fn by(merchant: &str) -> impl FnOnce(&mut TriggerOptions) {
    move |options| options.auth_app_id = Some(merchant.to_owned())
}

#[tokio::test]
async fn a_trigger_pays_and_refunds_the_merchant_that_is_named() {
    let isv = start().await;
    first(&isv, "create", order("1")).await;
    let paid = trigger(&isv, (Event::Payment, "1"), by(SECOND_AUTH_APP_ID)).await;
    let paid = decode(&paid.unwrap().body);
    assert_eq!(paid["auth_app_id"], SECOND_AUTH_APP_ID);
    let own = first(&isv, "query", json!({"out_trade_no": "1"})).await;
    assert_eq!(own["trade_status"], "WAIT_BUYER_PAY");

    // Now both have one of that number.
    let either = trigger(&isv, (Event::Payment, "1"), |_| {}).await;
    assert!(matches!(either, Err(SimulatorError::TradeAmbiguous(no)) if no == "1"));
    let unpaid = trigger(&isv, (Event::Refund, "1"), by(FIRST_AUTH_APP_ID)).await;
    assert!(matches!(unpaid, Err(SimulatorError::TradeState { .. })));
    let refund = trigger(&isv, (Event::Refund, "1"), by(SECOND_AUTH_APP_ID)).await;
    assert!(refund.unwrap().body.contains("refund_fee=44.44"));
    let asked = ("query", SECOND_APP_AUTH_TOKEN, "");
    let other = call(&isv, asked, json!({"out_trade_no": "1"})).await.json();
    assert_eq!(other["total_amount"], "88.88");
}

#[tokio::test]
async fn a_payment_of_another_sum_than_the_trades_is_refused() {
    let isv = start().await;
    first(&isv, "create", order("1")).await;
    let sum = |sum: &str| {
        let sum = Some(sum.to_owned());
        |options: &mut TriggerOptions| options.amount = sum
    };
    let refused = trigger(&isv, (Event::Payment, "1"), sum("0.01")).await;
    let is_amount = |error| {
        matches!(
            error,
            SimulatorError::OptionInvalid {
                option: "amount",
                ..
            }
        )
    };
    assert!(refused.is_err_and(is_amount));
    let own = first(&isv, "query", json!({"out_trade_no": "1"})).await;
    assert_eq!(own["trade_status"], "WAIT_BUYER_PAY");
    trigger(&isv, (Event::Payment, "1"), sum("10.00"))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_trade_of_another_app_is_left_alone() {
    let isv = start().await;
    first(&isv, "create", order("1")).await;
    let other = SimulatedApp::generate("2021000000000002").unwrap();
    isv.simulator.add_app(other.app_gateway(URL));
    let paid = trigger(&isv, (Event::Payment, "1"), |options| {
        options.app_id = Some("2021000000000002".to_owned());
    });
    let refused = paid.await;
    assert!(
        matches!(refused, Err(SimulatorError::TradeOfAnotherApp { app_id, .. }) if app_id == DEFAULT_APP_ID)
    );
}

#[tokio::test]
async fn a_trade_whose_call_named_no_notify_url_is_told_of_with_a_remark() {
    let isv = start().await;
    let gateway = "http://127.0.0.1:9/alipay/gateway";
    let silent = ("create", FIRST_APP_AUTH_TOKEN, "");
    call(&isv, silent, order("1")).await;
    for event in [Event::Payment, Event::Refund] {
        let sent = trigger(&isv, (event, "1"), |_| {}).await.unwrap();
        assert_eq!((sent.event, &*sent.url), (event.name(), gateway));
        assert!(sent.remark.unwrap().contains("notify_url"));
    }
    let own = first(&isv, "query", json!({"out_trade_no": "1"})).await;
    assert_eq!(own["trade_status"], "TRADE_SUCCESS");
    // Unless the trigger names an address, or has made the trade itself.
    let to = |options: &mut TriggerOptions| options.url = Some(URL.to_owned());
    let sent = trigger(&isv, (Event::Payment, "1"), to).await.unwrap();
    assert_eq!((&*sent.url, sent.remark), (URL, None));
    let sent = trigger(&isv, (Event::Payment, "2"), |_| {}).await.unwrap();
    assert_eq!((&*sent.url, sent.remark), (gateway, None));
}

#[tokio::test]
async fn a_cancellation_is_once_and_not_after_a_refund() {
    let isv = start().await;
    let no = |no: &str| json!({"out_trade_no": no});
    for (number, action) in [("unpaid", "close"), ("paid", "refund")] {
        first(&isv, "create", order(number)).await;
        if action == "refund" {
            let paid = trigger(&isv, (Event::Payment, number), |_| {}).await;
            paid.unwrap();
        }
        for _ in 0..2 {
            let node = first(&isv, "cancel", no(number)).await;
            assert_eq!(node["action"], action, "{node}");
        }
    }
    trigger(&isv, (Event::Payment, "part"), |_| {})
        .await
        .unwrap();
    for _ in 0..2 {
        trigger(&isv, (Event::Refund, "part"), |_| {})
            .await
            .unwrap();
        let node = first(&isv, "cancel", no("part")).await;
        assert_eq!(node["sub_code"], "ACQ.REASON_TRADE_REFUND_FEE_ERR");
    }
    let node = first(&isv, "query", no("part")).await;
    assert_eq!(node["trade_status"], "TRADE_SUCCESS");
}

#[tokio::test]
async fn a_closed_trade_is_notified_and_says_nothing_of_a_payment() {
    let isv = start().await;
    first(&isv, "create", order("1")).await;
    first(&isv, "close", json!({"out_trade_no": "1"})).await;
    let silent = ("create", FIRST_APP_AUTH_TOKEN, "");
    call(&isv, silent, order("2")).await;
    first(&isv, "close", json!({"out_trade_no": "2"})).await;
    let sent = async {
        loop {
            let sent = isv.simulator.notifications();
            // Its body stands there after the first attempt.
            if sent.first().is_some_and(|record| !record.body.is_empty()) {
                return sent;
            }
            tokio::task::yield_now().await;
        }
    };
    let sent = tokio::time::timeout(Duration::from_secs(10), sent).await;
    let sent = sent.unwrap();
    let [sent] = sent.as_slice() else {
        panic!("one notification, not {sent:?}");
    };
    assert_eq!((sent.event, &*sent.url), ("close", URL));
    let told = decode(&sent.body);
    assert_eq!(told["notify_type"], "trade_status_sync");
    assert_eq!(told["trade_status"], "TRADE_CLOSED");
    assert_eq!(told["total_amount"], "10.00");
    for name in [
        "gmt_payment",
        "receipt_amount",
        "buyer_pay_amount",
        "fund_bill_list",
    ] {
        assert!(!told.contains_key(name), "{name}");
    }
}

#[tokio::test]
async fn the_trade_no_wins_over_the_out_trade_no() {
    let isv = start().await;
    let node = first(&isv, "create", order("1")).await;
    let trade_no = node["trade_no"].as_str().unwrap();
    for (no, trade_no, found) in [
        ("2", trade_no, "1"),
        ("1", "2026", "ACQ.TRADE_NOT_EXIST"),
        ("1", "", "1"),
    ] {
        let biz = json!({"out_trade_no": no, "trade_no": trade_no});
        let node = first(&isv, "query", biz).await;
        let said = [&node["sub_code"], &node["out_trade_no"]];
        let said = said.into_iter().find(|said| said.is_string()).unwrap();
        assert_eq!(said, found, "{no} {trade_no}");
    }
}

#[tokio::test]
async fn a_qr_code_becomes_a_trade_or_is_closed() {
    let isv = start().await;
    for no in ["1", "2"] {
        first(&isv, "precreate", order(no)).await;
        let node = first(&isv, "query", json!({"out_trade_no": no})).await;
        assert_eq!(node["sub_code"], "ACQ.TRADE_NOT_EXIST");
    }
    first(&isv, "create", order("1")).await;
    // The same code again takes nothing back.
    first(&isv, "precreate", order("1")).await;
    let node = first(&isv, "query", json!({"out_trade_no": "1"})).await;
    assert_eq!(node["trade_status"], "WAIT_BUYER_PAY");
    let node = first(&isv, "cancel", json!({"out_trade_no": "2"})).await;
    assert_eq!(node["action"], "close");
    let node = first(&isv, "precreate", order("2")).await;
    assert_eq!(node["sub_code"], "ACQ.TRADE_HAS_CLOSE");
}
