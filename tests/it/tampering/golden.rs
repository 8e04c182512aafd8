//! Good messages of every kind, from the vectors, and a few signed here with the platform's
//! throw-away key.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use alipay_sidecar::protocol::charset::Charset;
use alipay_sidecar::protocol::key::RsaPublicKey;
use alipay_sidecar::protocol::signature::SignType;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rsa::pkcs8::DecodePrivateKey as _;
use rsa::{Pkcs1v15Sign, RsaPrivateKey};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::protocol::{bytes, file, public_key, text};

/// What a message is, and what its receiver knows besides its bytes.
pub(super) enum Kind {
    /// The body of a v2 reply.
    Reply {
        method: String,
        charset: Charset,
        sign_type: SignType,
    },
    /// Lines of headers, an empty line, the body.
    V3 { status: u16 },
    /// The body of a notification.
    Notification { content_type: String, app: SignType },
    /// The query of an SPI call, a line break, its body.
    Spi,
    /// What `my.getPhoneNumber` gave.
    ClientData,
    /// What an app's payment gave.
    AppResult,
}

impl Kind {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Reply { .. } => "v2 replies",
            Self::V3 { .. } => "v3 responses",
            Self::Notification { .. } => "notifications",
            Self::Spi => "SPI calls",
            Self::ClientData => "client data",
            Self::AppResult => "app results",
        }
    }
}

pub(super) struct Golden {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) wire: Vec<u8>,
}

/// The keys that play Alipay.
pub(super) fn alipay_keys() -> [RsaPublicKey; 2] {
    static KEYS: LazyLock<[RsaPublicKey; 2]> =
        LazyLock::new(|| ["alipay2048", "alipay1024"].map(public_key));
    KEYS.clone()
}

pub(super) fn all() -> &'static [Golden] {
    static ALL: LazyLock<Vec<Golden>> = LazyLock::new(|| {
        let mut all = Vec::new();
        all.extend(REPLIES.map(reply));
        all.extend(V3.map(v3));
        all.extend(NOTIFICATIONS.map(notification));
        all.extend(["encrypted", "plain-error"].map(client_data));
        all.extend(made_here());
        all
    });
    &ALL
}

/// Some of each kind, the shortest ones: twenty.
pub(super) fn chosen() -> Vec<&'static Golden> {
    let mut left = BTreeMap::from([
        ("SPI calls", 2),
        ("app results", 1),
        ("client data", 2),
        ("notifications", 4),
        ("v2 replies", 8),
        ("v3 responses", 3),
    ]);
    let mut all: Vec<_> = all().iter().collect();
    all.sort_by_key(|golden| golden.wire.len());
    all.retain(|golden| {
        let left = left.get_mut(golden.kind.name()).unwrap();
        let is_chosen = *left > 0;
        *left -= i32::from(is_chosen);
        is_chosen
    });
    all
}

const REPLIES: [&str; 15] = [
    "simple",
    "sign-first",
    "chinese",
    "chinese-gbk",
    "slash-escaped-signed-raw",
    "slash-escaped-signed-unescaped",
    "pretty-printed",
    "nested-sign-key",
    "braces-in-strings",
    "sign-escaped-slash",
    "cert-sn-after",
    "error-node-signed",
    "error_response-signed",
    "rsa1",
    "encrypted-node",
];
const V3: [&str; 3] = ["ok", "empty-body", "encrypted"];
const NOTIFICATIONS: [&str; 9] = [
    "trade-success",
    "sign-type-kept",
    "rsa1-1024",
    "gbk",
    "empty-value-kept",
    "percent-in-passback",
    "isv-auth",
    "ant-message-with-cert-sn",
    "service-check",
];

fn case(file_name: &str, list: &[&str], id: &str) -> Value {
    let file = file(file_name);
    let cases = list
        .iter()
        .fold(&file["cases"], |cases, name| &cases[*name]);
    let mut cases = cases.as_array().unwrap().iter();
    cases.find(|case| case["id"] == id).unwrap().clone()
}

fn reply(id: &str) -> Golden {
    let case = case("v2-response", &[], id);
    Golden {
        name: format!("reply {id}"),
        kind: Kind::Reply {
            method: text(&case, "api_method").to_owned(),
            charset: Charset::from_label(text(&case, "charset")).unwrap(),
            sign_type: text(&case, "sign_type").parse().unwrap(),
        },
        wire: bytes(&case, "body_b64"),
    }
}

