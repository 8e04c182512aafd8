//! Forms: what Alipay posts, and what is sent to it.

use std::collections::BTreeSet;

use super::{
    Keys,
    cause::{Cause, KeyCause, ParamsCause, SignCause, TextCause, labelled},
    clock,
    explanation::{Explanation, Subject},
    fields::{Fields, Reading},
    form_candidates::{candidates, rightful},
    outlines::{self, Outline},
    search::{self, Claim},
    work::Work,
};
use crate::protocol::{
    charset::{self, Charset},
    error::ProtocolError,
    form,
    key::{self, RsaPublicKey},
    notification::{self as notifications, Notification, UnverifiedNotification},
    params::{Params, is_blank, name},
    sign_content::{self, Scheme},
    signature::SignType,
};

/// Says why a notification doesn't verify, or what is special about one that does.
///
/// Bounded (one RSA operation for each key and spelling of `sign`, then hashes), so it may run
/// whenever a notification is refused; on a thread that may block.
#[must_use]
pub fn notification(content_type: Option<&str>, body: &[u8], keys: &Keys) -> Explanation {
    let mut explanation = Explanation::new(Subject::Notification);
    let parsed = UnverifiedNotification::parse(content_type, body);
    let verified = parsed.and_then(|parsed| parsed.verify(&keys.platform(), keys.sign_type));
    let declared = notifications::charset(content_type, body);
    let charset = declared.as_ref().copied().unwrap_or_default();
    explanation.set_charset(charset);
    match verified {
        Ok(notification) => {
            remark_on_notification(&mut explanation, &notification, Fields::read(body, charset));
            keys.own_in_place()
                .into_iter()
                .for_each(|cause| explanation.remark(cause));
            let content = charset.encode(notification.sign_content());
            explanation.accept(content.unwrap_or_default());
        }
        Err(error) => {
            let form = Form::new(Kind::Notification, body.to_vec(), charset);
            explain_notification(&mut explanation, &form, keys, &error);
        }
    }
    explanation
}

/// The same for a notification that is to be read in `charset`, whatever it says itself.
#[must_use]
pub fn notification_in(charset: Charset, body: &[u8], keys: &Keys) -> Explanation {
    let mut explanation = Explanation::new(Subject::Notification);
    explanation.set_charset(charset);
    let form = Form::new(Kind::Notification, body.to_vec(), charset);
    match verify_notification(&form, keys) {
        Ok(content) => {
            explanation.accept(content);
            keys.own_in_place()
                .into_iter()
                .for_each(|cause| explanation.remark(cause));
        }
        Err(error) => explain_notification(&mut explanation, &form, keys, &error),
    }
    explanation
}

fn explain_notification(
    explanation: &mut Explanation,
    form: &Form,
    keys: &Keys,
    error: &ProtocolError,
) {
    let claim = Expected {
        keys: keys.platform(),
        other: keys.own.clone(),
        if_none: keys.why_none_fits(form.get(name::ALIPAY_CERT_SN).as_deref()),
        if_other: keys.if_own_signed(),
    };
    explain(explanation, form, claim, faults(form, error));
}

/// Verifies a notification in the charset of its form, by every reading that is no mistake.
fn verify_notification(form: &Form, keys: &Keys) -> Result<Vec<u8>, ProtocolError> {
    let params = Params::from_form(&form.raw, form.charset)?;
    let found = match params.get(name::SIGN_TYPE) {
        None => SignType::Rsa2,
        Some(name) => name.parse()?,
    };
    let expected = keys.sign_type;
    if found == SignType::Rsa && expected == SignType::Rsa2 {
        return Err(ProtocolError::SignTypeWeaker { found, expected });
    }
    let signature = key::decode_signature(params.get(name::SIGN).unwrap_or_default())?;
    let platform = keys.platform();
    let fits = |content: &Vec<u8>| {
        let mut keys = platform.iter();
        keys.any(|key| key.fits(found, content, &signature))
    };
    let keys = platform.len();
    rightful(form)
        .find(fits)
        .ok_or(ProtocolError::SignatureMismatch { keys })
}

