//! Everything the simulated platform remembers, kept in memory behind one lock.
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use serde::Serialize;
use serde_json::{Map, Value};

use super::{
    aes::ContentKey,
    authorization::Grants,
    charset::Charset,
    error::SimulatorError,
    faults::Faults,
    messages::Subscriptions,
    multipart::UploadedFile,
    node::{Refusal, Signer},
    notify::Notice,
    platform::Platform,
    records::Records,
    seed::{AppMode, SimulatedApp, SimulatedMerchant},
    sign::SignType,
    trades::Trades,
    users::Users,
    v3::FixedAnswer,
};

/// How many gateway requests are remembered for `GET /simulator/requests`.
const REQUESTS_KEPT: usize = 1000;
/// How many nonces of v3 are remembered.
const NONCES_KEPT: usize = 10_000;

pub(super) struct World {
    pub(super) platform: Platform,
    pub(super) apps: BTreeMap<String, SimulatedApp>,
    /// By `auth_app_id`; holds no grants, those are in `grants`.
    pub(super) merchants: BTreeMap<String, SimulatedMerchant>,
    pub(super) grants: Grants,
    pub(super) subscriptions: Subscriptions,
    pub(super) users: Users,
    pub(super) trades: Trades,
    pub(super) faults: Faults,
    /// Node texts given by a test for methods of its own.
    pub(super) answers: BTreeMap<String, String>,
    /// What a test answers a verb and path of v3 with.
    pub(super) v3_answers: BTreeMap<(String, String), FixedAnswer>,
    /// The newest nonces, each behind its `app_id`, and the order they came in.
    nonces: (BTreeSet<String>, VecDeque<String>),
    pub(super) requests: VecDeque<GatewayRequest>,
    pub(super) notifications: Records,
    /// Notices that the call being handled owes; sent after the lock is released.
    pub(super) outbox: Vec<Notice>,
}

/// One request the gateway has judged, for tests to look at.
#[derive(Clone, Debug, Serialize)]
pub struct GatewayRequest {
    /// When it came, milliseconds since 1970.
    pub received_at: i64,
    /// `GET` or `POST`; v3 knows others.
    pub http_method: String,
    /// Whether the request target was in absolute form, as the official Python SDK writes it.
    pub absolute_form: bool,
    /// The `method` parameter, empty when it was missing; of a v3 call the path.
    pub method: String,
    /// The `app_id` parameter; empty when it was missing.
    pub app_id: String,
    /// The merchant its `app_auth_token` belongs to.
    pub auth_app_id: Option<String>,
    /// Names of the parameters in the query.
    pub query: Vec<String>,
    /// Names of the text parameters in the body, or of the members of a v3 body.
    pub body: Vec<String>,
    /// Names of the file parts.
    pub files: Vec<String>,
    /// The file parts, what they held told by length and hash.
    pub uploads: Vec<UploadedFile>,
    /// `ok`, or the `sub_code` of the refusal.
    pub verdict: String,
    /// The fault that was played, if any.
    pub fault: Option<&'static str>,
    /// The reply's `trace_id`.
    pub trace_id: String,
}

/// One verified call, as the business parts see it.
pub(super) struct Call {
    pub(super) method: String,
    pub(super) params: BTreeMap<String, String>,
    pub(super) biz_content: Map<String, Value>,
    pub(super) caller: Caller,
    /// The files of an upload.
    pub(super) files: Vec<UploadedFile>,
    /// What the call was encrypted with, and its answer is to be; none for a plain call.
    pub(super) content_key: Option<ContentKey>,
    /// Milliseconds since 1970.
    pub(super) now: i64,
}

/// In whose name a call is made.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) app_id: String,
    /// The merchant application behind the `app_auth_token`; none for the app itself.
    pub(super) auth_app_id: Option<String>,
    pub(super) pid: String,
}

impl Caller {
    /// Gives the application whose trades and users the call is about.
    pub(super) fn owner(&self) -> &str {
        self.auth_app_id.as_deref().unwrap_or(&self.app_id)
    }
}

impl Call {
    /// Gives a top-level parameter, empty when missing.
    pub(super) fn param(&self, name: &str) -> &str {
        self.params.get(name).map_or("", String::as_str)
    }

    /// Gives a member of `biz_content` as text: strings and numbers alike.
    pub(super) fn biz(&self, name: &str) -> Option<String> {
        match self.biz_content.get(name)? {
            Value::String(text) if text.is_empty() => None,
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        }
    }

