//! Text parameters out of a query, a form body or a multipart body.
use std::collections::BTreeMap;

use super::{charset::Charset, node::Refusal};

/// The parameters of one request, by where they stood.
#[derive(Clone, Debug, Default)]
pub(super) struct Received {
    pub(super) query: Vec<(String, String)>,
    pub(super) body: Vec<(String, String)>,
    /// Names of the file parts, which are never signed.
    pub(super) files: Vec<String>,
    /// What everything was decoded from: the query's `charset`, where that is a known one.
    pub(super) charset: Charset,
}

impl Received {
    /// Reads both places.
    pub(super) fn read(query: &str, content_type: &str, body: &[u8]) -> Result<Self, Refusal> {
        let charset = named_charset(query);
        let mut received = Self {
            query: form(query.as_bytes(), charset)?,
            charset,
            ..Self::default()
        };
        let mime = content_type.split(';').next().unwrap_or_default().trim();
        if mime.eq_ignore_ascii_case("multipart/form-data") {
            (received.body, received.files) = multipart((content_type, body), charset)?;
        } else if !body.is_empty() {
            if !mime.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
                return Err(Refusal::parameter(format!(
                    "unsupported Content-Type `{mime}`"
                )));
            }
            received.body = form(body, charset)?;
        }
        Ok(received)
    }

    /// Joins query and body; the same name with the same value once in each is one parameter.
    ///
    /// Protocol: official SDKs send such equal duplicates (multipart calls of the Node SDK).
    pub(super) fn union(&self) -> Result<BTreeMap<String, String>, Refusal> {
        let mut union = unique(&self.query)?;
        for (name, value) in unique(&self.body)? {
            match union.get(&name) {
                Some(other) if *other != value => return Err(twice(&name)),
                _ => union.insert(name, value),
            };
        }
        Ok(union)
    }

    /// Tells whether the query holds `name`.
    pub(super) fn in_query(&self, name: &str) -> bool {
        self.query.iter().any(|(other, _)| other == name)
    }
}

fn unique(pairs: &[(String, String)]) -> Result<BTreeMap<String, String>, Refusal> {
    let mut map = BTreeMap::new();
    for (name, value) in pairs {
        if map.insert(name.clone(), value.clone()).is_some() {
            return Err(twice(name));
        }
    }
    Ok(map)
}

fn twice(name: &str) -> Refusal {
    Refusal::parameter(format!("parameter `{name}` is given twice"))
}

/// The gateway looks for `charset` in the query before it decodes anything.
fn named_charset(query: &str) -> Charset {
    query
        .split('&')
        .find_map(|pair| pair.strip_prefix("charset="))
        .and_then(Charset::of)
        .unwrap_or_default()
}

/// Reads `application/x-www-form-urlencoded` text, decoded once.
fn form(text: &[u8], charset: Charset) -> Result<Vec<(String, String)>, Refusal> {
    text.split(|byte| *byte == b'&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let mut halves = pair.splitn(2, |byte| *byte == b'=');
            let name = decode(halves.next().unwrap_or_default(), charset)?;
            Ok((name, decode(halves.next().unwrap_or_default(), charset)?))
        })
        .collect()
}

fn decode(text: &[u8], charset: Charset) -> Result<String, Refusal> {
    let broken = || Refusal::parameter("a parameter is not percent-encoded in its charset");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let high = rest.next().and_then(hex).ok_or_else(broken)?;
                let low = rest.next().and_then(hex).ok_or_else(broken)?;
                high << 4 | low
            }
            other => *other,
        });
    }
    charset.decode(&bytes).ok_or_else(broken)
}

fn hex(digit: &u8) -> Option<u8> {
    char::from(*digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

/// Percent-encodes everything but unreserved characters, space as `+`. A text that the charset
/// lacks a character for becomes empty; whoever lets one be written refuses it before.
pub(super) fn encode(text: &str, charset: Charset) -> String {
    let bytes = charset.encode(text).unwrap_or_default();
    bytes
        .into_iter()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'*' => {
                char::from(byte).to_string()
            }
            b' ' => "+".to_owned(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

/// Writes a form body or a query.
pub(super) fn write_form(pairs: &[(String, String)], charset: Charset) -> String {
    let encoded: Vec<_> = pairs
        .iter()
        .map(|(name, value)| format!("{}={}", encode(name, charset), encode(value, charset)))
        .collect();
    encoded.join("&")
}

type TextsAndFiles = (Vec<(String, String)>, Vec<String>);

/// Reads a multipart body as Java, Python and Node write it: part headers with or without spaces,
/// a leading line break or none.
fn multipart(
    (content_type, body): (&str, &[u8]),
    charset: Charset,
) -> Result<TextsAndFiles, Refusal> {
    let broken = || Refusal::parameter("the multipart body is malformed");
    let boundary = content_type
        .split(';')
        .filter_map(|part| part.trim().strip_prefix("boundary="))
        .map(|value| value.trim_matches('"'))
        .find(|value| !value.is_empty())
        .ok_or_else(broken)?;
    let delimiter = format!("\r\n--{boundary}").into_bytes();
    let mut rest = [b"\r\n", body].concat();
    rest = rest.split_off(find(&rest, &delimiter).ok_or_else(broken)? + delimiter.len());
    let (mut texts, mut files) = (Vec::new(), Vec::new());
    while !rest.starts_with(b"--") {
        let end = find(&rest, &delimiter).ok_or_else(broken)?;
        let next = rest.split_off(end + delimiter.len());
        let part = rest.get(..end).ok_or_else(broken)?;
        let split = find(part, b"\r\n\r\n").ok_or_else(broken)?;
        let (head, content) = part.split_at(split);
        let head = String::from_utf8_lossy(head);
        let name = attribute(&head, "name").ok_or_else(broken)?;
        if attribute(&head, "filename").is_some() {
            files.push(name);
        } else {
            let content = content.get(4..).unwrap_or_default();
            texts.push((name, charset.decode(content).ok_or_else(broken)?));
        }
        rest = next;
    }
    Ok((texts, files))
}

/// Finds `;name="value"` in a part's Content-Disposition.
fn attribute(head: &str, name: &str) -> Option<String> {
    let line = head.lines().find(|line| {
        line.trim_start()
            .to_ascii_lowercase()
            .starts_with("content-disposition")
    })?;
    line.split(';')
        .filter_map(|part| part.trim().strip_prefix(name)?.strip_prefix('='))
        .map(|value| value.trim_matches('"').to_owned())
        .next()
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}