/// Says why a v2 request, or an order string given as the query, doesn't verify with the app's own
/// key, as Alipay verifies it; and whether its time is right.
///
/// `charset` overrides the `charset` parameter, be it known or not.
#[must_use]
pub fn request(
    query: &[u8],
    body: &[u8],
    charset: Option<Charset>,
    keys: &Keys,
    now_ms: i64,
) -> Explanation {
    let mut explanation = Explanation::new(Subject::Request);
    let raw = joined(query, &not_repeated(query, body));
    let label = charset::label_of_form(&raw);
    let declared = label.map_or(Ok(Charset::Utf8), |label| Charset::from_label(&label));
    let declared = charset.map_or(declared, Ok);
    let read_as = declared.as_ref().copied().unwrap_or_default();
    let form = Form {
        query: Fields::read(query, read_as),
        ..Form::new(Kind::Request, raw, read_as)
    };
    explanation.set_charset(form.charset);
    remark_on_request(&mut explanation, &form, query, now_ms);
    let verified = declared.and_then(|_| verify_request(query, body, form.charset, keys));
    match verified {
        Ok(content) => {
            explanation.accept(content);
            keys.own_in_place()
                .into_iter()
                .for_each(|cause| explanation.remark(cause));
        }
        Err(error) => {
            let missing = KeyCause::Missing {
                expected: "the app's own key (its private key, or 应用公钥)",
            };
            let keys_given = keys.own.len();
            let claim = Expected {
                keys: keys.own.clone(),
                other: keys.platform(),
                if_none: match keys_given {
                    0 => missing.into(),
                    keys => KeyCause::WrongPrivateKey { keys }.into(),
                },
                if_other: KeyCause::KeysSwapped.into(),
            };
            explain(&mut explanation, &form, claim, faults(&form, &error));
        }
    }
    explanation
}

/// What of a body doesn't stand in the query alike: a pair that does counts once, as for
/// [`verify_request`].
fn not_repeated(query: &[u8], body: &[u8]) -> Vec<u8> {
    let known: BTreeSet<_> = form::segments(query).filter_map(decoded).collect();
    let is_new = |segment: &&[u8]| {
        let pair = form::segments(segment).next().and_then(decoded);
        pair.is_none_or(|pair| !known.contains(&pair))
    };
    let segments = body.split(|&byte| byte == b'&');
    segments.filter(is_new).collect::<Vec<_>>().join(&b'&')
}

fn decoded((_, name, value): (usize, &[u8], &[u8])) -> Option<(Vec<u8>, Vec<u8>)> {
    let text = |piece| form::unescape(piece, 0).ok();
    Some((text(name)?, text(value)?))
}

fn joined(query: &[u8], body: &[u8]) -> Vec<u8> {
    match (query, body) {
        (query, b"") => query.to_vec(),
        (b"", body) => body.to_vec(),
        (query, body) => [query, b"&", body].concat(),
    }
}

/// Which rules a form follows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Notification,
    Request,
}

/// A form to be explained, read in every way.
pub(super) struct Form {
    pub(super) kind: Kind,
    raw: Vec<u8>,
    charset: Charset,
    pub(super) outlines: Vec<Outline>,
    /// Which of the parameters stood in the query.
    pub(super) query: Fields,
    work: Work,
}

impl Form {
    fn new(kind: Kind, raw: Vec<u8>, charset: Charset) -> Self {
        let if_verbatim = match kind {
            Kind::Request if raw.contains(&b'%') => ParamsCause::SignedEncoded,
            _ => ParamsCause::DecodedTwice { place: None },
        };
        let work = Work::default();
        Self {
            kind,
            outlines: outlines::all(&raw, charset, if_verbatim, &work),
            raw,
            charset,
            query: Fields::default(),
            work,
        }
    }

    fn get(&self, name: &str) -> Option<String> {
        let mut outlines = self.outlines.iter();
        outlines.find_map(|outline| outline.fields.get(name).map(str::to_owned))
    }

    /// The rule that such a form is signed by.
    pub(super) fn rule(&self) -> Reading {
        match self.kind {
            Kind::Notification => Reading::NOTIFICATION,
            Kind::Request => Reading::REQUEST,
        }
    }

    /// Lists the different `sign`s that the outlines give, the strict reader's first.
    fn signs(&self) -> Vec<&str> {
        let mut signs: Vec<&str> = Vec::new();
        for outline in &self.outlines {
            let sign = outline.fields.get(name::SIGN).unwrap_or_default();
            if !sign.is_empty() && !signs.contains(&sign) {
                signs.push(sign);
            }
        }
        signs
    }
}

/// Who should have signed, and what it means if somebody else did.
struct Expected {
    keys: Vec<RsaPublicKey>,
    other: Vec<RsaPublicKey>,
    if_none: Cause,
    if_other: Cause,
}

fn explain(explanation: &mut Explanation, form: &Form, expected: Expected, faults: Vec<Cause>) {
    if form.raw.trim_ascii().is_empty() {
        explanation.refuse(TextCause::Empty);
        return;
    }
    if let Some(outline) = form.outlines.first() {
        let content = form.rule().content(&outline.fields);
        explanation.set_rule_content(encoded(form.charset, &content));
    }
    let claim = Claim {
        size: form.raw.len(),
        signs: form.signs(),
        declared: declared_sign_type(form),
        expected: expected.keys,
        other: expected.other,
        if_none: expected.if_none,
        if_other: expected.if_other,
    };
    search::investigate(explanation, &claim, faults, (candidates(form), &form.work));
}

