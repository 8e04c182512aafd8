//! The sidecar's own public address, looked at from outside: messages are sent there and compared
//! with what comes in, because an ingress that changes path, query or body breaks every signature.
//!
//! A message of ours is known by a random word that nobody else has, so strangers learn nothing.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::Full;
use hyper::body::Body;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::net::body::{self, BoxError, Within};
use crate::net::client::{Client, SendCause};
use crate::webhook::answer::{self, Answer};

/// What a message of ours is known by.
const HEADER: &str = "alipay-sidecar-own-address";
/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The largest of Alipay's notifications stay far below it; so does this body.
const LARGEST: usize = 64 << 10;
/// What Alipay's notifications are.
const FORM: &str = "application/x-www-form-urlencoded;charset=UTF-8";

/// What is sent, by method, the path below `base_path` and query, and whether it has a body. In each
/// stands what is changed most often: escapes in path and query, `+`, an empty value, `//` behind `?`.
const MESSAGES: [(Method, &str, bool); 3] = [
    (Method::POST, "/gateway", true),
    (
        Method::POST,
        "/notify/own%20address/%E4%B8%AD?to=a%2Fb+c&empty=&u=https://x//y",
        true,
    ),
    (Method::GET, "/auth?state=a%2Bb%3D&ref=%E4%B8%AD", false),
];

/// What became of one message.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct OwnAddressView {
    /// Where it was sent.
    pub url: String,
    /// `unchanged`, `changed`, `elsewhere` (something else answered) or `unreachable`.
    pub verdict: String,
    /// What is wrong, for people; one line each.
    pub faults: Vec<String>,
}

/// The messages that are on their way.
#[derive(Debug, Default)]
pub(super) struct OwnMessages(Mutex<HashMap<String, oneshot::Sender<Arrived>>>);

/// A message as it came in.
#[derive(Debug)]
struct Arrived {
    method: Method,
    target: String,
    content_type: Option<HeaderValue>,
    body: Option<Bytes>,
}

impl OwnMessages {
    /// Who waits for the message with this head; nobody does for strangers' ones.
    fn take(&self, head: &Parts) -> Option<oneshot::Sender<Arrived>> {
        let word = head.headers.get(HEADER)?.to_str().ok()?;
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.remove(word)
    }

    fn expect(&self, word: &str) -> oneshot::Receiver<Arrived> {
        let (sender, receiver) = oneshot::channel();
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.insert(word.to_owned(), sender);
        receiver
    }

    fn forget(&self, word: &str) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.remove(word);
    }

    /// Whether this is one of our own.
    pub(super) fn waits_for(&self, head: &Parts) -> Option<Recognised> {
        self.take(head).map(Recognised)
    }

    /// Sends each message to `base`, the public address with `base_path`, and tells what became of it.
    pub(super) async fn send_all(&self, client: &Client, base: &str) -> Vec<OwnAddressView> {
        let mut views = Vec::new();
        for (method, target, has_body) in MESSAGES {
            let sent = Sent::new(base, method, target, has_body);
            let faults = self.send(client, &sent).await;
            let (verdict, faults) = match faults {
                Ok(faults) if faults.is_empty() => ("unchanged", faults),
                Ok(faults) => ("changed", faults),
                Err((verdict, fault)) => (verdict, vec![fault]),
            };
            views.push(OwnAddressView {
                url: sent.url,
                verdict: verdict.to_owned(),
                faults,
            });
        }
        views
    }

    /// What was changed on the way, there and back.
    async fn send(
        &self,
        client: &Client,
        sent: &Sent,
    ) -> Result<Vec<String>, (&'static str, String)> {
        let word = random_word()
            .ok_or_else(|| ("unreachable", "the system has no randomness".to_owned()))?;
        let mut arriving = self.expect(&word);
        let request = sent
            .request(&word)
            .map_err(|fault| ("unreachable", fault))?;
        let replied = client.send(request, PATIENCE).await;
        self.forget(&word);
        let arrived = arriving.try_recv().ok();
        let reply = match (replied, &arrived) {
            (Ok(reply), _) => reply,
            (Err(error), Some(_)) => {
                return Err((
                    "changed",
                    format!("it came in, but no answer came back: {error}"),
                ));
            }
            (Err(error), None) => return Err(("unreachable", unreachable(&error.cause))),
        };
        let Some(arrived) = arrived else {
            let status = reply.status;
            return Err(("elsewhere", elsewhere(status)));
        };
        let mut faults = sent.differences(&arrived);
        if reply.status != StatusCode::OK || &reply.body[..] != b"success" {
            let (status, length) = (reply.status, reply.body.len());
            faults.push(format!(
                "the answer was changed: sent 200 with the 7 bytes `success`, received {status} with {length} bytes"
            ));
        }
        Ok(faults)
    }
}

