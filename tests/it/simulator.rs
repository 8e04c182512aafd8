//! The simulator is a strict judge and a faithful, or deliberately unfaithful, platform.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "clippy.toml allows them in tests, but not in the helpers beside them"
)]
use std::{collections::BTreeMap, time::Duration};

use alipay_sidecar::simulator::{
    self, DEFAULT_APP_ID, Event, FIRST_APP_AUTH_TOKEN, FIRST_APP_REFRESH_TOKEN, FIRST_AUTH_APP_ID,
    Fault, FaultKind, NotificationState, SECOND_APP_AUTH_TOKEN, SECOND_AUTH_APP_ID, SimulatedApp,
    Simulator, SimulatorError, TriggerOptions,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use rsa::{
    Pkcs1v15Sign, RsaPrivateKey, RsaPublicKey,
    pkcs8::{DecodePrivateKey as _, DecodePublicKey as _},
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

type Params = BTreeMap<String, String>;

/// A simulator with the keys to speak to it.
struct Platform {
    simulator: Simulator,
    app_key: RsaPrivateKey,
    alipay_key: RsaPublicKey,
}

async fn platform() -> Platform {
    let keys: Value = serde_json::from_str(KEYS).unwrap();
    let key = |name: &str| keys[name].as_str().unwrap().to_owned();
    let app = SimulatedApp::with_private_key(DEFAULT_APP_ID, &key("app")).unwrap();
    let simulator = Simulator::builder()
        .app(app)
        .default_merchants(DEFAULT_APP_ID)
        .platform_key(key("platform"))
        .time_scale(1_000_000.0)
        .listen("127.0.0.1:0")
        .await
        .unwrap()
        .build()
        .unwrap();
    tokio::spawn(simulator.clone().run(std::future::pending()));
    let pem = simulator.app_private_key(DEFAULT_APP_ID).unwrap();
    let der = STANDARD.decode(simulator.platform_public_key()).unwrap();
    Platform {
        app_key: RsaPrivateKey::from_pkcs8_pem(&pem).unwrap(),
        alipay_key: RsaPublicKey::from_public_key_der(&der).unwrap(),
        simulator,
    }
}

const KEYS: &str = include_str!("simulator_keys.json");

async fn send(request: Request<Full<Bytes>>) -> Option<(Response<()>, String)> {
    let client = Client::builder(TokioExecutor::new()).build_http();
    let (head, body) = client.request(request).await.ok()?.into_parts();
    let body = body.collect().await.ok()?.to_bytes();
    Some((
        Response::from_parts(head, ()),
        String::from_utf8(body.to_vec()).unwrap(),
    ))
}

fn form(params: &Params) -> String {
    let encode =
        |text: &str| -> String { text.bytes().map(|byte| format!("%{byte:02X}")).collect() };
    let pairs: Vec<_> = params
        .iter()
        .map(|(n, v)| format!("{n}={}", encode(v)))
        .collect();
    pairs.join("&")
}

fn content(params: &Params, left_out: &[&str]) -> String {
    let kept = params
        .iter()
        .filter(|(name, _)| !left_out.contains(&name.as_str()));
    kept.map(|(name, value)| format!("{name}={value}"))
        .collect::<Vec<_>>()
        .join("&")
}

fn params(pairs: &[(&str, &str)]) -> Params {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

impl Platform {
    fn common(&self, method: &str) -> Params {
        params(&[
            ("app_id", DEFAULT_APP_ID),
            ("method", method),
            ("charset", "utf-8"),
            ("sign_type", "RSA2"),
            ("timestamp", "2026-11-22 10:20:30"),
            ("version", "1.0"),
            ("app_auth_token", FIRST_APP_AUTH_TOKEN),
        ])
    }

    fn sign(&self, params: &mut Params) {
        let digest = Sha256::digest(content(params, &["sign"]));
        let sign = self
            .app_key
            .sign(Pkcs1v15Sign::new::<Sha256>(), &digest)
            .unwrap();
        params.insert("sign".to_owned(), STANDARD.encode(sign));
    }

    fn verifies(&self, content: &str, sign: &str) -> bool {
        let sign = STANDARD.decode(sign).unwrap();
        let digest = Sha256::digest(content);
        self.alipay_key
            .verify(Pkcs1v15Sign::new::<Sha256>(), &digest, &sign)
            .is_ok()
    }

    /// Sends `query` and `body` as they are and gives the reply's text.
    async fn post(&self, query: &str, body: &str) -> Option<String> {
        let request = Request::post(format!("{}/gateway.do?{query}", self.simulator.url()))
            .header(
                "content-type",
                "application/x-www-form-urlencoded;charset=utf-8",
            )
            .body(Full::new(Bytes::from(body.to_owned())))
            .unwrap();
        let (head, text) = send(request).await?;
        assert_eq!(head.status(), StatusCode::OK);
        assert!(head.headers().contains_key("trace_id"));
        Some(text)
    }

    /// One signed call; the reply must be signed, and its node comes back.
    async fn call(&self, method: &str, changes: &[(&str, &str)]) -> Value {
        let mut all = self.common(method);
        for (name, value) in changes {
            if value.is_empty() {
                all.remove(*name);
            } else {
                all.insert((*name).to_owned(), (*value).to_owned());
            }
        }
        self.sign(&mut all);
        let text = self.post(&form(&all), "").await.unwrap();
        let (node, sign) = cut(&text);
        assert!(self.verifies(node, &sign), "{text}");
        serde_json::from_str(node).unwrap()
    }

    async fn biz(&self, method: &str, biz_content: Value) -> Value {
        self.call(method, &[("biz_content", &biz_content.to_string())])
            .await
    }
}

/// Cuts node and sign out of a reply whose sign stands last.
fn cut(text: &str) -> (&str, String) {
    let (_, rest) = text.split_once("_response\":").unwrap();
    let (node, sign) = rest.rsplit_once(",\"sign\":\"").expect(text);
    (node, sign.trim_end_matches("\"}").to_owned())
}

#[tokio::test]
async fn bad_requests_are_refused_with_alipays_codes() {
    let platform = platform().await;
    let method = "alipay.trade.query";
    // (changed before signing, changed after signing, sub_code, signed)
    for (before, after, sub_code, signed) in [
        (
            ("app_id", "2021999999999999"),
            None,
            "isv.invalid-app-id",
            false,
        ),
        (("app_id", ""), None, "isv.missing-app-id", false),
        (("method", ""), None, "isv.missing-method", false),
        (
            ("method", "alipay.no.such"),
            None,
            "isv.invalid-method",
            true,
        ),
        (
            ("sign_type", "RSA"),
            None,
            "isv.invalid-signature-type",
            true,
        ),
        (("sign_type", ""), None, "isv.missing-signature-type", true),
        (
            ("timestamp", "2026-1-1 1:1:11"),
            None,
            "isv.invalid-timestamp",
            true,
        ),
        (("timestamp", ""), None, "isv.missing-timestamp", true),
        (("version", ""), None, "isv.missing-version", true),
        (("format", "XML"), None, "isv.invalid-format", true),
        (("charset", "big5"), None, "isv.invalid-charset", true),
        (
            ("app_auth_token", ""),
            None,
            "isv.self-invoke-forbidden",
            true,
        ),
        (
            ("app_auth_token", "202611BBno"),
            None,
            "aop.invalid-app-auth-token",
            true,
        ),
        (("x", "1"), Some(("x", "2")), "isv.invalid-signature", true),
        (
            ("x", "1"),
            Some(("sign", "AAAA")),
            "isv.invalid-signature",
            true,
        ),
        (
            ("x", "1"),
            Some(("notify_url", "")),
            "isv.invalid-parameter",
            true,
        ),
    ] {
        let mut all = platform.common(method);
        all.insert(before.0.to_owned(), before.1.to_owned());
        all.retain(|_, value| !value.is_empty());
        platform.sign(&mut all);
        if let Some((name, value)) = after {
            all.insert(name.to_owned(), value.to_owned());
        }
        let text = platform.post(&form(&all), "").await.unwrap();
        assert!(
            text.contains(&format!("\"sub_code\":\"{sub_code}\"")),
            "{sub_code}: {text}"
        );
        assert_eq!(text.contains("\"sign\":"), signed, "{text}");
    }
}

#[tokio::test]
async fn a_wrong_signature_is_answered_with_the_string_that_was_checked() {
    let platform = platform().await;
    let mut all = platform.common("alipay.trade.query");
    all.insert("biz_content".to_owned(), "{\"a\":\"<&>\"}".to_owned());
    all.insert("sign".to_owned(), "AAAA".to_owned());
    let text = platform.post(&form(&all), "").await.unwrap();
    let node: Value = serde_json::from_str(cut(&text).0).unwrap();
    let escaped = content(&all, &["sign"])
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;");
    let expected = format!(
        "验签出错，建议检查签名字符串或签名私钥与应用公钥是否匹配，网关生成的验签字符串为：{escaped}"
    );
    assert_eq!(node["sub_msg"], expected);
}

#[tokio::test]
async fn query_and_body_are_one_set() {
    let platform = platform().await;
    let mut all = platform.common("alipay.trade.query");
    all.insert(
        "biz_content".to_owned(),
        "{\"out_trade_no\":\"a+b 中\"}".to_owned(),
    );
    platform.sign(&mut all);
    let split = |names: &[&str]| -> (String, String) {
        let (body, query): (Params, Params) = all
            .clone()
            .into_iter()
            .partition(|(name, _)| names.contains(&name.as_str()));
        (form(&query), form(&body))
    };
    let good = "ACQ.TRADE_NOT_EXIST";
    let (query, body) = split(&["biz_content", "app_auth_token"]);
    let (no_charset, charset) = split(&["charset"]);
    for (query, body, sub_code) in [
        (query.clone(), body.clone(), good),
        (query.clone(), format!("{body}&version=1.0"), good),
        (
            query.clone(),
            format!("{body}&version=1.1"),
            "isv.invalid-parameter",
        ),
        (
            format!("{query}&version=1.0"),
            body.clone(),
            "isv.invalid-parameter",
        ),
        (
            query.clone(),
            format!("{body}&x=%zz"),
            "isv.invalid-parameter",
        ),
        (no_charset, charset, "isv.invalid-signature"),
    ] {
        let text = platform.post(&query, &body).await.unwrap();
        assert!(text.contains(sub_code), "{sub_code}: {text}");
    }
}

#[tokio::test]
async fn a_trade_lives() {
    let platform = platform().await;
    let no = json!({"out_trade_no": "t1"});
    let create = json!({"out_trade_no": "t1", "total_amount": "10.00", "subject": "商品"});
    let part = |request_no: &str, amount: &str| json!({"out_trade_no": "t1", "out_request_no": request_no, "refund_amount": amount});
    let steps = [
        (
            "alipay.trade.query",
            no.clone(),
            "sub_code",
            "ACQ.TRADE_NOT_EXIST",
        ),
        ("alipay.trade.cancel", no.clone(), "retry_flag", "N"),
        ("alipay.trade.create", create.clone(), "code", "10000"),
        ("alipay.trade.create", create, "out_trade_no", "t1"),
        (
            "alipay.trade.query",
            no.clone(),
            "trade_status",
            "WAIT_BUYER_PAY",
        ),
        (
            "alipay.trade.refund",
            part("r1", "1.00"),
            "sub_code",
            "ACQ.TRADE_STATUS_ERROR",
        ),
    ];
    for (method, biz_content, member, value) in steps {
        assert_eq!(
            platform.biz(method, biz_content).await[member],
            value,
            "{method}"
        );
    }
    let url = Some("http://127.0.0.1:9/".to_owned());
    let paid = TriggerOptions {
        out_trade_no: Some("t1".into()),
        url,
        ..Default::default()
    };
    platform
        .simulator
        .trigger(Event::Payment, &paid)
        .await
        .unwrap();
    let steps = [
        (
            "alipay.trade.query",
            no.clone(),
            "trade_status",
            "TRADE_SUCCESS",
        ),
        (
            "alipay.trade.close",
            no.clone(),
            "sub_code",
            "ACQ.TRADE_STATUS_ERROR",
        ),
        (
            "alipay.trade.refund",
            part("r1", "4.00"),
            "fund_change",
            "Y",
        ),
        (
            "alipay.trade.refund",
            part("r1", "4.00"),
            "fund_change",
            "N",
        ),
        (
            "alipay.trade.refund",
            part("r1", "4.01"),
            "sub_code",
            "ACQ.DISCORDANT_REPEAT_REQUEST",
        ),
        (
            "alipay.trade.refund",
            part("r2", "6.01"),
            "sub_code",
            "ACQ.REFUND_AMT_NOT_EQUAL_TOTAL",
        ),
        (
            "alipay.trade.fastpay.refund.query",
            part("r1", "1"),
            "refund_amount",
            "4.00",
        ),
        (
            "alipay.trade.refund",
            part("r2", "6.00"),
            "refund_fee",
            "10.00",
        ),
        ("alipay.trade.query", no, "trade_status", "TRADE_CLOSED"),
    ];
    for (method, biz_content, member, value) in steps {
        assert_eq!(
            platform.biz(method, biz_content).await[member],
            value,
            "{method}"
        );
    }
    // Another merchant's trade of the same number is another trade.
    let other = [
        ("app_auth_token", SECOND_APP_AUTH_TOKEN),
        ("biz_content", "{\"out_trade_no\":\"t1\"}"),
    ];
    let reply = platform.call("alipay.trade.query", &other).await;
    assert_eq!(reply["sub_code"], "ACQ.TRADE_NOT_EXIST");
}

#[tokio::test]
async fn merchant_tokens_are_exchanged_refreshed_and_cancelled() {
    let platform = platform().await;
    let exchange = async |biz: Value| {
        let biz = biz.to_string();
        let changes = [("app_auth_token", ""), ("biz_content", biz.as_str())];
        platform.call("alipay.open.auth.token.app", &changes).await
    };
    let both = [FIRST_AUTH_APP_ID, SECOND_AUTH_APP_ID];
    let code = platform.simulator.app_auth_code(None, &both).unwrap();
    let by_code = json!({"grant_type": "authorization_code", "code": code});
    let reply = exchange(by_code.clone()).await;
    assert_eq!(reply["tokens"][1]["auth_app_id"], SECOND_AUTH_APP_ID);
    assert_eq!(exchange(by_code).await["sub_code"], "isv.code-invalid");

    platform
        .simulator
        .time_out_tokens(None, Some(FIRST_AUTH_APP_ID))
        .unwrap();
    let query = json!({"out_trade_no": "none"});
    let reply = platform.biz("alipay.trade.query", query.clone()).await;
    assert_eq!(reply["sub_code"], "aop.app-auth-token-time-out");
    let by_refresh =
        json!({"grant_type": "refresh_token", "refresh_token": FIRST_APP_REFRESH_TOKEN});
    let reply = exchange(by_refresh.clone()).await;
    let token = reply["tokens"][0]["app_auth_token"].as_str().unwrap();
    assert_eq!(
        exchange(by_refresh).await["sub_code"],
        "isv.refresh-token-invalid"
    );
    let query = query.to_string();
    let changes = [("app_auth_token", token), ("biz_content", query.as_str())];
    let reply = platform.call("alipay.trade.query", &changes).await;
    assert_eq!(reply["sub_code"], "ACQ.TRADE_NOT_EXIST");

    platform
        .simulator
        .revoke(None, Some(FIRST_AUTH_APP_ID))
        .unwrap();
    let reply = platform.call("alipay.trade.query", &changes).await;
    assert_eq!(reply["sub_code"], "aop.invalid-app-auth-token");
}

#[tokio::test]
async fn a_users_code_belongs_to_the_host_and_is_used_once() {
    let platform = platform().await;
    let method = "alipay.system.oauth.token";
    let code = || {
        platform
            .simulator
            .auth_code(Some(FIRST_AUTH_APP_ID), None)
            .unwrap()
    };
    let with = |code: &str, token: &str| {
        [
            ("grant_type".to_owned(), "authorization_code".to_owned()),
            ("code".to_owned(), code.to_owned()),
            ("app_auth_token".to_owned(), token.to_owned()),
        ]
    };
    let ask = async |code: &str, token: &str| {
        let changes = with(code, token);
        let changes = changes
            .each_ref()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        platform.call(method, &changes).await
    };
    let (first, second) = (code(), code());
    assert_eq!(ask(&first, "").await["sub_code"], "isv.code-invalid");
    assert_eq!(
        ask(&first, FIRST_APP_AUTH_TOKEN).await["sub_code"],
        "isv.code-invalid"
    );
    let reply = ask(&second, FIRST_APP_AUTH_TOKEN).await;
    assert!(reply.get("code").is_none());
    let access_token = reply["access_token"].as_str().unwrap();
    let share = platform
        .call("alipay.user.info.share", &[("auth_token", access_token)])
        .await;
    assert_eq!(share["code"], "10000");
    let foreign = [
        ("auth_token", access_token),
        ("app_auth_token", SECOND_APP_AUTH_TOKEN),
    ];
    let share = platform.call("alipay.user.info.share", &foreign).await;
    assert_eq!(share["sub_code"], "aop.invalid-auth-token");
}

#[tokio::test]
async fn faults_strike_once() {
    let platform = platform().await;
    let mut all = platform.common("alipay.trade.query");
    all.insert(
        "biz_content".to_owned(),
        "{\"out_trade_no\":\"t\"}".to_owned(),
    );
    platform.sign(&mut all);
    let query = form(&all);
    for kind in [
        FaultKind::Tampered,
        FaultKind::TamperedSign,
        FaultKind::TokenTimeout,
    ] {
        platform.simulator.fault(Fault::once(kind));
        let text = platform.post(&query, "").await.unwrap();
        let (node, sign) = cut(&text);
        let genuine = kind == FaultKind::TokenTimeout;
        assert_eq!(platform.verifies(node, &sign), genuine, "{text}");
        assert_eq!(node.contains("aop.app-auth-token-time-out"), genuine);
    }
    platform.simulator.fault(Fault::once(FaultKind::Unsigned));
    assert!(
        !platform
            .post(&query, "")
            .await
            .unwrap()
            .contains("\"sign\"")
    );
    platform.simulator.fault(Fault::once(FaultKind::Reset));
    assert!(platform.post(&query, "").await.is_none());
    assert_eq!(
        platform.simulator.requests().last().unwrap().fault,
        Some("reset")
    );
    platform
        .simulator
        .fault(Fault::once(FaultKind::Slow).delay(Duration::from_millis(1)));
    assert!(
        platform
            .post(&query, "")
            .await
            .unwrap()
            .contains("\"sign\"")
    );
    let text = platform.post(&query, "").await.unwrap();
    let (node, sign) = cut(&text);
    assert!(platform.verifies(node, &sign));
}

/// Answers each POST with the next of `answers` (status and body), then with the last for ever.
async fn backend(answers: &'static [(u16, &'static str)]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/alipay/gateway", listener.local_addr().unwrap());
    tokio::spawn(async move {
        for number in 0.. {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 65_536];
            let _ = stream.read(&mut request).await;
            let (status, body) = answers[number.min(answers.len() - 1)];
            let head = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\n", body.len());
            let _ = stream
                .write_all(format!("{head}connection: close\r\n\r\n{body}").as_bytes())
                .await;
        }
    });
    url
}

