//! What a browser makes of a form that submits itself: HTML read as the standard says (input
//! stream, attributes, character references), fields encoded in the form's charset with the Web's
//! own tables, line breaks normalised.

use std::collections::BTreeMap;

use anyhow::{Context, bail, ensure};
use encoding_rs::Encoding;

/// A form as it is posted.
pub(super) struct Submission {
    pub(super) action: String,
    pub(super) body: Vec<u8>,
}

type Attributes = BTreeMap<String, String>;

/// Submits the one form of a page.
pub(super) fn submit(page: &str) -> anyhow::Result<Submission> {
    let tags = tags(page)?;
    let form = tags
        .iter()
        .find(|(name, _)| name == "form")
        .context("no form")?;
    let attribute = |name: &str| form.1.get(name).with_context(|| format!("no {name}"));
    ensure!(
        attribute("method")?.eq_ignore_ascii_case("post"),
        "not posted"
    );
    let charset = attribute("accept-charset")?;
    let encoding = Encoding::for_label(charset.as_bytes()).context("an unknown charset")?;
    let mut fields = Vec::new();
    for (_, input) in tags.iter().filter(|(name, _)| name == "input") {
        // A button is submitted only when it has a name.
        let Some(name) = input.get("name") else {
            continue;
        };
        ensure!(
            input.get("type").is_some_and(|kind| kind == "hidden"),
            "a visible field"
        );
        let value = input.get("value").context("no value")?;
        let written = |text: &str| {
            let (bytes, _, _) = encoding.encode(text);
            form_urlencoded::byte_serialize(&bytes).collect::<String>()
        };
        fields.push(format!(
            "{}={}",
            written(&crlf(name)),
            written(&crlf(value))
        ));
    }
    Ok(Submission {
        action: attribute("action")?.clone(),
        body: fields.join("&").into_bytes(),
    })
}

/// Every line break of a field becomes CRLF.
fn crlf(text: &str) -> String {
    text.replace("\r\n", "\n")
        .replace('\r', "\n")
        .replace('\n', "\r\n")
}

/// The start tags of a page, in their order.
fn tags(page: &str) -> anyhow::Result<Vec<(String, Attributes)>> {
    let page = page.replace("\r\n", "\n").replace('\r', "\n");
    let mut found = Vec::new();
    let mut rest = page.as_str();
    while let Some((_, behind)) = rest.split_once('<') {
        rest = behind;
        if behind.starts_with('/') {
            continue;
        }
        let end = behind
            .find([' ', '\n', '>'])
            .context("a tag without an end")?;
        let (name, behind) = behind.split_at(end);
        let (attributes, behind) = attributes(behind)?;
        found.push((name.to_ascii_lowercase(), attributes));
        rest = behind;
    }
    Ok(found)
}

/// Attributes up to the `>`, and what stands behind it.
fn attributes(mut rest: &str) -> anyhow::Result<(Attributes, &str)> {
    let mut found = Attributes::new();
    loop {
        rest = rest.trim_start_matches([' ', '\n', '\t', '\u{c}']);
        if let Some(behind) = rest.strip_prefix('>') {
            return Ok((found, behind));
        }
        let (name, behind) = rest
            .split_once("=\"")
            .context("an attribute without quotes")?;
        let (value, behind) = behind
            .split_once('"')
            .context("an attribute without an end")?;
        // Of an attribute given twice the first counts.
        found
            .entry(name.to_ascii_lowercase())
            .or_insert(unescape(value)?);
        rest = behind;
    }
}

/// Character references; one that isn't closed or known would be read as the text it is by some.
fn unescape(text: &str) -> anyhow::Result<String> {
    let mut out = String::new();
    let mut pieces = text.split('&');
    out.push_str(pieces.next().unwrap_or_default());
    for piece in pieces {
        let (name, behind) = piece
            .split_once(';')
            .context("a bare `&` in an attribute")?;
        out.push(match name {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "#39" => '\'',
            other => bail!("an unknown reference `&{other};`"),
        });
        out.push_str(behind);
    }
    Ok(out.replace('\0', "\u{fffd}"))
}
