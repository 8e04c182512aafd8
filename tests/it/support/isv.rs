//! An ISV's client of its own making: it signs, encrypts and verifies without our protocol code.
#![allow(clippy::unwrap_used, reason = "a helper of tests")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use alipay_sidecar::clock::{Clock as _, SystemClock};
use alipay_sidecar::simulator::{
    CertificateFiles, DEFAULT_APP_ID, FIRST_APP_AUTH_TOKEN, SimulatedApp, Simulator,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rsa::pkcs8::{DecodePrivateKey as _, DecodePublicKey as _};
use rsa::{Pkcs1v15Sign, RsaPrivateKey, RsaPublicKey};
use serde_json::{Value, value::RawValue};
use sha2::{Digest as _, Sha256};

use super::keys;

pub type Params = BTreeMap<String, String>;

/// A simulator, and one app that speaks to it.
pub struct Isv {
    pub simulator: Simulator,
    pub key: RsaPrivateKey,
    /// In certificate mode: sent with every call.
    pub app_cert_sn: Option<String>,
    pub alipay_root_cert_sn: Option<String>,
    nonce: AtomicU64,
}

/// A v2 reply taken apart; the texts are raw.
#[derive(Debug)]
pub struct Reply {
    pub text: String,
    pub root: String,
    pub node: String,
    pub sign: Option<String>,
    pub alipay_cert_sn: Option<String>,
}

/// A v3 answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: String,
}

pub fn sign(key: &RsaPrivateKey, content: &str) -> String {
    let digest = Sha256::digest(content);
    STANDARD.encode(key.sign(Pkcs1v15Sign::new::<Sha256>(), &digest).unwrap())
}

pub fn verifies(key: &RsaPublicKey, content: &str, sign: &str) -> bool {
    let sign = STANDARD.decode(sign).unwrap();
    let digest = Sha256::digest(content);
    key.verify(Pkcs1v15Sign::new::<Sha256>(), &digest, &sign)
        .is_ok()
}

pub fn public_key(bare: &str) -> RsaPublicKey {
    RsaPublicKey::from_public_key_der(&STANDARD.decode(bare).unwrap()).unwrap()
}

pub fn content(params: &Params, left_out: &[&str]) -> String {
    let kept = params
        .iter()
        .filter(|(name, _)| !left_out.contains(&name.as_str()));
    kept.map(|(name, value)| format!("{name}={value}"))
        .collect::<Vec<_>>()
        .join("&")
}

/// Takes a form body apart.
pub fn decode(form: &str) -> Params {
    let decoded = |text: &str| {
        let mut bytes = Vec::new();
        let mut rest = text.bytes();
        while let Some(byte) = rest.next() {
            bytes.push(match byte {
                b'+' => b' ',
                b'%' => {
                    let digits = [rest.next().unwrap(), rest.next().unwrap()];
                    u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
                }
                other => other,
            });
        }
        String::from_utf8(bytes).unwrap()
    };
    form.split('&')
        .map(|pair| pair.split_once('=').unwrap())
        .map(|(name, value)| (name.to_owned(), decoded(value)))
        .collect()
}