#[tokio::test]
async fn every_event_is_signed_and_acknowledged_by_seven_bytes() {
    let platform = platform().await;
    let url = backend(&[(200, "success")]).await;
    platform
        .simulator
        .set_app_gateway(None, Some(&url))
        .unwrap();
    for (name, event) in Event::ALL {
        let mut options = TriggerOptions {
            wait: true,
            ..Default::default()
        };
        options.out_trade_no = Some("n1".to_owned());
        let record = platform.simulator.trigger(event, &options).await.unwrap();
        let pairs = record
            .body
            .split('&')
            .map(|pair| pair.split_once('=').unwrap());
        let decoded: Params = pairs
            .map(|(name, value)| (name.to_owned(), decode(value)))
            .collect();
        let check = event == Event::ServiceCheck;
        let left_out: &[&str] = if check {
            &["sign"]
        } else {
            &["sign", "sign_type"]
        };
        assert!(
            platform.verifies(&content(&decoded, left_out), &decoded["sign"]),
            "{name}"
        );
        let acked = record.state == NotificationState::Acked;
        assert_eq!(acked, !check, "{name}: {record:?}");
    }
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            other => other,
        });
    }
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn anything_but_success_is_sent_again_under_the_same_id() {
    let platform = platform().await;
    let url = backend(&[
        (200, "success\n"),
        (302, "success"),
        (200, "fail"),
        (200, "success"),
    ])
    .await;
    platform
        .simulator
        .set_app_gateway(None, Some(&url))
        .unwrap();
    let options = TriggerOptions {
        wait: true,
        ..Default::default()
    };
    let sent = platform
        .simulator
        .trigger(Event::ReAuthorize, &options)
        .await
        .unwrap();
    assert_eq!(sent.state, NotificationState::Pending);
    let done = async {
        loop {
            let records = platform.simulator.notifications();
            if records[0].state == NotificationState::Acked {
                return records;
            }
            tokio::task::yield_now().await;
        }
    };
    let records = tokio::time::timeout(Duration::from_secs(10), done)
        .await
        .unwrap();
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].notify_id, sent.notify_id);
    assert_eq!(records[0].attempts.len(), 4);
}

