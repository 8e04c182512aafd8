//! A backend that takes deliveries, and remembers them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use alipay_sidecar::config::listen::Listen;
use alipay_sidecar::net::body::RequestBody;
use alipay_sidecar::net::listener::Listener;
use alipay_sidecar::net::serve::serve;
use alipay_sidecar::net::shutdown::{Shutdown, ShutdownTrigger};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::sync::mpsc;

use super::PATIENCE;

/// A delivery as the backend saw it.
#[derive(Debug)]
pub struct Seen {
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Seen {
    /// A header, or nothing.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }
}

/// A backend on a port of its own. It says `success` unless told otherwise.
pub struct FakeBackend {
    url: String,
    seen: tokio::sync::Mutex<mpsc::UnboundedReceiver<Seen>>,
    answers: Arc<Mutex<VecDeque<(StatusCode, &'static str)>>>,
    _shutdown: ShutdownTrigger,
}

impl FakeBackend {
    /// Starts it.
    pub async fn start() -> Self {
        let listener = Listener::bind(&Listen::Tcp("127.0.0.1:0".to_owned()))
            .await
            .expect("a port");
        let url = format!("http://{}", listener.address());
        let (sender, seen) = mpsc::unbounded_channel();
        let answers: Arc<Mutex<VecDeque<(StatusCode, &'static str)>>> = Arc::default();
        let (trigger, shutdown) = Shutdown::new();
        let next = Arc::clone(&answers);
        let handle = move |request: Request<RequestBody>| {
            let (sender, next) = (sender.clone(), Arc::clone(&next));
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.expect("a body").to_bytes();
                let answer = next.lock().expect("no panic").pop_front();
                let (status, text) = answer.unwrap_or((StatusCode::OK, "success"));
                let path = head.uri.path().to_owned();
                sender
                    .send(Seen {
                        path,
                        headers: head.headers,
                        body,
                    })
                    .ok();
                let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
                *response.status_mut() = status;
                response
            }
        };
        tokio::spawn(serve(listener, None, handle, shutdown));
        Self {
            url,
            seen: tokio::sync::Mutex::new(seen),
            answers,
            _shutdown: trigger,
        }
    }

    /// The address of `path`.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    /// What the next delivery is answered with; several calls queue up.
    pub fn answer_next(&self, status: u16, text: &'static str) {
        let status = StatusCode::from_u16(status).expect("a status");
        self.answers
            .lock()
            .expect("no panic")
            .push_back((status, text));
    }

    /// Waits for the next delivery.
    pub async fn next(&self) -> Seen {
        let mut seen = self.seen.lock().await;
        tokio::time::timeout(PATIENCE, seen.recv())
            .await
            .expect("a delivery")
            .expect("running")
    }

    /// Whether nothing more has come so far.
    pub async fn is_quiet(&self) -> bool {
        self.seen.lock().await.try_recv().is_err()
    }
}
