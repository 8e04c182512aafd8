//! Durable state: apps, merchants, the inbox and its deliveries.
//!
//! One [`Store`] trait stands before every kind of store. What changes together goes into one
//! [`Store::commit`], which is atomic and idempotent: after an error nobody knows whether it was
//! stored, so it must be safe to do again. [`Directory`] and [`Inbox`] are its read views, so that
//! a part that only looks merchants up can be given nothing more.

use std::collections::HashSet;

use futures_util::future::BoxFuture;

use crate::model::app::App;
use crate::model::authorization::{Authorization, Refusal, Revocation};
use crate::model::call::{CallKey, CallRecord};
use crate::model::certificate::KeptCertificate;
use crate::model::delivery::{Attempt, Delivery, DeliveryState, Lease, Settlement};
use crate::model::id::{Alias, AppId, AuthAppId, EventId, Pid};
use crate::model::merchant::Merchant;
use crate::model::notification::InboxEntry;
use crate::model::refused::{RefusalKind, RefusedNotification, Variant};
use crate::model::user_token::{UserKey, UserToken};
use crate::protocol::secret::Secret;

pub mod care;
pub mod embedded;
pub mod error;
pub mod seal;

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

    /// Whether commits succeed at present; doesn't touch the disk.
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
    /// [`StoreError`] when the store can't be read.
    fn find(&self, key: MerchantKey) -> BoxFuture<'_, Result<Vec<Merchant>, StoreError>>;

    /// A page of all merchants, ordered by (`app_id`, `auth_app_id`), after the given one.
    ///
    /// # Errors
    /// [`StoreError`] when the store can't be read.
    fn merchants(
        &self,
        after: Option<(AppId, AuthAppId)>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Merchant>, StoreError>>;

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

    /// The deliveries that may be attempted at `now`, longest due first, at most `limit`; none of
    /// them waits for an earlier one with the same order key. Those in `but` are passed over as if
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
    ) -> BoxFuture<'_, Result<Due, StoreError>>;

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

