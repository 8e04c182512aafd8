//! The backend of `dev`: takes every delivery, and passes it on to who asks.

use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::sync::{Mutex, mpsc};

use crate::config::listen::Listen;
use crate::net::body::RequestBody;
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
