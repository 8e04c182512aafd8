//! Choosing what is attempted, so that no entry is attempted twice at once.

mod leases;
mod parked;

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use http::Uri;
use tokio::task::{Id, JoinError, JoinSet};

use crate::delivery::brake::{Reach, Turn};
use crate::delivery::claim::leases::Reaped;
use crate::delivery::claim::parked::TakenBack;
use crate::delivery::lanes::{BUSY, Lanes, Room, SLOW};
use crate::delivery::whose::Known;
use crate::delivery::{Inner, Plan, settle};
use crate::model::delivery::Delivery;
use crate::model::id::EventId;
use crate::model::notification::InboxEntry;
use crate::store::error::StoreError;
use crate::store::{Change, Due, MerchantKey, Store};

/// The longest sleep: whatever became owed without a word to us is seen after that.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);
/// The pause after the store couldn't be read or written.
const STORE_PAUSE: Duration = Duration::from_secs(1);
/// How many entries are set aside in memory; every look at the inbox passes over them.
const ASIDE: usize = 100;
/// How many entries are read at once while a backend is held back, or where no route fits: they may
/// stand before what is owed to others, and are put off with one write.
const OUT_OF_THE_WAY: usize = 256;
/// How long an entry is put off whose merchant couldn't be looked up, or that met a bug on its way to an
/// attempt, milliseconds.
const UNREAD_MS: i64 = 1000;
/// For how long they are passed over, and further ones are put off, milliseconds: an operator may
/// have named the merchant that a route asks for, or replayed what met a bug.
const ASIDE_MS: i64 = 600_000;
/// How long those are put off that have an order, milliseconds: whether a route fits them by now is found
/// out without a write ([`Desk::take_back`]), and this is for what that should miss.
const PARKED_MS: i64 = 3_600_000;

/// The attempts under way.
pub(super) struct Desk {
    inner: Arc<Inner>,
    running: JoinSet<Reach>,
    lanes: Lanes,
    /// Not to be attempted under this plan, for [`ASIDE_MS`] at most: no route fits, or the attempt met a bug of ours.
    aside: HashSet<EventId>,
    /// Since when, Unix milliseconds.
    aside_since: i64,
    /// Whether it was told since then that something was set aside.
    told: bool,
    /// How far those were looked at again that had been parked until then.
    taken_back: TakenBack,
    /// Whether the last look met some that no route fits.
    left: bool,
    /// What is to be put off, and until when.
    put_off: Vec<Change>,
    plan: Arc<Plan>,
    /// When no lease was left to record, Unix milliseconds.
    reaped_at: i64,
}

