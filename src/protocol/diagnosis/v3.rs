//! v3: requests and answers.

use std::borrow::Cow;

use bytes::Bytes;

use super::{
    Keys, bodies,
    cause::{Cause, KeyCause, ReplyCause, TextCause, V3Cause},
    clock,
    explanation::{Explanation, Subject},
    search::{self, Candidate, Claim},
    work::Work,
};
use crate::protocol::{
    authorization::Authorization,
    charset::Charset,
    key::{self, RsaPublicKey},
    sign_content::{self, V3Request},
    signature::SignType,
    v3_response::{V3Error, V3Response, V3Verification},
};

/// Holds the headers and the body of a v3 message, as they are at hand.
#[derive(Clone, Copy)]
pub struct V3Message<'a> {
    /// Names in any case, values as they came.
    pub headers: &'a [(String, Vec<u8>)],
    /// The body after transfer and content decoding.
    pub body: &'a [u8],
}

impl V3Message<'_> {
    fn header(&self, wanted: &str) -> Option<Cow<'_, str>> {
        let mut headers = self.headers.iter();
        let (_, value) = headers.find(|(name, _)| name.eq_ignore_ascii_case(wanted))?;
        Some(String::from_utf8_lossy(value.trim_ascii()))
    }

    /// Writes the sign content of an answer, whatever its headers hold.
    fn response_content(&self, body: &[u8]) -> Vec<u8> {
        let line = |name: &str| self.header(name).unwrap_or_default().into_owned();
        let (timestamp, nonce) = (line("alipay-timestamp"), line("alipay-nonce"));
        let lines = [timestamp.as_bytes(), nonce.as_bytes(), body, b""];
        lines.join(&b'\n')
    }
}

/// Says why a v3 answer doesn't verify.
#[must_use]
pub fn v3_response(status: u16, message: V3Message<'_>, keys: &Keys) -> Explanation {
    let mut explanation = Explanation::new(Subject::V3Response);
    let headers = message.headers.iter();
    let headers = headers.map(|(name, value)| (name.as_str(), value.as_slice()));
    let response = V3Response::new(status, headers, Bytes::copy_from_slice(message.body));
    let verified = response.and_then(|response| response.verify(&keys.platform()));
    let content = message.response_content(message.body);
    explanation.set_rule_content(content.clone());
    let is_null = message.header(SIGNATURE).is_some_and(|sign| sign == "null");
    match verified.map(|verified| verified.verification()) {
        Ok(V3Verification::Signed) => {
            explanation.accept(content);
            keys.own_in_place()
                .into_iter()
                .for_each(|cause| explanation.remark(cause));
        }
        Err(error @ V3Error::HeaderDuplicate { .. }) => {
            explanation.refuse(V3Cause::HeaderInvalid(error));
        }
        Err(V3Error::HeaderMissing { name }) => explanation.refuse(V3Cause::HeaderMissing { name }),
        Ok(_) | Err(V3Error::Unsigned { .. }) if is_null => explanation.refuse(V3Cause::HeaderNull),
        Ok(V3Verification::UnsignedError) => explanation.refuse(ReplyCause::UnsignedError),
        Ok(V3Verification::NoContent) => explanation.refuse(V3Cause::NoContent),
        Err(V3Error::Unsigned { .. }) => {
            explanation.refuse(V3Cause::HeaderMissing { name: SIGNATURE });
        }
        Err(error) => {
            explain_response(&mut explanation, message, keys);
            if explanation.cause().is_none() {
                // All that is signed fits: what is wrong is a header that isn't.
                explanation.refuse(V3Cause::HeaderInvalid(error));
            }
        }
    }
    explanation
}

fn explain_response(explanation: &mut Explanation, message: V3Message<'_>, keys: &Keys) {
    let sign = message.header(SIGNATURE).unwrap_or_default();
    let serial = message
        .header("alipay-sn")
        .filter(|serial| !serial.is_empty());
    let mut content = message.response_content(message.body);
    let claim = Claim {
        size: content.len(),
        signs: vec![&sign],
        declared: SignType::Rsa2,
        expected: keys.platform(),
        other: keys.own.clone(),
        if_none: keys.why_none_fits(serial.as_deref()),
        if_other: keys.if_own_signed(),
    };
    let plain = (Vec::new(), message.body.to_vec());
    let work = Work::default();
    let variants = bodies::variants(message.body, Charset::Utf8, &work);
    let bodies = std::iter::once(plain).chain(variants);
    let whole = bodies.map(|(causes, body)| Candidate {
        causes,
        content: message.response_content(&body),
    });
    content.pop();
    let unended = Candidate {
        causes: vec![V3Cause::LastLineBreak.into()],
        content,
    };
    let candidates = whole.chain([unended]).map(Some);
    let faults = compressed(message.body);
    search::investigate(explanation, &claim, faults, (candidates, &work));
}