fn faults(form: &Form, error: &ProtocolError) -> Vec<Cause> {
    match error {
        ProtocolError::CharsetUnsupported { label } => {
            let label = labelled(label);
            vec![TextCause::CharsetUnknown(ProtocolError::CharsetUnsupported { label }).into()]
        }
        ProtocolError::SignTypeUnknown { found } => {
            let found = labelled(found);
            let reason = ProtocolError::SignTypeUnknown { found }.to_string();
            vec![TextCause::NotTheMessage { reason }.into()]
        }
        ProtocolError::SignTypeWeaker { .. } => vec![SignCause::TypeWeaker.into()],
        _ if form.raw.starts_with(b"\x1f\x8b") => vec![TextCause::Compressed.into()],
        _ if form.raw.trim_ascii_start().starts_with(b"<") => vec![TextCause::HtmlPage.into()],
        _ => {
            let mut faults = Fields::faults(&form.raw, form.charset);
            faults.extend(lost_characters(form));
            faults
        }
    }
}

/// Finds what a conversion between charsets couldn't carry over.
fn lost_characters(form: &Form) -> Option<Cause> {
    let outline = form.outlines.first()?;
    let mut fields = outline.fields.iter();
    let (name, _) =
        fields.find(|(_, value)| value.contains('\u{fffd}') || value.contains("锟斤拷"))?;
    let place = Some(super::cause::named(name));
    Some(TextCause::CharactersLost { place }.into())
}

fn declared_sign_type(form: &Form) -> SignType {
    let named = form.get(name::SIGN_TYPE);
    named
        .and_then(|name| name.trim().parse().ok())
        .unwrap_or(SignType::Rsa2)
}

fn encoded(charset: Charset, content: &str) -> Vec<u8> {
    charset
        .encode(content)
        .unwrap_or_else(|_| content.as_bytes().to_vec())
}

/// Verifies a request as Alipay does: over the union of query and body. A parameter that stands in
/// both with one value counts once (the official Node SDK's uploads do that).
fn verify_request(
    query: &[u8],
    body: &[u8],
    charset: Charset,
    keys: &Keys,
) -> Result<Vec<u8>, ProtocolError> {
    let mut params = Params::from_form(query, charset)?;
    for (name, value) in Params::from_form(body, charset)? {
        if params.get(&name) != Some(&value) {
            params.push(name, value)?;
        }
    }
    let sign_type = match params.get(name::SIGN_TYPE) {
        None => SignType::Rsa2,
        Some(name) => name.parse()?,
    };
    let signature = key::decode_signature(params.get(name::SIGN).unwrap_or_default())?;
    let content = charset.encode(&sign_content::v2_request(&params))?;
    let fits = |key: &RsaPublicKey| key.fits(sign_type, &content, &signature);
    match keys.own.iter().any(fits) {
        true => Ok(content),
        false => Err(ProtocolError::SignatureMismatch {
            keys: keys.own.len(),
        }),
    }
}

fn remark_on_request(explanation: &mut Explanation, form: &Form, query: &[u8], now_ms: i64) {
    let time = form.get(name::TIMESTAMP);
    if let Some(cause) = time.and_then(|time| clock::of_v2(&time, now_ms)) {
        explanation.remark(cause);
    }
    let is_in_query = charset::label_of_form(query).is_some();
    if form.get(name::CHARSET).is_some() && !is_in_query {
        explanation.remark(ParamsCause::CharsetNotInQuery);
    }
}

/// Says which of the disputed readings held.
fn remark_on_notification(
    explanation: &mut Explanation,
    notification: &Notification,
    fields: Fields,
) {
    let content = notification.sign_content();
    let has_part = |name: &str| {
        let start = format!("{name}=");
        content.starts_with(&start) || content.contains(&format!("&{start}"))
    };
    if notification.scheme() == Scheme::V2 && fields.get(name::SIGN_TYPE).is_some() {
        explanation.remark(ParamsCause::SignTypeKept);
    }
    if fields.get(name::ALIPAY_CERT_SN).is_some() && !has_part(name::ALIPAY_CERT_SN) {
        explanation.remark(ParamsCause::CertificateSerialLeftOut);
    }
    let empty = fields.iter().find(|(_, value)| is_blank(value));
    if let Some((name, _)) = empty {
        explanation.remark(match has_part(name) {
            true => ParamsCause::EmptyValuesKept,
            false => ParamsCause::EmptyValuesDropped,
        });
    }
    if fields
        .get(name::SIGN)
        .is_some_and(|sign| sign.contains(' '))
    {
        explanation.remark(SignCause::PlusAsSpace);
    }
}
