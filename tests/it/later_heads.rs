//! The heads of a connection behind its first: what may not stand in one is told as in the first, wherever
//! it is sure to begin, and nothing else is ever taken for one.

use std::convert::Infallible;
use std::time::Duration;

use alipay_sidecar::net::body::RequestBody;
use alipay_sidecar::net::head;
use alipay_sidecar::net::listener::Listener;
use alipay_sidecar::net::serve::serve;
use alipay_sidecar::net::shutdown::Shutdown;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{PATIENCE, TestSidecar, raw};

/// What a client that waits for each answer has of a connection.
struct Asking {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Asking {
    async fn of(base: &str) -> Self {
        let stream = raw::open(base, b"").await;
        stream.set_nodelay(true).expect("open");
        Self {
            stream,
            read: Vec::new(),
        }
    }

    /// Writes these one after another, with a pause that lets the server read each by itself.
    async fn write<T: AsRef<[u8]>>(&mut self, pieces: impl IntoIterator<Item = T>) {
        for piece in pieces {
            // It may be closed before.
            let _ = self.stream.write_all(piece.as_ref()).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// The next answer, without a `100 Continue` before it; what it has of a body, unless that isn't sent.
    async fn answer(&mut self, has_body: bool) -> String {
        let more = async {
            loop {
                let read = String::from_utf8_lossy(&self.read).into_owned();
                if let Some((head, body)) = read.split_once("\r\n\r\n") {
                    let length = head
                        .lines()
                        .find_map(|l| l.strip_prefix("content-length: "));
                    let length = length.map_or(0, |length| length.parse().expect("a length"));
                    let length = if has_body { length } else { 0 };
                    if head.starts_with("HTTP/1.1 100 ") {
                        self.read.drain(..head.len() + 4);
                        continue;
                    }
                    if body.len() >= length {
                        let whole = self.read.drain(..head.len() + 4 + length);
                        return String::from_utf8_lossy(&whole.collect::<Vec<_>>()).into_owned();
                    }
                }
                let count = self.stream.read_buf(&mut self.read).await;
                assert_ne!(count.expect("open"), 0, "it ends after {read:?}");
            }
        };
        let answer = tokio::time::timeout(PATIENCE, more).await;
        answer.expect("an answer in time")
    }

    /// All that still comes, once nothing more is sent.
    async fn rest(mut self) -> String {
        // It may be closed already.
        let _ = self.stream.shutdown().await;
        let read = self.stream.read_to_end(&mut self.read);
        // What was sent behind the end of a connection breaks it.
        let _ = tokio::time::timeout(PATIENCE, read).await.expect("an end");
        String::from_utf8_lossy(&self.read).into_owned()
    }
}

/// A request of the proxy that is answered, and its connection kept.
fn post(fields: &str, rest: &str) -> String {
    format!(
        "POST /v2/alipay.trade.query HTTP/1.1\r\nHost: localhost\r\nAlipay-Merchant: nobody\r\n{fields}\r\n\r\n{rest}"
    )
}

#[tokio::test]
async fn a_byte_that_may_not_stand_in_a_later_target_is_told_in_the_shape_of_its_route() {
    let sidecar = TestSidecar::start().await;
    let get = "GET /v3/alipay/trade/query HTTP/1.1\r\nHost: localhost\r\nX: #\"\r\n\r\n";
    let chunked = "4\r\n{\"a\"\r\n4;x=y\r\n:1} \r\n0\r\n\r\n";
    let expects = "Expect: 100-continue\r\nContent-Length: 2";
    let firsts = [
        vec![get.to_owned()],
        vec![get[..30].to_owned(), get[30..].to_owned()],
        vec![get.to_owned() + "\r\n"],
        vec![
            get.replace("HTTP/1.1", "HTTP/1.0")
                .replace("X: #\"", "Connection: keep-alive"),
        ],
        vec![get.replace("GET", "HEAD")],
        vec![get.replace("X: #\"", "Connection: upgrade\r\nUpgrade: h2c")],
        vec![post("Content-Length: 2", "{}")],
        vec![post("Content-Length: 0", "")],
        vec![post("Content-Length: 2", ""), "{}".to_owned()],
        vec![post("Content-Length: 2", "{"), "}".to_owned()],
        vec![post("Content-Length: 2", "").replace("v2/", "x/") + "{}"],
        vec![post(expects, ""), "{}".to_owned()],
        vec![post("Transfer-Encoding: chunked", chunked)],
        vec![
            post("Transfer-Encoding: chunked", &chunked[..9]),
            chunked[9..].to_owned(),
        ],
    ];
    for first in firsts {
        let mut asking = Asking::of(&sidecar.proxy).await;
        for (target, expected) in [
            ("/v2/alipay.trade.query?a=<b>", " 400 "),
            ("/gateway.do?biz_content={\"a\":1}", " 200 "),
        ] {
            let bad = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            asking.write(&first).await;
            let answer = asking.answer(!first[0].starts_with("HEAD")).await;
            assert!(!answer.contains("percent-encode"), "{first:?}: {answer}");
            asking.write(&first).await;
            asking.answer(!first[0].starts_with("HEAD")).await;
            asking.write([&bad[..20], &bad[20..]]).await;
            let answer = asking.rest().await;
            assert_eq!(answer.matches("HTTP/1.").count(), 1, "{first:?}: {answer}");
            for part in [
                expected,
                "alipay-sidecar-error: parameter-invalid",
                "alipay-sidecar-request-id: ",
                "connection: close",
            ] {
                assert!(answer.contains(part), "{first:?} {target}: {answer}");
            }
            asking = Asking::of(&sidecar.proxy).await;
        }
    }
}

#[tokio::test]
async fn a_version_that_is_none_is_told_as_one() {
    let sidecar = TestSidecar::start().await;
    let request = "GET /v2/alipay.trade.query http/1.1\r\nHost: localhost\r\n\r\n";
    let answer = raw::exchange(&sidecar.proxy, request.as_bytes()).await;
    assert!(
        answer.contains("alipay-sidecar-error: parameter-invalid"),
        "{answer}"
    );
    assert!(answer.contains("`HTTP/1.1`"), "{answer}");
}

#[tokio::test]
async fn whoever_sends_ahead_may_have_any_byte_in_his_fields() {
    let sidecar = TestSidecar::start().await;
    let ask = "GET /livez HTTP/1.1\r\nHost: localhost\r\nCookie: a=#\"<> \r\n\r\n".to_owned();
    let live = (&sidecar.admin, ask, "HTTP/1.1 200 OK\r\n");
    let ask = post("Cookie: #\r\nContent-Length: 5", "#\n \"<");
    let no_json = (
        &sidecar.proxy,
        ask,
        "alipay-sidecar-error: body-invalid\r\n",
    );
    for (base, ask, expected) in [live, no_json] {
        for at in 0..ask.len() {
            let (begun, rest) = ask.split_at(at);
            let first = ask.clone() + begun;
            let mut asking = Asking::of(base).await;
            asking.write([&first[..], rest, &first[..], rest]).await;
            let answers = asking.rest().await;
            assert_eq!(answers.matches(expected).count(), 4, "{at}: {answers}");
            assert_eq!(answers.matches("HTTP/1.1 ").count(), 4, "{at}: {answers}");
        }
        // So may who sends byte by byte.
        let mut asking = Asking::of(base).await;
        asking.write(ask.repeat(3).as_bytes().chunks(1)).await;
        let answers = asking.rest().await;
        assert_eq!(answers.matches(expected).count(), 3, "{answers}");
    }
}

#[tokio::test]
async fn a_body_is_no_head_however_much_it_looks_like_one() {
    let sidecar = TestSidecar::start().await;
    let body = format!("GET /a#b\"<> HTTP/1.1\r\n{}\r\n", "a: #\r\n".repeat(600));
    let chunk = format!("{:x}\r\n{body}\r\n", body.len());
    let length = format!("Content-Length: {}", body.len());
    let twice = [body.clone(), body.clone()].concat();
    let next = "GET /v3/alipay/trade/query HTTP/1.1\r\nHost: localhost\r\nX: #\r\n\r\n";
    for (head, body) in [
        (post(&length, ""), body),
        (post(&format!("Content-Length: {}", twice.len()), ""), twice),
        (
            post("Transfer-Encoding: chunked", ""),
            chunk.repeat(2) + "0\r\n\r\n",
        ),
    ] {
        for size in [1001, 1 << 20] {
            for in_one in [true, false] {
                let mut asking = Asking::of(&sidecar.proxy).await;
                let (first, rest) = match in_one {
                    true => (head.clone() + &body, ""),
                    false => (head.clone(), &body[..]),
                };
                for last in ["", next] {
                    asking.write(first.as_bytes().chunks(size)).await;
                    asking.write(rest.as_bytes().chunks(size)).await;
                    asking.write([last]).await;
                    let answer = asking.answer(true).await;
                    assert!(answer.contains("body-invalid"), "{size} {in_one}: {answer}");
                }
                let answer = asking.rest().await;
                assert!(
                    answer.contains("merchant-required"),
                    "{size} {in_one}: {answer}"
                );
            }
        }
    }
}

/// How a handler reads what it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    All,
    None,
    /// The first piece.
    Some,
    /// Only while its answer is on its way.
    Late,
}

#[derive(Debug, Clone)]
struct Sent {
    reading: Reading,
    wire: String,
}

fn sent() -> impl Strategy<Value = Sent> {
    // What would be refused in a target, line ends, and whole beginnings of heads.
    let piece = select(vec![
        "#",
        "\"",
        " ",
        "\n",
        "\r\n",
        "\r\n\r\n",
        "\n\n",
        "0\r\n\r\n",
        "a",
        ": ",
        "GET /a#\"< HTTP/1.1\r\n",
        "Z\r\n",
    ]);
    let body = vec(piece, 0..6).prop_map(|pieces| pieces.concat());
    let fields = select(vec![
        "",
        "X: #\r\n",
        "X: a \"<>\r\nY:\r\n",
        "X: GET /#\"< HTTP/1.1\r\n",
    ]);
    let framing = select(vec![
        "none", "length", "length", "chunked", "trailers", "expect",
    ]);
    let reading = select(vec![
        Reading::All,
        Reading::All,
        Reading::None,
        Reading::Some,
        Reading::Late,
    ]);
    let before = select(vec!["", "", "\r\n", "\n"]);
    (body, fields, framing, reading, before).prop_map(|(body, fields, framing, reading, before)| {
        let head = |framing: &str| {
            format!("{before}POST /{reading:?} HTTP/1.1\r\nHost: x\r\n{fields}{framing}\r\n")
        };
        let length = body.len();
        let chunk = match length {
            0 => String::new(),
            _ => format!("{length:x};a=\"#\"\r\n{body}\r\n"),
        };
        let wire = match framing {
            "none" => head(""),
            "length" => head(&format!("Content-Length: {length}\r\n")) + &body,
            "expect" => {
                head(&format!(
                    "Expect: 100-continue\r\nContent-Length: {length}\r\n"
                )) + &body
            }
            "chunked" => head("Transfer-Encoding: chunked\r\n") + &chunk + "0\r\n\r\n",
            _ => head("Transfer-Encoding: chunked\r\n") + &chunk + "0\r\nX: #\r\n\r\n",
        };
        Sent { reading, wire }
    })
}

type Answer = Response<http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>>;

/// Answers 200 to what is clear, 422 to what isn't.
async fn handle(request: Request<RequestBody>) -> Answer {
    let (head, mut body) = request.into_parts();
    let status = match head::check(&head, &[]) {
        Ok(()) => StatusCode::OK,
        Err(_) => StatusCode::UNPROCESSABLE_ENTITY,
    };
    let mut rest = None;
    match head.uri.path() {
        "/All" => while body.frame().await.is_some() {},
        "/Some" => drop(body.frame().await),
        "/Late" => rest = Some(body),
        _ => {}
    }
    let answer = match rest {
        None => Full::new(Bytes::from_static(b"answered")).boxed_unsync(),
        Some(body) => {
            let pieces = futures_util::stream::unfold(body, async |mut body| {
                let _ = body.frame().await?;
                Some((Ok(Frame::data(Bytes::from_static(b"."))), body))
            });
            StreamBody::new(Box::pin(pieces)).boxed_unsync()
        }
    };
    Response::builder()
        .status(status)
        .body(answer)
        .expect("an answer")
}

/// Sends these divided at `cuts`, not waiting for any answer, then two more, waiting.
async fn ask(base: &str, sent: &[Sent], cuts: &[Index]) {
    let wire: String = sent.iter().map(|one| &one.wire[..]).collect();
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(wire.len() + 1)).collect();
    cuts.extend([0, wire.len()]);
    cuts.sort_unstable();
    let pieces = cuts
        .windows(2)
        .map(|ends| &wire.as_bytes()[ends[0]..ends[1]]);
    let mut asking = Asking::of(base).await;
    asking.write(pieces).await;
    // Whoever doesn't read a body may close the connection, and then not all are answered.
    if sent.iter().any(|one| one.reading != Reading::All) {
        let answers = asking.rest().await;
        let told = answers.matches("HTTP/1.1 ").count();
        let good = answers.matches("HTTP/1.1 200 OK\r\n").count();
        let goes_on = answers.matches("HTTP/1.1 100 ").count();
        assert_eq!(told, good + goes_on, "{sent:?}: {answers}");
        return;
    }
    for _ in sent {
        let answer = asking.answer(true).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{sent:?}: {answer}");
    }
    let plain = "POST /All HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}";
    asking.write([plain]).await;
    let answer = asking.answer(true).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{sent:?}: {answer}");
    // Behind one that wasn't sent ahead, it is sure where the next begins.
    asking.write(["GET /\"< HTTP/1.1\r\n"]).await;
    let answer = asking.answer(true).await;
    assert!(answer.starts_with("HTTP/1.1 422 "), "{sent:?}: {answer}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn no_request_is_refused_for_what_stands_elsewhere(
        sent in vec(sent(), 1..5),
        cuts in vec(any::<Index>(), 0..12),
        reads_all in any::<bool>(),
    ) {
        let mut sent = sent;
        if reads_all {
            for one in &mut sent {
                let path = format!("POST /{:?} ", one.reading);
                one.wire = one.wire.replacen(&path, "POST /All ", 1);
                one.reading = Reading::All;
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let socket = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let base = format!("http://{}", socket.local_addr().expect("bound"));
            let (_hand, shutdown) = Shutdown::new();
            tokio::spawn(serve(Listener::from_tcp(socket), None, handle, shutdown));
            ask(&base, &sent, &cuts).await;
        });
    }
}
