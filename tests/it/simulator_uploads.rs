//! Uploads to the simulator: only their texts are signed, and large ones pass.
#![expect(
    clippy::unwrap_used,
    reason = "clippy.toml allows them in tests, but not in the helpers beside them"
)]
use std::convert::Infallible;

use alipay_sidecar::simulator::{DEFAULT_APP_ID, UploadedFile};
use bytes::Bytes;
use futures_util::stream;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::support::isv::{Isv, form};

const UPLOAD: &str = "alipay.offline.material.image.upload";

fn part(name: &str, value: &str) -> String {
    format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
}

fn file_head(name: &str) -> String {
    format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"图.png\"\r\n\r\n")
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Sends a body in pieces and gives the reply's text.
async fn post(url: &str, pieces: impl Iterator<Item = Bytes> + Send + Sync + 'static) -> String {
    let frames = pieces.map(|piece| Ok::<_, Infallible>(Frame::data(piece)));
    let request = Request::post(url)
        .header("content-type", "multipart/form-data; boundary=b")
        .body(StreamBody::new(stream::iter(frames)).boxed())
        .unwrap();
    let client = Client::builder(TokioExecutor::new()).build_http();
    let reply = client.request(request).await.unwrap();
    assert_eq!(reply.status(), StatusCode::OK);
    let body = reply.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

#[tokio::test]
async fn only_the_texts_of_an_upload_are_signed() {
    let isv = Isv::start(|app| app).await;
    let params = isv.params(UPLOAD, &[("image_name", "海底捞"), ("image_type", "png")]);
    let (body, query) = params
        .into_iter()
        .partition(|(name, _)| name.starts_with("image_"));
    let query: std::collections::BTreeMap<_, _> = query;
    let texts: std::collections::BTreeMap<String, String> = body;
    let url = format!("{}/gateway.do?{}", isv.simulator.url(), form(&query));
    let texts: String = texts
        .iter()
        .map(|(name, value)| part(name, value))
        .collect();
    let content = "PNG\r\n--a\r\n\r\n";
    let body = format!(
        "{texts}{}{content}\r\n--b--\r\n",
        file_head("image_content")
    );
    let text = post(&url, std::iter::once(Bytes::from(body.clone()))).await;
    assert!(text.contains("image_id"), "{text}");
    let seen = isv.simulator.requests();
    let file = UploadedFile {
        name: "image_content".to_owned(),
        filename: "图.png".to_owned(),
        bytes: content.len() as u64,
        sha256: hexadecimal(&Sha256::digest(content)),
    };
    assert_eq!(seen[0].uploads, [file]);
    assert_eq!(seen[0].files, ["image_content"]);

    let tampered = body.replace("海底捞", "海底劳");
    let text = post(&url, std::iter::once(Bytes::from(tampered))).await;
    assert!(text.contains("isv.invalid-signature"), "{text}");
    let cut = body.replace("--b--\r\n", "");
    let text = post(&url, std::iter::once(Bytes::from(cut))).await;
    assert!(text.contains("isv.invalid-parameter"), "{text}");
}

/// 64 MiB in pieces: more than a body that is read whole may have.
#[tokio::test]
async fn a_large_upload_passes_in_pieces() {
    const PIECES: usize = 1024;
    let isv = Isv::start(|app| app).await;
    let params = isv.params(UPLOAD, &[]);
    let url = format!("{}/gateway.do?{}", isv.simulator.url(), form(&params));
    let piece: Vec<u8> = (0..65_536_u32)
        .flat_map(|n| (n * 7).to_le_bytes())
        .take(65_536)
        .collect();
    let mut hash = Sha256::new();
    (0..PIECES).for_each(|_| hash.update(&piece));
    let head = Bytes::from(file_head("image_content"));
    let tail = Bytes::from_static(b"\r\n--b--\r\n");
    let pieces = std::iter::repeat_n(Bytes::from(piece), PIECES);
    let body = std::iter::once(head)
        .chain(pieces)
        .chain(std::iter::once(tail));
    let text = post(&url, body).await;
    assert!(text.contains("image_id"), "{text}");
    let [file] = &isv.simulator.requests()[0].uploads[..] else {
        panic!("one file")
    };
    assert_eq!(file.bytes, 65_536 * PIECES as u64);
    assert_eq!(file.sha256, hexadecimal(&hash.finalize()));
}

#[tokio::test]
async fn v3_signs_the_data_part_alone() {
    let isv = Isv::start(|app| app).await;
    let data = r#"{"biz_code":"中文"}"#;
    for (path, id) in [
        ("/v3/alipay/open/file/upload", "file_id"),
        ("/v3/alipay/offline/material/image/upload", "image_id"),
    ] {
        let send = async |sent: &str| {
            let body = format!("{}{}x\r\n--b--\r\n", part("data", sent), file_head("f"));
            let call = isv.v3("POST", path, data);
            call.wire("multipart/form-data; boundary=b", body.into_bytes())
                .send()
                .await
        };
        let answer = send(data).await;
        assert!(answer.json()[id].is_string(), "{answer:?}");
        assert!(answer.verifies(&isv.platform_key()));
        let answer = send(r#"{"biz_code":"中国"}"#).await;
        assert_eq!(answer.json()["code"], "invalid-signature");
    }
    let body = format!("{}{}x\r\n--b--\r\n", part("other", data), file_head("f"));
    let call = isv.v3("POST", "/v3/alipay/open/file/upload", data);
    let call = call.wire("multipart/form-data; boundary=b", body.into_bytes());
    assert_eq!(call.send().await.json()["code"], "invalid-parameter");
    let seen = isv.simulator.requests();
    assert_eq!(seen[0].app_id, DEFAULT_APP_ID);
    assert_eq!(
        Value::from(seen[0].body.clone()),
        Value::from(vec!["biz_code"])
    );
}
