//! `merchant export --with-tokens`: pages of everything that a merchant's record holds, sealed to a
//! key before they leave. Nothing here gives a token in clear.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::admin::error::AdminError;
use crate::admin::json::{Form, LONG, Members, Object, invalid, member, missing};
use crate::admin::merchants;
use crate::admin::page::Page;
use crate::admin::sealing::{Part, Recipient};
use crate::model::authorization::Doubt;
use crate::model::merchant::{Merchant, MerchantStatus};
use crate::protocol::secret::Secret;
use crate::store::Store;

/// One sealed page.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub struct SealedPage {
    /// The line of the export's file.
    pub sealed: String,
    /// How many merchants are in it.
    pub merchants: usize,
    /// What `after` is for the next page; `None`: this was the last.
    pub next: Option<String>,
    /// How many merchants' records don't open, and so are on no page; told with the last one.
    #[serde(default)]
    pub unreadable: Option<u64>,
}

/// What is asked for.
pub(super) static BODY: Object = Object {
    about: "To whom, and which part of which export",
    required: &["public_key", "export", "part"],
    members: &[
        member(
            "public_key",
            LONG,
            "The recipient's RSA key, PEM, 2048 bits at least",
        ),
        member(
            "export",
            Form::Pattern("^[A-Za-z0-9-]{1,64}$"),
            "The export's id, the same in every part",
        ),
        member(
            "part",
            Form::Integer {
                least: 1,
                most: i64::MAX,
            },
            "Which part, from 1",
        ),
    ],
};

struct Request {
    recipient: Recipient,
    export: String,
    part: u64,
}

impl Request {
    fn parse(body: &[u8]) -> Result<Self, AdminError> {
        let mut members = Members::parse(body, &BODY)?;
        let key = members.text("public_key")?;
        let key = key.ok_or_else(|| missing("public_key"))?;
        let export = members.text("export")?.ok_or_else(|| missing("export"))?;
        let part = members.integer("part")?.ok_or_else(|| missing("part"))?;
        members.finish()?;
        let is_id = export.len() <= LONGEST_ID
            && export
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !is_id {
            return Err(invalid(
                "`export` isn't up to 64 letters, digits and hyphens",
            ));
        }
        Ok(Self {
            recipient: Recipient::from_text(&key)
                .map_err(|error| invalid(&format!("`public_key`: {error}")))?,
            export,
            part: u64::try_from(part).map_err(|_| invalid("`part` counts from 1"))?,
        })
    }
}

/// The page after `after`, sealed to the key in `body`
/// (`{"public_key":…,"export":…,"part":1}`).
///
/// # Errors
/// [`AdminError::BodyInvalid`], [`AdminError::ParameterInvalid`], or the store's.
pub async fn sealed_page(
    store: &dyn Store,
    after: Option<&str>,
    limit: usize,
    body: &[u8],
) -> Result<SealedPage, AdminError> {
    let request = Request::parse(body)?;
    let after = after.map(merchants::position).transpose()?;
    let found = store.merchants(after, limit.saturating_add(1)).await?;
    let id = |merchant: &Merchant| format!("{}/{}", merchant.app_id, merchant.auth_app_id);
    let page = Page::cut(found, limit, id);
    let part = Part {
        export: &request.export,
        part: request.part,
        last: page.next.is_none(),
    };
    let sealed = request.recipient.seal(part, &lines(&page.items));
    let sealed = sealed.map_err(|error| invalid(&error.to_string()))?;
    // Every token leaves with it: whoever reads the log sees to whom.
    tracing::warn!(
        recipient = request.recipient.fingerprint(),
        export = request.export,
        part = request.part,
        merchants = page.items.len(),
        last = page.next.is_none(),
        "merchants and their tokens are exported, sealed to the recipient's key"
    );
    let unreadable = match page.next {
        None => Some(store.unreadable_merchants().await?),
        Some(_) => None,
    };
    Ok(SealedPage {
        sealed,
        merchants: page.items.len(),
        next: page.next,
        unreadable,
    })
}

fn lines(merchants: &[Merchant]) -> Zeroizing<Vec<u8>> {
    // Room for all, so that no copy of a token is left behind in a buffer that was outgrown.
    let mut lines = Zeroizing::new(Vec::with_capacity(merchants.len() * LINE_ROOM));
    for merchant in merchants {
        let line = serde_json::to_vec(&Line::from(merchant)).map(Zeroizing::new);
        lines.extend_from_slice(&line.expect("text and numbers always serialise"));
        lines.push(b'\n');
    }
    lines
}

/// A merchant in the words of `merchant import`.
#[derive(Serialize)]
struct Line<'a> {
    app_id: &'a str,
    auth_app_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alias: Option<&'a str>,
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    reference: Option<&'a str>,
    app_auth_token: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    app_refresh_token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stated_expiry: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous_app_auth_token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous_app_refresh_token: Option<&'a str>,
    auth_time: i64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    auth_time_estimated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked_at: Option<i64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    revoked_at_estimated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    suspect_at: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    doubt: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    refresh_refused: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    encrypt_key: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    encrypt_key_fetched: bool,
}

impl<'a> From<&'a Merchant> for Line<'a> {
    fn from(merchant: &'a Merchant) -> Self {
        let shown = |secret: &'a Secret<String>| secret.expose().as_str();
        let token = &merchant.token;
        let previous = merchant.previous_token.as_ref();
        let previous_refresh = previous.and_then(|token| token.app_refresh_token.as_ref());
        Self {
            app_id: merchant.app_id.as_str(),
            auth_app_id: merchant.auth_app_id.as_str(),
            user_id: merchant.pid.as_ref().map(|pid| pid.as_str()),
            alias: merchant.alias.as_ref().map(|alias| alias.as_str()),
            reference: merchant.reference.as_deref(),
            app_auth_token: shown(&token.app_auth_token),
            app_refresh_token: token.app_refresh_token.as_ref().map(shown),
            stated_expiry: token.stated_expiry,
            previous_app_auth_token: previous.map(|token| shown(&token.app_auth_token)),
            previous_app_refresh_token: previous_refresh.map(shown),
            auth_time: merchant.auth_time,
            auth_time_estimated: merchant.auth_time_estimated,
            revoked_at: match merchant.status {
                MerchantStatus::Revoked { at } => Some(at),
                MerchantStatus::Authorized | MerchantStatus::Suspect { .. } => None,
            },
            revoked_at_estimated: merchant.revoked_at_estimated
                && merchant.doubt.is_none()
                && matches!(merchant.status, MerchantStatus::Revoked { .. }),
            suspect_at: match merchant.status {
                MerchantStatus::Suspect { at } => Some(at),
                MerchantStatus::Authorized | MerchantStatus::Revoked { .. } => None,
            },
            doubt: merchant.doubt.map(Doubt::as_str),
            refresh_refused: merchant.refresh_refused,
            encrypt_key: merchant.encrypt_key.as_ref().map(shown),
            encrypt_key_fetched: merchant.encrypt_key.is_some() && merchant.encrypt_key_fetched,
        }
    }
}

/// The longest id of an export, characters: a UUID has 36.
const LONGEST_ID: usize = 64;
/// More than a line ever needs, bytes: two pairs of tokens, a key, three ids and a `ref`.
const LINE_ROOM: usize = 2048;
