//! The operator's side of authorisations: links, invitations, subscriptions, tokens by hand, and
//! records proved at Alipay. Each of them asks Alipay as the ISV itself; none shows a token.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::admin::AdminParts;
use crate::admin::error::AdminError;
use crate::admin::json::{Form, LONG, Member, Members, Object, invalid, member, missing};
use crate::admin::merchants::{self, MerchantView};
use crate::admin::page::Page;
use crate::gateway::app::SigningApp;
use crate::model::id::{AppId, AuthAppId};
use crate::model::merchant::Merchant;
use crate::protocol::secret::Secret;
use crate::protocol::token_description::TokenDescription;
use crate::token::{AskError, ExchangeContext, Proof, ProofError, ProofMode};
use crate::webhook::link::{AuthPage, LinkRequest};

/// The message that tells of a merchant's cancellation.
pub const CANCELLED: &str = "alipay.open.auth.appauth.cancelled";
/// The message that tells of a user's cancellation.
pub const USER_CANCELLED: &str = "alipay.open.auth.userauth.cancelled";
/// The verdict on a record that Alipay couldn't be asked about.
pub const UNASKED: &str = "unasked";

/// A link for a merchant.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub struct LinkView {
    /// What the merchant opens.
    pub url: String,
    /// Which page it is.
    pub page: String,
    /// Our application.
    pub app_id: String,
    /// The merchant's application, of an invitation.
    pub auth_app_id: Option<String>,
    /// The ISV's own tenant id, bound into the `state`.
    #[serde(rename = "ref")]
    pub reference: Option<String>,
    /// Where the merchant comes back to: 授权回调地址.
    pub redirect_uri: String,
    /// Until when it may be used, Unix milliseconds. It is good for one authorisation.
    pub expires_at: i64,
}

/// What became of one subscription.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub struct SubscriptionView {
    /// The kind of message.
    pub topic: String,
    /// Our application.
    pub app_id: String,
    /// The merchant's application, where it is about one.
    pub auth_app_id: Option<String>,
    /// Whether Alipay took it.
    pub subscribed: bool,
    /// Why not.
    pub error: Option<String>,
}

/// What Alipay says of a token.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub struct DescriptionView {
    /// Our application.
    pub app_id: String,
    /// `valid` or `invalid`.
    pub status: String,
    /// The merchant's application, as Alipay says.
    pub auth_app_id: Option<String>,
    /// The merchant's PID, as Alipay says.
    pub user_id: Option<String>,
    /// As Alipay writes it.
    pub auth_start: Option<String>,
    /// As Alipay writes it; by now only history.
    pub auth_end: Option<String>,
    /// What may be called and received with it.
    pub auth_methods: Vec<String>,
}

/// A record and what Alipay says of it.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub struct VerdictView {
    /// Our application.
    pub app_id: String,
    /// The merchant's application.
    pub auth_app_id: String,
    /// `valid`, `invalid`, `differs`, or `unasked`: Alipay couldn't be asked.
    pub verdict: String,
    /// The merchant's PID in the record, as it is now.
    pub user_id: Option<String>,
    /// The merchant's application, as Alipay says.
    pub said_auth_app_id: Option<String>,
    /// The merchant's PID, as Alipay says.
    pub said_user_id: Option<String>,
    /// Whether a missing PID was filled in.
    pub pid_filled: bool,
    /// Whether the record was marked as cancelled.
    pub marked: bool,
    /// Whether a suspicion was cleared.
    #[serde(default)]
    pub cleared: bool,
    /// Whether the token didn't hold, and a new pair was bought.
    #[serde(default)]
    pub renewed: bool,
    /// `authorized` or `revoked`, as it is now.
    pub status: String,
    /// Why Alipay couldn't be asked.
    pub error: Option<String>,
}

/// What a link is asked for with.
pub(super) static LINK: Object = Object {
    about: "Which link",
    required: &[],
    members: &[
        member(
            "page",
            Form::Word(&["batch", "single", "specified", IN_APP, INVITE]),
            "Which of Alipay's pages; default: batch",
        ),
        member(
            "types",
            Form::Text { longest: 256 },
            "Kinds of applications that may authorise, a comma between them",
        ),
        REF,
        member(
            "lifetime_s",
            Form::Integer {
                least: 1,
                most: i64::MAX,
            },
            "How long it is good, seconds; default: half an hour, at most a day",
        ),
        member("auth_app_id", Form::Id, "The merchant, of an invitation"),
    ],
};

