//! What a diagnosis found.

use std::fmt;

use super::{cause::Cause, seal::Sealed};
use crate::protocol::{charset::Charset, key::RsaPublicKey, signature::SignType};

/// Names what was to be verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// What Alipay posted to us.
    Notification,
    /// A reply of the v2 gateway.
    Reply,
    /// A v2 request, or an order string.
    Request,
    /// A v3 request.
    V3Request,
    /// A v3 answer.
    V3Response,
}

impl Subject {
    /// Names it in a fixed word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Notification => "notification",
            Self::Reply => "response",
            Self::Request => "request",
            Self::V3Request => "v3-request",
            Self::V3Response => "v3-response",
        }
    }
}

/// Tells what the signature is worth and why.
///
/// `Display` is one line without values, fit for a log. The sign contents, which hold whatever the
/// message holds, come out of their own methods. `Debug` shows no content.
#[derive(Clone)]
pub struct Explanation {
    subject: Subject,
    holds: bool,
    causes: Vec<Cause>,
    remarks: Vec<Cause>,
    charset: Charset,
    rule_content: Option<Vec<u8>>,
    signed_content: Option<Vec<u8>>,
    seal: Option<Seal>,
    tried: usize,
    tried_changes: Vec<&'static str>,
}

/// What the signature itself tells: who made it, how, and over which digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seal {
    /// The fingerprint of the key that opens it.
    pub key_fingerprint: String,
    /// How it was made.
    pub sign_type: SignType,
    /// The digest of what was signed, in hexadecimal digits: SHA-256 for RSA2, SHA-1 for RSA.
    pub digest: String,
}

impl Explanation {
    pub(super) fn new(subject: Subject) -> Self {
        Self {
            subject,
            holds: false,
            causes: Vec::new(),
            remarks: Vec::new(),
            charset: Charset::default(),
            rule_content: None,
            signed_content: None,
            seal: None,
            tried: 0,
            tried_changes: Vec::new(),
        }
    }

    /// Tells what was verified.
    #[must_use]
    pub fn subject(&self) -> Subject {
        self.subject
    }

    /// Tells whether the signature holds, by the same rules as everywhere in this program.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.holds
    }

    /// Gives the cause of the failure, the decisive one.
    #[must_use]
    pub fn cause(&self) -> Option<&Cause> {
        self.causes.first()
    }

    /// Gives all that had to be taken back together before the signature held; empty if it holds.
    #[must_use]
    pub fn causes(&self) -> &[Cause] {
        &self.causes
    }

    /// Gives what isn't the cause, but would trip another verifier or Alipay.
    #[must_use]
    pub fn remarks(&self) -> &[Cause] {
        &self.remarks
    }

    /// Tells the charset of the sign content by the rules.
    #[must_use]
    pub fn charset(&self) -> Charset {
        self.charset
    }

    /// Gives the sign content as the rules make it from what is at hand; `None` where there is
    /// too little to make it.
    #[must_use]
    pub fn rule_content(&self) -> Option<&[u8]> {
        self.rule_content.as_deref()
    }

    /// Gives the content that the signature was found to be of.
    #[must_use]
    pub fn signed_content(&self) -> Option<&[u8]> {
        self.signed_content.as_deref()
    }

    /// Gives what the signature itself tells; `None` where no key at hand opens it.
    #[must_use]
    pub fn seal(&self) -> Option<&Seal> {
        self.seal.as_ref()
    }

    /// Counts the sign contents that were tried.
    #[must_use]
    pub fn tried(&self) -> usize {
        self.tried
    }

    /// Names the changes that were tried, each by the [`kind`](Cause::kind) of its cause.
    #[must_use]
    pub fn tried_changes(&self) -> &[&'static str] {
        &self.tried_changes
    }

    pub(super) fn accept(&mut self, content: Vec<u8>) {
        self.holds = true;
        self.rule_content = Some(content.clone());
        self.signed_content = Some(content);
        self.tried = self.tried.max(1);
    }

    pub(super) fn refuse(&mut self, cause: impl Into<Cause>) {
        let cause = cause.into();
        if !self.causes.contains(&cause) {
            self.causes.push(cause);
        }
    }

    /// Adds what isn't the cause, but was found elsewhere: in a key's file, say.
    pub fn remark(&mut self, cause: impl Into<Cause>) {
        let cause = cause.into();
        if !self.remarks.contains(&cause) {
            self.remarks.push(cause);
        }
    }

    pub(super) fn set_charset(&mut self, charset: Charset) {
        self.charset = charset;
    }

    pub(super) fn set_rule_content(&mut self, content: Vec<u8>) {
        self.rule_content = Some(content);
    }

    pub(super) fn set_signed_content(&mut self, content: Vec<u8>) {
        self.signed_content = Some(content);
    }

    pub(super) fn set_tried(&mut self, tried: usize, changes: Vec<&'static str>) {
        self.tried = tried;
        self.tried_changes = changes;
    }

    pub(super) fn set_seal(&mut self, key: &RsaPublicKey, sealed: &Sealed) {
        self.seal = Some(Seal {
            key_fingerprint: key.fingerprint(),
            sign_type: sealed.sign_type,
            digest: super::seal::hex(&sealed.digest),
        });
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.holds { "holds" } else { "doesn't hold" };
        write!(
            f,
            "the signature of the {} {verdict}",
            self.subject.as_str()
        )?;
        for (number, cause) in self.causes.iter().enumerate() {
            let lead = if number == 0 { ": " } else { "; and: " };
            write!(f, "{lead}[{}] {cause}", cause.kind())?;
        }
        self.remarks
            .iter()
            .try_for_each(|remark| write!(f, "; note: [{}] {remark}", remark.kind()))
    }
}

impl fmt::Debug for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Explanation")
            .field("subject", &self.subject)
            .field("holds", &self.holds)
            .field("causes", &self.causes)
            .field("remarks", &self.remarks)
            .field("seal", &self.seal)
            .field("tried", &self.tried)
            .finish_non_exhaustive()
    }
}
