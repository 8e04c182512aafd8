//! Who calls, and what each may: contract §9.
//!
//! A caller proves itself by a bearer token, by its uid on a unix socket, or by the signature that an
//! unmodified SDK makes with its throw-away key. Invariants: a credential that is wrong is never
//! taken for none; whatever proves several callers proves none; a token is neither kept nor
//! forwarded nor logged.

use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use http::request::Parts;

use crate::config::caller::{CallerConfig, CallerIdentity, CallerMode, TokenDigest};
use crate::delivery::whose::Whose;
use crate::net::listener::Peer;
use crate::proxy::error::{ErrorCode, ProxyError};
use crate::proxy::metrics::ProxyMetrics;
use crate::proxy::places::Places;
use crate::proxy::route::Target;

pub mod grant;
mod sdk_signature;

use grant::{Called, Grant};
pub(super) use sdk_signature::{SdkSignature, SentV3};

/// The scheme of v3's own `Authorization`.
const V3_SCHEME: &str = "ALIPAY-SHA256withRSA";

/// All who may call; none: anyone may. Clones share them.
#[derive(Debug, Clone)]
pub struct Callers(Arc<[Arc<Caller>]>);

/// One who may call.
#[derive(Debug)]
pub struct Caller {
    name: Arc<str>,
    identity: CallerIdentity,
    grant: Grant,
    mode: CallerMode,
    places: Arc<Places>,
    metrics: ProxyMetrics,
}

/// For whom the proxy works.
#[derive(Debug, Clone)]
pub enum Who {
    /// Callers aren't told apart, or the call is made in process.
    Anyone,
    /// This one, which has proved itself.
    Known(Arc<Caller>),
}

/// What a caller did that its rules don't allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    /// It asked for events.
    Events,
    /// It called for somebody it may not call for, or for nobody.
    Merchant,
    /// It called a method that it may not.
    Method,
}

impl Violation {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Events, Self::Merchant, Self::Method];

    /// The word for metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Merchant => "merchant",
            Self::Method => "method",
        }
    }

    /// The refusal; that of a merchant is the same whether there is one or not.
    #[must_use]
    pub fn error(self) -> ProxyError {
        let detail = match self {
            Self::Events => {
                "this caller has no `events = true`, without which it may not claim any"
            }
            Self::Merchant => {
                "this caller may not call for whom the request names; its `merchants` would have to \
                 name it (`*` doesn't stand for `self`)"
            }
            Self::Method => {
                "this caller may not call this method; one of its `methods` would have to fit it, \
                 and name `alipay.open.auth.` itself where it is one of these"
            }
        };
        ProxyError::refused(ErrorCode::CallerForbidden, detail)
    }
}

impl Callers {
    /// The callers of a configuration.
    #[must_use]
    pub fn new(configured: &[CallerConfig], metrics: &ProxyMetrics) -> Self {
        Self(Arc::default()).reconfigured(configured, metrics)
    }

    /// The callers of another configuration. Who is among both keeps the places that its requests
    /// for events hold.
    #[must_use]
    pub fn reconfigured(&self, configured: &[CallerConfig], metrics: &ProxyMetrics) -> Self {
        let caller = |config: &CallerConfig| {
            let former = self.0.iter().find(|former| *former.name == *config.name);
            let places = former
                .map(|former| &former.places)
                .filter(|places| places.are_of_one(configured.len()));
            Arc::new(Caller {
                name: config.name.as_str().into(),
                identity: config.identity.clone(),
                grant: Grant::new(config),
                mode: config.mode,
                places: places
                    .cloned()
                    .unwrap_or_else(|| Arc::new(Places::of_one(configured.len()))),
                metrics: metrics.clone(),
            })
        };
        Self(configured.iter().map(caller).collect())
    }

    /// Whether there are any: otherwise whoever is let in is the same.
    pub(super) fn are_told_apart(&self) -> bool {
        !self.0.is_empty()
    }

