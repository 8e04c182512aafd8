//! Text parameters out of a query, a form body or a multipart body.
use std::collections::BTreeMap;

use super::{
    charset::Charset,
    content::Content,
    multipart::{Parts, UploadedFile},
    node::Refusal,
};

/// The parameters of one request, by where they stood.
#[derive(Clone, Debug, Default)]
pub(super) struct Received {
    pub(super) query: Vec<(String, String)>,
    pub(super) body: Vec<(String, String)>,
    /// The file parts, which are never signed.
    pub(super) files: Vec<UploadedFile>,
    /// What everything was decoded from: the query's `charset`, where that is a known one.
    pub(super) charset: Charset,
}

impl Received {
    /// Reads both places; `media_type` is that of a body that came whole.
    pub(super) fn read(query: &str, media_type: &str, content: &Content) -> Result<Self, Refusal> {
        let mut received = Self::read_query(query)?;
        match content {
            Content::Malformed => return Err(malformed()),
            Content::Parts(parts) => received.take_parts(parts)?,
            Content::Whole(body) if body.is_empty() => {}
            Content::Whole(body) if media_type == "application/x-www-form-urlencoded" => {
                received.body = form(body, received.charset)?;
            }
            Content::Whole(_) => {
                let text = format!("unsupported Content-Type `{media_type}`");
                return Err(Refusal::parameter(text));
            }
        }
        Ok(received)
    }

    /// Reads a query alone.
    pub(super) fn read_query(query: &str) -> Result<Self, Refusal> {
        let charset = named_charset(query);
        Ok(Self {
            query: form(query.as_bytes(), charset)?,
            charset,
            ..Self::default()
        })
    }

    fn take_parts(&mut self, parts: &Parts) -> Result<(), Refusal> {
        for (name, text) in &parts.texts {
            let text = self.charset.decode(text).ok_or_else(malformed)?;
            self.body.push((name.clone(), text));
        }
        self.files.clone_from(&parts.files);
        Ok(())
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

    /// Gives the first parameter of a name, wherever it stands; empty when there is none.
    pub(super) fn param(&self, wanted: &str) -> &str {
        let mut all = self.query.iter().chain(&self.body);
        all.find(|(name, _)| name == wanted)
            .map_or("", |(_, value)| value.as_str())
    }

    /// Gives the names of the file parts.
    pub(super) fn file_names(&self) -> Vec<String> {
        self.files.iter().map(|file| file.name.clone()).collect()
    }

    /// Tells whether the query holds `name`.
    pub(super) fn in_query(&self, name: &str) -> bool {
        self.query.iter().any(|(other, _)| other == name)
    }
}

fn malformed() -> Refusal {
    Refusal::parameter("the multipart body is malformed")
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
