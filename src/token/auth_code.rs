//! A user's `auth_code` is sent to Alipay once: it is spent whether or not the call succeeds.
//!
//! Where users are remembered, that a code is about to be sent is durable before its first byte
//! leaves, so that no crash makes it be sent twice. Where they aren't, it is remembered in memory
//! alone: then a login needs no store, and a code sent again after a crash is refused by Alipay.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::model::id::AppId;
use crate::protocol::secret::Secret;
use crate::store::error::StoreError;
use crate::store::{Change, Effect, MemoKey};
use crate::token::TokenParts;

/// How long a code is remembered, milliseconds: as long as the longest-lived ones.
const REMEMBERED_MS: i64 = 24 * 3600 * 1000;
/// How many codes are remembered in memory; the oldest go beyond that.
const IN_MEMORY: usize = 100_000;
/// How long a call waits at least for its code to be given back: most often its deadline has passed
/// then, and who sends the code again at once should find it.
const GRACE: Duration = Duration::from_secs(1);

/// A code can't be sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthCodeError {
    /// It was sent before.
    #[error(
        "this auth_code was sent to Alipay before, and is good for one call whatever became of it; \
         let the user log in again"
    )]
    Spent,
    /// That it is about to be sent could not be made durable.
    #[error("the auth_code was not sent: {0}")]
    Store(#[from] StoreError),
}

/// The codes that were sent. Clones share them.
#[derive(Clone)]
pub struct AuthCodes {
    parts: Arc<TokenParts>,
    sent: Arc<Mutex<Sent>>,
}

#[derive(Default)]
struct Sent {
    known: HashSet<MemoKey>,
    /// By the time until which they are remembered.
    order: VecDeque<(i64, MemoKey)>,
    /// Those that nobody waits for any more, and that are still being noted or given back, each with how
    /// often: see [`Mark`].
    noting: HashMap<MemoKey, u32>,
}

/// Says, once it is set and until it is dropped, that a code is being noted or given back. Never dropped
/// under the lock.
struct Mark {
    sent: Arc<Mutex<Sent>>,
    key: MemoKey,
    is_set: AtomicBool,
}

/// A code that may be sent, once.
#[derive(Debug)]
#[must_use]
pub struct Spending(MemoKey);

impl AuthCodes {
    pub(super) fn new(parts: Arc<TokenParts>) -> Self {
        Self {
            parts,
            sent: Arc::default(),
        }
    }

    pub(super) fn reconfigured(&self, parts: Arc<TokenParts>) -> Self {
        Self {
            parts,
            sent: Arc::clone(&self.sent),
        }
    }

    /// Takes the one right to send `code`, if the store takes that by `until`.
    ///
    /// # Errors
    /// [`AuthCodeError`]: it may not be sent.
    ///
    /// # Cancel safety
    /// Who leaves gives the right back; where it was just got, the code may count as sent.
    pub(crate) async fn spend_by(
        &self,
        until: Instant,
        app_id: &AppId,
        code: &Secret<String>,
    ) -> Result<Spending, AuthCodeError> {
        if !self.parts.remember_users {
            return self.spend(app_id, code).await;
        }
        let late = || {
            let reason = "it took all the time there was".to_owned();
            StoreError::Unavailable { reason }
        };
        let key = key(app_id, code);
        let (codes, app_id, code) = (self.clone(), app_id.clone(), code.clone());
        let (taken, mut right) = oneshot::channel();
        let mark = Arc::new(Mark::new(&self.sent, key));
        let kept = Arc::clone(&mark);
        tokio::spawn(async move {
            let _kept = kept;
            let spent = codes.spend(&app_id, &code).await;
            // Nobody waits any more, and nothing was sent.
            if let Err(Ok(spending)) = taken.send(spent) {
                codes.give_back(spending).await;
            }
        });
        let spent = match tokio::time::timeout_at(until.into(), &mut right).await {
            Ok(spent) => spent.ok(),
            Err(_) => {
                // Under the lock, so that who sends the code meanwhile finds the mark.
                let mut sent = self.lock();
                right.close();
                // It may have come in this very moment.
                let spent = right.try_recv().ok();
                if spent.is_none() {
                    mark.set(&mut sent);
                }
                spent
            }
        };
        spent.unwrap_or_else(|| Err(late().into()))
    }

    /// Takes the one right to send `code`.
    ///
    /// # Errors
    /// [`AuthCodeError`]: it may not be sent.
    ///
    /// # Cancel safety
    /// Dropped in the middle, the code counts as sent.
    pub async fn spend(
        &self,
        app_id: &AppId,
        code: &Secret<String>,
    ) -> Result<Spending, AuthCodeError> {
        let key = key(app_id, code);
        let now = self.parts.clock.now_ms();
        let expires_at = now.saturating_add(REMEMBERED_MS);
        {
            let mut sent = self.lock();
            if sent.noting.contains_key(&key) {
                let reason = "whether this auth_code may be sent is still being noted".to_owned();
                return Err(StoreError::Unavailable { reason }.into());
            }
            if !sent.insert(key, (now, expires_at)) {
                return Err(AuthCodeError::Spent);
            }
        }
        if !self.parts.remember_users {
            return Ok(Spending(key));
        }
        let change = Change::Remember {
            key,
            value: Secret::new(Vec::new()),
            expires_at,
        };
        let committed = self.parts.store.commit(vec![change]).await;
        match committed.map(|effects| effects.into_iter().next()) {
            Ok(Some(Effect::Remembered(_))) => Err(AuthCodeError::Spent),
            Ok(_) => Ok(Spending(key)),
            Err(error) => {
                // It may be stored all the same; then a second try says so.
                self.lock().remove(&key);
                Err(error.into())
            }
        }
    }