pub fn form(params: &Params) -> String {
    let byte = |byte: u8| match byte {
        // The charset must be readable before anything is decoded.
        b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    let encode = |text: &str| -> String { text.bytes().map(byte).collect() };
    let pairs: Vec<_> = params
        .iter()
        .map(|(n, v)| format!("{n}={}", encode(v)))
        .collect();
    pairs.join("&")
}

pub async fn send(request: Request<Full<Bytes>>) -> Option<(Response<()>, String)> {
    let client = Client::builder(TokioExecutor::new()).build_http();
    let (head, body) = client.request(request).await.ok()?.into_parts();
    let body = body.collect().await.ok()?.to_bytes();
    Some((
        Response::from_parts(head, ()),
        String::from_utf8(body.to_vec()).unwrap(),
    ))
}

impl Isv {
    /// Starts a simulator that knows one app, changed by `change`, and the default merchants.
    pub async fn start(change: impl FnOnce(SimulatedApp) -> SimulatedApp) -> Self {
        let app = SimulatedApp::with_private_key(DEFAULT_APP_ID, &keys::private("app2048"));
        let simulator = Simulator::builder()
            .app(change(app.unwrap()))
            .default_merchants(DEFAULT_APP_ID)
            .platform_key(keys::private("alipay2048"))
            .time_scale(1_000_000.0)
            .listen("127.0.0.1:0")
            .await
            .unwrap()
            .build()
            .unwrap();
        tokio::spawn(simulator.clone().run(std::future::pending()));
        Self {
            simulator,
            key: RsaPrivateKey::from_pkcs8_pem(&keys::private("app2048")).unwrap(),
            app_cert_sn: None,
            alipay_root_cert_sn: None,
            nonce: AtomicU64::new(0),
        }
    }

    /// As [`start`](Self::start), in certificate mode; gives the files too.
    pub async fn start_with_certificates() -> (Self, CertificateFiles) {
        let mut isv = Self::start(SimulatedApp::certificate_mode).await;
        let files = isv.simulator.certificate_files(DEFAULT_APP_ID).unwrap();
        isv.use_files(&files);
        (isv, files)
    }

    pub fn use_files(&mut self, files: &CertificateFiles) {
        use alipay_sidecar::protocol::cert;
        self.app_cert_sn = Some(cert::app_cert_sn(&files.app_cert).unwrap());
        self.alipay_root_cert_sn = cert::alipay_root_cert_sn(&files.alipay_root_cert).unwrap();
    }

    /// A signed call's parameters; an empty value in `changes` takes a parameter away.
    pub fn params(&self, method: &str, changes: &[(&str, &str)]) -> Params {
        let mut params: Params = [
            ("app_id", DEFAULT_APP_ID),
            ("method", method),
            ("charset", "utf-8"),
            ("sign_type", "RSA2"),
            ("timestamp", "2026-11-22 10:20:30"),
            ("version", "1.0"),
            ("app_auth_token", FIRST_APP_AUTH_TOKEN),
            (
                "app_cert_sn",
                self.app_cert_sn.as_deref().unwrap_or_default(),
            ),
            (
                "alipay_root_cert_sn",
                self.alipay_root_cert_sn.as_deref().unwrap_or_default(),
            ),
        ]
        .into_iter()
        .chain(changes.iter().copied())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
        params.retain(|_, value| !value.is_empty());
        let sign = sign(&self.key, &content(&params, &["sign"]));
        params.insert("sign".to_owned(), sign);
        params
    }

    pub async fn call(&self, method: &str, changes: &[(&str, &str)]) -> Reply {
        let query = form(&self.params(method, changes));
        let request = Request::post(format!("{}/gateway.do?{query}", self.simulator.url()))
            .body(Full::default())
            .unwrap();
        let (head, text) = send(request).await.unwrap();
        assert_eq!(head.status(), StatusCode::OK);
        take_apart(text)
    }

    pub fn platform_key(&self) -> RsaPublicKey {
        public_key(&self.simulator.platform_public_key())
    }

    /// One v3 call, signed over what is sent.
    pub fn v3(&self, method: &str, target: &str, body: &str) -> V3<'_> {
        V3 {
            isv: self,
            method: method.to_owned(),
            target: target.to_owned(),
            body: body.to_owned(),
            wire: None,
            content_type: "application/json".to_owned(),
            token: Some(FIRST_APP_AUTH_TOKEN.to_owned()),
            auth: None,
            headers: Vec::new(),
        }
    }

    fn nonce(&self) -> String {
        format!(
            "nonce-of-a-test-{}",
            self.nonce.fetch_add(1, Ordering::Relaxed)
        )
    }
}

/// A v3 call that is being made.
pub struct V3<'a> {
    isv: &'a Isv,
    method: String,
    target: String,
    body: String,
    wire: Option<Vec<u8>>,
    content_type: String,
    token: Option<String>,
    auth: Option<String>,
    headers: Vec<(String, String)>,
}

