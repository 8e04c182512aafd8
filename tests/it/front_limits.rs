//! What anybody may cause is bounded: parameters, bodies, connections, bad signatures, bad codes.

use std::time::Duration;

use alipay_sidecar::net::listener::Peer;
use alipay_sidecar::net::terms::Terms;
use alipay_sidecar::simulator::{
    DEFAULT_APP_ID, Event, FIRST_AUTH_APP_ID, Fault, FaultKind, NotificationState, TriggerOptions,
};
use alipay_sidecar::store::Inbox as _;
use alipay_sidecar::token::TOKEN_METHOD;
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::StreamBody;
use hyper::body::{Body, Frame};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::parts::{Parts, Setting};
use crate::proxy::watched;
use crate::quarantine::from;
use crate::support::upstream::FakeAlipay;
use crate::support::{ADMIN_TOKEN, ALIAS, PATIENCE, TestSidecar, header, raw, text};

const DROPPED: &str = "alipay_sidecar_inbox_refused_dropped_total";

fn pairs(count: usize) -> String {
    let pairs: Vec<_> = (0..count).map(|n| format!("p{n}=")).collect();
    pairs.join("&")
}

#[tokio::test]
async fn a_head_over_the_limit_is_refused_on_every_listener() {
    let sidecar = TestSidecar::start().await;
    for (base, target) in [
        (&sidecar.proxy, "/v2/alipay.trade.query"),
        (&sidecar.webhook, "/alipay/gateway"),
        (&sidecar.webhook, "/alipay/auth/start"),
        (&sidecar.webhook, "/alipay/auth"),
        (&sidecar.admin, "/livez"),
        (&sidecar.admin, "/api/apps"),
    ] {
        for (length, is_refused) in [(60_000, false), (66_000, true)] {
            let request = format!(
                "GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX: {}\r\n\r\n",
                "x".repeat(length)
            );
            let answer = raw::exchange(base, request.as_bytes()).await;
            let status = answer.lines().next().unwrap_or_default();
            assert_eq!(status.contains(" 431 "), is_refused, "{target}: {status}");
        }
    }
}

/// A request of so many fields.
fn with_fields(target: &str, count: usize) -> String {
    let more: String = (3..=count).map(|n| format!("X{n}: {n}\r\n")).collect();
    format!("POST {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{more}\r\n")
}

#[tokio::test]
async fn too_many_fields_or_too_long_a_target_is_told_as_every_other_refusal() {
    const MOST: usize = 512;
    let sidecar = TestSidecar::start().await;
    let too_long = format!("/v2/{}", "x".repeat(70_000));
    let told = [
        " 431 ",
        "alipay-sidecar-error: headers-too-large",
        "alipay-sidecar-request-id: ",
    ];
    let in_200 = [
        " 200 ",
        told[1],
        r#""sub_code":"sidecar.headers-too-large""#,
    ];
    for (base, request, expected) in [
        (
            &sidecar.proxy,
            with_fields("/v2/alipay.trade.pay", MOST + 1),
            told,
        ),
        (
            &sidecar.proxy,
            with_fields("/v3/alipay/trade/pay", 9_000),
            told,
        ),
        (&sidecar.proxy, with_fields("/gateway.do", 2_000), in_200),
        (&sidecar.proxy, with_fields(&too_long, 3), told),
        (
            &sidecar.proxy,
            with_fields(&too_long.replace("v2/", "gateway.do?"), 3),
            in_200,
        ),
        (
            &sidecar.webhook,
            with_fields("/alipay/gateway", MOST + 1),
            [" 431 ", "fail", ""],
        ),
        (
            &sidecar.admin,
            with_fields("/livez", MOST + 1),
            [" 431 ", "headers-too-large", ""],
        ),
        (
            &sidecar.admin,
            with_fields("/api/apps", MOST + 1),
            [" 431 ", "headers-too-large", ""],
        ),
    ] {
        // What stands behind it, or would have been its body, is never read.
        let more = with_fields("/livez", 3);
        let answer = raw::exchange(base, format!("{request}{more}").as_bytes()).await;
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
        for part in expected {
            assert!(answer.contains(part), "{part} in {answer}");
        }
        assert!(answer.contains("connection: close"), "{answer}");
    }
    for (base, target) in [
        (&sidecar.proxy, "/v2/alipay.trade.pay"),
        (&sidecar.admin, "/livez"),
    ] {
        let answer = raw::exchange(base, with_fields(target, MOST).as_bytes()).await;
        assert!(!answer.contains("headers-too-large"), "{answer}");
        assert!(!answer.contains(" 431 "), "{answer}");
    }
    let refused =
        r#"alipay_sidecar_requests_total{api="v2",method="none",outcome="headers-too-large"}"#;
    assert_eq!(sidecar.metric(refused).await, 2.0);
}

