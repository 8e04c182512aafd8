//! GBK through the front door: calls, replies, notifications, deliveries, byte by byte.

use alipay_sidecar::config::delivery::DeliveryFormat;
use alipay_sidecar::net::client::Reply;
use alipay_sidecar::protocol::charset::Charset;
use alipay_sidecar::protocol::envelope::Envelope;
use alipay_sidecar::protocol::key::RsaPublicKey;
use alipay_sidecar::protocol::params::Params;
use alipay_sidecar::protocol::signature::SignType;
use alipay_sidecar::simulator::{
    Event, FIRST_AUTH_APP_ID, FIRST_PID, NotificationRecord, NotificationState, TriggerOptions,
};
use http::{Method, Request};

use crate::proxy::watched;
use crate::support::upstream::{Answer, Arrived, gbk_reply_of, is_signed_by};
use crate::support::{ALIAS, TestSidecar, header, json, keys, text};

const QUERY: &str = "alipay.trade.query";
/// The trails of the first two are `\` and `}`; the euro sign is A2 E3 in Java alone.
const SUBJECT: &str = "乗亇中文€";

fn gbk(text: &str) -> Vec<u8> {
    Charset::Gbk.encode(text).expect("GBK")
}

fn gbk_form(pairs: &[(&str, &str)]) -> String {
    let mut params = Params::new();
    for (name, value) in pairs {
        params.set(*name, *value);
    }
    params.to_form(Charset::Gbk).expect("GBK")
}

/// Posts a form to `/gateway.do`, as an SDK that is set to `label` does.
async fn post(sidecar: &TestSidecar, (method, label): (&str, &str), body: String) -> Reply {
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("/gateway.do?method={method}&charset={label}"))
        .header("alipay-merchant", ALIAS)
        .header(
            "content-type",
            format!("application/x-www-form-urlencoded;charset={label}"),
        );
    sidecar.proxy(request, body).await
}

/// Reads a GBK reply as an SDK does: decoded, and verified over its bytes.
fn verified(reply: &Reply, method: &str) -> String {
    let keys = [RsaPublicKey::from_text(&keys::public("alipay2048")).expect("a key")];
    Envelope::parse_in(reply.body.clone(), method, Charset::Gbk)
        .and_then(|envelope| envelope.verify(&keys, SignType::Rsa2))
        .expect("signed")
        .node_text()
}

