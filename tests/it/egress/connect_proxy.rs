//! An HTTP proxy that makes tunnels, and one that doesn't: both remember who asked for what.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

/// What a proxy does with a request for a tunnel.
#[derive(Clone)]
pub enum Manner {
    /// Says these bytes, then is quiet for ever.
    Hangs(Vec<u8>),
    /// Says these bytes, then closes.
    Says(Vec<u8>),
    /// Says these bytes again and again.
    SaysWithoutEnd(Vec<u8>),
    /// Says these bytes, and joins both sides.
    Tunnels(&'static str),
}

/// A proxy on a port of its own, which knows every target by one address.
pub struct ConnectProxy {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    way: Mutex<SocketAddr>,
    manner: Mutex<Manner>,
    heads: Mutex<Vec<String>>,
    outbound: Mutex<BTreeSet<SocketAddr>>,
}

impl ConnectProxy {
    /// Starts one whose tunnels all lead to `way`.
    pub async fn start(way: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let shared = Arc::new(Shared {
            way: Mutex::new(way),
            manner: Mutex::new(Manner::Tunnels("200 Connection established")),
            heads: Mutex::default(),
            outbound: Mutex::default(),
        });
        let serving = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(Arc::clone(&serving).serve(stream));
            }
        });
        Self { port, shared }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// From now on its tunnels lead to `way`.
    pub fn lead_to(&self, way: SocketAddr) {
        *self.shared.way.lock().expect("no panic") = way;
    }

    pub fn behave(&self, manner: Manner) {
        *self.shared.manner.lock().expect("no panic") = manner;
    }

    /// The heads of all requests so far.
    pub fn heads(&self) -> Vec<String> {
        self.shared.heads.lock().expect("no panic").clone()
    }

    /// The addresses that it made connections from.
    pub fn outbound(&self) -> BTreeSet<SocketAddr> {
        self.shared.outbound.lock().expect("no panic").clone()
    }
}

impl Shared {
    async fn serve(self: Arc<Self>, mut stream: TcpStream) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut head).await.unwrap_or_default() == 0 {
                return;
            }
        }
        let head = String::from_utf8(head).expect("text");
        self.heads.lock().expect("no panic").push(head);
        let manner = self.manner.lock().expect("no panic").clone();
        match manner {
            Manner::Hangs(bytes) => {
                stream.write_all(&bytes).await.ok();
                // Until the other side has had enough.
                stream.read_u8().await.ok();
            }
            Manner::Says(bytes) => {
                stream.write_all(&bytes).await.ok();
                stream.shutdown().await.ok();
            }
            Manner::SaysWithoutEnd(bytes) => while stream.write_all(&bytes).await.is_ok() {},
            Manner::Tunnels(status) => self.join(stream, status).await,
        }
    }

    async fn join(&self, mut stream: TcpStream, status: &str) {
        let way = *self.way.lock().expect("no panic");
        let mut target = TcpStream::connect(way).await.expect("a target");
        let own = target.local_addr().expect("connected");
        self.outbound.lock().expect("no panic").insert(own);
        let answer = format!("HTTP/1.1 {status}\r\nVia: a test\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.expect("written");
        copy_bidirectional(&mut stream, &mut target).await.ok();
    }
}
