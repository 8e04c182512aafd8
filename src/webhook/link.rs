//! Authorisation links (授权链接): what a merchant opens to let our app act for it.

use std::str::FromStr;
use std::sync::Arc;

use serde::Serialize;

use crate::clock::Clock;
use crate::config::webhook::WebhookConfig;
use crate::gateway::app::SigningApp;
use crate::model::id::AppId;
use crate::protocol::charset::Charset;
use crate::protocol::params::Params;
use crate::protocol::secret::Secret;
use crate::store::error::StoreError;
use crate::store::{Change, MemoKey, Store};
use crate::webhook::state::{LIFETIME_S, LONGEST_LIFETIME_S, LONGEST_REF, Making, StateKey};

/// The production origin of the classic pages; the page for specified applications lives on
/// another one there, and only there.
const PRODUCTION: &str = "https://openauth.alipay.com";
const PRODUCTION_SPECIFIED: &str = "https://b.alipay.com";
/// The mini program that shows the page for specified applications inside the Alipay app.
const IN_APP: &str = "alipays://platformapi/startapp?appId=2021003130652097";
/// Every kind of merchant application that can authorise. Protocol: 第三方应用授权,
/// `application_type`.
const TYPES: [&str; 5] = ["BASEAPP", "MOBILEAPP", "PUBLICAPP", "TINYAPP", "WEBAPP"];

/// Which of Alipay's pages a link opens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AuthPage {
    /// The merchant chooses among its applications, several at once.
    #[default]
    Batch,
    /// [`AuthPage::Specified`] inside the Alipay app: for a QR code, or a message on a phone.
    InApp,
    /// The merchant's base application: of no use for mini programs.
    Single,
    /// The current page, for one application the merchant specifies.
    Specified,
}

/// What a link is for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkRequest {
    /// Which page.
    pub page: AuthPage,
    /// Kinds of applications, comma-separated; empty for all.
    pub types: String,
    /// The ISV's own tenant id.
    pub reference: Option<String>,
    /// How long it may be used, seconds: at most [`LONGEST_LIFETIME_S`]; by default
    /// [`LIFETIME_S`].
    pub lifetime_s: Option<i64>,
}

/// What an authorisation is begun with, on whatever page.
#[derive(Clone, PartialEq, Eq)]
pub struct Ticket {
    /// Where the merchant comes back to.
    pub redirect_uri: String,
    /// One-time, expiring, bound to the app and the `ref`.
    pub state: String,
    /// Until when it may be used, Unix milliseconds.
    pub expires_at: i64,
}

impl std::fmt::Debug for Ticket {
    /// Without the state: who has it can have his authorisation taken for the merchant's.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket")
            .field("redirect_uri", &self.redirect_uri)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// A link wasn't made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// It would live longer than a used state is remembered, or not at all.
    #[error("a link lives from 1 s to {} h", LONGEST_LIFETIME_S / 3600)]
    LifetimeInvalid,
    /// Nobody said where merchants come back to.
    #[error(
        "set webhook.public_url (or webhook.auth_redirect_uri) first: merchants come back to it"
    )]
    NoPublicUrl,
    /// The system has no random numbers, or the clock is absurd.
    #[error("no state could be made; check the clock and the system's random numbers")]
    NoState,
    /// `ref` is too long.
    #[error("ref has more than {LONGEST_REF} characters, or control characters")]
    ReferenceInvalid,
    /// The state can't carry the `ref`, and too many such were kept lately.
    #[error(
        "too many refs were kept lately that no link carries itself (up to {LONGEST_REF} letters, digits, - and _, or 48 bytes of UTF-8)"
    )]
    ReferencesFull {
        /// After how many seconds one more may be kept, unless others come first.
        wait_s: u32,
    },
    /// The `ref` couldn't be kept.
    #[error("the ref could not be stored")]
    Store(#[from] StoreError),
    /// A kind of application that doesn't exist.
    #[error("types may hold {}", TYPES.join(", "))]
    TypesInvalid,
}

