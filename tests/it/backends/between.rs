//! What stands between a backend and its sidecar: it passes calls on, and may answer one with something
//! else once the sidecar has answered.

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
use http::{HeaderValue, Request, Response, StatusCode};
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
    /// That nothing was sent, for this reason.
    NotSent(StatusCode, &'static str),
}

/// It, on a port of its own.
pub struct Between {
    pub url: String,
    instead: Queue,
    _end: ShutdownTrigger,
}

/// What ends the path of the call that is told something else, and what it is told.
type Queue = Arc<Mutex<VecDeque<(&'static str, Instead)>>>;

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
                let path = request.uri().path().to_owned();
                let reply = pass_on(&client, &proxy, request).await;
                let mut queue = queue.lock().expect("no panic");
                let next = queue.pop_front_if(|(end, _)| path.ends_with(*end));
                told(&reply, next.map(|(_, instead)| instead))
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
        self.tell_of("/alipay.trade.create", instead);
    }

    /// What the next call whose path ends so is answered with, after those that were told of before.
    pub fn tell_of(&self, end: &'static str, instead: Instead) {
        let mut queue = self.instead.lock().expect("no panic");
        queue.push_back((end, instead));
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
        Some(Instead::NotSent(status, error)) => {
            *response.status_mut() = status;
            let headers = response.headers_mut();
            headers.remove("alipay-sidecar-verified");
            headers.insert("alipay-sidecar-error", HeaderValue::from_static(error));
            let outcome = HeaderValue::from_static("not-sent");
            headers.insert("alipay-sidecar-outcome", outcome);
            *response.body_mut() = whole(Bytes::from(format!(r#"{{"code":"{error}"}}"#)));
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
