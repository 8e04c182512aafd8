//! SPI: the platform asks a developer's server, and checks the signed answer.
//!
//! Protocol: SPI接入指南.
use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt as _, Full, Limited};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    Inner, Simulator,
    charset::Charset,
    error::SimulatorError,
    node::Signer,
    params,
    seed::{AppMode, SimulatedApp},
    sign,
};

/// How long an answer may take; the platform's own deadline is not documented.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How much of an answer is read.
const ANSWER_LIMIT: usize = 1024 * 1024;

/// An SPI call that the platform is to make.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct SpiCall {
    /// `invoke_app_id`: the app that is asked; may be left out when there is only one.
    pub app_id: Option<String>,
    /// `biz_app_id` and `merchant_app_id`: the merchant it is about; the first when left out.
    pub auth_app_id: Option<String>,
    /// `method`, such as `spi.alipay.user.query`.
    pub method: String,
    /// Parameters, set before signing; one of a system parameter's name replaces it, and an empty
    /// value takes it away.
    pub params: BTreeMap<String, String>,
    /// `charset`: `UTF-8`, `GBK` or `GB2312`; `UTF-8` when left out.
    pub charset: Option<String>,
    /// `POST` when left out; with `GET` everything goes into the query.
    pub http_method: Option<String>,
    /// Whether a parameter is added after signing.
    pub tampered: bool,
}

/// What came of an SPI call.
#[derive(Clone, Debug, Serialize)]
pub struct SpiRecord {
    /// The HTTP status, if there was an answer.
    pub status: Option<u16>,
    /// The answer's body.
    pub body: String,
    /// Whether it is a signed answer of the app.
    pub verified: bool,
    /// Why it is not.
    pub problem: Option<String>,
}

impl Simulator {
    /// Calls an SPI address as the platform does, and checks the answer: its signature by the
    /// app's public key over the raw text of `response` (or, where that is a string, over the
    /// text in it), and in certificate mode its `app_cert_sn`.
    ///
    /// # Errors
    /// [`SimulatorError::AppUnknown`], [`SimulatorError::MerchantUnknown`],
    /// [`SimulatorError::OptionInvalid`], [`SimulatorError::Certificate`].
    ///
    /// # Cancel safety
    /// Dropping the future drops the call.
    pub async fn spi(&self, url: &str, call: &SpiCall) -> Result<SpiRecord, SimulatorError> {
        let inner = &self.0;
        let (request, expected) = prepare(inner, url, call)?;
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, send(inner, request))
            .await
            .unwrap_or_else(|_| Err("no answer within 10 s".to_owned()));
        Ok(match answer {
            Err(problem) => SpiRecord {
                status: None,
                body: String::new(),
                verified: false,
                problem: Some(problem),
            },
            Ok((status, body)) => expected.judge(status, &body),
        })
    }
}

/// Writes the signed request, and says how its answer is to be judged.
fn prepare(
    inner: &Inner,
    url: &str,
    call: &SpiCall,
) -> Result<(Request<Full<Bytes>>, Expected), SimulatorError> {
    let label = call.charset.as_deref().unwrap_or("UTF-8");
    let charset = Charset::of(label).ok_or_else(|| SimulatorError::OptionInvalid {
        option: "charset",
        found: label.to_owned(),
        expected: "UTF-8, GBK or GB2312",
    })?;
    let (app, auth_app_id, signer, app_cert_sn) = inner.with_world(|world| {
        let app = world.app(call.app_id.as_deref())?.clone();
        let merchant = world.merchant(call.auth_app_id.as_deref())?;
        let auth_app_id = merchant.auth_app_id.clone();
        let signer = world.signer(&app.app_id, charset)?;
        let app_cert_sn = match app.mode {
            AppMode::Key => None,
            AppMode::Certificate => {
                let certificates = world.platform.certificates()?;
                Some(certificates.of_app(&app.app_id, &app.public_key)?.sn)
            }
        };
        Ok::<_, SimulatorError>((app, auth_app_id, signer, app_cert_sn))
    })?;
    let (query, body) = signed(call, (&app.app_id, &auth_app_id), (&signer, inner.now()));
    let request = write(url, (&query, &body), (call, charset))?;
    let expected = Expected {
        app,
        app_cert_sn,
        charset,
    };
    Ok((request, expected))
}

