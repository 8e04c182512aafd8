//! One admitted call: credentials → signed → sent → verified.

use std::pin::pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Response;
use http_body_util::Full;

use crate::gateway::app::SigningApp;
use crate::gateway::metrics::{Api, Phase};
use crate::gateway::platform::DOWNLOAD_METHOD;
use crate::gateway::v2::{Encryption, V2Call};
use crate::gateway::v3::VerifiedV3Reply;
use crate::gateway::{VerifiedReply, deadline};
use crate::model::authorization::Source;
use crate::model::user_token::UserToken;
use crate::protocol::envelope::Verification;
use crate::protocol::params::name;
use crate::protocol::request::SignedParams;
use crate::protocol::secret::Secret;
use crate::protocol::signature::SignType;
use crate::proxy::ProxyParts;
use crate::proxy::advice::Advice;
use crate::proxy::caller::Who;
use crate::proxy::calls;
use crate::proxy::error::{ErrorCode, ProxyError};
use crate::proxy::grant::{Grant, Guarded};
use crate::proxy::local_call::LocalCall;
use crate::proxy::logins::{self, Login, Spent};
use crate::proxy::reply::{self, Shape};
use crate::proxy::reply_signature::ReplySigner;
use crate::proxy::resolve::{Credentials, Tags};
use crate::proxy::route::{Action, Target};
use crate::proxy::second_try::{self, Resendable};
use crate::proxy::story::{Departure, Story};
use crate::proxy::users;
use crate::store::error::StoreError;
use crate::token::error::TokenError;
use crate::token::{SpentForm, SpentReply, TOKEN_METHOD, Turn};

/// The member of a reply that holds a user's tokens.
const USER_TOKEN_NODE: &str = "alipay_system_oauth_token_response";

/// What a route wants of a call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    api: Api,
    action: Action,
}

impl Wanted {
    /// The verified node.
    pub(super) const NODE: Self = Self {
        api: Api::V2,
        action: Action::Call,
    };

    pub(super) fn on(target: &Target) -> Self {
        match target {
            Target::V2 { action, .. } => Self {
                action: *action,
                ..Self::NODE
            },
            _ => Self {
                api: Api::Gateway,
                ..Self::NODE
            },
        }
    }
}

/// What a call gave.
#[derive(Debug)]
pub(super) enum Answer {
    /// Alipay's reply, and the algorithm that its signature is due in.
    Reply(Box<VerifiedReply>, SignType),
    /// Alipay's reply on v3.
    V3(Box<VerifiedV3Reply>),
    /// Nothing was sent: the signed request, for the gateway named.
    Signed {
        action: Action,
        params: SignedParams,
        gateway: String,
    },
}

impl Answer {
    pub(super) fn respond(&self, shape: Shape) -> Response<Full<Bytes>> {
        match self {
            Self::Reply(reply, _) if shape == Shape::Gateway => {
                reply::whole(reply, reply.envelope.body().clone())
            }
            Self::Reply(reply, _) => reply::node(reply),
            Self::V3(reply) => reply::v3(reply),
            Self::Signed {
                action,
                params,
                gateway,
            } => reply::signed(*action, params, gateway),
        }
    }

    /// The same, signed anew where a signature belongs to the shape.
    ///
    /// # Errors
    /// `internal`: the call was made, but its reply can't be signed.
    pub(super) async fn respond_signed(
        &self,
        shape: Shape,
        signer: &ReplySigner,
    ) -> Result<Response<Full<Bytes>>, ProxyError> {
        match self {
            Self::Reply(reply, sign_type) if shape == Shape::Gateway => {
                signer.whole(reply, *sign_type).await
            }
            Self::V3(reply) => signer.v3(reply).await,
            other => Ok(other.respond(shape)),
        }
    }
}

