//! Uploads: what SDKs and plain clients send as parts reaches Alipay, signed over the text alone.

use alipay_sidecar::net::client::Reply;
use alipay_sidecar::protocol::charset::Charset;
use alipay_sidecar::protocol::params::Params;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Request;
use serde_json::Value;

use crate::proxy::watched;
use crate::support::upstream::{Arrived, SUCCESS, is_signed_by};
use crate::support::{ALIAS, TestSidecar, header, text};

const METHOD: &str = "alipay.offline.material.image.upload";
const BOUNDARY: &str = "xyz";

fn part(head: &str, content: &[u8]) -> Vec<u8> {
    let mut part =
        format!("--{BOUNDARY}\r\nContent-Disposition: form-data; {head}\r\n\r\n").into_bytes();
    part.extend(content);
    part.extend(b"\r\n");
    part
}

fn upload(parts: &[Vec<u8>]) -> Vec<u8> {
    let mut body = parts.concat();
    body.extend(format!("--{BOUNDARY}--\r\n").as_bytes());
    body
}

async fn post(sidecar: &TestSidecar, path: &str, body: Vec<u8>) -> Reply {
    let request = Request::builder()
        .method("POST")
        .uri(path)
        .header("alipay-merchant", ALIAS)
        .header(
            "content-type",
            format!("multipart/form-data; boundary={BOUNDARY}"),
        );
    sidecar.proxy(request, body).await
}

/// The text parameters of an upload as it arrived at Alipay, those of the query among them.
async fn signed_params(arrived: &Arrived) -> Params {
    let mut all = arrived.params();
    let boundary = multer::parse_boundary(arrived.content_type()).expect("a boundary");
    let body = arrived.body.clone();
    let stream = futures_util::stream::iter([Ok::<_, std::io::Error>(body)]);
    let mut parts = multer::Multipart::new(stream, boundary);
    while let Some(field) = parts.next_field().await.expect("parts") {
        let name = field.name().expect("a name").to_owned();
        if field.file_name().is_none() {
            all.push(name, field.text().await.expect("text"))
                .expect("once");
        }
    }
    all
}

fn holds(body: &[u8], content: &[u8]) -> bool {
    body.windows(content.len()).any(|window| window == content)
}

#[tokio::test]
async fn text_is_signed_and_files_arrive_byte_for_byte() {
    let (alipay, sidecar) = watched().await;
    let image: Vec<u8> = (0..=255).cycle().take(1_000_000).collect();
    let body = upload(&[
        part("name=\"image_type\"", b"png"),
        part("name=\"image_content\"; filename=\"a.png\"", &image),
        part("name=\"image_name\"", "海底捞".as_bytes()),
        part("name=\"empty\"", b""),
    ]);
    let reply = post(&sidecar, &format!("/v2/{METHOD}"), body).await;
    assert_eq!(
        (reply.status.as_u16(), text(&reply).as_str()),
        (200, SUCCESS)
    );
    let arrived = alipay.next().await;
    let params = signed_params(&arrived).await;
    assert_eq!(params.get("image_name"), Some("海底捞"));
    assert_eq!(params.get("empty"), None, "an empty parameter isn't sent");
    assert!(is_signed_by("app2048", &params));
    assert!(holds(&arrived.body, &image));
    assert_eq!(
        arrived.headers["content-length"],
        arrived.body.len().to_string()
    );
}

