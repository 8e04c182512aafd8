//! The store's traits: each question goes to a reader, each change to the writer.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use crate::model::app::App;
use crate::model::call::{CallKey, CallRecord};
use crate::model::certificate::KeptCertificate;
use crate::model::delivery::{Delivery, DeliveryState};
use crate::model::id::{AppId, AuthAppId, EventId};
use crate::model::merchant::Merchant;
use crate::model::notification::InboxEntry;
use crate::model::refused::{RefusedNotification, Variant};
use crate::model::user_token::{UserKey, UserToken};
use crate::protocol::secret::Secret;
use crate::store::care::{Inspection, RowStream, Stats};
use crate::store::error::StoreError;
use crate::store::{
    Backlog, Change, Counts, Directory, Due, Effect, Found, Inbox, Mark, MemoKey, MerchantKey,
    Parked, Pruned, Store,
};

use super::EmbeddedStore;
use super::lookup::MerchantId;
use super::prune::Batch;
use super::read_inbox::Walk;
use super::writer::{Commit, Job, Prune};

impl Store for EmbeddedStore {
    fn commit(&self, changes: Vec<Change>) -> BoxFuture<'_, Result<Vec<Effect>, StoreError>> {
        self.write(|reply| Job::Commit(Commit { changes, reply }))
            .boxed()
    }

    fn recall(
        &self,
        key: MemoKey,
        now: i64,
    ) -> BoxFuture<'_, Result<Option<Secret<Vec<u8>>>, StoreError>> {
        self.look_up(move |reader| reader.recall(key, now)).boxed()
    }

    fn call(
        &self,
        key: CallKey,
        now: i64,
    ) -> BoxFuture<'_, Result<Option<CallRecord>, StoreError>> {
        self.read(move |reader| reader.call(&key, now)).boxed()
    }

    fn counts(&self) -> BoxFuture<'_, Result<Counts, StoreError>> {
        self.read(|reader| reader.counts()).boxed()
    }

    fn backlog(&self) -> BoxFuture<'_, Result<Backlog, StoreError>> {
        match self.0.shared.backlog() {
            Some(backlog) => std::future::ready(Ok(backlog)).boxed(),
            // It was just opened, and the writer has said nothing yet.
            None => async { Ok(self.counts().await?.into()) }.boxed(),
        }
    }

    fn prune(
        &self,
        now: i64,
        retain_delivered_ms: i64,
    ) -> BoxFuture<'_, Result<Pruned, StoreError>> {
        async move {
            let mut total = Pruned::default();
            loop {
                let batch = self.write(|reply| {
                    Job::Prune(Prune {
                        now,
                        retain_delivered_ms,
                        reply,
                    })
                });
                let (pruned, batch) = batch.await?;
                total.calls += pruned.calls;
                total.entries += pruned.entries;
                total.memos += pruned.memos;
                total.notify_ids += pruned.notify_ids;
                total.refused += pruned.refused;
                total.users += pruned.users;
                if batch == Batch::Last {
                    return Ok(total);
                }
            }
        }
        .boxed()
    }

    fn is_writable(&self) -> bool {
        self.0.shared.is_writable()
    }

    fn backup(&self) -> BoxFuture<'_, Result<RowStream, StoreError>> {
        let shared = Arc::clone(&self.0.shared);
        async move { self.0.long_read.backup(shared) }.boxed()
    }

    fn inspect(&self) -> BoxFuture<'_, Result<Inspection, StoreError>> {
        let shared = Arc::clone(&self.0.shared);
        self.0.long_read.inspect(shared).boxed()
    }

    fn stats(&self) -> BoxFuture<'_, Result<Stats, StoreError>> {
        let shared = Arc::clone(&self.0.shared);
        self.0.long_read.stats(shared).boxed()
    }
}