#[tokio::test]
async fn the_authorization_page_redirects_with_code_and_state() {
    let platform = platform().await;
    let simulator = platform.simulator.url();
    let data = json!({"platformCode": "O", "taskType": "INTERFACE_AUTH", "agentOpParam": {
        "redirectUri": "http://isv/auth", "appTypes": ["TINYAPP"],
        "isvAppId": DEFAULT_APP_ID, "state": "s"}});
    let data = form(&params(&[("bizData", &data.to_string())]));
    let link = format!("app_id={DEFAULT_APP_ID}&redirect_uri=http%3A%2F%2Fisv%2Fauth&state=s");
    for path in [
        format!("/oauth2/appToAppAuth.htm?{link}"),
        format!("/oauth2/appToAppBatchAuth.htm?{link}&application_type=TINYAPP"),
        format!("/page/message/tasksDetail?{data}"),
        format!("/oauth2/publicAppAuthorize.htm?{link}&scope=auth_user"),
    ] {
        let request = Request::get(format!("{simulator}{path}"))
            .body(Full::default())
            .unwrap();
        let (head, _) = send(request).await.unwrap();
        assert_eq!(head.status(), StatusCode::FOUND, "{path}");
        let location = head.headers()["location"].to_str().unwrap();
        let start = format!("http://isv/auth?app_id={DEFAULT_APP_ID}&source=alipay_");
        assert!(
            location.starts_with(&start) && location.ends_with("&state=s"),
            "{location}"
        );
        assert!(location.contains("auth_code="), "{location}");
    }
}

