//! Calls of `alipay.system.oauth.token`: an `auth_code` is sent once, and what it buys is kept.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio::sync::oneshot;

use crate::gateway::VerifiedReply;
use crate::gateway::app::SigningApp;
use crate::gateway::error::Outcome;
use crate::gateway::v2::V2Call;
use crate::gateway::v3::{V3Call, V3Encryption, VerifiedV3Reply};
use crate::model::merchant::Merchant;
use crate::protocol::secret::Secret;
use crate::proxy::ProxyParts;
use crate::proxy::call;
use crate::proxy::error::{ErrorCode, ProxyError, bug};
use crate::proxy::grant::{self, Grant, Guarded};
use crate::proxy::resolve::Credentials;
use crate::store::MemoKey;
use crate::token::Turn;
use crate::token::auth_code::AuthCodeError;
use crate::token::error::TokenError;
use crate::token::users::USER_TOKEN_METHOD;

/// What a call of [`USER_TOKEN_METHOD`] spends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Spent {
    /// A code that a front end got for its user.
    AuthCode(Secret<String>),
    /// What the purchase before gave.
    RefreshToken(Secret<String>),
}

impl Spent {
    /// What a call of v2 spends.
    pub(super) fn of(v2: &V2Call) -> Option<Self> {
        Self::among(&v2.method, |name| {
            v2.parameters.get(name).map(ToOwned::to_owned)
        })
    }

    /// What a call of v3 spends. What its caller has encrypted, and we can't open, nobody sees.
    ///
    /// # Errors
    /// `body-invalid`, `parameter-duplicate`, `parameter-invalid`, `charset-…` of its query.
    pub(super) fn of_v3(v3: &V3Call) -> Result<Option<Self>, ProxyError> {
        let method = v3.method();
        if method != USER_TOKEN_METHOD {
            return Ok(None);
        }
        let content = v3.body.text();
        let query = grant::query_of(&v3.target)?;
        let read = |content: &[u8]| Grant::read(Guarded::Users, content, &query);
        let grant = match v3.encryption {
            V3Encryption::Callers => {
                let ciphertext = String::from_utf8_lossy(content);
                let key = v3.app.content_key();
                let opened = key.and_then(|key| key.decrypt(ciphertext.trim()).ok());
                match opened {
                    Some(opened) => read(opened.expose()),
                    None => read(b""),
                }
            }
            V3Encryption::None | V3Encryption::Ours => read(content),
        }?;
        let value = |name: &str| grant.get(name).map(ToOwned::to_owned);
        Ok(Self::among(&method, value))
    }

    fn among(method: &str, value: impl Fn(&str) -> Option<String>) -> Option<Self> {
        if method != USER_TOKEN_METHOD {
            return None;
        }
        let secret = |name| value(name).filter(|text| !text.is_empty()).map(Secret::new);
        match value("grant_type")?.as_str() {
            "authorization_code" => secret("code").map(Self::AuthCode),
            "refresh_token" => secret("refresh_token").map(Self::RefreshToken),
            _ => None,
        }
    }
}

/// The logins that are under way, by what they spend and for whom. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Logins {
    v2: UnderWay<Box<VerifiedReply>>,
    v3: UnderWay<Box<VerifiedV3Reply>>,
}

type Flight<T> = Shared<BoxFuture<'static, Option<Result<T, ProxyError>>>>;

#[derive(Clone)]
struct UnderWay<T: Clone>(Arc<Mutex<HashMap<MemoKey, Flight<T>>>>);

/// A call that may be a login.
pub(super) struct Login<'a> {
    /// What it spends, if anything.
    pub(super) spent: Option<Spent>,
    /// Who signs, and for whom.
    pub(super) known: &'a Credentials,
    /// In which form its reply goes back.
    pub(super) route: &'a str,
    /// Its deadline.
    pub(super) until: Instant,
}

/// Sends a call of v2 once for its code: who sends the same one meanwhile (an SDK whose connection
/// broke) gets the same reply, who sends it later is told that it was spent.
pub(super) async fn once<F>(
    parts: &ProxyParts,
    login: Login<'_>,
    send: F,
) -> Result<Box<VerifiedReply>, ProxyError>
where
    F: Future<Output = Result<Box<VerifiedReply>, ProxyError>> + Send,
{
    run(parts, &parts.logins.v2, login, send).await
}

/// The same on v3.
pub(super) async fn once_v3<F>(
    parts: &ProxyParts,
    login: Login<'_>,
    send: F,
) -> Result<Box<VerifiedV3Reply>, ProxyError>
where
    F: Future<Output = Result<Box<VerifiedV3Reply>, ProxyError>> + Send,
{
    run(parts, &parts.logins.v3, login, send).await
}

async fn run<T, F>(
    parts: &ProxyParts,
    under_way: &UnderWay<T>,
    login: Login<'_>,
    send: F,
) -> Result<T, ProxyError>
where
    T: Clone + Send + Sync + 'static,
    F: Future<Output = Result<T, ProxyError>> + Send,
{
    match &login.spent {
        None => send.await,
        Some(Spent::RefreshToken(refresh_token)) => {
            let turn = Box::pin(turn(parts, refresh_token, login.until)).await?;
            if turn.is_some() {
                call::refuse_unstorable(parts)?;
            }
            send.await
        }
        Some(Spent::AuthCode(code)) => {
            Box::pin(run_alone(parts, under_way, (&login, code), send)).await
        }
    }
}