/// One change; those of one commit happen together.
#[derive(Debug, Clone)]
pub enum Change {
    /// A notification that goes with the change before it in the same commit: owed to the backend
    /// where that was applied, else stored as ignored.
    Accompany(Box<InboxEntry>),
    /// An authorisation; applied only if newer, see [`Merchant::authorize`]. If `entry` is given
    /// and the authorisation is applied, it is stored with the authorisation event filled in and
    /// owed to the backend; if stale, it is stored as ignored when it came from Alipay (has a
    /// body) and dropped when it is an event of our own.
    Authorize {
        /// What was learned.
        authorization: Box<Authorization>,
        /// The inbox entry that goes with it.
        entry: Option<Box<InboxEntry>>,
    },
    /// Leases a delivery that may be attempted at `lease.since` to a backend that pulls: counts an
    /// attempt, and makes it due again when the lease ends. A lease that ended before is recorded.
    /// One that isn't pending, isn't due, or waits for an earlier one of its order key is stale.
    Claim {
        /// The entry.
        id: EventId,
        /// From now until when.
        lease: Lease,
    },
    /// Alipay refused a merchant's token; applied only if it tells something new, see
    /// [`Merchant::doubted`]. `entry` is stored with its event filled in where the merchant's status
    /// changes.
    Doubt {
        /// What was refused.
        refusal: Refusal,
        /// The inbox entry that goes with it.
        entry: Option<Box<InboxEntry>>,
    },
    /// Moves the end of a lease that hasn't ended at `now`; stale where there is none.
    Extend {
        /// The entry.
        id: EventId,
        /// Unix milliseconds.
        now: i64,
        /// When it ends from now on, Unix milliseconds.
        until: i64,
    },
    /// Keeps a merchant's AES key that Alipay told us. One that an operator gave stays (stale).
    FetchedKey {
        /// Our application.
        app_id: AppId,
        /// The merchant's application.
        auth_app_id: AuthAppId,
        /// The key, base64.
        encrypt_key: Secret<String>,
    },
    /// Fills in the PID of a merchant that has none; one that is known stays (stale).
    FillPid {
        /// Our application.
        app_id: AppId,
        /// The merchant's application.
        auth_app_id: AuthAppId,
        /// The merchant's user id.
        pid: Pid,
    },
    /// Forgets a user's tokens.
    ForgetUser {
        /// The user, by either name.
        key: UserKey,
        /// Only while this is the access token in force, else it is stale.
        only: Option<Secret<String>>,
    },
    /// Keeps a platform certificate, in the place of one with the same name.
    KeepCertificate(Box<KeptCertificate>),
    /// Keeps a user's tokens in the place of those kept before.
    KeepUserToken {
        /// What was bought.
        token: Box<UserToken>,
        /// Only while this is the access token in force, else it is stale.
        replaces: Option<Secret<String>>,
    },
    /// Keeps a second body beside the entry whose `notify_id` it came under, a few of each entry
    /// ([`Effect::Full`]) and each content once ([`Effect::Duplicate`]).
    KeepVariant {
        /// The entry.
        of: EventId,
        /// The body.
        variant: Box<Variant>,
    },
    /// Sets or clears the operator's name of a merchant.
    NameMerchant {
        /// Our application.
        app_id: AppId,
        /// The merchant's application.
        auth_app_id: AuthAppId,
        /// The new name.
        alias: Option<Alias>,
    },
    /// Puts a pending delivery off that no route fits, without an attempt; it can be claimed all
    /// the same. One that isn't pending stays as it is.
    Park {
        /// The entry.
        id: EventId,
        /// When it is due again, Unix milliseconds.
        until: i64,
    },
    /// Puts a pending delivery off, without an attempt. One that isn't pending stays as it is.
    Postpone {
        /// The entry.
        id: EventId,
        /// When it is due again, Unix milliseconds.
        until: i64,
    },
    /// Keeps an app in the store.
    PutApp(Box<App>),
    /// A notification or event that is owed to the backend.
    Receive(Box<InboxEntry>),
    /// Keeps what became of calls; the oldest go for it when there is no room.
    RecordCalls {
        /// The records.
        records: Vec<CallRecord>,
        /// How many bytes all of them may take.
        limit: u64,
    },
    /// Keeps a notification that was refused, if there is room: the store bounds their number and
    /// bytes, in all and of each network, by [`Bounds`](crate::model::quarantine::Bounds). One whose
    /// content is kept already joins it.
    Refuse(Box<RefusedNotification>),
    /// Says anew why a refused notification is refused.
    Rejudge {
        /// Which.
        id: EventId,
        /// Why.
        refusal: RefusalKind,
        /// The same in words.
        reason: String,
    },
    /// Takes a notification out of those refused.
    Release(EventId),
    /// Takes the one with this content out of those refused, if it is among them: it was accepted
    /// when it came again.
    ReleaseContent([u8; 32]),
    /// Keeps `value` under `key` until `expires_at`, if nothing is kept there yet.
    Remember {
        /// The key.
        key: MemoKey,
        /// What to keep.
        value: Secret<Vec<u8>>,
        /// When it may be forgotten, Unix milliseconds.
        expires_at: i64,
    },
    /// Forgets an app of the store, the platform certificates that were fetched for it, and every
    /// user's token of it.
    RemoveApp(AppId),
    /// Forgets a merchant and every token of it and of its users.
    RemoveMerchant(AppId, AuthAppId),
    /// Makes a delivery owed again, whatever its state; stale while somebody has it on lease.
    Replay {
        /// The entry.
        id: EventId,
        /// When, Unix milliseconds.
        now: i64,
    },
    /// A cancellation; applied only if newer, see [`Merchant::revoke`]. `entry` as in
    /// [`Change::Authorize`]. Of a merchant without a record its time is kept for 30 days, so that
    /// what it cancels is stale when it arrives at last.
    Revoke {
        /// What was cancelled.
        revocation: Revocation,
        /// The inbox entry that goes with it.
        entry: Option<Box<InboxEntry>>,
    },
    /// Records an attempt and what follows from it. Settling a delivery that isn't pending any
    /// more changes nothing, but that a backend that pulled a dead one may say that it is done.
    ///
    /// A pulled attempt was counted when it was claimed. One that failed is stale unless it is the
    /// lease that stands; one that ended well counts whatever became of its lease.
    ///
    /// A failure of what has become owed anew since it began is stale, too: it only joins the
    /// history.
    Settle {
        /// The entry.
        id: EventId,
        /// The attempt.
        attempt: Attempt,
        /// Since when the delivery was owed when the attempt began; `None` where it can't have
        /// become owed anew since.
        owed_since: Option<i64>,
        /// What follows.
        settlement: Settlement,
    },
    /// Alipay said that this token holds; see [`Merchant::trusted`].
    Trust {
        /// Our application.
        app_id: AppId,
        /// The merchant's application.
        auth_app_id: AuthAppId,
        /// What Alipay was asked about.
        app_auth_token: Secret<String>,
    },
    /// Forgets what [`Change::Remember`] keeps under the key.
    Unremember(MemoKey),
    /// A call with this token worked; see [`Merchant::worked`].
    Worked {
        /// Our application.
        app_id: AppId,
        /// The merchant's application.
        auth_app_id: AuthAppId,
        /// What the call was made with.
        app_auth_token: Secret<String>,
    },
}

