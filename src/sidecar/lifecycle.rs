//! A bound sidecar's life: it serves, and it ends in the order in which nothing is lost.
//!
//! ```text
//! signal    unready · accept stops · deliveries begin no more · answers say `Connection: close`
//! + 1 s     connections on which nothing is asked are closed
//!           calls, notifications, exchanges and attempts under way end; commits are durable
//!           the admin listener goes last, so that the end can be watched
//! + bound   whatever is left is broken off
//! ```

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use http::{Request, Response};

use crate::admin::drain::Drain;
use crate::config::Config;
use crate::net::body::RequestBody;
use crate::net::serve::serve_until;
use crate::net::shutdown::{Ending, EndingHand, Shutdown, Stage};
use crate::sidecar::generation::Generation;
use crate::sidecar::{Bound, Listeners, Sidecar};
use crate::store::error::StoreError;

/// How long connections on which nothing is asked are kept once the end has begun: a request that
/// is just being sent would be lost with them, and callers don't send such a one again.
const GRACE: Duration = Duration::from_secs(1);
/// The shortest bound of an end: less than the 30 s that Kubernetes gives.
const BOUND: Duration = Duration::from_secs(25);
/// What the end of a call may take beyond its deadline.
const BEYOND_CALLS: Duration = Duration::from_secs(10);

/// How often the store is told how far the audit log has come: so long ago may be what a crash lets
/// somebody cut off unnoticed.
const ANCHOR_EVERY: Duration = Duration::from_secs(10);

/// How long work in the background that met a bug waits before it begins anew: what met one on its way
/// meets it again, and each time is a line in the log.
const ANEW: Duration = Duration::from_secs(30);

/// Why an end wasn't a clean one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UncleanEnd {
    /// Something was still under way at the bound.
    #[error(
        "what was still under way after {} s was broken off; what became of it isn't known here",
        .0.as_secs()
    )]
    BrokenOff(Duration),
    /// The store couldn't be written at the end.
    #[error("whether the last writes are durable isn't known")]
    Store(#[from] StoreError),
    /// Something is still under way at the bound of a [`Sidecar::drain`], which breaks nothing off.
    #[error(
        "what is still under way after {} s goes on until its runtime ends; what becomes of it isn't \
         known here",
        .0.as_secs()
    )]
    UnderWay(Duration),
}

impl Sidecar {
    /// How long the end of a sidecar with this configuration may take, from the signal to the last
    /// connection: 25 s, or `upstream.timeout` and 10 s where that is longer.
    #[must_use]
    pub fn end_takes_at_most(config: &Config) -> Duration {
        BOUND.max(config.upstream.timeout.saturating_add(BEYOND_CALLS))
    }

    /// The same with the configuration in force at present.
    #[must_use]
    pub fn end_takes_now(&self) -> Duration {
        Self::end_takes_at_most(&self.current().config)
    }

    /// Delivers notifications, removes what is old and, where that is configured, renews tokens ahead
    /// of their expiry, until `shutdown` or a drain: for a host that mounts the services itself. At
    /// first it tells in the log what would come of [`reverify`](Self::reverify), at last it
    /// writes what became of the calls that are over, and sends their spans. Calls and exchanges that
    /// are under way it doesn't wait for: a host that ends as a whole has [`drain`](Self::drain) end both.
    ///
    /// Until then the store hears how far the audit log has come. After a drain it goes on hearing so
    /// in [`Bound::run`] alone: what operators do then through a service that the host mounted is
    /// written to the log, but that it was cut off later wouldn't show.
    ///
    /// The future borrows nothing of the sidecar, so that it can be a task of its own.
    ///
    /// # Errors
    /// None at present; the type leaves room.
    ///
    /// # Cancel safety
    /// Dropping it breaks running attempts at deliveries off; they are made again when it runs anew.
    pub fn background<S>(
        &self,
        shutdown: S,
    ) -> impl Future<Output = Result<(), std::io::Error>> + Send + use<S>
    where
        S: Future<Output = ()> + Send,
    {
        let sidecar = self.clone();
        async move {
            let (ended, has_ended) = Shutdown::new();
            let work = async {
                sidecar.background_but_anchor(shutdown).await;
                ended.trigger();
            };
            tokio::join!(work, sidecar.anchor(&has_ended));
            Ok(())
        }
    }