/// Makes the call, and tells its story.
pub(super) async fn make(
    parts: &ProxyParts,
    (call, who): (&LocalCall, &Who),
    wanted: Wanted,
    story: &Story,
) -> Result<Answer, ProxyError> {
    let Wanted { api, action } = wanted;
    let began = Instant::now();
    let mut advice = Advice {
        configured: parts.limits.timeout,
        asked: call.timeout,
        is_query: calls::is_query(&call.method),
        recorded: None,
    };
    let credentials = resolve(parts, call, who).await;
    let credentials = credentials.map_err(|error| advice.to(error));
    story.resolved(parts, (api, began), &credentials);
    let credentials = credentials.map_err(|error| story.refused(parts, error))?;
    let known = credentials.clone();
    if action != Action::Call {
        if call.method == TOKEN_METHOD {
            return Err(story.refused(parts, tokens_would_be_lost()));
        }
        if let Err(error) = users::refuse_unsent(call.tags.user.as_deref()) {
            return Err(story.refused(parts, error));
        }
        let signed = sign(parts, (call, story), credentials, action).await;
        story.tell_signed(parts, &known, signed.as_ref().err());
        return signed;
    }
    let recording = parts.calls.begin(story, &call.method, advice.is_query);
    // Where callers are told apart, none of them is shown what a host calls for itself.
    let may_be_asked = !story.is_internal() || !parts.callers.are_told_apart();
    advice.recorded = recording.id().filter(|_| may_be_asked);
    let until = began + deadline(parts.limits.timeout, call.timeout);
    let result = send(parts, (call, story), credentials, (api, until)).await;
    let result = result.map_err(|error| advice.to(error));
    let told = result.as_deref();
    recording.end_v2(told, api == Api::Gateway);
    story.tell(parts, Some(&known), told.map(Into::into));
    parts
        .call_metrics
        .observe(api, Phase::Total, story.began.elapsed());
    let sign_type = call.sign_type.unwrap_or(known.app.sign_type);
    result.map(|reply| Answer::Reply(reply, sign_type))
}

/// Gives what is known without a call, and tells its story.
pub(super) fn tell_known(
    parts: &ProxyParts,
    call: &LocalCall,
    reply: VerifiedReply,
    story: &Story,
) -> Answer {
    story.tell(parts, None, Ok((&reply).into()));
    let sign_type = call.sign_type.unwrap_or_else(|| story.due.get());
    Answer::Reply(Box::new(reply), sign_type)
}

async fn resolve(
    parts: &ProxyParts,
    call: &LocalCall,
    who: &Who,
) -> Result<Credentials, ProxyError> {
    let time = deadline(parts.limits.timeout, call.timeout);
    resolve_in(parts, time, &call.method, (&call.tags, who)).await
}

/// Finds the credentials of a call of `method` within `time`: Alipay may have to be asked whose an
/// unknown token is.
pub(super) async fn resolve_in(
    parts: &ProxyParts,
    time: Duration,
    method: &str,
    (tags, who): (&Tags, &Who),
) -> Result<Credentials, ProxyError> {
    let resolving = async {
        match method == TOKEN_METHOD {
            true => parts.resolver.resolve_own(tags, who).await,
            false => parts.resolver.resolve(tags, who).await,
        }
    };
    resolved_within(time, resolving).await
}

/// The credentials that `resolving` gives, if it does within `time`.
pub(super) async fn resolved_within(
    time: Duration,
    resolving: impl Future<Output = Result<Credentials, ProxyError>>,
) -> Result<Credentials, ProxyError> {
    let resolved = tokio::time::timeout(time, resolving).await;
    resolved.unwrap_or_else(|_| {
        Err(ProxyError::refused(
            ErrorCode::UpstreamTimeout,
            "whose the call is could not be told within its deadline; nothing was sent",
        ))
    })
}

async fn sign(
    parts: &ProxyParts,
    (call, story): (&LocalCall, &Story),
    credentials: Credentials,
    action: Action,
) -> Result<Answer, ProxyError> {
    let v2 = v2_call(parts, (call, story), credentials, Api::V2);
    let params = parts.gateway.sign(&v2).await;
    Ok(Answer::Signed {
        action,
        params: params.map_err(|e| ProxyError::of_call(&call.method, &e))?,
        gateway: v2.app.endpoints.gateway.clone(),
    })
}

async fn send(
    parts: &ProxyParts,
    (call, story): (&LocalCall, &Story),
    credentials: Credentials,
    (api, until): (Api, Instant),
) -> Result<Box<VerifiedReply>, ProxyError> {
    let known = credentials.clone();
    let mut v2 = v2_call(parts, (call, story), credentials, api);
    let named = (call.tags.user.as_deref(), &known);
    let user = users::token(parts, &call.method, named, until).await?;
    if let Some(user) = &user {
        users::inject(&mut v2, user)?;
    }
    let login = Login {
        spent: Spent::of(&v2),
        known: &known,
        route: api.as_str(),
        until,
    };
    // Handed on by its place: it is large, and would be copied each time.
    let sending = pin!(send_renewed(parts, (v2, until), (&known, story), user));
    logins::once(parts, login, sending).await
}

