//! What a v3 call is answered with: a body, and the headers that sign it.
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use serde_json::json;

use super::{
    super::{
        aes::ContentKey,
        envelope::changed,
        faults::FaultKind,
        ids, methods,
        node::{Node, Refusal, Signed, Signer},
    },
    FixedAnswer,
};

/// An answer before it is encrypted and signed.
pub(super) struct Answer {
    status: StatusCode,
    body: String,
    signed: Signed,
    /// What the body is encrypted with.
    key: Option<ContentKey>,
    /// `ok`, or the `sub_code` that v2 has for it.
    pub(super) verdict: String,
}

impl Answer {
    /// Makes the answer that a test has given; nothing is signed where there is no body.
    pub(super) fn fixed(fixed: FixedAnswer, key: Option<ContentKey>) -> Self {
        let is_empty = fixed.status == StatusCode::NO_CONTENT;
        Self {
            key: key.filter(|_| fixed.status.is_success() && !is_empty),
            status: fixed.status,
            body: fixed.body,
            signed: if is_empty { Signed::No } else { Signed::Yes },
            verdict: "ok".to_owned(),
        }
    }

    /// Makes the answer of a call that was executed, well or not.
    pub(super) fn executed(
        outcome: Result<Node, Refusal>,
        (method, key): (String, Option<ContentKey>),
    ) -> Self {
        match outcome {
            Err(refusal) => Self::refusal(&refusal),
            Ok(node) => Self {
                status: StatusCode::OK,
                body: node.v3_text(),
                signed: if methods::is_unsigned(&method) {
                    Signed::No
                } else {
                    Signed::Yes
                },
                key,
                verdict: "ok".to_owned(),
            },
        }
    }

    /// Makes an error, which is never encrypted.
    pub(super) fn refusal(refusal: &Refusal) -> Self {
        let code = refusal.sub_code.as_str();
        let code = ["isv.", "aop.", "isp."]
            .iter()
            .find_map(|prefix| code.strip_prefix(prefix))
            .unwrap_or(code);
        let body = json!({
            "code": code,
            "message": refusal.sub_msg,
            "details": [],
            "links": [{"link": "https://open.alipay.com/api/errCheck", "desc": "解决方案"}],
        });
        Self {
            status: status(refusal),
            body: body.to_string(),
            signed: refusal.signed,
            key: None,
            verdict: refusal.sub_code.clone(),
        }
    }

    /// Signs the answer, or plays the fault on it.
    pub(super) fn reply(
        self,
        (signer, now): (Signer, i64),
        fault: Option<FaultKind>,
    ) -> Response<Bytes> {
        let Some(body) = self.encrypted(fault) else {
            return self.unsigned_reply();
        };
        let signed = match fault {
            _ if self.signed == Signed::No => None,
            Some(FaultKind::Unsigned) => None,
            Some(FaultKind::TamperedSign) => Some(format!("{body} ")),
            _ => Some(body.clone()),
        };
        let sent = match fault {
            Some(FaultKind::Tampered) => changed(&body),
            _ => body,
        };
        let mut response = self.response(sent);
        if let Some(signed) = signed {
            sign(&mut response, (&signer, now), (&signed, fault));
        }
        response
    }

    /// Gives the body as it is signed; none where it cannot be encrypted.
    fn encrypted(&self, fault: Option<FaultKind>) -> Option<String> {
        match (&self.key, fault) {
            (None, _) => Some(self.body.clone()),
            (Some(key), Some(FaultKind::GarbledCiphertext)) => Some(key.garbled()),
            (Some(key), _) => key.encrypt(self.body.as_bytes()),
        }
    }

    /// Gives the answer without a signature and in the clear.
    pub(super) fn unsigned_reply(self) -> Response<Bytes> {
        let body = self.body.clone();
        Self { key: None, ..self }.response(body)
    }

    fn response(&self, body: String) -> Response<Bytes> {
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = self.status;
        let content_type = match self.key {
            Some(_) => "text/plain;charset=utf-8",
            None => "application/json;charset=utf-8",
        };
        let content_type = HeaderValue::from_static(content_type);
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, content_type);
        if self.key.is_some() {
            put(&mut response, "alipay-encrypt-type", "AES");
        }
        response
    }
}

/// Writes the headers that sign a body.
///
/// Protocol: 验签规则: timestamp, nonce and body, each with a line break behind it.
fn sign(
    response: &mut Response<Bytes>,
    (signer, now): (&Signer, i64),
    (body, fault): (&str, Option<FaultKind>),
) {
    let nonce = ids::hex(16);
    let signature = signer.sign_v3(&format!("{now}\n{nonce}\n{body}\n"));
    put(response, "alipay-timestamp", &now.to_string());
    put(response, "alipay-nonce", &nonce);
    put(response, "alipay-signature", &signature);
    if let Some(sn) = &signer.alipay_cert_sn {
        let forged = (fault == Some(FaultKind::ForgedCertSn)).then(|| ids::hex(16));
        put(response, "alipay-sn", forged.as_ref().unwrap_or(sn));
    }
}

/// Adds the trace id.
pub(super) fn traced(mut response: Response<Bytes>, trace_id: &str) -> Response<Bytes> {
    put(&mut response, "alipay-trace-id", trace_id);
    response
}

fn put(response: &mut Response<Bytes>, name: &'static str, value: &str) {
    // All values are ASCII of our own making.
    if let Ok(value) = HeaderValue::from_str(value) {
        let name = HeaderName::from_static(name);
        response.headers_mut().insert(name, value);
    }
}

fn status(refusal: &Refusal) -> StatusCode {
    match (refusal.code, refusal.sub_code.as_str()) {
        (_, "isv.invalid-method") => StatusCode::NOT_FOUND,
        ("20000", _) => StatusCode::INTERNAL_SERVER_ERROR,
        ("20001", _) => StatusCode::UNAUTHORIZED,
        ("40003" | "40006", _) => StatusCode::FORBIDDEN,
        ("40005", _) => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::BAD_REQUEST,
    }
}
