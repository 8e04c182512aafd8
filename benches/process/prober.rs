//! One request after another on a thread and a connection of its own, as a health check is.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;

use crate::load::micros;

/// Between two requests: they are probes, no load.
const PAUSE: Duration = Duration::from_millis(1);
const LONGEST: usize = 16 << 10;

/// What an ack must be.
pub(crate) const ACKED: Option<&str> = Some("success");

/// Asks until it is stopped.
pub(crate) struct Prober {
    stopped: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<Vec<f64>>>,
}

impl Prober {
    /// Sends what `next` gives, as long as it gives any, and wants `answer`, if it is one.
    pub(crate) fn start(
        address: &str,
        answer: Option<&'static str>,
        mut next: impl FnMut() -> Option<Vec<u8>> + Send + 'static,
    ) -> anyhow::Result<Self> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let stopped = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopped);
        let thread = std::thread::spawn(move || {
            let mut times = Vec::new();
            while let Some(request) = next().filter(|_| !stop.load(Ordering::Relaxed)) {
                let began = Instant::now();
                stream.write_all(&request)?;
                read_answer(&mut stream, answer)?;
                times.push(micros(began.elapsed()));
                std::thread::sleep(PAUSE);
            }
            Ok(times)
        });
        Ok(Self { stopped, thread })
    }

    /// How long each request took, µs.
    pub(crate) fn stop(self) -> anyhow::Result<Vec<f64>> {
        self.stopped.store(true, Ordering::Relaxed);
        let times = self.thread.join().ok().context("a panic")??;
        ensure!(!times.is_empty(), "nothing was asked");
        Ok(times)
    }
}

fn read_answer(stream: &mut TcpStream, wanted: Option<&str>) -> anyhow::Result<()> {
    let (mut answer, mut piece) = (Vec::new(), [0; 2048]);
    while answer.len() < LONGEST {
        let count = stream.read(&mut piece)?;
        ensure!(count > 0, "the connection ended");
        answer.extend(piece.iter().take(count));
        let mut fields = [httparse::EMPTY_HEADER; 32];
        let mut head = httparse::Response::new(&mut fields);
        let httparse::Status::Complete(length) = head.parse(&answer)? else {
            continue;
        };
        let said = || String::from_utf8_lossy(&answer).into_owned();
        ensure!(head.code == Some(200), "{}", said());
        let mut named = head.headers.iter();
        let body = named.find(|field| field.name.eq_ignore_ascii_case("content-length"));
        let body: usize = std::str::from_utf8(body.context("no length")?.value)?.parse()?;
        if answer.len() >= length + body {
            let body = answer.get(length..).unwrap_or_default();
            ensure!(wanted.is_none_or(|w| body == w.as_bytes()), "{}", said());
            return Ok(());
        }
    }
    anyhow::bail!("an answer of more than {LONGEST} bytes")
}

/// Asks once; anything but 200 is an error.
pub(crate) fn ask(address: &str, request: &[u8]) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(request)?;
    read_answer(&mut stream, None)
}

/// Whether it can take calls.
pub(crate) fn readyz() -> Vec<u8> {
    b"GET /readyz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".to_vec()
}

/// A health check.
pub(crate) fn livez() -> Vec<u8> {
    b"GET /livez HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".to_vec()
}

/// A notification of Alipay's.
pub(crate) fn notify(form: &Bytes) -> Vec<u8> {
    let head = format!(
        "POST /alipay/notify HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {}\r\n\
         content-type: application/x-www-form-urlencoded\r\n\r\n",
        form.len()
    );
    [head.as_bytes(), form].concat()
}