    /// Gives a member of `biz_content`, or refuses the call.
    pub(super) fn required(&self, name: &str) -> Result<String, Refusal> {
        self.biz(name)
            .ok_or_else(|| Refusal::parameter(format!("参数有误{name}不能为空")))
    }
}

impl World {
    /// Makes an empty world.
    pub(super) fn new(platform: Platform) -> Self {
        Self {
            platform,
            apps: BTreeMap::new(),
            merchants: BTreeMap::new(),
            grants: Grants::default(),
            subscriptions: Subscriptions::default(),
            users: Users::default(),
            trades: Trades::default(),
            faults: Faults::default(),
            answers: BTreeMap::new(),
            v3_answers: BTreeMap::new(),
            nonces: Default::default(),
            requests: VecDeque::new(),
            notifications: Records::default(),
            outbox: Vec::new(),
        }
    }

    /// Gives what an app is answered and notified with: the platform's key, or in certificate
    /// mode that of its certificate in force. Whoever is unknown gets the key's.
    pub(super) fn signer(
        &mut self,
        app_id: &str,
        charset: Charset,
    ) -> Result<Signer, SimulatorError> {
        let app = self.apps.get(app_id);
        let mut signer = Signer {
            key: Arc::clone(self.platform.key()),
            alipay_cert_sn: None,
            sign_type: app.map_or(SignType::Rsa2, |app| app.sign_type),
            charset,
        };
        if app.is_some_and(|app| app.mode == AppMode::Certificate) {
            let sealing = self.platform.certificates()?.in_force();
            signer.key = Arc::clone(&sealing.key);
            signer.alipay_cert_sn = Some(sealing.certificate.sn.clone());
        }
        Ok(signer)
    }

    /// Gives the named app, or the only one.
    pub(super) fn app(&self, app_id: Option<&str>) -> Result<&SimulatedApp, SimulatorError> {
        match app_id {
            Some(id) => self
                .apps
                .get(id)
                .ok_or_else(|| SimulatorError::AppUnknown(id.to_owned())),
            None => self
                .apps
                .values()
                .next()
                .filter(|_| self.apps.len() == 1)
                .ok_or_else(|| SimulatorError::AppUnknown(String::new())),
        }
    }

    /// Uses up an app's nonce; tells whether it was new.
    pub(super) fn use_nonce(&mut self, app_id: &str, nonce: &str) -> bool {
        let nonce = format!("{app_id} {nonce}");
        let (known, order) = &mut self.nonces;
        if !known.insert(nonce.clone()) {
            return false;
        }
        order.push_back(nonce);
        if order.len() > NONCES_KEPT {
            order.pop_front().map(|oldest| known.remove(&oldest));
        }
        true
    }

    /// Gives an app's AES key.
    pub(super) fn content_key(&self, app_id: &str) -> Result<ContentKey, SimulatorError> {
        let key = self.app(Some(app_id))?.encryption.key.clone();
        key.ok_or_else(|| SimulatorError::NoEncryptKey(app_id.to_owned()))
    }

    /// Gives the named merchant application, or the first.
    pub(super) fn merchant(
        &self,
        auth_app_id: Option<&str>,
    ) -> Result<&SimulatedMerchant, SimulatorError> {
        match auth_app_id {
            Some(id) => self.merchants.get(id),
            None => self.merchants.values().next(),
        }
        .ok_or_else(|| SimulatorError::MerchantUnknown(auth_app_id.unwrap_or_default().to_owned()))
    }

    pub(super) fn add_merchant(&mut self, mut merchant: SimulatedMerchant, now: i64) {
        for grant in std::mem::take(&mut merchant.grants) {
            self.grants.adopt(&grant, &merchant.auth_app_id, now);
        }
        self.merchants
            .insert(merchant.auth_app_id.clone(), merchant);
    }

    /// Gives the PID of a merchant application, empty when it is unknown.
    pub(super) fn pid(&self, auth_app_id: &str) -> String {
        self.merchants
            .get(auth_app_id)
            .map(|merchant| merchant.pid.clone())
            .unwrap_or_default()
    }

    pub(super) fn record(&mut self, request: GatewayRequest) {
        if self.requests.len() == REQUESTS_KEPT {
            self.requests.pop_front();
        }
        self.requests.push_back(request);
    }
}
