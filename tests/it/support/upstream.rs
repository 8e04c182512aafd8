//! An Alipay that shows every byte it got and answers whatever a test says.
//!
//! The simulator judges; this one only remembers, which is what tests of exact bytes need.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use alipay_sidecar::config::listen::Listen;
use alipay_sidecar::net::body::RequestBody;
use alipay_sidecar::net::listener::Listener;
use alipay_sidecar::net::serve::serve;
use alipay_sidecar::net::shutdown::{Shutdown, ShutdownTrigger};
use alipay_sidecar::protocol::charset::{Charset, label_of_form};
use alipay_sidecar::protocol::key::{AppPrivateKey, RsaPublicKey};
use alipay_sidecar::protocol::params::Params;
use alipay_sidecar::protocol::sign_content;
use alipay_sidecar::protocol::signature::SignType;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::sync::{Semaphore, mpsc};

use super::{PATIENCE, keys};

/// One request as it arrived.
#[derive(Debug)]
pub struct Arrived {
    pub method: Method,
    pub query: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Arrived {
    /// The parameters of query and form body together, read in the charset that the query names;
    /// the parts of an upload aren't read.
    pub fn params(&self) -> Params {
        let label = label_of_form(self.query.as_bytes()).expect("a charset in the query");
        let charset = Charset::from_label(&label).expect("a charset");
        let mut all = Params::from_form(self.query.as_bytes(), charset).expect("a query");
        if self.content_type().starts_with("multipart/") {
            return all;
        }
        let body = Params::from_form(&self.body, charset).expect("a form");
        for (name, value) in body.iter() {
            all.push(name, value).expect("each name once");
        }
        all
    }

    /// The type of the body.
    pub fn content_type(&self) -> &str {
        let value = self.headers.get("content-type");
        value
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// One parameter, or nothing.
    pub fn param(&self, name: &str) -> String {
        self.params().get(name).unwrap_or_default().to_owned()
    }
}

/// What a request is answered with.
pub enum Answer {
    /// These bytes, with this status.
    Body(u16, String),
    /// The default, once [`FakeAlipay::release`] is called.
    Held,
    /// This node, signed, once [`FakeAlipay::release`] is called; who came first goes first.
    HeldNode(String),
    /// These bytes, under this `Content-Type`; an empty one is left out.
    Bytes(&'static str, Vec<u8>),
    /// This node, signed, under the root of the method that was called.
    Node(String),
}

/// The node of the default answer.
pub const SUCCESS: &str = r#"{"code":"10000","msg":"Success"}"#;

/// The trace id of every answer.
pub const TRACE_ID: &str = "21d2e54417000000001234567e0001";

/// It, on a port of its own.
pub struct FakeAlipay {
    address: String,
    seen: tokio::sync::Mutex<mpsc::UnboundedReceiver<Arrived>>,
    shared: Arc<Shared>,
    _shutdown: ShutdownTrigger,
}

struct Shared {
    answers: Mutex<VecDeque<Answer>>,
    held: Semaphore,
    key: AppPrivateKey,
}

impl FakeAlipay {
    /// Starts it.
    pub async fn start() -> Self {
        let listener = Listener::bind(&Listen::Tcp("127.0.0.1:0".to_owned()))
            .await
            .expect("port");
        let address = listener.address().to_string();
        let (sender, seen) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            answers: Mutex::default(),
            held: Semaphore::new(0),
            key: AppPrivateKey::from_text(&keys::private("alipay2048")).expect("a key"),
        });
        let (trigger, shutdown) = Shutdown::new();
        let answering = Arc::clone(&shared);
        let handle = move |request: Request<RequestBody>| {
            let (sender, shared) = (sender.clone(), Arc::clone(&answering));
            async move {
                let (head, body) = request.into_parts();
                let arrived = Arrived {
                    method: head.method,
                    query: head.uri.query().unwrap_or_default().to_owned(),
                    headers: head.headers,
                    body: body.collect().await.expect("a body").to_bytes(),
                };
                let method = arrived.param("method");
                sender.send(arrived).ok();
                shared.answer(&method).await
            }
        };
        tokio::spawn(serve(listener, None, handle, shutdown));
        Self {
            address,
            seen: tokio::sync::Mutex::new(seen),
            shared,
            _shutdown: trigger,
        }
    }

    /// The address of its gateway.
    pub fn gateway(&self) -> String {
        format!("http://{}/gateway.do", self.address)
    }

    /// What the next request is answered with; several calls queue up.
    pub fn answer(&self, answer: Answer) {
        self.shared
            .answers
            .lock()
            .expect("no panic")
            .push_back(answer);
    }

    /// Lets one held request go.
    pub fn release(&self) {
        self.shared.held.add_permits(1);
    }

    /// Waits for the next request.
    pub async fn next(&self) -> Arrived {
        let mut seen = self.seen.lock().await;
        tokio::time::timeout(PATIENCE, seen.recv())
            .await
            .expect("a request")
            .expect("running")
    }

    /// All that has come so far.
    pub async fn arrived(&self) -> Vec<Arrived> {
        let mut seen = self.seen.lock().await;
        std::iter::from_fn(|| seen.try_recv().ok()).collect()
    }

    /// Whether nothing more has come so far.
    pub async fn is_quiet(&self) -> bool {
        self.seen.lock().await.try_recv().is_err()
    }
}

impl Shared {
    async fn answer(&self, method: &str) -> Response<Full<Bytes>> {
        let answer = self.answers.lock().expect("no panic").pop_front();
        let mut content_type = "text/html;charset=utf-8";
        let (status, body) = match answer {
            Some(Answer::Body(status, body)) => (status, body.into()),
            Some(Answer::Bytes(named, body)) => {
                content_type = named;
                (200, body)
            }
            Some(Answer::Node(node)) => (200, self.signed(method, &node).into()),
            None => (200, self.signed(method, SUCCESS).into()),
            Some(Answer::HeldNode(node)) => {
                self.held.acquire().await.expect("never closed").forget();
                (200, self.signed(method, &node).into())
            }
            Some(Answer::Held) => {
                self.held.acquire().await.expect("never closed").forget();
                (200, self.signed(method, SUCCESS).into())
            }
        };
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = StatusCode::from_u16(status).expect("a status");
        let headers = response.headers_mut();
        if !content_type.is_empty() {
            headers.insert("content-type", content_type.parse().expect("a value"));
        }
        headers.insert("trace_id", TRACE_ID.parse().expect("a value"));
        response
    }