    /// Gives the right back, and waits for that until then, a moment at least: nothing was sent.
    ///
    /// # Cancel safety
    /// Safe: it is given back all the same.
    pub(crate) async fn give_back_by(&self, until: Instant, spending: Spending) {
        if !self.parts.remember_users {
            return self.give_back(spending).await;
        }
        let codes = self.clone();
        // Who sends it meanwhile isn't told that it was sent.
        let mark = Mark::new(&self.sent, spending.0);
        mark.set(&mut self.lock());
        let giving = tokio::spawn(async move {
            let _mark = mark;
            codes.give_back(spending).await;
        });
        // It goes on by itself.
        let until = until.max(Instant::now() + GRACE);
        let _ = tokio::time::timeout_at(until.into(), giving).await;
    }

    /// Gives the right back: nothing was sent.
    ///
    /// # Cancel safety
    /// Dropped in the middle, the code may count as sent.
    pub async fn give_back(&self, Spending(key): Spending) {
        if self.parts.remember_users
            && let Err(error) = self.parts.store.commit(vec![Change::Unremember(key)]).await
        {
            tracing::warn!(%error, "an auth_code that was not sent counts as sent");
        }
        self.lock().remove(&key);
    }

    /// Nothing that can panic runs under the lock.
    fn lock(&self) -> MutexGuard<'_, Sent> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(app_id: &AppId, code: &Secret<String>) -> MemoKey {
    MemoKey::new("auth-code", &[app_id.as_str(), code.expose()])
}

impl std::fmt::Debug for AuthCodes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AuthCodes")
    }
}

impl Mark {
    fn new(sent: &Arc<Mutex<Sent>>, key: MemoKey) -> Self {
        Self {
            sent: Arc::clone(sent),
            key,
            is_set: AtomicBool::new(false),
        }
    }

    fn set(&self, sent: &mut Sent) {
        if !self.is_set.swap(true, Ordering::Relaxed) {
            *sent.noting.entry(self.key).or_default() += 1;
        }
    }
}

/// Takes its own mark away, also where what was done for it panicked.
impl Drop for Mark {
    fn drop(&mut self) {
        if !*self.is_set.get_mut() {
            return;
        }
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(marks) = sent.noting.get_mut(&self.key) {
            *marks -= 1;
            if *marks == 0 {
                sent.noting.remove(&self.key);
            }
        }
    }
}

impl Sent {
    /// Whether it is new.
    fn insert(&mut self, key: MemoKey, (now, expires_at): (i64, i64)) -> bool {
        while self.order.len() >= IN_MEMORY || self.order.front().is_some_and(|(at, _)| *at <= now)
        {
            if let Some((_, old)) = self.order.pop_front() {
                self.known.remove(&old);
            }
        }
        let is_new = self.known.insert(key);
        if is_new {
            self.order.push_back((expires_at, key));
        }
        is_new
    }

    fn remove(&mut self, key: &MemoKey) {
        self.known.remove(key);
        // A code that is given back was taken a moment ago.
        if let Some(at) = self.order.iter().rposition(|(_, other)| other == key) {
            self.order.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: usize) -> MemoKey {
        MemoKey::new("test", &[&n.to_string()])
    }

    #[test]
    fn a_code_is_new_once_until_its_time_is_over_or_it_is_given_back() {
        let mut sent = Sent::default();
        assert!(sent.insert(key(1), (0, 10)) && !sent.insert(key(1), (9, 19)));
        assert!(sent.insert(key(1), (10, 20)));
        sent.remove(&key(1));
        assert!(sent.insert(key(1), (11, 21)));
        assert_eq!((sent.known.len(), sent.order.len()), (1, 1));
    }

    #[test]
    fn a_mark_is_taken_away_by_whom_it_was_set_alone() {
        let sent = Arc::new(Mutex::new(Sent::default()));
        let is_marked = || sent.lock().expect("whole").noting.contains_key(&key(1));
        let [one, other, unset] = [(); 3].map(|()| Mark::new(&sent, key(1)));
        one.set(&mut sent.lock().expect("whole"));
        one.set(&mut sent.lock().expect("whole"));
        other.set(&mut sent.lock().expect("whole"));
        drop(unset);
        drop(other);
        assert!(is_marked());
        drop(one);
        assert!(!is_marked());
    }

    #[test]
    fn memory_is_bounded() {
        let mut sent = Sent::default();
        for n in 0..IN_MEMORY + 3 {
            assert!(sent.insert(key(n), (0, 10)));
        }
        assert_eq!((sent.known.len(), sent.order.len()), (IN_MEMORY, IN_MEMORY));
    }
}
