//! What stands between a backend and its sidecar: it passes calls on, and may answer the making of a
//! trade with something else once it was made.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use alipay_sidecar::config::listen::Listen;
use alipay_sidecar::net::body::{BoxError, RequestBody};
use alipay_sidecar::net::client::{Client, Reply};
use alipay_sidecar::net::listener::Listener;
use alipay_sidecar::net::serve::serve;
use alipay_sidecar::net::shutdown::{Shutdown, ShutdownTrigger};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderValue, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;

use crate::support::{PATIENCE, client};

/// What a backend is told in the place of the sidecar's answer.
pub enum Instead {
    /// Half of that answer.
    CutOff,
    /// This node.
    Node {
        /// `Alipay-Sidecar-Verified`.
        verified: &'static str,
        node: &'static str,
    },
}

/// It, on a port of its own.
pub struct Between {
    pub url: String,
    instead: Queue,
    _end: ShutdownTrigger,
}

type Queue = Arc<Mutex<VecDeque<Instead>>>;

impl Between {
    /// Stands before `proxy`.
    pub async fn start(proxy: &str) -> Self {
        let listen = Listen::Tcp("127.0.0.1:0".to_owned());
        let listener = Listener::bind(&listen).await.expect("a port");
        let url = format!("http://{}", listener.address());
        let instead = Queue::default();
        let (client, proxy, queue) = (client(), proxy.to_owned(), Arc::clone(&instead));
        let handle = move |request: Request<RequestBody>| {
            let (client, proxy, queue) = (client.clone(), proxy.clone(), Arc::clone(&queue));
            async move {
                let is_making = request.uri().path().ends_with("/alipay.trade.create");
                let reply = pass_on(&client, &proxy, request).await;
                let next = || queue.lock().expect("no panic").pop_front();
                told(&reply, is_making.then(next).flatten())
            }
        };
        let (end, ends) = Shutdown::new();
        tokio::spawn(serve(listener, None, handle, ends));
        Self {
            url,
            instead,
            _end: end,
        }
    }

    /// What the next trade's making is answered with; several calls queue up.
    pub fn tell(&self, instead: Instead) {
        self.instead.lock().expect("no panic").push_back(instead);
    }
}

async fn pass_on(client: &Client, proxy: &str, request: Request<RequestBody>) -> Reply {
    let (head, body) = request.into_parts();
    let target = head.uri.path_and_query().map_or("/", |t| t.as_str());
    let mut request = Request::builder()
        .method(head.method)
        .uri(format!("{proxy}{target}"));
    for name in ["alipay-merchant", "content-type"] {
        if let Some(value) = head.headers.get(name) {
            request = request.header(name, value);
        }
    }
    let body = body.collect().await.expect("a body").to_bytes();
    let request = request.body(Full::new(body)).expect("a request");
    client.send(request, PATIENCE).await.expect("an answer")
}

type Body = UnsyncBoxBody<Bytes, BoxError>;

fn told(reply: &Reply, instead: Option<Instead>) -> Response<Body> {
    let mut response = Response::builder().status(reply.status);
    for name in [
        "alipay-sidecar-error",
        "alipay-sidecar-outcome",
        "alipay-sidecar-verified",
        "content-type",
    ] {
        if let Some(value) = reply.headers.get(name) {
            response = response.header(name, value);
        }
    }
    let mut response = response.body(whole(reply.body.clone())).expect("an answer");
    match instead {
        None => {}
        Some(Instead::CutOff) => {
            let length = HeaderValue::from(reply.body.len());
            response.headers_mut().insert("content-length", length);
            *response.body_mut() = half(&reply.body);
        }
        Some(Instead::Node { verified, node }) => {
            let verified = HeaderValue::from_static(verified);
            let headers = response.headers_mut();
            headers.insert("alipay-sidecar-verified", verified);
            *response.body_mut() = whole(Bytes::from_static(node.as_bytes()));
        }
    }
    response
}

fn whole(body: Bytes) -> Body {
    Full::new(body).map_err(Into::into).boxed_unsync()
}

/// The first half of a body, after which the connection breaks.
fn half(body: &Bytes) -> Body {
    let begun = Frame::data(body.slice(..body.len() / 2));
    let broken = async {
        // What was begun leaves first.
        tokio::task::yield_now().await;
        Err(BoxError::from("cut off"))
    };
    let frames = stream::iter([Ok(begun)]).chain(stream::once(broken));
    StreamBody::new(frames).boxed_unsync()
}
