//! Messages that two servers in a row may read differently, sent to both ports, alone and behind
//! nginx: what is accepted is what was forwarded, and no request is ever made of a part of another.
//!
//! Behind nginx the same holds of whatever nginx makes of them. Where there is none, that half says
//! so and passes, unless `REQUIRE_NGINX` is set: `.ci/run` installs one and sets it.

use std::time::Duration;

use alipay_sidecar::model::id::AppId;
use alipay_sidecar::simulator::{
    DEFAULT_APP_ID, FIRST_AUTH_APP_ID, SECOND_APP_AUTH_TOKEN, SECOND_AUTH_APP_ID, SECOND_PID,
};
use futures_util::StreamExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::signed::Platform;
use crate::support::{TestSidecar, add_merchant, merchant, raw};

mod case;
mod encodings;
mod heads;
mod lengths;
mod nginx;
mod tags;

use case::{Case, Expected};
use nginx::{Buffering, Nginx};

/// How many messages are under way at once.
const LANES: usize = 16;
/// How long the end of a connection is waited for: less than any deadline of the sidecar's, so that
/// an end that only a deadline brings counts as none.
const END: Duration = Duration::from_secs(15);

fn corpus() -> impl Iterator<Item = &'static Case> {
    let all = [lengths::CASES, encodings::CASES, heads::CASES, tags::CASES];
    all.into_iter().flatten()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Port {
    Proxy,
    Webhook,
}

/// What came of one message.
struct Outcome {
    /// The two requests that it may hold, by the name of each.
    names: [String; 2],
    case: &'static Case,
    answer: String,
    was_closed: bool,
}

impl Port {
    fn target(self) -> &'static str {
        match self {
            Self::Proxy => "/v2/alipay.trade.precreate",
            Self::Webhook => "/alipay/notify/orders/42",
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::Proxy => "application/json",
            Self::Webhook => "application/x-www-form-urlencoded",
        }
    }

    fn expected(self, case: &Case) -> Expected {
        match self {
            Self::Proxy => case.expected.0,
            Self::Webhook => case.expected.1,
        }
    }

    fn base(self, sidecar: &TestSidecar) -> &str {
        match self {
            Self::Proxy => &sidecar.proxy,
            Self::Webhook => &sidecar.webhook,
        }
    }

    /// A body that is good by itself.
    fn body(self, platform: &Platform, name: &str) -> String {
        match self {
            Self::Proxy => {
                format!(r#"{{"out_trade_no":"{name}","subject":"tea","total_amount":"1.00"}}"#)
            }
            Self::Webhook => platform.payment(name, name).body,
        }
    }

    fn tag(self, alias: &str) -> String {
        let content_type = self.content_type();
        format!("Content-Type: {content_type}\r\nAlipay-Merchant: {alias}\r\n")
    }

    /// The bytes of a message.
    fn message(self, platform: &Platform, case: &Case, names: &[String; 2], host: &str) -> String {
        let [body, evil_body] = [0, 1].map(|n: usize| self.body(platform, &names[n]));
        let (target, tag) = (self.target(), self.tag("shop"));
        let post = format!("POST {target} HTTP/1.1\r\nHost: {host}\r\n");
        let (other, evil_length) = (self.tag("other"), evil_body.len());
        let evil = format!("{post}{other}Content-Length: {evil_length}\r\n\r\n{evil_body}");
        let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
        let places = [
            ("{post}", format!("{post}{tag}")),
            ("{target}", target.to_owned()),
            ("{host}", host.to_owned()),
            ("{tag}", tag),
            ("{type}", self.content_type().to_owned()),
            ("{len}", body.len().to_string()),
            ("{hex}", format!("{:x}", body.len())),
            ("{clen}", chunked.len().to_string()),
            ("{elen}", evil.len().to_string()),
            ("{ehex}", format!("{:x}", evil.len())),
            ("{chunked}", chunked),
            ("{body}", body),
            ("{evil}", evil),
        ];
        let fill = |wire: String, (place, text): &(&str, String)| wire.replace(place, text);
        places.iter().fold(case.wire.to_owned(), fill)
    }

    /// How many requests an answer says were accepted.
    fn accepted(self, answer: &str) -> usize {
        match self {
            Self::Proxy => answer.matches("alipay-sidecar-verified: true").count(),
            Self::Webhook => answer.matches("\r\n\r\nsuccess").count(),
        }
    }

    /// Which requests reached where they lead: by name, for whom.
    async fn forwarded(self, sidecar: &TestSidecar, names: &[String; 2]) -> Vec<(String, String)> {
        let mut found = Vec::new();
        match self {
            Self::Proxy => {
                let state = sidecar.simulator.state();
                let trades = state["trades"].as_array().expect("trades").iter();
                let text = |value: &serde_json::Value| value.as_str().unwrap_or("").to_owned();
                found.extend(
                    trades
                        .map(|trade| (text(&trade["out_trade_no"]), text(&trade["auth_app_id"])))
                        .filter(|(name, _)| names.contains(name)),
                );
            }
            Self::Webhook => {
                let store = sidecar.sidecar.store();
                let app_id = AppId::new(DEFAULT_APP_ID).expect("id");
                for (name, to) in names.iter().zip([FIRST_AUTH_APP_ID, SECOND_AUTH_APP_ID]) {
                    let known = store.known(app_id.clone(), name.clone());
                    if known.await.expect("readable").is_some() {
                        found.push((name.clone(), to.to_owned()));
                    }
                }
            }
        }
        found.sort();
        found
    }
}

