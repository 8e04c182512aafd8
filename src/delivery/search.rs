//! One pass over the inbox, for whoever may be given the events of some merchants alone.
//!
//! However much of others is due, it is in nobody's way: the pass goes page by page, each in a turn
//! of its own, begins each where the last one ended, and looks each merchant up once.

use std::collections::{HashMap, HashSet};

use crate::delivery::whose::{Known, Owner, Whose};
use crate::model::id::{AppId, AuthAppId, EventId};
use crate::model::notification::InboxEntry;
use crate::store::error::StoreError;
use crate::store::{Due, Mark, MerchantKey, Store};

/// How many entries are read in one turn.
const PAGE: usize = 100;

/// Where a pass is, and whom it met.
pub(super) struct Search<'a> {
    store: &'a dyn Store,
    whose: &'a Whose,
    after: Option<Mark>,
    merchants: HashMap<(AppId, AuthAppId), Known>,
    passed_over: usize,
}

impl<'a> Search<'a> {
    /// A pass from the beginning.
    pub(super) fn new(store: &'a dyn Store, whose: &'a Whose) -> Self {
        Self {
            store,
            whose,
            after: None,
            merchants: HashMap::new(),
            passed_over: 0,
        }
    }

    /// What may be given, at most `max`, of the next entries that may be claimed. Whoever gets
    /// everybody's has what there is in one page.
    pub(super) async fn page(
        &mut self,
        (now, max): (i64, usize),
        but: HashSet<EventId>,
    ) -> Result<Due, StoreError> {
        if matches!(self.whose, Whose::Everybodys) {
            return self.store.claimable(now, max, but).await;
        }
        let page = self.store.claimable_after(self.after, (now, PAGE), but);
        let page = page.await?;
        self.after = page.end;
        let mut given = Vec::new();
        for (entry, delivery) in page.now {
            match self.gives(&entry).await? {
                true if given.len() < max => given.push((entry, delivery)),
                true => {}
                false => self.passed_over = self.passed_over.saturating_add(1),
            }
        }
        Ok(Due {
            now: given,
            next_at: page.next_at,
            end: page.end,
        })
    }

    /// Whether nothing is left to look at.
    pub(super) fn is_over(&self) -> bool {
        self.after.is_none()
    }

    /// Whether anything was passed over.
    pub(super) fn met_others(&self) -> bool {
        self.passed_over > 0
    }

    /// Whether it was more than a page, so that another pass had better wait.
    pub(super) fn was_long(&self) -> bool {
        self.passed_over > PAGE
    }

    /// Whether an entry may be given.
    pub(super) async fn gives(&mut self, entry: &InboxEntry) -> Result<bool, StoreError> {
        let whose = self.whose;
        let Whose::Of(is_given) = whose else {
            return Ok(true);
        };
        let Some(auth_app_id) = &entry.auth_app_id else {
            return Ok(is_given(&Owner::of(entry, None)));
        };
        let key = (entry.app_id.clone(), auth_app_id.clone());
        if let Some(known) = self.merchants.get(&key) {
            return Ok(is_given(&Owner::of(entry, Some(known))));
        }
        let exact = MerchantKey::Exact(key.0.clone(), key.1.clone());
        let known = match self.store.find(exact).await {
            Ok(mut found) => found.pop().map(Known::from).unwrap_or_default(),
            // One damaged record holds up nobody else's; who isn't known is given nothing by it.
            Err(error @ StoreError::Damaged { .. }) => {
                tracing::error!(%error, "the merchant of an event can't be read");
                Known::default()
            }
            Err(error) => return Err(error),
        };
        let gives = is_given(&Owner::of(entry, Some(&known)));
        self.merchants.insert(key, known);
        Ok(gives)
    }
}
