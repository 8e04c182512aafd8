//! 授权回调地址: `app_auth_code` → tokens → redirect; and the start of an authorisation.
//!
//! The callback isn't signed, so it is trusted for nothing but the exchange; what binds it to a
//! tenant of the ISV's is the `state`, which is ours, expires, and is good for one code.
//!
//! Protocol: 第三方应用授权, “获取 app_auth_code”.

use std::net::IpAddr;
use std::sync::Arc;

use http::request::Parts;

use crate::audit::entry::{Entry, Event};
use crate::gateway::app::SigningApp;
use crate::model::id::AppId;
use crate::model::merchant::Merchant;
use crate::net::crowd::public_network;
use crate::protocol::charset::Charset;
use crate::protocol::params::{Params, name};
use crate::protocol::secret::Secret;
use crate::store::error::StoreError;
use crate::store::{Change, Effect, MemoKey};
use crate::token::error::TokenError;
use crate::token::{CameWith, ExchangeContext, Slot, Tokens};
use crate::webhook::answer::{self, Answer};
use crate::webhook::bad_codes::{Asker, Binding};
use crate::webhook::link::{self, LinkError, LinkRequest};
use crate::webhook::metrics::Browser;
use crate::webhook::pages::Page;
use crate::webhook::state::{Reference, State};
use crate::webhook::{Inner, Settings};

/// How long a used state stays bound to its code, milliseconds: as long as the code lives.
const BOUND_MS: i64 = 24 * 3600 * 1000;

/// A browser comes back from Alipay.
pub(super) async fn callback(inner: &Inner, settings: &Settings, head: &Parts) -> Answer {
    let query = head.uri.query().unwrap_or_default();
    let Ok(params) = Params::from_form(query.as_bytes(), Charset::Utf8) else {
        return refuse(inner, Browser::Callback, Page::Malformed);
    };
    if is_user_login(&params) {
        return user_login(inner, settings, query);
    }
    match authorize(inner, settings, (&params, network(head))).await {
        Ok(done) => done,
        Err(page) => refuse(inner, Browser::Callback, page),
    }
}

/// From which public network a browser comes.
fn network(head: &Parts) -> Option<IpAddr> {
    let peer = head.extensions.get().copied();
    peer.and_then(public_network)
}

/// Counts and tells of a browser that gets no further than this page: anybody's may come.
pub(super) fn refuse(inner: &Inner, browser: Browser, page: Page) -> Answer {
    tell_of_browser(inner, browser, page.as_str());
    page.answer()
}

fn tell_of_browser(inner: &Inner, browser: Browser, outcome: &'static str) {
    inner.parts.metrics.count_browser(browser, outcome);
    let entry = || Entry::new(Event::Authorization, browser.as_str(), outcome);
    inner.parts.audit.tell_of_stranger(entry);
}

/// A merchant opens our link.
pub(super) async fn start(inner: &Inner, settings: &Settings, head: &Parts) -> Answer {
    match link(inner, settings, head).await {
        Ok(url) => {
            let accepted = Page::Worked.as_str();
            inner.parts.metrics.count_browser(Browser::Start, accepted);
            answer::found(&url)
        }
        Err(page) => refuse(inner, Browser::Start, page),
    }
}

/// Where the link leads.
async fn link(inner: &Inner, settings: &Settings, head: &Parts) -> Result<String, Page> {
    let query = head.uri.query().unwrap_or_default();
    let params = Params::from_form(query.as_bytes(), Charset::Utf8);
    let params = params.map_err(|_| Page::Malformed)?;
    let app = app(inner, &params).ok_or(Page::UnknownApp)?;
    let page = params.get("page").unwrap_or_default().parse();
    let page = page.map_err(|_| Page::Malformed)?;
    let request = LinkRequest {
        page,
        types: params.get("types").unwrap_or_default().to_owned(),
        reference: params.get("ref").map(ToOwned::to_owned),
        lifetime_s: None,
    };
    let may_keep = || {
        let now = inner.parts.clock.now_ms();
        let taken = inner.long_refs.take(network(head), now);
        taken.map_err(|wait_s| LinkError::ReferencesFull { wait_s })
    };
    let made = settings.links.link(&app, &request, may_keep).await;
    made.map_err(|error| match error {
        LinkError::NoPublicUrl => Page::NoPublicUrl,
        LinkError::ReferenceInvalid | LinkError::TypesInvalid => Page::Malformed,
        // Counted, not logged: anybody can have that as often as he likes.
        LinkError::ReferencesFull { wait_s } => Page::TooManyRefs { wait_s },
        error => {
            tracing::warn!(%error, "no authorisation link could be made");
            Page::Unavailable
        }
    })
}