async fn run_alone<T, F>(
    parts: &ProxyParts,
    under_way: &UnderWay<T>,
    (login, code): (&Login<'_>, &Secret<String>),
    send: F,
) -> Result<T, ProxyError>
where
    T: Clone + Send + Sync + 'static,
    F: Future<Output = Result<T, ProxyError>> + Send,
{
    let landing = match under_way.join(login.key(code)) {
        Ok(landing) => landing,
        Err(flight) => {
            let joined = tokio::time::timeout_at(login.until.into(), flight).await;
            return joined.map_err(|_| late())?.unwrap_or_else(|| Err(bug()));
        }
    };
    let result = send_once(parts, (login, code), send).await;
    landing.land(result.clone());
    result
}

async fn send_once<T, F>(
    parts: &ProxyParts,
    (login, code): (&Login<'_>, &Secret<String>),
    send: F,
) -> Result<T, ProxyError>
where
    F: Future<Output = Result<T, ProxyError>> + Send,
{
    let codes = parts.tokens.users().codes();
    let app_id = &login.known.app.app_id;
    let spending = codes.spend_by(login.until, app_id, code).await?;
    let result = send.await;
    if let Err(error) = &result
        && error.outcome == Outcome::NotSent
    {
        codes.give_back_by(login.until, spending).await;
    }
    result
}

/// A caller's own refresh waits for ours of the same token, and ours for it.
async fn turn(
    parts: &ProxyParts,
    refresh_token: &Secret<String>,
    until: Instant,
) -> Result<Option<Turn>, ProxyError> {
    let users = parts.tokens.users();
    if !users.are_kept() {
        return Ok(None);
    }
    let turn = tokio::time::timeout_at(until.into(), users.turn(refresh_token)).await;
    let late = |_| {
        let detail = "another refresh of the same token took all the time there was";
        ProxyError::refused(ErrorCode::UpstreamTimeout, detail)
    };
    turn.map(Some).map_err(late)
}

/// The code has left, with a call that isn't over.
fn late() -> ProxyError {
    ProxyError {
        outcome: Outcome::Unknown,
        ..ProxyError::refused(
            ErrorCode::UpstreamTimeout,
            "the same auth_code is on its way already, and its reply did not come in time",
        )
    }
}

impl Login<'_> {
    /// Whoever asks for another merchant, or in another form, has no right to the same reply.
    fn key(&self, code: &Secret<String>) -> MemoKey {
        let merchant = self.known.merchant.as_deref();
        let merchant = merchant.map_or("", |merchant| merchant.auth_app_id.as_str());
        let app_id = self.known.app.app_id.as_str();
        MemoKey::new("login", &[app_id, merchant, self.route, code.expose()])
    }
}

/// Keeps the tokens that a verified success hands out. If they can't be stored, the reply goes to
/// its caller all the same: a code is good for one call.
pub(super) async fn keep(
    parts: &ProxyParts,
    (app, merchant): (&SigningApp, Option<&Merchant>),
    node: &[u8],
) {
    let users = parts.tokens.users();
    match users.absorb(app, merchant, node).await {
        Ok(()) => {}
        Err(error @ TokenError::Unstored) => {
            tracing::error!(%error, app_id = %app.app_id, "a user's tokens are not kept yet");
        }
        Err(error) => {
            tracing::error!(%error, app_id = %app.app_id, "a user's tokens could not be kept");
        }
    }
}

impl<T: Clone + Send + Sync + 'static> UnderWay<T> {
    /// Begins what isn't under way yet; else gives what is.
    fn join(&self, key: MemoKey) -> Result<Landing<T>, Flight<T>> {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(&key) {
            return Err(flight.clone());
        }
        let (done, result) = oneshot::channel();
        let flight = async move { result.await.ok() }.boxed().shared();
        flights.insert(key, flight);
        Ok(Landing {
            under_way: self.clone(),
            key,
            done: Some(done),
        })
    }
}

/// Takes a login off the list, also when it panicked.
struct Landing<T: Clone> {
    under_way: UnderWay<T>,
    key: MemoKey,
    done: Option<oneshot::Sender<Result<T, ProxyError>>>,
}

impl<T: Clone> Landing<T> {
    fn land(mut self, result: Result<T, ProxyError>) {
        let done = self.done.take();
        // First off the list, then told.
        drop(self);
        if let Some(done) = done {
            // Nobody may be waiting.
            let _ = done.send(result);
        }
    }
}

impl<T: Clone> Drop for Landing<T> {
    fn drop(&mut self) {
        let flights = self.under_way.0.lock();
        let mut flights = flights.unwrap_or_else(PoisonError::into_inner);
        flights.remove(&self.key);
    }
}

impl<T: Clone> Default for UnderWay<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: Clone> std::fmt::Debug for UnderWay<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("UnderWay")
    }
}

impl From<AuthCodeError> for ProxyError {
    fn from(error: AuthCodeError) -> Self {
        let code = match &error {
            AuthCodeError::Store(_) => ErrorCode::StoreUnavailable,
            _ => ErrorCode::ParameterInvalid,
        };
        Self::refused(code, error.to_string())
    }
}