    /// Whom the bearer token proves; `None`: there is none.
    ///
    /// # Errors
    /// `caller-unauthenticated`: it is nobody's, or what stands in its place is something else.
    pub(super) fn of_bearer(
        &self,
        headers: &HeaderMap,
        target: &Target,
    ) -> Result<Option<Arc<Caller>>, ProxyError> {
        let mut given = headers.get_all(AUTHORIZATION).iter();
        let text = match (given.next(), given.next()) {
            _ if self.0.is_empty() => return Ok(None),
            (None, _) => return Ok(None),
            (Some(value), None) => value.to_str().unwrap_or_default(),
            (Some(_), Some(_)) => return Err(unauthenticated("`Authorization` stands twice")),
        };
        let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
        let is_v3 = matches!(target, Target::V3 { .. });
        match scheme {
            scheme if scheme.eq_ignore_ascii_case("bearer") => {
                let found = self.of_token(token.trim_matches(' '));
                let nobodys = || unauthenticated("the bearer token is nobody's");
                found.map(Some).ok_or_else(nobodys)
            }
            // What an SDK signed with its own key, which may prove somebody or nobody.
            scheme if is_v3 && scheme.eq_ignore_ascii_case(V3_SCHEME) => Ok(None),
            _ => Err(unauthenticated(
                "`Authorization` isn't of the scheme `Bearer`",
            )),
        }
    }

    /// Compares with every one, so that the time it takes doesn't tell who it was. No token at all is
    /// nobody's, whatever is configured.
    fn of_token(&self, token: &str) -> Option<Arc<Caller>> {
        if token.is_empty() {
            return None;
        }
        let given = CallerIdentity::Token(TokenDigest::of(token));
        let mut found = None;
        for caller in self.0.iter().filter(|caller| caller.identity == given) {
            found = Some(Arc::clone(caller));
        }
        found
    }

    /// Whom the peer's uid proves.
    fn of_peer(&self, head: &Parts) -> Option<Arc<Caller>> {
        let Some(Peer::Unix { uid: Some(uid) }) = head.extensions.get() else {
            return None;
        };
        let given = CallerIdentity::Uid(*uid);
        self.0
            .iter()
            .find(|caller| caller.identity == given)
            .cloned()
    }

    /// Whom a signature proves.
    fn of_signature(&self, signed: &SdkSignature) -> Option<Arc<Caller>> {
        let proves = |caller: &&Arc<Caller>| match &caller.identity {
            CallerIdentity::PublicKey(key) => signed.is_by(key),
            _ => false,
        };
        self.0.iter().find(proves).cloned()
    }

    /// Whether a request to `target` may prove its caller by a signature, which is known only once
    /// the body is read.
    pub(super) fn looks_at_signatures(&self, head: &Parts, target: &Target) -> bool {
        let has_key =
            |caller: &Arc<Caller>| matches!(caller.identity, CallerIdentity::PublicKey(_));
        let may_be_signed = match target {
            Target::Gateway => true,
            // A bearer token stands where the signature would.
            Target::V3 { .. } => head
                .headers
                .get(AUTHORIZATION)
                .is_some_and(|value| !is_bearer(value.as_bytes())),
            _ => false,
        };
        may_be_signed && self.0.iter().any(has_key)
    }

    /// Who calls: the one whom all proofs prove.
    ///
    /// # Errors
    /// `caller-unauthenticated`.
    pub(super) fn settle(
        &self,
        head: &Parts,
        bearer: Option<Arc<Caller>>,
        signed: Option<&SdkSignature>,
    ) -> Result<Who, ProxyError> {
        if self.0.is_empty() {
            return Ok(Who::Anyone);
        }
        let by_signature = signed.and_then(|signed| self.of_signature(signed));
        let proved = [bearer, self.of_peer(head), by_signature];
        let mut proved = proved.into_iter().flatten();
        let Some(first) = proved.next() else {
            return Err(unauthenticated("the request proves no caller"));
        };
        match proved.all(|other| Arc::ptr_eq(&first, &other)) {
            true => Ok(Who::Known(first)),
            false => Err(unauthenticated("the request proves several callers")),
        }
    }
}

