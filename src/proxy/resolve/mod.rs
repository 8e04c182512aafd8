//! From what a caller wrote to the credentials of one call.
//!
//! Every tag of a request names a set of records; the tags together must leave exactly one. A
//! missing tag never falls back to the ISV's own identity.

mod reach;
mod record;

use std::sync::Arc;

use crate::gateway::app::{Apps, SigningApp};
use crate::model::id::Pid;
use crate::model::merchant::{Merchant, MerchantStatus};
use crate::model::selector::{self, Selector};
use crate::protocol::secret::Secret;
use crate::proxy::caller::{Violation, Who};
use crate::proxy::error::{ErrorCode, ProxyError};
use crate::proxy::resolve::reach::Reach;
use crate::proxy::resolve::record::{Named, Record, agree, ambiguous, in_doubt};
use crate::store::error::StoreError;
use crate::store::{Directory, MerchantKey};
use crate::token::error::TokenError;
use crate::token::{LearnError, Tokens};

/// How a request says for whom it is, in the order of contract §2.
#[derive(Debug, Clone, Default)]
pub struct Tags {
    /// `Alipay-Merchant`.
    pub header: Option<String>,
    /// `/m/{selector}/…`, decoded.
    pub path: Option<String>,
    /// The parameter `app_auth_token` of `/gateway.do`: `merchant:{selector}`, or a token once held.
    pub token: Option<Secret<String>>,
    /// The header `alipay-app-auth-token`, on every route: the same.
    pub token_header: Option<Secret<String>>,
    /// `Alipay-App`: must be an app of ours.
    pub app: Option<String>,
    /// The request's own `app_id`: counts where it names an app of ours.
    pub own_app_id: Option<String>,
    /// `Alipay-User`: whose access token the call carries.
    pub user: Option<String>,
}

/// Who signs, and for whom.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// Who signs.
    pub app: Arc<SigningApp>,
    /// For whom; `None`: for the ISV itself.
    pub merchant: Option<Arc<Merchant>>,
}

/// Finds the credentials that requests name.
#[derive(Clone)]
pub struct Resolver {
    apps: Apps,
    directory: Arc<dyn Directory>,
    default_merchant: Option<Selector>,
    /// Proves tokens that were never held; `None`: they are refused.
    learner: Option<Tokens>,
}

impl Resolver {
    /// A resolver over these apps and records.
    #[must_use]
    pub fn new(
        apps: Apps,
        directory: Arc<dyn Directory>,
        default_merchant: Option<Selector>,
    ) -> Self {
        Self {
            apps,
            directory,
            default_merchant,
            learner: None,
        }
    }

    /// Has tokens that were never held proved at Alipay (`tokens.unknown = "learn"`).
    #[must_use]
    pub fn with_learner(self, tokens: Tokens) -> Self {
        Self {
            learner: Some(tokens),
            ..self
        }
    }

    /// Finds the one record that all tags name, and who signs for it. `who` sees the records alone
    /// that it may call for: whatever else is named is refused in the same words, whether it exists
    /// or not, and Alipay isn't asked about it.
    ///
    /// # Errors
    /// Contract §2's: `merchant-…`, `token-unknown`, `app-…`, `store-unavailable`; and
    /// `caller-forbidden`.
    pub async fn resolve(&self, tags: &Tags, who: &Who) -> Result<Credentials, ProxyError> {
        let app = self.app_hint(tags)?;
        match self.named(tags, app.as_ref(), who).await? {
            Named::Own => self.own(app),
            Named::Records(records) => self.one(records),
        }
    }

    /// What all tags name together, as far as `who` may call for it.
    async fn named(
        &self,
        tags: &Tags,
        app: Option<&Arc<SigningApp>>,
        who: &Who,
    ) -> Result<Named, ProxyError> {
        let named = self.named_within(tags, app, Reach(who.grant())).await;
        match named {
            Err(error) if error.code == ErrorCode::CallerForbidden => {
                who.refuse_merchant()?;
                self.named_within(tags, app, Reach::EVERYBODY).await
            }
            named => named,
        }
    }