/// Says why a v3 request doesn't verify with the app's own key, as Alipay verifies it; and whether
/// its time is right.
#[must_use]
pub fn v3_request(
    method: &str,
    target: &str,
    message: V3Message<'_>,
    keys: &Keys,
    now_ms: i64,
) -> Explanation {
    let mut explanation = Explanation::new(Subject::V3Request);
    let Some(header) = message.header("authorization") else {
        let name = "authorization";
        explanation.refuse(V3Cause::HeaderMissing { name });
        return explanation;
    };
    let authorization = match Authorization::parse(&header) {
        Ok(authorization) => authorization,
        Err(error) => {
            let reason = error.to_string();
            explanation.refuse(V3Cause::AuthorizationInvalid { reason });
            return explanation;
        }
    };
    let time = authorization
        .auth_string
        .get("timestamp")
        .unwrap_or_default();
    if let Some(cause) = clock::of_v3(time, now_ms) {
        explanation.remark(cause);
    }
    let token = message.header("alipay-app-auth-token");
    let body = signed_body(&message);
    let request = V3Request {
        auth_string: &authorization.auth_string,
        method,
        target,
        body: &body,
        app_auth_token: token.as_deref().filter(|token| !token.is_empty()),
    };
    judge_request(&mut explanation, &request, &authorization.sign, keys);
    explanation
}

fn judge_request(explanation: &mut Explanation, request: &V3Request<'_>, sign: &str, keys: &Keys) {
    let content = sign_content::v3_request(request);
    let lines = Lines::of(request);
    explanation.set_rule_content(lines.content());
    let signature = key::decode_signature(sign).unwrap_or_default();
    let fits = |key: &RsaPublicKey, content: &[u8]| key.fits(SignType::Rsa2, content, &signature);
    if let Some(content) = content
        && keys.own.iter().any(|key| fits(key, &content))
    {
        explanation.accept(content);
        return;
    }
    let missing = KeyCause::Missing {
        expected: "the app's own key (its private key, or 应用公钥)",
    };
    let claim = Claim {
        size: lines.content().len(),
        signs: vec![sign],
        declared: SignType::Rsa2,
        expected: keys.own.clone(),
        other: keys.platform(),
        if_none: match keys.own.len() {
            0 => missing.into(),
            keys => KeyCause::WrongPrivateKey { keys }.into(),
        },
        if_other: KeyCause::KeysSwapped.into(),
    };
    let work = Work::default();
    let candidates = request_candidates(request, &lines, &work).map(Some);
    let faults = compressed(request.body);
    search::investigate(explanation, &claim, faults, (candidates, &work));
}

/// The lines that a v3 request is signed over.
#[derive(Clone)]
struct Lines {
    auth_string: String,
    method: String,
    target: String,
    body: Vec<u8>,
    token: Option<String>,
    end: &'static str,
}

impl Lines {
    fn of(request: &V3Request<'_>) -> Self {
        Self {
            auth_string: request.auth_string.as_str().to_owned(),
            method: request.method.to_ascii_uppercase(),
            target: request.target.to_owned(),
            body: request.body.to_vec(),
            token: request.app_auth_token.map(str::to_owned),
            end: "\n",
        }
    }

    fn content(&self) -> Vec<u8> {
        let mut lines = vec![
            self.auth_string.as_bytes(),
            self.method.as_bytes(),
            self.target.as_bytes(),
            self.body.as_slice(),
        ];
        lines.extend(self.token.as_deref().map(str::as_bytes));
        let mut content = lines.join(&b'\n');
        content.extend(self.end.as_bytes());
        content
    }
}

fn request_candidates<'a>(
    request: &V3Request<'a>,
    lines: &Lines,
    work: &Work,
) -> impl Iterator<Item = Candidate> + use<'a> {
    let bare = Lines {
        body: Vec::new(),
        ..lines.clone()
    };
    let heads = head_variants(request, &bare);
    let empty = (vec![V3Cause::BodyNotSigned.into()], Vec::new());
    let mut variants = bodies::variants(request.body, Charset::Utf8, work);
    let plain = [(Vec::new(), request.body.to_vec()), empty];
    let near: Vec<_> = plain.into_iter().chain(variants.by_ref().take(4)).collect();
    let work = work.clone();
    let made = move |(causes, lines): &Head, (more, body): bodies::Repaired| {
        work.charge(3 * body.len() + lines.target.len() + lines.auth_string.len());
        let lines = lines.clone();
        Candidate {
            causes: [causes.clone(), more].concat(),
            content: Lines { body, ..lines }.content(),
        }
    };
    let rule = (Vec::new(), bare);
    let by_head = pairs(heads.clone(), near.iter().take(1).cloned().collect());
    let by_body = near.clone().into_iter().chain(variants.take(MOST_BODIES));
    let by_body = by_body.map(move |body| (rule.clone(), body));
    by_head
        .chain(by_body)
        .chain(pairs(heads, near))
        .map(move |(head, body)| made(&head, body))
}

