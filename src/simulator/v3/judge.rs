//! Judges a v3 call: authorization header, certificates, body, signature, token.
use http::{HeaderMap, Method, Request};
use serde_json::Value;

use super::{
    super::{
        aes::ContentKey,
        content::{self, Content},
        judge::{
            check_certificates, content_key, identify_caller, signature_refusal, undecryptable,
        },
        methods::{self, Identity},
        multipart::{Parts, UploadedFile},
        node::Refusal,
        params::Received,
        seed::SimulatedApp,
        sign::SignType,
        world::{Call, World},
    },
    Members,
    authorization::Authorization,
    routes::Route,
};

/// The shortest nonce in characters.
const NONCE_LENGTH: usize = 16;
/// How far a timestamp may be from the platform's clock.
const SKEW_MS: i64 = 10 * 60 * 1000;

/// A call that has been verified.
pub(super) struct Judged {
    pub(super) call: Call,
    pub(super) route: Route,
    /// The members of its JSON body.
    pub(super) body: Members,
    /// What was signed.
    pub(super) sign_content: String,
}

/// Names the app that a call claims to come from; empty when it names none.
pub(super) fn app_id(headers: &HeaderMap) -> String {
    let authorization = Authorization::read(headers).ok();
    let app_id = authorization.as_ref().and_then(|read| read.item("app_id"));
    app_id.unwrap_or_default().to_owned()
}

/// Verifies a call and says who calls what.
pub(super) fn judge(
    world: &mut World,
    request: &Request<Content>,
    (route, now): (Option<Route>, i64),
) -> Result<Judged, Refusal> {
    let headers = request.headers();
    let authorization = Authorization::read(headers).map_err(Refusal::unsigned)?;
    let app = identify(world, &authorization).map_err(Refusal::unsigned)?;
    check_items(&authorization, now)?;
    let sns = [
        authorization.item("app_cert_sn"),
        text(headers, "alipay-root-cert-sn")?,
    ];
    check_certificates(world, &app, sns)?;

    let sent = Sent::read(request)?;
    let token = text(headers, "alipay-app-auth-token")?;
    let sign_content = sign_content(request, (&authorization, sent.signed), token);
    verify(world, (&app, &authorization), &sign_content)?;

    let route = route.ok_or_else(Refusal::unknown_method)?;
    // A path that a test answers belongs to a business API.
    let identity = methods::identity(route.method()).unwrap_or(Identity::Merchant);
    let caller = identify_caller(world, token, (&app, identity))?;
    let encrypt_type = text(headers, "alipay-encrypt-type")?;
    let key = content_key(encrypt_type, (&app, sent.files))?;
    let body = match &key {
        // A call without a body has nothing to encrypt; its answer is encrypted all the same.
        Some(key) if !sent.signed.is_empty() => decrypt(key, sent.signed)?,
        _ => members(sent.signed.as_bytes())?,
    };
    let query = Received::read_query(request.uri().query().unwrap_or_default())?;
    let mut call = Call {
        method: route.method().to_owned(),
        params: query.union()?,
        biz_content: body.clone(),
        caller,
        files: sent.files.to_vec(),
        content_key: key,
        now,
    };
    join(&mut call, token);
    Ok(Judged {
        call,
        route,
        body,
        sign_content,
    })
}

/// Verifies the signature, and only then uses the nonce up: a forged call must not.
fn verify(
    world: &mut World,
    (app, authorization): (&SimulatedApp, &Authorization),
    content: &str,
) -> Result<(), Refusal> {
    // v3 knows no other signature, whatever the app is set to.
    if !SignType::Rsa2.verify(&app.public_key, content.as_bytes(), &authorization.sign) {
        return Err(signature_refusal(content));
    }
    let nonce = authorization.item("nonce").unwrap_or_default();
    if world.use_nonce(&app.app_id, nonce) {
        return Ok(());
    }
    let text = "nonce重复，疑似重放请求";
    Err(Refusal::new("40002", "isv.suspected-attack", text))
}

fn identify(world: &World, authorization: &Authorization) -> Result<SimulatedApp, Refusal> {
    let missing = || Refusal::new("40001", "isv.missing-app-id", "缺少AppId参数");
    let app_id = authorization.item("app_id").ok_or_else(missing)?;
    let unknown = || Refusal::new("40002", "isv.invalid-app-id", "无效的AppID参数");
    world.apps.get(app_id).cloned().ok_or_else(unknown)
}