    async fn named_within(
        &self,
        tags: &Tags,
        app: Option<&Arc<SigningApp>>,
        reach: Reach<'_>,
    ) -> Result<Named, ProxyError> {
        let tags = self.tags(tags, reach)?;
        // Records of an app that isn't ours take part in what several tags name together.
        let only = || self.apps.only().filter(|_| tags.len() == 1);
        let known = app.cloned().or_else(only);
        let mut named = None;
        for tag in tags {
            let found = self.look_up(tag, (app, known.as_deref()), reach).await?;
            named = Some(match named {
                None => found,
                Some(before) => agree(before, found)?,
            });
        }
        named.ok_or_else(|| {
            ProxyError::refused(
                ErrorCode::MerchantRequired,
                "tag the request: header `Alipay-Merchant`, path `/m/{selector}/…`, header `alipay-app-auth-token`, or on `/gateway.do` the parameter `app_auth_token`",
            )
        })
    }

    /// Finds who signs a call that is made for the ISV itself whatever its tags say. Where only they can
    /// tell the app, it is the one of all records that they name, be these several, or cancelled: such
    /// a call is what gives a merchant its token back.
    ///
    /// # Errors
    /// `app-unknown`, `app-required`, or those of the tags where they name nobody; and
    /// `caller-forbidden`, as if the tags said `self`.
    pub async fn resolve_own(&self, tags: &Tags, who: &Who) -> Result<Credentials, ProxyError> {
        if !Reach(who.grant()).has_own() {
            who.refuse_merchant()?;
        }
        let app = match self.app_hint(tags)?.or_else(|| self.apps.only()) {
            Some(app) => app,
            None => match self.named(tags, None, who).await {
                // A tag isn't what is missing: `self` alone wouldn't tell the app either.
                Err(error) if error.code == ErrorCode::MerchantRequired => {
                    return Err(self.app_required());
                }
                Ok(Named::Own) => return Err(self.app_required()),
                Ok(Named::Records(records)) => self.app_of_all(records)?,
                Err(error) => return Err(error),
            },
        };
        Ok(Credentials {
            app,
            merchant: None,
        })
    }

    /// The app whose id that text is, which may come from anywhere.
    pub(super) fn app(&self, app_id: &str) -> Option<Arc<SigningApp>> {
        self.apps.named(app_id)
    }

    /// The app that the tags name, else all.
    pub(super) fn apps_of(&self, tags: &Tags) -> Vec<Arc<SigningApp>> {
        match self.app_hint(tags) {
            Ok(Some(app)) => vec![app],
            Ok(None) => self.apps.all(),
            Err(_) => Vec::new(),
        }
    }

    /// The app that `Alipay-App` names, else the only one.
    ///
    /// # Errors
    /// `app-unknown`, `app-required`.
    pub(super) fn app_of_header(
        &self,
        header: Option<&str>,
    ) -> Result<Arc<SigningApp>, ProxyError> {
        let tags = Tags {
            app: header.map(ToOwned::to_owned),
            ..Tags::default()
        };
        let app = self.app_hint(&tags)?.or_else(|| self.apps.only());
        app.ok_or_else(|| self.app_required())
    }

    fn app_hint(&self, tags: &Tags) -> Result<Option<Arc<SigningApp>>, ProxyError> {
        if let Some(app_id) = &tags.app {
            let app = self.apps.named(app_id).ok_or_else(|| {
                let (shown, apps) = (selector::shown(app_id), self.app_ids());
                ProxyError::refused(
                    ErrorCode::AppUnknown,
                    format!("`Alipay-App` names {shown}, which is no configured or stored app; there are: {apps}"),
                )
            })?;
            return Ok(Some(app));
        }
        Ok(tags
            .own_app_id
            .as_deref()
            .and_then(|app_id| self.apps.named(app_id)))
    }

    fn tags(&self, tags: &Tags, reach: Reach<'_>) -> Result<Vec<Tag>, ProxyError> {
        let selector_of = |text: &str| {
            let selector = text.parse::<Selector>();
            selector.map_err(|_| reach.missing(None, text))
        };
        let mut found = Vec::new();
        for selector in [&tags.header, &tags.path].into_iter().flatten() {
            found.push(Tag::Selector(selector_of(selector)?));
        }
        for token in [&tags.token, &tags.token_header].into_iter().flatten() {
            found.push(match token.expose().strip_prefix("merchant:") {
                Some(selector) => Tag::Selector(selector_of(selector)?),
                None => Tag::Token(token.clone()),
            });
        }
        if found.is_empty() {
            found.extend(self.default_merchant.clone().map(Tag::Selector));
        }
        Ok(found)
    }

