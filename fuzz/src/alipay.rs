//! An Alipay behind a sidecar: it looks at what comes, and answers everything with one signed success.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use alipay_sidecar::net::body::RequestBody;
use alipay_sidecar::protocol::authorization::Authorization;
use alipay_sidecar::protocol::charset::{Charset, label_of_form};
use alipay_sidecar::protocol::key::AppPrivateKey;
use alipay_sidecar::protocol::signature::SignType;
use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};

use crate::world::{APP, BROAD, LIMITED, MERCHANTS};
use crate::{keys, oracle};

/// What the caller wrote, in every spelling that its parts may have.
#[derive(Clone, Default)]
pub(crate) struct Input(Arc<Mutex<Vec<u8>>>);

impl Input {
    pub(crate) fn set(&self, bytes: &[u8]) {
        bytes.clone_into(&mut self.0.lock().expect("no panic"));
    }

    fn speaks_of(&self, name: &str) -> bool {
        let mut spellings = self.spellings().into_iter();
        spellings.any(|text| text.to_ascii_lowercase().contains(name))
    }

    fn spellings(&self) -> Vec<String> {
        oracle::spellings(&self.0.lock().expect("no panic"))
    }
}

pub(crate) struct Alipay {
    input: Input,
    /// Whether the sidecar knows its callers.
    is_guarded: bool,
    /// The signature of [`NODE`]: it covers the node alone, whatever the method.
    sign: String,
}

const NODE: &str = r#"{"code":"10000","msg":"Success"}"#;

impl Alipay {
    pub(crate) fn new(key: &AppPrivateKey, input: Input, is_guarded: bool) -> Self {
        let sign = key.sign(SignType::Rsa2, NODE.as_bytes()).expect("signed");
        Self {
            input,
            is_guarded,
            sign,
        }
    }

    pub(crate) async fn answer(&self, request: Request<RequestBody>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.expect("a whole body").to_bytes();
        let is_v3 = head.uri.path().starts_with("/v3/");
        let root = match is_v3 {
            true => {
                self.look_at_v3(&head, &body);
                String::new()
            }
            false => self.look_at_v2(&head, &body).replace('.', "_"),
        };
        let text = match is_v3 {
            true => r#"{"code":"system-error","message":"x"}"#.to_owned(),
            false => format!("{{\"{root}_response\":{NODE},\"sign\":\"{}\"}}", self.sign),
        };
        let mut response = Response::new(Full::new(text.into()));
        if is_v3 {
            *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
        }
        response
    }

    /// What is forwarded is a call of ours, whatever the caller wrote. Gives its method.
    fn look_at_v2(&self, head: &Parts, body: &[u8]) -> String {
        assert_eq!(
            (head.method.as_str(), head.uri.path()),
            ("POST", "/gateway.do")
        );
        let query = head.uri.query().unwrap_or_default().as_bytes();
        let charset = label_of_form(query).expect("a charset in the query");
        let charset = Charset::from_label(&charset).expect("a charset of Alipay's");
        let mut pairs = oracle::form(query, charset).expect("a query");
        let content_type = header(head, "content-type").unwrap_or_default().to_owned();
        let is_upload = content_type.starts_with("multipart/form-data;");
        if !is_upload {
            assert!(content_type.starts_with("application/x-www-form-urlencoded;"));
            pairs.extend(oracle::form(body, charset).expect("a form"));
        }
        let names: HashSet<_> = pairs
            .iter()
            .map(|(name, _)| name.to_ascii_lowercase())
            .collect();
        assert!(
            is_upload || names.len() == pairs.len(),
            "a name in two spellings"
        );
        let value = |wanted: &str| {
            let found = pairs.iter().find(|(name, _)| name == wanted);
            found.map(|(_, value)| value.as_str())
        };
        assert_eq!(value("app_id"), Some(APP));
        assert_eq!(value("sign_type"), Some("RSA2"));
        assert_eq!(value("version"), Some("1.0"));
        assert_eq!(value("format"), Some("JSON"));
        let is_encrypted = value("encrypt_type").is_some();
        assert!(!is_encrypted || self.input.speaks_of("encrypt_type"));
        assert_eq!(value("app_cert_sn"), None);
        let method = value("method").expect("a method");
        self.is_allowed(value("app_auth_token"), method);
        let sign = value("sign").expect("a signature");
        let content = oracle::content(oracle::borrowed(&pairs), |name, value| {
            name != "sign" && !oracle::is_blank(value)
        });
        let content = oracle::encode(&content, charset).expect("in the charset");
        let key = std::slice::from_ref(&*keys::APP_SHORT);
        // Of an upload the parts are signed, too; the tests of uploads read those.
        assert!(is_upload || oracle::is_signed(key, SignType::Rsa2, &content, sign));
        method.to_owned()
    }