fn check_items(authorization: &Authorization, now: i64) -> Result<(), Refusal> {
    let nonce = authorization.item("nonce").unwrap_or_default();
    if nonce.len() < NONCE_LENGTH {
        return Err(Refusal::parameter("nonce缺失或过短"));
    }
    let timestamp = authorization.item("timestamp").unwrap_or_default();
    let bad_time = || Refusal::new("40002", "isv.invalid-timestamp", "非法的时间戳参数");
    let is_ms = timestamp.len() == 13 && timestamp.bytes().all(|byte| byte.is_ascii_digit());
    let timestamp: i64 = timestamp
        .parse()
        .ok()
        .filter(|_| is_ms)
        .ok_or_else(bad_time)?;
    if (now - timestamp).abs() > SKEW_MS {
        return Err(bad_time());
    }
    let Some(seconds) = authorization.item("expired_seconds") else {
        return Ok(());
    };
    match seconds.parse::<u32>() {
        Ok(seconds) if now <= timestamp + i64::from(seconds) * 1000 => Ok(()),
        _ => Err(bad_time()),
    }
}

/// What of a request is signed, and what comes beside it.
struct Sent<'a> {
    signed: &'a str,
    files: &'a [UploadedFile],
}

impl<'a> Sent<'a> {
    fn read(request: &'a Request<Content>) -> Result<Self, Refusal> {
        let malformed = || Refusal::parameter("请求体格式错误");
        match request.body() {
            Content::Malformed => Err(malformed()),
            Content::Parts(parts) => Self::parts(parts).ok_or_else(malformed),
            Content::Whole(body) => {
                let signed = std::str::from_utf8(body).map_err(|_| malformed())?;
                check_whole(request, signed)?;
                Ok(Self { signed, files: &[] })
            }
        }
    }

    /// Reads an upload: files, and at most the one text part `data`, which alone is signed.
    fn parts(parts: &'a Parts) -> Option<Self> {
        let signed = match parts.texts.as_slice() {
            [] => "",
            [(name, text)] if name == "data" => std::str::from_utf8(text).ok()?,
            _ => return None,
        };
        let files = &parts.files;
        Some(Self { signed, files })
    }
}

fn check_whole(request: &Request<Content>, body: &str) -> Result<(), Refusal> {
    if body.is_empty() {
        return Ok(());
    }
    if request.method() == Method::GET {
        return Err(Refusal::parameter("GET请求不允许有请求体"));
    }
    let encrypted = request.headers().contains_key("alipay-encrypt-type");
    let wanted = if encrypted {
        "text/plain"
    } else {
        "application/json"
    };
    let found = content::media_type(request.headers());
    if found == wanted {
        return Ok(());
    }
    let text = format!("Content-Type为{found}，应为{wanted}");
    Err(Refusal::parameter(text))
}

/// Writes the string that must be signed.
///
/// Protocol: 签名规则; the fifth line exists only with a token.
fn sign_content(
    request: &Request<Content>,
    (authorization, body): (&Authorization, &str),
    token: Option<&str>,
) -> String {
    let target = request
        .uri()
        .path_and_query()
        .map_or("", |target| target.as_str());
    let verb = request.method();
    let head = format!("{}\n{verb}\n{target}\n{body}\n", authorization.auth_string);
    match token {
        Some(token) => format!("{head}{token}\n"),
        None => head,
    }
}

/// Reads a header that may stand once; an empty one is refused.
fn text<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Refusal> {
    let mut all = headers.get_all(name).iter();
    let value = match (all.next(), all.next()) {
        (None, _) => return Ok(None),
        (Some(value), None) => value.to_str().ok().filter(|text| !text.is_empty()),
        _ => None,
    };
    let broken = || Refusal::parameter(format!("请求头{name}无效"));
    value.map(Some).ok_or_else(broken)
}

fn decrypt(key: &ContentKey, ciphertext: &str) -> Result<Members, Refusal> {
    let plaintext = key.decrypt(ciphertext.as_bytes());
    members(&plaintext.ok_or_else(undecryptable)?)
}

fn members(json: &[u8]) -> Result<Members, Refusal> {
    if json.is_empty() {
        return Ok(Members::new());
    }
    serde_json::from_slice(json).map_err(|_| Refusal::parameter("请求体不是JSON对象"))
}

/// Puts query and body where the methods of v2 look for them: everywhere.
fn join(call: &mut Call, token: Option<&str>) {
    for (name, value) in &call.params {
        let value = Value::from(value.as_str());
        call.biz_content.entry(name.as_str()).or_insert(value);
    }
    for (name, value) in &call.biz_content {
        if let Value::String(value) = value {
            call.params.insert(name.clone(), value.clone());
        }
    }
    // Only the header says in whose name a call is made.
    call.params.remove("app_auth_token");
    if let Some(token) = token {
        let name = "app_auth_token".to_owned();
        call.params.insert(name, token.to_owned());
    }
}