#[tokio::test]
async fn uploads_as_official_sdks_send_them_are_taken_and_verify_at_alipay() {
    let file: Value = serde_json::from_str(include_str!("../vectors/v2-wire.json")).expect("JSON");
    let sidecar = TestSidecar::start().await;
    for case in file["cases"].as_array().expect("cases") {
        let id = case["id"].as_str().expect("an id");
        if !id.ends_with("-multipart") {
            continue;
        }
        let target = case["raw_target"].as_str().expect("a target");
        let query = target.split_once('?').expect("a query").1;
        let mut params = Params::from_form(query.as_bytes(), Charset::Utf8).expect("a query");
        params.set("app_auth_token", format!("merchant:{ALIAS}"));
        let mut body = STANDARD
            .decode(case["raw_body_b64"].as_str().expect("a body"))
            .expect("base64");
        // Java sends the token as a part: there it tags.
        let token = b"202611BB5c1a7f2e7d3b4f0e9c8a7b6d5e4f3X24";
        if let Some(at) = body.windows(token.len()).position(|w| w == token) {
            params.remove("app_auth_token");
            let tag = format!("merchant:{ALIAS}").into_bytes();
            body.splice(at..at + token.len(), tag);
        }
        let content_type = case["headers"].as_array().expect("headers").iter();
        let content_type = content_type
            .filter_map(|pair| Some((pair[0].as_str()?, pair[1].as_str()?)))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-type"))
            .expect("a content type")
            .1;
        let query = params.to_form(Charset::Utf8).expect("UTF-8");
        let request = Request::builder()
            .method("POST")
            .uri(format!("/gateway.do?{query}"))
            .header("content-type", content_type);
        let reply = sidecar.proxy(request, body).await;
        assert_eq!(
            header(&reply, "alipay-sidecar-verified"),
            "true",
            "{id}: {}",
            text(&reply)
        );
        let seen = sidecar.simulator.requests().pop().expect("a request");
        assert_eq!(
            (seen.verdict.as_str(), seen.files.as_slice()),
            ("ok", ["image_content".to_owned()].as_slice()),
            "{id}"
        );
    }
}

/// An upload of that many parts.
fn numbered(parts: usize) -> Vec<u8> {
    let parts = (0..parts).map(|n| part(&format!("name=\"p{n}\""), b"x"));
    upload(&parts.collect::<Vec<_>>())
}

#[tokio::test]
async fn an_upload_may_have_a_hundred_parts() {
    let sidecar = TestSidecar::start().await;
    let reply = post(&sidecar, &format!("/v2/{METHOD}"), numbered(100)).await;
    assert_eq!(
        header(&reply, "alipay-sidecar-error"),
        "",
        "{}",
        text(&reply)
    );
    assert_eq!(sidecar.simulator.requests().len(), 1);
}

#[tokio::test]
async fn unusable_uploads_are_refused_and_nothing_is_sent() {
    let sidecar = TestSidecar::start_with(|c| {
        c.proxy.max_upload = 100_000;
        c.proxy.max_body = 2_000;
    })
    .await;
    let file = |name: &str, size: usize| {
        part(
            &format!("name=\"{name}\"; filename=\"f\""),
            &vec![b'x'; size],
        )
    };
    let text = |name: &str, size: usize| part(&format!("name=\"{name}\""), &vec![b'x'; size]);
    for (body, code) in [
        (upload(&[file("f", 100_000)]), "body-too-large"),
        (
            upload(&[text("a", 1_500), text("b", 600)]),
            "body-too-large",
        ),
        (upload(&[text("a", 1), text("a", 1)]), "parameter-duplicate"),
        (upload(&[text("a", 1), text("A", 1)]), "parameter-duplicate"),
        (upload(&[file("f", 1), text("F", 1)]), "parameter-duplicate"),
        (upload(&[file("f", 1), file("f", 1)]), "parameter-duplicate"),
        (upload(&[text("app_auth_token", 1)]), "parameter-reserved"),
        (upload(&[file("sign", 1)]), "parameter-reserved"),
        (upload(&[text("method", 1)]), "parameter-duplicate"),
        (upload(&[file("Method", 1)]), "parameter-duplicate"),
        (upload(&[file("biz_content", 1)]), "parameter-duplicate"),
        (upload(&[file("a b", 1)]), "parameter-invalid"),
        (upload(&[part("x=\"y\"", b"")]), "body-invalid"),
        (upload(&[part("name=\"a\"", b"\xff")]), "body-invalid"),
        (part("name=\"a\"", b"cut off"), "body-invalid"),
        (numbered(101), "body-invalid"),
        (Vec::new(), "body-invalid"),
    ] {
        let reply = post(&sidecar, &format!("/v2/{METHOD}"), body).await;
        assert_eq!(header(&reply, "alipay-sidecar-error"), code);
        assert_eq!(header(&reply, "alipay-sidecar-outcome"), "not-sent");
    }
    let body = upload(&[file("biz_content", 1)]);
    let reply = post(&sidecar, "/gateway.do?method=a.b", body).await;
    assert_eq!(
        header(&reply, "alipay-sidecar-error"),
        "parameter-duplicate"
    );
    let page = upload(&[file("f", 1)]);
    let reply = post(&sidecar, &format!("/v2/{METHOD}/page-form"), page).await;
    assert_eq!(header(&reply, "alipay-sidecar-error"), "body-invalid");
    let bare = Request::builder()
        .method("POST")
        .uri("/gateway.do?method=a.b")
        .header("content-type", "multipart/mixed");
    let reply = sidecar.proxy(bare, "").await;
    assert_eq!(header(&reply, "alipay-sidecar-error"), "body-invalid");
    assert!(sidecar.simulator.requests().is_empty());
}