/// Makes links. Clones share the store.
#[derive(Clone)]
pub struct Links {
    key: StateKey,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    redirect_uri: Option<String>,
}

impl Links {
    /// Links that lead back to the address `config` says.
    #[must_use]
    pub fn new(
        key: StateKey,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        config: &WebhookConfig,
    ) -> Self {
        let public = config
            .public_url
            .as_deref()
            .map(|url| format!("{url}{}/auth", config.base_path));
        Self {
            key,
            store,
            clock,
            redirect_uri: config.auth_redirect_uri.clone().or(public),
        }
    }

    /// Makes a link for `app` with a one-time, expiring `state`, for whoever asks for it. It stores
    /// nothing but a `ref` that the state can't carry, and that only where `may_keep`, asked last of
    /// all, has nothing against it.
    ///
    /// # Errors
    /// [`LinkError`].
    pub(crate) async fn link(
        &self,
        app: &SigningApp,
        request: &LinkRequest,
        may_keep: impl FnOnce() -> Result<(), LinkError>,
    ) -> Result<String, LinkError> {
        let types = types(&request.types)?;
        let ticket = self.ticket(app, request, (StateKey::make, may_keep));
        Ok(url(app, request.page, &types, &ticket.await?))
    }

    /// The same for an operator, with what the link was made of.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn link_with_ticket(
        &self,
        app: &SigningApp,
        request: &LinkRequest,
    ) -> Result<(String, Ticket), LinkError> {
        let types = types(&request.types)?;
        let make = (StateKey::make, || Ok(()));
        let ticket = self.ticket(app, request, make).await?;
        Ok((url(app, request.page, &types, &ticket), ticket))
    }

    /// What an invitation by the API is made with: Alipay wants its `state` in base64. The page
    /// and the types of `request` mean nothing here.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn invitation(
        &self,
        app: &SigningApp,
        request: &LinkRequest,
    ) -> Result<Ticket, LinkError> {
        let make = (StateKey::make_base64, || Ok(()));
        self.ticket(app, request, make).await
    }

    async fn ticket(
        &self,
        app: &SigningApp,
        request: &LinkRequest,
        (make, may_keep): (
            impl FnOnce(&StateKey, &AppId, &Making<'_>) -> Option<String>,
            impl FnOnce() -> Result<(), LinkError>,
        ),
    ) -> Result<Ticket, LinkError> {
        let redirect_uri = self.redirect_uri.clone().ok_or(LinkError::NoPublicUrl)?;
        let lifetime_s = request.lifetime_s.unwrap_or(LIFETIME_S);
        if !(1..=LONGEST_LIFETIME_S).contains(&lifetime_s) {
            return Err(LinkError::LifetimeInvalid);
        }
        let reference = request.reference.as_deref().filter(|r| !r.is_empty());
        if reference.is_some_and(|r| !is_reference(r)) {
            return Err(LinkError::ReferenceInvalid);
        }
        let making = Making {
            reference,
            now_ms: self.clock.now_ms(),
            lifetime_s,
        };
        let state = make(&self.key, &app.app_id, &making).ok_or(LinkError::NoState)?;
        let ticket = Ticket {
            redirect_uri,
            expires_at: making.now_ms.saturating_add(lifetime_s * 1000),
            state,
        };
        if let Some(reference) = reference
            && StateKey::leaves_in_store(&ticket.state)
        {
            // After all checks: what they refuse takes nobody's place. What the store then fails to
            // keep does, so that writes, and warnings of those that fail, are bounded, too.
            may_keep()?;
            self.keep(&ticket, reference).await?;
        }
        Ok(ticket)
    }

    async fn keep(&self, ticket: &Ticket, reference: &str) -> Result<(), StoreError> {
        let remember = Change::Remember {
            key: reference_key(&ticket.state),
            value: Secret::new(reference.as_bytes().to_vec()),
            // A day more, so that the same answer can be given again.
            expires_at: ticket.expires_at.saturating_add(24 * 3600 * 1000),
        };
        self.store.commit(vec![remember]).await.map(drop)
    }
}