impl V3<'_> {
    /// Sends another body than the signed one (multipart).
    pub fn wire(mut self, content_type: &str, bytes: Vec<u8>) -> Self {
        self.content_type = content_type.to_owned();
        self.wire = Some(bytes);
        self
    }

    pub fn content_type(mut self, content_type: &str) -> Self {
        self.content_type = content_type.to_owned();
        self
    }

    pub fn token(mut self, token: Option<&str>) -> Self {
        self.token = token.map(str::to_owned);
        self
    }

    /// Sets the auth string; `{nonce}` and `{now}` are filled in.
    pub fn auth(mut self, auth: &str) -> Self {
        self.auth = Some(auth.to_owned());
        self
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn auth_string(&self) -> String {
        let certificate = match &self.isv.app_cert_sn {
            Some(sn) => format!(",app_cert_sn={sn}"),
            None => String::new(),
        };
        let default =
            format!("app_id={DEFAULT_APP_ID}{certificate},nonce={{nonce}},timestamp={{now}}");
        let now = SystemClock.now_ms();
        self.auth
            .clone()
            .unwrap_or(default)
            .replace("{nonce}", &self.isv.nonce())
            .replace("{now}", &now.to_string())
    }

    pub fn request(self) -> Request<Full<Bytes>> {
        let auth = self.auth_string();
        let token = match &self.token {
            Some(token) => format!("{token}\n"),
            None => String::new(),
        };
        let content = format!(
            "{auth}\n{}\n{}\n{}\n{token}",
            self.method, self.target, self.body
        );
        let sign = sign(&self.isv.key, &content);
        let url = format!("{}{}", self.isv.simulator.url(), self.target);
        let mut request = Request::builder()
            .method(self.method.as_str())
            .uri(url)
            .header(
                "authorization",
                format!("ALIPAY-SHA256withRSA {auth},sign={sign}"),
            )
            .header("alipay-request-id", "r1");
        if let Some(token) = &self.token {
            request = request.header("alipay-app-auth-token", token);
        }
        if let Some(sn) = &self.isv.alipay_root_cert_sn {
            request = request.header("alipay-root-cert-sn", sn);
        }
        let body = self.wire.unwrap_or_else(|| self.body.into_bytes());
        if !body.is_empty() {
            request = request.header("content-type", &self.content_type);
        }
        for (name, value) in self.headers {
            request = request.header(name, value);
        }
        request.body(Full::new(Bytes::from(body))).unwrap()
    }

    pub async fn send(self) -> Answer {
        let (head, body) = send(self.request()).await.unwrap();
        Answer {
            status: head.status(),
            headers: head.headers().clone(),
            body,
        }
    }
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        Some(self.headers.get(name)?.to_str().unwrap())
    }

    pub fn verifies(&self, key: &RsaPublicKey) -> bool {
        let header = |name: &str| self.header(name).unwrap_or_default();
        let (timestamp, nonce) = (header("alipay-timestamp"), header("alipay-nonce"));
        let content = format!("{timestamp}\n{nonce}\n{}\n", self.body);
        verifies(key, &content, header("alipay-signature"))
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect(&self.body)
    }
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.node).expect(&self.text)
    }

    pub fn sub_code(&self) -> String {
        self.json()["sub_code"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    pub fn verifies(&self, key: &RsaPublicKey) -> bool {
        verifies(key, &self.node, self.sign.as_deref().expect("a sign"))
    }
}

fn take_apart(text: String) -> Reply {
    let members: BTreeMap<String, Box<RawValue>> = serde_json::from_str(&text).expect(&text);
    let string = |name: &str| -> Option<String> {
        Some(serde_json::from_str(members.get(name)?.get()).unwrap())
    };
    let (root, node) = members
        .iter()
        .find(|(name, _)| name.ends_with("_response"))
        .expect("a node");
    Reply {
        root: root.clone(),
        node: node.get().to_owned(),
        sign: string("sign"),
        alipay_cert_sn: string("alipay_cert_sn"),
        text,
    }
}
