//! Authorisation links (授权链接): what a merchant opens to let our app act for it.

use std::str::FromStr;
use std::sync::Arc;

use serde::Serialize;

use crate::clock::Clock;
use crate::config::webhook::WebhookConfig;
use crate::gateway::app::SigningApp;
use crate::protocol::charset::Charset;
use crate::protocol::params::Params;
use crate::protocol::secret::Secret;
use crate::store::error::StoreError;
use crate::store::{Change, MemoKey, Store};
use crate::webhook::state::{LIFETIME_S, LONGEST_REF, StateKey};

/// The production origin of the classic pages; the page for specified applications lives on
/// another one there, and only there.
const PRODUCTION: &str = "https://openauth.alipay.com";
const PRODUCTION_SPECIFIED: &str = "https://b.alipay.com";
/// Every kind of merchant application that can authorise. Protocol: 第三方应用授权,
/// `application_type`.
const TYPES: [&str; 5] = ["BASEAPP", "MOBILEAPP", "PUBLICAPP", "TINYAPP", "WEBAPP"];

/// Which of Alipay's pages a link opens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AuthPage {
    /// The merchant chooses among its applications, several at once.
    #[default]
    Batch,
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
}

/// A link wasn't made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
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

    /// Makes a link for `app` with a one-time, expiring `state`.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn link(&self, app: &SigningApp, request: &LinkRequest) -> Result<String, LinkError> {
        let redirect_uri = self.redirect_uri.as_deref().ok_or(LinkError::NoPublicUrl)?;
        let types = types(&request.types)?;
        let reference = request.reference.as_deref().filter(|r| !r.is_empty());
        if reference.is_some_and(|r| !is_reference(r)) {
            return Err(LinkError::ReferenceInvalid);
        }
        let state = self
            .key
            .make(&app.app_id, reference, self.clock.now_ms())
            .ok_or(LinkError::NoState)?;
        // A state that carries its ref ends with it; no other can, for want of the characters.
        if let Some(reference) = reference
            && !state.ends_with(reference)
        {
            self.keep(&state, reference).await?;
        }
        Ok(url(app, request.page, &types, redirect_uri, &state))
    }

    async fn keep(&self, state: &str, reference: &str) -> Result<(), StoreError> {
        let expires_at = self.clock.now_ms().saturating_add(LIFETIME_S * 1000);
        let remember = Change::Remember {
            key: reference_key(state),
            value: Secret::new(reference.as_bytes().to_vec()),
            // A day more, so that the same answer can be given again.
            expires_at: expires_at.saturating_add(24 * 3600 * 1000),
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
fn url(
    app: &SigningApp,
    page: AuthPage,
    types: &[&'static str],
    redirect_uri: &str,
    state: &str,
) -> String {
    let origin = app.endpoints.authorize.as_str();
    let app_id = app.app_id.as_str();
    let joined = types.join(",");
    let common = [("redirect_uri", redirect_uri), ("state", state)];
    match page {
        AuthPage::Batch => {
            let own = [("app_id", app_id), ("application_type", &joined)];
            let query = query(own.into_iter().chain(common));
            format!("{origin}/oauth2/appToAppBatchAuth.htm?{query}")
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
            let data = biz_data(app_id, types, redirect_uri, state);
            let query = query([("bizData", data.as_str())]);
            format!("{origin}/page/message/tasksDetail?{query}")
        }
    }
}

fn biz_data(app_id: &str, types: &[&'static str], redirect_uri: &str, state: &str) -> String {
    serde_json::to_string(&BizData {
        platform_code: "O",
        task_type: "INTERFACE_AUTH",
        agent_op_param: AgentOpParam {
            redirect_uri,
            app_types: types,
            isv_app_id: app_id,
            state,
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

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "" | "batch" => Ok(Self::Batch),
            "single" => Ok(Self::Single),
            "specified" => Ok(Self::Specified),
            _ => Err(()),
        }
    }
}
