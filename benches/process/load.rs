//! Callers: connections on each of which one call follows another.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::Plan;
use crate::program::Program;
use crate::table;

/// How long a call may take that nothing competes with.
const PATIENCE: Duration = Duration::from_secs(30);

/// Makes the request of a caller's next call: which caller, and how many calls it made before.
pub(crate) type Make =
    Arc<dyn Fn(usize, u64) -> anyhow::Result<Request<Full<Bytes>>> + Send + Sync>;

/// What is sent, and what must come back.
#[derive(Clone)]
pub(crate) struct Calls {
    pub(crate) make: Make,
    pub(crate) answer: Answer,
}

/// What must come back.
#[derive(Clone)]
pub(crate) enum Answer {
    /// A reply in which this stands, and which whoever handed it on verified.
    Verified(&'static str),
    /// The same, from one who verifies nothing or doesn't say so.
    Containing(&'static str),
    /// This alone.
    Just(&'static str),
}

/// Connections that are kept from round to round.
pub(crate) struct Callers {
    address: String,
    calls: Calls,
    kept: Vec<Caller>,
}

struct Caller {
    number: usize,
    calls: u64,
    sender: SendRequest<Full<Bytes>>,
}

/// What was done in one slice, or in several of one round.
#[derive(Default)]
pub(crate) struct Taken {
    /// How long each call took, µs.
    times: Vec<f64>,
    took: Duration,
    /// Processor time of the subject.
    used: Duration,
}

impl Taken {
    /// What was done in a further slice.
    pub(crate) fn add(&mut self, further: Self) {
        self.times.extend(further.times);
        self.took += further.took;
        self.used += further.used;
    }

    pub(crate) fn p50(&self) -> f64 {
        table::median(self.times.clone())
    }

    pub(crate) fn p99(&self) -> f64 {
        table::percentile(self.times.clone(), 0.99)
    }

    pub(crate) fn calls_a_second(&self) -> f64 {
        self.times.len() as f64 / self.took.as_secs_f64()
    }

    /// Processor time of the subject for each call, µs.
    pub(crate) fn cpu(&self) -> f64 {
        micros(self.used) / self.times.len() as f64
    }
}

impl Callers {
    /// So many connections to `address`.
    pub(crate) async fn connect(address: &str, count: usize, calls: Calls) -> anyhow::Result<Self> {
        let mut kept = Vec::with_capacity(count);
        for number in 0..count {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let (sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            kept.push(Caller {
                number,
                calls: 0,
                sender,
            });
        }
        Ok(Self {
            address: address.to_owned(),
            calls,
            kept,
        })
    }

    /// One slice after a warm-up, with the processor time that `subject` uses for it.
    pub(crate) async fn slice(&mut self, plan: &Plan, subject: &Program) -> anyhow::Result<Taken> {
        self.call(plan.warm).await?;
        let before = subject.used()?;
        let mut taken = self.call(plan.slice).await?;
        taken.used = subject.used()?.since(&before);
        Ok(taken)
    }

    /// Calls on all connections at once for so long.
    pub(crate) async fn call(&mut self, time: Duration) -> anyhow::Result<Taken> {
        let (began, mut running) = (Instant::now(), JoinSet::new());
        for caller in self.kept.drain(..) {
            let calls = self.calls.clone();
            running.spawn(async move { caller.call_until(began + time, calls).await });
        }
        let mut times = Vec::new();
        while let Some(ended) = running.join_next().await {
            let (caller, its_times) = ended??;
            self.kept.push(caller);
            times.extend(its_times);
        }
        let took = began.elapsed();
        ensure!(!times.is_empty(), "no call to {} in {time:?}", self.address);
        Ok(Taken {
            times,
            took,
            used: Duration::ZERO,
        })
    }

    /// One call on each connection, `at_once` at the same time.
    pub(crate) async fn call_each(&mut self, at_once: usize) -> anyhow::Result<()> {
        for callers in self.kept.chunks_mut(at_once) {
            let calls = callers.iter_mut().map(|caller| caller.call(&self.calls));
            let calls = futures_util::future::try_join_all(calls);
            let called = tokio::time::timeout(PATIENCE, calls).await;
            called.context("a connection that isn't answered: more than the listener takes?")??;
        }
        Ok(())
    }
}

impl Caller {
    async fn call_until(mut self, end: Instant, calls: Calls) -> anyhow::Result<(Self, Vec<f64>)> {
        let mut times = Vec::new();
        // One call at the least: a slow machine is measured slowly.
        loop {
            let began = Instant::now();
            self.call(&calls).await?;
            times.push(micros(began.elapsed()));
            if Instant::now() >= end {
                break;
            }
        }
        Ok((self, times))
    }

    async fn call(&mut self, calls: &Calls) -> anyhow::Result<()> {
        let request = (calls.make)(self.number, self.calls)?;
        self.calls += 1;
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        calls.answer.check(response).await
    }
}

impl Answer {
    /// What is timed must be what it is called.
    async fn check(&self, response: Response<hyper::body::Incoming>) -> anyhow::Result<()> {
        let (head, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        let said = || String::from_utf8_lossy(&body).into_owned();
        ensure!(head.status == StatusCode::OK, "{}: {}", head.status, said());
        let verified = head.headers.get("alipay-sidecar-verified");
        let has = |text: &str| memchr::memmem::find(&body, text.as_bytes()).is_some();
        let is_right = match self {
            Self::Verified(text) => verified.is_some_and(|v| v == "true") && has(text),
            Self::Containing(text) => has(text),
            Self::Just(text) => body == *text,
        };
        ensure!(is_right, "verified: {verified:?}: {}", said());
        Ok(())
    }
}

pub(crate) fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