/// Sends a call; and again with other tokens, where Alipay says, signed, that it executed nothing
/// because of those it got.
async fn send_renewed(
    parts: &ProxyParts,
    (mut v2, until): (V2Call, Instant),
    (known, story): (&Credentials, &Story),
    user: Option<UserToken>,
) -> Result<Box<VerifiedReply>, ProxyError> {
    if v2.method == TOKEN_METHOD {
        return Box::pin(send_for_tokens(parts, &v2, &story.departure)).await;
    }
    // What came before took of the same deadline. What a call buys for a code or a refresh token would
    // be lost with a late answer: once sent, it has the whole.
    if Spent::of(&v2).is_none() {
        v2.timeout = until.saturating_duration_since(Instant::now());
    }
    let whose = (known.merchant.as_deref(), user);
    story.departure.begin();
    let reply = second_try::send(parts, (&mut v2, until), whose).await?;
    keep_login(parts, known, &reply).await;
    Ok(reply)
}

impl Resendable for V2Call {
    type Reply = VerifiedReply;

    fn is_single(&self) -> bool {
        matches!(Spent::of(self), Some(Spent::AuthCode(_)))
    }

    fn set_merchant_token(&mut self, token: Secret<String>, timeout: Duration) {
        self.app_auth_token = Some(token);
        self.timeout = timeout;
    }

    fn set_user_token(&mut self, token: &UserToken, timeout: Duration) -> Result<(), ProxyError> {
        self.timeout = timeout;
        self.parameters.remove(name::AUTH_TOKEN);
        users::inject(self, token)
    }

    async fn send(&self, parts: &ProxyParts) -> Result<Box<VerifiedReply>, ProxyError> {
        send_once(parts, self).await
    }
}

/// Keeps the user's tokens where the reply hands some out.
async fn keep_login(parts: &ProxyParts, known: &Credentials, reply: &VerifiedReply) {
    let envelope = &reply.envelope;
    let is_done = envelope.verification() == Verification::Signed
        && envelope.code().is_none_or(|code| code == "10000");
    let is_login = envelope.node_key() == USER_TOKEN_NODE;
    if is_login && is_done && !envelope.is_ciphertext() {
        let node = Secret::new(envelope.node_text());
        let whose = (&*known.app, known.merchant.as_deref());
        logins::keep(parts, whose, node.expose().as_bytes()).await;
    }
}

async fn send_once(parts: &ProxyParts, v2: &V2Call) -> Result<Box<VerifiedReply>, ProxyError> {
    let reply = Box::pin(parts.gateway.call(v2)).await;
    let reply = reply.map_err(|e| ProxyError::of_call(&v2.method, &e))?;
    Ok(Box::new(reply))
}

/// Sends a call that hands out tokens, and stores them.
///
/// A refresh waits for its turn, so that one refresh token is never used from two places. Whoever
/// spent it a moment ago, another caller or the sidecar itself, has the answer to this one, too. If the
/// tokens can't be stored, the reply goes to its caller all the same: a code is good for one
/// exchange, so that reply may be the only copy there will ever be.
async fn send_for_tokens(
    parts: &ProxyParts,
    v2: &V2Call,
    departure: &Departure,
) -> Result<Box<VerifiedReply>, ProxyError> {
    let refresh_token = refresh_token(v2)?;
    let (began, form) = (Instant::now(), SpentForm::v2(v2));
    let known = |spent: &Secret<String>| parts.tokens.spent_reply_to(spent, &form);
    if let Some(SpentReply::V2(reply)) = refresh_token.as_ref().and_then(known) {
        return Ok(Box::new(reply));
    }
    let turn = match &refresh_token {
        Some(refresh_token) => Some(turn(parts, v2.timeout, refresh_token).await?),
        None => None,
    };
    let known = turn
        .as_ref()
        .and_then(|turn| parts.tokens.spent_reply(turn, &form));
    if let Some(SpentReply::V2(reply)) = known {
        return Ok(Box::new(reply));
    }
    refuse_unstorable(parts)?;
    let timeout = v2.timeout.saturating_sub(began.elapsed());
    let v2 = &V2Call {
        timeout,
        ..v2.clone()
    };
    departure.begin();
    let reply = send_once(parts, v2).await?;
    let signed = reply.envelope.verification() == Verification::Signed;
    if !signed || reply.envelope.code().is_some_and(|code| code != "10000") {
        return Ok(reply);
    }
    let source = match refresh_token {
        Some(_) => Source::Refresh,
        None => Source::Callback,
    };
    if let Some(turn) = &turn {
        let kept = SpentReply::V2((*reply).clone());
        parts.tokens.keep_spent(turn, form, kept);
    }
    let node = Secret::new(reply.envelope.node_text());
    absorb(parts, turn, (&v2.app, source), node.expose().as_bytes()).await;
    Ok(reply)
}

