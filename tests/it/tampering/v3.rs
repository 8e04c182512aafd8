//! What may be done to a v3 response: its headers, its body, and what lies between.

use super::bodies::around;
use super::golden::{Golden, Kind, v3_parts};

type Change = (&'static str, Vec<u8>);
type Headers = Vec<(String, Vec<u8>)>;

struct Response {
    headers: Headers,
    body: Vec<u8>,
}

impl Response {
    fn read(wire: &[u8]) -> Self {
        let (headers, body) = v3_parts(wire);
        let headers = headers
            .into_iter()
            .map(|(name, value)| (name, value.to_vec()));
        Self {
            headers: headers.collect(),
            body: body.to_vec(),
        }
    }

    fn with(&self, change: impl FnOnce(&mut Headers, &mut Vec<u8>)) -> Vec<u8> {
        let (mut headers, mut body) = (self.headers.clone(), self.body.clone());
        change(&mut headers, &mut body);
        let mut wire = Vec::new();
        for (name, value) in headers {
            wire.extend([name.as_bytes(), b": ", &value, b"\n"].concat());
        }
        [wire, b"\n".to_vec(), body].concat()
    }

    fn of_body(&self, body: &[u8]) -> Vec<u8> {
        self.with(|_, old| *old = body.to_vec())
    }
}

pub(super) fn all(golden: &Golden, others: &[Golden]) -> Vec<Change> {
    let response = Response::read(&golden.wire);
    let mut changes = Vec::new();
    for at in 0..response.headers.len() {
        changes.extend(header(&response, at));
    }
    changes.extend(headers(&response));
    changes.extend(body(&response));
    for other in others
        .iter()
        .filter(|other| matches!(other.kind, Kind::V3 { .. }))
    {
        let other = Response::read(&other.wire);
        changes.push(("another message's body", response.of_body(&other.body)));
        changes.push(("another message's headers", other.of_body(&response.body)));
        for header in other.headers {
            changes.push((
                "another message's header",
                response.with(|headers, _| {
                    let same = headers.iter_mut().find(|(name, _)| *name == header.0);
                    if let Some(same) = same {
                        *same = header;
                    }
                }),
            ));
        }
    }
    changes
}

fn header(response: &Response, at: usize) -> Vec<Change> {
    let (name, value) = response.headers[at].clone();
    let valued = |what: &'static str, new: &[u8]| {
        (
            what,
            response.with(|headers, _| headers[at].1 = new.to_vec()),
        )
    };
    let named =
        |what: &'static str, new: String| (what, response.with(|headers, _| headers[at].0 = new));
    let twice = |what: &'static str, place: usize, name: &str, value: &[u8]| {
        (
            what,
            response.with(|headers, _| headers.insert(place, (name.to_owned(), value.to_vec()))),
        )
    };
    let end = response.headers.len();
    vec![
        (
            "a header gone",
            response.with(|headers, _| drop(headers.remove(at))),
        ),
        named("a header's name in capitals", name.to_uppercase()),
        named("a header's name with underscores", name.replace('-', "_")),
        named("a header's name with a space", format!("{name} ")),
        twice("a header twice, equal", end, &name, &value),
        twice("a header twice, other first", 0, &name, b"x"),
        twice("a header twice, other last", end, &name, b"x"),
        twice("a header twice, empty", end, &name, b""),
        twice(
            "a header twice, in capitals",
            end,
            &name.to_uppercase(),
            b"x",
        ),
        valued("a header empty", b""),
        valued("a header null", b"null"),
        valued(
            "a header with a space behind",
            &[&value, &b" "[..]].concat(),
        ),
        valued(
            "a header behind a space",
            &[b" ", value.as_slice()].concat(),
        ),
        valued(
            "a header with a carriage return",
            &[&value, &b"\r"[..]].concat(),
        ),
        valued("a header with a NUL", &[&value, &b"\0"[..]].concat()),
        valued("a header with a comma", &[&value, &b", x"[..]].concat()),
        valued(
            "a header with another charset's byte",
            &[&value, &b"\xe9"[..]].concat(),
        ),
        valued("a header longer by a digit", &[&value, &b"0"[..]].concat()),
        valued(
            "a header in quotes",
            &[b"\"", value.as_slice(), b"\""].concat(),
        ),
        valued("a header of zeros", &b"0".repeat(value.len())),
        valued(
            "a header unpadded",
            value.strip_suffix(b"==").unwrap_or(b"x"),
        ),
        valued(
            "a header of the web's alphabet",
            String::from_utf8_lossy(&value)
                .replace('+', "-")
                .replace('/', "_")
                .as_bytes(),
        ),
    ]
}

