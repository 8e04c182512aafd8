//! The authorisation matrix: every caller × every way to name a merchant × every way to name a
//! method, through a running sidecar, against a table that knows nothing of the sidecar's rules.
//!
//! What is refused must not arrive at Alipay, and what is allowed must arrive once, for the merchant
//! that was meant.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use alipay_sidecar::config::caller::CallerConfig;
use alipay_sidecar::config::listen::Listen;
use alipay_sidecar::model::authorization::{Rank, Revocation};
use alipay_sidecar::model::id::{AppId, AuthAppId};
use alipay_sidecar::net::listener::Listener;
use alipay_sidecar::net::serve::serve;
use alipay_sidecar::net::shutdown::{Shutdown, ShutdownTrigger};
use alipay_sidecar::simulator::DEFAULT_APP_ID;
use alipay_sidecar::store::Change;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;

use crate::support::caller::{Caller, Keep};
use crate::support::callers::{for_merchants, for_methods, with_token};
use crate::support::{TestSidecar, add_merchant, merchant, raw};

/// The six callers: name, merchants, methods.
const CALLERS: [(&str, &[&str], &[&str]); 6] = [
    ("all", &["*"], &["*"]),
    ("own", &["self"], &["*"]),
    (
        "shop",
        &["shop", "ghost"],
        &["alipay.trade.*", "/v3/alipay/trade/*"],
    ),
    (
        "keys",
        &["app:2021000000001002", "self"],
        &[
            "alipay.open.auth.token.app",
            "/v3/alipay/open/auth/*",
            "alipay.trade.query",
        ],
    ),
    ("twins", &["pid:2088000000003000"], &["*"]),
    ("half", &["2021000000001003"], &["alipay.*", "/v3/alipay/*"]),
];

/// The merchants: a letter, `auth_app_id`, PID, alias. The letter is in their tokens, too.
const RECORDS: [(char, &str, &str, Option<&str>); 5] = [
    ('A', "2021000000001001", "2088000000001001", Some("shop")),
    ('B', "2021000000001002", "2088000000001002", Some("tea")),
    ('C', "2021000000001003", "2088000000003000", Some("north")),
    ('D', "2021000000001004", "2088000000003000", Some("south")),
    ('E', "2021000000001005", "2088000000001005", Some("gone")),
];

/// Whom each caller may call for; `S` is the ISV itself.
fn reached(caller: &str) -> &'static str {
    match caller {
        "all" => "ABCDE",
        "own" => "S",
        "shop" => "A",
        "keys" => "BS",
        "twins" => "CD",
        "half" => "C",
        other => panic!("{other} is no caller"),
    }
}