/// A message of ours that came in.
pub(super) struct Recognised(oneshot::Sender<Arrived>);

impl Recognised {
    /// Reads the rest of it, and answers as a notification is answered that was taken.
    pub(super) async fn receive<B>(self, head: &Parts, body: B) -> Answer
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<BoxError>,
    {
        let read = body::read(body, LARGEST * 2, Within::of(&head.extensions)).await;
        let target = head
            .uri
            .path_and_query()
            .map_or("/", |target| target.as_str());
        let arrived = Arrived {
            method: head.method.clone(),
            target: target.to_owned(),
            content_type: head.headers.get(CONTENT_TYPE).cloned(),
            body: read.ok(),
        };
        // Who waited may have given up.
        let _ = self.0.send(arrived);
        answer::success()
    }
}

/// A message as it is sent.
struct Sent {
    url: String,
    method: Method,
    /// The path and query that Alipay would send.
    target: String,
    body: Bytes,
}

impl Sent {
    fn new(base: &str, method: Method, target: &str, has_body: bool) -> Self {
        let url = format!("{base}{target}");
        let behind = url.split_once("://").map_or("", |(_, rest)| rest);
        let at = behind.find('/').unwrap_or(behind.len());
        Self {
            target: behind.get(at..).unwrap_or_default().to_owned(),
            body: if has_body { body_of() } else { Bytes::new() },
            method,
            url,
        }
    }

    fn request(&self, word: &str) -> Result<Request<Full<Bytes>>, String> {
        let mut request = Request::builder().method(&self.method).uri(&self.url);
        request = request.header(HEADER, word);
        if !self.body.is_empty() {
            request = request.header(CONTENT_TYPE, FORM);
        }
        let request = request.body(Full::new(self.body.clone()));
        request.map_err(|error| format!("it is no address: {error}"))
    }

    fn differences(&self, arrived: &Arrived) -> Vec<String> {
        let mut faults = Vec::new();
        if arrived.method != self.method {
            let (sent, came) = (&self.method, &arrived.method);
            faults.push(format!(
                "the method was changed: sent {sent}, arrived {came}"
            ));
        }
        let halves = |target: &str| match target.split_once('?') {
            Some((path, query)) => (path.to_owned(), query.to_owned()),
            None => (target.to_owned(), String::new()),
        };
        let ((path, query), (came_path, came_query)) =
            (halves(&self.target), halves(&arrived.target));
        if came_path != path {
            faults.push(format!(
                "the path was changed: sent `{path}`, arrived `{came_path}`"
            ));
        }
        if came_query != query {
            faults.push(format!(
                "the query was changed: sent `{query}`, arrived `{came_query}`"
            ));
        }
        if !self.body.is_empty() {
            faults.extend(self.differences_of_body(arrived));
        }
        faults
    }