#[tokio::test]
async fn whatever_is_asked_for_the_head_is_looked_at_first() {
    let sidecar = TestSidecar::start().await;
    let proxy = "/ /x /calls /calls/1 /events/claim /events/1/ack /gateway.do /m/x/v2/a /v2/a \
                 /v2/a/order-string /v2/client-data/decrypt /v3/a /verify/return /verify/app-result";
    let admin = "/ /x /livez /readyz /metrics /words.js /api/apps /api/openapi.json /api/x";
    for (base, targets) in [(&sidecar.proxy, proxy), (&sidecar.admin, admin)] {
        for target in targets.split_ascii_whitespace() {
            for method in ["GET", "POST", "OPTIONS"] {
                let request = with_fields(target, 600).replace("POST", method);
                let answer = raw::exchange(base, request.as_bytes()).await;
                let expected = "alipay-sidecar-error: headers-too-large";
                assert!(answer.contains(expected), "{method} {target}: {answer}");
            }
        }
    }
    for target in ["notify", "notify/x", "auth", "auth/start"] {
        let request = with_fields(&format!("/alipay/{target}"), 600);
        let answer = raw::exchange(&sidecar.webhook, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{target}: {answer}");
    }
    // As Alipay's demo refuses.
    let spi = with_fields("/alipay/spi/x", 600);
    let answer = raw::exchange(&sidecar.webhook, spi.as_bytes()).await;
    assert!(answer.contains("ISV-VERIFICATION-FAILED"), "{answer}");
}

#[tokio::test]
async fn a_head_with_too_many_fields_may_come_in_pieces_and_behind_another() {
    let sidecar = TestSidecar::start().await;
    let first = with_fields("/v2/alipay.trade.pay", 3).replace("close", "keep-alive");
    let head = with_fields("/v2/alipay.trade.pay", 600);
    let mut stream = raw::open(&sidecar.proxy, first.as_bytes()).await;
    let mut answer = vec![0; 4096];
    let read = stream.read(&mut answer).await.expect("an answer");
    assert!(answer[..read].starts_with(b"HTTP/1.1 400"));
    let sent = async {
        for piece in head.as_bytes().chunks(501) {
            // It may be closed before.
            let _ = stream.write_all(piece).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.expect("an answer");
        rest
    };
    let rest = tokio::time::timeout(PATIENCE, sent).await.expect("an end");
    assert!(rest.contains("headers-too-large"), "{rest}");
    assert_eq!(rest.matches("HTTP/1.1 ").count(), 1, "{rest}");
}

#[tokio::test]
async fn what_stands_behind_a_number_sign_is_not_lost_unsaid() {
    let sidecar = TestSidecar::start().await;
    let target = "/v2/alipay.trade.wap.pay/page-url?return_url=https://shop.example/#/paid&notify_url=/orders";
    for (base, target, expected) in [
        (&sidecar.proxy, target, "parameter-invalid"),
        (
            &sidecar.proxy,
            "/gateway.do?method=alipay.trade.query#",
            "parameter-invalid",
        ),
        (
            &sidecar.proxy,
            "/v3/alipay/trade/query?a=1#b",
            "parameter-invalid",
        ),
        (&sidecar.admin, "/api/apps#x", "parameter-invalid"),
        (&sidecar.webhook, "/alipay/gateway#x", " 400 "),
    ] {
        let request = format!(
            "POST {target} HTTP/1.1\r\nHost: localhost\r\nX: #\r\nContent-Length: 2\r\n\r\n{{}}"
        );
        // The connection ends with the answer.
        let answer = raw::exchange(base, request.as_bytes()).await;
        assert!(answer.contains(expected), "{target}: {answer}");
    }
    let fine = "POST /v2/alipay.trade.query HTTP/1.1\r\nHost: localhost\r\nX: #\r\n\
                Alipay-Merchant: nobody\r\nConnection: close\r\nContent-Length: 3\r\n\r\n{}#";
    let answer = raw::exchange(&sidecar.proxy, fine.as_bytes()).await;
    assert!(answer.contains("body-invalid"), "{answer}");
    // The rest of a body that nobody read is no line either.
    let head =
        "PUT /api/apps/2021000000000001 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\n";
    let mut stream = raw::open(&sidecar.admin, head.as_bytes()).await;
    let mut answer = vec![0; 4096];
    let read = stream.read(&mut answer).await.expect("an answer");
    assert!(answer[..read].starts_with(b"HTTP/1.1 401"));
    let next = "#42!GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(next.as_bytes()).await.expect("written");
    let mut rest = String::new();
    // It may be closed instead, but isn't refused for what isn't there.
    let _ = stream.read_to_string(&mut rest).await;
    assert!(!rest.contains("parameter-invalid"), "{rest}");
}

#[tokio::test]
async fn a_target_with_a_byte_that_may_not_stand_there_is_told_so_in_the_shape_of_its_route() {
    const CODE: &str = "alipay-sidecar-error: parameter-invalid";
    const ID: &str = "alipay-sidecar-request-id: ";
    let sidecar = TestSidecar::start().await;
    let biz = br#"biz_content={"out_trade_no":"1"}"#;
    let gateway = [b"/gateway.do?method=alipay.trade.query&", &biz[..]].concat();
    let in_200 = [
        " 200 ",
        CODE,
        r#""sub_code":"sidecar.parameter-invalid""#,
        ID,
    ];
    let problem = [" 400 ", CODE, "application/problem+json", "%22"];
    let v3 = [" 400 ", CODE, r#""code":"#, ID];
    for (base, target, expected) in [
        (&sidecar.proxy, &gateway[..], in_200),
        (
            &sidecar.proxy,
            b"/gateway.do?subject=\xD6\xA7\xB8\xB6",
            in_200,
        ),
        (&sidecar.proxy, b"/gateway.do?subject=\xE6\x94", in_200),
        (&sidecar.proxy, b"/v2/alipay.trade.query?a=<b>", problem),
        (&sidecar.proxy, b"/v2/alipay.trade.query?a=\x7F", problem),
        (&sidecar.proxy, b"/v2/alipay.trade.query?a=1 2", problem),
        (&sidecar.proxy, b"/v2/alipay.trade.query?a={\n}", problem),
        (&sidecar.proxy, b"/v3/alipay/trade/query?a=\"b\"", v3),
        (&sidecar.proxy, b"`", [" 400 ", CODE, ID, ""]),
        (&sidecar.admin, b"/api/apps?x=\"", [" 400 ", CODE, ID, ""]),
        (&sidecar.admin, b"/livez?\"", [" 400 ", CODE, ID, ""]),
        (
            &sidecar.webhook,
            b"/alipay/gateway?\"",
            [" 400 ", "fail", "", ""],
        ),
        (
            &sidecar.webhook,
            b"/alipay/auth?state=\"",
            [" 400 ", "", "", ""],
        ),
    ] {
        let fields =
            b" HTTP/1.1\r\nHost: localhost\r\nAlipay-Merchant: shop\r\nContent-Length: 2\r\n\r\n{}";
        let next = with_fields("/livez", 3);
        let request = [b"POST ", target, fields, next.as_bytes()].concat();
        let answer = raw::exchange(base, &request).await;
        let shown = target.escape_ascii();
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{shown}: {answer}");
        for part in expected {
            assert!(answer.contains(part), "{shown}: {part} in {answer}");
        }
        assert!(answer.contains("connection: close"), "{shown}: {answer}");
    }
    let counted =
        r#"alipay_sidecar_requests_total{api="v2",method="none",outcome="parameter-invalid"}"#;
    assert!(sidecar.metric(counted).await >= 3.0);
    // What hyper takes raw is taken as ever.
    let fine = "POST /v2/alipay.trade.query?a={'|^`}支 HTTP/1.1\r\nHost: localhost\r\n\
                Alipay-Merchant: nobody\r\nConnection: close\r\nX: \"<>\r\nContent-Length: 2\r\n\r\n{}";
    let answer = raw::exchange(&sidecar.proxy, fine.as_bytes()).await;
    assert!(!answer.contains("percent-encode"), "{answer}");
    assert!(answer.contains("alipay-sidecar-error: "), "{answer}");
}

/// How many answers come to what is sent in these parts, with a pause between them.
async fn answers(base: &str, parts: &[&[u8]]) -> usize {
    let address = base.strip_prefix("http://").expect("an address");
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let (mut reading, mut writing) = stream.split();
    let send = async {
        for part in parts {
            writing.write_all(part).await.expect("it reads");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        writing.shutdown().await.expect("open");
    };
    let mut read = Vec::new();
    let (_, all) = tokio::join!(send, reading.read_to_end(&mut read));
    all.expect("answers");
    let read = String::from_utf8_lossy(&read);
    assert_eq!(
        read.matches(" 200 OK\r\n").count(),
        read.matches("HTTP/1.1 ").count()
    );
    read.matches("HTTP/1.1 ").count()
}

#[tokio::test]
async fn whoever_sends_ahead_is_answered_however_his_heads_are_divided() {
    let sidecar = TestSidecar::start().await;
    let ask = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: Basic \"a b\"\r\n\r\n";
    for at in [1, 5, 12, 25, ask.len() - 2] {
        let (begun, rest) = ask.split_at(at);
        let first = [&ask[..], begun].concat();
        let second = [rest, &ask[..], begun].concat();
        assert_eq!(
            answers(&sidecar.admin, &[&first, &second, rest]).await,
            4,
            "{at}"
        );
    }
    let many = ask.repeat(600);
    assert_eq!(answers(&sidecar.admin, &[&many]).await, 600);
}

/// The head of the next answer of a connection, in lower case; none where that has ended.
async fn next_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let read = async {
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.ok()?);
        }
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let length = head.split_once("content-length: ").expect("a length").1;
        let length = length.split("\r\n").next().expect("a line");
        let mut body = vec![0; length.parse().expect("a number")];
        stream.read_exact(&mut body).await.ok()?;
        Some(head)
    };
    let read = tokio::time::timeout(PATIENCE, read).await;
    read.expect("an answer, or the end")
}

/// What is refused before its body has come.
type Refusal<'a> = (&'a str, &'a str, &'a str, u16);