#[tokio::test]
async fn the_authorization_page_redirects_to_the_address_that_is_registered() {
    let options = simulator::Options {
        listen: vec!["127.0.0.1:0".to_owned()],
        ..Default::default()
    };
    let simulator = simulator::start(&options).await.unwrap();
    tokio::spawn(simulator.clone().run(std::future::pending()));
    let url = simulator.url();
    let status = async |redirect: &str| {
        let link = form(&params(&[
            ("app_id", DEFAULT_APP_ID),
            ("redirect_uri", redirect),
        ]));
        let request = Request::get(format!("{url}/oauth2/appToAppAuth.htm?{link}"));
        let (head, _) = send(request.body(Full::default()).unwrap()).await.unwrap();
        head.status()
    };
    let register = async |address: &str| {
        let body = format!(r#"{{"auth_redirect":"{address}"}}"#);
        let request = Request::post(format!("{url}/simulator/app"));
        let request = request.body(Full::new(Bytes::from(body))).unwrap();
        assert_eq!(send(request).await.unwrap().0.status(), StatusCode::OK);
    };
    let registered = "http://127.0.0.1:2089/alipay/auth";
    // Alone, it knows of none before.
    assert_eq!(status("http://isv/auth").await, StatusCode::FOUND);
    register(registered).await;
    for (behind, expected) in [
        ("", StatusCode::FOUND),
        ("?a=1", StatusCode::FOUND),
        ("#a", StatusCode::FOUND),
        ("or", StatusCode::BAD_REQUEST),
        ("/a", StatusCode::BAD_REQUEST),
    ] {
        let redirect = format!("{registered}{behind}");
        assert_eq!(status(&redirect).await, expected, "{redirect}");
    }
    assert_eq!(status("http://isv/auth").await, StatusCode::BAD_REQUEST);
    register("http://isv/auth").await;
    assert_eq!(status("http://isv/auth").await, StatusCode::FOUND);
    assert!(simulator.state()["apps"][0]["app_gateway"].is_string());
}

#[tokio::test]
async fn the_control_routes_answer_in_json() {
    let platform = platform().await;
    let url = backend(&[(200, "success")]).await;
    let post = async |path: &str, body: Value| {
        let request = Request::post(format!("{}/simulator/{path}", platform.simulator.url()))
            .body(Full::new(Bytes::from(body.to_string())))
            .unwrap();
        let (head, text) = send(request).await.unwrap();
        (head.status(), serde_json::from_str::<Value>(&text).unwrap())
    };
    assert_eq!(
        post("trigger/nonsense", json!({})).await.0,
        StatusCode::BAD_REQUEST
    );
    assert_eq!(
        post("trigger/cancel", json!({"typo": 1})).await.0,
        StatusCode::BAD_REQUEST
    );
    assert_eq!(
        post("fault", json!({"name": "nonsense"})).await.0,
        StatusCode::BAD_REQUEST
    );
    assert_eq!(post("nonsense", json!({})).await.0, StatusCode::NOT_FOUND);
    assert_eq!(
        post("app", json!({"app_gateway": url})).await.0,
        StatusCode::OK
    );
    let (status, record) = post("trigger/cancel", json!({"wait": true})).await;
    assert_eq!(
        (status, &record["state"]),
        (StatusCode::OK, &json!("acked"))
    );
    assert_eq!(
        post("auth-code", json!({})).await.1["auth_code"]
            .as_str()
            .unwrap()
            .len(),
        32
    );
}

#[tokio::test]
async fn it_stops_cleanly_and_runs_once() {
    let platform = platform().await;
    let simulator = Simulator::builder()
        .platform_key(
            serde_json::from_str::<Value>(KEYS).unwrap()["platform"]
                .as_str()
                .unwrap(),
        )
        .listen("127.0.0.1:0")
        .await
        .unwrap()
        .build()
        .unwrap();
    assert_ne!(simulator.address(), platform.simulator.address());
    simulator.clone().run(std::future::ready(())).await.unwrap();
    let again = simulator.clone().run(std::future::ready(())).await;
    assert!(matches!(again, Err(SimulatorError::AlreadyRun)));
    TcpListener::bind(simulator.address()).await.unwrap();
}

#[tokio::test]
async fn a_workspace_keeps_its_keys() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let options = simulator::Options {
        listen: vec!["127.0.0.1:0".to_owned()],
        dir: Some(dir.path().to_owned()),
        ..Default::default()
    };
    let first = simulator::start(&options).await.unwrap();
    for (name, mode) in [
        ("keys/app_private_key.pem", 0o600),
        ("keys/alipay_public_key.pem", 0o644),
        ("store.key", 0o600),
        ("merchants.jsonl", 0o600),
        ("config.toml", 0o644),
    ] {
        let metadata = std::fs::metadata(dir.path().join(name)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, mode, "{name}");
    }
    let store_key = std::fs::read(dir.path().join("store.key")).unwrap();
    let second = simulator::start(&options).await.unwrap();
    assert_eq!(first.platform_public_key(), second.platform_public_key());
    assert_eq!(
        store_key,
        std::fs::read(dir.path().join("store.key")).unwrap()
    );
    let config = std::fs::read_to_string(dir.path().join("config.toml")).unwrap();
    let config: toml::Table = config.parse().unwrap();
    assert_eq!(config["upstream"]["v3"].as_str().unwrap(), second.url());
}