    fn differences_of_body(&self, arrived: &Arrived) -> Vec<String> {
        let mut faults = Vec::new();
        let came = arrived.content_type.as_ref().map(HeaderValue::as_bytes);
        if came != Some(FORM.as_bytes()) {
            let came = came.map_or_else(|| "none".into(), String::from_utf8_lossy);
            faults.push(format!(
                "the Content-Type was changed: sent `{FORM}`, arrived `{came}`"
            ));
        }
        match &arrived.body {
            None => faults.push("the body was cut off, or came too late".to_owned()),
            Some(body) if *body != self.body => {
                let at = body
                    .iter()
                    .zip(&self.body)
                    .take_while(|(a, b)| a == b)
                    .count();
                let (sent, came) = (self.body.len(), body.len());
                faults.push(format!(
                    "the body was changed at byte {at}: sent {sent} bytes, arrived {came}"
                ));
            }
            Some(_) => {}
        }
        faults
    }
}

/// A form as Alipay writes them, with what is written anew most often, and larger than the buffers
/// that an ingress likes to have.
fn body_of() -> Bytes {
    let mut form = String::from(
        "subject=a%20b+c&empty=&biz_content=%7B%22x%22%3A%22%E4%B8%AD%2F%26amp%3B%22%7D&gbk=%D6%D0&sign=a%2Bb%2F%3D%3D&long=",
    );
    form.extend(std::iter::repeat_n('x', LARGEST - form.len()));
    form.into()
}

/// 128 bits that nobody guesses.
fn random_word() -> Option<String> {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).ok()?;
    Some(URL_SAFE_NO_PAD.encode(bytes))
}

fn unreachable(cause: &SendCause) -> String {
    format!(
        "{cause}; Alipay can't reach it either, unless this host alone is kept from its own public address"
    )
}

fn elsewhere(status: StatusCode) -> String {
    let hint = match status {
        status if status.is_redirection() => "Alipay follows no redirect",
        StatusCode::PAYLOAD_TOO_LARGE => "the ingress takes no body of 64 KiB",
        _ => "let the ingress pass it, with headers it doesn't know, to webhook.listen",
    };
    format!("something else answered, with {status}: {hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent() -> Sent {
        Sent::new(
            "https://isv.example.com/alipay",
            Method::POST,
            "/notify/a%20b?c=+",
            true,
        )
    }

    fn arrived(sent: &Sent) -> Arrived {
        Arrived {
            method: sent.method.clone(),
            target: sent.target.clone(),
            content_type: Some(HeaderValue::from_static(FORM)),
            body: Some(sent.body.clone()),
        }
    }

    #[test]
    fn what_arrives_as_it_was_sent_has_no_fault() {
        let sent = sent();
        assert_eq!(sent.target, "/alipay/notify/a%20b?c=+");
        assert_eq!(sent.body.len(), LARGEST);
        assert_eq!(sent.differences(&arrived(&sent)), Vec::<String>::new());
    }

    #[test]
    fn each_change_is_named() {
        let sent = sent();
        type Change = fn(&mut Arrived);
        let changes: [(Change, &str); 7] = [
            (
                |came| came.method = Method::GET,
                "the method was changed: sent POST, arrived GET",
            ),
            (
                |came| came.target = "/alipay/notify/a b?c=+".to_owned(),
                "the path was changed",
            ),
            (
                |came| came.target = "/alipay/notify/a%20b".to_owned(),
                "the query was changed: sent `c=+`, arrived ``",
            ),
            (
                |came| came.content_type = None,
                "the Content-Type was changed",
            ),
            (|came| came.body = None, "the body was cut off"),
            (
                |came| came.body = Some(Bytes::from_static(b"subject=a+b")),
                "the body was changed at byte 9: sent 65536 bytes, arrived 11",
            ),
            (
                |came| came.body = Some(Bytes::new()),
                "the body was changed at byte 0",
            ),
        ];
        for (change, expected) in changes {
            let mut came = arrived(&sent);
            change(&mut came);
            let faults = sent.differences(&came);
            assert_eq!(faults.len(), 1, "{faults:?}");
            assert!(faults[0].starts_with(expected), "{faults:?}");
        }
    }
}
