//! One `app_auth_code` becomes stored tokens, once.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::gateway::app::SigningApp;
use crate::model::authorization::Source;
use crate::model::id::{AppId, AuthAppId};
use crate::model::merchant::Merchant;
use crate::protocol::secret::Secret;
use crate::store::error::StoreError;
use crate::store::{Change, MemoKey, MerchantKey};
use crate::token::calls::{self, Grant};
use crate::token::error::TokenError;
use crate::token::storing::{self, Found};
use crate::token::{TokenParts, Tokens};

/// How long a code gives the same answer again, milliseconds: as long as Alipay's codes live.
const REMEMBERED_MS: i64 = 24 * 3600 * 1000;
/// How many codes are exchanged at once. The callback is open to the world, and whoever sends it
/// rubbish has us ask Alipay, whose patience with an app is limited, too.
pub(super) const EXCHANGES: usize = 16;
/// How long a code that Alipay refused isn't sent again, milliseconds.
const REFUSED_MS: i64 = 600_000;
/// How many of those are remembered.
pub(super) const REFUSED: usize = 10_000;
/// The longest code that is sent to Alipay, characters; real ones have 32 to 40.
const LONGEST_CODE: usize = 256;

/// What is known about whose authorisation an exchange is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExchangeContext {
    /// The ISV's own tenant id, from the link's `ref=`.
    pub reference: Option<String>,
    /// Whether a `state` of ours named who began it.
    pub bound: bool,
}

/// With what a code came that was exchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CameWith {
    /// Without a `state`.
    Nothing,
    /// With the `state` of this digest.
    State(MemoKey),
    /// Nobody knows: it is under way, an operator brought it, or it was noted by a version that didn't note
    /// this.
    Unknown,
}

/// What a code gave.
#[derive(Debug, Clone)]
pub struct Exchanged {
    /// Who authorised.
    pub merchants: Vec<Merchant>,
    /// With what the code came when it was exchanged.
    pub came_with: CameWith,
}

impl Exchanged {
    /// Whether it may be answered to who brings the code with `state`: what others brought it with names
    /// another tenant, or none.
    #[must_use]
    pub fn answers(&self, state: CameWith) -> bool {
        self.came_with == CameWith::Unknown || self.came_with == state
    }

    /// What was bought by a backend's own call, which brings no code that a callback asks for: its flight has
    /// a name of another kind, so that no callback joins it and is answered by this.
    pub(super) fn by_somebody(merchants: Vec<Merchant>) -> Self {
        Self {
            merchants,
            came_with: CameWith::Unknown,
        }
    }
}

impl Tokens {
    /// Exchanges an `app_auth_code` and stores every token it gives, in one commit.
    ///
    /// The same code again gives the same merchants for 24 h without asking Alipay; who asks
    /// while it is under way joins. A code is good for one exchange, so a lost answer is an error
    /// whose outcome is unknown, and never a second try.
    ///
    /// # Errors
    /// [`TokenError`]; [`TokenError::may_be_about_code`] tells a bad code from an Alipay that couldn't
    /// be asked, or doesn't let the app ask.
    ///
    /// # Cancel safety
    /// Safe: the exchange goes on in a task of its own.
    pub async fn exchange(
        &self,
        app: &Arc<SigningApp>,
        code: &Secret<String>,
        context: ExchangeContext,
    ) -> Result<Vec<Merchant>, TokenError> {
        // An operator's word is of no browser: one whose state is bound to the code may still come back.
        let how = (context, CameWith::Unknown);
        let exchanged = self.exchange_in(None, (app, code), how).await?;
        Ok(exchanged.merchants)
    }

    /// Whether a code was exchanged before, so that it gives its merchants again without a question
    /// to Alipay.
    ///
    /// # Errors
    /// The store's.
    ///
    /// # Cancel safety
    /// Safe: it only reads.
    pub async fn is_exchanged(
        &self,
        app: &SigningApp,
        code: &Secret<String>,
    ) -> Result<bool, StoreError> {
        let (key, now) = (key(&app.app_id, code), self.parts.clock.now_ms());
        Ok(self.parts.store.recall(key, now).await?.is_some())
    }