/// A body of `length` bytes; what has come of it comes after the head.
async fn refused(
    (base, target, headers, status): Refusal<'_>,
    length: usize,
    came: &[u8],
) -> (TcpStream, bool) {
    let head = format!(
        "POST {target} HTTP/1.1\r\nhost: {}\r\n{headers}content-length: {length}\r\n\r\n",
        raw::authority(base)
    );
    let mut stream = raw::open(base, head.as_bytes()).await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    stream.write_all(came).await.expect("written");
    let first = next_head(&mut stream).await.expect("an answer");
    let expected = format!("http/1.1 {status} ");
    assert!(first.starts_with(&expected), "{target}: {first}");
    let is_told = first.contains("\r\nconnection: close\r\n");
    if !is_told {
        let again = [head.as_bytes(), came].concat();
        stream.write_all(&again).await.expect("written");
        let second = next_head(&mut stream).await;
        let second = second.unwrap_or_else(|| panic!("{target}: it ended unsaid"));
        assert!(second.starts_with(&expected), "{target}: {second}");
    }
    (stream, is_told)
}

#[tokio::test]
async fn who_is_refused_before_his_body_has_come_may_ask_again_or_is_told() {
    let sidecar = TestSidecar::start().await;
    let (proxy, webhook, admin) = (&*sidecar.proxy, &*sidecar.webhook, &*sidecar.admin);
    let of_page = "origin: https://x.example\r\n";
    let waits = "expect: 100-continue\r\n";
    let (call, notify) = ("/v2/alipay.trade.query", "/alipay/notify");
    let served = [
        (proxy, "/nix", "", 404),
        (proxy, call, of_page, 403),
        (webhook, "/nix", "", 404),
        (admin, "/api/reload", "", 401),
    ];
    let drained = [(proxy, call, "", 503), (webhook, notify, "", 503)];
    for refusals in [&served[..], &drained] {
        if refusals == &drained[..] {
            let drain = sidecar.admin(Method::POST, "/api/drain?wait=0s", "").await;
            assert_eq!(drain.status, StatusCode::ACCEPTED);
        }
        for &refusal in refusals {
            // It comes at once, as far as that can be said.
            let mut tries = 0;
            while refused(refusal, 2, b"{}").await.1 {
                tries += 1;
                assert!(tries < 10, "{refusal:?}: never kept");
            }
            let (base, target, _, status) = refusal;
            for (refusal, length) in [(refusal, 2), (refusal, 1 << 20)] {
                let (mut stream, is_told) = refused(refusal, length, b"{").await;
                assert!(is_told, "{refusal:?}");
                assert_eq!(next_head(&mut stream).await, None);
            }
            if refusal.2.is_empty() {
                assert!(refused((base, target, waits, status), 2, b"").await.1);
            }
        }
    }
}