fn headers(response: &Response) -> Vec<Change> {
    let place = |wanted: &str| {
        response
            .headers
            .iter()
            .position(|(name, _)| name == wanted)
            .unwrap()
    };
    let (timestamp, nonce) = (place("alipay-timestamp"), place("alipay-nonce"));
    let sign = place("alipay-signature");
    let swapped = |one: usize, other: usize| {
        response.with(|headers, _| {
            let kept = headers[one].1.clone();
            headers[one].1 = std::mem::replace(&mut headers[other].1, kept);
        })
    };
    vec![
        (
            "headers reversed",
            response.with(|headers, _| headers.reverse()),
        ),
        (
            "another header",
            response.with(|headers, _| headers.push(("x".into(), b"1".to_vec()))),
        ),
        (
            "another certificate",
            response.with(|headers, _| headers.push(("alipay-sn".into(), b"0".to_vec()))),
        ),
        ("timestamp and nonce swapped", swapped(timestamp, nonce)),
        ("nonce and signature swapped", swapped(nonce, sign)),
        ("no headers", response.with(|headers, _| headers.clear())),
        (
            "a digit moved from nonce to timestamp",
            response.with(|headers, _| {
                let moved = headers[nonce].1.remove(0);
                headers[timestamp].1.push(moved);
            }),
        ),
        (
            "a later time",
            response.with(|headers, _| *headers[timestamp].1.last_mut().unwrap() ^= 1),
        ),
    ]
}

fn body(response: &Response) -> Vec<Change> {
    let body = &response.body;
    let nonce = response
        .headers
        .iter()
        .position(|(name, _)| name == "alipay-nonce")
        .unwrap();
    let first = |bytes: &[u8]| [bytes, body].concat();
    let last = |bytes: &[u8]| [body, bytes].concat();
    let mut changes = vec![
        ("body behind a line break", response.of_body(&first(b"\n"))),
        ("a line break behind", response.of_body(&last(b"\n"))),
        ("CRLF behind", response.of_body(&last(b"\r\n"))),
        ("body gone", response.of_body(b"")),
        (
            "body forged",
            response.of_body(br#"{"trade_status":"TRADE_SUCCESS"}"#),
        ),
        (
            "body and nonce swapped",
            response.with(|headers, body| {
                std::mem::swap(&mut headers[nonce].1, body);
            }),
        ),
        (
            "the nonce's end in the body",
            response.with(|headers, body| {
                let end = headers[nonce].1.split_off(3);
                *body = [&end, &b"\n"[..], body].concat();
            }),
        ),
        (
            "upper bits gone",
            response.of_body(&body.iter().map(|byte| byte & 0x7f).collect::<Vec<_>>()),
        ),
    ];
    if let Ok(text) = std::str::from_utf8(body) {
        let made = around(text).into_iter();
        changes.extend(made.map(|(name, text)| (name, response.of_body(text.as_bytes()))));
        changes.push((
            "slashes escaped",
            response.of_body(text.replace('/', "\\/").as_bytes()),
        ));
        changes.push((
            "a character escaped",
            response.of_body(text.replacen("msg", "ms\\u0067", 1).as_bytes()),
        ));
    }
    changes
}
