//! Takes multipart bodies apart while they come, and keeps nothing of their files.
use std::io::BufRead as _;

use serde::Serialize;
use sha2::{Digest as _, Sha256};

/// The largest part head.
const MOST_HEAD: usize = 16 * 1024;
/// The largest text part.
const MOST_TEXT: usize = 8 * 1024 * 1024;

/// A file part that has come by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UploadedFile {
    /// The part's name.
    pub name: String,
    /// Its `filename`.
    pub filename: String,
    /// How many bytes it had.
    pub bytes: u64,
    /// The SHA-256 of its content, in lower-case hexadecimal.
    pub sha256: String,
}

/// The parts of a body.
#[derive(Clone, Debug, Default)]
pub(super) struct Parts {
    /// Text parts, not decoded yet.
    pub(super) texts: Vec<(String, Vec<u8>)>,
    pub(super) files: Vec<UploadedFile>,
}

/// Reads a body as Java, Python and Node write it: part headers with or without spaces, a leading
/// line break or none.
pub(super) struct Multipart {
    /// The line break, two hyphens and the boundary.
    delimiter: Vec<u8>,
    buffer: Vec<u8>,
    state: State,
    parts: Parts,
}

enum State {
    /// Before the first delimiter.
    Preamble,
    /// Behind a delimiter.
    Head,
    Text(String, Vec<u8>),
    File(UploadedFile, Sha256),
    /// Behind the last delimiter; an epilogue means nothing.
    Epilogue,
    Malformed,
}

impl Multipart {
    /// Begins to read; none without a boundary.
    pub(super) fn new(content_type: &str) -> Option<Self> {
        let boundary = content_type
            .split(';')
            .filter_map(|part| part.trim().strip_prefix("boundary="))
            .map(|value| value.trim_matches('"'))
            .find(|value| !value.is_empty())?;
        Some(Self {
            delimiter: format!("\r\n--{boundary}").into_bytes(),
            // The first delimiter may lack the line break.
            buffer: b"\r\n".to_vec(),
            state: State::Preamble,
            parts: Parts::default(),
        })
    }

    /// Reads on.
    pub(super) fn push(&mut self, data: &[u8]) {
        self.buffer.extend_from_slice(data);
        while self.step() {}
    }

    /// Gives the parts; none when the body is malformed or ends too soon.
    pub(super) fn finish(self) -> Option<Parts> {
        matches!(self.state, State::Epilogue).then_some(self.parts)
    }

    /// Reads one head or one piece of a content; tells whether there may be more in the buffer.
    fn step(&mut self) -> bool {
        match &mut self.state {
            State::Epilogue | State::Malformed => {
                self.buffer.clear();
                false
            }
            State::Head => self.head(),
            State::Preamble | State::Text(..) | State::File(..) => self.content(),
        }
    }

    fn head(&mut self) -> bool {
        if self.buffer.starts_with(b"--") {
            self.state = State::Epilogue;
            return true;
        }
        match find(&self.buffer, b"\r\n\r\n") {
            Some(end) => {
                let head: Vec<_> = self.buffer.drain(..end + 4).collect();
                self.state = begin(&String::from_utf8_lossy(&head)).unwrap_or(State::Malformed);
                true
            }
            None if self.buffer.len() > MOST_HEAD => {
                self.state = State::Malformed;
                true
            }
            None => false,
        }
    }

    fn content(&mut self) -> bool {
        let found = find(&self.buffer, &self.delimiter);
        // A delimiter may stand half in the buffer.
        let kept = self.delimiter.len() - 1;
        let end = found.unwrap_or_else(|| self.buffer.len().saturating_sub(kept));
        let Some(piece) = self.buffer.get(..end) else {
            return false;
        };
        match &mut self.state {
            State::Text(_, text) => text.extend_from_slice(piece),
            State::File(file, hash) => {
                hash.update(piece);
                file.bytes += piece.len() as u64;
            }
            _ => {}
        }
        if matches!(&self.state, State::Text(_, text) if text.len() > MOST_TEXT) {
            self.state = State::Malformed;
            return true;
        }
        self.buffer.drain(..end);
        if found.is_some() {
            self.buffer.drain(..self.delimiter.len());
            self.end_part();
        }
        found.is_some()
    }

    fn end_part(&mut self) {
        match std::mem::replace(&mut self.state, State::Head) {
            State::Text(name, text) => self.parts.texts.push((name, text)),
            State::File(mut file, hash) => {
                file.sha256 = hash.finalize().iter().map(hexadecimal).collect();
                self.parts.files.push(file);
            }
            _ => {}
        }
    }
}

fn hexadecimal(byte: &u8) -> String {
    format!("{byte:02x}")
}

/// Begins the part that a head describes: with a `filename` a file, else a text.
fn begin(head: &str) -> Option<State> {
    let name = attribute(head, "name")?;
    Some(match attribute(head, "filename") {
        Some(filename) => {
            let file = UploadedFile {
                name,
                filename,
                bytes: 0,
                sha256: String::new(),
            };
            State::File(file, Sha256::new())
        }
        None => State::Text(name, Vec::new()),
    })
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

/// Finds a needle that begins with a carriage return; those are found by the standard library's
/// quick search, which matters for hundreds of megabytes.
fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    let mut rest = haystack;
    loop {
        // Reading from a slice cannot fail.
        let skipped = rest.skip_until(b'\r').ok()?;
        let at = haystack.len() - rest.len();
        if skipped == 0 {
            return None;
        }
        let at = at.checked_sub(1)?;
        if haystack.get(at..)?.starts_with(needle) {
            return Some(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = b"--b\r\nContent-Disposition: form-data; name=\"t\"\r\n\r\nv\r\n-\r\n--b\r\n\
        Content-Disposition:form-data;name=\"f\";filename=\"a.png\"\r\nContent-Type:image/png\r\n\r\n\
        \r\n--\r\r\n--a\r\n--b--\r\n";

    #[test]
    fn parts_are_the_same_however_the_body_is_cut() {
        for size in 1..BODY.len() {
            let mut multipart = Multipart::new("multipart/form-data; boundary=b").unwrap();
            for piece in BODY.chunks(size) {
                multipart.push(piece);
            }
            let parts = multipart.finish().unwrap();
            assert_eq!(parts.texts, [("t".to_owned(), b"v\r\n-".to_vec())]);
            let [file] = parts.files.as_slice() else {
                panic!("{parts:?}")
            };
            assert_eq!((file.name.as_str(), file.filename.as_str()), ("f", "a.png"));
            let content = b"\r\n--\r\r\n--a";
            assert_eq!(file.bytes, content.len() as u64);
            let hash: String = Sha256::digest(content).iter().map(hexadecimal).collect();
            assert_eq!(file.sha256, hash);
        }
    }

    #[test]
    fn what_breaks_off_or_names_nothing_is_malformed() {
        assert!(Multipart::new("multipart/form-data").is_none());
        let nameless = b"--b\r\nContent-Type: text/plain\r\n\r\nv\r\n--b--\r\n";
        for body in [&b""[..], b"--b", b"no delimiter", nameless, &BODY[..60]] {
            let mut multipart = Multipart::new("multipart/form-data; boundary=\"b\"").unwrap();
            multipart.push(body);
            assert!(
                multipart.finish().is_none(),
                "{}",
                String::from_utf8_lossy(body)
            );
        }
    }
}