#[tokio::test]
async fn what_is_no_request_at_all_is_told_in_the_log_once_a_minute() {
    let log = tempfile::NamedTempFile::new().expect("a file");
    let written = log.reopen().expect("a file");
    let lines = tracing_subscriber::fmt().with_max_level(tracing::Level::INFO);
    let lines = lines.with_writer(std::sync::Arc::new(written)).finish();
    crate::support::ask_every_subscriber();
    let _lines = tracing::subscriber::set_default(lines);
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xFC\x03\x03 a\n".to_vec();
    let with = |rest: &str| format!("POST /x HTTP/1.1\r\nHost: x\r\n{rest}\r\n\r\n").into_bytes();
    for (sent, said) in [
        (hello, "begins as TLS does"),
        (with("Content-Length: 20, 20"), "is no request of HTTP/1.1"),
        (
            with("Transfer-Encoding: identity"),
            "is no request of HTTP/1.1",
        ),
        (
            b"GET / HTTP/2.0\r\n\r\n".to_vec(),
            "is no request of HTTP/1.1",
        ),
    ] {
        let sidecar = TestSidecar::start().await;
        let before = std::fs::read_to_string(log.path()).expect("text").len();
        for _ in 0..3 {
            let answer = raw::exchange(&sidecar.proxy, &sent).await;
            let shown = sent.escape_ascii();
            assert!(answer.starts_with("HTTP/1.1 400 "), "{shown}: {answer}");
        }
        let log = std::fs::read_to_string(log.path()).expect("text");
        let log = log.get(before..).unwrap_or_default();
        assert_eq!(log.matches(said).count(), 1, "{log}");
        assert!(log.contains("127.0.0.1"), "{log}");
    }
}