/// Gives the system parameters with their signature, then the business parameters.
fn signed(
    call: &SpiCall,
    (app_id, auth_app_id): (&str, &str),
    (signer, now): (&Signer, i64),
) -> (Pairs, Pairs) {
    let mut query: BTreeMap<String, String> = [
        ("method", call.method.as_str()),
        ("charset", call.charset.as_deref().unwrap_or("UTF-8")),
        ("version", "1.0"),
        ("biz_app_id", auth_app_id),
        ("invoke_app_id", app_id),
        ("merchant_app_id", auth_app_id),
        ("utc_timestamp", &(now / 1000).to_string()),
        ("sign_type", signer.sign_type.as_str()),
        (
            "alipay_cert_sn",
            signer.alipay_cert_sn.as_deref().unwrap_or_default(),
        ),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect();
    let mut body = Pairs::new();
    for (name, value) in &call.params {
        match query.get_mut(name) {
            Some(system) => system.clone_from(value),
            None => body.push((name.clone(), value.clone())),
        }
    }
    query.retain(|_, value| !value.is_empty());
    let all = query
        .iter()
        .chain(body.iter().map(|(name, value)| (name, value)));
    let all = all.map(|(name, value)| (name.as_str(), value.as_str()));
    let sign = signer.sign(&sign::sign_content(all, &["sign", "sign_type"]));
    let mut query: Pairs = query.into_iter().collect();
    query.push(("sign".to_owned(), sign));
    if call.tampered {
        query.push(("simulator_tampered".to_owned(), "1".to_owned()));
    }
    (query, body)
}

fn write(
    url: &str,
    (query, body): (&Pairs, &Pairs),
    (call, charset): (&SpiCall, Charset),
) -> Result<Request<Full<Bytes>>, SimulatorError> {
    let invalid = |option: &'static str, found: &str, expected| SimulatorError::OptionInvalid {
        option,
        found: found.to_owned(),
        expected,
    };
    let verb = call.http_method.as_deref().unwrap_or("POST");
    let mut query = params::write_form(query, charset);
    let mut form = params::write_form(body, charset);
    let verb = match verb {
        "POST" => Method::POST,
        "GET" => {
            if !form.is_empty() {
                query = format!("{query}&{}", std::mem::take(&mut form));
            }
            Method::GET
        }
        other => return Err(invalid("http_method", other, "GET or POST")),
    };
    let joint = if url.contains('?') { '&' } else { '?' };
    let content_type = format!(
        "application/x-www-form-urlencoded; charset={}",
        charset.label()
    );
    Request::builder()
        .method(verb)
        .uri(format!("{url}{joint}{query}"))
        .header(header::CONTENT_TYPE, content_type)
        .body(Full::new(Bytes::from(form)))
        .map_err(|_| {
            invalid(
                "url",
                url,
                "an address such as http://127.0.0.1:2089/alipay/spi/x",
            )
        })
}

async fn send(inner: &Inner, request: Request<Full<Bytes>>) -> Result<(u16, Bytes), String> {
    let answer = inner.client.request(request).await;
    let answer = answer.map_err(|error| error.to_string())?;
    let status = answer.status().as_u16();
    let body = Limited::new(answer.into_body(), ANSWER_LIMIT)
        .collect()
        .await;
    Ok((status, body.map_err(|error| error.to_string())?.to_bytes()))
}

/// What a good answer is signed with.
struct Expected {
    app: SimulatedApp,
    app_cert_sn: Option<String>,
    charset: Charset,
}

impl Expected {
    fn judge(&self, status: u16, body: &[u8]) -> SpiRecord {
        let text = self.charset.decode(body);
        let problem = match (&text, status) {
            (Some(text), 200) => self.check(text).err(),
            (None, _) => Some("the answer is not in the charset of the call".to_owned()),
            (_, status) => Some(format!("status {status}, expected 200")),
        };
        SpiRecord {
            status: Some(status),
            body: text.unwrap_or_else(|| String::from_utf8_lossy(body).into_owned()),
            verified: problem.is_none(),
            problem,
        }
    }

    fn check(&self, text: &str) -> Result<(), String> {
        let members: BTreeMap<String, Box<RawValue>> =
            serde_json::from_str(text).map_err(|error| format!("no JSON object: {error}"))?;
        let string =
            |name: &str| -> Option<String> { serde_json::from_str(members.get(name)?.get()).ok() };
        let response = members.get("response").ok_or("no response")?.get();
        let response = string("response").unwrap_or_else(|| response.to_owned());
        let is_object = serde_json::from_str::<BTreeMap<String, Box<RawValue>>>(&response).is_ok();
        if !is_object {
            return Err("response is no object".to_owned());
        }
        let sign = string("sign").ok_or("no sign")?;
        let signed = self.charset.encode(&response).unwrap_or_default();
        let app = &self.app;
        if !app.sign_type.verify(&app.public_key, &signed, &sign) {
            return Err("sign is not the app's over the text of response".to_owned());
        }
        match (&self.app_cert_sn, string("app_cert_sn")) {
            (Some(wanted), found) if found.as_ref() != Some(wanted) => {
                Err(format!("app_cert_sn is {found:?}, expected {wanted}"))
            }
            _ => Ok(()),
        }
    }
}

type Pairs = Vec<(String, String)>;
