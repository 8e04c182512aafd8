//! `proxy.reply_signature = "local"`: replies, the sidecar's own errors and answers of v3, verified
//! with the install key alone.

use alipay_sidecar::config::Config;
use alipay_sidecar::config::proxy::ReplySignature;
use alipay_sidecar::model::app::App;
use alipay_sidecar::model::authorization::Authorization;
use alipay_sidecar::net::client::Reply;
use alipay_sidecar::protocol::charset::Charset;
use alipay_sidecar::protocol::encryption::ContentKey;
use alipay_sidecar::protocol::envelope::{Envelope, Verification, VerifiedEnvelope};
use alipay_sidecar::protocol::key::{AppPrivateKey, RsaPublicKey};
use alipay_sidecar::protocol::params::Params;
use alipay_sidecar::protocol::secret::Secret;
use alipay_sidecar::protocol::signature::SignType;
use alipay_sidecar::protocol::v3_response::{V3Response, V3Verification};
use alipay_sidecar::sidecar::{Sidecar, unusable_files};
use alipay_sidecar::simulator::{DEFAULT_APP_ID, Fault, FaultKind, Simulator};
use alipay_sidecar::store::embedded::EmbeddedStore;
use alipay_sidecar::store::seal::StoreKey;
use http::Request;

use crate::certificates::certified;
use crate::support::upstream::{Answer, FakeAlipay, SUCCESS, gbk_reply_of, reply_of};
use crate::support::{ALIAS, TestSidecar, add_merchant, app, header, json, keys, merchant, text};

const INSTALL: &str = "alipay2048_other";
pub(crate) const QUERY: &str = "alipay.trade.query";
pub(crate) const QUERY_V3: &str = "/v3/alipay/trade/query";
pub(crate) const ORDER: &str = r#"{"out_trade_no":"1","total_amount":"8.80","subject":"茶"}"#;
const UTF8: &str = "text/html;charset=utf-8";

/// Replies and deliveries carry the install key's signature.
pub(crate) fn local(config: &mut Config) {
    let path = config.store.path.with_file_name("reply_private_key.pem");
    std::fs::write(&path, keys::private(INSTALL)).expect("written");
    config.proxy.reply_signature = ReplySignature::Local;
    config.proxy.reply_key = Some(path);
}

/// The one key that a backend has.
pub(crate) fn backends_keys() -> [RsaPublicKey; 1] {
    [RsaPublicKey::from_text(&keys::public(INSTALL)).expect("a key")]
}

/// A sidecar that signs anew, before an Alipay that answers what it is told.
async fn watched() -> (FakeAlipay, TestSidecar) {
    let alipay = FakeAlipay::start().await;
    let sidecar = TestSidecar::start_with(|config| {
        config.upstream.gateway = Some(alipay.gateway());
        local(config);
    })
    .await;
    (alipay, sidecar)
}

/// Calls as an SDK does, further parameters in the query.
pub(crate) async fn post(sidecar: &TestSidecar, method: &str, query: &str) -> Reply {
    let path = format!("/gateway.do?method={method}&charset=utf-8{query}");
    let body = "biz_content=%7B%22out_trade_no%22%3A%221%22%7D";
    let request = Request::builder()
        .method("POST")
        .uri(path)
        .header("alipay-merchant", ALIAS)
        .header("content-type", "application/x-www-form-urlencoded");
    sidecar.proxy(request, body).await
}

/// Reads a reply as an SDK with the install's key does.
fn verified_as(reply: &Reply, method: &str, sign_type: SignType) -> VerifiedEnvelope {
    let envelope = Envelope::parse(reply.body.clone(), method).expect("an envelope");
    assert!(envelope.alipay_cert_sn().is_none(), "{}", text(reply));
    let verified = envelope.verify(&backends_keys(), sign_type);
    let verified = verified.unwrap_or_else(|error| panic!("{error}: {}", text(reply)));
    assert_eq!(
        verified.verification(),
        Verification::Signed,
        "{}",
        text(reply)
    );
    verified
}