impl Desk {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        Self {
            plan: inner.plan.load_full(),
            inner,
            running: JoinSet::new(),
            lanes: Lanes::default(),
            aside: HashSet::new(),
            aside_since: 0,
            told: false,
            // They were parked under another plan, as far as anybody knows.
            taken_back: TakenBack::Until(None),
            left: false,
            put_off: Vec::new(),
            reaped_at: 0,
        }
    }

    /// Sees to leases and to what was parked, starts what is due, and says when to look again. A bug on
    /// the way, of a store that a host handed in, too, ends nothing that is under way.
    pub(super) async fn claim_unless_bug(&mut self) -> Duration {
        let claimed = AssertUnwindSafe(self.claim()).catch_unwind().await;
        claimed.unwrap_or_else(|_| {
            tracing::error!("a bug ended a look at the inbox; deliveries wait");
            STORE_PAUSE
        })
    }

    async fn claim(&mut self) -> Duration {
        self.follow_plan();
        match self.reap().await {
            Ok(Reaped::All) => {}
            Ok(Reaped::Some) => return Duration::ZERO,
            Err(error) => {
                tracing::warn!(%error, "leases that ended can't be recorded yet");
                return STORE_PAUSE;
            }
        }
        if self.plan.routes.is_empty() {
            // Leases may end.
            return LONGEST_SLEEP;
        }
        match self.take_back().await {
            Ok(TakenBack::All) => self.look_for_room().await,
            // What is owed doesn't wait for a line in the log.
            Ok(TakenBack::Untold(_)) => self.look_for_room().await.min(BUSY),
            Ok(TakenBack::Until(_)) => Duration::ZERO,
            Err(error) => {
                tracing::warn!(%error, "what waits for a route can't be looked at yet");
                STORE_PAUSE
            }
        }
    }

    /// Starts what is due, as far as there is room, and says when to look again.
    async fn look_for_room(&mut self) -> Duration {
        let limit = self.limit();
        if limit == 0 {
            // The end of an attempt is waited for, or the next try, and leases may end.
            return self.until_next_try(SLOW);
        }
        match self.look(limit).await {
            Ok(pause) => self.until_next_try(pause),
            Err(error) => {
                tracing::warn!(%error, "the inbox can't be read or written; deliveries wait");
                STORE_PAUSE
            }
        }
    }

    /// How many entries are worth reading.
    fn limit(&self) -> usize {
        let routes = &self.plan.routes;
        let free = self.lanes.free(routes);
        if free > 0 && self.left {
            return free.max(OUT_OF_THE_WAY);
        }
        if free == 0 || !routes.several_backends() {
            return free;
        }
        // Among them may be some that are owed to a backend without room.
        let usual = routes.most_at_once();
        match self.lanes.held() {
            0 => usual,
            _ => usual.max(OUT_OF_THE_WAY),
        }
    }

    fn until_next_try(&self, pause: Duration) -> Duration {
        self.lanes
            .next_try()
            .map_or(pause, |next_try| next_try.min(pause))
    }

    /// Starts what is due, at most `limit`, and says when to look again.
    async fn look(&mut self, limit: usize) -> Result<Duration, StoreError> {
        let inner = Arc::clone(&self.inner);
        let _turn = inner.floor.turn().await;
        // What was given up since would be found due.
        self.put_off().await?;
        let now = inner.clock.now_ms();
        let mut but = inner.floor.under_way();
        but.extend(&self.aside);
        let due = inner.store.due(now, limit, but).await?;
        let pause = pause(&due, now);
        let (mut waiting, mut left) = (false, false);
        let more = due.next_at.is_some_and(|at| at <= now);
        for (entry, delivery) in due.now {
            let id = entry.id;
            let placed = AssertUnwindSafe(self.place(entry, delivery, now, more));
            let placed = placed.catch_unwind().await;
            let placed = placed.unwrap_or_else(|_| {
                tracing::error!(event_id = %id, "a bug ended the look at a delivery; it is put off");
                // As where its merchant can't be looked up: the bug may be gone, as the store's.
                self.postpone(id, now.saturating_add(UNREAD_MS))
            });
            waiting |= placed == Placed::Waits;
            left |= placed == Placed::Left;
        }
        self.put_off().await?;
        self.left = left;
        if left {
            return Ok(Duration::ZERO);
        }
        Ok(match (waiting, more) {
            (false, _) => pause,
            // Looking again at what waits is of use once its backend ends an attempt, is busy (what
            // is owed to others may stand behind it) or is slow.
            (true, true) if self.plan.routes.several_backends() => BUSY,
            (true, true) => SLOW,
            (true, false) => pause.min(SLOW),
        })
    }

    /// Ends when at least one attempt has; never while none is under way.
    pub(super) async fn finished(&mut self) {
        match self.running.join_next_with_id().await {
            None => std::future::pending().await,
            Some(ended) => self.ended(ended),
        }
        while let Some(ended) = self.running.try_join_next_with_id() {
            self.ended(ended);
        }
    }

    /// Ends when no attempt is under way.
    pub(super) async fn drained(&mut self) {
        while let Some(ended) = self.running.join_next_with_id().await {
            self.ended(ended);
        }
    }

    fn follow_plan(&mut self) {
        let now = self.inner.clock.now_ms();
        if !(0..ASIDE_MS).contains(&now.saturating_sub(self.aside_since)) {
            let plan = Arc::clone(&self.plan);
            self.begin_anew(now, plan);
        }
        let plan = self.inner.plan.load_full();
        if !Arc::ptr_eq(&plan, &self.plan) {
            self.begin_anew(now, plan);
            self.lanes.keep(&self.plan.routes);
            self.inner.metrics.held_back(self.lanes.held());
        }
    }

    /// Looks again at all that was set aside, and, where `plan` may have a route for it, at what was
    /// parked.
    fn begin_anew(&mut self, now: i64, plan: Arc<Plan>) {
        self.aside.clear();
        self.aside_since = now;
        self.told = false;
        let former = std::mem::replace(&mut self.plan, plan);
        if self.plan.routes.may_fit_more_than(&former.routes) {
            self.taken_back = TakenBack::Until(None);
        } else if self.taken_back == TakenBack::All {
            self.taken_back = TakenBack::Untold(None);
        }
    }

    /// Starts one entry, or puts it where it is in nobody's way; `more` may stand behind it.
    async fn place(
        &mut self,
        entry: InboxEntry,
        delivery: Delivery,
        now: i64,
        more: bool,
    ) -> Placed {
        let entry = self.plan.present(entry);
        let known = match known(&*self.inner.store, &self.plan, &entry).await {
            Ok(known) => known,
            Err(error) => {
                tracing::warn!(%error, event_id = %entry.id, "the merchant can't be looked up");
                // At the head of the queue it would be in everybody's way.
                return self.postpone(entry.id, now.saturating_add(UNREAD_MS));
            }
        };
        let entry = known.told_in(entry);
        let plan = Arc::clone(&self.plan);
        let Some(target) = plan.routes.target(&entry, &known) else {
            self.tell_left(entry.id);
            return self.leave(&entry);
        };
        let is_in_the_way = plan.routes.several_backends();
        match self.lanes.room(target, now) {
            Room::Free => {}
            Room::Slow(until) if is_in_the_way => return self.postpone(entry.id, until),
            Room::Held(until) if is_in_the_way && more => return self.postpone(entry.id, until),
            Room::Busy(pace) if is_in_the_way && more => {
                let until = self.lanes.line_up(&target.url, now, 0, pace);
                return self.postpone(entry.id, until);
            }
            Room::Busy(_) | Room::Full | Room::Held(_) | Room::Slow(_) => return Placed::Waits,
        }
        let (id, url) = (entry.id, target.url.as_str());
        let owed = settle::Owed {
            entry,
            delivery,
            known,
            plan: Arc::clone(&plan),
        };
        let task = settle::deliver(Arc::clone(&self.inner), owed);
        self.inner.floor.began(id);
        let task = self.running.spawn(task);
        self.lanes.began(task.id(), id, url);
        Placed::Done
    }

    fn postpone(&mut self, id: EventId, until: i64) -> Placed {
        self.put_off.push(Change::Postpone { id, until });
        Placed::Done
    }

    /// Tells of the first that no route fits.
    fn tell_left(&mut self, id: EventId) {
        if !std::mem::replace(&mut self.told, true) {
            tracing::warn!(
                event_id = %id,
                "no [[delivery.route]] fits and delivery.url is empty; the entry stays in the inbox"
            );
        }
    }

    /// Puts an entry aside that no route fits.
    fn leave(&mut self, entry: &InboxEntry) -> Placed {
        if entry.order_key.is_none() {
            if !self.set_aside(entry.id) {
                self.park(entry.id, ASIDE_MS);
            }
            return Placed::Done;
        }
        // Later ones of its order may have a route, and are held up until the store knows.
        self.park(entry.id, PARKED_MS);
        Placed::Left
    }

    /// Writes down what is put off.
    async fn put_off(&mut self) -> Result<(), StoreError> {
        let changes = std::mem::take(&mut self.put_off);
        if changes.is_empty() {
            return Ok(());
        }
        self.inner.store.commit(changes).await.map(drop)
    }

    /// Whether there was room for it.
    fn set_aside(&mut self, id: EventId) -> bool {
        let has_room = self.aside.len() < ASIDE;
        if has_room {
            self.aside.insert(id);
        }
        has_room
    }

    fn park(&mut self, id: EventId, ms: i64) {
        let until = self.in_ms(ms);
        self.put_off.push(Change::Park { id, until });
    }

    fn in_ms(&self, ms: i64) -> i64 {
        self.inner.clock.now_ms().saturating_add(ms)
    }

    fn ended(&mut self, ended: Result<(Id, Reach), JoinError>) {
        let (task, reach) = match &ended {
            Ok((task, reach)) => (*task, *reach),
            Err(error) => (error.id(), Reach::Untried),
        };
        let Some(known) = self.lanes.ended(task, reach) else {
            return;
        };
        self.inner.floor.ended(known.entry);
        self.report(known.turn, &known.url);
        if ended.is_err_and(|error| error.is_panic()) {
            self.give_up(known.entry);
        }
    }

    /// Puts aside what met a bug in its attempt: it would meet it again, before all others. Its order waits
    /// for it all the same.
    fn give_up(&mut self, id: EventId) {
        tracing::error!(event_id = %id, "a delivery was given up because of a bug in it");
        if !self.set_aside(id) {
            self.postpone(id, self.in_ms(ASIDE_MS));
        }
    }

    /// Tells that a backend is held back, or isn't any longer.
    fn report(&self, turn: Turn, url: &str) {
        let backend = origin(url);
        match turn {
            Turn::Same => return,
            Turn::Held => tracing::warn!(
                backend,
                "no connection can be made to the backend; it is tried with one delivery at a time, at least every 5 s"
            ),
            Turn::Released => tracing::info!(backend, "the backend is back; deliveries go on"),
        }
        self.inner.metrics.held_back(self.lanes.held());
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        // The attempts are broken off with it.
        self.inner.floor.clear();
        self.inner.metrics.held_back(0);
    }
}