impl Directory for EmbeddedStore {
    fn apps(&self) -> BoxFuture<'_, Result<Vec<App>, StoreError>> {
        self.read(|reader| reader.apps()).boxed()
    }

    fn certificates(&self) -> BoxFuture<'_, Result<Vec<KeptCertificate>, StoreError>> {
        self.read(|reader| reader.certificates()).boxed()
    }

    fn find(&self, key: MerchantKey) -> BoxFuture<'_, Result<Vec<Merchant>, StoreError>> {
        self.look_up(move |reader| reader.find(&key)).boxed()
    }

    fn find_all(&self, key: MerchantKey) -> BoxFuture<'_, Result<Found, StoreError>> {
        self.look_up(move |reader| reader.find_all(&key)).boxed()
    }

    fn merchants(
        &self,
        after: Option<(AppId, AuthAppId)>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Merchant>, StoreError>> {
        let page = self.merchants_page(after, limit);
        async { Ok(page.await?.merchants) }.boxed()
    }

    fn merchants_page(
        &self,
        after: Option<(AppId, AuthAppId)>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Found, StoreError>> {
        let after = after.map(|(app_id, auth_app_id)| MerchantId {
            app_id,
            auth_app_id,
        });
        self.read(move |reader| reader.merchants(after.as_ref(), limit))
            .boxed()
    }

    fn unreadable_merchants(&self) -> BoxFuture<'_, Result<u64, StoreError>> {
        self.read(|reader| reader.unreadable_merchants()).boxed()
    }

    fn user(&self, key: UserKey) -> BoxFuture<'_, Result<Option<UserToken>, StoreError>> {
        self.look_up(move |reader| reader.user(&key)).boxed()
    }
}

impl Inbox for EmbeddedStore {
    fn entry(
        &self,
        id: EventId,
    ) -> BoxFuture<'_, Result<Option<(InboxEntry, Delivery)>, StoreError>> {
        self.read(move |reader| reader.entry(id)).boxed()
    }

    fn known(&self, app: AppId, id: String) -> BoxFuture<'_, Result<Option<EventId>, StoreError>> {
        self.look_up(move |reader| reader.known(&app, &id)).boxed()
    }

    fn entries(
        &self,
        state: Option<DeliveryState>,
        after: Option<EventId>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<(InboxEntry, Delivery)>, StoreError>> {
        self.read(move |reader| reader.entries(state, Walk::After(after), limit))
            .boxed()
    }

    fn entries_before(
        &self,
        state: Option<DeliveryState>,
        before: Option<EventId>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<(InboxEntry, Delivery)>, StoreError>> {
        self.read(move |reader| reader.entries(state, Walk::Before(before), limit))
            .boxed()
    }

    fn due(
        &self,
        now: i64,
        limit: usize,
        but: HashSet<EventId>,
    ) -> BoxFuture<'_, Result<Due, StoreError>> {
        self.due_by(move |reader| reader.due(now, limit, &but))
            .boxed()
    }

    fn refused(
        &self,
        after: Option<EventId>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<RefusedNotification>, StoreError>> {
        self.read(move |reader| reader.refused(Walk::After(after), limit))
            .boxed()
    }

    fn refused_before(
        &self,
        before: Option<EventId>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<RefusedNotification>, StoreError>> {
        self.read(move |reader| reader.refused(Walk::Before(before), limit))
            .boxed()
    }

    fn refused_one(
        &self,
        id: EventId,
    ) -> BoxFuture<'_, Result<Option<RefusedNotification>, StoreError>> {
        self.read(move |reader| reader.refused_one(id)).boxed()
    }

    fn variants(&self, of: EventId) -> BoxFuture<'_, Result<Vec<Variant>, StoreError>> {
        self.read(move |reader| reader.variants(of)).boxed()
    }

    fn parked(
        &self,
        after: Option<EventId>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Parked, StoreError>> {
        let parked = self.read(move |reader| reader.parked(Walk::After(after), limit));
        self.but_for_suspects(parked).boxed()
    }

    fn claimable_after(
        &self,
        after: Option<Mark>,
        at_most: (i64, usize),
        but: HashSet<EventId>,
    ) -> BoxFuture<'_, Result<Due, StoreError>> {
        self.due_by(move |reader| reader.claimable(after, at_most, but.clone()))
            .boxed()
    }

    fn lapsed(&self, now: i64, limit: usize) -> BoxFuture<'_, Result<Vec<Delivery>, StoreError>> {
        self.read(move |reader| reader.lapsed(now, limit)).boxed()
    }
}
