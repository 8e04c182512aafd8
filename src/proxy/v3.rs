//! `/v3/…`: Alipay's REST protocol without its `Authorization`.
//!
//! Path, query and body go on as they came; the sidecar adds who calls, for whom, and the
//! signature. Invariant: as on the other routes, no byte of an unverified reply leaves.

use std::pin::pin;
use std::time::{Duration, Instant};

use http::request::Parts;
use http::{HeaderMap, Method};

use crate::gateway::metrics::{Api, Phase};
use crate::gateway::v3::{
    V3Body, V3Call, V3Encryption, VerifiedV3Reply, is_pure_query_of, method_of,
};
use crate::model::authorization::Source;
use crate::model::user_token::UserToken;
use crate::protocol::authorization::Authorization;
use crate::protocol::secret::Secret;
use crate::protocol::v3_response::V3Verification;
use crate::proxy::ProxyParts;
use crate::proxy::advice::Advice;
use crate::proxy::call::{self, Answer};
use crate::proxy::caller::{SdkSignature, SentV3, Who};
use crate::proxy::error::{ErrorCode, ProxyError};
use crate::proxy::grant::{self, Grant, Guarded};
use crate::proxy::local_call::{self, APP_AUTH_TOKEN, Sent, is_empty, single};
use crate::proxy::logins::{self, Login, Spent};
use crate::proxy::resolve::{Credentials, Tags};
use crate::proxy::second_try::{self, Resendable};
use crate::proxy::story::{Departure, Story};
use crate::proxy::users;
use crate::token::users::USER_TOKEN_METHOD;
use crate::token::{SpentForm, SpentReply, TOKEN_METHOD};

/// The HTTP methods of v3, as the `Allow` header lists them.
pub(super) const METHODS: &str = "DELETE, GET, PATCH, POST, PUT";
/// The text part of an upload.
const DATA_PART: &str = "data";

/// One unsigned v3 request of a backend, checked, still without credentials.
pub(super) struct LocalV3Call {
    http_method: Method,
    /// Path and query, as they came.
    target: String,
    /// The same with what stood before it, `/m/{selector}`.
    whole_target: String,
    /// What an SDK wrote there: dropped, but it may prove who calls.
    authorization: Option<Authorization>,
    app_auth_token: Option<String>,
    body: V3Body,
    encryption: V3Encryption,
    tags: Tags,
    pub(super) timeout: Option<Duration>,
}

impl LocalV3Call {
    /// Reads a request whose path below `/m/{selector}` is `path`.
    ///
    /// # Errors
    /// Contract §3's 400s.
    pub(super) fn read(
        head: &Parts,
        (selector, path): (Option<String>, &str),
        sent: Sent,
    ) -> Result<Self, ProxyError> {
        check_path(path)?;
        let body = body(sent)?;
        let target = match head.uri.query() {
            None => path.to_owned(),
            Some(query) => format!("{path}?{query}"),
        };
        let call = Self {
            encryption: encryption(&head.headers, &body)?,
            tags: tags(&head.headers, selector)?,
            timeout: local_call::timeout(&head.headers)?,
            http_method: head.method.clone(),
            whole_target: head
                .uri
                .path_and_query()
                .map(ToString::to_string)
                .unwrap_or_default(),
            authorization: authorization(&head.headers),
            app_auth_token: single(&head.headers, APP_AUTH_TOKEN).unwrap_or_default(),
            target,
            body,
        };
        let is_empty = matches!(&call.body, V3Body::Plain(body) if body.is_empty());
        if call.http_method == Method::GET && !is_empty {
            return Err(invalid(
                "a GET of v3 has no body; its parameters go into the query",
            ));
        }
        Ok(call)
    }

    /// The path that is called, without its query.
    pub(super) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// The signature that an SDK made, if it made one.
    pub(super) fn signature(&self) -> Option<SdkSignature> {
        let sent = SentV3 {
            authorization: self.authorization.as_ref()?,
            method: &self.http_method,
            targets: [&self.target, &self.whole_target],
            body: self.body.text(),
            app_auth_token: self.app_auth_token.as_deref(),
        };
        Some(SdkSignature::of_v3(&sent))
    }

    /// Alipay's v2 name of what is called.
    pub(super) fn method(&self) -> String {
        method_of(&self.target)
    }
}