    fn look_at_v3(&self, head: &Parts, body: &[u8]) {
        let auth = Authorization::parse(header(head, "authorization").expect("a signature"));
        let auth = auth.expect("a header as Alipay wants it");
        assert_eq!(auth.auth_string.get("app_id"), Some(APP));
        let token = header(head, "alipay-app-auth-token");
        let path = head.uri.path();
        assert!(
            !path
                .split('/')
                .any(|segment| [".", ".."].contains(&segment))
        );
        self.is_allowed(token, path);
        if header(head, "content-type").is_some_and(|kind| kind.starts_with("multipart/")) {
            return;
        }
        let target = head.uri.path_and_query().expect("a target").as_str();
        let lines = [auth.auth_string.as_str(), head.method.as_str(), target];
        let lines = lines.map(str::as_bytes).into_iter().chain([body]);
        let lines = lines.chain(token.map(str::as_bytes)).chain([&b""[..]]);
        let content = lines.collect::<Vec<_>>().join(&b'\n');
        let key = std::slice::from_ref(&*keys::APP_SHORT);
        assert!(oracle::is_signed(key, SignType::Rsa2, &content, &auth.sign));
    }

    /// A merchant's token goes with a call only if the caller named that merchant, and no call leaves
    /// for a caller that may not make it.
    fn is_allowed(&self, token: Option<&str>, called: &str) {
        let spellings = self.input.spellings();
        let has = |text: &str| spellings.iter().any(|spelling| spelling.contains(text));
        if let Some(token) = token {
            let mut merchants = MERCHANTS.iter();
            let merchant = merchants.find(|merchant| merchant[3] == token);
            let merchant = merchant.expect("a token of the store's");
            assert!(merchant.iter().any(|name| has(name)), "of another merchant");
        }
        let is_of_shop = token == Some(MERCHANTS[0][3]);
        let may_limited = is_of_shop && is_of_trade(called) && has(LIMITED);
        let may_broad = token.is_some() && !is_credential(called) && has(BROAD);
        let is_allowed = !self.is_guarded || may_limited || may_broad;
        assert!(is_allowed, "a call of nobody who may");
    }
}

/// Whether it is a method or a v3 path of `alipay.trade`.
fn is_of_trade(called: &str) -> bool {
    called.starts_with("alipay.trade.") || called.starts_with("/v3/alipay/trade/")
}

/// Whether it is a method or a v3 path by which credentials are had, in whatever spelling.
fn is_credential(called: &str) -> bool {
    let path = called.strip_prefix("/v3/").unwrap_or(called);
    let name = path.to_ascii_lowercase().replace(['/', '_', '-'], ".");
    name.starts_with("alipay.open.auth.")
}

/// A header's value, if it stands there at most once.
fn header<'a>(head: &'a Parts, name: &str) -> Option<&'a str> {
    let mut values = head.headers.get_all(name).iter();
    let value = values.next()?;
    assert!(values.next().is_none(), "`{name}` twice");
    Some(value.to_str().expect("visible ASCII"))
}