fn v3(id: &str) -> Golden {
    let case = case("v3-response", &[], id);
    let mut wire = Vec::new();
    for header in case["headers"].as_array().unwrap() {
        let (name, value) = (header[0].as_str().unwrap(), header[1].as_str().unwrap());
        wire.extend(format!("{name}: {value}\n").bytes());
    }
    wire.push(b'\n');
    wire.extend(bytes(&case, "body_b64"));
    Golden {
        name: format!("v3 {id}"),
        kind: Kind::V3 { status: 200 },
        wire,
    }
}

fn notification(id: &str) -> Golden {
    let case = case("notify", &[], id);
    Golden {
        name: format!("notification {id}"),
        kind: Kind::Notification {
            content_type: text(&case, "content_type").to_owned(),
            app: match id.starts_with("rsa1") {
                true => SignType::Rsa,
                false => SignType::Rsa2,
            },
        },
        wire: bytes(&case, "raw_body_b64"),
    }
}

fn client_data(id: &str) -> Golden {
    Golden {
        name: format!("client data {id}"),
        kind: Kind::ClientData,
        wire: text(&case("replies", &["client_data"], id), "message").into(),
    }
}

fn sign(content: &str) -> String {
    let pem = file("keys");
    let key = RsaPrivateKey::from_pkcs8_pem(text(&pem["keys"]["alipay2048"], "pkcs8_pem")).unwrap();
    let digest = Sha256::digest(content);
    STANDARD.encode(key.sign(Pkcs1v15Sign::new::<Sha256>(), &digest).unwrap())
}

/// User information, SPI calls, an app's payment: of these the vectors have no signed ones.
fn made_here() -> [Golden; 5] {
    let user = r#"{"code":"10000","msg":"Success","user_id":"2088102104794936","nick_name":"\u652f\u4ed8\u5b9d/\ud83d\ude00"}"#;
    let paid = r#"{"code":"10000","msg":"Success","app_id":"2021000122671080","out_trade_no":"7","total_amount":"0.01"}"#;
    let call = "biz_app_id=2&method=spi.alipay.merchant.query&utc_timestamp=1700000000";
    let escaped = |text: &str| {
        text.replace('+', "%2B")
            .replace('/', "%2F")
            .replace('=', "%3D")
    };
    let spi = |name: &str, wire: String| Golden {
        name: name.to_owned(),
        kind: Kind::Spi,
        wire: wire.into(),
    };
    let app_result = |name: &str, wire: String| Golden {
        name: name.to_owned(),
        kind: Kind::AppResult,
        wire: wire.into(),
    };
    let result = format!(
        "{{\"alipay_trade_app_pay_response\":{paid},\"sign\":\"{}\",\"sign_type\":\"RSA2\"}}",
        sign(paid)
    );
    [
        Golden {
            name: "reply user-info".to_owned(),
            kind: Kind::Reply {
                method: "alipay.user.info.share".to_owned(),
                charset: Charset::Utf8,
                sign_type: SignType::Rsa2,
            },
            wire: format!(
                "{{\"alipay_user_info_share_response\":{user},\"sign\":\"{}\"}}",
                sign(user)
            )
            .into(),
        },
        spi(
            "SPI in the query",
            format!("{call}&sign_type=RSA2&sign={}\n", escaped(&sign(call))),
        ),
        spi(
            "SPI in query and body",
            format!(
                "method=spi.alipay.merchant.query&sign_type=RSA2\nutc_timestamp=1700000000&biz_app_id=2&sign={}",
                escaped(&sign(call))
            ),
        ),
        app_result("an app's payment", result.clone()),
        app_result(
            "an app's payment, the whole map",
            serde_json::json!({"resultStatus": "9000", "result": result, "memo": ""}).to_string(),
        ),
    ]
}

/// Headers and body of a v3 response on the wire of these tests.
pub(super) fn v3_parts(wire: &[u8]) -> (Vec<(String, &[u8])>, &[u8]) {
    let mut headers = Vec::new();
    let mut rest = wire;
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let line = &rest[..end];
        rest = &rest[end + 1..];
        if line.is_empty() {
            break;
        }
        let at = line.windows(2).position(|pair| pair == b": ");
        let (name, value) = at.map_or((line, &[][..]), |at| (&line[..at], &line[at + 2..]));
        headers.push((String::from_utf8_lossy(name).into_owned(), value));
    }
    (headers, rest)
}

/// Query and body of an SPI call on the wire of these tests.
pub(super) fn spi_parts(wire: &[u8]) -> (&[u8], &[u8]) {
    let end = wire.iter().position(|byte| *byte == b'\n');
    end.map_or((wire, &[]), |end| (&wire[..end], &wire[end + 1..]))
}
