//! The accept loop: connections, their limits, and their end.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::header::{CONNECTION, EXPECT};
use http::{HeaderValue, Request, Response};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Incoming};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::net::answering::Answering;
use crate::net::at_once::at_once;
use crate::net::body::{BoxError, RequestBody, Within, stays_unread};
use crate::net::crowd::{Crowd, Member};
use crate::net::hang_up::Line;
use crate::net::head;
use crate::net::listener::{Listener, Peer, Stream};
use crate::net::pace::{HURRY, Paced};
use crate::net::shutdown::{Ending, Shutdown, Stage};
use crate::net::terms::Terms;
use crate::net::tls::Tls;

/// How long open requests may go on once the end was signalled.
const DRAIN: Duration = Duration::from_secs(30);
/// How long the system may take to hand over connections that stood in the backlog at the end.
const BACKLOG: Duration = Duration::from_millis(20);
/// The pause after an accept that failed, as for lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves HTTP/1.1 on `listener` until `shutdown`, then lets open requests end, for 30 s at most.
///
/// The request carries its [`Peer`] as an extension. Of a head with more fields, or a longer target, than
/// is read, or a target with a byte that may not stand there or no version behind it, the handler gets the
/// beginning: it must refuse what [`head::check_whole`] says is one.
pub async fn serve<H, F, B>(listener: Listener, tls: Option<Tls>, handle: H, shutdown: Shutdown)
where
    H: Fn(Request<RequestBody>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let (hand, ending) = Ending::new();
    let served = serve_until(listener, tls.unwrap_or_default(), handle, ending);
    let end = async {
        shutdown.wait().await;
        hand.reach(Stage::Closing);
        tokio::time::sleep(DRAIN).await;
        hand.reach(Stage::Cut);
        std::future::pending().await
    };
    tokio::select! {
        () = served => {}
        () = end => {}
    }
}

/// The same, ending by the stages of `ending`; ends itself once no connection is left.
pub async fn serve_until<H, F, B>(listener: Listener, tls: Tls, handle: H, ending: Ending)
where
    H: Fn(Request<RequestBody>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let handle = Handle(Arc::new(move |request| {
        let erased = |answer: Response<B>| answer.map(|b| b.map_err(Into::into).boxed_unsync());
        handle(request).map(erased).boxed()
    }));
    serve_erased(listener, tls, handle, ending).await;
}

