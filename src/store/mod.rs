//! Durable state: apps, merchants, the inbox and its deliveries.
//!
//! One [`Store`] trait stands before every kind of store. What changes together goes into one
//! [`Store::commit`], which is atomic and idempotent: after an error nobody knows whether it was
//! stored, so it must be safe to do again. [`Directory`] and [`Inbox`] are its read views, so that
//! a part that only looks merchants up can be given nothing more.

use std::collections::HashSet;

use futures_util::future::BoxFuture;

use crate::model::app::App;
use crate::model::call::{CallKey, CallRecord};
use crate::model::certificate::KeptCertificate;
use crate::model::delivery::{Delivery, DeliveryState};
use crate::model::id::{Alias, AppId, AuthAppId, EventId, Pid};
use crate::model::merchant::Merchant;
use crate::model::notification::InboxEntry;
use crate::model::refused::{RefusedNotification, Variant};
use crate::model::user_token::{UserKey, UserToken};
use crate::protocol::secret::Secret;

mod answers;
pub mod care;
mod change;
pub mod embedded;
pub mod error;
pub(crate) mod ownership;
pub mod seal;

pub use answers::{Backlog, Counts, DamagedMerchant, Due, Found, Mark, Parked, Pruned};
pub use change::{Change, Effect, Fate, MemoKey};

use care::{Inspection, RowStream, Stats};
use error::StoreError;

/// Durable state; see the module's page.
pub trait Store: Directory + Inbox {
    /// Makes all `changes` durable at once, or none of them, and tells the effect of each.
    ///
    /// Returns after the data is safe on disk. Commits of many callers share one disk write.
    /// Before anything is applied, every entry's `notify_id` and every [`Change::Remember`] is
    /// looked up: if one is known, nothing of the commit is applied and the effects say so.
    ///
    /// # Errors
    /// [`StoreError::TokenConflict`] and [`StoreError::AliasTaken`] apply nothing. After
    /// [`StoreError::Unavailable`] it is unknown whether the changes were stored; committing the
    /// same changes again is safe.
    ///
    /// # Cancel safety
    /// Dropping the future doesn't take the changes back.
    fn commit(&self, changes: Vec<Change>) -> BoxFuture<'_, Result<Vec<Effect>, StoreError>>;

    /// What was kept under `key` by [`Change::Remember`], unless it has expired at `now`.
    ///
    /// # Errors
    /// [`StoreError`] when the store can't be read.
    fn recall(
        &self,
        key: MemoKey,
        now: i64,
    ) -> BoxFuture<'_, Result<Option<Secret<Vec<u8>>>, StoreError>>;

    /// What became of a call, until [`KEPT_MS`](crate::model::call::KEPT_MS) after its end.
    ///
    /// # Errors
    /// [`StoreError`] when the store can't be read.
    fn call(&self, key: CallKey, now: i64)
    -> BoxFuture<'_, Result<Option<CallRecord>, StoreError>>;

    /// How much there is of everything, for metrics and readiness. Doesn't read records.
    ///
    /// # Errors
    /// [`StoreError`] when the store can't be read.
    fn counts(&self) -> BoxFuture<'_, Result<Counts, StoreError>>;

    /// How full the inbox and the quarantine are. Every notification asks: a store that can say
    /// without a look at the disk does.
    ///
    /// # Errors
    /// [`StoreError`] when the store can't be read.
    fn backlog(&self) -> BoxFuture<'_, Result<Backlog, StoreError>> {
        Box::pin(async { Ok(Backlog::from(self.counts().await?)) })
    }

    /// Forgets what is old at `now` (Unix milliseconds): delivered and ignored entries settled more
    /// than `retain_delivered_ms` ago, dead ones given up more than 30 days ago (until then they
    /// can be replayed), every `notify_id` received more than `retain_delivered_ms` ago, but seven
    /// days at the least, what was remembered until before `now`, what was refused more than 7
    /// days ago, records of calls older than a day, and users' tokens that have ended. What is
    /// pending stays.
    ///
    /// # Errors
    /// [`StoreError`] when the store can't be read or written; what was forgotten until then stays
    /// forgotten.
    ///
    /// # Cancel safety
    /// It works in small batches; dropping the future ends it after one of them.
    fn prune(
        &self,
        now: i64,
        retain_delivered_ms: i64,
    ) -> BoxFuture<'_, Result<Pruned, StoreError>>;

    /// Whether commits succeed at present: the last one did, and the disk isn't full. Where this says no, no
    /// token is bought that would have to be stored. Doesn't touch the disk.
    fn is_writable(&self) -> bool;

    /// A copy of everything, sealed as it is, from one snapshot, while commits go on.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the store can't be read, a copy or a check is under way
    /// already, or this kind of store leaves its care to others.
    ///
    /// # Cancel safety
    /// Dropping the stream ends the copy.
    fn backup(&self) -> BoxFuture<'_, Result<RowStream, StoreError>> {
        Box::pin(async { Err(elsewhere()) })
    }

    /// Reads every record and compares the indexes with them, on one snapshot, while commits go
    /// on.
    ///
    /// # Errors
    /// As [`Self::backup`].
    fn inspect(&self) -> BoxFuture<'_, Result<Inspection, StoreError>> {
        Box::pin(async { Err(elsewhere()) })
    }

    /// How large the store is, and what is in it. Looks at every page, so it may take seconds.
    ///
    /// # Errors
    /// As [`Self::backup`].
    fn stats(&self) -> BoxFuture<'_, Result<Stats, StoreError>> {
        Box::pin(async { Err(elsewhere()) })
    }
}