/// As `MultipartFormDataContent` writes them: a quoted boundary, names without quotes, and each file's
/// name twice, one beyond ASCII as an encoded word.
#[tokio::test]
async fn files_as_dot_net_names_them_are_taken() {
    let (alipay, sidecar) = watched().await;
    let of_v3 = TestSidecar::start().await;
    let named = [
        ("a.png", "utf-8''a.png"),
        ("\"=?utf-8?B?5Zu+LnBuZw==?=\"", "utf-8''%E5%9B%BE.png"),
    ];
    for (plain, extended) in named {
        let told = format!("name=image_content; filename={plain}; filename*={extended}");
        let post = async |sidecar: &TestSidecar, path: String, text_part: &str| {
            let body = upload(&[part(text_part, b"{}"), part(&told, b"\x89PNG")]);
            let content_type = format!("multipart/form-data; boundary=\"{BOUNDARY}\"");
            let request = Request::post(&path)
                .header("alipay-merchant", ALIAS)
                .header("content-type", content_type);
            let reply = sidecar.proxy(request, body).await;
            let error = header(&reply, "alipay-sidecar-error");
            assert_eq!(error, "", "{path}: {}", text(&reply));
        };
        for path in [
            format!("/v2/{METHOD}"),
            format!("/gateway.do?method={METHOD}"),
        ] {
            post(&sidecar, path, "name=image_type").await;
            let arrived = alipay.next().await;
            let named = format!("filename=\"{}\"", plain.trim_matches('"'));
            assert!(holds(&arrived.body, named.as_bytes()), "{named}");
        }
        let path = "/v3/alipay/offline/material/image/upload".to_owned();
        post(&of_v3, path, "name=data").await;
        let seen = of_v3.simulator.requests().pop().expect("a request");
        assert_eq!(seen.files, ["image_content"]);
    }
}

#[tokio::test]
async fn a_biz_content_in_a_part_is_one_json_object_too() {
    let (alipay, sidecar) = watched().await;
    let file = part("name=\"image_content\"; filename=\"a.png\"", b"\x89PNG");
    let with = |content: &str| {
        let content = part("name=\"biz_content\"", content.as_bytes());
        upload(&[content, file.clone()])
    };
    let path = format!("/v2/{METHOD}");
    for content in ["[]", "{} {}", "\u{feff}{}", "1", "{\"a\":", " "] {
        let reply = post(&sidecar, &path, with(content)).await;
        let code = header(&reply, "alipay-sidecar-error");
        assert_eq!(code, "body-invalid", "{content:?}: {}", text(&reply));
    }
    assert!(alipay.is_quiet().await);
    for (content, sent) in [(" {\"a\": 1}", Some(" {\"a\": 1}")), ("", None)] {
        let reply = post(&sidecar, &path, with(content)).await;
        assert_eq!(text(&reply), SUCCESS, "{content:?}");
        let params = signed_params(&alipay.next().await).await;
        assert_eq!(params.get("biz_content"), sent);
    }
}