/// What may be told of a backend: its path or query may hold a secret.
fn origin(url: &str) -> String {
    let url: Uri = url.parse().unwrap_or_default();
    let host = url.host().unwrap_or("?");
    url.port_u16()
        .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// What choosing a route needs to know of the entry's merchant. One whose record is damaged counts
/// as unknown: it may never be read again, and its notifications are owed all the same.
pub(super) async fn known(
    store: &dyn Store,
    plan: &Plan,
    entry: &InboxEntry,
) -> Result<Known, StoreError> {
    let Some(auth_app_id) = &entry.auth_app_id else {
        return Ok(Known::default());
    };
    let is_needed = plan.routes.need_merchant();
    if !is_needed && !plan.routes.want_pid(entry) {
        return Ok(Known::default());
    }
    let key = MerchantKey::Exact(entry.app_id.clone(), auth_app_id.clone());
    let merchant = match store.find(key).await {
        Ok(mut found) => found.pop(),
        Err(error @ StoreError::Damaged { .. }) => {
            tracing::error!(%error, event_id = %entry.id, "the merchant counts as unknown: routes by alias or PID don't fit its notifications");
            None
        }
        // What is only nice to know stops nothing.
        Err(_) if !is_needed => None,
        Err(error) => return Err(error),
    };
    Ok(merchant.map(Known::from).unwrap_or_default())
}

/// What became of an entry that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Placed {
    /// It is under way, set aside or put off.
    Done,
    /// No route fits it, so that the next of its order may have come first.
    Left,
    /// It stays as it is.
    Waits,
}

fn pause(due: &Due, now: i64) -> Duration {
    let until_next = due
        .next_at
        .map(|at| u64::try_from(at.saturating_sub(now)).unwrap_or(0))
        .map(|ms| Duration::from_millis(ms.max(1)));
    until_next.map_or(LONGEST_SLEEP, |next| next.min(LONGEST_SLEEP))
}
