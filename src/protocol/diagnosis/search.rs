//! From a `sign` to the key that made it, and on to the content it was made over.

use std::collections::BTreeSet;

use super::{
    cause::{Cause, SignCause},
    explanation::Explanation,
    seal::Sealed,
    sign_text::{self, Decoded},
    work::Work,
};
use crate::protocol::{key::RsaPublicKey, signature::SignType};

/// A sign content that may have been signed, and what must have happened if it was.
pub(super) struct Candidate {
    pub(super) causes: Vec<Cause>,
    pub(super) content: Vec<u8>,
}

/// A signature to be explained.
pub(super) struct Claim<'a> {
    /// How many bytes the message has.
    pub(super) size: usize,
    /// `sign`, as it stands in the message; several where the message can be read in several ways.
    pub(super) signs: Vec<&'a str>,
    /// What the message (or the app) says the algorithm is.
    pub(super) declared: SignType,
    /// The keys one of which should have made it.
    pub(super) expected: Vec<RsaPublicKey>,
    /// The keys that some mistake may have put in their place.
    pub(super) other: Vec<RsaPublicKey>,
    /// The cause if no key opens it.
    pub(super) if_none: Cause,
    /// The cause if one of the others opens it.
    pub(super) if_other: Cause,
}

impl Claim<'_> {
    /// Tells whether the content by the rules is all that is tried.
    fn is_large(&self) -> bool {
        self.size > LARGEST
    }

    fn if_unknown(&self, tried: usize) -> Cause {
        match self.is_large() {
            true => Cause::TooLarge { bytes: self.size },
            false => Cause::ContentChanged { tried },
        }
    }
}

/// Finds the key and then the content. `faults` are what a strict reader has already found wrong:
/// they stand first, but for what a candidate explains better. A candidate that is none (it can't
/// be written in its charset) counts as an attempt like any other.
pub(super) fn investigate(
    explanation: &mut Explanation,
    claim: &Claim<'_>,
    faults: Vec<Cause>,
    (candidates, work): (impl Iterator<Item = Option<Candidate>>, &Work),
) {
    let opened = match open(claim) {
        Ok(opened) => opened,
        Err(cause) => {
            faults
                .into_iter()
                .for_each(|fault| explanation.refuse(fault));
            explanation.refuse(cause);
            return;
        }
    };
    explanation.set_seal(opened.key, &opened.sealed);
    let mut search = Search::new(&opened.sealed, work);
    let most = if claim.is_large() { 1 } else { MOST_CANDIDATES };
    let found = search.first(candidates.take(most));
    explanation.set_tried(search.tried, search.kinds.iter().copied().collect());
    let explained = found.as_ref().map(|candidate| candidate.causes.clone());
    let explained = explained.unwrap_or_default();
    let is_unknown = found.is_none() && faults.is_empty() && !opened.is_other;
    let unknown = is_unknown.then(|| claim.if_unknown(search.tried));
    let stays = |fault: &Cause| explained.is_empty() || is_final(fault);
    let faults = faults.into_iter().filter(stays);
    let by_other = opened.is_other.then(|| claim.if_other.clone());
    let about_sign = opened.about_sign(claim);
    let about_sign = about_sign.filter(|cause| !follows(cause, &explained));
    faults
        .chain(by_other)
        .chain(explained.iter().cloned())
        .chain(about_sign)
        .chain(unknown)
        .for_each(|cause| explanation.refuse(cause));
    if let Some(candidate) = found {
        explanation.set_signed_content(candidate.content);
    }
}

/// Tells whether a fault refuses a message whatever else is found.
fn is_final(fault: &Cause) -> bool {
    use super::cause::{ParamsCause, ReplyCause};
    matches!(
        fault,
        Cause::Params(ParamsCause::Duplicate { .. })
            | Cause::Reply(ReplyCause::OtherMethod { .. } | ReplyCause::MemberDuplicate { .. })
    )
}

fn is_own_in_place(cause: &Cause) -> bool {
    use super::cause::KeyCause;
    matches!(
        cause,
        Cause::Key(KeyCause::OwnPublicKey | KeyCause::OwnCertificate)
    )
}

