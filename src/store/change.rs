//! What can be committed to a store, and what came of it.

use crate::model::app::App;
use crate::model::authorization::{Authorization, Refusal, Revocation};
use crate::model::call::CallRecord;
use crate::model::certificate::KeptCertificate;
use crate::model::delivery::{Attempt, Lease, Settlement};
use crate::model::id::{Alias, AppId, AuthAppId, EventId, Pid};
use crate::model::notification::InboxEntry;
use crate::model::refused::{RefusalKind, RefusedNotification, Variant};
use crate::model::user_token::{UserKey, UserToken};
use crate::protocol::secret::Secret;

/// One change; those of one commit happen together.
#[derive(Debug, Clone)]
pub enum Change {
    /// A notification that goes with the change before it in the same commit: owed to the backend
    /// where that was applied, else stored as ignored.
    Accompany(Box<InboxEntry>),
    /// An authorisation; applied only if newer, see [`Merchant::authorize`](crate::model::merchant::Merchant::authorize). If `entry` is given
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
    /// [`Merchant::doubted`](crate::model::merchant::Merchant::doubted). `entry` is stored with its event filled in where the merchant's status
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
        /// Only if it was obtained no later than this, else it is stale; milliseconds since 1970.
        obtained_until: Option<i64>,
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
    /// What is told together with an authorisation, the last one before it in the same commit: doubts,
    /// cancellations and fetched keys (anything else in it is stale). Applied where one of them is.
    OfAuthorization {
        /// When it counts.
        fate: Fate,
        /// What is told.
        changes: Vec<Self>,
    },
    /// Puts a pending delivery off that no route fits, without an attempt; it can be claimed all
    /// the same. Until it is put off otherwise, attempted or replayed it holds up none of
    /// its order that may be attempted, and none of those holds it up; who claims gets all in their
    /// order. One that isn't pending stays as it is.
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
    /// A cancellation; applied only if newer, see [`Merchant::revoke`](crate::model::merchant::Merchant::revoke). `entry` as in
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
    /// Alipay said that this token holds; see [`Merchant::trusted`](crate::model::merchant::Merchant::trusted).
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
    /// A call with this token worked; see [`Merchant::worked`](crate::model::merchant::Merchant::worked).
    Worked {
        /// Our application.
        app_id: AppId,
        /// The merchant's application.
        auth_app_id: AuthAppId,
        /// What the call was made with.
        app_auth_token: Secret<String>,
    },
}

/// When what is told together with an authorisation counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Where the authorisation was applied.
    Applied,
    /// There, and where the record has this very one: what was told of it later can't have been
    /// overcome since.
    InForce,
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
///
/// It isn't keyed, so that whoever has the file can try what he guesses. Of what it is made of, a part can't be
/// guessed (a code, a state, a notification whole), or all of it is worth nothing: ids, fingerprints of public keys.
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

    /// Under what the store keeps the time of a [`Change::Revoke`] of a merchant without a record:
    /// Unix milliseconds in 8 bytes, big-endian.
    #[must_use]
    pub fn cancelled(app_id: &AppId, auth_app_id: &AuthAppId) -> Self {
        Self::new("cancelled", &[app_id.as_str(), auth_app_id.as_str()])
    }
}