#[tokio::test]
async fn more_parameters_than_anybody_needs_are_refused_wherever_they_are_read() {
    let (alipay, sidecar) = watched().await;
    let (many, parts) = (pairs(1001), 101);
    let parts: String = (0..parts)
        .map(|n| format!("--x\r\nContent-Disposition: form-data; name=\"p{n}\"\r\n\r\n1\r\n"))
        .collect();
    let upload = (
        "multipart/form-data; boundary=x",
        format!("{parts}--x--\r\n"),
    );
    let form = ("application/x-www-form-urlencoded", many.clone());
    let none = ("text/plain", String::new());
    for (path, (content_type, body), error) in [
        (format!("/gateway.do?{many}"), &none, "parameter-invalid"),
        (
            "/gateway.do?method=alipay.trade.pay".to_owned(),
            &form,
            "parameter-invalid",
        ),
        (
            format!("/v2/alipay.trade.pay?{many}"),
            &none,
            "parameter-invalid",
        ),
        ("/v2/alipay.trade.pay".to_owned(), &upload, "body-invalid"),
        (
            "/gateway.do?method=alipay.trade.pay".to_owned(),
            &upload,
            "body-invalid",
        ),
        ("/verify/return".to_owned(), &form, "parameter-invalid"),
    ] {
        let request = Request::post(path.clone())
            .header("alipay-merchant", ALIAS)
            .header("content-type", *content_type);
        let reply = sidecar.proxy(request, body.clone()).await;
        assert_eq!(
            header(&reply, "alipay-sidecar-error"),
            error,
            "{path:.40} {}",
            text(&reply)
        );
    }
    let looked_up = Request::get(format!("/calls?{many}"));
    let reply = sidecar.proxy(looked_up, "").await;
    assert_eq!(header(&reply, "alipay-sidecar-error"), "parameter-invalid");
    for (method, path, body) in [
        (Method::POST, "/alipay/gateway".to_owned(), many.clone()),
        (Method::GET, format!("/alipay/auth?{many}"), String::new()),
        (
            Method::GET,
            format!("/alipay/auth/start?{many}"),
            String::new(),
        ),
    ] {
        let request = Request::builder().method(method).uri(&path);
        let reply = sidecar.webhook(request, body).await;
        assert_eq!(reply.status.as_u16(), 400, "{path:.40}");
    }
    assert!(alipay.is_quiet().await);
}