/// What answers requests. It is the same type whoever does, so that what speaks HTTP is in the
/// program once; and hyper, which keeps the place of an answer for as long as a connection lives,
/// keeps that of a pointer.
#[derive(Clone)]
struct Handle(Arc<dyn Fn(Request<RequestBody>) -> BoxFuture<'static, Answer> + Send + Sync>);

type Answer = Response<UnsyncBoxBody<Bytes, BoxError>>;

async fn serve_erased(listener: Listener, tls: Tls, handle: Handle, ending: Ending) {
    let terms = listener.terms();
    let slots = Arc::new(Semaphore::new(terms.connections as usize));
    let mut accepting = Accepting {
        listener,
        slots: Arc::clone(&slots),
        crowd: Crowd::new(terms.per_network),
        ending: ending.clone(),
        until: None,
        complained: LastTold::default(),
    };
    let unread = Arc::new(Unread {
        listener: accepting.listener.address().to_string(),
        told: LastTold::default(),
        told_of_tls: LastTold::default(),
    });
    while let Some((stream, peer, slot)) = accepting.next().await {
        let (tls, handle, ending) = (tls.acceptor(), handle.clone(), ending.clone());
        let unread = Arc::clone(&unread);
        let terms = terms.towards(peer);
        tokio::spawn(async move {
            let cut = ending.reached(Stage::Cut);
            let spoken = async {
                let secured = stream.secured(tls.as_ref());
                let secured = tokio::time::timeout(terms.handshake, secured);
                let leaving = ending.reached(Stage::Leaving);
                let late = async {
                    leaving.await;
                    tokio::time::sleep(HURRY).await;
                };
                let secured = tokio::select! {
                    secured = secured => secured,
                    () = late => return,
                };
                if let Ok(Ok(stream)) = secured {
                    let conversation = converse(stream, (peer, terms), handle, ending, &unread);
                    at_once(pin!(conversation)).await;
                }
            };
            tokio::select! {
                () = spoken => {}
                () = cut => {}
            }
            drop(slot);
        });
    }
    drop(accepting);
    // Every connection holds one; the semaphore is never closed.
    let _ = slots.acquire_many(terms.connections).await;
}

/// The place of a connection.
type Slot = (tokio::sync::OwnedSemaphorePermit, Member);

/// The accept loop's state.
struct Accepting {
    listener: Listener,
    slots: Arc<Semaphore>,
    crowd: Crowd,
    ending: Ending,
    /// Until when the backlog is emptied.
    until: Option<Instant>,
    /// When it was last told that all connections are taken.
    complained: LastTold,
}

impl Accepting {
    /// The next connection. Once nothing more should be accepted, only what stood in the backlog
    /// of a socket of our own is: the system would answer those with a reset. A socket that others
    /// hold, too, keeps them for whoever serves next.
    async fn next(&mut self) -> Option<(Stream, Peer, Slot)> {
        if self.until.is_none() {
            tokio::select! {
                biased;
                () = self.ending.reached(Stage::Deaf) => {}
                accepted = self.accept() => return accepted,
            }
            if self.listener.is_shared() {
                return None;
            }
        }
        let until = *self.until.get_or_insert_with(|| Instant::now() + BACKLOG);
        tokio::time::timeout_at(until, self.accept()).await.ok()?
    }

    /// Says that whoever comes next waits: nobody else can tell, since those who do see only silence.
    fn complain(&self) {
        if self.complained.is_due() {
            tracing::warn!(
                listener = %self.listener.address(),
                connections = self.listener.terms().connections,
                "the listener has all the connections that it may; who comes now waits. Who holds \
                 them? More are allowed where the limit of open files is higher"
            );
        }
    }

    async fn accept(&self) -> Option<(Stream, Peer, Slot)> {
        if self.slots.available_permits() == 0 {
            self.complain();
        }
        let slot = Arc::clone(&self.slots).acquire_owned().await.ok()?;
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    // Who isn't let in is gone with his connection.
                    if let Some(member) = self.crowd.enter(peer) {
                        return Some((stream, peer, (slot, member)));
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// How often it is told that a listener is full, or that hyper refused what came to it.
const COMPLAINTS: Duration = Duration::from_secs(60);

/// When something was last told that whoever connects may bring about at any time.
#[derive(Default)]
struct LastTold(Mutex<Option<Instant>>);

impl LastTold {
    /// Whether it is time to tell it again; then it counts as told.
    fn is_due(&self) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = last.is_none_or(|at| at.elapsed() >= COMPLAINTS);
        if is_due {
            *last = Some(Instant::now());
        }
        is_due
    }
}

/// What hyper answers by itself, 400 or 431 without a word, and no handler sees.
struct Unread {
    listener: String,
    told: LastTold,
    told_of_tls: LastTold,
}

impl Unread {
    fn tell(&self, error: &hyper::Error, peer: Peer, is_tls: bool) {
        let last = match is_tls {
            true => &self.told_of_tls,
            false => &self.told,
        };
        if !last.is_due() {
            return;
        }
        let peer = match peer {
            Peer::Tcp(address) => address.ip().to_canonical().to_string(),
            Peer::Unix { .. } => "unix".to_owned(),
        };
        let message = match is_tls {
            true => {
                "a connection begins as TLS does, where plain HTTP is spoken: does its URL begin with \
                 `https://`? (told once a minute)"
            }
            false => "what came over a connection is no request of HTTP/1.1 (told once a minute)",
        };
        tracing::info!(listener = %self.listener, peer, %error, "{message}");
    }
}

/// Speaks HTTP on one connection until it ends.
async fn converse(
    stream: Stream,
    (peer, terms): (Peer, Terms),
    handle: Handle,
    ending: Ending,
    unread: &Unread,
) {
    let answering = Answering::default();
    let came = answering.clone();
    let stream = Paced::new(stream, terms, answering.clone(), ending.clone());
    let (leaving, closing) = (
        ending.reached(Stage::Leaving),
        ending.reached(Stage::Closing),
    );
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        let has_fragment = answering.has_fragment();
        if has_fragment {
            request.extensions_mut().insert(head::Fragment);
        }
        let cut_off = answering.cut_off();
        if let Some(fault) = cut_off {
            request.extensions_mut().insert(head::CutOff(fault));
        }
        let has_body = !request.body().is_end_stream();
        let turn = answering.begin(request.body().size_hint().exact());
        // Who waits to be told to send sends nothing of what is refused.
        let waits = has_body && request.headers().contains_key(EXPECT);
        request.extensions_mut().insert(peer);
        request.extensions_mut().insert(Line(answering.clone()));
        request.extensions_mut().insert(Within(terms.body));
        // Whoever sent this may see another end of it than we: nothing more is read behind it.
        let is_unclear =
            has_fragment || cut_off.is_some() || head::check_framing(request.headers()).is_err();
        let (answer, answering) = (
            (handle.0)(request.map(|body| RequestBody::new(body, answering.clone(), turn))),
            answering.clone(),
        );
        let ending = ending.clone();
        async move {
            let mut answer = answer.await;
            let may_go_on = !is_unclear && !waits && ending.stage() < Stage::Leaving;
            // In a box, because hyper keeps the place of this future for as long as the connection lives.
            let is_unread =
                answering.is_unread() && Box::pin(stays_unread(&answering, may_go_on)).await;
            answering.end();
            if is_unclear || is_unread || ending.stage() >= Stage::Leaving {
                let close = HeaderValue::from_static("close");
                answer.headers_mut().insert(CONNECTION, close);
            }
            Ok::<_, Infallible>(answer)
        }
    });
    // hyper counts heads with the same timer as pauses, so heads have one of their own.
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(terms.idle)
        .max_buf_size(terms.head_bytes)
        .max_headers(head::MOST_FIELDS)
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = async {
        tokio::select! {
            biased;
            ended = connection.as_mut() => return ended,
            // Then it is looked at: half of a request isn't waited for any more.
            () = leaving => {}
        }
        tokio::select! {
            biased;
            ended = connection.as_mut() => return ended,
            () = closing => connection.as_mut().graceful_shutdown(),
        }
        connection.as_mut().await
    };
    // A connection that breaks concerns nobody but its peer.
    if let Err(error) = ended.await
        && error.is_parse()
    {
        unread.tell(&error, peer, came.is_tls());
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use http_body_util::Full;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::net::tls::Identity;

    const ASK: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";

    async fn hello(_: Request<RequestBody>) -> Response<Full<Bytes>> {
        Response::new(Full::new(Bytes::from_static(b"hello")))
    }

    fn socket() -> (std::net::TcpListener, std::net::SocketAddr) {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        socket.set_nonblocking(true).expect("set");
        let address = socket.local_addr().expect("bound");
        (socket, address)
    }

    fn own(socket: std::net::TcpListener) -> Listener {
        Listener::from_tcp(tokio::net::TcpListener::from_std(socket).expect("watched"))
    }

    async fn asked(address: std::net::SocketAddr) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        stream.write_all(ASK).await.expect("written");
        stream
    }

    async fn whole(mut stream: TcpStream) -> String {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        answer
    }

    #[tokio::test]
    async fn a_handshake_that_does_not_go_on_holds_up_no_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let (cert, key) = (
            folder.path().join("cert.pem"),
            folder.path().join("key.pem"),
        );
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]);
        let made = made.expect("a certificate");
        std::fs::write(&cert, made.cert.pem()).expect("written");
        std::fs::write(&key, made.signing_key.serialize_pem()).expect("written");
        let tls = Tls::default();
        tls.set(Some(Identity::read(&cert, &key).expect("a pair")));
        let (socket, address) = socket();
        let silent = TcpStream::connect(address).await.expect("a connection");
        let (hand, ending) = Ending::new();
        let served = tokio::spawn(serve_until(own(socket), tls, hello, ending));
        tokio::task::yield_now().await;
        let began = Instant::now();
        hand.reach(Stage::Closing);
        served.await.expect("no panic");
        assert!(began.elapsed() < HURRY * 2, "{:?}", began.elapsed());
        drop(silent);
    }

    #[tokio::test]
    async fn what_stood_in_the_backlog_at_the_end_is_answered() {
        let (socket, address) = socket();
        let waiting = asked(address).await;
        let (hand, ending) = Ending::new();
        hand.reach(Stage::Deaf);
        serve_until(own(socket), Tls::default(), hello, ending).await;
        let answer = whole(waiting).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("connection: close"), "{answer}");
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn strangers_are_not_waited_for_with_a_head_that_is_too_long_anyway() {
        for (terms, expected) in [
            (Terms::default(), "HTTP/1.1 200"),
            (Terms::default().for_everybody(), "HTTP/1.1 431"),
        ] {
            let (socket, address) = socket();
            let (hand, ending) = Ending::new();
            let served = serve_until(own(socket).on(terms), Tls::default(), hello, ending);
            let served = tokio::spawn(served);
            let mut stream = TcpStream::connect(address).await.expect("a connection");
            let head = format!(
                "GET / HTTP/1.1\r\nHost: x\r\nx: {}\r\n",
                "x".repeat(80 << 10)
            );
            stream.write_all(head.as_bytes()).await.expect("written");
            if terms.per_network.is_none() {
                stream.write_all(b"\r\n").await.expect("written");
            }
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).await.expect("an answer");
            assert_eq!(answer, expected.as_bytes(), "{expected}");
            hand.reach(Stage::Cut);
            served.await.expect("no panic");
        }
    }

    #[tokio::test]
    async fn who_connects_ahead_from_a_private_address_is_kept_as_any_idle_connection() {
        let (socket, address) = socket();
        let terms = Terms::default().for_everybody();
        let (hand, ending) = Ending::new();
        let served = serve_until(own(socket).on(terms), Tls::default(), hello, ending);
        let served = tokio::spawn(served);
        let mut ahead = TcpStream::connect(address).await.expect("a connection");
        tokio::time::sleep(Duration::from_millis(50)).await;
        tokio::time::pause();
        tokio::time::sleep(Duration::from_mins(5)).await;
        tokio::time::resume();
        ahead.write_all(ASK).await.expect("written");
        let mut answer = [0; 12];
        ahead.read_exact(&mut answer).await.expect("an answer");
        assert_eq!(&answer, b"HTTP/1.1 200");
        hand.reach(Stage::Cut);
        served.await.expect("no panic");
    }

    #[tokio::test]
    async fn a_socket_that_others_hold_keeps_its_backlog_for_who_serves_next() {
        let (held, address) = socket();
        let shared = |socket: &std::net::TcpListener| {
            Listener::shared_tcp(socket.try_clone().expect("a descriptor")).expect("watched")
        };
        let waiting = asked(address).await;
        let (hand, ending) = Ending::new();
        hand.reach(Stage::Deaf);
        serve_until(shared(&held), Tls::default(), hello, ending).await;
        let (next, ending) = Ending::new();
        let served = tokio::spawn(serve_until(shared(&held), Tls::default(), hello, ending));
        next.reach(Stage::Leaving);
        assert!(whole(waiting).await.ends_with("hello"));
        next.reach(Stage::Closing);
        served.await.expect("no panic");
    }

    #[tokio::test]
    async fn idle_connections_go_when_closing_and_all_when_cut() {
        let (socket, address) = socket();
        let (hand, ending) = Ending::new();
        let (asked_for, mut begun) = tokio::sync::mpsc::unbounded_channel();
        let never = move |_: Request<RequestBody>| {
            asked_for.send(()).expect("the test listens");
            std::future::pending::<Response<Full<Bytes>>>()
        };
        let mut served = std::pin::pin!(serve_until(own(socket), Tls::default(), never, ending));
        let idle = TcpStream::connect(address).await.expect("a connection");
        let busy = asked(address).await;
        tokio::select! {
            () = &mut served => panic!("it ends by itself"),
            _ = begun.recv() => {}
        }
        hand.reach(Stage::Closing);
        tokio::select! {
            () = &mut served => panic!("a request is under way"),
            closed = whole(idle) => assert_eq!(closed, ""),
        }
        assert!((&mut served).now_or_never().is_none());
        hand.reach(Stage::Cut);
        served.await;
        assert_eq!(whole(busy).await, "");
    }
}