    /// With what a code came that was exchanged before, or is being exchanged; `None`: it wasn't, and isn't.
    ///
    /// # Errors
    /// The store's.
    ///
    /// # Cancel safety
    /// Safe: it only reads.
    pub async fn came_with(
        &self,
        app: &SigningApp,
        code: &Secret<String>,
    ) -> Result<Option<CameWith>, StoreError> {
        let (key, now) = (key(&app.app_id, code), self.parts.clock.now_ms());
        // First: what ends meanwhile is remembered then.
        let is_under_way = self.exchanges.is_under_way(&key);
        let kept = self.parts.store.recall(key, now).await?;
        let kept = kept.map(|kept| CameWith::of_memo(&text(&kept)));
        Ok(kept.or_else(|| is_under_way.then_some(CameWith::Unknown)))
    }

    /// Whether Alipay would be asked about `code`: what can't be one is refused at once.
    #[must_use]
    pub fn may_be_code(code: &Secret<String>) -> bool {
        check_code(code).is_ok()
    }

    /// The right to one exchange, for who has something to do first that must not be done in vain.
    ///
    /// # Errors
    /// [`TokenError::Overloaded`].
    pub fn slot(&self) -> Result<Slot, TokenError> {
        Slot::take(&self.slots)
    }

    /// As [`Tokens::exchange`], with the right to it that was taken before, if one was; and tells with what
    /// the code came that was exchanged: maybe it was somebody else's.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Cancel safety
    /// As there.
    pub async fn exchange_in(
        &self,
        slot: Option<Slot>,
        (app, code): (&Arc<SigningApp>, &Secret<String>),
        how: (ExchangeContext, CameWith),
    ) -> Result<Exchanged, TokenError> {
        check_code(code)?;
        let key = key(&app.app_id, code);
        let now = self.parts.clock.now_ms();
        if let Some(error) = self.refused.get(&key, now) {
            return Err(error);
        }
        let (parts, app, code) = (Arc::clone(&self.parts), Arc::clone(app), code.clone());
        let (slots, refused) = (Arc::clone(&self.slots), self.refused.clone());
        let work = async move {
            let result = run(&parts, (&slots, slot), (&app, &code), how).await;
            if let Err(error) = &result
                && is_about_code(error)
            {
                refused.put(key, error.clone(), now, REFUSED_MS);
            }
            result
        };
        let landed = self.exchanges.run(key, work);
        self.unless_unstored(landed).await
    }
}

/// Refuses what can't be a code before it costs a signature.
fn check_code(code: &Secret<String>) -> Result<(), TokenError> {
    let text = code.expose();
    let fits = (1..=LONGEST_CODE).contains(&text.len());
    if fits && text.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(());
    }
    Err(TokenError::CodeInvalid {
        found: text.chars().count(),
        most: LONGEST_CODE,
    })
}

/// Under what an exchange is known.
fn key(app_id: &AppId, code: &Secret<String>) -> MemoKey {
    MemoKey::new("exchange", &[app_id.as_str(), code.expose()])
}

/// The right to one of the exchanges that are made at once.
#[derive(Debug)]
pub struct Slot {
    _permit: OwnedSemaphorePermit,
}

impl Slot {
    fn take(slots: &Arc<Semaphore>) -> Result<Self, TokenError> {
        let permit = Arc::clone(slots).try_acquire_owned();
        let slot = permit.map(|permit| Self { _permit: permit });
        slot.map_err(|_| TokenError::Overloaded)
    }
}

/// Whether Alipay refused the code itself: then it refuses it again.
fn is_about_code(error: &TokenError) -> bool {
    matches!(error, TokenError::Refused { sub_code, .. } if sub_code.contains("code"))
}

