//! SPI calls of the simulator: signed as the platform signs, their answers checked as it checks.
#![expect(
    clippy::unwrap_used,
    reason = "clippy.toml allows them in tests, but not in the helpers beside them"
)]
use std::collections::BTreeMap;

use alipay_sidecar::simulator::{DEFAULT_APP_ID, FIRST_AUTH_APP_ID, SpiCall};
use bytes::Bytes;
use encoding_rs::GBK;
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::support::isv::{Isv, content, decode, send, sign, verifies};

const RESPONSE: &str = r#"{"code":"10000","msg":"Success","key_1": "中\/"}"#;

/// Answers one request with `body`, and gives what was asked.
async fn answering(status: u16, body: Vec<u8>) -> (String, oneshot::Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/alipay/spi/x", listener.local_addr().unwrap());
    let (sender, asked) = oneshot::channel();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 65_536];
        let read = stream.read(&mut request).await.unwrap();
        request.truncate(read);
        let _ = sender.send(request);
        let head = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\n", body.len());
        let _ = stream.write_all(head.as_bytes()).await;
        let _ = stream.write_all(b"connection: close\r\n\r\n").await;
        let _ = stream.write_all(&body).await;
    });
    (url, asked)
}

fn call() -> SpiCall {
    SpiCall {
        method: "spi.alipay.order.query".to_owned(),
        params: BTreeMap::from([("order".to_owned(), "中 文+&".to_owned())]),
        ..SpiCall::default()
    }
}

fn signed(isv: &Isv, response: &str) -> String {
    let sign = sign(&isv.key, response);
    format!("{{\"response\":{response},\"sign\":\"{sign}\"}}")
}

#[tokio::test]
async fn a_call_is_signed_over_query_and_body() {
    let isv = Isv::start(|app| app).await;
    for http_method in ["POST", "GET"] {
        let (url, asked) = answering(200, signed(&isv, RESPONSE).into_bytes()).await;
        let call = SpiCall {
            http_method: Some(http_method.to_owned()),
            ..call()
        };
        let record = isv.simulator.spi(&url, &call).await.unwrap();
        assert_eq!((record.status, record.problem), (Some(200), None));
        assert!(record.verified);
        let asked = String::from_utf8(asked.await.unwrap()).unwrap();
        let (head, body) = asked.split_once("\r\n\r\n").unwrap();
        let target = head.split(' ').nth(1).unwrap();
        let (path, query) = target.split_once('?').unwrap();
        assert_eq!(
            (path, body.is_empty()),
            ("/alipay/spi/x", http_method == "GET")
        );
        let joined = format!("{query}&{body}");
        let params = decode(joined.trim_end_matches('&'));
        assert_eq!(params["invoke_app_id"], DEFAULT_APP_ID);
        assert_eq!(params["biz_app_id"], FIRST_AUTH_APP_ID);
        assert_eq!(params["utc_timestamp"].len(), 10, "seconds");
        assert_eq!(params["order"], "中 文+&");
        let content = content(&params, &["sign", "sign_type"]);
        assert!(verifies(&isv.platform_key(), &content, &params["sign"]));
    }
}

#[tokio::test]
async fn an_answer_is_checked_over_its_raw_text() {
    let isv = Isv::start(|app| app).await;
    let good = signed(&isv, RESPONSE);
    let text = serde_json::to_string(RESPONSE).unwrap();
    for (status, body, problem) in [
        (200, good.clone(), None),
        (200, good.replacen(RESPONSE, &text, 1), None),
        (200, good.replace(": \"", ":\""), Some("sign is not")),
        (200, good.replace("\\/", "/"), Some("sign is not")),
        (200, format!("{{\"response\":{RESPONSE}}}"), Some("no sign")),
        (200, signed(&isv, "[]"), Some("response is no object")),
        (200, "{}".to_owned(), Some("no response")),
        (200, "success".to_owned(), Some("no JSON object")),
        (500, good.clone(), Some("status 500")),
    ] {
        let (url, _asked) = answering(status, body.clone().into_bytes()).await;
        let record = isv.simulator.spi(&url, &call()).await.unwrap();
        assert_eq!(record.verified, problem.is_none(), "{record:?}");
        assert_eq!(record.body, body);
        let found = record.problem.unwrap_or_default();
        assert!(found.starts_with(problem.unwrap_or_default()), "{found}");
    }
    let nobody = isv
        .simulator
        .spi("http://127.0.0.1:9/", &call())
        .await
        .unwrap();
    assert_eq!((nobody.status, nobody.verified), (None, false));
}

