//! How a case is written: the same for every caller, but for what proves who it is.

use std::sync::OnceLock;

use rsa::RsaPrivateKey;

use super::methods::Named;
use super::tables::{APPS, AppTag, CallerRow, How, NOBODYS_APP, Proof, TagRow};
use crate::support::{callers, isv};

/// One request.
pub struct Asked {
    pub method: &'static str,
    pub path: String,
    pub headers: String,
    pub body: String,
}

/// What names the merchant, in its places.
#[derive(Default)]
struct Tagged {
    headers: String,
    prefix: String,
    token: &'static str,
}

fn tagged(how: How) -> Tagged {
    let mut tagged = Tagged::default();
    match how {
        How::Header(text) => tagged.headers = format!("Alipay-Merchant: {text}\r\n"),
        How::Path(text) => tagged.prefix = format!("/m/{text}"),
        How::Token(text) => tagged.token = text,
        How::Both(header, path) => {
            tagged.headers = format!("Alipay-Merchant: {header}\r\n");
            tagged.prefix = format!("/m/{path}");
        }
        How::None => {}
    }
    tagged
}

pub fn request(case: usize, caller: &CallerRow, tag: &TagRow, named: Named) -> Asked {
    let tagged = tagged(tag.0);
    let mut asked = unsigned(case, &tagged, named);
    let signs_with = match (caller.proof, named) {
        (Proof::Key(key), named) if !matches!(named, Named::V2(_)) => Some(key),
        _ => None,
    };
    match signs_with {
        None => {
            let app = match tag.1 {
                AppTag::Ours(app) => format!("Alipay-App: {}\r\n", APPS[app]),
                AppTag::Nobodys => format!("Alipay-App: {NOBODYS_APP}\r\n"),
                AppTag::Unsaid => String::new(),
            };
            asked.headers += &app;
        }
        Some(key) => sign(&mut asked, key, (tag.1, tagged.token), named),
    }
    if caller.proof == Proof::Bearer {
        asked.headers += &format!("Authorization: {}\r\n", callers::bearer(caller.name));
    }
    asked
}

fn unsigned(case: usize, tagged: &Tagged, named: Named) -> Asked {
    let content = format!("{{\"out_trade_no\":\"case-{case}\"}}");
    let escaped = escape(&content);
    let token = match tagged.token {
        "" => String::new(),
        token => format!("app_auth_token={}", escape(token)),
    };
    let (method, path, body) = match named {
        Named::V2(name) => ("POST", format!("/v2/{name}?{token}"), content),
        Named::Query(name) => (
            "POST",
            format!("/gateway.do?{name}&{token}"),
            format!("biz_content={escaped}"),
        ),
        Named::Form(name) => (
            "POST",
            format!("/gateway.do?{token}"),
            format!("{name}&biz_content={escaped}"),
        ),
        Named::V3(path) => ("POST", format!("/v3/{path}"), content),
        Named::Get(path) => ("GET", format!("/v3/{path}?n=case-{case}"), String::new()),
    };
    let mut headers = tagged.headers.clone();
    if let (Named::V3(_) | Named::Get(_), false) = (named, tagged.token.is_empty()) {
        headers += &format!("Alipay-App-Auth-Token: {}\r\n", tagged.token);
    }
    let path = format!("{}{}", tagged.prefix, path.trim_end_matches(['?', '&']));
    Asked {
        method,
        path,
        headers,
        body,
    }
}

fn escape(text: &str) -> String {
    let escaped = text.replace('{', "%7B").replace('}', "%7D");
    escaped.replace('"', "%22").replace(':', "%3A")
}

/// Signs as the SDK of an app, its own or one that isn't ours.
fn sign(asked: &mut Asked, key: &str, (app, token): (AppTag, &str), named: Named) {
    let app_id = match app {
        AppTag::Ours(app) => APPS[app],
        AppTag::Nobodys | AppTag::Unsaid => NOBODYS_APP,
    };
    match named {
        Named::Get(_) | Named::V3(_) => {
            let auth = format!("app_id={app_id},nonce=0123456789abcdef,timestamp=1764000000000");
            let token = match token {
                "" => String::new(),
                token => format!("{token}\n"),
            };
            let (method, path, body) = (asked.method, &asked.path, &asked.body);
            let content = format!("{auth}\n{method}\n{path}\n{body}\n{token}");
            let sign = isv::sign(private(key), &content);
            asked.headers += &format!("Authorization: ALIPAY-SHA256withRSA {auth},sign={sign}\r\n");
        }
        _ => {
            asked.body += &format!("&app_id={app_id}&sign_type=RSA2");
            let query = asked.path.split_once('?').map_or("", |(_, query)| query);
            let sent = format!("{query}&{}", asked.body);
            let params = form_urlencoded::parse(sent.trim_start_matches('&').as_bytes());
            let content = isv::content(&params.into_owned().collect(), &["sign"]);
            let sign = isv::sign(private(key), &content);
            let sign: String = form_urlencoded::byte_serialize(sign.as_bytes()).collect();
            asked.body += &format!("&sign={sign}");
        }
    }
}

/// The two keys that sign here, read once.
fn private(name: &str) -> &'static RsaPrivateKey {
    static KEYS: OnceLock<[(&str, RsaPrivateKey); 2]> = OnceLock::new();
    let keys = KEYS
        .get_or_init(|| ["app2048", "alipay2048_other"].map(|name| (name, callers::private(name))));
    let key = keys.iter().find(|(known, _)| *known == name);
    &key.expect("one of the two").1
}