/// A head, and what it means if it was signed.
type Head = (Vec<Cause>, Lines);

/// Pairs each head with each body.
fn pairs(
    heads: Vec<Head>,
    bodies: Vec<bodies::Repaired>,
) -> impl Iterator<Item = (Head, bodies::Repaired)> {
    heads.into_iter().flat_map(move |head| {
        let bodies = bodies.clone().into_iter();
        bodies.map(move |body| (head.clone(), body))
    })
}

/// Lists the heads that may have been signed: one line changed.
fn head_variants(request: &V3Request<'_>, lines: &Lines) -> Vec<Head> {
    let mut found = vec![(Vec::new(), lines.clone())];
    let mut add = |cause: V3Cause, lines: Lines| found.push((vec![cause.into()], lines));
    let small = lines.method.to_ascii_lowercase();
    add(
        V3Cause::MethodCase,
        Lines {
            method: small,
            ..lines.clone()
        },
    );
    for signed in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
        if signed != lines.method {
            let method = signed.to_owned();
            add(
                V3Cause::MethodChanged { signed },
                Lines {
                    method,
                    ..lines.clone()
                },
            );
        }
    }
    for (what, target) in other_targets(request.target) {
        add(
            V3Cause::TargetChanged { what },
            Lines {
                target,
                ..lines.clone()
            },
        );
    }
    match &lines.token {
        Some(_) => add(
            V3Cause::TokenLineMissing,
            Lines {
                token: None,
                ..lines.clone()
            },
        ),
        None => {
            let token = Some(String::new());
            add(
                V3Cause::TokenLineEmpty,
                Lines {
                    token,
                    ..lines.clone()
                },
            );
        }
    }
    add(
        V3Cause::LastLineBreak,
        Lines {
            end: "",
            ..lines.clone()
        },
    );
    found
}

/// Lists the targets that may have been signed.
fn other_targets(target: &str) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    let path = target.split('?').next().unwrap_or_default();
    if path.len() != target.len() {
        found.push(("the query wasn't signed", path.to_owned()));
    }
    let decoded = crate::protocol::form::unescape(target.replace('+', "%2B").as_bytes(), 0);
    if let Some(decoded) = decoded.ok().and_then(|bytes| String::from_utf8(bytes).ok()) {
        found.push(("it was signed decoded", decoded));
    }
    let inner = path.trim_start_matches('/').find("/v3/");
    if let Some(at) = inner {
        let target = target.get(at + 1..).unwrap_or_default();
        found.push(("a prefix was added to the path", target.to_owned()));
    }
    if let Some(rest) = target.strip_prefix("/v3") {
        found.push(("it was signed without `/v3`", rest.to_owned()));
    }
    found.push(("it was signed with another prefix", format!("/v3{target}")));
    found.push((
        "it was signed with the host",
        format!("https://openapi.alipay.com{target}"),
    ));
    if let Some(bare) = target.strip_suffix('/') {
        found.push(("a slash was added to its end", bare.to_owned()));
    }
    found.push(("a slash was taken from its end", format!("{target}/")));
    found.retain(|(_, other)| other != target);
    found
}

/// Takes the part `data` out of a multipart body: it alone is signed.
fn signed_body<'a>(message: &V3Message<'a>) -> Cow<'a, [u8]> {
    let boundary = message.header("content-type").and_then(|content_type| {
        let (_, boundary) = content_type.split_once("boundary=")?;
        let boundary = boundary.split(';').next()?.trim().trim_matches('"');
        (content_type.starts_with("multipart/")).then(|| format!("--{boundary}"))
    });
    let data = boundary.and_then(|boundary| data_part(message.body, boundary.as_bytes()));
    data.map_or(Cow::Borrowed(message.body), Cow::Owned)
}

fn data_part(body: &[u8], boundary: &[u8]) -> Option<Vec<u8>> {
    let text = String::from_utf8_lossy(body);
    let boundary = String::from_utf8_lossy(boundary);
    let part = text.split(boundary.as_ref()).find(|part| {
        let head = part.split("\r\n\r\n").next().unwrap_or_default();
        head.contains("name=\"data\"")
    })?;
    let (_, content) = part.split_once("\r\n\r\n")?;
    Some(
        content
            .strip_suffix("\r\n")
            .unwrap_or(content)
            .as_bytes()
            .to_vec(),
    )
}

fn compressed(body: &[u8]) -> Vec<Cause> {
    match body.starts_with(b"\x1f\x8b") {
        true => vec![TextCause::Compressed.into()],
        false => Vec::new(),
    }
}

const SIGNATURE: &str = "alipay-signature";

/// How many bodies of a request are tried.
const MOST_BODIES: usize = 1_000;