#[tokio::test]
async fn as_many_parameters_as_may_be_cost_no_time() {
    let (alipay, sidecar) = watched().await;
    let began = std::time::Instant::now();
    let path = "/gateway.do?method=alipay.trade.pay";
    let request = Request::post(path).header("alipay-merchant", ALIAS);
    let reply = sidecar.proxy(request, pairs(1000)).await;
    assert_eq!(
        header(&reply, "alipay-sidecar-error"),
        "",
        "{}",
        text(&reply)
    );
    assert!(began.elapsed() < PATIENCE / 4, "{:?}", began.elapsed());
    alipay.next().await;
}

/// Sends a head and all but the last byte of a body of `length` bytes.
async fn unfinished(sidecar: &TestSidecar, length: usize) -> TcpStream {
    let head = format!(
        "POST /v2/alipay.trade.pay HTTP/1.1\r\nHost: localhost\r\nAlipay-Merchant: {ALIAS}\r\n\
         Content-Length: {length}\r\n\r\n"
    );
    let mut stream = raw::open(&sidecar.proxy, head.as_bytes()).await;
    let body = vec![b' '; length - 1];
    stream.write_all(&body).await.expect("taken");
    stream
}

#[tokio::test]
async fn bodies_that_do_not_come_keep_nobody_from_a_call() {
    let alipay = FakeAlipay::start().await;
    let sidecar = TestSidecar::start_with(|config| {
        config.upstream.gateway = Some(alipay.gateway());
        config.proxy.max_in_flight = 1;
    })
    .await;
    let mut slow = Vec::new();
    for _ in 0..20 {
        slow.push(unfinished(&sidecar, 100).await);
    }
    let reply = sidecar.post("/v2/alipay.trade.pay", "{}").await;
    assert_eq!(
        header(&reply, "alipay-sidecar-error"),
        "",
        "{}",
        text(&reply)
    );
}

#[tokio::test]
async fn the_bodies_of_all_calls_share_a_room_and_who_finds_none_is_told_at_once() {
    let alipay = FakeAlipay::start().await;
    let sidecar = TestSidecar::start_with(|config| {
        config.upstream.gateway = Some(alipay.gateway());
        // As large as the room, so that one body fills it.
        config.proxy.max_body = 64 << 20;
    })
    .await;
    let mut held = unfinished(&sidecar, 64 << 20).await;
    let refused = async {
        loop {
            let body = format!("{{}}{:200}", "");
            let reply = sidecar.post("/v2/alipay.trade.pay", body).await;
            if header(&reply, "alipay-sidecar-error") == "overloaded" {
                break reply;
            }
            // A call that was made meanwhile may have taken what the large one needed.
            if held.try_read(&mut [0]).is_ok() {
                held = unfinished(&sidecar, 64 << 20).await;
            }
        }
    };
    let reply = tokio::time::timeout(PATIENCE, refused).await;
    let reply = reply.expect("the room is full");
    assert_eq!(
        (reply.status.as_u16(), header(&reply, "retry-after")),
        (503, "1")
    );
    let live = sidecar.admin(Method::GET, "/livez", "").await;
    assert_eq!(live.status, StatusCode::OK);
    drop(held);
    let served = async {
        while !sidecar
            .post("/v2/alipay.trade.pay", "{}")
            .await
            .status
            .is_success()
        {}
    };
    let served = tokio::time::timeout(PATIENCE, served).await;
    served.expect("what broke off gives its room back");
}

/// A notification from `address` of which a mebibyte comes, and then nothing.
fn unending(address: &str) -> Request<impl Body<Data = Bytes, Error = std::io::Error> + Send> {
    let piece = Frame::data(Bytes::from(vec![b'a'; 1 << 20]));
    let comes = futures_util::stream::iter([Ok(piece)]);
    let frames = futures_util::StreamExt::chain(comes, futures_util::stream::pending());
    let request = Request::post("/alipay/gateway").header("host", "isv.example.com");
    let mut request = request.body(StreamBody::new(frames)).expect("a request");
    let address = format!("{address}:4711").parse().expect("an address");
    request.extensions_mut().insert(Peer::Tcp(address));
    request
}