/// Nothing is bought while the store is known to take no writes: it would be lost.
///
/// # Errors
/// `store-unavailable`: nothing was sent.
pub(super) fn refuse_unstorable(parts: &ProxyParts) -> Result<(), ProxyError> {
    if parts.tokens.can_be_stored() {
        return Ok(());
    }
    let reason =
        "it takes no writes at present, or its disk is full, so nothing was sent".to_owned();
    Err(StoreError::Unavailable { reason }.into())
}

/// Stores the tokens that a verified reply hands out; until then nobody else has the turn.
pub(super) async fn absorb(
    parts: &ProxyParts,
    turn: Option<Turn>,
    (app, source): (&SigningApp, Source),
    node: &[u8],
) {
    match parts.tokens.absorb_in(turn, (app, source), node).await {
        Ok(_) => {}
        Err(error @ TokenError::Unstored) => {
            tracing::error!(%error, app_id = %app.app_id, "tokens in a reply are not stored yet");
        }
        Err(error) => {
            tracing::error!(%error, app_id = %app.app_id, "tokens in a reply could not be stored");
        }
    }
}

/// Waits, within the deadline of the call, for the right to spend its refresh token.
pub(super) async fn turn(
    parts: &ProxyParts,
    timeout: Duration,
    refresh_token: &Secret<String>,
) -> Result<Turn, ProxyError> {
    let turn = parts.tokens.turn(refresh_token);
    tokio::time::timeout(timeout, turn).await.map_err(|_| {
        ProxyError::refused(
            ErrorCode::UpstreamTimeout,
            "another refresh of the same token took all the time there was",
        )
    })
}

fn v2_call(
    parts: &ProxyParts,
    (call, story): (&LocalCall, &Story),
    credentials: Credentials,
    api: Api,
) -> V2Call {
    V2Call {
        app: credentials.app,
        app_auth_token: credentials.merchant.map(|m| m.token.app_auth_token.clone()),
        method: call.method.clone(),
        parameters: call.parameters.clone(),
        files: call.files.clone(),
        charset: call.charset.clone(),
        encryption: match api {
            Api::Gateway => Encryption::Callers,
            // Its reply proves itself by what is in it, and holds nothing that is secret.
            _ if call.method == DOWNLOAD_METHOD => Encryption::Callers,
            _ => Encryption::Ours,
        },
        timeout: deadline(parts.limits.timeout, call.timeout),
        api,
        span: story.span.clone(),
    }
}

/// The refresh token a call of [`TOKEN_METHOD`] would spend.
fn refresh_token(v2: &V2Call) -> Result<Option<Secret<String>>, ProxyError> {
    let content = v2.parameters.get(name::BIZ_CONTENT).unwrap_or_default();
    let read = |content: &[u8]| Grant::read(Guarded::Merchants, content, &v2.parameters);
    let grant = match v2.parameters.get(name::ENCRYPT_TYPE) {
        None => read(content.as_bytes()),
        Some(_) => read(opened(&v2.app, content)?.expose()),
    };
    Ok(grant?.refresh_token())
}

/// What a caller has encrypted in a call of [`TOKEN_METHOD`]: a refresh of the same token from two
/// places could retire the answer to one of them, so what can't be read isn't sent.
pub(super) fn opened(app: &SigningApp, ciphertext: &str) -> Result<Secret<Vec<u8>>, ProxyError> {
    let refused = |reason: &str| {
        let detail = format!(
            "a call that hands out tokens is encrypted, and {reason}: its tokens could not be kept"
        );
        ProxyError::refused(ErrorCode::BodyInvalid, detail)
    };
    let Some(key) = app.content_key() else {
        return Err(refused("the app has no encrypt_key here"));
    };
    key.decrypt(&ciphertext.replace(' ', "+"))
        .map_err(|_| refused("the app's encrypt_key doesn't open it"))
}

/// Whoever opened such a URL would get tokens that nobody has verified and nobody stores.
fn tokens_would_be_lost() -> ProxyError {
    ProxyError::refused(
        ErrorCode::MethodInvalid,
        "this method is only called, never signed for others: its reply holds tokens",
    )
}