async fn authorize(
    inner: &Inner,
    settings: &Settings,
    (params, network): (&Params, Option<IpAddr>),
) -> Result<Answer, Page> {
    let app = app(inner, params).ok_or(Page::UnknownApp)?;
    let code = params
        .get(name::APP_AUTH_CODE)
        .filter(|code| !code.is_empty())
        .map(|code| Secret::new(code.to_owned()))
        .ok_or(Page::Malformed)?;
    let state = params.get("state").filter(|state| !state.is_empty());
    let binding = match state {
        Some(_) => Binding::Bound,
        None => Binding::Unbound,
    };
    let asker = Asker {
        app_id: &app.app_id,
        binding,
        network,
    };
    // One that isn't ours needs no question to Alipay: it is a bad one, however many came before.
    let is_ours = |state: &str| inner.parts.state_key.read(&app.app_id, state).is_some();
    if state.is_some_and(|state| !is_ours(state)) {
        return Err(Page::StateRefused);
    }
    // Nor does what can't be a code, and that binds no state: nothing would bound how many are kept.
    if !Tokens::may_be_code(&code) {
        return Err(Page::CodeRefused);
    }
    check_allowance(inner, (&app, &code), asker).await?;
    let (context, slot) = match state {
        Some(state) => bound(inner, (&app, asker), (state, &code)).await?,
        None if settings.webhook.accept_stateless_auth => (ExchangeContext::default(), None),
        None => return Err(Page::StateMissing),
    };
    let (reference, binds) = (context.reference.clone(), slot.is_some());
    let came_with = state.map_or(CameWith::Nothing, |state| CameWith::State(state_key(state)));
    let tokens = &inner.parts.tokens;
    let exchanged = tokens
        .exchange_in(slot, (&app, &code), (context, came_with))
        .await;
    let merchants = match exchanged {
        Ok(exchanged) if exchanged.answers(came_with) => exchanged.merchants,
        // It came with another's, maybe a moment ago, or with none.
        Ok(_) => {
            count_bad(inner, asker, (false, binds));
            return Err(state.map_or(Page::StateMissing, |_| Page::StateRefused));
        }
        Err(error) => {
            let is_refused = matches!(error, TokenError::Refused { .. });
            count_bad(inner, asker, (is_refused, binds));
            return Err(failed(&app.app_id, &error));
        }
    };
    tell(inner, &app.app_id, &merchants, reference.as_deref());
    Ok(match &settings.webhook.auth_return_url {
        Some(url) => {
            let query = result_query(&app.app_id, &merchants, reference.as_deref());
            answer::found(&with_query(url, &query))
        }
        None => Page::Worked.answer(),
    })
}

/// Refuses a code while too many of its app's, or of its network's, were bad; one that was exchanged
/// before costs nothing.
async fn check_allowance(
    inner: &Inner,
    (app, code): (&SigningApp, &Secret<String>),
    asker: Asker<'_>,
) -> Result<(), Page> {
    let Err(wait_s) = inner.bad_codes.may(asker, inner.parts.clock.now_ms()) else {
        return Ok(());
    };
    let is_known = inner.parts.tokens.is_exchanged(app, code).await;
    if is_known.map_err(store_failed)? {
        return Ok(());
    }
    let Asker {
        app_id, binding, ..
    } = asker;
    tracing::warn!(%app_id, ?binding, "too many codes were refused; one more isn't sent");
    Err(Page::TooManyCodes { wait_s })
}

/// Counts a code that Alipay refused, whatever for: anybody may bring any, and each is a signed call of
/// our app. A network that failed is nobody's fault; but where a state was bound for it, or for a code
/// that was another's, that stays in the store for a day, and anybody may have as many states as he likes:
/// it counts among those.
fn count_bad(inner: &Inner, asker: Asker<'_>, (is_refused, binds): (bool, bool)) {
    let counted = match (is_refused, binds) {
        (true, _) => asker,
        (false, true) => asker.in_vain(),
        (false, false) => return,
    };
    inner.bad_codes.count(counted, inner.parts.clock.now_ms());
}