    /// Ends a sidecar whose services a host mounts as [`Bound::run`] ends one with listeners of its
    /// own, before the host's runtime ends: from now on, for good, no call and no notification is taken
    /// any more, and [`background`](Self::background) ends. Once it is over nothing is under way, a call
    /// whose caller has gone no more than an exchange of the host's own, and what was stored is durable.
    ///
    /// A host that answers requests lets its own server end first: what comes later is refused. What
    /// it polls itself, such as `background`, it has to go on polling meanwhile. Where [`run`](Self::run)
    /// serves, this is what `POST /api/drain` does: the listeners stay, until `run` is told to end.
    ///
    /// What a host asks [`tokens`](Self::tokens) for is refused by nothing: an exchange or a refresh that it
    /// begins once this is over is waited for by nobody, and may be lost with the runtime.
    ///
    /// The future borrows nothing of the sidecar, so that it can be a task of its own.
    ///
    /// # Errors
    /// [`UncleanEnd::UnderWay`]: not all has ended within [`end_takes_now`](Self::end_takes_now).
    /// [`UncleanEnd::Store`]. Asked again, it waits again.
    ///
    /// # Cancel safety
    /// Safe: the drain goes on.
    pub fn drain(&self) -> impl Future<Output = Result<(), UncleanEnd>> + Send + use<> {
        let (sidecar, bound) = (self.clone(), self.end_takes_now());
        async move {
            let cut = tokio::time::Instant::now() + bound;
            let lasting = &sidecar.parts.lasting;
            let ended = lasting.drain.drain(bound).await?;
            if !ended.drained {
                return Err(UncleanEnd::UnderWay(bound));
            }
            // What isn't sent by then is lost, as where the collector is away.
            let _ = tokio::time::timeout_at(cut, lasting.traces.finished()).await;
            Ok(())
        }
    }

    /// The same for who has the store hear of the audit log itself.
    async fn background_but_anchor(&self, shutdown: impl Future<Output = ()> + Send) {
        let (trigger, signal) = Shutdown::new();
        let lasting = &self.parts.lasting;
        let work = async {
            let _inside = lasting.drain.deliveries().enter();
            let report = || async { self.current().webhook.report_refused().await };
            let deliver = || lasting.dispatcher.run(signal.wait());
            tokio::join!(
                steadily("deliveries", &signal, deliver),
                steadily("the removal of old records", &signal, || self
                    .prune(&signal)),
                steadily("the look at what was refused", &signal, report),
                steadily("refreshes ahead", &signal, || self.keep_ahead(&signal)),
                steadily("the leaving of the admin token", &signal, || {
                    self.make_up_for_token(&signal)
                }),
                steadily("traces", &signal, || lasting.traces.run(&signal)),
            );
            let current = self.current();
            current.webhook.flush().await;
            current.proxy.written().await;
            lasting.audit.finished().await;
            lasting.traces.finished().await;
        };
        let end = async {
            tokio::select! {
                () = shutdown => {}
                () = lasting.drain.ending().reached(Stage::Leaving) => {}
            }
            trigger.trigger();
        };
        tokio::join!(work, end);
    }

    async fn anchor(&self, shutdown: &Shutdown) {
        let anchor = || async {
            while !shutdown.is_given() {
                self.parts.lasting.audit.anchor().await;
                // The pause ends early on shutdown.
                let _ = tokio::time::timeout(ANCHOR_EVERY, shutdown.wait()).await;
            }
        };
        steadily("the store's word of the audit log", shutdown, anchor).await;
    }
}

impl Bound {
    /// How long the end may take: [`Sidecar::end_takes_at_most`].
    #[must_use]
    pub fn end_takes_at_most(&self) -> Duration {
        self.sidecar.end_takes_now()
    }

    /// Serves and delivers until `shutdown`, then lets what is under way end, for
    /// [`Self::end_takes_at_most`]: first nothing new is taken, then calls and deliveries end, and
    /// the admin listener goes last, so that the end can be watched.
    ///
    /// # Errors
    /// [`UncleanEnd`]: it ended, but not everything did as it should.
    ///
    /// # Cancel safety
    /// Dropping the future breaks off whatever is under way.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), UncleanEnd> {
        let Self { sidecar, listeners } = self;
        let Listeners {
            proxy,
            webhook,
            admin,
        } = listeners;
        let lasting = &sidecar.parts.lasting;
        let tls = lasting.tls.clone();
        let (front, front_ending) = Ending::new();
        let (back, back_ending) = Ending::new();
        let (finished, is_finished) = Shutdown::new();
        let drain = &lasting.drain;
        let proxy_handler = answer(&sidecar, |now, r| async move {
            now.proxy.on_connections().handle(r).await
        });
        // Its port is the one that the world may reach.
        let terms = webhook.terms().for_everybody();
        let webhook_handler = answer(
            &sidecar,
            |now, r| async move { now.webhook.handle(r).await },
        );
        let admin_handler = answer(&sidecar, |now, r| async move { now.admin.handle(r).await });
        let serving = async {
            tokio::join!(
                serve_until(proxy, tls.proxy, proxy_handler, front_ending.clone()),
                serve_until(
                    webhook.on(terms),
                    tls.webhook,
                    webhook_handler,
                    front_ending
                ),
            );
            // Calls whose caller has gone are finished, too, and what they bought is stored.
            drain.refuse();
            let durable = drain.finished().await;
            finished.trigger();
            durable
        };
        let admin = async {
            let (closed, is_closed) = Shutdown::new();
            let serving = async {
                serve_until(admin, tls.admin, admin_handler, back_ending).await;
                closed.trigger();
            };
            // What works in the background ends with a drain; what operators do after it is told all
            // the same.
            tokio::join!(serving, sidecar.anchor(&is_closed));
        };
        let background = sidecar.background_but_anchor(std::future::pending());
        let whole = async {
            let (durable, (), ()) = tokio::join!(serving, admin, background);
            // What operators did until the end is told, too.
            lasting.audit.finished().await;
            lasting.traces.finished().await;
            durable
        };
        let end = async {
            shutdown.await;
            Ends::of(&sidecar, (front, back))
                .conduct(&is_finished)
                .await
        };
        tokio::select! {
            durable = whole => Ok(durable?),
            bound = end => Err(UncleanEnd::BrokenOff(bound)),
        }
    }
}