/// Makes the call, and tells its story.
pub(super) async fn make(
    parts: &ProxyParts,
    call: &LocalV3Call,
    who: &Who,
    story: &Story,
) -> Result<Answer, ProxyError> {
    let began = Instant::now();
    let mut advice = Advice {
        configured: parts.limits.timeout,
        asked: call.timeout,
        is_query: is_pure_query_of(&call.http_method, &call.method()),
        recorded: None,
    };
    let time = crate::gateway::deadline(parts.limits.timeout, call.timeout);
    let credentials = call::resolve_in(parts, time, &call.method(), (&call.tags, who)).await;
    let credentials = credentials.map_err(|error| advice.to(error));
    story.resolved(parts, (Api::V3, began), &credentials);
    let credentials = credentials.map_err(|error| story.refused(parts, error))?;
    let known = credentials.clone();
    let method = call.method();
    let recording = parts.calls.begin(story, &method, advice.is_query);
    advice.recorded = recording.id();
    let result = send(parts, (call, story), credentials, began + time).await;
    let result = result.map_err(|error| advice.to(error));
    let told = result.as_deref();
    recording.end_v3(told);
    story.tell(parts, Some(&known), told.map(Into::into));
    let took = story.began.elapsed();
    parts.call_metrics.observe(Api::V3, Phase::Total, took);
    result.map(Answer::V3)
}

async fn send(
    parts: &ProxyParts,
    (call, story): (&LocalV3Call, &Story),
    credentials: Credentials,
    until: Instant,
) -> Result<Box<VerifiedV3Reply>, ProxyError> {
    let known = credentials.clone();
    let mut v3 = v3_call(parts, call, credentials, story);
    let named = (call.tags.user.as_deref(), &known);
    let user = users::token(parts, &v3.method(), named, until).await?;
    if let Some(user) = &user {
        users::inject_v3(&mut v3, user)?;
    }
    let login = Login {
        spent: Spent::of_v3(&v3)?,
        known: &known,
        route: "v3",
        until,
    };
    let of_call = (call, &known, story);
    let sending = pin!(send_renewed(parts, (v3, until), of_call, user));
    logins::once_v3(parts, login, sending).await
}

/// As on v2: again with other tokens, where Alipay says, signed, that it executed nothing because
/// of those it got.
async fn send_renewed(
    parts: &ProxyParts,
    (mut v3, until): (V3Call, Instant),
    (call, known, story): (&LocalV3Call, &Credentials, &Story),
    user: Option<UserToken>,
) -> Result<Box<VerifiedV3Reply>, ProxyError> {
    if v3.method() == TOKEN_METHOD {
        return Box::pin(send_for_tokens(parts, v3, &story.departure)).await;
    }
    // As on v2.
    if let Ok(None) = Spent::of_v3(&v3) {
        v3.timeout = until.saturating_duration_since(Instant::now());
    }
    let whose = (known.merchant.as_deref(), user);
    let mut renewable = Renewable {
        v3,
        bare: &call.target,
    };
    story.departure.begin();
    let reply = second_try::send(parts, (&mut renewable, until), whose).await?;
    keep_login(parts, &renewable.v3, known, &reply).await;
    Ok(reply)
}

/// A call whose user's token can be taken out of its target again.
struct Renewable<'a> {
    v3: V3Call,
    /// Its target without a user's token.
    bare: &'a str,
}

impl Resendable for Renewable<'_> {
    type Reply = VerifiedV3Reply;

    fn is_single(&self) -> bool {
        matches!(Spent::of_v3(&self.v3), Ok(Some(Spent::AuthCode(_))))
    }

    fn set_merchant_token(&mut self, token: Secret<String>, timeout: Duration) {
        self.v3.app_auth_token = Some(token);
        self.v3.timeout = timeout;
    }

    fn set_user_token(&mut self, token: &UserToken, timeout: Duration) -> Result<(), ProxyError> {
        self.v3.timeout = timeout;
        self.bare.clone_into(&mut self.v3.target);
        users::inject_v3(&mut self.v3, token)
    }

    async fn send(&self, parts: &ProxyParts) -> Result<Box<VerifiedV3Reply>, ProxyError> {
        send_once(parts, &self.v3).await
    }
}

/// Keeps the user's tokens where the reply hands some out.
async fn keep_login(parts: &ProxyParts, v3: &V3Call, known: &Credentials, reply: &VerifiedV3Reply) {
    if v3.method() != USER_TOKEN_METHOD || !parts.tokens.users().are_kept() {
        return;
    }
    let response = &reply.response;
    if let (V3Verification::Signed, false) = (response.verification(), response.is_error()) {
        let whose = (&*known.app, known.merchant.as_deref());
        logins::keep(parts, whose, &reply.content(&v3.app)).await;
    }
}

