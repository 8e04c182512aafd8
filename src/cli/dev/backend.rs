//! The backend of `dev`: takes every delivery, and passes it on to who asks.

use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::sync::{Mutex, mpsc};

use crate::config::listen::Listen;
use crate::net::body::RequestBody;
use crate::net::head::{self, HeadFault};
use crate::net::listener::Listener;
use crate::net::serve::serve;
use crate::net::shutdown::{Shutdown, ShutdownTrigger};

/// How long a delivery may take to come: it should come at once.
const PATIENCE: Duration = Duration::from_secs(10);

/// A delivery as the backend saw it.
#[derive(Debug)]
pub(crate) struct Delivered {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Delivered {
    /// A header's text, empty if there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A backend on a port of its own.
pub(crate) struct Backend {
    url: String,
    delivered: Mutex<mpsc::UnboundedReceiver<Delivered>>,
    _end: ShutdownTrigger,
}

impl Backend {
    pub(crate) async fn start() -> Result<Self> {
        let listener = Listener::bind(&Listen::Tcp("127.0.0.1:0".to_owned())).await?;
        let url = format!("http://{}/alipay/events", listener.address());
        let (sender, delivered) = mpsc::unbounded_channel();
        let (end, ends) = Shutdown::new();
        let handle = move |request: Request<RequestBody>| {
            let sender = sender.clone();
            async move {
                let (head, body) = request.into_parts();
                if let Err(fault) = head::check_whole(&head) {
                    // Perhaps only its beginning is there.
                    let mut answer = Response::new(Full::default());
                    *answer.status_mut() = match fault {
                        HeadFault::TooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                        _ => StatusCode::BAD_REQUEST,
                    };
                    return answer;
                }
                // A body that breaks off is answered all the same: its sender has gone.
                if let Ok(body) = body.collect().await {
                    let body = body.to_bytes();
                    // Nobody listens any more once the program ends.
                    let _ = sender.send(Delivered {
                        headers: head.headers,
                        body,
                    });
                }
                Response::new(Full::new(Bytes::from_static(b"success")))
            }
        };
        tokio::spawn(serve(listener, None, handle, ends));
        Ok(Self {
            url,
            delivered: Mutex::new(delivered),
            _end: end,
        })
    }

    /// The address deliveries go to.
    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    /// Waits for the next delivery.
    pub(crate) async fn next(&self) -> Result<Delivered> {
        tokio::time::timeout(PATIENCE, self.next_ever())
            .await
            .context("nothing was delivered to the backend")?
            .context("the backend has ended")
    }

    /// Waits for the next delivery, however long.
    pub(crate) async fn next_ever(&self) -> Option<Delivered> {
        self.delivered.lock().await.recv().await
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn a_delivery_of_whose_head_a_part_is_gone_is_none() {
        let backend = Backend::start().await.expect("a port");
        let url: http::Uri = backend.url().parse().expect("a URL");
        let address = url.authority().expect("an address").as_str();
        for (fields, expected) in [(600, "HTTP/1.1 431 "), (9, "HTTP/1.1 200 ")] {
            let mut stream = TcpStream::connect(address).await.expect("a connection");
            let more = "a: b\r\n".repeat(fields);
            let sent = format!(
                "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{more}n: {fields}\r\n\r\n"
            );
            stream.write_all(sent.as_bytes()).await.expect("written");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.expect("an answer");
            assert!(answer.starts_with(expected), "{answer}");
        }
        let delivered = backend.next().await.expect("the second");
        assert_eq!(delivered.header("n"), "9");
    }
}
