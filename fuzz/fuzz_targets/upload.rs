//! Uploads: the head of a part as it is read; and what we write, read by another parser, holds the
//! parts that were meant and no others.
//!
//! Input: a flag byte, and lines of name, value, file name, type; behind them the file.
#![no_main]

use alipay_sidecar::protocol::disposition::Disposition;
use alipay_sidecar::protocol::multipart::{FileHead, Layout};
use alipay_sidecar_fuzz::{charset, first, line, oracle};
use bytes::Bytes;
use futures_util::FutureExt as _;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let (flag, rest) = first(data);
    read(rest, flag);
    written(rest, flag);
});

fn read(header: &[u8], flag: u8) {
    let Ok(read) = Disposition::parse(header, charset(flag)) else {
        return;
    };
    let text = oracle::decode(header, charset(flag)).expect("in the charset");
    assert!(!read.name.is_empty());
    assert!(
        text.trim_start()
            .to_ascii_lowercase()
            .starts_with("form-data")
    );
    // Nothing is made up: but for the escaped quotes, the names stand there.
    let plain = text.replace("\\\"", "\"");
    assert!(plain.contains(&read.name) || text.contains(&read.name));
    if let Some(file) = &read.file_name {
        assert!(plain.contains(file.as_str()) || text.contains(file.as_str()));
    }
}

fn written(data: &[u8], flag: u8) {
    let (name, rest) = line(data);
    let (value, rest) = line(rest);
    let (file_name, rest) = line(rest);
    let (content_type, file) = line(rest);
    if data.windows(14).any(|bytes| bytes == b"alipay-sidecar") {
        // Nobody can guess the boundary, but here it isn't random.
        return;
    }
    let texts = [name, value, file_name, content_type].map(|text| std::str::from_utf8(text));
    let [Ok(name), Ok(value), Ok(file_name), Ok(content_type)] = texts else {
        return;
    };
    let charset = charset(flag);
    let layout = Layout::new(u128::from(flag)).in_charset(charset.into());
    let head = FileHead {
        name: "file",
        file_name,
        content_type,
    };
    let (Ok(text), Ok(before)) = (layout.text(name, value), layout.before_file(&head)) else {
        return;
    };
    let boundary = format!("alipay-sidecar-{:032x}", u128::from(flag));
    assert!(
        layout
            .content_type()
            .ends_with(&format!("boundary={boundary}"))
    );
    let end = layout.end();
    let whole = [
        &text,
        &before,
        file,
        Layout::AFTER_FILE.as_bytes(),
        end.as_bytes(),
    ]
    .concat();
    let parts = parts(whole, &boundary);
    assert_eq!(parts.len(), 2, "two parts were written");
    let of = |part: &(Vec<u8>, Bytes)| Disposition::parse(&part.0, charset).ok();
    let expected = quoted(name);
    match of(&parts[0]) {
        Some(read) => assert_eq!((read.name, read.file_name), (expected, None)),
        None => assert!(name.is_empty()),
    }
    assert_eq!(
        parts[0].1,
        oracle::encode(value, charset).expect("as it was written")
    );
    let read = of(&parts[1]).expect("a file has a name");
    assert_eq!(
        (read.name.as_str(), read.file_name),
        ("file", Some(quoted(file_name)))
    );
    assert_eq!(parts[1].1, file);
}

fn quoted(text: &str) -> String {
    let controls = ('\0'..=' ').take(32).chain(['\u{7f}']);
    let encoded = |text: String, c| text.replace(c, &format!("%{:02X}", u32::from(c)));
    controls
        .fold(text.to_owned(), encoded)
        .replace('"', "%22")
        .replace('\\', "%5C")
        .replace('\r', "%0D")
        .replace('\n', "%0A")
}

/// The disposition and the content of each part, by another parser.
fn parts(whole: Vec<u8>, boundary: &str) -> Vec<(Vec<u8>, Bytes)> {
    let stream = futures_util::stream::iter([Ok::<_, std::io::Error>(Bytes::from(whole))]);
    let mut multipart = multer::Multipart::new(stream, boundary);
    let read = async {
        let mut parts = Vec::new();
        while let Some(field) = multipart.next_field().await.expect("a part") {
            let disposition = field.headers().get("content-disposition").expect("a head");
            let disposition = disposition.as_bytes().to_vec();
            parts.push((disposition, field.bytes().await.expect("content")));
        }
        parts
    };
    read.now_or_never().expect("everything is there")
}