    fn signed(&self, method: &str, node: &str) -> String {
        signed(&self.key, method, node)
    }
}

/// A signed reply to `method` by the platform's throw-away key.
pub fn reply_of(method: &str, node: &str) -> String {
    let key = AppPrivateKey::from_text(&keys::private("alipay2048")).expect("a key");
    signed(&key, method, node)
}

/// A signed reply in GBK.
pub fn gbk_reply_of(method: &str, node: &str) -> Vec<u8> {
    let key = AppPrivateKey::from_text(&keys::private("alipay2048")).expect("a key");
    let reply = signed_in(Charset::Gbk, (&key, method), node);
    Charset::Gbk.encode(&reply).expect("GBK")
}

fn signed(key: &AppPrivateKey, method: &str, node: &str) -> String {
    signed_in(Charset::Utf8, (key, method), node)
}

fn signed_in(charset: Charset, (key, method): (&AppPrivateKey, &str), node: &str) -> String {
    let content = charset.encode(node).expect("in the charset");
    let sign = key.sign(SignType::Rsa2, &content).expect("signed");
    let root = method.replace('.', "_");
    format!("{{\"{root}_response\":{node},\"sign\":\"{sign}\"}}")
}

/// Whether the app's public key `name` verifies `params`, `sign` among them.
pub fn is_signed_by(name: &str, params: &Params) -> bool {
    let key = RsaPublicKey::from_text(&keys::public(name)).expect("a key");
    let charset = Charset::from_label(params.get("charset").expect("a charset"));
    let content = sign_content::v2_request(params);
    let content = charset.and_then(|charset| charset.encode(&content));
    let sign = params.get("sign").expect("signed");
    key.verify(SignType::Rsa2, &content.expect("in the charset"), sign)
        .is_ok()
}