    async fn look_up(
        &self,
        tag: Tag,
        (app, known): (Option<&Arc<SigningApp>>, Option<&SigningApp>),
        reach: Reach<'_>,
    ) -> Result<Named, ProxyError> {
        let keys = match &tag {
            Tag::Selector(Selector::Own) if reach.has_own() => return Ok(Named::Own),
            Tag::Selector(Selector::Own) => return Err(Violation::Merchant.error()),
            Tag::Selector(selector) => keys(selector),
            Tag::Token(token) => {
                if reach.has_all() {
                    self.learn_if_unknown(token, app).await?;
                }
                vec![MerchantKey::Token(token.clone())]
            }
        };
        let mut records = Vec::new();
        for key in keys {
            let found = match exact(&key, known) {
                Some(exact) => self.find(exact, reach).await?,
                None => Vec::new(),
            };
            // Whatever else has that id is of another app, and doesn't count beside it.
            records.extend(match found.as_slice() {
                [Record::Whole(_)] => found,
                _ => self.find(key, reach).await?,
            });
        }
        records.retain(|record| match (app, record.app_id()) {
            (Some(app), Some(app_id)) => app.app_id.as_str() == app_id,
            _ => true,
        });
        match (records.is_empty(), &tag) {
            (false, _) => Ok(Named::Records(records)),
            (true, Tag::Selector(selector)) => {
                Err(reach.missing(Some(selector), &selector.to_string()))
            }
            (true, Tag::Token(_)) => Err(reach.missing_token()),
        }
    }

    async fn find(&self, key: MerchantKey, reach: Reach<'_>) -> Result<Vec<Record>, ProxyError> {
        let found = self.directory.find_all(key.clone()).await?;
        let whole = found.merchants.into_iter().map(Arc::new);
        let whole = whole.filter_map(|merchant| reach.whole(merchant));
        let damaged = found.damaged.into_iter();
        let damaged = damaged.filter_map(|merchant| reach.damaged(merchant, &key));
        Ok(whole.chain(damaged).collect())
    }

    /// Has a token proved that no record holds, or one that has cancelled, where that is configured: as the app that the
    /// request names, or as the only one. Every app in turn would be asked about rubbish, and each
    /// but one would call a good token invalid.
    async fn learn_if_unknown(
        &self,
        token: &Secret<String>,
        app: Option<&Arc<SigningApp>>,
    ) -> Result<(), ProxyError> {
        let Some(tokens) = &self.learner else {
            return Ok(());
        };
        let key = MerchantKey::Token(token.clone());
        if let Some(holder) = self.directory.find(key).await?.pop() {
            self.learn_again(tokens, &holder, (token, app)).await;
            return Ok(());
        }
        let app = app.cloned().or_else(|| self.apps.only());
        let app = app.ok_or_else(|| self.app_required())?;
        tokens.learn(&app, token).await.map_err(not_learned)
    }

    /// Has a token proved again that is another name of a merchant who has cancelled: it became that while
    /// the record's own token stood, and may be of a later authorisation. What comes of it, the record
    /// tells.
    async fn learn_again(
        &self,
        tokens: &Tokens,
        holder: &Merchant,
        (token, app): (&Secret<String>, Option<&Arc<SigningApp>>),
    ) {
        let is_revoked = matches!(holder.status, MerchantStatus::Revoked { .. });
        if !is_revoked || holder.token.app_auth_token == *token {
            return;
        }
        let own = self.apps.get(&holder.app_id);
        let is_named = |own: &Arc<SigningApp>| app.is_none_or(|app| app.app_id == own.app_id);
        if let Some(own) = own.filter(is_named) {
            tokens.learn_again(&own, token).await;
        }
    }

    fn own(&self, app: Option<Arc<SigningApp>>) -> Result<Credentials, ProxyError> {
        match app.or_else(|| self.apps.only()) {
            Some(app) => Ok(Credentials {
                app,
                merchant: None,
            }),
            None => Err(self.app_required()),
        }
    }

    /// Those of the records that count, which are of one app.
    fn of_one_app(&self, mut records: Vec<Record>) -> Result<Vec<Record>, ProxyError> {
        // What belongs to an app that isn't ours (any more) takes part only where nothing else does.
        let is_ours = |record: &Record| {
            let app_id = record.app_id();
            app_id.is_none_or(|app_id| self.apps.named(app_id).is_some())
        };
        if records.iter().any(is_ours) {
            records.retain(is_ours);
        }
        // Had it been whole it might have been one of several, or none of the caller's.
        if let Some(merchant) = records.iter().find_map(Record::doubtful) {
            return Err(in_doubt(merchant));
        }
        let app_id = records.first().and_then(Record::app_id);
        if records.iter().any(|other| other.app_id() != app_id) {
            return Err(self.app_required());
        }
        Ok(records)
    }