#[tokio::test]
async fn a_workspace_replaces_nothing_but_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let options = simulator::Options {
        listen: vec!["127.0.0.1:0".to_owned()],
        dir: Some(dir.path().to_owned()),
        ..Default::default()
    };
    std::fs::create_dir(dir.path().join("keys")).unwrap();
    let key = dir.path().join("keys/app_private_key.pem");
    for path in [key, dir.path().join("config.toml")] {
        std::fs::write(&path, "live").unwrap();
        let refused = simulator::start(&options).await;
        assert!(matches!(refused, Err(SimulatorError::Occupied { path: named }) if named == path));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "live");
        std::fs::remove_file(path).unwrap();
    }
    let first = simulator::start(&options).await.unwrap();
    let config = dir.path().join("config.toml");
    let edited = std::fs::read_to_string(&config).unwrap() + "\n[delivery]\nurl = \"http://x\"\n";
    // Where the sidecar itself is called and administered is no matter of the simulator's.
    let edited = edited.replacen("127.0.0.1:2088", "127.0.0.1:3088", 1);
    let edited = edited.replacen("127.0.0.1:2090", "unix:admin.sock", 1);
    std::fs::write(&config, &edited).unwrap();
    let port = first.address().to_string();
    first.run(std::future::ready(())).await.unwrap();
    let same = simulator::Options {
        listen: vec![port],
        ..options.clone()
    };
    let first = simulator::start(&same).await.unwrap();
    assert_eq!(std::fs::read_to_string(&config).unwrap(), edited);
    assert_eq!(first.replaced_config(), None);
    // With another key of the app's, or on another port, it wouldn't fit; it is kept nevertheless.
    let with_key = edited.replacen("app_id", "encrypt_key = \"file:x\"\napp_id", 1);
    std::fs::write(&config, &with_key).unwrap();
    assert_ne!(with_key, edited);
    first.run(std::future::ready(())).await.unwrap();
    let same = simulator::start(&same).await.unwrap();
    assert_ne!(std::fs::read_to_string(&config).unwrap(), with_key);
    let old = dir.path().join("config.toml.old");
    assert_eq!(same.replaced_config().as_deref(), Some(&*old));
    assert_eq!(std::fs::read_to_string(&old).unwrap(), with_key);
    std::fs::write(&config, &edited).unwrap();
    drop(same);
    let _other = simulator::start(&options).await.unwrap();
    assert_ne!(std::fs::read_to_string(&config).unwrap(), edited);
    assert_eq!(std::fs::read_to_string(&old).unwrap(), with_key);
    let older = old.with_extension("old.1");
    assert_eq!(std::fs::read_to_string(&older).unwrap(), edited);
    // What nobody has edited is replaced without a copy.
    let third = simulator::start(&options).await.unwrap();
    assert_eq!(third.replaced_config(), None);
    let text = std::fs::read_to_string(&config).unwrap();
    let edited = text.replacen("127.0.0.1:2088", "127.0.0.1:3088", 1);
    std::fs::write(&config, &edited).unwrap();
    let fourth = simulator::start(&options).await.unwrap();
    let kept = fourth.replaced_config().unwrap();
    assert_eq!(std::fs::read_to_string(kept).unwrap(), edited);
}