/// Sends a message and reads until the connection ends.
async fn send(authority: &str, message: &str, is_left_open: bool) -> (String, bool) {
    let mut stream = TcpStream::connect(authority).await.expect("a connection");
    // What is refused at its beginning may be closed before its end is written.
    let _ = stream.write_all(message.as_bytes()).await;
    if !is_left_open {
        let _ = stream.shutdown().await;
    }
    let mut answer = Vec::new();
    let read = tokio::time::timeout(END, stream.read_to_end(&mut answer)).await;
    // A reset is an end, too.
    (String::from_utf8_lossy(&answer).into_owned(), read.is_ok())
}

/// Sends the whole corpus to one address, and gives what came of each message.
async fn send_all(port: Port, authority: &str, way: Way) -> Vec<Outcome> {
    let platform = &Platform::new();
    let sent = corpus().enumerate().map(|(number, case)| async move {
        let names = ["a", "x"].map(|part| format!("{way:?}{number}{part}"));
        let message = port.message(platform, case, &names, authority);
        let is_left_open = way != Way::Direct || port.expected(case).is_closed();
        let (answer, was_closed) = send(authority, &message, is_left_open).await;
        Outcome {
            names,
            case,
            answer,
            was_closed,
        }
    });
    futures_util::stream::iter(sent)
        .buffer_unordered(if way == Way::Direct { LANES } else { LANES * 4 })
        .collect()
        .await
}

/// How a message reaches the sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Through nginx, which reads bodies before it connects.
    Buffered,
    Direct,
    /// Through nginx, which hands bodies on as they come.
    Streamed,
}

