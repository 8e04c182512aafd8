//! A merchant's AES key, which opens its users' client data, as Alipay tells it.
//!
//! Protocol: alipay.open.auth.app.aes.get(查询应用的AES密钥); “第三方代商家应用设置 AES 密钥”.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::flight::Flights;
use crate::model::merchant::Merchant;
use crate::store::error::StoreError;
use crate::store::{Change, MemoKey, MerchantKey};
use crate::token::error::TokenError;
use crate::token::lately::Hold;
use crate::token::{TokenParts, Tokens, calls};

/// How long Alipay isn't asked again about a merchant after a refusal, or after a key that opened
/// nothing: anybody with a mini program can have us ask. Milliseconds; as long as an operator who
/// has mended it may wait.
const PATIENCE_MS: i64 = 60_000;

/// A merchant's key couldn't be had. Cheap to clone: all who asked together get the same.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ContentKeyError {
    /// A bug ended the work.
    #[error("asking for it ended in a bug; see the log")]
    Internal,
    /// Alipay tells keys in encrypted calls alone, and the app has no key for those.
    #[error("Alipay tells it in an encrypted call alone, and app {app_id} has no `encrypt_key`")]
    NoOwnKey {
        /// Which app of ours.
        app_id: String,
    },
    /// Alipay said no, and signed it.
    #[error("Alipay was asked for it and refused: {sub_code} ({code})")]
    Refused {
        /// Alipay's `code`.
        code: String,
        /// Alipay's `sub_code`, empty where there is none.
        sub_code: String,
    },
    /// Alipay has no other key than the one that was stored.
    #[error("Alipay was asked for it and has no other than the one that opened nothing")]
    Same,
    /// The store couldn't be read or written.
    #[error("the store failed: {0}")]
    Store(Arc<StoreError>),
    /// Alipay couldn't be asked, or gave nothing usable.
    #[error("Alipay could not be asked for it: {0}")]
    Unanswered(TokenError),
}

impl From<TokenError> for ContentKeyError {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Refused { code, sub_code } => Self::Refused { code, sub_code },
            other => Self::Unanswered(other),
        }
    }
}

impl From<StoreError> for ContentKeyError {
    fn from(error: StoreError) -> Self {
        Self::Store(Arc::new(error))
    }
}

impl Tokens {
    /// Asks Alipay for the merchant's AES key (`alipay.open.auth.app.aes.get`), keeps it, and gives
    /// the record with it. Who asks while that is under way joins.
    ///
    /// `merchant` is the record as its caller knew it: where another key is stored by now, Alipay
    /// isn't asked. After an error it isn't asked about this merchant for a minute.
    ///
    /// # Errors
    /// [`ContentKeyError`].
    ///
    /// # Cancel safety
    /// Safe: the work goes on in a task of its own.
    pub async fn content_key(&self, merchant: &Merchant) -> Result<Merchant, ContentKeyError> {
        let parts = Arc::clone(&self.parts);
        self.content_keys.fetch(parts, merchant.clone()).await
    }
}

/// What is fetched at present, and about whom Alipay isn't asked for now. Clones share it.
#[derive(Clone)]
pub(super) struct ContentKeys {
    flights: Flights<MemoKey, Result<Merchant, ContentKeyError>>,
    refused: Arc<Mutex<HashMap<MemoKey, Refused>>>,
}

/// Why Alipay isn't asked.
struct Refused {
    hold: Hold,
    error: ContentKeyError,
}

impl ContentKeys {
    pub(super) fn new() -> Self {
        Self {
            flights: Flights::new(),
            refused: Arc::default(),
        }
    }

    /// Fetches the key and gives the record with it. `known` is the record as its caller knew it:
    /// where another key is stored by now, that one is given.
    pub(super) async fn fetch(
        &self,
        parts: Arc<TokenParts>,
        known: Merchant,
    ) -> Result<Merchant, ContentKeyError> {
        let (app_id, auth_app_id) = (known.app_id.as_str(), known.auth_app_id.as_str());
        let key = MemoKey::new("content-key", &[app_id, auth_app_id]);
        if let Some(error) = self.refusal(key, parts.clock.now_ms()) {
            return Err(error);
        }
        if calls::app(&parts, &known.app_id)?.content_key().is_none() {
            return Err(ContentKeyError::NoOwnKey {
                app_id: app_id.to_owned(),
            });
        }
        let keys = self.clone();
        let work = async move {
            let result = run(&parts, &known).await;
            if let Err(error) = &result {
                keys.refuse(key, parts.clock.now_ms(), error.clone());
            }
            result
        };
        let result = self.flights.run(key, work).await;
        result.unwrap_or(Err(ContentKeyError::Internal))
    }

    /// Ends once nothing is under way.
    pub(super) async fn landed(&self) {
        self.flights.landed().await;
    }

    fn refusal(&self, key: MemoKey, now: i64) -> Option<ContentKeyError> {
        // Held for a look-up; a poisoned one still is such a map.
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let found = refused
            .get(&key)
            .filter(|refused| refused.hold.holds_at(now))?;
        Some(found.error.clone())
    }

    fn refuse(&self, key: MemoKey, now: i64, error: ContentKeyError) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.retain(|_, refused| refused.hold.holds_at(now));
        let hold = Hold::new(now, PATIENCE_MS);
        refused.insert(key, Refused { hold, error });
    }
}

async fn run(parts: &TokenParts, known: &Merchant) -> Result<Merchant, ContentKeyError> {
    let key = || MerchantKey::Exact(known.app_id.clone(), known.auth_app_id.clone());
    let stored = parts.store.find(key()).await?.pop();
    let stored = stored.unwrap_or_else(|| known.clone());
    if stored.encrypt_key.is_some() && stored.encrypt_key != known.encrypt_key {
        return Ok(stored);
    }
    let encrypt_key = calls::content_key(parts, known).await?;
    if stored.encrypt_key.as_ref() == Some(&encrypt_key) {
        return Err(ContentKeyError::Same);
    }
    let change = Change::FetchedKey {
        app_id: known.app_id.clone(),
        auth_app_id: known.auth_app_id.clone(),
        encrypt_key,
    };
    parts.store.commit(vec![change]).await?;
    let keyed = parts.store.find(key()).await?.pop();
    keyed
        .filter(|merchant| merchant.encrypt_key.is_some())
        .ok_or(ContentKeyError::Internal)
}