/// What a change did.
#[derive(Debug, Clone)]
pub enum Effect {
    /// It was applied.
    Applied,
    /// It was applied, and so many records or refused notifications had to make room for it.
    Displaced(u64),
    /// An entry with this `notify_id` is known under the given id; nothing of the commit was
    /// applied.
    Duplicate(EventId),
    /// There is no room for it; it wasn't kept.
    Full,
    /// There is no such record; nothing to do.
    Missing,
    /// Something is kept under that key already; nothing of the commit was applied.
    Remembered(Secret<Vec<u8>>),
    /// A newer authorisation or cancellation is stored, or nothing new was told.
    Stale,
    /// Another change of the same commit is known already, so this one wasn't applied.
    Void,
}

/// The key of something kept for a while: a digest, so that no secret stands in an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MemoKey(pub [u8; 32]);

impl MemoKey {
    /// The key of `parts` under `purpose`; no two different lists give the same key.
    #[must_use]
    pub fn new(purpose: &str, parts: &[&str]) -> Self {
        use sha2::{Digest, Sha256};
        let mut hash = Sha256::new();
        for part in std::iter::once(&purpose).chain(parts) {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        Self(hash.finalize().into())
    }
}

/// Deliveries to attempt.
#[derive(Debug, Default)]
pub struct Due {
    /// What may be attempted now.
    pub now: Vec<(InboxEntry, Delivery)>,
    /// When the next one becomes due, Unix milliseconds, if any is pending beyond these.
    pub next_at: Option<i64>,
}

/// How much there is of everything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Damaged records that were moved aside.
    pub damaged: u64,
    /// Deliveries given up.
    pub dead: u64,
    /// Merchants whose authorisation stands beyond doubt.
    pub merchants_authorized: u64,
    /// Merchants that cancelled.
    pub merchants_revoked: u64,
    /// Merchants whose token Alipay refused, and that aren't known to have cancelled.
    pub merchants_suspect: u64,
    /// When the oldest pending entry was received, Unix milliseconds.
    pub oldest_pending_at: Option<i64>,
    /// Deliveries owed.
    pub pending: u64,
    /// Refused notifications that are kept.
    pub refused: u64,
}

/// How much was forgotten.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Records of calls.
    pub calls: u64,
    /// Inbox entries with their deliveries.
    pub entries: u64,
    /// Values kept by [`Change::Remember`].
    pub memos: u64,
    /// `notify_id`s of the de-duplication.
    pub notify_ids: u64,
    /// Refused notifications.
    pub refused: u64,
    /// Users' tokens, each name of a user counted.
    pub users: u64,
}