#[tokio::test]
async fn a_workspace_follows_mode_and_encryption() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let key = "aa4BtZ4tspm2wnXLb1ThQA==";
    let options = simulator::Options {
        listen: vec!["127.0.0.1:0".to_owned()],
        dir: Some(dir.path().to_owned()),
        mode: simulator::AppMode::Certificate,
        encrypt_key: Some(key.to_owned()),
        ..Default::default()
    };
    let simulator = simulator::start(&options).await.unwrap();
    let config = std::fs::read_to_string(dir.path().join("config.toml")).unwrap();
    let config: toml::Table = config.parse().unwrap();
    let app = &config["app"][0];
    assert!(app.get("alipay_public_key").is_none());
    let read = |name: &str| {
        let file = app[name].as_str().unwrap().strip_prefix("file:").unwrap();
        let path = dir.path().join(file);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        (std::fs::read_to_string(path).unwrap(), mode)
    };
    let files = simulator.certificate_files(DEFAULT_APP_ID).unwrap();
    assert_eq!(read("app_cert"), (files.app_cert, 0o644));
    assert_eq!(read("alipay_cert"), (files.alipay_cert, 0o644));
    assert_eq!(read("alipay_root_cert"), (files.alipay_root_cert, 0o644));
    assert_eq!(read("encrypt_key"), (format!("{key}\n"), 0o600));
    let refused = simulator::Options {
        encrypt_key: Some("no key".to_owned()),
        ..options
    };
    assert!(matches!(
        simulator::start(&refused).await,
        Err(SimulatorError::EncryptKey)
    ));
}

