//! An Alipay that remembers which case arrived for whom, and refuses everything unsigned.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use alipay_sidecar::config::listen::Listen;
use alipay_sidecar::net::body::RequestBody;
use alipay_sidecar::net::listener::Listener;
use alipay_sidecar::net::serve::serve;
use alipay_sidecar::net::shutdown::{Shutdown, ShutdownTrigger};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};

use super::oracle::Whom;
use super::tables::APPS;

pub struct Remembering {
    pub url: String,
    pub arrived: Arc<Mutex<HashMap<usize, Vec<Whom>>>>,
    _end: ShutdownTrigger,
}

impl Remembering {
    pub async fn start() -> Self {
        let listener = Listener::bind(&Listen::Tcp("127.0.0.1:0".to_owned())).await;
        let listener = listener.expect("a port");
        let url = format!("http://{}", listener.address());
        let arrived: Arc<Mutex<HashMap<usize, Vec<Whom>>>> = Arc::default();
        let seen = Arc::clone(&arrived);
        let handle = move |request: Request<RequestBody>| {
            let seen = Arc::clone(&seen);
            async move { remember(request, &seen).await }
        };
        let (end, ends) = Shutdown::new();
        tokio::spawn(serve(listener, None, handle, ends));
        Self {
            url,
            arrived,
            _end: end,
        }
    }
}

async fn remember(
    request: Request<RequestBody>,
    seen: &Mutex<HashMap<usize, Vec<Whom>>>,
) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    let header = |name: &str| {
        let value = head.headers.get(name);
        value.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    // Nothing of what proved the caller goes further than the sidecar.
    let authorization = header("authorization").unwrap_or_default();
    assert!(!authorization.starts_with("Bearer"));
    let text = format!(
        "{} {} {} {authorization}",
        head.uri,
        String::from_utf8_lossy(&body),
        header("alipay-app-auth-token").unwrap_or_default()
    );
    let (_, case) = text.split_once("case-").expect("a case");
    let case: String = case.chars().take_while(char::is_ascii_digit).collect();
    let mut seen = seen.lock().expect("no panic");
    seen.entry(case.parse().expect("digits"))
        .or_default()
        .push(whom(&text));
    let (status, answer) = match head.uri.path() {
        "/gateway.do" => (200, r#"{"error_response":{"code":"40002","msg":"no"}}"#),
        _ => (400, r#"{"code":"no","message":"no"}"#),
    };
    let mut response = Response::new(Full::new(Bytes::from_static(answer.as_bytes())));
    *response.status_mut() = http::StatusCode::from_u16(status).expect("a status");
    response
}

/// For whom, and as which app, a text was signed.
pub fn whom(text: &str) -> Whom {
    let token = text.split_once("token-of-");
    let letter = token.and_then(|(_, rest)| rest.chars().next());
    let mut named = APPS.iter().enumerate().filter(|(_, id)| text.contains(*id));
    let (app, _) = named.next().expect("an app signed it");
    assert!(named.next().is_none(), "one app signs");
    (letter.unwrap_or('S'), app)
}