async fn send_once(parts: &ProxyParts, v3: &V3Call) -> Result<Box<VerifiedV3Reply>, ProxyError> {
    let reply = Box::pin(parts.gateway.call_v3(v3)).await;
    let reply = reply.map_err(|e| ProxyError::of_query(v3.is_pure_query(), &e))?;
    Ok(Box::new(reply))
}

/// Sends a call that hands out tokens, and stores them.
async fn send_for_tokens(
    parts: &ProxyParts,
    mut v3: V3Call,
    departure: &Departure,
) -> Result<Box<VerifiedV3Reply>, ProxyError> {
    let refresh_token = refresh_token(&v3)?;
    let (began, form) = (Instant::now(), SpentForm::v3(&v3));
    let known = |spent: &Secret<String>| parts.tokens.spent_reply_to(spent, &form);
    if let Some(SpentReply::V3(reply)) = refresh_token.as_ref().and_then(known) {
        return Ok(Box::new(reply));
    }
    let turn = match &refresh_token {
        Some(refresh_token) => Some(call::turn(parts, v3.timeout, refresh_token).await?),
        None => None,
    };
    let known = turn
        .as_ref()
        .and_then(|turn| parts.tokens.spent_reply(turn, &form));
    if let Some(SpentReply::V3(reply)) = known {
        return Ok(Box::new(reply));
    }
    call::refuse_unstorable(parts)?;
    v3.timeout = v3.timeout.saturating_sub(began.elapsed());
    departure.begin();
    let reply = send_once(parts, &v3).await?;
    let is_signed = reply.response.verification() == V3Verification::Signed;
    if !is_signed || reply.response.is_error() {
        return Ok(reply);
    }
    let source = match refresh_token {
        Some(_) => Source::Refresh,
        None => Source::Callback,
    };
    if let Some(turn) = &turn {
        let kept = SpentReply::V3((*reply).clone());
        parts.tokens.keep_spent(turn, form, kept);
    }
    let content = reply.content(&v3.app);
    call::absorb(parts, turn, (&v3.app, source), &content).await;
    Ok(reply)
}

fn v3_call(
    parts: &ProxyParts,
    call: &LocalV3Call,
    credentials: Credentials,
    story: &Story,
) -> V3Call {
    V3Call {
        app: credentials.app,
        app_auth_token: credentials.merchant.map(|m| m.token.app_auth_token.clone()),
        http_method: call.http_method.clone(),
        target: call.target.clone(),
        body: call.body.clone(),
        encryption: call.encryption,
        request_id: story.request_id.clone(),
        span: story.span.clone(),
        timeout: crate::gateway::deadline(parts.limits.timeout, call.timeout),
    }
}

/// The refresh token that a call of [`TOKEN_METHOD`] would spend.
fn refresh_token(v3: &V3Call) -> Result<Option<Secret<String>>, ProxyError> {
    let content = v3.body.text();
    let query = grant::query_of(&v3.target)?;
    let read = |content: &[u8]| Grant::read(Guarded::Merchants, content, &query);
    let grant = match v3.encryption {
        V3Encryption::Callers => {
            let ciphertext = String::from_utf8_lossy(content);
            read(call::opened(&v3.app, ciphertext.trim())?.expose())
        }
        V3Encryption::None | V3Encryption::Ours => read(content),
    };
    Ok(grant?.refresh_token())
}

/// What servers divide a path at, plain or percent-encoded: segments, and Java's path parameters.
const DIVIDERS: [u8; 3] = [b'/', b'\\', b';'];

/// The path is signed as it stands, so it must mean one thing to everybody it passes.
fn check_path(path: &str) -> Result<(), ProxyError> {
    let refused = |reason: &str| {
        let detail = format!("the path can't be signed as it is: {reason}");
        Err(ProxyError::refused(ErrorCode::ParameterInvalid, detail))
    };
    let segments = path.strip_prefix("/v3/").unwrap_or_default();
    if segments.is_empty() {
        return refused("nothing follows `/v3/`");
    }
    if path
        .bytes()
        .any(|byte| byte != b'/' && DIVIDERS.contains(&byte))
    {
        return refused("it has a `;` or a `\\`, which some servers divide at");
    }
    for segment in segments.split('/') {
        if matches!(segment, "" | "." | "..") {
            return refused("it has an empty segment, `.` or `..`");
        }
    }
    let mut rest = path;
    while let Some((_, behind)) = rest.split_once('%') {
        let digits = behind.get(..2).unwrap_or_default();
        let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        let Some(byte) = u8::from_str_radix(digits, 16).ok().filter(|_| is_hex) else {
            return refused("a `%` without two hexadecimal digits behind it");
        };
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            return refused("it percent-encodes a character that needs none");
        }
        if DIVIDERS.contains(&byte) {
            return refused("it percent-encodes `/`, `\\` or `;`, which some servers divide at");
        }
        rest = behind;
    }
    Ok(())
}