#[tokio::test]
async fn the_control_routes_change_keys_and_modes() {
    let platform = platform().await;
    let post = async |path: &str, body: Value| {
        let request = Request::post(format!("{}/simulator/{path}", platform.simulator.url()))
            .body(Full::new(Bytes::from(body.to_string())))
            .unwrap();
        let (head, text) = send(request).await.unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(head.status(), StatusCode::OK, "{path}: {value}");
        value
    };
    let files = post("certificates", json!({})).await;
    let expected = platform.simulator.certificate_files(DEFAULT_APP_ID);
    assert_eq!(files, json!(expected.unwrap()));
    post("rotate-certificate", json!({})).await;
    let rotated = post("certificates", json!({})).await;
    assert_eq!(files["alipay_root_cert"], rotated["alipay_root_cert"]);
    assert_ne!(files["alipay_cert"], rotated["alipay_cert"]);
    post("platform-certificate", json!({"certificate": "expired"})).await;
    assert_ne!(post("certificates", json!({})).await, rotated);
    post("platform-certificate", json!({"certificate": "current"})).await;
    assert_eq!(post("certificates", json!({})).await, rotated);

    post("app-mode", json!({"mode": "certificate"})).await;
    assert_eq!(platform.simulator.state()["apps"][0]["mode"], "certificate");
    let data = json!({"json": "{\"mobile\":\"1\"}"});
    let message = post("client-data", data).await;
    assert!(message["message"].as_str().unwrap().contains("\"sign\":"));
    post(
        "encrypt-key",
        json!({"encrypt_key": simulator::FIRST_ENCRYPT_KEY}),
    )
    .await;
    let key: Value = serde_json::from_str(KEYS).unwrap();
    let before = platform.simulator.platform_public_key();
    post("platform-key", json!({"private_key": key["app"]})).await;
    assert_ne!(before, platform.simulator.platform_public_key());
    post("app-key", json!({"public_key": before})).await;
    let fixed = json!({"method": "GET", "path": "/v3/x", "status": 204, "body": ""});
    post("answer-v3", fixed).await;
}