impl Caller {
    /// Its name, for logs.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Whose events its rules allow; `None`: everybody's.
    fn whose(self: &Arc<Self>) -> Option<Whose> {
        let caller = Arc::clone(self);
        let is_some = !self.grant.reaches_all();
        is_some.then(|| Whose::Of(Arc::new(move |owner| caller.grant.reaches(owner))))
    }

    /// Refuses what its rules don't allow, or reports it.
    fn refuse(&self, violation: Violation) -> Result<(), ProxyError> {
        match self.mode {
            CallerMode::Enforce => Err(violation.error()),
            CallerMode::Report => {
                self.metrics.count_caller_violation(violation.as_str());
                tracing::warn!(
                    caller = &*self.name,
                    rule = violation.as_str(),
                    "a caller does what `mode = \"enforce\"` would refuse"
                );
                Ok(())
            }
        }
    }
}

impl Who {
    /// The caller's name.
    pub(super) fn name(&self) -> Option<Arc<str>> {
        match self {
            Self::Anyone => None,
            Self::Known(caller) => Some(Arc::clone(&caller.name)),
        }
    }

    /// Its share of the places of events, where callers are told apart.
    pub(super) fn places(&self) -> Option<&Places> {
        match self {
            Self::Anyone => None,
            Self::Known(caller) => Some(&caller.places),
        }
    }

    /// The rules that hold.
    pub(super) fn grant(&self) -> Option<&Grant> {
        match self {
            Self::Anyone => None,
            Self::Known(caller) => Some(&caller.grant),
        }
    }

    /// Checks that a method may be called.
    ///
    /// # Errors
    /// `caller-forbidden`.
    pub(super) fn check_method(&self, called: Called<'_>) -> Result<(), ProxyError> {
        match self {
            Self::Known(caller) if !caller.grant.may_call(called) => {
                caller.refuse(Violation::Method)
            }
            _ => Ok(()),
        }
    }

    /// Checks that events may be asked for.
    ///
    /// # Errors
    /// `caller-forbidden`.
    pub(super) fn check_events(&self) -> Result<(), ProxyError> {
        match self {
            Self::Known(caller) if !caller.grant.may_claim() => caller.refuse(Violation::Events),
            _ => Ok(()),
        }
    }

    /// Whose events may be given to it; where that would only be reported, everybody's.
    pub(super) fn whose(&self) -> Whose {
        match self {
            Self::Known(caller) if caller.mode == CallerMode::Enforce => {
                caller.whose().unwrap_or(Whose::Everybodys)
            }
            _ => Whose::Everybodys,
        }
    }

    /// Whose events it would be given if its rules were enforced, where they are only reported.
    pub(super) fn whose_by_rule(&self) -> Option<Whose> {
        match self {
            Self::Known(caller) if caller.mode == CallerMode::Report => caller.whose(),
            _ => None,
        }
    }

    /// Refuses, or reports, that somebody is named for whom this caller may not call.
    ///
    /// # Errors
    /// `caller-forbidden`.
    pub(super) fn refuse_merchant(&self) -> Result<(), ProxyError> {
        match self {
            Self::Known(caller) => caller.refuse(Violation::Merchant),
            Self::Anyone => Ok(()),
        }
    }
}

fn is_bearer(value: &[u8]) -> bool {
    value
        .get(..6)
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"bearer"))
}

fn unauthenticated(found: &str) -> ProxyError {
    let detail = format!(
        "{found}; send `Authorization: Bearer …` with the token of a [[caller]], come by a unix \
         socket as its `uid`, or sign with its key"
    );
    ProxyError::refused(ErrorCode::CallerUnauthenticated, detail)
}

#[cfg(test)]
mod tests;