#[tokio::test]
async fn who_fills_the_room_for_notifications_keeps_out_his_own_network_alone() {
    let parts = Parts::new(Setting::default()).await;
    // An eighth of 64 MiB.
    let held: Vec<_> = (0..8)
        .map(|_| {
            let webhook = parts.webhook.clone();
            tokio::spawn(async move { webhook.handle(unending("203.0.113.7")).await.status() })
        })
        .collect();
    let status = async |address| from(&parts, address, "app_id=1").await.0;
    let filled = async {
        while status("203.0.113.7").await != StatusCode::SERVICE_UNAVAILABLE {
            tokio::task::yield_now().await;
        }
    };
    let filled = tokio::time::timeout(PATIENCE, filled).await;
    filled.expect("its share is taken");
    for address in ["203.0.113.8", "10.0.0.1"] {
        assert_eq!(status(address).await, StatusCode::BAD_REQUEST, "{address}");
    }
    held.iter().for_each(tokio::task::JoinHandle::abort);
    for ended in held {
        assert!(ended.await.expect_err("aborted").is_cancelled());
    }
    assert_eq!(status("203.0.113.7").await, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_listener_has_so_many_connections_and_the_next_waits_for_one() {
    let terms = Terms {
        connections: 2,
        ..Terms::default()
    };
    let sidecar = TestSidecar::start_on(terms, |_, _| (), |_, builder| builder).await;
    let ask = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let answered = async |stream: &mut TcpStream| {
        let mut answer = [0; 12];
        let read = tokio::time::timeout(PATIENCE, stream.read_exact(&mut answer)).await;
        read.expect("in time").expect("an answer");
        assert_eq!(&answer, b"HTTP/1.1 200");
    };
    let mut first = raw::open(&sidecar.admin, ask).await;
    answered(&mut first).await;
    let mut second = raw::open(&sidecar.admin, ask).await;
    answered(&mut second).await;
    let mut third = raw::open(&sidecar.admin, ask).await;
    let early = tokio::time::timeout(Duration::from_millis(300), third.read_u8()).await;
    assert!(early.is_err(), "there are two connections already");
    drop(first);
    answered(&mut third).await;
}

#[tokio::test]
async fn the_admin_port_refuses_what_others_may_read_differently() {
    let sidecar = TestSidecar::start().await;
    let token = format!("Authorization: Bearer {ADMIN_TOKEN}");
    for (path, fields, status) in [
        ("/livez", "Host: localhost", "200"),
        ("/livez", "Host: sidecar.example", "200"),
        ("/livez", "Host: localhost\r\nHost: localhost", "400"),
        ("/livez", "X: y", "400"),
        ("/metrics", "Host: a@localhost", "400"),
        ("/api/apps", &format!("Host: localhost\r\n{token}"), "200"),
        (
            "/api/apps",
            &format!("Host: localhost\r\n{token}\r\nConnection: Authorization"),
            "400",
        ),
        (
            "/api/apps",
            &format!("Host: localhost\r\n{token}\r\nTransfer-Encoding: gzip, chunked"),
            "400",
        ),
        ("/api/apps", "Host: localhost\r\nHost: localhost", "403"),
    ] {
        let connection = match fields.contains("Connection") {
            true => "",
            false => "Connection: close\r\n",
        };
        let request = format!("GET {path} HTTP/1.1\r\n{fields}\r\n{connection}\r\n");
        let mut stream = raw::open(&sidecar.admin, request.as_bytes()).await;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.expect("an answer");
        let expected = format!("HTTP/1.1 {status}");
        assert_eq!(String::from_utf8_lossy(&answer), expected, "{fields}");
    }
}

#[tokio::test]
async fn a_flood_of_bad_signatures_is_answered_but_not_looked_at_and_keeps_alipay_out_of_nothing() {
    let parts = Parts::new(Setting::default()).await;
    let sent = parts
        .trigger(Event::Payment, TriggerOptions::default())
        .await;
    assert_eq!(sent.state, NotificationState::Acked);
    let flood = "203.0.113.7";
    for n in 0..900 {
        let forged = sent.body.replace("TRADE_SUCCESS", &format!("FORGED_{n}"));
        let answer = from(&parts, flood, &forged).await;
        assert_eq!(answer, (StatusCode::BAD_REQUEST, "fail".to_owned()));
    }
    let limited = || parts.count(DROPPED, "limited").round();
    assert_eq!(limited(), 300.0);
    // Alipay comes by the same ingress.
    let answer = from(&parts, flood, &sent.body).await;
    assert_eq!(answer, (StatusCode::OK, "success".to_owned()));
    // And somebody else's is still kept, so that it can be explained.
    let other = sent.body.replace("TRADE_SUCCESS", "FORGED");
    from(&parts, "198.51.100.1", &other).await;
    parts.webhook.flush().await;
    let kept = parts.store.refused(None, 2000).await.expect("readable");
    assert!(kept.iter().any(|one| one.peer == "198.51.100.1"));
    // So is the flood's own again, at a rate.
    parts.clock.advance_ms(1000);
    for n in 0..3 {
        from(&parts, flood, &format!("app_id=1&sign=x{n}")).await;
    }
    assert_eq!(limited(), 301.0);
}

#[tokio::test]
async fn codes_that_alipay_refuses_are_so_many_a_minute_and_good_ones_cost_nothing() {
    let parts = Parts::new(Setting::default()).await;
    let callback = async |code: &str| {
        let path = format!("/alipay/auth?app_id={DEFAULT_APP_ID}&app_auth_code={code}");
        parts.get(&path).await
    };
    let good = || {
        let code = parts.simulator.app_auth_code(None, &[FIRST_AUTH_APP_ID]);
        code.expect("a merchant")
    };
    let known = good();
    for code in std::iter::once(known.clone()).chain((0..40).map(|_| good())) {
        assert_eq!(callback(&code).await.status(), StatusCode::OK);
    }
    for n in 0..30 {
        assert_eq!(
            callback(&format!("bad{n}")).await.status(),
            StatusCode::BAD_REQUEST
        );
    }
    let asked = parts.asked(TOKEN_METHOD);
    let late = good();
    for code in ["bad30", &late] {
        let answer = callback(code).await;
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE, "{code}");
        let again = answer.headers().get("retry-after").expect("a time");
        assert_eq!(again, "2");
    }
    assert_eq!(
        parts.asked(TOKEN_METHOD),
        asked,
        "Alipay isn't asked any more"
    );
    assert_eq!(
        callback(&known).await.status(),
        StatusCode::OK,
        "nothing to ask"
    );
    parts.clock.advance_ms(2000);
    assert_eq!(callback(&late).await.status(), StatusCode::OK, "reloaded");
}

#[tokio::test]
async fn who_sends_bad_codes_keeps_himself_out_and_no_merchant() {
    let parts = Parts::new(Setting::default()).await;
    let callback = async |address: &str, code: &str| {
        let path = format!("/alipay/auth?app_id={DEFAULT_APP_ID}&app_auth_code={code}");
        parts.get_from(address, &path).await
    };
    let good = || {
        let code = parts.simulator.app_auth_code(None, &[FIRST_AUTH_APP_ID]);
        code.expect("a merchant")
    };
    for n in 0..100 {
        let expected = match n {
            0..4 => StatusCode::BAD_REQUEST,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        let found = callback("203.0.113.7", &format!("bad{n}")).await;
        assert_eq!(found.status(), expected, "{n}");
        if expected == StatusCode::SERVICE_UNAVAILABLE {
            // As long as his own share takes, though there is room in the whole.
            assert_eq!(found.headers()["retry-after"], "16");
        }
    }
    // An ingress is everybody.
    for others in ["203.0.113.8", "10.0.0.1"] {
        assert_eq!(callback(others, &good()).await.status(), StatusCode::OK);
    }
    parts.clock.advance_ms(16_000);
    let late = callback("203.0.113.7", &good()).await;
    assert_eq!(late.status(), StatusCode::OK, "reloaded");
}

#[tokio::test]
async fn an_alipay_that_fails_is_counted_against_nobody() {
    let parts = Parts::new(Setting::default()).await;
    let callback = async |code: &str| {
        let path = format!("/alipay/auth?app_id={DEFAULT_APP_ID}&app_auth_code={code}");
        parts.get(&path).await.status()
    };
    for n in 0..40 {
        parts.simulator.fault(Fault::once(FaultKind::Html));
        let found = callback(&format!("code{n}")).await;
        assert_eq!(found, StatusCode::BAD_GATEWAY, "{n}");
    }
}