async fn run(
    parts: &TokenParts,
    (slots, slot): (&Arc<Semaphore>, Option<Slot>),
    (app, code): (&Arc<SigningApp>, &Secret<String>),
    (context, came_with): (ExchangeContext, CameWith),
) -> Result<Exchanged, TokenError> {
    let key = key(&app.app_id, code);
    let now = parts.clock.now_ms();
    if let Some(known) = parts.store.recall(key, now).await? {
        return remembered(parts, &app.app_id, &text(&known)).await;
    }
    let _slot = match slot {
        Some(slot) => slot,
        None => Slot::take(slots)?,
    };
    storing::check_writable(parts)?;
    let grant = Grant::AuthorizationCode {
        code: code.expose(),
    };
    let granted = calls::buy(parts, app, &grant).await?.granted()?;
    let ids = granted.iter().map(|g| g.auth_app_id.clone());
    let words: Vec<String> = ids.chain(came_with.word()).collect();
    let remember = Change::Remember {
        key,
        value: Secret::new(words.join(" ").into_bytes()),
        expires_at: now.saturating_add(REMEMBERED_MS),
    };
    let found = Found {
        app_id: &app.app_id,
        source: Source::Callback,
        renewal: None,
        context: &context,
    };
    let stored = storing::store(parts, &found, granted, Some(remember)).await?;
    Ok(Exchanged {
        merchants: stored.merchants,
        came_with,
    })
}

/// An exchange that was made before: what is remembered are the merchants' ids, and with what the code came.
async fn remembered(
    parts: &TokenParts,
    app_id: &AppId,
    memo: &str,
) -> Result<Exchanged, TokenError> {
    let mut merchants = Vec::new();
    // What isn't an id is the word behind them.
    for id in memo.split(' ').filter_map(|id| AuthAppId::new(id).ok()) {
        let key = MerchantKey::Exact(app_id.clone(), id);
        merchants.extend(parts.store.find(key).await?);
    }
    Ok(Exchanged {
        merchants,
        came_with: CameWith::of_memo(memo),
    })
}

fn text(memo: &Secret<Vec<u8>>) -> String {
    String::from_utf8_lossy(memo.expose()).into_owned()
}

/// What stands behind the ids where a code came without a state.
const NOTHING: &str = "-";

impl CameWith {
    /// What is remembered of it, behind the ids: none has its form, so that a version that knows of ids alone
    /// passes it over.
    fn word(self) -> Option<String> {
        match self {
            Self::Nothing => Some(NOTHING.to_owned()),
            Self::State(MemoKey(digest)) => Some(URL_SAFE_NO_PAD.encode(digest)),
            Self::Unknown => None,
        }
    }

    fn of_memo(memo: &str) -> Self {
        let last = memo.rsplit(' ').next().unwrap_or_default();
        if last == NOTHING {
            return Self::Nothing;
        }
        // The digest has more characters than an id may have.
        let digest = URL_SAFE_NO_PAD.decode(last).ok();
        let digest = digest.and_then(|digest| digest.try_into().ok());
        digest.map_or(Self::Unknown, |digest| Self::State(MemoKey(digest)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_a_code_is_not_sent() {
        let check = |code: &str| check_code(&Secret::new(code.to_owned()));
        assert!(check("ca34ea491e7146cc87d25fca24c4cD11").is_ok());
        for bad in ["", "a b", "a\n", "代码", &"x".repeat(257)] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_memo_tells_with_what_its_code_came() {
        let longest = "A".repeat(32);
        let state = CameWith::State(MemoKey::new("auth-state", &["x"]));
        for came_with in [CameWith::Nothing, CameWith::Unknown, state] {
            for ids in [vec![], vec!["2021000000001001"], vec!["1", &longest]] {
                let words = ids.iter().map(|id| (*id).to_owned());
                let words: Vec<_> = words.chain(came_with.word()).collect();
                let memo = words.join(" ");
                assert_eq!(CameWith::of_memo(&memo), came_with, "{memo}");
                let found = memo.split(' ').filter(|id| AuthAppId::new(id).is_ok());
                assert_eq!(found.collect::<Vec<_>>(), ids, "{memo}");
            }
        }
    }
}
