//! Replies of the v2 gateway.

use std::borrow::Cow;

use bytes::Bytes;

use super::{
    Keys, bodies,
    cause::{Cause, ReplyCause, SignCause, TextCause, quoted, rooted},
    explanation::{Explanation, Subject},
    html, outlines,
    search::{self, Candidate, Claim},
    work::Work,
};
use crate::protocol::{
    charset::Charset,
    envelope::{Envelope, Verification, VerifiedEnvelope},
    error::{EnvelopeError, JsonError},
    json::{self, Kind, Member},
    params::name,
};

/// Says why a reply doesn't verify, or what is special about one that does.
///
/// `method` is the method that was called; without it the reply's own root is believed. Bounded as
/// [`notification`](super::notification) is.
#[must_use]
pub fn reply(body: &[u8], method: Option<&str>, charset: Charset, keys: &Keys) -> Explanation {
    let mut explanation = Explanation::new(Subject::Reply);
    explanation.set_charset(charset);
    let root = method.map(|method| format!("{}_response", method.replace('.', "_")));
    let root = root
        .or_else(|| guess_root(body, charset))
        .unwrap_or_default();
    let spelled = root.strip_suffix("_response").unwrap_or_default();
    let verified = Envelope::parse_in(Bytes::copy_from_slice(body), spelled, charset)
        .and_then(|envelope| envelope.verify(&keys.platform(), keys.sign_type));
    match verified {
        Ok(reply) => judge(&mut explanation, &reply, keys),
        Err(error) => explain(&mut explanation, (body, charset), &root, (keys, &error)),
    }
    explanation
}

fn judge(explanation: &mut Explanation, reply: &VerifiedEnvelope, keys: &Keys) {
    let content = reply.signed_content().into_owned();
    if reply.verification() == Verification::UnsignedError {
        explanation.set_rule_content(content);
        explanation.refuse(ReplyCause::UnsignedError);
        return;
    }
    if content != reply.node() {
        explanation.remark(ReplyCause::JsonSlashes { place: None });
    }
    if let Some(cause) = keys.own_in_place() {
        explanation.remark(cause);
    }
    explanation.accept(content);
}

fn explain(
    explanation: &mut Explanation,
    (body, charset): (&[u8], Charset),
    root: &str,
    (keys, error): (&Keys, &EnvelopeError),
) {
    let parts = match cut(body, charset, root) {
        Ok(parts) => parts,
        Err(cause) => return explanation.refuse(cause),
    };
    explanation.set_rule_content(parts.node.clone());
    let mut faults = parts.faults.clone();
    if *error == EnvelopeError::Unsigned {
        faults.push(ReplyCause::Unsigned.into());
    }
    if parts.sign.is_empty() {
        let cause = faults.into_iter().next();
        return explanation.refuse(cause.unwrap_or_else(|| SignCause::Missing.into()));
    }
    let claim = Claim {
        size: body.len(),
        signs: vec![&parts.sign],
        declared: keys.sign_type,
        expected: keys.platform(),
        other: keys.own.clone(),
        if_none: keys.why_none_fits(parts.serial.as_deref()),
        if_other: keys.if_own_signed(),
    };
    let work = Work::default();
    let candidates = candidates(&parts, &work).map(Some);
    search::investigate(explanation, &claim, faults, (candidates, &work));
}

fn candidates(parts: &Parts, work: &Work) -> impl Iterator<Item = Candidate> {
    let caused = |more: Vec<Cause>| [parts.causes.clone(), more].concat();
    let plain = Candidate {
        causes: parts.causes.clone(),
        content: parts.node.clone(),
    };
    let unquoted = parts
        .node
        .strip_prefix(b"\"")
        .and_then(|node| node.strip_suffix(b"\""))
        .map(|node| Candidate {
            causes: caused(vec![ReplyCause::SignedWithoutQuotes.into()]),
            content: node.to_vec(),
        });
    let others = parts.others.iter().map(move |(cause, content)| Candidate {
        causes: caused(vec![cause.clone()]),
        content: content.clone(),
    });
    let variants = bodies::variants(&parts.node, parts.charset, work);
    std::iter::once(plain)
        .chain(unquoted)
        .chain(others)
        .chain(variants.map(move |(more, content)| Candidate {
            causes: caused(more),
            content,
        }))
}

