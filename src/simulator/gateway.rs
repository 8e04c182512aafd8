//! `/gateway.do`: reads, judges, executes, signs, and plays the fault that is due.
use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::body::Frame;

use super::{
    Inner, authorization,
    charset::Charset,
    content::{self, Content},
    envelope::{self, Answer},
    faults::{FaultKind, Strike},
    ids, judge, methods,
    node::{self, Refusal, Signed},
    notify,
    params::Received,
    world::{Call, GatewayRequest, World},
};

/// A reply's body; some never end.
pub(super) type Body = BoxBody<Bytes, Infallible>;

/// The connection is to be closed without a reply.
#[derive(Debug, thiserror::Error)]
#[error("the simulated gateway closes the connection without a reply")]
pub(super) struct Closed;

/// Size of the oversized reply in bytes.
const OVERSIZED: usize = 64 * 1024 * 1024;
/// How often the endless reply goes on.
const ENDLESS_PERIOD: Duration = Duration::from_millis(20);

/// Answers one gateway call.
pub(super) async fn handle(
    inner: &Arc<Inner>,
    request: &Request<Content>,
) -> Result<Response<Body>, Closed> {
    let trace_id = ids::hex(16);
    let (written, strike) = inner.with_world(|world| serve(inner, world, request, &trace_id));
    notify::send_outbox(inner);
    match strike {
        None => Ok(written.reply(&trace_id)),
        Some(strike) => misbehave(strike, written, &trace_id).await,
    }
}

/// A reply's text, and the charset it goes out in.
struct Written {
    text: String,
    charset: Charset,
}

impl Written {
    fn reply(&self, trace_id: &str) -> Response<Body> {
        let mut response = Response::new(Full::new(self.bytes()).boxed());
        let headers = response.headers_mut();
        let html = match self.charset {
            Charset::Gbk => "text/html;charset=GBK",
            Charset::Utf8 => "text/html;charset=utf-8",
        };
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(html));
        if let Ok(value) = header::HeaderValue::from_str(trace_id) {
            headers.insert(header::HeaderName::from_static("trace_id"), value);
        }
        response
    }

    fn bytes(&self) -> Bytes {
        self.charset.encode(&self.text).unwrap_or_default().into()
    }

    /// The same with another text.
    fn with(self, text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            ..self
        }
    }
}

fn serve(
    inner: &Inner,
    world: &mut World,
    request: &Request<Content>,
    trace_id: &str,
) -> (Written, Option<Strike>) {
    let query = request.uri().query().unwrap_or_default();
    let media_type = content::media_type(request.headers());
    let read = Received::read(query, &media_type, request.body());
    let received = read.as_ref().cloned().unwrap_or_default();
    let (method, app_id) = (received.param("method"), received.param("app_id"));
    let strike = world.faults.strike_call(method);
    let fault = strike.map(|strike| strike.kind);

    let judged = read
        .map_err(Refusal::unsigned)
        .and_then(|received| judge::judge(world, &received, inner.now()));
    let caller = judged.as_ref().ok().map(|call| call.caller.clone());
    let answer = match judged.and_then(|call| refuse_by_fault(call, strike)) {
        Err(refusal) => Answer::refusal(&refusal),
        Ok(call) => execute(world, &call),
    };

    let names = |pairs: &[(String, String)]| pairs.iter().map(|(name, _)| name.clone()).collect();
    world.record(GatewayRequest {
        received_at: inner.now(),
        http_method: request.method().to_string(),
        absolute_form: request.uri().authority().is_some(),
        method: method.to_owned(),
        app_id: app_id.to_owned(),
        auth_app_id: caller.and_then(|caller| caller.auth_app_id),
        query: names(&received.query),
        body: names(&received.body),
        files: received.file_names(),
        uploads: received.files.clone(),
        verdict: answer.verdict.clone(),
        fault: fault.map(FaultKind::name),
        trace_id: trace_id.to_owned(),
    });
    let known = methods::identity(method).is_some() || world.answers.contains_key(method);
    let root = if known {
        node::root(method)
    } else {
        "error_response".to_owned()
    };
    let charset = received.charset;
    let text = match world.signer(app_id, charset) {
        Ok(signer) => envelope::write(signer, &root, (&answer, fault)),
        Err(error) => error.to_string(),
    };
    (Written { text, charset }, strike)
}

fn execute(world: &mut World, call: &Call) -> Answer {
    let outcome = methods::execute(world, call);
    let unsigned = outcome.is_ok() && methods::is_unsigned(&call.method);
    let answer = Answer::executed(outcome, call.content_key.clone());
    let signed = if unsigned { Signed::No } else { answer.signed };
    Answer { signed, ..answer }
}

/// Refuses a good call where the fault says so, before anything is executed.
fn refuse_by_fault(call: Call, strike: Option<Strike>) -> Result<Call, Refusal> {
    match strike.map(|strike| strike.kind) {
        Some(FaultKind::TokenTimeout) => Err(authorization::timed_out()),
        Some(FaultKind::InvalidSignature) => Err(judge::signature_refusal(
            &judge::request_sign_content(&call.params),
        )),
        Some(FaultKind::Html) => Err(Refusal::new("20000", "aop.unknow-error", "系统繁忙")),
        _ => Ok(call),
    }
}

async fn misbehave(
    strike: Strike,
    written: Written,
    trace_id: &str,
) -> Result<Response<Body>, Closed> {
    match strike.kind {
        FaultKind::Reset => Err(Closed),
        FaultKind::Slow => {
            tokio::time::sleep(strike.delay).await;
            Ok(written.reply(trace_id))
        }
        FaultKind::Html => {
            let page = "<html><body><h1>502 Bad Gateway</h1></body></html>";
            let mut response = written.with(page).reply(trace_id);
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            Ok(response)
        }
        FaultKind::Oversized => {
            let spaces = format!("{{{}", " ".repeat(OVERSIZED));
            let text = written.text.replacen('{', &spaces, 1);
            Ok(written.with(text).reply(trace_id))
        }
        FaultKind::Endless => {
            let start = written.text.replacen('{', "{ ", 1);
            let start = start.get(..2).unwrap_or("{ ").to_owned();
            let frames = stream::unfold(Bytes::from(start), async |chunk| {
                tokio::time::sleep(ENDLESS_PERIOD).await;
                Some((Ok(Frame::data(chunk)), Bytes::from_static(b"  ")))
            });
            Ok(written
                .reply(trace_id)
                .map(|_: Body| StreamBody::new(frames).boxed()))
        }
        _ => Ok(written.reply(trace_id)),
    }
}
