//! A raw HTTP message as a file holds it: head, blank line, body.

/// What a file holds besides a body.
pub(crate) enum Start {
    Nothing,
    Request { method: String, target: String },
    Status(u16),
}

/// A message taken apart; without a head all of it is body.
pub(crate) struct HttpText {
    pub(crate) start: Start,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
}

impl HttpText {
    /// Reads a file. Bare line feeds are taken for line breaks, as editors leave them.
    pub(crate) fn read(bytes: &[u8]) -> Self {
        let bare = || Self {
            start: Start::Nothing,
            headers: Vec::new(),
            body: bytes.to_vec(),
        };
        let Some((head, body)) = split(bytes) else {
            return bare();
        };
        let head = String::from_utf8_lossy(head);
        let mut lines = head.lines();
        let Some(start) = lines.next().and_then(start) else {
            return bare();
        };
        let headers: Vec<_> = lines.filter_map(header).collect();
        let mut read = Self {
            start,
            headers,
            body: Vec::new(),
        };
        read.body = read.framed(body);
        read
    }

    /// Finds a header; the first of that name.
    pub(crate) fn header(&self, wanted: &str) -> Option<String> {
        let mut headers = self.headers.iter();
        let (_, value) = headers.find(|(name, _)| name.eq_ignore_ascii_case(wanted))?;
        Some(String::from_utf8_lossy(value).into_owned())
    }

    /// Takes off what the head says is the framing: chunks, and what lies behind the length (the
    /// newline that an editor adds to a file).
    fn framed(&self, body: &[u8]) -> Vec<u8> {
        let is_chunked = self
            .header("transfer-encoding")
            .is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"));
        if let Some(joined) = is_chunked.then(|| unchunked(body)).flatten() {
            return joined;
        }
        let length = self.header("content-length");
        let length = length.filter(|_| !self.is_decompressed(body));
        let length = length.and_then(|length| length.parse::<usize>().ok());
        let within = length.and_then(|length| body.get(..length));
        within.unwrap_or(body).to_vec()
    }

    /// `curl -i --compressed` writes the head as it came, and the body without its compression: the
    /// length is that of another text then.
    fn is_decompressed(&self, body: &[u8]) -> bool {
        let coding = self.header("content-encoding");
        let is_coded = coding.is_some_and(|coding| !coding.eq_ignore_ascii_case("identity"));
        is_coded && !body.starts_with(b"\x1f\x8b")
    }
}

/// Splits `NAME: VALUE`, as `--header` takes it.
pub(crate) fn header(line: &str) -> Option<(String, Vec<u8>)> {
    let (name, value) = line.split_once(':')?;
    let is_name = !name.is_empty() && !name.contains(char::is_whitespace);
    is_name.then(|| (name.to_owned(), value.trim().as_bytes().to_vec()))
}

/// Writes the text parts of a multipart body as a form: Alipay verifies over them alone.
pub(crate) fn multipart_as_form(content_type: &str, body: &[u8]) -> Option<Vec<u8>> {
    let (_, boundary) = content_type.split_once("boundary=")?;
    let boundary = boundary.split(';').next()?.trim().trim_matches('"');
    let mark = format!("--{boundary}");
    let mut form = Vec::new();
    for part in split_at(body, mark.as_bytes()) {
        let Some((head, content)) = split(part) else {
            continue;
        };
        let head = String::from_utf8_lossy(head);
        let name = head
            .split_once("name=\"")
            .and_then(|(_, rest)| rest.split('"').next());
        let Some(name) = name.filter(|_| !head.contains("filename")) else {
            continue;
        };
        let content = content.strip_suffix(b"\r\n").unwrap_or(content);
        form.extend(format!("&{name}=").bytes());
        form.extend(
            content
                .iter()
                .flat_map(|byte| format!("%{byte:02X}").into_bytes()),
        );
    }
    Some(form.strip_prefix(b"&").unwrap_or_default().to_vec())
}