fn body(sent: Sent) -> Result<V3Body, ProxyError> {
    let mut upload = match sent {
        Sent::Plain(body) => return Ok(V3Body::Plain(body)),
        Sent::Upload(upload) => upload,
    };
    let data = upload.parameters.remove(DATA_PART);
    if !upload.parameters.is_empty() {
        return Err(invalid(
            "an upload of v3 has one text part, `data`, and files; put everything else into its JSON",
        ));
    }
    if upload.files.iter().any(|file| file.name == DATA_PART) {
        return Err(invalid("the part `data` is a file; it must be JSON text"));
    }
    Ok(V3Body::Upload {
        data: data.unwrap_or_default(),
        files: upload.files,
    })
}

/// `alipay-encrypt-type: AES` with JSON asks the sidecar to encrypt; with anything else the caller
/// has done it.
fn encryption(headers: &HeaderMap, body: &V3Body) -> Result<V3Encryption, ProxyError> {
    let duplicate = |()| {
        let detail = "the header `alipay-encrypt-type` stands twice";
        ProxyError::refused(ErrorCode::ParameterDuplicate, detail)
    };
    let asked = single(headers, "alipay-encrypt-type").map_err(duplicate)?;
    match asked
        .as_deref()
        .filter(|_| !is_empty(headers, "alipay-encrypt-type"))
    {
        None => return Ok(V3Encryption::None),
        Some("AES") => {}
        Some(_) => {
            let detail = "`alipay-encrypt-type` is `AES`, or left out";
            return Err(ProxyError::refused(ErrorCode::ParameterInvalid, detail));
        }
    }
    let (text, is_upload) = match body {
        V3Body::Upload { data, .. } => (data.as_bytes(), true),
        V3Body::Plain(body) => (body.as_ref(), false),
    };
    match (text.trim_ascii_start().first(), is_upload) {
        (Some(b'{' | b'['), false) => Ok(V3Encryption::Ours),
        (Some(b'{' | b'[') | None, true) => Err(invalid(
            "the sidecar encrypts no uploads; an SDK may encrypt the part `data`",
        )),
        _ => Ok(V3Encryption::Callers),
    }
}

fn tags(headers: &HeaderMap, selector: Option<String>) -> Result<Tags, ProxyError> {
    // An SDK signs with its throw-away key; what it signed is dropped, who it claims to be counts.
    let authorization = authorization(headers);
    let own_app_id =
        authorization.and_then(|read| read.auth_string.get("app_id").map(ToOwned::to_owned));
    Ok(Tags {
        own_app_id,
        ..local_call::tags(headers, selector)?
    })
}

/// What an SDK wrote there.
fn authorization(headers: &HeaderMap) -> Option<Authorization> {
    let value = headers.get(http::header::AUTHORIZATION)?;
    Authorization::parse(value.to_str().ok()?).ok()
}

fn invalid(detail: &str) -> ProxyError {
    ProxyError::refused(ErrorCode::BodyInvalid, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_means_one_thing_or_is_refused() {
        for good in ["/v3/alipay/trade/query", "/v3/a/%E4%B8%AD", "/v3/a/b:c@d"] {
            assert!(check_path(good).is_ok(), "{good}");
        }
        for bad in [
            "/v3/",
            "/v3//a",
            "/v3/a/b%2Fc",
            "/v3/a/..%5Cb",
            "/v3/a/..;/b",
            "/v3/a;x",
            "/v3/a%3bx",
            "/v3/a/",
            "/v3/a/../b",
            "/v3/./a",
            "/v3/%61",
            "/v3/%2e%2e/a",
            "/v3/%7E",
            "/v3/%",
            "/v3/%4",
            "/v3/%zz",
            "/v3/%+1",
        ] {
            assert!(check_path(bad).is_err(), "{bad}");
        }
    }
}