fn elsewhere() -> StoreError {
    StoreError::Unavailable {
        reason: "this kind of store isn't cared for by the sidecar; use its own tools".to_owned(),
    }
}

/// The read view of apps and merchants.
pub trait Directory: Send + Sync + 'static {
    /// The apps that live in the store, keys included, ordered by `app_id`.
    ///
    /// # Errors
    /// [`StoreError`] when the store can't be read.
    fn apps(&self) -> BoxFuture<'_, Result<Vec<App>, StoreError>>;

    /// The platform certificates that were fetched, of all apps.
    ///
    /// # Errors
    /// [`StoreError`] when the store can't be read.
    fn certificates(&self) -> BoxFuture<'_, Result<Vec<KeptCertificate>, StoreError>>;

    /// Every merchant record that `key` names, ordered by (`app_id`, `auth_app_id`).
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when one of them can't be read, another [`StoreError`] when the store
    /// can't be.
    fn find(&self, key: MerchantKey) -> BoxFuture<'_, Result<Vec<Merchant>, StoreError>>;

    /// The same where one that can't be read must not be in the way of the others: it is named
    /// beside them, so that nobody takes what is left for all there is.
    ///
    /// # Errors
    /// [`StoreError`] when the store can't be read.
    fn find_all(&self, key: MerchantKey) -> BoxFuture<'_, Result<Found, StoreError>> {
        Box::pin(async {
            let merchants = self.find(key).await?;
            Ok(Found {
                merchants,
                damaged: Vec::new(),
            })
        })
    }

    /// A page of all merchants, ordered by (`app_id`, `auth_app_id`), after the given one.
    ///
    /// # Errors
    /// [`StoreError`] when the store can't be read.
    fn merchants(
        &self,
        after: Option<(AppId, AuthAppId)>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Merchant>, StoreError>>;

    /// The same page, and beside it whose records were met on the way that can't be read.
    ///
    /// # Errors
    /// [`StoreError`] when the store can't be read.
    fn merchants_page(
        &self,
        after: Option<(AppId, AuthAppId)>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Found, StoreError>> {
        Box::pin(async move {
            let merchants = self.merchants(after, limit).await?;
            Ok(Found {
                merchants,
                damaged: Vec::new(),
            })
        })
    }

    /// How many merchants' records don't open or aren't understood: they are on no page.
    ///
    /// # Errors
    /// [`StoreError`] when the store can't be read.
    fn unreadable_merchants(&self) -> BoxFuture<'_, Result<u64, StoreError>>;

    /// The tokens of a user who logged in, and wasn't forgotten since.
    ///
    /// # Errors
    /// [`StoreError`] when the store can't be read.
    fn user(&self, key: UserKey) -> BoxFuture<'_, Result<Option<UserToken>, StoreError>>;
}

/// The read view of notifications and their deliveries.
pub trait Inbox: Send + Sync + 'static {
    /// One entry with its delivery.
    ///
    /// # Errors
    /// [`StoreError`] when the store can't be read.
    fn entry(
        &self,
        id: EventId,
    ) -> BoxFuture<'_, Result<Option<(InboxEntry, Delivery)>, StoreError>>;

    /// The entry that is known under a `notify_id` of Alipay's.
    ///
    /// # Errors
    /// [`StoreError`] when the store can't be read.
    fn known(
        &self,
        app_id: AppId,
        notify_id: String,
    ) -> BoxFuture<'_, Result<Option<EventId>, StoreError>>;

    /// A page of entries in order of receipt, after the given one, in one state or in all.
    ///
    /// # Errors
    /// [`StoreError`] when the store can't be read.
    fn entries(
        &self,
        state: Option<DeliveryState>,
        after: Option<EventId>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<(InboxEntry, Delivery)>, StoreError>>;

    /// A page of entries, the newest first, before the given one, in one state or in all.
    ///
    /// # Errors
    /// [`StoreError`] when the store can't be read.
    fn entries_before(
        &self,
        state: Option<DeliveryState>,
        before: Option<EventId>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<(InboxEntry, Delivery)>, StoreError>>;

    /// The deliveries that may be attempted at `now`, longest due first, at most `limit`; none of
    /// them waits for an earlier one with the same order key, but for one that no route fitted
    /// ([`Change::Park`]). Those in `but` are passed over as if
    /// they weren't there, and not read.
    ///
    /// # Errors
    /// [`StoreError`] when the store can't be read.
    fn due(
        &self,
        now: i64,
        limit: usize,
        but: HashSet<EventId>,
    ) -> BoxFuture<'_, Result<Due, StoreError>>;

    /// A page of the notifications that were refused, in order of receipt, after the given one.
    ///
    /// # Errors
    /// [`StoreError`] when the store can't be read.
    fn refused(
        &self,
        after: Option<EventId>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<RefusedNotification>, StoreError>>;

    /// The same, the newest first, before the given one.
    ///
    /// # Errors
    /// [`StoreError`] when the store can't be read.
    fn refused_before(
        &self,
        before: Option<EventId>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<RefusedNotification>, StoreError>>;

    /// One of them.
    ///
    /// # Errors
    /// [`StoreError`] when the store can't be read.
    fn refused_one(
        &self,
        id: EventId,
    ) -> BoxFuture<'_, Result<Option<RefusedNotification>, StoreError>>;

    /// What else came under the `notify_id` of the entry `of`, in order of receipt.
    ///
    /// # Errors
    /// [`StoreError`] when the store can't be read.
    fn variants(&self, of: EventId) -> BoxFuture<'_, Result<Vec<Variant>, StoreError>>;

    /// The deliveries that may be claimed at `now`, at most `limit`: first those that were parked,
    /// in order of receipt, then those that are due, as [`Inbox::due`] gives them; none of `but`.
    ///
    /// # Errors
    /// [`StoreError`] when the store can't be read.
    fn claimable(
        &self,
        now: i64,
        limit: usize,
        but: HashSet<EventId>,
    ) -> BoxFuture<'_, Result<Due, StoreError>> {
        self.claimable_after(None, (now, limit), but)
    }

    /// As [`Self::claimable`], from where an earlier look ended ([`Due::end`]): nothing before that
    /// is read.
    ///
    /// # Errors
    /// [`StoreError`] when the store can't be read.
    fn claimable_after(
        &self,
        after: Option<Mark>,
        at_most: (i64, usize),
        but: HashSet<EventId>,
    ) -> BoxFuture<'_, Result<Due, StoreError>>;

    /// Which deliveries are parked ([`Change::Park`]) that have an order key, in order of receipt,
    /// of the `limit` that are parked after the given one; none whose record can't be read, which is
    /// mended or moved aside.
    ///
    /// # Errors
    /// [`StoreError`] when the store can't be read.
    fn parked(
        &self,
        after: Option<EventId>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Parked, StoreError>>;

    /// The pending deliveries whose lease has ended at `now` and about which nothing was said, the
    /// longest ago first, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError`] when the store can't be read.
    fn lapsed(&self, now: i64, limit: usize) -> BoxFuture<'_, Result<Vec<Delivery>, StoreError>>;
}

/// By what a merchant is looked up.
#[derive(Debug, Clone)]
pub enum MerchantKey {
    /// The operator's name; one record per app can have it.
    Alias(Alias),
    /// The merchant's application; one record per app of ours.
    AuthAppId(AuthAppId),
    /// The exact record.
    Exact(AppId, AuthAppId),
    /// The merchant's user id; several of its applications may have authorised.
    Pid(Pid),
    /// Any `app_auth_token` the record ever had.
    Token(Secret<String>),
}