fn start(line: &str) -> Option<Start> {
    let mut words = line.split_ascii_whitespace();
    let (first, second, third) = (words.next()?, words.next()?, words.next());
    if first.starts_with("HTTP/") {
        return second.parse().ok().map(Start::Status);
    }
    let is_method = first.bytes().all(|byte| byte.is_ascii_uppercase());
    let is_version = third.is_some_and(|version| version.starts_with("HTTP/"));
    (is_method && is_version).then(|| Start::Request {
        method: first.to_owned(),
        target: second.to_owned(),
    })
}

/// Splits at the blank line.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let ends = [&b"\r\n\r\n"[..], b"\n\n"];
    let found = ends.iter().filter_map(|end| {
        let at = find(bytes, end)?;
        Some((at, at + end.len()))
    });
    let (at, behind) = found.min()?;
    Some((bytes.get(..at)?, bytes.get(behind..)?))
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    let mut windows = bytes.windows(wanted.len());
    windows.position(|window| window == wanted)
}

fn split_at<'b>(bytes: &'b [u8], mark: &[u8]) -> Vec<&'b [u8]> {
    let mut found = Vec::new();
    let mut rest = bytes;
    while let Some(at) = find(rest, mark) {
        found.push(rest.get(..at).unwrap_or_default());
        rest = rest.get(at + mark.len()..).unwrap_or_default();
    }
    found.push(rest);
    found
}

/// Joins chunks; `None` if there are none (curl has joined them already).
fn unchunked(body: &[u8]) -> Option<Vec<u8>> {
    let mut joined = Vec::new();
    let mut rest = body;
    loop {
        let line = find(rest, b"\r\n")?;
        let size = String::from_utf8_lossy(rest.get(..line)?).into_owned();
        let size = size.split(';').next()?.trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        let start = line + 2;
        let end = start.checked_add(size)?;
        if size == 0 {
            return Some(joined);
        }
        joined.extend(rest.get(start..end)?);
        rest = rest.get(end..)?.strip_prefix(b"\r\n")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_told_from_bodies() {
        let read = HttpText::read(b"HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 2\r\n\r\n{}\n");
        assert!(matches!(read.start, Start::Status(200)));
        assert_eq!(read.header("a").as_deref(), Some("b"));
        assert_eq!(read.body, b"{}");
        let read = HttpText::read(b"POST /x?y=1 HTTP/1.1\nHost: z\n\na=1");
        assert!(matches!(read.start, Start::Request { target, .. } if target == "/x?y=1"));
        assert_eq!(read.body, b"a=1");
        for body in ["a=1&b=2", "{\"a\":\n\n1}", "HTTP", ""] {
            let read = HttpText::read(body.as_bytes());
            assert!(matches!(read.start, Start::Nothing), "{body}");
            assert_eq!(read.body, body.as_bytes());
        }
    }

    #[test]
    fn framing_is_taken_off() {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let read = HttpText::read(format!("{head}2\r\n{{}}\r\n0\r\n\r\n").as_bytes());
        assert_eq!(read.body, b"{}");
        assert_eq!(HttpText::read(format!("{head}{{}}").as_bytes()).body, b"{}");
    }

    #[test]
    fn a_length_of_what_was_compressed_cuts_nothing() {
        let head = "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\n";
        let read = |body: &[u8]| HttpText::read(&[head.as_bytes(), body].concat()).body;
        assert_eq!(read(b"{\"a\":1}"), b"{\"a\":1}");
        assert_eq!(read(b"\x1f\x8b\x08\n"), b"\x1f\x8b\x08");
    }

    #[test]
    fn text_parts_become_a_form() {
        let body = "--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1&\r\n--x\r\n\
                    Content-Disposition:form-data;name=\"f\";filename=\"g\"\r\n\r\nz\r\n--x--\r\n";
        let form = multipart_as_form("multipart/form-data; boundary=x", body.as_bytes());
        assert_eq!(form.unwrap(), b"a=%31%26");
    }
}