#[tokio::test]
async fn a_gbk_call_reaches_alipay_in_gbk_under_its_own_spelling() {
    let (alipay, sidecar) = watched().await;
    for label in ["GBK", "gbk", "GB2312"] {
        let biz_content = format!(r#"{{"subject":"{SUBJECT}"}}"#);
        let body = gbk_form(&[("biz_content", &biz_content)]);
        let reply = post(&sidecar, (QUERY, label), body.clone()).await;
        assert_eq!(header(&reply, "alipay-sidecar-verified"), "true");
        let arrived = alipay.next().await;
        assert_eq!(arrived.body, body, "{label}");
        assert!(body.contains("%81%5C%81%7D%D6%D0%CE%C4%A2%E3"), "{body}");
        assert!(arrived.query.contains(&format!("charset={label}&")));
        assert_eq!(
            arrived.headers["content-type"],
            format!("application/x-www-form-urlencoded;charset={label}")
        );
        assert_eq!(arrived.param("biz_content"), biz_content);
        assert!(is_signed_by("app2048", &arrived.params()));
    }
}

#[tokio::test]
async fn a_gbk_reply_goes_back_byte_for_byte() {
    let (alipay, sidecar) = watched().await;
    let node = format!(r#"{{"code":"10000","subject":"{SUBJECT}","u":"a\/乗"}}"#);
    let whole = gbk_reply_of(QUERY, &node);
    for (given, expected) in [
        ("text/html;charset=GBK", "text/html;charset=GBK"),
        ("text/html; charset=gb2312", "text/html; charset=gb2312"),
        ("text/html", "text/html"),
        ("", "text/html;charset=GBK"),
    ] {
        alipay.answer(Answer::Bytes(given, whole.clone()));
        let reply = post(&sidecar, (QUERY, "gbk"), String::new()).await;
        assert_eq!(reply.body, whole, "{given}");
        assert_eq!(header(&reply, "content-type"), expected);
        assert_eq!(header(&reply, "alipay-sidecar-verified"), "true");
    }
}

#[tokio::test]
async fn a_reply_that_lies_about_its_charset_is_refused() {
    let (alipay, sidecar) = watched().await;
    let whole = gbk_reply_of(QUERY, &format!(r#"{{"code":"10000","a":"{SUBJECT}"}}"#));
    alipay.answer(Answer::Bytes("text/html;charset=utf-8", whole));
    let reply = post(&sidecar, (QUERY, "gbk"), String::new()).await;
    assert_eq!(header(&reply, "alipay-sidecar-error"), "upstream-invalid");
    assert_eq!(header(&reply, "alipay-sidecar-outcome"), "unknown");
}

#[tokio::test]
async fn a_forged_gbk_reply_is_refused() {
    let (alipay, sidecar) = watched().await;
    let whole = gbk_reply_of(QUERY, r#"{"code":"10000","a":"中"}"#);
    let forged = Charset::Gbk
        .decode(&whole)
        .expect("GBK")
        .replace('中', "文");
    alipay.answer(Answer::Bytes("text/html;charset=GBK", gbk(&forged)));
    let reply = post(&sidecar, (QUERY, "GBK"), String::new()).await;
    let error = header(&reply, "alipay-sidecar-error");
    assert_eq!(error, "response-signature-invalid");
}

#[tokio::test]
async fn the_simulator_verifies_a_gbk_call_and_answers_in_gbk() {
    let sidecar = TestSidecar::start().await;
    let method = "alipay.trade.create";
    let biz_content = format!(
        r#"{{"out_trade_no":"gbk-1","total_amount":"1.00","subject":"{SUBJECT}","buyer_id":"2088102146225135"}}"#
    );
    let body = gbk_form(&[("biz_content", &biz_content)]);
    let reply = post(&sidecar, (method, "GBK"), body).await;
    let node = verified(&reply, method);
    assert!(node.contains(r#""code":"10000""#), "{node}");
    assert_eq!(header(&reply, "content-type"), "text/html;charset=GBK");

    let unknown = gbk_form(&[("biz_content", r#"{"out_trade_no":"不存在"}"#)]);
    let reply = post(&sidecar, (QUERY, "gbk"), unknown).await;
    let node = verified(&reply, QUERY);
    assert!(node.contains("ACQ.TRADE_NOT_EXIST"), "{node}");
    assert!(!node.is_ascii() && std::str::from_utf8(&reply.body).is_err());
}

#[tokio::test]
async fn what_gbk_lacks_is_refused_and_nothing_is_sent() {
    let (alipay, sidecar) = watched().await;
    for (label, value, code) in [
        // An emoji in GB18030, and UTF-8 that isn't GBK.
        ("GBK", "%949%FC6", "parameter-invalid"),
        ("GBK", "%E4%B8%AD", "parameter-invalid"),
        ("gbk", "%80", "parameter-invalid"),
        ("gbk", "%D6", "parameter-invalid"),
        ("GB18030", "a", "charset-unsupported"),
        ("%20GBK", "a", "charset-unsupported"),
        // GBK under another flag.
        ("utf-8", "%D6%D0", "parameter-invalid"),
    ] {
        let reply = post(&sidecar, (QUERY, label), format!("subject={value}")).await;
        assert_eq!(
            header(&reply, "alipay-sidecar-error"),
            code,
            "{label} {value}"
        );
        assert_eq!(header(&reply, "alipay-sidecar-outcome"), "not-sent");
        let error = &json(&reply)["error_response"];
        assert_eq!(error["sub_code"], format!("sidecar.{code}"));
        assert!(text(&reply).is_ascii());
    }
    assert!(alipay.is_quiet().await);
}

#[tokio::test]
async fn a_gbk_call_is_notified_of_in_gbk() {
    let sidecar = TestSidecar::start().await;
    let biz_content = format!(
        r#"{{"out_trade_no":"gbk-2","total_amount":"1.00","subject":"{SUBJECT}","scene":"bar_code","auth_code":"28763443825664394"}}"#
    );
    let body = gbk_form(&[("biz_content", &biz_content), ("notify_url", "/orders/7")]);
    let reply = post(&sidecar, ("alipay.trade.pay", "gbk"), body).await;
    assert!(verified(&reply, "alipay.trade.pay").contains(r#""code":"10000""#));
    let seen = sidecar.backend.next().await;
    let params = Params::from_form(&seen.body, Charset::Gbk).expect("GBK");
    assert_eq!(params.get("subject"), Some(SUBJECT));
    assert_eq!(params.get("charset"), Some("gbk"));
}

async fn pay(sidecar: &TestSidecar, label: &str) -> NotificationRecord {
    let options = TriggerOptions {
        charset: Some(label.to_owned()),
        params: [("subject".to_owned(), SUBJECT.to_owned())].into(),
        attempts: Some(1),
        wait: true,
        url: Some(format!("{}/alipay/notify/orders/42", sidecar.webhook)),
        ..TriggerOptions::default()
    };
    let sent = sidecar.simulator.trigger(Event::Payment, &options).await;
    sent.expect("sent")
}

#[tokio::test]
async fn a_gbk_notification_is_delivered_byte_for_byte() {
    let sidecar = TestSidecar::start().await;
    for label in ["GBK", "gb2312"] {
        let sent = pay(&sidecar, label).await;
        assert_eq!(sent.state, NotificationState::Acked, "{:?}", sent.attempts);
        assert!(sent.body.contains("subject=%81%5C%81%7D%D6%D0%CE%C4%A2%E3"));
        let seen = sidecar.backend.next().await;
        assert_eq!(seen.body, sent.body);
        let form = "application/x-www-form-urlencoded; charset=GBK";
        assert_eq!(seen.header("content-type"), form);
    }
}

#[tokio::test]
async fn a_gbk_notification_is_decoded_for_a_json_delivery() {
    let sidecar = TestSidecar::start_with(|c| c.delivery.format = DeliveryFormat::Json).await;
    let sent = pay(&sidecar, "GBK").await;
    assert_eq!(sent.state, NotificationState::Acked, "{:?}", sent.attempts);
    let event = sidecar.backend.next().await.json();
    assert_eq!(event["params"]["subject"], SUBJECT);
    assert_eq!(event["params"]["charset"], "GBK");
    // Alipay doesn't say it here; the merchant's record does.
    assert_eq!(event["auth_app_id"], FIRST_AUTH_APP_ID);
    assert_eq!(event["pid"], FIRST_PID);
}

#[tokio::test]
async fn the_charset_parameter_of_a_notification_wins_over_its_header() {
    let sidecar = TestSidecar::start().await;
    let mut sent = pay(&sidecar, "GBK").await;
    sidecar.backend.next().await;
    let request = || {
        let form = "application/x-www-form-urlencoded; charset=utf-8";
        Request::builder()
            .method(Method::POST)
            .uri("/alipay/notify/orders/42")
            .header("content-type", form)
    };
    // A duplicate, acked only if its signature holds.
    let reply = sidecar.webhook(request(), sent.body.clone()).await;
    assert_eq!(
        (reply.status.as_u16(), text(&reply)),
        (200, "success".to_owned())
    );
    sent.body = sent.body.replace("%D6%D0", "%D6%D1");
    let reply = sidecar.webhook(request(), sent.body).await;
    assert_eq!(
        (reply.status.as_u16(), text(&reply)),
        (400, "fail".to_owned())
    );
}

#[tokio::test]
async fn a_service_check_in_gbk_is_answered_in_gbk() {
    let sidecar = TestSidecar::start().await;
    for (label, expected) in [
        (None, "GBK"),
        (Some("gb2312"), "GBK"),
        (Some("utf-8"), "UTF-8"),
    ] {
        let options = TriggerOptions {
            charset: label.map(str::to_owned),
            attempts: Some(1),
            wait: true,
            ..TriggerOptions::default()
        };
        let sent = sidecar.simulator.trigger(Event::ServiceCheck, &options);
        let sent = sent.await.expect("sent");
        assert_eq!(sent.state, NotificationState::Acked, "{:?}", sent.attempts);
        let answer = &sent.attempts[0].answer;
        assert!(answer.starts_with(&format!("<?xml version=\"1.0\" encoding=\"{expected}\"?>")));
    }
}

const UPLOAD: &str = "alipay.offline.material.image.upload";
const FILE_NAME: &str = "乗€.png";

fn part(head: &str, content: &[u8]) -> Vec<u8> {
    let head = format!("--xyz\r\nContent-Disposition:form-data;{head}\r\n\r\n");
    [&gbk(&head), content, b"\r\n"].concat()
}

/// Posts parts to `/gateway.do`, as the Java SDK does.
async fn post_parts(sidecar: &TestSidecar, query: &str, parts: &[Vec<u8>]) -> Reply {
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("/gateway.do?method={UPLOAD}{query}"))
        .header("alipay-merchant", ALIAS)
        .header(
            "content-type",
            "multipart/form-data;boundary=xyz;charset=GBK",
        );
    let body = [parts.concat(), b"--xyz--\r\n".to_vec()].concat();
    sidecar.proxy(request, body).await
}

fn image() -> Vec<u8> {
    (0..=255).cycle().take(600_000).collect()
}

fn holds(arrived: &Arrived, piece: &[u8]) -> bool {
    arrived
        .body
        .windows(piece.len())
        .any(|found| found == piece)
}

#[tokio::test]
async fn a_gbk_upload_reaches_alipay_in_gbk_byte_for_byte() {
    let (alipay, sidecar) = watched().await;
    for label in ["GBK", "gbk", "GB2312"] {
        let file = format!("name=\"image_content\";filename=\"{FILE_NAME}\"");
        let parts = [
            part(
                "name=\"image_name\"\r\nContent-Type:text/plain",
                &gbk(SUBJECT),
            ),
            part(
                "name=\"image_type\"\r\nContent-Type:text/plain;charset=utf-8",
                b"png",
            ),
            part(&format!("{file}\r\nContent-Type:image/png"), &image()),
        ];
        let reply = post_parts(&sidecar, &format!("&charset={label}"), &parts).await;
        assert_eq!(
            header(&reply, "alipay-sidecar-verified"),
            "true",
            "{}",
            text(&reply)
        );
        let arrived = alipay.next().await;
        let content_type = arrived.content_type();
        let start = format!("multipart/form-data;charset={label};boundary=");
        assert!(content_type.starts_with(&start), "{content_type}");
        let written =
            format!("\r\nContent-Type: text/plain;charset={label}\r\n\r\n{SUBJECT}\r\n--");
        assert!(holds(&arrived, &gbk(&written)), "{label}");
        let name = format!("; filename=\"{FILE_NAME}\"\r\nContent-Type: image/png\r\n\r\n");
        assert!(holds(&arrived, &[gbk(&name), image()].concat()), "{label}");
        let mut params = arrived.params();
        params.push("image_name", SUBJECT).expect("once");
        params.push("image_type", "png").expect("once");
        assert!(is_signed_by("app2048", &params), "{label}");
        let length = arrived.body.len().to_string();
        assert_eq!(arrived.headers["content-length"], length);
    }
}

#[tokio::test]
async fn the_simulator_verifies_a_gbk_upload_and_answers_in_gbk() {
    let sidecar = TestSidecar::start().await;
    let file = format!("name=\"image_content\";filename=\"{FILE_NAME}\"");
    let parts = [
        part("name=\"image_type\"", b"png"),
        part("name=\"image_name\"", &gbk(SUBJECT)),
        part(&file, &image()),
    ];
    let reply = post_parts(&sidecar, "&charset=GBK", &parts).await;
    assert_eq!(
        header(&reply, "alipay-sidecar-verified"),
        "true",
        "{}",
        text(&reply)
    );
    verified(&reply, UPLOAD);
    let seen = sidecar.simulator.requests().pop().expect("a request");
    assert_eq!(seen.verdict, "ok");
    assert_eq!(seen.files, ["image_content"]);
}

#[tokio::test]
async fn an_upload_that_is_not_in_its_charset_is_refused_and_nothing_is_sent() {
    let (alipay, sidecar) = watched().await;
    let file = |name: &[u8]| {
        let head = b"--xyz\r\nContent-Disposition:form-data;name=\"f\";filename=\"";
        [&head[..], name, b"\"\r\n\r\nx\r\n"].concat()
    };
    let typed = |label: &str, value: &[u8]| {
        part(
            &format!("name=\"a\"\r\nContent-Type:text/plain;charset={label}"),
            value,
        )
    };
    let plain = |value: &[u8]| part("name=\"a\"", value);
    for (query, wrong, code) in [
        // UTF-8, an emoji of GB18030, the Web's euro sign, half a character.
        ("&charset=GBK", plain("中".as_bytes()), "body-invalid"),
        ("&charset=GBK", plain(b"\x94\x39\xfc\x36"), "body-invalid"),
        ("&charset=gbk", plain(b"\x80"), "body-invalid"),
        ("&charset=gbk", plain(b"\xd6"), "body-invalid"),
        ("&charset=GBK", file("中".as_bytes()), "body-invalid"),
        ("&charset=GBK", file(b"\xff"), "body-invalid"),
        ("", file(b"\xd6\xd0"), "body-invalid"),
        ("&charset=utf-8", plain(&gbk("中")), "body-invalid"),
        // Whatever the part says, Alipay would read it otherwise.
        ("&charset=GBK", typed("utf-8", &gbk("中")), "body-invalid"),
        ("", typed("GBK", "中".as_bytes()), "body-invalid"),
        ("", typed("utf-16", b"a"), "body-invalid"),
        ("", part("name=\"charset\"", b"GBK"), "parameter-invalid"),
        (
            "&charset=GBK",
            part("name=\"charset\"", b"utf-8"),
            "parameter-invalid",
        ),
        ("&charset=GB18030", plain(b"a"), "charset-unsupported"),
        (
            "",
            part("name=\"a\";filename*=utf-8''x", b"x"),
            "body-invalid",
        ),
    ] {
        let parts = [part("name=\"g\";filename=\"y.png\"", b"x"), wrong];
        let reply = post_parts(&sidecar, query, &parts).await;
        let found = header(&reply, "alipay-sidecar-error");
        assert_eq!(
            found,
            code,
            "{query} {} {}",
            parts[1].escape_ascii(),
            text(&reply)
        );
        assert_eq!(header(&reply, "alipay-sidecar-outcome"), "not-sent");
    }
    let parts = [part("name=\"image_name\"", b"a\x80")];
    let reply = post_parts(&sidecar, "&charset=GBK", &parts).await;
    let told = json(&reply)["error_response"]["sub_msg"].to_string();
    assert!(
        told.contains("part `image_name`: the text isn't valid GBK (near byte 1)"),
        "{told}"
    );
    assert!(alipay.is_quiet().await);
}

#[tokio::test]
async fn ascii_parts_may_be_called_what_http_libraries_call_them() {
    let (alipay, sidecar) = watched().await;
    for label in ["ISO-8859-1", "us-ascii", "GBK", "utf-8"] {
        let head = format!("name=\"image_type\"\r\nContent-Type:text/plain;charset={label}");
        let file = part("name=\"image_content\";filename=\"a.png\"", b"x");
        let reply = post_parts(&sidecar, "", &[part(&head, b"png"), file]).await;
        assert_eq!(header(&reply, "alipay-sidecar-verified"), "true", "{label}");
        assert!(holds(&alipay.next().await, b"charset=utf-8\r\n\r\npng\r\n"));
    }
}