/// What topics are subscribed to with.
pub(super) static SUBSCRIBE: Object = Object {
    about: "Which messages, and whose",
    required: &["topics"],
    members: &[
        member(
            "topics",
            Form::Texts("^[A-Za-z0-9._-]{1,128}$"),
            "Such as `alipay.open.auth.appauth.cancelled`",
        ),
        member(
            "auth_app_id",
            Form::Id,
            "The merchant; without it: the app itself",
        ),
    ],
};

/// What a code is exchanged with.
pub(super) static EXCHANGE: Object = Object {
    about: "A code, and whose",
    required: &["code"],
    members: &[member("code", LONG, "The app_auth_code"), REF],
};

const REF: Member = member(
    "ref",
    Form::Text { longest: 64 },
    "The ISV's own tenant id; it comes back in the event",
);

/// Makes a link of the kind that `body` asks for:
/// `{"page","types","ref","lifetime_s","auth_app_id"}`, all optional.
///
/// # Errors
/// [`AdminError`]; an invitation asks Alipay.
pub async fn link(parts: &AdminParts, app_id: &AppId, body: &[u8]) -> Result<LinkView, AdminError> {
    let mut members = Members::parse(body, &LINK)?;
    let page = members.text("page")?.unwrap_or_else(|| "batch".to_owned());
    let merchant: Option<AuthAppId> = members.parsed("auth_app_id")?;
    let mut request = LinkRequest {
        page: AuthPage::default(),
        types: members.text("types")?.unwrap_or_default(),
        reference: members.text("ref")?,
        lifetime_s: members.integer("lifetime_s")?,
    };
    members.finish()?;
    let app = app(parts, app_id)?;
    let reference = request.reference.clone();
    let links = parts.webhook.links();
    let (url, ticket) = if page == INVITE {
        let merchant = merchant.as_ref().ok_or_else(|| missing("auth_app_id"))?;
        let ticket = links.invitation(&app, &request).await?;
        let way_back = (ticket.redirect_uri.as_str(), ticket.state.as_str());
        (parts.tokens.invite(&app, merchant, way_back).await?, ticket)
    } else if merchant.is_some() {
        return Err(invalid("`auth_app_id` belongs to the page `invite` alone"));
    } else {
        request.page = named(&page)?;
        links.link_with_ticket(&app, &request).await?
    };
    Ok(LinkView {
        url,
        page,
        app_id: app_id.to_string(),
        auth_app_id: merchant.map(|id| id.to_string()),
        reference,
        redirect_uri: ticket.redirect_uri,
        expires_at: ticket.expires_at,
    })
}

fn named(page: &str) -> Result<AuthPage, AdminError> {
    if page == IN_APP {
        return Ok(AuthPage::InApp);
    }
    let wrong = || invalid("`page` is batch, single, specified, in-app or invite");
    page.parse().map_err(|()| wrong())
}

/// Subscribes to the topics in `body`: `{"topics":[…],"auth_app_id":…}`; without the latter it is
/// about the app's own messages.
///
/// # Errors
/// [`AdminError`]; that Alipay refuses one topic stands in its view.
pub async fn subscribe(
    parts: &AdminParts,
    app_id: &AppId,
    body: &[u8],
) -> Result<Page<SubscriptionView>, AdminError> {
    let mut members = Members::parse(body, &SUBSCRIBE)?;
    let topics = members.texts("topics")?;
    let auth_app_id: Option<AuthAppId> = members.parsed("auth_app_id")?;
    members.finish()?;
    if topics.is_empty() || !topics.iter().all(|topic| is_topic(topic)) {
        return Err(invalid(
            "`topics` holds no names like alipay.open.auth.appauth.cancelled",
        ));
    }
    let app = app(parts, app_id)?;
    let merchant = match &auth_app_id {
        Some(id) => Some(known(parts, app_id, id).await?),
        None => None,
    };
    let mut items = Vec::new();
    for topic in topics {
        let asked = parts
            .tokens
            .subscribe(&app, &topic, merchant.as_ref())
            .await;
        items.push(SubscriptionView {
            topic,
            app_id: app_id.to_string(),
            auth_app_id: auth_app_id.as_ref().map(ToString::to_string),
            subscribed: asked.is_ok(),
            error: asked.err().map(|error| error.to_string()),
        });
    }
    Ok(Page::whole(items))
}

