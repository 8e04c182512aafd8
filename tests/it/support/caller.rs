//! A caller that never sends anything twice: what breaks is broken.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixStream};

use super::PATIENCE;

/// Speaks HTTP/1.1 to one address.
pub struct Caller {
    place: Place,
    keep: Keep,
    connection: Option<BufReader<Box<dyn Stream>>>,
}

/// Where it is spoken to.
enum Place {
    Tcp(String),
    Unix(PathBuf),
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Place {
    fn host(&self) -> &str {
        match self {
            Self::Tcp(address) => address,
            Self::Unix(_) => "localhost",
        }
    }

    async fn connect(&self) -> std::io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Tcp(address) => Box::new(TcpStream::connect(address).await?),
            Self::Unix(path) => Box::new(UnixStream::connect(path).await?),
        })
    }
}

/// Whether a connection is used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// As long as the other side leaves it open.
    Alive,
    /// For one request.
    Fresh,
}

/// An answer.
#[derive(Debug)]
pub struct Told {
    pub status: u16,
    pub head: String,
    pub body: String,
    /// From the connection's beginning, where it is new.
    pub took: Duration,
}

impl Caller {
    pub fn new(address: &str, keep: Keep) -> Self {
        Self {
            place: Place::Tcp(address.to_owned()),
            keep,
            connection: None,
        }
    }

    pub fn on_unix(path: &Path, keep: Keep) -> Self {
        Self {
            place: Place::Unix(path.to_owned()),
            keep,
            connection: None,
        }
    }

    /// Sends one request, once, and reads its answer.
    pub async fn ask(
        &mut self,
        method: &str,
        path: &str,
        headers: &str,
        body: &str,
    ) -> Result<Told, String> {
        let host = self.place.host();
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
        );
        let began = Instant::now();
        let exchange = self.exchange(&request);
        match tokio::time::timeout(PATIENCE, exchange).await {
            Ok(Ok(told)) => Ok(Told {
                took: began.elapsed(),
                ..told
            }),
            Ok(Err(error)) => Err(format!("{error} ({:?}, {method} {path})", self.keep)),
            Err(_) => Err(format!("no answer in {PATIENCE:?} ({method} {path})")),
        }
    }

    async fn exchange(&mut self, request: &str) -> std::io::Result<Told> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => BufReader::new(self.place.connect().await?),
        };
        connection.write_all(request.as_bytes()).await?;
        let told = read(&mut connection).await?;
        let closes = told.head.contains("connection: close\r\n");
        if self.keep == Keep::Alive && !closes {
            self.connection = Some(connection);
        }
        Ok(told)
    }
}

async fn read(connection: &mut BufReader<Box<dyn Stream>>) -> std::io::Result<Told> {
    let broken = |what: &str| std::io::Error::other(what.to_owned());
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if connection.read_line(&mut head).await? == 0 {
            return Err(broken("the connection ended without an answer"));
        }
    }
    head.make_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let length = length.and_then(|length| length.parse().ok());
    let mut body = vec![0; length.ok_or_else(|| broken("no length"))?];
    connection.read_exact(&mut body).await?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    Ok(Told {
        status: status.ok_or_else(|| broken("no status"))?,
        body: String::from_utf8_lossy(&body).into_owned(),
        head,
        took: Duration::ZERO,
    })
}
