//! `/v3/…`: judges, executes and answers as the REST protocol does, with the faults that are due.
//!
//! Protocol: 开放平台 V3 协议.
mod answer;
mod authorization;
mod judge;
mod routes;

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use serde_json::{Map, Value};

use super::{
    Inner,
    content::Content,
    faults::{FaultKind, Strike},
    gateway::{Body, Closed},
    ids,
    judge::refuse_by_fault,
    methods, mischief,
    node::Refusal,
    notify,
    params::Received,
    world::{GatewayRequest, World},
};

use self::{answer::Answer, judge::Judged, routes::Route};

/// What a test answers a path with.
#[derive(Clone, Debug)]
pub(super) struct FixedAnswer {
    pub(super) status: StatusCode,
    pub(super) body: String,
}

/// Answers one v3 call.
pub(super) async fn handle(
    inner: &Arc<Inner>,
    request: &Request<Content>,
) -> Result<Response<Body>, Closed> {
    let trace_id = ids::hex(16);
    let (reply, strike) = inner.with_world(|world| serve(inner, world, request, &trace_id));
    notify::send_outbox(inner);
    match strike {
        None => Ok(mischief::send(reply)),
        Some(strike) => mischief::play(strike, reply).await,
    }
}

fn serve(
    inner: &Inner,
    world: &mut World,
    request: &Request<Content>,
    trace_id: &str,
) -> (Response<Bytes>, Option<Strike>) {
    let path = request.uri().path();
    let route = Route::find(world, request.method(), path);
    let twin = route.as_ref().map_or("", Route::method);
    let strike = world.faults.strike_v3([path, twin]);
    let fault = strike.map(|strike| strike.kind);

    let app_id = judge::app_id(request.headers());
    let judged = judge::judge(world, request, (route, inner.now()));
    let caller = judged
        .as_ref()
        .ok()
        .map(|judged| judged.call.caller.clone());
    let members = judged.as_ref().map_or_else(
        |_| Vec::new(),
        |judged| judged.body.keys().cloned().collect(),
    );
    let answer = answer(world, judged, fault);

    let query = Received::read_query(request.uri().query().unwrap_or_default());
    let query = query.unwrap_or_default().query;
    let files = match request.body() {
        Content::Parts(parts) => parts.files.clone(),
        _ => Vec::new(),
    };
    world.record(GatewayRequest {
        received_at: inner.now(),
        http_method: request.method().to_string(),
        absolute_form: request.uri().authority().is_some(),
        method: path.to_owned(),
        app_id: app_id.clone(),
        auth_app_id: caller.and_then(|caller| caller.auth_app_id),
        query: query.into_iter().map(|(name, _)| name).collect(),
        body: members,
        files: files.iter().map(|file| file.name.clone()).collect(),
        uploads: files,
        verdict: answer.verdict.clone(),
        fault: fault.map(FaultKind::name),
        trace_id: trace_id.to_owned(),
    });
    let reply = match world.signer(&app_id, Default::default()) {
        Ok(signer) => answer.reply((signer, inner.now()), fault),
        Err(error) => Answer::refusal(&Refusal::broken(error).unsigned()).unsigned_reply(),
    };
    (answer::traced(reply, trace_id), strike)
}

fn answer(world: &mut World, judged: Result<Judged, Refusal>, fault: Option<FaultKind>) -> Answer {
    let judged = judged.and_then(|judged| {
        refuse_by_fault(fault, &judged.sign_content)?;
        Ok(judged)
    });
    match judged {
        Err(refusal) => Answer::refusal(&refusal),
        Ok(judged) => {
            let key = judged.call.content_key.clone();
            match judged.route {
                Route::Fixed(fixed) => Answer::fixed(fixed, key),
                Route::Method(method) => {
                    let outcome = methods::run(world, &judged.call);
                    Answer::executed(outcome, (method, key))
                }
            }
        }
    }
}

/// The members of a call's body or query, by name.
type Members = Map<String, Value>;
