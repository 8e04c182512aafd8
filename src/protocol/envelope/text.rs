//! The few values that are read out of a reply's text.

use super::unique;
use crate::protocol::{
    charset::Charset,
    error::EnvelopeError,
    json::{self, Kind, Member},
    params::name,
};

/// What every node may say about itself.
#[derive(Clone, Default)]
pub(super) struct Summary {
    pub(super) code: Option<String>,
    pub(super) msg: Option<String>,
    pub(super) sub_code: Option<String>,
    pub(super) sub_msg: Option<String>,
}

/// The body while it is being read.
pub(super) struct Text<'a> {
    pub(super) body: &'a [u8],
    pub(super) charset: Charset,
}

impl Text<'_> {
    fn raw(&self, member: &Member<'_>) -> &[u8] {
        self.body.get(member.value.clone()).unwrap_or_default()
    }

    /// Reads a string or a number as text.
    fn scalar(&self, text: &[u8], member: &Member<'_>) -> Option<String> {
        let raw = text.get(member.value.clone())?;
        match member.kind {
            Kind::String => json::decode_string(raw, self.charset).ok(),
            Kind::Number => self.charset.decode(raw).ok(),
            _ => None,
        }
    }

    /// Reads `sign`: a JSON string first (`\/` occurs, vector `sign-escaped-slash`), base64 later.
    pub(super) fn sign(&self, member: &Member<'_>) -> Result<Option<String>, EnvelopeError> {
        let sign = match member.kind {
            Kind::Null => return Ok(None),
            Kind::String => self.scalar(self.body, member),
            _ => None,
        };
        let sign = sign.ok_or(EnvelopeError::SignMalformed)?;
        Ok((!sign.is_empty()).then_some(sign))
    }

    /// Reads `alipay_cert_sn`; an empty one names nothing.
    pub(super) fn certificate(&self, members: &[Member<'_>]) -> Option<String> {
        let member = unique(members, name::ALIPAY_CERT_SN).ok()??;
        let sn = (member.kind == Kind::String).then(|| self.scalar(self.body, member))?;
        sn.filter(|sn| !sn.is_empty())
    }

    /// Reads what a node that isn't part of a body, but the whole text, says about itself.
    pub(super) fn whole_summary(&self) -> Summary {
        let members = json::members(self.body, self.charset).unwrap_or_default();
        self.summary(members.iter())
    }

    /// Reads what a node says about itself by its members.
    pub(super) fn summary<'a>(
        &self,
        members: impl DoubleEndedIterator<Item = &'a Member<'a>> + Clone,
    ) -> Summary {
        // The last of duplicates, as in the parsers of the callers.
        let last = |name: &str| {
            let mut latest_first = members.clone().rev();
            let member = latest_first.find(|member| member.name == name)?;
            self.scalar(self.body, member)
        };
        Summary {
            code: last("code"),
            msg: last("msg"),
            sub_code: last("sub_code"),
            sub_msg: last("sub_msg"),
        }
    }

    /// Tells whether no reader can take the reply for a success: each `…_response`, not only the
    /// one that counts here, is an object that says an error in each of its `code`s.
    pub(super) fn is_plain_error(&self, members: &[Member<'_>]) -> bool {
        members
            .iter()
            .filter(|member| member.name.ends_with(RESPONSE))
            .all(|member| {
                let node = self.raw(member);
                let inside = json::members(node, self.charset).unwrap_or_default();
                let mut codes = inside
                    .iter()
                    .filter(|member| member.name == "code")
                    .peekable();
                codes.peek().is_some()
                    && codes.all(|code| self.scalar(node, code).is_some_and(|code| is_error(&code)))
            })
    }
}

/// Tells whether a `code` says error: there is one, and no loose reader could take it for
/// `10000 Success` or `10003` (order accepted).
fn is_error(code: &str) -> bool {
    let code = code.trim();
    let is_success = code
        .parse::<f64>()
        .is_ok_and(|number| number == 10_000.0 || number == 10_003.0);
    !code.is_empty() && !is_success
}

const RESPONSE: &str = "_response";