#[tokio::test]
async fn certificates_are_named_both_ways() {
    let (isv, _) = Isv::start_with_certificates().await;
    let good = signed(&isv, RESPONSE);
    let sn = isv.app_cert_sn.clone().unwrap();
    let named = good.replacen(
        "{\"response",
        &format!("{{\"app_cert_sn\":\"{sn}\",\"response"),
        1,
    );
    for (body, verified) in [(named, true), (good, false)] {
        let (url, asked) = answering(200, body.into_bytes()).await;
        let record = isv.simulator.spi(&url, &call()).await.unwrap();
        assert_eq!(record.verified, verified, "{record:?}");
        let asked = String::from_utf8(asked.await.unwrap()).unwrap();
        assert!(asked.contains("alipay_cert_sn="));
    }
}

#[tokio::test]
async fn gbk_is_signed_and_checked_in_its_bytes() {
    let isv = Isv::start(|app| app).await;
    let (bytes, _, _) = GBK.encode(RESPONSE);
    let digest = <sha2::Sha256 as sha2::Digest>::digest(&bytes);
    let scheme = rsa::Pkcs1v15Sign::new::<sha2::Sha256>();
    let sign = isv.key.sign(scheme, &digest).unwrap();
    let sign = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, sign);
    let tail = format!(",\"sign\":\"{sign}\"}}").into_bytes();
    let body = [b"{\"response\":", &bytes[..], &tail].concat();
    let (url, asked) = answering(200, body).await;
    let call = SpiCall {
        charset: Some("GBK".to_owned()),
        ..call()
    };
    let record = isv.simulator.spi(&url, &call).await.unwrap();
    assert!(record.verified, "{record:?}");
    let asked = String::from_utf8(asked.await.unwrap()).unwrap();
    assert!(asked.contains("order=%D6%D0+%CE%C4%2B%26"), "{asked}");
}

#[tokio::test]
async fn a_call_goes_wrong_on_demand_and_options_are_checked() {
    let isv = Isv::start(|app| app).await;
    let (url, asked) = answering(200, Vec::new()).await;
    let tampered = SpiCall {
        tampered: true,
        ..call()
    };
    isv.simulator.spi(&url, &tampered).await.unwrap();
    let asked = String::from_utf8(asked.await.unwrap()).unwrap();
    let target = asked.split(' ').nth(1).unwrap();
    let (_, body) = asked.split_once("\r\n\r\n").unwrap();
    let (_, query) = target.split_once('?').unwrap();
    let params = decode(&format!("{query}&{body}"));
    let content = content(&params, &["sign", "sign_type"]);
    assert!(!verifies(&isv.platform_key(), &content, &params["sign"]));

    for bad in [
        SpiCall {
            charset: Some("big5".to_owned()),
            ..call()
        },
        SpiCall {
            http_method: Some("PUT".to_owned()),
            ..call()
        },
        SpiCall {
            app_id: Some("none".to_owned()),
            ..call()
        },
        SpiCall {
            auth_app_id: Some("none".to_owned()),
            ..call()
        },
    ] {
        assert!(isv.simulator.spi(&url, &bad).await.is_err(), "{bad:?}");
    }
}

#[tokio::test]
async fn the_control_route_makes_a_call() {
    let isv = Isv::start(|app| app).await;
    let (url, _asked) = answering(200, signed(&isv, RESPONSE).into_bytes()).await;
    let body = json!({"url": url, "call": {"method": "spi.alipay.x"}}).to_string();
    let request = Request::post(format!("{}/simulator/spi", isv.simulator.url()))
        .body(Full::new(Bytes::from(body)))
        .unwrap();
    let (_, text) = send(request).await.unwrap();
    let record: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(record["verified"], true, "{record}");
}