impl std::fmt::Debug for Links {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Links({:?})", self.redirect_uri)
    }
}

/// Under what the `ref` of a state is kept.
pub(super) fn reference_key(state: &str) -> MemoKey {
    MemoKey::new("auth-ref", &[state])
}

fn is_reference(text: &str) -> bool {
    text.chars().count() <= LONGEST_REF && !text.chars().any(char::is_control)
}

fn types(text: &str) -> Result<Vec<&'static str>, LinkError> {
    if text.is_empty() {
        return Ok(TYPES.to_vec());
    }
    text.split(',')
        .map(|given| TYPES.into_iter().find(|known| *known == given.trim()))
        .collect::<Option<_>>()
        .ok_or(LinkError::TypesInvalid)
}

/// `bizData` of the page for specified applications.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BizData<'a> {
    platform_code: &'static str,
    task_type: &'static str,
    agent_op_param: AgentOpParam<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AgentOpParam<'a> {
    redirect_uri: &'a str,
    app_types: &'a [&'static str],
    isv_app_id: &'a str,
    state: &'a str,
}

/// Protocol: 第三方应用授权, “拼接授权链接”.
fn url(app: &SigningApp, page: AuthPage, types: &[&'static str], ticket: &Ticket) -> String {
    let origin = app.endpoints.authorize.as_str();
    let app_id = app.app_id.as_str();
    let joined = types.join(",");
    let common = [
        ("redirect_uri", ticket.redirect_uri.as_str()),
        ("state", ticket.state.as_str()),
    ];
    match page {
        AuthPage::Batch => {
            let own = [("app_id", app_id), ("application_type", &joined)];
            let query = query(own.into_iter().chain(common));
            format!("{origin}/oauth2/appToAppBatchAuth.htm?{query}")
        }
        // The page is itself a query inside one: what it carries is encoded twice.
        AuthPage::InApp => {
            let inner = specified(app_id, types, ticket);
            let page = query([("page", &*format!("pages/authorize/index?{inner}"))]);
            format!("{IN_APP}&{page}")
        }
        AuthPage::Single => {
            let query = query([("app_id", app_id)].into_iter().chain(common));
            format!("{origin}/oauth2/appToAppAuth.htm?{query}")
        }
        AuthPage::Specified => {
            let origin = match origin {
                PRODUCTION => PRODUCTION_SPECIFIED,
                other => other,
            };
            let query = specified(app_id, types, ticket);
            format!("{origin}/page/message/tasksDetail?{query}")
        }
    }
}

/// The query of the page for specified applications.
fn specified(app_id: &str, types: &[&'static str], ticket: &Ticket) -> String {
    let data = biz_data(app_id, types, ticket);
    query([("bizData", data.as_str())])
}

fn biz_data(app_id: &str, types: &[&'static str], ticket: &Ticket) -> String {
    serde_json::to_string(&BizData {
        platform_code: "O",
        task_type: "INTERFACE_AUTH",
        agent_op_param: AgentOpParam {
            redirect_uri: &ticket.redirect_uri,
            app_types: types,
            isv_app_id: app_id,
            state: &ticket.state,
        },
    })
    .expect("text members alone can't fail to serialise")
}

/// A query string of `pairs`, percent-encoded.
pub(super) fn query<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut params = Params::new();
    for (name, value) in pairs {
        params.set(name, value);
    }
    params
        .to_form(Charset::Utf8)
        .expect("UTF-8 lacks no character")
}

impl FromStr for AuthPage {
    type Err = ();

    /// The pages that `/auth/start` can redirect a browser to: contract §4.
    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "" | "batch" => Ok(Self::Batch),
            "single" => Ok(Self::Single),
            "specified" => Ok(Self::Specified),
            _ => Err(()),
        }
    }
}
