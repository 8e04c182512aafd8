//! Requests that no HTTP library would write.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::PATIENCE;

/// Connects to `base`, an `http://` URL, and writes `request`.
pub async fn open(base: &str, request: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(authority(base))
        .await
        .expect("a connection");
    stream.write_all(request).await.expect("written");
    stream
}

/// Writes `request`, which must ask for the connection to be closed, and reads all that comes.
pub async fn exchange(base: &str, request: &[u8]) -> String {
    let mut stream = open(base, request).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    read.expect("an end").expect("an answer");
    String::from_utf8_lossy(&answer).into_owned()
}

/// The host and port of an `http://` URL.
pub fn authority(base: &str) -> &str {
    base.strip_prefix("http://").expect("an http URL")
}