/// What ends, and by when.
struct Ends<'a> {
    drain: &'a Drain,
    front: EndingHand,
    back: EndingHand,
    bound: Duration,
}

impl<'a> Ends<'a> {
    /// Bounded as the configuration in force says.
    fn of(sidecar: &'a Sidecar, (front, back): (EndingHand, EndingHand)) -> Self {
        Self {
            drain: &sidecar.parts.lasting.drain,
            front,
            back,
            bound: sidecar.end_takes_now(),
        }
    }

    /// Moves the end on from stage to stage; ends itself at the bound, which it gives.
    async fn conduct(self, finished: &Shutdown) -> Duration {
        let cut = tokio::time::Instant::now() + self.bound;
        self.drain.leave();
        self.front.reach(Stage::Deaf);
        self.back.reach(Stage::Leaving);
        let stages = async {
            tokio::join!(
                async {
                    tokio::time::sleep(GRACE).await;
                    self.front.reach(Stage::Closing);
                },
                async {
                    self.drain.told_until(finished.wait()).await;
                    self.back.reach(Stage::Deaf);
                }
            );
            self.back.reach(Stage::Closing);
            std::future::pending::<()>().await;
        };
        // The stages never end.
        let _ = tokio::time::timeout_at(cut, stages).await;
        let seconds = self.bound.as_secs();
        tracing::warn!(seconds, left = ?self.drain, "the end took too long; the rest is broken off");
        self.front.reach(Stage::Cut);
        self.back.reach(Stage::Cut);
        self.bound
    }
}

/// Does `work` to its end. A bug in it, ours or of a part that a host handed in, harms nothing else that
/// works in the background: it is told, and the work begins anew a while later, unless that is the end.
async fn steadily<F>(what: &str, shutdown: &Shutdown, work: impl Fn() -> F)
where
    F: Future<Output = ()>,
{
    while AssertUnwindSafe(work()).catch_unwind().await.is_err() {
        let seconds = ANEW.as_secs();
        tracing::error!(
            what,
            seconds,
            "a bug ended work in the background; it begins anew"
        );
        // The pause ends early on shutdown.
        if tokio::time::timeout(ANEW, shutdown.wait()).await.is_ok() {
            return;
        }
    }
}

/// Makes a handler: each request is answered by what is in force when it comes.
fn answer<H, F, B>(
    sidecar: &Sidecar,
    handle: H,
) -> impl Fn(Request<RequestBody>) -> F + Clone + Send + Sync + use<H, F, B>
where
    H: Fn(Arc<Generation>, Request<RequestBody>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
{
    let sidecar = sidecar.clone();
    move |request| handle(sidecar.current(), request)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::time::Instant;

    use super::*;

    /// Does what meets a bug the first time, and says how often it began, and how many seconds it took.
    async fn done(shutdown: &Shutdown) -> (usize, u64) {
        let (times, began) = (AtomicUsize::new(0), Instant::now());
        let work = || async {
            assert_ne!(times.fetch_add(1, Ordering::Relaxed), 0, "a bug");
        };
        steadily("work", shutdown, work).await;
        (times.into_inner(), began.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_met_a_bug_begins_anew_a_while_later() {
        let (end, shutdown) = Shutdown::new();
        assert_eq!(done(&shutdown).await, (2, ANEW.as_secs()));
        end.trigger();
        assert_eq!(done(&shutdown).await, (1, 0));
    }
}