/// A reply taken apart, leniently.
struct Parts {
    /// What was done to the body before it could be.
    causes: Vec<Cause>,
    /// What refuses it in any case.
    faults: Vec<Cause>,
    charset: Charset,
    node: Vec<u8>,
    /// Other nodes, and what it means if they were signed.
    others: Vec<(Cause, Vec<u8>)>,
    sign: String,
    serial: Option<String>,
}

/// Takes a reply apart, after what harms the whole of it was taken back.
fn cut(body: &[u8], charset: Charset, root: &str) -> Result<Parts, Cause> {
    if body.trim_ascii().is_empty() {
        return Err(TextCause::Empty.into());
    }
    let (trimming, trimmed) = outlines::trimmed(body);
    // White space around an object is no fault of JSON.
    let is_marked = body.starts_with(b"\xef\xbb\xbf");
    let trimming = if is_marked { trimming } else { Vec::new() };
    let first = match parts(trimmed, charset, root) {
        Ok(found) => return Ok(with_causes(found, trimming)),
        Err(error) => error,
    };
    for (cause, body, charset) in mended(trimmed, charset, root) {
        if let Ok(found) = parts(&body, charset, root) {
            let causes = trimming.iter().cloned().chain([cause]).collect();
            return Ok(with_causes(found, causes));
        }
    }
    Err(outline_fault(trimmed, charset, first))
}

fn with_causes(parts: Parts, causes: Vec<Cause>) -> Parts {
    Parts { causes, ..parts }
}

/// Lists the bodies that a body may have been.
fn mended(body: &[u8], charset: Charset, root: &str) -> Vec<(Cause, Vec<u8>, Charset)> {
    use super::cause::ParamsCause;
    let other = match charset {
        Charset::Gbk => Charset::Utf8,
        Charset::Utf8 => Charset::Gbk,
    };
    let text = String::from_utf8_lossy(body);
    let mut found = vec![(Cause::misread(other, charset), body.to_vec(), other)];
    let escaped = ParamsCause::HtmlEscaped { place: None };
    found.push((escaped.into(), html::unescape(&text).into_bytes(), charset));
    if let Some(quoted) = quotes_restored(&text, root) {
        found.push((
            ReplyCause::QuotesStripped.into(),
            quoted.into_bytes(),
            charset,
        ));
    }
    let joined: String = text.split(['\r', '\n']).collect();
    found.push((TextCause::LinesWrapped.into(), joined.into_bytes(), charset));
    if let Ok(inner) = serde_json::from_str::<String>(&text) {
        let reason = "a JSON string that holds the reply; decode it once".to_owned();
        let cause = TextCause::NotTheMessage { reason };
        found.push((cause.into(), inner.into_bytes(), charset));
    }
    found
}

/// Puts the quotes back around a ciphertext: `"root":BASE64` is no JSON.
fn quotes_restored(text: &str, root: &str) -> Option<String> {
    let key = format!("\"{root}\"");
    let (before, behind) = text.split_once(&key)?;
    let (colon, value) = behind.split_at(behind.find(|c: char| c != ':' && !c.is_whitespace())?);
    let end = value.find([',', '}'])?;
    let (ciphertext, rest) = value.split_at(end);
    let is_base64 = |c: char| c.is_ascii_alphanumeric() || "+/=\\".contains(c);
    let ciphertext = ciphertext.trim();
    (!ciphertext.is_empty() && ciphertext.chars().all(is_base64))
        .then(|| format!("{before}{key}{colon}\"{ciphertext}\"{rest}"))
}

