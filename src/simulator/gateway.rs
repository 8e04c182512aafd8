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
    faults::{FaultKind, Strike},
    ids, judge, methods,
    node::{self, Refusal, Signed, Signer},
    notify,
    params::Received,
    sign::SignType,
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
    request: &Request<Bytes>,
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
    request: &Request<Bytes>,
    trace_id: &str,
) -> (Written, Option<Strike>) {
    let content_type = request.headers().get(header::CONTENT_TYPE);
    let content_type = content_type
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let query = request.uri().query().unwrap_or_default();
    let read = Received::read(query, content_type, request.body());
    let received = read.as_ref().cloned().unwrap_or_default();
    let param = |wanted: &str| {
        let mut all = received.query.iter().chain(&received.body);
        all.find(|(name, _)| name == wanted)
            .map_or("", |(_, value)| value.as_str())
    };
    let (method, app_id) = (param("method").to_owned(), param("app_id").to_owned());
    let strike = world.faults.strike_call(&method);

    let judged = read
        .map_err(Refusal::unsigned)
        .and_then(|received| judge::judge(world, &received, inner.now()));
    let auth_app_id = judged
        .as_ref()
        .ok()
        .and_then(|call| call.caller.auth_app_id.clone());
    let outcome = judged
        .and_then(|call| refuse_by_fault(call, strike))
        .and_then(|call| methods::execute(world, &call, &received));

    let names = |pairs: &[(String, String)]| pairs.iter().map(|(name, _)| name.clone()).collect();
    world.record(GatewayRequest {
        received_at: inner.now(),
        http_method: request.method().to_string(),
        absolute_form: request.uri().authority().is_some(),
        method: method.clone(),
        app_id: app_id.clone(),
        auth_app_id,
        query: names(&received.query),
        body: names(&received.body),
        files: received.files.clone(),
        verdict: outcome
            .as_ref()
            .err()
            .map_or_else(|| "ok".to_owned(), |refusal| refusal.sub_code.clone()),
        fault: strike.map(|strike| strike.kind.name()),
        trace_id: trace_id.to_owned(),
    });
    let known = methods::identity(&method).is_some() || world.answers.contains_key(&method);
    let root = if known {
        node::root(&method)
    } else {
        "error_response".to_owned()
    };
    let app = world.apps.get(&app_id);
    let charset = received.charset;
    let signer = Signer {
        key: &inner.platform_key,
        sign_type: app.map_or(SignType::Rsa2, |app| app.sign_type),
        charset,
    };
    let text = envelope(signer, &root, (outcome, strike.map(|strike| strike.kind)));
    (Written { text, charset }, strike)
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

fn envelope(
    signer: Signer<'_>,
    root: &str,
    (outcome, fault): (Result<String, Refusal>, Option<FaultKind>),
) -> String {
    let (text, signed) = match outcome {
        Ok(text) => (text, Signed::Yes),
        Err(refusal) => (refusal.node().text(), refusal.signed),
    };
    let text = signer.charset.spell_json(&text);
    match (signed, fault) {
        (Signed::No, _) | (_, Some(FaultKind::Unsigned)) => node::unsigned(root, &text),
        (_, Some(FaultKind::TamperedSign)) => {
            let sign = signer.sign(&format!("{text} "));
            format!("{{\"{root}\":{text},\"sign\":\"{sign}\"}}")
        }
        (_, Some(FaultKind::DuplicateNode)) => {
            let forged = format!("{{\"{root}\":{text},\"{root}\":{},", changed(&text));
            let genuine = node::signed(root, &text, signer);
            genuine.replacen(&format!("{{\"{root}\":{text},"), &forged, 1)
        }
        (_, Some(FaultKind::WrongRoot)) => {
            node::signed("alipay_simulator_other_response", &text, signer)
        }
        (_, Some(FaultKind::Tampered)) => {
            node::signed(root, &text, signer).replacen(&text, &changed(&text), 1)
        }
        _ => node::signed(root, &text, signer),
    }
}

/// Changes one byte: the last digit of the node, so that it stays good JSON; without any digit a
/// space is added.
fn changed(text: &str) -> String {
    if !text.contains(|character: char| character.is_ascii_digit()) {
        return text.replacen('{', "{ ", 1);
    }
    let mut done = false;
    text.chars()
        .rev()
        .map(|character| match character.to_digit(10) {
            Some(digit) if !done => {
                done = true;
                if digit == 9 { '8' } else { '9' }
            }
            _ => character,
        })
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
        .collect()
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