/// Tells whether what was taken back in `sign` is what happened to the whole text.
fn follows(cause: &Cause, of: &[Cause]) -> bool {
    use super::cause::{ParamsCause, TextCause};
    let Cause::Sign(cause) = cause else {
        return false;
    };
    of.iter().any(|whole| match (whole, cause) {
        (Cause::Text(TextCause::LinesWrapped | TextCause::OuterWhiteSpace), cause) => {
            *cause == SignCause::WhiteSpace
        }
        (Cause::Params(ParamsCause::EncodedTwice { place: None }), cause) => {
            *cause == SignCause::PercentEncoded
        }
        (Cause::Params(ParamsCause::HtmlEscaped { place: None }), cause) => {
            *cause == SignCause::HtmlEscaped
        }
        _ => false,
    })
}

struct Opened<'a> {
    key: &'a RsaPublicKey,
    sealed: Sealed,
    /// What had to be taken back in `sign`.
    causes: Vec<Cause>,
    is_other: bool,
}

impl Opened<'_> {
    /// Says what is wrong with the signature itself.
    fn about_sign(&self, claim: &Claim<'_>) -> impl Iterator<Item = Cause> {
        let (declared, used) = (claim.declared, self.sealed.sign_type);
        let other_type = (declared != used).then(|| SignCause::TypeOther { declared, used }.into());
        self.causes.clone().into_iter().chain(other_type)
    }
}

/// Lists what `sign` may decode to, each once.
fn decodings(claim: &Claim<'_>) -> Vec<Decoded> {
    let mut found: Vec<Decoded> = Vec::new();
    let signs = claim.signs.iter().filter(|sign| sign.len() <= LONGEST_SIGN);
    for decoded in signs.flat_map(|sign| sign_text::decodings(sign)) {
        let mut known = found.iter();
        if known.all(|known| known.signature != decoded.signature) {
            found.push(decoded);
        }
    }
    found
}

fn open<'a>(claim: &'a Claim<'_>) -> Result<Opened<'a>, Cause> {
    if claim.signs.iter().all(|sign| sign.trim().is_empty()) {
        return Err(SignCause::Missing.into());
    }
    if let Some(found) = claim.signs.iter().map(|sign| sign.len()).min()
        && found > LONGEST_SIGN
    {
        return Err(SignCause::TooLong { found }.into());
    }
    let decodings = decodings(claim);
    let keys = claim.expected.iter().map(|key| (key, false));
    let keys = keys.chain(claim.other.iter().map(|key| (key, true)));
    for (key, is_other) in keys {
        for decoded in &decodings {
            if let Some(sealed) = Sealed::open(key, &decoded.signature) {
                let causes = decoded.causes.clone();
                return Ok(Opened {
                    key,
                    sealed,
                    causes,
                    // The app's own key may stand among those that are expected.
                    is_other: is_other || is_own_in_place(&claim.if_other),
                });
            }
        }
    }
    let Some(first) = decodings.first() else {
        return Err(SignCause::NotBase64.into());
    };
    let size = |key: &RsaPublicKey| key.bits().div_ceil(8);
    let fits_one = |key: &RsaPublicKey| {
        decodings
            .iter()
            .any(|decoded| decoded.signature.len() == size(key))
    };
    match claim.expected.first() {
        Some(key) if !claim.expected.iter().any(fits_one) => Err(SignCause::Length {
            found: first.signature.len(),
            expected: size(key),
        }
        .into()),
        _ => Err(claim.if_none.clone()),
    }
}

/// Compares candidates with the digest, within bounds.
struct Search<'a> {
    sealed: &'a Sealed,
    work: &'a Work,
    tried: usize,
    kinds: BTreeSet<&'static str>,
}

impl<'a> Search<'a> {
    fn new(sealed: &'a Sealed, work: &'a Work) -> Self {
        Self {
            sealed,
            work,
            tried: 0,
            kinds: BTreeSet::new(),
        }
    }

    fn first(&mut self, candidates: impl Iterator<Item = Option<Candidate>>) -> Option<Candidate> {
        for candidate in candidates {
            if let Some(candidate) = candidate {
                self.tried += 1;
                self.work.charge(candidate.content.len());
                self.kinds.extend(candidate.causes.iter().map(Cause::kind));
                if self.sealed.is_of(&candidate.content) {
                    return Some(candidate);
                }
            }
            if !self.work.is_left() {
                return None;
            }
        }
        None
    }
}

/// A signature of the largest key has 1 KB in base64; percent-encoded and wrapped it may have
/// thrice that.
const LONGEST_SIGN: usize = 4 << 10;

/// Of a larger message only the content by the rules is tried. Alipay's have a few KB.
pub(super) const LARGEST: usize = 64 << 10;

/// How many contents are made at most: a form of thirty parameters has about two thousand for
/// every single change, and as many for pairs of the cheap ones.
const MOST_CANDIDATES: usize = 5_000;