fn outline_fault(body: &[u8], charset: Charset, error: JsonError) -> Cause {
    if body.starts_with(b"\x1f\x8b") {
        return TextCause::Compressed.into();
    }
    if body.starts_with(b"<") {
        return TextCause::HtmlPage.into();
    }
    if charset.decode(body).is_err() {
        let (declared, at) = (charset.label(), error.at);
        return TextCause::CharsetMalformed { declared, at }.into();
    }
    if body.starts_with(b"{") && error.at >= body.len() {
        return TextCause::Truncated.into();
    }
    let reason = format!("no JSON object as a reply is one ({error})");
    TextCause::NotTheMessage { reason }.into()
}

fn parts(body: &[u8], charset: Charset, root: &str) -> Result<Parts, JsonError> {
    let members = json::members(body, charset)?;
    let raw = |member: &Member<'_>| body.get(member.value.clone()).unwrap_or_default().to_vec();
    let text = |member: &Member<'_>| match member.kind {
        Kind::String => json::decode_string(&raw(member), charset).ok(),
        _ => None,
    };
    let all = |wanted: &str| -> Vec<&Member<'_>> {
        let found = members.iter().filter(|member| member.name == wanted);
        found.collect()
    };
    let mut faults: Vec<Cause> = Vec::new();
    for wanted in [root, ERROR_RESPONSE, name::SIGN] {
        if all(wanted).len() > 1 {
            let name = match wanted {
                name::SIGN => wanted.to_owned(),
                root => rooted(root),
            };
            faults.push(ReplyCause::MemberDuplicate { name }.into());
        }
    }
    let is_node = |member: &&Member<'_>| member.name.ends_with("_response");
    let own = all(root).into_iter().chain(all(ERROR_RESPONSE)).next();
    let node = own.or_else(|| members.iter().find(is_node));
    match (own, node) {
        (None, Some(found)) => faults.push(other_method(root, found)),
        (None, None) => {
            let reason = match root {
                "" => "there is no `…_response` in it".to_owned(),
                root => format!(
                    "there is neither {} nor `{ERROR_RESPONSE}` in it",
                    quoted(&rooted(root))
                ),
            };
            faults.push(TextCause::NotTheMessage { reason }.into());
        }
        _ => {}
    }
    let others = members
        .iter()
        .filter(is_node)
        .filter(|member| node.is_none_or(|node| node.value != member.value))
        .map(|member| (other_method(root, member), raw(member)));
    Ok(Parts {
        causes: Vec::new(),
        faults,
        charset,
        node: node.map(raw).unwrap_or_default(),
        others: others.collect(),
        sign: all(name::SIGN)
            .first()
            .and_then(|member| text(member))
            .unwrap_or_default(),
        serial: all(name::ALIPAY_CERT_SN)
            .first()
            .and_then(|member| text(member)),
    })
}

fn other_method(root: &str, found: &Member<'_>) -> Cause {
    ReplyCause::OtherMethod {
        expected: rooted(root),
        found: rooted(&found.name),
    }
    .into()
}

/// Finds the root of a reply to an unknown method.
fn guess_root(body: &[u8], charset: Charset) -> Option<String> {
    let (_, trimmed) = outlines::trimmed(body);
    let members = json::members(trimmed, charset).ok();
    let named = members.and_then(|members| {
        let mut names = members.into_iter().map(|member| member.name);
        names.find(|name| name.ends_with("_response") && name != ERROR_RESPONSE)
    });
    let named = named.map(Cow::into_owned);
    named.or_else(|| {
        let text = String::from_utf8_lossy(trimmed);
        let (before, _) = text.split_once("_response\"")?;
        let (_, root) = before.rsplit_once('"')?;
        Some(format!("{root}_response"))
    })
}

const ERROR_RESPONSE: &str = "error_response";