/// What is wrong with an outcome; nothing where all is well.
async fn faults(sidecar: &TestSidecar, port: Port, way: Way, outcome: &Outcome) -> Vec<String> {
    let Outcome {
        names,
        case,
        answer,
        was_closed,
    } = outcome;
    let (expected, accepted) = (port.expected(case), port.accepted(answer));
    let forwarded = port.forwarded(sidecar, names).await;
    let merchants = [FIRST_AUTH_APP_ID, SECOND_AUTH_APP_ID].map(ToOwned::to_owned);
    let all: Vec<_> = names.iter().cloned().zip(merchants).collect();
    let whole = &all[..expected.accepted()];
    let mut faults = Vec::new();
    if accepted != forwarded.len() {
        faults.push(format!("{accepted} accepted, but forwarded {forwarded:?}"));
    }
    if way == Way::Direct && forwarded != whole {
        faults.push(format!("forwarded {forwarded:?}, not {whole:?}"));
    }
    if let Some((name, to)) = forwarded.iter().find(|one| !all.contains(one)) {
        faults.push(format!("{name} was forwarded for {to}"));
    }
    let echoed = answer.matches(r#""out_trade_no":""#).count();
    let own = names
        .iter()
        .map(|name| answer.matches(&format!("\"{name}\"")).count());
    if port == Port::Proxy && echoed != own.sum::<usize>() {
        faults.push("the answer of another request came back".to_owned());
    }
    if !was_closed {
        faults.push("the connection was left open".to_owned());
    }
    faults
}

async fn sidecar() -> TestSidecar {
    let sidecar = TestSidecar::start_with(|config| config.delivery.url = None).await;
    let other = merchant(
        SECOND_AUTH_APP_ID,
        SECOND_PID,
        SECOND_APP_AUTH_TOKEN,
        Some("other"),
    );
    add_merchant(&*sidecar.sidecar.store(), other).await;
    sidecar
}

/// What came of the corpus on one way.
struct Checked {
    /// What shouldn't have.
    wrong: Vec<String>,
    /// How many requests were forwarded for the merchant of the messages, and for the other one.
    forwarded: [usize; 2],
}

/// Sends the corpus on one way and checks what came of it.
async fn check(sidecar: &TestSidecar, port: Port, authority: &str, way: Way) -> Checked {
    let before = sidecar.simulator.requests().len();
    let outcomes = send_all(port, authority, way).await;
    let (mut wrong, mut forwarded) = (Vec::new(), [0; 2]);
    for outcome in &outcomes {
        for (name, _) in port.forwarded(sidecar, &outcome.names).await {
            forwarded[usize::from(name == outcome.names[1])] += 1;
        }
        for fault in faults(sidecar, port, way, outcome).await {
            let (name, answer) = (outcome.case.name, outcome.answer.escape_debug());
            wrong.push(format!("{port:?} {way:?}, {name}: {fault}\n    {answer}"));
        }
    }
    let accepted: usize = outcomes.iter().map(|o| port.accepted(&o.answer)).sum();
    let requests = sidecar.simulator.requests().len() - before;
    if port == Port::Proxy && requests != accepted {
        wrong.push(format!(
            "{way:?}: {accepted} accepted, {requests} forwarded"
        ));
    }
    eprintln!(
        "{port:?} {way:?}: {} messages, {accepted} requests",
        outcomes.len()
    );
    assert!(accepted > 20, "the good ones among them pass: {accepted}");
    Checked { wrong, forwarded }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_accepted_is_what_was_forwarded() {
    assert!(corpus().count() >= 150);
    let sidecar = sidecar().await;
    let mut wrong = Vec::new();
    for port in [Port::Proxy, Port::Webhook] {
        let authority = raw::authority(port.base(&sidecar)).to_owned();
        let checked = check(&sidecar, port, &authority, Way::Direct).await;
        wrong.extend(checked.wrong);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// nginx takes some messages for two requests that the sidecar alone would refuse, and mends them:
/// so what it says it handed on, and under which tag, is what must have arrived.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_accepted_behind_nginx_is_what_was_forwarded() {
    let sidecar = sidecar().await;
    let Some(nginx) = Nginx::before(&sidecar).await else {
        return;
    };
    let mut wrong = Vec::new();
    for (way, buffering) in [
        (Way::Buffered, Buffering::On),
        (Way::Streamed, Buffering::Off),
    ] {
        for port in [Port::Proxy, Port::Webhook] {
            let authority = nginx.authority(port, buffering);
            let checked = check(&sidecar, port, &authority, way).await;
            wrong.extend(checked.wrong);
            let handed_on = ["shop", "other"].map(|tag| nginx.handed_on((port, buffering), tag));
            if port == Port::Proxy && handed_on != checked.forwarded {
                let arrived = checked.forwarded;
                wrong.push(format!(
                    "{way:?}: handed on {handed_on:?}, arrived {arrived:?}"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