    /// The app of records that are all of one.
    fn app_of_all(&self, records: Vec<Record>) -> Result<Arc<SigningApp>, ProxyError> {
        let mut app = Err(nobody());
        for record in self.of_one_app(records)? {
            app = Ok(self.app_of(&*record.whole()?)?);
        }
        app
    }

    fn app_of(&self, merchant: &Merchant) -> Result<Arc<SigningApp>, ProxyError> {
        self.apps.get(&merchant.app_id).ok_or_else(|| {
            ProxyError::refused(
                ErrorCode::AppUnknown,
                format!(
                    "merchant {} belongs to app {}, which isn't configured; add it as an `[[app]]`, or by `app add`",
                    merchant.auth_app_id, merchant.app_id
                ),
            )
        })
    }

    fn one(&self, records: Vec<Record>) -> Result<Credentials, ProxyError> {
        let mut records = self.of_one_app(records)?;
        if records.len() > 1 {
            return Err(ambiguous(&records));
        }
        let merchant = records.pop().ok_or_else(nobody)?.whole()?;
        if let MerchantStatus::Revoked { .. } = merchant.status {
            return Err(ProxyError::refused(
                ErrorCode::MerchantUnauthorized,
                format!(
                    "merchant {} has cancelled; it must authorise again",
                    merchant.auth_app_id
                ),
            ));
        }
        Ok(Credentials {
            app: self.app_of(&merchant)?,
            merchant: Some(merchant),
        })
    }

    fn app_required(&self) -> ProxyError {
        let apps = self.app_ids();
        ProxyError::refused(
            ErrorCode::AppRequired,
            format!("say which app by header `Alipay-App`; there are: {apps}"),
        )
    }

    fn app_ids(&self) -> String {
        let ids = self.apps.ids();
        let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
        ids.join(", ")
    }
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Resolver")
    }
}

enum Tag {
    Selector(Selector),
    Token(Secret<String>),
}

/// Bare digits may be a PID or an application: both are looked up.
fn keys(selector: &Selector) -> Vec<MerchantKey> {
    match selector {
        Selector::Alias(alias) => vec![MerchantKey::Alias(alias.clone())],
        Selector::AuthAppId(id) => vec![MerchantKey::AuthAppId(id.clone())],
        Selector::Number(id) => {
            let pid = Pid::new(id.as_str()).ok().map(MerchantKey::Pid);
            pid.into_iter()
                .chain([MerchantKey::AuthAppId(id.clone())])
                .collect()
        }
        Selector::Own => Vec::new(),
        Selector::Pid(pid) => vec![MerchantKey::Pid(pid.clone())],
    }
}

/// Under which key the record stands that `key` names, if it is of that app: it is found there without an index.
fn exact(key: &MerchantKey, app: Option<&SigningApp>) -> Option<MerchantKey> {
    let (MerchantKey::AuthAppId(auth_app_id), Some(app)) = (key, app) else {
        return None;
    };
    Some(MerchantKey::Exact(app.app_id.clone(), auth_app_id.clone()))
}

/// Where the tags leave no record.
fn nobody() -> ProxyError {
    ProxyError::refused(
        ErrorCode::MerchantUnknown,
        "the tags of the request name no merchant",
    )
}

/// Why a token wasn't learned. The call itself wasn't sent, whatever became of the question.
fn not_learned(error: LearnError) -> ProxyError {
    let detail = error.to_string();
    let code = match error {
        LearnError::Invalid | LearnError::Undescribed { .. } => ErrorCode::TokenUnknown,
        LearnError::TooMany => ErrorCode::Overloaded,
        LearnError::Unproved(TokenError::Gateway(error)) => ProxyError::of_query(true, &error).code,
        LearnError::Unproved(TokenError::Store(error)) => match *error {
            StoreError::TokenConflict { .. } => ErrorCode::TokenConflict,
            _ => ErrorCode::StoreUnavailable,
        },
        LearnError::Unproved(TokenError::Internal) => ErrorCode::Internal,
        LearnError::Unproved(_) => ErrorCode::UpstreamInvalid,
    };
    ProxyError {
        retryable: matches!(code, ErrorCode::Overloaded | ErrorCode::UpstreamUnreachable),
        ..ProxyError::refused(code, detail)
    }
}

#[cfg(test)]
mod tests;