/// How a request is tagged.
#[derive(Clone, Copy, Debug)]
enum Tag {
    Header(&'static str),
    Path(&'static str),
    Token(&'static str),
    Both(&'static str, &'static str),
    None,
}

/// Whom a tag means.
#[derive(Clone, Copy, Debug)]
enum Means {
    /// This one.
    One(char),
    /// One of these two.
    Either(&'static str),
    /// Two that differ.
    Two(&'static str),
    /// Nobody; a name that only this caller's rules hold.
    Nobody(&'static str),
    /// A token that was never held.
    Stranger,
    /// Nothing is said.
    Unsaid,
}

const TAGS: [(Tag, Means); 26] = [
    (Tag::Header("shop"), Means::One('A')),
    (Tag::Header("alias:shop"), Means::One('A')),
    (Tag::Header("pid:2088000000001001"), Means::One('A')),
    (Tag::Header("2088000000001001"), Means::One('A')),
    (Tag::Header("app:2021000000001001"), Means::One('A')),
    (Tag::Header(" shop  "), Means::One('A')),
    (Tag::Path("shop"), Means::One('A')),
    (Tag::Path("%73hop"), Means::One('A')),
    (Tag::Path("app%3A2021000000001001"), Means::One('A')),
    (Tag::Token("merchant:shop"), Means::One('A')),
    (Tag::Token("token-of-A"), Means::One('A')),
    (Tag::Both("shop", "2021000000001001"), Means::One('A')),
    (Tag::Header("2021000000001002"), Means::One('B')),
    (Tag::Token("token-of-B"), Means::One('B')),
    (Tag::Header("gone"), Means::One('E')),
    (Tag::Header("south"), Means::One('D')),
    (Tag::Path("2088000000003000"), Means::Either("CD")),
    (Tag::Header("self"), Means::One('S')),
    (Tag::Both("shop", "tea"), Means::Two("AB")),
    (Tag::Header("Shop"), Means::Nobody("")),
    (Tag::Header("shop."), Means::Nobody("")),
    (Tag::Header("ｓhop"), Means::Nobody("")),
    (Tag::Path("%D1%95hop"), Means::Nobody("")),
    (Tag::Header("ghost"), Means::Nobody("shop")),
    (Tag::Token("token-of-X"), Means::Stranger),
    (Tag::None, Means::Unsaid),
];

/// How a method is named.
#[derive(Clone, Copy, Debug)]
enum Named {
    /// `/v2/…`
    V2(&'static str),
    /// `/gateway.do?…`
    Query(&'static str),
    /// `/gateway.do` with a form.
    Form(&'static str),
    /// `POST /v3/…`
    V3(&'static str),
    /// `GET /v3/…`
    Get(&'static str),
}

/// What becomes of a call by those who may make it.
#[derive(Clone, Copy, Debug)]
enum Becomes {
    /// It arrives.
    Sent,
    /// It arrives as the ISV itself.
    SentAsOwn,
    /// It is signed and not sent.
    Signed,
    /// It would be signed, which this method never is.
    NeverSigned,
    /// It is refused to everybody, whoever is named.
    Refused(&'static str),
}

use Becomes::{NeverSigned, Refused, Sent, SentAsOwn, Signed};

/// The methods, who may call each, and what becomes of that.
const METHODS: [(Named, &str, Becomes); 39] = [
    (
        Named::V2("alipay.trade.query"),
        "all own shop keys twins half",
        Sent,
    ),
    (
        Named::V2("alipay.trade.pay"),
        "all own shop twins half",
        Sent,
    ),
    (
        Named::V2("alipay.trade.pay/order-string"),
        "all own shop twins half",
        Signed,
    ),
    (
        Named::V2("alipay.trade.page.pay/page-url"),
        "all own shop twins half",
        Signed,
    ),
    (
        Named::V2("alipay.trade.page.pay/page-form"),
        "all own shop twins half",
        Signed,
    ),
    (
        Named::V2("alipay.system.oauth.token"),
        "all own twins half",
        Sent,
    ),
    (Named::V2("Alipay.Trade.Query"), "all own twins", Sent),
    (Named::V2("alipay.tradex.query"), "all own twins half", Sent),
    (Named::V2("alipay.open.auth.token.app"), "keys", SentAsOwn),
    (
        Named::V2("alipay.open.auth.token.app/order-string"),
        "keys",
        NeverSigned,
    ),
    (Named::V2("alipay.open.auth.token.app.query"), "", Sent),
    (Named::V2("Alipay.open.auth.token.app"), "", Sent),
    (Named::V2("ALIPAY.OPEN.AUTH.TOKEN.APP"), "", Sent),
    (
        Named::V2("alipay.open.auth.token.app."),
        "",
        Refused("method-invalid"),
    ),
    (
        Named::V2("alipay.open.auth.token.app%20"),
        "",
        Refused("method-invalid"),
    ),
    (
        Named::V2("alipay%2Eopen%2Eauth%2Etoken%2Eapp"),
        "",
        Refused("method-invalid"),
    ),
    (
        Named::V2("alipay.open.auth.token.app/"),
        "",
        Refused("route-unknown"),
    ),
    (
        Named::Query("method=alipay.trade.query"),
        "all own shop keys twins half",
        Sent,
    ),
    (
        Named::Form("method=alipay.trade.query"),
        "all own shop keys twins half",
        Sent,
    ),
    (
        Named::Form("method=alipay%2Etrade%2Epay"),
        "all own shop twins half",
        Sent,
    ),
    (
        Named::Query("METHOD=alipay.open.auth.token.app"),
        "",
        Refused("method-required"),
    ),
    (
        Named::Query("method=alipay.open.auth.token.app"),
        "keys",
        SentAsOwn,
    ),
    (
        Named::Form("m%65thod=alipay.open.auth.token.app"),
        "keys",
        SentAsOwn,
    ),
    (Named::Form("method=alipay.open.auth.app.aes.get"), "", Sent),
    (
        Named::Query("method=alipay.open.auth.token.app+"),
        "",
        Refused("method-invalid"),
    ),
    (
        Named::Form("method=%EF%BD%81lipay.open.auth.token.app"),
        "",
        Refused("method-invalid"),
    ),
    (
        Named::Form("method=alipay.trade.query&Method=alipay.open.auth.token.app"),
        "",
        Refused("parameter-duplicate"),
    ),
    (
        Named::V3("alipay/trade/query"),
        "all own shop twins half",
        Sent,
    ),
    (
        Named::V3("alipay/trade/pay?a=alipay/open/auth"),
        "all own shop twins half",
        Sent,
    ),
    (Named::V3("Alipay/trade/pay"), "all own twins", Sent),
    (Named::V3("alipay/open/auth/token/app"), "keys", SentAsOwn),
    (Named::Get("alipay/open/auth/token/app/query"), "keys", Sent),
    (Named::V3("Alipay/open/auth/token/app"), "", Sent),
    (Named::V3("alipay.open.auth.token.app"), "", Sent),
    (Named::V3("alipay/open/%EF%BD%81uth/token/app"), "", Sent),
    (
        Named::V3("alipay/open/%61uth/token/app"),
        "",
        Refused("parameter-invalid"),
    ),
    (
        Named::V3("alipay/open//auth/token/app"),
        "",
        Refused("parameter-invalid"),
    ),
    (
        Named::V3("alipay/open/auth/token/app/"),
        "",
        Refused("parameter-invalid"),
    ),
    (
        Named::V3("alipay/trade/../open/auth/token/app"),
        "",
        Refused("parameter-invalid"),
    ),
];

/// What has to come of a case: a code of the sidecar's, or none; and for whom it arrives.
type Verdict = (&'static str, Option<char>);

fn oracle(caller: &str, (tag, means): (Tag, Means), method: usize) -> Verdict {
    let (named, callers, becomes) = METHODS[method];
    if let Refused(code) = becomes {
        return (code, None);
    }
    // On /v2 a token is no tag.
    if let (Tag::Token(_), Named::V2(_)) = (tag, named) {
        return ("parameter-reserved", None);
    }
    if !callers.split(' ').any(|name| name == caller) {
        return ("caller-forbidden", None);
    }
    let means = match becomes {
        SentAsOwn | NeverSigned => Means::One('S'),
        _ => means,
    };
    match (whom(caller, means), becomes) {
        (Ok(_), NeverSigned) => ("method-invalid", None),
        (Ok(_), Signed) => ("", None),
        (Ok(one), _) => ("", Some(one)),
        (Err(code), _) => (code, None),
    }
}

fn whom(caller: &str, means: Means) -> Result<char, &'static str> {
    let reached = reached(caller);
    let is_all = caller == "all";
    let forbidden = Err("caller-forbidden");
    match means {
        Means::One('E') if is_all => Err("merchant-unauthorized"),
        Means::One(one) if reached.contains(one) => Ok(one),
        Means::One(_) => forbidden,
        Means::Either(two) => {
            let seen: Vec<char> = two.chars().filter(|one| reached.contains(*one)).collect();
            match seen.as_slice() {
                [] => forbidden,
                [one] => Ok(*one),
                _ => Err("merchant-ambiguous"),
            }
        }
        Means::Two(two) if two.chars().all(|one| reached.contains(one)) => Err("merchant-conflict"),
        Means::Two(_) => forbidden,
        Means::Nobody(known) if is_all || known == caller => Err("merchant-unknown"),
        Means::Nobody(_) => forbidden,
        Means::Stranger if is_all => Err("token-unknown"),
        Means::Stranger => forbidden,
        Means::Unsaid => Err("merchant-required"),
    }
}

/// An Alipay that remembers which case arrived for whom, and refuses everything unsigned.
struct Remembering {
    url: String,
    arrived: Arc<Mutex<HashMap<usize, Vec<char>>>>,
    _end: ShutdownTrigger,
}

impl Remembering {
    async fn start() -> Self {
        let listener = Listener::bind(&Listen::Tcp("127.0.0.1:0".to_owned())).await;
        let listener = listener.expect("a port");
        let url = format!("http://{}", listener.address());
        let arrived: Arc<Mutex<HashMap<usize, Vec<char>>>> = Arc::default();
        let seen = Arc::clone(&arrived);
        let handle = move |request: Request<Incoming>| {
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
    request: Request<Incoming>,
    seen: &Mutex<HashMap<usize, Vec<char>>>,
) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    let header = head.headers.get("alipay-app-auth-token");
    let header = header.map(|token| String::from_utf8_lossy(token.as_bytes()).into_owned());
    let text = format!(
        "{} {} {}",
        head.uri,
        String::from_utf8_lossy(&body),
        header.unwrap_or_default()
    );
    // Nothing of what proved the caller goes further than the sidecar.
    let mut values = head.headers.values();
    assert!(values.all(|value| !value.as_bytes().starts_with(b"Bearer")));
    let after = |mark: &str| text.split_once(mark).map(|(_, rest)| rest);
    let case = after("case-").expect("a case");
    let case: String = case.chars().take_while(char::is_ascii_digit).collect();
    let whom = after("token-of-").and_then(|rest| rest.chars().next());
    let mut seen = seen.lock().expect("no panic");
    let whom = whom.unwrap_or('S');
    seen.entry(case.parse().expect("digits"))
        .or_default()
        .push(whom);
    let (status, answer) = match head.uri.path() {
        "/gateway.do" => (200, r#"{"error_response":{"code":"40002","msg":"no"}}"#),
        _ => (400, r#"{"code":"no","message":"no"}"#),
    };
    let mut response = Response::new(Full::new(Bytes::from_static(answer.as_bytes())));
    *response.status_mut() = http::StatusCode::from_u16(status).expect("a status");
    response
}

async fn start(alipay: &Remembering) -> TestSidecar {
    let configured = |(name, merchants, methods): &(&str, &[&str], &[&str])| -> CallerConfig {
        for_methods(for_merchants(with_token(name), merchants), methods)
    };
    let sidecar = TestSidecar::start_with(|config| {
        config.upstream.gateway = Some(format!("{}/gateway.do", alipay.url));
        config.upstream.v3 = Some(alipay.url.clone());
        config.callers = CALLERS.iter().map(configured).collect();
    })
    .await;
    let store = sidecar.sidecar.store();
    for (letter, auth_app_id, pid, alias) in RECORDS {
        let token = format!("token-of-{letter}");
        let mut record = merchant(auth_app_id, pid, &token, alias);
        record.rank = Rank::AuthTime(2);
        add_merchant(&*store, record).await;
    }
    let revocation = Revocation {
        app_id: AppId::new(DEFAULT_APP_ID).expect("an id"),
        auth_app_id: AuthAppId::new(RECORDS[4].1).expect("an id"),
        at: Some(3),
        only: None,
    };
    let cancelled = Change::Revoke {
        revocation,
        entry: None,
    };
    store.commit(vec![cancelled]).await.expect("stored");
    sidecar
}

/// One request.
struct Asked {
    method: &'static str,
    path: String,
    headers: String,
    body: String,
}

fn request(case: usize, caller: &str, tag: Tag, named: Named) -> Asked {
    let mut headers = format!("Authorization: Bearer {caller}-token\r\n");
    let (mut prefix, mut token) = (String::new(), "");
    match tag {
        Tag::Header(text) => headers += &format!("Alipay-Merchant: {text}\r\n"),
        Tag::Path(text) => prefix = format!("/m/{text}"),
        Tag::Token(text) => token = text,
        Tag::Both(header, path) => {
            headers += &format!("Alipay-Merchant: {header}\r\n");
            prefix = format!("/m/{path}");
        }
        Tag::None => {}
    }
    let content = format!("{{\"out_trade_no\":\"case-{case}\"}}");
    let escaped = content
        .replace('{', "%7B")
        .replace('}', "%7D")
        .replace('"', "%22");
    let token_parameter = match token {
        "" => String::new(),
        token => format!("app_auth_token={}", token.replace(':', "%3A")),
    };
    let (method, path, body) = match named {
        Named::V2(name) => ("POST", format!("/v2/{name}?{token_parameter}"), content),
        Named::Query(name) => (
            "POST",
            format!("/gateway.do?{name}&{token_parameter}"),
            format!("biz_content={escaped}"),
        ),
        Named::Form(name) => (
            "POST",
            format!("/gateway.do?{token_parameter}"),
            format!("{name}&biz_content={escaped}"),
        ),
        Named::V3(path) => ("POST", format!("/v3/{path}"), content),
        Named::Get(path) => ("GET", format!("/v3/{path}?n=case-{case}"), String::new()),
    };
    if let (Named::V3(_) | Named::Get(_), false) = (named, token.is_empty()) {
        headers += &format!("Alipay-App-Auth-Token: {token}\r\n");
    }
    let path = format!("{prefix}{}", path.trim_end_matches(['?', '&']));
    Asked {
        method,
        path,
        headers,
        body,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_matrix_is_judged_as_the_oracle_does() {
    let alipay = Remembering::start().await;
    let sidecar = start(&alipay).await;
    let cases: Vec<_> = (0..CALLERS.len())
        .flat_map(|caller| (0..TAGS.len()).map(move |tag| (caller, tag)))
        .flat_map(|(caller, tag)| (0..METHODS.len()).map(move |method| (caller, tag, method)))
        .collect();
    let cases: Arc<[_]> = cases.into();
    let address = raw::authority(&sidecar.proxy).to_owned();
    let lanes = (0..4).map(|lane| {
        let (cases, address) = (Arc::clone(&cases), address.clone());
        tokio::spawn(async move { run(lane, &cases, &address).await })
    });
    let mut wrong = Vec::new();
    for lane in futures_util::future::join_all(lanes).await {
        wrong.extend(lane.expect("no panic"));
    }
    let arrived = alipay.arrived.lock().expect("no panic");
    let mut sent = 0;
    for (case, &(caller, tag, method)) in cases.iter().enumerate() {
        let (_, expected) = oracle(CALLERS[caller].0, TAGS[tag], method);
        let found = arrived.get(&case).cloned().unwrap_or_default();
        sent += found.len();
        if found != expected.into_iter().collect::<Vec<_>>() {
            let named = (CALLERS[caller].0, TAGS[tag].0, METHODS[method].0);
            wrong.push(format!("{named:?} arrived for {found:?}, not {expected:?}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    // The oracle itself must let a good part through, or nothing would be shown.
    assert!(sent > 300, "{sent} of {} arrived", cases.len());
}

/// Runs every fourth case on one connection, and gives what was answered otherwise than expected.
async fn run(lane: usize, cases: &[(usize, usize, usize)], address: &str) -> Vec<String> {
    let mut connection = Caller::new(address, Keep::Alive);
    let mut wrong = Vec::new();
    for (case, &(caller, tag, method)) in cases.iter().enumerate().skip(lane).step_by(4) {
        let name = CALLERS[caller].0;
        let asked = request(case, name, TAGS[tag].0, METHODS[method].0);
        let told = connection
            .ask(asked.method, &asked.path, &asked.headers, &asked.body)
            .await
            .expect("an answer");
        let found = told
            .head
            .lines()
            .find_map(|line| line.strip_prefix("alipay-sidecar-error: "))
            .unwrap_or_default();
        let (expected, _) = oracle(name, TAGS[tag], method);
        let is_told = told.body.contains("candidates") && expected != "merchant-ambiguous";
        if found != expected || is_told {
            let named = (name, TAGS[tag].0, METHODS[method].0);
            wrong.push(format!(
                "{named:?} gave {found:?}, not {expected:?}: {}",
                told.body
            ));
        }
    }
    wrong
}
