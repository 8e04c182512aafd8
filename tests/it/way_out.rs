//! Where calls go is the configuration's to say alone, and what comes back is read as it came.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Barrier;

use crate::support::supervisor::{Program, Supervisor, program};
use crate::support::upstream::{SUCCESS, reply_of};
use crate::support::{ALIAS, PATIENCE, TestSidecar, client, header, hold_time, json, text, until};

const PAY: &str = "alipay.trade.pay";
const BODY: &str = r#"{"out_trade_no":"1"}"#;

/// Answers every connection with the same bytes, and counts them.
struct Fixed {
    port: u16,
    connections: Arc<AtomicUsize>,
}

impl Fixed {
    async fn start(answer: impl Fn(u16) -> String + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                let mut request = vec![0; 64 << 10];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(answer(port).as_bytes()).await;
            }
        });
        Self { port, connections }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

fn answered(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    )
}

/// A sidecar whose Alipay is at `port`.
async fn sidecar(port: u16) -> TestSidecar {
    TestSidecar::start_with(|config| {
        config.upstream.gateway = Some(format!("http://127.0.0.1:{port}/gateway.do"));
        config.upstream.v3 = Some(format!("http://127.0.0.1:{port}"));
    })
    .await
}

/// What both routes say of a reply: v3 asks for the signature before anything else.
async fn check_refused(sidecar: &TestSidecar, what: &str, v3: &str) {
    let v2 = format!("/v2/{PAY}");
    for (path, code) in [
        (v2.as_str(), "upstream-invalid"),
        ("/v3/alipay/trade/pay", v3),
    ] {
        let request = Request::post(path)
            .header("content-type", "application/json")
            .header("alipay-merchant", ALIAS);
        let reply = sidecar.proxy(request, BODY).await;
        assert_eq!(reply.status, 502, "{what} {path}: {}", text(&reply));
        let error = header(&reply, "alipay-sidecar-error");
        assert_eq!(error, code, "{what} {path}");
        let outcome = header(&reply, "alipay-sidecar-outcome");
        assert_eq!(outcome, "unknown", "{what} {path}");
    }
}

#[tokio::test]
async fn a_redirect_is_followed_nowhere() {
    let elsewhere = Fixed::start(|_| answered("200 OK", "", &reply_of(PAY, SUCCESS))).await;
    let target = elsewhere.port;
    for status in ["301 M", "302 F", "303 S", "307 T", "308 P"] {
        let alipay = Fixed::start(move |_| {
            let location = format!("Location: http://127.0.0.1:{target}/gateway.do\r\n");
            answered(status, &location, "")
        })
        .await;
        let sidecar = sidecar(alipay.port).await;
        check_refused(&sidecar, status, "response-signature-invalid").await;
        assert_eq!(alipay.connections(), 2, "one for each call");
    }
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn a_reply_in_another_coding_is_refused_and_identity_is_none() {
    for coding in [
        "gzip",
        "br",
        "deflate",
        "zstd",
        "GZIP",
        "identity, gzip",
        "x",
    ] {
        let headers = format!("Content-Encoding: {coding}\r\n");
        let alipay = Fixed::start(move |_| {
            let reply = reply_of(PAY, SUCCESS);
            answered("200 OK", &headers, &reply)
        })
        .await;
        check_refused(&sidecar(alipay.port).await, coding, "upstream-invalid").await;
    }
    let twice = "Content-Encoding: identity\r\nContent-Encoding: gzip\r\n";
    let alipay = Fixed::start(move |_| answered("200 OK", twice, &reply_of(PAY, SUCCESS))).await;
    check_refused(&sidecar(alipay.port).await, "twice", "upstream-invalid").await;
    let identity = "Content-Encoding: identity\r\n";
    let alipay = Fixed::start(move |_| answered("200 OK", identity, &reply_of(PAY, SUCCESS))).await;
    let sidecar = sidecar(alipay.port).await;
    let reply = sidecar.post(&format!("/v2/{PAY}"), BODY).await;
    assert_eq!(reply.status, 200, "{}", text(&reply));
    assert_eq!(json(&reply)["code"], "10000");
}

#[tokio::test(flavor = "multi_thread")]
async fn variables_name_no_proxy() {
    let proxy = Fixed::start(|_| answered("200 OK", "", "")).await;
    let mut supervisor = Supervisor::start().await;
    supervisor.let_go();
    let mut command = program(supervisor.path(), &["run"]);
    command.env("NOTIFY_SOCKET", supervisor.path().join("notify"));
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        let address = format!("http://127.0.0.1:{}", proxy.port);
        command
            .env(name, &address)
            .env(name.to_lowercase(), &address);
    }
    let started = command.stderr(Stdio::null()).spawn().expect("started");
    let _program = Program(started);
    supervisor.noticed("READY=1");
    supervisor.verb(&["merchant", "import", "merchants.jsonl"]);
    supervisor.verb(&[
        "call",
        "alipay.trade.query",
        "--merchant",
        "2021000000001001",
        "--biz",
        r#"{"out_trade_no":"1"}"#,
    ]);
    assert_eq!(supervisor.simulator.requests().len(), 1);
    assert_eq!(proxy.connections(), 0);
}

/// Answers each request on a connection, the first once as many have come as `all` waits for; counts in
/// `gone` that the connection was closed.
async fn answer_and_watch(mut stream: TcpStream, all: Arc<Barrier>, gone: Arc<AtomicUsize>) {
    let (mut read, mut is_first) = (Vec::new(), true);
    while stream.read_buf(&mut read).await.expect("no reset") > 0 {
        if !read.ends_with(b"\r\n\r\n") {
            continue;
        }
        if std::mem::take(&mut is_first) {
            all.wait().await;
        }
        read.clear();
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        stream.write_all(answer).await.expect("written");
    }
    gone.fetch_add(1, Ordering::SeqCst);
}

/// Lets seconds pass, bit by bit.
async fn pass(seconds: u32) {
    for _ in 0..10 * seconds {
        tokio::time::advance(Duration::from_millis(100)).await;
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn what_a_burst_of_calls_leaves_open_is_closed_within_fifteen_seconds() {
    const CALLS: usize = 16;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("bound"));
    let (all, gone) = (Arc::new(Barrier::new(CALLS)), Arc::new(AtomicUsize::new(0)));
    let closed = Arc::clone(&gone);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer_and_watch(stream, all.clone(), closed.clone()));
        }
    });
    hold_time();
    let client = client();
    let burst = async |calls: usize| {
        let call = |_| {
            let request = Request::get(&url).body(Full::<Bytes>::default());
            client.send(request.expect("a request"), PATIENCE)
        };
        for reply in futures_util::future::join_all((0..calls).map(call)).await {
            assert_eq!(reply.expect("an answer").status, 200);
        }
    };
    burst(CALLS).await;
    // What is used again is idle from then on, and isn't due when the others are.
    pass(1).await;
    burst(CALLS / 2).await;
    pass(4).await;
    assert_eq!(gone.load(Ordering::SeqCst), 0, "the next call has one");
    pass(11).await;
    until("all are closed", || gone.load(Ordering::SeqCst) == CALLS).await;
}
