//! `/gateway.do`: reads, judges, executes, signs, and plays the fault that is due.
use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::combinators::BoxBody;

use super::{
    Inner,
    charset::Charset,
    content::{self, Content},
    envelope::{self, Answer},
    faults::{FaultKind, Strike},
    ids, judge, methods, mischief,
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

/// Answers one gateway call.
pub(super) async fn handle(
    inner: &Arc<Inner>,
    request: &Request<Content>,
) -> Result<Response<Body>, Closed> {
    let trace_id = ids::hex(16);
    let (written, strike) = inner.with_world(|world| serve(inner, world, request, &trace_id));
    notify::send_outbox(inner);
    match strike {
        None => Ok(mischief::send(written.reply(&trace_id))),
        Some(strike) => mischief::play(strike, written.reply(&trace_id)).await,
    }
}

/// A reply's text, and the charset it goes out in.
struct Written {
    text: String,
    charset: Charset,
}

impl Written {
    fn reply(&self, trace_id: &str) -> Response<Bytes> {
        let mut response = Response::new(self.bytes());
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
    let answer = match judged.and_then(|call| refuse(call, fault)) {
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

fn refuse(call: Call, fault: Option<FaultKind>) -> Result<Call, Refusal> {
    judge::refuse_by_fault(fault, &judge::request_sign_content(&call.params))?;
    Ok(call)
}

fn execute(world: &mut World, call: &Call) -> Answer {
    let outcome = methods::execute(world, call);
    let unsigned = outcome.is_ok() && methods::is_unsigned(&call.method);
    let answer = Answer::executed(outcome, call.content_key.clone());
    let signed = if unsigned { Signed::No } else { answer.signed };
    Answer { signed, ..answer }
}