pub(crate) fn verified(reply: &Reply, method: &str) -> VerifiedEnvelope {
    verified_as(reply, method, SignType::Rsa2)
}

#[tokio::test]
async fn a_reply_keeps_its_node_and_type_under_another_signature() {
    let (alipay, sidecar) = watched().await;
    for node in [
        SUCCESS,
        r#"{ "code":"10000","a" : 1.50,"t":"\u4e2d\/国", "sign":"x" }"#,
        r#"{"code":"40004","msg":"Business Failed","sub_code":"ACQ.TRADE_NOT_EXIST"}"#,
    ] {
        for content_type in [UTF8, "text/html; charset=UTF-8", "application/json"] {
            let sent = reply_of(QUERY, node);
            alipay.answer(Answer::Bytes(content_type, sent.clone().into_bytes()));
            let reply = post(&sidecar, QUERY, "").await;
            assert_eq!(verified(&reply, QUERY).node(), node.as_bytes());
            let head = format!(r#"{{"alipay_trade_query_response":{node},"sign":""#);
            assert!(text(&reply).starts_with(&head), "{}", text(&reply));
            assert_ne!(text(&reply), sent);
            assert_eq!(header(&reply, "content-type"), content_type);
            assert_eq!(header(&reply, "alipay-sidecar-verified"), "true");
        }
    }
}

#[tokio::test]
async fn slashes_that_alipay_signs_unescaped_are_signed_as_they_stand() {
    let (alipay, sidecar) = watched().await;
    let node = r#"{"code":"10000","url":"https:\/\/a\/b"}"#;
    let unescaped = reply_of(QUERY, &node.replace("\\/", "/"));
    let sent = unescaped.replace("https://a/b", r"https:\/\/a\/b");
    alipay.answer(Answer::Bytes(UTF8, sent.into_bytes()));
    let reply = post(&sidecar, QUERY, "").await;
    let verified = verified(&reply, QUERY);
    assert_eq!(verified.signed_content().as_ref(), node.as_bytes());
}

#[tokio::test]
async fn an_error_that_alipay_left_unsigned_is_signed_and_still_marked() {
    let (alipay, sidecar) = watched().await;
    for root in ["error_response", "alipay_trade_query_response"] {
        let node = r#"{"code":"40002","msg":"Invalid Arguments","sub_code":"isv.invalid-app-id"}"#;
        let sent = format!(r#"{{"{root}":{node}}}"#);
        alipay.answer(Answer::Bytes(UTF8, sent.into_bytes()));
        let reply = post(&sidecar, QUERY, "").await;
        assert_eq!(verified(&reply, QUERY).node(), node.as_bytes());
        assert_eq!(header(&reply, "alipay-sidecar-verified"), "unsigned-error");
        check_cuts(&reply, QUERY);
    }
}

#[tokio::test]
async fn a_forged_reply_is_not_signed_but_refused() {
    let (alipay, sidecar) = watched().await;
    let forged = reply_of(QUERY, SUCCESS).replace("10000", "10003");
    alipay.answer(Answer::Bytes(UTF8, forged.into_bytes()));
    let reply = post(&sidecar, QUERY, "").await;
    check_error(&reply, QUERY, "response-signature-invalid");
    assert_eq!(header(&reply, "alipay-sidecar-outcome"), "unknown");
    assert!(!text(&reply).contains("10003"));
}

/// How the PHP and Java SDKs find what is signed: by the first place of the root's name.
fn cut_by_name(text: &str, root: &str) -> String {
    let (name, at) = match text.find(root) {
        Some(at) => (root, at),
        None => {
            let error = "error_response";
            (error, text.find(error).expect("an error"))
        }
    };
    let last = match text.contains("alipay_cert_sn") {
        true => "\"alipay_cert_sn\"",
        false => "\"sign\"",
    };
    let end = text.rfind(last).expect("a signature");
    text[at + name.len() + 2..end - 1].to_owned()
}

/// How the Node SDK does: by the length of the method's root, wherever it stands.
fn cut_by_length(text: &str, root: &str) -> String {
    let behind = match text.find(&format!("{root}\"")) {
        Some(at) => at + root.len() + 1,
        None => root.len(),
    };
    let rest = &text[behind..];
    let end = text.rfind("\"sign\"").expect("a signature").min(rest.len());
    let rest = &rest[..end];
    let from = rest.find('{').expect("a node");
    let to = rest.rfind('}').expect("a node");
    rest[from..=to].to_owned()
}

/// Whichever way an SDK cuts, it finds the node.
fn check_cuts(reply: &Reply, method: &str) {
    let root = format!("{}_response", method.replace('.', "_"));
    let node = verified(reply, method).node_text();
    for cut in [cut_by_name, cut_by_length] {
        assert_eq!(cut(&text(reply), &root), node);
    }
}

fn check_error(reply: &Reply, method: &str, code: &str) {
    assert_eq!(reply.status, 200);
    assert_eq!(header(reply, "alipay-sidecar-error"), code);
    let envelope = verified(reply, method);
    assert_eq!(envelope.node_key(), "error_response");
    let sub_code = format!("sidecar.{code}");
    assert_eq!(envelope.sub_code(), Some(sub_code.as_str()));
    check_cuts(reply, method);
}

#[tokio::test]
async fn errors_of_our_own_are_signed_and_every_sdk_finds_what_is_signed() {
    let (alipay, sidecar) = watched().await;
    let longest = format!("alipay.{}", "a".repeat(121));
    for method in [QUERY, "a.b", longest.as_str()] {
        let twice = post(&sidecar, method, "&biz_content=1").await;
        check_error(&twice, method, "parameter-duplicate");
        let merchant = post(&sidecar, method, "&app_auth_token=merchant:nobody").await;
        check_error(&merchant, method, "merchant-unknown");
    }
    let nobody = Request::builder()
        .uri("/gateway.do?method=alipay.trade.query&app_auth_token=merchant:nobody");
    check_error(&sidecar.proxy(nobody, "").await, QUERY, "merchant-unknown");
    check_error(&post(&sidecar, "", "").await, QUERY, "method-required");
    let put = Request::builder().method("PUT").uri("/gateway.do");
    let put = sidecar.proxy(put, "").await;
    check_error(&put, QUERY, "http-method-not-allowed");
    let page = Request::builder()
        .uri("/gateway.do?method=alipay.trade.query")
        .header("origin", "https://evil.example");
    check_error(&sidecar.proxy(page, "").await, QUERY, "browser-refused");
    // Its text names the root that is missing.
    alipay.answer(Answer::Body(200, "{}".to_owned()));
    let none = post(&sidecar, QUERY, "").await;
    check_error(&none, QUERY, "upstream-invalid");
    assert!(
        verified(&none, QUERY)
            .sub_msg()
            .unwrap_or_default()
            .contains("query_response")
    );
    alipay.answer(Answer::Body(502, "<html>".to_owned()));
    check_error(&post(&sidecar, QUERY, "").await, QUERY, "upstream-invalid");
}

#[tokio::test]
async fn every_answer_of_a_burst_is_signed_whether_its_call_was_made_or_not() {
    let sidecar = TestSidecar::start_with(|config| {
        config.proxy.max_in_flight = 2;
        local(config);
    })
    .await;
    let created = sidecar.post("/v2/alipay.trade.create", ORDER).await;
    assert_eq!(json(&created)["code"], "10000", "{}", text(&created));
    let calls = (0..40).map(|_| post(&sidecar, QUERY, ""));
    let replies = futures_util::future::join_all(calls).await;
    let (made, refused): (Vec<_>, Vec<_>) = replies
        .iter()
        .partition(|reply| verified(reply, QUERY).code() == Some("10000"));
    assert!(made.len() >= 2 && !refused.is_empty());
    for reply in refused {
        check_error(reply, QUERY, "overloaded");
        assert_eq!(header(reply, "alipay-sidecar-outcome"), "not-sent");
    }
}

#[tokio::test]
async fn the_algorithm_is_the_one_that_the_sdk_names_else_the_apps() {
    let (alipay, sidecar) = watched().await;
    let reply = post(&sidecar, QUERY, "&sign_type=RSA").await;
    verified_as(&reply, QUERY, SignType::Rsa);
    let error = post(&sidecar, QUERY, "&sign_type=RSA&app_auth_token=merchant:x").await;
    assert_eq!(header(&error, "alipay-sidecar-error"), "merchant-unknown");
    verified_as(&error, QUERY, SignType::Rsa);
    for unknown in ["", "&sign_type=RSA2", "&sign_type=SM2"] {
        verified(&post(&sidecar, QUERY, unknown).await, QUERY);
    }
    drop(alipay);
}

#[tokio::test]
async fn an_app_that_signs_by_sha_1_gets_replies_signed_so() {
    let alipay = FakeAlipay::start().await;
    let sidecar = TestSidecar::start_with(|config| {
        config.upstream.gateway = Some(alipay.gateway());
        config.apps[0].sign_type = SignType::Rsa;
        local(config);
    })
    .await;
    let key = AppPrivateKey::from_text(&keys::private("alipay2048")).expect("a key");
    let sign = key.sign(SignType::Rsa, SUCCESS.as_bytes()).expect("signed");
    let sent = format!(r#"{{"alipay_trade_query_response":{SUCCESS},"sign":"{sign}"}}"#);
    alipay.answer(Answer::Bytes(UTF8, sent.into_bytes()));
    verified_as(&post(&sidecar, QUERY, "").await, QUERY, SignType::Rsa);
}

/// What is refused before it is known what is called; with further parameters in the query.
async fn refused_early(sidecar: &TestSidecar, query: &str, body: &'static str) -> [Reply; 2] {
    let uri = format!("/gateway.do?method=alipay.trade.query{query}");
    let post = || Request::post(&uri).header("content-type", "application/x-www-form-urlencoded");
    let page = post().header("origin", "https://evil.example");
    let twice = if body.is_empty() {
        "biz_content=1&biz_content=2"
    } else {
        body
    };
    [
        sidecar.proxy(post(), twice).await,
        sidecar.proxy(page, body).await,
    ]
}

#[tokio::test]
async fn an_error_is_signed_by_the_algorithm_that_a_reply_would_be() {
    const SECOND: &str = "2021000000000002";
    let alipay = FakeAlipay::start().await;
    let start = async |apps: &[SignType]| {
        TestSidecar::start_with(|config| {
            config.upstream.gateway = Some(alipay.gateway());
            config.apps[0].sign_type = apps[0];
            config.apps.extend(apps.get(1).map(|sign_type| App {
                sign_type: *sign_type,
                ..app(SECOND)
            }));
            local(config);
        })
        .await
    };
    let check = |reply: &Reply, code: &str, sign_type: SignType| {
        assert_eq!(header(reply, "alipay-sidecar-error"), code);
        verified_as(reply, QUERY, sign_type);
    };
    let (old, new) = (SignType::Rsa, SignType::Rsa2);
    let twice = "sign_type=RSA&biz_content=1&biz_content=2";
    let of_second = format!("&app_id={SECOND}");
    for (apps, query, body, expected) in [
        // What the SDK names counts, wherever it stands, as far as the request is read.
        (&[new][..], "&sign_type=RSA", "", [old, old]),
        (&[new], "&sign%5Ftype=RSA", "", [old, old]),
        (&[new], "", twice, [old, new]),
        (&[old], "&sign_type=RSA2", "", [new, new]),
        // Then the app's.
        (&[old], "", "", [old, old]),
        (&[old], "&sign_type=SM2", "", [old, old]),
        (&[new, old], &of_second, "", [old, old]),
        (&[old, old], "", "", [new, new]),
    ] {
        let sidecar = start(apps).await;
        let [twice, page] = refused_early(&sidecar, query, body).await;
        check(&twice, "parameter-duplicate", expected[0]);
        check(&page, "browser-refused", expected[1]);
    }
    let sidecar = start(&[new, old]).await;
    let named = Request::post("/gateway.do?method=alipay.trade.query").header("alipay-app", SECOND);
    let reply = sidecar.proxy(named, "biz_content=1&biz_content=2").await;
    check(&reply, "parameter-duplicate", old);
    // The app that the merchant's record decides.
    let of_second = Authorization {
        app_id: SECOND.parse().expect("an id"),
        ..merchant("2021000000002001", "2088000000002001", "t", Some("east"))
    };
    add_merchant(&*sidecar.sidecar.store(), of_second).await;
    alipay.answer(Answer::Body(502, "<html>".to_owned()));
    let tagged = Request::post("/m/east/gateway.do?method=alipay.trade.query");
    check(&sidecar.proxy(tagged, "").await, "upstream-invalid", old);
    // A call that goes on without its caller, who has waited long enough.
    alipay.answer(Answer::Held);
    let method = "alipay.open.auth.token.app";
    let tagged = Request::post(format!("/m/east/gateway.do?method={method}"))
        .header("content-type", "application/x-www-form-urlencoded")
        .header("alipay-timeout", "1s");
    let code =
        "biz_content=%7B%22grant_type%22%3A%22authorization_code%22%2C%22code%22%3A%22c%22%7D";
    let late = sidecar.proxy(tagged, code).await;
    assert!(text(&late).contains("are stored"), "{}", text(&late));
    check(&late, "upstream-timeout", old);
    alipay.release();
}

#[tokio::test]
async fn a_gbk_reply_stays_gbk() {
    let (alipay, sidecar) = watched().await;
    let node = r#"{"code":"10000","subject":"乗亇中文€","u":"a\/乗"}"#;
    let named = "text/html;charset=GBK";
    alipay.answer(Answer::Bytes(named, gbk_reply_of(QUERY, node)));
    let request = Request::builder()
        .uri("/gateway.do?method=alipay.trade.query&charset=gbk")
        .header("alipay-merchant", ALIAS);
    let reply = sidecar.proxy(request, "").await;
    assert_eq!(header(&reply, "content-type"), named);
    let envelope = Envelope::parse_in(reply.body.clone(), QUERY, Charset::Gbk);
    let verified = envelope
        .expect("an envelope")
        .verify(&backends_keys(), SignType::Rsa2)
        .expect("signed");
    assert_eq!(verified.node_text(), node);
    assert_eq!(verified.node(), Charset::Gbk.encode(node).expect("GBK"));
}

pub(crate) const CONTENT_KEY: &str = "AAECAwQFBgcICQoLDA0ODw==";

/// Both sides have an AES key.
pub(crate) fn encrypted(simulator: &Simulator, config: &mut Config) {
    let key = Some(CONTENT_KEY);
    simulator
        .set_encrypt_key(DEFAULT_APP_ID, key)
        .expect("a key");
    config.apps[0].encrypt_key = key.map(|key| Secret::new(key.to_owned()));
    local(config);
}

#[tokio::test]
async fn an_encrypted_reply_goes_to_an_sdk_as_its_ciphertext() {
    let sidecar = TestSidecar::start_before(encrypted).await;
    let key = ContentKey::from_base64(CONTENT_KEY).expect("a key");
    let method = "alipay.trade.create";
    let mut form = Params::new();
    let content = key.encrypt(ORDER.as_bytes()).expect("encrypted");
    for (name, value) in [
        ("method", method),
        ("encrypt_type", "AES"),
        ("biz_content", &content),
    ] {
        form.set(name, value);
    }
    let request = Request::builder()
        .method("POST")
        .uri("/gateway.do")
        .header("alipay-merchant", ALIAS);
    let body = form.to_form(Charset::Utf8).expect("UTF-8");
    let reply = sidecar.proxy(request, body).await;
    let verified = verified(&reply, method);
    assert!(verified.is_ciphertext(), "{}", text(&reply));
    let opened = key.open_reply(verified).expect("ours");
    assert_eq!(opened.code(), Some("10000"));
}

/// Reads an answer of v3 as a client with the install's key does.
pub(crate) fn check_v3(reply: &Reply) {
    let headers = reply.headers.iter();
    let headers = headers.map(|(name, value)| (name.as_str(), value.as_bytes()));
    let response = V3Response::new(reply.status.as_u16(), headers, reply.body.clone());
    let response = response.expect("each header once");
    assert!(response.alipay_sn().is_none());
    let verified = response.verify(&backends_keys()).expect("signed");
    assert_eq!(verified.verification(), V3Verification::Signed);
    let timestamp = header(reply, "alipay-timestamp");
    assert_eq!(timestamp.len(), 13, "milliseconds: {timestamp}");
}

#[tokio::test]
async fn answers_of_v3_are_signed_by_their_headers() {
    let sidecar = TestSidecar::start_before(|simulator, config| {
        certified(simulator, config);
        local(config);
    })
    .await;
    let created = sidecar.post("/v3/alipay/trade/create", ORDER).await;
    assert_eq!(json(&created)["out_trade_no"], "1", "{}", text(&created));
    check_v3(&created);
    assert_eq!(header(&created, "alipay-sidecar-verified"), "true");
    assert!(!header(&created, "alipay-trace-id").is_empty());
    let refused = sidecar.post(QUERY_V3, r#"{"out_trade_no":"2"}"#).await;
    assert_eq!(refused.status, 400);
    check_v3(&refused);
    for (request, status) in [
        (Request::get(format!("/m/nobody{QUERY_V3}")), 404),
        (Request::get("/v3/alipay//query"), 400),
        (
            Request::get(QUERY_V3).header("origin", "https://a.example"),
            403,
        ),
    ] {
        let error = sidecar.proxy(request, "").await;
        assert_eq!(error.status, status, "{}", text(&error));
        check_v3(&error);
    }
    let fault = Fault::once(FaultKind::Tampered);
    sidecar.simulator.fault(fault);
    let forged = sidecar.post(QUERY_V3, r#"{"out_trade_no":"1"}"#).await;
    assert_eq!(
        header(&forged, "alipay-sidecar-error"),
        "response-signature-invalid"
    );
    check_v3(&forged);
}

#[tokio::test]
async fn a_v3_body_that_the_sidecar_opened_is_signed_open() {
    let sidecar = TestSidecar::start_before(encrypted).await;
    let request = Request::post("/v3/alipay/trade/create")
        .header("alipay-merchant", ALIAS)
        .header("alipay-encrypt-type", "AES");
    let reply = sidecar.proxy(request, ORDER).await;
    assert_eq!(json(&reply)["out_trade_no"], "1", "{}", text(&reply));
    check_v3(&reply);
}

#[tokio::test]
async fn plain_nodes_and_problems_of_v2_carry_no_signature() {
    let sidecar = TestSidecar::start_with(local).await;
    let reply = sidecar.post("/v2/alipay.trade.create", ORDER).await;
    assert_eq!(json(&reply)["code"], "10000");
    let error = sidecar.post("/v2/nothing", "").await;
    for reply in [reply, error] {
        assert_eq!(header(&reply, "alipay-signature"), "");
        assert!(json(&reply).get("sign").is_none(), "{}", text(&reply));
    }
}

#[tokio::test]
async fn what_is_no_key_is_a_fault_of_the_configuration() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut config = Config::default();
    config.proxy.reply_signature = ReplySignature::Local;
    let path = directory.path().join("key.pem");
    std::fs::write(&path, keys::public(INSTALL)).expect("written");
    for (path, found) in [
        (Some(path), "an unusable file"),
        (
            Some(directory.path().join("none.pem")),
            "an unreadable file",
        ),
        (None, "nothing"),
    ] {
        config.proxy.reply_key = path;
        let faults = unusable_files(&config);
        assert_eq!(faults.len(), 1);
        let fault = faults[0].to_string();
        assert!(fault.contains("`proxy.reply_key`"), "{fault}");
        assert!(fault.contains(found), "{fault}");
    }
    config.store.path = directory.path().join("sidecar.redb");
    let key = StoreKey::generate();
    EmbeddedStore::create(&config.store.path, &key).expect("a store");
    config.store.key = Some(key.to_base64());
    let refused = Sidecar::builder(config).build().await;
    let refused = refused.expect_err("no key").to_string();
    assert!(refused.contains("`proxy.reply_key`"), "{refused}");
}