fn is_topic(text: &str) -> bool {
    let fits = (1..=LONGEST_TOPIC).contains(&text.len());
    fits && text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// Exchanges the `app_auth_code` in `body` (`{"code":…,"ref":…}`).
///
/// # Errors
/// [`AdminError`].
pub async fn exchange(
    parts: &AdminParts,
    app_id: &AppId,
    body: &[u8],
) -> Result<Page<MerchantView>, AdminError> {
    let mut members = Members::parse(body, &EXCHANGE)?;
    let code: Secret<String> = members.secret("code")?.ok_or_else(|| missing("code"))?;
    let context = ExchangeContext {
        reference: members.text("ref")?,
        bound: true,
    };
    members.finish()?;
    let app = app(parts, app_id)?;
    let merchants = parts.tokens.exchange(&app, &code, context).await?;
    let items = merchants.iter().map(MerchantView::from).collect();
    Ok(Page::whole(items))
}

/// Buys a new pair for a merchant.
///
/// # Errors
/// [`AdminError`].
pub async fn refresh(
    parts: &AdminParts,
    app_id: &AppId,
    auth_app_id: &AuthAppId,
) -> Result<MerchantView, AdminError> {
    let merchant = known(parts, app_id, auth_app_id).await?;
    let refreshed = parts.tokens.refresh(&merchant).await?;
    Ok(MerchantView::from(&refreshed))
}

/// What Alipay says of a merchant's token.
///
/// # Errors
/// [`AdminError`].
pub async fn describe(
    parts: &AdminParts,
    app_id: &AppId,
    auth_app_id: &AuthAppId,
) -> Result<DescriptionView, AdminError> {
    let merchant = known(parts, app_id, auth_app_id).await?;
    let TokenDescription {
        status,
        auth_app_id,
        user_id,
        auth_start,
        auth_end,
        auth_methods,
        ..
    } = parts.tokens.describe(&merchant).await?;
    Ok(DescriptionView {
        app_id: app_id.to_string(),
        status,
        auth_app_id,
        user_id,
        auth_start,
        auth_end,
        auth_methods,
    })
}

/// Proves one record at Alipay.
///
/// # Errors
/// [`AdminError`]; that Alipay couldn't be asked stands in the view.
pub async fn verify(
    parts: &AdminParts,
    (app_id, auth_app_id): (&AppId, &AuthAppId),
    mode: ProofMode,
) -> Result<VerdictView, AdminError> {
    let merchant = known(parts, app_id, auth_app_id).await?;
    match parts.tokens.prove(&merchant, mode).await {
        Ok(proof) => Ok(VerdictView::from(&proof)),
        Err(ProofError::Store(error)) => Err(error.into()),
        Err(error) => Ok(VerdictView {
            error: Some(error.to_string()),
            ..VerdictView::bare(&merchant, UNASKED)
        }),
    }
}

impl VerdictView {
    fn bare(merchant: &Merchant, verdict: &str) -> Self {
        Self {
            app_id: merchant.app_id.to_string(),
            auth_app_id: merchant.auth_app_id.to_string(),
            verdict: verdict.to_owned(),
            user_id: merchant.pid.as_ref().map(ToString::to_string),
            said_auth_app_id: None,
            said_user_id: None,
            pid_filled: false,
            marked: false,
            cleared: false,
            renewed: false,
            status: merchant.status.as_str().to_owned(),
            error: None,
        }
    }
}

impl From<&Proof> for VerdictView {
    fn from(proof: &Proof) -> Self {
        Self {
            said_auth_app_id: proof.described.auth_app_id.clone(),
            said_user_id: proof.described.user_id.clone(),
            pid_filled: proof.pid_filled,
            marked: proof.marked,
            cleared: proof.cleared,
            renewed: proof.renewed,
            ..Self::bare(&proof.merchant, proof.verdict.as_str())
        }
    }
}

fn app(parts: &AdminParts, app_id: &AppId) -> Result<Arc<SigningApp>, AdminError> {
    let unknown = || AskError::AppUnknown {
        app_id: app_id.to_string(),
    };
    Ok(parts.apps.get(app_id).ok_or_else(unknown)?)
}

async fn known(
    parts: &AdminParts,
    app_id: &AppId,
    auth_app_id: &AuthAppId,
) -> Result<Merchant, AdminError> {
    let merchant = merchants::exact(&*parts.store, app_id, auth_app_id).await?;
    merchant.ok_or_else(|| merchants::unknown(app_id, auth_app_id))
}

/// The page that Alipay makes for a merchant it knows already.
const INVITE: &str = "invite";
/// [`AuthPage::InApp`]; no browser can be redirected there, so `/auth/start` doesn't know it.
const IN_APP: &str = "in-app";
/// Longer than any message's name, characters.
const LONGEST_TOPIC: usize = 128;