/// The app that the callback or the link is for: where there is only one, it is implied.
fn app(inner: &Inner, params: &Params) -> Option<Arc<SigningApp>> {
    match params.get(name::APP_ID).filter(|id| !id.is_empty()) {
        Some(id) => inner.parts.apps.named(id),
        None => inner.parts.apps.only(),
    }
}

/// Checks a state, and that its code came with no other; gives the right to the exchange that was taken where
/// it had to be bound.
///
/// What is known of the two is looked up first: the same code again goes on even after the state
/// has expired, another code never does, nor does another state with the same code: it would be told whose code
/// that was, by a `ref` of its own. A state may be bound and its exchange fail for want of
/// Alipay: then the same two can come again.
async fn bound(
    inner: &Inner,
    (app, asker): (&SigningApp, Asker<'_>),
    (state, code): (&str, &Secret<String>),
) -> Result<(ExchangeContext, Option<Slot>), Page> {
    let read = inner.parts.state_key.read(&app.app_id, state);
    let State {
        expires_at,
        reference,
    } = read.ok_or(Page::StateRefused)?;
    let now = inner.parts.clock.now_ms();
    // First: what is under way was bound before it began.
    let came_with = inner.parts.tokens.came_with(app, code).await;
    let slot = match came_with.map_err(store_failed)? {
        Some(CameWith::State(its)) if its == state_key(state) => None,
        Some(CameWith::State(_) | CameWith::Nothing) => return Err(Page::StateRefused),
        unsure => {
            let may_bind = unsure.is_none() && now.div_euclid(1000) < expires_at;
            bind(inner, asker, (state, code), (may_bind, now)).await?
        }
    };
    let reference = match reference {
        Reference::Inline(reference) => reference,
        Reference::Stored => stored_reference(inner, state, now).await?,
    };
    let context = ExchangeContext {
        reference,
        bound: true,
    };
    Ok((context, slot))
}

/// Binds a state to the first code it comes with, unless it is bound to that already; with the right to the
/// exchange where it wasn't.
async fn bind(
    inner: &Inner,
    asker: Asker<'_>,
    (state, code): (&str, &Secret<String>),
    (may_bind, now): (bool, i64),
) -> Result<Option<Slot>, Page> {
    let (key, digest) = (state_key(state), code_digest(code));
    let known = inner.parts.store.recall(key, now).await;
    let (known, slot) = match known.map_err(store_failed)? {
        Some(known) => (Some(known), None),
        None if !may_bind => return Err(Page::StateRefused),
        None => {
            // Anybody can come with a fresh state and rubbish: nothing is written for what isn't
            // going to be exchanged, nor where too much of it was in vain.
            check_in_vain(inner, asker, now)?;
            let slot = inner.parts.tokens.slot();
            let slot = slot.map_err(|error| failed(asker.app_id, &error))?;
            let known = commit_bound(inner, key, digest.clone(), now).await;
            (known.map_err(store_failed)?, Some(slot))
        }
    };
    match known {
        Some(known) if known != digest => Err(Page::StateRefused),
        // Maybe a moment ago, by who came with the same two: then it is counted there.
        Some(_) => Ok(None),
        None => Ok(slot),
    }
}

/// Refuses to bind one more state while too many were bound for nothing. What is bound goes on.
fn check_in_vain(inner: &Inner, asker: Asker<'_>, now: i64) -> Result<(), Page> {
    inner.bad_codes.may(asker.in_vain(), now).map_err(|wait_s| {
        let app_id = asker.app_id;
        tracing::warn!(%app_id, "too many states were bound for nothing; one more isn't");
        Page::TooManyCodes { wait_s }
    })
}

/// Keeps what a state is bound to; gives what somebody else bound it to in the meantime.
async fn commit_bound(
    inner: &Inner,
    key: MemoKey,
    value: Secret<Vec<u8>>,
    now: i64,
) -> Result<Option<Secret<Vec<u8>>>, StoreError> {
    let remember = Change::Remember {
        key,
        value,
        expires_at: now.saturating_add(BOUND_MS),
    };
    let effects = inner.parts.store.commit(vec![remember]).await?;
    Ok(effects.into_iter().find_map(|effect| match effect {
        Effect::Remembered(known) => Some(known),
        _ => None,
    }))
}

async fn stored_reference(inner: &Inner, state: &str, now: i64) -> Result<Option<String>, Page> {
    let kept = inner.parts.store.recall(link::reference_key(state), now);
    let kept = kept.await.map_err(store_failed)?;
    // Without it the authorisation would be bound to nobody.
    let kept = kept.ok_or(Page::StateRefused)?;
    Ok(String::from_utf8(kept.expose().clone()).ok())
}

/// Under what it is kept to which code a state is bound; by this it is known to that code's exchange, too.
fn state_key(state: &str) -> MemoKey {
    MemoKey::new("auth-state", &[state])
}

fn code_digest(code: &Secret<String>) -> Secret<Vec<u8>> {
    let MemoKey(digest) = MemoKey::new("auth-code", &[code.expose()]);
    Secret::new(digest.to_vec())
}

fn store_failed(error: StoreError) -> Page {
    tracing::warn!(%error, "an authorisation could not be looked up or kept");
    Page::Unavailable
}

fn failed(app_id: &AppId, error: &TokenError) -> Page {
    tracing::warn!(
        %app_id, kind = error.kind(), outcome = error.outcome().as_str(), %error,
        "an app_auth_code could not be exchanged"
    );
    match error {
        error if error.may_be_about_code() => Page::CodeRefused,
        _ if matches!(error.kind(), "overloaded" | "store-unavailable") => Page::Unavailable,
        _ => Page::ExchangeFailed,
    }
}

/// Tells the log and the audit log who authorised.
fn tell(inner: &Inner, app_id: &AppId, merchants: &[Merchant], reference: Option<&str>) {
    tracing::info!(%app_id, merchants = merchants.len(), "authorised by callback");
    let accepted = Page::Worked.as_str();
    inner
        .parts
        .metrics
        .count_browser(Browser::Callback, accepted);
    let ids: Vec<&str> = merchants.iter().map(|m| m.auth_app_id.as_str()).collect();
    // The same code and state again are answered again.
    inner.parts.audit.tell_of_repeated(|| {
        Entry::new(Event::Authorization, Browser::Callback.as_str(), accepted)
            .with("app_id", app_id.as_str())
            .with("auth_app_id", &ids.join(","))
            .with_some("ref", reference)
    });
}

/// What the operator's page learns; never a token.
fn result_query(app_id: &AppId, merchants: &[Merchant], reference: Option<&str>) -> String {
    let ids: Vec<&str> = merchants.iter().map(|m| m.auth_app_id.as_str()).collect();
    let ids = ids.join(",");
    let known = [
        ("result", "ok"),
        (name::APP_ID, app_id.as_str()),
        (name::AUTH_APP_ID, ids.as_str()),
    ];
    link::query(known.into_iter().chain(reference.map(|r| ("ref", r))))
}

fn is_user_login(params: &Params) -> bool {
    let is_declined = || {
        let scope = params.get("error_scope").unwrap_or_default();
        !scope.is_empty() && params.get(name::APP_AUTH_CODE).is_none()
    };
    params.get("source") == Some("alipay_wallet")
        || params.get("auth_code").is_some()
        || is_declined()
}

/// A user's `auth_code`, or that there is none (`error_scope`), goes to who can use it, as it came.
fn user_login(inner: &Inner, settings: &Settings, query: &str) -> Answer {
    match &settings.webhook.user_auth_return_url {
        Some(url) => {
            tell_of_browser(inner, Browser::UserLogin, Page::Worked.as_str());
            answer::found(&with_query(url, query))
        }
        None => refuse(inner, Browser::UserLogin, Page::NoUserReturn),
    }
}

/// Appends `query` to `url`, before its fragment.
fn with_query(url: &str, query: &str) -> String {
    let (url, fragment) = url
        .split_once('#')
        .map_or((url, None), |(url, fragment)| (url, Some(fragment)));
    let joint = match url.split_once('?') {
        None => "?",
        Some((_, "")) => "",
        Some(_) => "&",
    };
    let fragment = fragment.map(|f| format!("#{f}")).unwrap_or_default();
    format!("{url}{joint}{query}{fragment}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_appended_to_what_is_there() {
        for (url, expected) in [
            ("https://x/y", "https://x/y?a=1"),
            ("https://x/y?", "https://x/y?a=1"),
            ("https://x/y?b=2", "https://x/y?b=2&a=1"),
            ("https://x/#/done", "https://x/?a=1#/done"),
        ] {
            assert_eq!(with_query(url, "a=1"), expected);
        }
    }
}
